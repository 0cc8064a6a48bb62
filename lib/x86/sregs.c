/* SPDX-License-Identifier: Apache-2.0 */
/* KVM_GET/SET_SREGS: segments, tables and control registers at once. The vCPU is not running. */
#include <errno.h>

#include "base/stats.h"
#include "x86/apic/irqchip.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/paging.h"
#include "x86/segment.h"
#include "x86/tlb.h"

/* The rules of MOV CRn and WRMSR that bind the registers together, not those on how they change. */
static bool sregs_valid(const struct x86_cpu *cpu, const struct x86_sregs *s)
{
	bool long_mode = (s->efer & X86_EFER_LME) && (s->cr0 & X86_CR0_PG);

	if (s->cr0 >> 32 || (s->cr8 & ~UINT64_C(15)))
		return false;
	if ((s->cr0 & X86_CR0_PG) && !(s->cr0 & X86_CR0_PE))
		return false;
	if ((s->cr0 & X86_CR0_NW) && !(s->cr0 & X86_CR0_CD))
		return false;
	if (s->cr4 & ~cpu->cpuid.cr4_allowed || s->efer & ~cpu->cpuid.efer_allowed)
		return false;
	if (long_mode != ((s->efer & X86_EFER_LMA) != 0))
		return false;
	if (long_mode)
		return (s->cr4 & X86_CR4_PAE) && !(s->cr3 >> cpu->cpuid.maxphyaddr);
	/* No CS.L and no PCIDs outside IA-32e mode. */
	return !(s->cr4 & X86_CR4_PCIDE) && !(s->cr0 & X86_CR0_PG && s->seg[X86_CS].ar & X86_AR_L);
}

static bool set_apic_base(struct x86_cpu *cpu, uint64_t value)
{
	if (cpu->lapic)
		return cpu->msr.apic_base == value || lapic_set_base(cpu, value);
	cpu->msr.apic_base = value;
	return true;
}

int x86_set_sregs(struct x86_cpu *cpu, const struct x86_sregs *s)
{
	x86_fpu_put(cpu);
	if (!sregs_valid(cpu, s) || !set_apic_base(cpu, s->apic_base))
		return -EINVAL;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		cpu->seg[i] = s->seg[i];
	cpu->gdtr = s->gdtr;
	cpu->idtr = s->idtr;
	cpu->cr0 = s->cr0 | X86_CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = s->efer;
	if (cpu->lapic)
		lapic_write_tpr(cpu, s->cr8);
	else
		cpu->cr8 = s->cr8;
	if ((s->cr0 & X86_CR0_PG) && (s->cr4 & X86_CR4_PAE) && !(s->efer & X86_EFER_LMA))
		x86_load_pdptes(cpu, s->cr3);
	x86_tlb_flush_all(cpu);
	STAT_INC(cpu, TLB_FLUSHES_CLIENT);
	x86_mode_update(cpu);
	x86_debug_changed(cpu);
	x86_cpu_attention(cpu, X86_ATT_IRQ);
	return 0;
}

void x86_get_sregs(struct x86_cpu *cpu, struct x86_sregs *s)
{
	x86_fpu_put(cpu);
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = cpu->seg[i];
	s->gdtr = cpu->gdtr;
	s->idtr = cpu->idtr;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = x86_read_cr8(cpu);
	s->efer = cpu->efer;
	s->apic_base = cpu->msr.apic_base;
}
