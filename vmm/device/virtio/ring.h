/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's side of a virtqueue (virtio 1.2, 2.6 to 2.8): split and packed rings, indirect descriptors, event index.
 * Everything in guest memory may change at any time and is read once; what cannot be is refused with a reason.
 *
 * Threads: the caller serialises (virtq->lock).
 */
#ifndef VMM_DEVICE_VIRTIO_RING_H
#define VMM_DEVICE_VIRTIO_RING_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "machine/ram.h"

#define VIRTQ_SIZE_MAX 1024
#define VIRTQ_SEGMENTS_MAX 1024             /* of one buffer */
#define VIRTQ_BYTES_MAX (UINT64_C(1) << 32) /* of one buffer (2.6.4) */

/* A buffer that the driver made available: readable segments, then writable ones, in guest memory. */
struct virtq_chain {
	struct virtq_chain *next; /* the owner's while it is popped */
	uint16_t id;
	uint16_t descriptors; /* ring entries of a packed ring */
	unsigned out_count, in_count;
	uint64_t out_bytes, in_bytes;
	struct iovec *iov; /* out_count + in_count */
	unsigned capacity;
};

static inline const struct iovec *virtq_out(const struct virtq_chain *c)
{
	return c->iov;
}

static inline const struct iovec *virtq_in(const struct virtq_chain *c)
{
	return c->iov ? c->iov + c->out_count : NULL; /* NULL: chains without a segment so far */
}

struct virtq {
	pthread_mutex_t lock; /* the rest, where not said otherwise */
	const struct guest_ram *ram;
	/* What the driver sets while the queue is disabled. */
	uint16_t size, size_max;
	uint64_t descriptors, driver, device; /* GPAs of the three areas */
	bool packed, event_idx, indirect;     /* negotiated */
	bool enabled;

	uint8_t *descriptor_area, *driver_area, *device_area;
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap; /* packed: the wrap counters */
	uint16_t pushed;            /* since the last virtq_interrupt_due() */
	bool interrupt_always;      /* nothing has been signalled yet */
	bool kicks_off;             /* what the driver was told */
	unsigned in_flight;         /* popped, not pushed */
	struct virtq_chain *pool;   /* unused */
	char error[128];            /* why it is broken; "" */
};

void virtq_init(struct virtq *vq, const struct guest_ram *ram, uint16_t size_max);
void virtq_fini(struct virtq *vq);
void virtq_reset(struct virtq *vq); /* disabled, everything as at power-on */
/* Takes the driver's settings. -EINVAL: vq->error says why. */
int virtq_enable(struct virtq *vq);

/* 1: *chain is the caller's until it pushes it; 0: there is none; -EINVAL, -ENOMEM: broken, vq->error says why. */
int virtq_pop(struct virtq *vq, struct virtq_chain **chain);
bool virtq_empty(struct virtq *vq); /* would virtq_pop() give none? */
/* Give buffers back, with the number of bytes written into each: the driver sees all at once. */
void virtq_push_many(struct virtq *vq, struct virtq_chain *const *chain, const uint32_t *written, unsigned count);
void virtq_push(struct virtq *vq, struct virtq_chain *chain, uint32_t written);
/* Forget a buffer without giving it back: the queue is being reset. */
void virtq_drop(struct virtq *vq, struct virtq_chain *chain);

/* After pushing: does the driver want an interrupt for what was pushed since the last time? */
bool virtq_interrupt_due(struct virtq *vq);
/* Ask the driver not to kick; and to kick again: true if buffers came meanwhile, so that the caller must look. */
void virtq_kicks_off(struct virtq *vq);
bool virtq_kicks_on(struct virtq *vq);

/* ---- bytes of a buffer ---- */
/* Copy from the readable, into the writable part, from byte `offset` of it on. How many were there. */
size_t virtq_read(const struct virtq_chain *c, size_t offset, void *data, size_t n);
size_t virtq_write(const struct virtq_chain *c, size_t offset, const void *data, size_t n);
/*
 * The part [offset, offset + n) of a vector as a vector of its own, at most `max` long. Returns its length, and in
 * *bytes (may be NULL) how many bytes it has.
 */
unsigned virtq_slice(struct iovec *to, unsigned max, const struct iovec *from, unsigned count, size_t offset, size_t n,
		     size_t *bytes);

#endif
