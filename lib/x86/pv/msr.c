/* SPDX-License-Identifier: Apache-2.0 */
/* The paravirtual MSRs (msr.rst). As in KVM they work whether or not CPUID leaf 0x40000001 announces them. */
#include "x86/pv/msr.h"

#include "x86/apic/irqchip.h"

#define POLL_ENABLED UINT64_C(1)
#define EOI_RESERVED UINT64_C(2)

void x86_pv_reset(struct x86_cpu *cpu, bool init)
{
	struct x86_pv *pv = &cpu->pv;

	pv->system_time = pv->steal_time = pv->eoi = 0;
	pv->guest_stopped = pv->preempted = false;
	atomic_store(&pv->unhalted, false);
	if (!init) {
		pv->wall_clock = 0;
		pv->poll_control = POLL_ENABLED;
	}
}

bool x86_pv_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
	const struct x86_pv *pv = &cpu->pv;

	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW: *value = pv->wall_clock; return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW: *value = pv->system_time; return true;
	case MSR_KVM_STEAL_TIME: *value = pv->steal_time; return true;
	case MSR_KVM_PV_EOI_EN: *value = pv->eoi; return true;
	case MSR_KVM_POLL_CONTROL: *value = pv->poll_control; return true;
	default: return false;
	}
}

static bool write_eoi(struct x86_cpu *cpu, uint64_t value)
{
	if (value & EOI_RESERVED)
		return false;
	if (cpu->lapic)
		lapic_pv_eoi_settle(cpu); /* what is under way is under way at the old place */
	cpu->pv.eoi = value;
	return true;
}

/* HLT never polls here; a guest that polls by itself says so, and hears that it was heard. */
static bool write_poll_control(struct x86_cpu *cpu, uint64_t value)
{
	if (value & ~POLL_ENABLED)
		return false;
	cpu->pv.poll_control = value;
	return true;
}

bool x86_pv_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool host)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW: pv_write_wall_clock(cpu, value); return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW: pv_write_system_time(cpu, value, host); return true;
	case MSR_KVM_STEAL_TIME: return pv_write_steal_time(cpu, value);
	case MSR_KVM_PV_EOI_EN: return write_eoi(cpu, value);
	case MSR_KVM_POLL_CONTROL: return write_poll_control(cpu, value);
	default: return false;
	}
}
