/* SPDX-License-Identifier: Apache-2.0 */
/* The timer service of devices: its clock can be held, and its timers with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/timer.h"

static _Atomic unsigned expiries;

static void expired(struct device *dev)
{
	(void)dev;
	expiries++;
}

static uint64_t monotonic(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void test_hold(void **state)
{
	static const struct device_ops ops = { .name = "test" };
	struct timer_service *service = timer_service_create();
	struct device_timer timer;
	struct device dev;
	uint64_t held;

	(void)state;
	assert_non_null(service);
	device_init(&dev, &ops);
	timer_init(&timer, service, &dev, expired);
	for (unsigned i = 1; i <= 3; i++) {
		timer_service_hold(service, true);
		timer_service_hold(service, true); /* is held already */
		held = timer_now(service);
		timer_arm(&timer, held + 1000000);
		usleep(20000);
		assert_int_equal(timer_now(service), held);
		assert_int_equal(expiries, i - 1);
		timer_service_hold(service, false);
		while (expiries < i)
			usleep(100);
		assert_true(timer_now(service) >= held + 1000000);
		assert_true(monotonic() - timer_now(service) >= i * UINT64_C(20000000));
	}
	timer_service_destroy(service);
	device_fini(&dev);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_hold) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
