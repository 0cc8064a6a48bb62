/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/memslot.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/compiler.h"

#define SLOT_FLAGS (MEM_SLOT_LOG_DIRTY | MEM_SLOT_READONLY)
#define SLOT_PAGES_MAX ((UINT64_C(1) << 31) - 1) /* KVM_MEM_MAX_NR_PAGES */

static struct mem_map *map_alloc(size_t count)
{
	struct mem_map *map = malloc(sizeof(*map) + count * sizeof(map->slot[0]));

	if (map) {
		map->count = count;
		map->retired = NULL;
	}
	return map;
}

void mem_map_destroy(struct mem_map *map)
{
	if (!map)
		return;
	free((void *)map->retired);
	free(map);
}

int mem_init(struct mem *mem)
{
	struct mem_map *map = map_alloc(0);

	if (!map)
		return -ENOMEM;
	pthread_mutex_init(&mem->lock, NULL);
	atomic_store_explicit(&mem->map, map, memory_order_relaxed);
	return 0;
}

void mem_fini(struct mem *mem)
{
	struct mem_map *map = atomic_exchange(&mem->map, NULL);

	if (!map)
		return;
	for (size_t i = 0; i < map->count; i++)
		free((void *)map->slot[i].dirty);
	mem_map_destroy(map);
	pthread_mutex_destroy(&mem->lock);
}

static _Atomic uint64_t *dirty_alloc(uint64_t size)
{
	return calloc((size / TZ_PAGE_SIZE + 63) / 64, sizeof(uint64_t));
}

static const struct mem_slot *map_find_id(const struct mem_map *map, uint32_t id)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->slot[i].id == id)
			return &map->slot[i];
	return NULL;
}

/* Does [base, base + size) touch a slot other than `id`? */
static bool map_overlaps(const struct mem_map *map, uint32_t id, uint64_t base, uint64_t size)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct mem_slot *s = &map->slot[i];

		if (s->id != id && base < s->base.v + s->size && s->base.v < base + size)
			return true;
	}
	return false;
}

/* A copy of `map` without slot `id` and, if `with` is not NULL, with it in its place. */
static struct mem_map *map_copy(const struct mem_map *map, uint32_t id, const struct mem_slot *with)
{
	struct mem_map *copy = map_alloc(map->count + 1);
	size_t n = 0;

	if (!copy)
		return NULL;
	for (size_t i = 0; i < map->count; i++) {
		const struct mem_slot *s = &map->slot[i];

		if (s->id == id)
			continue;
		if (with && with->base.v < s->base.v) {
			copy->slot[n++] = *with;
			with = NULL;
		}
		copy->slot[n++] = *s;
	}
	if (with)
		copy->slot[n++] = *with;
	copy->count = n;
	return copy;
}

/* What KVM refuses before it looks at the other slots (KVM API 4.35). */
static bool args_valid(uint32_t id, uint32_t flags, uint64_t base, uint64_t size, const uint8_t *hva)
{
	if (id >= MEM_SLOTS_MAX || (flags & ~SLOT_FLAGS))
		return false;
	if ((base | size | (uintptr_t)hva) & TZ_PAGE_MASK)
		return false;
	if (size / TZ_PAGE_SIZE > SLOT_PAGES_MAX)
		return false;
	return base + size >= base && (uintptr_t)hva + size >= (uintptr_t)hva;
}

/* Publish a map with slot `id` replaced by `with` (or without it); `retired`: the log that nobody needs any more. */
static int map_publish(struct mem *mem, uint32_t id, const struct mem_slot *with, _Atomic uint64_t *retired,
		       struct mem_map **old)
{
	struct mem_map *map = atomic_load_explicit(&mem->map, memory_order_relaxed);
	struct mem_map *copy = map_copy(map, id, with);

	if (!copy)
		return -ENOMEM;
	/* No reader looks at `retired`, so the old map may still be written to there. */
	map->retired = retired;
	atomic_store_explicit(&mem->map, copy, memory_order_release);
	*old = map;
	return 0;
}

int mem_set_slot(struct mem *mem, uint32_t id, uint32_t flags, gpa_t base, uint64_t size, uint8_t *hva,
		 struct mem_map **old)
{
	const struct mem_map *map = atomic_load_explicit(&mem->map, memory_order_relaxed);
	const struct mem_slot *was = map_find_id(map, id);
	struct mem_slot slot = { .id = id, .flags = flags, .base = base, .size = size, .hva = hva };
	_Atomic uint64_t *retired = NULL;
	int err;

	*old = NULL;
	if (!args_valid(id, flags, base.v, size, hva))
		return -EINVAL;
	if (!size)
		return was ? map_publish(mem, id, NULL, was->dirty, old) : -EINVAL;
	if (was && (was->size != size || was->hva != hva || ((was->flags ^ flags) & MEM_SLOT_READONLY)))
		return -EINVAL;
	if (was && was->base.v == base.v && was->flags == flags)
		return 0;
	if (map_overlaps(map, id, base.v, size))
		return -EEXIST;

	if (was && (flags & MEM_SLOT_LOG_DIRTY))
		slot.dirty = was->dirty;
	else if (was)
		retired = was->dirty;
	bool fresh = (flags & MEM_SLOT_LOG_DIRTY) && !slot.dirty;
	if (fresh) {
		slot.dirty = dirty_alloc(size);
		if (!slot.dirty)
			return -ENOMEM;
	}
	err = map_publish(mem, id, &slot, retired, old);
	if (err && fresh)
		free((void *)slot.dirty);
	return err;
}

bool mem_lookup(const struct mem *mem, gpa_t gpa, struct mem_hit *hit)
{
	const struct mem_map *map = atomic_load_explicit(&mem->map, memory_order_acquire);
	const struct mem_slot *s = map->slot;
	size_t n = map->count;
	uint64_t offset;

	/* The last slot that does not begin above gpa. */
	while (n > 1) {
		size_t half = n / 2;

		if (s[half].base.v <= gpa.v)
			s += half;
		n -= half;
	}
	if (!n)
		return false;
	offset = gpa.v - s->base.v;
	if (offset >= s->size)
		return false;
	hit->hva = s->hva + offset;
	hit->left = s->size - offset;
	hit->slot = s;
	return true;
}

void mem_mark_dirty(const struct mem_slot *slot, gpa_t gpa, uint64_t len)
{
	uint64_t first, last;

	if (!slot->dirty || !len)
		return;
	first = (gpa.v - slot->base.v) >> TZ_PAGE_SHIFT;
	last = (gpa.v + len - 1 - slot->base.v) >> TZ_PAGE_SHIFT;
	for (uint64_t page = first; page <= last; page++) {
		_Atomic uint64_t *word = &slot->dirty[page / 64];

		/*
		 * Always the locked update, even where the bit seems set: it orders the write to the page before
		 * the look at the bit, which a harvester may be clearing right now.
		 */
		atomic_fetch_or_explicit(word, BIT64(page % 64), memory_order_seq_cst);
	}
}

bool mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len)
{
	uint8_t *to = buf;
	bool backed = true;

	while (len) {
		size_t n = TZ_PAGE_SIZE - (gpa.v & TZ_PAGE_MASK);
		struct mem_hit hit;

		if (mem_lookup(mem, gpa, &hit)) {
			n = hit.left < len ? hit.left : len;
			tz_copy(to, hit.hva, n);
		} else {
			n = n < len ? n : len;
			for (size_t i = 0; i < n; i++)
				guest_store8(to + i, 0xff); /* which the compiler does not make a memset() of */
			backed = false;
		}
		to += n;
		gpa.v += n;
		len -= n;
	}
	return backed;
}

bool mem_write(const struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
	const uint8_t *from = buf;
	bool backed = true;

	while (len) {
		size_t n = TZ_PAGE_SIZE - (gpa.v & TZ_PAGE_MASK);
		struct mem_hit hit;

		if (mem_lookup(mem, gpa, &hit) && !(hit.slot->flags & MEM_SLOT_READONLY)) {
			n = hit.left < len ? hit.left : len;
			tz_copy(hit.hva, from, n);
			mem_mark_dirty(hit.slot, gpa, n);
		} else {
			n = n < len ? n : len;
			backed = false;
		}
		from += n;
		gpa.v += n;
		len -= n;
	}
	return backed;
}
