/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the board: what board.c, device_list.c, e820.c and the ACPI tables share. */
#ifndef VMM_MACHINE_BOARD_PARTS_H
#define VMM_MACHINE_BOARD_PARTS_H

#include "device/models.h"
#include "device/timer.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/board.h"
#include "machine/options.h"

struct board {
	struct board_config config;
	struct bus *bus;
	struct timer_service *timers;
	struct device *devices; /* in creation order */
	struct device *acpi_pm;
	struct e820_entry e820[E820_MAX];
	unsigned e820_count;
	struct acpi_tables acpi;
};

/* Where region i of a device goes: row i. */
struct placement {
	enum bus_space space;
	uint64_t base, len;
};

/* Takes dev (NULL: -errno of its create function) over and maps it. 0, or -errno with a message. */
int board_attach(struct board *board, struct device *dev, const struct placement *where, unsigned regions);
struct irq_line board_gsi(const struct board *board, unsigned gsi);

/* A kind of device this board can have. */
struct board_part {
	const char *name;
	bool builtin;            /* every board has one */
	bool option;             /* --device takes it */
	const char *const *keys; /* of its options */
	/* 0; or -errno with a message. options may be without pairs. */
	int (*attach)(struct board *board, const struct options *options);
	void (*describe)(struct aml *aml); /* its device object under \_SB, or NULL */
};
extern const struct board_part board_parts[];
extern const unsigned board_part_count;

unsigned e820_build(const struct guest_ram *ram, struct e820_entry map[E820_MAX]);

/* What the board says through fw_cfg: fw_cfg_items.c. 0, -ENOMEM. */
int fw_cfg_fill(struct device *fw_cfg, const struct board *board);

#endif
