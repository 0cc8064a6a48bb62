/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decimal adjustment, legacy modes only (SDM 2A AAA..AAS, DAA, DAS). Flags that the manual leaves
 * undefined follow the result, as processors do.
 */
#include "interp/integer.h"

#define BIND(name)                                                                                                     \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		return interp_choose(i, exec_##name);                                                                  \
	}

static void ascii_adjust(struct x86_cpu *cpu, const struct interp_insn *i, bool add)
{
	uint16_t ax = (uint16_t)cpu->gpr[X86_RAX];
	uint64_t f = 0;

	if ((ax & 15) > 9 || (cpu->rflags & X86_AF)) {
		ax = (uint16_t)(add ? ax + 0x106 : ax - 0x106);
		f = X86_AF | X86_CF;
	}
	ax &= 0xff0f;
	interp_reg_write(cpu, X86_RAX, 2, ax);
	cpu->rflags = interp_set_arith(cpu->rflags, f | interp_szp((uint8_t)ax, 1));
	interp_next(cpu, i);
}

static void exec_aaa(struct x86_cpu *cpu, const struct interp_insn *i)
{
	ascii_adjust(cpu, i, true);
}

static void exec_aas(struct x86_cpu *cpu, const struct interp_insn *i)
{
	ascii_adjust(cpu, i, false);
}

static void exec_aam(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t al = (uint8_t)cpu->gpr[X86_RAX], base = (uint8_t)i->imm;

	if (!base)
		x86_raise(cpu, X86_DE);
	interp_reg_write(cpu, X86_RAX, 2, (uint64_t)(al / base) << 8 | al % base);
	cpu->rflags = interp_set_arith(cpu->rflags, interp_szp(al % base, 1));
	interp_next(cpu, i);
}

static void exec_aad(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t al = (uint8_t)cpu->gpr[X86_RAX], ah = (uint8_t)(cpu->gpr[X86_RAX] >> 8);
	uint8_t r = (uint8_t)(al + ah * (uint8_t)i->imm);

	interp_reg_write(cpu, X86_RAX, 2, r);
	cpu->rflags = interp_set_arith(cpu->rflags, interp_szp(r, 1));
	interp_next(cpu, i);
}

static void decimal_adjust(struct x86_cpu *cpu, const struct interp_insn *i, bool add)
{
	uint8_t old = (uint8_t)cpu->gpr[X86_RAX], al = old;
	uint64_t f = 0;

	if ((old & 15) > 9 || (cpu->rflags & X86_AF)) {
		al = (uint8_t)(add ? al + 6 : al - 6);
		/* DAS may borrow here already, when AF comes with a low digit under six. */
		f = X86_AF | (!add && old < 6 ? X86_CF : 0);
	}
	if (old > 0x99 || (cpu->rflags & X86_CF)) {
		al = (uint8_t)(add ? al + 0x60 : al - 0x60);
		f |= X86_CF;
	}
	interp_reg_write(cpu, X86_RAX, 1, al);
	cpu->rflags = interp_set_arith(cpu->rflags, f | interp_szp(al, 1));
	interp_next(cpu, i);
}

static void exec_daa(struct x86_cpu *cpu, const struct interp_insn *i)
{
	decimal_adjust(cpu, i, true);
}

static void exec_das(struct x86_cpu *cpu, const struct interp_insn *i)
{
	decimal_adjust(cpu, i, false);
}

BIND(aaa)
BIND(aas)
BIND(aam)
BIND(aad)
BIND(daa)
BIND(das)
