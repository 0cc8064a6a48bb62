/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2: L2 tables in memory. Whole tables; the least recently used clean one goes when there are too many. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

/* --- the list, newest first --- */

static void list_add(struct qcow2 *q, struct l2_table *t)
{
	t->newer = NULL;
	t->older = q->newest;
	if (q->newest)
		q->newest->newer = t;
	else
		q->oldest = t;
	q->newest = t;
}

static void list_remove(struct qcow2 *q, struct l2_table *t)
{
	if (t->newer)
		t->newer->older = t->older;
	else
		q->newest = t->older;
	if (t->older)
		t->older->newer = t->newer;
	else
		q->oldest = t->newer;
}

static void insert(struct qcow2 *q, struct l2_table *t)
{
	list_add(q, t);
	q->l2[t->index] = t;
	q->l2_cached++;
}

static void drop(struct qcow2 *q, struct l2_table *t)
{
	list_remove(q, t);
	q->l2[t->index] = NULL;
	q->l2_cached--;
	q->l2_dropped++;
	free(t);
}

/* False: all are dirty or being written. Used ones get a second chance. */
static bool make_room(struct qcow2 *q)
{
	for (uint64_t tries = 2 * q->l2_cached; q->l2_cached >= q->l2_max && tries; tries--) {
		struct l2_table *t = q->oldest;

		if (!t->dirty && !t->busy && !t->used) {
			drop(q, t);
			continue;
		}
		t->used = false;
		list_remove(q, t);
		list_add(q, t);
	}
	return q->l2_cached < q->l2_max;
}

/* Lets go of the lock. */
static int flush_for_room(struct qcow2 *q)
{
	int err;

	pthread_mutex_unlock(&q->lock);
	err = qcow2_sync(q);
	pthread_mutex_lock(&q->lock);
	return err;
}

static struct l2_table *new_table(struct qcow2 *q, uint64_t index, uint64_t offset)
{
	struct l2_table *t = calloc(1, sizeof(*t) + q->cluster_size);

	if (t) {
		t->index = index;
		t->offset = offset;
	}
	return t;
}

/* Before anything is written by what a table says: every entry must be legal, and counted as it claims to be. */
static int check_table(struct qcow2 *q, const struct l2_table *t)
{
	for (uint64_t i = 0; i < UINT64_C(1) << q->l2_bits; i++) {
		uint64_t entry = be64toh(t->entry[i]), count, cluster = (entry & QCOW2_OFFSET_MASK) >> q->cluster_bits;
		int err;

		if (!entry || (entry & QCOW2_COMPRESSED && qcow2_entry_is_sane(q, entry)))
			continue;
		if (!qcow2_entry_is_sane(q, entry) || (cluster && qcow2_meta_test(q, cluster)))
			return qcow2_is_corrupt(q, "L2 entry %llu of the table at %#llx is %#llx",
						(unsigned long long)i, (unsigned long long)t->offset,
						(unsigned long long)entry);
		if (!cluster)
			continue;
		err = qcow2_refcount_get(q, cluster, &count);
		if (err)
			return err;
		/* A clear flag with a count of one costs a copy, and no more. */
		if (!count || (entry & QCOW2_COPIED && count != 1))
			return qcow2_is_corrupt(q, "the cluster at %#llx has refcount %llu and the L2 entry %#llx",
						(unsigned long long)cluster << q->cluster_bits,
						(unsigned long long)count, (unsigned long long)entry);
	}
	return 0;
}

/* Reads a table without the lock. NULL and 0: the world has changed meanwhile, look again. */
static int load(struct qcow2 *q, uint64_t index, struct l2_table **table)
{
	uint64_t l1 = q->l1[index], dropped = q->l2_dropped;
	struct l2_table *t = new_table(q, index, l1 & QCOW2_OFFSET_MASK);
	int err;

	*table = NULL;
	if (!t)
		return -ENOMEM;
	pthread_mutex_unlock(&q->lock);
	err = file_read(q->file, t->offset, t->entry, q->cluster_size);
	pthread_mutex_lock(&q->lock);
	/* Loaded by another? Or loaded, changed, written and dropped? */
	if (err || q->l2[index] || q->l1[index] != l1 || q->l2_dropped != dropped) {
		free(t);
		return err;
	}
	err = q->writable ? check_table(q, t) : 0;
	if (err) {
		free(t);
		return err;
	}
	insert(q, t);
	*table = t;
	return 0;
}

int qcow2_l2_get(struct qcow2 *q, uint64_t index, bool may_block, struct l2_table **table)
{
	for (;;) {
		struct l2_table *t = q->l2[index];
		int err;

		*table = t;
		if (t) {
			t->used = true;
			return 0;
		}
		if (!(q->l1[index] & QCOW2_OFFSET_MASK))
			return 0;
		if (!may_block)
			return -EAGAIN;
		if (!make_room(q)) {
			err = flush_for_room(q);
			if (err)
				return err;
			continue;
		}
		err = load(q, index, &t);
		if (err)
			return err;
	}
}

/* A new table in a new cluster, empty or a copy. */
static int add_table(struct qcow2 *q, uint64_t index, const struct l2_table *from, struct l2_table **table)
{
	uint64_t cluster, count;
	struct l2_table *t;
	bool fresh;
	int err = qcow2_alloc(q, 1, &cluster, &count, &fresh);

	if (err)
		return err;
	t = new_table(q, index, cluster << q->cluster_bits);
	err = t ? qcow2_meta_set(q, cluster, 1) : -ENOMEM;
	if (err) {
		qcow2_unref(q, cluster, 1);
		free(t);
		return err;
	}
	if (from)
		memcpy(t->entry, from->entry, q->cluster_size);
	t->dirty = t->unlinked = t->used = true;
	q->l1[index] = t->offset | QCOW2_COPIED;
	q->l1_dirty[index / 64] = true;
	*table = t;
	return 0;
}

int qcow2_l2_get_writable(struct qcow2 *q, uint64_t index, struct l2_table **table)
{
	for (;;) {
		struct l2_table *t, *copy;
		uint64_t old;
		int err = qcow2_l2_get(q, index, true, &t);

		if (err)
			return err;
		if (t && q->l1[index] & QCOW2_COPIED) {
			*table = t;
			return 0;
		}
		if (!t && !make_room(q)) {
			err = flush_for_room(q);
			if (err)
				return err;
			continue;
		}
		if (t && t->busy) /* shared ones are never dirty */
			return -EIO;
		old = q->l1[index] & QCOW2_OFFSET_MASK;
		err = add_table(q, index, t, &copy);
		if (err)
			return err;
		if (t) {
			drop(q, t);
			/* Still a snapshot's: its cluster stays metadata. */
			qcow2_unlink_clusters(q, old >> q->cluster_bits, 1);
		}
		insert(q, copy);
		*table = copy;
		return 0;
	}
}

void qcow2_l2_close(struct qcow2 *q)
{
	while (q->newest)
		drop(q, q->newest);
	free(q->l2);
	free(q->l1);
	free(q->l1_dirty);
}
