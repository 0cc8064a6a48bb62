/* SPDX-License-Identifier: Apache-2.0 */
/* The disks with bus=ahci, on one controller. */
#include <errno.h>
#include <string.h>

#include "base/compiler.h"
#include "device/ahci.h"
#include "machine/board_parts.h"
#include "machine/message.h"

int board_ahci_attach(struct board *b, const struct options *options)
{
	struct ahci_disk disks[AHCI_PORTS];
	unsigned count = 0, number[AHCI_PORTS];
	int err;

	(void)options;
	for (unsigned i = 0; i < b->config.disk_count; i++) {
		const struct board_disk *disk = &b->config.disks[i];

		if (!disk->ahci)
			continue;
		if (!b->pci || count == AHCI_PORTS) {
			if (b->pci)
				msg_error("--disk: more than %d disks with bus=ahci", AHCI_PORTS);
			else
				msg_error("--disk: bus=ahci needs --machine pc");
			return -EINVAL;
		}
		number[count] = i;
		disks[count++] = (struct ahci_disk){ .block = disk->block, .serial = disk->serial };
	}
	if (!count)
		return 0;
	err = board_adopt(b, ahci_create(b->pci, b->config.ram, disks, count));
	for (unsigned port = 0; port < count && !err; port++)
		board_boot_ahci_disk(b, number[port], port);
	return err;
}
