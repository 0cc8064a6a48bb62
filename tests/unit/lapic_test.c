/* SPDX-License-Identifier: Apache-2.0 */
/* LAPIC: registers, priorities, IPIs, modes, timer, ESR, state. */
#include "fakechip.h"

#include <errno.h>
#include <pthread.h>

#define ID 0x20
#define TPR 0x80
#define PPR 0xa0
#define EOI 0xb0
#define LDR 0xd0
#define DFR 0xe0
#define SVR 0xf0
#define ISR 0x100
#define TMR 0x180
#define IRR 0x200
#define ESR 0x280
#define ICR 0x300
#define ICR2 0x310
#define LVTT 0x320
#define LVT0 0x350
#define LVT1 0x360
#define LVTERR 0x370
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR 0x3e0

#define EN BIT64(11)
#define EXTD BIT64(10)

static struct fakechip *make(unsigned cpus)
{
	struct fakechip *f = fakechip_create(cpus);

	for (unsigned n = 0; n < cpus; n++)
		fakechip_put(f, n, SVR, 0x1ff);
	return f;
}

static uint64_t rd(struct fakechip *f, unsigned cpu, uint32_t msr)
{
	uint64_t v = 0;

	assert_true(lapic_msr_read(f->cpu[cpu], msr, &v));
	return v;
}

static bool wr(struct fakechip *f, unsigned cpu, uint32_t msr, uint64_t v)
{
	return lapic_msr_write(f->cpu[cpu], msr, v);
}

static void self_ipi(struct fakechip *f, unsigned cpu, uint8_t vector)
{
	fakechip_put(f, cpu, ICR, 1u << 18 | 1u << 14 | vector);
}

static void ipi(struct fakechip *f, unsigned cpu, uint8_t dest, uint32_t low)
{
	fakechip_put(f, cpu, ICR2, (uint32_t)dest << 24);
	fakechip_put(f, cpu, ICR, low);
}

static void reset_values(tz_unused void **state)
{
	struct fakechip *f = fakechip_create(2);

	assert_int_equal(rd(f, 0, MSR_APIC_BASE), 0xfee00900);
	assert_int_equal(rd(f, 1, MSR_APIC_BASE), 0xfee00800);
	assert_int_equal(f->cpu[1]->msr.apic_base, 0xfee00800);
	assert_int_equal(fakechip_get(f, 1, ID), 1u << 24);
	assert_int_equal(fakechip_get(f, 0, 0x30), 0x50014);
	assert_int_equal(fakechip_get(f, 0, SVR), 0xff);
	assert_int_equal(fakechip_get(f, 0, DFR), 0xffffffff);
	assert_int_equal(fakechip_get(f, 0, LVT0), 0x700);
	assert_int_equal(fakechip_get(f, 1, LVT0), 0x10000);
	for (uint32_t reg = LVTT; reg <= LVTERR; reg += 0x10)
		if (reg != LVT0)
			assert_int_equal(fakechip_get(f, 0, reg), 0x10000);
	assert_int_equal(lapic_create(f->chip, f->cpu[0]), -EEXIST);
	fakechip_destroy(f);
}

static void priorities(tz_unused void **state)
{
	struct fakechip *f = make(1);
	struct x86_cpu *cpu = f->cpu[0];

	assert_false(lapic_irq_pending(cpu));
	assert_int_equal(lapic_irq_ack(cpu), -1);
	self_ipi(f, 0, 0x41);
	self_ipi(f, 0, 0x55);
	assert_true(f->kicks[0] >= 2);
	assert_true(lapic_irq_pending(cpu));
	assert_int_equal(fakechip_get(f, 0, IRR + 0x20), 1u << 1 | 1u << 0x15);
	assert_int_equal(lapic_irq_ack(cpu), 0x55);
	assert_int_equal(fakechip_get(f, 0, PPR), 0x50);
	assert_int_equal(fakechip_get(f, 0, ISR + 0x20), 1u << 0x15);
	assert_false(lapic_irq_pending(cpu));
	self_ipi(f, 0, 0x5f); /* the same class waits */
	assert_false(lapic_irq_pending(cpu));
	self_ipi(f, 0, 0x60); /* a higher one does not */
	assert_int_equal(lapic_irq_ack(cpu), 0x60);
	fakechip_put(f, 0, EOI, 0);
	assert_int_equal(fakechip_get(f, 0, PPR), 0x50);
	fakechip_put(f, 0, EOI, 0);
	assert_int_equal(lapic_irq_ack(cpu), 0x5f);
	fakechip_put(f, 0, EOI, 0);
	lapic_write_tpr(cpu, 4);
	assert_int_equal(fakechip_get(f, 0, TPR), 0x40);
	assert_int_equal(lapic_read_tpr(cpu), 4);
	assert_false(lapic_irq_pending(cpu));
	f->kicks[0] = 0;
	lapic_write_tpr(cpu, 3);
	assert_int_equal(f->kicks[0], 1);
	assert_int_equal(lapic_irq_ack(cpu), 0x41);
	fakechip_put(f, 0, EOI, 0);
	assert_int_equal(fakechip_get(f, 0, PPR), 0x30);
	fakechip_put(f, 0, EOI, 0); /* nothing in service: harmless */
	fakechip_destroy(f);
}

static void software_disable(tz_unused void **state)
{
	struct fakechip *f = make(2);

	fakechip_put(f, 1, LVTT, 0x40);
	self_ipi(f, 1, 0x50);
	fakechip_put(f, 1, SVR, 0xff);
	assert_int_equal(fakechip_get(f, 1, LVTT), 0x10040);
	fakechip_put(f, 1, LVTT, 0x41);
	assert_int_equal(fakechip_get(f, 1, LVTT), 0x10041);
	assert_int_equal(lapic_irq_ack(f->cpu[1]), 0x50); /* what is in IRR stays deliverable */
	ipi(f, 0, 1, 0x4060);
	assert_false(lapic_irq_pending(f->cpu[1]));
	ipi(f, 0, 1, 0x4000 | 4 << 8); /* NMIs are accepted all the same */
	assert_int_equal(f->nmis[1], 1);
	fakechip_destroy(f);
}

static void ipi_modes(tz_unused void **state)
{
	struct fakechip *f = make(3);

	ipi(f, 0, 2, 0x4000 | 5 << 8);
	assert_int_equal(f->inits[2], 1);
	assert_int_equal(f->inits[0] + f->inits[1], 0);
	ipi(f, 0, 2, 0x8000 | 5 << 8); /* level de-assert: ignored */
	assert_int_equal(f->inits[2], 1);
	ipi(f, 0, 2, 0x4000 | 6 << 8 | 0x9a);
	assert_int_equal(f->sipis[2], 1);
	assert_int_equal(f->sipi_vector, 0x9a);
	ipi(f, 0, 1, 0x4000 | 2 << 8);
	assert_int_equal(f->smis[1], 1);
	fakechip_put(f, 0, ICR, 3u << 18 | 0x4000 | 4 << 8); /* NMI to all but self */
	assert_int_equal(f->nmis[0], 0);
	assert_int_equal(f->nmis[1], 1);
	assert_int_equal(f->nmis[2], 1);
	fakechip_put(f, 1, ICR, 2u << 18 | 0x4071); /* all, self too */
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(lapic_irq_ack(f->cpu[n]), 0x71);
	for (unsigned n = 0; n < 3; n++)
		fakechip_put(f, n, EOI, 0);
	ipi(f, 0, 0xff, 0x4072); /* physical broadcast */
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(lapic_irq_ack(f->cpu[n]), 0x72);
	assert_int_equal(fakechip_get(f, 0, ICR), 0x4072);
	assert_int_equal(fakechip_get(f, 0, ICR2), 0xff000000);
	fakechip_destroy(f);
}

static void take(struct fakechip *f, unsigned cpu, int vector)
{
	assert_int_equal(lapic_irq_ack(f->cpu[cpu]), vector);
	if (vector >= 0)
		fakechip_put(f, cpu, EOI, 0);
}

/* A bitmap of APIC ids from some id on: what KVM_HC_SEND_IPI asks for. */
static void sets_of_ids(tz_unused void **state)
{
	struct fakechip *f = make(3);

	assert_int_equal(lapic_send_set(f->cpu[0], 0x1d, 0, 0x71), 2); /* 0, 2; 3 and 4 do not exist */
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x71);
	assert_false(lapic_irq_pending(f->cpu[1]));
	assert_int_equal(lapic_irq_ack(f->cpu[2]), 0x71);
	assert_int_equal(lapic_send_set(f->cpu[0], 1, 1, 4 << 8), 1);
	assert_int_equal(f->nmis[1], 1);
	assert_int_equal(lapic_send_set(f->cpu[0], UINT64_MAX, UINT32_MAX, 0x72), 0); /* no broadcast, no wrap */
	assert_int_equal(lapic_send_set(f->cpu[0], 2, UINT32_MAX - 1, 0x72), 0);
	assert_int_equal(lapic_send_set(f->cpu[0], 1, 1, 7 << 8), 0); /* ExtINT is no IPI */
	assert_false(lapic_irq_pending(f->cpu[1]));
	fakechip_destroy(f);
}

static void logical_destinations(tz_unused void **state)
{
	struct fakechip *f = make(3);

	for (unsigned n = 0; n < 3; n++)
		fakechip_put(f, n, LDR, (1u << n) << 24);
	ipi(f, 0, 6, 0x4800 | 0x61); /* flat: 1 and 2 */
	take(f, 0, -1);
	take(f, 1, 0x61);
	take(f, 2, 0x61);
	for (unsigned n = 0; n < 3; n++) {
		fakechip_put(f, n, DFR, 0x0fffffff);
		fakechip_put(f, n, LDR, (n == 2 ? 0x21u : 0x10u | 1u << n) << 24);
	}
	ipi(f, 2, 0x13, 0x4800 | 0x62); /* cluster 1, members 0 and 1 */
	take(f, 0, 0x62);
	take(f, 1, 0x62);
	take(f, 2, -1);
	ipi(f, 0, 0x21, 0x4800 | 0x63);
	take(f, 0, -1);
	take(f, 2, 0x63);
	fakechip_destroy(f);
}

static void lowest_priority(tz_unused void **state)
{
	struct fakechip *f = make(3);
	unsigned taken[3] = { 0 };

	for (unsigned n = 0; n < 3; n++)
		fakechip_put(f, n, LDR, (1u << n) << 24);
	lapic_write_tpr(f->cpu[0], 2);
	lapic_write_tpr(f->cpu[2], 3);
	ipi(f, 0, 7, 0x4800 | 1 << 8 | 0x81);
	take(f, 0, -1);
	take(f, 1, 0x81);
	take(f, 2, -1);
	lapic_write_tpr(f->cpu[0], 0);
	lapic_write_tpr(f->cpu[2], 0);
	for (unsigned i = 0; i < 6; i++) { /* equals share */
		ipi(f, 0, 7, 0x4800 | 1 << 8 | 0x82);
		for (unsigned n = 0; n < 3; n++)
			if (lapic_irq_ack(f->cpu[n]) == 0x82) {
				taken[n]++;
				fakechip_put(f, n, EOI, 0);
			}
	}
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(taken[n], 2);
	fakechip_put(f, 0, SVR, 0xff);
	fakechip_put(f, 1, SVR, 0xff);
	for (unsigned i = 0; i < 2; i++) { /* disabled ones are no candidates */
		ipi(f, 0, 7, 0x4800 | 1 << 8 | 0x83);
		take(f, 2, 0x83);
	}
	fakechip_destroy(f);
}

static void base_transitions(tz_unused void **state)
{
	struct fakechip *f = make(2);
	uint64_t base = 0xfee00000;

	assert_false(wr(f, 1, MSR_APIC_BASE, base | EXTD));
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN | 1));
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN | BIT64(9)));
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN | BIT64(46)));
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN | BIT64(63)));
	assert_true(lapic_mmio_match(f->cpu[1], GPA(0xfee00020)));
	assert_true(wr(f, 1, MSR_APIC_BASE, base | EN | EXTD));
	assert_false(lapic_mmio_match(f->cpu[1], GPA(0xfee00020)));
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN));
	assert_true(wr(f, 1, MSR_APIC_BASE, base | EN | EXTD)); /* no change */
	assert_true(wr(f, 1, MSR_APIC_BASE, base));
	assert_false(lapic_enabled(f->cpu[1]));
	assert_int_equal(f->cpu[1]->msr.apic_base, base);
	assert_false(lapic_mmio_match(f->cpu[1], GPA(0xfee00020)));
	ipi(f, 0, 1, 0x4000 | 4 << 8);
	assert_int_equal(f->nmis[1], 0);
	lapic_write_tpr(f->cpu[1], 9); /* CR8 lives on */
	assert_int_equal(lapic_read_tpr(f->cpu[1]), 9);
	assert_false(wr(f, 1, MSR_APIC_BASE, base | EN | EXTD));
	assert_true(wr(f, 1, MSR_APIC_BASE, base | EN));
	assert_int_equal(fakechip_get(f, 1, SVR), 0xff); /* reset by the disable */
	assert_int_equal(fakechip_get(f, 1, ID), 1u << 24);
	assert_true(wr(f, 1, MSR_APIC_BASE, 0xfed00000 | EN)); /* moved */
	assert_true(lapic_mmio_match(f->cpu[1], GPA(0xfed00fff)));
	assert_false(lapic_mmio_match(f->cpu[1], GPA(0xfee00000)));
	assert_true(wr(f, 1, MSR_APIC_BASE, base));
	assert_true(lapic_set_base(f->cpu[1], base | EN | EXTD)); /* the client may */
	assert_false(lapic_set_base(f->cpu[1], base | EXTD));
	f->cpu[1]->cpuid.features[X86_FEAT_X2APIC / 32] &= ~BIT32(X86_FEAT_X2APIC % 32);
	assert_false(lapic_set_base(f->cpu[1], base | EN | EXTD));
	fakechip_destroy(f);
}

static void x2apic_registers(tz_unused void **state)
{
	struct fakechip *f = make(2);
	uint64_t v;

	assert_false(lapic_msr_read(f->cpu[1], 0x802, &v)); /* not yet */
	fakechip_x2apic(f, 1);
	assert_int_equal(rd(f, 1, 0x802), 1);
	assert_int_equal(rd(f, 1, 0x80d), 1u << 1);
	assert_int_equal(rd(f, 1, 0x803), 0x50014);
	assert_int_equal(rd(f, 1, 0x80f), 0x1ff);
	for (const uint32_t *r = (const uint32_t[]){ 0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839, 0 }; *r;
	     r++)
		assert_false(wr(f, 1, *r, 0)); /* read-only */
	for (const uint32_t *r = (const uint32_t[]){ 0x800, 0x809, 0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x8ff, 0 }; *r;
	     r++)
		assert_false(lapic_msr_read(f->cpu[1], *r, &v)); /* reserved or write-only */
	assert_false(wr(f, 1, 0x80e, 0));
	assert_false(wr(f, 1, 0x831, 0));
	assert_false(wr(f, 1, 0x80b, 1));
	assert_true(wr(f, 1, 0x80b, 0));
	assert_false(wr(f, 1, 0x828, 1));
	assert_false(wr(f, 1, 0x808, 0x100));
	assert_false(wr(f, 1, 0x808, BIT64(32)));
	assert_true(wr(f, 1, 0x808, 0x20));
	assert_int_equal(lapic_read_tpr(f->cpu[1]), 2);
	assert_false(wr(f, 1, 0x80f, 0x11ff)); /* EOI-broadcast suppression is not offered */
	assert_false(wr(f, 1, 0x832, 0x800));
	assert_false(wr(f, 1, 0x830, BIT64(20)));
	assert_true(wr(f, 1, 0x83f, 0x77));
	assert_false(wr(f, 1, 0x83f, 0x177));
	assert_int_equal(lapic_irq_ack(f->cpu[1]), 0x77);
	assert_true(wr(f, 1, 0x80b, 0));
	fakechip_destroy(f);
}

static void x2apic_ipis(tz_unused void **state)
{
	struct fakechip *f = make(4);

	for (unsigned n = 0; n < 4; n++)
		fakechip_x2apic(f, n);
	assert_true(wr(f, 0, 0x830, (uint64_t)3 << 32 | 0x4091));
	assert_int_equal(rd(f, 0, 0x830), (uint64_t)3 << 32 | 0x4091);
	assert_int_equal(lapic_irq_ack(f->cpu[3]), 0x91);
	assert_false(lapic_irq_pending(f->cpu[0]));
	assert_true(wr(f, 0, 0x830, (uint64_t)0x6 << 32 | 0x4892)); /* cluster 0, 1 and 2 */
	assert_int_equal(lapic_irq_ack(f->cpu[1]), 0x92);
	assert_int_equal(lapic_irq_ack(f->cpu[2]), 0x92);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), -1);
	assert_true(wr(f, 0, 0x830, (uint64_t)0x10006 << 32 | 0x48a0)); /* cluster 1: nobody */
	assert_false(lapic_irq_pending(f->cpu[1]));
	assert_true(wr(f, 0, 0x830, UINT64_C(0xff) << 32 | 0x40a0)); /* an ID, not everyone */
	assert_false(lapic_irq_pending(f->cpu[1]));
	assert_true(wr(f, 0, 0x830, UINT64_C(0xffffffff) << 32 | 0x40a0));
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(lapic_irq_ack(f->cpu[n]), 0xa0);
	lapic_reset(f->cpu[3], true); /* INIT stays in x2APIC mode */
	assert_int_equal(rd(f, 3, MSR_APIC_BASE), 0xfee00c00);
	assert_int_equal(rd(f, 3, 0x80d), 1u << 3);
	lapic_reset(f->cpu[3], false);
	assert_int_equal(rd(f, 3, MSR_APIC_BASE), 0xfee00800);
	fakechip_destroy(f);
}

static void errors(tz_unused void **state)
{
	struct fakechip *f = make(2);

	fakechip_put(f, 0, LVTERR, 0xe0);
	self_ipi(f, 0, 5);
	assert_int_equal(fakechip_get(f, 0, ESR), 0); /* not before a write */
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0xe0);
	fakechip_put(f, 0, EOI, 0);
	fakechip_put(f, 0, ESR, 0);
	assert_int_equal(fakechip_get(f, 0, ESR), 0x20);
	fakechip_put(f, 0, ESR, 0);
	assert_int_equal(fakechip_get(f, 0, ESR), 0);
	irqchip_send_msi(f->chip, 0xfee00000, 0x3); /* received with an illegal vector */
	fakechip_put(f, 0, ESR, 0);
	assert_int_equal(fakechip_get(f, 0, ESR), 0x40);
	fakechip_get(f, 0, 0x40); /* reserved register */
	fakechip_put(f, 0, ESR, 0);
	assert_int_equal(fakechip_get(f, 0, ESR), 0x80);
	fakechip_put(f, 1, LVTERR, 3); /* the error vector itself is illegal: no endless loop */
	self_ipi(f, 1, 5);
	fakechip_put(f, 1, ESR, 0);
	assert_int_equal(fakechip_get(f, 1, ESR), 0x60);
	fakechip_destroy(f);
}

static void odd_accesses(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint64_t eight = 0x1111111122222222;
	uint8_t byte;

	lapic_mmio_write(f->cpu[0], TPR, &eight, 8);
	lapic_mmio_write(f->cpu[0], TPR, &eight, 1);
	lapic_mmio_write(f->cpu[0], TPR + 4, &eight, 4);
	assert_int_equal(fakechip_get(f, 0, TPR), 0);
	lapic_mmio_read(f->cpu[0], 0x32, &byte, 1);
	assert_int_equal(byte, 5);
	lapic_mmio_read(f->cpu[0], 0x30, &eight, 8);
	assert_int_equal(eight, 0);
	assert_int_equal(fakechip_get(f, 0, 0x34), 0);
	fakechip_put(f, 0, ID, 0x42000000);
	assert_int_equal(fakechip_get(f, 0, ID), 0x42000000);
	ipi(f, 0, 0x42, 0x4051);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x51);
	fakechip_destroy(f);
}

static void timer_one_shot(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint64_t start = f->now;

	fakechip_put(f, 0, LVTT, 0x31);
	fakechip_put(f, 0, TDCR, 0xb); /* by 1 */
	fakechip_put(f, 0, TMICT, 1000000);
	assert_int_equal(fakechip_get(f, 0, TMCCT), 1000000);
	fakechip_run_to(f, start + 400000);
	assert_int_equal(fakechip_get(f, 0, TMCCT), 600000);
	fakechip_put(f, 0, TDCR, 0); /* by 2: goes on at half the speed */
	assert_int_equal(fakechip_get(f, 0, TMCCT), 600000);
	fakechip_run_to(f, start + 400000 + 1199999);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_run_to(f, start + 400000 + 1200000);
	take(f, 0, 0x31);
	assert_int_equal(fakechip_get(f, 0, TMCCT), 0);
	fakechip_put(f, 0, LVTT, 0x20031); /* to periodic: stays at rest */
	assert_int_equal(fakechip_get(f, 0, TMCCT), 0);
	assert_int_equal(f->timer[1], 0);
	fakechip_put(f, 0, TMICT, 1000000);
	fakechip_put(f, 0, TMICT, 0);
	assert_int_equal(f->timer[1], 0);
	fakechip_destroy(f);
}

static void timer_periodic(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint64_t start = f->now;

	fakechip_put(f, 0, TDCR, 3); /* by 16 */
	fakechip_put(f, 0, LVTT, 0x20031);
	fakechip_put(f, 0, TMICT, 62500); /* 1 ms */
	for (unsigned i = 1; i <= 5; i++) {
		fakechip_run_to(f, start + i * 1000000 - 1);
		assert_false(lapic_irq_pending(f->cpu[0]));
		fakechip_run_to(f, start + i * 1000000);
		take(f, 0, 0x31);
	}
	f->now = start + 7300000; /* two expiries late: one interrupt, and in step again */
	assert_int_equal(fakechip_get(f, 0, TMCCT), 700000 / 16);
	fakechip_run_to(f, f->now);
	take(f, 0, 0x31);
	take(f, 0, -1);
	assert_int_equal(f->timer[1], start + 8000000);
	fakechip_put(f, 0, LVTT, 0x31); /* to one-shot: this period is the last */
	fakechip_run_to(f, start + 20000000);
	take(f, 0, 0x31);
	take(f, 0, -1);
	assert_int_equal(f->timer[1], 0);
	irqchip_timer_expired(f->chip, 1); /* a stray one */
	take(f, 0, -1);
	fakechip_put(f, 0, LVTT, 0x30031); /* masked: counts, says nothing */
	fakechip_put(f, 0, TMICT, 62500);
	fakechip_run_to(f, f->now + 1500000);
	take(f, 0, -1);
	assert_int_equal(fakechip_get(f, 0, TMCCT), 62500 / 2);
	fakechip_destroy(f);
}

/* A one-shot count at zero stays there when the mode becomes periodic, served by the timer's thread or not yet. */
static void timer_mode_after_expiry(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_put(f, 0, TDCR, 0xb);
	fakechip_put(f, 0, LVTT, 0x41);
	fakechip_put(f, 0, TMICT, 1000000);
	f->now += 1000001; /* and nobody has called irqchip_timer_expired() */
	assert_int_equal(fakechip_get(f, 0, TMCCT), 0);
	fakechip_put(f, 0, LVTT, 1u << 17 | 0x42);
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x41); /* the old entry's vector */
	assert_int_equal(fakechip_get(f, 0, TMCCT), 0);
	f->now += 500000;
	assert_int_equal(fakechip_get(f, 0, TMCCT), 0);
	assert_int_equal(f->timer[1], 0);
	irqchip_timer_expired(f->chip, IRQCHIP_TIMER_LAPIC(0)); /* late: void */
	fakechip_put(f, 0, EOI, 0);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_destroy(f);
}

static void timer_tsc_deadline(tz_unused void **state)
{
	struct fakechip *f = make(1);
	uint64_t tsc = f->now * FAKECHIP_TSC_PER_NS;

	assert_true(wr(f, 0, MSR_TSC_DEADLINE, tsc + 100)); /* another mode: ignored */
	assert_int_equal(rd(f, 0, MSR_TSC_DEADLINE), 0);
	fakechip_put(f, 0, LVTT, 0x40033);
	assert_true(wr(f, 0, MSR_TSC_DEADLINE, tsc + 2001));
	assert_int_equal(rd(f, 0, MSR_TSC_DEADLINE), tsc + 2001);
	assert_int_equal(f->timer[1], f->now + 1001);
	fakechip_put(f, 0, TMICT, 55); /* ignored here */
	assert_int_equal(fakechip_get(f, 0, TMICT), 0);
	f->tsc_offset = 1000; /* the guest moved its TSC */
	lapic_tsc_changed(f->cpu[0]);
	assert_int_equal(f->timer[1], f->now + 501);
	fakechip_run_to(f, f->now + 501);
	take(f, 0, 0x33);
	assert_int_equal(rd(f, 0, MSR_TSC_DEADLINE), 0);
	assert_true(wr(f, 0, MSR_TSC_DEADLINE, 1)); /* past: at once */
	take(f, 0, 0x33);
	assert_true(wr(f, 0, MSR_TSC_DEADLINE, UINT64_MAX)); /* far away, no overflow */
	assert_true(f->timer[1] > f->now);
	assert_true(wr(f, 0, MSR_TSC_DEADLINE, 0));
	assert_int_equal(f->timer[1], 0);
	assert_true(wr(f, 0, MSR_TSC_DEADLINE, UINT64_MAX));
	fakechip_put(f, 0, LVTT, 0x33); /* leaving the mode disarms */
	assert_int_equal(rd(f, 0, MSR_TSC_DEADLINE), 0);
	assert_int_equal(f->timer[1], 0);
	f->cpu[0]->cpuid.features[X86_FEAT_TSC_DEADLINE / 32] &= ~BIT32(X86_FEAT_TSC_DEADLINE % 32);
	assert_false(wr(f, 0, MSR_TSC_DEADLINE, 1));
	fakechip_destroy(f);
}

static void virtual_wire(tz_unused void **state)
{
	struct fakechip *f = fakechip_create(2);

	fakechip_init_pics(f, 1);
	irqchip_set_line(f->chip, 4, true);
	assert_true(f->kicks[0] >= 1);
	assert_true(lapic_irq_pending(f->cpu[0])); /* the BSP's LVT0, though software-disabled */
	assert_false(lapic_irq_pending(f->cpu[1]));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x24);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_out(f, 0x20, 0x20);
	irqchip_set_line(f->chip, 4, false);
	fakechip_put(f, 0, SVR, 0x1ff);
	fakechip_put(f, 0, LVT0, 0x10700);
	irqchip_set_line(f->chip, 4, true);
	assert_false(lapic_irq_pending(f->cpu[0]));
	assert_true(wr(f, 1, MSR_APIC_BASE, 0xfee00000)); /* disabled: INTR straight */
	assert_true(lapic_irq_pending(f->cpu[1]));
	assert_int_equal(lapic_irq_ack(f->cpu[1]), 0x24);
	fakechip_out(f, 0x20, 0x20);
	irqchip_set_line(f->chip, 4, false);
	fakechip_put(f, 0, LVT0, 0x4a); /* the pin as an edge-triggered fixed interrupt */
	irqchip_set_line(f->chip, 4, true);
	take(f, 0, 0x4a);
	take(f, 0, -1);
	irqchip_pio_read(f->chip, 0x20, &(uint8_t){ 0 }, 1);
	fakechip_put(f, 0, LVT0, 0x10000);
	irqchip_set_line(f->chip, 4, false);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfee00000, 7 << 8), 1); /* an ExtINT message */
	assert_true(lapic_irq_pending(f->cpu[0]));
	assert_int_equal(lapic_irq_ack(f->cpu[0]), 0x24);
	assert_false(lapic_irq_pending(f->cpu[0]));
	fakechip_destroy(f);
}

static void lint0_level(tz_unused void **state)
{
	struct fakechip *f = make(1);

	fakechip_init_pics(f, 1);
	fakechip_put(f, 0, LVT0, 0x804b); /* fixed, level */
	irqchip_set_line(f->chip, 4, true);
	assert_int_equal(fakechip_get(f, 0, LVT0), 0xc04b);
	take(f, 0, 0x4b);
	take(f, 0, 0x4b); /* the PIC still asks */
	fakechip_out(f, 0x21, 0xff);
	take(f, 0, 0x4b);
	take(f, 0, -1);
	assert_int_equal(fakechip_get(f, 0, LVT0), 0x804b);
	fakechip_destroy(f);
}

static void msi(tz_unused void **state)
{
	struct fakechip *f = make(3);

	assert_int_equal(irqchip_send_msi(f->chip, 0xfee01000, 0x55), 1);
	take(f, 1, 0x55);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfee09000, 0x55), 0);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfef01000, 0x55), 0);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfeeff000, 0x56), 3);
	for (unsigned n = 0; n < 3; n++) {
		take(f, n, 0x56);
		fakechip_put(f, n, LDR, (1u << n) << 24);
	}
	assert_int_equal(irqchip_send_msi(f->chip, 0xfee06004, 0x57), 2);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfee0700c, 0x158), 1);
	assert_int_equal(irqchip_send_msi(f->chip, 0xfee01000, 4 << 8), 1);
	assert_int_equal(f->nmis[1], 1);
	irqchip_send_msi(f->chip, 0xfee00000, 0xc059); /* level: TMR */
	assert_int_equal(fakechip_get(f, 0, TMR + 0x20), 1u << 0x19);
	irqchip_send_msi(f->chip, 0xfee00000, 0x59);
	assert_int_equal(fakechip_get(f, 0, TMR + 0x20), 0);
	fakechip_destroy(f);
}

static void state_round_trip(tz_unused void **state)
{
	struct fakechip *f = make(2), *g = make(2);
	uint8_t a[1024], b[1024];

	fakechip_put(f, 1, LVTT, 0x20031);
	fakechip_put(f, 1, TDCR, 0xb);
	fakechip_put(f, 1, TMICT, 1000000);
	fakechip_put(f, 1, LDR, 0x02000000);
	self_ipi(f, 1, 0x61);
	self_ipi(f, 1, 0x92);
	assert_int_equal(lapic_irq_ack(f->cpu[1]), 0x92);
	fakechip_run_to(f, f->now + 300000);
	lapic_get_regs(f->cpu[1], a);
	assert_int_equal(lapic_set_regs(g->cpu[1], a), 0);
	assert_true(g->kicks[1] > 0);
	lapic_get_regs(g->cpu[1], b);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(g->timer[2], g->now + 700000);
	fakechip_put(g, 1, EOI, 0);
	take(g, 1, 0x61);
	fakechip_x2apic(g, 1);
	assert_int_equal(lapic_set_regs(g->cpu[1], a), 0);
	a[0x23] = 7;
	assert_int_equal(lapic_set_regs(g->cpu[1], a), -EINVAL); /* the x2APIC ID cannot change */
	fakechip_destroy(f);
	fakechip_destroy(g);
}

/* Two vCPU threads play ping-pong while a device interrupts both; nothing may get lost. For TSan as well. */
#define ROUNDS 20000u

struct racer {
	struct fakechip *f;
	unsigned self, peer;
	unsigned taken;
};

static void hit(struct racer *r)
{
	assert_true(wr(r->f, r->self, 0x830, (uint64_t)r->peer << 32 | 0x4080));
}

static void *race(void *arg)
{
	struct racer *r = arg;

	if (r->self == 0)
		hit(r);
	while (r->taken < ROUNDS) {
		int vector = lapic_irq_pending(r->f->cpu[r->self]) ? lapic_irq_ack(r->f->cpu[r->self]) : -1;

		if (vector < 0)
			continue;
		assert_true(wr(r->f, r->self, 0x80b, 0));
		if (vector != 0x80)
			continue;
		r->taken++;
		if (r->self == 1 || r->taken < ROUNDS)
			hit(r);
	}
	return NULL;
}

static void concurrent_ipis(tz_unused void **state)
{
	struct fakechip *f = make(2);
	struct racer r[2] = { { f, 0, 1, 0 }, { f, 1, 0, 0 } };
	pthread_t thread[2];

	for (unsigned n = 0; n < 2; n++)
		fakechip_x2apic(f, n);
	for (unsigned n = 0; n < 2; n++)
		assert_int_equal(pthread_create(&thread[n], NULL, race, &r[n]), 0);
	for (unsigned i = 0; i < 2000; i++) {
		irqchip_send_msi(f->chip, 0xfee00000 | (i & 1) << 12, 0x70);
		irqchip_set_line(f->chip, 5, i & 1);
	}
	for (unsigned n = 0; n < 2; n++)
		pthread_join(thread[n], NULL);
	assert_int_equal(r[0].taken, ROUNDS);
	assert_int_equal(r[1].taken, ROUNDS);
	fakechip_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_values),
		cmocka_unit_test(priorities),
		cmocka_unit_test(software_disable),
		cmocka_unit_test(ipi_modes),
		cmocka_unit_test(sets_of_ids),
		cmocka_unit_test(logical_destinations),
		cmocka_unit_test(lowest_priority),
		cmocka_unit_test(base_transitions),
		cmocka_unit_test(x2apic_registers),
		cmocka_unit_test(x2apic_ipis),
		cmocka_unit_test(errors),
		cmocka_unit_test(odd_accesses),
		cmocka_unit_test(timer_one_shot),
		cmocka_unit_test(timer_periodic),
		cmocka_unit_test(timer_mode_after_expiry),
		cmocka_unit_test(timer_tsc_deadline),
		cmocka_unit_test(virtual_wire),
		cmocka_unit_test(lint0_level),
		cmocka_unit_test(msi),
		cmocka_unit_test(state_round_trip),
		cmocka_unit_test(concurrent_ipis),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
