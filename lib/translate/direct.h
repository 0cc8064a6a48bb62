/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct memory: guest user code (CPL 3) runs in a process of its own, the "twin", whose address space is the guest's.
 *
 * The twin is a clone of this process that has given up all memory but: translated code (not writable), guest RAM
 * (not accessible where the monitor has it), and the region below. There guest code translated in
 * TRANSLATE_MODE_DIRECT runs: its memory operands are the guest's linear addresses. A page of the guest appears in
 * the twin when an access has faulted and the walk of the guest's page tables allows it, at the permission that the
 * software TLB has for it, and goes when the TLB's entry would go. So the TLB's rules (A and D bits, code pages, slots,
 * dirty log, watched pages) hold here as well.
 *
 * Everything that leaves translated code is a signal: a fault, or the UD2 that stands where code for this process calls
 * C. The twin's handler parks: it waits for orders (system calls that change mappings), then returns to where the
 * kernel's frame says, which this process has filled in. Both take turns; while the twin runs, the vCPU's thread waits.
 *
 * What confines it: translated code has no SYSCALL, jumps only to translated code (the jump cache and the orders are
 * read-only there), and a seccomp filter leaves the few calls that orders need. What the guest
 * can write in the region is believed only as its own state (registers, flags, its page), and the kernel's frame is
 * checked before it is used. It can read the region and the code, with the host's addresses in them.
 *
 * Who needs more than guest memory (a fault that the page tables do not allow, MMIO, instructions without an
 * emitter, system calls) comes back, and runs here as ever. That costs some microseconds, so an account of
 * them decides whether the twin is used (translate_direct_wanted()).
 *
 * Only where the environment asks for it, TRAPEZE_DIRECT=1 (or =always, for tests): compute-bound programs gain, those
 * with much code lose (docs/performance.md).
 *
 * Thread: the vCPU's own, but for direct_map_withheld().
 */
#ifndef TZ_TRANSLATE_DIRECT_H
#define TZ_TRANSLATE_DIRECT_H

#include <sys/types.h>
#include <ucontext.h>

#include "translate/emit.h"

/* ---- the region: shared, at the same address in both ---- */

#define DIRECT_SIGNAL_STACK (64u << 10) /* of the kernel's frames: with the largest vector state some 11 KiB */
#define DIRECT_CALLS 80

struct direct_call {
	uint64_t nr, arg[5];
};

/* Offsets are known to the stub (direct_twin.c). */
struct direct_report {
	_Atomic uint32_t parked;
	uint32_t signal;
	uint64_t context; /* ucontext_t * */
	int64_t error;    /* of the call that failed, or 0 */
	uint64_t fault;   /* siginfo_t * */
};

struct direct_orders {
	_Atomic uint32_t sequence; /* changes: there are new ones */
	uint32_t count, resume;
	uint32_t unused;
	uint64_t fs_base;
	uint64_t unused2;
	struct direct_call call[DIRECT_CALLS];
};

struct direct_region {
	/* The twin may write: */
	_Alignas(TZ_PAGE_SIZE) struct direct_report report;
	_Alignas(TZ_PAGE_SIZE) uint8_t signal_stack[DIRECT_SIGNAL_STACK];
	_Alignas(TZ_PAGE_SIZE) uint8_t below[TZ_PAGE_SIZE];     /* nobody may use it */
	_Alignas(TZ_PAGE_SIZE) uint8_t stack[4 * TZ_PAGE_SIZE]; /* RSP in translated code starts in the middle */
	_Alignas(TZ_PAGE_SIZE) uint8_t above[TZ_PAGE_SIZE];     /* nor this */
	_Alignas(TZ_PAGE_SIZE) uint8_t spill[TZ_PAGE_SIZE];     /* r15: guest registers that have no host register */
	_Alignas(TZ_PAGE_SIZE) uint8_t frame[TZ_PAGE_SIZE];     /* struct translate_frame, as far as */
	/* It may only read: */
	struct translate_jump jump[1u << TRANSLATE_JUMP_BITS]; /* this */
	_Alignas(TZ_PAGE_SIZE) struct direct_orders orders;
	/* It may execute: */
	_Alignas(TZ_PAGE_SIZE) uint8_t stub[TZ_PAGE_SIZE];
};

/* ---- pages of the guest in the twin ---- */

#define DIRECT_PAGE_BITS 16
#define DIRECT_PAGES_MAX 40000u /* well below vm.max_map_count's default, 65530 */

/* 4 KiB, or the 2 MiB that a large page gave. */
struct direct_page {
	uint64_t gva, gpa; /* gva: | DIRECT_LARGE */
	uint32_t age;      /* an entry of another age is none */
	bool write;
};
#define DIRECT_LARGE 1u
#define DIRECT_LARGE_SIZE (UINT64_C(1) << 21)
#define DIRECT_CODE_PAGES 512

#define DIRECT_RANGES 32

struct translate_direct {
	struct translate *t;
	struct direct_region *region;
	struct translate_frame *frame; /* in it */
	pid_t twin;                    /* 0: none */
	bool failed;                   /* it does not work here: for good */
	bool leave;                    /* at the next block */
	bool always;                   /* TRAPEZE_DIRECT=always: whatever it costs, for tests */

	/* What the twin has for itself, sorted: the guest's pages there cannot be mapped. */
	struct direct_range {
		uint64_t start, end;
	} reserved[DIRECT_RANGES];
	unsigned ranges;

	struct direct_page *page;
	uint32_t age;
	unsigned pages;
	bool drop_all;
	bool split; /* some of 4 KiB come from large pages */
	/*
	 * The TLB was flushed: which pages are still right is looked up when the twin is next used. Whose they are: a
	 * guest's process comes back to what it had.
	 */
	bool stale;
	uint64_t cr3;
	unsigned stranger; /* looks that found another address space there */
	/* Pages that the twin's jump cache and links lead to, likewise. */
	struct {
		uint64_t gva, gpa;
	} code[DIRECT_CODE_PAGES];
	unsigned codes;
	uint64_t fault_page, fault_rip; /* the last one served */

	/* The account, in TSC cycles: what being here may cost. */
	int64_t budget;
	uint64_t settled, looked;
	uint64_t blocks, wipes; /* counted at the last stop */
	unsigned streak;
};

/* ---- direct_twin.c ---- */
bool direct_twin_start(struct translate_direct *d); /* then it is parked */
void direct_twin_end(struct translate_direct *d);
/* Carry out the orders, then run (or not); returns when it is parked again. False: it is gone. */
bool direct_twin_go(struct translate_direct *d, bool run);
/*
 * Of the parked twin; NULL: not one of the kernel's. Its XSAVE image (SDM 1 13.4) has *vector_size bytes and, in what
 * FXSAVE leaves to software, a description (uapi asm/sigcontext.h, struct _fpx_sw_bytes).
 */
ucontext_t *direct_twin_context(struct translate_direct *d, uint32_t *vector_size);
#define DIRECT_SW 464
#define DIRECT_SW_SIZE (DIRECT_SW + 16)
#define DIRECT_FRAME_MIN 576u

/* ---- direct_map.c ---- */
void direct_map_reserve(struct translate_direct *d); /* what is not to be mapped, by the memory slots */
/* Orders that make the guest's page at gva (with its TLB entry) accessible; false: it cannot be, or it is already. */
bool direct_map_page(struct translate_direct *d, uint64_t gva, const struct x86_tlb_entry *e, bool write);
void direct_map_refresh(struct translate_direct *d); /* before anything is mapped: serve `stale` */
void direct_map_flush(struct translate_direct *d, enum x86_tlb_flush what, uint64_t gva);
void direct_map_withheld(struct translate_direct *d, unsigned hash); /* write tags of pages with this code hash */
void direct_map_prepare(struct translate_direct *d); /* before the twin goes on: orders for what is stale */

#endif
