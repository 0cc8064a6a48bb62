/* SPDX-License-Identifier: Apache-2.0 */
/* What the CRT controller would put on the screen. */
#include <string.h>

#include "base/compiler.h"
#include "device/vga_parts.h"

static unsigned crtc16(const struct vga *v, unsigned high)
{
	return (unsigned)v->crtc[high] << 8 | v->crtc[high + 1];
}

/* Lines on the screen, from the CRT controller's vertical display end. */
static unsigned scan_lines(const struct vga *v)
{
	unsigned overflow = v->crtc[CRTC_OVERFLOW];

	return (v->crtc[CRTC_V_DISPLAY_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1u;
}

static void graphics_screen(const struct vga *v, struct vga_screen *s)
{
	if (v->dispi[DISPI_ENABLE] & DISPI_ENABLED) {
		s->width = v->dispi[DISPI_XRES];
		s->height = v->dispi[DISPI_YRES];
		return;
	}
	s->width = (v->crtc[CRTC_H_DISPLAY_END] + 1u) * 8;
	s->height = scan_lines(v) / ((v->crtc[CRTC_SCAN_LINES] & 0x1f) + 1u);
}

static void text_screen(const struct vga *v, struct vga_screen *s)
{
	unsigned lines = (v->crtc[CRTC_SCAN_LINES] & 0x1f) + 1u, start = crtc16(v, CRTC_START_HIGH);
	unsigned pitch = v->crtc[CRTC_OFFSET] * 2u, cursor = crtc16(v, CRTC_CURSOR_HIGH) - start;
	bool off = !(v->attr_index & ATTR_ENABLE_VIDEO) || v->seq[SEQ_CLOCKING] & SEQ_CLOCKING_BLANK;

	s->text = true;
	s->width = v->crtc[CRTC_H_DISPLAY_END] + 1u;
	s->height = scan_lines(v) / (v->crtc[CRTC_SCAN_LINES] & CRTC_DOUBLE_SCAN ? 2 * lines : lines);
	if (s->width > VGA_COLUMNS_MAX)
		s->width = VGA_COLUMNS_MAX;
	if (s->height > VGA_ROWS_MAX)
		s->height = VGA_ROWS_MAX;
	for (unsigned y = 0; y < s->height; y++)
		for (unsigned x = 0; x < s->width; x++) {
			const uint8_t *cell = v->memory + 4 * ((start + y * pitch + x) & 0xffff);

			s->cell[y * s->width + x] = off ? ' ' : (uint16_t)(cell[0] | cell[1] << 8);
		}
	s->blink = v->attr[ATTR_MODE] & ATTR_MODE_BLINK;
	if (pitch && cursor < pitch * s->height && cursor % pitch < s->width) {
		s->cursor_x = cursor % pitch;
		s->cursor_y = cursor / pitch;
		s->cursor = !off && !(v->crtc[CRTC_CURSOR_START] & CRTC_CURSOR_OFF) &&
			    (v->crtc[CRTC_CURSOR_START] & 0x1f) <= (v->crtc[CRTC_CURSOR_END] & 0x1f);
	}
}

void vga_get_screen(struct device *dev, struct vga_screen *s)
{
	struct vga *v = container_of(dev, struct vga, dev);

	memset(s, 0, offsetof(struct vga_screen, cell));
	s->blink = s->cursor = false;
	s->cursor_x = s->cursor_y = 0;
	device_lock(dev);
	v->dirty = false;
	if (v->gfx[GFX_MISC] & GFX_MISC_GRAPHICS || v->dispi[DISPI_ENABLE] & DISPI_ENABLED)
		graphics_screen(v, s);
	else
		text_screen(v, s);
	device_unlock(dev);
}
