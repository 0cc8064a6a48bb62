/* SPDX-License-Identifier: Apache-2.0 */
/* 16550A UART through its ports: what the PC16550D data sheet says and what Linux's driver probes for. */
#include "boardfix.h"

#define BASE 0x3f8
enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct fixture {
	struct recorder rec;
	struct timer_service *timers;
	struct device *dev;
	struct bus *bus;
	struct chardev chardev;
	char sent[256];
	unsigned sent_len;
	unsigned rooms;
};

static void backend_write(struct chardev *c, const uint8_t *data, unsigned len)
{
	struct fixture *f = container_of(c, struct fixture, chardev);

	assert_true(f->sent_len + len < sizeof(f->sent));
	memcpy(f->sent + f->sent_len, data, len);
	f->sent_len += len;
}

static void backend_room(struct chardev *c)
{
	container_of(c, struct fixture, chardev)->rooms++;
}

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;

	memset(f, 0, sizeof(*f));
	f->timers = timer_service_create_stepped();
	f->chardev.write = backend_write;
	f->chardev.room = backend_room;
	f->dev = serial_create(f->timers, fix_line(&f->rec, 4), &f->chardev);
	f->bus = bus_create();
	assert_int_equal(bus_map(f->bus, BUS_PIO, BASE, 8, f->dev, 0), 0);
	f->rooms = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	timer_service_destroy(f->timers);
	f->dev->ops->destroy(f->dev);
	bus_destroy(f->bus);
	return 0;
}

static uint8_t rd(struct fixture *f, unsigned reg)
{
	return (uint8_t)fix_in(f->bus, BASE + reg, 1);
}

static void wr(struct fixture *f, unsigned reg, uint8_t value)
{
	fix_out(f->bus, BASE + reg, value, 1);
}

static void input(struct fixture *f, const char *text)
{
	f->chardev.receive(f->chardev.ctx, (const uint8_t *)text, (unsigned)strlen(text));
}

static void test_reset_values(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rd(f, IER), 0);
	assert_int_equal(rd(f, IIR), 0x01);
	assert_int_equal(rd(f, LCR), 0);
	assert_int_equal(rd(f, MCR), 0);
	assert_int_equal(rd(f, LSR), 0x60);
	assert_int_equal(rd(f, MSR), 0xb0);
	wr(f, SCR, 0x5a);
	assert_int_equal(rd(f, SCR), 0x5a);
	wr(f, IER, 0xff);
	assert_int_equal(rd(f, IER), 0x0f);
}

/* The steps of a driver that tells 8250, 16450, 16550, 16550A, 16650, 16750 apart. */
static void test_detected_as_16550a(void **state)
{
	struct fixture *f = *state;

	wr(f, MCR, 0x1a); /* loop, RTS, OUT2 */
	assert_int_equal(rd(f, MSR) & 0xf0, 0x90);
	wr(f, MCR, 0);
	wr(f, IIR, 0x01);
	assert_int_equal(rd(f, IIR) >> 6, 3);
	wr(f, LCR, 0xbf); /* where a 16650 has its EFR */
	assert_int_not_equal(rd(f, IIR), 0);
	wr(f, LCR, 0x80);
	wr(f, IIR, 0x21); /* a 16750's 64-byte FIFO */
	assert_int_equal(rd(f, IIR) & 0x20, 0);
	wr(f, LCR, 0);
	wr(f, IER, 0x40);
	assert_int_equal(rd(f, IER), 0);
}

static void test_divisor_latch(void **state)
{
	struct fixture *f = *state;

	wr(f, LCR, 0x83);
	wr(f, RBR, 0x34);
	wr(f, IER, 0x12);
	assert_int_equal(rd(f, RBR), 0x34);
	assert_int_equal(rd(f, IER), 0x12);
	wr(f, LCR, 0x03);
	assert_int_equal(rd(f, IER), 0);
	assert_int_equal(f->sent_len, 0);
}

static void test_transmit_interrupt(void **state)
{
	struct fixture *f = *state;

	wr(f, MCR, 0x08);
	assert_false(f->rec.level[4]);
	wr(f, IER, 0x02); /* THR is empty: at once */
	assert_true(f->rec.level[4]);
	assert_int_equal(rd(f, IIR) & 0x0f, 0x02);
	assert_false(f->rec.level[4]); /* reading IIR cleared it */
	assert_int_equal(rd(f, IIR) & 0x0f, 0x01);
	wr(f, RBR, 'a');
	assert_true(f->rec.level[4]);
	assert_int_equal(f->rec.rises[4], 2);
	wr(f, RBR, 'b'); /* without reading IIR: down and up again, an edge */
	assert_int_equal(f->rec.rises[4], 3);
	wr(f, IER, 0);
	assert_false(f->rec.level[4]);
	wr(f, IER, 0x02); /* enabling again raises it again */
	assert_true(f->rec.level[4]);
	assert_memory_equal(f->sent, "ab", 2);
	assert_int_equal(f->sent_len, 2);
}

static void test_out2_gates(void **state)
{
	struct fixture *f = *state;

	wr(f, IER, 0x02);
	assert_false(f->rec.level[4]);
	wr(f, MCR, 0x08);
	assert_true(f->rec.level[4]);
	wr(f, MCR, 0x18); /* loop-back holds OUT2 inactive */
	assert_false(f->rec.level[4]);
}

static void test_receive_without_fifo(void **state)
{
	struct fixture *f = *state;

	wr(f, MCR, 0x08);
	assert_int_equal(f->rooms, 0);
	wr(f, IER, 0x01);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0); /* the driver may not be done yet */
	timer_service_step(f->timers, 100000000);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 1);
	input(f, "x");
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0);
	assert_true(f->rec.level[4]);
	assert_int_equal(rd(f, IIR), 0x04);
	assert_int_equal(rd(f, LSR), 0x61);
	assert_int_equal(rd(f, RBR), 'x');
	assert_false(f->rec.level[4]);
	assert_int_equal(f->rooms, 2);
	assert_int_equal(rd(f, LSR), 0x60);
}

/* Input that comes before a driver has set the port up is not taken yet. */
static void test_input_waits_for_a_listener(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 100; i++) { /* polled output */
		rd(f, LSR);
		wr(f, RBR, 'x');
		rd(f, LSR);
	}
	wr(f, IIR, 0x01);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0);
	wr(f, MCR, 0x03);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 16);
	wr(f, MCR, 0x00);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0);
	assert_int_equal(f->rooms, 1);
	for (unsigned i = 0; i < 100; i++) /* polled input */
		rd(f, LSR);
	assert_int_equal(f->rooms, 2);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 16);
	wr(f, RBR, 'x');
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 16);
	f->dev->ops->reset(f->dev);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0);
}

static void test_fifo_trigger_and_timeout(void **state)
{
	struct fixture *f = *state;

	wr(f, LCR, 0x03);
	wr(f, MCR, 0x0a);
	wr(f, IIR, 0x81); /* trigger at 8 */
	wr(f, IER, 0x01);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 16);
	input(f, "1234567");
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 9);
	assert_false(f->rec.level[4]);
	input(f, "8");
	assert_true(f->rec.level[4]);
	assert_int_equal(rd(f, IIR), 0xc4);
	assert_int_equal(rd(f, RBR), '1');
	assert_false(f->rec.level[4]);
	timer_service_step(f->timers, 300000); /* four characters of ten bits at 115200: 347 µs */
	assert_false(f->rec.level[4]);
	timer_service_step(f->timers, 100000);
	assert_true(f->rec.level[4]);
	assert_int_equal(rd(f, IIR), 0xcc);
	assert_int_equal(rd(f, RBR), '2'); /* a read restarts the time-out */
	assert_false(f->rec.level[4]);
	timer_service_step(f->timers, 400000);
	assert_true(f->rec.level[4]);
	for (char c = '3'; c <= '8'; c++)
		assert_int_equal(rd(f, RBR), c);
	timer_service_step(f->timers, 400000);
	assert_false(f->rec.level[4]);
	assert_int_equal(rd(f, IIR), 0xc1);
}

static void test_fifo_clear_and_toggle(void **state)
{
	struct fixture *f = *state;

	wr(f, IIR, 0x01);
	input(f, "abc");
	wr(f, IIR, 0x03);
	assert_int_equal(rd(f, LSR) & 1, 0);
	input(f, "abc");
	wr(f, IIR, 0x00); /* off: emptied */
	assert_int_equal(rd(f, LSR) & 1, 0);
	assert_int_equal(rd(f, IIR), 0x01);
}

static void test_loopback_overrun_and_priority(void **state)
{
	struct fixture *f = *state;

	wr(f, IIR, 0x01);
	wr(f, MCR, 0x10);
	wr(f, IER, 0x0f);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 0);
	for (unsigned i = 0; i < 17; i++)
		wr(f, RBR, (uint8_t)i);
	assert_int_equal(f->sent_len, 0);
	assert_int_equal(rd(f, IIR), 0xc6); /* overrun first */
	assert_int_equal(rd(f, LSR), 0x63);
	assert_int_equal(rd(f, LSR), 0x61);
	assert_int_equal(rd(f, IIR), 0xc4);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(rd(f, RBR), i);
	assert_int_equal(rd(f, IIR), 0xc2);
	assert_int_equal(rd(f, IIR), 0xc0); /* modem status: CTS, DSR, DCD dropped */
	assert_int_equal(rd(f, MSR), 0x0b);
	assert_int_equal(rd(f, IIR), 0xc1);
	wr(f, MCR, 0x14); /* OUT1 is RI: TERI marks its falling edge only */
	assert_int_equal(rd(f, MSR), 0x40);
	wr(f, MCR, 0x10);
	assert_int_equal(rd(f, MSR), 0x04);
}

static void test_loopback_break(void **state)
{
	struct fixture *f = *state;

	wr(f, MCR, 0x10);
	wr(f, LCR, 0x43);
	assert_int_equal(rd(f, LSR), 0x79);
	assert_int_equal(rd(f, RBR), 0);
}

static void test_wide_access_is_split(void **state)
{
	struct fixture *f = *state;

	wr(f, LCR, 0x80);
	fix_out(f->bus, BASE, 0x0201, 2);
	assert_int_equal(fix_in(f->bus, BASE, 2), 0x0201);
	wr(f, LCR, 0);
	assert_int_equal(fix_in(f->bus, BASE + 4, 4) & 0xffff, 0x6000);
}

static void test_no_backend(void **state)
{
	struct timer_service *timers = timer_service_create_stepped();
	struct device *dev = serial_create(timers, (struct irq_line){ 0 }, NULL);

	(void)state;
	dev->ops->write(dev, 0, RBR, 'x', 1);
	assert_int_equal(dev->ops->read(dev, 0, LSR, 1), 0x60);
	timer_service_destroy(timers);
	dev->ops->destroy(dev);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* A vCPU may be in the device for long, when nobody takes the output: the main loop must not wait for it. */
static void test_input_does_not_wait_for_a_vcpu(void **state)
{
	struct fixture *f = *state;

	wr(f, 4, 0x0a); /* RTS, OUT2 */
	device_lock(f->dev);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), CHARDEV_BUSY);
	assert_false(f->chardev.receive(f->chardev.ctx, (const uint8_t *)"x", 1));
	device_unlock(f->dev);
	assert_int_equal(f->chardev.can_receive(f->chardev.ctx), 1);
	assert_true(f->chardev.receive(f->chardev.ctx, (const uint8_t *)"x", 1));
	assert_int_equal(rd(f, 0), 'x');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset_values),
		TEST(test_detected_as_16550a),
		TEST(test_divisor_latch),
		TEST(test_transmit_interrupt),
		TEST(test_out2_gates),
		TEST(test_receive_without_fifo),
		TEST(test_input_waits_for_a_listener),
		TEST(test_fifo_trigger_and_timeout),
		TEST(test_fifo_clear_and_toggle),
		TEST(test_loopback_overrun_and_priority),
		TEST(test_loopback_break),
		TEST(test_wide_access_is_split),
		cmocka_unit_test(test_no_backend),
		TEST(test_input_does_not_wait_for_a_vcpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
