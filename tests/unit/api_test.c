/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM API as a client sees it: handles, requests and their errors, system and VM. */
#include "apifix.h"

#include <stdio.h>
#include <sys/resource.h>

/* ---- handles ---- */

static void test_open_and_close(void **state)
{
	int fd = tz_open("interp");

	(void)state;
	assert_true(fd >= 0);
	assert_true(tz_owns(fd));
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	OK(tz_close(fd));
	assert_false(tz_owns(fd));
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	FAILS(tz_close(fd), EBADF);
	FAILS(tz_close(-1), EBADF);
	FAILS(tz_ioctl(fd, KVM_GET_API_VERSION, 0), EBADF);
	FAILS(tz_ioctl(0, KVM_GET_API_VERSION, 0), EBADF); /* a descriptor, but not ours */
	FAILS(tz_open("warp"), ENOENT);
	assert_true(tz_vcpu_stats(fd, NULL, 0) == -1 && errno == EBADF);
	assert_string_equal(tz_vcpu_error(fd), "");
	assert_string_equal(tz_engine_names()[0], "translate"); /* best first */
	assert_string_equal(tz_engine_names()[1], "interp");
	assert_null(tz_engine_names()[2]);
}

/* Does the translator's mapping for code take a part of this size that leaves room for what it knows of the code? The
 * VM with its one vCPU is made and closed. */
static bool code_mapped(int sys, unsigned long size)
{
	int vm = tz_ioctl(sys, KVM_CREATE_VM, 0), vcpu;
	bool found = false;
	char line[512];
	FILE *maps;

	assert_true(vm >= 0);
	vcpu = tz_ioctl(vm, KVM_CREATE_VCPU, 0);
	assert_true(vcpu >= 0);
	maps = fopen("/proc/self/maps", "r");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;

		if (strstr(line, "trapeze-code") && sscanf(line, "%lx-%lx", &from, &to) == 2)
			found = found || (to - from < size && to - from > size / 4);
	}
	fclose(maps);
	OK(tz_close(vcpu));
	OK(tz_close(vm));
	return found;
}

static void test_options(void **state)
{
	int sys = tz_open("translate"), other = tz_open("interp"), vm;

	(void)state;
	assert_true(sys >= 0 && other >= 0);
	assert_true(code_mapped(sys, 48ul << 20));
	OK(tz_set_option(sys, "code_cache_size", 1 << 20));
	assert_true(code_mapped(sys, 1ul << 20));
	assert_false(code_mapped(sys, 48ul << 20));
	FAILS(tz_set_option(sys, "code_cache_size", (1 << 20) - 1), EINVAL);
	FAILS(tz_set_option(sys, "code_cache_size", (UINT64_C(1) << 30) + 1), EINVAL);
	FAILS(tz_set_option(sys, "code_cache", 1 << 20), EINVAL);
	FAILS(tz_set_option(sys, NULL, 1 << 20), EINVAL);
	assert_true(code_mapped(sys, 1ul << 20));
	OK(tz_set_option(other, "code_cache_size", 1 << 20)); /* accepted, without effect */
	assert_false(code_mapped(other, 1ul << 20));
	vm = tz_ioctl(sys, KVM_CREATE_VM, 0);
	FAILS(tz_set_option(vm, "code_cache_size", 1 << 20), EBADF);
	FAILS(tz_set_option(0, "code_cache_size", 1 << 20), EBADF);
	OK(tz_close(vm));
	OK(tz_close(sys));
	OK(tz_close(other));
}

/* Closed with close(2), the number comes back for something of ours: the table must not be confused. */
static void test_stale_descriptor(void **state)
{
	int fd = tz_open(NULL), vm;

	(void)state;
	close(fd);
	vm = tz_open(NULL);
	assert_int_equal(vm, fd);
	assert_int_equal(tz_ioctl(vm, KVM_GET_API_VERSION, 0), KVM_API_VERSION);
	OK(tz_close(vm));
}

static void test_vm_lives_while_a_vcpu_handle_does(void **state)
{
	static const uint8_t hlt[] = { 0xf4 };
	struct machine m;

	(void)state;
	machine_create(&m, false);
	load_code(&m, hlt, sizeof(hlt));
	OK(tz_close(m.vm));
	OK(tz_close(m.sys));
	OK(tz_ioctl(m.vcpu, KVM_RUN, 0));
	assert_int_equal(m.run->exit_reason, KVM_EXIT_HLT);
	OK(tz_close(m.vcpu));
	assert_int_equal(m.run->exit_reason, KVM_EXIT_HLT); /* the mapping stays */
	munmap(m.run, 3 * 4096);
	munmap(m.mem, MEM_SIZE);
}

static void test_unknown_requests(void **state)
{
	struct machine *m = *state;
	struct kvm_regs regs;

	FAILS(tz_ioctl(m->sys, KVM_RUN, 0), ENOTTY);
	FAILS(tz_ioctl(m->vm, KVM_GET_REGS, &regs), ENOTTY);
	FAILS(tz_ioctl(m->vcpu, KVM_CREATE_VCPU, 1), ENOTTY);
	FAILS(tz_ioctl(m->vcpu, 0xdeadbeef, 0), ENOTTY);
	FAILS(tz_ioctl(m->vcpu, KVM_GET_REGS, NULL), EFAULT);
	FAILS(tz_ioctl(m->vcpu, KVM_RUN, 1), EINVAL);
	/* Sign-extended by a caller that keeps requests in an int. */
	OK(tz_ioctl(m->vcpu, (unsigned long)(long)(int)KVM_GET_REGS, &regs));
}

/* ---- system ---- */

static void test_system(void **state)
{
	struct machine *m = *state;
	char buf[sizeof(struct kvm_cpuid2) + 200 * sizeof(struct kvm_cpuid_entry2)] __attribute__((aligned(8)));
	struct kvm_cpuid2 *cpuid = (void *)buf;
	unsigned count;

	assert_int_equal(tz_ioctl(m->sys, KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(tz_ioctl(m->sys, KVM_GET_VCPU_MMAP_SIZE, 0), 3 * 4096);
	FAILS(tz_ioctl(m->sys, KVM_CREATE_VM, 5), EINVAL);
	cpuid->nent = 1;
	FAILS(tz_ioctl(m->sys, KVM_GET_SUPPORTED_CPUID, cpuid), E2BIG);
	cpuid->nent = 200;
	OK(tz_ioctl(m->sys, KVM_GET_SUPPORTED_CPUID, cpuid));
	count = cpuid->nent;
	assert_true(count > 5 && count < 200);
	assert_int_equal(cpuid->entries[0].function, 0);
	/* Taken as it is, and given back as it was taken. */
	OK(tz_ioctl(m->vcpu, KVM_SET_CPUID2, cpuid));
	cpuid->nent = 200;
	OK(tz_ioctl(m->vcpu, KVM_GET_CPUID2, cpuid));
	assert_int_equal(cpuid->nent, count);
	cpuid->nent = 1000;
	FAILS(tz_ioctl(m->vcpu, KVM_SET_CPUID2, cpuid), E2BIG);
	cpuid->nent = 200;
	OK(tz_ioctl(m->sys, KVM_GET_EMULATED_CPUID, cpuid));
	assert_int_equal(cpuid->nent, 0);
}

static void test_capabilities(void **state)
{
	struct machine *m = *state;
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP };

	assert_int_equal(tz_ioctl(m->sys, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP), 1);
	assert_int_equal(tz_ioctl(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT), 1);
	assert_int_equal(tz_ioctl(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS), 509);
	assert_int_equal(tz_ioctl(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2), 4096);
	assert_true(tz_ioctl(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS) >= 1);
	/* Not there, so not told. */
	assert_int_equal(tz_ioctl(m->sys, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP), 0);
	assert_int_equal(tz_ioctl(m->sys, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG), 0);
	assert_int_equal(tz_ioctl(m->sys, KVM_CHECK_EXTENSION, KVM_CAP_ASYNC_PF), 0);
	assert_int_equal(tz_ioctl(m->sys, KVM_CHECK_EXTENSION, 123456), 0);
	FAILS(tz_ioctl(m->vm, KVM_ENABLE_CAP, &cap), EINVAL);
	FAILS(tz_ioctl(m->vcpu, KVM_ENABLE_CAP, &cap), EINVAL);
}

static void test_msr_lists(void **state)
{
	struct machine *m = *state;
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 1024 * sizeof(uint32_t));
	bool has_efer = false;

	FAILS(tz_ioctl(m->sys, KVM_GET_MSR_INDEX_LIST, list), E2BIG);
	assert_in_range(list->nmsrs, 10, 1024);
	OK(tz_ioctl(m->sys, KVM_GET_MSR_INDEX_LIST, list));
	/* Each listed one can be read. */
	for (unsigned i = 0; i < list->nmsrs; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} one = { .head.nmsrs = 1, .entry.index = list->indices[i] };

		has_efer |= list->indices[i] == 0xc0000080;
		assert_int_equal(tz_ioctl(m->vcpu, KVM_GET_MSRS, &one), 1);
	}
	assert_true(has_efer);
	list->nmsrs = 1024;
	OK(tz_ioctl(m->sys, KVM_GET_MSR_FEATURE_INDEX_LIST, list));
	free(list);
}

/* ---- VM ---- */

static void test_memory_slot_errors(void **state)
{
	struct machine *m = *state;
	struct kvm_userspace_memory_region r = { .slot = 1, .guest_phys_addr = 0x100000, .memory_size = 0x1000 };

	r.userspace_addr = (uintptr_t)m->mem + 1;
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.userspace_addr = UINT64_C(0xffff888000000000); /* the kernel's half */
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.userspace_addr = (uintptr_t)m->mem;
	r.memory_size = 0x1001;
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.memory_size = 0x1000;
	r.guest_phys_addr = 0xf000;
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EEXIST);
	r.guest_phys_addr = 0x100000;
	r.slot = 509;
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.slot = 1;
	r.flags = 0x80;
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
	r.flags = 0;
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r));
	r.memory_size = 0;
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r));
	FAILS(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
}

/* A VM with two vCPUs as far as there are descriptors; what was missing can be made once there are again. */
static void create_with_limit(int sys, rlim_t limit)
{
	struct rlimit saved, few;
	int vm, vcpu[2] = { -1, -1 };

	OK(getrlimit(RLIMIT_NOFILE, &saved));
	few = (struct rlimit){ limit, saved.rlim_max };
	OK(setrlimit(RLIMIT_NOFILE, &few));
	vm = tz_ioctl(sys, KVM_CREATE_VM, 0);
	if (vm >= 0) {
		(void)tz_ioctl(vm, KVM_CREATE_IRQCHIP, 0);
		vcpu[0] = tz_ioctl(vm, KVM_CREATE_VCPU, 0);
		vcpu[1] = tz_ioctl(vm, KVM_CREATE_VCPU, 1);
	}
	OK(setrlimit(RLIMIT_NOFILE, &saved));
	for (int i = 0; i < 2 && vm >= 0; i++) {
		if (vcpu[i] < 0)
			vcpu[i] = tz_ioctl(vm, KVM_CREATE_VCPU, i);
		assert_true(vcpu[i] >= 0);
		OK(tz_close(vcpu[i]));
	}
	if (vm >= 0)
		OK(tz_close(vm));
}

static void test_out_of_descriptors(void **state)
{
	struct machine *m = *state;
	int next = dup(m->sys);

	close(next);
	for (int more = 0; more < 12; more++)
		create_with_limit(m->sys, (rlim_t)(next + more));
	assert_int_equal(dup(m->sys), next); /* nothing was left open */
	close(next);
}

static void test_vm_order_of_creation(void **state)
{
	struct machine *m = *state;
	uint64_t addr = 0xfffbc000;

	FAILS(tz_ioctl(m->vm, KVM_CREATE_VCPU, 0), EEXIST);
	FAILS(tz_ioctl(m->vm, KVM_CREATE_VCPU, 100000), EINVAL);
	/* Chips come before vCPUs. */
	FAILS(tz_ioctl(m->vm, KVM_CREATE_IRQCHIP, 0), EINVAL);
	FAILS(tz_ioctl(m->vm, KVM_SET_BOOT_CPU_ID, 1), EBUSY);
	FAILS(tz_ioctl(m->vm, KVM_SET_IDENTITY_MAP_ADDR, &addr), EINVAL);
	FAILS(tz_ioctl(m->vm, KVM_SET_TSC_KHZ, 1000000), EINVAL);
	OK(tz_ioctl(m->vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	FAILS(tz_ioctl(m->vm, KVM_SET_TSS_ADDR, 0xfffff000), EINVAL);
}

static void test_no_irqchip(void **state)
{
	struct machine *m = *state;
	struct kvm_irq_level line = { .irq = 4, .level = 1 };
	struct kvm_irqchip chip = { .chip_id = 0 };
	struct kvm_pit_config pit = { 0 };
	struct kvm_pit_state2 pit_state;
	struct kvm_msi msi = { .address_lo = 0xfee00000 };
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_HALTED };

	FAILS(tz_ioctl(m->vm, KVM_IRQ_LINE, &line), ENXIO);
	FAILS(tz_ioctl(m->vm, KVM_IRQ_LINE_STATUS, &line), ENXIO);
	FAILS(tz_ioctl(m->vm, KVM_GET_IRQCHIP, &chip), ENXIO);
	FAILS(tz_ioctl(m->vm, KVM_CREATE_PIT2, &pit), ENOENT);
	FAILS(tz_ioctl(m->vm, KVM_GET_PIT2, &pit_state), ENXIO);
	FAILS(tz_ioctl(m->vm, KVM_SIGNAL_MSI, &msi), EINVAL);
	FAILS(tz_ioctl(m->vcpu, KVM_GET_LAPIC, &lapic), EINVAL);
	FAILS(tz_ioctl(m->vcpu, KVM_SET_MP_STATE, &mp), EINVAL);
	OK(tz_ioctl(m->vcpu, KVM_GET_MP_STATE, &mp));
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
}

static void test_irqchip_state(void **state)
{
	struct machine *m = *state;
	struct kvm_irqchip chip, again;
	struct kvm_pit_config pit = { 0 };
	struct kvm_pit_state2 pit_state;
	struct kvm_lapic_state lapic, lapic_again;
	struct kvm_interrupt irq = { .irq = 0x20 };
	struct kvm_irq_level line = { .irq = 4, .level = 1 };

	FAILS(tz_ioctl(m->vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
	OK(tz_ioctl(m->vm, KVM_IRQ_LINE_STATUS, &line));
	assert_int_equal(line.status, 1);
	line.irq = 24;
	OK(tz_ioctl(m->vm, KVM_IRQ_LINE_STATUS, &line));
	assert_int_equal((int)line.status, -1);
	for (unsigned id = 0; id < 3; id++) {
		memset(&chip, 0, sizeof(chip));
		memset(&again, 0, sizeof(again));
		chip.chip_id = again.chip_id = id;
		OK(tz_ioctl(m->vm, KVM_GET_IRQCHIP, &chip));
		OK(tz_ioctl(m->vm, KVM_SET_IRQCHIP, &chip));
		OK(tz_ioctl(m->vm, KVM_GET_IRQCHIP, &again));
		assert_memory_equal(&chip, &again, sizeof(chip));
	}
	chip.chip_id = 3;
	FAILS(tz_ioctl(m->vm, KVM_GET_IRQCHIP, &chip), EINVAL);
	FAILS(tz_ioctl(m->vm, KVM_GET_PIT2, &pit_state), ENXIO);
	OK(tz_ioctl(m->vm, KVM_CREATE_PIT2, &pit));
	FAILS(tz_ioctl(m->vm, KVM_CREATE_PIT2, &pit), EEXIST);
	OK(tz_ioctl(m->vm, KVM_GET_PIT2, &pit_state));
	OK(tz_ioctl(m->vm, KVM_SET_PIT2, &pit_state));
	OK(tz_ioctl(m->vcpu, KVM_GET_LAPIC, &lapic));
	OK(tz_ioctl(m->vcpu, KVM_SET_LAPIC, &lapic));
	OK(tz_ioctl(m->vcpu, KVM_GET_LAPIC, &lapic_again));
	assert_memory_equal(&lapic, &lapic_again, sizeof(lapic));
	FAILS(tz_ioctl(m->vcpu, KVM_INTERRUPT, &irq), ENXIO);
}

static void test_clock(void **state)
{
	struct machine *m = *state;
	struct kvm_clock_data data = { .clock = UINT64_C(5000000000000) };

	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &data));
	OK(tz_ioctl(m->vm, KVM_GET_CLOCK, &data));
	assert_in_range(data.clock, UINT64_C(5000000000000), UINT64_C(5002000000000));
	assert_true(data.flags & KVM_CLOCK_REALTIME);
	/* Taken ten seconds ago. */
	data.clock = 1000000000;
	data.realtime -= UINT64_C(10000000000);
	data.flags = KVM_CLOCK_REALTIME;
	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &data));
	OK(tz_ioctl(m->vm, KVM_GET_CLOCK, &data));
	assert_in_range(data.clock, UINT64_C(11000000000), UINT64_C(13000000000));
	data.flags = 1u << 20;
	FAILS(tz_ioctl(m->vm, KVM_SET_CLOCK, &data), EINVAL);
}

static void test_tsc(void **state)
{
	struct machine *m = *state;
	int khz = tz_ioctl(m->vcpu, KVM_GET_TSC_KHZ, 0);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry tsc, adjust;
	} msrs = { .head.nmsrs = 2, .tsc = { .index = 0x10 }, .adjust = { .index = 0x3b } };
	uint64_t tsc;

	assert_true(khz > 100000);
	assert_int_equal(tz_ioctl(m->vm, KVM_GET_TSC_KHZ, 0), khz);
	OK(tz_ioctl(m->vcpu, KVM_SET_TSC_KHZ, 1000000));
	assert_int_equal(tz_ioctl(m->vcpu, KVM_GET_TSC_KHZ, 0), 1000000);
	/* Restoring TSC_ADJUST does not move the TSC. */
	msrs.tsc.data = UINT64_C(777000000000);
	msrs.adjust.data = UINT64_C(99000000000);
	assert_int_equal(tz_ioctl(m->vcpu, KVM_SET_MSRS, &msrs), 2);
	assert_int_equal(tz_ioctl(m->vcpu, KVM_GET_MSRS, &msrs), 2);
	assert_in_range(msrs.tsc.data, UINT64_C(777000000000), UINT64_C(779000000000));
	assert_true(msrs.adjust.data == UINT64_C(99000000000));
	tsc = msrs.tsc.data;
	assert_int_equal(tz_ioctl(m->vcpu, KVM_GET_MSRS, &msrs), 2);
	assert_true(msrs.tsc.data > tsc);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IRQCHIP(name) cmocka_unit_test_setup_teardown(name, setup_irqchip, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_and_close),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_stale_descriptor),
		cmocka_unit_test(test_vm_lives_while_a_vcpu_handle_does),
		TEST(test_unknown_requests),
		TEST(test_system),
		TEST(test_capabilities),
		TEST(test_msr_lists),
		TEST(test_memory_slot_errors),
		TEST(test_out_of_descriptors),
		TEST(test_vm_order_of_creation),
		TEST(test_no_irqchip),
		TEST_IRQCHIP(test_irqchip_state),
		TEST(test_clock),
		TEST(test_tsc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
