/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2: opening, closing, looking up ("Cluster mapping"). */
#include "block/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_check.h"
#include "block/qcow2_internal.h"
#include "machine/message.h"

#define L2_CACHE_BYTES (UINT64_C(32) << 20)
#define L2_CACHE_MIN 16
/* An image with no more L2 tables than this is checked in whole when it is opened for writing. */
#define CHECK_BYTES_MAX (UINT64_C(64) << 20)
#define CHECK_CLUSTERS_MAX (UINT64_C(1) << 26)

int qcow2_header_update(struct image_file *file, unsigned offset, const void *data, unsigned length)
{
	uint8_t sector[512];
	int err = file_read(file, 0, sector, sizeof(sector));

	if (err)
		return err;
	memcpy(sector + offset, data, length);
	return file_write(file, 0, sector, sizeof(sector));
}

static int set_field64(struct image_file *file, unsigned offset, uint64_t value)
{
	value = htobe64(value);
	return qcow2_header_update(file, offset, &value, sizeof(value));
}

int qcow2_is_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	if (atomic_exchange(&q->corrupt, true))
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	msg_error("%s: the qcow2 image is corrupt: %s; it is not written any more", q->file->path, what);
	if (q->writable && q->h.version >= 3)
		set_field64(q->file, QCOW2_AT_INCOMPATIBLE, q->h.incompatible | QCOW2_CORRUPT);
	return -EIO;
}

bool qcow2_entry_is_sane(const struct qcow2 *q, uint64_t entry)
{
	uint64_t end = (atomic_load(&q->file->end) + q->cluster_size - 1) & ~(q->cluster_size - 1);
	uint64_t offset, length;

	if (entry & QCOW2_COMPRESSED) {
		qcow2_compressed_place(q->cluster_bits, entry, &offset, &length);
		/* The last sector may be cut off by the end of the file, as the data does not fill it. */
		return !(entry & QCOW2_COPIED) && offset >= q->cluster_size && offset < end;
	}
	if (entry & QCOW2_L2_RESERVED || (q->h.version < 3 && entry & QCOW2_ZERO))
		return false;
	offset = entry & QCOW2_OFFSET_MASK;
	if (!offset)
		return !(entry & QCOW2_COPIED);
	return !(offset & (q->cluster_size - 1)) && offset < end;
}

/* --- looking up --- */

enum entry_kind { UNALLOCATED, ZERO, DATA, COMPRESSED };

static enum entry_kind entry_kind(uint64_t entry)
{
	if (entry & QCOW2_COMPRESSED)
		return COMPRESSED;
	if (entry & QCOW2_ZERO)
		return ZERO;
	return entry & QCOW2_OFFSET_MASK ? DATA : UNALLOCATED;
}

/* How many entries from i on continue the first: same kind, and for data one after the other in the file. */
static uint64_t run_length(const struct qcow2 *q, const struct l2_table *t, uint64_t i, uint64_t max)
{
	uint64_t first = be64toh(t->entry[i]), n = 1;
	enum entry_kind kind = entry_kind(first);

	if (kind == COMPRESSED)
		return 1;
	while (n < max) {
		uint64_t entry = be64toh(t->entry[i + n]);

		if (entry_kind(entry) != kind || (kind == DATA && entry != first + n * q->cluster_size))
			break;
		n++;
	}
	return n;
}

static int map_locked(struct qcow2 *q, uint64_t offset, uint64_t length, bool may_block, struct extent *e)
{
	uint64_t guest = offset >> q->cluster_bits, inside = offset & (q->cluster_size - 1);
	uint64_t index = qcow2_l1_index(q, guest), i = qcow2_l2_index(q, guest);
	uint64_t n = (UINT64_C(1) << q->l2_bits) - i,
		 wanted = (inside + length + q->cluster_size - 1) >> q->cluster_bits;
	struct l2_table *t;
	uint64_t entry;
	int err = qcow2_l2_get(q, index, may_block, &t);

	if (err)
		return err;
	if (n > wanted)
		n = wanted;
	memset(e, 0, sizeof(*e));
	e->layer = q->layer;
	e->kind = EXTENT_UNALLOCATED;
	if (t) {
		entry = be64toh(t->entry[i]);
		n = run_length(q, t, i, n);
		if (!qcow2_entry_is_sane(q, entry)) {
			if (q->writable)
				return qcow2_is_corrupt(q, "the L2 entry %#llx", (unsigned long long)entry);
			return -EIO;
		}
		switch (entry_kind(entry)) {
		case UNALLOCATED: break;
		case ZERO: e->kind = EXTENT_ZERO; break;
		case COMPRESSED:
			e->kind = EXTENT_COMPRESSED;
			e->entry = entry;
			break;
		case DATA:
			e->kind = EXTENT_DATA;
			e->host = (entry & QCOW2_OFFSET_MASK) + inside;
			e->in_place = q->writable && entry & QCOW2_COPIED && q->l1[index] & QCOW2_COPIED &&
				      !atomic_load(&q->corrupt);
			break;
		}
	}
	e->length = (n << q->cluster_bits) - inside;
	if (e->length > length)
		e->length = length;
	return 0;
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t length, bool may_block, struct extent *e)
{
	int err;

	pthread_mutex_lock(&q->lock);
	err = map_locked(q, offset, length, may_block, e);
	pthread_mutex_unlock(&q->lock);
	return err;
}

const struct qcow2_header *qcow2_header(const struct qcow2 *q)
{
	return &q->h;
}

void qcow2_set_restart(struct qcow2 *q, void (*restart)(void *ctx, struct block_request *request), void *ctx)
{
	q->restart = restart;
	q->restart_ctx = ctx;
}

/* --- opening --- */

static int read_l1(struct qcow2 *q, const struct error_text *error)
{
	uint64_t end = (atomic_load(&q->file->end) + q->cluster_size - 1) & ~(q->cluster_size - 1);
	int err;

	q->l1 = malloc(q->h.l1_size * sizeof(*q->l1) + 1);
	q->l2 = calloc(q->h.l1_size + UINT64_C(1), sizeof(struct l2_table *));
	q->l1_dirty = calloc(q->h.l1_size / 64 + 1, sizeof(*q->l1_dirty));
	if (!q->l1 || !q->l2 || !q->l1_dirty)
		return error_set(error, ENOMEM, "%s: %s", q->file->path, strerror(ENOMEM));
	err = file_read(q->file, q->h.l1_offset, q->l1, q->h.l1_size * sizeof(*q->l1));
	if (err)
		return error_set(error, -err, "%s: cannot read the L1 table: %s", q->file->path, strerror(-err));
	for (uint32_t i = 0; i < q->h.l1_size; i++) {
		uint64_t entry = q->l1[i] = be64toh(q->l1[i]), offset = entry & QCOW2_OFFSET_MASK;

		if (entry & QCOW2_L1_RESERVED || offset & (q->cluster_size - 1) || offset >= end ||
		    (!offset && entry & QCOW2_COPIED))
			return error_set(error, EINVAL, "%s: corrupt or truncated qcow2: L1 entry %u is %#llx",
					 q->file->path, i, (unsigned long long)entry);
	}
	return 0;
}

/* Small enough to be looked through in whole at once? */
static bool is_quickly_checked(const struct qcow2 *q)
{
	uint64_t bytes = q->h.snapshots * q->cluster_size * 16;

	for (uint32_t i = 0; i < q->h.l1_size; i++)
		if (q->l1[i])
			bytes += q->cluster_size * (q->h.snapshots + UINT64_C(1));
	return bytes <= CHECK_BYTES_MAX && atomic_load(&q->file->end) >> q->cluster_bits <= CHECK_CLUSTERS_MAX;
}

/* Dirty: the counts may be wrong, and are made anew. Else they must be right, as far as that can be told quickly. */
static int check_or_repair(struct qcow2 *q, const struct error_text *error)
{
	bool dirty = q->h.incompatible & QCOW2_DIRTY;
	struct qcow2_check check = { 0 };
	int err;

	if (!dirty && !is_quickly_checked(q))
		return 0;
	err = qcow2_check(q->file, &q->h, dirty ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_NOTHING, &check);
	if (err)
		return error_set(error, -err, "%s: cannot check the image: %s", q->file->path, strerror(-err));
	if (check.unsafe)
		return error_set(error, EINVAL,
				 "%s: corrupt qcow2, not opened for writing: %s (see trapeze image check)",
				 q->file->path, check.first);
	return 0;
}

static int clear_autoclear(struct qcow2 *q, const struct error_text *error)
{
	int err;

	/* Whoever writes without keeping up what a bit stands for must clear it: we know none of them. */
	if (!q->h.autoclear)
		return 0;
	err = set_field64(q->file, QCOW2_AT_AUTOCLEAR, 0);
	if (!err)
		err = file_sync(q->file);
	if (err)
		return error_set(error, -err, "%s: cannot write the header: %s", q->file->path, strerror(-err));
	q->h.autoclear = 0;
	return 0;
}

static int open_for_writing(struct qcow2 *q, const struct error_text *error)
{
	int err;

	if (q->h.incompatible & QCOW2_CORRUPT)
		return error_set(error, EINVAL,
				 "%s: the qcow2 image is marked corrupt; trapeze image check --repair all "
				 "may help, readonly=on opens it for reading",
				 q->file->path);
	if (atomic_load(&q->file->end) < q->cluster_size && !q->file->device)
		return error_set(error, EINVAL, "%s: corrupt or truncated qcow2: no whole cluster", q->file->path);
	err = check_or_repair(q, error);
	if (!err && q->h.incompatible & QCOW2_DIRTY) /* the tables have moved */
		err = qcow2_header_read(q->file, &q->h, error);
	if (!err)
		err = qcow2_refcount_open(q, error);
	if (!err)
		err = qcow2_meta_collect(q, error);
	if (!err)
		err = clear_autoclear(q, error);
	return err;
}

static void destroy(struct qcow2 *q)
{
	qcow2_l2_close(q);
	qcow2_refcount_close(q);
	qcow2_inflate_close(q);
	qcow2_run_list_free(&q->unlinked);
	qcow2_run_list_free(&q->unlinking);
	qcow2_run_list_free(&q->durable);
	qcow2_run_list_free(&q->waiting);
	free(q->meta);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->sync_lock);
	pthread_mutex_destroy(&q->inflate_lock);
	free(q);
}

int qcow2_open(struct layer *layer, const struct layer_options *options, const struct error_text *error)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return error_set(error, ENOMEM, "%s: %s", layer->file.path, strerror(ENOMEM));
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->sync_lock, NULL);
	pthread_mutex_init(&q->inflate_lock, NULL);
	q->layer = layer;
	q->file = &layer->file;
	q->writable = options->writable;
	q->discard = options->discard;
	err = qcow2_header_read(q->file, &q->h, error);
	if (!err) {
		q->cluster_bits = q->h.cluster_bits;
		q->cluster_size = UINT64_C(1) << q->cluster_bits;
		q->l2_bits = q->cluster_bits - 3;
		q->block_bits = q->cluster_bits + 3 - q->h.refcount_order;
		q->l2_max = L2_CACHE_BYTES >> q->cluster_bits;
		if (q->l2_max < L2_CACHE_MIN)
			q->l2_max = L2_CACHE_MIN;
		err = read_l1(q, error);
	}
	if (!err && q->writable) {
		err = open_for_writing(q, error);
		if (!err && q->h.incompatible & QCOW2_DIRTY)
			err = error_set(error, EIO, "%s: the repair did not clear the dirty bit", q->file->path);
	}
	if (err) {
		destroy(q);
		return err;
	}
	layer->size = (q->h.size + 511) & ~UINT64_C(511);
	layer->qcow2 = q;
	return 0;
}

int qcow2_close(struct qcow2 *q)
{
	int err = 0;

	/* Nobody is inside any more: the first sync makes clusters free, the second writes that down. */
	if (q->writable && !atomic_load(&q->corrupt)) {
		err = qcow2_sync(q);
		if (!err)
			err = qcow2_sync(q);
	}
	destroy(q);
	return err;
}
