/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O and MMIO: exits, restart and replay, the library's own devices, I/O breakpoints. */
#include "fakecpu.h"

static int setup(void **state)
{
	*state = fake_create(1 << 20);
	return 0;
}

static int teardown(void **state)
{
	fake_destroy(*state);
	return 0;
}

/* What an engine does around one instruction. */
static int run(struct fake *f, void (*insn)(struct x86_cpu *cpu))
{
	int how;

	x86_io_rewind(&f->cpu);
	how = FAKE_CATCH(f, insn(&f->cpu));
	if (!how)
		x86_io_finish(&f->cpu);
	return how;
}

static uint64_t result;

static void insn_in(struct x86_cpu *cpu)
{
	result = x86_pio_read(cpu, 0x3f8, 2);
}

static void insn_out(struct x86_cpu *cpu)
{
	x86_pio_write(cpu, 0x3f8, 0x11223344, 4);
}

static void insn_movs(struct x86_cpu *cpu)
{
	result = x86_mmio_read(cpu, GPA(0xfed00000), 8);
	x86_mmio_write(cpu, GPA(0xfed01000), result + 1, 8);
}

static void test_pio_exit(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_int_equal(run(f, insn_in), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_PIO);
	assert_true(c->io.pending_valid && c->io.pending.pio && !c->io.pending.write);
	assert_int_equal(c->io.pending.addr, 0x3f8);
	assert_int_equal(c->io.pending.len, 2);
	assert_int_equal(c->io.rip, c->rip);
	x86_io_complete(c, "\x34\x12\xff\xff");
	assert_false(c->io.pending_valid);
	assert_int_equal(c->io.logged, 1);
	assert_int_equal(run(f, insn_in), 0);
	assert_int_equal(result, 0x1234);
	assert_int_equal(c->io.logged, 0);

	assert_int_equal(run(f, insn_out), X86_UNWIND_EXIT);
	assert_true(c->io.pending.write);
	assert_int_equal(guest_load32(c->io.pending.data), 0x11223344);
	x86_io_complete(c, NULL);
	assert_int_equal(run(f, insn_out), 0);
}

/* Two accesses, the second computed from the first: each goes out once. */
static void test_restart(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t v = 41;

	assert_int_equal(run(f, insn_movs), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_MMIO);
	assert_int_equal(c->io.pending.addr, 0xfed00000);
	x86_io_complete(c, &v);
	assert_int_equal(run(f, insn_movs), X86_UNWIND_EXIT);
	assert_int_equal(c->io.pending.addr, 0xfed01000);
	assert_true(c->io.pending.write && !c->io.pending.pio);
	assert_int_equal(guest_load64(c->io.pending.data), 42);
	x86_io_complete(c, NULL);
	assert_int_equal(c->io.logged, 2);
	assert_int_equal(run(f, insn_movs), 0);
	assert_int_equal(result, 41);
}

static void test_in_library(void **state)
{
	struct fake *f = *state;

	f->io_handled = true;
	f->read_data[f->read_count++] = 6;
	assert_int_equal(run(f, insn_movs), 0);
	assert_int_equal(f->io_count, 2);
	assert_int_equal(f->io[0].addr, 0xfed00000);
	assert_int_equal(f->io[0].len, 8);
	assert_true(f->io[1].write);
	assert_int_equal(f->io[1].data, 7);
	assert_int_equal(f->stat[STAT_IO_IN_LIBRARY], 2);
}

/* Half in the library, half by the client: the restart does not disturb the library's device again. */
static void test_mixed(void **state)
{
	struct fake *f = *state;

	f->io_handled = true;
	f->read_data[f->read_count++] = 1;
	x86_io_rewind(&f->cpu);
	assert_int_equal(FAKE_CATCH(f, result = x86_mmio_read(&f->cpu, GPA(0xfed00000), 8)), 0);
	f->io_handled = false;
	assert_int_equal(run(f, insn_movs), X86_UNWIND_EXIT);
	assert_int_equal(f->io_count, 1);
	assert_int_equal(guest_load64(f->cpu.io.pending.data), 2);
	x86_io_complete(&f->cpu, NULL);
	assert_int_equal(run(f, insn_movs), 0);
	assert_int_equal(f->io_count, 1);
}

static void test_log_dropped(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t v = 5;

	/* Another instruction at the same RIP: the log does not fit and is dropped. */
	run(f, insn_movs);
	x86_io_complete(c, &v);
	assert_int_equal(run(f, insn_in), X86_UNWIND_EXIT);
	assert_int_equal(c->io.logged, 0);
	assert_int_equal(c->io.pending.addr, 0x3f8);

	/* The same instruction elsewhere: likewise. */
	x86_io_complete(c, &v);
	c->rip += 2;
	assert_int_equal(run(f, insn_in), X86_UNWIND_EXIT);
	assert_int_equal(c->io.logged, 0);
	assert_int_equal(c->io.rip, c->rip);
}

static void many(struct x86_cpu *cpu)
{
	for (unsigned i = 0; i <= X86_IO_LOG_MAX; i++)
		x86_pio_write(cpu, (uint16_t)i, i, 1);
}

static void test_overflow(void **state)
{
	struct fake *f = *state;

	f->io_handled = true;
	assert_int_equal(run(f, many), X86_UNWIND_EXIT);
	assert_int_equal(f->cpu.exit_reason, X86_EXIT_INTERNAL_ERROR);
	assert_int_equal(f->io_count, X86_IO_LOG_MAX);
	assert_non_null(strstr(f->cpu.error_text, "port"));
}

static void test_breakpoint(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	f->io_handled = true;
	c->dr[2] = 0x3f9;
	c->dr[7] = X86_DR7_FIXED1 | BIT64(5) | UINT64_C(2) << 24; /* G2, R/W2 = I/O */
	c->dr_watch = true;
	assert_int_equal(run(f, insn_in), 0);
	assert_int_equal(c->ev.db_pending, 0); /* CR4.DE = 0 */
	c->cr4 |= X86_CR4_DE;
	assert_int_equal(run(f, insn_in), 0);
	assert_int_equal(c->ev.db_pending, BIT64(2));
	assert_true(c->attention & X86_ATT_TRAP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pio_exit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_in_library, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mixed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_breakpoint, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
