/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM API with guests that run: exits, interrupts, signals, threads. */
#include "apifix.h"

/* ---- guests ---- */

static void test_guest_io(void **state)
{
	/* in al,0x20; add al,1; mov [0x2000],al; out 0x21,al; hlt */
	static const uint8_t code[] = { 0xe4, 0x20, 0x04, 0x01, 0xa2, 0x00, 0x20, 0xe6, 0x21, 0xf4 };
	struct machine *m = *state;
	struct tz_stat stats[64];
	int n;

	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.direction, KVM_EXIT_IO_IN);
	((uint8_t *)m->run)[m->run->io.data_offset] = 41;
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(m->run->io.port, 0x21);
	assert_int_equal(((uint8_t *)m->run)[m->run->io.data_offset], 42);
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(m->mem[0x2000], 42);
	n = tz_vcpu_stats(m->vcpu, stats, 64);
	assert_true(n > 0 && n <= 64);
	for (int i = 0; i < n; i++)
		if (!strcmp(stats[i].name, "exit_io"))
			assert_int_equal(stats[i].value, 2);
	assert_int_equal(tz_vcpu_stats(m->vcpu, stats, 0), n);
}

static void test_guest_mmio_and_readonly_slot(void **state)
{
	/* mov ax,0x2000; mov ds,ax; mov al,[0]; mov [1],al; hlt: DS = GPA 0x20000 */
	static const uint8_t code[] = { 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x00, 0x00, 0xa2, 0x01, 0x00, 0xf4 };
	struct machine *m = *state;
	uint8_t *rom = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = { .slot = 1,
						      .flags = KVM_MEM_READONLY,
						      .guest_phys_addr = 0x20000,
						      .memory_size = 4096,
						      .userspace_addr = (uintptr_t)rom };

	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0x20000);
	assert_int_equal(m->run->mmio.is_write, 0);
	m->run->mmio.data[0] = 0x66;
	/* While its MMIO is with the client memory appears there. Reads go to it, the write still comes out. */
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(m->run->mmio.phys_addr, 0x20001);
	assert_int_equal(m->run->mmio.is_write, 1);
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	munmap(rom, 4096);
}

static void test_dirty_log(void **state)
{
	/* mov byte [0x3000],1; hlt */
	static const uint8_t code[] = { 0xc6, 0x06, 0x00, 0x30, 0x01, 0xf4 };
	struct machine *m = *state;
	struct kvm_userspace_memory_region region = { .flags = KVM_MEM_LOG_DIRTY_PAGES,
						      .memory_size = MEM_SIZE,
						      .userspace_addr = (uintptr_t)m->mem };
	uint64_t bitmap = 0;
	struct kvm_dirty_log log = { .dirty_bitmap = &bitmap };

	FAILS(tz_ioctl(m->vm, KVM_GET_DIRTY_LOG, &log), ENOENT);
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region));
	for (int i = 0; i < 2; i++) { /* the second time: the bit comes back though the page was written before */
		load_code(m, code, sizeof(code));
		OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
		assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
		OK(tz_ioctl(m->vm, KVM_GET_DIRTY_LOG, &log));
		assert_true(bitmap == 1u << 3);
		OK(tz_ioctl(m->vm, KVM_GET_DIRTY_LOG, &log));
		assert_true(bitmap == 0);
	}
}

static void test_client_interrupt(void **state)
{
	/* sti; nop; hlt ... handler at 0:0x500: mov al,[0x2000]; inc al; mov [0x2000],al; iret */
	static const uint8_t code[] = { 0xfb, 0x90, 0xf4, 0xf4 };
	static const uint8_t handler[] = { 0xfe, 0x06, 0x00, 0x20, 0xcf };
	struct machine *m = *state;
	struct kvm_interrupt irq = { .irq = 0x40 };

	load_code(m, code, sizeof(code));
	memcpy(m->mem + 0x500, handler, sizeof(handler));
	m->mem[0x40 * 4] = 0x00;
	m->mem[0x40 * 4 + 1] = 0x05;
	m->run->request_interrupt_window = 1;
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(m->run->ready_for_interrupt_injection, 1);
	m->run->request_interrupt_window = 0;
	OK(tz_ioctl(m->vcpu, KVM_INTERRUPT, &irq));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(m->mem[0x2000], 1);
}

struct line {
	int vm;
	struct kvm_irq_level level;
};

static void *raise_later(void *arg)
{
	struct line *line = arg;

	sleep_ms(20);
	line->level.level = 1;
	return tz_ioctl(line->vm, KVM_IRQ_LINE, &line->level) ? arg : NULL;
}

static void test_irq_line_wakes_hlt(void **state)
{
	/* PIC: vectors from 0x40, all but IRQ 4 masked; sti; hlt; out 0x80,al. Handler: inc byte [0x2000]; iret */
	static const uint8_t code[] = {
		0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x40, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21,
		0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xef, 0xe6, 0x21, 0xfb, 0xf4, 0xe6, 0x80,
	};
	static const uint8_t handler[] = { 0xfe, 0x06, 0x00, 0x20, 0xcf };
	struct machine *m = *state;
	struct line line = { m->vm, { .irq = 4 } };
	pthread_t thread;
	void *result;

	load_code(m, code, sizeof(code));
	memcpy(m->mem + 0x500, handler, sizeof(handler));
	m->mem[0x44 * 4 + 1] = 0x05;
	assert_int_equal(pthread_create(&thread, NULL, raise_later, &line), 0);
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	pthread_join(thread, &result);
	assert_null(result);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(m->run->io.port, 0x80);
	assert_int_equal(m->mem[0x2000], 1);
	assert_int_equal(m->run->ready_for_interrupt_injection, 1);
}

static void test_shutdown(void **state)
{
	/* lidt [0x600] (limit 0); int3: no gate for it, nor for the faults that follow */
	static const uint8_t code[] = { 0x0f, 0x01, 0x1e, 0x00, 0x06, 0xcc };
	struct machine *m = *state;

	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_SHUTDOWN);
}

static void test_sync_regs(void **state)
{
	/* inc eax (66 40); hlt */
	static const uint8_t code[] = { 0x66, 0x40, 0xf4 };
	struct machine *m = *state;
	struct kvm_sync_regs *sync = &m->run->s.regs;

	load_code(m, code, sizeof(code));
	m->run->kvm_valid_regs = UINT64_C(1) << 40;
	FAILS(tz_ioctl(m->vcpu, KVM_RUN, 0), EINVAL);
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(sync->regs.rax, 1);
	assert_int_equal(sync->regs.rip, CODE + 3);
	assert_int_equal(sync->sregs.cs.base, 0);
	sync->regs.rip = CODE;
	sync->regs.rax = 100;
	m->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(sync->regs.rax, 101);
	assert_int_equal(m->run->kvm_dirty_regs, 0);
}

static void test_translate(void **state)
{
	struct machine *m = *state;
	struct kvm_translation tr = { .linear_address = 0x1234 };
	struct kvm_sregs sregs;
	uint32_t pde = 0x3003, pte = 0x7003;

	OK(tz_ioctl(m->vcpu, KVM_TRANSLATE, &tr));
	assert_true(tr.valid && tr.physical_address == 0x1234);
	/* 32-bit paging: linear 0x00401000 is at 0x7000. */
	memcpy(m->mem + 0x2000 + 4, &pde, 4);
	memcpy(m->mem + 0x3000 + 4, &pte, 4);
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cr3 = 0x2000;
	sregs.cr0 |= 0x80000001;
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS, &sregs));
	tr.linear_address = 0x00401234;
	OK(tz_ioctl(m->vcpu, KVM_TRANSLATE, &tr));
	assert_true(tr.valid && tr.physical_address == 0x7234);
	tr.linear_address = 0x00402000;
	OK(tz_ioctl(m->vcpu, KVM_TRANSLATE, &tr));
	assert_false(tr.valid);
	assert_int_equal(m->mem[0x3000 + 4], 3); /* looking sets no accessed bit */
}

/* ---- guests and threads ---- */

struct runner {
	struct machine *m;
	int vcpu;
	pthread_t thread;
	_Atomic bool done;
	int result, err;
};

static void *runner_main(void *arg)
{
	struct runner *r = arg;

	r->result = tz_ioctl(r->vcpu, KVM_RUN, 0);
	r->err = errno;
	atomic_store(&r->done, true);
	return NULL;
}

static void runner_start(struct runner *r, int vcpu)
{
	r->vcpu = vcpu;
	assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_join(struct runner *r)
{
	for (int i = 0; i < 5000 && !atomic_load(&r->done); i++)
		sleep_ms(1);
	assert_true(atomic_load(&r->done));
	pthread_join(r->thread, NULL);
}

/* next: inc dword [0x2000]; jmp next */
static const uint8_t counting[] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0xeb, 0xf9 };

static uint32_t count_of(const struct machine *m)
{
	return *(volatile uint32_t *)(m->mem + 0x2000);
}

static void wait_counting(const struct machine *m)
{
	uint32_t start = count_of(m);

	for (int i = 0; i < 5000 && count_of(m) == start; i++)
		sleep_ms(1);
	assert_true(count_of(m) != start);
}

static void test_immediate_exit(void **state)
{
	struct machine *m = *state;
	struct runner r = { 0 };

	load_code(m, counting, sizeof(counting));
	runner_start(&r, m->vcpu);
	wait_counting(m);
	__atomic_store_n(&m->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&r);
	assert_int_equal(r.result, -1);
	assert_int_equal(r.err, EINTR);
	assert_int_equal(m->run->exit_reason, KVM_EXIT_INTR);
	/* And on it goes from where it was. */
	m->run->immediate_exit = 0;
	r = (struct runner){ 0 };
	runner_start(&r, m->vcpu);
	wait_counting(m);
	__atomic_store_n(&m->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&r);
}

static _Atomic unsigned signals_seen;

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&signals_seen, 1);
}

static void test_signal(void **state)
{
	struct machine *m = *state;
	struct sigaction sa = { .sa_handler = on_signal };
	struct runner r = { 0 };

	sigaction(SIGUSR1, &sa, NULL);
	load_code(m, counting, sizeof(counting));
	runner_start(&r, m->vcpu);
	wait_counting(m);
	pthread_kill(r.thread, SIGUSR1);
	runner_join(&r);
	assert_int_equal(r.result, -1);
	assert_int_equal(r.err, EINTR);
	assert_int_equal(atomic_load(&signals_seen), 1);
}

static void test_set_signal_mask(void **state)
{
	struct machine *m = *state;
	struct {
		struct kvm_signal_mask head;
		uint8_t set[16];
	} mask = { .head.len = 16 };

	FAILS(tz_ioctl(m->vcpu, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
	mask.head.len = 8;
	OK(tz_ioctl(m->vcpu, KVM_SET_SIGNAL_MASK, &mask));
	OK(tz_ioctl(m->vcpu, KVM_SET_SIGNAL_MASK, NULL));
}

static void test_close_while_running(void **state)
{
	struct machine m;
	struct runner r = { 0 };

	(void)state;
	machine_create(&m, false);
	load_code(&m, counting, sizeof(counting));
	runner_start(&r, m.vcpu);
	wait_counting(&m);
	OK(tz_close(m.vcpu));
	OK(tz_close(m.vm));
	OK(tz_close(m.sys));
	wait_counting(&m); /* it runs on, as under the kernel */
	__atomic_store_n(&m.run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&r);
	assert_int_equal(r.err, EINTR);
	munmap(m.run, 3 * 4096);
	munmap(m.mem, MEM_SIZE);
}

static void test_two_vms(void **state)
{
	struct machine a, b;
	struct runner ra = { 0 }, rb = { 0 };

	(void)state;
	machine_create(&a, false);
	machine_create(&b, true);
	load_code(&a, counting, sizeof(counting));
	load_code(&b, counting, sizeof(counting));
	runner_start(&ra, a.vcpu);
	runner_start(&rb, b.vcpu);
	wait_counting(&a);
	wait_counting(&b);
	__atomic_store_n(&b.run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&rb);
	machine_destroy(&b);
	wait_counting(&a);
	__atomic_store_n(&a.run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&ra);
	machine_destroy(&a);
}

/* A running guest loses its memory and gets other memory: it writes to the one that is there, and only there. */
static void test_slot_moves_under_running_guest(void **state)
{
	struct machine *m = *state;
	uint8_t *page[2];
	struct runner r = { 0 };
	/* mov ax,0x2000; mov ds,ax; next: inc dword [0]; jmp next */
	static const uint8_t code[] = { 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x00, 0x00, 0xeb, 0xf9 };
	struct kvm_userspace_memory_region region = { .slot = 1, .guest_phys_addr = 0x20000, .memory_size = 4096 };

	for (int i = 0; i < 2; i++) {
		page[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		assert_true(page[i] != MAP_FAILED);
	}
	load_code(m, code, sizeof(code));
	region.userspace_addr = (uintptr_t)page[0];
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region));
	runner_start(&r, m->vcpu);
	for (int i = 1; i < 20; i++) {
		uint32_t stopped;

		while (!*(volatile uint32_t *)page[(i - 1) % 2])
			;
		region.userspace_addr = (uintptr_t)page[i % 2];
		region.slot = (unsigned)(1 + i % 2);
		/* Delete the old one and make the new one; in between the guest's accesses are MMIO and wait for us. */
		struct kvm_userspace_memory_region gone = { .slot = 1 + (unsigned)(i - 1) % 2 };

		OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &gone));
		runner_join(&r);
		assert_int_equal(r.result, 0);
		assert_int_equal(m->run->exit_reason, KVM_EXIT_MMIO);
		stopped = *(volatile uint32_t *)page[(i - 1) % 2];
		sleep_ms(1);
		assert_int_equal(*(volatile uint32_t *)page[(i - 1) % 2], stopped);
		memset(page[i % 2], 0, 4096);
		OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region));
		r = (struct runner){ 0 };
		runner_start(&r, m->vcpu);
	}
	__atomic_store_n(&m->run->immediate_exit, 1, __ATOMIC_RELAXED);
	runner_join(&r);
	munmap(page[0], 4096);
	munmap(page[1], 4096);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IRQCHIP(name) cmocka_unit_test_setup_teardown(name, setup_irqchip, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_guest_io),
		TEST(test_guest_mmio_and_readonly_slot),
		TEST(test_dirty_log),
		TEST(test_client_interrupt),
		TEST_IRQCHIP(test_irq_line_wakes_hlt),
		TEST(test_shutdown),
		TEST(test_sync_regs),
		TEST(test_translate),
		TEST(test_immediate_exit),
		TEST(test_signal),
		TEST(test_set_signal_mask),
		cmocka_unit_test(test_close_while_running),
		cmocka_unit_test(test_two_vms),
		TEST(test_slot_moves_under_running_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
