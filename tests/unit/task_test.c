/* SPDX-License-Identifier: Apache-2.0 */
/* The hardware task switch: JMP, CALL, IRET, task gates, 16- and 32-bit TSS, faults on either side of the commit. */
#include "fakecpu.h"
#include "x86/event.h"
#include "x86/segment.h"
#include "x86/transfer.h"

#define FREE 0x50u
#define GATE 0x58u
#define LDT 0x60u
#define NEW_TSS 0x5000u
#define NEXT (FAKE_CODE + 7)
#define TARGET 0x12340u
#define NEW_STACK 0x30000u

static struct fake *f;
static struct x86_cpu *c;

static void gdt_set(uint16_t sel, uint32_t base, uint32_t limit, uint32_t ar)
{
	fake_poke64(f, FAKE_GDT + (sel & ~7u),
		    (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)ar << 40 |
			    (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base >> 24) << 56);
}

static unsigned type_of(uint16_t sel)
{
	return f->ram[FAKE_GDT + sel + 5] & 0x1f;
}

static void poke16(uint32_t at, uint16_t v)
{
	fake_poke(f, at, &v, 2);
}

/* A ready 32-bit task, ring 0. */
static void make_tss(void)
{
	static const uint16_t sel[] = { FAKE_DS, FAKE_CS32, FAKE_DS, FAKE_DS, 0, FAKE_DS };

	memset(f->ram + NEW_TSS, 0, 0x68);
	fake_poke32(f, NEW_TSS + 0x20, TARGET);
	fake_poke32(f, NEW_TSS + 0x24, X86_IF | X86_FIXED1);
	for (unsigned i = 0; i < 8; i++)
		fake_poke32(f, NEW_TSS + 0x28 + 4 * i, 0x100 + i);
	fake_poke32(f, NEW_TSS + 0x38, NEW_STACK);
	for (unsigned i = 0; i < 6; i++)
		poke16(NEW_TSS + 0x48 + 4 * i, sel[i]);
	gdt_set(FREE, NEW_TSS, 0x67, 0x89);
}

static int setup(void **state)
{
	(void)state;
	f = fake_create(2 << 20);
	c = &f->cpu;
	fake_protected_mode(f);
	make_tss();
	c->gpr[X86_RBX] = 0xb0b;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_destroy(f);
	return 0;
}

#define assert_done(how) assert_int_equal(FAKE_CATCH(f, how), 0)
#define assert_raised(how, vector, error)                                                                              \
	do {                                                                                                           \
		assert_int_equal(FAKE_CATCH(f, how), X86_UNWIND_EVENT);                                                \
		assert_int_equal(c->ev.exc_vector, vector);                                                            \
		assert_int_equal(c->ev.exc_error, error);                                                              \
	} while (0)

static void test_jump(void **state)
{
	(void)state;
	c->rflags |= X86_CF;
	c->dr[7] |= 0x1ff;
	assert_done(x86_far_jump(c, FREE, 0xdead, 4, NEXT));
	assert_int_equal(c->rip, TARGET);
	assert_int_equal(c->gpr[X86_RAX], 0x100);
	assert_int_equal(c->gpr[X86_RSP], NEW_STACK);
	assert_int_equal(c->rflags, X86_IF | X86_FIXED1);
	assert_int_equal(c->seg[X86_TR].sel, FREE);
	assert_int_equal(c->seg[X86_TR].ar & 0xf, X86_SYS_TSS_BUSY);
	assert_int_equal(c->seg[X86_GS].sel, FAKE_DS);
	assert_true(c->seg[X86_FS].ar & X86_AR_UNUSABLE);
	assert_true(c->cr0 & X86_CR0_TS);
	assert_int_equal(c->dr[7] & 0x1ff, 0x1ff & ~0x155);
	assert_int_equal(type_of(FREE), X86_SYS_TSS_BUSY);
	assert_int_equal(type_of(FAKE_TR), X86_SYS_TSS);
	/* The old task's state. */
	assert_int_equal(fake_peek32(f, FAKE_TSS + 0x20), NEXT);
	assert_int_equal(fake_peek32(f, FAKE_TSS + 0x24), X86_CF | X86_FIXED1);
	assert_int_equal(fake_peek32(f, FAKE_TSS + 0x34), 0xb0b);
	assert_int_equal(fake_peek32(f, FAKE_TSS + 0x4c), FAKE_CS32);
	/* A jump back restores it. */
	assert_done(x86_far_jump(c, FAKE_TR, 0, 4, TARGET + 1));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->gpr[X86_RBX], 0xb0b);
	assert_int_equal(fake_peek32(f, NEW_TSS), 0); /* no link: it was not nested */
}

static void test_call_and_iret(void **state)
{
	(void)state;
	assert_done(x86_far_call(c, FREE, 0, 4, NEXT));
	assert_true(c->rflags & X86_NT);
	assert_int_equal(fake_peek32(f, NEW_TSS), FAKE_TR);
	assert_int_equal(type_of(FAKE_TR), X86_SYS_TSS_BUSY); /* both busy */
	assert_int_equal(type_of(FREE), X86_SYS_TSS_BUSY);
	assert_raised(x86_far_call(c, FAKE_TR, 0, 4, NEXT), X86_GP, FAKE_TR); /* tasks are not reentrant */
	c->ev.nmi_masked = true;
	assert_done(x86_iret(c, 4, TARGET + 2));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(c->seg[X86_TR].sel, FAKE_TR);
	assert_false(c->rflags & X86_NT);
	assert_false(c->ev.nmi_masked);
	assert_int_equal(type_of(FREE), X86_SYS_TSS);
	assert_int_equal(fake_peek32(f, NEW_TSS + 0x20), TARGET + 2);
	assert_false(fake_peek32(f, NEW_TSS + 0x24) & X86_NT);
	/* Back link to what is no busy TSS. */
	c->rflags |= X86_NT;
	fake_poke32(f, FAKE_TSS, FREE);
	assert_raised(x86_iret(c, 4, NEXT), X86_TS, FREE);
	fake_poke32(f, FAKE_TSS, 0);
	assert_raised(x86_iret(c, 4, NEXT), X86_TS, 0);
}

static void test_refused_before_commit(void **state)
{
	(void)state;
	gdt_set(FREE, NEW_TSS, 0x66, 0x89);
	assert_raised(x86_far_jump(c, FREE, 0, 4, NEXT), X86_TS, FREE);
	gdt_set(FREE, NEW_TSS, 0x67, 0x09);
	assert_raised(x86_far_jump(c, FREE, 0, 4, NEXT), X86_NP, FREE);
	gdt_set(FREE, NEW_TSS, 0x67, 0x89);
	c->seg[X86_TR].limit = 0x40; /* nowhere to save the old task */
	assert_raised(x86_far_jump(c, FREE, 0, 4, NEXT), X86_TS, FAKE_TR);
	assert_int_equal(c->rip, FAKE_CODE);
	assert_int_equal(type_of(FREE), X86_SYS_TSS);
	assert_int_equal(type_of(FAKE_TR), X86_SYS_TSS_BUSY);
	assert_false(c->cr0 & X86_CR0_TS);
}

static void test_faults_in_the_new_task(void **state)
{
	static const struct {
		unsigned at, vector;
		uint16_t sel;
	} row[] = {
		{ 0x4c, X86_TS, FAKE_DS },   /* CS is data */
		{ 0x4c, X86_TS, 0 },         /* CS is null */
		{ 0x50, X86_TS, 0 },         /* SS is null */
		{ 0x50, X86_TS, FAKE_CS32 }, /* SS is code */
		{ 0x54, X86_TS, 0x80 },      /* DS beyond the GDT */
		{ 0x48, X86_NP, 0x68 },      /* ES not present */
		{ 0x60, X86_TS, FAKE_DS },   /* LDT is data */
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		fake_protected_mode(f);
		make_tss();
		gdt_set(0x68, 0, 0xffff, 0x13);
		poke16(NEW_TSS + row[i].at, row[i].sel);
		assert_raised(x86_far_jump(c, FREE, 0, 4, NEXT), row[i].vector, row[i].sel);
		/* The new task faults, with its own registers. */
		assert_int_equal(c->rip, TARGET);
		assert_int_equal(c->gpr[X86_RSP], NEW_STACK);
		assert_int_equal(c->seg[X86_TR].sel, FREE);
	}
	fake_protected_mode(f);
	make_tss();
	gdt_set(LDT, 0x6000, 0xff, 0x82);
	poke16(NEW_TSS + 0x60, LDT);
	gdt_set(0x68, 0, 0xffff, 0x409b);
	poke16(NEW_TSS + 0x4c, 0x68);
	assert_raised(x86_far_jump(c, FREE, 0, 4, NEXT), X86_GP, 0); /* EIP beyond CS */
	assert_int_equal(c->seg[X86_LDTR].base, 0x6000);
}

static void test_16bit(void **state)
{
	static const uint16_t image[] = { TARGET & 0xffff, X86_CF | X86_FIXED1, 1,       2,       3, 4, 0x9000, 6, 7, 8,
					  FAKE_DS,         FAKE_CS16,           FAKE_DS, FAKE_DS, 0 };

	(void)state;
	memset(f->ram + NEW_TSS, 0, 0x68);
	fake_poke(f, NEW_TSS + 0x0e, image, sizeof(image));
	gdt_set(FREE, NEW_TSS, 0x2b, 0x81);
	assert_done(x86_far_call(c, FREE, 0, 4, NEXT));
	assert_int_equal(c->rip, TARGET & 0xffff);
	assert_int_equal(c->gpr[X86_RCX], 2);
	assert_int_equal(c->gpr[X86_RSP], 0x9000);
	assert_int_equal(c->rflags, X86_CF | X86_NT | X86_FIXED1);
	assert_int_equal(c->code_size, 2);
	assert_true(c->seg[X86_FS].ar & X86_AR_UNUSABLE);
	assert_int_equal(c->seg[X86_TR].ar & 0xf, X86_SYS_TSS16_BUSY);
	assert_done(x86_iret(c, 2, 0x5678));
	assert_int_equal(c->rip, NEXT);
	assert_int_equal(fake_peek32(f, NEW_TSS + 0x0e) & 0xffff, 0x5678);
}

static void test_trap_bit(void **state)
{
	(void)state;
	poke16(NEW_TSS + 0x64, 1);
	fake_poke64(f, FAKE_IDT + X86_DB * 8, 0x5678 | (uint64_t)FAKE_CS32 << 16 | UINT64_C(0x8e00) << 32);
	assert_done(x86_far_jump(c, FREE, 0, 4, NEXT));
	assert_true(atomic_load(&c->attention) & X86_ATT_TRAP);
	assert_int_equal(x86_poll(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, 0x5678);
	assert_true(c->dr[6] & X86_DR6_BT);
	assert_int_equal(fake_peek32(f, NEW_STACK - 12), TARGET);
}

static void test_task_gates(void **state)
{
	(void)state;
	/* In the GDT. */
	fake_poke64(f, FAKE_GDT + GATE, (uint64_t)FREE << 16 | UINT64_C(0x8500) << 32);
	assert_done(x86_far_jump(c, GATE, 0, 4, NEXT));
	assert_int_equal(c->rip, TARGET);
	assert_int_equal(c->seg[X86_TR].sel, FREE);
	/* In the IDT: a fault with an error code, saved with RF. */
	fake_protected_mode(f);
	make_tss();
	fake_poke64(f, FAKE_IDT + X86_GP * 8, (uint64_t)FREE << 16 | UINT64_C(0x8500) << 32);
	FAKE_CATCH(f, x86_raise_error(c, X86_GP, 0x1234));
	assert_int_equal(x86_deliver_event(c), X86_EXIT_NONE);
	assert_int_equal(c->rip, TARGET);
	assert_true(c->rflags & X86_NT);
	assert_int_equal(c->gpr[X86_RSP], NEW_STACK - 4);
	assert_int_equal(fake_peek32(f, NEW_STACK - 4), 0x1234);
	assert_int_equal(fake_peek32(f, FAKE_TSS + 0x20), FAKE_CODE);
	assert_true(fake_peek32(f, FAKE_TSS + 0x24) & X86_RF);
	/* To a busy TSS, by a hardware interrupt: EXT is set. */
	fake_poke64(f, FAKE_IDT + 0x21 * 8, (uint64_t)FREE << 16 | UINT64_C(0x8500) << 32);
	assert_raised(x86_interrupt(c, 0x21, X86_INT_HARDWARE, false, 0, 0), X86_GP, FREE | 1);
	assert_raised(x86_interrupt(c, 0x21, X86_INT_SOFT, false, 0, 0), X86_GP, FREE);
}

static void test_v8086_task(void **state)
{
	(void)state;
	fake_poke32(f, NEW_TSS + 0x24, X86_VM | X86_IF | X86_FIXED1);
	poke16(NEW_TSS + 0x4c, 0x1100);
	poke16(NEW_TSS + 0x50, 0x1200);
	fake_poke32(f, NEW_TSS + 0x20, 0x44);
	assert_done(x86_far_jump(c, FREE, 0, 4, NEXT));
	assert_true(c->v8086);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[X86_CS].base, 0x11000);
	assert_int_equal(c->seg[X86_SS].ar, 0xf3);
	assert_int_equal(c->rip, 0x44);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(jump),
		T(call_and_iret),
		T(refused_before_commit),
		T(faults_in_the_new_task),
		T(16bit),
		T(trap_bit),
		T(task_gates),
		T(v8086_task),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
