/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator against the interpreter: the same program on both, the same state behind it. Then changing code,
 * precise faults, non-canonical targets.
 */
#include "fakecpu.h"

#include "core/engine.h"
#include "interp/engine.h"
#include "translate/engine.h"
#include "translate/translate.h"

#define DATA 0x30000u
#define DATA_SIZE 0x2000u
#define PROGRAM_MAX 512
#define COUNTER 0x38000u
/* AF is undefined behind the logical instructions. */
#define COMPARED (X86_ARITH_FLAGS & ~X86_AF)

struct result {
	uint64_t gpr[16], rip, rflags;
	enum x86_exit exit;
	uint8_t data[DATA_SIZE], stack[256];
};

static uint64_t seed = 0x243f6a8885a308d3;

static uint64_t rnd(void)
{
	return fake_random(&seed);
}

static uint64_t code_cache_size;

static struct fake *world(const struct tz_engine_ops *engine)
{
	struct fake *f = fake_create(1 << 20);

	fake_long_mode(f);
	f->cpu.count_insns = true;
	f->cpu.code_cache_size = code_cache_size;
	assert_int_equal(engine->vcpu_create(&f->cpu), 0);
	return f;
}

static void end(struct fake *f, const struct tz_engine_ops *engine)
{
	engine->vcpu_destroy(&f->cpu);
	fake_destroy(f);
}

static void start(struct fake *f, const uint8_t *code, size_t n, const uint64_t gpr[16])
{
	memcpy(f->ram + FAKE_CODE, code, n);
	for (unsigned k = 0; k < DATA_SIZE; k++)
		f->ram[DATA + k] = (uint8_t)(k * 37);
	memset(f->ram + FAKE_STACK - 256, 0, 256);
	memcpy(f->cpu.gpr, gpr, sizeof(f->cpu.gpr));
	f->cpu.gpr[X86_RSP] = FAKE_STACK - 128;
	f->cpu.rip = FAKE_CODE;
	f->cpu.rflags = X86_FIXED1 | (gpr[0] & X86_ARITH_FLAGS);
}

static void run(struct fake *f, const struct tz_engine_ops *engine, struct result *r)
{
	r->exit = engine->run(&f->cpu, false);
	memcpy(r->gpr, f->cpu.gpr, sizeof(r->gpr));
	r->rip = f->cpu.rip;
	r->rflags = f->cpu.rflags & COMPARED;
	memcpy(r->data, f->ram + DATA, DATA_SIZE);
	memcpy(r->stack, f->ram + FAKE_STACK - 256, 256);
}

/* RSI points into DATA, RSP to the stack: they are not to be written. */
static unsigned random_reg(void)
{
	unsigned r = rnd() % 16;

	return r == X86_RSI || r == X86_RSP ? X86_RAX : r;
}

/* [rsi + disp8], or now and then across the end of a page */
static unsigned put_modrm(uint8_t *p, unsigned reg, bool memory, unsigned rm)
{
	if (!memory) {
		p[0] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
		return 1;
	}
	p[0] = (uint8_t)(0x46 | (reg & 7) << 3);
	p[1] = (uint8_t)rnd();
	return 2;
}

/* mov edi, somewhere; std, at times; MOVS, CMPS, STOS, LODS or SCAS; cld */
static unsigned random_string(uint8_t *p)
{
	bool down = rnd() % 4 == 0;
	unsigned n = 0;

	p[n++] = 0xbf;
	guest_store32(p + n, DATA + 16 + rnd() % (DATA_SIZE - 32));
	n += 4;
	if (down)
		p[n++] = 0xfd;
	if (rnd() % 4 == 0)
		p[n++] = rnd() & 1 ? 0x66 : 0x48;
	p[n++] = (const uint8_t[]){ 0xa4, 0xa6, 0xaa, 0xac, 0xae }[rnd() % 5] | (rnd() & 1);
	if (down)
		p[n++] = 0xfc;
	if (rnd() & 1) /* mov [edi - 4], eax; add eax, [esi] */
		memcpy(p + n, (const uint8_t[]){ 0x89, 0x47, 0xfc, 0x03, 0x06 }, 5);
	else /* mov [esi], eax; add eax, [edi - 4] */
		memcpy(p + n, (const uint8_t[]){ 0x89, 0x06, 0x03, 0x47, 0xfc }, 5);
	n += 5;
	return n;
}

static unsigned random_insn(uint8_t *p)
{
	static const uint8_t alu[] = { 0x01, 0x03, 0x11, 0x13, 0x29, 0x2b, 0x19, 0x1b, 0x39,
				       0x3b, 0x21, 0x23, 0x09, 0x0b, 0x31, 0x33, 0x85, 0x89,
				       0x8b, 0x00, 0x02, 0x10, 0x12, 0x28, 0x38, 0x87, 0x86 };
	unsigned reg = random_reg(), rm = random_reg(), n = 0, kind = rnd() % 13;
	bool memory = rnd() & 1, w = rnd() & 1;

	if (kind == 12)
		return random_string(p);
	if (kind < 6 && rnd() % 4 == 0)
		p[n++] = 0x66;
	if (kind == 11) { /* push; pop */
		p[n++] = (uint8_t)(0x40 | reg >> 3);
		p[n++] = (uint8_t)(0x50 | (reg & 7));
		p[n++] = (uint8_t)(0x40 | rm >> 3);
		p[n++] = (uint8_t)(0x58 | (rm & 7));
		return n;
	}
	p[n++] = (uint8_t)(0x40 | (w ? 8 : 0) | (reg & 8) >> 1 | (memory ? 0 : rm >> 3));
	switch (kind) {
	case 6: /* inc, dec */ p[n++] = 0xff; return n + put_modrm(p + n, rnd() & 1, memory, rm);
	case 7: /* not, neg */ p[n++] = 0xf7; return n + put_modrm(p + n, 2 + (rnd() & 1), memory, rm);
	case 8: /* setcc, cmovcc, movzx, movsx */
		p[n++] = 0x0f;
		p[n++] = (uint8_t)(rnd() & 1 ? 0x90 + rnd() % 16 : rnd() & 1 ? 0x40 + rnd() % 16 : 0xb6 + rnd() % 2);
		return n + put_modrm(p + n, reg, memory, rm);
	case 9: /* a shift by one */
		p[n++] = 0xd1;
		return n + put_modrm(p + n, (const uint8_t[]){ 0, 1, 2, 3, 4, 5, 7 }[rnd() % 7], memory, rm);
	case 10: /* lea */ p[n++] = 0x8d; return n + put_modrm(p + n, reg, true, rm);
	default: p[n++] = alu[rnd() % ARRAY_SIZE(alu)]; return n + put_modrm(p + n, reg, memory, rm);
	}
}

static void report(const uint8_t *code, unsigned n, const struct result *a, const struct result *b)
{
	for (unsigned k = 0; k < n; k++)
		print_message("%02x", code[k]);
	print_message("\nexit %d %d rip %lx %lx flags %lx %lx\n", a->exit, b->exit, (unsigned long)a->rip,
		      (unsigned long)b->rip, (unsigned long)a->rflags, (unsigned long)b->rflags);
	for (unsigned k = 0; k < 16; k++)
		if (a->gpr[k] != b->gpr[k])
			print_message("r%u %lx %lx\n", k, (unsigned long)a->gpr[k], (unsigned long)b->gpr[k]);
}

static void random_programs(void **state)
{
	struct fake *fi = world(&interp_engine), *ft = world(&translate_engine);
	static struct result a, b;
	uint8_t code[PROGRAM_MAX];
	uint64_t gpr[16];

	(void)state;
	for (unsigned round = 0; round < 3000; round++) {
		unsigned n = 0;

		for (unsigned k = 0; k < 24; k++)
			n += random_insn(code + n);
		code[n++] = 0xf4;
		for (unsigned k = 0; k < 16; k++)
			gpr[k] = rnd();
		gpr[X86_RSI] = DATA + 0x1000 - (rnd() & 0xff);
		start(fi, code, n, gpr);
		start(ft, code, n, gpr);
		run(fi, &interp_engine, &a);
		run(ft, &translate_engine, &b);
		if (memcmp(&a, &b, sizeof(a)))
			report(code, n, &a, &b);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_int_equal(fi->stat[STAT_INSNS], ft->stat[STAT_INSNS]);
	assert_true(ft->stat[STAT_TRANSLATE_BLOCKS] >= 3000);
	end(fi, &interp_engine);
	end(ft, &translate_engine);
}

/* 1: random instructions; dec dword [COUNTER]; jnz, jg or jns 1b; random instructions; hlt */
static unsigned random_loop(uint8_t *p)
{
	unsigned n = 0, head, body = 1 + rnd() % 10;

	n += random_insn(p + n);
	head = n;
	for (unsigned k = 0; k < body; k++)
		n += random_insn(p + n);
	memcpy(p + n, (const uint8_t[]){ 0xff, 0x0c, 0x25 }, 3);
	guest_store32(p + n + 3, COUNTER);
	n += 7;
	p[n++] = (const uint8_t[]){ 0x75, 0x7f, 0x79 }[rnd() % 3];
	p[n] = (uint8_t)(head - n - 1);
	n++;
	for (unsigned k = 0; k < 3; k++)
		n += random_insn(p + n);
	p[n++] = 0xf4;
	return n;
}

static void random_loops(void **state)
{
	struct fake *fi = world(&interp_engine), *ft = world(&translate_engine);
	static struct result a, b;
	uint8_t code[PROGRAM_MAX];
	uint64_t gpr[16];

	(void)state;
	for (unsigned round = 0; round < 3000; round++) {
		unsigned n = random_loop(code);
		uint32_t count = 1 + rnd() % 13;

		for (unsigned k = 0; k < 16; k++)
			gpr[k] = rnd();
		gpr[X86_RSI] = DATA + 0x1000 - (rnd() & 0xff);
		start(fi, code, n, gpr);
		start(ft, code, n, gpr);
		fake_poke32(fi, COUNTER, count);
		fake_poke32(ft, COUNTER, count);
		run(fi, &interp_engine, &a);
		run(ft, &translate_engine, &b);
		if (memcmp(&a, &b, sizeof(a)))
			report(code, n, &a, &b);
		assert_memory_equal(&a, &b, sizeof(a));
		assert_int_equal(fi->stat[STAT_INSNS], ft->stat[STAT_INSNS]);
	}
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

static void loops_in_translated_code(void **state)
{
	(void)state;
	/* mov ecx, 1000; xor eax, eax; 1: add eax, ecx; dec ecx; jnz 1b; hlt */
	CODE(0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0xf4);
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 500500);
	assert_int_equal(f->stat[STAT_INSNS], 2 + 3000 + 1);
	assert_true(f->stat[STAT_TRANSLATE_DISPATCHES] < 10);
}

static void changes_next_instruction(void **state)
{
	(void)state;
	/* movb $0xc8, 1(%rip) turns inc eax into dec eax */
	CODE(0xc6, 0x05, 0x01, 0, 0, 0, 0xc8, 0xff, 0xc0, 0xf4);
	cpu->gpr[X86_RAX] = 5;
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 4);
}

/* A chained loop whose body is patched from another block, by an address in a register. */
static void changes_linked_code(void **state)
{
	(void)state;
	/* mov ecx, 10; 1: inc eax; jmp 2f; 2: dec ecx; jz 3f; movb $0xc8, (rbx); jmp 1b; 3: hlt */
	CODE(0xb9, 10, 0, 0, 0, 0xff, 0xc0, 0xeb, 0, 0xff, 0xc9, 0x74, 5, 0xc6, 0x03, 0xc8, 0xeb, 0xf3, 0xf4);
	cpu->gpr[X86_RBX] = FAKE_CODE + 6;
	cpu->gpr[X86_RAX] = 100;
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 100 + 1 - 9);
}

/* A block that loops to itself and patches itself: the next round sees it. */
static void changes_own_loop(void **state)
{
	(void)state;
	/* mov ecx, 10; 1: inc eax; dec ecx; movb $0xc8, (rbx); jnz 1b; hlt */
	CODE(0xb9, 10, 0, 0, 0, 0xff, 0xc0, 0xff, 0xc9, 0xc6, 0x03, 0xc8, 0x75, 0xf7, 0xf4);
	cpu->gpr[X86_RBX] = FAKE_CODE + 6;
	cpu->gpr[X86_RAX] = 100;
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 100 + 1 - 9);
	assert_int_equal(f->stat[STAT_INSNS], 1 + 40 + 1);
}

static void sees_foreign_writes(void **state)
{
	(void)state;
	CODE(0xff, 0xc0, 0xf4);
	cpu->gpr[X86_RAX] = 0;
	for (unsigned n = 0; n < 3; n++) {
		cpu->rip = FAKE_CODE;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	}
	assert_int_equal(cpu->gpr[X86_RAX], 3);
	f->ram[FAKE_CODE + 1] = 0xc8; /* as DMA would */
	cpu->rip = FAKE_CODE;
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 2);
}

/* A page of many blocks is compared as a whole, the bytes that its last instruction has in the next one by themselves.
 */
static void sees_foreign_writes_among_many_blocks(void **state)
{
	static const uint8_t end[] = { 0x05, 1, 0, 0, 0, 0xf4 }; /* add eax, 1; hlt */
	/* Where DMA writes, what, and what the program makes then. */
	static const struct {
		unsigned offset;
		uint8_t byte;
		uint64_t sum;
	} writes[] = {
		{ 52, 0xff, 21 },         /* as it was */
		{ 13 * 4 + 1, 0xc8, 19 }, /* inc becomes dec */
		{ 13 * 4 + 1, 0xc0, 21 }, /* what it was when the page was first compared */
		{ 0x1000, 1, 21 + 0x100 }, { 0x1000, 0, 21 },         { 0x800, 0xaa, 21 }, /* no code */
		{ 19 * 4 + 1, 0xc8, 19 },  { 0x1000, 2, 19 + 0x200 },
	};
	uint8_t *code = f->ram + FAKE_CODE;

	(void)state;
	for (unsigned n = 0; n < 20; n++)
		memcpy(code + 4 * n, (const uint8_t[]){ 0xff, 0xc0, 0xeb, 0 }, 4); /* inc eax; jmp to the next */
	memcpy(code + 80, (const uint8_t[]){ 0xe9, 0xa9, 0x0f, 0, 0 }, 5);         /* jmp to 0xffe */
	memcpy(code + 0xffe, end, sizeof(end));
	for (unsigned n = 0; n < sizeof(writes) / sizeof(writes[0]); n++) {
		code[writes[n].offset] = writes[n].byte;
		for (unsigned again = 0; again < 3; again++) {
			cpu->gpr[X86_RAX] = 0;
			cpu->rip = FAKE_CODE;
			assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
			assert_int_equal(cpu->gpr[X86_RAX], writes[n].sum);
		}
	}
}

/* #GP of RET with a target that is not canonical: RSP as before. No IDT: it ends in shutdown with RIP kept. */
static void bad_return_is_precise(void **state)
{
	(void)state;
	CODE(0xc3);
	fake_poke64(f, FAKE_STACK - 128, UINT64_C(0x0123456789abcdef));
	cpu->gpr[X86_RSP] = FAKE_STACK - 128;
	cpu->idtr.limit = 0;
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_SHUTDOWN);
	assert_int_equal(cpu->rip, FAKE_CODE);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 128);
}

/* Those that stand for none in the jump caches, too: in translated code of a jump and of RET. */
static void any_address_can_be_jumped_to(void **state)
{
	(void)state;
	memset(f->ram, 0xf4, 16);
	for (uint64_t to = 0; to < 4; to++)
		for (unsigned n = 0; n < 3; n++) {
			CODE(0x50, 0xc3);
			if (n & 1)
				CODE(0xff, 0xe0);
			cpu->rip = FAKE_CODE;
			cpu->gpr[X86_RSP] = FAKE_STACK - 128;
			cpu->gpr[X86_RAX] = to;
			assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
			assert_int_equal(cpu->rip, to + 1);
		}
}

/* As long as an instruction can be, of prefixes: its translation needs others. */
static void repeated_prefixes(void **state)
{
	static const struct {
		uint8_t prefix, code[4], size;
	} cases[] = {
		{ 0xf0, { 0x00, 0x08 }, 2 },             /* lock add [rax], cl */
		{ 0xf0, { 0x44, 0x00, 0x08 }, 3 },       /* lock add [rax], r9b */
		{ 0x66, { 0x01, 0x08 }, 2 },             /* add [rax], cx */
		{ 0x66, { 0x44, 0x01, 0xd1 }, 3 },       /* add cx, r10w */
		{ 0x66, { 0x0f, 0x5f, 0x00 }, 3 },       /* maxpd xmm0, [rax] */
		{ 0xf3, { 0x0f, 0xb8, 0x08 }, 3 },       /* popcnt ecx, [rax] */
		{ 0xf2, { 0x45, 0x0f, 0x58, 0x00 }, 4 }, /* addsd xmm8, [r8] */
	};

	(void)state;
	/* Twice: interp makes the first access to a page. */
	for (unsigned k = 0; k < 2 * ARRAY_SIZE(cases); k++) {
		unsigned n = k / 2, prefixes = 15u - cases[n].size;
		uint8_t code[16];

		memset(code, cases[n].prefix, prefixes);
		memcpy(code + prefixes, cases[n].code, cases[n].size);
		code[15] = 0xf4;
		memcpy(f->ram + FAKE_CODE, code, sizeof(code));
		memset(f->ram + DATA, 0x55, 16);
		cpu->rip = FAKE_CODE;
		cpu->gpr[X86_RAX] = cpu->gpr[X86_R8] = DATA;
		cpu->gpr[X86_RCX] = cpu->gpr[X86_R9] = 1;
		cpu->gpr[X86_R10] = 0x10;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal(f->ram[DATA], n < 3 ? 0x56 : 0x55);
		assert_int_equal(cpu->gpr[X86_RCX], n == 3 ? 0x11 : n == 5 ? 16 : 1);
	}
}

/* The next exit is a write of four bytes to MMIO; the client does it. */
static void expect_write(const struct tz_engine_ops *engine, struct fake *w, uint64_t addr, uint32_t value)
{
	assert_int_equal(engine->run(&w->cpu, false), X86_EXIT_MMIO);
	assert_true(w->cpu.io.pending.write);
	assert_int_equal(w->cpu.io.pending.addr, addr);
	assert_int_equal(w->cpu.io.pending.len, 4);
	assert_int_equal(guest_load32(w->cpu.io.pending.data), value);
	x86_io_complete(&w->cpu, NULL);
}

/* KVM_MEM_READONLY: code and data are memory's, what is written goes to the client and changes nothing. */
static void runs_in_readonly_memory(const struct tz_engine_ops *engine)
{
	/*
	 * mov ecx, 3; 1: mov eax, [rsi]; add [rsi + 4], eax; lock inc dword [rsi]; mov [rsi + 8], ecx; dec ecx; jnz 1b;
	 * add ebx, [rsi + 4]; hlt
	 */
	static const uint8_t code[] = { 0xb9, 3,    0,    0,    0,    0x8b, 0x06, 0x01, 0x46, 0x04, 0xf0, 0xff,
					0x06, 0x89, 0x4e, 0x08, 0xff, 0xc9, 0x75, 0xf1, 0x03, 0x5e, 0x04, 0xf4 };
	const uint64_t gpa = 0x10000000, data = gpa + 0xf00;
	uint8_t *rom = aligned_alloc(4096, 4096), *copy = malloc(4096);
	struct fake *w = world(engine);

	memset(rom, 0x11, 4096);
	memcpy(rom + 0x800, code, sizeof(code));
	memcpy(copy, rom, 4096);
	fake_slot(w, 1, MEM_SLOT_READONLY, gpa, 4096, rom);
	w->cpu.rip = gpa + 0x800;
	w->cpu.gpr[X86_RSI] = data;
	w->cpu.gpr[X86_RBX] = 0;
	for (uint32_t n = 3; n; n--) {
		expect_write(engine, w, data + 4, 0x22222222);
		expect_write(engine, w, data, 0x11111112);
		expect_write(engine, w, data + 8, n);
	}
	assert_int_equal(engine->run(&w->cpu, false), X86_EXIT_HLT);
	assert_int_equal(w->cpu.gpr[X86_RBX], 0x11111111);
	assert_memory_equal(rom, copy, 4096);
	fake_slot(w, 1, 0, 0, 0, NULL);
	end(w, engine);
	free(rom);
	free(copy);
}

static void readonly_memory(void **state)
{
	(void)state;
	runs_in_readonly_memory(&interp_engine);
	runs_in_readonly_memory(&translate_engine);
}

static void cache_is_bounded(void **state)
{
	teardown(state);
	code_cache_size = ENGINE_CODE_CACHE_MIN;
	setup(state);
	code_cache_size = 0;
	/* A new block every time: mov eax, imm32 with changing bytes, then hlt. */
	CODE(0xb8, 0, 0, 0, 0, 0xf4);
	for (uint32_t n = 0; n < 20000; n++) {
		fake_poke32(f, FAKE_CODE + 1, n);
		cpu->rip = FAKE_CODE;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal(cpu->gpr[X86_RAX], n);
	}
	assert_true(translate_of(cpu)->wipes > 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_programs),
		cmocka_unit_test(random_loops),
		T(loops_in_translated_code),
		T(changes_next_instruction),
		T(changes_linked_code),
		T(changes_own_loop),
		T(sees_foreign_writes),
		T(sees_foreign_writes_among_many_blocks),
		T(bad_return_is_precise),
		T(any_address_can_be_jumped_to),
		T(repeated_prefixes),
		cmocka_unit_test(readonly_memory),
		T(cache_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
