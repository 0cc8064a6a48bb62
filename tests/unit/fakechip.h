/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An irqchip for unit tests: vCPUs that only have a LAPIC, a clock that the test moves, and callbacks that count.
 * Header only.
 *
 *	struct fakechip *f = fakechip_create(2);	// vCPU 0 is the boot processor
 *	fakechip_run_to(f, 1000);			// expire every timer due until then, in order
 *	fakechip_destroy(f);
 */
#ifndef TZ_TESTS_FAKECHIP_H
#define TZ_TESTS_FAKECHIP_H

/* cmocka.h wants these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "x86/apic/irqchip.h"
#include "x86/cpu.h"
#include "x86/cpuid.h"
#include "x86/msr_index.h"

#define FAKECHIP_CPUS 4
#define FAKECHIP_TSC_PER_NS 2u

struct fakechip {
	struct irqchip *chip;
	struct x86_cpu *cpu[FAKECHIP_CPUS];
	unsigned cpus;
	uint64_t now;
	uint64_t tsc_offset;
	uint64_t timer[1 + FAKECHIP_CPUS];
	atomic_uint kicks[FAKECHIP_CPUS], nmis[FAKECHIP_CPUS], smis[FAKECHIP_CPUS], inits[FAKECHIP_CPUS];
	atomic_uint sipis[FAKECHIP_CPUS];
	uint8_t sipi_vector;
	unsigned eois;
	unsigned eoi_gsi;
};

static inline void fakechip_kick(void *ctx, struct x86_cpu *cpu)
{
	((struct fakechip *)ctx)->kicks[cpu->id]++;
}

static inline void fakechip_nmi(void *ctx, struct x86_cpu *cpu)
{
	((struct fakechip *)ctx)->nmis[cpu->id]++;
}

static inline void fakechip_smi(void *ctx, struct x86_cpu *cpu)
{
	((struct fakechip *)ctx)->smis[cpu->id]++;
}

static inline void fakechip_init(void *ctx, struct x86_cpu *cpu)
{
	((struct fakechip *)ctx)->inits[cpu->id]++;
}

static inline void fakechip_sipi(void *ctx, struct x86_cpu *cpu, uint8_t vector)
{
	((struct fakechip *)ctx)->sipis[cpu->id]++;
	((struct fakechip *)ctx)->sipi_vector = vector;
}

static inline uint64_t fakechip_now(void *ctx)
{
	return ((struct fakechip *)ctx)->now;
}

static inline uint64_t fakechip_tsc(void *ctx, tz_unused struct x86_cpu *cpu)
{
	struct fakechip *f = ctx;

	return f->now * FAKECHIP_TSC_PER_NS + f->tsc_offset;
}

static inline uint64_t fakechip_tsc_hz(tz_unused void *ctx, tz_unused struct x86_cpu *cpu)
{
	return UINT64_C(1000000000) * FAKECHIP_TSC_PER_NS;
}

static inline void fakechip_arm(void *ctx, unsigned timer, uint64_t deadline)
{
	((struct fakechip *)ctx)->timer[timer] = deadline;
}

static inline void fakechip_eoi(void *ctx, unsigned gsi)
{
	((struct fakechip *)ctx)->eois++;
	((struct fakechip *)ctx)->eoi_gsi = gsi;
}

static inline void fakechip_feature(struct x86_cpu *cpu, enum x86_feature f)
{
	cpu->cpuid.features[f / 32] |= BIT32(f % 32);
}

/* As on a PC: GSI 0, the timer's, is pin 2 of the IOAPIC. */
static inline void fakechip_route_pc(struct irqchip *chip)
{
	struct irqchip_route route[40];
	unsigned n = 0;

	for (unsigned gsi = 0; gsi < 24; gsi++) {
		if (gsi == 2)
			continue;
		route[n++] = (struct irqchip_route){ gsi, IRQCHIP_ROUTE_IOAPIC, gsi ? gsi : 2, 0, 0 };
		if (gsi < 16)
			route[n++] = (struct irqchip_route){ gsi, IRQCHIP_ROUTE_PIC, gsi, 0, 0 };
	}
	assert_int_equal(irqchip_set_routing(chip, route, n), 0);
}

static inline struct fakechip *fakechip_create(unsigned cpus)
{
	static const struct irqchip_ops ops = {
		.kick = fakechip_kick,
		.nmi = fakechip_nmi,
		.smi = fakechip_smi,
		.init = fakechip_init,
		.sipi = fakechip_sipi,
		.now_ns = fakechip_now,
		.tsc_now = fakechip_tsc,
		.tsc_hz = fakechip_tsc_hz,
		.timer_arm = fakechip_arm,
		.eoi = fakechip_eoi,
	};
	struct fakechip *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->now = 1000000;
	f->cpus = cpus;
	f->chip = irqchip_create(&ops, f);
	assert_non_null(f->chip);
	fakechip_route_pc(f->chip);
	for (unsigned n = 0; n < cpus; n++) {
		struct x86_cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~(size_t)63);

		assert_non_null(cpu);
		memset(cpu, 0, sizeof(*cpu));
		cpu->id = n;
		cpu->bsp = n == 0;
		cpu->cpuid.rsvd_gpa_bits = (BIT64(52) - 1) & ~(BIT64(46) - 1);
		fakechip_feature(cpu, X86_FEAT_X2APIC);
		fakechip_feature(cpu, X86_FEAT_TSC_DEADLINE);
		f->cpu[n] = cpu;
		assert_int_equal(lapic_create(f->chip, cpu), 0);
	}
	return f;
}

static inline void fakechip_destroy(struct fakechip *f)
{
	for (unsigned n = 0; n < f->cpus; n++) {
		lapic_destroy(f->cpu[n]);
		free(f->cpu[n]);
	}
	irqchip_destroy(f->chip);
	free(f);
}

static inline void fakechip_run_to(struct fakechip *f, uint64_t until)
{
	for (;;) {
		unsigned first = 0;
		bool found = false;

		for (unsigned n = 0; n < 1 + FAKECHIP_CPUS; n++) {
			if (!f->timer[n] || f->timer[n] > until || (found && f->timer[n] >= f->timer[first]))
				continue;
			first = n;
			found = true;
		}
		if (!found)
			break;
		if (f->timer[first] > f->now)
			f->now = f->timer[first];
		f->timer[first] = 0;
		irqchip_timer_expired(f->chip, first);
	}
	f->now = until;
}

/* xAPIC registers by MMIO. */
static inline uint32_t fakechip_get(struct fakechip *f, unsigned cpu, uint32_t reg)
{
	uint32_t v = 0xdeadbeef;

	lapic_mmio_read(f->cpu[cpu], reg, &v, 4);
	return v;
}

static inline void fakechip_put(struct fakechip *f, unsigned cpu, uint32_t reg, uint32_t value)
{
	lapic_mmio_write(f->cpu[cpu], reg, &value, 4);
}

static inline void fakechip_x2apic(struct fakechip *f, unsigned cpu)
{
	uint64_t base;

	assert_true(lapic_msr_read(f->cpu[cpu], MSR_APIC_BASE, &base));
	assert_true(lapic_msr_write(f->cpu[cpu], MSR_APIC_BASE, base | BIT64(10)));
}

static inline void fakechip_out(struct fakechip *f, uint16_t port, uint8_t value)
{
	assert_true(irqchip_pio_write(f->chip, port, &value, 1));
}

static inline uint8_t fakechip_in(struct fakechip *f, uint16_t port)
{
	uint8_t v = 0;

	assert_true(irqchip_pio_read(f->chip, port, &v, 1));
	return v;
}

/* The usual PC set-up: vectors 0x20 and 0x28, ICW4 as given, nothing masked. */
static inline void fakechip_init_pics(struct fakechip *f, uint8_t icw4)
{
	for (unsigned n = 0; n < 2; n++) {
		uint16_t port = n ? 0xa0 : 0x20;

		fakechip_out(f, port, 0x11);
		fakechip_out(f, port + 1, n ? 0x28 : 0x20);
		fakechip_out(f, port + 1, n ? 2 : 4);
		fakechip_out(f, port + 1, icw4);
		fakechip_out(f, port + 1, 0);
	}
}

/* A redirection entry. */
static inline void fakechip_redir(struct fakechip *f, unsigned pin, uint64_t entry)
{
	for (unsigned half = 0; half < 2; half++) {
		/* The upper half (destination) first, as software does. */
		uint32_t index = 0x10 + pin * 2 + !half, value = (uint32_t)(entry >> (half ? 0 : 32));

		irqchip_mmio_write(f->chip, GPA(0xfec00000), &index, 4);
		irqchip_mmio_write(f->chip, GPA(0xfec00010), &value, 4);
	}
}

static inline uint64_t fakechip_redir_get(struct fakechip *f, unsigned pin)
{
	uint64_t entry = 0;

	for (unsigned half = 0; half < 2; half++) {
		uint32_t index = 0x10 + pin * 2 + half, value;

		irqchip_mmio_write(f->chip, GPA(0xfec00000), &index, 4);
		irqchip_mmio_read(f->chip, GPA(0xfec00010), &value, 4);
		entry |= (uint64_t)value << (half * 32);
	}
	return entry;
}

#endif
