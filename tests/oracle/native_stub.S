/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native side's way into a case and out of it. IRETQ loads RIP, RSP and RFLAGS at once (TF included) and is as
 * good at CPL 3. A case that ends without a fault comes by the page at EXIT, which has nothing to store its registers
 * in but an absolute address.
 */
#include "layout.h"

	.text
	.globl native_enter, native_leave, native_on_signal, native_done
	.globl native_exit_code, native_exit_code_end

/* int native_enter(const struct state *in): runs it; the result is in native_result. */
native_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, native_host_sp(%rip)
	mov native_mask(%rip), %eax
	xor %edx, %edx
	xrstor (%rdi)
	lea native_frame_end(%rip), %rsp
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

/* From the page at EXIT; RAX is in native_rax. */
native_done:
	mov %rcx, native_result+STATE_GPR+1*8(%rip)
	mov %rdx, native_result+STATE_GPR+2*8(%rip)
	mov %rbx, native_result+STATE_GPR+3*8(%rip)
	mov %rsp, native_result+STATE_GPR+4*8(%rip)
	mov %rbp, native_result+STATE_GPR+5*8(%rip)
	mov %rsi, native_result+STATE_GPR+6*8(%rip)
	mov %rdi, native_result+STATE_GPR+7*8(%rip)
	mov %r8, native_result+STATE_GPR+8*8(%rip)
	mov %r9, native_result+STATE_GPR+9*8(%rip)
	mov %r10, native_result+STATE_GPR+10*8(%rip)
	mov %r11, native_result+STATE_GPR+11*8(%rip)
	mov %r12, native_result+STATE_GPR+12*8(%rip)
	mov %r13, native_result+STATE_GPR+13*8(%rip)
	mov %r14, native_result+STATE_GPR+14*8(%rip)
	mov %r15, native_result+STATE_GPR+15*8(%rip)
	mov native_host_sp(%rip), %rsp
	pushfq
	pop %rax
	mov %rax, native_result+STATE_RFLAGS(%rip)
	push $0x202
	popfq
	mov %ss, native_result+STATE_SEL+4(%rip)
	mov %cs, native_result+STATE_SEL+2(%rip)
	mov native_mask(%rip), %eax
	xor %edx, %edx
	xsave native_result(%rip)
	xor %eax, %eax
	jmp native_return

/* Back from the signal handler, out of whatever state the case left. */
native_leave:
	mov native_host_sp(%rip), %rsp
	mov $1, %eax
native_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* A case can have set AC, under which compiled code must not run. */
native_on_signal:
	push $0x202
	popfq
	jmp native_signal

/* Copied to EXIT_PAGE, in the guests too: there the store faults, which ends the case with every register intact. */
native_exit_code:
	movabs %rax, 0x1122334455667788	/* patched: &native_rax */
	movabs $0x1122334455667788, %rax /* patched: native_done */
	jmp *%rax
	.org native_exit_code + (EXIT32 - EXIT), 0xcc
	.byte 0xea	/* compatibility mode: far jump to EXIT */
	.long EXIT
	.word SEL_USER_CS
native_exit_code_end:

	/* IRETQ's frame is pushed here. */
	.bss
	.balign 64
	.skip 64
native_frame_end:
	.section .note.GNU-stack, "", @progbits
