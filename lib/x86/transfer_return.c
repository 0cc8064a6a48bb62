/* SPDX-License-Identifier: Apache-2.0 */
/* Far RET and IRET in every mode (SDM 2 RET, IRET; SDM 3B 20.2.5 for virtual-8086 mode). */
#include "x86/access.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

/* What any IRET may change; RF, AC and ID only with a 32- or 64-bit image. */
#define IRET_FLAGS (X86_ARITH_FLAGS | X86_TF | X86_DF | X86_NT)
#define IRET_FLAGS_WIDE (X86_RF | X86_AC | X86_ID)

/* CS, SS and their descriptors on the way out, checked. */
struct far_return {
	struct x86_seg cs, ss;
	struct x86_desc cs_desc, ss_desc;
	uint64_t rip, rsp;
	unsigned cpl; /* to return to */
	bool outer;
	bool ss_null;
};

static void check_code(struct x86_cpu *cpu, struct far_return *r, uint16_t sel)
{
	unsigned rpl = sel & 3, dpl;

	if (x86_sel_null(sel))
		x86_raise_gp0(cpu);
	x86_desc_read(cpu, sel, X86_GP, 0, &r->cs_desc);
	x86_desc_to_seg(&r->cs_desc, sel, &r->cs);
	dpl = X86_AR_DPL(r->cs.ar);
	if (!x86_ar_is_code(r->cs.ar) || rpl < cpu->cpl)
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (x86_ar_is_conforming(r->cs.ar) ? dpl > rpl : dpl != rpl)
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (cpu->long_mode && (r->cs.ar & X86_AR_L) && (r->cs.ar & X86_AR_DB))
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!(r->cs.ar & X86_AR_P))
		x86_raise_error(cpu, X86_NP, sel & ~3u);
	r->cpl = rpl;
	r->outer = rpl != cpu->cpl;
}

static void check_stack(struct x86_cpu *cpu, struct far_return *r, uint16_t sel)
{
	bool to_64bit = cpu->long_mode && (r->cs.ar & X86_AR_L);

	r->ss_null = x86_sel_null(sel);
	if (r->ss_null) {
		if (!to_64bit || r->cpl == 3)
			x86_raise_gp0(cpu);
		r->ss = x86_seg_null(sel, r->cpl);
		return;
	}
	x86_desc_read(cpu, sel, X86_GP, 0, &r->ss_desc);
	x86_desc_to_seg(&r->ss_desc, sel, &r->ss);
	if ((sel & 3u) != r->cpl || !x86_ar_is_writable_data(r->ss.ar) || X86_AR_DPL(r->ss.ar) != r->cpl)
		x86_raise_error(cpu, X86_GP, sel & ~3u);
	if (!(r->ss.ar & X86_AR_P))
		x86_raise_error(cpu, X86_SS_EXC, sel & ~3u);
}

/* Data segments that the new privilege may not use become null (SDM 2 RET, "return to outer privilege level"). */
static void drop_privileged_segments(struct x86_cpu *cpu, unsigned cpl)
{
	static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct x86_seg *s = &cpu->seg[data[i]];

		if ((s->ar & X86_AR_UNUSABLE) || X86_AR_DPL(s->ar) >= cpl || x86_ar_is_conforming(s->ar))
			continue;
		s->sel = 0;
		s->ar = X86_AR_UNUSABLE;
	}
}

static void set_accessed(struct x86_cpu *cpu, struct far_return *r, bool with_stack)
{
	x86_desc_set_accessed(cpu, &r->cs_desc);
	if (!with_stack || r->ss_null)
		return;
	x86_desc_set_accessed(cpu, &r->ss_desc);
	r->ss.ar |= X86_AR_ACCESSED;
}

static void commit_with_stack(struct x86_cpu *cpu, const struct far_return *r)
{
	x86_commit_code(cpu, &r->cs, r->cpl, r->rip);
	cpu->seg[X86_SS] = r->ss;
	x86_mode_update(cpu);
	x86_stack_set(cpu, r->rsp);
	if (r->outer)
		drop_privileged_segments(cpu, r->cpl);
}

/* ---- RET ---- */

static void return_real(struct x86_cpu *cpu, unsigned opsize, uint16_t pop_bytes)
{
	uint64_t rip = x86_stack_peek(cpu, 0, opsize);
	struct x86_seg cs = x86_seg_real(cpu, X86_CS, (uint16_t)x86_stack_peek(cpu, opsize, opsize));

	x86_check_target(cpu, &cs, rip, 0);
	x86_stack_adjust(cpu, (int64_t)(2 * opsize) + pop_bytes);
	x86_commit_code(cpu, &cs, cpu->cpl, rip);
}

void x86_far_return(struct x86_cpu *cpu, unsigned opsize, uint16_t pop_bytes)
{
	int64_t used = (int64_t)(2 * opsize) + pop_bytes;
	struct far_return r;
	uint16_t cs_sel, ss_sel;

	if (!x86_protected(cpu)) {
		return_real(cpu, opsize, pop_bytes);
		return;
	}
	/* Which page fault comes first where both are in pages that are not there is left open; Zen 4 reads CS first.
	 */
	cs_sel = (uint16_t)x86_stack_peek(cpu, opsize, opsize);
	r.rip = x86_stack_peek(cpu, 0, opsize);
	check_code(cpu, &r, cs_sel);
	if (!r.outer) {
		x86_check_target(cpu, &r.cs, r.rip, 0);
		set_accessed(cpu, &r, false);
		x86_stack_adjust(cpu, used);
		x86_commit_code(cpu, &r.cs, r.cpl, r.rip);
		x86_mode_update(cpu);
		return;
	}
	/* The parameters are released on both stacks. */
	r.rsp = x86_stack_peek(cpu, used, opsize) + pop_bytes;
	ss_sel = (uint16_t)x86_stack_peek(cpu, used + opsize, opsize);
	check_stack(cpu, &r, ss_sel);
	x86_check_target(cpu, &r.cs, r.rip, 0);
	set_accessed(cpu, &r, true);
	commit_with_stack(cpu, &r);
}

/* ---- IRET ---- */

/* IRET ends NMI blocking, whatever it returns from (SDM 3A 6.7.1). */
static void unmask_nmi(struct x86_cpu *cpu)
{
	uint8_t pending = 2;

	if (!cpu->ev.nmi_masked)
		return;
	/* However many came meanwhile, one is latched (SDM 3A 6.7.1). */
	atomic_compare_exchange_strong(&cpu->ev.nmi_pending, &pending, 1);
	cpu->ev.nmi_masked = false;
	if (atomic_load_explicit(&cpu->ev.nmi_pending, memory_order_relaxed))
		x86_cpu_attention(cpu, X86_ATT_NMI);
}

/* Real mode, and virtual-8086 mode: three slots, CS as a paragraph number. */
static void iret_real(struct x86_cpu *cpu, unsigned opsize, uint64_t mask)
{
	uint64_t rip = x86_stack_peek(cpu, 0, opsize);
	struct x86_seg cs = x86_seg_real(cpu, X86_CS, (uint16_t)x86_stack_peek(cpu, opsize, opsize));
	uint64_t flags = x86_stack_peek(cpu, 2 * (int64_t)opsize, opsize);

	x86_check_target(cpu, &cs, rip, 0);
	x86_stack_adjust(cpu, 3 * (int64_t)opsize);
	x86_commit_code(cpu, &cs, cpu->cpl, rip);
	x86_write_rflags(cpu, flags, opsize == 2 ? mask & 0xffff : mask);
	unmask_nmi(cpu);
}

/* Virtual-8086 mode with IOPL < 3 and CR4.VME: IF of the image goes to VIF (SDM 3B 20.3.3.4). */
static void iret_vme(struct x86_cpu *cpu)
{
	uint64_t rip = x86_stack_peek(cpu, 0, 2);
	struct x86_seg cs = x86_seg_real(cpu, X86_CS, (uint16_t)x86_stack_peek(cpu, 2, 2));
	uint64_t flags = x86_stack_peek(cpu, 4, 2);

	if ((flags & X86_TF) || ((flags & X86_IF) && (cpu->rflags & X86_VIP)))
		x86_raise_gp0(cpu);
	x86_check_target(cpu, &cs, rip, 0);
	x86_stack_adjust(cpu, 6);
	x86_commit_code(cpu, &cs, 3, rip);
	x86_write_rflags(cpu, flags | (flags & X86_IF ? X86_VIF : 0), IRET_FLAGS | X86_VIF);
	unmask_nmi(cpu);
}

static void iret_v8086(struct x86_cpu *cpu, unsigned opsize)
{
	if ((cpu->rflags & X86_IOPL) == X86_IOPL)
		iret_real(cpu, opsize, IRET_FLAGS | IRET_FLAGS_WIDE | X86_IF);
	else if (opsize == 2 && (cpu->cr4 & X86_CR4_VME))
		iret_vme(cpu);
	else
		x86_raise_gp0(cpu);
}

/* From ring 0 to a virtual-8086 task: nine dwords (SDM 3B 20.2.5). */
static void iret_to_v8086(struct x86_cpu *cpu, uint64_t flags)
{
	static const uint8_t order[] = { X86_SS, X86_ES, X86_DS, X86_FS, X86_GS };
	uint64_t rip = x86_stack_peek(cpu, 0, 4);
	uint16_t sel[X86_SEG_COUNT];
	uint64_t sp = x86_stack_peek(cpu, 12, 4);

	sel[X86_CS] = (uint16_t)x86_stack_peek(cpu, 4, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		sel[order[i]] = (uint16_t)x86_stack_peek(cpu, 16 + 4 * (int64_t)i, 4);
	if (rip > 0xffff)
		x86_raise_gp0(cpu);

	x86_write_rflags(cpu, flags, IRET_FLAGS | IRET_FLAGS_WIDE | X86_IF | X86_IOPL | X86_VM | X86_VIF | X86_VIP);
	x86_mode_update(cpu);
	for (unsigned i = X86_ES; i <= X86_GS; i++)
		cpu->seg[i] = x86_seg_real(cpu, i, sel[i]);
	x86_mode_update(cpu);
	cpu->rip = rip;
	/* All of ESP comes back, although the stack is 16 bits wide now. */
	cpu->gpr[X86_RSP] = sp;
	unmask_nmi(cpu);
}

/* NT: back to the task that the TSS's link names (SDM 3A 7.4). */
static void iret_task(struct x86_cpu *cpu, uint64_t next_rip)
{
	const struct x86_seg *tr = &cpu->seg[X86_TR];
	uint16_t link;

	if (cpu->long_mode)
		x86_raise_gp0(cpu);
	link = x86_read16_mmu(cpu, x86_system_address(cpu, tr->base), x86_mmu_system(cpu));
	x86_task_switch(cpu, link, X86_TASK_IRET, next_rip, false, 0);
	unmask_nmi(cpu);
}

static uint64_t iret_mask(const struct x86_cpu *cpu, unsigned opsize)
{
	uint64_t mask = IRET_FLAGS;

	if (opsize > 2)
		mask |= IRET_FLAGS_WIDE;
	if (cpu->cpl <= (cpu->rflags & X86_IOPL) >> X86_IOPL_SHIFT)
		mask |= X86_IF;
	if (cpu->cpl == 0)
		mask |= X86_IOPL | (opsize > 2 ? X86_VIF | X86_VIP : 0);
	return mask;
}

static void iret_protected(struct x86_cpu *cpu, unsigned opsize)
{
	uint64_t flags = x86_stack_peek(cpu, 2 * (int64_t)opsize, opsize), mask = iret_mask(cpu, opsize);
	struct far_return r;
	bool with_stack;

	if (opsize == 4 && (flags & X86_VM) && cpu->cpl == 0 && !cpu->long_mode) {
		iret_to_v8086(cpu, flags);
		return;
	}
	r.rip = x86_stack_peek(cpu, 0, opsize);
	check_code(cpu, &r, (uint16_t)x86_stack_peek(cpu, opsize, opsize));
	/* 64-bit mode always pops SS:RSP (SDM 3A 6.14.3). */
	with_stack = r.outer || x86_long64(cpu);
	if (with_stack) {
		r.rsp = x86_stack_peek(cpu, 3 * (int64_t)opsize, opsize);
		check_stack(cpu, &r, (uint16_t)x86_stack_peek(cpu, 4 * (int64_t)opsize, opsize));
	}
	x86_check_target(cpu, &r.cs, r.rip, 0);
	set_accessed(cpu, &r, with_stack);
	if (with_stack) {
		commit_with_stack(cpu, &r);
	} else {
		x86_stack_adjust(cpu, 3 * (int64_t)opsize);
		x86_commit_code(cpu, &r.cs, r.cpl, r.rip);
		x86_mode_update(cpu);
	}
	x86_write_rflags(cpu, flags, mask);
	unmask_nmi(cpu);
}

void x86_iret(struct x86_cpu *cpu, unsigned opsize, uint64_t next_rip)
{
	if (cpu->real_mode)
		iret_real(cpu, opsize, IRET_FLAGS | IRET_FLAGS_WIDE | X86_IF | X86_IOPL);
	else if (cpu->v8086)
		iret_v8086(cpu, opsize);
	else if (cpu->rflags & X86_NT)
		iret_task(cpu, next_rip);
	else
		iret_protected(cpu, opsize);
}
