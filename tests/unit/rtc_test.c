/* SPDX-License-Identifier: Apache-2.0 */
/* MC146818 RTC through its ports, with stepped time that starts on Saturday 2000-01-01 00:00:00 UTC. */
#include "boardfix.h"

#define BASE 0x70
#define MS UINT64_C(1000000)

struct fixture {
	struct recorder rec;
	struct timer_service *timers;
	struct device *dev;
	struct bus *bus;
};

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;
	uint8_t cmos[RTC_CMOS_SIZE] = { 0 };

	memset(f, 0, sizeof(*f));
	cmos[0x15] = 0x80;
	f->timers = timer_service_create_stepped();
	f->dev = rtc_create(f->timers, fix_line(&f->rec, 8), cmos);
	f->bus = bus_create();
	assert_int_equal(bus_map(f->bus, BUS_PIO, BASE, 2, f->dev, 0), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	timer_service_destroy(f->timers);
	f->dev->ops->destroy(f->dev);
	bus_destroy(f->bus);
	return 0;
}

static uint8_t rd(struct fixture *f, uint8_t reg)
{
	fix_out(f->bus, BASE, reg, 1);
	return (uint8_t)fix_in(f->bus, BASE + 1, 1);
}

static void wr(struct fixture *f, uint8_t reg, uint8_t value)
{
	fix_out(f->bus, BASE, reg, 1);
	fix_out(f->bus, BASE + 1, value, 1);
}

static void test_reads_host_time(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rd(f, 0x0d), 0x80);
	assert_int_equal(rd(f, 0x0b), 0x02);
	assert_int_equal(rd(f, 0x32), 0x20);
	assert_int_equal(rd(f, 9), 0x00);
	assert_int_equal(rd(f, 8), 0x01);
	assert_int_equal(rd(f, 7), 0x01);
	assert_int_equal(rd(f, 6), 0x07); /* Saturday */
	timer_service_step(f->timers, (13 * 3600 + 59 * 60 + 58) * NS_PER_SEC);
	assert_int_equal(rd(f, 4), 0x13);
	assert_int_equal(rd(f, 2), 0x59);
	assert_int_equal(rd(f, 0), 0x58);
	wr(f, 0x0b, 0x06);
	assert_int_equal(rd(f, 4), 13);
	wr(f, 0x0b, 0x00);
	assert_int_equal(rd(f, 4), 0x81); /* 1 pm */
	assert_int_equal(rd(f, 0x15), 0x80);
	wr(f, 0x8f, 0x0a); /* bit 7 of the index is not the chip's */
	assert_int_equal(rd(f, 0x0f), 0x0a);
}

static void set_time(struct fixture *f, uint8_t hour, uint8_t minute, uint8_t second)
{
	wr(f, 0x0b, 0x82);
	wr(f, 4, hour);
	wr(f, 2, minute);
	wr(f, 0, second);
	wr(f, 0x0b, 0x02);
}

static void test_set_and_carry(void **state)
{
	struct fixture *f = *state;

	timer_service_step(f->timers, 250 * MS);
	wr(f, 0x0b, 0x82);
	wr(f, 0x32, 0x20);
	wr(f, 9, 0x24);
	wr(f, 8, 0x02);
	wr(f, 7, 0x28);
	wr(f, 4, 0x23);
	wr(f, 2, 0x59);
	wr(f, 0, 0x59);
	timer_service_step(f->timers, 5 * NS_PER_SEC);
	assert_int_equal(rd(f, 0), 0x59); /* held */
	wr(f, 0x0b, 0x02);
	timer_service_step(f->timers, 740 * MS);
	assert_int_equal(rd(f, 7), 0x28);
	timer_service_step(f->timers, 20 * MS);
	assert_int_equal(rd(f, 7), 0x29); /* 2024 is a leap year */
	assert_int_equal(rd(f, 4), 0x00);
	assert_int_equal(rd(f, 6), 0x05); /* Thursday */
}

static void test_divider_release_is_half_a_second(void **state)
{
	struct fixture *f = *state;

	timer_service_step(f->timers, 100 * MS);
	wr(f, 0x0b, 0x82);
	wr(f, 0x0a, 0x76);
	wr(f, 0, 0x10);
	wr(f, 0x0a, 0x26);
	wr(f, 0x0b, 0x02);
	timer_service_step(f->timers, 490 * MS);
	assert_int_equal(rd(f, 0), 0x10);
	timer_service_step(f->timers, 20 * MS);
	assert_int_equal(rd(f, 0), 0x11);
}

static void test_update_in_progress(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rd(f, 0x0a), 0x26);
	timer_service_step(f->timers, NS_PER_SEC - 100000);
	assert_int_equal(rd(f, 0x0a), 0xa6);
	timer_service_step(f->timers, 100000);
	assert_int_equal(rd(f, 0x0a), 0x26);
}

static void test_update_flag_and_interrupt(void **state)
{
	struct fixture *f = *state;

	rd(f, 0x0c);
	timer_service_step(f->timers, NS_PER_SEC);
	assert_int_equal(rd(f, 0x0c) & 0x90, 0x10); /* polled */
	assert_int_equal(rd(f, 0x0c) & 0x90, 0);
	wr(f, 0x0b, 0x12);
	timer_service_step(f->timers, 990 * MS);
	assert_false(f->rec.level[8]);
	timer_service_step(f->timers, 20 * MS);
	assert_true(f->rec.level[8]);
	assert_int_equal(rd(f, 0x0c) & 0x90, 0x90);
	assert_false(f->rec.level[8]);
	timer_service_step(f->timers, NS_PER_SEC);
	assert_true(f->rec.level[8]);
	assert_int_equal(f->rec.rises[8], 2);
}

static void test_periodic_interrupt(void **state)
{
	struct fixture *f = *state;

	wr(f, 0x0a, 0x2f); /* 2 Hz */
	wr(f, 0x0b, 0x42);
	rd(f, 0x0c);
	for (unsigned i = 1; i <= 5; i++) {
		timer_service_step(f->timers, 500 * MS);
		assert_true(f->rec.level[8]);
		assert_int_equal(rd(f, 0x0c) & 0xc0, 0xc0);
		assert_false(f->rec.level[8]);
	}
	wr(f, 0x0a, 0x20);
	timer_service_step(f->timers, 5 * NS_PER_SEC);
	assert_false(f->rec.level[8]);
}

static void test_alarm(void **state)
{
	struct fixture *f = *state;

	set_time(f, 0x10, 0x00, 0x00);
	wr(f, 5, 0x10);
	wr(f, 3, 0x30);
	wr(f, 1, 0x15);
	wr(f, 0x0b, 0x22);
	rd(f, 0x0c);
	timer_service_step(f->timers, (30 * 60 + 14) * NS_PER_SEC);
	assert_false(f->rec.level[8]);
	timer_service_step(f->timers, NS_PER_SEC);
	assert_true(f->rec.level[8]);
	assert_int_equal(rd(f, 0x0c) & 0xa0, 0xa0);
	timer_service_step(f->timers, 86399 * NS_PER_SEC);
	assert_false(f->rec.level[8]);
	timer_service_step(f->timers, NS_PER_SEC);
	assert_true(f->rec.level[8]);
}

static void test_alarm_wildcards(void **state)
{
	struct fixture *f = *state;

	set_time(f, 0x10, 0x00, 0x00);
	wr(f, 5, 0xff);
	wr(f, 3, 0xff);
	wr(f, 1, 0x05);
	wr(f, 0x0b, 0x22);
	rd(f, 0x0c);
	for (unsigned i = 0; i < 3; i++) {
		timer_service_step(f->timers, 60 * NS_PER_SEC);
		assert_true(f->rec.level[8]);
		rd(f, 0x0c);
		assert_false(f->rec.level[8]);
	}
	wr(f, 1, 0x99); /* never */
	timer_service_step(f->timers, 100000 * NS_PER_SEC);
	assert_false(f->rec.level[8]);
}

static void test_nonsense_time(void **state)
{
	struct fixture *f = *state;

	wr(f, 0x0b, 0x86);
	for (unsigned i = 0; i < 10; i++)
		wr(f, (uint8_t)i, 0xff);
	wr(f, 0x32, 0xff);
	wr(f, 0x0b, 0x76);
	timer_service_step(f->timers, 10 * NS_PER_SEC);
	rd(f, 0x0c);
	for (unsigned i = 0; i < 10; i++)
		rd(f, (uint8_t)i);
	assert_int_equal(rd(f, 0x0d), 0x80);
}

static void test_reset_keeps_time(void **state)
{
	struct fixture *f = *state;

	set_time(f, 0x11, 0x22, 0x33);
	wr(f, 0x0b, 0x72);
	timer_service_step(f->timers, 2 * NS_PER_SEC);
	assert_true(f->rec.level[8]);
	f->dev->ops->reset(f->dev);
	assert_false(f->rec.level[8]);
	assert_int_equal(rd(f, 0x0b), 0x02);
	assert_int_equal(rd(f, 4), 0x11);
	assert_int_equal(rd(f, 0), 0x35);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reads_host_time),
		TEST(test_set_and_carry),
		TEST(test_divider_release_is_half_a_second),
		TEST(test_update_in_progress),
		TEST(test_update_flag_and_interrupt),
		TEST(test_periodic_interrupt),
		TEST(test_alarm),
		TEST(test_alarm_wildcards),
		TEST(test_nonsense_time),
		TEST(test_reset_keeps_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
