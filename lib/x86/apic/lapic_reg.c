/* SPDX-License-Identifier: Apache-2.0 */
/* LAPIC registers by offset, as both MMIO page and x2APIC MSRs show them (SDM 3A 10.4.1, 10.12.1.2); the ICR. */
#include <string.h>

#include "x86/apic/lapic_state.h"
#include "x86/cpuid.h"

uint32_t lapic_lvt_writable(const struct x86_cpu *cpu, enum lapic_lvt n)
{
	uint32_t common = LVT_VECTOR | LVT_MASKED;

	switch (n) {
	case LVT_TIMER: return common | BIT32(17) | (x86_has(cpu, X86_FEAT_TSC_DEADLINE) ? LVT_TSC_DEADLINE : 0);
	case LVT_ERROR: return common;
	case LVT_LINT0:
	case LVT_LINT1: return common | 0x700 | BIT32(13) | LVT_LEVEL; /* mode, polarity, trigger */
	default: return common | 0x700;
	}
}

static uint32_t lvt_read_only(enum lapic_lvt n)
{
	return LVT_DELIVERY_STATUS | (n == LVT_LINT0 || n == LVT_LINT1 ? LVT_REMOTE_IRR : 0);
}

static bool read_locked(struct lapic *l, uint32_t reg, uint32_t *value)
{
	bool x2apic = lapic_x2apic(l);

	switch (reg) {
	case LAPIC_ID: *value = x2apic ? l->id : l->id << 24; return true;
	case LAPIC_VERSION: *value = LAPIC_VERSION_VALUE; return true;
	case LAPIC_TPR: *value = l->tpr; return true;
	case LAPIC_APR: *value = l->apr; return !x2apic;
	case LAPIC_PPR: *value = l->ppr; return true;
	case LAPIC_EOI: /* write-only; the page reads as zero */
	case LAPIC_SELF_IPI: *value = 0; return reg == LAPIC_EOI && !x2apic;
	case LAPIC_LDR: *value = l->ldr; return true;
	case LAPIC_DFR: *value = l->dfr; return !x2apic;
	case LAPIC_SVR: *value = l->svr; return true;
	case LAPIC_ISR ... LAPIC_ISR + 0x70: *value = l->isr[(reg - LAPIC_ISR) >> 4]; return true;
	case LAPIC_TMR ... LAPIC_TMR + 0x70: *value = l->tmr[(reg - LAPIC_TMR) >> 4]; return true;
	case LAPIC_IRR ... LAPIC_IRR + 0x70: *value = l->irr[(reg - LAPIC_IRR) >> 4]; return true;
	case LAPIC_ESR: *value = l->esr; return true;
	case LAPIC_ICR: *value = l->icr; return true;
	case LAPIC_ICR2: *value = l->icr2; return !x2apic;
	case LAPIC_LVT_FIRST ... LAPIC_LVT_LAST: *value = l->lvt[(reg - LAPIC_LVT_FIRST) >> 4]; return true;
	case LAPIC_TMICT: *value = l->tmict; return true;
	case LAPIC_TMCCT: *value = lapic_timer_current_locked(l); return true;
	case LAPIC_TDCR: *value = l->tdcr; return true;
	default: return false;
	}
}

bool lapic_reg_read(struct lapic *l, uint32_t reg, uint32_t *value)
{
	bool known;

	lapic_pv_eoi_settle(l->cpu);
	lapic_lock(l);
	known = !(reg & 0xf) && read_locked(l, reg, value);
	lapic_unlock(l);
	return known;
}

static void write_svr(struct lapic *l, uint32_t value)
{
	l->svr = value & SVR_WRITABLE;
	/* Software disable masks every LVT entry and keeps them so (SDM 3A 10.4.7.2). */
	if (!(value & SVR_ENABLE))
		for (unsigned n = 0; n < LVT_COUNT; n++)
			l->lvt[n] |= LVT_MASKED;
	lapic_lint0_update_locked(l);
}

static bool write_lvt(struct lapic *l, enum lapic_lvt n, uint32_t value)
{
	uint32_t writable = lapic_lvt_writable(l->cpu, n);

	if (lapic_x2apic(l) && (value & ~(writable | lvt_read_only(n))))
		return false;
	value &= writable;
	if (!lapic_sw_enabled(l))
		value |= LVT_MASKED;
	if (n == LVT_TIMER) {
		lapic_timer_set_lvt_locked(l, value);
		return true;
	}
	/* Remote IRR survives a write while the entry stays level-triggered. */
	if (value & LVT_LEVEL)
		value |= l->lvt[n] & LVT_REMOTE_IRR;
	l->lvt[n] = value;
	if (n == LVT_LINT0)
		lapic_lint0_update_locked(l);
	return true;
}

static bool write_locked(struct lapic *l, uint32_t reg, uint32_t value)
{
	bool x2apic = lapic_x2apic(l);

	switch (reg) {
	case LAPIC_ID: /* writable in xAPIC mode only (SDM 3A 10.4.6) */
		if (!x2apic)
			l->id = value >> 24;
		return !x2apic;
	case LAPIC_TPR:
		if (x2apic && value > 0xff)
			return false;
		l->tpr = value & 0xff;
		lapic_update_locked(l);
		return true;
	case LAPIC_LDR:
		if (!x2apic)
			l->ldr = value & 0xff000000;
		return !x2apic;
	case LAPIC_DFR:
		if (!x2apic)
			l->dfr = value | 0x0fffffff;
		return !x2apic;
	case LAPIC_SVR:
		if (x2apic && (value & ~SVR_WRITABLE))
			return false;
		write_svr(l, value);
		return true;
	case LAPIC_ESR: /* any write shows what was collected since the last one (SDM 3A 10.5.3) */
		if (x2apic && value)
			return false;
		l->esr = l->esr_pending;
		l->esr_pending = 0;
		return true;
	case LAPIC_ICR2:
		if (!x2apic)
			l->icr2 = value & 0xff000000;
		return !x2apic;
	case LAPIC_LVT_FIRST ... LAPIC_LVT_LAST: return write_lvt(l, (reg - LAPIC_LVT_FIRST) >> 4, value);
	case LAPIC_TMICT:
		if (lapic_timer_mode(l) == LAPIC_TSC_DEADLINE)
			return true; /* ignored (SDM 3A 10.5.4.1) */
		l->tmict = value;
		lapic_timer_start_locked(l);
		return true;
	case LAPIC_TDCR:
		if (x2apic && (value & ~0xbu))
			return false;
		lapic_timer_set_divisor_locked(l, value);
		return true;
	default: return false;
	}
}

static bool changes_routing(uint32_t reg)
{
	return reg == LAPIC_ID || reg == LAPIC_LDR || reg == LAPIC_DFR || reg == LAPIC_SVR;
}

/* A fixed or lowest-priority IPI with a vector below 16 is not sent (SDM 3A 10.5.3). */
static bool refuse_illegal_vector(struct lapic *l, const struct apic_msg *msg)
{
	if ((msg->mode != APIC_FIXED && msg->mode != APIC_LOWEST) || msg->vector >= 16)
		return false;
	lapic_lock(l);
	lapic_error_locked(l, ESR_SEND_ILLEGAL_VECTOR);
	lapic_unlock(l);
	return true;
}

/* SDM 3A 10.12.11: a fixed edge-triggered interrupt to itself; the ICR keeps its contents. */
static void self_ipi(struct lapic *l, uint8_t vector)
{
	struct apic_msg msg = { .vector = vector, .mode = APIC_FIXED };

	if (!refuse_illegal_vector(l, &msg))
		lapic_accept(l, &msg);
}

bool lapic_reg_write(struct lapic *l, uint32_t reg, uint32_t value)
{
	bool x2apic = lapic_x2apic(l), ok;
	uint32_t high;

	if (reg & 0xf)
		return false;
	switch (reg) {
	case LAPIC_EOI:
		if (x2apic && value)
			return false;
		lapic_eoi(l);
		return true;
	case LAPIC_ICR: /* of the page; the x2APIC MSR has 64 bits and its own way */
		lapic_lock(l);
		high = l->icr2;
		lapic_unlock(l);
		lapic_icr_write(l, value, high);
		return true;
	case LAPIC_SELF_IPI:
		if (!x2apic || value > 0xff)
			return false;
		self_ipi(l, (uint8_t)value);
		return true;
	default:
		lapic_lock(l);
		ok = write_locked(l, reg, value);
		lapic_unlock(l);
		if (ok && changes_routing(reg))
			irqchip_routing_changed(l->chip);
		return ok;
	}
}

void lapic_icr_write(struct lapic *l, uint32_t low, uint32_t high)
{
	bool x2apic = lapic_x2apic(l);
	unsigned shorthand = (low >> 18) & 3;
	struct apic_msg msg = {
		.dest = x2apic ? high : high >> 24,
		.wide = x2apic,
		.vector = (uint8_t)low,
		.mode = LVT_MODE(low),
		.logical = low & ICR_LOGICAL,
		/* Only the INIT de-assert looks at these: IPIs are edge-triggered (SDM 3A 10.6.1, trigger mode). */
		.level = low & ICR_LEVEL,
		.assert = low & ICR_ASSERT,
	};

	msg.arbitrate = msg.mode == APIC_LOWEST && shorthand == 0;
	if (msg.mode != APIC_INIT)
		msg.level = false;
	lapic_lock(l);
	l->icr = low & ICR_WRITABLE;
	l->icr2 = high;
	lapic_unlock(l);
	if (msg.mode == APIC_EXTINT || refuse_illegal_vector(l, &msg))
		return;
	switch (shorthand) {
	case 0: apic_bus_send(l->chip, &msg); break;
	case 1: lapic_accept(l, &msg); break;
	case 2: apic_bus_broadcast(l->chip, &msg, NULL); break;
	case 3: apic_bus_broadcast(l->chip, &msg, l); break;
	}
}

/* ---- the MMIO page ---- */

bool lapic_mmio_match(const struct x86_cpu *cpu, gpa_t gpa)
{
	const struct lapic *l = cpu->lapic;
	uint64_t base = atomic_load_explicit(&l->base, memory_order_relaxed);

	if ((base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD)) != LAPIC_BASE_EN)
		return false;
	return (gpa.v & ~TZ_PAGE_MASK) == (base & ~TZ_PAGE_MASK);
}

static void illegal_register(struct lapic *l)
{
	lapic_lock(l);
	lapic_error_locked(l, ESR_ILLEGAL_REGISTER);
	lapic_unlock(l);
}

void lapic_mmio_read(struct x86_cpu *cpu, uint32_t offset, void *data, unsigned len)
{
	uint32_t value = 0, at = offset & 0xf;

	memset(data, 0, len);
	/* As KVM: bytes of the register's low four are readable, the rest of the 16 reads as zero. */
	if (at + len > 4)
		return;
	if (!lapic_reg_read(cpu->lapic, offset & 0xff0, &value)) {
		illegal_register(cpu->lapic);
		return;
	}
	value >>= at * 8;
	memcpy(data, &value, len);
}

void lapic_mmio_write(struct x86_cpu *cpu, uint32_t offset, const void *data, unsigned len)
{
	uint32_t value, known;

	if (len != 4 || (offset & 0xf))
		return;
	memcpy(&value, data, 4);
	if (lapic_reg_write(cpu->lapic, offset & 0xff0, value))
		return;
	/* Refused: read-only ones just ignore it, others do not exist. */
	if (!lapic_reg_read(cpu->lapic, offset & 0xff0, &known))
		illegal_register(cpu->lapic);
}
