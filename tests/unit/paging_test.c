/* SPDX-License-Identifier: Apache-2.0 */
/* The page-table walker in every paging mode (SDM 3A chapter 4). */
#include "fakecpu.h"
#include "x86/paging.h"

#define P UINT64_C(1)
#define W UINT64_C(2)
#define U UINT64_C(4)
#define A UINT64_C(0x20)
#define D UINT64_C(0x40)
#define PS UINT64_C(0x80)
#define G UINT64_C(0x100)
#define XD BIT64(63)
#define HIGH UINT64_C(0xffff800000000000) /* where 4-level tests map: outside fake_long_mode()'s identity map */

static int setup(void **state)
{
	*state = fake_create(4 << 20);
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

static struct x86_walk last;

static bool walk(struct fake *f, uint64_t gva, unsigned kind, unsigned mmu)
{
	memset(&last, 0x5a, sizeof(last));
	return x86_walk(&f->cpu, GVA(gva), kind, (enum x86_mmu_index)mmu, false, &last);
}

/* The walk must fail with this error code, or (0) succeed. */
#define EXPECT(f, gva, kind, mmu, code)                                                                                \
	do {                                                                                                           \
		uint32_t expect_code = (code);                                                                         \
		bool expect_ok = walk(f, gva, kind, mmu);                                                              \
		assert_int_equal(expect_ok ? 0 : last.error | 0x100, expect_code);                                     \
	} while (0)
#define OK 0u
#define FAULT(bits) ((bits) | 0x100u) /* an error code of 0 is a fault, too */
#define RD X86_ACCESS_READ
#define WR X86_ACCESS_WRITE
#define EX X86_ACCESS_EXEC

static void test_off(void **state)
{
	struct fake *f = *state;

	assert_true(walk(f, 0x12345, WR, X86_MMU_USER));
	assert_int_equal(last.gpa.v, 0x12345);
	assert_true(last.readable && last.writable && last.executable && !last.global);
}

/* 32-bit paging; CR3 at the first table. */
static uint64_t paging32(struct fake *f, uint64_t cr4)
{
	fake_protected_mode(f);
	f->cpu.cr0 |= X86_CR0_PG;
	f->cpu.cr4 = cr4;
	f->cpu.cr3 = fake_table(f);
	return f->cpu.cr3;
}

static void test_32bit(void **state)
{
	struct fake *f = *state;
	uint64_t pd = paging32(f, X86_CR4_PGE), pt = fake_table(f);
	uint64_t pde = pd + 3 * 4, pte = pt + 5 * 4;
	uint64_t gva = 3u << 22 | 5u << 12 | 0x678;

	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(0));
	EXPECT(f, gva, WR, X86_MMU_USER, FAULT(X86_PFEC_W | X86_PFEC_U));
	/* The I bit needs SMEP, or NXE with PAE. */
	f->cpu.efer = X86_EFER_NXE;
	EXPECT(f, gva, EX, X86_MMU_KERNEL, FAULT(0));
	f->cpu.cr4 |= X86_CR4_SMEP;
	EXPECT(f, gva, EX, X86_MMU_KERNEL, FAULT(X86_PFEC_I));

	fake_poke32(f, pde, (uint32_t)(pt | P | W | U | PS)); /* PS without CR4.PSE: ignored */
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(0));
	assert_int_equal(fake_peek32(f, pde) & A, 0);
	fake_poke32(f, pte, 0x00345000 | P | W | G);
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0x345678);
	assert_int_equal(last.page_shift, 12);
	assert_true(last.readable && !last.writable && last.executable && last.global);
	assert_int_equal(fake_peek32(f, pde), pt | P | W | U | PS | A);
	assert_int_equal(fake_peek32(f, pte), 0x00345000 | P | W | G | A);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_true(last.writable);
	assert_int_equal(fake_peek32(f, pte), 0x00345000 | P | W | G | A | D);
	assert_int_equal(fake_peek32(f, pde) & D, 0);
	EXPECT(f, gva, RD, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U));

	f->cpu.cr4 &= ~X86_CR4_PGE;
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	assert_false(last.global);
}

static void test_pse(void **state)
{
	struct fake *f = *state;
	uint64_t pd = paging32(f, X86_CR4_PSE), pde = pd + 1 * 4;
	uint64_t gva = 0x00400000 | 0x123456;

	fake_poke32(f, pde, 0x00c00000 | P | W | U | PS | BIT32(12));
	EXPECT(f, gva, WR, X86_MMU_USER, OK);
	assert_int_equal(last.gpa.v, 0xd23456);
	assert_int_equal(last.page_shift, 22);
	assert_int_equal(fake_peek32(f, pde) & (A | D), A | D);

	/* PSE-36: bits 20:13 are address bits 39:32, 21 is reserved. */
	fake_poke32(f, pde, 0x00c00000 | P | PS | 0xa5u << 13);
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, UINT64_C(0xa500d23456));
	fake_poke32(f, pde, 0x00c00000 | P | PS | BIT32(21));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD));
	f->cpu.cpuid.maxphyaddr = 36;
	fake_poke32(f, pde, 0x00c00000 | P | PS | BIT32(16));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	assert_false(walk(f, gva, EX, X86_MMU_USER));
	fake_poke32(f, pde, 0x00c00000 | P | PS | BIT32(17));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD));
	memset(f->cpu.cpuid.features, 0, sizeof(f->cpu.cpuid.features));
	fake_poke32(f, pde, 0x00c00000 | P | PS | BIT32(13));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD));
}

static void test_pae(void **state)
{
	struct fake *f = *state;
	uint64_t pdpt, pd, pt, pde, pte, gva = 0xc0000000u | 2u << 21 | 7u << 12 | 0x10;

	paging32(f, X86_CR4_PAE);
	f->cpu.efer = X86_EFER_NXE;
	pdpt = f->cpu.cr3 = fake_table(f) + 0x20;
	pd = fake_table(f);
	pt = fake_table(f);
	pde = pd + 2 * 8;
	pte = pt + 7 * 8;

	fake_poke64(f, pdpt + 24, pd | P);
	assert_true(x86_load_pdptes(&f->cpu, pdpt));
	assert_int_equal(f->cpu.pdpte[3], pd | P);
	/* Reserved bits in a present PDPTE refuse the load and change nothing; in an absent one they do not count. */
	for (unsigned bit = 1; bit < 64; bit++) {
		bool rsvd = bit <= 2 || (bit >= 5 && bit <= 8) || bit >= FAKE_MAXPHYADDR;

		fake_poke64(f, pdpt, P | BIT64(bit));
		assert_int_equal(x86_load_pdptes(&f->cpu, pdpt), !rsvd);
		fake_poke64(f, pdpt, BIT64(bit) & ~P);
		assert_true(x86_load_pdptes(&f->cpu, pdpt));
	}
	assert_false(x86_load_pdptes(&f->cpu, f->ram_size)); /* no memory there: all ones */

	EXPECT(f, 0, RD, X86_MMU_KERNEL, FAULT(0)); /* PDPTE 0 is absent */
	fake_poke64(f, pde, pt | P | W | U);
	fake_poke64(f, pte, 0x5000 | P | W | U | XD);
	EXPECT(f, gva, RD, X86_MMU_USER, OK);
	assert_int_equal(last.gpa.v, 0x5010);
	assert_false(last.executable);
	EXPECT(f, gva, EX, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U | X86_PFEC_I));
	f->cpu.efer = 0; /* now XD is reserved, and there is no I bit */
	EXPECT(f, gva, EX, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U | X86_PFEC_RSVD));
	f->cpu.efer = X86_EFER_NXE;
	/* Bits 62:52 are ignored in 4-level paging only. */
	fake_poke64(f, pte, 0x5000 | P | W | U | BIT64(55));
	EXPECT(f, gva, RD, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U | X86_PFEC_RSVD));

	fake_poke64(f, pde, 0x00a00000 | P | W | PS);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0xa07010);
	assert_int_equal(last.page_shift, 21);
	assert_int_equal(fake_peek64(f, pde) & (A | D), A | D);
}

/* Every reserved bit of every level of 4- and 5-level paging. */
static void check_reserved(struct fake *f, uint64_t entry, uint64_t gva, unsigned shift, bool large)
{
	uint64_t was = fake_peek64(f, entry);

	for (unsigned bit = 0; bit < 64; bit++) {
		bool rsvd = bit >= FAKE_MAXPHYADDR && bit < 52;

		if (bit == 7 ? !(shift >= 39) : bit < 12 || (!large && !rsvd && bit < 63))
			continue; /* means something, or would lead elsewhere */
		if (bit == 7 || (large && bit > 12 && bit < shift))
			rsvd = true;
		if (bit >= shift && bit < FAKE_MAXPHYADDR)
			continue;
		fake_poke64(f, entry, was | BIT64(bit));
		EXPECT(f, gva, RD, X86_MMU_KERNEL, rsvd ? FAULT(X86_PFEC_P | X86_PFEC_RSVD) : OK);
	}
	f->cpu.efer &= ~X86_EFER_NXE;
	fake_poke64(f, entry, was | XD);
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD));
	f->cpu.efer |= X86_EFER_NXE;
	fake_poke64(f, entry, was);
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	/* Absent: no reserved bit counts. */
	fake_poke64(f, entry, (was & ~P) | BIT64(51));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(0));
	fake_poke64(f, entry, was);
}

static void test_4level(void **state)
{
	struct fake *f = *state;
	uint64_t gva = HIGH | UINT64_C(1) << 30 | 2u << 21 | 3u << 12 | 0xabc;
	uint64_t pte, pde, pdpte, pml4e;

	fake_long_mode(f);
	pte = fake_map(f, gva, 0x7000, P | W | G);
	pml4e = f->cpu.cr3 + 256 * 8;
	pdpte = (fake_peek64(f, pml4e) & ~UINT64_C(0xfff)) + 1 * 8;
	pde = (fake_peek64(f, pdpte) & ~UINT64_C(0xfff)) + 2 * 8;
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0x7abc);
	assert_int_equal(last.page_shift, 12);
	assert_true(last.global && !last.writable);
	assert_int_equal(fake_peek64(f, pml4e) & (A | D), A);
	assert_int_equal(fake_peek64(f, pdpte) & (A | D), A);
	assert_int_equal(fake_peek64(f, pde) & (A | D), A);
	assert_int_equal(fake_peek64(f, pte) & (A | D), A);
	check_reserved(f, pml4e, gva, 39, false);
	check_reserved(f, pdpte, gva, 30, false);
	check_reserved(f, pde, gva, 21, false);
	check_reserved(f, pte, gva, 12, false);

	fake_poke64(f, pde, 0x00600000 | P | W | PS | G);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0x603abc);
	assert_int_equal(last.page_shift, 21);
	assert_true(last.global && last.writable);
	check_reserved(f, pde, gva, 21, true);

	fake_poke64(f, pdpte, 0x80000000 | P | W | PS);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0x80403abc);
	assert_int_equal(last.page_shift, 30);
	check_reserved(f, pdpte, gva, 30, true);
	memset(f->cpu.cpuid.features, 0, sizeof(f->cpu.cpuid.features)); /* no 1-GiB pages: PS is reserved */
	EXPECT(f, gva, WR, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD | X86_PFEC_W));
}

static void test_5level(void **state)
{
	struct fake *f = *state;
	uint64_t pml5, gva = UINT64_C(0x00ab) << 48 | 0x5123;

	fake_long_mode(f);
	pml5 = fake_table(f);
	fake_poke64(f, pml5 + 0xab * 8, f->cpu.cr3 | P | W);
	f->cpu.cr3 = pml5;
	f->cpu.cr4 |= X86_CR4_LA57;
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(last.gpa.v, 0x5123);
	assert_int_equal(last.page_shift, 30);
	EXPECT(f, 0x5123, RD, X86_MMU_KERNEL, FAULT(0));
	/* The top level's rights count, too. */
	EXPECT(f, gva, RD, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U));
	check_reserved(f, pml5 + 0xab * 8, gva, 48, false);
}

/* Rights of one leaf in every context, by the letter of SDM 3A 4.6.1 and 4.6.2. */
static uint32_t expected(const struct fake *f, uint64_t pte, unsigned kind, unsigned mmu)
{
	uint64_t cr0 = f->cpu.cr0, cr4 = f->cpu.cr4;
	bool user_access = mmu == X86_MMU_USER, user_page = pte & U;
	uint32_t keys = user_page ? f->cpu.pkru : (uint32_t)f->cpu.msr.pkrs;
	unsigned key = (pte >> 59) & 15, ad = (keys >> (2 * key)) & 1, wd = (keys >> (2 * key + 1)) & 1;
	bool deny = false, pk = false;
	uint32_t code = X86_PFEC_P;

	if (kind != EX && (cr4 & (user_page ? X86_CR4_PKE : X86_CR4_PKS))) {
		if (ad)
			pk = true;
		if (kind == WR && wd && (user_access || (cr0 & X86_CR0_WP)))
			pk = true;
	}
	if (user_access && !user_page)
		deny = true;
	if (!user_access && user_page) {
		if (kind == EX && (cr4 & X86_CR4_SMEP))
			deny = true;
		if (kind != EX && (cr4 & X86_CR4_SMAP) && mmu == X86_MMU_KERNEL_SMAP)
			deny = true;
	}
	if (kind == WR && !(pte & W) && (user_access || (cr0 & X86_CR0_WP)))
		deny = true;
	if (kind == EX && (pte & XD))
		deny = true;
	if (!deny && !pk)
		return OK;
	if (kind == WR)
		code |= X86_PFEC_W;
	if (user_access)
		code |= X86_PFEC_U;
	if (kind == EX)
		code |= X86_PFEC_I;
	if (pk)
		code |= X86_PFEC_PK;
	return FAULT(code);
}

static void test_rights(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t gva = HIGH + 0x3000, pte_at;
	unsigned faults = 0, total = 0;

	fake_long_mode(f);
	pte_at = fake_map(f, gva, 0x7000, P);
	for (unsigned n = 0; n < 1u << 13; n++) {
		uint64_t pte = 0x7000 | P | (n & 1 ? W : 0) | (n & 2 ? U : 0) | (n & 4 ? XD : 0);
		unsigned key = n & 8 ? 9 : 0;

		pte |= (uint64_t)key << 59;
		c->cr0 = (c->cr0 & ~X86_CR0_WP) | (n & 16 ? X86_CR0_WP : 0);
		c->cr4 &= ~(X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_PKS);
		c->cr4 |= (n & 32 ? X86_CR4_SMEP : 0) | (n & 64 ? X86_CR4_SMAP : 0) | (n & 128 ? X86_CR4_PKE : 0);
		c->cr4 |= n & 1u << 12 ? X86_CR4_PKS : 0;
		c->pkru = ((n >> 8) & 3) << (2 * 9) | ((n >> 10) & 3);
		c->msr.pkrs = ((n >> 10) & 3) << (2 * 9) | ((n >> 8) & 3);
		for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
			for (unsigned kind = 0; kind < 3; kind++) {
				uint32_t want = expected(f, pte, kind, mmu);
				struct x86_walk w;

				fake_poke64(f, pte_at, pte);
				EXPECT(f, gva, kind, mmu, want);
				faults += want != OK;
				total++;
				if (want != OK) {
					assert_int_equal(fake_peek64(f, pte_at), pte);
					continue;
				}
				assert_int_equal(fake_peek64(f, pte_at), pte | A | (kind == WR ? D : 0));
				/* What it promises about other kinds must be what they get. */
				w = last;
				assert_int_equal(w.readable, expected(f, pte, RD, mmu) == OK);
				assert_int_equal(w.executable, expected(f, pte, EX, mmu) == OK);
				assert_int_equal(w.writable, kind == WR);
				fake_poke64(f, pte_at, pte | D);
				EXPECT(f, gva, kind, mmu, OK);
				assert_int_equal(last.writable, expected(f, pte, WR, mmu) == OK);
			}
		}
	}
	assert_in_range(faults, total / 10, total * 9 / 10);
}

/* U/S, R/W and XD accumulate over the levels. */
static void test_levels_combine(void **state)
{
	struct fake *f = *state;
	uint64_t gva = HIGH + 0x3000, pdpte;

	fake_long_mode(f);
	fake_map(f, gva, 0x7000, P | W | U);
	pdpte = fake_peek64(f, f->cpu.cr3 + 256 * 8) & ~UINT64_C(0xfff);
	EXPECT(f, gva, WR, X86_MMU_USER, OK);
	fake_poke64(f, pdpte, fake_peek64(f, pdpte) & ~W);
	EXPECT(f, gva, WR, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U | X86_PFEC_W));
	EXPECT(f, gva, EX, X86_MMU_USER, OK);
	fake_poke64(f, pdpte, fake_peek64(f, pdpte) | XD);
	EXPECT(f, gva, EX, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U | X86_PFEC_I));
	EXPECT(f, gva, RD, X86_MMU_USER, OK);
	fake_poke64(f, pdpte, fake_peek64(f, pdpte) & ~U);
	EXPECT(f, gva, RD, X86_MMU_USER, FAULT(X86_PFEC_P | X86_PFEC_U));
	EXPECT(f, gva, RD, X86_MMU_KERNEL, OK);
}

static void test_probe(void **state)
{
	struct fake *f = *state;
	uint64_t pte, gva = HIGH + 0x3000;
	struct x86_walk w;

	fake_long_mode(f);
	pte = fake_map(f, gva, 0x7000, P | W);
	assert_true(x86_walk(&f->cpu, GVA(gva), WR, X86_MMU_KERNEL, true, &w));
	assert_int_equal(w.gpa.v, 0x7000);
	assert_false(w.writable);
	assert_int_equal(fake_peek64(f, pte), 0x7000 | P | W);
}

/* Tables where no memory is, and in a read-only slot. */
static void test_odd_tables(void **state)
{
	struct fake *f = *state;
	uint64_t *rom = aligned_alloc(4096, 4096);
	uint64_t gva = HIGH, pml4e;

	fake_long_mode(f);
	pml4e = f->cpu.cr3 + 256 * 8;
	fake_poke64(f, pml4e, UINT64_C(0x300000000) | P | W);
	EXPECT(f, gva, RD, X86_MMU_KERNEL, FAULT(X86_PFEC_P | X86_PFEC_RSVD));

	memset(rom, 0, 4096);
	rom[0] = 0x40000000 | P | W | PS;
	fake_slot(f, 1, MEM_SLOT_READONLY, UINT64_C(0x300000000), 4096, rom);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(rom[0], 0x40000000 | P | W | PS);
	assert_false(last.writable);

	/* Memory with a log: A and D updates of tables are writes like any other. */
	fake_slot(f, 1, 0, 0, 0, NULL);
	fake_slot(f, 1, MEM_SLOT_LOG_DIRTY, UINT64_C(0x300000000), 4096, rom);
	EXPECT(f, gva, WR, X86_MMU_KERNEL, OK);
	assert_int_equal(rom[0], 0x40000000 | P | W | PS | A | D);
	struct mem_hit hit;
	assert_true(mem_lookup(&f->mem, GPA(UINT64_C(0x300000000)), &hit));
	assert_int_equal(hit.slot->dirty[0], 1);
	fake_slot(f, 1, 0, 0, 0, NULL);
	free(rom);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_32bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pse, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pae, setup, teardown),
		cmocka_unit_test_setup_teardown(test_4level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_5level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rights, setup, teardown),
		cmocka_unit_test_setup_teardown(test_levels_combine, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_odd_tables, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
