/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets share: libFuzzer's input read as a stream of choices, and the check that ends a run.
 * An exhausted stream gives zeros, so that every prefix of an input is an input.
 */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"

/* libFuzzer's interface. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* A finding: say what, and let the fuzzer keep the input. */
#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                 \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

struct input {
	const uint8_t *p, *end;
};

static inline size_t input_left(const struct input *in)
{
	return (size_t)(in->end - in->p);
}

static inline uint8_t input_u8(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

/* `n` bytes, little endian */
static inline uint64_t input_number(struct input *in, unsigned n)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < n; i++)
		value |= (uint64_t)input_u8(in) << (8 * i);
	return value;
}

/* 0 .. n-1 */
static inline uint64_t input_below(struct input *in, uint64_t n)
{
	return input_number(in, n <= 0x100 ? 1 : n <= 0x10000 ? 2 : n <= UINT64_C(0x100000000) ? 4 : 8) % n;
}

static inline bool input_flag(struct input *in)
{
	return input_u8(in) & 1;
}

/* One time in n, and never in an exhausted stream. */
static inline bool input_rarely(struct input *in, unsigned n)
{
	return input_below(in, n) == n - 1;
}

static inline void input_bytes(struct input *in, void *to, size_t len)
{
	size_t have = input_left(in) < len ? input_left(in) : len;

	if (have)
		memcpy(to, in->p, have);
	memset((uint8_t *)to + have, 0, len - have);
	in->p += have;
}

/* A number of any width, or one that tends to be somebody's border, or one next to it. */
static inline uint64_t input_value(struct input *in)
{
	static const uint64_t borders[] = {
		0,
		0x80,
		0xff,
		0x1000,
		0x7fff,
		0xffff,
		0xa0000,
		0x100000,
		0x7fffffff,
		0x80000000,
		0xfec00000,
		0xfee00000,
		0xffffffff,
		UINT64_C(0x100000000),
		UINT64_C(0x800000000000),
		UINT64_C(0x7fffffffffffffff),
		UINT64_C(0x8000000000000000),
		UINT64_C(0xffff800000000000),
		UINT64_C(0xffffffffffffffff),
	};
	uint8_t kind = input_u8(in);

	switch (kind & 7) {
	case 0: return 0;
	case 1: return kind >> 3;
	case 2: return borders[(kind >> 3) % ARRAY_SIZE(borders)];
	case 3: return borders[(kind >> 3) % ARRAY_SIZE(borders)] + input_u8(in) - 0x80;
	case 4: return UINT64_C(1) << (input_u8(in) & 63);
	case 5: return input_number(in, 2);
	case 6: return input_number(in, 4);
	default: return input_number(in, 8);
	}
}

/* Damage: a few values of 1 to 8 bytes written over a block. */
static inline void input_mutate(struct input *in, void *block, size_t len)
{
	uint8_t *p = block;

	for (unsigned n = 1 + input_u8(in) % 4; n && len; n--) {
		size_t at = input_below(in, len), width = (size_t)1 << (input_u8(in) & 3);
		uint64_t value = input_value(in);

		for (size_t i = 0; i < width && at + i < len; i++)
			p[at + i] = (uint8_t)(value >> (8 * i));
	}
}

#endif
