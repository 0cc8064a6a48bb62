/* SPDX-License-Identifier: Apache-2.0 */
#include "device/virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/compiler.h"
#include "machine/message.h"

#define F_INDIRECT BIT64(28)
#define F_EVENT_IDX BIT64(29)
#define F_VERSION_1 BIT64(VIRTIO_F_VERSION_1)
#define F_PACKED BIT64(VIRTIO_F_RING_PACKED)
#define F_RING_RESET BIT64(40) /* VIRTIO_F_RING_RESET: newer than Debian 12's headers say */

/* A queue that never runs dry gives the others of its thread their turn. */
#define SERVE_ROUNDS 2

/* ---- life ---- */

static void drain(int fd)
{
	uint64_t count;

	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

static void kick_ready(void *ctx, uint32_t events)
{
	struct virtio_queue *q = ctx;

	(void)events;
	drain(q->kick.fd);
	pthread_mutex_lock(&q->ring.lock);
	if (q->ring.enabled && virtio_running(q->v))
		q->v->model->kicked(q->v, q->index);
	pthread_mutex_unlock(&q->ring.lock);
}

static int init_queue(struct virtio_device *v, unsigned i, uint16_t size)
{
	struct virtio_queue *q = &v->queue[i];

	q->v = v;
	q->index = i;
	q->kick = (struct io_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = kick_ready, .ctx = q };
	if (q->kick.fd < 0)
		return -errno;
	virtq_init(&q->ring, v->ram, size);
	v->queue_count++;
	return io_thread_add(v->thread[i % v->thread_count], &q->kick, EPOLLIN);
}

static int start_threads(struct virtio_device *v, unsigned threads)
{
	for (; v->thread_count < threads; v->thread_count++) {
		char name[16];

		snprintf(name, sizeof(name), "%.10s-%hhu", v->model->name, (uint8_t)v->thread_count);
		v->thread[v->thread_count] = io_thread_create(name);
		if (!v->thread[v->thread_count])
			return -errno;
	}
	return 0;
}

int virtio_device_init(struct virtio_device *v, const struct virtio_model *model, const struct guest_ram *ram,
		       unsigned queues, uint16_t size, unsigned threads, uint64_t model_features)
{
	int err;

	v->model = model;
	v->ram = ram;
	v->offered = model_features | F_VERSION_1 | F_INDIRECT | F_EVENT_IDX | F_RING_RESET;
	pthread_mutex_init(&v->config_lock, NULL);
	v->queue = calloc(queues, sizeof(v->queue[0]));
	err = v->queue ? start_threads(v, threads) : -ENOMEM;
	for (unsigned i = 0; i < queues && !err; i++)
		err = init_queue(v, i, size);
	if (err) {
		virtio_device_stop_threads(v);
		virtio_device_fini(v);
	}
	return err;
}

void virtio_device_stop_threads(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->thread_count; i++)
		io_thread_destroy(v->thread[i]);
	v->thread_count = 0;
}

void virtio_device_fini(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->queue_count; i++) {
		close(v->queue[i].kick.fd);
		virtq_fini(&v->queue[i].ring);
	}
	free(v->queue);
	pthread_mutex_destroy(&v->config_lock);
}

void virtio_set_ring_options(struct virtio_device *v, const struct virtio_ring_options *options)
{
	const uint64_t all = F_PACKED | F_EVENT_IDX | F_INDIRECT;

	v->offered = (v->offered & ~all) | (options->packed ? F_PACKED : 0) | (options->event_idx ? F_EVENT_IDX : 0) |
		     (options->indirect ? F_INDIRECT : 0);
}

/* ---- status ---- */

bool virtio_running(const struct virtio_device *v)
{
	uint32_t status = atomic_load(&v->status);

	return (status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) == VIRTIO_CONFIG_S_DRIVER_OK;
}

static void stop_queue(struct virtio_device *v, unsigned i)
{
	struct virtq *ring = &v->queue[i].ring;

	pthread_mutex_lock(&ring->lock);
	if (ring->enabled) {
		ring->enabled = false;
		if (v->model->queue_stop)
			v->model->queue_stop(v, i);
	}
	virtq_reset(ring);
	pthread_mutex_unlock(&ring->lock);
}

void virtio_reset(struct virtio_device *v)
{
	atomic_store(&v->status, 0);
	for (unsigned i = 0; i < v->queue_count; i++)
		stop_queue(v, i);
	v->accepted = 0;
	if (v->model->stop)
		v->model->stop(v);
	pthread_mutex_lock(&v->config_lock);
	for (unsigned i = 0; i < v->config_size; i++)
		if (v->config_writable[i])
			v->config[i] = v->config_initial[i];
	pthread_mutex_unlock(&v->config_lock);
}

void virtio_queue_reset(struct virtio_device *v, unsigned q)
{
	if (q < v->queue_count)
		stop_queue(v, q);
}

/* FEATURES_OK stays off when the driver took what was not offered, or is no driver for virtio 1 (3.1.1). */
static bool features_acceptable(const struct virtio_device *v)
{
	return !(v->accepted & ~v->offered) && (v->accepted & F_VERSION_1);
}

void virtio_set_status(struct virtio_device *v, uint8_t status)
{
	uint32_t old = atomic_load(&v->status), new = status & ~(uint32_t)VIRTIO_CONFIG_S_NEEDS_RESET;

	if (!status) {
		virtio_reset(v);
		return;
	}
	if (!(old & VIRTIO_CONFIG_S_FEATURES_OK) && (new &VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(v))
		new &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	/* Drivers do not take bits back (2.1.1). */
	if (!(new &VIRTIO_CONFIG_S_FEATURES_OK))
		new &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	atomic_fetch_or(&v->status, new);
	if ((old & VIRTIO_CONFIG_S_DRIVER_OK) || !(new &VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	if (v->model->start)
		v->model->start(v);
	/* Buffers may have been made available before, with a kick that nobody heeded. */
	for (unsigned i = 0; i < v->queue_count; i++)
		virtio_kick(v, i);
}

void virtio_break(struct virtio_device *v, const char *fmt, ...)
{
	char text[192];
	va_list ap;

	if (atomic_fetch_or(&v->status, VIRTIO_CONFIG_S_NEEDS_RESET) & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A guest that does it again and again does not fill the terminal. */
	if (!atomic_exchange(&v->complained, true))
		msg_error("%s: the guest's driver is at fault, the device stops until it is reset: %s", v->model->name,
			  text);
	if (atomic_load(&v->status) & VIRTIO_CONFIG_S_DRIVER_OK)
		v->transport.config_interrupt(v->transport.ctx);
}

/* ---- features ---- */

uint32_t virtio_offered_word(const struct virtio_device *v, uint32_t select)
{
	return select < 2 ? (uint32_t)(v->offered >> 32 * select) : 0;
}

uint32_t virtio_accepted_word(const struct virtio_device *v, uint32_t select)
{
	return select < 2 ? (uint32_t)(v->accepted >> 32 * select) : 0;
}

void virtio_accept_word(struct virtio_device *v, uint32_t select, uint32_t value)
{
	unsigned shift = 32 * (select & 1);

	if (select > 1 || (atomic_load(&v->status) & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	v->accepted = (v->accepted & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

/* ---- queues ---- */

struct virtq *virtio_ring(struct virtio_device *v, unsigned q)
{
	return q < v->queue_count ? &v->queue[q].ring : NULL;
}

void virtio_queue_enable(struct virtio_device *v, unsigned q)
{
	struct virtq *ring = &v->queue[q].ring;
	char error[sizeof(ring->error)] = "";

	pthread_mutex_lock(&ring->lock);
	if (!ring->enabled) {
		ring->packed = v->accepted & F_PACKED;
		ring->event_idx = v->accepted & F_EVENT_IDX;
		ring->indirect = v->accepted & F_INDIRECT;
		if (virtq_enable(ring))
			memcpy(error, ring->error, sizeof(error));
	}
	pthread_mutex_unlock(&ring->lock);
	if (error[0])
		virtio_break(v, "queue %u: %s", q, error);
	else if (virtio_running(v))
		virtio_kick(v, q);
}

void virtio_kick(struct virtio_device *v, unsigned q)
{
	const uint64_t one = 1;
	ssize_t n;

	if (q >= v->queue_count)
		return;
	n = write(v->queue[q].kick.fd, &one, sizeof(one));
	(void)n; /* at its maximum it is readable as well */
}

bool virtio_pop(struct virtio_device *v, unsigned q, struct virtq_chain **chain)
{
	struct virtq *ring = &v->queue[q].ring;
	int r = virtq_pop(ring, chain);

	if (r < 0)
		virtio_break(v, "queue %u: %s", q, ring->error);
	return r > 0;
}

void virtio_queue_flush(struct virtio_device *v, unsigned q)
{
	if (virtq_interrupt_due(&v->queue[q].ring))
		v->transport.queue_interrupt(v->transport.ctx, q);
}

void virtio_serve(struct virtio_device *v, unsigned q,
		  void (*serve)(struct virtio_device *v, unsigned q, struct virtq_chain *chain))
{
	struct virtq *ring = &v->queue[q].ring;
	unsigned left = SERVE_ROUNDS * ring->size;
	struct virtq_chain *chain;
	bool more;

	do {
		virtq_kicks_off(ring);
		while (left && virtio_running(v) && virtio_pop(v, q, &chain)) {
			serve(v, q, chain);
			left--;
		}
		more = left && virtio_running(v) && virtq_kicks_on(ring);
	} while (more);
	virtio_queue_flush(v, q);
	if (!left)
		virtio_kick(v, q);
}

/* ---- configuration space ---- */

void virtio_config_update(struct virtio_device *v, unsigned offset, const void *data, unsigned size)
{
	bool changed;

	pthread_mutex_lock(&v->config_lock);
	changed = memcmp(v->config + offset, data, size) != 0;
	memcpy(v->config + offset, data, size);
	if (changed)
		atomic_fetch_add(&v->generation, 1);
	pthread_mutex_unlock(&v->config_lock);
	if (changed && (atomic_load(&v->status) & VIRTIO_CONFIG_S_DRIVER_OK))
		v->transport.config_interrupt(v->transport.ctx);
}

uint64_t virtio_config_read(struct virtio_device *v, unsigned offset, unsigned size)
{
	uint64_t value = 0;

	if (offset >= v->config_size || size > v->config_size - offset)
		return UINT64_MAX;
	pthread_mutex_lock(&v->config_lock);
	memcpy(&value, v->config + offset, size);
	pthread_mutex_unlock(&v->config_lock);
	return value;
}

void virtio_config_write(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
	if (offset >= v->config_size || size > v->config_size - offset)
		return;
	pthread_mutex_lock(&v->config_lock);
	for (unsigned i = 0; i < size; i++, value >>= 8)
		if (v->config_writable[offset + i])
			v->config[offset + i] = (uint8_t)value;
	if (v->model->config_written)
		v->model->config_written(v, offset, size);
	pthread_mutex_unlock(&v->config_lock);
}
