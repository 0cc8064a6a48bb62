/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locked operations of the host on guest memory. Written as asm because guest operands may be
 * misaligned, which C atomics exclude and the host's LOCK allows (SDM 3A 8.1.2.2).
 */
#ifndef TZ_INTERP_HOST_ATOMIC_H
#define TZ_INTERP_HOST_ATOMIC_H

#include "interp/flags.h"

#define HOST_CAS(suffix, type)                                                                                         \
	({                                                                                                             \
		type expected_ = (type)*old;                                                                           \
		__asm__ volatile("lock cmpxchg" suffix " %[n], %[m]"                                                   \
				 : "=@ccz"(done), "+a"(expected_), [m] "+m"(*(type *)p)                                \
				 : [n] "r"((type) new)                                                                 \
				 : "memory");                                                                          \
		*old = expected_;                                                                                      \
	})

/* Replace *p by `new` if it holds *old; else *old is what it holds. */
interp_inline bool host_cas(void *p, unsigned size, uint64_t *old, uint64_t new)
{
	bool done;

	switch (size) {
	case 1: HOST_CAS("b", uint8_t); break;
	case 2: HOST_CAS("w", uint16_t); break;
	case 4: HOST_CAS("l", uint32_t); break;
	default: HOST_CAS("q", uint64_t); break;
	}
	return done;
}

/* 16 bytes, aligned. Every CPU this runs on has CMPXCHG16B or never announces it (CX16). */
static inline bool host_cas16(void *p, uint64_t old[2], uint64_t lo, uint64_t hi)
{
	bool done;

	__asm__ volatile("lock cmpxchg16b %[m]"
			 : "=@ccz"(done), "+a"(old[0]), "+d"(old[1]), [m] "+m"(*(unsigned __int128 *)p)
			 : "b"(lo), "c"(hi)
			 : "memory");
	return done;
}

#endif
