/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every device that a board can have, by its registers: port and MMIO accesses of every size, fw_cfg's DMA, PCI
 * configuration, guest memory that changes, console input, resets, the power button. And the flash with UEFI variables,
 * which a board has only with a file of the user's.
 *
 * Input: a sequence of operations.
 */
#include <endian.h>
#include <errno.h>
#include <unistd.h>

#include "device/models.h"
#include "device/pflash.h"
#include "input.h"
#include "machine/board.h"
#include "machine/bus.h"
#include "machine/options.h"

#define RAM_SIZE (UINT64_C(2) << 20)
#define FW_CFG_DMA 0x514
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define TESTDEV_MMIO UINT64_C(0xff000000)
#define FLASH UINT64_C(0xffc00000)
#define FLASH_SIZE (3 * PFLASH_BLOCK)
#define GSI_COUNT 24
#define DEVICES_MAX 32

struct world {
	struct input in;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
	struct chardev serial;
	struct device *flash;
	uint8_t *flash_data; /* of exact size */
	bool flash_hidden;
	uint64_t at; /* where the last access went */
};

/* Those that --device takes and that need no options to be told; found at the start. */
static const char *devices[DEVICES_MAX + 1];

static void take_line(void *ctx, unsigned n, bool level)
{
	(void)ctx, (void)level;
	CHECK(n < GSI_COUNT);
}

static void take_request(void *ctx, enum machine_request what, int status)
{
	(void)ctx, (void)status;
	CHECK(what <= MACHINE_SLEEP);
}

static void take_output(struct chardev *c, const uint8_t *data, unsigned len)
{
	(void)c;
	for (unsigned i = 0; i < len; i++)
		(void)*(const volatile uint8_t *)&data[i];
}

static void take_room(struct chardev *c)
{
	(void)c;
}

static int store_flash(void *ctx, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct world *w = ctx;

	CHECK(offset < FLASH_SIZE && len && len <= FLASH_SIZE - offset);
	for (uint32_t i = 0; i < len; i++)
		(void)*(const volatile uint8_t *)&data[i];
	return (offset ^ w->flash_data[offset]) % 16 == 5 ? -ENOSPC : 0;
}

static void sync_flash(void *ctx)
{
	(void)ctx;
}

static void show_flash(void *ctx, bool data)
{
	struct world *w = ctx;

	CHECK(data == w->flash_hidden);
	w->flash_hidden = !data;
}

static void create_flash(struct world *w)
{
	const struct pflash_view view = { .show = show_flash, .ctx = w };
	struct pflash_array array = { .size = FLASH_SIZE, .store = store_flash, .sync = sync_flash, .ctx = w };

	w->flash_data = array.data = calloc(1, FLASH_SIZE);
	w->flash = pflash_create(&array, &view);
	CHECK(w->flash && bus_map(w->bus, BUS_MMIO, FLASH, FLASH_SIZE, w->flash, 0) == 0);
}

static int create_board(struct world *w, const char *const *names)
{
	struct board_config config = {
		.ram = &w->ram,
		.cpus = 2,
		.gsi = { .set = take_line, .ctx = w },
		.control = { .request = take_request, .ctx = w },
		.serial = &w->serial,
		.devices = names,
	};

	w->serial.write = take_output;
	w->serial.room = take_room;
	return board_create(&config, &w->board);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	unsigned count = 0;

	(void)argc, (void)argv;
	for (const char *const *name = board_device_names(); *name && count < DEVICES_MAX; name++) {
		const char *one[] = { *name, NULL };
		struct world *w = calloc(1, sizeof(*w));

		CHECK(ram_create(&w->ram, RAM_SIZE) == 0);
		if (create_board(w, one) == 0) {
			devices[count++] = *name;
			board_destroy(w->board);
		}
		ram_destroy(&w->ram);
		free(w);
	}
	CHECK(count > 0);
	return 0;
}

/* Mostly where something is. */
static uint64_t some_port(struct input *in)
{
	static const uint16_t ports[] = { 0x20,  0x40,  0x60,  0x64,  0x70,  0x92,  0xb2,  0xcf8, 0xcfc, 0xe0,  0xe4,
					  0x3c0, 0x3f8, 0x501, 0x510, 0x514, 0x600, 0x604, 0x608, 0xcf9, 0x2000 };
	unsigned n = input_u8(in);

	if (n >= 0xf0)
		return input_number(in, 2);
	return ports[(n >> 3) % ARRAY_SIZE(ports)] + (n & 7);
}

static uint64_t some_memory(struct world *w)
{
	static const uint64_t windows[] = { 0xa0000,     0xb8000,           0xc0000000, 0xe0000000,
					    0xfe000000,  0xfeb00000,        0xfed00000, 0xff000000,
					    0x100000000, UINT64_C(1) << 40, FLASH };
	unsigned n = input_u8(&w->in);

	if (n & 0x80)
		return w->at + (n & 0x7f) - 0x40;
	if (n == 0)
		return input_value(&w->in);
	return windows[n % ARRAY_SIZE(windows)] + input_number(&w->in, 2);
}

static void access_bus(struct world *w, enum bus_space space, uint64_t addr, bool write)
{
	static const unsigned sizes[] = { 1, 2, 4, 8, 1, 2, 4, 3 };
	unsigned size = sizes[input_u8(&w->in) & 7];
	uint8_t *exact = malloc(size); /* the sanitizer sees an access past it */

	w->at = addr;
	if (write) {
		uint64_t value = input_value(&w->in);

		memcpy(exact, &value, size);
		bus_write(w->bus, space, addr, exact, size);
	} else {
		bus_read(w->bus, space, addr, exact, size);
	}
	free(exact);
}

/* A DMA request of fw_cfg, with addresses in and around guest memory. */
static void fw_cfg_dma(struct world *w)
{
	uint64_t at = input_rarely(&w->in, 8) ? input_value(&w->in) : input_below(&w->in, RAM_SIZE);
	uint32_t key = (uint32_t)input_number(&w->in, 1), control = (uint32_t)input_number(&w->in, 1);
	uint32_t length = (uint32_t)(input_rarely(&w->in, 4) ? input_value(&w->in) : input_number(&w->in, 2));
	uint64_t target = input_rarely(&w->in, 4) ? input_value(&w->in) : input_below(&w->in, RAM_SIZE);
	const struct {
		uint32_t control, length;
		uint64_t address;
	} request = { htobe32(key << 16 | control), htobe32(length), htobe64(target) };
	uint32_t high = htobe32((uint32_t)(at >> 32)), low = htobe32((uint32_t)at);

	ram_write(&w->ram, at, &request, sizeof(request));
	bus_write(w->bus, BUS_PIO, FW_CFG_DMA, &high, 4);
	bus_write(w->bus, BUS_PIO, FW_CFG_DMA + 4, &low, 4);
}

/* A register of a PCI function on bus 0, where there is a host bridge. */
static void pci_config(struct world *w, bool write)
{
	uint32_t address =
		0x80000000u | (uint32_t)input_below(&w->in, 16) << 11 | (uint32_t)input_below(&w->in, 0x100 >> 2) << 2;

	bus_write(w->bus, BUS_PIO, PCI_ADDRESS, &address, 4);
	access_bus(w, BUS_PIO, PCI_DATA + (input_u8(&w->in) & 3), write);
}

static void change_ram(struct world *w)
{
	uint8_t data[32];
	unsigned n = 1 + input_u8(&w->in) % sizeof(data);
	uint64_t at = input_below(&w->in, RAM_SIZE);

	input_bytes(&w->in, data, n);
	ram_write(&w->ram, at, data, n);
}

static void type_something(struct world *w)
{
	uint8_t data[16] = { 0x41 };
	unsigned n = w->serial.can_receive(w->serial.ctx);

	if (n == CHARDEV_BUSY) /* a timer's thread */
		return;
	CHECK(n <= sizeof(data));
	if (n)
		w->serial.receive(w->serial.ctx, data, n);
}

static void one_operation(struct world *w)
{
	unsigned what = input_u8(&w->in);

	switch (what & 15) {
	case 0: fw_cfg_dma(w); return;
	case 1: change_ram(w); return;
	case 2: pci_config(w, what & 16); return;
	case 3: type_something(w); return;
	case 4:
		if (what & 16) {
			board_reset(w->board);
			w->flash->ops->reset(w->flash);
		} else {
			board_power_button(w->board);
		}
		return;
	case 5:
	case 6:
	case 7: access_bus(w, BUS_MMIO, some_memory(w), what & 16); return;
	default: access_bus(w, BUS_PIO, some_port(&w->in), what & 16); return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = calloc(1, sizeof(*w));

	w->in = (struct input){ data, data + size };
	CHECK(ram_create(&w->ram, RAM_SIZE) == 0);
	CHECK(create_board(w, devices) == 0);
	w->bus = board_bus(w->board);
	create_flash(w);
	board_reset(w->board);
	while (input_left(&w->in))
		one_operation(w);
	board_destroy(w->board);
	w->flash->ops->destroy(w->flash);
	free(w->flash_data);
	ram_destroy(&w->ram);
	free(w);
	return 0;
}
