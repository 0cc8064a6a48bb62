/* SPDX-License-Identifier: Apache-2.0 */
/* Small functions written at run time. Each writer returns the byte behind what it wrote. */
#ifndef TESTS_CPU_CODEGEN_H
#define TESTS_CPU_CODEGEN_H

#include "guest.h"

typedef u64 function(u64 rdi, u64 rsi, u64 rdx);

static inline u64 call3(const u8 *p, u64 rdi, u64 rsi, u64 rdx)
{
	return ((function *)(u64)p)(rdi, rsi, rdx);
}
static inline u64 call(const u8 *p)
{
	return call3(p, 0, 0, 0);
}

/* Byte by byte, unlike what the compiler makes of an array assignment. */
static inline u8 *put(u8 *p, u64 bytes, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		*(volatile u8 *)p++ = (u8)(bytes >> 8 * i);
	return p;
}
/* mov $value, %eax */
static inline u8 *put_value(u8 *p, u32 value)
{
	return put(put(p, 0xb8, 1), value, 4);
}
static inline u8 *put_ret(u8 *p)
{
	return put(p, 0xc3, 1);
}
static inline u8 *put_return(u8 *p, u32 value)
{
	return put_ret(put_value(p, value));
}
/* jmp or call target (rel32) */
static inline u8 *put_jmp(u8 *p, const u8 *target)
{
	return put(put(p, 0xe9, 1), (u64)(target - (p + 5)), 4);
}
static inline u8 *put_call(u8 *p, const u8 *target)
{
	return put(put(p, 0xe8, 1), (u64)(target - (p + 5)), 4);
}
/* A copy of the code between two labels, which must not depend on where it is. */
static inline u8 *put_code(u8 *p, const char *from, const char *to)
{
	while (from < to)
		p = put(p, (u8)*from++, 1);
	return p;
}

#endif
