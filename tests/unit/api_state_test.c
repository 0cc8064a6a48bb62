/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM API: what a client sets in a vCPU it gets back, and what cannot be is refused. */
#include "apifix.h"

/* ---- vCPU state ---- */

static void test_regs(void **state)
{
	struct machine *m = *state;
	struct kvm_regs in, out;
	uint64_t *word = (uint64_t *)&in;

	for (unsigned i = 0; i < sizeof(in) / 8; i++)
		word[i] = 0x1111111111111111u * (i + 1);
	in.rflags = 0x246;
	OK(tz_ioctl(m->vcpu, KVM_SET_REGS, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_REGS, &out));
	assert_memory_equal(&in, &out, sizeof(in));
	in.rflags = 0; /* bit 1 is always one */
	OK(tz_ioctl(m->vcpu, KVM_SET_REGS, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_REGS, &out));
	assert_int_equal(out.rflags, 2);
}

static void test_sregs(void **state)
{
	struct machine *m = *state;
	struct kvm_sregs power_up, in, out;
	struct kvm_sregs2 two;

	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &power_up));
	assert_int_equal(power_up.cs.selector, 0xf000);
	assert_int_equal(power_up.cs.base, 0xffff0000);
	assert_int_equal(power_up.cr0, 0x60000010);
	assert_int_equal(power_up.apic_base & 0xfffff900, 0xfee00900);
	in = power_up;
	/* 64-bit mode, flat. */
	in.cr0 = 0x80000011;
	in.cr4 = 0x20;
	in.cr3 = 0x2000;
	in.efer = 0x500;
	in.cs = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	in.ds = in.es = in.fs = in.gs = in.ss = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	in.fs.base = 0x123456789000;
	in.ldt = (struct kvm_segment){ .unusable = 1 };
	in.gdt = (struct kvm_dtable){ .base = 0xffff888000001000, .limit = 0x7f };
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &out));
	assert_memory_equal(&in, &out, sizeof(in));
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS2, &two));
	assert_int_equal(two.flags, 0);
	assert_int_equal(two.fs.base, 0x123456789000);
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS2, &two));
	two.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID; /* not in 64-bit mode */
	FAILS(tz_ioctl(m->vcpu, KVM_SET_SREGS2, &two), EINVAL);
	/* Long mode without PAE cannot be. */
	in.cr4 = 0;
	FAILS(tz_ioctl(m->vcpu, KVM_SET_SREGS, &in), EINVAL);
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &out));
	assert_int_equal(out.cr4, 0x20);
}

static void test_sregs2_pdptes(void **state)
{
	struct machine *m = *state;
	struct kvm_sregs2 in, out;

	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS2, &in));
	in.cr0 = 0x80000011;
	in.cr4 = 0x20;
	in.cr3 = 0x2000;
	in.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (unsigned i = 0; i < 4; i++)
		in.pdptrs[i] = 0x3001 + 0x1000 * i;
	OK(tz_ioctl(m->vcpu, KVM_SET_SREGS2, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS2, &out));
	assert_int_equal(out.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_memory_equal(in.pdptrs, out.pdptrs, sizeof(in.pdptrs));
}

static void test_events(void **state)
{
	struct machine *m = *state;
	struct kvm_vcpu_events in, out;
	struct kvm_interrupt irq = { .irq = 0x31 };
	struct kvm_sregs sregs;

	OK(tz_ioctl(m->vcpu, KVM_GET_VCPU_EVENTS, &in));
	in.exception.injected = 1;
	in.exception.nr = 13;
	in.exception.has_error_code = 1;
	in.exception.error_code = 0x18;
	in.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
	in.nmi.pending = 1;
	in.nmi.masked = 1;
	in.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	OK(tz_ioctl(m->vcpu, KVM_SET_VCPU_EVENTS, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_VCPU_EVENTS, &out));
	assert_memory_equal(&in, &out, sizeof(in));
	in.smi.smm = 1; /* there is none to be in */
	FAILS(tz_ioctl(m->vcpu, KVM_SET_VCPU_EVENTS, &in), EINVAL);
	in.flags = 1u << 30;
	FAILS(tz_ioctl(m->vcpu, KVM_SET_VCPU_EVENTS, &in), EINVAL);
	in.flags = 0;
	in.exception.nr = 32;
	FAILS(tz_ioctl(m->vcpu, KVM_SET_VCPU_EVENTS, &in), EINVAL);
	/* The client's interrupt shows here and in sregs. */
	OK(tz_ioctl(m->vcpu, KVM_INTERRUPT, &irq));
	OK(tz_ioctl(m->vcpu, KVM_GET_VCPU_EVENTS, &out));
	assert_true(out.interrupt.injected && out.interrupt.nr == 0x31);
	OK(tz_ioctl(m->vcpu, KVM_GET_SREGS, &sregs));
	assert_true(sregs.interrupt_bitmap[0] == UINT64_C(1) << 0x31);
	irq.irq = 256;
	FAILS(tz_ioctl(m->vcpu, KVM_INTERRUPT, &irq), EINVAL);
	OK(tz_ioctl(m->vcpu, KVM_NMI, 0));
	OK(tz_ioctl(m->vcpu, KVM_GET_VCPU_EVENTS, &out));
	assert_int_equal(out.nmi.pending, 2);
}

static void test_debugregs(void **state)
{
	struct machine *m = *state;
	struct kvm_debugregs in = { .db = { 1, 2, 3, 0xffff800000000004 }, .dr6 = 0xffff0ff1, .dr7 = 0x401 }, out;

	OK(tz_ioctl(m->vcpu, KVM_SET_DEBUGREGS, &in));
	OK(tz_ioctl(m->vcpu, KVM_GET_DEBUGREGS, &out));
	assert_memory_equal(&in, &out, sizeof(in));
	in.dr7 = UINT64_C(1) << 32;
	FAILS(tz_ioctl(m->vcpu, KVM_SET_DEBUGREGS, &in), EINVAL);
}

static void test_fpu(void **state)
{
	struct machine *m = *state;
	struct kvm_fpu in, out;
	static struct kvm_xsave xsave, again;

	OK(tz_ioctl(m->vcpu, KVM_GET_FPU, &in));
	assert_int_equal(in.fcw, 0x37f);
	assert_int_equal(in.mxcsr, 0x1f80);
	for (unsigned i = 0; i < 16; i++)
		memset(in.xmm[i], 0x10 + (int)i, 16);
	for (unsigned i = 0; i < 8; i++)
		memset(in.fpr[i], 0x20 + (int)i, 10);
	in.fcw = 0x27f;
	in.ftwx = 0x0f;
	in.mxcsr = 0; /* not taken, as in the kernel */
	OK(tz_ioctl(m->vcpu, KVM_SET_FPU, &in));
	in.mxcsr = 0x1f80;
	OK(tz_ioctl(m->vcpu, KVM_GET_FPU, &out));
	assert_memory_equal(&in, &out, sizeof(in));
	/* The same through XSAVE: XMM0 lies at byte 160, XSTATE_BV at 512. */
	OK(tz_ioctl(m->vcpu, KVM_GET_XSAVE, &xsave));
	assert_int_equal(xsave.region[160 / 4], 0x10101010);
	assert_int_equal(xsave.region[512 / 4] & 3, 3);
	xsave.region[160 / 4] = 0xcafef00d;
	OK(tz_ioctl(m->vcpu, KVM_SET_XSAVE, &xsave));
	OK(tz_ioctl(m->vcpu, KVM_GET_XSAVE2, &again));
	assert_memory_equal(&xsave, &again, 576);
	xsave.region[24 / 4] = 0xffffffff; /* MXCSR */
	FAILS(tz_ioctl(m->vcpu, KVM_SET_XSAVE, &xsave), EINVAL);
}

static void test_xcrs(void **state)
{
	struct machine *m = *state;
	struct kvm_xcrs xcrs;

	OK(tz_ioctl(m->vcpu, KVM_GET_XCRS, &xcrs));
	assert_int_equal(xcrs.nr_xcrs, 1);
	assert_int_equal(xcrs.xcrs[0].value, 1);
	xcrs.xcrs[0].value = 3;
	OK(tz_ioctl(m->vcpu, KVM_SET_XCRS, &xcrs));
	xcrs.xcrs[0].value = 0;
	OK(tz_ioctl(m->vcpu, KVM_GET_XCRS, &xcrs));
	assert_int_equal(xcrs.xcrs[0].value, 3);
	xcrs.xcrs[0].value = 2; /* SSE without x87 */
	FAILS(tz_ioctl(m->vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
}

static void test_msrs(void **state)
{
	struct machine *m = *state;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[3];
	} msrs = { .head.nmsrs = 3,
		   .e = { { .index = 0xc0000082, .data = 0xffffffff81000000 },
			  { .index = 0x12345678, .data = 1 },
			  { .index = 0xc0000081, .data = 1 } } };

	/* Stops at the one it does not know, and says so by the count. */
	assert_int_equal(tz_ioctl(m->vcpu, KVM_SET_MSRS, &msrs), 1);
	msrs.e[0].data = 0;
	assert_int_equal(tz_ioctl(m->vcpu, KVM_GET_MSRS, &msrs), 1);
	assert_true(msrs.e[0].data == 0xffffffff81000000);
	msrs.head.nmsrs = 100000;
	FAILS(tz_ioctl(m->vcpu, KVM_GET_MSRS, &msrs), E2BIG);
}

static void test_mp_state(void **state)
{
	struct machine *m = *state;
	struct kvm_mp_state mp;
	int ap = tz_ioctl(m->vm, KVM_CREATE_VCPU, 1);

	assert_true(ap >= 0);
	OK(tz_ioctl(m->vcpu, KVM_GET_MP_STATE, &mp));
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	OK(tz_ioctl(ap, KVM_GET_MP_STATE, &mp));
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	mp.mp_state = 77;
	FAILS(tz_ioctl(ap, KVM_SET_MP_STATE, &mp), EINVAL);
	mp.mp_state = KVM_MP_STATE_SIPI_RECEIVED;
	OK(tz_ioctl(ap, KVM_SET_MP_STATE, &mp));
	OK(tz_ioctl(ap, KVM_GET_MP_STATE, &mp));
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	OK(tz_close(ap));
	/* Its id stays taken: the vCPU lives as long as the VM. */
	FAILS(tz_ioctl(m->vm, KVM_CREATE_VCPU, 1), EEXIST);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IRQCHIP(name) cmocka_unit_test_setup_teardown(name, setup_irqchip, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_regs),          TEST(test_sregs),
		TEST_IRQCHIP(test_sregs), TEST(test_sregs2_pdptes),
		TEST(test_events),        TEST(test_debugregs),
		TEST(test_fpu),           TEST(test_xcrs),
		TEST(test_msrs),          TEST_IRQCHIP(test_mp_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
