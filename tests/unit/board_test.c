/* SPDX-License-Identifier: Apache-2.0 */
/* The board's smaller devices at the places where guests look for them, and --device. */
#include <errno.h>
#include <time.h>

#include "boardfix.h"
#include "machine/ram.h"

struct fixture {
	struct recorder rec;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
};

static int create(struct fixture *f, const char *const *devices)
{
	struct board_config config = { .ram = &f->ram,
				       .cpus = 2,
				       .gsi = fix_line(&f->rec, 0),
				       .control = fix_control(&f->rec),
				       .devices = devices };

	return board_create(&config, &f->board);
}

static int setup(void **state)
{
	static const char *const devices[] = { "isa-debug-exit,iobase=0xf4,iosize=0x4", "pc-testdev", "pvpanic", NULL };
	static struct fixture fixture;
	struct fixture *f = &fixture;

	memset(f, 0, sizeof(*f));
	assert_int_equal(ram_create(&f->ram, UINT64_C(5) << 30), 0);
	assert_int_equal(create(f, devices), 0);
	board_reset(f->board);
	f->bus = board_bus(f->board);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	board_destroy(f->board);
	ram_destroy(&f->ram);
	return 0;
}

static void expect_request(struct fixture *f, enum machine_request what)
{
	assert_int_equal(f->rec.requests, 1);
	assert_int_equal(f->rec.last, what);
	f->rec.requests = 0;
}

static void test_i8042(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fix_in(f->bus, 0x64, 1) & 0x15, 0x14); /* empty, self-tested, unlocked */
	fix_out(f->bus, 0x64, 0xaa, 1);
	assert_int_equal(fix_in(f->bus, 0x64, 1) & 0x01, 1);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0x55);
	assert_int_equal(fix_in(f->bus, 0x64, 1) & 0x01, 0);
	fix_out(f->bus, 0x64, 0x60, 1);
	fix_out(f->bus, 0x60, 0x45, 1);
	fix_out(f->bus, 0x64, 0x20, 1);
	assert_true(f->rec.level[1]);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0x45);
	assert_false(f->rec.level[1]);
	fix_out(f->bus, 0x64, 0xa9, 1); /* no auxiliary port */
	assert_int_not_equal(fix_in(f->bus, 0x60, 1), 0);
	fix_out(f->bus, 0x60, 0xf2, 1); /* no keyboard: a time-out at once */
	assert_int_equal(fix_in(f->bus, 0x64, 1) & 0x41, 0x41);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0xfe);
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x64, 0xff, 1); /* pulses nothing */
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x64, 0xfe, 1);
	expect_request(f, MACHINE_RESET);
	fix_out(f->bus, 0x64, 0xd1, 1);
	fix_out(f->bus, 0x60, 0x02, 1); /* output port, reset line low */
	expect_request(f, MACHINE_RESET);
}

static void test_a20_and_port92(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fix_in(f->bus, 0x92, 1), 2);
	fix_out(f->bus, 0x64, 0xdd, 1);
	assert_int_equal(fix_in(f->bus, 0x92, 1), 0);
	fix_out(f->bus, 0x92, 2, 1);
	fix_out(f->bus, 0x64, 0xd0, 1);
	assert_int_equal(fix_in(f->bus, 0x60, 1) & 0x03, 0x03);
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x92, 3, 1);
	expect_request(f, MACHINE_RESET);
	fix_out(f->bus, 0x92, 3, 1); /* an edge, not a level */
	assert_int_equal(f->rec.requests, 0);
}

static void test_reset_and_power_ports(void **state)
{
	struct fixture *f = *state;

	fix_out(f->bus, 0xcf9, 0x02, 1);
	assert_int_equal(f->rec.requests, 0);
	assert_int_equal(fix_in(f->bus, 0xcf9, 1), 0x02);
	fix_out(f->bus, 0xcf9, 0x06, 1);
	expect_request(f, MACHINE_RESET);
	for (const char *p = "ShutShutdow"; *p; p++)
		fix_out(f->bus, 0x8900, (uint8_t)*p, 1);
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x8900, 'n', 1);
	expect_request(f, MACHINE_POWEROFF);
}

static void test_acpi_sleep(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fix_in(f->bus, 0x604, 2), 0x0001); /* ACPI mode */
	fix_out(f->bus, 0x604, ACPI_SLP_TYP_S5 << 10, 2);
	assert_int_equal(f->rec.requests, 0);
	assert_int_equal(fix_in(f->bus, 0x604, 2), 0x0001 | ACPI_SLP_TYP_S5 << 10);
	fix_out(f->bus, 0x604, 2 << 10 | 1 << 13, 2); /* S1, S2, S4 are not on offer */
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x604, ACPI_SLP_TYP_S3 << 10 | 1 << 13, 2);
	expect_request(f, MACHINE_SLEEP);
	fix_out(f->bus, 0x604, ACPI_SLP_TYP_S5 << 10 | 1 << 13, 2);
	expect_request(f, MACHINE_POWEROFF);
	assert_int_equal(fix_in(f->bus, 0x604, 2), 0x0001 | ACPI_SLP_TYP_S5 << 10);
	fix_out(f->bus, 0x605, (ACPI_SLP_TYP_S5 << 10 | 1 << 13) >> 8, 1);
	expect_request(f, MACHINE_POWEROFF);
}

/* S3: an enabled event wakes, once; the devices' reset in between leaves it to be seen. */
static void test_acpi_wake(void **state)
{
	struct fixture *f = *state;

	fix_out(f->bus, 0x602, 0x0100, 2); /* the power button wakes */
	fix_out(f->bus, 0x604, ACPI_SLP_TYP_S3 << 10 | 1 << 13, 2);
	expect_request(f, MACHINE_SLEEP);
	board_sleep(f->board);
	assert_int_equal(f->rec.requests, 0);
	board_power_button(f->board);
	expect_request(f, MACHINE_WAKE);
	board_power_button(f->board);
	assert_int_equal(f->rec.requests, 0);
	assert_false(f->rec.level[9]);
	board_reset_devices(f->board);
	assert_false(f->rec.level[9]);
	board_wake(f->board);
	assert_true(f->rec.level[9]);
	assert_int_equal(fix_in(f->bus, 0x600, 4), 0x01008100);
	assert_int_equal(fix_in(f->bus, 0x604, 2), 0x0001);
	fix_out(f->bus, 0x600, 0x8100, 2);
	assert_false(f->rec.level[9]);
	assert_int_equal(fix_in(f->bus, 0x600, 4), 0x01000000);
	assert_int_equal(f->rec.requests, 0);
	/* What came before sleep wakes at once. */
	fix_out(f->bus, 0x602, 0, 2);
	board_power_button(f->board);
	fix_out(f->bus, 0x602, 0x0100, 2);
	board_sleep(f->board);
	expect_request(f, MACHINE_WAKE);
	/* A reset of a machine that is awake clears all. */
	board_wake(f->board);
	board_reset_devices(f->board);
	assert_int_equal(fix_in(f->bus, 0x600, 4), 0);
}

/* The RTC's alarm sets RTC_STS. */
static void test_rtc_wake(void **state)
{
	struct fixture *f = *state;

	fix_out(f->bus, 0x602, 0x0400, 2);
	board_sleep(f->board);
	for (unsigned reg = 1; reg <= 5; reg += 2) { /* every second */
		fix_out(f->bus, 0x70, reg, 1);
		fix_out(f->bus, 0x71, 0xc0, 1);
	}
	fix_out(f->bus, 0x70, 0x0b, 1);
	fix_out(f->bus, 0x71, 0x22, 1);
	for (unsigned i = 0; !f->rec.requests; i++) {
		assert_true(i < 1000);
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	expect_request(f, MACHINE_WAKE);
	assert_int_equal(fix_in(f->bus, 0x600, 2) & 0x0400, 0x0400);
}

/* The waking vector is the guest's to write, where the FADT's FACS is. */
static void test_waking_vector(void **state)
{
	struct fixture *f = *state;
	const char *bios = ram_ptr(&f->ram, 0xf0000, 0x10000);
	uint32_t vector = 0x9a000;

	assert_int_equal(board_waking_vector(f->board), 0);
	for (unsigned at = 0; at < 0x10000; at += 64)
		if (!memcmp(bios + at, "FACS", 4))
			ram_write(&f->ram, 0xf0000 + at + 12, &vector, 4);
	assert_int_equal(board_waking_vector(f->board), 0x9a000);
	board_reset_devices(f->board);
	assert_int_equal(board_waking_vector(f->board), 0x9a000);
	board_reset(f->board);
	assert_int_equal(board_waking_vector(f->board), 0);
}

static void test_power_button(void **state)
{
	struct fixture *f = *state;

	board_power_button(f->board);
	assert_false(f->rec.level[9]);
	assert_int_equal(fix_in(f->bus, 0x600, 2), 0x0100);
	fix_out(f->bus, 0x602, 0x0100, 2);
	assert_true(f->rec.level[9]);
	assert_int_equal(fix_in(f->bus, 0x603, 1), 0x01);
	fix_out(f->bus, 0x600, 0x0001, 2); /* clears another bit */
	assert_true(f->rec.level[9]);
	fix_out(f->bus, 0x601, 0x01, 1);
	assert_false(f->rec.level[9]);
	assert_int_equal(fix_in(f->bus, 0x600, 4), 0x01000000);
}

static void test_pm_timer(void **state)
{
	struct recorder rec = { 0 };
	struct timer_service *timers = timer_service_create_stepped();
	struct device *dev = acpi_pm_create(timers, fix_line(&rec, 9), fix_control(&rec));
	uint32_t before = (uint32_t)dev->ops->read(dev, 2, 0, 4);

	(void)state;
	timer_service_step(timers, NS_PER_SEC);
	assert_int_equal((uint32_t)dev->ops->read(dev, 2, 0, 4) - before, 3579545);
	dev->ops->write(dev, 0, 2, 1, 2);
	timer_service_step(timers, UINT64_C(590) * NS_PER_SEC);
	assert_false(rec.level[9]);
	timer_service_step(timers, UINT64_C(10) * NS_PER_SEC); /* 2^31 ticks are 599.93 s, from the clock's zero */
	assert_true(rec.level[9]);
	assert_int_equal((uint16_t)dev->ops->read(dev, 0, 0, 2), 1);
	dev->ops->write(dev, 0, 0, 1, 2);
	assert_false(rec.level[9]);
	timer_service_step(timers, UINT64_C(600) * NS_PER_SEC);
	assert_true(rec.level[9]);
	timer_service_destroy(timers);
	dev->ops->destroy(dev);
}

static void test_pvpanic_and_debug_exit(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fix_in(f->bus, 0x505, 1) & 1, 1);
	fix_out(f->bus, 0x505, 2, 1);
	assert_int_equal(f->rec.requests, 0);
	fix_out(f->bus, 0x505, 1, 1);
	expect_request(f, MACHINE_PANICKED);
	fix_out(f->bus, 0xf4, 0x21, 4);
	expect_request(f, MACHINE_EXIT);
	assert_int_equal(f->rec.status, 0x43);
	fix_out(f->bus, 0xf4, 0, 1);
	expect_request(f, MACHINE_EXIT);
	assert_int_equal(f->rec.status, 1);
}

static void test_pc_testdev(void **state)
{
	struct fixture *f = *state;
	uint64_t value = UINT64_C(0x1122334455667788);

	fix_out(f->bus, 0xe0, 0x12345678, 4);
	assert_int_equal(fix_in(f->bus, 0xe0, 1), 0x78);
	assert_int_equal(fix_in(f->bus, 0xe2, 2), 0x1234);
	assert_int_equal(fix_in(f->bus, 0xe8, 4), 0x12345678);
	fix_out(f->bus, 0xe9, 0xaa, 1);
	assert_int_equal(fix_in(f->bus, 0xe0, 4), 0x1234aa78);
	fix_out(f->bus, 0x2000 + 19, 1, 1);
	assert_true(f->rec.level[19]);
	fix_out(f->bus, 0x2000 + 19, 0, 1);
	assert_false(f->rec.level[19]);
	bus_write(f->bus, BUS_MMIO, 0xff00fff8, &value, 8);
	value = 0;
	bus_read(f->bus, BUS_MMIO, 0xff00fffa, &value, 2);
	assert_int_equal(value, 0x5566);
}

static void test_cmos_sizes(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint8_t reg, value;
	} expected[] = { { 0x15, 0x80 }, { 0x16, 0x02 }, { 0x30, 0xff }, { 0x31, 0xff }, { 0x34, 0x00 },
			 { 0x35, 0x7f }, { 0x5b, 0x00 }, { 0x5c, 0xc0 }, { 0x5d, 0x00 }, { 0x5f, 0x01 } };

	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		fix_out(f->bus, 0x70, expected[i].reg, 1);
		assert_int_equal(fix_in(f->bus, 0x71, 1), expected[i].value);
	}
}

static void test_memory_map(void **state)
{
	struct fixture *f = *state;
	struct e820_entry map[E820_MAX];
	unsigned n = board_e820(f->board, map);
	uint64_t ram = 0;

	assert_int_equal(n, 6); /* with ECAM */
	for (unsigned i = 0; i < n; i++) {
		if (i)
			assert_true(map[i].base >= map[i - 1].base + map[i - 1].size);
		if (map[i].type == 1)
			ram += map[i].size;
	}
	assert_int_equal(map[5].base, RAM_ABOVE_4G);
	assert_int_equal(map[5].size, (UINT64_C(5) << 30) - RAM_HOLE_START);
	assert_int_equal(ram, (UINT64_C(5) << 30) - 0x100000 + 0x9fc00);
}

static void test_bad_devices(void **state)
{
	static const char *const bad[][2] = { { "isa-debug" },
					      { "" },
					      { "serial" },
					      { "pc-testdev,x=1" },
					      { "isa-debug-exit,iobase=0x10000" },
					      { "isa-debug-exit,iosize=0" },
					      { "isa-debug-exit,iobase=0xfffe,iosize=4" },
					      { "isa-debug-exit,iobase=0x3f8" },
					      { "isa-debug-exit,io=1" } };
	static const char *const twice[] = { "pc-testdev", "pc-testdev", NULL };
	struct fixture f = { 0 };

	(void)state;
	assert_int_equal(ram_create(&f.ram, RAM_SIZE_MIN), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(create(&f, bad[i]) < 0);
		assert_null(f.board);
	}
	assert_int_equal(create(&f, twice), -EEXIST);
	ram_destroy(&f.ram);
}

static void test_random_ports(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 1;

	for (unsigned i = 0; i < 400000; i++) {
		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
		unsigned size = 1u << (seed >> 20 & 3), port = (unsigned)(seed >> 32) & 0xffff;
		uint64_t value = seed >> 24;

		if (seed >> 60 & 1)
			port = (port & 1 ? 0x60 : 0x3f0) + (port >> 8 & 0x3f);
		if (seed >> 61 & 1)
			fix_out(f->bus, port, value, size);
		else
			fix_in(f->bus, port, size);
	}
	board_reset(f->board);
	assert_int_equal(fix_in(f->bus, 0x3fd, 1), 0x60);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_i8042),
		TEST(test_a20_and_port92),
		TEST(test_reset_and_power_ports),
		TEST(test_acpi_sleep),
		TEST(test_acpi_wake),
		TEST(test_rtc_wake),
		TEST(test_waking_vector),
		TEST(test_power_button),
		cmocka_unit_test(test_pm_timer),
		TEST(test_pvpanic_and_debug_exit),
		TEST(test_pc_testdev),
		TEST(test_cmos_sizes),
		TEST(test_memory_map),
		cmocka_unit_test(test_bad_devices),
		TEST(test_random_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
