/* SPDX-License-Identifier: Apache-2.0 */
/* The translator's run loop. */
#include "translate/engine.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include "base/stats.h"
#include "interp/cache.h"
#include "translate/block.h"
#include "translate/translate.h"
#include "x86/event.h"
#include "x86/fpu.h"
#include "x86/io.h"

#define HWCAP2_FSGSBASE BIT64(1)

/* ---- the GS base: the host's outside run(), the TLB inside ---- */

static _Atomic bool gs_direct; /* by RDGSBASE and WRGSBASE */

static void arch_prctl(long what, uint64_t value)
{
	long result = SYS_arch_prctl;

	__asm__ volatile("syscall" : "+a"(result) : "D"(what), "S"(value) : "rcx", "r11", "memory");
}

static uint64_t gs_swap(uint64_t base)
{
	uint64_t old = 0;

	if (likely(atomic_load_explicit(&gs_direct, memory_order_relaxed))) {
		__asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0xae, 0xc8" : "=a"(old)); /* rdgsbase rax */
		__asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0xae, 0xd8" : : "a"(base) : "memory");
	} else {
		arch_prctl(ARCH_GET_GS, (uint64_t)(uintptr_t)&old);
		arch_prctl(ARCH_SET_GS, base);
	}
	return old;
}

static void engine_destroy(struct x86_cpu *cpu)
{
	struct translate *t = translate_of(cpu);

	if (!t)
		return;
	if (cpu->tlb) {
		cpu->tlb->code_written = NULL;
		cpu->tlb->flushed = NULL;
		cpu->tlb->withheld = NULL;
		x86_tlb_unprotect_all_code(cpu);
	}
	translate_vm_leave(t);
	cpu->poll = NULL; /* until then others may write to it */
	translate_direct_destroy(t);
	translate_cache_destroy(t);
	interp_cache_destroy(t->interp.cache);
	if (t->interp.vector)
		interp_vector_destroy(t->interp.vector);
	translate_counters_destroy(t->counters);
	free(t->builder);
	free(t);
	cpu->engine_data = NULL;
}

static int engine_create(struct x86_cpu *cpu)
{
	struct translate *t = calloc(1, sizeof(*t));
	int err = -ENOMEM;

	if (!t)
		return err;
	translate_host_init();
	translate_trace_init();
	atomic_store_explicit(&gs_direct, (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0, memory_order_relaxed);
	cpu->engine_data = t;
	t->cpu = cpu;
	t->frame = (struct translate_frame *)cpu->tlb->engine;
	cpu->poll = &t->frame->poll;
	t->interp.cache = interp_cache_create();
	t->interp.vector = interp_vector_create();
	t->builder = calloc(1, sizeof(*t->builder));
	t->counters = translate_counters_create();
	if (t->interp.cache && t->interp.vector && t->builder && t->counters)
		err = translate_cache_create(t);
	translate_direct_create(t);
	if (!err)
		err = translate_vm_join(t);
	if (err) {
		engine_destroy(cpu);
		return err;
	}
	interp_decoders_init(cpu, &t->interp);
	cpu->tlb->code_written = translate_written;
	cpu->tlb->flushed = translate_flushed;
	cpu->tlb->withheld = translate_direct_withheld;
	return 0;
}

static void engine_invalidate(struct x86_cpu *cpu)
{
	struct translate *t = translate_of(cpu);

	interp_cache_wipe(cpu, t->interp.cache);
	interp_decoders_init(cpu, &t->interp);
	translate_wipe(t);
	translate_direct_invalidate(t);
}

/* ---- by interp ---- */

/* One instruction (or one iteration of REP) with all that may happen around it. */
void translate_step(struct x86_cpu *cpu, struct translate *t)
{
	struct interp *in = &t->interp;
	uint64_t rflags = cpu->rflags;
	uint8_t shadow = cpu->ev.shadow;
	const struct interp_insn *i;

	x86_step_begin(cpu);
	i = interp_block_find(cpu, in)->insn;
	in->block = NULL;
	in->stepping = true;
	i->exec(cpu, i);
	in->stepping = false;
	STAT_INC(cpu, INSNS);
	x86_io_finish(cpu);
	x86_step_end(cpu, rflags, shadow);
}

void translate_by_interp(struct x86_cpu *cpu, struct translate *t)
{
	struct interp *in = &t->interp;
	const struct interp_block *b = interp_block_find(cpu, in);
	const struct interp_insn *i = b->insn, *end = i + b->count;

	STAT_INC(cpu, TRANSLATE_INTERP_BLOCKS);
	in->abort_block = false;
	in->block_rip = cpu->rip;
	in->block = b;
	do {
		i->exec(cpu, i);
		STAT_INC(cpu, INSNS);
		i++;
	} while (i != end && likely(!in->abort_block));
	in->block = NULL;
	if (unlikely(cpu->io.logged))
		x86_io_finish(cpu);
}

/* ---- by translation ---- */

/* Translated code until something needs C's loop. */
static void run_translated(struct x86_cpu *cpu, struct translate *t)
{
	const void *code;

	/* Who asks for attention after this sees its flag kept. */
	if (unlikely(t->frame->poll))
		atomic_exchange(&t->frame->poll, 0);
	if (unlikely(atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
		t->frame->poll = 1;
	t->by_interp = false;
	if (translate_direct_wanted(cpu, t)) {
		translate_direct_run(cpu, t);
	} else {
		if (unlikely(t->visits))
			t->frame->poll = 1;
		code = translate_next(cpu, t, NULL);
		if (code)
			t->enter(cpu, code);
	}
	if (unlikely(cpu->io.logged))
		x86_io_finish(cpu);
	if (t->by_interp)
		translate_by_interp(cpu, t);
}

/* ---- the contract ---- */

void translate_settle(struct x86_cpu *cpu, struct translate *t)
{
	t->interp.block = NULL;
	t->interp.stepping = false;
	t->plain = false;
	/* HLT commits RIP and then leaves. */
	t->frame->insns += t->op_runs && cpu->rip != t->op_rip;
	translate_count_frame(t);
	t->op_runs = false;
}

/* Back from the depth of an instruction. */
static enum x86_exit unwound(struct x86_cpu *cpu, struct translate *t, enum x86_unwind why)
{
	translate_settle(cpu, t);
	x86_io_rewind(cpu);
	switch (why) {
	case X86_UNWIND_EXIT: return cpu->exit_reason;
	case X86_UNWIND_EVENT: x86_io_finish(cpu); return x86_deliver_event(cpu);
	default: return X86_EXIT_NONE;
	}
}

/* At an instruction boundary. An instruction that is half done must be finished before anything else. */
static enum x86_exit advance(struct x86_cpu *cpu, struct translate *t)
{
	enum x86_exit exit = X86_EXIT_NONE;

	if (unlikely(cpu->io.logged)) {
		translate_step(cpu, t);
		return X86_EXIT_NONE;
	}
	if (atomic_load_explicit(&cpu->attention, memory_order_relaxed))
		exit = x86_poll(cpu);
	if (exit != X86_EXIT_NONE)
		return exit;
	if (unlikely(x86_needs_stepping(cpu)))
		translate_step(cpu, t);
	else if (translate_translatable(cpu))
		run_translated(cpu, t);
	else
		translate_by_interp(cpu, t);
	return X86_EXIT_NONE;
}

uint64_t translate_run_begin(struct x86_cpu *cpu, struct translate *t)
{
	/* The client moved RIP: the instruction will not be finished. */
	if (cpu->io.logged && cpu->io.rip != cpu->rip)
		x86_io_finish(cpu);
	x86_io_rewind(cpu);
	/* The client may have written code. */
	if (!cpu->undisturbed) {
		t->epoch++;
		translate_jump_clear(t);
	}
	t->interp.block = NULL;
	return gs_swap((uint64_t)(uintptr_t)cpu->tlb);
}

void translate_run_end(uint64_t gs)
{
	gs_swap(gs);
}

static enum x86_exit engine_run(struct x86_cpu *cpu, bool once)
{
	struct translate *t = translate_of(cpu);
	enum x86_exit exit = X86_EXIT_NONE;
	uint64_t gs = translate_run_begin(cpu, t);
	int why;

	cpu->unwind_valid = true;
	why = setjmp(cpu->unwind);
	if (why)
		exit = unwound(cpu, t, (enum x86_unwind)why);
	else if (!cpu->io.logged)
		exit = x86_poll(cpu);
	if (once && exit == X86_EXIT_NONE) {
		/* An exception that was delivered completes an instruction, too. */
		if (why != X86_UNWIND_EVENT)
			translate_step(cpu, t);
		exit = X86_EXIT_INSN_DONE;
	}
	while (exit == X86_EXIT_NONE)
		exit = advance(cpu, t);
	translate_run_end(gs);
	x86_fpu_put(cpu);
	cpu->unwind_valid = false;
	return exit;
}

const struct tz_engine_ops translate_engine = {
	.name = "translate",
	.vcpu_create = engine_create,
	.vcpu_destroy = engine_destroy,
	.run = engine_run,
	.invalidate = engine_invalidate,
	.stats = translate_counters_read,
};
