/* SPDX-License-Identifier: Apache-2.0 */
/* What a vCPU takes next, and how: see event.h. */
#include "x86/event.h"

#include "base/stats.h"
#include "x86/exception.h"
#include "x86/fpu.h"
#include "x86/io.h"
#include "x86/tlb.h"
#include "x86/transfer_internal.h"
#include "x86/watch.h"

/* An event taken out of cpu->ev, on its way through the IDT. */
struct event {
	uint8_t vector;
	enum x86_int_kind kind;
	bool nmi;
	bool has_error;
	uint32_t error;
	uint64_t cr2;
	uint64_t dr6; /* #DB: what goes into DR6 */
};

/* ---- taking events from cpu->ev, in the order that KVM re-injects them ---- */

static struct event take_exception(struct x86_cpu *cpu)
{
	struct x86_events *ev = &cpu->ev;
	struct event e = {
		.vector = ev->exc_vector,
		.kind = X86_INT_EXCEPTION,
		.has_error = ev->exc_has_error,
		.error = ev->exc_error,
		.cr2 = ev->exc_cr2,
	};

	ev->exc_pending = false;
	if (e.vector == X86_DB) {
		e.dr6 = ev->db_pending;
		ev->db_pending = 0;
	}
	return e;
}

static bool take_event(struct x86_cpu *cpu, struct event *e)
{
	struct x86_events *ev = &cpu->ev;

	if (ev->exc_pending) {
		*e = take_exception(cpu);
	} else if (ev->nmi_injected) {
		ev->nmi_injected = false;
		*e = (struct event){ .vector = X86_NMI, .kind = X86_INT_HARDWARE, .nmi = true };
	} else if (ev->irq_injected) {
		ev->irq_injected = false;
		*e = (struct event){ .vector = ev->irq_vector, .kind = ev->irq_soft ? X86_INT_SOFT : X86_INT_HARDWARE };
	} else {
		return false;
	}
	return true;
}

/* Delivery could not be finished here: keep the event for the next run(). */
static void put_back(struct x86_cpu *cpu, const struct event *e)
{
	struct x86_events *ev = &cpu->ev;

	if (e->nmi) {
		ev->nmi_injected = true;
	} else if (e->kind == X86_INT_EXCEPTION) {
		ev->exc_pending = true;
		ev->exc_vector = e->vector;
		ev->exc_has_error = e->has_error;
		ev->exc_error = e->error;
		ev->exc_cr2 = e->cr2;
		ev->db_pending |= e->dr6;
	} else {
		ev->irq_injected = true;
		ev->irq_vector = e->vector;
		ev->irq_soft = e->kind == X86_INT_SOFT;
	}
}

/* ---- faults while delivering (SDM 3A tables 6-4, 6-5) ---- */

enum event_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum event_class classify(const struct event *e)
{
	if (e->kind != X86_INT_EXCEPTION)
		return CLASS_BENIGN;
	switch (e->vector) {
	case X86_DE:
	case X86_TS:
	case X86_NP:
	case X86_SS_EXC:
	case X86_GP:
	case X86_CP: return CLASS_CONTRIBUTORY;
	case X86_PF_EXC:
	case X86_VE: return CLASS_PAGE_FAULT;
	case X86_DF_EXC: return CLASS_DOUBLE_FAULT;
	default: return CLASS_BENIGN;
	}
}

/* What to deliver after `second` hit the delivery of `first`. False: triple fault. */
static bool combine(struct x86_cpu *cpu, const struct event *first, struct event *second)
{
	enum event_class a = classify(first), b = classify(second);

	if (b == CLASS_BENIGN || a == CLASS_BENIGN)
		return true; /* one after the other: the first comes back by itself, or is lost */
	if (a == CLASS_CONTRIBUTORY && b == CLASS_PAGE_FAULT)
		return true;
	if (a == CLASS_DOUBLE_FAULT)
		return false;
	if (b == CLASS_PAGE_FAULT)
		cpu->cr2 = second->cr2;
	*second = (struct event){
		.vector = X86_DF_EXC, .kind = X86_INT_EXCEPTION, .has_error = !cpu->real_mode, .error = 0
	};
	return true;
}

/* ---- delivery ---- */

/* State that goes with the event, and is there when its handler's first instruction runs. */
static void load_payload(struct x86_cpu *cpu, const struct event *e)
{
	if (e->kind != X86_INT_EXCEPTION)
		return;
	if (e->vector == X86_PF_EXC)
		cpu->cr2 = e->cr2;
	if (e->vector != X86_DB)
		return;
	/* B0..B3 tell of this #DB only, the others are sticky (SDM 3B 17.2.3). */
	if (e->dr6)
		cpu->dr[6] = (cpu->dr[6] & ~UINT64_C(0xf)) | e->dr6 | X86_DR6_FIXED1;
	cpu->dr[7] &= ~X86_DR7_GD;
	/* General detect is the one fault-class #DB that pushes RF (SDM 3B 17.3.1.1). */
	if (e->dr6 & X86_DR6_BD)
		cpu->rflags |= X86_RF;
}

/* 0, or the enum x86_unwind that delivery was left with. No local lives across the jump. */
static __attribute__((noinline)) int deliver_once(struct x86_cpu *cpu, const struct event *e)
{
	int how = setjmp(cpu->unwind);

	if (how)
		return how;
	x86_io_rewind(cpu);
	x86_interrupt(cpu, e->vector, e->kind, e->has_error, e->error, cpu->rip);
	return 0;
}

/*
 * Tables or stack outside RAM: there is no way to leave run() in the middle of a delivery, so the
 * access ends as on a bus where nobody answers. Only a broken guest sees this.
 */
static bool answer_as_idle_bus(struct x86_cpu *cpu)
{
	static const uint8_t idle[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (cpu->exit_reason != X86_EXIT_MMIO || !cpu->io.pending_valid)
		return false;
	x86_io_complete(cpu, idle);
	return true;
}

static enum x86_exit deliver(struct x86_cpu *cpu, struct event *e)
{
	for (;;) {
		int how;

		load_payload(cpu, e);
		how = deliver_once(cpu, e);
		if (how == 0)
			return X86_EXIT_NONE;
		if (how == X86_UNWIND_EXIT) {
			if (answer_as_idle_bus(cpu))
				continue;
			put_back(cpu, e);
			return cpu->exit_reason;
		}
		if (how == X86_UNWIND_EVENT) {
			struct event second = take_exception(cpu);

			x86_io_finish(cpu);
			if (!combine(cpu, e, &second))
				return X86_EXIT_SHUTDOWN;
			*e = second;
			STAT_INC(cpu, EXCEPTIONS);
			/* #AC of a misaligned CPL 3 stack begets #AC for ever, as on hardware; a kick must still work.
			 */
			if (atomic_load_explicit(&cpu->attention, memory_order_relaxed) & X86_ATT_EXIT) {
				put_back(cpu, e);
				return X86_EXIT_ATTENTION;
			}
		}
	}
}

static bool debugger_wants_db(const struct x86_cpu *cpu)
{
	return cpu->guest_debug_step || (cpu->guest_debug_dr[7] & 0xff);
}

static bool debug_exit(struct x86_cpu *cpu, const struct event *e)
{
	if (e->kind != X86_INT_EXCEPTION)
		return false;
	if (!(e->vector == X86_DB && debugger_wants_db(cpu)) && !(e->vector == X86_BP && cpu->guest_debug_bp))
		return false;
	cpu->debug_vector = e->vector;
	cpu->debug_dr6 = e->dr6 | X86_DR6_FIXED1;
	return true;
}

static void count(struct x86_cpu *cpu, const struct event *e)
{
	if (e->nmi)
		STAT_INC(cpu, NMIS);
	else if (e->kind == X86_INT_EXCEPTION)
		STAT_INC(cpu, EXCEPTIONS);
	else
		STAT_INC(cpu, INTERRUPTS);
}

enum x86_exit x86_deliver_event(struct x86_cpu *cpu)
{
	struct event e;
	jmp_buf saved;
	bool saved_valid = cpu->unwind_valid;
	enum x86_exit exit;

	if (!take_event(cpu, &e))
		return X86_EXIT_NONE;
	if (debug_exit(cpu, &e))
		return X86_EXIT_DEBUG;
	count(cpu, &e);
	/* What a faulting instruction had begun with devices is void: it starts afresh after the handler. */
	x86_io_finish(cpu);
	if (e.nmi)
		cpu->ev.nmi_masked = true;

	tz_copy(&saved, &cpu->unwind, sizeof(saved));
	cpu->unwind_valid = true;
	exit = deliver(cpu, &e);
	cpu->unwind_valid = saved_valid;
	tz_copy(&cpu->unwind, &saved, sizeof(saved));
	x86_io_finish(cpu);
	return exit;
}

/* ---- polling ---- */

/* Take over those of `bits` that were seen set; a locked access only if there is one. */
static void serve(struct x86_cpu *cpu, uint32_t bits)
{
	if (bits)
		atomic_fetch_and_explicit(&cpu->attention, ~bits, memory_order_seq_cst);
}

static bool window_open(const struct x86_cpu *cpu)
{
	return (cpu->rflags & X86_IF) && !cpu->ev.shadow;
}

static bool nmi_deliverable(const struct x86_cpu *cpu)
{
	return atomic_load_explicit(&cpu->ev.nmi_pending, memory_order_acquire) && !cpu->ev.nmi_masked;
}

static bool irq_pending(struct x86_cpu *cpu)
{
	x86_fpu_put(cpu);
	return cpu->ops->irq_pending(cpu);
}

static bool trap_deliverable(const struct x86_cpu *cpu)
{
	return cpu->ev.db_pending && !(cpu->ev.shadow & X86_SHADOW_MOV_SS);
}

static enum x86_exit deliver_trap(struct x86_cpu *cpu)
{
	cpu->ev.exc_pending = true;
	cpu->ev.exc_vector = X86_DB;
	cpu->ev.exc_has_error = false;
	cpu->ev.exc_error = 0;
	return x86_deliver_event(cpu);
}

static enum x86_exit deliver_nmi(struct x86_cpu *cpu)
{
	atomic_fetch_sub_explicit(&cpu->ev.nmi_pending, 1, memory_order_seq_cst);
	cpu->ev.nmi_injected = true;
	return x86_deliver_event(cpu);
}

static enum x86_exit poll_irq(struct x86_cpu *cpu)
{
	int vector;

	cpu->irq_quiet = false;
	if (!window_open(cpu))
		return X86_EXIT_NONE; /* who opens it asks again */
	if (!irq_pending(cpu)) {
		cpu->irq_quiet = !cpu->run_request;
		return cpu->run_request ? X86_EXIT_IRQ_WINDOW : X86_EXIT_NONE;
	}
	vector = cpu->ops->irq_ack(cpu);
	/* There may be more than one, and a trap gate leaves IF alone. */
	x86_cpu_attention(cpu, X86_ATT_IRQ);
	if (vector < 0)
		return X86_EXIT_NONE;
	cpu->ev.irq_injected = true;
	cpu->ev.irq_soft = false;
	cpu->ev.irq_vector = (uint8_t)vector;
	return x86_deliver_event(cpu);
}

enum x86_exit x86_poll(struct x86_cpu *cpu)
{
	uint32_t att = atomic_load_explicit(&cpu->attention, memory_order_acquire);

	/* Each bit is cleared before its cause is looked at, so that one set meanwhile is not lost. */
	if (att & X86_ATT_TLB_FLUSH) {
		serve(cpu, X86_ATT_TLB_FLUSH);
		x86_tlb_flush_all(cpu);
		STAT_INC(cpu, TLB_FLUSHES_CLIENT);
	}
	if (att & X86_ATT_EXIT)
		return X86_EXIT_ATTENTION;
	if (cpu->ev.exc_pending || cpu->ev.nmi_injected || cpu->ev.irq_injected)
		return x86_deliver_event(cpu);
	serve(cpu, att & X86_ATT_TRAP);
	if (trap_deliverable(cpu))
		return deliver_trap(cpu);
	if (att & X86_ATT_SMI) {
		/* System management mode is not offered, and SMIs have nowhere to go (docs/caveats.md). */
		serve(cpu, X86_ATT_SMI);
		cpu->ev.smi_pending = false;
	}
	serve(cpu, att & X86_ATT_NMI);
	/* The shadow of STI keeps NMIs out too, as in KVM (SDM 2B STI allows it). */
	if (nmi_deliverable(cpu) && !cpu->ev.shadow)
		return deliver_nmi(cpu);
	serve(cpu, att & X86_ATT_IRQ);
	return poll_irq(cpu);
}

bool x86_interrupt_window_open(const struct x86_cpu *cpu)
{
	const struct x86_events *ev = &cpu->ev;

	return window_open(cpu) && !ev->exc_pending && !ev->nmi_injected && !ev->irq_injected;
}

bool x86_has_wake_event(struct x86_cpu *cpu)
{
	const struct x86_events *ev = &cpu->ev;

	if (ev->exc_pending || ev->nmi_injected || ev->irq_injected || ev->db_pending || nmi_deliverable(cpu))
		return true;
	return (cpu->rflags & X86_IF) && irq_pending(cpu);
}

/* ---- single steps ---- */

bool x86_needs_stepping(const struct x86_cpu *cpu)
{
	/* RF holds for one instruction; watched data must trap right behind the one that touched it. */
	return (cpu->rflags & (X86_TF | X86_RF)) || cpu->ev.shadow || cpu->dr_exec || cpu->dr_watch ||
	       cpu->ev.db_pending || cpu->guest_debug_step;
}

/* B bits of the instruction breakpoints at RIP; 0 if none of those is enabled (SDM 3B 17.2.4, 17.3.1.1). */
static uint64_t match_exec(const struct x86_cpu *cpu)
{
	const uint64_t *dr = x86_watch_regs(cpu);
	uint64_t linear = cpu->rip, hits = 0;
	bool enabled = false;

	if (!x86_long64(cpu))
		linear = (uint32_t)(cpu->seg[X86_CS].base + cpu->rip);
	for (unsigned n = 0; n < 4; n++) {
		if ((dr[7] >> (16 + 4 * n) & 3) || dr[n] != linear)
			continue;
		hits |= BIT64(n);
		enabled |= (dr[7] >> (2 * n) & 3) != 0;
	}
	return enabled ? hits : 0;
}

/* Behind MOV SS Intel ignores instruction breakpoints (SDM 3A 6.8.3); AMD holds back data breakpoints alone. */
static bool inhibits_exec(const struct x86_cpu *cpu)
{
	return (cpu->ev.shadow & X86_SHADOW_MOV_SS) && !x86_vendor_is_amd(cpu);
}

void x86_step_begin(struct x86_cpu *cpu)
{
	uint64_t hits;

	cpu->ev.no_step = false;
	/* A half-done instruction that is restarted was checked when it began. */
	if (cpu->dr_exec && !(cpu->rflags & X86_RF) && !cpu->io.logged && !inhibits_exec(cpu)) {
		hits = match_exec(cpu);
		if (hits) {
			cpu->ev.db_pending |= hits;
			x86_raise(cpu, X86_DB);
		}
	}
	/* RF suppressed this check only. Should the instruction fault, the pushed image has it again. */
	cpu->rflags &= ~X86_RF;
}

void x86_step_end(struct x86_cpu *cpu, uint64_t rflags_before, uint8_t shadow_before)
{
	struct x86_events *ev = &cpu->ev;

	/* A second MOV SS in a row does not extend the shadow (SDM 3A 6.8.3). */
	if (ev->shadow & shadow_before) {
		ev->shadow &= ~shadow_before;
		x86_cpu_attention(cpu, X86_ATT_IRQ | X86_ATT_NMI);
	}
	if (((rflags_before & X86_TF) && !ev->no_step) || cpu->guest_debug_step) {
		/* A trap that MOV SS would hold back is not held, but lost (SDM 3A 6.8.3). */
		if (!(ev->shadow & X86_SHADOW_MOV_SS) || cpu->guest_debug_step)
			ev->db_pending |= X86_DR6_BS;
	}
	if (ev->db_pending && (!(ev->shadow & X86_SHADOW_MOV_SS) || cpu->guest_debug_step))
		x86_raise(cpu, X86_DB);
}
