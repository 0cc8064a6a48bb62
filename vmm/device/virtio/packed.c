/* SPDX-License-Identifier: Apache-2.0 */
/* The packed ring (virtio 1.2, 2.8): one ring of descriptors that both sides write, with a wrap counter each. */
#include <errno.h>
#include <stdatomic.h>

#include "base/compiler.h"
#include "device/virtio/ring_parts.h"

#define DESC_AVAIL 0x0080u
#define DESC_USED 0x8000u

/* A descriptor (2.8.14) */
#define D_ADDR 0
#define D_LEN 8
#define D_ID 12
#define D_FLAGS 14

/* Event suppression structures (2.8.14) */
#define EVENT_SIZE 4
#define E_OFFSET 0
#define E_FLAGS 2
#define E_WRAP 0x8000u
#define EVENT_ENABLE 0
#define EVENT_DISABLE 1
#define EVENT_DESC 2

static void packed_areas(const struct virtq *vq, uint64_t bytes[3], unsigned align[3])
{
	bytes[0] = (uint64_t)vq->size * DESC_SIZE;
	bytes[1] = bytes[2] = EVENT_SIZE;
	align[0] = 16;
	align[1] = align[2] = 4;
}

static uint8_t *descriptor(const struct virtq *vq, unsigned index)
{
	return vq->descriptor_area + (size_t)index * DESC_SIZE;
}

static bool packed_empty(struct virtq *vq)
{
	uint16_t flags = guest_load16(descriptor(vq, vq->next_avail) + D_FLAGS);
	bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;

	atomic_thread_fence(memory_order_acquire);
	return avail != vq->avail_wrap || used == vq->avail_wrap;
}

static struct segment load_descriptor(const uint8_t *d)
{
	return (struct segment){ guest_load64(d + D_ADDR), guest_load32(d + D_LEN), guest_load16(d + D_FLAGS) };
}

static int indirect(struct virtq *vq, struct virtq_chain *c, const struct segment *s)
{
	unsigned entries;
	const uint8_t *table = virtq_indirect_table(vq, s, &entries);
	int err = table ? 0 : -EINVAL;

	for (unsigned i = 0; i < entries && !err; i++) {
		struct segment part = load_descriptor(table + (size_t)i * DESC_SIZE);

		if (part.flags & DESC_INDIRECT)
			return virtq_break(vq, "an indirect table holds an indirect descriptor");
		err = virtq_add_segment(vq, c, &part);
	}
	return err;
}

static void advance(const struct virtq *vq, uint16_t *index, bool *wrap, unsigned n)
{
	*index = (uint16_t)(*index + n);
	if (*index >= vq->size) {
		*index = (uint16_t)(*index - vq->size);
		*wrap = !*wrap;
	}
}

static int packed_pop(struct virtq *vq, struct virtq_chain *c)
{
	unsigned index = vq->next_avail, n = 0;
	struct segment s;
	int err;

	do {
		const uint8_t *d = descriptor(vq, index);

		if (n == vq->size)
			return virtq_break(vq, "a chain of descriptors has a loop");
		s = load_descriptor(d);
		c->id = guest_load16(d + D_ID); /* the last one's counts (2.8.6) */
		if (s.flags & DESC_INDIRECT)
			err = n ? virtq_break(vq, "an indirect descriptor is in the middle of a chain")
				: indirect(vq, c, &s);
		else
			err = virtq_add_segment(vq, c, &s);
		if (err)
			return err;
		n++;
		index = index + 1 == vq->size ? 0 : index + 1;
	} while (s.flags & DESC_NEXT);
	c->descriptors = (uint16_t)n;
	advance(vq, &vq->next_avail, &vq->avail_wrap, n);
	return 0;
}

static uint16_t used_flags(bool wrap, uint32_t written)
{
	return (uint16_t)((wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0));
}

/* The first one's flags are stored last: with them the driver sees them all. */
static void packed_push(struct virtq *vq, struct virtq_chain *const *chain, const uint32_t *written, unsigned count)
{
	uint8_t *first = descriptor(vq, vq->next_used);
	uint16_t first_flags = used_flags(vq->used_wrap, written[0]);

	for (unsigned i = 0; i < count; i++) {
		uint8_t *d = descriptor(vq, vq->next_used);

		guest_store32(d + D_LEN, written[i]);
		guest_store16(d + D_ID, chain[i]->id);
		if (i) {
			atomic_thread_fence(memory_order_release);
			guest_store16(d + D_FLAGS, used_flags(vq->used_wrap, written[i]));
		}
		advance(vq, &vq->next_used, &vq->used_wrap, chain[i]->descriptors);
		/* The event index counts descriptors, not buffers. */
		vq->pushed = (uint16_t)(vq->pushed + chain[i]->descriptors - 1);
	}
	atomic_thread_fence(memory_order_release);
	guest_store16(first + D_FLAGS, first_flags);
}

static bool packed_interrupt_due(struct virtq *vq, uint16_t pushed)
{
	uint16_t offset = guest_load16(vq->driver_area + E_OFFSET), flags = guest_load16(vq->driver_area + E_FLAGS);
	uint16_t event = offset & (uint16_t)~E_WRAP;

	if ((flags & 3) == EVENT_DISABLE)
		return false;
	if ((flags & 3) != EVENT_DESC || !vq->event_idx)
		return true;
	if (!!(offset & E_WRAP) != vq->used_wrap)
		event = (uint16_t)(event - vq->size);
	return virtq_passed(event, vq->next_used, (uint16_t)(vq->next_used - pushed));
}

static void packed_kicks(struct virtq *vq, bool on)
{
	uint8_t *event = vq->device_area;

	if (!on) {
		guest_store16(event + E_FLAGS, EVENT_DISABLE);
	} else if (!vq->event_idx) {
		guest_store16(event + E_FLAGS, EVENT_ENABLE);
	} else {
		guest_store16(event + E_OFFSET, (uint16_t)(vq->next_avail | (vq->avail_wrap ? E_WRAP : 0)));
		atomic_thread_fence(memory_order_release);
		guest_store16(event + E_FLAGS, EVENT_DESC);
	}
}

const struct virtq_layout virtq_packed = {
	.areas = packed_areas,
	.empty = packed_empty,
	.pop = packed_pop,
	.push = packed_push,
	.interrupt_due = packed_interrupt_due,
	.kicks = packed_kicks,
};
