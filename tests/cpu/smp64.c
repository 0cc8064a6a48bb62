/* SPDX-License-Identifier: Apache-2.0 */
/* INIT and SIPI start the other vCPUs; all agree on memory, locked operations, IPIs and changed page tables. */
#include "smp.h"

#define ROUNDS 20000
#define IPI 0x50

static volatile u32 reached[8], phase, locked_count, plain_flag, payload, ipis, wrong, ids;
static volatile u64 split_area[16] __attribute__((aligned(64)));
/* Straddles two cache lines: a split lock. */
#define SPLIT ((volatile u64 *)((u8 *)split_area + 60))

static void delay(u32 n)
{
	while (n--)
		cpu_relax();
}

static void on_ipi(void)
{
	atomic_inc(&ipis);
	LAPIC(LAPIC_EOI) = 0;
}

static void hammer(void)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incl %0" : "+m"(locked_count)::"memory");
		__asm__ volatile("lock incq %0" : "+m"(*SPLIT)::"memory");
	}
}

static void expect_page(u32 value)
{
	if (*(volatile u32 *)0x1a0000 != value)
		atomic_inc(&wrong);
}

static void other(unsigned index)
{
	__asm__ volatile("lock btsl %1, %0" : "+m"(ids) : "r"(smp_apic_id(index)) : "memory");
	atomic_inc(&reached[0]);

	await_value(&phase, 1);
	hammer();
	atomic_inc(&reached[1]);

	await_value(&phase, 2); /* halted until an IPI comes */
	atomic_inc(&reached[2]);
	__asm__ volatile("sti; hlt; cli");
	atomic_inc(&reached[3]);

	await_value(&phase, 3); /* message passing: x86 keeps stores in order */
	while (!plain_flag)
		__asm__ volatile("" ::: "memory");
	if (payload != 0xabcd)
		atomic_inc(&wrong);
	atomic_inc(&reached[4]);

	await_value(&phase, 4); /* the page is remapped by the first CPU, which then sends an IPI to flush */
	expect_page(1);
	atomic_inc(&reached[5]);
	await_value(&phase, 5);
	__asm__ volatile("sti; nop; nop; cli");
	invlpg((void *)0x1a0000);
	expect_page(2);
	atomic_inc(&reached[6]);
}

int main(void)
{
	volatile u64 *pte = &page_table[0x1a0];
	u64 whole = *pte;
	u32 count, others;

	hooks[IPI] = on_ipi;
	count = smp_start(other);
	others = count - 1;
	check("there are other vCPUs", others > 0);
	await_value(&reached[0], others);
	check_equal("their APIC ids", ids, (1u << count) - 2);

	phase = 1;
	hammer();
	await_value(&reached[1], others);
	check_equal("locked increments", locked_count, count * ROUNDS);
	check_equal("split-lock increments", *SPLIT, count * ROUNDS);

	phase = 2;
	await_value(&reached[2], others);
	delay(100000);
	check_equal("a halted vCPU stays halted", reached[3], 0);
	for (u32 i = 1; i < count; i++)
		ipi_one(i, IPI);
	await_value(&reached[3], others);
	check_equal("one interrupt wakes each", ipis, others);

	phase = 3;
	delay(1000);
	payload = 0xabcd;
	__asm__ volatile("" ::: "memory");
	plain_flag = 1;
	await_value(&reached[4], others);
	check_equal("message passing: the payload comes before its flag", wrong, 0);

	*(volatile u32 *)0x1a0000 = 1;
	*(volatile u32 *)0x1a1000 = 2;
	phase = 4;
	await_value(&reached[5], others);
	check_equal("the page before", wrong, 0);
	*pte = whole + 4096;
	ipi_others(IPI);
	phase = 5;
	await_value(&reached[6], others);
	check_equal("the page after the shootdown", wrong, 0);
	check_equal("each took the IPI", ipis, 2 * others);
	return (int)failures;
}
