/* SPDX-License-Identifier: Apache-2.0 */
/* Frames, gates and TSS stacks for transfers and interrupts: see transfer_internal.h. */
#include "x86/access.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

static unsigned stack_mmu(const struct x86_cpu *cpu, unsigned cpl)
{
	if (cpl == 3)
		return X86_MMU_USER;
	return (cpu->cr4 & X86_CR4_SMAP) && !(cpu->rflags & X86_AC) ? X86_MMU_KERNEL_SMAP : X86_MMU_KERNEL;
}

void x86_frame_begin_on(struct x86_cpu *cpu, struct x86_frame *f, const struct x86_seg *ss, uint64_t sp,
			unsigned sp_size, unsigned cpl, unsigned width, uint32_t error)
{
	f->ss = *ss;
	f->sp = sp_size == 8 ? sp : sp_size == 4 ? (uint32_t)sp : (uint16_t)sp;
	f->sp_size = sp_size;
	f->width = width;
	f->cpl = cpl;
	f->mmu = stack_mmu(cpu, cpl);
	f->count = 0;
	f->error = error;
}

void x86_frame_begin(struct x86_cpu *cpu, struct x86_frame *f, unsigned width, uint32_t error)
{
	x86_frame_begin_on(cpu, f, &cpu->seg[X86_SS], cpu->gpr[X86_RSP], cpu->stack_size, cpu->cpl, width, error);
}

void x86_frame_push(struct x86_cpu *cpu, struct x86_frame *f, uint64_t value)
{
	uint64_t sp = f->sp - f->width, gva = sp;

	if (f->sp_size == 8) {
		if (!x86_canonical(cpu, sp) || !x86_canonical(cpu, sp + f->width - 1))
			x86_raise_error(cpu, X86_SS_EXC, f->error);
	} else {
		sp = f->sp_size == 4 ? (uint32_t)sp : (uint16_t)sp;
		if ((f->ss.ar & X86_AR_UNUSABLE) || !x86_seg_in_limit(&f->ss, sp, f->width))
			x86_raise_error(cpu, X86_SS_EXC, f->error);
		gva = (uint32_t)(f->ss.base + sp);
	}
	if (f->cpl == 3 && cpu->cpl == 3)
		x86_check_align(cpu, gva, f->width);
	f->sp = sp;
	f->gva[f->count] = gva;
	f->value[f->count++] = value;
}

void x86_frame_probe(struct x86_cpu *cpu, const struct x86_frame *f)
{
	unsigned size = f->count * f->width;
	uint64_t first = f->gva[0], last = f->gva[f->count - 1];

	/* One probe where nothing wrapped: highest slot first, lowest last. */
	if (first >= last && first - last == size - f->width) {
		x86_probe_write(cpu, last, size, f->mmu);
		return;
	}
	for (unsigned i = 0; i < f->count; i++)
		x86_probe_write(cpu, f->gva[i], f->width, f->mmu);
}

void x86_frame_write(struct x86_cpu *cpu, const struct x86_frame *f)
{
	for (unsigned i = 0; i < f->count; i++)
		x86_write(cpu, f->gva[i], f->value[i], f->width, f->mmu);
}

/* ---- gates ---- */

struct x86_gate x86_gate_decode(const struct x86_cpu *cpu, const struct x86_desc *d)
{
	struct x86_gate g = {
		.sel = (uint16_t)(d->lo >> 16),
		.offset = (d->lo & 0xffff) | (d->lo >> 48) << 16,
		.params = d->lo >> 32 & 0x1f,
		/* Bit 3 of the type tells 32- from 16-bit gates; long mode has 64-bit ones only. */
		.width = !(d->lo >> 40 & 8) ? 2 : 4,
	};

	if (g.width == 2)
		g.offset &= 0xffff;
	if (cpu->long_mode) {
		g.width = 8;
		g.params = 0;
		g.offset |= d->hi << 32;
	}
	return g;
}

struct x86_seg x86_gate_code(struct x86_cpu *cpu, uint16_t sel, uint32_t ext, struct x86_desc *d)
{
	struct x86_seg s;

	if (x86_sel_null(sel))
		x86_raise_error(cpu, X86_GP, ext);
	x86_desc_read(cpu, sel, X86_GP, ext, d);
	x86_desc_to_seg(d, sel, &s);
	if (!x86_ar_is_code(s.ar) || X86_AR_DPL(s.ar) > cpu->cpl)
		x86_raise_error(cpu, X86_GP, (sel & ~3u) | ext);
	/* Long-mode gates lead to 64-bit code only (SDM 3A 5.8.3.1, 6.14.1). */
	if (cpu->long_mode && (s.ar & (X86_AR_L | X86_AR_DB)) != X86_AR_L)
		x86_raise_error(cpu, X86_GP, (sel & ~3u) | ext);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, (sel & ~3u) | ext);
	return s;
}

/* ---- stacks from the TSS ---- */

/* `size` bytes at `at` in the TSS; #TS(TR | ext) beyond its limit. */
static uint64_t tss_read(struct x86_cpu *cpu, uint32_t at, unsigned size, uint32_t ext)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];

	if ((tr->ar & X86_AR_UNUSABLE) || at + size - 1 > tr->limit)
		x86_raise_error(cpu, X86_TS, (tr->sel & ~3u) | ext);
	return x86_read(cpu, x86_system_address(cpu, tr->base + at), size, x86_mmu_system(cpu));
}

struct x86_tss_stack x86_tss_stack_read_ext(struct x86_cpu *cpu, unsigned cpl, uint32_t ext)
{
	struct x86_tss_stack s = { 0 };
	unsigned type = cpu->seg[X86_TR].ar & X86_AR_TYPE;

	if (cpu->long_mode) {
		s.sp = tss_read(cpu, 4 + 8 * cpl, 8, ext);
	} else if (type == X86_SYS_TSS || type == X86_SYS_TSS_BUSY) {
		s.ss = (uint16_t)tss_read(cpu, 8 + 8 * cpl, 2, ext);
		s.sp = tss_read(cpu, 4 + 8 * cpl, 4, ext);
	} else {
		s.ss = (uint16_t)tss_read(cpu, 4 + 4 * cpl, 2, ext);
		s.sp = tss_read(cpu, 2 + 4 * cpl, 2, ext);
	}
	return s;
}

uint64_t x86_tss_ist_read_ext(struct x86_cpu *cpu, unsigned ist, uint32_t ext)
{
	return tss_read(cpu, 0x1c + 8 * ist, 8, ext);
}

struct x86_tss_stack x86_tss_stack_read(struct x86_cpu *cpu, unsigned cpl)
{
	return x86_tss_stack_read_ext(cpu, cpl, 0);
}

uint64_t x86_tss_ist_read(struct x86_cpu *cpu, unsigned ist)
{
	return x86_tss_ist_read_ext(cpu, ist, 0);
}

/* ---- commit ---- */

void x86_check_target(struct x86_cpu *cpu, const struct x86_seg *cs, uint64_t rip, uint32_t error)
{
	if (!x86_code_holds(cpu, cs, rip))
		x86_raise_error(cpu, X86_GP, error);
}

void x86_commit_code(struct x86_cpu *cpu, const struct x86_seg *cs, unsigned cpl, uint64_t rip)
{
	cpu->seg[X86_CS] = *cs;
	if (x86_protected(cpu)) {
		cpu->seg[X86_CS].sel = (cs->sel & ~3) | cpl;
		cpu->seg[X86_CS].ar |= X86_AR_ACCESSED;
	}
	cpu->rip = rip;
}

bool x86_vendor_is_amd(const struct x86_cpu *cpu)
{
	for (unsigned i = 0; i < cpu->cpuid.count; i++) {
		const struct x86_cpuid_entry *e = &cpu->cpuid.entry[i];

		if (e->leaf == 0)
			return e->ebx == 0x68747541 /* "Auth"enticAMD */ || e->ebx == 0x6f677948 /* "Hygo"nGenuine */;
	}
	return false;
}
