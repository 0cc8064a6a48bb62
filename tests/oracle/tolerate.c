/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the answer to "is it the same?" is "no, and that is no mistake", there is a tolerance: when it applies, why,
 * and a count of how often it was needed. Reasons: tolerances.def.
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

void tolerate(enum tolerance t)
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

/*
 * Of instructions that make many accesses: how many bytes from the first to the last. 0: of others. Returns look
 * at the outer stack's slots behind what RET releases before they refuse them.
 */
static uint64_t extent(const struct pair *p)
{
	const ZydisDecodedOperand *mem = visible_memory(p->zi, p->zo);
	uint64_t slot = p->zi->operand_width / 8;

	if (is_xsave(p->zi))
		return p->zi->meta.isa_set == ZYDIS_ISA_SET_FXSAVE || p->zi->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64
			       ? 512
			       : STATE_GPR;
	switch (p->zi->mnemonic) {
	case ZYDIS_MNEMONIC_ENTER: return ((p->zo[1].imm.value.u & 31) + 1) * slot;
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD: return 8 * slot;
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV: return mem->size / 8;
	default: break;
	}
	if (!is_far(p->zi))
		return 0;
	switch (p->zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP: return slot + 2;
	case ZYDIS_MNEMONIC_CALL: return 2 * slot;
	case ZYDIS_MNEMONIC_RET:
		return 5 * slot + (p->zo[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? p->zo[0].imm.value.u : 0);
	default: return 5 * slot;
	}
}

/* ---- outcomes that say nothing about each other ---- */

static bool differ(const struct pair *p)
{
	return p->hw->s.vector != p->emu->s.vector;
}

static bool either_is(const struct pair *p, uint64_t vector)
{
	return p->hw->s.vector == vector || p->emu->s.vector == vector;
}

static bool is_sha_alignment(const struct pair *p)
{
	return is_sha(p->zi->mnemonic) && p->emu->s.vector == V_GP && features_host_is_amd();
}

static bool is_sysexit(const struct pair *p)
{
	return p->zi->mnemonic == ZYDIS_MNEMONIC_SYSEXIT && p->hw->s.vector == V_GP && p->emu->s.vector == V_UD &&
	       features_host_is_amd();
}

static bool is_call(const struct pair *p)
{
	return p->zi->mnemonic == ZYDIS_MNEMONIC_CALL && p->emu->s.vector == V_GP && is_access_fault(p->hw->s.vector);
}

/* Of what hardware has at a linear address, or NULL. */
static const uint8_t *hardware_bytes(const struct pair *p, uint64_t at, uint64_t len)
{
	for (unsigned n = 0; n < SLOT_PAGES; n++) {
		uint64_t offset = at - (slot_address(p->slot) + slot_page_offset(n));

		if (offset <= 4096 - len)
			return (const uint8_t *)p->hw->pages + n * 4096 + offset;
	}
	return NULL;
}

/* RIP of the frame that IRETQ finds: hardware refuses it before it looks at CS. */
static bool returns_nowhere(const struct pair *p)
{
	const uint8_t *bytes = hardware_bytes(p, p->hw->s.gpr[RSP], 8);
	int64_t rip;

	if (p->zi->mnemonic != ZYDIS_MNEMONIC_IRETQ || !bytes)
		return false;
	memcpy(&rip, bytes, 8);
	return (int64_t)((uint64_t)rip << 16) >> 16 != rip;
}

/* The engines refuse what they have read; hardware first reads the rest. */
static bool is_far_return(const struct pair *p)
{
	const struct state *hw = &p->hw->s;

	return is_far(p->zi) && p->emu->s.vector == V_GP &&
	       ((hw->vector == V_PF && hw->error == 4 && hw->cr2 - hw->gpr[RSP] < extent(p)) || hw->vector == V_AC ||
		(hw->vector == V_GP && !hw->error && p->emu->s.error && returns_nowhere(p)));
}

/*
 * Compatibility mode: operands that hardware accesses in parts (of many accesses, far pointers, 80 bits), and it
 * faulted in one below the limit.
 */
static bool crosses_limit(const struct pair *p)
{
	const ZydisDecodedOperand *mem = visible_memory(p->zi, p->zo);
	ZydisRegister segment = mem ? mem->mem.segment : ZYDIS_REGISTER_NONE;
	uint64_t base = segment == ZYDIS_REGISTER_FS   ? p->in->fs_base
			: segment == ZYDIS_REGISTER_GS ? p->in->gs_base
						       : 0;

	return p->hw->s.sel[CS] == SEL_USER_CS32 &&
	       (uint32_t)(p->hw->s.cr2 - base) > UINT32_MAX - (extent(p) ? extent(p) : 10) &&
	       (extent(p) || p->zi->meta.category == ZYDIS_CATEGORY_SEGOP || (mem && mem->size == 80));
}

static bool is_maskmov_mnemonic(const ZydisDecodedInstruction *zi)
{
	return zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	       zi->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/* MASKMOV at [rDI] beyond the segment's limit of 4 GiB: there it is misaligned, too. */
static bool is_maskmov_beyond(const struct pair *p)
{
	unsigned n = p->zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16;

	return is_maskmov_mnemonic(p->zi) && p->zi->address_width == 32 &&
	       (uint32_t)p->hw->s.gpr[RDI] > UINT32_MAX - n + 1;
}

static bool is_two_faults(const struct pair *p)
{
	bool aligned = is_xsave(p->zi) || p->zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ||
		       has_register(p->zi, p->zo, ZYDIS_REGCLASS_MMX, ZYDIS_REGCLASS_ZMM);

	if (aligned && !p->hw->s.error && !p->emu->s.error && p->hw->s.vector == V_GP && p->emu->s.vector == V_SS)
		return true;
	/* Compatibility mode: beyond the segment's limit of 4 GiB. */
	if (p->hw->s.vector == V_PF && crosses_limit(p))
		return p->emu->s.vector == V_GP || p->emu->s.vector == V_SS;
	if (p->hw->s.sel[CS] != SEL_USER_CS32)
		return false;
	if (p->hw->s.vector == V_GP && p->emu->s.vector == V_AC)
		return p->zi->avx.vector_length || is_maskmov_beyond(p);
	return p->zi->avx.vector_length && p->hw->s.vector == V_PF && p->emu->s.vector == V_GP;
}

/* Before the segment's base, of an instruction that hardware has not done. */
static uint64_t offset_of(const struct pair *p, const ZydisDecodedOperand *mem)
{
	const uint64_t *gpr = p->hw->s.gpr;
	uint64_t a = mem->mem.disp.has_displacement ? (uint64_t)mem->mem.disp.value : 0;
	unsigned base = gpr_number(mem->mem.base), index = gpr_number(mem->mem.index);

	if (mem->mem.base == ZYDIS_REGISTER_RIP || mem->mem.base == ZYDIS_REGISTER_EIP)
		a += p->start + p->zi->length;
	else
		a += base < 16 ? gpr[base] : 0;
	a += index < 16 ? gpr[index] * mem->mem.scale : 0;
	return a & UINT64_MAX >> (64 - p->zi->address_width);
}

static uint64_t base_of(const struct pair *p, const ZydisDecodedOperand *mem)
{
	const struct state *s = p->hw->s.sel[CS] == SEL_USER_CS32 ? p->in : &p->hw->s;

	return mem->mem.segment == ZYDIS_REGISTER_FS   ? s->fs_base
	       : mem->mem.segment == ZYDIS_REGISTER_GS ? s->gs_base
						       : 0;
}

static bool is_canonical(uint64_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static bool is_segment_wrap(const struct pair *p)
{
	const ZydisDecodedOperand *mem = visible_memory(p->zi, p->zo);
	uint64_t base, offset;

	if (p->hw->s.vector != V_GP || !differ(p) || p->hw->s.rip != p->start || p->hw->s.sel[CS] == SEL_USER_CS32 ||
	    !features_host_is_amd() || !mem ||
	    (mem->mem.segment != ZYDIS_REGISTER_FS && mem->mem.segment != ZYDIS_REGISTER_GS))
		return false;
	base = base_of(p, mem);
	offset = offset_of(p, mem);
	return !is_canonical(offset) && (int64_t)(base ^ offset) < 0 && is_canonical(base + offset);
}

static bool is_xsave_extent(const struct pair *p)
{
	/* Is the area bad, or not all there? */
	if ((p->zi->mnemonic == ZYDIS_MNEMONIC_XRSTOR || p->zi->mnemonic == ZYDIS_MNEMONIC_XRSTOR64) &&
	    p->hw->s.vector == V_PF && !(p->hw->s.error & 2) && p->emu->s.vector == V_GP)
		return true;
	return is_xsave(p->zi) &&
	       ((p->hw->s.vector == V_PF && p->emu->s.rip != p->start) ||
		(p->emu->s.sel[CS] == SEL_USER_CS32 && p->hw->s.rip != p->start && p->emu->s.vector == V_GP));
}

static bool is_xsave_alignment(const struct pair *p)
{
	return is_xsave(p->zi) && p->hw->s.vector == V_AC && p->emu->s.vector == V_GP;
}

/* Its effect on memory alone; components that were loaded as initial may count as in use. */
static bool is_xinuse(const struct pair *p)
{
	uint64_t bv;

	memcpy(&bv, p->in->area + 512, 8);
	return is_xsave(p->zi) && bv != features_xcr0() && p->hw->s.vector == V_NONE && p->emu->s.vector == V_NONE &&
	       memcmp(p->hw->pages, p->emu->pages, sizeof(*p->hw->pages)) &&
	       !memcmp(p->hw->s.area, p->emu->s.area, sizeof(p->hw->s.area)) &&
	       !memcmp(p->hw->s.gpr, p->emu->s.gpr, sizeof(p->hw->s.gpr));
}

static bool is_repeat(const struct pair *p)
{
	return (p->zi->mnemonic == ZYDIS_MNEMONIC_LOOPE || p->zi->mnemonic == ZYDIS_MNEMONIC_LOOPNE) &&
	       has_repeat(p->zi);
}

static bool is_clzero(const struct pair *p)
{
	return p->zi->mnemonic == ZYDIS_MNEMONIC_CLZERO && p->emu->s.vector == V_UD && has_repeat(p->zi);
}

static bool is_la57(const struct pair *p)
{
	return (p->zi->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || p->zi->mnemonic == ZYDIS_MNEMONIC_WRGSBASE) &&
	       p->hw->s.vector == V_GP && p->hw->s.rip == p->start && p->emu->s.rip != p->start &&
	       !features_host_has_la57();
}

static bool is_gather_trap(const struct pair *p)
{
	const ZydisDecodedOperand *mem = visible_memory(p->zi, p->zo);

	return p->hw->s.vector == V_DB &&
	       (p->emu->s.vector == V_PF || p->emu->s.vector == V_GP || p->emu->s.vector == V_SS) &&
	       (p->hw->s.rflags & FLAG_TF) && mem && mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

static bool is_vector_ac(const struct pair *p)
{
	return (differ(p) || p->hw->s.rip != p->emu->s.rip) && either_is(p, V_AC) && p->zi->avx.vector_length &&
	       (!features_host_is_amd() || p->zi->meta.category == ZYDIS_CATEGORY_COMPRESS);
}

/*
 * Hardware has faulted in the operand, some bytes of which are masked off; the engines not, or at another byte, an
 * active one.
 */
static bool is_maskmov(const struct pair *p)
{
	const struct state *hw = &p->hw->s, *emu = &p->emu->s;
	bool mmx = p->zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	unsigned n = mmx ? 8 : 16, off = 0, regs[3] = { 0 }, count = 0;
	uint64_t at = 0, mask = UINT64_MAX >> (64 - p->zi->address_width);
	const uint8_t *bytes;

	if (!is_maskmov_mnemonic(p->zi) || hw->rip != p->start)
		return false;
	for (unsigned k = 0; k < p->zi->operand_count; k++) {
		if (p->zo[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			at = offset_of(p, &p->zo[k]) + base_of(p, &p->zo[k]);
		else if (p->zo[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && count < ARRAY_SIZE(regs))
			regs[count++] = (unsigned)ZydisRegisterGetId(p->zo[k].reg.value);
	}
	/* The mask is the second one. MMX registers count from TOP. */
	bytes = mmx ? hw->area + 32 + 16 * ((regs[1] - (hw->area[3] >> 3)) & 7) : hw->area + 160 + 16 * regs[1];
	for (unsigned k = 0; k < n; k++)
		off += !(bytes[k] & 0x80);
	if (!off || (emu->rip == p->start && emu->vector != V_PF && emu->vector != V_GP && emu->vector != V_SS))
		return false;
	if (emu->vector == V_PF && emu->rip == p->start && ((emu->cr2 - at) & mask) >= n)
		return false;
	return hw->vector == V_GP || (hw->vector == V_PF && ((hw->cr2 - at) & mask) < n);
}

static bool is_cmps_mnemonic(const ZydisDecodedInstruction *zi)
{
	return zi->meta.category == ZYDIS_CATEGORY_STRINGOP && zi->mnemonic >= ZYDIS_MNEMONIC_CMPSB &&
	       zi->mnemonic <= ZYDIS_MNEMONIC_CMPSW;
}

/* Is a reading at the string operand [rSI] none that hardware could do? */
static bool source_is_beyond(const struct pair *p)
{
	const ZydisDecodedOperand *mem = &p->zo[0];
	uint64_t mask = UINT64_MAX >> (64 - p->zi->address_width), a = p->hw->s.gpr[RSI] & mask;
	bool fs = mem->mem.segment == ZYDIS_REGISTER_FS, gs = mem->mem.segment == ZYDIS_REGISTER_GS;

	if (p->hw->s.sel[CS] == SEL_USER_CS32)
		return (fs && !p->hw->s.sel[FS]) || (gs && !p->hw->s.sel[GS]);
	a += fs ? p->in->fs_base : gs ? p->in->gs_base : 0;
	return (uint64_t)((int64_t)(a << 16) >> 16) != a;
}

/*
 * Both operands fault: the engines raise [rDI]'s fault, hardware [rSI]'s. On AMD of REPE CMPSB alone. The rest of the
 * outcome is compared as ever.
 */
static bool is_cmps(const struct pair *p)
{
	const struct state *hw = &p->hw->s, *emu = &p->emu->s;
	uint64_t mask = UINT64_MAX >> (64 - p->zi->address_width), size = p->zi->operand_width / 8;

	if (!is_cmps_mnemonic(p->zi) || (hw->vector == emu->vector && hw->cr2 == emu->cr2))
		return false;
	if (features_host_is_amd() &&
	    (p->zi->mnemonic != ZYDIS_MNEMONIC_CMPSB || !(p->zi->attributes & ZYDIS_ATTRIB_HAS_REPE)))
		return false;
	if (emu->vector == V_PF && ((emu->cr2 - emu->gpr[RDI]) & mask) >= size)
		return false;
	if (!is_access_fault(emu->vector) && emu->vector != V_GP)
		return false;
	if (hw->vector == V_PF)
		return ((hw->cr2 - hw->gpr[RDI]) & mask) >= size || hw->cr2 != emu->cr2;
	return hw->vector == V_AC || ((hw->vector == V_GP || hw->vector == V_SS) && source_is_beyond(p));
}

/* Both faults are page faults of one operand, at two of its bytes. */
static bool is_many_accesses(const struct pair *p)
{
	const struct state *hw = &p->hw->s, *emu = &p->emu->s;
	uint64_t n = extent(p), mask = UINT64_MAX >> (64 - p->zi->address_width);

	return n && hw->vector == V_PF && emu->vector == V_PF && hw->cr2 != emu->cr2 &&
	       (((hw->cr2 - emu->cr2) & mask) < n || ((emu->cr2 - hw->cr2) & mask) < n);
}

/* Far CALL from 64-bit code to 32-bit code with its stack above 4 GiB: hardware has pushed at ESP. */
static bool is_truncated_push(const struct pair *p)
{
	const struct state *hw = &p->hw->s, *emu = &p->emu->s;
	uint64_t n = extent(p), rsp = hw->gpr[RSP];

	return p->zi->mnemonic == ZYDIS_MNEMONIC_CALL && n && features_host_is_amd() && hw->sel[CS] != SEL_USER_CS32 &&
	       hw->vector == V_PF && emu->vector == V_PF && rsp >> 32 && (uint32_t)rsp - hw->cr2 - 1 < n &&
	       rsp - emu->cr2 - 1 < n;
}

/* What hardware had stored below rSP when it faulted: made as the engine's, which store nothing then. */
static void hide_pushes(const struct pair *p, uint64_t end)
{
	static struct slot_pages pages;
	uint64_t start = end - extent(p);
	uint8_t *to = (uint8_t *)&pages;
	const uint8_t *from = (const uint8_t *)p->emu->pages;

	pages = *p->hw->pages;
	for (unsigned n = 0; n < SLOT_PAGES; n++) {
		uint64_t page = slot_address(p->slot) + slot_page_offset(n);

		for (uint64_t a = 0; a < 4096; a++)
			if (page + a - start < end - start)
				to[n * 4096 + a] = from[n * 4096 + a];
	}
	p->hw->pages = &pages;
}

/* What FXSAVE and its kin had stored: all that differs lies within one operand. */
static bool is_partly_saved(const struct pair *p)
{
	const uint8_t *a = (const uint8_t *)p->hw->pages, *b = (const uint8_t *)p->emu->pages;
	uint64_t first = 0, last = 0;

	if ((!is_xsave(p->zi) && p->zi->mnemonic != ZYDIS_MNEMONIC_FNSAVE &&
	     p->zi->mnemonic != ZYDIS_MNEMONIC_FNSTENV) ||
	    !(is_access_fault(p->hw->s.vector) || p->hw->s.vector == V_GP) || p->hw->s.rip != p->start)
		return false;
	for (unsigned n = 0; n < sizeof(*p->hw->pages); n++)
		if (a[n] != b[n]) {
			last = slot_page_offset(n / 4096) + n % 4096;
			first = first ? first : last;
		}
	return first && last - first < extent(p);
}

static bool is_partly_pushed(const struct pair *p)
{
	const struct state *hw = &p->hw->s;
	bool pushes = p->zi->mnemonic == ZYDIS_MNEMONIC_ENTER || p->zi->mnemonic == ZYDIS_MNEMONIC_PUSHA ||
		      p->zi->mnemonic == ZYDIS_MNEMONIC_PUSHAD || p->zi->mnemonic == ZYDIS_MNEMONIC_CALL;

	return pushes && extent(p) && (is_access_fault(hw->vector) || hw->vector == V_GP) && hw->rip == p->start &&
	       memcmp(p->hw->pages, p->emu->pages, sizeof(*p->hw->pages));
}

/* It has read frame pointers that it had itself written, before a page that it ends with was there. */
static bool is_entered_twice(const struct pair *p)
{
	uint64_t level = p->zi->mnemonic == ZYDIS_MNEMONIC_ENTER ? p->zo[1].imm.value.u & 31 : 0;
	uint64_t read = p->in->gpr[RBP] - 8 * (level - 1), written = p->in->gpr[RSP] - extent(p);

	return level >= 2 && p->zi->operand_width == 64 && !differ(p) && p->hw->s.vector == V_NONE &&
	       read < p->in->gpr[RSP] && written < p->in->gpr[RBP] &&
	       memcmp(p->hw->pages, p->emu->pages, sizeof(*p->hw->pages));
}

/* POPA that faults: registers whose values hardware had already read have them. */
static bool is_partly_popped(const struct pair *p)
{
	const struct state *hw = &p->hw->s, *emu = &p->emu->s;
	uint64_t slot = p->zi->operand_width / 8;
	bool any = false;

	if ((p->zi->mnemonic != ZYDIS_MNEMONIC_POPA && p->zi->mnemonic != ZYDIS_MNEMONIC_POPAD) ||
	    !is_access_fault(hw->vector))
		return false;
	for (unsigned n = 0; n < 8; n++) {
		const uint8_t *bytes = hardware_bytes(p, p->in->gpr[RSP] + (7 - n) * slot, slot);
		uint64_t v = emu->gpr[n];

		if (hw->gpr[n] == v)
			continue;
		if (n == RSP || !bytes)
			return false;
		memcpy(&v, bytes, slot);
		if (hw->gpr[n] != v)
			return false;
		any = true;
	}
	return any;
}

static const struct {
	bool (*applies)(const struct pair *p);
	enum tolerance tolerance;
} incomparable[] = {
	{ is_sha_alignment, TOL_SHA_ALIGNMENT },
	{ is_sysexit, TOL_SYSEXIT },
	{ is_call, TOL_CALL },
	{ is_far_return, TOL_FAR_RETURN },
	{ is_two_faults, TOL_TWO_FAULTS },
	{ is_xsave_extent, TOL_XSAVE_EXTENT },
	{ is_xsave_alignment, TOL_XSAVE_ALIGNMENT },
	{ is_xinuse, TOL_XINUSE },
	{ is_segment_wrap, TOL_SEGMENT_WRAP },
	{ is_repeat, TOL_REPEAT },
	{ is_clzero, TOL_CLZERO },
	{ is_la57, TOL_LA57 },
	{ is_gather_trap, TOL_GATHER_TRAP },
	{ is_vector_ac, TOL_VECTOR_AC },
	{ is_maskmov, TOL_MASKMOV },
};

/* ---- parts of the state ---- */

static void hide_mxcsr_flags(const struct pair *p)
{
	uint8_t *hw = &p->hw->s.area[24], *emu = &p->emu->s.area[24];

	switch (p->zi->mnemonic) {
	case ZYDIS_MNEMONIC_DPPS:
	case ZYDIS_MNEMONIC_DPPD:
	case ZYDIS_MNEMONIC_VDPPS:
	case ZYDIS_MNEMONIC_VDPPD:
		tolerate(TOL_DPPS);
		*hw = *emu = 0;
		break;
	default:
		if (!(*hw & 0x18)) /* overflow, underflow */
			break;
		tolerate(TOL_INEXACT);
		*hw &= 0xdf;
		*emu &= 0xdf;
	}
}

bool tolerate_instruction(const struct pair *p)
{
	struct state *hw = &p->hw->s, *emu = &p->emu->s;

	for (unsigned n = 0; n < ARRAY_SIZE(incomparable); n++)
		if (incomparable[n].applies(p)) {
			tolerate(incomparable[n].tolerance);
			return true;
		}
	if (is_cmps(p)) {
		tolerate(TOL_CMPS);
		hw->vector = emu->vector;
		hw->error = emu->error;
		hw->cr2 = emu->cr2;
	}
	if (is_truncated_push(p)) {
		tolerate(TOL_TRUNCATED_PUSH);
		hw->error = emu->error;
		hw->cr2 = emu->cr2;
	}
	if (is_many_accesses(p)) {
		tolerate(TOL_MANY_ACCESSES);
		hw->error = emu->error;
		hw->cr2 = emu->cr2;
	}
	if (is_partly_pushed(p)) {
		tolerate(TOL_PARTLY_PUSHED);
		hide_pushes(p, p->hw->s.gpr[RSP]);
	}
	if (is_entered_twice(p)) {
		tolerate(TOL_ENTERED_TWICE);
		hide_pushes(p, p->in->gpr[RSP]);
	}
	if (is_partly_saved(p)) {
		tolerate(TOL_PARTLY_SAVED);
		p->hw->pages = p->emu->pages;
	}
	if (is_partly_popped(p)) {
		tolerate(TOL_PARTLY_POPPED);
		memcpy(hw->gpr, emu->gpr, 64);
	}
	if (is_mmx(p->zi, p->zo) && hw->vector < V_NONE && memcmp(hw->area, emu->area, 160)) {
		tolerate(TOL_MMX_FAULT);
		hide_x87(p->hw);
		hide_x87(p->emu);
	}
	if (differ(p))
		return false;
	if (p->zi->mnemonic == ZYDIS_MNEMONIC_INT1 && hw->rip + p->zi->length == emu->rip) {
		tolerate(TOL_INT1);
		hw->rip = emu->rip;
	}
	if (hw->vector < V_NONE && p->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
	    p->zi->meta.category == ZYDIS_CATEGORY_GATHER) {
		tolerate(TOL_GATHER);
		hide_above(hw, p->zi, p->zo);
		hide_above(emu, p->zi, p->zo);
	}
	if (hw->vector == V_XM && hw->area[24] != emu->area[24])
		hide_mxcsr_flags(p);
	if (hw->rip == emu->rip && hw->rip != p->start)
		hide_outputs(p->zi, p->zo, p->hw, p->emu);
	return false;
}

/*
 * FOP, FIP and FDP that are gone on one side. By stops of direct execution on the engine's; on hardware's by a switch
 * to another process.
 */
void tolerate_pointers(const struct engine *e, struct outcome *hw, struct outcome *emu)
{
	static const struct {
		uint8_t at, size;
	} field[] = { { 6, 2 }, { 8, 8 }, { 16, 8 } };
	static const uint8_t zero[8];
	bool direct = !strcmp(engine_name(e), "translate");

	if (!features_host_is_amd() || !(hw->s.area[2] & emu->s.area[2] & FSW_ES))
		return;
	for (unsigned n = 0; n < ARRAY_SIZE(field); n++) {
		uint8_t *a = hw->s.area + field[n].at, *b = emu->s.area + field[n].at;

		if (!memcmp(a, b, field[n].size) ||
		    (memcmp(a, zero, field[n].size) && (!direct || memcmp(b, zero, field[n].size))))
			continue;
		tolerate(TOL_X87_POINTERS);
		memset(a, 0, field[n].size);
		memset(b, 0, field[n].size);
	}
}

void compare_print_tolerances(void)
{
	for (unsigned n = 0; n < TOL_COUNT; n++)
		if ((*tolerated)[n])
			printf("tolerated %lu times: %s\n", (unsigned long)(*tolerated)[n], tolerance_names[n]);
	for (unsigned n = 0; n < ARRAY_SIZE(ignored); n++)
		printf("not compared: %s\n", ignored[n]);
}
