/* SPDX-License-Identifier: Apache-2.0 */
/* MOV and its relatives: data from here to there, no flags. */
#include "interp/groups.h"
#include "interp/integer.h"
#include "x86/transfer_internal.h"

interp_inline void mov_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, interp_get_reg(cpu, i, 1, size));
	interp_next(cpu, i);
}

interp_inline void mov_ri(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, i->imm);
	interp_next(cpu, i);
}

interp_inline void mov_rm(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, interp_read_mem(cpu, i, size));
	interp_next(cpu, i);
}

interp_inline void mov_mr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_write_mem(cpu, i, size, interp_get_reg(cpu, i, 1, size));
	interp_next(cpu, i);
}

interp_inline void mov_mi(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_write_mem(cpu, i, size, i->imm);
	interp_next(cpu, i);
}

INTERP_SIZES(mov_rr_fn, mov_rr)
INTERP_SIZES(mov_ri_fn, mov_ri)
INTERP_SIZES(mov_rm_fn, mov_rm)
INTERP_SIZES(mov_mr_fn, mov_mr)
INTERP_SIZES(mov_mi_fn, mov_mi)

bool interp_bind_mov(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	interp_exec_fn *const *fn;

	for (unsigned n = 0; n < 2; n++)
		if (i->kind[n] == INTERP_OP_SEG || i->kind[n] == INTERP_OP_OTHER)
			return interp_bind_mov_system(cpu, i, zi, zo);
	if (i->kind[0] == INTERP_OP_MEM)
		fn = i->kind[1] == INTERP_OP_IMM ? mov_mi_fn : mov_mr_fn;
	else
		fn = i->kind[1] == INTERP_OP_IMM ? mov_ri_fn : i->kind[1] == INTERP_OP_MEM ? mov_rm_fn : mov_rr_fn;
	return interp_choose(i, interp_by_size(fn, i->opsize));
}

/* MOVZX, MOVSX, MOVSXD: `from` is the source's size; the destination's is a constant in all but the rare word form. */
interp_inline void extend(struct x86_cpu *cpu, const struct interp_insn *i, unsigned to, unsigned from, bool sign)
{
	uint64_t v = i->kind[1] == INTERP_OP_MEM ? interp_read_mem(cpu, i, from) : interp_get_reg(cpu, i, 1, from);

	interp_set_reg(cpu, i, 0, to, sign ? interp_sext(v, from) : v);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(movzx_1, extend, 1, false)
INTERP_WIDE_SIZES(movzx_2, extend, 2, false)
INTERP_WIDE_SIZES(movsx_1, extend, 1, true)
INTERP_WIDE_SIZES(movsx_2, extend, 2, true)
INTERP_WIDE_SIZES(movsx_4, extend, 4, true)

bool interp_bind_movzx(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->size[1] == 1 ? movzx_1 : movzx_2, i->size[0]));
}

/* MOVSXD without REX.W is a plain move; with 66h of 16 bits, for which AMD reads 32 and Intel 16 (SDM 2B MOVSXD). */
bool interp_bind_movsx(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	bool word = i->size[1] == 2 || (i->size[0] == 2 && !x86_vendor_is_amd(cpu));
	interp_exec_fn *const *fn = i->size[1] == 1 ? movsx_1 : word ? movsx_2 : movsx_4;

	(void)zi, (void)zo;
	return interp_choose(i, interp_by_size(fn, i->size[0]));
}

bool interp_bind_movnti(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_SSE2, interp_by_size(mov_mr_fn, i->size[0]));
}

interp_inline uint64_t swap_bytes(uint64_t v, unsigned size)
{
	return size == 2   ? __builtin_bswap16((uint16_t)v)
	       : size == 4 ? __builtin_bswap32((uint32_t)v)
			   : __builtin_bswap64(v);
}

interp_inline void movbe_rm(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, swap_bytes(interp_read_mem(cpu, i, size), size));
	interp_next(cpu, i);
}

interp_inline void movbe_mr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_write_mem(cpu, i, size, swap_bytes(interp_get_reg(cpu, i, 1, size), size));
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(movbe_rm_fn, movbe_rm)
INTERP_WIDE_SIZES(movbe_mr_fn, movbe_mr)

bool interp_bind_movbe(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_MOVBE,
			   interp_by_size(i->kind[0] == INTERP_OP_MEM ? movbe_mr_fn : movbe_rm_fn, i->opsize));
}

/* The address size truncates the address, the operand size what is stored of it (SDM 2A LEA). */
interp_inline void lea(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, interp_ea(cpu, i));
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(lea_fn, lea)

bool interp_bind_lea(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(lea_fn, i->opsize));
}

/* With a 16-bit register the result is undefined; processors clear it. */
interp_inline void bswap(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_set_reg(cpu, i, 0, size, size == 2 ? 0 : swap_bytes(interp_get_reg(cpu, i, 0, size), size));
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(bswap_fn, bswap)

bool interp_bind_bswap(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(bswap_fn, i->opsize));
}

/* AL = [rBX + AL]. */
static void exec_xlat(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t mask = interp_mask(i->addrsize);
	uint64_t a = (cpu->gpr[X86_RBX] + (uint8_t)cpu->gpr[X86_RAX]) & mask;
	uint8_t v = x86_read8(cpu, x86_linear(cpu, i->seg, a, 1, false));

	interp_reg_write(cpu, X86_RAX, 1, v);
	interp_next(cpu, i);
}

bool interp_bind_xlat(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, exec_xlat);
}

/* CBW, CWDE, CDQE: rAX from its lower half. CWD, CDQ, CQO: rDX from rAX's sign. */
interp_inline void cbw(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_reg_write(cpu, X86_RAX, size, interp_sext(cpu->gpr[X86_RAX], size / 2));
	interp_next(cpu, i);
}

interp_inline void cwd(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_reg_write(cpu, X86_RDX, size, 0 - (cpu->gpr[X86_RAX] >> (size * 8 - 1) & 1));
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(cbw_fn, cbw)
INTERP_WIDE_SIZES(cwd_fn, cwd)

bool interp_bind_cbw(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(cbw_fn, i->opsize));
}

bool interp_bind_cwd(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(cwd_fn, i->opsize));
}
