/* SPDX-License-Identifier: Apache-2.0 */
/* INIT and SIPI start a second vCPU; both agree on memory, locked operations, IPIs and changed page tables. */
#include "guest.h"

#define LAPIC(reg) (*(volatile u32 *)(0xfee00000ull + (reg)))
#define ROUNDS 20000

extern char trampoline[], trampoline_end[];
extern volatile u64 other_stack;
void other_main(void);

static volatile u32 alive, other_id, phase, locked_count, plain_flag, payload, ipis, sees;
static volatile u64 split_area[16] __attribute__((aligned(64)));
static u8 other_stack_area[16384] __attribute__((aligned(16)));
/* Straddles two cache lines: a split lock. */
#define SPLIT ((volatile u64 *)((u8 *)split_area + 60))

__asm__(".text\n.code16\n"
	"trampoline:\n"
	"	cli\n"
	"	xor %ax, %ax\n"
	"	mov %ax, %ds\n"
	"	lgdtl 0x8000 + (tramp_gdt_ptr - trampoline)\n"
	"	mov %cr0, %eax\n"
	"	or $1, %al\n"
	"	mov %eax, %cr0\n"
	"	ljmpl $0x18, $0x8000 + (tramp32 - trampoline)\n"
	".code32\n"
	"tramp32:\n"
	"	mov $0x10, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %ss\n"
	"	mov $pml4, %eax\n"
	"	mov %eax, %cr3\n"
	"	mov %cr4, %eax\n"
	"	or $0x620, %eax\n"
	"	mov %eax, %cr4\n"
	"	mov $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	or $0x901, %eax\n"
	"	wrmsr\n"
	"	mov %cr0, %eax\n"
	"	or $0x80010002, %eax\n"
	"	mov %eax, %cr0\n"
	"	ljmp $0x08, $tramp64\n"
	"tramp_gdt_ptr:\n"
	"	.word 0x5f\n"
	"	.long gdt\n"
	"trampoline_end:\n"
	".code64\n"
	"tramp64:\n"
	"	mov other_stack, %rsp\n"
	"	call other_main\n");

volatile u64 other_stack;

static void delay(u32 n)
{
	while (n--)
		__asm__ volatile("pause");
}

static void on_ipi(void)
{
	ipis++;
	LAPIC(0xb0) = 0;
}

static void await(u32 value)
{
	while (phase != value)
		__asm__ volatile("pause" ::: "memory");
}

static void hammer(void)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incl %0" : "+m"(locked_count)::"memory");
		__asm__ volatile("lock incq %0" : "+m"(*SPLIT)::"memory");
	}
}

void other_main(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idt;

	/* The IDT is shared; its address came with the first CPU's message. */
	__asm__ volatile("sidt %0" : "=m"(idt));
	idt.base = *(volatile u64 *)0x7000;
	idt.limit = 0xfff;
	__asm__ volatile("lidt %0" ::"m"(idt));
	LAPIC(0xf0) = 0x1ff;
	other_id = LAPIC(0x20) >> 24;
	alive = 1;

	await(1);
	hammer();
	alive = 2;

	await(2); /* halted until an IPI comes */
	__asm__ volatile("sti; hlt; cli");
	alive = 3;

	await(3); /* message passing: x86 keeps stores in order */
	while (!plain_flag)
		__asm__ volatile("" ::: "memory");
	sees = payload;
	alive = 4;

	await(4); /* the page is remapped by the other CPU, which then sends an IPI to flush */
	sees = *(volatile u32 *)0x1a0000;
	alive = 5;
	await(5);
	__asm__ volatile("sti; nop; nop; cli");
	invlpg((void *)0x1a0000);
	sees = *(volatile u32 *)0x1a0000;
	alive = 6;
	for (;;)
		__asm__ volatile("cli; hlt");
}

static bool reached(u32 value)
{
	for (u32 i = 0; i < 200000000 && alive != value; i++)
		__asm__ volatile("pause" ::: "memory");
	return alive == value;
}

static void start_other(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idt;
	u8 *to = (u8 *)0x8000;

	__asm__ volatile("sidt %0" : "=m"(idt));
	*(volatile u64 *)0x7000 = idt.base;
	for (char *p = trampoline; p < trampoline_end; p++)
		*to++ = (u8)*p;
	other_stack = (u64)other_stack_area + sizeof(other_stack_area) - 8;
	LAPIC(0xf0) = 0x1ff;
	LAPIC(0x300) = 0xc4500; /* INIT, all but self */
	delay(10000);
	LAPIC(0x300) = 0xc4608; /* SIPI, vector 8 */
}

int main(void)
{
	volatile u64 *pte = &page_table[0x1a0];
	u64 whole = *pte;

	hooks[0x50] = on_ipi;
	start_other();
	check("the second vCPU starts", reached(1));
	check_equal("its APIC id", other_id, 1);

	phase = 1;
	hammer();
	check("both finish", reached(2));
	check_equal("locked increments", locked_count, 2 * ROUNDS);
	check_equal("split-lock increments", *SPLIT, 2 * ROUNDS);

	phase = 2;
	delay(100000);
	check_equal("a halted vCPU stays halted", alive, 2);
	LAPIC(0x310) = other_id << 24;
	LAPIC(0x300) = 0x4050;
	check("an IPI wakes it", reached(3));
	check_equal("one interrupt", ipis, 1);

	phase = 3;
	delay(1000);
	payload = 0xabcd;
	__asm__ volatile("" ::: "memory");
	plain_flag = 1;
	check("message passing", reached(4));
	check_equal("the payload comes before its flag", sees, 0xabcd);

	*(volatile u32 *)0x1a0000 = 1;
	*(volatile u32 *)0x1a1000 = 2;
	phase = 4;
	check("phase 4", reached(5));
	check_equal("the page before", sees, 1);
	*pte = whole + 4096;
	LAPIC(0x300) = 0x4050;
	phase = 5;
	check("phase 5", reached(6));
	check_equal("the page after the shootdown", sees, 2);
	return (int)failures;
}
