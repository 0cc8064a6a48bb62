/* SPDX-License-Identifier: Apache-2.0 */
/* What the board says of itself through fw_cfg. (A kernel is not among it: with --kernel there is no firmware.) */
#include <asm/bootparam.h>

#include "base/compiler.h"
#include "machine/board_parts.h"

enum {
	KEY_RAM_SIZE = 0x03,
	KEY_NOGRAPHIC = 0x04,
	KEY_NB_CPUS = 0x05,
	KEY_MAX_CPUS = 0x0f,
	KEY_IRQ0_OVERRIDE = 0x8002,
};

struct item {
	uint16_t key;
	uint8_t size;
	uint64_t value;
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
	return err;
}
