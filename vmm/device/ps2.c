/* SPDX-License-Identifier: Apache-2.0 */
#include "device/ps2.h"

#include <string.h>

#define CMD_LEDS 0xed
#define CMD_ECHO 0xee
#define CMD_SCAN_SET 0xf0
#define CMD_IDENTIFY 0xf2
#define CMD_RATE 0xf3
#define CMD_ENABLE 0xf4
#define CMD_DISABLE 0xf5
#define CMD_DEFAULTS 0xf6
#define CMD_ALL_TYPEMATIC 0xf7 /* ..0xfa: key types, for set 3 only */
#define CMD_ALL_TYPES_END 0xfa
#define CMD_RESEND 0xfe
#define CMD_RESET 0xff

#define ACK 0xfa
#define RESEND 0xfe
#define BAT_OK 0xaa
#define BREAK_SET2 0xf0
#define BREAK_SET1 0x80
#define PREFIX 0xe0

#define KEY_F7 0x41
#define KEY_SYSRQ 0x54
#define SET2_F7 0x83
#define SET2_SYSRQ 0x84

/* Set 1 by set 2: what the 8042's translation makes of each code (IBM Technical Reference). */
static const uint8_t set1_of[128] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 00 */
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 10 */
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 20 */
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 30 */
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 40 */
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 50 */
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 60 */
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 70 */
};

static uint8_t to_set1(uint8_t value)
{
	switch (value) {
	case SET2_F7: return KEY_F7;
	case SET2_SYSRQ: return KEY_SYSRQ;
	default: return value < 128 ? set1_of[value] : value;
	}
}

static uint8_t to_set2(uint8_t key)
{
	if (key == KEY_F7)
		return SET2_F7;
	if (key == KEY_SYSRQ)
		return SET2_SYSRQ;
	for (unsigned i = 1; i < 128; i++)
		if (set1_of[i] == key)
			return (uint8_t)i;
	return 0;
}

bool ps2_translate(uint8_t value, bool *break_code, uint8_t *translated)
{
	if (value == BREAK_SET2) {
		*break_code = true;
		return false;
	}
	*translated = (uint8_t)(to_set1(value) | (*break_code ? BREAK_SET1 : 0));
	*break_code = false;
	return true;
}

static void put(struct ps2_keyboard *k, uint8_t value)
{
	if (k->count < PS2_QUEUE)
		k->queue[(k->head + k->count++) % PS2_QUEUE] = value;
}

bool ps2_keyboard_take(struct ps2_keyboard *k, uint8_t *value)
{
	if (!k->count)
		return false;
	*value = k->last = k->queue[k->head];
	k->head = (k->head + 1) % PS2_QUEUE;
	k->count--;
	return true;
}

static void set_defaults(struct ps2_keyboard *k)
{
	k->set = 2;
	k->command = 0;
}

void ps2_keyboard_init(struct ps2_keyboard *k)
{
	memset(k, 0, sizeof(*k));
	set_defaults(k);
	k->scanning = true;
}

static void parameter(struct ps2_keyboard *k, uint8_t value)
{
	uint8_t command = k->command;

	k->command = 0;
	if (command != CMD_SCAN_SET) { /* lamps and repeat rate: there is nobody to see them */
		put(k, ACK);
		return;
	}
	if (value > 2) {
		put(k, RESEND); /* set 3 does not exist here */
		k->command = command;
		return;
	}
	put(k, ACK);
	if (value)
		k->set = value;
	else
		put(k, k->set);
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t value)
{
	if (value == CMD_RESEND) {
		put(k, k->last);
		return;
	}
	/* A command ends what came before it; what was typed meanwhile is dropped with it. */
	if (k->command && value < CMD_LEDS) {
		parameter(k, value);
		return;
	}
	k->command = 0;
	k->count = 0;
	switch (value) {
	case CMD_ECHO: put(k, CMD_ECHO); return;
	case CMD_LEDS:
	case CMD_RATE:
	case CMD_SCAN_SET: k->command = value; break;
	case CMD_IDENTIFY:
		put(k, ACK);
		put(k, 0xab);
		put(k, 0x83); /* an MF2 keyboard */
		return;
	case CMD_ENABLE: k->scanning = true; break;
	case CMD_DISABLE:
		set_defaults(k);
		k->scanning = false;
		break;
	case CMD_DEFAULTS: set_defaults(k); break;
	case CMD_ALL_TYPEMATIC ... CMD_ALL_TYPES_END: break;
	case CMD_RESET:
		set_defaults(k);
		k->scanning = true;
		put(k, ACK);
		put(k, BAT_OK);
		return;
	default: put(k, RESEND); return;
	}
	put(k, ACK);
}

bool ps2_keyboard_key(struct ps2_keyboard *k, uint16_t key, bool down)
{
	uint8_t code = key & 0x7f;

	if (!k->scanning)
		return true;              /* as lost as on a keyboard that was told to be quiet */
	if (k->count + 3 > PS2_QUEUE / 2) /* the rest is for answers */
		return false;
	if (k->set == 2)
		code = to_set2(code);
	if (!code)
		return true;
	if (key & PS2_EXTENDED)
		put(k, PREFIX);
	if (k->set == 2) {
		if (!down)
			put(k, BREAK_SET2);
	} else if (!down) {
		code |= BREAK_SET1;
	}
	put(k, code);
	return true;
}
