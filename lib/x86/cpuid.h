/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID: what the library supports (KVM_GET_SUPPORTED_CPUID), what a guest sees, and the
 * feature bits as an enum made from x86/features.def, which is the single list of features:
 * FEATURE(name, qemu_name, leaf, subleaf, register, bit, needs_host).
 */
#ifndef TZ_X86_CPUID_H
#define TZ_X86_CPUID_H

#include "x86/cpu.h"

enum x86_cpuid_reg { X86_CPUID_EAX, X86_CPUID_EBX, X86_CPUID_ECX, X86_CPUID_EDX };

enum x86_feature {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) X86_FEAT_##name,
#include "x86/features.def"
#undef FEATURE
	X86_FEAT_COUNT
};
_Static_assert(X86_FEAT_COUNT <= X86_FEATURE_WORDS * 32, "widen X86_FEATURE_WORDS");

/* Does the guest's CPUID announce it? */
static inline bool x86_has(const struct x86_cpu *cpu, enum x86_feature f)
{
	return (cpu->cpuid.features[f / 32] >> (f % 32)) & 1;
}

/* The supported table: software features always, needs_host ones as the host has them. Returns the count. */
unsigned x86_cpuid_supported(struct x86_cpuid_entry *entries, unsigned max);

/* After cpuid.entry/count were replaced: recompute the derived fields. */
void x86_cpuid_changed(struct x86_cpu *cpu);

/* The CPUID instruction: dynamic bits (OSXSAVE, APIC enable, OSPKE, XSAVE sizes) put in. Regs in/out. */
void x86_cpuid_execute(struct x86_cpu *cpu, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);

#endif
