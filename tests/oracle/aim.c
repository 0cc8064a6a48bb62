/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random registers reach no memory and random memory is no stack frame: here an instruction's operands are made to
 * mean something. Most of the time; the rest stays random.
 */
#include "generate.h"

#include <string.h>

/* ---- memory operands ---- */

/* Small indices, as doublewords or quadwords. */
static void small_indices(struct gen *g, ZydisRegister r)
{
	bool quads = one_in(g, 2);
	int id = ZydisRegisterGetId(r);
	unsigned stray = below(g, 40);

	for (unsigned n = 0; n < 16; n++) {
		uint32_t v = quads && (n & 1) ? 0 : below(g, 40) - 4u;

		if (n == stray)
			v = (uint32_t)rnd(g);
		vector_dword_write(&g->c->in, (unsigned)id & 31, n, v);
	}
}

static uint64_t segment_base(const struct test_case *c, ZydisRegister segment)
{
	if (segment == ZYDIS_REGISTER_FS)
		return c->in.fs_base;
	if (segment == ZYDIS_REGISTER_GS)
		return c->in.gs_base;
	return 0;
}

static void patch_disp(uint8_t *bytes, const ZydisDecodedInstruction *zi, uint64_t v)
{
	if (zi->raw.disp.size >= 32 && zi->raw.disp.offset)
		memcpy(bytes + zi->raw.disp.offset, &v, zi->raw.disp.size / 8);
}

/* Base and index so that base + index * scale is `need`. */
static void aim_registers(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperandMem *m,
			  uint64_t need)
{
	struct test_case *c = g->c;
	unsigned base = gpr_number(m->base), index = gpr_number(m->index);
	uint64_t high = zi->address_width == 32 && !c->mode32 && one_in(g, 2) ? rnd(g) << 32 : 0;
	uint64_t mask = zi->address_width == 32 ? 0xffffffff : UINT64_MAX;

	if (m->type == ZYDIS_MEMOP_TYPE_VSIB) {
		small_indices(g, m->index);
		index = 16;
	}
	if (base < 16 && index < 16 && base != index) {
		uint64_t v = one_in(g, 4) ? rnd_value(g) : below(g, 24) - 8u;

		if (one_in(g, 8))
			v = rnd(g) >> 40;
		v = (uint64_t)(int64_t)(int32_t)v;
		set_gpr(c, index, (v & mask) | high);
		need -= v * m->scale;
	} else if (base < 16 && base == index) {
		need /= m->scale + 1u;
	} else if (index < 16) {
		set_gpr(c, index, ((need & mask) / m->scale) | high);
		return;
	}
	set_gpr(c, base, (need & mask) | high);
}

/* Where the operand points to behind it, or 0: it was left alone. */
static uint64_t aim_memory(struct gen *g, uint8_t *bytes, uint64_t rip, const ZydisDecodedInstruction *zi,
			   const ZydisDecodedOperand *o)
{
	const ZydisDecodedOperandMem *m = &o->mem;
	unsigned size = o->size / 8 ? o->size / 8u : 8;
	uint64_t target = rnd_target(g, size > 64 ? 64 : size), linear = target;

	if (zi->address_width == 16 || one_in(g, 24))
		return 0;
	target -= segment_base(g->c, m->segment);
	if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
		patch_disp(bytes, zi, target - (rip + zi->length));
		return linear;
	}
	if (m->base == ZYDIS_REGISTER_NONE && m->index == ZYDIS_REGISTER_NONE) {
		patch_disp(bytes, zi, target);
		if (zi->raw.imm[0].size == 64 || zi->raw.disp.size == 64)
			patch_disp(bytes, zi, target);
		return linear;
	}
	aim_registers(g, zi, m, target - (uint64_t)m->disp.value);
	return linear;
}

/* Strings, XLAT, MASKMOV, CLZERO: a register alone. */
static void aim_hidden(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	struct test_case *c = g->c;

	for (unsigned n = zi->operand_count_visible; n < zi->operand_count; n++) {
		unsigned base;
		uint64_t v;

		if (zo[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		base = gpr_number(zo[n].mem.base);
		if (base == RSP || base == 16 || one_in(g, 24))
			continue;
		v = rnd_target(g, zo[n].size / 8 ? zo[n].size / 8u : 1) - segment_base(c, zo[n].mem.segment);
		if (zi->mnemonic == ZYDIS_MNEMONIC_XLAT)
			v -= c->in.gpr[RAX] & 0xff;
		if (zi->address_width == 32)
			v = (uint32_t)v | (one_in(g, 2) ? rnd(g) << 32 : 0);
		set_gpr(c, base, v);
	}
	if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) {
		uint64_t count = one_in(g, 40) ? rnd(g) >> below(g, 64) : below(g, 24);

		if (zi->address_width == 32 && one_in(g, 2))
			count |= rnd(g) << 32;
		set_gpr(c, RCX, count);
	}
}

/* ---- the stack ---- */

static void aim_stack(struct gen *g, bool used_as_base)
{
	struct test_case *c = g->c;
	uint64_t stack = slot_address(c->slot) + SLOT_STACK;

	if (used_as_base)
		return;
	switch (below(g, 16)) {
	case 0: set_gpr(c, RSP, stack + below(g, 64)); break;
	case 1: set_gpr(c, RSP, stack + 4096 - below(g, 64)); break;
	case 2: set_gpr(c, RSP, rnd_target(g, 8)); break;
	case 3: set_gpr(c, RSP, rnd_value(g)); break;
	default: set_gpr(c, RSP, stack + 0x400 + below(g, 0x200) * 4); break;
	}
	if (!one_in(g, 4))
		set_gpr(c, RBP, stack + 0x600 + below(g, 64) * 8);
}

/* What RET, RETF, IRET and POPF take from it. */
static void make_frame(struct gen *g, const ZydisDecodedInstruction *zi)
{
	struct test_case *c = g->c;
	unsigned w = zi->operand_width / 8u;
	uint64_t at = c->in.gpr[RSP], v[5];
	static const uint16_t code[] = { SEL_USER_CS, SEL_USER_CS, SEL_USER_CS32, 0x13, 0, SEL_USER_DS };

	v[0] = rnd_code_target(g);
	v[1] = one_in(g, 6) ? rnd_selector(g) : code[below(g, ARRAY_SIZE(code))];
	v[2] = (c->in.rflags ^ (rnd(g) & 0xcd5)) | (one_in(g, 8) ? rnd(g) & 0x3f7fd7 : 0);
	v[3] = slot_address(c->slot) + SLOT_STACK + below(g, 4096);
	v[4] = one_in(g, 6) ? rnd_selector(g) : SEL_USER_DS;
	if (zi->mnemonic == ZYDIS_MNEMONIC_POPF || zi->mnemonic == ZYDIS_MNEMONIC_POPFD ||
	    zi->mnemonic == ZYDIS_MNEMONIC_POPFQ)
		v[0] = v[2];
	if (zi->meta.category == ZYDIS_CATEGORY_DATAXFER || zi->meta.category == ZYDIS_CATEGORY_POP)
		v[0] = rnd_selector(g);
	for (unsigned n = 0; n < ARRAY_SIZE(v); n++)
		poke(c, at + n * w, &v[n], w > 8 ? 8 : w);
}

static bool uses_stack(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = zi->operand_count_visible; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY && gpr_number(zo[n].mem.base) == RSP)
			return true;
	return zi->mnemonic == ZYDIS_MNEMONIC_ENTER || zi->mnemonic == ZYDIS_MNEMONIC_LEAVE ||
	       zi->meta.category == ZYDIS_CATEGORY_RET || zi->meta.category == ZYDIS_CATEGORY_CALL;
}

/* ---- branches ---- */

/* A target that ends the case: the next instruction, INT3s around it, or what cannot be fetched. Never itself. */
static void aim_relative(struct gen *g, uint8_t *bytes, uint64_t rip, const ZydisDecodedInstruction *zi)
{
	uint64_t next = rip + zi->length;
	int64_t rel;
	int32_t r32;

	switch (below(g, 4)) {
	case 0: rel = 0; break;
	case 1: rel = -(int64_t)(zi->length + 1u + below(g, 0x30)); break;
	default: rel = 5 + below(g, 0x40); break;
	}
	if (zi->raw.imm[0].size == 32 && one_in(g, 4))
		rel = (int64_t)(rnd_code_target(g) - next);
	if (zi->raw.imm[0].size == 32 && one_in(g, 16))
		rel = (int32_t)(rnd(g) | BIT32(30));
	r32 = (int32_t)rel;
	memcpy(bytes + zi->raw.imm[0].offset, &r32, zi->raw.imm[0].size / 8);
}

/* Indirect targets, far pointers and selectors: in a register, or where the operand points. */
static void aim_pointer(struct gen *g, uint64_t at, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *o)
{
	struct test_case *c = g->c;
	bool far = zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || zi->mnemonic == ZYDIS_MNEMONIC_LSS ||
		   zi->mnemonic == ZYDIS_MNEMONIC_LFS || zi->mnemonic == ZYDIS_MNEMONIC_LGS ||
		   zi->mnemonic == ZYDIS_MNEMONIC_LDS || zi->mnemonic == ZYDIS_MNEMONIC_LES;
	uint64_t v = rnd_code_target(g);
	uint16_t sel = one_in(g, 3)                                ? rnd_selector(g)
		       : far && zi->mnemonic == ZYDIS_MNEMONIC_JMP ? SEL_USER_CS
								   : SEL_USER_DS;

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		set_gpr(c, gpr_number(o->reg.value), v);
		return;
	}
	poke(c, at, &v, far ? zi->operand_width / 8u : 8);
	if (far)
		poke(c, at + zi->operand_width / 8u, &sel, 2);
}

static void aim_selector(struct gen *g, uint64_t at, const ZydisDecodedOperand *o)
{
	uint16_t sel = rnd_selector(g);

	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		unsigned reg = gpr_number(o->reg.value);

		if (reg < 16)
			set_gpr(g->c, reg, (g->c->in.gpr[reg] & ~UINT64_C(0xffff)) | sel);
	} else {
		poke(g->c, at, &sel, 2);
	}
}

/* ---- images ---- */

static void aim_image(struct gen *g, uint64_t at, ZydisMnemonic m)
{
	struct test_case *c = g->c;
	uint8_t image[4096];
	uint64_t mask = features_xcr0();

	memcpy(image, c->in.area, sizeof(c->in.area));
	memset(image + sizeof(c->in.area), 0, sizeof(image) - sizeof(c->in.area));
	/* Another state than the one that is loaded. */
	for (unsigned n = 0; n < 64; n++)
		image[below(g, 2) ? 32 + below(g, 384) : 576 + below(g, STATE_GPR - 576)] ^= (uint8_t)rnd(g);
	if (one_in(g, 8))
		image[below(g, 576)] ^= (uint8_t)rnd(g);
	mask &= rnd(g) | rnd(g);
	if (one_in(g, 16))
		mask ^= BIT64(below(g, 64));
	memcpy(image + 512, &mask, 8);
	if (m == ZYDIS_MNEMONIC_LDMXCSR || m == ZYDIS_MNEMONIC_VLDMXCSR) {
		uint32_t v = (uint32_t)rnd(g) & (one_in(g, 8) ? UINT32_MAX : 0xffff);

		memcpy(image, &v, 4);
	}
	if (!one_in(g, 8))
		poke(c, at, image, STATE_GPR);
}

/* The components that XSAVE and its kin are asked for. */
static void aim_rfbm(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperandMem *m)
{
	if (zi->meta.isa_ext != ZYDIS_ISA_EXT_XSAVE && zi->meta.isa_ext != ZYDIS_ISA_EXT_XSAVEC &&
	    zi->meta.isa_ext != ZYDIS_ISA_EXT_XSAVEOPT)
		return;
	if (gpr_number(m->base) != RAX && gpr_number(m->index) != RAX)
		set_gpr(g->c, RAX, one_in(g, 4) ? rnd(g) : features_xcr0() & (rnd(g) | rnd(g)));
	if (gpr_number(m->base) != RDX && gpr_number(m->index) != RDX)
		set_gpr(g->c, RDX, one_in(g, 4) ? rnd(g) : 0);
}

/* ---- by mnemonic ---- */

static void aim_integer(struct gen *g, uint64_t at, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	struct test_case *c = g->c;
	uint64_t v = rnd_value(g);

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		if (zo[0].size == 8)
			set_gpr(c, RAX, below(g, 0x400));
		else if (!one_in(g, 4))
			set_gpr(c, RDX,
				one_in(g, 2)                          ? 0
				: zi->mnemonic == ZYDIS_MNEMONIC_IDIV ? UINT64_MAX
								      : below(g, 4));
		break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		if (zo[0].type == ZYDIS_OPERAND_TYPE_MEMORY && zo[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    gpr_number(zo[1].reg.value) != gpr_number(zo[0].mem.base) && !one_in(g, 6))
			set_gpr(c, gpr_number(zo[1].reg.value),
				(uint64_t)(int64_t)(int32_t)(below(g, 0x4000) - 0x1000u));
		break;
	case ZYDIS_MNEMONIC_CMPXCHG:
		if (zo[0].type == ZYDIS_OPERAND_TYPE_MEMORY && one_in(g, 2))
			poke64(c, at, c->in.gpr[RAX]);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		if (one_in(g, 2))
			poke64(c, at, (uint32_t)c->in.gpr[RAX] | c->in.gpr[RDX] << 32);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		if (one_in(g, 2)) {
			poke64(c, at, c->in.gpr[RAX]);
			poke64(c, at + 8, c->in.gpr[RDX]);
		}
		break;
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
		set_gpr(c, RAX, below(g, 20));
		set_gpr(c, RDX, below(g, 20));
		break;
	case ZYDIS_MNEMONIC_CLZERO:
		if (!one_in(g, 4))
			set_gpr(c, RAX, rnd_target(g, 1));
		break;
	case ZYDIS_MNEMONIC_XGETBV: set_gpr(c, RCX, below(g, 3)); break;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: set_gpr(c, gpr_number(zo[0].reg.value), one_in(g, 2) ? v : rnd(g) >> 17); break;
	case ZYDIS_MNEMONIC_BOUND: {
		uint64_t pair = rnd(g) & UINT64_C(0x7fffffff0000ffff);

		poke64(c, at, pair);
		set_gpr(c, gpr_number(zo[0].reg.value), below(g, 0x20000));
		break;
	}
	default: break;
	}
}

static void aim_transfer(struct gen *g, uint8_t *bytes, uint64_t rip, uint64_t at, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *zo)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
		if (zo[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
			uint32_t offset = (uint32_t)rnd_code_target(g);
			uint16_t sel = one_in(g, 2) ? SEL_USER_CS32 : rnd_selector(g);

			memcpy(bytes + zi->length - 2, &sel, 2);
			if (zi->operand_width == 32)
				memcpy(bytes + zi->length - 6, &offset, 4);
		} else if (!zi->raw.imm[0].is_relative) {
			aim_pointer(g, at, zi, visible_memory(zi, zo) ? visible_memory(zi, zo) : &zo[0]);
		}
		break;
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL: aim_selector(g, at, &zo[1]); break;
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW: aim_selector(g, at, &zo[0]); break;
	case ZYDIS_MNEMONIC_ARPL:
		aim_selector(g, at, &zo[0]);
		aim_selector(g, at, &zo[1]);
		break;
	case ZYDIS_MNEMONIC_MOV:
		if (zo[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(zo[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			aim_selector(g, at, &zo[1]);
		break;
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JCXZ: set_gpr(g->c, RCX, one_in(g, 2) ? below(g, 3) : rnd(g) << 16); break;
	case ZYDIS_MNEMONIC_INT:
		if (bytes[zi->length - 1] == 0x80) /* Linux's system call */
			bytes[zi->length - 1] = 0x81;
		break;
	default: break;
	}
	if (zi->raw.imm[0].is_relative)
		aim_relative(g, bytes, rip, zi);
}

static bool loads_image(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64: return true;
	default: return false;
	}
}

void aim_instruction(struct gen *g, uint8_t *bytes, uint64_t rip, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	const ZydisDecodedOperand *mem = visible_memory(zi, zo);
	uint64_t at = 0;

	if (mem)
		at = aim_memory(g, bytes, rip, zi, mem);
	if (loads_image(zi->mnemonic)) {
		/* It is long: from the start of the data pages it fits. */
		if (at && mem && !one_in(g, 4)) {
			uint64_t start = slot_address(g->c->slot) + SLOT_DATA + below(g, 32) * 64;
			unsigned base = gpr_number(mem->mem.base);

			if (base < 16 && mem->mem.index != mem->mem.base)
				set_gpr(g->c, base, g->c->in.gpr[base] + start - at);
			at = base < 16 ? start : at;
		}
		aim_image(g, at, zi->mnemonic);
		if (mem)
			aim_rfbm(g, zi, &mem->mem);
	}
	aim_hidden(g, zi, zo);
	if (zi->mnemonic == ZYDIS_MNEMONIC_ENTER && !one_in(g, 4)) {
		bytes[zi->raw.imm[0].offset + 1] = 0; /* or it asks for more stack than there is */
		bytes[zi->raw.imm[1].offset] &= 7;
	}
	if (uses_stack(zi, zo)) {
		aim_stack(g, mem && gpr_number(mem->mem.base) == RSP);
		make_frame(g, zi);
	}
	aim_integer(g, at, zi, zo);
	aim_transfer(g, bytes, rip, at, zi, zo);
}
