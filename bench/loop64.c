/* SPDX-License-Identifier: Apache-2.0 */
/* The guest of `make bench`: an integer loop like compiled code, with loads, stores, calls and branches. */
#include "guest.h"

#define WORDS 4096
static u32 table[WORDS];

static __attribute__((noinline)) u32 mix(u32 h, u32 v)
{
	h ^= v;
	h *= 0x9e3779b1;
	return h ^ h >> 15;
}

int main(void)
{
	u32 h = 1;

	for (u32 round = 0; round < 6000; round++)
		for (u32 i = 0; i < WORDS; i++) {
			h = mix(h, table[i]);
			if (h & 1)
				table[i] += h;
			else
				table[(i + h) % WORDS] ^= round;
		}
	print("checksum ");
	print_hex(h);
	print("\n");
	return 0;
}
