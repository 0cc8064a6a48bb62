/* SPDX-License-Identifier: Apache-2.0 */
#include "device/virtio/ring.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/ring_parts.h"

#define IOV_FIRST 8 /* room for this many segments to begin with */

static const struct virtq_layout *layout(const struct virtq *vq)
{
	return vq->packed ? &virtq_packed : &virtq_split;
}

int virtq_break(struct virtq *vq, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(vq->error, sizeof(vq->error), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

void virtq_init(struct virtq *vq, const struct guest_ram *ram, uint16_t size_max)
{
	memset(vq, 0, sizeof(*vq));
	pthread_mutex_init(&vq->lock, NULL);
	vq->ram = ram;
	vq->size = vq->size_max = size_max;
}

static void free_pool(struct virtq *vq)
{
	while (vq->pool) {
		struct virtq_chain *next = vq->pool->next;

		free(vq->pool->iov);
		free(vq->pool);
		vq->pool = next;
	}
}

void virtq_fini(struct virtq *vq)
{
	free_pool(vq);
	pthread_mutex_destroy(&vq->lock);
}

void virtq_reset(struct virtq *vq)
{
	vq->size = vq->size_max;
	vq->descriptors = vq->driver = vq->device = 0;
	vq->packed = vq->event_idx = vq->indirect = false;
	vq->enabled = false;
	vq->in_flight = 0;
	vq->error[0] = '\0';
}

static int map_areas(struct virtq *vq)
{
	const uint64_t gpa[3] = { vq->descriptors, vq->driver, vq->device };
	uint8_t **const area[3] = { &vq->descriptor_area, &vq->driver_area, &vq->device_area };
	uint64_t bytes[3];
	unsigned align[3];

	layout(vq)->areas(vq, bytes, align);
	for (unsigned i = 0; i < 3; i++) {
		if (gpa[i] % align[i])
			return virtq_break(vq, "its ring at %#llx is not aligned", (unsigned long long)gpa[i]);
		*area[i] = ram_ptr(vq->ram, gpa[i], bytes[i]);
		if (!*area[i])
			return virtq_break(vq, "its ring at %#llx is not in memory", (unsigned long long)gpa[i]);
	}
	return 0;
}

int virtq_enable(struct virtq *vq)
{
	int err;

	vq->error[0] = '\0';
	if (!vq->size || vq->size > vq->size_max || (!vq->packed && (vq->size & (vq->size - 1))))
		return virtq_break(vq, "%u is no legal size", vq->size);
	err = map_areas(vq);
	if (err)
		return err;
	vq->next_avail = vq->next_used = 0;
	vq->avail_wrap = vq->used_wrap = true; /* 2.8.1 */
	vq->pushed = 0;
	vq->interrupt_always = true;
	vq->in_flight = 0;
	vq->kicks_off = false;
	vq->enabled = true;
	return 0;
}

/* ---- buffers ---- */

struct virtq_chain *virtq_new_chain(struct virtq *vq)
{
	struct virtq_chain *c = vq->pool;

	if (c) {
		vq->pool = c->next;
	} else {
		c = calloc(1, sizeof(*c));
		if (!c)
			return NULL;
	}
	c->next = NULL;
	c->out_count = c->in_count = 0;
	c->out_bytes = c->in_bytes = 0;
	c->descriptors = 0;
	return c;
}

void virtq_free_chain(struct virtq *vq, struct virtq_chain *c)
{
	c->next = vq->pool;
	vq->pool = c;
}

static int grow(struct virtq_chain *c)
{
	unsigned capacity = c->capacity ? c->capacity * 2 : IOV_FIRST;
	struct iovec *iov = realloc(c->iov, capacity * sizeof(*iov));

	if (!iov)
		return -ENOMEM;
	c->iov = iov;
	c->capacity = capacity;
	return 0;
}

int virtq_add_segment(struct virtq *vq, struct virtq_chain *c, const struct segment *s)
{
	unsigned n = c->out_count + c->in_count;
	void *p = ram_ptr(vq->ram, s->addr, s->len);

	if (!p)
		return virtq_break(vq, "a buffer of %u bytes at %#llx is not in memory", s->len,
				   (unsigned long long)s->addr);
	if (!(s->flags & DESC_WRITE) && c->in_count)
		return virtq_break(vq, "a readable segment comes after a writable one");
	if (!s->len)
		return 0;
	if (n == VIRTQ_SEGMENTS_MAX)
		return virtq_break(vq, "a buffer has more than %u segments", VIRTQ_SEGMENTS_MAX);
	if (c->out_bytes + c->in_bytes + s->len > VIRTQ_BYTES_MAX)
		return virtq_break(vq, "a buffer is longer than 4 GiB");
	if (n == c->capacity && grow(c))
		return -ENOMEM;
	c->iov[n] = (struct iovec){ p, s->len };
	if (s->flags & DESC_WRITE) {
		c->in_count++;
		c->in_bytes += s->len;
	} else {
		c->out_count++;
		c->out_bytes += s->len;
	}
	return 0;
}

const uint8_t *virtq_indirect_table(struct virtq *vq, const struct segment *s, unsigned *entries)
{
	const uint8_t *table = NULL;

	*entries = s->len / DESC_SIZE;
	if (!vq->indirect)
		virtq_break(vq, "it uses an indirect descriptor, which was not negotiated");
	else if (s->flags & DESC_NEXT)
		virtq_break(vq, "an indirect descriptor has a successor");
	else if (!s->len || s->len % DESC_SIZE)
		virtq_break(vq, "an indirect table is %u bytes long", s->len);
	else if (!(table = ram_ptr(vq->ram, s->addr, s->len)))
		virtq_break(vq, "an indirect table at %#llx is not in memory", (unsigned long long)s->addr);
	return table;
}

bool virtq_empty(struct virtq *vq)
{
	return layout(vq)->empty(vq);
}

int virtq_pop(struct virtq *vq, struct virtq_chain **chain)
{
	struct virtq_chain *c;
	int r;

	if (vq->error[0])
		return -EINVAL;
	if (layout(vq)->empty(vq))
		return vq->error[0] ? -EINVAL : 0;
	/* Honest drivers have no more buffers outstanding than descriptors. */
	if (vq->in_flight == vq->size)
		return virtq_break(vq, "it makes more buffers available than it has descriptors");
	c = virtq_new_chain(vq);
	if (!c) {
		virtq_break(vq, "there is no memory to serve it");
		return -ENOMEM;
	}
	r = layout(vq)->pop(vq, c);
	if (r < 0) {
		if (!vq->error[0])
			virtq_break(vq, "there is no memory to serve it");
		virtq_free_chain(vq, c);
		return r;
	}
	vq->in_flight++;
	*chain = c;
	return 1;
}

void virtq_push_many(struct virtq *vq, struct virtq_chain *const *chain, const uint32_t *written, unsigned count)
{
	layout(vq)->push(vq, chain, written, count);
	vq->pushed = (uint16_t)(vq->pushed + count);
	vq->in_flight -= count;
	for (unsigned i = 0; i < count; i++)
		virtq_free_chain(vq, chain[i]);
}

void virtq_push(struct virtq *vq, struct virtq_chain *chain, uint32_t written)
{
	virtq_push_many(vq, &chain, &written, 1);
}

void virtq_drop(struct virtq *vq, struct virtq_chain *chain)
{
	virtq_free_chain(vq, chain);
}

/* ---- interrupts and kicks ---- */

bool virtq_interrupt_due(struct virtq *vq)
{
	uint16_t pushed = vq->pushed;
	bool due;

	if (!pushed)
		return false;
	vq->pushed = 0;
	/* What was pushed is visible before the driver's wish is read; it does the same the other way round. */
	atomic_thread_fence(memory_order_seq_cst);
	due = layout(vq)->interrupt_due(vq, pushed);
	due |= vq->interrupt_always && vq->event_idx;
	vq->interrupt_always = false;
	return due;
}

void virtq_kicks_off(struct virtq *vq)
{
	if (!vq->kicks_off)
		layout(vq)->kicks(vq, false);
	vq->kicks_off = true;
}

bool virtq_kicks_on(struct virtq *vq)
{
	layout(vq)->kicks(vq, true);
	vq->kicks_off = false;
	atomic_thread_fence(memory_order_seq_cst);
	return !layout(vq)->empty(vq);
}

/* ---- bytes ---- */

unsigned virtq_slice(struct iovec *to, unsigned max, const struct iovec *from, unsigned count, size_t offset, size_t n,
		     size_t *bytes)
{
	size_t total = 0;
	unsigned made = 0;

	for (unsigned i = 0; i < count && n && made < max; i++) {
		size_t len = from[i].iov_len;

		if (offset >= len) {
			offset -= len;
			continue;
		}
		len -= offset;
		if (len > n)
			len = n;
		to[made++] = (struct iovec){ (uint8_t *)from[i].iov_base + offset, len };
		total += len;
		n -= len;
		offset = 0;
	}
	if (bytes)
		*bytes = total;
	return made;
}

static size_t copy(const struct iovec *iov, unsigned count, size_t offset, void *data, size_t n, bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < n; i++) {
		size_t len = iov[i].iov_len;
		uint8_t *p = iov[i].iov_base;

		if (offset >= len) {
			offset -= len;
			continue;
		}
		len -= offset;
		if (len > n - done)
			len = n - done;
		if (to_guest)
			memcpy(p + offset, (const uint8_t *)data + done, len);
		else
			memcpy((uint8_t *)data + done, p + offset, len);
		done += len;
		offset = 0;
	}
	return done;
}

size_t virtq_read(const struct virtq_chain *c, size_t offset, void *data, size_t n)
{
	return copy(virtq_out(c), c->out_count, offset, data, n, false);
}

size_t virtq_write(const struct virtq_chain *c, size_t offset, const void *data, size_t n)
{
	return copy(virtq_in(c), c->in_count, offset, (void *)(uintptr_t)data, n, true);
}
