/* SPDX-License-Identifier: Apache-2.0 */
/* The LAPIC's MSRs: IA32_APIC_BASE with its mode transitions, IA32_TSC_DEADLINE, x2APIC (SDM 3A 10.4.4, 10.12). */
#include "x86/apic/lapic_state.h"
#include "x86/cpuid.h"
#include "x86/msr_index.h"

#define X2APIC_ICR_RESERVED UINT32_C(0xfff32000) /* SDM 3A figure 10-28; the old delivery status bit is tolerated */

static bool base_legal(const struct x86_cpu *cpu, uint64_t value)
{
	uint64_t reserved = 0x2ff | ~(BIT64(52) - 1) | cpu->cpuid.rsvd_gpa_bits;

	if (!x86_has(cpu, X86_FEAT_X2APIC))
		reserved |= LAPIC_BASE_EXTD;
	if (value & reserved)
		return false;
	return (value & (LAPIC_BASE_EN | LAPIC_BASE_EXTD)) != LAPIC_BASE_EXTD;
}

/* SDM 3A 10.12.5: x2APIC mode is entered from xAPIC mode only, and left only by a disable. */
static bool transition_legal(uint64_t from, uint64_t to)
{
	bool to_x2apic = to & LAPIC_BASE_EXTD;

	if (!(from & LAPIC_BASE_EN))
		return !to_x2apic;
	if (from & LAPIC_BASE_EXTD)
		return to_x2apic || !(to & LAPIC_BASE_EN);
	return true;
}

static void base_apply(struct lapic *l, uint64_t value)
{
	const uint64_t mode = LAPIC_BASE_EN | LAPIC_BASE_EXTD;
	uint64_t changed;

	lapic_lock(l);
	changed = (l->base ^ value) & mode;
	l->base = value;
	l->cpu->msr.apic_base = value;
	if (changed) {
		l->id = l->cpu->id;
		if (!(value & LAPIC_BASE_EN))
			lapic_reset_regs_locked(l);
		else
			l->ldr = value & LAPIC_BASE_EXTD ? lapic_x2apic_ldr(l->id) : 0;
		lapic_lint0_update_locked(l);
		lapic_update_locked(l);
	}
	lapic_unlock(l);
	if (changed)
		irqchip_routing_changed(l->chip);
}

bool lapic_set_base(struct x86_cpu *cpu, uint64_t value)
{
	if (!base_legal(cpu, value))
		return false;
	base_apply(cpu->lapic, value);
	return true;
}

static bool x2apic_read(struct lapic *l, uint32_t index, uint64_t *value)
{
	uint32_t reg = (index - MSR_X2APIC_FIRST) << 4, low = 0;

	if (!lapic_x2apic(l))
		return false;
	if (!lapic_reg_read(l, reg, &low))
		return false;
	*value = low;
	if (reg == LAPIC_ICR) {
		lapic_lock(l);
		*value = (uint64_t)l->icr2 << 32 | l->icr;
		lapic_unlock(l);
	}
	return true;
}

static bool x2apic_write(struct lapic *l, uint32_t index, uint64_t value)
{
	uint32_t reg = (index - MSR_X2APIC_FIRST) << 4;

	if (!lapic_x2apic(l))
		return false;
	if (reg == LAPIC_ICR) {
		if (value & X2APIC_ICR_RESERVED)
			return false;
		lapic_icr_write(l, (uint32_t)value, (uint32_t)(value >> 32));
		return true;
	}
	return value >> 32 == 0 && lapic_reg_write(l, reg, (uint32_t)value);
}

bool lapic_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
	struct lapic *l = cpu->lapic;

	switch (index) {
	case MSR_APIC_BASE: *value = l->base; return true;
	case MSR_TSC_DEADLINE:
		if (!x86_has(cpu, X86_FEAT_TSC_DEADLINE))
			return false;
		lapic_lock(l);
		*value = l->tsc_deadline;
		lapic_unlock(l);
		return true;
	case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST: return x2apic_read(l, index, value);
	default: return false;
	}
}

bool lapic_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
	struct lapic *l = cpu->lapic;

	switch (index) {
	case MSR_APIC_BASE:
		if (!base_legal(cpu, value) || !transition_legal(l->base, value))
			return false;
		base_apply(l, value);
		return true;
	case MSR_TSC_DEADLINE:
		if (!x86_has(cpu, X86_FEAT_TSC_DEADLINE))
			return false;
		lapic_lock(l);
		lapic_timer_set_tsc_deadline_locked(l, value);
		lapic_unlock(l);
		return true;
	case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST: return x2apic_write(l, index, value);
	default: return false;
	}
}
