/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818A real-time clock with CMOS RAM (Motorola data sheet; section numbers are its). The clock follows the
 * host's UTC plus an offset that the guest changes by setting the time. Nothing ticks: flags are brought up to
 * date when somebody looks (sync) and a timer is armed only for interrupts that are enabled.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/compiler.h"
#include "device/models.h"

enum {
	REG_SECONDS,
	REG_SECONDS_ALARM,
	REG_MINUTES,
	REG_MINUTES_ALARM,
	REG_HOURS,
	REG_HOURS_ALARM,
	REG_WEEKDAY,
	REG_DAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	REG_CENTURY = 0x32, /* not the chip's: where a PC keeps it (FADT CENTURY) */
};

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_RATE 0x0f
#define A_DIVIDER_32K 0x20
#define A_DIVIDER_RESET 0x60 /* both upper bits: the divider chain is held */

#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02

#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10

#define D_VRT 0x80

#define HOURS_PM 0x80
#define ALARM_ANY 0xc0 /* "don't care": both upper bits set */

#define UIP_NS 244000 /* UIP rises that long before an update */
#define BASE_HZ 32768u
#define DAY_SECONDS 86400
#define TIME_MAX INT64_C(7900000000) /* in 2220: nanoseconds still fit int64_t with room to go on */

struct rtc {
	struct device dev;
	struct irq_line irq;
	struct device_timer timer;
	uint8_t index;
	uint8_t reg[RTC_CMOS_SIZE]; /* time bytes: valid while the clock is held, else refreshed on a read */
	int64_t offset;             /* RTC time = host wall clock + offset, ns since 1970 */
	int64_t fraction;           /* while held by SET: the part of the second that goes on after it */
	uint64_t synced;            /* RTC time up to which UF and AF are known */
	uint64_t periodic;          /* monotonic time up to which PF is known */
	bool irq_level;
};

static uint64_t rtc_time(const struct rtc *r)
{
	int64_t time = (int64_t)timer_wall(r->timer.service) + r->offset;

	return time > 0 ? (uint64_t)time : 0; /* the host's clock may be set back */
}

static bool divider_held(const struct rtc *r)
{
	return (r->reg[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* No updates happen: SET, or the divider chain is in reset. */
static bool held(const struct rtc *r)
{
	return (r->reg[REG_B] & B_SET) || divider_held(r);
}

/* ---- formats (table 2 of the data sheet) ---- */

static uint8_t to_reg(const struct rtc *r, unsigned value)
{
	return (uint8_t)(r->reg[REG_B] & B_BINARY ? value : (value / 10 % 10) << 4 | value % 10);
}

static unsigned from_reg(const struct rtc *r, uint8_t byte)
{
	return r->reg[REG_B] & B_BINARY ? byte : (byte >> 4) * 10u + (byte & 0x0f);
}

static uint8_t hours_to_reg(const struct rtc *r, unsigned hour)
{
	if (r->reg[REG_B] & B_24H)
		return to_reg(r, hour);
	return to_reg(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0);
}

static unsigned hours_from_reg(const struct rtc *r, uint8_t byte)
{
	if (r->reg[REG_B] & B_24H)
		return from_reg(r, byte);
	return from_reg(r, byte & 0x7f) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* Time registers from the running clock. */
static void load_time(struct rtc *r)
{
	time_t seconds = (time_t)(rtc_time(r) / NS_PER_SEC);
	struct tm tm;

	gmtime_r(&seconds, &tm);
	r->reg[REG_SECONDS] = to_reg(r, (unsigned)tm.tm_sec);
	r->reg[REG_MINUTES] = to_reg(r, (unsigned)tm.tm_min);
	r->reg[REG_HOURS] = hours_to_reg(r, (unsigned)tm.tm_hour);
	r->reg[REG_WEEKDAY] = to_reg(r, (unsigned)tm.tm_wday + 1);
	r->reg[REG_DAY] = to_reg(r, (unsigned)tm.tm_mday);
	r->reg[REG_MONTH] = to_reg(r, (unsigned)tm.tm_mon + 1);
	r->reg[REG_YEAR] = to_reg(r, (unsigned)tm.tm_year % 100);
	r->reg[REG_CENTURY] = to_reg(r, ((unsigned)tm.tm_year + 1900) / 100);
}

/* The running clock from the time registers; fraction: ns into the second. Nonsense is normalised by timegm. */
static void store_time(struct rtc *r, int64_t fraction)
{
	struct tm tm = {
		.tm_sec = (int)from_reg(r, r->reg[REG_SECONDS]),
		.tm_min = (int)from_reg(r, r->reg[REG_MINUTES]),
		.tm_hour = (int)hours_from_reg(r, r->reg[REG_HOURS]),
		.tm_mday = (int)from_reg(r, r->reg[REG_DAY]),
		.tm_mon = (int)from_reg(r, r->reg[REG_MONTH]) - 1,
		.tm_year = (int)(from_reg(r, r->reg[REG_YEAR]) + from_reg(r, r->reg[REG_CENTURY]) * 100) - 1900,
	};
	int64_t seconds = timegm(&tm);

	if (seconds < 0) /* what the clock cannot count to becomes the nearest end of its range */
		seconds = 0;
	if (seconds > TIME_MAX)
		seconds = TIME_MAX;
	r->offset = seconds * (int64_t)NS_PER_SEC + fraction - (int64_t)timer_wall(r->timer.service);
	r->synced = rtc_time(r);
}

/* ---- flags ---- */

static bool alarm_field_matches(uint8_t alarm, unsigned wanted, unsigned value)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || wanted == value;
}

/* Seconds from second-of-day `now` to the next one that matches the alarm, 1..86400; 0: never. */
static unsigned alarm_distance(const struct rtc *r, unsigned now)
{
	uint8_t ah = r->reg[REG_HOURS_ALARM], am = r->reg[REG_MINUTES_ALARM], as = r->reg[REG_SECONDS_ALARM];
	unsigned hour = hours_from_reg(r, ah), minute = from_reg(r, am), second = from_reg(r, as);
	unsigned t = now + 1, end = now + DAY_SECONDS;

	if (second > 59 && (as & ALARM_ANY) != ALARM_ANY)
		return 0; /* do not search the whole day for nothing */
	while (t <= end) {
		unsigned sod = t % DAY_SECONDS;

		if (!alarm_field_matches(ah, hour, sod / 3600))
			t += 3600 - sod % 3600;
		else if (!alarm_field_matches(am, minute, sod / 60 % 60))
			t += 60 - sod % 60;
		else if (!alarm_field_matches(as, second, sod % 60))
			t++;
		else
			return t - now;
	}
	return 0;
}

/* Length of the periodic interrupt's period in ns, 0: off (table 5). */
static uint64_t period_ns(const struct rtc *r)
{
	unsigned rate = r->reg[REG_A] & A_RATE;

	if (!rate || divider_held(r))
		return 0;
	if (rate < 3) /* 3.9 and 7.8 ms with the 32 kHz crystal */
		rate += 7;
	return (NS_PER_SEC << (rate - 1)) / BASE_HZ;
}

/* Bring PF, UF and AF up to date. */
static void sync_flags(struct rtc *r)
{
	uint64_t mono = timer_now(r->timer.service);
	uint64_t now = rtc_time(r);
	uint64_t period = period_ns(r);

	if (period && mono / period != r->periodic / period)
		r->reg[REG_C] |= C_PF;
	r->periodic = mono;

	if (held(r))
		return;
	if (now / NS_PER_SEC > r->synced / NS_PER_SEC) {
		uint64_t from = r->synced / NS_PER_SEC;
		unsigned distance = alarm_distance(r, (unsigned)(from % DAY_SECONDS));

		r->reg[REG_C] |= C_UF;
		if (distance && distance <= now / NS_PER_SEC - from)
			r->reg[REG_C] |= C_AF;
	}
	r->synced = now;
}

static void arm_timer(struct rtc *r)
{
	uint64_t mono = timer_now(r->timer.service);
	uint64_t now = rtc_time(r);
	uint64_t into = now % NS_PER_SEC, deadline = UINT64_MAX, period = period_ns(r);
	uint8_t wanted = r->reg[REG_B] & ~r->reg[REG_C];

	if ((wanted & B_PIE) && period)
		deadline = (mono / period + 1) * period;
	if ((wanted & B_UIE) && !held(r) && mono + NS_PER_SEC - into < deadline)
		deadline = mono + NS_PER_SEC - into;
	if ((wanted & B_AIE) && !held(r)) {
		unsigned distance = alarm_distance(r, (unsigned)(now / NS_PER_SEC % DAY_SECONDS));

		if (distance && mono + distance * NS_PER_SEC - into < deadline)
			deadline = mono + distance * NS_PER_SEC - into;
	}
	if (deadline == UINT64_MAX)
		timer_disarm(&r->timer);
	else
		timer_arm(&r->timer, deadline);
}

/* IRQF = PF.PIE + AF.AIE + UF.UIE. The flags of C sit at the bits of their enables in B. */
static void update_irq(struct rtc *r)
{
	bool level = r->reg[REG_C] & r->reg[REG_B] & (C_PF | C_AF | C_UF);

	r->reg[REG_C] = (uint8_t)((r->reg[REG_C] & ~C_IRQF) | (level ? C_IRQF : 0));
	if (level != r->irq_level) {
		r->irq_level = level;
		irq_line_set(&r->irq, level);
	}
}

static void refresh(struct rtc *r)
{
	sync_flags(r);
	update_irq(r);
	arm_timer(r);
}

static void timer_expired(struct device *dev)
{
	refresh(container_of(dev, struct rtc, dev));
}

/* ---- registers ---- */

static bool is_time(unsigned index)
{
	return index == REG_CENTURY || (index <= REG_YEAR && index != REG_SECONDS_ALARM && index != REG_MINUTES_ALARM &&
					index != REG_HOURS_ALARM);
}

static uint8_t read_reg_a(const struct rtc *r)
{
	bool uip = !held(r) && rtc_time(r) % NS_PER_SEC >= NS_PER_SEC - UIP_NS;

	return r->reg[REG_A] | (uip ? A_UIP : 0);
}

static uint8_t read_reg_c(struct rtc *r)
{
	uint8_t value;

	refresh(r);
	value = r->reg[REG_C];
	r->reg[REG_C] = 0;
	refresh(r);
	return value;
}

static uint8_t read_register(struct rtc *r, unsigned index)
{
	switch (index) {
	case REG_A: return read_reg_a(r);
	case REG_C: return read_reg_c(r);
	case REG_D: return D_VRT;
	}
	if (is_time(index) && !held(r))
		load_time(r);
	return r->reg[index];
}

/* A change of A or B that holds or releases the clock: registers and clock take over from each other. */
static void write_control(struct rtc *r, unsigned index, uint8_t value)
{
	bool was_held = held(r), divider_was_held = divider_held(r);

	sync_flags(r);
	if (!was_held) {
		load_time(r);
		r->fraction = (int64_t)(rtc_time(r) % NS_PER_SEC);
	}
	r->reg[index] = value;
	/* The first update comes half a second after the divider is released ("Divider Stages"). */
	if (divider_was_held && !divider_held(r))
		r->fraction = NS_PER_SEC / 2;
	if (was_held && !held(r))
		store_time(r, r->fraction);
	r->periodic = timer_now(r->timer.service);
}

static void write_register(struct rtc *r, unsigned index, uint8_t value)
{
	switch (index) {
	case REG_A: write_control(r, REG_A, value & (uint8_t)~A_UIP); break;
	case REG_B:
		if (value & B_SET) /* SET clears UIE */
			value &= (uint8_t)~B_UIE;
		write_control(r, REG_B, value);
		break;
	case REG_C:
	case REG_D: return; /* read-only */
	default:
		if (is_time(index) && !held(r)) {
			sync_flags(r);
			load_time(r);
			r->reg[index] = value;
			store_time(r, (int64_t)(rtc_time(r) % NS_PER_SEC));
		} else {
			sync_flags(r); /* up to now the old alarm counted */
			r->reg[index] = value;
		}
	}
	refresh(r);
}

static uint64_t rtc_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	(void)region;
	(void)size;
	if (offset == 0)
		return 0xff; /* the index is write-only; bit 7 of it is the NMI mask of the board */
	return read_register(r, r->index);
}

static void rtc_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	(void)region;
	(void)size;
	if (offset == 0)
		r->index = value & (RTC_CMOS_SIZE - 1);
	else
		write_register(r, r->index, (uint8_t)value);
}

/* RESET of the chip: the battery keeps time, alarm, A and RAM; interrupts are off (figure 9). */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	sync_flags(r);
	r->index = 0;
	r->reg[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
	r->reg[REG_C] = 0;
	refresh(r);
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	device_fini(dev);
	free(r);
}

static const struct device_ops rtc_ops = {
	.name = "rtc",
	.min_size = 1,
	.max_size = 1,
	.reset = rtc_reset,
	.read = rtc_read,
	.write = rtc_write,
	.destroy = rtc_destroy,
};

struct device *rtc_create(struct timer_service *timers, struct irq_line irq, const uint8_t cmos[RTC_CMOS_SIZE])
{
	struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	device_init(&r->dev, &rtc_ops);
	r->irq = irq;
	timer_init(&r->timer, timers, &r->dev, timer_expired);
	memcpy(r->reg, cmos, sizeof(r->reg));
	memset(r->reg, 0, REG_D + 1);
	r->reg[REG_A] = A_DIVIDER_32K | 6; /* 1024 Hz, as every BIOS leaves it */
	r->reg[REG_B] = B_24H;
	r->synced = rtc_time(r);
	r->periodic = timer_now(timers);
	return &r->dev;
}
