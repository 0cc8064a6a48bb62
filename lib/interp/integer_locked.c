/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomic read-modify-write: every LOCKed instruction, XCHG with memory (locked by itself, SDM 2D),
 * XADD and the CMPXCHG family in both forms.
 *
 * Other vCPUs run on other host threads, so a locked access is a compare-and-swap of the host.
 * Where there is no single host location (the operand crosses a page end, or the page needs the
 * slow path), RAM is changed with the other vCPUs stopped; MMIO has no atomicity to keep.
 */
#include "interp/host_atomic.h"
#include "interp/integer.h"
#include "mem/memslot.h"
#include "x86/fpu.h"
#include "x86/paging.h"

/* What the memory operand becomes. Register results are the caller's, from the old value. */
interp_inline uint64_t modify(struct x86_cpu *cpu, const struct interp_insn *i, enum interp_locked op, unsigned size,
			      uint64_t old, uint64_t src, uint64_t *f)
{
	uint64_t bit = UINT64_C(1) << (src & (size * 8 - 1));

	switch (op) {
	case INTERP_LOCKED_INC: return interp_inc(size, old, f);
	case INTERP_LOCKED_DEC: return interp_dec(size, old, f);
	case INTERP_LOCKED_NEG: return interp_alu(INTERP_SUB, size, 0, old, f);
	case INTERP_LOCKED_NOT: return ~old & interp_mask(size);
	case INTERP_LOCKED_XADD: return interp_alu(INTERP_ADD, size, old, src, f);
	case INTERP_LOCKED_XCHG: return src;
	case INTERP_LOCKED_CMPXCHG:
		interp_alu(INTERP_CMP, size, cpu->gpr[X86_RAX], old, f);
		return *f & X86_ZF ? src : old;
	case INTERP_LOCKED_BTS:
	case INTERP_LOCKED_BTR:
	case INTERP_LOCKED_BTC:
		*f = (*f & ~X86_CF) | (old & bit ? X86_CF : 0);
		return op == INTERP_LOCKED_BTS ? old | bit : op == INTERP_LOCKED_BTR ? old & ~bit : old ^ bit;
	default: (void)i; return interp_alu((enum interp_alu)op, size, old, src, f);
	}
}

/* All of [linear, linear + size) is memory that a slot backs for writing. */
static bool is_ram(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
	uint64_t at[2] = { linear, linear + size - 1 };

	for (unsigned n = 0; n < 2; n++) {
		struct x86_walk w;
		struct mem_hit hit;

		if (!x86_walk(cpu, GVA(at[n]), X86_ACCESS_WRITE, cpu->mmu_index, true, &w) ||
		    !mem_lookup(cpu->mem, w.gpa, &hit) || (hit.slot->flags & MEM_SLOT_READONLY))
			return false;
	}
	return true;
}

/*
 * Everything that can raise has been raised by the probe; so between begin and end nothing
 * unwinds. False: not RAM, the caller does plain accesses.
 */
static bool exclusive_begin(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
	x86_probe_write(cpu, linear, size, cpu->mmu_index);
	if (!is_ram(cpu, linear, size))
		return false;
	x86_fpu_put(cpu);
	cpu->ops->exclusive_begin(cpu);
	return true;
}

/* Returns the old value; flags are committed, as the write is the last thing that can raise. */
interp_inline uint64_t locked_rmw(struct x86_cpu *cpu, const struct interp_insn *i, enum interp_locked op,
				  unsigned size, uint64_t linear, uint64_t src)
{
	void *p = x86_host_write_ptr(cpu, linear, size, cpu->mmu_index);
	uint64_t old, new, f;

	if (likely(p)) {
		old = interp_load_host(p, size);
		do {
			f = cpu->rflags;
			new = modify(cpu, i, op, size, old, src, &f);
		} while (!host_cas(p, size, &old, new));
	} else {
		bool exclusive = exclusive_begin(cpu, linear, size);

		f = cpu->rflags;
		old = x86_read_for_write(cpu, linear, size, cpu->mmu_index);
		new = modify(cpu, i, op, size, old, src, &f);
		x86_write(cpu, linear, new, size, cpu->mmu_index);
		if (exclusive)
			cpu->ops->exclusive_end(cpu);
	}
	cpu->rflags = f;
	return old;
}

/* op [mem], reg or imm; the operation is chosen at run time, as i->extra. */
interp_inline void locked(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t src = i->kind[1] == INTERP_OP_NONE ? 0 : interp_get_source(cpu, i, 1, size);

	locked_rmw(cpu, i, (enum interp_locked)i->extra, size, interp_linear(cpu, i, size, true), src);
	interp_next(cpu, i);
}

INTERP_SIZES(locked_fn, locked)

interp_inline void locked_bit(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	unsigned bit;
	uint64_t linear = interp_bit_linear(cpu, i, size, true, &bit);

	locked_rmw(cpu, i, (enum interp_locked)i->extra, size, linear, bit);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(locked_bit_fn, locked_bit)

bool interp_bind_locked(struct interp_insn *i, enum interp_locked what)
{
	if (i->kind[0] != INTERP_OP_MEM)
		return interp_choose(i, interp_exec_ud);
	i->extra = (uint8_t)what;
	return interp_choose(i, interp_by_size(what >= INTERP_LOCKED_BTS ? locked_bit_fn : locked_fn, i->opsize));
}

/* XCHG: the register operand is either one (SDM 2D). */
interp_inline void xchg_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t a = interp_get_reg(cpu, i, 0, size), b = interp_get_reg(cpu, i, 1, size);

	interp_set_reg(cpu, i, 0, size, b);
	interp_set_reg(cpu, i, 1, size, a);
	interp_next(cpu, i);
}

interp_inline void xchg_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	unsigned n = i->extra;
	uint64_t old = locked_rmw(cpu, i, INTERP_LOCKED_XCHG, size, interp_linear(cpu, i, size, true),
				  interp_get_reg(cpu, i, n, size));

	interp_set_reg(cpu, i, n, size, old);
	interp_next(cpu, i);
}

INTERP_SIZES(xchg_rr_fn, xchg_rr)
INTERP_SIZES(xchg_m_fn, xchg_m)

bool interp_bind_xchg(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	if (interp_is_reg(i, 0) && interp_is_reg(i, 1))
		return interp_choose(i, interp_by_size(xchg_rr_fn, i->opsize));
	i->extra = i->kind[0] == INTERP_OP_MEM ? 1 : 0;
	return interp_choose(i, interp_by_size(xchg_m_fn, i->opsize));
}

/* XADD: the sum is written last, so with both operands the same register it stays. */
interp_inline void xadd_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t a = interp_get_reg(cpu, i, 0, size);
	uint64_t r = interp_alu(INTERP_ADD, size, a, interp_get_reg(cpu, i, 1, size), &cpu->rflags);

	interp_set_reg(cpu, i, 1, size, a);
	interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

/* Without LOCK it need not be atomic; being so does no harm. */
interp_inline void xadd_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t old = locked_rmw(cpu, i, INTERP_LOCKED_XADD, size, interp_linear(cpu, i, size, true),
				  interp_get_reg(cpu, i, 1, size));

	interp_set_reg(cpu, i, 1, size, old);
	interp_next(cpu, i);
}

INTERP_SIZES(xadd_rr_fn, xadd_rr)
INTERP_SIZES(xadd_m_fn, xadd_m)

bool interp_bind_xadd(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? xadd_m_fn : xadd_rr_fn, i->opsize));
}

/* CMPXCHG: the accumulator is written only on failure, so its upper half survives success. */
interp_inline void cmpxchg_rr(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t dst = interp_get_reg(cpu, i, 0, size);

	interp_alu(INTERP_CMP, size, cpu->gpr[X86_RAX], dst, &cpu->rflags);
	if (cpu->rflags & X86_ZF)
		interp_set_reg(cpu, i, 0, size, interp_get_reg(cpu, i, 1, size));
	else
		interp_reg_write(cpu, X86_RAX, size, dst);
	interp_next(cpu, i);
}

interp_inline void cmpxchg_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t old = locked_rmw(cpu, i, INTERP_LOCKED_CMPXCHG, size, interp_linear(cpu, i, size, true),
				  interp_get_reg(cpu, i, 1, size));

	if (!(cpu->rflags & X86_ZF))
		interp_reg_write(cpu, X86_RAX, size, old);
	interp_next(cpu, i);
}

INTERP_SIZES(cmpxchg_rr_fn, cmpxchg_rr)
INTERP_SIZES(cmpxchg_m_fn, cmpxchg_m)

bool interp_bind_cmpxchg(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? cmpxchg_m_fn : cmpxchg_rr_fn, i->opsize));
}

static void commit_pair(struct x86_cpu *cpu, const struct interp_insn *i, bool equal, unsigned half, uint64_t lo,
			uint64_t hi)
{
	if (equal) {
		cpu->rflags |= X86_ZF;
	} else {
		cpu->rflags &= ~X86_ZF;
		interp_reg_write(cpu, X86_RAX, half, lo);
		interp_reg_write(cpu, X86_RDX, half, hi);
	}
	interp_next(cpu, i);
}

static void exec_cmpxchg8b(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t linear = interp_linear(cpu, i, 8, true);
	uint64_t want = (uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32;
	uint64_t new = (uint32_t)cpu->gpr[X86_RBX] | cpu->gpr[X86_RCX] << 32;
	void *p = x86_host_write_ptr(cpu, linear, 8, cpu->mmu_index);
	uint64_t old = want;
	bool equal;

	if (likely(p)) {
		equal = host_cas(p, 8, &old, new);
	} else {
		bool exclusive = exclusive_begin(cpu, linear, 8);

		old = x86_read_for_write(cpu, linear, 8, cpu->mmu_index);
		equal = old == want;
		x86_write(cpu, linear, equal ? new : old, 8, cpu->mmu_index);
		if (exclusive)
			cpu->ops->exclusive_end(cpu);
	}
	commit_pair(cpu, i, equal, 4, (uint32_t)old, old >> 32);
}

/* Its operand must be aligned, so it never crosses a page. */
static void exec_cmpxchg16b(struct x86_cpu *cpu, const struct interp_insn *i)
{
	/* Misaligned is #GP(0), not #AC. */
	uint64_t linear = x86_linear(cpu, i->seg, interp_ea(cpu, i), 16, true);
	uint64_t want[2] = { cpu->gpr[X86_RAX], cpu->gpr[X86_RDX] }, old[2] = { want[0], want[1] };
	uint64_t new[2] = { cpu->gpr[X86_RBX], cpu->gpr[X86_RCX] };
	bool equal;
	void *p;

	if (linear & 15)
		x86_raise_gp0(cpu);
	p = x86_host_write_ptr(cpu, linear, 16, cpu->mmu_index);
	if (likely(p)) {
		equal = host_cas16(p, old, new[0], new[1]);
	} else {
		bool exclusive = exclusive_begin(cpu, linear, 16);

		old[0] = x86_read_for_write(cpu, linear, 8, cpu->mmu_index);
		old[1] = x86_read_for_write(cpu, linear + 8, 8, cpu->mmu_index);
		equal = old[0] == want[0] && old[1] == want[1];
		x86_write(cpu, linear, equal ? new[0] : old[0], 8, cpu->mmu_index);
		x86_write(cpu, linear + 8, equal ? new[1] : old[1], 8, cpu->mmu_index);
		if (exclusive)
			cpu->ops->exclusive_end(cpu);
	}
	commit_pair(cpu, i, equal, 8, old[0], old[1]);
}

bool interp_bind_cmpxchg8b(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			   const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_CX8, exec_cmpxchg8b);
}

bool interp_bind_cmpxchg16b(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			    const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_CX16, exec_cmpxchg16b);
}
