/* SPDX-License-Identifier: Apache-2.0 */
/* Guest user code by the processor itself: when, and what its stops mean. direct.h has the picture. */
#include "translate/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>

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

/* ---- the account ---- */

/*
 * Time in the runner is worth its double, as the same code takes some times as long translated, and where it is
 * new far longer; a stop costs what it takes here and the turn: switches between the tasks, the signal. How long those
 * take differs by host and moment, from 20,000 cycles to three times that; it is what the shortest of the latest turns
 * took, with whatever guest code was in it. Who has used up his credit rests, longer each time. In TSC cycles. What of
 * its turns the runner waited for a processor, because the host is busy, is taken back now and then.
 */
#define WORTH 2
#define TURN_MIN 15000
#define TURN_MAX 45000
#define PAGING 8     /* by so much less counts a stop for a page: those come once */
#define TURN_DRIFT 7 /* the shortest is forgotten by 1/128 a turn */
#define CREDIT_START 3000000
#define CREDIT_MAX 60000000
#define REST_MIN 20000000
#define REST_MAX 600000000
#define STOP_MAX 400000 /* more than this is somebody else's time */
#define RENEWAL 300000
#define VISIT_MAX 1000000  /* longer is no visit; who runs here that long has a short rest next */
#define VISIT_REST 2000000 /* what follows at first */
#define LOOK 1000000       /* apart, lest one interrupt be many */
#define LOOKS 8            /* that find the same address space, before the twin becomes its */
#define LOSSES 8
#define SAMPLE 32 /* turns */

static uint64_t tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* The runner's turns since the last sample have earned d->sample.earned. */
static void account_waits(struct translate_direct *d)
{
	struct direct_sample now = { .turns = 0, .tsc = tsc(), .runner = d->runner }, *last = &d->sample;
	uint64_t used, waited;

	now.ns = direct_twin_clock(CLOCK_MONOTONIC);
	now.ran = direct_twin_clock(DIRECT_RUNNER_CLOCK(d->runner));
	/* What is longer apart than some minutes says nothing. */
	if (last->runner == now.runner && now.ran >= last->ran && now.ns > last->ns &&
	    now.tsc - last->tsc < BIT64(40)) {
		used = ((((now.ran - last->ran) << 20) / (now.ns - last->ns)) * (now.tsc - last->tsc)) >> 20;
		waited = last->cycles > used ? last->cycles - used : 0;
		d->credit -= (int64_t)(waited < last->earned ? waited : last->earned) * WORTH;
	}
	d->sample = now;
}

static void account_ran(struct translate_direct *d, uint64_t cycles)
{
	uint64_t apart;

	d->sample.cycles += cycles;
	STAT_ADD(d->t->cpu, DIRECT_CYCLES, cycles);
	d->turn += d->turn >> TURN_DRIFT;
	d->turn = cycles < d->turn ? cycles : d->turn;
	d->turn = d->turn < TURN_MIN ? TURN_MIN : d->turn > TURN_MAX ? TURN_MAX : d->turn;
	apart = d->turn + d->turn / 2;
	cycles -= cycles < apart ? cycles : apart;
	cycles = cycles < CREDIT_MAX ? cycles : CREDIT_MAX;
	d->credit += (int64_t)cycles * WORTH;
	d->sample.earned += cycles;
	if (cycles > VISIT_MAX)
		d->visit_rest = VISIT_REST;
	if (d->credit > CREDIT_MAX) {
		d->credit = CREDIT_MAX;
		d->rest = REST_MIN;
	}
	if (++d->sample.turns == SAMPLE)
		account_waits(d);
}

static void rest(struct translate_direct *d, uint64_t cycles)
{
	d->rest_until = tsc() + cycles;
	d->t->frame->user_rest = d->always ? 0 : d->rest_until;
	STAT_INC(d->t->cpu, DIRECT_RESTS);
	STAT_ADD(d->t->cpu, DIRECT_REST_CYCLES, cycles);
}

static void account_stop(struct translate_direct *d, uint64_t cycles)
{
	uint64_t cost = (cycles < STOP_MAX ? cycles : STOP_MAX) + d->turn;

	d->credit -= (int64_t)(d->paging ? cost / PAGING : cost);
	if (d->credit >= 0 || d->always)
		return;
	rest(d, d->rest);
	d->rest = d->rest * 2 < REST_MAX ? d->rest * 2 : REST_MAX;
	d->credit = CREDIT_START;
}

static bool is_resting(const struct translate_direct *d)
{
	return !d->always && (int64_t)(tsc() - d->rest_until) < 0;
}

/* ---- creation ---- */

#define AREA_MXCSR 24
#define AREA_ST 32
#define AREA_LEGACY 416 /* the rest up to the header is nobody's or the kernel's */
#define AREA_HEADER 512
#define AREA_EXTENDED 576
#define AREA_PKRU 2688        /* as the host's CPUs have it; the guest's is elsewhere */
#define XSTATE UINT64_C(0xe7) /* x87 to AVX-512: what the host's XCR0 may have of these */

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
	d->vector_size = x86_fpu_area_size(d->host_xcr0 & XSTATE);
	d->always = wish && *wish == 'a';
	d->credit = CREDIT_START;
	d->rest = REST_MIN;
	d->turn = TURN_MIN;
	d->visit_rest = VISIT_REST;
	d->rest_until = d->looked = tsc();
	d->want = d->visit = TRANSLATE_NO_PAGE;
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

/* ---- the guest's state and the frame of the signal that the runner is held in ---- */

static const uint8_t gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

#define FLAGS_USER (X86_ARITH_FLAGS | X86_DF | X86_ID)
#define FLAGS_APART (X86_TF | X86_IOPL | X86_NT | X86_RF | X86_AC | X86_VIF | X86_VIP | BIT64(17))

/* The selectors of a 64-bit process of Linux, which are the host's as well (asm/segment.h: __USER_CS, __USER_DS). */
#define USER_CS 0x33
#define USER_SS 0x2b

static uint32_t extended_end(uint32_t size)
{
	return size < AREA_PKRU ? size : AREA_PKRU;
}

/* The frame may be of the guest's making: of what it says there may only be what the processor could be in. */
static void fpu_from(struct translate_direct *d, const uint8_t *image, uint32_t size)
{
	uint8_t *area = d->t->cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER);
	uint64_t theirs = guest_load64(image + AREA_HEADER) & d->host_xcr0;

	tz_copy(area, image, AREA_MXCSR);
	guest_store32(area + AREA_MXCSR, guest_load32(image + AREA_MXCSR) & x86_fpu_mxcsr_mask());
	tz_copy(area + AREA_ST, image + AREA_ST, AREA_LEGACY - AREA_ST);
	tz_copy(area + AREA_EXTENDED, image + AREA_EXTENDED, extended_end(size) - AREA_EXTENDED);
	guest_store64(area + AREA_HEADER, (ours & ~XSTATE) | (theirs & XSTATE));
}

static void fpu_to(struct x86_cpu *cpu, uint8_t *image, uint32_t size)
{
	const uint8_t *area = cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER), theirs = guest_load64(image + AREA_HEADER);

	tz_copy(image, area, AREA_MXCSR + 4);
	tz_copy(image + AREA_ST, area + AREA_ST, AREA_LEGACY - AREA_ST);
	tz_copy(image + AREA_EXTENDED, area + AREA_EXTENDED, extended_end(size) - AREA_EXTENDED);
	/* Bits that the host does not have are not in ours either. */
	guest_store64(image + AREA_HEADER, (theirs & ~XSTATE) | (ours & XSTATE));
}

static uint64_t canonical(uint64_t base)
{
	return (uint64_t)((int64_t)(base << 16) >> 16);
}

static void state_from(struct translate_direct *d, const ucontext_t *uc, uint32_t vector_size)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t flags = (uint64_t)g[REG_EFL];

	for (unsigned n = 0; n < 16; n++)
		cpu->gpr[n] = (uint64_t)g[gregs[n]];
	cpu->rip = (uint64_t)g[REG_RIP];
	/* RF is that of the host's fault. */
	cpu->rflags = (cpu->rflags & ~(FLAGS_USER | X86_TF | X86_AC | X86_NT)) |
		      (flags & (FLAGS_USER | X86_TF | X86_AC | X86_NT));
	cpu->seg[X86_FS].base = canonical(d->region->report.fs_base);
	cpu->seg[X86_GS].base = canonical(d->region->report.gs_base);
	fpu_from(d, (const uint8_t *)uc->uc_mcontext.fpregs, vector_size);
}

static void state_to(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size)
{
	greg_t *g = uc->uc_mcontext.gregs;
	struct x86_cpu *cpu = d->t->cpu;

	x86_fpu_put(cpu);
	for (unsigned n = 0; n < 16; n++)
		g[gregs[n]] = (greg_t)cpu->gpr[n];
	g[REG_RIP] = (greg_t)cpu->rip;
	g[REG_EFL] = (greg_t)((cpu->rflags & FLAGS_USER) | X86_IF | 2);
	/* A far jump may have left others. */
	g[REG_CSGSFS] = USER_CS | (greg_t)USER_SS << 48;
	d->region->orders.fs_base = cpu->seg[X86_FS].base;
	d->region->orders.gs_base = cpu->seg[X86_GS].base;
	d->region->orders.flags = (cpu->rflags & X86_ID) | X86_IF | 2;
	fpu_to(cpu, (uint8_t *)uc->uc_mcontext.fpregs, vector_size);
}

/* Goes on with what is loaded already. */
static void keep_state(struct translate_direct *d, const ucontext_t *uc)
{
	d->region->orders.flags = ((uint64_t)uc->uc_mcontext.gregs[REG_EFL] & (X86_ID | X86_NT)) | X86_IF | 2;
	d->region->orders.fs_base = d->region->report.fs_base;
	d->region->orders.gs_base = d->region->report.gs_base;
}

/* ---- may it run there? ---- */

static bool has_host_selectors(const struct x86_cpu *cpu)
{
	return cpu->seg[X86_CS].sel == USER_CS && cpu->seg[X86_SS].sel == USER_SS && !cpu->seg[X86_DS].sel &&
	       !cpu->seg[X86_ES].sel && !cpu->seg[X86_FS].sel && !cpu->seg[X86_GS].sel;
}

static unsigned what_to_avoid(const struct translate_direct *d)
{
	const struct x86_cpu *cpu = d->t->cpu;

	return (d->host_xcr0 == cpu->xcr0 ? 0 : DIRECT_AVOID_XSAVE) |
	       (has_host_selectors(cpu) ? 0 : DIRECT_AVOID_SELECTORS) |
	       (cpu->cr4 & X86_CR4_FSGSBASE ? 0 : DIRECT_AVOID_FSGSBASE);
}

static bool fits(const struct translate_direct *d)
{
	const uint64_t cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT;
	const struct x86_cpu *cpu = d->t->cpu;

	/* EFER.SCE: else SYSCALL would be undefined and change nothing. */
	return cpu->cpl == 3 && cpu->code_size == 8 && (cpu->efer & X86_EFER_SCE) && !(cpu->rflags & FLAGS_APART) &&
	       (cpu->rflags & X86_IF) && !(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (cpu->cr4 & cr4) == cr4 &&
	       !(cpu->cr4 & X86_CR4_LA57) && !((d->host_xcr0 ^ cpu->xcr0) & XSTATE) && !(cpu->seg[X86_FS].base >> 47) &&
	       !(cpu->seg[X86_GS].base >> 47) && !(cpu->rip >> 47) && !d->t->guard && !cpu->tlb->overlay &&
	       !x86_needs_stepping(cpu) && !cpu->guest_debug_bp && !cpu->io.logged;
}

/* Which address space: less PCID. */
static uint64_t cr3_of(const struct x86_cpu *cpu)
{
	return cpu->cr3 & ~TZ_PAGE_MASK;
}

/* Another address space runs: often enough, and the twin becomes its. */
static bool adopt(struct translate_direct *d)
{
	struct x86_cpu *cpu = d->t->cpu;

	if (d->candidate != cr3_of(cpu)) {
		d->candidate = cr3_of(cpu);
		d->looks = 0;
	}
	if (!d->always) {
		if (tsc() - d->looked < LOOK)
			return false;
		d->looked = tsc();
		if (++d->looks < LOOKS)
			return false;
	}
	d->looks = 0;
	d->cr3 = cr3_of(cpu);
	d->worn = true;
	d->drop_all = true;
	d->stale = false;
	return true;
}

/*
 * Code in a page that may not be executed here runs translated, for a visit: each jump that looks for attention comes
 * to C, which looks whether it has left the page. System calls do not end it. Who stays there rests, longer each time,
 * where nothing comes between.
 */
static void visit_begin(struct translate_direct *d, uint64_t page)
{
	d->visit = page;
	d->visit_since = tsc();
	d->t->visits = true;
	d->paging = false;
}

/* User code goes on: as a visit? */
static bool is_visit(struct translate_direct *d)
{
	d->t->visits = false;
	if (likely((d->t->cpu->rip & ~TZ_PAGE_MASK) != d->visit))
		return false;
	if (tsc() - d->visit_since < VISIT_MAX || d->always) {
		d->t->visits = true;
		return true;
	}
	d->visit = TRANSLATE_NO_PAGE;
	rest(d, d->visit_rest);
	d->visit_rest = d->visit_rest * 2 < REST_MAX ? d->visit_rest * 2 : REST_MAX;
	return false;
}

bool translate_direct_visit(struct translate *t)
{
	if (t->cpu->cpl == 3)
		return is_visit(t->direct);
	t->visits = false;
	if (t->direct->always)
		t->direct->visit = TRANSLATE_NO_PAGE;
	return false;
}

bool translate_direct_eager(struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (d && d->failed)
		t->frame->user_rest = UINT64_MAX;
	if (!d || d->failed || t->visits || is_resting(d) || !fits(d))
		return false;
	return d->always || d->cr3 == cr3_of(t->cpu) || tsc() - d->looked >= LOOK;
}

bool translate_direct_wanted(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d || d->failed || cpu->cpl != 3 || is_resting(d) || !fits(d) || is_visit(d))
		return false;
	if (d->cr3 != cr3_of(cpu))
		return adopt(d);
	d->looks = 0;
	d->visit = TRANSLATE_NO_PAGE;
	return true;
}

/* ---- stops ---- */

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
	const siginfo_t *info = direct_twin_siginfo(d);
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
	if (unlikely((uint16_t)cs_gs_fs_ss != USER_CS))
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
	const siginfo_t *info = direct_twin_siginfo(d);

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
	const siginfo_t *info = direct_twin_siginfo(d);
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
		keep_state(d, uc);
		STAT_INC(cpu, DIRECT_SERVED);
		return GO_ON;
	}
	state_from(d, uc, vector_size);
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
		visit_begin(d, page);
		return false;
	}
	translate_step(cpu, d->t);
	return cpu->cpl == 3 && !cpu->io.logged && !atomic_load_explicit(&cpu->attention, memory_order_relaxed) &&
	       fits(d) && d->cr3 == cr3_of(cpu);
}

/* The twin as it must be before the guest goes on there. */
static bool make_ready(struct translate_direct *d)
{
	unsigned avoid = what_to_avoid(d);
	bool same;

	d->drop_all |= d->avoid != avoid;
	d->avoid = avoid;
	if (direct_map_collides(d)) {
		rest(d, REST_MAX);
		return false;
	}
	/* Another address space under the same CR3 would have hardly a page where this one had it, and none to write
	 * to. */
	same = direct_map_refresh(d);
	if (d->foreign && same && d->runner && !d->worn)
		direct_twin_tidy(d);
	else
		d->worn |= d->foreign;
	d->foreign = false;
	if (unlikely(d->worn || !d->runner)) {
		d->worn = false;
		d->credit -= RENEWAL;
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
	ucontext_t *uc = direct_twin_context(d, &vector_size);

	if (!uc)
		lost(d);
	if (enter)
		state_to(d, uc, vector_size);
	direct_map_prepare(d);
	r = direct_twin_go(d);
	account_stop(d, d->released - *since);
	*since = tsc();
	account_ran(d, *since - d->released);
	if (r == DIRECT_LOST)
		lost(d);
	uc = direct_twin_context(d, &vector_size);
	if (!uc)
		lost(d);
	if (r == DIRECT_REFUSED) {
		/* It has not moved. -ENOMEM: too many mappings. */
		state_from(d, uc, vector_size);
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
	uint64_t since = tsc();
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
	} while (o == STEP && step(d) && !is_resting(d));
}
