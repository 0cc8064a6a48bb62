/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VGA (IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem") with the Bochs VBE extension ("dispi") for
 * linear modes, as the PCI device 1234:1111 that firmware and operating systems know.
 */
#ifndef VMM_DEVICE_VGA_H
#define VMM_DEVICE_VGA_H

#include "device/device.h"

#define VGA_MEMORY (16u << 20)
#define VGA_WINDOW_BASE 0xa0000u
#define VGA_WINDOW_SIZE 0x20000u
#define VGA_PORT_BASE 0x3b0
#define VGA_PORT_COUNT 0x30
#define VGA_DISPI_PORT 0x1ce
#define VGA_DISPI_PORT_COUNT 4

/* Regions of the device on the machine's buses. */
enum { VGA_PORTS, VGA_WINDOW, VGA_DISPI };

/* In text mode 3 (80 by 25), as a video BIOS leaves it. NULL with errno. */
struct device *vga_create(void);

struct pci_bus;
/* The PCI function of this VGA, a device of its own (BAR 0: memory, BAR 2: registers). NULL with errno. The VGA is
 * destroyed later. */
struct device *vga_pci_create(struct device *vga, struct pci_bus *bus);

#define VGA_COLUMNS_MAX 160
#define VGA_ROWS_MAX 64

/* What is to be seen. */
struct vga_screen {
	bool text;
	unsigned width, height;                        /* in characters, or in pixels */
	uint16_t cell[VGA_ROWS_MAX * VGA_COLUMNS_MAX]; /* width a row: character in code page 437, attribute above */
	bool blink; /* bit 7 of an attribute blinks, else it is a bright background */
	bool cursor;
	unsigned cursor_x, cursor_y;
};
/* Also takes the change as seen: the next one is told again. Thread: any; the device is not locked. */
void vga_get_screen(struct device *vga, struct vga_screen *screen);
/*
 * changed() is called when something changed that vga_get_screen() has not given yet; NULL: no more. Thread: main;
 * changed()'s thread: a vCPU's, device locked: it only notes it.
 */
void vga_watch(struct device *vga, void (*changed)(void *ctx), void *ctx);

#endif
