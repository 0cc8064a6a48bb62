/* SPDX-License-Identifier: Apache-2.0 */
/* Guest code for the fuzzers: what mutates bytes does not find VEX or EVEX, so instructions are put together by map. */
#ifndef TESTS_FUZZ_INSN_GEN_H
#define TESTS_FUZZ_INSN_GEN_H

#include "input.h"

#define INSN_GEN_MAX 24

struct random {
	uint64_t state;
};

/* splitmix64: every seed is as good as any other. */
static inline uint64_t random_next(struct random *r)
{
	uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline unsigned random_below(struct random *r, unsigned n)
{
	return (unsigned)(random_next(r) % n);
}

/* An opcode of some map behind some prefixes; ModRM, displacement and immediate at random. Returns the length. */
static inline unsigned insn_gen(struct random *r, uint8_t p[INSN_GEN_MAX])
{
	static const uint8_t prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
	unsigned n = 0, tail;

	while (n < 3 && random_below(r, 3) == 0)
		p[n++] = prefixes[random_below(r, sizeof(prefixes))];
	if (random_below(r, 2))
		p[n++] = (uint8_t)(0x40 | random_below(r, 16)); /* REX */
	switch (random_below(r, 8)) {
	case 0:
	case 1: p[n++] = 0x0f; break;
	case 2:
		p[n++] = 0x0f;
		p[n++] = random_below(r, 2) ? 0x38 : 0x3a;
		break;
	case 3:
		p[n++] = 0xc4;
		p[n++] = (uint8_t)(0xe0 | (1 + random_below(r, 3)));
		p[n++] = (uint8_t)random_next(r);
		break;
	case 4:
		p[n++] = 0x62;
		p[n++] = (uint8_t)(0xf0 | (1 + random_below(r, 3)));
		p[n++] = (uint8_t)(random_next(r) | 4);
		p[n++] = (uint8_t)random_next(r);
		break;
	default: break;
	}
	tail = 2 + random_below(r, 6);
	for (unsigned i = 0; i < tail; i++)
		p[n++] = (uint8_t)random_next(r);
	return n;
}

/*
 * A mutator for inputs that end in guest code: half the time an instruction is put in or written over something behind
 * `head`, else libFuzzer does as it likes.
 */
static inline size_t insn_gen_mutate(uint8_t *data, size_t size, size_t max_size, unsigned seed, size_t head)
{
	struct random r = { seed };
	uint8_t insn[INSN_GEN_MAX];
	unsigned n = insn_gen(&r, insn);
	size_t at;

	if (size < head || random_below(&r, 2))
		return LLVMFuzzerMutate(data, size, max_size);
	at = head + random_below(&r, (unsigned)(size - head) + 1);
	if (random_below(&r, 2) && size + n <= max_size) {
		memmove(data + at + n, data + at, size - at);
		size += n;
	} else if (at + n > size) {
		if (at + n > max_size)
			return LLVMFuzzerMutate(data, size, max_size);
		size = at + n;
	}
	memcpy(data + at, insn, n);
	return size;
}

#endif
