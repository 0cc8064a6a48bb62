/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flushing costs what was filled since the last flush, not the size of the TLB: sets of bits say which
 * entries are in use. A guest writes CR3 often and uses few pages in between.
 */
#include "x86/tlb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/stats.h"

static void entry_clear(struct x86_tlb *tlb, unsigned mmu, unsigned i)
{
	struct x86_tlb_entry *e = &tlb->e[mmu][i];

	e->tag_read = e->tag_write = e->tag_exec = x86_tlb_withheld((uint64_t)i << TZ_PAGE_SHIFT);
	tlb->info[mmu][i].flags = 0;
}

int x86_tlb_create(struct x86_cpu *cpu)
{
	struct x86_tlb *tlb = aligned_alloc(_Alignof(struct x86_tlb), sizeof(*tlb));

	if (!tlb)
		return -ENOMEM;
	tz_clear(tlb, sizeof(*tlb));
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++)
		for (unsigned i = 0; i < X86_TLB_SIZE; i++)
			entry_clear(tlb, mmu, i);
	tlb->huge_lo = UINT64_MAX;
	cpu->tlb = tlb;
	return 0;
}

void x86_tlb_destroy(struct x86_cpu *cpu)
{
	free(cpu->tlb);
	cpu->tlb = NULL;
}

/* Empty every entry of `set`, and the set. */
static void set_flush(struct x86_tlb *tlb, struct x86_tlb_set *set)
{
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		for (unsigned word = 0; word < X86_TLB_WORDS; word++) {
			uint64_t bits = set->w[mmu][word];

			if (likely(!bits))
				continue;
			set->w[mmu][word] = 0;
			tlb->large.w[mmu][word] &= ~bits;
			for (; bits; bits &= bits - 1)
				entry_clear(tlb, mmu, word * 64 + (unsigned)__builtin_ctzll(bits));
		}
	}
}

static void note_flush(struct x86_cpu *cpu, enum x86_tlb_flush what, uint64_t gva)
{
	STAT_INC(cpu, TLB_FLUSHES);
	cpu->tlb->flushes++;
	if (cpu->tlb->flushed)
		cpu->tlb->flushed(cpu, what, gva);
}

void x86_tlb_flush_nonglobal(struct x86_cpu *cpu)
{
	note_flush(cpu, X86_TLB_FLUSH_NONGLOBAL, 0);
	STAT_INC(cpu, TLB_FLUSHES_CR3);
	set_flush(cpu->tlb, &cpu->tlb->local);
}

void x86_tlb_flush_all(struct x86_cpu *cpu)
{
	note_flush(cpu, X86_TLB_FLUSH_ALL, 0);
	set_flush(cpu->tlb, &cpu->tlb->local);
	set_flush(cpu->tlb, &cpu->tlb->global);
	tz_clear(cpu->tlb->large_seen, sizeof(cpu->tlb->large_seen));
	cpu->tlb->huge_lo = UINT64_MAX;
	cpu->tlb->huge_hi = 0;
}

static void entry_drop(struct x86_tlb *tlb, unsigned mmu, unsigned i)
{
	uint64_t bit = BIT64(i % 64);

	entry_clear(tlb, mmu, i);
	tlb->local.w[mmu][i / 64] &= ~bit;
	tlb->global.w[mmu][i / 64] &= ~bit;
	tlb->large.w[mmu][i / 64] &= ~bit;
}

/* The GVA an entry in use stands for. */
static uint64_t entry_page(const struct x86_tlb_entry *e)
{
	return e->tag_read & X86_TLB_INVALID ? (e->tag_read & ~X86_TLB_INVALID) - TZ_PAGE_SIZE : e->tag_read;
}

/* May the large page that the entry came from be the reason for that bit? */
static bool is_seen_for(const struct x86_tlb *tlb, unsigned mmu, unsigned i, unsigned bit)
{
	uint64_t page = entry_page(&tlb->e[mmu][i]);

	return x86_tlb_large_bit(page) == bit || (tlb->info[mmu][i].page_shift == X86_LARGE_SHIFT + 1 &&
						  x86_tlb_large_bit(page ^ BIT64(X86_LARGE_SHIFT)) == bit);
}

/* Drop what came from a large page around `gva` (SDM 3A 4.10.4.1: INVLPG acts on the whole page). */
static void flush_large(struct x86_tlb *tlb, uint64_t gva)
{
	unsigned large = x86_tlb_large_bit(gva);
	bool seen = false;

	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		for (unsigned word = 0; word < X86_TLB_WORDS; word++) {
			for (uint64_t bits = tlb->large.w[mmu][word]; bits; bits &= bits - 1) {
				unsigned i = word * 64 + (unsigned)__builtin_ctzll(bits);

				if (!((entry_page(&tlb->e[mmu][i]) ^ gva) >> tlb->info[mmu][i].page_shift))
					entry_drop(tlb, mmu, i);
				else
					seen |= is_seen_for(tlb, mmu, i, large);
			}
		}
	}
	if (!seen)
		tlb->large_seen[large / 64] &= ~BIT64(large % 64);
}

void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t gva)
{
	struct x86_tlb *tlb = cpu->tlb;
	uint64_t page = gva.v & ~TZ_PAGE_MASK;
	unsigned i = (gva.v >> TZ_PAGE_SHIFT) & (X86_TLB_SIZE - 1), large = x86_tlb_large_bit(gva.v);

	note_flush(cpu, X86_TLB_FLUSH_PAGE, gva.v);
	STAT_INC(cpu, TLB_FLUSHES_PAGE);
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++)
		if (entry_page(&tlb->e[mmu][i]) == page)
			entry_drop(tlb, mmu, i);
	if (tlb->large_seen[large / 64] >> large % 64 & 1 || (gva.v >= tlb->huge_lo && gva.v <= tlb->huge_hi))
		flush_large(tlb, gva.v);
}

static unsigned code_hash(gpa_t page)
{
	_Static_assert(X86_TLB_SIZE * sizeof(struct x86_tlb_entry) <= (1u << 20), "what translated code computes");
	return (page.v >> TZ_PAGE_SHIFT) % (ARRAY_SIZE(((struct x86_tlb *)0)->code_filter) * 64);
}

bool x86_tlb_is_code(const struct x86_cpu *cpu, gpa_t page)
{
	unsigned h = code_hash(page);

	if ((cpu->tlb->code_filter[h / 64] >> (h % 64)) & 1)
		return true;
	return cpu->tlb->code_shared &&
	       (atomic_load_explicit(&cpu->tlb->code_shared[h / 64], memory_order_relaxed) >> (h % 64)) & 1;
}

static void set_protect(struct x86_tlb *tlb, const struct x86_tlb_set *set, unsigned hash)
{
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		for (unsigned word = 0; word < X86_TLB_WORDS; word++) {
			for (uint64_t bits = set->w[mmu][word]; bits; bits &= bits - 1) {
				unsigned i = word * 64 + (unsigned)__builtin_ctzll(bits);
				struct x86_tlb_entry *e = &tlb->e[mmu][i];

				if (code_hash(GPA(tlb->info[mmu][i].gpa)) == hash)
					e->tag_write = x86_tlb_withheld(entry_page(e));
			}
		}
	}
}

/* Take the write tags of all pages that share the filter's bit `hash`. */
static void withhold(struct x86_cpu *cpu, unsigned hash)
{
	struct x86_tlb *tlb = cpu->tlb;

	tlb->withholds++;
	set_protect(tlb, &tlb->local, hash);
	set_protect(tlb, &tlb->global, hash);
	if (tlb->withheld)
		tlb->withheld(cpu, hash);
}

void x86_tlb_protect_code(struct x86_cpu *cpu, gpa_t page)
{
	struct x86_tlb *tlb = cpu->tlb;
	unsigned h = code_hash(page);

	/* Where the bit is set no entry has a write tag: fills have not given one since. */
	if (x86_tlb_is_code(cpu, page))
		return;
	tlb->code_filter[h / 64] |= BIT64(h % 64);
	withhold(cpu, h);
}

void x86_tlb_unprotect_all_code(struct x86_cpu *cpu)
{
	/* Entries get their write tag back at the next write, which takes the slow path once. */
	tz_clear(cpu->tlb->code_filter, sizeof(cpu->tlb->code_filter));
}

unsigned x86_tlb_code_hash(gpa_t page)
{
	return code_hash(page);
}

void x86_tlb_withhold_writes(struct x86_cpu *cpu, gpa_t page)
{
	withhold(cpu, code_hash(page));
}
