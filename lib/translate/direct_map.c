/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of the guest the twin has, and the orders that change it. */
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/stats.h"
#include "mem/memslot.h"
#include "translate/direct.h"
#include "x86/paging.h"

#define USER_END (UINT64_C(1) << 47)
#define USER_FIRST (UINT64_C(1) << 16) /* vm.mmap_min_addr's default */

static uint64_t area_start(const struct translate_direct *d)
{
	return (uint64_t)(uintptr_t)d->region;
}

bool direct_map_collides(const struct translate_direct *d)
{
	const struct x86_cpu *cpu = d->t->cpu;
	uint64_t entry;

	/* SDM 3A 4.5: an entry of the PML4 table stands for 512 GiB. */
	for (uint64_t n = area_start(d) >> 39; n <= d->end >> 39; n++)
		if (!mem_read(cpu->mem, GPA((cpu->cr3 & UINT64_C(0xffffffffff000)) + 8 * n), &entry, sizeof(entry)) ||
		    (entry & 1))
			return true;
	return false;
}

/* ---- orders ---- */

bool direct_map_order(struct translate_direct *d, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t e,
		      uint64_t f)
{
	struct direct_orders *o = &d->region->orders;

	if (o->count == DIRECT_CALLS)
		return false;
	o->call[o->count++] = (struct direct_call){ nr, { a, b, c, e, f } };
	return true;
}

static void release_code(struct translate_direct *d, struct direct_page *p)
{
	if (!p->exec)
		return;
	p->exec = false;
	d->execs--;
	translate_protect_done(d->t, p->gpa);
}

void direct_map_prepare(struct translate_direct *d)
{
	if (likely(!d->drop_all))
		return;
	for (unsigned n = 0; n < d->pages && d->execs; n++)
		release_code(d, &d->page[n]);
	d->drop_all = d->split = false;
	d->pages = 0;
	tz_clear(d->chain, sizeof(d->chain));
	tz_clear(d->index, sizeof(*d->index) << DIRECT_INDEX_BITS);
	d->region->orders.count = 0;
	direct_map_order(d, SYS_munmap, USER_FIRST, area_start(d) - USER_FIRST, 0, 0, 0);
	direct_map_order(d, SYS_munmap, d->end, USER_END - TZ_PAGE_SIZE - d->end, 0, 0, 0);
}

void direct_map_wiped(struct translate_direct *d)
{
	/* What protected the pages is forgotten already. */
	for (unsigned n = 0; n < d->pages && d->execs; n++) {
		d->execs -= d->page[n].exec;
		d->page[n].exec = false;
	}
	d->drop_all = true;
}

/* ---- pages ---- */

static struct direct_page *find(const struct translate_direct *d, uint64_t gva, uint32_t *place)
{
	uint32_t n = (uint32_t)((gva >> TZ_PAGE_SHIFT ^ gva << 30) * UINT64_C(0x9e3779b97f4a7c15) >>
				(64 - DIRECT_INDEX_BITS));

	while (d->index[n] && d->page[d->index[n] - 1].gva != gva)
		n = (n + 1) % (1u << DIRECT_INDEX_BITS);
	*place = n;
	return d->index[n] ? &d->page[d->index[n] - 1] : NULL;
}

static bool is_live(const struct direct_page *p)
{
	return p && p->gpa != TRANSLATE_NO_PAGE;
}

static struct direct_page *find_live(const struct translate_direct *d, uint64_t gva)
{
	uint32_t place;
	struct direct_page *p = find(d, gva, &place);

	return is_live(p) ? p : NULL;
}

/* A page that is gone keeps its place for when it comes back. NULL: there are too many. */
static struct direct_page *page_add(struct translate_direct *d, uint64_t gva)
{
	uint32_t place;
	struct direct_page *p = find(d, gva, &place);

	if (p)
		return p;
	if (d->pages == DIRECT_PAGES_MAX)
		return NULL;
	p = &d->page[d->pages++];
	*p = (struct direct_page){ .gva = gva, .gpa = TRANSLATE_NO_PAGE };
	d->index[place] = d->pages;
	return p;
}

/* Into the chain of its GPA. Those that are gone stay where they were. */
static void chain_page(struct translate_direct *d, struct direct_page *p)
{
	uint32_t number = (uint32_t)(p - d->page) + 1, *at;
	uint32_t chain = p->gva & DIRECT_LARGE ? DIRECT_CHAINS : (uint32_t)(p->gpa >> TZ_PAGE_SHIFT) % DIRECT_CHAINS;

	if (p->chain == chain + 1)
		return;
	if (p->chain) {
		for (at = &d->chain[p->chain - 1]; *at != number; at = &d->page[*at - 1].next)
			;
		*at = p->next;
	}
	p->chain = chain + 1;
	p->next = d->chain[chain];
	d->chain[chain] = number;
}

/* What a large page there is found by. */
static uint64_t large_of(uint64_t gva)
{
	return (gva & ~(DIRECT_LARGE_SIZE - 1)) | DIRECT_LARGE;
}

static uint64_t page_start(const struct direct_page *p)
{
	return p->gva & ~TZ_PAGE_MASK;
}

static uint64_t page_size(const struct direct_page *p)
{
	return p->gva & DIRECT_LARGE ? DIRECT_LARGE_SIZE : TZ_PAGE_SIZE;
}

/* 0: it is not there. */
static uint64_t alias_of(const struct translate_direct *d, uint64_t host, uint64_t size)
{
	for (unsigned n = 0; n < d->aliases; n++) {
		const struct direct_alias *a = &d->alias[n];

		if (host >= a->host && host - a->host < a->size && size <= a->size - (host - a->host))
			return a->at ? a->at + (host - a->host) : 0;
	}
	return 0;
}

/*
 * All 2 MiB around gva, from one entry of the guest's tables: what holds for the page, A and D included, holds for all
 * of them. Not if some are code, which has no write tag.
 */
static bool may_be_large(struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e)
{
	struct x86_cpu *cpu = d->t->cpu;
	const struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	uint64_t start = gva & ~(DIRECT_LARGE_SIZE - 1), gpa = info->gpa - (gva - start);
	struct mem_hit hit;

	if (info->page_shift < 21 || start < USER_FIRST || (gpa & (DIRECT_LARGE_SIZE - 1)) ||
	    (start < d->end && start + DIRECT_LARGE_SIZE > area_start(d)))
		return false;
	if (!mem_lookup(cpu->mem, GPA(gpa), &hit) || hit.left < DIRECT_LARGE_SIZE ||
	    (uint64_t)(uintptr_t)hit.hva != e->host - (gva - start))
		return false;
	for (uint64_t at = 0; at < DIRECT_LARGE_SIZE; at += TZ_PAGE_SIZE)
		if (x86_tlb_is_code(cpu, GPA(gpa + at)))
			return false;
	return !find_live(d, start | DIRECT_LARGE);
}

/* The bytes of another page, if they can be executed and nothing has to be asked. */
static const uint8_t *code_at(struct translate_direct *d, uint64_t page)
{
	struct x86_cpu *cpu = d->t->cpu;
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, X86_MMU_USER, page);
	struct x86_walk w;
	struct mem_hit hit;

	if (e->tag_exec == page)
		return (const uint8_t *)e->host;
	if (!x86_walk(cpu, GVA(page), X86_ACCESS_EXEC, X86_MMU_USER, true, &w) || !mem_lookup(cpu->mem, w.gpa, &hit))
		return NULL;
	return hit.hva;
}

/* Refusals are believed for some time: that is slow at worst. */
#define BELIEF 200

static struct direct_refusal *refusal_of(struct translate_direct *d, uint64_t gpa)
{
	return &d->refused[(gpa >> TZ_PAGE_SHIFT) % ARRAY_SIZE(d->refused)];
}

static bool is_refused(struct translate_direct *d, uint64_t gpa)
{
	struct direct_refusal *r = refusal_of(d, gpa);

	if (r->gpa != gpa || !r->left)
		return false;
	r->left--;
	STAT_INC(d->t->cpu, DIRECT_SENSITIVE);
	return true;
}

/* From now on its bytes do not change unnoticed. */
static bool hold_code(struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e)
{
	uint64_t gpa = x86_tlb_info(d->t->cpu, e)->gpa;
	const uint8_t *host = (const uint8_t *)e->host, *before = code_at(d, gva - TZ_PAGE_SIZE),
		      *after = code_at(d, gva + TZ_PAGE_SIZE);

	d->unfit = gva;
	if (is_refused(d, gpa))
		return false;
	translate_protect(d->t, gpa);
	if (direct_scan_known(d->scans, host, before ? before + TZ_PAGE_SIZE - DIRECT_SCAN_BEFORE : NULL, after,
			      d->avoid)) {
		d->unfit = TRANSLATE_NO_PAGE;
		return true;
	}
	translate_protect_done(d->t, gpa);
	*refusal_of(d, gpa) = (struct direct_refusal){ gpa, BELIEF };
	STAT_INC(d->t->cpu, DIRECT_SENSITIVE);
	return false;
}

static bool can_map(struct translate_direct *d, uint64_t gva)
{
	return gva >= USER_FIRST && gva < USER_END - TZ_PAGE_SIZE && (gva < area_start(d) || gva >= d->end) &&
	       d->region->orders.count + 2 <= DIRECT_CALLS;
}

/* Orders for what goes on where those of the last one end, of the same kind, become part of them. */
static bool extend(struct translate_direct *d, uint64_t alias, uint64_t start, uint64_t size, uint64_t access)
{
	struct direct_orders *o = &d->region->orders;
	struct direct_call *map, *protect;

	if (o->count < 2)
		return false;
	map = &o->call[o->count - 2];
	protect = map + 1;
	if (map->nr != SYS_mremap || protect->nr != SYS_mprotect || protect->arg[2] != access ||
	    map->arg[4] + map->arg[2] != start || map->arg[0] + map->arg[2] != alias ||
	    protect->arg[0] != map->arg[4] || protect->arg[1] != map->arg[2])
		return false;
	map->arg[2] += size;
	protect->arg[1] += size;
	return true;
}

static void order_page(struct translate_direct *d, const struct direct_page *p, bool live, uint64_t alias)
{
	uint64_t start = page_start(p), size = page_size(p);
	uint64_t access = PROT_READ | (p->write ? PROT_WRITE : 0u) | (p->exec ? PROT_EXEC : 0u);

	/* Of length 0: a second mapping of the same memory (mremap(2)), inaccessible as the first one is there. */
	if (!live && extend(d, alias, start, size, access))
		return;
	if (!live)
		direct_map_order(d, SYS_mremap, alias, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, start);
	direct_map_order(d, SYS_mprotect, start, size, access, 0, 0);
}

/* A large page takes the place of small ones. */
static void forget_small(struct translate_direct *d, uint64_t start)
{
	for (uint64_t at = start; at < start + DIRECT_LARGE_SIZE; at += TZ_PAGE_SIZE) {
		struct direct_page *p = find_live(d, at);

		if (!p)
			continue;
		release_code(d, p);
		p->gpa = TRANSLATE_NO_PAGE;
	}
}

static bool page_map(struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e, bool exec)
{
	const struct x86_tlb_info *info = x86_tlb_info(d->t->cpu, e);
	bool large, live;
	uint64_t start, alias;
	struct direct_page *p;

	large = !exec && may_be_large(d, gva, e);
	start = large ? gva & ~(DIRECT_LARGE_SIZE - 1) : gva;
	alias = alias_of(d, e->host - (gva - start), large ? DIRECT_LARGE_SIZE : TZ_PAGE_SIZE);
	if (!alias)
		return false;
	p = page_add(d, start | (large ? DIRECT_LARGE : 0));
	if (!p) {
		d->drop_all = true;
		return false;
	}
	if (exec && !p->exec) {
		if (!hold_code(d, gva, e))
			return false;
		d->execs++;
		p->exec = true;
	}
	if (large)
		forget_small(d, start);
	live = is_live(p);
	/* Seen before the flush that must come for what was there. */
	if (live && p->gpa != info->gpa - (gva - start)) {
		d->drop_all = true;
		return false;
	}
	/* Code's tags are taken back by then. */
	p->write = e->tag_write == gva && !p->exec;
	p->gpa = info->gpa - (gva - start);
	chain_page(d, p);
	order_page(d, p, live, alias);
	d->split |= info->page_shift > TZ_PAGE_SHIFT && !large;
	STAT_INC(d->t->cpu, DIRECT_PAGES);
	return true;
}

/* Its entry, if it allows that. A may be set, as by a speculative access (SDM 3A 4.8). */
static const struct x86_tlb_entry *entry_of(struct translate_direct *d, uint64_t page, unsigned kind)
{
	struct x86_cpu *cpu = d->t->cpu;
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, X86_MMU_USER, page);
	const uint64_t *tag = kind == X86_ACCESS_WRITE  ? &e->tag_write
			      : kind == X86_ACCESS_EXEC ? &e->tag_exec
							: &e->tag_read;

	if (*tag != page && (!x86_tlb_fill(cpu, page, kind, X86_MMU_USER) || *tag != page))
		return NULL;
	if (e->tag_read != page && (!x86_tlb_fill(cpu, page, X86_ACCESS_READ, X86_MMU_USER) || e->tag_read != page))
		return NULL;
	return *tag == page ? e : NULL;
}

/* The pages behind it that the guest could use likewise: programs go through memory upwards. */
static void map_around(struct translate_direct *d, uint64_t gva, unsigned kind)
{
	for (unsigned n = 1; n < (kind == X86_ACCESS_EXEC ? DIRECT_AROUND_CODE : DIRECT_AROUND); n++) {
		uint64_t page = gva + n * TZ_PAGE_SIZE;
		const struct x86_tlb_entry *e;

		if (!can_map(d, page) || find_live(d, page) || find_live(d, large_of(page)))
			return;
		e = entry_of(d, page, kind);
		if (!e || !page_map(d, page, e, kind == X86_ACCESS_EXEC))
			return;
	}
}

bool direct_map_serve(struct translate_direct *d, uint64_t gva, unsigned kind)
{
	const struct x86_tlb_entry *e;
	struct direct_page *p;

	if (!can_map(d, gva))
		return false;
	e = entry_of(d, gva, kind);
	if (!e)
		return false;
	p = find_live(d, gva);
	if (!p && kind != X86_ACCESS_EXEC)
		p = find_live(d, large_of(gva));
	/* It has what the TLB would give. */
	if (p && (kind == X86_ACCESS_WRITE ? p->write : kind == X86_ACCESS_EXEC ? p->exec : true))
		return false;
	if (!page_map(d, gva, e, kind == X86_ACCESS_EXEC))
		return false;
	if (kind != X86_ACCESS_WRITE)
		map_around(d, gva, kind);
	return true;
}

/* What is dropped next to what was dropped last goes by the same order. False: no room. */
static bool order_drop(struct translate_direct *d, uint64_t start, uint64_t size)
{
	struct direct_orders *o = &d->region->orders;
	struct direct_call *last = o->count ? &o->call[o->count - 1] : NULL;

	if (last && last->nr == SYS_munmap && (last->arg[0] + last->arg[1] == start || start + size == last->arg[0])) {
		last->arg[0] = start < last->arg[0] ? start : last->arg[0];
		last->arg[1] += size;
		return true;
	}
	return direct_map_order(d, SYS_munmap, start, size, 0, 0, 0);
}

/* Its place stays: others may have been put behind it. */
static void page_drop(struct translate_direct *d, struct direct_page *p)
{
	release_code(d, p);
	p->gpa = TRANSLATE_NO_PAGE;
	/* Small ones in a large one go with it, or leave a hole in it. */
	if ((p->gva & DIRECT_LARGE ? d->split : find_live(d, large_of(p->gva)) != NULL) ||
	    !order_drop(d, page_start(p), page_size(p)))
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
	p = find_live(d, gva & ~TZ_PAGE_MASK);
	if (p)
		page_drop(d, p);
	p = find_live(d, large_of(gva));
	if (p)
		page_drop(d, p);
}

static void withhold_chain(struct translate_direct *d, uint32_t chain, unsigned hash)
{
	const unsigned hashes = X86_TLB_CODE_WORDS * 64;
	struct direct_page *p;

	for (uint32_t n = d->chain[chain]; n; n = p->next) {
		uint64_t at;

		p = &d->page[n - 1];
		if (!is_live(p) || !p->write)
			continue;
		at = (uint64_t)((hash + hashes - x86_tlb_code_hash(GPA(p->gpa))) % hashes) << TZ_PAGE_SHIFT;
		if (at >= page_size(p))
			continue;
		p->write = (p->gva & DIRECT_LARGE) != 0;
		if (!direct_map_order(d, SYS_mprotect, page_start(p) + at, TZ_PAGE_SIZE, PROT_READ, 0, 0))
			d->drop_all = true;
	}
}

void direct_map_withheld(struct translate_direct *d, unsigned hash)
{
	_Static_assert(X86_TLB_CODE_WORDS * 64 % DIRECT_CHAINS == 0, "a hash belongs to one chain");
	if (d->drop_all)
		return;
	withhold_chain(d, hash % DIRECT_CHAINS, hash);
	withhold_chain(d, DIRECT_CHAINS, hash);
}

void direct_map_written(struct translate_direct *d, uint64_t gpa)
{
	struct direct_page *p;

	gpa &= ~TZ_PAGE_MASK;
	for (uint32_t n = d->chain[(gpa >> TZ_PAGE_SHIFT) % DIRECT_CHAINS]; n && d->execs && !d->drop_all;
	     n = p->next) {
		p = &d->page[n - 1];
		if (p->exec && p->gpa == gpa)
			page_drop(d, p);
	}
}

/* ---- after a flush ---- */

static bool still_there(struct translate_direct *d, const struct direct_page *p)
{
	struct x86_walk w;

	/* A may be set by the walk, as by a speculative access (SDM 3A 4.8). */
	return x86_walk(d->t->cpu, GVA(page_start(p)), p->exec ? X86_ACCESS_EXEC : X86_ACCESS_READ, X86_MMU_USER, false,
			&w) &&
	       w.gpa.v == p->gpa && w.readable && (w.writable || !p->write) &&
	       (w.page_shift >= 21 || !(p->gva & DIRECT_LARGE));
}

bool direct_map_refresh(struct translate_direct *d)
{
	bool all = true;

	if (likely(!d->stale))
		return !d->drop_all;
	d->stale = false;
	for (unsigned n = 0; n < d->pages && !d->drop_all; n++) {
		struct direct_page *p = &d->page[n];

		if (is_live(p) && !still_there(d, p)) {
			page_drop(d, p);
			all = false;
		}
	}
	return all && !d->drop_all;
}
