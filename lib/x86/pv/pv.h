/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The paravirtual interface of KVM as a guest sees it (Documentation/virt/kvm/x86/msr.rst, cpuid.rst, hypercalls.rst):
 * kvmclock, steal time, PV EOI. The guest names places in its memory by MSR; they are written here. What
 * goes into them (the VM's clock, the host scheduler's figures) comes from the layer above, through x86_platform_ops.
 *
 * Thread of all functions: the vCPU's own, where guest memory may be touched (inside its engine or between
 * vcpu_enter() and vcpu_leave()); unless they say otherwise.
 */
#ifndef TZ_X86_PV_PV_H
#define TZ_X86_PV_PV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;

#define X86_PV_ENABLED UINT64_C(1) /* bit 0 of the MSRs that switch something on */

/* The VM's clock in terms of one vCPU's TSC: ns = system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32). */
struct x86_pv_time {
	uint64_t tsc_timestamp; /* TSC_ADJUST and offset included */
	uint64_t system_time;   /* ns */
	uint32_t mul;
	int8_t shift; /* negative: to the right */
	bool stable;  /* the same line for each vCPU of the VM, on TSCs that are equal */
};

/* CLOCK_REALTIME and the guest's TSC at the same moment (KVM_HC_CLOCK_PAIRING). */
struct x86_pv_pair {
	int64_t sec, nsec;
	uint64_t tsc;
};

/* Per vCPU. (o) as in x86/cpu.h; an exclusive section of another vCPU may publish the clock. */
struct x86_pv {
	uint64_t wall_clock, system_time, steal_time, eoi, poll_control; /* the MSRs */
	bool guest_stopped;    /* KVM_KVMCLOCK_CTRL: to be told with the next update of the clock */
	bool preempted;        /* the guest's steal time area says that the vCPU does not run */
	_Atomic bool unhalted; /* (a) KVM_HC_KICK_CPU: HLT ends, or the next one does at once */
};

void x86_pv_reset(struct x86_cpu *cpu, bool init); /* touches no guest memory */

/* The MSRs, by index. False: #GP(0). host: KVM_SET_MSRS. */
bool x86_pv_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
bool x86_pv_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool host);

/* ---- kvmclock ---- */

/* Write the vCPU's clock to where the guest wants it, if it does. Also: another vCPU's thread in an exclusive section.
 */
void x86_pv_clock_publish(struct x86_cpu *cpu);
/* KVM_KVMCLOCK_CTRL: the VM was paused; a soft lockup that the guest sees is none. False: the guest has no clock. */
bool x86_pv_clock_stopped(struct x86_cpu *cpu);
/* KVM_HC_CLOCK_PAIRING into guest memory: false when there is none at `gpa`. */
bool x86_pv_write_pair(struct x86_cpu *cpu, uint64_t gpa, const struct x86_pv_pair *pair);

/* ---- steal time ---- */

static inline bool x86_pv_steal_enabled(const struct x86_pv *pv)
{
	return pv->steal_time & X86_PV_ENABLED;
}

/* The vCPU waited for a host CPU for that much longer. */
void x86_pv_steal_add(struct x86_cpu *cpu, uint64_t ns);
/* The vCPU goes to sleep between two instructions: others need not interrupt it for a TLB flush. */
void x86_pv_asleep(struct x86_cpu *cpu);
/* It runs again; serves the flush that others asked for meanwhile. Before any guest instruction. */
void x86_pv_awake(struct x86_cpu *cpu);

/* ---- PV EOI: one bit in guest memory that stands for "an EOI is not needed" (x86/apic/lapic.c decides) ---- */

static inline bool x86_pv_eoi_enabled(const struct x86_pv *pv)
{
	return pv->eoi & X86_PV_ENABLED;
}

bool x86_pv_eoi_offer(struct x86_cpu *cpu); /* set the bit; false: no such memory */
bool x86_pv_eoi_take(struct x86_cpu *cpu);  /* clear the bit; was it set still? */
bool x86_pv_eoi_test(struct x86_cpu *cpu);

#endif
