/* SPDX-License-Identifier: Apache-2.0 */
/* pvpanic (QEMU docs/specs/pvpanic): the guest says that its kernel panicked. A read gives the supported events. */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

#define EVENT_PANICKED 0x01
#define EVENT_CRASH_LOADED 0x02 /* a crash kernel takes over: nothing for us to do */

struct pvpanic {
	struct device dev;
	struct machine_control control;
};

static uint64_t pvpanic_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)region;
	(void)offset;
	(void)size;
	return EVENT_PANICKED | EVENT_CRASH_LOADED;
}

static void pvpanic_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct pvpanic *p = container_of(dev, struct pvpanic, dev);

	(void)region;
	(void)offset;
	(void)size;
	if (value & EVENT_PANICKED)
		p->control.request(p->control.ctx, MACHINE_PANICKED, 0);
}

static void pvpanic_reset(struct device *dev)
{
	(void)dev;
}

static void pvpanic_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct pvpanic, dev));
}

static const struct device_ops pvpanic_ops = {
	.name = "pvpanic",
	.min_size = 1,
	.max_size = 1,
	.reset = pvpanic_reset,
	.read = pvpanic_read,
	.write = pvpanic_write,
	.destroy = pvpanic_destroy,
};

struct device *pvpanic_create(struct machine_control control)
{
	struct pvpanic *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	device_init(&p->dev, &pvpanic_ops);
	p->control = control;
	return &p->dev;
}
