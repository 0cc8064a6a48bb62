/* SPDX-License-Identifier: Apache-2.0 */
/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE. The operand size is the slot's, the width of SP is the stack's. */
#include "interp/groups.h"
#include "interp/integer.h"
#include "interp/stack.h"

/* PUSH rSP pushes the value from before. */
interp_inline void push_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_push(cpu, interp_get_reg(cpu, i, 0, size), size);
	interp_next(cpu, i);
}

interp_inline void push_i(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_push(cpu, i->imm, size);
	interp_next(cpu, i);
}

interp_inline void push_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_push(cpu, interp_read_mem(cpu, i, size), size);
	interp_next(cpu, i);
}

/* POP rSP: the popped value wins over the increment. */
interp_inline void pop_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = interp_top(cpu, size);

	interp_stack_move(cpu, size);
	interp_set_reg(cpu, i, 0, size, v);
	interp_next(cpu, i);
}

/* An rSP-based destination is addressed with SP already incremented (SDM 2B POP). */
interp_inline void pop_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = interp_top(cpu, size), a = interp_ea(cpu, i), linear;

	if (i->base == X86_RSP)
		a = (a + size) & interp_mask(i->addrsize);
	linear = x86_linear(cpu, i->seg, a, size, true);
	if (cpu->cpl == 3 && (cpu->rflags & X86_AC))
		x86_check_align(cpu, linear, size);
	interp_store(cpu, linear, size, v);
	interp_stack_move(cpu, size);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(push_r_fn, push_r)
INTERP_WIDE_SIZES(push_i_fn, push_i)
INTERP_WIDE_SIZES(push_m_fn, push_m)
INTERP_WIDE_SIZES(pop_r_fn, pop_r)
INTERP_WIDE_SIZES(pop_m_fn, pop_m)

bool interp_bind_push(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	interp_exec_fn *const *fn = i->kind[0] == INTERP_OP_MEM   ? push_m_fn
				    : i->kind[0] == INTERP_OP_IMM ? push_i_fn
								  : push_r_fn;

	if (i->kind[0] == INTERP_OP_SEG)
		return interp_bind_push_pop_seg(cpu, i, zi, zo);
	return interp_choose(i, interp_by_size(fn, i->opsize));
}

bool interp_bind_pop(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	if (i->kind[0] == INTERP_OP_SEG)
		return interp_bind_push_pop_seg(cpu, i, zi, zo);
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? pop_m_fn : pop_r_fn, i->opsize));
}

/* Raise now whatever pushing `count` slots would raise. */
static void probe_push(struct x86_cpu *cpu, unsigned n, unsigned size)
{
	x86_probe_write(cpu, x86_stack_linear(cpu, -(int64_t)(n * size), size, true), size, cpu->mmu_index);
}

static void poke(struct x86_cpu *cpu, int64_t delta, uint64_t v, unsigned size)
{
	x86_write(cpu, x86_stack_linear(cpu, delta, size, true), v, size, cpu->mmu_index);
}

static void exec_pusha(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = i->opsize;

	for (unsigned n = 1; n <= 8; n++)
		probe_push(cpu, n, size);
	for (unsigned n = 0; n < 8; n++)
		poke(cpu, -(int64_t)((n + 1) * size), interp_reg_read(cpu, n, size), size);
	x86_stack_adjust(cpu, -(int64_t)(8 * size));
	interp_next(cpu, i);
}

/* The slot of SP is skipped. */
static void exec_popa(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = i->opsize;
	uint64_t v[8];

	for (unsigned n = 0; n < 8; n++)
		v[7 - n] = x86_stack_peek(cpu, n * size, size);
	x86_stack_adjust(cpu, 8 * size);
	for (unsigned n = 0; n < 8; n++)
		if (n != X86_RSP)
			interp_reg_write(cpu, n, size, v[n]);
	interp_next(cpu, i);
}

bool interp_bind_pusha(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_pusha);
}

bool interp_bind_popa(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_popa);
}

/* Distance from SP to BP, in the stack's width. */
static int64_t bp_delta(const struct x86_cpu *cpu)
{
	return (int64_t)interp_sext(cpu->gpr[X86_RBP] - cpu->gpr[X86_RSP], cpu->stack_size);
}

/*
 * ENTER alloc, level (SDM 2A). The old frame pointers are copied from [rBP - n * size], in the
 * stack's width; the final SP must be writable as well.
 */
static void exec_enter(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = i->opsize, level = i->imm2 & 31;
	uint64_t frame[32], sp;
	int64_t to_bp = bp_delta(cpu), delta;
	bool overlap;

	probe_push(cpu, 1, size);
	for (unsigned n = 1; n < level; n++) {
		frame[n] = x86_stack_peek(cpu, to_bp - (int64_t)(n * size), size);
		probe_push(cpu, n + 1, size);
	}
	if (level)
		probe_push(cpu, level + 1, size);
	delta = -(int64_t)((level + 1) * size) - (uint16_t)i->imm;
	x86_probe_write(cpu, x86_stack_linear(cpu, delta, size, true), size, cpu->mmu_index);

	sp = (cpu->gpr[X86_RSP] - size) & interp_mask(cpu->stack_size);
	poke(cpu, -(int64_t)size, interp_reg_read(cpu, X86_RBP, size), size);
	/* A display that the new frame overlaps is read as it is overwritten, a pointer at a time. */
	overlap = to_bp > -(int64_t)((level + 1) * size) && to_bp < (int64_t)(level * size);
	for (unsigned n = 1; n < level; n++) {
		if (overlap)
			frame[n] = x86_stack_peek(cpu, to_bp - (int64_t)(n * size), size);
		poke(cpu, -(int64_t)((n + 1) * size), frame[n], size);
	}
	if (level)
		poke(cpu, -(int64_t)((level + 1) * size), sp, size);
	x86_stack_adjust(cpu, delta);
	interp_reg_write(cpu, X86_RBP, size < cpu->stack_size ? size : cpu->stack_size, sp);
	interp_next(cpu, i);
}

bool interp_bind_enter(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi;
	i->imm = zo[0].imm.value.u;
	i->imm2 = zo[1].imm.value.u;
	return interp_choose(i, exec_enter);
}

/* SP = BP, then POP BP; in one step, so that a fault leaves SP alone. */
static void exec_leave(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t v, a = cpu->gpr[X86_RBP];

	if (interp_stack_simple(cpu, i->opsize, a)) {
		v = x86_read64(cpu, a);
		cpu->gpr[X86_RSP] = a + 8;
	} else {
		int64_t delta = bp_delta(cpu);

		v = x86_stack_peek(cpu, delta, i->opsize);
		x86_stack_adjust(cpu, delta + i->opsize);
	}
	interp_reg_write(cpu, X86_RBP, i->opsize, v);
	interp_next(cpu, i);
}

bool interp_bind_leave(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_leave);
}
