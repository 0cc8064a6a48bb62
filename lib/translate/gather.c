/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathers and scatters: a loop over the elements that the mask asks for, each looked up in the TLB.
 *
 * The registers wait in the frame. interp takes over at the first element that is not in the TLB: a gather from its
 * start, as it has only read; a scatter from that element on, of which the mask register tells (SDM 2C VPSCATTERDD).
 */
#include "interp/vector.h"
#include "translate/block.h"

#define VECTOR_LOAD 0x6f /* VMOVDQU, VMOVDQU64 */
#define VECTOR_STORE 0x7f

#define VEX_66 1
#define VEX_F2_W1 0x83

/* VEX.L.pp.0F.W with register operands */
static void emit_vex(struct emit *e, unsigned pp_w, unsigned l, unsigned op, unsigned reg, unsigned vvvv, unsigned rm)
{
	emit8(e, 0xc4);
	emit8(e, (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | 1);
	emit8(e, (~vvvv & 15) << 3 | l << 2 | pp_w);
	emit8(e, op);
	emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* A vector register and 16, 32 or 64 bytes of the frame; what lies above them in a register becomes 0. */
static void emit_move(struct emit *e, bool evex, unsigned op, unsigned reg, unsigned size, uint32_t at)
{
	unsigned l = size == 64 ? 2 : size == 32 ? 1 : 0;

	emit8(e, 0x65);
	if (evex) { /* EVEX.F3.0F.W1 (SDM 2 2.7.1) */
		emit8(e, 0x62);
		emit8(e, (reg & 8 ? 0 : 0x80) | 0x60 | (reg & 16 ? 0 : 0x10) | 1);
		emit8(e, 0xfe);
		emit8(e, l << 5 | 8);
	} else { /* VEX.F3.0F */
		emit8(e, 0xc4);
		emit8(e, (reg & 8 ? 0 : 0x80) | 0x61);
		emit8(e, 0x7a | l << 2);
	}
	emit8(e, op);
	emit8(e, (reg & 7) << 3 | 4);
	emit8(e, 0x25);
	emit32(e, at);
}

static unsigned round_size(unsigned bytes)
{
	return bytes <= 16 ? 16 : bytes <= 32 ? 32 : 64;
}

/* eax: a bit for each element to do; ZF: none. */
static void emit_mask(struct emit *e, const struct vector_info *info)
{
	if (!(info->flags & VECTOR_MASK_VEC)) /* kmovw eax, k */
		emit_vex(e, 0, 0, 0x93, HOST_RAX, 0, info->mask);
	else /* vmovmskps, vmovmskpd */
		emit_vex(e, info->elem == 8 ? VEX_66 : 0, info->size == 32, 0x50, HOST_RAX, 0, info->mask);
	emit_alu_imm(e, false, ALU_AND, HOST_RAX, (1u << info->count) - 1);
}

/* Of a scatter: the elements in eax, which are not none, are left. rcx is lost; CF and ZF are clear. */
static void emit_mask_rest(struct emit *e, const struct vector_info *info)
{
	emit_vex(e, VEX_F2_W1, 0, 0x93, X86_RCX, 0, info->mask); /* kmovq rcx, k */
	emit_shift(e, SHR, X86_RCX, info->count);
	emit_shift(e, SHL, X86_RCX, info->count);
	emit_rr(e, true, 0x09, HOST_RAX, X86_RCX);
	emit_vex(e, VEX_F2_W1, 0, 0x92, info->mask, 0, X86_RCX);
}

static void emit_mask_clear(struct emit *e, const struct vector_info *info)
{
	if (!(info->flags & VECTOR_MASK_VEC)) /* kxorw */
		emit_vex(e, 0, 1, 0x47, info->mask, info->mask, info->mask);
	else /* vpxor */
		emit_vex(e, VEX_66, 0, 0xef, info->mask, info->mask, info->mask);
}

/* op reg, gs:[rcx * scale + at] */
static void emit_element(struct emit *e, unsigned op, unsigned reg, unsigned scale, uint32_t at, bool wide)
{
	emit8(e, 0x65);
	emit_rex(e, wide, reg, 0, 0);
	emit8(e, op);
	emit8(e, (reg & 7) << 3 | 4);
	emit8(e, (scale == 8 ? 3u : 2u) << 6 | X86_RCX << 3 | 5);
	emit32(e, at);
}

/* r11: the linear address of element ecx */
static void emit_element_address(struct builder *b, const struct insn *i, const struct access *a)
{
	bool quad = vector_info(&i->ii)->flags & VECTOR_INDEX64;
	struct emit *e = &b->e;

	/* mov, movsxd */
	emit_element(e, quad ? 0x8b : 0x63, HOST_T0, quad ? 8 : 4, FRAME(gather_index), true);
	if (a->shift)
		emit_shift(e, SHL, HOST_T0, a->shift);
	emit_gs(e, a->wide, 0x03, HOST_T0, FRAME(gather_base));
	if (a->seg >= X86_FS)
		emit_gs(e, true, 0x03, HOST_T0, a->seg == X86_FS ? FRAME(fs_base) : FRAME(gs_base));
}

/* rax, rcx are on the stack. Returns the way out where an element is not in the TLB. */
static uint8_t *emit_elements(struct builder *b, const struct insn *i, const struct access *a)
{
	const struct vector_info *info = vector_info(&i->ii);
	bool quad = info->elem == 8;
	struct emit *e = &b->e;
	uint8_t *loop, *done, *miss, *again;

	emit_mask(e, info);
	done = emit_jcc(e, CC_E);
	loop = e->p;
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0xbc, 0xc8 }, 3); /* bsf ecx, eax */
	emit_element_address(b, i, a);
	miss = window_emit_lookup(b, info->elem, a->write);
	if (a->write) {
		emit_element(e, 0x8b, HOST_T1, info->elem, FRAME(gather_data), quad);
		emit_rm(e, quad, 0x89, HOST_T1, HOST_T0, 0);
	} else {
		emit_rm(e, quad, 0x8b, HOST_T1, HOST_T0, 0);
		emit_element(e, 0x89, HOST_T1, info->elem, FRAME(gather_data), quad);
	}
	emit_lea(e, HOST_T1, HOST_RAX, -1);
	emit_rr(e, false, 0x21, HOST_T1, HOST_RAX); /* and eax, r14d */
	again = emit_jcc(e, CC_NE);
	guest_store32(again, (uint32_t)(loop - (again + 4)));
	emit_bind(e, done);
	return miss;
}

bool insn_gather_access(const struct insn *i, struct access *a)
{
	const struct interp_insn *ii = &i->ii;
	bool wide = i->zi.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;

	*a = (struct access){ .write = ii->exec == vector_exec_scatter,
			      .wide = ii->addrsize == 8,
			      .base = ii->base,
			      .index = INTERP_NO_REG,
			      .seg = ii->seg,
			      .disp = wide ? ii->disp : (int32_t)ii->disp };
	/* In 32-bit code FS, GS and CS have more to check. */
	return wide || (ii->addrsize == 4 && ii->seg != X86_CS && ii->seg < X86_FS);
}

void insn_emit_gather(struct builder *b, struct insn *i)
{
	const struct vector_info *info = vector_info(&i->ii);
	bool evex = !(info->flags & VECTOR_MASK_VEC);
	struct emit *e = &b->e;
	struct access a;
	struct cold *c;
	uint8_t *miss, *over;

	insn_vector_live(b, i);
	insn_flags_keep(b, insn_live_before(i));
	b->flags_host = false;
	c = block_cold(b, block_record(b, i, ACTION_INTERP));
	if (!insn_gather_access(i, &a) || !window_effective(b, &a, HOST_T0, a.wide)) {
		b->bad = true;
		return;
	}
	a.shift = i->ii.shift;
	emit_gs(e, true, 0x89, HOST_T0, FRAME(gather_base));
	emit_move(e, evex, VECTOR_STORE, info->index,
		  round_size(info->count * (info->flags & VECTOR_INDEX64 ? 8u : 4u)), FRAME(gather_index));
	emit_move(e, evex, VECTOR_STORE, info->reg, round_size(info->size), FRAME(gather_data));
	emit_bytes(e, (const uint8_t[]){ 0x50, 0x51 }, 2); /* push rax; push rcx */
	miss = emit_elements(b, i, &a);
	emit_bytes(e, (const uint8_t[]){ 0x59, 0x58 }, 2); /* pop rcx; pop rax */
	if (!a.write) {
		/* Two elements are half of the least register. */
		if (info->size == 8) {
			emit_gs(e, true, 0xc7, 0, FRAME(gather_data) + 8); /* mov */
			emit32(e, 0);
		}
		emit_move(e, evex, VECTOR_LOAD, info->reg, round_size(info->size), FRAME(gather_data));
	}
	emit_mask_clear(e, info);
	emit8(e, OP_JMP);
	over = e->p;
	emit32(e, 0);
	emit_bind(e, miss);
	if (a.write)
		emit_mask_rest(e, info);
	emit_bytes(e, (const uint8_t[]){ 0x59, 0x58 }, 2);
	block_cold_from(b, c, CC_A); /* as the lookup has found */
	emit_bind(e, over);
}
