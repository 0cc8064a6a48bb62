/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-library irqchip: LAPIC per vCPU, IOAPIC, two 8259 PICs, 8254 PIT (SDM 3A chapter 10; Intel 82093AA, 8259A,
 * 8254). Knows vCPUs only as (APIC id -> struct lapic) and its surroundings as callbacks, so each part is unit-tested
 * alone.
 *
 * Threads: every function may be called from any thread unless it says otherwise; chips lock themselves
 * (lapic->lock; irqchip->lock for PIC, IOAPIC and PIT; order irqchip -> lapic). The vCPU thread's
 * look at "is anything pending" is lock-free.
 */
#ifndef TZ_X86_APIC_IRQCHIP_H
#define TZ_X86_APIC_IRQCHIP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/addr.h"

struct x86_cpu;
struct lapic;
struct irqchip;

/* What the chips need from core. ctx is irqchip->ctx (the VM). None may call back into the chips synchronously. */
struct irqchip_ops {
	/* The vCPU must look at its LAPIC / take an NMI, INIT, SIPI: set attention and wake it. Thread: any. */
	void (*kick)(void *ctx, struct x86_cpu *cpu);
	void (*nmi)(void *ctx, struct x86_cpu *cpu);
	void (*smi)(void *ctx, struct x86_cpu *cpu);
	void (*init)(void *ctx, struct x86_cpu *cpu);
	void (*sipi)(void *ctx, struct x86_cpu *cpu, uint8_t vector);
	/* VM clock, ns, monotonic, stopped with the VM; and the guest TSC of a vCPU with its frequency. */
	uint64_t (*now_ns)(void *ctx);
	uint64_t (*tsc_now)(void *ctx, struct x86_cpu *cpu);
	uint64_t (*tsc_hz)(void *ctx, struct x86_cpu *cpu);
	/* (Re)arm timer `timer` for the VM-clock time `deadline_ns` (0 = disarm); fires irqchip_timer_expired() on a
	 * core thread. */
	void (*timer_arm)(void *ctx, unsigned timer, uint64_t deadline_ns);
	/*
	 * A GSI's interrupt is over: EOI of a level-triggered vector at the IOAPIC, or any at a PIC (resampling
	 * irqfds); may be NULL. No chip's lock is held.
	 */
	void (*eoi)(void *ctx, unsigned gsi);
};
/* Timer numbers: 0 is the PIT's, 1 + vcpu id the LAPIC timer of that vCPU. */
#define IRQCHIP_TIMER_PIT 0u
#define IRQCHIP_TIMER_LAPIC(id) (1u + (id))

#define IRQCHIP_MAX_VCPUS 256
#define IRQCHIP_GSI_MAX 4096

struct irqchip *irqchip_create(const struct irqchip_ops *ops, void *ctx); /* NULL: no memory */
void irqchip_destroy(struct irqchip *chip);
void irqchip_reset(struct irqchip *chip); /* PIC, IOAPIC, PIT; LAPICs with their vCPU */

/* LAPIC of `cpu`; sets cpu->lapic. -ENOMEM, -EEXIST. */
int lapic_create(struct irqchip *chip, struct x86_cpu *cpu);
void lapic_destroy(struct x86_cpu *cpu);
void lapic_reset(struct x86_cpu *cpu, bool init);

/* ---- the vCPU thread ---- */
bool lapic_irq_pending(struct x86_cpu *cpu);   /* IRR above PPR, or ExtINT through LVT0; lock-free fast no */
int lapic_irq_ack(struct x86_cpu *cpu);        /* IRR -> ISR, or INTA cycle of the PIC; -1 if it went away */
bool lapic_enabled(const struct x86_cpu *cpu); /* globally (APIC_BASE) */
uint64_t lapic_read_tpr(struct x86_cpu *cpu);  /* as CR8: bits 7:4 of TPR */
void lapic_write_tpr(struct x86_cpu *cpu, uint64_t cr8);
/* MMIO at apic_base of this vCPU. len 1..8; only aligned 4-byte accesses do something (SDM 3A 10.4.1). */
bool lapic_mmio_match(const struct x86_cpu *cpu, gpa_t gpa);
void lapic_mmio_read(struct x86_cpu *cpu, uint32_t offset, void *data, unsigned len);
void lapic_mmio_write(struct x86_cpu *cpu, uint32_t offset, const void *data, unsigned len);
/* MSRs: APIC_BASE, TSC_DEADLINE, x2APIC 0x800-0x8ff. False: #GP. */
bool lapic_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
bool lapic_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value);
/* APIC_BASE set by the client (KVM_SET_SREGS, KVM_SET_MSRS): any legal mode from any other. False: no such value. */
bool lapic_set_base(struct x86_cpu *cpu, uint64_t value);
/* An edge-triggered IPI, `icr`'s vector and mode, to the APIC ids min + n for each bit n of `set`; how many took it. */
int lapic_send_set(struct x86_cpu *cpu, uint64_t set, uint64_t min, uint32_t icr);
/* KVM_HC_KICK_CPU: end the halt of the vCPU with this APIC id, or its next one. */
void lapic_unhalt(struct x86_cpu *cpu, uint32_t apic_id);
/* PV EOI under way: it is done if the guest did it, else the guest must do a real one. Thread: the vCPU's own. */
void lapic_pv_eoi_settle(struct x86_cpu *cpu);
/* The guest TSC was written or its offset changed: rearm the deadline timer. */
void lapic_tsc_changed(struct x86_cpu *cpu);

/* ---- IOAPIC, PIC, PIT as seen by the bus ---- */
bool irqchip_mmio_match(const struct irqchip *chip, gpa_t gpa); /* IOAPIC window 0xfec00000 */
void irqchip_mmio_read(struct irqchip *chip, gpa_t gpa, void *data, unsigned len);
void irqchip_mmio_write(struct irqchip *chip, gpa_t gpa, const void *data, unsigned len);
/* Ports 0x20-21, 0xa0-a1, 0x4d0-4d1; and, with a PIT (pit_enabled), 0x40-43 and 0x61. False: not ours. */
bool irqchip_pio_read(struct irqchip *chip, uint16_t port, void *data, unsigned len);
bool irqchip_pio_write(struct irqchip *chip, uint16_t port, const void *data, unsigned len);
void irqchip_pit_enable(struct irqchip *chip, bool speaker_port); /* KVM_CREATE_PIT2; else its ports go to the client */

/* ---- lines and messages ---- */
/*
 * Where GSIs lead. By default GSI n is pin n of the IOAPIC and, below 16, input n of the PICs. The PIT drives GSI 0.
 */
enum irqchip_route_kind { IRQCHIP_ROUTE_PIC, IRQCHIP_ROUTE_IOAPIC, IRQCHIP_ROUTE_MSI };
struct irqchip_route {
	unsigned gsi;
	enum irqchip_route_kind kind;
	unsigned pin;     /* PIC: 8 to 15 are the slave's */
	uint64_t address; /* MSI */
	uint32_t data;
};
/* Replaces all. -EINVAL: no such GSI or pin, or a GSI leads to one chip twice or to pins and a message; -ENOMEM. */
int irqchip_set_routing(struct irqchip *chip, const struct irqchip_route *route, size_t count);
/* KVM_IRQ_LINE on a GSI. False: it leads nowhere. */
bool irqchip_set_line(struct irqchip *chip, unsigned gsi, bool level);
/* Up until the interrupt's EOI, whatever irqchip_set_line says; then ops->eoi. */
bool irqchip_raise_resampled(struct irqchip *chip, unsigned gsi);
/* Single pins, past the routing. */
void irqchip_set_pic_line(struct irqchip *chip, unsigned pin, bool level);
void irqchip_set_ioapic_line(struct irqchip *chip, unsigned pin, bool level);
/* An MSI write (SDM 3A 10.11). Returns the number of LAPICs that took it, 0 if none. */
int irqchip_send_msi(struct irqchip *chip, uint64_t address, uint32_t data);
void irqchip_timer_expired(struct irqchip *chip, unsigned timer); /* core's timer thread */

/* ---- KVM_GET/SET_LAPIC, _IRQCHIP, _PIT2 (struct layouts of <linux/kvm.h>, passed as bytes) ---- */
void lapic_get_regs(struct x86_cpu *cpu, void *regs1024);
int lapic_set_regs(struct x86_cpu *cpu, const void *regs1024);
void irqchip_get_pic(struct irqchip *chip, bool slave, void *kvm_pic_state);
int irqchip_set_pic(struct irqchip *chip, bool slave, const void *kvm_pic_state);
void irqchip_get_ioapic(struct irqchip *chip, void *kvm_ioapic_state);
int irqchip_set_ioapic(struct irqchip *chip, const void *kvm_ioapic_state);
void irqchip_get_pit(struct irqchip *chip, void *kvm_pit_state2);
int irqchip_set_pit(struct irqchip *chip, const void *kvm_pit_state2);

#endif
