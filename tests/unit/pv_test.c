/* SPDX-License-Identifier: Apache-2.0 */
/* The paravirtual interface through the API and guest code, on each engine. */
#include "apifix.h"

#include <asm/kvm_para.h>

#define SECOND UINT64_C(1000000000)
#define AREA 0x2000u
#define WALL 0x2100u
#define STEAL 0x2140u
#define KVM_ENOSYS 1000
#define TSC_STABLE 1
#define GUEST_STOPPED 2

struct pv_time {
	uint32_t version, pad;
	uint64_t tsc, system;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

static bool set_msr(int vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	return tz_ioctl(vcpu, KVM_SET_MSRS, &msrs) == 1;
}

static uint64_t get_msr(int vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry.index = index };

	assert_int_equal(tz_ioctl(vcpu, KVM_GET_MSRS, &msrs), 1);
	return msrs.entry.data;
}

static struct pv_time area_at(const struct machine *m, uint32_t gpa)
{
	struct pv_time t;

	memcpy(&t, m->mem + gpa, sizeof(t));
	assert_int_equal(t.version % 2, 0);
	return t;
}

/* As a guest computes it. */
static uint64_t guest_ns(const struct pv_time *t, uint64_t tsc)
{
	uint64_t delta = tsc - t->tsc;

	delta = t->shift < 0 ? delta >> -t->shift : delta << t->shift;
	return t->system + (uint64_t)((unsigned __int128)delta * t->mul >> 32);
}

static struct kvm_clock_data get_clock(const struct machine *m)
{
	struct kvm_clock_data data;

	OK(tz_ioctl(m->vm, KVM_GET_CLOCK, &data));
	return data;
}

/* The guest's clock, computed from its TSC, lies between two readings of KVM_GET_CLOCK. */
static void check_clock(const struct machine *m, int vcpu, uint32_t gpa)
{
	uint64_t before = get_clock(m).clock, tsc = get_msr(vcpu, 0x10), after = get_clock(m).clock;
	struct pv_time t = area_at(m, gpa);

	assert_in_range(guest_ns(&t, tsc), before - 10, after + 10);
}

static void run_hlt(struct machine *m)
{
	load_code(m, "\xf4", 1);
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
}

static void test_msr_list(void **state)
{
	static const uint32_t there[] = { MSR_KVM_WALL_CLOCK,      MSR_KVM_SYSTEM_TIME, MSR_KVM_WALL_CLOCK_NEW,
					  MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_STEAL_TIME,  MSR_KVM_PV_EOI_EN,
					  MSR_KVM_POLL_CONTROL };
	struct machine *m = *state;
	static struct {
		struct kvm_msr_list head;
		uint32_t index[1024];
	} list;

	list.head.nmsrs = 1024;
	OK(tz_ioctl(m->sys, KVM_GET_MSR_INDEX_LIST, &list));
	for (unsigned i = 0; i < sizeof(there) / sizeof(there[0]); i++) {
		bool found = false;

		for (unsigned n = 0; n < list.head.nmsrs; n++)
			found |= list.head.indices[n] == there[i];
		assert_true(found);
	}
	for (unsigned n = 0; n < list.head.nmsrs; n++)
		assert_int_not_equal(list.head.indices[n], MSR_KVM_ASYNC_PF_EN);
	assert_false(set_msr(m->vcpu, MSR_KVM_ASYNC_PF_EN, 0));
	assert_int_equal(get_msr(m->vcpu, MSR_KVM_POLL_CONTROL), 1);
	assert_false(set_msr(m->vcpu, MSR_KVM_POLL_CONTROL, 2));
	assert_true(set_msr(m->vcpu, MSR_KVM_POLL_CONTROL, 0));
	assert_false(set_msr(m->vcpu, MSR_KVM_STEAL_TIME, STEAL | 0x21));
	assert_false(set_msr(m->vcpu, MSR_KVM_PV_EOI_EN, 0x1003));
	assert_true(set_msr(m->vcpu, MSR_KVM_PV_EOI_EN, 0x1001));
	assert_int_equal(get_msr(m->vcpu, MSR_KVM_PV_EOI_EN), 0x1001);
	/* Two names for one. */
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME, AREA | 1));
	assert_int_equal(get_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW), AREA | 1);
	/* Places that are no memory: the value is kept, nothing is written. */
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, MEM_SIZE - 16 + 1));
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, UINT64_MAX));
	assert_true(set_msr(m->vcpu, MSR_KVM_WALL_CLOCK_NEW, MEM_SIZE - 4));
	assert_true(set_msr(m->vcpu, MSR_KVM_STEAL_TIME, UINT64_MAX & ~UINT64_C(0x3e)));
	run_hlt(m);
}

static void test_clock(void **state)
{
	struct machine *m = *state;
	struct kvm_clock_data set = { .clock = 5000 * SECOND };
	struct pv_time t;

	FAILS(tz_ioctl(m->vcpu, KVM_KVMCLOCK_CTRL, 0), EINVAL);
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	t = area_at(m, AREA);
	assert_int_equal(t.flags, TSC_STABLE);
	assert_int_not_equal(t.version, 0);
	check_clock(m, m->vcpu, AREA);
	sleep_ms(3);
	check_clock(m, m->vcpu, AREA);
	/* Set: seen when the guest next runs. */
	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &set));
	run_hlt(m);
	assert_true(area_at(m, AREA).version > t.version);
	assert_in_range(get_clock(m).clock, 5000 * SECOND, 5100 * SECOND);
	check_clock(m, m->vcpu, AREA);
	/* Off: left alone. */
	t = area_at(m, AREA);
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA));
	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &set));
	run_hlt(m);
	assert_int_equal(area_at(m, AREA).version, t.version);
}

static void test_paused(void **state)
{
	struct machine *m = *state;
	struct kvm_clock_data set = { .clock = 1 };

	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	OK(tz_ioctl(m->vcpu, KVM_KVMCLOCK_CTRL, 0));
	assert_int_equal(area_at(m, AREA).flags, TSC_STABLE | GUEST_STOPPED);
	/* It stays until the guest has seen it, */
	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &set));
	run_hlt(m);
	assert_int_equal(area_at(m, AREA).flags, TSC_STABLE | GUEST_STOPPED);
	/* and does not come back. */
	m->mem[AREA + 29] &= (uint8_t)~GUEST_STOPPED;
	OK(tz_ioctl(m->vm, KVM_SET_CLOCK, &set));
	run_hlt(m);
	assert_int_equal(area_at(m, AREA).flags, TSC_STABLE);
}

static void test_wall_clock(void **state)
{
	struct machine *m = *state;
	struct kvm_clock_data clock;
	uint32_t wall[3];

	assert_true(set_msr(m->vcpu, MSR_KVM_WALL_CLOCK_NEW, WALL));
	memcpy(wall, m->mem + WALL, sizeof(wall));
	assert_true(wall[0] && wall[0] % 2 == 0);
	assert_true(wall[2] < SECOND);
	clock = get_clock(m);
	assert_true(clock.flags & KVM_CLOCK_REALTIME);
	/* Wall clock at zero, plus the clock, is the time of day; the host's may be set meanwhile, by a second. */
	assert_in_range(wall[1] * SECOND + wall[2] + clock.clock, clock.realtime - SECOND, clock.realtime + SECOND);
}

static void test_scaled_tsc(void **state)
{
	struct machine *m = *state;

	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	OK(tz_ioctl(m->vcpu, KVM_SET_TSC_KHZ, 777777));
	sleep_ms(20);
	check_clock(m, m->vcpu, AREA);
	OK(tz_ioctl(m->vcpu, KVM_SET_TSC_KHZ, 0));
	check_clock(m, m->vcpu, AREA);
	assert_true(set_msr(m->vcpu, 0x10, 12345678));
	check_clock(m, m->vcpu, AREA);
	assert_true(set_msr(m->vcpu, 0x3b, 1000)); /* TSC_ADJUST: moves nothing */
	check_clock(m, m->vcpu, AREA);
}

/* wrmsr by the guest itself: TSC_ADJUST moves its TSC, and its clock does not notice. */
static void test_guest_moves_tsc(void **state)
{
	static const uint8_t code[] = {
		0x66, 0xb9, 0x3b, 0,    0,    0,    /* mov ecx, IA32_TSC_ADJUST */
		0x66, 0xb8, 0x00, 0xca, 0x9a, 0x3b, /* mov eax, 1000000000 */
		0x66, 0x31, 0xd2,                   /* xor edx, edx */
		0x0f, 0x30,                         /* wrmsr */
		0xf4,
	};
	struct machine *m = *state;
	uint64_t before;

	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	before = get_msr(m->vcpu, 0x10);
	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_true(get_msr(m->vcpu, 0x10) - before >= 1000000000);
	check_clock(m, m->vcpu, AREA);
}

static void test_stable_only_if_equal(void **state)
{
	struct machine *m = *state;
	int second = tz_ioctl(m->vm, KVM_CREATE_VCPU, 1);
	uint64_t tsc;

	assert_true(second >= 0);
	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	assert_true(set_msr(second, MSR_KVM_SYSTEM_TIME_NEW, (AREA + 64) | 1));
	assert_int_equal(area_at(m, AREA).flags & area_at(m, AREA + 64).flags, TSC_STABLE);
	assert_true(get_clock(m).flags & KVM_CLOCK_TSC_STABLE);
	tsc = get_msr(m->vcpu, 0x10);
	/* An hour apart. */
	assert_true(
		set_msr(second, 0x10, tsc + UINT64_C(3600) * 1000 * (uint64_t)tz_ioctl(second, KVM_GET_TSC_KHZ, 0)));
	assert_int_equal(area_at(m, AREA + 64).flags, 0);
	assert_false(get_clock(m).flags & KVM_CLOCK_TSC_STABLE);
	run_hlt(m); /* the other one hears of it before it runs again */
	assert_int_equal(area_at(m, AREA).flags, 0);
	check_clock(m, m->vcpu, AREA);
	check_clock(m, second, AREA + 64);
	OK(tz_close(second));
}

static atomic_bool load_ends;

static void *load_thread(void *arg)
{
	while (!atomic_load(&load_ends))
		;
	return arg;
}

static uint64_t monotonic(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

/*
 * rdtsc in the guest, with all CPUs busy: its clock minus the host's lies in [*low, *high], narrowed with each
 * reading. How long a reading takes, and who is preempted in it, widens the bounds and proves nothing wrong.
 */
static void compare_clocks(struct machine *m, uint64_t ns, int64_t *low, int64_t *high)
{
	static const uint8_t code[] = { 0x0f, 0x31, 0xe6, 0x80, 0xeb, 0xfa }; /* 1: rdtsc; out 0x80, al; jmp 1b */
	uint64_t end = monotonic() + ns;

	*low = INT64_MIN;
	*high = INT64_MAX;
	load_code(m, code, sizeof(code));
	do {
		uint64_t before = monotonic(), after, guest;
		struct kvm_regs regs;
		struct pv_time t;

		OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
		after = monotonic();
		assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
		OK(tz_ioctl(m->vcpu, KVM_GET_REGS, &regs));
		t = area_at(m, AREA);
		guest = guest_ns(&t, (regs.rdx & UINT32_MAX) << 32 | (regs.rax & UINT32_MAX));
		if ((int64_t)(guest - after) > *low)
			*low = (int64_t)(guest - after);
		if ((int64_t)(guest - before) < *high)
			*high = (int64_t)(guest - before);
	} while (monotonic() < end);
}

/* A second under load, then another: no more than a millisecond between them, which is what a minute may cost. */
static void test_keeps_time_under_load(void **state)
{
	struct machine *m = *state;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int64_t low[2], high[2];
	pthread_t thread[8];
	int threads = cpus > 8 ? 8 : (int)cpus;

	assert_true(set_msr(m->vcpu, MSR_KVM_SYSTEM_TIME_NEW, AREA | 1));
	atomic_store(&load_ends, false);
	for (int i = 0; i < threads; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, load_thread, NULL), 0);
	for (int i = 0; i < 2; i++)
		compare_clocks(m, SECOND, &low[i], &high[i]);
	atomic_store(&load_ends, true);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	assert_true(low[0] <= high[0] + 1000000 && low[1] <= high[1] + 1000000);
	assert_true(low[1] - high[0] < 1000000);
	assert_true(low[0] - high[1] < 1000000);
}

/* ---- hypercalls ---- */

/* Number, two arguments; RAX afterwards. amd: VMMCALL. */
static int32_t hypercall(struct machine *m, bool amd, uint32_t number, uint32_t a0, uint32_t a1)
{
	uint8_t code[] = { 0x0f, 0x01, amd ? 0xd9 : 0xc1, 0xf4 };
	struct kvm_regs regs;

	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_GET_REGS, &regs));
	regs.rax = number;
	regs.rbx = a0;
	regs.rcx = a1;
	OK(tz_ioctl(m->vcpu, KVM_SET_REGS, &regs));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	OK(tz_ioctl(m->vcpu, KVM_GET_REGS, &regs));
	return (int32_t)regs.rax;
}

static void test_hypercalls(void **state)
{
	struct machine *m = *state;

	for (int amd = 0; amd < 2; amd++) {
		assert_int_equal(hypercall(m, amd, 99, 0, 0), -KVM_ENOSYS);
		assert_int_equal(hypercall(m, amd, 0xffffffff, 0, 0), -KVM_ENOSYS);
		assert_int_equal(hypercall(m, amd, 1, 0, 0), 0);           /* KVM_HC_VAPIC_POLL_IRQ */
		assert_int_equal(hypercall(m, amd, 5, 0, 0), -KVM_ENOSYS); /* no LAPICs here */
	}
}

static void test_clock_pairing(void **state)
{
	struct machine *m = *state;
	struct kvm_clock_pairing pair;
	struct timespec before, after;
	int64_t ns;

	memset(m->mem + AREA, 0xcc, 128);
	clock_gettime(CLOCK_REALTIME, &before);
	assert_int_equal(hypercall(m, false, 9, AREA, KVM_CLOCK_PAIRING_WALLCLOCK), 0);
	clock_gettime(CLOCK_REALTIME, &after);
	memcpy(&pair, m->mem + AREA, sizeof(pair));
	ns = pair.sec * (int64_t)SECOND + pair.nsec;
	assert_true(pair.nsec >= 0 && pair.nsec < (int64_t)SECOND && pair.flags == 0 && pair.pad[8] == 0);
	assert_int_equal(m->mem[AREA + 64], 0xcc);
	if (after.tv_sec >= before.tv_sec && after.tv_sec - before.tv_sec < 600) /* nobody set the host's clock back */
		assert_in_range(ns, before.tv_sec * SECOND, (uint64_t)(after.tv_sec + 1) * SECOND);
	assert_in_range(pair.tsc, 1, get_msr(m->vcpu, 0x10));
	assert_int_equal(hypercall(m, false, 9, AREA, 1), -95);         /* another clock: EOPNOTSUPP */
	assert_int_equal(hypercall(m, false, 9, MEM_SIZE - 8, 0), -14); /* EFAULT */
}

/* ---- halt, kick, stolen time ---- */

struct runner {
	struct machine *m;
	pthread_t thread;
	int result;
};

static void *run_thread(void *arg)
{
	struct runner *r = arg;

	r->result = tz_ioctl(r->m->vcpu, KVM_RUN, 0);
	return NULL;
}

static void wait_for(const volatile uint8_t *byte, uint8_t value)
{
	for (int i = 0; i < 60000 && __atomic_load_n(byte, __ATOMIC_RELAXED) != value; i++)
		sleep_ms(1);
	assert_int_equal(__atomic_load_n(byte, __ATOMIC_RELAXED), value);
}

/* A second vCPU, which kicks the first by hypercall and leaves by port 0x81. */
static void kick_first(struct machine *m)
{
	static const uint8_t code[] = { 0x0f, 0x01, 0xc1, 0xe6, 0x81 };
	struct machine second = { .sys = m->sys, .vm = m->vm, .mem = m->mem };
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = { .rax = 5, .rcx = 0, .rip = 0x1800, .rflags = 2 };
	struct kvm_sregs sregs;

	second.vcpu = tz_ioctl(m->vm, KVM_CREATE_VCPU, 1);
	assert_true(second.vcpu >= 0);
	second.run = map_run(second.vcpu);
	memcpy(m->mem + 0x1800, code, sizeof(code));
	OK(tz_ioctl(second.vcpu, KVM_SET_MP_STATE, &runnable));
	OK(tz_ioctl(second.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	OK(tz_ioctl(second.vcpu, KVM_SET_SREGS, &sregs));
	OK(tz_ioctl(second.vcpu, KVM_SET_REGS, &regs));
	OK(tz_ioctl(second.vcpu, KVM_RUN, 0));
	assert_int_equal(second.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(second.run->io.port, 0x81);
	OK(tz_ioctl(second.vcpu, KVM_GET_REGS, &regs));
	assert_int_equal(regs.rax, 0);
	munmap(second.run, 3 * 4096);
	OK(tz_close(second.vcpu));
}

static void test_kick_ends_halt(void **state)
{
	static const uint8_t code[] = { 0xfa, 0xf4, 0xe6, 0x80 }; /* cli; hlt; out 0x80, al */
	struct machine *m = *state;
	struct runner r = { .m = m, .result = -2 };
	volatile uint8_t *flags = m->mem + STEAL + 16;

	load_code(m, code, sizeof(code));
	assert_true(set_msr(m->vcpu, MSR_KVM_STEAL_TIME, STEAL | 1));
	assert_int_equal(pthread_create(&r.thread, NULL, run_thread, &r), 0);
	wait_for(flags, KVM_VCPU_PREEMPTED); /* asleep: others may leave it a TLB flush */
	__atomic_fetch_or(flags, KVM_VCPU_FLUSH_TLB, __ATOMIC_RELAXED);
	kick_first(m);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.result, 0);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.port, 0x80);
	assert_int_equal(*flags, 0);
}

static void test_kick_before_halt(void **state)
{
	static const uint8_t code[] = { 0xfa, 0xf4, 0xe6, 0x80 };
	struct machine *m = *state;
	struct kvm_mp_state mp;

	load_code(m, code, sizeof(code));
	kick_first(m);
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0)); /* or it would sleep for ever */
	assert_int_equal(m->run->io.port, 0x80);
	OK(tz_ioctl(m->vcpu, KVM_GET_MP_STATE, &mp));
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
}

int main(void)
{
	static const char *const engines[] = { "translate", "interp" };
	int failed = 0;

	for (unsigned i = 0; i < 2; i++) {
		const struct CMUnitTest tests[] = {
			cmocka_unit_test_setup_teardown(test_msr_list, setup, teardown),
			cmocka_unit_test_setup_teardown(test_clock, setup, teardown),
			cmocka_unit_test_setup_teardown(test_paused, setup, teardown),
			cmocka_unit_test_setup_teardown(test_wall_clock, setup, teardown),
			cmocka_unit_test_setup_teardown(test_scaled_tsc, setup, teardown),
			cmocka_unit_test_setup_teardown(test_guest_moves_tsc, setup, teardown),
			cmocka_unit_test_setup_teardown(test_stable_only_if_equal, setup, teardown),
			cmocka_unit_test_setup_teardown(test_keeps_time_under_load, setup, teardown),
			cmocka_unit_test_setup_teardown(test_hypercalls, setup, teardown),
			cmocka_unit_test_setup_teardown(test_clock_pairing, setup, teardown),
			cmocka_unit_test_setup_teardown(test_kick_ends_halt, setup_irqchip, teardown),
			cmocka_unit_test_setup_teardown(test_kick_before_halt, setup_irqchip, teardown),
		};

		setenv("TRAPEZE_TEST_ENGINE", engines[i], 1);
		failed += cmocka_run_group_tests_name(engines[i], tests, NULL, NULL);
	}
	return failed;
}
