/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the board says through fw_cfg: its size, and for a bzImage the pieces of a direct boot, as firmware that
 * boots from fw_cfg (QEMU's linuxboot, OVMF) expects them: setup part and protected-mode part apart, the setup
 * header filled in by the boot protocol's 16-bit rules.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "machine/board_parts.h"

enum {
	KEY_RAM_SIZE = 0x03,
	KEY_NOGRAPHIC = 0x04,
	KEY_NB_CPUS = 0x05,
	KEY_KERNEL_ADDR = 0x07,
	KEY_KERNEL_SIZE = 0x08,
	KEY_INITRD_ADDR = 0x0a,
	KEY_INITRD_SIZE = 0x0b,
	KEY_MAX_CPUS = 0x0f,
	KEY_KERNEL_DATA = 0x11,
	KEY_INITRD_DATA = 0x12,
	KEY_CMDLINE_ADDR = 0x13,
	KEY_CMDLINE_SIZE = 0x14,
	KEY_CMDLINE_DATA = 0x15,
	KEY_SETUP_ADDR = 0x16,
	KEY_SETUP_SIZE = 0x17,
	KEY_SETUP_DATA = 0x18,
	KEY_IRQ0_OVERRIDE = 0x8002,
};

/* Where QEMU's linuxboot puts the pieces. */
#define SETUP_ADDR 0x10000u
#define CMDLINE_ADDR 0x20000u
#define KERNEL_ADDR 0x100000u

#define SETUP_HEADER 0x1f1
#define SETUP_SECTS_DEFAULT 4
#define SECTOR 512
#define LOADER_QEMU 0xb0 /* the loader these pieces are laid out for */
#define INITRD_MAX_OLD 0x37ffffff

struct item {
	uint16_t key;
	uint8_t size;
	uint64_t value;
};

struct blob {
	uint16_t key;
	uint64_t size;
	const void *data;
};

static int add_values(struct device *fw_cfg, const struct item *items, size_t count)
{
	int err = 0;

	for (size_t i = 0; i < count && !err; i++)
		err = fw_cfg_add_value(fw_cfg, items[i].key, items[i].value, items[i].size);
	return err;
}

static int add_e820(struct device *fw_cfg, const struct board *board)
{
	struct boot_e820_entry entry[E820_MAX]; /* 20 bytes each: the file's format as well */

	for (unsigned i = 0; i < board->e820_count; i++)
		entry[i] = (struct boot_e820_entry){ .addr = board->e820[i].base,
						     .size = board->e820[i].size,
						     .type = board->e820[i].type };
	return fw_cfg_add_file(fw_cfg, "etc/e820", entry, board->e820_count * (uint32_t)sizeof(entry[0]));
}

/* The setup part's size if the kernel is a bzImage whose pieces fw_cfg can carry, else 0. */
static uint32_t bzimage_setup_size(const struct board_config *c, struct setup_header *header)
{
	uint32_t size;

	if (!c->kernel || c->kernel_size < SETUP_HEADER + sizeof(*header) || c->kernel_size > UINT32_MAX ||
	    c->initrd_size > UINT32_MAX)
		return 0;
	memcpy(header, (const uint8_t *)c->kernel + SETUP_HEADER, sizeof(*header));
	if (header->boot_flag != 0xaa55 || memcmp(&header->header, "HdrS", 4) || !(header->loadflags & LOADED_HIGH))
		return 0;
	size = (header->setup_sects ? header->setup_sects : SETUP_SECTS_DEFAULT) * SECTOR + SECTOR;
	return size < c->kernel_size ? size : 0;
}

static uint32_t initrd_address(const struct board_config *c, const struct setup_header *header)
{
	uint64_t end = header->version >= 0x203 ? header->initrd_addr_max : INITRD_MAX_OLD;

	if (end > c->ram->below_size - 1)
		end = c->ram->below_size - 1;
	if (!c->initrd_size || end + 1 < KERNEL_ADDR + c->initrd_size)
		return 0;
	return (uint32_t)((end + 1 - c->initrd_size) & ~UINT64_C(0xfff));
}

static int add_setup(struct device *fw_cfg, const struct board_config *c, struct setup_header header, uint32_t size,
		     uint32_t initrd)
{
	uint8_t *setup = malloc(size);
	int err;

	if (!setup)
		return -ENOMEM;
	header.type_of_loader = LOADER_QEMU;
	header.loadflags |= CAN_USE_HEAP;
	header.heap_end_ptr = CMDLINE_ADDR - SETUP_ADDR - 0x200;
	header.cmd_line_ptr = CMDLINE_ADDR;
	header.ramdisk_image = initrd;
	header.ramdisk_size = initrd ? (uint32_t)c->initrd_size : 0;
	memcpy(setup, c->kernel, size);
	memcpy(setup + SETUP_HEADER, &header, sizeof(header));
	err = fw_cfg_add_copy(fw_cfg, KEY_SETUP_DATA, setup, size);
	free(setup);
	return err;
}

static int add_kernel(struct device *fw_cfg, const struct board_config *c)
{
	struct setup_header header;
	uint32_t setup_size = bzimage_setup_size(c, &header);
	const char *cmdline = c->cmdline ? c->cmdline : "";
	uint32_t cmdline_size = (uint32_t)strlen(cmdline) + 1;
	uint32_t initrd, kernel_size;
	int err;

	if (!setup_size)
		return 0;
	initrd = initrd_address(c, &header);
	kernel_size = (uint32_t)c->kernel_size - setup_size;
	const struct item values[] = {
		{ KEY_SETUP_ADDR, 4, SETUP_ADDR },     { KEY_SETUP_SIZE, 4, setup_size },
		{ KEY_KERNEL_ADDR, 4, KERNEL_ADDR },   { KEY_KERNEL_SIZE, 4, kernel_size },
		{ KEY_CMDLINE_ADDR, 4, CMDLINE_ADDR }, { KEY_CMDLINE_SIZE, 4, cmdline_size },
		{ KEY_INITRD_ADDR, 4, initrd },        { KEY_INITRD_SIZE, 4, initrd ? c->initrd_size : 0 },
	};

	err = add_values(fw_cfg, values, ARRAY_SIZE(values));
	if (!err)
		err = add_setup(fw_cfg, c, header, setup_size, initrd);
	if (!err)
		err = fw_cfg_add(fw_cfg, KEY_KERNEL_DATA, (const uint8_t *)c->kernel + setup_size, kernel_size);
	if (!err)
		err = fw_cfg_add_copy(fw_cfg, KEY_CMDLINE_DATA, cmdline, cmdline_size);
	if (!err && initrd)
		err = fw_cfg_add(fw_cfg, KEY_INITRD_DATA, c->initrd, (uint32_t)c->initrd_size);
	return err;
}

int fw_cfg_fill(struct device *fw_cfg, const struct board *board)
{
	const struct board_config *c = &board->config;
	const struct item values[] = {
		{ KEY_RAM_SIZE, 8, c->ram->size }, { KEY_NOGRAPHIC, 2, !c->vga }, { KEY_NB_CPUS, 2, c->cpus },
		{ KEY_MAX_CPUS, 2, c->cpus },      { KEY_IRQ0_OVERRIDE, 4, 1 },
	};
	int err = add_values(fw_cfg, values, ARRAY_SIZE(values));

	if (!err)
		err = add_e820(fw_cfg, board);
	if (!err)
		err = add_kernel(fw_cfg, c);
	return err;
}
