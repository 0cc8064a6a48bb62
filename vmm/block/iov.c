/* SPDX-License-Identifier: Apache-2.0 */
#include "block/iov.h"

#include <string.h>

unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned n, size_t skip, size_t length)
{
	unsigned used = 0;

	for (unsigned i = 0; i < n && length; i++) {
		size_t len = src[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len -= skip;
		if (len > length)
			len = length;
		dst[used].iov_base = (uint8_t *)src[i].iov_base + skip;
		dst[used].iov_len = len;
		used++;
		length -= len;
		skip = 0;
	}
	return used;
}

enum direction { GATHER, SCATTER, ZERO };

static void walk(const struct iovec *iov, unsigned n, size_t skip, uint8_t *buffer, size_t length, enum direction how)
{
	for (unsigned i = 0; i < n && length; i++) {
		size_t len = iov[i].iov_len;
		uint8_t *base = iov[i].iov_base;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		base += skip;
		len -= skip;
		if (len > length)
			len = length;
		if (how == GATHER)
			memcpy(buffer, base, len);
		else if (how == SCATTER)
			memcpy(base, buffer, len);
		else
			memset(base, 0, len);
		if (buffer)
			buffer += len;
		length -= len;
		skip = 0;
	}
}

void iov_zero(const struct iovec *iov, unsigned n, size_t skip, size_t length)
{
	walk(iov, n, skip, NULL, length, ZERO);
}

void iov_gather(void *to, const struct iovec *iov, unsigned n, size_t skip, size_t length)
{
	walk(iov, n, skip, to, length, GATHER);
}

void iov_scatter(const struct iovec *iov, unsigned n, size_t skip, const void *from, size_t length)
{
	walk(iov, n, skip, (uint8_t *)(uintptr_t)from, length, SCATTER);
}
