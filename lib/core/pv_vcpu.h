/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What core does for the paravirtual interface (x86/pv): the clock in terms of a vCPU's TSC, stolen time from the
 * host's scheduler, and when to look after both. Thread: the vCPU's own, unless said otherwise.
 */
#ifndef TZ_CORE_PV_VCPU_H
#define TZ_CORE_PV_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vcpu;
struct x86_cpu;
struct x86_pv_time;
struct x86_pv_pair;

struct vcpu_pv {
	uint64_t due;           /* host's counter: next look at stolen time and the clock */
	_Atomic bool clock_due; /* (a) the clock is to be published again */
	int schedstat_fd;       /* of `thread`; -1: not open */
	const void *thread;     /* the one it was opened for, by the address of a variable of its own */
	bool waited_valid;
	uint64_t waited; /* what it said last, ns */
};

void vcpu_pv_init(struct vcpu_pv *pv);
void vcpu_pv_fini(struct vcpu_pv *pv);

/* After vcpu_enter(), before guest code; `now`: the host's counter. */
void vcpu_pv_enter(struct vcpu *vcpu, uint64_t now);
/* Before vcpu_leave(). halted: at HLT, and the library waits for its end. */
void vcpu_pv_leave(struct vcpu *vcpu, bool halted);
/* Kicked out of HLT by another vCPU (PV unhalt)? Then it is runnable. */
void vcpu_pv_unhalt(struct vcpu *vcpu);
/* Its TSC was moved or got another speed. Inside its engine, or between vcpu_enter() and vcpu_leave(). */
void vcpu_pv_tsc_changed(struct vcpu *vcpu);

/* Do equal TSC values mean the same moment on each vCPU? Only then one line of the clock does for all. Thread: any. */
bool vm_tscs_equal(struct vm *vm);
/* KVM_SET_CLOCK. Thread: any. */
void vm_pv_clock_set(struct vm *vm, uint64_t ns);

/* Callbacks of the CPU model: see struct x86_platform_ops. */
void platform_tsc_changed(struct x86_cpu *cpu);
void platform_pv_time(struct x86_cpu *cpu, struct x86_pv_time *time);
uint64_t platform_pv_wall(struct x86_cpu *cpu);
void platform_pv_pair(struct x86_cpu *cpu, struct x86_pv_pair *pair);

#endif
