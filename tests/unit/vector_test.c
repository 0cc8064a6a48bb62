/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector/x87 group against this CPU: random instructions with random state run natively and
 * through interp_bind_vector(); registers, flags, memory and exceptions must agree. Then what a
 * user program can not show: control bits, XSAVE images, device memory, other modes.
 *
 * VECTOR_TEST_COUNT and VECTOR_TEST_SEED in the environment make it longer or different.
 */
#include "fakecpu.h"

#include <stdio.h>
#include <time.h>

#include "interp/vector.h"
#include "vector_native.h"

#define DATA_GVA UINT64_C(0x10000000000) /* 1 TiB: two pages of memory, nothing after them */
#define DATA_GPA UINT64_C(0x40000000)
#define DATA_SIZE 8192u
#define SCRATCH (DATA_GVA + 0x100)

struct world {
	struct fake *f;
	struct x86_cpu *cpu;
	struct interp interp;
	uint8_t *data;
	uint8_t before[DATA_SIZE], after[DATA_SIZE];
};
static struct world w;
static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned rng_below(unsigned n)
{
	return (unsigned)((rng() >> 32) % n);
}

/* ---- the two ways to run ---- */

static void enter_long_mode(void)
{
	fake_long_mode(w.f);
	fake_map(w.f, DATA_GVA, DATA_GPA, 0x67);
	fake_map(w.f, DATA_GVA + 4096, DATA_GPA + 4096, 0x67);
	w.cpu->xcr0 = x86_fpu_supported_xcr0();
	x86_tlb_flush_all(w.cpu);
}

static int setup(void **state)
{
	static const ZydisMachineMode modes[INTERP_MODE_COUNT] = { ZYDIS_MACHINE_MODE_REAL_16,
								   ZYDIS_MACHINE_MODE_LEGACY_16,
								   ZYDIS_MACHINE_MODE_LEGACY_32,
								   ZYDIS_MACHINE_MODE_LONG_64 };
	static const ZydisStackWidth widths[INTERP_MODE_COUNT] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_16,
								   ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64 };

	(void)state;
	w.f = fake_create(4 << 20);
	w.cpu = &w.f->cpu;
	w.data = mmap((void *)DATA_GVA, DATA_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(w.data, (void *)DATA_GVA);
	fake_slot(w.f, 1, 0, DATA_GPA, DATA_SIZE, w.data);
	for (unsigned m = 0; m < INTERP_MODE_COUNT; m++)
		assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&w.interp.decoder[m], modes[m], widths[m])));
	w.interp.vector = interp_vector_create();
	assert_non_null(w.interp.vector);
	w.cpu->engine_data = &w.interp;
	x86_fpu_reset(w.cpu);
	native_setup();
	enter_long_mode();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	interp_vector_destroy(w.interp.vector);
	munmap(w.data, DATA_SIZE);
	fake_destroy(w.f);
	return 0;
}

static bool decode(const uint8_t *bytes, unsigned n, struct interp_insn *i, ZydisDecodedInstruction *zi,
		   ZydisDecodedOperand *zo)
{
	memset(i, 0, sizeof(*i));
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w.interp.decoder[interp_mode_of(w.cpu)], bytes, n, zi, zo)))
		return false;
	i->len = zi->length;
	i->mnemonic = (uint16_t)zi->mnemonic;
	memcpy(i->raw, bytes, zi->length);
	return interp_bind_vector(w.cpu, i, zi, zo);
}

static void exec(const struct interp_insn *i)
{
	i->exec(w.cpu, i);
	x86_fpu_put(w.cpu);
	x86_io_finish(w.cpu);
}

/* Runs raw bytes in the current mode; -1 or the vector raised, -2 for another unwind. */
static int run_bytes(const uint8_t *bytes, unsigned n)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	struct interp_insn i;
	int r;

	assert_true(decode(bytes, n, &i, &zi, zo));
	assert_int_equal(zi.length, n);
	x86_io_rewind(w.cpu);
	r = FAKE_CATCH(w.f, exec(&i));
	x86_fpu_put(w.cpu);
	return r == 0 ? -1 : r == X86_UNWIND_EVENT ? w.cpu->ev.exc_vector : -2;
}
#define RUN(...) run_bytes((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void emulate(struct machine_state *s, const struct interp_insn *i)
{
	struct x86_cpu *cpu = w.cpu;
	int r;

	memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
	cpu->rflags = s->flags | 2;
	cpu->rip = native_rip_of_insn();
	assert_int_equal(x86_fpu_set_image(cpu, s->area), 0);
	x86_fpu_load(cpu); /* the processor decides what is in its initial state */
	x86_io_rewind(cpu);
	r = FAKE_CATCH(w.f, exec(i));
	x86_fpu_get_image(cpu, s->area);
	x86_fpu_put(cpu);
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->flags = cpu->rflags & X86_ARITH_FLAGS;
	s->vector = r == 0 ? -1 : r == X86_UNWIND_EVENT ? cpu->ev.exc_vector : -2;
	s->error = cpu->ev.exc_error;
	s->cr2 = cpu->ev.exc_cr2;
	if (r == 0)
		assert_int_equal(cpu->rip, native_rip_of_insn() + i->len);
	else
		assert_int_equal(cpu->rip, native_rip_of_insn());
}

/* ---- random state ---- */

static uint64_t random_element(void)
{
	static const uint64_t interesting[] = {
		0,
		1,
		0x8000000000000000,
		0x7ff0000000000000,
		0xfff8000000000001,
		0x000fffffffffffff,
		0x3ff00000,
		0x3f8000003f800000,
		0x7f8000007f800001,
		0x0000000100000001,
		0xffffffffffffffff,
		0x4330000000000000,
		0x7fefffffffffffff,
		0x0010000000000000,
		0x7f7fffff00800000,
		0x3ff0000000000000,
	};

	switch (rng_below(4)) {
	case 0: return interesting[rng_below(ARRAY_SIZE(interesting))];
	case 1: return (rng() & 0x3f0000003f) | (rng() & 1 ? 0 : 0x8000000080000000 & rng());
	case 2: return (rng() & 0x83ffffff83ffffff) | 0x3c0000003c000000;
	default: return rng();
	}
}

static void random_x87(uint8_t *area)
{
	uint16_t fcw = 0x37f, fsw = (uint16_t)(rng_below(8) << 11);

	if (!rng_below(3))
		fcw = (uint16_t)(0x40 | (rng() & 0xf3f));
	memcpy(area, &fcw, 2);
	memcpy(area + 2, &fsw, 2);
	area[4] = rng_below(4) ? 0xff : (uint8_t)rng();
	for (unsigned n = 0; n < 8; n++) {
		uint64_t m = rng_below(3) ? rng() | BIT64(63) : random_element();
		uint16_t e = (uint16_t)(rng_below(3) ? 0x3fff - 40 + rng_below(80) : rng());

		memcpy(area + 32 + n * 16, &m, 8);
		memcpy(area + 32 + n * 16 + 8, &e, 2);
	}
}

static void random_area(uint8_t *area)
{
	uint32_t mxcsr = 0x1f80, offset, size;
	uint64_t bv = native_mask;

	memset(area, 0, X86_XSAVE_AREA);
	random_x87(area);
	if (!rng_below(2))
		mxcsr |= (uint32_t)rng() & 0xe040;
	if (!rng_below(4))
		mxcsr = (mxcsr & ~0x1f80u) | ((uint32_t)rng() & 0x1f80);
	if (!rng_below(4))
		mxcsr |= (uint32_t)rng() & 0x3f & (mxcsr >> 7);
	memcpy(area + 24, &mxcsr, 4);
	for (unsigned n = 1; n < 8; n++) {
		if (!(bv & BIT64(n)) || !x86_fpu_component(n, &offset, &size))
			continue;
		for (unsigned at = 0; at < size; at += 8) {
			uint64_t v = random_element();

			memcpy(area + offset + at, &v, 8);
		}
	}
	memcpy(area + 512, &bv, 8);
}

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

static bool same_state(const struct machine_state *a, const struct machine_state *b)
{
	if (a->vector != b->vector)
		return false;
	if (a->vector == X86_PF_EXC && a->cr2 != b->cr2)
		return false;
	return a->flags == b->flags && !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && !memcmp(a->area, b->area, 2696) &&
	       !memcmp(w.after, w.data, DATA_SIZE);
}

static void print_difference(const uint8_t *bytes, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
			     const struct machine_state *in, const struct machine_state *hw,
			     const struct machine_state *emu)
{
	ZydisFormatter formatter;
	char text[128];

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&formatter, zi, zo, zi->operand_count_visible, text, sizeof(text), 0, NULL);
	print_error("%s [", text);
	for (unsigned n = 0; n < zi->length; n++)
		print_error("%02x", bytes[n]);
	print_error("] set %s: exception %d (hardware) %d (here), cr2 %lx %lx, flags %lx %lx, mxcsr in %x\n",
		    ZydisISASetGetString(zi->meta.isa_set), hw->vector, emu->vector, hw->cr2, emu->cr2, hw->flags,
		    emu->flags, guest_load32(in->area + 24));
	for (unsigned n = 0; n < 16; n++)
		if (hw->gpr[n] != emu->gpr[n])
			print_error("  gpr %u: %016lx %016lx\n", n, hw->gpr[n], emu->gpr[n]);
	for (unsigned n = 0, shown = 0; n < 2696 && shown < 6; n += 8)
		if (guest_load64(hw->area + n) != guest_load64(emu->area + n) && ++shown)
			print_error("  area %u: in %016lx, %016lx %016lx\n", n, guest_load64(in->area + n),
				    guest_load64(hw->area + n), guest_load64(emu->area + n));
	for (unsigned n = 0, shown = 0; n < DATA_SIZE && shown < 6; n++)
		if (w.after[n] != w.data[n] && ++shown)
			print_error("  memory %x: %02x -> %02x %02x\n", n, w.before[n], w.after[n], w.data[n]);
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
		cmocka_unit_test(test_random),         cmocka_unit_test(test_images),
		cmocka_unit_test(test_control_bits),   cmocka_unit_test(test_missing_features),
		cmocka_unit_test(test_pending_x87),    cmocka_unit_test(test_device_memory),
		cmocka_unit_test(test_device_gather),  cmocka_unit_test(test_other_modes),
		cmocka_unit_test(test_cache_overflow), cmocka_unit_test(test_init_optimization),
		cmocka_unit_test(test_pkru),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
