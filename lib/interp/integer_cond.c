/* SPDX-License-Identifier: Apache-2.0 */
/* CMOVcc, SETcc, and the instructions that set single flags or move them. */
#include "interp/integer.h"

/* A memory source is read, and may fault, whatever the condition; 32-bit forms always clear the upper half. */
interp_inline void cmov(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool mem)
{
	uint64_t v = mem ? interp_read_mem(cpu, i, size) : interp_get_reg(cpu, i, 1, size);

	if (!interp_condition(cpu->rflags, i->cond))
		v = interp_get_reg(cpu, i, 0, size);
	interp_set_reg(cpu, i, 0, size, v);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(cmov_r, cmov, false)
INTERP_WIDE_SIZES(cmov_m, cmov, true)

bool interp_bind_cmovcc(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *zo)
{
	(void)zo;
	i->cond = zi->opcode & 15;
	return interp_need(cpu, i, X86_FEAT_CMOV,
			   interp_by_size(i->kind[1] == INTERP_OP_MEM ? cmov_m : cmov_r, i->opsize));
}

static void exec_set_r(struct x86_cpu *cpu, const struct interp_insn *i)
{
	*interp_byte_reg(cpu, i, 0) = interp_condition(cpu->rflags, i->cond);
	interp_next(cpu, i);
}

static void exec_set_m(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_write_mem(cpu, i, 1, interp_condition(cpu->rflags, i->cond));
	interp_next(cpu, i);
}

bool interp_bind_setcc(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zo;
	i->cond = zi->opcode & 15;
	return interp_choose(i, i->kind[0] == INTERP_OP_MEM ? exec_set_m : exec_set_r);
}

#define FLAG_INSN(name, expr)                                                                                          \
	static void exec_##name(struct x86_cpu *cpu, const struct interp_insn *i)                                      \
	{                                                                                                              \
		cpu->rflags = (expr);                                                                                  \
		interp_next(cpu, i);                                                                                   \
	}                                                                                                              \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		return interp_choose(i, exec_##name);                                                                  \
	}

FLAG_INSN(clc, cpu->rflags & ~X86_CF)
FLAG_INSN(stc, cpu->rflags | X86_CF)
FLAG_INSN(cmc, cpu->rflags ^ X86_CF)
FLAG_INSN(cld, cpu->rflags & ~X86_DF)
FLAG_INSN(std, cpu->rflags | X86_DF)

#define SAHF_FLAGS (X86_SF | X86_ZF | X86_AF | X86_PF | X86_CF)

static void exec_lahf(struct x86_cpu *cpu, const struct interp_insn *i)
{
	((uint8_t *)&cpu->gpr[X86_RAX])[1] = (uint8_t)((cpu->rflags & SAHF_FLAGS) | X86_FIXED1);
	interp_next(cpu, i);
}

static void exec_sahf(struct x86_cpu *cpu, const struct interp_insn *i)
{
	cpu->rflags = (cpu->rflags & ~SAHF_FLAGS) | (cpu->gpr[X86_RAX] >> 8 & SAHF_FLAGS);
	interp_next(cpu, i);
}

/* In 64-bit mode only where CPUID says so. */
static bool bind_ahf(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi, interp_exec_fn *fn)
{
	if (zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return interp_need(cpu, i, X86_FEAT_LAHF_LM, fn);
	return interp_choose(i, fn);
}

bool interp_bind_lahf(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)zo;
	return bind_ahf(cpu, i, zi, exec_lahf);
}

bool interp_bind_sahf(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)zo;
	return bind_ahf(cpu, i, zi, exec_sahf);
}

/* AL = CF ? FFh : 0; undocumented but everywhere outside 64-bit mode. */
static void exec_salc(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_reg_write(cpu, X86_RAX, 1, cpu->rflags & X86_CF ? 0xff : 0);
	interp_next(cpu, i);
}

bool interp_bind_salc(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_salc);
}
