/* SPDX-License-Identifier: Apache-2.0 */
/* Between the parts of qcow2. Unless said otherwise: q->lock is held, and not let go. */
#ifndef VMM_BLOCK_QCOW2_INTERNAL_H
#define VMM_BLOCK_QCOW2_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "block/layer.h"
#include "block/qcow2.h"
#include "block/qcow2_format.h"

/* An L2 table in memory. */
struct l2_table {
	uint64_t index;  /* in the L1 table */
	uint64_t offset; /* in the file */
	bool dirty;
	bool unlinked; /* the L1 table on the disk does not point to it yet */
	bool busy;     /* being written: must not be dropped */
	bool used;     /* since the cache last looked */
	struct l2_table *newer, *older;
	uint64_t entry[]; /* big-endian, as on the disk */
};

struct refblock {
	uint64_t index; /* in the refcount table */
	bool dirty;
	struct refblock *next_dirty;
	uint8_t data[];
};

struct run {
	uint64_t cluster, count;
};

struct run_list {
	struct run *run;
	size_t count, room;
};

/* Guest clusters whose mapping is being changed by one request; others that want to wait. */
struct change {
	uint64_t first, last;
	struct block_request *waiters;
	struct change *next;
};

struct inflated; /* qcow2_compress.c */

struct qcow2 {
	struct layer *layer;
	struct image_file *file;
	struct qcow2_header h;
	uint64_t cluster_size;
	unsigned cluster_bits, l2_bits,
		block_bits; /* log2 of bytes in a cluster, of entries in an L2 table, a refblock */
	bool writable, discard;
	_Atomic bool corrupt; /* found while running: nothing is written any more */
	void (*restart)(void *ctx, struct block_request *request);
	void *restart_ctx;

	pthread_mutex_t sync_lock; /* one sync at a time; taken before lock */
	pthread_mutex_t lock;      /* all that follows */

	uint64_t *l1;         /* host's byte order */
	bool *l1_dirty;       /* by sector of the table */
	struct l2_table **l2; /* by L1 index; NULL: not in memory */
	struct l2_table *newest, *oldest;
	uint64_t l2_cached, l2_max, l2_dropped;

	uint64_t *reftable; /* host's byte order */
	uint64_t reftable_entries;
	struct refblock **blocks; /* by index; NULL: not in memory */
	struct refblock *dirty_blocks;
	uint64_t cursor;     /* no cluster below it is free */
	uint64_t fresh_from; /* clusters from here on were never used and lie past the file's end: they read as zeros */
	uint64_t *meta;      /* bitmap: clusters that hold metadata */
	uint64_t meta_words;

	struct change *changes;

	/*
	 * Clusters on their way to freedom: unlinked in memory; being unlinked on the disk; unlinked there; waiting for
	 * those who looked them up before.
	 */
	struct run_list unlinked, unlinking, durable, waiting;
	uint8_t epoch;
	_Atomic unsigned inside[2];

	pthread_mutex_t inflate_lock;
	struct inflated *inflated;
};

static inline uint64_t qcow2_l1_index(const struct qcow2 *q, uint64_t guest_cluster)
{
	return guest_cluster >> q->l2_bits;
}

static inline uint64_t qcow2_l2_index(const struct qcow2 *q, uint64_t guest_cluster)
{
	return guest_cluster & ((UINT64_C(1) << q->l2_bits) - 1);
}

/* --- qcow2.c --- */

/* Marks the image corrupt in memory and, where it can be, on the disk; tells the user once. -EIO. */
__attribute__((format(printf, 2, 3))) int qcow2_is_corrupt(struct qcow2 *q, const char *fmt, ...);
/* Is it a legal L2 entry? Lock or not. */
bool qcow2_entry_is_sane(const struct qcow2 *q, uint64_t entry);
/* Changes bytes of the header's first sector. Lock or not. */
int qcow2_header_update(struct image_file *file, unsigned offset, const void *data, unsigned length);

/* --- qcow2_meta.c: which clusters hold metadata --- */

bool qcow2_meta_test(const struct qcow2 *q, uint64_t cluster);
int qcow2_meta_set(struct qcow2 *q, uint64_t cluster, uint64_t count);
void qcow2_meta_clear(struct qcow2 *q, uint64_t cluster, uint64_t count);
/* Collects all of an image that is being opened for writing. 0 or -errno with the text set. */
int qcow2_meta_collect(struct qcow2 *q, const struct error_text *error);

/* --- qcow2_refcount.c --- */

int qcow2_refcount_open(struct qcow2 *q, const struct error_text *error);
void qcow2_refcount_close(struct qcow2 *q);
int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *value);
/* 1 to want clusters in a row get a refcount of 1. *fresh: they read as zeros in the file. */
int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *count, bool *fresh);
/* One reference less for each; those left without are free at once. */
void qcow2_unref(struct qcow2 *q, uint64_t first, uint64_t count);
/* In a refcount block's bytes: one entry, whatever its width. */
uint64_t qcow2_refblock_get(const uint8_t *data, unsigned order, uint64_t i);
void qcow2_refblock_set(uint8_t *data, unsigned order, uint64_t i, uint64_t value);

/* --- qcow2_l2.c --- */

/*
 * The L2 table, from memory or the disk; NULL in *table: there is none. -EAGAIN if it would have to be read and may
 * not. May let go of the lock in between, if it may block.
 */
int qcow2_l2_get(struct qcow2 *q, uint64_t index, bool may_block, struct l2_table **table);
/* One that may be changed: created, or copied from one shared with a snapshot. May let go of the lock in between. */
int qcow2_l2_get_writable(struct qcow2 *q, uint64_t index, struct l2_table **table);
void qcow2_l2_close(struct qcow2 *q);

/* --- qcow2_sync.c --- */

/* What an L2 entry refers to will be one reference less, once that is safe. */
void qcow2_unlink(struct qcow2 *q, uint64_t entry);
void qcow2_unlink_clusters(struct qcow2 *q, uint64_t first, uint64_t count);
void qcow2_run_list_free(struct run_list *list);

/* --- qcow2_compress.c --- */

void qcow2_inflate_close(struct qcow2 *q);

#endif
