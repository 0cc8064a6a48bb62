/* SPDX-License-Identifier: Apache-2.0 */
/* Virtqueues, both layouts, with a driver's side of their own: traffic in random order, event index, hostile rings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/ring.h"
#include "seeded.h"

#define RAM_SIZE (UINT64_C(2) << 20)
#define DESC 0x10000u
#define DRIVER 0x20000u
#define DEVICE 0x30000u
#define TABLES 0x40000u
#define DATA 0x100000u
#define SIZE 16u

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 0x80, USED = 0x8000 };

struct world {
	struct guest_ram ram;
	struct virtq vq;
	/* The driver's. */
	uint16_t avail, used;
	bool avail_wrap, used_wrap;
};

static void put16(struct world *w, uint64_t at, uint16_t v)
{
	assert_true(ram_write(&w->ram, at, &v, 2));
}

static uint16_t get16(struct world *w, uint64_t at)
{
	uint16_t v;

	assert_true(ram_read(&w->ram, at, &v, 2));
	return v;
}

static uint32_t get32(struct world *w, uint64_t at)
{
	uint32_t v;

	assert_true(ram_read(&w->ram, at, &v, 4));
	return v;
}

static void start(struct world *w, bool packed, bool event_idx, bool indirect, unsigned size)
{
	memset(w->ram.base, 0, RAM_SIZE);
	virtq_reset(&w->vq);
	w->vq.packed = packed;
	w->vq.event_idx = event_idx;
	w->vq.indirect = indirect;
	w->vq.size = (uint16_t)size;
	w->vq.descriptors = DESC;
	w->vq.driver = DRIVER;
	w->vq.device = DEVICE;
	w->avail = w->used = 0;
	w->avail_wrap = w->used_wrap = true;
	assert_int_equal(virtq_enable(&w->vq), 0);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_int_equal(ram_create(&w->ram, RAM_SIZE), 0);
	virtq_init(&w->vq, &w->ram, 256);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	virtq_fini(&w->vq);
	ram_destroy(&w->ram);
	free(w);
	return 0;
}

/* A descriptor of either layout; next is the split ring's, id the packed one's: the same two bytes differ in place. */
static void descriptor(struct world *w, uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		       uint16_t next_or_id)
{
	uint64_t at = table + i * 16;

	assert_true(ram_write(&w->ram, at, &addr, 8));
	assert_true(ram_write(&w->ram, at + 8, &len, 4));
	if (w->vq.packed) {
		put16(w, at + 12, next_or_id);
		put16(w, at + 14, flags);
	} else {
		put16(w, at + 12, flags);
		put16(w, at + 14, next_or_id);
	}
}

static void publish(struct world *w, uint16_t head)
{
	put16(w, DRIVER + 4 + w->avail % w->vq.size * 2, head);
	put16(w, DRIVER + 2, ++w->avail);
}

static uint16_t packed_flags(const struct world *w)
{
	return w->avail_wrap ? AVAIL : USED;
}

static void packed_advance(struct world *w, unsigned n)
{
	w->avail = (uint16_t)(w->avail + n);
	if (w->avail >= w->vq.size) {
		w->avail = (uint16_t)(w->avail - w->vq.size);
		w->avail_wrap = !w->avail_wrap;
	}
}

/* One buffer of one readable and one writable segment, as two descriptors or an indirect table. */
static void offer(struct world *w, unsigned slot, uint16_t id, uint32_t out, uint32_t in, bool indirect)
{
	uint64_t table = TABLES + slot * 0x100, data = DATA + slot * 0x1000;

	if (indirect) {
		descriptor(w, table, 0, data, out, NEXT, 1);
		descriptor(w, table, 1, data + 0x800, in, WRITE, 0);
	}
	if (!w->vq.packed) {
		if (indirect) {
			descriptor(w, DESC, slot * 2, table, 32, INDIRECT, 0);
		} else {
			descriptor(w, DESC, slot * 2, data, out, NEXT, (uint16_t)(slot * 2 + 1));
			descriptor(w, DESC, slot * 2 + 1, data + 0x800, in, WRITE, 0);
		}
		publish(w, (uint16_t)(slot * 2));
		return;
	}
	if (indirect) {
		descriptor(w, DESC, w->avail, table, 32, INDIRECT | packed_flags(w), id);
		packed_advance(w, 1);
	} else {
		unsigned first = w->avail;
		uint16_t first_flags = packed_flags(w);

		packed_advance(w, 1);
		descriptor(w, DESC, w->avail, data + 0x800, in, WRITE | packed_flags(w), id);
		packed_advance(w, 1);
		descriptor(w, DESC, first, data, out, NEXT | first_flags, id);
	}
}

/* What the device has used next: false: nothing. */
static bool collect(struct world *w, uint16_t *id, uint32_t *len, const uint8_t *descriptors)
{
	if (!w->vq.packed) {
		uint64_t at = DEVICE + 4 + w->used % w->vq.size * 8;

		if (get16(w, DEVICE + 2) == w->used)
			return false;
		*id = (uint16_t)(get32(w, at) / 2);
		*len = get32(w, at + 4);
		w->used++;
		return true;
	}
	uint16_t flags = get16(w, DESC + w->used * 16 + 14);

	if (!!(flags & AVAIL) != w->used_wrap || !!(flags & USED) != w->used_wrap)
		return false;
	*id = get16(w, DESC + w->used * 16 + 12);
	*len = get32(w, DESC + w->used * 16 + 8);
	w->used = (uint16_t)(w->used + descriptors[*id]);
	if (w->used >= w->vq.size) {
		w->used = (uint16_t)(w->used - w->vq.size);
		w->used_wrap = !w->used_wrap;
	}
	return true;
}

/* Buffers go out in any order, come back in any order, alone or several at once, and nothing is lost or doubled. */
static void traffic(struct world *w, bool packed, bool event_idx, unsigned size)
{
	struct fuzz z = fuzz_start(size + packed * 2 + event_idx);
	struct virtq_chain *held[SIZE / 2];
	unsigned held_count = 0, outstanding = 0;
	bool busy[SIZE / 2] = { false };
	uint32_t expect[SIZE / 2] = { 0 };
	uint8_t descriptors[SIZE / 2] = { 0 };
	unsigned slots = size / 2, done = 0;

	start(w, packed, event_idx, true, size);
	for (unsigned step = 0; step < 20000; step++) {
		unsigned slot = (unsigned)fuzz_below(&z, slots);
		struct virtq_chain *c;
		uint16_t id;
		uint32_t len;

		switch (fuzz_below(&z, 3)) {
		case 0:
			if (busy[slot])
				break;
			busy[slot] = true;
			outstanding++;
			bool indirect = fuzz_below(&z, 2);

			descriptors[slot] = indirect ? 1 : 2;
			memset(w->ram.base + DATA + slot * 0x1000, (int)slot + 1, 0x800);
			offer(w, slot, (uint16_t)slot, 16 + slot, 32 + slot, indirect);
			break;
		case 1:
			if (virtq_pop(&w->vq, &c) == 0)
				break;
			slot = (unsigned)(c->out_bytes - 16);
			assert_in_range(slot, 0, slots - 1);
			assert_int_equal(c->in_bytes, 32 + slot);
			uint8_t text[64], back[64];

			assert_int_equal(virtq_read(c, 0, text, sizeof(text)), 16 + slot);
			assert_int_equal(text[15], slot + 1);
			memset(back, 0x80 | (int)slot, sizeof(back));
			assert_int_equal(virtq_write(c, 0, back, sizeof(back)), 32 + slot);
			held[held_count++] = c;
			break;
		case 2: {
			unsigned n = held_count ? (unsigned)fuzz_below(&z, held_count) + 1 : 0;
			uint32_t written[SIZE];

			for (unsigned i = 0; i < n; i++) {
				unsigned pick = i + (unsigned)fuzz_below(&z, held_count - i);

				c = held[pick];
				held[pick] = held[i];
				held[i] = c;
				written[i] = (uint32_t)c->in_bytes;
				expect[c->out_bytes - 16] = written[i];
			}
			if (!n)
				break;
			virtq_push_many(&w->vq, held, written, n);
			memmove(held, held + n, (held_count - n) * sizeof(held[0]));
			held_count -= n;
			for (unsigned i = 0; i < n; i++) {
				assert_true(collect(w, &id, &len, descriptors));
				assert_true(id < slots && busy[id]);
				assert_int_equal(len, expect[id]);
				assert_int_equal(w->ram.base[DATA + id * 0x1000 + 0x800], 0x80 | id);
				busy[id] = false;
				outstanding--;
				done++;
			}
			assert_false(collect(w, &id, &len, descriptors));
			break;
		}
		}
	}
	assert_true(done > 2000);
	assert_string_equal(w->vq.error, "");
	while (held_count)
		virtq_drop(&w->vq, held[--held_count]);
}

static void test_traffic(void **state)
{
	traffic(*state, false, false, SIZE);
	traffic(*state, false, true, SIZE);
	traffic(*state, true, false, SIZE);
	traffic(*state, true, true, SIZE);
	traffic(*state, true, true, SIZE - 3); /* packed rings need no power of two */
}

static void push_one(struct world *w, unsigned slot)
{
	struct virtq_chain *c;

	offer(w, slot, (uint16_t)slot, 16, 16, true);
	assert_int_equal(virtq_pop(&w->vq, &c), 1);
	virtq_push(&w->vq, c, 1);
}

static void test_suppression_without_event_index(void **state)
{
	struct world *w = *state;

	for (unsigned packed = 0; packed < 2; packed++) {
		uint64_t wish = packed ? DRIVER + 2 : DRIVER, told = packed ? DEVICE + 2 : DEVICE;

		start(w, packed, false, true, SIZE);
		assert_false(virtq_interrupt_due(&w->vq)); /* nothing pushed */
		push_one(w, 0);
		assert_true(virtq_interrupt_due(&w->vq));
		assert_false(virtq_interrupt_due(&w->vq));
		put16(w, wish, 1);
		push_one(w, 1);
		assert_false(virtq_interrupt_due(&w->vq));
		virtq_kicks_off(&w->vq);
		assert_int_equal(get16(w, told), 1);
		assert_false(virtq_kicks_on(&w->vq));
		assert_int_equal(get16(w, told), 0);
		offer(w, 2, 2, 1, 1, true);
		assert_true(virtq_kicks_on(&w->vq)); /* look again */
	}
}

/* The interrupt comes when the used index passes the event, also where it wraps. */
static void test_event_index(void **state)
{
	struct world *w = *state;

	for (unsigned packed = 0; packed < 2; packed++) {
		start(w, packed, true, true, SIZE);
		if (packed)
			put16(w, DRIVER + 2, 2);
		push_one(w, 0);
		assert_true(virtq_interrupt_due(&w->vq)); /* the first is told in any case */
		for (unsigned i = 1; i < 100; i++) {
			unsigned event = i + 1; /* after the second push from here */

			if (packed)
				put16(w, DRIVER, (uint16_t)(event % SIZE | (event / SIZE % 2 ? 0 : 0x8000)));
			else
				put16(w, DRIVER + 4 + SIZE * 2, (uint16_t)event);
			push_one(w, i % (SIZE / 2));
			assert_false(virtq_interrupt_due(&w->vq));
			push_one(w, (i + 1) % (SIZE / 2));
			assert_true(virtq_interrupt_due(&w->vq));
			i++;
		}
		assert_false(virtq_kicks_on(&w->vq));
		if (packed)
			assert_int_equal(get16(w, DEVICE), w->vq.next_avail | (w->vq.avail_wrap ? 0x8000 : 0));
		else
			assert_int_equal(get16(w, DEVICE + 4 + SIZE * 8), w->vq.next_avail);
	}
}

static void refused(struct world *w, const char *why)
{
	struct virtq_chain *c;

	assert_true(virtq_pop(&w->vq, &c) < 0);
	if (!strstr(w->vq.error, why))
		fail_msg("\"%s\" is not about \"%s\"", w->vq.error, why);
	assert_true(virtq_pop(&w->vq, &c) < 0); /* and stays so */
	virtq_kicks_on(&w->vq);
}

static void test_hostile_split(void **state)
{
	struct world *w = *state;

	start(w, false, false, true, SIZE);
	put16(w, DRIVER + 2, SIZE + 1);
	refused(w, "jumped");
	start(w, false, false, true, SIZE);
	publish(w, SIZE);
	refused(w, "descriptor 16 of 16");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, DATA, 1, NEXT, 1);
	descriptor(w, DESC, 1, DATA, 1, NEXT, 0);
	publish(w, 0);
	refused(w, "loop");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, DATA, 1, NEXT, 0xffff);
	publish(w, 0);
	refused(w, "descriptor 65535");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, RAM_SIZE - 1, 2, 0, 0);
	publish(w, 0);
	refused(w, "not in memory");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, UINT64_MAX, UINT32_MAX, WRITE, 0);
	publish(w, 0);
	refused(w, "not in memory");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, DATA, 1, WRITE | NEXT, 1);
	descriptor(w, DESC, 1, DATA, 1, 0, 0);
	publish(w, 0);
	refused(w, "readable segment comes after");
	start(w, false, false, false, SIZE);
	descriptor(w, DESC, 0, TABLES, 16, INDIRECT, 0);
	publish(w, 0);
	refused(w, "not negotiated");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 16, INDIRECT, 0);
	descriptor(w, TABLES, 0, TABLES, 16, INDIRECT, 0);
	publish(w, 0);
	refused(w, "holds an indirect");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 24, INDIRECT, 0);
	publish(w, 0);
	refused(w, "24 bytes");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 0, INDIRECT, 0);
	publish(w, 0);
	refused(w, "0 bytes");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, RAM_SIZE, 16, INDIRECT, 0);
	publish(w, 0);
	refused(w, "not in memory");
	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 32, INDIRECT, 0);
	descriptor(w, TABLES, 0, DATA, 1, NEXT, 0);
	publish(w, 0);
	refused(w, "loop");
}

/* The same head again and again: more buffers than descriptors. */
static void test_hostile_reuse(void **state)
{
	struct world *w = *state;
	struct virtq_chain *c, *held[SIZE];
	unsigned n = 0;

	start(w, false, false, true, SIZE);
	descriptor(w, DESC, 0, DATA, 1, 0, 0);
	for (unsigned i = 0; i < SIZE; i++) {
		publish(w, 0);
		assert_int_equal(virtq_pop(&w->vq, &c), 1);
		held[n++] = c;
	}
	publish(w, 0);
	refused(w, "more buffers");
	while (n)
		virtq_drop(&w->vq, held[--n]);
}

static void test_hostile_packed(void **state)
{
	struct world *w = *state;

	start(w, true, false, true, SIZE);
	for (unsigned i = 0; i < SIZE; i++)
		descriptor(w, DESC, i, DATA, 1, NEXT | AVAIL, 0);
	refused(w, "loop");
	start(w, true, false, true, SIZE);
	descriptor(w, DESC, 0, RAM_SIZE, 1, AVAIL, 0);
	refused(w, "not in memory");
	start(w, true, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 16, AVAIL | INDIRECT | NEXT, 0);
	refused(w, "successor");
	start(w, true, false, true, SIZE);
	descriptor(w, DESC, 0, DATA, 16, AVAIL | NEXT, 0);
	descriptor(w, DESC, 1, TABLES, 16, AVAIL | INDIRECT, 0);
	refused(w, "middle");
	start(w, true, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 16, AVAIL | INDIRECT, 0);
	descriptor(w, TABLES, 0, TABLES, 16, INDIRECT, 0);
	refused(w, "holds an indirect");
	start(w, true, false, true, SIZE);
	descriptor(w, DESC, 0, TABLES, 0x10000, AVAIL | INDIRECT, 0);
	for (unsigned i = 0; i < 0x1000; i++)
		descriptor(w, TABLES, i, DATA, 1, 0, 0);
	refused(w, "more than 1024 segments");
}

static void test_bad_areas(void **state)
{
	struct world *w = *state;
	static const struct {
		bool packed;
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ false, 0, DESC, DRIVER, DEVICE },         { false, 24, DESC, DRIVER, DEVICE },
		{ false, 512, DESC, DRIVER, DEVICE },       { false, 16, DESC + 8, DRIVER, DEVICE },
		{ false, 16, DESC, DRIVER + 1, DEVICE },    { false, 16, DESC, DRIVER, DEVICE + 2 },
		{ false, 16, RAM_SIZE, DRIVER, DEVICE },    { false, 16, DESC, RAM_SIZE - 16, DEVICE },
		{ false, 16, DESC, DRIVER, RAM_SIZE - 64 }, { true, 16, DESC, DRIVER, RAM_SIZE },
		{ true, 300, DESC, DRIVER, DEVICE },        { true, 16, UINT64_MAX - 15, DRIVER, DEVICE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		virtq_reset(&w->vq);
		w->vq.packed = bad[i].packed;
		w->vq.size = bad[i].size;
		w->vq.descriptors = bad[i].desc;
		w->vq.driver = bad[i].driver;
		w->vq.device = bad[i].device;
		assert_int_equal(virtq_enable(&w->vq), -EINVAL);
		assert_true(w->vq.error[0]);
		assert_false(w->vq.enabled);
	}
}

/* Rings full of noise: refused or served, and never a look outside (a sanitizer's business). */
static void test_noise(void **state)
{
	struct world *w = *state;
	struct fuzz z = fuzz_start(77);
	unsigned broken = 0, served = 0;

	for (unsigned round = 0; round < fuzz_rounds(3000); round++) {
		struct virtq_chain *c;

		start(w, round & 1, round & 2, true, SIZE);
		for (unsigned i = 0; i < SIZE; i++) {
			uint64_t addr = fuzz_below(&z, 4) ? TABLES + fuzz_below(&z, 16) * 16 : fuzz_value(&z);
			uint32_t len = fuzz_below(&z, 4) ? (uint32_t)fuzz_below(&z, 8) * 16 : (uint32_t)fuzz_value(&z);

			descriptor(w, DESC, i, addr, len,
				   (uint16_t)(fuzz_below(&z, 8) | (fuzz_below(&z, 4) ? AVAIL : 0)),
				   (uint16_t)fuzz_below(&z, SIZE + 1));
			descriptor(w, TABLES, i, addr, len, (uint16_t)fuzz_below(&z, 8),
				   (uint16_t)fuzz_below(&z, SIZE));
			put16(w, DRIVER + 4 + i * 2, (uint16_t)fuzz_below(&z, SIZE + 1));
		}
		if (!(round & 1))
			put16(w, DRIVER + 2, (uint16_t)fuzz_below(&z, SIZE + 2));
		for (unsigned i = 0; i < 2 * SIZE; i++) {
			int r = virtq_pop(&w->vq, &c);

			broken += r < 0;
			if (r <= 0)
				break;
			served++;
			virtq_push(&w->vq, c, (uint32_t)c->in_bytes);
			virtq_interrupt_due(&w->vq);
		}
	}
	assert_true(broken > 100 && served > 100);
}

static void test_slices(void **state)
{
	char text[] = "abcdefghij";
	struct iovec from[] = { { text, 3 }, { text + 3, 4 }, { text + 7, 3 } }, to[3];
	size_t bytes;

	(void)state;
	assert_int_equal(virtq_slice(to, 3, from, 3, 2, 6, &bytes), 3);
	assert_int_equal(bytes, 6);
	assert_ptr_equal(to[0].iov_base, text + 2);
	assert_int_equal(to[0].iov_len, 1);
	assert_int_equal(to[2].iov_len, 1);
	assert_int_equal(virtq_slice(to, 1, from, 3, 0, 10, &bytes), 1);
	assert_int_equal(bytes, 3);
	assert_int_equal(virtq_slice(to, 3, from, 3, 10, 5, &bytes), 0);
	assert_int_equal(bytes, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_traffic),       TEST(test_suppression_without_event_index),
		TEST(test_event_index),   TEST(test_hostile_split),
		TEST(test_hostile_reuse), TEST(test_hostile_packed),
		TEST(test_bad_areas),     TEST(test_noise),
		TEST(test_slices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
