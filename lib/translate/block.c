/* SPDX-License-Identifier: Apache-2.0 */
/* From guest bytes to a block: decode, see which flags are needed where, emit. */
#include "translate/block.h"
#include "base/stats.h"

/* Instructions looked at behind a jump for what they do to the flags. */
#define LOOK_AHEAD 6
#define SIDE_EXITS 2
#define LOOP_ROUNDS 4

static void classify(struct builder *b, struct insn *i)
{
	i->inverted = i->shadow = i->is_protected = false; /* it is used again and again */
	insn_classify(i, b->mode);
	if (unlikely(b->t->guard) && b->t->guard->apart(&i->ii)) {
		i->kind = KIND_INTERP;
		i->reads = i->writes = X86_ARITH_FLAGS;
		i->kills = 0;
	}
}

static enum interp_mode interp_mode(const struct builder *b)
{
	return b->wide ? INTERP_MODE_64 : INTERP_MODE_32;
}

static bool decode(struct builder *b, unsigned offset, struct insn *i)
{
	unsigned avail = TZ_PAGE_SIZE - offset;
	uint8_t bytes[INTERP_INSN_MAX];

	if (avail > INTERP_INSN_MAX)
		avail = INTERP_INSN_MAX;
	for (unsigned k = 0; k < avail; k++)
		guest_store8(bytes + k, guest_load8(b->host + offset + k));
	if (!interp_decode_full(b->t->cpu, interp_mode(b), bytes, avail, &i->ii, &i->zi, i->zo))
		return false;
	i->offset = (uint16_t)offset;
	classify(b, i);
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

/* ---- a block's instructions ---- */

static bool is_loop(const struct builder *b, const struct insn *i)
{
	return i->kind == KIND_JCC && flow_target(i) == b->insn[0].offset;
}

/* A block that ends with a jump to its own start: several rounds in a row, each but the last left by a side exit. */
static void unroll(struct builder *b)
{
	unsigned count = b->count, rounds = TRANSLATE_BLOCK_INSNS / count;

	if (rounds > LOOP_ROUNDS)
		rounds = LOOP_ROUNDS;
	for (unsigned k = 1; k < rounds; k++)
		tz_copy(&b->insn[k * count], b->insn, count * sizeof(b->insn[0]));
	for (unsigned k = 1; k < rounds; k++)
		b->insn[k * count - 1].inverted = true;
	b->count = rounds * count;
}

/*
 * STI goes on in translated code for the one instruction that it protects; then the block ends with a look for
 * interrupts. Not if that one is interp's, which might look itself, or a branch without a look.
 */
static void settle_shadow(struct builder *b)
{
	b->poll_end = false;
	for (unsigned n = 0; n < b->count; n++) {
		struct insn *i = &b->insn[n];

		if (!i->shadow)
			continue;
		b->poll_end =
			n + 1 < b->count && i[1].kind != KIND_INTERP && (i[1].kind < KIND_JCC || i[1].kind == KIND_RET);
		i->shadow = b->poll_end;
		if (b->poll_end)
			i[1].is_protected = true;
		b->count = n + (b->poll_end ? 2 : 1);
		return;
	}
}

static void decode_all(struct builder *b, unsigned offset)
{
	unsigned exits = 0;

	while (b->count < TRANSLATE_BLOCK_INSNS && offset < TZ_PAGE_SIZE) {
		struct insn *i = &b->insn[b->count];

		if (!decode(b, offset, i))
			break;
		offset += i->ii.len;
		b->count++;
		if (i->ii.mnemonic == ZYDIS_MNEMONIC_STI && i->kind == KIND_INTERP) {
			i->shadow = true;
		} else if (i->kind > KIND_JCC || i->ii.ends_block) {
			if (i->kind != KIND_JCC)
				break;
			if (is_loop(b, i) || ++exits == SIDE_EXITS)
				break;
		}
		/* CLAC, STAC and what else interp leaves translated code after: end here. */
		if (i->kind == KIND_INTERP && i->zi.meta.category == ZYDIS_CATEGORY_SMAP)
			break;
	}
}

/* ---- flags ---- */

/* Which are needed at `offset`: by what is there, or perhaps by what follows. */
static uint32_t flags_needed(struct builder *b, int64_t offset)
{
	uint32_t live = X86_ARITH_FLAGS, needed = 0;
	struct insn *i = &b->insn[b->count < TRANSLATE_BLOCK_INSNS ? b->count : TRANSLATE_BLOCK_INSNS - 1];
	unsigned at = (unsigned)offset;

	if (offset < 0 || offset >= (int64_t)TZ_PAGE_SIZE || b->count == TRANSLATE_BLOCK_INSNS)
		return live;
	for (unsigned k = 0; k < LOOK_AHEAD && live && at < TZ_PAGE_SIZE; k++) {
		if (!decode(b, at, i))
			break;
		needed |= i->reads & live;
		live &= ~i->kills;
		at += i->ii.len;
		if (i->kind == KIND_INTERP || i->kind >= KIND_JCC)
			break;
	}
	add_range(b, 1, (unsigned)offset, at);
	return needed | live;
}

static void find_live(struct builder *b)
{
	struct insn *last = &b->insn[b->count - 1];
	uint32_t live = X86_ARITH_FLAGS;

	if (last->kind == KIND_JMP && last->ii.kind[0] == INTERP_OP_IMM)
		live = flags_needed(b, flow_target(last));
	for (struct insn *i = last; i >= b->insn; i--) {
		i->live_after = live;
		/* The other way out of a conditional jump may need all. */
		live = i->kind == KIND_JCC ? X86_ARITH_FLAGS : i->reads | (live & ~i->kills);
	}
	b->block->needs_flags = live != 0;
}

/* ---- emission ---- */

static struct translate_record *record(struct builder *b, const struct insn *i, enum translate_action action,
				       size_t size)
{
	struct translate_record *r = translate_alloc(b->t, size);

	r->block = translate_offset(b->t, b->block);
	r->action = (uint8_t)action;
	r->offset = i ? i->offset : 0;
	r->since = (int8_t)b->since;
	r->align = 1;
	r->flags = b->vector_live ? TRANSLATE_RECORD_VECTOR : 0;
	if (i && i->is_protected)
		r->flags |= TRANSLATE_RECORD_PROTECTED;
	if (action == ACTION_INTERP || action == ACTION_FILL)
		b->resume[b->resumes++] = r;
	return r;
}

struct translate_record *block_record(struct builder *b, const struct insn *i, enum translate_action action)
{
	return record(b, i, action,
		      action == ACTION_FAR    ? sizeof(struct translate_far)
		      : action == ACTION_EXIT ? sizeof(struct translate_exit)
					      : sizeof(struct translate_record));
}

struct translate_check *block_check(struct builder *b, const struct insn *i, enum translate_action action)
{
	return (struct translate_check *)record(b, i, action, sizeof(struct translate_check));
}

struct cold *block_cold(struct builder *b, struct translate_record *r)
{
	struct cold *c = &b->cold[b->colds++];

	c->record = r;
	c->count = 0;
	c->save_flags = false;
	c->mmu = (uint8_t)b->mmu;
	c->plain = NULL;
	c->tag = NULL;
	return c;
}

void block_cold_from(struct builder *b, struct cold *c, unsigned cc)
{
	c->from[c->count++] = emit_jcc(&b->e, cc);
}

void block_emit_call(struct builder *b, const uint8_t *stub, const struct translate_record *r)
{
	emit_branch(&b->e, OP_CALL, stub);
	emit32(&b->e, translate_offset(b->t, r));
}

void block_emit_count(struct builder *b)
{
	if (b->t->cpu->count_insns && b->since) {
		emit_gs(&b->e, true, 0x8b, HOST_T1, FRAME(insns));
		emit_lea(&b->e, HOST_T1, HOST_T1, (int32_t)b->since);
		emit_gs(&b->e, true, 0x89, HOST_T1, FRAME(insns));
	}
	b->since = 0;
}

static const uint8_t *cold_stub(const struct builder *b, const struct cold *c)
{
	const struct translate_record *r = c->record;

	if (r->action == ACTION_FILL || r->action == ACTION_WINDOW)
		return b->t->stub_fill[b->mmu][(r->flags & TRANSLATE_RECORD_WINDOW_W) != 0];
	if (r->action == ACTION_STACK)
		return b->t->stub_stack[b->mmu];
	/* An inline jump found nothing in the first place. */
	if (r->action == ACTION_JUMP || (r->action == ACTION_INTERP && r->since < 0))
		return b->t->stub_jump[c->mmu];
	return b->t->stub_detour;
}

static void emit_colds(struct builder *b)
{
	for (unsigned n = 0; n < b->colds; n++) {
		struct cold *c = &b->cold[n];

		for (unsigned k = 0; k < c->count; k++)
			emit_bind(&b->e, c->from[k]);
		if (c->plain)
			flow_emit_plain(b, c, c->record->action == ACTION_STACK ? HOST_T1 : HOST_T0);
		if (c->record->action == ACTION_EXIT || c->record->action == ACTION_FAR)
			flow_emit_exit(b, c);
		else
			block_emit_call(b, cold_stub(b, c), c->record);
	}
}

static void emit_all(struct builder *b)
{
	struct insn *last = &b->insn[b->count - 1];

	b->flags_host = b->vector_live = b->stack.open = b->base.open = false;
	b->flags_frame = true;
	b->colds = b->since = b->resumes = 0;
	emit_count(b->t, &b->e, FRAME(blocks));
	if (b->cross)
		window_check_cross(b, block_cold(b, &block_check(b, b->insn, ACTION_CROSS)->record));
	for (struct insn *i = b->insn; i <= last; i++) {
		if (i->kind >= KIND_JCC)
			flow_emit(b, i);
		else
			insn_emit(b, i);
		window_after(b, i);
	}
	/* It goes on behind its last instruction, perhaps in the next page. */
	if (last->kind == KIND_JCC || (last->kind < KIND_JCC && !last->ii.ends_block))
		flow_emit_end(b, last->offset + last->ii.len);
}

/*
 * The instruction at CS:RIP goes on in the next page: which one that is depends on the linear address, so the block
 * looks whether it still is the same. False: by interp, which raises what the second page raises.
 */
static bool decode_cross(struct builder *b, unsigned offset)
{
	struct x86_cpu *cpu = b->t->cpu;
	uint64_t next = (cpu->rip | TZ_PAGE_MASK) + 1;
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, b->mmu, next);
	struct translate_block *ghost;
	unsigned first = TZ_PAGE_SIZE - offset, len;
	uint8_t bytes[INTERP_INSN_MAX], *source;
	struct insn *i = b->insn;
	gpa_t gpa;

	if ((uint64_t)((int64_t)next >> 47) + 1 > 1 || (!b->wide && next >> 32) ||
	    x86_fetch(cpu, cpu->rip, bytes, INTERP_INSN_MAX, &gpa) != INTERP_INSN_MAX || e->tag_exec != next ||
	    x86_tlb_info(cpu, e)->gpa == b->page ||
	    !interp_decode_full(cpu, interp_mode(b), bytes, INTERP_INSN_MAX, &i->ii, &i->zi, i->zo))
		return false;
	len = i->ii.len;
	if (len <= first)
		return false; /* changed meanwhile */
	i->offset = (uint16_t)offset;
	classify(b, i);
	b->count = 1;
	b->cross = x86_tlb_info(cpu, e)->gpa;
	b->cross_host = e->host;
	source = translate_alloc(b->t, len);
	tz_copy(source, bytes, len);
	b->block->cross = (uint8_t)(len - first);
	b->block->cross_host = (const uint8_t *)e->host;
	b->block->range[0] = (struct translate_range){ (uint16_t)offset, (uint16_t)first, source };
	ghost = translate_alloc(b->t, sizeof(*ghost));
	ghost->range[0] = (struct translate_range){ 0, (uint16_t)(len - first), source + first };
	ghost->partner = b->block;
	b->block->partner = ghost;
	translate_protect(b->t, b->cross);
	/* Between the fetch and the protection another vCPU may have written there. */
	for (unsigned k = first; k < len; k++)
		if (guest_load8((const uint8_t *)e->host + k - first) != bytes[k]) {
			translate_protect_done(b->t, b->cross);
			b->count = 0;
			return false;
		}
	return true;
}

static void decode_block(struct builder *b, unsigned offset)
{
	struct insn *last;

	b->cross = 0;
	b->poll_end = false;
	b->count = 0;
	decode_all(b, offset);
	if (!b->count) {
		decode_cross(b, offset);
		return;
	}
	settle_shadow(b);
	last = &b->insn[b->count - 1];
	add_range(b, 0, offset, last->offset + last->ii.len);
	if (is_loop(b, last) && b->count <= TRANSLATE_BLOCK_INSNS / 2)
		unroll(b);
}

struct translate_block *translate_block_make(struct translate *t, uint64_t key, const uint8_t *host)
{
	uint64_t gpa = key & (BIT64(TRANSLATE_MODE_SHIFT) - 1), page = gpa & ~TZ_PAGE_MASK;
	struct builder *b = t->builder;
	uint32_t size;

	if (!translate_room(t))
		translate_wipe(t);
	translate_protect(t, page);
	b->t = t;
	b->e.p = t->rw + t->used;
	b->e.to_rx = t->rx - t->rw;
	b->block = translate_alloc(t, sizeof(*b->block));
	b->mode = (unsigned)(key >> TRANSLATE_MODE_SHIFT);
	b->mmu = b->mode & TRANSLATE_MODE_MMU;
	b->wide = !(b->mode & TRANSLATE_MODE_32);
	b->width = b->wide ? 8 : 4;
	b->page = page;
	b->host = host;
	decode_block(b, (unsigned)(gpa & TZ_PAGE_MASK));
	if (!b->count) {
		translate_protect_done(t, page);
		return NULL;
	}
	find_live(b);
	b->block->key = key;
	b->block->code = t->rx + t->used;
	emit_all(b);
	size = (uint32_t)(b->e.p - t->rw) - t->used;
	t->used = (uint32_t)(b->e.p - t->rw + 15) & ~15u;
	b->e.p = t->rw + t->cold;
	emit_colds(b);
	size += (uint32_t)(b->e.p - t->rw) - t->cold;
	t->cold = (uint32_t)(b->e.p - t->rw);
	translate_insert(t, b->block);
	if (b->cross) {
		translate_insert_ghost(t, b->block->partner, b->cross);
		translate_protect_done(t, b->cross);
	}
	translate_protect_done(t, page);
	STAT_INC(t->cpu, TRANSLATE_BLOCKS);
	STAT_ADD(t->cpu, TRANSLATE_GUEST_BYTES, b->block->range[0].len);
	STAT_ADD(t->cpu, TRANSLATE_HOST_BYTES, size);
	return b->block;
}
