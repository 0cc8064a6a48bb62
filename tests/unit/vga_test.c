/* SPDX-License-Identifier: Apache-2.0 */
/* VGA: text as the screen shows it, memory access against a model that goes bit by bit, registers, linear modes. */
#include "boardfix.h"
#include "device/vga.h"

struct fixture {
	struct device *dev;
	struct bus *bus;
	struct vga_screen screen;
	unsigned changes;
};

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;

	memset(f, 0, sizeof(*f));
	f->dev = vga_create();
	assert_non_null(f->dev);
	f->bus = bus_create();
	assert_int_equal(bus_map(f->bus, BUS_PIO, VGA_PORT_BASE, VGA_PORT_COUNT, f->dev, VGA_PORTS), 0);
	assert_int_equal(bus_map(f->bus, BUS_PIO, VGA_DISPI_PORT, VGA_DISPI_PORT_COUNT, f->dev, VGA_DISPI), 0);
	assert_int_equal(bus_map(f->bus, BUS_MMIO, VGA_WINDOW_BASE, VGA_WINDOW_SIZE, f->dev, VGA_WINDOW), 0);
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

static void mem_write(struct fixture *f, uint32_t addr, uint64_t value, unsigned size)
{
	bus_write(f->bus, BUS_MMIO, addr, &value, size);
}

static uint64_t mem_read(struct fixture *f, uint32_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(f->bus, BUS_MMIO, addr, &value, size);
	return value;
}

static void reg(struct fixture *f, unsigned port, unsigned index, unsigned value)
{
	fix_out(f->bus, port, index | value << 8, 2);
}

static unsigned reg_get(struct fixture *f, unsigned port, unsigned index)
{
	fix_out(f->bus, port, index, 1);
	return (unsigned)fix_in(f->bus, port + 1, 1);
}

static void look(struct fixture *f)
{
	vga_get_screen(f->dev, &f->screen);
}

static void test_text(void **state)
{
	struct fixture *f = *state;

	look(f);
	assert_true(f->screen.text);
	assert_int_equal(f->screen.width, 80);
	assert_int_equal(f->screen.height, 25);
	for (unsigned i = 0; i < 80 * 25; i++)
		assert_int_equal(f->screen.cell[i], 0x0720);
	assert_true(f->screen.cursor);
	assert_true(f->screen.blink);

	mem_write(f, 0xb8000, 0x1e41, 2);
	mem_write(f, 0xb8000 + 2 * (24 * 80 + 76), UINT64_C(0x0744074307420741), 8);
	assert_int_equal(mem_read(f, 0xb8000, 2), 0x1e41);
	assert_int_equal(mem_read(f, 0xb8000 + 2 * (24 * 80 + 76) + 2, 4), 0x07430742);
	look(f);
	assert_int_equal(f->screen.cell[0], 0x1e41);
	assert_int_equal(f->screen.cell[24 * 80 + 79], 0x0744);

	/* Scrolled by one line, the cursor at (5, 2) of what is seen. */
	reg(f, 0x3d4, 0x0c, 0);
	reg(f, 0x3d4, 0x0d, 80);
	reg(f, 0x3d4, 0x0e, 0);
	reg(f, 0x3d4, 0x0f, 3 * 80 + 5);
	look(f);
	assert_int_equal(f->screen.cell[23 * 80 + 79], 0x0744);
	assert_int_equal(f->screen.cell[0], 0x0720);
	assert_true(f->screen.cursor);
	assert_int_equal(f->screen.cursor_x, 5);
	assert_int_equal(f->screen.cursor_y, 2);
	reg(f, 0x3d4, 0x0f, 5); /* above the first line */
	look(f);
	assert_false(f->screen.cursor);
	reg(f, 0x3d4, 0x0f, 100);
	reg(f, 0x3d4, 0x0a, 0x20); /* off */
	look(f);
	assert_false(f->screen.cursor);
}

static void test_text_shapes(void **state)
{
	struct fixture *f = *state;

	reg(f, 0x3d4, 0x11, 0); /* unlock */
	reg(f, 0x3d4, 0x09, 7); /* 8 lines a character: 50 rows */
	reg(f, 0x3d4, 0x01, 39);
	look(f);
	assert_int_equal(f->screen.width, 40);
	assert_int_equal(f->screen.height, 50);
	reg(f, 0x3d4, 0x01, 0xff); /* more than anybody has seen: cut */
	reg(f, 0x3d4, 0x09, 0);
	look(f);
	assert_int_equal(f->screen.width, VGA_COLUMNS_MAX);
	assert_int_equal(f->screen.height, VGA_ROWS_MAX);
	fix_in(f->bus, 0x3da, 1);
	fix_out(f->bus, 0x3c0, 0x30, 1);
	fix_out(f->bus, 0x3c0, 0x04, 1); /* bright backgrounds instead */
	mem_write(f, 0xb8000, 0x8741, 2);
	look(f);
	assert_false(f->screen.blink);
	assert_int_equal(f->screen.cell[0], 0x8741);
	fix_out(f->bus, 0x3c0, 0x00, 1); /* display off: nothing is seen */
	look(f);
	assert_int_equal(f->screen.cell[0], ' ');
	assert_false(f->screen.cursor);
	reg(f, 0x3ce, 6, 0x05); /* graphics */
	look(f);
	assert_false(f->screen.text);
}

static void note_change(void *ctx)
{
	((struct fixture *)ctx)->changes++;
}

static void test_watch(void **state)
{
	struct fixture *f = *state;

	vga_watch(f->dev, note_change, f);
	assert_int_equal(f->changes, 1); /* what there is at first is new */
	mem_write(f, 0xb8000, 0x41, 1);
	assert_int_equal(f->changes, 1);
	look(f);
	mem_read(f, 0xb8000, 4);
	mem_write(f, 0xb8000, 0x41, 1); /* the same again */
	assert_int_equal(f->changes, 1);
	mem_write(f, 0xb8000, 0x42, 1);
	mem_write(f, 0xb8000, 0x43, 1);
	assert_int_equal(f->changes, 2);
	look(f);
	reg(f, 0x3d4, 0x0f, 7);
	assert_int_equal(f->changes, 3);
	vga_watch(f->dev, NULL, NULL);
	look(f);
	mem_write(f, 0xb8000, 0x44, 1);
	assert_int_equal(f->changes, 3);
}

/* ---- planes ---- */

/* The memory and ALU of the manual, a bit at a time. */
struct model {
	uint8_t plane[4][256], latch[4];
	uint8_t set_reset, enable, compare, rotate, function, read_map, write_mode, read_mode, care, bit_mask, map_mask;
};

static uint8_t model_read(struct model *m, unsigned address)
{
	uint8_t result = 0;

	for (unsigned p = 0; p < 4; p++)
		m->latch[p] = m->plane[p][address];
	if (!m->read_mode)
		return m->latch[m->read_map];
	for (unsigned bit = 0; bit < 8; bit++) {
		bool same = true;

		for (unsigned p = 0; p < 4; p++)
			if (m->care >> p & 1 && (m->latch[p] >> bit & 1) != (m->compare >> p & 1))
				same = false;
		result |= (uint8_t)(same << bit);
	}
	return result;
}

static bool model_bit(const struct model *m, unsigned p, unsigned bit, uint8_t value)
{
	bool rotated = value >> ((bit + m->rotate) & 7) & 1, old = m->latch[p] >> bit & 1, new;
	bool masked = m->bit_mask >> bit & 1;

	switch (m->write_mode) {
	case 0: new = m->enable >> p & 1 ? m->set_reset >> p & 1 : rotated; break;
	case 1: return old;
	case 2: new = value >> p & 1; break;
	default: new = m->set_reset >> p & 1; masked = masked && rotated;
	}
	switch (m->function) {
	case 1: new = new &&old; break;
	case 2: new = new || old; break;
	case 3: new = new != old; break;
	default: break;
	}
	return masked ? new : old;
}

static void model_write(struct model *m, unsigned address, uint8_t value)
{
	for (unsigned p = 0; p < 4; p++) {
		uint8_t result = 0;

		for (unsigned bit = 0; bit < 8; bit++)
			result |= (uint8_t)(model_bit(m, p, bit, value) << bit);
		if (m->map_mask >> p & 1)
			m->plane[p][address] = result;
	}
}

static void load_registers(struct fixture *f, const struct model *m)
{
	reg(f, 0x3ce, 0, m->set_reset);
	reg(f, 0x3ce, 1, m->enable);
	reg(f, 0x3ce, 2, m->compare);
	reg(f, 0x3ce, 3, m->rotate | m->function << 3u);
	reg(f, 0x3ce, 4, m->read_map);
	reg(f, 0x3ce, 5, m->write_mode | m->read_mode << 3u);
	reg(f, 0x3ce, 7, m->care);
	reg(f, 0x3ce, 8, m->bit_mask);
	reg(f, 0x3c4, 2, m->map_mask);
}

static void planar(struct fixture *f)
{
	reg(f, 0x3c4, 4, 0x06); /* sequential, all of memory */
	reg(f, 0x3ce, 6, 0x05); /* graphics, window at a0000 */
}

static uint32_t next(uint32_t *random)
{
	*random = *random * 1664525 + 1013904223;
	return *random >> 8;
}

static void test_planes(void **state)
{
	struct fixture *f = *state;
	struct model m = { .map_mask = 15, .bit_mask = 0xff };
	uint32_t random = 7;

	planar(f);
	load_registers(f, &m);
	for (unsigned i = 0; i < 256; i++)
		mem_write(f, 0xa0000 + i, 0, 1);
	for (unsigned round = 0; round < 20000; round++) {
		unsigned address = next(&random) & 255;
		uint8_t value = (uint8_t)next(&random);

		if (round % 7 == 0) {
			uint32_t r = next(&random);

			m.set_reset = r & 15;
			m.enable = r >> 4 & 15;
			m.compare = r >> 8 & 15;
			m.care = r >> 12 & 15;
			m.rotate = r >> 16 & 7;
			m.function = r >> 19 & 3;
			m.read_map = r >> 21 & 3;
			r = next(&random);
			m.write_mode = r & 3;
			m.read_mode = r >> 2 & 1;
			m.bit_mask = (uint8_t)(r >> 4);
			m.map_mask = r >> 12 & 15;
			load_registers(f, &m);
		}
		if (next(&random) & 1) {
			assert_int_equal(mem_read(f, 0xa0000 + address, 1), model_read(&m, address));
		} else {
			model_write(&m, address, value);
			mem_write(f, 0xa0000 + address, value, 1);
		}
	}
}

/* Which bytes of the window are there, by the memory map select field. */
static void test_window(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t first, end;
	} maps[4] = { { 0xa0000, 0xc0000 }, { 0xa0000, 0xb0000 }, { 0xb0000, 0xb8000 }, { 0xb8000, 0xc0000 } };

	planar(f);
	reg(f, 0x3ce, 5, 0);
	reg(f, 0x3c4, 2, 1);
	for (unsigned map = 0; map < 4; map++) {
		reg(f, 0x3ce, 6, map << 2 | 1);
		for (uint32_t addr = 0xa0000; addr < 0xc0000; addr += 0x3fff) {
			bool there = addr >= maps[map].first && addr < maps[map].end;

			mem_write(f, addr, 0x5a, 1);
			assert_int_equal(mem_read(f, addr, 1), there ? 0x5a : 0xff);
			mem_write(f, addr, 0, 1);
		}
	}
	reg(f, 0x3ce, 6, 5);
	fix_out(f->bus, 0x3c2, 0x65, 1); /* memory off */
	assert_int_equal(mem_read(f, 0xa0000, 1), 0xff);
}

/* 320 by 200 in 256 colours: addresses run through the planes. */
static void test_chain4(void **state)
{
	struct fixture *f = *state;

	planar(f);
	reg(f, 0x3ce, 5, 0x40);
	reg(f, 0x3c4, 2, 15);
	reg(f, 0x3c4, 4, 0x0e);
	mem_write(f, 0xa0100, UINT64_C(0x8877665544332211), 8);
	assert_int_equal(mem_read(f, 0xa0100, 8), UINT64_C(0x8877665544332211));
	assert_int_equal(mem_read(f, 0xa0103, 1), 0x44);
	reg(f, 0x3c4, 2, 0x5); /* planes 0 and 2 only */
	mem_write(f, 0xa0100, 0, 4);
	assert_int_equal(mem_read(f, 0xa0100, 4), 0x44002200);
	reg(f, 0x3c4, 4, 0x06);
	reg(f, 0x3ce, 4, 1);
	assert_int_equal(mem_read(f, 0xa0040, 1), 0x22);
}

/* ---- registers ---- */

static void test_registers(void **state)
{
	struct fixture *f = *state;

	reg(f, 0x3c4, 1, 0xff);
	assert_int_equal(reg_get(f, 0x3c4, 1), 0x3d);
	reg(f, 0x3ce, 5, 0xff);
	assert_int_equal(reg_get(f, 0x3ce, 5), 0x7b);
	reg(f, 0x3c4, 7, 0xff); /* no such register */
	assert_int_equal(reg_get(f, 0x3c4, 7), 0);
	/* CRTC 0 to 7 are locked by register 11, but for the line compare bit in 7. */
	assert_int_equal(reg_get(f, 0x3d4, 0x11) & 0x80, 0x80);
	reg(f, 0x3d4, 0, 0x12);
	assert_int_equal(reg_get(f, 0x3d4, 0), 0x5f);
	reg(f, 0x3d4, 7, 0x00);
	assert_int_equal(reg_get(f, 0x3d4, 7), 0x0f);
	reg(f, 0x3d4, 7, 0xff);
	assert_int_equal(reg_get(f, 0x3d4, 7), 0x1f);
	reg(f, 0x3d4, 0x11, 0x0e);
	reg(f, 0x3d4, 0, 0x12);
	assert_int_equal(reg_get(f, 0x3d4, 0), 0x12);
	assert_int_equal(reg_get(f, 0x3d4, 0x1f), 0);
	/* Monochrome addresses answer when the misc register says so. */
	assert_int_equal(fix_in(f->bus, 0x3b5, 1), 0xff);
	fix_out(f->bus, 0x3c2, 0x66, 1);
	assert_int_equal(fix_in(f->bus, 0x3cc, 1), 0x66);
	assert_int_equal(reg_get(f, 0x3b4, 0), 0x12);
	assert_int_equal(fix_in(f->bus, 0x3d5, 1), 0xff);
	assert_int_equal(fix_in(f->bus, 0x3c2, 1) & 0x10, 0x10);
}

static void test_attributes(void **state)
{
	struct fixture *f = *state;

	fix_in(f->bus, 0x3da, 1);
	fix_out(f->bus, 0x3c0, 0x31, 1); /* overscan, display on */
	fix_out(f->bus, 0x3c0, 0x3f, 1);
	fix_out(f->bus, 0x3c0, 0x20 | 3, 1);
	fix_out(f->bus, 0x3c0, 0x2a, 1); /* the palette is locked */
	fix_in(f->bus, 0x3da, 1);
	fix_out(f->bus, 0x3c0, 3, 1);
	assert_int_equal(fix_in(f->bus, 0x3c1, 1), 3);
	fix_out(f->bus, 0x3c0, 0x2a, 1);
	fix_out(f->bus, 0x3c0, 3, 1);
	assert_int_equal(fix_in(f->bus, 0x3c1, 1), 0x2a);
	assert_int_equal(fix_in(f->bus, 0x3c0, 1), 3);
	fix_in(f->bus, 0x3da, 1); /* the next write is an index again */
	fix_out(f->bus, 0x3c0, 0x11, 1);
	assert_int_equal(fix_in(f->bus, 0x3c1, 1), 0x3f);
	fix_in(f->bus, 0x3da, 1);
	fix_out(f->bus, 0x3c0, 0x1f, 1); /* no such register */
	fix_out(f->bus, 0x3c0, 0xff, 1);
	assert_int_equal(fix_in(f->bus, 0x3c1, 1), 0);
}

/* Who waits for retrace, or for its end, is served. */
static void test_status(void **state)
{
	struct fixture *f = *state;
	uint64_t a = fix_in(f->bus, 0x3da, 1), b = fix_in(f->bus, 0x3da, 1);

	assert_int_equal((a ^ b) & 9, 9);
}

static void test_palette(void **state)
{
	struct fixture *f = *state;

	fix_out(f->bus, 0x3c7, 4, 1);
	assert_int_equal(fix_in(f->bus, 0x3c7, 1) & 3, 3);
	assert_int_equal(fix_in(f->bus, 0x3c9, 1), 0x2a); /* red */
	assert_int_equal(fix_in(f->bus, 0x3c9, 1), 0);
	assert_int_equal(fix_in(f->bus, 0x3c9, 1), 0);
	fix_out(f->bus, 0x3c8, 255, 1);
	for (unsigned i = 0; i < 6; i++) /* and on to colour 0 */
		fix_out(f->bus, 0x3c9, 0xc0 + i, 1);
	fix_out(f->bus, 0x3c7, 255, 1);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(fix_in(f->bus, 0x3c9, 1), i);
	fix_out(f->bus, 0x3c8, 9, 1);
	fix_out(f->bus, 0x3c9, 1, 1);
	fix_out(f->bus, 0x3c7, 9, 1);
	assert_int_not_equal(fix_in(f->bus, 0x3c9, 1), 1); /* a colour changes whole */
}

/* ---- linear modes ---- */

static void dispi(struct fixture *f, unsigned index, unsigned value)
{
	fix_out(f->bus, 0x1ce, index, 2);
	fix_out(f->bus, 0x1cf, value, 2);
}

static unsigned dispi_get(struct fixture *f, unsigned index)
{
	fix_out(f->bus, 0x1ce, index, 2);
	return (unsigned)fix_in(f->bus, 0x1cf, 2);
}

static void test_dispi(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(dispi_get(f, 0), 0xb0c5);
	dispi(f, 0, 0xb0c0);
	assert_int_equal(dispi_get(f, 0), 0xb0c0);
	dispi(f, 0, 0xb0c9);
	assert_int_equal(dispi_get(f, 0), 0xb0c0);
	assert_int_equal(dispi_get(f, 10), 256); /* 64 KiB pages */
	dispi(f, 4, 2);
	assert_true(dispi_get(f, 1) >= 1600 && dispi_get(f, 2) >= 1200 && dispi_get(f, 3) == 32);
	dispi(f, 4, 0);
	dispi(f, 1, 1024);
	dispi(f, 2, 768);
	dispi(f, 3, 32);
	dispi(f, 4, 0x41);
	assert_int_equal(dispi_get(f, 4), 0x41);
	assert_int_equal(dispi_get(f, 6), 1024);
	assert_int_equal(dispi_get(f, 7), (16 << 20) / 4096);
	dispi(f, 1, 640); /* not while it is on */
	assert_int_equal(dispi_get(f, 1), 1024);
	look(f);
	assert_false(f->screen.text);
	assert_int_equal(f->screen.width, 1024);
	assert_int_equal(f->screen.height, 768);
	dispi(f, 9, 768);
	assert_int_equal(dispi_get(f, 9), 768);
	dispi(f, 9, 4096 - 767);
	assert_int_equal(dispi_get(f, 9), 768);
	dispi(f, 6, 8000); /* then 768 lines would not fit */
	assert_int_equal(dispi_get(f, 6), 1024);
	/* A bank is 64 KiB of memory in the window. */
	dispi(f, 5, 3);
	mem_write(f, 0xa0010, 0x12345678, 4);
	dispi(f, 5, 2);
	assert_int_equal(mem_read(f, 0xa0010, 4), 0);
	dispi(f, 5, 3);
	assert_int_equal(mem_read(f, 0xa0010, 4), 0x12345678);
	assert_int_equal(mem_read(f, 0xb8000, 1), 0xff);
	dispi(f, 5, 256);
	assert_int_equal(dispi_get(f, 5), 3);
	dispi(f, 4, 0);
	dispi(f, 4, 0xc1); /* memory is kept */
	dispi(f, 5, 3);
	assert_int_equal(mem_read(f, 0xa0010, 4), 0x12345678);
	dispi(f, 4, 0);
	dispi(f, 4, 0x41);
	dispi(f, 5, 3);
	assert_int_equal(mem_read(f, 0xa0010, 4), 0);
}

static void test_dispi_refuses(void **state)
{
	struct fixture *f = *state;

	dispi(f, 1, 0);
	dispi(f, 2, 600);
	dispi(f, 4, 0x41);
	assert_int_equal(dispi_get(f, 4) & 1, 0);
	dispi(f, 1, 2560);
	dispi(f, 2, 1600);
	dispi(f, 3, 32); /* fits in 16 MiB, just */
	dispi(f, 4, 0x41);
	assert_int_equal(dispi_get(f, 4) & 1, 1);
	dispi(f, 4, 0);
	dispi(f, 3, 12);
	assert_int_equal(dispi_get(f, 3), 32);
	dispi(f, 1, 2568);
	assert_int_equal(dispi_get(f, 1), 2560);
}

/* Anything at all: no access leaves the memory, and the screen can be looked at whatever the registers say. */
static void test_random(void **state)
{
	struct fixture *f = *state;
	uint32_t random = 11;

	for (unsigned round = 0; round < 200000; round++) {
		uint32_t r = next(&random), value = next(&random);
		unsigned size = 1u << (r & 3);

		switch (r >> 2 & 3) {
		case 0: fix_out(f->bus, VGA_PORT_BASE + (r >> 4) % VGA_PORT_COUNT, value, size); break;
		case 1: dispi(f, r >> 4 & 15, value >> (r >> 8 & 15)); break;
		case 2: mem_write(f, VGA_WINDOW_BASE + (r >> 4) % (VGA_WINDOW_SIZE - 8), value, size); break;
		default: mem_read(f, VGA_WINDOW_BASE + (r >> 4) % (VGA_WINDOW_SIZE - 8), size); break;
		}
		if (round % 64 == 0) {
			look(f);
			assert_true(!f->screen.text || (f->screen.width && f->screen.width <= VGA_COLUMNS_MAX &&
							f->screen.height <= VGA_ROWS_MAX));
		}
	}
	f->dev->ops->reset(f->dev);
	look(f);
	assert_true(f->screen.text && f->screen.cell[0] == 0x0720);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_text),       TEST(test_text_shapes), TEST(test_watch),  TEST(test_planes),
		TEST(test_window),     TEST(test_chain4),      TEST(test_status), TEST(test_registers),
		TEST(test_attributes), TEST(test_palette),     TEST(test_dispi),  TEST(test_dispi_refuses),
		TEST(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
