/* SPDX-License-Identifier: Apache-2.0 */
/* Far JMP, CALL, RET, IRET, SYSCALL and SYSENTER in every mode; what they refuse, and that a refusal leaves no trace.
 */
#include "fakecpu.h"
#include "x86/event.h"
#include "x86/segment.h"
#include "x86/transfer.h"

#define FREE 0x50u
#define NEXT (FAKE_CODE + 7)
#define TARGET 0x12340u
#define RSP0 0x30000u
#define NOT_CANONICAL UINT64_C(0x800000000000)

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

static void gdt_set(uint16_t sel, uint32_t base, uint32_t limit, uint32_t ar)
{
	fake_poke64(f, FAKE_GDT + (sel & ~7u),
		    (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)ar << 40 |
			    (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base >> 24) << 56);
}

static void gate_set(uint16_t at, uint16_t sel, uint32_t offset, uint32_t ar, unsigned params)
{
	fake_poke64(f, FAKE_GDT + at,
		    (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)ar << 40 |
			    (uint64_t)(offset >> 16) << 48);
}

static void user32(void)
{
	c->seg[X86_CS] = fake_seg(FAKE_USER_CS32, 0, 0xffffffff, 0xc0fb);
	for (unsigned s = X86_ES; s <= X86_GS; s++)
		if (s != X86_CS)
			c->seg[s] = fake_seg(FAKE_USER_DS, 0, 0xffffffff, 0xc0f3);
	x86_mode_update(c);
}

static void push32(uint32_t v)
{
	c->gpr[X86_RSP] -= 4;
	fake_poke32(f, c->gpr[X86_RSP], v);
}

static void push64(uint64_t v)
{
	c->gpr[X86_RSP] -= 8;
	fake_poke64(f, c->gpr[X86_RSP], v);
}

/* Raised, and nothing of what a transfer changes has changed. */
#define assert_refused(how, vector, error)                                                                             \
	do {                                                                                                           \
		uint64_t rip = c->rip, rsp = c->gpr[X86_RSP], flags = c->rflags;                                       \
		uint16_t cs = c->seg[X86_CS].sel, ss = c->seg[X86_SS].sel;                                             \
		unsigned cpl = c->cpl;                                                                                 \
                                                                                                                       \
		assert_int_equal(FAKE_CATCH(f, how), X86_UNWIND_EVENT);                                                \
		assert_int_equal(c->ev.exc_vector, vector);                                                            \
		assert_int_equal(c->ev.exc_error, error);                                                              \
		assert_true(rip == c->rip && rsp == c->gpr[X86_RSP] && flags == c->rflags);                            \
		assert_true(cs == c->seg[X86_CS].sel && ss == c->seg[X86_SS].sel && cpl == c->cpl);                    \
	} while (0)

#define assert_done(how) assert_int_equal(FAKE_CATCH(f, how), 0)

static void test_real(void **state)
{
	(void)state;
	c->rip = 0x10;
	assert_done(x86_far_call(c, 0x2000, 0x345, 2, 0x15));
	assert_int_equal(c->seg[X86_CS].base, 0x20000);
	assert_int_equal(c->rip, 0x345);
	assert_int_equal(c->gpr[X86_RSP], 0x7ffc);
	assert_int_equal(fake_peek32(f, 0x7ffc), 0x15 | (FAKE_CODE >> 4) << 16);
	assert_refused(x86_far_jump(c, 0x2000, 0x10000, 4, 0), X86_GP, 0);
	assert_done(x86_far_return(c, 2, 6));
	assert_int_equal(c->rip, 0x15);
	assert_int_equal(c->seg[X86_CS].base, FAKE_CODE);
	assert_int_equal(c->gpr[X86_RSP], 0x8006);
	/* IRET: 16 and 32 bits; VM cannot be set from real mode. */
	c->gpr[X86_RSP] = 0x8000;
	push32(X86_VM | X86_ID | X86_IOPL | X86_IF);
	push32(0x3000);
	push32(0x77);
	c->ev.nmi_masked = true;
	atomic_store(&c->ev.nmi_pending, 2); /* two came while one was in service: one is latched */
	assert_done(x86_iret(c, 4, 0));
	assert_int_equal(c->rip, 0x77);
	assert_int_equal(c->seg[X86_CS].base, 0x30000);
	assert_int_equal(c->rflags, X86_ID | X86_IOPL | X86_IF | X86_FIXED1);
	assert_false(c->ev.nmi_masked);
	assert_int_equal(atomic_load(&c->ev.nmi_pending), 1);
	assert_int_equal(c->gpr[X86_RSP], 0x8000);
}

static void test_jump_to_code(void **state)
{
	(void)state;
	fake_protected_mode(f);
	gdt_set(FREE, 0x1000, 0xffff, 0x4098); /* 32-bit, DPL 0, not accessed */
	assert_done(x86_far_jump(c, FREE, 0x8888, 4, NEXT));
	assert_int_equal(c->seg[X86_CS].sel, FREE);
	assert_int_equal(c->seg[X86_CS].base, 0x1000);
	assert_int_equal(c->seg[X86_CS].ar, 0x4099);
	assert_int_equal(f->ram[FAKE_GDT + FREE + 5], 0x99);
	assert_int_equal(c->rip, 0x8888);
	assert_refused(x86_far_jump(c, FREE, 0x10000, 4, NEXT), X86_GP, 0);
	assert_done(x86_far_jump(c, FREE, 0x10004, 2, NEXT)); /* the operand size cuts the offset */
	assert_int_equal(c->rip, 4);
	assert_refused(x86_far_jump(c, 0, 0, 4, NEXT), X86_GP, 0);
	assert_refused(x86_far_jump(c, 0x80, 0, 4, NEXT), X86_GP, 0x80);
	assert_refused(x86_far_jump(c, FAKE_DS, 0, 4, NEXT), X86_GP, FAKE_DS);
	assert_refused(x86_far_jump(c, FAKE_CS32 | 1, 0, 4, NEXT), X86_GP, FAKE_CS32); /* RPL > CPL */
	assert_refused(x86_far_jump(c, FAKE_USER_CS32, 0, 4, NEXT), X86_GP, FAKE_USER_CS32 & ~3u);
	gdt_set(FREE, 0, 0xffff, 0x4018);
	assert_refused(x86_far_jump(c, FREE, 0, 4, NEXT), X86_NP, FREE);
	/* Conforming code runs at the caller's privilege. */
	user32();
	gdt_set(FREE, 0, 0xffff, 0x409e);
	assert_done(x86_far_jump(c, FREE, 0x10, 4, NEXT));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[X86_CS].sel, FREE | 3);
	assert_refused(x86_far_jump(c, FAKE_CS32, 0, 4, NEXT), X86_GP, FAKE_CS32);
	/* Into the LDT there is no way without one. */
	assert_refused(x86_far_jump(c, FREE | 4, 0, 4, NEXT), X86_GP, FREE | 4);
}

static void test_jump_64(void **state)
{
	(void)state;
	fake_long_mode(f);
	assert_done(x86_far_jump(c, FAKE_CS32, 0x1234, 4, NEXT)); /* to compatibility mode */
	assert_int_equal(c->code_size, 4);
	assert_true(c->long_mode);
	assert_done(x86_far_jump(c, FAKE_CS64, 0x1234, 4, NEXT));
	assert_int_equal(c->code_size, 8);
	assert_refused(x86_far_jump(c, FAKE_CS64, NOT_CANONICAL, 8, NEXT), X86_GP, 0);
	gdt_set(FREE, 0, 0xffff, 0x609b); /* L and D */
	assert_refused(x86_far_jump(c, FREE, 0, 4, NEXT), X86_GP, FREE);
	gdt_set(FREE, 0, 0x67, 0x89); /* no task switches in long mode */
	fake_poke64(f, FAKE_GDT + FREE + 8, 0);
	assert_refused(x86_far_jump(c, FREE, 0, 4, NEXT), X86_GP, FREE);
}

static void test_call_and_return(void **state)
{
	(void)state;
	fake_protected_mode(f);
	assert_done(x86_far_call(c, FAKE_CS16, 0x4321, 4, NEXT));
	assert_int_equal(c->code_size, 2);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 8);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), NEXT | (uint64_t)FAKE_CS32 << 32);
	assert_done(x86_far_return(c, 4, 0));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->code_size, 4);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK);
	/* No room on the stack: nothing happens. */
	c->seg[X86_SS].limit = FAKE_STACK - 5;
	assert_refused(x86_far_call(c, FAKE_CS16, 0x4321, 4, NEXT), X86_SS_EXC, 0);
	/* 64-bit operand size. */
	fake_long_mode(f);
	assert_done(x86_far_call(c, FAKE_CS64, TARGET, 8, UINT64_C(0xffff800000000000)));
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 16);
	assert_done(x86_far_return(c, 8, 8));
	assert_true(c->rip == UINT64_C(0xffff800000000000));
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK + 8);
}

static void test_call_gate(void **state)
{
	uint32_t sp;

	(void)state;
	fake_protected_mode(f);
	fake_poke32(f, FAKE_TSS + 4, RSP0);
	fake_poke32(f, FAKE_TSS + 8, FAKE_DS);
	gate_set(FREE, FAKE_CS32, TARGET, 0xec, 2);
	user32();
	push32(0xbbbb);
	push32(0xaaaa);
	sp = (uint32_t)c->gpr[X86_RSP];
	assert_done(x86_far_call(c, FREE | 3, 0xdead, 4, NEXT));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS32);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_DS);
	assert_int_equal(c->rip, TARGET);
	assert_int_equal(c->gpr[X86_RSP], RSP0 - 24);
	assert_int_equal(fake_peek32(f, RSP0 - 24), NEXT);
	assert_int_equal(fake_peek32(f, RSP0 - 20), FAKE_USER_CS32);
	assert_int_equal(fake_peek32(f, RSP0 - 16), 0xaaaa);
	assert_int_equal(fake_peek32(f, RSP0 - 12), 0xbbbb);
	assert_int_equal(fake_peek32(f, RSP0 - 8), sp);
	assert_int_equal(fake_peek32(f, RSP0 - 4), FAKE_USER_DS);
	/* Back out, parameters released on both stacks; ring 0's data segment is taken away. */
	c->seg[X86_ES] = fake_seg(FAKE_DS, 0, 0xffffffff, 0xc093);
	assert_done(x86_far_return(c, 4, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->gpr[X86_RSP], sp + 8);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_USER_DS);
	assert_int_equal(c->seg[X86_ES].sel, 0);
	assert_true(c->seg[X86_ES].ar & X86_AR_UNUSABLE);
	assert_int_equal(c->seg[X86_DS].sel, FAKE_USER_DS);

	assert_refused(x86_far_jump(c, FREE | 3, 0, 4, NEXT), X86_GP, FAKE_CS32); /* JMP keeps the CPL */
	fake_poke32(f, FAKE_TSS + 8, 0);
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_TS, 0);
	fake_poke32(f, FAKE_TSS + 8, FAKE_USER_DS);
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_TS, FAKE_USER_DS & ~3u);
	c->seg[X86_TR].limit = 8;
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_TS, FAKE_TR);
	gate_set(FREE, FAKE_CS32, TARGET, 0x8c, 0);
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_GP, FREE); /* gate DPL */
	gate_set(FREE, FAKE_CS32, TARGET, 0x6c, 0);
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_NP, FREE);
	gate_set(FREE, 0, TARGET, 0xec, 0);
	assert_refused(x86_far_call(c, FREE | 3, 0, 4, NEXT), X86_GP, 0);
}

static void test_call_gate_64(void **state)
{
	(void)state;
	fake_long_mode(f);
	fake_poke64(f, FAKE_TSS + 4, RSP0);
	gate_set(FREE, FAKE_CS64, TARGET, 0xec, 5);
	fake_poke64(f, FAKE_GDT + FREE + 8, 0xffff8000);
	fake_user_mode(f);
	assert_done(x86_far_call(c, FREE, 0, 4, NEXT));
	assert_true(c->rip == (UINT64_C(0xffff800000000000) | TARGET));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[X86_SS].sel, 0);
	assert_int_equal(c->gpr[X86_RSP], RSP0 - 32);
	assert_int_equal(fake_peek64(f, RSP0 - 32), NEXT);
	assert_int_equal(fake_peek64(f, RSP0 - 16), FAKE_STACK);
	assert_done(x86_far_return(c, 8, 0));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->code_size, 8);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK);
	gate_set(FREE, FAKE_CS32, TARGET, 0xec, 0); /* a gate must lead to 64-bit code */
	assert_refused(x86_far_call(c, FREE, 0, 4, NEXT), X86_GP, FAKE_CS32);
}

static void iret_frame(uint64_t rip, uint16_t cs, uint64_t flags, uint64_t rsp, uint16_t ss)
{
	c->gpr[X86_RSP] = FAKE_STACK;
	push64(ss);
	push64(rsp);
	push64(flags);
	push64(cs);
	push64(rip);
}

static void test_iret_64(void **state)
{
	(void)state;
	fake_long_mode(f);
	c->ev.nmi_masked = true;
	atomic_store(&c->ev.nmi_pending, 1);
	iret_frame(TARGET, FAKE_USER_CS64, X86_IF | X86_RF | X86_IOPL, 0x7000, FAKE_USER_DS);
	assert_done(x86_iret(c, 8, NEXT));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, TARGET);
	assert_int_equal(c->gpr[X86_RSP], 0x7000);
	assert_int_equal(c->rflags, X86_IF | X86_RF | X86_IOPL | X86_FIXED1);
	assert_true(atomic_load(&c->attention) & X86_ATT_NMI);
	/* At CPL 3 neither IOPL nor, with IOPL 0, IF can be changed. */
	c->rflags = X86_IF | X86_FIXED1;
	iret_frame(TARGET, FAKE_USER_CS64, X86_IOPL | X86_CF, 0x7000, FAKE_USER_DS);
	assert_done(x86_iret(c, 8, NEXT));
	assert_int_equal(c->rflags, X86_IF | X86_CF | X86_FIXED1);
	iret_frame(TARGET, FAKE_CS64, 0, 0x7000, 0);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, FAKE_CS64); /* inwards */

	/* Same privilege pops SS:RSP too, and a null SS will do. */
	fake_long_mode(f);
	iret_frame(TARGET, FAKE_CS64, 0, 0x7000, 0);
	assert_done(x86_iret(c, 8, NEXT));
	assert_int_equal(c->gpr[X86_RSP], 0x7000);
	assert_true(c->seg[X86_SS].ar & X86_AR_UNUSABLE);
	assert_int_equal(c->cpl, 0);

	fake_long_mode(f);
	iret_frame(NOT_CANONICAL, FAKE_USER_CS64, 0, 0x7000, FAKE_USER_DS);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, 0);
	iret_frame(TARGET, FAKE_USER_CS64, 0, 0x7000, 3);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, 0);
	iret_frame(TARGET, FAKE_USER_CS64, 0, 0x7000, FAKE_DS | 3);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, FAKE_DS);
	gdt_set(FREE, 0, 0xffff, 0x73);
	iret_frame(TARGET, FAKE_USER_CS64, 0, 0x7000, FREE | 3);
	assert_refused(x86_iret(c, 8, NEXT), X86_SS_EXC, FREE);
	iret_frame(0x100000000, FAKE_USER_CS32, 0, 0x7000, FAKE_USER_DS);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, 0);
	c->rflags |= X86_NT;
	iret_frame(TARGET, FAKE_CS64, 0, 0x7000, 0);
	assert_refused(x86_iret(c, 8, NEXT), X86_GP, 0);
	c->rflags &= ~X86_NT;
	/* To a 16-bit stack in compatibility mode only SP is loaded. */
	gdt_set(FREE, 0, 0xffff, 0xf3);
	iret_frame(TARGET, FAKE_USER_CS32, 0, 0x12345678, FREE | 3);
	assert_done(x86_iret(c, 8, NEXT));
	assert_int_equal(c->stack_size, 2);
	assert_int_equal(c->gpr[X86_RSP], (FAKE_STACK - 40) >> 16 << 16 | 0x5678);
	assert_int_equal(c->code_size, 4);
}

static void test_iret_v8086(void **state)
{
	(void)state;
	fake_protected_mode(f);
	push32(0x1500);
	push32(0x1400);
	push32(0x1300);
	push32(0x1000);
	push32(0x1200);
	push32(0x8000);
	push32(X86_VM | X86_IF | X86_IOPL);
	push32(0x1100);
	push32(0x123);
	assert_done(x86_iret(c, 4, NEXT));
	assert_true(c->v8086);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, 0x123);
	assert_int_equal(c->seg[X86_CS].base, 0x11000);
	assert_int_equal(c->seg[X86_CS].ar, 0xf3);
	assert_int_equal(c->seg[X86_SS].base, 0x12000);
	assert_int_equal(c->seg[X86_GS].base, 0x15000);
	assert_int_equal(c->gpr[X86_RSP], 0x8000);
	/* Within it, IOPL 3: IF may change, IOPL and VM not. */
	fake_poke32(f, 0x12000 + 0x8000, 0x0010 | 0x2200u << 16);
	fake_poke32(f, 0x12000 + 0x8004, X86_CF);
	assert_done(x86_iret(c, 2, NEXT));
	assert_int_equal(c->rip, 0x10);
	assert_int_equal(c->seg[X86_CS].base, 0x22000);
	assert_int_equal(c->rflags, X86_VM | X86_IOPL | X86_CF | X86_FIXED1);
	/* IOPL 0: #GP, or with VME the virtual flag. */
	c->rflags &= ~X86_IOPL;
	c->gpr[X86_RSP] = 0x8000;
	assert_refused(x86_iret(c, 2, NEXT), X86_GP, 0);
	c->cr4 |= X86_CR4_VME;
	assert_refused(x86_iret(c, 4, NEXT), X86_GP, 0);
	fake_poke32(f, 0x12000 + 0x8004, X86_IF | X86_ZF);
	assert_done(x86_iret(c, 2, NEXT));
	assert_int_equal(c->rflags, X86_VM | X86_VIF | X86_ZF | X86_FIXED1);
	c->rflags |= X86_VIP;
	c->gpr[X86_RSP] = 0x8000;
	assert_refused(x86_iret(c, 2, NEXT), X86_GP, 0);
}

static void test_syscall(void **state)
{
	(void)state;
	fake_long_mode(f);
	c->msr.star = (uint64_t)FAKE_USER_CS32 << 48 | (uint64_t)FAKE_CS64 << 32;
	c->msr.lstar = UINT64_C(0xffffffff81000000);
	c->msr.cstar = UINT64_C(0xffffffff82000000);
	c->msr.sfmask = X86_IF | X86_TF | X86_AC;
	fake_user_mode(f);
	c->rflags |= X86_IF | X86_AC | X86_CF;
	assert_done(x86_syscall(c, NEXT));
	assert_true(c->rip == c->msr.lstar);
	assert_int_equal(c->gpr[X86_RCX], NEXT);
	assert_int_equal(c->gpr[X86_R11], X86_IF | X86_AC | X86_CF | X86_FIXED1);
	assert_int_equal(c->rflags, X86_CF | X86_FIXED1);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS64);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_DS);
	assert_int_equal(c->mmu_index, X86_MMU_KERNEL);
	c->gpr[X86_R11] |= X86_RF | X86_VM;
	assert_done(x86_sysret(c, 8));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rflags, X86_IF | X86_AC | X86_CF | X86_FIXED1);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_USER_CS64);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_USER_DS);
	assert_int_equal(c->code_size, 8);
	assert_refused(x86_sysret(c, 8), X86_GP, 0); /* CPL 3 */

	/* Where the vendors part. */
	assert_done(x86_syscall(c, NEXT));
	c->gpr[X86_RCX] = NOT_CANONICAL;
	fake_vendor(f, "GenuineIntel");
	assert_refused(x86_sysret(c, 8), X86_GP, 0);
	assert_int_equal(c->cpl, 0);
	fake_vendor(f, "AuthenticAMD");
	assert_done(x86_sysret(c, 8)); /* the fetch there faults */
	assert_int_equal(c->cpl, 3);
	assert_true(c->rip == NOT_CANONICAL);
	/* Compatibility mode: AMD's own. */
	fake_user_mode(f);
	c->seg[X86_CS] = fake_seg(FAKE_USER_CS32, 0, 0xffffffff, 0xc0fb);
	x86_mode_update(c);
	fake_vendor(f, "GenuineIntel");
	assert_refused(x86_syscall(c, NEXT), X86_UD, 0);
	fake_vendor(f, "AuthenticAMD");
	assert_done(x86_syscall(c, NEXT));
	assert_true(c->rip == c->msr.cstar);
	assert_int_equal(c->code_size, 8);
	assert_done(x86_sysret(c, 4));
	assert_int_equal(c->seg[X86_CS].sel, FAKE_USER_CS32);
	assert_int_equal(c->code_size, 4);
	c->efer &= ~X86_EFER_SCE;
	assert_refused(x86_syscall(c, NEXT), X86_UD, 0);
}

/* The TF that SYSCALL and SYSRET leave decides about a trap, not the one before. */
static void test_syscall_single_step(void **state)
{
	(void)state;
	fake_long_mode(f);
	c->msr.star = (uint64_t)FAKE_USER_CS32 << 48 | (uint64_t)FAKE_CS64 << 32;
	c->msr.sfmask = X86_TF;
	fake_user_mode(f);
	c->rflags |= X86_TF;
	assert_done(x86_step_begin(c); x86_syscall(c, NEXT); x86_step_end(c, c->rflags | X86_TF, 0));
	assert_true(c->gpr[X86_R11] & X86_TF);
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); x86_sysret(c, 8); x86_step_end(c, 0, 0)), X86_UNWIND_EVENT);
	assert_int_equal(c->ev.exc_vector, X86_DB);
	assert_true(c->ev.db_pending & X86_DR6_BS);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->cpl, 3);
	c->ev.db_pending = 0;
	/* Outside of stepping the poll raises it. */
	fake_long_mode(f);
	assert_done(x86_sysret(c, 8));
	assert_true(atomic_load(&c->attention) & X86_ATT_TRAP);
	assert_int_equal(c->ev.db_pending, X86_DR6_BS);
	c->ev.db_pending = 0;
	/* With TF before and not after there is none. */
	fake_long_mode(f);
	c->rflags |= X86_TF;
	c->gpr[X86_R11] = X86_FIXED1;
	assert_done(x86_step_begin(c); x86_sysret(c, 8); x86_step_end(c, X86_TF, 0));
	/* Unmasked, SYSCALL keeps TF and traps in the kernel. */
	c->msr.sfmask = 0;
	c->rflags |= X86_TF;
	assert_int_equal(FAKE_CATCH(f, x86_step_begin(c); x86_syscall(c, NEXT); x86_step_end(c, X86_TF, 0)),
			 X86_UNWIND_EVENT);
}

static void test_sysenter(void **state)
{
	(void)state;
	fake_protected_mode(f);
	user32();
	assert_refused(x86_sysenter(c), X86_GP, 0); /* MSR is 0 */
	c->msr.sysenter_cs = FAKE_CS32;
	c->msr.sysenter_eip = TARGET;
	c->msr.sysenter_esp = RSP0;
	c->rflags |= X86_IF | X86_VM;
	x86_mode_update(c);
	assert_done(x86_sysenter(c));
	assert_false(c->v8086);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->rip, TARGET);
	assert_int_equal(c->gpr[X86_RSP], RSP0);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS32);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_CS32 + 8);
	assert_int_equal(c->rflags, X86_FIXED1);
	c->gpr[X86_RDX] = NEXT;
	c->gpr[X86_RCX] = 0x7000;
	assert_done(x86_sysexit(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->gpr[X86_RSP], 0x7000);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS32 + 16 + 3);
	assert_int_equal(c->seg[X86_SS].sel, FAKE_CS32 + 24 + 3);
	assert_refused(x86_sysexit(c, 4), X86_GP, 0);

	fake_long_mode(f);
	c->gpr[X86_RDX] = NOT_CANONICAL;
	assert_refused(x86_sysexit(c, 8), X86_GP, 0);
	c->gpr[X86_RDX] = NEXT;
	assert_done(x86_sysexit(c, 8));
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS32 + 32 + 3);
	assert_int_equal(c->code_size, 8);
	fake_vendor(f, "AuthenticAMD");
	assert_refused(x86_sysenter(c), X86_UD, 0);
}

static void test_return_faults(void **state)
{
	(void)state;
	fake_protected_mode(f);
	push32(FAKE_DS);
	push32(0);
	assert_refused(x86_far_return(c, 4, 0), X86_GP, FAKE_DS);
	push32(0);
	push32(0);
	assert_refused(x86_far_return(c, 4, 0), X86_GP, 0);
	/* The outer SS is read behind the parameters. */
	c->gpr[X86_RSP] = FAKE_STACK;
	push32(FAKE_DS);
	push32(0x7000);
	push32(0);
	push32(FAKE_USER_CS32);
	push32(TARGET);
	assert_refused(x86_far_return(c, 4, 4), X86_GP, FAKE_DS);
	fake_poke32(f, FAKE_STACK - 4, FAKE_USER_DS);
	assert_done(x86_far_return(c, 4, 4));
	assert_int_equal(c->gpr[X86_RSP], 0x7004);
	assert_int_equal(c->cpl, 3);
	/* A push that faults in the page tables leaves no trace. */
	fake_long_mode(f);
	c->gpr[X86_RSP] = UINT64_C(0xffff800000001000);
	fake_map(f, UINT64_C(0xffff800000000000), 0x50000, 0);
	assert_refused(x86_far_call(c, FAKE_CS64, TARGET, 8, NEXT), X86_PF_EXC, X86_PFEC_W);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(real),    T(jump_to_code), T(jump_64), T(call_and_return),     T(call_gate), T(call_gate_64),
		T(iret_64), T(iret_v8086),   T(syscall), T(syscall_single_step), T(sysenter),  T(return_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
