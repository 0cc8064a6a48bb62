/* SPDX-License-Identifier: Apache-2.0 */
/* One guest instruction as host code. */
#include "translate/block.h"

/* ---- flags ---- */

void insn_flags_keep(struct builder *b, uint32_t live)
{
	if (live && b->flags_host && !b->flags_frame) {
		emit_flags_save(&b->e);
		b->flags_frame = true;
	}
}

void insn_flags_want(struct builder *b)
{
	if (!b->flags_host) {
		emit_flags_load(&b->e);
		b->flags_host = true;
	}
}

uint32_t insn_live_before(const struct insn *i)
{
	return i->reads | (i->live_after & ~i->kills);
}

/* Must the host's flags be the guest's when it executes? */
static bool wants_flags(const struct insn *i)
{
	return i->reads || (i->writes && (i->live_after & ~i->kills));
}

/* ---- leaving for interp ---- */

void insn_emit_interp(struct builder *b, struct insn *i)
{
	struct translate_record *r = block_record(b, i, ACTION_INTERP);
	uint8_t *done = i->shadow ? insn_emit_sti(b) : NULL;

	r->flags = (i->shadow ? TRANSLATE_RECORD_SHADOW : 0) | (i->is_protected ? TRANSLATE_RECORD_PROTECTED : 0);
	block_emit_call(b, b->t->stub_detour, r);
	if (done)
		emit_bind(&b->e, done);
	b->stack.open = b->base.open = false;
}

/* What the instruction leaves the flags in. */
void insn_flags_after(struct builder *b, const struct insn *i)
{
	if (i->writes) {
		b->flags_host = true;
		b->flags_frame = false;
	}
}

/* ---- general and vector instructions ---- */

static void emit_generic(struct builder *b, struct insn *i)
{
	struct host_mem m;

	if (i->mem.size && !window_access(b, i, &i->mem, &m)) {
		b->bad = true;
		return;
	}
	if (wants_flags(i))
		insn_flags_want(b);
	recode_emit(b, i, i->mem.size ? &m : NULL);
	insn_flags_after(b, i);
}

void insn_vector_live(struct builder *b, struct insn *i)
{
	struct translate_record *r;

	if (b->vector_live)
		return;
	r = block_record(b, i, ACTION_VECTOR);
	insn_flags_keep(b, insn_live_before(i));
	/* cmp byte gs:[vector], 0: a call to C may have put the state away. */
	emit_bytes(&b->e, (const uint8_t[]){ 0x65, 0x80, 0x3c, 0x25 }, 4);
	emit32(&b->e, FRAME(vector));
	emit8(&b->e, 0);
	block_cold_from(b, block_cold(b, r), CC_E);
	r->resume = (uint32_t)(b->e.p - b->t->rw);
	b->flags_host = false;
	b->vector_live = true;
}

static void emit_vector(struct builder *b, struct insn *i)
{
	insn_vector_live(b, i);
	emit_generic(b, i);
}

/* ---- others ---- */

static void emit_lea_insn(struct builder *b, struct insn *i)
{
	unsigned guest = i->ii.reg[0], host = host_of(guest);
	struct access a = { .base = i->ii.base, .index = i->ii.index, .shift = i->ii.shift, .disp = i->ii.disp };

	if (a.base == INTERP_RIP_REG)
		a.disp += i->offset + i->ii.len;
	if (!window_effective(b, &a, host == HOST_NONE ? HOST_T1 : host, i->ii.opsize == 8 && i->ii.addrsize == 8)) {
		b->bad = true;
		return;
	}
	if (host == HOST_NONE)
		emit_gpr_store(&b->e, HOST_T1, guest);
}

void insn_move_stack(struct builder *b, unsigned from, int32_t by)
{
	emit_rm(&b->e, b->wide, 0x8d, HOST_SP, from, by);
}

static void emit_push(struct builder *b, struct insn *i)
{
	struct host_mem m, source;
	struct access from;
	unsigned host;

	/* First: if interp has to read the source it does all of it, and what follows relies on the window. */
	window_access(b, i, &i->mem, &m);
	if (i->ii.kind[0] == INTERP_OP_MEM) {
		if (!insn_operand_access(i, &from) || !window_access(b, i, &from, &source)) {
			b->bad = true;
			return;
		}
		recode_emit_mem(&b->e, b->wide, 0x8b, HOST_T0, &source);
		window_scratch(b);
		recode_emit_mem(&b->e, b->wide, 0x89, HOST_T0, &m);
	} else if (i->ii.kind[0] == INTERP_OP_IMM) {
		recode_emit_mem(&b->e, b->wide, 0xc7, 0, &m);
		emit32(&b->e, (uint32_t)i->ii.imm);
	} else {
		host = host_of(i->ii.reg[0]);
		if (host == HOST_NONE) {
			host = HOST_T1;
			emit_gpr_load(&b->e, host, i->ii.reg[0]);
		}
		recode_emit_mem(&b->e, b->wide, 0x89, host, &m);
	}
	insn_move_stack(b, HOST_SP, -(int32_t)b->width);
}

static void emit_pop(struct builder *b, struct insn *i)
{
	unsigned host = host_of(i->ii.reg[0]);
	struct host_mem m;

	window_access(b, i, &i->mem, &m);
	recode_emit_mem(&b->e, b->wide, 0x8b, host == HOST_NONE ? HOST_T1 : host, &m);
	if (host != HOST_SP) /* what POP RSP has loaded stays */
		insn_move_stack(b, HOST_SP, (int32_t)b->width);
	if (host == HOST_NONE)
		emit_gpr_store(&b->e, HOST_T1, i->ii.reg[0]);
}

static void emit_leave(struct builder *b, struct insn *i)
{
	struct host_mem m;

	if (!window_access(b, i, &i->mem, &m)) {
		b->bad = true;
		return;
	}
	/* RSP moves when nothing can fault any more. */
	recode_emit_mem(&b->e, b->wide, 0x8b, HOST_T1, &m);
	insn_move_stack(b, X86_RBP, (int32_t)b->width);
	emit_mov_rr(&b->e, X86_RBP, HOST_T1);
}

/* The host must not see #DE: divide only where the quotient surely fits, interp does the rest. */
static void emit_div(struct builder *b, struct insn *i)
{
	bool w = i->ii.opsize == 8, sign = i->ii.mnemonic == ZYDIS_MNEMONIC_IDIV;
	struct translate_record *r;
	struct host_mem m;
	struct cold *c;
	unsigned host;

	insn_flags_keep(b, insn_live_before(i));
	if (i->mem.size) {
		if (!window_access(b, i, &i->mem, &m)) {
			b->bad = true;
			return;
		}
		recode_emit_mem(&b->e, w, 0x8b, HOST_T0, &m);
	} else {
		host = host_of(i->ii.reg[0]);
		if (host == HOST_NONE)
			emit_gpr_load(&b->e, HOST_T0, i->ii.reg[0]);
		else
			emit_mov_rr(&b->e, HOST_T0, host);
	}
	window_scratch(b);
	r = block_record(b, i, ACTION_INTERP);
	c = block_cold(b, r);
	if (sign) {
		/* rdx:rax is rax sign-extended, and the divisor neither 0 nor -1. */
		emit_rr(&b->e, w, 0x89, HOST_RAX, HOST_T1);
		emit_rex(&b->e, w, 0, 0, HOST_T1);
		emit_bytes(&b->e, (const uint8_t[]){ 0xc1, 0xfe, w ? 63 : 31 }, 3); /* sar r14, 63 */
		emit_rr(&b->e, w, 0x39, HOST_RDX, HOST_T1);
		block_cold_from(b, c, CC_NE);
		emit_rm(&b->e, w, 0x8d, HOST_T1, HOST_T0, 1);
		emit_alu_imm(&b->e, w, ALU_CMP, HOST_T1, 1);
		block_cold_from(b, c, CC_BE);
	} else {
		emit_rr(&b->e, w, 0x39, HOST_T0, HOST_RDX); /* cmp rdx, r11 */
		block_cold_from(b, c, CC_AE);
	}
	emit_rex(&b->e, w, 0, 0, HOST_T0);
	emit8(&b->e, 0xf7);
	emit8(&b->e, 0xc0 | (sign ? 7u : 6u) << 3 | (HOST_T0 & 7));
	insn_flags_after(b, i);
}

static void emit_kind(struct builder *b, struct insn *i)
{
	switch (i->kind) {
	case KIND_GENERIC: emit_generic(b, i); break;
	case KIND_VECTOR: emit_vector(b, i); break;
	case KIND_GATHER: insn_emit_gather(b, i); break;
	case KIND_LEA: emit_lea_insn(b, i); break;
	case KIND_PUSH: emit_push(b, i); break;
	case KIND_POP: emit_pop(b, i); break;
	case KIND_LEAVE: emit_leave(b, i); break;
	case KIND_STRING: insn_emit_string(b, i); break;
	case KIND_DIV: emit_div(b, i); break;
	case KIND_PUSHF: insn_emit_pushf(b, i); break;
	case KIND_SYSTEM: insn_emit_system(b, i); break;
	default: break;
	}
}

void insn_emit(struct builder *b, struct insn *i)
{
	uint8_t *start = b->e.p;
	unsigned colds = b->colds;
	bool flags_host = b->flags_host, flags_frame = b->flags_frame, vector_live = b->vector_live;

	b->resumes = 0;
	b->bad = i->kind == KIND_INTERP;
	if (!b->bad)
		emit_kind(b, i);
	if (b->bad) {
		b->e.p = start;
		b->colds = colds;
		b->resumes = 0;
		b->flags_host = flags_host;
		b->flags_frame = flags_frame;
		b->vector_live = vector_live;
		insn_flags_keep(b, UINT32_MAX);
		insn_emit_interp(b, i);
		b->vector_live = false;
		/* The way back from C loads them. */
		b->flags_host = !i->shadow;
		b->flags_frame = true;
	}
	for (unsigned n = 0; n < b->resumes; n++)
		if (!(i->kind == KIND_INTERP && i->ii.ends_block && !i->shadow))
			b->resume[n]->resume = (uint32_t)(b->e.p - b->t->rw);
	b->since++;
}
