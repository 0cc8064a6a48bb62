/* SPDX-License-Identifier: Apache-2.0 */
/* The LAPIC's heart: acceptance, priorities, EOI, local vectors, reset (SDM 3A 10.4, 10.5, 10.8). */
#include <errno.h>
#include <stdlib.h>

#include "x86/apic/lapic_state.h"

static int highest(const uint32_t v[8])
{
	for (int i = 7; i >= 0; i--)
		if (v[i])
			return i * 32 + 31 - __builtin_clz(v[i]);
	return -1;
}

static bool test_bit(const uint32_t v[8], uint8_t n)
{
	return v[n / 32] & BIT32(n % 32);
}

static void set_bit(uint32_t v[8], uint8_t n)
{
	v[n / 32] |= BIT32(n % 32);
}

static void clear_bit(uint32_t v[8], uint8_t n)
{
	v[n / 32] &= ~BIT32(n % 32);
}

void lapic_kick(struct lapic *l)
{
	l->chip->ops->kick(l->chip->ctx, l->cpu);
}

/* Arbitration priority (SDM 3A 10.6.2.4 and the APR's description in 10.8.3). */
static uint32_t arbitration_priority(uint32_t tpr, uint32_t isr, uint32_t irr)
{
	uint32_t t = tpr >> 4, s = isr >> 4, r = irr >> 4;

	if (t >= r && t > s)
		return tpr;
	t = t & s;
	return (t > r ? t : r) << 4;
}

void lapic_update_locked(struct lapic *l)
{
	int irr = highest(l->irr), isr = highest(l->isr);
	uint32_t tpr = l->tpr, in_service = isr < 0 ? 0 : (uint32_t)isr & 0xf0;
	uint32_t ppr = (tpr & 0xf0) >= in_service ? tpr : in_service;
	int now = lapic_hw_enabled(l) && irr >= 0 && ((uint32_t)irr & 0xf0) > (ppr & 0xf0) ? irr : -1;

	atomic_store_explicit(&l->ppr, ppr, memory_order_relaxed);
	atomic_store_explicit(&l->apr, arbitration_priority(tpr, in_service, irr < 0 ? 0 : (uint32_t)irr),
			      memory_order_relaxed);
	/* With a paravirtual EOI under way only the vCPU can tell what is in service. */
	if (irr >= 0 && atomic_load_explicit(&l->pv_eoi, memory_order_relaxed))
		lapic_kick(l);
	if (atomic_load_explicit(&l->deliverable, memory_order_relaxed) == now)
		return;
	atomic_store(&l->deliverable, now);
	if (now >= 0)
		lapic_kick(l);
}

void lapic_error_locked(struct lapic *l, uint32_t esr_bit)
{
	/* Once per error and ESR write: an error LVT with an illegal vector must not recurse. */
	if (l->esr_pending & esr_bit)
		return;
	l->esr_pending |= esr_bit;
	lapic_local_deliver_locked(l, LVT_ERROR);
}

void lapic_set_irr_locked(struct lapic *l, uint8_t vector, bool level)
{
	if (vector < 16) {
		lapic_error_locked(l, ESR_RECEIVED_ILLEGAL_VECTOR);
		return;
	}
	set_bit(l->irr, vector);
	if (level)
		set_bit(l->tmr, vector);
	else
		clear_bit(l->tmr, vector);
	lapic_update_locked(l);
}

static void local_deliver_fixed(struct lapic *l, enum lapic_lvt n)
{
	bool level = n == LVT_LINT0 && (l->lvt[n] & LVT_LEVEL);

	if (level && (l->lvt[n] & LVT_REMOTE_IRR))
		return;
	if (level)
		l->lvt[n] |= LVT_REMOTE_IRR;
	lapic_set_irr_locked(l, l->lvt[n] & LVT_VECTOR, level);
}

void lapic_local_deliver_locked(struct lapic *l, enum lapic_lvt n)
{
	const struct irqchip_ops *ops = l->chip->ops;
	uint32_t lvt = l->lvt[n];

	if (lvt & LVT_MASKED)
		return;
	/* The timer and error entries have no delivery mode field: fixed. */
	switch (n == LVT_TIMER || n == LVT_ERROR ? APIC_FIXED : LVT_MODE(lvt)) {
	case APIC_FIXED: local_deliver_fixed(l, n); break;
	case APIC_SMI:
		ops->smi(l->chip->ctx, l->cpu);
		lapic_kick(l);
		break;
	case APIC_NMI:
		ops->nmi(l->chip->ctx, l->cpu);
		lapic_kick(l);
		break;
	case APIC_INIT:
		ops->init(l->chip->ctx, l->cpu);
		lapic_kick(l);
		break;
	default: /* ExtINT is a level the vCPU looks at, not an event; the rest is reserved */ break;
	}
	if (n == LVT_PERF) /* SDM 3A 10.5.1: set by hardware when the counter overflow was delivered */
		l->lvt[n] |= LVT_MASKED;
}

void lapic_lint0_update_locked(struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_LINT0];
	bool enabled = lapic_hw_enabled(l);
	/* With the LAPIC disabled the pin is plain INTR (SDM 3A 10.4.3). */
	bool wired = !enabled || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT);
	bool was_wired, level, rising;

	was_wired = atomic_exchange(&l->extint_wired, wired);
	level = atomic_load(&l->chip->pic_output);
	rising = level && !l->lint0_level;
	l->lint0_level = level;
	if (wired) {
		if (level && (rising || !was_wired))
			lapic_kick(l);
	} else if (level && (rising || ((lvt & LVT_LEVEL) && LVT_MODE(lvt) == APIC_FIXED))) {
		lapic_local_deliver_locked(l, LVT_LINT0);
	}
}

/* ---- paravirtual EOI ---- */

/* An EOI that nobody but the LAPIC hears of, and with nothing behind it that waits for it. */
static bool pv_eoi_possible_locked(struct lapic *l, uint8_t vector)
{
	return x86_pv_eoi_enabled(&l->cpu->pv) && highest(l->irr) < 0 && !test_bit(l->tmr, vector) &&
	       atomic_load_explicit(&l->chip->pit_eoi_vector, memory_order_relaxed) != vector;
}

static void pv_eoi_done_locked(struct lapic *l)
{
	int isr = highest(l->isr);

	l->pv_eoi = false;
	if (isr >= 0)
		clear_bit(l->isr, (uint8_t)isr);
	lapic_update_locked(l);
}

static void pv_eoi_settle_locked(struct lapic *l)
{
	if (!l->pv_eoi)
		return;
	if (x86_pv_eoi_take(l->cpu))
		l->pv_eoi = false;
	else
		pv_eoi_done_locked(l);
}

void lapic_pv_eoi_settle(struct x86_cpu *cpu)
{
	struct lapic *l = cpu->lapic;

	if (likely(!atomic_load_explicit(&l->pv_eoi, memory_order_relaxed)))
		return;
	lapic_lock(l);
	pv_eoi_settle_locked(l);
	lapic_unlock(l);
}

/* What waits may be held back by a vector that the guest has ended. */
static tz_cold void pv_eoi_look(struct lapic *l)
{
	lapic_lock(l);
	if (l->pv_eoi && highest(l->irr) >= 0)
		pv_eoi_settle_locked(l);
	lapic_unlock(l);
}

void lapic_eoi(struct lapic *l)
{
	uint8_t vector;
	bool level;
	int isr;

	lapic_lock(l);
	pv_eoi_settle_locked(l);
	isr = highest(l->isr);
	if (isr < 0) {
		lapic_unlock(l);
		return;
	}
	vector = (uint8_t)isr;
	clear_bit(l->isr, vector);
	level = test_bit(l->tmr, vector);
	if (level && (l->lvt[LVT_LINT0] & LVT_REMOTE_IRR) && (l->lvt[LVT_LINT0] & LVT_VECTOR) == vector) {
		l->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
		lapic_lint0_update_locked(l);
	}
	lapic_update_locked(l);
	lapic_unlock(l);
	if (level || atomic_load_explicit(&l->chip->pit_eoi_vector, memory_order_relaxed) == vector)
		irqchip_eoi(l->chip, vector, level);
}

bool lapic_irq_pending(struct x86_cpu *cpu)
{
	struct lapic *l = cpu->lapic;

	if (unlikely(atomic_load_explicit(&l->pv_eoi, memory_order_relaxed)))
		pv_eoi_look(l);
	if (atomic_load(&l->deliverable) >= 0)
		return true;
	return atomic_load(&l->chip->pic_output) && (atomic_load(&l->extint_wired) || atomic_load(&l->extint_msg));
}

int lapic_irq_ack(struct x86_cpu *cpu)
{
	struct lapic *l = cpu->lapic;
	int vector;

	if (atomic_load(&l->chip->pic_output) && (atomic_load(&l->extint_wired) || atomic_load(&l->extint_msg))) {
		atomic_store(&l->extint_msg, false);
		vector = irqchip_pic_ack(l->chip);
		if (vector >= 0)
			return vector;
	}
	lapic_lock(l);
	pv_eoi_settle_locked(l);
	vector = l->deliverable;
	if (vector >= 0) {
		clear_bit(l->irr, (uint8_t)vector);
		set_bit(l->isr, (uint8_t)vector);
		lapic_update_locked(l);
		if (pv_eoi_possible_locked(l, (uint8_t)vector))
			l->pv_eoi = x86_pv_eoi_offer(cpu);
	}
	lapic_unlock(l);
	return vector;
}

bool lapic_enabled(const struct x86_cpu *cpu)
{
	return lapic_hw_enabled(cpu->lapic);
}

uint64_t lapic_read_tpr(struct x86_cpu *cpu)
{
	return cpu->lapic->tpr >> 4;
}

void lapic_write_tpr(struct x86_cpu *cpu, uint64_t cr8)
{
	struct lapic *l = cpu->lapic;

	lapic_lock(l);
	l->tpr = (uint32_t)(cr8 & 0xf) << 4;
	lapic_update_locked(l);
	lapic_unlock(l);
}

/* What power-up, INIT and a global disable have in common (SDM 3A 10.4.7.1). Keeps ID and base. */
void lapic_reset_regs_locked(struct lapic *l)
{
	lapic_timer_stop_locked(l);
	l->tsc_deadline = 0;
	l->tmict = 0;
	l->tdcr = 0;
	l->tpr = 0;
	l->svr = 0xff;
	l->dfr = 0xffffffff;
	l->ldr = lapic_x2apic(l) ? lapic_x2apic_ldr(l->id) : 0;
	for (unsigned i = 0; i < 8; i++)
		l->irr[i] = l->isr[i] = l->tmr[i] = 0;
	l->esr = l->esr_pending = 0;
	l->icr = l->icr2 = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	atomic_store(&l->extint_msg, false);
	atomic_store(&l->pv_eoi, false);
}

void lapic_reset(struct x86_cpu *cpu, bool init)
{
	struct lapic *l = cpu->lapic;

	lapic_lock(l);
	if (!init) {
		l->base = LAPIC_BASE_DEFAULT | LAPIC_BASE_EN | (cpu->bsp ? LAPIC_BASE_BSP : 0);
		l->id = cpu->id;
	}
	lapic_reset_regs_locked(l);
	/*
	 * As KVM: the boot processor starts in virtual wire mode (MP specification 3.6.2.2), which firmware
	 * would set up and directly booted kernels take for granted.
	 */
	if (cpu->bsp)
		l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
	cpu->msr.apic_base = l->base;
	lapic_lint0_update_locked(l);
	lapic_update_locked(l);
	lapic_unlock(l);
}

int lapic_create(struct irqchip *chip, struct x86_cpu *cpu)
{
	struct lapic *l;
	unsigned limit;

	if (cpu->id >= IRQCHIP_MAX_VCPUS)
		return -EINVAL;
	if (cpu->lapic || atomic_load(&chip->lapic[cpu->id]))
		return -EEXIST;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->chip = chip;
	l->cpu = cpu;
	l->deliverable = -1;
	pthread_mutex_init(&l->lock, NULL);
	cpu->lapic = l;
	lapic_reset(cpu, false);
	atomic_store(&chip->lapic[cpu->id], l);
	limit = atomic_load(&chip->lapic_limit);
	while (limit <= cpu->id && !atomic_compare_exchange_weak(&chip->lapic_limit, &limit, cpu->id + 1))
		;
	return 0;
}

void lapic_destroy(struct x86_cpu *cpu)
{
	struct lapic *l = cpu->lapic;

	if (!l)
		return;
	l->chip->ops->timer_arm(l->chip->ctx, IRQCHIP_TIMER_LAPIC(cpu->id), 0);
	atomic_store(&l->chip->lapic[cpu->id], NULL);
	cpu->lapic = NULL;
	pthread_mutex_destroy(&l->lock);
	free(l);
}
