/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue: an io_uring for what can be done without blocking, and a list of what others (workers, the NBD thread) have
 * ended. The descriptor that the caller polls is the ring's own; the workers' event fd is polled by the ring, so one
 * descriptor tells of both. Without io_uring the event fd is the descriptor.
 */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/file.h"
#include "block/internal.h"
#include "block/iov.h"
#include "machine/message.h"

#define RING_ENTRIES 128
#define IO_IOVS 4

struct transfer {
	struct block_request *request;
	struct image_file *file;
	struct transfer *next; /* in the free list */
	uint64_t offset;
	size_t length;
	struct iovec own[IO_IOVS], *more; /* more: allocated, when own is too short */
};

struct block_queue {
	struct block *disk;
	struct io_uring ring;
	bool has_ring;
	bool unsubmitted;      /* entries in the ring that the kernel has not been told of */
	bool event_armed;      /* the ring polls event_fd */
	unsigned in_flight;    /* requests */
	struct transfer *free; /* spare ones */
	int event_fd;
	struct block_request *kept; /* they failed and wait for better times */
	bool draining;
	struct block_queue *next; /* disk->queue_lock */
	pthread_mutex_t lock;     /* what follows: any thread */
	struct block_request *ended, **ended_tail;
	bool signalled; /* event_fd has been or will be written since the list was taken */
	bool retry;     /* what is kept is to be tried again */
};

/* --- requests ended elsewhere --- */

/* Makes the caller poll. Under the queue's lock: once it is released, a request may end and the queue with it. */
static void signal_queue(struct block_queue *queue)
{
	bool signal = !queue->signalled;
	uint64_t one = 1;

	queue->signalled = true;
	if (signal && write(queue->event_fd, &one, sizeof(one)) < 0)
		queue->signalled = false; /* cannot be: the counter is far from full */
}

static void push_ended(struct block_queue *queue, struct block_request *request)
{
	pthread_mutex_lock(&queue->lock);
	request->next = NULL;
	*queue->ended_tail = request;
	queue->ended_tail = &request->next;
	signal_queue(queue);
	pthread_mutex_unlock(&queue->lock);
}

void block_complete(struct block_request *request, int result)
{
	request->result = result;
	if (request->queue)
		push_ended(request->queue, request);
	else
		request->done(request, result);
}

static struct block_request *take_ended(struct block_queue *queue, bool *retry)
{
	struct block_request *list;
	uint64_t count;

	pthread_mutex_lock(&queue->lock);
	list = queue->ended;
	queue->ended = NULL;
	queue->ended_tail = &queue->ended;
	*retry = queue->retry;
	queue->retry = false;
	if (queue->signalled && read(queue->event_fd, &count, sizeof(count)) == sizeof(count))
		queue->signalled = false;
	pthread_mutex_unlock(&queue->lock);
	return list;
}

/* --- the ring --- */

static bool arm_event(struct block_queue *queue)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);

	if (!sqe)
		return false;
	io_uring_prep_poll_multishot(sqe, queue->event_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	queue->unsubmitted = true;
	queue->event_armed = true;
	return true;
}

static bool ring_create(struct block_queue *queue)
{
	struct io_uring_probe *probe;
	bool good;

	if (io_uring_queue_init(RING_ENTRIES, &queue->ring, 0) < 0)
		return false; /* ENOSYS, EPERM: not in this kernel, container or seccomp filter */
	probe = io_uring_get_probe_ring(&queue->ring);
	/* 5.13, where multishot poll came. */
	good = probe && queue->ring.features & IORING_FEAT_RSRC_TAGS && queue->ring.features & IORING_FEAT_NODROP &&
	       io_uring_opcode_supported(probe, IORING_OP_READV) &&
	       io_uring_opcode_supported(probe, IORING_OP_WRITEV) &&
	       io_uring_opcode_supported(probe, IORING_OP_POLL_ADD);
	if (probe)
		io_uring_free_probe(probe);
	good = good && arm_event(queue) && io_uring_submit(&queue->ring) == 1;
	queue->unsubmitted = false;
	if (!good)
		io_uring_queue_exit(&queue->ring);
	return good;
}

struct block *queue_disk(const struct block_queue *queue)
{
	return queue->disk;
}

static struct transfer *get_transfer(struct block_queue *queue, unsigned iovs)
{
	struct transfer *t = queue->free;

	if (t)
		queue->free = t->next;
	else
		t = malloc(sizeof(*t));
	if (!t)
		return NULL;
	t->more = NULL;
	if (iovs > IO_IOVS) {
		t->more = malloc(iovs * sizeof(*t->more));
		if (!t->more) {
			free(t);
			return NULL;
		}
	}
	return t;
}

static void put_transfer(struct block_queue *queue, struct transfer *t)
{
	free(t->more);
	t->next = queue->free;
	queue->free = t;
}

static struct io_uring_sqe *get_sqe(struct block_queue *queue)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);

	if (!sqe) {
		io_uring_submit(&queue->ring);
		sqe = io_uring_get_sqe(&queue->ring);
	}
	return sqe;
}

bool queue_transfer(struct block_queue *queue, struct block_request *request, struct image_file *file, uint64_t offset,
		    size_t skip, size_t length, bool durable)
{
	bool whole = length == request->length;
	unsigned n = request->iov_count;
	const struct iovec *iov = request->iov;
	struct transfer *t = get_transfer(queue, whole ? 0 : n);
	struct io_uring_sqe *sqe = t ? get_sqe(queue) : NULL;

	if (!sqe) {
		if (t)
			put_transfer(queue, t);
		return false;
	}
	if (!whole) {
		struct iovec *part = t->more ? t->more : t->own;

		n = iov_slice(part, iov, n, skip, length);
		iov = part;
	}
	t->request = request;
	t->file = file;
	t->offset = offset;
	t->length = length;
	if (request->op == BLOCK_READ)
		io_uring_prep_readv(sqe, file->fd, iov, n, offset);
	else
		io_uring_prep_writev2(sqe, file->fd, iov, n, offset, durable ? RWF_DSYNC : 0);
	io_uring_sqe_set_data(sqe, t);
	request->pending++;
	queue->unsubmitted = true;
	return true;
}

/* The request if this was its last transfer. */
static struct block_request *end_transfer(struct block_queue *queue, struct transfer *t, int result)
{
	struct block_request *request = t->request;

	if (request->op == BLOCK_WRITE && result > 0)
		file_note_end(t->file, t->offset + (uint64_t)result);
	/*
	 * A short transfer, and what io_uring or O_DIRECT does not like, is done over in the plain way, which also
	 * knows about the end of the file.
	 */
	if ((result >= 0 && (size_t)result < t->length) || result == -EAGAIN || result == -EINTR || result == -EINVAL ||
	    result == -EOPNOTSUPP || result == -ECANCELED)
		request->redo = true;
	else if (result < 0 && !request->result)
		request->result = request->op == BLOCK_WRITE ? file_write_error(-result) : result;
	put_transfer(queue, t);
	return --request->pending ? NULL : request;
}

/* All completions there are; requests that ended are appended to the list. */
static void reap(struct block_queue *queue, struct block_request ***tail)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0;

	/* An overflow is kept by the kernel until asked for. */
	if (io_uring_cq_has_overflow(&queue->ring))
		io_uring_get_events(&queue->ring);
	io_uring_for_each_cqe(&queue->ring, head, cqe)
	{
		struct transfer *t = io_uring_cqe_get_data(cqe);
		struct block_request *request;

		seen++;
		if (!t) {
			queue->event_armed = cqe->flags & IORING_CQE_F_MORE;
			continue;
		}
		request = end_transfer(queue, t, cqe->res);
		if (!request)
			continue;
		queue->disk->driver->fast_end(queue->disk, request);
		if (request->redo && !request->result) {
			queue->disk->driver->start(queue->disk, request);
			continue;
		}
		request->next = NULL;
		**tail = request;
		*tail = &request->next;
	}
	io_uring_cq_advance(&queue->ring, seen);
	if (!queue->event_armed && arm_event(queue)) {
		io_uring_submit(&queue->ring);
		queue->unsubmitted = false;
	}
}

/* --- the interface --- */

struct block_queue *block_queue_create(struct block *disk)
{
	struct block_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return NULL;
	queue->disk = disk;
	queue->ended_tail = &queue->ended;
	pthread_mutex_init(&queue->lock, NULL);
	queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->event_fd < 0) {
		int err = errno;

		pthread_mutex_destroy(&queue->lock);
		free(queue);
		errno = err;
		return NULL;
	}
	queue->has_ring = disk->driver->fast && !disk->no_uring && ring_create(queue);
	atomic_fetch_add(&disk->queues, 1);
	pthread_mutex_lock(&disk->queue_lock);
	queue->next = disk->first_queue;
	disk->first_queue = queue;
	pthread_mutex_unlock(&disk->queue_lock);
	return queue;
}

static void forget_queue(struct block_queue *queue)
{
	struct block_queue **at = &queue->disk->first_queue;

	pthread_mutex_lock(&queue->disk->queue_lock);
	while (*at != queue)
		at = &(*at)->next;
	*at = queue->next;
	pthread_mutex_unlock(&queue->disk->queue_lock);
}

int block_queue_fd(const struct block_queue *queue)
{
	return queue->has_ring ? queue->ring.ring_fd : queue->event_fd;
}

unsigned block_queue_in_flight(const struct block_queue *queue)
{
	return queue->in_flight;
}

/* What makes a request impossible from the start. */
static int check_request(const struct block *disk, const struct block_request *r)
{
	uint64_t sum = 0;

	if (r->op == BLOCK_FLUSH)
		return 0;
	if (r->offset > disk->info.size || r->length > disk->info.size - r->offset)
		return -EINVAL;
	if (r->op != BLOCK_READ && disk->info.readonly)
		return -EROFS;
	if (r->op != BLOCK_READ && r->op != BLOCK_WRITE)
		return 0;
	if (r->length > BLOCK_TRANSFER_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < r->iov_count; i++) {
		if (r->iov[i].iov_len > BLOCK_TRANSFER_MAX)
			return -EINVAL;
		sum += r->iov[i].iov_len;
	}
	return sum == r->length ? 0 : -EINVAL;
}

static bool is_nothing(const struct block *disk, const struct block_request *r)
{
	if (r->op == BLOCK_FLUSH)
		return disk->cache == BLOCK_CACHE_UNSAFE || disk->info.readonly;
	return !r->length || (r->op == BLOCK_DISCARD && !disk->discard);
}

static void submit(struct block *disk, struct block_queue *queue, struct block_request *request)
{
	int err = check_request(disk, request);

	request->next = NULL;
	request->queue = queue;
	request->result = 0;
	request->pending = 0;
	request->progress = 0;
	request->redo = false;
	if (err || is_nothing(disk, request)) {
		block_complete(request, err);
		return;
	}
	if (queue && queue->has_ring && (request->op == BLOCK_READ || request->op == BLOCK_WRITE) &&
	    request->iov_count <= IOV_MAX && disk->driver->fast(queue, request))
		return;
	disk->driver->start(disk, request);
}

void block_submit(struct block_queue *queue, struct block_request *request)
{
	queue->in_flight++;
	request->stalled = false;
	submit(queue->disk, queue, request);
}

void block_queue_kick(struct block_queue *queue)
{
	if (!queue->unsubmitted)
		return;
	/* EAGAIN, EBUSY: the kernel is short of memory, or wants completions taken first; drain and poll try again. */
	if (io_uring_submit(&queue->ring) >= 0 && !io_uring_sq_ready(&queue->ring))
		queue->unsubmitted = false;
}

/* --- requests that failed --- */

static const char *const op_names[] = { "read", "write", "flush", "discard", "zeroing" };

/* What no change of the host's can help: the guest's own fault, and what the back end never does. */
static bool is_final(int result)
{
	return result == -EINVAL || result == -EROFS || result == -EPERM || result == -EOPNOTSUPP;
}

static enum block_on_error on_error(const struct block *disk, const struct block_request *request)
{
	enum block_on_error what = request->op == BLOCK_READ ? disk->on_read_error : disk->on_write_error;

	if (is_final(request->result))
		return BLOCK_ERROR_REPORT;
	if (what == BLOCK_ERROR_ENOSPC)
		what = request->result == -ENOSPC ? BLOCK_ERROR_STOP : BLOCK_ERROR_REPORT;
	return what == BLOCK_ERROR_STOP && !disk->stall_changed ? BLOCK_ERROR_REPORT : what;
}

/* Once a disk: the guest hears of each. What the guest itself did wrong is its affair. */
static void tell_failure(struct block *disk, const struct block_request *request)
{
	if (!is_final(request->result) && !atomic_exchange(&disk->told, true))
		msg_error("%s: a %s failed: %s; the guest sees an I/O error", disk->path, op_names[request->op],
			  strerror(-request->result));
}

static void keep(struct block_queue *queue, struct block_request *request)
{
	struct block *disk = queue->disk;

	request->next = queue->kept;
	queue->kept = request;
	if (request->stalled)
		return; /* again */
	request->stalled = true;
	if (atomic_fetch_add(&disk->stalled, 1))
		return;
	if (request->result == -ENOSPC)
		msg_error("%s: the host has no room for a %s: the machine stands still; make room, and it goes on",
			  disk->path, op_names[request->op]);
	else
		msg_error("%s: a %s failed: %s: the machine stands still, and goes on when it succeeds", disk->path,
			  op_names[request->op], strerror(-request->result));
	disk->stall_changed(disk->stall_ctx);
}

static void end_request(struct block_queue *queue, struct block_request *request)
{
	struct block *disk = queue->disk;
	int result = request->result;
	enum block_on_error what = result ? on_error(disk, request) : BLOCK_ERROR_REPORT;
	bool stalled = request->stalled;

	queue->in_flight--;
	request->stalled = false;
	if (what == BLOCK_ERROR_IGNORE)
		result = 0;
	else if (result && what == BLOCK_ERROR_REPORT) /* else it is drained, and was told of */
		tell_failure(disk, request);
	request->done(request, result);
	if (stalled && atomic_fetch_sub(&disk->stalled, 1) == 1)
		disk->stall_changed(disk->stall_ctx);
}

static void retry_kept(struct block_queue *queue)
{
	struct block_request *list = queue->kept, *next;

	queue->kept = NULL;
	for (; list; list = next) {
		next = list->next;
		submit(queue->disk, queue, list);
	}
	block_queue_kick(queue);
}

static unsigned poll_queue(struct block_queue *queue, bool *retry)
{
	struct block_request *list = NULL, **tail = &list, *next;
	unsigned count = 0;

	if (queue->has_ring) {
		if (queue->unsubmitted)
			block_queue_kick(queue);
		reap(queue, &tail);
	}
	*tail = take_ended(queue, retry);
	for (; list; list = next) {
		next = list->next;
		if (list->result && !queue->draining && on_error(queue->disk, list) == BLOCK_ERROR_STOP) {
			keep(queue, list);
			continue;
		}
		end_request(queue, list);
		count++;
	}
	return count;
}

unsigned block_queue_poll(struct block_queue *queue)
{
	bool retry;
	unsigned count = poll_queue(queue, &retry);

	if (retry)
		retry_kept(queue);
	return count;
}

void block_queue_drain(struct block_queue *queue)
{
	bool retry;

	queue->draining = true;
	while (queue->kept) {
		struct block_request *request = queue->kept;

		queue->kept = request->next;
		end_request(queue, request);
	}
	while (queue->in_flight) {
		struct pollfd fd = { .fd = block_queue_fd(queue), .events = POLLIN };

		block_queue_kick(queue);
		/* The timeout is for a kick that the kernel refused. */
		poll(&fd, 1, queue->unsubmitted ? 10 : -1);
		poll_queue(queue, &retry);
	}
	queue->draining = false;
}

void block_watch(struct block *disk, void (*changed)(void *ctx), void *ctx)
{
	disk->stall_changed = changed;
	disk->stall_ctx = ctx;
}

unsigned block_stalled(const struct block *disk)
{
	return atomic_load(&disk->stalled);
}

void block_retry(struct block *disk)
{
	pthread_mutex_lock(&disk->queue_lock);
	for (struct block_queue *queue = disk->first_queue; queue; queue = queue->next) {
		pthread_mutex_lock(&queue->lock);
		queue->retry = true;
		signal_queue(queue);
		pthread_mutex_unlock(&queue->lock);
	}
	pthread_mutex_unlock(&disk->queue_lock);
}

void block_queue_destroy(struct block_queue *queue)
{
	if (!queue)
		return;
	forget_queue(queue);
	block_queue_drain(queue);
	if (queue->has_ring)
		io_uring_queue_exit(&queue->ring);
	for (struct transfer *t = queue->free, *next; t; t = next) {
		next = t->next;
		free(t);
	}
	/* The last completer may still be inside push_ended(). */
	pthread_mutex_lock(&queue->lock);
	pthread_mutex_unlock(&queue->lock);
	close(queue->event_fd);
	pthread_mutex_destroy(&queue->lock);
	atomic_fetch_sub(&queue->disk->queues, 1);
	free(queue);
}

/* --- synchronous requests --- */

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool ended;
	int result;
};

static void wake_waiter(struct block_request *request, int result)
{
	struct waiter *w = request->ctx;

	pthread_mutex_lock(&w->lock);
	w->ended = true;
	w->result = result;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

static int run(struct block *disk, struct block_request *request)
{
	struct waiter w = { .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

	request->done = wake_waiter;
	request->ctx = &w;
	submit(disk, NULL, request);
	pthread_mutex_lock(&w.lock);
	while (!w.ended)
		pthread_cond_wait(&w.wake, &w.lock);
	pthread_mutex_unlock(&w.lock);
	pthread_cond_destroy(&w.wake);
	pthread_mutex_destroy(&w.lock);
	return w.result;
}

static int transfer(struct block *disk, enum block_op op, uint64_t offset, uint8_t *data, size_t length)
{
	int err = 0;

	while (length && !err) {
		size_t len = length < BLOCK_TRANSFER_MAX ? length : BLOCK_TRANSFER_MAX;
		struct iovec iov = { .iov_base = data, .iov_len = len };
		struct block_request request = {
			.op = op, .offset = offset, .length = len, .iov = &iov, .iov_count = 1
		};

		err = run(disk, &request);
		offset += len;
		data += len;
		length -= len;
	}
	return err;
}

int block_read(struct block *disk, uint64_t offset, void *data, size_t length)
{
	return transfer(disk, BLOCK_READ, offset, data, length);
}

int block_write(struct block *disk, uint64_t offset, const void *data, size_t length)
{
	return transfer(disk, BLOCK_WRITE, offset, (uint8_t *)(uintptr_t)data, length);
}

int block_flush(struct block *disk)
{
	struct block_request request = { .op = BLOCK_FLUSH };

	return run(disk, &request);
}

int block_write_zeroes(struct block *disk, uint64_t offset, uint64_t length, unsigned flags)
{
	struct block_request request = { .op = BLOCK_WRITE_ZEROES, .flags = flags, .offset = offset, .length = length };

	return run(disk, &request);
}

int block_discard(struct block *disk, uint64_t offset, uint64_t length)
{
	struct block_request request = { .op = BLOCK_DISCARD, .offset = offset, .length = length };

	return run(disk, &request);
}
