/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the inline fast path of access.h does not do: TLB fills, faults, MMIO, accesses across a page end,
 * and writes that somebody wants to know about (dirty log, code pages, data breakpoints).
 */
#include "x86/access.h"

#include "base/stats.h"
#include "mem/memslot.h"
#include "x86/exception.h"
#include "x86/io.h"
#include "x86/paging.h"
#include "x86/watch.h"

/* Where one access inside a page goes. */
struct place {
	uint8_t *host; /* NULL: MMIO */
	gpa_t gpa;
	unsigned size;
	uint8_t flags; /* X86_TLB_LOG counts */
	bool no_room;  /* the overlay says so */
};

/* Of a page of 2, 4 MiB or more something is in the TLB. */
static void note_large(struct x86_tlb *tlb, uint64_t gva, unsigned shift)
{
	uint64_t last = gva | (BIT64(shift) - 1), first = last - (BIT64(shift) - 1);
	unsigned bit;

	if (shift > X86_LARGE_SHIFT + 1) {
		tlb->huge_lo = first < tlb->huge_lo ? first : tlb->huge_lo;
		tlb->huge_hi = last > tlb->huge_hi ? last : tlb->huge_hi;
		return;
	}
	bit = x86_tlb_large_bit(first);
	tlb->large_seen[bit / 64] |= BIT64(bit % 64);
	bit = x86_tlb_large_bit(last);
	tlb->large_seen[bit / 64] |= BIT64(bit % 64);
}

static void tlb_fill(struct x86_cpu *cpu, unsigned mmu, uint64_t gva, const struct x86_walk *w,
		     const struct mem_hit *hit)
{
	struct x86_tlb *tlb = cpu->tlb;
	uint64_t page = gva & ~TZ_PAGE_MASK, gpa = w->gpa.v & ~TZ_PAGE_MASK;
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);
	struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	unsigned i = (unsigned)(e - tlb->e[mmu]);
	uint64_t bit = BIT64(i % 64);
	unsigned watched = unlikely(cpu->dr_watch) ? x86_watch_kinds(cpu, page, TZ_PAGE_SIZE) : 0;
	unsigned slot_flags = hit->slot->flags;
	uint8_t flags = 0;

	STAT_INC(cpu, TLB_FILLS);
	if (w->readable)
		flags |= X86_TLB_READ;
	if (w->writable && !(slot_flags & MEM_SLOT_READONLY))
		flags |= X86_TLB_WRITE;
	if (slot_flags & MEM_SLOT_LOG_DIRTY)
		flags |= X86_TLB_LOG;

	e->tag_read = (flags & X86_TLB_READ) && !(watched & X86_WATCH_READ) ? page : x86_tlb_withheld(page);
	e->tag_write = (flags & (X86_TLB_WRITE | X86_TLB_LOG)) == X86_TLB_WRITE && !(watched & X86_WATCH_WRITE) &&
				       !x86_tlb_is_code(cpu, GPA(gpa))
			       ? page
			       : x86_tlb_withheld(page);
	e->tag_exec = w->executable ? page : x86_tlb_withheld(page);
	e->host = (uintptr_t)hit->hva - (gva & TZ_PAGE_MASK);
	info->gpa = gpa;
	info->global = w->global;
	info->page_shift = w->page_shift;
	info->flags = flags;

	if (w->global) {
		tlb->global.w[mmu][i / 64] |= bit;
		tlb->local.w[mmu][i / 64] &= ~bit;
	} else {
		tlb->local.w[mmu][i / 64] |= bit;
		tlb->global.w[mmu][i / 64] &= ~bit;
	}
	tlb->large.w[mmu][i / 64] &= ~bit;
	if (w->page_shift > TZ_PAGE_SHIFT) {
		tlb->large.w[mmu][i / 64] |= bit;
		note_large(tlb, gva, w->page_shift);
	}
	if (unlikely(tlb->overlay))
		e->tag_read = e->tag_write = x86_tlb_withheld(page);
}

/* The access goes through an entry. */
static inline void place_at(struct x86_cpu *cpu, struct x86_tlb_entry *e, uint64_t gva, unsigned kind, struct place *p)
{
	p->no_room = unlikely(cpu->tlb->overlay) && !cpu->tlb->overlay->access(cpu, e, kind);
	p->host = x86_tlb_host(e, gva);
	p->flags = x86_tlb_info(cpu, e)->flags;
}

/*
 * Translate an access of `size` bytes inside one page. False: *error has the page fault's code. The entry's
 * flags are asked before the tables: a page whose tag is withheld for another reason costs no walk.
 */
static bool try_locate(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned kind, unsigned mmu, struct place *p,
		       uint32_t *error)
{
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);
	const struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	uint64_t page = gva & ~TZ_PAGE_MASK;
	struct x86_walk w;
	struct mem_hit hit;
	bool known = kind == X86_ACCESS_EXEC ? e->tag_exec == page
		     : e->tag_read != page && e->tag_read != x86_tlb_withheld(page)
			     ? false
			     : info->flags & (kind == X86_ACCESS_WRITE ? X86_TLB_WRITE : X86_TLB_READ);

	p->size = size;
	if (known) {
		place_at(cpu, e, gva, kind, p);
		p->gpa = GPA(info->gpa | (gva & TZ_PAGE_MASK));
		return true;
	}
	if (unlikely(!x86_walk(cpu, GVA(gva), kind, mmu, false, &w))) {
		*error = w.error;
		return false;
	}
	p->gpa = w.gpa;
	p->flags = 0;
	p->no_room = false;
	p->host = NULL;
	if (unlikely(!mem_lookup(cpu->mem, w.gpa, &hit)))
		return true;
	tlb_fill(cpu, mmu, gva, &w, &hit);
	if (kind == X86_ACCESS_WRITE)
		STAT_INC(cpu, TLB_FILLS_WRITE);
	if (kind == X86_ACCESS_EXEC)
		STAT_INC(cpu, TLB_FILLS_EXEC);
	if (kind == X86_ACCESS_WRITE && (hit.slot->flags & MEM_SLOT_READONLY))
		return true;
	place_at(cpu, e, gva, kind, p);
	return true;
}

static void locate(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned kind, unsigned mmu, struct place *p)
{
	uint32_t error;

	if (unlikely(!try_locate(cpu, gva, size, kind, mmu, p, &error)))
		x86_raise_page_fault(cpu, GVA(gva), error);
	if (unlikely(p->no_room))
		cpu->tlb->overlay->no_room(cpu);
}

bool x86_tlb_fill(struct x86_cpu *cpu, uint64_t gva, unsigned kind, unsigned mmu)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);
	uint64_t page = gva & ~TZ_PAGE_MASK;
	struct place p;
	uint32_t error;

	/* Known and yet withheld: the walk would say no more than that. (An empty entry has such tags and no flags.) */
	if (unlikely((uint64_t)((int64_t)gva >> 47) + 1 > 1 ||
		     (e->tag_read == x86_tlb_withheld(page) && x86_tlb_info(cpu, e)->flags && !cpu->tlb->overlay)) ||
	    !try_locate(cpu, gva, 1, kind, mmu, &p, &error))
		return false;
	return (kind == X86_ACCESS_WRITE ? e->tag_write : e->tag_read) == page;
}

static bool crosses(uint64_t gva, unsigned size)
{
	return (gva & TZ_PAGE_MASK) + size > TZ_PAGE_SIZE;
}

/* The page after gva's. Linear addresses have 32 bits outside IA-32e mode (SDM 3A 3.3). */
static uint64_t next_page(const struct x86_cpu *cpu, uint64_t gva)
{
	uint64_t next = (gva | TZ_PAGE_MASK) + 1;

	return cpu->long_mode ? next : (uint32_t)next;
}

/* An access of up to 4096 bytes: one or two places, all checked. Returns how many. */
static unsigned locate_all(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned kind, unsigned mmu,
			   struct place p[2])
{
	unsigned first;

	if (likely(!crosses(gva, size))) {
		locate(cpu, gva, size, kind, mmu, &p[0]);
		return 1;
	}
	first = (unsigned)(TZ_PAGE_SIZE - (gva & TZ_PAGE_MASK));
	locate(cpu, gva, first, kind, mmu, &p[0]);
	locate(cpu, next_page(cpu, gva), size - first, kind, mmu, &p[1]);
	/* Neighbours in the host too: one access will do, as atomic as the host makes it. */
	if (p[0].host && p[1].host == p[0].host + first && !((p[0].flags | p[1].flags) & X86_TLB_LOG) &&
	    !x86_tlb_is_code(cpu, p[0].gpa) && !x86_tlb_is_code(cpu, p[1].gpa)) {
		p[0].size = size;
		return 1;
	}
	return 2;
}

static void watch(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned kind)
{
	if (unlikely(cpu->dr_watch))
		x86_watch_access(cpu, gva, size, kind);
}

/* After (or, through a host pointer, before) a write to memory: who wants to know? */
static void written(struct x86_cpu *cpu, const struct place *p)
{
	struct mem_hit hit;

	if (unlikely(p->flags & X86_TLB_LOG) && mem_lookup(cpu->mem, p->gpa, &hit))
		mem_mark_dirty(hit.slot, p->gpa, p->size);
	if (x86_tlb_is_code(cpu, p->gpa) && cpu->tlb->code_written)
		cpu->tlb->code_written(cpu, p->gpa, p->size);
	if (unlikely(cpu->tlb->overlay))
		cpu->tlb->overlay->written(cpu, p->gpa, p->host, p->size);
}

static uint64_t host_load(const uint8_t *host, unsigned size)
{
	uint64_t v = 0;

	switch (size) {
	case 1: return guest_load8(host);
	case 2: return guest_load16(host);
	case 4: return guest_load32(host);
	case 8: return guest_load64(host);
	default: /* a part of an access that crosses a page end */ tz_copy(&v, host, size); return v;
	}
}

static void host_store(uint8_t *host, uint64_t v, unsigned size)
{
	switch (size) {
	case 1: guest_store8(host, (uint8_t)v); break;
	case 2: guest_store16(host, (uint16_t)v); break;
	case 4: guest_store32(host, (uint32_t)v); break;
	case 8: guest_store64(host, v); break;
	default: tz_copy(host, &v, size); break;
	}
}

static uint64_t place_read(struct x86_cpu *cpu, const struct place *p)
{
	return likely(p->host) ? host_load(p->host, p->size) : x86_mmio_read(cpu, p->gpa, p->size);
}

static void place_write(struct x86_cpu *cpu, const struct place *p, uint64_t v)
{
	if (likely(p->host)) {
		host_store(p->host, v, p->size);
		written(cpu, p);
	} else {
		x86_mmio_write(cpu, p->gpa, v, p->size);
	}
}

static uint64_t places_read(struct x86_cpu *cpu, const struct place *p, unsigned count)
{
	uint64_t v = place_read(cpu, &p[0]);

	if (unlikely(count == 2))
		v |= place_read(cpu, &p[1]) << (8 * p[0].size);
	return v;
}

uint64_t x86_read_slow(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	struct place p[2];
	unsigned count = locate_all(cpu, gva, size, X86_ACCESS_READ, mmu, p);
	uint64_t v = places_read(cpu, p, count);

	watch(cpu, gva, size, X86_WATCH_READ);
	return v;
}

void x86_write_slow(struct x86_cpu *cpu, uint64_t gva, uint64_t value, unsigned size, unsigned mmu)
{
	struct place p[2];
	unsigned count = locate_all(cpu, gva, size, X86_ACCESS_WRITE, mmu, p);

	if (likely(count == 1)) {
		place_write(cpu, &p[0], value);
	} else {
		/* MMIO may leave run() and restart the instruction: memory must still be as it was. */
		bool second_first = p[0].host && !p[1].host;
		uint64_t high = value >> (8 * p[0].size);

		if (second_first)
			place_write(cpu, &p[1], high);
		place_write(cpu, &p[0], value);
		if (!second_first)
			place_write(cpu, &p[1], high);
	}
	watch(cpu, gva, size, X86_WATCH_WRITE);
}

unsigned x86_mmu_system(const struct x86_cpu *cpu)
{
	return cpu->cr4 & X86_CR4_SMAP ? X86_MMU_KERNEL_SMAP : X86_MMU_KERNEL;
}

uint64_t x86_read(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	switch (size) {
	case 1: return x86_read8_mmu(cpu, gva, mmu);
	case 2: return x86_read16_mmu(cpu, gva, mmu);
	case 4: return x86_read32_mmu(cpu, gva, mmu);
	default: return x86_read64_mmu(cpu, gva, mmu);
	}
}

void x86_write(struct x86_cpu *cpu, uint64_t gva, uint64_t value, unsigned size, unsigned mmu)
{
	switch (size) {
	case 1: x86_write8_mmu(cpu, gva, (uint8_t)value, mmu); break;
	case 2: x86_write16_mmu(cpu, gva, (uint16_t)value, mmu); break;
	case 4: x86_write32_mmu(cpu, gva, (uint32_t)value, mmu); break;
	default: x86_write64_mmu(cpu, gva, value, mmu); break;
	}
}

/* A host pointer straight from the TLB, or NULL. A page with a write tag is watched by nobody. */
static inline uint8_t *fast_ptr(struct x86_cpu *cpu, uint64_t gva, unsigned size, bool write, unsigned mmu)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);

	if (likely((write ? e->tag_write : e->tag_read) == (gva & ~TZ_PAGE_MASK) && !crosses(gva, size)))
		return x86_tlb_host(e, gva);
	return NULL;
}

uint64_t x86_read_for_write(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	const uint8_t *host = fast_ptr(cpu, gva, size, true, mmu);
	struct place p[2];
	unsigned count;

	if (likely(host))
		return host_load(host, size);
	count = locate_all(cpu, gva, size, X86_ACCESS_WRITE, mmu, p);
	for (unsigned i = 0; i < count; i++) {
		struct mem_hit hit;

		/* Reads of a read-only slot are memory's, though the write to come is MMIO. */
		if (!p[i].host && mem_lookup(cpu->mem, p[i].gpa, &hit))
			p[i].host = hit.hva;
	}
	uint64_t v = places_read(cpu, p, count);

	watch(cpu, gva, size, X86_WATCH_READ);
	return v;
}

void x86_probe_write(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	struct place p[2];

	if (likely(fast_ptr(cpu, gva, size, true, mmu)))
		return;
	locate_all(cpu, gva, size, X86_ACCESS_WRITE, mmu, p);
}

void x86_probe_read(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	struct place p[2];

	if (likely(fast_ptr(cpu, gva, size, false, mmu)))
		return;
	locate_all(cpu, gva, size, X86_ACCESS_READ, mmu, p);
}

static void place_read_bytes(struct x86_cpu *cpu, const struct place *p, uint8_t *to)
{
	if (likely(p->host)) {
		tz_copy(to, p->host, p->size);
		return;
	}
	for (unsigned done = 0; done < p->size;) {
		unsigned n = p->size - done < 8 ? p->size - done : 8;
		uint64_t v = x86_mmio_read(cpu, GPA(p->gpa.v + done), n);

		tz_copy(to + done, &v, n);
		done += n;
	}
}

static void place_write_bytes(struct x86_cpu *cpu, const struct place *p, const uint8_t *from)
{
	if (likely(p->host)) {
		tz_copy(p->host, from, p->size);
		written(cpu, p);
		return;
	}
	for (unsigned done = 0; done < p->size;) {
		unsigned n = p->size - done < 8 ? p->size - done : 8;
		uint64_t v = 0;

		tz_copy(&v, from + done, n);
		x86_mmio_write(cpu, GPA(p->gpa.v + done), v, n);
		done += n;
	}
}

void x86_read_bytes(struct x86_cpu *cpu, uint64_t gva, void *buf, unsigned size, unsigned mmu)
{
	struct place p[2];
	unsigned count;

	if (unlikely(!size))
		return;
	count = locate_all(cpu, gva, size, X86_ACCESS_READ, mmu, p);
	place_read_bytes(cpu, &p[0], buf);
	if (count == 2)
		place_read_bytes(cpu, &p[1], (uint8_t *)buf + p[0].size);
	watch(cpu, gva, size, X86_WATCH_READ);
}

void x86_write_bytes(struct x86_cpu *cpu, uint64_t gva, const void *buf, unsigned size, unsigned mmu)
{
	struct place p[2];
	unsigned count;

	if (unlikely(!size))
		return;
	count = locate_all(cpu, gva, size, X86_ACCESS_WRITE, mmu, p);
	/* MMIO first: see x86_write_slow(). */
	if (count == 2 && !p[1].host)
		place_write_bytes(cpu, &p[1], (const uint8_t *)buf + p[0].size);
	place_write_bytes(cpu, &p[0], buf);
	if (count == 2 && p[1].host)
		place_write_bytes(cpu, &p[1], (const uint8_t *)buf + p[0].size);
	watch(cpu, gva, size, X86_WATCH_WRITE);
}

static bool watched(const struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned kinds)
{
	return unlikely(cpu->dr_watch) && (x86_watch_kinds(cpu, gva, size) & kinds);
}

void *x86_host_read_ptr(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	uint8_t *host = fast_ptr(cpu, gva, size, false, mmu);
	struct place p;

	if (likely(host))
		return host;
	if (crosses(gva, size))
		return NULL;
	locate(cpu, gva, size, X86_ACCESS_READ, mmu, &p);
	return watched(cpu, gva, size, X86_WATCH_READ) ? NULL : p.host;
}

void *x86_host_write_ptr(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu)
{
	uint8_t *host = fast_ptr(cpu, gva, size, true, mmu);
	struct place p;

	if (likely(host))
		return host;
	if (crosses(gva, size))
		return NULL;
	locate(cpu, gva, size, X86_ACCESS_WRITE, mmu, &p);
	/*
	 * A page is marked dirty after the write: marked before it, a harvest in between would lose it.
	 * The pointer may also be read through (a locked RMW), so both kinds of breakpoints count.
	 */
	if (!p.host || (p.flags & X86_TLB_LOG) || watched(cpu, gva, size, X86_WATCH_WRITE | X86_WATCH_READ))
		return NULL;
	written(cpu, &p);
	return p.host;
}

/* Copy code from a place; memory that no slot backs is an idle bus. */
static void place_fetch(const struct place *p, uint8_t *to)
{
	if (likely(p->host)) {
		tz_copy(to, p->host, p->size);
		return;
	}
	for (unsigned i = 0; i < p->size; i++)
		guest_store8(to + i, 0xff); /* which the compiler does not make a memset() of */
}

unsigned x86_fetch(struct x86_cpu *cpu, uint64_t gva, uint8_t *buf, unsigned want, gpa_t *gpa)
{
	unsigned mmu = cpu->mmu_index;
	unsigned first = want;
	struct place p;
	uint32_t error;

	if (crosses(gva, want))
		first = (unsigned)(TZ_PAGE_SIZE - (gva & TZ_PAGE_MASK));
	locate(cpu, gva, first, X86_ACCESS_EXEC, mmu, &p);
	*gpa = p.gpa;
	place_fetch(&p, buf);
	if (first == want)
		return want;
	if (!try_locate(cpu, next_page(cpu, gva), want - first, X86_ACCESS_EXEC, mmu, &p, &error))
		return first;
	place_fetch(&p, buf + first);
	return want;
}
