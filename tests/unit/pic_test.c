/* SPDX-License-Identifier: Apache-2.0 */
/* The 8259 pair through its ports and INTA. */
#include "fakechip.h"

#include "x86/apic/pic.h"

#include <errno.h>

static struct fakechip *make(uint8_t icw4)
{
	struct fakechip *f = fakechip_create(1);

	fakechip_init_pics(f, icw4);
	return f;
}

static void line(struct fakechip *f, unsigned irq, bool level)
{
	irqchip_set_pic_line(f->chip, irq, level);
}

static void pulse(struct fakechip *f, unsigned irq)
{
	line(f, irq, true);
	line(f, irq, false);
}

static int ack(struct fakechip *f)
{
	return lapic_irq_ack(f->cpu[0]);
}

static uint8_t ocw3_read(struct fakechip *f, uint16_t port, bool isr)
{
	fakechip_out(f, port, isr ? 0x0b : 0x0a);
	return fakechip_in(f, port);
}

static void edges_and_levels(tz_unused void **state)
{
	struct fakechip *f = make(1);

	line(f, 3, true);
	assert_int_equal(ack(f), 0x23);
	fakechip_out(f, 0x20, 0x20);
	assert_int_equal(ack(f), -1); /* still high: no new edge */
	line(f, 3, false);
	pulse(f, 3);
	assert_int_equal(ack(f), 0x23); /* latched */
	fakechip_out(f, 0x20, 0x20);
	fakechip_out(f, 0x4d0, 0xff);
	fakechip_out(f, 0x4d1, 0xff);
	assert_int_equal(fakechip_in(f, 0x4d0), 0xf8);
	assert_int_equal(fakechip_in(f, 0x4d1), 0xde);
	line(f, 5, true);
	assert_int_equal(ack(f), 0x25);
	fakechip_out(f, 0x20, 0x20);
	assert_int_equal(ack(f), 0x25); /* level: again until it drops */
	fakechip_out(f, 0x20, 0x20);
	line(f, 5, false);
	assert_int_equal(ack(f), -1);
	fakechip_destroy(f);
}

static void nesting_and_masks(tz_unused void **state)
{
	struct fakechip *f = make(1);

	pulse(f, 5);
	pulse(f, 3);
	assert_int_equal(ocw3_read(f, 0x20, false), 0x28);
	assert_int_equal(ack(f), 0x23);
	assert_int_equal(ocw3_read(f, 0x20, true), 0x08);
	assert_int_equal(ack(f), -1); /* 5 is below 3 */
	pulse(f, 1);
	assert_int_equal(ack(f), 0x21);
	fakechip_out(f, 0x20, 0x20); /* ends 1, the highest in service */
	assert_int_equal(ocw3_read(f, 0x20, true), 0x08);
	fakechip_out(f, 0x20, 0x63); /* specific EOI of 3 */
	assert_int_equal(ack(f), 0x25);
	fakechip_out(f, 0x20, 0x20);
	fakechip_out(f, 0x21, 0x10);
	assert_int_equal(fakechip_in(f, 0x21), 0x10);
	pulse(f, 4);
	assert_int_equal(ack(f), -1);
	fakechip_out(f, 0x21, 0);
	assert_int_equal(ack(f), 0x24);
	fakechip_destroy(f);
}

static void cascade(tz_unused void **state)
{
	struct fakechip *f = make(1);

	pulse(f, 12);
	assert_int_equal(ack(f), 0x2c);
	assert_int_equal(ocw3_read(f, 0x20, true), 0x04);
	assert_int_equal(ocw3_read(f, 0xa0, true), 0x10);
	pulse(f, 10); /* higher in the slave, but the master has 2 in service */
	assert_int_equal(ack(f), -1);
	pulse(f, 1);
	assert_int_equal(ack(f), 0x21);
	fakechip_out(f, 0x20, 0x20);
	fakechip_out(f, 0x20, 0x20);
	assert_int_equal(ack(f), 0x2a);
	fakechip_out(f, 0xa0, 0x20);
	fakechip_out(f, 0x20, 0x20);
	fakechip_out(f, 0xa0, 0x20);
	assert_int_equal(ocw3_read(f, 0xa0, true), 0);
	line(f, 9, true);
	line(f, 9, false); /* edges stay latched */
	assert_int_equal(ack(f), 0x29);
	fakechip_destroy(f);
	f = make(0x11); /* special fully nested mode */
	pulse(f, 12);
	assert_int_equal(ack(f), 0x2c);
	pulse(f, 10);
	assert_int_equal(ack(f), 0x2a);
	fakechip_destroy(f);
}

static void withdrawn_level(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_out(f, 0x4d1, 0x04);
	line(f, 10, true);
	assert_true(lapic_irq_pending(f->cpu[0]));
	line(f, 10, false);
	assert_false(lapic_irq_pending(f->cpu[0]));
	assert_int_equal(ack(f), -1);
	fakechip_destroy(f);
}

/* INTA without a request answers IR7 and leaves ISR alone (8259A data sheet). */
static void spurious(tz_unused void **state)
{
	struct pic_pair p = { 0 };

	pic_pair_reset(&p);
	p.chip[0].irq_base = 0x20;
	p.chip[1].irq_base = 0x28;
	assert_int_equal(pic_ack(&p), 0x27);
	assert_int_equal(p.chip[0].isr, 0);
	pic_set_line(&p, 12, true);
	p.chip[1].irr = 0; /* the slave lost it between the two INTAs */
	assert_int_equal(pic_ack(&p), 0x2f);
	assert_int_equal(p.chip[0].isr, 4);
	assert_int_equal(p.chip[1].isr, 0);
}

static void rotation(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_out(f, 0x20, 0xc3); /* set priority: 3 lowest, 4 highest */
	pulse(f, 2 + 1);
	pulse(f, 4);
	assert_int_equal(ack(f), 0x24);
	fakechip_out(f, 0x20, 0xa0); /* rotate on non-specific EOI: 4 lowest */
	pulse(f, 4);
	assert_int_equal(ack(f), 0x23);
	fakechip_out(f, 0x20, 0xe3); /* rotate on specific EOI */
	pulse(f, 3);
	assert_int_equal(ack(f), 0x24);
	fakechip_out(f, 0x20, 0x20);
	assert_int_equal(ack(f), 0x23);
	fakechip_destroy(f);
}

static void auto_eoi(tz_unused void **state)
{
	struct fakechip *f = make(3);

	pulse(f, 3);
	assert_int_equal(ack(f), 0x23);
	assert_int_equal(ocw3_read(f, 0x20, true), 0);
	fakechip_out(f, 0x20, 0x80); /* rotate in AEOI mode */
	pulse(f, 3);
	assert_int_equal(ack(f), 0x23);
	pulse(f, 3);
	pulse(f, 5);
	assert_int_equal(ack(f), 0x25);
	assert_int_equal(ack(f), 0x23);
	pulse(f, 8);
	pulse(f, 9);
	assert_int_equal(ack(f), 0x28); /* the slave's INT falls and rises between */
	assert_int_equal(ack(f), 0x29);
	fakechip_destroy(f);
}

static void special_mask(tz_unused void **state)
{
	struct fakechip *f = make(1);

	pulse(f, 3);
	assert_int_equal(ack(f), 0x23);
	pulse(f, 5);
	assert_int_equal(ack(f), -1);
	fakechip_out(f, 0x21, 0x08);
	assert_int_equal(ack(f), -1);
	fakechip_out(f, 0x20, 0x68); /* special mask mode: masked 3 holds nobody back */
	assert_int_equal(ack(f), 0x25);
	fakechip_out(f, 0x20, 0x20); /* non-specific EOI passes over 3 */
	assert_int_equal(ocw3_read(f, 0x20, true), 0x08);
	fakechip_out(f, 0x20, 0x48);
	pulse(f, 5);
	assert_int_equal(ack(f), -1);
	fakechip_destroy(f);
}

static void poll(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_out(f, 0x20, 0x0c);
	assert_int_equal(fakechip_in(f, 0x20), 0);
	pulse(f, 6);
	fakechip_out(f, 0x20, 0x0c);
	assert_int_equal(fakechip_in(f, 0x20), 0x86);
	assert_int_equal(ocw3_read(f, 0x20, true), 0x40);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_destroy(f);
}

static void initialization(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint16_t both;

	line(f, 4, true);
	fakechip_out(f, 0x20, 0x11);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_out(f, 0x21, 0x68);
	fakechip_out(f, 0x21, 4);
	fakechip_out(f, 0x21, 1);
	assert_int_equal(fakechip_in(f, 0x21), 0); /* IMR cleared, no ICW taken for it */
	assert_int_equal(ack(f), -1);              /* edge sense was reset; the line must fall first */
	line(f, 4, false);
	line(f, 4, true);
	assert_int_equal(ack(f), 0x6c);
	fakechip_out(f, 0x20, 0x12); /* single, no ICW4: two words */
	fakechip_out(f, 0x21, 0x40);
	fakechip_out(f, 0x21, 0xef);
	assert_int_equal(fakechip_in(f, 0x21), 0xef);
	assert_true(irqchip_pio_write(f->chip, 0x20, &(uint16_t){ 0x5a0a }, 2)); /* split over 0x20 and 0x21 */
	assert_true(irqchip_pio_read(f->chip, 0x20, &both, 2));
	assert_int_equal(both >> 8, 0x5a);
	assert_false(irqchip_pio_read(f->chip, 0x22, &both, 1));
	assert_false(irqchip_pio_read(f->chip, 0x40, &both, 1)); /* no PIT */
	irqchip_reset(f->chip);
	assert_int_equal(fakechip_in(f, 0x21), 0);
	fakechip_destroy(f);
}

static void state_round_trip(tz_unused void **state)
{
	struct fakechip *f = make(1), *g = fakechip_create(1);
	uint8_t s[2][16], t[16];

	fakechip_out(f, 0x21, 0x40);
	pulse(f, 12);
	pulse(f, 3);
	assert_int_equal(ack(f), 0x2c);
	for (unsigned n = 0; n < 2; n++) {
		irqchip_get_pic(f->chip, n, s[n]);
		assert_int_equal(irqchip_set_pic(g->chip, n, s[n]), 0);
	}
	for (unsigned n = 0; n < 2; n++) {
		irqchip_get_pic(g->chip, n, t);
		assert_memory_equal(s[n], t, 16);
	}
	assert_int_equal(s[0][2], 0x40); /* struct kvm_pic_state: imr, isr, irq_base */
	assert_int_equal(s[0][3], 0x04);
	assert_int_equal(s[1][5], 0x28);
	fakechip_out(g, 0xa0, 0x20);
	fakechip_out(g, 0x20, 0x20);
	assert_int_equal(ack(g), 0x23);
	s[0][9] = 9;
	assert_int_equal(irqchip_set_pic(g->chip, false, s[0]), -EINVAL);
	fakechip_destroy(f);
	fakechip_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(edges_and_levels), cmocka_unit_test(nesting_and_masks), cmocka_unit_test(cascade),
		cmocka_unit_test(withdrawn_level),  cmocka_unit_test(spurious),          cmocka_unit_test(rotation),
		cmocka_unit_test(auto_eoi),         cmocka_unit_test(special_mask),      cmocka_unit_test(poll),
		cmocka_unit_test(initialization),   cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
