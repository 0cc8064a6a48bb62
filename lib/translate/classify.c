/* SPDX-License-Identifier: Apache-2.0 */
/* What can be emitted, and what each instruction does to flags, registers and memory. */
#include <cpuid.h>

#include "interp/operand.h"
#include "interp/vector.h"
#include "translate/block.h"

/* The host has BMI1, BMI2, ADX, LZCNT, MOVBE, POPCNT and SSE4.2: a guest may have them by interp alone. */
static bool host_extras;
static bool host_avx512; /* on 128 and 256 bits, with opmasks of 64 */

void translate_host_init(void)
{
	uint32_t a, b, c, d, leaf1, leaf7, leaf81;

	if (!__get_cpuid_count(7, 0, &a, &leaf7, &c, &d) || !__get_cpuid(1, &a, &b, &leaf1, &d) ||
	    !__get_cpuid(0x80000001, &a, &b, &leaf81, &d))
		return;
	host_extras = (leaf7 & BIT32(3)) && (leaf7 & BIT32(8)) && (leaf7 & BIT32(19)) && (leaf1 & BIT32(20)) &&
		      (leaf1 & BIT32(22)) && (leaf1 & BIT32(23)) && (leaf81 & BIT32(5));
	host_avx512 = (leaf7 & BIT32(30)) && (leaf7 & BIT32(31));
}

static bool has_memory(const struct insn *i)
{
	for (unsigned n = 0; n < ARRAY_SIZE(i->ii.kind); n++)
		if (i->ii.kind[n] == INTERP_OP_MEM)
			return true;
	return false;
}

static unsigned width_of(unsigned mode)
{
	return mode & TRANSLATE_MODE_32 ? 4 : 8;
}

/* MOV between rAX and an address without ModRM. */
static bool is_moffs(const struct insn *i)
{
	return i->zi.mnemonic == ZYDIS_MNEMONIC_MOV && i->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	       (i->zi.opcode & 0xfc) == 0xa0;
}

/*
 * Bits of VEX, EVEX and is4 that mean something only in 64-bit mode, set so that they would (SDM 2 2.3.5, 2.7.1), and
 * W where 32-bit code has no quadword.
 */
static bool odd_in_32bit(const struct insn *i)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	const uint8_t *vex = i->ii.raw + zi->raw.vex.offset, *evex = i->ii.raw + zi->raw.evex.offset;
	bool w;

	for (unsigned n = 0; n < zi->operand_count_visible; n++)
		if (i->zo[n].encoding == ZYDIS_OPERAND_ENCODING_IS4 && (i->ii.raw[zi->length - 1] & 0x80))
			return true;
	switch (zi->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		w = zi->raw.vex.W;
		if (vex[0] == 0xc4 ? !(vex[1] & 0x20) || !(vex[2] & 0x40) : !(vex[1] & 0x40))
			return true;
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		w = zi->raw.evex.W;
		if ((evex[1] & 0xf0) != 0xf0 || !(evex[2] & 0x40) || !(evex[3] & 8))
			return true;
		break;
	default: return false;
	}
	for (unsigned n = 0; n < ARRAY_SIZE(i->ii.kind); n++)
		if (w && i->ii.kind[n] == INTERP_OP_REG)
			return true;
	return w && vector_ignores_w(zi->mnemonic);
}

/* Only general registers, immediates, and a memory operand that ModRM encodes or could. */
static bool plain_operands(const struct insn *i)
{
	for (unsigned n = 0; n < i->zi.operand_count_visible; n++) {
		if (n >= ARRAY_SIZE(i->ii.kind) || i->ii.kind[n] == INTERP_OP_SEG || i->ii.kind[n] == INTERP_OP_OTHER)
			return false;
		if (i->ii.kind[n] == INTERP_OP_MEM && !(i->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) && !is_moffs(i))
			return false;
	}
	return true;
}

/* The conditional ones: a count of zero changes no flag (SDM 2B SHL, ROL). */
static bool is_shift(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return true;
	default: return false;
	}
}

static bool count_may_be_zero(const struct insn *i)
{
	unsigned last = i->zi.operand_count_visible - 1u;

	if (!is_shift(i->zi.mnemonic))
		return false;
	return i->zo[last].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	       !(i->zo[last].imm.value.u & (i->ii.opsize == 8 ? 63 : 31));
}

static enum insn_kind kind_extra(const struct insn *i)
{
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_MOVBE:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX:
	case ZYDIS_MNEMONIC_ANDN:
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI:
	case ZYDIS_MNEMONIC_BLSMSK:
	case ZYDIS_MNEMONIC_BLSR:
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_MULX:
	case ZYDIS_MNEMONIC_PDEP:
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_RORX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX: return host_extras && plain_operands(i) ? KIND_GENERIC : KIND_INTERP;
	default: return KIND_INTERP;
	}
}

static enum insn_kind kind_stack(const struct insn *i, unsigned width)
{
	const struct interp_insn *ii = &i->ii;

	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return ii->opsize == width && ii->kind[0] <= INTERP_OP_IMM && ii->kind[0] != INTERP_OP_REG_HIGH
			       ? KIND_PUSH
			       : KIND_INTERP;
	case ZYDIS_MNEMONIC_POP: return ii->opsize == width && ii->kind[0] == INTERP_OP_REG ? KIND_POP : KIND_INTERP;
	case ZYDIS_MNEMONIC_LEAVE: return ii->opsize == width ? KIND_LEAVE : KIND_INTERP;
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ: return ii->opsize == width ? KIND_PUSHF : KIND_INTERP;
	default: return KIND_INTERP;
	}
}

/* MOVS, CMPS, STOS, LODS, SCAS: opcodes A4 to A7, AA to AF. By FS and GS they are rare. */
static enum insn_kind kind_string(const struct insn *i, unsigned width)
{
	if (i->zi.meta.category != ZYDIS_CATEGORY_STRINGOP || (i->ii.flags & (INTERP_REP | INTERP_REPNE)) ||
	    i->ii.addrsize != width || i->ii.seg >= X86_FS || (width == 4 && i->ii.seg == X86_CS))
		return KIND_INTERP;
	return KIND_STRING;
}

static enum insn_kind kind_branch(const struct insn *i, unsigned width)
{
	const struct interp_insn *ii = &i->ii;

	if (i->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || ii->opsize != width)
		return KIND_INTERP;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_JMP: return KIND_JMP;
	case ZYDIS_MNEMONIC_CALL: return KIND_CALL;
	case ZYDIS_MNEMONIC_RET: return ii->imm < 0x4000 ? KIND_RET : KIND_INTERP;
	default: break;
	}
	if (i->zi.meta.category == ZYDIS_CATEGORY_COND_BR)
		switch (i->zi.mnemonic) {
		case ZYDIS_MNEMONIC_JB:
		case ZYDIS_MNEMONIC_JBE:
		case ZYDIS_MNEMONIC_JL:
		case ZYDIS_MNEMONIC_JLE:
		case ZYDIS_MNEMONIC_JNB:
		case ZYDIS_MNEMONIC_JNBE:
		case ZYDIS_MNEMONIC_JNL:
		case ZYDIS_MNEMONIC_JNLE:
		case ZYDIS_MNEMONIC_JNO:
		case ZYDIS_MNEMONIC_JNP:
		case ZYDIS_MNEMONIC_JNS:
		case ZYDIS_MNEMONIC_JNZ:
		case ZYDIS_MNEMONIC_JO:
		case ZYDIS_MNEMONIC_JP:
		case ZYDIS_MNEMONIC_JS:
		case ZYDIS_MNEMONIC_JZ: return KIND_JCC;
		default: break;
		}
	return KIND_INTERP;
}

static bool is_masked(const struct insn *i)
{
	return i->ii.exec == vector_exec_masked_load || i->ii.exec == vector_exec_masked_store;
}

static bool is_gather(const struct insn *i)
{
	return i->ii.exec == vector_exec_gather || i->ii.exec == vector_exec_scatter;
}

/* interp runs it as an ordinary vector instruction, and its checks surely pass in this mode. */
static enum insn_kind kind_vector(const struct insn *i, unsigned mode)
{
#ifdef __SANITIZE_ADDRESS__
	/* Its run-time uses vector registers: nothing may stay live (vector_rest()). */
	const unsigned live = 0;
#else
	const unsigned live = TRANSLATE_MODE_SSE | TRANSLATE_MODE_AVX | TRANSLATE_MODE_AVX512;
#endif
	unsigned need = i->ii.extra == VECTOR_SSE    ? TRANSLATE_MODE_SSE
			: i->ii.extra == VECTOR_VEX  ? TRANSLATE_MODE_AVX
			: i->ii.extra == VECTOR_EVEX ? TRANSLATE_MODE_AVX512
						     : 0;

	if (is_gather(i))
		return mode & need & live && (i->ii.extra == VECTOR_VEX || host_avx512) ? KIND_GATHER : KIND_INTERP;
	/* MMX: a pending x87 exception must not come to the host (SDM 3A 12.5). */
	if (!(mode & need & live) || (vector_info(&i->ii)->flags & VECTOR_WAITS) ||
	    (i->ii.exec != vector_exec_reg && i->ii.exec != vector_exec_load && i->ii.exec != vector_exec_store &&
	     !is_masked(i)))
		return KIND_INTERP;
	for (unsigned n = 0; n < i->zi.operand_count; n++)
		if (n >= i->zi.operand_count_visible && i->zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return KIND_INTERP;
	for (unsigned n = ARRAY_SIZE(i->ii.kind); n < i->zi.operand_count_visible && has_memory(i); n++)
		if (i->zo[n].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return KIND_INTERP;
	return i->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM || !has_memory(i) ? KIND_VECTOR : KIND_INTERP;
}

static enum insn_kind kind_of(const struct insn *i, unsigned mode)
{
	const struct interp_insn *ii = &i->ii;
	enum insn_kind kind;

	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return plain_operands(i) ? KIND_GENERIC : KIND_INTERP;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		/* With a register, the bit may be anywhere in memory. */
		return plain_operands(i) && (!has_memory(i) || ii->kind[1] == INTERP_OP_IMM) ? KIND_GENERIC
											     : KIND_INTERP;
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV: return ii->opsize >= 4 ? KIND_DIV : KIND_INTERP;
	case ZYDIS_MNEMONIC_LEA: return ii->opsize >= 4 && ii->addrsize >= 4 ? KIND_LEA : KIND_INTERP;
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR64:
		/* 0F 0D with a register: interp knows whose it is. */
		return i->zi.opcode_map == ZYDIS_OPCODE_MAP_0F && i->zi.opcode == 0x0d ? KIND_INTERP : KIND_NOP;
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHW: return KIND_NOP;
	case ZYDIS_MNEMONIC_SYSCALL: return KIND_SYSCALL;
	case ZYDIS_MNEMONIC_SYSRET: return KIND_SYSRET;
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_STAC: return ii->exec == interp_exec_ud ? KIND_INTERP : KIND_AC;
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_SWAPGS: return ii->exec == interp_exec_ud ? KIND_INTERP : KIND_SYSTEM;
	default: break;
	}
	if (i->zi.meta.category == ZYDIS_CATEGORY_CMOV || i->zi.meta.category == ZYDIS_CATEGORY_SETCC)
		return plain_operands(i) ? KIND_GENERIC : KIND_INTERP;
	kind = kind_string(i, width_of(mode));
	if (kind == KIND_INTERP)
		kind = kind_stack(i, width_of(mode));
	if (kind == KIND_INTERP)
		kind = kind_branch(i, width_of(mode));
	if (kind == KIND_INTERP)
		kind = kind_extra(i);
	return kind == KIND_INTERP ? kind_vector(i, mode) : kind;
}

/* ---- memory and registers ---- */

static void stack_access(struct access *a, unsigned width, int disp, bool write)
{
	*a = (struct access){ .size = (uint16_t)width,
			      .write = write,
			      .wide = width == 8,
			      .stack = true,
			      .base = X86_RSP,
			      .index = INTERP_NO_REG,
			      .seg = X86_SS,
			      .align = 1,
			      .disp = disp };
}

/*
 * Relative to RSP. In 32-bit code: near it, so that RSP as the host has it is not on the other side of 4 GiB (fill() in
 * runtime.c sees to the page).
 */
static bool is_stack(const struct access *a, bool wide)
{
	if (a->base != X86_RSP || a->index != INTERP_NO_REG || a->wide != wide || a->seg >= X86_FS)
		return false;
	return wide || (a->disp >= -(int64_t)TZ_PAGE_SIZE && a->disp <= (int64_t)TZ_PAGE_SIZE);
}

bool insn_operand_access(const struct insn *i, struct access *a)
{
	const struct interp_insn *ii = &i->ii;
	bool wide = i->zi.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	unsigned n;

	a->size = 0;
	for (n = 0; n < ARRAY_SIZE(ii->kind); n++)
		if (ii->kind[n] == INTERP_OP_MEM)
			break;
	if (n == ARRAY_SIZE(ii->kind))
		return true;
	*a = (struct access){ .size = ii->size[n],
			      .write = (i->zo[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0,
			      .wide = ii->addrsize == 8,
			      .masked = i->kind == KIND_VECTOR && is_masked(i),
			      .base = ii->base,
			      .index = ii->index,
			      .shift = ii->shift,
			      .seg = ii->seg,
			      .align = i->kind == KIND_VECTOR ? vector_info(ii)->align : 1,
			      .disp = ii->disp };
	/* In 32-bit code nothing but data can be written, and not all code be read; 16 bits of address are interp's. */
	if (!wide && (ii->addrsize == 2 || a->seg == X86_CS))
		return false;
	if (!wide)
		a->disp = (int32_t)a->disp;
	if (a->index == INTERP_NO_REG)
		a->shift = 0;
	if (a->base == INTERP_RIP_REG)
		a->disp += i->offset + ii->len;
	a->stack = is_stack(a, wide);
	if (!a->align)
		a->align = 1;
	return a->size != 0;
}

void insn_string_access(const struct insn *i, bool source, struct access *a)
{
	*a = (struct access){ .size = i->ii.opsize,
			      .write = !source && ((i->zi.opcode & 0xfe) == 0xa4 || (i->zi.opcode & 0xfe) == 0xaa),
			      .wide = i->ii.addrsize == 8,
			      .base = source ? X86_RSI : X86_RDI,
			      .index = INTERP_NO_REG,
			      .seg = source ? i->ii.seg : X86_ES,
			      .align = 1 };
}

static bool find_access(struct insn *i, unsigned width)
{
	i->mem.size = 0;
	switch (i->kind) {
	case KIND_PUSH:
	case KIND_PUSHF:
	case KIND_CALL: stack_access(&i->mem, width, -(int)width, true); return true;
	case KIND_POP:
	case KIND_RET: stack_access(&i->mem, width, 0, false); return true;
	case KIND_LEAVE:
		stack_access(&i->mem, width, 0, false);
		i->mem.stack = false;
		i->mem.base = X86_RBP;
		return true;
	case KIND_GENERIC:
	case KIND_VECTOR:
	case KIND_DIV:
	case KIND_SYSTEM:
	case KIND_JMP: return insn_operand_access(i, &i->mem);
	case KIND_GATHER: return insn_gather_access(i, &(struct access){ 0 });
	default: return true;
	}
}

/* ADD, SUB, INC, DEC, LEA that move a register by a constant, and what moves RSP. */
static bool find_step(struct insn *i, unsigned width)
{
	const struct interp_insn *ii = &i->ii;
	bool reg = ii->kind[0] == INTERP_OP_REG && ii->opsize == width;
	int64_t step;

	switch (i->kind == KIND_GENERIC || i->kind == KIND_LEA || i->kind == KIND_PUSH || i->kind == KIND_POP ||
				i->kind == KIND_PUSHF
			? i->zi.mnemonic
			: ZYDIS_MNEMONIC_INVALID) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		i->step_reg = X86_RSP;
		i->step = -(int32_t)width;
		return true;
	case ZYDIS_MNEMONIC_POP:
		i->step_reg = X86_RSP;
		i->step = (int32_t)width;
		return ii->reg[0] != X86_RSP;
	case ZYDIS_MNEMONIC_INC: step = 1; break;
	case ZYDIS_MNEMONIC_DEC: step = -1; break;
	case ZYDIS_MNEMONIC_ADD: step = width == 8 ? (int64_t)ii->imm : (int32_t)ii->imm; break;
	case ZYDIS_MNEMONIC_SUB: step = width == 8 ? -(int64_t)ii->imm : -(int64_t)(int32_t)ii->imm; break;
	case ZYDIS_MNEMONIC_LEA:
		if (ii->addrsize != width || ii->base != ii->reg[0] || ii->index != INTERP_NO_REG)
			return false;
		step = ii->disp;
		break;
	default: return false;
	}
	if (!reg || ((i->zi.mnemonic == ZYDIS_MNEMONIC_ADD || i->zi.mnemonic == ZYDIS_MNEMONIC_SUB) &&
		     ii->kind[1] != INTERP_OP_IMM))
		return false;
	if (step < -4096 || step > 4096)
		return false;
	i->step_reg = ii->reg[0];
	i->step = (int32_t)step;
	return true;
}

static void find_clobbers(struct insn *i, unsigned width)
{
	i->clobbers = 0;
	i->step_reg = INTERP_NO_REG;
	i->step = 0;
	if (i->kind == KIND_INTERP || i->kind >= KIND_JMP) {
		i->clobbers = UINT16_MAX;
		return;
	}
	for (unsigned n = 0; n < i->zi.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->zo[n];
		ZydisRegister r;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
		if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
			i->clobbers |= (uint16_t)BIT32(r - ZYDIS_REGISTER_RAX);
	}
	if (i->kind == KIND_STRING) /* Zydis names them for some only */
		i->clobbers |= BIT32(X86_RSI) | BIT32(X86_RDI);
	if (find_step(i, width))
		i->clobbers &= (uint16_t)~BIT32(i->step_reg);
	else
		i->step_reg = INTERP_NO_REG;
}

static void find_flags(struct insn *i)
{
	const ZydisAccessedFlags *f = i->zi.cpu_flags;

	i->reads = i->kills = i->writes = 0;
	if (i->kind == KIND_INTERP) {
		i->reads = i->writes = X86_ARITH_FLAGS;
		return;
	}
	/* VERW changes ZF alone, where the others are. */
	if (i->kind == KIND_PUSHF || i->zi.mnemonic == ZYDIS_MNEMONIC_VERW) {
		i->reads = X86_ARITH_FLAGS;
		return;
	}
	if (!f)
		return;
	i->reads = f->tested & X86_ARITH_FLAGS;
	i->writes = i->kills = (f->modified | f->set_0 | f->set_1 | f->undefined) & X86_ARITH_FLAGS;
	if (i->kind >= KIND_JCC)
		i->writes = i->kills = 0;
	if (count_may_be_zero(i))
		i->kills = 0;
}

void insn_classify(struct insn *i, unsigned mode)
{
	i->kind = i->ii.mnemonic == ZYDIS_MNEMONIC_INVALID ? KIND_INTERP : kind_of(i, mode);
	if (mode & TRANSLATE_MODE_32 && odd_in_32bit(i))
		i->kind = KIND_INTERP;
	/* A target further away than a record can say. */
	if (i->kind >= KIND_JCC && i->ii.kind[0] == INTERP_OP_IMM && i->kind != KIND_RET &&
	    !(mode & TRANSLATE_MODE_32) && flow_target(i) != (int32_t)flow_target(i))
		i->kind = KIND_INTERP;
	/* What interp raises #UD for ends a block. */
	if (i->ii.ends_block && i->kind < KIND_JCC)
		i->kind = KIND_INTERP;
	/* Without a window what was read would have to wait while the stack is looked up; from the stack it may need
	 * another. */
	if (i->kind == KIND_CALL && i->ii.kind[0] != INTERP_OP_IMM && (mode & TRANSLATE_MODE_PLAIN))
		i->kind = KIND_INTERP;
	if (i->kind == KIND_PUSH && i->ii.kind[0] == INTERP_OP_MEM &&
	    ((mode & TRANSLATE_MODE_PLAIN) || i->ii.base == X86_RSP))
		i->kind = KIND_INTERP;
	if (!find_access(i, width_of(mode)))
		i->kind = KIND_INTERP;
	find_flags(i);
	find_clobbers(i, width_of(mode));
}
