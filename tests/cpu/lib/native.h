/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User code as an engine may leave it to the processor itself (lib/translate/direct.h): in pages of its own above
 * WINDOW, CPU features on as a 64-bit Linux has them. It must behave the same wherever it runs.
 */
#ifndef TESTS_CPU_NATIVE_H
#define TESTS_CPU_NATIVE_H

#include "paging.h"
#include "snippet.h"

#define WINDOW 0x10000000000ull
#define UCODE WINDOW
#define USTACK (WINDOW + 0x100000)  /* four pages */
#define SCRATCH (WINDOW + 0x400000) /* for the tests to map */
#define USTACK_TOP (USTACK + 0x3000)
#define EXITED FAULT(0x82, 0) /* what such code ends with: INT 80h is another thing to some hosts */
#define CR0_NE (1u << 5)
#define CR0_AM (1u << 18)
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define SYSCALL 0x81 /* its handler comes in as this vector */

/*
 * USER: code in pages without anything but ordinary instructions; SEGMENTS: in others behind them, which see segment
 * registers; SENSITIVE: behind these. All are mapped at UCODE in this order. Between USER_TEXT_BEGIN and USER_TEXT_END,
 * of which a program has one each.
 */
#define USER(name, text)                                                                                               \
	extern char name[];                                                                                            \
	__asm__(".pushsection .text.user, \"ax\"\n" #name ":\n" text "\n\tint $0x82\n.popsection\n")
#define SEGMENTS(name, text)                                                                                           \
	extern char name[];                                                                                            \
	__asm__(".pushsection .text.user_segments, \"ax\"\n" #name ":\n" text "\n\tint $0x82\n.popsection\n")
#define SENSITIVE(name, text)                                                                                          \
	extern char name[];                                                                                            \
	__asm__(".pushsection .text.user_sensitive, \"ax\"\n" #name ":\n" text "\n\tint $0x82\n.popsection\n")
#define USER_TEXT_BEGIN                                                                                                \
	extern char user_first[], user_last[];                                                                         \
	__asm__(".pushsection .text.user, \"ax\"\n.balign 4096\nuser_first:\n.popsection\n"                            \
		".pushsection .text.user_segments, \"ax\"\n.balign 4096\n.popsection\n"                                \
		".pushsection .text.user_sensitive, \"ax\"\n.balign 4096\n.popsection\n")
#define USER_TEXT_END                                                                                                  \
	__asm__(".pushsection .text.user, \"ax\"\n.balign 4096\n.popsection\n"                                         \
		".pushsection .text.user_segments, \"ax\"\n.balign 4096\n.popsection\n"                                \
		".pushsection .text.user_sensitive, \"ax\"\n.balign 4096\nuser_last:\n.popsection\n")
#define AT(label) (UCODE + (u64)((label)-user_first))

/* As 64-bit Linux has them, and as start64.S does. */
struct selectors {
	const char *name;
	u16 code, code32, stack, data;
};
static const struct selectors selectors_of[2] = { { "own selectors", 0x2b, 0x33, 0x23, 0x23 },
						  { "Linux's selectors", 0x33, 0x23, 0x2b, 0 } };
static const struct selectors *sel = &selectors_of[0];

/* Before smp_start(), for all CPUs. */
static inline void use_selectors(unsigned n)
{
	sel = &selectors_of[n];
	gdt[sel->stack / 8] = 0x00cff3000000ffff;
	gdt[sel->code / 8] = 0x00affb000000ffff;
	gdt[sel->code32 / 8] = 0x00cffb000000ffff;
	print("with ");
	print(sel->name);
	print("\n");
}

static u64 native_xcr0;
extern char stubs[];

/* On each CPU. */
static inline void native_enable(void)
{
	u32 r[4];

	gate_set_entry(0x82, 3, (void (*)(void))(u64)(stubs + 0x82 * 16));
	WRITE_REG(cr0, READ_REG(cr0) | CR0_NE | CR0_MP);
	if (HAS_FSGSBASE)
		cr4_set(CR4_FSGSBASE);
	if (!HAS_XSAVE)
		return;
	cr4_set(CR4_OSXSAVE);
	cpuid(0xd, 0, r);
	native_xcr0 = r[0] & 0xe7;
	xsetbv(native_xcr0);
}

static inline void map(u64 va, u64 pa, u64 flags)
{
	*pte_at(pml4, va, 1) = pa | flags;
	invlpg((void *)va);
}

static u8 native_stack[4 * 4096] __attribute__((aligned(4096)));

static inline void native_map(const char *first, const char *last)
{
	for (u64 at = 0; at < (u64)(last - first); at += 4096)
		map(UCODE + at, (u64)first + at, PTE_P | PTE_U);
	for (u64 at = 0; at < sizeof(native_stack); at += 4096)
		map(USTACK + at, (u64)native_stack + at, PTE_ALL | PTE_NX);
}

u64 syscall_rsp, syscall_cs, syscall_ss;
void syscall_entry(void);
__asm__(".text\nsyscall_entry:\n"
	"	mov %rsp, syscall_rsp; mov tss+4, %rsp\n"
	"	push syscall_ss; push syscall_rsp; push %r11; push syscall_cs; push %rcx\n"
	"	jmp stubs + 0x81 * 16\n");

/* SYSCALL clears IF and DF. */
static inline void set_up_syscall(void)
{
	wrmsr(MSR_STAR, (u64)0x08 << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_DF);
	syscall_cs = sel->code;
	syscall_ss = sel->stack;
}

/* User code at `rip` until something happens; returns the vector. */
static inline u64 go_flags(u64 rip, u64 rdi, u64 rsi, u64 rflags)
{
	u64 *reg = (u64 *)&got;

	for (unsigned i = 0; i < 15; i++)
		reg[i] = UNTOUCHED;
	got.rdi = rdi;
	got.rsi = rsi;
	got.rip = rip;
	got.cs = sel->code;
	got.ss = sel->stack;
	got.rsp = USTACK_TOP;
	got.rflags = rflags;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" ::"r"((u32)sel->data), "r"(0));
	run_frame(&got);
	return got.vector;
}

static inline u64 go(u64 rip, u64 rdi, u64 rsi)
{
	return go_flags(rip, rdi, rsi, 0x202);
}

/* Vector and error code of what ends it. */
static inline u64 go_fault(u64 rip, u64 rdi, u64 rsi)
{
	go(rip, rdi, rsi);
	return FAULT(got.vector, got.error);
}

#endif
