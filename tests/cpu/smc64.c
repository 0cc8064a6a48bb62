/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes while it runs: by itself, by whatever can write memory, through other mappings, and by other
 * vCPUs with the protocol of SDM 3A 8.1.3. A CPU sees its own stores to code at once (SDM 3A 11.6).
 */
#include "codegen.h"
#include "paging.h"
#include "smp.h"
#include "snippet.h"

extern char stubs[];
static u8 code[32 * 4096] __attribute__((aligned(4096)));

/* ---- a compiler at work ---- */

#define SLOTS 512
static struct {
	u8 *at;
	u32 value;
} slot[SLOTS];

/* A function of random length; *value is what it returns. */
static u8 *compile(u8 *p, u64 *seed, u32 *value)
{
	u32 v = (u32)random64(seed);
	unsigned ops = random64(seed) % 8;

	p = put_value(p, v);
	for (unsigned i = 0; i < ops; i++) {
		u32 imm = (u32)random64(seed);

		switch (imm % 5) {
		case 0:
			p = put(put(p, 0x05, 1), imm, 4); /* add $imm, %eax */
			v += imm;
			break;
		case 1:
			p = put(put(p, 0x35, 1), imm, 4); /* xor */
			v ^= imm;
			break;
		case 2:
			p = put(p, 0xc8ff, 2); /* dec %eax */
			v--;
			break;
		case 3:
			p = put(p, 0x0b0f02eb, 4); /* jmp over a UD2 */
			break;
		default:
			p = put(p, 0xc80f, 2); /* bswap %eax */
			v = __builtin_bswap32(v);
		}
	}
	*value = v;
	return put_ret(p);
}

static void compiler(void)
{
	u64 seed = 1;
	u32 wrong = 0;

	for (unsigned generation = 0; generation < 12; generation++) {
		u8 *p = code + generation * 5;

		for (unsigned i = 0; i < SLOTS; i++) {
			slot[i].at = p;
			p = compile(p, &seed, &slot[i].value);
		}
		for (unsigned i = 0; i < 2 * SLOTS; i++) {
			unsigned n = random64(&seed) % SLOTS;

			wrong += (u32)call(slot[n].at) != slot[n].value;
		}
	}
	check_equal("thousands of small functions, all rewritten time and again", wrong, 0);

	/* One changes, its neighbours stay. */
	for (unsigned i = 0; i < SLOTS; i++)
		slot[i].at = put_return(code + i * 64, slot[i].value) - 6;
	for (unsigned i = 0; i < 6000; i++) {
		unsigned n = random64(&seed) % SLOTS, near = (n + 1) % SLOTS;

		slot[n].value = (u32)random64(&seed);
		put_return(slot[n].at, slot[n].value);
		wrong += (u32)call(slot[near].at) != slot[near].value;
		wrong += (u32)call(slot[n].at) != slot[n].value;
	}
	check_equal("one function of a page rewritten", wrong, 0);
}

/* ---- a running loop ---- */

u32 loop_patch(u32 count);
__asm__(".text\nloop_patch:\n"
	"	xor %eax, %eax\n"
	"	movl $1, 1f+1\n"
	"1:	.byte 0x05, 0, 0, 0, 0\n" /* add $imm32, %eax */
	"	incl 1b+1(%rip)\n"
	"	dec %edi\n"
	"	jnz 1b\n"
	"	ret\n");
u32 loop_flip(u32 count);
__asm__(".text\nloop_flip:\n"
	"	xor %eax, %eax\n"
	"1:	xorb $1, 2f(%rip)\n"
	"	cmp %eax, %eax\n"
	"2:	jz 3f\n"    /* becomes JNZ, JZ, ... */
	"	inc %eax\n" /* every second time */
	"3:	dec %edi\n"
	"	jnz 1b\n"
	"	ret\n");
/* A loop whose body is patched by a function in another page. */
u32 loop_called(u32 count, const u8 *patcher);
__asm__(".text\n.balign 64\nloop_called:\n"
	"	xor %eax, %eax\n"
	"	lea 1f+2(%rip), %rdx\n"
	"	mov %rsi, %r8\n"
	"	movl $0, 1f+2(%rip)\n"
	"1:	lea 0x11111111(%rax), %eax\n" /* 8d 80 disp32 */
	"	mov %edi, %esi\n"
	"	call *%r8\n"
	"	dec %edi\n"
	"	jnz 1b\n"
	"	ret\n");

static void running_loops(void)
{
	u32 n = 3000, wrong = 0;

	check_equal("a loop changes its immediate", loop_patch(n), n * (n + 1) / 2);
	check_equal("and once more", loop_patch(n), n * (n + 1) / 2);
	check_equal("a loop turns its branch round", loop_flip(n), n / 2);
	put(code, 0xc33289, 3); /* mov %esi, (%rdx); ret */
	check_equal("a loop patched by what it calls", loop_called(n, code), n * (n + 1) / 2 - 1);
	check_equal("and once more", loop_called(n, code), n * (n + 1) / 2 - 1);

	/* mov %dil, imm(%rip); NOPs; mov $0x700, %eax; ret: the distance, and where the page ends, vary. */
	for (unsigned at = 4096 - 48; at <= 4096 + 1; at++)
		for (unsigned gap = 0; gap < 24; gap += 1 + gap / 4) {
			u8 *p = put(code + at, 0x3d8840, 3);

			p = put(p, gap + 1, 4);
			for (unsigned i = 0; i < gap; i++)
				p = put(p, 0x90, 1);
			put_return(p, 0x700);
			for (u32 v = 1; v < 4; v++)
				wrong += (u32)call3(code + at, v, 0, 0) != (0x700 | v);
		}
	check_equal("an instruction changes one behind it, at every distance and place", wrong, 0);
}

/* ---- across a page end ---- */

static void page_ends(void)
{
	u64 seed = 7;
	u32 wrong = 0;

	for (unsigned n = 1; n <= 10; n++) {
		u8 *p = code + 2 * 4096 - n;

		put(put_ret(put(put(p, 0xb848, 2), 0, 8)), 0x90, 1); /* movabs $imm64, %rax; ret */
		for (unsigned i = 0; i < 40; i++) {
			u64 v = random64(&seed);

			*(volatile u64 *)(p + 2) = v;
			wrong += call(p) != v;
			v = (v & ~0xffull) | (i & 0xff);
			*(volatile u8 *)(p + 2) = (u8)v;
			wrong += call(p) != v;
			v = (v & ~(0xffull << 56)) | (u64)i << 56;
			*(volatile u8 *)(p + 9) = (u8)i;
			wrong += call(p) != v;
		}
	}
	check_equal("an instruction over the page end, changed on either side", wrong, 0);

	/* Straight-line code over the page end, its second part rewritten. */
	for (unsigned i = 0; i < 200; i++) {
		u8 *p = put_value(code + 3 * 4096 - 5 - i % 7, i);

		while (p < code + 3 * 4096)
			p = put(p, 0x90, 1);
		put_ret(put(put(p, 0x05, 1), i * 1000, 4));
		wrong += (u32)call(code + 3 * 4096 - 5 - i % 7) != i * 1001;
	}
	check_equal("code that runs on into a rewritten page", wrong, 0);
}

/* ---- other mappings ---- */

static void aliases(void)
{
	volatile u64 *pte = &page_table[0x1a0];
	u64 whole = *pte, seed = 3;
	u8 *view[4] = { (u8 *)0x1a0000, (u8 *)0x1b0000, (u8 *)0x1c0000, (u8 *)(0x8000000000 + 0x1a0000) };
	u32 wrong = 0;

	page_table[0x1b0] = whole;
	page_table[0x1c0] = whole;
	*pte_at(pml4, 0x8000000000, 2) = PTE_ALL | PTE_PS; /* the first 2 MiB once more, in one page */
	for (unsigned i = 1; i < 4; i++)
		invlpg(view[i]);
	for (u32 i = 0; i < 2000; i++) {
		unsigned writer = random64(&seed) % 4, offset = random64(&seed) % 8 * 512;

		put_return(view[writer] + offset, i);
		for (unsigned n = 0; n < 4; n++)
			wrong += (u32)call(view[(writer + n) % 4] + offset) != i;
	}
	check_equal("four mappings of one page: written through one, run through all", wrong, 0);
	page_table[0x1b0] = whole + 0x10000;
	page_table[0x1c0] = whole + 0x20000;
	for (unsigned i = 1; i < 4; i++)
		invlpg(view[i]);
}

/* ---- all that can write ---- */

/* Each is called with RDI: where, RSI: 64 bytes to write, of which it takes as many as it likes; aligned to 64. */
#define WRITERS(X)                                                                                                     \
	X(mov8, 1, "mov (%rsi), %al; mov %al, (%rdi)")                                                                 \
	X(mov16, 1, "mov (%rsi), %ax; mov %ax, (%rdi)")                                                                \
	X(mov32, 1, "mov (%rsi), %eax; mov %eax, (%rdi)")                                                              \
	X(mov64, 1, "mov (%rsi), %rax; mov %rax, (%rdi)")                                                              \
	X(mov_imm, 1, "movq $0x12345678, (%rdi)")                                                                      \
	X(movnti, 1, "mov (%rsi), %rax; movnti %rax, (%rdi)")                                                          \
	X(movbe, has_feature(1, 2, 22), "mov (%rsi), %rax; movbe %rax, (%rdi)")                                        \
	X(xchg, 1, "mov (%rsi), %rax; xchg %rax, (%rdi)")                                                              \
	X(add, 1, "mov (%rsi), %rax; add %rax, (%rdi)")                                                                \
	X(adc, 1, "stc; adcb $4, 3(%rdi)")                                                                             \
	X(not, 1, "notl (%rdi)")                                                                                       \
	X(rol, 1, "rolq $9, (%rdi)")                                                                                   \
	X(shld, 1, "mov (%rsi), %rax; shld $20, %rax, (%rdi)")                                                         \
	X(setcc, 1, "testb $1, (%rdi); setz (%rdi)")                                                                   \
	X(btc, 1, "mov $37, %eax; btc %rax, (%rdi)")                                                                   \
	X(btc_far, 1, "lea 64(%rdi), %rdx; mov $-507, %rax; btc %rax, (%rdx)")                                         \
	X(lock_add, 1, "mov (%rsi), %rax; lock add %rax, (%rdi)")                                                      \
	X(lock_xadd, 1, "mov (%rsi), %rax; lock xadd %rax, (%rdi)")                                                    \
	X(lock_inc, 1, "lock incb 2(%rdi)")                                                                            \
	X(lock_bts, 1, "lock btcl $3, (%rdi)")                                                                         \
	X(lock_cmpxchg, 1, "mov (%rsi), %rdx; mov (%rdi), %rax; lock cmpxchg %rdx, (%rdi)")                            \
	X(lock_cmpxchg8b, 1,                                                                                           \
	  "push %rbx; mov (%rsi), %ebx; mov 4(%rsi), %ecx; mov (%rdi), %eax; mov 4(%rdi), %edx\n"                      \
	  "lock cmpxchg8b (%rdi); pop %rbx")                                                                           \
	X(lock_cmpxchg16b, has_feature(1, 2, 13),                                                                      \
	  "push %rbx; mov (%rsi), %rbx; mov 8(%rsi), %rcx; mov (%rdi), %rax; mov 8(%rdi), %rdx\n"                      \
	  "lock cmpxchg16b (%rdi); pop %rbx")                                                                          \
	X(stosb, 1, "mov (%rsi), %al; stosb")                                                                          \
	X(stosq, 1, "mov (%rsi), %rax; stosq")                                                                         \
	X(rep_stosb, 1, "mov (%rsi), %al; mov $8, %ecx; rep stosb")                                                    \
	X(movsw, 1, "movsw")                                                                                           \
	X(rep_movsb, 1, "mov $13, %ecx; rep movsb")                                                                    \
	X(rep_movsq, 1, "mov $8, %ecx; rep movsq")                                                                     \
	X(rep_movsb_down, 1, "add $15, %rsi; add $15, %rdi; mov $16, %ecx; std; rep movsb; cld")                       \
	X(rep_insb, 1, "mov $0x510, %edx; xor %eax, %eax; out %ax, %dx; inc %edx; mov $3, %ecx; rep insb")             \
	X(push, 1, "mov %rsp, %rdx; lea 8(%rdi), %rsp; push (%rsi); mov %rdx, %rsp")                                   \
	X(push_imm, 1, "mov %rsp, %rdx; lea 8(%rdi), %rsp; push $0x7654321; mov %rdx, %rsp")                           \
	X(pushf, 1, "mov %rsp, %rdx; lea 8(%rdi), %rsp; stc; pushf; mov %rdx, %rsp")                                   \
	X(pop, 1, "push (%rsi); popq (%rdi)")                                                                          \
	X(call, 1, "mov %rsp, %rdx; lea 8(%rdi), %rsp; call 1f; 1: mov %rdx, %rsp")                                    \
	X(enter, 1,                                                                                                    \
	  "mov %rsp, %rdx; mov %rbp, %rcx; mov (%rsi), %rbp; lea 8(%rdi), %rsp; enter $0, $0\n"                        \
	  "mov %rdx, %rsp; mov %rcx, %rbp")                                                                            \
	X(movups, 1, "movups (%rsi), %xmm0; movups %xmm0, (%rdi)")                                                     \
	X(movaps, 1, "movups (%rsi), %xmm0; movaps %xmm0, (%rdi)")                                                     \
	X(movntdq, 1, "movdqu (%rsi), %xmm0; movntdq %xmm0, (%rdi)")                                                   \
	X(movss, 1, "movss (%rsi), %xmm0; movss %xmm0, 2(%rdi)")                                                       \
	X(movhps, 1, "movhps (%rsi), %xmm0; movhps %xmm0, (%rdi)")                                                     \
	X(movq, 1, "movq (%rsi), %xmm0; movq %xmm0, (%rdi)")                                                           \
	X(pextrw, has_feature(1, 2, 19), "movdqu (%rsi), %xmm0; pextrw $1, %xmm0, 4(%rdi)")                            \
	X(maskmovdqu, 1, "movdqu (%rsi), %xmm0; pcmpeqd %xmm1, %xmm1; maskmovdqu %xmm1, %xmm0")                        \
	X(movq_mmx, 1, "movq (%rsi), %mm0; movq %mm0, (%rdi); emms")                                                   \
	X(fistp, 1, "fildl (%rsi); fistpll (%rdi)")                                                                    \
	X(fstp, 1, "fldpi; fstpl (%rdi)")                                                                              \
	X(fnstcw, 1, "fnstcw (%rdi)")                                                                                  \
	X(stmxcsr, 1, "stmxcsr (%rdi)")                                                                                \
	X(fxsave, 1, "movdqu -16(%rsi), %xmm0; movdqu (%rsi), %xmm1; fxsave64 -176(%rdi)")                             \
	X(xsave, HAS_AVX,                                                                                              \
	  "movdqu -16(%rsi), %xmm1; movdqu (%rsi), %xmm2; mov $3, %eax; xor %edx, %edx\n"                              \
	  "xsave64 -192(%rdi)")                                                                                        \
	X(str, 1, "str (%rdi)")                                                                                        \
	X(mov_cs, 1, "mov %cs, (%rdi)")                                                                                \
	X(vmovups_xmm, HAS_AVX, "vmovups (%rsi), %xmm0; vmovups %xmm0, (%rdi)")                                        \
	X(vmovups, HAS_AVX, "vmovups (%rsi), %ymm0; vmovups %ymm0, (%rdi)")                                            \
	X(vmovntdq, HAS_AVX, "vmovups (%rsi), %ymm0; vmovntdq %ymm0, (%rdi)")                                          \
	X(vmaskmovps, HAS_AVX, "vmovups (%rsi), %ymm0; vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps %ymm0, %ymm1, (%rdi)") \
	X(vextractf128, HAS_AVX,                                                                                       \
	  "vmovups (%rsi), %ymm0; vperm2f128 $1, %ymm0, %ymm0, %ymm0\n"                                                \
	  "vextractf128 $1, %ymm0, (%rdi)")                                                                            \
	X(vmovups_zmm, wide_vectors, "vmovups (%rsi), %zmm0; vmovups %zmm0, (%rdi)")                                   \
	X(vmovups_mask, wide_vectors,                                                                                  \
	  "vmovups (%rsi), %zmm0; mov $3, %eax; kmovw %eax, %k1; vmovups %zmm0, (%rdi){%k1}")                          \
	X(vpscatterdq, wide_vectors,                                                                                   \
	  "vmovups (%rsi), %ymm0; mov $1, %eax; kmovw %eax, %k1; vpxord %ymm1, %ymm1, %ymm1\n"                         \
	  "vpscatterdq %zmm0, (%rdi,%ymm1){%k1}")

#define X(name, usable, text)                                                                                          \
	void write_##name(u8 *, const u8 *);                                                                           \
	__asm__(".text\nwrite_" #name ":\n" text "\nret\n");
WRITERS(X)
#undef X

static bool wide_vectors;

/* All vector state there is; what is not there is skipped. */
static void enable_vectors(void)
{
	if (!HAS_AVX)
		return;
	cr4_set(CR4_OSXSAVE);
	wide_vectors = HAS_AVX512F && has_feature(7, 1, 31);
	xsetbv(wide_vectors ? 0xe7 : 7);
}

static void writers(void)
{
#define X(name, usable, text) { #name, write_##name, usable },
	const struct {
		const char *name;
		void (*write)(u8 *, const u8 *);
		bool usable;
	} rows[] = { WRITERS(X) };
#undef X
	static u8 sources[2 * 64] __attribute__((aligned(64)));
	u8 *at = code + 5 * 4096 + 512, *source = sources + 64;
	u64 seed = 11;

	for (unsigned i = 0; i < 64; i++) /* in front of it: the opcode, behind it: RET and NOPs */
		source[i] = i == 8 ? 0xc3 : 0x90;
	put(source - 2, 0xb848, 2);
	for (unsigned row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
		u32 wrong = 0, stale = 0;

		if (!rows[row].usable) {
			print("skip ");
			print(rows[row].name);
			print("\n");
			continue;
		}
		for (unsigned i = 0; i < 24; i++) {
			u64 before = random64(&seed);

			put_ret(put(put(at - 2, 0xb848, 2), before, 8));
			wrong += call(at - 2) != before;
			put(source, random64(&seed), 8);
			rows[row].write(at, source);
			stale += *(volatile u64 *)at == before;
			wrong += call(at - 2) != *(volatile u64 *)at;
		}
		check(rows[row].name, !wrong && stale < 24);
	}
}

/* ---- the CPU itself ---- */

SNIPPET(interrupt_81, "int $0x81");

static volatile u64 pushed_result;
static bool run_pushed(struct frame *f)
{
	pushed_result = call((u8 *)&f->rsp);
	return true;
}

/* The RSP that an interrupt of ring 3 pushes is `mov $imm, %eax; ret`, and the handler calls it there. */
static void pushed_by_exception(void)
{
	u8 *top = code + 7 * 4096;
	u64 saved = tss.rsp[0];
	u32 wrong = 0;

	tss.rsp[0] = (u64)top;
	frame_hooks[0x81] = run_pushed;
	gate_set_entry(0x81, 3, (void (*)(void))(u64)(stubs + 0x81 * 16));
	for (u32 i = 0; i < 300; i++) {
		for (unsigned r = 0; r < 15; r++)
			((u64 *)&got)[r] = 0;
		got.rip = (u64)interrupt_81;
		got.cs = 0x2b;
		got.ss = 0x23;
		got.rflags = 0x202;
		got.rsp = 0xb8 | (u64)i << 8 | (u64)0xc3 << 40;
		run_frame(&got);
		wrong += got.vector != 0x80 || pushed_result != i;
	}
	tss.rsp[0] = saved;
	check_equal("code pushed by exceptions", wrong, 0);
}

/* One piece of code in all modes: mov $imm, %eax; int $0x80. */
static void in_all_modes(void)
{
	u8 *at = code + 9 * 4096 + 100;
	u32 wrong = 0;

	for (u32 i = 0; i < 200; i++) {
		put(put_value(at, i), 0x80cd, 2);
		for (enum mode mode = 0; mode < MODES; mode++) {
			exec((mode + i) % MODES, (char *)at, 0, 0);
			wrong += got.vector != 0x80 || got.rax != i;
		}
	}
	check_equal("code run in four modes", wrong, 0);
}

static void serialize(void)
{
	u32 r[4];

	cpuid(0, 0, r);
}

/* ---- several vCPUs ---- */

static volatile u32 arrived, cross_wrong;
static u32 vcpus, rounds;
extern char wait_code[], wait_code_end[];
__asm__(".text\n"
	"wait_code:\n" /* until (RDI) >= ESI */
	"1:	pause\n"
	"	mov (%rdi), %eax\n"
	"	cmp %esi, %eax\n"
	"	jb 1b\n"
	"	ret\n"
	"wait_code_end:\n");

/* All wait in code of the page that changes: what they execute does not. */
static void barrier(u32 *passed)
{
	*passed += vcpus;
	atomic_inc(&arrived);
	call3(code + 10 * 4096, (u64)&arrived, *passed, 0);
}

static u8 *cross_slot(unsigned index, u32 round)
{
	/* Beside the others' code, or over the page end. */
	return code + (round & 1 ? 11 * 4096 - 3 + index * 4096 : 10 * 4096 + 64 + index * 24);
}

/* Everyone writes a function, then everyone runs all of them. */
static void cross_modify(unsigned index)
{
	u32 passed = 0, wrong = 0;

	for (u32 round = 0; round < rounds; round++) {
		put_return(cross_slot(index, round), round << 8 | index);
		barrier(&passed);
		serialize();
		for (unsigned i = 0; i < vcpus; i++)
			wrong += (u32)call(cross_slot(i, round)) != (round << 8 | i);
		barrier(&passed);
	}
	for (u32 round = 0; round < rounds; round++) { /* one byte of it, by one of them */
		if (round % vcpus == index)
			*(volatile u8 *)(cross_slot(0, round) + 2) = (u8)round;
		barrier(&passed);
		serialize();
		wrong += ((u32)call(cross_slot(0, round)) >> 8 & 0xff) != (round & 0xff);
		barrier(&passed);
	}
	while (wrong--)
		atomic_inc(&cross_wrong);
	atomic_inc(&arrived);
}

static volatile u32 go;
static void other(unsigned index)
{
	await_value(&go, 1);
	cross_modify(index);
}

int main(void)
{
	compiler();
	running_loops();
	page_ends();
	aliases();
	enable_vectors();
	writers();
	pushed_by_exception();
	in_all_modes();
	put_code(code + 10 * 4096, wait_code, wait_code_end);
	vcpus = smp_start(other);
	rounds = vcpus > 2 ? 60 : 400;
	go = 1;
	cross_modify(0);
	await_value(&arrived, vcpus * (4 * rounds + 1));
	check_equal("cross-modifying code", cross_wrong, 0);
	return (int)failures;
}
