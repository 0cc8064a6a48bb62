/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hardware task switch (SDM 3A chapter 7). Up to the commit point nothing has changed and faults
 * belong to the old task; behind it the new task's registers are in place and faults in its
 * selectors are its own (SDM 3A 7.3, steps 12 and 13).
 */
#include "x86/access.h"
#include "x86/control.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

#define TASK_FLAGS                                                                                                     \
	(X86_ARITH_FLAGS | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_VM | X86_AC | X86_VIF |         \
	 X86_VIP | X86_ID)

/* DR7: L0..L3 and LE belong to the task (SDM 3B 17.2.4). */
#define DR7_LOCAL UINT64_C(0x155)

/* Where things are in the two formats of a TSS (SDM 3A figures 7-2, 7-10). */
struct tss_layout {
	uint8_t size;    /* least bytes that a limit must hold */
	uint8_t slot;    /* width of IP, flags and the GPRs */
	uint8_t ip, gpr; /* flags lie between them */
	uint8_t seg;     /* the first selector */
	uint8_t seg_step, seg_count;
	uint8_t ldt;
};
static const struct tss_layout layout16 = { X86_TSS16_SIZE, 2, 0x0e, 0x12, 0x22, 2, 4, 0x2a };
static const struct tss_layout layout32 = { X86_TSS32_SIZE, 4, 0x20, 0x28, 0x48, 4, 6, 0x60 };
static const uint8_t seg_order[] = { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS };

#define TSS32_CR3 0x1cu
#define TSS32_TRAP 0x64u

/* The dynamic part of a TSS. */
struct task_image {
	uint32_t ip, flags, cr3;
	uint32_t gpr[8];
	uint16_t sel[X86_SEG_COUNT];
	bool trap;
};

static const struct tss_layout *layout_of(const struct x86_seg *tss)
{
	unsigned type = tss->ar & X86_AR_TYPE;

	return type == X86_SYS_TSS || type == X86_SYS_TSS_BUSY ? &layout32 : &layout16;
}

static uint64_t tss_address(const struct x86_cpu *cpu, const struct x86_seg *tss, unsigned at)
{
	return x86_system_address(cpu, tss->base + at);
}

static uint32_t tss_read(struct x86_cpu *cpu, const struct x86_seg *tss, unsigned at, unsigned size)
{
	return (uint32_t)x86_read(cpu, tss_address(cpu, tss, at), size, x86_mmu_system(cpu));
}

static void tss_write(struct x86_cpu *cpu, const struct x86_seg *tss, unsigned at, uint32_t value, unsigned size)
{
	x86_write(cpu, tss_address(cpu, tss, at), value, size, x86_mmu_system(cpu));
}

/* ---- before the commit point ---- */

static void check_new_tss(struct x86_cpu *cpu, const struct x86_task *t, struct x86_desc *d, struct x86_seg *tss)
{
	bool back = t->why == X86_TASK_IRET;
	enum x86_vector vector = back ? X86_TS : X86_GP;
	uint32_t error = (t->sel & ~3u) | t->ext;
	bool type_ok;

	if (x86_sel_null(t->sel) || (t->sel & 4))
		x86_raise_error(cpu, vector, error);
	x86_desc_read(cpu, t->sel, vector, t->ext, d);
	x86_desc_to_seg(d, t->sel, tss);
	/* An incoming task is available; the one that IRET goes back to is still busy. */
	type_ok = back ? x86_ar_is_system(tss->ar, X86_SYS_TSS_BUSY) || x86_ar_is_system(tss->ar, X86_SYS_TSS16_BUSY)
		       : x86_ar_is_system(tss->ar, X86_SYS_TSS) || x86_ar_is_system(tss->ar, X86_SYS_TSS16);
	if (!type_ok)
		x86_raise_error(cpu, vector, error);
	if (!(tss->ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, error);
	if (tss->limit < layout_of(tss)->size - 1u)
		x86_raise_error(cpu, X86_TS, error);
}

static void read_image(struct x86_cpu *cpu, const struct x86_seg *tss, struct task_image *m)
{
	const struct tss_layout *l = layout_of(tss);

	m->ip = tss_read(cpu, tss, l->ip, l->slot);
	m->flags = tss_read(cpu, tss, l->ip + l->slot, l->slot);
	for (unsigned i = 0; i < 8; i++)
		m->gpr[i] = tss_read(cpu, tss, l->gpr + i * l->slot, l->slot);
	for (unsigned i = 0; i < ARRAY_SIZE(seg_order); i++)
		m->sel[seg_order[i]] = i < l->seg_count ? (uint16_t)tss_read(cpu, tss, l->seg + i * l->seg_step, 2) : 0;
	m->sel[X86_LDTR] = (uint16_t)tss_read(cpu, tss, l->ldt, 2);
	m->cr3 = l == &layout32 ? tss_read(cpu, tss, TSS32_CR3, 4) : 0;
	m->trap = l == &layout32 && (tss_read(cpu, tss, TSS32_TRAP, 2) & 1);
}

/* All that the commit will write. */
static void probe_old(struct x86_cpu *cpu, const struct x86_task *t)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];
	const struct tss_layout *l = layout_of(tr);

	if (tr->limit < l->size - 1u)
		x86_raise_error(cpu, X86_TS, (tr->sel & ~3u) | t->ext);
	x86_probe_write(cpu, tss_address(cpu, tr, l->ip), l->ldt - l->ip, x86_mmu_system(cpu));
}

/* ---- the commit ---- */

static void save_state(struct x86_cpu *cpu, const struct x86_task *t)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];
	const struct tss_layout *l = layout_of(tr);
	uint64_t flags = t->why == X86_TASK_IRET ? t->flags & ~X86_NT : t->flags;

	tss_write(cpu, tr, l->ip, (uint32_t)t->next_rip, l->slot);
	tss_write(cpu, tr, l->ip + l->slot, (uint32_t)flags, l->slot);
	for (unsigned i = 0; i < 8; i++)
		tss_write(cpu, tr, l->gpr + i * l->slot, (uint32_t)cpu->gpr[i], l->slot);
	for (unsigned i = 0; i < l->seg_count; i++)
		tss_write(cpu, tr, l->seg + i * l->seg_step, cpu->seg[seg_order[i]].sel, 2);
}

/* Registers and bare selectors: the segments are unusable until load_segments() has qualified them. */
static void load_registers(struct x86_cpu *cpu, const struct x86_task *t, const struct task_image *m)
{
	bool nested = t->why == X86_TASK_CALL || t->why == X86_TASK_GATE;
	unsigned cpl = m->flags & X86_VM ? 3 : m->sel[X86_CS] & 3;

	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = m->gpr[i];
	cpu->rip = m->ip;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		if (i != X86_TR)
			cpu->seg[i] = x86_seg_null(m->sel[i], cpl);
	cpu->cr0 |= X86_CR0_TS;
	cpu->dr[7] &= ~DR7_LOCAL;
	x86_debug_changed(cpu);
	x86_write_rflags(cpu, m->flags | (nested ? X86_NT : 0), TASK_FLAGS);
	x86_mode_update(cpu);
}

/* ---- in the new task ---- */

static void load_ldt(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & ~3u) | ext;
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel))
		return;
	if (sel & 4)
		x86_raise_error(cpu, X86_TS, error);
	x86_desc_read(cpu, sel, X86_TS, ext, &d);
	x86_desc_to_seg(&d, sel, &s);
	if (!x86_ar_is_system(s.ar, X86_SYS_LDT) || !(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_TS, error);
	cpu->seg[X86_LDTR] = s;
}

static void load_code(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & ~3u) | ext;
	unsigned rpl = sel & 3;
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel))
		x86_raise_error(cpu, X86_TS, error);
	x86_desc_read(cpu, sel, X86_TS, ext, &d);
	x86_desc_to_seg(&d, sel, &s);
	if (!x86_ar_is_code(s.ar) || (x86_ar_is_conforming(s.ar) ? X86_AR_DPL(s.ar) > rpl : X86_AR_DPL(s.ar) != rpl))
		x86_raise_error(cpu, X86_TS, error);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, error);
	x86_desc_set_accessed(cpu, &d);
	s.ar |= X86_AR_ACCESSED;
	cpu->seg[X86_CS] = s;
}

static void load_data(struct x86_cpu *cpu, unsigned seg, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & ~3u) | ext;
	struct x86_desc d;
	struct x86_seg s;

	if (x86_sel_null(sel))
		return;
	x86_desc_read(cpu, sel, X86_TS, ext, &d);
	x86_desc_to_seg(&d, sel, &s);
	if (!x86_ar_is_readable(s.ar))
		x86_raise_error(cpu, X86_TS, error);
	if (!x86_ar_is_conforming(s.ar) && (X86_AR_DPL(s.ar) < cpu->cpl || X86_AR_DPL(s.ar) < (sel & 3u)))
		x86_raise_error(cpu, X86_TS, error);
	if (!(s.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, error);
	x86_desc_set_accessed(cpu, &d);
	s.ar |= X86_AR_ACCESSED;
	cpu->seg[seg] = s;
}

static void load_segments(struct x86_cpu *cpu, const struct task_image *m, uint32_t ext)
{
	load_ldt(cpu, m->sel[X86_LDTR], ext);
	if (cpu->v8086) {
		for (unsigned i = X86_ES; i <= X86_GS; i++)
			cpu->seg[i] = x86_seg_real(cpu, i, m->sel[i]);
	} else {
		load_code(cpu, m->sel[X86_CS], ext);
		cpu->seg[X86_SS] = x86_stack_segment_prepare(cpu, m->sel[X86_SS], cpu->cpl, ext);
		x86_mode_update(cpu);
		load_data(cpu, X86_DS, m->sel[X86_DS], ext);
		load_data(cpu, X86_ES, m->sel[X86_ES], ext);
		load_data(cpu, X86_FS, m->sel[X86_FS], ext);
		load_data(cpu, X86_GS, m->sel[X86_GS], ext);
	}
	x86_mode_update(cpu);
}

static void push_error(struct x86_cpu *cpu, const struct x86_task *t, unsigned width)
{
	struct x86_frame f;

	x86_frame_begin(cpu, &f, width, t->ext);
	x86_frame_push(cpu, &f, t->error);
	x86_frame_probe(cpu, &f);
	x86_frame_write(cpu, &f);
	x86_stack_set(cpu, f.sp);
}

void x86_task_enter(struct x86_cpu *cpu, const struct x86_task *t)
{
	bool nested = t->why == X86_TASK_CALL || t->why == X86_TASK_GATE, back = t->why == X86_TASK_IRET;
	struct x86_seg tss;
	struct x86_desc d, old;
	struct task_image next;
	bool clear_old;

	check_new_tss(cpu, t, &d, &tss);
	read_image(cpu, &tss, &next);
	probe_old(cpu, t);
	clear_old = !nested && x86_desc_fetch(cpu, cpu->seg[X86_TR].sel, &old);
	if (clear_old)
		x86_probe_write(cpu, old.gva, 8, x86_mmu_system(cpu));
	if (nested)
		x86_probe_write(cpu, tss.base, 2, x86_mmu_system(cpu));
	if (!back)
		x86_probe_write(cpu, d.gva, 8, x86_mmu_system(cpu));

	if (clear_old)
		x86_desc_set_busy(cpu, old.gva, false);
	save_state(cpu, t);
	if (nested)
		tss_write(cpu, &tss, 0, cpu->seg[X86_TR].sel, 2);
	if (!back)
		x86_desc_set_busy(cpu, d.gva, true);
	tss.ar |= X86_SYS_TSS16_BUSY & ~X86_SYS_TSS16; /* the busy bit */
	cpu->seg[X86_TR] = tss;
	load_registers(cpu, t, &next);

	if (layout_of(&tss) == &layout32 && x86_paging(cpu))
		x86_write_cr3(cpu, next.cr3);
	load_segments(cpu, &next, t->ext);
	if (t->has_error)
		push_error(cpu, t, layout_of(&tss)->slot);
	x86_check_target(cpu, &cpu->seg[X86_CS], cpu->rip, t->ext);
	cpu->ev.no_step = true;
	if (next.trap) {
		cpu->ev.db_pending |= X86_DR6_BT;
		x86_cpu_attention(cpu, X86_ATT_TRAP);
	}
}

void x86_task_switch(struct x86_cpu *cpu, uint16_t tss_sel, enum x86_task_switch why, uint64_t next_rip, bool has_error,
		     uint32_t error)
{
	x86_task_enter(cpu, &(struct x86_task){ .sel = tss_sel,
						.why = why,
						.next_rip = next_rip,
						.flags = cpu->rflags,
						.has_error = has_error,
						.error = error });
}
