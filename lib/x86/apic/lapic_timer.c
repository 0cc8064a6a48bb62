/* SPDX-License-Identifier: Apache-2.0 */
/* The APIC timer: one-shot, periodic, TSC-deadline (SDM 3A 10.5.4). */
#include "x86/apic/lapic_state.h"

/* The shortest period served: shorter ones would let a guest keep the host's timer thread busy. KVM has the same floor.
 */
#define MIN_PERIOD_NS 200000u

static void arm(struct lapic *l)
{
	l->chip->ops->timer_arm(l->chip->ctx, IRQCHIP_TIMER_LAPIC(l->cpu->id), l->deadline_ns);
}

enum lapic_timer_mode lapic_timer_mode(const struct lapic *l)
{
	return LVT_TIMER_MODE(l->lvt[LVT_TIMER]);
}

static uint32_t divisor(const struct lapic *l)
{
	uint32_t v = (l->tdcr & 3) | ((l->tdcr >> 1) & 4); /* bits 3, 1, 0; 111b divides by 1 */

	return BIT32((v + 1) & 7);
}

static uint64_t period_of(const struct lapic *l)
{
	uint64_t ns = (uint64_t)l->tmict * divisor(l);

	if (lapic_timer_mode(l) == LAPIC_PERIODIC && ns < MIN_PERIOD_NS)
		ns = MIN_PERIOD_NS;
	return ns;
}

void lapic_timer_stop_locked(struct lapic *l)
{
	l->deadline_ns = 0;
	l->period_ns = 0;
	arm(l);
}

/* Deadlines of 0 mean "not running"; the VM clock's own zero is not a time one can wait for. */
static void run_until(struct lapic *l, uint64_t deadline_ns)
{
	l->deadline_ns = deadline_ns ? deadline_ns : 1;
	arm(l);
}

void lapic_timer_start_locked(struct lapic *l)
{
	if (!l->tmict || lapic_timer_mode(l) > LAPIC_PERIODIC) {
		lapic_timer_stop_locked(l);
		return;
	}
	l->period_ns = period_of(l);
	run_until(l, chip_now(l->chip) + l->period_ns);
}

/* Time to the next expiry, seen by a periodic timer whose expiry is not served yet as well. */
static uint64_t remaining_ns(struct lapic *l)
{
	uint64_t now;

	if (!l->deadline_ns || lapic_timer_mode(l) > LAPIC_PERIODIC)
		return 0;
	now = chip_now(l->chip);
	if (now < l->deadline_ns)
		return l->deadline_ns - now;
	if (lapic_timer_mode(l) != LAPIC_PERIODIC || !l->period_ns)
		return 0;
	return l->period_ns - (now - l->deadline_ns) % l->period_ns;
}

uint32_t lapic_timer_current_locked(struct lapic *l)
{
	uint64_t count = remaining_ns(l) / divisor(l);

	return count > l->tmict ? l->tmict : (uint32_t)count;
}

/* The count goes on from where it is, at the new speed. */
void lapic_timer_set_divisor_locked(struct lapic *l, uint32_t tdcr)
{
	uint64_t left = remaining_ns(l), old = divisor(l);

	l->tdcr = tdcr & 0xb;
	if (!left)
		return;
	l->period_ns = period_of(l);
	run_until(l, chip_now(l->chip) + left / old * divisor(l));
}

static void fire(struct lapic *l)
{
	lapic_local_deliver_locked(l, LVT_TIMER);
}

/* Arm for the guest TSC's deadline, or fire if it is past (SDM 3A 10.5.4.1: also when written in the past). */
static void wait_for_tsc(struct lapic *l)
{
	const struct irqchip_ops *ops = l->chip->ops;
	uint64_t tsc, hz, now;
	unsigned __int128 ns;

	if (!l->tsc_deadline) {
		lapic_timer_stop_locked(l);
		return;
	}
	now = chip_now(l->chip);
	tsc = ops->tsc_now(l->chip->ctx, l->cpu);
	if (tsc >= l->tsc_deadline) {
		l->tsc_deadline = 0;
		lapic_timer_stop_locked(l);
		fire(l);
		return;
	}
	hz = ops->tsc_hz(l->chip->ctx, l->cpu);
	ns = ((unsigned __int128)(l->tsc_deadline - tsc) * 1000000000u + hz - 1) / hz;
	run_until(l, ns > UINT64_MAX / 2 - now ? UINT64_MAX / 2 : now + (uint64_t)ns);
}

void lapic_timer_set_tsc_deadline_locked(struct lapic *l, uint64_t tsc)
{
	if (!lapic_hw_enabled(l) || lapic_timer_mode(l) != LAPIC_TSC_DEADLINE)
		return; /* ignored (SDM 3A 10.5.4.1) */
	l->tsc_deadline = tsc;
	wait_for_tsc(l);
}

void lapic_tsc_changed(struct x86_cpu *cpu)
{
	struct lapic *l = cpu->lapic;

	lapic_lock(l);
	if (l->tsc_deadline)
		wait_for_tsc(l);
	lapic_unlock(l);
}

void lapic_timer_resume_locked(struct lapic *l, uint32_t tmcct)
{
	if (lapic_timer_mode(l) == LAPIC_TSC_DEADLINE) {
		wait_for_tsc(l);
		return;
	}
	l->tsc_deadline = 0;
	lapic_timer_start_locked(l);
	if (!l->deadline_ns)
		return;
	if (tmcct && tmcct < l->tmict)
		run_until(l, chip_now(l->chip) + (uint64_t)tmcct * divisor(l));
	else if (!tmcct && lapic_timer_mode(l) == LAPIC_ONE_SHOT)
		lapic_timer_stop_locked(l); /* it had expired already */
}

/* The deadline is over: interrupt, and the next one or none. */
static void expire(struct lapic *l, uint64_t now)
{
	if (lapic_timer_mode(l) == LAPIC_TSC_DEADLINE) {
		wait_for_tsc(l);
	} else if (lapic_timer_mode(l) == LAPIC_PERIODIC && l->period_ns) {
		/* Periods that passed while nobody looked merge into one interrupt, as in the IRR. */
		run_until(l, l->deadline_ns + ((now - l->deadline_ns) / l->period_ns + 1) * l->period_ns);
		fire(l);
	} else {
		lapic_timer_stop_locked(l);
		fire(l);
	}
}

void lapic_timer_set_lvt_locked(struct lapic *l, uint32_t lvt)
{
	bool was_deadline = l->lvt[LVT_TIMER] & LVT_TSC_DEADLINE;
	uint64_t now = chip_now(l->chip);

	/* An expiry that the timer thread has not served yet belongs to the old mode. */
	if (l->deadline_ns && now >= l->deadline_ns)
		expire(l, now);
	/* SDM 3A 10.5.4.1: a change to or from TSC-deadline mode disarms; one-shot and periodic share the count. */
	if (was_deadline != !!(lvt & LVT_TSC_DEADLINE)) {
		l->tmict = 0;
		l->tsc_deadline = 0;
		lapic_timer_stop_locked(l);
	}
	l->lvt[LVT_TIMER] = lvt;
	if (l->deadline_ns && lapic_timer_mode(l) <= LAPIC_PERIODIC)
		l->period_ns = period_of(l);
}

void lapic_timer_expired(struct lapic *l)
{
	uint64_t now;

	lapic_lock(l);
	now = chip_now(l->chip);
	/* No deadline: disarmed while the expiry was on its way. */
	if (l->deadline_ns && now < l->deadline_ns)
		arm(l); /* restarted meanwhile */
	else if (l->deadline_ns)
		expire(l, now);
	lapic_unlock(l);
}
