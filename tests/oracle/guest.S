/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel of the oracle's guest: loads each case's start state, enters it at CPL 3, takes whatever exception ends
 * it and stores the state. HLT when all are done. Runs at KERNEL_VA; nothing but branches depends on that.
 */
#include "layout.h"

	.section .rodata
	.globl oracle_guest_start, oracle_guest_end
	.balign 4096
oracle_guest_start:

next:
	movabs $CONTROL_VA, %rax
	mov CONTROL_CURRENT(%rax), %rbx
	cmp CONTROL_COUNT(%rax), %rbx
	jae done
	mov CONTROL_XCR0(%rax), %eax
	xor %edx, %edx
	shl $STATE_SHIFT, %rbx
	movabs $STATES_VA, %rdi
	add %rbx, %rdi
	xrstor (%rdi)
	mov STATE_FS_BASE(%rdi), %rax
	movzwl STATE_SEL+0(%rdi), %ecx
	mov %ecx, %es
	movzwl STATE_SEL+6(%rdi), %ecx
	mov %ecx, %ds
	movzwl STATE_SEL+8(%rdi), %ecx
	mov %ecx, %fs
	movzwl STATE_SEL+10(%rdi), %ecx
	mov %ecx, %gs
	wrfsbase %rax
	mov STATE_GS_BASE(%rdi), %rax
	wrgsbase %rax
	xor %eax, %eax
	mov %rax, %cr2
	movabs $KSTACK_TOP, %rsp
	movzwl STATE_SEL+4(%rdi), %eax
	push %rax
	push STATE_GPR+4*8(%rdi)
	push STATE_RFLAGS(%rdi)
	movzwl STATE_SEL+2(%rdi), %eax
	push %rax
	push STATE_RIP(%rdi)
	mov STATE_GPR+0*8(%rdi), %rax
	mov STATE_GPR+1*8(%rdi), %rcx
	mov STATE_GPR+2*8(%rdi), %rdx
	mov STATE_GPR+3*8(%rdi), %rbx
	mov STATE_GPR+5*8(%rdi), %rbp
	mov STATE_GPR+6*8(%rdi), %rsi
	mov STATE_GPR+8*8(%rdi), %r8
	mov STATE_GPR+9*8(%rdi), %r9
	mov STATE_GPR+10*8(%rdi), %r10
	mov STATE_GPR+11*8(%rdi), %r11
	mov STATE_GPR+12*8(%rdi), %r12
	mov STATE_GPR+13*8(%rdi), %r13
	mov STATE_GPR+14*8(%rdi), %r14
	mov STATE_GPR+15*8(%rdi), %r15
	mov STATE_GPR+7*8(%rdi), %rdi
	iretq

done:
	hlt
	jmp next

/* On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. */
common:
	cld
	testb $3, 24(%rsp)
	jz panic
	push %rax
	push %rbx
	movabs $CONTROL_VA, %rax
	mov CONTROL_CURRENT(%rax), %rbx
	incq CONTROL_CURRENT(%rax)
	shl $STATE_SHIFT, %rbx
	movabs $(STATES_VA + (SLOT_COUNT << STATE_SHIFT)), %rax
	add %rax, %rbx
	mov %rcx, STATE_GPR+1*8(%rbx)
	mov %rdx, STATE_GPR+2*8(%rbx)
	mov %rbp, STATE_GPR+5*8(%rbx)
	mov %rsi, STATE_GPR+6*8(%rbx)
	mov %rdi, STATE_GPR+7*8(%rbx)
	mov %r8, STATE_GPR+8*8(%rbx)
	mov %r9, STATE_GPR+9*8(%rbx)
	mov %r10, STATE_GPR+10*8(%rbx)
	mov %r11, STATE_GPR+11*8(%rbx)
	mov %r12, STATE_GPR+12*8(%rbx)
	mov %r13, STATE_GPR+13*8(%rbx)
	mov %r14, STATE_GPR+14*8(%rbx)
	mov %r15, STATE_GPR+15*8(%rbx)
	pop STATE_GPR+3*8(%rbx)
	pop STATE_GPR+0*8(%rbx)
	pop STATE_VECTOR(%rbx)
	pop STATE_ERROR(%rbx)
	pop STATE_RIP(%rbx)
	pop %rax
	mov %ax, STATE_SEL+2(%rbx)
	pop STATE_RFLAGS(%rbx)
	pop STATE_GPR+4*8(%rbx)
	pop %rax
	mov %ax, STATE_SEL+4(%rbx)
	mov %es, STATE_SEL+0(%rbx)
	mov %ds, STATE_SEL+6(%rbx)
	mov %fs, STATE_SEL+8(%rbx)
	mov %gs, STATE_SEL+10(%rbx)
	rdfsbase %rax
	mov %rax, STATE_FS_BASE(%rbx)
	rdgsbase %rax
	mov %rax, STATE_GS_BASE(%rbx)
	mov %cr2, %rax
	mov %rax, STATE_CR2(%rbx)
	movabs $CONTROL_VA, %rax
	mov CONTROL_XCR0(%rax), %eax
	xor %edx, %edx
	xsave (%rbx)
	jmp next

/* The kernel itself was interrupted: say by what (plus 256) and stop. */
panic:
	pop %rbx
	add $256, %rbx
	movabs $CONTROL_VA, %rax
	mov %rbx, CONTROL_PANIC(%rax)
	hlt
	jmp next

	.org oracle_guest_start + STUBS_OFFSET, 0xcc
	.set vector, 0
	.rept 256
	.org oracle_guest_start + STUBS_OFFSET + vector * STUB_SIZE, 0xcc
	.if vector != 8 && vector != 17 && vector != 21 && (vector < 10 || vector > 14)
	push $0
	.endif
	pushq $vector
	jmp common
	.set vector, vector + 1
	.endr
oracle_guest_end:
	.section .note.GNU-stack, "", @progbits
