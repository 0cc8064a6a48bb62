/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HLT against its timers: a scripted guest arms its LAPIC's timer for times near now and sleeps, while the library
 * chooses between its timer thread and the vCPU's own sleep, and between the ticker's alarm and none. What is lost
 * would sleep for ever: the tests wait for progress, however slow, and fail when there is none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/vm.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/msr_index.h"

#define MSR_X2APIC_SVR (MSR_X2APIC_FIRST + 0x0f)
#define MSR_X2APIC_EOI (MSR_X2APIC_FIRST + 0x0b)
#define MSR_X2APIC_LVT_TIMER (MSR_X2APIC_FIRST + 0x32)
#define MSR_X2APIC_TMICT (MSR_X2APIC_FIRST + 0x38)
#define MSR_X2APIC_TDCR (MSR_X2APIC_FIRST + 0x3e)
#define X2APIC_ON UINT64_C(0xfee00c00)
#define LVT_ONE_SHOT 0u
#define LVT_DEADLINE (2u << 17)
#define LVT_MASKED (1u << 16)
#define VECTOR 0x41u
#define VCPUS 2
#define ROUNDS 4000
#define PATIENCE_NS UINT64_C(120000000000)

struct sleeper {
	struct vcpu *vcpu;
	uint32_t mode;   /* LVT_ONE_SHOT, LVT_DEADLINE */
	bool needs_tick; /* each round ends with a look of the ticker, too */
	bool by_nmi;     /* the timer is masked: an NMI ends each round */
	uint32_t random;
	unsigned total; /* rounds to do */
	bool ready, waits, awake, awaits_tick;
	unsigned taken;
	uint64_t deadline, began; /* guest TSC */
	_Atomic unsigned rounds;  /* done */
	const char *_Atomic wrong;
	pthread_t thread;
};

static struct sleeper sleepers[VCPUS];
static struct vm *vm;

static bool goes_on(struct sleeper *s)
{
	return atomic_load(&s->rounds) < s->total && !s->wrong;
}

static uint32_t next_random(struct sleeper *s)
{
	s->random = s->random * 1664525u + 1013904223u;
	return s->random >> 8;
}

static bool write_msr(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
	return lapic_msr_write(cpu, index, value);
}

static bool get_ready(struct sleeper *s, struct x86_cpu *cpu)
{
	cpu->rflags |= X86_IF;
	return lapic_set_base(cpu, X2APIC_ON) && write_msr(cpu, MSR_X2APIC_SVR, 0x1ff) &&
	       write_msr(cpu, MSR_X2APIC_TDCR, 0xb) &&
	       write_msr(cpu, MSR_X2APIC_LVT_TIMER, s->mode | (s->by_nmi ? LVT_MASKED : 0) | VECTOR);
}

/* In the past, now, or up to 60 us away; now and then further. */
static uint64_t some_ns(struct sleeper *s)
{
	uint32_t r = next_random(s);

	switch (r & 7) {
	case 0: return 0;
	case 1: return r >> 3 & 0x3ff;
	case 2: return r & 0x100 ? 500000 : 0;
	default: return r >> 3 & 0xffff;
	}
}

static void arm(struct sleeper *s, struct x86_cpu *cpu)
{
	uint64_t ns = some_ns(s), now = vcpu_tsc_now(s->vcpu);
	bool ok;

	s->began = now;
	s->deadline = now + ns * clock_host_khz() / 1000000;
	if (s->mode == LVT_DEADLINE)
		ok = write_msr(cpu, MSR_TSC_DEADLINE, s->deadline - (ns ? 0 : 1000));
	else
		ok = write_msr(cpu, MSR_X2APIC_TMICT, ns ? ns : 1);
	if (!ok)
		s->wrong = "the LAPIC refuses the timer";
	s->waits = true;
	s->taken = 0;
	/* How the vCPU will sleep: sparing its helpers, or not. */
	s->vcpu->rested = next_random(s) & 1 ? 0 : clock_host_cycles();
}

static void take_interrupts(struct sleeper *s, struct x86_cpu *cpu)
{
	atomic_fetch_and(&cpu->attention, ~(X86_ATT_IRQ | X86_ATT_NMI | X86_ATT_TRAP | X86_ATT_TLB_FLUSH));
	while (lapic_irq_pending(cpu)) {
		if (lapic_irq_ack(cpu) != (int)VECTOR)
			s->wrong = "not the timer's interrupt";
		write_msr(cpu, MSR_X2APIC_EOI, 0);
		s->taken++;
	}
	/* It ends a HLT: the guest then waits for its timer without sleeping. */
	while (atomic_load(&cpu->ev.nmi_pending)) {
		atomic_fetch_sub(&cpu->ev.nmi_pending, 1);
		s->awake = true;
	}
}

static void end_round(struct sleeper *s)
{
	/* One-shot counts by the host's clock, which the TSC may be a little behind. */
	if (s->mode == LVT_DEADLINE && !s->by_nmi && vcpu_tsc_now(s->vcpu) < s->deadline)
		s->wrong = "an interrupt before its time";
	if (s->taken != 1)
		s->wrong = "more than one interrupt";
	s->waits = s->awake = false;
	s->awaits_tick = s->needs_tick;
	atomic_fetch_add(&s->rounds, 1);
}

/* A few instructions, between no and 20 us of them: the timer may come before HLT. */
static void compute(struct sleeper *s, struct x86_cpu *cpu)
{
	uint64_t end = clock_host_cycles() + (next_random(s) % 20) * clock_host_khz() / 1000;

	while (clock_host_cycles() < end && !atomic_load(&cpu->attention))
		;
}

static enum x86_exit guest_run(struct x86_cpu *cpu, bool once)
{
	struct sleeper *s = &sleepers[cpu->id];

	(void)once;
	if (!s->ready && !get_ready(s, cpu))
		s->wrong = "the LAPIC refuses its settings";
	s->ready = true;
	for (;;) {
		uint32_t attention = atomic_load(&cpu->attention);

		if (!goes_on(s))
			return X86_EXIT_SHUTDOWN;
		if (attention & X86_ATT_EXIT) {
			s->awaits_tick = false;
			return X86_EXIT_ATTENTION;
		}
		take_interrupts(s, cpu);
		if (s->awaits_tick)
			continue; /* spins: only the ticker can end it */
		if (s->waits && s->by_nmi && s->awake)
			s->taken = 1;
		if (s->waits && !s->taken && s->awake)
			continue; /* spins: the timer is nobody's business now but the library's */
		if (s->waits && !s->taken)
			return X86_EXIT_HLT;
		if (s->waits)
			end_round(s);
		if (!s->awaits_tick && goes_on(s)) {
			arm(s, cpu);
			compute(s, cpu);
		}
	}
}

static int guest_create(struct x86_cpu *cpu)
{
	(void)cpu;
	return 0;
}

static void guest_destroy(struct x86_cpu *cpu)
{
	(void)cpu;
}

static const struct tz_engine_ops guest_engine = {
	.name = "script",
	.vcpu_create = guest_create,
	.vcpu_destroy = guest_destroy,
	.run = guest_run,
};

static int setup(void **state)
{
	(void)state;
	memset(sleepers, 0, sizeof(sleepers));
	assert_int_equal(vm_create(&guest_engine, &vm), 0);
	assert_int_equal(vm_create_irqchip(vm), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm_put(vm);
	return 0;
}

static void *run_vcpu(void *arg)
{
	struct sleeper *s = arg;

	pthread_mutex_lock(&s->vcpu->lock);
	vcpu_run(s->vcpu);
	pthread_mutex_unlock(&s->vcpu->lock);
	return NULL;
}

static void prepare(unsigned id, uint32_t mode, unsigned rounds)
{
	struct sleeper *s = &sleepers[id];
	int fd;

	*s = (struct sleeper){ .mode = mode, .random = id + 1, .total = rounds };
	assert_int_equal(vm_create_vcpu(vm, id, &s->vcpu, &fd), 0);
	close(fd);
	s->vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
}

static void begin(unsigned id)
{
	assert_int_equal(pthread_create(&sleepers[id].thread, NULL, run_vcpu, &sleepers[id]), 0);
}

static void start(unsigned id, uint32_t mode, unsigned rounds)
{
	prepare(id, mode, rounds);
	begin(id);
}

static void wait_us(unsigned us)
{
	uint64_t end = clock_monotonic_ns() + us * UINT64_C(1000);

	while (clock_monotonic_ns() < end)
		;
}

/* Until it has done `n` rounds. False: no progress for two minutes, which is none, or something is wrong. */
static bool wait_rounds(unsigned id, unsigned n)
{
	struct sleeper *s = &sleepers[id];
	uint64_t since = clock_monotonic_ns();
	unsigned seen = 0, rounds;

	while ((rounds = atomic_load(&s->rounds)) < n && !s->wrong) {
		if (rounds != seen)
			since = clock_monotonic_ns();
		seen = rounds;
		if (clock_monotonic_ns() - since > PATIENCE_NS)
			return false;
		sched_yield();
	}
	return !s->wrong;
}

static void finish(unsigned id)
{
	struct sleeper *s = &sleepers[id];

	if (!wait_rounds(id, s->total))
		fail_msg("vCPU %u, round %u: %s", id, atomic_load(&s->rounds), s->wrong ? s->wrong : "sleeps for ever");
	pthread_join(s->thread, NULL);
}

static void test_tsc_deadline(void **state)
{
	(void)state;
	start(0, LVT_DEADLINE, ROUNDS);
	finish(0);
}

static void test_one_shot(void **state)
{
	(void)state;
	start(0, LVT_ONE_SHOT, ROUNDS);
	finish(0);
}

static bool going_on(void)
{
	for (unsigned i = 0; i < VCPUS; i++)
		if (goes_on(&sleepers[i]))
			return true;
	return false;
}

/* Others change what the timer thread waits for all the time, and wake the sleepers for nothing. */
static void test_disturbed(void **state)
{
	(void)state;
	start(0, LVT_DEADLINE, ROUNDS);
	start(1, LVT_ONE_SHOT, ROUNDS);
	for (unsigned n = 0; n < 400000 && going_on(); n++) {
		/* Timers of vCPUs that are not there. */
		timers_arm(&vm->timers, IRQCHIP_TIMER_LAPIC(2 + n % 3), clock_monotonic_ns() + n % 7 * 20000);
		if (n % 16 == 0)
			vcpu_kick(sleepers[n / 16 % VCPUS].vcpu, n % 64 ? X86_ATT_IRQ : X86_ATT_EXIT);
	}
	finish(0);
	finish(1);
}

/* Something else ends HLT before the timer does, which the sleeper then waits for awake. */
static void test_woken_early(void **state)
{
	(void)state;
	start(0, LVT_DEADLINE, ROUNDS);
	start(1, LVT_ONE_SHOT, ROUNDS);
	for (unsigned n = 0; n < 40000 && going_on(); n++) {
		vcpu_queue_nmi(sleepers[n % VCPUS].vcpu);
		wait_us(n % 32);
	}
	finish(0);
	finish(1);
}

/* Nothing but one NMI a round ends HLT, at about the time the vCPU serves its own timer, which is masked. */
static void test_kicks(void **state)
{
	unsigned sent = 0;

	(void)state;
	prepare(0, LVT_DEADLINE, ROUNDS);
	sleepers[0].by_nmi = true;
	begin(0);
	while (sent < ROUNDS) {
		if (!wait_rounds(0, sent))
			break;
		wait_us(sent % 61);
		vcpu_queue_nmi(sleepers[0].vcpu);
		sent++;
	}
	finish(0);
}

/* A vCPU that goes to sleep takes the ticker's alarm back: it must be there again for whoever computes. */
static void test_ticker(void **state)
{
	(void)state;
	prepare(0, LVT_DEADLINE, 300);
	sleepers[0].needs_tick = true;
	begin(0);
	prepare(1, LVT_DEADLINE, 300);
	sleepers[1].needs_tick = true;
	begin(1);
	finish(0);
	finish(1);
}

/* The same with a neighbour that rests all the time. */
static void test_ticker_and_sleeper(void **state)
{
	(void)state;
	prepare(0, LVT_DEADLINE, 300);
	sleepers[0].needs_tick = true;
	begin(0);
	start(1, LVT_DEADLINE, ROUNDS);
	finish(0);
	finish(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_tsc_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disturbed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_woken_early, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kicks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ticker, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ticker_and_sleeper, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
