/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `lockstep` engine, inside: `translate` and `interp` run the same guest code from the same state, and must leave
 * the same state behind.
 *
 * A stretch is some blocks in a row. `translate` runs it first, on copies of the pages that it touches (memory.c),
 * until it has done enough instructions, or comes to one that must happen once; it says how many it has completed. Then
 * `interp` runs as many, on copies made from the same bytes: what devices write meanwhile is seen by neither.
 * Registers, flags, vector state, the exception raised and all bytes of the pages written are compared, and what interp
 * wrote goes to memory in the order it was written. So a stretch happens once as seen from outside, and interp's result
 * is the one kept.
 *
 * Apart from that, once and not compared (by interp): what reads the time or a device or changes more than registers
 * and memory (lockstep_is_apart()), single steps, delivery of events, code that `translate` leaves to interp by the
 * block. Each side has its own TLB, interp cache and decoder state; a flush is a flush of both TLBs.
 *
 * Where they differ, nothing has been written to memory yet: the stretch runs again a block at a time, with code that
 * is translated anew, until the block is found (engine.c), and a report (report.c) ends the run.
 *
 * What is not the same by design: arithmetic flags that the manual leaves undefined (flags.c), and those that nobody
 * reads before they are overwritten: `translate` may have others of the latter at a fault, and between blocks, from
 * where each goes on with its own.
 *
 * One vCPU a VM: another one's writes between the two runs would be differences.
 * Thread: the vCPU's own, unless said otherwise.
 */
#ifndef TZ_LOCKSTEP_LOCKSTEP_H
#define TZ_LOCKSTEP_LOCKSTEP_H

#include "base/stats.h"
#include "interp/cache.h"
#include "translate/translate.h"

#define LOCKSTEP_STRETCH 600  /* instructions after which a stretch ends with the block */
#define LOCKSTEP_REP_MAX 4096 /* elements of REP string instructions in a stretch */
#define LOCKSTEP_PAGES 512
#define LOCKSTEP_PAGES_SPARE 64 /* of those: interp may touch more than translate has */
#define LOCKSTEP_HASH_BITS 10
#define LOCKSTEP_LOG 16384             /* writes, and */
#define LOCKSTEP_LOG_DATA (512u << 10) /* bytes written, whose order is kept */
#define LOCKSTEP_ENTRIES (X86_MMU_COUNT * X86_TLB_SIZE)
#define LOCKSTEP_TRACE 16
#define LOCKSTEP_DIFFERENCES 8
#define LOCKSTEP_RECENT 256

enum lockstep_side { SIDE_TRANSLATE, SIDE_INTERP, SIDE_COUNT };

/* ---- memory.c: the pages a stretch touches ---- */

struct lockstep_page {
	uint64_t gpa;
	uint8_t *real;
	uint16_t next;            /* in its hash chain, + 1 */
	bool has[SIDE_COUNT];     /* a copy */
	bool written[SIDE_COUNT]; /* perhaps */
	bool tables;              /* a walk set A or D in it, which a TLB entry would have spared */
};

struct lockstep_write {
	uint16_t page, offset;
	uint32_t size; /* bytes of `data` */
};

struct lockstep_memory {
	bool active; /* accesses go to copies */
	enum lockstep_side side;
	unsigned count;
	struct lockstep_page page[LOCKSTEP_PAGES];
	uint16_t hash[1u << LOCKSTEP_HASH_BITS]; /* index + 1 */
	uint8_t *pool;                           /* of each page: as it was, then a copy a side */
	/* TLB entries that lead to copies. */
	unsigned touched_count[SIDE_COUNT];
	uint16_t touched[SIDE_COUNT][LOCKSTEP_ENTRIES];
	bool is_touched[SIDE_COUNT][LOCKSTEP_ENTRIES];
	/* What interp wrote, in order. */
	bool overflow; /* there was more */
	unsigned writes;
	uint32_t bytes;
	struct lockstep_write log[LOCKSTEP_LOG];
	uint8_t data[LOCKSTEP_LOG_DATA];
};

struct lockstep_memory_difference {
	uint64_t gpa, value[SIDE_COUNT];
};

/* ---- state.c: registers ---- */

struct lockstep_state {
	uint64_t gpr[16], rip, rflags;
	uint8_t mode[offsetof(struct x86_cpu, dr_exec) + 1 - offsetof(struct x86_cpu, cpl)];
	uint8_t system[offsetof(struct x86_cpu, msr) - offsetof(struct x86_cpu, seg)];
	uint64_t kernel_gs_base;
	uint8_t events[offsetof(struct x86_events, nmi_pending)];
};

/* A field of it, for the report. */
struct lockstep_field {
	const char *name;
	uint16_t offset; /* in struct x86_cpu */
	uint8_t size;
};

/* ---- engine.c ---- */

enum lockstep_phase { PHASE_APART, PHASE_TRANSLATE, PHASE_INTERP };

/* Why a side stopped. */
enum lockstep_end {
	END_STOP,    /* between two instructions, far enough */
	END_HOLD,    /* before one that runs apart */
	END_NO_ROOM, /* before one for whose pages there are no more copies */
	END_RESTART, /* the code at RIP was changing */
	END_EVENT,   /* the next one raised an exception */
	END_OUTSIDE, /* the next one wanted a device, or the time */
	END_EXIT,    /* the next one ends the run */
};

struct lockstep_result {
	enum lockstep_end end;
	uint64_t insns; /* completed */
	struct lockstep_state state;
	bool vector_changed;
	uint8_t vector[X86_XSAVE_AREA]; /* if so */
};

struct lockstep {
	struct x86_overlay overlay; /* of both TLBs, by which it is found */
	struct translate_guard guard;
	struct x86_platform_ops quiet; /* cpu->ops while a side runs */
	const struct x86_platform_ops *ops;
	struct translate *t;
	struct interp *interp;
	struct x86_tlb *tlb[SIDE_COUNT];
	uint64_t *stat, unseen[STAT_COUNT]; /* interp's side is not counted */

	enum lockstep_phase phase;
	enum lockstep_end end; /* of the side that runs */
	bool stop;             /* it shall, behind this instruction */
	bool apart;            /* the instruction at apart_rip */
	uint64_t apart_rip;
	uint64_t insns_before, insns_done; /* STAT_INSNS; interp's side */
	uint64_t rep_left;
	bool vector_known;              /* `vector` is what fpu.area has */
	uint8_t vector[X86_XSAVE_AREA]; /* at the start */
	uint32_t vector_size;
	uint64_t stale_flags; /* flags that translate has otherwise, and nobody will read */
	bool jumped;          /* interp's last instruction was a direct JMP */
	struct lockstep_state start;
	struct lockstep_result result[SIDE_COUNT];
	struct lockstep_memory memory;
	unsigned memory_differences;
	struct lockstep_memory_difference memory_difference[LOCKSTEP_DIFFERENCES];

	/* What interp ran in this stretch: instruction number n at n % LOCKSTEP_RECENT. */
	struct lockstep_insn {
		uint8_t raw[INTERP_INSN_MAX], len;
	} recent[LOCKSTEP_RECENT];

	/* Blocks that interp entered, latest last; a ring. */
	struct lockstep_trace {
		struct {
			uint64_t rip, insns;
		} block[LOCKSTEP_TRACE];
		unsigned next;
	} trace, trace_before;
	uint64_t next_rip; /* behind the instruction before, if that did not jump */

	/* After a difference: the stretch again, a block at a time. */
	bool replay, failed;
	struct lockstep_state first_start;
	uint8_t first_vector[X86_XSAVE_AREA];
	struct lockstep_result first[SIDE_COUNT];
	unsigned first_differences;
	struct lockstep_memory_difference first_difference[LOCKSTEP_DIFFERENCES];
	uint64_t replayed;

	/* For --stats. */
	_Atomic uint64_t stretches, compared, runs_apart;
};

static inline struct lockstep *lockstep_of(const struct x86_cpu *cpu)
{
	return container_of(cpu->tlb->overlay, struct lockstep, overlay);
}

/* ---- engine.c ---- */
/* Make one side's TLB and engine the vCPU's. */
void lockstep_choose(struct x86_cpu *cpu, struct lockstep *ls, enum lockstep_side side);

/* ---- memory.c ---- */
int lockstep_memory_create(struct lockstep *ls); /* 0, -ENOMEM */
void lockstep_memory_destroy(struct lockstep *ls);
/* What interp wrote goes to memory. */
void lockstep_memory_commit(struct x86_cpu *cpu, struct lockstep *ls);
/* Forget all copies. rewind: but not how the pages were at the start. */
void lockstep_memory_reset(struct lockstep *ls, bool rewind);
/* Fills ls->memory_difference; how many words differ. */
unsigned lockstep_memory_compare(struct lockstep *ls);
/* How interp's side sees the byte at `gpa`, with what it wrote and has not been committed. False: no memory. */
bool lockstep_memory_peek(struct x86_cpu *cpu, const struct lockstep *ls, uint64_t gpa, uint8_t *byte);

/* ---- state.c ---- */
void lockstep_state_save(struct lockstep_state *s, const struct x86_cpu *cpu);
void lockstep_state_restore(const struct lockstep_state *s, struct x86_cpu *cpu);
/* Are they the same, but for these arithmetic flags? */
bool lockstep_state_same(const struct lockstep_state *a, const struct lockstep_state *b, uint64_t flags);
uint64_t lockstep_state_field(const struct lockstep_state *s, const struct lockstep_field *f);
extern const struct lockstep_field lockstep_fields[]; /* name NULL at the end */
/* Of what fpu.area has: registers, not which components are in use. */
bool lockstep_vector_same(const struct lockstep *ls, const uint8_t *a, const uint8_t *b);

/* ---- flags.c ---- */
/* Those of `flags` that the stretch leaves undefined. */
uint64_t lockstep_undefined_flags(struct x86_cpu *cpu, const struct lockstep *ls, uint64_t flags);

/* ---- sides.c: a stretch on either engine ---- */
/* By its nature, and in this state. */
bool lockstep_is_apart(const struct interp_insn *i);
bool lockstep_hold(struct x86_cpu *cpu, const struct interp_insn *i);
bool lockstep_stop(struct x86_cpu *cpu);
void lockstep_fetch(struct x86_cpu *cpu, struct x86_tlb_entry *e);
void lockstep_run_translate(struct x86_cpu *cpu, struct lockstep *ls);
void lockstep_run_interp(struct x86_cpu *cpu, struct lockstep *ls);

/* ---- report.c ---- */
/* On stderr, and in cpu->error_text. Puts the FPU's state away. found: in a block of its own. */
void lockstep_report(struct x86_cpu *cpu, struct lockstep *ls, bool found);

#endif
