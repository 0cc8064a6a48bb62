/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the VGA. */
#ifndef VMM_DEVICE_VGA_PARTS_H
#define VMM_DEVICE_VGA_PARTS_H

#include "device/vga.h"

#define SEQ_COUNT 5
#define CRTC_COUNT 25
#define GFX_COUNT 9
#define ATTR_COUNT 21
#define DAC_COUNT 256

enum { SEQ_RESET, SEQ_CLOCKING, SEQ_MAP_MASK, SEQ_CHARACTER_MAP, SEQ_MEMORY_MODE };
#define SEQ_CLOCKING_BLANK 0x20
#define SEQ_MEMORY_SEQUENTIAL 0x04 /* else odd/even */
#define SEQ_MEMORY_CHAIN4 0x08

enum {
	GFX_SET_RESET,
	GFX_ENABLE_SET_RESET,
	GFX_COLOR_COMPARE,
	GFX_ROTATE,
	GFX_READ_MAP,
	GFX_MODE,
	GFX_MISC,
	GFX_COLOR_DONT_CARE,
	GFX_BIT_MASK,
};
#define GFX_MODE_READ1 0x08
#define GFX_MODE_ODD_EVEN 0x10
#define GFX_MISC_GRAPHICS 0x01

enum {
	CRTC_H_DISPLAY_END = 0x01,
	CRTC_OVERFLOW = 0x07,
	CRTC_SCAN_LINES = 0x09,
	CRTC_CURSOR_START = 0x0a,
	CRTC_CURSOR_END = 0x0b,
	CRTC_START_HIGH = 0x0c,
	CRTC_START_LOW = 0x0d,
	CRTC_CURSOR_HIGH = 0x0e,
	CRTC_CURSOR_LOW = 0x0f,
	CRTC_V_RETRACE_END = 0x11,
	CRTC_V_DISPLAY_END = 0x12,
	CRTC_OFFSET = 0x13,
};
#define CRTC_PROTECT 0x80 /* of CRTC_V_RETRACE_END: registers 0 to 7 */
#define CRTC_CURSOR_OFF 0x20
#define CRTC_DOUBLE_SCAN 0x80

enum { ATTR_MODE = 0x10 };
#define ATTR_MODE_BLINK 0x08
#define ATTR_ENABLE_VIDEO 0x20 /* of the index */

#define MISC_COLOR 0x01 /* ports 3dx, else 3bx */
#define MISC_RAM 0x02

/* Bochs VBE extension, version 5 */
enum {
	DISPI_ID,
	DISPI_XRES,
	DISPI_YRES,
	DISPI_BPP,
	DISPI_ENABLE,
	DISPI_BANK,
	DISPI_VIRT_WIDTH,
	DISPI_VIRT_HEIGHT,
	DISPI_X_OFFSET,
	DISPI_Y_OFFSET,
	DISPI_MEMORY,
	DISPI_COUNT,
};
#define DISPI_ENABLED 0x01
#define DISPI_GETCAPS 0x02
#define DISPI_8BIT_DAC 0x20
#define DISPI_NOCLEARMEM 0x80

struct vga {
	struct device dev;
	uint8_t misc, feature, status1;
	uint8_t seq_index, seq[SEQ_COUNT];
	uint8_t crtc_index, crtc[CRTC_COUNT];
	uint8_t gfx_index, gfx[GFX_COUNT];
	uint8_t attr_index, attr[ATTR_COUNT];
	bool attr_data; /* the next write to 0x3c0 is data */
	uint8_t dac[DAC_COUNT * 3], dac_mask;
	uint8_t dac_read, dac_write, dac_part, dac_state; /* state: what port 0x3c7 says */
	uint8_t dac_latch[3];
	uint16_t dispi_index, dispi[DISPI_COUNT];
	uint32_t latch;
	uint8_t *memory; /* VGA_MEMORY bytes; plane p of an address a is byte 4 * a + p */
	bool dirty;      /* told, and not yet looked at */
	void (*changed)(void *ctx);
	void *changed_ctx;
};

static inline void vga_touch(struct vga *v)
{
	if (v->dirty)
		return;
	v->dirty = true;
	if (v->changed)
		v->changed(v->changed_ctx);
}

/* All with the device locked. offset: from VGA_WINDOW_BASE. */
uint8_t vga_window_read(struct vga *v, uint32_t offset);
void vga_window_write(struct vga *v, uint32_t offset, uint8_t value);
uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);
uint16_t vga_dispi_read(struct vga *v, unsigned index);
void vga_dispi_write(struct vga *v, unsigned index, uint16_t value);
void vga_dispi_reset(struct vga *v);
void vga_set_mode3(struct vga *v);

#endif
