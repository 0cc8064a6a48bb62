/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A loop of system calls in a page of code that holds CPUID, which is not executed directly:
 * `cpuidpage COUNT` prints how many of its calls gave its parent, and the CPU's largest leaf.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* rdi: calls, rsi: the parent. rax: calls that were right, | largest leaf << 32. */
__asm__(".balign 4096\n"
	"loop_here: mov %rdi, %r8; xor %r9d, %r9d\n"
	"1: mov $110, %eax; syscall\n" /* getppid */
	"cmp %rsi, %rax; jne 2f; inc %r9\n"
	"2: dec %r8; jnz 1b\n"
	"push %rbx; xor %eax, %eax; cpuid; shl $32, %rax; or %r9, %rax; pop %rbx; ret\n"
	".balign 4096\n");
unsigned long loop_here(unsigned long calls, unsigned long parent);

int main(int argc, char **argv)
{
	unsigned long result = loop_here(argc > 1 ? strtoul(argv[1], NULL, 10) : 1, (unsigned long)getppid());

	printf("right=%lu leaf=%lu\n", result & 0xffffffff, result >> 32);
	return 0;
}
