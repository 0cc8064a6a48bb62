/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the irqchip: struct irqchip and the calls between its parts. Private to lib/x86/apic.
 *
 * Locks: chip->lock guards PIC, IOAPIC and PIT; each lapic->lock its LAPIC. Order chip -> lapic, so a
 * LAPIC drops its own lock before it talks to the IOAPIC (EOI), the PIC (INTA) or another LAPIC (IPI).
 * Names ending in _locked want chip->lock held.
 */
#ifndef TZ_X86_APIC_CHIP_H
#define TZ_X86_APIC_CHIP_H

#include <stdatomic.h>

#include "base/compiler.h"
#include "x86/apic/ioapic.h"
#include "x86/apic/irqchip.h"
#include "x86/apic/pic.h"
#include "x86/apic/pit.h"

struct irqchip {
	const struct irqchip_ops *ops;
	void *ctx;
	pthread_mutex_t lock;

	struct lapic *_Atomic lapic[IRQCHIP_MAX_VCPUS]; /* by vCPU id; set once */
	_Atomic unsigned lapic_limit;                   /* ids in use are below */
	_Atomic unsigned lowest_next;                   /* where the next lowest-priority arbitration begins */

	struct pic_pair pic;      /* lock */
	struct ioapic ioapic;     /* lock, but for the atomics in it */
	struct pit pit;           /* lock */
	struct gsi_table *routes; /* lock */
	_Atomic bool pic_output;  /* the master's INT pin: wired to each LINT0 */
	_Atomic bool pit_enabled, speaker_enabled;
	_Atomic int pit_eoi_vector; /* EOI of this vector acknowledges a PIT tick; -1: none awaited */
};

/* Delivery modes: of the ICR, the LVTs, the redirection table and MSIs (SDM 3A 10.5.1, 10.6.1). */
enum apic_delivery {
	APIC_FIXED,
	APIC_LOWEST,
	APIC_SMI,
	APIC_RESERVED,
	APIC_NMI,
	APIC_INIT,
	APIC_SIPI,
	APIC_EXTINT,
};

/* A message on the APIC bus. */
struct apic_msg {
	uint32_t dest;
	uint8_t vector;
	uint8_t mode; /* enum apic_delivery */
	bool logical;
	bool wide;      /* 32-bit destination of an x2APIC sender; else 8 bits, 0xff is everyone */
	bool level;     /* trigger mode */
	bool assert;    /* for level-triggered INIT: false is the de-assert message */
	bool arbitrate; /* deliver to one of the addressed only: lowest priority, or an MSI's redirection hint */
};

/* Send to whom msg->dest says, or to all but `except` (NULL: nobody is excepted). Returns how many accepted. Thread:
 * any. */
int apic_bus_send(struct irqchip *chip, const struct apic_msg *msg);
int apic_bus_broadcast(struct irqchip *chip, const struct apic_msg *msg, const struct lapic *except);

/* A LAPIC became able to accept, or changed its address: what the IOAPIC could not deliver may go now. No lapic lock
 * held. */
void irqchip_routing_changed(struct irqchip *chip);
/* EOI of `vector`; level: its TMR bit was set, so the IOAPIC is told. No lock held. */
void irqchip_eoi(struct irqchip *chip, uint8_t vector, bool level);
/* INTA cycle: the vector, or -1 if INT is not asserted any more. No lock held. */
int irqchip_pic_ack(struct irqchip *chip);

/* One edge on GSI 0 by the PIT. True: a controller took it and will report its acknowledgement (pit_tick_acked). */
bool irqchip_pulse_pit_locked(struct irqchip *chip);
/* Bring pic_output up to date with the PICs and tell LINT0. */
void irqchip_pic_changed_locked(struct irqchip *chip);

/* routing.c */
int routing_init(struct irqchip *chip); /* the default; -ENOMEM */
void routing_fini(struct irqchip *chip);
/* Where a GSI leads, -1: nowhere. */
int routing_pic_input_locked(const struct irqchip *chip, unsigned gsi);
int routing_ioapic_pin_locked(const struct irqchip *chip, unsigned gsi);
/* Bit n: pin n has got its EOI. No lock held. */
void routing_ioapic_acked(struct irqchip *chip, uint32_t pins);
void routing_pic_acked(struct irqchip *chip, uint32_t inputs);

/* ioapic.c */
void ioapic_reset(struct ioapic *io);
uint32_t ioapic_read_locked(struct irqchip *chip, uint32_t offset);
void ioapic_write_locked(struct irqchip *chip, uint32_t offset, uint32_t value);
/* Returns true if a message was sent and accepted because of it. */
bool ioapic_set_pin_locked(struct irqchip *chip, unsigned pin, bool level);
/* Pins waiting for the EOI of `vector`; then, line by line, the end of the wait. */
uint32_t ioapic_eoi_pins_locked(const struct irqchip *chip, uint8_t vector);
void ioapic_eoi_locked(struct irqchip *chip, uint32_t pins);
void ioapic_retry_locked(struct irqchip *chip, uint32_t pins);

/* pit.c */
void pit_reset_locked(struct irqchip *chip);
uint8_t pit_read_locked(struct irqchip *chip, unsigned port);
void pit_write_locked(struct irqchip *chip, unsigned port, uint8_t value);
uint8_t pit_speaker_read_locked(struct irqchip *chip);
void pit_speaker_write_locked(struct irqchip *chip, uint8_t value);
void pit_expired_locked(struct irqchip *chip);
void pit_tick_acked_locked(struct irqchip *chip);
void pit_restart_locked(struct irqchip *chip);       /* after a restore */
uint64_t pit_start_ns(const struct pit_channel *ch); /* VM clock at which counting began */
/* GSI 0 was masked, unmasked or rerouted: ticks that nobody could take are lost, as on hardware. */
void pit_line_rerouted_locked(struct irqchip *chip);

static inline uint64_t chip_now(const struct irqchip *chip)
{
	return chip->ops->now_ns(chip->ctx);
}

#endif
