/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/aml.h"

#include <stdlib.h>
#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_ROOT = 0x5c,
};

/* Resource descriptors (6.4.2) */
#define RES_IO 0x47
#define RES_IO_DECODE16 0x01
#define RES_IRQ 0x22
#define RES_END 0x79

#define NAME_SEG 4
#define PKG_LENGTH_BYTES 3 /* always the three-byte form of PkgLength (20.2.4): up to 1 MiB */

void aml_init(struct aml *aml, void *buffer, size_t capacity)
{
	memset(aml, 0, sizeof(*aml));
	aml->data = buffer;
	aml->capacity = capacity;
}

static void put(struct aml *aml, const void *bytes, size_t n)
{
	if (n > aml->capacity - aml->size) {
		aml->overflow = true;
		return;
	}
	memcpy(aml->data + aml->size, bytes, n);
	aml->size += n;
}

static void put_byte(struct aml *aml, uint8_t byte)
{
	put(aml, &byte, 1);
}

static void put_name(struct aml *aml, const char *name)
{
	char segment[NAME_SEG] = "____";

	if (*name == '\\') {
		put_byte(aml, OP_ROOT);
		name++;
	}
	memcpy(segment, name, strnlen(name, NAME_SEG));
	put(aml, segment, NAME_SEG);
}

static void open_package(struct aml *aml)
{
	static const uint8_t room[PKG_LENGTH_BYTES];

	if (aml->depth == AML_NESTING_MAX) {
		aml->overflow = true;
		return;
	}
	aml->open[aml->depth++] = aml->size;
	put(aml, room, sizeof(room));
}

void aml_end(struct aml *aml)
{
	size_t at, length;

	if (aml->overflow || !aml->depth)
		return;
	at = aml->open[--aml->depth];
	length = aml->size - at; /* PkgLength counts itself */
	aml->data[at] = (uint8_t)((PKG_LENGTH_BYTES - 1) << 6 | (length & 0x0f));
	aml->data[at + 1] = (uint8_t)(length >> 4);
	aml->data[at + 2] = (uint8_t)(length >> 12);
}

void aml_scope(struct aml *aml, const char *name)
{
	put_byte(aml, OP_SCOPE);
	open_package(aml);
	put_name(aml, name);
}

void aml_device(struct aml *aml, const char *name)
{
	put_byte(aml, OP_EXT);
	put_byte(aml, OP_EXT_DEVICE);
	open_package(aml);
	put_name(aml, name);
}

void aml_name(struct aml *aml, const char *name)
{
	put_byte(aml, OP_NAME);
	put_name(aml, name);
}

void aml_package(struct aml *aml, uint8_t elements)
{
	put_byte(aml, OP_PACKAGE);
	open_package(aml);
	put_byte(aml, elements);
}

void aml_integer(struct aml *aml, uint32_t value)
{
	if (value <= 1) {
		put_byte(aml, value ? OP_ONE : OP_ZERO);
	} else if (value <= UINT8_MAX) {
		put_byte(aml, OP_BYTE);
		put(aml, &value, 1);
	} else if (value <= UINT16_MAX) {
		put_byte(aml, OP_WORD);
		put(aml, &value, 2);
	} else {
		put_byte(aml, OP_DWORD);
		put(aml, &value, 4);
	}
}

void aml_string(struct aml *aml, const char *text)
{
	put_byte(aml, OP_STRING);
	put(aml, text, strlen(text) + 1);
}

/* Three letters of five bits and four hexadecimal digits, most significant byte first (19.6.38 EISAID). */
void aml_eisa_id(struct aml *aml, const char *id)
{
	unsigned digits = (unsigned)strtoul(id + 3, NULL, 16);
	unsigned a = (unsigned)id[0] - 0x40, b = (unsigned)id[1] - 0x40, c = (unsigned)id[2] - 0x40;
	uint8_t bytes[] = { (uint8_t)(a << 2 | b >> 3), (uint8_t)(b << 5 | c), (uint8_t)(digits >> 8),
			    (uint8_t)digits };

	put_byte(aml, OP_DWORD);
	put(aml, bytes, sizeof(bytes));
}

/* Buffer(length) with the length as a fixed-size word, filled in by aml_crs_end. */
void aml_crs(struct aml *aml)
{
	static const uint8_t length[] = { OP_WORD, 0, 0 };

	aml_name(aml, "_CRS");
	put_byte(aml, OP_BUFFER);
	open_package(aml);
	put(aml, length, sizeof(length));
}

void aml_crs_io(struct aml *aml, uint16_t base, uint8_t len)
{
	const uint8_t low = (uint8_t)base, high = (uint8_t)(base >> 8);
	const uint8_t descriptor[] = { RES_IO, RES_IO_DECODE16, low, high, low, high, 1, len };

	put(aml, descriptor, sizeof(descriptor));
}

void aml_crs_irq(struct aml *aml, unsigned irq)
{
	const uint8_t descriptor[] = { RES_IRQ, (uint8_t)(1u << irq), (uint8_t)(1u << irq >> 8) };

	put(aml, descriptor, sizeof(descriptor));
}

void aml_crs_end(struct aml *aml)
{
	static const uint8_t end[] = { RES_END, 0 }; /* checksum 0: not checked */
	size_t start, length;

	put(aml, end, sizeof(end));
	if (aml->overflow || !aml->depth)
		return;
	start = aml->open[aml->depth - 1] + PKG_LENGTH_BYTES + 3;
	length = aml->size - start;
	aml->data[start - 2] = (uint8_t)length;
	aml->data[start - 1] = (uint8_t)(length >> 8);
	aml_end(aml);
}
