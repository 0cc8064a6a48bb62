/* SPDX-License-Identifier: Apache-2.0 */
/* Several vCPUs in one program. Each has its own GDT, TSS and stack; the IDT and the page tables are shared. */
#ifndef TESTS_CPU_SMP_H
#define TESTS_CPU_SMP_H

#include "guest.h"

#define SMP_MAX 8

/*
 * Starts all other vCPUs: each calls fn(index), 1 and up, with interrupts off, and halts when it returns.
 * Returns how many vCPUs there are, this one included. Also switches this one's LAPIC on.
 */
unsigned smp_start(void (*fn)(unsigned index));
/* The number smp_start() gave; GS base is taken for it. */
unsigned smp_index(void);
u32 smp_apic_id(unsigned index);
/* Fixed interrupts to all others, or to one, or to this one; waits until the ICR has sent it. */
void ipi_others(u8 vector);
void ipi_one(unsigned index, u8 vector);
void ipi_self(u8 vector);

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}
static inline void atomic_inc(volatile u32 *p)
{
	__asm__ volatile("lock incl %0" : "+m"(*p)::"memory", "cc");
}
/* Spin; a guest that is stuck is ended by the test's patience. */
static inline void await_value(volatile u32 *p, u32 value)
{
	while (*p != value)
		cpu_relax();
}

#endif
