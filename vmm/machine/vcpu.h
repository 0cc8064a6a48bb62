/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU of the monitor: a thread in a KVM_RUN loop, and what it does with each exit.
 */
#ifndef VMM_MACHINE_VCPU_H
#define VMM_MACHINE_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "boot/boot.h"
#include "machine/accel.h"
#include "machine/bus.h"
#include "machine/cpu_model.h"

/* What a vCPU needs of its machine. */
struct vcpu_host {
	const struct accel *accel;
	struct bus *bus;
	int vm_fd;
	/* The guest cannot go on (triple fault, internal error): the vCPU has reported why. Thread: the vCPU's. */
	void (*failed)(void *ctx);
	void *ctx;
	_Atomic bool stop; /* vCPU threads leave as soon as they see it */
	/* vCPU threads wait, as soon as they see it, until it is false or `stop` is set. */
	_Atomic bool hold;
	pthread_mutex_t park_lock; /* guards their sleep */
	pthread_cond_t park_wake;
};

#define VCPU_EXIT_REASONS 64

struct vcpu {
	struct vcpu_host *host;
	unsigned id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	pthread_t thread;
	bool started;
	_Atomic bool
		parked; /* host->hold has been seen: it is outside of KVM_RUN, and stays there until that is false */
	uint64_t exits[VCPU_EXIT_REASONS]; /* by KVM_EXIT_*; the vCPU thread's until it ended */
};

/* Create the vCPU with its CPUID. 0, or -errno with a message. Thread: main. */
int vmm_vcpu_create(struct vcpu_host *host, struct vcpu *vcpu, unsigned id, unsigned cpus,
		    const struct cpu_model *model);
void vmm_vcpu_destroy(struct vcpu *vcpu); /* its thread has ended */

/* Put the BSP where the boot image starts. 0, or -errno with a message. */
int vmm_vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry);

int vmm_vcpu_start(struct vcpu *vcpu); /* 0, or -errno with a message */
/* Make all vCPUs wait, or go on. Thread: main, as the next. */
void vmm_vcpus_hold(struct vcpu_host *host, bool on);
/* Do all of them that run wait? Kicks those that do not yet. */
bool vmm_vcpus_parked(struct vcpu *vcpu, unsigned count);
/* host->stop must be set. Makes the thread leave KVM_RUN and waits for it. */
void vmm_vcpu_join(struct vcpu *vcpu);

/* Registers in text on stderr. Thread: the vCPU's, or any once it ended. */
void vmm_vcpu_dump(struct vcpu *vcpu);
/* Exits by reason and, from libtrapeze, its counters, on stderr. Thread: main, vCPU ended. */
void vmm_vcpu_print_stats(const struct vcpu *vcpu);

/* Once a process, before the first vCPU: the signal that makes a vCPU leave KVM_RUN. */
void vmm_vcpu_setup_signals(void);

#endif
