/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must hold of translations (SDM 3A 4.6 to 4.10): none that was flushed is used, rights and protection keys
 * count at once, accessed and dirty bits are set when they must be and not otherwise.
 */
#include "flush.h"
#include "snippet.h"

#define PLACE 0x10000000000ull /* the page under test, with tables of its own */
#define FRAMES 4
#define LOW 0x8000000ull /* where RAM for large pages is */

static u8 frames[FRAMES][4096] __attribute__((aligned(4096)));

static void report(const char *what, const char *how, const char *where, u32 wrong)
{
	print(wrong ? "not ok " : "ok ");
	print(what);
	print(", ");
	print(how);
	print(where);
	print("\n");
	failures += wrong != 0;
}

/* ---- accesses ---- */

SNIPPET(do_read, "mov (%rdi), %rax");
SNIPPET(do_write, "mov %rsi, (%rdi)");
SNIPPET(do_rmw, "lock add %rsi, (%rdi)");
SNIPPET(do_fetch, "call *%rdi");

#define ACCESSES(X)                                                                                                    \
	X(mov_load, 0, "mov (%rdi), %rax")                                                                             \
	X(mov_byte, 0, "movzbl (%rdi), %eax")                                                                          \
	X(test, 0, "test %eax, (%rdi)")                                                                                \
	X(bt, 0, "mov $77, %eax; bt %rax, (%rdi)")                                                                     \
	X(movups_load, 0, "movups (%rdi), %xmm0")                                                                      \
	X(paddd, 0, "movaps (%rdi), %xmm0; paddd 16(%rdi), %xmm0")                                                     \
	X(lodsb, 0, "mov %rdi, %rsi; lodsb")                                                                           \
	X(rep_cmpsb, 0, "mov %rdi, %rsi; mov $16, %ecx; repe cmpsb")                                                   \
	X(fld, 0, "fldl (%rdi); fstp %st")                                                                             \
	X(pop, 0, "mov %rsp, %rdx; mov %rdi, %rsp; pop %rax; mov %rdx, %rsp")                                          \
	X(cmp_mem, 0, "cmpq $1, (%rdi)")                                                                               \
	X(mov_store, 1, "mov %rsi, (%rdi)")                                                                            \
	X(mov_store_byte, 1, "movb $1, 4095(%rdi)")                                                                    \
	X(add_mem, 1, "addl $1, (%rdi)")                                                                               \
	X(lock_or, 1, "lock orl $1, (%rdi)")                                                                           \
	X(xchg, 1, "xchg %rsi, (%rdi)")                                                                                \
	X(cmpxchg_equal, 1, "mov (%rdi), %rax; lock cmpxchg %rsi, (%rdi)")                                             \
	X(cmpxchg_other, 1, "mov (%rdi), %rax; not %rax; lock cmpxchg %rsi, (%rdi)")                                   \
	X(bts, 1, "mov $77, %eax; bts %rax, (%rdi)")                                                                   \
	X(stosb, 1, "stosb")                                                                                           \
	X(rep_stosq, 1, "mov $8, %ecx; rep stosq")                                                                     \
	X(rep_movsb, 1, "mov %rsp, %rsi; mov $16, %ecx; rep movsb")                                                    \
	X(push, 1, "mov %rsp, %rdx; lea 64(%rdi), %rsp; push %rsi; mov %rdx, %rsp")                                    \
	X(call, 1, "mov %rsp, %rdx; lea 64(%rdi), %rsp; call 1f; 1: mov %rdx, %rsp")                                   \
	X(movups_store, 1, "movups %xmm0, (%rdi)")                                                                     \
	X(movntdq, 1, "movntdq %xmm0, (%rdi)")                                                                         \
	X(fstp, 1, "fldpi; fstpl (%rdi)")                                                                              \
	X(fxsave, 1, "fxsave64 (%rdi)")                                                                                \
	X(sidt, 1, "sidt (%rdi)")
#define X(name, writes, text) SNIPPET(access_##name, text);
ACCESSES(X)
#undef X

/* ---- flushed translations are not used ---- */

/*
 * Alternately two frames behind one page. In each, at eight places, two words that say which frame it is and when it
 * was written last; in between nothing touches the frames through another address, which might displace the TLB's
 * entries.
 */
static u32 alternate(const struct flush *f, volatile u64 *entry, u64 attributes, u64 first, u64 second, u64 size)
{
	u64 seed = 9, frame[2] = { first, second }, step = size / 8;
	u32 wrong = 0;

	for (unsigned n = 0; n < 16; n++) {
		volatile u64 *p = (volatile u64 *)(frame[n % 2] + n / 2 * step + 64);

		p[0] = n;
		p[1] = n % 2;
	}
	by_pge(0); /* the size of the page may have changed */
	for (unsigned i = 0; i < 40; i++) {
		*entry = frame[i % 2] | attributes;
		f->flush(PLACE + (size > 4096 ? random64(&seed) % size : 0));
		for (unsigned n = 0; n < 8; n++) {
			volatile u64 *p = (volatile u64 *)(PLACE + n * step + 64);

			wrong += p[0] != 2 * n + i % 2;
			wrong += p[1] != (i < 2 ? i : i - 2);
			p[1] = i + 1;
			__asm__ volatile("lock subq $1, %0" : "+m"(p[1]));
		}
	}
	return wrong;
}

static u64 ram_size(void)
{
	u64 size = 0;

	outw(0x510, 3); /* fw_cfg: RAM_SIZE */
	for (unsigned i = 0; i < 8; i++)
		size |= (u64)inb(0x511) << 8 * i;
	return size;
}

static void flushed(const char *where, bool global)
{
	u64 g = global ? PTE_G : 0;
	volatile u64 *large = pte_at(pml4, PLACE, 2), *huge = pte_at(pml4, PLACE, 3);
	u64 pde = *large, pdpte = *huge;

	for (unsigned n = 0; n < FLUSHES; n++) {
		const struct flush *f = &flushes[n];

		if (!flush_usable(f, global))
			continue;
		report(global ? "a global page of 4 KiB" : "a page of 4 KiB", f->name, where,
		       alternate(f, pte_at(pml4, PLACE, 1), PTE_ALL | g, (u64)frames[0], (u64)frames[1], 4096));
		report(global ? "a global page of 2 MiB" : "a page of 2 MiB", f->name, where,
		       alternate(f, large, PTE_ALL | PTE_PS | g, LOW, LOW + PAGE_2M, PAGE_2M));
		*large = pde;
		by_pge(0);
		if (!HAS_1G_PAGES || ram_size() < 0x90000000)
			continue;
		report(global ? "a global page of 1 GiB" : "a page of 1 GiB", f->name, where,
		       alternate(f, huge, PTE_ALL | PTE_PS | g, 0, PAGE_1G, PAGE_1G));
		*huge = pdpte;
		by_pge(0);
	}
}

/* More pages than any TLB holds, all moved and then flushed at once. */
static void many_pages(void)
{
	enum { PAGES = 3000 };

	for (unsigned n = 0; n < FLUSHES; n++) {
		const struct flush *f = &flushes[n];
		u32 wrong = 0;

		if (!flush_usable(f, false) || f->flush == by_address || f->flush == by_invlpg)
			continue;
		for (unsigned round = 0; round < 4; round++) {
			for (u64 i = 0; i < PAGES; i++)
				*pte_at(pml4, PLACE + i * 4096, 1) = (u64)frames[(i + round) % FRAMES] | PTE_ALL;
			f->flush(0);
			for (unsigned i = 0; i < FRAMES; i++)
				*(volatile u64 *)frames[i] = i;
			for (u64 i = 0; i < PAGES; i++)
				wrong += *(volatile u64 *)(PLACE + i * 4096) != (i + round) % FRAMES;
		}
		report("thousands of pages moved", f->name, "", wrong);
	}
}

/* No flush is needed to make a page present, and a fault for lack of rights that are there now is not repeated. */
static void more_rights(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u64 whole = (u64)frames[0] | PTE_ALL;
	u32 absent = 0, refused = 0;

	for (unsigned i = 0; i < 50; i++) {
		*pte = 0;
		invlpg((void *)PLACE);
		absent += exec(KERNEL64, i & 1 ? do_read : do_write, PLACE, 0) != 14;
		*pte = whole;
		absent += exec(KERNEL64, i & 1 ? do_read : do_write, PLACE, 0) != 0x80;

		*pte = whole & ~PTE_W;
		invlpg((void *)PLACE);
		refused += exec(KERNEL64, do_read, PLACE, 0) != 0x80;
		refused += exec(KERNEL64, do_write, PLACE, 0) != 14;
		*pte = whole;
		if (exec(KERNEL64, do_write, PLACE, 0) != 0x80)
			refused += exec(KERNEL64, do_write, PLACE, 0) != 0x80;
	}
	check_equal("a page that becomes present needs no flush", absent, 0);
	check_equal("a page that becomes writable faults once at most", refused, 0);
}

/* ---- accessed and dirty ---- */

static bool bits_are(u64 entry, u64 bits)
{
	return (entry & (PTE_A | PTE_D)) == bits;
}

static void accessed_dirty(void)
{
#define X(name, writes, text) { #name, access_##name, writes },
	static const struct {
		const char *name, *code;
		bool writes;
	} rows[] = { ACCESSES(X) };
#undef X
	volatile u64 *pte = pte_at(pml4, PLACE, 1);

	for (unsigned row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
		u64 after = rows[row].writes ? PTE_A | PTE_D : PTE_A;
		u32 wrong = 0;

		for (unsigned i = 0; i < 6; i++) {
			enum mode mode = i & 1 ? USER64 : KERNEL64;

			*pte = (u64)frames[0] | PTE_ALL;
			invlpg((void *)PLACE);
			wrong += exec(mode, rows[row].code, PLACE, 5) != 0x80 || !bits_are(*pte, after);
			/* D alone, known for reading. */
			exec(mode, do_read, PLACE, 0);
			*pte = (u64)frames[0] | PTE_ALL | PTE_A;
			invlpg((void *)PLACE);
			exec(mode, do_read, PLACE, 0);
			wrong += exec(mode, rows[row].code, PLACE, 5) != 0x80 || !bits_are(*pte, after);
		}
		report("accessed and dirty", rows[row].name, "", wrong);
	}
}

static void accessed_tables(void)
{
	volatile u64 *entry[5];
	u32 wrong = 0, faulting = 0, both = 0, code = 0;

	for (unsigned level = 1; level <= 4; level++)
		entry[level] = pte_at(pml4, PLACE, level);
	*entry[1] = (u64)frames[0] | PTE_ALL;
	for (unsigned i = 0; i < 20; i++) {
		for (unsigned level = 1; level <= 4; level++)
			*entry[level] &= ~(PTE_A | PTE_D);
		invlpg((void *)PLACE);
		exec(i & 2 ? KERNEL64 : USER64, i & 1 ? do_read : do_write, PLACE, 0);
		wrong += !bits_are(*entry[1], i & 1 ? PTE_A : PTE_A | PTE_D);
		for (unsigned level = 2; level <= 4; level++)
			wrong += !(*entry[level] & PTE_A);

		/* A write that is refused leaves D alone. */
		*entry[1] = (u64)frames[0] | PTE_P | PTE_U;
		invlpg((void *)PLACE);
		faulting += exec(KERNEL64, do_rmw, PLACE, 0) != 14 || (*entry[1] & PTE_D);
		faulting += exec(USER64, do_write, PLACE, 0) != 14 || (*entry[1] & PTE_D);

		/* A store over the end of a page is one to both. */
		*entry[1] = (u64)frames[0] | PTE_ALL;
		*pte_at(pml4, PLACE + 4096, 1) = (u64)frames[1] | PTE_ALL;
		invlpg((void *)PLACE);
		invlpg((void *)(PLACE + 4096));
		exec(KERNEL64, do_write, PLACE + 4096 - 1 - i % 7, 0);
		both += !bits_are(*entry[1], PTE_A | PTE_D);
		both += !bits_are(*pte_at(pml4, PLACE + 4096, 1), PTE_A | PTE_D);

		/* Executed before and known, but the translation was flushed. */
		frames[0][0] = 0xc3;
		*entry[1] = (u64)frames[0] | PTE_ALL;
		invlpg((void *)PLACE);
		code += exec(i & 1 ? USER64 : KERNEL64, do_fetch, PLACE, 0) != 0x80 || !bits_are(*entry[1], PTE_A);
	}
	check_equal("accessed and dirty of all levels", wrong, 0);
	check_equal("a refused write is not dirty", faulting, 0);
	check_equal("a store over a page end makes both dirty", both, 0);
	check_equal("executed code is accessed, not dirty", code, 0);
}

static void accessed_large(void)
{
	volatile u64 *pde = pte_at(pml4, PLACE, 2);
	u64 saved = *pde, seed = 3;
	u32 wrong = 0;

	*pde = LOW | PTE_ALL | PTE_PS;
	by_pge(0); /* no pages of 4 KiB any more */
	for (unsigned i = 0; i < 40; i++) {
		*pde = LOW | PTE_ALL | PTE_PS;
		invlpg((void *)(PLACE + random64(&seed) % PAGE_2M));
		exec(KERNEL64, do_read, PLACE + random64(&seed) % 500 * 4096, 0);
		wrong += !bits_are(*pde, PTE_A);
		exec(KERNEL64, do_write, PLACE + random64(&seed) % 500 * 4096, 0);
		wrong += !bits_are(*pde, PTE_A | PTE_D);
	}
	*pde = saved;
	by_pge(0);
	check_equal("accessed and dirty of a page of 2 MiB", wrong, 0);
}

/* One REP MOVSB through several pages. */
static void accessed_strings(void)
{
	u64 from = PLACE + PAGE_1G + 1, to = PLACE + 5, count = FRAMES * 4096 - 5;
	u32 wrong = 0;

	for (u64 i = 0; i < FRAMES; i++) {
		*pte_at(pml4, PLACE + i * 4096, 1) = (u64)frames[i] | PTE_ALL;
		*pte_at(pml4, PLACE + PAGE_1G + i * 4096, 1) = LOW + i * 4096 + PTE_ALL;
		invlpg((void *)(PLACE + i * 4096));
		invlpg((void *)(PLACE + PAGE_1G + i * 4096));
	}
	__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count)::"memory");
	for (u64 i = 0; i < FRAMES; i++) {
		wrong += !bits_are(*pte_at(pml4, PLACE + i * 4096, 1), PTE_A | PTE_D);
		wrong += !bits_are(*pte_at(pml4, PLACE + PAGE_1G + i * 4096, 1), PTE_A);
	}
	check_equal("accessed and dirty of the pages of a REP MOVSB", wrong, 0);
}

/* ---- rights that control registers change ---- */

static u64 fault(enum mode mode, const char *code)
{
	return fault_of(mode, code, PLACE, 0);
}

static void write_protect(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u64 cr0 = READ_REG(cr0);
	u32 wrong = 0;

	*pte = (u64)frames[0] | PTE_P | PTE_U;
	invlpg((void *)PLACE);
	for (unsigned i = 0; i < 100; i++) {
		const char *code = i & 1 ? do_write : do_rmw;

		WRITE_REG(cr0, cr0 & ~(u64)CR0_WP);
		wrong += fault(KERNEL64, code) != DONE;
		wrong += fault(USER64, code) != FAULT(14, 7);
		WRITE_REG(cr0, cr0 | CR0_WP);
		wrong += fault(KERNEL64, code) != FAULT(14, 3);
		wrong += fault(KERNEL64, do_read) != DONE;
	}
	WRITE_REG(cr0, cr0);
	check_equal("CR0.WP takes effect at once", wrong, 0);
	check("a write without WP makes dirty", bits_are(*pte, PTE_A | PTE_D));
}

static void rights(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u64 whole = (u64)frames[0] | PTE_ALL;
	u32 supervisor = 0, nx = 0, reserved = 0, upper = 0;

	for (unsigned i = 0; i < 50; i++) {
		frames[0][0] = 0xc3;
		*pte = whole;
		invlpg((void *)PLACE);
		supervisor += fault(USER64, do_read) != DONE;
		*pte = whole & ~PTE_U;
		invlpg((void *)PLACE);
		supervisor += fault(USER64, do_read) != FAULT(14, 5) || fault(USER64, do_rmw) != FAULT(14, 7);
		supervisor += fault(KERNEL64, do_rmw) != DONE;

		*pte = whole | PTE_NX;
		invlpg((void *)PLACE);
		nx += fault(KERNEL64, do_read) != DONE || fault(KERNEL64, do_fetch) != FAULT(14, 0x11);
		nx += fault(USER64, do_fetch) != FAULT(14, 0x15);
		*pte = whole;
		invlpg((void *)PLACE);
		nx += fault(KERNEL64, do_fetch) != DONE || fault(USER64, do_fetch) != DONE;

		*pte = whole | 1ull << 51;
		invlpg((void *)PLACE);
		reserved += fault(KERNEL64, do_read) != FAULT(14, 9) || fault(USER64, do_write) != FAULT(14, 0xf);
		*pte = whole;
		invlpg((void *)PLACE);

		/* The rights are those of all levels together. */
		*pte_at(pml4, PLACE, 2 + i % 3) &= ~PTE_W;
		invlpg((void *)PLACE);
		upper += fault(KERNEL64, do_write) != FAULT(14, 3);
		*pte_at(pml4, PLACE, 2 + i % 3) |= PTE_W;
		*pte_at(pml4, PLACE, 2 + i % 3) &= ~PTE_U;
		invlpg((void *)PLACE);
		upper += fault(KERNEL64, do_write) != DONE || fault(USER64, do_read) != FAULT(14, 5);
		*pte_at(pml4, PLACE, 2 + i % 3) |= PTE_U;
		invlpg((void *)PLACE);
	}
	check_equal("user and supervisor", supervisor, 0);
	check_equal("no execution", nx, 0);
	check_equal("reserved bits", reserved, 0);
	check_equal("rights of upper levels", upper, 0);
}

/* With the program itself in supervisor pages. */
static void set_program_user(bool user)
{
	for (unsigned i = 2; i < 8; i++)
		pd[i] = user ? pd[i] | PTE_U : pd[i] & ~PTE_U;
	by_pge(0);
}

SNIPPET(do_stac, "stac; mov (%rdi), %rax; clac; 1: mov (%rdi), %rax");

static void supervisor_modes(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u32 smep = 0, smap = 0, stac = 0;

	*pte = (u64)frames[0] | PTE_ALL;
	frames[0][0] = 0xc3;
	set_program_user(false);
	for (unsigned i = 0; i < 50 && HAS_SMEP; i++) {
		smep += fault(KERNEL64, do_fetch) != DONE;
		cr4_set(CR4_SMEP);
		smep += fault(KERNEL64, do_fetch) != FAULT(14, 0x11) || fault(KERNEL64, do_read) != DONE;
		cr4_clear(CR4_SMEP);
	}
	for (unsigned i = 0; i < 50 && HAS_SMAP; i++) {
		const char *code = i & 1 ? do_read : do_rmw;
		u64 error = i & 1 ? 1 : 3;

		smap += fault(KERNEL64, code) != DONE;
		cr4_set(CR4_SMAP);
		smap += fault(KERNEL64, code) != FAULT(14, error);
		smap += exec_flags(KERNEL64, code, PLACE, 0, FLAGS_AC | 2) != 0x80;
		smap += fault(KERNEL64, code) != FAULT(14, error);
		smap += fault(KERNEL64, do_fetch) != DONE;
		stac += fault(KERNEL64, do_stac) != FAULT(14, 1) || got.rip - (u64)do_stac != 9;
		cr4_clear(CR4_SMAP);
	}
	set_program_user(true);
	check_equal(HAS_SMEP ? "SMEP takes effect at once" : "no SMEP", smep, 0);
	check_equal(HAS_SMAP ? "SMAP and AC take effect at once" : "no SMAP", smap, 0);
	check_equal(HAS_SMAP ? "STAC and CLAC take effect at once" : "no STAC", stac, 0);
}

/* IA32_PKRS = RSI, access, IA32_PKRS = 0. */
SNIPPET(do_wrpkrs_read,
	"mov %esi, %eax; mov $0x6e1, %ecx; xor %edx, %edx; wrmsr; mov (%rdi), %rbx; xor %eax, %eax; wrmsr");
SNIPPET(do_wrpkrs_write,
	"mov %esi, %eax; mov $0x6e1, %ecx; xor %edx, %edx; wrmsr; mov %rbx, (%rdi); xor %eax, %eax; wrmsr");
SNIPPET(do_open_pkrs, "xor %eax, %eax; mov $0x6e1, %ecx; xor %edx, %edx; wrmsr; mov (%rdi), %rbx; mov %rbx, (%rdi)");

/* Protection keys of pages of the supervisor, which may be global. */
static void supervisor_keys(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u64 cr0 = READ_REG(cr0);
	u32 wrong = 0, wp = 0;

	if (!HAS_PKS) {
		print("skip PKS\n");
		return;
	}
	cr4_set(CR4_PKS);
	for (u64 i = 0; i < 60; i++) {
		unsigned key = 1 + i % 15;
		u64 no_access = 1ull << 2 * key, no_write = 2ull << 2 * key, global = i & 1 ? 0x100 : 0;

		*pte = ((u64)frames[0] | PTE_ALL | global | PTE_PKEY(key)) & ~(u64)PTE_U;
		invlpg((void *)PLACE);
		wrong += fault(KERNEL64, do_open_pkrs) != DONE;
		wrong += fault_of(KERNEL64, do_wrpkrs_read, PLACE, no_access) != FAULT(14, 0x21);
		wrong += fault(KERNEL64, do_open_pkrs) != DONE;
		wrong += fault_of(KERNEL64, do_wrpkrs_write, PLACE, no_access) != FAULT(14, 0x23);
		wrong += fault(KERNEL64, do_open_pkrs) != DONE;
		wrong += fault_of(KERNEL64, do_wrpkrs_read, PLACE, no_write) != DONE;
		wrong += fault_of(KERNEL64, do_wrpkrs_write, PLACE, 0xfffffffc & ~(no_access | no_write)) != DONE;

		/* With WP only. */
		WRITE_REG(cr0, cr0 & ~(u64)CR0_WP);
		wp += fault_of(KERNEL64, do_wrpkrs_write, PLACE, no_write) != DONE;
		WRITE_REG(cr0, cr0);
		wp += fault_of(KERNEL64, do_wrpkrs_write, PLACE, no_write) != FAULT(14, 0x23);
		fault(KERNEL64, do_open_pkrs);
	}
	cr4_clear(CR4_PKS);
	check_equal("IA32_PKRS takes effect at once", wrong, 0);
	check_equal("supervisor protection keys and WP", wp, 0);
}

/* WRPKRU of RSI, access, WRPKRU of 0, access. */
SNIPPET(do_wrpkru_read,
	"mov %esi, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov (%rdi), %rbx; xor %eax, %eax; wrpkru");
SNIPPET(do_wrpkru_write,
	"mov %esi, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov %rbx, (%rdi); xor %eax, %eax; wrpkru");
SNIPPET(do_open, "xor %eax, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov (%rdi), %rbx; mov %rbx, (%rdi)");

static void protection_keys(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u64 cr0 = READ_REG(cr0);
	u32 wrong = 0, wp = 0, off = 0;

	if (!HAS_PKU) {
		print("skip PKU\n");
		return;
	}
	cr4_set(CR4_PKE);
	for (u64 i = 0; i < 60; i++) {
		unsigned key = 1 + i % 15;
		u64 no_access = 1ull << 2 * key, no_write = 2ull << 2 * key, user = i & 1 ? 4 : 0;
		enum mode mode = user ? USER64 : KERNEL64;

		*pte = (u64)frames[0] | PTE_ALL | PTE_PKEY(key);
		invlpg((void *)PLACE);
		wrong += fault(mode, do_open) != DONE;
		wrong += fault_of(mode, do_wrpkru_read, PLACE, no_access) != FAULT(14, 0x21 | user);
		wrong += fault(mode, do_open) != DONE;
		wrong += fault_of(mode, do_wrpkru_write, PLACE, no_access) != FAULT(14, 0x23 | user);
		wrong += fault(mode, do_open) != DONE;
		wrong += fault_of(mode, do_wrpkru_write, PLACE, no_write) != FAULT(14, 0x23 | user);
		wrong += fault(mode, do_open) != DONE;
		wrong += fault_of(mode, do_wrpkru_read, PLACE, no_write) != DONE;
		wrong += fault_of(mode, do_wrpkru_write, PLACE, 0xfffffffc & ~(no_access | no_write)) != DONE;

		/* Writes of the supervisor count with WP only. */
		WRITE_REG(cr0, cr0 & ~(u64)CR0_WP);
		wp += fault_of(KERNEL64, do_wrpkru_write, PLACE, no_write) != DONE;
		WRITE_REG(cr0, cr0);
		wp += fault_of(KERNEL64, do_wrpkru_write, PLACE, no_write) != FAULT(14, 0x23);

		cr4_clear(CR4_PKE);
		off += fault(mode, do_read) != DONE || fault(mode, do_write) != DONE;
		cr4_set(CR4_PKE);
		off += fault(mode, do_write) != FAULT(14, 0x23 | user);
		fault(KERNEL64, do_open);
	}
	cr4_clear(CR4_PKE);
	check_equal("WRPKRU takes effect at once", wrong, 0);
	check_equal("protection keys and WP", wp, 0);
	check_equal("CR4.PKE takes effect at once", off, 0);
}

/* ---- what is refused ---- */

SNIPPET(do_invpcid, "invpcid (%rdi), %rsi");
SNIPPET(do_to_cr3, "mov %rdi, %cr3");
SNIPPET(do_to_cr4, "mov %rdi, %cr4");
SNIPPET(do_to_cr0, "mov %rdi, %cr0");

static void invpcid_is(const char *what, enum mode mode, u64 type, u64 id, u64 va, u64 want)
{
	u64 descriptor[2] = { id, va };

	check_equal(what, fault_of(mode, do_invpcid, (u64)descriptor, type), want);
}

static void refusals(void)
{
	u64 cr3 = READ_REG(cr3), cr4 = READ_REG(cr4), cr0 = READ_REG(cr0);

	invlpg((void *)0x800000000000);
	check("INVLPG of a non-canonical address does nothing", true);
	if (HAS_INVPCID) {
		invpcid_is("INVPCID of a PCID without PCIDE", KERNEL64, 1, 1, 0, FAULT(13, 0));
		invpcid_is("INVPCID of an address without PCIDE", KERNEL64, 0, 1, 0, FAULT(13, 0));
		invpcid_is("INVPCID of PCID 0 without PCIDE", KERNEL64, 1, 0, 0, DONE);
	}
	if (!HAS_PCID)
		return;
	check_equal("MOV CR3 with bit 63, without PCIDE", fault_of(KERNEL64, do_to_cr3, cr3 | CR3_KEEP, 0),
		    FAULT(13, 0));
	WRITE_REG(cr3, cr3 | 0x18);
	check_equal("PCIDE with a PCID in CR3", fault_of(KERNEL64, do_to_cr4, cr4 | CR4_PCIDE, 0), FAULT(13, 0));
	WRITE_REG(cr3, cr3);
	check_equal("PCIDE", fault_of(KERNEL64, do_to_cr4, cr4 | CR4_PCIDE, 0), DONE);
	check_equal("MOV CR3 with bit 63", fault_of(KERNEL64, do_to_cr3, cr3 | CR3_KEEP | 0x123, 0), DONE);
	check_equal("bit 63 is not kept", READ_REG(cr3), cr3 | 0x123);
	check_equal("PG off with PCIDE", fault_of(KERNEL64, do_to_cr0, cr0 & ~(1ull << 31), 0), FAULT(13, 0));
	if (HAS_INVPCID) {
		invpcid_is("INVPCID of type 4", KERNEL64, 4, 0, 0, FAULT(13, 0));
		invpcid_is("INVPCID of type 2^63", KERNEL64, 1ull << 63, 0, 0, FAULT(13, 0));
		invpcid_is("INVPCID of PCID 4096", KERNEL64, 1, 0x1000, 0, FAULT(13, 0));
		invpcid_is("INVPCID with a reserved bit", KERNEL64, 3, 1ull << 63, 0, FAULT(13, 0));
		invpcid_is("INVPCID of a non-canonical address", KERNEL64, 0, 1, 1ull << 62, FAULT(13, 0));
		invpcid_is("INVPCID of a PCID heeds no address", KERNEL64, 1, 0xfff, 1ull << 62, DONE);
		invpcid_is("INVPCID in ring 3", USER64, 2, 0, 0, FAULT(13, 0));
		check_equal("INVPCID of a descriptor that is not there",
			    fault_of(KERNEL64, do_invpcid, 0x7f0000000000, 2), FAULT(14, 0));
	}
	WRITE_REG(cr4, cr4);
	WRITE_REG(cr3, cr3);
}

/* A global page is one for all PCIDs: INVLPG drops it for all. */
static void global_over_pcids(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u32 wrong = 0;

	for (unsigned i = 0; i < FRAMES; i++)
		*(volatile u64 *)frames[i] = 0x1000 + i;
	for (unsigned i = 0; i < 100; i++) {
		*pte = (u64)frames[i % FRAMES] | PTE_ALL | PTE_G;
		invlpg((void *)PLACE);
		for (unsigned id = 1; id < 6; id++) {
			WRITE_REG(cr3, (u64)pml4 | id | CR3_KEEP);
			wrong += *(volatile u64 *)PLACE != 0x1000 + i % FRAMES;
		}
	}
	by_cr3(0);
	check_equal("INVLPG of a global page counts for all PCIDs", wrong, 0);
}

/* Without CR4.PGE the bit means nothing: MOV CR3 flushes. */
static void global_off(void)
{
	volatile u64 *pte = pte_at(pml4, PLACE, 1);
	u32 wrong = 0;

	cr4_clear(CR4_PGE);
	for (unsigned i = 0; i < 50; i++) {
		*pte = (u64)frames[i % FRAMES] | PTE_ALL | PTE_G;
		WRITE_REG(cr3, READ_REG(cr3));
		wrong += *(volatile u64 *)PLACE != 0x1000 + i % FRAMES;
	}
	cr4_set(CR4_PGE);
	check_equal("MOV CR3 with CR4.PGE off flushes global pages", wrong, 0);
}

int main(void)
{
	*pte_at(pml4, PLACE, 1) = (u64)frames[0] | PTE_ALL;
	cr4_set(CR4_PGE);
	flushed("", false);
	flushed("", true);
	many_pages();
	more_rights();
	accessed_dirty();
	accessed_tables();
	accessed_large();
	accessed_strings();
	write_protect();
	rights();
	supervisor_modes();
	supervisor_keys();
	protection_keys();
	refusals();
	for (unsigned i = 0; i < FRAMES; i++)
		*(volatile u64 *)frames[i] = 0x1000 + i;
	global_off();
	if (HAS_PCID) {
		cr4_set(CR4_PCIDE);
		pcid = 0x5a5;
		by_cr3(0);
		flushed(", PCIDs on", false);
		flushed(", PCIDs on", true);
		many_pages();
		global_over_pcids();
	}
	return (int)failures;
}
