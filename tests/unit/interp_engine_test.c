/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter as an engine: blocks and changing code, precise fetch faults, counting, I/O restarts,
 * events, single-step.
 */
#include "interpfix.h"

/* ---- blocks ---- */

static void counts_instructions(void **state)
{
	(void)state;
	/* mov ecx, 10; 1: dec ecx; jnz 1b; hlt */
	CODE(0xb9, 10, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->rip, FAKE_CODE + 10);
	assert_int_equal(f->stat[STAT_INSNS], 1 + 20 + 1);
	assert_false(cpu->unwind_valid);
}

static void once_runs_one(void **state)
{
	(void)state;
	CODE(0xff, 0xc0, 0xff, 0xc0, 0xf4);
	cpu->gpr[X86_RAX] = 0;
	assert_int_equal(interp_engine.run(cpu, true), X86_EXIT_INSN_DONE);
	assert_int_equal(cpu->gpr[X86_RAX], 1);
	assert_int_equal(cpu->rip, FAKE_CODE + 2);
	assert_int_equal(f->stat[STAT_INSNS], 1);
}

static void changes_next_instruction(void **state)
{
	(void)state;
	/* movb $0x48, 1(%rip)  (the ModRM.. of: inc eax -> dec eax via ff c0 -> ff c8) */
	CODE(0xc6, 0x05, 0x01, 0, 0, 0, 0xc8, 0xff, 0xc0, 0xf4);
	cpu->gpr[X86_RAX] = 5;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 4);
	/* And with the page cached from before. */
	f->ram[FAKE_CODE + 8] = 0xc0;
	cpu->rip = FAKE_CODE;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 3);
}

static void sees_foreign_writes(void **state)
{
	(void)state;
	CODE(0xff, 0xc0, 0xf4);
	cpu->gpr[X86_RAX] = 0;
	for (unsigned n = 0; n < 3; n++) {
		cpu->rip = FAKE_CODE;
		assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	}
	assert_int_equal(cpu->gpr[X86_RAX], 3);
	assert_int_equal(f->stat[STAT_BLOCKS_DECODED], 1);
	f->ram[FAKE_CODE + 1] = 0xc8; /* as DMA would */
	cpu->rip = FAKE_CODE;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 2);
	assert_int_equal(f->stat[STAT_BLOCKS_INVALIDATED], 1);
}

static void arena_is_bounded(void **state)
{
	uint64_t wipes = interp_of(cpu)->cache->wipes;

	(void)state;
	/* A new block every time: mov eax, imm32 with changing bytes, then hlt. */
	CODE(0xb8, 0, 0, 0, 0, 0xf4);
	for (uint32_t n = 0; n < 150000; n++) {
		fake_poke32(f, FAKE_CODE + 1, n);
		cpu->rip = FAKE_CODE;
		assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
		assert_int_equal(cpu->gpr[X86_RAX], n);
	}
	assert_true(interp_of(cpu)->cache->wipes > wipes);
}

/* ---- fetching ---- */

static void straddles_pages(void **state)
{
	static const uint8_t mov[] = { 0xb8, 0x11, 0x22, 0x33, 0x44 };

	(void)state;
	fake_map(f, HIGH, HIGH_GPA, 0x67);
	memcpy(f->ram + HIGH_GPA + 0xffe, mov, 2);
	memcpy(f->ram + HIGH_GPA + 0x2000, mov + 2, 3);
	memcpy(f->ram + HIGH_GPA + 0x3000, mov, 3);
	/* The second page is not there. */
	cpu->rip = HIGH + 0xffe;
	assert_raises(X86_PF_EXC);
	assert_int_equal(cpu->ev.exc_cr2, HIGH + 0x1000);
	assert_int_equal(cpu->ev.exc_error, X86_PFEC_I);
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x2000, 0x67);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX], 0x44332211);
	assert_int_equal(cpu->rip, HIGH + 0x1003);
	/* Another page in its place. */
	fake_map(f, HIGH + 0x1000, HIGH_GPA + 0x3000, 0x67);
	x86_tlb_flush_all(cpu);
	cpu->rip = HIGH + 0xffe;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX], 0x2211b811);
	/* And gone again. */
	fake_map(f, HIGH + 0x1000, 0, 0);
	x86_tlb_flush_all(cpu);
	cpu->rip = HIGH + 0xffe;
	assert_raises(X86_PF_EXC);
}

static void bad_bytes_at_page_end(void **state)
{
	(void)state;
	fake_map(f, HIGH, HIGH_GPA, 0x67);
	/* #UD needs no byte of the missing page; an incomplete instruction does. */
	f->ram[HIGH_GPA + 0xfff] = 0x06; /* push es: none in 64-bit mode */
	cpu->rip = HIGH + 0xfff;
	assert_raises(X86_UD);
	f->ram[HIGH_GPA + 0xfff] = 0x0f;
	assert_raises(X86_PF_EXC);
	/* A complete instruction that ends with the page. */
	f->ram[HIGH_GPA + 0xfff] = 0x90;
	f->ram[HIGH_GPA + 0xffe] = 0xf5; /* cmc */
	cpu->rip = HIGH + 0xffe;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, HIGH + 0xfff);
}

static void too_long(void **state)
{
	(void)state;
	memset(f->ram + FAKE_CODE, 0x66, 15);
	f->ram[FAKE_CODE + 14] = 0xf5;
	assert_int_equal(exec(), 0);
	cpu->rip = FAKE_CODE;
	f->ram[FAKE_CODE + 14] = 0x66;
	assert_raises(X86_GP);
	/* LOCK where it may not be. */
	CODE(0xf0, 0x01, 0xc0);
	assert_raises(X86_UD);
	CODE(0xf0, 0x8b, 0x00);
	assert_raises(X86_UD);
	/* Nothing there at all: an idle bus is no instruction. */
	cpu->rip = f->ram_size + 0x1000;
	assert_raises(X86_UD);
}

static void code_limit(void **state)
{
	(void)state;
	fake_real_mode(f);
	x86_mode_update(cpu);
	/* mov ax, imm16 with its last byte at 0xffff, then the same one byte further. */
	put(FAKE_CODE + 0xfffd, (const uint8_t[]){ 0xb8, 0x34, 0x12 }, 3);
	cpu->rip = 0xfffd;
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->gpr[X86_RAX] & 0xffff, 0x1234);
	put(FAKE_CODE + 0xfffe, (const uint8_t[]){ 0xb8, 0x34, 0x12 }, 3);
	cpu->rip = 0xfffe;
	assert_raises(X86_GP);
	/* jmp beyond the limit */
	protected_mode(4, 4);
	cpu->seg[X86_CS].limit = 0x1ffff;
	CODE(0xe9, 0xfb, 0xff, 0x00, 0x00); /* to 0x20000 */
	assert_raises(X86_GP);
	CODE(0xe9, 0xfa, 0xff, 0x00, 0x00);
	assert_int_equal(exec(), 0);
	assert_int_equal(cpu->rip, 0x1ffff);
	/* A two-byte instruction on the last byte. */
	f->ram[0x1ffff] = 0x89;
	assert_raises(X86_GP);
	f->ram[0x1ffff] = 0xf5;
	assert_int_equal(exec(), 0);
}

static void not_canonical(void **state)
{
	(void)state;
	CODE(0xff, 0xe0); /* jmp rax */
	cpu->gpr[X86_RAX] = UINT64_C(0x800000000000);
	assert_raises(X86_GP);
	CODE(0xff, 0xd0); /* call rax */
	assert_raises(X86_GP);
	CODE(0xc3);
	fake_poke64(f, FAKE_STACK - 8, UINT64_C(0x800000000000));
	cpu->gpr[X86_RSP] = FAKE_STACK - 8;
	assert_raises(X86_GP);
	CODE(0x8b, 0x00); /* mov eax, [rax] */
	assert_raises(X86_GP);
	CODE(0x8b, 0x45, 0x00); /* mov eax, [rbp] */
	cpu->gpr[X86_RBP] = UINT64_C(0x800000000000);
	assert_raises(X86_SS_EXC);
}

/* ---- I/O ---- */

static void outs_through_the_client(void **state)
{
	(void)state;
	memcpy(f->ram + 0x30000, "abc", 3);
	cpu->gpr[X86_RSI] = 0x30000;
	cpu->gpr[X86_RCX] = 3;
	cpu->gpr[X86_RDX] = 0x3f8;
	CODE(0xf3, 0x6e, 0xf4); /* rep outsb; hlt */
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_PIO);
		assert_int_equal(cpu->gpr[X86_RCX], 3 - n);
		assert_int_equal(cpu->rip, FAKE_CODE);
		assert_true(cpu->io.pending_valid);
		assert_true(cpu->io.pending.write);
		assert_int_equal(cpu->io.pending.addr, 0x3f8);
		assert_int_equal(cpu->io.pending.data[0], "abc"[n]);
		x86_io_complete(cpu, NULL);
	}
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RCX], 0);
	assert_int_equal(cpu->gpr[X86_RSI], 0x30003);
}

static void ins_faults_before_the_port(void **state)
{
	(void)state;
	cpu->gpr[X86_RDI] = HIGH;
	cpu->gpr[X86_RDX] = 0x60;
	f->io_handled = true;
	CODE(0x6c); /* insb */
	assert_raises(X86_PF_EXC);
	assert_int_equal(f->io_count, 0);
	fake_map(f, HIGH, HIGH_GPA, 0x67);
	f->read_data[0] = 0x42;
	f->read_count = 1;
	assert_int_equal(exec(), 0);
	assert_int_equal(f->ram[HIGH_GPA], 0x42);
	assert_int_equal(cpu->gpr[X86_RDI], HIGH + 1);
}

static void mmio_instruction_restarts(void **state)
{
	uint64_t answer = 0x1000;

	(void)state;
	fake_map(f, HIGH, 0xfee00000, 0x67);
	cpu->gpr[X86_RDI] = HIGH;
	cpu->gpr[X86_RAX] = 5;
	cpu->rflags |= X86_CF;
	CODE(0x11, 0x07, 0xf4); /* adc [rdi], eax: a read and a write for the client */
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_MMIO);
	assert_false(cpu->io.pending.write);
	x86_io_complete(cpu, &answer);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_MMIO);
	assert_true(cpu->io.pending.write);
	assert_int_equal(guest_load32(cpu->io.pending.data), 0x1006);
	assert_true(cpu->rflags & X86_CF);
	x86_io_complete(cpu, NULL);
	/* The client may ask for just this instruction's end. */
	assert_int_equal(interp_engine.run(cpu, true), X86_EXIT_INSN_DONE);
	assert_int_equal(cpu->rip, FAKE_CODE + 2);
	assert_false(cpu->rflags & X86_CF);
	assert_int_equal(f->stat[STAT_INSNS], 1);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
}

static void client_moves_rip(void **state)
{
	(void)state;
	CODE(0xec, 0xf4); /* in al, dx; hlt */
	cpu->gpr[X86_RDX] = 0x60;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_PIO);
	x86_io_complete(cpu, &(uint64_t){ 7 });
	cpu->rip = FAKE_CODE + 1;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->io.logged, 0);
}

/* ---- events ---- */

static void gate(unsigned vector, uint64_t handler)
{
	fake_poke64(f, FAKE_IDT + 16 * vector,
		    (handler & 0xffff) | (uint64_t)FAKE_CS64 << 16 | UINT64_C(0x8e00) << 32 |
			    (handler >> 16 & 0xffff) << 48);
	fake_poke64(f, FAKE_IDT + 16 * vector + 8, handler >> 32);
}

static void fault_is_delivered(void **state)
{
	(void)state;
	gate(X86_PF_EXC, FAKE_CODE + 0x100);
	f->ram[FAKE_CODE + 0x100] = 0xf4;
	CODE(0xff, 0xc0, 0xff, 0x07); /* inc eax; inc [rdi] */
	cpu->gpr[X86_RDI] = HIGH + 0x123;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->rip, FAKE_CODE + 0x101);
	assert_int_equal(cpu->cr2, HIGH + 0x123);
	assert_int_equal(fake_peek64(f, cpu->gpr[X86_RSP]), X86_PFEC_W);
	assert_int_equal(fake_peek64(f, cpu->gpr[X86_RSP] + 8), FAKE_CODE + 2);
	assert_int_equal(f->stat[STAT_INSNS], 2); /* inc, hlt: not the one that faulted */
}

static void interrupt_ends_a_loop(void **state)
{
	(void)state;
	gate(0x20, FAKE_CODE + 0x100);
	f->ram[FAKE_CODE + 0x100] = 0xf4;
	CODE(0xfb, 0xeb, 0xfe); /* sti; jmp . */
	f->irq[0] = 0x20;
	f->irq_count = 1;
	x86_cpu_attention(cpu, X86_ATT_IRQ);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->rip, FAKE_CODE + 0x101);
	/* The instruction after STI ran before the interrupt. */
	assert_int_equal(fake_peek64(f, cpu->gpr[X86_RSP]), FAKE_CODE + 1);
	assert_int_equal(f->stat[STAT_INSNS], 3);
}

static void single_step(void **state)
{
	(void)state;
	gate(X86_DB, FAKE_CODE + 0x100);
	f->ram[FAKE_CODE + 0x100] = 0xf4;
	CODE(0xff, 0xc0, 0xff, 0xc0);
	cpu->rflags |= X86_TF;
	cpu->gpr[X86_RAX] = 0;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 1);
	assert_int_equal(fake_peek64(f, cpu->gpr[X86_RSP]), FAKE_CODE + 2);
	assert_true(cpu->dr[6] & X86_DR6_BS);
}

static void debugger_steps_rep_by_iteration(void **state)
{
	(void)state;
	CODE(0xf3, 0xaa, 0xf4);
	cpu->gpr[X86_RDI] = 0x30000;
	cpu->gpr[X86_RCX] = 3;
	cpu->guest_debug_step = true;
	for (unsigned n = 3; n-- > 0;) {
		assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_DEBUG);
		assert_int_equal(cpu->gpr[X86_RCX], n);
	}
	assert_int_equal(cpu->rip, FAKE_CODE + 2);
}

static void attention_leaves_a_loop(void **state)
{
	(void)state;
	CODE(0xeb, 0xfe);
	x86_cpu_attention(cpu, X86_ATT_EXIT);
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_ATTENTION);
	assert_int_equal(cpu->rip, FAKE_CODE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(counts_instructions),
		T(once_runs_one),
		T(changes_next_instruction),
		T(sees_foreign_writes),
		T(arena_is_bounded),
		T(straddles_pages),
		T(bad_bytes_at_page_end),
		T(too_long),
		T(code_limit),
		T(not_canonical),
		T(outs_through_the_client),
		T(ins_faults_before_the_port),
		T(mmio_instruction_restarts),
		T(client_moves_rip),
		T(fault_is_delivered),
		T(interrupt_ends_a_loop),
		T(single_step),
		T(debugger_steps_rep_by_iteration),
		T(attention_leaves_a_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
