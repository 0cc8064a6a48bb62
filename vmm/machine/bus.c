/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/bus.h"

#include <errno.h>
#include <pthread.h>
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
	pthread_rwlock_t lock; /* held for look-ups only, never into a device */
	struct space space[2];
};

struct bus *bus_create(void)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (bus)
		pthread_rwlock_init(&bus->lock, NULL);
	return bus;
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(bus->space); i++)
		free(bus->space[i].range);
	pthread_rwlock_destroy(&bus->lock);
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

static bool fits(enum bus_space kind, uint64_t base, uint64_t len)
{
	uint64_t limit = kind == BUS_PIO ? 0xffff : UINT64_MAX;

	return len && base <= limit && len - 1 <= limit - base;
}

/* bus->lock held for writing. *other: what is there already. */
static int map_locked(struct space *space, const struct range *new, const struct device **other)
{
	size_t at = lower_bound(space, new->base);
	struct range *range;

	if (at < space->count && space->range[at].base <= new->base + (new->len - 1)) {
		*other = space->range[at].dev;
		return -EEXIST;
	}
	range = realloc(space->range, (space->count + 1) * sizeof(*range));
	if (!range)
		return -ENOMEM;
	space->range = range;
	memmove(&range[at + 1], &range[at], (space->count - at) * sizeof(*range));
	range[at] = *new;
	space->count++;
	return 0;
}

static int map(struct bus *bus, enum bus_space kind, const struct range *range, const struct device **other)
{
	int err;

	if (!fits(kind, range->base, range->len))
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	err = map_locked(&bus->space[kind], range, other);
	pthread_rwlock_unlock(&bus->lock);
	return err;
}

int bus_map_quiet(struct bus *bus, enum bus_space kind, uint64_t base, uint64_t len, struct device *dev,
		  unsigned region)
{
	const struct range range = { .base = base, .len = len, .dev = dev, .region = region };
	const struct device *other;

	return map(bus, kind, &range, &other);
}

int bus_map(struct bus *bus, enum bus_space kind, uint64_t base, uint64_t len, struct device *dev, unsigned region)
{
	const struct range range = { .base = base, .len = len, .dev = dev, .region = region };
	const char *name = kind == BUS_PIO ? "port" : "memory";
	const struct device *other = NULL;
	int err = map(bus, kind, &range, &other);

	if (err == -EINVAL)
		msg_error("%s: %#llx bytes at %#llx lie outside the %s space", dev->ops->name, (unsigned long long)len,
			  (unsigned long long)base, name);
	if (err == -EEXIST)
		msg_error("%s at %s %#llx overlaps %s", dev->ops->name, name, (unsigned long long)base,
			  other->ops->name);
	return err;
}

void bus_unmap(struct bus *bus, enum bus_space kind, uint64_t base, struct device *dev, unsigned region)
{
	struct space *space = &bus->space[kind];
	size_t at;

	pthread_rwlock_wrlock(&bus->lock);
	at = lower_bound(space, base);
	if (at < space->count && space->range[at].base == base && space->range[at].dev == dev &&
	    space->range[at].region == region) {
		space->count--;
		memmove(&space->range[at], &space->range[at + 1], (space->count - at) * sizeof(space->range[0]));
	}
	pthread_rwlock_unlock(&bus->lock);
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

/* The range that holds addr. False: there is none. */
static bool find_range(struct bus *bus, enum bus_space kind, uint64_t addr, struct range *found)
{
	const struct space *space = &bus->space[kind];
	bool hit;
	size_t i;

	pthread_rwlock_rdlock(&bus->lock);
	i = lower_bound(space, addr);
	hit = i < space->count && space->range[i].base <= addr;
	if (hit)
		*found = space->range[i];
	pthread_rwlock_unlock(&bus->lock);
	return hit;
}

/*
 * Whoever has the first byte claims an access; bytes behind its end may go to a neighbour. Where nobody has it nobody
 * answers at all: a 32-bit write to a missing PCI bridge at 0xcf8 must not reach the reset port at 0xcf9.
 */
void bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned size)
{
	uint8_t *bytes = data;
	struct range range;
	unsigned n = 1;

	memset(data, 0xff, size);
	for (unsigned done = 0; done < size; done += n, n = 1) {
		if (!find_range(bus, space, addr + done, &range)) {
			if (!done)
				return;
			continue;
		}
		n = piece_size(&range, addr + done - range.base, size - done);
		device_lock(range.dev);
		range_read(&range, addr + done - range.base, bytes + done, n);
		device_unlock(range.dev);
	}
}

void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data, unsigned size)
{
	const uint8_t *bytes = data;
	struct range range;
	unsigned n = 1;

	for (unsigned done = 0; done < size; done += n, n = 1) {
		if (!find_range(bus, space, addr + done, &range)) {
			if (!done)
				return;
			continue;
		}
		n = piece_size(&range, addr + done - range.base, size - done);
		device_lock(range.dev);
		range_write(&range, addr + done - range.base, bytes + done, n);
		device_unlock(range.dev);
	}
}
