/* SPDX-License-Identifier: Apache-2.0 */
/* The jump caches: where code at a linear address is, by context of the TLB. Each address has
 * TRANSLATE_JUMP_WAYS places, of which translated code looks at the first one at once. */
#include "translate/translate.h"

/* As translated code computes it (stubs.c). */
static unsigned jump_hash(uint64_t rip)
{
	return (((uint32_t)rip * TRANSLATE_JUMP_FACTOR) >> (32 - TRANSLATE_JUMP_BITS));
}

static void clear(struct translate *t, unsigned mmu)
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
	j->local = j->huge = false;
	tz_clear(j->page, sizeof(j->page));
	tz_clear(j->large, sizeof(j->large));
}

void translate_jump_clear(struct translate *t)
{
	for (unsigned n = 0; n < X86_MMU_COUNT; n++)
		clear(t, n);
}

/* ---- which pages they depend on ---- */

static unsigned filter_hash(uint64_t n)
{
	return (uint32_t)(n ^ n >> 12) % (64 * 64);
}

static void filter_add(uint64_t filter[64], uint64_t n)
{
	filter[filter_hash(n) / 64] |= BIT64(filter_hash(n) % 64);
}

static bool filter_has(const uint64_t filter[64], uint64_t n)
{
	return (filter[filter_hash(n) / 64] >> filter_hash(n) % 64) & 1;
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
	filter_add(j->page, rip >> 12);
	if (e->page_shift > 12)
		filter_add(j->large, rip >> 21);
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
		    (what == X86_TLB_FLUSH_PAGE &&
		     (j->huge || filter_has(j->page, gva >> 12) || filter_has(j->large, gva >> 21))))
			clear(t, n);
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
