/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the parts of vmm/block.
 *
 * A request is first tried on its queue's thread without blocking: where every byte of it is known to lie in a file
 * (the metadata needed is in memory), it becomes transfers in the queue's io_uring. Anything else (allocation, copy on
 * write, decompression, a table not in memory, flushes, discards; all requests where there is no io_uring) is carried
 * out by one of the disk's worker threads with synchronous code.
 */
#ifndef VMM_BLOCK_INTERNAL_H
#define VMM_BLOCK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "block/block.h"
#include "block/error.h"

struct layer;
struct nbd_disk;
struct pool;

struct block_driver {
	/* 0 or -errno of the last writes. */
	int (*close)(struct block *disk);
	/* Try without blocking; true: it is under way or ended, through queue_*(). Thread: the queue's. */
	bool (*fast)(struct block_queue *queue, struct block_request *request);
	/* Do it otherwise; ends with block_complete(). Does not block. Thread: any. */
	void (*start)(struct block *disk, struct block_request *request);
	/* When all transfers of a fast request have ended. Thread: the queue's. */
	void (*fast_end)(struct block *disk, struct block_request *request);
	int (*extent)(struct block *disk, uint64_t offset, uint64_t *length, bool *zero);
};

struct block {
	const struct block_driver *driver;
	struct block_info info;
	enum block_cache cache;
	bool discard, no_uring;
	char *path;
	_Atomic bool told;   /* the user, of a failed request */
	struct layer *layer; /* files: the top of the chain */
	struct pool *pool;
	struct nbd_disk *nbd;
	_Atomic unsigned queues;
	enum block_on_error on_read_error, on_write_error;
	void (*stall_changed)(void *ctx); /* NULL: nobody waits for better times */
	void *stall_ctx;
	_Atomic unsigned stalled;
	pthread_mutex_t queue_lock;
	struct block_queue *first_queue; /* queue_lock: all of them */
};

/* --- queue.c --- */

/* The end of a request that driver->start() took. Thread: any. */
void block_complete(struct block_request *request, int result);

struct image_file;
/* One transfer of a fast request; length bytes from skip on in the request's vector. False: no room or memory. */
bool queue_transfer(struct block_queue *queue, struct block_request *request, struct image_file *file, uint64_t offset,
		    size_t skip, size_t length, bool durable);
struct block *queue_disk(const struct block_queue *queue);

/* --- pool.c: worker threads, as many as there is work for, up to a limit. --- */

struct pool *pool_create(void (*work)(struct block *disk, struct block_request *request), struct block *disk);
void pool_destroy(struct pool *pool); /* there is no work left */
void pool_push(struct pool *pool, struct block_request *request);

/* --- drivers --- */

int layers_open(struct block *disk, const struct block_options *options, const struct error_text *error);
bool nbd_is_uri(const char *path);
int nbd_open(struct block *disk, const struct block_options *options, const struct error_text *error);

#endif
