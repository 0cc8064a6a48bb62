/* SPDX-License-Identifier: Apache-2.0 */
/*
 * High Precision Event Timers (IA-PC HPET specification 1.0a; section numbers are its): a 64-bit counter of 100 MHz
 * and three comparators, one-shot or periodic, edge or level, with the legacy replacement route. No FSB interrupts.
 * Nothing ticks: matches are found when somebody looks (sync), and a timer is armed only for enabled interrupts.
 */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

#define TIMERS 3
#define TICK_NS 10
#define TICK_FS UINT64_C(10000000) /* the same in femtoseconds */

/* Register offsets (2.3.3). */
#define REG_CAP 0x000
#define REG_CONFIG 0x010
#define REG_STATUS 0x020
#define REG_COUNTER 0x0f0
#define REG_TIMER0 0x100
#define TIMER_STRIDE 0x20
#define TIMER_CONFIG 0x00
#define TIMER_COMPARATOR 0x08

#define CAP_VENDOR (UINT64_C(0x8086) << 16) /* as a PC's; drivers look at the rest only */
#define CAP_LEGACY BIT64(15)
#define CAP_64BIT BIT64(13)
#define CAP_REVISION UINT64_C(1)
#define CAP_VALUE (TICK_FS << 32 | CAP_VENDOR | CAP_LEGACY | CAP_64BIT | (uint64_t)(TIMERS - 1) << 8 | CAP_REVISION)

#define CONFIG_ENABLE BIT64(0)
#define CONFIG_LEGACY BIT64(1)

/* Timer configuration (2.3.8). */
#define T_LEVEL BIT64(1)
#define T_ENABLE BIT64(2)
#define T_PERIODIC BIT64(3)
#define T_CAN_PERIODIC BIT64(4)
#define T_IS_64BIT BIT64(5)
#define T_SET_VALUE BIT64(6)
#define T_32BIT BIT64(8)
#define T_ROUTE_SHIFT 9
#define T_ROUTE (UINT64_C(0x1f) << T_ROUTE_SHIFT)
#define T_WRITABLE (T_LEVEL | T_ENABLE | T_PERIODIC | T_SET_VALUE | T_32BIT)
#define T_CAPS ((uint64_t)HPET_ROUTES << 32 | T_CAN_PERIODIC | T_IS_64BIT)

/* Periods below are served in batches: a guest must not keep the host's timer thread busy. */
#define MIN_ARM_NS 100000

struct hpet_timer {
	uint64_t config; /* its writable bits and the route */
	uint64_t comparator, period;
};

struct hpet {
	struct device dev;
	struct irq_line gsi, legacy;
	struct device_timer timer;
	uint64_t config, status;
	uint64_t counter; /* at `since`; all there is while halted */
	uint64_t since;   /* timer_now() */
	uint64_t seen;    /* counter up to which matches were taken */
	struct hpet_timer t[TIMERS];
	uint32_t lines; /* GSIs held high */
};

static bool running(const struct hpet *h)
{
	return h->config & CONFIG_ENABLE;
}

static uint64_t counter_now(const struct hpet *h)
{
	if (!running(h))
		return h->counter;
	return h->counter + (timer_now(h->timer.service) - h->since) / TICK_NS;
}

/* Restart the count at `value` now. */
static void counter_set(struct hpet *h, uint64_t value)
{
	h->counter = value;
	h->since = timer_now(h->timer.service);
	h->seen = value;
}

/* ---- interrupts ---- */

/* Where a timer's interrupt goes: with the legacy route timers 0 and 1 are IRQ 0 and 8 (2.4.2). 0: nowhere. */
static uint32_t route_of(const struct hpet *h, unsigned n)
{
	static const unsigned legacy_irq[] = { 0, 8 };

	if ((h->config & CONFIG_LEGACY) && n < ARRAY_SIZE(legacy_irq))
		return BIT32(legacy_irq[n]);
	return BIT32((h->t[n].config & T_ROUTE) >> T_ROUTE_SHIFT) & HPET_ROUTES;
}

static void drive(struct hpet *h, uint32_t gsis, bool level)
{
	struct irq_line line = h->gsi;

	for (; gsis; gsis &= gsis - 1) {
		line.n = (unsigned)__builtin_ctz(gsis);
		irq_line_set(&line, level);
	}
}

/* Level-triggered lines follow the status bits; timers may share one. */
static void update_lines(struct hpet *h)
{
	uint32_t lines = 0;

	for (unsigned n = 0; n < TIMERS && running(h); n++)
		if ((h->status & BIT64(n)) && (h->t[n].config & T_ENABLE) && (h->t[n].config & T_LEVEL))
			lines |= route_of(h, n);
	drive(h, h->lines & ~lines, false);
	drive(h, lines & ~h->lines, true);
	h->lines = lines;
}

static void matched(struct hpet *h, unsigned n)
{
	const struct hpet_timer *t = &h->t[n];
	uint32_t route = route_of(h, n) & ~h->lines;

	if (t->config & T_LEVEL) {
		h->status |= BIT64(n); /* whether or not it may interrupt */
	} else if (t->config & T_ENABLE) {
		drive(h, route, true);
		drive(h, route, false);
	}
}

/* ---- matches ---- */

static uint64_t width_mask(const struct hpet_timer *t)
{
	return t->config & T_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* Ticks from `seen` to the next match; 0: a whole turn of the counter. */
static uint64_t distance(const struct hpet *h, const struct hpet_timer *t)
{
	uint64_t d = (t->comparator - h->seen) & width_mask(t);

	return !d && (t->config & T_32BIT) ? UINT64_C(1) << 32 : d;
}

/* Matches that lie between two looks merge into one interrupt; a periodic comparator is left behind the last. */
static void take_matches(struct hpet *h, unsigned n, uint64_t passed)
{
	struct hpet_timer *t = &h->t[n];
	uint64_t d = distance(h, t);

	if (!d || d > passed)
		return;
	if ((t->config & T_PERIODIC) && t->period)
		t->comparator = (t->comparator + ((passed - d) / t->period + 1) * t->period) & width_mask(t);
	matched(h, n);
}

static void arm(struct hpet *h)
{
	uint64_t now = timer_now(h->timer.service), best = UINT64_MAX;

	for (unsigned n = 0; n < TIMERS && running(h); n++) {
		const struct hpet_timer *t = &h->t[n];
		uint64_t d = distance(h, t), ns;

		if (!(t->config & T_ENABLE) || !d || d > UINT64_MAX / 2 / TICK_NS)
			continue;
		/* `seen` was a whole tick: its own remainder has passed already. */
		ns = d * TICK_NS - (now - h->since) % TICK_NS;
		if ((t->config & T_PERIODIC) && ns < MIN_ARM_NS)
			ns = MIN_ARM_NS;
		if (ns < best)
			best = ns;
	}
	if (best < UINT64_MAX - now)
		timer_arm(&h->timer, now + best);
	else
		timer_disarm(&h->timer);
}

/* Bring status, comparators and lines up to now. */
static void sync_matches(struct hpet *h)
{
	uint64_t now = counter_now(h), passed = now - h->seen;

	if (!running(h))
		return;
	for (unsigned n = 0; n < TIMERS; n++)
		take_matches(h, n, passed);
	h->seen = now;
	update_lines(h);
}

static void hpet_expired(struct device *dev)
{
	struct hpet *h = container_of(dev, struct hpet, dev);

	sync_matches(h);
	arm(h);
}

/* ---- registers ---- */

static uint64_t read_register(const struct hpet *h, uint64_t reg)
{
	unsigned n = (unsigned)(reg - REG_TIMER0) / TIMER_STRIDE;

	switch (reg) {
	case REG_CAP: return CAP_VALUE;
	case REG_CONFIG: return h->config;
	case REG_STATUS: return h->status;
	case REG_COUNTER: return counter_now(h);
	default: break;
	}
	if (reg < REG_TIMER0 || n >= TIMERS)
		return 0;
	switch ((reg - REG_TIMER0) % TIMER_STRIDE) {
	case TIMER_CONFIG: return T_CAPS | h->t[n].config;
	case TIMER_COMPARATOR: return h->t[n].comparator;
	default: return 0; /* no FSB route */
	}
}

static void write_config(struct hpet *h, uint64_t value)
{
	uint64_t changed = (value ^ h->config) & (CONFIG_ENABLE | CONFIG_LEGACY);
	uint64_t now = counter_now(h);

	/* The lines of the old route go down before they get another owner. */
	if (changed & CONFIG_LEGACY) {
		drive(h, h->lines, false);
		h->lines = 0;
	}
	h->config ^= changed;
	if (changed & CONFIG_ENABLE)
		counter_set(h, now);
	if (changed & CONFIG_LEGACY)
		irq_line_set(&h->legacy, h->config & CONFIG_LEGACY);
}

static void write_timer_config(struct hpet_timer *t, uint64_t value)
{
	uint64_t route = value & T_ROUTE;

	/* A route that is not offered does not stick; software reads back (2.3.8, Tn_INT_ROUTE_CNF). */
	if (!(BIT32(route >> T_ROUTE_SHIFT) & HPET_ROUTES))
		route = t->config & T_ROUTE;
	t->config = (value & T_WRITABLE) | route;
	if (!(t->config & T_PERIODIC))
		t->config &= ~T_SET_VALUE;
	t->comparator &= width_mask(t);
	t->period &= width_mask(t);
}

/*
 * In periodic mode a write gives the period, and with Tn_VAL_SET_CNF, which then clears itself, the next match as well
 * (2.3.9.2.2).
 */
static void write_comparator(struct hpet_timer *t, uint64_t value, uint64_t mask)
{
	if (!(t->config & T_PERIODIC) || (t->config & T_SET_VALUE))
		t->comparator = ((t->comparator & ~mask) | value) & width_mask(t);
	if (t->config & T_PERIODIC)
		t->period = ((t->period & ~mask) | value) & width_mask(t);
	t->config &= ~T_SET_VALUE;
}

static void write_register(struct hpet *h, uint64_t reg, uint64_t value, uint64_t mask)
{
	unsigned n = (unsigned)(reg - REG_TIMER0) / TIMER_STRIDE;

	switch (reg) {
	case REG_CONFIG: write_config(h, (h->config & ~mask) | value); return;
	case REG_STATUS: h->status &= ~value; return; /* write 1 to clear */
	case REG_COUNTER: counter_set(h, (counter_now(h) & ~mask) | value); return;
	default: break;
	}
	if (reg < REG_TIMER0 || n >= TIMERS)
		return;
	if ((reg - REG_TIMER0) % TIMER_STRIDE == TIMER_CONFIG)
		write_timer_config(&h->t[n], (h->t[n].config & ~mask) | value);
	else if ((reg - REG_TIMER0) % TIMER_STRIDE == TIMER_COMPARATOR)
		write_comparator(&h->t[n], value, mask);
}

static uint64_t hpet_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct hpet *h = container_of(dev, struct hpet, dev);

	(void)region, (void)size;
	sync_matches(h);
	return read_register(h, offset & ~UINT64_C(7)) >> (offset & 4) * 8;
}

static void hpet_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct hpet *h = container_of(dev, struct hpet, dev);
	uint64_t mask = size == 4 ? UINT32_MAX : UINT64_MAX;
	unsigned shift = (unsigned)(offset & 4) * 8;

	(void)region;
	sync_matches(h);
	write_register(h, offset & ~UINT64_C(7), (value & mask) << shift, mask << shift);
	sync_matches(h);
	update_lines(h);
	arm(h);
}

static void hpet_reset(struct device *dev)
{
	struct hpet *h = container_of(dev, struct hpet, dev);

	write_config(h, 0);
	h->status = 0;
	for (unsigned n = 0; n < TIMERS; n++)
		h->t[n] = (struct hpet_timer){ .comparator = UINT64_MAX };
	counter_set(h, 0);
	update_lines(h);
	arm(h);
}

static void hpet_destroy(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct hpet, dev));
}

static const struct device_ops hpet_ops = {
	.name = "hpet",
	.min_size = 4,
	.max_size = 8,
	.reset = hpet_reset,
	.read = hpet_read,
	.write = hpet_write,
	.destroy = hpet_destroy,
};

struct device *hpet_create(struct timer_service *timers, struct irq_line gsi, struct irq_line legacy)
{
	struct hpet *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	device_init(&h->dev, &hpet_ops);
	h->gsi = gsi;
	h->legacy = legacy;
	timer_init(&h->timer, timers, &h->dev, hpet_expired);
	hpet_reset(&h->dev);
	return &h->dev;
}
