/* SPDX-License-Identifier: Apache-2.0 */
/* What the 32-bit programs share: each has its own start and is one file. */
#ifndef GUEST32_H
#define GUEST32_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define COM1 0x3f8
#define SELECTOR(n, rpl) ((n)*8 + (rpl))

static unsigned failures;

static void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static void print(const char *s)
{
	for (; *s; s++)
		outb(COM1, (u8)*s);
}

static void check(const char *name, bool ok)
{
	print(ok ? "ok " : "not ok ");
	print(name);
	print("\n");
	failures += !ok;
}

static void guest_exit(u32 status)
{
	__asm__ volatile("outl %0, %1" ::"a"(status), "Nd"((u16)0xf4));
	for (;;)
		__asm__ volatile("hlt");
}

#endif
