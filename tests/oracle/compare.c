/* SPDX-License-Identifier: Apache-2.0 */
/* Is it the same? What of two states is compared, and how; exceptions are tolerate.c's. */
#include "compare.h"

#include <stdio.h>
#include <string.h>

/* ---- XSAVE images ---- */

/* Components in their initial state have unspecified bytes (SDM 1 13.6); reserved fields are not state. */
static void normalize(uint8_t *area)
{
	static const uint8_t init[24] = { 0x7f, 0x03 };
	uint64_t bv;
	uint32_t offset, size;

	memcpy(&bv, area + 512, 8);
	if (!(bv & 1)) {
		memcpy(area, init, 24);
		memset(area + 32, 0, 128);
	}
	if (!(bv & 2))
		memset(area + 160, 0, 256);
	for (unsigned n = 2; n < 8; n++)
		if (!(bv & BIT64(n)) && features_component(n, &offset, &size))
			memset(area + offset, 0, size);
	area[5] = 0;
	if (features_host_is_amd() && !(area[2] & FSW_ES))
		memset(area + 6, 0, 18);
	memset(area + 12, 0, 4); /* FCS and FDS (docs/caveats.md) */
	memset(area + 20, 0, 4);
	memset(area + 28, 0, 4); /* MXCSR_MASK */
	for (unsigned n = 0; n < 8; n++)
		memset(area + 32 + n * 16 + 10, 0, 6);
	memset(area + 416, 0, 160); /* reserved, the kernel's own use, the header */
}

/* ---- both sides made alike ---- */

static void prepare(struct outcome *o, const struct state *s, const struct slot_pages *pages, bool mode32)
{
	o->s = *s;
	o->pages = pages;
	normalize(o->s.area);
	if (o->s.vector != V_PF)
		o->s.cr2 = 0;
	/* Linux reports every kernel address as present (arch/x86/mm/fault.c's promise to user space). */
	if (o->s.vector == V_PF && o->s.cr2 >= UINT64_C(0x7ffffffff000)) /* its TASK_SIZE_MAX */
		o->s.error |= 1;
	/* Null selectors lose their RPL in the IRET to the signal handler (SDM 2A IRET). */
	for (unsigned n = 0; n < 6; n++)
		if (o->s.sel[n] < 4)
			o->s.sel[n] = 0;
	if (mode32) { /* SDM 1 3.4.1.1 */
		for (unsigned n = 0; n < 8; n++)
			o->s.gpr[n] = (uint32_t)o->s.gpr[n];
		memset(&o->s.gpr[8], 0, 64);
		o->s.fs_base = o->s.gs_base = 0;
	}
}

/* The instruction that a result belongs to: the one at RIP of a fault, else the last. -1: RIP is somewhere else. */
static int insn_at(const struct test_case *c, const struct state *s)
{
	uint64_t offset = s->rip - c->in.rip;

	for (unsigned n = 0; n < c->insns; n++)
		if (c->insn[n].at == offset)
			return (int)n;
	return -1;
}

static uint64_t unknown_flags(const struct test_case *c, const struct state *s)
{
	int n = insn_at(c, s);

	return n < 0 ? c->unknown : c->insn[n].unknown;
}

static bool same(const struct outcome *a, const struct outcome *b, uint64_t flags)
{
	return a->s.vector == b->s.vector && a->s.error == b->s.error && a->s.cr2 == b->s.cr2 && a->s.rip == b->s.rip &&
	       !((a->s.rflags ^ b->s.rflags) & flags) && !memcmp(a->s.gpr, b->s.gpr, sizeof(a->s.gpr)) &&
	       a->s.fs_base == b->s.fs_base && a->s.gs_base == b->s.gs_base &&
	       !memcmp(a->s.sel, b->s.sel, sizeof(a->s.sel)) && !memcmp(a->s.area, b->s.area, sizeof(a->s.area)) &&
	       !memcmp(a->pages, b->pages, sizeof(*a->pages));
}

static bool is_trap(uint64_t vector)
{
	return vector == V_DB || vector == V_BP || vector == V_OF || vector >= V_NONE;
}

static bool too_long(const struct test_case *c, const struct state *s)
{
	return s->vector == V_GP && c->len > 15 && !c->sequence;
}

/* One says undefined, the other that there are not enough bytes or too many. */
static bool fetched_otherwise(const struct test_case *c, const struct state *a, const struct state *b)
{
	if (a->rip == b->rip && too_long(c, a) && b->vector == V_PF && (b->error & 0x10))
		return true;
	return a->rip == b->rip && a->vector == V_UD && ((b->vector == V_PF && (b->error & 0x10)) || too_long(c, b));
}

static bool is_prefix(const struct test_case *c, uint8_t byte)
{
	return memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", byte, 11) ||
	       (!c->mode32 && (byte & 0xf0) == 0x40);
}

/* LOCK VERW m16, done by hardware and undefined to the engines. */
static bool is_locked_verw(const struct test_case *c, const struct state *hw, const struct state *emu)
{
	const uint8_t *p = c->code + c->insn[0].at, *end = p + c->insn[0].len;
	bool lock = false;

	for (; p < end && is_prefix(c, *p); p++)
		lock |= *p == 0xf0;
	return lock && end - p > 2 && p[0] == 0x0f && p[1] == 0 && (p[2] & 0x38) == 0x28 && p[2] < 0xc0 &&
	       emu->vector == V_UD && hw->vector != V_UD;
}

bool compare_case(const struct test_case *c, const struct engine *e, const char *program, uint64_t seed, bool report)
{
	static struct outcome hw, emu;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	uint64_t flags = ~UINT64_C(0);
	const struct insn *i;
	int n, m;

	prepare(&hw, native_result_of(c->slot), native_pages_of(c->slot), c->mode32);
	prepare(&emu, engine_result_of(e, c->slot), engine_pages_of(e, c->slot), c->mode32);
	flags &= ~unknown_flags(c, &hw.s);
	if (same(&hw, &emu, flags))
		return true;
	if (c->sequence)
		tolerate_pointers(e, &hw, &emu);
	/* The instruction that differs is one that either side says it faulted in. */
	if (fetched_otherwise(c, &hw.s, &emu.s) || fetched_otherwise(c, &emu.s, &hw.s)) {
		tolerate(TOL_FETCH);
		return true;
	}
	if (!c->sequence && is_locked_verw(c, &hw.s, &emu.s)) {
		tolerate(TOL_LOCK_VERW);
		return true;
	}
	n = c->sequence ? insn_at(c, &hw.s) : 0;
	m = c->sequence ? insn_at(c, &emu.s) : 0;
	for (unsigned k = 0; k < 2; k++) {
		int which = k ? n : m;

		if (which < 0 || (k && n == m))
			continue;
		i = &c->insn[which];
		if (forms_decode(c->mode32, c->code + i->at, i->len, &zi, zo) &&
		    tolerate_instruction(&(struct pair){ c->in.rip + i->at, c->slot, &zi, zo, &hw, &emu, &c->in }))
			return true;
	}
	if (c->sequence && n >= 0 && !is_trap(hw.s.vector) && !strcmp(engine_name(e), "translate") &&
	    ((hw.s.rflags ^ emu.s.rflags) & flags & ARITH_FLAGS)) {
		tolerate(TOL_DEAD_FLAGS);
		flags &= ~ARITH_FLAGS;
	}
	if (same(&hw, &emu, flags))
		return true;
	if (report)
		report_difference(c, e, program, seed, &hw.s, hw.pages, &emu.s, emu.pages, flags);
	return false;
}
