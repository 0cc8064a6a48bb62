/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A UART (National Semiconductor PC16550D data sheet). The transmitter is infinitely fast: a byte
 * written to THR is in the back end before the OUT completes, so THR and TSR are always empty. The
 * receiver takes what fits, once somebody in the guest listens, and asks for more when room appears.
 */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"
#include "machine/board.h"

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_RLS 0x04
#define IER_MS 0x08
#define IER_MASK 0x0f

#define IIR_NONE 0x01
#define IIR_MS 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_RLS 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_TRIGGER_SHIFT 6

#define LCR_STOP 0x04
#define LCR_PARITY 0x08
#define LCR_BREAK 0x40
#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_PE 0x04
#define LSR_FE 0x08
#define LSR_BI 0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define LSR_FIFO_ERROR 0x80
#define LSR_ERRORS (LSR_OE | LSR_PE | LSR_FE | LSR_BI)

#define MSR_DELTAS 0x0f
#define MSR_TERI 0x04
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

#define FIFO_SIZE 16
#define CLOCK_HZ 1843200u
#define DIVISOR_DEFAULT 1 /* 115200 */
#define SETTLE_NS UINT64_C(100000000)
#define IDLE_POLLS 16 /* reads of LSR without a byte sent in between: more than any transmitter needs */

struct rx_char {
	uint8_t data;
	uint8_t errors; /* PE, FE, BI of this character */
};

struct serial {
	struct device dev;
	struct irq_line irq;
	struct chardev *backend;
	struct device_timer rx_timer;
	uint64_t rx_deadline;
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint16_t divisor;
	bool overrun;      /* LSR.OE */
	uint8_t rx_errors; /* LSR PE, FE, BI: of the character at the top, until LSR is read */
	bool thre_pending;
	bool timeout_pending;
	struct rx_char rx[FIFO_SIZE];
	unsigned rx_head, rx_count;
	unsigned idle_polls; /* up to IDLE_POLLS */
	struct device_timer settle_timer;
	uint64_t settled_at; /* when the receive interrupt counts as meant; 0: it is off */
	bool had_room;       /* what the back end was last told */
	bool irq_level;
};

static bool fifo_enabled(const struct serial *s)
{
	return s->fcr & FCR_ENABLE;
}

static unsigned rx_capacity(const struct serial *s)
{
	return fifo_enabled(s) ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct serial *s)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	return fifo_enabled(s) ? level[s->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* Data sheet 8.6.1: the source of highest priority whose enable bit is set. */
static uint8_t iir_source(const struct serial *s)
{
	if ((s->ier & IER_RLS) && (s->overrun || s->rx_errors))
		return IIR_RLS;
	if ((s->ier & IER_RDA) && s->rx_count >= rx_trigger(s))
		return IIR_RDA;
	if ((s->ier & IER_RDA) && s->timeout_pending)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MS) && (s->msr & MSR_DELTAS))
		return IIR_MS;
	return IIR_NONE;
}

/* On a PC the interrupt passes a gate that OUT2 opens; loop-back mode holds the outputs inactive. */
static void update_irq(struct serial *s)
{
	bool gate = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	bool level = gate && iir_source(s) != IIR_NONE;

	if (level != s->irq_level) {
		s->irq_level = level;
		irq_line_set(&s->irq, level);
	}
}

/* Four character times without a transfer (data sheet 8.4.1). */
static uint64_t rx_timeout_ns(const struct serial *s)
{
	unsigned bits = 1 + 5 + (s->lcr & 3) + !!(s->lcr & LCR_PARITY) + (s->lcr & LCR_STOP ? 2 : 1);
	unsigned divisor = s->divisor ? s->divisor : 1;

	return 4 * bits * NS_PER_SEC / (CLOCK_HZ / 16) * divisor;
}

static void rx_restart_timeout(struct serial *s)
{
	s->timeout_pending = false;
	if (fifo_enabled(s) && s->rx_count) {
		s->rx_deadline = timer_now(s->rx_timer.service) + rx_timeout_ns(s);
		timer_arm(&s->rx_timer, s->rx_deadline);
	} else {
		timer_disarm(&s->rx_timer);
	}
}

static void rx_timer_expired(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	if (!fifo_enabled(s) || !s->rx_count || timer_now(s->rx_timer.service) < s->rx_deadline)
		return;
	s->timeout_pending = true;
	update_irq(s);
}

static void rx_push(struct serial *s, uint8_t data, uint8_t errors)
{
	if (s->rx_count == rx_capacity(s)) {
		s->overrun = true;
		if (fifo_enabled(s)) /* the FIFO keeps what it has; a lone RBR is overwritten */
			return;
		s->rx_count = 0;
	}
	s->rx[(s->rx_head + s->rx_count) % FIFO_SIZE] = (struct rx_char){ data, errors };
	if (s->rx_count++ == 0)
		s->rx_errors = errors; /* revealed when the character comes to the top */
	rx_restart_timeout(s);
}

static void rx_clear(struct serial *s)
{
	s->rx_head = 0;
	s->rx_count = 0;
	s->rx_errors = 0;
	rx_restart_timeout(s);
}

/*
 * Input waits on the host's side until a driver listens: what comes while the driver still sets the port up is lost
 * when it empties the FIFOs. RTS, raised last, says so. For guests that never raise it: the receive interrupt has
 * been on for a while, or LSR is polled again and again.
 */
static unsigned rx_room(const struct serial *s)
{
	bool listens = (s->mcr & MCR_RTS) || s->idle_polls == IDLE_POLLS ||
		       (s->settled_at && timer_now(s->settle_timer.service) >= s->settled_at);

	return listens && !(s->mcr & MCR_LOOP) ? rx_capacity(s) - s->rx_count : 0;
}

/* Called whenever the device's lock is about to be released: room that appears is told once. */
static void update_room(struct serial *s)
{
	bool room;

	if (!(s->ier & IER_RDA) || !(s->mcr & MCR_OUT2)) {
		s->settled_at = 0;
	} else if (!s->settled_at) {
		s->settled_at = timer_now(s->settle_timer.service) + SETTLE_NS;
		timer_arm(&s->settle_timer, s->settled_at);
	}
	room = rx_room(s) > 0;
	if (room && !s->had_room && s->backend && s->backend->room)
		s->backend->room(s->backend);
	s->had_room = room;
}

static void settle_timer_expired(struct device *dev)
{
	update_room(container_of(dev, struct serial, dev));
}

static uint8_t read_rbr(struct serial *s)
{
	struct rx_char c;

	if (!s->rx_count)
		return s->rx[s->rx_head].data; /* the last character again */
	c = s->rx[s->rx_head];
	if (--s->rx_count) {
		s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
		s->rx_errors |= s->rx[s->rx_head].errors;
	}
	rx_restart_timeout(s);
	return c.data;
}

static void write_thr(struct serial *s, uint8_t value)
{
	/* The interrupt goes away with the write and comes back with the empty THR: an edge. */
	s->thre_pending = false;
	update_irq(s);
	if (s->idle_polls < IDLE_POLLS)
		s->idle_polls = 0;
	if (s->mcr & MCR_LOOP)
		rx_push(s, value, 0);
	else if (s->backend)
		s->backend->write(s->backend, &value, 1);
	s->thre_pending = true;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t source = iir_source(s);

	if (source == IIR_THRE)
		s->thre_pending = false;
	return source | (fifo_enabled(s) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t value = LSR_THRE | LSR_TEMT | s->rx_errors;

	if (s->idle_polls < IDLE_POLLS)
		s->idle_polls++;
	if (s->rx_count)
		value |= LSR_DR;
	if (s->overrun)
		value |= LSR_OE;
	if (fifo_enabled(s))
		for (unsigned i = 0; i < s->rx_count; i++)
			if (s->rx[(s->rx_head + i) % FIFO_SIZE].errors)
				value |= LSR_FIFO_ERROR;
	s->overrun = false;
	s->rx_errors = 0;
	if (s->rx_count)
		s->rx[s->rx_head].errors = 0; /* reported */
	return value;
}

/* Modem inputs: a null modem with a peer that is always there; in loop-back mode our own outputs. */
static uint8_t modem_inputs(const struct serial *s)
{
	uint8_t lines = 0;

	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (s->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (s->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (s->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (s->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void update_modem_status(struct serial *s)
{
	uint8_t lines = modem_inputs(s);
	uint8_t changed = (lines ^ s->msr) & 0xf0;

	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_RI; /* TERI marks the trailing edge only */
	s->msr = lines | (s->msr & MSR_DELTAS) | changed >> 4;
}

static void write_mcr(struct serial *s, uint8_t value)
{
	s->mcr = value & MCR_MASK;
	update_modem_status(s);
}

static void write_fcr(struct serial *s, uint8_t value)
{
	bool toggled = (value ^ s->fcr) & FCR_ENABLE;

	/* Bits 7:1 count only together with bit 0; turning the FIFOs on or off empties them (data sheet 8.4). */
	if (toggled)
		value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	s->fcr = value & FCR_ENABLE ? value & (0xc0 | FCR_ENABLE) : 0;
	if (!(value & FCR_ENABLE) && !toggled)
		return;
	if (value & FCR_CLEAR_TX)
		s->thre_pending = true;
	if (value & FCR_CLEAR_RX)
		rx_clear(s);
}

static void write_ier(struct serial *s, uint8_t value)
{
	uint8_t risen = value & ~s->ier;

	s->ier = value & IER_MASK;
	if (risen & IER_THRE) /* THR is empty, so enabling the interrupt raises it */
		s->thre_pending = true;
}

static void write_lcr(struct serial *s, uint8_t value)
{
	uint8_t risen = value & ~s->lcr;

	s->lcr = value;
	if ((risen & LCR_BREAK) && (s->mcr & MCR_LOOP))
		rx_push(s, 0, LSR_BI | LSR_FE);
}

static uint64_t serial_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct serial *s = container_of(dev, struct serial, dev);
	bool dlab = s->lcr & LCR_DLAB;
	uint8_t value = 0;

	(void)region;
	(void)size;
	switch (offset) {
	case REG_DATA: value = dlab ? (uint8_t)s->divisor : read_rbr(s); break;
	case REG_IER: value = dlab ? (uint8_t)(s->divisor >> 8) : s->ier; break;
	case REG_IIR: value = read_iir(s); break;
	case REG_LCR: value = s->lcr; break;
	case REG_MCR: value = s->mcr; break;
	case REG_LSR: value = read_lsr(s); break;
	case REG_MSR:
		value = s->msr;
		s->msr &= (uint8_t)~MSR_DELTAS;
		break;
	case REG_SCR: value = s->scr; break;
	}
	update_irq(s);
	update_room(s);
	return value;
}

static void serial_write(struct device *dev, unsigned region, uint64_t offset, uint64_t data, unsigned size)
{
	struct serial *s = container_of(dev, struct serial, dev);
	bool dlab = s->lcr & LCR_DLAB;
	uint8_t value = (uint8_t)data;

	(void)region;
	(void)size;
	switch (offset) {
	case REG_DATA:
		if (dlab)
			s->divisor = (uint16_t)((s->divisor & 0xff00) | value);
		else
			write_thr(s, value);
		break;
	case REG_IER:
		if (dlab)
			s->divisor = (uint16_t)((s->divisor & 0x00ff) | value << 8);
		else
			write_ier(s, value);
		break;
	case REG_IIR: write_fcr(s, value); break;
	case REG_LCR: write_lcr(s, value); break;
	case REG_MCR: write_mcr(s, value); break;
	case REG_SCR: s->scr = value; break;
	default: break; /* LSR and MSR are read-only */
	}
	update_irq(s);
	update_room(s);
}

static unsigned serial_can_receive(void *ctx)
{
	struct serial *s = ctx;
	unsigned room;

	if (!device_trylock(&s->dev))
		return CHARDEV_BUSY;
	room = rx_room(s);
	device_unlock(&s->dev);
	return room;
}

static bool serial_receive(void *ctx, const uint8_t *data, unsigned len)
{
	struct serial *s = ctx;

	if (!device_trylock(&s->dev))
		return false;
	for (unsigned i = 0; i < len && !(s->mcr & MCR_LOOP); i++)
		rx_push(s, data[i], 0);
	update_irq(s);
	s->had_room = rx_room(s) > 0; /* the caller sees for itself */
	device_unlock(&s->dev);
	return true;
}

static void serial_reset(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	s->ier = 0;
	s->fcr = 0;
	s->lcr = 0;
	s->mcr = 0;
	s->scr = 0;
	s->divisor = DIVISOR_DEFAULT;
	s->msr = modem_inputs(s);
	s->overrun = false;
	s->thre_pending = false;
	s->idle_polls = 0;
	rx_clear(s);
	update_irq(s);
	update_room(s);
}

static void serial_destroy(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	device_fini(dev);
	free(s);
}

static const struct device_ops serial_ops = {
	.name = "serial",
	.min_size = 1,
	.max_size = 1,
	.reset = serial_reset,
	.read = serial_read,
	.write = serial_write,
	.destroy = serial_destroy,
};

struct device *serial_create(struct timer_service *timers, struct irq_line irq, struct chardev *backend)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	device_init(&s->dev, &serial_ops);
	s->irq = irq;
	s->backend = backend;
	timer_init(&s->rx_timer, timers, &s->dev, rx_timer_expired);
	timer_init(&s->settle_timer, timers, &s->dev, settle_timer_expired);
	serial_reset(&s->dev);
	if (backend) {
		backend->can_receive = serial_can_receive;
		backend->receive = serial_receive;
		backend->ctx = s;
	}
	return &s->dev;
}
