/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathers and scatters: the translator against the interpreter, with elements in the TLB and not, across page ends,
 * off, on top of each other, beyond what is mapped. That they are translated at all: interp is not called where all is
 * in the TLB.
 */
#include "fakecpu.h"

#include "core/engine.h"
#include "interp/engine.h"
#include "interp/vector.h"
#include "translate/engine.h"

#define DATA 0x30000u /* GPA of three pages */
#define DATA_SIZE 0x3000u
#define DATA_GVA UINT64_C(0x8000400000) /* there in another order, nothing around them */
#define NOWHERE (DATA_GVA + 0x100000)
#define CASES 6000
#define IMAGE 2696u /* of the XSAVE image: what can change */

struct world {
	const struct tz_engine_ops *engine;
	struct fake *f;
};

/* A case's input, and what becomes of it. */
struct state {
	uint64_t gpr[16], rip, rflags;
	enum x86_exit exit;
	uint8_t area[IMAGE], data[DATA_SIZE];
};

static uint64_t seed = 0x13198a2e03707344;
static uint64_t components;

static uint64_t rnd(void)
{
	return fake_random(&seed);
}

static void begin(struct world *w, const struct tz_engine_ops *engine)
{
	w->engine = engine;
	w->f = fake_create(1 << 20);
	fake_long_mode(w->f);
	for (unsigned n = 0; n < 3; n++)
		fake_map(w->f, DATA_GVA + n * TZ_PAGE_SIZE, DATA + (2 - n) * TZ_PAGE_SIZE, 7);
	w->f->cpu.idtr.limit = 0;
	w->f->cpu.xcr0 = x86_fpu_supported_xcr0();
	assert_int_equal(engine->vcpu_create(&w->f->cpu), 0);
}

static void end(struct world *w)
{
	w->engine->vcpu_destroy(&w->f->cpu);
	fake_destroy(w->f);
}

static void run(struct world *w, const struct state *in, struct state *out)
{
	struct x86_cpu *cpu = &w->f->cpu;

	x86_fpu_put(cpu);
	memcpy(cpu->fpu.area, in->area, IMAGE);
	memcpy(cpu->gpr, in->gpr, sizeof(in->gpr));
	memcpy(w->f->ram + DATA, in->data, DATA_SIZE);
	cpu->rip = in->rip;
	cpu->rflags = in->rflags;
	out->exit = w->engine->run(cpu, false);
	x86_fpu_put(cpu);
	memcpy(out->area, cpu->fpu.area, IMAGE);
	memcpy(out->gpr, cpu->gpr, sizeof(out->gpr));
	memcpy(out->data, w->f->ram + DATA, DATA_SIZE);
	out->rip = cpu->rip;
	out->rflags = cpu->rflags;

	/* After a triple fault: begin anew. */
	memset(&cpu->ev, 0, sizeof(cpu->ev));
}

/* ---- an instruction, and registers that make sense to it ---- */

struct form {
	bool evex, scatter, quad_index, quad, wide; /* wide: 64-bit addresses */
	unsigned length, reg, index, mask, base, scale, seg, count;
	int32_t disp;
};

static void random_form(struct form *f, bool avx512)
{
	static const uint8_t bases[] = {
		X86_RAX, X86_RCX, X86_RBX, X86_RBP, X86_RSP, X86_R10, X86_R11, X86_R14, X86_R15
	};
	unsigned regs;

	f->evex = avx512 && rnd() & 1;
	f->scatter = f->evex && rnd() & 1;
	f->quad_index = rnd() & 1;
	f->quad = rnd() & 1;
	f->wide = rnd() % 8 != 0;
	f->length = 16u << rnd() % (f->evex ? 3 : 2);
	regs = f->evex ? 32 : 16;
	f->reg = rnd() % regs;
	f->index = (f->reg + 1 + rnd() % (regs - 2)) % regs;
	f->mask = f->evex ? 1 + rnd() % 7 : rnd() % regs;
	while (!f->evex && (f->mask == f->reg || f->mask == f->index))
		f->mask = rnd() % regs;
	f->base = bases[rnd() % ARRAY_SIZE(bases)];
	f->scale = rnd() % 4;
	f->seg = (unsigned[]){ X86_DS, X86_DS, X86_FS, X86_GS }[rnd() % 4];
	f->count = f->length / (f->quad_index || f->quad ? 8 : 4);
	f->disp = (int32_t)(rnd() % 0x20000) - 0x10000;
}

/* Behind MOVAPS XMM0, XMM0 and CMP EAX, ECX; then HLT. SDM 2 2.3.5, 2.7.1; 2C VPGATHERDD, VPSCATTERDD. */
static unsigned put_form(const struct form *f, uint8_t *p)
{
	unsigned n = 0, l = f->length == 64 ? 2 : f->length == 32 ? 1 : 0;
	unsigned r = f->reg & 8 ? 0 : 0x80, x = f->index & 8 ? 0 : 0x40, b = f->base & 8 ? 0 : 0x20;

	memcpy(p, (const uint8_t[]){ 0x0f, 0x28, 0xc0, 0x39, 0xc8 }, 5);
	n = 5;
	if (f->seg >= X86_FS)
		p[n++] = f->seg == X86_FS ? 0x64 : 0x65;
	if (!f->wide)
		p[n++] = 0x67;
	if (f->evex) {
		p[n++] = 0x62;
		p[n++] = (uint8_t)(r | x | b | (f->reg & 16 ? 0 : 0x10) | 2);
		p[n++] = (uint8_t)(f->quad << 7 | 0x7d);
		p[n++] = (uint8_t)(l << 5 | (f->index & 16 ? 0 : 8) | f->mask);
	} else {
		p[n++] = 0xc4;
		p[n++] = (uint8_t)(r | x | b | 2);
		p[n++] = (uint8_t)(f->quad << 7 | (~f->mask & 15) << 3 | l << 2 | 1);
	}
	p[n++] = (uint8_t)((f->scatter ? 0xa0 : 0x90) | f->quad_index | (rnd() & 2));
	p[n++] = (uint8_t)(0x80 | (f->reg & 7) << 3 | 4);
	p[n++] = (uint8_t)(f->scale << 6 | (f->index & 7) << 3 | (f->base & 7));
	guest_store32(p + n, (uint32_t)f->disp);
	n += 4;
	p[n++] = 0xf4;
	return n;
}

/* Where 16 bytes of a vector register are in the image. */
static uint8_t *vector_part(struct state *s, unsigned reg, unsigned part)
{
	uint32_t offset, size;

	if (reg >= 16) {
		x86_fpu_component(7, &offset, &size);
		return s->area + offset + (reg - 16) * 64 + part * 16;
	}
	if (!part)
		return s->area + 160 + reg * 16;
	x86_fpu_component(part == 1 ? 2 : 6, &offset, &size);
	return s->area + offset + (part == 1 ? reg * 16 : reg * 32 + (part - 2) * 16);
}

static void set_element(struct state *s, unsigned reg, unsigned n, bool quad, uint64_t v)
{
	unsigned at = n * (quad ? 8 : 4);

	if (quad)
		guest_store64(vector_part(s, reg, at / 16) + at % 16, v);
	else
		guest_store32(vector_part(s, reg, at / 16) + at % 16, (uint32_t)v);
}

/* An address for an element: mostly in three pages, at times at an end of one, seldom nowhere. */
static uint64_t random_address(bool wide, bool tame)
{
	uint64_t start = wide ? DATA_GVA : DATA, a = start + rnd() % (DATA_SIZE - 8);

	if (tame)
		return start + 8 + rnd() % (TZ_PAGE_SIZE - 16); /* the scale rounds it down */
	if (rnd() % 8 == 0)
		a = start + TZ_PAGE_SIZE * (1 + rnd() % 2) - rnd() % 8;
	if (rnd() % 32 == 0)
		a = NOWHERE + rnd() % 64;
	return a;
}

/*
 * Registers with which the elements are at such addresses, as far as the scale has it: the base is chosen, so that some
 * index leads to each. tame: all in one page.
 */
static void random_state(struct world *w, const struct form *f, bool tame, struct state *s)
{
	uint64_t seg = f->seg >= X86_FS ? w->f->cpu.seg[f->seg].base : 0;
	uint32_t offset, size;

	for (unsigned k = 0; k < IMAGE; k += 8)
		guest_store64(s->area + k, rnd());
	memset(s->area, 0, 160);
	memset(s->area + 416, 0, 160);
	guest_store16(s->area, 0x37f);
	guest_store32(s->area + 24, 0x1f80);
	guest_store64(s->area + 512, components);
	for (unsigned k = 0; k < DATA_SIZE; k++)
		s->data[k] = (uint8_t)rnd();
	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = rnd();
	s->gpr[f->base] = (f->wide ? DATA_GVA + rnd() % 0x80000 : (rnd() << 32) + rnd() % 0x80000) - 0x20000;
	if (!f->wide)
		s->gpr[f->base] &= ~UINT64_C(0x80000000);
	for (unsigned n = 0; n < f->count; n++) {
		uint64_t base = s->gpr[f->base] + (uint64_t)(int64_t)f->disp;
		uint64_t index = random_address(f->wide, tame) - seg - (f->wide ? base : (uint32_t)base);

		set_element(s, f->index, n, f->quad_index, (uint64_t)((int64_t)index >> f->scale));
	}
	if (f->evex) {
		x86_fpu_component(5, &offset, &size);
		guest_store64(s->area + offset + f->mask * 8, rnd() % 4 ? rnd() : UINT64_MAX);
	}
	s->rip = FAKE_CODE;
	s->rflags = X86_FIXED1 | (rnd() & X86_ARITH_FLAGS);
	s->exit = 0;
}

static void report(const struct form *f, const uint8_t *code, unsigned n, const struct state *a, const struct state *b)
{
	for (unsigned k = 0; k < n; k++)
		print_error("%02x", code[k]);
	print_error(" count %u, exit %d %d rip %lx %lx flags %lx %lx\n", f->count, a->exit, b->exit,
		    (unsigned long)a->rip, (unsigned long)b->rip, (unsigned long)a->rflags, (unsigned long)b->rflags);
	for (unsigned k = 0; k < 16; k++)
		if (a->gpr[k] != b->gpr[k])
			print_error("r%u %lx %lx\n", k, (unsigned long)a->gpr[k], (unsigned long)b->gpr[k]);
	for (unsigned k = 0; k < IMAGE; k++)
		if (a->area[k] != b->area[k])
			print_error("area %u: %02x %02x\n", k, a->area[k], b->area[k]);
	for (unsigned k = 0; k < DATA_SIZE; k++)
		if (a->data[k] != b->data[k])
			print_error("data %x: %02x %02x\n", k, a->data[k], b->data[k]);
}

static bool is_supported(bool *avx512)
{
	struct interp_vector *v = interp_vector_create();
	bool avx2;

	assert_non_null(v);
	components = x86_fpu_supported_xcr0() & 0xe7;
	avx2 = (v->host_features[X86_FEAT_AVX2 / 32] & BIT32(X86_FEAT_AVX2 % 32)) && (components & 4);
	*avx512 = (v->host_features[X86_FEAT_AVX512VL / 32] & BIT32(X86_FEAT_AVX512VL % 32)) &&
		  (components & 0xe0) == 0xe0;
	interp_vector_destroy(v);
	return avx2;
}

static void one_case(struct world *interp, struct world *translate, bool avx512, bool tame)
{
	static struct state in, expected, out;
	struct form form;
	uint8_t code[32];
	uint64_t before, moved = rnd() % 256;
	unsigned n;

	random_form(&form, avx512);
	n = put_form(&form, code);
	for (unsigned k = 0; k < 2; k++) {
		struct fake *f = k ? translate->f : interp->f;

		f->cpu.seg[X86_FS].base = 0x1000 + moved;
		f->cpu.seg[X86_GS].base = 0x2000 + moved;
		memcpy(f->ram + FAKE_CODE, code, n);
		k ? translate->engine->invalidate(&f->cpu) : interp->engine->invalidate(&f->cpu);
		if (rnd() % 2)
			x86_tlb_flush_all(&f->cpu);
	}
	random_state(interp, &form, tame, &in);
	run(interp, &in, &expected);
	/* Translated, found in the TLB or not; then all that is mapped is there. */
	for (unsigned round = 0; round < 2; round++) {
		before = translate->f->stat[STAT_TRANSLATE_INTERP];
		run(translate, &in, &out);
		if (memcmp(&out, &expected, sizeof(out))) {
			report(&form, code, n, &expected, &out);
			fail();
		}
		/* HLT is interp's. */
		if (round && tame)
			assert_int_equal(translate->f->stat[STAT_TRANSLATE_INTERP], before + 1);
	}
}

static void test_random(void **state)
{
	struct world interp, translate;
	bool avx512;

	(void)state;
	if (!is_supported(&avx512)) {
		print_message("this host has no AVX2\n");
		skip();
	}
#ifdef __SANITIZE_ADDRESS__
	print_message("with ASan vector instructions are interp's\n");
	skip();
#endif
	begin(&interp, &interp_engine);
	begin(&translate, &translate_engine);
	for (unsigned k = 0; k < CASES; k++)
		one_case(&interp, &translate, avx512, k % 2);
	end(&interp);
	end(&translate);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
