/* SPDX-License-Identifier: Apache-2.0 */
/* Cases: the machine's state and memory, and which instruction or sequence. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

#define POOL_SIZE (1u << 18)

/* Memory and vector registers are windows of it: random elements are too slow to make for each case. */
static _Alignas(64) uint8_t pool[POOL_SIZE + sizeof(struct slot_pages)];

/* ---- values ---- */

uint64_t rnd_value(struct gen *g)
{
	static const uint64_t corner[] = {
		0,          1,      2,          0x7f,       0x80,       0xff,      0x7fff,
		0x8000,     0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, (uint64_t)INT64_MIN,
		UINT64_MAX, 0x0f,   0x10,       0x3f,
	};

	switch (below(g, 4)) {
	case 0: return corner[below(g, ARRAY_SIZE(corner))];
	case 1: return rnd(g) >> below(g, 64);
	case 2: return (uint64_t)((int64_t)rnd(g) >> below(g, 64));
	default: return rnd(g);
	}
}

/* An element of a vector or of memory: integers and floating-point numbers of both sizes near their corners. */
static uint64_t rnd_element(struct gen *g)
{
	static const uint64_t corner[] = {
		0,
		1,
		0x8000000000000000,
		0x7ff0000000000000,
		0xfff8000000000001,
		0x7ff0000000000001,
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
		0x41dfffffffc00000,
		0x4f0000004effffff,
	};

	switch (below(g, 4)) {
	case 0: return corner[below(g, ARRAY_SIZE(corner))];
	case 1: return (rnd(g) & 0x3f0000003f) | (rnd(g) & 1 ? 0 : 0x8000000080000000 & rnd(g));
	case 2: return (rnd(g) & 0x83ffffff83ffffff) | 0x3c0000003c000000;
	default: return rnd(g);
	}
}

void generate_init(uint64_t seed)
{
	struct gen g = { .rng = seed ^ UINT64_C(0x6f7261636c65) };

	for (unsigned n = 0; n < sizeof(pool); n += 8) {
		uint64_t v = rnd_element(&g);

		memcpy(pool + n, &v, 8);
	}
}

static const uint8_t *pool_window(struct gen *g)
{
	return pool + (below(g, POOL_SIZE) & ~7u);
}

/* ---- places ---- */

uint64_t rnd_target(struct gen *g, unsigned size)
{
	uint64_t slot = slot_address(g->c->slot), data = slot + SLOT_DATA;
	unsigned back = below(g, size + 1);

	switch (below(g, 32)) {
	case 0: return data - back;
	case 1: return data + SLOT_DATA_SIZE - back;
	case 2:
	case 3: return data + 4096 - back;
	case 4: return data + SLOT_DATA_SIZE - size;
	case 5: return slot + SLOT_RO + below(g, 4096);
	case 6: return slot + SLOT_RO + 4096 - back;
	case 7: return slot + SLOT_CODE + below(g, SLOT_CODE_SIZE);
	case 8: return slot + SLOT_STACK + below(g, 4096);
	case 9: return slot + below(g, SLOT_STRIDE); /* likely not mapped */
	case 10:
	case 11:
	case 12:
	case 13: return data + below(g, SLOT_DATA_SIZE - 4096);
	default: return data + below(g, 120) * 64;
	}
}

uint64_t rnd_code_target(struct gen *g)
{
	uint64_t slot = slot_address(g->c->slot), code = slot + SLOT_CODE;

	switch (below(g, 16)) {
	case 0: return slot + SLOT_DATA + below(g, SLOT_DATA_SIZE); /* not executable */
	case 1: return slot + below(g, SLOT_STRIDE);
	case 2: return UINT64_C(0x0123456789abcdef) ^ rnd(g) >> 16 << 16; /* hardly canonical */
	case 3: return code + SLOT_CODE_SIZE - below(g, 2);
	default: return code + below(g, 0x380);
	}
}

uint16_t rnd_selector(struct gen *g)
{
	static const uint16_t some[] = {
		0,
		1,
		2,
		3,
		SEL_USER_DS,
		SEL_USER_CS,
		SEL_USER_CS32,
		SEL_USER_DS - 3,
		SEL_KERNEL_CS,
		SEL_KERNEL_DS,
		SEL_KERNEL_DS | 3,
		SEL_TSS,
		SEL_TSS | 3,
		0x50,
		0x63,
		0x6b,
		0x73,
		0x80,
		0x83,
		0x0f,
		0x2f,
	};
	uint16_t v = one_in(g, 8)   ? (uint16_t)rnd(g)
		     : one_in(g, 3) ? (uint16_t)SEL_USER_DS
				    : some[below(g, ARRAY_SIZE(some))];

	/* Linux has each CPU's number in that descriptor. */
	return (v & 0xfffc) == 0x78 ? 0 : v;
}

/* ---- registers and memory ---- */

unsigned gpr_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return r - ZYDIS_REGISTER_RAX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return r - ZYDIS_REGISTER_AH;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_SPL + RSP;
	return 16;
}

const ZydisDecodedOperand *visible_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count_visible; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &zo[n];
	return NULL;
}

void poke(struct test_case *c, uint64_t address, const void *data, unsigned n)
{
	uint64_t offset = address - slot_address(c->slot);
	uint8_t *to = NULL;
	uint64_t room = 0;

	if (offset >= SLOT_DATA && offset < SLOT_DATA + SLOT_DATA_SIZE) {
		to = c->pages.data + (offset - SLOT_DATA);
		room = SLOT_DATA + SLOT_DATA_SIZE - offset;
	} else if (offset >= SLOT_RO && offset < SLOT_RO + 4096) {
		to = c->pages.ro + (offset - SLOT_RO);
		room = SLOT_RO + 4096 - offset;
	} else if (offset >= SLOT_STACK && offset < SLOT_STACK + 4096) {
		to = c->pages.stack + (offset - SLOT_STACK);
		room = SLOT_STACK + 4096 - offset;
	}
	if (to)
		memcpy(to, data, n < room ? n : room);
}

void poke64(struct test_case *c, uint64_t address, uint64_t v)
{
	poke(c, address, &v, 8);
}

void set_gpr(struct test_case *c, unsigned reg, uint64_t v)
{
	if (reg < 16)
		c->in.gpr[reg] = c->mode32 ? (uint32_t)v : v;
}

void vector_dword_write(struct state *s, unsigned reg, unsigned n, uint32_t v)
{
	uint32_t offset = 0, size;
	unsigned at = 0;

	if (reg >= 16)
		at = features_component(7, &offset, &size) ? offset + (reg - 16) * 64 + n * 4 : 0;
	else if (n < 4)
		at = 160 + reg * 16 + n * 4;
	else if (n < 8)
		at = features_component(2, &offset, &size) ? offset + reg * 16 + (n - 4) * 4 : 0;
	else
		at = features_component(6, &offset, &size) ? offset + reg * 32 + (n - 8) * 4 : 0;
	if (at)
		memcpy(s->area + at, &v, 4);
}

static void rnd_x87(struct gen *g, uint8_t *area)
{
	uint16_t fcw = 0x37f, fsw = (uint16_t)(below(g, 8) << 11);

	if (one_in(g, 3))
		fcw = (uint16_t)(0x40 | (rnd(g) & 0xf3f));
	if (one_in(g, 16))
		fsw |= (uint16_t)(rnd(g) & 0x477f); /* condition codes and exception flags */
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080; /* ES and B go with an unmasked exception (SDM 1 8.1.3.3) */
	memcpy(area, &fcw, 2);
	memcpy(area + 2, &fsw, 2);
	area[4] = one_in(g, 4) ? (uint8_t)rnd(g) : one_in(g, 3) ? 0 : 0xff;
	for (unsigned n = 0; n < 8; n++) {
		uint64_t m = one_in(g, 3) ? rnd_element(g) : rnd(g) | BIT64(63);
		uint16_t e = (uint16_t)(one_in(g, 3) ? rnd(g) : 0x3fff - 40 + below(g, 80));

		memcpy(area + 32 + n * 16, &m, 8);
		memcpy(area + 32 + n * 16 + 8, &e, 2);
	}
}

static void rnd_area(struct gen *g, uint8_t *area)
{
	uint64_t bv = features_xcr0();
	uint32_t mxcsr = 0x1f80, offset, size;

	memset(area, 0, STATE_GPR);
	rnd_x87(g, area);
	if (one_in(g, 2))
		mxcsr |= (uint32_t)rnd(g) & 0xe040;
	if (one_in(g, 4))
		mxcsr = (mxcsr & ~0x1f80u) | ((uint32_t)rnd(g) & 0x1f80);
	if (one_in(g, 4))
		mxcsr |= (uint32_t)rnd(g) & 0x3f & (mxcsr >> 7);
	memcpy(area + 24, &mxcsr, 4);
	memcpy(area + 160, pool_window(g), 256);
	for (unsigned n = 2; n < 8; n++)
		if (features_component(n, &offset, &size) && offset + size <= STATE_GPR)
			memcpy(area + offset, pool_window(g), size);
	if (one_in(g, 8))
		bv &= rnd(g);
	memcpy(area + 512, &bv, 8);
}

static uint64_t rnd_flags(struct gen *g)
{
	uint64_t f = 0x202 | (rnd(g) & ARITH_FLAGS);

	f |= one_in(g, 8) ? FLAG_DF : 0;
	f |= one_in(g, 50) ? FLAG_AC : 0;
	f |= one_in(g, 60) ? FLAG_TF : 0;
	f |= one_in(g, 40) ? FLAG_NT : 0;
	f |= one_in(g, 16) ? FLAG_ID : 0;
	return f;
}

static uint64_t rnd_base(struct gen *g)
{
	switch (below(g, 4)) {
	case 0: return 0;
	case 1: return slot_address(g->c->slot) + below(g, SLOT_STRIDE);
	case 2: return (uint64_t)((int64_t)rnd(g) >> 17); /* any canonical address */
	default: return rnd(g) & 0xffffffff;
	}
}

static void rnd_state(struct gen *g)
{
	struct test_case *c = g->c;
	struct state *s = &c->in;

	rnd_area(g, s->area);
	for (unsigned n = 0; n < 16; n++)
		set_gpr(c, n, rnd_value(g));
	s->rflags = rnd_flags(g);
	s->fs_base = rnd_base(g);
	s->gs_base = rnd_base(g);
	memset(s->sel, 0, sizeof(s->sel));
	s->sel[CS] = c->mode32 ? SEL_USER_CS32 : SEL_USER_CS;
	s->sel[SS] = SEL_USER_DS;
	if (c->mode32) {
		s->sel[DS] = s->sel[ES] = SEL_USER_DS;
		s->sel[FS] = one_in(g, 2) ? SEL_USER_DS : 0;
		s->sel[GS] = one_in(g, 2) ? SEL_USER_DS : 0;
		s->fs_base = (uint32_t)s->fs_base;
		s->gs_base = (uint32_t)s->gs_base;
	}
	s->vector = s->error = s->cr2 = 0;
	set_gpr(c, RSP, slot_address(c->slot) + SLOT_STACK + 0x800 + below(g, 64) * 8);
}

/* ---- cases ---- */

/* Code into the pages, with the jump to EXIT behind it; INT3 everywhere else. */
static void lay_code(struct test_case *c)
{
	uint64_t at = slot_address(c->slot) + SLOT_CODE + c->start;
	uint8_t bytes[sizeof(c->code) + 5];
	uint32_t rel = (c->mode32 ? EXIT32 : EXIT) - (uint32_t)(at + c->len + 5);
	unsigned n = c->len + 5u;

	memcpy(bytes, c->code, c->len);
	bytes[c->len] = 0xe9;
	memcpy(bytes + c->len + 1, &rel, 4);
	if (n > (unsigned)(SLOT_CODE_SIZE - c->start))
		n = SLOT_CODE_SIZE - c->start;
	memcpy(c->pages.code + c->start, bytes, n);
	c->in.rip = at;
}

/* In the middle of the first page; now and then across to the second, or up against the end of it. */
static uint16_t rnd_start(struct gen *g, unsigned len)
{
	switch (below(g, 40)) {
	case 0: return (uint16_t)(0x1000 - below(g, len + 6));
	case 1: return (uint16_t)(SLOT_CODE_SIZE - below(g, len + 6));
	default: return (uint16_t)(0x400 + below(g, 0x800));
	}
}

/* The form may not hold a defined result: put the count where it is defined. */
static void avoid_undefined_result(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	struct test_case *c = g->c;

	if (!undefined_result(zi, zo, &c->in))
		return;
	if (zi->raw.imm[0].size == 8)
		c->code[zi->raw.imm[0].offset] &= 15;
	else
		c->in.gpr[RCX] &= ~UINT64_C(0xf0);
}

/* What Zydis cannot decode but the CPU can say something about: too long, LOCK or REX where they must not be. */
static unsigned spoil(struct gen *g, const struct form *f, uint8_t *code, unsigned len)
{
	static const uint8_t before_vex[] = { 0xf0, 0x66, 0xf3, 0xf2, 0x48 };
	static const uint8_t idle[] = { 0x2e, 0x3e, 0x26 };
	unsigned more = 1, kind = below(g, 200);
	uint8_t prefix = f->encoding == ENC_LEGACY ? 0xf0 : before_vex[below(g, f->mode32 ? 4 : 5)];

	/* LOCK MOV CR0 is MOV CR8 to AMD (AltMovCr8), a feature that is not reported. */
	if (kind > 1 || (kind == 0 && (f->lock || f->mnemonic == ZYDIS_MNEMONIC_MOV)))
		return 0;
	if (kind == 1) {
		prefix = idle[below(g, ARRAY_SIZE(idle))];
		more = 15 - len + below(g, 2);
	}
	if (len + more > 16 || f->mode32)
		return 0;
	memmove(code + more, code, len);
	memset(code, prefix, more);
	return more;
}

static void make_single(struct gen *g, unsigned index)
{
	const struct form *f = &forms.form[index];
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	struct test_case *c = g->c;
	unsigned more;

	c->mode32 = f->mode32;
	rnd_state(g);
	c->len = (uint16_t)make_instruction(g, f, c->code, &zi, zo);
	c->start = rnd_start(g, c->len);
	aim_instruction(g, c->code, slot_address(c->slot) + SLOT_CODE + c->start, &zi, zo);
	forms_decode(c->mode32, c->code, c->len, &zi, zo);
	avoid_undefined_result(g, &zi, zo);
	forms_decode(c->mode32, c->code, c->len, &zi, zo);
	more = zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE ? spoil(g, f, c->code, c->len) : 0;
	c->len = (uint16_t)(c->len + more);
	c->insn[0] = (struct insn){ .at = 0, .len = (uint8_t)c->len, .form = index };
	c->insns = 1;
	c->unknown = undefined_flags(&zi, zo, &c->in);
}

/*
 * A third of the cases goes through all forms, a third through all mnemonics with any form of each, a third are
 * sequences.
 */
static unsigned choose_form(struct gen *g, uint64_t number)
{
	uint64_t round = number / 3;
	unsigned m = (unsigned)(round % forms.mnemonics);

	if (number % 3 == 0)
		return forms.run[round % forms.run_count];
	return forms.run[forms.first[m] + below(g, forms.first[m + 1] - forms.first[m])];
}

void generate_case(struct test_case *c, uint64_t seed, uint64_t number)
{
	struct gen g = { .rng = seed * UINT64_C(0xd1342543de82ef95) + number * UINT64_C(0x2545f4914f6cdd1d), .c = c };

	rnd(&g);
	g.rng ^= rnd(&g);
	c->number = number;
	c->slot = (unsigned)(number % SLOT_COUNT);
	c->sequence = number % 3 == 2 && forms.sequence_count;
	c->mode32 = false;
	c->insns = 0;
	c->unknown = 0;
	memset(c->pages.code, 0xcc, sizeof(c->pages.code));
	memcpy(c->pages.data, pool_window(&g), sizeof(c->pages) - sizeof(c->pages.code));
	if (c->sequence) {
		rnd_state(&g);
		make_sequence(&g);
		c->start = rnd_start(&g, c->len);
	} else {
		make_single(&g, choose_form(&g, number));
	}
	lay_code(c);
}
