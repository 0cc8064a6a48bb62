/* SPDX-License-Identifier: Apache-2.0 */
/* The supported CPUID table, what is derived from one, and the instruction. */
#include "fakecpu.h"

#include <cpuid.h>

#include "x86/control.h"
#include "x86/fpu.h"
#include "x86/msr.h"

#define INTEL 0x756e6547
#define AMD 0x68747541

static int setup(void **state)
{
	struct fake *f = fake_create(1u << 20);
	struct x86_cpuid *id = &f->cpu.cpuid;

	id->count = x86_cpuid_supported(id->entry, X86_CPUID_MAX);
	x86_cpuid_changed(&f->cpu);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

struct regs {
	uint32_t a, b, c, d;
};

static struct regs run(struct fake *f, uint32_t leaf, uint32_t subleaf)
{
	struct regs r = { .a = leaf, .c = subleaf };

	x86_cpuid_execute(&f->cpu, &r.a, &r.b, &r.c, &r.d);
	return r;
}

static struct x86_cpuid_entry *entry(struct fake *f, uint32_t leaf, uint32_t subleaf)
{
	struct x86_cpuid *id = &f->cpu.cpuid;

	for (unsigned i = 0; i < id->count; i++)
		if (id->entry[i].leaf == leaf && (!id->entry[i].has_subleaf || id->entry[i].subleaf == subleaf))
			return &id->entry[i];
	return NULL;
}

static void test_supported_is_honest(void **state)
{
	struct fake *f = *state;
	uint32_t a, b, c, d;
	struct regs r;

	/* What the host's unit executes is offered as the host has it. */
	__cpuid(1, a, b, c, d);
	r = run(f, 1, 0);
	assert_int_equal(r.c & BIT32(25), c & BIT32(25)); /* AES */
	if (!(x86_fpu_supported_xcr0() & 4))
		assert_int_equal(r.c & BIT32(28), 0); /* AVX */
	assert_int_equal(r.a, a);
	/* What is software is always there; what nobody implements never. */
	assert_true(r.c & BIT32(17) /* PCID */ && r.c & BIT32(21) /* x2APIC */ && r.c & BIT32(31));
	assert_false(r.c & (BIT32(3) /* MONITOR */ | BIT32(5) /* VMX */));
	r = run(f, 7, 0);
	assert_true(r.b & BIT32(7) && r.b & BIT32(20)); /* SMEP, SMAP */
	assert_false(r.b & (BIT32(4) | BIT32(11)));     /* TSX */
	r = run(f, 0x80000001, 0);
	assert_false(r.c & BIT32(2)); /* SVM */
	assert_true(r.d & BIT32(29));
}

static void test_no_duplicate_and_no_overflow(void **state)
{
	struct fake *f = *state;
	struct x86_cpuid *id = &f->cpu.cpuid;
	struct x86_cpuid_entry few[3];

	assert_in_range(id->count, 20, X86_CPUID_MAX - 40);
	for (unsigned i = 0; i < id->count; i++)
		assert_ptr_equal(entry(f, id->entry[i].leaf, id->entry[i].subleaf), &id->entry[i]);
	assert_int_equal(x86_cpuid_supported(few, 3), 3);
}

static void test_derived(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_true(x86_has(c, X86_FEAT_SMAP));
	assert_true(c->cpuid.cr4_allowed & X86_CR4_SMAP);
	assert_false(c->cpuid.cr4_allowed & X86_CR4_VMXE);
	entry(f, 7, 0)->ebx &= ~BIT32(20);
	entry(f, 7, 0)->ecx &= ~(BIT32(3) | BIT32(31)); /* PKU, PKS */
	entry(f, 0x80000001, 0)->edx &= ~BIT32(20);
	entry(f, 0x80000008, 0)->eax = 57u << 8 | 39;
	x86_cpuid_changed(c);
	assert_false(x86_has(c, X86_FEAT_SMAP));
	assert_false(c->cpuid.cr4_allowed & (X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_PKS));
	assert_false(c->cpuid.xcr0_allowed & BIT64(9));
	assert_false(c->cpuid.efer_allowed & X86_EFER_NXE);
	assert_int_equal(c->cpuid.maxphyaddr, 39);
	assert_int_equal(c->cpuid.rsvd_gpa_bits, UINT64_C(0x000fff8000000000));

	c->cpuid.count = 0;
	x86_cpuid_changed(c);
	assert_int_equal(c->cpuid.maxphyaddr, 36);
	assert_int_equal(c->cpuid.xcr0_allowed, 1);
}

static void test_dynamic_bits(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_false(run(f, 1, 0).c & BIT32(27));
	assert_false(run(f, 7, 0).c & BIT32(4));
	c->cr4 |= X86_CR4_OSXSAVE | X86_CR4_PKE;
	assert_true(run(f, 1, 0).c & BIT32(27));
	assert_true(run(f, 7, 0).c & BIT32(4));
	assert_true(run(f, 1, 0).d & BIT32(9));
	c->msr.apic_base &= ~BIT64(11);
	assert_false(run(f, 1, 0).d & BIT32(9));
	assert_true(run(f, 0x80000001, 0).d & BIT32(20));
	c->msr.misc_enable |= X86_MISC_ENABLE_XD_DISABLE;
	assert_false(run(f, 0x80000001, 0).d & BIT32(20));
	c->msr.misc_enable |= X86_MISC_ENABLE_LIMIT_CPUID;
	assert_int_equal(run(f, 0, 0).a, 2);
	if (!entry(f, 0xd, 0))
		return;
	c->xcr0 = 1;
	assert_int_equal(run(f, 0xd, 0).b, 576);
	c->xcr0 = c->cpuid.xcr0_allowed;
	assert_int_equal(run(f, 0xd, 0).b, run(f, 0xd, 0).c);
}

static void test_lookup(void **state)
{
	struct fake *f = *state;
	struct regs top, r;

	/* A hole, and a sub-leaf that is not there: zeros. */
	r = run(f, 3, 0);
	assert_int_equal(r.a | r.b | r.c | r.d, 0);
	r = run(f, 7, 5);
	assert_int_equal(r.a | r.b | r.c | r.d, 0);
	/* Above the maximum: Intel repeats the highest basic leaf, AMD shows zeros. */
	entry(f, 0, 0)->ebx = INTEL;
	entry(f, 0, 0)->eax = 7;
	top = run(f, 7, 0);
	r = run(f, 0x12, 0);
	assert_memory_equal(&r, &top, sizeof(r));
	r = run(f, 0x80001234, 0);
	assert_memory_equal(&r, &top, sizeof(r));
	r = run(f, 0x40000100, 0); /* a second hypervisor interface */
	assert_memory_equal(&r, &top, sizeof(r));
	entry(f, 0, 0)->ebx = AMD;
	r = run(f, 0x12, 0);
	assert_int_equal(r.a | r.b | r.c | r.d, 0);
}

static void test_topology_beyond_last_level(void **state)
{
	struct fake *f = *state;
	struct regs r;

	entry(f, 0, 0)->ebx = AMD;
	entry(f, 0xb, 1)->edx = 3;
	r = run(f, 0xb, 7);
	assert_int_equal(r.a | r.b, 0);
	assert_int_equal(r.c, 7);
	assert_int_equal(r.d, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_supported_is_honest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_duplicate_and_no_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_derived, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dynamic_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lookup, setup, teardown),
		cmocka_unit_test_setup_teardown(test_topology_beyond_last_level, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
