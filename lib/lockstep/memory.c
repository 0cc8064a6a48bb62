/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that a stretch sees. A page is copied when it is first touched: once as it was, and once for each side
 * that touches it. TLB entries lead to the copies while the stretch lasts; behind it they give no access to data, so
 * that the next one asks again.
 */
#include <errno.h>
#include <sys/mman.h>

#include "lockstep/lockstep.h"
#include "mem/memslot.h"
#include "x86/paging.h"

#define PAGE_COPIES (1 + SIDE_COUNT)
#define POOL_SIZE ((size_t)LOCKSTEP_PAGES * PAGE_COPIES * TZ_PAGE_SIZE)
/* A and D in a 64-bit entry, or in two of 32 bits (SDM 3A 4.8). */
#define TABLE_BITS UINT64_C(0x6000000060)

static uint8_t *as_it_was(const struct lockstep_memory *m, const struct lockstep_page *p)
{
	return m->pool + (size_t)(p - m->page) * PAGE_COPIES * TZ_PAGE_SIZE;
}

static uint8_t *copy_of(const struct lockstep_memory *m, const struct lockstep_page *p, enum lockstep_side side)
{
	return as_it_was(m, p) + (size_t)(1 + side) * TZ_PAGE_SIZE;
}

static bool in_pool(const struct lockstep_memory *m, uintptr_t host)
{
	return host - (uintptr_t)m->pool < POOL_SIZE;
}

static uint16_t *hash_slot(struct lockstep_memory *m, uint64_t gpa)
{
	return &m->hash[(gpa >> TZ_PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - LOCKSTEP_HASH_BITS)];
}

static struct lockstep_page *page_find(struct lockstep_memory *m, uint64_t gpa)
{
	for (unsigned n = *hash_slot(m, gpa); n; n = m->page[n - 1].next)
		if (m->page[n - 1].gpa == gpa)
			return &m->page[n - 1];
	return NULL;
}

/* NULL: no room. */
static struct lockstep_page *page_add(struct lockstep_memory *m, uint64_t gpa, uint8_t *real)
{
	unsigned spare = m->side == SIDE_TRANSLATE ? LOCKSTEP_PAGES_SPARE : 0;
	struct lockstep_page *p = &m->page[m->count];

	if (m->count + spare >= LOCKSTEP_PAGES)
		return NULL;
	tz_clear(p, sizeof(*p));
	p->gpa = gpa;
	p->real = real;
	p->next = *hash_slot(m, gpa);
	*hash_slot(m, gpa) = (uint16_t)++m->count;
	tz_copy(as_it_was(m, p), real, TZ_PAGE_SIZE);
	return p;
}

/* This side's copy. */
static uint8_t *page_own(struct lockstep_memory *m, struct lockstep_page *p)
{
	uint8_t *copy = copy_of(m, p, m->side);

	if (!p->has[m->side]) {
		p->has[m->side] = true;
		tz_copy(copy, as_it_was(m, p), TZ_PAGE_SIZE);
	}
	return copy;
}

/* ---- the TLBs' overlay ---- */

static void touch(struct lockstep *ls, const struct x86_tlb_entry *e)
{
	struct lockstep_memory *m = &ls->memory;
	unsigned n = (unsigned)(e - &ls->tlb[m->side]->e[0][0]);

	if (m->is_touched[m->side][n])
		return;
	m->is_touched[m->side][n] = true;
	m->touched[m->side][m->touched_count[m->side]++] = (uint16_t)n;
}

/* The page that an entry is for. */
static uint64_t entry_page(const struct x86_tlb_entry *e)
{
	return e->tag_read & X86_TLB_INVALID ? (e->tag_read & ~X86_TLB_INVALID) - TZ_PAGE_SIZE : e->tag_read;
}

/* Code is read from memory itself until its page is touched as data. */
void lockstep_fetch(struct x86_cpu *cpu, struct x86_tlb_entry *e)
{
	struct lockstep *ls = lockstep_of(cpu);
	struct lockstep_memory *m = &ls->memory;
	struct lockstep_page *p;

	if (!m->active || in_pool(m, e->host))
		return;
	p = page_find(m, x86_tlb_info(cpu, e)->gpa);
	if (!p || !p->has[m->side])
		return;
	e->host = (uintptr_t)copy_of(m, p, m->side);
	touch(ls, e);
}

static bool overlay_access(struct x86_cpu *cpu, struct x86_tlb_entry *e, unsigned kind)
{
	struct lockstep *ls = lockstep_of(cpu);
	struct lockstep_memory *m = &ls->memory;
	struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	uint64_t page = entry_page(e);
	struct lockstep_page *p;

	if (kind == X86_ACCESS_EXEC) {
		lockstep_fetch(cpu, e);
		return true;
	}
	if (!m->active)
		return true;
	p = page_find(m, info->gpa);
	if (!p)
		p = page_add(m, info->gpa, (uint8_t *)e->host);
	if (!p)
		return false;
	e->host = (uintptr_t)page_own(m, p);
	touch(ls, e);
	/* Every write of interp's is to be told: as for the dirty log. */
	if (m->side == SIDE_INTERP)
		info->flags |= X86_TLB_LOG;
	if (info->flags & X86_TLB_READ)
		e->tag_read = page;
	if (kind != X86_ACCESS_WRITE)
		return true;
	p->written[m->side] = true;
	if (!(info->flags & X86_TLB_LOG) && !x86_tlb_is_code(cpu, GPA(info->gpa)))
		e->tag_write = page;
	return true;
}

static void log_write(struct lockstep_memory *m, struct lockstep_page *p, unsigned offset, const uint8_t *host,
		      unsigned size)
{
	struct lockstep_write *w = &m->log[m->writes];

	if (m->writes == LOCKSTEP_LOG || m->bytes + size > LOCKSTEP_LOG_DATA) {
		m->overflow = true;
		return;
	}
	*w = (struct lockstep_write){ (uint16_t)(p - m->page), (uint16_t)offset, size };
	tz_copy(m->data + m->bytes, host, size);
	m->writes++;
	m->bytes += size;
}

static void overlay_written(struct x86_cpu *cpu, gpa_t gpa, const uint8_t *host, unsigned size)
{
	struct lockstep *ls = lockstep_of(cpu);
	struct lockstep_memory *m = &ls->memory;

	if (!m->active)
		return;
	if (m->side == SIDE_INTERP) {
		log_write(m, page_find(m, gpa.v & ~TZ_PAGE_MASK), (unsigned)(gpa.v & TZ_PAGE_MASK), host, size);
	} else if (x86_tlb_is_code(cpu, gpa)) {
		/* Mappings of that page that only execute still lead to memory: the new code must get there. */
		ls->stop = true;
		ls->t->interp.abort_block = true;
	}
}

static uint8_t *overlay_table(struct x86_cpu *cpu, uint64_t gpa, uint8_t *host)
{
	struct lockstep_memory *m = &lockstep_of(cpu)->memory;
	struct lockstep_page *p = m->active ? page_find(m, gpa & ~TZ_PAGE_MASK) : NULL;

	return p ? page_own(m, p) + (gpa & TZ_PAGE_MASK) : host;
}

static void overlay_table_written(struct x86_cpu *cpu, uint64_t gpa, const uint8_t *host, unsigned size)
{
	struct lockstep_memory *m = &lockstep_of(cpu)->memory;
	struct lockstep_page *p = m->active ? page_find(m, gpa & ~TZ_PAGE_MASK) : NULL;

	if (!p)
		return;
	p->tables = p->written[m->side] = true;
	if (m->side == SIDE_INTERP)
		log_write(m, p, (unsigned)(gpa & TZ_PAGE_MASK), host, size);
}

static tz_noreturn void overlay_no_room(struct x86_cpu *cpu)
{
	lockstep_of(cpu)->end = END_NO_ROOM;
	longjmp(cpu->unwind, X86_UNWIND_RESTART);
}

int lockstep_memory_create(struct lockstep *ls)
{
	ls->memory.pool =
		mmap(NULL, POOL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ls->memory.pool == MAP_FAILED) {
		ls->memory.pool = NULL;
		return -ENOMEM;
	}
	ls->overlay = (struct x86_overlay){
		.access = overlay_access,
		.no_room = overlay_no_room,
		.written = overlay_written,
		.table = overlay_table,
		.table_written = overlay_table_written,
	};
	return 0;
}

void lockstep_memory_destroy(struct lockstep *ls)
{
	if (ls->memory.pool)
		munmap(ls->memory.pool, POOL_SIZE);
}

/* ---- the end of a stretch ---- */

static void entries_reset(struct lockstep *ls, enum lockstep_side side)
{
	struct lockstep_memory *m = &ls->memory;
	struct x86_tlb *tlb = ls->tlb[side];

	for (unsigned k = 0; k < m->touched_count[side]; k++) {
		unsigned n = m->touched[side][k];
		struct x86_tlb_entry *e = &tlb->e[0][0] + n;

		m->is_touched[side][n] = false;
		if (!(&tlb->info[0][0])[n].flags)
			continue; /* flushed */
		e->tag_read = e->tag_write = x86_tlb_withheld(entry_page(e));
		if (in_pool(m, e->host))
			e->host = (uintptr_t)page_find(m, (&tlb->info[0][0])[n].gpa)->real;
	}
	/* What was derived from the entries is stale. */
	if (m->touched_count[side])
		tlb->withholds++;
	m->touched_count[side] = 0;
}

void lockstep_memory_reset(struct lockstep *ls, bool rewind)
{
	struct lockstep_memory *m = &ls->memory;

	for (enum lockstep_side side = 0; side < SIDE_COUNT; side++)
		entries_reset(ls, side);
	for (unsigned n = 0; n < m->count; n++) {
		struct lockstep_page *p = &m->page[n];

		for (enum lockstep_side side = 0; side < SIDE_COUNT; side++)
			p->has[side] = p->written[side] = false;
		p->tables = false;
		if (!rewind)
			*hash_slot(m, p->gpa) = 0;
	}
	if (!rewind)
		m->count = 0;
	m->writes = 0;
	m->bytes = 0;
	m->overflow = false;
}

/* As the guest's store did it: devices look meanwhile. */
static void store(uint8_t *to, const uint8_t *from, unsigned size)
{
	switch (size) {
	case 1: guest_store8(to, guest_load8(from)); break;
	case 2: guest_store16(to, guest_load16(from)); break;
	case 4: guest_store32(to, guest_load32(from)); break;
	case 8: guest_store64(to, guest_load64(from)); break;
	default: tz_copy(to, from, size); break;
	}
}

/* More writes than were kept: in no order. */
static void commit_pages(struct lockstep_memory *m)
{
	for (unsigned n = 0; n < m->count; n++) {
		const struct lockstep_page *p = &m->page[n];
		const uint8_t *was = as_it_was(m, p), *is = copy_of(m, p, SIDE_INTERP);

		if (!p->written[SIDE_INTERP])
			continue;
		for (unsigned k = 0; k < TZ_PAGE_SIZE; k += 8)
			if (guest_load64(is + k) != guest_load64(was + k))
				guest_store64(p->real + k, guest_load64(is + k));
	}
}

void lockstep_memory_commit(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct lockstep_memory *m = &ls->memory;
	const uint8_t *data = m->data;
	struct mem_hit hit;

	if (unlikely(m->overflow))
		commit_pages(m);
	else
		for (unsigned n = 0; n < m->writes; n++) {
			store(m->page[m->log[n].page].real + m->log[n].offset, data, m->log[n].size);
			data += m->log[n].size;
		}
	for (unsigned n = 0; n < m->count; n++)
		if (m->page[n].written[SIDE_INTERP] && mem_lookup(cpu->mem, GPA(m->page[n].gpa), &hit))
			mem_mark_dirty(hit.slot, GPA(m->page[n].gpa), TZ_PAGE_SIZE);
}

/* ---- comparison ---- */

static void compare_page(struct lockstep *ls, const struct lockstep_page *p, const uint8_t *a, const uint8_t *b)
{
	uint64_t ignored = p->tables ? TABLE_BITS : 0;

	for (unsigned k = 0; k < TZ_PAGE_SIZE; k += 8) {
		uint64_t va = guest_load64(a + k), vb = guest_load64(b + k);

		if (likely(!((va ^ vb) & ~ignored)))
			continue;
		if (ls->memory_differences < LOCKSTEP_DIFFERENCES)
			ls->memory_difference[ls->memory_differences] =
				(struct lockstep_memory_difference){ p->gpa + k, { va, vb } };
		ls->memory_differences++;
	}
}

unsigned lockstep_memory_compare(struct lockstep *ls)
{
	struct lockstep_memory *m = &ls->memory;

	ls->memory_differences = 0;
	for (unsigned n = 0; n < m->count; n++) {
		const struct lockstep_page *p = &m->page[n];
		const uint8_t *seen[SIDE_COUNT];

		if (!p->written[SIDE_TRANSLATE] && !p->written[SIDE_INTERP])
			continue;
		/* Who never touched it has it as it was. */
		for (enum lockstep_side side = 0; side < SIDE_COUNT; side++)
			seen[side] = p->has[side] ? copy_of(m, p, side) : as_it_was(m, p);
		compare_page(ls, p, seen[SIDE_TRANSLATE], seen[SIDE_INTERP]);
	}
	return ls->memory_differences;
}

bool lockstep_memory_peek(struct x86_cpu *cpu, const struct lockstep *ls, uint64_t gpa, uint8_t *byte)
{
	const struct lockstep_memory *m = &ls->memory;
	struct mem_hit hit;

	for (unsigned n = 0; n < m->count; n++)
		if (m->page[n].gpa == (gpa & ~TZ_PAGE_MASK) && m->page[n].has[SIDE_INTERP]) {
			*byte = copy_of(m, &m->page[n], SIDE_INTERP)[gpa & TZ_PAGE_MASK];
			return true;
		}
	if (!mem_lookup(cpu->mem, GPA(gpa), &hit))
		return false;
	*byte = guest_load8(hit.hva);
	return true;
}
