/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page-table walker: the only one (SDM 3A chapter 4). 2-level, PAE, 4- and
 * 5-level; A/D bits set with locked updates; NX, WP, SMEP, SMAP, PKU, reserved
 * bits, PAT bits ignored; MAXPHYADDR from the guest's CPUID.
 */
#ifndef TZ_X86_PAGING_H
#define TZ_X86_PAGING_H

#include "x86/cpu.h"
#include "x86/tlb.h"

#define X86_ACCESS_READ 0u
#define X86_ACCESS_WRITE 1u
#define X86_ACCESS_EXEC 2u

struct x86_walk {
	gpa_t gpa;          /* of the byte asked for */
	uint8_t page_shift; /* 12, 21, 22, 30 */
	bool readable;      /* further accesses that this walk also proved legal in the same mmu index: */
	bool writable;      /* (writable only if D is already set) */
	bool executable;
	bool global;
	uint32_t error; /* page-fault error code when the walk fails */
};

/*
 * Translate gva for an access of `kind` in context `mmu`. True: *out is filled and A/D
 * bits are set as the access demands. False: out->error; no bit was set for the leaf.
 * `probe`: set no bits (KVM_TRANSLATE, debugger). Page tables outside any slot read as
 * all ones, as a bus without a device gives. Does not raise. With paging off: identity.
 */
bool x86_walk(struct x86_cpu *cpu, gva_t gva, unsigned kind, enum x86_mmu_index mmu, bool probe, struct x86_walk *out);

/* Load PDPTEs for PAE paging from CR3 (MOV CR0/CR3/CR4). False: reserved bits set -> #GP, nothing changed. */
bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3);

#endif
