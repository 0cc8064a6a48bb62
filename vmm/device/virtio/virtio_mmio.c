/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO, version 2 (virtio 1.2, 4.2). */
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "device/virtio/transport.h"

#define MAGIC 0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR 0x5a505254u /* "TRPZ" */
#define QUEUE_RESET 0x0c0  /* newer than Debian 12's header */

struct virtio_mmio {
	struct device dev; /* first */
	struct virtio_device *v;
	struct virtio_mmio_wiring wiring;
	bool notifiers;
	uint32_t offered_select, accepted_select, queue_select;
	pthread_mutex_t lock; /* innermost: interrupt status and line */
	uint32_t interrupt_status;
};

static void raise_interrupt(struct virtio_mmio *m, uint32_t bit)
{
	pthread_mutex_lock(&m->lock);
	m->interrupt_status |= bit;
	irq_line_set(&m->wiring.irq, true);
	pthread_mutex_unlock(&m->lock);
}

static void queue_interrupt(void *ctx, unsigned q)
{
	(void)q;
	raise_interrupt(ctx, VIRTIO_MMIO_INT_VRING);
}

static void config_interrupt(void *ctx)
{
	raise_interrupt(ctx, VIRTIO_MMIO_INT_CONFIG);
}

static void acknowledge(struct virtio_mmio *m, uint32_t bits)
{
	pthread_mutex_lock(&m->lock);
	m->interrupt_status &= ~bits;
	if (!m->interrupt_status)
		irq_line_set(&m->wiring.irq, false);
	pthread_mutex_unlock(&m->lock);
}

static uint32_t interrupt_status(struct virtio_mmio *m)
{
	uint32_t status;

	pthread_mutex_lock(&m->lock);
	status = m->interrupt_status;
	pthread_mutex_unlock(&m->lock);
	return status;
}

static uint32_t read_register(struct virtio_mmio *m, uint64_t offset)
{
	struct virtio_device *v = m->v;
	const struct virtq *ring = virtio_ring(v, m->queue_select);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE: return MAGIC;
	case VIRTIO_MMIO_VERSION: return VERSION;
	case VIRTIO_MMIO_DEVICE_ID: return v->model->id;
	case VIRTIO_MMIO_VENDOR_ID: return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES: return virtio_offered_word(v, m->offered_select);
	case VIRTIO_MMIO_QUEUE_NUM_MAX: return ring ? ring->size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY: return ring ? ring->enabled : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS: return interrupt_status(m);
	case VIRTIO_MMIO_STATUS: return atomic_load(&v->status);
	case VIRTIO_MMIO_CONFIG_GENERATION: return atomic_load(&v->generation);
	case VIRTIO_MMIO_SHM_LEN_LOW: /* there are no shared memory regions */
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH: return UINT32_MAX;
	default: return 0;
	}
}

static uint64_t mmio_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);

	(void)region;
	if (offset >= VIRTIO_MMIO_CONFIG)
		return virtio_config_read(m->v, (unsigned)(offset - VIRTIO_MMIO_CONFIG), size);
	return size == 4 ? read_register(m, offset) : 0; /* 4.2.2.2: 32-bit aligned ones only */
}

static void write_queue_register(struct virtio_mmio *m, struct virtq *ring, uint64_t offset, uint64_t value)
{
	uint64_t *area = offset < VIRTIO_MMIO_QUEUE_AVAIL_LOW  ? &ring->descriptors
			 : offset < VIRTIO_MMIO_QUEUE_USED_LOW ? &ring->driver
							       : &ring->device;

	if (offset == VIRTIO_MMIO_QUEUE_READY) {
		if (value & 1)
			virtio_queue_enable(m->v, m->queue_select);
		else
			virtio_queue_reset(m->v, m->queue_select);
		return;
	}
	if (offset == QUEUE_RESET && value == 1)
		virtio_queue_reset(m->v, m->queue_select);
	if (ring->enabled)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM: ring->size = value <= UINT16_MAX ? (uint16_t)value : 0; break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_USED_LOW: *area = (*area & ~(uint64_t)UINT32_MAX) | value; break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
	case VIRTIO_MMIO_QUEUE_USED_HIGH: *area = (uint32_t)*area | value << 32; break;
	}
}

static void write_status(struct virtio_mmio *m, uint8_t status)
{
	virtio_set_status(m->v, status);
	if (!status)
		acknowledge(m, UINT32_MAX);
}

static void write_register(struct virtio_mmio *m, uint64_t offset, uint32_t value)
{
	struct virtq *ring = virtio_ring(m->v, m->queue_select);

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL: m->offered_select = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL: m->accepted_select = value; break;
	case VIRTIO_MMIO_DRIVER_FEATURES: virtio_accept_word(m->v, m->accepted_select, value); break;
	case VIRTIO_MMIO_QUEUE_SEL: m->queue_select = value; break;
	case VIRTIO_MMIO_QUEUE_NOTIFY: virtio_kick(m->v, value); break;
	case VIRTIO_MMIO_INTERRUPT_ACK: acknowledge(m, value); break;
	case VIRTIO_MMIO_STATUS: write_status(m, (uint8_t)value); break;
	default:
		if (ring)
			write_queue_register(m, ring, offset, value);
	}
}

static void mmio_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);

	(void)region;
	if (offset >= VIRTIO_MMIO_CONFIG)
		virtio_config_write(m->v, (unsigned)(offset - VIRTIO_MMIO_CONFIG), value, size);
	else if (size == 4)
		write_register(m, offset, (uint32_t)value);
}

static void set_notifiers(struct virtio_mmio *m, unsigned count, bool on)
{
	for (unsigned q = 0; q < count; q++) {
		if (m->wiring.notifier(m->wiring.ctx, VIRTIO_MMIO_QUEUE_NOTIFY, q, m->v->queue[q].kick.fd, on) || !on)
			continue;
		set_notifiers(m, q, false);
		return;
	}
	m->notifiers = on;
}

/* The place is fixed, so the notifiers are set once, when the board is complete. */
static void mmio_reset(struct device *dev)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);

	write_status(m, 0);
	m->offered_select = m->accepted_select = m->queue_select = 0;
	if (m->wiring.notifier && !m->notifiers)
		set_notifiers(m, m->v->queue_count, true);
}

static void mmio_destroy(struct device *dev)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);

	virtio_device_stop_threads(m->v);
	virtio_reset(m->v);
	m->v->model->destroy(m->v);
	pthread_mutex_destroy(&m->lock);
	device_fini(dev);
	free(m);
}

static const struct device_ops mmio_ops = {
	.name = "virtio-mmio",
	.min_size = 1,
	.max_size = 8,
	.reset = mmio_reset,
	.read = mmio_read,
	.write = mmio_write,
	.destroy = mmio_destroy,
};

struct device *virtio_mmio_create(const struct virtio_mmio_wiring *wiring, struct virtio_device *v)
{
	struct virtio_mmio *m = calloc(1, sizeof(*m));

	if (!m) {
		virtio_device_stop_threads(v);
		v->model->destroy(v);
		errno = ENOMEM;
		return NULL;
	}
	device_init(&m->dev, &mmio_ops);
	pthread_mutex_init(&m->lock, NULL);
	m->v = v;
	m->wiring = *wiring;
	v->transport = (struct virtio_transport){ .queue_interrupt = queue_interrupt,
						  .config_interrupt = config_interrupt,
						  .ctx = m };
	return &m->dev;
}
