/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot entry (32-bit protected mode) to 64-bit mode: an identity map of the first 4 GiB in
 * 2 MiB pages (the first 2 MiB in 4 KiB pages that tests may change), GDT with a TSS, IDT. Calls main().
 */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.code32
	.globl start
start:
	cli
	mov $stack_top, %esp
	/* PML4 -> PDPT -> four page directories of large pages. */
	mov $pdpt + 7, %eax
	mov %eax, pml4
	mov $pd + 7, %eax
	mov $pdpt, %edi
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 1b
	mov $0x87, %eax
	mov $pd, %edi
	mov $2048, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	loop 1b
	mov $page_table + 7, %eax
	mov %eax, pd
	mov $7, %eax
	mov $page_table, %edi
	mov $512, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 1b
	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax			/* NXE, LME, SCE */
	wrmsr
	mov %cr0, %eax
	or $0x80010002, %eax		/* PG, WP, MP */
	and $~0x4, %eax			/* EM */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $0x08, $1f
	.code64
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $stack_top, %rsp
	call setup_tables
	call main
	mov %eax, %edi
	call guest_exit

	/* 256 entry stubs, 16 bytes each: vector on the stack, a zero where the CPU pushes no error code. */
	.globl stubs
	.align 16
stubs:
	vector = 0
	.rept 256
	.align 16
	.if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21
	push $0
	.endif
	push $vector
	jmp common
	vector = vector + 1
	.endr

common:
	push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
	push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
	mov %rsp, %rdi
	cld
	call handle_exception
	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
	pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
	add $16, %rsp
	iretq

	/* u64 run_user(void (*fn)(void)): fn at CPL 3; comes back by int $0x80 or through a fault. */
	.globl run_user
run_user:
	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
	mov %rsp, user_return_rsp
	lea user_back(%rip), %rax
	mov %rax, user_return_rip
	push $0x23			/* SS */
	push $user_stack_top
	push $0x202			/* IF: nothing interrupts unless a test unmasks it */
	push $0x2b			/* CS */
	push %rdi
	iretq
user_back:
	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
	ret

	/* void run_frame(struct frame *f): an interrupt must not push below f while it is the stack. */
	.globl run_frame, run_back
run_frame:
	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
	pushf
	cli
	mov %rdi, run_capture
	mov %rsp, run_rsp
	mov %rdi, %rsp
	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
	pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
	add $16, %rsp
	iretq
run_back:
	popf
	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
	ret

	.data
	.align 16
	.globl gdt, gdt_pointer
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 08 code64 */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cf9b000000ffff	/* 18 code32 */
	.quad 0x00cff3000000ffff	/* 20 user data */
	.quad 0x00affb000000ffff	/* 28 user code64 */
	.quad 0x00cffb000000ffff	/* 30 user code32 */
	.quad 0, 0			/* 38 TSS */
	.quad 0x00cf13000000ffff	/* 48 data, not present */
	.quad 0x00009b000000ffff	/* 50 code16 */
	.quad 0x000093000000ffff	/* 58 data16 */
gdt_pointer:
	.word . - gdt - 1
	.quad gdt

	.bss
	.align 4096
	.globl pml4, pdpt, pd, page_table, user_stack_top
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4 * 4096
page_table: .skip 4096
stack:	.skip 65536
stack_top:
user_stack: .skip 16384
user_stack_top:
	.globl user_return_rsp, user_return_rip
user_return_rsp: .skip 8
user_return_rip: .skip 8
	.section .note.GNU-stack, "", @progbits
