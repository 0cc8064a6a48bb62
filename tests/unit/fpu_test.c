/* SPDX-License-Identifier: Apache-2.0 */
/* fpu.area and the host's registers: loading, putting away, images, and what must not leak. */
#include "fakecpu.h"

#include <errno.h>

#include "x86/fpu.h"

static struct fake *f;
static struct x86_cpu *cpu;
static _Alignas(64) uint8_t image[X86_XSAVE_AREA];

static int setup(void **state)
{
	(void)state;
	f = fake_create(1 << 20);
	cpu = &f->cpu;
	x86_fpu_reset(cpu);
	memset(image, 0, sizeof(image));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	x86_fpu_put(cpu);
	fake_destroy(f);
	return 0;
}

static uint32_t mxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static uint16_t fcw(void)
{
	uint16_t v;

	__asm__ volatile("fnstcw %0" : "=m"(v));
	return v;
}

static void test_layout(void **state)
{
	uint64_t xcr0 = x86_fpu_supported_xcr0();
	uint32_t offset, size, end = 576;

	(void)state;
	assert_int_equal(xcr0 & 3, 3);
	assert_int_equal(xcr0 & ~UINT64_C(0x2e7), 0);
	assert_int_equal(x86_fpu_area_size(3), 576);
	assert_false(x86_fpu_component(17, &offset, &size)); /* AMX */
	assert_false(x86_fpu_component(3, &offset, &size));
	for (unsigned n = 2; n <= 9; n++) {
		if (!(xcr0 & BIT64(n)))
			continue;
		assert_true(x86_fpu_component(n, &offset, &size));
		assert_true(offset >= 576 && offset + size <= X86_XSAVE_AREA);
		if (offset + size > end)
			end = offset + size;
	}
	assert_int_equal(x86_fpu_area_size(xcr0), end);
	if (xcr0 & 4) {
		assert_true(x86_fpu_component(2, &offset, &size));
		assert_int_equal(offset, 576);
		assert_int_equal(size, 256);
	}
}

static void test_reset(void **state)
{
	(void)state;
	memset(cpu->fpu.area, 0xff, 512);
	x86_fpu_reset(cpu);
	x86_fpu_get_image(cpu, image);
	assert_int_equal(guest_load16(image), 0x37f);
	assert_int_equal(guest_load16(image + 2), 0);
	assert_int_equal(image[4], 0);
	assert_int_equal(guest_load32(image + 24), 0x1f80);
	assert_int_equal(guest_load32(image + 28), x86_fpu_mxcsr_mask());
	assert_int_equal(guest_load64(image + 160), 0);
}

static void test_live(void **state)
{
	uint32_t host_mxcsr = 0x3f80, normal = mxcsr(), guest = 0x5f80;
	uint16_t host_fcw = 0x27f, normal_fcw = fcw();

	(void)state;
	guest_store64(cpu->fpu.area + 160, 0x1122334455667788);
	guest_store32(cpu->fpu.area + 24, 0x9f80);
	guest_store64(cpu->fpu.area + 512, 3);
	__asm__ volatile("ldmxcsr %0" : : "m"(host_mxcsr));
	__asm__ volatile("fldcw %0" : : "m"(host_fcw));
	x86_fpu_load(cpu);
	assert_true(cpu->fpu.live);
	{
		uint64_t low;

		__asm__ volatile("movq %%xmm0, %0\n\t" : "=r"(low));
		x86_fpu_put(cpu);
		assert_int_equal(low, 0x1122334455667788);
	}
	/* The thread's control words are back. */
	assert_int_equal(mxcsr(), host_mxcsr);
	assert_int_equal(fcw(), host_fcw);
	__asm__ volatile("ldmxcsr %0" : : "m"(normal));
	__asm__ volatile("fldcw %0" : : "m"(normal_fcw));
	assert_int_equal(guest_load32(cpu->fpu.area + 24), 0x9f80);
	x86_fpu_load(cpu);
	__asm__ volatile("ldmxcsr %0" : : "m"(guest));
	x86_fpu_sync(cpu);
	assert_true(cpu->fpu.live);
	guest_store64(cpu->fpu.area + 160, 42);
	x86_fpu_changed(cpu);
	x86_fpu_put(cpu);
	assert_int_equal(guest_load32(cpu->fpu.area + 24), 0x5f80);
	assert_int_equal(guest_load64(cpu->fpu.area + 160), 42);
	x86_fpu_load(cpu);
	__asm__ volatile("pxor %xmm0, %xmm0");
	x86_fpu_discard(cpu);
	assert_int_equal(guest_load64(cpu->fpu.area + 160), 42);
}

/* An x87 instruction on the host leaves its own address in FIP: never the guest's business. */
static void test_no_host_pointers(void **state)
{
	(void)state;
	guest_store64(cpu->fpu.area + 8, 0x1234);
	guest_store64(cpu->fpu.area + 512, 1);
	x86_fpu_load(cpu);
	__asm__ volatile("fld1; fldz; fdivrp");
	x86_fpu_put(cpu);
	assert_int_equal(guest_load64(cpu->fpu.area + 8), 0x1234);
	assert_int_equal(guest_load64(cpu->fpu.area + 16), 0);
	x86_fpu_get_image(cpu, image);
	assert_int_equal(guest_load64(image + 8), 0x1234);
	assert_int_equal(guest_load64(image + 512) & 1, 1);
}

static void test_image(void **state)
{
	uint32_t offset, size;

	(void)state;
	guest_store16(image, 0x37f);
	guest_store32(image + 24, 0x1f80);
	guest_store64(image + 160, 0xabcdef);
	guest_store64(image + 512, 2);
	assert_int_equal(x86_fpu_set_image(cpu, image), 0);
	assert_int_equal(guest_load64(cpu->fpu.area + 160), 0xabcdef);
	guest_store64(image + 512, 0); /* initial state: the bytes do not count */
	assert_int_equal(x86_fpu_set_image(cpu, image), 0);
	x86_fpu_get_image(cpu, image);
	assert_int_equal(guest_load64(image + 160), 0);

	guest_store64(image + 512, BIT64(17));
	assert_int_equal(x86_fpu_set_image(cpu, image), -EINVAL);
	guest_store64(image + 512, 0);
	guest_store64(image + 520, BIT64(63));
	assert_int_equal(x86_fpu_set_image(cpu, image), -EINVAL);
	guest_store64(image + 520, 0);
	guest_store64(image + 568, 1);
	assert_int_equal(x86_fpu_set_image(cpu, image), -EINVAL);
	guest_store64(image + 568, 0);
	guest_store32(image + 24, 0x1f80 | BIT32(30));
	assert_int_equal(x86_fpu_set_image(cpu, image), -EINVAL);
	guest_store32(image + 24, 0x1f80);

	if (!(x86_fpu_supported_xcr0() & BIT64(9)))
		return;
	assert_true(x86_fpu_component(9, &offset, &size));
	guest_store32(image + offset, 0x55555554);
	guest_store64(image + 512, BIT64(9));
	assert_int_equal(x86_fpu_set_image(cpu, image), 0);
	assert_int_equal(cpu->pkru, 0x55555554);
	memset(image, 0, sizeof(image));
	x86_fpu_get_image(cpu, image);
	assert_int_equal(guest_load64(image + 512) & BIT64(9), BIT64(9));
	assert_int_equal(guest_load32(image + offset), 0x55555554);
	cpu->xcr0 = x86_fpu_supported_xcr0();
	assert_int_equal(x86_fpu_xinuse(cpu) & BIT64(9), BIT64(9));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_layout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_host_pointers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_image, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
