/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector/x87 group: state images (against this CPU), and what a user program can not show: control
 * bits, missing features, device memory, other modes, PKRU, the stub cache.
 */
#include "vector_world.h"

/* ---- state images, against this CPU ---- */

struct image_case {
	const char *name;
	uint8_t bytes[5];
	unsigned len;
	bool restores;
	unsigned ignore_from, ignore_to; /* x87 pointers and selectors */
};

/* All of them with [rbx]. */
static const struct image_case image_cases[] = {
	{ "fxsave", { 0x0f, 0xae, 0x03 }, 3, false, 8, 24 },
	{ "fxsave64", { 0x48, 0x0f, 0xae, 0x03 }, 4, false, 8, 24 },
	{ "fxrstor64", { 0x48, 0x0f, 0xae, 0x0b }, 4, true, 0, 0 },
	{ "xsave", { 0x0f, 0xae, 0x23 }, 3, false, 8, 24 },
	{ "xsave64", { 0x48, 0x0f, 0xae, 0x23 }, 4, false, 8, 24 },
	{ "xsaveopt64", { 0x48, 0x0f, 0xae, 0x33 }, 4, false, 8, 24 },
	{ "xsavec64", { 0x48, 0x0f, 0xc7, 0x23 }, 4, false, 8, 24 },
	{ "xrstor64", { 0x48, 0x0f, 0xae, 0x2b }, 4, true, 0, 0 },
	{ "fnstenv", { 0xd9, 0x33 }, 2, false, 12, 28 },
	{ "fnstenv16", { 0x66, 0xd9, 0x33 }, 3, false, 6, 14 },
	{ "fldenv", { 0xd9, 0x23 }, 2, true, 0, 0 },
	{ "fnsave", { 0xdd, 0x33 }, 2, false, 12, 28 },
	{ "frstor", { 0xdd, 0x23 }, 2, true, 0, 0 },
};

/* What fxrstor or xrstor may find: also bad headers and MXCSRs, and compacted images. */
static void random_image(uint8_t *image)
{
	uint64_t bv = native_mask & rng();
	uint64_t header[8] = { bv };

	random_area(image);
	if (!rng_below(8))
		image[24 + rng_below(4)] = (uint8_t)rng();
	switch (rng_below(8)) {
	case 0: header[rng_below(8)] ^= BIT64(rng_below(64)); break;
	case 1: header[0] |= BIT64(3 + rng_below(60)); break;
	case 2:
	case 3:
		header[1] = BIT64(63) | bv | (rng() & native_mask);
		if (!rng_below(6))
			header[rng_below(8)] ^= BIT64(rng_below(64));
		break;
	default: break;
	}
	memcpy(image + 512, header, sizeof(header));
}

static void compare_image(const struct image_case *c)
{
	static struct machine_state in, hw, emu;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	struct interp_insn i;
	uint64_t bv;
	unsigned at = rng_below(4) ? 0 : rng_below(3) * 8;

	assert_true(decode(c->bytes, c->len, &i, &zi, zo));
	if (i.exec == vector_exec_ud)
		return;
	memset(&in, 0, sizeof(in));
	random_area(in.area);
	bv = native_mask; /* all in use: whether a component with initial values is, depends on the kernel, too */
	memcpy(in.area + 512, &bv, 8);
	in.gpr[X86_RAX] = rng_below(3) ? native_mask & rng() : native_mask;
	in.gpr[X86_RBX] = DATA_GVA + (rng_below(6) ? 64 * rng_below(64) : 8192 - 64 * rng_below(12)) + at;
	for (unsigned k = 0; k < DATA_SIZE; k += 8)
		guest_store64(w.before + k, random_element());
	if (in.gpr[X86_RBX] + 2752 <= DATA_GVA + DATA_SIZE)
		random_image(w.before + (in.gpr[X86_RBX] - DATA_GVA));
	memcpy(w.data, w.before, DATA_SIZE);
	hw = in;
	native_run(&hw, c->bytes, c->len);
	memcpy(w.after, w.data, DATA_SIZE);
	memcpy(w.data, w.before, DATA_SIZE);
	emu = in;
	emulate(&emu, &i);
	native_normalize(hw.area);
	native_normalize(emu.area);
	for (unsigned k = c->ignore_from; k < c->ignore_to && hw.vector < 0; k++)
		w.after[in.gpr[X86_RBX] - DATA_GVA + k] = w.data[in.gpr[X86_RBX] - DATA_GVA + k];
	if (hw.vector == X86_PF_EXC) /* which of the bytes is not said */
		hw.cr2 &= ~UINT64_C(0xfff), emu.cr2 &= ~UINT64_C(0xfff);
	if (same_state(&hw, &emu))
		return;
	print_difference(c->bytes, &zi, zo, &in, &hw, &emu);
	fail_msg("%s", c->name);
}

static void test_images(void **state)
{
	(void)state;
	native_catch();
	w.cpu->xcr0 = native_mask;
	for (unsigned n = 0; n < ARRAY_SIZE(image_cases); n++)
		for (unsigned k = 0; k < 2000; k++)
			compare_image(&image_cases[n]);
}

/* ---- what only a kernel sees ---- */

static const uint8_t insn_x87[] = { 0xd9, 0xe8 };             /* fld1 */
static const uint8_t insn_mmx[] = { 0x0f, 0xfc, 0xc1 };       /* paddb mm0, mm1 */
static const uint8_t insn_sse[] = { 0x0f, 0x58, 0xc1 };       /* addps xmm0, xmm1 */
static const uint8_t insn_vex[] = { 0xc5, 0xf0, 0x58, 0xc1 }; /* vaddps xmm0, xmm1, xmm1 */
static const uint8_t insn_fwait[] = { 0x9b };
static const uint8_t insn_evex[] = { 0x62, 0xf1, 0x74, 0x48, 0x58, 0xc1 }; /* vaddps zmm0, zmm1, zmm1 */
#define EXPECT(vector, insn) assert_int_equal(run_bytes(insn, sizeof(insn)), vector)

static void test_control_bits(void **state)
{
	struct x86_cpu *cpu = w.cpu;
	bool evex = (x86_fpu_supported_xcr0() & 0xe6) == 0xe6;

	(void)state;
	enter_long_mode();
	x86_fpu_reset(cpu);
	cpu->cr0 |= X86_CR0_TS;
	EXPECT(X86_NM, insn_x87);
	EXPECT(X86_NM, insn_mmx);
	EXPECT(X86_NM, insn_sse);
	EXPECT(X86_NM, insn_vex);
	EXPECT(-1, insn_fwait);
	cpu->cr0 |= X86_CR0_MP;
	EXPECT(X86_NM, insn_fwait);
	cpu->cr4 &= ~(X86_CR4_OSFXSR | X86_CR4_OSXSAVE); /* #UD goes before #NM */
	EXPECT(X86_UD, insn_sse);
	EXPECT(X86_UD, insn_vex);
	EXPECT(X86_NM, insn_mmx);
	enter_long_mode();
	cpu->cr0 |= X86_CR0_EM;
	EXPECT(X86_NM, insn_x87);
	EXPECT(X86_UD, insn_mmx);
	EXPECT(X86_UD, insn_sse);
	EXPECT(-1, insn_vex); /* CR0.EM does not concern VEX */
	enter_long_mode();
	cpu->xcr0 = 3;
	EXPECT(X86_UD, insn_vex);
	EXPECT(-1, insn_sse);
	cpu->xcr0 = 7;
	EXPECT(-1, insn_vex);
	EXPECT(X86_UD, insn_evex);
	enter_long_mode();
	if (evex)
		EXPECT(-1, insn_evex);
	cpu->cr4 &= ~X86_CR4_OSXMMEXCPT; /* an unmasked exception is #UD then */
	guest_store32(cpu->fpu.area + 24, 0x1f00);
	guest_store64(cpu->fpu.area + 512, 7);
	guest_store32(cpu->fpu.area + 160, 0x7f800001);
	EXPECT(X86_UD, insn_sse);
	assert_int_equal(guest_load32(cpu->fpu.area + 24), 0x1f01);
	x86_fpu_reset(cpu);
	enter_long_mode();
}

static void test_missing_features(void **state)
{
	struct x86_cpuid *id = &w.cpu->cpuid;

	(void)state;
	enter_long_mode();
	id->features[X86_FEAT_AVX / 32] &= ~BIT32(X86_FEAT_AVX % 32);
	id->features[X86_FEAT_SSE2 / 32] &= ~BIT32(X86_FEAT_SSE2 % 32);
	EXPECT(X86_UD, insn_vex);
	EXPECT(-1, insn_sse);
	assert_int_equal(RUN(0x66, 0x0f, 0x58, 0xc1), X86_UD); /* addpd */
	assert_int_equal(RUN(0x0f, 0x0f, 0xc1, 0x9e), X86_UD); /* 3DNow! pfadd */
	assert_int_equal(RUN(0x48, 0x0f, 0xc7, 0x2b), X86_UD); /* xsaves64 */
	fake_cpuid(w.cpu);
	EXPECT(-1, insn_vex);
}

/* FLD1; FLDZ; FDIVP with zero-divide unmasked: the next waiting instruction reports it, FNSTSW does not. */
static void test_pending_x87(void **state)
{
	struct x86_cpu *cpu = w.cpu;

	(void)state;
	enter_long_mode();
	x86_fpu_reset(cpu);
	cpu->gpr[X86_RBX] = SCRATCH;
	guest_store16(w.data + 0x100, 0x37b);
	assert_int_equal(RUN(0xd9, 0x2b), -1); /* fldcw [rbx] */
	EXPECT(-1, insn_x87);
	assert_int_equal(RUN(0xd9, 0xee), -1);
	cpu->rip = 0x1234;
	assert_int_equal(RUN(0xde, 0xf9), -1);
	EXPECT(X86_MF, insn_x87);
	EXPECT(X86_MF, insn_mmx);
	EXPECT(X86_MF, insn_fwait);
	assert_int_equal(RUN(0xdf, 0xe0), -1); /* fnstsw ax */
	assert_int_equal(cpu->gpr[X86_RAX] & 0x84, 0x84);
	EXPECT(-1, insn_sse);
	assert_int_equal(RUN(0xd9, 0x33), -1); /* fnstenv [rbx] */
	assert_int_equal(guest_load32(w.data + 0x100 + 12), 0x1234);
	assert_int_equal(guest_load16(w.data + 0x100 + 18), 0x6f9);
	EXPECT(-1, insn_fwait); /* it masked them */
	assert_int_equal(RUN(0xdb, 0xe3), -1);
	assert_int_equal(guest_load64(cpu->fpu.area + 8), 0);
}

/* A pop to a device happens once, and only after the client took the value. */
static void test_device_memory(void **state)
{
	struct x86_cpu *cpu = w.cpu;
	const uint64_t device = DATA_GVA + 0x100000;
	static const uint8_t fstp[] = { 0xdd, 0x1b }, movups[] = { 0x0f, 0x10, 0x03 }, movaps[] = { 0x0f, 0x29, 0x03 };

	(void)state;
	enter_long_mode();
	x86_fpu_reset(cpu);
	fake_map(w.f, device, 0xd0000000, 0x67);
	cpu->gpr[X86_RBX] = device;
	EXPECT(-1, insn_x87);
	assert_int_equal(run_bytes(fstp, sizeof(fstp)), -2);
	assert_int_equal(cpu->exit_reason, X86_EXIT_MMIO);
	assert_int_equal(guest_load64(cpu->io.pending.data), 0x3ff0000000000000);
	assert_int_equal((guest_load16(cpu->fpu.area + 2) >> 11) & 7, 7);
	x86_io_complete(cpu, NULL);
	assert_int_equal(run_bytes(fstp, sizeof(fstp)), -1);
	assert_int_equal((guest_load16(cpu->fpu.area + 2) >> 11) & 7, 0);
	w.f->io_handled = true;
	w.f->io_count = w.f->read_next = 0;
	w.f->read_count = 2;
	w.f->read_data[0] = 0x1111;
	w.f->read_data[1] = 0x2222;
	assert_int_equal(run_bytes(movups, sizeof(movups)), -1);
	assert_int_equal(guest_load64(cpu->fpu.area + 160), 0x1111);
	assert_int_equal(guest_load64(cpu->fpu.area + 168), 0x2222);
	assert_int_equal(run_bytes(movaps, sizeof(movaps)), -1);
	assert_int_equal(w.f->io_count, 4);
	assert_int_equal(w.f->io[3].data, 0x2222);
	w.f->io_handled = false;
}

/* A gather from a device reads each element once, whoever completes it. */
static void test_device_gather(void **state)
{
	static const uint8_t gather[] = { 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0b }; /* vpgatherdd xmm0, [rbx+xmm1], xmm2 */
	struct x86_cpu *cpu = w.cpu;
	uint8_t *area = cpu->fpu.area;
	uint32_t value = 0xabcd0000;

	(void)state;
	if (!(w.interp.vector->host_features[X86_FEAT_AVX2 / 32] & BIT32(X86_FEAT_AVX2 % 32)))
		skip();
	enter_long_mode();
	x86_fpu_reset(cpu);
	fake_map(w.f, DATA_GVA + 0x100000, 0xd0000000, 0x67);
	cpu->gpr[X86_RBX] = DATA_GVA + 0x100000;
	for (unsigned n = 0; n < 4; n++) {
		guest_store32(area + 176 + n * 4, n * 4);
		guest_store32(area + 192 + n * 4, n == 2 ? 0 : 0x80000000);
	}
	guest_store32(area + 168, 0x5555);
	guest_store64(area + 512, 7);
	for (unsigned n = 0; n < 3; n++, value++) {
		assert_int_equal(run_bytes(gather, sizeof(gather)), -2);
		assert_int_equal(cpu->io.pending.addr, 0xd0000000 + (n == 2 ? 12 : n * 4));
		x86_io_complete(cpu, &value);
	}
	assert_int_equal(run_bytes(gather, sizeof(gather)), -1);
	assert_int_equal(guest_load64(area + 160), 0xabcd0001abcd0000);
	assert_int_equal(guest_load64(area + 168), 0xabcd000200005555);
	assert_int_equal(guest_load64(area + 192) | guest_load64(area + 200), 0);
}

/* Outside 64-bit mode: eight registers, 16- and 32-bit addresses, W and the extension bits without effect. */
static void test_other_modes(void **state)
{
	struct x86_cpu *cpu = w.cpu;
	uint8_t *area = cpu->fpu.area;

	(void)state;
	fake_protected_mode(w.f);
	cpu->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	cpu->xcr0 = 7;
	x86_fpu_reset(cpu);
	memset(w.f->ram + 0x8000, 0xee, 1024);
	cpu->gpr[X86_RCX] = 0xffffffff12345678;
	cpu->gpr[X86_RBX] = 0x8000;
	assert_int_equal(RUN(0x66, 0x0f, 0x6e, 0xc1), -1); /* movd xmm0, ecx */
	assert_int_equal(guest_load64(area + 160), 0x12345678);
	assert_int_equal(RUN(0xc4, 0xe1, 0xf9, 0x6e, 0xc9), -1); /* vmovd xmm1, ecx with W = 1 */
	assert_int_equal(guest_load64(area + 176), 0x12345678);
	assert_int_equal(RUN(0x67, 0x0f, 0x11, 0x07), -1); /* movups [bx], xmm0 */
	assert_int_equal(fake_peek64(w.f, 0x8000), 0x12345678);
	assert_int_equal(RUN(0x0f, 0xae, 0x03), -1); /* fxsave [ebx]: XMM8 and up are left alone */
	assert_int_equal(fake_peek64(w.f, 0x8000 + 160), 0x12345678);
	assert_int_equal(fake_peek64(w.f, 0x8000 + 288), 0xeeeeeeeeeeeeeeee);
	fake_real_mode(w.f);
	cpu->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
	EXPECT(-1, insn_sse);
	EXPECT(-1, insn_x87);
	assert_int_equal(guest_load64(area + 8), cpu->seg[X86_CS].base + cpu->rip - sizeof(insn_x87));
	cpu->rip = 0;
	enter_long_mode();
}

/* More different instructions than the cache holds: old ones still run, after they were dropped. */
static void test_cache_overflow(void **state)
{
	static const uint8_t mov[] = { 0x48, 0x0f, 0x6e, 0xc1 }; /* movq mm0, rcx */
	struct interp_insn first;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t generation = w.interp.vector->generation;
	unsigned n;

	(void)state;
	enter_long_mode();
	x86_fpu_reset(w.cpu);
	assert_true(decode(mov, sizeof(mov), &first, &zi, zo));
	for (n = 0; w.interp.vector->generation == generation && n < 100000; n++) {
		const uint8_t shuffle[] = { 0x66, 0x0f, (uint8_t)(0x70 | (n >> 14 & 0)),
					    (uint8_t)(0xc0 | (n >> 8 & 63)), (uint8_t)n };
		const uint8_t shufps[] = { 0x0f, 0xc6, (uint8_t)(0xc0 | (n >> 8 & 63)), (uint8_t)n };
		struct interp_insn i;

		assert_true(n & 0x4000 ? decode(shufps, sizeof(shufps), &i, &zi, zo)
				       : decode(shuffle, sizeof(shuffle), &i, &zi, zo));
		assert_true(w.interp.vector->used <= VECTOR_CODE_SIZE);
	}
	assert_int_not_equal(w.interp.vector->generation, generation);
	w.cpu->gpr[X86_RCX] = 0x1122334455667788;
	assert_int_equal(FAKE_CATCH(w.f, exec(&first)), 0);
	assert_int_equal(guest_load64(w.cpu->fpu.area + 32), 0x1122334455667788);
	assert_int_equal(first.imm2, w.interp.vector->generation);
}

/* XSAVEOPT and XSAVEC leave out what is in its initial state. */
static void test_init_optimization(void **state)
{
	static const uint8_t xsaveopt[] = { 0x48, 0x0f, 0xae, 0x33 }, xsavec[] = { 0x48, 0x0f, 0xc7, 0x23 };
	struct x86_cpu *cpu = w.cpu;

	(void)state;
	enter_long_mode();
	x86_fpu_reset(cpu);
	memset(w.data, 0xee, DATA_SIZE);
	memset(w.data + 512, 0, 64);
	guest_store64(w.data + 512, BIT64(62) | 4);
	cpu->gpr[X86_RBX] = DATA_GVA;
	cpu->gpr[X86_RAX] = 7;
	cpu->gpr[X86_RDX] = 0;
	EXPECT(-1, xsaveopt);
	assert_int_equal(guest_load64(w.data + 512), BIT64(62)); /* bits not asked for stay */
	assert_int_equal(guest_load32(w.data + 24), 0x1f80);
	assert_int_equal(guest_load64(w.data), 0xeeeeeeeeeeeeeeee);
	assert_int_equal(guest_load64(w.data + 160), 0xeeeeeeeeeeeeeeee);
	guest_store32(cpu->fpu.area + 24, 0x3f80); /* that makes SSE in use, for XSAVEC only */
	EXPECT(-1, xsavec);
	assert_int_equal(guest_load64(w.data + 512), 2);
	assert_int_equal(guest_load64(w.data + 520), BIT64(63) | 7);
	assert_int_equal(guest_load64(w.data + 160), 0);
	assert_int_equal(guest_load64(w.data), 0xeeeeeeeeeeeeeeee);
	x86_fpu_reset(cpu);
}

static void test_pkru(void **state)
{
	static const uint8_t xsave[] = { 0x48, 0x0f, 0xae, 0x23 }, xrstor[] = { 0x48, 0x0f, 0xae, 0x2b };
	struct x86_cpu *cpu = w.cpu;
	uint32_t offset, size;

	(void)state;
	enter_long_mode();
	x86_fpu_reset(cpu);
	assert_true(x86_fpu_component(9, &offset, &size));
	memset(w.data, 0, DATA_SIZE);
	cpu->gpr[X86_RBX] = DATA_GVA;
	cpu->gpr[X86_RAX] = 0x200;
	cpu->gpr[X86_RDX] = 0;
	cpu->pkru = 0x55555550;
	EXPECT(-1, xsave);
	assert_int_equal(guest_load64(w.data + 512), 0x200);
	assert_int_equal(guest_load64(w.data + offset), 0x55555550);
	cpu->pkru = 0x10;
	EXPECT(-1, xrstor);
	assert_int_equal(cpu->pkru, 0x55555550);
	guest_store64(w.data + 512, 0);
	EXPECT(-1, xrstor);
	assert_int_equal(cpu->pkru, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_images),
		cmocka_unit_test(test_control_bits),
		cmocka_unit_test(test_missing_features),
		cmocka_unit_test(test_pending_x87),
		cmocka_unit_test(test_device_memory),
		cmocka_unit_test(test_device_gather),
		cmocka_unit_test(test_other_modes),
		cmocka_unit_test(test_cache_overflow),
		cmocka_unit_test(test_init_optimization),
		cmocka_unit_test(test_pkru),
	};

	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
