/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt and exception delivery proper: from vector to handler (SDM 3A 6.11 to 6.14; SDM 3B 20.1.4,
 * 20.3 for real and virtual-8086 mode; SDM 2 "INT n/INTO/INT3/INT1"). Nothing is committed
 * before the last check: an exception here leaves the interrupted state as it was.
 */
#include "x86/access.h"
#include "x86/event.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

struct interrupt {
	uint8_t vector;
	bool soft; /* INT n, INT3, INTO: gate DPL counts, EXT does not */
	bool has_error;
	uint32_t error;
	uint32_t ext;
	uint64_t return_rip;
	uint64_t flags; /* the image to push */
};

/* Fault-class exceptions push RF = 1 (SDM 3B 17.3.1.1). Not #DB: its instruction-breakpoint kind does not. */
#define FAULTS                                                                                                         \
	(BIT32(X86_DE) | BIT32(X86_BR) | BIT32(X86_UD) | BIT32(X86_NM) | BIT32(X86_TS) | BIT32(X86_NP) |               \
	 BIT32(X86_SS_EXC) | BIT32(X86_GP) | BIT32(X86_PF_EXC) | BIT32(X86_MF) | BIT32(X86_AC_EXC) | BIT32(X86_XM) |   \
	 BIT32(X86_VE) | BIT32(X86_CP))

/* Error code that names an IDT entry (SDM 3A 6.13). */
static uint32_t idt_error(const struct interrupt *i)
{
	return i->vector * 8u + 2 + i->ext;
}

/* ---- real mode, and virtual-8086 handlers of virtual-8086 interrupts ---- */

static void enter_ivt(struct x86_cpu *cpu, const struct interrupt *i, uint64_t table, uint64_t flags)
{
	uint32_t entry = x86_read32_mmu(cpu, x86_system_address(cpu, table + i->vector * 4u), x86_mmu_system(cpu));
	struct x86_seg cs = x86_seg_real(cpu, X86_CS, (uint16_t)(entry >> 16));
	struct x86_frame f;

	x86_frame_begin(cpu, &f, 2, i->ext);
	x86_frame_push(cpu, &f, flags);
	x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel);
	x86_frame_push(cpu, &f, i->return_rip);
	x86_check_target(cpu, &cs, (uint16_t)entry, i->ext);
	x86_frame_probe(cpu, &f);
	x86_frame_write(cpu, &f);
	x86_stack_set(cpu, f.sp);
	x86_commit_code(cpu, &cs, cpu->cpl, (uint16_t)entry);
}

static void enter_real(struct x86_cpu *cpu, const struct interrupt *i)
{
	if (i->vector * 4u + 3 > cpu->idtr.limit)
		x86_raise_error(cpu, X86_GP, idt_error(i));
	enter_ivt(cpu, i, cpu->idtr.base, i->flags);
	cpu->rflags &= ~(X86_IF | X86_TF | X86_AC | X86_RF);
	x86_mode_update(cpu);
}

/* The TSS's software interrupt redirection bitmap lies in the 32 bytes below the I/O bitmap (SDM 3B 20.3.3). */
static bool redirected_to_monitor(struct x86_cpu *cpu, uint8_t vector)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];
	unsigned mmu = x86_mmu_system(cpu);
	uint32_t at;

	if ((tr->ar & X86_AR_TYPE) != X86_SYS_TSS_BUSY || tr->limit < X86_TSS32_SIZE - 1)
		x86_raise_gp0(cpu);
	at = x86_read16_mmu(cpu, x86_system_address(cpu, tr->base + X86_TSS_IO_BASE), mmu) - 32u + vector / 8;
	if (at > tr->limit)
		x86_raise_gp0(cpu);
	return x86_read8_mmu(cpu, x86_system_address(cpu, tr->base + at), mmu) >> (vector & 7) & 1;
}

/* INT n in virtual-8086 mode (SDM 3B table 20-2). True: the 8086 program's own handler was entered. */
static bool enter_v8086(struct x86_cpu *cpu, const struct interrupt *i)
{
	bool iopl3 = (cpu->rflags & X86_IOPL) == X86_IOPL;
	uint64_t flags = i->flags;

	if ((cpu->cr4 & X86_CR4_VME) && !redirected_to_monitor(cpu, i->vector)) {
		if (!iopl3)
			flags = (flags & ~X86_IF) | X86_IOPL | (flags & X86_VIF ? X86_IF : 0);
		enter_ivt(cpu, i, 0, flags);
		cpu->rflags &= ~(X86_TF | X86_RF | (iopl3 ? X86_IF : X86_VIF));
		return true;
	}
	if (!iopl3)
		x86_raise_gp0(cpu);
	return false;
}

/* ---- protected mode and long mode ---- */

static void read_gate(struct x86_cpu *cpu, const struct interrupt *i, struct x86_desc *d)
{
	unsigned size = cpu->long_mode ? 16 : 8, mmu = x86_mmu_system(cpu);

	if (i->vector * size + size - 1 > cpu->idtr.limit)
		x86_raise_error(cpu, X86_GP, idt_error(i));
	d->gva = x86_system_address(cpu, cpu->idtr.base + i->vector * size);
	d->lo = x86_read64_mmu(cpu, d->gva, mmu);
	d->hi = size == 16 ? x86_read64_mmu(cpu, d->gva + 8, mmu) : 0;
}

/* Choose the handler's stack; returns what SS will be. */
static struct x86_seg begin_frame(struct x86_cpu *cpu, const struct interrupt *i, const struct x86_desc *gate,
				  unsigned width, unsigned cpl, struct x86_frame *f)
{
	unsigned ist = gate->lo >> 32 & 7;
	struct x86_tss_stack top;
	struct x86_seg ss = cpu->seg[X86_SS];

	if (cpu->long_mode) {
		uint64_t sp = cpu->gpr[X86_RSP];

		if (ist)
			sp = x86_tss_ist_read_ext(cpu, ist, i->ext);
		else if (cpl != cpu->cpl)
			sp = x86_tss_stack_read_ext(cpu, cpl, i->ext).sp;
		if (cpl != cpu->cpl)
			ss = x86_seg_null((uint16_t)cpl, cpl);
		/* The frame is aligned to 16 bytes (SDM 3A 6.14.2). */
		x86_frame_begin_on(cpu, f, &ss, sp & ~UINT64_C(15), 8, cpl, 8, i->ext);
	} else if (cpl != cpu->cpl) {
		top = x86_tss_stack_read_ext(cpu, cpl, i->ext);
		ss = x86_stack_segment_prepare(cpu, top.ss, cpl, i->ext);
		x86_frame_begin_on(cpu, f, &ss, top.sp, ss.ar & X86_AR_DB ? 4 : 2, cpl, width, (top.ss & ~3u) | i->ext);
	} else {
		x86_frame_begin(cpu, f, width, i->ext);
	}
	return ss;
}

static void push_frame(struct x86_cpu *cpu, const struct interrupt *i, unsigned cpl, struct x86_frame *f)
{
	if (cpu->v8086) {
		x86_frame_push(cpu, f, cpu->seg[X86_GS].sel);
		x86_frame_push(cpu, f, cpu->seg[X86_FS].sel);
		x86_frame_push(cpu, f, cpu->seg[X86_DS].sel);
		x86_frame_push(cpu, f, cpu->seg[X86_ES].sel);
	}
	if (cpu->long_mode || cpl != cpu->cpl) {
		x86_frame_push(cpu, f, cpu->seg[X86_SS].sel);
		x86_frame_push(cpu, f, cpu->gpr[X86_RSP]);
	}
	x86_frame_push(cpu, f, i->flags);
	x86_frame_push(cpu, f, cpu->seg[X86_CS].sel);
	x86_frame_push(cpu, f, i->return_rip);
	if (i->has_error)
		x86_frame_push(cpu, f, i->error);
}

static void enter_gate(struct x86_cpu *cpu, const struct interrupt *i, const struct x86_desc *gate)
{
	struct x86_gate g = x86_gate_decode(cpu, gate);
	bool masks_if = !(gate->lo >> 40 & 1); /* interrupt gates are even, trap gates odd */
	struct x86_desc d;
	struct x86_seg cs = x86_gate_code(cpu, g.sel, i->ext, &d), ss;
	unsigned cpl = x86_ar_is_conforming(cs.ar) ? cpu->cpl : X86_AR_DPL(cs.ar);
	bool was_v8086 = cpu->v8086;
	struct x86_frame f;

	if (was_v8086 && cpl != 0)
		x86_raise_error(cpu, X86_GP, (g.sel & ~3u) | i->ext);
	ss = begin_frame(cpu, i, gate, g.width, cpl, &f);
	push_frame(cpu, i, cpl, &f);
	x86_check_target(cpu, &cs, g.offset, i->ext);
	x86_desc_set_accessed(cpu, &d);
	x86_frame_probe(cpu, &f);
	x86_frame_write(cpu, &f);

	cpu->rflags &= ~(X86_TF | X86_NT | X86_RF | X86_VM | (masks_if ? X86_IF : 0));
	cpu->v8086 = false;
	x86_commit_code(cpu, &cs, cpl, g.offset);
	cpu->seg[X86_SS] = ss;
	if (was_v8086) {
		cpu->seg[X86_ES] = cpu->seg[X86_DS] = x86_seg_null(0, 0);
		cpu->seg[X86_FS] = cpu->seg[X86_GS] = x86_seg_null(0, 0);
	}
	x86_mode_update(cpu);
	x86_stack_set(cpu, f.sp);
}

static void enter_protected(struct x86_cpu *cpu, const struct interrupt *i)
{
	struct x86_desc d;
	uint32_t ar;
	unsigned type;
	bool legal;

	read_gate(cpu, i, &d);
	ar = x86_desc_ar(&d);
	type = ar & (X86_AR_S | X86_AR_TYPE);
	legal = type == X86_SYS_INT || type == X86_SYS_TRAP ||
		(!cpu->long_mode && (type == X86_SYS_INT16 || type == X86_SYS_TRAP16 || type == X86_SYS_TASK_GATE));
	if (!legal || (i->soft && X86_AR_DPL(ar) < cpu->cpl))
		x86_raise_error(cpu, X86_GP, idt_error(i));
	if (!(ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, idt_error(i));
	if (type != X86_SYS_TASK_GATE) {
		enter_gate(cpu, i, &d);
		return;
	}
	x86_task_enter(cpu, &(struct x86_task){ .sel = (uint16_t)(d.lo >> 16),
						.why = X86_TASK_GATE,
						.next_rip = i->return_rip,
						.flags = i->flags,
						.has_error = i->has_error,
						.error = i->error,
						.ext = i->ext });
}

/* A debugger above (KVM_SET_GUEST_DEBUG) gets INT3 and INT1 before the guest does; RIP stays on them. */
static void offer_to_debugger(struct x86_cpu *cpu, uint8_t vector, enum x86_int_kind kind)
{
	bool bp = kind == X86_INT_SOFT_TRAP && vector == X86_BP && cpu->guest_debug_bp;
	bool db = kind == X86_INT_ICEBP && cpu->guest_debug_step;

	if (!bp && !db)
		return;
	cpu->debug_vector = vector;
	cpu->debug_dr6 = X86_DR6_FIXED1;
	x86_exit_unwind(cpu, X86_EXIT_DEBUG);
}

/* A shadow covers one instruction boundary only: this one. What waited behind it looks again. */
static void end_shadow(struct x86_cpu *cpu)
{
	if (!cpu->ev.shadow)
		return;
	cpu->ev.shadow = 0;
	x86_cpu_attention(cpu, X86_ATT_IRQ | X86_ATT_NMI);
}

/* INT1 is a #DB: the one that MOV SS held back for a data breakpoint goes with it. */
static void report_debug(struct x86_cpu *cpu, uint64_t pending)
{
	if (pending)
		cpu->dr[6] = (cpu->dr[6] & ~UINT64_C(0xf)) | pending | X86_DR6_FIXED1;
	cpu->ev.db_pending &= ~pending;
}

void x86_interrupt(struct x86_cpu *cpu, uint8_t vector, enum x86_int_kind kind, bool has_error, uint32_t error,
		   uint64_t return_rip)
{
	struct interrupt i = {
		.vector = vector,
		.soft = kind == X86_INT_SOFT || kind == X86_INT_SOFT_TRAP,
		.has_error = has_error,
		.error = error,
		.return_rip = return_rip,
		.flags = cpu->rflags,
	};
	uint64_t pending = cpu->ev.db_pending;

	offer_to_debugger(cpu, vector, kind);
	i.ext = !i.soft;
	if (kind == X86_INT_EXCEPTION && vector < 32 && (FAULTS >> vector & 1))
		i.flags |= X86_RF;
	if (kind == X86_INT_ICEBP) /* no error bit of INT1 itself; EXT is set all the same (SDM 3A 6.13) */
		i.has_error = false;
	if (cpu->real_mode)
		enter_real(cpu, &i);
	else if (!(cpu->v8086 && kind == X86_INT_SOFT && enter_v8086(cpu, &i)))
		enter_protected(cpu, &i);
	cpu->ev.no_step = true;
	if (kind == X86_INT_ICEBP)
		report_debug(cpu, pending);
	end_shadow(cpu);
}
