/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host stubs for guest vector and x87 instructions, and the cache that holds them.
 *
 * A stub is void stub(struct x86_cpu *cpu, void *mem), so rdi and rsi are given. The instruction
 * is re-encoded by patching its own bytes: prefixes that only concern the memory operand go,
 * ModRM becomes [rsi], general registers become rax (ModRM.reg) and rcx (ModRM.rm), and the
 * REX/VEX/EVEX extension bits follow. The host is in 64-bit mode whatever the guest's mode is.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "interp/vector.h"

#define HOST_RAX 0
#define HOST_RCX 1
#define HOST_RDX 2
#define HOST_RSI 6

struct emit {
	uint8_t buf[VECTOR_STUB_MAX];
	unsigned n;
};

/* What becomes of the instruction's register fields. */
struct recode {
	const ZydisDecodedInstruction *zi;
	const uint8_t *raw;
	bool long64;    /* the guest's mode: else the extension bits do not count */
	bool reg_fixed; /* ModRM.reg is a general or opmask register: no extension bits */
	bool rm_fixed;  /* ModRM.rm likewise, or memory */
	bool clear_w;
	bool is4;            /* imm8[7:4] is a register */
	int reg_gpr, rm_gpr; /* guest's number or -1 */
	bool reg_write, rm_write;
};

static void emit8(struct emit *e, unsigned b)
{
	e->buf[e->n++] = (uint8_t)b;
}

static void emit_bytes(struct emit *e, const uint8_t *p, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		emit8(e, p[k]);
}

static void emit32(struct emit *e, uint32_t v)
{
	for (unsigned k = 0; k < 32; k += 8)
		emit8(e, v >> k);
}

/* mov host, [rdi + offset] or back; host is one of the low eight. */
static void emit_mov(struct emit *e, unsigned host, uint32_t offset, bool store)
{
	emit8(e, 0x48);
	emit8(e, store ? 0x89 : 0x8b);
	emit8(e, 0x80 | host << 3 | 7);
	emit32(e, offset);
}

static void emit_gpr(struct emit *e, unsigned host, unsigned guest, bool store)
{
	emit_mov(e, host, (uint32_t)(offsetof(struct x86_cpu, gpr) + guest * 8), store);
}

/* The arithmetic flags of the guest into the host's: mov rax; and eax; push; popfq. */
static void emit_flags_load(struct emit *e)
{
	emit_mov(e, HOST_RAX, offsetof(struct x86_cpu, rflags), false);
	emit8(e, 0x25);
	emit32(e, X86_ARITH_FLAGS);
	emit8(e, 0x50);
	emit8(e, 0x9d);
}

/* And back: pushfq; pop rax; and eax; mov rdx; and rdx, ~; or rdx, rax; mov. */
static void emit_flags_store(struct emit *e)
{
	emit8(e, 0x9c);
	emit8(e, 0x58);
	emit8(e, 0x25);
	emit32(e, X86_ARITH_FLAGS);
	emit_mov(e, HOST_RDX, offsetof(struct x86_cpu, rflags), false);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x81, 0xe2 }, 3);
	emit32(e, ~(uint32_t)X86_ARITH_FLAGS);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x09, 0xc2 }, 3);
	emit_mov(e, HOST_RDX, offsetof(struct x86_cpu, rflags), true);
}

/* ---- re-encoding ---- */

static bool is_legacy_prefix(uint8_t b)
{
	switch (b) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3: return true;
	default: return false;
	}
}

/* ModRM and what follows displacement and SIB. */
static void emit_operands(struct emit *e, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = r->zi;
	unsigned modrm = r->raw[zi->raw.modrm.offset], tail;
	unsigned reg = r->reg_gpr >= 0 ? HOST_RAX : (modrm >> 3) & 7;

	tail = zi->raw.modrm.offset + 1u;
	if (modrm >> 6 == 3) {
		emit8(e, 0xc0 | reg << 3 | (r->rm_gpr >= 0 ? HOST_RCX : modrm & 7));
	} else {
		emit8(e, reg << 3 | HOST_RSI);
		tail += (zi->raw.sib.offset ? 1 : 0) + zi->raw.disp.size / 8;
	}
	for (; tail < zi->length; tail++)
		emit8(e, r->is4 && !r->long64 ? r->raw[tail] & 0x7f : r->raw[tail]);
}

static void emit_legacy(struct emit *e, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = r->zi;
	unsigned opcode = 0, rex = 0;

	for (; is_legacy_prefix(r->raw[opcode]) || (r->long64 && (r->raw[opcode] & 0xf0) == 0x40); opcode++)
		;
	for (unsigned k = 0; k < zi->raw.prefix_count; k++)
		if (zi->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			emit8(e, zi->raw.prefixes[k].value);
	if ((zi->attributes & ZYDIS_ATTRIB_HAS_REX) && !vector_is_x87(zi))
		rex = (zi->raw.rex.W ? 8u : 0) | (zi->raw.rex.R && !r->reg_fixed ? 4u : 0) |
		      (zi->raw.rex.B && !r->rm_fixed ? 1u : 0);
	if (rex)
		emit8(e, 0x40 | rex);
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
		emit_bytes(e, r->raw + opcode, zi->length - opcode);
		return;
	}
	emit_bytes(e, r->raw + opcode, zi->raw.modrm.offset - opcode);
	emit_operands(e, r);
}

/* SDM 2 2.3.5: the extension bits are stored inverted; outside 64-bit mode B and vvvv[3] are ignored. */
static void emit_vex(struct emit *e, const struct recode *r)
{
	const uint8_t *vex = r->raw + r->zi->raw.vex.offset;
	unsigned ext, map = 1, rest;

	if (vex[0] == 0xc5) {
		ext = (vex[1] & 0x80) | 0x60;
		rest = vex[1] & 0x7f;
	} else {
		ext = (vex[1] & 0xa0) | 0x40;
		map = vex[1] & 0x1f;
		rest = vex[2];
	}
	if (r->reg_fixed || !r->long64)
		ext |= 0x80;
	if (r->rm_fixed || !r->long64)
		ext |= 0x20;
	if (!r->long64)
		rest |= 0x40;
	if (r->clear_w)
		rest &= 0x7f;
	emit8(e, 0xc4);
	emit8(e, ext | map);
	emit8(e, rest);
	emit8(e, r->zi->opcode);
	if (r->zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		emit_operands(e, r);
}

/* SDM 2 2.7.1: P0 = R X B R' 0 m m m, P1 = W v v v v 1 p p, P2 = z L' L b V' a a a. */
static void emit_evex(struct emit *e, const struct recode *r)
{
	const uint8_t *evex = r->raw + r->zi->raw.evex.offset;
	unsigned p0 = evex[1], p1 = evex[2], p2 = evex[3];

	if (r->reg_fixed)
		p0 |= 0x90;
	if (r->rm_fixed)
		p0 |= 0x60;
	if (!r->long64) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
	}
	if (r->clear_w)
		p1 &= 0x7f;
	emit8(e, 0x62);
	emit8(e, p0);
	emit8(e, p1);
	emit8(e, p2);
	emit8(e, r->zi->opcode);
	emit_operands(e, r);
}

bool vector_ignores_w(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VCVTSD2USI:
	case ZYDIS_MNEMONIC_VCVTSS2USI:
	case ZYDIS_MNEMONIC_VCVTTSD2USI:
	case ZYDIS_MNEMONIC_VCVTTSS2USI:
	case ZYDIS_MNEMONIC_VPBROADCASTD:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM: return true;
	default: return false;
	}
}

static bool is_gpr(ZydisRegister reg)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(reg);

	return c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
}

static void recode_operand(struct recode *r, const ZydisDecodedOperand *o)
{
	bool gpr, write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool fixed;

	if (o->encoding == ZYDIS_OPERAND_ENCODING_IS4)
		r->is4 = true;
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		r->rm_fixed = true;
		return;
	}
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return;
	gpr = is_gpr(o->reg.value);
	fixed = gpr || ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_MASK;
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
		r->reg_fixed = fixed;
		r->reg_gpr = gpr ? ZydisRegisterGetId(o->reg.value) : -1;
		r->reg_write = gpr && write;
	} else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
		r->rm_fixed = fixed;
		r->rm_gpr = gpr ? ZydisRegisterGetId(o->reg.value) : -1;
		r->rm_write = gpr && write;
	}
}

static bool is_string_compare(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPISTRI:
	case ZYDIS_MNEMONIC_VPCMPISTRM: return true;
	default: return false;
	}
}

static void emit_stub(struct emit *e, const struct recode *r)
{
	const ZydisDecodedInstruction *zi = r->zi;
	uint32_t tested = zi->cpu_flags ? zi->cpu_flags->tested : 0, written = 0;
	bool lengths = is_string_compare(zi->mnemonic);
	bool fnstsw_ax = zi->mnemonic == ZYDIS_MNEMONIC_FNSTSW && zi->raw.modrm.mod == 3;

	if (zi->cpu_flags)
		written = zi->cpu_flags->modified | zi->cpu_flags->set_0 | zi->cpu_flags->set_1 |
			  zi->cpu_flags->undefined;
	/* FCMOVcc reads flags; FCOMI does not write all of them. */
	if (vector_is_x87(zi) && (tested | written) & X86_ARITH_FLAGS)
		emit_flags_load(e);
	if (r->reg_gpr >= 0 || lengths || fnstsw_ax)
		emit_gpr(e, HOST_RAX, r->reg_gpr >= 0 ? (unsigned)r->reg_gpr : X86_RAX, false);
	if (r->rm_gpr >= 0 || lengths)
		emit_gpr(e, HOST_RCX, r->rm_gpr >= 0 ? (unsigned)r->rm_gpr : X86_RCX, false);
	if (lengths)
		emit_gpr(e, HOST_RDX, X86_RDX, false);
	switch (zi->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX: emit_vex(e, r); break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: emit_evex(e, r); break;
	default: emit_legacy(e, r); break;
	}
	if (r->reg_write || fnstsw_ax)
		emit_gpr(e, HOST_RAX, fnstsw_ax ? X86_RAX : (unsigned)r->reg_gpr, true);
	if (r->rm_write || lengths)
		emit_gpr(e, HOST_RCX, lengths ? X86_RCX : (unsigned)r->rm_gpr, true);
	if (written & X86_ARITH_FLAGS)
		emit_flags_store(e);
	emit8(e, 0xc3);
}

/* ---- the cache ---- */

static uint32_t stub_hash(const struct emit *e)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (unsigned k = 0; k < e->n; k++)
		h = (h ^ e->buf[k]) * 16777619u;
	return h;
}

static bool stub_equal(const uint8_t *a, const struct emit *e)
{
	for (unsigned k = 0; k < e->n; k++)
		if (a[k] != e->buf[k])
			return false;
	return true;
}

static uint32_t cache_append(struct interp_vector *v, const struct emit *e)
{
	uint32_t at = v->used;

	tz_copy(v->rw + at, e->buf, e->n);
	v->used = (at + e->n + 15) & ~15u;
	return at;
}

static void cache_empty(struct interp_vector *v)
{
	tz_clear(v->table, sizeof(v->table));
	v->used = v->fixed;
	v->generation++;
}

static void *cache_insert(struct interp_vector *v, const struct emit *e)
{
	const uint32_t mask = (1u << VECTOR_TABLE_BITS) - 1;
	uint32_t hash = stub_hash(e), k, probes = 0;

	for (k = hash & mask; v->table[k].offset; k = (k + 1) & mask, probes++)
		if (v->table[k].hash == hash && v->table[k].len == e->n && stub_equal(v->rw + v->table[k].offset, e))
			return v->rx + v->table[k].offset;
	if (v->used + VECTOR_STUB_MAX > VECTOR_CODE_SIZE || probes > 64) {
		cache_empty(v);
		k = hash & mask;
	}
	v->table[k].hash = hash;
	v->table[k].len = e->n;
	v->table[k].offset = cache_append(v, e);
	return v->rx + v->table[k].offset;
}

void *vector_stub(struct interp_vector *v, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
		  const uint8_t *raw)
{
	struct recode r = { .zi = zi, .raw = raw, .reg_gpr = -1, .rm_gpr = -1 };
	struct emit e = { .n = 0 };

	r.long64 = zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	r.clear_w = !r.long64 && vector_ignores_w(zi->mnemonic);
	for (unsigned n = 0; n < zi->operand_count; n++)
		recode_operand(&r, &zo[n]);
	emit_stub(&e, &r);
	return cache_insert(v, &e);
}

/* ---- accessors ---- */

static void emit_reg_access(struct emit *e, const struct interp_vector *v, unsigned n, bool store)
{
	unsigned opcode = store ? 0x7f : 0x6f, modrm = (n & 7) << 3 | HOST_RSI;

	if (v->host_features[X86_FEAT_AVX512F / 32] & BIT32(X86_FEAT_AVX512F % 32)) {
		emit8(e, 0x62); /* VMOVDQU64 zmm */
		emit8(e, 0x61 | (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10));
		emit8(e, 0xfe);
		emit8(e, 0x48);
	} else if (v->host_features[X86_FEAT_AVX / 32] & BIT32(X86_FEAT_AVX % 32)) {
		emit8(e, 0xc5); /* VMOVDQU ymm */
		emit8(e, 0x7e | (n & 8 ? 0 : 0x80));
	} else {
		emit8(e, 0xf3); /* MOVDQU */
		if (n & 8)
			emit8(e, 0x44);
		emit8(e, 0x0f);
	}
	emit8(e, opcode);
	emit8(e, modrm);
	emit8(e, 0xc3);
}

/* KMOV rax, kN and kN, rdi: 64 bits with AVX512BW, else 16. */
static void emit_k_access(struct emit *e, const struct interp_vector *v, unsigned n, bool store)
{
	if (v->host_features[X86_FEAT_AVX512BW / 32] & BIT32(X86_FEAT_AVX512BW % 32))
		emit_bytes(e, (const uint8_t[]){ 0xc4, 0xe1, 0xfb }, 3);
	else
		emit_bytes(e, (const uint8_t[]){ 0xc5, 0xf8 }, 2);
	emit8(e, store ? 0x92 : 0x93);
	emit8(e, store ? 0xc7 | n << 3 : 0xc0 | n);
	emit8(e, 0xc3);
}

static void *accessor(struct interp_vector *v, struct emit *e)
{
	void *code = v->rx + cache_append(v, e);

	e->n = 0;
	return code;
}

static void create_accessors(struct interp_vector *v)
{
	struct emit e = { .n = 0 };

	for (unsigned n = 0; n < VECTOR_REGS; n++) {
		emit_reg_access(&e, v, n, true);
		v->reg_store[n] = (vector_reg_fn *)accessor(v, &e);
		emit_reg_access(&e, v, n, false);
		v->reg_load[n] = (vector_reg_fn *)accessor(v, &e);
	}
	for (unsigned n = 0; n < 8; n++) {
		emit_bytes(&e, (const uint8_t[]){ 0x0f, 0x7f, (uint8_t)(n << 3 | HOST_RSI), 0xc3 }, 4);
		v->mmx_store[n] = (vector_reg_fn *)accessor(v, &e);
		emit_k_access(&e, v, n, false);
		v->k_read[n] = (vector_read_k_fn *)accessor(v, &e);
		emit_k_access(&e, v, n, true);
		v->k_write[n] = (vector_write_k_fn *)accessor(v, &e);
	}
	v->fixed = v->used;
}

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u /* Linux 6.3: needed where vm.memfd_noexec is set */
#endif

int vector_cache_create(struct interp_vector *v)
{
	int fd = memfd_create("trapeze-vector", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0)
		fd = memfd_create("trapeze-vector", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	v->rw = v->rx = MAP_FAILED;
	if (!ftruncate(fd, VECTOR_CODE_SIZE)) {
		v->rw = mmap(NULL, VECTOR_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		v->rx = mmap(NULL, VECTOR_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	if (v->rw == MAP_FAILED || v->rx == MAP_FAILED) {
		vector_cache_destroy(v);
		return -1;
	}
	v->used = 16; /* offset 0 means "empty" in the table */
	v->generation = 1;
	create_accessors(v);
	return 0;
}

void vector_cache_destroy(struct interp_vector *v)
{
	if (v->rw != MAP_FAILED)
		munmap(v->rw, VECTOR_CODE_SIZE);
	if (v->rx != MAP_FAILED)
		munmap(v->rx, VECTOR_CODE_SIZE);
	v->rw = v->rx = MAP_FAILED;
}
