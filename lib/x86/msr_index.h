/* SPDX-License-Identifier: Apache-2.0 */
/* MSR indices (SDM 4 chapter 2; AMD APM 2 appendix A). */
#ifndef TZ_X86_MSR_INDEX_H
#define TZ_X86_MSR_INDEX_H

#define MSR_TSC 0x10u
#define MSR_KVM_WALL_CLOCK 0x11u /* KVM's own (msr.rst): these two in the range that P5 used, */
#define MSR_KVM_SYSTEM_TIME 0x12u
#define MSR_PLATFORM_ID 0x17u
#define MSR_APIC_BASE 0x1bu
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_TSC_ADJUST 0x3bu
#define MSR_SPEC_CTRL 0x48u
#define MSR_PRED_CMD 0x49u
#define MSR_UCODE_WRITE 0x79u
#define MSR_UCODE_REV 0x8bu
#define MSR_MTRRCAP 0xfeu
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_MCG_CAP 0x179u
#define MSR_MCG_STATUS 0x17au
#define MSR_MCG_CTL 0x17bu
#define MSR_MISC_ENABLE 0x1a0u
#define MSR_DEBUGCTL 0x1d9u
#define MSR_MTRR_PHYSBASE0 0x200u
#define MSR_MTRR_FIX64K_00000 0x250u
#define MSR_MTRR_FIX16K_80000 0x258u
#define MSR_MTRR_FIX16K_A0000 0x259u
#define MSR_MTRR_FIX4K_C0000 0x268u
#define MSR_PAT 0x277u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_MC0_CTL 0x400u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_PKRS 0x6e1u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu
#define MSR_XSS 0xda0u
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u /* and again, with the others, in KVM's */
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define MSR_KVM_STEAL_TIME 0x4b564d03u
#define MSR_KVM_PV_EOI_EN 0x4b564d04u
#define MSR_KVM_POLL_CONTROL 0x4b564d05u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_K8_SYSCFG 0xc0010010u
#define MSR_K7_HWCR 0xc0010015u
#define MSR_K8_INT_PENDING 0xc0010055u
#define MSR_AMD_OSVW_ID_LENGTH 0xc0010140u
#define MSR_AMD_OSVW_STATUS 0xc0010141u
#define MSR_AMD_DE_CFG 0xc0011029u

#endif
