/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 8042 keyboard controller (IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller") without an
 * auxiliary port, and port 0x92. What a PC's software wants of it: self-test, the command byte, the A20 and reset
 * lines, and a keyboard where one is plugged in. A byte sent to an absent keyboard is answered at once by the
 * controller's time-out.
 */
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/models.h"
#include "device/ps2.h"

enum { REGION_DATA, REGION_COMMAND, REGION_PORT92 };

#define STATUS_OBF 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08 /* the last write went to 0x64 */
#define STATUS_UNLOCKED 0x10
#define STATUS_TIMEOUT 0x40

#define CTR_IRQ1 0x01
#define CTR_SYSTEM 0x04
#define CTR_KBD_DISABLE 0x10
#define CTR_AUX_DISABLE 0x20
#define CTR_TRANSLATE 0x40

#define CMD_READ_RAM 0x20 /* ..0x3f; 0x20 is the command byte */
#define CMD_WRITE_RAM 0x60
#define CMD_AUX_DISABLE 0xa7
#define CMD_AUX_ENABLE 0xa8
#define CMD_AUX_TEST 0xa9
#define CMD_SELF_TEST 0xaa
#define CMD_KBD_TEST 0xab
#define CMD_KBD_DISABLE 0xad
#define CMD_KBD_ENABLE 0xae
#define CMD_READ_INPUT 0xc0
#define CMD_READ_OUTPUT 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_WRITE_KBD_BUFFER 0xd2
#define CMD_WRITE_AUX_BUFFER 0xd3
#define CMD_WRITE_AUX 0xd4
#define CMD_A20_OFF 0xdd
#define CMD_A20_ON 0xdf
#define CMD_PULSE 0xf0 /* ..0xff: a clear bit pulses that output line; bit 0 is reset */

#define SELF_TEST_OK 0x55
#define AUX_CLOCK_LOW 0x01 /* what CMD_AUX_TEST says without an auxiliary port */
#define INPUT_UNLOCKED 0x80
#define OUTPUT_RESET 0x01 /* active low */
#define OUTPUT_A20 0x02
#define OUTPUT_OBF 0x10
#define KBD_RESEND 0xfe

#define PORT92_RESET 0x01
#define PORT92_A20 0x02

struct i8042 {
	struct device dev;
	struct irq_line irq1;
	struct machine_control control;
	uint8_t status;
	uint8_t ram[32]; /* [0]: the command byte */
	uint8_t output_port;
	uint8_t data;    /* the output buffer */
	uint8_t command; /* waits for its data byte; 0: none */
	uint8_t port92;
	bool irq_level;
	bool has_keyboard;
	bool break_code; /* of the translation */
	struct ps2_keyboard keyboard;
};

static void update_irq(struct i8042 *k)
{
	bool level = (k->status & STATUS_OBF) && (k->ram[0] & CTR_IRQ1);

	if (level != k->irq_level) {
		k->irq_level = level;
		irq_line_set(&k->irq1, level);
	}
}

static void put_data(struct i8042 *k, uint8_t data, uint8_t extra_status)
{
	k->data = data;
	k->status = (uint8_t)((k->status & ~STATUS_TIMEOUT) | STATUS_OBF | extra_status);
}

/* The keyboard sends while the output buffer is free and its clock line is not held. */
static void pump_keyboard(struct i8042 *k)
{
	uint8_t value;

	while (k->has_keyboard && !(k->status & STATUS_OBF) && !(k->ram[0] & CTR_KBD_DISABLE) &&
	       ps2_keyboard_take(&k->keyboard, &value))
		if (!(k->ram[0] & CTR_TRANSLATE) || ps2_translate(value, &k->break_code, &value))
			put_data(k, value, 0);
}

static void request_reset(struct i8042 *k)
{
	k->control.request(k->control.ctx, MACHINE_RESET, 0);
}

static void set_a20(struct i8042 *k, bool on)
{
	k->output_port = (uint8_t)((k->output_port & ~OUTPUT_A20) | (on ? OUTPUT_A20 : 0));
	k->port92 = (uint8_t)((k->port92 & ~PORT92_A20) | (on ? PORT92_A20 : 0));
}

static void write_output_port(struct i8042 *k, uint8_t value)
{
	k->output_port = value | OUTPUT_RESET;
	set_a20(k, value & OUTPUT_A20);
	if (!(value & OUTPUT_RESET))
		request_reset(k);
}

static void self_test(struct i8042 *k)
{
	k->ram[0] = CTR_SYSTEM | CTR_KBD_DISABLE | CTR_AUX_DISABLE | CTR_TRANSLATE;
	k->status |= STATUS_SYSTEM;
	put_data(k, SELF_TEST_OK, 0);
}

static void write_command(struct i8042 *k, uint8_t command)
{
	k->status |= STATUS_COMMAND;
	k->command = 0;
	switch (command) {
	case CMD_READ_RAM ... CMD_READ_RAM + 0x1f: put_data(k, k->ram[command & 0x1f], 0); break;
	case CMD_AUX_DISABLE: k->ram[0] |= CTR_AUX_DISABLE; break;
	case CMD_AUX_ENABLE: k->ram[0] &= (uint8_t)~CTR_AUX_DISABLE; break;
	case CMD_AUX_TEST: put_data(k, AUX_CLOCK_LOW, 0); break;
	case CMD_SELF_TEST: self_test(k); break;
	case CMD_KBD_TEST: put_data(k, 0, 0); break;
	case CMD_KBD_DISABLE: k->ram[0] |= CTR_KBD_DISABLE; break;
	case CMD_KBD_ENABLE: k->ram[0] &= (uint8_t)~CTR_KBD_DISABLE; break;
	case CMD_READ_INPUT: put_data(k, INPUT_UNLOCKED, 0); break;
	case CMD_READ_OUTPUT: put_data(k, k->output_port | (k->status & STATUS_OBF ? OUTPUT_OBF : 0), 0); break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
	case CMD_WRITE_OUTPUT:
	case CMD_WRITE_KBD_BUFFER:
	case CMD_WRITE_AUX_BUFFER:
	case CMD_WRITE_AUX: k->command = command; break;
	case CMD_A20_OFF: set_a20(k, false); break;
	case CMD_A20_ON: set_a20(k, true); break;
	case CMD_PULSE ... 0xff:
		if (!(command & OUTPUT_RESET))
			request_reset(k);
		break;
	default: break;
	}
}

static void write_data(struct i8042 *k, uint8_t value)
{
	uint8_t command = k->command;

	k->status &= (uint8_t)~STATUS_COMMAND;
	k->command = 0;
	switch (command) {
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
		k->ram[command & 0x1f] = value;
		if (command == CMD_WRITE_RAM)
			k->status = (uint8_t)((k->status & ~STATUS_SYSTEM) | (value & CTR_SYSTEM));
		break;
	case CMD_WRITE_OUTPUT: write_output_port(k, value); break;
	case CMD_WRITE_KBD_BUFFER:
	case CMD_WRITE_AUX_BUFFER: put_data(k, value, 0); break; /* never marked as auxiliary: there is no such port */
	case CMD_WRITE_AUX: put_data(k, KBD_RESEND, STATUS_TIMEOUT); break;
	default:
		k->ram[0] &= (uint8_t)~CTR_KBD_DISABLE; /* sending enables the interface */
		if (k->has_keyboard)
			ps2_keyboard_write(&k->keyboard, value);
		else
			put_data(k, KBD_RESEND, STATUS_TIMEOUT);
	}
}

static void write_port92(struct i8042 *k, uint8_t value)
{
	bool reset = (value & PORT92_RESET) && !(k->port92 & PORT92_RESET);

	k->port92 = value & (PORT92_RESET | PORT92_A20);
	set_a20(k, value & PORT92_A20);
	if (reset)
		request_reset(k);
}

static uint64_t i8042_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);
	uint8_t data;

	(void)offset;
	(void)size;
	switch (region) {
	case REGION_DATA:
		k->status &= (uint8_t) ~(STATUS_OBF | STATUS_TIMEOUT);
		data = k->data;
		update_irq(k); /* the line falls before it rises for the next byte */
		pump_keyboard(k);
		update_irq(k);
		return data;
	case REGION_COMMAND: return k->status;
	default: return k->port92;
	}
}

static void i8042_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);

	(void)offset;
	(void)size;
	switch (region) {
	case REGION_DATA: write_data(k, (uint8_t)value); break;
	case REGION_COMMAND: write_command(k, (uint8_t)value); break;
	default: write_port92(k, (uint8_t)value); break;
	}
	pump_keyboard(k);
	update_irq(k);
}

static void i8042_reset(struct device *dev)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);

	/* As firmware leaves it: self-test passed, A20 open. */
	memset(k->ram, 0, sizeof(k->ram));
	k->ram[0] = CTR_SYSTEM | CTR_KBD_DISABLE | CTR_AUX_DISABLE | CTR_TRANSLATE;
	k->status = STATUS_UNLOCKED | STATUS_SYSTEM;
	k->output_port = OUTPUT_RESET | OUTPUT_A20;
	k->port92 = PORT92_A20;
	k->data = 0;
	k->command = 0;
	k->break_code = false;
	ps2_keyboard_init(&k->keyboard);
	update_irq(k);
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);

	device_fini(dev);
	free(k);
}

static const struct device_ops i8042_ops = {
	.name = "i8042",
	.min_size = 1,
	.max_size = 1,
	.reset = i8042_reset,
	.read = i8042_read,
	.write = i8042_write,
	.destroy = i8042_destroy,
};

struct device *i8042_create(struct irq_line irq1, struct machine_control control)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	device_init(&k->dev, &i8042_ops);
	k->irq1 = irq1;
	k->control = control;
	i8042_reset(&k->dev);
	return &k->dev;
}

void i8042_plug_keyboard(struct device *dev)
{
	container_of(dev, struct i8042, dev)->has_keyboard = true;
}

bool i8042_key(struct device *dev, uint16_t key, bool down)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);
	bool taken;

	device_lock(dev);
	taken = !k->has_keyboard || ps2_keyboard_key(&k->keyboard, key, down);
	pump_keyboard(k);
	update_irq(k);
	device_unlock(dev);
	return taken;
}
