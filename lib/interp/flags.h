/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arithmetic flags in C, eagerly (SDM 1 3.4.3.1), and the sixteen conditions (SDM 1 appendix B).
 * Every function takes `size` as a compile-time constant, so each folds to a handful of instructions.
 * Nothing here commits: a handler stores the new RFLAGS after its last access that may raise.
 */
#ifndef TZ_INTERP_FLAGS_H
#define TZ_INTERP_FLAGS_H

#include "base/compiler.h"
#include "x86/cpu.h"

#define interp_inline static inline __attribute__((always_inline))

/* X86_PF where the byte has an even number of ones. */
extern const uint8_t interp_parity[256];

interp_inline uint64_t interp_mask(unsigned size)
{
	return UINT64_MAX >> (64 - size * 8);
}

interp_inline uint64_t interp_sext(uint64_t v, unsigned size)
{
	return (uint64_t)((int64_t)(v << (64 - size * 8)) >> (64 - size * 8));
}

/* SF, ZF, PF of a result that is already truncated to `size`. */
interp_inline uint64_t interp_szp(uint64_t r, unsigned size)
{
	return interp_parity[(uint8_t)r] | (r ? 0 : X86_ZF) | (r >> (size * 8 - 1)) << 7;
}

interp_inline uint64_t interp_set_arith(uint64_t rflags, uint64_t f)
{
	return (rflags & ~X86_ARITH_FLAGS) | f;
}

enum interp_alu { INTERP_ADD, INTERP_OR, INTERP_ADC, INTERP_SBB, INTERP_AND, INTERP_SUB, INTERP_XOR, INTERP_CMP };

/* a op b; *rflags in and out. CMP returns what SUB would. */
interp_inline uint64_t interp_alu(enum interp_alu op, unsigned size, uint64_t a, uint64_t b, uint64_t *rflags)
{
	const uint64_t mask = interp_mask(size);
	const unsigned top = size * 8 - 1;
	uint64_t carry_in = *rflags & X86_CF, r, f;

	a &= mask;
	b &= mask;
	switch (op) {
	case INTERP_ADD:
	case INTERP_ADC:
		if (op == INTERP_ADD)
			carry_in = 0;
		r = (a + b + carry_in) & mask;
		f = (r < a || (carry_in && r == a)) ? X86_CF : 0;
		f |= ((a ^ r) & (b ^ r)) >> top << 11;
		f |= (a ^ b ^ r) & X86_AF;
		break;
	case INTERP_SUB:
	case INTERP_CMP:
	case INTERP_SBB:
		if (op != INTERP_SBB)
			carry_in = 0;
		r = (a - b - carry_in) & mask;
		f = (a < b || (carry_in && a == b)) ? X86_CF : 0;
		f |= ((a ^ b) & (a ^ r)) >> top << 11;
		f |= (a ^ b ^ r) & X86_AF;
		break;
	case INTERP_OR:
		r = a | b;
		f = 0;
		break;
	case INTERP_AND:
		r = a & b;
		f = 0;
		break;
	default:
		r = a ^ b;
		f = 0;
		break;
	}
	*rflags = interp_set_arith(*rflags, f | interp_szp(r, size));
	return r;
}

/* INC and DEC keep CF. */
interp_inline uint64_t interp_inc(unsigned size, uint64_t a, uint64_t *rflags)
{
	uint64_t cf = *rflags & X86_CF, r = interp_alu(INTERP_ADD, size, a, 1, rflags);

	*rflags = (*rflags & ~X86_CF) | cf;
	return r;
}

interp_inline uint64_t interp_dec(unsigned size, uint64_t a, uint64_t *rflags)
{
	uint64_t cf = *rflags & X86_CF, r = interp_alu(INTERP_SUB, size, a, 1, rflags);

	*rflags = (*rflags & ~X86_CF) | cf;
	return r;
}

/* Condition code as in the low four bits of a Jcc opcode. */
interp_inline bool interp_condition(uint64_t f, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case 0: r = f & X86_OF; break;
	case 1: r = f & X86_CF; break;
	case 2: r = f & X86_ZF; break;
	case 3: r = f & (X86_CF | X86_ZF); break;
	case 4: r = f & X86_SF; break;
	case 5: r = f & X86_PF; break;
	case 6: r = ((f >> 7) ^ (f >> 11)) & 1; break;
	default: r = (((f >> 7) ^ (f >> 11)) & 1) | ((f >> 6) & 1); break;
	}
	return r ^ (cc & 1);
}

#endif
