/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NH (RFC 4418, 5.2.1) with 64-bit words: two texts of the same length have the same sum with a chance of 2^-64, also
 * when they are chosen for it, as the key is not known. For a guest's user must not have its code taken for another's.
 */
#ifndef TZ_BASE_NH_H
#define TZ_BASE_NH_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>

/* A key of `words` random words; false: the host has none. */
static inline bool tz_nh_key(uint64_t *key, size_t words)
{
	uint8_t *p = (uint8_t *)key;
	size_t left = words * sizeof(*key);

	while (left) {
		ssize_t n = getrandom(p, left, 0);

		if (n < 0 && errno != EINTR)
			return false;
		p += n > 0 ? n : 0;
		left -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* One step of the sum: two words. */
static inline unsigned __int128 tz_nh_pair(const uint64_t key[2], uint64_t a, uint64_t b)
{
	return (unsigned __int128)(a + key[0]) * (b + key[1]);
}

#endif
