/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter's run loop. */
#include "interp/engine.h"

#include <errno.h>
#include <stdlib.h>

#include "base/stats.h"
#include "interp/cache.h"
#include "x86/event.h"
#include "x86/fpu.h"
#include "x86/io.h"

static void engine_destroy(struct x86_cpu *cpu)
{
	struct interp *in = interp_of(cpu);

	if (!in)
		return;
	if (cpu->tlb) {
		cpu->tlb->code_written = NULL;
		x86_tlb_unprotect_all_code(cpu);
	}
	interp_cache_destroy(in->cache);
	if (in->vector)
		interp_vector_destroy(in->vector);
	free(in);
	cpu->engine_data = NULL;
}

static int engine_create(struct x86_cpu *cpu)
{
	struct interp *in = calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	cpu->engine_data = in;
	in->cache = interp_cache_create();
	in->vector = interp_vector_create();
	if (!in->cache || !in->vector) {
		engine_destroy(cpu);
		return -ENOMEM;
	}
	interp_decoders_init(cpu, in);
	cpu->tlb->code_written = interp_cache_written;
	return 0;
}

static void engine_invalidate(struct x86_cpu *cpu)
{
	struct interp *in = interp_of(cpu);

	interp_cache_wipe(cpu, in->cache);
	interp_decoders_init(cpu, in);
}

/*
 * A block was left by unwinding: count what it completed. RIP is the address of the instruction that
 * did not complete, or behind the last one (HLT commits RIP and then leaves).
 */
static void count_partial(struct x86_cpu *cpu, struct interp *in)
{
	const struct interp_block *b = in->block;
	uint64_t done = cpu->rip - in->block_rip;
	unsigned n = 0;

	in->block = NULL;
	if (!b)
		return;
	for (uint64_t at = 0; n < b->count && at < done; n++)
		at += b->insn[n].len;
	STAT_ADD(cpu, INSNS, n);
}

/* One instruction (or one iteration of REP) with all that may happen around it. */
static void step(struct x86_cpu *cpu, struct interp *in)
{
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

/* Blocks one after the other while nothing asks for more than that. */
static void run_blocks(struct x86_cpu *cpu, struct interp *in)
{
	const struct interp_block *b = interp_block_find(cpu, in);

	in->abort_block = false;
	for (;;) {
		const struct interp_insn *i = b->insn, *end = i + b->count;

		in->block_rip = cpu->rip;
		in->block = b;
		do {
			i->exec(cpu, i);
			i++;
		} while (i != end && likely(!in->abort_block));
		STAT_ADD(cpu, INSNS, likely(i == end) ? b->count : (uint64_t)(i - b->insn));
		if (unlikely(cpu->io.logged))
			x86_io_finish(cpu);
		if (unlikely(in->abort_block || atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
			break;
		b = interp_block_next(cpu, in, b);
	}
	in->block = NULL;
}

/* Back from the depth of an instruction. */
static enum x86_exit unwound(struct x86_cpu *cpu, struct interp *in, enum x86_unwind why)
{
	count_partial(cpu, in);
	in->stepping = false;
	x86_io_rewind(cpu);
	switch (why) {
	case X86_UNWIND_EXIT: return cpu->exit_reason;
	case X86_UNWIND_EVENT: x86_io_finish(cpu); return x86_deliver_event(cpu);
	default: return X86_EXIT_NONE;
	}
}

/* At an instruction boundary. An instruction that is half done must be finished before anything else. */
static enum x86_exit advance(struct x86_cpu *cpu, struct interp *in)
{
	enum x86_exit exit = X86_EXIT_NONE;

	if (unlikely(cpu->io.logged)) {
		step(cpu, in);
		return X86_EXIT_NONE;
	}
	if (atomic_load_explicit(&cpu->attention, memory_order_relaxed))
		exit = x86_poll(cpu);
	if (exit != X86_EXIT_NONE)
		return exit;
	if (unlikely(x86_needs_stepping(cpu)))
		step(cpu, in);
	else
		run_blocks(cpu, in);
	return X86_EXIT_NONE;
}

static enum x86_exit engine_run(struct x86_cpu *cpu, bool once)
{
	struct interp *in = interp_of(cpu);
	enum x86_exit exit = X86_EXIT_NONE;
	int why;

	/* The client moved RIP: the instruction will not be finished. */
	if (cpu->io.logged && cpu->io.rip != cpu->rip)
		x86_io_finish(cpu);
	x86_io_rewind(cpu);
	in->block = NULL;
	cpu->unwind_valid = true;
	why = setjmp(cpu->unwind);
	if (why)
		exit = unwound(cpu, in, (enum x86_unwind)why);
	else if (!cpu->io.logged)
		exit = x86_poll(cpu);
	if (once && exit == X86_EXIT_NONE) {
		/* An exception that was delivered completes an instruction, too. */
		if (why != X86_UNWIND_EVENT)
			step(cpu, in);
		exit = X86_EXIT_INSN_DONE;
	}
	while (exit == X86_EXIT_NONE)
		exit = advance(cpu, in);
	x86_fpu_put(cpu);
	cpu->unwind_valid = false;
	return exit;
}

const struct tz_engine_ops interp_engine = {
	.name = "interp",
	.vcpu_create = engine_create,
	.vcpu_destroy = engine_destroy,
	.run = engine_run,
	.invalidate = engine_invalidate,
};
