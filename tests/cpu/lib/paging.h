/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables that a test makes for itself, beside the identity map of start64.S. */
#ifndef TESTS_CPU_PAGING_H
#define TESTS_CPU_PAGING_H

#include "guest.h"

#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)
#define PTE_PKEY(key) ((u64)(key) << 59)
#define PTE_ALL (PTE_P | PTE_W | PTE_U)
#define PAGE_2M 0x200000ull
#define PAGE_1G 0x40000000ull

/* A zeroed page that stays taken. */
void *page_alloc(void);
/* The entry for va in the table of a level (1: 4 KiB, 2: 2 MiB, 3: 1 GiB, 4: PML4E), whose tables are made on the way.
 */
volatile u64 *pte_at(u64 *root, u64 va, unsigned level);
/* A PML4 that shares everything with the one of start64.S but what is mapped above its first 512 GiB. */
u64 *address_space(void);

/* One descriptor of INVPCID. */
static inline void invpcid(u64 type, u64 pcid, u64 va)
{
	const u64 descriptor[2] = { pcid, va };

	__asm__ volatile("invpcid %0, %1" ::"m"(descriptor), "r"(type) : "memory");
}

#endif
