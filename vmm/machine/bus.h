/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus of one machine: port and MMIO regions -> devices. Regions may come and go while vCPUs run; an access that is
 * under way then still reaches its device. Unclaimed reads give all ones, writes vanish.
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
/* The same for a guest that moves things: its mistakes are no messages. Thread: any. */
int bus_map_quiet(struct bus *bus, enum bus_space space, uint64_t base, uint64_t len, struct device *dev,
		  unsigned region);
/* Take out what was mapped at base; nothing if that is not this device's region. Thread: any. */
void bus_unmap(struct bus *bus, enum bus_space space, uint64_t base, struct device *dev, unsigned region);

/* An access of a vCPU; data holds `size` bytes, little endian. Thread: any. */
void bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned size);
void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data, unsigned size);

#endif
