/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IOAPIC (Intel 82093AA), version 0x11: 24 pins, no EOI register. Lines are logical ("asserted"), so the polarity
 * bit is stored and not looked at, as in KVM.
 */
#include "x86/apic/chip.h"

#define REG_SELECT 0x00u
#define REG_WINDOW 0x10u
#define IND_ID 0u
#define IND_VERSION 1u
#define IND_ARBITRATION 2u
#define IND_REDIR 0x10u
#define VERSION_VALUE (((IOAPIC_PINS - 1) << 16) | 0x11)

void ioapic_reset(struct ioapic *io)
{
	io->base = IOAPIC_BASE;
	io->select = 0;
	io->id = 0;
	io->irr = 0;
	io->undelivered = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->redir[pin] = IOAPIC_MASKED;
}

static void mark_delivered(struct ioapic *io, unsigned pin, bool delivered)
{
	if (delivered) {
		io->undelivered &= ~BIT32(pin);
		io->redir[pin] &= ~IOAPIC_PENDING;
	} else {
		io->undelivered |= BIT32(pin);
		io->redir[pin] |= IOAPIC_PENDING;
	}
}

/* Send the pin's message. What nobody accepts stays pending and is retried when a LAPIC changes. */
static bool send(struct irqchip *chip, unsigned pin)
{
	struct ioapic *io = &chip->ioapic;
	uint64_t e = io->redir[pin];
	unsigned mode = IOAPIC_MODE(e);
	bool fixed = mode == APIC_FIXED || mode == APIC_LOWEST;
	struct apic_msg msg = {
		.dest = (uint32_t)(e >> 56),
		.vector = (uint8_t)(e & IOAPIC_VECTOR),
		.mode = (uint8_t)mode,
		.logical = e & IOAPIC_LOGICAL,
		.level = fixed && (e & IOAPIC_LEVEL),
		.assert = true,
		.arbitrate = mode == APIC_LOWEST,
	};
	bool delivered;

	/* An EOI that answers at once waits for chip->lock, hence for remote IRR to be set. */
	delivered = apic_bus_send(chip, &msg) > 0;
	mark_delivered(io, pin, delivered);
	if (delivered && msg.level)
		io->redir[pin] |= IOAPIC_REMOTE_IRR;
	return delivered;
}

static bool level_ready(const struct ioapic *io, unsigned pin)
{
	uint64_t e = io->redir[pin];

	return (e & IOAPIC_LEVEL) && !(e & (IOAPIC_MASKED | IOAPIC_REMOTE_IRR)) && (io->irr & BIT32(pin));
}

bool ioapic_set_pin_locked(struct irqchip *chip, unsigned pin, bool level)
{
	struct ioapic *io = &chip->ioapic;
	bool was = io->irr & BIT32(pin);

	if (!level) {
		io->irr &= ~BIT32(pin);
		if (io->redir[pin] & IOAPIC_LEVEL)
			mark_delivered(io, pin, true); /* the request went away */
		return false;
	}
	io->irr |= BIT32(pin);
	if (io->redir[pin] & IOAPIC_LEVEL)
		return level_ready(io, pin) && send(chip, pin);
	/* An edge at a masked pin is lost (82093AA 3.2.4, interrupt mask). */
	return !was && !(io->redir[pin] & IOAPIC_MASKED) && send(chip, pin);
}

uint32_t ioapic_eoi_pins_locked(const struct irqchip *chip, uint8_t vector)
{
	const uint64_t waiting = IOAPIC_LEVEL | IOAPIC_REMOTE_IRR;
	uint32_t pins = 0;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = chip->ioapic.redir[pin];

		if ((e & waiting) == waiting && (e & IOAPIC_VECTOR) == vector)
			pins |= BIT32(pin);
	}
	return pins;
}

void ioapic_eoi_locked(struct irqchip *chip, uint32_t pins)
{
	struct ioapic *io = &chip->ioapic;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (!(pins & BIT32(pin)))
			continue;
		io->redir[pin] &= ~IOAPIC_REMOTE_IRR;
		if (level_ready(io, pin))
			send(chip, pin);
	}
}

void ioapic_retry_locked(struct irqchip *chip, uint32_t pins)
{
	struct ioapic *io = &chip->ioapic;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (!(pins & BIT32(pin)))
			continue;
		if (io->redir[pin] & IOAPIC_LEVEL ? level_ready(io, pin) : !(io->redir[pin] & IOAPIC_MASKED))
			send(chip, pin);
	}
}

static void write_redir(struct irqchip *chip, unsigned index, uint32_t value)
{
	struct ioapic *io = &chip->ioapic;
	unsigned pin = index >> 1;
	uint64_t e = io->redir[pin];

	if (index & 1) {
		e = (e & 0xffffffff) | (uint64_t)(value & 0xff000000) << 32;
	} else {
		e = (e & ~(uint64_t)IOAPIC_WRITABLE_LOW) | (value & IOAPIC_WRITABLE_LOW);
		/* An edge-triggered entry has no remote IRR; guests use that to end a stuck interrupt. */
		if (!(e & IOAPIC_LEVEL))
			e &= ~IOAPIC_REMOTE_IRR;
	}
	io->redir[pin] = e;
	if (e & IOAPIC_MASKED)
		mark_delivered(io, pin, true);
	else if (level_ready(io, pin) || (io->undelivered & BIT32(pin)))
		ioapic_retry_locked(chip, BIT32(pin));
	if ((int)pin == routing_ioapic_pin_locked(chip, 0))
		pit_line_rerouted_locked(chip);
}

uint32_t ioapic_read_locked(struct irqchip *chip, uint32_t offset)
{
	const struct ioapic *io = &chip->ioapic;
	unsigned index = io->select - IND_REDIR;

	if (offset == REG_SELECT)
		return io->select;
	if (offset != REG_WINDOW)
		return 0;
	switch (io->select) {
	case IND_ID:
	case IND_ARBITRATION: return (uint32_t)io->id << 24;
	case IND_VERSION: return VERSION_VALUE;
	default:
		if (index >= 2 * IOAPIC_PINS)
			return 0xffffffff;
		return (uint32_t)(io->redir[index >> 1] >> (index & 1 ? 32 : 0));
	}
}

void ioapic_write_locked(struct irqchip *chip, uint32_t offset, uint32_t value)
{
	struct ioapic *io = &chip->ioapic;
	unsigned index = io->select - IND_REDIR;

	if (offset == REG_SELECT)
		io->select = (uint8_t)value;
	else if (offset != REG_WINDOW)
		return;
	else if (io->select == IND_ID)
		io->id = (value >> 24) & 0xf;
	else if (index < 2 * IOAPIC_PINS)
		write_redir(chip, index, value);
}
