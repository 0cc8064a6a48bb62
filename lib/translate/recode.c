/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's instruction with other registers and another memory operand. */
#include "translate/block.h"

struct recode {
	unsigned reg, rm, vvvv; /* host numbers; reg and rm as encoded if they are no general register */
	unsigned opcode;
	bool modrm;
	bool opcode_reg; /* rm is in the opcode */
	const struct host_mem *mem;
	bool no_rex; /* names AH, CH, DH or BH */
	bool rex;    /* had a REX: SPL, BPL, SIL, DIL */
};

static unsigned recode_rm(const struct recode *r)
{
	return !r->mem ? r->rm : r->mem->base == HOST_NONE ? 0 : r->mem->base;
}

static unsigned recode_index(const struct recode *r)
{
	return r->mem && r->mem->index != HOST_NONE ? r->mem->index : 0;
}

/* ModRM, SIB and displacement. EVEX scales a displacement of 8 bits (SDM 2 2.7.5): not used. */
static void emit_operand(struct emit *e, unsigned reg, const struct host_mem *m, bool evex)
{
	unsigned mod = !m->disp && (m->base & 7) != 5 ? 0 : m->disp == (int8_t)m->disp && !evex ? 0x40 : 0x80;
	unsigned base = m->base & 7;
	bool sib = m->index != HOST_NONE || base == 4, absolute = m->base == HOST_NONE;

	if (absolute) { /* SDM 2 table 2-3: no base with mod 0 and base 5 */
		sib = true;
		mod = 0;
		base = 5;
	}
	emit8(e, mod | (reg & 7) << 3 | (sib ? 4 : base));
	if (sib)
		emit8(e, m->shift << 6 | (m->index == HOST_NONE ? 4 : m->index & 7) << 3 | base);
	if (mod == 0x40)
		emit8(e, (uint8_t)m->disp);
	else if (mod || absolute)
		emit32(e, (uint32_t)m->disp);
}

void recode_emit_mem(struct emit *e, bool w, unsigned op, unsigned reg, const struct host_mem *m)
{
	emit_rex(e, w, reg, m->index == HOST_NONE ? 0 : m->index, m->base == HOST_NONE ? 0 : m->base);
	emit8(e, op);
	emit_operand(e, reg, m, false);
}

static void emit_modrm(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	unsigned imm = (zi->raw.imm[0].size + zi->raw.imm[1].size) / 8;

	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && !imm)
		for (unsigned n = 0; n < zi->operand_count_visible; n++)
			if (i->zo[n].encoding == ZYDIS_OPERAND_ENCODING_IS4)
				imm = 1;
	if (r->mem)
		emit_operand(&b->e, r->reg, r->mem, zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX);
	else if (r->modrm)
		emit8(&b->e, 0xc0 | (r->reg & 7) << 3 | (r->rm & 7));
	emit_bytes(&b->e, i->ii.raw + zi->length - imm, imm);
}

/* Not those of segments and addresses, nor what the instruction ignores. */
static bool prefix_matters(const ZydisDecodedInstruction *zi, unsigned n)
{
	uint8_t v = zi->raw.prefixes[n].value;

	return zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY || v == 0xf0 ||
	       (v == 0x66 && zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_EFFECTIVE);
}

static void emit_legacy(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct emit *e = &b->e;
	unsigned rex, rm = recode_rm(r);

	/* Each once: repeated, they would leave no room for REX and SIB in the 15 bytes of an instruction. */
	for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
		uint8_t v = zi->raw.prefixes[n].value;
		bool again = false;

		for (unsigned k = 0; k < n; k++)
			again |= zi->raw.prefixes[k].value == v && prefix_matters(zi, k);
		if (prefix_matters(zi, n) && !again)
			emit8(e, v);
	}
	rex = (zi->raw.rex.W ? 8u : 0) | (r->reg & 8) >> 1 | (recode_index(r) & 8) >> 2 | (rm & 8) >> 3;
	if (rex || r->rex) {
		if (r->no_rex)
			b->bad = true;
		emit8(e, 0x40 | rex);
	}
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		emit8(e, 0x0f);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		emit8(e, 0x38);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		emit8(e, 0x3a);
	emit8(e, r->opcode_reg ? (r->opcode & 0xf8u) | (r->rm & 7) : r->opcode);
	emit_modrm(b, i, r);
}

/* SDM 2 2.3.5: R, X, B and vvvv are stored inverted. */
static void emit_vex(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	unsigned rm = recode_rm(r);

	emit8(&b->e, 0xc4);
	emit8(&b->e,
	      (r->reg & 8 ? 0 : 0x80) | (recode_index(r) & 8 ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) | zi->raw.vex.m_mmmm);
	emit8(&b->e, (zi->raw.vex.W ? 0x80u : 0) | (~r->vvvv & 15) << 3 | (zi->raw.vex.L ? 4u : 0) | zi->raw.vex.pp);
	emit8(&b->e, zi->opcode);
	emit_modrm(b, i, r);
}

/* SDM 2 2.7.1: P0 = R X B R' 0 m m m, P1 = W v v v v 1 p p, P2 = z L' L b V' a a a. */
static void emit_evex(struct builder *b, const struct insn *i, const struct recode *r, bool reg_gpr, bool rm_gpr)
{
	const uint8_t *evex = i->ii.raw + i->zi.raw.evex.offset;
	unsigned p0 = evex[1];

	if (reg_gpr)
		p0 = (p0 & ~0x90u) | (r->reg & 8 ? 0 : 0x80) | 0x10;
	if (r->mem || rm_gpr)
		p0 = (p0 & ~0x60u) | (recode_index(r) & 8 ? 0 : 0x40) | (recode_rm(r) & 8 ? 0 : 0x20);
	emit8(&b->e, 0x62);
	emit8(&b->e, p0);
	emit8(&b->e, evex[2]);
	emit8(&b->e, evex[3]);
	emit8(&b->e, i->zi.opcode);
	emit_modrm(b, i, r);
}

/* The host register of a guest one that stays in memory, for the time of an instruction. */
struct borrowed {
	unsigned guest, host;
	bool write, loaded;
};

static bool is_gpr(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass c;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	c = ZydisRegisterGetClass(o->reg.value);
	return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
	       c == ZYDIS_REGCLASS_GPR64;
}

/* Which host register stands for operand n; borrows and loads one if need be. */
static unsigned operand_host(struct builder *b, const struct insn *i, unsigned n, bool memory,
			     struct borrowed borrowed[2], unsigned *count)
{
	const ZydisDecodedOperand *o = &i->zo[n];
	unsigned guest = i->ii.reg[n], host = host_of(guest);
	bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	/* Not if it is overwritten as a whole, which BSF and BSR of 0 do not do. */
	bool load = i->ii.mnemonic == ZYDIS_MNEMONIC_BSF || i->ii.mnemonic == ZYDIS_MNEMONIC_BSR ||
		    (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE)) || o->size < 32 ||
		    i->kind != KIND_GENERIC;

	if (host != HOST_NONE)
		return host;
	for (unsigned k = 0; k < *count; k++) {
		if (borrowed[k].guest == guest) {
			borrowed[k].write |= write;
			if (load && !borrowed[k].loaded)
				emit_gpr_load(&b->e, borrowed[k].host, guest);
			borrowed[k].loaded |= load;
			return borrowed[k].host;
		}
	}
	if (*count >= (memory ? 1u : 2u)) {
		b->bad = true;
		return HOST_T1;
	}
	host = *count ? HOST_T0 : HOST_T1;
	if (host == HOST_T0)
		window_scratch(b);
	borrowed[*count] = (struct borrowed){ guest, host, write, load };
	(*count)++;
	if (load)
		emit_gpr_load(&b->e, host, guest);
	return host;
}

/* Opcodes that mean something else in 64-bit mode, or have an address in them: as ones with ModRM. */
static void choose_opcode(struct recode *r, const ZydisDecodedInstruction *zi)
{
	r->opcode = zi->opcode;
	r->modrm = (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return;
	if ((zi->opcode & 0xf0) == 0x40) { /* INC, DEC */
		r->opcode = 0xff;
		r->reg = (zi->opcode >> 3) & 1;
		r->modrm = true;
	} else if ((zi->opcode & 0xfc) == 0xa0) { /* MOV rAX, moffs and back */
		r->opcode = (zi->opcode & 2 ? 0x88 : 0x8a) | (zi->opcode & 1);
	} else if (zi->opcode == 0x82) {
		r->opcode = 0x80;
	}
}

/* xchg of the low and the high byte of one of RAX, RCX, RDX, RBX, as AH, CH, DH, BH are numbered: no flags */
static void emit_swap_bytes(struct emit *e, unsigned high)
{
	emit8(e, 0x86);
	emit8(e, 0xc0 | high << 3 | (high - 4));
}

void recode_emit(struct builder *b, struct insn *i, const struct host_mem *m)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct borrowed borrowed[2];
	struct recode r = { .mem = m };
	unsigned swapped = 0;
	unsigned count = 0;
	bool reg_gpr = false, rm_gpr = false, memory = m && (m->base == HOST_T0 || m->index == HOST_T0);

	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		bool legacy = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;

		/* Zydis keeps REX, VEX and EVEX in one union. */
		r.reg = zi->raw.modrm.reg | (legacy && zi->raw.rex.R ? 8u : 0);
		r.rm = zi->raw.modrm.rm | (legacy && zi->raw.rex.B ? 8u : 0);
	}
	choose_opcode(&r, zi);
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		const uint8_t *vex = i->ii.raw + zi->raw.vex.offset;
		bool two = vex[0] == 0xc5;

		r.reg = zi->raw.modrm.reg | (vex[1] & 0x80 ? 0 : 8u);
		r.rm = zi->raw.modrm.rm | (two || vex[1] & 0x20 ? 0 : 8u);
		r.vvvv = (~(unsigned)vex[two ? 1 : 2] >> 3) & 15;
	}
	r.rex = (zi->attributes & ZYDIS_ATTRIB_HAS_REX) != 0 && i->kind == KIND_GENERIC;
	for (unsigned n = 0; n < zi->operand_count_visible && n < ARRAY_SIZE(i->ii.kind); n++) {
		if (i->ii.kind[n] == INTERP_OP_REG_HIGH) {
			/* The number as encoded, 4..7, is what AH..BH have without REX; memory needs that for its base.
			 */
			if (m && i->ii.mnemonic != ZYDIS_MNEMONIC_CMPXCHG) {
				swapped = r.reg;
				r.reg -= 4;
				emit_swap_bytes(&b->e, swapped);
			} else {
				r.no_rex = true;
			}
			continue;
		}
		if (!is_gpr(&i->zo[n]))
			continue;
		switch (i->zo[n].encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			r.reg = operand_host(b, i, n, memory, borrowed, &count);
			reg_gpr = true;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			r.rm = operand_host(b, i, n, memory, borrowed, &count);
			rm_gpr = true;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			r.rm = operand_host(b, i, n, memory, borrowed, &count);
			r.opcode_reg = !r.modrm;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD: r.vvvv = operand_host(b, i, n, memory, borrowed, &count); break;
		default: break; /* RAX, RCX, RDX by nature: where they are anyway */
		}
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex(b, i, &r);
	else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		emit_evex(b, i, &r, reg_gpr, rm_gpr);
	else
		emit_legacy(b, i, &r);
	if (swapped)
		emit_swap_bytes(&b->e, swapped);
	for (unsigned k = 0; k < count; k++)
		if (borrowed[k].write)
			emit_gpr_store(&b->e, borrowed[k].host, borrowed[k].guest);
}
