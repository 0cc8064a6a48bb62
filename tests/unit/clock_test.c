/* SPDX-License-Identifier: Apache-2.0 */
/* Host clock, guest TSC and its synchronisation, the VM's timers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/timer.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND) };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static void test_host_frequency(void **state)
{
	uint64_t c0 = clock_host_cycles(), t0 = clock_monotonic_ns(), cycles, ns, error;

	(void)state;
	sleep_ns(50 * MS);
	cycles = clock_host_cycles() - c0;
	ns = clock_monotonic_ns() - t0;
	error = clock_cycles_to_ns(cycles) > ns ? clock_cycles_to_ns(cycles) - ns : ns - clock_cycles_to_ns(cycles);
	/* 1%: a preemption between the two reads may add a little. */
	assert_true(error < ns / 100);
}

static void test_scaling(void **state)
{
	(void)state;
	/* Equal frequencies: exact, for any value. */
	assert_true(clock_scale(UINT64_C(0x123456789abcdef), clock_ratio(2500000, 2500000)) ==
		    UINT64_C(0x123456789abcdef));
	/* A year at 3 GHz, halved: no overflow. */
	assert_true(clock_scale(UINT64_C(94608000000000000), clock_ratio(1500000, 3000000)) ==
		    UINT64_C(47304000000000000));
	/* 2.7 to 1.1 GHz: a day is right to a few hundred cycles (48 fraction bits). */
	uint64_t day = UINT64_C(2700000) * 1000 * 86400, want = UINT64_C(1100000) * 1000 * 86400;
	uint64_t got = clock_scale(day, clock_ratio(1100000, 2700000));

	assert_true(want - got < 2);
}

struct two {
	struct vm_clock clock;
	struct vcpu_tsc a, b;
};

static int two_setup(void **state)
{
	static struct two t;

	memset(&t, 0, sizeof(t));
	vm_clock_init(&t.clock);
	vcpu_tsc_init(&t.a, &t.clock, clock_host_khz());
	*state = &t;
	return 0;
}

static int two_teardown(void **state)
{
	struct two *t = *state;

	vm_clock_fini(&t->clock);
	return 0;
}

static void test_tsc_starts_at_zero_and_in_step(void **state)
{
	struct two *t = *state;
	uint64_t now = clock_host_cycles();

	/* Less than a second has passed since the first vCPU came up. */
	assert_true(vcpu_tsc_at(&t->a, now) < clock_host_khz() * UINT64_C(1000));
	sleep_ns(2 * MS);
	vcpu_tsc_init(&t->b, &t->clock, clock_host_khz());
	assert_true(vcpu_tsc_at(&t->a, now) == vcpu_tsc_at(&t->b, now));
}

static void test_tsc_writes_synchronise(void **state)
{
	struct two *t = *state;
	uint64_t value = UINT64_C(123456789012), now;

	vcpu_tsc_init(&t->b, &t->clock, clock_host_khz());
	vcpu_tsc_write(&t->a, &t->clock, value);
	sleep_ns(3 * MS);
	vcpu_tsc_write(&t->b, &t->clock, value);
	now = clock_host_cycles();
	assert_true(vcpu_tsc_at(&t->a, now) == vcpu_tsc_at(&t->b, now));
	assert_true(vcpu_tsc_at(&t->a, now) - value < clock_host_khz() * UINT64_C(1000));
	/* Ten seconds apart is meant: then the second is a new time. */
	vcpu_tsc_write(&t->b, &t->clock, value + clock_host_khz() * UINT64_C(10000));
	now = clock_host_cycles();
	assert_true(vcpu_tsc_at(&t->b, now) - vcpu_tsc_at(&t->a, now) > clock_host_khz() * UINT64_C(9000));
}

static void test_tsc_frequency(void **state)
{
	struct two *t = *state;
	uint64_t before, after, ns, passed;

	before = vcpu_tsc_at(&t->a, clock_host_cycles());
	vcpu_tsc_set_khz(&t->a, 100000); /* 100 MHz: 10 ns a cycle */
	after = vcpu_tsc_at(&t->a, clock_host_cycles());
	assert_true(after >= before);
	ns = clock_monotonic_ns();
	sleep_ns(20 * MS);
	passed = vcpu_tsc_at(&t->a, clock_host_cycles()) - after;
	ns = clock_monotonic_ns() - ns;
	assert_in_range(passed, ns / 10 - ns / 1000, ns / 10 + ns / 100 + 1000);
}

static void test_tsc_is_monotonic(void **state)
{
	struct two *t = *state;
	uint64_t last = 0;

	vcpu_tsc_set_khz(&t->a, 1234567);
	for (int i = 0; i < 100000; i++) {
		uint64_t now = vcpu_tsc_at(&t->a, clock_host_cycles());

		assert_true(now >= last);
		last = now;
	}
}

/* ---- timers ---- */

struct record {
	_Atomic unsigned count;
	unsigned timer[64];
	uint64_t late[64];
	uint64_t deadline[64];
	struct vm_timers *timers;
	_Atomic unsigned rearm; /* timer 7 fires this often more, each 1 ms later */
};

static void on_expired(void *ctx, unsigned timer)
{
	struct record *r = ctx;
	unsigned n = atomic_load(&r->count);
	uint64_t now = clock_monotonic_ns();

	r->timer[n % 64] = timer;
	r->late[n % 64] = now - r->deadline[timer];
	atomic_store(&r->count, n + 1);
	if (timer == 7 && atomic_load(&r->rearm)) {
		atomic_fetch_sub(&r->rearm, 1);
		r->deadline[7] += MS;
		timers_arm(r->timers, 7, r->deadline[7]);
	}
}

static void wait_count(struct record *r, unsigned n)
{
	for (int i = 0; i < 2000 && atomic_load(&r->count) < n; i++)
		sleep_ns(MS);
	assert_int_equal(atomic_load(&r->count), n);
}

static void test_timers_fire_in_order(void **state)
{
	struct vm_timers t;
	struct record r = { .timers = &t };
	uint64_t now;

	(void)state;
	assert_int_equal(timers_start(&t, 16, on_expired, &r), 0);
	now = clock_monotonic_ns();
	/* Armed latest first: the thread has to be moved to an earlier deadline twice. */
	for (unsigned i = 3; i-- > 0;) {
		r.deadline[i] = now + (5 + 5 * i) * MS;
		timers_arm(&t, i, r.deadline[i]);
	}
	wait_count(&r, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(r.timer[i], i);
		assert_true(r.late[i] < 500 * MS); /* never early: that would be huge */
	}
	timers_fini(&t);
}

static void test_timers_disarm_and_rearm(void **state)
{
	struct vm_timers t;
	struct record r = { .timers = &t };

	(void)state;
	assert_int_equal(timers_start(&t, 16, on_expired, &r), 0);
	timers_arm(&t, 1, clock_monotonic_ns() + 20 * MS);
	timers_arm(&t, 1, UINT64_MAX);
	timers_arm(&t, 99, 1); /* no such timer */
	sleep_ns(40 * MS);
	assert_int_equal(atomic_load(&r.count), 0);
	/* In the past: at once. From inside the callback: again. */
	atomic_store(&r.rearm, 4);
	r.deadline[7] = clock_monotonic_ns();
	timers_arm(&t, 7, r.deadline[7]);
	wait_count(&r, 5);
	timers_arm(&t, 2, clock_monotonic_ns() + 3600 * SECOND);
	timers_stop(&t); /* does not wait for it */
	timers_arm(&t, 3, 1);
	sleep_ns(5 * MS);
	assert_int_equal(atomic_load(&r.count), 5);
	timers_fini(&t);
}

/* What somebody waits for himself is left alone, and he learns what he must know. */
static void test_timers_lent(void **state)
{
	struct vm_timers t;
	struct record r = { .timers = &t };

	(void)state;
	assert_int_equal(timers_start(&t, 16, on_expired, &r), 0);
	assert_false(timers_arm(&t, 3, clock_monotonic_ns() + 3600 * SECOND));
	timers_lend(&t, 3);
	pthread_mutex_lock(&t.lock);
	assert_true(t.programmed == UINT64_MAX); /* nothing to wake for */
	pthread_mutex_unlock(&t.lock);
	assert_true(timers_take(&t, 3) > clock_monotonic_ns() + 3500 * SECOND);
	assert_false(timers_arm(&t, 3, clock_monotonic_ns() + 7200 * SECOND));
	assert_true(timers_arm(&t, 3, clock_monotonic_ns())); /* sooner than he knows */
	r.deadline[4] = clock_monotonic_ns() + 5 * MS;
	timers_arm(&t, 4, r.deadline[4]);
	wait_count(&r, 1);
	assert_int_equal(r.timer[0], 4); /* the other one, though later */
	assert_int_equal(timers_take(&t, 3), 0);
	assert_true(timers_take(&t, 3) == UINT64_MAX); /* was disarmed by that */
	assert_true(timers_arm(&t, 3, r.deadline[3] = clock_monotonic_ns()));
	timers_return(&t, 3);
	wait_count(&r, 2);
	assert_int_equal(r.timer[1], 3);
	timers_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_frequency),
		cmocka_unit_test(test_scaling),
		cmocka_unit_test_setup_teardown(test_tsc_starts_at_zero_and_in_step, two_setup, two_teardown),
		cmocka_unit_test_setup_teardown(test_tsc_writes_synchronise, two_setup, two_teardown),
		cmocka_unit_test_setup_teardown(test_tsc_frequency, two_setup, two_teardown),
		cmocka_unit_test_setup_teardown(test_tsc_is_monotonic, two_setup, two_teardown),
		cmocka_unit_test(test_timers_fire_in_order),
		cmocka_unit_test(test_timers_disarm_and_rearm),
		cmocka_unit_test(test_timers_lent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
