/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and characters of --display curses, and the VGA as a PCI function. */
#include <ncurses.h>
#include <stdlib.h>

#include "boardfix.h"
#include "device/pci/host.h"
#include "device/ps2.h"
#include "device/vga.h"
#include "machine/display.h"

static void expect_key(unsigned key, bool function, uint16_t code, bool shift, bool control)
{
	struct display_key k = display_key_of(key, function);

	assert_int_equal(k.code, code);
	assert_int_equal(k.shift, shift);
	assert_int_equal(k.control, control);
	assert_false(k.alt);
}

static void test_keys(void **state)
{
	(void)state;
	expect_key('a', false, 0x1e, false, false);
	expect_key('Z', false, 0x2c, true, false);
	expect_key('1', false, 0x02, false, false);
	expect_key('!', false, 0x02, true, false);
	expect_key('0', false, 0x0b, false, false);
	expect_key('=', false, 0x0d, false, false);
	expect_key('~', false, 0x29, true, false);
	expect_key('\\', false, 0x2b, false, false);
	expect_key('?', false, 0x35, true, false);
	expect_key(' ', false, 0x39, false, false);
	expect_key('\r', false, 0x1c, false, false);
	expect_key('\t', false, 0x0f, false, false);
	expect_key(27, false, 0x01, false, false);
	expect_key(127, false, 0x0e, false, false);
	expect_key(3, false, 0x2e, false, true);  /* ^C */
	expect_key(28, false, 0x2b, false, true); /* ^\ */
	expect_key(KEY_UP, true, PS2_EXTENDED | 0x48, false, false);
	expect_key(KEY_DC, true, PS2_EXTENDED | 0x53, false, false);
	expect_key(KEY_F(1), true, 0x3b, false, false);
	expect_key(KEY_F(10), true, 0x44, false, false);
	expect_key(KEY_F(12), true, 0x58, false, false);
	expect_key(KEY_MOUSE, true, 0, false, false);
	expect_key(0xe4, false, 0, false, false); /* not on this keyboard */
	expect_key(0x1f600, false, 0, false, false);
}

/* Every printable character can be typed, by one key each. */
static void test_all_characters(void **state)
{
	bool seen[2][128] = { { false } };

	(void)state;
	for (unsigned c = 0x21; c < 0x7f; c++) {
		struct display_key k = display_key_of(c, false);

		assert_in_range(k.code, 1, 0x58);
		assert_false(seen[k.shift][k.code]);
		seen[k.shift][k.code] = true;
	}
}

static void test_characters(void **state)
{
	(void)state;
	for (unsigned c = 0x20; c < 0x7f; c++) {
		assert_int_equal(display_unicode[c], c);
		assert_int_equal(display_ascii((uint8_t)c), c);
	}
	assert_int_equal(display_unicode[0xc4], 0x2500);
	assert_int_equal(display_unicode[0xdb], 0x2588);
	assert_int_equal(display_unicode[0xff], 0x00a0);
	assert_int_equal(display_ascii(0xb3), '|');
	assert_int_equal(display_ascii(0xda), '+');
	assert_int_equal(display_ascii(0xff), ' ');
	for (unsigned c = 0; c < 256; c++)
		assert_in_range(display_ascii((uint8_t)c), 0x20, 0x7e);
}

/* ---- VGA on PCI ---- */

static int map(void *ctx, bool io, uint64_t base, uint64_t len, struct device *dev, unsigned bar)
{
	return bus_map_quiet(ctx, io ? BUS_PIO : BUS_MMIO, base, len, dev, bar);
}

static void unmap(void *ctx, bool io, uint64_t base, struct device *dev, unsigned bar)
{
	bus_unmap(ctx, io ? BUS_PIO : BUS_MMIO, base, dev, bar);
}

static uint64_t peek(struct bus *bus, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(bus, BUS_MMIO, addr, &value, size);
	return value;
}

static void poke(struct bus *bus, uint64_t addr, uint64_t value, unsigned size)
{
	bus_write(bus, BUS_MMIO, addr, &value, size);
}

static void test_vga_pci(void **state)
{
	const struct pci_windows windows = { 0xc0000000, 0xfec00000, 0xc000, 0x10000 };
	struct bus *bus = bus_create();
	const struct pci_wiring wiring = { .map = map, .unmap = unmap, .ctx = bus };
	struct pci_bus *pci = pci_bus_create(&wiring);
	struct device *vga = vga_create(), *function = vga_pci_create(vga, pci);
	static struct vga_screen screen;
	uint64_t memory, registers;

	(void)state;
	function->ops->reset(function);
	assert_int_equal(pci_config_read(pci, 8, 0, 4), 0x11111234);
	assert_int_equal(pci_config_read(pci, 8, 8, 4) >> 8, 0x030000);
	assert_int_equal(pci_bus_assign(pci, &windows), 0);
	memory = pci_config_read(pci, 8, 0x10, 4) & ~UINT32_C(0xf);
	registers = pci_config_read(pci, 8, 0x18, 4) & ~UINT32_C(0xf);
	assert_int_equal(pci_config_read(pci, 8, 0x10, 4) & 0xf, 8); /* prefetchable */
	/* 800 by 600 through the registers, the dispi identity among them */
	assert_int_equal(peek(bus, registers + 0x500, 2), 0xb0c5);
	poke(bus, registers + 0x502, 800, 2);
	poke(bus, registers + 0x504, 600, 2);
	poke(bus, registers + 0x506, 32, 2);
	poke(bus, registers + 0x508, 0x41, 2);
	vga_get_screen(vga, &screen);
	assert_false(screen.text);
	assert_int_equal(screen.width, 800);
	assert_int_equal(screen.height, 600);
	poke(bus, memory + VGA_MEMORY - 8, UINT64_C(0x1122334455667788), 8);
	assert_int_equal(peek(bus, memory + VGA_MEMORY - 4, 4), 0x11223344);
	poke(bus, registers + 0x508, 0, 2);
	/* Text, seen from the linear side: character and attribute in planes 0 and 1. */
	vga->ops->reset(vga);
	poke(bus, memory + 4, 0x1e41, 2);
	vga_get_screen(vga, &screen);
	assert_true(screen.text);
	assert_int_equal(screen.cell[1], 0x1e41);
	/* The ports 3c0..3df: the misc register, then a word to the sequencer. */
	assert_int_equal(peek(bus, registers + 0x40c, 1), 0x67);
	poke(bus, registers + 0x404, 0x0f02, 2);
	assert_int_equal(peek(bus, registers + 0x404, 2), 0x0f02);
	assert_int_equal(peek(bus, registers + 0x300, 4), 0xffffffff);
	poke(bus, registers + 0x41f, UINT64_MAX, 8); /* over the end: nobody there */
	function->ops->destroy(function);
	vga->ops->destroy(vga);
	pci_bus_destroy(pci);
	bus_destroy(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_all_characters),
		cmocka_unit_test(test_characters),
		cmocka_unit_test(test_vga_pci),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
