/* SPDX-License-Identifier: Apache-2.0 */
/* CLI, STI, PUSHF, POPF, CLAC, STAC: with IOPL, and the virtual interrupt flag of VME and PVI (SDM 3B 20.3, 20.4). */
#include "interp/system.h"
#include "x86/control.h"
#include "x86/segment.h"

static unsigned iopl(const struct x86_cpu *cpu)
{
	return (cpu->rflags & X86_IOPL) >> X86_IOPL_SHIFT;
}

/* May the program change IF itself? Virtual-8086 mode counts as CPL 3, real mode as CPL 0. */
static bool owns_if(const struct x86_cpu *cpu)
{
	return cpu->cpl <= iopl(cpu);
}

/* Does CLI/STI go to VIF instead (SDM 2 CLI, table 3-7)? #GP(0) if neither. */
static bool uses_vif(struct x86_cpu *cpu)
{
	if (owns_if(cpu))
		return false;
	if (cpu->v8086 ? !(cpu->cr4 & X86_CR4_VME) : cpu->cpl != 3 || !(cpu->cr4 & X86_CR4_PVI))
		x86_raise_gp0(cpu);
	return true;
}

static void exec_cli(struct x86_cpu *cpu, const struct interp_insn *i)
{
	cpu->rflags &= ~(uses_vif(cpu) ? X86_VIF : X86_IF);
	interp_next(cpu, i);
}

static void exec_sti(struct x86_cpu *cpu, const struct interp_insn *i)
{
	if (uses_vif(cpu)) {
		if (cpu->rflags & X86_VIP)
			x86_raise_gp0(cpu);
		cpu->rflags |= X86_VIF;
	} else if (!(cpu->rflags & X86_IF)) {
		cpu->rflags |= X86_IF;
		/* Interrupts from after the next instruction on (SDM 2B STI). */
		cpu->ev.shadow |= X86_SHADOW_STI;
		x86_cpu_attention(cpu, X86_ATT_IRQ);
		system_end_block(cpu);
	}
	interp_next(cpu, i);
}

static void exec_pushf(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t image = cpu->rflags & ~(X86_RF | X86_VM);

	if (cpu->v8086 && iopl(cpu) < 3) {
		if (i->opsize != 2 || !(cpu->cr4 & X86_CR4_VME))
			x86_raise_gp0(cpu);
		image = (image & ~X86_IF) | X86_IOPL | (cpu->rflags & X86_VIF ? X86_IF : 0);
	}
	x86_push(cpu, image, i->opsize);
	interp_next(cpu, i);
}

/* What POPF may change outside virtual-8086 mode (SDM 2B POPF, table 4-16). RF is cleared by all but the 16-bit form.
 */
static uint64_t popf_mask(const struct x86_cpu *cpu, unsigned opsize)
{
	uint64_t mask = X86_ARITH_FLAGS | X86_TF | X86_DF | X86_NT;

	if (opsize > 2)
		mask |= X86_AC | X86_ID | X86_RF;
	if (owns_if(cpu))
		mask |= X86_IF;
	if (cpu->cpl == 0)
		mask |= X86_IOPL;
	return mask;
}

/* IOPL < 3 in virtual-8086 mode: IF of a 16-bit image goes to VIF under VME. */
static uint64_t popf_vme(struct x86_cpu *cpu, unsigned opsize, uint64_t *image)
{
	if (opsize != 2 || !(cpu->cr4 & X86_CR4_VME))
		x86_raise_gp0(cpu);
	if ((*image & X86_TF) || ((*image & X86_IF) && (cpu->rflags & X86_VIP)))
		x86_raise_gp0(cpu);
	if (*image & X86_IF)
		*image |= X86_VIF;
	return X86_ARITH_FLAGS | X86_TF | X86_DF | X86_NT | X86_VIF;
}

static void exec_popf(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t image = x86_stack_peek(cpu, 0, i->opsize) & ~X86_RF, before = cpu->rflags, mask;

	if (i->opsize == 2)
		image &= 0xffff;
	mask = cpu->v8086 && iopl(cpu) < 3 ? popf_vme(cpu, i->opsize, &image) : popf_mask(cpu, i->opsize);
	x86_stack_adjust(cpu, i->opsize);
	x86_write_rflags(cpu, image, mask);
	interp_next(cpu, i);
	if ((before ^ cpu->rflags) & (X86_IF | X86_TF | X86_AC))
		system_end_block(cpu);
}

/* #UD, not #GP, for CPL > 0 (SDM 2A CLAC). */
static void set_ac(struct x86_cpu *cpu, const struct interp_insn *i, uint64_t ac)
{
	if (cpu->cpl != 0)
		x86_raise_ud(cpu);
	cpu->rflags = (cpu->rflags & ~X86_AC) | ac;
	x86_mmu_index_update(cpu);
	interp_next(cpu, i);
}

static void exec_clac(struct x86_cpu *cpu, const struct interp_insn *i)
{
	set_ac(cpu, i, 0);
}

static void exec_stac(struct x86_cpu *cpu, const struct interp_insn *i)
{
	set_ac(cpu, i, X86_AC);
}

/* ---- bind ---- */

static uint8_t flags_size(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_POPFQ: return 8;
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_POPFD: return 4;
	default: return 2;
	}
}

bool bind_cli(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_cli);
}

bool bind_sti(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_last(i, exec_sti);
}

bool bind_pushf(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = flags_size(zi->mnemonic);
	return system_bind(i, exec_pushf);
}

bool bind_popf(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = flags_size(zi->mnemonic);
	return system_bind_last(i, exec_popf);
}

bool bind_clac(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_SMAP, exec_clac);
}

bool bind_stac(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_SMAP, exec_stac);
}
