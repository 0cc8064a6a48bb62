/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "machine/message.h"

struct range {
	uint64_t base, len;
	struct device *dev;
	unsigned region;
};

/* One address space: ranges sorted by base, never overlapping. */
struct space {
	struct range *range;
	size_t count;
};

struct bus {
	struct space space[2];
};

struct bus *bus_create(void)
{
	return calloc(1, sizeof(struct bus));
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(bus->space); i++)
		free(bus->space[i].range);
	free(bus);
}

/* Index of the first range that ends above addr. */
static size_t lower_bound(const struct space *space, uint64_t addr)
{
	size_t low = 0, high = space->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (space->range[mid].base + (space->range[mid].len - 1) < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int bus_map(struct bus *bus, enum bus_space kind, uint64_t base, uint64_t len, struct device *dev, unsigned region)
{
	struct space *space = &bus->space[kind];
	uint64_t limit = kind == BUS_PIO ? 0xffff : UINT64_MAX;
	struct range *range;
	size_t at;

	if (!len || base > limit || len - 1 > limit - base) {
		msg_error("%s: %#llx bytes at %#llx lie outside the %s space", dev->ops->name, (unsigned long long)len,
			  (unsigned long long)base, kind == BUS_PIO ? "port" : "memory");
		return -EINVAL;
	}
	at = lower_bound(space, base);
	if (at < space->count && space->range[at].base <= base + (len - 1)) {
		msg_error("%s at %s %#llx overlaps %s at %#llx", dev->ops->name, kind == BUS_PIO ? "port" : "address",
			  (unsigned long long)base, space->range[at].dev->ops->name,
			  (unsigned long long)space->range[at].base);
		return -EEXIST;
	}
	range = realloc(space->range, (space->count + 1) * sizeof(*range));
	if (!range)
		return -ENOMEM;
	space->range = range;
	memmove(&range[at + 1], &range[at], (space->count - at) * sizeof(*range));
	range[at] = (struct range){ .base = base, .len = len, .dev = dev, .region = region };
	space->count++;
	return 0;
}

/*
 * How many of the `left` bytes from `offset` on go to the device in one access: the largest power of two that the
 * model and the region hold, and, if that is below the model's smallest access, that does not cross one of those.
 */
static unsigned piece_size(const struct range *range, uint64_t offset, unsigned left)
{
	const struct device_ops *ops = range->dev->ops;
	unsigned n = 8;

	while (n > left || n > ops->max_size || n > range->len - offset ||
	       (n < ops->min_size && offset % ops->min_size + n > ops->min_size))
		n /= 2;
	return n;
}

/* An access narrower than the model knows is made as the aligned one around it. */
static void range_read(const struct range *range, uint64_t offset, uint8_t *data, unsigned size)
{
	struct device *dev = range->dev;
	unsigned min = dev->ops->min_size;
	uint64_t value;

	if (size < min)
		value = dev->ops->read(dev, range->region, offset - offset % min, min) >> (offset % min * 8);
	else
		value = dev->ops->read(dev, range->region, offset, size);
	memcpy(data, &value, size); /* little endian, as this host */
}

static void range_write(const struct range *range, uint64_t offset, const uint8_t *data, unsigned size)
{
	struct device *dev = range->dev;
	unsigned min = dev->ops->min_size;
	uint64_t value = 0;

	memcpy(&value, data, size);
	if (size < min)
		dev->ops->write(dev, range->region, offset - offset % min, value << (offset % min * 8), min);
	else
		dev->ops->write(dev, range->region, offset, value, size);
}

/* The range that holds addr, or NULL. */
static const struct range *find_range(const struct space *space, uint64_t addr)
{
	size_t i = lower_bound(space, addr);

	return i < space->count && space->range[i].base <= addr ? &space->range[i] : NULL;
}

/*
 * Whoever has the first byte claims an access; bytes behind its end may go to a neighbour. Where nobody has it nobody
 * answers at all: a 32-bit write to a missing PCI bridge at 0xcf8 must not reach the reset port at 0xcf9.
 */
void bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned size)
{
	uint8_t *bytes = data;

	if (!find_range(&bus->space[space], addr)) {
		memset(data, 0xff, size);
		return;
	}
	for (unsigned done = 0, n = 1; done < size; done += n, n = 1) {
		const struct range *range = find_range(&bus->space[space], addr + done);

		if (!range) {
			bytes[done] = 0xff;
			continue;
		}
		n = piece_size(range, addr + done - range->base, size - done);
		device_lock(range->dev);
		range_read(range, addr + done - range->base, bytes + done, n);
		device_unlock(range->dev);
	}
}

void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data, unsigned size)
{
	const uint8_t *bytes = data;

	if (!find_range(&bus->space[space], addr))
		return;
	for (unsigned done = 0, n = 1; done < size; done += n, n = 1) {
		const struct range *range = find_range(&bus->space[space], addr + done);

		if (!range)
			continue;
		n = piece_size(range, addr + done - range->base, size - done);
		device_lock(range->dev);
		range_write(range, addr + done - range->base, bytes + done, n);
		device_unlock(range->dev);
	}
}
