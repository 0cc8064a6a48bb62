/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one user-level instruction on this CPU with a given state, faults included: the oracle of
 * vector_system_test.c. Header only. Thread: one, the state is static.
 */
#ifndef TZ_TESTS_VECTOR_NATIVE_H
#define TZ_TESTS_VECTOR_NATIVE_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "x86/fpu.h"

struct machine_state {
	_Alignas(64) uint8_t area[X86_XSAVE_AREA];
	uint64_t gpr[16];
	uint64_t flags; /* arithmetic ones */
	int vector;     /* exception taken, or -1 */
	uint64_t error, cr2;
};

/* Data next to the code, reached RIP-relative, so that no register is needed. */
struct native_page {
	uint8_t code[4096];
	_Alignas(64) uint8_t area[X86_XSAVE_AREA];
	_Alignas(64) uint8_t init[X86_XSAVE_AREA];
	uint64_t gpr[16], flags, host_sp;
};

static struct native_page *native;
static uint64_t native_mask;
static sigjmp_buf native_fault;
static struct machine_state *native_state;
static volatile bool native_running;

/* The kernel's frame has the state at the fault (uapi asm/sigcontext.h). */
static void native_signal(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	struct machine_state *s = native_state;
	static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				       REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

	(void)si;
	if (!native_running) { /* the library let the host fault: that is a failure of the test */
		signal(sig, SIG_DFL);
		return;
	}
	for (unsigned n = 0; n < 16; n++)
		s->gpr[n] = (uint64_t)uc->uc_mcontext.gregs[order[n]];
	s->flags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL] & X86_ARITH_FLAGS;
	s->vector = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
	s->error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
	s->cr2 = (uint64_t)uc->uc_mcontext.gregs[REG_CR2];
	memset(s->area, 0, sizeof(s->area));
	memcpy(s->area, uc->uc_mcontext.fpregs, x86_fpu_area_size(native_mask));
	memset(s->area + 464, 0, 48);
	siglongjmp(native_fault, 1);
}

/* Inside the test that uses it: cmocka installs its own handlers before each. */
static inline void native_catch(void)
{
	struct sigaction sa = { .sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	static const int signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS };

	for (unsigned n = 0; n < 4; n++)
		sigaction(signals[n], &sa, NULL);
}

static inline void native_setup(void)
{
	static uint8_t stack[1 << 16];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };

	native_mask = x86_fpu_supported_xcr0() & ~UINT64_C(0x200);
	native = mmap(NULL, sizeof(*native), PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	native->init[0] = 0x7f;
	native->init[1] = 0x03;
	native->init[24] = 0x80;
	native->init[25] = 0x1f;
	sigaltstack(&ss, NULL);
}

static inline uint8_t *native_bytes(uint8_t *p, const void *b, size_t n)
{
	memcpy(p, b, n);
	return p + n;
}
#define NATIVE_BYTES(p, ...) native_bytes(p, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* opcode with a RIP-relative operand */
static inline uint8_t *native_rip(uint8_t *p, const void *opcode, size_t n, const void *target)
{
	int32_t rel;

	p = native_bytes(p, opcode, n);
	rel = (int32_t)((const uint8_t *)target - (p + 4));
	return native_bytes(p, &rel, 4);
}
#define NATIVE_RIP(p, target, ...)                                                                                     \
	native_rip(p, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), target)

static inline uint8_t *native_mask_regs(uint8_t *p)
{
	uint32_t lo = (uint32_t)native_mask;

	p = NATIVE_BYTES(p, 0xb8);
	p = native_bytes(p, &lo, 4);
	return NATIVE_BYTES(p, 0x31, 0xd2);
}

/* Where the instruction will be: for RIP-relative operands. Constant. */
static inline uint64_t native_rip_of_insn(void)
{
	return (uint64_t)(native->code + 1024);
}

static inline void native_build(const uint8_t *insn, unsigned len)
{
	uint8_t *p = native->code;
	int32_t rel;

	p = NATIVE_BYTES(p, 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57);
	p = NATIVE_RIP(p, &native->host_sp, 0x48, 0x89, 0x25);
	p = native_mask_regs(p);
	p = NATIVE_RIP(p, native->area, 0x48, 0x0f, 0xae, 0x2d);
	p = NATIVE_RIP(p, &native->flags, 0xff, 0x35);
	p = NATIVE_BYTES(p, 0x9d);
	for (unsigned n = 0; n < 16; n++)
		p = NATIVE_RIP(p, &native->gpr[n], (uint8_t)(n < 8 ? 0x48 : 0x4c), 0x8b,
			       (uint8_t)(0x05 | (n & 7) << 3));
	rel = (int32_t)(native->code + 1024 - (p + 5));
	p = NATIVE_BYTES(p, 0xe9);
	native_bytes(p, &rel, 4);
	p = native_bytes(native->code + 1024, insn, len);
	for (unsigned n = 0; n < 16; n++)
		p = NATIVE_RIP(p, &native->gpr[n], (uint8_t)(n < 8 ? 0x48 : 0x4c), 0x89,
			       (uint8_t)(0x05 | (n & 7) << 3));
	p = NATIVE_RIP(p, &native->host_sp, 0x48, 0x8b, 0x25);
	p = NATIVE_BYTES(p, 0x9c);
	p = NATIVE_RIP(p, &native->flags, 0x8f, 0x05);
	p = native_mask_regs(p);
	p = NATIVE_RIP(p, native->area, 0x48, 0x0f, 0xae, 0x25);
	p = NATIVE_RIP(p, native->init, 0x48, 0x0f, 0xae, 0x2d);
	NATIVE_BYTES(p, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
}

static inline void native_run(struct machine_state *s, const uint8_t *insn, unsigned len)
{
	native_build(insn, len);
	memcpy(native->area, s->area, sizeof(s->area));
	memcpy(native->gpr, s->gpr, sizeof(s->gpr));
	native->flags = s->flags | 0x202;
	native_state = s;
	s->vector = -1;
	native_running = true;
	if (!sigsetjmp(native_fault, 1)) {
		((void (*)(void))(void *)native->code)();
		memcpy(s->area, native->area, sizeof(s->area));
		memcpy(s->gpr, native->gpr, sizeof(s->gpr));
		s->flags = native->flags & X86_ARITH_FLAGS;
	}
	native_running = false;
}

/* Components in their initial state have unspecified bytes; x87 pointers are the host's. */
static inline void native_normalize(uint8_t *area)
{
	static const uint8_t init[X86_XSAVE_AREA] = { 0x7f, 0x03 };
	uint64_t bv;
	uint32_t offset, size;

	memcpy(&bv, area + 512, 8);
	for (unsigned n = 0; n < 8; n++) {
		if ((bv & (UINT64_C(1) << n)) || !x86_fpu_component(n, &offset, &size))
			continue;
		if (n == 0)
			memcpy(area, init, 24);
		memset(area + (n ? offset : 32), 0, n ? size : 128);
	}
	memset(area + 5, 0, 19); /* reserved, FOP, FIP, FDP */
	memset(area + 28, 0, 4); /* MXCSR_MASK */
	for (unsigned n = 0; n < 8; n++)
		memset(area + 32 + n * 16 + 10, 0, 6); /* reserved */
	memset(area + 416, 0, 160);
}

#endif
