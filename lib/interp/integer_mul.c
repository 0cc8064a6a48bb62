/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MUL, IMUL, DIV, IDIV (SDM 2A, 2B). SF, ZF, AF and PF after a multiplication and all flags after a
 * division are undefined.
 */
#include "interp/integer.h"

__extension__ typedef unsigned __int128 wide;
__extension__ typedef __int128 swide;

interp_inline uint64_t rm_read(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, unsigned size)
{
	return i->kind[n] == INTERP_OP_MEM ? interp_read_mem(cpu, i, size) : interp_get_reg(cpu, i, n, size);
}

/* rDX:rAX, or AX for bytes. */
interp_inline void product_write(struct x86_cpu *cpu, unsigned size, uint64_t lo, uint64_t hi)
{
	if (size == 1) {
		interp_reg_write(cpu, X86_RAX, 2, (lo & 0xff) | (hi & 0xff) << 8);
		return;
	}
	interp_reg_write(cpu, X86_RAX, size, lo);
	interp_reg_write(cpu, X86_RDX, size, hi);
}

interp_inline void overflow_flags(struct x86_cpu *cpu, bool overflow)
{
	cpu->rflags = (cpu->rflags & ~(X86_CF | X86_OF)) | (overflow ? X86_CF | X86_OF : 0);
}

interp_inline void mul(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	wide p = (wide)rm_read(cpu, i, 0, size) * (cpu->gpr[X86_RAX] & interp_mask(size));
	uint64_t hi = (uint64_t)(p >> (size * 8));

	product_write(cpu, size, (uint64_t)p, hi);
	overflow_flags(cpu, hi != 0);
	interp_next(cpu, i);
}

interp_inline void imul1(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	swide p = (swide)(int64_t)interp_sext(rm_read(cpu, i, 0, size), size) *
		  (int64_t)interp_sext(cpu->gpr[X86_RAX], size);

	product_write(cpu, size, (uint64_t)p, (uint64_t)(p >> (size * 8)));
	overflow_flags(cpu, p != (swide)(int64_t)interp_sext((uint64_t)p, size));
	interp_next(cpu, i);
}

/* Two operands: reg *= r/m. Three: reg = r/m * imm. */
interp_inline void imul(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool three)
{
	uint64_t a = rm_read(cpu, i, 1, size), b = three ? i->imm : interp_get_reg(cpu, i, 0, size);
	swide p = (swide)(int64_t)interp_sext(a, size) * (int64_t)interp_sext(b, size);

	interp_set_reg(cpu, i, 0, size, (uint64_t)p);
	overflow_flags(cpu, p != (swide)(int64_t)interp_sext((uint64_t)p, size));
	interp_next(cpu, i);
}

INTERP_SIZES(mul_fn, mul)
INTERP_SIZES(imul1_fn, imul1)
INTERP_WIDE_SIZES(imul2_fn, imul, false)
INTERP_WIDE_SIZES(imul3_fn, imul, true)

bool interp_bind_mul(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(mul_fn, i->opsize));
}

bool interp_bind_imul(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	interp_exec_fn *const *fn = i->kind[1] == INTERP_OP_NONE   ? imul1_fn
				    : i->kind[2] == INTERP_OP_NONE ? imul2_fn
								   : imul3_fn;

	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(fn, i->opsize));
}

interp_inline wide dividend(const struct x86_cpu *cpu, unsigned size)
{
	if (size == 1)
		return (uint16_t)cpu->gpr[X86_RAX];
	return (wide)(cpu->gpr[X86_RDX] & interp_mask(size)) << (size * 8) | (cpu->gpr[X86_RAX] & interp_mask(size));
}

/*
 * 128 by 64 bits, bit by bit; the high half is below the divisor. The compiler's own function for
 * it uses vector registers, which hold guest state here.
 */
static uint64_t divide_long(uint64_t hi, uint64_t lo, uint64_t d, uint64_t *rem)
{
	for (unsigned n = 0; n < 64; n++) {
		bool carry = hi >> 63;

		hi = hi << 1 | lo >> 63;
		lo <<= 1;
		if (carry || hi >= d) {
			hi -= d;
			lo |= 1;
		}
	}
	*rem = hi;
	return lo;
}

/* #DE if the quotient needs more than 64 bits, which covers a zero divisor. */
interp_inline uint64_t divide(struct x86_cpu *cpu, wide n, uint64_t d, uint64_t *rem)
{
	uint64_t hi = (uint64_t)(n >> 64), lo = (uint64_t)n;

	if (hi >= d)
		x86_raise(cpu, X86_DE);
	if (likely(!hi)) {
		*rem = lo % d;
		return lo / d;
	}
	return divide_long(hi, lo, d, rem);
}

interp_inline void div_unsigned(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t d = rm_read(cpu, i, 0, size), rem;
	uint64_t q = divide(cpu, dividend(cpu, size), d, &rem);

	if (q > interp_mask(size))
		x86_raise(cpu, X86_DE);
	product_write(cpu, size, q, rem);
	interp_next(cpu, i);
}

/* On magnitudes: the quotient is truncated towards zero, the remainder has the dividend's sign. */
interp_inline void div_signed(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t d = interp_sext(rm_read(cpu, i, 0, size), size), rem, q;
	wide n = dividend(cpu, size);
	bool n_negative = n >> (size * 16 - 1) & 1, d_negative = d >> 63, negative = n_negative ^ d_negative;

	if (n_negative)
		n = size == 8 ? 0 - n : (0 - (uint64_t)n) & interp_mask(size < 8 ? size * 2 : 8);
	q = divide(cpu, n, d_negative ? 0 - d : d, &rem);
	if (q > (interp_mask(size) >> 1) + negative)
		x86_raise(cpu, X86_DE);
	product_write(cpu, size, negative ? 0 - q : q, n_negative ? 0 - rem : rem);
	interp_next(cpu, i);
}

INTERP_SIZES(div_fn, div_unsigned)
INTERP_SIZES(idiv_fn, div_signed)

bool interp_bind_div(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(div_fn, i->opsize));
}

bool interp_bind_idiv(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(idiv_fn, i->opsize));
}
