/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parallel NOR flash, eight bits wide, with Intel's command set (CFI primary command set 1: JESD68.01, JEP137; the
 * commands and the status register as in the data sheet of Intel's 28F320J3). Programming clears bits, erasing a block
 * sets them. Every operation is done, and stored, when its last write returns: the status is never "busy".
 *
 * Firmware finds out by reading the status after it was cleared whether this is flash, and takes 0 for "yes": so the
 * ready bit is cleared as well, and comes back with the next operation, as in the model of QEMU's it was written for.
 */
#include "device/pflash.h"

#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"

enum command {
	CMD_PROGRAM_ALT = 0x10,
	CMD_ERASE = 0x20,
	CMD_PROGRAM = 0x40,
	CMD_CLEAR_STATUS = 0x50,
	CMD_READ_STATUS = 0x70,
	CMD_READ_ID = 0x90,
	CMD_QUERY = 0x98,
	CMD_CONFIRM = 0xd0,
	CMD_WRITE_BUFFER = 0xe8,
	CMD_READ_ARRAY = 0xff,
};

#define STATUS_PROGRAM_ERROR 0x10
#define STATUS_ERASE_ERROR 0x20
#define STATUS_SEQUENCE_ERROR (STATUS_PROGRAM_ERROR | STATUS_ERASE_ERROR)
#define STATUS_READY 0x80

/* Reads of the array through the device until it becomes memory again: see show(). */
#define READS_SHOW 256

#define BUFFER_BITS 5
#define BUFFER_SIZE (1u << BUFFER_BITS)

/* What a read gives, and what the next write is. */
enum mode {
	MODE_ARRAY,
	MODE_STATUS,
	MODE_ID,
	MODE_QUERY,
	/* These read as MODE_STATUS. */
	MODE_PROGRAM,        /* the byte */
	MODE_ERASE,          /* the confirmation */
	MODE_BUFFER_COUNT,   /* bytes to come, less one */
	MODE_BUFFER_DATA,    /* one of them */
	MODE_BUFFER_CONFIRM, /* the confirmation */
};

struct pflash {
	struct device dev;
	struct pflash_array array;
	struct pflash_view view;
	enum mode mode;
	uint8_t status;
	bool written;   /* since the last sync */
	bool shown;     /* the array is memory */
	unsigned reads; /* of the array since it could be */
	struct {
		uint8_t data[BUFFER_SIZE];
		uint32_t start; /* offset of the first byte */
		unsigned count, got;
		bool bad;
	} buffer;
};

/*
 * Each change is one of memory slots, which costs accelerators much. Firmware goes back to the array after each few
 * bytes that it programs, and often for no more than a look at its status: so the array stays the device's until it is
 * read in earnest.
 */
static void show(struct pflash *f, bool shown)
{
	if (f->shown != shown && f->view.show)
		f->view.show(f->view.ctx, shown);
	f->shown = shown;
	f->reads = 0;
}

static void set_mode(struct pflash *f, enum mode mode)
{
	bool is = mode == MODE_ARRAY;

	f->mode = mode;
	/* Who reads the array again is done with what it wrote. */
	if (is && f->written)
		f->array.sync(f->array.ctx);
	f->written &= !is;
	if (!is)
		show(f, false);
}

static uint8_t read_array(struct pflash *f, uint64_t offset)
{
	if (!f->shown && ++f->reads == READS_SHOW)
		show(f, true);
	return f->array.data[offset];
}

static void finish(struct pflash *f, uint8_t errors)
{
	f->status |= STATUS_READY | errors;
	set_mode(f, MODE_STATUS);
}

/* Stored first: what the guest can read is never ahead of what is kept. */
static bool change(struct pflash *f, uint32_t offset, const uint8_t *data, uint32_t len)
{
	if (f->array.store(f->array.ctx, offset, data, len) < 0)
		return false;
	memcpy(f->array.data + offset, data, len);
	f->written = true;
	return true;
}

static void program(struct pflash *f, uint32_t offset, const uint8_t *data, uint32_t len)
{
	uint8_t bytes[BUFFER_SIZE];

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = data[i] & f->array.data[offset + i];
	finish(f, change(f, offset, bytes, len) ? 0 : STATUS_PROGRAM_ERROR);
}

static void erase(struct pflash *f, uint32_t offset)
{
	uint8_t ones[PFLASH_BLOCK];

	memset(ones, 0xff, sizeof(ones));
	finish(f, change(f, offset & ~(PFLASH_BLOCK - 1), ones, sizeof(ones)) ? 0 : STATUS_ERASE_ERROR);
}

/* ---- write to buffer: the count, so many bytes at increasing offsets or in any order behind the first, confirm ----
 */

static void buffer_count(struct pflash *f, uint8_t value)
{
	if (value >= BUFFER_SIZE) {
		finish(f, STATUS_SEQUENCE_ERROR);
		return;
	}
	f->buffer.count = value + 1u;
	f->buffer.got = 0;
	f->buffer.bad = false;
	memset(f->buffer.data, 0xff, sizeof(f->buffer.data));
	set_mode(f, MODE_BUFFER_DATA);
}

static void buffer_data(struct pflash *f, uint32_t offset, uint8_t value)
{
	uint32_t at;

	if (!f->buffer.got)
		f->buffer.start = offset;
	at = offset - f->buffer.start;
	if (at >= f->buffer.count || f->buffer.count > f->array.size - f->buffer.start)
		f->buffer.bad = true;
	else
		f->buffer.data[at] = value;
	if (++f->buffer.got == f->buffer.count)
		set_mode(f, MODE_BUFFER_CONFIRM);
}

static void buffer_confirm(struct pflash *f, uint8_t value)
{
	if (value != CMD_CONFIRM || f->buffer.bad)
		finish(f, STATUS_SEQUENCE_ERROR);
	else
		program(f, f->buffer.start, f->buffer.data, f->buffer.count);
}

/* ---- the bus ---- */

static void take_command(struct pflash *f, uint8_t value)
{
	switch (value) {
	case CMD_PROGRAM_ALT:
	case CMD_PROGRAM: set_mode(f, MODE_PROGRAM); break;
	case CMD_ERASE: set_mode(f, MODE_ERASE); break;
	case CMD_WRITE_BUFFER: set_mode(f, MODE_BUFFER_COUNT); break;
	case CMD_READ_STATUS: set_mode(f, MODE_STATUS); break;
	case CMD_READ_ID: set_mode(f, MODE_ID); break;
	case CMD_QUERY: set_mode(f, MODE_QUERY); break;
	case CMD_CLEAR_STATUS:
		f->status = 0;
		set_mode(f, MODE_ARRAY);
		break;
	default: set_mode(f, MODE_ARRAY); break; /* CMD_READ_ARRAY, and all that it does not know */
	}
}

static void pflash_write(struct device *dev, unsigned region, uint64_t offset, uint64_t data, unsigned size)
{
	struct pflash *f = container_of(dev, struct pflash, dev);
	uint8_t value = (uint8_t)data;

	(void)region, (void)size;
	switch (f->mode) {
	case MODE_PROGRAM: program(f, (uint32_t)offset, &value, 1); break;
	case MODE_ERASE:
		if (value == CMD_CONFIRM)
			erase(f, (uint32_t)offset);
		else
			finish(f, STATUS_SEQUENCE_ERROR);
		break;
	case MODE_BUFFER_COUNT: buffer_count(f, value); break;
	case MODE_BUFFER_DATA: buffer_data(f, (uint32_t)offset, value); break;
	case MODE_BUFFER_CONFIRM: buffer_confirm(f, value); break;
	default: take_command(f, value); break;
	}
}

static unsigned log2_ceil(uint32_t size)
{
	unsigned n = 0;

	while (UINT64_C(1) << n < size)
		n++;
	return n;
}

/* JESD68.01, 4.3: the query table. Timings are as good as any: operations end at once. */
static uint8_t query(const struct pflash *f, uint64_t offset)
{
	const uint32_t blocks = f->array.size / PFLASH_BLOCK - 1;
	const uint8_t table[] = {
		'Q',
		'R',
		'Y', /* 0x10 */
		0x01,
		0x00,
		0x31,
		0x00, /* 0x13 primary command set, its table */
		0x00,
		0x00,
		0x00,
		0x00, /* 0x17 no alternate one */
		0x45,
		0x55,
		0x00,
		0x00, /* 0x1b voltages: 4.5 to 5.5 V, none to program */
		0x07,
		0x07,
		0x0a,
		0x00,
		0x04,
		0x04,
		0x04,
		0x00,                              /* 0x1f typical and longest times, as powers of 2 */
		(uint8_t)log2_ceil(f->array.size), /* 0x27 size */
		0x00,
		0x00, /* 0x28 interface: 8 bits */
		BUFFER_BITS,
		0x00, /* 0x2a write buffer */
		0x01, /* 0x2c one region of blocks: */
		(uint8_t)blocks,
		(uint8_t)(blocks >> 8), /* 0x2d how many, less one */
		(uint8_t)(PFLASH_BLOCK >> 8),
		(PFLASH_BLOCK >> 16), /* 0x2f of 256 bytes times this */
		'P',
		'R',
		'I',
		'1',
		'0', /* 0x31 version 1.0 */
		0x00,
		0x00,
		0x00,
		0x00,
		0x00,
		0x00,
		0x00,
		0x50,
		0x00, /* 0x36 no optional feature */
	};

	return offset >= 0x10 && offset - 0x10 < sizeof(table) ? table[offset - 0x10] : 0;
}

static uint64_t pflash_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	static const uint8_t id[] = { 0x89, 0x16 }; /* Intel, 28F320J3; blocks are not locked */
	struct pflash *f = container_of(dev, struct pflash, dev);

	(void)region, (void)size;
	switch (f->mode) {
	case MODE_ARRAY: return read_array(f, offset);
	case MODE_ID: return offset < sizeof(id) ? id[offset] : 0;
	case MODE_QUERY: return query(f, offset);
	/* A write to the buffer may begin. */
	case MODE_BUFFER_COUNT: return STATUS_READY;
	default: return f->status;
	}
}

static void pflash_reset(struct device *dev)
{
	struct pflash *f = container_of(dev, struct pflash, dev);

	f->status = STATUS_READY;
	set_mode(f, MODE_ARRAY);
	show(f, true);
}

static void pflash_destroy(struct device *dev)
{
	struct pflash *f = container_of(dev, struct pflash, dev);

	device_fini(dev);
	free(f);
}

static const struct device_ops pflash_ops = {
	.name = "pflash",
	.min_size = 1,
	.max_size = 1,
	.reset = pflash_reset,
	.read = pflash_read,
	.write = pflash_write,
	.destroy = pflash_destroy,
};

struct device *pflash_create(const struct pflash_array *array, const struct pflash_view *view)
{
	struct pflash *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	device_init(&f->dev, &pflash_ops);
	f->array = *array;
	f->view = *view;
	f->status = STATUS_READY;
	f->shown = true;
	return &f->dev;
}
