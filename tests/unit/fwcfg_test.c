/* SPDX-License-Identifier: Apache-2.0 */
/* fw_cfg by port and by DMA, and what the board puts into it. */
#include <endian.h>
#include <stdlib.h>

#include "boardfix.h"
#include "machine/ram.h"

#define SELECTOR 0x510
#define DATA 0x511
#define DMA 0x514
#define RAM_SIZE (UINT64_C(64) << 20)

struct fixture {
	struct recorder rec;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
};

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;
	struct board_config config = {
		.ram = &f->ram,
		.cpus = 3,
		.gsi = fix_line(&f->rec, 0),
		.control = fix_control(&f->rec),
	};

	memset(f, 0, sizeof(*f));
	assert_int_equal(ram_create(&f->ram, RAM_SIZE), 0);
	assert_int_equal(board_create(&config, &f->board), 0);
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

static void read_key(struct fixture *f, uint16_t key, void *data, unsigned size)
{
	fix_out(f->bus, SELECTOR, key, 2);
	for (unsigned i = 0; i < size; i++)
		((uint8_t *)data)[i] = (uint8_t)fix_in(f->bus, DATA, 1);
}

static uint64_t read_value(struct fixture *f, uint16_t key, unsigned size)
{
	uint64_t value = 0;

	read_key(f, key, &value, size);
	return le64toh(value);
}

static void test_values(void **state)
{
	struct fixture *f = *state;
	char signature[5] = "";

	for (unsigned i = 0; i < 4; i++) /* selected at power-on */
		signature[i] = (char)fix_in(f->bus, DATA, 1);
	assert_string_equal(signature, "QEMU");
	assert_int_equal(read_value(f, 0x01, 4), 3);
	assert_int_equal(read_value(f, 0x03, 8), RAM_SIZE);
	assert_int_equal(read_value(f, 0x05, 2), 3);
	assert_int_equal(read_value(f, 0x0f, 2), 3);
	assert_int_equal(read_value(f, 0x05, 8), 3); /* zeros behind the item */
	assert_int_equal(read_value(f, 0x02, 8), 0); /* not there */
	assert_int_equal(read_value(f, 0x7777, 8), 0);
	fix_out(f->bus, SELECTOR, 0x05, 1); /* the selector takes words only */
	assert_int_equal(fix_in(f->bus, DATA, 1), 0);
}

struct dma {
	uint32_t control, length;
	uint64_t address;
};

static uint32_t run_dma(struct fixture *f, uint32_t control, uint32_t length, uint64_t address, uint64_t at)
{
	struct dma dma = { htobe32(control), htobe32(length), htobe64(address) };

	ram_write(&f->ram, at, &dma, sizeof(dma));
	fix_out(f->bus, DMA, htobe32((uint32_t)(at >> 32)), 4);
	fix_out(f->bus, DMA + 4, htobe32((uint32_t)at), 4);
	ram_read(&f->ram, at, &dma, sizeof(dma));
	return be32toh(dma.control);
}

static void test_dma(void **state)
{
	struct fixture *f = *state;
	char text[8];

	assert_int_equal(be32toh((uint32_t)fix_in(f->bus, DMA, 4)), 0x51454d55);
	assert_int_equal(be32toh((uint32_t)fix_in(f->bus, DMA + 4, 4)), 0x20434647);
	assert_int_equal(run_dma(f, 0x08 | 0x02, 2, 0x2000, 0x1000), 0); /* key 0: the signature */
	ram_read(&f->ram, 0x2000, text, 4);
	assert_memory_equal(text, "QE\0\0", 4);
	memset(text, 'x', sizeof(text));
	ram_write(&f->ram, 0x2000, text, sizeof(text));
	assert_int_equal(run_dma(f, 0x04, 1, 0, 0x1000), 0);
	assert_int_equal(run_dma(f, 0x02, 4, 0x2000, 0x1000), 0);
	ram_read(&f->ram, 0x2000, text, 5);
	assert_memory_equal(text, "U\0\0\0x", 5);
	assert_int_equal(run_dma(f, 0x10, 4, 0x2000, 0x1000), 1);
	assert_int_equal(run_dma(f, 0x02, 0xffffffff, 0x2000, 0x1000), 1);
	assert_int_equal(run_dma(f, 0x02, 16, RAM_SIZE - 8, 0x1000), 1);
	run_dma(f, 0x02, 16, 0, UINT64_C(0xfffffffffffffff8)); /* the request itself is nowhere */
	run_dma(f, 0x02, 16, 0, RAM_SIZE - 8);
}

static void test_directory(void **state)
{
	struct fixture *f = *state;
	struct {
		uint32_t size;
		uint16_t key, reserved;
		char name[56];
	} entry;
	uint32_t count;
	uint8_t e820[20];

	read_key(f, 0x19, &count, 4);
	assert_int_equal(be32toh(count), 1);
	for (unsigned i = 0; i < sizeof(entry); i++)
		((uint8_t *)&entry)[i] = (uint8_t)fix_in(f->bus, DATA, 1);
	assert_string_equal(entry.name, "etc/e820");
	assert_int_equal(be32toh(entry.size) % 20, 0);
	read_key(f, be16toh(entry.key), e820, sizeof(e820));
	assert_memory_equal(e820, "\0\0\0\0\0\0\0\0\x00\xfc\x09\0\0\0\0\0\x01\0\0\0", 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_values),
		TEST(test_dma),
		TEST(test_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
