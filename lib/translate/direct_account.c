/* SPDX-License-Identifier: Apache-2.0 */
/* When guest user code runs directly: what it costs there and what it gains, and whether the state allows it. */
#include <time.h>

#include "base/stats.h"
#include "translate/direct.h"
#include "x86/event.h"
#include "x86/exception.h"

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
#define STOP_MAX 400000 /* more than this is somebody else's time */
#define RENEWAL 300000
#define VISIT_MAX 1000000  /* longer is no visit; who runs here that long has a short rest next */
#define VISIT_REST 2000000 /* what follows at first */
#define LOOK 1000000       /* apart, lest one interrupt be many */
#define LOOKS 8            /* that find the same address space, before the twin becomes its */
#define SAMPLE 32          /* turns */

void direct_account_start(struct translate_direct *d)
{
	d->credit = CREDIT_START;
	d->rest = REST_MIN;
	d->turn = TURN_MIN;
	d->visit_rest = VISIT_REST;
	d->rest_until = d->looked = direct_tsc();
	d->visit = TRANSLATE_NO_PAGE;
}

/* The runner's turns since the last sample have earned d->sample.earned. */
static void account_waits(struct translate_direct *d)
{
	struct direct_sample now = { .turns = 0, .tsc = direct_tsc(), .runner = d->runner }, *last = &d->sample;
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

void direct_account_ran(struct translate_direct *d, uint64_t cycles)
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

void direct_rest(struct translate_direct *d, uint64_t cycles)
{
	d->rest_until = direct_tsc() + cycles;
	d->t->frame->user_rest = d->always ? 0 : d->rest_until;
	STAT_INC(d->t->cpu, DIRECT_RESTS);
	STAT_ADD(d->t->cpu, DIRECT_REST_CYCLES, cycles);
}

void direct_account_stop(struct translate_direct *d, uint64_t cycles)
{
	uint64_t cost = (cycles < STOP_MAX ? cycles : STOP_MAX) + d->turn;

	d->credit -= (int64_t)(d->paging ? cost / PAGING : cost);
	if (d->credit >= 0 || d->always)
		return;
	direct_rest(d, d->rest);
	d->rest = d->rest * 2 < DIRECT_REST_MAX ? d->rest * 2 : DIRECT_REST_MAX;
	d->credit = CREDIT_START;
}

void direct_account_renewal(struct translate_direct *d)
{
	d->credit -= RENEWAL;
}

bool direct_is_resting(const struct translate_direct *d)
{
	return !d->always && (int64_t)(direct_tsc() - d->rest_until) < 0;
}

/* ---- may it run there? ---- */

#define FLAGS_APART (X86_TF | X86_IOPL | X86_NT | X86_RF | X86_AC | X86_VIF | X86_VIP | BIT64(17))

static bool has_host_selectors(const struct x86_cpu *cpu)
{
	return cpu->seg[X86_CS].sel == DIRECT_USER_CS && cpu->seg[X86_SS].sel == DIRECT_USER_SS &&
	       !cpu->seg[X86_DS].sel && !cpu->seg[X86_ES].sel && !cpu->seg[X86_FS].sel && !cpu->seg[X86_GS].sel;
}

unsigned direct_avoids(const struct translate_direct *d)
{
	const struct x86_cpu *cpu = d->t->cpu;

	return (d->host_xcr0 == cpu->xcr0 ? 0 : DIRECT_AVOID_XSAVE) |
	       (has_host_selectors(cpu) ? 0 : DIRECT_AVOID_SELECTORS) |
	       (cpu->cr4 & X86_CR4_FSGSBASE ? 0 : DIRECT_AVOID_FSGSBASE);
}

bool direct_fits(const struct translate_direct *d)
{
	const uint64_t cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT;
	const struct x86_cpu *cpu = d->t->cpu;

	/* EFER.SCE: else SYSCALL would be undefined and change nothing. */
	return cpu->cpl == 3 && cpu->code_size == 8 && (cpu->efer & X86_EFER_SCE) && !(cpu->rflags & FLAGS_APART) &&
	       (cpu->rflags & X86_IF) && !(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (cpu->cr4 & cr4) == cr4 &&
	       !(cpu->cr4 & X86_CR4_LA57) && !((d->host_xcr0 ^ cpu->xcr0) & DIRECT_XSTATE) &&
	       !(cpu->seg[X86_FS].base >> 47) && !(cpu->seg[X86_GS].base >> 47) && !(cpu->rip >> 47) && !d->t->guard &&
	       !cpu->tlb->overlay && !x86_needs_stepping(cpu) && !cpu->guest_debug_bp && !cpu->io.logged;
}

uint64_t direct_cr3(const struct x86_cpu *cpu)
{
	return cpu->cr3 & ~TZ_PAGE_MASK;
}

/* Another address space runs: often enough, and the twin becomes its. */
static bool adopt(struct translate_direct *d)
{
	struct x86_cpu *cpu = d->t->cpu;

	if (d->candidate != direct_cr3(cpu)) {
		d->candidate = direct_cr3(cpu);
		d->looks = 0;
	}
	if (!d->always) {
		if (direct_tsc() - d->looked < LOOK)
			return false;
		d->looked = direct_tsc();
		if (++d->looks < LOOKS)
			return false;
	}
	d->looks = 0;
	d->cr3 = direct_cr3(cpu);
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
void direct_visit_begin(struct translate_direct *d, uint64_t page)
{
	d->visit = page;
	d->visit_since = direct_tsc();
	d->t->visits = true;
	d->paging = false;
}

/* User code goes on: as a visit? */
static bool is_visit(struct translate_direct *d)
{
	d->t->visits = false;
	if (likely((d->t->cpu->rip & ~TZ_PAGE_MASK) != d->visit))
		return false;
	if (direct_tsc() - d->visit_since < VISIT_MAX || d->always) {
		d->t->visits = true;
		return true;
	}
	d->visit = TRANSLATE_NO_PAGE;
	direct_rest(d, d->visit_rest);
	d->visit_rest = d->visit_rest * 2 < DIRECT_REST_MAX ? d->visit_rest * 2 : DIRECT_REST_MAX;
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
	if (!d || d->failed || t->visits || direct_is_resting(d) || !direct_fits(d))
		return false;
	return d->always || d->cr3 == direct_cr3(t->cpu) || direct_tsc() - d->looked >= LOOK;
}

bool translate_direct_wanted(struct x86_cpu *cpu, struct translate *t)
{
	struct translate_direct *d = t->direct;

	if (!d || d->failed || cpu->cpl != 3 || direct_is_resting(d) || !direct_fits(d) || is_visit(d))
		return false;
	if (d->cr3 != direct_cr3(cpu))
		return adopt(d);
	d->looks = 0;
	d->visit = TRANSLATE_NO_PAGE;
	return true;
}
