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
	if (unmasked & FLAG_UE) {
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
