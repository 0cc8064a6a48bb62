/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ordinary instructions of 64-bit code, on registers or on memory at RSI, RDI or RBX, which they leave alone: programs
 * of these run to their end.
 */
#ifndef TESTS_FUZZ_TAME_H
#define TESTS_FUZZ_TAME_H

#include "flags.h"
#include "insn_gen.h"

/* Prefixes, an opcode, ModRM, and noise. */
static unsigned tame_opcode(struct random *r, uint8_t p[INSN_GEN_MAX])
{
	static const uint8_t one[] = { 0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x10, 0x11, 0x13, 0x18, 0x19, 0x1b,
				       0x20, 0x21, 0x23, 0x28, 0x29, 0x2b, 0x30, 0x31, 0x33, 0x38, 0x39, 0x3b, 0x63,
				       0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0xd0, 0xd1, 0xd2, 0xd3,
				       0xf6, 0xf7, 0xfe, 0xff, 0x69, 0x6b, 0x80, 0x81, 0x83, 0xc0, 0xc1, 0xc6, 0xc7 };
	static const uint8_t two[] = { 0x10, 0x11, 0x28, 0x29, 0x42, 0x44, 0x4f, 0x51, 0x54, 0x57, 0x58, 0x59,
				       0x5c, 0x5e, 0x60, 0x6e, 0x6f, 0x7e, 0x7f, 0x92, 0x94, 0x9f, 0xa3, 0xa4,
				       0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xb8, 0xba,
				       0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc6, 0xc8, 0xd4, 0xef, 0xfe };
	static const uint8_t plain[] = { 0x90, 0x98, 0x99, 0x9c, 0x9d, 0x9e, 0x9f, 0xa4, 0xa5,
					 0xaa, 0xab, 0xf5, 0xf8, 0xf9, 0xfc, 0xeb, 0x70, 0x72,
					 0x74, 0x78, 0x7a, 0x7c, 0x7e, 0xe2, 0xe8, 0x50, 0x58 };
	static const uint8_t bases[] = { 6, 7, 3 };
	unsigned n = 0;

	if (random_below(r, 4) == 0)
		p[n++] = (const uint8_t[]){ 0x66, 0xf2, 0xf3, 0xf0 }[random_below(r, 4)];
	if (random_below(r, 2))
		p[n++] = (uint8_t)(0x40 | (random_below(r, 16) & ~1u));
	if (random_below(r, 5) == 0) {
		p[n++] = plain[random_below(r, sizeof(plain))];
		p[n++] = (uint8_t)random_below(r, 16); /* a short jump's distance */
		return n;
	}
	if (random_below(r, 5) == 0) { /* CMOVcc, SETcc */
		p[n++] = 0x0f;
		p[n++] = (uint8_t)((random_below(r, 2) ? 0x40 : 0x90) | random_below(r, 16));
	} else if (random_below(r, 2)) {
		p[n++] = one[random_below(r, sizeof(one))];
	} else {
		p[n++] = 0x0f;
		p[n++] = two[random_below(r, sizeof(two))];
	}
	if (random_below(r, 2)) {
		p[n++] = (uint8_t)(0xc0 | random_next(r));
	} else if (random_below(r, 2)) { /* aligned for SSE */
		p[n++] = (uint8_t)(0x47 | (random_next(r) & 0x38));
		p[n++] = (uint8_t)(random_next(r) & 0xf0);
	} else {
		p[n++] = (uint8_t)(0x40 | (random_next(r) & 0x38) | bases[random_below(r, 3)]);
	}
	return n;
}

/* It leaves the base registers and RSP as they are, but for PUSH and the like. */
static bool tame_operands(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count; n++) {
		ZydisRegister reg;

		if (zo[n].type != ZYDIS_OPERAND_TYPE_REGISTER || !(zo[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
		    zo[n].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			continue;
		reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, zo[n].reg.value);
		if (reg == ZYDIS_REGISTER_RSP || reg == ZYDIS_REGISTER_RSI || reg == ZYDIS_REGISTER_RDI ||
		    reg == ZYDIS_REGISTER_RBX)
			return false;
	}
	return true;
}

/*
 * One that looks at no flag that is undefined: *undefined is what those before it, in a straight line, leave so.
 * Returns the length.
 */
static inline unsigned tame_insn(struct random *r, uint64_t *undefined, uint8_t p[INSN_GEN_MAX])
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned tries = 0; tries < 16; tries++) {
		for (unsigned n = tame_opcode(r, p); n < INSN_GEN_MAX; n++)
			p[n] = (uint8_t)random_next(r);
		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, p, ZYDIS_MAX_INSTRUCTION_LENGTH, &zi, zo)) &&
		    tame_operands(&zi, zo) && !(zi.cpu_flags && zi.cpu_flags->tested & *undefined)) {
			*undefined = flags_undefined_after(&zi, *undefined);
			return zi.length;
		}
	}
	p[0] = 0x90;
	return 1;
}

#endif
