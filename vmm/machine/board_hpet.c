/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HPET on the board. With its legacy route it takes IRQ 0 from the PIT and IRQ 8 from the RTC (IA-PC HPET 1.0a,
 * 2.4.2); the RTC's own alarms and ticks go nowhere meanwhile.
 */
#include "base/compiler.h"
#include "machine/board_parts.h"
#include "machine/ports.h"

static void set_rtc(void *ctx, unsigned n, bool level)
{
	struct board *b = ctx;
	struct irq_line line = board_gsi(b, n);

	if (level)
		acpi_pm_rtc_alarm(b->acpi_pm);
	pthread_mutex_lock(&b->legacy_lock);
	b->rtc_level = level;
	if (!b->hpet_legacy)
		irq_line_set(&line, level);
	pthread_mutex_unlock(&b->legacy_lock);
}

static void set_legacy(void *ctx, unsigned n, bool on)
{
	struct board *b = ctx;
	struct irq_line rtc = board_gsi(b, GSI_RTC);

	(void)n;
	pthread_mutex_lock(&b->legacy_lock);
	b->hpet_legacy = on;
	if (b->rtc_level)
		irq_line_set(&rtc, !on);
	pthread_mutex_unlock(&b->legacy_lock);
	if (b->config.accel.pit_irq)
		b->config.accel.pit_irq(b->config.accel.ctx, !on);
}

struct irq_line board_rtc_line(struct board *b)
{
	return (struct irq_line){ .set = set_rtc, .ctx = b, .n = GSI_RTC };
}

int board_hpet_attach(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_MMIO, HPET_BASE, HPET_SIZE } };
	struct irq_line legacy = { .set = set_legacy, .ctx = b };

	(void)options;
	b->has_hpet = true;
	return board_attach(b, hpet_create(b->timers, board_gsi(b, 0), legacy), where, ARRAY_SIZE(where));
}

void board_hpet_describe(struct aml *aml)
{
	aml_device(aml, "HPET");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0103");
	aml_crs(aml);
	aml_crs_memory(aml, HPET_BASE, HPET_SIZE);
	aml_crs_end(aml);
	aml_end(aml);
}
