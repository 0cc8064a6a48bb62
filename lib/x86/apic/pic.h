/* SPDX-License-Identifier: Apache-2.0 */
/* Two cascaded 8259A (Intel 8259A data sheet), free of surroundings. Callers lock. Private to lib/x86/apic. */
#ifndef TZ_X86_APIC_PIC_H
#define TZ_X86_APIC_PIC_H

#include <stdbool.h>
#include <stdint.h>

#define PIC_CASCADE 2u /* the master's input that the slave drives */

enum pic_init { PIC_READY, PIC_WANT_ICW2, PIC_WANT_ICW3, PIC_WANT_ICW4 };

struct pic {
	uint8_t lines; /* level of the inputs: the edge detectors' memory */
	uint8_t irr, imr, isr;
	uint8_t highest;  /* rotation: the IR of highest priority */
	uint8_t irq_base; /* ICW2 */
	uint8_t elcr, elcr_mask;
	uint8_t init_state; /* enum pic_init */
	bool read_isr;      /* OCW3: which register 0x20 reads */
	bool poll;
	bool special_mask;
	bool auto_eoi, rotate_on_auto_eoi;
	bool special_nested; /* special fully nested mode */
	bool need_icw4, single;
};

struct pic_pair {
	struct pic chip[2]; /* master, slave */
	bool irq0_taken;    /* the PIT's request was acknowledged; the owner clears it */
	uint16_t ended;     /* inputs whose service has ended (EOI); the owner clears them */
};

void pic_pair_reset(struct pic_pair *p);
void pic_set_line(struct pic_pair *p, unsigned irq, bool level); /* irq 0..15 */
bool pic_output(const struct pic_pair *p);                       /* the master's INT */
uint8_t pic_ack(struct pic_pair *p);                             /* INTA: vector, spurious if nothing is pending */
/* Ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1. */
uint8_t pic_read(struct pic_pair *p, uint16_t port);
void pic_write(struct pic_pair *p, uint16_t port, uint8_t value);
/* After fields were set from outside. */
void pic_sync_cascade(struct pic_pair *p);

#endif
