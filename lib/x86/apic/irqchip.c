/* SPDX-License-Identifier: Apache-2.0 */
/* The irqchip as a whole: creation, lines, MSIs, the bus's view, timers. */
#include <stdlib.h>
#include <string.h>

#include "x86/apic/chip.h"
#include "x86/apic/lapic_state.h"

struct irqchip *irqchip_create(const struct irqchip_ops *ops, void *ctx)
{
	struct irqchip *chip = calloc(1, sizeof(*chip));

	if (!chip)
		return NULL;
	chip->ops = ops;
	chip->ctx = ctx;
	pthread_mutex_init(&chip->lock, NULL);
	chip->pic.chip[0].elcr_mask = 0xf8; /* IRQ 0, 1, 2 and 8, 13 are edge-triggered for good */
	chip->pic.chip[1].elcr_mask = 0xde;
	chip->pit_eoi_vector = -1;
	pic_pair_reset(&chip->pic);
	ioapic_reset(&chip->ioapic);
	if (routing_init(chip)) {
		pthread_mutex_destroy(&chip->lock);
		free(chip);
		return NULL;
	}
	pit_reset_locked(chip);
	return chip;
}

void irqchip_destroy(struct irqchip *chip)
{
	if (!chip)
		return;
	if (chip->pit_enabled)
		chip->ops->timer_arm(chip->ctx, IRQCHIP_TIMER_PIT, 0);
	routing_fini(chip);
	pthread_mutex_destroy(&chip->lock);
	free(chip);
}

void irqchip_reset(struct irqchip *chip)
{
	pthread_mutex_lock(&chip->lock);
	pic_pair_reset(&chip->pic);
	ioapic_reset(&chip->ioapic);
	pit_reset_locked(chip);
	irqchip_pic_changed_locked(chip);
	pthread_mutex_unlock(&chip->lock);
}

/* ---- PIC output and INTA ---- */

void irqchip_pic_changed_locked(struct irqchip *chip)
{
	unsigned limit;
	bool level;

	if (chip->pic.irq0_taken) {
		chip->pic.irq0_taken = false;
		pit_tick_acked_locked(chip);
	}
	level = pic_output(&chip->pic);
	if (atomic_load(&chip->pic_output) == level)
		return;
	atomic_store(&chip->pic_output, level);
	limit = atomic_load(&chip->lapic_limit);
	for (unsigned n = 0; n < limit; n++) {
		struct lapic *l = atomic_load(&chip->lapic[n]);

		if (!l)
			continue;
		lapic_lock(l);
		lapic_lint0_update_locked(l);
		lapic_unlock(l);
	}
}

/* Releases chip->lock; then those are told whose interrupts a PIC has no longer in service. */
static void unlock_after_pic(struct irqchip *chip)
{
	uint32_t ended = chip->pic.ended;

	chip->pic.ended = 0;
	irqchip_pic_changed_locked(chip);
	pthread_mutex_unlock(&chip->lock);
	routing_pic_acked(chip, ended);
}

int irqchip_pic_ack(struct irqchip *chip)
{
	int vector = -1;

	pthread_mutex_lock(&chip->lock);
	if (pic_output(&chip->pic))
		vector = pic_ack(&chip->pic);
	unlock_after_pic(chip);
	return vector;
}

/* ---- lines ---- */

void irqchip_set_pic_line(struct irqchip *chip, unsigned pin, bool level)
{
	if (pin >= 16 || pin == PIC_CASCADE)
		return;
	pthread_mutex_lock(&chip->lock);
	pic_set_line(&chip->pic, pin, level);
	irqchip_pic_changed_locked(chip);
	pthread_mutex_unlock(&chip->lock);
}

void irqchip_set_ioapic_line(struct irqchip *chip, unsigned pin, bool level)
{
	if (pin >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&chip->lock);
	ioapic_set_pin_locked(chip, pin, level);
	pthread_mutex_unlock(&chip->lock);
}

/* The PIT is wired to GSI 0. */
static bool pulse_pic_locked(struct irqchip *chip)
{
	int input = routing_pic_input_locked(chip, 0);
	const struct pic *master = &chip->pic.chip[0];

	if (input < 0 || input == PIC_CASCADE)
		return false;
	pic_set_line(&chip->pic, (unsigned)input, true);
	pic_set_line(&chip->pic, (unsigned)input, false);
	/* Only IRQ 0 tells of its acknowledgement. */
	return input == 0 && !(master->imr & 1) && master->init_state == PIC_READY;
}

static bool pulse_ioapic_locked(struct irqchip *chip)
{
	int pin = routing_ioapic_pin_locked(chip, 0);
	bool taken;
	uint64_t redir;

	if (pin < 0)
		return false;
	redir = chip->ioapic.redir[pin];
	taken = IOAPIC_MODE(redir) == APIC_FIXED || IOAPIC_MODE(redir) == APIC_LOWEST;
	/* Before it is sent: the EOI may come at once, and looks at this without chip->lock. */
	chip->pit_eoi_vector = taken ? (int)(redir & IOAPIC_VECTOR) : -1;
	taken &= ioapic_set_pin_locked(chip, (unsigned)pin, true);
	ioapic_set_pin_locked(chip, (unsigned)pin, false);
	if (!taken)
		chip->pit_eoi_vector = -1;
	return taken;
}

bool irqchip_pulse_pit_locked(struct irqchip *chip)
{
	bool by_pic = pulse_pic_locked(chip), by_ioapic = pulse_ioapic_locked(chip);

	return by_pic || by_ioapic;
}

void irqchip_eoi(struct irqchip *chip, uint8_t vector, bool level)
{
	uint32_t pins = 0;

	pthread_mutex_lock(&chip->lock);
	if (chip->pit_eoi_vector == vector) {
		chip->pit_eoi_vector = -1;
		pit_tick_acked_locked(chip);
		irqchip_pic_changed_locked(chip);
	}
	if (level)
		pins = ioapic_eoi_pins_locked(chip, vector);
	pthread_mutex_unlock(&chip->lock);
	if (!pins)
		return;
	/* Whoever resamples its line does so before the pin looks at it again. */
	routing_ioapic_acked(chip, pins);
	pthread_mutex_lock(&chip->lock);
	ioapic_eoi_locked(chip, pins);
	pthread_mutex_unlock(&chip->lock);
}

void irqchip_routing_changed(struct irqchip *chip)
{
	if (!atomic_load_explicit(&chip->ioapic.undelivered, memory_order_relaxed))
		return;
	pthread_mutex_lock(&chip->lock);
	ioapic_retry_locked(chip, chip->ioapic.undelivered);
	pthread_mutex_unlock(&chip->lock);
}

/* SDM 3A 10.11: address 0xfee, destination 19:12, redirection hint 3, logical 2; data: vector, mode, level. */
int irqchip_send_msi(struct irqchip *chip, uint64_t address, uint32_t data)
{
	struct apic_msg msg = {
		.dest = (address >> 12) & 0xff,
		.vector = (uint8_t)data,
		.mode = (data >> 8) & 7,
		.logical = address & BIT32(2),
		.assert = data & BIT32(14),
		.level = data & BIT32(15),
	};

	if ((address & 0xffffffff) >> 20 != 0xfee)
		return 0;
	msg.arbitrate = msg.mode == APIC_LOWEST || (msg.mode == APIC_FIXED && msg.logical && (address & BIT32(3)));
	return apic_bus_send(chip, &msg);
}

/* ---- timers ---- */

void irqchip_pit_enable(struct irqchip *chip, bool speaker_port)
{
	chip->pit_enabled = true;
	chip->speaker_enabled = speaker_port;
}

void irqchip_timer_expired(struct irqchip *chip, unsigned timer)
{
	struct lapic *l;

	if (timer == IRQCHIP_TIMER_PIT) {
		pthread_mutex_lock(&chip->lock);
		pit_expired_locked(chip);
		irqchip_pic_changed_locked(chip);
		pthread_mutex_unlock(&chip->lock);
		return;
	}
	if (timer > IRQCHIP_MAX_VCPUS)
		return;
	l = atomic_load(&chip->lapic[timer - 1]);
	if (l)
		lapic_timer_expired(l);
}

/* ---- the bus's view ---- */

bool irqchip_mmio_match(const struct irqchip *chip, gpa_t gpa)
{
	return gpa.v - atomic_load_explicit(&chip->ioapic.base, memory_order_relaxed) < IOAPIC_WINDOW;
}

void irqchip_mmio_read(struct irqchip *chip, gpa_t gpa, void *data, unsigned len)
{
	uint32_t offset = gpa.v & (IOAPIC_WINDOW - 1), value;

	memset(data, 0, len);
	if (offset & 0xf)
		return;
	pthread_mutex_lock(&chip->lock);
	value = ioapic_read_locked(chip, offset);
	pthread_mutex_unlock(&chip->lock);
	memcpy(data, &value, len < 4 ? len : 4);
}

void irqchip_mmio_write(struct irqchip *chip, gpa_t gpa, const void *data, unsigned len)
{
	uint32_t offset = gpa.v & (IOAPIC_WINDOW - 1), value = 0;

	if (offset & 0xf)
		return;
	memcpy(&value, data, len < 4 ? len : 4);
	pthread_mutex_lock(&chip->lock);
	ioapic_write_locked(chip, offset, value);
	pthread_mutex_unlock(&chip->lock);
}

enum port_owner { PORT_NONE, PORT_PIC, PORT_PIT, PORT_SPEAKER };

static enum port_owner port_owner(const struct irqchip *chip, uint16_t port)
{
	switch (port) {
	case 0x20:
	case 0x21:
	case 0xa0:
	case 0xa1:
	case 0x4d0:
	case 0x4d1: return PORT_PIC;
	case 0x40 ... 0x43: return chip->pit_enabled ? PORT_PIT : PORT_NONE;
	case 0x61: return chip->speaker_enabled ? PORT_SPEAKER : PORT_NONE;
	default: return PORT_NONE;
	}
}

static uint8_t port_read_locked(struct irqchip *chip, uint16_t port)
{
	switch (port_owner(chip, port)) {
	case PORT_PIC: return pic_read(&chip->pic, port);
	case PORT_PIT: return pit_read_locked(chip, port & 3);
	case PORT_SPEAKER: return pit_speaker_read_locked(chip);
	default: return 0xff;
	}
}

static void pic_port_write_locked(struct irqchip *chip, uint16_t port, uint8_t value)
{
	const struct pic *master = &chip->pic.chip[0];
	bool masked = master->imr & 1, ready = master->init_state == PIC_READY;

	pic_write(&chip->pic, port, value);
	if (masked != (master->imr & 1) || ready != (master->init_state == PIC_READY))
		pit_line_rerouted_locked(chip);
}

static void port_write_locked(struct irqchip *chip, uint16_t port, uint8_t value)
{
	switch (port_owner(chip, port)) {
	case PORT_PIC: pic_port_write_locked(chip, port, value); break;
	case PORT_PIT: pit_write_locked(chip, port & 3, value); break;
	case PORT_SPEAKER: pit_speaker_write_locked(chip, value); break;
	default: break;
	}
}

/* The chips are 8 bits wide: the bus splits wider accesses over consecutive ports. */
bool irqchip_pio_read(struct irqchip *chip, uint16_t port, void *data, unsigned len)
{
	if (port_owner(chip, port) == PORT_NONE)
		return false;
	pthread_mutex_lock(&chip->lock);
	for (unsigned i = 0; i < len; i++)
		((uint8_t *)data)[i] = port_read_locked(chip, (uint16_t)(port + i));
	unlock_after_pic(chip); /* a poll acknowledges */
	return true;
}

bool irqchip_pio_write(struct irqchip *chip, uint16_t port, const void *data, unsigned len)
{
	if (port_owner(chip, port) == PORT_NONE)
		return false;
	pthread_mutex_lock(&chip->lock);
	for (unsigned i = 0; i < len; i++)
		port_write_locked(chip, (uint16_t)(port + i), ((const uint8_t *)data)[i]);
	unlock_after_pic(chip);
	return true;
}
