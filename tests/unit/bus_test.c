/* SPDX-License-Identifier: Apache-2.0 */
/* The bus: look-up, overlaps, access sizes; options and name hints of --device. */
#include <errno.h>

#include "boardfix.h"
#include "machine/nearest.h"
#include "machine/options.h"
#include "machine/ram.h"

/* A device that records its accesses and reads as its offsets. */
struct probe {
	struct device dev;
	struct {
		uint64_t offset, value;
		unsigned region, size;
	} log[16];
	unsigned count;
};

static uint64_t probe_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct probe *p = container_of(dev, struct probe, dev);
	uint64_t value = 0;

	p->log[p->count].region = region;
	p->log[p->count].offset = offset;
	p->log[p->count++].size = size;
	for (unsigned i = 0; i < size; i++)
		value |= ((offset + i) & 0xff) << (8 * i);
	return value;
}

static void probe_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->log[p->count].region = region;
	p->log[p->count].offset = offset;
	p->log[p->count].value = value;
	p->log[p->count++].size = size;
}

static const struct device_ops byte_ops = { "bytes", 1, 1, NULL, probe_read, probe_write, NULL };
static const struct device_ops word_ops = { "words", 1, 2, NULL, probe_read, probe_write, NULL };
static const struct device_ops dword_ops = { "dwords", 4, 4, NULL, probe_read, probe_write, NULL };

static void test_unclaimed(void **state)
{
	struct bus *bus = bus_create();
	uint64_t value = 0;

	(void)state;
	fix_out(bus, 0x1234, 0, 4);
	assert_int_equal(fix_in(bus, 0x1234, 4), 0xffffffff);
	bus_read(bus, BUS_MMIO, UINT64_C(0xfffffffffffffffc), &value, 8);
	assert_int_equal(value, UINT64_MAX);
	bus_destroy(bus);
}

static void test_overlap(void **state)
{
	struct bus *bus = bus_create();
	struct probe a = { 0 }, b = { 0 };

	(void)state;
	device_init(&a.dev, &byte_ops);
	device_init(&b.dev, &word_ops);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x100, 8, &a.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x107, 1, &b.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xf9, 8, &b.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xf0, 0x20, &b.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xf8, 8, &b.dev, 1), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x108, 8, &b.dev, 2), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x100, 8, &b.dev, 3), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xffff, 2, &b.dev, 0), -EINVAL);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xfff0, 0, &b.dev, 0), -EINVAL);
	assert_int_equal(bus_map(bus, BUS_MMIO, UINT64_MAX, 1, &a.dev, 0), 0);

	assert_int_equal(fix_in(bus, 0xff, 1), 7);
	assert_int_equal(b.log[0].region, 1);
	assert_int_equal(fix_in(bus, 0x108, 1), 0);
	assert_int_equal(b.log[1].region, 2);
	assert_int_equal(fix_in(bus, 0x106, 4), 0x01000706); /* across both */
	bus_destroy(bus);
}

static void test_split(void **state)
{
	struct bus *bus = bus_create();
	struct probe w = { 0 };

	(void)state;
	device_init(&w.dev, &word_ops);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x200, 5, &w.dev, 0), 0);
	fix_out(bus, 0x201, 0x44332211, 4);
	assert_int_equal(w.count, 2);
	assert_int_equal(w.log[0].offset, 1);
	assert_int_equal(w.log[0].value, 0x2211);
	assert_int_equal(w.log[1].offset, 3);
	assert_int_equal(w.log[1].value, 0x4433);
	w.count = 0;
	assert_int_equal(fix_in(bus, 0x204, 2), 0xff04); /* the second byte is nobody's */
	assert_int_equal(w.log[0].size, 1);
	bus_destroy(bus);
}

/* Regions that come and go: what the guest moves. */
static void test_unmap(void **state)
{
	struct bus *bus = bus_create();
	struct probe a = { 0 }, b = { 0 };

	(void)state;
	device_init(&a.dev, &byte_ops);
	device_init(&b.dev, &byte_ops);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x100, 8, &a.dev, 1), 0);
	assert_int_equal(bus_map_quiet(bus, BUS_PIO, 0x104, 8, &b.dev, 0), -EEXIST);
	bus_unmap(bus, BUS_PIO, 0x100, &b.dev, 1); /* not its own */
	bus_unmap(bus, BUS_PIO, 0x100, &a.dev, 0);
	bus_unmap(bus, BUS_PIO, 0x104, &a.dev, 1);
	assert_int_equal(fix_in(bus, 0x107, 1), 7);
	bus_unmap(bus, BUS_PIO, 0x100, &a.dev, 1);
	assert_int_equal(fix_in(bus, 0x107, 1), 0xff);
	assert_int_equal(bus_map_quiet(bus, BUS_PIO, 0x104, 8, &b.dev, 0), 0);
	assert_int_equal(fix_in(bus, 0x107, 1), 3);
	bus_destroy(bus);
}

/* 0xcf8 without a PCI bridge, and the reset port at 0xcf9. */
static void test_first_byte_claims(void **state)
{
	struct bus *bus = bus_create();
	struct probe reset = { 0 };

	(void)state;
	device_init(&reset.dev, &byte_ops);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xcf9, 1, &reset.dev, 0), 0);
	fix_out(bus, 0xcf8, 0x80000e00, 4);
	assert_int_equal(fix_in(bus, 0xcf8, 4), 0xffffffff);
	assert_int_equal(fix_in(bus, 0xcf8, 2), 0xffff);
	assert_int_equal(reset.count, 0);
	fix_out(bus, 0xcf9, 0xe, 1);
	assert_int_equal(reset.count, 1);
	bus_destroy(bus);
}

static void test_widen(void **state)
{
	struct bus *bus = bus_create();
	struct probe d = { 0 };

	(void)state;
	device_init(&d.dev, &dword_ops);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x1000, 16, &d.dev, 0), 0);
	uint64_t value = 0;

	bus_read(bus, BUS_MMIO, 0x1006, &value, 1);
	assert_int_equal(value, 6);
	assert_int_equal(d.log[0].offset, 4);
	assert_int_equal(d.log[0].size, 4);
	d.count = 0;
	value = 0x2211;
	bus_write(bus, BUS_MMIO, 0x1007, &value, 2); /* across two registers */
	assert_int_equal(d.count, 2);
	assert_int_equal(d.log[0].value, 0x11000000);
	assert_int_equal(d.log[1].value, 0x22);
	bus_destroy(bus);
}

static void test_ram_layout(void **state)
{
	struct guest_ram ram;
	uint8_t byte = 0x5a;

	(void)state;
	assert_int_equal(ram_create(&ram, 4096), -EINVAL);
	assert_int_equal(ram_create(&ram, RAM_SIZE_MIN + 1), -EINVAL);
	assert_int_equal(ram_create(&ram, UINT64_C(1) << 50), -E2BIG);
	assert_int_equal(ram_create(&ram, UINT64_C(5) << 30), 0);
	assert_int_equal(ram.below_size, RAM_HOLE_START);
	assert_int_equal(ram.above_size, UINT64_C(3) << 30);
	assert_null(ram_ptr(&ram, RAM_HOLE_START, 1));
	assert_null(ram_ptr(&ram, RAM_HOLE_START - 1, 2));
	assert_null(ram_ptr(&ram, RAM_ABOVE_4G - 1, 1));
	assert_null(ram_ptr(&ram, UINT64_MAX, 1));
	assert_null(ram_ptr(&ram, 0, UINT64_MAX));
	assert_ptr_equal(ram_ptr(&ram, RAM_ABOVE_4G, 1), ram.base + RAM_HOLE_START);
	assert_true(ram_write(&ram, RAM_ABOVE_4G + ram.above_size - 1, &byte, 1));
	assert_false(ram_write(&ram, RAM_ABOVE_4G + ram.above_size, &byte, 1));
	byte = 0;
	assert_true(ram_read(&ram, RAM_ABOVE_4G + ram.above_size - 1, &byte, 1));
	assert_int_equal(byte, 0x5a);
	ram_destroy(&ram);
}

static void test_nearest(void **state)
{
	const char *const names[] = { "isa-debug-exit", "pc-testdev", "pvpanic", NULL };
	const char *const none[] = { NULL };

	(void)state;
	assert_string_equal(nearest_name("isa-debug", names), "isa-debug-exit");
	assert_string_equal(nearest_name("pctestdev", names), "pc-testdev");
	assert_string_equal(nearest_name("pvpnaic", names), "pvpanic");
	assert_non_null(nearest_name("", names));
	assert_null(nearest_name("x", none));
}

static void test_options(void **state)
{
	const char *const keys[] = { "iobase", "iosize", NULL };
	struct options o;
	uint64_t value;

	(void)state;
	assert_int_equal(options_parse(&o, "dev,iobase=0xf4,iosize=4"), 0);
	assert_string_equal(o.name, "dev");
	assert_int_equal(options_check(&o, keys), 0);
	assert_int_equal(options_number(&o, "iobase", 1, 0, 0xffff, &value), 0);
	assert_int_equal(value, 0xf4);
	assert_int_equal(options_number(&o, "other", 7, 0, 0xffff, &value), 0);
	assert_int_equal(value, 7);
	assert_int_equal(options_number(&o, "iobase", 1, 0, 0xf3, &value), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobase"), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,=3"), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,"), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobse=3"), 0);
	assert_int_equal(options_check(&o, keys), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobase=1,iobase=2"), 0);
	assert_int_equal(options_check(&o, keys), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobase=-1"), 0);
	assert_int_equal(options_number(&o, "iobase", 1, 0, UINT64_MAX, &value), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobase=4x"), 0);
	assert_int_equal(options_number(&o, "iobase", 1, 0, UINT64_MAX, &value), -EINVAL);
	assert_int_equal(options_parse(&o, "dev,iobase="), 0);
	assert_int_equal(options_number(&o, "iobase", 1, 0, UINT64_MAX, &value), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unclaimed),
		cmocka_unit_test(test_overlap),
		cmocka_unit_test(test_unmap),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_first_byte_claims),
		cmocka_unit_test(test_widen),
		cmocka_unit_test(test_ram_layout),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
