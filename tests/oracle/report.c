/* SPDX-License-Identifier: Apache-2.0 */
/* A mismatch, with all that is needed to see it and to run it again. */
#include "compare.h"

#include <stdio.h>
#include <string.h>

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static const char *vector_name(uint64_t v, char text[32])
{
	static const char *const names[20] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
					       "#TS", "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM" };

	if (v == V_NONE)
		return "none";
	if (v == V_LOST)
		return "lost";
	if (v < ARRAY_SIZE(names))
		return names[v];
	snprintf(text, 32, "vector %lu", (unsigned long)v);
	return text;
}

static void print_code(const struct test_case *c, uint64_t rip)
{
	ZydisFormatter formatter;

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned n = 0; n < c->insns; n++) {
		const struct insn *i = &c->insn[n];
		uint64_t at = c->in.rip + i->at;
		ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;
		char text[128] = "(not decoded)";

		if (forms_decode(c->mode32, c->code + i->at, i->len, &zi, zo))
			ZydisFormatterFormatInstruction(&formatter, &zi, zo, zi.operand_count_visible, text,
							sizeof(text), at, NULL);
		printf("  %s%08lx  ", rip == at ? ">" : " ", (unsigned long)at);
		for (unsigned k = 0; k < 16; k++)
			if (k < i->len)
				printf("%02x", c->code[i->at + k]);
			else
				printf("  ");
		printf("  %s\n", text);
	}
}

static void print_word(const char *name, uint64_t in, uint64_t hw, uint64_t emu)
{
	if (hw != emu)
		printf("  %-8s in %016lx  hardware %016lx  engine %016lx\n", name, (unsigned long)in, (unsigned long)hw,
		       (unsigned long)emu);
}

static void print_area(const struct test_case *c, const struct state *hw, const struct state *emu)
{
	unsigned shown = 0;

	for (unsigned n = 0; n < STATE_GPR && shown < 8; n += 8) {
		uint64_t a, b, i;
		char name[24];

		memcpy(&a, hw->area + n, 8);
		memcpy(&b, emu->area + n, 8);
		memcpy(&i, c->in.area + n, 8);
		if (a == b)
			continue;
		snprintf(name, sizeof(name), "xs+%u", n);
		print_word(name, i, a, b);
		shown++;
	}
}

static void print_memory(const struct test_case *c, const struct slot_pages *hw, const struct slot_pages *emu)
{
	const uint8_t *a = (const uint8_t *)hw, *b = (const uint8_t *)emu, *i = (const uint8_t *)&c->pages;
	unsigned shown = 0;

	for (unsigned n = 0; n < sizeof(*hw) && shown < 12; n++) {
		if (a[n] == b[n])
			continue;
		printf("  memory %08lx: in %02x  hardware %02x  engine %02x\n",
		       (unsigned long)(slot_address(c->slot) + slot_page_offset(n / 4096) + n % 4096), i[n], a[n],
		       b[n]);
		shown++;
	}
}

static void print_input(const struct test_case *c)
{
	const struct state *s = &c->in;
	uint32_t mxcsr;
	uint64_t bv;

	memcpy(&mxcsr, s->area + 24, 4);
	memcpy(&bv, s->area + 512, 8);
	printf("  input: rflags %lx fs %x:%lx gs %x:%lx mxcsr %x fcw %02x%02x fsw %02x%02x ftw %02x xstate_bv %lx\n",
	       (unsigned long)s->rflags, s->sel[FS], (unsigned long)s->fs_base, s->sel[GS], (unsigned long)s->gs_base,
	       mxcsr, s->area[1], s->area[0], s->area[3], s->area[2], s->area[4], (unsigned long)bv);
	for (unsigned n = 0; n < 16; n++)
		printf("%s%-3s %016lx%s", n % 4 ? " " : "    ", gpr_names[n], (unsigned long)s->gpr[n],
		       n % 4 == 3 ? "\n" : "");
}

void report_case(const struct test_case *c)
{
	printf("case %lu%s%s\n", (unsigned long)c->number, c->mode32 ? ", compatibility mode" : "",
	       c->sequence ? ", sequence" : "");
	print_code(c, 0);
	print_input(c);
	fflush(stdout);
}

void report_difference(const struct test_case *c, const struct engine *e, const char *program, uint64_t seed,
		       const struct state *hw, const struct slot_pages *hw_pages, const struct state *emu,
		       const struct slot_pages *emu_pages, uint64_t flags)
{
	char a[32], b[32];

	printf("MISMATCH %s: seed %lu, case %lu%s%s\n", engine_name(e), (unsigned long)seed, (unsigned long)c->number,
	       c->mode32 ? ", compatibility mode" : "", c->sequence ? ", sequence" : "");
	printf("  again: %s --seed %lu --case %lu --engine %s\n", program, (unsigned long)seed,
	       (unsigned long)c->number, engine_name(e));
	print_code(c, hw->rip);
	print_input(c);
	printf("  exception: hardware %s, engine %s%s%s\n", vector_name(hw->vector, a), vector_name(emu->vector, b),
	       emu->vector == V_LOST ? ": " : "", emu->vector == V_LOST ? engine_error(e) : "");
	print_word("error", 0, hw->error, emu->error);
	print_word("cr2", 0, hw->cr2, emu->cr2);
	print_word("rip", c->in.rip, hw->rip, emu->rip);
	print_word("rflags", c->in.rflags & flags, hw->rflags & flags, emu->rflags & flags);
	for (unsigned n = 0; n < 16; n++)
		print_word(gpr_names[n], c->in.gpr[n], hw->gpr[n], emu->gpr[n]);
	print_word("fs base", c->in.fs_base, hw->fs_base, emu->fs_base);
	print_word("gs base", c->in.gs_base, hw->gs_base, emu->gs_base);
	for (unsigned n = 0; n < 6; n++)
		print_word((const char *const[]){ "es", "cs", "ss", "ds", "fs", "gs" }[n], c->in.sel[n], hw->sel[n],
			   emu->sel[n]);
	print_area(c, hw, emu);
	print_memory(c, hw_pages, emu_pages);
	fflush(stdout);
}
