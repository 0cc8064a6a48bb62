/* SPDX-License-Identifier: Apache-2.0 */
/* The line that kvmclock is: factors, following a clock that drifts, without a step back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "core/pv_clock.h"

#define SECOND UINT64_C(1000000000)

static void test_factors(void **state)
{
	static const double khz[] = { 1, 1000, 999999, 1000000, 1000001, 2596098, 3999999, 4000000, 10000000 };

	(void)state;
	for (unsigned i = 0; i < sizeof(khz) / sizeof(khz[0]); i++) {
		uint64_t minute = (uint64_t)(khz[i] * 1000) * 60;
		struct pv_line line = { .ns_per_cycle = 1e6 / khz[i] };

		pv_line_factors(line.ns_per_cycle, &line.mul, &line.shift);
		assert_true(line.mul >> 31); /* all the precision there is */
		/* Half a part in 2^31 a factor, a cycle lost to the shift. */
		assert_in_range(pv_line_at(&line, minute), 60 * SECOND - 60 - 2000000 / (uint64_t)khz[i],
				60 * SECOND + 60);
	}
}

/* A made-up host: its counter has the frequency it was measured at, and its clock is off by some parts per million. */
struct host {
	struct clock_sample start;
	double rate;
};

static struct clock_sample at(const struct host *h, double seconds)
{
	uint64_t cycles = (uint64_t)(seconds * clock_host_khz() * 1000);

	return (struct clock_sample){ .cycles = h->start.cycles + cycles,
				      .ns = h->start.ns + (uint64_t)(seconds * 1e9 * h->rate),
				      .width = 50 };
}

/* A look each second, as vCPUs do; the largest error from `settle` seconds on, and how many corrections it took. */
static double follow(double ppm, double jitter_ns, int seconds, int settle, unsigned *corrections)
{
	struct pv_clock clock;
	struct host h = { .rate = 1 + ppm * 1e-6 };
	struct pv_line line;
	double worst = 0;
	uint64_t last = 0;

	pv_clock_init(&clock, 0);
	line = pv_clock_line(&clock);
	h.start = (struct clock_sample){ .cycles = line.cycles, .ns = line.ns };
	*corrections = 0;
	for (int s = 1; s <= seconds; s++) {
		struct clock_sample now = at(&h, s);
		uint64_t before, after;
		double error;

		now.ns += (uint64_t)(jitter_ns * (s % 3));
		line = pv_clock_line(&clock);
		before = pv_line_at(&line, now.cycles);
		assert_true(before >= last);
		if (pv_clock_astray(&clock, &now)) {
			pv_clock_correct(&clock, &now);
			++*corrections;
		}
		line = pv_clock_line(&clock);
		after = pv_line_at(&line, now.cycles);
		assert_true(after >= before);
		last = after;
		error = (double)(int64_t)(after - now.ns);
		if (error < 0)
			error = -error;
		if (s >= settle && error > worst)
			worst = error;
	}
	pv_clock_fini(&clock);
	return worst;
}

static void test_follows_a_drifting_clock(void **state)
{
	static const double ppm[] = { 0, 1, -1, 20, -20, 200, -200, 450 };
	unsigned corrections;

	(void)state;
	for (unsigned i = 0; i < sizeof(ppm) / sizeof(ppm[0]); i++) {
		/* 1 ms a minute is 16.7 ppm; what is asked for here is a hundredth of it, and few corrections. */
		assert_true(follow(ppm[i], 0, 600, 60, &corrections) < 12000);
		assert_true(corrections < 40);
	}
	assert_true(follow(0, 0, 100, 0, &corrections) < 1000);
	assert_int_equal(corrections, 0);
	/* Samples that are off by some microseconds do not set it going. */
	assert_true(follow(0, 3000, 100, 0, &corrections) < 12000);
	assert_int_equal(corrections, 0);
}

/* The counter stood still while the clock went on (a suspended host): a step forward, never one back. */
static void test_gap(void **state)
{
	struct pv_clock clock;
	struct clock_sample now;
	struct pv_line line;
	struct host h = { .rate = 1 };

	(void)state;
	pv_clock_init(&clock, 0);
	line = pv_clock_line(&clock);
	h.start = (struct clock_sample){ .cycles = line.cycles, .ns = line.ns };
	now = at(&h, 5);
	now.ns += 100 * SECOND;
	assert_true(pv_clock_astray(&clock, &now));
	pv_clock_correct(&clock, &now);
	line = pv_clock_line(&clock);
	assert_true(llabs((int64_t)(pv_line_at(&line, now.cycles) - now.ns)) < 1000);
	/* And the other way round: it slows down by half a per mille, no more. */
	now = at(&h, 6);
	uint64_t before = pv_line_at(&line, now.cycles);
	pv_clock_correct(&clock, &now);
	line = pv_clock_line(&clock);
	assert_int_equal(pv_line_at(&line, now.cycles), before);
	now = at(&h, 7);
	assert_in_range(pv_line_at(&line, now.cycles) - before, SECOND - 501000, SECOND - 499000);
	pv_clock_fini(&clock);
}

static void test_bad_sample_is_ignored(void **state)
{
	struct pv_clock clock;
	struct clock_sample now;
	struct pv_line line;

	(void)state;
	pv_clock_init(&clock, 0);
	line = pv_clock_line(&clock);
	now = (struct clock_sample){ .cycles = line.cycles, .ns = line.ns + 50000, .width = clock_host_khz() };
	assert_false(pv_clock_astray(&clock, &now)); /* a millisecond wide */
	now.width = 100;
	assert_true(pv_clock_astray(&clock, &now));
	pv_clock_fini(&clock);
}

static void test_set(void **state)
{
	struct pv_clock clock;
	struct pv_line line;

	(void)state;
	pv_clock_init(&clock, clock_monotonic_ns());
	line = pv_clock_line(&clock);
	assert_in_range(pv_line_at(&line, clock_host_cycles()), 0, 10 * SECOND);
	pv_clock_set(&clock, 5000 * SECOND);
	line = pv_clock_line(&clock);
	assert_in_range(pv_line_at(&line, clock_host_cycles()), 5000 * SECOND, 5010 * SECOND);
	/* What it follows moved with it. */
	struct clock_sample now = clock_sample(CLOCK_MONOTONIC);
	assert_false(now.width < 1000 && pv_clock_astray(&clock, &now));
	/* Backwards too: the client may. */
	pv_clock_set(&clock, 7);
	line = pv_clock_line(&clock);
	assert_in_range(pv_line_at(&line, clock_host_cycles()), 7, 10 * SECOND);
	pv_clock_fini(&clock);
}

static void test_one_look_a_second(void **state)
{
	struct pv_clock clock;
	uint64_t now = clock_host_cycles(), second = clock_host_khz() * UINT64_C(1000);

	(void)state;
	pv_clock_init(&clock, 0);
	assert_false(pv_clock_check_due(&clock, now));
	assert_true(pv_clock_check_due(&clock, now + 2 * second));
	assert_false(pv_clock_check_due(&clock, now + 2 * second));
	assert_true(pv_clock_check_due(&clock, now + 3 * second));
	pv_clock_fini(&clock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_factors), cmocka_unit_test(test_follows_a_drifting_clock),
		cmocka_unit_test(test_gap),     cmocka_unit_test(test_bad_sample_is_ignored),
		cmocka_unit_test(test_set),     cmocka_unit_test(test_one_look_a_second),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
