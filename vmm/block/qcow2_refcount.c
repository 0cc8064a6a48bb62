/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2: reference counts and allocation ("Host cluster management"). */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

#define SECTOR 512
#define ENTRIES_PER_SECTOR (SECTOR / 8)

/* --- entries, 1 to 64 bits wide --- */

uint64_t qcow2_refblock_get(const uint8_t *data, unsigned order, uint64_t i)
{
	unsigned bits = 1u << order;

	if (bits < 8) {
		unsigned per_byte = 8 / bits;

		return (uint64_t)(data[i / per_byte] >> (i % per_byte * bits)) & ((1u << bits) - 1);
	}
	data += i * (bits / 8);
	if (bits == 8)
		return data[0];
	if (bits == 16)
		return (uint64_t)(data[0] << 8 | data[1]);
	if (bits == 32) {
		uint32_t v;

		memcpy(&v, data, sizeof(v));
		return be32toh(v);
	} else {
		uint64_t v;

		memcpy(&v, data, sizeof(v));
		return be64toh(v);
	}
}

void qcow2_refblock_set(uint8_t *data, unsigned order, uint64_t i, uint64_t value)
{
	unsigned bits = 1u << order;

	if (bits < 8) {
		unsigned per_byte = 8 / bits, shift = (unsigned)(i % per_byte) * bits;
		uint8_t mask = (uint8_t)(((1u << bits) - 1) << shift);

		data[i / per_byte] = (uint8_t)((data[i / per_byte] & ~mask) | (uint8_t)(value << shift));
		return;
	}
	data += i * (bits / 8);
	value = htobe64(value);
	memcpy(data, (uint8_t *)&value + 8 - bits / 8, bits / 8);
}

/* --- blocks --- */

static uint64_t entries_in_block(const struct qcow2 *q)
{
	return UINT64_C(1) << q->block_bits;
}

static void mark_dirty(struct qcow2 *q, struct refblock *block)
{
	if (block->dirty)
		return;
	block->dirty = true;
	block->next_dirty = q->dirty_blocks;
	q->dirty_blocks = block;
}

static struct refblock *new_block(struct qcow2 *q, uint64_t index)
{
	struct refblock *block = calloc(1, sizeof(*block) + q->cluster_size);

	if (block)
		block->index = index;
	return block;
}

/* The block that counts clusters [index * entries, …); *block is NULL where there is none. */
static int get_block(struct qcow2 *q, uint64_t index, struct refblock **block)
{
	struct refblock *b = NULL;
	int err = 0;

	if (index < q->reftable_entries) {
		b = q->blocks[index];
		if (!b && q->reftable[index]) {
			b = new_block(q, index);
			if (!b)
				return -ENOMEM;
			err = file_read(q->file, q->reftable[index], b->data, q->cluster_size);
			if (err) {
				free(b);
				return err;
			}
			q->blocks[index] = b;
		}
	}
	*block = b;
	return 0;
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *value)
{
	struct refblock *block;
	int err = get_block(q, cluster >> q->block_bits, &block);

	*value = 0;
	if (!err && block)
		*value = qcow2_refblock_get(block->data, q->h.refcount_order, cluster & (entries_in_block(q) - 1));
	return err;
}

static int write_reftable_entry(struct qcow2 *q, uint64_t index)
{
	uint64_t sector[ENTRIES_PER_SECTOR], first = index & ~(uint64_t)(ENTRIES_PER_SECTOR - 1);

	for (unsigned i = 0; i < ENTRIES_PER_SECTOR; i++)
		sector[i] = htobe64(q->reftable[first + i]);
	return file_write(q->file, q->h.reftable_offset + first * 8, sector, sizeof(sector));
}

static bool fits_device(const struct qcow2 *q, uint64_t cluster)
{
	return !q->file->device || (cluster + 1) << q->cluster_bits <= atomic_load(&q->file->end);
}

/* Whatever happens to hold metadata must be counted; where it is not, the counts cannot be believed. */
static int check_is_free(struct qcow2 *q, uint64_t cluster)
{
	if (qcow2_meta_test(q, cluster))
		return qcow2_is_corrupt(q, "the metadata at %#llx is counted as free",
					(unsigned long long)cluster << q->cluster_bits);
	return 0;
}

static void note_used(struct qcow2 *q, uint64_t first, uint64_t count, bool *fresh)
{
	*fresh = first >= q->fresh_from;
	if (q->fresh_from < first + count && !q->file->device)
		q->fresh_from = first + count;
}

/*
 * A new block, in the first cluster that it counts. It is on the disk before the table points to it; that the pointer
 * is there before anything relies on it is the sync's business.
 */
static int add_block(struct qcow2 *q, uint64_t index)
{
	uint64_t cluster = index << q->block_bits;
	struct refblock *block;
	bool fresh;
	int err = check_is_free(q, cluster);

	if (err)
		return err;
	if (!fits_device(q, cluster))
		return -ENOSPC;
	err = qcow2_meta_set(q, cluster, 1);
	if (err)
		return err;
	block = new_block(q, index);
	if (!block) {
		qcow2_meta_clear(q, cluster, 1);
		return -ENOMEM;
	}
	qcow2_refblock_set(block->data, q->h.refcount_order, 0, 1);
	err = file_write(q->file, cluster << q->cluster_bits, block->data, q->cluster_size);
	if (!err)
		err = file_sync(q->file);
	if (!err) {
		q->reftable[index] = cluster << q->cluster_bits;
		err = write_reftable_entry(q, index);
		if (err)
			q->reftable[index] = 0;
	}
	if (err) {
		qcow2_meta_clear(q, cluster, 1);
		free(block);
		return err;
	}
	note_used(q, cluster, 1, &fresh);
	q->blocks[index] = block;
	return 0;
}

/* --- a longer refcount table --- */

struct growth {
	uint64_t base;          /* first cluster of the new table; the blocks that count the new clusters follow it */
	uint64_t table, blocks; /* clusters */
	uint64_t entries;
	uint64_t *reftable;
	struct refblock **block_list;
};

/*
 * The new table begins at the first cluster that the old one cannot count, so all of it is counted by new blocks and
 * nothing that exists is touched before the header points to the new table.
 */
static int plan_growth(struct qcow2 *q, uint64_t need, struct growth *g)
{
	uint64_t per_cluster = q->cluster_size / 8, per_block = entries_in_block(q);

	g->base = q->reftable_entries << q->block_bits;
	g->entries = (need + 1) + (need + 1) / 2;
	g->blocks = 1;
	for (;;) {
		uint64_t blocks;

		g->table = (g->entries + per_cluster - 1) / per_cluster;
		blocks = (g->table + g->blocks + per_block - 1) / per_block;
		if (q->reftable_entries + blocks > g->entries) {
			g->entries = q->reftable_entries + blocks;
			continue;
		}
		if (blocks == g->blocks)
			break;
		g->blocks = blocks;
	}
	if (g->table * q->cluster_size > QCOW2_REFTABLE_BYTES_MAX)
		return -EFBIG;
	if (!fits_device(q, g->base + g->table + g->blocks - 1))
		return -ENOSPC;
	g->entries = g->table * per_cluster;
	g->reftable = calloc(g->entries, sizeof(*g->reftable));
	g->block_list = calloc(g->entries, sizeof(*g->block_list));
	if (!g->reftable || !g->block_list)
		return -ENOMEM;
	memcpy(g->reftable, q->reftable, q->reftable_entries * sizeof(*g->reftable));
	memcpy(g->block_list, q->blocks, q->reftable_entries * sizeof(struct refblock *));
	return 0;
}

static int write_growth(struct qcow2 *q, struct growth *g)
{
	uint64_t used = g->table + g->blocks, per_block = entries_in_block(q), size = g->table * q->cluster_size;
	uint64_t *disk;
	int err = 0;

	for (uint64_t i = 0; i < g->blocks && !err; i++) {
		uint64_t index = q->reftable_entries + i;
		struct refblock *block = g->block_list[index] = new_block(q, index);

		if (!block)
			return -ENOMEM;
		for (uint64_t c = i * per_block; c < used && c < (i + 1) * per_block; c++)
			qcow2_refblock_set(block->data, q->h.refcount_order, c - i * per_block, 1);
		g->reftable[index] = (g->base + g->table + i) << q->cluster_bits;
		err = file_write(q->file, g->reftable[index], block->data, q->cluster_size);
	}
	disk = err ? NULL : malloc(size);
	if (!disk)
		return err ? err : -ENOMEM;
	for (uint64_t i = 0; i < g->entries; i++)
		disk[i] = htobe64(g->reftable[i]);
	err = file_write(q->file, g->base << q->cluster_bits, disk, size);
	free(disk);
	return err ? err : file_sync(q->file);
}

static int switch_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters)
{
	uint8_t field[12];
	uint64_t be_offset = htobe64(offset);
	uint32_t be_clusters = htobe32(clusters);
	int err;

	memcpy(field, &be_offset, 8);
	memcpy(field + 8, &be_clusters, 4);
	err = qcow2_header_update(q->file, QCOW2_AT_REFTABLE, field, sizeof(field));
	return err ? err : file_sync(q->file);
}

static int grow_table(struct qcow2 *q, uint64_t need)
{
	struct growth g = { 0 };
	uint64_t old_cluster = q->h.reftable_offset >> q->cluster_bits, old_count = q->h.reftable_clusters;
	bool fresh;
	int err = plan_growth(q, need, &g);

	for (uint64_t i = 0; i < g.table + g.blocks && !err; i++)
		err = check_is_free(q, g.base + i);
	if (!err)
		err = write_growth(q, &g);
	if (!err)
		err = qcow2_meta_set(q, g.base, g.table + g.blocks);
	if (!err) {
		err = switch_reftable(q, g.base << q->cluster_bits, (uint32_t)g.table);
		if (err) /* which of both tables is the disk's is unknown: let nothing depend on it */
			err = qcow2_is_corrupt(q, "cannot replace the refcount table");
	}
	if (err) {
		for (uint64_t i = 0; g.block_list && i < g.blocks; i++)
			free(g.block_list[q->reftable_entries + i]);
		free(g.block_list);
		free(g.reftable);
		return err;
	}
	note_used(q, g.base, g.table + g.blocks, &fresh);
	free(q->reftable);
	free(q->blocks);
	q->reftable = g.reftable;
	q->blocks = g.block_list;
	q->reftable_entries = g.entries;
	q->h.reftable_offset = g.base << q->cluster_bits;
	q->h.reftable_clusters = (uint32_t)g.table;
	qcow2_meta_clear(q, old_cluster, old_count);
	qcow2_unlink_clusters(q, old_cluster, old_count);
	return 0;
}

/* --- allocation --- */

/* From the cursor on, the first free cluster that has a block to be counted in. */
static int find_free(struct qcow2 *q, struct refblock **block)
{
	for (;;) {
		uint64_t index = q->cursor >> q->block_bits, per_block = entries_in_block(q);
		int err = get_block(q, index, block);

		if (!err && !*block) {
			if (index >= q->reftable_entries)
				err = grow_table(q, index);
			else
				err = add_block(q, index);
			if (!err)
				continue;
		}
		if (err)
			return err;
		for (uint64_t i = q->cursor & (per_block - 1); i < per_block; i++) {
			if (!qcow2_refblock_get((*block)->data, q->h.refcount_order, i)) {
				q->cursor = index * per_block + i;
				return 0;
			}
		}
		q->cursor = (index + 1) * per_block;
	}
}

int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *first, uint64_t *count, bool *fresh)
{
	uint64_t per_block = entries_in_block(q), i, n = 0;
	struct refblock *block;
	int err = atomic_load(&q->corrupt) ? -EIO : find_free(q, &block);

	if (err)
		return err;
	i = q->cursor & (per_block - 1);
	while (n < want && i + n < per_block && fits_device(q, q->cursor + n) &&
	       !qcow2_refblock_get(block->data, q->h.refcount_order, i + n)) {
		err = check_is_free(q, q->cursor + n);
		if (err)
			return err;
		n++;
	}
	if (!n)
		return -ENOSPC;
	for (uint64_t k = 0; k < n; k++)
		qcow2_refblock_set(block->data, q->h.refcount_order, i + k, 1);
	mark_dirty(q, block);
	*first = q->cursor;
	*count = n;
	note_used(q, q->cursor, n, fresh);
	q->cursor += n;
	return 0;
}

void qcow2_unref(struct qcow2 *q, uint64_t first, uint64_t count)
{
	for (uint64_t c = first; c < first + count; c++) {
		uint64_t i = c & (entries_in_block(q) - 1), value;
		struct refblock *block;

		/* Unreadable: the cluster stays counted, which harms nobody. */
		if (get_block(q, c >> q->block_bits, &block) != 0 || !block)
			continue;
		value = qcow2_refblock_get(block->data, q->h.refcount_order, i);
		if (!value) {
			qcow2_is_corrupt(q, "the cluster at %#llx is in use and counted as free",
					 (unsigned long long)c << q->cluster_bits);
			return;
		}
		qcow2_refblock_set(block->data, q->h.refcount_order, i, value - 1);
		mark_dirty(q, block);
		if (value == 1 && c < q->cursor)
			q->cursor = c;
	}
}

/* --- open, close --- */

int qcow2_refcount_open(struct qcow2 *q, const struct error_text *error)
{
	uint64_t end = atomic_load(&q->file->end), size = (uint64_t)q->h.reftable_clusters << q->cluster_bits;
	int err;

	q->reftable_entries = size / 8;
	q->reftable = malloc(size);
	q->blocks = calloc(q->reftable_entries, sizeof(struct refblock *));
	if (!q->reftable || !q->blocks)
		return error_set(error, ENOMEM, "%s: %s", q->file->path, strerror(ENOMEM));
	err = file_read(q->file, q->h.reftable_offset, q->reftable, size);
	if (err)
		return error_set(error, -err, "%s: cannot read the refcount table: %s", q->file->path, strerror(-err));
	for (uint64_t i = 0; i < q->reftable_entries; i++) {
		uint64_t offset = q->reftable[i] = be64toh(q->reftable[i]);

		if (offset & (q->cluster_size - 1) || offset >= end)
			return error_set(
				error, EINVAL,
				"%s: corrupt or truncated qcow2: refcount block %llu at %#llx is not in the file",
				q->file->path, (unsigned long long)i, (unsigned long long)offset);
	}
	q->fresh_from = q->file->device ? UINT64_MAX : (end + q->cluster_size - 1) >> q->cluster_bits;
	return 0;
}

void qcow2_refcount_close(struct qcow2 *q)
{
	for (uint64_t i = 0; q->blocks && i < q->reftable_entries; i++)
		free(q->blocks[i]);
	free(q->blocks);
	free(q->reftable);
	q->blocks = NULL;
	q->reftable = NULL;
}
