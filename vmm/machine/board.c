/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/board.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci.h"
#include "machine/acpi_defs.h"
#include "machine/board_parts.h"
#include "machine/firmware.h"
#include "machine/message.h"
#include "machine/nearest.h"
#include "machine/ports.h"

struct irq_line board_gsi(const struct board *board, unsigned gsi)
{
	struct irq_line line = board->config.gsi;

	line.n = gsi;
	return line;
}

int board_attach(struct board *board, struct device *dev, const struct placement *where, unsigned regions)
{
	struct device **end = &board->devices;
	int err = 0;

	if (!dev)
		return -errno;
	while (*end)
		end = &(*end)->next;
	*end = dev;
	/* A PCI function is found through its bus: regions is 0. */
	for (unsigned i = 0; i < regions && !err; i++)
		err = bus_map(board->bus, where[i].space, where[i].base, where[i].len, dev, i);
	return err;
}

int board_adopt(struct board *board, struct device *dev)
{
	return board_attach(board, dev, NULL, 0);
}

static bool on_board(const struct board *board, const struct board_part *part)
{
	return part->boards & BIT32(board->config.kind);
}

static int attach_builtin(struct board *board)
{
	static const struct options none;
	int err = 0;

	for (unsigned i = 0; i < board_part_count && !err; i++) {
		if (!board_parts[i].builtin || !on_board(board, &board_parts[i]))
			continue;
		err = board_parts[i].attach(board, &none);
		if (err)
			msg_error("cannot create %s: %s", board_parts[i].name, strerror(-err));
	}
	return err;
}

static const struct board_part *find_option(const char *name)
{
	for (unsigned i = 0; i < board_part_count; i++)
		if (board_parts[i].option && !strcmp(board_parts[i].name, name))
			return &board_parts[i];
	return NULL;
}

static int attach_option(struct board *board, const char *text)
{
	const struct board_part *part;
	struct options options;
	int err = options_parse(&options, text);

	if (err)
		return err;
	part = find_option(options.name);
	if (!part) {
		msg_error("--device %s: unknown device; did you mean \"%s\"?", options.name,
			  nearest_name(options.name, board_device_names()));
		return -EINVAL;
	}
	if (!on_board(board, part)) {
		msg_error("--device %s: a %s board cannot have this device", options.name,
			  board_kind_names()[board->config.kind]);
		return -EINVAL;
	}
	err = options_check(&options, part->keys);
	if (err || part->builtin) /* asked for, and there already */
		return err;
	err = part->attach(board, &options);
	if (err == -ENOMEM)
		msg_error("--device %s: %s", options.name, strerror(-err));
	return err;
}

static int attach_all(struct board *board)
{
	const char *const *text = board->config.devices;
	int err = attach_builtin(board);

	for (; !err && text && *text; text++)
		err = attach_option(board, *text);
	return err ? err : board_virtio_attach_backends(board);
}

static void describe(void *ctx, struct aml *aml)
{
	const struct board *board = ctx;

	for (unsigned i = 0; i < board_part_count; i++)
		if (board_parts[i].builtin && board_parts[i].describe && on_board(board, &board_parts[i]))
			board_parts[i].describe(aml);
	if (board->vga)
		board_keyboard_describe(aml);
	board_virtio_describe(board, aml);
}

static int build_tables(struct board *board)
{
	const struct acpi_request request = {
		.cpus = board->config.cpus,
		.ecam = board->pci ? PCI_ECAM_BASE : 0,
		.i8042 = board->config.kind == BOARD_PC,
		.rtc = true,
		.hpet = board->has_hpet ? HPET_BASE : 0,
		.describe = describe,
		.ctx = board,
	};

	return acpi_build(&board->acpi, &request);
}

const char *const *board_kind_names(void)
{
	static const char *const names[] = { [BOARD_PC] = "pc", [BOARD_MICROVM] = "microvm", NULL };

	return names;
}

int board_create(const struct board_config *config, struct board **out)
{
	struct board *board = calloc(1, sizeof(*board));
	int err = -ENOMEM;

	*out = NULL;
	if (!board)
		goto fail;
	pthread_mutex_init(&board->legacy_lock, NULL);
	board->config = *config;
	pthread_mutex_init(&board->virtio_lock, NULL);
	board->e820_count = e820_build(config, board->e820);
	board->bus = bus_create();
	board->timers = timer_service_create();
	if (!board->bus || !board->timers)
		goto fail;
	err = attach_all(board);
	if (err) {
		board_destroy(board); /* the message has been given */
		return err;
	}
	err = build_tables(board);
	if (!err && config->firmware)
		err = firmware_fill_fw_cfg(config->firmware, board->fw_cfg, &board->acpi, !config->vga);
	if (!err && config->firmware)
		err = board_boot_fill(board);
	if (err)
		goto fail;
	*out = board;
	return 0;
fail:
	msg_error("cannot create the board: %s", strerror(-err));
	board_destroy(board);
	return err;
}

void board_hold(struct board *board, bool on)
{
	timer_service_hold(board->timers, on);
}

void board_destroy(struct board *board)
{
	struct device *last = NULL, *next;

	if (!board)
		return;
	timer_service_destroy(board->timers);
	/* The youngest first: until its thread has ended a device may use a bridge that was there before it. */
	for (struct device *dev = board->devices; dev; dev = next) {
		next = dev->next;
		dev->next = last;
		last = dev;
	}
	for (; last; last = next) {
		next = last->next;
		last->ops->destroy(last);
	}
	pci_bus_destroy(board->pci);
	acpi_free(&board->acpi);
	bus_destroy(board->bus);
	board_virtio_fini(board);
	pthread_mutex_destroy(&board->virtio_lock);
	pthread_mutex_destroy(&board->legacy_lock);
	free(board);
}

/* What firmware leaves in the BIOS data area for those who look: the EBDA and the size of conventional memory. */
static void write_bios_data(const struct guest_ram *ram)
{
	const uint16_t ebda_segment = EBDA_START >> 4, base_kib = EBDA_START >> 10;
	const uint8_t ebda_kib = (LOW_RAM_END - EBDA_START) >> 10;

	ram_write(ram, 0x40e, &ebda_segment, sizeof(ebda_segment));
	ram_write(ram, 0x413, &base_kib, sizeof(base_kib));
	ram_write(ram, EBDA_START, &ebda_kib, sizeof(ebda_kib));
}

void board_reset_devices(struct board *board)
{
	for (struct device *dev = board->devices; dev; dev = dev->next) {
		device_lock(dev);
		dev->ops->reset(dev);
		device_unlock(dev);
	}
	if (board->pci && !board->config.firmware)
		board_pci_firmware(board);
}

void board_reset(struct board *board)
{
	board_reset_devices(board);
	if (board->config.firmware)
		return; /* which does the rest */
	write_bios_data(board->config.ram);
	ram_write(board->config.ram, board->acpi.gpa, board->acpi.image, board->acpi.size);
}

struct bus *board_bus(struct board *board)
{
	return board->bus;
}

unsigned board_e820(const struct board *board, struct e820_entry map[E820_MAX])
{
	memcpy(map, board->e820, sizeof(board->e820));
	return board->e820_count;
}

uint64_t board_rsdp(const struct board *board)
{
	return board->acpi.gpa;
}

struct device *board_vga(struct board *board)
{
	return board->vga;
}

struct device *board_keyboard(struct board *board)
{
	return board->vga ? board->i8042 : NULL;
}

void board_power_button(struct board *board)
{
	acpi_pm_power_button(board->acpi_pm);
}

void board_sleep(struct board *board)
{
	static const uint8_t index = CMOS_SHUTDOWN, from_s3 = 0xfe;

	if (board->config.firmware) {
		bus_write(board->bus, BUS_PIO, PORT_RTC, &index, 1);
		bus_write(board->bus, BUS_PIO, PORT_RTC + 1, &from_s3, 1);
	}
	acpi_pm_sleep(board->acpi_pm);
}

void board_wake(struct board *board)
{
	acpi_pm_wake(board->acpi_pm);
}

uint32_t board_waking_vector(const struct board *board)
{
	struct acpi_facs facs = { 0 };

	ram_read(board->config.ram, board->acpi.facs, &facs, sizeof(facs));
	return facs.firmware_waking_vector;
}
