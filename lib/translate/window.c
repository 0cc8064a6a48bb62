/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a guest's memory operand to the host's: TLB checks, and what operands can share.
 *
 * A window is a range of bytes around a base register that has been checked once. It stays good within the
 * block while the register only moves by constants: nothing that takes a translation back (a TLB flush, another vCPU's
 * translation of the page) happens between two instructions that do not leave the block.
 *
 * The stack window asks for a page that can be written, which the stack's is. D must not be set for a read, so
 * the fill behind the check is one for what the first instruction does; if that does not do, the plain block does it.
 */
#include "translate/block.h"

#define WINDOW_SPAN 256
#define WINDOW_LOOK 24

void window_scratch(struct builder *b)
{
	b->base.open = false;
}

/* What a check's address can have as its displacement. */
static bool fits_disp(int64_t disp)
{
	return disp == (int32_t)disp;
}

/* Absolute addresses of 64 bits (moffs) share with nothing: how far they are from others need not fit int64_t. */
static bool same_place(const struct access *a, const struct access *b)
{
	return fits_disp(a->disp) && fits_disp(b->disp) && a->base == b->base && a->index == b->index &&
	       a->shift == b->shift && a->wide == b->wide &&
	       (a->seg >= X86_FS || b->seg >= X86_FS ? a->seg == b->seg : true);
}

static bool window_holds(const struct window *w, const struct access *a)
{
	return w->open && same_place(&w->at, a) && (w->write || !a->write) && a->disp + w->delta >= w->lo &&
	       a->disp + w->delta + a->size <= w->hi;
}

/* False: it is good no longer. */
static bool window_moves(const struct builder *b, const struct access *at, const struct insn *i, int64_t *delta)
{
	if ((at->base < 16 && (i->clobbers & BIT32(at->base))) || (at->index < 16 && (i->clobbers & BIT32(at->index))))
		return false;
	if (i->step_reg < 16 && i->step_reg == at->index)
		return false;
	if (i->step_reg < 16 && i->step_reg == at->base) {
		if (at->wide != b->wide)
			return false;
		*delta += i->step;
	}
	return true;
}

void window_after(struct builder *b, const struct insn *i)
{
	if (b->stack.open && !window_moves(b, &b->stack.at, i, &b->stack.delta))
		b->stack.open = false;
	if (b->base.open && !window_moves(b, &b->base.at, i, &b->base.delta))
		b->base.open = false;
}

/* Open a window for `a`, wide enough for what comes. Returns how many instructions will use it. */
static unsigned window_plan(struct builder *b, const struct insn *i, const struct access *a, struct window *w)
{
	const struct insn *end = b->insn + b->count;
	unsigned users = 1;
	int64_t delta = 0;

	*w = (struct window){ .open = true, .at = *a, .write = a->write, .lo = a->disp, .hi = a->disp + a->size };
	for (const struct insn *j = i; users && j < end && j < i + WINDOW_LOOK; j++) {
		const struct access *o = &j->mem;
		int64_t lo = w->lo, hi = w->hi;

		if (j != i && o->size && o->stack == a->stack && !o->masked) {
			if (!same_place(a, o))
				break;
			if (o->disp + delta < lo)
				lo = o->disp + delta;
			if (o->disp + delta + o->size > hi)
				hi = o->disp + delta + o->size;
			if (hi - lo > WINDOW_SPAN || !fits_disp(lo))
				break;
			w->lo = lo;
			w->hi = hi;
			w->write |= o->write;
			users++;
		}
		if (j->kind == KIND_INTERP || !window_moves(b, a, j, &delta))
			break;
	}
	return users;
}

/* ---- addresses ---- */

/* lea to, [base + index << shift + disp] */
static void emit_lea_sib(struct emit *e, bool w, unsigned to, unsigned base, unsigned index, unsigned shift,
			 int32_t disp)
{
	unsigned mod = disp == (int8_t)disp ? 0x40 : 0x80;

	if (index == HOST_NONE && base != HOST_NONE) {
		emit_rm(e, w, 0x8d, to, base, disp);
		return;
	}
	emit_rex(e, w, to, index == HOST_NONE ? 0 : index, base == HOST_NONE ? 0 : base);
	emit8(e, 0x8d);
	if (base == HOST_NONE) {
		mod = 0;
		base = 5; /* disp32 only */
	}
	emit8(e, mod | (to & 7) << 3 | 4);
	emit8(e, shift << 6 | (index == HOST_NONE ? 4 : index & 7) << 3 | (base & 7));
	if (mod == 0x40)
		emit8(e, (uint8_t)disp);
	else
		emit32(e, (uint32_t)disp);
}

bool window_effective(struct builder *b, const struct access *a, unsigned to, bool wide)
{
	unsigned base = HOST_NONE, index = HOST_NONE;

	if (a->base == INTERP_RIP_REG) {
		emit_gs(&b->e, true, 0x8b, HOST_T0, FRAME(rip_page));
		base = HOST_T0;
	} else if (a->base != INTERP_NO_REG) {
		base = host_of(a->base);
		if (base == HOST_NONE) {
			emit_gpr_load(&b->e, HOST_T0, a->base);
			base = HOST_T0;
		}
	}
	if (base == HOST_T0 || to == HOST_T0)
		window_scratch(b);
	if (a->index != INTERP_NO_REG) {
		index = host_of(a->index);
		if (index == HOST_NONE) {
			emit_gpr_load(&b->e, HOST_T1, a->index);
			index = HOST_T1;
		}
	}
	if (b->wide && !fits_disp(a->disp))
		return false;
	emit_lea_sib(&b->e, wide, to, base, index, a->shift, (int32_t)a->disp);
	return true;
}

static bool has_registers(const struct access *a)
{
	return a->base != INTERP_NO_REG || a->index != INTERP_NO_REG;
}

/*
 * In 32-bit code: r11 is an offset in FS or GS. `span` bytes there must not reach beyond 4 GiB (SDM 3A 5.3; in flat
 * segments such an access crosses a page end).
 */
static bool emit_segment(struct builder *b, const struct insn *i, const struct access *a, unsigned span)
{
	uint32_t last = (uint32_t)0 - span;

	if (has_registers(a)) {
		emit_alu_imm(&b->e, false, ALU_CMP, HOST_T0, last);
		block_cold_from(b, block_cold(b, block_record(b, i, ACTION_INTERP)), CC_A);
	} else if ((uint32_t)a->disp > last) {
		return false;
	}
	emit_gs(&b->e, false, 0x03, HOST_T0, a->seg == X86_FS ? FRAME(fs_base) : FRAME(gs_base));
	emit_gs(&b->e, true, 0x03, HOST_T0, a->seg == X86_FS ? FRAME(fs_beyond) : FRAME(gs_beyond));
	return true;
}

static bool emit_address(struct builder *b, const struct insn *i, const struct access *a, unsigned span)
{
	if (!window_effective(b, a, HOST_T0, a->wide))
		return false;
	if (a->seg < X86_FS)
		return true;
	if (!b->wide)
		return emit_segment(b, i, a, span);
	emit_gs(&b->e, true, 0x03, HOST_T0, a->seg == X86_FS ? FRAME(fs_base) : FRAME(gs_base));
	return true;
}

/* ---- checks ---- */

/* The check behind it is about `span` bytes at [the operand's registers + disp]. */
static struct cold *check_cold(struct builder *b, const struct insn *i, enum translate_action action,
			       const struct access *a, const struct window *w)
{
	struct translate_check *k = block_check(b, i, action);
	struct cold *c;

	k->base = a->base;
	k->index = a->index;
	k->shift = a->shift;
	k->seg = a->seg;
	k->wide = a->wide;
	k->span = (uint16_t)(w->hi - w->lo);
	k->retry = (uint32_t)(b->e.p - b->t->rw);
	k->record.align = a->align;
	k->record.disp = (int32_t)w->lo;
	k->record.flags |= (a->write ? TRANSLATE_RECORD_WRITE : 0) | (w->write ? TRANSLATE_RECORD_WINDOW_W : 0) |
			   (a->masked && a->write ? TRANSLATE_RECORD_NO_FILL : 0);
	c = block_cold(b, &k->record);
	if (action != ACTION_FILL) {
		c->plain = (struct translate_exit *)block_record(b, i, ACTION_EXIT);
		c->plain->record.disp = i->offset;
		c->plain->record.flags |= TRANSLATE_RECORD_PLAIN;
	}
	return c;
}

/* r14: the offset of r11's entry in the TLB. */
static void emit_index(struct emit *e)
{
	emit_rr(e, false, 0x89, HOST_T0, HOST_T1);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xc1, 0xee, 7 }, 4); /* shr r14d, 7 */
	emit_alu_imm(e, false, ALU_AND, HOST_T1, (X86_TLB_SIZE - 1) << 5);
}

static uint32_t tlb_table(const struct builder *b)
{
	return (uint32_t)(offsetof(struct x86_tlb, e) + b->mmu * sizeof(((struct x86_tlb *)0)->e[0]));
}

void window_check_cross(struct builder *b, struct cold *c)
{
	struct emit *e = &b->e;

	emit_gs(e, true, 0x8b, HOST_T0, FRAME(rip_page));
	emit_lea(e, HOST_T0, HOST_T0, TZ_PAGE_SIZE);
	emit_index(e);
	emit_gs_t1(e, true, 0x3b, HOST_T0, tlb_table(b) + (uint32_t)offsetof(struct x86_tlb_entry, tag_exec));
	block_cold_from(b, c, CC_NE);
	emit_mov_imm64(e, HOST_T0, b->cross_host);
	/* Where it is for the host, stands for the GPA: slots do not move while there are blocks. */
	emit_gs_t1(e, true, 0x3b, HOST_T0, tlb_table(b) + (uint32_t)offsetof(struct x86_tlb_entry, host));
	block_cold_from(b, c, CC_NE);
}

uint8_t *window_emit_lookup(struct builder *b, int64_t span, bool write)
{
	struct emit *e = &b->e;
	uint32_t table = tlb_table(b);
	uint32_t tag = write ? offsetof(struct x86_tlb_entry, tag_write) : offsetof(struct x86_tlb_entry, tag_read);
	uint8_t *miss;

	emit_count(b->t, e, FRAME(checks));
	emit_index(e);
	emit_gs_t1(e, true, 0x2b, HOST_T0, table + tag);
	emit_alu_imm(e, true, ALU_CMP, HOST_T0, (uint32_t)(TZ_PAGE_SIZE - span));
	miss = emit_jcc(e, CC_A);
	emit_gs_t1(e, true, 0x03, HOST_T0, table + (uint32_t)offsetof(struct x86_tlb_entry, host));
	return miss;
}

void window_lookup(struct builder *b, struct cold *c, int64_t span, bool write)
{
	c->from[c->count++] = window_emit_lookup(b, span, write);
}

static bool check_base(struct builder *b, const struct insn *i, const struct access *a, bool alone, bool *aligned)
{
	/* By FS or GS with a register, 32-bit code has more to check. */
	bool single = alone || a->masked || (!b->wide && a->seg >= X86_FS && has_registers(a)), shared;
	struct access at = *a;
	struct window w;
	struct cold *c;

	if (!fits_disp(a->disp))
		return false;
	w = (struct window){ .open = false, .write = a->write, .lo = a->disp, .hi = a->disp + a->size };
	shared = !single && window_plan(b, i, a, &w) > 1;
	c = check_cold(b, i, shared ? ACTION_WINDOW : ACTION_FILL, a, &w);
	at.disp = w.lo;
	if (!emit_address(b, i, &at, (unsigned)(w.hi - w.lo)))
		return false;
	if (!shared && !*aligned) {
		/* test r11b, align - 1 */
		emit_bytes(&b->e, (const uint8_t[]){ 0x41, 0xf6, 0xc3, (uint8_t)(a->align - 1) }, 4);
		block_cold_from(b, block_cold(b, block_record(b, i, ACTION_INTERP)), CC_NE);
		*aligned = true;
	}
	window_lookup(b, c, w.hi - w.lo, w.write);
	((struct translate_check *)c->record)->hit = (uint32_t)(b->e.p - b->t->rw);
	b->base = w;
	/* Alone, interp may do it, and r11 is nothing behind it. */
	b->base.open = shared;
	return true;
}

static void check_stack(struct builder *b, const struct insn *i, const struct access *a)
{
	struct window w;
	struct cold *c;

	window_plan(b, i, a, &w);
	w.write = true; /* as the stack is; one tag will do */
	c = check_cold(b, i, ACTION_STACK, a, &w);
	emit_count(b->t, &b->e, FRAME(stack_checks));
	emit_lea(&b->e, HOST_T1, HOST_SP, (int32_t)w.lo);
	emit_gs(&b->e, true, 0x2b, HOST_T1, FRAME(stack_page));
	emit_alu_imm(&b->e, true, ALU_CMP, HOST_T1, (uint32_t)(TZ_PAGE_SIZE - (w.hi - w.lo)));
	block_cold_from(b, c, CC_A);
	b->stack = w;
}

/* Vector operands are aligned by name, or in legacy SSE unless they are moved unaligned (SDM 1 15.7): by interp. */
static void check_align(struct builder *b, const struct insn *i, const struct host_mem *m, unsigned align)
{
	struct cold *c = block_cold(b, block_record(b, i, ACTION_INTERP));

	if (m->index == HOST_NONE) {
		emit_lea(&b->e, HOST_T1, m->base, m->disp);
	} else {
		emit_lea_sib(&b->e, true, HOST_T1, m->base, m->index, 0, m->disp);
	}
	/* test r14b, align - 1 */
	emit_bytes(&b->e, (const uint8_t[]){ 0x41, 0xf6, 0xc6, (uint8_t)(align - 1) }, 4);
	block_cold_from(b, c, CC_NE);
}

bool window_access(struct builder *b, struct insn *i, const struct access *a, struct host_mem *m)
{
	bool plain = b->mode & TRANSLATE_MODE_PLAIN, stack = a->stack && !plain;
	struct window *w = stack ? &b->stack : &b->base;
	bool held = window_holds(w, a), aligned = a->align < 2;

	if (!held || !aligned) {
		insn_flags_keep(b, insn_live_before(i));
		b->flags_host = false;
	}
	if (!held) {
		if (stack)
			check_stack(b, i, a);
		else if (!check_base(b, i, a, plain, &aligned))
			return false;
	}
	if (stack)
		*m = (struct host_mem){ .base = HOST_SP, .index = HOST_WINDOW, .disp = (int32_t)a->disp };
	else
		*m = (struct host_mem){ .base = HOST_T0,
					.index = HOST_NONE,
					.disp = (int32_t)(a->disp + w->delta - w->lo) };
	if (!aligned)
		check_align(b, i, m, a->align);
	return true;
}
