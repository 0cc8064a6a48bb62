/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM_RUN over a scripted engine: exits, signals, kicks, blocking, synchronisation of vCPUs. The engine runs
 * no guest code: each test gives the function that plays it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/vm.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/io.h"

#define MS UINT64_C(1000000)

/* ---- the scripted engine ---- */

typedef enum x86_exit script_fn(struct x86_cpu *cpu, bool once);

struct script {
	script_fn *run;
	_Atomic unsigned runs, once_runs, invalidates;
	_Atomic bool inside;
	_Atomic uint64_t polls;
	void *arg;
};

static script_fn *next_script; /* of the vCPUs to be made */
static void *next_arg;

static int script_create(struct x86_cpu *cpu)
{
	struct script *s = calloc(1, sizeof(*s));

	s->run = next_script;
	s->arg = next_arg;
	cpu->engine_data = s;
	return 0;
}

static void script_destroy(struct x86_cpu *cpu)
{
	free(cpu->engine_data);
}

static enum x86_exit script_run(struct x86_cpu *cpu, bool once)
{
	struct script *s = cpu->engine_data;
	enum x86_exit why;

	atomic_fetch_add(once ? &s->once_runs : &s->runs, 1);
	atomic_store(&s->inside, true);
	why = s->run(cpu, once);
	atomic_store(&s->inside, false);
	return why;
}

static void script_invalidate(struct x86_cpu *cpu)
{
	struct script *s = cpu->engine_data;

	atomic_fetch_add(&s->invalidates, 1);
}

static const struct tz_engine_ops script_engine = {
	.name = "script",
	.vcpu_create = script_create,
	.vcpu_destroy = script_destroy,
	.run = script_run,
	.invalidate = script_invalidate,
};

static struct script *script_of(struct vcpu *vcpu)
{
	return vcpu->cpu.engine_data;
}

/* A guest that computes for ever and looks at the attention word like any engine. */
static enum x86_exit spin(struct x86_cpu *cpu, bool once)
{
	struct script *s = cpu->engine_data;

	(void)once;
	for (;;) {
		atomic_fetch_add_explicit(&s->polls, 1, memory_order_relaxed);
		if (atomic_load(&cpu->attention)) {
			enum x86_exit why = x86_poll(cpu);

			if (why != X86_EXIT_NONE)
				return why;
		}
	}
}

/* ---- fixtures ---- */

static struct vm *vm;
static struct vcpu *vcpu;

static void add_vcpu(unsigned id, script_fn *script, void *arg, struct vcpu **v)
{
	int fd;

	next_script = script;
	next_arg = arg;
	assert_int_equal(vm_create_vcpu(vm, id, v, &fd), 0);
	close(fd);
}

static int setup(void **state)
{
	(void)state;
	assert_int_equal(vm_create(&script_engine, &vm), 0);
	return 0;
}

static int setup_irqchip(void **state)
{
	setup(state);
	assert_int_equal(vm_create_irqchip(vm), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm_put(vm);
	return 0;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static int run_locked(struct vcpu *v)
{
	int r;

	pthread_mutex_lock(&v->lock);
	r = vcpu_run(v);
	pthread_mutex_unlock(&v->lock);
	return r;
}

/* A thread in KVM_RUN. */
struct runner {
	struct vcpu *vcpu;
	pthread_t thread;
	_Atomic bool done;
	int result;
	sigset_t *mask; /* of the thread before KVM_RUN */
};

static void *runner_main(void *arg)
{
	struct runner *r = arg;

	if (r->mask)
		pthread_sigmask(SIG_SETMASK, r->mask, NULL);
	r->result = run_locked(r->vcpu);
	atomic_store(&r->done, true);
	return NULL;
}

static void runner_start(struct runner *r, struct vcpu *v)
{
	*r = (struct runner){ .vcpu = v, .mask = r->mask };
	assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_finish(struct runner *r)
{
	for (int i = 0; i < 5000 && !atomic_load(&r->done); i++)
		sleep_ns(MS);
	assert_true(atomic_load(&r->done));
	pthread_join(r->thread, NULL);
}

static void wait_inside(struct vcpu *v)
{
	for (int i = 0; i < 5000 && !atomic_load(&script_of(v)->polls); i++)
		sleep_ns(MS / 10);
	assert_true(atomic_load(&script_of(v)->polls) > 0);
}

static void wait_blocked(struct vcpu *v)
{
	for (int i = 0; i < 5000 && !atomic_load(&v->blocked); i++)
		sleep_ns(MS / 10);
	assert_true(atomic_load(&v->blocked));
	sleep_ns(2 * MS);
}

/* ---- exits ---- */

/* IN AL, 0x60 at RIP, one byte long. */
static enum x86_exit play_in(struct x86_cpu *cpu, bool once)
{
	x86_io_rewind(cpu);
	if (!cpu->io.logged) {
		cpu->io.pending = (struct x86_io_access){ .addr = 0x60, .len = 1, .pio = true };
		cpu->io.pending_valid = true;
		cpu->io.rip = cpu->rip;
		return X86_EXIT_PIO;
	}
	cpu->gpr[X86_RAX] = cpu->io.log[0].data[0];
	x86_io_finish(cpu);
	cpu->rip++;
	return once ? X86_EXIT_INSN_DONE : X86_EXIT_HLT;
}

static void test_port_read(void **state)
{
	struct kvm_run *run;

	(void)state;
	add_vcpu(0, play_in, NULL, &vcpu);
	run = vcpu->run;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(run->io.size, 1);
	assert_int_equal(run->io.port, 0x60);
	assert_int_equal(run->io.count, 1);
	assert_int_equal(run->io.data_offset, KVM_PIO_PAGE_OFFSET * 4096);
	((uint8_t *)run)[run->io.data_offset] = 0x5a;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(vcpu->cpu.gpr[X86_RAX], 0x5a);
	assert_int_equal(vcpu->stat[STAT_EXIT_PIO], 1);
	assert_int_equal(vcpu->stat[STAT_EXIT_HLT], 1);
}

static void test_immediate_exit_completes_io_first(void **state)
{
	(void)state;
	add_vcpu(0, play_in, NULL, &vcpu);
	assert_int_equal(run_locked(vcpu), 0);
	((uint8_t *)vcpu->run)[VCPU_PIO_OFFSET] = 0x77;
	vcpu->run->immediate_exit = 1;
	assert_int_equal(run_locked(vcpu), -EINTR);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_INTR);
	assert_int_equal(vcpu->cpu.gpr[X86_RAX], 0x77);
	assert_int_equal(atomic_load(&script_of(vcpu)->once_runs), 1);
	assert_int_equal(atomic_load(&script_of(vcpu)->runs), 1);
	/* And with nothing to complete the engine is not even asked. */
	assert_int_equal(run_locked(vcpu), -EINTR);
	assert_int_equal(atomic_load(&script_of(vcpu)->once_runs), 1);
}

static void test_new_rip_drops_io(void **state)
{
	(void)state;
	add_vcpu(0, play_in, NULL, &vcpu);
	assert_int_equal(run_locked(vcpu), 0);
	vcpu->cpu.rip += 0x100;
	vcpu_registers_changed(vcpu);
	assert_false(vcpu->cpu.io.pending_valid);
	/* The script starts its IN anew. */
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_IO);
}

/* ADD [mem], reg on a device: a read, then a write. */
static enum x86_exit play_mmio_rmw(struct x86_cpu *cpu, bool once)
{
	struct x86_io *io = &cpu->io;

	(void)once;
	x86_io_rewind(cpu);
	io->rip = cpu->rip;
	io->pending_valid = io->logged < 2;
	if (io->logged == 0) {
		io->pending = (struct x86_io_access){ .addr = 0xd0000004, .len = 4 };
		return X86_EXIT_MMIO;
	}
	if (io->logged == 1) {
		uint32_t v;

		memcpy(&v, io->log[0].data, 4);
		v += 5;
		io->pending = (struct x86_io_access){ .addr = 0xd0000004, .len = 4, .write = true };
		memcpy(io->pending.data, &v, 4);
		return X86_EXIT_MMIO;
	}
	x86_io_finish(cpu);
	return X86_EXIT_HLT;
}

static void test_mmio(void **state)
{
	struct kvm_run *run;
	uint32_t v = 37;

	(void)state;
	add_vcpu(0, play_mmio_rmw, NULL, &vcpu);
	run = vcpu->run;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.phys_addr, 0xd0000004);
	assert_int_equal(run->mmio.len, 4);
	assert_int_equal(run->mmio.is_write, 0);
	memcpy(run->mmio.data, &v, 4);
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.is_write, 1);
	memcpy(&v, run->mmio.data, 4);
	assert_int_equal(v, 42);
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
}

static enum x86_exit play_arg(struct x86_cpu *cpu, bool once)
{
	const struct script *s = cpu->engine_data;
	const enum x86_exit *why = s->arg;

	(void)once;
	strcpy(cpu->error_text, "the text");
	return *why;
}

static void test_other_exits(void **state)
{
	enum x86_exit why = X86_EXIT_SHUTDOWN;

	(void)state;
	add_vcpu(0, play_arg, &why, &vcpu);
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_SHUTDOWN);
	why = X86_EXIT_INTERNAL_ERROR;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(vcpu->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	assert_true(vcpu->in_error);
	assert_string_equal(vcpu->error, "the text");
	why = X86_EXIT_IRQ_WINDOW;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_false(vcpu->in_error);
}

static enum x86_exit play_window(struct x86_cpu *cpu, bool once)
{
	(void)once;
	cpu->rflags |= X86_IF; /* STI, a while ago */
	return atomic_load(&cpu->attention) ? x86_poll(cpu) : X86_EXIT_HLT;
}

static void test_interrupt_window(void **state)
{
	(void)state;
	add_vcpu(0, play_window, NULL, &vcpu);
	vcpu->run->request_interrupt_window = 1;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(vcpu->run->ready_for_interrupt_injection, 1);
	assert_int_equal(vcpu->run->if_flag, 1);
	vcpu->cpu.ev.irq_injected = true; /* KVM_INTERRUPT */
	vcpu->run->immediate_exit = 1;
	assert_int_equal(run_locked(vcpu), -EINTR);
	assert_int_equal(vcpu->run->ready_for_interrupt_injection, 0);
}

static enum x86_exit play_mov_cr8(struct x86_cpu *cpu, bool once)
{
	struct script *s = cpu->engine_data;
	const unsigned *value = s->arg;

	(void)once;
	x86_write_cr8(cpu, *value);
	return atomic_load(&cpu->attention) & X86_ATT_EXIT ? X86_EXIT_ATTENTION : X86_EXIT_HLT;
}

static void test_cr8(void **state)
{
	unsigned value = 9;

	(void)state;
	add_vcpu(0, play_mov_cr8, &value, &vcpu);
	vcpu->run->cr8 = 16;
	assert_int_equal(run_locked(vcpu), -EINVAL);
	vcpu->run->cr8 = 4;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_HLT); /* raised: nobody needs to know */
	assert_int_equal(vcpu->run->cr8, 9);
	value = 2;
	assert_int_equal(run_locked(vcpu), 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_SET_TPR);
	assert_int_equal(vcpu->run->cr8, 2);
}

/* ---- leaving from outside ---- */

static void test_immediate_exit_from_another_thread(void **state)
{
	struct runner r = { 0 };

	(void)state;
	add_vcpu(0, spin, NULL, &vcpu);
	runner_start(&r, vcpu);
	wait_inside(vcpu);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&r);
	assert_int_equal(r.result, -EINTR);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_INTR);
}

static _Atomic unsigned handler_runs; /* SIGUSR1's */

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		atomic_fetch_add(&handler_runs, 1);
}

static void install_handler(int sig)
{
	struct sigaction sa = { .sa_handler = on_signal };

	atomic_store(&handler_runs, 0);
	sigaction(sig, &sa, NULL);
}

static void test_signal_ends_run(void **state)
{
	struct runner r = { 0 };

	(void)state;
	install_handler(SIGUSR1);
	add_vcpu(0, spin, NULL, &vcpu);
	runner_start(&r, vcpu);
	wait_inside(vcpu);
	pthread_kill(r.thread, SIGUSR1);
	runner_finish(&r);
	assert_int_equal(r.result, -EINTR);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_INTR);
	assert_int_equal(atomic_load(&handler_runs), 1);
	assert_int_equal(vcpu->stat[STAT_EXIT_SIGNAL], 1);
}

static void *run_with_signal_mask(void *arg)
{
	struct runner *r = arg;
	uint64_t mask = ~(UINT64_C(1) << (SIGUSR1 - 1)); /* during KVM_RUN all but SIGUSR1 is blocked */
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signals_set_mask(&r->vcpu->signals, &mask);
	r->result = run_locked(r->vcpu);
	/* The handler has not run: the signal still waits, as after the kernel's KVM_RUN. */
	if (atomic_load(&handler_runs) == 0) {
		sigpending(&set);
		if (sigismember(&set, SIGUSR1) && run_locked(r->vcpu) == -EINTR)
			atomic_store(&r->done, true);
	}
	return NULL;
}

static void test_signal_mask(void **state)
{
	struct runner r = { 0 };

	(void)state;
	install_handler(SIGUSR1);
	install_handler(SIGUSR2);
	add_vcpu(0, spin, NULL, &vcpu);
	r.vcpu = vcpu;
	assert_int_equal(pthread_create(&r.thread, NULL, run_with_signal_mask, &r), 0);
	wait_inside(vcpu);
	pthread_kill(r.thread, SIGUSR2); /* blocked by the mask: must not end it */
	sleep_ns(20 * MS);
	assert_true(atomic_load(&script_of(vcpu)->inside));
	pthread_kill(r.thread, SIGUSR1);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.result, -EINTR);
	assert_true(atomic_load(&r.done));
}

static void test_ignored_signals_do_not_end_run(void **state)
{
	struct runner r = { 0 };
	uint64_t polls;

	(void)state;
	signal(SIGUSR2, SIG_IGN);
	add_vcpu(0, spin, NULL, &vcpu);
	runner_start(&r, vcpu);
	wait_inside(vcpu);
	pthread_kill(r.thread, SIGUSR2);
	pthread_kill(r.thread, SIGWINCH); /* ignored by default */
	sleep_ns(30 * MS);
	assert_false(atomic_load(&r.done));
	polls = atomic_load(&script_of(vcpu)->polls);
	for (int i = 0; i < 5000 && atomic_load(&script_of(vcpu)->polls) == polls; i++)
		sleep_ns(MS);
	assert_true(atomic_load(&script_of(vcpu)->polls) > polls);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&r);
	signal(SIGUSR2, SIG_DFL);
}

/* ---- blocking ---- */

static enum x86_exit play_hlt(struct x86_cpu *cpu, bool once)
{
	(void)cpu, (void)once;
	return X86_EXIT_HLT;
}

/* HLT; then, with whatever woke it, a port write. */
static enum x86_exit play_hlt_then_out(struct x86_cpu *cpu, bool once)
{
	struct script *s = cpu->engine_data;

	(void)once;
	if (atomic_load(&s->runs) == 1)
		return X86_EXIT_HLT;
	cpu->io.pending = (struct x86_io_access){ .addr = 0x80, .len = 1, .pio = true, .write = true, .data = { 7 } };
	cpu->io.pending_valid = true;
	return X86_EXIT_PIO;
}

static void test_hlt_blocks_until_nmi(void **state)
{
	struct runner r = { 0 };
	struct timespec cpu_time;
	clockid_t clock;

	(void)state;
	add_vcpu(0, play_hlt_then_out, NULL, &vcpu);
	runner_start(&r, vcpu);
	wait_blocked(vcpu);
	sleep_ns(50 * MS);
	assert_false(atomic_load(&r.done));
	assert_int_equal(pthread_getcpuclockid(r.thread, &clock), 0);
	clock_gettime(clock, &cpu_time);
	assert_true(cpu_time.tv_sec == 0 && cpu_time.tv_nsec < 40 * (long)MS); /* asleep, not spinning */
	vcpu_queue_nmi(vcpu);
	runner_finish(&r);
	assert_int_equal(r.result, 0);
	assert_int_equal(vcpu->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)vcpu->run)[VCPU_PIO_OFFSET], 7);
	assert_int_equal(vcpu->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_true(vcpu->stat[STAT_HALT_NS] > 40 * MS);
}

static void test_signal_ends_hlt(void **state)
{
	struct runner r = { 0 };

	(void)state;
	install_handler(SIGUSR1);
	add_vcpu(0, play_hlt, NULL, &vcpu);
	runner_start(&r, vcpu);
	wait_blocked(vcpu);
	pthread_kill(r.thread, SIGUSR1);
	runner_finish(&r);
	assert_int_equal(r.result, -EINTR);
	assert_int_equal(atomic_load(&handler_runs), 1);
	/* Still halted: the next KVM_RUN sleeps on. */
	assert_int_equal(vcpu->mp_state, KVM_MP_STATE_HALTED);
}

static void test_startup_ipi(void **state)
{
	struct runner r = { 0 };
	struct vcpu *ap;

	(void)state;
	add_vcpu(0, play_hlt, NULL, &vcpu);
	add_vcpu(1, spin, NULL, &ap);
	assert_int_equal(vcpu->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_UNINITIALIZED);
	runner_start(&r, ap);
	wait_blocked(ap);
	vcpu_queue_sipi(ap, 0x12); /* without INIT before: ignored */
	sleep_ns(5 * MS);
	assert_false(atomic_load(&script_of(ap)->inside));
	vcpu_queue_init(ap);
	sleep_ns(5 * MS);
	assert_false(atomic_load(&script_of(ap)->inside));
	vcpu_queue_sipi(ap, 0x9a);
	wait_inside(ap);
	__atomic_store_n(&ap->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&r);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ap->cpu.seg[X86_CS].sel, 0x9a00);
	assert_int_equal(ap->cpu.seg[X86_CS].base, 0x9a000);
	assert_int_equal(ap->cpu.rip, 0);
}

/* INIT to a vCPU that runs: it goes back to waiting for SIPI. */
static void test_init_stops_running_vcpu(void **state)
{
	struct runner r = { 0 };
	struct vcpu *ap;

	(void)state;
	install_handler(SIGUSR1);
	add_vcpu(0, play_hlt, NULL, &vcpu);
	add_vcpu(1, spin, NULL, &ap);
	ap->mp_state = KVM_MP_STATE_RUNNABLE;
	runner_start(&r, ap);
	wait_inside(ap);
	vcpu_queue_init(ap);
	wait_blocked(ap);
	pthread_kill(r.thread, SIGUSR1);
	runner_finish(&r);
	assert_int_equal(ap->mp_state, KVM_MP_STATE_INIT_RECEIVED);
	assert_int_equal(ap->cpu.rip, 0xfff0);
}

/* ---- synchronisation ---- */

static void test_slot_change_flushes_running_vcpus(void **state)
{
	struct runner r = { 0 };
	uint8_t *mem = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	add_vcpu(0, spin, NULL, &vcpu);
	runner_start(&r, vcpu);
	for (unsigned i = 1; i <= 20; i++) {
		unsigned invalidates = atomic_load(&script_of(vcpu)->invalidates);

		atomic_store(&script_of(vcpu)->polls, 0);
		wait_inside(vcpu);
		assert_int_equal(vm_set_memory_slot(vm, 0, 0, GPA(0), i % 2 ? 0x4000 : 0, mem), 0);
		/* And once it executes again it has forgotten everything. */
		atomic_store(&script_of(vcpu)->polls, 0);
		wait_inside(vcpu);
		assert_true(atomic_load(&script_of(vcpu)->invalidates) > invalidates);
	}
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&r);
	munmap(mem, 0x4000);
}

struct exclusive_test {
	_Atomic unsigned owners, sections, overlaps, limit;
};

/* Each block of this guest is a locked access that needs the machine for itself. */
static enum x86_exit play_exclusive(struct x86_cpu *cpu, bool once)
{
	struct script *s = cpu->engine_data;
	struct exclusive_test *t = s->arg;

	(void)once;
	for (;;) {
		enum x86_exit why = X86_EXIT_NONE;

		if (atomic_load(&cpu->attention))
			why = x86_poll(cpu);
		if (why != X86_EXIT_NONE)
			return why;
		if (atomic_load(&t->sections) >= atomic_load(&t->limit))
			return X86_EXIT_SHUTDOWN;
		cpu->ops->exclusive_begin(cpu);
		if (atomic_fetch_add(&t->owners, 1))
			atomic_fetch_add(&t->overlaps, 1);
		for (unsigned i = 0; i < VM_MAX_VCPUS && i < atomic_load(&vcpu_of(cpu)->vm->vcpu_limit); i++) {
			struct vcpu *v = atomic_load(&vm->vcpu[i]);

			if (&v->cpu != cpu && atomic_load(&v->where) == VCPU_IN_ENGINE &&
			    !atomic_load(&vm->sync.exclusive))
				atomic_fetch_add(&t->overlaps, 1);
		}
		atomic_fetch_sub(&t->owners, 1);
		atomic_fetch_add(&t->sections, 1);
		cpu->ops->exclusive_end(cpu);
	}
}

static void test_exclusive_sections(void **state)
{
	struct exclusive_test t = { .limit = UINT32_MAX };
	struct runner r[3] = { 0 };
	struct vcpu *v[3];
	unsigned changes = 0;
	uint8_t *mem = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		add_vcpu(i, play_exclusive, &t, &v[i]);
	alarm(60); /* a deadlock fails the test instead of hanging it */
	for (unsigned i = 0; i < 3; i++)
		runner_start(&r[i], v[i]);
	while (atomic_load(&t.sections) < 300 || changes < 100)
		assert_int_equal(vm_set_memory_slot(vm, 0, 0, GPA(0), changes++ % 2 ? 0 : 0x4000, mem), 0);
	atomic_store(&t.limit, 0);
	for (unsigned i = 0; i < 3; i++) {
		runner_finish(&r[i]);
		assert_int_equal(r[i].result, 0);
	}
	alarm(0);
	assert_int_equal(atomic_load(&t.overlaps), 0);
	munmap(mem, 0x4000);
}

/* The owner was thrown out of its section by a fault: leaving the engine ends it. */
static enum x86_exit play_exclusive_fault(struct x86_cpu *cpu, bool once)
{
	(void)once;
	cpu->ops->exclusive_begin(cpu);
	return X86_EXIT_SHUTDOWN;
}

static void test_exclusive_ends_with_run(void **state)
{
	struct vcpu *other;
	struct runner r = { 0 };

	(void)state;
	add_vcpu(0, play_exclusive_fault, NULL, &vcpu);
	add_vcpu(1, play_hlt, NULL, &other);
	assert_int_equal(run_locked(vcpu), 0);
	assert_null(atomic_load(&vm->sync.exclusive));
	runner_start(&r, other);
	runner_finish(&r);
}

static void test_two_vms(void **state)
{
	struct vm *first = vm, *second;
	struct vcpu *a, *b;
	struct runner ra = { 0 }, rb = { 0 };

	(void)state;
	add_vcpu(0, spin, NULL, &a);
	assert_int_equal(vm_create(&script_engine, &second), 0);
	vm = second;
	add_vcpu(0, spin, NULL, &b);
	vm = first;
	runner_start(&ra, a);
	runner_start(&rb, b);
	wait_inside(a);
	wait_inside(b);
	__atomic_store_n(&b->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&rb);
	assert_false(atomic_load(&ra.done));
	vm_put(second);
	sleep_ns(5 * MS);
	assert_false(atomic_load(&ra.done));
	__atomic_store_n(&a->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_finish(&ra);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IRQCHIP(name) cmocka_unit_test_setup_teardown(name, setup_irqchip, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_port_read),
		TEST(test_immediate_exit_completes_io_first),
		TEST(test_new_rip_drops_io),
		TEST(test_mmio),
		TEST(test_other_exits),
		TEST(test_interrupt_window),
		TEST(test_cr8),
		TEST(test_immediate_exit_from_another_thread),
		TEST(test_signal_ends_run),
		TEST(test_signal_mask),
		TEST(test_ignored_signals_do_not_end_run),
		TEST_IRQCHIP(test_hlt_blocks_until_nmi),
		TEST_IRQCHIP(test_signal_ends_hlt),
		TEST_IRQCHIP(test_startup_ipi),
		TEST_IRQCHIP(test_init_stops_running_vcpu),
		TEST(test_slot_change_flushes_running_vcpus),
		TEST(test_exclusive_sections),
		TEST(test_exclusive_ends_with_run),
		TEST(test_two_vms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
