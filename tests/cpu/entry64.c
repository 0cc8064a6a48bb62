/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel's way in and out, run again and again by the same instructions while what they depend on changes under
 * them: STAR, FMASK, EFER.SCE, flags, interrupts that wait, CR4.TSD and SMAP, TSC_ADJUST, the GDT, the privilege level.
 */
#include "paging.h"
#include "smp.h"
#include "snippet.h"

#define MSR_TSC_ADJUST 0x3b
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define SENT 0x51
#define ROUNDS 200

static u64 own_gdt[0x20] __attribute__((aligned(16)));
#define OTHER_STAR ((u64)0x7b << 48 | (u64)0x60 << 32)
#define USUAL_STAR ((u64)0x1b << 48 | (u64)0x08 << 32)
#define RING1_CS 0x99
#define RING1_SS 0xa1

/* What the handler of system calls finds by GS, and leaves there. */
static struct per_cpu {
	u64 stack, user_rsp, count;       /* 0, 8, 16 */
	u64 flags_on, flags_off, cs, tsc; /* 24, 32, 40, 48 */
	u32 pend, verified;               /* 56, 60: when to send itself an interrupt; VERW's ZF */
	u64 selector;                     /* 64: of VERW */
} per_cpu, spoilt;
static u8 kernel_stack[4096] __attribute__((aligned(16)));

SNIPPET(handler, "swapgs; mov %rsp, %gs:8; mov %gs:0, %rsp; push %rcx; push %r11; push %rax; push %rdx\n"
		 "incq %gs:16; movl $0xfee00300, %eax\n"
		 "testl $1, %gs:56; jz 1f; movl $0x40051, (%rax)\n"
		 "1: sti; nop; pushfq; popq %gs:24; cli; pushfq; popq %gs:32; mov %cs, %gs:40\n"
		 "movb $0, %gs:60; verw %gs:64; jnz 2f; incb %gs:60\n"
		 "2: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %gs:48; mov $0xfee00300, %eax\n"
		 "testl $2, %gs:56; jz 3f; movl $0x40051, (%rax)\n"
		 "3: pop %rdx; pop %rax; pop %r11; pop %rcx; mov %gs:8, %rsp; swapgs; sysretq");
SNIPPET(call_once, "syscall\n call_back: pushfq; pop %r8; mov %cs, %r9d; mov %ss, %r10d; mov %gs:16, %r12");
SNIPPET(call_often, "xor %ebx, %ebx; mov $5000, %ebp\n 1: syscall; inc %rbx; dec %ebp; jnz 1b");
extern char call_back[];

/* ---- interrupts ---- */

static volatile u32 irqs;
static volatile u64 irq_rip, irq_cs;

static bool on_sent(struct frame *f)
{
	irqs++;
	irq_rip = f->rip;
	irq_cs = f->cs;
	LAPIC(LAPIC_EOI) = 0;
	return true;
}

/* ---- system calls ---- */

static u64 random_state = 0x9876543210fedcba;

/* User code whose GS base is `spoilt`; the other one is the handler's. */
static u64 call_by(const char *code, u64 rflags)
{
	u64 *reg = (u64 *)&got;

	for (unsigned i = 0; i < 15; i++)
		reg[i] = UNTOUCHED;
	got.rip = (u64)code;
	got.cs = mode_cs[USER64];
	got.ss = mode_ss[USER64];
	got.rsp = SNIPPET_RSP;
	got.rflags = rflags;
	wrmsr(MSR_GS_BASE, (u64)&spoilt);
	wrmsr(MSR_KERNEL_GS_BASE, (u64)&per_cpu);
	run_frame(&got);
	return FAULT(got.vector, got.error);
}

static void one_call(u64 star, u64 mask, u64 flags, u32 pend, u64 wrong[4])
{
	u64 count = per_cpu.count, tsc = per_cpu.tsc, cs = star >> 32 & 0xfffc, ss = (star >> 48 & 0xfffc) + 8;
	u32 before = irqs;

	per_cpu.pend = pend;
	wrmsr(MSR_STAR, star);
	wrmsr(MSR_FMASK, mask);
	call_by(call_once, flags);
	wrong[0] += got.vector != 0x80 || per_cpu.count != count + 1 || got.rsp != SNIPPET_RSP ||
		    got.rcx != (u64)call_back || got.r12 != spoilt.count;
	wrong[1] += got.r11 != flags || got.r8 != flags ||
		    ((per_cpu.flags_on ^ (flags & ~mask)) & (FLAGS_DF | FLAGS_AC | FLAGS_ID | FLAGS_IOPL)) ||
		    !(per_cpu.flags_on & FLAGS_IF) || (per_cpu.flags_off ^ per_cpu.flags_on) != FLAGS_IF;
	wrong[2] += (u16)per_cpu.cs != cs || got.r9 != (ss + 8) + 3 || got.r10 != ss + 3 || got.cs != got.r9 ||
		    per_cpu.tsc <= tsc;
	if (pend == 1)
		wrong[3] += irqs != before + 1 || irq_cs != cs;
	if (pend == 2)
		wrong[3] += irqs != before + 1 || irq_cs != got.r9 || irq_rip != (u64)call_back;
	if (!pend)
		wrong[3] += irqs != before;
}

static void system_calls(void)
{
	u64 wrong[4] = { 0 };

	wrmsr(MSR_LSTAR, (u64)handler);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 r = random64(&random_state);
		u64 flags = (r & (FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID | FLAGS_IOPL)) | FLAGS_IF | 2;
		u64 mask = (r >> 32 & (FLAGS_STATUS | FLAGS_DF | FLAGS_AC | FLAGS_ID)) | FLAGS_IF;

		per_cpu.selector = r >> 60 & 1 ? 0x10 : 0x08;
		one_call(r >> 61 & 1 ? OTHER_STAR : USUAL_STAR, mask, flags, (r >> 62) % 3, wrong);
		wrong[0] += per_cpu.verified != (per_cpu.selector == 0x10);
	}
	check_equal("a system call: registers, stacks, GS, VERW", wrong[0], 0);
	check_equal("flags on the way in and out", wrong[1], 0);
	check_equal("selectors of the STAR of the moment", wrong[2], 0);
	check_equal("what waits is taken behind STI, and behind SYSRET", wrong[3], 0);
	per_cpu.pend = 0;
	wrmsr(MSR_STAR, USUAL_STAR);
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_TF);
	for (unsigned i = 0; i < 3; i++) {
		u64 count = per_cpu.count;

		check_in(USER64, "system calls in a loop", call_by(call_often, 0x202), DONE);
		check_equal("all of them", per_cpu.count - count + got.rbx, 10000);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
		check_in(USER64, "without SCE", call_by(call_often, 0x202), FAULT(6, 0));
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	}
}

/* A GDT without that descriptor, with another one in its place, and a shorter one. */
static void changing_gdt(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) p = { sizeof(own_gdt) - 1, (u64)own_gdt };
	static const struct {
		const char *name;
		u64 descriptor;
		u16 limit;
		bool good;
	} rows[] = { { "data", 0x00cf93000000ffff, 0xff, true },
		     { "data that is not present", 0x00cf13000000ffff, 0xff, true },
		     { "data not to be written", 0x00cf91000000ffff, 0xff, false },
		     { "code", 0x00af9b000000ffff, 0xff, false },
		     { "a system segment", 0x0000820000000000, 0xff, false },
		     { "nothing", 0, 0xff, false },
		     { "cut off", 0x00cf93000000ffff, 0xb6, false },
		     { "just within", 0x00cf93000000ffff, 0xb7, true },
		     { "data again", 0x00cf93000000ffff, 0xff, true } };

	per_cpu.selector = 0xb0;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		own_gdt[0xb0 / 8] = rows[i].descriptor;
		p.limit = rows[i].limit;
		__asm__ volatile("lgdt %0" ::"m"(p));
		call_by(call_once, 0x202);
		check_in(KERNEL64, rows[i].name, per_cpu.verified, rows[i].good);
	}
}

/* ---- the flags where something looks at them ---- */

/* The image of PUSHF against LAHF and SETO, behind all kinds of results; the flags survive it. */
SNIPPET(pushf_often, "xor %ebx, %ebx; mov $4000, %ebp\n"
		     "1: imul $0x5851f42d, %rsi, %rsi; add $0x1405, %rsi; mov %rsi, %r8; rol $17, %r8; xor %ebx, %ebx\n"
		     "sub %rsi, %r8; pushfq; pop %rcx; pushfq; pop %rdx; lahf; seto %al\n"
		     "xor %rcx, %rdx; or %rdx, %rbx; movzbl %ah, %edx; xor %ecx, %edx; and $0xd5, %edx; or %rdx, %rbx\n"
		     "movzbl %al, %edx; shl $11, %edx; xor %ecx, %edx; and $0x800, %edx; or %rdx, %rbx\n"
		     "or %rbx, %rdi; and $~0x8d5, %ecx; mov %rcx, %r9; dec %ebp; jnz 1b");

static void images(enum mode mode)
{
	check_in(mode, "PUSHF in a loop", fault_of(mode, pushf_often, 0, 0x1234567), DONE);
	check_in(mode, "is what LAHF and SETO say", got.rdi, 0);
	check_in(mode, "and the rest", got.r9, IS_USER(mode) ? 0x202 : 2);
}

/* ---- privilege: ring 1 shares the kernel's pages and code ---- */

SNIPPET(do_cli, "cli; mov $1, %eax");
SNIPPET(do_sti, "sti; mov $1, %eax");
SNIPPET(do_swapgs, "swapgs; swapgs; mov $1, %eax");
SNIPPET(do_clac, "clac; mov $1, %eax");
SNIPPET(do_stac, "stac; mov $1, %eax");
SNIPPET(do_sysret_plain, "sysretq");
SNIPPET(do_rdtsc, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rcx");

static u64 in_ring1(const char *code, u64 flags)
{
	u64 *reg = (u64 *)&got;

	for (unsigned i = 0; i < 15; i++)
		reg[i] = UNTOUCHED;
	got.rip = (u64)code;
	got.cs = RING1_CS;
	got.ss = RING1_SS;
	got.rsp = SNIPPET_RSP;
	got.rflags = flags | 2;
	run_frame(&got);
	return FAULT(got.vector, got.error);
}

static void privileges(void)
{
	static const struct {
		const char *name, *code;
		u64 outside, with_iopl; /* what it raises in ring 1 */
	} rows[] = { { "CLI", do_cli, FAULT(13, 0), DONE },
		     { "STI", do_sti, FAULT(13, 0), DONE },
		     { "SWAPGS", do_swapgs, FAULT(13, 0), FAULT(13, 0) },
		     { "RDTSC", do_rdtsc, DONE, DONE },
		     { "CLAC", do_clac, FAULT(6, 0), FAULT(6, 0) },
		     { "STAC", do_stac, FAULT(6, 0), FAULT(6, 0) },
		     { "SYSRET", do_sysret_plain, FAULT(13, 0), FAULT(13, 0) } };

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (rows[i].code == do_clac && !HAS_SMAP)
			print("skip what goes with SMAP\n");
		if ((rows[i].code == do_clac || rows[i].code == do_stac) && !HAS_SMAP)
			continue;
		for (unsigned n = 0; n < 3; n++) {
			if (rows[i].code != do_sysret_plain)
				check_in(KERNEL64, rows[i].name, fault_of(KERNEL64, rows[i].code, 0, 0), DONE);
			check_equal("in ring 1", in_ring1(rows[i].code, 0), rows[i].outside);
			check_equal("with IOPL 1", in_ring1(rows[i].code, 1 << 12), rows[i].with_iopl);
		}
	}
}

/* ---- the TSC ---- */

static void time_stamps(void)
{
	bool can_adjust = has_feature(7, 1, 1);
	u64 first, adjust = 0;

	for (unsigned i = 0; i < 4; i++) {
		for (enum mode mode = KERNEL64; mode <= USER64; mode++) {
			check_in(mode, "RDTSC", fault_of(mode, do_rdtsc, 0, 0), DONE);
			first = got.rcx;
			exec(mode, do_rdtsc, 0, 0);
			check_in(mode, "goes forwards", got.rcx > first && got.rcx - first < 1ull << 40, true);
		}
		adjust += 1ull << 44;
		if (can_adjust)
			wrmsr(MSR_TSC_ADJUST, adjust);
		exec(USER64, do_rdtsc, 0, 0);
		check_equal("by TSC_ADJUST, too",
			    !can_adjust || (got.rcx - first >= 1ull << 44 && got.rcx - first < 3ull << 43), true);
		cr4_set(CR4_TSD);
		check_in(USER64, "RDTSC under TSD", fault_of(USER64, do_rdtsc, 0, 0), FAULT(13, 0));
		check_equal("in ring 1", in_ring1(do_rdtsc, 0), FAULT(13, 0));
		check_in(KERNEL64, "RDTSC under TSD", fault_of(KERNEL64, do_rdtsc, 0, 0), DONE);
		cr4_clear(CR4_TSD);
	}
	if (can_adjust)
		wrmsr(MSR_TSC_ADJUST, 0);
}

/* ---- what goes from one side to the other ---- */

SNIPPET(divide, "divss %xmm0, %xmm1; sysretq");
SNIPPET(call_divide, "ldmxcsr (%rdi); xorps %xmm0, %xmm0; movss 4(%rdi), %xmm1; syscall");
SNIPPET(load_byte, "lodsb; mov %cr0, %rdx; mov %rsi, %rdx; sysretq");
SNIPPET(call_load, "syscall; lodsb");

static void inherited(void)
{
	static u32 masked[2] = { 0x1f80, 0x3f800000 }, unmasked[2] = { 0x1d80, 0x3f800000 };
	static u64 bytes[4];
	u64 here = (u64)&bytes[2], quiet, loud;

	for (unsigned i = 0; i < 3; i++) {
		wrmsr(MSR_LSTAR, (u64)divide);
		/* One after the other: what is printed in between makes the translator look at all code again. */
		quiet = fault_of(USER64, call_divide, (u64)masked, 0);
		loud = fault_of(USER64, call_divide, (u64)unmasked, 0);
		check_in(USER64, "division by zero there, masked", quiet, DONE);
		check_in(USER64, "and not", loud, FAULT(19, 0));
		check_equal("it was the handler's", got.rip, (u64)divide);
		wrmsr(MSR_LSTAR, (u64)load_byte);
		for (unsigned mask = 0; mask < 2; mask++) {
			wrmsr(MSR_FMASK, FLAGS_IF | (mask ? FLAGS_DF : 0));
			for (unsigned down = 0; down < 2; down++) {
				exec_flags(USER64, call_load, 0, here, (down ? FLAGS_DF : 0) | 0x202);
				check_in(USER64, "the direction of strings there", got.rdx,
					 here + (down && !mask ? -1ull : 1));
				check_in(USER64, "and here again", got.rsi, got.rdx + (down ? -1ull : 1));
			}
		}
	}
	__asm__ volatile("ldmxcsr %0" ::"m"(masked[0]));
}

/* SYSRET where it cannot go on as usual, right behind one that can; with interrupts on, so that none waits. */
SNIPPET(return_by, "mov %rdi, %rcx; mov %rsi, %r11; sysretq");
SNIPPET(returned, "pushfq; pop %rdx");

static u64 return_to(u64 target, u64 flags)
{
	exec_flags(KERNEL64, return_by, target, flags, FLAGS_IF | 2);
	return FAULT(got.vector, got.error);
}

static void odd_returns(void)
{
	const u64 nowhere = 1ull << 47;

	for (unsigned i = 0; i < 3; i++) {
		u64 plain = return_to((u64)returned, 0x202), stepped = return_to((u64)returned, 0x202 | FLAGS_TF);
		u64 rip = got.rip, cs = got.cs, again = return_to((u64)returned, 0x202);
		u64 wild = return_to(nowhere, 0x202), wild_cs = got.cs;

		check_in(KERNEL64, "SYSRET", plain, DONE);
		check_in(KERNEL64, "SYSRET with TF traps", stepped, FAULT(1, 0));
		check_equal("before the first instruction", rip, (u64)returned);
		check_equal("of the user's", cs, 0x2b);
		check_in(KERNEL64, "SYSRET without again", again, DONE);
		check_in(KERNEL64, "SYSRET to no canonical address", wild, FAULT(13, 0));
		check_equal("in the ring it is the vendor's to choose", wild_cs, vendor_is_amd() ? 0x2b : 0x08);
	}
}

/* ---- SMAP ---- */

SNIPPET(smap_often, "mov $3000, %ebp\n 1: clac; nop; stac; add (%rdi), %rax; pushfq; pop %rdx; dec %ebp; jnz 1b; clac");
SNIPPET(smap_faults, "stac; mov (%rdi), %rax; clac; mov (%rdi), %rcx");
SNIPPET(handler_reads, "mov (%rdi), %rcx; int $0x80");
SNIPPET(call_reads, "mov %cs, %eax; syscall");
#define ALIAS 0x40000000ull /* of this program, the user's; PD entry 512 */

static void access_flag(void)
{
	static u64 one = 1;
	u64 alias = ALIAS + ((u64)&one & (PAGE_2M - 1)), was = pd[512];
	const char *user_code = (char *)ALIAS + ((u64)call_reads & (PAGE_2M - 1));
	unsigned own = (u64)&one / PAGE_2M;

	if (!HAS_SMAP)
		return;
	pd[512] = (u64)&one / PAGE_2M * PAGE_2M | PTE_ALL | PTE_PS;
	for (unsigned i = 0; i < 4; i++) {
		check_in(KERNEL64, "CLAC and STAC without SMAP", fault_of(KERNEL64, smap_often, alias, 0), DONE);
		check_equal("all rounds", got.rax, UNTOUCHED + 3000);
		check_equal("AC", got.rdx & FLAGS_AC, FLAGS_AC);
		check_in(KERNEL64, "CLAC protects nothing", fault_of(KERNEL64, smap_faults, alias, 0), DONE);
		wrmsr(MSR_LSTAR, (u64)handler_reads);
		exec_flags(USER64, user_code, alias, 0, 0x202);
		check_in(USER64, "a handler reads without SMAP", FAULT(got.vector, got.error), DONE);
		pd[own] &= ~PTE_U;
		WRITE_REG(cr3, (u64)pml4);
		cr4_set(CR4_SMAP);
		check_in(KERNEL64, "with SMAP", fault_of(KERNEL64, smap_often, alias, 0), DONE);
		check_equal("all rounds", got.rax, UNTOUCHED + 3000);
		check_in(KERNEL64, "CLAC protects", fault_of(KERNEL64, smap_faults, alias, 0), FAULT(14, 1));
		check_equal("behind STAC it is read", got.rax << 32 | (u32)got.rcx, 1ull << 32 | (u32)UNTOUCHED);
		for (unsigned mask = 0; mask < 2; mask++) {
			wrmsr(MSR_FMASK, FLAGS_IF | (mask ? FLAGS_AC : 0));
			for (unsigned ac = 0; ac < 2; ac++) {
				exec_flags(USER64, user_code, alias, 0, (ac ? FLAGS_AC : 0) | 0x202);
				check_in(USER64, "AC of the caller lets the handler read", FAULT(got.vector, got.error),
					 ac && !mask ? DONE : FAULT(14, 1));
				check_equal("it was the handler", got.cs, 0x08);
			}
		}
		cr4_clear(CR4_SMAP);
		pd[own] |= PTE_U;
		WRITE_REG(cr3, (u64)pml4);
	}
	pd[512] = was;
	WRITE_REG(cr3, (u64)pml4);
}

int main(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) p = { sizeof(own_gdt) - 1, (u64)own_gdt };

	for (unsigned i = 0; i < 12; i++)
		own_gdt[i] = gdt[i];
	own_gdt[0x60 / 8] = 0x00af9b000000ffff; /* of the other STAR: kernel code, data */
	own_gdt[0x68 / 8] = 0x00cf93000000ffff;
	own_gdt[0x80 / 8] = 0x00cff3000000ffff; /* user data, code64 */
	own_gdt[0x88 / 8] = 0x00affb000000ffff;
	own_gdt[(RING1_CS & ~7) / 8] = 0x00afbb000000ffff;
	own_gdt[(RING1_SS & ~7) / 8] = 0x00cfb3000000ffff;
	__asm__ volatile("lgdt %0" ::"m"(p));
	smp_start(0);
	frame_hooks[SENT] = on_sent;
	per_cpu.stack = (u64)(kernel_stack + sizeof(kernel_stack));
	spoilt.count = 0x7777;
	wrmsr(MSR_STAR, USUAL_STAR);
	for (enum mode mode = KERNEL64; mode <= USER64; mode++)
		images(mode);
	privileges();
	time_stamps();
	inherited();
	odd_returns();
	access_flag();
	system_calls();
	changing_gdt();
	return (int)failures;
}
