/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GSI routing (KVM API 4.52, 4.24): a GSI leads to at most one pin of each chip, or is a message. Where several GSIs
 * lead to one pin, the last that changed sets its level. Pins keep their level when they are rerouted.
 */
#include <errno.h>
#include <stdlib.h>

#include "x86/apic/chip.h"

#define NO_PIN 0xff
#define PIC_INPUTS 16u

/* Who holds a GSI up: the client's KVM_IRQ_LINE, or a resampling irqfd until its EOI. */
#define SOURCE_CLIENT 0x01
#define SOURCE_RESAMPLE 0x02

struct gsi_route {
	uint8_t pic, ioapic; /* NO_PIN: leads to none */
	uint8_t sources;
	bool msi;
	uint32_t data;
	uint64_t address;
};

struct gsi_table {
	unsigned count; /* at least 1 */
	struct gsi_route gsi[];
};

static struct gsi_table *table_create(unsigned count)
{
	struct gsi_table *t = calloc(1, sizeof(*t) + count * sizeof(t->gsi[0]));

	if (!t)
		return NULL;
	t->count = count;
	for (unsigned i = 0; i < count; i++)
		t->gsi[i].pic = t->gsi[i].ioapic = NO_PIN;
	return t;
}

static int add_route(struct gsi_table *t, const struct irqchip_route *r)
{
	struct gsi_route *g = &t->gsi[r->gsi];
	uint8_t *pin = r->kind == IRQCHIP_ROUTE_PIC ? &g->pic : &g->ioapic;

	if (g->msi)
		return -EINVAL;
	if (r->kind == IRQCHIP_ROUTE_MSI) {
		if (g->pic != NO_PIN || g->ioapic != NO_PIN)
			return -EINVAL;
		g->msi = true;
		g->address = r->address;
		g->data = r->data;
		return 0;
	}
	if (*pin != NO_PIN || r->pin >= (r->kind == IRQCHIP_ROUTE_PIC ? PIC_INPUTS : IOAPIC_PINS))
		return -EINVAL;
	*pin = (uint8_t)r->pin;
	return 0;
}

int irqchip_set_routing(struct irqchip *chip, const struct irqchip_route *route, size_t count)
{
	unsigned size = 1;
	struct gsi_table *t, *old;
	int err = 0;

	for (size_t i = 0; i < count; i++) {
		if (route[i].gsi >= IRQCHIP_GSI_MAX)
			return -EINVAL;
		if (route[i].gsi >= size)
			size = route[i].gsi + 1;
	}
	t = table_create(size);
	if (!t)
		return -ENOMEM;
	for (size_t i = 0; i < count && !err; i++)
		err = add_route(t, &route[i]);
	if (err) {
		free(t);
		return err;
	}
	pthread_mutex_lock(&chip->lock);
	old = chip->routes;
	for (unsigned i = 0; old && i < old->count && i < t->count; i++)
		t->gsi[i].sources = old->gsi[i].sources;
	chip->routes = t;
	if (old)
		pit_line_rerouted_locked(chip);
	pthread_mutex_unlock(&chip->lock);
	free(old);
	return 0;
}

/* KVM's own: GSI n is pin n of the IOAPIC and, below 16, input n of the PICs. */
int routing_init(struct irqchip *chip)
{
	struct irqchip_route route[PIC_INPUTS + IOAPIC_PINS];
	unsigned n = 0;

	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		route[n++] = (struct irqchip_route){ .gsi = gsi, .kind = IRQCHIP_ROUTE_IOAPIC, .pin = gsi };
		if (gsi < PIC_INPUTS)
			route[n++] = (struct irqchip_route){ .gsi = gsi, .kind = IRQCHIP_ROUTE_PIC, .pin = gsi };
	}
	return irqchip_set_routing(chip, route, n);
}

void routing_fini(struct irqchip *chip)
{
	free(chip->routes);
	chip->routes = NULL;
}

int routing_pic_input_locked(const struct irqchip *chip, unsigned gsi)
{
	const struct gsi_table *t = chip->routes;

	return gsi < t->count && t->gsi[gsi].pic != NO_PIN ? t->gsi[gsi].pic : -1;
}

int routing_ioapic_pin_locked(const struct irqchip *chip, unsigned gsi)
{
	const struct gsi_table *t = chip->routes;

	return gsi < t->count && t->gsi[gsi].ioapic != NO_PIN ? t->gsi[gsi].ioapic : -1;
}

static void drive_pins_locked(struct irqchip *chip, const struct gsi_route *g)
{
	bool level = g->sources != 0;

	/* The cascade's input belongs to the slave. */
	if (g->pic != NO_PIN && g->pic != PIC_CASCADE) {
		pic_set_line(&chip->pic, g->pic, level);
		irqchip_pic_changed_locked(chip);
	}
	if (g->ioapic != NO_PIN)
		ioapic_set_pin_locked(chip, g->ioapic, level);
}

static bool set_source(struct irqchip *chip, unsigned gsi, uint8_t source, bool level)
{
	struct gsi_route *g, msi = { 0 };
	bool routed = false;

	pthread_mutex_lock(&chip->lock);
	if (gsi < chip->routes->count) {
		g = &chip->routes->gsi[gsi];
		routed = g->msi || g->pic != NO_PIN || g->ioapic != NO_PIN;
		g->sources = level ? g->sources | source : g->sources & (uint8_t)~source;
		if (g->msi)
			msi = *g;
		else
			drive_pins_locked(chip, g);
	}
	pthread_mutex_unlock(&chip->lock);
	/* A message has no level: each assertion sends one. */
	if (msi.msi && level)
		irqchip_send_msi(chip, msi.address, msi.data);
	return routed;
}

bool irqchip_set_line(struct irqchip *chip, unsigned gsi, bool level)
{
	return set_source(chip, gsi, SOURCE_CLIENT, level);
}

bool irqchip_raise_resampled(struct irqchip *chip, unsigned gsi)
{
	return set_source(chip, gsi, SOURCE_RESAMPLE, true);
}

/* The next GSI from `from` on that leads to this pin; what a resampling irqfd raised there goes down. -1: none. */
static int next_acked(struct irqchip *chip, unsigned from, unsigned pin, size_t pin_of_route)
{
	int found = -1;

	pthread_mutex_lock(&chip->lock);
	for (unsigned gsi = from; gsi < chip->routes->count && found < 0; gsi++) {
		struct gsi_route *g = &chip->routes->gsi[gsi];

		if (*((const uint8_t *)g + pin_of_route) != pin)
			continue;
		found = (int)gsi;
		if (g->sources & SOURCE_RESAMPLE) {
			g->sources &= (uint8_t)~SOURCE_RESAMPLE;
			drive_pins_locked(chip, g);
		}
	}
	pthread_mutex_unlock(&chip->lock);
	return found;
}

static void acked(struct irqchip *chip, unsigned pin, size_t pin_of_route)
{
	int gsi = next_acked(chip, 0, pin, pin_of_route);

	for (; gsi >= 0; gsi = next_acked(chip, (unsigned)gsi + 1, pin, pin_of_route))
		if (chip->ops->eoi)
			chip->ops->eoi(chip->ctx, (unsigned)gsi);
}

void routing_ioapic_acked(struct irqchip *chip, uint32_t pins)
{
	for (; pins; pins &= pins - 1)
		acked(chip, (unsigned)__builtin_ctz(pins), offsetof(struct gsi_route, ioapic));
}

void routing_pic_acked(struct irqchip *chip, uint32_t inputs)
{
	for (; inputs; inputs &= inputs - 1)
		acked(chip, (unsigned)__builtin_ctz(inputs), offsetof(struct gsi_route, pic));
}
