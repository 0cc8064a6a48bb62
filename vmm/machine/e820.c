/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map a BIOS would report (ACPI 6.4 15.1). */
#include "device/pci/host.h"
#include "machine/board_parts.h"
#include "machine/ports.h"

enum { E820_RAM = 1, E820_RESERVED = 2 };

static void add(struct e820_entry *map, unsigned *count, uint64_t start, uint64_t end, uint32_t type)
{
	if (end > start)
		map[(*count)++] = (struct e820_entry){ .base = start, .size = end - start, .type = type };
}

unsigned e820_build(const struct board_config *config, struct e820_entry map[E820_MAX])
{
	const struct guest_ram *ram = config->ram;
	unsigned count = 0;

	add(map, &count, 0, EBDA_START, E820_RAM);
	add(map, &count, EBDA_START, LOW_RAM_END, E820_RESERVED);
	add(map, &count, BIOS_START, BIOS_END, E820_RESERVED); /* the ACPI tables */
	add(map, &count, BIOS_END, ram->below_size, E820_RAM);
	if (config->kind == BOARD_PC)
		add(map, &count, PCI_ECAM_BASE, PCI_ECAM_BASE + PCI_HOST_ECAM_SIZE, E820_RESERVED);
	add(map, &count, RAM_ABOVE_4G, RAM_ABOVE_4G + ram->above_size, E820_RAM);
	return count;
}
