/* SPDX-License-Identifier: Apache-2.0 */
/* Near JMP, CALL, RET, Jcc, LOOP, JrCXZ, and BOUND. */
#include "interp/groups.h"
#include "interp/integer.h"
#include "interp/stack.h"
#include "x86/transfer_internal.h"

/* RIP after an instruction, or a branch target, in the width of the operand size. */
interp_inline uint64_t truncate_rip(uint64_t rip, unsigned size)
{
	return size == 8 ? rip : size == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* #GP(0) for a target that is not canonical or beyond CS's limit, before anything is committed. */
interp_inline void check_target(struct x86_cpu *cpu, uint64_t target)
{
	if (likely(cpu->code_size == 8 && (uint64_t)((int64_t)target >> 47) + 1 <= 1))
		return;
	x86_check_rip(cpu, target);
}

interp_inline uint64_t relative(const struct x86_cpu *cpu, const struct interp_insn *i)
{
	return truncate_rip(cpu->rip + i->len + i->imm, i->opsize);
}

interp_inline void jump_relative(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t target = relative(cpu, i);

	check_target(cpu, target);
	cpu->rip = target;
}

/*
 * Near branches in 64-bit mode: Intel ignores an operand-size prefix, AMD truncates RIP to 16 bits (APM 3, near
 * branches). The decoder knows some of them, and not behind REX.
 */
static void amd_branch_size(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi)
{
	if (i->opsize != 8 || !x86_vendor_is_amd(cpu) || ((zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W))
		return;
	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		if (zi->raw.prefixes[n].value == 0x66)
			i->opsize = 2;
}

#define JCC(cc)                                                                                                        \
	static void exec_jcc_##cc(struct x86_cpu *cpu, const struct interp_insn *i)                                    \
	{                                                                                                              \
		if (interp_condition(cpu->rflags, cc))                                                                 \
			jump_relative(cpu, i);                                                                         \
		else                                                                                                   \
			interp_next(cpu, i);                                                                           \
	}

JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)

bool interp_bind_jcc(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	static interp_exec_fn *const fn[16] = {
		exec_jcc_0, exec_jcc_1, exec_jcc_2,  exec_jcc_3,  exec_jcc_4,  exec_jcc_5,  exec_jcc_6,  exec_jcc_7,
		exec_jcc_8, exec_jcc_9, exec_jcc_10, exec_jcc_11, exec_jcc_12, exec_jcc_13, exec_jcc_14, exec_jcc_15,
	};

	(void)zo;
	amd_branch_size(cpu, i, zi);
	i->cond = zi->opcode & 15;
	return interp_choose(i, fn[i->cond]);
}

/* LOOP, LOOPE, LOOPNE count rCX of the address size; JrCXZ only looks. i->extra: what to test. */
enum { LOOP_COUNT, LOOP_COUNT_E, LOOP_COUNT_NE, LOOP_CXZ };

static void exec_loop(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t count = interp_reg_read(cpu, X86_RCX, i->addrsize), target = relative(cpu, i);
	bool taken;

	if (i->extra != LOOP_CXZ)
		count = (count - 1) & interp_mask(i->addrsize);
	taken = i->extra == LOOP_CXZ ? !count : count != 0;
	if (i->extra == LOOP_COUNT_E)
		taken = taken && (cpu->rflags & X86_ZF);
	else if (i->extra == LOOP_COUNT_NE)
		taken = taken && !(cpu->rflags & X86_ZF);
	if (taken)
		check_target(cpu, target);
	if (i->extra != LOOP_CXZ)
		interp_reg_write(cpu, X86_RCX, i->addrsize, count);
	if (taken)
		cpu->rip = target;
	else
		interp_next(cpu, i);
}

bool interp_bind_loop(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)zo;
	amd_branch_size(cpu, i, zi);
	i->extra = zi->mnemonic == ZYDIS_MNEMONIC_LOOP     ? LOOP_COUNT
		   : zi->mnemonic == ZYDIS_MNEMONIC_LOOPE  ? LOOP_COUNT_E
		   : zi->mnemonic == ZYDIS_MNEMONIC_LOOPNE ? LOOP_COUNT_NE
							   : LOOP_CXZ;
	return interp_choose(i, exec_loop);
}

static void exec_jmp_rel(struct x86_cpu *cpu, const struct interp_insn *i)
{
	jump_relative(cpu, i);
}

/* Target of an indirect branch, zero-extended from the operand size. */
interp_inline uint64_t indirect(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	return i->kind[0] == INTERP_OP_MEM ? interp_read_mem(cpu, i, size) : interp_get_reg(cpu, i, 0, size);
}

interp_inline void jmp_indirect(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t target = indirect(cpu, i, size);

	check_target(cpu, target);
	cpu->rip = target;
}

/* The return address is the next RIP in CS's width; the push stores the operand size's part of it. */
interp_inline void call_to(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t target)
{
	check_target(cpu, target);
	interp_push(cpu, cpu->rip + i->len, size);
	cpu->rip = target;
}

interp_inline void call_relative(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	call_to(cpu, i, size, relative(cpu, i));
}

interp_inline void call_indirect(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	call_to(cpu, i, size, indirect(cpu, i, size));
}

/* The immediate is added after the return address is popped. */
interp_inline void ret(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t target = interp_top(cpu, size);

	check_target(cpu, target);
	interp_stack_move(cpu, (int64_t)(size + i->imm));
	cpu->rip = target;
}

INTERP_WIDE_SIZES(jmp_indirect_fn, jmp_indirect)
INTERP_WIDE_SIZES(call_relative_fn, call_relative)
INTERP_WIDE_SIZES(call_indirect_fn, call_indirect)
INTERP_WIDE_SIZES(ret_fn, ret)

bool interp_bind_jmp(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return interp_bind_far_transfer(cpu, i, zi, zo);
	amd_branch_size(cpu, i, zi);
	if (i->kind[0] == INTERP_OP_IMM)
		return interp_choose(i, exec_jmp_rel);
	return interp_choose(i, interp_by_size(jmp_indirect_fn, i->opsize));
}

bool interp_bind_call(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return interp_bind_far_transfer(cpu, i, zi, zo);
	amd_branch_size(cpu, i, zi);
	if (i->kind[0] == INTERP_OP_IMM)
		return interp_choose(i, interp_by_size(call_relative_fn, i->opsize));
	return interp_choose(i, interp_by_size(call_indirect_fn, i->opsize));
}

bool interp_bind_ret(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return interp_bind_far_transfer(cpu, i, zi, zo);
	if (i->kind[0] != INTERP_OP_IMM)
		i->imm = 0;
	amd_branch_size(cpu, i, zi);
	return interp_choose(i, interp_by_size(ret_fn, i->opsize));
}

/* Signed index against the pair of bounds in memory (SDM 2A BOUND). */
static void exec_bound(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = i->opsize;
	uint64_t a = interp_ea(cpu, i), next = (a + size) & interp_mask(i->addrsize);
	int64_t lower, upper, index;

	if (cpu->cpl == 3 && (cpu->rflags & X86_AC))
		x86_check_align(cpu, x86_linear(cpu, i->seg, a, size, false), size);
	lower = (int64_t)interp_sext(x86_read(cpu, x86_linear(cpu, i->seg, a, size, false), size, cpu->mmu_index),
				     size);
	upper = (int64_t)interp_sext(x86_read(cpu, x86_linear(cpu, i->seg, next, size, false), size, cpu->mmu_index),
				     size);
	index = (int64_t)interp_sext(cpu->gpr[i->reg[0]], size);

	if (index < lower || index > upper)
		x86_raise(cpu, X86_BR);
	interp_next(cpu, i);
}

bool interp_bind_bound(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_bound);
}
