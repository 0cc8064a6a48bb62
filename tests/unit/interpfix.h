/* SPDX-License-Identifier: Apache-2.0 */
/* What the interpreter's unit tests share: a fake vCPU in long mode with the engine on it. */
#ifndef TZ_TESTS_INTERPFIX_H
#define TZ_TESTS_INTERPFIX_H

#include "fakecpu.h"

#include "core/engine.h"
#include "interp/cache.h"
#include "interp/engine.h"
#include "x86/segment.h"

#define HIGH UINT64_C(0x8000000000) /* fake_map()'s range */
#define HIGH_GPA 0x40000u

static struct fake *f;
static struct x86_cpu *cpu;

static inline int setup(void **state)
{
	(void)state;
	f = fake_create(1 << 20);
	cpu = &f->cpu;
	fake_long_mode(f);
	return interp_engine.vcpu_create(cpu);
}

static inline int teardown(void **state)
{
	(void)state;
	interp_engine.vcpu_destroy(cpu);
	fake_destroy(f);
	return 0;
}

#define CODE(...) put(FAKE_CODE, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static inline void put(uint64_t gpa, const uint8_t *bytes, size_t n)
{
	memcpy(f->ram + gpa, bytes, n);
}

/* One instruction, without event delivery. The unwind value, 0 if it completed. */
static inline int exec(void)
{
	return FAKE_CATCH(f, {
		const struct interp_block *b = interp_block_find(cpu, interp_of(cpu));
		b->insn->exec(cpu, b->insn);
	});
}

static inline void assert_raises(enum x86_vector vector)
{
	uint64_t rip = cpu->rip, rsp = cpu->gpr[X86_RSP];

	assert_int_equal(exec(), X86_UNWIND_EVENT);
	assert_int_equal(cpu->ev.exc_vector, vector);
	assert_int_equal(cpu->rip, rip);
	assert_int_equal(cpu->gpr[X86_RSP], rsp);
	cpu->ev.exc_pending = false;
}

/* 32-bit protected mode with a 16-bit or 32-bit code segment and stack. */
static inline void protected_mode(unsigned code, unsigned stack)
{
	fake_protected_mode(f);
	if (code == 2)
		cpu->seg[X86_CS].ar &= ~X86_AR_DB;
	if (stack == 2)
		cpu->seg[X86_SS].ar &= ~X86_AR_DB;
	x86_mode_update(cpu);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
