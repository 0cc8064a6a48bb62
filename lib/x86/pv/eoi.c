/* SPDX-License-Identifier: Apache-2.0 */
/* The bit behind MSR_KVM_PV_EOI_EN (msr.rst). Only this vCPU's thread and this vCPU write it. */
#include "x86/pv/area.h"

#define EOI_NOT_NEEDED 1u
#define EOI_ENABLE_BITS UINT64_C(3)

static bool find(struct x86_cpu *cpu, struct pv_area *area)
{
	return x86_pv_eoi_enabled(&cpu->pv) && pv_area_find(cpu, cpu->pv.eoi & ~EOI_ENABLE_BITS, 1, area);
}

bool x86_pv_eoi_offer(struct x86_cpu *cpu)
{
	struct pv_area area;

	if (!find(cpu, &area))
		return false;
	guest_store8(area.hva, EOI_NOT_NEEDED);
	pv_area_written(&area);
	return true;
}

bool x86_pv_eoi_test(struct x86_cpu *cpu)
{
	struct pv_area area;

	return find(cpu, &area) && (guest_load8(area.hva) & EOI_NOT_NEEDED);
}

bool x86_pv_eoi_take(struct x86_cpu *cpu)
{
	struct pv_area area;

	if (!find(cpu, &area) || !(guest_load8(area.hva) & EOI_NOT_NEEDED))
		return false;
	guest_store8(area.hva, 0);
	pv_area_written(&area);
	return true;
}
