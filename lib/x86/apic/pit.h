/* SPDX-License-Identifier: Apache-2.0 */
/* State of the 8254 (Intel 8254 data sheet). Private to lib/x86/apic. */
#ifndef TZ_X86_APIC_PIT_H
#define TZ_X86_APIC_PIT_H

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ UINT32_C(1193182)

/* Which byte of a 16-bit access comes next; also what is left of a latched count (0: nothing latched). */
enum pit_rw { PIT_RW_NONE, PIT_RW_LSB, PIT_RW_MSB, PIT_RW_WORD0, PIT_RW_WORD1 };

/*
 * Time is counted in PIT ticks since the VM clock's zero, so periods never drift: nanoseconds are
 * derived from tick numbers, not added up.
 */
struct pit_channel {
	uint32_t count;       /* of the running cycle, in ticks, 1..65536 */
	uint32_t reload;      /* as programmed */
	uint64_t switch_tick; /* modes 2, 3: when reload replaces count; 0: nothing waits */
	uint64_t start;       /* tick at which counting began (running) */
	uint64_t held;        /* ticks elapsed when the gate stopped it (not running) */
	bool loaded;          /* a count was written since the control word ("null count" is its inverse) */
	bool running;
	bool gate;
	uint8_t mode;    /* 0..5 */
	uint8_t rw_mode; /* 1 LSB, 2 MSB, 3 both */
	bool bcd;
	uint8_t read_state, write_state; /* enum pit_rw */
	uint8_t write_latch;
	uint16_t latched_count;
	uint8_t count_latched; /* enum pit_rw: bytes still to be read */
	bool status_latched;
	uint8_t status;
};

struct pit {
	struct pit_channel ch[3];
	bool speaker_data;
	bool hpet_legacy;   /* KVM_PIT_FLAGS_HPET_LEGACY: the HPET drives IRQ 0 instead */
	uint64_t next_tick; /* channel 0: tick of the next rising edge of OUT; 0: none */
	/*
	 * Tick reinjection: an edge that comes while the one before it was not acknowledged would merge with it
	 * in the controller, and the guest's clock would lose time whenever its vCPU thread is late. So edges
	 * wait here (at most a second's worth) and follow one by one with each acknowledgement. Edges at a masked
	 * line are lost, as on hardware.
	 */
	uint64_t pending;
	bool in_flight;
};

#endif
