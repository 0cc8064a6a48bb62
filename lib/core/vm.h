/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual machine: memory slots, vCPUs, interrupt chips, clock, timers. Errors are negative errno values,
 * the kernel's. Lives while somebody holds a reference (handles and requests under way); its vCPUs live as long.
 *
 * Locks, outermost first: vcpu->lock, vm->lock, mem.lock, irqfds.lock, the chips' own, sync.lock / timers.lock /
 * clock.lock.
 */
#ifndef TZ_CORE_VM_H
#define TZ_CORE_VM_H

#include "core/clock.h"
#include "core/engine.h"
#include "core/ioeventfd.h"
#include "core/irqfd.h"
#include "core/pv_clock.h"
#include "core/sync.h"
#include "core/timer.h"
#include "core/vcpu.h"
#include "mem/memslot.h"
#include "x86/apic/irqchip.h"

#define VM_MAX_VCPUS IRQCHIP_MAX_VCPUS

struct vm {
	const struct tz_engine_ops *engine; /* constant */
	bool count_insns;                   /* of vCPUs, constant after creation: for STAT_INSNS */
	uint64_t code_cache_size;           /* of vCPUs, constant after creation; 0: as the engine likes */
	_Atomic unsigned refs;
	struct mem mem;
	struct vm_sync sync;
	struct vm_clock clock;
	struct pv_clock pv_clock;
	struct vm_timers timers; /* with the irqchip */
	struct vm_ioeventfds ioeventfds;
	struct vm_irqfds irqfds;
	struct irqchip *_Atomic irqchip;         /* made before the first vCPU, or never */
	struct vcpu *_Atomic vcpu[VM_MAX_VCPUS]; /* by id; only ever filled */
	_Atomic unsigned vcpu_limit;             /* 1 + highest id */

	pthread_mutex_t lock; /* the rest, and creation of vCPUs and chips */
	unsigned vcpu_count;
	unsigned boot_id;
	bool pit;
	uint32_t tsc_khz; /* of vCPUs to come */
	uint64_t tss_addr, identity_map_addr;
};

/* One reference is the caller's. -ENOMEM. */
int vm_create(const struct tz_engine_ops *engine, struct vm **vm);
void vm_get(struct vm *vm);
void vm_put(struct vm *vm);

/* KVM_SET_USER_MEMORY_REGION: see mem_set_slot() for errors. Waits until no vCPU uses the old map. */
int vm_set_memory_slot(struct vm *vm, uint32_t id, uint32_t flags, gpa_t base, uint64_t size, uint8_t *hva);
/* Fetch and clear a slot's dirty bits, one a page, into `bitmap` (64-bit words). -ENOENT: does not log. */
int vm_get_dirty_log(struct vm *vm, uint32_t id, uint64_t *bitmap);

int vm_create_irqchip(struct vm *vm);                /* -EEXIST, -EINVAL after a vCPU, -ENOMEM */
int vm_create_pit(struct vm *vm, bool speaker_port); /* -EEXIST, -ENOENT without irqchip */
struct irqchip *vm_irqchip(struct vm *vm);           /* NULL: none */

/* A vCPU with its run area (memfd: *fd is the caller's). -EINVAL (id), -EEXIST, -ENOMEM, -EMFILE. */
int vm_create_vcpu(struct vm *vm, unsigned id, struct vcpu **vcpu, int *fd);

#endif
