/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboard"): commands, scan code sets 1 and 2. Part
 * of the keyboard controller's state, under its lock.
 */
#ifndef VMM_DEVICE_PS2_H
#define VMM_DEVICE_PS2_H

#include <stdbool.h>
#include <stdint.h>

#define PS2_QUEUE 32 /* bytes, a power of two */

struct ps2_keyboard {
	uint8_t queue[PS2_QUEUE];
	unsigned head, count;
	uint8_t last;    /* sent, for "resend" */
	uint8_t command; /* waits for its parameter; 0: none */
	uint8_t set;     /* scan codes: 1 or 2 */
	bool scanning;
};

/* Keys by their set 1 code; those with the prefix e0 have this bit as well. */
#define PS2_EXTENDED 0x100

void ps2_keyboard_init(struct ps2_keyboard *k);
/* A byte from the host; the answer goes to the queue. */
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t value);
/* False: there is no room for the scan code, ask again. */
bool ps2_keyboard_key(struct ps2_keyboard *k, uint16_t key, bool down);
/* The next byte for the host. False: none. */
bool ps2_keyboard_take(struct ps2_keyboard *k, uint8_t *value);

/* Set 2 to set 1, as the controller's translation does it, byte by byte. *break_code is kept between calls. False: no
 * byte comes of it. */
bool ps2_translate(uint8_t value, bool *break_code, uint8_t *translated);

#endif
