/* SPDX-License-Identifier: Apache-2.0 */
/* Between msr.c (access), msr_table.c (the table) and reset.c. */
#ifndef TZ_X86_MSR_H
#define TZ_X86_MSR_H

#include "x86/cpu.h"

#define X86_MSR_ALWAYS (-1) /* no CPUID feature needed */

/* Who accesses: the guest's RDMSR/WRMSR, or the KVM API's get/set, which may write what the guest may not. */
enum x86_msr_by { X86_MSR_GUEST, X86_MSR_HOST };

/*
 * One MSR, or a range of alike ones. Without functions it is a plain field of struct x86_cpu at
 * `offset`. Functions return false for #GP(0).
 */
struct x86_msr_row {
	uint32_t first, last;
	const char *name;
	int feature; /* X86_FEAT_* the guest must have, or X86_MSR_ALWAYS */
	bool save;   /* part of the state a client saves */
	uint16_t offset;
	uint64_t writable; /* plain field: bits that may be set; else the constant's value (see msr_table.c) */
	bool (*read)(struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index, uint64_t *value);
	bool (*write)(struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index, uint64_t value,
		      enum x86_msr_by by);
};

extern const struct x86_msr_row x86_msr_rows[]; /* sorted by index */
extern const unsigned x86_msr_row_count;

void x86_msr_reset(struct x86_cpu *cpu); /* power-up values */

#define X86_MISC_ENABLE_LIMIT_CPUID BIT64(22)
#define X86_MISC_ENABLE_XD_DISABLE BIT64(34)

/* IA32_ARCH_CAPABILITIES of a processor that speculates on nothing (SDM 4 table 2-2). */
#define X86_ARCH_CAPABILITIES                                                                                          \
	(BIT64(0) /* RDCL_NO */ | BIT64(4) /* SSB_NO */ | BIT64(5) /* MDS_NO */ | BIT64(6) /* IF_PSCHANGE_MC_NO */ |   \
	 BIT64(8) /* TAA_NO */ | BIT64(13) /* SBDR_SSDP_NO */ | BIT64(14) /* FBSDP_NO */ | BIT64(15) /* PSDP_NO */ |   \
	 BIT64(20) /* BHI_NO */ | BIT64(24) /* PBRSB_NO */ | BIT64(26) /* GDS_NO */ | BIT64(27) /* RFDS_NO */)
#define X86_DE_CFG_LFENCE_SERIALIZE BIT64(1)

#endif
