/* SPDX-License-Identifier: Apache-2.0 */
/* Hypercalls of the KVM interface (Documentation/virt/kvm/x86/hypercalls.rst): number in RAX, arguments in RBX, RCX,
 * RDX, RSI, result in RAX. */
#ifndef TZ_X86_PV_HYPERCALL_H
#define TZ_X86_PV_HYPERCALL_H

#include "x86/cpu.h"

/* VMCALL or VMMCALL, whichever vendor the vCPU has. Raises nothing; RIP is the caller's. Thread: the vCPU's own. */
void x86_hypercall(struct x86_cpu *cpu);

#endif
