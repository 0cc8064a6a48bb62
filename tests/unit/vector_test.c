/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector/x87 group against this CPU: random instructions with random state run natively and
 * through interp_bind_vector(); registers, flags, memory and exceptions must agree.
 *
 * VECTOR_TEST_COUNT and VECTOR_TEST_SEED in the environment make it longer or different.
 */
#include "vector_world.h"

/* Somewhere that is aligned, or not, or runs into the next page, or out of memory. */
static uint64_t random_target(unsigned size)
{
	switch (rng_below(8)) {
	case 0: return DATA_GVA + 4096 - rng_below(size + 1);
	case 1: return DATA_GVA + 8192 - rng_below(size + 1);
	case 2: return DATA_GVA + 8192 - size;
	case 3: return DATA_GVA + 4096 - size;
	case 4: return DATA_GVA + 256 + rng_below(2048);
	default: return DATA_GVA + 256 + rng_below(48) * 64;
	}
}

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &zo[n];
	return NULL;
}

/* Small indices, as doublewords or quadwords, so that a gather reaches memory. */
static void small_indices(struct machine_state *s, unsigned reg)
{
	bool quads = rng_below(2);
	uint32_t offset = 0, size;

	for (unsigned n = 0; n < 16; n++) {
		uint32_t v = quads && (n & 1) ? 0 : rng_below(40) - 4u;
		unsigned at;

		if (reg >= 16)
			at = x86_fpu_component(7, &offset, &size) ? offset + (reg - 16) * 64 + n * 4 : 0;
		else if (n < 4)
			at = 160 + reg * 16 + n * 4;
		else if (n < 8)
			at = x86_fpu_component(2, &offset, &size) ? offset + reg * 16 + (n - 4) * 4 : 0;
		else
			at = x86_fpu_component(6, &offset, &size) ? offset + reg * 32 + (n - 8) * 4 : 0;
		if (at)
			memcpy(s->area + at, &v, 4);
	}
}

/* Make the memory operand reach the data pages. False: can not (no base register, and so on). */
static bool aim(struct machine_state *s, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *mem)
{
	const ZydisDecodedOperandMem *m = &mem->mem;
	uint64_t target = random_target(mem->size / 8 ? mem->size / 8 : 1), index = 0;
	unsigned base;

	if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS || zi->address_width != 64)
		return false;
	if (ZydisRegisterGetClass(m->base) != ZYDIS_REGCLASS_GPR64)
		return false;
	base = vector_reg_number(m->base);
	if (m->type == ZYDIS_MEMOP_TYPE_VSIB) {
		small_indices(s, vector_reg_number(m->index));
	} else if (m->index != ZYDIS_REGISTER_NONE) {
		if (m->index == m->base)
			return false;
		s->gpr[vector_reg_number(m->index)] = rng_below(16);
		index = s->gpr[vector_reg_number(m->index)] * m->scale;
	}
	s->gpr[base] = target - index - (uint64_t)m->disp.value;
	return true;
}

/* ---- random instructions ---- */

static unsigned random_operand_bytes(uint8_t *p)
{
	unsigned n = 0, modrm = (unsigned)rng() & 0xff;

	if (rng_below(3))
		modrm &= 0x3f; /* memory */
	if ((modrm & 0xc7) == 5)
		modrm ^= 2;
	p[n++] = (uint8_t)modrm;
	for (unsigned k = 0; k < 6; k++)
		p[n++] = (uint8_t)(rng_below(2) ? rng_below(16) : rng());
	return n;
}

static unsigned random_legacy(uint8_t *p)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3 };
	unsigned n = 0, map = rng_below(6);

	if (map >= 4) { /* x87 */
		p[n++] = (uint8_t)(0xd8 + rng_below(8));
		return n + random_operand_bytes(p + n);
	}
	if (rng_below(4))
		p[n++] = prefixes[rng_below(3)];
	if (!rng_below(6))
		p[n++] = prefixes[rng_below(3)];
	if (rng_below(2))
		p[n++] = (uint8_t)(0x40 | (rng() & 15));
	p[n++] = 0x0f;
	if (map == 2)
		p[n++] = 0x38;
	if (map == 3)
		p[n++] = 0x3a;
	p[n++] = (uint8_t)rng();
	return n + random_operand_bytes(p + n);
}

static unsigned random_vex(uint8_t *p)
{
	unsigned n = 0;

	if (!rng_below(4)) {
		p[n++] = 0xc5;
		p[n++] = (uint8_t)rng();
	} else {
		p[n++] = 0xc4;
		p[n++] = (uint8_t)((rng() & 0xe0) | (1 + rng_below(3)));
		p[n++] = (uint8_t)rng();
	}
	if (rng_below(2))
		p[n - 1] |= 0x78;
	p[n++] = (uint8_t)rng();
	return n + random_operand_bytes(p + n);
}

static unsigned random_evex(uint8_t *p)
{
	unsigned n = 0;

	p[n++] = 0x62;
	p[n++] = (uint8_t)((rng() & 0xf0) | (1 + rng_below(3)));
	p[n++] = (uint8_t)(rng() | 4 | (rng_below(3) ? 0 : 0x78));
	p[n++] = (uint8_t)rng();
	if (rng_below(3))
		p[n - 1] |= 0x08;
	if (rng_below(2))
		p[n - 1] &= 0x7f;
	p[n++] = (uint8_t)rng();
	return n + random_operand_bytes(p + n);
}

static bool is_excluded(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNSTENV: /* pointers of the host's */
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return true;
	default: return false;
	}
}

static bool is_sha(ZydisMnemonic m)
{
	return m >= ZYDIS_MNEMONIC_SHA1MSG1 && m <= ZYDIS_MNEMONIC_SHA256RNDS2;
}

/*
 * Where processors differ from the manuals or from each other: alignment of the SHA instructions' operands
 * (AMD's do not check), whether a faulting MMX instruction has made the transition to MMX state (SDM 1 9.5.1
 * does not say), and whether and where masked-off bytes of a byte store fault (SDM 2, MASKMOVDQU). Where we know to
 * differ: whether an unmasked overflow or underflow is inexact as well, which would take its result with an unbounded
 * exponent.
 */
static bool is_unspecified(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, struct machine_state *hw,
			   struct machine_state *emu)
{
	bool mmx = false;

	if (is_sha(zi->mnemonic) && emu->vector == X86_GP)
		return true;
	for (unsigned n = 0; n < zi->operand_count; n++)
		mmx |= zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       ZydisRegisterGetClass(zo[n].reg.value) == ZYDIS_REGCLASS_MMX;
	if (mmx && hw->vector >= 0) {
		memset(hw->area, 0, 24);
		memset(hw->area + 32, 0, 128);
		memset(emu->area, 0, 24);
		memset(emu->area + 32, 0, 128);
	}
	if (hw->vector == X86_XM && (hw->area[24] & 0x18)) {
		hw->area[24] &= 0xdf;
		emu->area[24] &= 0xdf;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_DPPS:
	case ZYDIS_MNEMONIC_DPPD:
	case ZYDIS_MNEMONIC_VDPPS:
	case ZYDIS_MNEMONIC_VDPPD:
		if (hw->vector == X86_XM)
			hw->area[24] = emu->area[24] = 0;
		break;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU: hw->cr2 = emu->cr2 = 0; return hw->vector == X86_PF_EXC && emu->vector == -1;
	default: break;
	}
	return false;
}

/* 0: not a case, 1: same, -1: different */
static int compare_one(const uint8_t *bytes, unsigned n)
{
	static struct machine_state in, hw, emu;
	const ZydisDecodedOperand *mem;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	struct interp_insn i;

	if (!decode(bytes, n, &i, &zi, zo) || i.exec == vector_exec_ud || is_excluded(zi.mnemonic))
		return 0;
	for (unsigned k = 0; k < 16; k++)
		in.gpr[k] = random_element();
	in.flags = rng() & X86_ARITH_FLAGS;
	random_area(in.area);
	mem = memory_operand(&zi, zo);
	if (mem && !aim(&in, &zi, mem))
		return 0;
	for (unsigned k = 0; k < DATA_SIZE; k += 8)
		guest_store64(w.before + k, random_element());
	memcpy(w.data, w.before, DATA_SIZE);
	hw = in;
	native_run(&hw, bytes, zi.length);
	memcpy(w.after, w.data, DATA_SIZE);
	memcpy(w.data, w.before, DATA_SIZE);
	emu = in;
	if (hw.vector == X86_UD)
		emu.vector = -3; /* would be SIGILL in the library */
	else
		emulate(&emu, &i);
	native_normalize(hw.area);
	native_normalize(emu.area);
	if (is_unspecified(&zi, zo, &hw, &emu) || same_state(&hw, &emu))
		return 1;
	print_difference(bytes, &zi, zo, &in, &hw, &emu);
	return -1;
}

static unsigned env_number(const char *name, unsigned otherwise)
{
	const char *s = getenv(name);

	return s ? (unsigned)strtoul(s, NULL, 0) : otherwise;
}

static void test_random(void **state)
{
	unsigned count = env_number("VECTOR_TEST_COUNT", 200000), done = 0, failed = 0;
	uint8_t bytes[24];

	(void)state;
	native_catch();
	rng_state ^= env_number("VECTOR_TEST_SEED", 1) * UINT64_C(0x9e3779b97f4a7c15);
	for (unsigned tried = 0; tried < count; tried++) {
		int r;
		unsigned kind = rng_below(7);
		unsigned n = kind < 2 ? random_legacy(bytes) : kind < 4 ? random_vex(bytes) : random_evex(bytes);

		r = compare_one(bytes, n > 15 ? 15 : n);
		done += r != 0;
		failed += r < 0;
		if (failed > env_number("VECTOR_TEST_ERRORS", 20))
			break;
	}
	print_message("%u random instructions compared\n", done);
	assert_int_equal(failed, 0);
	assert_true(done > count / 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
