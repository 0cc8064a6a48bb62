/* SPDX-License-Identifier: Apache-2.0 */
/* A block while it is being translated. */
#ifndef TZ_TRANSLATE_BLOCK_H
#define TZ_TRANSLATE_BLOCK_H

#include "translate/emit.h"

enum insn_kind {
	KIND_INTERP,  /* calls its interp_insn */
	KIND_GENERIC, /* the same instruction with other registers and another memory operand */
	KIND_VECTOR,  /* likewise, on the live vector registers */
	KIND_GATHER,  /* or a scatter: gather.c */
	KIND_NOP,
	KIND_LEA,
	KIND_PUSH,
	KIND_POP,
	KIND_LEAVE,
	KIND_STRING, /* without REP */
	KIND_PUSHF,
	KIND_SYSTEM, /* system.c */
	KIND_DIV,
	KIND_JCC,
	KIND_JMP,
	KIND_CALL,
	KIND_RET,
	KIND_SYSCALL,
	KIND_SYSRET,
	KIND_AC, /* CLAC, STAC */
};

/*
 * The memory an instruction touches, as struct interp_insn names it; RIP-relative: disp is relative to the page. wide:
 * 64-bit addresses.
 */
struct access {
	uint16_t size; /* 0: none that is emitted */
	bool write, wide, stack, masked;
	uint8_t base, index, shift, seg, align;
	int64_t disp;
};

struct insn {
	enum insn_kind kind;
	bool inverted;     /* a conditional jump that leaves where the guest's goes on, and goes on where that jumps */
	bool is_protected; /* what follows such an STI */
	bool shadow;       /* STI, and the instruction it protects follows in the block */
	uint16_t offset;   /* in the page */
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	struct interp_insn ii;
	struct access mem;
	/* Of the arithmetic flags: read; surely overwritten; perhaps written; needed by what follows. */
	uint32_t reads, kills, writes, live_after;
	uint16_t clobbers; /* general registers it writes, but for one that it adds a constant to: */
	uint8_t step_reg;  /* or INTERP_NO_REG */
	int32_t step;
};

/* What is emitted behind the block, reached by a jump from it. */
struct cold {
	struct translate_record *record;
	uint8_t *from[4]; /* rel32s to bind */
	unsigned count;
	uint8_t mmu;     /* the context that is entered */
	bool save_flags; /* an exit: the flags are in the host's registers only */
	struct translate_exit
		*plain; /* a window: the way out where the page is right and the range goes on in the next */
	uint8_t *tag;   /* of a far exit: what refers to its tag; then the code there is the way to C */
};

/* Where a memory operand is for the host: [base + index << shift + disp] */
struct host_mem {
	unsigned base, index; /* or HOST_NONE */
	int32_t disp;
	unsigned shift;
};

/* A check that later operands may rely on. */
struct window {
	bool open, write;
	struct access at; /* registers of the operand that opened it */
	int64_t lo, hi;   /* bytes checked, relative to those registers then */
	int64_t delta;    /* what has been added to them since */
};

struct builder {
	struct translate *t;
	struct emit e;
	struct translate_block *block;
	unsigned mmu, mode;
	bool wide;      /* 64-bit code; else 32-bit */
	unsigned width; /* bytes of its addresses, stack slots, near branches */
	uint64_t page;  /* GPA */
	const uint8_t *host;
	unsigned count;
	unsigned since;             /* instructions not counted yet */
	uint64_t cross, cross_host; /* GPA and HVA of the page that the only instruction goes on in, 0: none */
	unsigned colds;
	/* Where the arithmetic flags are now; neither if nobody needs them. */
	bool flags_host, flags_frame;
	bool vector_live; /* the FPU's state is surely in the registers */
	bool poll_end;    /* the end of the block looks for attention */
	bool bad;         /* the instruction can not be emitted after all */
	/* Of the instruction being emitted: they go on behind it. */
	struct translate_record *resume[4];
	unsigned resumes;
	struct window stack, base;
	struct insn insn[TRANSLATE_BLOCK_INSNS];
	struct cold cold[4 * TRANSLATE_BLOCK_INSNS];
};

/* ---- block.c ---- */
struct translate_record *block_record(struct builder *b, const struct insn *i, enum translate_action action);
struct translate_check *block_check(struct builder *b, const struct insn *i, enum translate_action action);
struct cold *block_cold(struct builder *b, struct translate_record *r);
void block_cold_from(struct builder *b, struct cold *c, unsigned cc);
void block_emit_call(struct builder *b, const uint8_t *stub, const struct translate_record *r);
void block_emit_count(struct builder *b); /* what has not been counted; changes no flag, loses r14 */

/* ---- classify.c ---- */
void insn_classify(struct insn *i, unsigned mode);
void translate_host_init(void);
/* The memory operand it names, if any (size 0: none). False: not one that can be emitted. */
bool insn_operand_access(const struct insn *i, struct access *a);
/* The string instruction's source or destination, at RSI or RDI. */
void insn_string_access(const struct insn *i, bool source, struct access *a);

/* ---- window.c ---- */
/* Check the instruction's memory operand (or find it checked) and say where it is. Loses r14, the flags, perhaps r11.
 */
bool window_access(struct builder *b, struct insn *i, const struct access *a, struct host_mem *m);
void window_after(struct builder *b, const struct insn *i); /* behind each instruction */
void window_scratch(struct builder *b);                     /* r11 is used for something else */
/* lea to, [...] of the effective address. May lose r11 and r14, no flags. */
/* r11, r14: leave unless `c`'s instruction goes on in the page it did when it was translated. Loses the flags. */
void window_check_cross(struct builder *b, struct cold *c);
bool window_effective(struct builder *b, const struct access *a, unsigned to, bool wide);
/* r11: linear address -> host address, if `span` bytes lie in a page with that tag, else from `c`. Loses r14, the
 * flags. */
void window_lookup(struct builder *b, struct cold *c, int64_t span, bool write);
/* Likewise; returns the rel32 of the way out, to be bound where CF and ZF are clear. */
uint8_t *window_emit_lookup(struct builder *b, int64_t span, bool write);

/* ---- recode.c ---- */
/* op reg, m: one byte of opcode */
void recode_emit_mem(struct emit *e, bool w, unsigned op, unsigned reg, const struct host_mem *m);
void recode_emit(struct builder *b, struct insn *i, const struct host_mem *m); /* m NULL: no memory operand */

/* ---- insn.c ---- */
void insn_emit(struct builder *b, struct insn *i);
void insn_flags_keep(struct builder *b, uint32_t live); /* before something loses the host's */
void insn_flags_want(struct builder *b);
uint32_t insn_live_before(const struct insn *i);
void insn_emit_interp(struct builder *b, struct insn *i);
void insn_emit_string(struct builder *b, struct insn *i); /* KIND_STRING, string.c */
void insn_flags_after(struct builder *b, const struct insn *i);
void insn_move_stack(struct builder *b, unsigned from, int32_t by); /* RSP = host register + by, in the mode's width */

/* The guest's vector registers are in the host's from here on. May lose the flags. */
void insn_vector_live(struct builder *b, struct insn *i);

/* ---- gather.c ---- */
void insn_emit_gather(struct builder *b, struct insn *i); /* KIND_GATHER */
/* Of each element, but for its index and its size. False: not one that can be emitted. */
bool insn_gather_access(const struct insn *i, struct access *a);

/* ---- system.c ---- */
void insn_emit_system(struct builder *b, struct insn *i); /* KIND_SYSTEM */
void insn_emit_pushf(struct builder *b, struct insn *i);
/*
 * STI, if no interrupt waits for it: a rel32 to be bound to where that goes on; otherwise it goes on here. Loses the
 * flags, r14.
 */
uint8_t *insn_emit_sti(struct builder *b);

/* Likewise of branches: they end the block. False: interp does it. */
bool flow_emit_syscall(struct builder *b, struct insn *i);
bool flow_emit_sysret(struct builder *b, struct insn *i);
bool flow_emit_ac(struct builder *b, struct insn *i);

/* ---- flow.c ---- */
void flow_emit(struct builder *b, struct insn *i);      /* KIND_JCC, _JMP, _CALL, _RET */
void flow_emit_end(struct builder *b, unsigned offset); /* the block goes on behind its last instruction */
void flow_emit_exit(struct builder *b, struct cold *c); /* the cold part of an exit */
void flow_emit_plain(struct builder *b, struct cold *c,
		     unsigned reg);        /* of a window's, whose offset in the page is in reg */
int64_t flow_target(const struct insn *i); /* of a direct branch: offset in the page */

#endif
