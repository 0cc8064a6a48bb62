/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory as user code in pages of its own sees it (see direct64.c): faults, A and D, mappings that change, address
 * spaces, code that changes; and what another CPU changes meanwhile.
 */
#include "codegen.h"
#include "native.h"
#include "smp.h"

#define SECOND (WINDOW + 0x8000000) /* of the same memory as SCRATCH, or not */
#define BIG (WINDOW + 0x40000000)   /* large pages */
#define BIG_MEMORY 0x2000000ull     /* what they show: two pages of 2 MiB */
#define CODE (WINDOW + 0x600000)
#define PTE_UX (PTE_P | PTE_U)
#define SHOOT 0x60

USER_TEXT_BEGIN;
USER(read_one, "mov (%rdi), %rax");
USER(write_one, "mov %rsi, (%rdi)");
USER(add_one, "add %rsi, (%rdi)");
USER(exchange, "lock xadd %rsi, (%rdi)");
USER(move_string, "mov $512, %ecx; rep movsq");
USER(call_it, "mov %rsi, %rax; call *%rdi");
USER(call_twice, "call *%rdi; mov %rax, %rbx; call *%rsi; add %rbx, %rax");
USER(write_and_call, "mov %esi, 1(%rdi); call *%rdi");
/* RSI times: change the immediate, call; RBX: the sum. */
USER(modify_loop, "xor %ebx, %ebx; 1: mov %esi, 1(%rdi); call *%rdi; add %rax, %rbx; dec %esi; jnz 1b");
/* The same word of RSI pages, RAX: their sum. */
USER(sum_pages, "xor %eax, %eax; 1: add (%rdi), %rax; add $4096, %rdi; dec %rsi; jnz 1b");
/* Until the word is not 0; then RAX. Reads the page of RDI meanwhile: RCX counts what is neither RDX nor R8. */
USER(watch, "xor %ecx, %ecx; 1: mov (%rdi), %rax; cmp %rax, %rdx; je 2f; cmp %rax, %r8; je 2f; inc %rcx\n"
	    "2: cmpl $0, (%rsi); je 1b; mov (%rdi), %rax");
USER(watch_code, "xor %ecx, %ecx; xor %ebx, %ebx\n"
		 "1: call *%rdi; cmp %rax, %rbx; jbe 2f; inc %rcx\n" /* numbers go up */
		 "2: mov %rax, %rbx; cmpl $0, (%rsi); je 1b; mov $0, %eax; lock xadd %rax, 8(%rsi); call *%rdi");
USER_TEXT_END;

static u64 frames[16][512] __attribute__((aligned(4096)));

static u64 pa(unsigned n)
{
	return (u64)frames[n];
}

static void fault_is(const char *what, u64 code, u64 va, u64 error)
{
	go(code, va, 0);
	print(what);
	print("\n");
	check_equal("the fault", FAULT(got.vector, got.error), error ? FAULT(14, error) : EXITED);
	if (error) {
		check_equal("its CR2", last.cr2, va);
		check_equal("its RIP", got.rip, code);
	}
}

/* ---- permissions, A and D ---- */

static void permissions(void)
{
	static const struct {
		const char *name;
		u64 flags, read, write, fetch;
	} rows[] = {
		{ "not present", 0, 4, 6, 0x14 },
		{ "read-only", PTE_P | PTE_U | PTE_NX, 0, 7, 0x15 },
		{ "code", PTE_P | PTE_U, 0, 7, 0 },
		{ "data", PTE_ALL | PTE_NX, 0, 0, 0x15 },
		{ "the kernel's", PTE_P | PTE_W, 5, 7, 0x15 },
		{ "the kernel's, read-only", PTE_P | PTE_NX, 5, 7, 0x15 },
		{ "all", PTE_ALL, 0, 0, 0 },
	};
	const unsigned count = sizeof(rows) / sizeof(rows[0]);

	put((u8 *)frames[0], 0x82cd, 2);
	/* Each after each. */
	for (unsigned i = 0; i < count; i++)
		for (unsigned n = 0; n < count; n++) {
			for (unsigned k = 0; k < 2; k++) {
				const u64 flags = rows[k ? n : i].flags;

				map(SCRATCH, pa(0), flags);
				frames[0][1] = i;
				go(AT(read_one), SCRATCH + 8, 0);
			}
			fault_is(rows[n].name, AT(read_one), SCRATCH, rows[n].read);
			fault_is(rows[n].name, AT(write_one), SCRATCH + 16, rows[n].write);
			go(SCRATCH, 0, 0);
			check_equal("fetch", FAULT(got.vector, got.error),
				    rows[n].fetch ? FAULT(14, rows[n].fetch) : EXITED);
		}
	map(SCRATCH, pa(0), PTE_ALL | PTE_NX);
	map(SCRATCH + 4096, 0, 0);
	check_equal("a load over a page end", go_fault(AT(read_one), SCRATCH + 4096 - 3, 0), FAULT(14, 4));
	check_equal("its CR2", last.cr2, SCRATCH + 4096);
}

static u64 bits_after(u64 flags, const char *code)
{
	map(SCRATCH, pa(1), flags);
	go(AT(code), SCRATCH + 64, 1);
	return *pte_at(pml4, SCRATCH, 1) & (PTE_A | PTE_D);
}

static void accessed_and_dirty(void)
{
	volatile u64 *pte = pte_at(pml4, SCRATCH, 1), *two = pte_at(pml4, BIG, 2);
	unsigned wrong = 0;

	check_equal("a read sets A", bits_after(PTE_ALL | PTE_NX, read_one), PTE_A);
	go(AT(read_one), SCRATCH + 72, 0);
	check_equal("and again", *pte & (PTE_A | PTE_D), PTE_A);
	go(AT(write_one), SCRATCH + 72, 5);
	check_equal("the first write sets D", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	check_equal("it is written", frames[1][9], 5);
	check_equal("a write sets A and D", bits_after(PTE_ALL | PTE_NX, write_one), PTE_A | PTE_D);
	check_equal("so does ADD", bits_after(PTE_ALL | PTE_NX, add_one), PTE_A | PTE_D);
	check_equal("so does XADD", bits_after(PTE_ALL | PTE_NX, exchange), PTE_A | PTE_D);
	check_equal("a write that faults sets no D", bits_after(PTE_P | PTE_U, write_one) & PTE_D, 0);
	check_equal("it has faulted", FAULT(got.vector, got.error), FAULT(14, 7));
	/* D taken back, as by a kernel that writes pages to disk. */
	for (unsigned n = 0; n < 20; n++) {
		map(SCRATCH, pa(1), PTE_ALL | PTE_NX);
		go(AT(write_one), SCRATCH, n);
		go(AT(read_one), SCRATCH, n);
		*pte &= ~(PTE_A | PTE_D);
		invlpg((void *)SCRATCH);
		go(AT(read_one), SCRATCH, n);
		wrong += (*pte & PTE_D) != 0;
		go(AT(write_one), SCRATCH, n);
		wrong += (*pte & PTE_D) == 0;
	}
	check_equal("D comes again each time", wrong, 0);
	*two = BIG_MEMORY | PTE_ALL | PTE_PS | PTE_NX;
	invlpg((void *)BIG);
	go(AT(read_one), BIG + 0x12340, 0);
	check_equal("a read of a large page sets A", *two & (PTE_A | PTE_D), PTE_A);
	go(AT(write_one), BIG + 0x54320, 0x77);
	check_equal("a write D", *two & (PTE_A | PTE_D), PTE_A | PTE_D);
	check_equal("it is written", *(volatile u64 *)(BIG_MEMORY + 0x54320), 0x77);
	go(AT(read_one), BIG + 0x54320, 0);
	check_equal("and read", got.rax, 0x77);
}

/* ---- mappings that change ---- */

static void by_invlpg(u64 va)
{
	invlpg((void *)va);
}
static void by_cr3(u64 va)
{
	(void)va;
	WRITE_REG(cr3, READ_REG(cr3));
}

static void flush_big(void (*flush)(u64 va))
{
	for (u64 n = 0; n < 10; n++) /* those in use, as they may be small */
		flush(BIG + n * 4096);
}

static void remaps(void (*flush)(u64 va))
{
	volatile u64 *pte = pte_at(pml4, SCRATCH, 1), *two = pte_at(pml4, BIG, 2);
	u64 seed = 17;
	unsigned wrong = 0, n;

	for (n = 0; n < 8; n++)
		frames[n][0] = 0x1000 + n;
	for (unsigned i = 0; i < 150; i++) {
		n = random64(&seed) % 8;
		*pte = pa(n) | PTE_ALL | PTE_NX;
		flush(SCRATCH);
		go(AT(read_one), SCRATCH, 0);
		wrong += got.rax != 0x1000 + n;
		go(AT(write_one), SCRATCH + 8, i);
		wrong += frames[n][1] != i;
		if (i % 10 == 0) {
			*pte = 0;
			flush(SCRATCH);
			wrong += go_fault(AT(read_one), SCRATCH, 0) != FAULT(14, 4);
		}
		if (i % 10 == 5) {
			*pte = pa(n) | PTE_U | PTE_P;
			flush(SCRATCH);
			wrong += go_fault(AT(write_one), SCRATCH, 0) != FAULT(14, 7);
		}
	}
	check_equal("a page remapped", wrong, 0);
	/* The kernel's writes are seen at once, and both mappings of one page. */
	for (unsigned i = 0; i < 50; i++) {
		*pte = pa(i % 8) | PTE_ALL | PTE_NX;
		*pte_at(pml4, SECOND, 1) = pa(i % 8) | PTE_ALL | PTE_NX;
		flush(SCRATCH);
		flush(SECOND);
		go(AT(write_one), SCRATCH + 24, i);
		go(AT(read_one), SECOND + 24, 0);
		wrong += got.rax != i;
		frames[i % 8][3] = i + 1;
		go(AT(add_one), SECOND + 24, i);
		go(AT(read_one), SCRATCH + 24, 0);
		wrong += got.rax != 2 * i + 1;
	}
	check_equal("a page at two addresses", wrong, 0);
	/* Two large pages, then small ones in their place, and back. */
	for (unsigned i = 0; i < 16; i++) {
		u64 memory = BIG_MEMORY + (i & 1) * PAGE_2M;

		*(volatile u64 *)(BIG_MEMORY + 0x3000) = 0xa0;
		*(volatile u64 *)(BIG_MEMORY + PAGE_2M + 0x3000) = 0xa1;
		*two = memory | PTE_ALL | PTE_PS | PTE_NX;
		flush_big(flush);
		go(AT(read_one), BIG + 0x3000, 0);
		wrong += got.rax != 0xa0 + (i & 1);
		go(AT(write_one), BIG + 0x1ff8, i); /* its other pages come along */
		wrong += *(volatile u64 *)(memory + 0x1ff8) != i;
		*two = 0;
		flush_big(flush);
		wrong += go_fault(AT(read_one), BIG + 0x5000, 0) != FAULT(14, 4);
		*two = (u64)frames[14] | PTE_ALL; /* a table */
		for (n = 0; n < 8; n++)
			frames[14][n] = pa(n) | PTE_ALL | PTE_NX;
		flush_big(flush);
		frames[3][0] = 0x55;
		go(AT(read_one), BIG + 0x3000, 0);
		wrong += got.rax != 0x55;
		wrong += go_fault(AT(write_one), BIG + 0x9000, 0) != FAULT(14, 6);
		for (n = 0; n < 512; n++)
			frames[14][n] = 0;
	}
	check_equal("large pages and small ones", wrong, 0);
	*two = 0;
	flush_big(flush);
}

/* ---- address spaces ---- */

static void address_spaces(void)
{
	u64 *root[3] = { pml4, address_space(), address_space() };
	u64 at = CODE;
	unsigned wrong = 0, faults = 0;

	for (unsigned n = 0; n < 3; n++) {
		for (u64 off = 0; off < (u64)(user_last - user_first); off += 4096)
			*pte_at(root[n], UCODE + off, 1) = ((u64)user_first + off) | PTE_P | PTE_U;
		for (u64 off = 0; off < sizeof(native_stack); off += 4096)
			*pte_at(root[n], USTACK + off, 1) = ((u64)native_stack + off) | PTE_ALL | PTE_NX;
		*pte_at(root[n], SCRATCH, 1) = pa(n) | PTE_ALL | PTE_NX;
		*pte_at(root[n], at, 1) = pa(4 + n) | PTE_UX;
		put_return((u8 *)frames[4 + n], 0x500 + n);
		frames[n][0] = 0x700 + n;
		if (n)
			*pte_at(root[n], SCRATCH + n * 4096, 1) = pa(n) | PTE_ALL | PTE_NX;
	}
	map(SCRATCH + 4096, 0, 0);
	map(SCRATCH + 8192, 0, 0);
	for (unsigned i = 0; i < 300; i++) {
		unsigned n = i * 7 / 3 % 3;

		WRITE_REG(cr3, root[n]);
		go(AT(read_one), SCRATCH, 0);
		wrong += got.rax != frames[n][0];
		go(AT(add_one), SCRATCH, 3);
		go(AT(call_it), at, 0);
		wrong += got.rax != 0x500 + n;
		if (n) {
			wrong += go_fault(AT(read_one), SCRATCH + n * 4096, 0) != EXITED;
			faults += go_fault(AT(read_one), SCRATCH + (3 - n) * 4096, 0) == FAULT(14, 4);
		} else {
			faults += go_fault(AT(read_one), SCRATCH + (1 + i % 2) * 4096, 0) == FAULT(14, 4);
		}
	}
	WRITE_REG(cr3, pml4);
	check_equal("three address spaces with different contents", wrong, 0);
	check_equal("nothing of another one is there", faults, 300);
	check_equal("all writes have arrived", frames[0][0] + frames[1][0] + frames[2][0], 0x1503 + 300 * 3);
}

/* ---- many pages ---- */

static void many_pages(void)
{
	const u64 from = WINDOW + 0x20000000, count = 3000;
	u64 sum = 0, want;

	/* No two neighbours in a row of memory. */
	for (u64 n = 0; n < count; n++)
		*pte_at(pml4, from + n * 4096, 1) = pa(n * 5 % 8) | PTE_ALL | PTE_NX;
	for (unsigned n = 0; n < 8; n++)
		frames[n][0] = n + 1;
	WRITE_REG(cr3, pml4);
	want = count / 8 * 36;
	go(AT(sum_pages), from, count);
	sum = got.rax;
	check_equal("thousands of pages", sum, want);
	go(AT(sum_pages), from, count);
	check_equal("and once more", got.rax, want);
	for (u64 n = 0; n < count; n++)
		*pte_at(pml4, from + n * 4096, 1) = 0;
	WRITE_REG(cr3, pml4);
	check_equal("gone", go_fault(AT(read_one), from + 4096 * (count - 1), 0), FAULT(14, 4));
}

/* ---- code that changes ---- */

static void code_changes(void)
{
	u8 *kernel = (u8 *)frames[8];
	unsigned wrong = 0;

	map(CODE, pa(8), PTE_ALL);
	map(CODE + 4096, pa(9), PTE_ALL);
	map(SECOND, pa(8), PTE_ALL | PTE_NX);
	put_return(kernel, 1);
	for (u32 i = 0; i < 60; i++) {
		go(AT(write_and_call), CODE, i);
		wrong += got.vector != 0x82 || got.rax != i;
	}
	check_equal("a program changes its code", wrong, 0);
	go(AT(modify_loop), CODE, 300);
	check_equal("in a loop", got.rbx, 300 * 301 / 2);
	/* Code that changes what follows it in its page: mov %esi, 1f+1(%rip); 1: mov $0, %eax; ret */
	put_ret(put_value(put(put(kernel + 256, 0x3589, 2), 1, 4), 0));
	for (u32 i = 1; i < 60; i++) {
		go(AT(call_it), CODE + 256, i * 3);
		wrong += got.rax != i * 3;
	}
	check_equal("the instruction behind it", wrong, 0);
	for (u32 i = 0; i < 60; i++) {
		put_value(kernel, i + 7);
		go(AT(call_it), CODE, 0);
		wrong += got.rax != i + 7;
	}
	check_equal("the kernel changes it", wrong, 0);
	for (u32 i = 0; i < 60; i++) {
		go(AT(write_one), SECOND, 0xb8 | (u64)(i * 5) << 8 | (u64)0xc3 << 40);
		go(AT(call_it), CODE, 0);
		wrong += got.rax != i * 5;
	}
	check_equal("the program changes it through another mapping", wrong, 0);
	put_return((u8 *)frames[10], 0x10);
	put_return((u8 *)frames[11], 0x11);
	for (u32 i = 0; i < 60; i++) {
		map(CODE, pa(10 + i % 2), i & 4 ? PTE_ALL : PTE_UX);
		go(AT(call_it), CODE, 0);
		wrong += got.rax != 0x10 + i % 2;
		if (i % 8 == 3) {
			map(CODE, pa(10), PTE_ALL | PTE_NX);
			wrong += go_fault(AT(call_it), CODE, 0) != FAULT(14, 0x15);
		}
	}
	check_equal("another page of code at its place", wrong, 0);
	/* An instruction over the page end: either half changes. */
	map(CODE, pa(8), PTE_ALL);
	for (unsigned before = 1; before < 5; before++) {
		u8 value[8];

		for (u32 i = 0; i < 20; i++) {
			put_return(value, i << 24 | i << 16 | i << 8 | i);
			put(kernel + 4096 - before, *(u64 *)value, before);
			for (unsigned n = before; n < 6; n++)
				*((volatile u8 *)frames[9] + n - before) = value[n];
			go(AT(call_it), CODE + 4096 - before, 0);
			wrong += got.rax != i * 0x1010101;
		}
		/* Its second page is another one. */
		for (unsigned n = before; n < 6; n++)
			*((volatile u8 *)frames[12] + n - before) = n == 5 ? 0xc3 : 0x40;
		map(CODE + 4096, pa(12), PTE_UX);
		go(AT(call_it), CODE + 4096 - before, 0);
		wrong += (got.rax >> 24 & 0xff) != 0x40;
		map(CODE + 4096, 0, 0);
		go(AT(call_it), CODE + 4096 - before, 0);
		wrong += FAULT(got.vector, got.error) != FAULT(14, 0x14) || last.cr2 != CODE + 4096 ||
			 got.rip != CODE + 4096 - before;
		map(CODE + 4096, pa(9), PTE_ALL);
	}
	check_equal("an instruction over the page end", wrong, 0);
}

/* Code that must show this machine, with a page end anywhere in it: mov %esi, %eax; xor %ecx, %ecx; cpuid; ret. */
static void sensitive_places(void)
{
	static const u8 text[] = { 0x89, 0xf0, 0x31, 0xc9, 0x0f, 0xa2, 0xc3 };
	unsigned wrong = 0, wrong_pair = 0;
	u32 r[4];

	cpuid(0x80000008, 0, r);
	map(CODE, pa(8), PTE_ALL);
	map(CODE + 4096, pa(9), PTE_ALL);
	for (unsigned i = 0; i < 512; i++)
		frames[8][i] = frames[9][i] = 0x9090909090909090;
	for (unsigned split = 0; split <= sizeof(text); split++) {
		for (unsigned n = 0; n < sizeof(text); n++)
			*((volatile u8 *)(n < split ? (u64)frames[8] + 4096 - split + n : (u64)frames[9] + n - split)) =
				text[n];
		go(AT(call_it), CODE + 4096 - split, 0x80000008);
		wrong += got.vector != 0x82 || got.rax != r[0] || got.rbx != r[1] || got.rdx != r[3];
		/* First its ordinary neighbours, so that both pages are there before it is reached. */
		put_return((u8 *)frames[8], 3);
		put_return((u8 *)frames[9] + 512, 4);
		go(AT(call_twice), CODE, CODE + 4096 + 512);
		wrong_pair += got.rax != 7;
		go(AT(call_it), CODE + 4096 - split, 0x80000008);
		wrong += got.rax != r[0];
		for (unsigned n = 0; n < sizeof(text); n++)
			*((volatile u8 *)(n < split ? (u64)frames[8] + 4096 - split + n : (u64)frames[9] + n - split)) =
				0x90;
	}
	check_equal("CPUID at and over the page end", wrong, 0);
	check_equal("its neighbours", wrong_pair, 0);
	/* The page behind gets the other half while the first one is in use. */
	for (unsigned i = 0; i < 10; i++) {
		u8 *end = (u8 *)frames[8] + 4096;

		put(end - 1, 0x0f, 1);
		put(end - 5, 0xc931f089, 4);     /* mov %esi, %eax; xor %ecx, %ecx */
		put((u8 *)frames[9], 0xc31f, 2); /* 0f 1f c3: NOP, then NOPs */
		put_ret((u8 *)frames[9] + 16);
		put_return((u8 *)frames[8], 9);
		go(AT(call_it), CODE + 4096 - 5, 0x80000008);
		wrong += got.rax != 0x80000008;
		put((u8 *)frames[9], 0xc3a2, 2);
		go(AT(call_it), CODE + 4096 - 5, 0x80000008);
		wrong += got.rax != r[0];
		map(CODE + 4096, pa(13), PTE_UX); /* or by another page there */
		put((u8 *)frames[13], 0xc31f, 2);
		put_ret((u8 *)frames[13] + 16);
		for (unsigned n = 2; n < 16; n++)
			*((volatile u8 *)frames[13] + n) = 0x90;
		go(AT(call_it), CODE + 4096 - 5, 0x80000008);
		wrong += got.rax != 0x80000008;
		map(CODE + 4096, pa(9), PTE_UX);
		go(AT(call_it), CODE + 4096 - 5, 0x80000008);
		wrong += got.rax != r[0];
		map(CODE + 4096, pa(9), PTE_ALL);
	}
	check_equal("CPUID made of two pages, one of which changes", wrong, 0);
	/* INT3 as the first byte, no page in front. */
	map(CODE, 0, 0);
	put((u8 *)frames[9], 0xcc, 1);
	go(CODE + 4096, 0, 0);
	check_equal("INT3 at the start of the first page", FAULT(got.vector, got.rip - CODE), FAULT(3, 4097));
}

/* ---- two CPUs ---- */

static struct {
	volatile u32 stop, pad;
	volatile u64 go_count;
} control __attribute__((aligned(4096)));
static volatile u32 running, acks, other_done;
static volatile u64 other_rax, other_wrong, other_vector;
static volatile u32 phase;
u64 other_rsp;
void other_enter(struct frame *f);
extern char other_back[];
__asm__(".text\nother_enter:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, other_rsp\n"
	"	mov %rdi, %rsp\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8\n"
	"	pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax\n"
	"	add $16, %rsp\n"
	"	iretq\n"
	"other_back:\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

/* What ends the other CPU's user code. */
static bool on_end(struct frame *f)
{
	if (smp_index() == 0 || !(f->cs & 3))
		return false;
	other_rax = f->rax;
	other_wrong = f->rcx;
	other_vector = f->vector;
	f->rip = (u64)other_back;
	f->cs = 8;
	f->rflags = 2;
	f->rsp = other_rsp;
	f->ss = 0x10;
	return true;
}

static bool on_shoot(struct frame *f)
{
	(void)f;
	WRITE_REG(cr3, READ_REG(cr3));
	LAPIC(LAPIC_EOI) = 0;
	atomic_inc(&acks);
	return true;
}

static void other(unsigned index)
{
	native_enable();
	for (u32 n = 1; index == 1; n++) {
		struct frame f = { 0 };

		await_value(&phase, n);
		f.rip = n == 1 ? AT(watch) : AT(watch_code);
		f.rdi = n == 1 ? SCRATCH : CODE;
		f.rsi = SECOND;
		f.rdx = 0x1111;
		f.r8 = 0x2222;
		f.cs = sel->code;
		f.ss = sel->stack;
		f.rflags = 0x202;
		f.rsp = USTACK + 0x1000;
		__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"((u32)sel->data));
		WRITE_REG(cr3, READ_REG(cr3));
		running = 1;
		other_enter(&f);
		running = 0;
		atomic_inc(&other_done);
	}
}

static void shoot(void)
{
	u32 want = acks + 1;

	ipi_one(1, SHOOT);
	await_value(&acks, want);
}

static void start_phase(u32 n)
{
	control.stop = 0;
	phase = n;
	await_value(&running, 1);
	for (unsigned i = 0; i < 200000; i++)
		cpu_relax();
}

static void end_phase(u32 n)
{
	control.stop = 1;
	await_value(&other_done, n);
}

static void two_cpus(void)
{
	volatile u64 *pte = pte_at(pml4, SCRATCH, 1);
	u64 wrong = 0;

	frame_hooks[0x82] = frame_hooks[14] = frame_hooks[13] = frame_hooks[6] = on_end;
	frame_hooks[SHOOT] = on_shoot;
	map(SECOND, (u64)&control, PTE_ALL | PTE_NX);
	if (smp_start(other) < 2) {
		print("skip two CPUs\n");
		return;
	}
	/* It reads while the page is replaced: what it had before is changed to what it must not see. */
	*pte = pa(0) | PTE_ALL | PTE_NX;
	frames[0][0] = 0x1111;
	frames[1][0] = 0x2222;
	start_phase(1);
	for (unsigned i = 0; i < 300 && running; i++) {
		unsigned next = (i + 1) & 1;

		frames[next][0] = next ? 0x2222 : 0x1111;
		*pte = pa(next) | PTE_ALL | PTE_NX;
		shoot();
		frames[next ^ 1][0] = 0xbad;
		for (unsigned n = 0; n < 2000; n++)
			cpu_relax();
	}
	check_equal("the other CPU still reads", running, 1);
	end_phase(1);
	check_equal("it never saw what was replaced", other_wrong, 0);
	check_equal("and ended as it should", other_vector, 0x82);
	check_equal("with what is there now", other_rax, 0x1111);
	/* It executes what is changed: numbers that only grow. */
	map(CODE, pa(8), PTE_UX);
	put_return((u8 *)frames[8], 1);
	start_phase(2);
	for (u32 i = 2; i < 400 && running; i++) {
		*(volatile u32 *)((u8 *)frames[8] + 1) = i;
		for (unsigned n = 0; n < 2000; n++)
			cpu_relax();
	}
	check_equal("the other CPU still runs", running, 1);
	wrong = *(volatile u32 *)((u8 *)frames[8] + 1);
	end_phase(2);
	check_equal("numbers never went back", other_wrong, 0);
	check_equal("and it ended as it should", other_vector, 0x82);
	check_equal("with the last code", other_rax, wrong);
}

int main(void)
{
	native_enable();
	native_map(user_first, user_last);
	for (unsigned n = 0; n < 2; n++) {
		use_selectors(n);
		permissions();
		accessed_and_dirty();
		remaps(by_invlpg);
		remaps(by_cr3);
		address_spaces();
		many_pages();
		code_changes();
		sensitive_places();
	}
	two_cpus();
	return (int)failures;
}
