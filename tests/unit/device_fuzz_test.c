/* SPDX-License-Identifier: Apache-2.0 */
/* Every device of the board under random port and MMIO accesses of every size, with input and resets in between. */
#include <endian.h>

#include "boardfix.h"
#include "fuzz.h"
#include "machine/ram.h"

#define ROUNDS 150000
#define RAM_SIZE (UINT64_C(4) << 20)
#define FW_CFG_DMA 0x514
#define TESTDEV_MMIO UINT64_C(0xff000000)

struct world {
	struct fuzz z;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
	struct chardev serial;
	unsigned requests, written;
	uint8_t kernel[0x2000], initrd[0x1000];
};

static void take_line(void *ctx, unsigned n, bool level)
{
	(void)ctx, (void)level;
	assert_true(n < 24);
}

static void take_request(void *ctx, enum machine_request what, int status)
{
	struct world *w = ctx;

	(void)status;
	assert_true(what <= MACHINE_SLEEP);
	w->requests++;
}

static void take_output(struct chardev *c, const uint8_t *data, unsigned len)
{
	(void)data;
	container_of(c, struct world, serial)->written += len;
}

static void room(struct chardev *c)
{
	(void)c;
}

static int setup(void **state)
{
	static const char *const devices[] = { "isa-debug-exit,iobase=0xf4,iosize=0x4", "pc-testdev", "pvpanic", NULL };
	struct world *w = calloc(1, sizeof(*w));
	struct board_config config = {
		.ram = &w->ram,
		.cpus = 2,
		.gsi = { .set = take_line, .ctx = w },
		.control = { .request = take_request, .ctx = w },
		.serial = &w->serial,
		.devices = devices,
		.kernel = w->kernel,
		.kernel_size = sizeof(w->kernel),
		.initrd = w->initrd,
		.initrd_size = sizeof(w->initrd),
		.cmdline = "quiet",
	};

	w->z = fuzz_start(5);
	w->kernel[0x1fe] = 0x55;
	w->kernel[0x1ff] = 0xaa;
	memcpy(w->kernel + 0x202, "HdrS\x0f\x02", 6);
	w->kernel[0x211] = 1; /* LOADED_HIGH */
	w->serial.write = take_output;
	w->serial.room = room;
	assert_int_equal(ram_create(&w->ram, RAM_SIZE), 0);
	assert_int_equal(board_create(&config, &w->board), 0);
	board_reset(w->board);
	w->bus = board_bus(w->board);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	board_destroy(w->board);
	ram_destroy(&w->ram);
	free(w);
	return 0;
}

/* Mostly where something is. */
static uint16_t some_port(struct fuzz *z)
{
	static const uint16_t ports[] = { 0x60,  0x64,  0x70,  0x71,  0x92,  0xe0,  0xe4,  0xf4,  0x3f8,  0x3fc,
					  0x505, 0x510, 0x514, 0x518, 0x600, 0x604, 0x608, 0xcf9, 0x2000, 0x8900 };

	if (fuzz_below(z, 8) == 0)
		return (uint16_t)fuzz_value(z);
	return (uint16_t)(ports[fuzz_below(z, ARRAY_SIZE(ports))] + fuzz_below(z, 4));
}

/* A DMA request of fw_cfg, with addresses in and around guest memory. */
static void fw_cfg_dma(struct world *w)
{
	uint64_t at = fuzz_below(&w->z, 4) ? fuzz_below(&w->z, RAM_SIZE) : fuzz_value(&w->z);
	uint32_t control = (uint32_t)(fuzz_below(&w->z, 0x40) << 16 | fuzz_below(&w->z, 32));
	uint32_t length = (uint32_t)(fuzz_below(&w->z, 4) ? fuzz_below(&w->z, 0x3000) : fuzz_value(&w->z));
	uint64_t target = fuzz_below(&w->z, 4) ? fuzz_below(&w->z, RAM_SIZE) : fuzz_value(&w->z);
	const struct {
		uint32_t control, length;
		uint64_t address;
	} request = { htobe32(control), htobe32(length), htobe64(target) };
	uint32_t high = htobe32((uint32_t)(at >> 32)), low = htobe32((uint32_t)at);

	ram_write(&w->ram, at, &request, sizeof(request));
	bus_write(w->bus, BUS_PIO, FW_CFG_DMA, &high, 4);
	bus_write(w->bus, BUS_PIO, FW_CFG_DMA + 4, &low, 4);
}

static void type_something(struct world *w)
{
	uint8_t data[16] = { 0x41 };
	unsigned n = w->serial.can_receive(w->serial.ctx);

	if (n == CHARDEV_BUSY) /* a timer's thread */
		return;
	assert_true(n <= sizeof(data));
	if (n)
		w->serial.receive(w->serial.ctx, data, n);
}

static void one_access(struct world *w)
{
	static const unsigned sizes[] = { 1, 2, 4, 8, 1, 3 };
	unsigned size = sizes[fuzz_below(&w->z, ARRAY_SIZE(sizes))];
	bool mmio = fuzz_below(&w->z, 16) == 0;
	enum bus_space space = mmio ? BUS_MMIO : BUS_PIO;
	uint64_t addr = some_port(&w->z), value = fuzz_value(&w->z);
	uint8_t *exact = malloc(size); /* a sanitizer sees an access past it */

	if (mmio)
		addr = fuzz_below(&w->z, 2) ? TESTDEV_MMIO + fuzz_below(&w->z, 0x10010) : fuzz_value(&w->z);
	memcpy(exact, &value, size);
	if (fuzz_below(&w->z, 2))
		bus_read(w->bus, space, addr, exact, size);
	else
		bus_write(w->bus, space, addr, exact, size);
	free(exact);
}

static void test_devices(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < fuzz_rounds(ROUNDS); i++) {
		switch (fuzz_below(&w->z, 1024)) {
		case 0: board_reset(w->board); break;
		case 1: board_power_button(w->board); break;
		case 2 ... 9: type_something(w); break;
		case 10 ... 60: fw_cfg_dma(w); break;
		default: one_access(w); break;
		}
	}
	assert_true(w->requests && w->written);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_devices, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
