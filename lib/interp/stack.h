/* SPDX-License-Identifier: Apache-2.0 */
/* Push and pop with an inline path for what 64-bit code does all day; the rest is x86/segment.h's. */
#ifndef TZ_INTERP_STACK_H
#define TZ_INTERP_STACK_H

#include "interp/operand.h"

/* 64-bit stack, 8-byte slot at a canonical address and no alignment check: SS says nothing (SDM 3A 3.4.4). */
interp_inline bool interp_stack_simple(const struct x86_cpu *cpu, unsigned size, uint64_t a)
{
	return likely(size == 8 && cpu->code_size == 8 && (uint64_t)((int64_t)a >> 47) + 1 <= 1 &&
		      (uint64_t)((int64_t)(a + 8) >> 47) + 1 <= 1 && !(cpu->rflags & X86_AC));
}

/* Commits SP: the last thing a handler does that can raise. */
interp_inline void interp_push(struct x86_cpu *cpu, uint64_t v, unsigned size)
{
	uint64_t a = cpu->gpr[X86_RSP] - 8;

	if (interp_stack_simple(cpu, size, a)) {
		x86_write64(cpu, a, v);
		cpu->gpr[X86_RSP] = a;
	} else {
		x86_push(cpu, v, size);
	}
}

/* The value on top; the handler moves SP when nothing can raise any more. */
interp_inline uint64_t interp_top(struct x86_cpu *cpu, unsigned size)
{
	uint64_t a = cpu->gpr[X86_RSP];

	if (interp_stack_simple(cpu, size, a))
		return x86_read64(cpu, a);
	return x86_stack_peek(cpu, 0, size);
}

interp_inline void interp_stack_move(struct x86_cpu *cpu, int64_t delta)
{
	if (likely(cpu->stack_size == 8))
		cpu->gpr[X86_RSP] += (uint64_t)delta;
	else
		x86_stack_adjust(cpu, delta);
}

#endif
