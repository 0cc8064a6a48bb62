/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User code in pages of its own, as programs are: registers over all that can interrupt it, every way to fault, and
 * instructions that show what a hypervisor keeps apart. directmem64.c has its memory.
 */
#include "codegen.h"
#include "native.h"
#include "smp.h"
#include "vectors.h"

#define MSR_TSC_AUX 0xc0000103
#define TIMER 0x50

USER_TEXT_BEGIN;

/* ---- every way to stop, with all registers in motion ---- */

#define SHUFFLE                                                                                                        \
	"xchg %rax, %r15; xchg %rcx, %r14; xchg %rdx, %r13; xchg %rbx, %r12; xchg %rbp, %r11; xchg %rsi, %r10\n"       \
	"xchg %rdi, %r9; not %r8\n"

/* name, instruction, vector, error, its length if RIP is behind it */
#define EVENTS(X)                                                                                                      \
	X(syscall, "syscall", SYSCALL, 0, 2)                                                                           \
	X(int3, "int3", 3, 0, 1)                                                                                       \
	X(int_3, ".byte 0xcd, 3", 3, 0, 2)                                                                             \
	X(int1, ".byte 0xf1", 1, 0, 1)                                                                                 \
	X(int_4, "int $4", 4, 0, 2)                                                                                    \
	X(int_40, "int $0x40", 13, 0x202, 0)                                                                           \
	X(int_1, ".byte 0xcd, 1", 13, 0xa, 0)                                                                          \
	X(into, ".byte 0xce", 6, 0, 0)                                                                                 \
	X(push_es, ".byte 0x06", 6, 0, 0)                                                                              \
	X(ud2, "ud2", 6, 0, 0)                                                                                         \
	X(lock_nop, ".byte 0xf0, 0x90", 6, 0, 0)                                                                       \
	X(lock_mov, ".byte 0xf0, 0x89, 0xc0", 6, 0, 0)                                                                 \
	X(div, "divb 1f(%rip); 1: .byte 0", 0, 0, 0)                                                                   \
	X(idiv, "idivl 1f(%rip); 1: .long 0", 0, 0, 0)                                                                 \
	X(non_canonical, "movabs 0x8000123400000000, %al", 13, 0, 0)                                                   \
	X(non_canonical_write, "movabs %al, 0x0000800000000000", 13, 0, 0)                                             \
	X(hlt, "hlt", 13, 0, 0)                                                                                        \
	X(cli, "cli", 13, 0, 0)                                                                                        \
	X(sti, "sti", 13, 0, 0)                                                                                        \
	X(clts, "clts", 13, 0, 0)                                                                                      \
	X(mov_from_cr0, "mov %cr0, %rax", 13, 0, 0)                                                                    \
	X(mov_to_cr3, "mov %rax, %cr3", 13, 0, 0)                                                                      \
	X(mov_from_cr8, "mov %cr8, %rax", 13, 0, 0)                                                                    \
	X(mov_from_dr7, "mov %dr7, %rax", 13, 0, 0)                                                                    \
	X(wbinvd, "wbinvd", 13, 0, 0)                                                                                  \
	X(invd, "invd", 13, 0, 0)                                                                                      \
	X(rdmsr, "rdmsr", 13, 0, 0)                                                                                    \
	X(wrmsr, "wrmsr", 13, 0, 0)                                                                                    \
	X(rdpmc, "rdpmc", 13, 0, 0)                                                                                    \
	X(sysret, "sysretq", 13, 0, 0)                                                                                 \
	X(in_imm, "in $0x70, %al", 13, 0, 0)                                                                           \
	X(out_imm, "out %eax, $0x70", 13, 0, 0)                                                                        \
	X(in_dx, "in %dx, %ax", 13, 0, 0)                                                                              \
	X(out_dx, "out %al, %dx", 13, 0, 0)

#define X(name, text, vector, error, length) USER(event_##name, SHUFFLE "at_" #name ": " text);
EVENTS(X)
#undef X
SENSITIVE(event_int_80, SHUFFLE "at_int_80: int $0x80");
extern char at_int_80[];
#define X(name, text, vector, error, length) extern char at_##name[];
EVENTS(X)
#undef X

/* Flags that a program may have and that leave its code where it is. */
#define FLAGS_EASY (FLAGS_STATUS | FLAGS_DF | FLAGS_ID)

static void fill_random(u64 *seed)
{
	for (unsigned i = 0; i < 15; i++)
		((u64 *)&got)[i] = random64(seed);
	got.cs = sel->code;
	got.ss = sel->stack;
	got.rsp = USTACK_TOP;
	got.rflags = 0x202 | (random64(seed) & FLAGS_EASY);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"((u32)sel->data));
}

static void events(void)
{
#define X(name, text, vector, error, length) { #name, event_##name, at_##name, vector, error, length },
	static const struct {
		const char *name, *code, *at;
		u16 vector, error, length;
	} rows[] = { EVENTS(X){ "int_80", event_int_80, at_int_80, 0x80, 0, 2 } };
#undef X
	u64 seed = 5;

	for (unsigned row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
		unsigned wrong = 0, strange = 0;

		for (unsigned n = 0; n < 6; n++) {
			struct frame old, *f = &got;
			const u64 *was = (const u64 *)&old, *is = (const u64 *)f;
			bool call;

			fill_random(&seed);
			f->rip = AT(rows[row].code);
			old = *f;
			run_frame(f);
			call = f->vector == SYSCALL; /* RCX and R11 are its own */
			for (unsigned i = 0; i < 15; i++)
				if (!call || (i != 13 && i != 4))
					wrong += is[i] != (i == 7 ? ~was[i] : was[14 - i]);
			wrong += call && (f->rcx != f->rip || f->r11 != old.rflags);
			strange += f->vector != rows[row].vector || f->error != rows[row].error ||
				   f->rip != AT(rows[row].at) + rows[row].length ||
				   (f->rflags & ~(u64)FLAGS_RF) != old.rflags || f->rsp != old.rsp ||
				   f->cs != sel->code || f->ss != sel->stack;
		}
		if (wrong || strange) {
			print("vector ");
			print_hex(got.vector);
			print(" error ");
			print_hex(got.error);
			print(" rip ");
			print_hex(got.rip);
			print("\n");
		}
		print(rows[row].name);
		print("\n");
		check_equal("registers, and what stopped it", (u64)strange << 32 | wrong, 0);
	}
}

/* ---- where code is not ---- */

USER(jump_to, "jmp *%rdi");
USER(call_to, "call *%rdi");
USER(push_one, "push %rax");
USER(load_from, "mov (%rdi), %rax");

static void jump(const char *what, u64 to, u64 vector, u64 error)
{
	print(what);
	print("\n");
	go(AT(jump_to), to, 0);
	check_equal("its fault", FAULT(got.vector, got.error), FAULT(vector, error));
	if (vector != 14)
		return;
	check_equal("its RIP", got.rip, to);
	check_equal("its CR2", last.cr2, to);
	go(AT(call_to), to, 0);
	check_equal("CALL has pushed where it was", *(u64 *)(native_stack + (got.rsp - USTACK)), AT(call_to) + 2);
}

static void jumps(void)
{
	u64 zero = page_table[0];

	page_table[0] = 0;
	invlpg(0);
	jump("to address 0", 0, 14, 0x14);
	jump("to an address without a page", WINDOW + 0x7fff000, 14, 0x14);
	jump("to the kernel's half", 0xffff800000001000, 14, 0x14);
	jump("to the last byte", ~0ull, 14, 0x14);
	jump("to the last page of the lower half", 0x7ffffffff000, 14, 0x14);
	jump("to data", USTACK, 14, 0x15);
	jump("to a non-canonical address", 1ull << 62, 13, 0);
	check_equal("a load from address 0", go_fault(AT(load_from), 0, 0), FAULT(14, 4));
	check_equal("its CR2", last.cr2, 0);
	check_equal("a load from the kernel's half", go_fault(AT(load_from), 0xffff800000000ff8, 0), FAULT(14, 4));
	check_equal("its CR2", last.cr2, 0xffff800000000ff8);
	page_table[0] = zero;
	invlpg(0);
	/* A stack that is none. */
	fill_random(&(u64){ 3 });
	got.rip = AT(push_one);
	got.rsp = 1ull << 50;
	run_frame(&got);
	check_equal("PUSH to a non-canonical address", FAULT(got.vector, got.error), FAULT(12, 0));
	check_equal("RSP is as it was", got.rsp, 1ull << 50);
}

/* ---- flags that change what the next instruction does ---- */

USER(pop_flags, "push %rsi; popfq; 1: nop; 2: nop; pushfq; pop %rax");
USER(pop_flags_load, "push %rsi; popfq; mov (%rdi), %rcx; nop; pushfq; pop %rax");
USER(pop_flags_call, "push %rsi; popfq");

static u64 trap_pte, trap_pa;
static bool bring_page(struct frame *f)
{
	if ((READ_REG(cr2) & ~0xfffull) != trap_pte)
		return false;
	(void)f;
	map(trap_pte, trap_pa, PTE_ALL | PTE_NX);
	return true;
}

static void flags(void)
{
	static u8 page[4096] __attribute__((aligned(4096)));

	WRITE_REG(dr6, 0xffff0ff0);
	go(AT(pop_flags), 0, FLAGS_TF | 2);
	check_equal("POPF of TF: #DB", got.vector, 1);
	check_equal("behind the next instruction", got.rip - AT(pop_flags), 3);
	check_equal("with TF", got.rflags & FLAGS_TF, FLAGS_TF);
	check_equal("DR6.BS", last.dr6 & 0xf00f, 0x4000);
	trap_pte = SCRATCH;
	trap_pa = (u64)page;
	map(SCRATCH, 0, 0);
	frame_hooks[14] = bring_page;
	*(u64 *)(page + 8) = 0x123456789a;
	WRITE_REG(dr6, 0xffff0ff0);
	go(AT(pop_flags_load), SCRATCH + 8, FLAGS_TF | 2);
	frame_hooks[14] = 0;
	check_equal("TF and a page fault: #DB", got.vector, 1);
	check_equal("behind the load", got.rip - AT(pop_flags_load), 5);
	check_equal("which is done", got.rcx, 0x123456789a);
	for (unsigned n = 0; n < 8; n++) {
		u64 image = (n & 1 ? FLAGS_ID : 0) | (n & 2 ? FLAGS_NT : 0) | (n & 4 ? FLAGS_DF : 0) | 0x8d5 | 2;

		go(AT(pop_flags), 0, image | FLAGS_IOPL);
		check_equal("POPF: IF and IOPL stay", got.rax, image | FLAGS_IF);
		check_equal("the same in the frame", got.rflags, image | FLAGS_IF);
		go(AT(pop_flags_call), 0, image);
		check_equal("and at once", got.rflags, image | FLAGS_IF);
	}
	check_equal("AC without AM", go_fault(AT(pop_flags_load), SCRATCH + 1, FLAGS_AC | 2), EXITED);
	check_equal("in the frame", got.rflags, FLAGS_AC | FLAGS_IF | 2);
	WRITE_REG(cr0, READ_REG(cr0) | CR0_AM);
	check_equal("AC with AM", go_fault(AT(pop_flags_load), SCRATCH + 1, FLAGS_AC | 2), FAULT(17, 0));
	check_equal("its RIP", got.rip - AT(pop_flags_load), 2);
	check_equal("aligned", go_fault(AT(pop_flags_load), SCRATCH + 8, FLAGS_AC | 2), EXITED);
	check_equal("AM without AC", go_fault(AT(pop_flags_load), SCRATCH + 1, 2), EXITED);
	WRITE_REG(cr0, READ_REG(cr0) & ~(u64)CR0_AM);
}

/* ---- vector state ---- */

USER(touch_pages, "mov (%rdi), %rax; mov %rax, 8(%rdi); int3; mov 4096(%rdi), %rcx; movb $1, 8192(%rdi)");
USER(do_nothing, "nop");
USER(vector_work, "paddq %xmm1, %xmm0; pxor %xmm15, %xmm2; fchs; movdqu %xmm0, -256(%rsp); movdqu -256(%rsp), %xmm3");
USER(vector_work_256, "vpaddq %ymm1, %ymm0, %ymm2");
USER(vector_work_512, "vpaddq %zmm17, %zmm16, %zmm31; kaddb %k1, %k2, %k3");
USER(mxcsr_work, "mov %esi, -8(%rsp); ldmxcsr -8(%rsp); divps %xmm1, %xmm0");
USER(x87_work, "mov %esi, -8(%rsp); fninit; fldcw -8(%rsp); fld1; fldz; 1: fdivrp; 2: fwait; nop");

static bool go_on(struct frame *f)
{
	(void)f;
	return true;
}

static u8 demand[4][4096] __attribute__((aligned(4096)));
static bool bring_any(struct frame *f)
{
	u64 n = (READ_REG(cr2) - SCRATCH) / 4096;

	(void)f;
	if (n >= 4)
		return false;
	map(SCRATCH + n * 4096, (u64)demand[n], PTE_ALL | PTE_NX);
	return true;
}

static void vectors(void)
{
	unsigned wrong = 0;
	u64 seed = 9, a, b, *other = address_space();

	if (!native_xcr0) {
		print("skip vectors: no XSAVE\n");
		return;
	}
	frame_hooks[14] = bring_any;
	frame_hooks[3] = go_on;
	for (unsigned n = 0; n < 20; n++) {
		for (unsigned i = 0; i < 4; i++)
			map(SCRATCH + i * 4096, 0, 0);
		random_vectors(&seed);
		xrstor(image[0]);
		wrong += go(AT(touch_pages), SCRATCH, 0) != 0x82;
		wrong += vectors_differ();
	}
	frame_hooks[14] = frame_hooks[3] = 0;
	check_equal("vector state over page faults and INT3", wrong, 0);
	for (unsigned n = 0; n < 20; n++) {
		random_vectors(&seed);
		xrstor(image[0]);
		WRITE_REG(cr3, other);
		WRITE_REG(cr3, pml4);
		wrong += go(AT(do_nothing), 0, 0) != 0x82;
		wrong += vectors_differ();
	}
	check_equal("and over a look at another address space", wrong, 0);

	random_vectors(&seed);
	xrstor(image[0]);
	check_equal("vector instructions", go(AT(vector_work), 0, 0), 0x82);
	xsave(image[1]);
	a = *(u64 *)(image[0] + 160) + *(u64 *)(image[0] + 176);
	check_equal("PADDQ", *(u64 *)(image[1] + 160), a);
	check_equal("through memory", *(u64 *)(image[1] + 160 + 48), a);
	check_equal("PXOR", *(u64 *)(image[1] + 160 + 40), *(u64 *)(image[0] + 200) ^ *(u64 *)(image[0] + 408));
	check_equal("FCHS", *(u16 *)(image[1] + 40), 0xbfff);
	if (native_xcr0 & 4) {
		check_equal("256 bits", go(AT(vector_work_256), 0, 0), 0x82);
		xsave(image[1]);
		a = *(u64 *)(image[1] + 576) + *(u64 *)(image[1] + 576 + 16);
		check_equal("VPADDQ", *(u64 *)(image[1] + 576 + 32), a);
	}
	if ((native_xcr0 & 0xe0) == 0xe0) {
		u32 k[4], hi16[4];

		cpuid(0xd, 5, k);
		cpuid(0xd, 7, hi16);
		check_equal("512 bits", go(AT(vector_work_512), 0, 0), 0x82);
		xsave(image[1]);
		a = *(u64 *)(image[0] + hi16[1] + 56) + *(u64 *)(image[0] + hi16[1] + 64 + 56);
		check_equal("VPADDQ", *(u64 *)(image[1] + hi16[1] + 15 * 64 + 56), a);
		b = (image[0][k[1] + 8] + image[0][k[1] + 16]) & 0xff;
		check_equal("KADDB", *(u64 *)(image[1] + k[1] + 24), b);
	}
}

static void fp_exceptions(void)
{
	if (!native_xcr0)
		return;
	xsave(image[0]);
	*(u64 *)(image[0] + 512) = 2; /* all zero otherwise */
	for (unsigned i = 0; i < 16; i++)
		*(u32 *)(image[0] + 160 + 4 * i) = i < 4 ? 0x3f800000 : 0; /* 1 / 0 */
	xrstor(image[0]);
	check_equal("1 / 0, masked", go_fault(AT(mxcsr_work), 0, 0x1f80), EXITED);
	xsave(image[1]);
	check_equal("MXCSR.ZE", *(u32 *)(image[1] + 24), 0x1f84);
	xrstor(image[0]);
	check_equal("1 / 0, not masked", go_fault(AT(mxcsr_work), 0, 0x1d80), FAULT(19, 0));
	xsave(image[1]);
	check_equal("MXCSR.ZE", *(u32 *)(image[1] + 24), 0x1d84);
	check_equal("the register is as it was", *(u32 *)(image[1] + 160), 0x3f800000);
	check_equal("LDMXCSR of what is reserved", go_fault(AT(mxcsr_work), 0, 0x80001f80), FAULT(13, 0));
	check_equal("x87, masked", go_fault(AT(x87_work), 0, 0x37f), EXITED);
	go(AT(x87_work), 0, 0x37b);
	check_equal("x87, not masked", FAULT(got.vector, got.error), FAULT(16, 0));
	check("at FWAIT", *(u8 *)(got.rip - UCODE + (u64)user_first) == 0x9b);
	xsave(image[1]);
	check_equal("its status", *(u16 *)(image[1] + 2) & 0x8087, 0x8084);
	__asm__ volatile("fninit");
}

/* ---- what shows a hypervisor ---- */

SENSITIVE(s_cpuid, "mov %esi, %eax; mov %edi, %ecx; cpuid");
SENSITIVE(s_sgdt, "sgdt (%rdi); sidt 16(%rdi)");
SENSITIVE(s_tables, "sldt %eax; str %ecx; smsw %edx");
SENSITIVE(s_lar, "lar %esi, %eax; setz %cl; lsl %esi, %edx; setz %bl");
SENSITIVE(s_ver, "xor %ecx, %ecx; verr %si; setz %cl; verw %si; setz %ch");
SENSITIVE(s_rdtscp, "rdtscp");
SENSITIVE(s_rdtsc, "rdtsc");
SENSITIVE(s_rdpid, ".byte 0xf3, 0x0f, 0xc7, 0xf8");
SENSITIVE(s_xgetbv, "xor %ecx, %ecx; xgetbv");
SENSITIVE(s_segments, "mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx; mov %es, %ebx; mov %fs, %r8d; mov %gs, %r9d");
SENSITIVE(s_load_segments,
	  "mov %esi, %ds; mov %esi, %es; push %rsi; pop %fs; mov %ds, %eax; mov %es, %ecx; mov %fs, %edx");
SEGMENTS(u_segments, "mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx; mov %es, %ebx; mov %fs, %r8d; mov %gs, %r9d");
SEGMENTS(u_load_segments,
	 "mov %esi, %ds; mov %esi, %es; mov %ds, %eax; mov %es, %ecx; nop; int3; mov %ds, %r8d; mov %es, %r9d");
SEGMENTS(u_load_segment, "mov %esi, %ds");
SEGMENTS(u_load_ss, "mov %esi, %ss");
USER(u_fsgsbase, "wrfsbase %rdi; wrgsbase %rsi; rdfsbase %rax; rdgsbase %rcx; mov %fs:0, %r8; mov %gs:8, %r9");
USER(u_wrfsbase, "wrfsbase %rdi; rdfsbase %rax");
USER(u_push_flags, "pushfq; pop %rax; pushfw; pop %cx");
/* CPUID by a function of the next page, from a busy loop: RAX counts, R8 sums up what leaf 0x80000008 says. */
USER(u_hot, "xor %r8d, %r8d; xor %r9d, %r9d\n1: mov $0x80000008, %eax; xor %ecx, %ecx; call s_function\n"
	    "add %rax, %r8; mov $100, %ecx; 2: inc %r9; dec %ecx; jnz 2b; dec %edi; jnz 1b");
__asm__(".pushsection .text.user_sensitive, \"ax\"\ns_function: cpuid; ret\n.popsection\n");
USER(u_immediate, "mov $0x0000a20f, %eax; mov $0xd0010f0f, %ecx; add $0xa20f, %eax; movabs $0xa20fa20fa20fa20f, %rdx");

struct pointer {
	u16 limit;
	u64 base;
} __attribute__((packed));

static void sensitive(void)
{
	static const u32 leaves[] = { 0, 1, 7, 0x40000000, 0x40000001, 0x80000000, 0x80000001, 0x80000008 };
	struct pointer p[2], *seen = (struct pointer *)native_stack;
	unsigned wrong = 0;
	u64 descriptor = gdt[sel->stack / 8];
	u32 r[4];

	for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		cpuid(leaves[i], 0, r);
		go(AT(s_cpuid), 0, leaves[i]);
		wrong += got.vector != 0x82 || got.rax != r[0] || got.rbx != r[1] || got.rcx != r[2] || got.rdx != r[3];
	}
	check_equal("CPUID is the kernel's", wrong, 0);
	__asm__ volatile("sgdt %0; sidt %1" : "=m"(p[0]), "=m"(p[1]));
	check_equal("SGDT, SIDT", go(AT(s_sgdt), USTACK, 0), 0x82);
	check_equal("the GDT's base", seen->base, p[0].base);
	check_equal("the IDT's", *(u64 *)(native_stack + 18), p[1].base);
	go(AT(s_tables), 0, 0);
	check_equal("SLDT", got.rax, 0);
	check_equal("STR", got.rcx, 0x38);
	check_equal("SMSW", got.rdx & 0xffff, READ_REG(cr0) & 0xffff);
	go(AT(s_lar), 0, sel->stack);
	check_equal("LAR", got.rax & 0xf0ff00, descriptor >> 32 & 0xf0ff00);
	check_equal("LSL", got.rdx, 0xffffffff);
	go(AT(s_lar), 0, 0x7b); /* Linux keeps there which CPU this is */
	check_equal("LAR, LSL of what is not in the GDT", (got.rcx & 0xff) << 8 | (got.rbx & 0xff), 0);
	go(AT(s_ver), 0, sel->stack);
	check_equal("VERR, VERW of data", got.rcx, 0x101);
	go(AT(s_ver), 0, sel->code);
	check_equal("VERR, VERW of code", got.rcx, 0x001);
	if (HAS_RDTSCP || HAS_RDPID)
		wrmsr(MSR_TSC_AUX, 0xabcd1234);
	if (HAS_RDTSCP) {
		go(AT(s_rdtscp), 0, 0);
		check_equal("RDTSCP: TSC_AUX", got.rcx, 0xabcd1234);
	}
	if (HAS_RDPID) {
		go(AT(s_rdpid), 0, 0);
		check_equal("RDPID", got.rax, 0xabcd1234);
	}
	wrmsr(0x10, 1ull << 60);
	go(AT(s_rdtsc), 0, 0);
	check_equal("RDTSC", got.rdx >> 18, 1 << 10);
	wrmsr(0x10, 0);
	if (native_xcr0) {
		go(AT(s_xgetbv), 0, 0);
		check_equal("XGETBV", got.rdx << 32 | got.rax, native_xcr0);
	}
	cpuid(0x80000008, 0, r);
	check_equal("CPUID from a busy loop", go(AT(u_hot), 300, 0), 0x82);
	check_equal("its results", got.r8, 300 * (u64)r[0]);
	check_equal("the loop's", got.r9, 300 * 100);
	go(AT(u_immediate), 0, 0);
	check_equal("opcodes in immediates", got.rax + got.rcx, 0x2 * 0xa20full + 0xd0010f0full);
	check_equal("in wider ones", got.rdx, 0xa20fa20fa20fa20f);
	go(AT(u_push_flags), 0, 0);
	check_equal("PUSHF", got.rax, 0x202);
	check_equal("PUSHFW", got.rcx & 0xffff, 0x202);
}

static void segments_of(const char *what, const char *code)
{
	go(AT(code), 0, 0);
	print(what);
	print("\n");
	check_equal("MOV from CS, SS, DS, ES", got.rax << 48 | got.rcx << 32 | got.rdx << 16 | got.rbx,
		    (u64)sel->code << 48 | (u64)sel->stack << 32 | (u64)sel->data << 16 | sel->data);
	check_equal("MOV from FS, GS", got.r8 | got.r9, 0);
}

/* To 32-bit code and back, all at addresses below 4 GiB. */
extern char far_32[], far_back[];
SEGMENTS(far_away,
	 "push %rsi; push $far_32; lretq\n"
	 ".code32\nfar_32: mov %esp, %ebp; mov $0x12345678, %eax; inc %eax; .byte 0x40, 0x40\n" /* INC EAX, twice */
	 "push %edi; push $far_back; lret\n"
	 ".code64\nfar_back: .byte 0x40, 0x40; nop");
SEGMENTS(far_bad, "push %rsi; push $far_32; lretq");
/* It stops there. */
SEGMENTS(far_stop, "push %rsi; push $1f; lretq\n.code32\n1: mov $0x80000000, %eax; inc %eax; int3; .code64");

static void far_transfers(void)
{
	fill_random(&(u64){ 1 });
	got.rip = (u64)far_away;
	got.rsp = SNIPPET_RSP;
	got.rsi = sel->code32;
	got.rdi = sel->code;
	run_frame(&got);
	check_equal("a far return to 32-bit code and back", FAULT(got.vector, got.error), EXITED);
	check_equal("what it did there", got.rax, 0x1234567b);
	check_equal("where it is", got.cs, sel->code);
	check_equal("its stack", got.rsp, SNIPPET_RSP);
	fill_random(&(u64){ 1 });
	got.rip = (u64)far_stop;
	got.rsp = SNIPPET_RSP;
	got.rsi = sel->code32;
	run_frame(&got);
	check_equal("INT3 in 32-bit code", FAULT(got.vector, got.error), FAULT(3, 0));
	check_equal("what it did there", (u32)got.rax, 0x80000001);
	check_equal("CS there", got.cs, sel->code32);
	fill_random(&(u64){ 1 });
	got.rip = (u64)far_bad;
	got.rsp = SNIPPET_RSP;
	got.rsi = 0x7b; /* not there */
	run_frame(&got);
	check_equal("a far return to no selector", FAULT(got.vector, got.error), FAULT(13, 0x78));
	check_equal("at it", *(u8 *)(got.rip + 1), 0xcb);
}

static void segments(void)
{
	static u64 words[2] = { 0x1111222233334444, 0x5555666677778888 };

	segments_of("in a page of its own", s_segments);
	segments_of("among other code", u_segments);
	go(AT(s_load_segments), 0, sel->stack);
	check_equal("loads of DS, ES, FS", got.rax << 32 | got.rcx << 16 | got.rdx,
		    (u64)sel->stack << 32 | (u64)sel->stack << 16 | sel->stack);
	frame_hooks[3] = go_on;
	go(AT(u_load_segments), 0, sel->stack);
	frame_hooks[3] = 0;
	check_equal("the same among other code", got.rax << 48 | got.rcx << 32 | got.r8 << 16 | got.r9,
		    (u64)sel->stack * 0x0001000100010001);
	check_equal("DS of DPL 0", go_fault(AT(u_load_segment), 0, 0x10), FAULT(13, 0x10));
	check_equal("DS beyond the table", go_fault(AT(u_load_segment), 0, 0x1003), FAULT(13, 0x1000));
	check_equal("DS of what Linux has and this has not", go_fault(AT(u_load_segment), 0, 0x7b), FAULT(13, 0x78));
	check_equal("SS null", go_fault(AT(u_load_ss), 0, 0), FAULT(13, 0));
	check_equal("SS", go_fault(AT(u_load_ss), 0, sel->stack), EXITED);
	if (!HAS_FSGSBASE) {
		print("skip FSGSBASE\n");
		return;
	}
	for (unsigned n = 0; n < 3; n++) {
		go(AT(u_fsgsbase), (u64)words, (u64)words + n);
		check_equal("WRFSBASE and WRGSBASE", got.rax, (u64)words);
		check_equal("read back", got.rcx, (u64)words + n);
		check_equal("memory through FS", got.r8, words[0]);
		check_equal("the MSRs", rdmsr(MSR_FS_BASE) ^ rdmsr(MSR_GS_BASE), (u64)words ^ ((u64)words + n));
	}
	check_equal("WRFSBASE, non-canonical", go_fault(AT(u_wrfsbase), 1ull << 62, 0), FAULT(13, 0));
	check_equal("WRFSBASE into the kernel's half", go_fault(AT(u_wrfsbase), 0xffff800000000000, 0), EXITED);
	check_equal("it is there", rdmsr(MSR_FS_BASE), 0xffff800000000000);
	wrmsr(MSR_FS_BASE, 0);
}

/* ---- interrupts ---- */

USER(endless, "1: inc %rax; jmp 1b");
USER(counting, "mov $0x9e3779b97f4a7c15, %rax; mov %rax, %rcx; movq %rax, %xmm1; pxor %xmm0, %xmm0; stc\n"
	       "1: rcl $7, %rax; adc %rcx, %rax; paddq %xmm1, %xmm0; lea -1(%rdi), %rdi; inc %rdi; dec %rdi; jnz 1b\n"
	       "movq %xmm0, %rdx; movdqu %xmm0, -64(%rsp)");

static volatile u32 ticks;
static bool on_tick(struct frame *f)
{
	(void)f;
	ticks++;
	LAPIC(LAPIC_EOI) = 0;
	LAPIC(LAPIC_TIMER_COUNT) = 200000 + ticks * 9773 % 50000;
	return true;
}

static void interrupts(void)
{
	u64 rounds = 400000, quiet;

	LAPIC(LAPIC_SVR) = 0x1ff;
	LAPIC(LAPIC_TIMER_DIVIDE) = 0xb;
	LAPIC(LAPIC_LVT_TIMER) = TIMER;
	for (unsigned n = 0; n < 5; n++) {
		LAPIC(LAPIC_TIMER_COUNT) = 100000 << n;
		got.rax = 0;
		check_equal("an endless loop ends", go(AT(endless), 0, 0), TIMER);
		check("in the loop", got.rip - AT(endless) <= 3 && got.rcx == UNTOUCHED);
		LAPIC(LAPIC_EOI) = 0;
	}
	go(AT(counting), rounds, 0);
	quiet = got.rax;
	frame_hooks[TIMER] = on_tick;
	ticks = 0;
	LAPIC(LAPIC_TIMER_COUNT) = 1000;
	for (unsigned n = 0; n < 10 || ticks < 10; n++) {
		go(AT(counting), rounds, 0);
		if (got.rax != quiet || got.rdx != rounds * 0x9e3779b97f4a7c15 || got.vector != 0x82)
			break;
	}
	LAPIC(LAPIC_TIMER_COUNT) = 0;
	check_equal("a computation under a timer", got.rax, quiet);
	check_equal("its vector half", got.rdx, rounds * 0x9e3779b97f4a7c15);
	check_equal("nothing else stopped it", got.vector, 0x82);
	LAPIC(LAPIC_LVT_TIMER) = 1 << 16 | TIMER;
	__asm__ volatile("sti; nop; nop; cli"); /* one may be on its way */
	LAPIC(LAPIC_TIMER_COUNT) = 0;
	frame_hooks[TIMER] = 0;
}

USER_TEXT_END;

int main(void)
{
	native_enable();
	native_map(user_first, user_last);
	for (unsigned n = 0; n < 2; n++) {
		use_selectors(n);
		set_up_syscall();
		events();
		jumps();
		flags();
		vectors();
		fp_exceptions();
		sensitive();
		segments();
		far_transfers();
		interrupts();
	}
	return (int)failures;
}
