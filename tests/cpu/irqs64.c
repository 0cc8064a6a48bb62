/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts wherever they may come, and nowhere else: a timer (and the other vCPUs) interrupt all kinds of code, and
 * the handler spoils every register before it restores them. Each piece of work must have the result it has without
 * interrupts; places where none may be taken (SDM 3A 6.8) must never be seen as a return address.
 */
#include "codegen.h"
#include "smp.h"
#include "snippet.h"

#define TIMER 0x50
#define SENT 0x51  /* by this or another vCPU */
#define ENOUGH 120 /* interrupts for each kind of work */
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

void timer_entry(void);
void sent_entry(void);
void irq_handler(struct frame *f);
u64 xcr0;                        /* 0: FXSAVE is all there is */
static volatile u32 irqs, wrong; /* taken; of them with a state that cannot be */
static volatile u64 shared;      /* the handler increments it, and code with interrupts off */
static volatile u64 last_rip;
static bool storm; /* the timer is armed again by the handler */
static u16 cs_now; /* of the code at work */
static u64 seed = 1;

/* ---- the handler ---- */

#define IRQ_ENTRY(name, vector)                                                                                        \
	__asm__(".text\n.globl " #name "\n" #name ":\n"                                                                \
		"push $0; push $" #vector "\n"                                                                         \
		"jmp irq_common\n")
IRQ_ENTRY(timer_entry, 0x50);
IRQ_ENTRY(sent_entry, 0x51);

__asm__(".text\nirq_common:\n"
	"push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi\n"
	"push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15\n"
	"mov %rsp, %rdi; mov %rsp, %rbp; sub $4096, %rsp; and $-64, %rsp; cld\n"
	"mov xcr0, %eax; xor %edx, %edx; test %eax, %eax; jz 1f\n"
	"movq $0, 512(%rsp); movq $0, 520(%rsp); movq $0, 528(%rsp); movq $0, 536(%rsp); movq $0, 544(%rsp)\n"
	"movq $0, 552(%rsp); movq $0, 560(%rsp); movq $0, 568(%rsp)\n"
	"xsave64 (%rsp); jmp 2f\n"
	"1: fxsave64 (%rsp)\n"
	"2: call irq_handler\n"
	/* Spoil everything. */
	"fninit; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi\n"
	"pcmpeqd %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; pcmpeqd %xmm2, %xmm2; pcmpeqd %xmm3, %xmm3\n"
	"pcmpeqd %xmm4, %xmm4; pcmpeqd %xmm5, %xmm5; pcmpeqd %xmm6, %xmm6; pcmpeqd %xmm7, %xmm7\n"
	"pcmpeqd %xmm8, %xmm8; pcmpeqd %xmm9, %xmm9; pcmpeqd %xmm10, %xmm10; pcmpeqd %xmm11, %xmm11\n"
	"pcmpeqd %xmm12, %xmm12; pcmpeqd %xmm13, %xmm13; pcmpeqd %xmm14, %xmm14; pcmpeqd %xmm15, %xmm15\n"
	"push $0x7f80; ldmxcsr (%rsp); add $8, %rsp\n"
	"testb $4, xcr0; jz 3f; vzeroall\n"
	"3: testb $0x80, xcr0; jz 4f; vpternlogd $255, %zmm0, %zmm0, %zmm0; vpternlogd $255, %zmm31, %zmm31, %zmm31\n"
	"kxnorw %k1, %k1, %k1\n"
	"4: mov xcr0, %eax; xor %edx, %edx; test %eax, %eax; jz 5f; xrstor64 (%rsp); jmp 6f\n"
	"5: fxrstor64 (%rsp)\n"
	"6: mov %rbp, %rsp\n"
	"mov $-1, %rax; mov %rax, %rcx; mov %rax, %rdx; mov %rax, %rbx; mov %rax, %rbp; mov %rax, %rsi; mov %rax, "
	"%rdi\n"
	"mov %rax, %r8; mov %rax, %r9; mov %rax, %r10; mov %rax, %r11; mov %rax, %r12; mov %rax, %r13; mov %rax, %r14\n"
	"mov %rax, %r15; push $0xcd7; popf\n" /* and the flags, DF too */
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8\n"
	"pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax\n"
	"lea 16(%rsp), %rsp; iretq\n");

/* Where no interrupt may come: [from, to]. */
static struct {
	u64 from, to;
} forbidden[4];

static void forbid(unsigned n, const char *from, const char *to)
{
	forbidden[n].from = (u64)from;
	forbidden[n].to = (u64)to;
}

/* Of the REP instruction at work: what must be the same at each interruption. */
static u64 string_rip, string_sum;
static bool string_down;

static bool string_ok(const struct frame *f)
{
	if (f->rip != string_rip)
		return true;
	if (string_down)
		return f->rdi - f->rcx == string_sum;
	return f->rdi + f->rcx == string_sum;
}

static void arm_timer(void)
{
	u64 r = random64(&seed);

	LAPIC(LAPIC_TIMER_COUNT) = 1 + (r >> 8) % (r & 1 ? 3000 : 40000);
}

void irq_handler(struct frame *f)
{
	bool ok = f->rflags & FLAGS_IF && f->rflags & 2 && !(f->rflags & (FLAGS_TF | 0x28028));

	for (unsigned i = 0; i < 4; i++)
		ok &= f->rip < forbidden[i].from || f->rip > forbidden[i].to;
	ok &= string_ok(f);
	/* Glue between pieces of work is the kernel's own code. */
	ok &= f->cs == 0x08 ? f->ss == 0x10 : f->cs == cs_now && f->ss == 0x23;
	wrong += !ok;
	irqs++;
	shared++;
	last_rip = f->rip;
	if (f->vector == TIMER && storm)
		arm_timer();
	LAPIC(LAPIC_EOI) = 0;
}

/* ---- work that has a result ---- */

static u8 code[4 * 4096] __attribute__((aligned(4096)));
static u8 text[2][8192 + 64];

/* Carry lives over the back edge, as do most registers. */
u64 work_flags(void);
__asm__(".text\nwork_flags: push %rbx; push %rbp\n"
	"	mov $400, %ecx; xor %eax, %eax; mov $0x9e3779b97f4a7c15, %rbx; mov %rbx, %rsi; xor %ebp, %ebp; stc\n"
	"1:	adc %rbx, %rax\n"
	"	rcl $3, %rsi\n"
	"	adc %rsi, %rbp\n"
	"	lea (%rax,%rsi), %rdx\n"
	"	jc 2f\n"
	"	bswap %rbp\n"
	"2:	setp %dl\n"
	"	cmovo %rsi, %rdi\n"
	"	dec %ecx\n"
	"	jnz 1b\n"
	"	xor %rbp, %rax; pop %rbp; pop %rbx; ret\n");

u64 work_loop(void);
__asm__(".text\nwork_loop: mov $500, %ecx; xor %eax, %eax\n"
	"1:	imul $33, %rax, %rax; xor %rcx, %rax; loop 1b; ret\n");

/* Direct jumps to and fro over two pages, ADC at each place. */
static void make_chain(void)
{
	u8 *at[64];

	for (unsigned i = 0; i < 64; i++)
		at[i] = code + (i * 37 % 64) * 120 + (i & 1 ? 40 : 0);
	for (unsigned i = 0; i < 64; i++) {
		u8 *p = put(put(at[i], 0x1548, 2), 0x12345678 + i * 0x1111111, 4); /* adc $imm, %rax */

		if (i < 63)
			put_jmp(p, at[i + 1]);
		else
			put_ret(p);
	}
	put_jmp(put(code + 3 * 4096, 0xf9c031, 3), at[0]); /* xor %eax, %eax; stc; jmp */
}
static u64 work_chain(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < 20; i++)
		sum += call(code + 3 * 4096) << i;
	return sum;
}

#define PIECE(n) "piece" #n ": add $" #n "7, %rax; rol $" #n ", %rax; ret\n"
u64 work_indirect(void);
__asm__(".text\n" PIECE(1) PIECE(2) PIECE(3) PIECE(4) PIECE(5) PIECE(6) PIECE(7) PIECE(
	8) "work_indirect: push %rbx; xor %eax, %eax; mov $300, %ebx\n"
	   "1:	mov %ebx, %edx; and $7, %edx; call *pieces(,%rdx,8); call piece3; lea piece5(%rip), %rcx; call *%rcx\n"
	   "	dec %ebx; jnz 1b; pop %rbx; ret\n"
	   ".data\n.balign 8\npieces: .quad piece1, piece2, piece3, piece4, piece5, piece6, piece7, piece8\n.text\n");

u64 work_recursive(void);
__asm__(".text\nwork_recursive: mov $150, %edi; xor %eax, %eax\n"
	"1:	test %edi, %edi; jz 2f; push %rdi; dec %edi; call 1b; pop %rdi; rol $3, %rax; add %rdi, %rax\n"
	"2:	ret\n");

static u64 hash(const u8 *p, unsigned n)
{
	u64 h = 0xcbf29ce484222325;

	while (n--)
		h = (h ^ *p++) * 0x100000001b3;
	return h;
}

extern char rep_movsb[], rep_movsb_down[], rep_stosq[];
static u64 work_movs(void)
{
	u64 from = (u64)text[0] + 3, to = (u64)text[1] + 7, count = 8000;

	string_rip = (u64)rep_movsb;
	string_sum = to + count;
	string_down = false;
	__asm__ volatile("rep_movsb: rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
	string_rip = 0;
	return hash(text[1], 8192) + to;
}

static u64 work_movs_down(void)
{
	u64 from = (u64)text[0] + 8100, to = (u64)text[1] + 8090, count = 7000;

	string_sum = to - count;
	string_down = true;
	string_rip = (u64)rep_movsb_down;
	__asm__ volatile("std; rep_movsb_down: rep movsb; cld" : "+S"(from), "+D"(to), "+c"(count)::"memory", "cc");
	string_rip = 0;
	return hash(text[1], 8192) + to;
}

static u64 work_stos(void)
{
	u64 to = (u64)text[1], count = 1000, found = (u64)text[1], left = 8192, equal = (u64)text[1], other = equal + 8;
	u64 same = 8000;

	__asm__ volatile("rep_stosq: rep stosq" : "+D"(to), "+c"(count) : "a"(0x1111111111111111) : "memory");
	text[1][7777] = 0x22;
	__asm__ volatile("repne scasb" : "+D"(found), "+c"(left) : "a"(0x22) : "memory", "cc");
	__asm__ volatile("repe cmpsb" : "+S"(equal), "+D"(other), "+c"(same)::"memory", "cc");
	return to * 3 + found * 5 + left * 7 + equal * 11 + same;
}

u64 work_sse(void);
__asm__(".text\nwork_sse: mov $0x3ff0000012345678, %rax; movq %rax, %xmm0; movq %rax, %xmm9; movd %eax, %xmm3; mov "
	"$300, %ecx\n"
	"1:	mulsd %xmm9, %xmm0; paddq %xmm3, %xmm3; pxor %xmm0, %xmm3; pshufd $0x39, %xmm3, %xmm3\n"
	"	movaps %xmm3, %xmm15; psubb %xmm0, %xmm15; pxor %xmm15, %xmm3; dec %ecx; jnz 1b\n"
	"	movq %xmm3, %rax; movhlps %xmm3, %xmm3; movq %xmm3, %rdx; movq %xmm0, %rcx; xor %rdx, %rax; add %rcx, "
	"%rax; ret\n");

u64 work_avx(void);
__asm__(".text\nwork_avx: mov $0x123456789abcdef, %rax; vmovq %rax, %xmm0; vinsertf128 $1, %xmm0, %ymm0, %ymm7; mov "
	"$300, %ecx\n"
	"1:	vpermilps $0x93, %ymm7, %ymm8; vxorps %ymm7, %ymm8, %ymm8; vperm2f128 $1, %ymm8, %ymm8, %ymm7\n"
	"	vmovq %xmm7, %rdx; imul $0x10001, %rdx, %rdx; vmovq %rdx, %xmm1; vinsertf128 $0, %xmm1, %ymm7, %ymm7\n"
	"	vxorps %ymm8, %ymm7, %ymm7; dec %ecx; jnz 1b\n"
	"	vextractf128 $1, %ymm7, %xmm1; vmovq %xmm1, %rax; vmovq %xmm7, %rdx; add %rdx, %rax; vzeroupper; "
	"ret\n");

u64 work_x87(void);
__asm__(".text\nwork_x87: push $3; fildl (%rsp); fld1; fldpi; mov $200, %ecx\n"
	"1:	fmul %st(2), %st; fsub %st(1), %st; fsqrt; fadd %st, %st(1); dec %ecx; jnz 1b\n"
	"	fstpl (%rsp); mov (%rsp), %rax; fstpl (%rsp); add (%rsp), %rax; fstp %st; pop %rcx; ret\n");

/* Reads with a side effect: each byte of the signature comes once. */
static u64 work_ports(void)
{
	static u8 got_bytes[4];
	u64 sum = 0;

	for (unsigned i = 0; i < 20; i++) {
		u64 to = (u64)got_bytes, count = 4;

		outw(0x510, 0);
		for (unsigned n = 0; n < 4; n++)
			sum = sum * 31 + inb(0x511);
		outw(0x510, 0);
		__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x511) : "memory");
		sum = sum * 31 + *(u32 *)got_bytes + count;
	}
	return sum;
}

static u64 work_mmio(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < 200; i++)
		sum = sum * 31 + LAPIC(LAPIC_SVR);
	return sum;
}

SNIPPET(user_loop,
	"mov $2000, %ecx; xor %eax, %eax; stc; 1: adc %rcx, %rax; rol $5, %rax; push %rax; pop %rdx; dec %ecx; jnz 1b");
SNIPPET32(user_loop32,
	  "mov $2000, %ecx; xor %eax, %eax; stc; 1: adc %ecx, %eax; rol $5, %eax; push %eax; pop %edx; inc %ecx\n"
	  "sub $2, %ecx; jnz 1b");
SNIPPET(syscall_loop, "mov $300, %ebx; xor %eax, %eax; 1: mov %rbx, %rdi; syscall; dec %ebx; jnz 1b");
SNIPPET(syscall_back, "lea (%rax,%rax,4), %rax; add %rdi, %rax; sysretq");

static u64 in_mode(enum mode mode, const char *what)
{
	u64 flags = READ_FLAGS() & FLAGS_IF;

	cs_now = mode_cs[mode];
	exec_flags(mode, what, 0, 0, flags | 2);
	return got.vector == 0x80 ? got.rax : 0xbad;
}
static u64 work_user(void)
{
	return in_mode(USER64, user_loop);
}
static u64 work_user32(void)
{
	return in_mode(USER32, user_loop32);
}
static u64 work_kernel(void)
{
	return in_mode(KERNEL64, user_loop);
}
static u64 work_syscall(void)
{
	return in_mode(USER64, syscall_loop);
}

static void enough(u64 (*work)(void), u64 want, u32 *differ)
{
	u32 start = irqs;

	__asm__ volatile("sti");
	while (irqs - start < ENOUGH)
		*differ += work() != want;
	__asm__ volatile("cli");
}

static void interrupted(const char *name, u64 (*work)(void))
{
	u64 want = work(); /* interrupts are off */
	u32 differ = 0, wrong_before = wrong;

	enough(work, want, &differ);
	check_equal(name, differ + wrong - wrong_before, 0);
}

/* ---- where none may come ---- */

extern char sti_from[], sti_hlt[], ss_from[], cli_from[], cli_to[], tpr_from[], tpr_to[];

static u64 shadow_sti(void)
{
	for (unsigned i = 0; i < 200; i++)
		__asm__ volatile("cli; nop; sti; sti_from: nop; nop; nop");
	return 0;
}

static u64 shadow_ss(void)
{
	for (unsigned i = 0; i < 200; i++)
		__asm__ volatile("mov %%ss, %%eax; mov %%eax, %%ss; ss_from: nop; nop" ::: "rax");
	return 0;
}

/* An increment that an interrupt would break. */
static u64 between_cli_and_sti(void)
{
	u64 before = shared, count = irqs;

	for (unsigned i = 0; i < 200; i++)
		__asm__ volatile("cli; cli_from: mov %0, %%rax; nop; nop; inc %%rax; mov %%rax, %0; sti; cli_to: nop"
				 : "+m"(shared)::"rax", "memory", "cc");
	__asm__ volatile("cli");
	before = shared - before - (irqs - count);
	__asm__ volatile("sti");
	return before;
}

static u64 between_cr8(void)
{
	for (unsigned i = 0; i < 100; i++)
		__asm__ volatile("mov %0, %%cr8; tpr_from: nop; nop; nop; nop; tpr_to: mov %1, %%cr8; nop" ::"r"(15ull),
				 "r"(0ull));
	return 0;
}

static void shadows(void)
{
	u32 differ = 0, before = wrong;

	forbid(0, sti_from, sti_from);
	enough(shadow_sti, 0, &differ);
	check_equal("none in the shadow of STI", wrong - before, 0);
	forbid(0, ss_from, ss_from);
	enough(shadow_ss, 0, &differ);
	check_equal("none in the shadow of MOV SS", wrong - before, 0);
	forbid(0, cli_from, cli_to);
	enough(between_cli_and_sti, 200, &differ);
	check_equal("none between CLI and STI", wrong - before, 0);
	check_equal("nothing lost between CLI and STI", differ, 0);
	forbid(0, tpr_from, tpr_to);
	enough(between_cr8, 0, &differ);
	check_equal("none while the priority is masked", wrong - before, 0);
	forbid(0, 0, 0);
}

/* STI, HLT: the interrupt must not come between them, or nobody wakes it. */
static void halts(void)
{
	u32 before = wrong, slept = 0;

	storm = false;
	forbid(0, sti_hlt, sti_hlt);
	for (unsigned i = 0; i < ENOUGH; i++) {
		u32 start = irqs;

		arm_timer();
		__asm__ volatile("sti; sti_hlt: hlt; cli" ::: "memory");
		slept += irqs == start;
		while (irqs == start) /* it was somebody else's: the timer is still to come */
			__asm__ volatile("sti; hlt; cli" ::: "memory");
	}
	forbid(0, 0, 0);
	check_equal("HLT ends by an interrupt", slept + wrong - before, 0);
}

/* ---- when a pending one is taken ---- */

static void pend(void)
{
	ipi_self(SENT);
	while (!(LAPIC(0x200 + SENT / 32 * 16) >> SENT % 32 & 1)) /* IRR */
		cpu_relax();
}

SNIPPET(iret_here, "nop; nop");

static void pending(void)
{
	u32 by_sti = 0, by_popf = 0, by_iret = 0, masked = 0;
	u64 there;

	for (unsigned i = 0; i < 200; i++) {
		u32 start;

		start = irqs;
		pend();
		masked += irqs != start;
		start = irqs;
		__asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=r"(there)::"memory");
		by_sti += irqs != start + 1 || last_rip != there;
		pend();
		start = irqs;
		__asm__ volatile("lea 1f(%%rip), %0; pushf; orl $0x200, (%%rsp); popf; 1: nop; nop; cli"
				 : "=r"(there)::"memory", "cc");
		by_popf += irqs != start + 1 || last_rip != there;
		pend();
		start = irqs;
		cs_now = mode_cs[i & 1 ? USER64 : KERNEL64];
		exec_flags(i & 1 ? USER64 : KERNEL64, iret_here, 0, 0, FLAGS_IF | 2);
		by_iret += irqs != start + 1 || last_rip != (u64)iret_here;
	}
	check_equal("a pending one is held while IF is clear", masked, 0);
	check_equal("a pending one is taken after STI and one more", by_sti, 0);
	check_equal("a pending one is taken at POPF", by_popf, 0);
	check_equal("a pending one is taken at IRET", by_iret, 0);
}

/* ---- */

static volatile u32 bombard;

static void other(unsigned index)
{
	(void)index;
	await_value(&bombard, 1);
	while (bombard) {
		u32 seen = irqs;

		ipi_one(0, SENT);
		while (irqs == seen && bombard)
			cpu_relax();
	}
}

static void all_work(void)
{
	storm = true;
	arm_timer();
	interrupted("flags in a loop", work_flags);
	interrupted("LOOP", work_loop);
	interrupted("chained jumps", work_chain);
	interrupted("indirect calls and returns", work_indirect);
	interrupted("deep calls and returns", work_recursive);
	interrupted("REP MOVSB", work_movs);
	interrupted("REP MOVSB downwards", work_movs_down);
	interrupted("REP STOSQ, REPNE SCASB, REPE CMPSB", work_stos);
	interrupted("SSE", work_sse);
	if (xcr0 & 4)
		interrupted("AVX", work_avx);
	interrupted("x87", work_x87);
	interrupted("ports", work_ports);
	interrupted("MMIO", work_mmio);
	interrupted("ring 3", work_user);
	interrupted("compatibility mode", work_user32);
	interrupted("ring 0 from a frame", work_kernel);
	interrupted("SYSCALL and SYSRET", work_syscall);
	shadows();
}

static void set_up(void)
{
	u64 state = 5;

	gate_set_entry(TIMER, 0, timer_entry);
	gate_set_entry(SENT, 0, sent_entry);
	if (HAS_XSAVE) {
		cr4_set(CR4_OSXSAVE);
		xcr0 = HAS_AVX ? HAS_AVX512F ? 0xe7 : 7 : 3;
		xsetbv(xcr0);
	}
	wrmsr(MSR_STAR, (u64)0x1b << 48 | (u64)0x08 << 32);
	wrmsr(MSR_LSTAR, (u64)syscall_back);
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_TF | FLAGS_DF);
	for (unsigned i = 0; i < sizeof(text[0]); i++)
		text[0][i] = (u8)(random64(&state) >> 20);
	make_chain();
}

int main(void)
{
	unsigned vcpus;

	set_up();
	vcpus = smp_start(other);
	LAPIC(LAPIC_TIMER_DIVIDE) = 0xb; /* by 1 */
	LAPIC(LAPIC_LVT_TIMER) = TIMER;  /* one-shot */
	pending();
	all_work();
	halts();
	if (vcpus > 1) {
		print("and the other vCPUs\n");
		bombard = 1;
		all_work();
		bombard = 0;
	}
	check_equal("no impossible state was seen", wrong, 0);
	return (int)failures;
}
