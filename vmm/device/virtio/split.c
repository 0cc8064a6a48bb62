/* SPDX-License-Identifier: Apache-2.0 */
/* The split ring (virtio 1.2, 2.7): a table of descriptors, and two rings of indices into it. */
#include <errno.h>
#include <stdatomic.h>

#include "base/compiler.h"
#include "device/virtio/ring_parts.h"

/* Both rings: flags, index, entries, and behind them the event index (2.7.6, 2.7.8). */
#define RING_FLAGS 0
#define RING_INDEX 2
#define RING_ENTRIES 4
#define AVAIL_ENTRY 2
#define USED_ENTRY 8
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

static void split_areas(const struct virtq *vq, uint64_t bytes[3], unsigned align[3])
{
	bytes[0] = (uint64_t)vq->size * DESC_SIZE;
	bytes[1] = RING_ENTRIES + (uint64_t)vq->size * AVAIL_ENTRY + 2;
	bytes[2] = RING_ENTRIES + (uint64_t)vq->size * USED_ENTRY + 2;
	align[0] = 16;
	align[1] = 2;
	align[2] = 4;
}

/* Everything that the driver wrote before the index is visible after it was read: loads stay in order on x86. */
static uint16_t avail_index(const struct virtq *vq)
{
	uint16_t index = guest_load16(vq->driver_area + RING_INDEX);

	atomic_thread_fence(memory_order_acquire);
	return index;
}

static bool split_empty(struct virtq *vq)
{
	uint16_t waiting = (uint16_t)(avail_index(vq) - vq->next_avail);

	if (waiting > vq->size)
		virtq_break(vq, "its available index jumped by %u", waiting);
	return !waiting || waiting > vq->size;
}

static struct segment load_descriptor(const uint8_t *d, uint16_t *next)
{
	struct segment s = { guest_load64(d), guest_load32(d + 8), guest_load16(d + 12) };

	*next = guest_load16(d + 14);
	return s;
}

static int walk(struct virtq *vq, struct virtq_chain *c, uint16_t index)
{
	const uint8_t *table = vq->descriptor_area;
	unsigned entries = vq->size, left = vq->size;
	bool indirect = false;

	for (;;) {
		struct segment s;
		int err;

		if (index >= entries)
			return virtq_break(vq, "descriptor %u of %u", index, entries);
		if (!left--)
			return virtq_break(vq, "a chain of descriptors has a loop");
		s = load_descriptor(table + (size_t)index * DESC_SIZE, &index);
		if (s.flags & DESC_INDIRECT) {
			if (indirect)
				return virtq_break(vq, "an indirect table holds an indirect descriptor");
			table = virtq_indirect_table(vq, &s, &entries);
			if (!table)
				return -EINVAL;
			indirect = true;
			left = entries;
			index = 0;
			continue;
		}
		err = virtq_add_segment(vq, c, &s);
		if (err || !(s.flags & DESC_NEXT))
			return err;
	}
}

static int split_pop(struct virtq *vq, struct virtq_chain *c)
{
	const uint8_t *entry = vq->driver_area + RING_ENTRIES + (vq->next_avail & (vq->size - 1)) * AVAIL_ENTRY;

	c->id = guest_load16(entry);
	vq->next_avail++;
	return walk(vq, c, c->id);
}

static void split_push(struct virtq *vq, struct virtq_chain *const *chain, const uint32_t *written, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint8_t *entry =
			vq->device_area + RING_ENTRIES + ((vq->next_used + i) & (vq->size - 1u)) * (size_t)USED_ENTRY;

		guest_store32(entry, chain[i]->id);
		guest_store32(entry + 4, written[i]);
	}
	vq->next_used = (uint16_t)(vq->next_used + count);
	atomic_thread_fence(memory_order_release);
	guest_store16(vq->device_area + RING_INDEX, vq->next_used);
}

static bool split_interrupt_due(struct virtq *vq, uint16_t pushed)
{
	const uint8_t *avail = vq->driver_area;

	if (!vq->event_idx)
		return !(guest_load16(avail + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	return virtq_passed(guest_load16(avail + RING_ENTRIES + vq->size * AVAIL_ENTRY), vq->next_used,
			    (uint16_t)(vq->next_used - pushed));
}

static void split_kicks(struct virtq *vq, bool on)
{
	uint8_t *used = vq->device_area;

	if (!vq->event_idx)
		guest_store16(used + RING_FLAGS, on ? 0 : USED_NO_NOTIFY);
	else if (on)
		guest_store16(used + RING_ENTRIES + vq->size * USED_ENTRY, vq->next_avail);
}

const struct virtq_layout virtq_split = {
	.areas = split_areas,
	.empty = split_empty,
	.pop = split_pop,
	.push = split_push,
	.interrupt_due = split_interrupt_due,
	.kicks = split_kicks,
};
