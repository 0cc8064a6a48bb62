/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct execution: guest user code (CPL 3, 64-bit) runs as it is, by the host's processor, in a process of its own,
 * the "twin", whose address space is the guest's.
 *
 * The twin is two tasks that share one address space. The "runner" executes the guest's code. A page of the guest
 * appears there when an access has faulted and the walk of the guest's page tables allows it, at the permission that
 * the software TLB has for it, and goes when the TLB's entry would go: its rules (A and D bits, code pages, slots,
 * dirty log, watched pages) hold here as well. The "server" executes the system calls that change mappings
 * ("orders"); it runs nothing but its loop in the stub.
 *
 * Everything that guest code cannot do by itself is a signal in the runner: faults, and system calls, each of which
 * becomes SIGSYS by its seccomp filter or before that (PR_SET_SYSCALL_USER_DISPATCH). The handler makes one call that
 * the filter hands to this process (seccomp's user notification): the kernel holds the runner there and says so, so
 * nothing the guest writes can pretend it. From then on the signal's frame is the guest's state: most faults are served
 * by orders, for all else the state moves to struct x86_cpu, interp does that one instruction, and the guest goes on
 * wherever it then belongs. Who wants the vCPU's attention sends the runner a signal.
 *
 * What confines it: the runner's filter allows that call and the return from the handler, both only in the stub, which
 * is not writable. What the guest can do to itself with them (frames of its own making) it can do to its own address
 * space alone: a runner that has served one is replaced before another gets its pages; also when that comes under the
 * same CR3, as then no page is where it was. The guest can read and write its own state there, and read the stub and
 * the orders; nothing of this process is in the twin. Frames are taken for what they may be, the guest's own; who has
 * had signals blocked by one is ended when he does not hear what he is asked (direct_twin_interrupt()).
 *
 * Instructions that the processor would execute for the host instead of the guest without a fault (CPUID, SGDT, LAR
 * and such: direct_scan.c) keep their page from being executed there; translated code runs it, for a visit
 * (translate_direct_visit()). Selectors are the host's; for a guest whose programs have others than those of 64-bit
 * Linux, instructions that see or load them are among those.
 *
 * A stop costs some 10 us, so an account decides whether code runs here or translated (translate_direct_wanted()).
 * TRAPEZE_DIRECT=0 in the environment turns it off, =always (for tests) uses it whatever it costs.
 *
 * Thread: the vCPU's own, but for direct_map_withheld() and direct_twin_interrupt().
 */
#ifndef TZ_TRANSLATE_DIRECT_H
#define TZ_TRANSLATE_DIRECT_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/types.h>
#include <ucontext.h>

#include "translate/translate.h"

/* ---- the region: shared, at the same address in both ---- */

#define DIRECT_SIGNAL_STACK (64u << 10) /* of the kernel's frames: with the largest vector state some 11 KiB */
#define DIRECT_CALLS 1000
#define DIRECT_SLOTS 32

struct direct_call {
	uint64_t nr, arg[5];
};

/* The stub knows the offsets of both (direct_stub.c). */
struct direct_report {
	uint64_t fs_base, gs_base;
	uint16_t selector[4]; /* DS, ES, FS, GS */
	uint8_t scratch[8];
	uint64_t released; /* the TSC when the server, its orders carried out, let the runner go */
	_Atomic uint32_t ready;
	int32_t listener;
	bool shared[DIRECT_SLOTS]; /* memory slots that could be mapped again */
};

struct direct_orders {
	uint32_t count, resume;
	uint64_t fs_base, gs_base;
	int32_t pipe, listener;
	struct seccomp_notif_resp answer;
	struct sock_fprog program;
	stack_t stack;
	_Atomic uint64_t sequence; /* changes: the orders are new */
	uint64_t flags;            /* which the return from a signal would leave as they are in the handler (ID, NT) */
	struct direct_call call[DIRECT_CALLS];
	struct sock_filter filter[24];
};

struct direct_region {
	/* The twin may write: */
	_Alignas(TZ_PAGE_SIZE) struct direct_report report;
	_Alignas(TZ_PAGE_SIZE) uint8_t signal_stack[DIRECT_SIGNAL_STACK];
	/* It may only read: */
	_Alignas(TZ_PAGE_SIZE) struct direct_orders orders;
	/* It may execute: */
	_Alignas(TZ_PAGE_SIZE) uint8_t stub[TZ_PAGE_SIZE];
};

/* ---- pages of the guest in the twin ---- */

#define DIRECT_INDEX_BITS 17
#define DIRECT_PAGES_MAX 30000u /* well below vm.max_map_count's default, 65530 */
#define DIRECT_AROUND 16        /* pages that one fault may bring, */
#define DIRECT_AROUND_CODE 8    /* of code */
#define DIRECT_CHAINS 65536u

/* 4 KiB, or the 2 MiB that a large page gave. */
struct direct_page {
	uint64_t gva, gpa; /* gva: | DIRECT_LARGE; gpa: TRANSLATE_NO_PAGE: gone */
	bool write, exec;
	uint32_t chain, next; /* by GPA: number of the chain + 1, 0: in none; of the next page in it + 1 */
};
#define DIRECT_LARGE 1u
#define DIRECT_LARGE_SIZE (UINT64_C(1) << 21)

/* Of the account: the runner's turns since then. */
struct direct_sample {
	uint64_t tsc, ns, ran; /* CLOCK_MONOTONIC and the runner's CPU time, in ns */
	uint64_t cycles, earned;
	unsigned turns;
	pid_t runner;
};

struct translate_direct {
	struct translate *t;
	struct direct_region *region;
	uint64_t end;         /* of what the twin has for itself: the region and, behind it, guest RAM */
	pid_t server, runner; /* 0: none */
	const void *thread;   /* that made them: they end with it */
	int listener, pipe[2], pidfd;
	bool sync;         /* the kernel lets the one who is woken run on the CPU of who wakes it */
	bool brief;        /* the runner's last turn was */
	int cpu;           /* that both are bound to; -1: none */
	uint64_t notice;   /* the runner's, while it is held */
	uint64_t where[3]; /* signal, siginfo_t *, ucontext_t * of it */
	int64_t error;     /* of the order that failed */
	uint64_t released; /* when the runner was let go: TSC */
	bool failed;       /* it does not work here: for good */
	bool always;       /* TRAPEZE_DIRECT=always: whatever it costs */
	unsigned losses;
	uint64_t host_xcr0;
	uint32_t vector_size;   /* of the host's frames, at least */
	_Atomic uint64_t asked; /* what the runner had run when it was first asked for the vCPU; 0: it was not */

	/* Where memory slots are in the twin, not accessible; 0: not there. */
	struct direct_alias {
		uint64_t host, size, at;
	} alias[DIRECT_SLOTS];
	unsigned aliases;

	struct direct_page *page;
	uint32_t *index; /* by address: number of the page + 1; 0: none */
	unsigned pages, execs;
	struct direct_refusal {
		uint64_t gpa;
		unsigned left; /* how often it is believed */
	} refused[256];        /* pages of code, lately */
	struct direct_scans *scans;
	/* The first page of each chain + 1; large pages are in the one behind the others. */
	uint32_t chain[DIRECT_CHAINS + 1];
	bool drop_all;
	bool split; /* some of 4 KiB come from large pages */
	/*
	 * The TLB was flushed: which pages are still right is looked up when the twin is next used. Whose they are: a
	 * guest's process comes back to what it had.
	 */
	bool stale;
	bool foreign; /* another address space has been there meanwhile: is this one still the runner's? */
	bool worn;    /* the runner must go */
	uint64_t cr3;
	uint64_t candidate; /* address space that may become the twin's, */
	unsigned looks;     /* found running so often */
	uint64_t looked;

	uint64_t want;  /* page that the guest is about to get, | kind of access; TRANSLATE_NO_PAGE */
	uint64_t unfit; /* page of code that was refused last; TRANSLATE_NO_PAGE */

	/* The account, in TSC cycles: what being here may yet cost. */
	int64_t credit;
	struct direct_sample sample;
	bool paging;   /* the last stop was for a page */
	uint64_t turn; /* what a stop takes besides what is done here */
	uint64_t rest_until, rest;
	/* The page of code that is being visited (translate_direct_visit()), since when; how long the next rest is. */
	uint64_t visit, visit_since, visit_rest;
	unsigned avoid; /* DIRECT_AVOID_*: instructions that the host would execute in another way */
};

/* ---- direct_stub.c: the tasks' own side ---- */
/* A system call; no libc: the guest's vector state may be live, and the clone has nobody's locks. Returns -errno. */
long direct_syscall(long nr, long a, long b, long c, long d, long e);
void direct_stub_install(struct translate_direct *d);              /* into the region: the stub, the runner's filter */
tz_noreturn void direct_become_server(struct translate_direct *d); /* in the clone */

/* ---- direct_twin.c ---- */
enum direct_result {
	DIRECT_STOPPED, /* the runner is held, where[] says why */
	DIRECT_REFUSED, /* an order has failed; it is still held where it was */
	DIRECT_LOST,    /* there is no runner any more */
};

bool direct_twin_start(struct translate_direct *d);
void direct_twin_end(struct translate_direct *d);
/* A runner that has executed nothing yet, after the orders. False: it cannot be. */
bool direct_twin_renew(struct translate_direct *d);
/* Carry out the orders, then let the runner go until it stops. */
enum direct_result direct_twin_go(struct translate_direct *d);
/* Thread: any. */
void direct_twin_interrupt(struct x86_cpu *cpu);
/* A clock, in ns; 0: it cannot be read. DIRECT_RUNNER_CLOCK: the CPU time of a process (clock_getcpuclockid(3)). */
#define DIRECT_RUNNER_CLOCK(pid) ((long)(~(uint64_t)(pid) << 3 | 2))
uint64_t direct_twin_clock(long clock);

/* ---- direct_state.c ---- */
/*
 * The frame of the signal the runner is held in; NULL: not one of the kernel's. Its XSAVE image (SDM 1 13.4) has
 * *vector_size bytes and, in what FXSAVE leaves to software, a description (uapi asm/sigcontext.h, struct
 * _fpx_sw_bytes).
 */
ucontext_t *direct_frame(struct translate_direct *d, uint32_t *vector_size);
const siginfo_t *direct_frame_siginfo(const struct translate_direct *d); /* likewise */
void direct_frame_tidy(struct translate_direct *d); /* nothing but that frame is left of what the guest could write */

/* The selectors of a 64-bit process of Linux, which are the host's as well (asm/segment.h: __USER_CS, __USER_DS). */
#define DIRECT_USER_CS 0x33
#define DIRECT_USER_SS 0x2b
#define DIRECT_XSTATE UINT64_C(0xe7) /* x87 to AVX-512: what the host's XCR0 may have of these */
void direct_state_load(struct translate_direct *d, const ucontext_t *uc, uint32_t vector_size);
void direct_state_store(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size);
void direct_state_keep(struct translate_direct *d, const ucontext_t *uc); /* goes on with what is loaded already */

/* ---- direct_account.c: when ---- */
static inline uint64_t direct_tsc(void)
{
	return __builtin_ia32_rdtsc();
}
/* All in TSC cycles. */
void direct_account_start(struct translate_direct *d);
void direct_account_ran(struct translate_direct *d, uint64_t cycles);  /* there, from one stop to the next */
void direct_account_stop(struct translate_direct *d, uint64_t cycles); /* here, since the last stop */
void direct_account_renewal(struct translate_direct *d);
void direct_rest(struct translate_direct *d, uint64_t cycles); /* user code is translated for so long */
#define DIRECT_REST_MAX 600000000
bool direct_is_resting(const struct translate_direct *d);
/* Does the vCPU's state allow it? */
bool direct_fits(const struct translate_direct *d);
unsigned direct_avoids(const struct translate_direct *d);           /* DIRECT_AVOID_* for that state */
uint64_t direct_cr3(const struct x86_cpu *cpu);                     /* which address space: less PCID */
void direct_visit_begin(struct translate_direct *d, uint64_t page); /* translate_direct_visit() */

/* ---- direct_map.c ---- */
bool direct_map_order(struct translate_direct *d, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t e,
		      uint64_t f); /* false: no room */
/* Orders that make the guest's page at gva accessible for `kind` (X86_ACCESS_*); false: it cannot be, or it is. */
bool direct_map_serve(struct translate_direct *d, uint64_t gva, unsigned kind);
/* Before anything is mapped: serve `stale`. True: all pages are as they were. */
bool direct_map_refresh(struct translate_direct *d);
void direct_map_flush(struct translate_direct *d, enum x86_tlb_flush what, uint64_t gva);
void direct_map_withheld(struct translate_direct *d, unsigned hash); /* write tags of pages with this code hash */
void direct_map_written(struct translate_direct *d, uint64_t gpa);   /* code */
void direct_map_wiped(struct translate_direct *d);
void direct_map_prepare(struct translate_direct *d); /* before the runner goes on: serve `drop_all` */
/* Does the guest use addresses that the twin has for itself? */
bool direct_map_collides(const struct translate_direct *d);

/* ---- direct_scan.c ---- */
/*
 * May the page of code be executed as it is? `before`: DIRECT_SCAN_BEFORE bytes in front of it, or NULL; `after`: the
 * DIRECT_SCAN_AFTER behind it, or NULL. avoid: what else is not to be executed, DIRECT_AVOID_*.
 */
#define DIRECT_AVOID_XSAVE 1u     /* XSAVE, XRSTOR and their like */
#define DIRECT_AVOID_SELECTORS 2u /* what reads or loads a segment register */
#define DIRECT_AVOID_FSGSBASE 4u  /* RDFSBASE and its like */
#define DIRECT_SCAN_BEFORE 96
#define DIRECT_SCAN_AFTER 16
#define DIRECT_SCAN_BYTES (DIRECT_SCAN_BEFORE + TZ_PAGE_SIZE + DIRECT_SCAN_AFTER)
bool direct_scan_page(const uint8_t *page, const uint8_t *before, const uint8_t *after, unsigned avoid);

/* What was found, by a keyed sum of the bytes (base/nh.h): pages come and go, their bytes are the same. */
struct direct_scans {
	uint64_t key[DIRECT_SCAN_BYTES / 8 + 2]; /* random */
	struct direct_scan_result {
		uint64_t sum[2];
		bool valid, good;
	} result[8192];
};
/* As direct_scan_page(). */
bool direct_scan_known(struct direct_scans *known, const uint8_t *page, const uint8_t *before, const uint8_t *after,
		       unsigned avoid);

#endif
