/* SPDX-License-Identifier: Apache-2.0 */
/* Reset control register of Intel chipsets at 0xcf9 (ICH9 data sheet 13.7.5); the FADT's RESET_REG. */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

#define RST_CPU 0x04
#define STORED 0x0a /* SYS_RST, FULL_RST */

struct reset_port {
	struct device dev;
	struct machine_control control;
	uint8_t value;
};

static uint64_t reset_port_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	(void)region;
	(void)offset;
	(void)size;
	return container_of(dev, struct reset_port, dev)->value;
}

static void reset_port_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct reset_port *r = container_of(dev, struct reset_port, dev);

	(void)region;
	(void)offset;
	(void)size;
	r->value = value & STORED;
	if (value & RST_CPU)
		r->control.request(r->control.ctx, MACHINE_RESET, 0);
}

static void reset_port_reset(struct device *dev)
{
	container_of(dev, struct reset_port, dev)->value = 0;
}

static void reset_port_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct reset_port, dev));
}

static const struct device_ops reset_port_ops = {
	.name = "reset-port",
	.min_size = 1,
	.max_size = 1,
	.reset = reset_port_reset,
	.read = reset_port_read,
	.write = reset_port_write,
	.destroy = reset_port_destroy,
};

struct device *reset_port_create(struct machine_control control)
{
	struct reset_port *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	device_init(&r->dev, &reset_port_ops);
	r->control = control;
	return &r->dev;
}
