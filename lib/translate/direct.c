/* SPDX-License-Identifier: Apache-2.0 */
/* Guest user code by the processor itself: what its stops mean. direct.h has the picture. */
#include "translate/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/nh.h"
#include "base/stats.h"
#include "x86/access.h"
#include "x86/event.h"
#include "x86/exception.h"
#include "x86/fpu.h"
#include "x86/paging.h"
#include "x86/segment.h"
#include "x86/transfer.h"

#define HWCAP2_FSGSBASE BIT64(1)

/* ---- creation ---- */

static uint64_t host_xcr0(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static void *table(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void translate_direct_create(struct translate *t)
{
	const char *wish = getenv("TRAPEZE_DIRECT");
	struct translate_direct *d;

	/* FSGSBASE: the stub has no other way; with it comes XSAVE. */
	if ((wish && *wish == '0') || !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		return;
	d = calloc(1, sizeof(*d));
	if (!d)
		return;
	d->t = t;
	d->listener = d->pipe[0] = d->pipe[1] = d->pidfd = -1;
	d->host_xcr0 = host_xcr0();
	d->vector_size = x86_fpu_area_size(d->host_xcr0 & DIRECT_XSTATE);
	d->always = wish && *wish == 'a';
	d->want = TRANSLATE_NO_PAGE;
	direct_account_start(d);
	d->page = table(sizeof(*d->page) * DIRECT_PAGES_MAX);
	d->index = table(sizeof(*d->index) << DIRECT_INDEX_BITS);
	d->scans = table(sizeof(*d->scans));
	t->direct = d;
	if (!d->page || !d->index || !d->scans || !tz_nh_key(d->scans->key, ARRAY_SIZE(d->scans->key)))
		translate_direct_destroy(t);
}

void translate_direct_destroy(struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d)
		return;
	direct_twin_end(d);
	if (d->region)
		munmap(d->region, sizeof(*d->region));
	if (d->page)
		munmap(d->page, sizeof(*d->page) * DIRECT_PAGES_MAX);
	if (d->index)
		munmap(d->index, sizeof(*d->index) << DIRECT_INDEX_BITS);
	if (d->scans)
		munmap(d->scans, sizeof(*d->scans));
	free(d);
	t->direct = NULL;
}

void translate_direct_invalidate(struct translate *t)
{
	if (!t->direct)
		return;
	direct_twin_end(t->direct);
	t->direct->cr3 = 0;
}

void translate_direct_flushed(struct translate *t, enum x86_tlb_flush what, uint64_t gva)
{
	struct translate_direct *d = t->direct;

	if (!d)
		return;
	d->foreign |= what != X86_TLB_FLUSH_PAGE && (t->cpu->cr3 & ~TZ_PAGE_MASK) != d->cr3;
	if (d->server)
		direct_map_flush(d, what, gva);
}

void translate_direct_withheld(struct x86_cpu *cpu, unsigned hash)
{
	struct translate *t = translate_of(cpu);

	if (t && t->direct && t->direct->server)
		direct_map_withheld(t->direct, hash);
}

void translate_direct_written(struct translate *t, uint64_t gpa)
{
	if (t->direct && t->direct->execs)
		direct_map_written(t->direct, gpa);
}

void translate_direct_wiped(struct translate *t)
{
	if (t->direct)
		direct_map_wiped(t->direct);
}

/* ---- stops ---- */

#define LOSSES 8 /* then it is over for good */

/* It cannot be used here, or not any more; the guest goes on translated. */
static void give_up(struct translate_direct *d, const char *why)
{
	x86_fpu_put(d->t->cpu);
	tz_log(TZ_LOG_WARN, "direct execution is given up: %s (error %lld)", why, (long long)d->error);
	d->failed = true;
	direct_twin_end(d);
}

/*
 * The runner is gone, and the guest's registers with it: it has made the kernel end it (by a frame of its own making),
 * or the host has. The program is told as of something it may not do; it cannot go on.
 */
static tz_noreturn void lost(struct translate_direct *d)
{
	direct_twin_end(d);
	d->cr3 = 0;
	d->failed = ++d->losses >= LOSSES && !d->always;
	STAT_INC(d->t->cpu, DIRECT_LOSSES);
	x86_raise_gp0(d->t->cpu);
}

enum outcome {
	GO_ON, /* where it was */
	STEP,  /* the instruction there is interp's */
	LEAVE, /* the state is in struct x86_cpu, that is all */
};

/* SDM 3A 4.7: what the processor says about a page fault. */
#define PF_WRITE 2u
#define PF_FETCH 16u

static enum outcome page_fault(struct translate_direct *d, const ucontext_t *uc)
{
	const siginfo_t *info = direct_frame_siginfo(d);
	uint64_t page, error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
	unsigned kind = error & PF_FETCH ? X86_ACCESS_EXEC : error & PF_WRITE ? X86_ACCESS_WRITE : X86_ACCESS_READ;

	d->want = d->unfit = TRANSLATE_NO_PAGE;
	if (!info)
		lost(d);
	if (info->si_code == SI_KERNEL || uc->uc_mcontext.gregs[REG_TRAPNO] != X86_PF_EXC)
		return STEP;
	page = (uint64_t)(uintptr_t)info->si_addr & ~TZ_PAGE_MASK;
	if (page >> 47)
		return STEP;
	if (!direct_map_serve(d, page, kind)) {
		d->want = page | kind;
		return STEP;
	}
	return GO_ON;
}

/* Selectors that it has loaded itself: what they are is for the guest's tables to say. Raises. */
static void load_selectors(struct translate_direct *d, const ucontext_t *uc)
{
	static const uint8_t order[4] = { X86_DS, X86_ES, X86_FS, X86_GS };
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t cs_gs_fs_ss = (uint64_t)uc->uc_mcontext.gregs[REG_CSGSFS];

	for (unsigned n = 0; n < ARRAY_SIZE(order); n++) {
		uint16_t selector = d->region->report.selector[n];
		struct x86_seg s;

		if (likely(!selector))
			continue;
		/* The next runner has none. */
		d->worn = true;
		s = x86_seg_prepare(cpu, order[n], selector);
		x86_seg_commit(cpu, order[n], &s);
	}
	/* Of a far transfer to 32-bit code (__USER32_CS), carried out now: flat, as the host's, if it is of use at all.
	 */
	if (unlikely((uint16_t)cs_gs_fs_ss != DIRECT_USER_CS))
		x86_far_jump(cpu, (uint16_t)cs_gs_fs_ss, cpu->rip, 8, cpu->rip);
}

static bool is_prefix(uint8_t b)
{
	return (b & 0xf0) == 0x40 || (b & 0xfe) == 0x66 || (b & 0xfe) == 0xf2 || (b & 0xfe) == 0x64 ||
	       (b & 0xe7) == 0x26;
}

/* INT1 at CS:RIP, where the host is a guest itself: KVM hands its #DB back with the instruction's own address. */
static bool is_int1(struct x86_cpu *cpu)
{
	uint8_t b[15];
	struct x86_walk w;
	unsigned n = 0, len;
	gpa_t gpa;

	/* Behind it there need not be code. */
	if (!x86_walk(cpu, GVA(cpu->rip), X86_ACCESS_EXEC, X86_MMU_USER, true, &w))
		return false;
	len = x86_fetch(cpu, cpu->rip, b, sizeof(b), &gpa);
	while (n + 1 < len && is_prefix(b[n]))
		n++;
	return b[n] == 0xf1;
}

/* Back to the instruction that trapped, for interp; its last byte says which of those it was that do. */
static void rewind_trap(struct x86_cpu *cpu, bool debug)
{
	uint8_t last;
	gpa_t gpa;

	if (debug && is_int1(cpu))
		return;
	if (x86_fetch(cpu, cpu->rip - 1, &last, 1, &gpa) != 1)
		return;
	if (last == 3 || last == 4) /* INT 3, INT 4 */
		cpu->rip -= 2;
	else if (last == 0xcc || last == 0xf1 || last == 0xce) /* INT3, INT1, INTO */
		cpu->rip -= 1;
}

/* The host's #DB is a single step, not INT1. */
static bool is_step(struct translate_direct *d, const ucontext_t *uc)
{
	const siginfo_t *info = direct_frame_siginfo(d);

	if (!info)
		lost(d);
	return uc->uc_mcontext.gregs[REG_TRAPNO] == X86_DB && info->si_code == TRAP_TRACE;
}

/*
 * A jump to the code that Linux has at a fixed address (arch/x86/entry/vsyscall) ends as a system call that has
 * returned already; RAX is its number.
 */
#define VSYSCALL UINT64_C(0xffffffffff600000)

static void rewind_system_call(struct translate_direct *d)
{
	const siginfo_t *info = direct_frame_siginfo(d);
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t at = info ? (uint64_t)(uintptr_t)info->si_call_addr : 0;

	if (unlikely((at & ~(uint64_t)TZ_PAGE_MASK) == VSYSCALL)) {
		cpu->rip = at;
		cpu->gpr[X86_RSP] -= 8;
	} else {
		cpu->rip -= 2;
	}
}

/* Why the runner has stopped. */
static enum outcome stop(struct translate_direct *d, const ucontext_t *uc, uint32_t vector_size)
{
	struct x86_cpu *cpu = d->t->cpu;
	unsigned signal = (unsigned)d->where[0];
	enum outcome o = STEP;

	STAT_INC(cpu, DIRECT_STOPS);
	d->paging = signal == SIGSEGV;
	if (signal == SIGSEGV && page_fault(d, uc) == GO_ON) {
		direct_state_keep(d, uc);
		STAT_INC(cpu, DIRECT_SERVED);
		return GO_ON;
	}
	direct_state_load(d, uc, vector_size);
	load_selectors(d, uc);
	switch (signal) {
	case SIGUSR1:
		STAT_INC(cpu, DIRECT_ATTENTION);
		o = LEAVE;
		break;
	case SIGSYS:
		STAT_INC(cpu, DIRECT_SYSCALLS);
		rewind_system_call(d);
		break;
	case SIGSEGV:
		if (uc->uc_mcontext.gregs[REG_TRAPNO] == X86_OVF)
			rewind_trap(cpu, false);
		break;
	case SIGTRAP:
		if (is_step(d, uc)) {
			/* It has set TF itself and one more instruction is done (SDM 3B 17.3.1.4). */
			cpu->ev.db_pending |= X86_DR6_BS;
			x86_cpu_attention(cpu, X86_ATT_TRAP);
			o = LEAVE;
		} else {
			rewind_trap(cpu, uc->uc_mcontext.gregs[REG_TRAPNO] == X86_DB);
		}
		break;
	default: break;
	}
	return o;
}

/* The instruction at CS:RIP by interp; false: it has led to where this does not go on. */
static bool step(struct translate_direct *d)
{
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t page = cpu->rip & ~TZ_PAGE_MASK;

	/* Not if the guest has yet to bring it. */
	if (d->want == (page | X86_ACCESS_EXEC) && d->unfit == page) {
		direct_visit_begin(d, page);
		return false;
	}
	translate_step(cpu, d->t);
	return cpu->cpl == 3 && !cpu->io.logged && !atomic_load_explicit(&cpu->attention, memory_order_relaxed) &&
	       direct_fits(d) && d->cr3 == direct_cr3(cpu);
}

/* The twin as it must be before the guest goes on there. */
static bool make_ready(struct translate_direct *d)
{
	unsigned avoid = direct_avoids(d);
	bool same;

	d->drop_all |= d->avoid != avoid;
	d->avoid = avoid;
	if (direct_map_collides(d)) {
		direct_rest(d, DIRECT_REST_MAX);
		return false;
	}
	/* Another address space under the same CR3 would have hardly a page where this one had it, and none to write
	 * to. */
	same = direct_map_refresh(d);
	if (d->foreign && same && d->runner && !d->worn)
		direct_frame_tidy(d);
	else
		d->worn |= d->foreign;
	d->foreign = false;
	if (unlikely(d->worn || !d->runner)) {
		d->worn = false;
		direct_account_renewal(d);
		STAT_INC(d->t->cpu, DIRECT_RENEWALS);
		if (!direct_twin_renew(d)) {
			give_up(d, "no task to run in");
			return false;
		}
	}
	/* What it was about to get when it last left. */
	if (d->want != TRANSLATE_NO_PAGE) {
		if ((d->want & TZ_PAGE_MASK) != X86_ACCESS_EXEC)
			direct_map_serve(d, d->want & ~TZ_PAGE_MASK, (unsigned)(d->want & TZ_PAGE_MASK));
		d->want = TRANSLATE_NO_PAGE;
	}
	return true;
}

/* The runner from one stop to the next. */
static enum outcome go(struct translate_direct *d, uint64_t *since, bool enter)
{
	enum direct_result r;
	uint32_t vector_size;
	ucontext_t *uc = direct_frame(d, &vector_size);

	if (!uc)
		lost(d);
	if (enter)
		direct_state_store(d, uc, vector_size);
	direct_map_prepare(d);
	r = direct_twin_go(d);
	direct_account_stop(d, d->released - *since);
	*since = direct_tsc();
	direct_account_ran(d, *since - d->released);
	if (r == DIRECT_LOST)
		lost(d);
	uc = direct_frame(d, &vector_size);
	if (!uc)
		lost(d);
	if (r == DIRECT_REFUSED) {
		/* It has not moved. -ENOMEM: too many mappings. */
		direct_state_load(d, uc, vector_size);
		d->drop_all = true;
		if (d->error != -ENOMEM)
			give_up(d, "the host refuses a mapping");
		return LEAVE;
	}
	return stop(d, uc, vector_size);
}

void translate_direct_run(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;
	uint64_t since = direct_tsc();
	enum outcome o;

	if (unlikely(d->server && d->thread != __builtin_thread_pointer()))
		direct_twin_end(d);
	if (!d->server && (!direct_twin_start(d) || !d->server)) {
		give_up(d, "the process cannot be made");
		return;
	}
	STAT_INC(cpu, DIRECT_ENTRIES);
	do {
		if (!make_ready(d))
			return;
		for (o = go(d, &since, true); o == GO_ON; o = go(d, &since, false))
			;
	} while (o == STEP && step(d) && !direct_is_resting(d));
}
