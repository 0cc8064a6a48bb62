/* SPDX-License-Identifier: Apache-2.0 */
/* The places in guest memory that the paravirtual MSRs name. Private to lib/x86/pv. */
#ifndef TZ_X86_PV_AREA_H
#define TZ_X86_PV_AREA_H

#include "mem/memslot.h"
#include "x86/cpu.h"

struct pv_area {
	uint8_t *hva;
	uint64_t gpa;
	unsigned size;
	const struct mem_slot *slot;
};

/* Looked up for each use, so that slots may change. False: not (all) in one writable slot; then nothing is written. */
static inline bool pv_area_find(struct x86_cpu *cpu, uint64_t gpa, unsigned size, struct pv_area *area)
{
	struct mem_hit hit;

	if (!mem_lookup(cpu->mem, GPA(gpa), &hit) || hit.left < size || (hit.slot->flags & MEM_SLOT_READONLY))
		return false;
	*area = (struct pv_area){ .hva = hit.hva, .gpa = gpa, .size = size, .slot = hit.slot };
	return true;
}

/* After each write. */
static inline void pv_area_written(const struct pv_area *area)
{
	mem_mark_dirty(area->slot, GPA(area->gpa), area->size);
}

/*
 * The version protocol: odd while the rest is being written. Stores become visible in program order (SDM 3A 8.2.2), and
 * guest_store*() keeps that order. The count goes on from what memory holds, also after a restore.
 */
static inline void pv_area_begin(const struct pv_area *area, unsigned version_offset)
{
	guest_store32(area->hva + version_offset, (guest_load32(area->hva + version_offset) + 1) | 1);
}

static inline void pv_area_end(const struct pv_area *area, unsigned version_offset)
{
	guest_store32(area->hva + version_offset, guest_load32(area->hva + version_offset) + 1);
	pv_area_written(area);
}

#endif
