/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus of one machine: port and MMIO regions -> devices. Built before the vCPUs start,
 * read-only afterwards (lock-free look-up). Unclaimed reads give all ones, writes vanish.
 */
#ifndef VMM_MACHINE_BUS_H
#define VMM_MACHINE_BUS_H

#include "device/device.h"

enum bus_space { BUS_PIO, BUS_MMIO };

struct bus;
struct bus *bus_create(void);
void bus_destroy(struct bus *bus); /* not the devices */

/* Map region `region` of dev at [base, base+len). -EEXIST on overlap (message names both devices), -ENOMEM. */
int bus_map(struct bus *bus, enum bus_space space, uint64_t base, uint64_t len, struct device *dev, unsigned region);

/* An access of a vCPU; data holds `size` bytes, little endian. Thread: any. */
void bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned size);
void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data, unsigned size);

#endif
