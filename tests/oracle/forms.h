/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding a form: forms.c finds them with it, generate.c makes instructions. */
#ifndef ORACLE_FORMS_H
#define ORACLE_FORMS_H

#include "oracle.h"

/* What is free to choose in an encoding. Registers' high bits as numbers, not inverted. */
struct fields {
	uint8_t mod, reg, rm;
	uint8_t r, x, b, r2, v2, vvvv;
	uint8_t aaa, length_bits, opcode_low;
	uint8_t force_rex; /* REX though nothing needs it; VEX: the short prefix where it can be */
};

/* Prefixes to ModRM; what follows is the caller's. Returns the length. */
unsigned forms_put(uint8_t *p, const struct form *f, const struct fields *x);
/* The form with the lowest registers, decoded. */
bool forms_example(const struct form *f, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo);

#endif
