/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chip state in the layouts of KVM_GET/SET_LAPIC, _IRQCHIP and _PIT2. The structs are spelled here with the
 * ABI's sizes and offsets, because x86/ knows no KVM header; api/ passes them on as bytes.
 */
#include <errno.h>
#include <string.h>

#include "x86/apic/lapic_state.h"

struct layout_pic { /* struct kvm_pic_state */
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll;
	uint8_t special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_nested, init4, elcr, elcr_mask;
};
_Static_assert(sizeof(struct layout_pic) == 16, "kvm_pic_state");

struct layout_ioapic { /* struct kvm_ioapic_state */
	uint64_t base_address;
	uint32_t ioregsel, id, irr, pad;
	uint64_t redirtbl[IOAPIC_PINS];
};
_Static_assert(sizeof(struct layout_ioapic) == 216, "kvm_ioapic_state");

struct layout_pit_channel { /* struct kvm_pit_channel_state */
	uint32_t count;
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate;
	int64_t count_load_time;
};
struct layout_pit { /* struct kvm_pit_state2 */
	struct layout_pit_channel channels[3];
	uint32_t flags;
	uint32_t reserved[9];
};
_Static_assert(sizeof(struct layout_pit) == 112, "kvm_pit_state2");

#define PIT_FLAG_HPET_LEGACY 1u
#define PIT_FLAG_SPEAKER_DATA 2u

/* ---- LAPIC: the register page's first 1024 bytes ---- */

#define REGS_SIZE 1024u

static uint32_t reg_get(const void *regs, uint32_t reg)
{
	uint32_t v;

	memcpy(&v, (const uint8_t *)regs + reg, sizeof(v));
	return v;
}

static void reg_put(void *regs, uint32_t reg, uint32_t value)
{
	memcpy((uint8_t *)regs + reg, &value, sizeof(value));
}

static void get_vectors(const uint32_t v[8], void *regs, uint32_t reg)
{
	for (uint32_t i = 0; i < 8; i++)
		reg_put(regs, reg + i * 16, v[i]);
}

static void set_vectors(uint32_t v[8], const void *regs, uint32_t reg)
{
	for (uint32_t i = 0; i < 8; i++)
		v[i] = reg_get(regs, reg + i * 16);
	if (reg != LAPIC_TMR)
		v[0] &= 0xffff0000; /* vectors 0..15 cannot be there */
}

void lapic_get_regs(struct x86_cpu *cpu, void *regs1024)
{
	struct lapic *l = cpu->lapic;

	memset(regs1024, 0, REGS_SIZE);
	lapic_lock(l);
	/* The ID in bits 31:24 whatever the mode: KVM's layout without KVM_CAP_X2APIC_API. */
	reg_put(regs1024, LAPIC_ID, l->id << 24);
	reg_put(regs1024, LAPIC_VERSION, LAPIC_VERSION_VALUE);
	reg_put(regs1024, LAPIC_TPR, l->tpr);
	reg_put(regs1024, LAPIC_APR, l->apr);
	reg_put(regs1024, LAPIC_PPR, l->ppr);
	reg_put(regs1024, LAPIC_LDR, l->ldr);
	reg_put(regs1024, LAPIC_DFR, l->dfr);
	reg_put(regs1024, LAPIC_SVR, l->svr);
	get_vectors(l->isr, regs1024, LAPIC_ISR);
	get_vectors(l->tmr, regs1024, LAPIC_TMR);
	get_vectors(l->irr, regs1024, LAPIC_IRR);
	reg_put(regs1024, LAPIC_ESR, l->esr);
	reg_put(regs1024, LAPIC_ICR, l->icr);
	reg_put(regs1024, LAPIC_ICR2, l->icr2);
	for (uint32_t n = 0; n < LVT_COUNT; n++)
		reg_put(regs1024, LAPIC_LVT_FIRST + n * 16, l->lvt[n]);
	reg_put(regs1024, LAPIC_TMICT, l->tmict);
	reg_put(regs1024, LAPIC_TMCCT, lapic_timer_current_locked(l));
	reg_put(regs1024, LAPIC_TDCR, l->tdcr);
	lapic_unlock(l);
}

static void set_lvts(struct lapic *l, const void *regs)
{
	for (uint32_t n = 0; n < LVT_COUNT; n++) {
		uint32_t allowed = lapic_lvt_writable(l->cpu, n);

		if (n == LVT_LINT0 || n == LVT_LINT1)
			allowed |= LVT_REMOTE_IRR;
		l->lvt[n] = reg_get(regs, LAPIC_LVT_FIRST + n * 16) & allowed;
	}
	if (lapic_timer_mode(l) != LAPIC_TSC_DEADLINE)
		l->tsc_deadline = 0;
}

int lapic_set_regs(struct x86_cpu *cpu, const void *regs1024)
{
	struct lapic *l = cpu->lapic;
	uint32_t id = reg_get(regs1024, LAPIC_ID) >> 24;

	lapic_lock(l);
	if (lapic_x2apic(l) && id != (cpu->id & 0xff)) {
		lapic_unlock(l);
		return -EINVAL;
	}
	if (!lapic_x2apic(l))
		l->id = id;
	l->tpr = reg_get(regs1024, LAPIC_TPR) & 0xff;
	l->ldr = lapic_x2apic(l) ? lapic_x2apic_ldr(l->id) : reg_get(regs1024, LAPIC_LDR) & 0xff000000;
	l->dfr = reg_get(regs1024, LAPIC_DFR) | 0x0fffffff;
	l->svr = reg_get(regs1024, LAPIC_SVR) & SVR_WRITABLE;
	set_vectors(l->isr, regs1024, LAPIC_ISR);
	set_vectors(l->tmr, regs1024, LAPIC_TMR);
	set_vectors(l->irr, regs1024, LAPIC_IRR);
	l->esr = reg_get(regs1024, LAPIC_ESR) & 0xff;
	l->esr_pending = 0;
	l->icr = reg_get(regs1024, LAPIC_ICR) & ICR_WRITABLE;
	l->icr2 = reg_get(regs1024, LAPIC_ICR2);
	set_lvts(l, regs1024);
	l->tmict = reg_get(regs1024, LAPIC_TMICT);
	l->tdcr = reg_get(regs1024, LAPIC_TDCR) & 0xb;
	lapic_timer_resume_locked(l, reg_get(regs1024, LAPIC_TMCCT));
	lapic_lint0_update_locked(l);
	lapic_update_locked(l);
	lapic_kick(l); /* whatever was pending before, look again */
	lapic_unlock(l);
	irqchip_routing_changed(l->chip);
	return 0;
}

/* ---- PIC ---- */

void irqchip_get_pic(struct irqchip *chip, bool slave, void *kvm_pic_state)
{
	const struct pic *c = &chip->pic.chip[slave];
	struct layout_pic s;

	pthread_mutex_lock(&chip->lock);
	s = (struct layout_pic){
		.last_irr = c->lines,
		.irr = c->irr,
		.imr = c->imr,
		.isr = c->isr,
		.priority_add = c->highest,
		.irq_base = c->irq_base,
		.read_reg_select = c->read_isr,
		.poll = c->poll,
		.special_mask = c->special_mask,
		.init_state = c->init_state,
		.auto_eoi = c->auto_eoi,
		.rotate_on_auto_eoi = c->rotate_on_auto_eoi,
		.special_nested = c->special_nested,
		.init4 = c->need_icw4,
		.elcr = c->elcr,
		.elcr_mask = c->elcr_mask,
	};
	pthread_mutex_unlock(&chip->lock);
	memcpy(kvm_pic_state, &s, sizeof(s));
}

int irqchip_set_pic(struct irqchip *chip, bool slave, const void *kvm_pic_state)
{
	struct pic *c = &chip->pic.chip[slave];
	struct layout_pic s;

	memcpy(&s, kvm_pic_state, sizeof(s));
	if (s.init_state > PIC_WANT_ICW4 || s.priority_add > 7)
		return -EINVAL;
	pthread_mutex_lock(&chip->lock);
	*c = (struct pic){
		.lines = s.last_irr,
		.irr = s.irr,
		.imr = s.imr,
		.isr = s.isr,
		.highest = s.priority_add,
		.irq_base = s.irq_base & 0xf8,
		.read_isr = s.read_reg_select,
		.poll = s.poll,
		.special_mask = s.special_mask,
		.init_state = s.init_state,
		.auto_eoi = s.auto_eoi,
		.rotate_on_auto_eoi = s.rotate_on_auto_eoi,
		.special_nested = s.special_nested,
		.need_icw4 = s.init4,
		.elcr = s.elcr & c->elcr_mask,
		.elcr_mask = c->elcr_mask,
	};
	pic_sync_cascade(&chip->pic);
	irqchip_pic_changed_locked(chip);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

/* ---- IOAPIC ---- */

void irqchip_get_ioapic(struct irqchip *chip, void *kvm_ioapic_state)
{
	const struct ioapic *io = &chip->ioapic;
	struct layout_ioapic s = { 0 };

	pthread_mutex_lock(&chip->lock);
	s.base_address = io->base;
	s.ioregsel = io->select;
	s.id = io->id;
	s.irr = io->irr;
	memcpy(s.redirtbl, io->redir, sizeof(s.redirtbl));
	pthread_mutex_unlock(&chip->lock);
	memcpy(kvm_ioapic_state, &s, sizeof(s));
}

int irqchip_set_ioapic(struct irqchip *chip, const void *kvm_ioapic_state)
{
	const uint64_t keep = UINT64_C(0xff) << 56 | IOAPIC_WRITABLE_LOW | IOAPIC_REMOTE_IRR;
	struct ioapic *io = &chip->ioapic;
	struct layout_ioapic s;

	memcpy(&s, kvm_ioapic_state, sizeof(s));
	if (s.base_address & 0xff)
		return -EINVAL;
	pthread_mutex_lock(&chip->lock);
	io->base = s.base_address;
	io->select = (uint8_t)s.ioregsel;
	io->id = s.id & 0xf;
	io->irr = s.irr & (BIT32(IOAPIC_PINS) - 1);
	io->undelivered = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		io->redir[pin] = s.redirtbl[pin] & keep;
		if (!(io->redir[pin] & IOAPIC_LEVEL)) {
			io->redir[pin] &= ~IOAPIC_REMOTE_IRR;
			if (s.redirtbl[pin] & IOAPIC_PENDING) /* an edge that nobody had accepted */
				io->undelivered |= BIT32(pin);
		} else if (io->irr & BIT32(pin)) {
			io->undelivered |= BIT32(pin);
		}
	}
	ioapic_retry_locked(chip, io->undelivered);
	pit_line_rerouted_locked(chip);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

/* ---- PIT ---- */

void irqchip_get_pit(struct irqchip *chip, void *kvm_pit_state2)
{
	const struct pit *pit = &chip->pit;
	struct layout_pit s = { 0 };

	pthread_mutex_lock(&chip->lock);
	for (unsigned n = 0; n < 3; n++) {
		const struct pit_channel *ch = &pit->ch[n];

		s.channels[n] = (struct layout_pit_channel){
			.count = ch->loaded ? ch->reload : 0,
			.latched_count = ch->latched_count,
			.count_latched = ch->count_latched,
			.status_latched = ch->status_latched,
			.status = ch->status,
			.read_state = ch->read_state,
			.write_state = ch->write_state,
			.write_latch = ch->write_latch,
			.rw_mode = ch->rw_mode,
			.mode = ch->mode,
			.bcd = ch->bcd,
			.gate = ch->gate,
			.count_load_time = (int64_t)pit_start_ns(ch),
		};
	}
	s.flags = (pit->hpet_legacy ? PIT_FLAG_HPET_LEGACY : 0) | (pit->speaker_data ? PIT_FLAG_SPEAKER_DATA : 0);
	pthread_mutex_unlock(&chip->lock);
	memcpy(kvm_pit_state2, &s, sizeof(s));
}

static bool pit_layout_legal(const struct layout_pit *s)
{
	for (unsigned n = 0; n < 3; n++) {
		const struct layout_pit_channel *c = &s->channels[n];

		if (c->count > 0x10000 || c->rw_mode > 3 || c->read_state > PIT_RW_WORD1 ||
		    c->write_state > PIT_RW_WORD1 || c->count_latched > PIT_RW_WORD1)
			return false;
	}
	return true;
}

static void set_pit_channel(struct pit_channel *ch, const struct layout_pit_channel *c)
{
	*ch = (struct pit_channel){
		.reload = c->count,
		.loaded = c->count != 0,
		.mode = c->mode > 5 ? 3 : c->mode, /* KVM says 0xff before the first control word */
		.latched_count = c->latched_count,
		.count_latched = c->count_latched,
		.status_latched = c->status_latched,
		.status = c->status,
		.read_state = c->read_state,
		.write_state = c->write_state,
		.write_latch = c->write_latch,
		.rw_mode = c->rw_mode,
		.bcd = c->bcd,
		.gate = c->gate,
	};
	if (ch->loaded && ch->reload == 1 && (ch->mode == 2 || ch->mode == 3))
		ch->reload = 2;
}

int irqchip_set_pit(struct irqchip *chip, const void *kvm_pit_state2)
{
	struct pit *pit = &chip->pit;
	struct layout_pit s;

	memcpy(&s, kvm_pit_state2, sizeof(s));
	if (!pit_layout_legal(&s))
		return -EINVAL;
	pthread_mutex_lock(&chip->lock);
	for (unsigned n = 0; n < 3; n++)
		set_pit_channel(&pit->ch[n], &s.channels[n]);
	pit->hpet_legacy = s.flags & PIT_FLAG_HPET_LEGACY;
	pit->speaker_data = s.flags & PIT_FLAG_SPEAKER_DATA;
	pit_restart_locked(chip);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}
