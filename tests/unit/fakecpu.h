/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU for unit tests: struct x86_cpu with a RAM slot at GPA 0, a TLB, counters and platform ops
 * that record what they are asked and replay what the test told them. Header only.
 *
 *	struct fake *f = fake_create(4 << 20);	// real mode, CS:IP at GPA FAKE_CODE
 *	fake_long_mode(f);			// flat 64-bit ring 0, identity-mapped
 *	assert_int_equal(FAKE_CATCH(f, x86_read8(&f->cpu, addr)), X86_UNWIND_EVENT);
 *	assert_int_equal(f->cpu.ev.exc_vector, X86_PF_EXC);
 *	fake_destroy(f);
 */
#ifndef TZ_TESTS_FAKECPU_H
#define TZ_TESTS_FAKECPU_H

/* cmocka.h wants these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/stats.h"
#include "mem/memslot.h"
#include "x86/access.h"
#include "x86/cpu.h"
#include "x86/cpuid.h"
#include "x86/exception.h"
#include "x86/io.h"
#include "x86/tlb.h"

/* Where the mode helpers put things (GPA). Page tables grow down from the end of RAM. */
#define FAKE_GDT 0x1000u
#define FAKE_IDT 0x2000u
#define FAKE_TSS 0x3000u /* 104 bytes + I/O bitmap, all zero */
#define FAKE_CODE 0x10000u
#define FAKE_STACK 0x20000u /* the top */

/* Selectors of the GDT that fake_gdt() writes. The user ones are in the order SYSRET wants. */
#define FAKE_CS64 0x08u
#define FAKE_DS 0x10u
#define FAKE_CS32 0x18u
#define FAKE_CS16 0x20u
#define FAKE_TR 0x28u /* 16 bytes */
#define FAKE_USER_CS32 0x3bu
#define FAKE_USER_DS 0x43u
#define FAKE_USER_CS64 0x4bu
#define FAKE_GDT_LIMIT 0x7fu /* entries 0x50..0x78 are free for the test */

#define FAKE_IO_MAX 64
#define FAKE_MAXPHYADDR 46

struct fake_io {
	bool pio, write;
	uint64_t addr;
	unsigned len;
	uint64_t data; /* written, or given to the guest */
};

struct fake {
	struct x86_cpu cpu; /* first: 64-byte aligned */
	struct mem mem;
	struct x86_platform_ops ops;
	uint64_t stat[STAT_COUNT];
	uint8_t *ram;
	uint64_t ram_size;
	uint64_t table_next; /* GPA below which page tables are allocated */

	/* I/O. Not handled (the default): the client must do it. Reads give read_data[], then all ones. */
	bool io_handled;
	struct fake_io io[FAKE_IO_MAX];
	unsigned io_count;
	uint64_t read_data[FAKE_IO_MAX];
	unsigned read_count, read_next;

	/* Interrupts to hand out, in order. */
	int irq[16];
	unsigned irq_count, irq_next;

	uint64_t tsc; /* += 100 a read */
	unsigned cr8_changes, exclusive_begins, exclusive_ends, spins;
};

/*
 * Run a statement that may raise. Yields 0, or the enum x86_unwind it left with. Locals changed
 * in the statement must be volatile to be looked at afterwards.
 */
#define FAKE_CATCH(f, ...)                                                                                             \
	({                                                                                                             \
		volatile int fake_unwound = setjmp((f)->cpu.unwind);                                                   \
		if (!fake_unwound) {                                                                                   \
			(f)->cpu.unwind_valid = true;                                                                  \
			__VA_ARGS__;                                                                                   \
		}                                                                                                      \
		(f)->cpu.unwind_valid = false;                                                                         \
		(int)fake_unwound;                                                                                     \
	})

/* xorshift64; not from 0. */
static inline uint64_t fake_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* ---- platform ops ---- */

static inline bool fake_io_access(struct x86_cpu *cpu, bool pio, bool write, uint64_t addr, void *data, unsigned len)
{
	struct fake *f = cpu->owner;
	uint64_t v = UINT64_MAX;

	assert_false(cpu->fpu.live);
	assert_in_range(len, 1, 8);
	if (!f->io_handled)
		return false;
	if (write) {
		v = 0;
		memcpy(&v, data, len);
	} else {
		if (f->read_next < f->read_count)
			v = f->read_data[f->read_next++];
		memcpy(data, &v, len);
	}
	assert_true(f->io_count < FAKE_IO_MAX);
	f->io[f->io_count++] = (struct fake_io){ .pio = pio, .write = write, .addr = addr, .len = len, .data = v };
	return true;
}

static inline bool fake_mmio_read(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	return fake_io_access(cpu, false, false, gpa.v, data, len);
}

static inline bool fake_mmio_write(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned len)
{
	return fake_io_access(cpu, false, true, gpa.v, (void *)(uintptr_t)data, len);
}

static inline bool fake_pio_read(struct x86_cpu *cpu, uint16_t port, void *data, unsigned len)
{
	return fake_io_access(cpu, true, false, port, data, len);
}

static inline bool fake_pio_write(struct x86_cpu *cpu, uint16_t port, const void *data, unsigned len)
{
	return fake_io_access(cpu, true, true, port, (void *)(uintptr_t)data, len);
}

static inline bool fake_irq_pending(struct x86_cpu *cpu)
{
	struct fake *f = cpu->owner;

	return f->irq_next < f->irq_count;
}

static inline int fake_irq_ack(struct x86_cpu *cpu)
{
	struct fake *f = cpu->owner;

	return f->irq_next < f->irq_count ? f->irq[f->irq_next++] : -1;
}

static inline uint64_t fake_tsc_read(struct x86_cpu *cpu)
{
	struct fake *f = cpu->owner;

	return f->tsc += 100;
}

static inline void fake_tsc_write(struct x86_cpu *cpu, uint64_t value)
{
	struct fake *f = cpu->owner;

	f->tsc = value;
}

static inline void fake_cr8_changed(struct x86_cpu *cpu)
{
	((struct fake *)cpu->owner)->cr8_changes++;
}

static inline bool fake_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value, bool *fault)
{
	(void)cpu, (void)index, (void)value, (void)fault;
	return false;
}

static inline bool fake_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool *fault)
{
	(void)cpu, (void)index, (void)value, (void)fault;
	return false;
}

static inline void fake_exclusive_begin(struct x86_cpu *cpu)
{
	((struct fake *)cpu->owner)->exclusive_begins++;
}

static inline void fake_spinning(struct x86_cpu *cpu)
{
	((struct fake *)cpu->owner)->spins++;
}

static inline void fake_exclusive_end(struct x86_cpu *cpu)
{
	((struct fake *)cpu->owner)->exclusive_ends++;
}

/* ---- RAM ---- */

static inline void fake_poke(struct fake *f, uint64_t gpa, const void *data, size_t n)
{
	assert_true(gpa + n <= f->ram_size);
	memcpy(f->ram + gpa, data, n);
}

static inline void fake_poke64(struct fake *f, uint64_t gpa, uint64_t v)
{
	fake_poke(f, gpa, &v, 8);
}

static inline void fake_poke32(struct fake *f, uint64_t gpa, uint32_t v)
{
	fake_poke(f, gpa, &v, 4);
}

static inline uint64_t fake_peek64(struct fake *f, uint64_t gpa)
{
	uint64_t v;

	assert_true(gpa + 8 <= f->ram_size);
	memcpy(&v, f->ram + gpa, 8);
	return v;
}

static inline uint32_t fake_peek32(struct fake *f, uint64_t gpa)
{
	return (uint32_t)fake_peek64(f, gpa);
}

/* A zeroed page for a page table. */
static inline uint64_t fake_table(struct fake *f)
{
	f->table_next -= TZ_PAGE_SIZE;
	assert_true(f->table_next > FAKE_STACK);
	memset(f->ram + f->table_next, 0, TZ_PAGE_SIZE);
	return f->table_next;
}

/*
 * Map the 4-KiB page at gva in the 4-level tables under CR3; `flags` are the PTE's low bits and XD
 * (0 unmaps). Tables above it get P, W and U. Returns the GPA of the PTE. Does not flush the TLB.
 * Not for addresses below 512 GiB, which fake_long_mode() maps with large pages.
 */
static inline uint64_t fake_map(struct fake *f, uint64_t gva, uint64_t gpa, uint64_t flags)
{
	uint64_t table = f->cpu.cr3 & ~UINT64_C(0xfff);

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t at = table + ((gva >> shift) & 511) * 8;

		if (!(fake_peek64(f, at) & 1))
			fake_poke64(f, at, fake_table(f) | 7);
		assert_false(fake_peek64(f, at) & 0x80);
		table = fake_peek64(f, at) & UINT64_C(0x000ffffffffff000);
	}
	table += ((gva >> 12) & 511) * 8;
	fake_poke64(f, table, flags ? (gpa & ~UINT64_C(0xfff)) | flags : 0);
	return table;
}

/* ---- modes ---- */

static inline struct x86_seg fake_seg(uint16_t sel, uint64_t base, uint32_t limit, uint32_t ar)
{
	return (struct x86_seg){ .sel = sel, .base = base, .limit = limit, .ar = ar };
}

/* ES, SS, DS, FS, GS alike, CS different. */
static inline void fake_segs(struct fake *f, const struct x86_seg *cs, const struct x86_seg *data)
{
	for (unsigned i = X86_ES; i <= X86_GS; i++)
		f->cpu.seg[i] = i == X86_CS ? *cs : *data;
}

/* CPL 0 real mode, flat at 0. The state right after fake_create(). */
static inline void fake_real_mode(struct fake *f)
{
	struct x86_cpu *c = &f->cpu;
	struct x86_seg cs = fake_seg(0, 0, 0xffff, 0x9b), data = fake_seg(0, 0, 0xffff, 0x93);

	fake_segs(f, &cs, &data);
	c->seg[X86_LDTR] = fake_seg(0, 0, 0xffff, 0x82);
	c->seg[X86_TR] = fake_seg(0, 0, 0xffff, 0x8b);
	c->idtr = (struct x86_dtable){ .base = 0, .limit = 0x3ff };
	c->gdtr = (struct x86_dtable){ .base = 0, .limit = 0xffff };
	c->cr0 = X86_CR0_ET;
	c->cr3 = c->cr4 = c->efer = 0;
	c->rflags = X86_FIXED1;
	c->rip = 0; /* FAKE_CODE is beyond a 16-bit IP: reach it through CS */
	c->seg[X86_CS].sel = FAKE_CODE >> 4;
	c->seg[X86_CS].base = FAKE_CODE;
	c->gpr[X86_RSP] = 0x8000;
	c->cpl = 0;
	c->code_size = c->stack_size = 2;
	c->real_mode = true;
	c->v8086 = c->long_mode = false;
	c->mmu_index = X86_MMU_KERNEL;
	x86_tlb_flush_all(c);
}

/* Write the GDT the selectors above stand for, and point GDTR, IDTR (256 16-byte slots, empty) and TR at theirs. */
static inline void fake_gdt(struct fake *f)
{
	struct x86_cpu *c = &f->cpu;

	fake_poke64(f, FAKE_GDT, 0);
	fake_poke64(f, FAKE_GDT + FAKE_CS64, 0x00af9b000000ffff);
	fake_poke64(f, FAKE_GDT + FAKE_DS, 0x00cf93000000ffff);
	fake_poke64(f, FAKE_GDT + FAKE_CS32, 0x00cf9b000000ffff);
	fake_poke64(f, FAKE_GDT + FAKE_CS16, 0x008f9b000000ffff);
	fake_poke64(f, FAKE_GDT + FAKE_TR, 0x00008b0000000fff | (uint64_t)FAKE_TSS << 16);
	fake_poke64(f, FAKE_GDT + FAKE_TR + 8, 0);
	fake_poke64(f, FAKE_GDT + (FAKE_USER_CS32 & ~7u), 0x00cffb000000ffff);
	fake_poke64(f, FAKE_GDT + (FAKE_USER_DS & ~7u), 0x00cff3000000ffff);
	fake_poke64(f, FAKE_GDT + (FAKE_USER_CS64 & ~7u), 0x00affb000000ffff);
	c->gdtr = (struct x86_dtable){ .base = FAKE_GDT, .limit = FAKE_GDT_LIMIT };
	c->idtr = (struct x86_dtable){ .base = FAKE_IDT, .limit = 0xfff };
	c->seg[X86_TR] = fake_seg(FAKE_TR, FAKE_TSS, 0xfff, 0x8b);
	c->seg[X86_LDTR] = fake_seg(0, 0, 0, X86_AR_UNUSABLE);
}

/* Flat 32-bit protected mode, CPL 0, paging off. */
static inline void fake_protected_mode(struct fake *f)
{
	struct x86_cpu *c = &f->cpu;
	struct x86_seg cs = fake_seg(FAKE_CS32, 0, 0xffffffff, 0xc09b), data = fake_seg(FAKE_DS, 0, 0xffffffff, 0xc093);

	fake_gdt(f);
	fake_segs(f, &cs, &data);
	c->idtr.limit = 0x7ff;
	c->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
	c->cr3 = c->cr4 = c->efer = 0;
	c->rflags = X86_FIXED1;
	c->rip = FAKE_CODE;
	c->gpr[X86_RSP] = FAKE_STACK;
	c->cpl = 0;
	c->code_size = c->stack_size = 4;
	c->real_mode = c->v8086 = c->long_mode = false;
	c->mmu_index = X86_MMU_KERNEL;
	x86_tlb_flush_all(c);
}

/* Flat 64-bit mode, CPL 0, 4-level paging; the low 512 GiB are mapped to themselves: 1-GiB pages, P W U A D. */
static inline void fake_long_mode(struct fake *f)
{
	struct x86_cpu *c = &f->cpu;
	struct x86_seg cs = fake_seg(FAKE_CS64, 0, 0xffffffff, 0xa09b), data = fake_seg(FAKE_DS, 0, 0xffffffff, 0xc093);
	uint64_t pml4, pdpt;

	f->table_next = f->ram_size;
	pml4 = fake_table(f);
	pdpt = fake_table(f);
	fake_poke64(f, pml4, pdpt | 0x27);
	for (uint64_t i = 0; i < 512; i++)
		fake_poke64(f, pdpt + i * 8, i << 30 | 0xe7);
	fake_gdt(f);
	fake_segs(f, &cs, &data);
	c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
	c->cr3 = pml4;
	c->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
	c->rflags = X86_FIXED1;
	c->rip = FAKE_CODE;
	c->gpr[X86_RSP] = FAKE_STACK;
	c->cpl = 0;
	c->code_size = c->stack_size = 8;
	c->long_mode = true;
	c->real_mode = c->v8086 = false;
	c->mmu_index = X86_MMU_KERNEL;
	x86_tlb_flush_all(c);
}

/* From long mode: the same at CPL 3. */
static inline void fake_user_mode(struct fake *f)
{
	struct x86_cpu *c = &f->cpu;
	struct x86_seg cs = fake_seg(FAKE_USER_CS64, 0, 0xffffffff, 0xa0fb),
		       data = fake_seg(FAKE_USER_DS, 0, 0xffffffff, 0xc0f3);

	fake_segs(f, &cs, &data);
	c->cpl = 3;
	c->mmu_index = X86_MMU_USER;
}

/* ---- creation ---- */

/* Every feature of features.def announced, every control bit allowed. */
static inline void fake_cpuid(struct x86_cpu *c)
{
	struct x86_cpuid *id = &c->cpuid;

	id->count = 0;
	memset(id->features, 0xff, sizeof(id->features));
	id->maxphyaddr = FAKE_MAXPHYADDR;
	id->rsvd_gpa_bits = ((UINT64_C(1) << 52) - 1) & ~((UINT64_C(1) << FAKE_MAXPHYADDR) - 1);
	id->cr4_allowed = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |
			  X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_UMIP |
			  X86_CR4_LA57 | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP |
			  X86_CR4_SMAP | X86_CR4_PKE;
	id->xcr0_allowed = 0x2e7;
	id->efer_allowed = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_FFXSR;
}

static inline void fake_without(struct fake *f, enum x86_feature feature)
{
	f->cpu.cpuid.features[feature / 32] &= ~BIT32(feature % 32);
}

/* CPUID leaf 0 alone: "GenuineIntel", "AuthenticAMD". Without this there is no leaf, which counts as Intel. */
static inline void fake_vendor(struct fake *f, const char *name)
{
	struct x86_cpuid_entry *e = &f->cpu.cpuid.entry[0];

	f->cpu.cpuid.count = 1;
	memset(e, 0, sizeof(*e));
	memcpy(&e->ebx, name, 4);
	memcpy(&e->edx, name + 4, 4);
	memcpy(&e->ecx, name + 8, 4);
}

/* ram_bytes: page aligned, at least 1 MiB. */
static inline struct fake *fake_create(uint64_t ram_bytes)
{
	struct fake *f = aligned_alloc(64, (sizeof(*f) + 63) & ~(size_t)63);
	struct mem_map *old = NULL;
	struct x86_cpu *c;

	assert_non_null(f);
	memset(f, 0, sizeof(*f));
	c = &f->cpu;
	f->ram_size = f->table_next = ram_bytes;
	f->ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	assert_int_equal(mem_init(&f->mem), 0);
	pthread_mutex_lock(&f->mem.lock);
	assert_int_equal(mem_set_slot(&f->mem, 0, 0, GPA(0), ram_bytes, f->ram, &old), 0);
	pthread_mutex_unlock(&f->mem.lock);
	mem_map_destroy(old);
	f->ops = (struct x86_platform_ops){
		.mmio_read = fake_mmio_read,
		.mmio_write = fake_mmio_write,
		.pio_read = fake_pio_read,
		.pio_write = fake_pio_write,
		.irq_pending = fake_irq_pending,
		.irq_ack = fake_irq_ack,
		.tsc_read = fake_tsc_read,
		.tsc_write = fake_tsc_write,
		.cr8_changed = fake_cr8_changed,
		.msr_read = fake_msr_read,
		.msr_write = fake_msr_write,
		.exclusive_begin = fake_exclusive_begin,
		.exclusive_end = fake_exclusive_end,
		.spinning = fake_spinning,
	};
	c->owner = f;
	c->ops = &f->ops;
	c->mem = &f->mem;
	c->stat = f->stat;
	c->bsp = true;
	c->xcr0 = 1;
	c->dr[6] = X86_DR6_FIXED1;
	c->dr[7] = X86_DR7_FIXED1;
	c->msr.pat = 0x0007040600070406;
	c->msr.apic_base = 0xfee00900;
	c->fpu.area[0] = 0x7f; /* FCW 0x37f, MXCSR 0x1f80 */
	c->fpu.area[1] = 0x03;
	c->fpu.area[24] = 0x80;
	c->fpu.area[25] = 0x1f;
	fake_cpuid(c);
	assert_int_equal(x86_tlb_create(c), 0);
	fake_real_mode(f);
	return f;
}

/* Another slot (test's own memory, or NULL hva and size 0 to delete); flushes the TLB as core would. */
static inline void fake_slot(struct fake *f, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *hva)
{
	struct mem_map *old = NULL;

	pthread_mutex_lock(&f->mem.lock);
	assert_int_equal(mem_set_slot(&f->mem, id, flags, GPA(gpa), size, hva, &old), 0);
	pthread_mutex_unlock(&f->mem.lock);
	x86_tlb_flush_all(&f->cpu);
	mem_map_destroy(old);
}

static inline void fake_destroy(struct fake *f)
{
	x86_tlb_destroy(&f->cpu);
	mem_fini(&f->mem);
	munmap(f->ram, f->ram_size);
	free(f);
}

#endif
