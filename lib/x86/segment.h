/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation (SDM 3A chapters 3 and 5): logical to linear addresses with all checks,
 * descriptor loads, the mode derived from the control state.
 * Thread: the vCPU's own. Functions that can fault raise.
 */
#ifndef TZ_X86_SEGMENT_H
#define TZ_X86_SEGMENT_H

#include "x86/cpu.h"
#include "x86/tlb.h"

/* Recompute cpl, code_size, stack_size, real_mode, v8086, long_mode, mmu_index, dr_* from the state. No faults. */
void x86_mode_update(struct x86_cpu *cpu);

/* Only what RFLAGS.AC / CPL changes: mmu_index. Cheap; after STAC, CLAC, POPF. */
static inline void x86_mmu_index_update(struct x86_cpu *cpu)
{
	if (cpu->cpl == 3)
		cpu->mmu_index = X86_MMU_USER;
	else
		cpu->mmu_index =
			(cpu->cr4 & X86_CR4_SMAP) && !(cpu->rflags & X86_AC) ? X86_MMU_KERNEL_SMAP : X86_MMU_KERNEL;
}

uint64_t x86_linear_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, bool write);

/*
 * Linear address of seg:offset for a data access of `size` bytes; offset is already
 * truncated to the address size. Checks type, limit (expand-down too), null selector,
 * canonicality; raises #GP(0) or, for SS, #SS(0).
 */
static inline uint64_t x86_linear(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	if (likely(x86_long64(cpu))) {
		uint64_t a = offset + (seg >= X86_FS ? cpu->seg[seg].base : 0);
		/* Canonical for 4- and 5-level alike when bits 63:47 agree and the end does too. */
		if (likely((uint64_t)((int64_t)a >> 47) + 1 <= 1 && (a & 0x7fffffffffff) + size <= 0x800000000000))
			return a;
	}
	return x86_linear_slow(cpu, seg, offset, size, write);
}

/* Is a canonical under the current CR4.LA57 (SDM 1 3.3.7.1)? */
bool x86_canonical(const struct x86_cpu *cpu, uint64_t a);
/*
 * The same for what is only kept: descriptor-table, segment and TSS bases, address MSRs, INVPCID. Processors with
 * 5-level paging take 57 bits there whatever CR4.LA57 is; an access through it checks again.
 */
bool x86_canonical_base(const struct x86_cpu *cpu, uint64_t a);

/* #AC if CR0.AM, RFLAGS.AC and CPL 3 and the address is not a multiple of size. */
void x86_check_align(struct x86_cpu *cpu, uint64_t linear, unsigned size);

/* The instruction pointer within CS: raises #GP(0) for a target beyond the limit or not canonical. */
void x86_check_rip(struct x86_cpu *cpu, uint64_t rip);

/* A raw 8-byte descriptor (16 for system ones in long mode). */
struct x86_desc {
	uint64_t lo, hi;
	uint64_t gva; /* where it is, to set accessed/busy bits */
};
/* Read the descriptor of `sel`; raises `vector`(sel & ~3 | ext) if it is outside its table. */
void x86_desc_read(struct x86_cpu *cpu, uint16_t sel, enum x86_vector vector, uint32_t ext, struct x86_desc *d);
void x86_desc_to_seg(const struct x86_desc *d, uint16_t sel, struct x86_seg *seg);
void x86_desc_set_accessed(struct x86_cpu *cpu, struct x86_desc *d);

/*
 * MOV/POP/Lxx to ES, SS, DS, FS, GS with all checks (#GP, #NP, #SS); in real and v8086
 * mode just base = sel << 4. Prepares the new value; x86_seg_commit() writes it, so
 * that POP can commit after its stack access. CS has its own way: x86/transfer.h.
 */
struct x86_seg x86_seg_prepare(struct x86_cpu *cpu, unsigned seg, uint16_t sel);
void x86_seg_commit(struct x86_cpu *cpu, unsigned seg, const struct x86_seg *value);
/* Real/v8086 style value for `sel`, keeping what those modes keep. */
struct x86_seg x86_seg_real(const struct x86_cpu *cpu, unsigned seg, uint16_t sel);

void x86_load_ldt(struct x86_cpu *cpu, uint16_t sel); /* LLDT */
void x86_load_tr(struct x86_cpu *cpu, uint16_t sel);  /* LTR: marks it busy */

/* LAR, LSL, VERR, VERW. True: ZF = 1 and *value filled. They do not raise for a bad selector. */
bool x86_lar(struct x86_cpu *cpu, uint16_t sel, uint32_t *value);
bool x86_lsl(struct x86_cpu *cpu, uint16_t sel, uint32_t *value);
bool x86_verify(struct x86_cpu *cpu, uint16_t sel, bool write);

/*
 * Stack by SS:SP with the stack's width. Peek/poke at a byte offset below or above SP and
 * move SP at the end, so that a fault leaves SP alone. `size` 2, 4, 8.
 */
uint64_t x86_stack_linear(struct x86_cpu *cpu, int64_t delta, unsigned size, bool write);
void x86_push(struct x86_cpu *cpu, uint64_t value, unsigned size);
uint64_t x86_stack_peek(struct x86_cpu *cpu, int64_t delta, unsigned size);
void x86_stack_adjust(struct x86_cpu *cpu, int64_t delta); /* SP += delta in the stack's width */

/* Port permission: IOPL, and the TSS bitmap in protected and v8086 mode (SDM 1 19.5). Raises #GP(0). */
void x86_check_io(struct x86_cpu *cpu, uint16_t port, unsigned len);

#endif
