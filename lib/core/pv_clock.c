/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pv_clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Errors below are left alone: two samples differ by less only by luck. */
#define TOLERANCE_NS 10000
#define SETTLED_NS 5000
/* Above, something stopped the counter or the clock (a suspend); a step is better than hours of steering. */
#define STEP_NS 10000000
#define STEER_OVER_NS 4e9 /* an error is made good in about that time */
#define STEER_MAX 500e-6  /* as adjtimex(2) */
#define SLOPE_MAX 1e-3    /* what a measured slope may differ from the nominal one */
/* The host's slope is measured over half a minute to one. */
#define MARK_AGE_S 30
#define MARK_MIN_S 0.5

static uint64_t cycles_per_second(void)
{
	return clock_host_khz() * UINT64_C(1000);
}

void pv_line_factors(double ns_per_cycle, uint32_t *mul, int8_t *shift)
{
	int exponent;
	double fraction = frexp(ns_per_cycle, &exponent); /* 0.5 to 1 */
	double scaled = ldexp(fraction, 32);

	*mul = scaled > UINT32_MAX ? UINT32_MAX : (uint32_t)scaled;
	*shift = (int8_t)exponent;
}

static void line_set(struct pv_line *line, uint64_t cycles, uint64_t ns, double ns_per_cycle)
{
	line->cycles = cycles;
	line->ns = ns;
	line->ns_per_cycle = ns_per_cycle;
	pv_line_factors(ns_per_cycle, &line->mul, &line->shift);
}

/* As a guest computes it, to the nanosecond. */
uint64_t pv_line_at(const struct pv_line *line, uint64_t cycles)
{
	uint64_t delta = cycles > line->cycles ? cycles - line->cycles : 0;

	delta = line->shift < 0 ? delta >> -line->shift : delta << line->shift;
	return line->ns + (uint64_t)(((unsigned __int128)delta * line->mul) >> 32);
}

void pv_clock_init(struct pv_clock *clock, uint64_t zero)
{
	struct clock_sample now = clock_sample(CLOCK_MONOTONIC);

	memset(clock, 0, sizeof(*clock));
	pthread_mutex_init(&clock->lock, NULL);
	clock->zero = zero;
	clock->mark[0] = clock->mark[1] = now;
	line_set(&clock->line, now.cycles, now.ns - zero, 1e6 / clock_host_khz());
	atomic_store(&clock->check_at, now.cycles + cycles_per_second());
}

void pv_clock_fini(struct pv_clock *clock)
{
	pthread_mutex_destroy(&clock->lock);
}

struct pv_line pv_clock_line(struct pv_clock *clock)
{
	struct pv_line line;

	pthread_mutex_lock(&clock->lock);
	line = clock->line;
	pthread_mutex_unlock(&clock->lock);
	return line;
}

void pv_clock_set(struct pv_clock *clock, uint64_t ns)
{
	struct clock_sample now = clock_sample(CLOCK_MONOTONIC);

	pthread_mutex_lock(&clock->lock);
	clock->zero = now.ns - ns;
	line_set(&clock->line, now.cycles, ns, clock->line.ns_per_cycle);
	pthread_mutex_unlock(&clock->lock);
}

bool pv_clock_check_due(struct pv_clock *clock, uint64_t cycles)
{
	uint64_t at = atomic_load_explicit(&clock->check_at, memory_order_relaxed);

	return cycles >= at && atomic_compare_exchange_strong(&clock->check_at, &at, cycles + cycles_per_second());
}

/* What the line lacks, ns. Lock held. */
static int64_t error_at(const struct pv_clock *clock, const struct clock_sample *now)
{
	return (int64_t)(now->ns - clock->zero - pv_line_at(&clock->line, now->cycles));
}

bool pv_clock_astray(struct pv_clock *clock, const struct clock_sample *now)
{
	int64_t error;
	bool astray;

	/* Preempted in every one of its tries: such a sample says nothing. */
	if (now->width > cycles_per_second() / 1000000 * SETTLED_NS / 1000)
		return false;
	pthread_mutex_lock(&clock->lock);
	error = error_at(clock, now);
	astray = error > TOLERANCE_NS || error < -TOLERANCE_NS || (clock->steering && llabs(error) < SETTLED_NS);
	pthread_mutex_unlock(&clock->lock);
	return astray;
}

/* The host's own slope of late; one that NTP does not make tells of a gap. Lock held. */
static double host_slope(struct pv_clock *clock, const struct clock_sample *now)
{
	const struct clock_sample *old = &clock->mark[0];
	double cycles = (double)(now->cycles - old->cycles);
	double nominal = 1e6 / clock_host_khz(), slope = nominal;

	if (cycles >= MARK_MIN_S * (double)cycles_per_second())
		slope = (double)(int64_t)(now->ns - old->ns) / cycles;
	if (slope > nominal * (1 + SLOPE_MAX) || slope < nominal * (1 - SLOPE_MAX))
		slope = nominal;
	if (now->cycles - clock->mark[1].cycles >= cycles_per_second() * MARK_AGE_S) {
		clock->mark[0] = clock->mark[1];
		clock->mark[1] = *now;
	}
	return slope;
}

void pv_clock_correct(struct pv_clock *clock, const struct clock_sample *now)
{
	double slope, steer;
	uint64_t ns;
	int64_t error;

	pthread_mutex_lock(&clock->lock);
	slope = host_slope(clock, now);
	error = error_at(clock, now);
	ns = pv_line_at(&clock->line, now->cycles);
	if (error > STEP_NS) {
		ns += (uint64_t)error;
		error = 0;
		clock->mark[0] = clock->mark[1] = *now; /* a slope across the gap would be none */
		slope = clock->line.ns_per_cycle;
	}
	clock->steering = llabs(error) >= SETTLED_NS;
	steer = clock->steering ? (double)error / STEER_OVER_NS : 0;
	if (steer > STEER_MAX)
		steer = STEER_MAX;
	if (steer < -STEER_MAX)
		steer = -STEER_MAX;
	line_set(&clock->line, now->cycles, ns, slope * (1 + steer));
	pthread_mutex_unlock(&clock->lock);
}
