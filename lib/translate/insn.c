/* SPDX-License-Identifier: Apache-2.0 */
/* One guest instruction as host code. */
#include "interp/vector.h"
#include "translate/block.h"

/* ---- flags ---- */

void insn_flags_keep(struct builder *b, uint32_t live)
{
	if (live && b->flags_host && !b->flags_frame) {
		emit_flags_save(&b->e, HOST_T0);
		b->flags_frame = true;
	}
}

void insn_flags_want(struct builder *b, unsigned scratch)
{
	if (!b->flags_host) {
		emit_flags_load(&b->e, scratch);
		b->flags_host = true;
	}
}

static uint32_t live_before(const struct insn *i)
{
	return i->reads | (i->live_after & ~i->kills);
}

/* Must the host's flags be the guest's when it executes? */
static bool wants_flags(const struct insn *i)
{
	return i->reads || (i->writes && (i->live_after & ~i->kills));
}

/* ---- leaving for interp ---- */

struct detour *insn_detour(struct builder *b, const struct insn *i)
{
	struct detour *d = &b->detour[b->detours++];

	d->i = i;
	d->count = 0;
	d->resume = NULL;
	d->later = b->later;
	d->reload_flags = d->reload_vector = false;
	return d;
}

void insn_detour_from(struct builder *b, struct detour *d, unsigned cc)
{
	d->from[d->count++] = emit_jcc(&b->e, cc);
}

void insn_emit_interp(struct builder *b, struct insn *i)
{
	unsigned left = b->count - (unsigned)(i - b->insn) + b->later;

	emit_mov_imm64(&b->e, HOST_T0, (uint64_t)(uintptr_t)i->ii);
	emit_mov_imm32(&b->e, HOST_T1, i->offset | left << 16);
	emit_branch(&b->e, OP_CALL, b->t->stub_interp);
}

/* ---- memory operands ---- */

/* lea to, [base + index << shift + disp] */
static void emit_lea_sib(struct emit *e, bool w, unsigned to, unsigned base, unsigned index, unsigned shift,
			 int32_t disp)
{
	unsigned mod = disp == (int8_t)disp ? 0x40 : 0x80;

	if (index == HOST_NONE && base != HOST_NONE) {
		emit_rm(e, w, 0x8d, to, base, disp);
		return;
	}
	emit_rex(e, w, to, index == HOST_NONE ? 0 : index, base == HOST_NONE ? 0 : base);
	emit8(e, 0x8d);
	if (base == HOST_NONE) {
		mod = 0;
		base = 5; /* disp32 only */
	}
	emit8(e, mod | (to & 7) << 3 | 4);
	emit8(e, shift << 6 | (index == HOST_NONE ? 4 : index & 7) << 3 | (base & 7));
	if (mod == 0x40)
		emit8(e, (uint8_t)disp);
	else
		emit32(e, (uint32_t)disp);
}

/* Effective address into `to`. Changes no flags; r14 is lost if the index is not in a register. */
static bool emit_effective(struct builder *b, struct insn *i, unsigned to, bool w)
{
	const struct interp_insn *ii = i->ii;
	unsigned base = HOST_NONE, index = HOST_NONE;
	int64_t disp = ii->disp;

	if (ii->base == INTERP_RIP_REG) {
		disp += i->offset + ii->len;
		emit_gs(&b->e, true, 0x8b, HOST_T0, FRAME(rip_page));
		base = HOST_T0;
	} else if (ii->base != INTERP_NO_REG) {
		base = host_of(ii->base);
		if (base == HOST_NONE) {
			emit_gpr_load(&b->e, HOST_T0, ii->base);
			base = HOST_T0;
		}
	}
	if (ii->index != INTERP_NO_REG) {
		index = host_of(ii->index);
		if (index == HOST_NONE) {
			emit_gpr_load(&b->e, HOST_T1, ii->index);
			index = HOST_T1;
		}
	}
	if (disp != (int32_t)disp)
		return false;
	emit_lea_sib(&b->e, w, to, base, index, ii->shift, (int32_t)disp);
	return true;
}

bool insn_emit_address(struct builder *b, struct insn *i)
{
	const struct interp_insn *ii = i->ii;

	if (!emit_effective(b, i, HOST_T0, ii->addrsize == 8))
		return false;
	if (ii->seg >= X86_FS)
		emit_rm(&b->e, true, 0x03, HOST_T0, HOST_CPU,
			(int32_t)(offsetof(struct x86_cpu, seg) + ii->seg * sizeof(struct x86_seg) +
				  offsetof(struct x86_seg, base)));
	return true;
}

void insn_emit_check(struct builder *b, struct detour *d, unsigned size, bool write)
{
	struct emit *e = &b->e;
	uint32_t table = (uint32_t)(offsetof(struct x86_tlb, e) + b->mmu * sizeof(((struct x86_tlb *)0)->e[0]));
	uint32_t tag = write ? offsetof(struct x86_tlb_entry, tag_write) : offsetof(struct x86_tlb_entry, tag_read);

	emit_rr(e, false, 0x89, HOST_T0, HOST_T1);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xc1, 0xee, 6 }, 4); /* shr r14d, 6 */
	emit_alu_imm(e, false, ALU_AND, HOST_T1, 0xffc0);
	emit_gs_t1(e, true, 0x2b, HOST_T0, table + tag);
	emit_alu_imm(e, true, ALU_CMP, HOST_T0, TZ_PAGE_SIZE - size);
	insn_detour_from(b, d, CC_A);
	emit_gs_t1(e, true, 0x03, HOST_T0, table + (uint32_t)offsetof(struct x86_tlb_entry, host));
	b->flags_host = false;
}

/* ---- the same instruction with other registers ---- */

struct recode {
	unsigned reg, rm, vvvv; /* host numbers; reg and rm as encoded if they are no general register */
	bool opcode_reg;        /* rm is in the opcode */
	bool memory;
	bool no_rex; /* names AH, CH, DH or BH */
	bool rex;    /* had a REX: SPL, BPL, SIL, DIL */
};

static void emit_modrm(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	unsigned imm = (zi->raw.imm[0].size + zi->raw.imm[1].size) / 8;

	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && !imm)
		for (unsigned n = 0; n < zi->operand_count_visible; n++)
			if (i->zo[n].encoding == ZYDIS_OPERAND_ENCODING_IS4)
				imm = 1;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		emit8(&b->e, (r->memory ? 0 : 0xc0) | (r->reg & 7) << 3 | ((r->memory ? HOST_T0 : r->rm) & 7));
	emit_bytes(&b->e, i->ii->raw + zi->length - imm, imm);
}

static void emit_legacy(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct emit *e = &b->e;
	unsigned rex, rm = r->memory ? HOST_T0 : r->rm;

	for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
		uint8_t v = zi->raw.prefixes[n].value;

		if (zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY || v == 0xf0 ||
		    (v == 0x66 && zi->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_EFFECTIVE))
			emit8(e, v);
	}
	rex = (zi->raw.rex.W ? 8u : 0) | (r->reg & 8) >> 1 | (rm & 8) >> 3;
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
	emit8(e, r->opcode_reg ? (zi->opcode & 0xf8u) | (r->rm & 7) : zi->opcode);
	emit_modrm(b, i, r);
}

/* SDM 2 2.3.5: R, X, B and vvvv are stored inverted. */
static void emit_vex(struct builder *b, const struct insn *i, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	unsigned rm = r->memory ? HOST_T0 : r->rm;

	emit8(&b->e, 0xc4);
	emit8(&b->e, (r->reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | zi->raw.vex.m_mmmm);
	emit8(&b->e, (zi->raw.vex.W ? 0x80u : 0) | (~r->vvvv & 15) << 3 | (zi->raw.vex.L ? 4u : 0) | zi->raw.vex.pp);
	emit8(&b->e, zi->opcode);
	emit_modrm(b, i, r);
}

/* SDM 2 2.7.1: P0 = R X B R' 0 m m m, P1 = W v v v v 1 p p, P2 = z L' L b V' a a a. */
static void emit_evex(struct builder *b, const struct insn *i, const struct recode *r, bool reg_gpr, bool rm_gpr)
{
	const uint8_t *evex = i->ii->raw + i->zi.raw.evex.offset;
	unsigned p0 = evex[1];

	if (reg_gpr)
		p0 = (p0 & ~0x90u) | (r->reg & 8 ? 0 : 0x80) | 0x10;
	if (r->memory || rm_gpr)
		p0 = (p0 & ~0x60u) | 0x40 | ((r->memory ? HOST_T0 : r->rm) & 8 ? 0 : 0x20);
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
	bool write;
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
	unsigned guest = i->ii->reg[n], host = host_of(guest);
	bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	if (host != HOST_NONE)
		return host;
	for (unsigned k = 0; k < *count; k++) {
		if (borrowed[k].guest == guest) {
			borrowed[k].write |= write;
			return borrowed[k].host;
		}
	}
	if (*count >= (memory ? 1u : 2u)) {
		b->bad = true;
		return HOST_T1;
	}
	host = *count || memory ? HOST_T1 : HOST_T0;
	borrowed[*count] = (struct borrowed){ guest, host, write };
	(*count)++;
	emit_gpr_load(&b->e, host, guest);
	return host;
}

static void emit_recoded(struct builder *b, struct insn *i, bool memory)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct borrowed borrowed[2];
	struct recode r = { .memory = memory };
	unsigned count = 0;
	bool reg_gpr = false, rm_gpr = false;

	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		bool legacy = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;

		/* Zydis keeps REX, VEX and EVEX in one union. */
		r.reg = zi->raw.modrm.reg | (legacy && zi->raw.rex.R ? 8u : 0);
		r.rm = zi->raw.modrm.rm | (legacy && zi->raw.rex.B ? 8u : 0);
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		const uint8_t *vex = i->ii->raw + zi->raw.vex.offset;
		bool two = vex[0] == 0xc5;

		r.reg = zi->raw.modrm.reg | (vex[1] & 0x80 ? 0 : 8u);
		r.rm = zi->raw.modrm.rm | (two || vex[1] & 0x20 ? 0 : 8u);
		r.vvvv = (~(unsigned)vex[two ? 1 : 2] >> 3) & 15;
	}
	r.rex = (zi->attributes & ZYDIS_ATTRIB_HAS_REX) != 0 && i->kind == KIND_GENERIC;
	for (unsigned n = 0; n < zi->operand_count_visible && n < ARRAY_SIZE(i->ii->kind); n++) {
		if (i->ii->kind[n] == INTERP_OP_REG_HIGH) {
			/* The number as encoded, 4..7, is what AH..BH have without REX. */
			r.no_rex = true;
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
			r.opcode_reg = true;
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
	for (unsigned k = 0; k < count; k++)
		if (borrowed[k].write)
			emit_gpr_store(&b->e, borrowed[k].host, borrowed[k].guest);
}

static unsigned memory_operand(const struct insn *i)
{
	unsigned n;

	for (n = 0; n < ARRAY_SIZE(i->ii->kind); n++)
		if (i->ii->kind[n] == INTERP_OP_MEM)
			break;
	return n;
}

static void after(struct builder *b, struct insn *i, struct detour *d)
{
	if (i->writes) {
		b->flags_host = true;
		b->flags_frame = false;
	}
	if (d) {
		d->resume = b->e.p;
		d->reload_flags = b->flags_host && i->live_after;
		d->reload_vector = b->vector_live;
	}
}

/* Vector operands are aligned by name, or in legacy SSE unless they are moved unaligned (SDM 1 15.7). */
static void emit_align_check(struct builder *b, struct detour *d, unsigned align)
{
	if (align < 2)
		return;
	/* test r11b, align - 1 */
	emit_bytes(&b->e, (const uint8_t[]){ 0x41, 0xf6, 0xc3, (uint8_t)(align - 1) }, 4);
	insn_detour_from(b, d, CC_NE);
}

static void emit_generic(struct builder *b, struct insn *i, unsigned align)
{
	unsigned n = memory_operand(i);
	bool memory = n < ARRAY_SIZE(i->ii->kind);
	struct detour *d = NULL;

	if (memory) {
		insn_flags_keep(b, live_before(i));
		d = insn_detour(b, i);
		if (!insn_emit_address(b, i)) {
			b->bad = true;
			return;
		}
		emit_align_check(b, d, align);
		insn_emit_check(b, d, i->ii->size[n], i->zo[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	}
	if (wants_flags(i))
		insn_flags_want(b, HOST_T1);
	emit_recoded(b, i, memory);
	after(b, i, d);
}

/* ---- vectors ---- */

void insn_emit_vector_ready(struct builder *b)
{
	uint8_t *skip;

	/* cmp byte [r15 + fpu.live], 0: a call to C may have put the state away. */
	emit_bytes(&b->e, (const uint8_t[]){ 0x41, 0x80, 0xbf }, 3);
	emit32(&b->e, (uint32_t)offsetof(struct x86_cpu, fpu.live));
	emit8(&b->e, 0);
	skip = emit_jcc(&b->e, CC_NE);
	emit_branch(&b->e, OP_CALL, b->t->stub_vector);
	emit_bind(&b->e, skip);
}

static void emit_vector(struct builder *b, struct insn *i)
{
	if (!b->vector_live) {
		insn_flags_keep(b, live_before(i));
		insn_emit_vector_ready(b);
		b->flags_host = false;
		b->vector_live = true;
	}
	emit_generic(b, i, vector_info(i->ii)->align);
}

/* ---- others ---- */

static void emit_lea_insn(struct builder *b, struct insn *i)
{
	unsigned guest = i->ii->reg[0], host = host_of(guest);
	bool w = i->ii->opsize == 8 && i->ii->addrsize == 8;

	if (!emit_effective(b, i, host == HOST_NONE ? HOST_T0 : host, w)) {
		b->bad = true;
		return;
	}
	if (host == HOST_NONE)
		emit_gpr_store(&b->e, HOST_T0, guest);
}

static void emit_push(struct builder *b, struct insn *i)
{
	struct detour *d;
	unsigned host;

	insn_flags_keep(b, live_before(i));
	d = insn_detour(b, i);
	emit_lea(&b->e, HOST_T0, HOST_SP, -8);
	insn_emit_check(b, d, 8, true);
	if (i->ii->kind[0] == INTERP_OP_IMM) {
		emit_rex(&b->e, true, 0, 0, HOST_T0);
		emit8(&b->e, 0xc7);
		emit8(&b->e, HOST_T0 & 7);
		emit32(&b->e, (uint32_t)i->ii->imm);
	} else {
		host = host_of(i->ii->reg[0]);
		if (host == HOST_NONE) {
			host = HOST_T1;
			emit_gpr_load(&b->e, host, i->ii->reg[0]);
		}
		emit_rm(&b->e, true, 0x89, host, HOST_T0, 0);
	}
	emit_lea(&b->e, HOST_SP, HOST_SP, -8);
	after(b, i, d);
}

static void emit_pop(struct builder *b, struct insn *i)
{
	unsigned host = host_of(i->ii->reg[0]);
	struct detour *d;

	insn_flags_keep(b, live_before(i));
	d = insn_detour(b, i);
	emit_mov_rr(&b->e, HOST_T0, HOST_SP);
	insn_emit_check(b, d, 8, false);
	emit_lea(&b->e, HOST_SP, HOST_SP, 8); /* POP RSP overwrites it */
	emit_rm(&b->e, true, 0x8b, host == HOST_NONE ? HOST_T1 : host, HOST_T0, 0);
	if (host == HOST_NONE)
		emit_gpr_store(&b->e, HOST_T1, i->ii->reg[0]);
	after(b, i, d);
}

static void emit_leave(struct builder *b, struct insn *i)
{
	struct detour *d;

	insn_flags_keep(b, live_before(i));
	d = insn_detour(b, i);
	emit_mov_rr(&b->e, HOST_T0, X86_RBP);
	insn_emit_check(b, d, 8, false);
	emit_lea(&b->e, HOST_SP, X86_RBP, 8);
	emit_rm(&b->e, true, 0x8b, X86_RBP, HOST_T0, 0);
	after(b, i, d);
}

/* The host must not see #DE: divide only where the quotient surely fits, interp does the rest. */
static void emit_div(struct builder *b, struct insn *i)
{
	bool w = i->ii->opsize == 8, sign = i->ii->mnemonic == ZYDIS_MNEMONIC_IDIV;
	struct detour *d;
	unsigned host;

	insn_flags_keep(b, live_before(i));
	d = insn_detour(b, i);
	if (i->ii->kind[0] == INTERP_OP_MEM) {
		if (!insn_emit_address(b, i)) {
			b->bad = true;
			return;
		}
		insn_emit_check(b, d, i->ii->opsize, false);
		emit_rm(&b->e, w, 0x8b, HOST_T0, HOST_T0, 0);
	} else {
		host = host_of(i->ii->reg[0]);
		if (host == HOST_NONE)
			emit_gpr_load(&b->e, HOST_T0, i->ii->reg[0]);
		else
			emit_mov_rr(&b->e, HOST_T0, host);
	}
	if (sign) {
		/* rdx:rax is rax sign-extended, and the divisor neither 0 nor -1. */
		emit_rr(&b->e, w, 0x89, HOST_RAX, HOST_T1);
		emit_rex(&b->e, w, 0, 0, HOST_T1);
		emit_bytes(&b->e, (const uint8_t[]){ 0xc1, 0xfe, w ? 63 : 31 }, 3); /* sar r14, 63 */
		emit_rr(&b->e, w, 0x39, HOST_RDX, HOST_T1);
		insn_detour_from(b, d, CC_NE);
		emit_rm(&b->e, w, 0x8d, HOST_T1, HOST_T0, 1);
		emit_alu_imm(&b->e, w, ALU_CMP, HOST_T1, 1);
		insn_detour_from(b, d, CC_BE);
	} else {
		emit_rr(&b->e, w, 0x39, HOST_T0, HOST_RDX); /* cmp rdx, r11 */
		insn_detour_from(b, d, CC_AE);
	}
	emit_rex(&b->e, w, 0, 0, HOST_T0);
	emit8(&b->e, 0xf7);
	emit8(&b->e, 0xc0 | (sign ? 7u : 6u) << 3 | (HOST_T0 & 7));
	after(b, i, d);
}

static void emit_kind(struct builder *b, struct insn *i)
{
	switch (i->kind) {
	case KIND_GENERIC: emit_generic(b, i, 1); break;
	case KIND_VECTOR: emit_vector(b, i); break;
	case KIND_LEA: emit_lea_insn(b, i); break;
	case KIND_PUSH: emit_push(b, i); break;
	case KIND_POP: emit_pop(b, i); break;
	case KIND_LEAVE: emit_leave(b, i); break;
	case KIND_DIV: emit_div(b, i); break;
	default: break;
	}
}

void insn_emit(struct builder *b, struct insn *i)
{
	uint8_t *start = b->e.p;
	unsigned detours = b->detours;
	bool flags_host = b->flags_host, flags_frame = b->flags_frame;

	b->bad = i->kind == KIND_INTERP;
	if (!b->bad)
		emit_kind(b, i);
	if (!b->bad)
		return;
	b->e.p = start;
	b->detours = detours;
	b->flags_host = flags_host;
	b->flags_frame = flags_frame;
	insn_flags_keep(b, UINT32_MAX);
	insn_emit_interp(b, i);
	b->vector_live = b->flags_host = false;
	b->flags_frame = true;
}
