/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers between segments, privileges and modes: far CALL, JMP and RET, call gates, IRET, SYSCALL and SYSRET,
 * SYSENTER and SYSEXIT; and what ring 3 may not execute. Every selector and flag seen is this guest's.
 */
#include "snippet.h"

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FMASK 0xc0000084

static u64 own_gdt[0x20] __attribute__((aligned(16)));
#define CONFORMING 0x60
#define NOT_PRESENT 0x68
#define GATE_USER 0x70   /* to ring 0, for all */
#define GATE_KERNEL 0x80 /* to ring 0, DPL 0 */
#define GATE_GONE 0x90   /* not present */
static bool amd;
extern char user_stack_top[];

struct far {
	u32 offset;
	u16 selector;
};

static void set_gate(unsigned at, const char *target, u8 access)
{
	u64 t = (u64)target;

	own_gdt[at / 8] = (t & 0xffff) | 0x08 << 16 | (u64)access << 40 | (t >> 16 & 0xffff) << 48;
	own_gdt[at / 8 + 1] = t >> 32;
}

/* ---- what is jumped to ---- */

SNIPPET(landing, "mov %cs, %eax; mov %ss, %ecx");
SNIPPET32(landing32, "mov %cs, %eax; mov %ss, %ecx");
/* The stack as a far CALL of 32-bit operands left it, and back. */
SNIPPET(called, "mov (%rsp), %eax; mov 4(%rsp), %ecx; lretl");
SNIPPET32(called32, "mov (%esp), %eax; mov 4(%esp), %ecx; lret");
SNIPPET(gated,
	"mov (%rsp), %rax; mov 8(%rsp), %rcx; mov 16(%rsp), %rdx; mov 24(%rsp), %rbx; mov %ss, %r8; mov %cs, %r9\n"
	"mov %rsp, %r10; lretq");

/* ---- far CALL, JMP, RET ---- */

SNIPPET(do_ljmp, "ljmpl *(%rdi)");
SNIPPET(do_lcall, "lcalll *(%rdi)\n after_lcall:");
SNIPPET(do_lcallq, "rex.w lcall *(%rdi)\n after_lcallq:");
SNIPPET32(do_ljmp32, "ljmp *(%edi)");
SNIPPET32(do_lcall32, "lcall *(%edi)\n after_lcall32:");
SNIPPET(do_lret, "push %rsi; push %rdi; lretq");
SNIPPET(do_lret_imm, "push $0x11; push $0x22; push %rsi; push %rdi; lretq $16");
SNIPPET(do_lret_out, "push $0x23; push $user_stack_top; push %rsi; push %rdi; lretq");
SNIPPET(calledq, "mov (%rsp), %rax; mov 8(%rsp), %rcx; lretq");
extern char after_lcall[], after_lcallq[], after_lcall32[];

static u64 jump(enum mode mode, const char *code, const char *to, u16 selector)
{
	struct far far = { (u32)(u64)to, selector };

	return fault_of(mode, code, (u64)&far, 0);
}

static void arrived(enum mode mode, const char *what, u64 fault, u16 cs, u16 ss)
{
	check_in(mode, what, fault, DONE);
	check_in(mode, "its CS", got.rax, cs);
	check_in(mode, "its SS", got.rcx, ss);
	check_in(mode, "CS of the frame", got.cs, cs);
}

static void far_jumps(enum mode mode)
{
	bool user = IS_USER(mode), wide = mode == KERNEL64 || mode == USER64;
	const char *code = wide ? do_ljmp : do_ljmp32;
	u16 ss = mode_ss[mode], cs64 = user ? 0x2b : 0x08, cs32 = user ? 0x33 : 0x18;

	arrived(mode, "far JMP to 64-bit code", jump(mode, code, landing, cs64), cs64, ss);
	arrived(mode, "far JMP to compatibility mode", jump(mode, code, landing32, cs32), cs32, ss);
	arrived(mode, "far JMP to conforming code", jump(mode, code, landing, CONFORMING), CONFORMING | (user ? 3 : 0),
		ss);
	check_in(mode, "far JMP to data", jump(mode, code, landing, 0x23), FAULT(13, 0x20));
	check_in(mode, "far JMP to null", jump(mode, code, landing, 3), FAULT(13, 0));
	check_in(mode, "far JMP beyond the GDT", jump(mode, code, landing, 0x1003), FAULT(13, 0x1000));
	check_in(mode, "far JMP to code not present", jump(mode, code, landing, NOT_PRESENT | 3),
		 user ? FAULT(11, NOT_PRESENT) : FAULT(13, NOT_PRESENT));
	check_in(mode, "far JMP to code of another ring", jump(mode, code, landing, user ? 0x08 : 0x28),
		 FAULT(13, user ? 0x08 : 0x28));
}

static void far_calls(enum mode mode)
{
	bool user = IS_USER(mode), wide = mode == KERNEL64 || mode == USER64;
	u16 own = mode_cs[mode], other = wide ? (user ? 0x33 : 0x18) : (user ? 0x2b : 0x08);
	const char *code = wide ? do_lcall : do_lcall32, *back = wide ? after_lcall : after_lcall32;

	check_in(mode, "far CALL in the same mode and RET", jump(mode, code, wide ? called : called32, own), DONE);
	check_in(mode, "its return address", got.rax, (u64)back);
	check_in(mode, "the CS it pushed", got.rcx & 0xffff, own);
	check_in(mode, "the stack after RET", got.rsp, SNIPPET_RSP);
	check_in(mode, "far CALL to the other mode and RET", jump(mode, code, wide ? called32 : called, other), DONE);
	check_in(mode, "its return address", got.rax, (u64)back);
	check_in(mode, "the CS it pushed", got.rcx & 0xffff, own);
	check_in(mode, "CS after RET", got.cs, own);
	check_in(mode, "far CALL to code of another ring", jump(mode, code, landing, user ? 0x08 : 0x28),
		 FAULT(13, user ? 0x08 : 0x28));
	check_in(mode, "changes no stack", got.rsp, SNIPPET_RSP);
	if (!amd && wide) { /* m16:64: AMD ignores REX.W here (APM 3) */
		static u64 far[2];

		far[0] = (u64)calledq;
		far[1] = own;
		check_in(mode, "far CALL m16:64", fault_of(mode, do_lcallq, (u64)far, 0), DONE);
		check_in(mode, "its return address", got.rax, (u64)after_lcallq);
		check_in(mode, "the CS it pushed", got.rcx, own);
	}
}

static void far_returns(enum mode mode)
{
	bool user = IS_USER(mode);
	u16 cs = mode_cs[mode], ss = mode_ss[mode];

	arrived(mode, "far RET", fault_of(mode, do_lret, (u64)landing, cs), cs, ss);
	check_in(mode, "the stack", got.rsp, SNIPPET_RSP);
	arrived(mode, "far RET n", fault_of(mode, do_lret_imm, (u64)landing, cs), cs, ss);
	check_in(mode, "the stack", got.rsp, SNIPPET_RSP);
	arrived(mode, "far RET to compatibility mode", fault_of(mode, do_lret, (u64)landing32, user ? 0x33 : 0x18),
		user ? 0x33 : 0x18, ss);
	if (user) {
		check_in(mode, "far RET to an inner ring", fault_of(mode, do_lret, (u64)landing, 0x08),
			 FAULT(13, 0x08));
		return;
	}
	arrived(mode, "far RET to an outer ring", fault_of(mode, do_lret_out, (u64)landing, 0x2b), 0x2b, 0x23);
	arrived(mode, "far RET to an outer ring, 32-bit", fault_of(mode, do_lret_out, (u64)landing32, 0x33), 0x33,
		0x23);
	check_in(mode, "its stack", got.rsp, (u64)user_stack_top);
}

static void call_gates(enum mode mode)
{
	bool user = IS_USER(mode), wide = mode == KERNEL64 || mode == USER64;
	const char *code = wide ? do_lcall : do_lcall32, *jmp = wide ? do_ljmp : do_ljmp32;
	u64 top = tss.rsp[0];

	check_in(mode, "CALL through a gate and RET", jump(mode, code, 0, GATE_USER), DONE);
	check_in(mode, "the return address", got.rax, (u64)(wide ? after_lcall : after_lcall32));
	check_in(mode, "the CS on the stack", got.rcx, mode_cs[mode]);
	check_in(mode, "CS behind the gate", got.r9, 0x08);
	if (user) {
		check_in(mode, "the RSP on the stack", got.rdx, SNIPPET_RSP);
		check_in(mode, "the SS on the stack", got.rbx, 0x23);
		check_in(mode, "SS behind the gate is null", got.r8, 0);
		check_in(mode, "the stack is of the TSS", got.r10, top - 32);
		check_in(mode, "JMP through a gate inwards", jump(mode, jmp, 0, GATE_USER), FAULT(13, 0x08));
		check_in(mode, "CALL through a gate of DPL 0", jump(mode, code, 0, GATE_KERNEL),
			 FAULT(13, GATE_KERNEL));
	} else {
		check_in(mode, "the stack stays", got.r10, SNIPPET_RSP - 16);
	}
	check_in(mode, "back on the stack", got.rsp, SNIPPET_RSP);
	check_in(mode, "back in its SS", got.ss, mode_ss[mode]);
	check_in(mode, "CALL through a gate not present", jump(mode, code, 0, GATE_GONE), FAULT(11, GATE_GONE));
}

/* ---- IRET ---- */

/* An image of five quadwords at RDI. */
SNIPPET(do_iretq, "push 32(%rdi); push 24(%rdi); push 16(%rdi); push 8(%rdi); push (%rdi); iretq");
SNIPPET(do_iretd, "sub $20, %rsp; mov (%rdi), %eax; mov %eax, (%rsp); mov 8(%rdi), %eax; mov %eax, 4(%rsp)\n"
		  "mov 16(%rdi), %eax; mov %eax, 8(%rsp); mov 24(%rdi), %eax; mov %eax, 12(%rsp)\n"
		  "mov 32(%rdi), %eax; mov %eax, 16(%rsp); iretl");
SNIPPET32(do_iret32, "push 16(%edi); push 8(%edi); push (%edi); iretl");
SNIPPET(flags_landing, "pushfq; pop %rdx; mov %cs, %eax; mov %ss, %ecx");

static u64 iret(enum mode mode, const char *code, const char *to, u16 cs, u64 flags, u16 ss)
{
	u64 image[5] = { (u64)to, cs, flags, SNIPPET_RSP - 512, ss };

	return fault_of(mode, code, (u64)image, 0);
}

static void irets(enum mode mode)
{
	bool user = IS_USER(mode);
	u16 cs = mode_cs[mode], ss = mode_ss[mode];
	u64 keep = user ? FLAGS_IF : 0, free = FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID;

	for (unsigned i = 0; i < 2; i++) {
		const char *code = i ? do_iretd : do_iretq;

		print(i ? "32-bit operands:\n" : "64-bit operands:\n");
		arrived(mode, "IRET", iret(mode, code, landing, cs, 2 | keep, ss), cs, ss);
		check_in(mode, "its stack", got.rsp, SNIPPET_RSP - 512);
		arrived(mode, "IRET to compatibility mode", iret(mode, code, landing32, user ? 0x33 : 0x18, 2, ss),
			user ? 0x33 : 0x18, ss);
		iret(mode, code, flags_landing, cs, free | FLAGS_IOPL | 2, ss);
		check_in(mode, "the flags it loads", got.rdx, free | 2 | (user ? FLAGS_IF : FLAGS_IOPL));
		check_in(mode, "IRET to null CS", iret(mode, code, landing, 0, 2, ss), FAULT(13, 0));
		check_in(mode, "IRET to data", iret(mode, code, landing, ss, 2, ss), FAULT(13, ss & ~3u));
		check_in(mode, "IRET to code not present", iret(mode, code, landing, NOT_PRESENT | 3, 2, 0x23),
			 FAULT(11, NOT_PRESENT));
		if (user) {
			check_in(mode, "IRET to an inner ring", iret(mode, code, landing, 0x08, 2, 0x10),
				 FAULT(13, 0x08));
			continue;
		}
		arrived(mode, "IRET to ring 3", iret(mode, code, landing, 0x2b, 0x202, 0x23), 0x2b, 0x23);
		arrived(mode, "IRET to null SS", iret(mode, code, landing, 0x08, 2, 0), 0x08, 0);
		check_in(mode, "IRET to ring 3 with null SS", iret(mode, code, landing, 0x2b, 2, 3), FAULT(13, 0));
		check_in(mode, "IRET to ring 3 with the kernel's SS", iret(mode, code, landing, 0x2b, 2, 0x10),
			 FAULT(13, 0x10));
	}
	exec_flags(mode, do_iretq, SNIPPET_RSP + 512, 0, FLAGS_NT | 2);
	check_in(mode, "IRET with NT", FAULT(got.vector, got.error), FAULT(13, 0));
}

static void irets32(enum mode mode)
{
	arrived(mode, "IRET", iret(mode, do_iret32, landing32, mode_cs[mode], 2, 0), mode_cs[mode], mode_ss[mode]);
	check_in(mode, "its stack", got.rsp, SNIPPET_RSP);
	if (IS_USER(mode))
		check_in(mode, "IRET to an inner ring", iret(mode, do_iret32, landing32, 0x18, 2, 0), FAULT(13, 0x18));
}

/* ---- SYSCALL, SYSRET ---- */

SNIPPET(do_syscall, "syscall\n after_syscall:");
SNIPPET32(do_syscall32, "syscall\n after_syscall32:");
SNIPPET(do_sysretq, "mov %rdi, %rcx; mov %rsi, %r11; sysretq");
SNIPPET(do_sysretl, "mov %rdi, %rcx; mov %rsi, %r11; sysretl");
SNIPPET(syscall_landing, "pushfq; pop %rdx; mov %cs, %eax; mov %ss, %ebx");
SNIPPET(syscall_landing32, "pushfq; pop %rdx; mov %cs, %eax; mov %ss, %ebx; mov $32, %esi");
SNIPPET(syscall_back, "sysretq");
SNIPPET(do_syscall_loop, "xor %ebx, %ebx; mov $1000, %ebp\n 1: syscall; add $1, %rbx; dec %ebp; jnz 1b");
extern char after_syscall[], after_syscall32[];

static void syscall_in(enum mode mode)
{
	bool wide = mode == KERNEL64 || mode == USER64;
	const char *code = wide ? do_syscall : do_syscall32, *back = wide ? after_syscall : after_syscall32;
	u64 state = 0x1234567887654321, wrong = 0;

	wrmsr(MSR_LSTAR, (u64)syscall_landing);
	wrmsr(MSR_CSTAR, (u64)syscall_landing32);
	if (!wide && !amd) {
		check_in(mode, "SYSCALL", fault_of(mode, code, 0, 0), FAULT(6, 0));
		return;
	}
	for (unsigned i = 0; i < 200; i++) {
		u64 flags =
			(random64(&state) & (FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID | FLAGS_IOPL | FLAGS_IF)) |
			2;
		u64 mask = random64(&state) & (FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID | FLAGS_IF | FLAGS_IOPL);

		wrmsr(MSR_FMASK, mask);
		exec_flags(mode, code, 0, 0, flags);
		wrong += got.vector != 0x80 || got.rcx != (u64)back || got.r11 != flags || got.rdx != (flags & ~mask) ||
			 got.rsp != SNIPPET_RSP;
	}
	check_in(mode, "SYSCALL: RCX, R11, RFLAGS, RSP", wrong, 0);
	check_in(mode, "its CS", got.rax, 0x08);
	check_in(mode, "its SS", got.rbx, 0x10);
	check_in(mode, "CS of the frame", got.cs, 0x08);
	check_in(mode, "its entry", got.rsi == 32, !wide);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	check_in(mode, "SYSCALL without SCE", fault_of(mode, code, 0, 0), FAULT(6, 0));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
}

static void sysret(void)
{
	u64 flags = FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID | 2;

	check_in(KERNEL64, "SYSRET to 64-bit code", fault_of(KERNEL64, do_sysretq, (u64)syscall_landing, flags), DONE);
	check_in(KERNEL64, "its CS", got.rax, 0x2b);
	check_in(KERNEL64, "its SS", got.rbx, 0x23);
	check_in(KERNEL64, "its flags", got.rdx, flags);
	check_in(KERNEL64, "CS of the frame", got.cs, 0x2b);
	check_in(KERNEL64, "SYSRET to compatibility mode", fault_of(KERNEL64, do_sysretl, (u64)landing32, flags), DONE);
	check_in(KERNEL64, "its CS", got.rax, 0x1b);
	check_in(KERNEL64, "its SS", got.rcx, 0x23);
	check_in(KERNEL64, "CS of the frame", got.cs, 0x1b);
	check_in(USER64, "SYSRET", fault_of(USER64, do_sysretq, (u64)landing, 2), FAULT(13, 0));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	check_in(KERNEL64, "SYSRET without SCE", fault_of(KERNEL64, do_sysretq, (u64)landing, 2), FAULT(6, 0));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_LSTAR, (u64)syscall_back);
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_TF);
	check_in(USER64, "a thousand SYSCALLs and SYSRETs", fault_of(USER64, do_syscall_loop, 0, 0), DONE);
	check_in(USER64, "counted", got.rbx, 1000);
	check_in(USER64, "still ring 3, interrupts on", got.cs << 32 | (got.rflags & FLAGS_IF),
		 0x2bull << 32 | FLAGS_IF);
}

/* ---- SYSENTER, SYSEXIT ---- */

SNIPPET(do_sysenter, "sysenter");
SNIPPET32(do_sysenter32, "sysenter");
SNIPPET(do_sysexit, "mov $user_stack_top, %rcx; mov %rdi, %rdx; sysexitl");
SNIPPET(do_sysexitq, "mov $user_stack_top, %rcx; mov %rdi, %rdx; sysexitq");

static void sysenter(void)
{
	wrmsr(MSR_SYSENTER_CS, 0x08);
	wrmsr(MSR_SYSENTER_EIP, (u64)flags_landing);
	wrmsr(MSR_SYSENTER_ESP, SNIPPET_RSP - 1024);
	if (amd) {
		for (enum mode mode = 0; mode < MODES; mode++)
			check_in(mode, "SYSENTER",
				 fault_of(mode, mode == USER64 || mode == KERNEL64 ? do_sysenter : do_sysenter32, 0, 0),
				 FAULT(6, 0));
		check_in(KERNEL64, "SYSEXIT", fault_of(KERNEL64, do_sysexit, (u64)landing32, 0), FAULT(6, 0));
		return;
	}
	for (enum mode mode = USER64; mode <= USER32; mode++) {
		const char *code = mode == USER64 ? do_sysenter : do_sysenter32;

		wrmsr(MSR_SYSENTER_CS, 0x08);
		arrived(mode, "SYSENTER", fault_of(mode, code, 0, 0), 0x08, 0x10);
		check_in(mode, "its stack", got.rsp, SNIPPET_RSP - 1024);
		check_in(mode, "clears IF", got.rdx & FLAGS_IF, 0);
		wrmsr(MSR_SYSENTER_CS, 0);
		check_in(mode, "SYSENTER to null", fault_of(mode, code, 0, 0), FAULT(13, 0));
	}
	check_in(KERNEL64, "SYSEXIT to null", fault_of(KERNEL64, do_sysexit, (u64)landing32, 0), FAULT(13, 0));
	wrmsr(MSR_SYSENTER_CS, 0x08);
	arrived(KERNEL64, "SYSEXIT to compatibility mode", fault_of(KERNEL64, do_sysexit, (u64)landing32, 0), 0x1b,
		0x23);
	check_in(KERNEL64, "its stack", got.rsp, (u64)user_stack_top);
	arrived(KERNEL64, "SYSEXIT to 64-bit code", fault_of(KERNEL64, do_sysexitq, (u64)landing, 0), 0x2b, 0x33);
	check_in(USER64, "SYSEXIT", fault_of(USER64, do_sysexit, (u64)landing32, 0), FAULT(13, 0));
}

/* ---- what ring 3 may not ---- */

#define FORBIDDEN(X)                                                                                                   \
	X(hlt, "hlt")                                                                                                  \
	X(clts, "clts")                                                                                                \
	X(invd, "invd")                                                                                                \
	X(wbinvd, "wbinvd")                                                                                            \
	X(lgdt, "lgdt (%rdi)")                                                                                         \
	X(lidt, "lidt (%rdi)")                                                                                         \
	X(lldt, "lldt (%rdi)")                                                                                         \
	X(ltr, "ltr (%rdi)")                                                                                           \
	X(lmsw, "lmsw (%rdi)")                                                                                         \
	X(invlpg, "invlpg (%rdi)")                                                                                     \
	X(rdmsr, "mov $0x10, %ecx; rdmsr")                                                                             \
	X(wrmsr, "mov $0xc0000100, %ecx; wrmsr")                                                                       \
	X(from_cr0, "mov %cr0, %rax")                                                                                  \
	X(from_cr2, "mov %cr2, %rax")                                                                                  \
	X(from_cr3, "mov %cr3, %rax")                                                                                  \
	X(from_cr4, "mov %cr4, %rax")                                                                                  \
	X(from_cr8, "mov %cr8, %rax")                                                                                  \
	X(to_cr0, "mov %rdi, %cr0")                                                                                    \
	X(to_cr3, "mov %rdi, %cr3")                                                                                    \
	X(to_cr4, "mov %rdi, %cr4")                                                                                    \
	X(to_cr8, "mov %rsi, %cr8")                                                                                    \
	X(from_dr0, "mov %dr0, %rax")                                                                                  \
	X(from_dr6, "mov %dr6, %rax")                                                                                  \
	X(from_dr7, "mov %dr7, %rax")                                                                                  \
	X(to_dr0, "mov %rdi, %dr0")                                                                                    \
	X(to_dr7, "mov %rsi, %dr7")                                                                                    \
	X(swapgs, "swapgs")                                                                                            \
	X(in, "in $0x71, %al")                                                                                         \
	X(out, "out %al, $0x80")                                                                                       \
	X(ins, "mov $0x71, %edx; insb")                                                                                \
	X(outs, "mov $0x80, %edx; outsb")
#define X(name, text) SNIPPET(forbidden_##name, text);
FORBIDDEN(X)
#undef X

static void forbidden(void)
{
#define X(name, text) { #name, forbidden_##name },
	static const struct {
		const char *name, *code;
	} rows[] = { FORBIDDEN(X) };
#undef X
	static u64 zeros[2];

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		check_in(USER64, rows[i].name, fault_of(USER64, rows[i].code, (u64)zeros, 0), FAULT(13, 0));
}

SNIPPET(do_debug_registers, "mov %rdi, %dr0; mov %rsi, %dr3; mov %dr0, %rax; mov %dr3, %rcx; mov %dr7, %rdx");
SNIPPET(do_control_registers,
	"mov %rdi, %cr2; mov %cr2, %rax; mov %cr3, %rcx; mov %rsi, %cr8; mov %cr8, %rdx; xor %ebx, %ebx\n"
	"mov %rbx, %cr8; mov %cr4, %rbx; mov %cr0, %rbp");

static void registers(void)
{
	u64 cr4 = READ_REG(cr4);

	exec(KERNEL64, do_debug_registers, 0x123456789a, 0xffff800011112222);
	check_equal("MOV from DR0", got.rax, 0x123456789a);
	check_equal("MOV from DR3", got.rcx, 0xffff800011112222);
	check_equal("MOV from DR7", got.rdx, 0x400);
	exec(KERNEL64, do_control_registers, 0xfedcba9876543210, 9);
	check_equal("MOV from CR2", got.rax, 0xfedcba9876543210);
	check_equal("MOV from CR3", got.rcx, (u64)pml4);
	check_equal("MOV from CR8", got.rdx, 9);
	check_equal("MOV from CR4", got.rbx, cr4);
	check_equal("MOV from CR0", got.rbp & ~0x30ull, 0x80010003); /* ET, NE as the loader left them */
	WRITE_REG(dr0, 0);
	WRITE_REG(dr3, 0);
}

int main(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) p = { sizeof(own_gdt) - 1, (u64)own_gdt };

	amd = vendor_is_amd();
	print(amd ? "an AMD CPU\n" : "an Intel CPU\n");
	for (unsigned i = 0; i < 12; i++)
		own_gdt[i] = gdt[i];
	own_gdt[CONFORMING / 8] = 0x00af9f000000ffff;
	own_gdt[NOT_PRESENT / 8] = 0x00af7b000000ffff; /* DPL 3 */
	set_gate(GATE_USER, gated, 0xec);
	set_gate(GATE_KERNEL, gated, 0x8c);
	set_gate(GATE_GONE, gated, 0x6c);
	__asm__ volatile("lgdt %0" ::"m"(p));
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)0x08 << 32);
	for (enum mode mode = 0; mode < MODES; mode++) {
		far_jumps(mode);
		far_calls(mode);
		call_gates(mode);
		if (mode == KERNEL64 || mode == USER64) {
			far_returns(mode);
			irets(mode);
		} else {
			irets32(mode);
		}
		syscall_in(mode);
	}
	sysret();
	sysenter();
	forbidden();
	registers();
	return (int)failures;
}
