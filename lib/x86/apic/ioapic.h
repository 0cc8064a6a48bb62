/* SPDX-License-Identifier: Apache-2.0 */
/* State of the IOAPIC (Intel 82093AA). Private to lib/x86/apic. */
#ifndef TZ_X86_APIC_IOAPIC_H
#define TZ_X86_APIC_IOAPIC_H

#include <stdatomic.h>
#include <stdint.h>

#define IOAPIC_PINS 24u
#define IOAPIC_BASE UINT64_C(0xfec00000)
#define IOAPIC_WINDOW 0x100u

/* Redirection entry (82093AA 3.2.4). */
#define IOAPIC_VECTOR UINT64_C(0xff)
#define IOAPIC_MODE(e) (((e) >> 8) & 7)
#define IOAPIC_LOGICAL (UINT64_C(1) << 11)
#define IOAPIC_PENDING (UINT64_C(1) << 12) /* delivery status */
#define IOAPIC_REMOTE_IRR (UINT64_C(1) << 14)
#define IOAPIC_LEVEL (UINT64_C(1) << 15)
#define IOAPIC_MASKED (UINT64_C(1) << 16)
#define IOAPIC_WRITABLE_LOW UINT32_C(0x1afff) /* all but delivery status, remote IRR and reserved bits */

struct ioapic {
	_Atomic uint64_t base;
	uint8_t select;
	uint8_t id;
	uint32_t irr; /* asserted lines; the edge detectors' memory too */
	uint64_t redir[IOAPIC_PINS];
	_Atomic uint32_t undelivered; /* pins whose message no LAPIC accepted yet */
};

#endif
