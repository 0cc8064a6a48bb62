/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2: writing metadata in an order that a power loss cannot hurt (qcow2.h), and giving clusters free after it. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

#define L1_SECTOR_ENTRIES 64

/* --- lists of runs of clusters --- */

void qcow2_run_list_free(struct run_list *list)
{
	free(list->run);
	memset(list, 0, sizeof(*list));
}

static int append(struct run_list *list, uint64_t first, uint64_t count)
{
	struct run *last = list->count ? &list->run[list->count - 1] : NULL;

	if (last && last->cluster + last->count == first) {
		last->count += count;
		return 0;
	}
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct run *run = realloc(list->run, room * sizeof(*run));

		if (!run)
			return -ENOMEM;
		list->run = run;
		list->room = room;
	}
	list->run[list->count++] = (struct run){ first, count };
	return 0;
}

/* Moves all of it. Out of memory: the clusters stay counted, which harms nobody. */
static void move(struct run_list *to, struct run_list *from)
{
	if (!to->count) {
		struct run_list spare = *to;

		*to = *from;
		*from = spare;
	}
	for (size_t i = 0; i < from->count; i++)
		append(to, from->run[i].cluster, from->run[i].count);
	from->count = 0;
}

void qcow2_unlink_clusters(struct qcow2 *q, uint64_t first, uint64_t count)
{
	append(&q->unlinked, first, count);
}

void qcow2_unlink(struct qcow2 *q, uint64_t entry)
{
	uint64_t offset, length;

	if (entry & QCOW2_COMPRESSED) {
		/* Every cluster that it touches has a reference for it. */
		qcow2_compressed_place(q->cluster_bits, entry, &offset, &length);
		qcow2_unlink_clusters(q, offset >> q->cluster_bits,
				      ((offset + length - 1) >> q->cluster_bits) - (offset >> q->cluster_bits) + 1);
	} else if (entry & QCOW2_OFFSET_MASK) {
		qcow2_unlink_clusters(q, (entry & QCOW2_OFFSET_MASK) >> q->cluster_bits, 1);
	}
}

/* --- giving clusters free --- */

uint8_t qcow2_enter(struct qcow2 *q)
{
	uint8_t epoch;

	pthread_mutex_lock(&q->lock);
	epoch = q->epoch;
	atomic_fetch_add(&q->inside[epoch], 1);
	pthread_mutex_unlock(&q->lock);
	return epoch;
}

void qcow2_leave(struct qcow2 *q, uint8_t epoch)
{
	atomic_fetch_sub(&q->inside[epoch], 1);
}

/* The file's space, before anybody can get the clusters again. Lets go of the lock. */
static void punch(struct qcow2 *q, const struct run_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct run *run = &list->run[i];

		for (uint64_t c = 0; c < run->count;) {
			uint64_t n = 0, count = 0;

			while (c + n < run->count && qcow2_refcount_get(q, run->cluster + c + n, &count) == 0 &&
			       count == 1)
				n++;
			if (n) {
				pthread_mutex_unlock(&q->lock);
				file_discard(q->file, (run->cluster + c) << q->cluster_bits, n << q->cluster_bits);
				pthread_mutex_lock(&q->lock);
			}
			c += n ? n : 1;
		}
	}
}

static void free_runs(struct qcow2 *q, struct run_list *list)
{
	if (q->discard)
		punch(q, list);
	for (size_t i = 0; i < list->count; i++)
		qcow2_unref(q, list->run[i].cluster, list->run[i].count);
	list->count = 0;
}

/*
 * What is unlinked on the disk, once all have left who may have looked it up before. New ones count under the other
 * epoch; the side that is waited for empties in the end.
 */
static void reclaim(struct qcow2 *q)
{
	for (;;) {
		if (q->waiting.count && !atomic_load(&q->inside[q->epoch ^ 1])) {
			struct run_list list = q->waiting;

			memset(&q->waiting, 0, sizeof(q->waiting));
			free_runs(q, &list);
			qcow2_run_list_free(&list);
		}
		if (q->waiting.count || !q->durable.count || atomic_load(&q->inside[q->epoch ^ 1]))
			return;
		move(&q->waiting, &q->durable);
		q->epoch ^= 1;
	}
}

/* --- a sync --- */

struct piece {
	uint64_t offset;
	size_t length;
	uint8_t *data;          /* a copy: the original goes on changing */
	struct l2_table *table; /* or of a refblock, or of a sector of the L1 table: */
	struct refblock *block;
	uint64_t l1_sector;
};

struct pieces {
	struct piece *piece;
	size_t count, room;
};

static int add_piece(struct pieces *p, uint64_t offset, const void *data, size_t length, struct piece **out)
{
	uint8_t *copy = malloc(length);

	if (copy && p->count == p->room) {
		size_t room = p->room ? 2 * p->room : 16;
		struct piece *piece = realloc(p->piece, room * sizeof(*piece));

		if (piece) {
			p->piece = piece;
			p->room = room;
		} else {
			free(copy);
			copy = NULL;
		}
	}
	if (!copy)
		return -ENOMEM;
	memcpy(copy, data, length);
	*out = &p->piece[p->count++];
	**out = (struct piece){ .offset = offset, .length = length, .data = copy, .l1_sector = UINT64_MAX };
	return 0;
}

static int take_blocks(struct qcow2 *q, struct pieces *first)
{
	while (q->dirty_blocks) {
		struct refblock *block = q->dirty_blocks;
		struct piece *piece;
		int err = add_piece(first, q->reftable[block->index], block->data, q->cluster_size, &piece);

		if (err)
			return err;
		piece->block = block;
		q->dirty_blocks = block->next_dirty;
		block->dirty = false;
	}
	return 0;
}

static int take_tables(struct qcow2 *q, struct pieces *first, struct pieces *second)
{
	for (struct l2_table *t = q->newest; t; t = t->older) {
		struct piece *piece;
		int err;

		if (!t->dirty)
			continue;
		err = add_piece(t->unlinked ? first : second, t->offset, t->entry, q->cluster_size, &piece);
		if (err)
			return err;
		piece->table = t;
		t->dirty = false;
		t->busy = true;
	}
	return 0;
}

static int take_l1(struct qcow2 *q, struct pieces *second)
{
	uint64_t sectors = (q->h.l1_size + L1_SECTOR_ENTRIES - 1) / L1_SECTOR_ENTRIES;

	for (uint64_t s = 0; s < sectors; s++) {
		uint64_t entry[L1_SECTOR_ENTRIES], n = q->h.l1_size - s * L1_SECTOR_ENTRIES;
		struct piece *piece;
		int err;

		if (!q->l1_dirty[s])
			continue;
		if (n > L1_SECTOR_ENTRIES)
			n = L1_SECTOR_ENTRIES;
		for (uint64_t i = 0; i < n; i++)
			entry[i] = htobe64(q->l1[s * L1_SECTOR_ENTRIES + i]);
		err = add_piece(second, q->h.l1_offset + s * sizeof(entry), entry, n * sizeof(entry[0]), &piece);
		if (err)
			return err;
		piece->l1_sector = s;
		q->l1_dirty[s] = false;
	}
	return 0;
}

static int write_pieces(struct qcow2 *q, const struct pieces *p)
{
	int err = 0;

	for (size_t i = 0; i < p->count && !err; i++)
		err = file_write(q->file, p->piece[i].offset, p->piece[i].data, p->piece[i].length);
	return err;
}

/* On the disk: clean. Not: as dirty as before. */
static void settle(struct qcow2 *q, struct pieces *p, int err)
{
	for (size_t i = 0; i < p->count; i++) {
		struct piece *piece = &p->piece[i];

		if (piece->table) {
			piece->table->busy = false;
			piece->table->dirty |= err != 0;
			piece->table->unlinked &= err != 0;
		}
		if (piece->l1_sector != UINT64_MAX && err)
			q->l1_dirty[piece->l1_sector] = true;
		if (piece->block && err && !piece->block->dirty) {
			piece->block->dirty = true;
			piece->block->next_dirty = q->dirty_blocks;
			q->dirty_blocks = piece->block;
		}
		free(piece->data);
	}
	free(p->piece);
}

static int write_phases(struct qcow2 *q, const struct pieces *first, const struct pieces *second)
{
	int err = write_pieces(q, first);

	if (!err && second->count) {
		err = file_sync(q->file);
		if (!err)
			err = write_pieces(q, second);
	}
	return err ? err : file_sync(q->file);
}

int qcow2_sync(struct qcow2 *q)
{
	struct pieces first = { 0 }, second = { 0 };
	int err;

	pthread_mutex_lock(&q->sync_lock);
	pthread_mutex_lock(&q->lock);
	if (atomic_load(&q->corrupt)) {
		pthread_mutex_unlock(&q->lock);
		pthread_mutex_unlock(&q->sync_lock);
		return -EIO;
	}
	err = take_blocks(q, &first);
	if (!err)
		err = take_tables(q, &first, &second);
	if (!err)
		err = take_l1(q, &second);
	if (!err)
		move(&q->unlinking, &q->unlinked);
	if (!err) {
		pthread_mutex_unlock(&q->lock);
		err = write_phases(q, &first, &second);
		pthread_mutex_lock(&q->lock);
	}
	settle(q, &first, err);
	settle(q, &second, err);
	if (!err)
		move(&q->durable, &q->unlinking);
	reclaim(q);
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_unlock(&q->sync_lock);
	return err;
}
