/* SPDX-License-Identifier: Apache-2.0 */
/* Guest user code in the twin: when, and what its stops mean. direct.h has the picture. */
#include "translate/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/stats.h"
#include "x86/access.h"
#include "x86/exception.h"
#include "x86/fpu.h"
#include "x86/paging.h"

#define HWCAP2_FSGSBASE BIT64(1)

/* ---- the account ---- */

/*
 * Stops may take an eighth of the time, and be paid for in advance by this much. In TSC cycles; what a stop costs is
 * measured here, but for the two switches between the processes.
 */
#define SHARE_SHIFT 3
#define BUDGET_MAX 50000000
#define BUDGET_ENTER 2000000
#define SWITCHES 20000
#define STOP_MAX 60000
#define NEW_BLOCK 50000
#define FULL_CACHE 200000000
#define LOOK 1000000 /* apart, lest one interrupt be many */
#define STREAK 4     /* looks that find user code, more than those that find the kernel's, before the twin is used */
#define STREAK_MAX 12
#define STRANGERS 50 /* looks in a row that find user code of another address space, before the twin becomes its */

static void account_settle(struct translate_direct *d)
{
	uint64_t now = __builtin_ia32_rdtsc(), passed = now - d->settled;

	d->settled = now;
	/* Those of before are not the twin's. */
	if (!d->t->in_direct) {
		d->blocks = d->t->cpu->stat[STAT_TRANSLATE_BLOCKS];
		d->wipes = d->t->wipes;
	}
	d->budget += (int64_t)((passed < BUDGET_MAX ? passed : BUDGET_MAX) >> SHARE_SHIFT);
	if (d->budget > BUDGET_MAX)
		d->budget = BUDGET_MAX;
}

static void account_charge(struct translate_direct *d, uint64_t since)
{
	uint64_t took = __builtin_ia32_rdtsc() - since;

	/* Code made anew for the twin is code that runs seldom, until it is no longer; a full cache is worse. */
	d->budget -= (int64_t)(d->t->cpu->stat[STAT_TRANSLATE_BLOCKS] - d->blocks) * NEW_BLOCK;
	d->blocks = d->t->cpu->stat[STAT_TRANSLATE_BLOCKS];
	if (d->wipes != d->t->wipes)
		d->budget = -FULL_CACHE;
	d->wipes = d->t->wipes;
	/* More than this is somebody else's time. */
	d->budget -= (int64_t)(took < STOP_MAX ? took : STOP_MAX) + SWITCHES;
	d->leave = d->budget < 0 && !d->always;
}

/* ---- creation ---- */

void translate_direct_create(struct translate *t)
{
	const char *wish = getenv("TRAPEZE_DIRECT");
	struct translate_direct *d;

	if (!wish || !*wish || *wish == '0' || !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		return;
	d = calloc(1, sizeof(*d));
	if (!d)
		return;
	d->t = t;
	d->age = 1;
	d->budget = BUDGET_MAX;
	d->always = wish && *wish == 'a';
	d->page = mmap(NULL, sizeof(*d->page) << DIRECT_PAGE_BITS, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->page == MAP_FAILED) {
		free(d);
		return;
	}
	t->direct = d;
}

void translate_direct_destroy(struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d)
		return;
	direct_twin_end(d);
	if (d->region)
		munmap(d->region, sizeof(*d->region));
	munmap(d->page, sizeof(*d->page) << DIRECT_PAGE_BITS);
	free(d);
	t->direct = NULL;
}

/* Memory slots have changed. */
void translate_direct_invalidate(struct translate *t)
{
	if (t->direct)
		direct_twin_end(t->direct);
}

struct translate_jump *translate_direct_jumps(const struct translate *t)
{
	return t->direct && t->direct->region ? t->direct->region->jump : NULL;
}

void translate_direct_code(struct translate *t, uint64_t gva, uint64_t gpa)
{
	struct translate_direct *d = t->direct;

	gva &= ~TZ_PAGE_MASK;
	for (unsigned n = 0; n < d->codes; n++)
		if (d->code[n].gva == gva)
			return;
	if (d->codes == DIRECT_CODE_PAGES)
		return;
	d->code[d->codes].gva = gva;
	d->code[d->codes++].gpa = gpa;
}

void translate_direct_code_clear(struct translate *t)
{
	t->direct->codes = 0;
}

void translate_direct_flushed(struct translate *t, enum x86_tlb_flush what, uint64_t gva)
{
	if (t->direct)
		direct_map_flush(t->direct, what, gva);
}

void translate_direct_withheld(struct x86_cpu *cpu, unsigned hash)
{
	struct translate *t = translate_of(cpu);

	if (t && t->direct)
		direct_map_withheld(t->direct, hash);
}

/* ---- the guest's state and the frame of the signal that parked the twin ---- */

static greg_t *host_reg(ucontext_t *uc, unsigned host)
{
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

	return &uc->uc_mcontext.gregs[order[host]];
}

static uint8_t *spills(struct translate_direct *d)
{
	return d->region->spill;
}

static uint64_t stack_middle(const struct translate_direct *d)
{
	return (uint64_t)(uintptr_t)(d->region->stack + sizeof(d->region->stack) / 2);
}

#define AREA_MXCSR 24
#define AREA_XMM 160
#define AREA_HEADER 512
#define AREA_EXTENDED 576
#define AREA_PKRU 2688               /* as the host's CPUs have it */
#define XSTATE_VECTOR UINT64_C(0xe6) /* SSE to AVX-512: what the host's XCR0 may have of these */

/* x87 state is not the twin's business: it executes no such instruction. */
static void vector_from(struct x86_cpu *cpu, const uint8_t *image, uint32_t size)
{
	uint8_t *area = cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER), theirs = guest_load64(image + AREA_HEADER);
	uint32_t end = size < AREA_PKRU ? size : AREA_PKRU;

	guest_store32(area + AREA_MXCSR, guest_load32(image + AREA_MXCSR));
	tz_copy(area + AREA_XMM, image + AREA_XMM, 256);
	tz_copy(area + AREA_EXTENDED, image + AREA_EXTENDED, end - AREA_EXTENDED);
	guest_store64(area + AREA_HEADER, (ours & ~XSTATE_VECTOR) | (theirs & XSTATE_VECTOR));
}

static void vector_to(struct x86_cpu *cpu, uint8_t *image, uint32_t size)
{
	const uint8_t *area = cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER), theirs = guest_load64(image + AREA_HEADER);
	uint32_t end = size < AREA_PKRU ? size : AREA_PKRU;

	guest_store32(image + AREA_MXCSR, guest_load32(area + AREA_MXCSR));
	tz_copy(image + AREA_XMM, area + AREA_XMM, 256);
	tz_copy(image + AREA_EXTENDED, area + AREA_EXTENDED, end - AREA_EXTENDED);
	/* Bits that the host does not have are not in ours either. */
	guest_store64(image + AREA_HEADER, (theirs & ~XSTATE_VECTOR) | (ours & XSTATE_VECTOR));
}

static void state_from(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size)
{
	struct x86_cpu *cpu = d->t->cpu;

	for (unsigned g = 0; g < 16; g++)
		cpu->gpr[g] = host_of(g) != HOST_NONE ? (uint64_t)*host_reg(uc, host_of(g))
						      : guest_load64(spills(d) + spill_offset(g));
	d->frame->scratch = (uint64_t)*host_reg(uc, HOST_T0);
	vector_from(cpu, (const uint8_t *)uc->uc_mcontext.fpregs, vector_size);
}

/* As emit_resume(). */
static void state_to(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size, const void *code)
{
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t f = d->frame->flags;

	x86_fpu_put(cpu);
	for (unsigned g = 0; g < 16; g++)
		if (host_of(g) != HOST_NONE)
			*host_reg(uc, host_of(g)) = (greg_t)cpu->gpr[g];
		else
			guest_store64(spills(d) + spill_offset(g), cpu->gpr[g]);
	*host_reg(uc, HOST_T0) = (greg_t)d->frame->scratch;
	*host_reg(uc, HOST_RSP) = (greg_t)stack_middle(d);
	*host_reg(uc, HOST_WINDOW) = (greg_t)(uintptr_t)spills(d);
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)code;
	uc->uc_mcontext.gregs[REG_EFL] =
		(greg_t)((cpu->rflags & X86_DF) | X86_IF | 2 | ((f >> 8) & 0xd5) | (f & 1) << 11);
	vector_to(cpu, (uint8_t *)uc->uc_mcontext.fpregs, vector_size);
	d->region->orders.fs_base = cpu->seg[X86_FS].base;
}

/* ---- stops ---- */

/* The twin is gone with the guest's registers. */
static tz_noreturn void lost(struct x86_cpu *cpu, struct translate_direct *d)
{
	d->failed = true;
	direct_twin_end(d);
	x86_internal_error(cpu, "the process that runs the guest's user code has ended or was damaged by the guest");
}

/* A page that the guest may access and the twin does not have yet. */
static bool serve_fault(struct translate_direct *d, ucontext_t *uc)
{
	uint64_t lo = (uint64_t)(uintptr_t)d->region->signal_stack, info_at = d->region->report.fault;
	bool write = uc->uc_mcontext.gregs[REG_ERR] & 2;
	struct x86_cpu *cpu = d->t->cpu;
	const struct x86_tlb_entry *e;
	const siginfo_t *info = (const siginfo_t *)(uintptr_t)info_at;
	uint64_t page;

	if (d->region->report.signal != SIGSEGV || info_at < lo || info_at + sizeof(*info) > lo + DIRECT_SIGNAL_STACK ||
	    info->si_code == SI_KERNEL)
		return false;
	page = (uint64_t)(uintptr_t)info->si_addr & ~TZ_PAGE_MASK;
	if (page >> 47)
		return false;
	e = x86_tlb_slot(cpu, X86_MMU_USER, page);
	if ((write ? e->tag_write : e->tag_read) != page &&
	    !x86_tlb_fill(cpu, page, write ? X86_ACCESS_WRITE : X86_ACCESS_READ, X86_MMU_USER))
		return false;
	/* Twice the same: mapped already, and yet it faults. */
	if (page == d->fault_page && (uint64_t)uc->uc_mcontext.gregs[REG_RIP] == d->fault_rip)
		return false;
	if (!direct_map_page(d, page, e, write))
		return false;
	d->fault_page = page;
	d->fault_rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
	STAT_INC(cpu, DIRECT_PAGES);
	return true;
}

/* More CALLs than RETs, or the other way round: start again. */
static bool left_stack(struct translate_direct *d, ucontext_t *uc)
{
	uint64_t sp = (uint64_t)*host_reg(uc, HOST_RSP), lo = (uint64_t)(uintptr_t)d->region->below;

	if (sp < lo || sp > lo + sizeof(d->region->below) + sizeof(d->region->stack) + 8)
		return false;
	if (sp > lo + TZ_PAGE_SIZE + 8 && sp < (uint64_t)(uintptr_t)d->region->above)
		return false;
	*host_reg(uc, HOST_RSP) = (greg_t)stack_middle(d);
	return true;
}

/* The instruction that has faulted. */
static const void *by_interp(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size,
			     const struct translate_record *r)
{
	state_from(d, uc, vector_size);
	if (r->flags & TRANSLATE_RECORD_HOST_FLAGS)
		d->frame->flags = (uint16_t)translate_lahf((uint64_t)uc->uc_mcontext.gregs[REG_EFL]);
	return translate_fault(d->t->cpu, r);
}

/* Why the twin has parked. Where it goes on, or NULL; *same: where it was. */
static const void *stop(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size, bool *same)
{
	struct translate *t = d->t;
	struct x86_cpu *cpu = t->cpu;
	const uint8_t *rip = (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	uint64_t sp = (uint64_t)*host_reg(uc, HOST_RSP);
	const struct translate_record *r;

	*same = false;
	STAT_INC(cpu, DIRECT_STOPS);
	if (rip == t->stub_direct) {
		/* The return address of the call that led there. */
		if (sp < (uint64_t)(uintptr_t)d->region->stack || sp >= (uint64_t)(uintptr_t)d->region->above)
			lost(cpu, d);
		d->fault_page = TRANSLATE_NO_PAGE;
		state_from(d, uc, vector_size);
		return translate_detour(cpu, t->rx + (uint32_t)(guest_load64((const void *)(uintptr_t)sp) -
								(uint64_t)(uintptr_t)t->rx));
	}
	if (left_stack(d, uc)) {
		*same = true;
		return rip;
	}
	r = rip >= t->rx && rip < t->rx + t->code_size ? translate_site_find(t, (uint32_t)(rip - t->rx)) : NULL;
	if (!r)
		lost(cpu, d);
	if (!d->leave && serve_fault(d, uc)) {
		*same = true;
		return rip;
	}
	STAT_INC(cpu, DIRECT_FAULTS);
	d->fault_page = TRANSLATE_NO_PAGE;
	return by_interp(d, uc, vector_size, r);
}

/* An order has failed, the guest has not moved. It goes on here. */
static void give_up(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size, bool same)
{
	struct translate *t = d->t;

	if (d->region->report.error == -ENOMEM)
		d->budget = 0; /* too many mappings: later */
	else
		d->failed = true;
	d->drop_all = true;
	if (same)
		by_interp(d, uc, vector_size,
			  translate_site_find(t, (uint32_t)((uint64_t)uc->uc_mcontext.gregs[REG_RIP] -
							    (uint64_t)(uintptr_t)t->rx)));
}

static void enter(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;

	t->in_direct = true;
	d->leave = false;
	t->frame = d->frame;
	cpu->poll = &d->frame->poll;
	d->frame->poll = 0;
	/* Who asks for attention from now on sets that one. */
	if (atomic_load(&cpu->attention))
		d->frame->poll = 1;
}

void translate_direct_leave(struct x86_cpu *cpu, struct translate *t)
{
	if (likely(!t->in_direct))
		return;
	t->in_direct = false;
	t->direct->budget -= SWITCHES;
	t->frame = t->own;
	cpu->poll = &t->own->poll;
}

bool translate_direct_leaving(const struct translate *t)
{
	return t->direct->leave || t->direct->stale || t->cpu->cpl != 3;
}

/* Which address space: less PCID. */
static uint64_t cr3_of(const struct x86_cpu *cpu)
{
	return cpu->cr3 & ~TZ_PAGE_MASK;
}

bool translate_direct_eager(struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d || d->failed || (!d->always && (d->streak < STREAK || !d->twin)))
		return false;
	if (d->always)
		return true;
	account_settle(d);
	return d->budget >= BUDGET_ENTER && d->cr3 == cr3_of(t->cpu);
}

bool translate_direct_wanted(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d || d->failed)
		return false;
	account_settle(d);
	if (d->settled - d->looked > LOOK) {
		d->looked = d->settled;
		if (cpu->cpl != 3)
			d->streak -= d->streak != 0;
		else
			d->streak += d->streak < STREAK_MAX;
	}
	if (cpu->cpl != 3 || (!d->always && (d->streak < STREAK || d->budget < BUDGET_ENTER)))
		return false;
	if (t->guard || cpu->tlb->overlay || cpu->dr_watch || cpu->dr_exec)
		return false;
	if (d->cr3 != cr3_of(cpu)) {
		if (d->pages && !d->always && ++d->stranger < STRANGERS)
			return false;
		d->cr3 = cr3_of(cpu);
		d->stale = true;
		d->drop_all |= d->pages != 0;
	}
	d->stranger = 0;
	if (!d->twin && (!direct_twin_start(d) || d->failed)) {
		d->failed = true;
		direct_twin_end(d);
		return false;
	}
	return true;
}

void translate_direct_run(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;
	uint64_t since = __builtin_ia32_rdtsc();
	uint32_t vector_size;
	ucontext_t *uc;
	const void *code;
	bool same = false;

	enter(cpu, t);
	direct_map_refresh(d);
	STAT_INC(cpu, DIRECT_ENTRIES);
	for (code = translate_next(cpu, t, NULL); code;) {
		uc = direct_twin_context(d, &vector_size);
		if (!uc)
			lost(cpu, d);
		if (!same)
			state_to(d, uc, vector_size, code);
		direct_map_prepare(d);
		account_charge(d, since);
		since = __builtin_ia32_rdtsc();
		if (!direct_twin_go(d, true))
			lost(cpu, d);
		STAT_ADD(cpu, DIRECT_CYCLES, __builtin_ia32_rdtsc() - since);
		since = __builtin_ia32_rdtsc();
		account_settle(d);
		uc = direct_twin_context(d, &vector_size);
		if (!uc)
			lost(cpu, d);
		if (unlikely(d->region->report.error)) {
			give_up(d, uc, vector_size, same);
			break;
		}
		code = stop(d, uc, vector_size, &same);
	}
	account_charge(d, since);
	STAT_ADD(cpu, INSNS, t->frame->insns);
	t->frame->insns = 0;
	translate_direct_leave(cpu, t);
}
