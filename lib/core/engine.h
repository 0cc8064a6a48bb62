/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one contract between core and an execution engine. All engines run the same
 * struct x86_cpu; a vCPU may move from one to another between two run() calls.
 */
#ifndef TZ_CORE_ENGINE_H
#define TZ_CORE_ENGINE_H

#include "x86/cpu.h"

/* Bytes of memory for code that an engine makes, where it makes any. */
#define ENGINE_CODE_CACHE_MIN (UINT64_C(1) << 20)
#define ENGINE_CODE_CACHE_MAX (UINT64_C(1) << 30)

#define ENGINE_STATS_MAX 20
/* A counter of the engine's own, besides those of base/stats.def. */
struct engine_stat {
	const char *name; /* lasts as long as the vCPU */
	uint64_t value;
};

struct tz_engine_ops {
	const char *name; /* as in --accel */

	/* Per-vCPU state in cpu->engine_data. 0 or -errno. Thread: the creator's, vCPU not running. */
	int (*vcpu_create)(struct x86_cpu *cpu);
	void (*vcpu_destroy)(struct x86_cpu *cpu);

	/*
	 * Execute guest instructions until something needs core. Thread: the vCPU's own, signals
	 * that could return to guest code blocked. Polls cpu->attention at least at every block.
	 * once: return X86_EXIT_INSN_DONE after the instruction at RIP is complete (used to finish
	 * a restarted I/O instruction, and by lockstep).
	 * Returns: X86_EXIT_PIO, _MMIO (cpu->io.pending), _HLT (RIP behind it), _SHUTDOWN,
	 * _ATTENTION, _IRQ_WINDOW, _DEBUG, _INSN_DONE, _INTERNAL_ERROR. Never _NONE.
	 * On return the state is whole: registers committed, fpu put.
	 */
	enum x86_exit (*run)(struct x86_cpu *cpu, bool once);

	/* Memory slots, CPUID or state were replaced from outside: forget derived code. vCPU not running. */
	void (*invalidate)(struct x86_cpu *cpu);

	/* Counters of its own: fills up to max, returns how many. NULL: it has none. Thread: any. */
	unsigned (*stats)(struct x86_cpu *cpu, struct engine_stat *rows, unsigned max);
};

/* All engines, in the order `auto` prefers them; NULL-terminated (engine_list.c). */
extern const struct tz_engine_ops *const tz_engines[];
const struct tz_engine_ops *tz_engine_find(const char *name); /* NULL name: the default one */

#endif
