/* SPDX-License-Identifier: Apache-2.0 */
/* A block while it is being translated. */
#ifndef TZ_TRANSLATE_BLOCK_H
#define TZ_TRANSLATE_BLOCK_H

#include "translate/emit.h"

enum insn_kind {
	KIND_INTERP,  /* calls its interp_insn */
	KIND_GENERIC, /* the same instruction with other registers and [r11] as its memory operand */
	KIND_VECTOR,  /* likewise, on the live vector registers */
	KIND_NOP,
	KIND_LEA,
	KIND_PUSH,
	KIND_POP,
	KIND_LEAVE,
	KIND_DIV,
	KIND_JCC,
	KIND_JMP,
	KIND_CALL,
	KIND_RET,
};

#define INSN_OPERANDS 5

struct insn {
	enum insn_kind kind;
	uint16_t offset; /* in the page */
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	struct interp_insn *ii;
	/* Of the arithmetic flags: read; surely overwritten; perhaps written; needed by what follows. */
	uint32_t reads, kills, writes, live_after;
};

/* An instruction left in the middle for interp. */
struct detour {
	const struct insn *i;
	uint8_t *from[6]; /* rel32s to bind */
	unsigned count;
	uint8_t *resume; /* NULL: it never comes back */
	unsigned later;
	bool reload_flags, reload_vector;
};

struct builder {
	struct translate *t;
	struct emit e;
	struct translate_block *block;
	unsigned mmu, mode;
	uint64_t page; /* GPA */
	const uint8_t *host;
	unsigned count;
	unsigned later; /* instructions that are emitted once more behind this round of the block */
	unsigned detours;
	/* Where the arithmetic flags are now; neither if nobody needs them. */
	bool flags_host, flags_frame;
	bool vector_live; /* the FPU's state is surely in the registers */
	bool bad;         /* the instruction can not be emitted after all */
	struct insn insn[TRANSLATE_BLOCK_INSNS];
	struct detour detour[TRANSLATE_BLOCK_INSNS];
};

/* ---- block.c ---- */
void block_emit_count(struct builder *b, unsigned insns);

/* ---- loop.c ---- */
bool loop_emit(struct builder *b); /* false: the block is no loop */

/* ---- classify.c ---- */
void insn_classify(struct insn *i, unsigned mode);
/* Flags that code at `offset` of the page needs; what was looked at becomes the block's range `n`. */
uint32_t insn_flags_needed(struct builder *b, unsigned offset, unsigned n);
void translate_host_init(void);

/* ---- insn.c ---- */
void insn_emit(struct builder *b, struct insn *i);

/* ---- flow.c ---- */
void flow_emit(struct builder *b, struct insn *i);      /* KIND_JCC, _JMP, _CALL, _RET: ends the block */
void flow_emit_end(struct builder *b, unsigned offset); /* the block goes on behind its last instruction */
uint32_t flow_live_out(struct builder *b, struct insn *last);
int64_t flow_target(const struct insn *i); /* of a direct branch: offset in the page */
/* For loop.c: test for attention (then NE); leave for an offset of the page; go on behind the last instruction. */
void flow_emit_poll(struct builder *b);
void flow_emit_leave(struct builder *b, unsigned n, unsigned target);
void flow_emit_fall(struct builder *b, const struct insn *last);

/* ---- insn.c, for flow.c ---- */
void insn_flags_keep(struct builder *b, uint32_t live); /* before something loses the host's */
void insn_flags_want(struct builder *b, unsigned scratch);
bool insn_emit_address(struct builder *b, struct insn *i); /* of the memory operand, into r11 */
/* r11: linear address -> host address. Loses r14 and the flags. */
void insn_emit_check(struct builder *b, struct detour *d, unsigned size, bool write);
struct detour *insn_detour(struct builder *b, const struct insn *i);
void insn_detour_from(struct builder *b, struct detour *d, unsigned cc);
void insn_emit_interp(struct builder *b, struct insn *i);
void insn_emit_vector_ready(struct builder *b); /* loses the flags */

#endif
