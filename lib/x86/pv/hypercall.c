/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/pv/hypercall.h"

#include "x86/apic/irqchip.h"
#include "x86/fpu.h"

/* Numbers and results are the guest's ABI (hypercalls.rst; <linux/kvm_para.h>). */
#define HC_VAPIC_POLL_IRQ 1
#define HC_KICK_CPU 5
#define HC_CLOCK_PAIRING 9
#define HC_SEND_IPI 10

#define CLOCK_PAIRING_WALLCLOCK 0

#define HC_EPERM (-1)
#define HC_EFAULT (-14)
#define HC_EOPNOTSUPP (-95)
#define HC_EINVAL (-22)
#define HC_ENOSYS (-1000)

#define ICR_VECTOR_AND_MODE 0x7ffu
#define ICR_LOGICAL_OR_SHORTHAND 0xc0800u

/* A register as an argument: 32 bits of it outside 64-bit mode. */
static uint64_t argument(const struct x86_cpu *cpu, unsigned reg)
{
	return x86_long64(cpu) ? cpu->gpr[reg] : (uint32_t)cpu->gpr[reg];
}

/* a0, a1: a set of APIC ids, low and high part; a2: the lowest of them; a3: ICR. The result: how many were reached. */
static int64_t send_ipi(struct x86_cpu *cpu)
{
	uint64_t low = argument(cpu, X86_RBX), high = argument(cpu, X86_RCX);
	uint64_t min = (uint32_t)cpu->gpr[X86_RDX];
	uint32_t icr = (uint32_t)cpu->gpr[X86_RSI];

	if (!cpu->lapic)
		return HC_ENOSYS;
	if (icr & ICR_LOGICAL_OR_SHORTHAND)
		return HC_EINVAL;
	x86_fpu_put(cpu);
	icr &= ICR_VECTOR_AND_MODE;
	return lapic_send_set(cpu, low, min, icr) + lapic_send_set(cpu, high, min + (x86_long64(cpu) ? 64 : 32), icr);
}

/* a0: flags, none defined; a1: APIC id. The vCPU leaves HLT with no interrupt: a lock it waits for is free. */
static int64_t kick_cpu(struct x86_cpu *cpu)
{
	if (!cpu->lapic)
		return HC_ENOSYS;
	x86_fpu_put(cpu);
	lapic_unhalt(cpu, (uint32_t)cpu->gpr[X86_RCX]);
	return 0;
}

/* a0: where in guest memory; a1: which clock. */
static int64_t clock_pairing(struct x86_cpu *cpu)
{
	struct x86_pv_pair pair;

	if (argument(cpu, X86_RCX) != CLOCK_PAIRING_WALLCLOCK || !cpu->ops->pv_pair)
		return HC_EOPNOTSUPP;
	x86_fpu_put(cpu);
	cpu->ops->pv_pair(cpu, &pair);
	return x86_pv_write_pair(cpu, argument(cpu, X86_RBX), &pair) ? 0 : HC_EFAULT;
}

/* As in KVM, a call works whether or not the client lets CPUID leaf 0x40000001 announce it. */
static int64_t dispatch(struct x86_cpu *cpu, uint64_t number)
{
	switch (number) {
	case HC_VAPIC_POLL_IRQ: x86_cpu_attention(cpu, X86_ATT_IRQ); return 0;
	case HC_KICK_CPU: return kick_cpu(cpu);
	case HC_CLOCK_PAIRING: return clock_pairing(cpu);
	case HC_SEND_IPI: return send_ipi(cpu);
	default: return HC_ENOSYS;
	}
}

void x86_hypercall(struct x86_cpu *cpu)
{
	int64_t result = cpu->cpl ? HC_EPERM : dispatch(cpu, argument(cpu, X86_RAX));

	cpu->gpr[X86_RAX] = x86_long64(cpu) ? (uint64_t)result : (uint32_t)result;
}
