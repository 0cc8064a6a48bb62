/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that waits in a loop of PAUSEs: whom its vCPU gives the host's processor to. The engine is scripted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core/vm.h"
#include "x86/event.h"

#define TURNS 1000u

static enum x86_exit (*play)(struct x86_cpu *cpu);
static _Atomic unsigned count;

static int script_create(struct x86_cpu *cpu)
{
	(void)cpu;
	return 0;
}

static void script_destroy(struct x86_cpu *cpu)
{
	(void)cpu;
}

static enum x86_exit script_run(struct x86_cpu *cpu, bool once)
{
	(void)once;
	return play(cpu);
}

static const struct tz_engine_ops script_engine = {
	.name = "script",
	.vcpu_create = script_create,
	.vcpu_destroy = script_destroy,
	.run = script_run,
};

static struct vm *vm;
static struct vcpu *vcpu[2];

static int setup(void **state)
{
	(void)state;
	assert_int_equal(vm_create(&script_engine, &vm), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(vcpu); i++) {
		int fd;

		assert_int_equal(vm_create_vcpu(vm, i, &vcpu[i], &fd), 0);
		vcpu[i]->mp_state = KVM_MP_STATE_RUNNABLE;
		close(fd);
	}
	atomic_store(&count, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm_put(vm);
	return 0;
}

static void *run(void *arg)
{
	struct vcpu *v = arg;
	int r;

	pthread_mutex_lock(&v->lock);
	r = vcpu_run(v);
	pthread_mutex_unlock(&v->lock);
	return (void *)(intptr_t)r;
}

static uint64_t yields(const struct vcpu *v)
{
	return v->stat[STAT_YIELDS];
}

/* Two guests take turns: one counts from even to odd, the other from odd to even. */
static enum x86_exit play_turns(struct x86_cpu *cpu)
{
	unsigned n;

	while ((n = atomic_load(&count)) < TURNS) {
		if (n % 2 == cpu->id)
			atomic_fetch_add(&count, 1);
		else
			cpu->ops->spinning(cpu);
		if (atomic_load(&cpu->attention)) {
			enum x86_exit why = x86_poll(cpu);

			if (why != X86_EXIT_NONE)
				return why;
		}
	}
	return X86_EXIT_SHUTDOWN;
}

/* On the processor this thread is on, and what it starts; *before: where it could be. */
static void stay_here(cpu_set_t *before)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof(*before), before), 0);
	assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(one), &one), 0);
}

/* On one processor each gives it to the other, where else it would wait for the end of its time slice. */
static void test_one_processor(void **state)
{
	pthread_t thread[ARRAY_SIZE(vcpu)];
	cpu_set_t before;

	(void)state;
	stay_here(&before);
	play = play_turns;
	alarm(60);
	for (unsigned i = 0; i < ARRAY_SIZE(vcpu); i++)
		assert_int_equal(pthread_create(&thread[i], NULL, run, vcpu[i]), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(vcpu); i++) {
		void *r;

		pthread_join(thread[i], &r);
		assert_null(r);
	}
	alarm(0);
	assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(before), &before), 0);
	assert_int_equal(atomic_load(&count), TURNS);
	assert_true(yields(vcpu[0]) + yields(vcpu[1]) > 0);
}

static enum x86_exit play_wait(struct x86_cpu *cpu)
{
	for (unsigned i = 0; i < TURNS; i++)
		cpu->ops->spinning(cpu);
	return X86_EXIT_SHUTDOWN;
}

/* Nobody to give it to: the other vCPU is not inside its engine, whatever processor it was on. */
static void test_alone(void **state)
{
	cpu_set_t before;

	(void)state;
	stay_here(&before);
	atomic_store(&vcpu[1]->host_cpu, sched_getcpu());
	play = play_wait;
	assert_null(run(vcpu[0]));
	assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(before), &before), 0);
	assert_int_equal(yields(vcpu[0]), 0);
}

/* Nor does one that was last seen on another processor need this one. */
static void test_elsewhere(void **state)
{
	(void)state;
	atomic_store(&vcpu[1]->where, VCPU_IN_ENGINE);
	atomic_store(&vcpu[1]->host_cpu, -1);
	play = play_wait;
	assert_null(run(vcpu[0]));
	atomic_store(&vcpu[1]->where, VCPU_OUTSIDE);
	assert_int_equal(yields(vcpu[0]), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_processor),
		TEST(test_alone),
		TEST(test_elsewhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
