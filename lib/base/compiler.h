/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small compiler helpers shared by every layer. No state, no dependencies.
 */
#ifndef TZ_BASE_COMPILER_H
#define TZ_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define tz_noreturn __attribute__((noreturn))
#define tz_cold __attribute__((cold, noinline))
#define tz_printf(f, a) __attribute__((format(printf, f, a)))
#define tz_unused __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))

#define BIT32(n) (UINT32_C(1) << (n))
#define BIT64(n) (UINT64_C(1) << (n))

/* Guest memory is shared by guests' rules, which are not C's: its accessors are no business of ThreadSanitizer. */
#ifdef __SANITIZE_THREAD__
#define tz_guest_access __attribute__((no_sanitize_thread, noinline)) tz_unused
#else
#define tz_guest_access inline
#endif

/*
 * Single-copy loads and stores of guest memory. One host MOV each, whatever the
 * alignment: x86 guests rely on the host's own atomicity and ordering rules, so
 * the compiler must neither split, merge nor drop these (SDM 3A 9.1.1).
 */
#define TZ_DEFINE_GUEST_ACCESS(bits)                                                                                   \
	struct tz_un##bits {                                                                                           \
		uint##bits##_t v;                                                                                      \
	} __attribute__((packed, may_alias));                                                                          \
	static tz_guest_access uint##bits##_t guest_load##bits(const void *p)                                          \
	{                                                                                                              \
		return ((const volatile struct tz_un##bits *)p)->v;                                                    \
	}                                                                                                              \
	static tz_guest_access void guest_store##bits(void *p, uint##bits##_t v)                                       \
	{                                                                                                              \
		((volatile struct tz_un##bits *)p)->v = v;                                                             \
	}

TZ_DEFINE_GUEST_ACCESS(8)
TZ_DEFINE_GUEST_ACCESS(16)
TZ_DEFINE_GUEST_ACCESS(32)
TZ_DEFINE_GUEST_ACCESS(64)

/*
 * Copies and clears for code that runs while the guest's vector state is live
 * in the host's registers (see lib/x86/fpu.h): libc's versions use vector
 * registers, `rep movsb` does not.
 */
static inline void tz_copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline void tz_clear(void *dst, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}

#endif
