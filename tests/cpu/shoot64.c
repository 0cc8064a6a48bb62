/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLB shootdowns: one vCPU changes page tables and asks the others by IPI to flush, while they read, write and
 * execute the pages without pause. When all have answered, nobody may use the old mapping (SDM 3A 4.10.5).
 */
#include "codegen.h"
#include "paging.h"
#include "smp.h"

#define WINDOW 0x1a0000ull
#define LARGE 0x20000000000ull /* a page of 2 MiB */
#define LOW 0x8000000ull       /* frames for it */
#define SPACE 0x30000000000ull /* what two address spaces differ in */
#define VALID 0x11000000u
#define POISON 0xdeadbeefu
#define CR3_KEEP (1ull << 63)
#define VECTOR 0x60

static struct worker {
	volatile u32 seen, passes, faults, wrong;
	volatile u64 resume, error;
	volatile u64 written; /* increments that it made */
} worker[SMP_MAX] __attribute__((aligned(64)));
static u32 vcpus, rounds;
static volatile u32 acks;
static u32 acks_wanted;
static volatile u64 frame[2][512] __attribute__((aligned(4096)));
static volatile u64 *pte;
static u64 *space[2];

/* ---- the others ---- */

static void by_page(void)
{
	invlpg((void *)WINDOW);
}
static void by_cr3(void)
{
	WRITE_REG(cr3, READ_REG(cr3));
}
static void by_pge(void)
{
	u64 cr4 = READ_REG(cr4);

	WRITE_REG(cr4, cr4 ^ CR4_PGE);
	WRITE_REG(cr4, cr4);
}
static u64 large_offset;
static void by_large(void)
{
	invlpg((void *)(LARGE + large_offset));
}
static void (*volatile how)(void);

static bool on_ipi(struct frame *f)
{
	(void)f;
	how();
	LAPIC(LAPIC_EOI) = 0;
	atomic_inc(&acks);
	return true;
}

static bool on_page_fault(struct frame *f)
{
	struct worker *w = &worker[smp_index()];

	if (!w->resume)
		return false;
	w->error = f->error;
	w->faults++;
	f->rip = w->resume;
	return true;
}

/* One instruction that may fault; false if it did. */
#define MAY_FAULT(w, insn, ...)                                                                                        \
	({                                                                                                             \
		u32 faulted_ = 1;                                                                                      \
		__asm__ volatile("movq $1f, %[resume]\n\t" insn                                                        \
				 "\n\txor %[faulted], %[faulted]\n1:\tmovq $0, %[resume]"                              \
				 : [faulted] "+r"(faulted_), [resume] "=m"((w)->resume)                                \
				 : __VA_ARGS__                                                                         \
				 : "memory", "cc");                                                                    \
		!faulted_;                                                                                             \
	})

static void expect(struct worker *w, bool ok)
{
	w->wrong += !ok;
}

static bool valid(u32 v)
{
	return (v & 0xff000000) == VALID;
}

static void job_idle(struct worker *w, unsigned index)
{
	(void)w;
	(void)index;
	cpu_relax();
}

static void job_read(struct worker *w, unsigned index)
{
	volatile u32 *p = (volatile u32 *)WINDOW;

	for (unsigned i = 0; i < 50; i++)
		expect(w, valid(p[(index + i * 37) & 1023]));
	for (unsigned i = 0; i < 10; i++) { /* eight bytes by a string instruction */
		u64 v, from = WINDOW + i * 64;

		__asm__ volatile("lodsq" : "=a"(v), "+S"(from)::"memory");
		expect(w, valid((u32)v) && valid(v >> 32));
	}
}

static volatile u64 *own_word(unsigned index)
{
	return (volatile u64 *)WINDOW + index * 8;
}

static void job_write(struct worker *w, unsigned index)
{
	volatile u64 *p = own_word(index);
	u64 made = 0;

	for (unsigned i = 0; i < 30; i++) {
		made += MAY_FAULT(w, "lock incq %[p]", [p] "m"(*p));
		made += MAY_FAULT(w, "incq %[p]", [p] "m"(*p));
		if (w->faults)
			expect(w, (w->error & ~1ull) == 2);
	}
	w->written += made;
}

static void job_execute(struct worker *w, unsigned index)
{
	(void)index;
	for (unsigned i = 0; i < 20; i++) {
		u32 v;

		__asm__ volatile("call 0x1a0000" : "=a"(v)::"memory", "cc");
		expect(w, valid(v));
		expect(w, valid((u32)call((u8 *)WINDOW)));
	}
}

static void job_read_large(struct worker *w, unsigned index)
{
	for (unsigned i = 0; i < 64; i++)
		expect(w, valid(*(volatile u32 *)(LARGE + (i * 31 + index) % 512 * 4096)));
}

/* To and fro between two address spaces that have the page at different places of their tables. */
static void job_switch(struct worker *w, unsigned index)
{
	(void)index;
	for (unsigned i = 0; i < 10; i++)
		for (unsigned s = 0; s < 2; s++) {
			WRITE_REG(cr3, (u64)space[s] | (s + 1) | CR3_KEEP);
			expect(w, valid(*(volatile u32 *)(SPACE + i * 4)));
		}
}

enum { STOP, IDLE, READ, WRITE, EXECUTE, READ_LARGE, SWITCH };
static void (*const jobs[])(struct worker *, unsigned) = { 0,           job_idle,       job_read,  job_write,
							   job_execute, job_read_large, job_switch };
static volatile u32 job = IDLE;

static void other(unsigned index)
{
	struct worker *w = &worker[index];
	u32 now;

	if (HAS_PCID)
		cr4_set(CR4_PCIDE);
	__asm__ volatile("sti");
	while ((now = job) != STOP) {
		w->seen = now;
		jobs[now](w, index);
		w->passes++;
	}
	__asm__ volatile("cli");
	WRITE_REG(cr3, pml4);
	w->seen = STOP;
}

/* ---- this one ---- */

static void start_job(u32 which)
{
	job = which;
	for (unsigned i = 1; i < vcpus; i++)
		await_value(&worker[i].seen, which);
}

/* Everybody flushes; the answers are in when it returns. */
static void shoot(void (*flush)(void))
{
	how = flush;
	flush();
	acks_wanted += vcpus - 1;
	ipi_others(VECTOR);
	await_value(&acks, acks_wanted);
}

/* Each has done its job twice more: wholly after what this one did before. */
static void await_passes(void)
{
	for (unsigned i = 1; i < vcpus; i++) {
		u32 start = worker[i].passes;

		while (worker[i].passes - start < 2)
			cpu_relax();
	}
}

static void await_faults(void)
{
	for (unsigned i = 1; i < vcpus; i++)
		while (!worker[i].faults)
			cpu_relax();
}

static void fill(volatile void *page, unsigned bytes, u32 value)
{
	volatile u32 *p = page;

	for (unsigned i = 0; i < bytes / 4; i++)
		p[i] = value;
}

static u64 entry_for(volatile void *page)
{
	return (u64)page | PTE_ALL;
}

static void (*const ways[])(void) = { by_page, by_cr3, by_pge };

static void end_job(const char *name, u32 wrong)
{
	start_job(IDLE);
	for (unsigned i = 1; i < vcpus; i++) {
		wrong += worker[i].wrong;
		worker[i].wrong = 0;
	}
	check_equal(name, wrong, 0);
}

static void reads(void)
{
	fill(frame[0], 4096, VALID);
	*pte = entry_for(frame[0]);
	shoot(by_page);
	start_job(READ);
	for (u32 r = 1; r <= rounds; r++) {
		fill(frame[r & 1], 4096, VALID + r);
		*pte = entry_for(frame[r & 1]);
		shoot(ways[r % 3]);
		fill(frame[~r & 1], 4096, POISON);
	}
	end_job("nobody reads a page that is gone", 0);
}

/* All increments are in one of the two frames, and the one that is not mapped stays as it is. */
static void writes(void)
{
	u32 wrong = 0;

	for (unsigned i = 1; i < vcpus; i++)
		worker[i].written = 0;
	fill(frame[0], 4096, 0);
	fill(frame[1], 4096, 0);
	*pte = entry_for(frame[0]);
	shoot(by_page);
	start_job(WRITE);
	for (u32 r = 1; r <= rounds; r++) {
		volatile u64 *old = frame[~r & 1];
		u64 before[SMP_MAX];

		*pte = entry_for(frame[r & 1]);
		shoot(ways[r % 3]);
		for (unsigned i = 1; i < vcpus; i++)
			before[i] = old[i * 8];
		await_passes();
		for (unsigned i = 1; i < vcpus; i++)
			wrong += before[i] != old[i * 8];
	}
	start_job(IDLE);
	for (unsigned i = 1; i < vcpus; i++)
		wrong += frame[0][i * 8] + frame[1][i * 8] != worker[i].written;
	end_job("nobody writes to a page that is gone, and no write is lost", wrong);
}

/* Taking away the right to write, or the page; the entry itself must stay as it was made. */
static void take_away(const char *name, u64 entry)
{
	u32 wrong = 0;

	for (unsigned i = 1; i < vcpus; i++)
		worker[i].written = 0;
	fill(frame[0], 4096, 0);
	*pte = entry_for(frame[0]);
	shoot(by_page);
	start_job(WRITE);
	for (u32 r = 0; r < rounds; r++) {
		u64 before[SMP_MAX], taken = entry;

		__asm__ volatile("xchg %0, %1" : "+r"(taken), "+m"(*pte)::"memory");
		shoot(ways[r % 3]);
		for (unsigned i = 1; i < vcpus; i++) {
			before[i] = frame[0][i * 8];
			worker[i].faults = 0;
		}
		await_faults();
		await_passes();
		for (unsigned i = 1; i < vcpus; i++)
			wrong += before[i] != frame[0][i * 8] || (worker[i].error & 1) != (entry & 1);
		wrong += (*pte & ~PTE_A) != entry;
		*pte = entry_for(frame[0]); /* more rights need no IPI */
		await_passes();
	}
	start_job(IDLE);
	for (unsigned i = 1; i < vcpus; i++) {
		wrong += frame[0][i * 8] != worker[i].written;
		worker[i].faults = 0;
	}
	end_job(name, wrong);
}

static void dirty(void)
{
	u32 wrong = 0;

	*pte = entry_for(frame[0]);
	shoot(by_page);
	start_job(WRITE);
	for (u32 r = 0; r < rounds; r++) {
		__asm__ volatile("lock andq %1, %0" : "+m"(*pte) : "r"(~(PTE_A | PTE_D)) : "memory");
		shoot(ways[r % 3]);
		await_passes();
		wrong += (*pte & (PTE_A | PTE_D)) != (PTE_A | PTE_D);
	}
	start_job(READ);
	fill(frame[0], 4096, VALID);
	for (u32 r = 0; r < rounds; r++) {
		__asm__ volatile("lock andq %1, %0" : "+m"(*pte) : "r"(~(PTE_A | PTE_D)) : "memory");
		shoot(ways[r % 3]);
		await_passes();
		wrong += (*pte & (PTE_A | PTE_D)) != PTE_A;
	}
	start_job(IDLE);
	for (unsigned i = 1; i < vcpus; i++)
		worker[i].wrong = 0; /* the page was filled while it was read */
	end_job("cleared accessed and dirty bits are set again", wrong);
}

static void nothing(void)
{
}

static void code(void)
{
	put_return((u8 *)frame[0], VALID);
	*pte = entry_for(frame[0]);
	shoot(by_page);
	start_job(EXECUTE);
	for (u32 r = 1; r <= rounds; r++) {
		put_return((u8 *)frame[r & 1], VALID + r);
		shoot(nothing); /* IRET serializes: SDM 3A 8.1.3 */
		*pte = entry_for(frame[r & 1]);
		shoot(ways[r % 3]);
		put_return((u8 *)frame[~r & 1], POISON);
	}
	end_job("nobody executes a page that is gone", 0);
}

static void large_page(void)
{
	volatile u64 *pde = pte_at(pml4, LARGE, 2);
	u64 seed = 1;

	for (unsigned i = 0; i < 512; i++)
		*(volatile u32 *)(LOW + i * 4096) = VALID;
	*pde = LOW | PTE_ALL | PTE_PS;
	start_job(READ_LARGE);
	for (u32 r = 1; r <= rounds; r++) {
		u64 now = LOW + (r & 1) * PAGE_2M, old = LOW + (~r & 1) * PAGE_2M;

		for (unsigned i = 0; i < 512; i++)
			*(volatile u32 *)(now + i * 4096) = VALID + r;
		*pde = now | PTE_ALL | PTE_PS;
		large_offset = random64(&seed) % PAGE_2M;
		shoot(by_large);
		for (unsigned i = 0; i < 512; i++)
			*(volatile u32 *)(old + i * 4096) = POISON;
	}
	end_job("nobody reads a page of 2 MiB that is gone", 0);
}

static void address_spaces(void)
{
	volatile u64 *entry[2];

	for (unsigned s = 0; s < 2; s++) {
		space[s] = address_space();
		entry[s] = pte_at(space[s], SPACE, 1);
		*entry[s] = entry_for(frame[0]);
	}
	fill(frame[0], 4096, VALID);
	start_job(SWITCH);
	for (u32 r = 1; r <= rounds; r++) {
		fill(frame[r & 1], 4096, VALID + r);
		*entry[0] = *entry[1] = entry_for(frame[r & 1]);
		shoot(by_pge);
		fill(frame[~r & 1], 4096, POISON);
	}
	end_job("nobody reads a page that is gone from two address spaces", 0);
}

int main(void)
{
	pte = &page_table[WINDOW >> 12];
	frame_hooks[VECTOR] = on_ipi;
	frame_hooks[14] = on_page_fault;
	vcpus = smp_start(other);
	rounds = vcpus > 2 ? 12 : 40; /* every one waits for all others, on whatever cores there are */
	check("there are other vCPUs", vcpus > 1);
	reads();
	writes();
	take_away("write protection", (u64)frame[0] | PTE_P | PTE_U);
	take_away("unmapping", 0);
	dirty();
	code();
	large_page();
	if (HAS_PCID)
		address_spaces();
	start_job(STOP);
	return (int)failures;
}
