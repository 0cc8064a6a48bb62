/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that attacks the process that executes it directly (lib/translate/direct.h): it finds what that process has
 * for itself, writes wherever it can, jumps there, puts its stack there, makes system calls there, returns from signals
 * there never were and reports stops there never were. What then becomes of the program is not said, but it is left by
 * an exception or the timer, the machine goes on, and the next program runs as ever. Where user code is not executed
 * directly there is nothing to find.
 */
#include "native.h"
#include "smp.h"
#include "vectors.h"

#define TIMER 0x50
/* Where such a region may be, and what is in it. */
#define AREA_LO (1ull << 44)
#define AREA_STEP (1ull << 30)
#define AREA_COUNT 65536u
#define STACK 0x1000u /* of signals */
#define STACK_SIZE 0x10000u
#define REGION_PAGES 64u /* looked at */
#define SYS_GETPPID 110
#define SYS_RT_SIGRETURN 15

USER_TEXT_BEGIN;
USER(counting, "mov $0x9e3779b97f4a7c15, %rax; mov %rax, %rcx; movq %rax, %xmm1; pxor %xmm0, %xmm0; stc\n"
	       "1: rcl $7, %rax; adc %rcx, %rax; paddq %xmm1, %xmm0; dec %edi; jnz 1b\n"
	       "movq %xmm0, %rdx; push %rax; pop %rbx; wrfsbase %rsi; rdfsbase %rsi");
USER(endless, "1: inc %rax; jmp 1b");
USER(load_from, "mov (%rdi), %rax");
USER(store_to, "mov %rsi, (%rdi)");
USER(push_one, "push %rax; pop %rcx; syscall");
USER(stop_there, "int3");
/* RDX addresses from RDI on, RSI apart: the first one that can be read. A hook sets R8 where none can. */
USER(probe, "1: xor %r8d, %r8d; at_probe: mov (%rdi), %rax; test %r8d, %r8d; jz 2f; add %rsi, %rdi; dec %rdx; jnz 1b\n"
	    "2:");
/* A copy, registers, a jump. */
USER(launch_it,
     "cld; mov launch+136, %rdi; mov launch+144, %rcx; mov launch+152, %rsi; rep movsb\n"
     "mov launch, %rax; mov launch+8, %rcx; mov launch+16, %rdx; mov launch+24, %rbx; mov launch+32, %rsp\n"
     "mov launch+40, %rbp; mov launch+48, %rsi; mov launch+56, %rdi; mov launch+64, %r8; mov launch+72, %r9\n"
     "mov launch+80, %r10; mov launch+88, %r11; mov launch+96, %r12; mov launch+104, %r13\n"
     "mov launch+112, %r14; mov launch+120, %r15; jmp *launch+128");
USER_TEXT_END;
extern char at_probe[];

struct launch {
	u64 rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r[8];
	u64 to, dest, len, src;
} launch;

static u64 *other_root;
static u64 region, orders, stub; /* addresses; 0: none */
static u8 text[4096] __attribute__((aligned(16)));
static u8 copy[REGION_PAGES * 4096] __attribute__((aligned(4096)));
static u64 seed = 77, answer, attacks, crooked;
static struct {
	struct frame f;
	u64 cr2;
} ended; /* an attack's end */

/* ---- finding it ---- */

static bool nothing_there(struct frame *f)
{
	if (f->rip != AT(at_probe))
		return false;
	f->rip += 3;
	f->r8 = 1;
	return true;
}

static void copy_from(u64 from, u64 len)
{
	launch = (struct launch){ .to = AT(stop_there), .dest = (u64)copy, .src = from, .len = len, .rsp = USTACK_TOP };
	go(AT(launch_it), 0, 0);
}

static void find_region(void)
{
	struct frame *f = &got;

	frame_hooks[14] = nothing_there;
	*f = (struct frame){ .rip = AT(probe), .cs = sel->code, .ss = sel->stack, .rsp = USTACK_TOP, .rflags = 0x202 };
	f->rdi = AREA_LO;
	f->rsi = AREA_STEP;
	f->rdx = AREA_COUNT;
	run_frame(f);
	frame_hooks[14] = 0;
	check_equal("the search ends", f->vector, 0x82);
	if (f->r8)
		return;
	region = f->rdi;
	for (u64 at = region; at < region + REGION_PAGES * 4096 && !stub; at += 4096) {
		u64 first;

		if (go_fault(AT(load_from), at, 0) != EXITED)
			break;
		first = got.rax;
		go(AT(load_from), at + 8, 0);
		if (first == region && got.rax > region && got.rax < at) {
			stub = at;
			orders = got.rax;
		}
	}
}

/* Behind the n-th SYSCALL in the stub; 0: there are no more. */
static u64 behind_syscall(unsigned n)
{
	for (unsigned i = 16; i < sizeof(text) - 1; i++)
		if (text[i] == 0x0f && text[i + 1] == 0x05 && n-- == 0)
			return stub + i + 2;
	return 0;
}

/* The SYSCALL behind mov $number, %eax that comes last; the instruction behind it. */
static u64 behind_call(u32 number)
{
	u64 found = 0;

	for (unsigned i = 0; i < sizeof(text) - 8; i++)
		if (text[i] == 0xb8 && *(u32 *)(text + i + 1) == number && text[i + 5] == 0x0f && text[i + 6] == 5)
			found = stub + i + 7;
	return found;
}

/* ---- attacks, and what holds after each ---- */

static bool is_canonical(u64 v)
{
	return (u64)((int64_t)(v << 16) >> 16) == v;
}

static void end_timer(void)
{
	LAPIC(LAPIC_LVT_TIMER) = 1 << 16 | TIMER;
	LAPIC(LAPIC_TIMER_COUNT) = 0;
	LAPIC(LAPIC_EOI) = 0;
}

static bool late_tick(struct frame *f)
{
	(void)f;
	LAPIC(LAPIC_EOI) = 0;
	return true;
}

/* In an address space of its own: what is the matter with the attacker's is not its. */
static bool other_program(void)
{
	u64 vector;

	WRITE_REG(cr3, other_root);
	vector = go(AT(counting), 500, 0x123456789);
	WRITE_REG(cr3, pml4);
	return vector == 0x82 && got.rax == answer && got.rbx == answer && got.rsi == 0x123456789;
}

static void make_other_program(void)
{
	other_root = address_space();
	for (u64 at = 0; at < (u64)(user_last - user_first); at += 4096)
		*pte_at(other_root, UCODE + at, 1) = ((u64)user_first + at) | PTE_P | PTE_U;
	for (u64 at = 0; at < sizeof(native_stack); at += 4096)
		*pte_at(other_root, USTACK + at, 1) = ((u64)native_stack + at) | PTE_ALL | PTE_NX;
}

/* What `launch` says, for some milliseconds. */
static u64 launch_attack(void)
{
	unsigned wrong = 0;

	attacks++;
	LAPIC(LAPIC_LVT_TIMER) = TIMER;
	LAPIC(LAPIC_TIMER_COUNT) = 4000000;
	go(AT(launch_it), 0, 0);
	ended.f = got;
	ended.cr2 = last.cr2;
	end_timer();
	/* What the kernel finds is what a program can have. */
	wrong |= (got.cs & 3) != 3 || (got.ss & 3) != 3 ? 1 : 0;
	wrong |= (got.rflags &
		  ~(u64)(FLAGS_STATUS | FLAGS_TF | FLAGS_DF | FLAGS_NT | FLAGS_RF | FLAGS_AC | FLAGS_ID)) != 0x202
			 ? 2
			 : 0;
	wrong |= !is_canonical(rdmsr(MSR_FS_BASE)) || !is_canonical(rdmsr(MSR_GS_BASE)) ? 4 : 0;
	wrong |= TRY("mov $-1, %%eax; cltd; xsave64 (%0); xrstor64 (%0); stmxcsr (%0)", "D"(image[1])) != 255 ? 8 : 0;
	/* It may have come too late. */
	frame_hooks[TIMER] = late_tick;
	__asm__ volatile("fninit; sti; nop; nop; cli");
	frame_hooks[TIMER] = 0;
	wrong |= other_program() ? 0 : 16;
	if (wrong && crooked++ < 3) {
		print("attack ");
		print_hex(attacks);
		print(" ended with ");
		print_hex(ended.f.vector);
		print(" wrong ");
		print_hex(wrong);
		print("\n");
	}
	return ended.f.vector;
}

static void done(const char *what)
{
	check_equal(what, crooked, 0);
	crooked = 0;
}

static void random_launch(void)
{
	u64 *v = (u64 *)&launch;

	for (unsigned i = 0; i < 16; i++)
		v[i] = random64(&seed);
	launch.rsp = USTACK_TOP;
	launch.len = 0;
}

/* Who is attacked too often gives up. */
static bool is_still_there(void)
{
	return go_fault(AT(load_from), stub, 0) == EXITED && got.rax == region;
}

/* It may be at rest, on a busy host above all: then programs run otherwise for some hundred million cycles. */
static bool comes_back(void)
{
	u64 start = __builtin_ia32_rdtsc();

	do
		if (is_still_there())
			return true;
	while (__builtin_ia32_rdtsc() - start < 1ull << 32);
	return false;
}

/* ---- memory ---- */

static void writes(void)
{
	unsigned open = 0, wrong = 0;

	for (u64 at = region; at < stub + 4096; at += 4096) {
		u64 fault = go_fault(AT(store_to), at + 0x108, ~0ull);

		open += fault == EXITED;
		wrong += fault != EXITED && (fault != FAULT(14, 6) || last.cr2 != at + 0x108);
		wrong += at >= orders && fault == EXITED;
	}
	check_equal("what may only be read is not written", wrong, 0);
	check("the rest can be", open > 1);
	check("nothing in front", go_fault(AT(load_from), region - 8, 0) == FAULT(14, 4));
	for (unsigned n = 0; n < 4; n++) {
		for (unsigned i = 0; i < sizeof(copy); i += 8)
			*(u64 *)(copy + i) = n == 0 ? 0 : n == 1 ? ~0ull : n == 2 ? random64(&seed) : stub + i;
		random_launch();
		launch.src = (u64)copy;
		launch.dest = region;
		launch.len = orders - region;
		launch.to = n & 1 ? AT(stop_there) : AT(endless);
		launch_attack();
	}
	done("all of it overwritten");
}

static void stacks(void)
{
	for (u64 at = region + 8; at < stub + 4096; at += at < region + STACK + 0x4000 ? 0x268 : 0xe28)
		for (unsigned n = 0; n < 3; n++) {
			random_launch();
			launch.rsp = at + n * 8;
			launch.to = n == 0 ? AT(push_one) : n == 1 ? AT(stop_there) : AT(load_from);
			launch.rdi = n == 2 ? 0x12345000 + (1ull << 46) : 0;
			launch_attack();
		}
	done("stacks there");
}

/* ---- code ---- */

static void jumps(void)
{
	u64 end = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		end = text[i] ? stub + i + 1 : end;
	for (u64 at = stub; at < end; at++) {
		random_launch();
		if (at % 3) { /* as that code has them */
			launch.rbx = region;
			launch.rbp = orders;
			launch.rsp = region + STACK + 0x8000;
		}
		if (at % 3 == 2) {
			launch.rdi = 11;
			launch.rsi = launch.rsp + 0x200;
			launch.rdx = launch.rsp + 0x400;
		}
		launch.to = at;
		launch_attack();
	}
	done("jumps to each of its bytes");
}

/* By each SYSCALL in the stub, what would do harm: none is carried out, so the program stands there. */
static void system_calls(void)
{
	static const u16 numbers[] = { 0,  1,   2,   9,   10,  11,  13,  14,  16,  25,  39,  56,  57,  60,
				       62, 101, 131, 157, 186, 200, 202, 231, 234, 272, 310, 317, 322, 436 };
	const bool there = is_still_there();
	unsigned wrong = 0;
	u64 at;

	for (unsigned n = 0; (at = behind_syscall(n)); n++)
		for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
			random_launch();
			launch.rax = numbers[i];
			launch.rdi = numbers[i] == 62 || numbers[i] == 234 ? ~0ull : i & 1 ? 0 : region;
			launch.rsi = numbers[i] == 62 ? 9 : 1ull << 46;
			launch.rdx = i & 2 ? 0 : 7;
			launch.to = at - 2;
			wrong += launch_attack() != 14 || ended.f.error != 0x14 || ended.cr2 != at - 2 ||
				 ended.f.rip != at - 2;
			/* Nothing has gone. */
			wrong += there && !comes_back();
		}
	check_equal("system calls by its code", wrong, 0);
	done("and what came of them");
}

/* ---- frames ---- */

/* As the kernel makes them for x86-64 (uapi asm/sigcontext.h): ucontext, siginfo, FPU state. */
#define UC 0
#define UC_GREGS 40
#define UC_RSP (UC_GREGS + 15 * 8)
#define UC_RIP (UC_GREGS + 16 * 8)
#define UC_FLAGS (UC_GREGS + 17 * 8)
#define UC_CS (UC_GREGS + 18 * 8)
#define UC_ERROR (UC_GREGS + 19 * 8)
#define UC_TRAP (UC_GREGS + 20 * 8)
#define UC_FP (UC_GREGS + 23 * 8)
#define UC_MASK 296
#define INFO 0x180
#define FP 0x400
#define FP_SW (FP + 464)
#define FP_SIZE 2696
#define FRAME_SIZE (FP + FP_SIZE + 4)

static u8 forged[FRAME_SIZE + 4] __attribute__((aligned(64)));
static u64 frame_at;

static void put64(unsigned at, u64 v)
{
	*(u64 *)(forged + at) = v;
}
static void put32(unsigned at, u32 v)
{
	*(u32 *)(forged + at) = v;
}

static void forge(u64 rip)
{
	for (unsigned i = 0; i < sizeof(forged); i++)
		forged[i] = 0;
	frame_at = region + STACK + 0x6000;
	for (unsigned i = 0; i < 15; i++)
		put64(UC_GREGS + i * 8, random64(&seed));
	put64(UC_GREGS + 8 * 8, 100);         /* RDI */
	put64(UC_GREGS + 9 * 8, 0x123456789); /* RSI, its FS base */
	put64(UC_RSP, USTACK_TOP);
	put64(UC_RIP, rip);
	put64(UC_FLAGS, 0x202);
	put64(UC_CS, 0x33 | (u64)0x2b << 48);
	put64(16, region + STACK);
	put64(32, STACK_SIZE);
	put64(UC_FP, frame_at + FP);
	put32(INFO, 11);
	put32(INFO + 8, 1);
	put64(INFO + 16, 0x12345678);
	put32(FP, 0x37f);
	put32(FP + 24, 0x1f80);
	put32(FP + 28, 0xffff);
	put32(FP_SW, 0x46505853);
	put32(FP_SW + 4, FP_SIZE + 4);
	put64(FP_SW + 8, native_xcr0);
	put32(FP_SW + 16, FP_SIZE);
	put64(FP + 512, native_xcr0);
	put32(FP + FP_SIZE, 0x46505845);
}

/* A return from a signal that never came. */
static void by_sigreturn(void)
{
	random_launch();
	launch.src = (u64)forged;
	launch.dest = frame_at;
	launch.len = FRAME_SIZE;
	launch.rax = SYS_RT_SIGRETURN;
	launch.rsp = frame_at;
	launch.to = behind_call(SYS_RT_SIGRETURN) - 2;
	launch_attack();
}

/* A report of a signal that never came. */
static void by_report(u64 sig, u64 info, u64 context)
{
	random_launch();
	launch.src = (u64)forged;
	launch.dest = frame_at;
	launch.len = FRAME_SIZE;
	launch.rax = SYS_GETPPID;
	launch.rdi = sig;
	launch.rsi = info;
	launch.rdx = context;
	launch.rbx = region;
	launch.rbp = orders;
	launch.rsp = frame_at - 8;
	launch.to = behind_call(SYS_GETPPID) - 2;
	launch_attack();
}

static void values_of(u64 *v)
{
	const u64 all[] = { 0,    1,          ~0ull,  0x8000,          1ull << 47, 1ull << 62, 0xffff800000000000,
			    stub, region + 8, orders, frame_at + 0x80, 0xffffffff, USTACK,     0x23 };

	for (unsigned n = 0; n < sizeof(all) / 8; n++)
		v[n] = all[n];
}
#define VALUES 14

/* One field each. */
static const u16 fields[] = {
	0,         8,        16,       24,           32,       UC_GREGS,        UC_RSP,  UC_RIP,    UC_FLAGS,
	UC_CS,     UC_ERROR, UC_TRAP,  UC_TRAP + 16, UC_FP,    UC_FP + 8,       UC_MASK, INFO,      INFO + 8,
	INFO + 16, FP,       FP + 8,   FP + 16,      FP + 24,  FP + 32,         FP_SW,   FP_SW + 8, FP_SW + 16,
	FP + 512,  FP + 520, FP + 528, FP + 568,     FP + 576, FP + FP_SIZE - 4
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

static void forged_returns(void)
{
	u64 value[VALUES];

	forge(AT(counting));
	by_sigreturn();
	if (is_still_there())
		check_equal("it can return from a signal", ended.f.vector, 0x82);
	/* No signal comes any more. */
	forge(AT(endless));
	put64(UC_MASK, ~0ull);
	by_sigreturn();
	forge(AT(endless));
	put64(UC_MASK, 1u << 9); /* SIGUSR1 */
	by_sigreturn();
	done("signals blocked");
	for (unsigned i = 0; i < FIELDS; i++)
		for (unsigned n = 0; n < VALUES; n++) {
			forge((i + n) % 4 ? AT(counting) : AT(endless));
			values_of(value);
			put64(fields[i], value[n]);
			by_sigreturn();
		}
	done("returns from signals there never were");
}

static void forged_reports(void)
{
	static const u8 signals[] = { 0, 4, 5, 7, 8, 9, 10, 11, 31, 64, 255 };
	u64 value[VALUES];

	for (unsigned i = 0; i < sizeof(signals); i++)
		for (unsigned n = 0; n < 3; n++) {
			forge(n == 0 ? AT(counting) : n == 1 ? AT(endless) : 1ull << 62);
			by_report(signals[i], frame_at + INFO, frame_at + UC);
		}
	values_of(value);
	for (unsigned n = 0; n < VALUES; n++) {
		forge(AT(counting));
		by_report(11, value[n], frame_at + UC);
		forge(AT(counting));
		by_report(5, frame_at + INFO, value[n]);
		by_report(value[n], region + STACK + STACK_SIZE - 8, region + STACK + STACK_SIZE - 0x98);
	}
	for (unsigned i = 0; i < FIELDS; i++)
		for (unsigned n = 0; n < VALUES; n++) {
			forge(n % 3 ? AT(counting) : AT(endless));
			values_of(value);
			put64(fields[i], value[n]);
			/* A page fault, an end by a user's signal, a trap, a system call. */
			by_report((u8[]){ 11, 10, 5, 31 }[(i + n) % 4], frame_at + INFO, frame_at + UC);
		}
	done("stops there never were");
	/* FS and GS bases and selectors in the report, as only its own code should write them. */
	for (unsigned n = 0; n < VALUES; n++) {
		forge(AT(counting));
		frame_at = region;
		values_of(value);
		for (unsigned i = 0; i < 5; i++)
			put64(i * 8, i < 2    ? value[(n + i) % VALUES]
				     : i == 2 ? 0x002b002b00000000 * (n & 1)
					      : value[n]);
		random_launch();
		launch.src = (u64)forged;
		launch.dest = region;
		launch.len = 40;
		launch.rax = SYS_GETPPID;
		launch.rdi = 10;
		launch.rsi = region + STACK + 0x6000 + INFO;
		launch.rdx = region + STACK + 0x6000;
		launch.rsp = region + STACK + 0x6000 - 8;
		launch.to = behind_call(SYS_GETPPID) - 2;
		launch_attack();
	}
	done("segment bases there never were");
}

static void random_frames(void)
{
	u64 value[VALUES];

	for (unsigned n = 0; n < 300; n++) {
		forge(AT(counting));
		values_of(value);
		for (unsigned i = random64(&seed) % 4 + 1; i; i--) {
			unsigned at = random64(&seed) % 3 ? fields[random64(&seed) % FIELDS]
							  : random64(&seed) % (FRAME_SIZE - 8);

			put64(at, random64(&seed) & 1 ? value[random64(&seed) % VALUES] : random64(&seed));
		}
		if (n & 1)
			by_sigreturn();
		else
			by_report((u8[]){ 11, 10, 5, 31, 4, 7, 8 }[n / 2 % 7], frame_at + INFO, frame_at + UC);
	}
	done("frames of all kinds");
}

int main(void)
{
	native_enable();
	native_map(user_first, user_last);
	map(0, 0, 0);
	use_selectors(1);
	set_up_syscall();
	LAPIC(LAPIC_SVR) = 0x1ff;
	LAPIC(LAPIC_TIMER_DIVIDE) = 0xb;
	end_timer();
	if (!native_xcr0 || !HAS_FSGSBASE) {
		print("skip all: no XSAVE or FSGSBASE\n");
		return 0;
	}
	check_equal("a program", go(AT(counting), 500, 0), 0x82);
	answer = got.rax;
	make_other_program();
	check("another program", other_program());
	find_region();
	if (!stub) {
		print("nothing found\n");
		for (unsigned n = 0; n < 6; n++) /* all that there is to try */
			check_equal("nothing there", go_fault(AT(load_from), AREA_LO + n * 0x999999000, 0),
				    FAULT(14, 4));
		return (int)failures;
	}
	print("found where it is executed\n");
	copy_from(stub, sizeof(text));
	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = copy[i];
	check("its code calls", behind_call(SYS_GETPPID) && behind_call(SYS_RT_SIGRETURN));
	copy_from(region, stub + 4096 - region);
	check_equal("all of it can be read", got.vector, 3);
	writes();
	stacks();
	jumps();
	system_calls();
	forged_returns();
	forged_reports();
	random_frames();
	print_hex(attacks);
	print(" attacks\n");
	return (int)failures;
}
