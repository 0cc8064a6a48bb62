/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of several threads on one VM whose vCPUs run: nothing may be lost, stuck or (ThreadSanitizer watches) raced
 * for. The guest counts, takes interrupts, and leaves by a port now and then.
 */
#include "apifix.h"

#include <sys/eventfd.h>

#include "base/compiler.h"

#define VCPUS 2
#define ROUNDS 600
#define VECTOR 0x40
#define HANDLER 0x600
#define COUNTER 0x700 /* 4 bytes a vCPU */
#define INTERRUPTS 0x720
#define NOTIFIED 0xd0000000u

struct race {
	struct machine m;
	int vcpu[VCPUS];
	struct kvm_run *run[VCPUS];
	uint8_t *more; /* memory of the slot that comes and goes */
	_Atomic bool stop;
	_Atomic unsigned exits[VCPUS];
};

struct runner {
	struct race *r;
	unsigned n;
	pthread_t thread;
};

static uint32_t counter(const struct race *r, unsigned n)
{
	return __atomic_load_n((uint32_t *)(r->m.mem + COUNTER + n * 4), __ATOMIC_RELAXED);
}

/* ---- vCPU threads ---- */

static void *run_vcpu(void *arg)
{
	struct runner *runner = arg;
	struct race *r = runner->r;

	while (!atomic_load(&r->stop)) {
		if (tz_ioctl(r->vcpu[runner->n], KVM_RUN, 0)) {
			assert_true(errno == EINTR || errno == EAGAIN);
			continue;
		}
		assert_int_equal(r->run[runner->n]->exit_reason, KVM_EXIT_IO);
		assert_int_equal(r->run[runner->n]->io.port, 0x80);
		atomic_fetch_add(&r->exits[runner->n], 1);
	}
	return NULL;
}

/* ---- threads that ask ---- */

static void *change_memory(void *arg)
{
	struct race *r = arg;
	uint64_t bitmap[1];

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct kvm_userspace_memory_region region = { .slot = 1,
							      .flags = i & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0,
							      .guest_phys_addr = 0x100000,
							      .memory_size = 0x10000,
							      .userspace_addr = (uintptr_t)r->more };
		struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

		OK(tz_ioctl(r->m.vm, KVM_SET_USER_MEMORY_REGION, &region));
		if (i & 1)
			OK(tz_ioctl(r->m.vm, KVM_GET_DIRTY_LOG, &log));
		region.memory_size = 0;
		OK(tz_ioctl(r->m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	}
	return NULL;
}

static void *interrupt(void *arg)
{
	struct race *r = arg;
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct kvm_irq_level line = { .irq = 5 + i % 4, .level = i & 1 };
		struct kvm_msi msi = { .address_lo = 0xfee00000 | i % VCPUS << 12, .data = VECTOR };
		struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = 9 };

		OK(tz_ioctl(r->m.vm, KVM_IRQ_LINE, &line));
		assert_true(tz_ioctl(r->m.vm, KVM_SIGNAL_MSI, &msi) >= 0);
		OK(tz_ioctl(r->m.vm, KVM_IRQFD, &irqfd));
		OK(eventfd_write(fd, 1));
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
		OK(tz_ioctl(r->m.vm, KVM_IRQFD, &irqfd));
	}
	close(fd);
	return NULL;
}

static void *watch_writes(void *arg)
{
	struct race *r = arg;
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct kvm_ioeventfd e = { .addr = NOTIFIED, .len = 4, .fd = fd };

		OK(tz_ioctl(r->m.vm, KVM_IOEVENTFD, &e));
		e.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
		OK(tz_ioctl(r->m.vm, KVM_IOEVENTFD, &e));
	}
	close(fd);
	return NULL;
}

/* What waits for a vCPU's own requests to end, and what does not. */
static void *ask_vcpus(void *arg)
{
	struct race *r = arg;
	struct tz_stat stats[64];
	struct kvm_vcpu_events events;
	struct kvm_regs regs;
	struct kvm_clock_data clock;

	for (unsigned i = 0; i < ROUNDS / 4; i++) {
		int fd = r->vcpu[i % VCPUS];

		assert_true(tz_vcpu_stats(fd, stats, ARRAY_SIZE(stats)) > 0);
		OK(tz_ioctl(r->m.vm, KVM_GET_CLOCK, &clock));
		OK(tz_ioctl(fd, KVM_GET_REGS, &regs));
		assert_true(regs.rip < MEM_SIZE);
		OK(tz_ioctl(fd, KVM_SET_REGS, &regs));
		OK(tz_ioctl(fd, KVM_GET_VCPU_EVENTS, &events));
	}
	return NULL;
}

/* ---- the machine ---- */

/* Enable the LAPIC: WRMSR 0x80f. sti; 1: inc dword [COUNTER + 4 * n]; inc cx; jnz 1b; out 0x80, al; jmp 1b */
static void put_code(struct race *r, unsigned n)
{
	const uint8_t at = (uint8_t)(COUNTER + n * 4);
	const uint8_t code[] = { 0x66, 0xb9, 0x0f,         0x08, 0,    0,    0x66, 0xb8, 0xff, 0x01,
				 0,    0,    0x66,         0x31, 0xd2, 0x0f, 0x30, 0xfb, 0x66, 0xff,
				 0x06, at,   COUNTER >> 8, 0x41, 0x75, 0xf8, 0xe6, 0x80, 0xeb, 0xf4 };

	memcpy(r->m.mem + CODE + n * 0x100, code, sizeof(code));
}

static void start_state(struct race *r, unsigned n)
{
	struct kvm_mp_state running = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = { .rip = CODE + n * 0x100, .rflags = 2, .rsp = 0x8000 + n * 0x1000 };
	struct kvm_sregs sregs;

	put_code(r, n);
	OK(tz_ioctl(r->vcpu[n], KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.apic_base = 0xfee00c00 | (n ? 0 : 0x100); /* x2APIC */
	OK(tz_ioctl(r->vcpu[n], KVM_SET_SREGS, &sregs));
	OK(tz_ioctl(r->vcpu[n], KVM_SET_REGS, &regs));
	OK(tz_ioctl(r->vcpu[n], KVM_SET_MP_STATE, &running));
}

/* Of every vector: pushad; lock inc dword [INTERRUPTS]; EOI: WRMSR 0x80b; popad; iret */
static void put_handler(struct race *r)
{
	const uint8_t code[] = { 0x66,
				 0x60,
				 0xf0,
				 0x66,
				 0xff,
				 0x06,
				 INTERRUPTS & 0xff,
				 INTERRUPTS >> 8,
				 0x66,
				 0xb9,
				 0x0b,
				 0x08,
				 0,
				 0,
				 0x66,
				 0x31,
				 0xc0,
				 0x66,
				 0x31,
				 0xd2,
				 0x0f,
				 0x30,
				 0x66,
				 0x61,
				 0xcf };

	memcpy(r->m.mem + HANDLER, code, sizeof(code));
	for (unsigned v = 0; v < 256; v++)
		memcpy(r->m.mem + v * 4, (const uint8_t[]){ HANDLER & 0xff, HANDLER >> 8, 0, 0 }, 4);
}

static int race_setup(void **state)
{
	struct race *r = calloc(1, sizeof(*r));

	machine_create(&r->m, true);
	r->more = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(r->more != MAP_FAILED);
	r->vcpu[0] = r->m.vcpu;
	r->run[0] = r->m.run;
	r->vcpu[1] = tz_ioctl(r->m.vm, KVM_CREATE_VCPU, 1);
	assert_true(r->vcpu[1] >= 0);
	r->run[1] = map_run(r->vcpu[1]);
	put_handler(r);
	for (unsigned n = 0; n < VCPUS; n++)
		start_state(r, n);
	*state = r;
	return 0;
}

static int race_teardown(void **state)
{
	struct race *r = *state;

	munmap(r->run[1], 3 * 4096);
	OK(tz_close(r->vcpu[1]));
	machine_destroy(&r->m);
	munmap(r->more, 0x10000);
	free(r);
	return 0;
}

static void test_requests_beside_running_vcpus(void **state)
{
	static void *(*const askers[])(void *) = { change_memory, interrupt, watch_writes, ask_vcpus };
	struct race *r = *state;
	struct runner runner[VCPUS];
	pthread_t thread[ARRAY_SIZE(askers)];
	uint32_t seen[VCPUS];

	for (unsigned n = 0; n < VCPUS; n++) {
		runner[n] = (struct runner){ .r = r, .n = n };
		OK(pthread_create(&runner[n].thread, NULL, run_vcpu, &runner[n]));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(askers); i++)
		OK(pthread_create(&thread[i], NULL, askers[i], r));
	for (unsigned i = 0; i < ARRAY_SIZE(askers); i++)
		OK(pthread_join(thread[i], NULL));
	/* They still run. */
	for (unsigned n = 0; n < VCPUS; n++) {
		seen[n] = counter(r, n);
		for (unsigned i = 0; i < 60000 && counter(r, n) == seen[n]; i++)
			sleep_ms(1);
		assert_true(counter(r, n) != seen[n]);
		for (unsigned i = 0; i < 60000 && !atomic_load(&r->exits[n]); i++)
			sleep_ms(1);
		assert_true(atomic_load(&r->exits[n]) > 0);
	}
	assert_true(__atomic_load_n((uint32_t *)(r->m.mem + INTERRUPTS), __ATOMIC_RELAXED) > 0);
	atomic_store(&r->stop, true);
	for (unsigned n = 0; n < VCPUS; n++) {
		__atomic_store_n(&r->run[n]->immediate_exit, 1, __ATOMIC_RELAXED);
		OK(pthread_join(runner[n].thread, NULL));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_requests_beside_running_vcpus, race_setup, race_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
