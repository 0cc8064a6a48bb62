/* SPDX-License-Identifier: Apache-2.0 */
/* From a decoded instruction to its handler, what the handler must know, and its stub. */
#include <stdlib.h>
#include <string.h>

#include "interp/vector.h"

uint8_t vector_reg_number(ZydisRegister r)
{
	return (uint8_t)ZydisRegisterGetId(r);
}

void vector_bind_mem(struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *mem)
{
	const ZydisDecodedOperandMem m = interp_memory(zi, mem);

	i->addrsize = zi->address_width / 8;
	i->seg = (uint8_t)ZydisRegisterGetId(m.segment);
	i->disp = m.disp.value;
	i->shift = m.scale ? (uint8_t)__builtin_ctz(m.scale) : 0;
	i->base = INTERP_NO_REG;
	i->index = INTERP_NO_REG;
	if (m.base == ZYDIS_REGISTER_RIP || m.base == ZYDIS_REGISTER_EIP)
		i->base = INTERP_RIP_REG;
	else if (m.base != ZYDIS_REGISTER_NONE)
		i->base = vector_reg_number(m.base);
	if (m.index != ZYDIS_REGISTER_NONE && m.type != ZYDIS_MEMOP_TYPE_VSIB)
		i->index = vector_reg_number(m.index);
}

/* ---- properties that go by name ---- */

/* Memory operands that must be aligned to their size in every encoding (SDM 1 14.9, table 14-22). */
static bool is_aligned_move(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
	default: return false;
	}
}

/* Legacy SSE instructions with a 16-byte operand that need not be aligned (SDM 2 table 2-21, type 4 with a star). */
static bool is_unaligned_sse(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return true;
	default: return false;
	}
}

static bool is_packed_by_mask(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VPCOMPRESSB:
	case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ:
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VPEXPANDB:
	case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
	default: return false;
	}
}

static bool is_mask_move(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD || m == ZYDIS_MNEMONIC_VPMASKMOVD ||
	       m == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* Exception types under which an element that the mask turns off does not fault (SDM 2 2.8). */
static bool suppresses_faults(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB: /* E4NF: a mask bit's result takes more than its element. */
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
	case ZYDIS_MNEMONIC_VDBPSADBW: return false; /* The decoder says E4. */
	default: break;
	}
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E4:
	case ZYDIS_EXCEPTION_CLASS_E5:
	case ZYDIS_EXCEPTION_CLASS_E6:
	case ZYDIS_EXCEPTION_CLASS_E10:
	case ZYDIS_EXCEPTION_CLASS_E11: return true;
	default: return false;
	}
}

/* Exception types that include #XM; NONE has the conversions from and to MMX registers. */
static bool may_raise_simd_fp(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VRCP14SD: /* E10 like the conversions, but raises nothing and heeds MXCSR.FTZ always. */
	case ZYDIS_MNEMONIC_VRCP14SS:
	case ZYDIS_MNEMONIC_VRSQRT14SD:
	case ZYDIS_MNEMONIC_VRSQRT14SS: return false;
	default: break;
	}
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_NONE:
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E10:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11:
	case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
	default: return false;
	}
}

/* ---- operands ---- */

static bool has_register_class(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
			       ZydisRegisterClass class)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(zo[n].reg.value) == class)
			return true;
	return false;
}

static const ZydisDecodedOperand *find_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &zo[n];
	return NULL;
}

static bool is_opmask_insn(const ZydisDecodedInstruction *zi)
{
	return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	       (zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_K20 ||
		zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_K21 || zi->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX);
}

/* SSE instructions that may have no XMM register among their operands. */
static bool is_sse_to_mmx(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_CVTPS2PI || m == ZYDIS_MNEMONIC_CVTTPS2PI || m == ZYDIS_MNEMONIC_CVTPD2PI ||
	       m == ZYDIS_MNEMONIC_CVTTPD2PI;
}

static enum vector_class class_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	if (vector_is_x87(zi))
		return VECTOR_X87;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || is_opmask_insn(zi))
		return VECTOR_EVEX;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return VECTOR_VEX;
	if (has_register_class(zi, zo, ZYDIS_REGCLASS_XMM) || is_sse_to_mmx(zi->mnemonic))
		return VECTOR_SSE;
	if (has_register_class(zi, zo, ZYDIS_REGCLASS_MMX) || zi->mnemonic == ZYDIS_MNEMONIC_EMMS)
		return VECTOR_MMX;
	return VECTOR_SSE;
}

static bool is_vector_register(const ZydisDecodedOperand *o)
{
	ZydisRegisterClass c;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	c = ZydisRegisterGetClass(o->reg.value);
	return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM || c == ZYDIS_REGCLASS_ZMM;
}

/* Which mask bits stand for which bytes of the memory operand. */
static void bind_mask(struct vector_info *info, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
		      const ZydisDecodedOperand *mem)
{
	bool to_vector = is_vector_register(&zo[0]);
	unsigned count = mem->element_count;

	info->elem = (uint8_t)(mem->element_size / 8);
	if (zi->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID)
		count = zi->avx.vector_length / mem->element_size;
	if (to_vector && zo[0].element_count < count)
		count = zo[0].element_count; /* wider than the data: a conversion, or VPDPBUSD and the like */
	if (count < mem->element_count)
		info->elem = (uint8_t)(info->size / count);
	info->count = (uint8_t)count;
	info->mask = vector_reg_number(zi->avx.mask.reg);
	if (is_packed_by_mask(zi->mnemonic))
		info->flags |= VECTOR_PACKED;
}

static interp_exec_fn *bind_memory(struct vector_info *info, enum vector_class class, const ZydisDecodedInstruction *zi,
				   const ZydisDecodedOperand *zo, const ZydisDecodedOperand *mem)
{
	bool store = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool masked = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && zi->avx.mask.reg != ZYDIS_REGISTER_NONE &&
		      zi->avx.mask.reg != ZYDIS_REGISTER_K0 && (store || suppresses_faults(zi));

	info->size = (uint8_t)(mem->size / 8);
	if (store)
		info->flags |= VECTOR_STORES;
	if (is_aligned_move(zi->mnemonic)) {
		info->align = info->size;
		info->flags |= VECTOR_EXPLICIT_ALIGN;
	} else if (class == VECTOR_SSE && info->size == 16 && !is_unaligned_sse(zi->mnemonic)) {
		info->align = 16;
	}
	if (class == VECTOR_X87)
		return store ? vector_exec_x87_store : vector_exec_x87_load;
	if (is_mask_move(zi->mnemonic)) {
		info->flags |= VECTOR_MASK_VEC;
		info->elem = (uint8_t)(mem->element_size / 8);
		info->count = (uint8_t)mem->element_count;
		info->mask = vector_reg_number(zo[1].reg.value);
		masked = true;
	} else if (masked) {
		bind_mask(info, zi, zo, mem);
	}
	if (masked && store && !(info->flags & VECTOR_MASK_VEC) && !suppresses_faults(zi))
		info->reg = 1;
	if (masked)
		return store ? vector_exec_masked_store : vector_exec_masked_load;
	return store ? vector_exec_store : vector_exec_load;
}

/* ---- special forms ---- */

static bool is_qword_index(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPS:
	case ZYDIS_MNEMONIC_VSCATTERQPD:
	case ZYDIS_MNEMONIC_VPSCATTERQD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ: return true;
	default: return false;
	}
}

static interp_exec_fn *bind_vsib(struct vector_info *info, const ZydisDecodedInstruction *zi,
				 const ZydisDecodedOperand *zo, const ZydisDecodedOperand *mem)
{
	bool scatter = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	unsigned index_size = is_qword_index(zi->mnemonic) ? 8 : 4;

	info->elem = (uint8_t)(mem->element_size / 8);
	info->count = (uint8_t)(zi->avx.vector_length / 8 / (info->elem > index_size ? info->elem : index_size));
	info->size = (uint8_t)(info->elem * info->count);
	info->index = vector_reg_number(mem->mem.index);
	info->reg = vector_reg_number(zo[scatter ? 2 : 0].reg.value);
	info->mask = vector_reg_number(vex ? zo[2].reg.value : zi->avx.mask.reg);
	if (index_size == 8)
		info->flags |= VECTOR_INDEX64;
	/* SDM 2, VGATHERDPS: the three vector registers must differ; VSCATTER has no such rule. */
	if (vex)
		info->flags |= VECTOR_MASK_VEC;
	else if (!info->mask)
		return vector_exec_ud;
	if (!scatter && (info->reg == info->index || (vex && (info->mask == info->index || info->mask == info->reg))))
		return vector_exec_ud;
	return scatter ? vector_exec_scatter : vector_exec_gather;
}

static interp_exec_fn *bind_maskmov(struct vector_info *info, const ZydisDecodedOperand *zo, bool mmx)
{
	info->elem = 1;
	info->size = info->count = mmx ? 8 : 16;
	info->reg = vector_reg_number(zo[0].reg.value);
	info->mask = vector_reg_number(zo[1].reg.value);
	return mmx ? vector_exec_maskmovq : vector_exec_maskmov;
}

/* Instructions done in C altogether; NULL: not one of them. */
static interp_exec_fn *find_special(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FWAIT: return vector_exec_fwait;
	case ZYDIS_MNEMONIC_FNSTENV: return vector_exec_fnstenv;
	case ZYDIS_MNEMONIC_FLDENV: return vector_exec_fldenv;
	case ZYDIS_MNEMONIC_FNSAVE: return vector_exec_fnsave;
	case ZYDIS_MNEMONIC_FRSTOR: return vector_exec_frstor;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: return vector_exec_x87_nop;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64: return vector_exec_fxsave;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64: return vector_exec_fxrstor;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64: return vector_exec_xsave;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return vector_exec_xrstor;
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR: return vector_exec_ldmxcsr;
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR: return vector_exec_stmxcsr;
	default: return NULL;
	}
}

static uint8_t x87_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE: return VECTOR_CONTROL;
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR: return VECTOR_CONTROL | VECTOR_WAITS;
	default: return VECTOR_WAITS;
	}
}

/* FOP is the opcode's low three bits and ModRM (SDM 1 8.1.9); environment handlers go by the operand's size. */
static void bind_x87(struct vector_info *info, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *mem)
{
	info->flags = x87_flags(zi->mnemonic);
	info->reg = zi->opcode & 7;
	info->index = (uint8_t)(zi->raw.modrm.mod << 6 | zi->raw.modrm.reg << 3 | zi->raw.modrm.rm);
	if (mem)
		info->size = (uint8_t)(mem->size / 8);
}

static interp_exec_fn *bind_exec(struct vector_info *info, enum vector_class class, const ZydisDecodedInstruction *zi,
				 const ZydisDecodedOperand *zo, const ZydisDecodedOperand *mem)
{
	interp_exec_fn *exec = find_special(zi->mnemonic);

	if (exec)
		return exec;
	if (mem && mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
		return bind_vsib(info, zi, zo, mem);
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ: return bind_maskmov(info, zo, true);
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU: return bind_maskmov(info, zo, false);
	case ZYDIS_MNEMONIC_FNINIT: return vector_exec_fninit;
	default: break;
	}
	if (mem)
		return bind_memory(info, class, zi, zo, mem);
	return class == VECTOR_X87 ? vector_exec_x87 : vector_exec_reg;
}

static bool needs_stub(interp_exec_fn *exec)
{
	return exec == vector_exec_reg || exec == vector_exec_load || exec == vector_exec_store ||
	       exec == vector_exec_masked_load || exec == vector_exec_masked_store || exec == vector_exec_x87 ||
	       exec == vector_exec_x87_load || exec == vector_exec_x87_store;
}

bool interp_bind_vector(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *zo)
{
	struct interp_vector *v = vector_of(cpu);
	struct vector_info *info = (struct vector_info *)&i->imm;
	const ZydisDecodedOperand *mem = find_memory(zi, zo);
	enum vector_class class;

	switch (vector_isa_check(cpu, v, zi)) {
	case VECTOR_ISA_FOREIGN: return false;
	case VECTOR_ISA_ABSENT: i->exec = vector_exec_ud; return true;
	case VECTOR_ISA_PRESENT: break;
	}
	class = class_of(zi, zo);
	*info = (struct vector_info){ .align = 1, .mask = VECTOR_NO_MASK };
	i->extra = (uint8_t) class;
	i->priv = NULL;
	if (class == VECTOR_X87)
		bind_x87(info, zi, mem);
	else if (has_register_class(zi, zo, ZYDIS_REGCLASS_MMX) || zi->mnemonic == ZYDIS_MNEMONIC_EMMS)
		info->flags = VECTOR_WAITS;
	/* With {sae} or {er} nothing is raised, whatever MXCSR says (SDM 1 15.6.3). */
	if (class >= VECTOR_SSE && !zi->avx.has_sae && zi->avx.rounding.mode == ZYDIS_ROUNDING_MODE_INVALID &&
	    may_raise_simd_fp(zi))
		info->flags |= VECTOR_SIMD_FP;
	if (mem)
		vector_bind_mem(i, zi, mem);
	i->exec = bind_exec(info, class, zi, zo, mem);
	if ((zi->mnemonic == ZYDIS_MNEMONIC_VZEROALL || zi->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER) && !x86_long64(cpu))
		i->exec = vector_exec_zero_low;
	if (needs_stub(i->exec))
		i->priv = vector_stub(v, zi, zo, i->raw);
	i->imm2 = v->generation; /* after vector_stub(), which may change it */
	return true;
}

void vector_rebind(struct x86_cpu *cpu, const struct interp_insn *i)
{
	/* The instruction belongs to this vCPU's block cache; only its handlers see it as constant. */
	struct interp_insn *insn = (struct interp_insn *)(uintptr_t)i;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];

	x86_fpu_put(cpu); /* the decoder is ordinary code */
	if (!ZYAN_SUCCESS(
		    ZydisDecoderDecodeFull(&interp_of(cpu)->decoder[interp_mode_of(cpu)], i->raw, i->len, &zi, zo)) ||
	    !interp_bind_vector(cpu, insn, &zi, zo))
		x86_internal_error(cpu, "vector instruction does not decode again");
}

struct interp_vector *interp_vector_create(void)
{
	struct interp_vector *v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);

	if (!v)
		return NULL;
	memset(v, 0, sizeof(*v));
	vector_host_features(v->host_features);
	if (vector_cache_create(v)) {
		free(v);
		return NULL;
	}
	return v;
}

void interp_vector_destroy(struct interp_vector *v)
{
	if (!v)
		return;
	vector_cache_destroy(v);
	free(v);
}
