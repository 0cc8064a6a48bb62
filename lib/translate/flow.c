/* SPDX-License-Identifier: Apache-2.0 */
/* How a block is left. */
#include "translate/block.h"

static bool in_page(int64_t offset)
{
	return offset >= 0 && offset < (int64_t)TZ_PAGE_SIZE;
}

int64_t flow_target(const struct insn *i)
{
	return (int64_t)i->offset + i->ii->len + (int64_t)i->ii->imm;
}

void flow_emit_poll(struct builder *b)
{
	emit_rex(&b->e, false, 0, 0, HOST_CPU);
	emit8(&b->e, 0x83);
	emit8(&b->e, 0x80 | ALU_CMP << 3 | (HOST_CPU & 7));
	emit32(&b->e, (uint32_t)offsetof(struct x86_cpu, attention));
	emit8(&b->e, 0);
}

/* To the dispatcher, and never linked. */
void flow_emit_leave(struct builder *b, unsigned n, unsigned target)
{
	struct translate_exit *x = &b->block->exit[n];

	x->from = b->block;
	x->target = (uint16_t)target;
	x->linked = true;
	emit_mov_imm64(&b->e, HOST_T0, (uint64_t)(uintptr_t)x);
	emit_branch(&b->e, OP_JMP, b->t->stub_exit);
}

/* To another block of this page. */
static void emit_direct(struct builder *b, unsigned n, unsigned target, unsigned from)
{
	struct translate_exit *x = &b->block->exit[n];
	uint8_t *skip = NULL;

	x->from = b->block;
	x->target = (uint16_t)target;
	if (target <= from) {
		flow_emit_poll(b);
		skip = emit_jcc(&b->e, CC_NE);
	}
	emit8(&b->e, OP_JMP);
	x->patch = b->e.p;
	emit32(&b->e, 0);
	if (skip)
		emit_bind(&b->e, skip);
	emit_mov_imm64(&b->e, HOST_T0, (uint64_t)(uintptr_t)x);
	emit_branch(&b->e, OP_JMP, b->t->stub_exit);
}

/*
 * To the linear address in r11. `pop`: bytes RSP moves by, once nothing can go wrong; then a non-canonical
 * target is left to interp (`d`), which knows what it raises.
 */
static void emit_jump_cache(struct builder *b, struct detour *d, int32_t pop)
{
	uint32_t table = FRAME(jump) + b->mmu * (uint32_t)sizeof(((struct translate_frame *)0)->jump[0]);
	struct emit *e = &b->e;
	uint8_t *miss[2];

	emit_rex(e, false, HOST_T1, 0, HOST_T0); /* imul r14d, r11d, imm32 */
	emit8(e, 0x69);
	emit8(e, 0xc0 | (HOST_T1 & 7) << 3 | (HOST_T0 & 7));
	emit32(e, 0x9e3779b1u);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xc1, 0xee, 16 }, 4); /* shr r14d, 16 */
	emit_alu_imm(e, false, ALU_AND, HOST_T1, 0xfff0);
	emit_gs_t1(e, true, 0x3b, HOST_T0, table + (uint32_t)offsetof(struct translate_jump, rip));
	miss[0] = emit_jcc(e, CC_NE);
	flow_emit_poll(b);
	miss[1] = emit_jcc(e, CC_NE);
	if (pop)
		emit_lea(e, HOST_SP, HOST_SP, pop);
	emit_alu_imm(e, true, ALU_AND, HOST_T0, 0xfffff000u);
	emit_gs(e, true, 0x89, HOST_T0, FRAME(rip_page));
	emit_gs_t1(e, false, 0xff, 4, table + (uint32_t)offsetof(struct translate_jump, code));
	emit_bind(e, miss[0]);
	emit_bind(e, miss[1]);
	if (d) {
		emit_mov_rr(e, HOST_T1, HOST_T0);
		emit_bytes(e, (const uint8_t[]){ 0x49, 0xc1, 0xfe, 47, 0x49, 0xff, 0xc6 }, 7); /* sar 47; inc r14 */
		emit_alu_imm(e, true, ALU_CMP, HOST_T1, 1);
		insn_detour_from(b, d, CC_A);
	}
	if (pop)
		emit_lea(e, HOST_SP, HOST_SP, pop);
	emit_branch(e, OP_JMP, b->t->stub_indirect);
}

static void emit_relative(struct builder *b, unsigned n, int64_t target, unsigned from)
{
	if (in_page(target)) {
		emit_direct(b, n, (unsigned)target, from);
		return;
	}
	emit_gs(&b->e, true, 0x8b, HOST_T0, FRAME(rip_page));
	emit_lea(&b->e, HOST_T0, HOST_T0, (int32_t)target);
	emit_jump_cache(b, NULL, 0);
}

/* The branch target of an indirect JMP or CALL into r11. */
static bool emit_target(struct builder *b, struct insn *i, struct detour *d)
{
	unsigned host;

	if (i->ii->kind[0] == INTERP_OP_MEM) {
		if (!insn_emit_address(b, i))
			return false;
		insn_emit_check(b, d, 8, false);
		emit_rm(&b->e, true, 0x8b, HOST_T0, HOST_T0, 0);
		return true;
	}
	host = host_of(i->ii->reg[0]);
	if (host == HOST_NONE)
		emit_gpr_load(&b->e, HOST_T0, i->ii->reg[0]);
	else
		emit_mov_rr(&b->e, HOST_T0, host);
	return true;
}

static void emit_jcc_insn(struct builder *b, struct insn *i)
{
	unsigned next = i->offset + i->ii->len;
	uint8_t *taken;

	insn_flags_want(b, HOST_T0);
	taken = emit_jcc(&b->e, i->ii->cond);
	emit_relative(b, 0, next, i->offset);
	emit_bind(&b->e, taken);
	emit_relative(b, 1, flow_target(i), i->offset);
}

static bool emit_jmp(struct builder *b, struct insn *i)
{
	struct detour *d;

	if (i->ii->kind[0] == INTERP_OP_IMM) {
		emit_relative(b, 0, flow_target(i), i->offset);
		return true;
	}
	d = insn_detour(b, i);
	if (!emit_target(b, i, d))
		return false;
	emit_jump_cache(b, d, 0);
	return true;
}

static bool emit_call(struct builder *b, struct insn *i)
{
	bool indirect = i->ii->kind[0] != INTERP_OP_IMM;
	struct detour *d = insn_detour(b, i);
	struct emit *e = &b->e;

	if (indirect) {
		if (!emit_target(b, i, d))
			return false;
		/* What is wrong with it must show before the return address is there. */
		emit_mov_rr(e, HOST_T1, HOST_T0);
		emit_bytes(e, (const uint8_t[]){ 0x49, 0xc1, 0xfe, 47, 0x49, 0xff, 0xc6 }, 7);
		emit_alu_imm(e, true, ALU_CMP, HOST_T1, 1);
		insn_detour_from(b, d, CC_A);
		emit_gs(e, true, 0x89, HOST_T0, FRAME(target));
	}
	emit_lea(e, HOST_T0, HOST_SP, -8);
	insn_emit_check(b, d, 8, true);
	emit_gs(e, true, 0x8b, HOST_T1, FRAME(rip_page));
	emit_lea(e, HOST_T1, HOST_T1, i->offset + i->ii->len);
	emit_rm(e, true, 0x89, HOST_T1, HOST_T0, 0);
	emit_lea(e, HOST_SP, HOST_SP, -8);
	if (indirect) {
		emit_gs(e, true, 0x8b, HOST_T0, FRAME(target));
		emit_jump_cache(b, NULL, 0);
	} else {
		emit_relative(b, 0, flow_target(i), TZ_PAGE_SIZE);
	}
	return true;
}

static void emit_ret(struct builder *b, struct insn *i)
{
	struct detour *d = insn_detour(b, i);

	emit_mov_rr(&b->e, HOST_T0, HOST_SP);
	insn_emit_check(b, d, 8, false);
	emit_rm(&b->e, true, 0x8b, HOST_T0, HOST_T0, 0);
	emit_jump_cache(b, d, 8 + (int32_t)i->ii->imm);
}

void flow_emit(struct builder *b, struct insn *i)
{
	uint8_t *start = b->e.p;
	unsigned detours = b->detours;
	bool done = true;

	insn_flags_keep(b, i->live_after);
	switch (i->kind) {
	case KIND_JCC: emit_jcc_insn(b, i); break;
	case KIND_JMP: done = emit_jmp(b, i); break;
	case KIND_CALL: done = emit_call(b, i); break;
	default: emit_ret(b, i); break;
	}
	if (done)
		return;
	b->e.p = start;
	b->detours = detours;
	insn_flags_keep(b, UINT32_MAX);
	insn_emit_interp(b, i);
}

void flow_emit_fall(struct builder *b, const struct insn *last)
{
	emit_relative(b, 0, last->offset + last->ii->len, last->offset);
}

void flow_emit_end(struct builder *b, unsigned offset)
{
	insn_flags_keep(b, UINT32_MAX);
	emit_relative(b, 0, offset, 0);
}

/* Which flags may be read after the block. */
uint32_t flow_live_out(struct builder *b, struct insn *last)
{
	uint32_t live;

	if (last->kind == KIND_JMP && last->ii->kind[0] == INTERP_OP_IMM)
		return insn_flags_needed(b, (unsigned)flow_target(last), 1);
	if (last->kind != KIND_JCC)
		return X86_ARITH_FLAGS;
	live = insn_flags_needed(b, last->offset + last->ii->len, 1);
	return live | insn_flags_needed(b, (unsigned)flow_target(last), 2);
}
