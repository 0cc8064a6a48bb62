/* SPDX-License-Identifier: Apache-2.0 */
/* HPET through its registers, with stepped time. */
#include "boardfix.h"

#define BASE UINT64_C(0xfed00000)
#define CAP 0x000
#define CONFIG 0x010
#define STATUS 0x020
#define COUNTER 0x0f0
#define T_CONFIG(n) (0x100u + 0x20u * (n))
#define T_COMP(n) (0x108u + 0x20u * (n))

#define ENABLE 1u
#define LEGACY 2u
#define LEVEL 0x2u
#define INT 0x4u
#define PERIODIC 0x8u
#define SET_VALUE 0x40u
#define MODE32 0x100u
#define ROUTE(gsi) ((gsi) << 9)

#define TICKS_PER_MS 100000u
#define MS UINT64_C(1000000)

struct fixture {
	struct recorder rec;
	struct timer_service *timers;
	struct device *dev;
	struct bus *bus;
	bool legacy;
};

static void record_legacy(void *ctx, unsigned n, bool level)
{
	struct fixture *f = ctx;

	assert_int_equal(n, 77);
	assert_int_not_equal(f->legacy, level);
	f->legacy = level;
}

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;

	memset(f, 0, sizeof(*f));
	f->timers = timer_service_create_stepped();
	f->dev = hpet_create(f->timers, fix_line(&f->rec, 0),
			     (struct irq_line){ .set = record_legacy, .ctx = f, .n = 77 });
	assert_non_null(f->dev);
	f->bus = bus_create();
	assert_int_equal(bus_map(f->bus, BUS_MMIO, BASE, HPET_SIZE, f->dev, 0), 0);
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

static uint64_t rd(struct fixture *f, uint64_t reg, unsigned size)
{
	uint64_t value = 0;

	bus_read(f->bus, BUS_MMIO, BASE + reg, &value, size);
	return value;
}

static void wr(struct fixture *f, uint64_t reg, uint64_t value, unsigned size)
{
	bus_write(f->bus, BUS_MMIO, BASE + reg, &value, size);
}

static void step(struct fixture *f, uint64_t ns)
{
	timer_service_step(f->timers, ns);
}

static void test_capabilities(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rd(f, CAP, 4), HPET_ID);
	assert_int_equal(rd(f, CAP + 4, 4), 10000000); /* fs a tick */
	assert_int_equal(rd(f, CAP, 8), UINT64_C(10000000) << 32 | HPET_ID);
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(rd(f, T_CONFIG(n), 8), (uint64_t)HPET_ROUTES << 32 | 0x30);
		assert_true(rd(f, T_COMP(n), 8) == UINT64_MAX);
	}
	assert_int_equal(rd(f, T_CONFIG(3), 8), 0);
	assert_int_equal(rd(f, 0x3f8, 8), 0);
	/* Read-only. */
	wr(f, CAP, UINT64_MAX, 8);
	assert_int_equal(rd(f, CAP, 4), HPET_ID);
}

static void test_counter(void **state)
{
	struct fixture *f = *state;

	step(f, MS);
	assert_int_equal(rd(f, COUNTER, 8), 0); /* halted */
	wr(f, COUNTER, UINT64_C(0x1fffffff0), 8);
	wr(f, CONFIG, ENABLE, 4);
	step(f, 160);
	assert_true(rd(f, COUNTER, 8) == UINT64_C(0x200000000)); /* carries into the upper half */
	assert_int_equal(rd(f, COUNTER, 4), 0);
	assert_int_equal(rd(f, COUNTER + 4, 4), 2);
	wr(f, CONFIG, 0, 4);
	step(f, MS);
	assert_true(rd(f, COUNTER, 8) == UINT64_C(0x200000000));
	/* By halves. */
	wr(f, COUNTER, 5, 4);
	wr(f, COUNTER + 4, 7, 4);
	assert_true(rd(f, COUNTER, 8) == UINT64_C(0x700000005));
}

static void test_one_shot_edge(void **state)
{
	struct fixture *f = *state;

	wr(f, CONFIG, ENABLE, 4);
	wr(f, T_CONFIG(2), INT | ROUTE(21), 4);
	wr(f, T_COMP(2), 2 * TICKS_PER_MS, 8);
	step(f, 2 * MS - 10);
	assert_int_equal(f->rec.rises[21], 0);
	step(f, 10);
	assert_int_equal(f->rec.rises[21], 1);
	assert_false(f->rec.level[21]);
	assert_int_equal(rd(f, STATUS, 4), 0); /* not for edge-triggered ones */
	step(f, 1000 * MS);
	assert_int_equal(f->rec.rises[21], 1);
	/* Halted: no matches. */
	wr(f, T_COMP(2), rd(f, COUNTER, 8) + TICKS_PER_MS, 8);
	wr(f, CONFIG, 0, 4);
	step(f, 2 * MS);
	assert_int_equal(f->rec.rises[21], 1);
	wr(f, CONFIG, ENABLE, 4);
	step(f, MS);
	assert_int_equal(f->rec.rises[21], 2);
}

static void test_level(void **state)
{
	struct fixture *f = *state;

	wr(f, CONFIG, ENABLE, 4);
	wr(f, T_CONFIG(1), INT | LEVEL | ROUTE(20), 4);
	wr(f, T_CONFIG(2), LEVEL | ROUTE(20), 4); /* may not interrupt, has a status all the same */
	wr(f, T_COMP(1), TICKS_PER_MS, 8);
	wr(f, T_COMP(2), TICKS_PER_MS, 8);
	step(f, MS);
	assert_true(f->rec.level[20]);
	assert_int_equal(rd(f, STATUS, 4), 6);
	wr(f, STATUS, 4, 4);
	assert_true(f->rec.level[20]);
	wr(f, T_CONFIG(2), INT | LEVEL | ROUTE(20), 4);
	wr(f, T_COMP(2), 2 * TICKS_PER_MS, 8);
	step(f, MS);
	wr(f, STATUS, 2, 4);
	assert_true(f->rec.level[20]); /* shared, and the other one still wants it */
	wr(f, STATUS, 4, 4);
	assert_false(f->rec.level[20]);
	assert_int_equal(f->rec.rises[20], 1);
}

static void test_periodic(void **state)
{
	struct fixture *f = *state;

	wr(f, CONFIG, ENABLE, 4);
	wr(f, T_CONFIG(0), INT | PERIODIC | SET_VALUE | ROUTE(22), 4);
	assert_true(rd(f, T_CONFIG(0), 4) & SET_VALUE);
	wr(f, T_COMP(0), 5 * TICKS_PER_MS, 8); /* the first match, */
	assert_false(rd(f, T_CONFIG(0), 4) & SET_VALUE);
	wr(f, T_COMP(0), 2 * TICKS_PER_MS, 8); /* the period */
	assert_int_equal(rd(f, T_COMP(0), 8), 5 * TICKS_PER_MS);
	step(f, 5 * MS);
	assert_int_equal(f->rec.rises[22], 1);
	assert_int_equal(rd(f, T_COMP(0), 8), 7 * TICKS_PER_MS);
	for (unsigned i = 0; i < 10; i++)
		step(f, MS);
	assert_int_equal(f->rec.rises[22], 6);
	/* Nobody could look for a while: one interrupt, and the phase is kept. */
	wr(f, T_CONFIG(0), PERIODIC | ROUTE(22), 4);
	step(f, 9 * MS);
	assert_int_equal(f->rec.rises[22], 6);
	assert_int_equal(rd(f, T_COMP(0), 8), 25 * TICKS_PER_MS);
	/* A period of a tick does not mean a hundred million interrupts a second. */
	wr(f, T_CONFIG(0), INT | PERIODIC | SET_VALUE | ROUTE(22), 4);
	wr(f, T_COMP(0), 1, 8);
	wr(f, T_CONFIG(0), INT | PERIODIC | SET_VALUE | ROUTE(22), 4);
	wr(f, T_COMP(0), rd(f, COUNTER, 8) + 1, 8);
	wr(f, T_COMP(0), 1, 8);
	step(f, 10 * MS);
	assert_in_range(f->rec.rises[22], 6 + 90, 6 + 101);
}

static void test_32bit(void **state)
{
	struct fixture *f = *state;

	wr(f, COUNTER, UINT64_C(0x3ffff0000), 8);
	wr(f, T_CONFIG(2), INT | MODE32 | ROUTE(23), 4);
	assert_int_equal(rd(f, T_COMP(2), 8), UINT32_MAX);
	wr(f, T_COMP(2), 0x10000, 4);
	wr(f, CONFIG, ENABLE, 4);
	step(f, 0x20000 * 10 - 10);
	assert_int_equal(f->rec.rises[23], 0);
	step(f, 10);
	assert_int_equal(f->rec.rises[23], 1); /* the upper half does not count, */
	step(f, (UINT64_C(1) << 32) * 10);
	assert_int_equal(f->rec.rises[23], 2); /* so there is one a turn */
}

static void test_legacy_route(void **state)
{
	struct fixture *f = *state;

	wr(f, CONFIG, ENABLE | LEGACY, 4);
	assert_true(f->legacy);
	for (unsigned n = 0; n < 3; n++) {
		wr(f, T_CONFIG(n), INT | ROUTE(20), 4);
		wr(f, T_COMP(n), TICKS_PER_MS, 8);
	}
	step(f, MS);
	assert_int_equal(f->rec.rises[0], 1);
	assert_int_equal(f->rec.rises[8], 1);
	assert_int_equal(f->rec.rises[20], 1); /* timer 2 goes its own way */
	/* A line that is up when the route changes goes down first. */
	wr(f, T_CONFIG(0), INT | LEVEL | ROUTE(20), 4);
	wr(f, T_COMP(0), 2 * TICKS_PER_MS, 8);
	step(f, MS);
	assert_true(f->rec.level[0]);
	wr(f, CONFIG, ENABLE, 4);
	assert_false(f->legacy);
	assert_false(f->rec.level[0]);
	assert_true(f->rec.level[20]);
	f->dev->ops->reset(f->dev);
	assert_false(f->rec.level[20]);
	assert_int_equal(rd(f, COUNTER, 8), 0);
}

static void test_routes(void **state)
{
	struct fixture *f = *state;

	wr(f, T_CONFIG(0), ROUTE(23), 4);
	wr(f, T_CONFIG(0), ROUTE(11), 4); /* not offered: does not stick */
	assert_int_equal(rd(f, T_CONFIG(0), 4), 0x30 | ROUTE(23));
	wr(f, T_CONFIG(0), UINT32_MAX, 4);
	assert_int_equal(rd(f, T_CONFIG(0), 4), 0x30 | LEVEL | INT | PERIODIC | SET_VALUE | MODE32 | ROUTE(23));
	wr(f, T_CONFIG(0) + 4, 0, 4);
	assert_int_equal(rd(f, T_CONFIG(0) + 4, 4), HPET_ROUTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_capabilities, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_32bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_legacy_route, setup, teardown),
		cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
