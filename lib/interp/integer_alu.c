/* SPDX-License-Identifier: Apache-2.0 */
/* ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT, one handler for each operand form and size. */
#include "interp/integer.h"

/* reg op reg, reg op imm */
interp_inline void alu_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op)
{
	uint64_t r =
		interp_alu(op, size, interp_get_reg(cpu, i, 0, size), interp_get_reg(cpu, i, 1, size), &cpu->rflags);

	if (op != INTERP_CMP)
		interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

interp_inline void alu_ri(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op)
{
	uint64_t r = interp_alu(op, size, interp_get_reg(cpu, i, 0, size), i->imm, &cpu->rflags);

	if (op != INTERP_CMP)
		interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

/* reg op mem */
interp_inline void alu_rm(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op)
{
	uint64_t b = interp_read_mem(cpu, i, size);
	uint64_t r = interp_alu(op, size, interp_get_reg(cpu, i, 0, size), b, &cpu->rflags);

	if (op != INTERP_CMP)
		interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

/* mem op (reg or imm) */
interp_inline void alu_mem(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op,
			   uint64_t b)
{
	uint64_t f = cpu->rflags, r;
	struct interp_rmw m;

	if (op == INTERP_CMP) {
		interp_alu(op, size, interp_read_mem(cpu, i, size), b, &f);
	} else {
		r = interp_alu(op, size, interp_rmw_read(cpu, interp_linear(cpu, i, size, true), size, &m), b, &f);
		interp_rmw_write(cpu, &m, size, r);
	}
	cpu->rflags = f;
	interp_next(cpu, i);
}

interp_inline void alu_mr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op)
{
	alu_mem(cpu, i, size, op, interp_get_reg(cpu, i, 1, size));
}

interp_inline void alu_mi(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_alu op)
{
	alu_mem(cpu, i, size, op, i->imm);
}

static bool alu_bind(struct interp_insn *i, interp_exec_fn *const rr[4], interp_exec_fn *const ri[4],
		     interp_exec_fn *const rm[4], interp_exec_fn *const mr[4], interp_exec_fn *const mi[4])
{
	interp_exec_fn *const *fn;

	if (i->kind[0] == INTERP_OP_MEM)
		fn = i->kind[1] == INTERP_OP_IMM ? mi : mr;
	else
		fn = i->kind[1] == INTERP_OP_IMM ? ri : i->kind[1] == INTERP_OP_MEM ? rm : rr;
	return interp_choose(i, interp_by_size(fn, i->opsize));
}

#define ALU(name, op)                                                                                                  \
	INTERP_SIZES(name##_rr, alu_rr, op)                                                                            \
	INTERP_SIZES(name##_ri, alu_ri, op)                                                                            \
	INTERP_SIZES(name##_rm, alu_rm, op)                                                                            \
	INTERP_SIZES(name##_mr, alu_mr, op)                                                                            \
	INTERP_SIZES(name##_mi, alu_mi, op)                                                                            \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		if (i->flags & INTERP_LOCK)                                                                            \
			return interp_bind_locked(i, (enum interp_locked)(op));                                        \
		return alu_bind(i, name##_rr, name##_ri, name##_rm, name##_mr, name##_mi);                             \
	}

ALU(add, INTERP_ADD)
ALU(or, INTERP_OR)
ALU(adc, INTERP_ADC)
ALU(sbb, INTERP_SBB)
ALU(and, INTERP_AND)
ALU(sub, INTERP_SUB)
ALU(xor, INTERP_XOR)
ALU(cmp, INTERP_CMP)

/* TEST is AND without a result. */
interp_inline void test_any(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t a, uint64_t b)
{
	interp_alu(INTERP_AND, size, a, b, &cpu->rflags);
	interp_next(cpu, i);
}

interp_inline void test_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	test_any(cpu, i, size, interp_get_reg(cpu, i, 0, size), interp_get_reg(cpu, i, 1, size));
}

interp_inline void test_ri(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	test_any(cpu, i, size, interp_get_reg(cpu, i, 0, size), i->imm);
}

interp_inline void test_mr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	test_any(cpu, i, size, interp_read_mem(cpu, i, size), interp_get_reg(cpu, i, 1, size));
}

interp_inline void test_mi(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	test_any(cpu, i, size, interp_read_mem(cpu, i, size), i->imm);
}

INTERP_SIZES(test_rr_fn, test_rr)
INTERP_SIZES(test_ri_fn, test_ri)
INTERP_SIZES(test_mr_fn, test_mr)
INTERP_SIZES(test_mi_fn, test_mi)

bool interp_bind_test(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	bool imm = i->kind[1] == INTERP_OP_IMM;

	(void)cpu, (void)zi, (void)zo;
	if (i->kind[0] == INTERP_OP_MEM)
		return interp_choose(i, interp_by_size(imm ? test_mi_fn : test_mr_fn, i->opsize));
	return interp_choose(i, interp_by_size(imm ? test_ri_fn : test_rr_fn, i->opsize));
}

/* INC DEC NEG NOT */
interp_inline uint64_t unary(enum interp_locked op, unsigned size, uint64_t a, uint64_t *f)
{
	switch (op) {
	case INTERP_LOCKED_INC: return interp_inc(size, a, f);
	case INTERP_LOCKED_DEC: return interp_dec(size, a, f);
	case INTERP_LOCKED_NEG: return interp_alu(INTERP_SUB, size, 0, a, f);
	default: return ~a & interp_mask(size);
	}
}

interp_inline void unary_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_locked op)
{
	interp_set_reg(cpu, i, 0, size, unary(op, size, interp_get_reg(cpu, i, 0, size), &cpu->rflags));
	interp_next(cpu, i);
}

interp_inline void unary_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_locked op)
{
	struct interp_rmw m;
	uint64_t f = cpu->rflags;
	uint64_t a = interp_rmw_read(cpu, interp_linear(cpu, i, size, true), size, &m);

	interp_rmw_write(cpu, &m, size, unary(op, size, a, &f));
	cpu->rflags = f;
	interp_next(cpu, i);
}

#define UNARY(name, op)                                                                                                \
	INTERP_SIZES(name##_r, unary_r, op)                                                                            \
	INTERP_SIZES(name##_m, unary_m, op)                                                                            \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		if (i->flags & INTERP_LOCK)                                                                            \
			return interp_bind_locked(i, op);                                                              \
		return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? name##_m : name##_r, i->opsize)); \
	}

UNARY(inc, INTERP_LOCKED_INC)
UNARY(dec, INTERP_LOCKED_DEC)
UNARY(neg, INTERP_LOCKED_NEG)
UNARY(not, INTERP_LOCKED_NOT)
