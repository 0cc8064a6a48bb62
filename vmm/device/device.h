/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device model is. A device sees offsets into its regions, never addresses; the bus
 * (vmm/machine/bus.h) knows where it lives. It raises interrupts through lines it was given
 * and touches guest memory through struct guest_ram. It knows no CPU and no KVM struct.
 *
 * Threads: read and write are called by vCPU threads with the device's lock held (one at a time per
 * device); input comes on the main thread and timers on the timer service's (timer.h), under the same lock.
 */
#ifndef VMM_DEVICE_DEVICE_H
#define VMM_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct device;

struct device_ops {
	const char *name;
	unsigned min_size, max_size; /* legal access sizes in bytes; the bus splits or widens others */
	void (*reset)(struct device *dev);
	/* Only the low `size` bytes of the result count. */
	uint64_t (*read)(struct device *dev, unsigned region, uint64_t offset, unsigned size);
	void (*write)(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size);
	void (*destroy)(struct device *dev); /* frees dev */
};

/* Embedded first in each model's struct. */
struct device {
	const struct device_ops *ops;
	pthread_mutex_t lock;
	struct device *next; /* of the machine, in creation order */
};

/* Models embed struct device first and call this from their create function; fini undoes it in destroy. */
void device_init(struct device *dev, const struct device_ops *ops);
void device_fini(struct device *dev);

static inline void device_lock(struct device *dev)
{
	pthread_mutex_lock(&dev->lock);
}

/* False: somebody is in the device. */
static inline bool device_trylock(struct device *dev)
{
	return pthread_mutex_trylock(&dev->lock) == 0;
}

static inline void device_unlock(struct device *dev)
{
	pthread_mutex_unlock(&dev->lock);
}

/* An interrupt line: where it leads is the board's business. */
struct irq_line {
	void (*set)(void *ctx, unsigned n, bool level);
	void *ctx;
	unsigned n;
};

static inline void irq_line_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->ctx, line->n, level);
}

/*
 * What a device may ask of the machine as a whole. Thread: any, often a vCPU's with a device's lock
 * held: the callee notes the request and acts on it later, it does not call back into devices.
 */
enum machine_request {
	MACHINE_POWEROFF,
	MACHINE_RESET,
	MACHINE_EXIT /* with a status: isa-debug-exit */,
	MACHINE_PANICKED,
	MACHINE_SLEEP, /* ACPI S3 */
	MACHINE_WAKE,
};
struct machine_control {
	void (*request)(void *ctx, enum machine_request what, int status);
	void *ctx;
};

#endif
