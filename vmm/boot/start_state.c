/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start states: flat segments with the selectors of Linux's boot protocol, which PVH and Multiboot do not
 * mind, and an identity map of the first 4 GiB in 2 MiB pages (any long-mode CPU has these).
 */
#include <errno.h>
#include <string.h>

#include "base/compiler.h"
#include "boot/loader.h"

#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18

/* Segment descriptors (SDM 3A 3.4.5): base 0, limit 4 GiB, present, accessed. */
#define DESC_CODE32 UINT64_C(0x00cf9b000000ffff)
#define DESC_CODE64 UINT64_C(0x00af9b000000ffff)
#define DESC_DATA UINT64_C(0x00cf93000000ffff)

/* Page-table entries (SDM 3A 4.5.4). */
#define PTE_TABLE UINT64_C(0x3) /* present, writable */
#define PDE_2M UINT64_C(0x83)   /* and a page */
#define ENTRIES 512
#define PAGE_BYTES 0x1000
#define MAPPED_GIB 4
#define STACK_BYTES 0x1000

static int put_gdt(struct loader *ld, uint64_t code)
{
	const uint64_t gdt[] = { 0, 0, code, DESC_DATA };
	struct boot_entry *entry = ld->entry;

	entry->gdt = loader_put_low(ld, gdt, sizeof(gdt));
	if (!entry->gdt)
		return -EINVAL;
	entry->gdt_limit = sizeof(gdt) - 1;
	entry->cs = SELECTOR_CODE;
	entry->ds = SELECTOR_DATA;
	return 0;
}

int loader_enter_prot32(struct loader *ld, uint32_t eip)
{
	ld->entry->mode = BOOT_PROT32;
	ld->entry->rip = eip;
	return put_gdt(ld, DESC_CODE32);
}

/* PML4, PDPT and a page directory per GiB, in this order. */
static uint64_t put_page_tables(struct loader *ld)
{
	uint64_t at = loader_alloc_low(ld, (2 + MAPPED_GIB) * PAGE_BYTES);
	uint8_t *table = at ? ram_ptr(ld->req->ram, at, (2 + MAPPED_GIB) * PAGE_BYTES) : NULL;

	if (!at)
		return 0;
	guest_store64(table, (at + PAGE_BYTES) | PTE_TABLE);
	for (unsigned i = 0; i < MAPPED_GIB; i++)
		guest_store64(table + PAGE_BYTES + i * 8, (at + (2 + i) * PAGE_BYTES) | PTE_TABLE);
	for (unsigned i = 0; i < MAPPED_GIB * ENTRIES; i++)
		guest_store64(table + 2 * PAGE_BYTES + i * 8, ((uint64_t)i << 21) | PDE_2M);
	return at;
}

int loader_enter_long64(struct loader *ld, uint64_t rip)
{
	struct boot_entry *entry = ld->entry;
	uint64_t stack;

	entry->mode = BOOT_LONG64;
	entry->rip = rip;
	entry->cr3 = put_page_tables(ld);
	stack = entry->cr3 ? loader_alloc_low(ld, STACK_BYTES) : 0;
	if (!stack)
		return -EINVAL;
	entry->rsp = stack + STACK_BYTES;
	return put_gdt(ld, DESC_CODE64);
}
