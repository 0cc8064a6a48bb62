/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory accesses by linear address, through the TLB. All may raise #PF and
 * may leave run() for MMIO. No segmentation here (x86/segment.h makes linear
 * addresses) and no alignment check (x86_check_align() does #AC).
 *
 * "Check every access, then commit": an instruction that writes twice, or changes
 * registers after a write could fault, probes first with x86_probe_write().
 *
 * Ordinary accesses are single host loads and stores when they lie inside a page.
 * Across a page end they are split; both pages are checked before the first byte
 * is written.
 */
#ifndef TZ_X86_ACCESS_H
#define TZ_X86_ACCESS_H

#include "x86/cpu.h"
#include "x86/tlb.h"

uint64_t x86_read_slow(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);
void x86_write_slow(struct x86_cpu *cpu, uint64_t gva, uint64_t value, unsigned size, unsigned mmu);

#define X86_DEFINE_ACCESS(bits)                                                                                        \
	static inline uint##bits##_t x86_read##bits##_mmu(struct x86_cpu *cpu, uint64_t gva, unsigned mmu)             \
	{                                                                                                              \
		const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);                                           \
		if (likely(e->tag_read == (gva & ~TZ_PAGE_MASK) && (gva & TZ_PAGE_MASK) <= TZ_PAGE_SIZE - (bits) / 8)) \
			return guest_load##bits(x86_tlb_host(e, gva));                                                 \
		return (uint##bits##_t)x86_read_slow(cpu, gva, (bits) / 8, mmu);                                       \
	}                                                                                                              \
	static inline void x86_write##bits##_mmu(struct x86_cpu *cpu, uint64_t gva, uint##bits##_t v, unsigned mmu)    \
	{                                                                                                              \
		const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mmu, gva);                                           \
		if (likely(e->tag_write == (gva & ~TZ_PAGE_MASK) &&                                                    \
			   (gva & TZ_PAGE_MASK) <= TZ_PAGE_SIZE - (bits) / 8))                                         \
			guest_store##bits(x86_tlb_host(e, gva), v);                                                    \
		else                                                                                                   \
			x86_write_slow(cpu, gva, v, (bits) / 8, mmu);                                                  \
	}                                                                                                              \
	static inline uint##bits##_t x86_read##bits(struct x86_cpu *cpu, uint64_t gva)                                 \
	{                                                                                                              \
		return x86_read##bits##_mmu(cpu, gva, cpu->mmu_index);                                                 \
	}                                                                                                              \
	static inline void x86_write##bits(struct x86_cpu *cpu, uint64_t gva, uint##bits##_t v)                        \
	{                                                                                                              \
		x86_write##bits##_mmu(cpu, gva, v, cpu->mmu_index);                                                    \
	}

X86_DEFINE_ACCESS(8)
X86_DEFINE_ACCESS(16)
X86_DEFINE_ACCESS(32)
X86_DEFINE_ACCESS(64)

/*
 * Descriptor tables, TSS and the like: implicit supervisor accesses, whatever the CPL
 * (SDM 3A 4.6.1). They obey SMAP as CPL 3's AC does not count: X86_MMU_KERNEL_SMAP or _KERNEL.
 */
unsigned x86_mmu_system(const struct x86_cpu *cpu);

/* size 1, 2, 4, 8 chosen at run time. */
uint64_t x86_read(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);
void x86_write(struct x86_cpu *cpu, uint64_t gva, uint64_t value, unsigned size, unsigned mmu);

/* The destination of a read-modify-write: the read faults as a write would (SDM 3A 4.7: W = 1). */
uint64_t x86_read_for_write(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);

/*
 * Raise now what a write of `size` (1..4096, may cross one page end) would raise. Sets D. On return the
 * same write can not page-fault before the next instruction.
 */
void x86_probe_write(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);
void x86_probe_read(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);

/* Any size up to 4096 bytes: vector operands, FXSAVE images, descriptors. Same rules. */
void x86_read_bytes(struct x86_cpu *cpu, uint64_t gva, void *buf, unsigned size, unsigned mmu);
void x86_write_bytes(struct x86_cpu *cpu, uint64_t gva, const void *buf, unsigned size, unsigned mmu);

/*
 * A host pointer good for one direct access of `size` bytes, or NULL when there is none
 * (crosses a page, MMIO, read-only slot, dirty log, watched): then use the copying calls. Raises #PF as the access
 * would.
 */
void *x86_host_read_ptr(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);
void *x86_host_write_ptr(struct x86_cpu *cpu, uint64_t gva, unsigned size, unsigned mmu);

/*
 * For code with an inline TLB check: make the entry of `gva` allow accesses of `kind` (X86_ACCESS_*). False: nothing
 * was done, or the tag stays withheld (MMIO, watched, code ...): the access takes the slow way. Raises nothing. A and D
 * are set as for an access: ask only for one that is about to happen.
 */
bool x86_tlb_fill(struct x86_cpu *cpu, uint64_t gva, unsigned kind, unsigned mmu);

/*
 * Instruction fetch: up to `want` bytes at linear address `gva` into buf; stops silently at a
 * page that faults unless not even the first byte could be had, then raises #PF (I bit).
 * *gpa is the first byte's GPA. Memory that no slot backs fetches as 0xff bytes (an idle bus), hence #UD.
 * Returns the count. Raise the fault of the second page by calling again for its address.
 */
unsigned x86_fetch(struct x86_cpu *cpu, uint64_t gva, uint8_t *buf, unsigned want, gpa_t *gpa);

#endif
