/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory operands that share one check (lib/translate/window.c): random programs of accesses with displacements near
 * all that an instruction can have, and registers that move in between, on interp and on translate.
 */
#include "fakecpu.h"

#include "core/engine.h"
#include "interp/engine.h"
#include "translate/engine.h"

#define MIDDLE UINT64_C(0x8200400000)
#define FRAMES 0x50000u
#define SPOTS 5 /* at MIDDLE and up to 4 GiB around it, 2 GiB apart */
#define SPOT_PAGES 3
#define MEMORY (SPOTS * SPOT_PAGES * TZ_PAGE_SIZE)
#define LOW UINT64_C(0xffffffff80000000) /* what a displacement reaches alone */
#define INSNS 14

static uint64_t seed = 0x452821e638d01377;

static uint64_t rnd(void)
{
	return fake_random(&seed);
}

static struct fake *world(const struct tz_engine_ops *engine)
{
	struct fake *f = fake_create(1 << 20);

	fake_long_mode(f);
	for (unsigned n = 0; n < SPOTS * SPOT_PAGES; n++)
		fake_map(f, MIDDLE + (uint64_t)(n / SPOT_PAGES) * BIT64(31) - BIT64(32) + n % SPOT_PAGES * TZ_PAGE_SIZE,
			 FRAMES + n * TZ_PAGE_SIZE, 7);
	for (unsigned n = 0; n < SPOT_PAGES; n++)
		fake_map(f, LOW + n * TZ_PAGE_SIZE, FRAMES + n * TZ_PAGE_SIZE, 7);
	f->cpu.idtr.limit = 0; /* a fault is the end */
	assert_int_equal(engine->vcpu_create(&f->cpu), 0);
	return f;
}

static void end(struct fake *f, const struct tz_engine_ops *engine)
{
	engine->vcpu_destroy(&f->cpu);
	fake_destroy(f);
}

static uint32_t displacement(void)
{
	const uint32_t near = rnd() & 1 ? (uint32_t)(rnd() % 0x180) : (uint32_t)(rnd() % 8 * 8);

	switch (rnd() % 6) {
	case 0: return 0x80000000 + near;
	case 1: return 0x7fffffff - near;
	case 2: return 0 - near;
	default: return near;
	}
}

static uint64_t absolute(void)
{
	const uint64_t near = rnd() % 0x40;

	switch (rnd() % 6) {
	case 0: return (uint64_t)INT64_MAX - near;
	case 1: return UINT64_C(0x7fffffff80000000) + near;
	case 2: return UINT64_C(0x8000000000000000) + near;
	case 3: return MIDDLE + near;
	default: return LOW + near;
	}
}

static unsigned put32(uint8_t *p, uint32_t v)
{
	guest_store32(p, v);
	return 4;
}

/* RBX, RSP or RDI; RAX, RCX and RDX are what is read and written. */
static unsigned random_insn(uint8_t *p)
{
	static const uint8_t bases[] = { X86_RBX, X86_RSP, X86_RDI };
	static const uint8_t opcodes[] = { 0x8b, 0x89, 0x8a, 0x88, 0x03, 0x01 };
	uint8_t base = bases[rnd() % 3], value = rnd() % 3;
	unsigned n = 0, kind = rnd() % 16;

	if (kind < 3) { /* add or sub base, imm32 */
		p[n++] = 0x48;
		p[n++] = 0x81;
		p[n++] = (uint8_t)((rnd() & 1 ? 0xc0 : 0xe8) | base);
		return n + put32(p + n, displacement());
	}
	if (kind == 3) { /* push or pop */
		p[n++] = (uint8_t)((rnd() & 1 ? 0x50 : 0x58) | value);
		return n;
	}
	if (kind == 4) { /* mov al or rax, moffs64, or back */
		p[n++] = 0x48;
		p[n++] = (uint8_t)(0xa0 | rnd() % 4);
		guest_store64(p + n, absolute());
		return n + 8;
	}
	if (kind == 5) { /* lea base, [base + disp32] */
		p[n++] = 0x48;
		p[n++] = 0x8d;
		p[n++] = (uint8_t)(0x80 | base << 3 | base);
		if (base == X86_RSP)
			p[n++] = 0x24;
		return n + put32(p + n, displacement());
	}
	if (rnd() & 1)
		p[n++] = 0x48;
	p[n++] = opcodes[rnd() % ARRAY_SIZE(opcodes)];
	if (kind < 8) { /* [disp32] */
		p[n++] = (uint8_t)(4 | value << 3);
		p[n++] = 0x25;
		return n + put32(p + n, 0x80000000 + (uint32_t)(rnd() % 0x180));
	}
	p[n++] = (uint8_t)(0x80 | value << 3 | base);
	if (base == X86_RSP)
		p[n++] = 0x24;
	return n + put32(p + n, displacement());
}

static uint64_t spot(void)
{
	return MIDDLE + rnd() % SPOTS * BIT64(31) - BIT64(32) + TZ_PAGE_SIZE + rnd() % 32 * 8;
}

static void start(struct fake *f, const uint8_t *code, unsigned n, const uint64_t gpr[16])
{
	memcpy(f->ram + FAKE_CODE, code, n);
	for (unsigned k = 0; k < MEMORY; k++)
		f->ram[FRAMES + k] = (uint8_t)(k / TZ_PAGE_SIZE * 51 + k * 37);
	memcpy(f->cpu.gpr, gpr, sizeof(f->cpu.gpr));
	f->cpu.rip = FAKE_CODE;
	f->cpu.rflags = X86_FIXED1;
}

static void random_operands(void **state)
{
	struct fake *fi = world(&interp_engine), *ft = world(&translate_engine);
	unsigned ends[2] = { 0 };

	(void)state;
	for (unsigned round = 0; round < 8000; round++) {
		uint8_t code[16 * INSNS];
		uint64_t gpr[16];
		unsigned n = 0;
		enum x86_exit a, b;

		for (unsigned k = 0; k < INSNS; k++)
			n += random_insn(code + n);
		code[n++] = 0xf4;
		for (unsigned k = 0; k < 16; k++)
			gpr[k] = rnd();
		gpr[X86_RSP] = spot();
		gpr[X86_RBX] = spot();
		gpr[X86_RDI] = spot();
		start(fi, code, n, gpr);
		start(ft, code, n, gpr);
		a = interp_engine.run(&fi->cpu, false);
		b = translate_engine.run(&ft->cpu, false);
		if (a != b || fi->cpu.rip != ft->cpu.rip || memcmp(fi->cpu.gpr, ft->cpu.gpr, sizeof(gpr)) != 0) {
			for (unsigned k = 0; k < n; k++)
				print_message("%02x", code[k]);
			print_message("\nexit %d %d rip %lx %lx\n", a, b, (unsigned long)fi->cpu.rip,
				      (unsigned long)ft->cpu.rip);
		}
		assert_int_equal(a, b);
		assert_int_equal(fi->cpu.rip, ft->cpu.rip);
		assert_memory_equal(fi->cpu.gpr, ft->cpu.gpr, sizeof(gpr));
		assert_memory_equal(fi->ram + FRAMES, ft->ram + FRAMES, MEMORY);
		ends[a == X86_EXIT_HLT]++;
	}
	/* Some of each kind, or it tests little. */
	assert_true(ends[0] > 500 && ends[1] > 500);
	end(fi, &interp_engine);
	end(ft, &translate_engine);
}

static struct fake *f;
static struct x86_cpu *cpu;

static int setup(void **state)
{
	(void)state;
	f = world(&translate_engine);
	cpu = &f->cpu;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	end(f, &translate_engine);
	return 0;
}

#define CODE(...) memcpy(f->ram + FAKE_CODE, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* An operand across the end of the stack's page; the next page is somewhere else. */
static void stack_across_pages(void **state)
{
	const uint64_t gva = UINT64_C(0x8000400000), first = 0x50000, second = 0x48000;
	uint64_t seen;

	(void)state;
	/* push rax; pop rax; mov [rdi], al; mov rsp, rsi; mov [rsp], rdx; mov rbx, [rsp]; hlt */
	CODE(0x50, 0x58, 0x88, 0x07, 0x48, 0x89, 0xf4, 0x48, 0x89, 0x14, 0x24, 0x48, 0x8b, 0x1c, 0x24, 0xf4);
	fake_map(f, gva, first, 7);
	fake_map(f, gva + TZ_PAGE_SIZE, second, 7);
	for (unsigned n = 1; n < 8; n++) {
		cpu->gpr[X86_RSP] = FAKE_STACK;
		cpu->gpr[X86_RDI] = gva;
		cpu->gpr[X86_RSI] = gva + TZ_PAGE_SIZE - n;
		cpu->gpr[X86_RDX] = UINT64_C(0x8877665544332211) * n;
		cpu->gpr[X86_RBX] = 0;
		cpu->rip = FAKE_CODE;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal(cpu->gpr[X86_RBX], cpu->gpr[X86_RDX]);
		memcpy(&seen, f->ram + first + TZ_PAGE_SIZE - n, n);
		memcpy((uint8_t *)&seen + n, f->ram + second, 8 - n);
		assert_int_equal(seen, cpu->gpr[X86_RDX]);
	}
}

/* Two operands so far apart that their distance is more than 63 bits, in one block: the second is not canonical. */
static void absolute_addresses_far_apart(void **state)
{
	(void)state;
	/* mov al, [LOW]; mov al, [0x7fffffff80000000] */
	CODE(0x8a, 0x04, 0x25, 0, 0, 0, 0x80, 0xa0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f, 0xf4);
	f->ram[FRAMES] = 0x5a;
	for (unsigned n = 0; n < 3; n++) {
		cpu->rip = FAKE_CODE;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_SHUTDOWN);
		assert_int_equal(cpu->rip, FAKE_CODE + 7);
		assert_int_equal((uint8_t)cpu->gpr[X86_RAX], 0x5a);
	}
}

/* Below RSP by all that a displacement can be, then RSP moves on: 4 GiB above is the stack's page. */
static void stack_at_the_end_of_displacements(void **state)
{
	const uint64_t stack = FAKE_STACK - 512, at = stack + 64 - BIT64(32);

	(void)state;
	/* push rax; pop rax; mov rsp, rsi; mov al, [rsp - 2 GiB]; sub rsp, 64; mov bl, [rsp - 2 GiB]; hlt */
	CODE(0x50, 0x58, 0x48, 0x89, 0xf4, 0x8a, 0x84, 0x24, 0, 0, 0, 0x80, 0x48, 0x83, 0xec, 0x40, 0x8a, 0x9c, 0x24, 0,
	     0, 0, 0x80, 0xf4);
	fake_map(f, at & ~TZ_PAGE_MASK, 0x50000, 7);
	f->ram[0x50000 + (at & TZ_PAGE_MASK)] = 0x5a;
	f->ram[0x50000 + ((at - 64) & TZ_PAGE_MASK)] = 0xa5;
	for (unsigned n = 0; n < 3; n++) {
		cpu->rip = FAKE_CODE;
		cpu->gpr[X86_RSP] = stack;
		cpu->gpr[X86_RSI] = at + BIT64(31);
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal((uint8_t)cpu->gpr[X86_RAX], 0x5a);
		assert_int_equal((uint8_t)cpu->gpr[X86_RBX], 0xa5);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operands),
		T(stack_across_pages),
		T(absolute_addresses_far_apart),
		T(stack_at_the_end_of_displacements),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
