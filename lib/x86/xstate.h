/* SPDX-License-Identifier: Apache-2.0 */
/* XCR0: the state components of XSAVE (SDM 1 13.3). */
#ifndef TZ_X86_XSTATE_H
#define TZ_X86_XSTATE_H

#include "x86/cpu.h"

#define X86_XCR0_X87 BIT64(0)
#define X86_XCR0_SSE BIT64(1)
#define X86_XCR0_AVX BIT64(2)
#define X86_XCR0_AVX512 (BIT64(5) | BIT64(6) | BIT64(7))
#define X86_XCR0_PKRU BIT64(9)

/* May XSETBV (or KVM_SET_XCRS) load it under the guest's CPUID? */
bool x86_xcr0_valid(const struct x86_cpu *cpu, uint64_t value);

#endif
