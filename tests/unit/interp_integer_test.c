/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer instructions where no native oracle can run: page faults in the middle, locked accesses without
 * a host location, stack and segment widths, BCD, features that CPUID takes away.
 */
#include "interpfix.h"
#include "x86/control.h"

/* ---- faults in the middle ---- */

static void rmw_faults_as_write(void **state)
{
	(void)state;
	fake_map(f, HIGH, HIGH_GPA, 0x65); /* read-only, and not there after it */
	cpu->gpr[X86_RDI] = HIGH;
	cpu->gpr[X86_RAX] = 1;
	cpu->rflags = X86_FIXED1 | X86_CF;
	CODE(0x01, 0x07); /* add [rdi], eax */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_P | X86_PFEC_W);
	assert_int_equal(cpu->rflags, X86_FIXED1 | X86_CF);
	CODE(0xf0, 0x0f, 0xc1, 0x07); /* lock xadd [rdi], eax */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_P | X86_PFEC_W);
	cpu->gpr[X86_RDI] = HIGH + 0x1000;
	CODE(0xff, 0x07); /* inc [rdi]: the first fault of a page that is not there already says W */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_W);
	CODE(0x0f, 0xb1, 0x0f); /* cmpxchg that will not be equal writes, too */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_W);
	CODE(0x87, 0x07); /* xchg */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->gpr[X86_RAX], 1);
}

static void rep_commits_what_is_done(void **state)
{
	(void)state;
	fake_map(f, HIGH, HIGH_GPA, 0x67);
	for (unsigned n = 0; n < 64; n++)
		f->ram[0x30000 + n] = (uint8_t)(n + 1);
	CODE(0xf3, 0x48, 0xa5); /* rep movsq */
	cpu->gpr[X86_RSI] = 0x30000;
	cpu->gpr[X86_RDI] = HIGH + 0xff0 + 4; /* one and a half elements from the end */
	cpu->gpr[X86_RCX] = 4;
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_cr2, HIGH + 0x1000);
	assert_int_equal(cpu->gpr[X86_RCX], 3);
	assert_int_equal(cpu->gpr[X86_RSI], 0x30008);
	assert_int_equal(cpu->gpr[X86_RDI], HIGH + 0xffc);
	assert_int_equal(fake_peek64(f, HIGH_GPA + 0xff4), 0x0807060504030201);
	/* After the fault it goes on. */
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x2000, 0x67);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RCX], 0);
	assert_int_equal(cpu->rip, FAKE_CODE + 3);
	assert_int_equal(f->ram[HIGH_GPA + 0x2000], 13);
}

static void rep_yields_to_attention(void **state)
{
	(void)state;
	CODE(0xf3, 0xaa, 0xf4); /* rep stosb; hlt */
	cpu->gpr[X86_RDI] = 0x30000;
	cpu->gpr[X86_RCX] = 3 * 4096;
	cpu->gpr[X86_RAX] = 0x5a;
	x86_cpu_attention(cpu, X86_ATT_EXIT);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, FAKE_CODE);
	assert_int_equal(cpu->gpr[X86_RCX], 2 * 4096);
	assert_int_equal(cpu->gpr[X86_RDI], 0x31000);
	atomic_store(&cpu->attention, 0);
	f->stat[STAT_INSNS] = 0;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(f->stat[STAT_INSNS], 2);
	assert_int_equal(f->ram[0x32fff], 0x5a);
	assert_int_equal(f->ram[0x33000], 0);
}

/* An instruction breakpoint on REP hits once, not at every iteration. */
static void rep_under_breakpoint(void **state)
{
	(void)state;
	CODE(0xf3, 0xaa, 0xf4); /* rep stosb; hlt */
	cpu->gpr[X86_RDI] = 0x30000;
	cpu->gpr[X86_RCX] = 5;
	cpu->dr[0] = FAKE_CODE;
	cpu->dr[7] |= 1;
	cpu->guest_debug_dr[0] = FAKE_CODE;
	cpu->guest_debug_dr[7] = 1;
	x86_debug_changed(cpu);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_DEBUG);
	assert_int_equal(cpu->gpr[X86_RCX], 5);
	cpu->ev.exc_pending = false;
	cpu->ev.db_pending = 0;
	cpu->rflags |= X86_RF; /* the debugger lets it go */
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RCX], 0);
	assert_false(cpu->rflags & X86_RF);
}

/* Runs downwards are done a page piece at a time, too: the same bytes as one by one, for every size and overlap. */
static void rep_downwards(void **state)
{
	static const uint8_t code[4][3] = {
		{ 0xf3, 0xa4 }, { 0x66, 0xf3, 0xa5 }, { 0xf3, 0xa5 }, { 0xf3, 0x48, 0xa5 }
	};
	static uint8_t want[0x4000];
	const unsigned from = 0x30000;

	(void)state;
	for (unsigned n = 0; n < 4 * 12; n++) {
		unsigned size = 1u << n % 4, count = 9000 / size, src = 0x2fe0 + n % 4 % 3, dst = src + n / 4 * 5 - 20;

		for (unsigned k = 0; k < sizeof(want); k++)
			f->ram[from + k] = want[k] = (uint8_t)(k * 7 + k / 253);
		for (unsigned k = 0; k < count; k++) {
			uint8_t element[8];

			memcpy(element, want + src - k * size, size);
			memcpy(want + dst - k * size, element, size);
		}
		put(FAKE_CODE, code[n % 4], 3);
		cpu->rip = FAKE_CODE;
		cpu->rflags = X86_FIXED1 | X86_DF;
		cpu->gpr[X86_RSI] = from + src;
		cpu->gpr[X86_RDI] = from + dst;
		cpu->gpr[X86_RCX] = count;
		assert_int_equal(exec(), 0);
		assert_int_equal(cpu->gpr[X86_RCX], 0);
		assert_int_equal(cpu->gpr[X86_RSI], from + src - count * size);
		assert_int_equal(cpu->gpr[X86_RDI], from + dst - count * size);
		assert_memory_equal(f->ram + from, want, sizeof(want));
	}
}

/* The fault of a run downwards is at the first element that cannot be written, and at its own address. */
static void rep_downwards_faults(void **state)
{
	(void)state;
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x1000, 0x67); /* the page below is not there */
	memset(f->ram + 0x30000, 0x5a, 0x2000);
	CODE(0xf3, 0xa5); /* rep movsd */
	cpu->rflags |= X86_DF;
	cpu->gpr[X86_RSI] = 0x31000;
	cpu->gpr[X86_RDI] = HIGH + 0x1010;
	cpu->gpr[X86_RCX] = 100;
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_cr2, HIGH + 0xffc);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_W);
	assert_int_equal(cpu->gpr[X86_RCX], 95);
	assert_int_equal(cpu->gpr[X86_RDI], HIGH + 0xffc);
	assert_int_equal(cpu->gpr[X86_RSI], 0x31000 - 20);
	fake_map(f, HIGH, HIGH_GPA, 0x65); /* read-only */
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_cr2, HIGH + 0xffc);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_P | X86_PFEC_W);
	assert_int_equal(cpu->gpr[X86_RCX], 95);
}

/* Offsets wrap at the bottom of a 16-bit segment; nothing below its base is touched. */
static void rep_downwards_wraps(void **state)
{
	(void)state;
	protected_mode(4, 4);
	cpu->seg[X86_ES].base = cpu->seg[X86_DS].base = 0x30100;
	cpu->seg[X86_ES].limit = cpu->seg[X86_DS].limit = 0xffff;
	f->ram[0x300ff] = f->ram[0x300fe] = 0;
	for (unsigned k = 0; k < 0x10000; k++)
		f->ram[0x30100 + k] = (uint8_t)(k ^ k >> 8);
	CODE(0x67, 0xf3, 0xa4); /* rep movsb, 16-bit addresses */
	cpu->rflags |= X86_DF;
	cpu->gpr[X86_RSI] = 0x8005;
	cpu->gpr[X86_RDI] = 2;
	cpu->gpr[X86_RCX] = 5;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RDI], 0xfffd);
	assert_int_equal(cpu->gpr[X86_RSI], 0x8000);
	assert_int_equal(f->ram[0x30100], 0x83);
	assert_int_equal(f->ram[0x400ff], 0x82);
	assert_int_equal(f->ram[0x400fe], 0x81);
	assert_int_equal(f->ram[0x300ff], 0);
	assert_int_equal(f->ram[0x300fe], 0);
}

static void rep_respects_limits(void **state)
{
	(void)state;
	protected_mode(4, 4);
	cpu->seg[X86_ES].limit = 0x30003;
	CODE(0xf3, 0xaa); /* rep stosb */
	cpu->gpr[X86_RDI] = 0x30000;
	cpu->gpr[X86_RCX] = 16;
	cpu->gpr[X86_RAX] = 0x77;
	assert_raises(X86_GP);
	assert_int_equal(cpu->gpr[X86_RCX], 12);
	assert_int_equal(fake_peek32(f, 0x30000), 0x77777777);
	assert_int_equal(f->ram[0x30004], 0);
	/* 16-bit addresses wrap. */
	cpu->seg[X86_ES].limit = UINT32_MAX;
	CODE(0x67, 0xf3, 0xaa);
	cpu->gpr[X86_RDI] = 0x1234fffe;
	cpu->gpr[X86_RCX] = 0x56780003;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RDI], 0x12340001);
	assert_int_equal(cpu->gpr[X86_RCX], 0x56780000);
	assert_int_equal(f->ram[0xffff], 0x77);
	assert_int_equal(f->ram[0], 0x77);
}

/* ---- locked accesses ---- */

static void locked_across_pages(void **state)
{
	(void)state;
	fake_map(f, HIGH, HIGH_GPA, 0x67);
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x2000, 0x67);
	fake_poke32(f, HIGH_GPA + 0xffc, 0xffff0000);
	fake_poke32(f, HIGH_GPA + 0x2000, 0);
	cpu->gpr[X86_RDI] = HIGH + 0xffe;
	CODE(0xf0, 0xff, 0x07); /* lock inc dword [rdi] */
	assert_int_equal(exec(), 0);
	assert_int_equal(fake_peek32(f, HIGH_GPA + 0x2000), 1);
	assert_int_equal(fake_peek32(f, HIGH_GPA + 0xffc), 0);
	assert_int_equal(f->exclusive_begins, 1);
	assert_int_equal(f->exclusive_ends, 1);
	/* Inside a page the host's own LOCK does it. */
	cpu->gpr[X86_RDI] = HIGH + 0x7f;
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0);
	assert_int_equal(f->exclusive_begins, 1);
	/* The second page is read-only: nothing happens, nobody is stopped. */
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x2000, 0x65);
	x86_tlb_flush_all(cpu);
	cpu->gpr[X86_RDI] = HIGH + 0xffe;
	cpu->rip = FAKE_CODE;
	assert_raises(X86_PF_EXC);
	assert_int_equal(f->exclusive_begins, 1);
}

static void locked_mmio(void **state)
{
	(void)state;
	fake_map(f, HIGH, 0xfee00000, 0x67);
	cpu->gpr[X86_RDI] = HIGH;
	cpu->gpr[X86_RAX] = 7;
	f->io_handled = true;
	f->read_data[0] = 3;
	f->read_count = 1;
	CODE(0xf0, 0x0f, 0xc1, 0x07); /* lock xadd [rdi], eax */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX], 3);
	assert_int_equal(f->io_count, 2);
	assert_int_equal(f->io[1].data, 10);
	assert_int_equal(f->exclusive_begins, 0);
}

static void cmpxchg16b(void **state)
{
	(void)state;
	CODE(0xf0, 0x48, 0x0f, 0xc7, 0x0f); /* lock cmpxchg16b [rdi] */
	cpu->gpr[X86_RDI] = 0x30008;
	assert_raises(X86_GP);
	cpu->gpr[X86_RDI] = 0x30000;
	fake_poke64(f, 0x30000, 1);
	fake_poke64(f, 0x30008, 2);
	cpu->gpr[X86_RAX] = 1;
	cpu->gpr[X86_RDX] = 3;
	cpu->gpr[X86_RBX] = 10;
	cpu->gpr[X86_RCX] = 11;
	assert_int_equal(exec(), 0);
	assert_false(cpu->rflags & X86_ZF);
	assert_int_equal(cpu->gpr[X86_RDX], 2);
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0);
	assert_true(cpu->rflags & X86_ZF);
	assert_int_equal(fake_peek64(f, 0x30000), 10);
	assert_int_equal(fake_peek64(f, 0x30008), 11);
}

/* ---- the stack ---- */

static void push_pop_64(void **state)
{
	(void)state;
	cpu->gpr[X86_RAX] = 0x1122334455667788;
	CODE(0x50); /* push rax */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 8);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), 0x1122334455667788);
	CODE(0x50, 0x54, 0x66, 0x6a, 0x80); /* push rsp; push word -128 */
	assert_int_equal(exec(), 0);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 16), FAKE_STACK - 8);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 18);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 18) & 0xffff, 0xff80);
	/* pop qword [rsp]: the address has rsp after the increment */
	cpu->gpr[X86_RSP] = FAKE_STACK - 16;
	fake_poke64(f, FAKE_STACK - 16, 0xabc);
	CODE(0x8f, 0x04, 0x24);
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), 0xabc);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 8);
	/* pop rsp */
	CODE(0x90, 0x90, 0x90, 0x5c);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], 0xabc);
}

static void pop_to_bad_memory_keeps_sp(void **state)
{
	(void)state;
	cpu->gpr[X86_RAX] = HIGH;
	CODE(0x8f, 0x00);
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_W);
	/* A push to nowhere. */
	cpu->gpr[X86_RSP] = HIGH + 0x1000;
	CODE(0x50);
	assert_raises(X86_PF_EXC);
	CODE(0xe8, 0, 0, 0, 0);
	assert_raises(X86_PF_EXC);
}

static void call_ret(void **state)
{
	(void)state;
	CODE(0xe8, 3, 0, 0, 0);                                       /* call +3 */
	put(FAKE_CODE + 8, (const uint8_t[]){ 0xc2, 0x10, 0x00 }, 3); /* ret 16 */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, FAKE_CODE + 8);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), FAKE_CODE + 5);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, FAKE_CODE + 5);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK + 16);
	/* 16-bit operand size in 32-bit mode: IP is truncated, two bytes are popped. */
	protected_mode(4, 4);
	fake_poke32(f, FAKE_STACK - 4, 0x00031234);
	cpu->gpr[X86_RSP] = FAKE_STACK - 4;
	CODE(0x66, 0xc3);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0x1234);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 2);
}

static void stack_widths(void **state)
{
	(void)state;
	/* 32-bit code on a 16-bit stack: SP wraps, the upper half of ESP stays. */
	protected_mode(4, 2);
	cpu->gpr[X86_RSP] = 0x00120002;
	cpu->gpr[X86_RAX] = 0x11223344;
	CODE(0x66, 0x50, 0x50); /* push ax; push eax */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], 0x00120000);
	assert_int_equal(fake_peek32(f, 0) & 0xffff, 0x3344);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], 0x0012fffc);
	assert_int_equal(fake_peek32(f, 0xfffc), 0x11223344);
	/* leave: SP from BP only */
	cpu->gpr[X86_RBP] = 0x00345000;
	fake_poke32(f, 0x5000, 0xcafe0001);
	CODE(0x90, 0x90, 0x90, 0xc9);
	assert_int_equal(cpu->rip, FAKE_CODE + 3);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], 0x00125004);
	assert_int_equal(cpu->gpr[X86_RBP], 0xcafe0001);
}

static void pusha_popa(void **state)
{
	uint64_t v[8];

	(void)state;
	protected_mode(4, 4);
	for (unsigned n = 0; n < 8; n++)
		v[n] = cpu->gpr[n] = n == X86_RSP ? FAKE_STACK : 0x1000 + n;
	CODE(0x60, 0x61);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 32);
	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(fake_peek32(f, FAKE_STACK - 4 * (n + 1)), v[n]);
	for (unsigned n = 0; n < 8; n++)
		if (n != X86_RSP)
			cpu->gpr[n] = 0;
	fake_poke32(f, FAKE_STACK - 4 * (X86_RSP + 1), 0xdead); /* skipped */
	assert_int_equal(exec(), 0);
	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(cpu->gpr[n], v[n]);
}

static void enter_nested(void **state)
{
	(void)state;
	cpu->gpr[X86_RBP] = 0x31000;
	fake_poke64(f, 0x31000 - 8, 0x1111);
	fake_poke64(f, 0x31000 - 16, 0x2222);
	CODE(0xc8, 0x20, 0x00, 0x03, 0xc9); /* enter 32, 3; leave */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RBP], FAKE_STACK - 8);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 32 - 32);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), 0x31000);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 16), 0x1111);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 24), 0x2222);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 32), FAKE_STACK - 8);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK);
	assert_int_equal(cpu->gpr[X86_RBP], 0x31000);
}

/* ---- legacy-mode instructions ---- */

struct bcd {
	uint8_t op[2];
	uint16_t ax;
	uint64_t flags;
	uint16_t want;
	uint64_t want_flags; /* CF, AF */
};

static void bcd(void **state)
{
	/* SDM 2A: the examples of DAA and DAS, and corners of the pseudo-code. */
	static const struct bcd t[] = {
		{ { 0x27 }, 0x00ae, 0, 0x0014, X86_CF | X86_AF }, /* daa: 79h + 35h = aeh */
		{ { 0x27 }, 0x002e, 0, 0x0034, X86_AF },
		{ { 0x27 }, 0x009a, 0, 0x0000, X86_CF | X86_AF },
		{ { 0x27 }, 0x0012, X86_CF, 0x0072, X86_CF },
		{ { 0x2f }, 0x00ee, X86_CF | X86_AF, 0x0088, X86_CF | X86_AF }, /* das: 35h - 47h = eeh */
		{ { 0x2f }, 0x0003, X86_AF, 0x00fd, X86_CF | X86_AF },
		{ { 0x2f }, 0x0045, 0, 0x0045, 0 },
		{ { 0x37 }, 0x000b, 0, 0x0101, X86_CF | X86_AF }, /* aaa */
		{ { 0x37 }, 0x00fa, 0, 0x0200, X86_CF | X86_AF }, /* AX + 106h carries into AH */
		{ { 0x37 }, 0x0135, 0, 0x0105, 0 },
		{ { 0x3f }, 0x0205, X86_AF, 0x000f, X86_CF | X86_AF }, /* aas: AX - 106h borrows from AH */
		{ { 0x3f }, 0x020b, 0, 0x0105, X86_CF | X86_AF },
		{ { 0xd4, 10 }, 0x003f, 0, 0x0603, 0 }, /* aam */
		{ { 0xd5, 10 }, 0x0603, 0, 0x003f, 0 }, /* aad */
		{ { 0xd5, 16 }, 0x0f0f, 0, 0x00ff, 0 },
		{ { 0xd6 }, 0x0000, X86_CF, 0x00ff, X86_CF }, /* salc */
	};

	(void)state;
	protected_mode(4, 4);
	for (unsigned n = 0; n < ARRAY_SIZE(t); n++) {
		CODE(t[n].op[0], t[n].op[1]);
		cpu->rip = FAKE_CODE;
		cpu->gpr[X86_RAX] = 0x55550000 | t[n].ax;
		cpu->rflags = X86_FIXED1 | t[n].flags;
		assert_int_equal(exec(), 0);
		assert_int_equal(cpu->gpr[X86_RAX], 0x55550000 | t[n].want);
		if (t[n].op[0] != 0xd4 && t[n].op[0] != 0xd5)
			assert_int_equal(cpu->rflags & (X86_CF | X86_AF), t[n].want_flags);
	}
	CODE(0xd4, 0);
	cpu->rip = FAKE_CODE;
	assert_raises(X86_DE);
}

static void bound(void **state)
{
	(void)state;
	protected_mode(4, 4);
	fake_poke32(f, 0x30000, (uint32_t)-2);
	fake_poke32(f, 0x30004, 5);
	cpu->gpr[X86_RDI] = 0x30000;
	CODE(0x62, 0x07); /* bound eax, [edi] */
	cpu->gpr[X86_RAX] = 6;
	assert_raises(X86_BR);
	cpu->gpr[X86_RAX] = (uint32_t)-3;
	assert_raises(X86_BR);
	cpu->gpr[X86_RAX] = (uint32_t)-2;
	assert_int_equal(exec(), 0);
}

static void division_faults(void **state)
{
	(void)state;
	CODE(0x48, 0xf7, 0xf9); /* idiv rcx */
	cpu->gpr[X86_RAX] = (uint64_t)INT64_MIN;
	cpu->gpr[X86_RDX] = UINT64_MAX;
	cpu->gpr[X86_RCX] = UINT64_MAX;
	assert_raises(X86_DE);
	cpu->gpr[X86_RAX] = 0;
	cpu->gpr[X86_RDX] = (uint64_t)INT64_MIN;
	assert_raises(X86_DE);
	cpu->gpr[X86_RCX] = 0;
	assert_raises(X86_DE);
	cpu->gpr[X86_RAX] = cpu->gpr[X86_RDX] = 0;
	cpu->gpr[X86_RCX] = UINT64_MAX;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX], 0);
}

static void jumps_16(void **state)
{
	(void)state;
	fake_real_mode(f);
	x86_mode_update(cpu);
	cpu->rip = 0;
	CODE(0xeb, 0xfc); /* jmp -4: wraps to 0xfffe */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0xfffe);
	cpu->rip = 0;
	CODE(0xe2, 0x10); /* loop: CX, not ECX */
	cpu->gpr[X86_RCX] = 0x10001;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 2);
	assert_int_equal(cpu->gpr[X86_RCX], 0x10000);
	CODE(0x90, 0x90, 0x67, 0xe3, 0x10, 0xe3, 0x20); /* jecxz; jcxz */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 5);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0x27);
}

/* ---- what the guest's CPUID takes away ---- */

/* 66h before a near branch in 64-bit mode: nothing on Intel, a 16-bit one on AMD (APM 3). */
static void operand_size_of_branches(void **state)
{
	(void)state;
	CODE(0x66, 0xff, 0xd0); /* call rax */
	cpu->gpr[X86_RAX] = 0x12340;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0x12340);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 8);
	cpu->cpuid.count = 1;
	cpu->cpuid.entry[0] = (struct x86_cpuid_entry){ .ebx = 0x68747541, .edx = 0x69746e65, .ecx = 0x444d4163 };
	interp_engine.invalidate(cpu);
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0x2340);
	assert_int_equal(cpu->gpr[X86_RSP], FAKE_STACK - 10);
	CODE(0x66, 0xe9, 0x10, 0x00); /* jmp rel16 */
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, (FAKE_CODE + 0x14) & 0xffff);
}

static void features(void **state)
{
	(void)state;
	cpu->gpr[X86_RCX] = 0x10;
	CODE(0xf3, 0x0f, 0xbd, 0xc1); /* lzcnt eax, ecx */
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX], 27);
	memset(cpu->cpuid.features, 0, sizeof(cpu->cpuid.features));
	interp_engine.invalidate(cpu);
	cpu->rip = FAKE_CODE;
	assert_int_equal(exec(), 0); /* bsr */
	assert_int_equal(cpu->gpr[X86_RAX], 4);
	CODE(0xf3, 0x0f, 0xb8, 0xc1); /* popcnt */
	cpu->rip = FAKE_CODE;
	assert_raises(X86_UD);
	CODE(0xc4, 0xe2, 0x70, 0xf2, 0xc1); /* andn */
	assert_raises(X86_UD);
	CODE(0x66, 0x0f, 0x38, 0xf6, 0xc1); /* adcx */
	assert_raises(X86_UD);
	CODE(0x9f); /* lahf in 64-bit mode */
	assert_raises(X86_UD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(rmw_faults_as_write),
		T(rep_commits_what_is_done),
		T(rep_yields_to_attention),
		T(rep_under_breakpoint),
		T(rep_downwards),
		T(rep_downwards_faults),
		T(rep_downwards_wraps),
		T(rep_respects_limits),
		T(locked_across_pages),
		T(locked_mmio),
		T(cmpxchg16b),
		T(push_pop_64),
		T(pop_to_bad_memory_keeps_sp),
		T(call_ret),
		T(stack_widths),
		T(pusha_popa),
		T(enter_nested),
		T(bcd),
		T(bound),
		T(division_faults),
		T(jumps_16),
		T(operand_size_of_branches),
		T(features),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
