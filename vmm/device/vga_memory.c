/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window at 0xa0000: four planes of memory behind latches, an ALU and masks (IBM PS/2 Hardware Interface Technical
 * Reference, "Video Graphics Array Function"). Or, in a linear mode, a 64 KiB bank of memory.
 */
#include <string.h>

#include "device/vga_parts.h"

#define BANK_SIZE 0x10000u

static bool linear(const struct vga *v)
{
	return (v->dispi[DISPI_ENABLE] & DISPI_ENABLED) && v->dispi[DISPI_BPP] > 4;
}

/* A byte of a linear mode's bank; NULL: beyond. */
static uint8_t *bank_byte(struct vga *v, uint32_t offset)
{
	uint32_t at = v->dispi[DISPI_BANK] * BANK_SIZE + offset;

	return offset < BANK_SIZE && at < VGA_MEMORY ? &v->memory[at] : NULL;
}

/* The part of the window that the memory map select field opens. False: not here. */
static bool window_address(const struct vga *v, uint32_t offset, uint32_t *address)
{
	static const struct {
		uint32_t base, size;
	} maps[4] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
	unsigned map = v->gfx[GFX_MISC] >> 2 & 3;

	if (!(v->misc & MISC_RAM) || offset < maps[map].base || offset - maps[map].base >= maps[map].size)
		return false;
	*address = offset - maps[map].base;
	return true;
}

/* All four planes of an address. */
static uint32_t planes_get(const struct vga *v, uint32_t index)
{
	uint32_t value;

	memcpy(&value, v->memory + 4 * (size_t)index, 4);
	return value;
}

/* Bit n of a nibble to all of byte n. */
static uint32_t spread(unsigned nibble)
{
	return (nibble & 1 ? 0xffu : 0) | (nibble & 2 ? 0xff00u : 0) | (nibble & 4 ? 0xff0000u : 0) |
	       (nibble & 8 ? 0xff000000u : 0);
}

uint8_t vga_window_read(struct vga *v, uint32_t offset)
{
	uint32_t address, same;
	unsigned plane;

	if (linear(v)) {
		const uint8_t *byte = bank_byte(v, offset);

		return byte ? *byte : 0xff;
	}
	if (!window_address(v, offset, &address))
		return 0xff;
	if (v->seq[SEQ_MEMORY_MODE] & SEQ_MEMORY_CHAIN4) {
		plane = address & 3;
		v->latch = planes_get(v, address >> 2);
	} else if (v->gfx[GFX_MODE] & GFX_MODE_ODD_EVEN) {
		plane = (v->gfx[GFX_READ_MAP] & 2) | (address & 1);
		v->latch = planes_get(v, address >> 1);
	} else {
		plane = v->gfx[GFX_READ_MAP];
		v->latch = planes_get(v, address);
	}
	if (!(v->gfx[GFX_MODE] & GFX_MODE_READ1))
		return (uint8_t)(v->latch >> (8 * plane));
	/* Read mode 1: which pixels have the colour. */
	same = (v->latch ^ spread(v->gfx[GFX_COLOR_COMPARE])) & spread(v->gfx[GFX_COLOR_DONT_CARE]);
	return (uint8_t) ~(same | same >> 8 | same >> 16 | same >> 24);
}

static uint8_t rotate(uint8_t value, unsigned by)
{
	return (uint8_t)(value >> by | value << (8 - by));
}

static uint32_t alu(const struct vga *v, uint32_t value)
{
	switch (v->gfx[GFX_ROTATE] >> 3 & 3) {
	case 1: return value & v->latch;
	case 2: return value | v->latch;
	case 3: return value ^ v->latch;
	default: return value;
	}
}

/* What a written byte becomes in each plane, by the write mode. */
static uint32_t write_value(const struct vga *v, uint8_t value)
{
	const uint32_t every = 0x01010101;
	uint32_t mask = v->gfx[GFX_BIT_MASK] * every, data, enable;

	switch (v->gfx[GFX_MODE] & 3) {
	case 0:
		enable = spread(v->gfx[GFX_ENABLE_SET_RESET]);
		data = rotate(value, v->gfx[GFX_ROTATE] & 7) * every;
		data = (data & ~enable) | (spread(v->gfx[GFX_SET_RESET]) & enable);
		break;
	case 1: return v->latch;
	case 2: data = spread(value); break;
	default:
		mask &= rotate(value, v->gfx[GFX_ROTATE] & 7) * every;
		data = spread(v->gfx[GFX_SET_RESET]);
		break;
	}
	return (alu(v, data) & mask) | (v->latch & ~mask);
}

void vga_window_write(struct vga *v, uint32_t offset, uint8_t value)
{
	uint32_t address, index, planes, old, new;
	unsigned map = v->seq[SEQ_MAP_MASK];

	if (linear(v)) {
		uint8_t *byte = bank_byte(v, offset);

		if (byte)
			*byte = value;
		return;
	}
	if (!window_address(v, offset, &address))
		return;
	if (v->seq[SEQ_MEMORY_MODE] & SEQ_MEMORY_CHAIN4) {
		index = address >> 2;
		map &= 1u << (address & 3);
	} else if (!(v->seq[SEQ_MEMORY_MODE] & SEQ_MEMORY_SEQUENTIAL)) {
		index = address >> 1;
		map &= address & 1 ? 0xa : 0x5;
	} else {
		index = address;
	}
	planes = spread(map);
	old = planes_get(v, index);
	new = (old & ~planes) | (write_value(v, value) & planes);
	if (new == old)
		return;
	memcpy(v->memory + 4 * (size_t)index, &new, 4);
	vga_touch(v);
}
