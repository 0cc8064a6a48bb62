/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `translate` engine, inside: dynamic binary translation of 64-bit guest code; everything else runs as
 * `interp` blocks.
 *
 * A block is straight guest code inside one page, found by guest physical address and mode. Its code does not
 * depend on the linear address: RIP is frame.rip_page + a constant. Guest registers live in the host registers
 * of the same name, but RSP (host r10) and R10, R11, R14, R15, which stay in struct x86_cpu: host r11 and
 * r14 are scratch, r15 holds the cpu, GS the TLB (struct x86_tlb, with struct translate_frame in its `engine`).
 *
 * Between blocks the arithmetic flags are in frame.flags as LAHF and SETO give them; inside a block they stay
 * in the host's where liveness lets them. Flags that are overwritten before anything reads them are not
 * kept: a fault in between shows older ones.
 *
 * An instruction without an emitter, and one whose memory operand misses the TLB, runs as its interp_insn
 * (translate_interp_op): there is one slow path, and it is precise because interp is.
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

#define TRANSLATE_CODE_SIZE (32u << 20) /* unless the client says otherwise */
#define TRANSLATE_BLOCK_INSNS 48
#define TRANSLATE_BLOCK_CODE (48u << 10) /* more than any block takes */
#define TRANSLATE_HASH_BITS 15
#define TRANSLATE_PAGE_BITS 12
#define TRANSLATE_JUMP_BITS 12
#define TRANSLATE_JUMP_USED 512
#define TRANSLATE_MAILBOX 32

/* What translated code reaches through GS. */
struct translate_frame {
	uint64_t rip_page; /* linear address of the page it runs in */
	uint64_t insns;    /* begun since last counted */
	uint64_t target;   /* of an indirect call while its return address is pushed */
	uint16_t flags;    /* AL: OF, AH: as LAHF */
	/* Where code at a linear address starts, by context of the TLB; rip 1: none. */
	struct translate_jump {
		uint64_t rip;
		const void *code;
	} jump[X86_MMU_COUNT][1u << TRANSLATE_JUMP_BITS];
};
_Static_assert(sizeof(struct translate_frame) <= X86_TLB_ENGINE_SIZE, "must fit");

struct translate_block;
struct translate_counters;
struct builder;

/* A direct jump to another block of the same page: to `stub` until it is linked. */
struct translate_exit {
	uint8_t *patch; /* rel32, where it can be written */
	int32_t unlinked;
	uint16_t target; /* offset in the page */
	struct translate_block *from;
	struct translate_exit *next_in; /* of the block it is linked to */
	bool linked;
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
	struct translate_exit *incoming;
	struct translate_exit exit[2];
	struct translate_range range[3]; /* itself, and what was looked at behind its jumps */
	bool dead;
};

struct translate_page {
	uint64_t gpa;
	struct translate_page *next;
	struct translate_block *blocks;
	uint32_t epoch; /* when its bytes were last compared */
};

/* The translating vCPUs of one VM. */
struct translate_vm {
	struct mem *mem;
	struct translate_vm *next;
	struct translate *vcpus;
	_Atomic uint64_t pages[X86_TLB_CODE_WORDS];
};

struct translate {
	struct interp interp; /* first: interp's functions find it as cpu->engine_data */
	struct x86_cpu *cpu;
	struct translate_frame *frame; /* in cpu->tlb */
	struct translate_vm *vm;
	struct translate *next; /* of the VM */

	uint8_t *rw, *rx; /* the code cache, mapped twice: never writable and executable */
	uint32_t used, fixed, code_size;
	uint64_t wipes; /* since creation: what pointed to blocks before the last one is dead */
	uint8_t *arena;
	size_t arena_used, arena_size;
	struct translate_block *hash[1u << TRANSLATE_HASH_BITS];
	struct translate_page *page[1u << TRANSLATE_PAGE_BITS];
	uint16_t owned[X86_TLB_CODE_WORDS * 64]; /* live blocks by hash of their page; others look at != 0 */

	uint64_t mode;    /* of the jump caches */
	uint32_t flushes; /* tlb->flushes they belong to */
	uint32_t epoch;   /* counts entries from the client, which may have changed code meanwhile */
	uint16_t jump_used[TRANSLATE_JUMP_USED];
	unsigned jump_count;
	struct builder *builder; /* room to translate a block in */
	unsigned left;           /* instructions of the block not completed, while one runs as interp_insn */

	uint64_t op_rip; /* where that one is */
	struct translate_counters *counters;

	/* Writes by other vCPUs to pages this one has code of. Under the registry's lock. */
	_Atomic unsigned mail_count;
	struct {
		uint64_t gpa;
		unsigned len;
	} mail[TRANSLATE_MAILBOX];

	/* Entry points of the fixed code (stubs.c), executable addresses. */
	struct translate_exit *(*enter)(struct x86_cpu *cpu, const void *code);
	const uint8_t *stub_exit;     /* with the exit or NULL in r11 */
	const uint8_t *stub_indirect; /* RIP in r11 */
	const uint8_t *stub_interp;   /* call: insn in r11, offset | left << 16 in r14d */
	const uint8_t *stub_vector;   /* call: enum vector_class in r14d; puts the FPU's state into the registers */
};

static inline struct translate *translate_of(struct x86_cpu *cpu)
{
	return cpu->engine_data;
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
void translate_jump_insert(struct translate *t, unsigned mmu, uint64_t rip, const void *code);
bool translate_jump_known(const struct translate *t, unsigned mmu, uint64_t rip);
void translate_jump_clear(struct translate *t);
/* Compare all blocks of a page with memory, drop those that differ. */
void translate_page_check(struct translate *t, uint64_t gpa, const uint8_t *host);
void *translate_alloc(struct translate *t, size_t size); /* from the arena; the caller has seen to room */
bool translate_room(const struct translate *t);

/* ---- vm.c ---- */
int translate_vm_join(struct translate *t);
void translate_vm_leave(struct translate *t);
/* From now on no vCPU writes to the page unnoticed, while there are blocks and until _done(). May stop the others. */
void translate_protect(struct translate *t, uint64_t gpa);
void translate_protect_done(struct translate *t, uint64_t gpa);
void translate_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len); /* tlb->code_written */
void translate_mail_read(struct translate *t);
/* cache.c, for vm.c: drop the blocks that depend on these bytes. True if there were any. */
bool translate_drop(struct translate *t, uint64_t gpa, unsigned len);

/* ---- counters.c ---- */
struct translate_counters *translate_counters_create(void); /* NULL: no memory */
void translate_counters_destroy(struct translate_counters *c);
/* An instruction of a block, in the arena: each run of it by interp is counted by its mnemonic. */
struct interp_insn *translate_insn_alloc(struct translate *t);
void translate_insn_count(struct interp_insn *i);
/* The most frequent ones. Names last as long as the counters. Thread: any. */
unsigned translate_counters_read(struct x86_cpu *cpu, struct engine_stat *rows, unsigned max);

/* ---- perf_map.c ---- */
/* For perf(1), where the environment asks for it: `code` is the translation of the guest's code at rip. */
bool translate_perf_map_init(void); /* is it wanted? */
void translate_perf_map(struct translate *t, const void *code, uint64_t rip);

/* ---- stubs.c ---- */
void translate_stubs_create(struct translate *t);
/* Called by translated code. True: leave it. */
bool translate_interp_op(struct x86_cpu *cpu, const struct interp_insn *i, uint32_t where);
void translate_flags_split(struct translate *t);
void translate_flags_merge(struct translate *t);

/* ---- block.c ---- */
#define TRANSLATE_MODE_SHIFT 52
#define TRANSLATE_MODE_MMU 3u
#define TRANSLATE_MODE_SSE 4u /* neither #UD nor #NM, SIMD floating-point exceptions masked */
#define TRANSLATE_MODE_AVX 8u
#define TRANSLATE_MODE_AVX512 16u

/* What translated code depends on besides its bytes. */
static inline uint64_t translate_mode(const struct x86_cpu *cpu)
{
	uint32_t mxcsr = guest_load32(cpu->fpu.area + 24);
	uint64_t mode = cpu->mmu_index;

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

#endif
