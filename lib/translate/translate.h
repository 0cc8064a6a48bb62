/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `translate` engine, inside: dynamic binary translation of 64-bit guest code, and of 32-bit code with flat
 * segments (translate_flat32()); everything else runs as `interp` blocks.
 *
 * A block is guest code inside one page, entered at its start, with side exits at its conditional jumps; it is found by
 * guest physical address and mode. Its code does not depend on the linear address: RIP is frame.rip_page + a constant.
 * Guest registers live in the host registers of the same name, but RSP (host r10) and R10, R11, R14, R15, which
 * stay on the host's stack: host r11 and r14 are scratch, r15 is the stack window, GS leads to the TLB (struct x86_tlb,
 * with struct translate_frame in its `engine`).
 *
 * Memory operands go through the TLB inline. Operands of a block that share a base register and lie close together
 * share one check ("window", window.c); those relative to RSP use one page's translation kept in r15 across blocks, one
 * for each context of the TLB. Where such a check fails for good (a page end in between, MMIO) the rest of the block
 * runs as another one, translated in TRANSLATE_MODE_PLAIN: each operand on its own.
 *
 * 32-bit code is made of the same pieces. Its addresses are computed with 32 bits, which zero-extends them, before they
 * are looked up. ES, CS, SS and DS need no check; FS and GS have their bases added, and `beyond` unless
 * they are flat but for that. Registers have the upper halves that interp gives them.
 *
 * Between blocks the arithmetic flags are in frame.flags as LAHF and SETO give them; inside a block they stay
 * in the host's where liveness lets them. Flags that are overwritten before anything reads them are not
 * kept: a fault in between shows older ones.
 *
 * What translated code cannot do it calls C for (a struct translate_record says what): an instruction without an
 * emitter, and one whose operand has no entry in the TLB after a fill, runs as its interp_insn. There is one slow path,
 * and it is precise because interp is.
 *
 * Which code is still valid: every vCPU of the VM withholds the write tags of pages that hold translated code of
 * any of them (translate_vm.pages), so each write is reported: to the writer at once, to the others through
 * their mailbox, which they empty before they next look for a block (SDM 3A 8.1.3 wants a serializing
 * instruction there, and those leave translated code). Writes past the TLB (the client's, DMA) are found as
 * blocks are compared with memory when their page's TLB entry is new.
 *
 * Thread: the vCPU's own, unless said otherwise.
 */
#ifndef TZ_TRANSLATE_TRANSLATE_H
#define TZ_TRANSLATE_TRANSLATE_H

#include "core/engine.h"
#include "interp/interp.h"
#include "x86/tlb.h"

#define TRANSLATE_CODE_SIZE (32u << 20) /* code and what is known about it, unless the client says otherwise */
#define TRANSLATE_BLOCK_INSNS 48
#define TRANSLATE_BLOCK_CODE (24u << 10) /* more than any block takes, in the code cache as in the arena */
#define TRANSLATE_HASH_BITS 16
#define TRANSLATE_PAGE_BITS 12
#define TRANSLATE_JUMP_BITS 14
#define TRANSLATE_JUMP_WAYS 4 /* a cache line */
#define TRANSLATE_JUMP_FACTOR 0x9e3779b1u
#define TRANSLATE_JUMP_USED 4096
#define TRANSLATE_JUMP_PAGES 4096
#define TRANSLATE_INSN_BITS 12
#define TRANSLATE_VICTIMS 256
#define TRANSLATE_ARENA_START 8 /* offset 0 is nothing */
#define TRANSLATE_MAILBOX 32

/* No canonical address is near it. */
#define TRANSLATE_NO_PAGE (UINT64_C(1) << 62)

/* Of the stack: HVA - GVA in the page, which can be written. */
struct translate_window {
	uint64_t page, window;
};

/* What translated code reaches through GS. */
struct translate_frame {
	uint64_t rip_page; /* linear address of the page it runs in */
	/* Since last counted, if instructions are counted: those begun, blocks entered, jumps found in the cache; */
	uint64_t insns, blocks, jumps;
	uint64_t checks, victims, stack_checks; /* TLB checks, those served by a victim, checks of the window */
	uint64_t fs_base, gs_base;
	/* 32-bit code adds it to addresses by FS, GS: 0, or so much that no page is there and interp sees to the
	 * access. */
	uint64_t fs_beyond, gs_beyond;
	uint64_t stack_page;                         /* GVA of the page that `window` is for */
	uint64_t window;                             /* HVA - GVA there; in r15 while translated code runs */
	struct translate_window kept[X86_MMU_COUNT]; /* of the other contexts, as good as this one */
	uint32_t window_mmu;                         /* this one's */
	uint64_t user_rest;                          /* TSC: SYSRET need not ask for direct execution before */
	uint64_t scratch;                            /* r11 while C is called */
	uint64_t value;                              /* what MOVS and CMPS have read */
	uint64_t gather_base;                        /* of a gather or scatter: what indices are added to, */
	uint8_t gather_index[64], gather_data[64];   /* its registers */
	_Atomic uint32_t poll;
	uint16_t flags; /* AL: OF, AH: as LAHF */
	uint8_t vector; /* cpu->fpu.live */
	uint8_t down;   /* DF */
	/* Where code at a linear address starts, by context of the TLB; none: translate_jump_none(). */
	struct translate_jump {
		uint64_t rip;
		const void *code;
	} jump[X86_MMU_COUNT][1u << TRANSLATE_JUMP_BITS];
	_Alignas(64) uint8_t nowhere[TZ_PAGE_SIZE];
	/* Entries that lost their place in the TLB to another page, good until a flush. Empty: tags as there. */
	struct x86_tlb_entry victim[X86_MMU_COUNT][X86_TLB_SIZE];
};
_Static_assert(sizeof(struct translate_frame) <= X86_TLB_ENGINE_SIZE, "must fit");

struct translate_block;
struct translate_counters;
struct builder;

enum translate_action {
	ACTION_CROSS,  /* the instruction lies in two pages, the second is not as it was: run it by interp, leave */
	ACTION_INTERP, /* run the instruction by interp; go on behind it if there is `resume` */
	ACTION_FILL,   /* fill the TLB and try again, else as ACTION_INTERP */
	ACTION_WINDOW, /* fill the TLB and try again, else leave for the plain block */
	ACTION_STACK,  /* likewise, for the stack window */
	ACTION_VECTOR, /* put the FPU's state into the registers */
	ACTION_EXIT,   /* to another block: the record starts a struct translate_exit */
	ACTION_FAR,    /* to another page: the record starts a struct translate_far */
	ACTION_JUMP,   /* to the linear address in frame.scratch */
};

/*
 * Why translated code calls C, and where it goes on. In the arena; its offset there follows the call. There are many:
 * code and other records are named by their offsets.
 */
struct translate_record {
	uint32_t block, resume; /* resume 0: it does not go on */
	int32_t disp;           /* of the checked operand, or of the target in the page */
	uint16_t offset;        /* of the instruction in the page */
	int16_t adjust;         /* of RSP, to undo what was done too early */
	uint8_t action, flags;  /* enum translate_action, TRANSLATE_RECORD_* */
	int8_t since;           /* instructions completed in the block and not counted yet; -1: one too many were */
	uint8_t align;          /* of the operand, which interp insists on */
};
#define TRANSLATE_RECORD_WRITE 1u      /* the instruction writes */
#define TRANSLATE_RECORD_WINDOW_W 2u   /* the check asks for the write tag */
#define TRANSLATE_RECORD_VECTOR 4u     /* the FPU's state must be in the registers behind it */
#define TRANSLATE_RECORD_PLAIN 16u     /* an exit to a plain block, in the middle of this one */
#define TRANSLATE_RECORD_SHADOW 32u    /* what follows runs before anything else looks for interrupts */
#define TRANSLATE_RECORD_PROTECTED 64u /* it is what follows: the shadow is still there if it does not get done */
#define TRANSLATE_RECORD_NO_FILL 8u    /* it may turn out to access nothing */

/* ACTION_FILL, _WINDOW, _STACK: the first byte checked, as in struct interp_insn; how many. */
struct translate_check {
	struct translate_record record;
	uint32_t retry, hit; /* where it starts, where it has succeeded */
	uint16_t span;
	uint8_t base, index, shift, seg, wide; /* wide: 64-bit addresses */
};

/* ACTION_EXIT: a direct jump to another block of the same page. To `stub` until it is linked. */
struct translate_exit {
	struct translate_record record;
	uint32_t next_in;     /* of the block it is linked to */
	uint32_t jump, last;  /* rel32s: of the branch itself, and behind the stub */
	uint32_t stub;        /* saves the flags, polls (if it goes back), then `last` */
	uint8_t saved, leave; /* behind it: where the flags are saved; where C is called */
	bool backward, linked;
};

/*
 * ACTION_FAR: a direct jump to another page. Linked, it goes straight to the block if it is run in the linear page it
 * was linked for; nobody has flushed the target's since. (stub, saved as above; `last` behind the check.)
 */
struct translate_far {
	struct translate_exit exit;
	uint32_t tag;  /* where that page's address is, or 1 */
	uint32_t to;   /* the block that has this one in its list, 0: none */
	uint32_t next; /* of those with a tag, by context */
	bool listed;
};

/* Bytes of the page that the translation depends on. */
struct translate_range {
	uint16_t offset, len;
	const uint8_t *source;
};

struct translate_block {
	uint64_t key; /* GPA and mode */
	const void *code;
	struct translate_block *hash_next, *page_next;
	struct translate_page *page;
	/* An instruction across a page end has one block for it and one that stands for its bytes in the second page.
	 */
	struct translate_block *partner;
	const uint8_t *cross_host;       /* the second page */
	struct translate_range range[2]; /* itself, and what was looked at behind its jump */
	uint32_t incoming;               /* exits that are linked to it */
	uint8_t cross;                   /* bytes in the second page; they follow range[0].source */
	bool needs_flags;                /* the arithmetic ones, at its start */
	bool dead;
};

#define TRANSLATE_PAGE_WORDS (TZ_PAGE_SIZE / 8)

struct translate_page {
	uint64_t gpa;
	struct translate_page *next;
	struct translate_block *blocks; /* those with bytes in a second page first */
	uint32_t epoch, flushes;        /* when its bytes were last compared */
	uint32_t inserted;              /* blocks, dead ones too */
	bool summed;
	uint64_t sum[2]; /* of the whole page, when all blocks were found to be made of it */
};

/* The translating vCPUs of one VM. */
struct translate_vm {
	struct mem *mem;
	struct translate_vm *next;
	struct translate *vcpus;
	_Atomic uint64_t pages[X86_TLB_CODE_WORDS]; /* nobody is given write tags, */
	uint64_t withheld[X86_TLB_CODE_WORDS];      /* nor has any left (under the registry's lock) */
};

/* Who runs translated code a piece at a time (lockstep). Thread: the vCPU's. */
struct translate_guard {
	bool (*apart)(const struct interp_insn *i);                     /* translated code leaves it to interp */
	bool (*hold)(struct x86_cpu *cpu, const struct interp_insn *i); /* leave before interp runs it? */
	bool (*stop)(struct x86_cpu *cpu);                              /* leave between two blocks? */
	void (*fetch)(struct x86_cpu *cpu, struct x86_tlb_entry *e);    /* code is about to be read through it */
};

struct translate {
	struct interp interp; /* first: interp's functions find it as cpu->engine_data */
	struct x86_cpu *cpu;
	struct translate_frame *frame;   /* in cpu->tlb */
	struct translate_direct *direct; /* or NULL */
	bool visits;                     /* user code is in a page that direct execution leaves to translation */
	struct translate_vm *vm;
	struct translate *next; /* of the VM */

	uint8_t *rw, *rx; /* the code cache, mapped twice: never writable and executable */
	uint32_t used, fixed, code_size;
	uint64_t page_key[TRANSLATE_PAGE_WORDS]; /* random, for the sums of pages */
	uint32_t cold, cold_start;               /* what blocks seldom run lies behind cold_start, up to `cold` */
	uint64_t wipes; /* since creation: what pointed to blocks before the last one is dead */
	uint8_t *arena;
	size_t arena_used, arena_size;
	struct translate_block *hash[1u << TRANSLATE_HASH_BITS];
	struct translate_page *page[1u << TRANSLATE_PAGE_BITS];
	_Atomic uint16_t owned[X86_TLB_CODE_WORDS * 64]; /* live blocks by hash of their page; others look at != 0 */
	/* Instructions that left translated code lately, decoded. */
	struct translate_decoded {
		const struct translate_record *record;
		struct interp_insn insn;
	} decoded[1u << TRANSLATE_INSN_BITS];

	/*
	 * The stack window's page when there is none; with it goes a window on frame.nowhere. Random and not canonical,
	 * as who has RSP there would use it.
	 */
	uint64_t no_stack;
	uint64_t mode[X86_MMU_COUNT]; /* of the jump caches */
	uint32_t epoch;               /* counts entries from the client, which may have changed code meanwhile */
	struct translate_jumps {
		uint16_t used[TRANSLATE_JUMP_USED];
		unsigned count;
		bool local, huge; /* pages that are not global, or larger than 2 MiB */
		uint32_t far;     /* linked struct translate_far */
		/* The pages they and those are in, as jump.c's page_key() has it; half full: any. */
		uint64_t page[TRANSLATE_JUMP_PAGES];
		uint32_t round; /* never 0: since `page` was made */
		unsigned pages;
	} jumps[X86_MMU_COUNT];
	uint16_t victim_used[TRANSLATE_VICTIMS]; /* with the context above the index */
	unsigned victim_count;
	uint64_t tlb_generation; /* of the stack window and the victims */
	struct builder *builder; /* room to translate a block in */
	bool plain;              /* the next block is one of TRANSLATE_MODE_PLAIN */
	bool by_interp;          /* the next one cannot be translated */
	uint64_t entered;        /* blocks, from C, since last counted */
	bool op_runs;            /* interp runs an instruction of a block, if they are counted: */
	uint64_t op_rip;         /* the one there */
	struct translate_counters *counters;
	const struct translate_guard *guard; /* or NULL; set before any code is made */

	/* Writes by other vCPUs to pages this one has code of. Under the registry's lock. */
	_Atomic unsigned mail_count;
	struct {
		uint64_t gpa;
		unsigned len;
	} mail[TRANSLATE_MAILBOX];

	/* Entry points of the fixed code (stubs.c), executable addresses. */
	void (*enter)(struct x86_cpu *cpu, const void *code);
	const uint8_t *stub_detour; /* call, with the record's offset behind the call */
	const uint8_t *stub_fill[X86_MMU_COUNT]
				[2]; /* likewise, behind a failed check (of the write tag); first the victims */
	const uint8_t *stub_stack[X86_MMU_COUNT]; /* likewise, behind one of the stack window */
	const uint8_t *stub_jump[X86_MMU_COUNT];  /* likewise, with RIP in r11: through the jump cache */
};

static inline struct translate *translate_of(struct x86_cpu *cpu)
{
	return cpu->engine_data;
}

/* The arena's offsets. */
static inline void *translate_at(const struct translate *t, uint32_t offset)
{
	return t->arena + offset;
}

static inline uint32_t translate_offset(const struct translate *t, const void *p)
{
	return (uint32_t)((const uint8_t *)p - t->arena);
}

/*
 * The rip of an empty place in the jump caches. A guest can jump to any address, this one, too: it is one that is not
 * looked for there (0 is in the places 0 to TRANSLATE_JUMP_WAYS - 1 alone, 1 is not in these).
 */
static inline uint64_t translate_jump_none(unsigned place)
{
	_Static_assert(TRANSLATE_JUMP_FACTOR >> (32 - TRANSLATE_JUMP_BITS) >= TRANSLATE_JUMP_WAYS, "places of 1");
	return place < TRANSLATE_JUMP_WAYS;
}

static inline int translate_lahf(uint64_t rflags)
{
	return (int)((rflags & 0xd5) << 8 | ((rflags >> 11) & 1));
}

/* ---- cache.c ---- */
int translate_cache_create(struct translate *t); /* 0, -ENOMEM */
void translate_cache_destroy(struct translate *t);
void translate_wipe(struct translate *t); /* forget all code; nothing of it may be running */
struct translate_block *translate_find(struct translate *t, uint64_t key);
void translate_insert(struct translate *t, struct translate_block *b);
void translate_link(struct translate *t, struct translate_exit *x, struct translate_block *to);
/* page: where the jump is run, linear. */
void translate_link_far(struct translate *t, struct translate_far *f, struct translate_block *to, uint64_t page);
void translate_unlink_far(struct translate *t, unsigned jumps); /* all of a context: mappings have changed */
/* Compare all blocks of a page with memory, drop those that differ. */
void translate_page_check(struct translate *t, struct translate_page *p, const uint8_t *host);
struct translate_page *translate_page_find(struct translate *t, uint64_t gpa);
void translate_insert_ghost(struct translate *t, struct translate_block *b, uint64_t gpa);
void *translate_alloc(struct translate *t, size_t size); /* from the arena; the caller has seen to room */
bool translate_room(const struct translate *t);
/* Drop the blocks that depend on these bytes. True if there were any. */
bool translate_drop(struct translate *t, uint64_t gpa, unsigned len);

/* ---- jump.c: where code at a linear address is ---- */
void translate_jump_create(struct translate *t);
/* e: the page's entry */
void translate_jump_insert(struct translate *t, unsigned mmu, uint64_t rip, const void *code,
			   const struct x86_tlb_info *e);
void translate_flushed(struct x86_cpu *cpu, enum x86_tlb_flush what, uint64_t gva);     /* tlb->flushed */
const void *translate_jump_find(const struct translate *t, unsigned mmu, uint64_t rip); /* NULL: unknown */
void translate_jump_clear(struct translate *t);
void translate_jump_clear_context(struct translate *t, unsigned mmu);

/* ---- victim.c: the second place of TLB entries ---- */
void translate_victim_clear(struct translate *t);
/* Room for another page in its place: the entry of `gva` moves to the victims. */
void translate_victim_save(struct translate *t, unsigned mmu, uint64_t gva);

/* ---- vm.c ---- */
int translate_vm_join(struct translate *t);
void translate_vm_leave(struct translate *t);
/* From now on no vCPU writes to the page unnoticed, while there are blocks and until _done(). May stop the others. */
void translate_protect(struct translate *t, uint64_t gpa);
void translate_protect_done(struct translate *t, uint64_t gpa);
void translate_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len); /* tlb->code_written */
void translate_mail_read(struct translate *t);

/* ---- counters.c ---- */
struct translate_counters *translate_counters_create(void); /* NULL: no memory */
void translate_counters_destroy(struct translate_counters *c);
void translate_count_fallback(struct translate *t, unsigned mnemonic);
void translate_count_call(struct translate *t, enum translate_action action);
void translate_count_frame(struct translate *t); /* what translated code has counted */
/* The most frequent ones. Names last as long as the counters. Thread: any. */
unsigned translate_counters_read(struct x86_cpu *cpu, struct engine_stat *rows, unsigned max);

/* ---- perf_map.c ---- */
/* For perf(1), where the environment asks for it: `code` is the translation of the guest's code at rip. */
bool translate_perf_map_init(void); /* is it wanted? */
void translate_perf_map(struct translate *t, const void *code, uint64_t rip);

/* ---- trace.c ---- */
/* For people, where the environment asks for it: the guest's and the host's code of a new block. */
void translate_trace_init(void);
void translate_trace(struct translate *t, const struct translate_block *b, uint64_t rip);

/* ---- stubs.c ---- */
struct emit;
void translate_stubs_create(struct translate *t);
/* To the linear address in r11 through the jump cache; r14 and the flags are lost. Returns rel32s to be bound to what
 * happens where it is unknown. */
void translate_emit_jump(const struct translate *t, struct emit *e, unsigned mmu, uint8_t *miss[2]);

/* ---- runtime.c ---- */
/* Called by translated code. Where to go on, or NULL: leave it. */
const void *translate_detour(struct x86_cpu *cpu, const uint8_t *site);
/*
 * The code for CS:RIP, made if need be; the frame is ready for it. NULL: run() has something else to do. Raises what
 * the fetch raises. x: the exit that leads there, to be linked, or NULL.
 */
const void *translate_next(struct x86_cpu *cpu, struct translate *t, struct translate_exit *x);
void translate_windows_forget(struct translate *t); /* those of the stack */
void translate_frame_leave(struct translate *t);    /* struct x86_cpu is the truth again */

/* ---- direct.c, direct_account.c: user code by the processor itself (direct.h) ---- */
void translate_direct_create(struct translate *t); /* t->direct, or it stays NULL: not on this host */
void translate_direct_destroy(struct translate *t);
void translate_direct_invalidate(struct translate *t); /* memory slots have changed */
void translate_direct_flushed(struct translate *t, enum x86_tlb_flush what, uint64_t gva);
/* tlb->withheld; also by others while it is stopped */
void translate_direct_withheld(struct x86_cpu *cpu, unsigned hash);
void translate_direct_written(struct translate *t, uint64_t gpa); /* code of that page has changed */
void translate_direct_wiped(struct translate *t);                 /* t->owned is empty */
/* Should the code at CS:RIP run that way? */
bool translate_direct_wanted(struct x86_cpu *cpu, struct translate *t);
void translate_direct_run(struct x86_cpu *cpu, struct translate *t);
bool translate_direct_eager(struct translate *t); /* user code goes on: does _wanted() want to be asked? */
bool translate_direct_visit(struct translate *t); /* t->visits: does it still? else that is not so any more */

/* ---- engine.c: what run() is made of ---- */
/* Around all of the following, in struct x86_cpu's unwinding frame. `gs`: for _end(). */
uint64_t translate_run_begin(struct x86_cpu *cpu, struct translate *t);
void translate_run_end(uint64_t gs);
/* One instruction, or one iteration of REP, with all that may happen around it; blocks that are not translated. */
void translate_step(struct x86_cpu *cpu, struct translate *t);
void translate_by_interp(struct x86_cpu *cpu, struct translate *t);
/* Translated code was left, by unwinding or not: count what it did, forget what it was at. */
void translate_settle(struct x86_cpu *cpu, struct translate *t);

/* ---- block.c ---- */
#define TRANSLATE_MODE_SHIFT 52
#define TRANSLATE_MODE_MMU 3u
#define TRANSLATE_MODE_SSE 4u /* neither #UD nor #NM, SIMD floating-point exceptions masked */
#define TRANSLATE_MODE_AVX 8u
#define TRANSLATE_MODE_AVX512 16u
#define TRANSLATE_MODE_PLAIN 32u /* no windows */
#define TRANSLATE_MODE_32 64u    /* 32-bit code, translate_flat32() */

/* What translated code depends on besides its bytes. */
static inline uint64_t translate_mode(const struct x86_cpu *cpu)
{
	uint32_t mxcsr = guest_load32(cpu->fpu.area + 24);
	uint64_t mode = cpu->mmu_index;

	if (unlikely(cpu->code_size != 8))
		mode |= TRANSLATE_MODE_32;
	if (unlikely((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) || (mxcsr & 0x1f80) != 0x1f80))
		return mode;
	if (cpu->cr4 & X86_CR4_OSFXSR)
		mode |= TRANSLATE_MODE_SSE;
	if ((cpu->cr4 & X86_CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6)
		mode |= TRANSLATE_MODE_AVX;
	if ((cpu->cr4 & X86_CR4_OSXSAVE) && (cpu->xcr0 & 0xe6) == 0xe6)
		mode |= TRANSLATE_MODE_AVX512;
	return mode;
}
/* Translate the code at page + offset, of which `host` maps the page. NULL: its first instruction is not for us. */
struct translate_block *translate_block_make(struct translate *t, uint64_t key, const uint8_t *host);

/* A data segment that can be written up to 4 GiB, wherever it begins: within it only what wraps around can be wrong. */
static inline bool translate_unlimited(const struct x86_seg *s)
{
	return s->limit == UINT32_MAX && (s->ar & (X86_AR_UNUSABLE | X86_AR_S | X86_AR_CODE | X86_AR_EXPAND_DOWN |
						   X86_AR_WRITABLE)) == (X86_AR_S | X86_AR_WRITABLE);
}

/* 32-bit protected or compatibility mode, offsets are linear addresses. */
static inline bool translate_flat32(const struct x86_cpu *cpu)
{
	const struct x86_seg *s = cpu->seg;

	return cpu->code_size == 4 && cpu->stack_size == 4 && x86_protected(cpu) && s[X86_CS].limit == UINT32_MAX &&
	       !(s[X86_CS].base | s[X86_SS].base | s[X86_DS].base | s[X86_ES].base) &&
	       translate_unlimited(&s[X86_SS]) && translate_unlimited(&s[X86_DS]) && translate_unlimited(&s[X86_ES]);
}

static inline bool translate_translatable(const struct x86_cpu *cpu)
{
	/* Alignment checks (SDM 3A 6.15 #AC) are interp's. */
	return (likely(cpu->code_size == 8) || translate_flat32(cpu)) &&
	       !(cpu->cpl == 3 && (cpu->rflags & X86_AC) && (cpu->cr0 & X86_CR0_AM));
}

#endif
