/* SPDX-License-Identifier: Apache-2.0 */
/* Code that changes: under the CPU's feet, in the next instruction, through another mapping, by remapping. */
#include "guest.h"

static u8 code[8192] __attribute__((aligned(4096), section(".data")));
typedef int function(void);

/* mov $value, %eax; ret */
static void put_return(u8 *p, u32 value)
{
	p[0] = 0xb8;
	p[1] = (u8)value;
	p[2] = (u8)(value >> 8);
	p[3] = (u8)(value >> 16);
	p[4] = (u8)(value >> 24);
	p[5] = 0xc3;
}

static int call(const u8 *p)
{
	return ((function *)(u64)p)();
}

int main(void)
{
	bool ok = true;
	int result;

	for (u32 i = 0; i < 2000; i++) {
		put_return(code, i);
		ok &= call(code) == (int)i;
	}
	check("code rewritten before each call", ok);

	/* The store changes the immediate of the very next instruction. */
	__asm__ volatile("movb $42, 1f+1(%%rip)\n1:\tmov $7, %%eax" : "=a"(result)::"memory");
	check_equal("an instruction changes the next one", (u64)result, 42);

	put_return(code + 4093, 0x12345678); /* straddles the page border */
	check_equal("code across a page border", (u64)call(code + 4093), 0x12345678);
	code[4096 + 1] = 0x77; /* its immediate's top byte, in the second page */
	check_equal("changed in its second page", (u64)call(code + 4093), 0x77345678);

	/* One virtual page, two physical ones. */
	volatile u64 *pte = &page_table[0x1a0];
	u8 *window = (u8 *)0x1a0000;
	u64 whole = *pte;
	put_return(window, 1);
	put_return(window + 4096, 2);
	ok = true;
	for (int i = 0; i < 100; i++) {
		*pte = whole;
		invlpg(window);
		ok &= call(window) == 1;
		*pte = whole + 4096;
		invlpg(window);
		ok &= call(window) == 2;
	}
	check("remapped code", ok);
	*pte = whole;
	invlpg(window);

	/* Written through another virtual address. */
	page_table[0x1b0] = whole;
	invlpg((void *)0x1b0000);
	ok = true;
	for (u32 i = 0; i < 100; i++) {
		put_return((u8 *)0x1b0000, i + 5);
		ok &= call(window) == (int)i + 5;
	}
	check("code written through an alias", ok);
	return (int)failures;
}
