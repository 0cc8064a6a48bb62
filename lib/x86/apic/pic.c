/* SPDX-License-Identifier: Apache-2.0 */
/* Two 8259A in cascade: ICW1-4, OCW1-3, rotation, special mask, poll, AEOI; the PIIX's ELCR. */
#include "x86/apic/pic.h"

#define ICW1 0x10u
#define ICW1_NEED_ICW4 0x01u
#define ICW1_SINGLE 0x02u
#define ICW4_AUTO_EOI 0x02u
#define ICW4_SPECIAL_NESTED 0x10u
#define OCW3 0x08u
#define OCW3_READ_ISR 0x01u
#define OCW3_READ 0x02u
#define OCW3_POLL 0x04u
#define OCW3_SPECIAL_MASK 0x20u
#define OCW3_SET_SPECIAL_MASK 0x40u

static bool is_master(const struct pic_pair *p, const struct pic *c)
{
	return c == &p->chip[0];
}

/* Inputs that are levels rather than edges. The slave's INT holds the master's input as long as it has a request. */
static uint8_t level_inputs(const struct pic_pair *p, const struct pic *c)
{
	return c->elcr | (is_master(p, c) ? 1u << PIC_CASCADE : 0);
}

/* The set bit of highest priority, counted from the rotating top; 8 if none. */
static unsigned top_priority(const struct pic *c, uint8_t set)
{
	unsigned n;

	for (n = 0; n < 8; n++)
		if (set & (1u << ((c->highest + n) & 7)))
			break;
	return n;
}

/* The request that INT stands for now, or -1: above everything in service (data sheet, "fully nested mode"). */
static int request(const struct pic_pair *p, const struct pic *c)
{
	unsigned want = top_priority(c, c->irr & (uint8_t)~c->imr);
	uint8_t in_service = c->isr;

	if (want == 8 || c->init_state != PIC_READY)
		return -1;
	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	if (c->special_nested && is_master(p, c))
		in_service &= (uint8_t) ~(1u << PIC_CASCADE);
	if (want >= top_priority(c, in_service))
		return -1;
	return (int)((c->highest + want) & 7);
}

static void set_input(const struct pic_pair *p, struct pic *c, unsigned n, bool level)
{
	uint8_t bit = (uint8_t)(1u << n);

	if (level_inputs(p, c) & bit)
		c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
	else if (level && !(c->lines & bit))
		c->irr |= bit;
	c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
}

void pic_sync_cascade(struct pic_pair *p)
{
	set_input(p, &p->chip[0], PIC_CASCADE, request(p, &p->chip[1]) >= 0);
}

void pic_set_line(struct pic_pair *p, unsigned irq, bool level)
{
	set_input(p, &p->chip[irq >> 3], irq & 7, level);
	pic_sync_cascade(p);
}

bool pic_output(const struct pic_pair *p)
{
	return request(p, &p->chip[0]) >= 0;
}

static void end_of_interrupt(struct pic_pair *p, struct pic *c, unsigned n, bool rotate)
{
	c->isr &= (uint8_t) ~(1u << n);
	p->ended |= (uint16_t)(1u << n << (is_master(p, c) ? 0 : 8));
	if (rotate)
		c->highest = (n + 1) & 7;
}

/* INTA as one chip sees it. Without a request it answers IR7 and sets nothing in service (spurious). */
static unsigned acknowledge(struct pic_pair *p, struct pic *c)
{
	int n = request(p, c);
	uint8_t bit;

	if (n < 0)
		return 7;
	bit = (uint8_t)(1u << n);
	if (!(level_inputs(p, c) & bit))
		c->irr &= (uint8_t)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else
		end_of_interrupt(p, c, (unsigned)n, c->rotate_on_auto_eoi);
	if (n == 0 && is_master(p, c))
		p->irq0_taken = true;
	return (unsigned)n;
}

uint8_t pic_ack(struct pic_pair *p)
{
	struct pic *master = &p->chip[0], *slave = &p->chip[1];
	bool real = request(p, master) >= 0;
	unsigned n = acknowledge(p, master);
	uint8_t vector = (uint8_t)(master->irq_base + n);

	if (real && n == PIC_CASCADE)
		vector = (uint8_t)(slave->irq_base + acknowledge(p, slave));
	pic_sync_cascade(p);
	return vector;
}

static void chip_reset(struct pic *c)
{
	/* The lines belong to the devices, the ELCR's mask to the board. */
	*c = (struct pic){ .lines = c->lines, .elcr_mask = c->elcr_mask };
}

void pic_pair_reset(struct pic_pair *p)
{
	chip_reset(&p->chip[0]);
	chip_reset(&p->chip[1]);
	p->irq0_taken = false;
	p->ended = 0;
	pic_sync_cascade(p);
}

static void write_icw1(struct pic_pair *p, struct pic *c, uint8_t value)
{
	/* Data sheet, "initialization": edge sense reset (a new low-to-high is needed), IMR and rotation cleared. */
	c->irr &= level_inputs(p, c);
	c->imr = 0;
	c->isr = 0;
	c->highest = 0;
	c->special_mask = false;
	c->read_isr = false;
	c->poll = false;
	c->auto_eoi = c->rotate_on_auto_eoi = c->special_nested = false;
	c->need_icw4 = value & ICW1_NEED_ICW4;
	c->single = value & ICW1_SINGLE;
	c->init_state = PIC_WANT_ICW2;
}

/* OCW2 by its R, SL, EOI bits. */
static void write_ocw2(struct pic_pair *p, struct pic *c, uint8_t value)
{
	unsigned level = value & 7, command = value >> 5, top;
	uint8_t candidates;

	switch (command) {
	case 0: /* rotate in AEOI mode: clear, set */
	case 4: c->rotate_on_auto_eoi = command == 4; break;
	case 1: /* non-specific EOI, with rotation */
	case 5:
		/* In special mask mode it passes over masked levels (data sheet, "special mask mode"). */
		candidates = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
		top = top_priority(c, candidates);
		if (top < 8)
			end_of_interrupt(p, c, (c->highest + top) & 7, command == 5);
		break;
	case 3: /* specific EOI, with rotation */
	case 7: end_of_interrupt(p, c, level, command == 7); break;
	case 6: /* set priority */ c->highest = (level + 1) & 7; break;
	}
}

static void write_ocw3(struct pic *c, uint8_t value)
{
	if (value & OCW3_POLL)
		c->poll = true;
	if (value & OCW3_READ)
		c->read_isr = value & OCW3_READ_ISR;
	if (value & OCW3_SET_SPECIAL_MASK)
		c->special_mask = value & OCW3_SPECIAL_MASK;
}

static void write_data(struct pic *c, uint8_t value)
{
	switch (c->init_state) {
	case PIC_WANT_ICW2:
		c->irq_base = value & 0xf8;
		c->init_state = !c->single ? PIC_WANT_ICW3 : c->need_icw4 ? PIC_WANT_ICW4 : PIC_READY;
		break;
	case PIC_WANT_ICW3: /* the wiring is fixed: slave on IR2 */
		c->init_state = c->need_icw4 ? PIC_WANT_ICW4 : PIC_READY;
		break;
	case PIC_WANT_ICW4:
		c->special_nested = value & ICW4_SPECIAL_NESTED;
		c->auto_eoi = value & ICW4_AUTO_EOI;
		c->init_state = PIC_READY;
		break;
	default: c->imr = value; break;
	}
}

static void write_elcr(const struct pic_pair *p, struct pic *c, uint8_t value)
{
	c->elcr = value & c->elcr_mask;
	/* Requests on inputs that are levels now follow their lines; the cascade is brought up by the caller. */
	c->irr = (c->irr & (uint8_t)~level_inputs(p, c)) | (c->lines & level_inputs(p, c));
}

static struct pic *select_chip(struct pic_pair *p, uint16_t port)
{
	return &p->chip[port >= 0x4d0 ? port & 1 : port >= 0xa0];
}

void pic_write(struct pic_pair *p, uint16_t port, uint8_t value)
{
	struct pic *c = select_chip(p, port);

	if (port >= 0x4d0)
		write_elcr(p, c, value);
	else if (port & 1)
		write_data(c, value);
	else if (value & ICW1)
		write_icw1(p, c, value);
	else if (value & OCW3)
		write_ocw3(c, value);
	else
		write_ocw2(p, c, value);
	pic_sync_cascade(p);
}

/* The read after a poll command is an INTA: bit 7 says that there was a request, bits 2:0 which. */
static uint8_t poll_read(struct pic_pair *p, struct pic *c)
{
	uint8_t value = 0;

	c->poll = false;
	if (request(p, c) >= 0)
		value = (uint8_t)(0x80 | acknowledge(p, c));
	pic_sync_cascade(p);
	return value;
}

uint8_t pic_read(struct pic_pair *p, uint16_t port)
{
	struct pic *c = select_chip(p, port);

	if (port >= 0x4d0)
		return c->elcr;
	if (c->poll)
		return poll_read(p, c);
	if (port & 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}
