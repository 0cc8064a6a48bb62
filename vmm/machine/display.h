/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's screen and keyboard on the user's terminal (--display curses). Stays over resets of the machine, as the
 * terminal does; the VGA and the keyboard come and go with it.
 */
#ifndef VMM_MACHINE_DISPLAY_H
#define VMM_MACHINE_DISPLAY_H

#include "device/device.h"

struct display;

/* quit: the user typed Ctrl-A x; thread: the display's. 0; or -errno with a message. Thread: main, as all below. */
int display_open(void (*quit)(void *ctx), void *ctx, struct display **display);
/* Gives the terminal back, with what was said meanwhile. Detached before. NULL is allowed. */
void display_close(struct display *display);

void display_attach(struct display *display, struct device *vga, struct device *keyboard);
void display_detach(struct display *display);

/* Something to say in the screen's last line; NULL: nothing any more. The text stays the caller's, for ever. */
void display_note(struct display *display, const char *note);

/* ---- for display.c and its test ---- */

/* What a key on the terminal is on a PC's keyboard (US layout). */
struct display_key {
	uint16_t code; /* of i8042_key(); 0: none */
	bool shift, control, alt;
};
/* key: a character, or a key code of curses where `function` is set. */
struct display_key display_key_of(unsigned key, bool function);
/* Code page 437 to Unicode; the second without anything beyond ASCII. */
extern const uint16_t display_unicode[256];
char display_ascii(uint8_t character);

#endif
