/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of a vCPU handle. Called with the vCPU's lock held, see serve_vcpu(). */
#include <errno.h>
#include <string.h>

#include "api/api.h"
#include "api/vcpu_state.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/paging.h"

/* ---- KVM_RUN, with the registers that the client keeps in the run area (KVM_CAP_SYNC_REGS) ---- */

static int sync_regs_from_client(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	const struct kvm_sync_regs *regs = &run->s.regs;
	uint64_t dirty = run->kvm_dirty_regs;
	int err = 0;

	if ((run->kvm_valid_regs | dirty) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (!dirty)
		return 0;
	vcpu_enter(vcpu);
	if (dirty & KVM_SYNC_X86_REGS)
		state_set_regs(vcpu, &regs->regs);
	if (dirty & KVM_SYNC_X86_SREGS)
		err = state_set_sregs(vcpu, &regs->sregs);
	if (!err && (dirty & KVM_SYNC_X86_EVENTS))
		err = state_set_events(vcpu, &regs->events);
	vcpu_leave(vcpu);
	if (!err)
		run->kvm_dirty_regs = 0;
	return err;
}

static void sync_regs_to_client(struct vcpu *vcpu)
{
	struct kvm_sync_regs *regs = &vcpu->run->s.regs;
	uint64_t valid = vcpu->run->kvm_valid_regs;

	if (valid & KVM_SYNC_X86_REGS)
		state_get_regs(vcpu, &regs->regs);
	if (valid & KVM_SYNC_X86_SREGS)
		state_get_sregs(vcpu, &regs->sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		state_get_events(vcpu, &regs->events);
}

static int run(const struct call *c)
{
	int r = sync_regs_from_client(c->vcpu);

	if (r)
		return r;
	r = vcpu_run(c->vcpu);
	sync_regs_to_client(c->vcpu);
	return r;
}

static int set_signal_mask(const struct call *c)
{
	const struct kvm_signal_mask *in = c->ptr;
	uint64_t mask;

	if (!in) {
		signals_set_mask(&c->vcpu->signals, NULL);
		return 0;
	}
	if (in->len != sizeof(mask)) /* the kernel's sigset_t, not libc's */
		return -EINVAL;
	memcpy(&mask, in->sigset, sizeof(mask));
	signals_set_mask(&c->vcpu->signals, &mask);
	return 0;
}

/* ---- registers ---- */

static int get_regs(const struct call *c)
{
	state_get_regs(c->vcpu, c->ptr);
	return 0;
}

static int set_regs(const struct call *c)
{
	state_set_regs(c->vcpu, c->ptr);
	return 0;
}

static int get_sregs(const struct call *c)
{
	state_get_sregs(c->vcpu, c->ptr);
	return 0;
}

static int set_sregs(const struct call *c)
{
	return state_set_sregs(c->vcpu, c->ptr);
}

static int get_sregs2(const struct call *c)
{
	state_get_sregs2(c->vcpu, c->ptr);
	return 0;
}

static int set_sregs2(const struct call *c)
{
	return state_set_sregs2(c->vcpu, c->ptr);
}

static int get_debugregs(const struct call *c)
{
	state_get_debugregs(c->vcpu, c->ptr);
	return 0;
}

static int set_debugregs(const struct call *c)
{
	return state_set_debugregs(c->vcpu, c->ptr);
}

static int get_fpu(const struct call *c)
{
	state_get_fpu(c->vcpu, c->ptr);
	return 0;
}

static int set_fpu(const struct call *c)
{
	return state_set_fpu(c->vcpu, c->ptr);
}

/* KVM_GET_XSAVE2 has the same size here: no component lies behind the first 4096 bytes. */
static int get_xsave(const struct call *c)
{
	x86_fpu_get_image(&c->vcpu->cpu, c->ptr);
	return 0;
}

static int set_xsave(const struct call *c)
{
	return x86_fpu_set_image(&c->vcpu->cpu, c->ptr);
}

static int get_xcrs(const struct call *c)
{
	state_get_xcrs(c->vcpu, c->ptr);
	return 0;
}

static int set_xcrs(const struct call *c)
{
	return state_set_xcrs(c->vcpu, c->ptr);
}

/* ---- MSRs: as many as can be done, up to the first that cannot; returns that number ---- */

static int get_msrs(const struct call *c)
{
	struct kvm_msrs *msrs = c->ptr;
	unsigned n;

	if (msrs->nmsrs > MSRS_PER_CALL)
		return -E2BIG;
	for (n = 0; n < msrs->nmsrs; n++) {
		uint64_t value;

		if (!x86_msr_get(&c->vcpu->cpu, msrs->entries[n].index, &value))
			break;
		msrs->entries[n].data = value;
	}
	return (int)n;
}

/*
 * TSC_ADJUST is restored without moving the TSC, and exactly: vCPUs that were in step stay so, whichever of the two
 * MSRs comes first.
 */
static bool set_msr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	if (index != MSR_TSC_ADJUST)
		return x86_msr_set(&vcpu->cpu, index, value);
	if (!x86_has(&vcpu->cpu, X86_FEAT_TSC_ADJUST))
		return false;
	vcpu_tsc_adjust_restore(vcpu, value);
	return true;
}

static int set_msrs(const struct call *c)
{
	const struct kvm_msrs *msrs = c->ptr;
	unsigned n;

	if (msrs->nmsrs > MSRS_PER_CALL)
		return -E2BIG;
	for (n = 0; n < msrs->nmsrs; n++)
		if (!set_msr(c->vcpu, msrs->entries[n].index, msrs->entries[n].data))
			break;
	return (int)n;
}

/* ---- CPUID ---- */

static int get_cpuid2(const struct call *c)
{
	const struct x86_cpuid *cpuid = &c->vcpu->cpu.cpuid;

	return cpuid_to_client(c->ptr, cpuid->entry, c->vcpu->cpuid_set ? cpuid->count : 0);
}

static void cpuid_from_client(const struct kvm_cpuid2 *in, struct x86_cpuid_entry *entry)
{
	for (unsigned i = 0; i < in->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &in->entries[i];

		entry[i] = (struct x86_cpuid_entry){
			.leaf = e->function,
			.subleaf = e->index,
			.has_subleaf = (e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
			.eax = e->eax,
			.ebx = e->ebx,
			.ecx = e->ecx,
			.edx = e->edx,
		};
	}
}

static bool same_cpuid(const struct x86_cpuid *now, const struct x86_cpuid_entry *entry, unsigned count)
{
	if (now->count != count)
		return false;
	for (unsigned i = 0; i < count; i++) {
		const struct x86_cpuid_entry *a = &now->entry[i], *b = &entry[i];

		if (a->leaf != b->leaf || a->subleaf != b->subleaf || a->has_subleaf != b->has_subleaf ||
		    a->eax != b->eax || a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx)
			return false;
	}
	return true;
}

static int set_cpuid2(const struct call *c)
{
	const struct kvm_cpuid2 *in = c->ptr;
	struct x86_cpuid *cpuid = &c->vcpu->cpu.cpuid;
	struct x86_cpuid_entry entry[X86_CPUID_MAX];

	if (in->nent > X86_CPUID_MAX)
		return -E2BIG;
	cpuid_from_client(in, entry);
	/* A processor does not change under a guest that has looked at it; the kernel refuses too. */
	if (c->vcpu->has_run)
		return same_cpuid(cpuid, entry, in->nent) ? 0 : -EINVAL;
	memset(cpuid, 0, sizeof(*cpuid));
	memcpy(cpuid->entry, entry, in->nent * sizeof(entry[0]));
	cpuid->count = in->nent;
	x86_cpuid_changed(&c->vcpu->cpu);
	c->vcpu->cpuid_set = true;
	atomic_store(&c->vcpu->invalidate, true);
	return 0;
}

/* ---- events and interrupts ---- */

static int get_vcpu_events(const struct call *c)
{
	state_get_events(c->vcpu, c->ptr);
	return 0;
}

static int set_vcpu_events(const struct call *c)
{
	return state_set_events(c->vcpu, c->ptr);
}

/* The client's own interrupt controller delivers. It asks ready_for_interrupt_injection first. */
static int interrupt(const struct call *c)
{
	const struct kvm_interrupt *in = c->ptr;
	struct x86_events *ev = &c->vcpu->cpu.ev;

	if (in->irq > 255)
		return -EINVAL;
	if (c->vcpu->cpu.lapic)
		return -ENXIO;
	ev->irq_injected = true;
	ev->irq_soft = false;
	ev->irq_vector = (uint8_t)in->irq;
	x86_cpu_attention(&c->vcpu->cpu, X86_ATT_IRQ);
	return 0;
}

static int nmi(const struct call *c)
{
	vcpu_queue_nmi(c->vcpu);
	return 0;
}

static int get_mp_state(const struct call *c)
{
	struct kvm_mp_state *out = c->ptr;

	vcpu_accept_events(c->vcpu);
	vcpu_pv_unhalt(c->vcpu);
	out->mp_state = c->vcpu->mp_state;
	return 0;
}

static int set_mp_state(const struct call *c)
{
	const struct kvm_mp_state *in = c->ptr;

	switch (in->mp_state) {
	case KVM_MP_STATE_RUNNABLE: break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!c->vcpu->cpu.lapic)
			return -EINVAL;
		break;
	default: return -EINVAL;
	}
	c->vcpu->mp_state = in->mp_state;
	if (in->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		/* Its vector came with KVM_SET_VCPU_EVENTS. */
		c->vcpu->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		vcpu_queue_sipi(c->vcpu, atomic_load(&c->vcpu->sipi_vector));
	}
	return 0;
}

static int get_lapic(const struct call *c)
{
	struct kvm_lapic_state *out = c->ptr;

	if (!c->vcpu->cpu.lapic)
		return -EINVAL;
	lapic_get_regs(&c->vcpu->cpu, out->regs);
	return 0;
}

static int set_lapic(const struct call *c)
{
	const struct kvm_lapic_state *in = c->ptr;
	int err;

	if (!c->vcpu->cpu.lapic)
		return -EINVAL;
	err = lapic_set_regs(&c->vcpu->cpu, in->regs);
	x86_cpu_attention(&c->vcpu->cpu, X86_ATT_IRQ);
	return err;
}

/* ---- the rest ---- */

static int translate(const struct call *c)
{
	struct kvm_translation *tr = c->ptr;
	struct x86_walk walk;

	tr->valid = x86_walk(&c->vcpu->cpu, GVA(tr->linear_address), X86_ACCESS_READ, X86_MMU_KERNEL, true, &walk);
	tr->physical_address = tr->valid ? walk.gpa.v : UINT64_MAX;
	tr->writeable = 1; /* the kernel does not say either */
	tr->usermode = 0;
	return 0;
}

static int set_tsc_khz(const struct call *c)
{
	uint32_t khz = (uint32_t)c->arg;

	if (khz > INT32_MAX)
		return -EINVAL;
	vcpu_tsc_khz_set(c->vcpu, khz ? khz : clock_host_khz());
	return 0;
}

static int get_tsc_khz(const struct call *c)
{
	return (int)atomic_load(&c->vcpu->tsc.khz);
}

/* "The guest was paused." */
static int kvmclock_ctrl(const struct call *c)
{
	return x86_pv_clock_stopped(&c->vcpu->cpu) ? 0 : -EINVAL;
}

static const struct request rows[] = {
	REQUEST(KVM_RUN, ARG_NONE, run), /* first: the one that is asked for often */
	REQUEST(KVM_GET_REGS, ARG_PTR, get_regs),
	REQUEST(KVM_SET_REGS, ARG_PTR, set_regs),
	REQUEST(KVM_GET_SREGS, ARG_PTR, get_sregs),
	REQUEST(KVM_SET_SREGS, ARG_PTR, set_sregs),
	REQUEST(KVM_GET_SREGS2, ARG_PTR, get_sregs2),
	REQUEST(KVM_SET_SREGS2, ARG_PTR, set_sregs2),
	REQUEST(KVM_GET_FPU, ARG_PTR, get_fpu),
	REQUEST(KVM_SET_FPU, ARG_PTR, set_fpu),
	REQUEST(KVM_GET_XSAVE, ARG_PTR, get_xsave),
	REQUEST(KVM_GET_XSAVE2, ARG_PTR, get_xsave),
	REQUEST(KVM_SET_XSAVE, ARG_PTR, set_xsave),
	REQUEST(KVM_GET_XCRS, ARG_PTR, get_xcrs),
	REQUEST(KVM_SET_XCRS, ARG_PTR, set_xcrs),
	REQUEST(KVM_GET_DEBUGREGS, ARG_PTR, get_debugregs),
	REQUEST(KVM_SET_DEBUGREGS, ARG_PTR, set_debugregs),
	REQUEST(KVM_GET_MSRS, ARG_PTR, get_msrs),
	REQUEST(KVM_SET_MSRS, ARG_PTR, set_msrs),
	REQUEST(KVM_GET_CPUID2, ARG_PTR, get_cpuid2),
	REQUEST(KVM_SET_CPUID2, ARG_PTR, set_cpuid2),
	REQUEST(KVM_GET_VCPU_EVENTS, ARG_PTR, get_vcpu_events),
	REQUEST(KVM_SET_VCPU_EVENTS, ARG_PTR, set_vcpu_events),
	REQUEST(KVM_INTERRUPT, ARG_PTR, interrupt),
	REQUEST(KVM_NMI, ARG_NONE, nmi),
	REQUEST(KVM_GET_MP_STATE, ARG_PTR, get_mp_state),
	REQUEST(KVM_SET_MP_STATE, ARG_PTR, set_mp_state),
	REQUEST(KVM_GET_LAPIC, ARG_PTR, get_lapic),
	REQUEST(KVM_SET_LAPIC, ARG_PTR, set_lapic),
	REQUEST(KVM_TRANSLATE, ARG_PTR, translate),
	REQUEST(KVM_SET_SIGNAL_MASK, ARG_PTR_OPT, set_signal_mask),
	REQUEST(KVM_ENABLE_CAP, ARG_PTR, enable_cap),
	REQUEST(KVM_SET_TSC_KHZ, ARG_VALUE, set_tsc_khz),
	REQUEST(KVM_GET_TSC_KHZ, ARG_VALUE, get_tsc_khz),
	REQUEST(KVM_KVMCLOCK_CTRL, ARG_VALUE, kvmclock_ctrl),
};

const struct request_table vcpu_requests = { rows, ARRAY_SIZE(rows) };
