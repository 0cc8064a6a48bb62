/* SPDX-License-Identifier: Apache-2.0 */
/* For seeded random tests: the same numbers in each run. FUZZ_FACTOR=100: more of them; FUZZ_SEED=7: others. */
#ifndef TESTS_UNIT_FUZZ_H
#define TESTS_UNIT_FUZZ_H

#include <stdint.h>
#include <stdlib.h>

/* Values that tend to be somebody's border. */
static const uint64_t fuzz_borders[] = {
	0,
	1,
	2,
	7,
	8,
	0x7f,
	0x80,
	0xff,
	0xfff,
	0x1000,
	0x7fff,
	0xffff,
	0x10000,
	0xa0000,
	0x100000,
	0x7fffffff,
	0x80000000,
	0xfec00000,
	0xfee00000,
	0xffffffff,
	UINT64_C(0x100000000),
	UINT64_C(0x7fffffffffff),
	UINT64_C(0x800000000000),
	UINT64_C(0x7fffffffffffffff),
	UINT64_C(0x8000000000000000),
	UINT64_C(0xffff800000000000),
	UINT64_C(0xfffffffffffff000),
	UINT64_C(0xffffffffffffffff),
};

struct fuzz {
	uint64_t state;
};

/* splitmix64: every seed is as good as any other. */
static inline uint64_t fuzz_next(struct fuzz *f)
{
	uint64_t z = (f->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 .. n-1 */
static inline uint64_t fuzz_below(struct fuzz *f, uint64_t n)
{
	return fuzz_next(f) % n;
}

/* A number of random width, or one at a border. */
static inline uint64_t fuzz_value(struct fuzz *f)
{
	uint64_t border = fuzz_borders[fuzz_below(f, sizeof(fuzz_borders) / sizeof(fuzz_borders[0]))];

	switch (fuzz_below(f, 4)) {
	case 0: return border;
	case 1: return border + fuzz_below(f, 17) - 8;
	default: return fuzz_next(f) >> fuzz_below(f, 64);
	}
}

static inline void fuzz_bytes(struct fuzz *f, void *to, size_t len)
{
	uint8_t *p = to;

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)fuzz_next(f);
}

/* A few changes to a block: single bits, bytes, words at a border. */
static inline void fuzz_mutate(struct fuzz *f, void *block, size_t len)
{
	uint8_t *p = block;

	for (uint64_t n = 1 + fuzz_below(f, 4); n; n--) {
		uint64_t value = fuzz_value(f);
		size_t at = fuzz_below(f, len);
		size_t width = UINT64_C(1) << fuzz_below(f, 4);

		if (fuzz_below(f, 3) == 0) {
			p[at] ^= (uint8_t)(1u << fuzz_below(f, 8));
			continue;
		}
		for (size_t i = 0; i < width && at + i < len; i++)
			p[at + i] = (uint8_t)(value >> (8 * i));
	}
}

static inline struct fuzz fuzz_start(uint64_t seed)
{
	const char *more = getenv("FUZZ_SEED");

	return (struct fuzz){ seed + (more ? strtoull(more, NULL, 0) << 32 : 0) };
}

static inline unsigned fuzz_rounds(unsigned rounds)
{
	const char *factor = getenv("FUZZ_FACTOR");

	return factor ? rounds * (unsigned)atoi(factor) : rounds;
}

#endif
