/* SPDX-License-Identifier: Apache-2.0 */
/* From guest bytes to a block: decode, see which flags are needed where, emit. */
#include "translate/block.h"
#include "base/stats.h"

/* Instructions looked at behind a jump for what they do to the flags. */
#define LOOK_AHEAD 12

static bool decode(struct builder *b, unsigned offset, struct insn *i, struct interp_insn *ii)
{
	const ZydisDecoder *d = &b->t->interp.decoder[INTERP_MODE_64];
	unsigned avail = TZ_PAGE_SIZE - offset;
	uint8_t bytes[INTERP_INSN_MAX];

	if (avail > INTERP_INSN_MAX)
		avail = INTERP_INSN_MAX;
	tz_copy(bytes, b->host + offset, avail);
	if (!interp_decode(b->t->cpu, INTERP_MODE_64, bytes, avail, ii))
		return false;
	i->ii = ii;
	i->offset = (uint16_t)offset;
	if (ii->mnemonic != ZYDIS_MNEMONIC_INVALID &&
	    !ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, bytes, avail, &i->zi, i->zo)))
		return false;
	insn_classify(i, b->mode);
	return true;
}

/* What the block depends on: for overlaps with writes, and to compare with memory. */
static void add_range(struct builder *b, unsigned n, unsigned from, unsigned to)
{
	struct translate_range *r = &b->block->range[n];
	uint8_t *source = translate_alloc(b->t, to - from);

	tz_copy(source, b->host + from, to - from);
	r->offset = (uint16_t)from;
	r->len = (uint16_t)(to - from);
	r->source = source;
}

/* At the start of this block, whatever is needed behind it. */
static uint32_t flags_needed_here(const struct builder *b)
{
	uint32_t live = X86_ARITH_FLAGS, needed = 0;

	for (unsigned k = 0; k < b->count; k++) {
		needed |= b->insn[k].reads & live;
		live &= ~b->insn[k].kills;
	}
	return needed;
}

uint32_t insn_flags_needed(struct builder *b, unsigned offset, unsigned n)
{
	uint32_t live = X86_ARITH_FLAGS, needed = 0;
	unsigned at = offset;
	struct interp_insn ii;
	struct insn i;

	if (offset >= TZ_PAGE_SIZE)
		return live;
	/* What passes through the loop is needed by its other way out, or not at all. */
	if (offset == b->insn[0].offset)
		return flags_needed_here(b);
	for (unsigned k = 0; k < LOOK_AHEAD && live && at < TZ_PAGE_SIZE; k++) {
		if (!decode(b, at, &i, &ii))
			break;
		needed |= i.reads & live;
		live &= ~i.kills;
		at += ii.len;
		if (i.kind == KIND_INTERP || i.kind >= KIND_JCC)
			break;
	}
	add_range(b, n, offset, at);
	return needed | live;
}

static void decode_all(struct builder *b, unsigned offset)
{
	while (b->count < TRANSLATE_BLOCK_INSNS && offset < TZ_PAGE_SIZE) {
		struct insn *i = &b->insn[b->count];
		struct interp_insn *ii = translate_insn_alloc(b->t);

		if (!decode(b, offset, i, ii))
			break;
		translate_insn_count(ii);
		offset += ii->len;
		b->count++;
		if (i->kind >= KIND_JCC || ii->ends_block)
			break;
		/* CLAC, STAC and what else interp leaves translated code after: end here. */
		if (i->kind == KIND_INTERP && i->zi.meta.category == ZYDIS_CATEGORY_SMAP)
			break;
	}
}

static void find_live(struct builder *b)
{
	struct insn *last = &b->insn[b->count - 1];
	uint32_t live = flow_live_out(b, last);

	for (struct insn *i = last; i >= b->insn; i--) {
		i->live_after = live;
		live = i->reads | (live & ~i->kills);
	}
}

static void emit_detours(struct builder *b)
{
	for (unsigned n = 0; n < b->detours; n++) {
		struct detour *d = &b->detour[n];

		if (!d->count)
			continue;
		for (unsigned k = 0; k < d->count; k++)
			emit_bind(&b->e, d->from[k]);
		b->later = d->later;
		insn_emit_interp(b, (struct insn *)(uintptr_t)d->i);
		if (!d->resume)
			continue;
		if (d->reload_vector)
			insn_emit_vector_ready(b);
		if (d->reload_flags)
			emit_flags_load(&b->e, HOST_T0);
		emit_branch(&b->e, OP_JMP, d->resume + b->e.to_rx);
	}
}

/* add qword gs:[insns], imm8 */
void block_emit_count(struct builder *b, unsigned insns)
{
	emit_bytes(&b->e, (const uint8_t[]){ 0x65, 0x48, 0x83, 0x04, 0x25 }, 5);
	emit32(&b->e, FRAME(insns));
	emit8(&b->e, insns);
}

static void emit_straight(struct builder *b)
{
	struct insn *last = &b->insn[b->count - 1];

	block_emit_count(b, b->count);
	for (struct insn *i = b->insn; i < last; i++)
		insn_emit(b, i);
	if (last->kind >= KIND_JCC) {
		flow_emit(b, last);
	} else {
		insn_emit(b, last);
		/* With its end at a page's end it goes on in the next page. */
		if (last->kind != KIND_INTERP || !last->ii->ends_block)
			flow_emit_end(b, last->offset + last->ii->len);
	}
}

static void emit_all(struct builder *b)
{
	b->flags_host = b->vector_live = false;
	b->flags_frame = true;
	b->later = 0;
	if (!loop_emit(b))
		emit_straight(b);
	emit_detours(b);
}

struct translate_block *translate_block_make(struct translate *t, uint64_t key, const uint8_t *host)
{
	uint64_t gpa = key & (BIT64(TRANSLATE_MODE_SHIFT) - 1);
	unsigned offset = (unsigned)(gpa & TZ_PAGE_MASK);
	struct builder *b = t->builder;
	struct insn *last;

	if (!translate_room(t))
		translate_wipe(t);
	translate_protect(t, gpa & ~TZ_PAGE_MASK);
	b->t = t;
	b->e.p = t->rw + t->used;
	b->e.to_rx = t->rx - t->rw;
	b->block = translate_alloc(t, sizeof(*b->block));
	b->mode = (unsigned)(key >> TRANSLATE_MODE_SHIFT);
	b->mmu = b->mode & TRANSLATE_MODE_MMU;
	b->page = gpa & ~TZ_PAGE_MASK;
	b->host = host;
	b->count = b->detours = 0;
	decode_all(b, offset);
	if (!b->count) {
		translate_protect_done(t, gpa & ~TZ_PAGE_MASK);
		return NULL;
	}
	last = &b->insn[b->count - 1];
	add_range(b, 0, offset, last->offset + last->ii->len);
	find_live(b);
	b->block->key = key;
	b->block->code = t->rx + t->used;
	emit_all(b);
	t->used = (uint32_t)(b->e.p - t->rw + 15) & ~15u;
	translate_insert(t, b->block);
	translate_protect_done(t, gpa & ~TZ_PAGE_MASK);
	STAT_INC(t->cpu, TRANSLATE_BLOCKS);
	return b->block;
}
