/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt and exception delivery in every mode, double and triple faults, windows, shadows, debug traps. */
#include "fakecpu.h"
#include "x86/event.h"
#include "x86/segment.h"

#define HANDLER 0x11000u
#define RSP0 0x30000u
#define IST1 0x38000u
#define USER_STACK 0x40000u

static struct fake *f;
static struct x86_cpu *c;

static int setup(void **state)
{
	(void)state;
	f = fake_create(2 << 20);
	c = &f->cpu;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_destroy(f);
	return 0;
}

/* Vector n goes to HANDLER + 16 n. */
static void gate64(unsigned vector, unsigned type, unsigned dpl, unsigned ist)
{
	uint64_t to = HANDLER + vector * 16;

	fake_poke64(f, FAKE_IDT + vector * 16,
		    (to & 0xffff) | (uint64_t)FAKE_CS64 << 16 | (uint64_t)ist << 32 |
			    (uint64_t)(0x80 | dpl << 5 | type) << 40 | (to >> 16) << 48);
	fake_poke64(f, FAKE_IDT + vector * 16 + 8, 0);
}

static void gate32(unsigned vector, unsigned type, unsigned dpl)
{
	uint64_t to = HANDLER + vector * 16;

	fake_poke64(f, FAKE_IDT + vector * 8,
		    (to & 0xffff) | (uint64_t)FAKE_CS32 << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
			    (to >> 16) << 48);
}

static void long_mode(bool user)
{
	fake_long_mode(f);
	fake_poke64(f, FAKE_TSS + 4, RSP0);
	fake_poke64(f, FAKE_TSS + 0x24, IST1);
	for (unsigned v = 0; v < 256; v++)
		gate64(v, X86_SYS_INT, 0, 0);
	if (user) {
		fake_user_mode(f);
		c->gpr[X86_RSP] = USER_STACK;
	}
	c->rflags |= X86_IF;
}

static void assert_at(unsigned vector)
{
	assert_int_equal(c->rip, HANDLER + vector * 16);
}

static uint64_t slot(unsigned n)
{
	return fake_peek64(f, c->gpr[X86_RSP] + 8 * n);
}

static void assert_raised(int how, unsigned vector, uint32_t error)
{
	assert_int_equal(how, X86_UNWIND_EVENT);
	assert_true(c->ev.exc_pending);
	assert_int_equal(c->ev.exc_vector, vector);
	assert_int_equal(c->ev.exc_error, error);
}

static void test_page_fault_from_user(void **state)
{
	(void)state;
	long_mode(true);
	assert_int_equal(FAKE_CATCH(f, x86_raise_page_fault(c, GVA(0x1234567), 6)), X86_UNWIND_EVENT);
	assert_int_equal(c->cr2, 0); /* not before delivery */
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(14);
	assert_int_equal(c->cr2, 0x1234567);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->mmu_index, X86_MMU_KERNEL);
	assert_int_equal(c->gpr[X86_RSP], RSP0 - 48);
	assert_int_equal(slot(0), 6);
	assert_int_equal(slot(1), FAKE_CODE);
	assert_int_equal(slot(2), FAKE_USER_CS64);
	assert_int_equal(slot(3), X86_IF | X86_RF | X86_FIXED1);
	assert_int_equal(slot(4), USER_STACK);
	assert_int_equal(slot(5), FAKE_USER_DS);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS64);
	assert_int_equal(c->seg[X86_SS].sel, 0);
	assert_true(c->seg[X86_SS].ar & X86_AR_UNUSABLE);
	assert_false(c->rflags & (X86_IF | X86_RF));
	assert_false(c->ev.exc_pending);
	assert_false(c->unwind_valid);
	assert_int_equal(f->stat[STAT_EXCEPTIONS], 1);
}

static void test_same_privilege_aligns(void **state)
{
	(void)state;
	long_mode(false);
	gate64(3, X86_SYS_TRAP, 0, 0);
	c->gpr[X86_RSP] = FAKE_STACK - 3;
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 3, X86_INT_SOFT_TRAP, false, 0, FAKE_CODE + 1)), 0);
	assert_at(3);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 16 - 40);
	assert_int_equal(slot(0), FAKE_CODE + 1);
	assert_int_equal(slot(3), FAKE_STACK - 3);
	assert_int_equal(slot(4), FAKE_DS);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_DS); /* untouched without a privilege change */
	assert_true(c->rflags & X86_IF);               /* trap gate */
	assert_false(slot(2) & X86_RF);
}

static void test_ist(void **state)
{
	(void)state;
	long_mode(false);
	gate64(2, X86_SYS_INT, 0, 1);
	atomic_store(&c->ev.nmi_pending, 2);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(2);
	assert_int_equal(c->gpr[X86_RSP], IST1 - 40);
	assert_true(c->ev.nmi_masked);
	assert_int_equal(atomic_load(&c->ev.nmi_pending), 1);
	/* Blocked until IRET. */
	c->rip = FAKE_CODE;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_false(x86_has_wake_event(c));
	c->seg[X86_TR].limit = 0x24 + 6;
	c->ev.nmi_masked = false;
	gate64(X86_TS, X86_SYS_INT, 0, 0);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(X86_TS); /* the IST slot is beyond the TSS */
	assert_int_equal(slot(0), FAKE_TR | 1);
}

static void test_software_interrupt(void **state)
{
	(void)state;
	long_mode(true);
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_SOFT, false, 0, 1)), X86_GP, 0x80 * 8 + 2);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(c->cpl, 3);
	gate64(0x80, X86_SYS_INT, 3, 0);
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_SOFT, false, 0, FAKE_CODE + 2)), 0);
	assert_at(0x80);
	assert_int_equal(slot(0), FAKE_CODE + 2);

	long_mode(true);
	gate64(0x80, X86_SYS_CALL, 3, 0); /* no gate of an IDT */
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_SOFT, false, 0, 1)), X86_GP, 0x80 * 8 + 2);
	f->ram[FAKE_IDT + 0x80 * 16 + 5] = 0x6e; /* not present */
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_SOFT, false, 0, 1)), X86_NP, 0x80 * 8 + 2);
	c->idtr.limit = 0x80 * 16 + 14;
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_SOFT, false, 0, 1)), X86_GP, 0x80 * 8 + 2);
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x80, X86_INT_HARDWARE, false, 0, 1)), X86_GP, 0x80 * 8 + 3);
}

static void test_double_and_triple_fault(void **state)
{
	(void)state;
	long_mode(false);
	f->ram[FAKE_IDT + X86_GP * 16 + 5] = 0; /* a bad #GP gate: contributory on contributory */
	FAKE_CATCH(f, x86_raise_gp0(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_DF_EXC);
	assert_int_equal(slot(0), 0);
	assert_int_equal(slot(1), FAKE_CODE);

	/* A benign one first: no double fault. */
	long_mode(false);
	f->ram[FAKE_IDT + X86_UD * 16 + 5] = 0;
	FAKE_CATCH(f, x86_raise_ud(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_GP);
	assert_int_equal(slot(0), X86_UD * 8 + 3);

	/* Contributory, then #PF: serial. #PF, then #PF: double, with the second's address. */
	long_mode(true);
	fake_poke64(f, FAKE_TSS + 4, UINT64_C(0xffff800000001000)); /* not mapped */
	gate64(X86_PF_EXC, X86_SYS_INT, 0, 1);
	FAKE_CATCH(f, x86_raise_gp0(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_PF_EXC);
	assert_int_equal(c->cr2 >> 12, UINT64_C(0xffff800000000));

	long_mode(true);
	fake_poke64(f, FAKE_TSS + 4, UINT64_C(0xffff800000001000));
	gate64(X86_DF_EXC, X86_SYS_INT, 0, 1);
	FAKE_CATCH(f, x86_raise_page_fault(c, GVA(0x5000), 4));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_DF_EXC);
	assert_int_equal(c->cr2 >> 12, UINT64_C(0xffff800000000));

	long_mode(true);
	fake_poke64(f, FAKE_TSS + 4, UINT64_C(0xffff800000001000));
	FAKE_CATCH(f, x86_raise_gp0(c)); /* #GP, #PF, #DF, #PF again */
	assert_int_equal(x86_deliver_event(c), X86_EXIT_SHUTDOWN);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(c->cpl, 3);
}

/* A CPL 3 handler of #AC on a misaligned stack: endless on hardware, but KVM_RUN must come back. */
static void test_endless_alignment_check(void **state)
{
	(void)state;
	fake_protected_mode(f);
	gate32(X86_AC_EXC, X86_SYS_INT, 3);
	f->ram[FAKE_IDT + X86_AC_EXC * 8 + 2] = FAKE_USER_CS32;
	c->seg[X86_CS] = fake_seg(FAKE_USER_CS32, 0, 0xffffffff, 0xc0fb);
	c->seg[X86_SS] = fake_seg(FAKE_USER_DS, 0, 0xffffffff, 0xc0f3);
	c->cr0 |= X86_CR0_AM;
	c->rflags |= X86_AC;
	c->gpr[X86_RSP] = 0x4001;
	x86_mode_update(c);
	x86_cpu_attention(c, X86_ATT_EXIT);
	FAKE_CATCH(f, x86_check_align(c, 1, 4));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_ATTENTION);
	assert_true(c->ev.exc_pending);
	assert_int_equal(c->ev.exc_vector, X86_AC_EXC);
	assert_int_equal(c->rip, FAKE_CODE);
}

static void test_tables_outside_ram(void **state)
{
	(void)state;
	long_mode(false);
	c->idtr.base = UINT64_C(0x40000000); /* no slot there: reads as ones, so no gate anywhere */
	FAKE_CATCH(f, x86_raise_ud(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_SHUTDOWN);
	assert_int_equal(c->io.logged, 0);
}

static void test_protected_frames(void **state)
{
	uint32_t sp;

	(void)state;
	fake_protected_mode(f);
	gate32(0x21, X86_SYS_INT, 0);
	c->rflags |= X86_IF | X86_NT | X86_TF;
	f->irq[0] = 0x21;
	f->irq_count = 1;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(0x21);
	sp = (uint32_t)c->gpr[X86_RSP];
	assert_int_equal(sp, FAKE_STACK - 12);
	assert_int_equal(fake_peek32(f, sp), FAKE_CODE);
	assert_int_equal(fake_peek32(f, sp + 8), X86_IF | X86_NT | X86_TF | X86_FIXED1);
	assert_false(c->rflags & (X86_IF | X86_NT | X86_TF));

	/* From CPL 3: SS:ESP of the TSS; a 16-bit gate pushes words. */
	fake_protected_mode(f);
	gate32(0x21, X86_SYS_INT16, 3);
	fake_poke64(f, FAKE_IDT + 0x21 * 8, fake_peek64(f, FAKE_IDT + 0x21 * 8) & 0xffffffffffff);
	fake_poke32(f, FAKE_TSS + 4, RSP0);
	fake_poke32(f, FAKE_TSS + 8, FAKE_DS);
	c->seg[X86_CS] = fake_seg(FAKE_USER_CS32, 0, 0xffffffff, 0xc0fb);
	c->seg[X86_SS] = fake_seg(FAKE_USER_DS, 0, 0xffffffff, 0xc0f3);
	x86_mode_update(c);
	c->gpr[X86_RSP] = 0x4fff0;
	c->rip = 0x1234;
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0x1236)), 0);
	assert_int_equal(c->rip, (HANDLER + 0x210) & 0xffff);
	assert_int_equal(c->gpr[X86_RSP], RSP0 - 10);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_DS);
	assert_int_equal(fake_peek64(f, RSP0 - 10) & 0xffffffff, 0x1236 | FAKE_USER_CS32 << 16);
	assert_int_equal(fake_peek32(f, RSP0 - 4), 0xfff0 | FAKE_USER_DS << 16);

	/* A bad stack in the TSS. */
	fake_poke32(f, FAKE_TSS + 8, FAKE_CS32);
	c->seg[X86_SS] = fake_seg(FAKE_USER_DS, 0, 0xffffffff, 0xc0f3);
	x86_mode_update(c);
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_HARDWARE, false, 0, 0)), X86_TS, FAKE_CS32 | 1);
}

static void test_real_mode(void **state)
{
	(void)state;
	fake_poke32(f, X86_GP * 4, 0xf0001234);
	c->rflags |= X86_IF | X86_TF | X86_AC;
	c->rip = 0x55;
	FAKE_CATCH(f, x86_raise_error(c, X86_GP, 0x1234));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->seg[X86_CS].base, 0xf0000);
	assert_int_equal(c->gpr[X86_RSP], 0x8000 - 6); /* no error code */
	assert_int_equal(fake_peek32(f, 0x7ffa), 0x55 | (FAKE_CODE >> 4) << 16);
	assert_false(c->rflags & (X86_IF | X86_TF | X86_AC));
	/* A vector beyond the table, then everything beyond it: shutdown. */
	c->idtr.limit = 0;
	FAKE_CATCH(f, x86_raise_ud(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_SHUTDOWN);
}

static void v8086(unsigned iopl)
{
	fake_protected_mode(f);
	for (unsigned v = 0; v < 256; v++)
		gate32(v, X86_SYS_INT, 3);
	fake_poke32(f, FAKE_TSS + 4, RSP0);
	fake_poke32(f, FAKE_TSS + 8, FAKE_DS);
	c->rflags |= X86_VM | X86_IF | (uint64_t)iopl << X86_IOPL_SHIFT;
	x86_mode_update(c);
	for (unsigned s = X86_ES; s <= X86_GS; s++)
		c->seg[s] = x86_seg_real(c, s, (uint16_t)(0x1000 + s * 0x100));
	x86_mode_update(c);
	c->rip = 0x20;
	c->gpr[X86_RSP] = 0x800;
}

static void test_v8086_to_ring0(void **state)
{
	uint64_t sp;

	(void)state;
	v8086(0);
	FAKE_CATCH(f, x86_raise_gp0(c));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_GP);
	assert_false(c->v8086);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->code_size, 4);
	sp = c->gpr[X86_RSP];
	assert_int_equal(sp, RSP0 - 40);
	assert_int_equal(fake_peek32(f, sp + 4), 0x20);
	assert_int_equal(fake_peek32(f, sp + 8), 0x1100);
	assert_true(fake_peek32(f, sp + 12) & X86_VM);
	assert_int_equal(fake_peek32(f, sp + 16), 0x800);
	assert_int_equal(fake_peek32(f, sp + 20), 0x1200);
	assert_int_equal(fake_peek32(f, sp + 24), 0x1000); /* ES, DS, FS, GS */
	assert_int_equal(fake_peek32(f, sp + 36), 0x1500);
	assert_true(c->seg[X86_DS].ar & X86_AR_UNUSABLE);
	assert_int_equal(c->seg[X86_DS].sel, 0);

	/* INT n needs IOPL 3, INT3 does not. */
	v8086(0);
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0x22)), X86_GP, 0);
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 3, X86_INT_SOFT_TRAP, false, 0, 0x21)), 0);
	assert_at(3);
	/* A handler must be in ring 0. */
	v8086(3);
	f->ram[FAKE_IDT + 0x21 * 8 + 2] = FAKE_USER_CS32;
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0x22)), X86_GP,
		      FAKE_USER_CS32 & ~3u);
	v8086(3);
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0x22)), 0);
	assert_at(0x21);
}

static void test_v8086_vme(void **state)
{
	(void)state;
	v8086(0);
	c->cr4 |= X86_CR4_VME;
	fake_poke32(f, FAKE_TSS + 0x64, 0x88u << 16); /* redirection bitmap at 0x68 */
	f->ram[FAKE_TSS + 0x68 + 0x10 / 8] = 1;       /* INT 10h goes to the monitor */
	fake_poke32(f, 0x21 * 4, 0x20000345);
	c->rflags = (c->rflags & ~X86_IF) | X86_VIF;
	assert_raised(FAKE_CATCH(f, x86_interrupt(c, 0x10, X86_INT_SOFT, false, 0, 0x22)), X86_GP, 0);
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0x22)), 0);
	assert_int_equal(c->rip, 0x345);
	assert_int_equal(c->seg[X86_CS].base, 0x20000);
	assert_true(c->v8086);
	assert_false(c->rflags & X86_VIF);
	assert_int_equal(fake_peek32(f, 0x12000 + 0x7fa), 0x22 | 0x1100 << 16);
	assert_int_equal(fake_peek32(f, 0x12000 + 0x7fe) & 0xffff, X86_FIXED1 | X86_IOPL | X86_IF);
}

static void test_irq_window(void **state)
{
	(void)state;
	long_mode(false);
	c->rflags &= ~X86_IF;
	f->irq[0] = 0x30;
	f->irq[1] = 0x31;
	f->irq_count = 2;
	x86_cpu_attention(c, X86_ATT_IRQ);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(atomic_load(&c->attention), 0);
	assert_false(x86_has_wake_event(c));
	c->rflags |= X86_IF;
	assert_true(x86_has_wake_event(c));
	c->ev.shadow = X86_SHADOW_STI;
	assert_false(x86_interrupt_window_open(c));
	assert_true(x86_needs_stepping(c));
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); x86_step_end(c, c->rflags, X86_SHADOW_STI)), 0);
	assert_int_equal(c->ev.shadow, 0);
	assert_true(atomic_load(&c->attention) & X86_ATT_IRQ);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(0x30);
	assert_int_equal(f->irq_next, 1);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE); /* IF is 0 now */
	assert_at(0x30);
	/* The client waits for a window, and gets it only when nothing of ours is pending. */
	c->run_request = 1;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	c->rflags |= X86_IF;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(0x31);
	c->rflags |= X86_IF;
	assert_int_equal(x86_poll(c), X86_EXIT_IRQ_WINDOW);
	x86_cpu_attention(c, X86_ATT_EXIT);
	assert_int_equal(x86_poll(c), X86_EXIT_ATTENTION);
	assert_true(atomic_load(&c->attention) & X86_ATT_EXIT);
}

static void test_injected_comes_first(void **state)
{
	(void)state;
	long_mode(false);
	c->ev.irq_injected = true;
	c->ev.irq_vector = 0x40;
	c->rflags &= ~X86_IF; /* was acknowledged earlier: delivered whatever IF says now */
	c->ev.exc_pending = true;
	c->ev.exc_vector = X86_UD;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(X86_UD);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(0x40);
	assert_int_equal(slot(0), HANDLER + X86_UD * 16);
}

static void test_single_step(void **state)
{
	(void)state;
	long_mode(false);
	c->rflags |= X86_TF;
	assert_true(x86_needs_stepping(c));
	assert_raised(FAKE_CATCH(f, x86_step_begin(c); c->rip += 3; x86_step_end(c, c->rflags, 0)), X86_DB, 0);
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_at(X86_DB);
	assert_int_equal(slot(0), FAKE_CODE + 3);
	assert_false(slot(2) & X86_RF);
	assert_true(c->dr[6] & X86_DR6_BS);
	assert_false(x86_needs_stepping(c));

	/* INT n under TF enters its handler without a trap. */
	long_mode(false);
	c->rflags |= X86_TF;
	assert_int_equal(FAKE_CATCH(f, uint64_t before = c->rflags; x86_step_begin(c);
				    x86_interrupt(c, 0x50, X86_INT_SOFT, false, 0, 0); x86_step_end(c, before, 0)),
			 0);
	/* MOV SS: no trap behind it, one behind the next. */
	long_mode(false);
	c->rflags |= X86_TF;
	assert_int_equal(
		FAKE_CATCH(f, x86_step_begin(c); c->ev.shadow = X86_SHADOW_MOV_SS; x86_step_end(c, c->rflags, 0)), 0);
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); x86_step_end(c, c->rflags, X86_SHADOW_MOV_SS)),
			 X86_UNWIND_EVENT);
}

static void test_data_breakpoint_waits_for_mov_ss(void **state)
{
	(void)state;
	long_mode(false);
	c->ev.db_pending = 2;
	c->ev.shadow = X86_SHADOW_MOV_SS;
	c->dr[6] |= 1;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, FAKE_CODE);
	c->ev.shadow = 0;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(X86_DB);
	assert_int_equal(c->dr[6] & 0xf, 2);
	assert_int_equal(c->ev.db_pending, 0);
}

static void test_nmi_waits_for_sti(void **state)
{
	(void)state;
	long_mode(false);
	atomic_store(&c->ev.nmi_pending, 1);
	c->ev.shadow = X86_SHADOW_STI;
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); x86_step_end(c, c->rflags, X86_SHADOW_STI)), 0);
	assert_true(atomic_load(&c->attention) & X86_ATT_NMI);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_at(X86_NMI);
}

/* MOV SS with a data breakpoint, then INT1: one #DB that tells of both. INT 1 is another thing. */
static void test_icebp_takes_pending_breakpoint(void **state)
{
	(void)state;
	long_mode(false);
	c->ev.db_pending = 4;
	c->ev.shadow = X86_SHADOW_MOV_SS;
	c->dr[6] |= 1;
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c);
				    x86_interrupt(c, X86_DB, X86_INT_ICEBP, false, 0, FAKE_CODE + 1);
				    x86_step_end(c, c->rflags, X86_SHADOW_MOV_SS)),
			 0);
	assert_at(X86_DB);
	assert_int_equal(slot(0), FAKE_CODE + 1);
	assert_int_equal(c->dr[6] & 0xf, 4);
	assert_int_equal(c->ev.db_pending, 0);
	long_mode(false);
	c->dr[6] = X86_DR6_FIXED1 | 1;
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, X86_DB, X86_INT_ICEBP, false, 0, 0)), 0);
	assert_int_equal(c->dr[6], X86_DR6_FIXED1 | 1);
	long_mode(false);
	c->ev.db_pending = 4;
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, X86_DB, X86_INT_SOFT, false, 0, 0)), 0);
	assert_int_equal(c->ev.db_pending, 4);
}

static void test_instruction_breakpoint_behind_mov_ss(void **state)
{
	(void)state;
	long_mode(false);
	c->dr[0] = FAKE_CODE;
	c->dr[7] |= 1;
	c->dr_exec = true;
	c->ev.shadow = X86_SHADOW_MOV_SS;
	fake_vendor(f, "GenuineIntel");
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c)), 0);
	fake_vendor(f, "AuthenticAMD");
	c->ev.db_pending = 2; /* held back by the shadow, comes along */
	assert_raised(FAKE_CATCH(f, x86_step_begin(c)), X86_DB, 0);
	assert_int_equal(c->ev.db_pending, 3);
}

static void test_instruction_breakpoint(void **state)
{
	(void)state;
	long_mode(false);
	c->dr[0] = FAKE_CODE;
	c->dr[7] |= 1 | X86_DR7_GD;
	c->dr_exec = true;
	assert_raised(FAKE_CATCH(f, x86_step_begin(c)), X86_DB, 0);
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_int_equal(c->dr[6] & 0xf, 1);
	assert_false(c->dr[7] & X86_DR7_GD);
	assert_int_equal(slot(0), FAKE_CODE);
	assert_false(slot(2) & X86_RF); /* the one fault that does not set it */
	/* The handler sets it: passes once. */
	c->rip = FAKE_CODE;
	c->rflags |= X86_RF;
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c)), 0);
	assert_false(c->rflags & X86_RF);
	assert_raised(FAKE_CATCH(f, x86_step_begin(c)), X86_DB, 0);
	/* General detect is a fault that does set RF. */
	long_mode(false);
	c->ev.db_pending = X86_DR6_BD;
	FAKE_CATCH(f, x86_raise(c, X86_DB));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_true(slot(2) & X86_RF);
	assert_true(c->dr[6] & X86_DR6_BD);
}

static void test_guest_debug(void **state)
{
	(void)state;
	long_mode(false);
	c->guest_debug_step = c->guest_debug_bp = true;
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); c->rip++; x86_step_end(c, c->rflags, 0)), X86_UNWIND_EVENT);
	assert_int_equal(x86_deliver_event(c), X86_EXIT_DEBUG);
	assert_int_equal(c->debug_vector, X86_DB);
	assert_true(c->debug_dr6 & X86_DR6_BS);
	assert_int_equal(c->rip, FAKE_CODE + 1);
	assert_int_equal(c->dr[6], X86_DR6_FIXED1); /* the guest's own is untouched */
	assert_int_equal(FAKE_CATCH(f, x86_interrupt(c, 3, X86_INT_SOFT_TRAP, false, 0, 0)), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_DEBUG);
	assert_int_equal(c->rip, FAKE_CODE + 1);
	assert_false(c->ev.exc_pending);
}

static void test_internal_error(void **state)
{
	(void)state;
	assert_int_equal(FAKE_CATCH(f, x86_internal_error(c, "no %s at %#x", "thing", 0x10)), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_INTERNAL_ERROR);
	assert_string_equal(c->error_text, "no thing at 0x10");
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(page_fault_from_user),
		T(same_privilege_aligns),
		T(ist),
		T(software_interrupt),
		T(double_and_triple_fault),
		T(endless_alignment_check),
		T(tables_outside_ram),
		T(protected_frames),
		T(real_mode),
		T(v8086_to_ring0),
		T(v8086_vme),
		T(irq_window),
		T(injected_comes_first),
		T(single_step),
		T(data_breakpoint_waits_for_mov_ss),
		T(nmi_waits_for_sti),
		T(icebp_takes_pending_breakpoint),
		T(instruction_breakpoint_behind_mov_ss),
		T(instruction_breakpoint),
		T(guest_debug),
		T(internal_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
