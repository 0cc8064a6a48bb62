/* SPDX-License-Identifier: Apache-2.0 */
/* The registers, and the device. Memory: vga_memory.c; the dispi registers: vga_dispi.c; what is seen: vga_screen.c. */
#include "device/vga.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/compiler.h"
#include "device/vga_parts.h"

/* Ports, colour addresses. */
enum {
	PORT_ATTR = 0x3c0,
	PORT_ATTR_READ = 0x3c1,
	PORT_MISC = 0x3c2, /* read: input status 0 */
	PORT_SEQ_INDEX = 0x3c4,
	PORT_SEQ = 0x3c5,
	PORT_DAC_MASK = 0x3c6,
	PORT_DAC_READ = 0x3c7, /* read: state */
	PORT_DAC_WRITE = 0x3c8,
	PORT_DAC = 0x3c9,
	PORT_FEATURE_READ = 0x3ca,
	PORT_MISC_READ = 0x3cc,
	PORT_GFX_INDEX = 0x3ce,
	PORT_GFX = 0x3cf,
	PORT_CRTC_INDEX = 0x3d4,
	PORT_CRTC = 0x3d5,
	PORT_STATUS1 = 0x3da, /* write: feature control */
};

#define STATUS0_SWITCH 0x10
#define STATUS1_DISABLED 0x01
#define STATUS1_RETRACE 0x08
#define DAC_STATE_READ 3

/* Bits that exist; the rest read 0. */
static const uint8_t seq_bits[SEQ_COUNT] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
static const uint8_t gfx_bits[GFX_COUNT] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };
static const uint8_t attr_bits[ATTR_COUNT] = {
	0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
	0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f,
};

/* The CRTC and status 1 are at 3dx or 3bx, as the misc register says: their colour address, or 0 for the other one. */
static unsigned color_port(const struct vga *v, unsigned port)
{
	bool mono = (port & 0xff0) == 0x3b0;

	if ((port & 0xff0) == 0x3c0)
		return port;
	return mono == !(v->misc & MISC_COLOR) ? 0x3d0 | (port & 0xf) : 0;
}

static uint8_t dac_data_read(struct vga *v)
{
	uint8_t value = v->dac[v->dac_read * 3 + v->dac_part];

	if (++v->dac_part == 3) {
		v->dac_part = 0;
		v->dac_read++;
	}
	return value;
}

/* The three parts of a colour take effect together. */
static void dac_data_write(struct vga *v, uint8_t value)
{
	v->dac_latch[v->dac_part] = v->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC ? value : value & 0x3f;
	if (++v->dac_part == 3) {
		memcpy(&v->dac[v->dac_write * 3], v->dac_latch, 3);
		v->dac_part = 0;
		v->dac_write++;
		vga_touch(v);
	}
}

/* Retrace and blanking come with every look: who waits for them waits for a change, not for a time. */
static uint8_t status1(struct vga *v)
{
	v->attr_data = false;
	v->status1 ^= STATUS1_DISABLED | STATUS1_RETRACE;
	return v->status1;
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
	switch (color_port(v, port)) {
	case PORT_ATTR: return v->attr_index;
	case PORT_ATTR_READ: return (v->attr_index & 0x1f) < ATTR_COUNT ? v->attr[v->attr_index & 0x1f] : 0;
	case PORT_MISC: return STATUS0_SWITCH;
	case PORT_SEQ_INDEX: return v->seq_index;
	case PORT_SEQ: return v->seq_index < SEQ_COUNT ? v->seq[v->seq_index] : 0;
	case PORT_DAC_MASK: return v->dac_mask;
	case PORT_DAC_READ: return v->dac_state;
	case PORT_DAC_WRITE: return v->dac_write;
	case PORT_DAC: return dac_data_read(v);
	case PORT_FEATURE_READ: return v->feature;
	case PORT_MISC_READ: return v->misc;
	case PORT_GFX_INDEX: return v->gfx_index;
	case PORT_GFX: return v->gfx_index < GFX_COUNT ? v->gfx[v->gfx_index] : 0;
	case PORT_CRTC_INDEX: return v->crtc_index;
	case PORT_CRTC: return v->crtc_index < CRTC_COUNT ? v->crtc[v->crtc_index] : 0;
	case PORT_STATUS1: return status1(v);
	default: return 0xff;
	}
}

static void attr_write(struct vga *v, uint8_t value)
{
	unsigned i = v->attr_index & 0x1f;

	v->attr_data = !v->attr_data;
	if (v->attr_data)
		v->attr_index = value & 0x3f;
	else if (i < ATTR_COUNT && (i >= ATTR_MODE || !(v->attr_index & ATTR_ENABLE_VIDEO)))
		v->attr[i] = value & attr_bits[i]; /* the palette is the display's while it is on */
}

static void crtc_write(struct vga *v, uint8_t value)
{
	unsigned i = v->crtc_index;
	bool protected = v->crtc[CRTC_V_RETRACE_END] & CRTC_PROTECT;

	if (i >= CRTC_COUNT)
		return;
	if (protected && i == CRTC_OVERFLOW) /* but for the line compare bit */
		v->crtc[i] = (uint8_t)((v->crtc[i] & ~0x10) | (value & 0x10));
	else if (!protected || i > CRTC_OVERFLOW)
		v->crtc[i] = value;
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
	switch (color_port(v, port)) {
	case PORT_ATTR: attr_write(v, value); break;
	case PORT_MISC: v->misc = value & 0xef; break;
	case PORT_SEQ_INDEX: v->seq_index = value & 7; return;
	case PORT_SEQ:
		if (v->seq_index < SEQ_COUNT)
			v->seq[v->seq_index] = value & seq_bits[v->seq_index];
		break;
	case PORT_DAC_MASK: v->dac_mask = value; break;
	case PORT_DAC_READ:
		v->dac_read = value;
		v->dac_part = 0;
		v->dac_state = DAC_STATE_READ;
		return;
	case PORT_DAC_WRITE:
		v->dac_write = value;
		v->dac_part = 0;
		v->dac_state = 0;
		return;
	case PORT_DAC: dac_data_write(v, value); return;
	case PORT_GFX_INDEX: v->gfx_index = value & 0xf; return;
	case PORT_GFX:
		if (v->gfx_index < GFX_COUNT)
			v->gfx[v->gfx_index] = value & gfx_bits[v->gfx_index];
		return; /* how memory is accessed, which does not show; but for GFX_MISC, which comes with others */
	case PORT_CRTC_INDEX: v->crtc_index = value & 0x1f; return;
	case PORT_CRTC: crtc_write(v, value); break;
	case PORT_STATUS1: v->feature = value & 3; return;
	default: return;
	}
	vga_touch(v);
}

/* ---- mode 3, as a video BIOS sets it ---- */

static const uint8_t mode3_seq[SEQ_COUNT] = { 0x03, 0x00, 0x03, 0x00, 0x02 };
static const uint8_t mode3_crtc[CRTC_COUNT] = {
	0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00,
	0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
};
static const uint8_t mode3_gfx[GFX_COUNT] = { 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff };
static const uint8_t mode3_attr[ATTR_COUNT] = {
	0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a,
	0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00,
};

/* The 64 colours of the EGA: a strong and a weak bit for red, green, blue. */
static void default_palette(uint8_t *dac)
{
	for (unsigned i = 0; i < 64; i++)
		for (unsigned part = 0; part < 3; part++) {
			unsigned strong = i >> (2 - part) & 1, weak = i >> (5 - part) & 1;

			dac[i * 3 + part] = (uint8_t)(strong * 0x2a + weak * 0x15);
		}
}

void vga_set_mode3(struct vga *v)
{
	memcpy(v->seq, mode3_seq, sizeof(v->seq));
	memcpy(v->crtc, mode3_crtc, sizeof(v->crtc));
	memcpy(v->gfx, mode3_gfx, sizeof(v->gfx));
	memcpy(v->attr, mode3_attr, sizeof(v->attr));
	memset(v->dac, 0, sizeof(v->dac));
	default_palette(v->dac);
	v->misc = 0x67;
	v->dac_mask = 0xff;
	v->attr_index = ATTR_ENABLE_VIDEO;
	/* Blanks, grey on black. */
	for (unsigned i = 0; i < 0x4000; i++) {
		v->memory[4 * i] = ' ';
		v->memory[4 * i + 1] = 0x07;
	}
}

/* ---- the device ---- */

static uint64_t vga_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct vga *v = container_of(dev, struct vga, dev);
	uint64_t value = 0;

	if (region == VGA_DISPI)
		return offset ? vga_dispi_read(v, v->dispi_index) : v->dispi_index;
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = region == VGA_WINDOW ? vga_window_read(v, (uint32_t)offset + i)
						    : vga_port_read(v, VGA_PORT_BASE + (unsigned)offset + i);

		value |= (uint64_t)byte << (8 * i);
	}
	return value;
}

static void vga_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *v = container_of(dev, struct vga, dev);

	if (region == VGA_DISPI) {
		if (offset)
			vga_dispi_write(v, v->dispi_index, (uint16_t)value);
		else
			v->dispi_index = (uint16_t)value;
		return;
	}
	for (unsigned i = 0; i < size; i++, value >>= 8)
		if (region == VGA_WINDOW)
			vga_window_write(v, (uint32_t)offset + i, (uint8_t)value);
		else
			vga_port_write(v, VGA_PORT_BASE + (unsigned)offset + i, (uint8_t)value);
}

static void vga_reset(struct device *dev)
{
	struct vga *v = container_of(dev, struct vga, dev);

	v->feature = v->status1 = v->seq_index = v->crtc_index = v->gfx_index = 0;
	v->attr_data = false;
	v->dac_read = v->dac_write = v->dac_part = v->dac_state = 0;
	v->latch = 0;
	vga_dispi_reset(v);
	madvise(v->memory, VGA_MEMORY, MADV_DONTNEED); /* zeros, and no host memory */
	vga_set_mode3(v);
	vga_touch(v);
}

static void vga_destroy(struct device *dev)
{
	struct vga *v = container_of(dev, struct vga, dev);

	munmap(v->memory, VGA_MEMORY);
	device_fini(dev);
	free(v);
}

static const struct device_ops vga_ops = {
	.name = "vga",
	.min_size = 1,
	.max_size = 8,
	.reset = vga_reset,
	.read = vga_read,
	.write = vga_write,
	.destroy = vga_destroy,
};

struct device *vga_create(void)
{
	struct vga *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->memory = mmap(NULL, VGA_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v->memory == MAP_FAILED) {
		free(v);
		return NULL;
	}
	device_init(&v->dev, &vga_ops);
	vga_reset(&v->dev);
	return &v->dev;
}

void vga_watch(struct device *dev, void (*changed)(void *ctx), void *ctx)
{
	struct vga *v = container_of(dev, struct vga, dev);

	device_lock(dev);
	v->changed = changed;
	v->changed_ctx = ctx;
	v->dirty = false;
	vga_touch(v);
	device_unlock(dev);
}
