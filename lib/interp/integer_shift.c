/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shifts and rotates (SDM 2B SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR; 2B SHLD, SHRD).
 *
 * A masked count of zero changes no flag. For larger counts OF is undefined: it is computed as
 * for a count of one, which is what processors do. AF after a shift is undefined: cleared.
 */
#include "interp/integer.h"

enum shift { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR };

interp_inline uint64_t flag_cf_of(uint64_t f, uint64_t cf, uint64_t of)
{
	return (f & ~(X86_CF | X86_OF)) | cf | of << 11;
}

/* The two top bits of a result differ: OF of the instructions that move right. */
interp_inline uint64_t top_bits_differ(uint64_t r, unsigned size)
{
	return (r >> (size * 8 - 1) ^ r >> (size * 8 - 2)) & 1;
}

interp_inline uint64_t rotate(enum shift op, unsigned size, uint64_t a, unsigned count, uint64_t *f)
{
	const unsigned bits = size * 8;
	const uint64_t mask = interp_mask(size);
	unsigned c = count & (bits - 1);
	uint64_t r = a, cf;

	if (op == SHIFT_ROL) {
		if (c)
			r = (a << c | a >> (bits - c)) & mask;
		cf = r & 1;
		*f = flag_cf_of(*f, cf, (r >> (bits - 1)) ^ cf);
	} else {
		if (c)
			r = (a >> c | a << (bits - c)) & mask;
		cf = r >> (bits - 1);
		*f = flag_cf_of(*f, cf, top_bits_differ(r, size));
	}
	return r;
}

/* Through CF: bits + 1 wide. */
interp_inline uint64_t rotate_carry(enum shift op, unsigned size, uint64_t a, unsigned count, uint64_t *f)
{
	const unsigned bits = size * 8;
	unsigned c = size <= 2 ? count % (bits + 1) : count;
	uint64_t cf = *f & X86_CF, r = a, out = cf;

	if (c && op == SHIFT_RCL) {
		r = (a << c | cf << (c - 1) | (c > 1 ? a >> (bits + 1 - c) : 0)) & interp_mask(size);
		out = a >> (bits - c) & 1;
	} else if (c) {
		r = (a >> c | cf << (bits - c) | (c > 1 ? a << (bits + 1 - c) : 0)) & interp_mask(size);
		out = a >> (c - 1) & 1;
	}
	*f = flag_cf_of(*f, out, op == SHIFT_RCL ? (r >> (bits - 1)) ^ out : top_bits_differ(r, size));
	return r;
}

interp_inline uint64_t shift(enum shift op, unsigned size, uint64_t a, unsigned c, uint64_t *f)
{
	const unsigned bits = size * 8;
	uint64_t r, cf, of;

	if (op == SHIFT_SHL) {
		/* Bits shifted out further than one above the top leave CF clear. */
		cf = size == 8 ? a >> (64 - c) & 1 : (a << c) >> bits & 1;
		r = (a << c) & interp_mask(size);
		of = (r >> (bits - 1)) ^ cf;
	} else if (op == SHIFT_SHR) {
		cf = a >> (c - 1) & 1;
		r = a >> c;
		of = top_bits_differ(r, size);
	} else {
		int64_t s = (int64_t)interp_sext(a, size);

		cf = (uint64_t)(s >> (c - 1)) & 1;
		r = (uint64_t)(s >> c) & interp_mask(size);
		of = 0;
	}
	*f = interp_set_arith(*f, interp_szp(r, size) | cf | of << 11);
	return r;
}

/* a is truncated; count is not masked yet. */
interp_inline uint64_t shift_any(enum shift op, unsigned size, uint64_t a, unsigned count, uint64_t *f)
{
	count &= size == 8 ? 63 : 31;
	if (!count)
		return a;
	if (op <= SHIFT_ROR)
		return rotate(op, size, a, count, f);
	if (op <= SHIFT_RCR)
		return rotate_carry(op, size, a, count, f);
	return shift(op, size, a, count, f);
}

interp_inline void shift_ri(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum shift op)
{
	uint64_t a = interp_get_reg(cpu, i, 0, size);

	interp_set_reg(cpu, i, 0, size, shift_any(op, size, a, (uint8_t)i->imm, &cpu->rflags));
	interp_next(cpu, i);
}

interp_inline void shift_rc(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum shift op)
{
	uint64_t a = interp_get_reg(cpu, i, 0, size);

	interp_set_reg(cpu, i, 0, size, shift_any(op, size, a, (uint8_t)cpu->gpr[X86_RCX], &cpu->rflags));
	interp_next(cpu, i);
}

interp_inline void shift_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum shift op)
{
	unsigned count = (uint8_t)interp_get_source(cpu, i, 1, 1);
	uint64_t f = cpu->rflags;
	struct interp_rmw m;
	uint64_t a = interp_rmw_read(cpu, interp_linear(cpu, i, size, true), size, &m);

	interp_rmw_write(cpu, &m, size, shift_any(op, size, a, count, &f));
	cpu->rflags = f;
	interp_next(cpu, i);
}

#define SHIFT(name, op)                                                                                                \
	INTERP_SIZES(name##_ri, shift_ri, op)                                                                          \
	INTERP_SIZES(name##_rc, shift_rc, op)                                                                          \
	INTERP_SIZES(name##_m, shift_m, op)                                                                            \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		interp_exec_fn *const *fn = i->kind[0] == INTERP_OP_MEM   ? name##_m                                   \
					    : i->kind[1] == INTERP_OP_IMM ? name##_ri                                  \
									  : name##_rc;                                 \
                                                                                                                       \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		return interp_choose(i, interp_by_size(fn, i->opsize));                                                \
	}

SHIFT(rol, SHIFT_ROL)
SHIFT(ror, SHIFT_ROR)
SHIFT(rcl, SHIFT_RCL)
SHIFT(rcr, SHIFT_RCR)
SHIFT(shl, SHIFT_SHL)
SHIFT(shr, SHIFT_SHR)
SHIFT(sar, SHIFT_SAR)

/*
 * SHLD, SHRD. A 16-bit operand with a count over 16 is undefined; processors go on through a
 * second copy of the source, then of the destination.
 */
interp_inline uint64_t shift_double(bool left, unsigned size, uint64_t a, uint64_t b, unsigned count, uint64_t *f)
{
	const unsigned bits = size * 8;
	unsigned c = count & (size == 8 ? 63 : 31);
	uint64_t r, cf;

	if (!c)
		return a;
	if (size == 2) {
		uint64_t w = left ? a << 32 | b << 16 | a : a << 32 | b << 16 | a;

		if (left) {
			cf = w >> (48 - c) & 1;
			r = w << c >> 32 & 0xffff;
		} else {
			cf = w >> (c - 1) & 1;
			r = w >> c & 0xffff;
		}
	} else if (left) {
		cf = a >> (bits - c) & 1;
		r = (a << c | b >> (bits - c)) & interp_mask(size);
	} else {
		cf = a >> (c - 1) & 1;
		r = (a >> c | b << (bits - c)) & interp_mask(size);
	}
	*f = interp_set_arith(*f, interp_szp(r, size) | cf | ((a ^ r) >> (bits - 1) & 1) << 11);
	return r;
}

interp_inline void shld_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool left)
{
	uint64_t a = interp_get_reg(cpu, i, 0, size), b = interp_get_reg(cpu, i, 1, size);
	unsigned count = (uint8_t)interp_get_source(cpu, i, 2, 1);

	interp_set_reg(cpu, i, 0, size, shift_double(left, size, a, b, count, &cpu->rflags));
	interp_next(cpu, i);
}

interp_inline void shld_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool left)
{
	unsigned count = (uint8_t)interp_get_source(cpu, i, 2, 1);
	uint64_t f = cpu->rflags, b = interp_get_reg(cpu, i, 1, size);
	struct interp_rmw m;
	uint64_t a = interp_rmw_read(cpu, interp_linear(cpu, i, size, true), size, &m);

	interp_rmw_write(cpu, &m, size, shift_double(left, size, a, b, count, &f));
	cpu->rflags = f;
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(shld_r_fn, shld_r, true)
INTERP_WIDE_SIZES(shld_m_fn, shld_m, true)
INTERP_WIDE_SIZES(shrd_r_fn, shld_r, false)
INTERP_WIDE_SIZES(shrd_m_fn, shld_m, false)

bool interp_bind_shld(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? shld_m_fn : shld_r_fn, i->opsize));
}

bool interp_bind_shrd(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? shrd_m_fn : shrd_r_fn, i->opsize));
}
