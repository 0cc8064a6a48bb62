/* SPDX-License-Identifier: Apache-2.0 */
/* Segmentation: modes, linear addresses, descriptor loads, LAR/LSL/VERR/VERW, the stack, port permission. */
#include "fakecpu.h"
#include "x86/segment.h"

#define FREE 0x50u /* first free selector of the fake GDT */

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

static uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t ar)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)ar << 40 |
	       (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base >> 24) << 56;
}

static void gdt_set(uint16_t sel, uint32_t base, uint32_t limit, uint32_t ar)
{
	fake_poke64(f, FAKE_GDT + (sel & ~7u), descriptor(base, limit, ar));
}

static void assert_raised(int how, unsigned vector, uint32_t error)
{
	assert_int_equal(how, X86_UNWIND_EVENT);
	assert_true(c->ev.exc_pending);
	assert_int_equal(c->ev.exc_vector, vector);
	assert_int_equal(c->ev.exc_error, error);
	c->ev.exc_pending = false;
}

static void test_modes(void **state)
{
	(void)state;
	x86_mode_update(c);
	assert_true(c->real_mode);
	assert_int_equal(c->code_size, 2);
	assert_int_equal(c->cpl, 0);

	fake_protected_mode(f);
	c->rflags |= X86_VM;
	x86_mode_update(c);
	assert_true(c->v8086);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->code_size, 2);
	assert_int_equal(c->stack_size, 2);
	assert_int_equal(c->mmu_index, X86_MMU_USER);

	fake_protected_mode(f);
	c->seg[X86_SS].ar &= ~X86_AR_DB;
	x86_mode_update(c);
	assert_int_equal(c->code_size, 4);
	assert_int_equal(c->stack_size, 2);

	fake_long_mode(f);
	c->cr4 |= X86_CR4_SMAP;
	x86_mode_update(c);
	assert_int_equal(c->code_size, 8);
	assert_int_equal(c->stack_size, 8);
	assert_int_equal(c->mmu_index, X86_MMU_KERNEL_SMAP);
	c->seg[X86_CS].ar = 0xc09b; /* compatibility mode */
	x86_mode_update(c);
	assert_true(c->long_mode);
	assert_int_equal(c->code_size, 4);
	assert_int_equal(c->stack_size, 4);
	fake_user_mode(f);
	x86_mode_update(c);
	assert_int_equal(c->cpl, 3);
}

static void test_linear_64(void **state)
{
	volatile uint64_t a = 0;

	(void)state;
	fake_long_mode(f);
	c->seg[X86_FS].base = 0x1000;
	c->seg[X86_DS].base = 0x5555; /* ignored */
	assert_int_equal(FAKE_CATCH(f, a = x86_linear(c, X86_DS, 0x10, 8, true)), 0);
	assert_int_equal(a, 0x10);
	assert_int_equal(FAKE_CATCH(f, a = x86_linear(c, X86_FS, 0x10, 8, true)), 0);
	assert_int_equal(a, 0x1010);
	assert_int_equal(FAKE_CATCH(f, a = x86_linear(c, X86_DS, UINT64_C(0xffff800000000000), 8, true)), 0);
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_DS, UINT64_C(0x7ffffffffff8), 8, false)), 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, UINT64_C(0x7ffffffffff9), 8, false)), X86_GP, 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_SS, UINT64_C(0x800000000000), 1, false)), X86_SS_EXC, 0);
	c->cr4 |= X86_CR4_LA57;
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_DS, UINT64_C(0x800000000000), 8, false)), 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, UINT64_C(0x100000000000000), 8, false)), X86_GP, 0);
}

static void test_linear_legacy(void **state)
{
	volatile uint64_t a = 0;

	(void)state;
	fake_protected_mode(f);
	c->seg[X86_DS] = fake_seg(FAKE_DS, 0xfffff000, 0x1fff, 0xc091); /* read-only */
	assert_int_equal(FAKE_CATCH(f, a = x86_linear(c, X86_DS, 0x1ffc, 4, false)), 0);
	assert_int_equal(a, 0xffc); /* wraps at 4 GiB */
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, 0x1ffd, 4, false)), X86_GP, 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, 0xffffffff, 4, false)), X86_GP, 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, 0, 4, true)), X86_GP, 0);
	/* Expand-down, 16- and 32-bit. */
	c->seg[X86_SS] = fake_seg(FAKE_DS, 0, 0xfff, 0x97);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_SS, 0xfff, 1, true)), X86_SS_EXC, 0);
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_SS, 0x1000, 1, true)), 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_SS, 0xffff, 2, true)), X86_SS_EXC, 0);
	c->seg[X86_SS].ar |= X86_AR_DB;
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_SS, 0xffff, 2, true)), 0);
	/* Null, execute-only, writing through CS. */
	c->seg[X86_ES].ar = X86_AR_UNUSABLE;
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_ES, 0, 1, false)), X86_GP, 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_CS, 0, 1, true)), X86_GP, 0);
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_CS, 0, 1, false)), 0);
	c->seg[X86_CS].ar &= ~X86_AR_READABLE;
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_CS, 0, 1, false)), X86_GP, 0);
	/* Real mode knows limits only. */
	fake_real_mode(f);
	assert_int_equal(FAKE_CATCH(f, x86_linear(c, X86_CS, 0, 1, true)), 0);
	assert_raised(FAKE_CATCH(f, x86_linear(c, X86_DS, 0xffff, 2, false)), X86_GP, 0);
	assert_false(c->ev.exc_has_error);
}

static int load(unsigned seg, uint16_t sel)
{
	return FAKE_CATCH(f, struct x86_seg s = x86_seg_prepare(c, seg, sel); x86_seg_commit(c, seg, &s));
}

static void test_load_data(void **state)
{
	(void)state;
	fake_protected_mode(f);
	gdt_set(FREE, 0x12345678, 0xabcde, 0x80f2); /* DPL 3 data, not accessed, 4-KiB granular */
	assert_int_equal(load(X86_FS, FREE | 3), 0);
	assert_int_equal(c->seg[X86_FS].sel, FREE | 3);
	assert_int_equal(c->seg[X86_FS].base, 0x12345678);
	assert_int_equal(c->seg[X86_FS].limit, 0xabcdefff);
	assert_int_equal(c->seg[X86_FS].ar, 0x80f3);
	assert_true(f->ram[FAKE_GDT + FREE + 5] & 1); /* accessed */

	gdt_set(FREE, 0, 0xffff, 0x93);
	assert_raised(load(X86_DS, FREE | 1), X86_GP, FREE); /* RPL 1 > DPL 0 */
	gdt_set(FREE, 0, 0xffff, 0x13);
	assert_raised(load(X86_DS, FREE), X86_NP, FREE);
	assert_raised(load(X86_SS, FREE), X86_SS_EXC, FREE);
	gdt_set(FREE, 0, 0xffff, 0x99); /* execute-only */
	assert_raised(load(X86_DS, FREE), X86_GP, FREE);
	gdt_set(FREE, 0, 0xffff, 0x9b);
	assert_int_equal(load(X86_DS, FREE), 0);
	assert_raised(load(X86_SS, FREE), X86_GP, FREE);
	gdt_set(FREE, 0, 0xffff, 0x9f); /* conforming: any RPL */
	assert_int_equal(load(X86_DS, FREE | 3), 0);
	gdt_set(FREE, 0, 0xffff, 0xf3);
	assert_raised(load(X86_SS, FREE), X86_GP, FREE); /* DPL 3 at CPL 0 */
	assert_raised(load(X86_DS, 0x80), X86_GP, 0x80); /* beyond the GDT */
	assert_raised(load(X86_DS, 0x0c), X86_GP, 0x0c); /* no LDT */
	assert_int_equal(load(X86_DS, 3), 0);
	assert_true(c->seg[X86_DS].ar & X86_AR_UNUSABLE);
	assert_raised(load(X86_SS, 0), X86_GP, 0);
	fake_long_mode(f);
	assert_int_equal(load(X86_SS, 0), 0);
	assert_int_equal(c->cpl, 0);
	assert_raised(load(X86_SS, 3), X86_GP, 0);
	fake_user_mode(f);
	assert_raised(load(X86_SS, 3), X86_GP, 0);
}

static void test_load_real(void **state)
{
	(void)state;
	c->seg[X86_DS].limit = 0xffffffff; /* unreal mode survives loads */
	assert_int_equal(load(X86_DS, 0x1234), 0);
	assert_int_equal(c->seg[X86_DS].base, 0x12340);
	assert_int_equal(c->seg[X86_DS].limit, 0xffffffff);
	fake_protected_mode(f);
	c->rflags |= X86_VM;
	x86_mode_update(c);
	assert_int_equal(load(X86_SS, 0x2000), 0);
	assert_int_equal(c->seg[X86_SS].base, 0x20000);
	assert_int_equal(c->seg[X86_SS].ar, 0xf3);
	assert_int_equal(c->seg[X86_SS].limit, 0xffff);
	assert_int_equal(c->cpl, 3);
}

static void test_ldt_and_tr(void **state)
{
	(void)state;
	fake_protected_mode(f);
	gdt_set(FREE, 0x5000, 0x0f, 0x82);
	assert_int_equal(FAKE_CATCH(f, x86_load_ldt(c, FREE)), 0);
	assert_int_equal(c->seg[X86_LDTR].base, 0x5000);
	fake_poke64(f, 0x5008, descriptor(0x777000, 0xffff, 0x93));
	assert_int_equal(load(X86_ES, 0x0c), 0);
	assert_int_equal(c->seg[X86_ES].base, 0x777000);
	assert_raised(load(X86_ES, 0x14), X86_GP, 0x14);
	assert_raised(FAKE_CATCH(f, x86_load_ldt(c, 0x0c)), X86_GP, 0x0c);
	assert_raised(FAKE_CATCH(f, x86_load_ldt(c, FAKE_DS)), X86_GP, FAKE_DS);
	gdt_set(FREE, 0x5000, 0x0f, 0x02);
	assert_raised(FAKE_CATCH(f, x86_load_ldt(c, FREE)), X86_NP, FREE);
	assert_int_equal(FAKE_CATCH(f, x86_load_ldt(c, 0)), 0);
	assert_true(c->seg[X86_LDTR].ar & X86_AR_UNUSABLE);

	assert_raised(FAKE_CATCH(f, x86_load_tr(c, FAKE_TR)), X86_GP, FAKE_TR); /* busy */
	gdt_set(FREE, 0x6000, 0x67, 0x89);
	assert_int_equal(FAKE_CATCH(f, x86_load_tr(c, FREE)), 0);
	assert_int_equal(c->seg[X86_TR].ar, 0x8b);
	assert_int_equal(f->ram[FAKE_GDT + FREE + 5], 0x8b);
	assert_raised(FAKE_CATCH(f, x86_load_tr(c, 0)), X86_GP, 0);

	fake_long_mode(f);
	gdt_set(FREE, 0x6000, 0x67, 0x89);
	fake_poke64(f, FAKE_GDT + FREE + 8, 0xffffffff);
	assert_int_equal(FAKE_CATCH(f, x86_load_tr(c, FREE)), 0);
	assert_true(c->seg[X86_TR].base == UINT64_C(0xffffffff00006000));
	gdt_set(FREE, 0x6000, 0x67, 0x89);
	fake_poke64(f, FAKE_GDT + FREE + 8, UINT64_C(0x0000010000000000)); /* upper type not 0 */
	assert_raised(FAKE_CATCH(f, x86_load_tr(c, FREE)), X86_GP, FREE);
	gdt_set(0x78, 0x6000, 0x67, 0x89); /* only half of it in the GDT */
	assert_raised(FAKE_CATCH(f, x86_load_tr(c, 0x78)), X86_GP, 0x78);
}

static void test_examine(void **state)
{
	uint32_t v;

	(void)state;
	fake_protected_mode(f);
	assert_true(x86_lar(c, FAKE_CS32, &v));
	assert_int_equal(v & 0xf0ff00, 0xc09b00);
	assert_true(x86_lsl(c, FAKE_CS32, &v));
	assert_int_equal(v, 0xffffffff);
	assert_true(x86_lsl(c, FAKE_TR, &v));
	assert_int_equal(v, 0xfff);
	assert_false(x86_lar(c, 0, &v));
	assert_false(x86_lar(c, 0x80, &v));
	assert_false(x86_lar(c, FAKE_CS32 | 3, &v)); /* RPL above DPL */
	gdt_set(FREE, 0, 0, 0x8c);                   /* call gate */
	assert_true(x86_lar(c, FREE, &v));
	assert_false(x86_lsl(c, FREE, &v));
	gdt_set(FREE, 0, 0, 0x8e); /* interrupt gate: neither */
	assert_false(x86_lar(c, FREE, &v));
	assert_true(x86_verify(c, FAKE_DS, true));
	assert_true(x86_verify(c, FAKE_CS32, false));
	assert_false(x86_verify(c, FAKE_CS32, true));
	assert_false(x86_verify(c, FAKE_TR, false));
	gdt_set(FREE, 0, 0, 0x91);
	assert_true(x86_verify(c, FREE, false));
	assert_false(x86_verify(c, FREE, true));
	fake_long_mode(f);
	gdt_set(FREE, 0, 0, 0x81); /* 16-bit TSS: not in long mode */
	assert_false(x86_lar(c, FREE, &v));
	fake_user_mode(f);
	assert_false(x86_lar(c, FAKE_CS64, &v));
	assert_true(x86_lar(c, FAKE_USER_CS64, &v));
}

static void test_stack(void **state)
{
	(void)state;
	c->gpr[X86_RSP] = UINT64_C(0xabcd0002);
	assert_int_equal(FAKE_CATCH(f, x86_push(c, 0x1111, 2); x86_push(c, 0x2222, 2)), 0);
	assert_int_equal(c->gpr[X86_RSP], 0xabcdfffe); /* SP wrapped, the upper half stayed */
	assert_int_equal(fake_peek32(f, 0) & 0xffff, 0x1111);
	assert_int_equal(fake_peek32(f, 0xfffe) & 0xffff, 0x2222);
	c->gpr[X86_RSP] = 1;
	assert_raised(FAKE_CATCH(f, x86_push(c, 0, 2)), X86_SS_EXC, 0); /* 0xffff..0x10000 */
	assert_int_equal(c->gpr[X86_RSP], 1);
	fake_long_mode(f);
	assert_int_equal(FAKE_CATCH(f, x86_push(c, 0x123456789, 8)), 0);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 8);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), 0x123456789);
	c->gpr[X86_RSP] = UINT64_C(0x800000000008);
	assert_raised(FAKE_CATCH(f, x86_push(c, 0, 8); x86_push(c, 0, 8)), X86_SS_EXC, 0);
	assert_int_equal(FAKE_CATCH(f, (void)0), 0);
}

static void test_align(void **state)
{
	(void)state;
	fake_long_mode(f);
	fake_user_mode(f);
	c->cr0 |= X86_CR0_AM;
	c->rflags |= X86_AC;
	assert_int_equal(FAKE_CATCH(f, x86_check_align(c, 0x1008, 8)), 0);
	assert_raised(FAKE_CATCH(f, x86_check_align(c, 0x1004, 8)), X86_AC_EXC, 0);
	assert_int_equal(FAKE_CATCH(f, x86_check_align(c, 0x1004, 6)), 0);
	assert_raised(FAKE_CATCH(f, x86_check_align(c, 0x1004, 10)), X86_AC_EXC, 0);
	c->rflags &= ~X86_AC;
	assert_int_equal(FAKE_CATCH(f, x86_check_align(c, 0x1001, 8)), 0);
}

static void test_io_permission(void **state)
{
	(void)state;
	fake_protected_mode(f);
	c->seg[X86_SS].ar |= 0x60;
	x86_mode_update(c);                                           /* CPL 3, IOPL 0 */
	c->seg[X86_TR] = fake_seg(FAKE_TR, FAKE_TSS, 0x68 + 8, 0x8b); /* ports 0..0x3f and the closing byte */
	fake_poke32(f, FAKE_TSS + 0x64, 0x68u << 16);
	fake_poke64(f, FAKE_TSS + 0x68, UINT64_C(1) << 9);
	assert_int_equal(FAKE_CATCH(f, x86_check_io(c, 0x08, 1)), 0);
	assert_raised(FAKE_CATCH(f, x86_check_io(c, 0x08, 2)), X86_GP, 0);
	assert_raised(FAKE_CATCH(f, x86_check_io(c, 0x06, 4)), X86_GP, 0);
	assert_int_equal(FAKE_CATCH(f, x86_check_io(c, 0x3f, 1)), 0);
	assert_raised(FAKE_CATCH(f, x86_check_io(c, 0x40, 1)), X86_GP, 0); /* its second byte is beyond the limit */
	c->rflags |= X86_IOPL;
	assert_int_equal(FAKE_CATCH(f, x86_check_io(c, 0x4000, 4)), 0);
	c->rflags |= X86_VM;
	x86_mode_update(c);
	assert_raised(FAKE_CATCH(f, x86_check_io(c, 0x4000, 4)), X86_GP, 0);
	c->seg[X86_TR].ar = 0x83;
	assert_raised(FAKE_CATCH(f, x86_check_io(c, 0, 1)), X86_GP, 0);
}

static void test_rip(void **state)
{
	(void)state;
	fake_protected_mode(f);
	c->seg[X86_CS].limit = 0xfff;
	assert_int_equal(FAKE_CATCH(f, x86_check_rip(c, 0xfff)), 0);
	assert_raised(FAKE_CATCH(f, x86_check_rip(c, 0x1000)), X86_GP, 0);
	fake_long_mode(f);
	c->seg[X86_CS].limit = 0;
	assert_int_equal(FAKE_CATCH(f, x86_check_rip(c, UINT64_C(0xffffffff81000000))), 0);
	assert_raised(FAKE_CATCH(f, x86_check_rip(c, UINT64_C(0x800000000000))), X86_GP, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(modes),   T(linear_64), T(linear_legacy), T(load_data),     T(load_real), T(ldt_and_tr),
		T(examine), T(stack),     T(align),         T(io_permission), T(rip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
