/* SPDX-License-Identifier: Apache-2.0 */
/* The area behind MSR_KVM_STEAL_TIME: stolen time, and the flags of the paravirtual TLB flush (msr.rst, cpuid.rst). */
#include "x86/pv/area.h"
#include "x86/pv/msr.h"
#include "x86/tlb.h"

/* struct kvm_steal_time: offsets are the guest's ABI. */
#define STEAL_NS 0u
#define STEAL_VERSION 8u
#define STEAL_PREEMPTED 16u
#define STEAL_SIZE 64u
#define PREEMPTED 1u
#define FLUSH_TLB 2u

#define STEAL_RESERVED UINT64_C(0x3e) /* bits 5:1 */

static bool find(struct x86_cpu *cpu, struct pv_area *area)
{
	return x86_pv_steal_enabled(&cpu->pv) &&
	       pv_area_find(cpu, cpu->pv.steal_time & ~UINT64_C(0x3f), STEAL_SIZE, area);
}

/* Other vCPUs set FLUSH_TLB with a compare-and-exchange that expects PREEMPTED: this one must be atomic too. */
static uint8_t exchange_flags(const struct pv_area *area, uint8_t flags)
{
	return __atomic_exchange_n(area->hva + STEAL_PREEMPTED, flags, __ATOMIC_SEQ_CST);
}

void x86_pv_steal_add(struct x86_cpu *cpu, uint64_t ns)
{
	struct pv_area area;

	if (!find(cpu, &area))
		return;
	pv_area_begin(&area, STEAL_VERSION);
	guest_store64(area.hva + STEAL_NS, guest_load64(area.hva + STEAL_NS) + ns);
	pv_area_end(&area, STEAL_VERSION);
}

void x86_pv_asleep(struct x86_cpu *cpu)
{
	struct pv_area area;

	if (!find(cpu, &area))
		return;
	exchange_flags(&area, PREEMPTED);
	pv_area_written(&area);
	cpu->pv.preempted = true;
}

void x86_pv_awake(struct x86_cpu *cpu)
{
	struct pv_area area;

	if (!cpu->pv.preempted)
		return;
	cpu->pv.preempted = false;
	/* If the area cannot be reached any more nobody knows what was asked. */
	if (!find(cpu, &area)) {
		x86_tlb_flush_all(cpu);
		return;
	}
	if (exchange_flags(&area, 0) & FLUSH_TLB)
		x86_tlb_flush_all(cpu);
	pv_area_written(&area);
}

bool pv_write_steal_time(struct x86_cpu *cpu, uint64_t value)
{
	if (value & STEAL_RESERVED)
		return false;
	cpu->pv.steal_time = value;
	/* The area may say "preempted", and more, from where it was restored from. */
	cpu->pv.preempted = x86_pv_steal_enabled(&cpu->pv);
	x86_pv_awake(cpu);
	x86_pv_steal_add(cpu, 0);
	return true;
}
