/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU: the architectural state (struct x86_cpu), the run area shared with the client (struct kvm_run) and
 * what core needs to run, stop, wake and block it.
 *
 * Field legend: (c) constant after creation; (l) under vcpu->lock, which each request of the client holds;
 * (a) any thread, atomically; (t) ticker.lock.
 */
#ifndef TZ_CORE_VCPU_H
#define TZ_CORE_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/stats.h"
#include "core/clock.h"
#include "core/engine.h"
#include "core/pv_vcpu.h"
#include "core/signal.h"
#include "x86/cpu.h"

struct vm;

/* The run area: struct kvm_run, the page of port data, the (unused) coalesced MMIO ring, as in the kernel. */
#define VCPU_RUN_PAGES 3
#define VCPU_RUN_SIZE (VCPU_RUN_PAGES * 4096)
#define VCPU_PIO_OFFSET (KVM_PIO_PAGE_OFFSET * 4096)

enum vcpu_where {
	VCPU_OUTSIDE,   /* not running guest code, touches no guest memory */
	VCPU_IN_ENGINE, /* between vcpu_enter() and vcpu_leave() */
	VCPU_WAITING,   /* inside, but standing still until it gets exclusivity */
};

/* Bits of vcpu->requests: what an IPI asked for. Served by the vCPU's own thread. */
#define VCPU_REQ_INIT BIT32(0)
#define VCPU_REQ_SIPI BIT32(1)

struct vcpu {
	struct x86_cpu cpu; /* first: 64-byte aligned */
	struct vm *vm;      /* (c) */
	pthread_mutex_t lock;
	struct kvm_run *run;         /* (c) VCPU_RUN_SIZE bytes, the client writes it too */
	struct vcpu_signals signals; /* (l) */
	struct vcpu_tsc tsc;         /* (l) to write, (a) to read */
	struct vcpu_pv pv;           /* (l) but for what it says */
	uint32_t mp_state;           /* (l) KVM_MP_STATE_* */
	bool cpuid_set;              /* (l) KVM_SET_CPUID2 was made */
	bool has_run;                /* (l) */
	bool engine_ready;           /* (c) engine->vcpu_create() was made */
	bool tpr_lowered;            /* (l) CR8 went down: KVM_EXIT_SET_TPR is due */
	uint64_t cr8_seen;           /* (l) what it was before */
	uint64_t rested;             /* (l) when it last lay down for longer, in cycles of the host's counter */
	bool in_error;               /* (l) the last KVM_RUN ended with KVM_EXIT_INTERNAL_ERROR */
	char error[sizeof(((struct x86_cpu *)0)->error_text)];
	uint64_t stat[STAT_COUNT];

	_Atomic uint32_t where;    /* (a) enum vcpu_where, written by the own thread */
	_Atomic uint64_t epoch;    /* (a) counts vcpu_enter() */
	_Atomic int host_cpu;      /* (a) where its thread was when it last looked (each tick at least) */
	_Atomic bool invalidate;   /* (a) tell the engine before it runs again */
	_Atomic uint32_t requests; /* (a) VCPU_REQ_* */
	_Atomic uint8_t sipi_vector;
	_Atomic bool blocked; /* (a) sleeps, or is about to: wake_fd must be written */
	int wake_fd;          /* (c) eventfd */

	struct vcpu *ticker_next; /* (t) */
};

static inline struct vcpu *vcpu_of(struct x86_cpu *cpu)
{
	return cpu->owner;
}

/* Called by vm_create_vcpu() alone. */
int vcpu_create(struct vm *vm, unsigned id, struct vcpu **vcpu, int *fd);
void vcpu_destroy(struct vcpu *vcpu);

/* Set attention bits and wake the vCPU if it sleeps. Thread: any. */
void vcpu_kick(struct vcpu *vcpu, uint32_t attention);
void vcpu_wake(struct vcpu *vcpu);
void vcpu_queue_nmi(struct vcpu *vcpu);
void vcpu_queue_init(struct vcpu *vcpu);
void vcpu_queue_sipi(struct vcpu *vcpu, uint8_t vector);

/* ---- the vCPU's own thread, vcpu->lock held ---- */

/* Serve INIT and SIPI (SDM 3A 8.4.2); KVM_GET_MP_STATE shows their effect too. */
void vcpu_accept_events(struct vcpu *vcpu);
/* The client replaced registers: a half-done I/O instruction elsewhere is forgotten, derived state is renewed. */
void vcpu_registers_changed(struct vcpu *vcpu);

/*
 * KVM_RUN. 0: vcpu->run says why; -EINTR: signal or immediate_exit; -EINVAL: bad cr8 in the run area.
 */
int vcpu_run(struct vcpu *vcpu);

/* Guest TSC with IA32_TSC_ADJUST, now and for a value of the host's counter; what is added there. Thread: any. */
uint64_t vcpu_tsc_now(struct vcpu *vcpu);
uint64_t vcpu_tsc_at_cycles(const struct vcpu *vcpu, uint64_t host_cycles);
uint64_t vcpu_tsc_offset(const struct vcpu *vcpu);
/* KVM_SET_MSRS: unlike WRMSR these two move one value and leave the other as it reads. */
void vcpu_tsc_restore(struct vcpu *vcpu, uint64_t value);
void vcpu_tsc_adjust_restore(struct vcpu *vcpu, uint64_t value);
void vcpu_tsc_khz_set(struct vcpu *vcpu, uint32_t khz);

/* The callbacks of the CPU model and of the chips (platform.c). */
extern const struct x86_platform_ops vcpu_platform_ops;
struct irqchip_ops;
extern const struct irqchip_ops vm_irqchip_ops;

#endif
