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
	OP_METHOD = 0x14,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_ROOT = 0x5c,
	OP_ARG0 = 0x68,
	OP_STORE = 0x70,
	OP_IF = 0xa0,
	OP_RETURN = 0xa4,
};

/* Resource descriptors (6.4.2) */
#define RES_IO 0x47
#define RES_IO_DECODE16 0x01
#define RES_IRQ 0x22
#define RES_END 0x79
/* 6.4.3 */
#define RES_MEMORY32_FIXED 0x86
#define RES_DWORD_WINDOW 0x87
#define RES_WORD_WINDOW 0x88
#define RES_INTERRUPT 0x89
#define WINDOW_MEMORY 0
#define WINDOW_IO 1
#define WINDOW_BUS 2
#define WINDOW_FIXED 0x0c /* both ends */
#define WINDOW_MEMORY_RW 0x01
#define WINDOW_IO_ENTIRE 0x03
#define INTERRUPT_LEVEL_HIGH_SHARED 0x09 /* and a consumer's */

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

void aml_method(struct aml *aml, const char *name, unsigned args)
{
	put_byte(aml, OP_METHOD);
	open_package(aml);
	put_name(aml, name);
	put_byte(aml, (uint8_t)args); /* not serialized */
}

void aml_if_name(struct aml *aml, const char *name)
{
	put_byte(aml, OP_IF);
	open_package(aml);
	put_name(aml, name);
}

void aml_return(struct aml *aml)
{
	put_byte(aml, OP_RETURN);
}

void aml_store_arg(struct aml *aml, unsigned arg, const char *name)
{
	put_byte(aml, OP_STORE);
	put_byte(aml, (uint8_t)(OP_ARG0 + arg));
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

static void put_number(struct aml *aml, uint32_t value, unsigned bytes)
{
	put(aml, &value, bytes); /* little endian, as this host */
}

void aml_crs_interrupt(struct aml *aml, uint32_t gsi)
{
	const uint8_t head[] = { RES_INTERRUPT, 6, 0, INTERRUPT_LEVEL_HIGH_SHARED, 1 };

	put(aml, head, sizeof(head));
	put_number(aml, gsi, 4);
}

void aml_crs_memory(struct aml *aml, uint32_t base, uint32_t size)
{
	const uint8_t head[] = { RES_MEMORY32_FIXED, 9, 0, 1 };

	put(aml, head, sizeof(head));
	put_number(aml, base, 4);
	put_number(aml, size, 4);
}

/* Granularity 0, first and last address, no translation, length; `bytes` each (6.4.3.5). */
static void put_window(struct aml *aml, uint8_t type, uint8_t flags, uint32_t base, uint32_t end, unsigned bytes)
{
	const uint8_t head[] = {
		bytes == 2 ? RES_WORD_WINDOW : RES_DWORD_WINDOW, (uint8_t)(3 + 5 * bytes), 0, type, WINDOW_FIXED, flags
	};

	put(aml, head, sizeof(head));
	put_number(aml, 0, bytes);
	put_number(aml, base, bytes);
	put_number(aml, end, bytes);
	put_number(aml, 0, bytes);
	put_number(aml, end - base + 1, bytes);
}

void aml_crs_window_bus(struct aml *aml, uint16_t base, uint16_t end)
{
	put_window(aml, WINDOW_BUS, 0, base, end, 2);
}

void aml_crs_window_io(struct aml *aml, uint16_t base, uint16_t end)
{
	put_window(aml, WINDOW_IO, WINDOW_IO_ENTIRE, base, end, 2);
}

void aml_crs_window_memory(struct aml *aml, uint32_t base, uint32_t end)
{
	put_window(aml, WINDOW_MEMORY, WINDOW_MEMORY_RW, base, end, 4);
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
