/* SPDX-License-Identifier: Apache-2.0 */
/* State of a LAPIC and the calls between its files (SDM 3A chapter 10). Private to lib/x86/apic. */
#ifndef TZ_X86_APIC_LAPIC_STATE_H
#define TZ_X86_APIC_LAPIC_STATE_H

#include "x86/apic/chip.h"
#include "x86/cpu.h"

/* Register offsets in the xAPIC page (SDM 3A table 10-1); x2APIC MSR = 0x800 + offset / 16. */
enum lapic_reg {
	LAPIC_ID = 0x20,
	LAPIC_VERSION = 0x30,
	LAPIC_TPR = 0x80,
	LAPIC_APR = 0x90,
	LAPIC_PPR = 0xa0,
	LAPIC_EOI = 0xb0,
	LAPIC_LDR = 0xd0,
	LAPIC_DFR = 0xe0,
	LAPIC_SVR = 0xf0,
	LAPIC_ISR = 0x100,
	LAPIC_TMR = 0x180,
	LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280,
	LAPIC_ICR = 0x300,
	LAPIC_ICR2 = 0x310,
	LAPIC_LVT_FIRST = 0x320,
	LAPIC_LVT_LAST = 0x370,
	LAPIC_TMICT = 0x380,
	LAPIC_TMCCT = 0x390,
	LAPIC_TDCR = 0x3e0,
	LAPIC_SELF_IPI = 0x3f0,
};

/* In register order. */
enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LAPIC_VERSION_VALUE UINT32_C(0x50014) /* integrated APIC, last LVT 5, no EOI-broadcast suppression */
#define LAPIC_BASE_DEFAULT UINT64_C(0xfee00000)
#define LAPIC_BASE_BSP BIT64(8)
#define LAPIC_BASE_EXTD BIT64(10)
#define LAPIC_BASE_EN BIT64(11)

#define LVT_VECTOR UINT32_C(0xff)
#define LVT_MODE(lvt) (((lvt) >> 8) & 7)
#define LVT_DELIVERY_STATUS BIT32(12)
#define LVT_REMOTE_IRR BIT32(14)
#define LVT_LEVEL BIT32(15)
#define LVT_MASKED BIT32(16)
#define LVT_TIMER_MODE(lvt) (((lvt) >> 17) & 3)
#define LVT_TSC_DEADLINE BIT32(18)

enum lapic_timer_mode { LAPIC_ONE_SHOT, LAPIC_PERIODIC, LAPIC_TSC_DEADLINE };

#define SVR_ENABLE BIT32(8)
#define SVR_WRITABLE UINT32_C(0x3ff) /* vector, enable, focus checking */

/* ESR bits (SDM 3A figure 10-9). */
#define ESR_SEND_ILLEGAL_VECTOR BIT32(5)
#define ESR_RECEIVED_ILLEGAL_VECTOR BIT32(6)
#define ESR_ILLEGAL_REGISTER BIT32(7)

#define ICR_LOGICAL BIT32(11)
#define ICR_ASSERT BIT32(14)
#define ICR_LEVEL BIT32(15)
#define ICR_WRITABLE UINT32_C(0x000ccfff) /* without delivery status and the reserved bits */

/* Fields: (l) lapic->lock; (r) written under lapic->lock, read by anyone, for routing and the lock-free looks. */
struct lapic {
	struct irqchip *chip;
	struct x86_cpu *cpu;
	pthread_mutex_t lock;

	/* What a vCPU looks at all the time: the vector it would take now, or -1; ExtINT reaches it. */
	_Atomic int deliverable;   /* (r) */
	_Atomic bool extint_wired; /* (r) LVT0 is ExtINT and unmasked, or the LAPIC is globally disabled */
	_Atomic bool extint_msg;   /* an ExtINT message of the IOAPIC waits for its INTA cycle */

	_Atomic uint64_t base; /* (r) IA32_APIC_BASE: the truth; cpu->msr.apic_base mirrors it */
	_Atomic uint32_t id;   /* (r) as a number: 8 bits in xAPIC mode, 32 in x2APIC mode */
	_Atomic uint32_t ldr;  /* (r) register format of the current mode */
	_Atomic uint32_t dfr;  /* (r) */
	_Atomic uint32_t svr;  /* (r) */
	_Atomic uint32_t tpr;  /* (r) */
	_Atomic uint32_t ppr;  /* (r) */
	_Atomic uint32_t apr;  /* (r) */

	uint32_t irr[8], isr[8], tmr[8]; /* (l) */
	uint32_t esr, esr_pending;       /* (l) what a read shows; what the next write will show */
	uint32_t icr, icr2;              /* (l) */
	uint32_t lvt[LVT_COUNT];         /* (l) */
	bool lint0_level;                /* (l) the PIC's output as last seen */
	/*
	 * The guest was told to end the highest vector in service by clearing a bit in its memory: isr may be behind
	 * the truth until the vCPU's thread has looked. (r)
	 */
	_Atomic bool pv_eoi;

	/* Timer: all (l). The bus clock is 1 GHz, so a count times the divisor is in ns. */
	uint32_t tmict, tdcr;
	uint64_t deadline_ns; /* VM clock; 0: not running */
	uint64_t period_ns;
	uint64_t tsc_deadline; /* IA32_TSC_DEADLINE */
};

static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_acquire) & LAPIC_BASE_EN;
}

static inline bool lapic_sw_enabled(const struct lapic *l)
{
	return atomic_load_explicit(&l->svr, memory_order_acquire) & SVR_ENABLE;
}

static inline bool lapic_x2apic(const struct lapic *l)
{
	uint64_t both = LAPIC_BASE_EN | LAPIC_BASE_EXTD;
	return (atomic_load_explicit(&l->base, memory_order_acquire) & both) == both;
}

static inline void lapic_lock(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
}

static inline void lapic_unlock(struct lapic *l)
{
	pthread_mutex_unlock(&l->lock);
}

/* x2APIC logical ID: cluster in the upper half, one bit for the member (SDM 3A 10.12.10.2). */
static inline uint32_t lapic_x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | BIT32(id & 15);
}

/* ---- lapic.c; *_locked: lapic->lock held ---- */
void lapic_kick(struct lapic *l);
/* Recompute PPR, APR and what is deliverable; kick the vCPU if something became so. */
void lapic_update_locked(struct lapic *l);
/* A fixed interrupt arrives: IRR and TMR. */
void lapic_set_irr_locked(struct lapic *l, uint8_t vector, bool level);
void lapic_error_locked(struct lapic *l, uint32_t esr_bit);
void lapic_local_deliver_locked(struct lapic *l, enum lapic_lvt n);
void lapic_lint0_update_locked(struct lapic *l); /* LVT0, base or the PIC's output changed */
void lapic_reset_regs_locked(struct lapic *l);
void lapic_eoi(struct lapic *l); /* no lock held */

/* ---- lapic_bus.c ---- */
bool lapic_accept(struct lapic *l, const struct apic_msg *msg); /* no lapic lock held */

/* ---- lapic_reg.c: no lock held ---- */
uint32_t lapic_lvt_writable(const struct x86_cpu *cpu, enum lapic_lvt n);
/* False: no such register in the current mode. */
bool lapic_reg_read(struct lapic *l, uint32_t reg, uint32_t *value);
/* False: no such register, it is read-only, or (x2APIC) a reserved bit is set. */
bool lapic_reg_write(struct lapic *l, uint32_t reg, uint32_t value);
void lapic_icr_write(struct lapic *l, uint32_t low, uint32_t high);

/* ---- lapic_timer.c ---- */
enum lapic_timer_mode lapic_timer_mode(const struct lapic *l);
void lapic_timer_start_locked(struct lapic *l); /* TMICT was written */
void lapic_timer_stop_locked(struct lapic *l);
void lapic_timer_set_divisor_locked(struct lapic *l, uint32_t tdcr);
void lapic_timer_set_lvt_locked(struct lapic *l, uint32_t lvt);
uint32_t lapic_timer_current_locked(struct lapic *l);
void lapic_timer_set_tsc_deadline_locked(struct lapic *l, uint64_t tsc);
/* KVM_SET_LAPIC: go on from current count `tmcct`. */
void lapic_timer_resume_locked(struct lapic *l, uint32_t tmcct);
void lapic_timer_expired(struct lapic *l); /* no lock held */

#endif
