/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors and the instructions that load or examine them (SDM 3A 3.4.5, 3.5, 5.6, 5.10). */
#include "x86/access.h"
#include "x86/exception.h"
#include "x86/segment.h"
#include "x86/segment_internal.h"

#define DESC_ACCESS_BYTE 5
#define DESC_ACCESSED BIT64(40)
#define DESC_BUSY 0x02u

/* In long mode LDT, TSS and call gate descriptors have 16 bytes (SDM 3A table 3-2). */
static bool desc_is_wide(const struct x86_cpu *cpu, uint64_t lo)
{
	unsigned type = (lo >> 40) & (X86_AR_S | X86_AR_TYPE);

	return cpu->long_mode &&
	       (type == X86_SYS_LDT || type == X86_SYS_TSS || type == X86_SYS_TSS_BUSY || type == X86_SYS_CALL);
}

bool x86_desc_fetch(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *d)
{
	const struct x86_seg *ldt = &cpu->seg[X86_LDTR];
	bool local = sel & 4;
	uint64_t base = local ? ldt->base : cpu->gdtr.base;
	uint32_t limit = local ? ldt->limit : cpu->gdtr.limit;
	uint32_t at = sel & ~7u;
	unsigned mmu = x86_mmu_system(cpu);

	if ((local && (ldt->ar & X86_AR_UNUSABLE)) || at + 7 > limit)
		return false;
	d->gva = x86_system_address(cpu, base + at);
	d->lo = x86_read64_mmu(cpu, d->gva, mmu);
	d->hi = 0;
	if (desc_is_wide(cpu, d->lo)) {
		if (at + 15 > limit)
			return false;
		d->hi = x86_read64_mmu(cpu, d->gva + 8, mmu);
	}
	return true;
}

void x86_desc_read(struct x86_cpu *cpu, uint16_t sel, enum x86_vector vector, uint32_t ext, struct x86_desc *d)
{
	if (!x86_desc_fetch(cpu, sel, d))
		x86_raise_error(cpu, vector, (sel & ~3u) | ext);
}

void x86_desc_to_seg(const struct x86_desc *d, uint16_t sel, struct x86_seg *seg)
{
	uint32_t limit = (d->lo & 0xffff) | (d->lo >> 32 & 0xf0000);

	seg->sel = sel;
	seg->ar = x86_desc_ar(d);
	seg->limit = seg->ar & X86_AR_G ? limit << 12 | 0xfff : limit;
	seg->base = (d->lo >> 16 & 0xffffff) | (d->lo >> 56) << 24 | d->hi << 32;
}

static void access_byte_update(struct x86_cpu *cpu, uint64_t gva, uint8_t set, uint8_t clear)
{
	unsigned mmu = x86_mmu_system(cpu);
	uint8_t *p = x86_host_write_ptr(cpu, gva, 1, mmu);

	if (!p) {
		uint8_t old = (uint8_t)x86_read_for_write(cpu, gva, 1, mmu);

		x86_write8_mmu(cpu, gva, (old | set) & ~clear, mmu);
		return;
	}
	if (set)
		__atomic_fetch_or(p, set, __ATOMIC_SEQ_CST);
	if (clear)
		__atomic_fetch_and(p, (uint8_t)~clear, __ATOMIC_SEQ_CST);
}

void x86_desc_set_accessed(struct x86_cpu *cpu, struct x86_desc *d)
{
	if (d->lo & DESC_ACCESSED)
		return;
	access_byte_update(cpu, d->gva + DESC_ACCESS_BYTE, X86_AR_ACCESSED, 0);
	d->lo |= DESC_ACCESSED;
}

void x86_desc_set_busy(struct x86_cpu *cpu, uint64_t gva, bool busy)
{
	access_byte_update(cpu, gva + DESC_ACCESS_BYTE, busy ? DESC_BUSY : 0, busy ? 0 : DESC_BUSY);
}

/* ---- MOV Sreg and its kin ---- */

struct x86_seg x86_seg_real(const struct x86_cpu *cpu, unsigned seg, uint16_t sel)
{
	struct x86_seg s = cpu->seg[seg];

	if (cpu->v8086) {
		s.ar = X86_AR_P | 3u << X86_AR_DPL_SHIFT | X86_AR_S | X86_AR_WRITABLE | X86_AR_ACCESSED;
		s.limit = 0xffff;
	} else if (s.ar & X86_AR_UNUSABLE) {
		s.ar = X86_AR_P | X86_AR_S | X86_AR_WRITABLE | X86_AR_ACCESSED;
		s.limit = 0xffff;
	}
	/* Otherwise real mode keeps limit and attributes: what "unreal mode" lives on. */
	s.sel = sel;
	s.base = (uint32_t)sel << 4;
	return s;
}

static struct x86_seg prepare_null(struct x86_cpu *cpu, unsigned seg, uint16_t sel)
{
	/* SS may be null in 64-bit mode below CPL 3, with RPL = CPL (SDM 2 MOV). */
	if (seg == X86_SS && (!x86_long64(cpu) || cpu->cpl == 3 || (sel & 3) != cpu->cpl))
		x86_raise_gp0(cpu);
	return x86_seg_null(sel, seg == X86_SS ? cpu->cpl : 0);
}

static void check_data_segment(struct x86_cpu *cpu, unsigned seg, uint16_t sel, uint32_t ar)
{
	unsigned rpl = sel & 3, dpl = X86_AR_DPL(ar);

	if (seg == X86_SS) {
		if (rpl != cpu->cpl || dpl != cpu->cpl || !x86_ar_is_writable_data(ar))
			x86_raise_error(cpu, X86_GP, sel & ~3u);
		if (!(ar & X86_AR_P))
			x86_raise_error(cpu, X86_SS_EXC, sel & ~3u);
		return;
	}
	if (!x86_ar_is_readable(ar) || (!x86_ar_is_conforming(ar) && (rpl > dpl || cpu->cpl > dpl)))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!(ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, sel & ~3u);
}

struct x86_seg x86_seg_prepare(struct x86_cpu *cpu, unsigned seg, uint16_t sel)
{
	struct x86_desc d;
	struct x86_seg s;

	if (!x86_protected(cpu))
		return x86_seg_real(cpu, seg, sel);
	if (x86_sel_null(sel))
		return prepare_null(cpu, seg, sel);
	x86_desc_read(cpu, sel, X86_GP, 0, &d);
	check_data_segment(cpu, seg, sel, x86_desc_ar(&d));
	x86_desc_set_accessed(cpu, &d);
	x86_desc_to_seg(&d, sel, &s);
	return s;
}

void x86_seg_commit(struct x86_cpu *cpu, unsigned seg, const struct x86_seg *value)
{
	cpu->seg[seg] = *value;
	if (seg == X86_SS)
		x86_mode_update(cpu);
}

struct x86_seg x86_stack_segment_prepare(struct x86_cpu *cpu, uint16_t sel, unsigned cpl, uint32_t ext)
{
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel))
		x86_raise_error(cpu, X86_TS, ext);
	x86_desc_read(cpu, sel, X86_TS, ext, &d);
	x86_desc_to_seg(&d, sel, &s);
	if ((sel & 3u) != cpl || X86_AR_DPL(s.ar) != cpl || !x86_ar_is_writable_data(s.ar))
		x86_raise_error(cpu, X86_TS, (sel & ~3u) | ext);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_SS_EXC, (sel & ~3u) | ext);
	x86_desc_set_accessed(cpu, &d);
	s.ar |= X86_AR_ACCESSED;
	return s;
}

/* ---- LLDT, LTR ---- */

void x86_load_ldt(struct x86_cpu *cpu, uint16_t sel)
{
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel)) {
		cpu->seg[X86_LDTR] = x86_seg_null(sel, 0);
		return;
	}
	if (sel & 4)
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	x86_desc_read(cpu, sel, X86_GP, 0, &d);
	x86_desc_to_seg(&d, sel, &s);
	if (!x86_ar_is_system(s.ar, X86_SYS_LDT) || !x86_desc_upper_ok(&d))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, sel & ~3u);
	if (cpu->long_mode && !x86_canonical_base(cpu, s.base))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	cpu->seg[X86_LDTR] = s;
}

void x86_load_tr(struct x86_cpu *cpu, uint16_t sel)
{
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel))
		x86_raise_gp0(cpu);
	if (sel & 4)
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	x86_desc_read(cpu, sel, X86_GP, 0, &d);
	x86_desc_to_seg(&d, sel, &s);
	if (!x86_ar_is_system(s.ar, X86_SYS_TSS) && (cpu->long_mode || !x86_ar_is_system(s.ar, X86_SYS_TSS16)))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!x86_desc_upper_ok(&d))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, sel & ~3u);
	if (cpu->long_mode && !x86_canonical_base(cpu, s.base))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	x86_desc_set_busy(cpu, d.gva, true);
	s.ar |= DESC_BUSY;
	cpu->seg[X86_TR] = s;
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* System types that LAR accepts; LSL takes those of them that have a limit (SDM 2 tables 3-53, 3-58). */
#define LAR_LEGACY                                                                                                     \
	(BIT32(X86_SYS_TSS16) | BIT32(X86_SYS_LDT) | BIT32(X86_SYS_TSS16_BUSY) | BIT32(X86_SYS_CALL16) |               \
	 BIT32(X86_SYS_TASK_GATE) | BIT32(X86_SYS_TSS) | BIT32(X86_SYS_TSS_BUSY) | BIT32(X86_SYS_CALL))
#define LAR_LONG (BIT32(X86_SYS_LDT) | BIT32(X86_SYS_TSS) | BIT32(X86_SYS_TSS_BUSY) | BIT32(X86_SYS_CALL))
#define GATES (BIT32(X86_SYS_CALL16) | BIT32(X86_SYS_TASK_GATE) | BIT32(X86_SYS_CALL))

/* The descriptor, if the selector is good, visible at CPL and RPL, and its system type is one of `types`. */
static bool examine(struct x86_cpu *cpu, uint16_t sel, uint32_t types, struct x86_desc *d)
{
	uint32_t ar;

	if (x86_sel_null(sel) || !x86_desc_fetch(cpu, sel, d))
		return false;
	ar = x86_desc_ar(d);
	if (!(ar & X86_AR_S) && (!(types >> (ar & X86_AR_TYPE) & 1) || !x86_desc_upper_ok(d)))
		return false;
	return x86_ar_is_conforming(ar) || (X86_AR_DPL(ar) >= cpu->cpl && X86_AR_DPL(ar) >= (sel & 3));
}

bool x86_lar(struct x86_cpu *cpu, uint16_t sel, uint32_t *value)
{
	struct x86_desc d;

	if (!examine(cpu, sel, cpu->long_mode ? LAR_LONG : LAR_LEGACY, &d))
		return false;
	*value = (uint32_t)(d.lo >> 32) & 0x00ffff00;
	return true;
}

bool x86_lsl(struct x86_cpu *cpu, uint16_t sel, uint32_t *value)
{
	struct x86_desc d;
	struct x86_seg s;

	if (!examine(cpu, sel, (cpu->long_mode ? LAR_LONG : LAR_LEGACY) & ~GATES, &d))
		return false;
	x86_desc_to_seg(&d, sel, &s);
	*value = s.limit;
	return true;
}

bool x86_verify(struct x86_cpu *cpu, uint16_t sel, bool write)
{
	struct x86_desc d;

	if (!examine(cpu, sel, 0, &d))
		return false;
	return write ? x86_ar_is_writable_data(x86_desc_ar(&d)) : x86_ar_is_readable(x86_desc_ar(&d));
}
