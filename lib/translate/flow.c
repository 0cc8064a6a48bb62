/* SPDX-License-Identifier: Apache-2.0 */
/* How a block is left. */
#include "translate/block.h"

static bool in_page(int64_t offset)
{
	return offset >= 0 && offset < (int64_t)TZ_PAGE_SIZE;
}

int64_t flow_target(const struct insn *i)
{
	return (int64_t)i->offset + i->ii.len + (int64_t)i->ii.imm;
}

/* Test for attention: then NE. */
static void emit_poll(struct emit *e)
{
	emit_bytes(e, (const uint8_t[]){ 0x65, 0x83, 0x3c, 0x25 }, 4); /* cmp dword gs:[poll], 0 */
	emit32(e, FRAME(poll));
	emit8(e, 0);
}

/*
 * To `target` (offset in the page) by the rel32 at the end of what has been emitted. The flags need not be kept yet:
 * whether the block there needs them is known when it is linked.
 */
static void exit_to(struct builder *b, const struct insn *i, int64_t far_target)
{
	int64_t target = (int32_t)far_target; /* 32-bit code wraps around */

	struct translate_exit *x =
		(struct translate_exit *)block_record(b, i, in_page(target) ? ACTION_EXIT : ACTION_FAR);
	struct cold *c = block_cold(b, &x->record);

	c->from[c->count++] = b->e.p - 4;
	c->save_flags = b->flags_host && !b->flags_frame;
	x->record.disp = (int32_t)target;
	x->jump = (uint32_t)(b->e.p - 4 - b->t->rw);
	x->backward = i ? target <= i->offset || (i->kind == KIND_CALL && in_page(target)) : b->poll_end;
}

/* To another page. */
static void emit_far(struct builder *b, struct translate_exit *x, bool save_flags)
{
	struct cold *c = block_cold(b, &x->record);
	int32_t pages = x->record.disp & ~(int32_t)TZ_PAGE_MASK;
	struct emit *e = &b->e;

	x->stub = (uint32_t)(e->p - b->t->rw);
	if (save_flags)
		emit_flags_save(e);
	x->saved = (uint8_t)(e->p - b->t->rw - x->stub);
	emit_gs(e, true, 0x8b, HOST_T0, FRAME(rip_page));
	emit_bytes(e, (const uint8_t[]){ 0x4c, 0x3b, 0x1d }, 3); /* cmp r11, [rip + disp32] */
	c->tag = e->p;
	e->p += 4;
	block_cold_from(b, c, CC_NE);
	if (x->backward) {
		emit_poll(e);
		block_cold_from(b, c, CC_NE);
	}
	emit_alu_imm(e, b->wide, ALU_ADD, HOST_T0, (uint32_t)pages);
	emit_gs(e, true, 0x89, HOST_T0, FRAME(rip_page));
	emit8(e, OP_JMP);
	x->last = (uint32_t)(e->p - b->t->rw);
	emit32(e, 0);
}

/* Where that leads to C. */
static void emit_far_cold(struct builder *b, struct cold *c)
{
	struct translate_far *f = (struct translate_far *)c->record;

	block_emit_call(b, b->t->stub_detour, c->record);
	b->e.p = (uint8_t *)(((uintptr_t)b->e.p + 7) & ~(uintptr_t)7);
	emit_bind(&b->e, c->tag);
	f->tag = (uint32_t)(b->e.p - b->t->rw);
	emit64(&b->e, 1);
}

/* To the linear address in r11, through the jump cache. */
static void emit_jump_inline(struct builder *b, struct translate_record *r)
{
	struct cold *c = block_cold(b, r);

	translate_emit_jump(b->t, &b->e, b->mmu, c->from);
	c->count = 2;
}

void flow_emit_exit(struct builder *b, struct cold *c)
{
	struct translate_exit *x = (struct translate_exit *)c->record;
	struct emit *e = &b->e;
	uint8_t *poll = NULL;

	if (c->record->action == ACTION_FAR) {
		if (c->tag)
			emit_far_cold(b, c);
		else
			emit_far(b, x, c->save_flags);
		return;
	}
	x->stub = (uint32_t)(e->p - b->t->rw);
	if (c->save_flags)
		emit_flags_save(e);
	x->saved = (uint8_t)(e->p - b->t->rw - x->stub);
	if (x->backward) {
		emit_poll(e);
		poll = emit_jcc(e, CC_NE);
	}
	emit8(e, OP_JMP);
	x->last = (uint32_t)(e->p - b->t->rw);
	emit32(e, 0); /* to the next instruction */
	if (poll)
		emit_bind(e, poll);
	x->leave = (uint8_t)(e->p - b->t->rw - x->stub);
	block_emit_call(b, b->t->stub_detour, c->record);
}

void flow_emit_plain(struct builder *b, struct cold *c, unsigned reg)
{
	struct translate_exit *x = c->plain;
	uint8_t *other;

	emit_alu_imm(&b->e, true, ALU_CMP, reg, TZ_PAGE_SIZE);
	other = emit_jcc(&b->e, CC_AE);
	emit8(&b->e, OP_JMP);
	x->jump = x->last = (uint32_t)(b->e.p - b->t->rw);
	emit32(&b->e, 0);
	x->stub = (uint32_t)(b->e.p - b->t->rw);
	block_emit_call(b, b->t->stub_detour, &x->record);
	emit_bind(&b->e, other);
}

/* ---- branches ---- */

static void emit_jcc_insn(struct builder *b, struct insn *i)
{
	int64_t next = (int64_t)i->offset + i->ii.len;

	insn_flags_want(b);
	b->since++;
	block_emit_count(b);
	if (i->inverted) {
		emit_jcc(&b->e, i->ii.cond ^ 1);
		exit_to(b, i, next);
	} else {
		emit_jcc(&b->e, i->ii.cond);
		exit_to(b, i, flow_target(i));
	}
}

static void jump_to(struct builder *b, const struct insn *i, int64_t target)
{
	struct translate_exit *x;

	if (in_page(target)) {
		emit8(&b->e, OP_JMP);
		b->e.p += 4;
		exit_to(b, i, target);
		return;
	}
	x = (struct translate_exit *)block_record(b, i, ACTION_FAR);
	x->record.disp = (int32_t)target;
	x->backward = x->record.disp < 0 || (!i && b->poll_end);
	emit_far(b, x, b->flags_host && !b->flags_frame);
}

static void emit_relative(struct builder *b, const struct insn *i, int64_t target)
{
	b->since++;
	block_emit_count(b);
	jump_to(b, i, target);
}

/* The branch target of an indirect JMP or CALL into r11. */
static bool emit_target(struct builder *b, struct insn *i)
{
	struct access a;
	struct host_mem m;
	unsigned host;

	if (i->ii.kind[0] == INTERP_OP_MEM) {
		if (!insn_operand_access(i, &a) || !window_access(b, i, &a, &m))
			return false;
		recode_emit_mem(&b->e, b->wide, 0x8b, HOST_T0, &m);
	} else {
		host = host_of(i->ii.reg[0]);
		if (host == HOST_NONE)
			emit_gpr_load(&b->e, HOST_T0, i->ii.reg[0]);
		else
			emit_rr(&b->e, b->wide, 0x89, host, HOST_T0);
	}
	window_scratch(b);
	return true;
}

/* All has been done but the jump to r11; interp looks what is wrong with it, in 32-bit code nothing can be. */
static void jump_indirect(struct builder *b, const struct insn *i, int32_t popped)
{
	struct translate_record *r = block_record(b, i, b->wide ? ACTION_INTERP : ACTION_JUMP);

	r->adjust = b->wide ? (int16_t)-popped : 0;
	b->since++;
	block_emit_count(b);
	r->since = -1; /* counted already */
	emit_jump_inline(b, r);
}

static bool emit_jmp(struct builder *b, struct insn *i)
{
	if (i->ii.kind[0] == INTERP_OP_IMM) {
		emit_relative(b, i, flow_target(i));
		return true;
	}
	if (!emit_target(b, i))
		return false;
	jump_indirect(b, i, 0);
	return true;
}

/* What is wrong with the target in r11 must show before the return address is written. */
static void emit_canonical(struct builder *b, struct insn *i)
{
	struct cold *c = block_cold(b, block_record(b, i, ACTION_INTERP));

	emit_mov_rr(&b->e, HOST_T1, HOST_T0);
	emit_bytes(&b->e, (const uint8_t[]){ 0x49, 0xc1, 0xfe, 47, 0x49, 0xff, 0xc6 }, 7); /* sar 47; inc r14 */
	emit_alu_imm(&b->e, true, ALU_CMP, HOST_T1, 1);
	block_cold_from(b, c, CC_A);
}

static bool emit_call(struct builder *b, struct insn *i)
{
	bool indirect = i->ii.kind[0] != INTERP_OP_IMM;
	struct emit *e = &b->e;
	struct host_mem m;

	if (indirect) {
		if (!emit_target(b, i))
			return false;
		if (b->wide)
			emit_canonical(b, i);
	}
	if (!window_access(b, i, &i->mem, &m))
		return false;
	emit_gs(e, true, 0x8b, HOST_T1, FRAME(rip_page));
	emit_lea(e, HOST_T1, HOST_T1, i->offset + i->ii.len);
	recode_emit_mem(e, b->wide, 0x89, HOST_T1, &m);
	insn_move_stack(b, HOST_SP, -(int32_t)b->width);
	if (!indirect) {
		emit_relative(b, i, flow_target(i));
		return true;
	}
	b->since++;
	block_emit_count(b);
	emit_jump_inline(b, block_record(b, i, ACTION_JUMP));
	return true;
}

static bool emit_ret(struct builder *b, struct insn *i)
{
	struct host_mem m;
	int32_t pop = (int32_t)b->width + (int32_t)i->ii.imm;

	if (!window_access(b, i, &i->mem, &m))
		return false;
	recode_emit_mem(&b->e, b->wide, 0x8b, HOST_T0, &m);
	insn_move_stack(b, HOST_SP, pop);
	jump_indirect(b, i, pop);
	return true;
}

void flow_emit(struct builder *b, struct insn *i)
{
	uint8_t *start = b->e.p;
	unsigned colds = b->colds, since = b->since;
	bool flags_host = b->flags_host, flags_frame = b->flags_frame, done = true;

	b->resumes = 0;
	if (i->kind == KIND_JCC) {
		emit_jcc_insn(b, i);
		return;
	}
	if (i->kind != KIND_JMP || i->ii.kind[0] != INTERP_OP_IMM)
		insn_flags_keep(b, UINT32_MAX);
	switch (i->kind) {
	case KIND_JMP: done = emit_jmp(b, i); break;
	case KIND_CALL: done = emit_call(b, i); break;
	case KIND_SYSCALL: done = flow_emit_syscall(b, i); break;
	case KIND_SYSRET: done = flow_emit_sysret(b, i); break;
	case KIND_AC: done = flow_emit_ac(b, i); break;
	default: done = emit_ret(b, i); break;
	}
	if (done)
		return;
	b->e.p = start;
	b->colds = colds;
	b->since = since;
	b->flags_host = flags_host;
	b->flags_frame = flags_frame;
	insn_flags_keep(b, UINT32_MAX);
	b->resumes = 0;
	insn_emit_interp(b, i);
}

void flow_emit_end(struct builder *b, unsigned offset)
{
	block_emit_count(b);
	jump_to(b, NULL, offset);
}
