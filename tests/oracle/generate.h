/* SPDX-License-Identifier: Apache-2.0 */
/* Making cases: what generate.c (state), instruction.c, aim.c and sequence.c share. */
#ifndef ORACLE_GENERATE_H
#define ORACLE_GENERATE_H

#include "forms.h"
#include "oracle.h"

struct gen {
	uint64_t rng;
	struct test_case *c;
};

static inline uint64_t rnd(struct gen *g)
{
	uint64_t z = g->rng += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline unsigned below(struct gen *g, unsigned n)
{
	return (unsigned)((rnd(g) >> 32) * n >> 32);
}

static inline bool one_in(struct gen *g, unsigned n)
{
	return below(g, n) == 0;
}

/* A value that likes corners. */
uint64_t rnd_value(struct gen *g);
/* Some address in, at the end of, or just outside the pages of the case. */
uint64_t rnd_target(struct gen *g, unsigned size);
uint64_t rnd_code_target(struct gen *g);
uint16_t rnd_selector(struct gen *g);

/* Number of a general register of any width (AH..BH: of the whole); 16 if it is none. */
unsigned gpr_number(ZydisRegister r);
const ZydisDecodedOperand *visible_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo);

/* Write to the case's memory; what lies outside its pages is dropped. */
void poke(struct test_case *c, uint64_t address, const void *data, unsigned n);
void poke64(struct test_case *c, uint64_t address, uint64_t v);
/* Doubleword n of a vector register, wherever the XSAVE image has it. */
void vector_dword_write(struct state *s, unsigned reg, unsigned n, uint32_t v);
void set_gpr(struct test_case *c, unsigned reg, uint64_t v);

/* instruction.c: bytes of a random instruction of the form, decoded. Returns the length. */
unsigned make_instruction(struct gen *g, const struct form *f, uint8_t bytes[16], ZydisDecodedInstruction *zi,
			  ZydisDecodedOperand *zo);
/* For sequences: memory operands by the registers that sequence.c reserves. 0: this form will not do. */
unsigned make_sequence_instruction(struct gen *g, const struct form *f, uint8_t bytes[16], ZydisDecodedInstruction *zi,
				   ZydisDecodedOperand *zo);

/* aim.c: set registers and memory so that the instruction at `rip`, whose bytes may be changed, reaches something. */
void aim_instruction(struct gen *g, uint8_t *bytes, uint64_t rip, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo);

/* sequence.c */
void make_sequence(struct gen *g);

/* Registers that sequences keep: pointers into the slot, small indices, the loops' counter. */
#define SEQ_POINTERS (BIT32(RBX) | BIT32(RBP) | BIT32(RSI) | BIT32(RDI) | BIT32(R13))
#define SEQ_INDICES (BIT32(R14) | BIT32(R15))
#define SEQ_COUNTER R12

#endif
