/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `interp` engine: pure software emulation, one instruction at a time, the readable
 * reference. Guest code is decoded once (Zydis) into blocks of struct interp_insn, kept per
 * vCPU by guest physical address and mode; each instruction is a call of its `exec`.
 *
 * How an instruction behaves (all handlers): cpu->rip is the instruction's own address while
 * it runs; compute, check every access, then commit; a handler that does not transfer control
 * ends with interp_next(). Raising unwinds, so nothing may be committed before the last
 * thing that can raise. Only general registers: see x86/fpu.h.
 */
#ifndef TZ_INTERP_INTERP_H
#define TZ_INTERP_INTERP_H

#include <Zydis/Zydis.h>

#include "x86/access.h"
#include "x86/cpu.h"
#include "x86/exception.h"
#include "x86/segment.h"

struct interp_insn;
typedef void interp_exec_fn(struct x86_cpu *cpu, const struct interp_insn *i);

enum interp_operand_kind {
	INTERP_OP_NONE,
	INTERP_OP_REG,
	INTERP_OP_REG_HIGH /* AH CH DH BH */,
	INTERP_OP_MEM,
	INTERP_OP_IMM,
	INTERP_OP_SEG,
	INTERP_OP_OTHER
};

#define INTERP_LOCK 1
#define INTERP_REP 2   /* F3 */
#define INTERP_REPNE 4 /* F2 */

#define INTERP_NO_REG 0xff
#define INTERP_RIP_REG 0xfe

/* One decoded instruction. Explicit operands only, in Intel order. */
struct interp_insn {
	interp_exec_fn *exec;
	uint8_t len;
	uint8_t opsize;    /* effective operand size in bytes: 1, 2, 4, 8 */
	uint8_t addrsize;  /* 2, 4, 8 */
	uint8_t flags;     /* INTERP_LOCK, _REP, _REPNE */
	uint16_t mnemonic; /* ZydisMnemonic */
	uint8_t kind[4];   /* enum interp_operand_kind */
	uint8_t reg[4];    /* GPR or segment number for _REG, _REG_HIGH, _SEG */
	uint8_t size[4];   /* operand sizes in bytes (0 where it has none or over 64) */
	/* The one memory operand (or the segment and address size of a string instruction). */
	uint8_t seg;     /* X86_DS.. after overrides */
	uint8_t base;    /* GPR number, INTERP_NO_REG, INTERP_RIP_REG */
	uint8_t index;   /* GPR number or INTERP_NO_REG */
	uint8_t shift;   /* log2 of the scale */
	uint8_t cond;    /* for Jcc, SETcc, CMOVcc: condition code 0..15 */
	uint8_t extra;   /* handler's own */
	bool flat;       /* memory operand in 64-bit mode, 64-bit addresses, no FS or GS: offset is linear */
	bool ends_block; /* may transfer control or change how the following bytes are to be read */
	uint8_t raw[15];
	int64_t disp;
	uint64_t imm;  /* sign- or zero-extended as the instruction wants; a relative branch: the displacement */
	uint64_t imm2; /* ENTER's second, far pointer's selector */
	void *priv;    /* handler's own (vector stub); freed by nobody: lives as long as the vCPU's stub cache */
};

/*
 * What a group offers: given a decoded instruction, choose `exec` (by operand size and kinds)
 * and preset operands. Return false if this form is not implemented: the instruction raises #UD
 * if the guest's CPUID does not have its feature, else it is an internal error that names it.
 */
typedef bool interp_bind_fn(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			    const ZydisDecodedOperand *zo);

/* Tables by mnemonic; each group fills its part through its .def list (insns_*.def): ROW(MNEMONIC, bind function). */
interp_bind_fn *interp_bind_find(ZydisMnemonic m);

/* --- for handlers --- */
static inline void interp_next(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t rip = cpu->rip + i->len;

	cpu->rip = likely(cpu->code_size == 8) ? rip : cpu->code_size == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/*
 * The decoder's memory operand. Zydis 4.0 takes an SIB base of 13 without displacement size, which is no base at all
 * as 5 is (SDM 2 2.2.1.2 and table 2-3), for R13 where addresses have 32 bits in 64-bit mode.
 */
static inline ZydisDecodedOperandMem interp_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *o)
{
	ZydisDecodedOperandMem m = o->mem;

	if (m.base == ZYDIS_REGISTER_R13D && (zi->attributes & ZYDIS_ATTRIB_HAS_SIB) && zi->raw.modrm.mod == 0) {
		m.base = ZYDIS_REGISTER_NONE;
		m.disp.value = zi->raw.disp.value;
	}
	return m;
}

/* Effective address (offset) of the memory operand, truncated to the address size. */
static inline uint64_t interp_ea(const struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t a = (uint64_t)i->disp;

	if (i->base < 16)
		a += cpu->gpr[i->base];
	else if (i->base == INTERP_RIP_REG)
		a += cpu->rip + i->len;
	if (i->index < 16)
		a += cpu->gpr[i->index] << i->shift;
	return likely(i->addrsize == 8) ? a : i->addrsize == 4 ? (uint32_t)a : (uint16_t)a;
}

/* The general case of interp_linear(): any mode, segment, address size; may raise. */
uint64_t interp_linear_slow(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool write);

/* Linear address of the memory operand, checked for `size` bytes (segment rules, #AC). */
static inline __attribute__((always_inline)) uint64_t interp_linear(struct x86_cpu *cpu, const struct interp_insn *i,
								    unsigned size, bool write)
{
	if (likely(i->flat)) {
		uint64_t a = (uint64_t)i->disp;

		if (i->base < 16)
			a += cpu->gpr[i->base];
		else if (i->base == INTERP_RIP_REG)
			a += cpu->rip + i->len;
		if (i->index < 16)
			a += cpu->gpr[i->index] << i->shift;
		/* Far from both ends of the canonical halves, and no alignment to check: nothing can be wrong. */
		if (likely((uint64_t)((int64_t)(a + size) >> 47) + 1 <= 1 && (uint64_t)((int64_t)a >> 47) + 1 <= 1 &&
			   !(cpu->rflags & X86_AC)))
			return a;
	}
	return interp_linear_slow(cpu, i, size, write);
}

static inline uint64_t interp_reg_read(const struct x86_cpu *cpu, unsigned reg, unsigned size)
{
	uint64_t v = cpu->gpr[reg];

	return size == 8 ? v : size == 4 ? (uint32_t)v : size == 2 ? (uint16_t)v : (uint8_t)v;
}

/* Writing 32 bits clears the upper half; 8 and 16 keep the rest (SDM 1 3.4.1.1). */
static inline void interp_reg_write(struct x86_cpu *cpu, unsigned reg, unsigned size, uint64_t v)
{
	uint64_t old = cpu->gpr[reg];

	cpu->gpr[reg] = size == 8   ? v
			: size == 4 ? (uint32_t)v
			: size == 2 ? (old & ~UINT64_C(0xffff)) | (uint16_t)v
				    : (old & ~UINT64_C(0xff)) | (uint8_t)v;
}

/* Operand n as a value, any kind; memory is read (may raise). */
uint64_t interp_operand_read(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n);
/* Write operand n (register or memory); the last thing a handler does that may raise. */
void interp_operand_write(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, uint64_t value);

/* The vector/x87 group (interp/vector*.c): its bind function and its per-vCPU stub cache. */
bool interp_bind_vector(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *zo);
struct interp_vector *interp_vector_create(void); /* NULL: no memory */
void interp_vector_destroy(struct interp_vector *v);

/* What decoding depends on besides the bytes. Real and virtual-8086 mode know no VEX (SDM 2 2.3.10). */
enum interp_mode { INTERP_MODE_REAL16, INTERP_MODE_PROT16, INTERP_MODE_32, INTERP_MODE_64, INTERP_MODE_COUNT };

static inline enum interp_mode interp_mode_of(const struct x86_cpu *cpu)
{
	if (likely(cpu->code_size == 8))
		return INTERP_MODE_64;
	if (cpu->code_size == 4)
		return INTERP_MODE_32;
	return x86_protected(cpu) ? INTERP_MODE_PROT16 : INTERP_MODE_REAL16;
}

/* The engine's per-vCPU state: cpu->engine_data. */
struct interp {
	struct interp_vector *vector;
	struct interp_cache *cache;
	const struct interp_block *block; /* being executed, or NULL; for the instruction count after an unwind */
	uint64_t block_rip;               /* its first instruction's */
	bool abort_block;                 /* set by a handler or hook: leave the block after this instruction */
	bool stepping;                    /* one instruction (one iteration of REP) at a time */
	ZydisDecoder decoder[INTERP_MODE_COUNT];
};

/* Decoding (decode.c). Which features and vendor the decoder follows: after creation and when CPUID changed. */
void interp_decoders_init(struct x86_cpu *cpu, struct interp *in);
/*
 * Decode and bind the instruction at bytes[0..avail). False: it goes on behind `avail` bytes (fewer than 15).
 * Otherwise *out can be executed; bytes that are no instruction give one that raises. Puts the FPU away.
 */
bool interp_decode(struct x86_cpu *cpu, enum interp_mode mode, const uint8_t *bytes, unsigned avail,
		   struct interp_insn *out);
/* The same; what Zydis said is left in *zi and zo[ZYDIS_MAX_OPERAND_COUNT], unless the bytes are no instruction. */
bool interp_decode_full(struct x86_cpu *cpu, enum interp_mode mode, const uint8_t *bytes, unsigned avail,
			struct interp_insn *out, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo);
#define INTERP_INSN_MAX 15

static inline struct interp *interp_of(struct x86_cpu *cpu)
{
	return cpu->engine_data;
}

#endif
