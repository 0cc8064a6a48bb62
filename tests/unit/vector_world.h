/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the vector/x87 group share: a vCPU with its stub cache, two pages of memory at the same
 * address for guest and host, random state, and running an instruction. Header only; one thread.
 */
#ifndef TZ_TESTS_VECTOR_WORLD_H
#define TZ_TESTS_VECTOR_WORLD_H

#include "fakecpu.h"

#include <stdio.h>

#include "interp/vector.h"
#include "vector_native.h"

#define DATA_GVA UINT64_C(0x200000000000) /* two pages of memory, nothing after them; no sanitizer shadow */
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

static inline uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline unsigned rng_below(unsigned n)
{
	return (unsigned)((rng() >> 32) % n);
}

/* ---- the two ways to run ---- */

static inline void enter_long_mode(void)
{
	fake_long_mode(w.f);
	fake_map(w.f, DATA_GVA, DATA_GPA, 0x67);
	fake_map(w.f, DATA_GVA + 4096, DATA_GPA + 4096, 0x67);
	w.cpu->xcr0 = x86_fpu_supported_xcr0();
	x86_tlb_flush_all(w.cpu);
}

static inline int world_setup(void **state)
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

static inline int world_teardown(void **state)
{
	(void)state;
	interp_vector_destroy(w.interp.vector);
	munmap(w.data, DATA_SIZE);
	fake_destroy(w.f);
	return 0;
}

static inline bool decode(const uint8_t *bytes, unsigned n, struct interp_insn *i, ZydisDecodedInstruction *zi,
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

static inline void exec(const struct interp_insn *i)
{
	i->exec(w.cpu, i);
	x86_fpu_put(w.cpu);
	x86_io_finish(w.cpu);
}

/* Runs raw bytes in the current mode; -1 or the vector raised, -2 for another unwind. */
static inline int run_bytes(const uint8_t *bytes, unsigned n)
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

static inline void emulate(struct machine_state *s, const struct interp_insn *i)
{
	struct x86_cpu *cpu = w.cpu;
	int r;

	memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
	cpu->rflags = s->flags | 2;
	cpu->rip = native_rip_of_insn();
	assert_int_equal(x86_fpu_set_image(cpu, s->area), 0);
	x86_fpu_load(cpu);
	vector_rest(cpu);
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

static inline uint64_t random_element(void)
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

static inline void random_x87(uint8_t *area)
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

static inline void random_area(uint8_t *area)
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

static inline bool same_state(const struct machine_state *a, const struct machine_state *b)
{
	if (a->vector != b->vector)
		return false;
	if (a->vector == X86_PF_EXC && a->cr2 != b->cr2)
		return false;
	return a->flags == b->flags && !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && !memcmp(a->area, b->area, 2696) &&
	       !memcmp(w.after, w.data, DATA_SIZE);
}

static inline void print_difference(const uint8_t *bytes, const ZydisDecodedInstruction *zi,
				    const ZydisDecodedOperand *zo, const struct machine_state *in,
				    const struct machine_state *hw, const struct machine_state *emu)
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

#endif
