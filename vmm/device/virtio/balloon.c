/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory balloon (virtio 1.2, 5.5): pages that the guest gives up, and with free page reporting also those that it only
 * does not use, go back to the host. Queues: inflate, deflate, statistics, reporting.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/models.h"

#define QUEUE_SIZE 128
#define PFN_SHIFT 12
#define PAGE (UINT64_C(1) << PFN_SHIFT)
#define PFNS_AT_ONCE 256
#define STATS_MAX 32

enum { Q_INFLATE, Q_DEFLATE, Q_STATS, Q_REPORTING, QUEUES };

struct balloon {
	struct virtio_device v;
	struct virtq_chain *stats_buffer;      /* the driver's, held until the next request; under the queue's lock */
	struct virtio_balloon_numbers numbers; /* under the queue's lock */
	unsigned told;                         /* how often the driver has told them; likewise */
	_Atomic uint64_t released;             /* bytes given back so far */
};

/* The host takes the pages; what the guest finds there later is zeros. A hole in the file serves every mapping of it.
 */
static void release(struct balloon *b, void *p, size_t n)
{
	const struct guest_ram *ram = b->v.ram;
	uint8_t *start = (uint8_t *)(((uintptr_t)p + PAGE - 1) & ~(PAGE - 1));
	uint8_t *end = (uint8_t *)(((uintptr_t)p + n) & ~(PAGE - 1));

	if (end <= start)
		return;
	if (fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start - ram->base, end - start) == 0)
		atomic_fetch_add(&b->released, (uint64_t)(end - start));
}

static void release_pfns(struct balloon *b, const uint32_t *pfn, size_t count)
{
	uint64_t start = 0, pages = 0;

	/* Neighbours go together. */
	for (size_t i = 0; i <= count; i++) {
		if (i < count && pages && pfn[i] == start + pages) {
			pages++;
			continue;
		}
		if (pages) {
			void *p = ram_ptr(b->v.ram, start << PFN_SHIFT, pages << PFN_SHIFT);

			if (p)
				release(b, p, pages << PFN_SHIFT);
		}
		if (i < count) {
			start = pfn[i];
			pages = 1;
		}
	}
}

static void serve_inflate(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = container_of(v, struct balloon, v);
	uint32_t pfn[PFNS_AT_ONCE];
	size_t done = 0, n;

	while ((n = virtq_read(c, done, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
		release_pfns(b, pfn, n / sizeof(pfn[0]));
		done += n;
	}
	virtq_push(&v->queue[q].ring, c, 0);
}

/* Pages come back by being touched. */
static void serve_deflate(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	virtq_push(&v->queue[q].ring, c, 0);
}

/* The writable segments are the free memory itself (5.5.6.7). */
static void serve_reporting(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = container_of(v, struct balloon, v);
	const struct iovec *iov = virtq_in(c);

	for (unsigned i = 0; i < c->in_count; i++)
		release(b, iov[i].iov_base, iov[i].iov_len);
	virtq_push(&v->queue[q].ring, c, 0);
}

static void take_stats(struct balloon *b, const struct virtq_chain *c)
{
	struct virtio_balloon_stat stat[STATS_MAX];
	size_t n = virtq_read(c, 0, stat, sizeof(stat)) / sizeof(stat[0]);

	for (size_t i = 0; i < n; i++)
		if (stat[i].tag < VIRTIO_BALLOON_NUMBERS) {
			b->numbers.value[stat[i].tag] = stat[i].val;
			b->numbers.known |= BIT32(stat[i].tag);
		}
}

/* The driver's buffer stays here until somebody asks for new numbers (5.5.6.4). */
static void serve_stats(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	struct balloon *b = container_of(v, struct balloon, v);

	take_stats(b, c);
	b->told++;
	if (b->stats_buffer)
		virtq_push(&v->queue[q].ring, b->stats_buffer, 0);
	b->stats_buffer = c;
}

static void kicked(struct virtio_device *v, unsigned q)
{
	static void (*const serve[QUEUES])(struct virtio_device *, unsigned,
					   struct virtq_chain *) = { serve_inflate, serve_deflate, serve_stats,
								     serve_reporting };

	/* For a driver without statistics the queues behind move up (5.5.2). */
	if (q == Q_STATS && !virtio_has(v, VIRTIO_BALLOON_F_STATS_VQ))
		virtio_serve(v, q, serve_reporting);
	else
		virtio_serve(v, q, serve[q]);
}

static void queue_stop(struct virtio_device *v, unsigned q)
{
	struct balloon *b = container_of(v, struct balloon, v);

	if (q == Q_STATS && b->stats_buffer) {
		virtq_drop(&v->queue[q].ring, b->stats_buffer);
		b->stats_buffer = NULL;
	}
}

static void destroy(struct virtio_device *v)
{
	virtio_device_fini(v);
	free(container_of(v, struct balloon, v));
}

static const struct virtio_model balloon_model = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.class_code = 0x00ff00,
	.queue_stop = queue_stop,
	.kicked = kicked,
	.destroy = destroy,
};

void virtio_balloon_set(struct virtio_device *v, uint64_t bytes)
{
	uint32_t pages = (uint32_t)(bytes >> PFN_SHIFT);

	virtio_config_update(v, offsetof(struct virtio_balloon_config, num_pages), &pages, sizeof(pages));
}

unsigned virtio_balloon_numbers(struct virtio_device *v, struct virtio_balloon_numbers *numbers)
{
	struct balloon *b = container_of(v, struct balloon, v);
	struct virtq *ring = &v->queue[Q_STATS].ring;
	uint32_t actual;
	unsigned told;

	pthread_mutex_lock(&ring->lock);
	*numbers = b->numbers;
	told = b->told;
	pthread_mutex_unlock(&ring->lock);
	numbers->released = atomic_load(&b->released);
	pthread_mutex_lock(&v->config_lock);
	memcpy(&actual, v->config + offsetof(struct virtio_balloon_config, actual), sizeof(actual));
	pthread_mutex_unlock(&v->config_lock);
	numbers->held = (uint64_t)actual << PFN_SHIFT;
	return told;
}

void virtio_balloon_ask(struct virtio_device *v)
{
	struct balloon *b = container_of(v, struct balloon, v);
	struct virtq *ring = &v->queue[Q_STATS].ring;

	pthread_mutex_lock(&ring->lock);
	if (b->stats_buffer && ring->enabled) {
		virtq_push(ring, b->stats_buffer, 0);
		b->stats_buffer = NULL;
		virtio_queue_flush(v, Q_STATS);
	}
	pthread_mutex_unlock(&ring->lock);
}

struct virtio_device *virtio_balloon_create(const struct guest_ram *ram, uint64_t initial, bool deflate_on_oom)
{
	const uint64_t features = BIT64(VIRTIO_BALLOON_F_STATS_VQ) | BIT64(VIRTIO_BALLOON_F_REPORTING) |
				  (deflate_on_oom ? BIT64(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) : 0);
	struct virtio_balloon_config config = { .num_pages = (uint32_t)(initial >> PFN_SHIFT) };
	struct balloon *b = calloc(1, sizeof(*b));
	int err = b ? virtio_device_init(&b->v, &balloon_model, ram, QUEUES, QUEUE_SIZE, 1, features) : -ENOMEM;

	if (err) {
		free(b);
		errno = -err;
		return NULL;
	}
	memcpy(b->v.config, &config, sizeof(config));
	/* The driver says in `actual` how far it has got. */
	memset(b->v.config_writable + offsetof(struct virtio_balloon_config, actual), 0xff, sizeof(config.actual));
	b->v.config_size = sizeof(config);
	return &b->v;
}
