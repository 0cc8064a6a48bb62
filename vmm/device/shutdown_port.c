/* SPDX-License-Identifier: Apache-2.0 */
/* Power-off port of the Bochs PC (0x8900): the letters of "Shutdown", one a write. kvm-unit-tests use it. */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

static const char password[] = "Shutdown";

struct shutdown_port {
	struct device dev;
	struct machine_control control;
	unsigned matched;
};

static uint64_t shutdown_port_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)region;
	(void)offset;
	(void)size;
	return UINT64_MAX;
}

static void shutdown_port_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct shutdown_port *s = container_of(dev, struct shutdown_port, dev);

	(void)region;
	(void)offset;
	(void)size;
	if ((uint8_t)value == password[s->matched])
		s->matched++;
	else
		s->matched = (uint8_t)value == password[0];
	if (password[s->matched])
		return;
	s->matched = 0;
	s->control.request(s->control.ctx, MACHINE_POWEROFF, 0);
}

static void shutdown_port_reset(struct device *dev)
{
	container_of(dev, struct shutdown_port, dev)->matched = 0;
}

static void shutdown_port_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct shutdown_port, dev));
}

static const struct device_ops shutdown_port_ops = {
	.name = "shutdown-port",
	.min_size = 1,
	.max_size = 1,
	.reset = shutdown_port_reset,
	.read = shutdown_port_read,
	.write = shutdown_port_write,
	.destroy = shutdown_port_destroy,
};

struct device *shutdown_port_create(struct machine_control control)
{
	struct shutdown_port *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	device_init(&s->dev, &shutdown_port_ops);
	s->control = control;
	return &s->dev;
}
