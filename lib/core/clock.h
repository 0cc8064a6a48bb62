/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time. One source for everything a guest can see:
 *
 *  - the VM clock: nanoseconds since the VM was made, on CLOCK_MONOTONIC; timers (LAPIC, PIT) run on it;
 *  - the paravirtual clock of KVM_GET/SET_CLOCK and kvmclock: pv_clock.h;
 *  - the guest TSC: the host's counter, scaled to the vCPU's frequency, plus an offset, plus IA32_TSC_ADJUST
 *    (SDM 3B 17.17). vCPUs share one offset unless the client writes TSCs apart.
 *
 * The host's counter is RDTSC where the kernel itself trusts it, else CLOCK_MONOTONIC counted at 1 GHz.
 * All functions: any thread, unless said otherwise.
 */
#ifndef TZ_CORE_CLOCK_H
#define TZ_CORE_CLOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/compiler.h"
#include "x86/cpu.h"

/* Ratios are fixed point with 48 fraction bits, as AMD's TSC_RATIO MSR does it in 32: exact for equal frequencies. */
#define CLOCK_RATIO_BITS X86_HOST_TSC_BITS

uint64_t clock_monotonic_ns(void);
uint64_t clock_host_cycles(void);
uint32_t clock_host_khz(void); /* measured once per process */
bool clock_host_is_tsc(void);  /* the counter is RDTSC */
uint64_t clock_cycles_to_ns(uint64_t cycles);

/* frequency ratio guest/host, and value * ratio without overflow. */
uint64_t clock_ratio(uint32_t guest_khz, uint32_t host_khz);
static inline uint64_t clock_scale(uint64_t value, uint64_t ratio)
{
	return (uint64_t)(((unsigned __int128)value * ratio) >> CLOCK_RATIO_BITS);
}

/* A host clock and the counter at the same moment, give or take `width` cycles. */
struct clock_sample {
	uint64_t cycles, ns, width;
};
struct clock_sample clock_sample(clockid_t id);

struct vm_clock {
	uint64_t base_ns;     /* CLOCK_MONOTONIC at VM clock 0; constant */
	pthread_mutex_t lock; /* the rest: the last TSC write by the client, for synchronisation */
	bool tsc_written;
	uint64_t tsc_write_value; /* what was written */
	uint64_t tsc_write_host;  /* host cycles then */
	uint64_t tsc_write_offset;
	uint32_t tsc_write_khz;
};

/* One vCPU's TSC. Changed only by its own thread or while it is stopped; read by any. */
struct vcpu_tsc {
	_Atomic uint32_t khz;
	struct x86_host_tsc host; /* but for IA32_TSC_ADJUST */
};

void vm_clock_init(struct vm_clock *clock);
void vm_clock_fini(struct vm_clock *clock);
uint64_t vm_clock_ns(const struct vm_clock *clock);

/* Start counting with `khz` (not 0), in step with the VM's other vCPUs. */
void vcpu_tsc_init(struct vcpu_tsc *tsc, struct vm_clock *clock, uint32_t khz);
/* Without IA32_TSC_ADJUST. */
uint64_t vcpu_tsc_at(const struct vcpu_tsc *tsc, uint64_t host_cycles);
/*
 * The client sets the TSC (KVM_SET_MSRS) so that it reads `value` before TSC_ADJUST is added. Two writes
 * that agree within a second of guest time mean "the same TSC on each vCPU", as in the kernel's KVM: the
 * second gets the offset of the first.
 */
void vcpu_tsc_write(struct vcpu_tsc *tsc, struct vm_clock *clock, uint64_t value);
/* Change the frequency; the count goes on from where it is. */
void vcpu_tsc_set_khz(struct vcpu_tsc *tsc, uint32_t khz);

#endif
