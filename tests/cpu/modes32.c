/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The modes below 64-bit: real mode and back, 2-level and PAE paging, virtual-8086 mode, call gates,
 * ring 3, hardware task switches (SDM 3A 5.8, 7.3, 20). Its own Multiboot start, in 32-bit protected mode.
 */
#include "guest32.h"

#define REAL_AT 0x8000 /* where 16-bit code is copied */
enum { GDT_CODE = 1, GDT_DATA, GDT_CODE16, GDT_DATA16, GDT_UCODE, GDT_UDATA, GDT_TSS, GDT_TSS2, GDT_GATE, GDT_COUNT };

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, io_map;
};

/* As the entry stubs leave it. */
struct frame {
	u32 edi, esi, ebp, esp_, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss, es, ds, fs, gs;
};

static u64 gdt[GDT_COUNT];
static u64 idt[256];
static struct tss32 tss, tss2;
static u8 stack0[8192], stack2[4096];
static u8 user_stack[4096] __attribute__((used)); /* by assembly alone */
static u32 page_dir[1024] __attribute__((aligned(4096)));
static u64 pae_pdpt[4] __attribute__((aligned(32)));
static u64 pae_pd[4][512] __attribute__((aligned(4096)));
static volatile struct frame last;
static volatile u32 __attribute__((used)) resume_eip, resume_esp, gate_sum, task_ran, task_cr0;
extern char real_start[], real_end[], v86_start[], v86_end[], stubs32[];
void guest_main(void);
void handle(struct frame *f);
u32 go_real(void);
void run_v86(void);
void run_user(void);
void second_task(void);
void gate_entry(void);

__asm__(".section .multiboot, \"a\"\n"
	".align 4\n.long 0x1badb002, 0, -0x1badb002\n"
	".text\n.globl start\n"
	"start: cli\n mov $main_stack_top, %esp\n call guest_main\n"
	/* Entry stubs: vector and error code on the stack. */
	".align 16\nstubs32:\n"
	"vector = 0\n.rept 256\n.align 16\n"
	".if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != "
	"17\n"
	"push $0\n.endif\n"
	"push $vector\njmp common32\nvector = vector + 1\n.endr\n"
	"common32: pusha\n mov %ss, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %esp, %eax\n push %eax\n call handle\n"
	"add $4, %esp\n popa\n add $8, %esp\n iret\n"
	/* Ring 3: calls through the gate with two parameters, then leaves by INT 0x80. */
	"run_user: pusha\n movl $1f, resume_eip\n mov %esp, resume_esp\n"
	"push $0x33\n push $user_stack + 4096\n pushf\n push $0x2b\n push $user_code\n iret\n"
	"1: popa\n ret\n"
	"user_code: mov $0x33, %eax\n mov %eax, %ds\n mov %eax, %es\n push $5\n push $37\n lcall $0x4b, $0\n int "
	"$0x80\n"
	/* The gate copied two parameters to the inner stack, above the return address. */
	"gate_entry: mov 8(%esp), %eax\n add 12(%esp), %eax\n mov $0x10, %ecx\n mov %ecx, %ds\n mov %eax, gate_sum\n "
	"lret $8\n"
	/* A task: notes that it ran and returns by IRET (NT is set). */
	"second_task: mov $0x10, %eax\n incl task_ran\n mov %cr0, %eax\n mov %eax, task_cr0\n iret\n jmp second_task\n"
	/* Virtual-8086 mode at REAL_AT. */
	"run_v86: pusha\n movl $1f, resume_eip\n mov %esp, resume_esp\n"
	"push $0\n push $0\n push $0x2000\n push $0x1000\n" /* GS FS DS ES */
	"push $0x700\n push $0x8000\n"                      /* SS:SP */
	"push $0x20002\n push $0x800\n push $0\n iret\n"    /* VM; CS = REAL_AT >> 4 */
	"1: popa\n ret\n"
	/* Real mode and back: EAX = what the 16-bit code computed. */
	"go_real: pusha\n mov %esp, saved_esp\n ljmp $0x18, $0x8000\n"
	".globl back_from_real\nback_from_real: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n mov "
	"%eax, %fs\n"
	"mov %eax, %gs\n mov saved_esp, %esp\n popa\n mov 0x7000, %eax\n ret\n"
	".bss\n.align 16\n.skip 16384\nmain_stack_top:\nsaved_esp: .skip 4\n.text\n"
	/* Copied to REAL_AT; entered in 16-bit protected mode. */
	".code16\nreal_start:\n"
	"mov $0x20, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov %ax, %fs\n mov %ax, %gs\n"
	"mov %cr0, %eax\n and $0x7ffffffe, %eax\n mov %eax, %cr0\n ljmp $0x800, $(1f - real_start)\n"
	"1: xor %ax, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov $0x7000, %sp\n"
	"lidtl 0x8000 + (real_idt - real_start)\n"
	"movw $0x8000 + (real_int - real_start), 0x60 * 4\n movw $0, 0x60 * 4 + 2\n"
	"mov $7, %ax\n int $0x60\n" /* ax *= 6 through the IVT */
	"mov $0xf000, %bx\n mov %bx, %fs\n movw %fs:0xfff0, %cx\n"
	"push %ax\n pop %dx\n"
	"mov $10, %cx\n xor %bx, %bx\n"
	"2: add %cx, %bx\n loop 2b\n" /* 55 */
	"add %bx, %dx\n movzwl %dx, %edx\n mov %edx, 0x7000\n"
	"lgdtl 0x8000 + (real_gdt - real_start)\n"
	"mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n ljmpl $0x08, $back_from_real\n"
	"real_int: imul $6, %ax, %ax\n iret\n"
	"real_idt: .word 0x3ff\n .long 0\n"
	"real_gdt: .word 9 * 8 + 7\n .long gdt\n"
	"real_end:\n"
	"v86_start:\n"
	"mov $0x1234, %ax\n push %ax\n pop %bx\n mov %bx, 0\n" /* DS = 0x2000 */
	"int $0x21\n"                                          /* IOPL 0: #GP for the monitor */
	"v86_end:\n.code32\n");

void handle(struct frame *f)
{
	for (unsigned i = 0; i < sizeof(*f) / 4; i++)
		((volatile u32 *)&last)[i] = ((u32 *)f)[i];
	if (!resume_eip) {
		print("unexpected exception\n");
		guest_exit(63);
	}
	__asm__ volatile("mov %0, %%esp\n\tjmp *%1" ::"r"(resume_esp), "r"(resume_eip));
}

static u64 descriptor(u32 base, u32 limit, u32 access, u32 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static void load_idt(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) p = { sizeof(idt) - 1, (u32)idt };

	__asm__ volatile("lidt %0" ::"m"(p));
}

static void load_tables(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) p = { sizeof(gdt) - 1, (u32)gdt };

	gdt[GDT_CODE] = descriptor(0, 0xfffff, 0x9b, 12);
	gdt[GDT_DATA] = descriptor(0, 0xfffff, 0x93, 12);
	gdt[GDT_CODE16] = descriptor(0, 0xffff, 0x9b, 0);
	gdt[GDT_DATA16] = descriptor(0, 0xffff, 0x93, 0);
	gdt[GDT_UCODE] = descriptor(0, 0xfffff, 0xfb, 12);
	gdt[GDT_UDATA] = descriptor(0, 0xfffff, 0xf3, 12);
	gdt[GDT_TSS] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
	gdt[GDT_TSS2] = descriptor((u32)&tss2, sizeof(tss2) - 1, 0x89, 0);
	gdt[GDT_GATE] = ((u32)gate_entry & 0xffff) | SELECTOR(GDT_CODE, 0) << 16 | (u64)0xec02 << 32 |
			(u64)((u32)gate_entry >> 16) << 48;
	__asm__ volatile("lgdt %0\n\tljmp $0x08, $1f\n1:" ::"m"(p));
	__asm__ volatile(
		"mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs" ::"r"(SELECTOR(GDT_DATA, 0)));

	for (u32 i = 0; i < 256; i++) {
		u32 target = (u32)stubs32 + i * 16;

		idt[i] = (target & 0xffff) | SELECTOR(GDT_CODE, 0) << 16 | (u64)(i == 0x80 ? 0xee00 : 0x8e00) << 32 |
			 (u64)(target >> 16) << 48;
	}
	load_idt();
	tss.esp0 = (u32)stack0 + sizeof(stack0);
	tss.ss0 = SELECTOR(GDT_DATA, 0);
	tss.io_map = sizeof(tss);
	__asm__ volatile("ltr %w0" ::"r"(SELECTOR(GDT_TSS, 0)));
}

static void copy_code(const char *from, const char *end)
{
	volatile u8 *to = (u8 *)REAL_AT;

	while (from < end)
		*to++ = (u8)*from++;
}

/* A read that may fault; true if it did, with the frame in `last`. */
static bool read_faults(u32 address)
{
	last.vector = 255;
	__asm__ volatile(
		"pusha\n\tmovl $1f, resume_eip\n\tmov %%esp, resume_esp\n\tmovb (%0), %%al\n1:\n\tpopa" ::"r"(address)
		: "memory");
	resume_eip = 0;
	return last.vector != 255;
}

static u32 read_cr0(void)
{
	u32 v;
	__asm__ volatile("mov %%cr0, %0" : "=r"(v));
	return v;
}

static void paging(const char *what, u32 cr3, u32 cr4, bool pae)
{
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr4));
	__asm__ volatile("mov %0, %%cr3" ::"r"(cr3));
	__asm__ volatile("mov %0, %%cr0" ::"r"(read_cr0() | 0x80010000));
	*(volatile u32 *)0xc00000 = 0x600d600d; /* 12 MiB, seen at 3 GiB too */
	check(what, *(volatile u32 *)0xc0000000 == 0x600d600d);
	check("a hole faults", read_faults(0x80000000) && last.vector == 14 && last.error == 0);
	if (pae) {
		__asm__ volatile("mov %0, %%cr0" ::"r"(read_cr0() & ~0x80000000u));
		return;
	}
	/* The last page directory entry maps itself: a two-level walk. */
	check("a 4 KiB page through the directory itself", *(volatile u32 *)0xfffff000 == page_dir[0]);
	__asm__ volatile("mov %0, %%cr0" ::"r"(read_cr0() & ~0x80000000u));
}

static void test_paging(void)
{
	for (u32 i = 0; i < 8; i++)
		page_dir[i] = i << 22 | 0x87;
	page_dir[0xc0000000 >> 22] = 0xc00000 | 0x87;
	page_dir[1023] = (u32)page_dir | 7;
	paging("2-level paging with 4 MiB pages", (u32)page_dir, 0x10, false);

	for (u32 i = 0; i < 4; i++)
		pae_pdpt[i] = (u32)pae_pd[i] | 1;
	for (u32 i = 0; i < 16; i++)
		pae_pd[0][i] = i << 21 | 0x87;
	pae_pd[3][0] = 0xc00000 | 0x87;
	paging("PAE paging with 2 MiB pages", (u32)pae_pdpt, 0x20, true);
	__asm__ volatile("mov %0, %%cr4" ::"r"(0));
}

static void test_tasks(void)
{
	tss2 = (struct tss32){
		.eip = (u32)second_task,
		.eflags = 2,
		.esp = (u32)stack2 + sizeof(stack2),
		.cs = SELECTOR(GDT_CODE, 0),
		.ss = SELECTOR(GDT_DATA, 0),
		.ds = SELECTOR(GDT_DATA, 0),
		.es = SELECTOR(GDT_DATA, 0),
		.fs = SELECTOR(GDT_DATA, 0),
		.gs = SELECTOR(GDT_DATA, 0),
		.io_map = sizeof(tss2),
	};
	__asm__ volatile("lcall $0x40, $0" ::: "memory", "eax");
	check("a task is called and returns", task_ran == 1);
	check("with the back link of its caller", tss2.link == SELECTOR(GDT_TSS, 0));
	check("CR0.TS is set by a task switch", task_cr0 & 8);
	__asm__ volatile("lcall $0x40, $0" ::: "memory", "eax");
	check("and again, where it left off", task_ran == 2);
	__asm__ volatile("clts");
}

void guest_main(void)
{
	load_tables();

	copy_code(real_start, real_end);
	check("real mode and back", go_real() == 7 * 6 + 55);
	load_idt();
	check("protected mode again", read_cr0() & 1);

	test_paging();

	run_user();
	check("ring 3 comes back by INT 0x80", last.vector == 0x80 && last.cs == SELECTOR(GDT_UCODE, 3));
	check("a call gate copies its parameters", gate_sum == 42);

	copy_code(v86_start, v86_end);
	run_v86();
	check("INT n in virtual-8086 mode with IOPL 0 is #GP", last.vector == 13);
	check("from virtual-8086 mode", last.eflags & 0x20000);
	check("which ran before", *(volatile u16 *)0x20000 == 0x1234);
	check("and whose segments are on the stack", last.ds == 0x2000 && last.es == 0x1000);

	test_tasks();
	guest_exit(failures);
}
