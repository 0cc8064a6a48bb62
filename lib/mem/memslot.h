/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory slots: which guest physical addresses are backed by the client's
 * memory (KVM API 4.35 KVM_SET_USER_MEMORY_REGION), GPA -> HVA, and the dirty
 * log. The ground floor: knows no CPU, no ioctl.
 *
 * Concurrency. Readers (vCPU threads) take no lock: they follow `mem->map`, an
 * immutable sorted snapshot. A writer (holding `mem->lock`) publishes a new
 * snapshot and hands the old one back; the caller must make sure that no vCPU
 * still uses it (vm_sync_vcpus(), which also flushes their TLBs) before
 * mem_map_destroy().
 */
#ifndef TZ_MEM_MEMSLOT_H
#define TZ_MEM_MEMSLOT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/addr.h"

#define MEM_SLOTS_MAX 509 /* what KVM_CAP_NR_MEMSLOTS reports */

#define MEM_SLOT_LOG_DIRTY 1u /* KVM_MEM_LOG_DIRTY_PAGES */
#define MEM_SLOT_READONLY 2u  /* KVM_MEM_READONLY: reads go to memory, writes are MMIO */

struct mem_slot {
	uint32_t id; /* the client's slot number */
	uint32_t flags;
	gpa_t base;    /* page aligned */
	uint64_t size; /* bytes, page aligned, never 0 in a map */
	uint8_t *hva;
	_Atomic uint64_t *dirty; /* one bit a page, or NULL; owned by the slot across maps; set after each write */
};

struct mem_map {
	size_t count;
	_Atomic uint64_t *retired; /* a dropped slot's dirty log; the writer's alone, freed with the map */
	struct mem_slot slot[];    /* sorted by base, no overlaps */
};

struct mem {
	pthread_mutex_t lock;        /* writers */
	struct mem_map *_Atomic map; /* never NULL */
};

/* A hit: `hva` is where gpa lives; `left` bytes from gpa to the slot's end. */
struct mem_hit {
	uint8_t *hva;
	uint64_t left;
	const struct mem_slot *slot;
};

int mem_init(struct mem *mem);  /* 0 or -ENOMEM */
void mem_fini(struct mem *mem); /* no vCPU may be running */

/*
 * Create, change, move or (size 0) delete slot `id`. Errors as KVM's:
 * -EINVAL (alignment, wrap, bad flags, size change), -EEXIST (overlap), -ENOENT
 * is -EINVAL too (delete of nothing), -ENOMEM. On success *old is the map to
 * destroy once no vCPU uses it. Call with mem->lock held.
 */
int mem_set_slot(struct mem *mem, uint32_t id, uint32_t flags, gpa_t base, uint64_t size, uint8_t *hva,
		 struct mem_map **old);
void mem_map_destroy(struct mem_map *map);

/* Lock-free; compiled without vector registers, callable with live guest FPU state. False: not backed (MMIO). */
bool mem_lookup(const struct mem *mem, gpa_t gpa, struct mem_hit *hit);

/* Mark [gpa, gpa+len) dirty in a logging slot. Thread: any. */
void mem_mark_dirty(const struct mem_slot *slot, gpa_t gpa, uint64_t len);

/*
 * Physical copies for cold paths (tables, descriptors, dumps): split at slot
 * borders; unbacked reads give 0xff bytes. Return false if any byte was not backed.
 */
bool mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len);
bool mem_write(const struct mem *mem, gpa_t gpa, const void *buf, size_t len);

#endif
