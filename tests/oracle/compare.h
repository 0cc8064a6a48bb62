/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing and reporting. */
#ifndef ORACLE_COMPARE_H
#define ORACLE_COMPARE_H

#include "generate.h"

enum tolerance {
#define TOLERANCE(id, text) TOL_##id,
#define IGNORED(text)
#include "tolerances.def"
#undef TOLERANCE
#undef IGNORED
	TOL_COUNT
};
typedef uint64_t tolerance_array[TOL_COUNT];
extern tolerance_array *tolerated; /* counted here: may be shared memory */

struct outcome {
	struct state s;
	const struct slot_pages *pages;
};

/* Two outcomes of one instruction, which is at `start`. */
struct pair {
	uint64_t start;
	unsigned slot;
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *zo;
	struct outcome *hw, *emu;
	const struct state *in;
};

/* tolerate.c: hides in both what may differ. True: nothing of this case can be compared. */
bool tolerate_instruction(const struct pair *p);
void tolerate(enum tolerance t);
void tolerate_pointers(const struct engine *e, struct outcome *hw, struct outcome *emu);
#define FSW_ES 0x80 /* in the lower byte */

/* report.c */
void report_case(const struct test_case *c);
void report_difference(const struct test_case *c, const struct engine *e, const char *program, uint64_t seed,
		       const struct state *hw, const struct slot_pages *hw_pages, const struct state *emu,
		       const struct slot_pages *emu_pages, uint64_t flags);

#endif
