/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the translator, and which block is where. Everything is taken in a row and forgotten at once. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/nh.h"
#include "base/stats.h"
#include "translate/translate.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u /* Linux 6.3: needed where vm.memfd_noexec is set */
#endif

/* perf(1) asks its map only about memory without a file, or /dev/zero, as which shared anonymous memory appears. */
static int map_code_for_perf(struct translate *t)
{
	t->rw = mmap(NULL, t->code_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->rw == MAP_FAILED)
		return -ENOMEM;
	/* Of length 0: a second mapping of the same pages (mremap(2)). */
	t->rx = mremap(t->rw, 0, t->code_size, MREMAP_MAYMOVE);
	if (t->rx == MAP_FAILED || mprotect(t->rx, t->code_size, PROT_READ | PROT_EXEC))
		return -ENOMEM;
	return 0;
}

static int map_code(struct translate *t)
{
	int fd = memfd_create("trapeze-code", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0)
		fd = memfd_create("trapeze-code", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, t->code_size)) {
		t->rw = mmap(NULL, t->code_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		t->rx = mmap(NULL, t->code_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	return t->rw == MAP_FAILED || t->rx == MAP_FAILED ? -ENOMEM : 0;
}

int translate_cache_create(struct translate *t)
{
	int err;

	uint32_t size = t->cpu->code_cache_size ? (uint32_t)t->cpu->code_cache_size : TRANSLATE_CODE_SIZE;

	/* What is known about blocks takes as much room as their code. */
	t->code_size = size / 32 * 15 & ~(uint32_t)TZ_PAGE_MASK;
	t->arena_size = size - t->code_size;
	t->rw = t->rx = MAP_FAILED;
	t->arena =
		mmap(NULL, t->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	err = t->arena == MAP_FAILED ? -ENOMEM : translate_perf_map_init() ? map_code_for_perf(t) : map_code(t);
	if (err)
		return err;
	if (!tz_nh_key(t->page_key, TRANSLATE_PAGE_WORDS) || !tz_nh_key(&t->no_stack, 1))
		return -EIO;
	/* Bits 63 and 62 differ: not canonical. */
	t->no_stack = (TRANSLATE_NO_PAGE | t->no_stack >> 3) & ~(uint64_t)TZ_PAGE_MASK;
	t->arena_used = TRANSLATE_ARENA_START;
	translate_stubs_create(t);
	t->fixed = t->used;
	t->cold = t->cold_start = t->code_size / 32 * 19 & ~(uint32_t)TZ_PAGE_MASK;
	translate_jump_create(t);
	t->victim_count = TRANSLATE_VICTIMS;
	translate_victim_clear(t);
	translate_windows_forget(t);
	return 0;
}

void translate_cache_destroy(struct translate *t)
{
	if (t->arena && t->arena != MAP_FAILED)
		munmap(t->arena, t->arena_size);
	if (t->rw && t->rw != MAP_FAILED)
		munmap(t->rw, t->code_size);
	if (t->rx && t->rx != MAP_FAILED)
		munmap(t->rx, t->code_size);
}

void translate_wipe(struct translate *t)
{
	tz_clear(t->hash, sizeof(t->hash));
	tz_clear(t->page, sizeof(t->page));
	tz_clear(t->owned, sizeof(t->owned));
	for (unsigned n = 0; n < ARRAY_SIZE(t->decoded); n++)
		t->decoded[n].record = NULL;
	translate_jump_clear(t);
	t->used = t->fixed;
	t->cold = t->cold_start;
	t->arena_used = TRANSLATE_ARENA_START;
	translate_direct_wiped(t);
	t->wipes++;
	STAT_INC(t->cpu, TRANSLATE_WIPES);
}

bool translate_room(const struct translate *t)
{
	return t->used + TRANSLATE_BLOCK_CODE <= t->cold_start && t->cold + TRANSLATE_BLOCK_CODE <= t->code_size &&
	       t->arena_used + TRANSLATE_BLOCK_CODE <= t->arena_size;
}

void *translate_alloc(struct translate *t, size_t size)
{
	void *p = t->arena + t->arena_used;

	t->arena_used += (size + 7) & ~(size_t)7;
	tz_clear(p, size);
	return p;
}

/* ---- blocks ---- */

static struct translate_block **hash_slot(struct translate *t, uint64_t key)
{
	return &t->hash[key * UINT64_C(0x9e3779b97f4a7c15) >> (64 - TRANSLATE_HASH_BITS)];
}

static struct translate_page **page_slot(struct translate *t, uint64_t gpa)
{
	return &t->page[(gpa >> TZ_PAGE_SHIFT) & ((1u << TRANSLATE_PAGE_BITS) - 1)];
}

struct translate_page *translate_page_find(struct translate *t, uint64_t gpa)
{
	struct translate_page *p = *page_slot(t, gpa);

	while (p && p->gpa != gpa)
		p = p->next;
	return p;
}

static uint64_t block_page(const struct translate_block *b)
{
	return b->key & (BIT64(TRANSLATE_MODE_SHIFT) - 1) & ~TZ_PAGE_MASK;
}

struct translate_block *translate_find(struct translate *t, uint64_t key)
{
	struct translate_block *b = *hash_slot(t, key);

	while (b && b->key != key)
		b = b->hash_next;
	return b;
}

static void page_insert(struct translate *t, struct translate_block *b, uint64_t gpa)
{
	struct translate_page *p = translate_page_find(t, gpa);
	struct translate_block **at;

	if (!p) {
		p = translate_alloc(t, sizeof(*p));
		p->gpa = gpa;
		p->epoch = t->epoch;
		p->flushes = t->cpu->tlb->flushes;
		p->next = *page_slot(t, gpa);
		*page_slot(t, gpa) = p;
	}
	for (at = &p->blocks; *at && (*at)->cross && !b->cross;)
		at = &(*at)->page_next;
	b->page = p;
	b->page_next = *at;
	*at = b;
	p->inserted++;
	p->summed = false; /* its bytes may be other ones */
	t->owned[x86_tlb_code_hash(GPA(gpa))]++;
}

void translate_insert(struct translate *t, struct translate_block *b)
{
	struct translate_block **slot = hash_slot(t, b->key);

	page_insert(t, b, block_page(b));
	b->hash_next = *slot;
	*slot = b;
}

void translate_insert_ghost(struct translate *t, struct translate_block *b, uint64_t gpa)
{
	page_insert(t, b, gpa);
}

/* Displacements are changed while nothing runs them: this thread does, and it is here. */
static void point(struct translate *t, uint32_t rel32, uint32_t target)
{
	guest_store32(t->rw + rel32, target - (rel32 + 4));
}

void translate_link(struct translate *t, struct translate_exit *x, struct translate_block *to)
{
	uint32_t code = (uint32_t)((const uint8_t *)to->code - t->rx);

	if (x->linked || ((const struct translate_block *)translate_at(t, x->record.block))->dead || to->dead)
		return;
	point(t, x->last, code);
	/* Flags that nobody needs there are not saved; a poll cannot be left out. */
	if (!to->needs_flags || !x->saved)
		point(t, x->jump, x->backward ? x->stub + x->saved : code);
	x->linked = true;
	STAT_INC(t->cpu, TRANSLATE_LINKS);
	x->next_in = to->incoming;
	to->incoming = translate_offset(t, x);
}

/* It is not one of those that lead to its block any more. */
static void far_forget(struct translate *t, struct translate_far *f)
{
	uint32_t *n = &((struct translate_block *)translate_at(t, f->to))->incoming;

	while (translate_at(t, *n) != f)
		n = &((struct translate_exit *)translate_at(t, *n))->next_in;
	*n = f->exit.next_in;
	f->to = 0;
}

void translate_link_far(struct translate *t, struct translate_far *f, struct translate_block *to, uint64_t page)
{
	const struct translate_block *from = translate_at(t, f->exit.record.block);
	struct translate_jumps *j = &t->jumps[(from->key >> TRANSLATE_MODE_SHIFT) & TRANSLATE_MODE_MMU];
	struct translate_exit *x = &f->exit;

	if (from->dead || to->dead)
		return;
	if (f->to != translate_offset(t, to)) {
		if (f->to)
			far_forget(t, f);
		f->to = translate_offset(t, to);
		x->next_in = to->incoming;
		to->incoming = translate_offset(t, x);
		point(t, x->last, (uint32_t)((const uint8_t *)to->code - t->rx));
		if (x->jump)
			point(t, x->jump, to->needs_flags ? x->stub : x->stub + x->saved);
		STAT_INC(t->cpu, TRANSLATE_LINKS);
	}
	guest_store64(t->rw + f->tag, page);
	if (!f->listed) {
		f->listed = true;
		f->next = j->far;
		j->far = translate_offset(t, f);
	}
}

void translate_unlink_far(struct translate *t, unsigned mmu)
{
	for (uint32_t n = t->jumps[mmu].far; n;) {
		struct translate_far *f = translate_at(t, n);

		guest_store64(t->rw + f->tag, 1);
		f->listed = false;
		n = f->next;
	}
	t->jumps[mmu].far = 0;
}

/* The block is in no table any more; jumps to it lead to the dispatcher again. */
static void block_kill(struct translate *t, struct translate_block *b)
{
	struct translate_block **slot = hash_slot(t, b->key), *partner = b->partner;

	if (b->code) {
		while (*slot != b)
			slot = &(*slot)->hash_next;
		*slot = b->hash_next;
	}
	for (uint32_t n = b->incoming; n;) {
		struct translate_exit *x = translate_at(t, n);

		n = x->next_in;
		if (x->record.action == ACTION_FAR) {
			guest_store64(t->rw + ((struct translate_far *)x)->tag, 1);
			((struct translate_far *)x)->to = 0;
		} else {
			point(t, x->last, x->stub + x->leave);
		}
		if (x->jump)
			point(t, x->jump, x->stub);
		x->linked = false;
	}
	b->incoming = 0;
	b->dead = true;
	t->owned[x86_tlb_code_hash(GPA(b->page->gpa))]--;
	STAT_INC(t->cpu, BLOCKS_INVALIDATED);
	/* In another page's list, which nobody is going through. */
	if (partner && !partner->dead) {
		for (slot = &partner->page->blocks; *slot != partner;)
			slot = &(*slot)->page_next;
		*slot = partner->page_next;
		block_kill(t, partner);
	}
}

static bool overlaps(const struct translate_block *b, unsigned offset, unsigned len)
{
	for (unsigned n = 0; n < ARRAY_SIZE(b->range); n++) {
		const struct translate_range *r = &b->range[n];

		if (r->len && offset < (unsigned)r->offset + r->len && r->offset < offset + len)
			return true;
	}
	return false;
}

static bool same(const uint8_t *a, const uint8_t *b, unsigned len)
{
	unsigned k = 0;

	for (; k + 8 <= len; k += 8)
		if (guest_load64(a + k) != guest_load64(b + k))
			return false;
	for (; k < len; k++)
		if (guest_load8(a + k) != b[k])
			return false;
	return true;
}

static bool same_bytes(const struct translate_block *b, const uint8_t *host)
{
	for (unsigned n = 0; n < ARRAY_SIZE(b->range); n++) {
		const struct translate_range *r = &b->range[n];

		if (r->len && !same(host + r->offset, r->source, r->len))
			return false;
	}
	return !b->cross || same(b->cross_host, b->range[0].source + b->range[0].len, b->cross);
}

bool translate_drop(struct translate *t, uint64_t gpa, unsigned len)
{
	struct translate_page *p = translate_page_find(t, gpa & ~TZ_PAGE_MASK);
	bool any = false;

	translate_direct_written(t, gpa);
	if (!p)
		return false;
	for (struct translate_block **b = &p->blocks; *b;) {
		if (overlaps(*b, (unsigned)(gpa & TZ_PAGE_MASK), len)) {
			block_kill(t, *b);
			*b = (*b)->page_next;
			any = true;
		} else {
			b = &(*b)->page_next;
		}
	}
	if (any)
		translate_jump_clear(t);
	return any;
}

static unsigned __int128 page_sum(const struct translate *t, const uint8_t *host)
{
	unsigned __int128 sum = 0;

	for (unsigned k = 0; k < TRANSLATE_PAGE_WORDS; k += 2)
		sum += tz_nh_pair(t->page_key + k, guest_load64(host + 8 * k), guest_load64(host + 8 * k + 8));
	return sum;
}

/* With more blocks than this in a page one look at all its bytes is cheaper than a look at each block's. */
#define SUM_BLOCKS 8

/* The page as a whole is what its blocks were made of. Those that go on in another one are looked at. */
static bool same_page(const struct translate *t, struct translate_page *p, const uint8_t *host)
{
	unsigned __int128 sum;
	bool equal;

	if (p->inserted <= SUM_BLOCKS)
		return false;
	sum = page_sum(t, host);
	equal = p->summed && p->sum[0] == (uint64_t)sum && p->sum[1] == (uint64_t)(sum >> 64);
	for (const struct translate_block *b = p->blocks; equal && b && b->cross; b = b->page_next)
		equal = same_bytes(b, host);
	/* Taken before the blocks are compared, which it will stand for. */
	p->sum[0] = (uint64_t)sum;
	p->sum[1] = (uint64_t)(sum >> 64);
	p->summed = true;
	return equal;
}

void translate_page_check(struct translate *t, struct translate_page *p, const uint8_t *host)
{
	bool any = false;

	p->epoch = t->epoch;
	p->flushes = t->cpu->tlb->flushes;
	if (same_page(t, p, host))
		return;
	for (struct translate_block **b = &p->blocks; *b;) {
		if (!same_bytes(*b, host)) {
			block_kill(t, *b);
			*b = (*b)->page_next;
			any = true;
		} else {
			b = &(*b)->page_next;
		}
	}
	if (any)
		translate_jump_clear(t);
}
