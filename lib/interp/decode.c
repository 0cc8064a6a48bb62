/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From Zydis's result to struct interp_insn. What Zydis leaves to its caller is settled here: which
 * of several readings of the same bytes the guest's CPU has (CPUID features, vendor), repeat
 * prefixes, and what undecodable bytes raise.
 */
#include "interp/interp.h"

#include "interp/operand.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/transfer_internal.h"

void interp_decoders_init(struct x86_cpu *cpu, struct interp *in)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth width;
	} modes[INTERP_MODE_COUNT] = {
		[INTERP_MODE_REAL16] = { ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16 },
		[INTERP_MODE_PROT16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[INTERP_MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[INTERP_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};

	for (unsigned n = 0; n < INTERP_MODE_COUNT; n++) {
		ZydisDecoder *d = &in->decoder[n];

		ZydisDecoderInit(d, modes[n].mode, modes[n].width);
		/* Without the feature these are BSR and BSF with a meaningless F3, or NOPs. */
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, x86_has(cpu, X86_FEAT_ABM));
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, x86_has(cpu, X86_FEAT_BMI1));
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, x86_vendor_is_amd(cpu));
	}
}

void interp_exec_ud(struct x86_cpu *cpu, const struct interp_insn *i)
{
	(void)i;
	x86_raise_ud(cpu);
}

/* Longer than 15 bytes (SDM 2 2.3.11). */
void interp_exec_gp(struct x86_cpu *cpu, const struct interp_insn *i)
{
	(void)i;
	x86_raise_gp0(cpu);
}

void interp_exec_unimplemented(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_fpu_put(cpu);
	x86_internal_error(cpu, "interp: this form of %s is not implemented (rip %#llx)",
			   ZydisMnemonicGetString(i->mnemonic), (unsigned long long)cpu->rip);
}

/* GPR number of a register of any width, or INTERP_NO_REG. *high: AH, CH, DH, BH. */
static uint8_t gpr_number(ZydisRegister r, bool *high)
{
	*high = false;
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return (uint8_t)(r - ZYDIS_REGISTER_RAX);
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return (uint8_t)(r - ZYDIS_REGISTER_EAX);
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return (uint8_t)(r - ZYDIS_REGISTER_AX);
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return (uint8_t)(r - ZYDIS_REGISTER_AL);
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
		*high = true;
		return (uint8_t)(r - ZYDIS_REGISTER_AH);
	}
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (uint8_t)(r - ZYDIS_REGISTER_SPL + X86_RSP);
	return INTERP_NO_REG;
}

static uint8_t segment_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS)
		return (uint8_t)(r - ZYDIS_REGISTER_ES);
	return X86_DS;
}

static void operand_memory(struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *o)
{
	ZydisDecodedOperandMem m = interp_memory(zi, o);
	bool high;

	i->seg = segment_number(m.segment);
	i->base = m.base == ZYDIS_REGISTER_RIP || m.base == ZYDIS_REGISTER_EIP ? INTERP_RIP_REG
									       : gpr_number(m.base, &high);
	i->index = gpr_number(m.index, &high);
	i->shift = m.scale > 1 ? (uint8_t)__builtin_ctz(m.scale) : 0;
	i->disp = m.disp.value;
}

static void operand_register(struct interp_insn *i, unsigned n, ZydisRegister r)
{
	bool high;
	uint8_t gpr = gpr_number(r, &high);

	if (gpr != INTERP_NO_REG) {
		i->kind[n] = high ? INTERP_OP_REG_HIGH : INTERP_OP_REG;
		i->reg[n] = gpr;
	} else if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS) {
		i->kind[n] = INTERP_OP_SEG;
		i->reg[n] = segment_number(r);
	} else {
		i->kind[n] = INTERP_OP_OTHER;
		i->reg[n] = INTERP_NO_REG;
	}
}

static void operands_visible(struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	unsigned imms = 0;

	for (unsigned n = 0; n < zi->operand_count_visible && n < ARRAY_SIZE(i->kind); n++) {
		const ZydisDecodedOperand *o = &zo[n];

		i->size[n] = o->size / 8 <= 64 ? (uint8_t)(o->size / 8) : 0;
		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER: operand_register(i, n, o->reg.value); break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			i->kind[n] = INTERP_OP_MEM;
			operand_memory(i, zi, o);
			break;
		case ZYDIS_OPERAND_TYPE_POINTER:
			i->kind[n] = INTERP_OP_OTHER;
			i->imm = o->ptr.offset;
			i->imm2 = o->ptr.segment;
			break;
		default:
			i->kind[n] = INTERP_OP_IMM;
			*(imms++ ? &i->imm2 : &i->imm) = o->imm.value.u;
			break;
		}
	}
}

static bool has_memory(const struct interp_insn *i)
{
	for (unsigned n = 0; n < ARRAY_SIZE(i->kind); n++)
		if (i->kind[n] == INTERP_OP_MEM)
			return true;
	return false;
}

/*
 * String instructions, XLAT and MASKMOV have only hidden memory operands. The one whose segment can be
 * overridden gives i->seg: the source; ES:rDI never can.
 */
static void operand_hidden(struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	bool string = zi->meta.category == ZYDIS_CATEGORY_STRINGOP || zi->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;

	for (unsigned n = zi->operand_count_visible; n < zi->operand_count; n++) {
		bool high;

		if (zo[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (string && gpr_number(zo[n].mem.base, &high) != X86_RSI)
			continue;
		operand_memory(i, zi, &zo[n]);
		return;
	}
}

/* The last repeat prefix counts; F2 with an instruction that only knows REP repeats as well. */
static uint8_t prefix_flags(const ZydisDecodedInstruction *zi)
{
	uint8_t flags = zi->attributes & ZYDIS_ATTRIB_HAS_LOCK ? INTERP_LOCK : 0;
	uint8_t rep = 0;

	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		if (zi->raw.prefixes[n].value == 0xf3)
			rep = INTERP_REP;
		else if (zi->raw.prefixes[n].value == 0xf2)
			rep = INTERP_REPNE;
	return flags | rep;
}

/* Behind these, what is decoded next is not what runs next, or not under the same rules. */
static bool ends_block(const ZydisDecodedInstruction *zi)
{
	if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return true;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_VERW: return false; /* of their category only */
	default: break;
	}
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_VTX: return true;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2: return true;
	default: return false;
	}
}

/* Bytes that raise. All that were looked at count, so that changing one of them is noticed. */
static void insn_raises(struct interp_insn *i, interp_exec_fn *exec, unsigned len)
{
	i->exec = exec;
	i->len = (uint8_t)len;
	i->mnemonic = ZYDIS_MNEMONIC_INVALID;
	i->ends_block = true;
}

/*
 * A group knows no such form. The base set must be complete; anything else belongs to a feature that
 * the guest's CPUID does not announce, as CPUID reports what works and nothing else.
 */
static void insn_unbound(struct interp_insn *i, const ZydisDecodedInstruction *zi)
{
	i->ends_block = true;
	switch (zi->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2: i->exec = interp_exec_unimplemented; break;
	default: i->exec = interp_exec_ud; break;
	}
}

/*
 * F3 REX.B 90: processors exchange R8 with RAX, Zydis says PAUSE. Decoded again with another prefix in F3's place, one
 * that means nothing there.
 */
static void decode_rex_xchg(const ZydisDecoder *d, const uint8_t *bytes, ZydisDecodedInstruction *zi,
			    ZydisDecodedOperand *zo)
{
	uint8_t copy[INTERP_INSN_MAX];
	unsigned len = zi->length;

	if (zi->mnemonic != ZYDIS_MNEMONIC_PAUSE || !(zi->attributes & ZYDIS_ATTRIB_HAS_REX) || !zi->raw.rex.B)
		return;
	for (unsigned n = 0; n < len; n++)
		copy[n] = bytes[n] == 0xf3 ? 0x3e : bytes[n];
	ZydisDecoderDecodeFull(d, copy, len, zi, zo);
}

bool interp_decode_full(struct x86_cpu *cpu, enum interp_mode mode, const uint8_t *bytes, unsigned avail,
			struct interp_insn *out, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
	const ZydisDecoder *d = &interp_of(cpu)->decoder[mode];
	ZyanStatus status;

	x86_fpu_put(cpu);
	*out = (struct interp_insn){ .base = INTERP_NO_REG, .index = INTERP_NO_REG, .seg = X86_DS };
	status = ZydisDecoderDecodeFull(d, bytes, avail, zi, zo);
	if (status == ZYDIS_STATUS_NO_MORE_DATA && avail < INTERP_INSN_MAX)
		return false;
	if (!ZYAN_SUCCESS(status)) {
		bool too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA;

		insn_raises(out, too_long ? interp_exec_gp : interp_exec_ud,
			    avail < INTERP_INSN_MAX ? avail : INTERP_INSN_MAX);
		return true;
	}
	decode_rex_xchg(d, bytes, zi, zo);
	out->len = zi->length;
	out->opsize = zi->operand_width / 8;
	out->addrsize = zi->address_width / 8;
	out->mnemonic = (uint16_t)zi->mnemonic;
	out->flags = prefix_flags(zi);
	tz_copy(out->raw, bytes, zi->length);
	operands_visible(out, zi, zo);
	if (!has_memory(out))
		operand_hidden(out, zi, zo);
	out->flat = mode == INTERP_MODE_64 && out->addrsize == 8 && out->seg < X86_FS;
	out->ends_block = ends_block(zi);
	if (!interp_bind_find(zi->mnemonic)(cpu, out, zi, zo))
		insn_unbound(out, zi);
	return true;
}

bool interp_decode(struct x86_cpu *cpu, enum interp_mode mode, const uint8_t *bytes, unsigned avail,
		   struct interp_insn *out)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;

	return interp_decode_full(cpu, mode, bytes, avail, out, &zi, zo);
}
