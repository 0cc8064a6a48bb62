/* SPDX-License-Identifier: Apache-2.0 */
/* The MSR table, and what WRMSR refuses. */
#include "fakecpu.h"

#include "x86/control.h"
#include "x86/msr.h"

static int setup(void **state)
{
	struct fake *f = fake_create(1u << 20);

	x86_reset(&f->cpu, false);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

static void set_vendor(struct x86_cpu *c, uint32_t ebx)
{
	c->cpuid.count = 1;
	c->cpuid.entry[0] = (struct x86_cpuid_entry){ .leaf = 0, .eax = 1, .ebx = ebx };
}

#define INTEL 0x756e6547
#define AMD 0x68747541

static bool wr(struct fake *f, uint32_t index, uint64_t value)
{
	int why = FAKE_CATCH(f, x86_wrmsr(&f->cpu, index, value));

	if (why) {
		assert_int_equal(why, X86_UNWIND_EVENT);
		assert_int_equal(f->cpu.ev.exc_vector, X86_GP);
	}
	return !why;
}

static bool rd(struct fake *f, uint32_t index, volatile uint64_t *value)
{
	return !FAKE_CATCH(f, *value = x86_rdmsr(&f->cpu, index));
}

static void assert_rw(struct fake *f, uint32_t index, uint64_t value)
{
	volatile uint64_t back = ~value;

	assert_true(wr(f, index, value));
	assert_true(rd(f, index, &back));
	assert_int_equal(back, value);
}

static void test_table_is_sorted(void **state)
{
	(void)state;
	for (unsigned n = 0; n < x86_msr_row_count; n++) {
		assert_true(x86_msr_rows[n].first <= x86_msr_rows[n].last);
		if (n)
			assert_true(x86_msr_rows[n - 1].last < x86_msr_rows[n].first);
	}
}

static void test_unknown(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_false(rd(f, 0x12345678, &v));
	assert_false(wr(f, 0x12345678, 0));
	assert_false(rd(f, 0xda0, &v)); /* XSS: no XSAVES */
	assert_false(rd(f, MSR_SPEC_CTRL, &v));
}

static void test_every_saved_msr_goes_round(void **state)
{
	struct fake *f = *state;
	uint32_t list[256];
	unsigned n = x86_msr_list(list, ARRAY_SIZE(list));

	assert_in_range(n, 40, 255);
	for (unsigned i = 0; i < n; i++) {
		uint64_t v = 0;

		assert_true(x86_msr_get(&f->cpu, list[i], &v));
		assert_true(x86_msr_set(&f->cpu, list[i], v));
	}
}

static void test_efer(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_rw(f, MSR_EFER, X86_EFER_SCE | X86_EFER_NXE);
	assert_false(wr(f, MSR_EFER, X86_EFER_SVME));
	f->cpu.cpuid.efer_allowed &= ~X86_EFER_NXE;
	assert_false(wr(f, MSR_EFER, X86_EFER_NXE));
	/* LMA is not written, LME not while paging. */
	assert_true(wr(f, MSR_EFER, X86_EFER_LMA));
	assert_true(rd(f, MSR_EFER, &v));
	assert_int_equal(v, 0);
	f->cpu.cr0 |= X86_CR0_PE | X86_CR0_PG;
	assert_false(wr(f, MSR_EFER, X86_EFER_LME));
}

static void test_canonical(void **state)
{
	struct fake *f = *state;
	static const uint32_t list[] = { MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE };

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		assert_rw(f, list[i], UINT64_C(0xffff812345678000));
		/* As wide as the processor knows, whatever CR4.LA57 says. */
		assert_false(wr(f, list[i], UINT64_C(1) << 56));
		assert_rw(f, list[i], UINT64_C(1) << 47);
	}
	fake_without(f, X86_FEAT_LA57);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		assert_false(wr(f, list[i], UINT64_C(1) << 47));
	assert_int_equal(f->cpu.seg[X86_FS].base, UINT64_C(1) << 47);
	set_vendor(&f->cpu, INTEL);
	assert_false(wr(f, MSR_SYSENTER_EIP, UINT64_C(1) << 47));
	set_vendor(&f->cpu, AMD);
	assert_true(wr(f, MSR_SYSENTER_EIP, UINT64_C(1) << 47));
	assert_int_equal(f->cpu.msr.sysenter_eip, UINT64_C(0xffff800000000000));
}

static void test_pat_and_mtrrs(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_rw(f, MSR_PAT, UINT64_C(0x0706050401000706));
	assert_false(wr(f, MSR_PAT, 2));
	assert_false(wr(f, MSR_PAT, UINT64_C(0x08) << 56));
	assert_rw(f, MSR_MTRR_DEF_TYPE, 0xc06);
	assert_false(wr(f, MSR_MTRR_DEF_TYPE, 0x1000));
	assert_false(wr(f, MSR_MTRR_DEF_TYPE, 7));
	assert_rw(f, MSR_MTRR_PHYSBASE0 + 14, 0x80000006);
	assert_rw(f, MSR_MTRR_PHYSBASE0 + 15, 0x3fff80000800);
	assert_false(wr(f, MSR_MTRR_PHYSBASE0, 0x100));
	assert_false(wr(f, MSR_MTRR_PHYSBASE0 + 1, BIT64(FAKE_MAXPHYADDR)));
	assert_rw(f, MSR_MTRR_FIX4K_C0000 + 7, UINT64_C(0x0606060606060606));
	assert_false(wr(f, MSR_MTRR_FIX64K_00000, 0x03));
	assert_true(rd(f, MSR_MTRRCAP, &v));
	assert_int_equal(v & 0xff, 8);
	assert_false(wr(f, MSR_MTRRCAP, v));
}

static void test_tsc_and_adjust(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	f->tsc = 1000; /* reads 1100 next */
	assert_true(wr(f, MSR_TSC, 5000));
	assert_true(rd(f, MSR_TSC_ADJUST, &v));
	assert_int_equal(v, 5000 - 1100);
	assert_rw(f, MSR_TSC_ADJUST, 77);
	assert_true(x86_msr_set(&f->cpu, MSR_TSC, 42));
	assert_int_equal(f->tsc, 42);
	assert_int_equal(f->cpu.msr.tsc_adjust, 77);
}

static void test_tsc_aux(void **state)
{
	struct fake *f = *state;

	assert_rw(f, MSR_TSC_AUX, 0xffffffff);
	set_vendor(&f->cpu, INTEL);
	assert_false(wr(f, MSR_TSC_AUX, BIT64(32)));
	f->cpu.cpuid.features[X86_FEAT_RDTSCP / 32] &= ~BIT32(X86_FEAT_RDTSCP % 32);
	assert_rw(f, MSR_TSC_AUX, 1);
	f->cpu.cpuid.features[X86_FEAT_RDPID / 32] &= ~BIT32(X86_FEAT_RDPID % 32);
	assert_false(wr(f, MSR_TSC_AUX, 1));
}

static void test_pkrs(void **state)
{
	struct fake *f = *state;

	assert_rw(f, MSR_PKRS, 0xfffffffc);
	assert_false(wr(f, MSR_PKRS, BIT64(32)));
	f->cpu.cpuid.features[X86_FEAT_PKS / 32] &= ~BIT32(X86_FEAT_PKS % 32);
	assert_false(wr(f, MSR_PKRS, 0));
}

static void test_machine_check(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_true(rd(f, MSR_MCG_CAP, &v));
	assert_int_equal(v & 0xff, 10);
	assert_rw(f, MSR_MC0_CTL, ~UINT64_C(0));
	assert_false(wr(f, MSR_MC0_CTL, 5));
	assert_false(wr(f, MSR_MC0_CTL + 1, 1)); /* STATUS takes 0 only */
	assert_true(wr(f, MSR_K7_HWCR, BIT64(18)));
	assert_rw(f, MSR_MC0_CTL + 1, 1);
	assert_true(rd(f, MSR_MC0_CTL + 39, &v));
	assert_false(rd(f, MSR_MC0_CTL + 40, &v));
	assert_true(x86_msr_set(&f->cpu, MSR_MCG_CAP, 32 | BIT64(8)));
	assert_true(rd(f, MSR_MC0_CTL + 40, &v));
}

/* The value that kvm-unit-tests writes, with the read-only bits kept. */
static void test_misc_enable(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_true(wr(f, MSR_MISC_ENABLE, UINT64_C(0x400c50809)));
	/* Power-up has bits 11 and 12 set, 7 clear. */
	assert_true(rd(f, MSR_MISC_ENABLE, &v));
	assert_int_equal(v, UINT64_C(0x400c51809));
	assert_false(wr(f, MSR_MISC_ENABLE, BIT64(1)));
}

static void test_vendor_msrs(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	/* Linux on AMD: HWCR.TscFreqSel stays set, LFENCE is serializing, legacy counters are silent. */
	assert_true(wr(f, MSR_K7_HWCR, 0));
	assert_true(rd(f, MSR_K7_HWCR, &v));
	assert_int_equal(v, BIT64(24));
	assert_true(wr(f, MSR_AMD_DE_CFG, 2));
	assert_true(rd(f, MSR_AMD_DE_CFG, &v));
	assert_int_equal(v, 2);
	assert_false(wr(f, MSR_AMD_DE_CFG, 1));
	assert_true(wr(f, 0xc0010004, 99));
	assert_true(rd(f, 0xc0010004, &v));
	assert_int_equal(v, 0);
	set_vendor(&f->cpu, AMD);
	assert_false(rd(f, MSR_FEATURE_CONTROL, &v));
	assert_true(rd(f, MSR_UCODE_REV, &v));
	assert_int_equal(v, 0x01000065);
	/* ... and on Intel: FEATURE_CONTROL locked, microcode revision after writing 0. */
	set_vendor(&f->cpu, INTEL);
	assert_true(rd(f, MSR_FEATURE_CONTROL, &v));
	assert_int_equal(v, 1);
	assert_false(wr(f, MSR_FEATURE_CONTROL, 5));
	assert_true(wr(f, MSR_UCODE_REV, 0));
	assert_true(rd(f, MSR_UCODE_REV, &v));
	assert_int_equal(v, UINT64_C(1) << 32);
}

static void test_without_lapic(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	assert_true(rd(f, MSR_APIC_BASE, &v));
	assert_int_equal(v, 0xfee00900);
	assert_false(wr(f, MSR_APIC_BASE, 0xfee00d00)); /* x2APIC */
	assert_false(rd(f, MSR_X2APIC_FIRST + 2, &v));
	assert_false(rd(f, MSR_TSC_DEADLINE, &v));
}

static void test_features_hide(void **state)
{
	struct fake *f = *state;
	volatile uint64_t v;

	memset(f->cpu.cpuid.features, 0, sizeof(f->cpu.cpuid.features));
	assert_false(rd(f, MSR_LSTAR, &v));
	assert_false(rd(f, MSR_MTRRCAP, &v));
	assert_false(rd(f, MSR_MCG_CAP, &v));
	assert_false(rd(f, MSR_ARCH_CAPABILITIES, &v));
	assert_false(wr(f, MSR_TSC_ADJUST, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_sorted),
		cmocka_unit_test_setup_teardown(test_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_every_saved_msr_goes_round, setup, teardown),
		cmocka_unit_test_setup_teardown(test_efer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_canonical, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pat_and_mtrrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tsc_and_adjust, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tsc_aux, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pkrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machine_check, setup, teardown),
		cmocka_unit_test_setup_teardown(test_misc_enable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vendor_msrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without_lapic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_features_hide, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
