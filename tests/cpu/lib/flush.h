/* SPDX-License-Identifier: Apache-2.0 */
/* Every way to make the CPU forget the translation of an address (SDM 3A 4.10.4.1). Pages are global or not. */
#ifndef TESTS_CPU_FLUSH_H
#define TESTS_CPU_FLUSH_H

#include "paging.h"

#define CR3_KEEP (1ull << 63)

static u64 pcid; /* of the address space that runs, which is pml4 */

static void by_invlpg(u64 va)
{
	invlpg((void *)va);
}
static void by_cr3(u64 va)
{
	(void)va;
	WRITE_REG(cr3, (u64)pml4 | pcid);
}
static void by_pge(u64 va)
{
	(void)va;
	cr4_set(CR4_PGE);
	cr4_clear(CR4_PGE);
	cr4_set(CR4_PGE);
}
static void by_address(u64 va)
{
	invpcid(0, pcid, va);
}
static void by_pcid(u64 va)
{
	(void)va;
	invpcid(1, pcid, 0);
}
static void by_all(u64 va)
{
	(void)va;
	invpcid(2, 0, 0);
}
static void by_all_but_global(u64 va)
{
	(void)va;
	invpcid(3, 0, 0);
}
/* CR4.PCIDE from 1 to 0 drops everything, also of the PCID that the last load keeps. */
static void by_pcide(u64 va)
{
	(void)va;
	cr4_clear(CR4_PCIDE);
	WRITE_REG(cr3, pml4);
	cr4_set(CR4_PCIDE);
	WRITE_REG(cr3, (u64)pml4 | pcid | CR3_KEEP);
}

enum { ANY = 0, NEEDS_INVPCID = 1, NEEDS_PCIDE = 2, DROPS_GLOBAL = 4 };
static const struct flush {
	const char *name;
	void (*flush)(u64 va);
	unsigned flags;
} flushes[] = {
	{ "INVLPG", by_invlpg, DROPS_GLOBAL },
	{ "MOV CR3", by_cr3, ANY },
	{ "CR4.PGE", by_pge, DROPS_GLOBAL },
	{ "INVPCID of an address", by_address, NEEDS_INVPCID },
	{ "INVPCID of a PCID", by_pcid, NEEDS_INVPCID },
	{ "INVPCID of all", by_all, NEEDS_INVPCID | DROPS_GLOBAL },
	{ "INVPCID of all but global", by_all_but_global, NEEDS_INVPCID },
	{ "CR4.PCIDE", by_pcide, NEEDS_PCIDE | DROPS_GLOBAL },
};
#define FLUSHES (sizeof(flushes) / sizeof(flushes[0]))

static inline bool flush_usable(const struct flush *f, bool global)
{
	if ((f->flags & NEEDS_INVPCID) && !HAS_INVPCID)
		return false;
	if ((f->flags & NEEDS_PCIDE) && !(READ_REG(cr4) & CR4_PCIDE))
		return false;
	return !global || (f->flags & DROPS_GLOBAL);
}

#endif
