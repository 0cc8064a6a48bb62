/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk back ends: raw files and block devices, qcow2, NBD. What a disk device (virtio-blk, AHCI …) is written against.
 *
 *	block_open(&options, &disk, error, sizeof(error));
 *	queue = block_queue_create(disk);		one an I/O thread
 *	loop: poll(block_queue_fd(queue), …)
 *		block_submit(queue, &request) …	as many as there are
 *		block_queue_kick(queue)			starts them
 *		block_queue_poll(queue)			calls request->done of what has ended
 *	block_queue_destroy(queue);			drains
 *	block_close(disk);
 *
 * Threads: a queue belongs to one thread at a time: the caller serialises the calls on one queue (a device's I/O
 * thread, or a lock). Different queues of one disk are independent and may be used in parallel. done() is called by
 * block_queue_poll(), block_queue_drain() and block_queue_destroy() only, on the caller's thread, never from within
 * block_submit() or block_queue_kick(). done() may submit again.
 */
#ifndef VMM_BLOCK_BLOCK_H
#define VMM_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct block;
struct block_queue;

enum block_format {
	BLOCK_FORMAT_AUTO, /* qcow2 where the file's head says so, else raw; only for what no guest has written as raw
			    */
	BLOCK_FORMAT_RAW,
	BLOCK_FORMAT_QCOW2,
};

/*
 * writeback: the host's page cache; a flush makes data durable. none: O_DIRECT, past the page cache; a flush is still
 * needed. writethrough: every write is durable when done. unsafe: flushes do nothing.
 */
enum block_cache { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE, BLOCK_CACHE_WRITETHROUGH, BLOCK_CACHE_UNSAFE };

/*
 * What becomes of a request that failed for a reason that may pass: the guest gets the error; it is told of success;
 * the request is kept, and the machine is to stand still until it can be done (block_watch()); the last, but for a full
 * host alone. What can never succeed is always reported.
 */
enum block_on_error { BLOCK_ERROR_REPORT, BLOCK_ERROR_IGNORE, BLOCK_ERROR_STOP, BLOCK_ERROR_ENOSPC };

struct block_options {
	const char *path; /* a file, a block device, or a URI: nbd://, nbd+unix://, nbds://, nbds+unix:// */
	enum block_format format;
	enum block_cache cache;
	bool readonly;
	bool discard;  /* discards free space in the image; else they are accepted and do nothing */
	bool no_uring; /* use the thread pool even where io_uring is allowed */
	bool no_lock;  /* do not lock the image (inspection only) */
	enum block_on_error on_read_error, on_write_error; /* write: all but reads */
};

/* A guest can submit up to this many bytes in one read or write; longer ones end with -EINVAL. */
#define BLOCK_TRANSFER_MAX (UINT64_C(64) << 20)

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,        /* everything that was done before it was submitted becomes durable */
	BLOCK_DISCARD,      /* contents become undefined: old data or zeros */
	BLOCK_WRITE_ZEROES, /* the range reads as zeros */
};

#define BLOCK_REQ_UNMAP 1u /* of BLOCK_WRITE_ZEROES: space may be freed (virtio-blk's unmap flag) */
#define BLOCK_REQ_FUA 2u   /* of BLOCK_WRITE, BLOCK_WRITE_ZEROES: durable when done */

/*
 * One request. The caller owns it and the memory the vector points to, and leaves both alone until done(). Any byte
 * offset and length are legal on any disk; those aligned to info.block_size are fast. The memory may be guest memory:
 * it may change under the transfer, and nothing is read from it twice to decide something.
 */
struct block_request {
	enum block_op op;
	unsigned flags;
	uint64_t offset, length; /* bytes; for reads and writes length is the sum of the vector's */
	const struct iovec *iov;
	unsigned iov_count;
	/*
	 * result: 0 or -errno. -ENOSPC: the host's disk is full, nothing is damaged, and the same request may be
	 * submitted again when there is room. -EROFS: a read-only disk. -EINVAL: beyond the disk's end, or too long.
	 * -EIO and others: the back end failed. After an error of a write the range holds old or new data, sector-wise.
	 */
	void (*done)(struct block_request *request, int result);
	void *ctx; /* the caller's */

	/* The back end's, from submission to done(). */
	struct block_request *next;
	struct block_queue *queue;
	int result;
	unsigned pending;
	uint64_t progress; /* bytes */
	uint8_t epoch;
	bool redo;
	bool stalled; /* it was kept, and counts in block_stalled() */
};

struct block_info {
	uint64_t size;          /* bytes, a multiple of 512 */
	uint32_t block_size;    /* best alignment of requests: 512 to 4096 */
	uint32_t discard_align; /* granularity at which discards free space, 0: they do nothing */
	bool readonly;
	bool write_cache;   /* a flush is needed for durability: not with writethrough */
	const char *format; /* "raw", "qcow2", "nbd" */
};

/*
 * Open and lock a disk. 0; or -errno, with one line in error that names the image and says what is wrong. Thread: any.
 * A writable image is locked against every other user that writes, a readonly one against writers only, in a way that
 * QEMU honours too.
 */
int block_open(const struct block_options *options, struct block **disk, char *error, size_t error_size);
/* All queues are gone. Makes everything durable and unlocks. 0 or -errno: what was written may not be on the disk. */
int block_close(struct block *disk);
const struct block_info *block_info(const struct block *disk);

/*
 * Who lets the machine stand still. Without one every error is reported. changed() is called when block_stalled()
 * becomes 0 or ceases to be; thread: any, queues locked by whoever polls them: it may only pass the word on. Before the
 * first queue is made.
 */
void block_watch(struct block *disk, void (*changed)(void *ctx), void *ctx);
/* Requests that wait for better times. Thread: any. */
unsigned block_stalled(const struct block *disk);
/* Try them again. Those that fail again are kept again. Thread: any. */
void block_retry(struct block *disk);

/* NULL with errno set. Thread: any. */
struct block_queue *block_queue_create(struct block *disk);
/* Waits for what is under way, calls its done(): with their error, for what was kept. */
void block_queue_drain(struct block_queue *queue);
void block_queue_destroy(struct block_queue *queue); /* drains first; NULL is fine */
/* Readable (POLLIN) when block_queue_poll() has something to do. It is not to be read or closed by the caller. */
int block_queue_fd(const struct block_queue *queue);

/* Never fails and never blocks on the disk: errors come through done(). Nothing need start before the kick. */
void block_submit(struct block_queue *queue, struct block_request *request);
void block_queue_kick(struct block_queue *queue);
/* The number of requests whose done() was called. Does not block. */
unsigned block_queue_poll(struct block_queue *queue);
unsigned block_queue_in_flight(const struct block_queue *queue);

/* Synchronous, for boot loaders, tools and tests; may run beside queues. 0 or -errno. Thread: any. */
int block_read(struct block *disk, uint64_t offset, void *data, size_t length);
int block_write(struct block *disk, uint64_t offset, const void *data, size_t length);
int block_flush(struct block *disk);
int block_write_zeroes(struct block *disk, uint64_t offset, uint64_t length, unsigned flags);
int block_discard(struct block *disk, uint64_t offset, uint64_t length);
/* Whether *length bytes (cut to where it is the same) are known to read as zeros. 0 or -errno. Thread: any. */
int block_extent(struct block *disk, uint64_t offset, uint64_t *length, bool *zero);

#endif
