/* SPDX-License-Identifier: Apache-2.0 */
/* Vector and x87 state of user code as the kernel saves and loads it. */
#ifndef TESTS_CPU_VECTORS_H
#define TESTS_CPU_VECTORS_H

#include "native.h"

static u8 image[3][4096] __attribute__((aligned(64)));

static inline void xrstor(u8 *from)
{
	__asm__ volatile("xrstor64 (%0)" ::"r"(from), "a"(~0u), "d"(0) : "memory");
}
static inline void xsave(u8 *to)
{
	for (unsigned i = 512; i < 576; i++)
		to[i] = 0;
	__asm__ volatile("xsave64 (%0)" ::"r"(to), "a"(~0u), "d"(0) : "memory");
}

/* All registers random and MXCSR and FCW unusual, in a legal image. */
static inline void random_vectors(u64 *seed)
{
	xsave(image[0]);
	for (unsigned i = 160; i < 416; i += 8)
		*(u64 *)(image[0] + i) = random64(seed);
	for (unsigned i = 0; i < 8; i++) {
		*(u64 *)(image[0] + 32 + 16 * i) = random64(seed) | 1ull << 63;
		*(u64 *)(image[0] + 40 + 16 * i) = 0x3fff + i;
	}
	for (unsigned n = 2; n < 8; n++) {
		u32 r[4];

		if (!(native_xcr0 >> n & 1))
			continue;
		cpuid(0xd, n, r);
		for (unsigned i = 0; i < r[0]; i += 8)
			*(u64 *)(image[0] + r[1] + i) = random64(seed);
	}
	*(u16 *)(image[0] + 0) = 0x0f7f; /* rounds towards zero */
	*(u16 *)(image[0] + 2) = 5 << 11;
	image[0][4] = 0xff; /* all of them in use */
	*(u32 *)(image[0] + 24) = 0x7fbf;
	*(u64 *)(image[0] + 512) = native_xcr0;
}

/* Bytes that differ, but for x87 pointers, the empty and what is the processor's own. */
static inline unsigned images_differ(const u8 *a, const u8 *b)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 2688; i++)
		if ((i < 6 || i >= 24) && (i < 28 || i >= 32) && (i < 416 || i >= 576))
			wrong += a[i] != b[i] && (i < 32 || i >= 160 || (i & 15) < 10);
	return wrong;
}

static inline unsigned vectors_differ(void)
{
	xsave(image[1]);
	return images_differ(image[0], image[1]) + (*(u64 *)(image[1] + 512) != native_xcr0);
}

#endif
