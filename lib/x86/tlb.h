/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software TLB: GVA -> HVA for pages that memory slots back, per privilege
 * context, direct mapped. Anything unusual (MMIO, read-only slot, write to a page
 * without D, dirty logging, watched by DR7, holding decoded code) keeps the tag of
 * that access kind invalid, so that the slow path in access.c sees it.
 *
 * Thread: the vCPU's own. Other threads ask with X86_ATT_TLB_FLUSH.
 */
#ifndef TZ_X86_TLB_H
#define TZ_X86_TLB_H

#include "x86/cpu.h"

enum x86_mmu_index {
	X86_MMU_USER,        /* CPL 3 (or implicit user) */
	X86_MMU_KERNEL,      /* CPL < 3, SMAP not in force (CR4.SMAP = 0 or RFLAGS.AC = 1) */
	X86_MMU_KERNEL_SMAP, /* CPL < 3 with SMAP in force, and implicit supervisor accesses of CPL 3 */
	X86_MMU_COUNT
};

#define X86_TLB_BITS 13
#define X86_TLB_SIZE (1u << X86_TLB_BITS)
#define X86_TLB_ENGINE_SIZE (2000u << 10)
#define X86_TLB_LARGE_WORDS 64
#define X86_TLB_CODE_WORDS 16384    /* a bit a page up to 4 GiB, which those above share */
#define X86_TLB_INVALID UINT64_C(1) /* never equals a page address */

/* What an access needs: half a cache line, and the index is a shift. */
struct x86_tlb_entry {
	_Alignas(32) uint64_t tag_read; /* GVA of the page if a read may go straight to memory, else has bit 0 set */
	uint64_t tag_write;
	uint64_t tag_exec;
	uintptr_t host; /* HVA of the page */
};

/* What else is known of an entry. */
struct x86_tlb_info {
	uint64_t gpa; /* of the page; valid if any tag is */
	bool global;
	uint8_t page_shift; /* of the page it was taken from: 12, 21, 22, 30 */
	uint8_t flags;      /* X86_TLB_*: what paging allows, whatever the tags say; 0 in an empty entry */
};

#define X86_TLB_READ 1u
#define X86_TLB_WRITE 2u /* D is set, the slot is writable */
#define X86_TLB_LOG 4u   /* the slot has a dirty log */
#define X86_TLB_CODE 8u  /* an engine's: it has compared its translations of this page since the entry was filled */

static inline uint64_t x86_tlb_withheld(uint64_t page)
{
	return (page + TZ_PAGE_SIZE) | X86_TLB_INVALID;
}

/* One bit an entry. */
#define X86_TLB_WORDS (X86_TLB_SIZE / 64)
struct x86_tlb_set {
	uint64_t w[X86_MMU_COUNT][X86_TLB_WORDS];
};

enum x86_tlb_flush { X86_TLB_FLUSH_PAGE, X86_TLB_FLUSH_NONGLOBAL, X86_TLB_FLUSH_ALL };

/*
 * Who keeps a vCPU's accesses apart from memory (lockstep): all of them take the slow path first. Thread: the vCPU's.
 */
struct x86_overlay {
	/*
	 * An access of `kind` (X86_ACCESS_*) is about to go through the filled entry: choose its host page, and its
	 * tags for data, which nobody else gives. False: there is no room.
	 */
	bool (*access)(struct x86_cpu *cpu, struct x86_tlb_entry *e, unsigned kind);
	tz_noreturn void (*no_room)(struct x86_cpu *cpu);
	/* After a write that took the slow path (by x86_host_write_ptr(): before it). */
	void (*written)(struct x86_cpu *cpu, gpa_t gpa, const uint8_t *host, unsigned size);
	/* Where a walk finds the paging-structure entry that memory has at `host`; a walk has set A or D in it. */
	uint8_t *(*table)(struct x86_cpu *cpu, uint64_t gpa, uint8_t *host);
	void (*table_written)(struct x86_cpu *cpu, uint64_t gpa, const uint8_t *host, unsigned size);
};

struct x86_tlb {
	struct x86_tlb_entry e[X86_MMU_COUNT][X86_TLB_SIZE];
	struct x86_tlb_info info[X86_MMU_COUNT][X86_TLB_SIZE];
	/*
	 * INVLPG need not look at `large` unless a large page may be cached around its address: a bit for each 2 MiB,
	 * hashed, and for pages of 1 GiB the first and last byte of all.
	 */
	uint64_t large_seen[X86_TLB_LARGE_WORDS];
	uint64_t huge_lo, huge_hi;
	struct x86_tlb_set local, global; /* entries in use: disjoint, so that a flush touches only what was filled */
	struct x86_tlb_set large;         /* those of either that a large page gave */
	/* Pages (by GPA, hashed) this vCPU has decoded code from: writes there take the slow path. */
	uint64_t code_filter[X86_TLB_CODE_WORDS];
	/*
	 * The engine's hook, called after a write to such a page by this vCPU (by x86_host_write_ptr(): just
	 * before it); may be NULL.
	 */
	void (*code_written)(struct x86_cpu *cpu, gpa_t gpa, unsigned len);
	/* The engine's hook for flushes: of what is cached for a page (of any size: at `gva`), or for all that is not
	 * global or all. May be NULL. */
	void (*flushed)(struct x86_cpu *cpu, enum x86_tlb_flush what, uint64_t gva);
	/* The engine's hook: write tags of the pages with this code hash were taken back. May be NULL. */
	void (*withheld)(struct x86_cpu *cpu, unsigned hash);
	/* Of an engine that shares it between vCPUs: pages whose writes take the slow path, hashed as code_filter. */
	const _Atomic uint64_t *code_shared;
	const struct x86_overlay *overlay; /* or NULL; set while the TLB is empty */
	uint32_t flushes;                  /* counts: what was derived from mappings is stale when it changed */
	uint32_t withholds;                /* counts: write tags were taken back */
	/* The engine's own: at a fixed distance from the entries for code that has one base register for both. */
	_Alignas(64) uint8_t engine[X86_TLB_ENGINE_SIZE];
};

#define X86_LARGE_SHIFT 21

/* The bit of large_seen. */
static inline unsigned x86_tlb_large_bit(uint64_t gva)
{
	return (unsigned)((gva >> X86_LARGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 52) % (X86_TLB_LARGE_WORDS * 64);
}

static inline struct x86_tlb_entry *x86_tlb_slot(struct x86_cpu *cpu, unsigned mmu, uint64_t gva)
{
	return &cpu->tlb->e[mmu][(gva >> TZ_PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
}

static inline struct x86_tlb_info *x86_tlb_info(struct x86_cpu *cpu, const struct x86_tlb_entry *e)
{
	return &cpu->tlb->info[0][0] + (e - &cpu->tlb->e[0][0]);
}

/* The host's address of `gva`, which lies in the entry's page. */
static inline uint8_t *x86_tlb_host(const struct x86_tlb_entry *e, uint64_t gva)
{
	return (uint8_t *)(e->host + (gva & TZ_PAGE_MASK));
}

int x86_tlb_create(struct x86_cpu *cpu); /* 0, -ENOMEM */
void x86_tlb_destroy(struct x86_cpu *cpu);

void x86_tlb_flush_all(struct x86_cpu *cpu);         /* global ones too */
void x86_tlb_flush_nonglobal(struct x86_cpu *cpu);   /* MOV CR3 */
void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t); /* INVLPG: that page in every context, large pages whole */

/*
 * Engine: this vCPU holds decoded or translated code of the page at `gpa`. Writes to it
 * through this vCPU call tlb->code_written from now on.
 */
void x86_tlb_protect_code(struct x86_cpu *cpu, gpa_t page);
void x86_tlb_unprotect_all_code(struct x86_cpu *cpu);
bool x86_tlb_is_code(const struct x86_cpu *cpu, gpa_t page);
/* For code_shared: the bit of a page, and taking back the write tags given before it was set (vCPU stopped). */
unsigned x86_tlb_code_hash(gpa_t page);
void x86_tlb_withhold_writes(struct x86_cpu *cpu, gpa_t page);

#endif
