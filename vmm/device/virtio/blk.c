/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Block device (virtio 1.2, 5.2). Each queue has an I/O thread's turn and a queue of the back end of its own; requests
 * of a queue are under way in parallel and end in any order. The ring's lock guards the back end's queue as well.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/compiler.h"
#include "block/block.h"
#include "device/virtio/models.h"

#define QUEUE_SIZE 256
#define SEGMENTS_MAX (QUEUE_SIZE - 2) /* header and status are the others */
#define SECTOR 512u
#define RANGE_SECTORS_MAX (UINT32_C(1) << 22) /* of one range to discard or zero: 2 GiB */
#define RANGES_MAX 32                         /* of one request; they are under way at once */

struct blk;

struct blk_request {
	struct block_request io;
	struct blk_request *next; /* of the unused ones, or of those made for one buffer and not yet submitted */
	struct blk_queue *queue;
	struct blk_request *lead; /* the first of those made for one buffer; what follows is valid in it alone */
	struct virtq_chain *chain;
	uint32_t written; /* into the buffer, without the status */
	unsigned pending; /* requests of this buffer */
	uint8_t status;   /* of the first that failed */
	struct iovec *iov;
	unsigned capacity;
};

struct blk_queue {
	struct blk *blk;
	unsigned index;
	struct block_queue *io;
	struct io_watch completions;
	struct blk_request *unused;
};

struct blk {
	struct virtio_device v;
	struct block *disk;
	char serial[VIRTIO_BLK_ID_BYTES];
	unsigned queues;
	struct blk_queue queue[VIRTIO_THREADS_MAX];
};

static struct virtq *ring_of(struct blk_queue *q)
{
	return &q->blk->v.queue[q->index].ring;
}

/* ---- requests ---- */

static void free_request(struct blk_queue *q, struct blk_request *r)
{
	r->next = q->unused;
	q->unused = r;
}

static struct blk_request *new_request(struct blk_queue *q, unsigned segments)
{
	struct blk_request *r = q->unused;
	struct iovec *iov;

	if (r)
		q->unused = r->next;
	else
		r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->next = NULL;
	if (segments <= r->capacity)
		return r;
	iov = realloc(r->iov, segments * sizeof(*iov));
	if (!iov) {
		free_request(q, r);
		return NULL;
	}
	r->iov = iov;
	r->capacity = segments;
	return r;
}

static uint8_t status_of(int result)
{
	return result == 0 ? VIRTIO_BLK_S_OK : result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* The status is the last byte of the writable part. */
static void finish(struct blk_queue *q, struct virtq_chain *c, uint32_t written, uint8_t status)
{
	struct virtq *ring = ring_of(q);

	if (!ring->enabled) {
		virtq_drop(ring, c);
		return;
	}
	virtq_write(c, c->in_bytes - 1, &status, 1);
	virtq_push(ring, c, written + 1);
}

/* Thread: whoever polls or drains the queue, ring lock held. */
static void request_done(struct block_request *io, int result)
{
	struct blk_request *r = io->ctx, *lead = r->lead;
	struct blk_queue *q = r->queue;

	if (lead->status == VIRTIO_BLK_S_OK)
		lead->status = status_of(result);
	if (r != lead)
		free_request(q, r);
	if (--lead->pending)
		return;
	finish(q, lead->chain, lead->status == VIRTIO_BLK_S_OK ? lead->written : 0, lead->status);
	free_request(q, lead);
}

/* All requests of a buffer, in a list; `written` if all of them succeed. None has ended before the last is submitted.
 */
static void submit(struct blk_queue *q, struct virtq_chain *c, struct blk_request *list, uint32_t written)
{
	struct blk_request *lead = list, *next;

	lead->chain = c;
	lead->written = written;
	lead->pending = 0;
	lead->status = VIRTIO_BLK_S_OK;
	for (; list; list = next) {
		next = list->next;
		list->queue = q;
		list->lead = lead;
		list->io.done = request_done;
		list->io.ctx = list;
		lead->pending++;
		block_submit(q->io, &list->io);
	}
}

static bool range_legal(const struct blk *b, uint64_t sector, uint64_t sectors)
{
	uint64_t capacity = block_info(b->disk)->size / SECTOR;

	return sector <= capacity && sectors <= capacity - sector;
}

/* Without a flush command the driver expects its writes to be durable (5.2.6.2). */
static unsigned write_flags(const struct blk *b)
{
	return virtio_has(&b->v, VIRTIO_BLK_F_FLUSH) || !block_info(b->disk)->write_cache ? 0 : BLOCK_REQ_FUA;
}

static uint8_t transfer(struct blk_queue *q, struct virtq_chain *c, uint64_t sector, bool write)
{
	const struct iovec *from = write ? virtq_out(c) : virtq_in(c);
	unsigned count = write ? c->out_count : c->in_count;
	size_t skip = write ? sizeof(struct virtio_blk_outhdr) : 0;
	uint64_t length = write ? c->out_bytes - skip : c->in_bytes - 1;
	struct blk_request *r;

	if (!length || length % SECTOR || length > BLOCK_TRANSFER_MAX || !range_legal(q->blk, sector, length / SECTOR))
		return VIRTIO_BLK_S_IOERR;
	r = new_request(q, count);
	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->io = (struct block_request){ .op = write ? BLOCK_WRITE : BLOCK_READ,
					.flags = write ? write_flags(q->blk) : 0,
					.offset = sector * SECTOR,
					.length = length,
					.iov = r->iov,
					.iov_count = virtq_slice(r->iov, count, from, count, skip, length, NULL) };
	submit(q, c, r, write ? 0 : (uint32_t)length);
	return VIRTIO_BLK_S_OK;
}

static uint8_t flush(struct blk_queue *q, struct virtq_chain *c)
{
	struct blk_request *r = new_request(q, 0);

	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->io = (struct block_request){ .op = BLOCK_FLUSH };
	submit(q, c, r, 0);
	return VIRTIO_BLK_S_OK;
}

static uint8_t check_range(const struct blk *b, const struct virtio_blk_discard_write_zeroes *range, bool discard)
{
	if (range->flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (range->num_sectors > RANGE_SECTORS_MAX || !range_legal(b, range->sector, range->num_sectors))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

static void describe_range(struct blk_request *r, const struct virtio_blk_discard_write_zeroes *range, bool discard,
			   unsigned flags)
{
	r->io = (struct block_request){ .op = discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES,
					.flags = discard ? 0 : flags,
					.offset = range->sector * SECTOR,
					.length = (uint64_t)range->num_sectors * SECTOR };
	if (range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
		r->io.flags |= BLOCK_REQ_UNMAP;
}

/* Discard and write zeroes: a table of ranges. If one of them is illegal nothing is done to the others. */
static uint8_t clear_ranges(struct blk_queue *q, struct virtq_chain *c, bool discard)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	unsigned feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES, count;
	size_t bytes = (size_t)(c->out_bytes - sizeof(struct virtio_blk_outhdr));
	struct blk_request *list = NULL;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (!virtio_has(&q->blk->v, feature))
		return VIRTIO_BLK_S_UNSUPP;
	if (!bytes || bytes % sizeof(range[0]) || bytes > sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	count = (unsigned)(bytes / sizeof(range[0]));
	virtq_read(c, sizeof(struct virtio_blk_outhdr), range, bytes);
	for (unsigned i = 0; i < count && status == VIRTIO_BLK_S_OK; i++)
		status = check_range(q->blk, &range[i], discard);
	for (unsigned i = 0; i < count && status == VIRTIO_BLK_S_OK; i++) {
		struct blk_request *r = new_request(q, 0);

		if (r) {
			describe_range(r, &range[i], discard, write_flags(q->blk));
			r->next = list;
			list = r;
		} else {
			status = VIRTIO_BLK_S_IOERR;
		}
	}
	if (status == VIRTIO_BLK_S_OK) {
		submit(q, c, list, 0);
		return status;
	}
	while (list) {
		struct blk_request *next = list->next;

		free_request(q, list);
		list = next;
	}
	return status;
}

static void get_id(struct blk_queue *q, struct virtq_chain *c)
{
	size_t room = c->in_bytes - 1;
	size_t n = virtq_write(c, 0, q->blk->serial, room < sizeof(q->blk->serial) ? room : sizeof(q->blk->serial));

	finish(q, c, (uint32_t)n, VIRTIO_BLK_S_OK);
}

static void serve(struct virtio_device *v, unsigned index, struct virtq_chain *c)
{
	struct blk_queue *q = &container_of(v, struct blk, v)->queue[index];
	bool readonly = block_info(q->blk->disk)->readonly;
	struct virtio_blk_outhdr header;
	uint8_t status;

	if (virtq_read(c, 0, &header, sizeof(header)) != sizeof(header) || !c->in_bytes) {
		virtio_break(v, "queue %u: a request without header or status", index);
		virtq_push(ring_of(q), c, 0);
		return;
	}
	switch (header.type) {
	case VIRTIO_BLK_T_IN: status = transfer(q, c, header.sector, false); break;
	case VIRTIO_BLK_T_OUT: status = readonly ? VIRTIO_BLK_S_IOERR : transfer(q, c, header.sector, true); break;
	case VIRTIO_BLK_T_FLUSH: status = flush(q, c); break;
	case VIRTIO_BLK_T_DISCARD: status = clear_ranges(q, c, true); break;
	case VIRTIO_BLK_T_WRITE_ZEROES: status = clear_ranges(q, c, false); break;
	case VIRTIO_BLK_T_GET_ID: get_id(q, c); return;
	default: status = VIRTIO_BLK_S_UNSUPP; break;
	}
	if (status != VIRTIO_BLK_S_OK)
		finish(q, c, 0, status);
}

static void kicked(struct virtio_device *v, unsigned q)
{
	virtio_serve(v, q, serve);
	block_queue_kick(container_of(v, struct blk, v)->queue[q].io);
}

/* Thread: the I/O thread. */
static void completions_ready(void *ctx, uint32_t events)
{
	struct blk_queue *q = ctx;
	struct virtq *ring = ring_of(q);

	(void)events;
	pthread_mutex_lock(&ring->lock);
	if (block_queue_poll(q->io) && ring->enabled)
		virtio_queue_flush(&q->blk->v, q->index);
	pthread_mutex_unlock(&ring->lock);
}

static void queue_stop(struct virtio_device *v, unsigned q)
{
	block_queue_drain(container_of(v, struct blk, v)->queue[q].io);
}

/* ---- life ---- */

static void destroy(struct virtio_device *v)
{
	struct blk *b = container_of(v, struct blk, v);

	for (unsigned i = 0; i < b->queues; i++) {
		struct blk_queue *q = &b->queue[i];

		block_queue_destroy(q->io);
		while (q->unused) {
			struct blk_request *next = q->unused->next;

			free(q->unused->iov);
			free(q->unused);
			q->unused = next;
		}
	}
	virtio_device_fini(v);
	free(b);
}

static const struct virtio_model blk_model = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.class_code = 0x010000,
	.queue_stop = queue_stop,
	.kicked = kicked,
	.destroy = destroy,
};

static uint64_t features(const struct block_info *info, unsigned queues)
{
	uint64_t f = BIT64(VIRTIO_BLK_F_SEG_MAX) | BIT64(VIRTIO_BLK_F_BLK_SIZE) | BIT64(VIRTIO_BLK_F_TOPOLOGY);

	if (queues > 1)
		f |= BIT64(VIRTIO_BLK_F_MQ);
	if (info->readonly)
		return f | BIT64(VIRTIO_BLK_F_RO);
	if (info->write_cache)
		f |= BIT64(VIRTIO_BLK_F_FLUSH);
	if (info->discard_align)
		f |= BIT64(VIRTIO_BLK_F_DISCARD);
	return f | BIT64(VIRTIO_BLK_F_WRITE_ZEROES);
}

static void fill_config(struct blk *b, const struct block_info *info)
{
	struct virtio_blk_config config = {
		.capacity = info->size / SECTOR,
		.seg_max = SEGMENTS_MAX,
		.blk_size = SECTOR,
		.opt_io_size = 0,
		.num_queues = (uint16_t)b->queues,
		.max_discard_sectors = RANGE_SECTORS_MAX,
		.max_discard_seg = RANGES_MAX,
		.discard_sector_alignment = info->discard_align / SECTOR,
		.max_write_zeroes_sectors = RANGE_SECTORS_MAX,
		.max_write_zeroes_seg = RANGES_MAX,
		.write_zeroes_may_unmap = info->discard_align != 0,
	};

	while (info->block_size > SECTOR << config.physical_block_exp)
		config.physical_block_exp++;
	config.min_io_size = (uint16_t)(info->block_size / SECTOR);
	memcpy(b->v.config, &config, sizeof(config));
	b->v.config_size = sizeof(config);
}

static int open_queue(struct blk *b, unsigned i)
{
	struct blk_queue *q = &b->queue[i];

	q->blk = b;
	q->index = i;
	q->io = block_queue_create(b->disk);
	if (!q->io)
		return -errno;
	b->queues++;
	q->completions = (struct io_watch){ .fd = block_queue_fd(q->io), .ready = completions_ready, .ctx = q };
	return 0;
}

struct virtio_device *virtio_blk_create(const struct guest_ram *ram, struct block *disk, const char *serial,
					unsigned queues)
{
	const struct block_info *info = block_info(disk);
	struct blk *b = calloc(1, sizeof(*b));
	int err = b ? 0 : -ENOMEM;

	if (queues > VIRTIO_THREADS_MAX)
		queues = VIRTIO_THREADS_MAX;
	if (!err)
		err = virtio_device_init(&b->v, &blk_model, ram, queues, QUEUE_SIZE, queues, features(info, queues));
	if (err) {
		free(b);
		errno = -err;
		return NULL;
	}
	b->disk = disk;
	if (serial)
		memcpy(b->serial, serial, strnlen(serial, sizeof(b->serial)));
	for (unsigned i = 0; i < queues && !err; i++)
		err = open_queue(b, i);
	for (unsigned i = 0; i < queues && !err; i++)
		err = io_thread_add(b->v.thread[i], &b->queue[i].completions, EPOLLIN);
	if (err) {
		virtio_device_stop_threads(&b->v);
		destroy(&b->v);
		errno = -err;
		return NULL;
	}
	fill_config(b, info);
	return &b->v;
}
