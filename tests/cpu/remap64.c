/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jumps, calls, returns and straight code into pages whose mapping changes between two runs, with every way to
 * flush a translation (SDM 3A 4.10.4.1), in one address space and over several, with and without PCIDs.
 */
#include "codegen.h"
#include "flush.h"
#include "paging.h"
#include "snippet.h"

#define WINDOW 0x1a0000ull    /* what callers jump to */
#define NEXT 0x1a1000ull      /* what its code runs on into */
#define FAR_AWAY 0x1a4000ull  /* what its code jumps to */
#define SPACE 0x8000000000ull /* what address spaces differ in */
#define FRAMES 6
#define ROUNDS 200

static u8 frames[FRAMES][4096] __attribute__((aligned(4096)));
static u8 outside[4096] __attribute__((aligned(4096)));
static u64 window_flags;

static u32 value_of(unsigned frame)
{
	return 0x1001 * (frame + 1);
}

static volatile u64 *pte_of(u64 va)
{
	return &page_table[va >> 12];
}

static void map(u64 va, unsigned frame)
{
	*pte_of(va) = (u64)frames[frame] | PTE_ALL | window_flags;
}

/* In each frame: +0 adds its value to EAX and returns; +100 jumps on; +200 calls RDI first; +ff0 runs over the end. */
static void make_frames(void)
{
	for (unsigned i = 0; i < FRAMES; i++) {
		u8 *f = frames[i], *p;

		put_ret(put(put(f, 0x05, 1), value_of(i), 4));
		/* Relative to the window, where it will run. */
		put(put(f + 0x100, 0xe9, 1), FAR_AWAY - (WINDOW + 0x105), 4);
		p = put(f + 0x200, 0xd7ff, 2); /* call *%rdi */
		put_return(p, value_of(i));
		p = put(put(f + 0xff0, 0x05, 1), value_of(i), 4);
		while (p < f + 4096)
			p = put(p, 0x90, 1);
	}
}

/* ---- ways in ---- */

enum { CALL, JMP, JCC, JMP_REG, CALL_REG, RET, CALL_MEM, CHAIN, RUN_ON, WAYS };
static u8 *entry[WAYS];
static u32 window_pointer[2] = { WINDOW, 0 };

static u8 *put_branch(u8 *p, u64 opcode, unsigned length, u64 target)
{
	p = put(p, opcode, length);
	return put(p, target - ((u64)p + 4), 4);
}

static void make_callers(void)
{
	u8 *p = outside;

	for (unsigned i = 0; i < WAYS; i++) {
		entry[i] = p;
		p = put(p, 0xc031, 2); /* xor %eax, %eax */
		switch (i) {
		case CALL: p = put_ret(put_branch(p, 0xe8, 1, WINDOW)); break;
		case JMP: p = put_branch(p, 0xe9, 1, WINDOW); break;
		case JCC: p = put(put_branch(p, 0x840f, 2, WINDOW), 0x0b0f, 2); break;
		case JMP_REG: p = put(put(put(p, 0xb9, 1), WINDOW, 4), 0xe1ff, 2); break;
		case CALL_REG: p = put_ret(put(put(put(p, 0xb9, 1), WINDOW, 4), 0xd1ff, 2)); break;
		case RET: p = put_ret(put(put(p, 0x68, 1), WINDOW, 4)); break;
		case CALL_MEM: p = put_ret(put(put(p, 0x2514ff, 3), (u64)window_pointer, 4)); break;
		case CHAIN: p = put_branch(p, 0xe9, 1, WINDOW + 0x100); break;
		default: p = put_branch(p, 0xe9, 1, WINDOW + 0xff0); break;
		}
	}
}

/* How many ways in lead to other code than is mapped now. */
static u32 stale(unsigned frame, unsigned far, unsigned next)
{
	u32 wrong = 0;

	for (unsigned way = 0; way < WAYS; way++) {
		u32 want = way == CHAIN    ? value_of(far)
			   : way == RUN_ON ? value_of(frame) + value_of(next)
					   : value_of(frame);

		wrong += (u32)call(entry[way]) != want;
	}
	return wrong;
}

/* ---- remapped between two runs ---- */

static void result(const char *what, const char *how, const char *where, u32 wrong)
{
	print(wrong ? "not ok " : "ok ");
	print(what);
	print(", ");
	print(how);
	print(where);
	print("\n");
	failures += wrong != 0;
}

static void remapped(const char *where, bool global)
{
	window_flags = global ? PTE_G : 0;
	for (unsigned n = 0; n < FLUSHES; n++) {
		const struct flush *f = &flushes[n];
		u32 wrong = 0;

		if (!flush_usable(f, global))
			continue;
		for (unsigned i = 0; i < ROUNDS; i++) {
			unsigned frame = i % FRAMES, far = (i / 2 + 1) % FRAMES, next = (i + 3) % FRAMES;

			map(WINDOW, frame);
			map(FAR_AWAY, far);
			map(NEXT, next);
			f->flush(WINDOW + 0x123);
			f->flush(NEXT);
			f->flush(FAR_AWAY + 0xfff);
			wrong += stale(frame, far, next);
			wrong += stale(frame, far, next);
		}
		result(global ? "global pages remapped" : "pages remapped", f->name, where, wrong);
	}
	window_flags = 0;
	by_pge(0);
}

/* ---- the page goes away under the code that runs in it ---- */

static unsigned new_frame;
static void remap_window(void)
{
	map(WINDOW, new_frame);
	invlpg((void *)WINDOW);
}
static void remap_by_cr3(void)
{
	map(WINDOW, new_frame);
	by_cr3(0);
}

static void returns_into_remapped(void)
{
	static const struct {
		const char *name;
		void (*remap)(void);
	} rows[] = { { "INVLPG", remap_window }, { "MOV CR3", remap_by_cr3 } };

	for (unsigned row = 0; row < 2; row++) {
		u32 wrong = 0;

		for (unsigned i = 0; i < 2 * ROUNDS; i++) {
			map(WINDOW, i % FRAMES);
			invlpg((void *)WINDOW);
			new_frame = (i * 5 + 1) % FRAMES;
			wrong += (u32)call3((u8 *)WINDOW + 0x200, (u64)rows[row].remap, 0, 0) != value_of(new_frame);
		}
		result("RET into a page remapped by the called", rows[row].name, "", wrong);
	}
}

/* mov %rsi, (%rdi); FLUSH; mov $frame, %eax; ret: what is behind the flush comes from the new page. */
static void flushes_itself(void)
{
	volatile u64 *pte = pte_of(WINDOW);
	u32 wrong[2] = { 0 };

	for (unsigned i = 0; i < FRAMES; i++) {
		put_return(put(frames[i] + 0x300, 0x3a010f378948, 6), value_of(i));             /* invlpg (%rdx) */
		put_return(put(put(frames[i] + 0x340, 0x378948, 3), 0xda220f, 3), value_of(i)); /* mov %rdx, %cr3 */
	}
	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		unsigned to = (i * 5 + 1) % FRAMES;
		u64 entry_of_it = (u64)frames[to] | PTE_ALL;

		map(WINDOW, i % FRAMES);
		invlpg((void *)WINDOW);
		wrong[0] += (u32)call3((u8 *)WINDOW + 0x300, (u64)pte, entry_of_it, WINDOW) != value_of(to);
		map(WINDOW, i % FRAMES);
		invlpg((void *)WINDOW);
		wrong[1] += (u32)call3((u8 *)WINDOW + 0x340, (u64)pte, entry_of_it, (u64)pml4) != value_of(to);
	}
	check_equal("code that remaps its own page, INVLPG", wrong[0], 0);
	check_equal("code that remaps its own page, MOV CR3", wrong[1], 0);
}

/* movabs over the page end: either page is exchanged. */
static void straddling(void)
{
	u32 wrong = 0;

	for (unsigned i = 0; i < FRAMES; i++) {
		put(put(frames[i] + 0xffb, 0xb848, 2), 0x111111 * (i + 1), 3);
		put_ret(put(frames[i] + 0, 0x0101010101 * (i + 1), 5));
	}
	for (unsigned i = 0; i < 3 * ROUNDS; i++) {
		unsigned first = i / 3 % FRAMES, second = i % FRAMES;

		map(WINDOW, first);
		map(NEXT, second);
		invlpg((void *)WINDOW);
		invlpg((void *)NEXT);
		wrong +=
			call((u8 *)WINDOW + 0xffb) != ((0x0101010101ull * (second + 1)) << 24 | 0x111111 * (first + 1));
	}
	check_equal("an instruction over the end of a remapped page", wrong, 0);
	make_frames();
}

/* ---- the right to execute goes away ---- */

static u32 refused(enum mode mode, u64 entry_now, u64 error)
{
	u32 wrong = 0;

	map(WINDOW, 0);
	invlpg((void *)WINDOW);
	for (unsigned way = 0; way < CHAIN; way++)
		wrong += (u32)call(entry[way]) != value_of(0);
	*pte_of(WINDOW) = entry_now;
	invlpg((void *)WINDOW);
	for (unsigned way = 0; way < CHAIN; way++) {
		exec(mode, (char *)entry[way], 0, 0);
		wrong += got.vector != 14 || got.error != error || got.rip != WINDOW || last.cr2 != WINDOW;
	}
	return wrong;
}

SNIPPET(call_window, "xor %eax, %eax; mov $0x1a0000, %ecx; call *%rcx");

static void permissions(void)
{
	u64 whole = (u64)frames[0] | PTE_ALL;
	u32 gone = 0, nx = 0, supervisor = 0, back = 0;

	for (unsigned i = 0; i < 20; i++)
		for (enum mode mode = KERNEL64; mode <= USER64; mode++) {
			u64 user = mode == USER64 ? 4 : 0;

			gone += refused(mode, whole & ~PTE_P, 0x10 | user);
			nx += refused(mode, whole | PTE_NX, 0x11 | user);
			if (user)
				supervisor += refused(mode, whole & ~PTE_U, 0x15);
			*pte_of(WINDOW) = whole;
			invlpg((void *)WINDOW);
			exec(mode, call_window, 0, 0);
			back += got.vector != 0x80 || got.rax != value_of(0);
		}
	check_equal("known code whose page is gone", gone, 0);
	check_equal("known code whose page is not executable any more", nx, 0);
	check_equal("known code whose page is the supervisor's now", supervisor, 0);
	check_equal("and back again", back, 0);
}

/* ---- several address spaces ---- */

#define SPACES 24
static u64 *root[SPACES];
static u8 space_code[SPACES][4096] __attribute__((aligned(4096)));
static u64 space_data[SPACES][512] __attribute__((aligned(4096)));

static u64 space_value(unsigned n)
{
	return 0x100 * n + 0x5a + ((u64)n << 32);
}

/* At SPACE: mov $code, %eax; add data(%rip), %rax; ret. At SPACE + 0x40 the same behind MOV CR3. */
static void make_spaces(void)
{
	for (unsigned n = 0; n < SPACES; n++) {
		u8 *p = put_value(space_code[n], 0x100 * n);

		p = put(put(p, 0x050348, 3), 0x1000 - (5 + 7), 4);
		put_ret(p);
		p = put_value(put(space_code[n] + 0x40, 0xdf220f, 3), 0x100 * n); /* mov %rdi, %cr3 */
		p = put(put(p, 0x050348, 3), 0x1000 - (0x40 + 3 + 5 + 7), 4);
		put_ret(p);
		space_data[n][0] = 0x5a + ((u64)n << 32);
		root[n] = address_space();
		*pte_at(root[n], SPACE, 1) = (u64)space_code[n] | PTE_ALL;
		*pte_at(root[n], SPACE + 0x1000, 1) = (u64)space_data[n] | PTE_ALL;
	}
}

static u64 visit(u64 cr3)
{
	u64 value, back = READ_REG(cr3);

	if (READ_REG(cr4) & CR4_PCIDE)
		back |= CR3_KEEP;
	WRITE_REG(cr3, cr3);
	value = call((u8 *)SPACE);
	WRITE_REG(cr3, back);
	return value;
}

static void two_spaces(void)
{
	u32 wrong = 0;

	for (unsigned i = 0; i < 600; i++)
		wrong += visit((u64)root[i % 2]) != space_value(i % 2);
	check_equal("two address spaces without PCIDs", wrong, 0);
	for (unsigned i = 0; i < SPACES * 4; i++)
		wrong += visit((u64)root[i % SPACES]) != space_value(i % SPACES);
	check_equal("many address spaces without PCIDs", wrong, 0);
	WRITE_REG(cr3, root[0]);
	for (unsigned i = 1; i < 600; i++)
		wrong += call3((u8 *)SPACE + 0x40, (u64)root[i % 3], 0, 0) != space_value(i % 3);
	WRITE_REG(cr3, pml4);
	check_equal("MOV CR3 in code that differs", wrong, 0);
}

static u64 tagged(unsigned n, bool keep)
{
	return (u64)root[n] | (n + 1) | (keep ? CR3_KEEP : 0);
}

static void spaces_with_pcids(void)
{
	u32 wrong = 0;

	for (unsigned i = 0; i < SPACES; i++)
		wrong += visit(tagged(i, false)) != space_value(i);
	for (unsigned i = 0; i < 600; i++)
		wrong += visit(tagged(i % 2, i % 5 != 0)) != space_value(i % 2);
	check_equal("two PCIDs, most loads keep", wrong, 0);
	for (unsigned i = 0; i < SPACES * 10; i++)
		wrong += visit(tagged(i * 7 % SPACES, true)) != space_value(i * 7 % SPACES);
	check_equal("many PCIDs, all loads keep", wrong, 0);
	WRITE_REG(cr3, tagged(0, true));
	for (unsigned i = 1; i < 600; i++)
		wrong += call3((u8 *)SPACE + 0x40, tagged(i % 3, i % 4 != 0), 0, 0) != space_value(i % 3);
	WRITE_REG(cr3, (u64)pml4 | pcid);
	check_equal("MOV CR3 in code that differs, PCIDs", wrong, 0);
	wrong = 0;
	for (unsigned i = 0; i < 100; i++) /* the same PCID for another space: the load must flush */
		wrong += visit((u64)root[i % 4] | 0x800) != space_value(i % 4);
	check_equal("one PCID for several address spaces", wrong, 0);
	for (unsigned i = 0; i < SPACES; i++)
		wrong += visit(tagged(i, false)) != space_value(i);
}

/* A sleeping space is changed, flushed by its PCID, and woken by a load that keeps. */
static void change_sleeping(unsigned type)
{
	static const char *const names[] = { "INVPCID of an address", "INVPCID of a PCID", "INVPCID of all",
					     "INVPCID of all but global" };
	u32 wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		unsigned n = i % 5, other = (i * 3 + 1) % SPACES;

		wrong += visit(tagged(n, true)) != space_value(n);
		*pte_at(root[n], SPACE, 1) = (u64)space_code[other] | PTE_ALL;
		*pte_at(root[n], SPACE + 0x1000, 1) = (u64)space_data[other] | PTE_ALL;
		invpcid(type, type < 2 ? n + 1 : 0, SPACE);
		if (type == 0)
			invpcid(type, n + 1, SPACE + 0x1000);
		wrong += visit(tagged(n, true)) != space_value(other);
		*pte_at(root[n], SPACE, 1) = (u64)space_code[n] | PTE_ALL;
		*pte_at(root[n], SPACE + 0x1000, 1) = (u64)space_data[n] | PTE_ALL;
		wrong += visit(tagged(n, false)) != space_value(n);
	}
	result("a sleeping address space changed", names[type], "", wrong);
}

/* ---- larger pieces ---- */

static void swap(volatile u64 *a, volatile u64 *b)
{
	u64 v = *a;

	*a = *b;
	*b = v;
}

/* Two regions exchange an entry at a level of the tables. */
static void upper_levels(void)
{
	static const u64 apart[] = { 0, 0x1000, PAGE_2M, PAGE_1G, 512 * PAGE_1G };
	static const char *const names[] = { "", "PTEs", "PDEs", "PDPTEs", "PML4Es" };

	for (unsigned level = 1; level <= 4; level++) {
		u64 a = 0x10000000000 * level, b = a + apart[level];
		u32 wrong = 0;

		*pte_at(pml4, a, 1) = (u64)space_code[1] | PTE_ALL;
		*pte_at(pml4, b, 1) = (u64)space_code[2] | PTE_ALL;
		put_return(space_code[1] + 0x80, 1);
		put_return(space_code[2] + 0x80, 2);
		for (unsigned i = 0; i < ROUNDS; i++) {
			wrong += (u32)call((u8 *)a + 0x80) != 1 + i % 2;
			wrong += (u32)call((u8 *)b + 0x80) != 2 - i % 2;
			swap(pte_at(pml4, a, level), pte_at(pml4, b, level));
			if (i % 3) {
				invlpg((void *)a);
				invlpg((void *)b);
			} else {
				by_cr3(0);
			}
		}
		result("exchanged", names[level], "", wrong);
	}
}

/* Pages of 2 MiB that exchange their frames; INVLPG anywhere in them. */
static void large_pages(void)
{
	u64 a = 0x60000000000, b = a + PAGE_2M, low = 0x8000000, high = low + PAGE_2M, seed = 5;
	volatile u64 *pa = pte_at(pml4, a, 2), *pb = pte_at(pml4, b, 2);
	u32 wrong = 0;

	*pa = low | PTE_ALL | PTE_PS;
	*pb = high | PTE_ALL | PTE_PS;
	for (unsigned n = 0; n < 16; n++) {
		put_return((u8 *)low + n * 0x1f040, 2 * n);
		put_return((u8 *)high + n * 0x1f040, 2 * n + 1);
	}
	for (unsigned i = 0; i < ROUNDS; i++) {
		for (unsigned n = 0; n < 16; n++) {
			wrong += (u32)call((u8 *)a + n * 0x1f040) != 2 * n + i % 2;
			wrong += (u32)call((u8 *)b + n * 0x1f040) != 2 * n + 1 - i % 2;
		}
		swap(pa, pb);
		invlpg((u8 *)a + random64(&seed) % PAGE_2M);
		invlpg((u8 *)b + random64(&seed) % PAGE_2M);
	}
	check_equal("code in exchanged pages of 2 MiB", wrong, 0);
}

int main(void)
{
	make_frames();
	make_callers();
	cr4_set(CR4_PGE);
	remapped("", false);
	remapped("", true);
	returns_into_remapped();
	flushes_itself();
	straddling();
	permissions();
	make_spaces();
	two_spaces();
	upper_levels();
	large_pages();
	if (HAS_PCID) {
		cr4_set(CR4_PCIDE);
		pcid = 0xabc;
		by_cr3(0);
		remapped(", PCIDs on", false);
		remapped(", PCIDs on", true);
		spaces_with_pcids();
		for (unsigned type = 0; type < 4 && HAS_INVPCID; type++)
			change_sleeping(type);
		pcid = 0;
		by_cr3(0);
		cr4_clear(CR4_PCIDE);
	} else {
		print("skip PCID\n");
	}
	return (int)failures;
}
