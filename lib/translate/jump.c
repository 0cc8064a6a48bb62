/* SPDX-License-Identifier: Apache-2.0 */
/* The jump caches: where code at a linear address is, by context of the TLB. Each address has
 * TRANSLATE_JUMP_WAYS places, of which translated code looks at the first one at once. */
#include "translate/translate.h"

/* As translated code computes it (stubs.c). */
static unsigned jump_hash(uint64_t rip)
{
	return (((uint32_t)rip * TRANSLATE_JUMP_FACTOR) >> (32 - TRANSLATE_JUMP_BITS));
}

/* ---- which pages they depend on ---- */

/* One of 2 MiB (`large`) or 4 KiB around a linear address: no other has the same key while `round` is the same. */
static uint64_t page_key(const struct translate_jumps *j, uint64_t gva, bool large)
{
	return (uint64_t)j->round << 46 | (uint64_t)large << 45 | (gva & (BIT64(57) - 1)) >> (large ? 21 : 12);
}

/* Where it is in the set, or would be. */
static unsigned page_place(const struct translate_jumps *j, uint64_t key)
{
	unsigned n = (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) % TRANSLATE_JUMP_PAGES;

	while (j->page[n] >> 46 == j->round && j->page[n] != key)
		n = (n + 1) % TRANSLATE_JUMP_PAGES;
	return n;
}

static void pages_add(struct translate_jumps *j, uint64_t gva, bool large)
{
	uint64_t key = page_key(j, gva, large);
	unsigned n;

	if (j->pages == TRANSLATE_JUMP_PAGES / 2)
		return;
	n = page_place(j, key);
	if (j->page[n] != key) {
		j->page[n] = key;
		j->pages++;
	}
}

static bool pages_have(const struct translate_jumps *j, uint64_t gva)
{
	for (unsigned large = 0; large < 2; large++) {
		uint64_t key = page_key(j, gva, large);

		if (j->page[page_place(j, key)] == key)
			return true;
	}
	return j->huge || j->pages == TRANSLATE_JUMP_PAGES / 2;
}

static void pages_clear(struct translate_jumps *j)
{
	j->huge = false;
	j->pages = 0;
	j->round = (j->round + 1) & 0x3ffff;
	if (!j->round) {
		tz_clear(j->page, sizeof(j->page));
		j->round = 1;
	}
}

/* ---- what is in them ---- */

void translate_jump_clear_context(struct translate *t, unsigned mmu)
{
	struct translate_jumps *j = &t->jumps[mmu];
	struct translate_jump *jump = t->frame->jump[mmu];

	if (j->count < TRANSLATE_JUMP_USED)
		for (unsigned n = 0; n < j->count; n++)
			jump[j->used[n]].rip = translate_jump_none(j->used[n]);
	else
		for (unsigned n = 0; n < 1u << TRANSLATE_JUMP_BITS; n++)
			jump[n].rip = translate_jump_none(n);
	translate_unlink_far(t, mmu);
	j->count = 0;
	j->local = false;
	pages_clear(j);
}

void translate_jump_create(struct translate *t)
{
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		for (unsigned n = 0; n < 1u << TRANSLATE_JUMP_BITS; n++)
			t->frame->jump[mmu][n].rip = translate_jump_none(n);
		pages_clear(&t->jumps[mmu]);
	}
}

void translate_jump_clear(struct translate *t)
{
	for (unsigned n = 0; n < X86_MMU_COUNT; n++)
		translate_jump_clear_context(t, n);
}

static bool is_empty(const struct translate_jump *jump, unsigned n)
{
	return jump[n].rip == translate_jump_none(n);
}

static void put(struct translate_jumps *j, struct translate_jump *jump, unsigned n, uint64_t rip, const void *code)
{
	if (is_empty(jump, n) && j->count < TRANSLATE_JUMP_USED)
		j->used[j->count++] = (uint16_t)n;
	jump[n].rip = rip;
	jump[n].code = code;
}

void translate_jump_insert(struct translate *t, unsigned mmu, uint64_t rip, const void *code,
			   const struct x86_tlb_info *e)
{
	struct translate_jumps *j = &t->jumps[mmu];
	struct translate_jump *jump = t->frame->jump[mmu];
	unsigned n = jump_hash(rip);

	/* Who was there moves aside, the last one out. */
	for (unsigned way = 1; way < TRANSLATE_JUMP_WAYS && !is_empty(jump, n) && jump[n].rip != rip; way++) {
		struct translate_jump moved = jump[n ^ way];
		bool room = is_empty(jump, n ^ way);

		put(j, jump, n ^ way, jump[n].rip, jump[n].code);
		jump[n] = moved;
		if (room)
			jump[n].rip = translate_jump_none(n);
	}
	put(j, jump, n, rip, code);
	pages_add(j, rip, e->page_shift > 12);
	j->huge |= e->page_shift > 21;
	j->local |= !e->global;
}

void translate_flushed(struct x86_cpu *cpu, enum x86_tlb_flush what, uint64_t gva)
{
	struct translate *t = translate_of(cpu);

	translate_direct_flushed(t, what, gva);
	for (unsigned n = 0; n < X86_MMU_COUNT; n++) {
		struct translate_jumps *j = &t->jumps[n];

		if (what == X86_TLB_FLUSH_ALL || (what == X86_TLB_FLUSH_NONGLOBAL && j->local) ||
		    (what == X86_TLB_FLUSH_PAGE && pages_have(j, gva)))
			translate_jump_clear_context(t, n);
	}
}

const void *translate_jump_find(const struct translate *t, unsigned mmu, uint64_t rip)
{
	const struct translate_jump *jump = t->frame->jump[mmu];
	unsigned n = jump_hash(rip);

	for (unsigned way = 0; way < TRANSLATE_JUMP_WAYS; way++)
		if (jump[n ^ way].rip == rip)
			return jump[n ^ way].code;
	return NULL;
}
