/* SPDX-License-Identifier: Apache-2.0 */
/* A small machine made through the public API, for the tests of the API. Header only. */
#ifndef TZ_TESTS_APIFIX_H
#define TZ_TESTS_APIFIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "trapeze/trapeze.h"

#define MEM_SIZE 0x10000u
#define CODE 0x1000u

/* ---- a small machine ---- */

struct machine {
	int sys, vm, vcpu;
	uint8_t *mem; /* MEM_SIZE bytes at GPA 0 */
	struct kvm_run *run;
};

#define OK(call) assert_int_equal(call, 0)
/* The call fails with this errno. */
#define FAILS(call, err)                                                                                               \
	do {                                                                                                           \
		errno = 0;                                                                                             \
		assert_int_equal(call, -1);                                                                            \
		assert_int_equal(errno, err);                                                                          \
	} while (0)

static inline struct kvm_run *map_run(int vcpu)
{
	struct kvm_run *run = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	assert_true(run != MAP_FAILED);
	return run;
}

static inline void machine_create(struct machine *m, bool irqchip)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEM_SIZE };

	m->sys = tz_open(getenv("TRAPEZE_TEST_ENGINE")); /* unset: the default one */
	assert_true(m->sys >= 0);
	m->vm = tz_ioctl(m->sys, KVM_CREATE_VM, 0);
	assert_true(m->vm >= 0);
	m->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(m->mem != MAP_FAILED);
	region.userspace_addr = (uintptr_t)m->mem;
	OK(tz_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region));
	if (irqchip)
		OK(tz_ioctl(m->vm, KVM_CREATE_IRQCHIP, 0));
	m->vcpu = tz_ioctl(m->vm, KVM_CREATE_VCPU, 0);
	assert_true(m->vcpu >= 0);
	m->run = map_run(m->vcpu);
}

static inline void machine_destroy(struct machine *m)
{
	munmap(m->run, 3 * 4096);
	OK(tz_close(m->vcpu));
	OK(tz_close(m->vm));
	OK(tz_close(m->sys));
	munmap(m->mem, MEM_SIZE);
}

static inline int setup(void **state)
{
	static struct machine m;

	machine_create(&m, false);
	*state = &m;
	return 0;
}

static inline int setup_irqchip(void **state)
{
	static struct machine m;

	machine_create(&m, true);
	*state = &m;
	return 0;
}

static inline int teardown(void **state)
{
	machine_destroy(*state);
	return 0;
}

/* Real mode, CS:IP 0:CODE, this code there. */
static inline void load_code(struct machine *m, const void *code, size_t size)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs sregs;

	memcpy(m->mem + CODE, code, size);
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS, &sregs));
	OK(tz_ioctl(m->vcpu, KVM_SET_REGS, &regs));
}

static inline void sleep_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

#endif
