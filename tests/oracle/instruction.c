/* SPDX-License-Identifier: Apache-2.0 */
/* Random instructions of a given form: every field of the encoding that the form leaves free. */
#include "generate.h"

#include <string.h>

#define TRIES 16

/* One of the set bits of an 8-bit set. */
static uint8_t pick(struct gen *g, uint8_t set)
{
	uint8_t n = (uint8_t)below(g, 8);

	while (!(set >> n & 1))
		n = (n + 1) & 7;
	return n;
}

/* Zydis refuses high registers where the form has none of them: later tries are tamer. */
static struct fields rnd_fields(struct gen *g, const struct form *f, unsigned tried)
{
	struct fields x = { .mod = 3, .length_bits = f->length_bits };
	bool high = !f->mode32 && tried < TRIES / 2;
	unsigned bits = (unsigned)rnd(g);

	x.reg = f->reg_set ? pick(g, f->reg_set) : 0;
	x.rm = f->rm_set && !f->memory ? pick(g, f->rm_set) : (uint8_t)below(g, 8);
	x.opcode_low = f->opcode_set > 1 ? pick(g, f->opcode_set) : 0;
	if (f->memory)
		x.mod = (uint8_t)below(g, 3);
	if (f->vsib)
		x.rm = 4;
	if (high) {
		x.r = bits & 1;
		x.x = bits >> 1 & 1;
		x.b = bits >> 2 & 1;
		x.r2 = f->encoding == ENC_EVEX && (bits >> 3 & 1);
		x.v2 = f->encoding == ENC_EVEX && (f->uses_vvvv || f->vsib) && (bits >> 4 & 1);
	}
	x.force_rex = !(bits >> 5 & 7);
	if (f->uses_vvvv)
		x.vvvv = (uint8_t)below(g, f->mode32 || tried >= TRIES / 2 ? 8 : 16);
	if (f->mask)
		x.aaa = (uint8_t)(1 + below(g, 7));
	if (f->encoding == ENC_EVEX && f->b && !f->memory)
		x.length_bits = (uint8_t)below(g, 4);
	return x;
}

/* Prefixes that change no form: segments, address size, repeats and operand size where they mean nothing. */
static unsigned rnd_prefixes(struct gen *g, const struct form *f, uint8_t *p)
{
	static const uint8_t segment[] = { 0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26 };
	static const uint8_t idle[] = { 0x66, 0xf2, 0xf3 };
	unsigned n = 0;

	if (one_in(g, 6))
		p[n++] = segment[below(g, ARRAY_SIZE(segment))];
	if (one_in(g, 8) && !f->prefix67)
		p[n++] = 0x67;
	if (f->encoding == ENC_LEGACY && one_in(g, 24))
		p[n++] = idle[below(g, ARRAY_SIZE(idle))];
	return n;
}

static unsigned put_address(struct gen *g, const struct form *f, uint8_t *p, const struct fields *x)
{
	unsigned n = 0;

	if (x->mod == 3 || !f->has_modrm)
		return 0;
	if (x->rm == 4)
		p[n++] = (uint8_t)rnd(g);
	for (unsigned k = 0; k < 4; k++)
		p[n + k] = (uint8_t)(one_in(g, 2) ? below(g, 16) : rnd(g));
	/* Displacements of four bytes near zero, mostly: the base will make up for it either way. */
	return n + 4;
}

/* Bytes with room for everything; the decoder says how many count. 0: not this form. */
static unsigned attempt(struct gen *g, const struct form *f, uint8_t bytes[16], unsigned prefixes,
			const struct fields *x, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
	uint8_t b[48] = { 0 };
	unsigned n = prefixes;

	memcpy(b, bytes, prefixes);
	n += forms_put(b + n, f, x);
	n += put_address(g, f, b + n, x);
	for (unsigned k = 0; k < 10; k++)
		b[n++] = (uint8_t)(one_in(g, 2) ? below(g, 40) : rnd(g));
	if (!forms_decode(f->mode32, b, n > 15 ? 15 : n, zi, zo))
		return 0;
	if (forms_key(f->mode32, zi, zo) != f->key)
		return 0;
	memcpy(bytes, b, zi->length);
	return zi->length;
}

unsigned make_instruction(struct gen *g, const struct form *f, uint8_t bytes[16], ZydisDecodedInstruction *zi,
			  ZydisDecodedOperand *zo)
{
	for (unsigned tried = 0; tried < TRIES; tried++) {
		struct fields x = rnd_fields(g, f, tried);
		unsigned prefixes = tried < TRIES / 4 ? rnd_prefixes(g, f, bytes) : 0;
		unsigned n = attempt(g, f, bytes, prefixes, &x, zi, zo);

		if (n)
			return n;
	}
	/* As it was found. */
	struct fields x = { .mod = f->memory ? 0 : 3,
			    .rm = f->memory ? 4 : pick(g, f->rm_set),
			    .reg = pick(g, f->reg_set),
			    .opcode_low = f->opcode_set > 1 ? pick(g, f->opcode_set) : 0,
			    .length_bits = f->length_bits,
			    .aaa = f->mask };
	uint8_t b[48] = { 0 };
	unsigned n = forms_put(b, f, &x);

	if (f->memory)
		b[n] = 0x08;
	if (!forms_decode(f->mode32, b, 15, zi, zo) && !forms_example(f, zi, zo))
		die("a form of %s cannot be made again", ZydisMnemonicGetString(f->mnemonic));
	memcpy(bytes, b, zi->length);
	return zi->length;
}

/* ---- in sequences ---- */

/* [pointer + disp8], [pointer + index * scale + disp8], displacements mostly multiples of 16. */
static unsigned put_sequence_address(struct gen *g, uint8_t *p, struct fields *x)
{
	static const uint8_t pointers[] = { RBX, RBP, RSI, RDI, R13, RBX, RSI, RDI };
	uint8_t base = pointers[below(g, ARRAY_SIZE(pointers))];
	uint8_t index = (uint8_t)(one_in(g, 2) ? R14 : R15);
	unsigned n = 0;

	x->mod = 1;
	x->b = base >> 3;
	x->x = 0;
	x->rm = base & 7;
	if (one_in(g, 4)) {
		x->rm = 4;
		x->x = index >> 3;
		p[n++] = (uint8_t)(below(g, 4) << 6 | (index & 7) << 3 | (base & 7));
	}
	p[n++] = (uint8_t)(one_in(g, 8) ? rnd(g) : below(g, 16) * 16);
	return n;
}

unsigned make_sequence_instruction(struct gen *g, const struct form *f, uint8_t bytes[16], ZydisDecodedInstruction *zi,
				   ZydisDecodedOperand *zo)
{
	for (unsigned tried = 0; tried < TRIES; tried++) {
		struct fields x = rnd_fields(g, f, tried);
		uint8_t b[48] = { 0 }, address[8];
		unsigned n, more = 0;

		if (f->memory)
			more = put_sequence_address(g, address, &x);
		n = forms_put(b, f, &x);
		memcpy(b + n, address, more);
		n += more;
		for (unsigned k = 0; k < 10; k++)
			b[n++] = (uint8_t)(one_in(g, 2) ? below(g, 40) : rnd(g));
		if (!forms_decode(false, b, n > 15 ? 15 : n, zi, zo) || forms_key(false, zi, zo) != f->key)
			continue;
		memcpy(bytes, b, zi->length);
		return zi->length;
	}
	return 0;
}
