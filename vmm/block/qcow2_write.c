/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2: what changes the mapping of guest clusters. A request announces which guest clusters it changes (struct
 * change), does its data transfers without the lock, and then links the result; another that wants the same clusters is
 * parked meanwhile. So copy on write and allocation run in parallel, but never twice for one cluster.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/iov.h"
#include "block/qcow2_internal.h"

/* Data copied or written in one go; bounds the memory of a request. */
#define ZERO_PIECE (UINT64_C(1) << 20)

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* --- changes under way --- */

static struct change *find_change(struct qcow2 *q, uint64_t first, uint64_t last)
{
	struct change *found = NULL;

	for (struct change *c = q->changes; c; c = c->next)
		if (c->first <= last && c->last >= first && (!found || c->first < found->first))
			found = c;
	return found;
}

/*
 * May [first, *last] be changed now? 0, with *last cut before clusters that somebody else is at; or QCOW2_PARKED: the
 * first one is busy, and the request waits for it.
 */
static int begin_change(struct qcow2 *q, struct block_request *request, uint64_t first, uint64_t *last)
{
	struct change *other = find_change(q, first, *last);

	if (!other)
		return 0;
	if (other->first > first) {
		*last = other->first - 1;
		return 0;
	}
	request->next = other->waiters;
	other->waiters = request;
	return QCOW2_PARKED;
}

/* The waiters' list is to be given to restart_waiters() without the lock. */
static struct block_request *end_change(struct qcow2 *q, struct change *change)
{
	struct change **p = &q->changes;

	while (*p != change)
		p = &(*p)->next;
	*p = change->next;
	return change->waiters;
}

static void restart_waiters(struct qcow2 *q, struct block_request *list)
{
	while (list) {
		struct block_request *next = list->next;

		q->restart(q->restart_ctx, list);
		list = next;
	}
}

/* --- allocating writes --- */

struct allocation {
	struct change change; /* guest clusters */
	uint64_t host;        /* first cluster in the file */
	uint64_t count;
	bool fresh;  /* reads as zeros */
	bool reused; /* the clusters were there already, marked as zeros */
};

static bool is_in_place(const struct qcow2 *q, uint64_t index, uint64_t entry)
{
	return !(entry & (QCOW2_COMPRESSED | QCOW2_ZERO)) && entry & QCOW2_COPIED && entry & QCOW2_OFFSET_MASK &&
	       q->l1[index] & QCOW2_COPIED;
}

/* A cluster of its own behind a zero flag. */
static bool is_preallocated(uint64_t entry)
{
	return !(entry & QCOW2_COMPRESSED) && entry & QCOW2_ZERO && entry & QCOW2_COPIED;
}

/* Which clusters of the file, and how many. The first guest cluster cannot be written in place. */
static int choose(struct qcow2 *q, const struct l2_table *t, uint64_t first, uint64_t last, struct allocation *a)
{
	uint64_t index = t->index, i = qcow2_l2_index(q, first), n = 0, want = last - first + 1;
	uint64_t entry = be64toh(t->entry[i]);

	a->reused = is_preallocated(entry);
	if (a->reused) {
		a->host = (entry & QCOW2_OFFSET_MASK) >> q->cluster_bits;
		while (n < want && be64toh(t->entry[i + n]) == entry + n * q->cluster_size)
			n++;
		a->count = n;
		a->fresh = false;
		return 0;
	}
	while (n < want && !is_in_place(q, index, be64toh(t->entry[i + n])) &&
	       !is_preallocated(be64toh(t->entry[i + n])))
		n++;
	return qcow2_alloc(q, n, &a->host, &a->count, &a->fresh);
}

enum step { STEP_GO = 0, STEP_PARKED = QCOW2_PARKED, STEP_AGAIN = 2 };

/* Finds clusters for the guest clusters from first to last at most. A step, or -errno. */
static int allocate(struct qcow2 *q, struct block_request *request, uint64_t first, uint64_t last, struct allocation *a)
{
	uint64_t index = qcow2_l1_index(q, first), table_end = (index + 1) << q->l2_bits;
	struct l2_table *t;
	int err;

	if (last >= table_end)
		last = table_end - 1;
	pthread_mutex_lock(&q->lock);
	err = qcow2_l2_get_writable(q, index, &t);
	if (!err)
		err = begin_change(q, request, first, &last);
	if (!err && is_in_place(q, index, be64toh(t->entry[qcow2_l2_index(q, first)])))
		err = STEP_AGAIN; /* somebody was faster */
	if (!err)
		err = choose(q, t, first, last, a);
	if (!err) {
		a->change.first = first;
		a->change.last = first + a->count - 1;
		a->change.waiters = NULL;
		a->change.next = q->changes;
		q->changes = &a->change;
	}
	pthread_mutex_unlock(&q->lock);
	return err;
}

/* The data is in the file: let the guest clusters point to it. */
static int link_clusters(struct qcow2 *q, const struct allocation *a)
{
	uint64_t first = a->change.first;
	struct l2_table *t;
	int err = qcow2_l2_get_writable(q, qcow2_l1_index(q, first), &t);

	if (err)
		return err;
	for (uint64_t k = 0; k < a->count; k++) {
		uint64_t *entry = &t->entry[qcow2_l2_index(q, first + k)], old = be64toh(*entry);

		*entry = htobe64((a->host + k) << q->cluster_bits | QCOW2_COPIED);
		if (!a->reused)
			qcow2_unlink(q, old);
	}
	t->dirty = true;
	return 0;
}

static int finish(struct qcow2 *q, struct allocation *a, int err)
{
	struct block_request *waiters;

	pthread_mutex_lock(&q->lock);
	if (!err)
		err = link_clusters(q, a);
	if (err && !a->reused)
		qcow2_unref(q, a->host, a->count); /* nothing points to them yet */
	waiters = end_change(q, &a->change);
	pthread_mutex_unlock(&q->lock);
	restart_waiters(q, waiters);
	return err;
}

/*
 * One side of what the guest does not write in its first or last cluster. *length becomes 0 where nothing need be
 * written.
 */
static int copy_side(struct qcow2 *q, const struct allocation *a, uint64_t offset, size_t *length, uint8_t **data)
{
	struct iovec iov;
	int err;

	*data = NULL;
	if (!*length)
		return 0;
	if (a->fresh && layer_is_zero(q->layer, offset, *length)) {
		*length = 0;
		return 0;
	}
	*data = malloc(*length);
	if (!*data)
		return -ENOMEM;
	iov = (struct iovec){ *data, *length };
	err = layer_read(q->layer, offset, &iov, 1, 0, *length);
	if (err) {
		free(*data);
		*data = NULL;
	}
	return err;
}

/* Writes the guest's data with what belongs around it. */
static int fill(struct qcow2 *q, const struct allocation *a, uint64_t offset, const struct iovec *iov, unsigned n,
		size_t skip, size_t length)
{
	uint64_t start = a->change.first << q->cluster_bits, end = (a->change.last + 1) << q->cluster_bits;
	size_t head = (size_t)(offset - start), tail = (size_t)(end - offset - length), gap = head;
	uint8_t *head_data, *tail_data = NULL;
	struct iovec *all = malloc((n + 2) * sizeof(*all));
	unsigned count = 0;
	int err = all ? 0 : -ENOMEM;

	if (!err)
		err = copy_side(q, a, start, &head, &head_data);
	if (err) {
		free(all);
		return err;
	}
	err = copy_side(q, a, offset + length, &tail, &tail_data);
	if (!err) {
		if (head)
			all[count++] = (struct iovec){ head_data, head };
		count += iov_slice(all + count, iov, n, skip, length);
		if (tail)
			all[count++] = (struct iovec){ tail_data, tail };
		err = file_writev(q->file, (a->host << q->cluster_bits) + gap - head, all, count, head + length + tail,
				  false);
	}
	free(head_data);
	free(tail_data);
	free(all);
	return err;
}

/* Part of a request that cannot be written in place. *done: how much was. */
static int write_allocating(struct qcow2 *q, struct block_request *request, uint64_t offset, const struct iovec *iov,
			    unsigned n, size_t skip, uint64_t length, uint64_t *done)
{
	struct allocation a;
	uint64_t end;
	int err = allocate(q, request, offset >> q->cluster_bits, (offset + length - 1) >> q->cluster_bits, &a);

	*done = 0;
	if (err == STEP_AGAIN)
		return 0;
	if (err)
		return err;
	end = (a.change.last + 1) << q->cluster_bits;
	length = min64(length, end - offset);
	err = finish(q, &a, fill(q, &a, offset, iov, n, skip, length));
	if (!err)
		*done = length;
	return err;
}

static int write_in_place(const struct extent *e, const struct iovec *iov, unsigned n, size_t skip)
{
	struct iovec *part = malloc(n * sizeof(*part));
	int err;

	if (!part)
		return -ENOMEM;
	n = iov_slice(part, iov, n, skip, e->length);
	err = file_writev(&e->layer->file, e->host, part, n, e->length, false);
	free(part);
	return err;
}

/* *progress: bytes of length that are written, to go on after having been parked. */
static int write_range(struct qcow2 *q, struct block_request *request, uint64_t offset, const struct iovec *iov,
		       unsigned n, uint64_t length, uint64_t *progress)
{
	while (*progress < length) {
		struct extent e;
		uint64_t at = offset + *progress, done;
		int err = atomic_load(&q->corrupt) ? -EIO : qcow2_map(q, at, length - *progress, true, &e);

		if (err)
			return err;
		if (e.kind == EXTENT_DATA && e.in_place) {
			err = write_in_place(&e, iov, n, *progress);
			done = e.length;
		} else {
			err = write_allocating(q, request, at, iov, n, *progress, length - *progress, &done);
		}
		if (err)
			return err;
		*progress += done;
	}
	return 0;
}

int qcow2_write(struct qcow2 *q, struct block_request *r)
{
	return write_range(q, r, r->offset, r->iov, r->iov_count, r->length, &r->progress);
}

/* --- zeros and discards --- */

static int write_zero_bytes(struct qcow2 *q, struct block_request *request, uint64_t offset, uint64_t length)
{
	uint64_t progress = 0;
	struct iovec iov = { calloc(1, length), length };
	int err;

	if (!iov.iov_base)
		return -ENOMEM;
	err = write_range(q, request, offset, &iov, 1, length, &progress);
	free(iov.iov_base);
	return err;
}

enum how {
	HOW_ZERO,       /* keep the space */
	HOW_ZERO_UNMAP, /* free it */
	HOW_DISCARD,
};

/* What becomes of an entry; the same one: nothing. */
static uint64_t changed_entry(const struct qcow2 *q, const struct l2_table *t, uint64_t entry, enum how how)
{
	bool backed = q->layer->backing != NULL;
	uint64_t blank = q->h.version >= 3 && backed ? QCOW2_ZERO : 0; /* reads as zeros, without space */

	if (!entry) /* what the backing file has stays visible after a discard: its contents are anybody's */
		return how == HOW_DISCARD ? 0 : blank;
	if (how == HOW_ZERO && q->h.version >= 3 && !(entry & QCOW2_COMPRESSED) && entry & QCOW2_COPIED &&
	    q->l1[t->index] & QCOW2_COPIED)
		return entry | QCOW2_ZERO;
	if (entry == QCOW2_ZERO)
		return entry;
	return blank;
}

/* Whole guest clusters; *done counts those that are dealt with. */
static int change_clusters(struct qcow2 *q, struct block_request *request, uint64_t first, uint64_t count, enum how how,
			   uint64_t *done)
{
	uint64_t index = qcow2_l1_index(q, first), last = min64(first + count, (index + 1) << q->l2_bits) - 1;
	struct l2_table *t;
	int err = 0;

	*done = last - first + 1;
	pthread_mutex_lock(&q->lock);
	/* Nothing there, and nothing shines through: no table is needed. */
	if (!(q->l1[index] & QCOW2_OFFSET_MASK) && !find_change(q, first, last) &&
	    (!q->layer->backing || how == HOW_DISCARD)) {
		pthread_mutex_unlock(&q->lock);
		return 0;
	}
	err = qcow2_l2_get_writable(q, index, &t);
	if (!err)
		err = begin_change(q, request, first, &last);
	for (uint64_t guest = first; !err && guest <= last; guest++) {
		uint64_t *entry = &t->entry[qcow2_l2_index(q, guest)], old = be64toh(*entry);
		uint64_t new = changed_entry(q, t, old, how);

		if (new == old)
			continue;
		*entry = htobe64(new);
		t->dirty = true;
		if ((old & QCOW2_COMPRESSED) || (old & QCOW2_OFFSET_MASK) != (new &QCOW2_OFFSET_MASK))
			qcow2_unlink(q, old);
	}
	pthread_mutex_unlock(&q->lock);
	*done = last - first + 1;
	return err;
}

/* Can whole clusters be made zeros by their entries alone? In version 2 only where no backing file shines through. */
static bool has_zero_entries(const struct qcow2 *q)
{
	return q->h.version >= 3 || !q->layer->backing;
}

/* The part of [offset, offset + length) up to the next cluster's start, or whole clusters. The last may be cut. */
static uint64_t piece_length(const struct qcow2 *q, uint64_t offset, uint64_t length, bool *whole)
{
	uint64_t inside = offset & (q->cluster_size - 1), clusters = length & ~(q->cluster_size - 1);

	*whole = false;
	if (inside)
		return min64(length, q->cluster_size - inside);
	if (offset + length == q->layer->size) {
		*whole = true;
		return length;
	}
	*whole = clusters != 0;
	return clusters ? clusters : length;
}

int qcow2_zero(struct qcow2 *q, struct block_request *r)
{
	enum how how = r->flags & BLOCK_REQ_UNMAP ? HOW_ZERO_UNMAP : HOW_ZERO;

	while (r->progress < r->length) {
		uint64_t offset = r->offset + r->progress, done;
		bool whole;
		uint64_t length = piece_length(q, offset, r->length - r->progress, &whole);
		int err = 0;

		if (atomic_load(&q->corrupt))
			return -EIO;
		if (whole && has_zero_entries(q)) {
			err = change_clusters(q, r, offset >> q->cluster_bits,
					      (length + q->cluster_size - 1) >> q->cluster_bits, how, &done);
			length = min64(length, done << q->cluster_bits);
		} else {
			length = min64(length, ZERO_PIECE);
			if (!layer_is_zero(q->layer, offset, length))
				err = write_zero_bytes(q, r, offset, length);
		}
		if (err)
			return err;
		r->progress += length;
	}
	return 0;
}

int qcow2_discard(struct qcow2 *q, struct block_request *r)
{
	while (r->progress < r->length) {
		uint64_t offset = r->offset + r->progress, done;
		bool whole;
		uint64_t length = piece_length(q, offset, r->length - r->progress, &whole);
		int err;

		if (atomic_load(&q->corrupt))
			return -EIO;
		/* Without an entry for zeros, old contents of the backing file would come back: keep what there is. */
		if (whole && has_zero_entries(q)) {
			err = change_clusters(q, r, offset >> q->cluster_bits,
					      (length + q->cluster_size - 1) >> q->cluster_bits, HOW_DISCARD, &done);
			if (err)
				return err;
			length = min64(length, done << q->cluster_bits);
		}
		r->progress += length;
	}
	return 0;
}
