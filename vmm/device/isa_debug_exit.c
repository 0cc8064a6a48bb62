/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's isa-debug-exit: a test ends the program, with a status that is never 0. */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

struct isa_debug_exit {
	struct device dev;
	struct machine_control control;
};

static uint64_t isa_debug_exit_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)region;
	(void)offset;
	(void)size;
	return 0;
}

static void isa_debug_exit_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct isa_debug_exit *d = container_of(dev, struct isa_debug_exit, dev);

	(void)region;
	(void)offset;
	(void)size;
	d->control.request(d->control.ctx, MACHINE_EXIT, (int)((uint32_t)value << 1 | 1));
}

static void isa_debug_exit_reset(struct device *dev)
{
	(void)dev;
}

static void isa_debug_exit_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct isa_debug_exit, dev));
}

static const struct device_ops isa_debug_exit_ops = {
	.name = "isa-debug-exit",
	.min_size = 1,
	.max_size = 4,
	.reset = isa_debug_exit_reset,
	.read = isa_debug_exit_read,
	.write = isa_debug_exit_write,
	.destroy = isa_debug_exit_destroy,
};

struct device *isa_debug_exit_create(struct machine_control control)
{
	struct isa_debug_exit *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	device_init(&d->dev, &isa_debug_exit_ops);
	d->control = control;
	return &d->dev;
}
