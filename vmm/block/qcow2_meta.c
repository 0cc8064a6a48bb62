/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2: which clusters hold metadata. Data must never be written there, whatever a damaged or hostile image says: a
 * guest that could write its disk's header could name any file of the host as the backing file.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

bool qcow2_meta_test(const struct qcow2 *q, uint64_t cluster)
{
	return cluster / 64 < q->meta_words && q->meta[cluster / 64] >> (cluster % 64) & 1;
}

static int reserve(struct qcow2 *q, uint64_t clusters)
{
	uint64_t words = clusters / 64 + 1, *meta;

	if (words <= q->meta_words)
		return 0;
	words += words / 4;
	meta = realloc(q->meta, words * sizeof(*meta));
	if (!meta)
		return -ENOMEM;
	memset(meta + q->meta_words, 0, (words - q->meta_words) * sizeof(*meta));
	q->meta = meta;
	q->meta_words = words;
	return 0;
}

int qcow2_meta_set(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	int err = reserve(q, cluster + count);

	if (err)
		return err;
	for (uint64_t c = cluster; c < cluster + count; c++)
		q->meta[c / 64] |= UINT64_C(1) << (c % 64);
	return 0;
}

void qcow2_meta_clear(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	for (uint64_t c = cluster; c < cluster + count && c / 64 < q->meta_words; c++)
		q->meta[c / 64] &= ~(UINT64_C(1) << (c % 64));
}

struct collector {
	struct qcow2 *q;
	const struct error_text *error;
	uint64_t end; /* of the file, in clusters */
};

/* A range that nothing else may lie in. */
static int claim(struct collector *c, const char *what, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = c->q;
	uint64_t first = offset >> q->cluster_bits, count = (bytes + q->cluster_size - 1) >> q->cluster_bits;
	int err;

	if (offset & (q->cluster_size - 1) || first >= c->end || count > c->end - first)
		return error_set(c->error, EINVAL, "%s: corrupt or truncated qcow2: a %s at %#llx is not in the file",
				 q->file->path, what, (unsigned long long)offset);
	for (uint64_t i = first; i < first + count; i++)
		if (qcow2_meta_test(q, i))
			return error_set(c->error, EINVAL, "%s: corrupt qcow2: a %s at %#llx lies in other metadata",
					 q->file->path, what, (unsigned long long)i << q->cluster_bits);
	err = qcow2_meta_set(q, first, count);
	if (err)
		return error_set(c->error, -err, "%s: %s", q->file->path, strerror(-err));
	return 0;
}

/* The L2 tables of snapshots may be each other's and the active ones. */
static int collect_snapshot_l2(struct collector *c, const struct qcow2_snapshot *s, struct qcow2 *tables)
{
	uint64_t *l1 = malloc(s->l1_size * sizeof(*l1) + 1);
	int err = l1 ? file_read(c->q->file, s->l1_offset, l1, s->l1_size * sizeof(*l1)) : -ENOMEM;

	if (err)
		error_set(c->error, -err, "%s: cannot read a snapshot's L1 table: %s", c->q->file->path,
			  strerror(-err));
	for (uint32_t i = 0; i < s->l1_size && !err; i++) {
		uint64_t offset = be64toh(l1[i]) & QCOW2_OFFSET_MASK;

		if (!offset || (offset >> c->q->cluster_bits < c->end && !(offset & (c->q->cluster_size - 1)) &&
				qcow2_meta_test(tables, offset >> c->q->cluster_bits)))
			continue;
		err = claim(c, "snapshot's L2 table", offset, c->q->cluster_size);
		if (!err && qcow2_meta_set(tables, offset >> c->q->cluster_bits, 1) != 0)
			err = error_set(c->error, ENOMEM, "%s: %s", c->q->file->path, strerror(ENOMEM));
	}
	free(l1);
	return err;
}

static int collect_snapshots(struct collector *c, struct qcow2 *tables)
{
	struct qcow2 *q = c->q;
	struct qcow2_snapshot *list;
	uint64_t table_size;
	int err = qcow2_snapshots_read(q->file, &q->h, &list, &table_size, c->error);

	if (!err && table_size)
		err = claim(c, "snapshot table", q->h.snapshots_offset, table_size);
	for (uint32_t i = 0; i < q->h.snapshots && !err; i++)
		if (list[i].l1_size)
			err = claim(c, "snapshot's L1 table", list[i].l1_offset, list[i].l1_size * UINT64_C(8));
	for (uint32_t i = 0; i < q->h.snapshots && !err; i++)
		err = collect_snapshot_l2(c, &list[i], tables);
	free(list);
	return err;
}

int qcow2_meta_collect(struct qcow2 *q, const struct error_text *error)
{
	struct collector c = { q, error, (atomic_load(&q->file->end) + q->cluster_size - 1) >> q->cluster_bits };
	struct qcow2 tables = { 0 }; /* only its bitmap is used: L2 tables */
	int err = claim(&c, "header", 0, 1);

	if (!err && q->h.l1_size)
		err = claim(&c, "L1 table", q->h.l1_offset, q->h.l1_size * UINT64_C(8));
	if (!err)
		err = claim(&c, "refcount table", q->h.reftable_offset,
			    (uint64_t)q->h.reftable_clusters << q->cluster_bits);
	for (uint64_t i = 0; i < q->reftable_entries && !err; i++)
		if (q->reftable[i])
			err = claim(&c, "refcount block", q->reftable[i], q->cluster_size);
	for (uint32_t i = 0; i < q->h.l1_size && !err; i++) {
		uint64_t offset = q->l1[i] & QCOW2_OFFSET_MASK;

		if (!offset)
			continue;
		err = claim(&c, "L2 table", offset, q->cluster_size);
		if (!err && q->h.snapshots && qcow2_meta_set(&tables, offset >> q->cluster_bits, 1) != 0)
			err = error_set(error, ENOMEM, "%s: %s", q->file->path, strerror(ENOMEM));
	}
	if (!err)
		err = collect_snapshots(&c, &tables);
	if (!err && q->h.has_bitmaps && q->h.bitmap_dir_size)
		err = claim(&c, "bitmap directory", q->h.bitmap_dir_offset, q->h.bitmap_dir_size);
	free(tables.meta);
	return err;
}
