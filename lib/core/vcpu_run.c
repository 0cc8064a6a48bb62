/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM_RUN: run the engine, serve what the library serves itself, turn the rest into KVM_EXIT_*.
 * Inside this file: > 0 go on, 0 return to the client, < 0 return -errno.
 */
#include <errno.h>
#include <string.h>

#include "core/ticker.h"
#include "core/vm.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/io.h"
#include "x86/tlb.h"

#define GO_ON 1
#define REST_MS 10 /* what is arranged for a long sleep is arranged no more often */

/* The client may write it at any time. */
static bool immediate_exit(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_RELAXED) != 0;
}

static int interrupted(struct vcpu *vcpu)
{
	STAT_INC(&vcpu->cpu, EXIT_SIGNAL);
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return -EINTR;
}

static int exit_pio(struct vcpu *vcpu)
{
	const struct x86_io_access *io = &vcpu->cpu.io.pending;
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + VCPU_PIO_OFFSET;

	STAT_INC(&vcpu->cpu, EXIT_PIO);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = io->write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = io->len;
	run->io.port = (uint16_t)io->addr;
	run->io.count = 1;
	run->io.data_offset = VCPU_PIO_OFFSET;
	if (io->write)
		memcpy(data, io->data, sizeof(io->data));
	return 0;
}

static int exit_mmio(struct vcpu *vcpu)
{
	const struct x86_io_access *io = &vcpu->cpu.io.pending;
	struct kvm_run *run = vcpu->run;

	STAT_INC(&vcpu->cpu, EXIT_MMIO);
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = io->addr;
	run->mmio.len = io->len;
	run->mmio.is_write = io->write;
	if (io->write)
		memcpy(run->mmio.data, io->data, sizeof(io->data));
	return 0;
}

static int exit_hlt(struct vcpu *vcpu)
{
	STAT_INC(&vcpu->cpu, HALTS);
	if (vcpu->cpu.lapic) {
		vcpu->mp_state = KVM_MP_STATE_HALTED;
		return GO_ON;
	}
	STAT_INC(&vcpu->cpu, EXIT_HLT);
	vcpu->run->exit_reason = KVM_EXIT_HLT;
	return 0;
}

static int exit_shutdown(struct vcpu *vcpu)
{
	STAT_INC(&vcpu->cpu, EXIT_SHUTDOWN);
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

static int exit_irq_window(struct vcpu *vcpu)
{
	STAT_INC(&vcpu->cpu, EXIT_IRQ_WINDOW);
	vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
	return 0;
}

static int exit_debug(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct kvm_debug_exit_arch *arch = &vcpu->run->debug.arch;

	STAT_INC(cpu, EXIT_DEBUG);
	vcpu->run->exit_reason = KVM_EXIT_DEBUG;
	arch->exception = cpu->debug_vector;
	arch->pc = (cpu->code_size == 8 ? 0 : cpu->seg[X86_CS].base) + cpu->rip;
	arch->dr6 = cpu->debug_dr6 | X86_DR6_FIXED1;
	arch->dr7 = cpu->guest_debug_dr[7];
	return 0;
}

static int exit_internal_error(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	STAT_INC(&vcpu->cpu, EXIT_INTERNAL_ERROR);
	vcpu->in_error = true;
	memcpy(vcpu->error, vcpu->cpu.error_text, sizeof(vcpu->error));
	vcpu->error[sizeof(vcpu->error) - 1] = 0;
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 0;
	return 0;
}

static int go_on(struct vcpu *vcpu)
{
	(void)vcpu;
	return GO_ON;
}

static int (*const exit_handlers[X86_EXIT_COUNT])(struct vcpu *) = {
	[X86_EXIT_NONE] = go_on,
	[X86_EXIT_PIO] = exit_pio,
	[X86_EXIT_MMIO] = exit_mmio,
	[X86_EXIT_HLT] = exit_hlt,
	[X86_EXIT_SHUTDOWN] = exit_shutdown,
	[X86_EXIT_ATTENTION] = go_on,
	[X86_EXIT_IRQ_WINDOW] = exit_irq_window,
	[X86_EXIT_DEBUG] = exit_debug,
	[X86_EXIT_INSN_DONE] = go_on,
	[X86_EXIT_INTERNAL_ERROR] = exit_internal_error,
};

static int run_engine(struct vcpu *vcpu, bool once)
{
	const struct tz_engine_ops *engine = vcpu->vm->engine;
	struct x86_cpu *cpu = &vcpu->cpu;
	enum x86_exit why;
	uint64_t start;

	vcpu_enter(vcpu);
	/*
	 * The engine polls between instructions only, and may have one half done: what it knows
	 * about memory must be renewed here, before it goes on with that one.
	 */
	if (unlikely(atomic_load(&cpu->attention) & X86_ATT_TLB_FLUSH)) {
		atomic_fetch_and(&cpu->attention, ~X86_ATT_TLB_FLUSH);
		x86_tlb_flush_all(cpu);
		STAT_INC(cpu, TLB_FLUSHES_CLIENT);
	}
	if (unlikely(atomic_load(&vcpu->invalidate)) && atomic_exchange(&vcpu->invalidate, false) && engine->invalidate)
		engine->invalidate(cpu);
	start = clock_host_cycles();
	vcpu_pv_enter(vcpu, start);
	why = engine->run(cpu, once);
	cpu->undisturbed = true;
	STAT_ADD(cpu, ENGINE_NS, clock_cycles_to_ns(clock_host_cycles() - start));
	vcpu_pv_leave(vcpu, why == X86_EXIT_HLT);
	vcpu_leave(vcpu);
	return exit_handlers[why](vcpu);
}

/* Blocked no more? HLT ends with an event, the wait for SIPI with one. */
static bool runnable(struct vcpu *vcpu)
{
	vcpu_accept_events(vcpu);
	vcpu_pv_unhalt(vcpu);
	if (vcpu->mp_state == KVM_MP_STATE_HALTED && x86_has_wake_event(&vcpu->cpu))
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
	return vcpu->mp_state == KVM_MP_STATE_RUNNABLE;
}

/*
 * Whoever sleeps often is busy: for a vCPU that waits for a disk every 100 microseconds the timer's thread and the
 * ticker wake seldom, and it would cost more to hold them off each time.
 */
static bool rests(struct vcpu *vcpu, uint64_t now)
{
	if (now - vcpu->rested < (uint64_t)REST_MS * clock_host_khz())
		return false;
	vcpu->rested = now;
	return true;
}

/* Until something may have changed. True: a signal ends KVM_RUN. */
static bool sleep_once(struct vcpu *vcpu, bool lent)
{
	struct vm *vm = vcpu->vm;
	uint64_t until = UINT64_MAX;

	if (lent) {
		until = timers_take(&vm->timers, IRQCHIP_TIMER_LAPIC(vcpu->cpu.id));
		if (!until) {
			/* What it kicks is awake; who kicks meanwhile is seen at the next look. */
			atomic_store(&vcpu->blocked, false);
			irqchip_timer_expired(vm_irqchip(vm), IRQCHIP_TIMER_LAPIC(vcpu->cpu.id));
			atomic_store(&vcpu->blocked, true);
			return false;
		}
	}
	return signals_sleep(&vcpu->signals, vcpu->wake_fd, until);
}

static int block(struct vcpu *vcpu)
{
	uint64_t start = clock_host_cycles();
	bool rest = rests(vcpu, start), lent = rest && vcpu->cpu.lapic;
	int r = GO_ON;

	if (lent)
		timers_lend(&vcpu->vm->timers, IRQCHIP_TIMER_LAPIC(vcpu->cpu.id));
	if (rest)
		ticker_rest();
	/* Say so before looking: a kick after the look finds the flag and writes wake_fd. */
	atomic_store(&vcpu->blocked, true);
	while (!runnable(vcpu)) {
		atomic_fetch_and(&vcpu->cpu.attention, ~X86_ATT_EXIT);
		if (immediate_exit(vcpu) || sleep_once(vcpu, lent)) {
			r = interrupted(vcpu);
			break;
		}
	}
	atomic_store(&vcpu->blocked, false);
	if (lent)
		timers_return(&vcpu->vm->timers, IRQCHIP_TIMER_LAPIC(vcpu->cpu.id));
	STAT_ADD(&vcpu->cpu, HALT_NS, clock_cycles_to_ns(clock_host_cycles() - start));
	return r;
}

/* One stretch of guest code or of sleep. */
static int run_stretch(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	/* Clear before looking: who sets it later is seen at the engine's first poll. */
	bool look = atomic_fetch_and(&cpu->attention, ~X86_ATT_EXIT) & X86_ATT_EXIT;
	bool stop = immediate_exit(vcpu) || (look && signals_pending(&vcpu->signals));

	if (cpu->io.logged && (stop || atomic_load(&vcpu->requests))) {
		/* The client did its part of an instruction: finish that one and no more. */
		x86_cpu_attention(cpu, X86_ATT_EXIT);
		return run_engine(vcpu, true);
	}
	vcpu_accept_events(vcpu);
	if (unlikely(vcpu->tpr_lowered)) {
		vcpu->tpr_lowered = false;
		vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
		return 0;
	}
	if (stop)
		return interrupted(vcpu);
	if (vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
		return block(vcpu);
	return run_engine(vcpu, false);
}

/* What the client left in the run area for the access it was asked to do. */
static void complete_io(struct vcpu *vcpu)
{
	struct x86_io *io = &vcpu->cpu.io;
	uint8_t data[8];

	if (!io->pending_valid)
		return;
	if (io->pending.pio)
		memcpy(data, (uint8_t *)vcpu->run + VCPU_PIO_OFFSET, sizeof(data));
	else
		memcpy(data, vcpu->run->mmio.data, sizeof(data));
	x86_io_complete(&vcpu->cpu, data);
}

static int run_blocked(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct kvm_run *run = vcpu->run;
	int r;

	cpu->undisturbed = false;
	run->exit_reason = KVM_EXIT_UNKNOWN;
	run->flags = 0;
	vcpu->in_error = false;
	if (!cpu->lapic) {
		if (run->cr8 > 15)
			return -EINVAL;
		cpu->cr8 = vcpu->cr8_seen = run->cr8;
	}
	complete_io(vcpu);
	vcpu->has_run = true;
	cpu->run_request = !cpu->lapic && run->request_interrupt_window;
	if (cpu->run_request)
		x86_cpu_attention(cpu, X86_ATT_IRQ);
	/* Signals that only KVM_SET_SIGNAL_MASK lets through may have waited since before. */
	if (vcpu->signals.has_mask)
		x86_cpu_attention(cpu, X86_ATT_EXIT);
	do
		r = run_stretch(vcpu);
	while (r > 0);
	return r;
}

/* The fields that are valid after every KVM_RUN. */
static void publish(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct kvm_run *run = vcpu->run;

	run->if_flag = (cpu->rflags & X86_IF) != 0;
	run->cr8 = x86_read_cr8(cpu);
	run->apic_base = cpu->msr.apic_base;
	run->ready_for_interrupt_injection =
		cpu->lapic || (x86_interrupt_window_open(cpu) && !cpu->ev.irq_injected && !cpu->ev.exc_pending);
}

int vcpu_run(struct vcpu *vcpu)
{
	int r;

	signals_block(&vcpu->signals);
	r = run_blocked(vcpu);
	publish(vcpu);
	signals_restore(&vcpu->signals);
	return r;
}
