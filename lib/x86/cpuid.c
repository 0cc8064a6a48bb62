/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's CPUID: look-up as KVM does it, dynamic bits, what follows from the table (SDM 2A CPUID). */
#include "x86/cpuid.h"

#include "x86/apic/irqchip.h"
#include "x86/fpu.h"
#include "x86/msr.h"
#include "x86/tlb.h"
#include "x86/transfer_internal.h"
#include "x86/xstate.h"

#define ECX1_OSXSAVE BIT32(27)
#define EDX1_APIC BIT32(9) /* leaf 0x80000001 repeats it on AMD */
#define ECX7_OSPKE BIT32(4)
#define EDX_EXT_NX BIT32(20)
#define EAXD1_XSAVEC BIT32(1)
#define EAXD1_XSAVES BIT32(3)
#define APIC_BASE_EN BIT64(11)
#define MAXPHYADDR_DEFAULT 36 /* without leaf 0x80000008 (SDM 3A 4.1.4) */

struct feature_row {
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
};

static const struct feature_row feature_rows[] = {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) { leaf, subleaf, X86_CPUID_##reg, bit },
#include "x86/features.def"
#undef FEATURE
};

static const struct x86_cpuid_entry *entry_find(const struct x86_cpuid *id, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < id->count; i++) {
		const struct x86_cpuid_entry *e = &id->entry[i];

		if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == subleaf))
			return e;
	}
	return NULL;
}

static uint32_t entry_reg(const struct x86_cpuid_entry *e, unsigned reg)
{
	const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

	return regs[reg];
}

/* ---- derived state ---- */

static void derive_features(struct x86_cpuid *id)
{
	const struct x86_cpuid_entry *e = NULL;
	const struct feature_row *last = NULL;

	for (unsigned f = 0; f < X86_FEATURE_WORDS; f++)
		id->features[f] = 0;
	for (unsigned f = 0; f < ARRAY_SIZE(feature_rows); f++) {
		const struct feature_row *row = &feature_rows[f];

		/* The list is grouped by leaf. */
		if (!last || last->leaf != row->leaf || last->subleaf != row->subleaf)
			e = entry_find(id, row->leaf, row->subleaf);
		last = row;
		if (e && (entry_reg(e, row->reg) >> row->bit & 1))
			id->features[f / 32] |= BIT32(f % 32);
	}
}

/* CR4 bits by feature (SDM 3A 2.5). PCE needs none: RDPMC's CPL check is always there. */
static uint64_t derive_cr4(const struct x86_cpu *cpu)
{
	static const struct {
		enum x86_feature feature;
		uint64_t bits;
	} rows[] = {
		{ X86_FEAT_VME, X86_CR4_VME | X86_CR4_PVI },
		{ X86_FEAT_TSC, X86_CR4_TSD },
		{ X86_FEAT_DE, X86_CR4_DE },
		{ X86_FEAT_PSE, X86_CR4_PSE },
		{ X86_FEAT_PAE, X86_CR4_PAE },
		{ X86_FEAT_MCE, X86_CR4_MCE },
		{ X86_FEAT_PGE, X86_CR4_PGE },
		{ X86_FEAT_FXSR, X86_CR4_OSFXSR },
		{ X86_FEAT_SSE, X86_CR4_OSXMMEXCPT },
		{ X86_FEAT_UMIP, X86_CR4_UMIP },
		{ X86_FEAT_LA57, X86_CR4_LA57 },
		{ X86_FEAT_FSGSBASE, X86_CR4_FSGSBASE },
		{ X86_FEAT_PCID, X86_CR4_PCIDE },
		{ X86_FEAT_XSAVE, X86_CR4_OSXSAVE },
		{ X86_FEAT_SMEP, X86_CR4_SMEP },
		{ X86_FEAT_SMAP, X86_CR4_SMAP },
		{ X86_FEAT_PKU, X86_CR4_PKE },
		{ X86_FEAT_PKS, X86_CR4_PKS },
	};
	uint64_t allowed = X86_CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (x86_has(cpu, rows[i].feature))
			allowed |= rows[i].bits;
	return allowed;
}

static uint64_t derive_efer(const struct x86_cpu *cpu)
{
	return (x86_has(cpu, X86_FEAT_SYSCALL) ? X86_EFER_SCE : 0) |
	       (x86_has(cpu, X86_FEAT_LM) ? X86_EFER_LME | X86_EFER_LMA : 0) |
	       (x86_has(cpu, X86_FEAT_NX) ? X86_EFER_NXE : 0) | (x86_has(cpu, X86_FEAT_FXSR_OPT) ? X86_EFER_FFXSR : 0) |
	       (x86_has(cpu, X86_FEAT_AUTOIBRS) ? X86_EFER_AUTOIBRS : 0);
}

static uint64_t derive_xcr0(const struct x86_cpu *cpu)
{
	const struct x86_cpuid_entry *e = entry_find(&cpu->cpuid, 0xd, 0);
	uint64_t allowed = X86_XCR0_X87;

	if (e && x86_has(cpu, X86_FEAT_XSAVE))
		allowed |= (e->eax | (uint64_t)e->edx << 32) & x86_fpu_supported_xcr0();
	if (!x86_has(cpu, X86_FEAT_PKU))
		allowed &= ~X86_XCR0_PKRU;
	return allowed;
}

void x86_cpuid_changed(struct x86_cpu *cpu)
{
	struct x86_cpuid *id = &cpu->cpuid;
	const struct x86_cpuid_entry *e = entry_find(id, 0x80000008, 0);
	unsigned bits = e ? e->eax & 0xff : 0;

	derive_features(id);
	if (!bits)
		bits = MAXPHYADDR_DEFAULT;
	id->maxphyaddr = (uint8_t)(bits < 32 ? 32 : bits > 52 ? 52 : bits);
	id->rsvd_gpa_bits = (BIT64(52) - 1) & ~(BIT64(id->maxphyaddr) - 1);
	id->cr4_allowed = derive_cr4(cpu);
	id->efer_allowed = derive_efer(cpu);
	id->xcr0_allowed = derive_xcr0(cpu);
	if (cpu->tlb)
		x86_tlb_flush_all(cpu);
}

/* ---- the instruction ---- */

/*
 * What a leaf that the table does not have shows: on Intel a leaf above its range's maximum shows
 * the highest basic leaf (SDM 2A CPUID), on AMD zeros; as KVM, a hole within a range is zeros.
 */
static const struct x86_cpuid_entry *out_of_range(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf)
{
	const struct x86_cpuid *id = &cpu->cpuid;
	const struct x86_cpuid_entry *basic = entry_find(id, 0, 0), *range;
	uint32_t base;

	if (!basic || x86_vendor_is_amd(cpu))
		return NULL;
	if (leaf >= 0x40000000 && leaf <= 0x4fffffff)
		base = leaf & 0xffffff00; /* hypervisors announce themselves every 0x100 leaves */
	else if (leaf >= 0xc0000000)
		base = 0xc0000000; /* Centaur */
	else
		base = leaf & 0x80000000;
	range = base ? entry_find(id, base, 0) : basic;
	if (range && leaf <= range->eax)
		return NULL;
	return entry_find(id, basic->eax, subleaf);
}

static bool apic_enabled(const struct x86_cpu *cpu)
{
	return cpu->lapic ? lapic_enabled(cpu) : (cpu->msr.apic_base & APIC_BASE_EN) != 0;
}

/* Size of the compacted format: the components one after the other (SDM 1 13.4.3); none of ours wants alignment. */
static uint32_t compacted_size(uint64_t components)
{
	uint32_t size = 576, offset, n;

	for (unsigned i = 2; i < 63; i++)
		if ((components & BIT64(i)) && x86_fpu_component(i, &offset, &n))
			size += n;
	return size;
}

static void dynamic_bits(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_entry *e)
{
	switch (leaf) {
	case 0:
		if ((cpu->msr.misc_enable & X86_MISC_ENABLE_LIMIT_CPUID) && e->eax > 2)
			e->eax = 2;
		break;
	case 1:
		e->ecx &= ~ECX1_OSXSAVE;
		if (cpu->cr4 & X86_CR4_OSXSAVE)
			e->ecx |= ECX1_OSXSAVE;
		if (!apic_enabled(cpu))
			e->edx &= ~EDX1_APIC;
		break;
	case 7:
		if (subleaf)
			break;
		e->ecx &= ~ECX7_OSPKE;
		if (cpu->cr4 & X86_CR4_PKE)
			e->ecx |= ECX7_OSPKE;
		break;
	case 0xd:
		if (subleaf == 0)
			e->ebx = x86_fpu_area_size(cpu->xcr0);
		else if (subleaf == 1 && (e->eax & (EAXD1_XSAVEC | EAXD1_XSAVES)))
			e->ebx = compacted_size(cpu->xcr0 | cpu->msr.xss);
		break;
	case 0x80000001:
		if (!apic_enabled(cpu))
			e->edx &= ~EDX1_APIC;
		if (cpu->msr.misc_enable & X86_MISC_ENABLE_XD_DISABLE)
			e->edx &= ~EDX_EXT_NX;
		break;
	case 0x80000008:
		if (!x86_has(cpu, X86_FEAT_LA57) && (e->eax >> 8 & 0xff) > 48)
			e->eax = (e->eax & ~0xff00u) | 48u << 8;
		break;
	default: break;
	}
}

void x86_cpuid_execute(struct x86_cpu *cpu, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
	uint32_t leaf = *eax, subleaf = *ecx;
	const struct x86_cpuid_entry *found = entry_find(&cpu->cpuid, leaf, subleaf);
	struct x86_cpuid_entry e = { 0 };

	if (found) {
		e = *found;
		dynamic_bits(cpu, leaf, subleaf, &e);
	} else if ((found = out_of_range(cpu, leaf, subleaf))) {
		e = *found;
		dynamic_bits(cpu, e.leaf, subleaf, &e);
	} else if ((leaf == 0xb || leaf == 0x1f) && (found = entry_find(&cpu->cpuid, leaf, 1))) {
		/* Beyond the last level: the level asked for, and the x2APIC id (SDM 2A CPUID, leaf 0BH). */
		e.ecx = subleaf & 0xff;
		e.edx = found->edx;
	}
	*eax = e.eax;
	*ebx = e.ebx;
	*ecx = e.ecx;
	*edx = e.edx;
}
