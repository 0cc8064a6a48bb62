/* SPDX-License-Identifier: Apache-2.0 */
/* RDMSR, WRMSR and the KVM API's access to MSRs, by the table in msr_table.c. */
#include "x86/msr.h"

#include "x86/apic/irqchip.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/exception.h"
#include "x86/fpu.h"

static const struct x86_msr_row *row_find(uint32_t index)
{
	unsigned lo = 0, hi = x86_msr_row_count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (index > x86_msr_rows[mid].last)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < x86_msr_row_count && index >= x86_msr_rows[lo].first ? &x86_msr_rows[lo] : NULL;
}

static uint64_t *row_field(struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index)
{
	return (uint64_t *)((uint8_t *)cpu + row->offset) + (index - row->first);
}

static bool row_visible(const struct x86_cpu *cpu, const struct x86_msr_row *row, enum x86_msr_by by)
{
	return row->feature == X86_MSR_ALWAYS || by == X86_MSR_HOST || x86_has(cpu, (enum x86_feature)row->feature);
}

/* Are the LAPIC's own MSRs meant (SDM 3A table 10-6, 10.5.4.1)? The hot ones: not through the table. */
static bool is_lapic_msr(const struct x86_cpu *cpu, uint32_t index)
{
	return cpu->lapic && (index - MSR_X2APIC_FIRST <= MSR_X2APIC_LAST - MSR_X2APIC_FIRST ||
			      index == MSR_TSC_DEADLINE || index == MSR_APIC_BASE);
}

static bool msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value, enum x86_msr_by by)
{
	const struct x86_msr_row *row;
	bool fault = false;

	x86_fpu_put(cpu);
	if (is_lapic_msr(cpu, index))
		return lapic_msr_read(cpu, index, value);
	row = row_find(index);
	if (!row)
		return cpu->ops->msr_read(cpu, index, value, &fault) && !fault;
	if (!row_visible(cpu, row, by))
		return false;
	if (row->read)
		return row->read(cpu, row, index, value);
	*value = *row_field(cpu, row, index);
	return true;
}

static bool msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, enum x86_msr_by by)
{
	const struct x86_msr_row *row;
	bool fault = false;

	x86_fpu_put(cpu);
	if (is_lapic_msr(cpu, index)) {
		if (by == X86_MSR_HOST && index == MSR_APIC_BASE)
			return lapic_set_base(cpu, value);
		return lapic_msr_write(cpu, index, value);
	}
	row = row_find(index);
	if (!row)
		return cpu->ops->msr_write(cpu, index, value, &fault) && !fault;
	if (!row_visible(cpu, row, by))
		return false;
	if (row->write)
		return row->write(cpu, row, index, value, by);
	if (value & ~row->writable)
		return false;
	*row_field(cpu, row, index) = value;
	return true;
}

uint64_t x86_rdmsr(struct x86_cpu *cpu, uint32_t index)
{
	uint64_t value = 0;

	if (!msr_read(cpu, index, &value, X86_MSR_GUEST))
		x86_raise_gp0(cpu);
	return value;
}

void x86_wrmsr(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
	if (!msr_write(cpu, index, value, X86_MSR_GUEST))
		x86_raise_gp0(cpu);
	/* TPR, EOI, self-IPI, deadline: whatever it was, look at the interrupts again. */
	if (is_lapic_msr(cpu, index))
		x86_cpu_attention(cpu, X86_ATT_IRQ);
}

bool x86_msr_get(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
	return msr_read(cpu, index, value, X86_MSR_HOST);
}

bool x86_msr_set(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
	return msr_write(cpu, index, value, X86_MSR_HOST);
}

unsigned x86_msr_list(uint32_t *index, unsigned max)
{
	unsigned n = 0;

	for (unsigned r = 0; r < x86_msr_row_count; r++)
		for (uint32_t i = x86_msr_rows[r].first; x86_msr_rows[r].save && i <= x86_msr_rows[r].last; i++, n++)
			if (n < max)
				index[n] = i;
	return n < max ? n : max;
}

static const struct msr_feature {
	uint32_t index;
	uint64_t value;
} msr_features[] = {
	{ MSR_ARCH_CAPABILITIES, X86_ARCH_CAPABILITIES },
	{ MSR_AMD_DE_CFG, X86_DE_CFG_LFENCE_SERIALIZE },
};

unsigned x86_msr_feature_list(uint32_t *index, unsigned max)
{
	unsigned n = 0;

	for (; n < ARRAY_SIZE(msr_features) && n < max; n++)
		index[n] = msr_features[n].index;
	return n;
}

bool x86_msr_feature(uint32_t index, uint64_t *value)
{
	for (unsigned n = 0; n < ARRAY_SIZE(msr_features); n++) {
		if (msr_features[n].index == index) {
			*value = msr_features[n].value;
			return true;
		}
	}
	return false;
}
