/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254 through its ports, port 0x61 and the VM clock. */
#include "fakechip.h"

#include <errno.h>

#define HZ 1193182u
#define PIT_TIMER 0

/* The first nanosecond of PIT tick n. */
static uint64_t tick_ns(uint64_t n)
{
	return (n * 1000000000u + HZ - 1) / HZ;
}

static struct fakechip *make(void)
{
	struct fakechip *f = fakechip_create(1);

	irqchip_pit_enable(f->chip, true);
	f->now = tick_ns(1000); /* tests count in ticks from here */
	return f;
}

static void at(struct fakechip *f, uint64_t tick)
{
	f->now = tick_ns(1000 + tick);
}

static void control(struct fakechip *f, unsigned channel, unsigned rw, unsigned mode, bool bcd)
{
	fakechip_out(f, 0x43, (uint8_t)(channel << 6 | rw << 4 | mode << 1 | bcd));
}

static void load(struct fakechip *f, unsigned channel, unsigned mode, uint16_t count)
{
	control(f, channel, 3, mode, false);
	fakechip_out(f, (uint16_t)(0x40 + channel), (uint8_t)count);
	fakechip_out(f, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t count(struct fakechip *f, unsigned channel)
{
	uint8_t low;

	fakechip_out(f, 0x43, (uint8_t)(channel << 6));
	low = fakechip_in(f, (uint16_t)(0x40 + channel));
	return (uint16_t)(low | fakechip_in(f, (uint16_t)(0x40 + channel)) << 8);
}

static bool out2(struct fakechip *f)
{
	return fakechip_in(f, 0x61) & 0x20;
}

static void mode0(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_out(f, 0x61, 1);
	load(f, 2, 0, 1000);
	assert_int_equal(count(f, 2), 1000);
	at(f, 400);
	assert_int_equal(count(f, 2), 600);
	assert_false(out2(f));
	fakechip_out(f, 0x61, 0); /* the gate suspends */
	at(f, 5000);
	assert_int_equal(count(f, 2), 600);
	fakechip_out(f, 0x61, 1);
	at(f, 5599);
	assert_int_equal(count(f, 2), 1);
	assert_false(out2(f));
	at(f, 5600);
	assert_true(out2(f));
	at(f, 5610);
	assert_int_equal(count(f, 2), 0xfff6); /* runs on */
	assert_true(out2(f));
	control(f, 2, 3, 0, false);
	assert_false(out2(f)); /* the control word pulls OUT down */
	fakechip_destroy(f);
}

static void mode1_and_5(tz_unused void **state)
{
	struct fakechip *f = make();

	load(f, 2, 1, 100);
	assert_true(out2(f));
	fakechip_out(f, 0x61, 1);
	assert_false(out2(f));
	at(f, 60);
	fakechip_out(f, 0x61, 0);
	fakechip_out(f, 0x61, 1); /* retriggered */
	at(f, 159);
	assert_false(out2(f));
	at(f, 160);
	assert_true(out2(f));
	load(f, 2, 5, 100);
	fakechip_out(f, 0x61, 0);
	at(f, 200);
	fakechip_out(f, 0x61, 1);
	at(f, 299);
	assert_true(out2(f));
	at(f, 300);
	assert_false(out2(f));
	at(f, 301);
	assert_true(out2(f));
	fakechip_destroy(f);
}

static void mode2(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_out(f, 0x61, 1);
	load(f, 2, 2, 100);
	at(f, 30);
	assert_int_equal(count(f, 2), 70);
	at(f, 99);
	assert_int_equal(count(f, 2), 1);
	assert_false(out2(f));
	at(f, 100);
	assert_int_equal(count(f, 2), 100);
	assert_true(out2(f));
	fakechip_out(f, 0x42, 50); /* a new count: from the next period on */
	fakechip_out(f, 0x42, 0);
	at(f, 190);
	assert_int_equal(count(f, 2), 10);
	at(f, 200);
	assert_int_equal(count(f, 2), 50);
	at(f, 260);
	assert_int_equal(count(f, 2), 40);
	fakechip_out(f, 0x61, 0); /* gate low: OUT high, count stands */
	at(f, 299);
	assert_true(out2(f));
	assert_int_equal(count(f, 2), 40);
	fakechip_out(f, 0x61, 1);
	assert_int_equal(count(f, 2), 50);
	fakechip_destroy(f);
}

static void mode3_and_4(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_out(f, 0x61, 1);
	load(f, 2, 3, 100);
	at(f, 10);
	assert_int_equal(count(f, 2), 80); /* by two */
	at(f, 49);
	assert_true(out2(f));
	at(f, 50);
	assert_false(out2(f));
	assert_int_equal(count(f, 2), 100);
	at(f, 100);
	assert_true(out2(f));
	at(f, 0);
	load(f, 2, 3, 5); /* odd: three high, two low */
	for (unsigned t = 0; t < 20; t++) {
		at(f, t);
		assert_int_equal(out2(f), t % 5 < 3);
	}
	at(f, 0);
	load(f, 2, 4, 100);
	at(f, 99);
	assert_true(out2(f));
	at(f, 100);
	assert_false(out2(f));
	at(f, 101);
	assert_true(out2(f));
	fakechip_destroy(f);
}

static void latches(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_out(f, 0x61, 1);
	load(f, 2, 0, 0x1234);
	fakechip_out(f, 0x43, 0x80);
	at(f, 0x100);
	fakechip_out(f, 0x43, 0x80); /* the first latch holds */
	assert_int_equal(fakechip_in(f, 0x42), 0x34);
	assert_int_equal(fakechip_in(f, 0x42), 0x12);
	assert_int_equal(fakechip_in(f, 0x42), 0x34); /* live again */
	assert_int_equal(fakechip_in(f, 0x42), 0x11);
	fakechip_out(f, 0x43, 0xc8); /* read back status and count of 2 */
	at(f, 0x200);
	assert_int_equal(fakechip_in(f, 0x42), 0x30);
	assert_int_equal(fakechip_in(f, 0x42), 0x34);
	assert_int_equal(fakechip_in(f, 0x42), 0x11);
	control(f, 2, 1, 2, true);
	fakechip_out(f, 0x43, 0xe8); /* status only: OUT, null count, LSB, mode 2, BCD */
	assert_int_equal(fakechip_in(f, 0x42), 0x80 | 0x40 | 0x10 | 2 << 1 | 1);
	control(f, 2, 2, 7, false); /* MSB; 7 is 3 */
	fakechip_out(f, 0x42, 0x20);
	assert_int_equal(fakechip_in(f, 0x42), 0x20);
	fakechip_out(f, 0x43, 0xee);
	assert_int_equal(fakechip_in(f, 0x42), 0x80 | 0x20 | 3 << 1);
	control(f, 2, 3, 0, true);
	fakechip_out(f, 0x42, 0x00);
	fakechip_out(f, 0x42, 0x10); /* 1000 decimal */
	at(f, 0x201);
	assert_int_equal(count(f, 2), 0x0999);
	control(f, 2, 3, 2, false);
	fakechip_out(f, 0x42, 0);
	fakechip_out(f, 0x42, 0); /* 65536 */
	at(f, 0x202);
	assert_int_equal(count(f, 2), 0xffff);
	fakechip_destroy(f);
}

static void speaker_port(tz_unused void **state)
{
	struct fakechip *f = make();
	uint8_t first = fakechip_in(f, 0x61) & 0x10;
	unsigned toggles = 0;

	fakechip_out(f, 0x61, 0xfe);
	assert_int_equal(fakechip_in(f, 0x61) & 0xcf, 2);
	for (unsigned us = 0; us < 1000; us++) {
		uint8_t now;

		f->now += 1000;
		now = fakechip_in(f, 0x61) & 0x10;
		toggles += now != first;
		first = now;
	}
	assert_in_range(toggles, 65, 67); /* one every 15.085 us */
	fakechip_destroy(f);
}

/* 18.2 Hz for an hour: the n-th interrupt is never before its time and there are exactly as many as periods. */
static void no_drift(tz_unused void **state)
{
	struct fakechip *f = make();
	unsigned ticks = 0;

	fakechip_init_pics(f, 1);
	load(f, 0, 2, 0);
	while (f->now < UINT64_C(3600) * 1000000000) {
		fakechip_run_to(f, f->timer[PIT_TIMER]);
		if (lapic_irq_ack(f->cpu[0]) != 0x20)
			continue;
		fakechip_out(f, 0x20, 0x20);
		ticks++;
		assert_int_equal(f->now, tick_ns(1000 + (uint64_t)ticks * 65536));
	}
	assert_in_range(ticks, 65543, 65544);
	fakechip_destroy(f);
}

static void one_shot_channel0(tz_unused void **state)
{
	struct fakechip *f = make();

	fakechip_init_pics(f, 1);
	load(f, 0, 0, 5000);
	assert_int_equal(f->timer[PIT_TIMER], tick_ns(6000));
	fakechip_out(f, 0x40, 1); /* the first byte of a new count stops it */
	assert_int_equal(f->timer[PIT_TIMER], 0);
	fakechip_out(f, 0x40, 0x10);
	fakechip_run_to(f, tick_ns(1000 + 0x1001));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x20);
	assert_int_equal(f->timer[PIT_TIMER], 0);
	load(f, 0, 4, 100);
	assert_true(f->timer[PIT_TIMER] != 0);
	control(f, 0, 3, 2, false);
	assert_int_equal(f->timer[PIT_TIMER], 0);
	fakechip_destroy(f);
}

/* Edges that were late come one by one, each after the acknowledgement of the one before. */
static void reinjection_pic(tz_unused void **state)
{
	struct fakechip *f = make();
	unsigned taken = 0;

	fakechip_init_pics(f, 1);
	load(f, 0, 2, 11932); /* 100 Hz */
	at(f, 11932 * 7 + 10);
	irqchip_timer_expired(f->chip, PIT_TIMER);
	for (; lapic_irq_ack(f->cpu[0]) == 0x20; taken++)
		fakechip_out(f, 0x20, 0x20);
	assert_int_equal(taken, 7);
	assert_int_equal(f->timer[PIT_TIMER], tick_ns(1000 + 11932 * 8));
	fakechip_run_to(f, tick_ns(1000 + 11932 * 10)); /* three expiries in time, and a vCPU that is late */
	for (taken = 0; lapic_irq_ack(f->cpu[0]) == 0x20; taken++)
		fakechip_out(f, 0x20, 0x20);
	assert_int_equal(taken, 3);
	at(f, 11932 * 11 + 10);
	fakechip_out(f, 0x21, 1); /* masked: lost, but for the one in the edge latch */
	irqchip_timer_expired(f->chip, PIT_TIMER);
	fakechip_out(f, 0x21, 0);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x20);
	fakechip_out(f, 0x20, 0x20);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), -1);
	at(f, UINT64_C(11932) * 100000); /* a long stop: a second's worth at most */
	irqchip_timer_expired(f->chip, PIT_TIMER);
	for (taken = 0; lapic_irq_ack(f->cpu[0]) == 0x20; taken++)
		fakechip_out(f, 0x20, 0x20);
	assert_in_range(taken, 99, 102);
	fakechip_destroy(f);
}

static void reinjection_ioapic(tz_unused void **state)
{
	struct fakechip *f = make();
	unsigned taken = 0;

	fakechip_put(f, 0, 0xf0, 0x1ff);
	fakechip_out(f, 0x21, 0xff);
	fakechip_redir(f, 2, 0x30);
	load(f, 0, 3, 11932);
	at(f, 11932 * 5 + 10);
	irqchip_timer_expired(f->chip, PIT_TIMER);
	for (; lapic_irq_ack(f->cpu[0]) == 0x30; taken++) {
		assert_int_equal(lapic_irq_ack(f->cpu[0]), -1);
		fakechip_put(f, 0, 0xb0, 0);
	}
	assert_int_equal(taken, 5);
	/* A tick that a LAPIC's reset swallowed does not stop the clock for good. */
	at(f, 11932 * 6);
	irqchip_timer_expired(f->chip, PIT_TIMER);
	lapic_reset(f->cpu[0], true);
	fakechip_put(f, 0, 0xf0, 0x1ff);
	fakechip_put(f, 0, 0x350, 0x10000);
	fakechip_run_to(f, f->now + UINT64_C(1100000000));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x30);
	fakechip_destroy(f);
}

static void changed_period(tz_unused void **state)
{
	struct fakechip *f = make();
	unsigned taken = 0;

	fakechip_init_pics(f, 1);
	load(f, 0, 2, 10000);
	at(f, 5000);
	fakechip_out(f, 0x40, (uint8_t)2000); /* on the fly: after this period */
	fakechip_out(f, 0x40, 2000 >> 8);
	assert_int_equal(f->timer[PIT_TIMER], tick_ns(11000));
	at(f, 14500);
	irqchip_timer_expired(f->chip, PIT_TIMER); /* edges at 10000, 12000, 14000 */
	for (; lapic_irq_ack(f->cpu[0]) == 0x20; taken++)
		fakechip_out(f, 0x20, 0x20);
	assert_int_equal(taken, 3);
	assert_int_equal(f->timer[PIT_TIMER], tick_ns(1000 + 16000));
	load(f, 0, 2, 2); /* half a million a second: armed in batches */
	assert_true(f->timer[PIT_TIMER] >= f->now + 100000);
	load(f, 0, 2, 1); /* illegal: taken for 2, no division by zero later */
	fakechip_run_to(f, f->now + 1000000);
	fakechip_destroy(f);
}

static void state_round_trip(tz_unused void **state)
{
	struct fakechip *f = make(), *g = make();
	uint8_t s[112], t[112];
	uint32_t huge = 0x10001;

	fakechip_out(f, 0x61, 3);
	load(f, 0, 2, 11932);
	load(f, 2, 3, 0);
	control(f, 1, 1, 2, true);
	fakechip_out(f, 0x43, 0x80);
	irqchip_get_pit(f->chip, s);
	assert_int_equal(s[0] | s[1] << 8, 11932); /* struct kvm_pit_channel_state: count, mode */
	assert_int_equal(s[13], 2);
	assert_int_equal(s[48 + 2], 1); /* 65536 */
	assert_int_equal(s[72], 2);     /* KVM_PIT_FLAGS_SPEAKER_DATA_ON */
	assert_int_equal(irqchip_set_pit(g->chip, s), 0);
	irqchip_get_pit(g->chip, t);
	assert_memory_equal(s, t, sizeof(s));
	assert_int_equal(g->timer[PIT_TIMER], f->timer[PIT_TIMER]);
	memcpy(s, &huge, 4);
	assert_int_equal(irqchip_set_pit(g->chip, s), -EINVAL);
	fakechip_destroy(f);
	fakechip_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mode0),           cmocka_unit_test(mode1_and_5),
		cmocka_unit_test(mode2),           cmocka_unit_test(mode3_and_4),
		cmocka_unit_test(latches),         cmocka_unit_test(speaker_port),
		cmocka_unit_test(no_drift),        cmocka_unit_test(one_shot_channel0),
		cmocka_unit_test(reinjection_pic), cmocka_unit_test(reinjection_ioapic),
		cmocka_unit_test(changed_period),  cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
