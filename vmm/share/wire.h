/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of 9P2000.L: little-endian numbers, strings with a length in front. */
#ifndef VMM_SHARE_WIRE_H
#define VMM_SHARE_WIRE_H

#include <endian.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define WIRE_HEADER 7u /* size[4] type[1] tag[2] */

enum message {
	P9_RLERROR = 7,
	P9_TSTATFS = 8,
	P9_TLOPEN = 12,
	P9_TLCREATE = 14,
	P9_TSYMLINK = 16,
	P9_TMKNOD = 18,
	P9_TREADLINK = 22,
	P9_TGETATTR = 24,
	P9_TSETATTR = 26,
	P9_TREADDIR = 40,
	P9_TFSYNC = 50,
	P9_TLOCK = 52,
	P9_TGETLOCK = 54,
	P9_TLINK = 70,
	P9_TMKDIR = 72,
	P9_TRENAMEAT = 74,
	P9_TUNLINKAT = 76,
	P9_TVERSION = 100,
	P9_TATTACH = 104,
	P9_TFLUSH = 108,
	P9_TWALK = 110,
	P9_TREAD = 116,
	P9_TWRITE = 118,
	P9_TCLUNK = 120,
	P9_TREMOVE = 122,
};

/* ---- a request; what is not there reads as 0 and makes it bad ---- */

struct wire_in {
	const uint8_t *p, *end;
	bool bad;
};

static inline void wire_get(struct wire_in *in, void *to, size_t n)
{
	if ((size_t)(in->end - in->p) < n) {
		in->bad = true;
		in->p = in->end;
		memset(to, 0, n);
		return;
	}
	memcpy(to, in->p, n);
	in->p += n;
}

static inline uint8_t wire_get8(struct wire_in *in)
{
	uint8_t value;

	wire_get(in, &value, sizeof(value));
	return value;
}

static inline uint16_t wire_get16(struct wire_in *in)
{
	uint16_t value;

	wire_get(in, &value, sizeof(value));
	return le16toh(value);
}

static inline uint32_t wire_get32(struct wire_in *in)
{
	uint32_t value;

	wire_get(in, &value, sizeof(value));
	return le32toh(value);
}

static inline uint64_t wire_get64(struct wire_in *in)
{
	uint64_t value;

	wire_get(in, &value, sizeof(value));
	return le64toh(value);
}

/* A string into a buffer of `room` bytes, 0 at its end. False: it is too long for it, or has a 0 inside. */
static inline bool wire_get_string(struct wire_in *in, char *to, size_t room)
{
	uint16_t len = wire_get16(in);
	bool fits = !in->bad && len < room && len <= (size_t)(in->end - in->p);

	to[0] = '\0';
	if (!fits) {
		in->bad |= len > (size_t)(in->end - in->p);
		in->p += len <= (size_t)(in->end - in->p) ? len : 0;
		return false;
	}
	wire_get(in, to, len);
	to[len] = '\0';
	return strlen(to) == len;
}

/* ---- a reply; what does not fit makes it full ---- */

struct wire_out {
	uint8_t *p, *end;
	bool full;
};

static inline void wire_put(struct wire_out *out, const void *from, size_t n)
{
	if ((size_t)(out->end - out->p) < n) {
		out->full = true;
		return;
	}
	memcpy(out->p, from, n);
	out->p += n;
}

static inline void wire_put8(struct wire_out *out, uint8_t value)
{
	wire_put(out, &value, sizeof(value));
}

static inline void wire_put16(struct wire_out *out, uint16_t value)
{
	value = htole16(value);
	wire_put(out, &value, sizeof(value));
}

static inline void wire_put32(struct wire_out *out, uint32_t value)
{
	value = htole32(value);
	wire_put(out, &value, sizeof(value));
}

static inline void wire_put64(struct wire_out *out, uint64_t value)
{
	value = htole64(value);
	wire_put(out, &value, sizeof(value));
}

static inline void wire_put_string(struct wire_out *out, const char *text)
{
	size_t len = strlen(text);

	wire_put16(out, (uint16_t)len);
	wire_put(out, text, len);
}

#endif
