/* SPDX-License-Identifier: Apache-2.0 */
/* System instructions through decoder, bind and handler: what they do, and what they refuse to whom. */
#include "fakecpu.h"

#include "core/engine.h"
#include "interp/engine.h"
#include "interp/interp.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/segment.h"

#define DATA 0x18000u /* in RAM, mapped to itself */

static int setup(void **state)
{
	struct fake *f = fake_create(4u << 20);

	x86_reset(&f->cpu, false);
	assert_int_equal(interp_engine.vcpu_create(&f->cpu), 0);
	fake_long_mode(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;

	interp_engine.vcpu_destroy(&f->cpu);
	fake_destroy(f);
	return 0;
}

static int run_bytes(struct fake *f, const uint8_t *bytes, unsigned n)
{
	struct interp_insn insn;

	interp_of(&f->cpu)->abort_block = false;
	f->cpu.ev.exc_pending = false;
	assert_true(interp_decode(&f->cpu, interp_mode_of(&f->cpu), bytes, n, &insn));
	return FAKE_CATCH(f, insn.exec(&f->cpu, &insn));
}

#define RUN(f, ...)                                                                                                    \
	({                                                                                                             \
		static const uint8_t run_code[] = { __VA_ARGS__ };                                                     \
		run_bytes(f, run_code, sizeof(run_code));                                                              \
	})
/* Runs to its end, RIP behind it. */
#define assert_ok(f, ...)                                                                                              \
	do {                                                                                                           \
		static const uint8_t ok_code[] = { __VA_ARGS__ };                                                      \
		uint64_t ok_rip = (f)->cpu.rip;                                                                        \
		assert_int_equal(run_bytes(f, ok_code, sizeof(ok_code)), 0);                                           \
		assert_int_equal((f)->cpu.rip, ok_rip + sizeof(ok_code));                                              \
	} while (0)
/* Raises, and nothing has changed but the recorded event. */
#define assert_faults(f, vector, ...)                                                                                  \
	do {                                                                                                           \
		static const uint8_t bad_code[] = { __VA_ARGS__ };                                                     \
		uint64_t bad_gpr[16], bad_rip = (f)->cpu.rip, bad_flags = (f)->cpu.rflags;                             \
		memcpy(bad_gpr, (f)->cpu.gpr, sizeof(bad_gpr));                                                        \
		assert_int_equal(run_bytes(f, bad_code, sizeof(bad_code)), X86_UNWIND_EVENT);                          \
		assert_int_equal((f)->cpu.ev.exc_vector, vector);                                                      \
		assert_int_equal((f)->cpu.rip, bad_rip);                                                               \
		assert_int_equal((f)->cpu.rflags, bad_flags);                                                          \
		assert_memory_equal((f)->cpu.gpr, bad_gpr, sizeof(bad_gpr));                                           \
	} while (0)

static bool aborts(struct fake *f)
{
	return interp_of(&f->cpu)->abort_block;
}

/* Each privileged instruction is #GP(0) at CPL 3 (SDM 3A 5.9). */
static void test_privileged(void **state)
{
	struct fake *f = *state;

	fake_user_mode(f);
	f->cpu.gpr[X86_RAX] = f->cpu.gpr[X86_RBX] = DATA;
	assert_faults(f, X86_GP, 0x0f, 0x20, 0xc0);             /* mov rax, cr0 */
	assert_faults(f, X86_GP, 0x0f, 0x22, 0xd8);             /* mov cr3, rax */
	assert_faults(f, X86_GP, 0x44, 0x0f, 0x20, 0xc0);       /* mov rax, cr8 */
	assert_faults(f, X86_GP, 0x0f, 0x21, 0xf8);             /* mov rax, dr7 */
	assert_faults(f, X86_GP, 0x0f, 0x23, 0xf8);             /* mov dr7, rax */
	assert_faults(f, X86_GP, 0x0f, 0x06);                   /* clts */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xf0);             /* lmsw ax */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x10);             /* lgdt [rax] */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x18);             /* lidt [rax] */
	assert_faults(f, X86_GP, 0x0f, 0x00, 0xd0);             /* lldt ax */
	assert_faults(f, X86_GP, 0x0f, 0x00, 0xd8);             /* ltr ax */
	assert_faults(f, X86_GP, 0x0f, 0x08);                   /* invd */
	assert_faults(f, X86_GP, 0x0f, 0x09);                   /* wbinvd */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x38);             /* invlpg [rax] */
	assert_faults(f, X86_GP, 0x66, 0x0f, 0x38, 0x82, 0x03); /* invpcid rax, [rbx] */
	assert_faults(f, X86_GP, 0x0f, 0x32);                   /* rdmsr */
	assert_faults(f, X86_GP, 0x0f, 0x30);                   /* wrmsr */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xd1);             /* xsetbv */
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xf8);             /* swapgs */
	assert_faults(f, X86_GP, 0xf4);                         /* hlt */
	assert_faults(f, X86_GP, 0xfa);                         /* cli */
	assert_faults(f, X86_GP, 0xfb);                         /* sti */
	assert_faults(f, X86_GP, 0x0f, 0x33);                   /* rdpmc */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xca);             /* clac */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xcb);             /* stac */
}

static void test_undefined(void **state)
{
	struct fake *f = *state;

	assert_faults(f, X86_UD, 0x0f, 0x0b);       /* ud2 */
	assert_faults(f, X86_UD, 0x0f, 0xb9, 0xc0); /* ud1 */
	assert_faults(f, X86_UD, 0x0f, 0xff, 0xc0); /* ud0 */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xc2); /* vmlaunch */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xd8); /* vmrun */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xc8); /* monitor */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xc9); /* mwait */
	assert_faults(f, X86_UD, 0x0f, 0xaa);       /* rsm */
	assert_faults(f, X86_UD, 0xf0, 0xf4);       /* lock hlt */
	assert_faults(f, X86_UD, 0x0f, 0x20, 0xc8); /* mov rax, cr1 */
	assert_faults(f, X86_UD, 0x8e, 0xc8);       /* mov cs, eax */
	f->cpu.cr4 &= ~X86_CR4_OSXSAVE;
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xd0);       /* xgetbv */
	assert_faults(f, X86_UD, 0x0f, 0x01, 0xee);       /* rdpkru without CR4.PKE */
	assert_faults(f, X86_UD, 0xf3, 0x0f, 0xae, 0xc0); /* rdfsbase without CR4.FSGSBASE */
	f->cpu.efer &= ~X86_EFER_SCE;
	assert_faults(f, X86_UD, 0x0f, 0x05); /* syscall */
}

static void test_umip(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RAX] = DATA;
	fake_user_mode(f);
	assert_ok(f, 0x0f, 0x01, 0x00); /* sgdt [rax] */
	assert_int_equal((uint16_t)fake_peek64(f, DATA), FAKE_GDT_LIMIT);
	assert_int_equal(fake_peek64(f, DATA + 2), FAKE_GDT);
	assert_ok(f, 0x0f, 0x01, 0x08); /* sidt [rax] */
	assert_int_equal(fake_peek64(f, DATA + 2), FAKE_IDT);
	assert_ok(f, 0x0f, 0x00, 0x08); /* str [rax] */
	assert_int_equal((uint16_t)fake_peek64(f, DATA), FAKE_TR);
	c->cr4 |= X86_CR4_UMIP;
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x00);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x08);
	assert_faults(f, X86_GP, 0x0f, 0x00, 0x00); /* sldt */
	assert_faults(f, X86_GP, 0x0f, 0x00, 0x08);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xe0); /* smsw eax */
}

static void test_table_registers(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RAX] = DATA;
	fake_poke(f, DATA, "\x34\x12", 2);
	fake_poke64(f, DATA + 2, UINT64_C(0xffff800000001000));
	assert_ok(f, 0x0f, 0x01, 0x18); /* lidt [rax] */
	assert_int_equal(c->idtr.base, UINT64_C(0xffff800000001000));
	assert_int_equal(c->idtr.limit, 0x1234);
	fake_poke64(f, DATA + 2, UINT64_C(1) << 56);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x10); /* lgdt: not canonical */
	assert_int_equal(c->gdtr.base, FAKE_GDT);
	fake_poke64(f, DATA + 2, UINT64_C(1) << 50);
	assert_ok(f, 0x0f, 0x01, 0x18); /* 57 bits where CPUID has LA57, CR4.LA57 or not */
	fake_without(f, X86_FEAT_LA57);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0x18);
	/* 24 bits of base with a 16-bit operand size. */
	fake_protected_mode(f);
	fake_poke64(f, DATA + 2, 0xab123456);
	assert_ok(f, 0x66, 0x0f, 0x01, 0x18);
	assert_int_equal(c->idtr.base, 0x123456);
	assert_ok(f, 0x0f, 0x01, 0x18);
	assert_int_equal(c->idtr.base, 0xab123456);
}

static void test_control_moves(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_ok(f, 0x41, 0x0f, 0x20, 0xc0); /* mov r8, cr0 */
	assert_int_equal(c->gpr[8], c->cr0);
	c->gpr[9] = 7;
	assert_ok(f, 0x45, 0x0f, 0x22, 0xc1); /* mov cr8, r9 */
	assert_int_equal(c->cr8, 7);
	assert_true(aborts(f));
	c->gpr[X86_RCX] = UINT64_C(0x123456789a);
	assert_ok(f, 0x0f, 0x22, 0xd1); /* mov cr2, rcx */
	assert_int_equal(c->cr2, UINT64_C(0x123456789a));
	c->cr0 |= X86_CR0_TS;
	assert_ok(f, 0x0f, 0x06); /* clts */
	assert_false(c->cr0 & X86_CR0_TS);
	c->gpr[X86_RAX] = X86_CR0_TS;
	assert_ok(f, 0x0f, 0x01, 0xf0); /* lmsw ax: cannot clear PE */
	assert_true(c->cr0 & X86_CR0_TS);
	assert_true(c->cr0 & X86_CR0_PE);
	c->gpr[X86_RAX] = ~UINT64_C(0);
	assert_ok(f, 0x66, 0x0f, 0x01, 0xe0); /* smsw ax */
	assert_int_equal(c->gpr[X86_RAX], ~UINT64_C(0xffff) | (c->cr0 & 0xffff));
	c->gpr[X86_RAX] = UINT64_C(0xffff800012345678);
	assert_ok(f, 0x0f, 0x23, 0xd0); /* mov dr2, rax */
	assert_ok(f, 0x0f, 0x21, 0xd3); /* mov rbx, dr2 */
	assert_int_equal(c->gpr[X86_RBX], UINT64_C(0xffff800012345678));
}

static void test_segment_moves(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RAX] = FAKE_DS;
	c->attention = 0;
	assert_ok(f, 0x8e, 0xe0); /* mov fs, eax */
	assert_int_equal(c->seg[X86_FS].sel, FAKE_DS);
	assert_int_equal(c->ev.shadow, 0);
	assert_ok(f, 0x8e, 0xd0); /* mov ss, eax */
	assert_int_equal(c->ev.shadow, X86_SHADOW_MOV_SS);
	assert_true(aborts(f) && c->attention);
	c->ev.shadow = 0;
	c->gpr[X86_RBX] = ~UINT64_C(0);
	assert_ok(f, 0x8c, 0xe3); /* mov ebx, fs */
	assert_int_equal(c->gpr[X86_RBX], FAKE_DS);
	c->gpr[X86_RBX] = DATA;
	fake_poke64(f, DATA, ~UINT64_C(0));
	assert_ok(f, 0x48, 0x8c, 0x23); /* mov [rbx], fs: two bytes */
	assert_int_equal(fake_peek64(f, DATA), ~UINT64_C(0xffff) | FAKE_DS);
	c->gpr[X86_RAX] = 0x78;
	fake_poke64(f, FAKE_GDT + 0x78, 0);
	assert_faults(f, X86_GP, 0x8e, 0xe8); /* mov gs, eax: not a segment */
	assert_int_equal(c->ev.exc_error, 0x78);

	assert_ok(f, 0x0f, 0xa0); /* push fs */
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK - 8);
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), FAKE_DS);
	assert_ok(f, 0x0f, 0xa9); /* pop gs */
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK);
	assert_int_equal(c->seg[X86_GS].sel, FAKE_DS);

	fake_poke64(f, DATA, UINT64_C(0x1122334455667788));
	fake_poke(f, DATA + 8, "\x10", 2);
	assert_ok(f, 0x48, 0x0f, 0xb4, 0x0b); /* lfs rcx, [rbx] */
	assert_int_equal(c->gpr[X86_RCX], UINT64_C(0x1122334455667788));
	assert_int_equal(c->seg[X86_FS].sel, FAKE_DS);
}

static void test_descriptor_queries(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RAX] = ~UINT64_C(0);
	c->gpr[X86_RCX] = UINT64_C(0xdead0000) | FAKE_DS; /* only 16 bits count */
	assert_ok(f, 0x0f, 0x02, 0xc1);                   /* lar eax, ecx */
	assert_true(c->rflags & X86_ZF);
	assert_int_equal(c->gpr[X86_RAX], 0x00cf9300);
	assert_ok(f, 0x0f, 0x03, 0xc1); /* lsl eax, ecx */
	assert_int_equal(c->gpr[X86_RAX], 0xffffffff);
	c->gpr[X86_RCX] = 0xfff8;
	assert_ok(f, 0x0f, 0x02, 0xc1);
	assert_false(c->rflags & X86_ZF);
	assert_int_equal(c->gpr[X86_RAX], 0xffffffff);
	c->gpr[X86_RCX] = FAKE_CS64;
	assert_ok(f, 0x0f, 0x00, 0xe1); /* verr cx */
	assert_true(c->rflags & X86_ZF);
	assert_ok(f, 0x0f, 0x00, 0xe9); /* verw cx: code */
	assert_false(c->rflags & X86_ZF);

	fake_protected_mode(f);
	c->gpr[X86_RAX] = 0x10;
	c->gpr[X86_RCX] = 3;
	assert_ok(f, 0x63, 0xc8); /* arpl ax, cx */
	assert_int_equal(c->gpr[X86_RAX], 0x13);
	assert_true(c->rflags & X86_ZF);
	fake_real_mode(f);
	assert_faults(f, X86_UD, 0x63, 0xc8);
	assert_faults(f, X86_UD, 0x0f, 0x02, 0xc1);
	assert_faults(f, X86_UD, 0x0f, 0x00, 0xd8); /* ltr */
}

static void test_interrupt_flag(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->attention = 0;
	assert_ok(f, 0xfb);
	assert_int_equal(c->ev.shadow, X86_SHADOW_STI);
	assert_true(c->rflags & X86_IF);
	assert_true(aborts(f) && (c->attention & X86_ATT_IRQ));
	c->ev.shadow = 0;
	assert_ok(f, 0xfb); /* already set: no shadow */
	assert_int_equal(c->ev.shadow, 0);
	assert_ok(f, 0xfa);
	assert_false(c->rflags & X86_IF);
	fake_user_mode(f);
	c->rflags |= X86_IOPL;
	assert_ok(f, 0xfb);
	assert_true(c->rflags & X86_IF);
	/* PVI: CPL 3 with IOPL < 3 has VIF; VIP pending makes STI fault. */
	c->rflags &= ~(X86_IOPL | X86_IF);
	c->cr4 |= X86_CR4_PVI;
	assert_ok(f, 0xfb);
	assert_true(c->rflags & X86_VIF);
	assert_false(c->rflags & X86_IF);
	assert_ok(f, 0xfa);
	assert_false(c->rflags & X86_VIF);
	c->rflags |= X86_VIP;
	assert_faults(f, X86_GP, 0xfb);
}

static void test_popf_privileges(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	const uint64_t all = UINT64_C(0x3f7fd7);

	c->gpr[X86_RSP] = FAKE_STACK - 8;
	fake_poke64(f, FAKE_STACK - 8, all & ~X86_TF);
	assert_ok(f, 0x9d); /* popfq at CPL 0 */
	assert_int_equal(c->rflags, (all & ~(X86_TF | X86_VM | X86_RF | X86_VIF | X86_VIP)) | X86_FIXED1);
	c->rflags = X86_FIXED1;
	x86_mode_update(c);
	fake_user_mode(f);
	c->gpr[X86_RSP] = FAKE_STACK - 8;
	assert_ok(f, 0x9d); /* at CPL 3 with IOPL 0: neither IF nor IOPL */
	assert_false(c->rflags & (X86_IF | X86_IOPL));
	assert_true(c->rflags & X86_ID);
	c->rflags |= X86_RF | X86_VM;
	c->gpr[X86_RSP] = FAKE_STACK;
	assert_ok(f, 0x9c); /* pushfq shows neither RF nor VM */
	assert_int_equal(fake_peek64(f, FAKE_STACK - 8), c->rflags & ~(X86_RF | X86_VM));
	c->rflags &= ~(X86_RF | X86_VM);
	c->gpr[X86_RSP] = UINT64_C(1) << 40; /* not mapped */
	assert_faults(f, X86_PF_EXC, 0x9d);
	assert_faults(f, X86_PF_EXC, 0x9c);
}

static void test_v8086_flags(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_real_mode(f);
	c->cr0 |= X86_CR0_PE;
	c->rflags = X86_FIXED1 | X86_VM;
	c->seg[X86_SS].ar |= 3u << X86_AR_DPL_SHIFT;
	x86_mode_update(c);
	assert_true(c->v8086 && c->cpl == 3);
	assert_faults(f, X86_GP, 0xfa);
	assert_faults(f, X86_GP, 0x9c);
	assert_faults(f, X86_GP, 0x9d);
	c->cr4 |= X86_CR4_VME;
	c->rflags |= X86_VIF;
	assert_ok(f, 0x9c); /* pushf: IF shows VIF, IOPL shows 3 */
	assert_int_equal((uint16_t)fake_peek64(f, 0x7ffe), X86_FIXED1 | X86_IF | X86_IOPL);
	assert_faults(f, X86_GP, 0x66, 0x9c);
	assert_ok(f, 0xfa);
	assert_false(c->rflags & X86_VIF);
	assert_ok(f, 0x9d);
	assert_true(c->rflags & X86_VIF);
	assert_false(c->rflags & (X86_IF | X86_IOPL));
	c->rflags |= X86_IOPL;
	assert_ok(f, 0xfb);
	assert_true(c->rflags & X86_IF);
}

static void test_msr_tsc_cpuid(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RCX] = MSR_LSTAR;
	c->gpr[X86_RAX] = UINT64_C(0xdeadbeef00001000);
	c->gpr[X86_RDX] = UINT64_C(0x11111111ffff8000);
	assert_ok(f, 0x0f, 0x30);
	assert_int_equal(c->msr.lstar, UINT64_C(0xffff800000001000));
	assert_ok(f, 0x0f, 0x32);
	assert_int_equal(c->gpr[X86_RAX], 0x00001000);
	assert_int_equal(c->gpr[X86_RDX], 0xffff8000);
	c->gpr[X86_RCX] = 0x7777;
	assert_faults(f, X86_GP, 0x0f, 0x32);
	assert_faults(f, X86_GP, 0x0f, 0x30);

	f->tsc = UINT64_C(0x500000000);
	assert_ok(f, 0x0f, 0x31); /* rdtsc */
	assert_int_equal(c->gpr[X86_RDX], 5);
	assert_int_equal(c->gpr[X86_RAX], 100);
	c->msr.tsc_aux = 0x42;
	assert_ok(f, 0x0f, 0x01, 0xf9); /* rdtscp */
	assert_int_equal(c->gpr[X86_RCX], 0x42);
	assert_ok(f, 0xf3, 0x0f, 0xc7, 0xf8); /* rdpid rax */
	assert_int_equal(c->gpr[X86_RAX], 0x42);
	c->cpuid.count = 1;
	c->cpuid.entry[0] = (struct x86_cpuid_entry){ .leaf = 0, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4 };
	c->gpr[X86_RAX] = UINT64_C(0xffffffff00000000);
	assert_ok(f, 0x0f, 0xa2);
	assert_int_equal(c->gpr[X86_RAX], 1);
	assert_int_equal(c->gpr[X86_RBX], 2);
	assert_int_equal(c->gpr[X86_RCX], 3);
	assert_int_equal(c->gpr[X86_RDX], 4);
	fake_user_mode(f);
	c->cr4 |= X86_CR4_TSD;
	assert_faults(f, X86_GP, 0x0f, 0x31);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xf9);
}

static void test_extended_state(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RCX] = 0;
	c->gpr[X86_RDX] = 0;
	c->gpr[X86_RAX] = 7;
	assert_ok(f, 0x0f, 0x01, 0xd1); /* xsetbv */
	assert_int_equal(c->xcr0, 7);
	c->gpr[X86_RAX] = 5;
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xd1);
	assert_ok(f, 0x0f, 0x01, 0xd0); /* xgetbv */
	assert_int_equal(c->gpr[X86_RAX], 7);
	c->cr4 |= X86_CR4_PKE;
	c->gpr[X86_RAX] = 0x55;
	assert_ok(f, 0x0f, 0x01, 0xef); /* wrpkru */
	assert_int_equal(c->pkru, 0x55);
	c->gpr[X86_RCX] = 1;
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xee);
	assert_faults(f, X86_GP, 0x0f, 0x01, 0xef);
}

static void test_bases(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->seg[X86_GS].base = 1;
	c->msr.kernel_gs_base = 2;
	assert_ok(f, 0x0f, 0x01, 0xf8); /* swapgs */
	assert_int_equal(c->seg[X86_GS].base, 2);
	assert_int_equal(c->msr.kernel_gs_base, 1);
	c->cr4 |= X86_CR4_FSGSBASE;
	fake_user_mode(f);
	c->gpr[X86_RAX] = UINT64_C(0x7fff12345678);
	assert_ok(f, 0xf3, 0x48, 0x0f, 0xae, 0xd8); /* wrgsbase rax */
	assert_int_equal(c->seg[X86_GS].base, UINT64_C(0x7fff12345678));
	assert_ok(f, 0xf3, 0x0f, 0xae, 0xcb); /* rdgsbase ebx */
	assert_int_equal(c->gpr[X86_RBX], 0x12345678);
	c->gpr[X86_RAX] = UINT64_C(1) << 47;
	assert_ok(f, 0xf3, 0x48, 0x0f, 0xae, 0xd0); /* wrfsbase rax */
	c->gpr[X86_RAX] = UINT64_C(1) << 56;
	assert_faults(f, X86_GP, 0xf3, 0x48, 0x0f, 0xae, 0xd0);
	fake_without(f, X86_FEAT_LA57);
	c->gpr[X86_RAX] = UINT64_C(1) << 47;
	assert_faults(f, X86_GP, 0xf3, 0x48, 0x0f, 0xae, 0xd0);
}

#define VMCALL 0x0f, 0x01, 0xc1
#define VMMCALL 0x0f, 0x01, 0xd9

static void test_hypercalls(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RAX] = 9999;
	assert_ok(f, VMCALL);
	assert_true(c->gpr[X86_RAX] == (uint64_t)-1000);
	c->gpr[X86_RAX] = 1; /* KVM_HC_VAPIC_POLL_IRQ */
	assert_ok(f, VMMCALL);
	assert_int_equal(c->gpr[X86_RAX], 0);
	assert_true(atomic_load(&c->attention) & X86_ATT_IRQ);
	c->gpr[X86_RAX] = UINT64_C(1) << 32 | 1; /* 64 bits of number */
	assert_ok(f, VMCALL);
	assert_true(c->gpr[X86_RAX] == (uint64_t)-1000);
	c->gpr[X86_RAX] = 10; /* KVM_HC_SEND_IPI, without a LAPIC */
	assert_ok(f, VMCALL);
	assert_true(c->gpr[X86_RAX] == (uint64_t)-1000);
	fake_user_mode(f);
	c->gpr[X86_RAX] = 1;
	assert_ok(f, VMCALL);
	assert_true(c->gpr[X86_RAX] == (uint64_t)-1);
	fake_protected_mode(f);
	c->gpr[X86_RAX] = UINT64_C(1) << 32 | 1;
	assert_ok(f, VMCALL);
	assert_int_equal(c->gpr[X86_RAX], 0);
	c->gpr[X86_RAX] = 9999;
	assert_ok(f, VMMCALL);
	assert_true(c->gpr[X86_RAX] == (uint32_t)-1000);
}

static void test_ports(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	f->io_handled = true;
	f->read_data[0] = 0xa5;
	f->read_data[1] = 0x12345678;
	f->read_count = 2;
	c->gpr[X86_RAX] = ~UINT64_C(0);
	assert_ok(f, 0xe4, 0x70); /* in al, 0x70 */
	assert_int_equal(c->gpr[X86_RAX], ~UINT64_C(0xff) | 0xa5);
	x86_io_finish(c);
	c->gpr[X86_RDX] = 0x1cf8;
	assert_ok(f, 0xed); /* in eax, dx */
	assert_int_equal(c->gpr[X86_RAX], 0x12345678);
	x86_io_finish(c);
	assert_ok(f, 0x66, 0xef); /* out dx, ax */
	assert_int_equal(f->io[2].addr, 0x1cf8);
	assert_int_equal(f->io[2].len, 2);
	assert_int_equal(f->io[2].data, 0x5678);
	x86_io_finish(c);
	/* IOPL 0 and no bit for it in the TSS's map: the map lies beyond the limit here. */
	fake_user_mode(f);
	c->seg[X86_TR].limit = 103;
	fake_poke(f, FAKE_TSS + 102, "\x68", 2);
	assert_faults(f, X86_GP, 0xe4, 0x70);
	assert_faults(f, X86_GP, 0xee);
	/* Not handled in the library: leaves, uncommitted. */
	c->rflags |= X86_IOPL;
	f->io_handled = false;
	assert_int_equal(RUN(f, 0xec), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_PIO);
	assert_int_equal(c->gpr[X86_RAX], 0x12345678);
}

static void test_hlt(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->ev.shadow = X86_SHADOW_STI;
	assert_int_equal(RUN(f, 0xf4), X86_UNWIND_EXIT);
	assert_int_equal(c->exit_reason, X86_EXIT_HLT);
	assert_int_equal(c->rip, FAKE_CODE + 1);
	assert_int_equal(c->ev.shadow, 0);
	/* Single-stepped, it is over at once. */
	c->rflags |= X86_TF;
	assert_ok(f, 0xf4);
}

static void test_far_transfers(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	c->gpr[X86_RBX] = DATA;
	fake_poke64(f, DATA, 0x12000);
	fake_poke(f, DATA + 4, "\x18", 2);       /* FAKE_CS32 */
	assert_int_equal(RUN(f, 0xff, 0x2b), 0); /* jmp far [rbx]: m16:32 */
	assert_int_equal(c->rip, 0x12000);
	assert_int_equal(c->seg[X86_CS].sel, FAKE_CS32);
	assert_int_equal(c->code_size, 4);
	assert_true(aborts(f));
	assert_int_equal(RUN(f, 0xea, 0x00, 0x30, 0x01, 0x00, 0x08, 0x00), 0); /* jmp 8:13000 */
	assert_int_equal(c->rip, 0x13000);
	assert_true(x86_long64(c));
	fake_poke64(f, FAKE_STACK - 16, 0x14000);
	fake_poke64(f, FAKE_STACK - 8, FAKE_CS32);
	c->gpr[X86_RSP] = FAKE_STACK - 16;
	assert_int_equal(RUN(f, 0x48, 0xca, 0x10, 0x00), 0); /* retfq 16 */
	assert_int_equal(c->rip, 0x14000);
	assert_int_equal(c->gpr[X86_RSP], FAKE_STACK + 16);
}

static void test_software_interrupts(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	fake_real_mode(f);
	fake_poke32(f, 0x21 * 4, 0x20001234);
	fake_poke32(f, 3 * 4, 0x20000003);
	fake_poke32(f, 4 * 4, 0x20000004);
	assert_int_equal(RUN(f, 0xcd, 0x21), 0);
	assert_int_equal(c->seg[X86_CS].base, 0x20000);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal((uint16_t)fake_peek64(f, 0x7ffa), 2); /* IP behind INT n */
	assert_int_equal(RUN(f, 0xcf), 0);                     /* iret */
	assert_int_equal(c->rip, 2);
	assert_int_equal(RUN(f, 0xcc), 0);
	assert_int_equal(c->rip, 3);
	c->rip = 0x50;
	assert_ok(f, 0xce); /* into without OF */
	c->rflags |= X86_OF;
	assert_int_equal(RUN(f, 0xce), 0);
	assert_int_equal(c->rip, 4);
}

static void test_hints_and_lines(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;

	assert_ok(f, 0x0f, 0x1f, 0x00);   /* nop [rax] */
	for (unsigned i = 0; i < 64; i++) /* a loop of them is told to who can help */
		assert_ok(f, 0xf3, 0x90); /* pause */
	assert_in_range(f->spins, 1, 64);
	f->spins = 0;
	for (unsigned i = 0; i < 64; i++)
		assert_ok(f, 0x90); /* nop */
	assert_int_equal(f->spins, 0);
	assert_ok(f, 0xf3, 0x0f, 0x1e, 0xfa);                 /* endbr64 */
	assert_ok(f, 0xf3, 0x48, 0x0f, 0x1e, 0xc8);           /* rdsspq rax without CET */
	assert_ok(f, 0x0f, 0xae, 0xf0);                       /* mfence */
	assert_ok(f, 0x0f, 0x01, 0xe8);                       /* serialize */
	c->gpr[X86_RAX] = UINT64_C(1) << 40;                  /* not mapped */
	assert_ok(f, 0x0f, 0x0d, 0x08);                       /* prefetchw [rax] */
	assert_faults(f, X86_PF_EXC, 0x0f, 0xae, 0x38);       /* clflush [rax] */
	assert_faults(f, X86_PF_EXC, 0x66, 0x0f, 0xae, 0x30); /* clwb [rax] */
	assert_faults(f, X86_PF_EXC, 0x0f, 0x01, 0xfc);       /* clzero */
	c->gpr[X86_RAX] = DATA + 5;
	memset(f->ram + DATA - 64, 0xff, 192);
	assert_ok(f, 0x0f, 0x01, 0xfc);
	assert_int_equal(f->ram[DATA - 1], 0xff);
	assert_int_equal(f->ram[DATA], 0);
	assert_int_equal(f->ram[DATA + 63], 0);
	assert_int_equal(f->ram[DATA + 64], 0xff);
}

static void test_random(void **state)
{
	struct fake *f = *state;
	struct x86_cpu *c = &f->cpu;
	uint64_t first;

	c->rflags |= X86_ZF | X86_OF;
	assert_ok(f, 0x48, 0x0f, 0xc7, 0xf0); /* rdrand rax */
	first = c->gpr[X86_RAX];
	assert_int_equal(c->rflags & X86_ARITH_FLAGS, X86_CF);
	assert_ok(f, 0x48, 0x0f, 0xc7, 0xf8); /* rdseed rax */
	assert_int_not_equal(c->gpr[X86_RAX], first);
	c->gpr[X86_RAX] = ~UINT64_C(0);
	assert_ok(f, 0x66, 0x0f, 0xc7, 0xf0); /* rdrand ax */
	assert_int_equal(c->gpr[X86_RAX] >> 16, UINT64_C(0xffffffffffff));
	c->cpuid.features[X86_FEAT_RDRAND / 32] &= ~BIT32(X86_FEAT_RDRAND % 32);
	assert_faults(f, X86_UD, 0x0f, 0xc7, 0xf0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_privileged),
		TEST(test_undefined),
		TEST(test_umip),
		TEST(test_table_registers),
		TEST(test_control_moves),
		TEST(test_segment_moves),
		TEST(test_descriptor_queries),
		TEST(test_interrupt_flag),
		TEST(test_popf_privileges),
		TEST(test_v8086_flags),
		TEST(test_msr_tsc_cpuid),
		TEST(test_extended_state),
		TEST(test_bases),
		TEST(test_hypercalls),
		TEST(test_ports),
		TEST(test_hlt),
		TEST(test_far_transfers),
		TEST(test_software_interrupts),
		TEST(test_hints_and_lines),
		TEST(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
