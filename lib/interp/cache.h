/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoded blocks of one vCPU, found by the guest physical address of their first byte and the mode.
 *
 * Nothing tells a vCPU that another one, or the client's DMA, wrote to code; so on every entry
 * the bytes a block was made from are compared with memory. What that leaves open is an instruction that
 * changes a later one of its own block: pages that can be written at the linear address they
 * execute at are watched (x86_tlb_protect_code) and a write to the page of the running block ends it.
 * A change through another linear address needs a serializing instruction anyway (SDM 3A 8.1.3).
 *
 * Thread: the vCPU's own.
 */
#ifndef TZ_INTERP_CACHE_H
#define TZ_INTERP_CACHE_H

#include "interp/interp.h"

#define INTERP_BLOCK_INSNS 32
#define INTERP_TABLE_BITS 15

struct interp_block {
	uint64_t key;
	uint32_t epoch; /* when its page was last looked at for write tracking */
	uint16_t count; /* instructions */
	uint16_t bytes; /* of source */
	const uint8_t *source;
	/* Where execution went from here: a guess that saves the look-up, always verified. */
	struct {
		uint64_t rip;
		struct interp_block *block; /* NULL: none */
	} link[2];
	uint16_t head; /* bytes in the first page: fewer than all only with INTERP_KEY_STRADDLES */
	struct interp_insn insn[];
};

struct interp_cache {
	struct interp_block *table[1u << INTERP_TABLE_BITS];
	uint32_t epoch;
	uint32_t code_writes; /* reports of writes to watched pages in this epoch */
	uint64_t wipes;       /* since creation: what pointed into the arena before the last one is dead */
	uint8_t *arena;
	size_t used;
	/* One instruction that can not be cached: no memory slot, or it runs into CS's limit. */
	struct {
		struct interp_block block;
		struct interp_insn insn;
	} single;
	uint8_t single_source[INTERP_INSN_MAX];
};

struct interp_cache *interp_cache_create(void); /* NULL: no memory */
void interp_cache_destroy(struct interp_cache *c);
void interp_cache_wipe(struct x86_cpu *cpu, struct interp_cache *c);
/* tlb->code_written */
void interp_cache_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len);

static inline uint64_t interp_code_linear(const struct x86_cpu *cpu)
{
	return likely(cpu->code_size == 8) ? cpu->rip : (uint32_t)(cpu->seg[X86_CS].base + cpu->rip);
}

/* In a key above the GPA: the mode, and that the block is one instruction across a page end. */
#define INTERP_KEY_GPA (BIT64(60) - 1)
#define INTERP_KEY_STRADDLES BIT64(62)

static inline uint64_t interp_block_key(const struct x86_cpu *cpu, uint64_t gpa)
{
	return gpa | (uint64_t)interp_mode_of(cpu) << 60;
}

static inline struct interp_block **interp_block_slot(struct interp_cache *c, uint64_t key)
{
	return &c->table[key * UINT64_C(0x9e3779b97f4a7c15) >> (64 - INTERP_TABLE_BITS)];
}

/* `source` may be read up to its next multiple of 8; memory only inside its page. */
static inline bool interp_bytes_same(const uint8_t *memory, const uint8_t *source, unsigned n)
{
	for (; n >= 8; n -= 8, memory += 8, source += 8)
		if (guest_load64(memory) != guest_load64(source))
			return false;
	if (likely(((uintptr_t)memory & TZ_PAGE_MASK) <= TZ_PAGE_SIZE - 8))
		return !n || !((guest_load64(memory) ^ guest_load64(source)) << (64 - n * 8));
	for (; n; n--)
		if (guest_load8(memory++) != guest_load8(source++))
			return false;
	return true;
}

/* Straight-line execution of the whole block stays inside CS's limit and does not wrap IP (legacy modes). */
static inline bool interp_block_in_limit(const struct x86_cpu *cpu, const struct interp_block *b)
{
	uint64_t last = cpu->rip + b->bytes - 1;

	if (likely(cpu->code_size == 8))
		return true;
	return last <= cpu->seg[X86_CS].limit && (cpu->code_size == 4 || last <= 0xffff);
}

/* May `b` run at `linear`, whose TLB entry is `e`? Straddling blocks and those never looked at say no. */
static inline bool interp_block_valid(struct x86_cpu *cpu, const struct interp_cache *c, const struct interp_block *b,
				      const struct x86_tlb_entry *e, uint64_t linear)
{
	return likely(b->key == interp_block_key(cpu, x86_tlb_info(cpu, e)->gpa | (linear & TZ_PAGE_MASK)) &&
		      b->epoch == c->epoch && interp_block_in_limit(cpu, b) &&
		      interp_bytes_same(x86_tlb_host(e, linear), b->source, b->bytes));
}

/* A page that can be written where it executes must be watched: the slow path sees to it. */
static inline bool interp_page_ready(const struct x86_tlb_entry *e, uint64_t linear)
{
	uint64_t page = linear & ~TZ_PAGE_MASK;

	return likely(e->tag_exec == page && e->tag_write != page);
}

/* The block at CS:RIP. Raises what the fetch raises. */
const struct interp_block *interp_block_find(struct x86_cpu *cpu, struct interp *in);
/* The same, and remember it as a successor of `from`. */
const struct interp_block *interp_block_link(struct x86_cpu *cpu, struct interp *in, struct interp_block *from);

/* The block at CS:RIP after `from`. */
static inline const struct interp_block *interp_block_next(struct x86_cpu *cpu, struct interp *in,
							   const struct interp_block *from)
{
	uint64_t linear = interp_code_linear(cpu);
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, linear);

	if (likely(interp_page_ready(e, linear))) {
		for (unsigned n = 0; n < ARRAY_SIZE(from->link); n++) {
			const struct interp_block *b = from->link[n].block;

			if (from->link[n].rip == cpu->rip && b && interp_block_valid(cpu, in->cache, b, e, linear))
				return b;
		}
	}
	return interp_block_link(cpu, in, (struct interp_block *)(uintptr_t)from);
}

#endif
