/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of the guest the twin has, and the orders that change it. */
#include <sys/mman.h>
#include <sys/syscall.h>

#include "mem/memslot.h"
#include "translate/direct.h"
#include "x86/paging.h"

#define USER_END (UINT64_C(1) << 47)
#define USER_FIRST (UINT64_C(1) << 16) /* vm.mmap_min_addr's default */

/* ---- what the twin has for itself ---- */

static void reserve(struct translate_direct *d, const void *p, uint64_t size)
{
	uint64_t start = (uint64_t)(uintptr_t)p & ~TZ_PAGE_MASK,
		 end = ((uint64_t)(uintptr_t)p + size + TZ_PAGE_MASK) & ~TZ_PAGE_MASK;
	unsigned n = d->ranges;

	if (n == DIRECT_RANGES) {
		d->failed = true; /* more memory slots than anybody has */
		return;
	}
	for (; n && d->reserved[n - 1].start > start; n--)
		d->reserved[n] = d->reserved[n - 1];
	d->reserved[n] = (struct direct_range){ start, end };
	d->ranges++;
}

void direct_map_reserve(struct translate_direct *d)
{
	const struct mem_map *map = atomic_load(&d->t->cpu->mem->map);

	d->ranges = 0;
	reserve(d, d->region, sizeof(*d->region));
	reserve(d, d->t->rx, d->t->code_size);
	for (size_t n = 0; n < map->count; n++)
		reserve(d, map->slot[n].hva, map->slot[n].size);
}

static bool is_reserved(const struct translate_direct *d, uint64_t page)
{
	for (unsigned n = 0; n < d->ranges; n++)
		if (page >= d->reserved[n].start && page < d->reserved[n].end)
			return true;
	return false;
}

/* ---- orders ---- */

static bool order(struct translate_direct *d, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t e, uint64_t f)
{
	struct direct_orders *o = &d->region->orders;

	if (o->count == DIRECT_CALLS)
		return false;
	o->call[o->count++] = (struct direct_call){ nr, { a, b, c, e, f } };
	return true;
}

void direct_map_prepare(struct translate_direct *d)
{
	uint64_t from = USER_FIRST;

	if (likely(!d->drop_all))
		return;
	d->drop_all = d->split = false;
	d->pages = 0;
	d->age++;
	d->region->orders.count = 0;
	for (unsigned n = 0; n <= d->ranges; n++) {
		uint64_t to = n < d->ranges ? d->reserved[n].start : USER_END - TZ_PAGE_SIZE;

		if (to > from)
			order(d, SYS_munmap, from, to - from, 0, 0, 0);
		if (n < d->ranges && d->reserved[n].end > from)
			from = d->reserved[n].end;
	}
}
_Static_assert(DIRECT_RANGES < DIRECT_CALLS / 2, "room for more orders behind those");

/* ---- pages ---- */

/* The page's place, or where it would be. */
static struct direct_page *place(const struct translate_direct *d, uint64_t gva)
{
	uint32_t n = (uint32_t)((gva >> TZ_PAGE_SHIFT ^ gva << 30) * UINT64_C(0x9e3779b97f4a7c15) >>
				(64 - DIRECT_PAGE_BITS));

	while (d->page[n].age == d->age && d->page[n].gva != gva)
		n = (n + 1) % (1u << DIRECT_PAGE_BITS);
	return &d->page[n];
}

static bool is_live(const struct translate_direct *d, const struct direct_page *p)
{
	return p->age == d->age && p->gpa != TRANSLATE_NO_PAGE;
}

static uint64_t page_start(const struct direct_page *p)
{
	return p->gva & ~TZ_PAGE_MASK;
}

static uint64_t page_size(const struct direct_page *p)
{
	return p->gva & DIRECT_LARGE ? DIRECT_LARGE_SIZE : TZ_PAGE_SIZE;
}

/*
 * All 2 MiB around gva, from one entry of the guest's tables: what holds for the page, A and D included, holds for all
 * of them. Not if some are code, which has no write tag.
 */
static bool may_be_large(const struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e)
{
	struct x86_cpu *cpu = d->t->cpu;
	const struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	uint64_t start = gva & ~(DIRECT_LARGE_SIZE - 1), gpa = info->gpa - (gva - start);
	struct mem_hit hit;

	if (info->page_shift < 21 || start < USER_FIRST || (gpa & (DIRECT_LARGE_SIZE - 1)))
		return false;
	for (unsigned n = 0; n < d->ranges; n++)
		if (start < d->reserved[n].end && start + DIRECT_LARGE_SIZE > d->reserved[n].start)
			return false;
	if (!mem_lookup(cpu->mem, GPA(gpa), &hit) || hit.left < DIRECT_LARGE_SIZE ||
	    (uint64_t)(uintptr_t)hit.hva != e->host - (gva - start))
		return false;
	for (uint64_t at = 0; at < DIRECT_LARGE_SIZE; at += TZ_PAGE_SIZE)
		if (x86_tlb_is_code(cpu, GPA(gpa + at)))
			return false;
	return !is_live(d, place(d, start | DIRECT_LARGE));
}

bool direct_map_page(struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e, bool write)
{
	const struct x86_tlb_info *info = x86_tlb_info(d->t->cpu, e);
	bool writable = e->tag_write == gva, large;
	uint64_t start, host;
	struct direct_page *p;

	if (gva < USER_FIRST || gva >= USER_END || is_reserved(d, gva) || e->tag_read != gva || (write && !writable))
		return false;
	if (d->pages >= DIRECT_PAGES_MAX) {
		d->drop_all = true;
		direct_map_prepare(d);
	}
	if (d->region->orders.count + 2 > DIRECT_CALLS)
		return false;
	large = may_be_large(d, gva, e);
	start = large ? gva & ~(DIRECT_LARGE_SIZE - 1) : gva;
	host = e->host - (gva - start);
	p = place(d, start | (large ? DIRECT_LARGE : 0));
	/* Of length 0: a second mapping of the same memory (mremap(2)), inaccessible as the first one is there. */
	if (!is_live(d, p) || large)
		order(d, SYS_mremap, host, 0, large ? DIRECT_LARGE_SIZE : TZ_PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		      start);
	order(d, SYS_mprotect, start, large ? DIRECT_LARGE_SIZE : TZ_PAGE_SIZE, PROT_READ | (writable ? PROT_WRITE : 0),
	      0, 0);
	d->pages += p->age != d->age;
	d->split |= info->page_shift > TZ_PAGE_SHIFT && !large;
	*p = (struct direct_page){ start | (large ? DIRECT_LARGE : 0), info->gpa - (gva - start), d->age, writable };
	return true;
}

/* Its place stays: others may have been put behind it. */
static void page_drop(struct translate_direct *d, struct direct_page *p)
{
	p->gpa = TRANSLATE_NO_PAGE;
	if (!order(d, SYS_munmap, page_start(p), page_size(p), 0, 0, 0))
		d->drop_all = true;
}

void direct_map_flush(struct translate_direct *d, enum x86_tlb_flush what, uint64_t gva)
{
	struct direct_page *p;

	if (what != X86_TLB_FLUSH_PAGE || d->split) {
		d->stale = true;
		return;
	}
	if (!d->pages || d->drop_all)
		return;
	p = place(d, gva & ~TZ_PAGE_MASK);
	if (is_live(d, p))
		page_drop(d, p);
	p = place(d, (gva & ~(DIRECT_LARGE_SIZE - 1)) | DIRECT_LARGE);
	if (is_live(d, p))
		page_drop(d, p);
}

void direct_map_withheld(struct translate_direct *d, unsigned hash)
{
	const unsigned hashes = X86_TLB_CODE_WORDS * 64;

	if (!d->pages || d->drop_all)
		return;
	for (unsigned n = 0; n < 1u << DIRECT_PAGE_BITS; n++) {
		struct direct_page *p = &d->page[n];
		uint64_t at;

		if (!is_live(d, p) || !p->write)
			continue;
		at = (uint64_t)((hash + hashes - x86_tlb_code_hash(GPA(p->gpa))) % hashes) << TZ_PAGE_SHIFT;
		if (at >= page_size(p))
			continue;
		p->write = (p->gva & DIRECT_LARGE) != 0;
		if (!order(d, SYS_mprotect, page_start(p) + at, TZ_PAGE_SIZE, PROT_READ, 0, 0))
			d->drop_all = true;
	}
}

/* ---- after a flush ---- */

static bool still_there(struct translate_direct *d, const struct direct_page *p)
{
	struct x86_walk w;

	/* A may be set by the walk, as by a speculative access (SDM 3A 4.8). */
	return x86_walk(d->t->cpu, GVA(page_start(p)), X86_ACCESS_READ, X86_MMU_USER, false, &w) && w.gpa.v == p->gpa &&
	       w.readable && (w.writable || !p->write) && (w.page_shift >= 21 || !(p->gva & DIRECT_LARGE));
}

static bool code_still_there(struct translate_direct *d)
{
	struct x86_walk w;

	for (unsigned n = 0; n < d->codes; n++)
		if (!x86_walk(d->t->cpu, GVA(d->code[n].gva), X86_ACCESS_EXEC, X86_MMU_USER, false, &w) ||
		    w.gpa.v != d->code[n].gpa)
			return false;
	return d->codes < DIRECT_CODE_PAGES;
}

void direct_map_refresh(struct translate_direct *d)
{
	if (likely(!d->stale))
		return;
	d->stale = false;
	if (!code_still_there(d))
		translate_jump_clear(d->t);
	if (!d->pages || d->drop_all)
		return;
	for (unsigned n = 0; n < 1u << DIRECT_PAGE_BITS; n++) {
		struct direct_page *p = &d->page[n];

		if (is_live(d, p) && !still_there(d, p))
			page_drop(d, p);
		if (d->drop_all)
			return;
	}
	d->budget -= (int64_t)d->pages * 150;
}
