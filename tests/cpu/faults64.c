/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions in 64-bit mode: vector, error code, where RIP and CR2 point; nothing else changed. */
#include "guest.h"

static void user_nothing(void)
{
	USER_EXIT();
}
static void user_hlt(void)
{
	__asm__ volatile("hlt");
}
static void user_cli(void)
{
	__asm__ volatile("cli");
}
static void user_out(void)
{
	outb(0x80, 0);
}
static void user_out_and_exit(void)
{
	outb(0x80, 0);
	USER_EXIT();
}
static void user_read_supervisor(void)
{
	(void)*(volatile u8 *)0x180000;
}
static void user_int_forbidden(void)
{
	__asm__ volatile("int $0x40");
}
static void user_cr0(void)
{
	(void)READ_REG(cr0);
}

static void arithmetic(void)
{
	check("#DE by division by zero",
	      TRY("xor %%eax, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx", "i"(0)) == 0);
	check("#DE by quotient overflow",
	      TRY("mov $2, %%edx; mov $1, %%ecx; xor %%eax, %%eax; div %%ecx", "i"(0)) == 0);
	check("#DE by the most negative number",
	      TRY("mov $0x80000000, %%eax; cltd; mov $-1, %%ecx; idiv %%ecx", "i"(0)) == 0);
	check("#UD by UD2", TRY("ud2", "i"(0)) == 6);
	check("#UD by LOCK on a register", TRY(".byte 0xf0, 0x01, 0xc0", "i"(0)) == 6);
	check("#UD by an opcode 64-bit mode lacks", TRY(".byte 0x06", "i"(0)) == 6);
	check("#BP by INT3", TRY("int3", "i"(0)) == 3);
	check("INT n", TRY("int $0x40", "i"(0)) == 0x40);
}

static void general_protection(void)
{
	static const struct {
		u32 offset;
		u16 selector;
	} __attribute__((packed)) null_pointer = { 0, 0 };

	check("#GP by a non-canonical read", TRY("movabs $0x800000000000, %%rax; mov (%%rax), %%rcx", "i"(0)) == 13);
	check_equal("its error code", last.error, 0);
	check("#SS by a non-canonical stack access",
	      TRY("movabs $0x800000000000, %%rax; mov (%%rsp,%%rax), %%rcx", "i"(0)) == 12);
	check("#GP by a null CS", TRY("ljmp *(%0)", "r"(&null_pointer)) == 13);
	check("#GP by a selector beyond the GDT", TRY("mov $0x1238, %%eax; mov %%eax, %%ds", "i"(0)) == 13);
	check_equal("its error code is the selector", last.error, 0x1238);
	check("#NP by a segment that is not present", TRY("mov $0x48, %%eax; mov %%eax, %%ds", "i"(0)) == 11);
	check_equal("its error code is the selector", last.error, 0x48);
	check("#GP by a code segment in SS", TRY("mov $0x08, %%eax; mov %%eax, %%ss", "i"(0)) == 13);
	check("#GP by a reserved bit of CR4", TRY("mov %%cr4, %%rax; bts $31, %%rax; mov %%rax, %%cr4", "i"(0)) == 13);
	check("#GP by PG without PE", TRY("mov $0x80000000, %%eax; mov %%rax, %%cr0", "i"(0)) == 13);
	check("#GP by an unknown MSR", TRY("mov $0x12345678, %%ecx; rdmsr", "i"(0)) == 13);
	check("#GP by a misaligned MOVAPS", TRY("movaps 1(%0), %%xmm0", "r"((u64)&tss & ~(u64)15)) == 13);
}

static void page_faults(void)
{
	volatile u64 *pte = &page_table[0x180];
	u8 *page = (u8 *)0x180000;
	u64 whole = *pte;

	*pte = 0;
	invlpg(page);
	check("#PF by a page that is not present", TRY("movb (%0), %%al", "r"(page + 5)) == 14);
	check_equal("its error code: supervisor read", last.error, 0);
	check_equal("its CR2", last.cr2, (u64)page + 5);
	check("#PF by a write", TRY("movb $1, (%0)", "r"(page)) == 14);
	check_equal("its error code: supervisor write", last.error, 2);
	check("#PF by a read-modify-write is a write", TRY("addl $1, (%0)", "r"(page)) == 14);
	check_equal("its error code", last.error, 2);
	check("#PF by a fetch", TRY("jmp *%0", "r"(page)) == 14);
	check_equal("its RIP is the target", last.rip, (u64)page);
	check("#PF in the second page of an access", TRY("movq -4(%0), %%rax", "r"(page)) == 14);
	check_equal("its CR2 is the page's start", last.cr2, (u64)page);
	*(volatile u32 *)(page - 4) = 0x11111111;
	check("a write across the border faults", TRY("movq $0, -4(%0)", "r"(page)) == 14);
	check_equal("and writes nothing", *(volatile u32 *)(page - 4), 0x11111111);

	*pte = whole & ~(u64)2;
	invlpg(page);
	check("#PF by a write to a read-only page", TRY("movb $1, (%0)", "r"(page)) == 14);
	check_equal("its error code: present, write", last.error, 3);
	*pte = whole | (u64)1 << 63;
	invlpg(page);
	*page = 0xc3;
	check("#PF by execution of an NX page", TRY("jmp *%0", "r"(page)) == 14);
	check_equal("its error code: present, fetch", last.error, 0x11);
	*pte = whole | (u64)1 << 51;
	invlpg(page);
	check("#PF by a reserved bit", TRY("movb (%0), %%al", "r"(page)) == 14);
	check_equal("its error code: present, reserved", last.error, 9);

	*pte = whole & ~(u64)0x60;
	invlpg(page);
	(void)*(volatile u8 *)page;
	check_equal("a read sets A only", *pte & 0x60, 0x20);
	*(volatile u8 *)page = 1;
	check_equal("a write sets D", *pte & 0x60, 0x60);
	*pte = whole;
	invlpg(page);
}

static void user_faults(void)
{
	volatile u64 *pte = &page_table[0x180];

	run_user(user_nothing);
	check_equal("a user program exits by INT 0x80", last.vector, 0x80);
	check_equal("from CPL 3", last.cs & 3, 3);
	run_user(user_hlt);
	check_equal("#GP by HLT at CPL 3", last.vector, 13);
	run_user(user_cli);
	check_equal("#GP by CLI at CPL 3", last.vector, 13);
	run_user(user_out);
	check_equal("#GP by OUT without permission", last.vector, 13);
	tss.io_bitmap[0x80 / 8] &= (u8) ~(1 << (0x80 % 8));
	run_user(user_out_and_exit);
	check_equal("OUT with permission in the TSS", last.vector, 0x80);
	run_user(user_cr0);
	check_equal("#GP by MOV from CR0 at CPL 3", last.vector, 13);
	run_user(user_int_forbidden);
	check_equal("#GP by INT to a gate of DPL 0", last.vector, 13);
	check_equal("its error code names the gate", last.error, 0x40 * 8 + 2);
	*pte &= ~(u64)4;
	invlpg((void *)0x180000);
	run_user(user_read_supervisor);
	check_equal("#PF by user access to a supervisor page", last.vector, 14);
	check_equal("its error code: present, user", last.error, 5);
	*pte |= 4;
	invlpg((void *)0x180000);
}

static volatile u64 ist_rsp;
static void note_rsp(void)
{
	ist_rsp = (u64)__builtin_frame_address(0);
}

static void ist(void)
{
	gate_set_ist(0x41, 3);
	hooks[0x41] = note_rsp;
	__asm__ volatile("int $0x41");
	hooks[0x41] = 0;
	check("an IST gate switches stacks", ist_rsp < tss.ist[2] && ist_rsp > tss.ist[2] - 4096);
}

int main(void)
{
	arithmetic();
	general_protection();
	page_faults();
	user_faults();
	ist();
	return (int)failures;
}
