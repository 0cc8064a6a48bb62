/* SPDX-License-Identifier: Apache-2.0 */
#include "smp.h"

#define TRAMPOLINE 0x8000
#define GDT_ENTRIES 12 /* as in start64.S */
#define FW_CFG_SELECT 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_NB_CPUS 5
#define MSR_GS_BASE 0xc0000101

static struct cpu {
	u32 index, apic_id;
	u64 gdt[GDT_ENTRIES];
	struct tss tss;
	u8 stack[16384] __attribute__((aligned(16)));
	u8 ring0_stack[8192] __attribute__((aligned(16)));
} cpus[SMP_MAX];

volatile u32 smp_next = 1; /* taken by the trampoline */
u64 smp_stacks[SMP_MAX];
static volatile u32 smp_alive;
static void (*smp_fn)(unsigned index);
static struct table_pointer {
	u16 limit;
	u64 base;
} __attribute__((packed)) idt_pointer;
extern char smp_trampoline[], smp_trampoline_end[];
void smp_main(u32 index);

__asm__(".text\n.code16\n"
	"smp_trampoline:\n"
	"	cli\n"
	"	xor %ax, %ax\n"
	"	mov %ax, %ds\n"
	"	lgdtl 0x8000 + (smp_gdt_pointer - smp_trampoline)\n"
	"	mov %cr0, %eax\n"
	"	or $1, %al\n"
	"	mov %eax, %cr0\n"
	"	ljmpl $0x18, $0x8000 + (smp32 - smp_trampoline)\n"
	".code32\n"
	"smp32:\n"
	"	mov $0x10, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
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
	"	and $~0x4, %eax\n"
	"	mov %eax, %cr0\n"
	"	ljmp $0x08, $smp64_entry\n"
	"smp_gdt_pointer:\n"
	"	.word 0x5f\n"
	"	.long gdt\n"
	"smp_trampoline_end:\n"
	".code64\n"
	"smp64_entry:\n"
	"	mov $1, %ebx\n"
	"	lock xadd %ebx, smp_next\n"
	"	mov smp_stacks(,%rbx,8), %rsp\n"
	"	mov %ebx, %edi\n"
	"	call smp_main\n"
	"1:	cli\n"
	"	hlt\n"
	"	jmp 1b\n");

static void load_tables(struct cpu *c)
{
	struct table_pointer pointer = { sizeof(c->gdt) - 1, (u64)c->gdt };
	u64 base = (u64)&c->tss;

	for (unsigned i = 0; i < GDT_ENTRIES; i++)
		c->gdt[i] = gdt[i];
	c->gdt[7] = (sizeof(c->tss) - 1) | (base & 0xffffff) << 16 | (u64)0x89 << 40 | (base >> 24 & 0xff) << 56;
	c->gdt[8] = base >> 32;
	c->tss.rsp[0] = (u64)c->ring0_stack + sizeof(c->ring0_stack);
	c->tss.io_map = 104;
	__asm__ volatile("lgdt %0" ::"m"(pointer));
	__asm__ volatile("lidt %0" ::"m"(idt_pointer));
	__asm__ volatile("ltr %w0" ::"r"(0x38));
}

static void set_up(unsigned index)
{
	struct cpu *c = &cpus[index];

	LAPIC(LAPIC_SVR) = 0x1ff;
	c->index = index;
	c->apic_id = LAPIC(LAPIC_ID) >> 24;
	__asm__ volatile("mov %0, %%gs" ::"r"(0));
	wrmsr(MSR_GS_BASE, (u64)c);
}

void smp_main(u32 index)
{
	load_tables(&cpus[index]);
	set_up(index);
	atomic_inc(&smp_alive);
	smp_fn(index);
}

unsigned smp_index(void)
{
	u32 index;

	__asm__ volatile("movl %%gs:0, %0" : "=r"(index));
	return index;
}

u32 smp_apic_id(unsigned index)
{
	return cpus[index].apic_id;
}

static unsigned cpus_of_machine(void)
{
	unsigned n;

	outw(FW_CFG_SELECT, FW_CFG_NB_CPUS);
	n = inb(FW_CFG_DATA);
	return n | (unsigned)inb(FW_CFG_DATA) << 8;
}

static void icr(u32 high, u32 low)
{
	LAPIC(LAPIC_ICR_HIGH) = high;
	LAPIC(LAPIC_ICR) = low;
	while (LAPIC(LAPIC_ICR) & 1 << 12)
		cpu_relax();
}

void ipi_others(u8 vector)
{
	icr(0, 0xc4000u | vector);
}

void ipi_one(unsigned index, u8 vector)
{
	icr(cpus[index].apic_id << 24, 0x4000u | vector);
}

void ipi_self(u8 vector)
{
	icr(0, 0x44000u | vector);
}

unsigned smp_start(void (*fn)(unsigned index))
{
	unsigned count = cpus_of_machine();
	u8 *to = (u8 *)TRAMPOLINE;

	if (count > SMP_MAX) {
		print("too many vCPUs for this program\n");
		guest_exit(61);
	}
	set_up(0);
	__asm__ volatile("sidt %0" : "=m"(idt_pointer));
	for (char *p = smp_trampoline; p < smp_trampoline_end; p++)
		*to++ = (u8)*p;
	for (unsigned i = 0; i < count; i++)
		smp_stacks[i] = (u64)cpus[i].stack + sizeof(cpus[i].stack);
	smp_fn = fn;
	if (count == 1)
		return 1;
	icr(0, 0xc4500); /* INIT, all but self */
	for (u32 i = 0; i < 10000; i++)
		cpu_relax();
	icr(0, 0xc4608); /* SIPI to 0x8000 */
	await_value(&smp_alive, count - 1);
	return count;
}
