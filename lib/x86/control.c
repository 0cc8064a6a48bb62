/* SPDX-License-Identifier: Apache-2.0 */
/* Control registers, XCR0, RFLAGS and what they do to paging, mode and TLB (SDM 3A 2.5, 2.6, 4.1, 4.10). */
#include "x86/control.h"

#include "x86/apic/irqchip.h"
#include "x86/cpuid.h"
#include "x86/exception.h"
#include "x86/fpu.h"
#include "x86/paging.h"
#include "x86/segment.h"
#include "x86/tlb.h"
#include "x86/xstate.h"

/* CR0 bits that exist; writes of the others in 31:0 are ignored (SDM 3A 2.5). */
#define CR0_EXISTING                                                                                                   \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_NW |       \
	 X86_CR0_CD | X86_CR0_PG)
#define RFLAGS_EXISTING                                                                                                \
	(X86_ARITH_FLAGS | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_VM | X86_AC | X86_VIF |         \
	 X86_VIP | X86_ID)

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LME);
}

void x86_write_cr0(struct x86_cpu *cpu, uint64_t value)
{
	const uint64_t pdpte_reload = X86_CR0_CD | X86_CR0_NW | X86_CR0_PG; /* SDM 3A 4.4.1 */
	uint64_t changed;

	if (value >> 32)
		x86_raise_gp0(cpu);
	value = (value & CR0_EXISTING) | X86_CR0_ET;
	changed = value ^ cpu->cr0;
	if ((value & X86_CR0_PG) && !(value & X86_CR0_PE))
		x86_raise_gp0(cpu);
	if ((value & X86_CR0_NW) && !(value & X86_CR0_CD))
		x86_raise_gp0(cpu);
	if (changed & X86_CR0_PG) {
		if (value & X86_CR0_PG) {
			/* Activating IA-32e mode (SDM 3A 9.8.5). */
			if ((cpu->efer & X86_EFER_LME) &&
			    (!(cpu->cr4 & X86_CR4_PAE) || (cpu->seg[X86_CS].ar & X86_AR_L)))
				x86_raise_gp0(cpu);
		} else if (x86_long64(cpu) || (cpu->cr4 & X86_CR4_PCIDE)) {
			x86_raise_gp0(cpu);
		}
	}
	if (pae_paging(value, cpu->cr4, cpu->efer) && (changed & pdpte_reload) && !x86_load_pdptes(cpu, cpu->cr3))
		x86_raise_gp0(cpu);

	cpu->cr0 = value;
	if (changed & X86_CR0_PG) {
		if ((value & X86_CR0_PG) && (cpu->efer & X86_EFER_LME))
			cpu->efer |= X86_EFER_LMA;
		else
			cpu->efer &= ~X86_EFER_LMA;
	}
	if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
		x86_tlb_flush_all(cpu);
	x86_mode_update(cpu);
}

void x86_write_cr3(struct x86_cpu *cpu, uint64_t value)
{
	bool keep = false;

	if (cpu->cr4 & X86_CR4_PCIDE) {
		keep = value & X86_CR3_NOFLUSH;
		value &= ~X86_CR3_NOFLUSH;
	}
	if (cpu->long_mode) {
		if (value >> cpu->cpuid.maxphyaddr)
			x86_raise_gp0(cpu);
	} else {
		value = (uint32_t)value;
		if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !x86_load_pdptes(cpu, value))
			x86_raise_gp0(cpu);
	}
	/*
	 * The TLB holds the current PCID's entries only: bit 63 can save the flush when the
	 * address space stays the same, and nowhere else (SDM 3A 4.10.4.1 allows to drop more).
	 */
	keep = keep && value == cpu->cr3;
	cpu->cr3 = value;
	if (!keep)
		x86_tlb_flush_nonglobal(cpu);
}

void x86_write_cr4(struct x86_cpu *cpu, uint64_t value)
{
	const uint64_t pdpte_reload = X86_CR4_PGE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_SMEP;
	const uint64_t tlb_relevant = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP |
				      X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_PKS | X86_CR4_LA57;
	uint64_t changed = value ^ cpu->cr4;

	if (value & ~cpu->cpuid.cr4_allowed)
		x86_raise_gp0(cpu);
	if (cpu->long_mode && (!(value & X86_CR4_PAE) || (changed & X86_CR4_LA57)))
		x86_raise_gp0(cpu);
	if ((changed & value & X86_CR4_PCIDE) && (!cpu->long_mode || (cpu->cr3 & X86_CR3_PCID)))
		x86_raise_gp0(cpu);
	if (pae_paging(cpu->cr0, value, cpu->efer) && (changed & pdpte_reload) && !x86_load_pdptes(cpu, cpu->cr3))
		x86_raise_gp0(cpu);

	cpu->cr4 = value;
	if (changed & tlb_relevant)
		x86_tlb_flush_all(cpu);
	if (changed & X86_CR4_DE)
		x86_debug_changed(cpu);
	x86_mode_update(cpu);
}

uint64_t x86_read_cr8(struct x86_cpu *cpu)
{
	if (!cpu->lapic)
		return cpu->cr8;
	x86_fpu_put(cpu);
	return lapic_read_tpr(cpu);
}

void x86_write_cr8(struct x86_cpu *cpu, uint64_t value)
{
	if (value & ~UINT64_C(15))
		x86_raise_gp0(cpu);
	x86_fpu_put(cpu);
	if (cpu->lapic) {
		lapic_write_tpr(cpu, value);
	} else {
		cpu->cr8 = value;
		cpu->ops->cr8_changed(cpu);
	}
	x86_cpu_attention(cpu, X86_ATT_IRQ);
}

/* SDM 1 13.3: x87 always, AVX needs SSE, the three parts of AVX-512 go together and need AVX. */
bool x86_xcr0_valid(const struct x86_cpu *cpu, uint64_t value)
{
	const uint64_t avx512 = X86_XCR0_AVX512;

	if (!(value & X86_XCR0_X87) || (value & ~cpu->cpuid.xcr0_allowed))
		return false;
	if ((value & X86_XCR0_AVX) && !(value & X86_XCR0_SSE))
		return false;
	return !(value & avx512) || ((value & avx512) == avx512 && (value & X86_XCR0_AVX));
}

void x86_write_xcr(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
	if (index != 0 || !x86_xcr0_valid(cpu, value))
		x86_raise_gp0(cpu);
	cpu->xcr0 = value;
}

void x86_write_rflags(struct x86_cpu *cpu, uint64_t value, uint64_t mask)
{
	uint64_t old = cpu->rflags, changed;

	mask &= RFLAGS_EXISTING;
	cpu->rflags = (old & ~mask) | (value & mask) | X86_FIXED1;
	changed = old ^ cpu->rflags;
	if (changed & X86_VM)
		x86_mode_update(cpu);
	else if (changed & X86_AC)
		x86_mmu_index_update(cpu);
	if (changed & cpu->rflags & X86_IF && !cpu->irq_quiet)
		x86_cpu_attention(cpu, X86_ATT_IRQ);
	if (changed & cpu->rflags & (X86_TF | X86_RF))
		x86_cpu_attention(cpu, X86_ATT_TRAP);
}

void x86_invlpg(struct x86_cpu *cpu, uint64_t linear)
{
	/* In 64-bit mode an address that is not canonical makes it a NOP (SDM 2A INVLPG). */
	if (x86_long64(cpu) && !x86_canonical(cpu, linear))
		return;
	x86_tlb_flush_page(cpu, GVA(linear));
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

void x86_invpcid(struct x86_cpu *cpu, uint64_t type, uint64_t pcid, uint64_t linear)
{
	bool current = pcid == (cpu->cr4 & X86_CR4_PCIDE ? cpu->cr3 & X86_CR3_PCID : 0);

	if (type > INVPCID_ALL_NONGLOBAL || (pcid & ~X86_CR3_PCID))
		x86_raise_gp0(cpu);
	if (type <= INVPCID_CONTEXT && pcid && !(cpu->cr4 & X86_CR4_PCIDE))
		x86_raise_gp0(cpu);
	switch ((enum invpcid_type)type) {
	case INVPCID_ADDRESS:
		if (!x86_canonical_base(cpu, linear))
			x86_raise_gp0(cpu);
		/* Nothing of other PCIDs is cached: see x86_write_cr3(). */
		if (current)
			x86_tlb_flush_page(cpu, GVA(linear));
		break;
	case INVPCID_CONTEXT:
		if (current)
			x86_tlb_flush_nonglobal(cpu);
		break;
	case INVPCID_ALL: x86_tlb_flush_all(cpu); break;
	case INVPCID_ALL_NONGLOBAL: x86_tlb_flush_nonglobal(cpu); break;
	}
}
