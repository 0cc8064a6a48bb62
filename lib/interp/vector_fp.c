/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIMD floating-point exceptions that MXCSR unmasks (SDM 1 11.5). The host must not take them, so
 * the instruction runs with all masked and its flags clear; what it raised says whether hardware
 * would have delivered #XM, and then it is undone.
 */
#include "interp/vector.h"

#define FLAG_PRE 0x07u /* invalid, denormal, divide by zero: found before the computation (SDM 1 11.5.3.1) */
#define FLAG_UE 0x10u

static uint32_t mxcsr_get(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void mxcsr_set(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

/* The area has the vector state from before. */
static void undo(struct x86_cpu *cpu, const struct interp_vector *v)
{
	x86_fpu_changed(cpu);
	tz_copy(cpu->gpr, v->saved_gpr, sizeof(v->saved_gpr));
	cpu->rflags = v->saved_flags;
}

static uint32_t run_masked(struct x86_cpu *cpu, const struct interp_insn *i, void *mem, uint32_t control)
{
	mxcsr_set((control | VECTOR_MXCSR_MASKS) & ~VECTOR_MXCSR_FLAGS);
	vector_call_live(cpu, i, mem);
	return mxcsr_get() & VECTOR_MXCSR_FLAGS;
}

/*
 * VCVTPS2PH heeds no flush-to-zero (SDM 2C VCVTPS2PH), so its source says whether a result is tiny and exact: one is,
 * if below 2^-14, the least normal number, and a multiple of 2^-24. The rest of the tiny ones are inexact. Registers
 * are live.
 */
#define HALF_MIN 0x38800000u /* 2^-14, as the bits of a float */
#define HALF_LEAST 103       /* the exponent of 2^-24 */

static bool has_tiny_halves(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct interp_vector *v = vector_of(cpu);
	const uint8_t *p = i->raw;
	unsigned reg, count;
	uint64_t mask = UINT64_MAX;

	while (*p != 0xc4 && *p != 0x62)
		p++;
	/* SDM 2A 2.3.5, 2.7.1. */
	reg = p[1] & 0x80 ? 0 : 8;
	if (*p == 0x62) {
		reg |= (p[1] & 0x10 ? 0 : 16) | (p[5] >> 3 & 7);
		if ((p[3] & 0x10) && p[5] >= 0xc0) /* {sae}: no exceptions */
			return false;
		count = 4u << (p[3] >> 5 & 3);
		if (p[3] & 7)
			mask = v->k_read[p[3] & 7]();
	} else {
		reg |= p[4] >> 3 & 7;
		count = p[2] & 4 ? 8 : 4;
	}
	v->reg_store[x86_long64(cpu) ? reg : reg & 7](cpu, v->reg[0]);
	for (unsigned n = 0; n < count; n++) {
		uint32_t f = guest_load32(v->reg[0] + 4 * n) & 0x7fffffff, e = f >> 23;

		/* The lowest bit of a fraction of exponent e stands for 2^(e - 127 - 23). */
		if ((mask >> n & 1) && f < HALF_MIN && e >= HALF_LEAST && !(f & (BIT32(126 - e) - 1) & 0x7fffff))
			return true;
	}
	return false;
}

void vector_run_unmasked(struct x86_cpu *cpu, const struct interp_insn *i, void *mem)
{
	struct interp_vector *v = vector_of(cpu);
	uint32_t before, unmasked, raised, tiny = 0;

	x86_fpu_load(cpu);
	x86_fpu_sync(cpu);
	tz_copy(v->saved_gpr, cpu->gpr, sizeof(v->saved_gpr));
	v->saved_flags = cpu->rflags;
	before = mxcsr_get();
	unmasked = ~(before >> 7) & VECTOR_MXCSR_FLAGS;
	if ((unmasked & FLAG_UE) && i->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH) {
		tiny = has_tiny_halves(cpu, i) ? FLAG_UE : 0;
	} else if (unmasked & FLAG_UE) {
		/*
		 * Unmasked, underflow is a tiny result; masked, it must be inexact too (SDM 1 4.9.1.5).
		 * Flush-to-zero reports every tiny one: ask that way first.
		 */
		tiny = run_masked(cpu, i, mem, before | VECTOR_MXCSR_FTZ) & FLAG_UE;
		undo(cpu, v);
		before &= ~VECTOR_MXCSR_FTZ; /* without effect while underflow is unmasked */
	}
	raised = run_masked(cpu, i, mem, before) | tiny;
	before = vector_area_mxcsr(cpu);
	if (!(raised & unmasked)) {
		mxcsr_set(before | raised);
		return;
	}
	undo(cpu, v);
	if (raised & unmasked & FLAG_PRE)
		raised &= FLAG_PRE; /* the computation was not done */
	mxcsr_set(before | raised);
	vector_rest(cpu);
	x86_raise(cpu, cpu->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
}
