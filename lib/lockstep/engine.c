/* SPDX-License-Identifier: Apache-2.0 */
/* Stretches one after the other, and what happens between them. */
#include "lockstep/engine.h"

#include <errno.h>
#include <stdlib.h>

#include "base/stats.h"
#include "interp/engine.h"
#include "lockstep/lockstep.h"
#include "translate/engine.h"
#include "x86/event.h"
#include "x86/fpu.h"
#include "x86/io.h"

/* ---- platform ops while a side runs: nothing is asked of anybody ---- */

static tz_noreturn void outside(struct x86_cpu *cpu)
{
	lockstep_of(cpu)->end = END_OUTSIDE;
	longjmp(cpu->unwind, X86_UNWIND_RESTART);
}

static bool quiet_mmio_read(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	(void)gpa, (void)data, (void)len;
	outside(cpu);
}

static bool quiet_mmio_write(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned len)
{
	(void)gpa, (void)data, (void)len;
	outside(cpu);
}

static bool quiet_pio_read(struct x86_cpu *cpu, uint16_t port, void *data, unsigned len)
{
	(void)port, (void)data, (void)len;
	outside(cpu);
}

static bool quiet_pio_write(struct x86_cpu *cpu, uint16_t port, const void *data, unsigned len)
{
	(void)port, (void)data, (void)len;
	outside(cpu);
}

static bool quiet_irq_pending(struct x86_cpu *cpu)
{
	outside(cpu);
}

static int quiet_irq_ack(struct x86_cpu *cpu)
{
	outside(cpu);
}

static uint64_t quiet_tsc_read(struct x86_cpu *cpu)
{
	outside(cpu);
}

static void quiet_tsc_write(struct x86_cpu *cpu, uint64_t value)
{
	(void)value;
	outside(cpu);
}

static void quiet_cr8_changed(struct x86_cpu *cpu)
{
	outside(cpu);
}

static bool quiet_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value, bool *fault)
{
	(void)index, (void)value, (void)fault;
	outside(cpu);
}

static bool quiet_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool *fault)
{
	(void)index, (void)value, (void)fault;
	outside(cpu);
}

/* There is no other vCPU. */
static void quiet_exclusive(struct x86_cpu *cpu)
{
	(void)cpu;
}

static const struct x86_platform_ops quiet_ops = {
	.mmio_read = quiet_mmio_read,
	.mmio_write = quiet_mmio_write,
	.pio_read = quiet_pio_read,
	.pio_write = quiet_pio_write,
	.irq_pending = quiet_irq_pending,
	.irq_ack = quiet_irq_ack,
	.tsc_read = quiet_tsc_read,
	.tsc_write = quiet_tsc_write,
	.cr8_changed = quiet_cr8_changed,
	.msr_read = quiet_msr_read,
	.msr_write = quiet_msr_write,
	.exclusive_begin = quiet_exclusive,
	.exclusive_end = quiet_exclusive,
};

/* ---- the two sides of a vCPU ---- */

void lockstep_choose(struct x86_cpu *cpu, struct lockstep *ls, enum lockstep_side side)
{
	cpu->tlb = ls->tlb[side];
	cpu->engine_data = side == SIDE_TRANSLATE ? (void *)ls->t : ls->interp;
	cpu->stat = side == SIDE_TRANSLATE ? ls->stat : ls->unseen;
	ls->memory.side = side;
}

/* tlb->flushed of translate's TLB: what it forgets, interp's forgets. */
static void flushed(struct x86_cpu *cpu, enum x86_tlb_flush what, uint64_t gva)
{
	struct lockstep *ls = lockstep_of(cpu);

	translate_flushed(cpu, what, gva);
	cpu->tlb = ls->tlb[SIDE_INTERP];
	switch (what) {
	case X86_TLB_FLUSH_PAGE: x86_tlb_flush_page(cpu, GVA(gva)); break;
	case X86_TLB_FLUSH_NONGLOBAL: x86_tlb_flush_nonglobal(cpu); break;
	case X86_TLB_FLUSH_ALL: x86_tlb_flush_all(cpu); break;
	}
	cpu->tlb = ls->tlb[SIDE_TRANSLATE];
}

static int create_interp(struct x86_cpu *cpu, struct lockstep *ls)
{
	int err = x86_tlb_create(cpu);

	if (err) {
		cpu->tlb = ls->tlb[SIDE_TRANSLATE];
		return err;
	}
	ls->tlb[SIDE_INTERP] = cpu->tlb;
	cpu->tlb->overlay = &ls->overlay;
	cpu->engine_data = NULL;
	err = interp_engine.vcpu_create(cpu);
	ls->interp = interp_of(cpu);
	lockstep_choose(cpu, ls, SIDE_TRANSLATE);
	return err;
}

static void engine_destroy(struct x86_cpu *cpu)
{
	struct lockstep *ls;

	if (!cpu->tlb || !cpu->tlb->overlay)
		return;
	ls = lockstep_of(cpu);
	if (ls->tlb[SIDE_INTERP]) {
		lockstep_choose(cpu, ls, SIDE_INTERP);
		if (ls->interp)
			interp_engine.vcpu_destroy(cpu);
		x86_tlb_destroy(cpu);
	}
	lockstep_choose(cpu, ls, SIDE_TRANSLATE);
	if (ls->t)
		translate_engine.vcpu_destroy(cpu);
	cpu->engine_data = NULL;
	cpu->tlb->overlay = NULL;
	lockstep_memory_destroy(ls);
	free(ls);
}

static int engine_create(struct x86_cpu *cpu)
{
	struct lockstep *ls = calloc(1, sizeof(*ls));
	int err;

	if (!ls)
		return -ENOMEM;
	ls->quiet = quiet_ops;
	ls->ops = cpu->ops;
	ls->stat = cpu->stat;
	ls->tlb[SIDE_TRANSLATE] = cpu->tlb;
	ls->vector_size = x86_fpu_area_size(x86_fpu_supported_xcr0());
	ls->guard = (struct translate_guard){ lockstep_is_apart, lockstep_hold, lockstep_stop, lockstep_fetch };
	err = lockstep_memory_create(ls);
	if (err) {
		free(ls);
		return err;
	}
	cpu->tlb->overlay = &ls->overlay;
	cpu->count_insns = true;
	err = translate_engine.vcpu_create(cpu);
	if (!err) {
		ls->t = translate_of(cpu);
		ls->t->guard = &ls->guard;
		cpu->tlb->flushed = flushed;
		/* A second vCPU's writes would come between the two sides. */
		err = ls->t->next || ls->t->vm->vcpus != ls->t ? -EINVAL : create_interp(cpu, ls);
	}
	if (err)
		engine_destroy(cpu);
	return err;
}

static void engine_invalidate(struct x86_cpu *cpu)
{
	struct lockstep *ls = lockstep_of(cpu);

	translate_engine.invalidate(cpu);
	lockstep_choose(cpu, ls, SIDE_INTERP);
	interp_engine.invalidate(cpu);
	lockstep_choose(cpu, ls, SIDE_TRANSLATE);
}

/* ---- vector state ---- */

/* What the side that has just run made of fpu.area; it is as at the start again. */
static void take_vector(struct x86_cpu *cpu, struct lockstep *ls, struct lockstep_result *r)
{
	x86_fpu_put(cpu);
	r->vector_changed = !lockstep_vector_same(ls, cpu->fpu.area, ls->vector);
	if (r->vector_changed) {
		tz_copy(r->vector, cpu->fpu.area, ls->vector_size);
		tz_copy(cpu->fpu.area, ls->vector, ls->vector_size);
	}
}

static const uint8_t *vector_of(const struct lockstep *ls, const struct lockstep_result *r)
{
	return r->vector_changed ? r->vector : ls->vector;
}

/* ---- a stretch ---- */

static void stretch_begin(struct x86_cpu *cpu, struct lockstep *ls)
{
	x86_fpu_put(cpu);
	if (!ls->vector_known)
		tz_copy(ls->vector, cpu->fpu.area, ls->vector_size);
	ls->vector_known = true;
	lockstep_state_save(&ls->start, cpu);
	tz_copy(&ls->trace_before, &ls->trace, sizeof(ls->trace));
}

/* The same again, a block at a time, with code made anew. */
static void replay_begin(struct x86_cpu *cpu, struct lockstep *ls)
{
	ls->replay = true;
	ls->replayed = 0;
	ls->first_start = ls->start;
	tz_copy(ls->first_vector, ls->vector, ls->vector_size);
	for (enum lockstep_side side = 0; side < SIDE_COUNT; side++)
		ls->first[side] = ls->result[side];
	ls->first_differences = ls->memory_differences;
	tz_copy(ls->first_difference, ls->memory_difference, sizeof(ls->first_difference));
	lockstep_memory_reset(ls, true);
	lockstep_state_restore(&ls->start, cpu);
	ls->trace = ls->trace_before;
	ls->next_rip = UINT64_MAX;
	translate_wipe(ls->t);
}

/* The end: `found`, or it did not differ this time. */
static enum x86_exit replay_end(struct x86_cpu *cpu, struct lockstep *ls, bool found)
{
	if (!found) {
		ls->start = ls->first_start;
		tz_copy(ls->vector, ls->first_vector, ls->vector_size);
		for (enum lockstep_side side = 0; side < SIDE_COUNT; side++)
			ls->result[side] = ls->first[side];
		ls->memory_differences = ls->first_differences;
		tz_copy(ls->memory_difference, ls->first_difference, sizeof(ls->first_difference));
	}
	ls->failed = true;
	lockstep_report(cpu, ls, found);
	lockstep_memory_reset(ls, false);
	return X86_EXIT_INTERNAL_ERROR;
}

/* Flags in which translate may differ from interp at its end, because nobody will read them. */
static uint64_t unread_flags(const struct lockstep *ls, enum lockstep_end end)
{
	switch (end) {
	case END_HOLD:
	case END_RESTART: return 0;
	/* Interrupted in a block. */
	case END_EVENT:
	case END_OUTSIDE:
	case END_NO_ROOM: return X86_ARITH_FLAGS;
	/* At the end of one: it has looked at what is there, or been linked to it. */
	default: return ls->jumped || !ls->replay ? X86_ARITH_FLAGS : 0;
	}
}

/* Did both do the same? */
static bool same(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct lockstep_result *a = &ls->result[SIDE_TRANSLATE], *b = &ls->result[SIDE_INTERP];
	bool stops = a->end == END_EVENT || a->end == END_OUTSIDE || a->end == END_EXIT;
	uint64_t differ = (a->state.rflags ^ b->state.rflags) & X86_ARITH_FLAGS, undefined = 0;

	if (differ)
		undefined = lockstep_undefined_flags(cpu, ls, differ);
	/* Inside a block translate need not know that an instruction is in the shadow of STI. */
	if (a->end != END_STOP)
		a->state.events[offsetof(struct x86_events, shadow)] =
			b->state.events[offsetof(struct x86_events, shadow)];
	if (a->insns != b->insns || b->end != (stops ? a->end : END_STOP) ||
	    !lockstep_state_same(&a->state, &b->state, undefined | unread_flags(ls, a->end)) ||
	    ((a->vector_changed || b->vector_changed) && !lockstep_vector_same(ls, vector_of(ls, a), vector_of(ls, b))))
		return false;
	ls->stale_flags = a->end == END_STOP ? differ & ~undefined : 0;
	return true;
}

/* Both sides have come to the same point; go on behind it. */
static enum x86_exit stretch_end(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct lockstep_result *r = &ls->result[SIDE_INTERP];
	enum lockstep_end end = ls->result[SIDE_TRANSLATE].end;

	if (r->vector_changed) {
		tz_copy(cpu->fpu.area, r->vector, ls->vector_size);
		tz_copy(ls->vector, r->vector, ls->vector_size);
	}
	if (ls->replay) {
		ls->replayed += r->insns;
		/* Until all is done that was done the first time. */
		return ls->replayed >= ls->first[SIDE_TRANSLATE].insns || end != END_STOP ? replay_end(cpu, ls, false)
											  : X86_EXIT_NONE;
	}
	lockstep_memory_commit(cpu, ls);
	lockstep_memory_reset(ls, false);
	ls->stretches++;
	ls->compared += r->insns;
	if (end == END_EVENT)
		return x86_deliver_event(cpu);
	ls->apart = end == END_HOLD || end == END_OUTSIDE || end == END_EXIT || (end == END_NO_ROOM && !r->insns);
	ls->apart_rip = cpu->rip;
	return X86_EXIT_NONE;
}

static enum x86_exit interp_done(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct lockstep_result *r = &ls->result[SIDE_INTERP];

	ls->interp->block = NULL;
	ls->interp->stepping = false;
	r->end = ls->end;
	r->insns = ls->insns_done;
	lockstep_state_save(&r->state, cpu);
	take_vector(cpu, ls, r);
	ls->memory.active = false;
	ls->phase = PHASE_APART;
	cpu->ops = ls->ops;
	lockstep_choose(cpu, ls, SIDE_TRANSLATE);
	/* Code that changed under interp's eyes alone. */
	if (unlikely(r->end == END_RESTART)) {
		lockstep_memory_reset(ls, ls->replay);
		lockstep_state_restore(&ls->start, cpu);
		return X86_EXIT_NONE;
	}
	lockstep_memory_compare(ls);
	if (likely(same(cpu, ls) && !ls->memory_differences))
		return stretch_end(cpu, ls);
	if (ls->replay)
		return replay_end(cpu, ls, true);
	replay_begin(cpu, ls);
	return X86_EXIT_NONE;
}

static enum x86_exit translate_done(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct lockstep_result *r = &ls->result[SIDE_TRANSLATE];

	translate_settle(cpu, ls->t);
	r->end = ls->end;
	r->insns = cpu->stat[STAT_INSNS] - ls->insns_before;
	lockstep_state_save(&r->state, cpu);
	take_vector(cpu, ls, r);
	lockstep_state_restore(&ls->start, cpu);
	lockstep_choose(cpu, ls, SIDE_INTERP);
	lockstep_run_interp(cpu, ls);
	return interp_done(cpu, ls);
}

static enum x86_exit stretch(struct x86_cpu *cpu, struct lockstep *ls)
{
	stretch_begin(cpu, ls);
	lockstep_run_translate(cpu, ls);
	return translate_done(cpu, ls);
}

/* ---- what happens once ---- */

static void run_apart(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct interp *in = &ls->t->interp;
	const struct interp_insn *i = interp_block_find(cpu, in)->insn;

	in->block = NULL;
	in->abort_block = false;
	/* HLT commits RIP and then leaves: translate_settle() counts it. */
	ls->t->op_rip = cpu->rip;
	ls->t->op_runs = true;
	i->exec(cpu, i);
	ls->t->op_runs = false;
	STAT_INC(cpu, INSNS);
	x86_io_finish(cpu);
}

/* An instruction boundary. */
static enum x86_exit advance(struct x86_cpu *cpu, struct lockstep *ls)
{
	enum x86_exit exit = X86_EXIT_NONE;

	if (unlikely(ls->replay))
		return stretch(cpu, ls);
	if (!cpu->io.logged && atomic_load_explicit(&cpu->attention, memory_order_relaxed)) {
		ls->stale_flags = 0;
		exit = x86_poll(cpu);
		if (exit != X86_EXIT_NONE)
			return exit;
	}
	if (!cpu->io.logged && !x86_needs_stepping(cpu) && translate_translatable(cpu) &&
	    !(ls->apart && ls->apart_rip == cpu->rip))
		return stretch(cpu, ls);
	ls->apart = ls->vector_known = false;
	ls->stale_flags = 0;
	ls->next_rip = UINT64_MAX;
	ls->runs_apart++;
	if (cpu->io.logged || x86_needs_stepping(cpu))
		translate_step(cpu, ls->t);
	else if (translate_translatable(cpu))
		run_apart(cpu, ls);
	else
		translate_by_interp(cpu, ls->t);
	return X86_EXIT_NONE;
}

/* Back from the depth of an instruction. */
static enum x86_exit unwound(struct x86_cpu *cpu, struct lockstep *ls, enum x86_unwind why)
{
	x86_io_rewind(cpu);
	if (ls->phase != PHASE_APART) {
		if (why == X86_UNWIND_EVENT)
			ls->end = END_EVENT;
		else if (why == X86_UNWIND_EXIT)
			ls->end = END_EXIT;
		else if (ls->end == END_STOP)
			ls->end = END_RESTART;
		return ls->phase == PHASE_TRANSLATE ? translate_done(cpu, ls) : interp_done(cpu, ls);
	}
	translate_settle(cpu, ls->t);
	switch (why) {
	case X86_UNWIND_EXIT: return cpu->exit_reason;
	case X86_UNWIND_EVENT: x86_io_finish(cpu); return x86_deliver_event(cpu);
	default: return X86_EXIT_NONE;
	}
}

static enum x86_exit engine_run(struct x86_cpu *cpu, bool once)
{
	struct lockstep *ls = lockstep_of(cpu);
	enum x86_exit exit = X86_EXIT_NONE;
	uint64_t gs;
	int why;

	if (ls->failed)
		return X86_EXIT_INTERNAL_ERROR;
	gs = translate_run_begin(cpu, ls->t);
	ls->vector_known = ls->apart = false;
	ls->stale_flags = 0;
	cpu->unwind_valid = true;
	why = setjmp(cpu->unwind);
	if (why)
		exit = unwound(cpu, ls, (enum x86_unwind)why);
	else if (!cpu->io.logged)
		exit = x86_poll(cpu);
	if (once && exit == X86_EXIT_NONE) {
		/* An exception that was delivered completes an instruction, too. */
		if (why != X86_UNWIND_EVENT)
			translate_step(cpu, ls->t);
		exit = X86_EXIT_INSN_DONE;
	}
	while (exit == X86_EXIT_NONE)
		exit = advance(cpu, ls);
	translate_run_end(gs);
	x86_fpu_put(cpu);
	cpu->unwind_valid = false;
	return exit;
}

/* Thread: any. Whichever side runs, its TLB leads to the same struct. */
static unsigned engine_stats(struct x86_cpu *cpu, struct engine_stat *rows, unsigned max)
{
	struct lockstep *ls = lockstep_of(cpu);
	const struct engine_stat all[] = {
		{ "lockstep stretches", ls->stretches },
		{ "lockstep instructions compared", ls->compared },
		{ "lockstep runs not compared", ls->runs_apart },
	};
	unsigned n = 0;

	for (; n < max && n < ARRAY_SIZE(all); n++)
		rows[n] = all[n];
	return n;
}

const struct tz_engine_ops lockstep_engine = {
	.name = "lockstep",
	.vcpu_create = engine_create,
	.vcpu_destroy = engine_destroy,
	.run = engine_run,
	.invalidate = engine_invalidate,
	.stats = engine_stats,
};
