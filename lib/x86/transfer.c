/* SPDX-License-Identifier: Apache-2.0 */
/* Far JMP and CALL: direct, through call gates, task gates and TSSs (SDM 2 CALL, JMP; SDM 3A 5.8). */
#include "x86/access.h"
#include "x86/event.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

struct far_target {
	uint16_t sel;
	uint64_t offset;
	unsigned opsize;
	uint64_t next_rip;
	bool call;
};

static uint64_t truncate(uint64_t v, unsigned size)
{
	return size == 8 ? v : size == 4 ? (uint32_t)v : (uint16_t)v;
}

static void push_return(struct x86_cpu *cpu, struct x86_frame *f, const struct far_target *t)
{
	x86_frame_push(cpu, f, cpu->seg[X86_CS].sel);
	x86_frame_push(cpu, f, truncate(t->next_rip, f->width));
}

/* Same privilege: the return address, if any, goes on the current stack. */
static void enter_same(struct x86_cpu *cpu, const struct far_target *t, const struct x86_seg *cs, struct x86_desc *d,
		       uint64_t rip, unsigned width)
{
	struct x86_frame f;

	if (t->call) {
		x86_frame_begin(cpu, &f, width, 0);
		push_return(cpu, &f, t);
	}
	x86_check_target(cpu, cs, rip, 0);
	if (d)
		x86_desc_set_accessed(cpu, d);
	if (t->call) {
		x86_frame_probe(cpu, &f);
		x86_frame_write(cpu, &f);
		x86_stack_set(cpu, f.sp);
	}
	x86_commit_code(cpu, cs, cpu->cpl, rip);
	x86_mode_update(cpu);
}

static void enter_real(struct x86_cpu *cpu, const struct far_target *t)
{
	struct x86_seg cs = x86_seg_real(cpu, X86_CS, t->sel);

	enter_same(cpu, t, &cs, NULL, truncate(t->offset, t->opsize), t->opsize);
}

static void enter_code(struct x86_cpu *cpu, const struct far_target *t, struct x86_desc *d)
{
	uint32_t error = t->sel & ~3u;
	struct x86_seg cs;
	unsigned dpl;

	x86_desc_to_seg(d, t->sel, &cs);
	dpl = X86_AR_DPL(cs.ar);
	if (!x86_ar_is_code(cs.ar))
		x86_raise_error(cpu, X86_GP, error);
	if (cpu->long_mode && (cs.ar & X86_AR_L) && (cs.ar & X86_AR_DB))
		x86_raise_error(cpu, X86_GP, error);
	if (x86_ar_is_conforming(cs.ar) ? dpl > cpu->cpl : (t->sel & 3) > cpu->cpl || dpl != cpu->cpl)
		x86_raise_error(cpu, X86_GP, error);
	if (!(cs.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, error);
	enter_same(cpu, t, &cs, d, truncate(t->offset, t->opsize), t->opsize);
}

/* CALL through a gate to more privileged code: the stack comes from the TSS, parameters from the old one. */
static void call_inner(struct x86_cpu *cpu, const struct far_target *t, const struct x86_gate *g,
		       const struct x86_seg *cs, struct x86_desc *d)
{
	unsigned cpl = X86_AR_DPL(cs->ar);
	struct x86_tss_stack top = x86_tss_stack_read(cpu, cpl);
	struct x86_frame f;
	struct x86_seg ss;

	if (cpu->long_mode) {
		ss = x86_seg_null((uint16_t)cpl, cpl);
		x86_frame_begin_on(cpu, &f, &ss, top.sp, 8, cpl, 8, 0);
	} else {
		ss = x86_stack_segment_prepare(cpu, top.ss, cpl, 0);
		x86_frame_begin_on(cpu, &f, &ss, top.sp, ss.ar & X86_AR_DB ? 4 : 2, cpl, g->width, top.ss & ~3u);
	}
	x86_frame_push(cpu, &f, cpu->seg[X86_SS].sel);
	x86_frame_push(cpu, &f, truncate(cpu->gpr[X86_RSP], g->width));
	for (unsigned i = g->params; i-- > 0;)
		x86_frame_push(cpu, &f, x86_stack_peek(cpu, (int64_t)i * g->width, g->width));
	push_return(cpu, &f, t);
	x86_check_target(cpu, cs, g->offset, 0);
	x86_desc_set_accessed(cpu, d);
	x86_frame_probe(cpu, &f);
	x86_frame_write(cpu, &f);

	x86_commit_code(cpu, cs, cpl, g->offset);
	cpu->seg[X86_SS] = ss;
	x86_mode_update(cpu);
	x86_stack_set(cpu, f.sp);
}

static void enter_gate(struct x86_cpu *cpu, const struct far_target *t, const struct x86_desc *gate)
{
	struct x86_gate g = x86_gate_decode(cpu, gate);
	struct x86_desc d;
	struct x86_seg cs = x86_gate_code(cpu, g.sel, 0, &d);
	bool conforming = x86_ar_is_conforming(cs.ar);

	if (!conforming && X86_AR_DPL(cs.ar) < cpu->cpl) {
		if (!t->call) /* JMP never changes the CPL */
			x86_raise_error(cpu, X86_GP, g.sel & ~3u);
		call_inner(cpu, t, &g, &cs, &d);
		return;
	}
	enter_same(cpu, t, &cs, &d, g.offset, g.width);
}

/* The selector names a gate or a TSS. */
static void enter_system(struct x86_cpu *cpu, const struct far_target *t, const struct x86_desc *d)
{
	uint32_t ar = x86_desc_ar(d), error = t->sel & ~3u;
	enum x86_task_switch why = t->call ? X86_TASK_CALL : X86_TASK_JMP;
	enum x86_sys_type type = ar & X86_AR_TYPE;
	bool legal = type == X86_SYS_CALL || (!cpu->long_mode && (type == X86_SYS_CALL16 || type == X86_SYS_TASK_GATE ||
								  type == X86_SYS_TSS16 || type == X86_SYS_TSS));

	if (!legal || !x86_desc_upper_ok(d))
		x86_raise_error(cpu, X86_GP, error);
	if (X86_AR_DPL(ar) < cpu->cpl || X86_AR_DPL(ar) < (t->sel & 3u))
		x86_raise_error(cpu, X86_GP, error);
	if (!(ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, error);
	switch (type) {
	case X86_SYS_CALL16:
	case X86_SYS_CALL: enter_gate(cpu, t, d); break;
	case X86_SYS_TASK_GATE: x86_task_switch(cpu, (uint16_t)(d->lo >> 16), why, t->next_rip, false, 0); break;
	default: x86_task_switch(cpu, t->sel, why, t->next_rip, false, 0); break;
	}
}

static void far_transfer(struct x86_cpu *cpu, const struct far_target *t)
{
	struct x86_desc d;

	if (!x86_protected(cpu)) {
		enter_real(cpu, t);
		return;
	}
	if (x86_sel_null(t->sel))
		x86_raise_gp0(cpu);
	x86_desc_read(cpu, t->sel, X86_GP, 0, &d);
	if (x86_desc_ar(&d) & X86_AR_S)
		enter_code(cpu, t, &d);
	else
		enter_system(cpu, t, &d);
}

void x86_far_jump(struct x86_cpu *cpu, uint16_t sel, uint64_t offset, unsigned opsize, uint64_t next_rip)
{
	far_transfer(cpu, &(struct far_target){ .sel = sel, .offset = offset, .opsize = opsize, .next_rip = next_rip });
}

void x86_far_call(struct x86_cpu *cpu, uint16_t sel, uint64_t offset, unsigned opsize, uint64_t next_rip)
{
	far_transfer(cpu, &(struct far_target){
				  .sel = sel, .offset = offset, .opsize = opsize, .next_rip = next_rip, .call = true });
}
