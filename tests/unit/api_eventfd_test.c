/* SPDX-License-Identifier: Apache-2.0 */
/* KVM_SET_GSI_ROUTING, KVM_IRQFD and KVM_IOEVENTFD, through the API. */
#include <poll.h>
#include <sys/eventfd.h>

#include "apifix.h"

static uint64_t take(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t count = 0;

	if (poll(&p, 1, 0) == 1)
		assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	return count;
}

static void wait_for(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 10000), 1);
	take(fd);
}

static void give(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void run_to(struct machine *m, uint32_t reason)
{
	OK(tz_ioctl(m->vcpu, KVM_RUN, 0));
	assert_int_equal(m->run->exit_reason, reason);
}

static void test_ioeventfd_port(void **state)
{
	/* mov dx,0x100; out dx,al (1); mov al,2; out dx,al; out dx,ax; in al,dx; hlt */
	static const uint8_t code[] = { 0xba, 0x00, 0x01, 0xb0, 0x01, 0xee, 0xb0, 0x02, 0xee, 0xef, 0xec, 0xf4 };
	struct machine *m = *state;
	int one = eventfd(0, 0), copy = dup(one);
	struct kvm_ioeventfd io = { .datamatch = 1,
				    .addr = 0x100,
				    .len = 1,
				    .fd = one,
				    .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH };

	OK(tz_ioctl(m->vm, KVM_IOEVENTFD, &io));
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EEXIST);
	OK(close(one)); /* the kernel holds the eventfd, not the descriptor */
	load_code(m, code, sizeof(code));
	run_to(m, KVM_EXIT_IO); /* al = 1 made no exit; al = 2 does not match */
	assert_int_equal(((uint8_t *)m->run)[m->run->io.data_offset], 2);
	assert_int_equal(take(copy), 1);
	run_to(m, KVM_EXIT_IO);
	assert_int_equal(m->run->io.size, 2);
	run_to(m, KVM_EXIT_IO); /* reads are the client's */
	assert_int_equal(m->run->io.direction, KVM_EXIT_IO_IN);
	run_to(m, KVM_EXIT_HLT);
	io.fd = copy;
	io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	OK(tz_ioctl(m->vm, KVM_IOEVENTFD, &io));
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), ENOENT);
	load_code(m, code, sizeof(code));
	run_to(m, KVM_EXIT_IO);
	assert_int_equal(((uint8_t *)m->run)[m->run->io.data_offset], 1);
	assert_int_equal(take(copy), 0);
	close(copy);
}

static void test_ioeventfd_memory(void **state)
{
	/* mov ax,0x2000; mov ds,ax; mov [4],al; mov [4],ax; mov [8],eax; hlt: DS = GPA 0x20000 */
	static const uint8_t code[] = { 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa2, 0x04, 0x00,
					0xa3, 0x04, 0x00, 0x66, 0xa3, 0x08, 0x00, 0xf4 };
	struct machine *m = *state;
	int any = eventfd(0, 0), four = eventfd(0, 0);
	struct kvm_ioeventfd io = { .addr = 0x20004, .fd = any };
	struct kvm_ioeventfd io4 = { .addr = 0x20008, .len = 4, .fd = four };

	OK(tz_ioctl(m->vm, KVM_IOEVENTFD, &io));
	OK(tz_ioctl(m->vm, KVM_IOEVENTFD, &io4));
	load_code(m, code, sizeof(code));
	run_to(m, KVM_EXIT_HLT);
	assert_int_equal(take(any), 2);
	assert_int_equal(take(four), 1);
	close(any);
	close(four);
}

static void test_ioeventfd_errors(void **state)
{
	struct machine *m = *state;
	int fd = eventfd(0, 0), file = open("/dev/null", O_RDWR);
	struct kvm_ioeventfd io = { .addr = 0x20004, .len = 3, .fd = fd };

	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.len = 16;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.len = 0;
	io.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.flags = 1u << 20;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.flags = 0;
	io.addr = UINT64_MAX;
	io.len = 4;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.addr = 0;
	io.fd = file;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EINVAL);
	io.fd = -1;
	FAILS(tz_ioctl(m->vm, KVM_IOEVENTFD, &io), EBADF);
	close(fd);
	close(file);
}

/* The guest halts; each interrupt is counted at 0x3000, gets its EOI and is followed by an OUT. */
#define HANDLER 0x1800u
static void prepare_interrupts(struct machine *m, uint8_t vector, unsigned pin, bool level)
{
	/* sti; hlt; cli; out 0x80,al; jmp -7 */
	static const uint8_t code[] = { 0xfb, 0xf4, 0xfa, 0xe6, 0x80, 0xeb, 0xf9 };
	/* inc word [0x3000]; mov ecx,0x80b (EOI); xor eax,eax; xor edx,edx; wrmsr; iret: xAPIC registers are out of
	 * reach */
	static const uint8_t handler[] = { 0xff, 0x06, 0x00, 0x30, 0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00,
					   0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xcf };
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} msrs = { .head.nmsrs = 1, .entry = { { .index = 0x80f, .data = 0x1ff } } };
	struct kvm_sregs sregs;
	uint16_t ivt[2] = { HANDLER, 0 };

	memcpy(m->mem + vector * 4, ivt, sizeof(ivt));
	memcpy(m->mem + HANDLER, handler, sizeof(handler));
	load_code(m, code, sizeof(code));
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &sregs));
	sregs.apic_base = 0xfee00d00; /* enabled, x2APIC, boot processor */
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS, &sregs));
	/* spurious-interrupt vector: software enable */
	assert_int_equal(tz_ioctl(m->vcpu, KVM_SET_MSRS, &msrs), 1);
	OK(tz_ioctl(m->vm, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[pin].bits = vector | (level ? 0x8000 : 0);
	OK(tz_ioctl(m->vm, KVM_SET_IRQCHIP, &chip));
}

static void test_irqfd_edge_and_message(void **state)
{
	struct machine *m = *state;
	int line = eventfd(0, EFD_NONBLOCK), message = eventfd(0, 0);
	struct kvm_irqfd irqfd = { .fd = (uint32_t)line, .gsi = 9 };
	struct kvm_irqfd msifd = { .fd = (uint32_t)message, .gsi = 100 };
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[2];
	} table = { .head.nr = 2 };

	table.entry[0] = (struct kvm_irq_routing_entry){ .gsi = 9, .type = KVM_IRQ_ROUTING_IRQCHIP };
	table.entry[0].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	table.entry[0].u.irqchip.pin = 9;
	table.entry[1] = (struct kvm_irq_routing_entry){ .gsi = 100, .type = KVM_IRQ_ROUTING_MSI };
	table.entry[1].u.msi.address_lo = 0xfee00000;
	table.entry[1].u.msi.data = 0x50;
	OK(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table));
	prepare_interrupts(m, 0x50, 9, false);
	OK(tz_ioctl(m->vm, KVM_IRQFD, &irqfd));
	FAILS(tz_ioctl(m->vm, KVM_IRQFD, &irqfd), EBUSY);
	OK(tz_ioctl(m->vm, KVM_IRQFD, &msifd));
	give(line);
	run_to(m, KVM_EXIT_IO); /* HLT has ended */
	assert_int_equal(m->mem[0x3000], 1);
	give(message);
	run_to(m, KVM_EXIT_IO);
	assert_int_equal(m->mem[0x3000], 2);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	OK(tz_ioctl(m->vm, KVM_IRQFD, &irqfd));
	give(line);
	give(message);
	run_to(m, KVM_EXIT_IO);
	assert_int_equal(m->mem[0x3000], 3);
	assert_int_equal(take(line), 1); /* nobody reads it any more */
	close(line);
	close(message);
}

static void test_irqfd_pending_before(void **state)
{
	struct machine *m = *state;
	int line = eventfd(1, 0);
	struct kvm_irqfd irqfd = { .fd = (uint32_t)line, .gsi = 9 };

	prepare_interrupts(m, 0x50, 9, false);
	OK(tz_ioctl(m->vm, KVM_IRQFD, &irqfd));
	run_to(m, KVM_EXIT_IO);
	assert_int_equal(m->mem[0x3000], 1);
	close(line);
}

static void test_irqfd_resample(void **state)
{
	struct machine *m = *state;
	int line = eventfd(0, 0), resample = eventfd(0, 0);
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)line, .gsi = 10, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = (uint32_t)resample
	};

	prepare_interrupts(m, 0x51, 10, true);
	OK(tz_ioctl(m->vm, KVM_IRQFD, &irqfd));
	for (unsigned i = 1; i <= 3; i++) {
		give(line);
		run_to(m, KVM_EXIT_IO);
		assert_int_equal(m->mem[0x3000], i);
		wait_for(resample);
	}
	close(line);
	close(resample);
}

static void test_routing_and_irqfd_errors(void **state)
{
	struct machine *m = *state;
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[1];
	} table = { .head.nr = 1 };
	struct kvm_irqfd irqfd = { .fd = (uint32_t)-1, .gsi = 10 };
	struct kvm_irq_level line = { .irq = 30, .level = 1 };

	FAILS(tz_ioctl(m->vm, KVM_IRQFD, &irqfd), EBADF);
	irqfd.flags = 1u << 9;
	FAILS(tz_ioctl(m->vm, KVM_IRQFD, &irqfd), EINVAL);
	OK(tz_ioctl(m->vm, KVM_IRQ_LINE_STATUS, &line));
	assert_int_equal(line.status, -1);
	table.entry[0].type = KVM_IRQ_ROUTING_HV_SINT;
	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	table.entry[0].type = KVM_IRQ_ROUTING_IRQCHIP;
	table.entry[0].u.irqchip.irqchip = 7;
	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	table.entry[0].u.irqchip.irqchip = KVM_IRQCHIP_PIC_MASTER;
	table.entry[0].u.irqchip.pin = 8;
	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	table.head.flags = 1;
	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	table.head.flags = 0;
	table.head.nr = 5000;
	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
}

static void test_without_irqchip(void **state)
{
	struct machine *m = *state;
	struct kvm_irq_routing table = { 0 };
	int fd = eventfd(0, 0);
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = 10 };

	FAILS(tz_ioctl(m->vm, KVM_SET_GSI_ROUTING, &table), EINVAL);
	FAILS(tz_ioctl(m->vm, KVM_IRQFD, &irqfd), EAGAIN);
	close(fd);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_IRQCHIP(f) cmocka_unit_test_setup_teardown(f, setup_irqchip, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ioeventfd_port),
		TEST(test_ioeventfd_memory),
		TEST(test_ioeventfd_errors),
		TEST_IRQCHIP(test_irqfd_edge_and_message),
		TEST_IRQCHIP(test_irqfd_pending_before),
		TEST_IRQCHIP(test_irqfd_resample),
		TEST_IRQCHIP(test_routing_and_irqfd_errors),
		TEST(test_without_irqchip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
