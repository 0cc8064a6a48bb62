/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control, debug and extended-control registers, MSRs, reset: what changes the CPU's world.
 * Instruction semantics (MOV CRn, LMSW, XSETBV, WRMSR …) raise; the *_set forms for the KVM
 * API return -EINVAL and skip checks that only instructions make.
 */
#ifndef TZ_X86_CONTROL_H
#define TZ_X86_CONTROL_H

#include "x86/cpu.h"

/* MOV CRn and what is like it: checks, side effects (mode, TLB, PDPTEs), #GP(0). CPL is the caller's. */
void x86_write_cr0(struct x86_cpu *cpu, uint64_t value);
void x86_write_cr3(struct x86_cpu *cpu, uint64_t value);
void x86_write_cr4(struct x86_cpu *cpu, uint64_t value);
uint64_t x86_read_cr8(struct x86_cpu *cpu);
void x86_write_cr8(struct x86_cpu *cpu, uint64_t value);
void x86_write_xcr(struct x86_cpu *cpu, uint32_t index, uint64_t value);
uint64_t x86_read_dr(struct x86_cpu *cpu, unsigned n); /* DE, GD: may raise #UD, #DB */
void x86_write_dr(struct x86_cpu *cpu, unsigned n, uint64_t value);
void x86_debug_changed(struct x86_cpu *cpu); /* DR7 or guest-debug changed: dr_watch, dr_exec, TLB */

/* RFLAGS from POPF/IRET/SYSRET images: `mask` says which bits may change; handles IF/TF/AC/VM side effects. */
void x86_write_rflags(struct x86_cpu *cpu, uint64_t value, uint64_t mask);

/* INVLPG, INVPCID (types 0..3; raises #GP), TLB consequences. */
void x86_invlpg(struct x86_cpu *cpu, uint64_t linear);
void x86_invpcid(struct x86_cpu *cpu, uint64_t type, uint64_t pcid, uint64_t linear);

/*
 * MSRs: one table in msr.c. RDMSR/WRMSR raise #GP(0); host-side access (KVM_GET/SET_MSRS)
 * returns false for an unknown or refused one.
 */
uint64_t x86_rdmsr(struct x86_cpu *cpu, uint32_t index);
void x86_wrmsr(struct x86_cpu *cpu, uint32_t index, uint64_t value);
bool x86_msr_get(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
bool x86_msr_set(struct x86_cpu *cpu, uint32_t index, uint64_t value);
/* The MSRs worth saving (KVM_GET_MSR_INDEX_LIST). Fills up to max, returns the count. */
unsigned x86_msr_list(uint32_t *index, unsigned max);
/* MSRs that tell features (KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_GET_MSRS on the system handle). */
unsigned x86_msr_feature_list(uint32_t *index, unsigned max);
bool x86_msr_feature(uint32_t index, uint64_t *value);

/* KVM_SET_SREGS: everything at once, then derived state. -EINVAL if the combination cannot be. */
struct x86_sregs {
	struct x86_seg seg[X86_SEG_COUNT];
	struct x86_dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
};
int x86_set_sregs(struct x86_cpu *cpu, const struct x86_sregs *s);
void x86_get_sregs(struct x86_cpu *cpu, struct x86_sregs *s);

/* Power-up state (SDM 3A 9.1.1), and INIT, which keeps FPU, TSC, MTRRs and so on. */
void x86_reset(struct x86_cpu *cpu, bool init);
/* Start-up IPI: real mode at vector << 12 : 0. */
void x86_sipi(struct x86_cpu *cpu, uint8_t vector);

#endif
