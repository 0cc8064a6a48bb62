/* SPDX-License-Identifier: Apache-2.0 */
#include "interp/cache.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/stats.h"
#include "x86/paging.h"

/* Bounded: when it is full everything is forgotten. Pages are touched only as it fills. */
#define ARENA_SIZE (16u << 20)
#define SOURCE_MAX (INTERP_BLOCK_INSNS * INTERP_INSN_MAX)
#define BLOCK_MAX (sizeof(struct interp_block) + INTERP_BLOCK_INSNS * sizeof(struct interp_insn) + SOURCE_MAX + 8)

/*
 * Data that shares a page with code makes every write to it slow. After so many the watching of
 * all pages is dropped; those that still run code come back one by one.
 */
#define CODE_WRITES_MAX (1u << 18)

struct interp_cache *interp_cache_create(void)
{
	struct interp_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->arena == MAP_FAILED) {
		free(c);
		return NULL;
	}
	return c;
}

void interp_cache_destroy(struct interp_cache *c)
{
	if (!c)
		return;
	munmap(c->arena, ARENA_SIZE);
	free(c);
}

void interp_cache_wipe(struct x86_cpu *cpu, struct interp_cache *c)
{
	tz_clear(c->table, sizeof(c->table));
	c->used = 0;
	c->code_writes = 0;
	c->wipes++;
	x86_tlb_unprotect_all_code(cpu);
}

void interp_cache_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
	struct interp *in = interp_of(cpu);
	uint64_t page = gpa.v & ~TZ_PAGE_MASK;

	(void)len; /* inside one page */
	in->cache->code_writes++;
	if (in->block && (in->block->key & INTERP_KEY_GPA & ~TZ_PAGE_MASK) == page)
		in->abort_block = true;
}

/* Can the running code write to the page it executes from, at this very address? Then watch it. */
static void watch_page(struct x86_cpu *cpu, struct interp_cache *c, uint64_t linear, uint64_t gpa)
{
	struct x86_walk w;

	if (c->code_writes > CODE_WRITES_MAX) {
		c->code_writes = 0;
		c->epoch++;
		x86_tlb_unprotect_all_code(cpu);
	}
	if (x86_walk(cpu, GVA(linear), X86_ACCESS_WRITE, cpu->mmu_index, true, &w))
		x86_tlb_protect_code(cpu, GPA(gpa & ~TZ_PAGE_MASK));
}

/* Decode at rip without caching, byte-exact about what may be fetched (SDM 3A 5.3, 6.15 #PF). */
static const struct interp_block *decode_single(struct x86_cpu *cpu, struct interp *in, uint64_t linear)
{
	struct interp_cache *c = in->cache;
	struct interp_block *b = &c->single.block;
	uint64_t want = INTERP_INSN_MAX, limit = cpu->seg[X86_CS].limit;
	unsigned got;
	gpa_t gpa, next;

	if (cpu->code_size != 8) {
		if (cpu->code_size == 2 && limit > 0xffff)
			limit = 0xffff;
		if (cpu->rip > limit)
			x86_raise_gp0(cpu);
		if (want > limit - cpu->rip + 1)
			want = limit - cpu->rip + 1;
	}
	got = x86_fetch(cpu, linear, c->single_source, (unsigned)want, &gpa);
	if (!interp_decode(cpu, interp_mode_of(cpu), c->single_source, got, b->insn)) {
		/* More bytes are really needed: now their absence counts, the limit's before the page's. */
		if (got < want)
			x86_fetch(cpu, interp_code_linear(cpu) + got, c->single_source + got, 1, &next);
		if (want < INTERP_INSN_MAX && got == want)
			x86_raise_gp0(cpu);
		/* The page came back between the two fetches: try again. */
		longjmp(cpu->unwind, X86_UNWIND_RESTART);
	}
	b->key = interp_block_key(cpu, gpa.v);
	b->count = 1;
	b->bytes = b->head = b->insn->len;
	b->source = c->single_source;
	return b;
}

/* Room for one more block of any size; wipes when there is none. */
static struct interp_block *arena_reserve(struct x86_cpu *cpu, struct interp_cache *c)
{
	if (c->used + BLOCK_MAX > ARENA_SIZE)
		interp_cache_wipe(cpu, c);
	return (struct interp_block *)(c->arena + c->used);
}

static void arena_commit(struct interp_cache *c, struct interp_block *b, const uint8_t *source)
{
	uint8_t *copy = (uint8_t *)&b->insn[b->count];
	size_t size = (size_t)(copy - (uint8_t *)b) + b->bytes + 8;

	tz_copy(copy, source, b->bytes);
	b->source = copy;
	b->link[0].block = b->link[1].block = NULL;
	c->used += (size + 63) & ~(size_t)63;
	*interp_block_slot(c, b->key) = b;
}

/* An instruction across a page end: a block of its own, in both pages. */
static bool decode_straddling(struct x86_cpu *cpu, struct interp_block *b, uint64_t linear, uint8_t *source,
			      unsigned head)
{
	gpa_t gpa;
	uint64_t next = cpu->code_size == 8 ? linear + head : (uint32_t)(linear + head);
	unsigned more = x86_fetch(cpu, next, source + head, INTERP_INSN_MAX - head, &gpa);

	if (!interp_decode(cpu, interp_mode_of(cpu), source, head + more, b->insn))
		return false;
	b->count = 1;
	b->bytes = b->insn->len;
	b->head = (uint16_t)head;
	b->key |= INTERP_KEY_STRADDLES;
	return true;
}

/*
 * Decode the block at `linear`, which `host` maps. The bytes are copied first, so that what is decoded
 * and what later entries compare with is the same, whoever writes meanwhile.
 */
static struct interp_block *decode_block(struct x86_cpu *cpu, struct interp_cache *c, uint64_t key, uint64_t linear,
					 const uint8_t *host)
{
	uint64_t left = TZ_PAGE_SIZE - (linear & TZ_PAGE_MASK);
	unsigned avail = left < SOURCE_MAX ? (unsigned)left : SOURCE_MAX, at = 0;
	struct interp_block *b;
	uint8_t source[SOURCE_MAX];

	b = arena_reserve(cpu, c);
	tz_copy(source, host, avail);
	b->key = key;
	b->epoch = c->epoch;
	b->count = 0;
	while (b->count < INTERP_BLOCK_INSNS && at < avail) {
		struct interp_insn *i = &b->insn[b->count];
		unsigned n = avail - at < INTERP_INSN_MAX ? avail - at : INTERP_INSN_MAX;

		if (!interp_decode(cpu, interp_mode_of(cpu), source + at, n, i))
			break;
		at += i->len;
		b->count++;
		if (i->ends_block)
			break;
	}
	b->bytes = b->head = (uint16_t)at;
	if (!b->count && !decode_straddling(cpu, b, linear, source, avail))
		return NULL;
	STAT_INC(cpu, BLOCKS_DECODED);
	arena_commit(c, b, source);
	return b;
}

/* The second page's part of a straddling instruction, through today's mapping. */
static bool tail_same(struct x86_cpu *cpu, const struct interp_block *b, uint64_t linear)
{
	uint8_t buf[INTERP_INSN_MAX];
	unsigned n = b->bytes - b->head;
	uint64_t next = cpu->code_size == 8 ? linear + b->head : (uint32_t)(linear + b->head);
	gpa_t gpa;

	x86_fetch(cpu, next, buf, n, &gpa);
	for (unsigned k = 0; k < n; k++)
		if (buf[k] != b->source[b->head + k])
			return false;
	return true;
}

/* Fill the TLB for the page at `linear`. NULL: no memory slot there. */
static const struct x86_tlb_entry *exec_entry(struct x86_cpu *cpu, uint64_t linear)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, linear);
	uint8_t byte;
	gpa_t gpa;

	if (e->tag_exec != (linear & ~TZ_PAGE_MASK))
		x86_fetch(cpu, linear, &byte, 1, &gpa);
	return e->tag_exec == (linear & ~TZ_PAGE_MASK) ? e : NULL;
}

/* A straddling block at `key`, both parts as they are in memory now; or NULL. */
static const struct interp_block *find_straddling(struct x86_cpu *cpu, struct interp_cache *c, uint64_t key,
						  uint64_t linear, const uint8_t *host)
{
	struct interp_block *b = *interp_block_slot(c, key | INTERP_KEY_STRADDLES);

	if (!b || b->key != (key | INTERP_KEY_STRADDLES) || !interp_block_in_limit(cpu, b) ||
	    !interp_bytes_same(host, b->source, b->head) || !tail_same(cpu, b, linear))
		return NULL;
	return b;
}

static const struct interp_block *block_slow(struct x86_cpu *cpu, struct interp *in)
{
	uint64_t linear = interp_code_linear(cpu), key;
	struct interp_cache *c = in->cache;
	const struct x86_tlb_entry *e;
	const struct interp_block *found;
	struct interp_block *b;
	const uint8_t *host;

	in->block = NULL;
	/* Sequential execution can run off the canonical range or past the limit: #GP(0) on the fetch. */
	x86_check_rip(cpu, cpu->rip);
	e = exec_entry(cpu, linear);
	/* Where the limit cuts, its #GP comes before any page fault. */
	if (!e || (cpu->code_size != 8 && cpu->seg[X86_CS].limit - cpu->rip < INTERP_INSN_MAX))
		return decode_single(cpu, in, linear);
	key = interp_block_key(cpu, x86_tlb_info(cpu, e)->gpa | (linear & TZ_PAGE_MASK));
	host = x86_tlb_host(e, linear);
	if ((linear & TZ_PAGE_MASK) > TZ_PAGE_SIZE - INTERP_INSN_MAX) {
		found = find_straddling(cpu, c, key, linear, host);
		if (found)
			return found;
	}
	b = *interp_block_slot(c, key);
	if (!b || b->key != key || b->epoch != c->epoch || e->tag_write == (linear & ~TZ_PAGE_MASK))
		watch_page(cpu, c, linear, x86_tlb_info(cpu, e)->gpa);
	if (b && b->key == key) {
		b->epoch = c->epoch;
		if (!interp_block_in_limit(cpu, b))
			return decode_single(cpu, in, linear);
		if (interp_bytes_same(host, b->source, b->bytes))
			return b;
		STAT_INC(cpu, BLOCKS_INVALIDATED);
	}
	b = decode_block(cpu, c, key, linear, host);
	if (!b || !interp_block_in_limit(cpu, b))
		return decode_single(cpu, in, linear);
	return b;
}

const struct interp_block *interp_block_find(struct x86_cpu *cpu, struct interp *in)
{
	uint64_t linear = interp_code_linear(cpu);
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, linear);

	if (likely(interp_page_ready(e, linear))) {
		uint64_t key = interp_block_key(cpu, x86_tlb_info(cpu, e)->gpa | (linear & TZ_PAGE_MASK));
		const struct interp_block *b = *interp_block_slot(in->cache, key);

		if (likely(b && interp_block_valid(cpu, in->cache, b, e, linear)))
			return b;
	}
	return block_slow(cpu, in);
}

const struct interp_block *interp_block_link(struct x86_cpu *cpu, struct interp *in, struct interp_block *from)
{
	struct interp_cache *c = in->cache;
	uint64_t wipes = c->wipes, rip = cpu->rip;
	const struct interp_block *b = interp_block_find(cpu, in);

	/* `from` may be gone, and the single block is another one each time. */
	if (c->wipes != wipes || from == &c->single.block || b == &c->single.block || (b->key & INTERP_KEY_STRADDLES))
		return b;
	from->link[1] = from->link[0];
	from->link[0].rip = rip;
	from->link[0].block = (struct interp_block *)(uintptr_t)b;
	return b;
}
