/* SPDX-License-Identifier: Apache-2.0 */
/* Memory accesses through the TLB: fills, flushes, faults, page crossings, MMIO, and who is told of writes. */
#include "fakecpu.h"

#define P UINT64_C(1)
#define W UINT64_C(2)
#define U UINT64_C(4)
#define A UINT64_C(0x20)
#define D UINT64_C(0x40)
#define PS UINT64_C(0x80)
#define G UINT64_C(0x100)
#define XD BIT64(63)
#define HIGH UINT64_C(0xffff800000000000)
#define HOLE UINT64_C(0xfed00000) /* no slot */
#define K X86_MMU_KERNEL

static int setup(void **state)
{
	struct fake *f = fake_create(4 << 20);

	fake_long_mode(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

/* A statement must raise #PF with this address and code. */
#define EXPECT_PF(f, addr, code, ...)                                                                                  \
	do {                                                                                                           \
		assert_int_equal(FAKE_CATCH(f, __VA_ARGS__), X86_UNWIND_EVENT);                                        \
		assert_int_equal((f)->cpu.ev.exc_vector, X86_PF_EXC);                                                  \
		assert_int_equal((f)->cpu.ev.exc_cr2, addr);                                                           \
		assert_int_equal((f)->cpu.ev.exc_error, code);                                                         \
	} while (0)

static uint64_t fills(struct fake *f)
{
	return f->stat[STAT_TLB_FILLS];
}

static void test_sizes(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	x86_write64(c, 0x5003, 0x1122334455667788);
	assert_int_equal(fake_peek64(f, 0x5003), 0x1122334455667788);
	assert_int_equal(x86_read8(c, 0x5003), 0x88);
	assert_int_equal(x86_read16(c, 0x5003), 0x7788);
	assert_int_equal(x86_read32(c, 0x5003), 0x55667788);
	assert_int_equal(x86_read64(c, 0x5003), 0x1122334455667788);
	x86_write8(c, 0x5003, 0xaa);
	x86_write16(c, 0x5005, 0xbbcc);
	x86_write32(c, 0x5007, 0xddddeeee);
	assert_int_equal(fake_peek64(f, 0x5003), 0xddddeeeebbcc77aa);
	assert_int_equal(fills(f), 1);
	for (unsigned size = 1; size <= 8; size *= 2) {
		x86_write(c, 0x5100, 0x0102030405060708 * size, size, K);
		assert_int_equal(x86_read(c, 0x5100, size, K),
				 (0x0102030405060708 * size) & (UINT64_MAX >> (64 - 8 * size)));
		assert_int_equal(x86_read_for_write(c, 0x5100, size, K), x86_read(c, 0x5100, size, K));
	}
}

static void test_dirty_bit(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t pte = fake_map(f, HIGH, 0x7000, P | W);

	x86_read8(c, HIGH);
	assert_int_equal(fake_peek64(f, pte) & (A | D), A);
	x86_write8(c, HIGH, 1);
	assert_int_equal(fake_peek64(f, pte) & (A | D), A | D);
	assert_int_equal(fills(f), 2);
	x86_write8(c, HIGH, 2);
	assert_int_equal(fills(f), 2);

	/* The read half of a read-modify-write, and a probe, set D too. */
	fake_poke64(f, pte, 0x7000 | P | W);
	x86_tlb_flush_all(c);
	assert_int_equal(x86_read_for_write(c, HIGH, 1, K), 2);
	assert_int_equal(fake_peek64(f, pte) & D, D);
	fake_poke64(f, pte, 0x7000 | P | W);
	x86_tlb_flush_all(c);
	x86_probe_read(c, HIGH, 8, K);
	assert_int_equal(fake_peek64(f, pte) & D, 0);
	x86_probe_write(c, HIGH, 8, K);
	assert_int_equal(fake_peek64(f, pte) & D, D);
}

static void test_faults(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	EXPECT_PF(f, HIGH + 5, 0, x86_read32(c, HIGH + 5));
	EXPECT_PF(f, HIGH + 5, X86_PFEC_W, x86_write32(c, HIGH + 5, 0));
	fake_map(f, HIGH, 0x7000, P);
	assert_int_equal(FAKE_CATCH(f, x86_read32(c, HIGH + 5)), 0);
	EXPECT_PF(f, HIGH + 5, X86_PFEC_P | X86_PFEC_W, x86_write32(c, HIGH + 5, 0));
	EXPECT_PF(f, HIGH + 5, X86_PFEC_P | X86_PFEC_W, x86_read_for_write(c, HIGH + 5, 4, K));
	EXPECT_PF(f, HIGH + 5, X86_PFEC_P | X86_PFEC_W, x86_probe_write(c, HIGH + 5, 4, K));
	EXPECT_PF(f, HIGH + 5, X86_PFEC_P | X86_PFEC_W, x86_host_write_ptr(c, HIGH + 5, 4, K));
	EXPECT_PF(f, HIGH + 5, X86_PFEC_P | X86_PFEC_U, x86_read32_mmu(c, HIGH + 5, X86_MMU_USER));
	assert_int_equal(FAKE_CATCH(f, x86_read32(c, HIGH + 5)), 0); /* the failures did not hurt the entry */
}

/* Contexts do not see each other's entries. */
static void test_contexts(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->cr4 |= X86_CR4_SMAP;
	fake_map(f, HIGH, 0x7000, P | W | U);
	assert_int_equal(x86_mmu_system(c), X86_MMU_KERNEL_SMAP);
	assert_int_equal(FAKE_CATCH(f, x86_write8_mmu(c, HIGH, 1, X86_MMU_USER)), 0);
	assert_int_equal(FAKE_CATCH(f, x86_write8_mmu(c, HIGH, 1, X86_MMU_KERNEL)), 0);
	EXPECT_PF(f, HIGH, X86_PFEC_P | X86_PFEC_W, x86_write8_mmu(c, HIGH, 1, X86_MMU_KERNEL_SMAP));
	c->cr4 &= ~X86_CR4_SMAP;
	assert_int_equal(x86_mmu_system(c), X86_MMU_KERNEL);
}

static void test_crossing(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	/* Two pages that are not neighbours in memory. */
	fake_map(f, HIGH, 0x9000, P | W);
	fake_map(f, HIGH + 0x1000, 0x7000, P | W);
	for (unsigned before = 1; before < 8; before++) {
		x86_write64(c, HIGH + 0x1000 - before, 0x8877665544332211 + before);
		assert_int_equal(x86_read64(c, HIGH + 0x1000 - before), 0x8877665544332211 + before);
		assert_int_equal(f->ram[0xa000 - before], 0x11 + before);
		assert_int_equal(f->ram[0x7000 + 7 - before], 0x88);
		assert_int_equal(x86_read_for_write(c, HIGH + 0x1000 - before, 8, K), 0x8877665544332211 + before);
	}
	/* Two that are. */
	x86_write32(c, 0x5ffe, 0x44332211);
	assert_int_equal(fake_peek32(f, 0x5ffe), 0x44332211);
	assert_int_equal(x86_read32(c, 0x5ffe), 0x44332211);

	/* The second page faults: its address is reported, nothing was written. */
	fake_map(f, HIGH + 0x1000, 0x7000, P);
	x86_tlb_flush_all(c);
	fake_poke64(f, 0x9ff8, 0);
	EXPECT_PF(f, HIGH + 0x1000, X86_PFEC_P | X86_PFEC_W, x86_write64(c, HIGH + 0xffc, UINT64_MAX));
	EXPECT_PF(f, HIGH + 0x1000, X86_PFEC_P | X86_PFEC_W, x86_probe_write(c, HIGH + 0x800, 0x900, K));
	EXPECT_PF(f, HIGH + 0x1000, X86_PFEC_P | X86_PFEC_W,
		  x86_write_bytes(c, HIGH + 0xff0, "0123456789abcdefgh", 18, K));
	assert_int_equal(fake_peek64(f, 0x9ff8), 0);
	fake_map(f, HIGH, 0, 0);
	x86_tlb_flush_all(c);
	EXPECT_PF(f, HIGH + 0xffc, X86_PFEC_W, x86_write64(c, HIGH + 0xffc, UINT64_MAX));
}

/* Outside long mode linear addresses wrap at 4 GiB. */
static void test_wrap(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t *top = aligned_alloc(4096, 4096);

	fake_slot(f, 1, 0, 0xfffff000, 4096, top);
	fake_protected_mode(f);
	x86_write32(c, 0xfffffffe, 0x44332211);
	assert_memory_equal(top + 0xffe, "\x11\x22", 2);
	assert_memory_equal(f->ram, "\x33\x44", 2);
	assert_int_equal(x86_read32(c, 0xfffffffe), 0x44332211);
	fake_slot(f, 1, 0, 0, 0, NULL);
	free(top);
}

static void test_bytes(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t in[4096], out[4096];

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 256);
	fake_map(f, HIGH, 0x9000, P | W);
	fake_map(f, HIGH + 0x1000, 0x7000, P | W);
	x86_write_bytes(c, HIGH + 0x123, in, 4096, K);
	assert_memory_equal(f->ram + 0x9123, in, 4096 - 0x123);
	assert_memory_equal(f->ram + 0x7000, in + 4096 - 0x123, 0x123);
	x86_read_bytes(c, HIGH + 0x123, out, 4096, K);
	assert_memory_equal(in, out, 4096);
	assert_int_equal(FAKE_CATCH(f, x86_read_bytes(c, HIGH + 0x2000, out, 0, K)), 0);

	/* MMIO in pieces of eight. */
	f->io_handled = true;
	x86_write_bytes(c, HOLE, in, 20, K);
	assert_int_equal(f->io_count, 3);
	assert_int_equal(f->io[1].addr, HOLE + 8);
	assert_int_equal(f->io[2].len, 4);
	assert_int_equal(f->io[0].data, guest_load64(in));
	x86_io_finish(c);
	f->read_data[f->read_count++] = 0x0807060504030201;
	f->read_data[f->read_count++] = 0x0a09;
	x86_read_bytes(c, HOLE, out, 10, K);
	assert_memory_equal(out, "\1\2\3\4\5\6\7\10\11\12", 10);
}

static void test_mmio(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t v = 0xabcdef;

	assert_int_equal(FAKE_CATCH(f, x86_read32(c, HOLE + 4)), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_MMIO);
	assert_int_equal(c->io.pending.addr, HOLE + 4);
	assert_int_equal(c->io.pending.len, 4);
	x86_io_complete(c, &v);
	x86_io_rewind(c);
	assert_int_equal(FAKE_CATCH(f, v = x86_read32(c, HOLE + 4)), 0);
	assert_int_equal(v, 0xabcdef);
	x86_io_finish(c);
	assert_null(x86_host_read_ptr(c, HOLE, 4, K));
	assert_null(x86_host_write_ptr(c, HOLE, 4, K));
	x86_probe_write(c, HOLE, 8, K);
	assert_int_equal(f->io_count, 0);

	/* Across a page end: an access for each page. */
	f->io_handled = true;
	x86_write64(c, HOLE + 0xffd, 0x8877665544332211);
	assert_int_equal(f->io_count, 2);
	assert_int_equal(f->io[0].len, 3);
	assert_int_equal(f->io[0].data, 0x332211);
	assert_int_equal(f->io[1].addr, HOLE + 0x1000);
	assert_int_equal(f->io[1].len, 5);
	assert_int_equal(f->io[1].data, 0x8877665544);
}

/* Memory followed by a hole: memory is not touched until the client did its part. */
static void test_mmio_and_memory(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t end = f->ram_size - 4;

	fake_map(f, HIGH, f->ram_size - 4096, P | W);
	fake_map(f, HIGH + 0x1000, HOLE, P | W);
	fake_poke32(f, end, 0);
	assert_int_equal(FAKE_CATCH(f, x86_write64(c, HIGH + 0xffc, 0x8877665544332211)), X86_UNWIND_EXIT);
	assert_int_equal(c->io.pending.addr, HOLE);
	assert_int_equal(guest_load32(c->io.pending.data), 0x88776655);
	assert_memory_equal(f->ram + end, "\0\0\0\0", 4);
	x86_io_complete(c, NULL);
	x86_io_rewind(c);
	assert_int_equal(FAKE_CATCH(f, x86_write64(c, HIGH + 0xffc, 0x8877665544332211)), 0);
	assert_memory_equal(f->ram + end, "\x11\x22\x33\x44", 4);
	x86_io_finish(c);

	f->io_handled = true;
	f->read_data[f->read_count++] = 0xdeadbeef;
	assert_int_equal(x86_read64(c, HIGH + 0xffc), 0xdeadbeef44332211);
}

static void test_readonly_slot(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t *rom = aligned_alloc(4096, 4096);

	memset(rom, 0x5a, 4096);
	fake_slot(f, 1, MEM_SLOT_READONLY, 0x10000000, 4096, rom);
	f->io_handled = true;
	assert_int_equal(x86_read32(c, 0x10000000), 0x5a5a5a5a);
	assert_ptr_equal(x86_host_read_ptr(c, 0x10000010, 8, K), rom + 0x10);
	assert_null(x86_host_write_ptr(c, 0x10000010, 8, K));
	assert_int_equal(f->io_count, 0);
	assert_int_equal(x86_read_for_write(c, 0x10000000, 4, K), 0x5a5a5a5a);
	x86_write32(c, 0x10000000, 1);
	assert_int_equal(f->io_count, 1);
	assert_true(f->io[0].write);
	assert_int_equal(f->io[0].addr, 0x10000000);
	assert_int_equal(rom[0], 0x5a);
	fake_slot(f, 1, 0, 0, 0, NULL);
	free(rom);
}

static void test_flush(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t local = fake_map(f, HIGH, 0x7000, P | W), global = fake_map(f, HIGH + 0x1000, 0x8000, P | W | G);

	fake_poke64(f, 0x7000, 7);
	fake_poke64(f, 0x8000, 8);
	fake_poke64(f, 0x9000, 9);
	assert_int_equal(x86_read64(c, HIGH), 7);
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 8);
	fake_poke64(f, local, 0x9000 | P | W);
	fake_poke64(f, global, 0x9000 | P | W);
	assert_int_equal(x86_read64(c, HIGH), 7); /* cached */
	x86_tlb_flush_nonglobal(c);
	assert_int_equal(x86_read64(c, HIGH), 9);
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 8);
	x86_tlb_flush_page(c, GVA(HIGH + 0x1000 + 0x400000)); /* same index, another page */
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 8);
	x86_tlb_flush_page(c, GVA(HIGH + 0x1abc));
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 9);
	/* It is no global one any more. */
	fake_poke64(f, global, 0x8000 | P | W | G);
	x86_tlb_flush_nonglobal(c);
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 8);
	fake_poke64(f, global, 0x7000 | P | W | G);
	x86_tlb_flush_all(c);
	assert_int_equal(x86_read64(c, HIGH + 0x1000), 7);
}

/* INVLPG drops everything a large page gave, in every context, and nothing else. */
static void test_flush_large(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t other = HIGH + 0x40000000, pd, n;

	fake_map(f, HIGH, 0x7000, P | W | U);
	fake_map(f, other, 0x7000, P | W | U);
	pd = fake_peek64(f, fake_peek64(f, f->cpu.cr3 + 256 * 8) & ~UINT64_C(0xfff)) & ~UINT64_C(0xfff);
	fake_poke64(f, pd + 8, 0x200000 | P | W | U | PS | G);
	x86_read8(c, HIGH + 0x201000);
	x86_read8(c, HIGH + 0x3ff000);
	x86_read8_mmu(c, HIGH + 0x202000, X86_MMU_USER);
	x86_read8(c, HIGH);
	x86_read8(c, other);
	n = fills(f);
	x86_tlb_flush_page(c, GVA(HIGH + 0x1fffff));
	x86_tlb_flush_page(c, GVA(HIGH + 0x400000));
	x86_read8(c, HIGH + 0x201000);
	assert_int_equal(fills(f), n);
	x86_tlb_flush_page(c, GVA(HIGH + 0x2abcde));
	x86_read8(c, other);
	assert_int_equal(fills(f), n);
	x86_read8(c, HIGH + 0x201000);
	x86_read8(c, HIGH + 0x3ff000);
	x86_read8_mmu(c, HIGH + 0x202000, X86_MMU_USER);
	assert_int_equal(fills(f), n + 3);
}

/* After any mix of fills and flushes no entry is in use without its bit, in one set exactly. */
#define SETS_GVA(i) (HIGH + (i) % 16 * 0x11000 + (i) / 16 * 0x400000) /* four pages an index */

static void test_sets(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint32_t seed = 12345;

	for (unsigned i = 0; i < 64; i++)
		fake_map(f, SETS_GVA(i), 0x20000 + i * 0x1000, P | W | U | (i & 16 ? G : 0));
	for (unsigned round = 0; round < 4000; round++) {
		seed = seed * 1664525 + 1013904223;
		uint64_t gva = SETS_GVA((seed >> 8) % 64);

		switch ((seed >> 24) % 32) {
		case 0: x86_tlb_flush_nonglobal(c); break;
		case 1: x86_tlb_flush_page(c, GVA(gva)); break;
		case 2 ... 8: x86_read8(c, gva & 0x3ff000); break; /* a large page's */
		case 9:
			if (round % 7 == 0)
				x86_tlb_flush_all(c);
			break;
		default: x86_read8_mmu(c, gva, (seed >> 20) % 2); break;
		}
	}
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		for (unsigned i = 0; i < X86_TLB_SIZE; i++) {
			const struct x86_tlb_info *e = &c->tlb->info[mmu][i];
			const struct x86_tlb_entry *tags = &c->tlb->e[mmu][i];
			unsigned local = (c->tlb->local.w[mmu][i / 64] >> (i % 64)) & 1;
			unsigned global = (c->tlb->global.w[mmu][i / 64] >> (i % 64)) & 1;
			unsigned large = (c->tlb->large.w[mmu][i / 64] >> (i % 64)) & 1;

			assert_int_equal(local + global, e->flags != 0);
			if (e->flags) {
				assert_int_equal(global, e->global);
				assert_int_equal(large, e->page_shift > 12);
			} else {
				assert_int_equal(tags->tag_read & tags->tag_write & tags->tag_exec & 1, 1);
				assert_int_equal(large, 0);
			}
		}
	}
}

static unsigned hook_calls, hook_len;
static uint64_t hook_gpa;

static void hook(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
	(void)cpu;
	hook_calls++;
	hook_gpa = gpa.v;
	hook_len = len;
}

static void test_code_pages(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t n;

	hook_calls = 0;
	c->tlb->code_written = hook;
	fake_map(f, HIGH, 0x6000, P | W);
	x86_write32(c, 0x6000, 1);
	x86_write32(c, HIGH, 1);
	assert_false(x86_tlb_is_code(c, GPA(0x6000)));
	x86_tlb_protect_code(c, GPA(0x6123));
	assert_true(x86_tlb_is_code(c, GPA(0x6fff)));
	assert_false(x86_tlb_is_code(c, GPA(0x7000)));
	n = fills(f);
	x86_write32(c, 0x6010, 2);
	assert_int_equal(hook_calls, 1);
	assert_int_equal(hook_gpa, 0x6010);
	assert_int_equal(hook_len, 4);
	x86_write64(c, HIGH + 0x20, 3); /* through another mapping */
	assert_int_equal(hook_calls, 2);
	assert_int_equal(hook_gpa, 0x6020);
	x86_write_bytes(c, 0x6030, "0123456789", 10, K);
	assert_int_equal(hook_calls, 3);
	assert_int_equal(hook_len, 10);
	x86_write32(c, 0x5ffe, 4); /* into the page from outside */
	assert_int_equal(hook_calls, 4);
	assert_int_equal(hook_gpa, 0x6000);
	assert_int_equal(hook_len, 2);
	assert_non_null(x86_host_write_ptr(c, 0x6040, 8, K));
	assert_int_equal(hook_calls, 5);
	assert_int_equal(x86_read32(c, 0x6010), 2);
	x86_write32(c, 0x7000, 5);
	assert_int_equal(hook_calls, 5);
	assert_int_equal(fills(f), n + 2); /* pages 5 and 7: a withheld tag costs no walk */

	x86_tlb_unprotect_all_code(c);
	x86_tlb_flush_all(c);
	x86_write32(c, 0x6010, 2);
	assert_int_equal(hook_calls, 5);
}

static void test_dirty_log(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t *mem = aligned_alloc(4096, 8 * 4096);
	struct mem_hit hit;

	fake_slot(f, 1, MEM_SLOT_LOG_DIRTY, 0x10000000, 8 * 4096, mem);
	assert_true(mem_lookup(&f->mem, GPA(0x10000000), &hit));
	x86_read32(c, 0x10000000);
	assert_int_equal(hit.slot->dirty[0], 0);
	x86_write32(c, 0x10001000, 1);
	assert_int_equal(hit.slot->dirty[0], 2);
	hit.slot->dirty[0] = 0;
	x86_write32(c, 0x10001000, 1); /* again, though the page is in the TLB */
	assert_int_equal(hit.slot->dirty[0], 2);
	x86_write32(c, 0x10002ffe, 1);
	assert_int_equal(hit.slot->dirty[0], 2 | 4 | 8);
	/* Nobody could mark the page after a write through a pointer. */
	assert_null(x86_host_write_ptr(c, 0x10005008, 8, K));
	assert_ptr_equal(x86_host_read_ptr(c, 0x10005008, 8, K), mem + 0x5008);
	x86_write_bytes(c, 0x10004ffc, "01234567", 8, K);
	assert_int_equal(hit.slot->dirty[0], 2 | 4 | 8 | 16 | 32);
	fake_slot(f, 1, 0, 0, 0, NULL);
	free(mem);
}

/* DR0: 4 bytes at 0x6010, R/W = rw. */
static void watch(struct x86_cpu *c, unsigned rw)
{
	c->dr[0] = 0x6010;
	c->dr[7] = X86_DR7_FIXED1 | 2 | (uint64_t)rw << 16 | UINT64_C(3) << 18;
	c->dr_watch = true;
	c->ev.db_pending = 0;
	c->attention = 0;
	x86_tlb_flush_all(c);
}

static void test_watch(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t buf[16];

	watch(c, 1);
	x86_read32(c, 0x6010);
	x86_write8(c, 0x600f, 1);
	x86_write32(c, 0x6014, 1);
	assert_int_equal(c->ev.db_pending, 0);
	assert_int_equal(c->attention, 0);
	x86_write8(c, 0x6013, 1);
	assert_int_equal(c->ev.db_pending, 1);
	assert_int_equal(c->attention, X86_ATT_TRAP);
	c->ev.db_pending = 0;
	x86_write64(c, 0x6009, 1); /* touches its first byte */
	assert_int_equal(c->ev.db_pending, 1);
	c->ev.db_pending = 0;
	x86_write_bytes(c, 0x6000, buf, 16, K);
	assert_int_equal(c->ev.db_pending, 0);
	assert_null(x86_host_write_ptr(c, 0x6008, 16, K));
	assert_non_null(x86_host_read_ptr(c, 0x6008, 16, K));
	assert_non_null(x86_host_write_ptr(c, 0x6000, 16, K));

	watch(c, 3);
	x86_read8(c, 0x6012);
	assert_int_equal(c->ev.db_pending, 1);
	assert_null(x86_host_read_ptr(c, 0x6008, 16, K));
	watch(c, 3);
	x86_read_bytes(c, 0x6008, buf, 16, K);
	assert_int_equal(c->ev.db_pending, 1);
	watch(c, 0); /* an instruction breakpoint is none of ours */
	x86_write32(c, 0x6010, 1);
	assert_int_equal(c->ev.db_pending, 0);
	watch(c, 1);
	c->dr[7] &= ~UINT64_C(3); /* disabled */
	x86_tlb_flush_all(c);
	x86_write32(c, 0x6010, 1);
	assert_int_equal(c->ev.db_pending, 0);
}

static void test_host_ptr(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_ptr_equal(x86_host_read_ptr(c, 0x6ff0, 16, K), f->ram + 0x6ff0);
	assert_ptr_equal(x86_host_write_ptr(c, 0x6ff0, 16, K), f->ram + 0x6ff0);
	assert_null(x86_host_read_ptr(c, 0x6ff1, 16, K));
	assert_null(x86_host_write_ptr(c, 0x6ff1, 16, K));
	EXPECT_PF(f, HIGH + 8, 0, x86_host_read_ptr(c, HIGH + 8, 8, K));
}

static void test_fetch(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint8_t buf[16];
	gpa_t gpa;

	fake_map(f, HIGH, 0x9000, P);
	fake_map(f, HIGH + 0x1000, 0x7000, P);
	memset(f->ram + 0x9ff8, 0x11, 8);
	memset(f->ram + 0x7000, 0x22, 8);
	assert_int_equal(x86_fetch(c, HIGH + 0xffc, buf, 15, &gpa), 15);
	assert_int_equal(gpa.v, 0x9ffc);
	assert_memory_equal(buf, "\x11\x11\x11\x11\x22\x22\x22\x22", 8);
	assert_int_equal(x86_tlb_slot(c, c->mmu_index, HIGH)->tag_exec, HIGH);

	/* The second page can not be had: what there is; none of the first: #PF. */
	fake_map(f, HIGH + 0x1000, 0x7000, P | XD);
	x86_tlb_flush_all(c);
	assert_int_equal(x86_fetch(c, HIGH + 0xffc, buf, 15, &gpa), 4);
	EXPECT_PF(f, HIGH + 0x1000, X86_PFEC_P | X86_PFEC_I, x86_fetch(c, HIGH + 0x1000, buf, 15, &gpa));
	assert_int_equal(FAKE_CATCH(f, x86_read8(c, HIGH + 0x1000)), 0);
	EXPECT_PF(f, HIGH + 0x1008, X86_PFEC_P | X86_PFEC_I, x86_fetch(c, HIGH + 0x1008, buf, 1, &gpa));
	fake_user_mode(f);
	EXPECT_PF(f, HIGH, X86_PFEC_P | X86_PFEC_I | X86_PFEC_U, x86_fetch(c, HIGH, buf, 1, &gpa));

	/* Nothing there: an idle bus. */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(x86_fetch(c, HOLE, buf, 3, &gpa), 3);
	assert_memory_equal(buf, "\xff\xff\xff\0", 4);
	assert_int_equal(gpa.v, HOLE);
	assert_int_equal(f->io_count, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(sizes), TEST(dirty_bit),   TEST(faults), TEST(contexts),        TEST(crossing),
		TEST(wrap),  TEST(bytes),       TEST(mmio),   TEST(mmio_and_memory), TEST(readonly_slot),
		TEST(flush), TEST(flush_large), TEST(sets),   TEST(code_pages),      TEST(dirty_log),
		TEST(watch), TEST(host_ptr),    TEST(fetch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
