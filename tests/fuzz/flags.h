/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which arithmetic flags the manual leaves undefined at a point of a program, and whether it looked at one: from there
 * on two correct CPUs may differ.
 */
#ifndef TESTS_FUZZ_FLAGS_H
#define TESTS_FUZZ_FLAGS_H

#include <Zydis/Zydis.h>

#include "input.h"
#include "x86/paging.h"

struct flag_watch {
	uint64_t undefined; /* X86_ARITH_FLAGS now undefined */
	bool lost;          /* something came of an undefined flag or of chance */
	uint64_t rip;       /* the last instruction, if it is repeated, */
	unsigned length;    /* else 0; */
	uint8_t bytes[15];  /* what it was */
	uint64_t page;      /* GPA + 1 of the page that code was last in, and what was there */
	uint8_t code[TZ_PAGE_SIZE];
};

/* The bytes at CS:RIP, without a trace in the guest. Returns how many could be had. */
static inline unsigned flag_watch_fetch(struct x86_cpu *cpu, const uint8_t *ram, uint64_t ram_size, uint8_t *buf,
					unsigned want)
{
	uint64_t linear = cpu->code_size == 8 ? cpu->rip : (uint32_t)(cpu->seg[X86_CS].base + cpu->rip);
	struct x86_walk walk;
	unsigned n;

	for (n = 0; n < want; n++) {
		if (!x86_walk(cpu, GVA(linear + n), X86_ACCESS_EXEC, cpu->mmu_index, true, &walk))
			break;
		buf[n] = walk.gpa.v < ram_size ? ram[walk.gpa.v] : 0xff;
	}
	return n;
}

static inline bool flag_watch_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned n,
				     ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
	ZydisMachineMode mode = cpu->code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: cpu->code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
						      : ZYDIS_MACHINE_MODE_LEGACY_16;
	ZydisStackWidth width = cpu->code_size == 8   ? ZYDIS_STACK_WIDTH_64
				: cpu->code_size == 4 ? ZYDIS_STACK_WIDTH_32
						      : ZYDIS_STACK_WIDTH_16;
	ZydisDecoder decoder;

	return ZYAN_SUCCESS(ZydisDecoderInit(&decoder, mode, width)) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, n, zi, zo));
}

/* Results that are not the program's, or not defined for all operands. */
static inline bool flag_watch_by_chance(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_XGETBV: /* which components are in use is the CPU's to track (SDM 1 13.6) */
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64: return true;
	case ZYDIS_MNEMONIC_SHLD: /* counts above 16 (SDM 2B SHLD) */
	case ZYDIS_MNEMONIC_SHRD: return zi->operand_width == 16;
	default: return false;
	}
}

/* A count of zero changes no flag; other counts than 1 leave OF, those past the operand's size CF undefined. */
static inline bool flag_watch_is_shift(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return true;
	default: return false;
	}
}

/* What is undefined behind an instruction that finds `undefined` so. */
static inline uint64_t flags_undefined_after(const ZydisDecodedInstruction *zi, uint64_t undefined)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;

	if (!f)
		return undefined;
	if (flag_watch_is_shift(zi->mnemonic))
		return undefined | (f->undefined & X86_ARITH_FLAGS) | X86_AF | X86_OF | X86_CF;
	/* Of no repetition no flag comes. */
	if (!(zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		undefined &= ~(uint64_t)(f->modified | f->set_0 | f->set_1);
	return undefined | (f->undefined & X86_ARITH_FLAGS);
}

/* FUZZ_TRACE=1 in the environment: what a finding's program does, one line an instruction. */
static inline void flag_watch_print(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned n)
{
	ZydisDisassembledInstruction d;
	ZydisMachineMode mode = cpu->code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: cpu->code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
						      : ZYDIS_MACHINE_MODE_LEGACY_16;

	if (!getenv("FUZZ_TRACE"))
		return;
	fprintf(stderr, "%016llx  ", (unsigned long long)cpu->rip);
	if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, cpu->rip, bytes, n, &d))) {
		fprintf(stderr, "%u bytes that are no instruction\n", n);
		return;
	}
	for (unsigned i = 0; i < d.info.length; i++)
		fprintf(stderr, "%02x", bytes[i]);
	fprintf(stderr, "  %s\n", d.text);
}

/*
 * A repeated string instruction that overwrites itself: how many more iterations the old one makes is the CPU's to
 * choose (SDM 3A 8.1.3).
 */
static inline void flag_watch_repetition(struct flag_watch *w, uint64_t rip, const ZydisDecodedInstruction *zi,
					 const uint8_t *bytes)
{
	const uint64_t repeated = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;

	if (w->length && w->rip == rip && memcmp(w->bytes, bytes, w->length))
		w->lost = true;
	w->rip = rip;
	w->length = zi->attributes & repeated ? zi->length : 0;
	memcpy(w->bytes, bytes, w->length);
}

/*
 * An instruction that changes the page it is in: the translator may not have kept flags that the code which followed
 * then did not need (docs/caveats.md).
 */
static inline void flag_watch_change(struct flag_watch *w, struct x86_cpu *cpu, const uint8_t *ram, uint64_t ram_size)
{
	uint64_t linear = cpu->code_size == 8 ? cpu->rip : (uint32_t)(cpu->seg[X86_CS].base + cpu->rip), page;
	struct x86_walk walk;

	if (!x86_walk(cpu, GVA(linear), X86_ACCESS_EXEC, cpu->mmu_index, true, &walk))
		return;
	page = walk.gpa.v & ~TZ_PAGE_MASK;
	if (page >= ram_size)
		return;
	if (w->page == page + 1 && memcmp(w->code, ram + page, sizeof(w->code)))
		w->undefined |= X86_ARITH_FLAGS;
	w->page = page + 1;
	memcpy(w->code, ram + page, sizeof(w->code));
}

/* The instruction about to run. */
static inline void flag_watch_step(struct flag_watch *w, struct x86_cpu *cpu, const uint8_t *ram, uint64_t ram_size)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	uint8_t bytes[15];
	unsigned n = flag_watch_fetch(cpu, ram, ram_size, bytes, sizeof(bytes));

	flag_watch_print(cpu, bytes, n);
	flag_watch_change(w, cpu, ram, ram_size);
	memset(bytes + n, 0, sizeof(bytes) - n);
	if (!flag_watch_decode(cpu, bytes, n, &zi, zo)) {
		zi.attributes = 0; /* it raises */
		flag_watch_repetition(w, cpu->rip, &zi, bytes);
		return;
	}
	flag_watch_repetition(w, cpu->rip, &zi, bytes);
	if (flag_watch_by_chance(&zi))
		w->lost = true;
	if (zi.cpu_flags && zi.cpu_flags->tested & w->undefined)
		w->lost = true;
	if (zi.mnemonic == ZYDIS_MNEMONIC_SYSCALL && w->undefined) /* R11 */
		w->lost = true;
	w->undefined = flags_undefined_after(&zi, w->undefined);
}

#endif
