/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's pc-testdev: what kvm-unit-tests use to see port I/O, MMIO and interrupt lines from the inside. */
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/models.h"

enum { REGION_LATCH, REGION_FLUSH, REGION_BYTES, REGION_LINES, REGION_MMIO };

struct pc_testdev {
	struct device dev;
	struct irq_line gsi;
	uint32_t latch; /* one register behind REGION_LATCH and REGION_BYTES */
	uint8_t mmio[PC_TESTDEV_MMIO_SIZE];
};

static uint32_t byte_mask(unsigned size)
{
	return (uint32_t)(BIT64(8 * size) - 1);
}

static uint64_t pc_testdev_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);
	uint64_t value = 0;

	switch (region) {
	case REGION_LATCH:
	case REGION_BYTES: return d->latch >> (8 * offset);
	case REGION_MMIO: memcpy(&value, d->mmio + offset, size); return value;
	default: return UINT64_MAX;
	}
}

static void pc_testdev_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);

	switch (region) {
	case REGION_LATCH:
	case REGION_BYTES: {
		uint32_t mask = byte_mask(size) << (8 * offset);

		d->latch = (d->latch & ~mask) | ((uint32_t)(value << (8 * offset)) & mask);
		break;
	}
	case REGION_LINES:
		if (d->gsi.set)
			d->gsi.set(d->gsi.ctx, (unsigned)offset, value != 0);
		break;
	case REGION_MMIO: memcpy(d->mmio + offset, &value, size); break;
	default: break; /* page flush: makes a host drop its mapping of a guest page, which the guest cannot see */
	}
}

static void pc_testdev_reset(struct device *dev)
{
	struct pc_testdev *d = container_of(dev, struct pc_testdev, dev);

	d->latch = 0;
	memset(d->mmio, 0, sizeof(d->mmio));
}

static void pc_testdev_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct pc_testdev, dev));
}

static const struct device_ops pc_testdev_ops = {
	.name = "pc-testdev",
	.min_size = 1,
	.max_size = 4,
	.reset = pc_testdev_reset,
	.read = pc_testdev_read,
	.write = pc_testdev_write,
	.destroy = pc_testdev_destroy,
};

struct device *pc_testdev_create(struct irq_line gsi)
{
	struct pc_testdev *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	device_init(&d->dev, &pc_testdev_ops);
	d->gsi = gsi;
	return &d->dev;
}
