/* SPDX-License-Identifier: Apache-2.0 */
/* Host instructions as bytes (SDM 2 2). `p` is where the code cache can be written. */
#ifndef TZ_TRANSLATE_EMIT_H
#define TZ_TRANSLATE_EMIT_H

#include "translate/translate.h"

#define HOST_RAX 0
#define HOST_RDX 2
#define HOST_RSI 6
#define HOST_RDI 7
#define HOST_SP 10 /* the guest's RSP */
#define HOST_T0 11
#define HOST_T1 14
#define HOST_WINDOW 15 /* HVA - GVA of the stack's page */
#define HOST_NONE 0xff /* stays on the stack */

struct emit {
	uint8_t *p;
	ptrdiff_t to_rx;
};

/* Where a guest register is. */
static inline unsigned host_of(unsigned guest)
{
	switch (guest) {
	case X86_RSP: return HOST_SP;
	case X86_R10:
	case X86_R11:
	case X86_R14:
	case X86_R15: return HOST_NONE;
	default: return guest;
	}
}

static inline void emit8(struct emit *e, unsigned b)
{
	*e->p++ = (uint8_t)b;
}

static inline void emit32(struct emit *e, uint32_t v)
{
	guest_store32(e->p, v);
	e->p += 4;
}

static inline void emit64(struct emit *e, uint64_t v)
{
	guest_store64(e->p, v);
	e->p += 8;
}

static inline void emit_bytes(struct emit *e, const uint8_t *b, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		emit8(e, b[k]);
}

/* REX for ModRM.reg, SIB.index and ModRM.rm; left out if it says nothing. */
static inline void emit_rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned rm)
{
	unsigned rex = (w ? 8u : 0) | (reg & 8) >> 1 | (index & 8) >> 2 | (rm & 8) >> 3;

	if (rex)
		emit8(e, 0x40 | rex);
}

/* op reg, rm with both registers */
static inline void emit_rr(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm)
{
	emit_rex(e, w, reg, 0, rm);
	emit8(e, op);
	emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov_rr(struct emit *e, unsigned to, unsigned from)
{
	emit_rr(e, true, 0x89, from, to);
}

/* op reg, [base + disp] */
static inline void emit_rm(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base, int32_t disp)
{
	emit_rex(e, w, reg, 0, base);
	emit8(e, op);
	if (disp == 0 && (base & 7) != 5) {
		emit8(e, (reg & 7) << 3 | (base & 7));
		if ((base & 7) == 4)
			emit8(e, 0x24);
		return;
	}
	emit8(e, (disp == (int8_t)disp ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		emit8(e, 0x24);
	if (disp == (int8_t)disp)
		emit8(e, (uint8_t)disp);
	else
		emit32(e, (uint32_t)disp);
}

#define FRAME(field) ((uint32_t)(offsetof(struct x86_tlb, engine) + offsetof(struct translate_frame, field)))

/* op reg, gs:[disp] */
static inline void emit_gs(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t disp)
{
	emit8(e, 0x65);
	emit_rex(e, w, reg, 0, 0);
	emit8(e, op);
	emit8(e, (reg & 7) << 3 | 4);
	emit8(e, 0x25);
	emit32(e, disp);
}

/* Count in the frame, if anything is counted. Loses the flags. */
static inline void emit_count(const struct translate *t, struct emit *e, uint32_t field)
{
	if (t->cpu->count_insns)
		emit_gs(e, true, 0xff, 0, field); /* inc */
}

/*
 * Guest registers without a host register stay at the bottom of the host's stack: processors forward stores to loads by
 * RSP without the delay that other addresses (those of GS above all) have.
 */
#define HOST_RSP 4
#define SPILLS 4
static const uint8_t spilled[SPILLS] = { X86_R10, X86_R11, X86_R14, X86_R15 };

static inline int32_t spill_offset(unsigned guest)
{
	return 8 * (int32_t)(guest < X86_R14 ? guest - X86_R10 : guest - X86_R14 + 2);
}

static inline void emit_gpr_load(struct emit *e, unsigned host, unsigned guest)
{
	emit_rm(e, true, 0x8b, host, HOST_RSP, spill_offset(guest));
}

static inline void emit_gpr_store(struct emit *e, unsigned host, unsigned guest)
{
	emit_rm(e, true, 0x89, host, HOST_RSP, spill_offset(guest));
}

/* op reg, gs:[r14 + disp] */
static inline void emit_gs_t1(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t disp)
{
	emit8(e, 0x65);
	emit_rex(e, w, reg, 0, HOST_T1);
	emit8(e, op);
	emit8(e, (!disp ? 0 : disp < 0x80 ? 0x40 : 0x80) | (reg & 7) << 3 | (HOST_T1 & 7));
	if (disp >= 0x80)
		emit32(e, disp);
	else if (disp)
		emit8(e, disp);
}

/* op rm, imm32: the 0x81 group, `op` is ModRM.reg */
static inline void emit_alu_imm(struct emit *e, bool w, unsigned op, unsigned rm, uint32_t imm)
{
	emit_rex(e, w, 0, 0, rm);
	emit8(e, 0x81);
	emit8(e, 0xc0 | op << 3 | (rm & 7));
	emit32(e, imm);
}
#define ALU_ADD 0
#define ALU_OR 1
#define ALU_AND 4
#define ALU_XOR 6
#define ALU_CMP 7

/* op reg, count */
static inline void emit_shift(struct emit *e, unsigned op, unsigned reg, unsigned count)
{
	emit_rex(e, true, 0, 0, reg);
	emit8(e, 0xc1);
	emit8(e, 0xc0 | op << 3 | (reg & 7));
	emit8(e, count);
}
#define SHL 4
#define SHR 5

static inline void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t imm)
{
	emit_rex(e, true, 0, 0, reg);
	emit8(e, 0xb8 | (reg & 7));
	emit64(e, imm);
}

static inline void emit_mov_imm32(struct emit *e, unsigned reg, uint32_t imm)
{
	emit_rex(e, false, 0, 0, reg);
	emit8(e, 0xb8 | (reg & 7));
	emit32(e, imm);
}

/* lea to, [base + disp] */
static inline void emit_lea(struct emit *e, unsigned to, unsigned base, int32_t disp)
{
	emit_rm(e, true, 0x8d, to, base, disp);
}

/* jmp or call to an executable address */
static inline void emit_branch(struct emit *e, unsigned op, const uint8_t *target)
{
	emit8(e, op);
	emit32(e, (uint32_t)(target - (e->p + 4 + e->to_rx)));
}
#define OP_JMP 0xe9
#define OP_CALL 0xe8

/* Jcc rel32 to be bound later: returns where its displacement is. */
static inline uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
	emit8(e, 0x0f);
	emit8(e, 0x80 | cc);
	e->p += 4;
	return e->p - 4;
}

static inline void emit_bind(struct emit *e, uint8_t *at)
{
	guest_store32(at, (uint32_t)(e->p - (at + 4)));
}
#define CC_B 2
#define CC_AE 3
#define CC_E 4
#define CC_NE 5
#define CC_BE 6
#define CC_A 7

/* The host's arithmetic flags to frame.flags and back; r14 is lost. Saving changes no flag. */
static inline void emit_flags_save(struct emit *e)
{
	emit_mov_rr(e, HOST_T1, HOST_RAX);
	emit_bytes(e, (const uint8_t[]){ 0x9f, 0x0f, 0x90, 0xc0, 0x66 }, 5); /* lahf; seto al; (mov gs:, ax) */
	emit_gs(e, false, 0x89, HOST_RAX, FRAME(flags));
	emit_mov_rr(e, HOST_RAX, HOST_T1);
}

/* rax is lost. */
static inline void emit_flags_load_rax(struct emit *e)
{
	emit8(e, 0x65); /* movzx eax, word gs:[flags] */
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0xb7, 0x04, 0x25 }, 4);
	emit32(e, FRAME(flags));
	emit_bytes(e, (const uint8_t[]){ 0x04, 0x7f, 0x9e }, 3); /* add al, 0x7f: OF; sahf */
}

static inline void emit_flags_load(struct emit *e)
{
	emit_mov_rr(e, HOST_T1, HOST_RAX);
	emit_flags_load_rax(e);
	emit_mov_rr(e, HOST_RAX, HOST_T1);
}

#endif
