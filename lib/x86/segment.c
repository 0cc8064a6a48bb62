/* SPDX-License-Identifier: Apache-2.0 */
/* Segmentation: mode, logical to linear addresses, the stack, port permission. Descriptors are in descriptor.c. */
#include "x86/segment.h"

#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/exception.h"
#include "x86/segment_internal.h"

void x86_mode_update(struct x86_cpu *cpu)
{
	cpu->real_mode = !(cpu->cr0 & X86_CR0_PE);
	cpu->v8086 = !cpu->real_mode && (cpu->rflags & X86_VM);
	cpu->long_mode = (cpu->efer & X86_EFER_LMA) != 0;
	/* SS.DPL always equals the CPL (SDM 3C 24.4.1, note on SS), whatever the code segment's DPL and L are. */
	cpu->cpl = cpu->real_mode ? 0 : cpu->v8086 ? 3 : X86_AR_DPL(cpu->seg[X86_SS].ar);
	if (cpu->v8086) {
		cpu->code_size = cpu->stack_size = 2;
	} else if (cpu->long_mode && (cpu->seg[X86_CS].ar & X86_AR_L)) {
		cpu->code_size = cpu->stack_size = 8;
	} else {
		cpu->code_size = cpu->seg[X86_CS].ar & X86_AR_DB ? 4 : 2;
		cpu->stack_size = cpu->seg[X86_SS].ar & X86_AR_DB ? 4 : 2;
	}
	x86_mmu_index_update(cpu);
}

static bool sign_extended(uint64_t a, unsigned width)
{
	return (uint64_t)((int64_t)(a << (64 - width)) >> (64 - width)) == a;
}

bool x86_canonical(const struct x86_cpu *cpu, uint64_t a)
{
	return sign_extended(a, cpu->cr4 & X86_CR4_LA57 ? 57 : 48);
}

bool x86_canonical_base(const struct x86_cpu *cpu, uint64_t a)
{
	return sign_extended(a, x86_has(cpu, X86_FEAT_LA57) ? 57 : 48);
}

/* Do `size` bytes at `offset` lie within the segment (SDM 3A 5.3)? */
bool x86_seg_in_limit(const struct x86_seg *s, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;
	bool data = (s->ar & (X86_AR_S | X86_AR_CODE)) == X86_AR_S;

	if (data && (s->ar & X86_AR_EXPAND_DOWN))
		return offset > s->limit && last <= (s->ar & X86_AR_DB ? UINT32_MAX : 0xffff);
	return last <= s->limit;
}

static tz_noreturn void raise_segment(struct x86_cpu *cpu, unsigned seg)
{
	x86_raise_error(cpu, seg == X86_SS ? X86_SS_EXC : X86_GP, 0);
}

uint64_t x86_linear_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	const struct x86_seg *s = &cpu->seg[seg];

	if (x86_long64(cpu)) {
		uint64_t a = offset + (seg >= X86_FS ? s->base : 0);

		if (!x86_canonical(cpu, a) || !x86_canonical(cpu, a + size - 1))
			raise_segment(cpu, seg);
		return a;
	}
	/* Type checks are for protected mode; limits hold everywhere (SDM 3B 20.1.1, 20.2.1). */
	if (x86_protected(cpu)) {
		if (s->ar & X86_AR_UNUSABLE)
			raise_segment(cpu, seg);
		if (write ? (s->ar & X86_AR_CODE) || !(s->ar & X86_AR_WRITABLE)
			  : (s->ar & X86_AR_CODE) && !(s->ar & X86_AR_READABLE))
			raise_segment(cpu, seg);
	}
	if (!x86_seg_in_limit(s, offset, size))
		raise_segment(cpu, seg);
	return (uint32_t)(s->base + offset);
}

void x86_check_align(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
	/* Sizes that are no power of two align as their largest part: m16:32 to 4, m80 to 8 (SDM 3A table 6-7). */
	unsigned align = size ? 1u << (31 - __builtin_clz(size)) : 1;

	if (cpu->cpl == 3 && (cpu->cr0 & X86_CR0_AM) && (cpu->rflags & X86_AC) && (linear & (align - 1)))
		x86_raise_error(cpu, X86_AC_EXC, 0);
}

bool x86_code_holds(const struct x86_cpu *cpu, const struct x86_seg *cs, uint64_t rip)
{
	if (cpu->long_mode && (cs->ar & X86_AR_L))
		return x86_canonical(cpu, rip);
	return rip <= cs->limit;
}

void x86_check_rip(struct x86_cpu *cpu, uint64_t rip)
{
	if (!x86_code_holds(cpu, &cpu->seg[X86_CS], rip))
		x86_raise_gp0(cpu);
}

/* ---- the stack ---- */

static uint64_t stack_mask(const struct x86_cpu *cpu)
{
	return cpu->stack_size == 8 ? UINT64_MAX : cpu->stack_size == 4 ? UINT32_MAX : 0xffff;
}

uint64_t x86_stack_linear(struct x86_cpu *cpu, int64_t delta, unsigned size, bool write)
{
	uint64_t a = x86_linear(cpu, X86_SS, (cpu->gpr[X86_RSP] + (uint64_t)delta) & stack_mask(cpu), size, write);

	if (unlikely(cpu->rflags & X86_AC))
		x86_check_align(cpu, a, size);
	return a;
}

void x86_push(struct x86_cpu *cpu, uint64_t value, unsigned size)
{
	x86_write(cpu, x86_stack_linear(cpu, -(int64_t)size, size, true), value, size, cpu->mmu_index);
	x86_stack_adjust(cpu, -(int64_t)size);
}

uint64_t x86_stack_peek(struct x86_cpu *cpu, int64_t delta, unsigned size)
{
	return x86_read(cpu, x86_stack_linear(cpu, delta, size, false), size, cpu->mmu_index);
}

void x86_stack_set(struct x86_cpu *cpu, uint64_t sp)
{
	/* A 16-bit stack leaves the upper part of ESP alone; a 32-bit write clears the upper half of RSP. */
	if (cpu->stack_size == 2)
		cpu->gpr[X86_RSP] = (cpu->gpr[X86_RSP] & ~UINT64_C(0xffff)) | (uint16_t)sp;
	else
		cpu->gpr[X86_RSP] = sp & stack_mask(cpu);
}

void x86_stack_adjust(struct x86_cpu *cpu, int64_t delta)
{
	x86_stack_set(cpu, cpu->gpr[X86_RSP] + (uint64_t)delta);
}

/* ---- port permission ---- */

void x86_check_io(struct x86_cpu *cpu, uint16_t port, unsigned len)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];
	unsigned iopl = (cpu->rflags & X86_IOPL) >> X86_IOPL_SHIFT;
	unsigned type = tr->ar & X86_AR_TYPE;
	unsigned mmu = x86_mmu_system(cpu);
	uint32_t base, at;
	uint16_t bits;

	if (cpu->real_mode || (!cpu->v8086 && cpu->cpl <= iopl))
		return;
	/* Only a 32- or 64-bit TSS has a bitmap (SDM 1 19.5.2); two bytes are always read. */
	if ((tr->ar & X86_AR_UNUSABLE) || (type != X86_SYS_TSS_BUSY && type != X86_SYS_TSS) ||
	    tr->limit < X86_TSS32_SIZE - 1)
		x86_raise_gp0(cpu);
	base = x86_read16_mmu(cpu, x86_system_address(cpu, tr->base + X86_TSS_IO_BASE), mmu);
	at = base + port / 8;
	if (at + 1 > tr->limit)
		x86_raise_gp0(cpu);
	bits = x86_read16_mmu(cpu, x86_system_address(cpu, tr->base + at), mmu);
	if ((bits >> (port & 7)) & ((1u << len) - 1))
		x86_raise_gp0(cpu);
}
