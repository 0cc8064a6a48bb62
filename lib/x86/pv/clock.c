/* SPDX-License-Identifier: Apache-2.0 */
/* kvmclock: the areas behind MSR_KVM_SYSTEM_TIME and MSR_KVM_WALL_CLOCK, and the clock pairing hypercall (msr.rst). */
#include "x86/pv/area.h"
#include "x86/pv/msr.h"

/* struct pvclock_vcpu_time_info: offsets are the guest's ABI. */
#define TIME_VERSION 0u
#define TIME_TSC 8u
#define TIME_SYSTEM 16u
#define TIME_MUL 24u
#define TIME_SHIFT 28u
#define TIME_FLAGS 29u
#define TIME_SIZE 32u
#define FLAG_TSC_STABLE 1u
#define FLAG_GUEST_STOPPED 2u

/* struct pvclock_wall_clock */
#define WALL_VERSION 0u
#define WALL_SEC 4u
#define WALL_NSEC 8u
#define WALL_SIZE 12u

/* struct kvm_clock_pairing */
#define PAIR_SEC 0u
#define PAIR_NSEC 8u
#define PAIR_TSC 16u
#define PAIR_SIZE 64u

#define NS_PER_SEC UINT64_C(1000000000)

/* keep: what the guest was told and has not taken note of yet stays. */
static void publish(struct x86_cpu *cpu, bool keep)
{
	struct x86_pv *pv = &cpu->pv;
	struct pv_area area;
	struct x86_pv_time t;
	uint8_t flags;

	if (!(pv->system_time & X86_PV_ENABLED) || !cpu->ops->pv_time ||
	    !pv_area_find(cpu, pv->system_time & ~X86_PV_ENABLED, TIME_SIZE, &area))
		return;
	cpu->ops->pv_time(cpu, &t);
	flags = keep ? guest_load8(area.hva + TIME_FLAGS) & FLAG_GUEST_STOPPED : 0;
	if (t.stable)
		flags |= FLAG_TSC_STABLE;
	if (pv->guest_stopped)
		flags |= FLAG_GUEST_STOPPED;
	pv->guest_stopped = false;
	pv_area_begin(&area, TIME_VERSION);
	guest_store64(area.hva + TIME_TSC, t.tsc_timestamp);
	guest_store64(area.hva + TIME_SYSTEM, t.system_time);
	guest_store32(area.hva + TIME_MUL, t.mul);
	guest_store8(area.hva + TIME_SHIFT, (uint8_t)t.shift);
	guest_store8(area.hva + TIME_FLAGS, flags);
	pv_area_end(&area, TIME_VERSION);
}

void x86_pv_clock_publish(struct x86_cpu *cpu)
{
	publish(cpu, true);
}

bool x86_pv_clock_stopped(struct x86_cpu *cpu)
{
	if (!(cpu->pv.system_time & X86_PV_ENABLED))
		return false;
	cpu->pv.guest_stopped = true;
	publish(cpu, true);
	return true;
}

void pv_write_system_time(struct x86_cpu *cpu, uint64_t value, bool host)
{
	cpu->pv.system_time = value;
	/* A guest that registers an area has nothing in it yet; a client that restores one has. */
	publish(cpu, host);
}

/* Wall-clock time at which the VM's clock was zero: the guest adds that clock. */
void pv_write_wall_clock(struct x86_cpu *cpu, uint64_t gpa)
{
	struct pv_area area;
	uint64_t ns;

	cpu->pv.wall_clock = gpa;
	if (!gpa || !cpu->ops->pv_wall || !pv_area_find(cpu, gpa, WALL_SIZE, &area))
		return;
	ns = cpu->ops->pv_wall(cpu);
	pv_area_begin(&area, WALL_VERSION);
	guest_store32(area.hva + WALL_SEC, (uint32_t)(ns / NS_PER_SEC));
	guest_store32(area.hva + WALL_NSEC, (uint32_t)(ns % NS_PER_SEC));
	pv_area_end(&area, WALL_VERSION);
}

bool x86_pv_write_pair(struct x86_cpu *cpu, uint64_t gpa, const struct x86_pv_pair *pair)
{
	struct pv_area area;

	if (!pv_area_find(cpu, gpa, PAIR_SIZE, &area))
		return false;
	tz_clear(area.hva, PAIR_SIZE);
	guest_store64(area.hva + PAIR_SEC, (uint64_t)pair->sec);
	guest_store64(area.hva + PAIR_NSEC, (uint64_t)pair->nsec);
	guest_store64(area.hva + PAIR_TSC, pair->tsc);
	pv_area_written(&area);
	return true;
}
