/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is it the same? Where the answer is "no, and that is no mistake", there is a tolerance: a reason, what it hides, and
 * a count of how often it was needed.
 */
#include "compare.h"

#include <stdio.h>
#include <string.h>

tolerance_array *tolerated;

static const char *const tolerance_names[TOL_COUNT] = {
#define TOLERANCE(id, text) [TOL_##id] = text,
#define IGNORED(text)
#include "tolerances.def"
#undef TOLERANCE
#undef IGNORED
};

static const char *const ignored[] = {
#define TOLERANCE(id, text)
#define IGNORED(text) text,
#include "tolerances.def"
#undef TOLERANCE
#undef IGNORED
};

struct outcome {
	struct state s;
	const struct slot_pages *pages;
};

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
	if (features_host_is_amd() && !(area[2] & 0x80)) /* TOL_X87_POINTERS */
		memset(area + 6, 0, 18);
	memset(area + 12, 0, 4); /* FCS and FDS (docs/caveats.md) */
	memset(area + 20, 0, 4);
	memset(area + 28, 0, 4); /* MXCSR_MASK */
	for (unsigned n = 0; n < 8; n++)
		memset(area + 32 + n * 16 + 10, 0, 6);
	memset(area + 416, 0, 160); /* reserved, the kernel's own use, the header */
}

/* ---- tolerances ---- */

static void tolerate(enum tolerance t)
{
	(*tolerated)[t]++;
}

static bool has_register(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, ZydisRegisterClass from,
			 ZydisRegisterClass to)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(zo[n].reg.value) >= from &&
		    ZydisRegisterGetClass(zo[n].reg.value) <= to)
			return true;
	return false;
}

static bool is_mmx(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	return has_register(zi, zo, ZYDIS_REGCLASS_MMX, ZYDIS_REGCLASS_MMX);
}

static bool is_sha(ZydisMnemonic m)
{
	return m >= ZYDIS_MNEMONIC_SHA1MSG1 && m <= ZYDIS_MNEMONIC_SHA256RNDS2;
}

/* Registers whose values are the machine's own. The rest, and the upper halves, are compared. */
static void hide_outputs(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, struct outcome *hw,
			 struct outcome *emu)
{
	uint32_t regs = 0;
	unsigned own = gpr_number(zo[0].reg.value);

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID: regs = BIT32(RAX) | BIT32(RBX) | BIT32(RCX) | BIT32(RDX); break;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_XGETBV: regs = BIT32(RAX) | BIT32(RDX); break;
	case ZYDIS_MNEMONIC_RDTSCP: regs = BIT32(RAX) | BIT32(RCX) | BIT32(RDX); break;
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED: /* CF: none was ready */
		hw->s.rflags &= ~FLAG_CF;
		emu->s.rflags &= ~FLAG_CF;
		/* fall through */
	case ZYDIS_MNEMONIC_RDPID:
		if (own < 16)
			hw->s.gpr[own] = emu->s.gpr[own] = 0;
		tolerate(TOL_OUTPUT);
		return;
	default: return;
	}
	for (unsigned n = 0; n < 16; n++)
		if (regs >> n & 1) {
			hw->s.gpr[n] &= ~UINT64_C(0xffffffff);
			emu->s.gpr[n] &= ~UINT64_C(0xffffffff);
		}
	tolerate(TOL_OUTPUT);
}

static void hide_x87(struct outcome *o)
{
	memset(o->s.area, 0, 24);
	memset(o->s.area + 32, 0, 128);
}

/* A gather's destination above what it gathers. */
static void hide_above(struct state *s, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(zo[0].reg.value) & 31;
	/* Of 32-bit elements with 64-bit indices there are half as many. */
	bool half = zi->mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || zi->mnemonic == ZYDIS_MNEMONIC_VPGATHERQD;

	for (unsigned n = zi->avx.vector_length / (half ? 64 : 32); n < 16; n++)
		vector_dword_write(s, reg, n, 0);
}

static bool is_access_fault(uint64_t vector)
{
	return vector == V_PF || vector == V_SS || vector == V_AC;
}

static bool is_far(const ZydisDecodedInstruction *zi)
{
	return zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || zi->mnemonic == ZYDIS_MNEMONIC_IRET ||
	       zi->mnemonic == ZYDIS_MNEMONIC_IRETD || zi->mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

static bool is_xsave(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_XSAVEOPT: return true;
	default: return false;
	}
}

static bool has_repeat(const ZydisDecodedInstruction *zi)
{
	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		if (zi->raw.prefixes[n].value == 0xf2 || zi->raw.prefixes[n].value == 0xf3)
			return true;
	return false;
}

static bool makes_many_accesses(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
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

/* What one instruction may do differently. True: nothing of this case can be compared. */
static bool tolerate_instruction(uint64_t start, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
				 struct outcome *hw, struct outcome *emu)
{
	bool differ = hw->s.vector != emu->s.vector;

	if (is_sha(zi->mnemonic) && (differ || hw->s.rip != emu->s.rip) && emu->s.vector == V_GP &&
	    features_host_is_amd()) {
		tolerate(TOL_SHA_ALIGNMENT);
		return true;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_INT1 && !differ && hw->s.rip + zi->length == emu->s.rip) {
		tolerate(TOL_INT1);
		hw->s.rip = emu->s.rip;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_SYSEXIT && hw->s.vector == V_GP && emu->s.vector == V_UD &&
	    features_host_is_amd()) {
		tolerate(TOL_SYSEXIT);
		return true;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_CALL && emu->s.vector == V_GP && hw->s.vector == V_PF) {
		tolerate(TOL_CALL);
		return true;
	}
	if (emu->s.vector == V_GP && (is_access_fault(hw->s.vector) || hw->s.vector == V_GP) && is_far(zi)) {
		tolerate(TOL_FAR_RETURN);
		return true;
	}
	if ((is_xsave(zi) || zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ||
	     has_register(zi, zo, ZYDIS_REGCLASS_MMX, ZYDIS_REGCLASS_ZMM)) &&
	    !hw->s.error && !emu->s.error && (emu->s.vector == V_SS || hw->s.vector == V_SS) &&
	    (emu->s.vector == V_GP || hw->s.vector == V_GP)) {
		tolerate(TOL_TWO_FAULTS);
		return true;
	}
	if (is_access_fault(hw->s.vector) && is_access_fault(emu->s.vector) &&
	    (makes_many_accesses(zi->mnemonic) || is_far(zi))) {
		tolerate(TOL_MANY_ACCESSES);
		return true;
	}
	/* Compatibility mode: beyond the segment's limit of 4 GiB. */
	if (hw->s.sel[CS] == SEL_USER_CS32 && zi->avx.vector_length &&
	    ((hw->s.vector == V_GP && emu->s.vector == V_AC) || (hw->s.vector == V_PF && emu->s.vector == V_GP))) {
		tolerate(TOL_TWO_FAULTS);
		return true;
	}
	if (hw->s.vector == V_GP && differ && features_host_is_amd() && visible_memory(zi, zo) &&
	    (visible_memory(zi, zo)->mem.segment == ZYDIS_REGISTER_FS ||
	     visible_memory(zi, zo)->mem.segment == ZYDIS_REGISTER_GS)) {
		tolerate(TOL_SEGMENT_WRAP);
		return true;
	}
	if (is_xsave(zi) && ((hw->s.vector == V_PF && emu->s.rip != start) ||
			     (emu->s.sel[CS] == SEL_USER_CS32 && hw->s.rip != start && emu->s.vector == V_GP))) {
		tolerate(TOL_XSAVE_EXTENT);
		return true;
	}
	if (is_xsave(zi) && (hw->s.rflags & FLAG_AC) && hw->s.vector == V_AC && emu->s.vector == V_GP) {
		tolerate(TOL_XSAVE_ALIGNMENT);
		return true;
	}
	if ((zi->mnemonic == ZYDIS_MNEMONIC_LOOPE || zi->mnemonic == ZYDIS_MNEMONIC_LOOPNE) && has_repeat(zi)) {
		tolerate(TOL_REPEAT);
		return true;
	}
	if ((zi->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || zi->mnemonic == ZYDIS_MNEMONIC_WRGSBASE) &&
	    hw->s.vector == V_GP && hw->s.rip == start && emu->s.rip != start && !features_host_has_la57()) {
		tolerate(TOL_LA57);
		return true;
	}
	if (hw->s.vector == V_DB && emu->s.vector == V_PF && (hw->s.rflags & FLAG_TF) && visible_memory(zi, zo) &&
	    visible_memory(zi, zo)->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
		tolerate(TOL_GATHER_TRAP);
		return true;
	}
	if (is_mmx(zi, zo) && hw->s.vector < V_NONE && memcmp(hw->s.area, emu->s.area, 160)) {
		tolerate(TOL_MMX_FAULT);
		hide_x87(hw);
		hide_x87(emu);
	}
	if (differ && (hw->s.vector == V_AC || emu->s.vector == V_AC) && zi->avx.vector_length &&
	    !features_host_is_amd()) {
		tolerate(TOL_VECTOR_AC);
		return true;
	}
	if (!differ && hw->s.vector < V_NONE && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
	    zi->meta.category == ZYDIS_CATEGORY_GATHER) {
		tolerate(TOL_GATHER);
		hide_above(&hw->s, zi, zo);
		hide_above(&emu->s, zi, zo);
	}
	if (hw->s.vector == V_XM && !differ && hw->s.area[24] != emu->s.area[24]) {
		switch (zi->mnemonic) {
		case ZYDIS_MNEMONIC_DPPS:
		case ZYDIS_MNEMONIC_DPPD:
		case ZYDIS_MNEMONIC_VDPPS:
		case ZYDIS_MNEMONIC_VDPPD:
			tolerate(TOL_DPPS);
			hw->s.area[24] = emu->s.area[24] = 0;
			break;
		default:
			if (!(hw->s.area[24] & 0x18))
				break;
			tolerate(TOL_INEXACT);
			hw->s.area[24] &= 0xdf;
			emu->s.area[24] &= 0xdf;
		}
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		if (hw->s.vector == V_PF || (hw->s.vector == V_GP && differ)) {
			hw->s.cr2 = emu->s.cr2 = 0;
			hw->s.error = emu->s.error;
			tolerate(TOL_MASKMOV);
			return differ || hw->s.rip != emu->s.rip;
		}
		break;
	default: break;
	}
	if (!differ && hw->s.rip == emu->s.rip && hw->s.rip != start)
		hide_outputs(zi, zo, hw, emu);
	return false;
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
	/* The instruction that differs is one that either side says it faulted in. */
	if (fetched_otherwise(c, &hw.s, &emu.s) || fetched_otherwise(c, &emu.s, &hw.s)) {
		tolerate(TOL_FETCH);
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
		    tolerate_instruction(c->in.rip + i->at, &zi, zo, &hw, &emu))
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

void compare_print_tolerances(void)
{
	for (unsigned n = 0; n < TOL_COUNT; n++)
		if ((*tolerated)[n])
			printf("tolerated %lu times: %s\n", (unsigned long)(*tolerated)[n], tolerance_names[n]);
	for (unsigned n = 0; n < ARRAY_SIZE(ignored); n++)
		printf("not compared: %s\n", ignored[n]);
}
