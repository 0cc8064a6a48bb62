/* SPDX-License-Identifier: Apache-2.0 */
/* The PS/2 keyboard through its controller, as Linux's and SeaBIOS's drivers talk to it. */
#include "boardfix.h"

#define STATUS_OBF 1

struct fixture {
	struct recorder rec;
	struct device *dev;
	struct bus *bus;
};

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;

	memset(f, 0, sizeof(*f));
	f->dev = i8042_create(fix_line(&f->rec, 1), fix_control(&f->rec));
	assert_non_null(f->dev);
	i8042_plug_keyboard(f->dev);
	f->bus = bus_create();
	assert_int_equal(bus_map(f->bus, BUS_PIO, 0x60, 1, f->dev, 0), 0);
	assert_int_equal(bus_map(f->bus, BUS_PIO, 0x64, 1, f->dev, 1), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->ops->destroy(f->dev);
	bus_destroy(f->bus);
	return 0;
}

static void command(struct fixture *f, uint8_t value)
{
	fix_out(f->bus, 0x64, value, 1);
}

static void data(struct fixture *f, uint8_t value)
{
	fix_out(f->bus, 0x60, value, 1);
}

static void set_mode(struct fixture *f, uint8_t mode)
{
	command(f, 0x60);
	data(f, mode);
}

/* Exactly these bytes wait, in this order; -1 ends. */
static void expect(struct fixture *f, ...)
{
	va_list ap;
	int byte;

	va_start(ap, f);
	while ((byte = va_arg(ap, int)) >= 0) {
		assert_int_equal(fix_in(f->bus, 0x64, 1) & STATUS_OBF, STATUS_OBF);
		assert_int_equal(fix_in(f->bus, 0x60, 1), byte);
	}
	va_end(ap);
	assert_int_equal(fix_in(f->bus, 0x64, 1) & STATUS_OBF, 0);
}

static void test_commands(void **state)
{
	struct fixture *f = *state;

	set_mode(f, 0x04); /* untranslated, no interrupts */
	data(f, 0xff);
	expect(f, 0xfa, 0xaa, -1);
	data(f, 0xf2);
	expect(f, 0xfa, 0xab, 0x83, -1);
	data(f, 0xee);
	expect(f, 0xee, -1);
	data(f, 0xfe); /* the last byte again */
	expect(f, 0xee, -1);
	data(f, 0xed);
	expect(f, 0xfa, -1);
	data(f, 0x07);
	expect(f, 0xfa, -1);
	data(f, 0xf0);
	expect(f, 0xfa, -1);
	data(f, 0x00);
	expect(f, 0xfa, 0x02, -1);
	data(f, 0xf0);
	data(f, 0x03); /* a set that this keyboard does not have */
	fix_in(f->bus, 0x60, 1);
	expect(f, 0xfe, -1);
	data(f, 0x01);
	expect(f, 0xfa, -1);
	data(f, 0x77); /* no command */
	expect(f, 0xfe, -1);
	data(f, 0xf6);
	expect(f, 0xfa, -1);
	set_mode(f, 0x44); /* translated answers, as controllers do */
	data(f, 0xf2);
	expect(f, 0xfa, 0xab, 0x41, -1);
}

static void press(struct fixture *f, uint16_t key)
{
	assert_true(i8042_key(f->dev, key, true));
	assert_true(i8042_key(f->dev, key, false));
}

static void test_sets(void **state)
{
	struct fixture *f = *state;

	set_mode(f, 0x04);
	press(f, 0x1e); /* A */
	expect(f, 0x1c, 0xf0, 0x1c, -1);
	press(f, 0x148); /* up */
	expect(f, 0xe0, 0x75, 0xe0, 0xf0, 0x75, -1);
	press(f, 0x41); /* F7 */
	expect(f, 0x83, 0xf0, 0x83, -1);
	data(f, 0xf0);
	data(f, 0x01);
	expect(f, 0xfa, 0xfa, -1);
	press(f, 0x1e);
	expect(f, 0x1e, 0x9e, -1);
	press(f, 0x148);
	expect(f, 0xe0, 0x48, 0xe0, 0xc8, -1);
}

/* With translation, every key comes out as the set 1 code that names it. */
static void test_translation(void **state)
{
	struct fixture *f = *state;

	set_mode(f, 0x44);
	for (int key = 1; key <= 0x58; key++) {
		if (key == 0x55)
			continue; /* no such key */
		press(f, (uint16_t)key);
		expect(f, key, key | 0x80, -1);
	}
	for (int key = 0x47; key <= 0x53; key++) {
		press(f, (uint16_t)(0x100 | key));
		expect(f, 0xe0, key, 0xe0, key | 0x80, -1);
	}
}

/* One edge for each byte, as the 8259 and the IOAPIC need it. */
static void test_interrupts(void **state)
{
	struct fixture *f = *state;

	set_mode(f, 0x45);
	assert_int_equal(f->rec.rises[1], 0);
	press(f, 0x1e);
	assert_int_equal(f->rec.rises[1], 1);
	assert_true(f->rec.level[1]);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0x1e);
	assert_int_equal(f->rec.rises[1], 2);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0x9e);
	assert_int_equal(f->rec.rises[1], 2);
	assert_false(f->rec.level[1]);
}

/* A held keyboard keeps its bytes; one that is told to be quiet drops keys; a full one says so. */
static void test_holding(void **state)
{
	struct fixture *f = *state;
	unsigned taken = 0;

	set_mode(f, 0x54); /* clock held */
	press(f, 0x1e);
	expect(f, -1);
	command(f, 0xae);
	expect(f, 0x1e, 0x9e, -1);
	while (i8042_key(f->dev, 0x1e, true))
		taken++;
	assert_in_range(taken, 4, 32);
	assert_int_equal(fix_in(f->bus, 0x60, 1), 0x1e);
	data(f, 0xf5); /* disable: what waits is dropped */
	fix_in(f->bus, 0x60, 1);
	expect(f, 0xfa, -1);
	press(f, 0x1e);
	expect(f, -1);
	data(f, 0xf4);
	expect(f, 0xfa, -1);
	press(f, 0x1e);
	expect(f, 0x1e, 0x9e, -1);
}

static void test_random(void **state)
{
	struct fixture *f = *state;
	uint32_t random = 3;

	for (unsigned i = 0; i < 100000; i++) {
		random = random * 1664525 + 1013904223;
		switch (random >> 30) {
		case 0: data(f, (uint8_t)(random >> 8)); break;
		case 1: command(f, (uint8_t)(random >> 8)); break;
		case 2: i8042_key(f->dev, (uint16_t)(random >> 8), random & 0x80); break;
		default: fix_in(f->bus, 0x60 + (random >> 6 & 4), 1);
		}
	}
	f->dev->ops->reset(f->dev);
	set_mode(f, 0x44);
	press(f, 0x1e);
	expect(f, 0x1e, 0x9e, -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_commands),   TEST(test_sets),    TEST(test_translation),
		TEST(test_interrupts), TEST(test_holding), TEST(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
