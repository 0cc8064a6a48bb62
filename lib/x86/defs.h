/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers of the architecture: register indices, control-register, RFLAGS, EFER
 * and descriptor bits, exception vectors, MSR indices (SDM 3A 2.5, 3.4.5, 6.3; SDM 4).
 */
#ifndef TZ_X86_DEFS_H
#define TZ_X86_DEFS_H

#include "base/compiler.h"

enum x86_gpr {
	X86_RAX,
	X86_RCX,
	X86_RDX,
	X86_RBX,
	X86_RSP,
	X86_RBP,
	X86_RSI,
	X86_RDI,
	X86_R8,
	X86_R9,
	X86_R10,
	X86_R11,
	X86_R12,
	X86_R13,
	X86_R14,
	X86_R15,
};

/* In the encoding order of the ISA. */
enum x86_seg_index { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_SEG_COUNT };

/* Segment access rights, VMCS layout (SDM 3C table 24-2). */
#define X86_AR_TYPE 0xfu
#define X86_AR_ACCESSED 0x1u
#define X86_AR_WRITABLE 0x2u /* data */
#define X86_AR_READABLE 0x2u /* code */
#define X86_AR_EXPAND_DOWN 0x4u
#define X86_AR_CONFORMING 0x4u
#define X86_AR_CODE 0x8u
#define X86_AR_S 0x10u
#define X86_AR_DPL_SHIFT 5
#define X86_AR_DPL(ar) (((ar) >> X86_AR_DPL_SHIFT) & 3)
#define X86_AR_P 0x80u
#define X86_AR_AVL 0x1000u
#define X86_AR_L 0x2000u
#define X86_AR_DB 0x4000u
#define X86_AR_G 0x8000u
#define X86_AR_UNUSABLE 0x10000u

/* System descriptor types (SDM 3A table 3-2). */
enum x86_sys_type {
	X86_SYS_TSS16 = 1,
	X86_SYS_LDT = 2,
	X86_SYS_TSS16_BUSY = 3,
	X86_SYS_CALL16 = 4,
	X86_SYS_TASK_GATE = 5,
	X86_SYS_INT16 = 6,
	X86_SYS_TRAP16 = 7,
	X86_SYS_TSS = 9,
	X86_SYS_TSS_BUSY = 11,
	X86_SYS_CALL = 12,
	X86_SYS_INT = 14,
	X86_SYS_TRAP = 15,
};

#define X86_CR0_PE BIT64(0)
#define X86_CR0_MP BIT64(1)
#define X86_CR0_EM BIT64(2)
#define X86_CR0_TS BIT64(3)
#define X86_CR0_ET BIT64(4)
#define X86_CR0_NE BIT64(5)
#define X86_CR0_WP BIT64(16)
#define X86_CR0_AM BIT64(18)
#define X86_CR0_NW BIT64(29)
#define X86_CR0_CD BIT64(30)
#define X86_CR0_PG BIT64(31)

#define X86_CR3_PCID UINT64_C(0xfff)
#define X86_CR3_NOFLUSH BIT64(63)

#define X86_CR4_VME BIT64(0)
#define X86_CR4_PVI BIT64(1)
#define X86_CR4_TSD BIT64(2)
#define X86_CR4_DE BIT64(3)
#define X86_CR4_PSE BIT64(4)
#define X86_CR4_PAE BIT64(5)
#define X86_CR4_MCE BIT64(6)
#define X86_CR4_PGE BIT64(7)
#define X86_CR4_PCE BIT64(8)
#define X86_CR4_OSFXSR BIT64(9)
#define X86_CR4_OSXMMEXCPT BIT64(10)
#define X86_CR4_UMIP BIT64(11)
#define X86_CR4_LA57 BIT64(12)
#define X86_CR4_VMXE BIT64(13)
#define X86_CR4_SMXE BIT64(14)
#define X86_CR4_FSGSBASE BIT64(16)
#define X86_CR4_PCIDE BIT64(17)
#define X86_CR4_OSXSAVE BIT64(18)
#define X86_CR4_SMEP BIT64(20)
#define X86_CR4_SMAP BIT64(21)
#define X86_CR4_PKE BIT64(22)
#define X86_CR4_PKS BIT64(24)

#define X86_EFER_SCE BIT64(0)
#define X86_EFER_LME BIT64(8)
#define X86_EFER_LMA BIT64(10)
#define X86_EFER_NXE BIT64(11)
#define X86_EFER_SVME BIT64(12)
#define X86_EFER_FFXSR BIT64(14)
#define X86_EFER_AUTOIBRS BIT64(21)

#define X86_CF BIT64(0)
#define X86_FIXED1 BIT64(1)
#define X86_PF BIT64(2)
#define X86_AF BIT64(4)
#define X86_ZF BIT64(6)
#define X86_SF BIT64(7)
#define X86_TF BIT64(8)
#define X86_IF BIT64(9)
#define X86_DF BIT64(10)
#define X86_OF BIT64(11)
#define X86_IOPL_SHIFT 12
#define X86_IOPL (UINT64_C(3) << X86_IOPL_SHIFT)
#define X86_NT BIT64(14)
#define X86_RF BIT64(16)
#define X86_VM BIT64(17)
#define X86_AC BIT64(18)
#define X86_VIF BIT64(19)
#define X86_VIP BIT64(20)
#define X86_ID BIT64(21)
#define X86_ARITH_FLAGS (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

enum x86_vector {
	X86_DE = 0,
	X86_DB = 1,
	X86_NMI = 2,
	X86_BP = 3,
	X86_OVF = 4,
	X86_BR = 5,
	X86_UD = 6,
	X86_NM = 7,
	X86_DF_EXC = 8,
	X86_TS = 10,
	X86_NP = 11,
	X86_SS_EXC = 12,
	X86_GP = 13,
	X86_PF_EXC = 14,
	X86_MF = 16,
	X86_AC_EXC = 17,
	X86_MC = 18,
	X86_XM = 19,
	X86_VE = 20,
	X86_CP = 21,
};

/* Page-fault error code (SDM 3A 4.7). */
#define X86_PFEC_P BIT32(0)
#define X86_PFEC_W BIT32(1)
#define X86_PFEC_U BIT32(2)
#define X86_PFEC_RSVD BIT32(3)
#define X86_PFEC_I BIT32(4)
#define X86_PFEC_PK BIT32(5)

/* DR6, DR7 (SDM 3B 17.2). */
#define X86_DR6_BD BIT64(13)
#define X86_DR6_BS BIT64(14)
#define X86_DR6_BT BIT64(15)
#define X86_DR6_RTM BIT64(16)
#define X86_DR6_FIXED1 UINT64_C(0xffff0ff0)
#define X86_DR7_GD BIT64(13)
#define X86_DR7_FIXED1 UINT64_C(0x400)

#define X86_FEATURE_WORDS 24

#include "x86/msr_index.h"

#endif
