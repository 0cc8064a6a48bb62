/* SPDX-License-Identifier: Apache-2.0 */
/* GSI routing on the chips: defaults, replacement, messages, lines held until their EOI. */
#include "fakechip.h"

#include <errno.h>

#define LEVEL BIT64(15)

static struct fakechip *make(void)
{
	struct fakechip *f = fakechip_create(1);

	fakechip_put(f, 0, 0xf0, 0x1ff);
	fakechip_put(f, 0, 0x350, 0x10000); /* no ExtINT */
	for (unsigned pin = 0; pin < 24; pin++)
		fakechip_redir(f, pin, 0x40 + pin);
	return f;
}

static int pulse(struct fakechip *f, unsigned gsi)
{
	int vector;

	irqchip_set_line(f->chip, gsi, true);
	irqchip_set_line(f->chip, gsi, false);
	vector = lapic_irq_ack(f->cpu[0]);
	fakechip_put(f, 0, 0xb0, 0);
	return vector;
}

static void default_is_straight(tz_unused void **state)
{
	static const struct irqchip_ops none;
	struct irqchip *chip = irqchip_create(&none, NULL);

	assert_non_null(chip);
	for (unsigned gsi = 0; gsi < 24; gsi++)
		assert_true(irqchip_set_line(chip, gsi, false));
	assert_false(irqchip_set_line(chip, 24, false));
	assert_false(irqchip_set_line(chip, UINT32_MAX, false));
	irqchip_destroy(chip);
}

static void replacement(tz_unused void **state)
{
	const struct irqchip_route route[] = {
		{ .gsi = 5, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = 7 },
		{ .gsi = 6, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = 7 },
		{ .gsi = IRQCHIP_GSI_MAX - 1, .kind = IRQCHIP_ROUTE_MSI, .address = 0xfee00000, .data = 0x77 },
	};
	struct fakechip *f = make();

	assert_int_equal(pulse(f, 5), 0x45);
	assert_int_equal(irqchip_set_routing(f->chip, route, 3), 0);
	assert_int_equal(pulse(f, 5), 0x47);
	assert_int_equal(pulse(f, 6), 0x47);
	assert_int_equal(pulse(f, 7), -1);
	assert_int_equal(pulse(f, IRQCHIP_GSI_MAX - 1), 0x77);
	assert_int_equal(irqchip_set_routing(f->chip, NULL, 0), 0);
	assert_int_equal(pulse(f, 5), -1);
	fakechip_destroy(f);
}

static void refused(tz_unused void **state)
{
	const struct irqchip_route wrong[][2] = {
		{ { .gsi = IRQCHIP_GSI_MAX, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = 1 } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = 24 } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_PIC, .pin = 16 } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_PIC, .pin = 1 },
		  { .gsi = 1, .kind = IRQCHIP_ROUTE_PIC, .pin = 2 } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_PIC, .pin = 1 }, { .gsi = 1, .kind = IRQCHIP_ROUTE_MSI } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_MSI }, { .gsi = 1, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = 1 } },
		{ { .gsi = 1, .kind = IRQCHIP_ROUTE_MSI }, { .gsi = 1, .kind = IRQCHIP_ROUTE_MSI } },
	};
	struct fakechip *f = make();

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(irqchip_set_routing(f->chip, wrong[i], i < 3 ? 1 : 2), -EINVAL);
	assert_int_equal(pulse(f, 5), 0x45); /* as it was */
	fakechip_destroy(f);
}

/* The line of a resampling irqfd: up until the EOI, which is told; the client's own level is not touched. */
static void resampled(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_redir(f, 10, LEVEL | 0x4a);
	assert_true(irqchip_raise_resampled(f->chip, 10));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x4a);
	irqchip_set_line(f->chip, 10, false); /* the client's level is another one */
	assert_int_equal(f->eois, 0);
	fakechip_put(f, 0, 0xb0, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_gsi, 10);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), -1); /* it went down before the pin looked again */

	irqchip_set_line(f->chip, 10, true);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x4a);
	irqchip_raise_resampled(f->chip, 10);
	fakechip_put(f, 0, 0xb0, 0);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x4a); /* the client still holds it */
	irqchip_set_line(f->chip, 10, false);
	fakechip_put(f, 0, 0xb0, 0);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), -1);
	fakechip_destroy(f);
}

static void resampled_through_the_pic(tz_unused void **state)
{
	static const uint8_t specific_eoi[] = { 0x60 | 2, 0x62 };
	struct fakechip *f = make();
	unsigned before;

	fakechip_put(f, 0, 0x350, 0x700); /* ExtINT */
	fakechip_init_pics(f, 1);
	fakechip_out(f, 0x4d1, 0x04); /* input 10 is a level */
	fakechip_redir(f, 10, 0x10000);
	assert_true(irqchip_raise_resampled(f->chip, 10));
	assert_true(lapic_irq_pending(f->cpu[0]));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x2a);
	before = f->eois;
	fakechip_out(f, 0xa0, specific_eoi[0]);
	assert_int_equal(f->eois, before + 1);
	assert_int_equal(f->eoi_gsi, 10);
	fakechip_out(f, 0x20, specific_eoi[1]);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(default_is_straight),
		cmocka_unit_test(replacement),
		cmocka_unit_test(refused),
		cmocka_unit_test(resampled),
		cmocka_unit_test(resampled_through_the_pic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
