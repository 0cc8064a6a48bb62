/* SPDX-License-Identifier: Apache-2.0 */
/* 8254 PIT (Intel 8254 data sheet) and port 0x61, computed from the VM clock; channel 0 drives GSI 0. */
#include "x86/apic/chip.h"

#define NS_PER_S 1000000000u
/* Timers are not armed closer than this: a guest that asks for more edges a second gets them in batches. */
#define MIN_ARM_NS 100000u
#define REFRESH_TOGGLE_NS 15085u /* DRAM refresh: channel 1 of a PC counts 18 ticks */

#define CONTROL_PORT 3u
#define READ_BACK 3u /* "counter" number in the control word */
#define READ_BACK_NO_COUNT 0x20u
#define READ_BACK_NO_STATUS 0x10u
#define STATUS_OUT 0x80u
#define STATUS_NULL_COUNT 0x40u

static uint64_t ticks_of(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_S);
}

/* The first nanosecond at which `tick` is reached. */
static uint64_t ns_of(uint64_t tick)
{
	return (uint64_t)(((unsigned __int128)tick * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

static bool is_periodic(const struct pit_channel *ch)
{
	return ch->mode == 2 || ch->mode == 3;
}

/* Modes 1 and 5 start on a rising gate; the others count while the gate is high. */
static bool is_triggered(const struct pit_channel *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

/* In periodic modes a count written on the fly takes over when the running period ends. */
static void switch_count(struct pit_channel *ch, uint64_t now)
{
	if (!ch->switch_tick || now < ch->switch_tick)
		return;
	ch->start = ch->switch_tick;
	ch->count = ch->reload;
	ch->switch_tick = 0;
}

static uint64_t elapsed(const struct pit_channel *ch, uint64_t now)
{
	return ch->running ? now - ch->start : ch->held;
}

static uint32_t to_bcd(uint32_t v)
{
	return v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12;
}

static uint32_t from_bcd(uint32_t v)
{
	return (v & 0xf) + (v >> 4 & 0xf) * 10 + (v >> 8 & 0xf) * 100 + (v >> 12 & 0xf) * 1000;
}

/* Ticks of a period with OUT high: all but one, or the larger half. */
static uint32_t high_ticks(const struct pit_channel *ch)
{
	return ch->mode == 2 ? ch->count - 1 : (ch->count + 1) / 2;
}

/* The counting element as software reads it. */
static uint16_t current_count(const struct pit_channel *ch, uint64_t now)
{
	uint32_t modulus = ch->bcd ? 10000 : 0x10000, value;
	uint64_t t = elapsed(ch, now), pos;

	if (!ch->loaded)
		return 0;
	pos = t % ch->count;
	if (ch->mode == 2)
		value = ch->count - (uint32_t)pos;
	else if (ch->mode == 3) /* counts down by two, twice a period */
		value = (ch->count & ~1u) - 2 * (uint32_t)(pos < high_ticks(ch) ? pos : pos - high_ticks(ch));
	else /* runs on below zero */
		value = (ch->count + modulus - (uint32_t)(t % modulus)) % modulus;
	value %= modulus;
	return (uint16_t)(ch->bcd ? to_bcd(value) : value);
}

static bool out_level(const struct pit_channel *ch, uint64_t now)
{
	uint64_t t = elapsed(ch, now);

	if (!ch->loaded)
		return ch->mode != 0;
	switch (ch->mode) {
	case 0: return t >= ch->count;
	case 1: return !ch->running || t >= ch->count;
	case 2:
	case 3: return !ch->running || t % ch->count < high_ticks(ch);
	default: /* 4, 5: a strobe of one tick */ return t != ch->count;
	}
}

/* ---- channel 0's interrupts ---- */

static void arm(struct irqchip *chip, uint64_t now_ns)
{
	struct pit *pit = &chip->pit;
	uint64_t deadline = 0;

	if (pit->next_tick && !pit->hpet_legacy) {
		deadline = ns_of(pit->next_tick);
		if (is_periodic(&pit->ch[0]) && deadline < now_ns + MIN_ARM_NS)
			deadline = now_ns + MIN_ARM_NS;
		if (!deadline)
			deadline = 1;
	}
	chip->ops->timer_arm(chip->ctx, IRQCHIP_TIMER_PIT, deadline);
}

/* Channel 0 starts over: the next edge of OUT from the state of the channel. */
static void restart_edges(struct irqchip *chip, uint64_t now_ns)
{
	const struct pit_channel *ch = &chip->pit.ch[0];

	chip->pit.next_tick = ch->loaded && ch->running ? ch->start + ch->count : 0;
	chip->pit.pending = 0;
	chip->pit.in_flight = false;
	arm(chip, now_ns);
}

static void inject(struct irqchip *chip)
{
	struct pit *pit = &chip->pit;

	if (!pit->pending || pit->in_flight)
		return;
	pit->pending--;
	pit->in_flight = irqchip_pulse_pit_locked(chip);
	if (!pit->in_flight)
		pit->pending = 0; /* nobody listens: the edges are lost */
}

void pit_tick_acked_locked(struct irqchip *chip)
{
	chip->pit.in_flight = false;
	inject(chip);
}

void pit_line_rerouted_locked(struct irqchip *chip)
{
	chip->pit.pending = 0;
	chip->pit.in_flight = false;
	chip->pit_eoi_vector = -1;
}

/* Count the edges up to `now`, through changes of the count. */
static void collect_edges(struct pit *pit, uint64_t now)
{
	struct pit_channel *ch = &pit->ch[0];

	while (pit->next_tick) {
		bool switching = ch->switch_tick && ch->switch_tick <= now;
		uint64_t until = switching ? ch->switch_tick : now;

		if (until >= pit->next_tick) {
			uint64_t n = is_periodic(ch) ? (until - pit->next_tick) / ch->count + 1 : 1;

			pit->pending += n;
			pit->next_tick = is_periodic(ch) ? pit->next_tick + n * ch->count : 0;
		}
		if (!switching)
			return;
		switch_count(ch, now);
		pit->next_tick = ch->start + ch->count;
	}
}

void pit_expired_locked(struct irqchip *chip)
{
	struct pit *pit = &chip->pit;
	uint64_t now_ns = chip_now(chip), most;

	if (!pit->next_tick || pit->hpet_legacy)
		return;
	collect_edges(pit, ticks_of(now_ns));
	arm(chip, now_ns);
	/*
	 * More than a second behind: no acknowledgement will come (the interrupt was dropped with a LAPIC's reset,
	 * say), or the guest cannot keep up. Go on as hardware would.
	 */
	most = PIT_HZ / pit->ch[0].count + 1;
	if (pit->pending > most) {
		pit->pending = most;
		pit->in_flight = false;
	}
	inject(chip);
}

/* ---- programming ---- */

static void load_count(struct irqchip *chip, unsigned n, uint32_t raw)
{
	struct pit_channel *ch = &chip->pit.ch[n];
	uint64_t now_ns = chip_now(chip), now = ticks_of(now_ns);
	uint32_t count = ch->bcd ? from_bcd(raw) : raw;
	bool on_the_fly = ch->loaded && ch->running && (is_periodic(ch) || is_triggered(ch));

	if (!count)
		count = ch->bcd ? 10000 : 0x10000;
	if (is_periodic(ch) && count == 1)
		count = 2; /* 1 is illegal there */
	switch_count(ch, now);
	ch->reload = count;
	if (on_the_fly) {
		/* Triggered modes use it at the next trigger. */
		if (is_periodic(ch))
			ch->switch_tick = ch->start + ((now - ch->start) / ch->count + 1) * ch->count;
		return;
	}
	ch->loaded = true;
	ch->count = count;
	ch->start = now;
	ch->held = 0;
	ch->running = ch->gate && !is_triggered(ch);
	if (n == 0)
		restart_edges(chip, now_ns);
}

static void set_gate(struct irqchip *chip, struct pit_channel *ch, bool gate)
{
	uint64_t now = ticks_of(chip_now(chip));

	if (ch->gate == gate)
		return;
	switch_count(ch, now);
	ch->gate = gate;
	if (!ch->loaded)
		return;
	if (is_triggered(ch)) {
		if (!gate)
			return;
		ch->count = ch->reload;
		ch->start = now;
		ch->running = true;
	} else if (!gate) {
		ch->held = elapsed(ch, now);
		ch->running = false;
		ch->switch_tick = 0;
	} else {
		/* Periodic modes begin a new period, modes 0 and 4 go on. */
		if (is_periodic(ch)) {
			ch->count = ch->reload;
			ch->held = 0;
		}
		ch->start = now - ch->held;
		ch->running = true;
	}
}

static void latch_count(struct pit_channel *ch, uint64_t now)
{
	if (ch->count_latched)
		return; /* the first latch stays until it is read */
	ch->latched_count = current_count(ch, now);
	ch->count_latched = ch->rw_mode;
}

static void latch_status(struct pit_channel *ch, uint64_t now)
{
	if (ch->status_latched)
		return;
	ch->status = (uint8_t)((out_level(ch, now) ? STATUS_OUT : 0) | (ch->loaded ? 0 : STATUS_NULL_COUNT) |
			       ch->rw_mode << 4 | ch->mode << 1 | ch->bcd);
	if (ch->switch_tick)
		ch->status |= STATUS_NULL_COUNT; /* the new count is not in the counting element yet */
	ch->status_latched = true;
}

static void write_control(struct irqchip *chip, uint8_t value)
{
	uint64_t now_ns = chip_now(chip), now = ticks_of(now_ns);
	unsigned n = value >> 6, rw = (value >> 4) & 3;
	struct pit_channel *ch;

	if (n == READ_BACK) {
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & (2u << i)))
				continue;
			switch_count(&chip->pit.ch[i], now);
			if (!(value & READ_BACK_NO_COUNT))
				latch_count(&chip->pit.ch[i], now);
			if (!(value & READ_BACK_NO_STATUS))
				latch_status(&chip->pit.ch[i], now);
		}
		return;
	}
	ch = &chip->pit.ch[n];
	if (!rw) {
		switch_count(ch, now);
		latch_count(ch, now);
		return;
	}
	ch->rw_mode = (uint8_t)rw;
	ch->read_state = ch->write_state = (uint8_t)rw; /* PIT_RW_LSB, _MSB, _WORD0 are the field's values */
	ch->mode = (value >> 1) & 7;
	if (ch->mode > 5)
		ch->mode -= 4; /* 6 and 7 are 2 and 3 */
	ch->bcd = value & 1;
	ch->loaded = ch->running = false;
	ch->held = 0;
	ch->switch_tick = 0;
	ch->count_latched = PIT_RW_NONE;
	ch->status_latched = false;
	if (n == 0)
		restart_edges(chip, now_ns);
}

void pit_write_locked(struct irqchip *chip, unsigned port, uint8_t value)
{
	struct pit_channel *ch;

	if (port == CONTROL_PORT) {
		write_control(chip, value);
		return;
	}
	ch = &chip->pit.ch[port];
	switch (ch->write_state) {
	case PIT_RW_LSB: load_count(chip, port, value); break;
	case PIT_RW_MSB: load_count(chip, port, (uint32_t)value << 8); break;
	case PIT_RW_WORD0:
		ch->write_latch = value;
		ch->write_state = PIT_RW_WORD1;
		if (ch->mode == 0) { /* the first byte stops the count, OUT goes low */
			ch->loaded = ch->running = false;
			ch->held = 0;
			if (port == 0)
				restart_edges(chip, chip_now(chip));
		}
		break;
	case PIT_RW_WORD1:
		ch->write_state = PIT_RW_WORD0;
		load_count(chip, port, ch->write_latch | (uint32_t)value << 8);
		break;
	default: /* no control word yet */ break;
	}
}

static uint8_t read_latched(struct pit_channel *ch)
{
	switch (ch->count_latched) {
	case PIT_RW_MSB:
	case PIT_RW_WORD1: ch->count_latched = PIT_RW_NONE; return (uint8_t)(ch->latched_count >> 8);
	case PIT_RW_WORD0: ch->count_latched = PIT_RW_WORD1; return (uint8_t)ch->latched_count;
	default: ch->count_latched = PIT_RW_NONE; return (uint8_t)ch->latched_count;
	}
}

uint8_t pit_read_locked(struct irqchip *chip, unsigned port)
{
	uint64_t now = ticks_of(chip_now(chip));
	struct pit_channel *ch;
	uint16_t count;

	if (port == CONTROL_PORT)
		return 0; /* write-only */
	ch = &chip->pit.ch[port];
	switch_count(ch, now);
	if (ch->status_latched) {
		ch->status_latched = false;
		return ch->status;
	}
	if (ch->count_latched)
		return read_latched(ch);
	count = current_count(ch, now);
	switch (ch->read_state) {
	case PIT_RW_MSB: return (uint8_t)(count >> 8);
	case PIT_RW_WORD0: ch->read_state = PIT_RW_WORD1; return (uint8_t)count;
	case PIT_RW_WORD1: ch->read_state = PIT_RW_WORD0; return (uint8_t)(count >> 8);
	default: return (uint8_t)count;
	}
}

/* ---- port 0x61: channel 2's gate and output, the refresh toggle ---- */

uint8_t pit_speaker_read_locked(struct irqchip *chip)
{
	uint64_t now_ns = chip_now(chip), now = ticks_of(now_ns);
	struct pit_channel *ch = &chip->pit.ch[2];

	switch_count(ch, now);
	return (uint8_t)(ch->gate | chip->pit.speaker_data << 1 | (now_ns / REFRESH_TOGGLE_NS & 1) << 4 |
			 out_level(ch, now) << 5);
}

void pit_speaker_write_locked(struct irqchip *chip, uint8_t value)
{
	chip->pit.speaker_data = value & 2;
	set_gate(chip, &chip->pit.ch[2], value & 1);
}

void pit_reset_locked(struct irqchip *chip)
{
	struct pit *pit = &chip->pit;

	*pit = (struct pit){ 0 };
	for (unsigned n = 0; n < 3; n++)
		/* The mode is undefined until a control word comes: take one that does nothing. */
		pit->ch[n] = (struct pit_channel){ .mode = 3, .rw_mode = PIT_RW_WORD0, .gate = n != 2 };
	chip->pit_eoi_vector = -1;
	if (chip->pit_enabled)
		arm(chip, 0);
}

/* Restored state: every channel begins its count anew, as in KVM. */
void pit_restart_locked(struct irqchip *chip)
{
	uint64_t now_ns = chip_now(chip);

	for (unsigned n = 0; n < 3; n++) {
		struct pit_channel *ch = &chip->pit.ch[n];

		ch->switch_tick = 0;
		ch->start = ch->loaded ? ticks_of(now_ns) : 0;
		ch->held = 0;
		ch->count = ch->reload;
		ch->running = ch->loaded && ch->gate && !is_triggered(ch);
	}
	restart_edges(chip, now_ns);
}

uint64_t pit_start_ns(const struct pit_channel *ch)
{
	return ns_of(ch->start);
}
