/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/vm.h"
#include "x86/apic/irqchip.h"

#define NS_PER_SEC UINT64_C(1000000000)

void vcpu_pv_init(struct vcpu_pv *pv)
{
	pv->schedstat_fd = -1;
}

static void close_schedstat(struct vcpu_pv *pv)
{
	if (pv->schedstat_fd >= 0)
		close(pv->schedstat_fd);
	pv->schedstat_fd = -1;
	pv->thread = NULL;
	pv->waited_valid = false;
}

void vcpu_pv_fini(struct vcpu_pv *pv)
{
	close_schedstat(pv);
}

/* ---- stolen time: how long the thread was runnable and did not run ---- */

/* The second field of /proc/TID/schedstat (Documentation/scheduler/sched-stats.rst). */
static bool read_waited(struct vcpu_pv *pv, uint64_t *ns)
{
	char text[96], *second, *end;
	ssize_t n = pread(pv->schedstat_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = 0;
	strtoull(text, &second, 10);
	*ns = strtoull(second, &end, 10);
	return end != second;
}

/* Nothing is stolen where the host does not tell: a kernel without CONFIG_SCHED_INFO, a /proc that is not there. */
static void look_at_schedstat(struct vcpu *vcpu)
{
	static _Thread_local char self;
	struct vcpu_pv *pv = &vcpu->pv;
	uint64_t waited;

	if (pv->thread != &self) {
		/* The client runs the vCPU on another thread now; what that one waited before is not the guest's. */
		close_schedstat(pv);
		pv->schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
		pv->thread = &self;
	}
	if (pv->schedstat_fd < 0)
		return;
	if (!read_waited(pv, &waited)) {
		close_schedstat(pv); /* the thread it was opened for has ended, and this one has its variable */
		return;
	}
	if (pv->waited_valid && waited > pv->waited)
		x86_pv_steal_add(&vcpu->cpu, waited - pv->waited);
	pv->waited = waited;
	pv->waited_valid = true;
}

/* ---- the clock ---- */

bool vm_tscs_equal(struct vm *vm)
{
	const struct vcpu *first = NULL;

	for (unsigned i = 0; i < atomic_load(&vm->vcpu_limit); i++) {
		const struct vcpu *v = atomic_load(&vm->vcpu[i]);

		if (!v)
			continue;
		if (!first)
			first = v;
		if (atomic_load(&v->tsc.host.ratio) != atomic_load(&first->tsc.host.ratio) ||
		    vcpu_tsc_offset(v) != vcpu_tsc_offset(first))
			return false;
	}
	return true;
}

void platform_pv_time(struct x86_cpu *cpu, struct x86_pv_time *time)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	struct pv_line line = pv_clock_line(&vcpu->vm->pv_clock);
	uint64_t ratio = atomic_load(&vcpu->tsc.host.ratio);

	*time = (struct x86_pv_time){
		.tsc_timestamp = vcpu_tsc_at_cycles(vcpu, line.cycles),
		.system_time = line.ns,
		.mul = line.mul,
		.shift = line.shift,
		.stable = vm_tscs_equal(vcpu->vm),
	};
	if (ratio != BIT64(CLOCK_RATIO_BITS))
		pv_line_factors(line.ns_per_cycle * (double)BIT64(CLOCK_RATIO_BITS) / (double)ratio, &time->mul,
				&time->shift);
}

uint64_t platform_pv_wall(struct x86_cpu *cpu)
{
	struct pv_line line = pv_clock_line(&vcpu_of(cpu)->vm->pv_clock);
	struct clock_sample now = clock_sample(CLOCK_REALTIME);

	return now.ns - pv_line_at(&line, now.cycles);
}

void platform_pv_pair(struct x86_cpu *cpu, struct x86_pv_pair *pair)
{
	struct clock_sample now = clock_sample(CLOCK_REALTIME);

	*pair = (struct x86_pv_pair){ .sec = (int64_t)(now.ns / NS_PER_SEC),
				      .nsec = (int64_t)(now.ns % NS_PER_SEC),
				      .tsc = vcpu_tsc_at_cycles(vcpu_of(cpu), now.cycles) };
}

/* Each of the others publishes its clock before it executes again. */
static void clocks_due(struct vm *vm, const struct vcpu *except)
{
	for (unsigned i = 0; i < atomic_load(&vm->vcpu_limit); i++) {
		struct vcpu *v = atomic_load(&vm->vcpu[i]);

		if (!v || v == except)
			continue;
		atomic_store(&v->pv.clock_due, true);
		x86_cpu_attention(&v->cpu, X86_ATT_EXIT);
	}
}

void vm_pv_clock_set(struct vm *vm, uint64_t ns)
{
	pv_clock_set(&vm->pv_clock, ns);
	clocks_due(vm, NULL);
}

void vcpu_pv_tsc_changed(struct vcpu *vcpu)
{
	x86_pv_clock_publish(&vcpu->cpu);
	clocks_due(vcpu->vm, vcpu); /* whether it is "stable" concerns all */
}

void platform_tsc_changed(struct x86_cpu *cpu)
{
	vcpu_pv_tsc_changed(vcpu_of(cpu));
}

/* All vCPUs change over to the new line while none of them can look. */
static void steer_clock(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	struct clock_sample now = clock_sample(CLOCK_MONOTONIC);

	if (!pv_clock_astray(&vm->pv_clock, &now))
		return;
	vcpu_exclusive_begin(vcpu);
	now = clock_sample(CLOCK_MONOTONIC);
	pv_clock_correct(&vm->pv_clock, &now);
	for (unsigned i = 0; i < atomic_load(&vm->vcpu_limit); i++) {
		struct vcpu *v = atomic_load(&vm->vcpu[i]);

		if (v)
			x86_pv_clock_publish(&v->cpu);
	}
	vcpu_exclusive_end(vcpu);
}

/* ---- around guest code ---- */

static tz_cold void look_around(struct vcpu *vcpu, uint64_t now)
{
	const struct x86_pv *guest = &vcpu->cpu.pv;

	if (atomic_exchange(&vcpu->pv.clock_due, false))
		x86_pv_clock_publish(&vcpu->cpu);
	if (now < vcpu->pv.due)
		return;
	vcpu->pv.due = now + clock_host_khz(); /* a millisecond, as the ticker */
	if (x86_pv_steal_enabled(guest))
		look_at_schedstat(vcpu);
	else
		vcpu->pv.waited_valid = false;
	if ((guest->system_time & X86_PV_ENABLED) && pv_clock_check_due(&vcpu->vm->pv_clock, now))
		steer_clock(vcpu);
}

void vcpu_pv_enter(struct vcpu *vcpu, uint64_t now)
{
	if (unlikely(vcpu->cpu.pv.preempted))
		x86_pv_awake(&vcpu->cpu);
	if (unlikely(now >= vcpu->pv.due || atomic_load_explicit(&vcpu->pv.clock_due, memory_order_relaxed)))
		look_around(vcpu, now);
}

void vcpu_pv_leave(struct vcpu *vcpu, bool halted)
{
	if (!vcpu->cpu.lapic)
		return;
	lapic_pv_eoi_settle(&vcpu->cpu);
	if (halted)
		x86_pv_asleep(&vcpu->cpu);
}

void vcpu_pv_unhalt(struct vcpu *vcpu)
{
	if (vcpu->mp_state == KVM_MP_STATE_HALTED && atomic_exchange(&vcpu->cpu.pv.unhalted, false))
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
}
