/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware boots from, in which order (fw_cfg's "bootorder"): the disks as they were given, then the network
 * cards. Each is named by its Open Firmware path as SeaBIOS and OVMF know it from QEMU; "@" is followed by hexadecimal
 * numbers.
 */
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci.h"
#include "machine/board_parts.h"

#define ROOT "/pci@i0cf8/"

/* Of the device that was attached last. */
static unsigned last_slot(const struct board *b)
{
	struct device *dev = b->devices;

	while (dev->next)
		dev = dev->next;
	return container_of(dev, struct pci_function, dev)->devfn >> 3;
}

void board_boot_disk(struct board *b, unsigned disk)
{
	if (b->pci && disk < BOARD_BOOT_DISKS)
		snprintf(b->boot_disk[disk], BOARD_BOOT_PATH, ROOT "scsi@%x/disk@0,0", last_slot(b));
}

void board_boot_ahci_disk(struct board *b, unsigned disk, unsigned port)
{
	if (disk < BOARD_BOOT_DISKS)
		snprintf(b->boot_disk[disk], BOARD_BOOT_PATH, ROOT "pci8086,2922@%x/drive@%x/disk@0", last_slot(b),
			 port);
}

void board_boot_net(struct board *b, unsigned net)
{
	if (b->pci && net < BOARD_BOOT_NETS)
		snprintf(b->boot_net[net], BOARD_BOOT_PATH, ROOT "ethernet@%x/ethernet-phy@0", last_slot(b));
}

static void append(char *text, const char *path)
{
	if (*path && *text)
		strcat(text, "\n");
	strcat(text, path);
}

int board_boot_fill(const struct board *b)
{
	char text[(BOARD_BOOT_DISKS + BOARD_BOOT_NETS) * BOARD_BOOT_PATH] = "";

	for (unsigned i = 0; i < BOARD_BOOT_DISKS; i++)
		append(text, b->boot_disk[i]);
	for (unsigned i = 0; i < BOARD_BOOT_NETS; i++)
		append(text, b->boot_net[i]);
	return *text ? fw_cfg_add_file(b->fw_cfg, "bootorder", text, (uint32_t)strlen(text) + 1) : 0;
}
