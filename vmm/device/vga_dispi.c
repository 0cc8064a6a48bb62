/* SPDX-License-Identifier: Apache-2.0 */
/* The Bochs VBE extension's registers: modes with linear memory, up to what fits into it. */
#include <sys/mman.h>

#include "device/vga_parts.h"

#define ID_FIRST 0xb0c0
#define ID_LAST 0xb0c5
#define XRES_MAX 2560
#define YRES_MAX 1600
#define BPP_MAX 32

static unsigned bits_per_pixel(const struct vga *v)
{
	return v->dispi[DISPI_BPP] == 15 ? 16 : v->dispi[DISPI_BPP];
}

uint16_t vga_dispi_read(struct vga *v, unsigned index)
{
	bool caps = v->dispi[DISPI_ENABLE] & DISPI_GETCAPS;

	switch (index) {
	case DISPI_XRES: return caps ? XRES_MAX : v->dispi[index];
	case DISPI_YRES: return caps ? YRES_MAX : v->dispi[index];
	case DISPI_BPP: return caps ? BPP_MAX : v->dispi[index];
	case DISPI_MEMORY: return VGA_MEMORY / 65536;
	default: return index < DISPI_COUNT ? v->dispi[index] : 0;
	}
}

/* The height that a line of this many pixels leaves; 0: none. */
static uint32_t lines_of(const struct vga *v, uint32_t pixels)
{
	uint32_t line = pixels * bits_per_pixel(v) / 8;

	return line ? VGA_MEMORY / line : 0;
}

static void set_virtual_width(struct vga *v, uint16_t width)
{
	uint32_t lines = lines_of(v, width);

	if (width < v->dispi[DISPI_XRES] || lines < v->dispi[DISPI_YRES])
		return;
	v->dispi[DISPI_VIRT_WIDTH] = width;
	v->dispi[DISPI_VIRT_HEIGHT] = lines > UINT16_MAX ? UINT16_MAX : (uint16_t)lines;
}

static bool mode_possible(const struct vga *v)
{
	return v->dispi[DISPI_XRES] && v->dispi[DISPI_YRES] && v->dispi[DISPI_BPP] &&
	       lines_of(v, v->dispi[DISPI_XRES]) >= v->dispi[DISPI_YRES];
}

static void enable(struct vga *v, uint16_t value)
{
	bool was = v->dispi[DISPI_ENABLE] & DISPI_ENABLED;

	if (value & DISPI_ENABLED && !mode_possible(v))
		value &= (uint16_t)~DISPI_ENABLED;
	v->dispi[DISPI_ENABLE] = value;
	if (!(value & DISPI_ENABLED) || was)
		return;
	v->dispi[DISPI_X_OFFSET] = v->dispi[DISPI_Y_OFFSET] = v->dispi[DISPI_BANK] = 0;
	set_virtual_width(v, v->dispi[DISPI_XRES]);
	if (!(value & DISPI_NOCLEARMEM))
		madvise(v->memory, VGA_MEMORY, MADV_DONTNEED);
}

void vga_dispi_write(struct vga *v, unsigned index, uint16_t value)
{
	bool enabled = v->dispi[DISPI_ENABLE] & DISPI_ENABLED;

	switch (index) {
	case DISPI_ID:
		if (value >= ID_FIRST && value <= ID_LAST)
			v->dispi[index] = value;
		break;
	case DISPI_XRES:
		if (!enabled && value <= XRES_MAX)
			v->dispi[index] = value & 0xfff8;
		break;
	case DISPI_YRES:
		if (!enabled && value <= YRES_MAX)
			v->dispi[index] = value;
		break;
	case DISPI_BPP:
		if (!value)
			value = 8;
		if (!enabled && (value == 4 || value == 8 || value == 15 || value == 16 || value == 24 || value == 32))
			v->dispi[index] = value;
		break;
	case DISPI_ENABLE: enable(v, value); break;
	case DISPI_BANK:
		if (value < VGA_MEMORY / 65536)
			v->dispi[index] = value;
		break;
	case DISPI_VIRT_WIDTH: set_virtual_width(v, value); break;
	case DISPI_X_OFFSET:
		if (value <= v->dispi[DISPI_VIRT_WIDTH] - v->dispi[DISPI_XRES])
			v->dispi[index] = value;
		break;
	case DISPI_Y_OFFSET:
		if (value <= v->dispi[DISPI_VIRT_HEIGHT] - v->dispi[DISPI_YRES])
			v->dispi[index] = value;
		break;
	default: return;
	}
	vga_touch(v);
}

void vga_dispi_reset(struct vga *v)
{
	for (unsigned i = 0; i < DISPI_COUNT; i++)
		v->dispi[i] = 0;
	v->dispi[DISPI_ID] = ID_LAST;
	v->dispi[DISPI_BPP] = 8;
	v->dispi_index = 0;
}
