/* SPDX-License-Identifier: Apache-2.0 */
/* --cpu strings to CPUID tables, over a made-up accelerator. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/cpu_model.h"

/* What the accelerator offers: everything in leaf 1 and 7 but VMX, RTM and AMX; AVX-512 and PKU state in 0xd. */
static const struct kvm_cpuid_entry2 offered[] = {
	{ .function = 0, .eax = 0x1f, .ebx = 0x68747541, .edx = 0x69746e65, .ecx = 0x444d4163 },
	{ .function = 1, .eax = 0x00b20f21, .ebx = 0x0800, .ecx = 0xffffffdf, .edx = 0xffffffff },
	{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 0xfffff7ff, .ecx = 0xffffffff, .edx = 0x10 },
	{ .function = 0xb, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
	{ .function = 0xd, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 0x2e7 },
	{ .function = 0xd, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 7 },
	{ .function = 0xd, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 256, .ebx = 576 },
	{ .function = 0xd, .index = 5, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 64, .ebx = 1088 },
	{ .function = 0xd, .index = 9, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 8, .ebx = 2688 },
	{ .function = 0x80000000, .eax = 0x8000001e, .ebx = 0x68747541, .edx = 0x69746e65, .ecx = 0x444d4163 },
	{ .function = 0x80000001, .eax = 0x00b20f21, .ecx = 0xfffffffb, .edx = 0xffffffff },
	{ .function = 0x80000002 },
	{ .function = 0x80000003 },
	{ .function = 0x80000004 },
	{ .function = 0x80000007, .edx = 0x100 },
	{ .function = 0x80000008, .eax = 0x3030 },
	{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d },
	{ .function = 0x40000001, .eax = 0x01000029 },
};

static int fake_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	struct kvm_cpuid2 *table = (struct kvm_cpuid2 *)arg;

	(void)fd;
	if (request == KVM_CHECK_EXTENSION)
		return 1;
	if (request != KVM_GET_SUPPORTED_CPUID) {
		errno = ENOTTY;
		return -1;
	}
	table->nent = sizeof(offered) / sizeof(offered[0]);
	memcpy(table->entries, offered, sizeof(offered));
	return 0;
}

static const struct accel accel = { "fake", false, 0, fake_ioctl, NULL };

/* Messages go to stderr: keep the test's output readable, and let a test see that there was one. */
static char message[256];

static int create(const char *spec, struct cpu_model *model)
{
	int saved = dup(STDERR_FILENO), err;
	FILE *file = tmpfile();
	size_t n;

	fflush(stderr);
	dup2(fileno(file), STDERR_FILENO);
	err = cpu_model_create(&accel, spec, model);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	n = fread(message, 1, sizeof(message) - 1, file);
	message[n] = 0;
	fclose(file);
	return err;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid_entry2 *e, unsigned n, uint32_t function,
					   uint32_t index)
{
	for (unsigned i = 0; i < n; i++)
		if (e[i].function == function && e[i].index == index)
			return &e[i];
	return NULL;
}

static void test_max_is_what_is_offered(void **state)
{
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("max", &m), 0);
	assert_string_equal(message, "");
	assert_true(cpu_model_has(&m, "avx512f"));
	assert_true(cpu_model_has(&m, "sse4_2"));
	assert_true(cpu_model_has(&m, "hypervisor"));
	assert_false(cpu_model_has(&m, "vmx"));
	assert_int_equal(cpu_model_phys_bits(&m), 0x30);
	cpu_model_limit_phys_bits(&m, 52);
	assert_int_equal(cpu_model_phys_bits(&m), 0x30);
	cpu_model_limit_phys_bits(&m, 40);
	assert_int_equal(cpu_model_phys_bits(&m), 40);
	assert_memory_equal(&leaf(m.entry, m.count, 0x40000000, 0)->ebx, "KVMK", 4);
}

static void test_features_added_and_taken(void **state)
{
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("max,-avx2,smep=off,+sse4.1,pku=on", &m), 0);
	assert_false(cpu_model_has(&m, "avx2"));
	assert_false(cpu_model_has(&m, "smep"));
	assert_true(cpu_model_has(&m, "sse4-1"));
	assert_true(cpu_model_has(&m, "pku"));
	assert_int_equal(create("max,-hv-evmcs,vmx-mbec=off", &m), 0);
	assert_int_equal(create("qemu64,+avx2", &m), 0);
	assert_true(cpu_model_has(&m, "avx2"));
	assert_false(cpu_model_has(&m, "avx512f"));
}

static void test_refusals_name_the_word(void **state)
{
	static const char *const bad[][2] = {
		{ "max,+vmx", "vmx" },
		{ "Haswell,+rtm", "rtm" },
		{ "max,+nonsense", "nonsense" },
		{ "max,hv_passthrough", "does not offer the feature \"hv_passthrough\"" },
		{ "max,+hv-relaxed", "does not offer" },
		{ "max,hv-spinlocks=0x1fff", "does not offer" },
		{ "Pentium9", "Pentium9" },
		{ "max,vendor=ab", "vendor=ab" },
		{ "max,phys-bits=12", "phys-bits=12" },
		{ "max,phys-bits=x", "phys-bits" },
		{ "max,avx=maybe", "avx=maybe" },
		{ "max,family=1000", "family" },
		{ "", "" },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cpu_model m;

		assert_int_equal(create(bad[i][0], &m), -EINVAL);
		assert_non_null(strstr(message, bad[i][1]));
		assert_non_null(strchr(message, '\n'));
		assert_null(strchr(strchr(message, '\n') + 1, '\n'));
	}
}

static void test_named_model(void **state)
{
	const struct kvm_cpuid_entry2 *e;
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("Haswell", &m), 0);
	e = leaf(m.entry, m.count, 0, 0);
	assert_memory_equal(&e->ebx, "Genu", 4);
	assert_memory_equal(&e->edx, "ineI", 4);
	assert_memory_equal(&e->ecx, "ntel", 4);
	assert_int_equal(leaf(m.entry, m.count, 1, 0)->eax, 0x306c4); /* family 6, model 60, stepping 4 */
	assert_memory_equal(&leaf(m.entry, m.count, 0x80000002, 0)->eax, "Intel Core Proce", 16);
	assert_true(cpu_model_has(&m, "avx2"));
	assert_false(cpu_model_has(&m, "avx512f"));
	assert_false(cpu_model_has(&m, "rtm")); /* the model has it, the accelerator does not */
}

static void test_properties(void **state)
{
	struct cpu_model m;

	(void)state;
	assert_int_equal(
		create("max,vendor=GenuineIntel,phys-bits=36,host-phys-bits=off,family=15,model=1,stepping=2", &m), 0);
	assert_int_equal(cpu_model_phys_bits(&m), 36);
	cpu_model_limit_phys_bits(&m, 33); /* the user has the last word */
	assert_int_equal(cpu_model_phys_bits(&m), 36);
	assert_int_equal(leaf(m.entry, m.count, 1, 0)->eax, 0x00000f12);
	assert_memory_equal(&leaf(m.entry, m.count, 0x80000000, 0)->ebx, "Genu", 4);
}

static void test_xstate_follows_the_features(void **state)
{
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("max,-avx512f", &m), 0);
	assert_int_equal(leaf(m.entry, m.count, 0xd, 0)->eax, 0x207);
	assert_null(leaf(m.entry, m.count, 0xd, 5));
	assert_non_null(leaf(m.entry, m.count, 0xd, 9));
	assert_int_equal(create("max,-avx,-pku", &m), 0);
	assert_int_equal(leaf(m.entry, m.count, 0xd, 0)->eax, 3);
	assert_null(leaf(m.entry, m.count, 0xd, 2));
	assert_null(leaf(m.entry, m.count, 0xd, 9));
}

/* As QEMU: kvmclock stands for two bits, and the TSC is called invariant only by those who ask for it. */
static void test_clocks(void **state)
{
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("host", &m), 0);
	assert_int_equal(leaf(m.entry, m.count, 0x40000001, 0)->eax, 0x01000029);
	assert_false(cpu_model_has(&m, "invtsc"));
	assert_int_equal(create("max,-kvmclock,+invtsc", &m), 0);
	assert_int_equal(leaf(m.entry, m.count, 0x40000001, 0)->eax, 0x01000020);
	assert_true(cpu_model_has(&m, "invtsc"));
	assert_int_equal(create("max,-kvmclock,kvmclock=on,-kvm-steal-time", &m), 0);
	assert_int_equal(leaf(m.entry, m.count, 0x40000001, 0)->eax, 0x01000009);
	assert_int_equal(create("max,+kvm-asyncpf", &m), -EINVAL);
}

static void test_topology(void **state)
{
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + CPU_MODEL_ENTRIES * sizeof(t->entries[0]));
	const struct kvm_cpuid_entry2 *e;
	struct cpu_model m;

	(void)state;
	assert_int_equal(create("max", &m), 0);
	cpu_model_for_vcpu(&m, 2, 3, t);
	e = leaf(t->entries, t->nent, 1, 0);
	assert_int_equal(e->ebx, 2u << 24 | 3u << 16 | 0x0800);
	assert_true(e->edx >> 28 & 1);
	e = leaf(t->entries, t->nent, 0xb, 1);
	assert_int_equal(e->eax, 2); /* two bits number three cores */
	assert_int_equal(e->ebx, 3);
	assert_int_equal(e->edx, 2);
	assert_int_equal(leaf(t->entries, t->nent, 0x80000008, 0)->ecx, 2u << 12 | 2);
	cpu_model_for_vcpu(&m, 0, 1, t);
	assert_false(leaf(t->entries, t->nent, 1, 0)->edx >> 28 & 1);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_max_is_what_is_offered),
		cmocka_unit_test(test_features_added_and_taken),
		cmocka_unit_test(test_refusals_name_the_word),
		cmocka_unit_test(test_named_model),
		cmocka_unit_test(test_properties),
		cmocka_unit_test(test_xstate_follows_the_features),
		cmocka_unit_test(test_clocks),
		cmocka_unit_test(test_topology),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
