/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An embedder's first program: a virtual machine with one page of memory that adds the numbers from 1 to 100
 * and says the sum on a port.
 *
 *	hello [--kvm]
 *
 * It runs on libtrapeze, or with --kvm on the kernel's /dev/kvm: the requests and structs are the same, only how
 * a request is made differs. Exit status: 0 right, 1 wrong, 2 usage, 77 /dev/kvm cannot be opened.
 *
 *	cc -o hello hello.c $(pkg-config --cflags --libs trapeze)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <trapeze/trapeze.h>

#define SUM_PORT 0x10
#define CODE_GPA 0x1000
#define MEM_SIZE 0x1000

static int use_kvm;

/* The one difference between the two. */
static int request(int fd, unsigned long number, void *arg)
{
	return use_kvm ? ioctl(fd, number, arg) : tz_ioctl(fd, number, arg);
}

static int request_number(int fd, unsigned long number, unsigned long arg)
{
	return request(fd, number, (void *)arg);
}

static int close_handle(int fd)
{
	return use_kvm ? close(fd) : tz_close(fd);
}

static const uint8_t code[] = {
	0xb9, 0x64,     0x00, /*       mov cx, 100 */
	0x31, 0xc0,           /*       xor ax, ax */
	0x01, 0xc8,           /* next: add ax, cx */
	0xe2, 0xfc,           /*       loop next */
	0xba, SUM_PORT, 0x00, /*       mov dx, SUM_PORT */
	0xef,                 /*       out dx, ax */
	0xf4,                 /*       hlt */
};

static int fail(const char *what)
{
	fprintf(stderr, "hello: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Real mode, CS:IP 0:CODE_GPA. All else is as after power-up. */
static int set_registers(int vcpu)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };

	if (request(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -1;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (request(vcpu, KVM_SET_SREGS, &sregs) < 0)
		return -1;
	return request(vcpu, KVM_SET_REGS, &regs);
}

/* Run until HLT. The sum that came through the port, or -1. */
static int run_guest(int vcpu, struct kvm_run *run)
{
	int sum = -1;

	for (;;) {
		if (request_number(vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			fail("KVM_RUN");
			return -1;
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == SUM_PORT && run->io.size == 2) {
				uint16_t data;

				memcpy(&data, (uint8_t *)run + run->io.data_offset, sizeof(data));
				sum = data;
			}
			break;
		case KVM_EXIT_HLT: return sum;
		default: fprintf(stderr, "hello: the guest left with exit reason %u\n", run->exit_reason); return -1;
		}
	}
}

static int run_vm(int system)
{
	struct kvm_userspace_memory_region region = { .guest_phys_addr = CODE_GPA, .memory_size = MEM_SIZE };
	struct kvm_run *run;
	void *mem;
	int vm, vcpu, run_size, sum;

	if (request_number(system, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return fail("KVM_GET_API_VERSION");
	vm = request_number(system, KVM_CREATE_VM, 0);
	if (vm < 0)
		return fail("KVM_CREATE_VM");
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return fail("guest memory");
	memcpy(mem, code, sizeof(code));
	region.userspace_addr = (uintptr_t)mem;
	if (request(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail("KVM_SET_USER_MEMORY_REGION");
	vcpu = request_number(vm, KVM_CREATE_VCPU, 0);
	run_size = request_number(system, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || run_size < 0)
		return fail("KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return fail("run area");
	if (set_registers(vcpu) < 0)
		return fail("registers");

	sum = run_guest(vcpu, run);
	if (sum >= 0)
		printf("1 + 2 + ... + 100 = %d\n", sum);

	munmap(run, (size_t)run_size);
	close_handle(vcpu);
	close_handle(vm);
	munmap(mem, MEM_SIZE);
	return sum == 5050 ? 0 : 1;
}

int main(int argc, char **argv)
{
	int system, status;

	use_kvm = argc == 2 && !strcmp(argv[1], "--kvm");
	if (argc > 2 || (argc == 2 && !use_kvm)) {
		fprintf(stderr, "usage: hello [--kvm]\n");
		return 2;
	}
	system = use_kvm ? open("/dev/kvm", O_RDWR | O_CLOEXEC) : tz_open(NULL);
	if (system < 0) {
		fail(use_kvm ? "/dev/kvm" : "tz_open");
		return use_kvm ? 77 : 1;
	}
	status = run_vm(system);
	close_handle(system);
	return status;
}
