/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BMI1 and BMI2: VEX-encoded instructions on general registers, 32 and 64 bits wide (SDM 2A, 2C).
 * AF and PF are undefined after those that set flags: left as they were.
 */
#include "interp/integer.h"

interp_inline uint64_t source(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, unsigned size)
{
	return i->kind[n] == INTERP_OP_MEM ? interp_read_mem(cpu, i, size) : interp_get_reg(cpu, i, n, size);
}

/* SF and ZF of the result, CF as given, OF clear. */
interp_inline uint64_t bmi_flags(uint64_t f, uint64_t r, unsigned size, bool cf)
{
	f &= ~(X86_CF | X86_OF | X86_SF | X86_ZF);
	return f | (cf ? X86_CF : 0) | (r ? 0 : X86_ZF) | (r >> (size * 8 - 1)) << 7;
}

interp_inline void finish(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t r)
{
	interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

interp_inline void andn(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t r = source(cpu, i, 2, size) & ~interp_get_reg(cpu, i, 1, size);

	cpu->rflags = bmi_flags(cpu->rflags, r, size, false);
	finish(cpu, i, size, r);
}

interp_inline void bextr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size), control = interp_get_reg(cpu, i, 2, size);
	unsigned start = control & 0xff, len = control >> 8 & 0xff;
	uint64_t r = start < size * 8 ? v >> start : 0;

	if (len < 64)
		r &= BIT64(len) - 1;
	cpu->rflags = (cpu->rflags & ~(X86_CF | X86_OF | X86_ZF)) | (r ? 0 : X86_ZF);
	finish(cpu, i, size, r);
}

/* vex destination, r/m source. */
interp_inline void blsi(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size), r = v & (0 - v);

	cpu->rflags = bmi_flags(cpu->rflags, r, size, v != 0);
	finish(cpu, i, size, r);
}

interp_inline void blsr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size), r = v & (v - 1);

	cpu->rflags = bmi_flags(cpu->rflags, r, size, v == 0);
	finish(cpu, i, size, r);
}

interp_inline void blsmsk(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size), r = (v ^ (v - 1)) & interp_mask(size);

	cpu->rflags = bmi_flags(cpu->rflags, r, size, v == 0);
	finish(cpu, i, size, r);
}

interp_inline void bzhi(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size);
	unsigned n = (uint8_t)interp_get_reg(cpu, i, 2, size);
	uint64_t r = n < size * 8 ? v & (BIT64(n) - 1) : v;

	cpu->rflags = bmi_flags(cpu->rflags, r, size, n >= size * 8);
	finish(cpu, i, size, r);
}

interp_inline void pdep(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t mask = source(cpu, i, 2, size), v = interp_get_reg(cpu, i, 1, size), r = 0;

	for (; mask; mask &= mask - 1, v >>= 1)
		if (v & 1)
			r |= mask & (0 - mask);
	finish(cpu, i, size, r);
}

interp_inline void pext(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t mask = source(cpu, i, 2, size), v = interp_get_reg(cpu, i, 1, size), r = 0;

	for (unsigned n = 0; mask; mask &= mask - 1, n++)
		if (v & mask & (0 - mask))
			r |= BIT64(n);
	finish(cpu, i, size, r);
}

/* The high half is written last: it stays when both destinations are one register. */
interp_inline void mulx(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	__extension__ typedef unsigned __int128 wide;
	wide p = (wide)source(cpu, i, 2, size) * (cpu->gpr[X86_RDX] & interp_mask(size));

	interp_set_reg(cpu, i, 1, size, (uint64_t)p);
	finish(cpu, i, size, (uint64_t)(p >> (size * 8)));
}

interp_inline void rorx(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size);
	unsigned n = i->imm & (size * 8 - 1);

	finish(cpu, i, size, n ? v >> n | v << (size * 8 - n) : v);
}

interp_inline void sarx(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size);
	unsigned n = interp_get_reg(cpu, i, 2, size) & (size * 8 - 1);

	finish(cpu, i, size, (uint64_t)((int64_t)interp_sext(v, size) >> n));
}

interp_inline void shlx(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size);

	finish(cpu, i, size, v << (interp_get_reg(cpu, i, 2, size) & (size * 8 - 1)));
}

interp_inline void shrx(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, 1, size);

	finish(cpu, i, size, v >> (interp_get_reg(cpu, i, 2, size) & (size * 8 - 1)));
}

/* The size is the register operands': operand-size prefixes mean nothing under VEX. */
#define BMI(name, feature)                                                                                             \
	INTERP_HANDLER(name##_4, name, 4)                                                                              \
	INTERP_HANDLER(name##_8, name, 8)                                                                              \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)zi, (void)zo;                                                                                    \
		return interp_need(cpu, i, X86_FEAT_##feature, i->size[0] == 8 ? name##_8 : name##_4);                 \
	}

BMI(andn, BMI1)
BMI(bextr, BMI1)
BMI(blsi, BMI1)
BMI(blsr, BMI1)
BMI(blsmsk, BMI1)
BMI(bzhi, BMI2)
BMI(pdep, BMI2)
BMI(pext, BMI2)
BMI(mulx, BMI2)
BMI(rorx, BMI2)
BMI(sarx, BMI2)
BMI(shlx, BMI2)
BMI(shrx, BMI2)
