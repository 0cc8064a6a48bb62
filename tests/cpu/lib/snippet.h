/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few instructions, named, to be executed at a privilege and in a mode of choice from known registers, until
 * INT 0x80 or a fault; what they leave in the registers is the result.
 */
#ifndef TESTS_CPU_SNIPPET_H
#define TESTS_CPU_SNIPPET_H

#include "guest.h"

#define SNIPPET(name, text)                                                                                            \
	extern char name[];                                                                                            \
	__asm__(".text\n.code64\n" #name ":\n" text "\n\tint $0x80\n")
#define SNIPPET32(name, text)                                                                                          \
	extern char name[];                                                                                            \
	__asm__(".text\n.code32\n" #name ":\n" text "\n\tint $0x80\n.code64\n")

enum mode { KERNEL64, USER64, USER32, KERNEL32, MODES };
static const char *const mode_names[MODES] = { "ring 0", "ring 3", "compatibility mode, ring 3",
					       "compatibility mode, ring 0" };
static const u16 mode_cs[MODES] = { 0x08, 0x2b, 0x33, 0x18 };
static const u16 mode_ss[MODES] = { 0x10, 0x23, 0x23, 0x10 };
#define IS_USER(mode) ((mode) == USER64 || (mode) == USER32)

#define UNTOUCHED 0x5a5aa5a5c3c33c3cull /* in every register that exec() is not told about */
#define FLAGS_CF (1u << 0)
#define FLAGS_ZF (1u << 6)
#define FLAGS_TF (1u << 8)
#define FLAGS_IF (1u << 9)
#define FLAGS_DF (1u << 10)
#define FLAGS_IOPL (3u << 12)
#define FLAGS_NT (1u << 14)
#define FLAGS_RF (1u << 16)
#define FLAGS_AC (1u << 18)
#define FLAGS_ID (1u << 21)
#define FLAGS_STATUS 0x8d5u

static struct frame got;
static u8 snippet_stack[20480] __attribute__((aligned(16)));
#define SNIPPET_RSP ((u64)snippet_stack + 16384)

/* Returns the vector; `got` holds the rest. DS and ES are the user's data segment, FS and GS null. */
static inline u64 exec_flags(enum mode mode, const char *code, u64 rdi, u64 rsi, u64 rflags)
{
	u64 *reg = (u64 *)&got;

	for (unsigned i = 0; i < 15; i++)
		reg[i] = UNTOUCHED;
	got.rdi = rdi;
	got.rsi = rsi;
	got.rip = (u64)code;
	got.cs = mode_cs[mode];
	got.ss = mode_ss[mode];
	got.rsp = SNIPPET_RSP;
	got.rflags = rflags;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%fs; mov %1, %%gs" ::"r"(0x23), "r"(0));
	run_frame(&got);
	return got.vector;
}

static inline u64 exec(enum mode mode, const char *code, u64 rdi, u64 rsi)
{
	return exec_flags(mode, code, rdi, rsi, IS_USER(mode) ? 0x202 : 2);
}

/* "WHAT, MODE" and then "not ok" with both values when they differ. */
static inline void check_in(enum mode mode, const char *what, u64 value, u64 want)
{
	if (value != want) {
		print("got ");
		print_hex(value);
		print(" want ");
		print_hex(want);
		print("\n");
	}
	print(value == want ? "ok " : "not ok ");
	print(what);
	print(", ");
	print(mode_names[mode]);
	print("\n");
	failures += value != want;
}

/* A fault: the vector and the error code together. */
#define FAULT(vector, error) ((u64)(vector) << 32 | (error))
#define DONE FAULT(0x80, 0)
static inline u64 fault_of(enum mode mode, const char *code, u64 rdi, u64 rsi)
{
	exec(mode, code, rdi, rsi);
	return FAULT(got.vector, got.error);
}

#endif
