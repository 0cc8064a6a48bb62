/* SPDX-License-Identifier: Apache-2.0 */
#include "paging.h"

#define POOL_PAGES 256
static u64 pool[POOL_PAGES][512] __attribute__((aligned(4096)));
static unsigned pool_used;

void *page_alloc(void)
{
	if (pool_used == POOL_PAGES) {
		print("out of pages\n");
		guest_exit(62);
	}
	return pool[pool_used++];
}

volatile u64 *pte_at(u64 *root, u64 va, unsigned level)
{
	volatile u64 *entry = &root[va >> 39 & 511];

	for (unsigned at = 4; at > level; at--) {
		if (!(*entry & PTE_P))
			*entry = (u64)page_alloc() | PTE_ALL;
		entry = (volatile u64 *)(*entry & 0xffffffffff000) + (va >> (12 + 9 * (at - 2)) & 511);
	}
	return entry;
}

u64 *address_space(void)
{
	u64 *root = page_alloc();

	root[0] = pml4[0];
	return root;
}
