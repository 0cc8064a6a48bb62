/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptor tables, segment registers, and the instructions that look at descriptors. */
#include "interp/system.h"
#include "x86/control.h"
#include "x86/segment.h"

/* A selector operand: 16 bits whatever the operand size says. */
static uint16_t selector_read(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n)
{
	if (i->kind[n] == INTERP_OP_MEM)
		return x86_read16(cpu, interp_linear(cpu, i, 2, false));
	return (uint16_t)cpu->gpr[i->reg[n]];
}

/* A selector into r/m: 16 bits to memory; a register gets them zero-extended to the operand size. */
static void selector_write(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, uint16_t sel)
{
	if (i->kind[n] == INTERP_OP_MEM)
		x86_write16(cpu, interp_linear(cpu, i, 2, true), sel);
	else
		interp_reg_write(cpu, i->reg[n], i->size[n], sel);
}

/* Loading SS by MOV or POP holds off events until after the next instruction (SDM 3A 6.8.3). */
static void seg_load_done(struct x86_cpu *cpu, unsigned seg, bool shadow)
{
	if (seg != X86_SS)
		return;
	if (shadow) {
		cpu->ev.shadow |= X86_SHADOW_MOV_SS;
		x86_cpu_attention(cpu, X86_ATT_TRAP);
	}
	system_end_block(cpu);
}

/* ---- MOV, PUSH, POP; extra: the segment register ---- */

static void exec_mov_from_seg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	selector_write(cpu, i, 0, cpu->seg[i->extra].sel);
	interp_next(cpu, i);
}

static void exec_mov_to_seg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct x86_seg s = x86_seg_prepare(cpu, i->extra, selector_read(cpu, i, 1));

	x86_seg_commit(cpu, i->extra, &s);
	interp_next(cpu, i);
	seg_load_done(cpu, i->extra, true);
}

static void exec_push_seg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_push(cpu, cpu->seg[i->extra].sel, i->opsize);
	interp_next(cpu, i);
}

static void exec_pop_seg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct x86_seg s = x86_seg_prepare(cpu, i->extra, (uint16_t)x86_stack_peek(cpu, 0, i->opsize));

	/* SP moves in the old stack's width. */
	x86_stack_adjust(cpu, i->opsize);
	x86_seg_commit(cpu, i->extra, &s);
	interp_next(cpu, i);
	seg_load_done(cpu, i->extra, true);
}

/* ---- LDS, LES, LFS, LGS, LSS ---- */

static void exec_load_far_pointer(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t at = system_far_pointer_linear(cpu, i);
	uint64_t offset = x86_read(cpu, at, i->opsize, cpu->mmu_index);
	uint64_t sel_at = at + i->opsize;
	struct x86_seg s;

	if (!x86_long64(cpu))
		sel_at = (uint32_t)sel_at;
	s = x86_seg_prepare(cpu, i->extra, x86_read16(cpu, sel_at));
	x86_seg_commit(cpu, i->extra, &s);
	interp_reg_write(cpu, i->reg[0], i->opsize, offset);
	interp_next(cpu, i);
	seg_load_done(cpu, i->extra, false);
}

/* ---- GDTR, IDTR ---- */

static void store_table(struct x86_cpu *cpu, const struct interp_insn *i, const struct x86_dtable *t)
{
	unsigned size = x86_long64(cpu) ? 10 : 6;
	uint8_t image[10];

	system_check_umip(cpu);
	guest_store16(image, t->limit);
	/* All 32 bits of the base, also with a 16-bit operand size: what processors since the 386 do. */
	if (size == 10)
		guest_store64(image + 2, t->base);
	else
		guest_store32(image + 2, (uint32_t)t->base);
	x86_write_bytes(cpu, interp_linear(cpu, i, size, true), image, size, cpu->mmu_index);
	interp_next(cpu, i);
}

static void load_table(struct x86_cpu *cpu, const struct interp_insn *i, struct x86_dtable *t)
{
	unsigned size = x86_long64(cpu) ? 10 : 6;
	uint8_t image[10];
	uint64_t base;

	system_need_cpl0(cpu);
	x86_read_bytes(cpu, interp_linear(cpu, i, size, false), image, size, cpu->mmu_index);
	base = size == 10 ? guest_load64(image + 2) : guest_load32(image + 2);
	if (size == 6 && i->opsize == 2)
		base &= 0xffffff;
	if (!x86_canonical_base(cpu, base))
		x86_raise_gp0(cpu);
	t->limit = guest_load16(image);
	t->base = base;
	interp_next(cpu, i);
}

static void exec_sgdt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	store_table(cpu, i, &cpu->gdtr);
}

static void exec_sidt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	store_table(cpu, i, &cpu->idtr);
}

static void exec_lgdt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	load_table(cpu, i, &cpu->gdtr);
}

static void exec_lidt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	load_table(cpu, i, &cpu->idtr);
}

/* ---- LDTR, TR ---- */

static void exec_lldt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_protected(cpu);
	system_need_cpl0(cpu);
	x86_load_ldt(cpu, selector_read(cpu, i, 0));
	interp_next(cpu, i);
}

static void exec_ltr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_protected(cpu);
	system_need_cpl0(cpu);
	x86_load_tr(cpu, selector_read(cpu, i, 0));
	interp_next(cpu, i);
}

static void exec_sldt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_protected(cpu);
	system_check_umip(cpu);
	selector_write(cpu, i, 0, cpu->seg[X86_LDTR].sel);
	interp_next(cpu, i);
}

static void exec_str(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_protected(cpu);
	system_check_umip(cpu);
	selector_write(cpu, i, 0, cpu->seg[X86_TR].sel);
	interp_next(cpu, i);
}

/* ---- LAR, LSL, VERR, VERW, ARPL: the answer is in ZF ---- */

static void set_zf(struct x86_cpu *cpu, bool zf)
{
	cpu->rflags = (cpu->rflags & ~X86_ZF) | (zf ? X86_ZF : 0);
}

static void exec_lar(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t value = 0;
	bool ok;

	system_need_protected(cpu);
	ok = x86_lar(cpu, selector_read(cpu, i, 1), &value);
	if (ok)
		interp_reg_write(cpu, i->reg[0], i->size[0], value);
	set_zf(cpu, ok);
	interp_next(cpu, i);
}

static void exec_lsl(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t value = 0;
	bool ok;

	system_need_protected(cpu);
	ok = x86_lsl(cpu, selector_read(cpu, i, 1), &value);
	if (ok)
		interp_reg_write(cpu, i->reg[0], i->size[0], value);
	set_zf(cpu, ok);
	interp_next(cpu, i);
}

static void exec_verify(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_protected(cpu);
	set_zf(cpu, x86_verify(cpu, selector_read(cpu, i, 0), i->extra));
	interp_next(cpu, i);
}

static void exec_arpl(struct x86_cpu *cpu, const struct interp_insn *i)
{
	bool mem = i->kind[0] == INTERP_OP_MEM;
	uint64_t at = 0;
	uint16_t dst, rpl;
	bool raise;

	system_need_protected(cpu);
	if (mem)
		at = interp_linear(cpu, i, 2, false);
	/* Written only if it changes: a page or segment that cannot be is no matter else. */
	dst = mem ? x86_read16(cpu, at) : (uint16_t)cpu->gpr[i->reg[0]];
	rpl = cpu->gpr[i->reg[1]] & 3;
	raise = (dst & 3) < rpl;
	if (raise) {
		dst = (dst & ~3) | rpl;
		if (mem)
			x86_write16(cpu, interp_linear(cpu, i, 2, true), dst);
		else
			interp_reg_write(cpu, i->reg[0], 2, dst);
	}
	set_zf(cpu, raise);
	interp_next(cpu, i);
}

/* ---- bind ---- */

static bool zydis_segment(ZydisRegister reg, uint8_t *seg)
{
	if (ZydisRegisterGetClass(reg) != ZYDIS_REGCLASS_SEGMENT)
		return false;
	*seg = (uint8_t)ZydisRegisterGetId(reg); /* in the encoding order, as enum x86_seg_index */
	return true;
}

bool interp_bind_mov_system(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	if (zo[0].type == ZYDIS_OPERAND_TYPE_REGISTER && zydis_segment(zo[0].reg.value, &i->extra)) {
		if (i->extra == X86_CS)
			return system_bind(i, interp_exec_ud);
		/* A new SS may mean another stack size. */
		return i->extra == X86_SS ? system_bind_last(i, exec_mov_to_seg) : system_bind(i, exec_mov_to_seg);
	}
	if (zo[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	if (zydis_segment(zo[1].reg.value, &i->extra))
		return system_bind(i, exec_mov_from_seg);
	return zo[0].type == ZYDIS_OPERAND_TYPE_REGISTER && system_bind_mov_control(i, zo);
}

bool interp_bind_push_pop_seg(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	if (zo[0].type != ZYDIS_OPERAND_TYPE_REGISTER || !zydis_segment(zo[0].reg.value, &i->extra))
		return false;
	i->opsize = (uint8_t)(zi->operand_width / 8);
	if (zi->mnemonic == ZYDIS_MNEMONIC_PUSH)
		return system_bind(i, exec_push_seg);
	return i->extra == X86_SS ? system_bind_last(i, exec_pop_seg) : system_bind(i, exec_pop_seg);
}

bool bind_load_far_pointer(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_LDS: i->extra = X86_DS; break;
	case ZYDIS_MNEMONIC_LES: i->extra = X86_ES; break;
	case ZYDIS_MNEMONIC_LFS: i->extra = X86_FS; break;
	case ZYDIS_MNEMONIC_LGS: i->extra = X86_GS; break;
	default: i->extra = X86_SS; break;
	}
	i->opsize = system_far_pointer_size(cpu, zi->operand_width / 8);
	return i->extra == X86_SS ? system_bind_last(i, exec_load_far_pointer) : system_bind(i, exec_load_far_pointer);
}

#define BIND(name)                                                                                                     \
	bool bind_##name(SYSTEM_BIND_ARGS)                                                                             \
	{                                                                                                              \
		SYSTEM_UNUSED;                                                                                         \
		return system_bind(i, exec_##name);                                                                    \
	}
BIND(sgdt)
BIND(sidt)
BIND(lldt)
BIND(ltr)
BIND(sldt)
BIND(str)
BIND(lar)
BIND(lsl)
BIND(arpl)

bool bind_lgdt(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = (uint8_t)(zi->operand_width / 8);
	return system_bind(i, exec_lgdt);
}

bool bind_lidt(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = (uint8_t)(zi->operand_width / 8);
	return system_bind(i, exec_lidt);
}

bool bind_verr(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->extra = false;
	return system_bind(i, exec_verify);
}

bool bind_verw(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->extra = true;
	return system_bind(i, exec_verify);
}
