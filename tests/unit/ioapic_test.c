/* SPDX-License-Identifier: Apache-2.0 */
/* The IOAPIC through its window, its lines and the LAPICs behind it. */
#include "fakechip.h"

#include <errno.h>

#define LEVEL BIT64(15)
#define MASK BIT64(16)
#define REMOTE_IRR BIT64(14)
#define PENDING BIT64(12)
#define TO(id) ((uint64_t)(id) << 56)

static struct fakechip *make(unsigned cpus)
{
	struct fakechip *f = fakechip_create(cpus);

	for (unsigned n = 0; n < cpus; n++)
		fakechip_put(f, n, 0xf0, 0x1ff);
	fakechip_put(f, 0, 0x350, 0x10000); /* no ExtINT: the PIC has no part in this */
	return f;
}

static void take(struct fakechip *f, unsigned cpu, int vector)
{
	assert_int_equal(lapic_irq_ack(f->cpu[cpu]), vector);
}

static void eoi(struct fakechip *f, unsigned cpu)
{
	fakechip_put(f, cpu, 0xb0, 0);
}

static uint32_t indirect(struct fakechip *f, uint32_t index)
{
	uint32_t v;

	irqchip_mmio_write(f->chip, GPA(0xfec00000), &index, 4);
	irqchip_mmio_read(f->chip, GPA(0xfec00010), &v, 4);
	return v;
}

static void registers(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint32_t index = 0, v = 0xff000000;

	assert_true(irqchip_mmio_match(f->chip, GPA(0xfec00000)));
	assert_true(irqchip_mmio_match(f->chip, GPA(0xfec000ff)));
	assert_false(irqchip_mmio_match(f->chip, GPA(0xfec00100)));
	assert_false(irqchip_mmio_match(f->chip, GPA(0xfebfffff)));
	assert_int_equal(indirect(f, 1), 0x170011);
	assert_int_equal(fakechip_redir_get(f, 23), MASK);
	irqchip_mmio_write(f->chip, GPA(0xfec00000), &index, 4);
	irqchip_mmio_write(f->chip, GPA(0xfec00010), &v, 4);
	assert_int_equal(indirect(f, 0), 0x0f000000);
	assert_int_equal(indirect(f, 2), 0x0f000000);
	assert_int_equal(indirect(f, 0x40), 0xffffffff); /* beyond the last pin */
	irqchip_mmio_read(f->chip, GPA(0xfec00000), &v, 4);
	assert_int_equal(v, 0x40);
	fakechip_redir(f, 5, UINT64_MAX); /* read-only and reserved bits stay clear */
	assert_true(fakechip_redir_get(f, 5) == (TO(0xff) | 0x1afff));
	irqchip_reset(f->chip);
	assert_int_equal(fakechip_redir_get(f, 5), MASK);
	fakechip_destroy(f);
}

static void edge(tz_unused void **state)
{
	struct fakechip *f = make(2);

	fakechip_redir(f, 10, TO(1) | 0x51);
	irqchip_set_line(f->chip, 10, true);
	take(f, 0, -1);
	take(f, 1, 0x51);
	eoi(f, 1);
	irqchip_set_line(f->chip, 10, true); /* no edge */
	take(f, 1, -1);
	irqchip_set_line(f->chip, 10, false);
	fakechip_redir(f, 10, TO(1) | MASK | 0x51);
	irqchip_set_line(f->chip, 10, true); /* lost */
	fakechip_redir(f, 10, TO(1) | 0x51);
	take(f, 1, -1);
	assert_int_equal(f->eois, 0); /* edges have no EOI message */
	fakechip_destroy(f);
}

static void level(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_redir(f, 11, LEVEL | 0x61);
	irqchip_set_line(f->chip, 11, true);
	assert_int_equal(fakechip_redir_get(f, 11), LEVEL | REMOTE_IRR | 0x61);
	take(f, 0, 0x61);
	irqchip_set_line(f->chip, 11, true);
	take(f, 0, -1); /* remote IRR holds it back */
	eoi(f, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_gsi, 11);
	take(f, 0, 0x61); /* still asserted: again */
	irqchip_set_line(f->chip, 11, false);
	eoi(f, 0);
	assert_int_equal(fakechip_redir_get(f, 11), LEVEL | 0x61);
	take(f, 0, -1);
	fakechip_redir(f, 11, LEVEL | MASK | 0x61);
	irqchip_set_line(f->chip, 11, true);
	take(f, 0, -1);
	fakechip_redir(f, 11, LEVEL | 0x61); /* unmasking finds the line up */
	take(f, 0, 0x61);
	fakechip_redir(f, 11, MASK | 0x61); /* edge mode clears remote IRR: how old kernels make an EOI */
	assert_int_equal(fakechip_redir_get(f, 11), MASK | 0x61);
	fakechip_redir(f, 11, LEVEL | 0x61);
	assert_int_equal(fakechip_redir_get(f, 11), LEVEL | REMOTE_IRR | 0x61);
	fakechip_destroy(f);
}

static void shared_vector(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_redir(f, 16, LEVEL | 0x62);
	fakechip_redir(f, 17, LEVEL | 0x62);
	irqchip_set_line(f->chip, 16, true);
	irqchip_set_line(f->chip, 17, true);
	take(f, 0, 0x62);
	irqchip_set_line(f->chip, 16, false);
	eoi(f, 0); /* ends both; 17 asks again */
	assert_int_equal(f->eois, 2);
	assert_int_equal(fakechip_redir_get(f, 16), LEVEL | 0x62);
	take(f, 0, 0x62);
	fakechip_destroy(f);
}

static void delivery_modes(tz_unused void **state)
{
	struct fakechip *f = make(2);

	fakechip_redir(f, 4, TO(1) | 4 << 8);
	irqchip_set_line(f->chip, 4, true);
	assert_int_equal(f->nmis[1], 1);
	fakechip_redir(f, 5, TO(1) | 2 << 8);
	irqchip_set_line(f->chip, 5, true);
	assert_int_equal(f->smis[1], 1);
	fakechip_redir(f, 6, TO(1) | 5 << 8);
	irqchip_set_line(f->chip, 6, true);
	assert_int_equal(f->inits[1], 1);
	for (unsigned n = 0; n < 2; n++)
		fakechip_put(f, n, 0xd0, (1u << n) << 24);
	fakechip_redir(f, 7, TO(3) | BIT64(11) | 0x71); /* logical, fixed: both */
	irqchip_set_line(f->chip, 7, true);
	take(f, 0, 0x71);
	take(f, 1, 0x71);
	eoi(f, 0);
	lapic_write_tpr(f->cpu[1], 1);
	fakechip_redir(f, 9, TO(3) | BIT64(11) | 1 << 8 | 0x72); /* lowest priority: one, here 1, still serving 0x71 */
	lapic_write_tpr(f->cpu[0], 8);
	eoi(f, 1);
	irqchip_set_line(f->chip, 9, true);
	take(f, 0, -1);
	take(f, 1, 0x72);
	fakechip_redir(f, 12, TO(0) | 7 << 8); /* ExtINT: INTA goes to the PIC */
	fakechip_init_pics(f, 1);
	irqchip_set_line(f->chip, 12, true);
	assert_true(lapic_irq_pending(f->cpu[0]));
	take(f, 0, 0x2c);
	fakechip_destroy(f);
}

/* A message that nobody accepts waits (delivery status) till a LAPIC is there for it. */
static void undelivered(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_put(f, 0, 0xf0, 0xff);
	fakechip_redir(f, 11, LEVEL | 0x61);
	fakechip_redir(f, 10, 0x51);
	irqchip_set_line(f->chip, 11, true);
	irqchip_set_line(f->chip, 10, true);
	assert_int_equal(fakechip_redir_get(f, 11), LEVEL | PENDING | 0x61);
	assert_int_equal(fakechip_redir_get(f, 10), PENDING | 0x51);
	take(f, 0, -1);
	fakechip_put(f, 0, 0xf0, 0x1ff);
	assert_int_equal(fakechip_redir_get(f, 11), LEVEL | REMOTE_IRR | 0x61);
	assert_int_equal(fakechip_redir_get(f, 10), 0x51);
	take(f, 0, 0x61);
	eoi(f, 0);
	irqchip_set_line(f->chip, 11, false);
	take(f, 0, 0x61); /* it was up at the EOI */
	eoi(f, 0);
	take(f, 0, 0x51);
	eoi(f, 0);
	fakechip_redir(f, 10, TO(9) | 0x51);
	irqchip_set_line(f->chip, 10, false);
	irqchip_set_line(f->chip, 10, true);
	assert_true(fakechip_redir_get(f, 10) == (TO(9) | PENDING | 0x51));
	fakechip_redir(f, 10, 0x51); /* readdressed */
	take(f, 0, 0x51);
	fakechip_destroy(f);
}

static void routing(tz_unused void **state)
{
	struct fakechip *f = make(1);

	for (unsigned pin = 0; pin < 24; pin++)
		fakechip_redir(f, pin, 0x40 + pin);
	for (unsigned gsi = 0; gsi < 30; gsi++) {
		irqchip_set_line(f->chip, gsi, true);
		irqchip_set_line(f->chip, gsi, false);
		take(f, 0, gsi >= 24 || gsi == 2 ? -1 : (int)(0x40 + (gsi ? gsi : 2)));
		eoi(f, 0);
	}
	irqchip_set_ioapic_line(f->chip, 0, true);
	take(f, 0, 0x40);
	irqchip_set_ioapic_line(f->chip, 24, true); /* no such pin */
	fakechip_destroy(f);
}

static void state_round_trip(tz_unused void **state)
{
	struct fakechip *f = make(1), *g = make(1);
	uint8_t s[216], t[216];

	fakechip_redir(f, 11, LEVEL | 0x61);
	fakechip_redir(f, 3, 0x53);
	irqchip_set_line(f->chip, 11, true);
	irqchip_get_ioapic(f->chip, s);
	assert_int_equal(irqchip_set_ioapic(g->chip, s), 0);
	irqchip_get_ioapic(g->chip, t);
	assert_memory_equal(s, t, sizeof(s));
	take(g, 0, -1); /* remote IRR: already on its way, in a LAPIC's state */
	memset(s, 0, 8);
	s[0] = 1;
	assert_int_equal(irqchip_set_ioapic(g->chip, s), -EINVAL);
	fakechip_put(f, 0, 0xf0, 0xff);
	fakechip_redir(f, 12, LEVEL | 0x62);
	irqchip_set_line(f->chip, 12, true);
	irqchip_get_ioapic(f->chip, s);
	assert_int_equal(irqchip_set_ioapic(g->chip, s), 0);
	take(g, 0, 0x62); /* asserted and not delivered: now */
	fakechip_destroy(f);
	fakechip_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers),      cmocka_unit_test(edge),
		cmocka_unit_test(level),          cmocka_unit_test(shared_vector),
		cmocka_unit_test(delivery_modes), cmocka_unit_test(undelivered),
		cmocka_unit_test(routing),        cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
