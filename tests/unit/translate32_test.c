/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator on 32-bit code, against the interpreter: random programs in protected and in compatibility mode with
 * garbage in the upper halves of registers. Then what wraps around at 4 GiB, segments, and what 64-bit mode encodes
 * otherwise.
 */
#include "fakecpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "core/engine.h"
#include "interp/engine.h"
#include "translate/engine.h"
#include "translate/translate.h"
#include "x86/segment.h"

#define DATA 0x30000u
#define DATA_SIZE 0x2000u
#define PROGRAM_MAX 512
#define FAR_BASE UINT64_C(0xffffc000) /* memory up to 4 GiB, and at 2 GiB */
#define FAR_SIZE 0x4000u
#define MIDDLE UINT64_C(0x80010000)
/* AF is undefined behind the logical instructions. */
#define COMPARED (X86_ARITH_FLAGS & ~X86_AF)
/* Free entries of the GDT */
#define SEL_BASED 0x50u
#define SEL_SMALL 0x58u
#define SEL_READONLY 0x60u
#define SEL_DOWN 0x68u
#define SEL_CODE16 0x70u

struct result {
	uint64_t gpr[16], rip, rflags;
	enum x86_exit exit;
	struct x86_io_access io;
	uint8_t data[DATA_SIZE], stack[256], high[FAR_SIZE];
};

struct world {
	const struct tz_engine_ops *engine;
	struct fake *f;
	uint8_t *high, *middle;
};

static uint64_t seed = 0x452821e638d01377;

static uint64_t rnd(void)
{
	return fake_random(&seed);
}

static uint64_t descriptor(uint32_t base, uint32_t pages, uint32_t access)
{
	return (pages & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(pages >> 16 & 15) << 48 | UINT64_C(0xc) << 52 | (uint64_t)(base >> 24) << 56;
}

static uint8_t *memory(size_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void begin(struct world *w, const struct tz_engine_ops *engine, bool compat)
{
	struct fake *f = fake_create(1 << 20);

	w->engine = engine;
	w->f = f;
	w->high = memory(FAR_SIZE);
	w->middle = memory(FAR_SIZE);
	fake_slot(f, 1, 0, FAR_BASE, FAR_SIZE, w->high);
	fake_slot(f, 2, 0, MIDDLE, FAR_SIZE, w->middle);
	if (compat) {
		fake_long_mode(f);
		f->cpu.seg[X86_CS] = fake_seg(FAKE_CS32, 0, 0xffffffff, 0xc09b);
		x86_mode_update(&f->cpu);
	} else {
		fake_protected_mode(f);
	}
	assert_int_equal(f->cpu.code_size, 4);
	fake_poke64(f, FAKE_GDT + SEL_BASED, descriptor(DATA, 0xfffff, 0x93));
	fake_poke64(f, FAKE_GDT + SEL_SMALL, descriptor(0, DATA >> 12, 0x93));
	fake_poke64(f, FAKE_GDT + SEL_READONLY, descriptor(0, 0xfffff, 0x91));
	fake_poke64(f, FAKE_GDT + SEL_DOWN, descriptor(0, DATA >> 12, 0x97));
	fake_poke64(f, FAKE_GDT + SEL_CODE16, UINT64_C(0x008f9b000000ffff));
	f->cpu.seg[X86_FS] = fake_seg(SEL_BASED, DATA, 0xffffffff, 0xc093);
	f->cpu.seg[X86_GS] = fake_seg(SEL_BASED, UINT64_C(0xfffff000) + DATA, 0xffffffff, 0xc093);
	f->cpu.idtr.limit = 0;
	f->cpu.count_insns = true;
	assert_int_equal(engine->vcpu_create(&f->cpu), 0);
}

static void end(struct world *w)
{
	w->engine->vcpu_destroy(&w->f->cpu);
	munmap(w->high, FAR_SIZE);
	munmap(w->middle, FAR_SIZE);
	fake_destroy(w->f);
}

static void start(struct world *w, const uint8_t *code, size_t n, const uint64_t gpr[16])
{
	struct fake *f = w->f;

	memcpy(f->ram + FAKE_CODE, code, n);
	for (unsigned k = 0; k < DATA_SIZE; k++)
		f->ram[DATA + k] = (uint8_t)(k * 37);
	memset(f->ram + FAKE_STACK - 256, 0, 256);
	memset(w->high, 0x5a, FAR_SIZE);
	memcpy(f->cpu.gpr, gpr, sizeof(f->cpu.gpr));
	f->cpu.rip = FAKE_CODE;
	f->cpu.rflags = X86_FIXED1 | (gpr[0] & X86_ARITH_FLAGS);
}

static void run(struct world *w, struct result *r)
{
	struct x86_cpu *cpu = &w->f->cpu;

	memset(r, 0, sizeof(*r));
	r->exit = w->engine->run(cpu, false);
	memcpy(r->gpr, cpu->gpr, sizeof(r->gpr));
	r->rip = cpu->rip;
	r->rflags = cpu->rflags & COMPARED;
	if (r->exit == X86_EXIT_MMIO || r->exit == X86_EXIT_PIO)
		r->io = cpu->io.pending;
	memcpy(r->data, w->f->ram + DATA, DATA_SIZE);
	memcpy(r->stack, w->f->ram + FAKE_STACK - 256, 256);
	memcpy(r->high, w->high, FAR_SIZE);
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
	for (unsigned k = 0; k < DATA_SIZE; k++)
		if (a->data[k] != b->data[k])
			print_message("data %x: %02x %02x\n", k, a->data[k], b->data[k]);
}

/* ---- random programs ---- */

/* ESI points into DATA, ESP to the stack: they are not to be written. Of bytes 4 to 7 are AH, CH, DH, BH. */
static unsigned random_reg(bool byte)
{
	unsigned r = rnd() % 8;

	return !byte && (r == X86_RSI || r == X86_RSP) ? X86_RAX : r;
}

/* A register, [esi + disp8], or an absolute address. */
static unsigned put_modrm(uint8_t *p, unsigned reg, bool memory, unsigned rm)
{
	if (!memory) {
		p[0] = (uint8_t)(0xc0 | reg << 3 | rm);
		return 1;
	}
	if (rnd() % 4 == 0) {
		p[0] = (uint8_t)(0x05 | reg << 3);
		guest_store32(p + 1, DATA + rnd() % (DATA_SIZE - 4));
		return 5;
	}
	p[0] = (uint8_t)(0x46 | reg << 3);
	p[1] = (uint8_t)rnd();
	return 2;
}

/* By FS or GS, whose bases are DATA and 4 KiB below it. */
static unsigned put_based(uint8_t *p, unsigned reg)
{
	unsigned n = 0;

	p[n++] = rnd() & 1 ? 0x64 : 0x65;
	p[n++] = rnd() & 1 ? 0x8b : 0x01;
	p[n++] = (uint8_t)(0x05 | reg << 3);
	guest_store32(p + n, p[0] == 0x64 ? (uint32_t)(rnd() % 0x1000) : 0x1000 - (uint32_t)(rnd() & 15));
	return n + 4;
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
		p[n++] = 0x66;
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

/* What there is in 32-bit code alone. */
static unsigned random_legacy(uint8_t *p, unsigned reg)
{
	static const uint8_t single[] = { 0x27, 0x2f, 0x37, 0x3f, 0x90, 0x98, 0x99, 0xf5, 0xf8, 0xf9, 0xd6, 0x9f };
	unsigned n = 0;

	switch (rnd() % 9) {
	case 0: /* inc, dec */ p[n++] = (uint8_t)((rnd() & 1 ? 0x40 : 0x48) | reg); break;
	case 1: /* mov eax, moffs and back */
		p[n++] = (uint8_t)(0xa0 | rnd() % 4);
		guest_store32(p + n, DATA + rnd() % (DATA_SIZE - 4));
		n += 4;
		break;
	case 2: /* behind an add al, imm8: some look at AF */
		p[n++] = 0x04;
		p[n++] = (uint8_t)rnd();
		p[n++] = single[rnd() % ARRAY_SIZE(single)];
		break;
	case 3: return put_based(p, reg);
	case 8: return random_string(p);
	case 4: /* pusha; add esp, 32 */ memcpy(p, (const uint8_t[]){ 0x60, 0x83, 0xc4, 0x20 }, 4); return 4;
	case 5: /* add byte [esi + disp8], imm8, an alias */
		p[n++] = 0x82;
		p[n++] = 0x46;
		p[n++] = (uint8_t)rnd();
		p[n++] = (uint8_t)rnd();
		break;
	case 6: /* lea reg, [bx + si]; lea reg, [esp + reg] */
		if (rnd() & 1)
			p[n++] = 0x67;
		p[n++] = 0x8d;
		p[n++] = (uint8_t)(p[0] == 0x67 ? reg << 3 : 0x04 | reg << 3);
		if (p[0] != 0x67)
			p[n++] = (uint8_t)(reg << 3 | 4);
		break;
	default: /* mov reg, [esp + 8]; enter 8, 0; leave */
		memcpy(p, (const uint8_t[]){ 0x8b, (uint8_t)(0x44 | reg << 3), 0x24, 8, 0xc8, 8, 0, 0, 0xc9 }, 9);
		return 9;
	}
	return n;
}

static unsigned random_insn(uint8_t *p)
{
	static const uint8_t alu[] = { 0x01, 0x03, 0x11, 0x13, 0x29, 0x2b, 0x19, 0x1b, 0x39, 0x3b, 0x21,
				       0x23, 0x09, 0x0b, 0x31, 0x33, 0x85, 0x89, 0x8b, 0x00, 0x02, 0x10,
				       0x12, 0x28, 0x2a, 0x38, 0x3a, 0x84, 0x88, 0x8a, 0x87, 0x86 };
	unsigned reg = random_reg(false), rm = random_reg(false), n = 0, kind = rnd() % 16;
	bool memory = rnd() & 1;
	uint8_t op = alu[rnd() % ARRAY_SIZE(alu)];

	if (kind > 12)
		return random_legacy(p, reg);
	if (kind < 6 && rnd() % 4 == 0)
		p[n++] = 0x66;
	switch (kind) {
	case 6: /* inc, dec */ p[n++] = 0xff; return n + put_modrm(p + n, rnd() & 1, memory, rm);
	case 7: /* not, neg */ p[n++] = 0xf7; return n + put_modrm(p + n, 2 + (rnd() & 1), memory, rm);
	case 8: /* setcc, cmovcc, movzx, movsx */
		p[n++] = 0x0f;
		p[n++] = (uint8_t)(rnd() & 1 ? 0x90 + rnd() % 16 : rnd() & 1 ? 0x40 + rnd() % 16 : 0xb6 + rnd() % 2);
		if (p[1] >= 0x90)
			rm = random_reg(p[1] < 0xa0 || p[1] == 0xb6);
		return n + put_modrm(p + n, reg, memory, rm);
	case 9: /* a shift by one */
		p[n++] = 0xd1;
		return n + put_modrm(p + n, (const uint8_t[]){ 0, 1, 2, 3, 4, 5, 7 }[rnd() % 7], memory, rm);
	case 10: /* lea */ p[n++] = 0x8d; return n + put_modrm(p + n, reg, true, rm);
	case 11: /* push; pop */
		p[n++] = (uint8_t)(0x50 | reg);
		p[n++] = (uint8_t)(0x58 | rm);
		return n;
	case 12: /* push [mem] or imm8; pop */
		if (memory) {
			p[n++] = 0xff;
			n += put_modrm(p + n, 6, true, 0);
		} else {
			p[n++] = 0x6a;
			p[n++] = (uint8_t)rnd();
		}
		p[n++] = (uint8_t)(0x58 | rm);
		return n;
	default:
		if (!(op & 1)) {
			reg = random_reg(true);
			rm = random_reg(true);
		}
		p[n++] = op;
		return n + put_modrm(p + n, reg, memory, rm);
	}
}

static void random_registers(uint64_t gpr[16], bool garbage)
{
	for (unsigned k = 0; k < 16; k++)
		gpr[k] = garbage ? rnd() : (uint32_t)rnd();
	gpr[X86_RSI] = (garbage ? rnd() << 32 : 0) | (DATA + 0x1000 - (rnd() & 0xff));
	gpr[X86_RSP] = (garbage && rnd() & 1 ? rnd() << 32 : 0) | (FAKE_STACK - 128);
}

static void random_programs(bool compat)
{
	static struct result a, b;
	uint8_t code[PROGRAM_MAX];
	struct world wi, wt;
	uint64_t gpr[16];

	begin(&wi, &interp_engine, compat);
	begin(&wt, &translate_engine, compat);
	for (unsigned round = 0; round < 4000; round++) {
		unsigned n = 0;

		for (unsigned k = 0; k < 24; k++)
			n += random_insn(code + n);
		code[n++] = 0xf4;
		random_registers(gpr, round & 1);
		start(&wi, code, n, gpr);
		start(&wt, code, n, gpr);
		run(&wi, &a);
		run(&wt, &b);
		if (memcmp(&a, &b, sizeof(a)))
			report(code, n, &a, &b);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_int_equal(wi.f->stat[STAT_INSNS], wt.f->stat[STAT_INSNS]);
	assert_true(wt.f->stat[STAT_TRANSLATE_BLOCKS] >= 4000);
	assert_int_equal(wt.f->stat[STAT_TRANSLATE_INTERP_BLOCKS], 0);
	/* Instructions that interp runs are the exception. */
	assert_true(wt.f->stat[STAT_TRANSLATE_INTERP] < wt.f->stat[STAT_INSNS] / 3);
	end(&wi);
	end(&wt);
}

static void random_programs_in_protected_mode(void **state)
{
	(void)state;
	random_programs(false);
}

static void random_programs_in_compatibility_mode(void **state)
{
	(void)state;
	random_programs(true);
}

/* ---- one program on both ---- */

static struct world interp, translated;
static bool compat;

static int setup(void **state)
{
	(void)state;
	compat = !compat;
	begin(&interp, &interp_engine, compat);
	begin(&translated, &translate_engine, compat);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	end(&interp);
	end(&translated);
	return 0;
}

static struct world *const both[] = { &interp, &translated };

/* Run it a few times, as interp makes the first access to a page. Returns what both came to. */
static const struct result *same(const uint8_t *code, size_t n, const uint64_t gpr[16])
{
	static struct result r[2];

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned k = 0; k < 2; k++) {
			struct x86_cpu *cpu = &both[k]->f->cpu;
			struct x86_seg seg[X86_SEG_COUNT];

			memcpy(seg, cpu->seg, sizeof(seg));
			start(both[k], code, n, gpr);
			run(both[k], &r[k]);
			memcpy(cpu->seg, seg, sizeof(seg));
			x86_mode_update(cpu);
			if (r[k].exit == X86_EXIT_MMIO)
				x86_io_finish(cpu);
		}
		if (memcmp(&r[0], &r[1], sizeof(r[0])))
			report(code, (unsigned)n, &r[0], &r[1]);
		assert_memory_equal(&r[0], &r[1], sizeof(r[0]));
	}
	assert_true(translated.f->stat[STAT_TRANSLATE_BLOCKS] > 0);
	return &r[1];
}

#define SAME(gpr, ...) same((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), gpr)

static void stack_wraps_around(void **state)
{
	uint64_t gpr[16] = { [X86_RAX] = 0x11223344, [X86_RCX] = 0x55667788 };
	const struct result *r;

	(void)state;
	/* push eax; push ecx; pop edx; hlt: the second one lies right below 4 GiB */
	gpr[X86_RSP] = 4;
	r = SAME(gpr, 0x50, 0x51, 0x5a, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_HLT);
	assert_int_equal(r->gpr[X86_RDX], 0x55667788);
	assert_int_equal(r->gpr[X86_RSP], 0);
	/* push eax with ESP 0; pop ebx twice */
	gpr[X86_RSP] = 0;
	r = SAME(gpr, 0x50, 0x5b, 0x5b, 0xf4);
	assert_int_equal(r->gpr[X86_RSP], 4);
	/* mov edx, [esp - 8]; add esp, 16; mov ebx, [esp - 12]; push eax; hlt: from one end to the other */
	gpr[X86_RSP] = 0xfffffff8;
	r = SAME(gpr, 0x8b, 0x54, 0x24, 0xf8, 0x83, 0xc4, 0x10, 0x8b, 0x5c, 0x24, 0xf4, 0x50, 0xf4);
	assert_int_equal(r->gpr[X86_RBX], 0x5a5a5a5a);
	assert_int_equal(r->gpr[X86_RSP], 4);
	/* mov eax, [esp + 0x80000000]; add esp, 0x40; mov ecx, [esp - 0x40]; hlt */
	gpr[X86_RSP] = 0x80000000 + DATA;
	r = SAME(gpr, 0x8b, 0x84, 0x24, 0, 0, 0, 0x80, 0xf4);
	assert_int_equal(r->gpr[X86_RAX], guest_load32(r->data));
	/* call; a return address across the end of memory */
	gpr[X86_RSP] = 2;
	SAME(gpr, 0xe8, 0, 0, 0, 0, 0xf4);
}

static void addresses_wrap_around(void **state)
{
	uint64_t gpr[16] = {
		[X86_RSP] = FAKE_STACK - 128, [X86_RAX] = 0xfffffff0, [X86_RBX] = UINT64_C(0xffffffff00000000)
	};
	const struct result *r;

	(void)state;
	/* mov ecx, [eax + DATA + 16]; mov edx, [ebx + eax * 2 + DATA + 32]; inc dword [eax + DATA + 24]; hlt */
	r = SAME(gpr, 0x8b, 0x88, 0x10, 0, 3, 0, 0x8b, 0x94, 0x43, 0x20, 0, 3, 0, 0xff, 0x80, 0x18, 0, 3, 0, 0xf4);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data));
	assert_int_equal(r->gpr[X86_RDX], guest_load32(r->data));
	/* mov ecx, [eax + 14]: beyond 4 GiB, #GP; inc eax; by a register that moves: add eax, 32; mov [eax + 4], ecx */
	r = SAME(gpr, 0x8b, 0x48, 14, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	assert_int_equal(r->rip, FAKE_CODE);
	r = SAME(gpr, 0x8b, 0x48, 8, 0x83, 0xc0, 0x20, 0x89, 0x48, 0xe4, 0x83, 0xe8, 0x20, 0x8b, 0x50, 12, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_HLT);
	assert_int_equal(guest_load32(r->high + FAR_SIZE - 12), 0x5a5a5a5a);
}

/* By FS, GS: the sum wraps around, the offset must not. */
static void bases_wrap_around(void **state)
{
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128, [X86_RAX] = 0xfffffffc, [X86_RBX] = 0x1000 };
	const struct result *r;

	(void)state;
	for (unsigned k = 0; k < 2; k++)
		both[k]->f->cpu.seg[X86_FS].base = DATA + 0x10;
	/* mov ecx, fs:[-16]; mov edx, fs:[eax - 8]; mov esi, gs:[ebx]; mov [fs:eax], ebx; hlt */
	r = SAME(gpr, 0x64, 0x8b, 0x0d, 0xf0, 0xff, 0xff, 0xff, 0x64, 0x8b, 0x50, 0xf8, 0x65, 0x8b, 0x33, 0x64, 0x89,
		 0x18, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_HLT);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data));
	assert_int_equal(r->gpr[X86_RDX], guest_load32(r->data + 4));
	assert_int_equal(r->gpr[X86_RSI], guest_load32(r->data));
	assert_int_equal(guest_load32(r->data + 12), 0x1000);
	/* mov ecx, fs:[-3]; mov ecx, fs:[eax + 1] */
	r = SAME(gpr, 0x64, 0x8b, 0x0d, 0xfd, 0xff, 0xff, 0xff, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	r = SAME(gpr, 0x64, 0x8b, 0x48, 0x01, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	assert_int_equal(r->rip, FAKE_CODE);
}

/* mov fs, dx; two accesses by it; hlt. In a segment with a limit, to read only, none at all. */
static void other_segments(void **state)
{
	static const struct {
		uint16_t sel;
		uint32_t offset;
		bool reads, writes;
	} cases[] = {
		{ SEL_BASED, 0x20, true, true },
		{ SEL_SMALL, DATA + 0x20, true, true },
		{ SEL_SMALL, DATA + 0x1000, false, false },
		{ SEL_READONLY, DATA, true, false },
		{ SEL_DOWN, DATA + 0x1000, true, true },
		{ SEL_DOWN, DATA + 0xfff, false, false },
		{ 0, DATA, false, false },
		{ FAKE_CS32, DATA, true, false },
	};
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128 };
	const struct result *r;

	(void)state;
	for (unsigned k = 0; k < ARRAY_SIZE(cases); k++) {
		gpr[X86_RDX] = cases[k].sel;
		gpr[X86_RBX] = cases[k].offset;
		/* mov fs, edx; mov eax, fs:[ebx]; hlt. The same by GS, DS and ES, written. */
		r = SAME(gpr, 0x8e, 0xe2, 0x64, 0x8b, 0x03, 0xf4);
		assert_int_equal(r->exit, cases[k].reads ? X86_EXIT_HLT : X86_EXIT_SHUTDOWN);
		r = SAME(gpr, 0x8e, 0xea, 0x65, 0x01, 0x03, 0xf4);
		assert_int_equal(r->exit, cases[k].writes ? X86_EXIT_HLT : X86_EXIT_SHUTDOWN);
		r = SAME(gpr, 0x8e, 0xda, 0x8b, 0x03, 0xf4);
		assert_int_equal(r->exit, cases[k].reads ? X86_EXIT_HLT : X86_EXIT_SHUTDOWN);
		r = SAME(gpr, 0x8e, 0xc2, 0x26, 0x89, 0x03, 0xf4);
		assert_int_equal(r->exit, cases[k].writes ? X86_EXIT_HLT : X86_EXIT_SHUTDOWN);
	}
	/* By CS nothing is written. mov [cs:ebx], eax; mov eax, cs:[ebx] */
	gpr[X86_RBX] = DATA;
	r = SAME(gpr, 0x2e, 0x8b, 0x0b, 0x2e, 0x89, 0x03, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data));
}

/* Segments that are not flat, and back: blocks by interp, then translated ones again. mov ds, edx; mov ecx, [ebx]; hlt
 */
static void leaves_for_other_segments(void **state)
{
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128, [X86_RBX] = 4, [X86_RDX] = SEL_BASED, [X86_RAX] = FAKE_DS };
	const struct result *r;

	(void)state;
	/* mov ds, edx; mov ecx, [ebx]; mov ds, eax; mov esi, [DATA + 8]; hlt */
	r = SAME(gpr, 0x8e, 0xda, 0x8b, 0x0b, 0x8e, 0xd8, 0x8b, 0x35, 8, 0, 3, 0, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_HLT);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data + 4));
	assert_int_equal(r->gpr[X86_RSI], guest_load32(r->data + 8));
	assert_true(translated.f->stat[STAT_TRANSLATE_INTERP_BLOCKS] > 0);
	/* The same code, entered with another DS. */
	for (unsigned k = 0; k < 2; k++)
		both[k]->f->cpu.seg[X86_DS] = fake_seg(SEL_BASED, DATA, 0xffffffff, 0xc093);
	r = SAME(gpr, 0x8b, 0x0b, 0xf4);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data + 4));
	for (unsigned k = 0; k < 2; k++)
		both[k]->f->cpu.seg[X86_DS] = fake_seg(FAKE_DS, 0, 0xffffffff, 0xc093);
	gpr[X86_RBX] = DATA;
	r = SAME(gpr, 0x8b, 0x0b, 0xf4);
	assert_int_equal(r->gpr[X86_RCX], guest_load32(r->data));
	/* A 16-bit stack: mov ss, edi (with its limit); push eax; hlt */
	for (unsigned k = 0; k < 2; k++)
		both[k]->f->cpu.seg[X86_SS] = fake_seg(FAKE_DS, 0, 0xffff, 0x0093);
	gpr[X86_RSP] = UINT64_C(0x12340002);
	r = SAME(gpr, 0x50, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
}

/* Code right below 4 GiB goes on at 0, in the middle of an instruction and by jumps both ways. */
static void code_wraps_around(void **state)
{
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128, [X86_RCX] = 100 };
	const struct result *r;

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		static struct result a[2];

		/* At FAKE_CODE: jmp 0xfffffff8. There: inc eax; nop; nop; mov edx, 0x44332211. At 0: dec ecx; jnz back;
		 * hlt */
		for (unsigned k = 0; k < 2; k++) {
			start(both[k], (const uint8_t[]){ 0xe9, 0xf3, 0xff, 0xfe, 0xff }, 5, gpr);
			memcpy(both[k]->f->ram, (const uint8_t[]){ 0x49, 0x0f, 0x85, 0xf1, 0xff, 0xff, 0xff, 0xf4 }, 8);
			memcpy(both[k]->high + FAR_SIZE - 8,
			       (const uint8_t[]){ 0x40, 0x90, 0x90, 0xba, 0x11, 0x22, 0x33, 0x44 }, 8);
			run(both[k], &a[k]);
		}
		assert_memory_equal(&a[0], &a[1], sizeof(a[0]));
		assert_int_equal(a[1].exit, X86_EXIT_HLT);
		assert_int_equal(a[1].gpr[X86_RAX], 100);
		assert_int_equal(a[1].gpr[X86_RDX], 0x44332211);
		assert_int_equal(a[1].rip, 8);
	}
	/* Indirect: the upper half is not the target's. jmp eax */
	gpr[X86_RAX] = UINT64_C(0x1234567800000007);
	r = SAME(gpr, 0xff, 0xe0);
	assert_int_equal(r->exit, X86_EXIT_HLT);
	assert_int_equal(r->rip, 8);
	/* An instruction does not: it would be partly beyond the limit. */
	memset(interp.middle + FAR_SIZE - 2, 0xb8, 2);
	for (unsigned k = 0; k < 2; k++) {
		fake_slot(both[k]->f, 1, 0, 0, 0, NULL);
		fake_slot(both[k]->f, 1, 0, FAR_BASE, FAR_SIZE, interp.middle);
	}
	gpr[X86_RAX] = 0xfffffffe;
	r = SAME(gpr, 0xff, 0xe0);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	assert_int_equal(r->rip, 0xfffffffe);
}

static struct x86_cpu *volatile watched;

static void on_tick(int signal)
{
	(void)signal;
	if (watched)
		x86_cpu_attention(watched, X86_ATT_EXIT);
}

/* Two jumps forward by 2 GiB are a loop, and it can be left. */
static void forward_loop_ends(void **state)
{
	struct itimerval tick = { { 0, 5000 }, { 0, 5000 } }, none = { { 0, 0 }, { 0, 0 } };
	struct x86_cpu *cpu = &translated.f->cpu;

	(void)state;
	memcpy(translated.f->ram + FAKE_CODE, (const uint8_t[]){ 0xe9, 0xfb, 0xff, 0xff, 0x7f }, 5);
	memcpy(translated.middle, (const uint8_t[]){ 0xe9, 0xfb, 0xff, 0xff, 0x7f }, 5);
	cpu->rip = FAKE_CODE;
	watched = cpu;
	signal(SIGALRM, on_tick);
	setitimer(ITIMER_REAL, &tick, NULL);
	assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_ATTENTION);
	setitimer(ITIMER_REAL, &none, NULL);
	watched = NULL;
	assert_true(cpu->rip == FAKE_CODE || cpu->rip == MIDDLE);
}

/* A vector instruction with bits that count in 64-bit mode alone: interp knows. */
static void ignored_bits(void **state)
{
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128, [X86_RSI] = DATA + 0xffc, [X86_RDX] = DATA };

	(void)state;
	for (unsigned k = 0; k < 2; k++) {
		both[k]->f->cpu.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
		both[k]->f->cpu.xcr0 = 7;
	}
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2"))
		skip();
	/* vmovd xmm0, [esi] with W; vmovd eax, xmm0 with W; vmovd [edx], xmm0: four bytes each */
	SAME(gpr, 0xc4, 0xe1, 0xf9, 0x6e, 0x06, 0xc4, 0xe1, 0xf9, 0x7e, 0xc0, 0xc4, 0xe1, 0xf9, 0x7e, 0x02, 0xf4);
	/* andn eax, edx, esi with W; with vvvv's upper bit; vpaddd xmm1, xmm0, xmm0 with B */
	SAME(gpr, 0xc4, 0xe2, 0xe8, 0xf2, 0xc6, 0xc4, 0xe2, 0x28, 0xf2, 0xde, 0xc4, 0xc1, 0x79, 0xfe, 0xc8, 0xc5, 0xf9,
	     0x7e, 0xcf, 0xf4);
	/* vblendvps xmm1, xmm0, xmm0, xmm2 with is4's upper bit; vmovd edi, xmm1 */
	SAME(gpr, 0xc4, 0xe3, 0x79, 0x4a, 0xc8, 0xa0, 0xc5, 0xf9, 0x7e, 0xcf, 0xf4);
	/* les, lds: what looks like VEX with a memory operand */
	SAME(gpr, 0xc5, 0x1a, 0xf4);
}

/* A program in 64-bit mode and one in compatibility mode at the same place. */
static void same_code_in_both_modes(void **state)
{
	/* 40 inc eax, or REX; 8b 06 mov eax, [esi]; hlt */
	static const uint8_t code[] = { 0x48, 0x8b, 0x06, 0xf4 };
	struct x86_cpu *cpu;

	(void)state;
	if (!translated.f->cpu.long_mode) { /* every other time, see setup() */
		teardown(NULL);
		setup(NULL);
	}
	cpu = &translated.f->cpu;
	fake_poke(translated.f, FAKE_CODE, code, sizeof(code));
	fake_poke64(translated.f, DATA, UINT64_C(0x1122334455667788));
	for (unsigned n = 0; n < 6; n++) {
		bool wide = n & 1;

		cpu->seg[X86_CS] = fake_seg(wide ? FAKE_CS64 : FAKE_CS32, 0, 0xffffffff, wide ? 0xa09b : 0xc09b);
		x86_mode_update(cpu);
		cpu->gpr[X86_RSI] = DATA;
		cpu->gpr[X86_RAX] = 5;
		cpu->rip = FAKE_CODE;
		assert_int_equal(translate_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal(cpu->gpr[X86_RAX], wide ? UINT64_C(0x1122334455667788) : 0x55667788);
	}
	assert_int_equal(translated.f->stat[STAT_TRANSLATE_INTERP_BLOCKS], 0);
}

static void faults_are_precise(void **state)
{
	uint64_t gpr[16] = { [X86_RSP] = FAKE_STACK - 128, [X86_RSI] = DATA, [X86_RBX] = 0x7000000 };
	const struct result *r;

	(void)state;
	/* inc eax; push eax; mov [esi], eax; pop [ebx] (a device's); hlt */
	r = SAME(gpr, 0x40, 0x50, 0x89, 0x06, 0x8f, 0x03, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_MMIO);
	assert_int_equal(r->rip, FAKE_CODE + 4);
	assert_int_equal(r->gpr[X86_RSP], FAKE_STACK - 132);
	/* add eax, 1; into; bound eax, [esi]; div of 0: #DE with ESP as it was */
	r = SAME(gpr, 0x83, 0xc0, 1, 0xce, 0x51, 0xf7, 0xf1, 0xf4);
	assert_int_equal(r->exit, X86_EXIT_SHUTDOWN);
	assert_int_equal(r->rip, FAKE_CODE + 5);
	assert_int_equal(r->gpr[X86_RSP], FAKE_STACK - 132);
	/* ret 8 with the return address in nothing */
	gpr[X86_RSP] = 0x7000000;
	r = SAME(gpr, 0xc2, 8, 0);
	assert_int_equal(r->exit, X86_EXIT_MMIO);
	assert_int_equal(r->gpr[X86_RSP], 0x7000000);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* In compatibility and in protected mode. */
#define T2(name) T(name), T(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_programs_in_protected_mode),
		cmocka_unit_test(random_programs_in_compatibility_mode),
		T2(stack_wraps_around),
		T2(addresses_wrap_around),
		T2(bases_wrap_around),
		T2(other_segments),
		T2(leaves_for_other_segments),
		T2(code_wraps_around),
		T2(forward_loop_ends),
		T2(ignored_bits),
		T2(faults_are_precise),
		T(same_code_in_both_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
