/* SPDX-License-Identifier: Apache-2.0 */
/* Control and debug registers, RFLAGS, INVPCID, sregs, reset. */
#include "fakecpu.h"

#include <errno.h>

#include "x86/control.h"
#include "x86/xstate.h"

#define RAM (4u << 20)
#define PAGE_RW 3u

static int setup(void **state)
{
	*state = fake_create(RAM);
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

/* The statement raises `vector` with error code 0 and leaves the control registers alone. */
#define assert_raises(f, vector, ...)                                                                                  \
	do {                                                                                                           \
		uint64_t cr0_ = (f)->cpu.cr0, cr3_ = (f)->cpu.cr3, cr4_ = (f)->cpu.cr4, efer_ = (f)->cpu.efer;         \
		assert_int_equal(FAKE_CATCH(f, __VA_ARGS__), X86_UNWIND_EVENT);                                        \
		assert_int_equal((f)->cpu.ev.exc_vector, vector);                                                      \
		assert_int_equal((f)->cpu.ev.exc_error, 0);                                                            \
		assert_true(cr0_ == (f)->cpu.cr0 && cr3_ == (f)->cpu.cr3);                                             \
		assert_true(cr4_ == (f)->cpu.cr4 && efer_ == (f)->cpu.efer);                                           \
	} while (0)
#define assert_runs(f, ...) assert_int_equal(FAKE_CATCH(f, __VA_ARGS__), 0)

static void test_cr0_combinations(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_raises(f, X86_GP, x86_write_cr0(c, X86_CR0_PG));
	assert_raises(f, X86_GP, x86_write_cr0(c, X86_CR0_NW));
	assert_raises(f, X86_GP, x86_write_cr0(c, BIT64(32)));
	/* Reserved bits of the low half are ignored, ET is always set. */
	assert_runs(f, x86_write_cr0(c, BIT64(6) | BIT64(28) | X86_CR0_PE));
	assert_int_equal(c->cr0, X86_CR0_PE | X86_CR0_ET);
	assert_false(c->real_mode);
	assert_runs(f, x86_write_cr0(c, X86_CR0_NW | X86_CR0_CD));
	assert_true(c->real_mode);
}

static void test_long_mode_activation(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t pg = X86_CR0_PE | X86_CR0_PG;

	fake_protected_mode(f);
	c->efer = X86_EFER_LME;
	assert_raises(f, X86_GP, x86_write_cr0(c, pg)); /* no PAE */
	c->cr4 = X86_CR4_PAE;
	c->seg[X86_CS].ar |= X86_AR_L;
	assert_raises(f, X86_GP, x86_write_cr0(c, pg));
	c->seg[X86_CS].ar &= ~X86_AR_L;
	assert_runs(f, x86_write_cr0(c, pg));
	assert_true(c->efer & X86_EFER_LMA);
	assert_true(c->long_mode);
	assert_int_equal(c->code_size, 4);
	/* From compatibility mode paging can be left, from 64-bit mode not, nor with PCIDE. */
	c->cr4 |= X86_CR4_PCIDE;
	assert_raises(f, X86_GP, x86_write_cr0(c, X86_CR0_PE));
	c->cr4 &= ~X86_CR4_PCIDE;
	c->code_size = 8;
	assert_raises(f, X86_GP, x86_write_cr0(c, X86_CR0_PE));
	c->code_size = 4;
	assert_runs(f, x86_write_cr0(c, X86_CR0_PE));
	assert_false(c->efer & X86_EFER_LMA);
	assert_true(c->efer & X86_EFER_LME);
}

static void test_cr4_rules(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_raises(f, X86_GP, x86_write_cr4(c, X86_CR4_VMXE));
	assert_raises(f, X86_GP, x86_write_cr4(c, BIT64(33)));
	assert_raises(f, X86_GP, x86_write_cr4(c, X86_CR4_PCIDE)); /* not in long mode */
	c->cpuid.cr4_allowed &= ~X86_CR4_SMAP;
	assert_raises(f, X86_GP, x86_write_cr4(c, X86_CR4_SMAP));

	fake_long_mode(f);
	assert_raises(f, X86_GP, x86_write_cr4(c, c->cr4 & ~X86_CR4_PAE));
	assert_raises(f, X86_GP, x86_write_cr4(c, c->cr4 | X86_CR4_LA57));
	c->cr3 |= 5;
	assert_raises(f, X86_GP, x86_write_cr4(c, c->cr4 | X86_CR4_PCIDE));
	c->cr3 &= ~UINT64_C(0xfff);
	assert_runs(f, x86_write_cr4(c, c->cr4 | X86_CR4_PCIDE));
	assert_true(c->cr4 & X86_CR4_PCIDE);
}

static void test_smap_changes_mmu_index(void **state)
{
	struct fake *f = *state;

	fake_long_mode(f);
	assert_int_equal(f->cpu.mmu_index, X86_MMU_KERNEL);
	assert_runs(f, x86_write_cr4(&f->cpu, f->cpu.cr4 | X86_CR4_SMAP));
	assert_int_equal(f->cpu.mmu_index, X86_MMU_KERNEL_SMAP);
	assert_runs(f, x86_write_rflags(&f->cpu, X86_AC, X86_AC));
	assert_int_equal(f->cpu.mmu_index, X86_MMU_KERNEL);
}

static void test_cr3_reserved_and_noflush(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t cr3;

	fake_long_mode(f);
	cr3 = c->cr3;
	assert_raises(f, X86_GP, x86_write_cr3(c, cr3 | BIT64(FAKE_MAXPHYADDR)));
	assert_raises(f, X86_GP, x86_write_cr3(c, cr3 | X86_CR3_NOFLUSH)); /* without PCIDE: reserved */
	assert_runs(f, x86_write_cr4(c, c->cr4 | X86_CR4_PCIDE));
	assert_runs(f, x86_write_cr3(c, cr3 | 7 | X86_CR3_NOFLUSH));
	assert_int_equal(c->cr3, cr3 | 7);
}

/* A changed mapping shows after MOV CR3, and may stay hidden after one with bit 63 to the same address space. */
static void test_cr3_flushes(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	const uint64_t gva = UINT64_C(1) << 40;

	fake_long_mode(f);
	fake_poke64(f, 0x40000, 1);
	fake_poke64(f, 0x41000, 2);
	fake_map(f, gva, 0x40000, PAGE_RW);
	assert_runs(f, assert_int_equal(x86_read64(c, gva), 1));
	fake_map(f, gva, 0x41000, PAGE_RW);
	assert_runs(f, x86_write_cr3(c, c->cr3));
	assert_runs(f, assert_int_equal(x86_read64(c, gva), 2));
	fake_map(f, gva, 0x40000, PAGE_RW);
	assert_runs(f, x86_invlpg(c, gva + 0x123));
	assert_runs(f, assert_int_equal(x86_read64(c, gva), 1));
	fake_map(f, gva, 0x41000, PAGE_RW);
	assert_runs(f, x86_invpcid(c, 1, 0, 0));
	assert_runs(f, assert_int_equal(x86_read64(c, gva), 2));
}

static void test_invpcid_faults(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_long_mode(f);
	assert_raises(f, X86_GP, x86_invpcid(c, 4, 0, 0));
	assert_raises(f, X86_GP, x86_invpcid(c, 2, 0x1000, 0));
	assert_raises(f, X86_GP, x86_invpcid(c, 0, 1, 0)); /* no PCIDE */
	assert_raises(f, X86_GP, x86_invpcid(c, 0, 0, UINT64_C(1) << 62));
	assert_runs(f, x86_invpcid(c, 3, 1, UINT64_C(1) << 62));
}

static void test_pae_loads_pdptes(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_protected_mode(f);
	fake_poke64(f, 0x50000, 0x51001);
	fake_poke64(f, 0x50020, 0x51003); /* bit 1 is reserved */
	assert_runs(f, x86_write_cr4(c, X86_CR4_PAE));
	assert_runs(f, x86_write_cr3(c, 0x50020));
	assert_raises(f, X86_GP, x86_write_cr0(c, X86_CR0_PE | X86_CR0_PG));
	assert_runs(f, x86_write_cr3(c, 0x50000));
	assert_runs(f, x86_write_cr0(c, X86_CR0_PE | X86_CR0_PG));
	assert_int_equal(c->pdpte[0], 0x51001);
	assert_raises(f, X86_GP, x86_write_cr3(c, 0x50020));
	assert_int_equal(c->pdpte[0], 0x51001);
}

static void test_cr8(void **state)
{
	struct fake *f = *state;

	assert_raises(f, X86_GP, x86_write_cr8(&f->cpu, 16));
	assert_runs(f, x86_write_cr8(&f->cpu, 9));
	assert_int_equal(x86_read_cr8(&f->cpu), 9);
	assert_int_equal(f->cr8_changes, 1);
	assert_true(f->cpu.attention & X86_ATT_IRQ);
}

static void test_xcr0(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_raises(f, X86_GP, x86_write_xcr(c, 0, 0));             /* x87 always */
	assert_raises(f, X86_GP, x86_write_xcr(c, 0, 5));             /* AVX without SSE */
	assert_raises(f, X86_GP, x86_write_xcr(c, 0, 0x27));          /* a part of AVX-512 */
	assert_raises(f, X86_GP, x86_write_xcr(c, 0, 0xe3));          /* AVX-512 without AVX */
	assert_raises(f, X86_GP, x86_write_xcr(c, 0, BIT64(17) | 3)); /* not offered */
	assert_raises(f, X86_GP, x86_write_xcr(c, 1, 3));
	assert_runs(f, x86_write_xcr(c, 0, 0x2e7));
	assert_int_equal(c->xcr0, 0x2e7);
}

static void test_rflags(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->attention = 0;
	assert_runs(f, x86_write_rflags(c, ~UINT64_C(0), X86_IF | X86_CF | BIT64(3) | BIT64(40)));
	assert_int_equal(c->rflags, X86_FIXED1 | X86_IF | X86_CF);
	assert_true(c->attention & X86_ATT_IRQ);
	c->attention = 0;
	assert_runs(f, x86_write_rflags(c, 0, X86_IF));
	assert_int_equal(c->rflags, X86_FIXED1 | X86_CF);
	assert_int_equal(c->attention, 0);
	assert_runs(f, x86_write_rflags(c, X86_TF, X86_TF));
	assert_true(c->attention & X86_ATT_TRAP);
}

static void test_debug_registers(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_long_mode(f);
	assert_runs(f, x86_write_dr(c, 6, 0xffffffff));
	assert_int_equal(c->dr[6], X86_DR6_FIXED1 | 0xe00f);
	assert_runs(f, x86_write_dr(c, 4, 0));
	assert_int_equal(c->dr[6], X86_DR6_FIXED1);
	assert_raises(f, X86_GP, x86_write_dr(c, 7, BIT64(32)));
	assert_raises(f, X86_GP, x86_write_dr(c, 6, BIT64(63)));
	assert_runs(f, x86_write_dr(c, 0, UINT64_C(0xffff800000001000)));
	assert_runs(f, x86_write_dr(c, 7, 0x1)); /* instruction breakpoint 0 */
	assert_int_equal(c->dr[7], 0x401);
	assert_true(c->dr_exec);
	assert_false(c->dr_watch);
	assert_runs(f, x86_write_dr(c, 5, 0x30002)); /* data, read and write */
	assert_true(c->dr_watch);
	assert_false(c->dr_exec);
	assert_runs(f, assert_int_equal(x86_read_dr(c, 5), 0x30402));
	c->cr4 |= X86_CR4_DE;
	assert_raises(f, X86_UD, x86_read_dr(c, 5));
	assert_raises(f, X86_UD, x86_write_dr(c, 4, 0));
}

static void test_general_detect(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_runs(f, x86_write_dr(c, 7, X86_DR7_GD));
	assert_raises(f, X86_DB, x86_read_dr(c, 0));
	assert_int_equal(c->ev.db_pending, X86_DR6_BD);
	assert_raises(f, X86_DB, x86_write_dr(c, 7, 0));
}

static void test_sregs(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	struct x86_sregs s, t;

	fake_long_mode(f);
	c->cr8 = 5;
	x86_get_sregs(c, &s);
	fake_real_mode(f);
	assert_int_equal(x86_set_sregs(c, &s), 0);
	x86_get_sregs(c, &t);
	assert_memory_equal(&s, &t, sizeof(s));
	assert_true(x86_long64(c));

	t = s;
	t.cr4 |= X86_CR4_VMXE;
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
	t = s;
	t.cr4 &= ~X86_CR4_PAE;
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
	t = s;
	t.efer &= ~X86_EFER_LMA;
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
	t = s;
	t.cr3 |= BIT64(FAKE_MAXPHYADDR);
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
	t = s;
	t.cr8 = 16;
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
	t = s;
	t.cr0 &= ~X86_CR0_PE;
	assert_int_equal(x86_set_sregs(c, &t), -EINVAL);
}

static void test_reset_and_init(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_long_mode(f);
	c->msr.lstar = 1;
	c->xcr0 = 7;
	c->cr2 = 2;
	c->dr[0] = 3;
	c->ev.nmi_masked = true;
	c->ev.shadow = X86_SHADOW_STI;
	c->cpuid.count = 1;
	c->cpuid.entry[0] = (struct x86_cpuid_entry){ .leaf = 1, .eax = 0x806f8 };
	x86_reset(c, true);
	assert_int_equal(c->seg[X86_CS].sel, 0xf000);
	assert_int_equal(c->seg[X86_CS].base, 0xffff0000);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->gpr[X86_RDX], 0x806f8);
	assert_int_equal(c->rflags, 2);
	assert_int_equal(c->cr0, X86_CR0_ET); /* CD and NW as they were */
	assert_int_equal(c->efer | c->cr2 | c->cr3 | c->cr4 | c->dr[0], 0);
	assert_int_equal(c->msr.lstar, 1);
	assert_int_equal(c->xcr0, 7);
	assert_false(c->ev.nmi_masked);
	assert_int_equal(c->ev.shadow, 0);
	assert_true(c->real_mode);
	assert_int_equal(c->code_size, 2);

	x86_reset(c, false);
	assert_int_equal(c->cr0, X86_CR0_ET | X86_CR0_CD | X86_CR0_NW);
	assert_int_equal(c->msr.lstar, 0);
	assert_int_equal(c->xcr0, 1);
	assert_int_equal(c->msr.pat, UINT64_C(0x0007040600070406));

	x86_sipi(c, 0x9a);
	assert_int_equal(c->seg[X86_CS].sel, 0x9a00);
	assert_int_equal(c->seg[X86_CS].base, 0x9a000);
	assert_int_equal(c->rip, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cr0_combinations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_mode_activation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cr4_rules, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smap_changes_mmu_index, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cr3_reserved_and_noflush, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cr3_flushes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_invpcid_faults, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pae_loads_pdptes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cr8, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xcr0, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rflags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_debug_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_general_detect, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sregs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_and_init, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
