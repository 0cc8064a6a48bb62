/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AHCI controller (AHCI 1.3.1; as a PCI function, Intel's ICH9) with SATA disks (ATA8-ACS): for firmware and operating
 * systems without virtio drivers. Commands of a port are carried out one after the other; there is no NCQ.
 */
#ifndef VMM_DEVICE_AHCI_H
#define VMM_DEVICE_AHCI_H

#include "device/device.h"

#define AHCI_PORTS 6
#define AHCI_SERIAL_MAX 20

struct block;
struct guest_ram;
struct pci_bus;

struct ahci_disk {
	struct block *block; /* outlives the controller */
	const char *serial;  /* NULL: one is made up */
};

/* count: 1 to AHCI_PORTS. NULL with errno. */
struct device *ahci_create(struct pci_bus *bus, const struct guest_ram *ram, const struct ahci_disk *disks,
			   unsigned count);

#endif
