/* SPDX-License-Identifier: Apache-2.0 */
/* What a difference looks like. The guest's state is put away: libc may be used. */
#include <stdio.h>

#include "lockstep/lockstep.h"
#include "x86/fpu.h"
#include "x86/paging.h"

#define GUEST_INSNS 64 /* of the guest's code */

typedef unsigned long long ull;

/* ---- code ---- */

/* Bytes of guest code at linear address `rip` as interp's side sees them; how many there are. */
static unsigned guest_bytes(struct x86_cpu *cpu, const struct lockstep *ls, uint64_t rip, uint8_t *bytes, unsigned want)
{
	enum x86_mmu_index mmu = (enum x86_mmu_index)lockstep_state_field(
		&ls->start,
		&(const struct lockstep_field){ "mmu", offsetof(struct x86_cpu, mmu_index), sizeof(cpu->mmu_index) });
	struct x86_walk w;

	for (unsigned n = 0; n < want; n++)
		if (!x86_walk(cpu, GVA(rip + n), X86_ACCESS_EXEC, mmu, true, &w) ||
		    !lockstep_memory_peek(cpu, ls, w.gpa.v, &bytes[n]))
			return n;
	return want;
}

/* One instruction; its length, 0: there is none. */
static unsigned print_insn(FILE *out, const uint8_t *code, unsigned len, uint64_t at)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisFormatter formatter;
	ZydisDecoder decoder;
	char text[128];

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, len, &zi, zo)) ||
	    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &zi, zo, zi.operand_count_visible, text,
							  sizeof(text), at, NULL)))
		return 0;
	fprintf(out, "    %16llx  %s\n", (ull)at, text);
	return zi.length;
}

static void print_host_code(FILE *out, const struct translate *t, const uint8_t *code, size_t len)
{
	for (size_t n = 0; n < len;) {
		bool calls = code[n] == 0xe8;
		unsigned size = print_insn(out, code + n, (unsigned)(len - n), (uint64_t)(uintptr_t)(code + n));

		if (!size) {
			fprintf(out, "    %16llx  .byte 0x%02x\n", (ull)(uintptr_t)(code + n), code[n]);
			size = 1;
		}
		n += size;
		/* Behind a call of C is the offset of its record (struct translate_record). */
		if (calls && n + 4 <= len && guest_load32(code + n) < t->arena_used) {
			fprintf(out, "    %16llx  .long 0x%x\n", (ull)(uintptr_t)(code + n), guest_load32(code + n));
			n += 4;
		}
	}
}

static void print_guest_code(FILE *out, struct x86_cpu *cpu, const struct lockstep *ls, uint64_t rip, uint64_t count)
{
	uint8_t bytes[INTERP_INSN_MAX];

	fprintf(out, "  guest code at %#llx:\n", (ull)rip);
	for (uint64_t n = 0; n < count && n < GUEST_INSNS; n++) {
		unsigned len = guest_bytes(cpu, ls, rip, bytes, INTERP_INSN_MAX), size;

		size = len ? print_insn(out, bytes, len, rip) : 0;
		if (!size) {
			fprintf(out, "    %16llx  %s\n", (ull)rip, len ? "no instruction" : "not mapped");
			return;
		}
		rip += size;
	}
}

/* Where the block's code ends: at the next one's, or at the end of all. */
static const uint8_t *code_end(const struct translate *t, const struct translate_block *b)
{
	const uint8_t *end = t->rx + t->used;

	for (unsigned n = 0; n < ARRAY_SIZE(t->hash); n++)
		for (const struct translate_block *o = t->hash[n]; o; o = o->hash_next)
			if ((const uint8_t *)o->code > (const uint8_t *)b->code && (const uint8_t *)o->code < end)
				end = o->code;
	return end;
}

static void print_translation(FILE *out, struct x86_cpu *cpu, const struct lockstep *ls)
{
	uint64_t rip = ls->start.rip;
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, rip);
	uint64_t key = (x86_tlb_info(cpu, e)->gpa | (rip & TZ_PAGE_MASK)) | translate_mode(cpu) << TRANSLATE_MODE_SHIFT;
	const struct translate_block *b = NULL;

	if (e->tag_exec == (rip & ~TZ_PAGE_MASK))
		b = translate_find(ls->t, key);
	if (!b)
		return;
	fprintf(out, "  its translation, but for what is seldom run:\n");
	print_host_code(out, ls->t, b->code, (size_t)(code_end(ls->t, b) - (const uint8_t *)b->code));
}

/* ---- state ---- */

static const char *end_name(enum lockstep_end end)
{
	static const char *const names[] = {
		[END_STOP] = "went on",
		[END_HOLD] = "stopped before an instruction that runs apart",
		[END_NO_ROOM] = "stopped for want of room for pages",
		[END_RESTART] = "saw code change",
		[END_EVENT] = "raised an exception",
		[END_OUTSIDE] = "asked a device or for the time",
		[END_EXIT] = "wanted to end the run",
	};

	return names[end];
}

/* The general registers, and what else differs. Returns the first that does. */
static const char *print_registers(FILE *out, const struct lockstep *ls)
{
	const struct lockstep_state *t = &ls->result[SIDE_TRANSLATE].state, *i = &ls->result[SIDE_INTERP].state;
	const char *first = NULL;

	fprintf(out, "  %-20s  %16s  %16s  %16s\n", "register", "before", "translate", "interp");
	for (const struct lockstep_field *f = lockstep_fields; f->name; f++) {
		uint64_t vt = lockstep_state_field(t, f), vi = lockstep_state_field(i, f);

		if (vt != vi && !first)
			first = f->name;
		if (vt != vi || f->offset <= offsetof(struct x86_cpu, rflags))
			fprintf(out, "%c %-20s  %16llx  %16llx  %16llx\n", vt == vi ? ' ' : '*', f->name,
				(ull)lockstep_state_field(&ls->start, f), (ull)vt, (ull)vi);
	}
	return first;
}

static bool print_vector(FILE *out, const struct lockstep *ls)
{
	const struct lockstep_result *t = &ls->result[SIDE_TRANSLATE], *i = &ls->result[SIDE_INTERP];
	const uint8_t *vt = t->vector_changed ? t->vector : ls->vector,
		      *vi = i->vector_changed ? i->vector : ls->vector;

	if (lockstep_vector_same(ls, vt, vi))
		return false;
	fprintf(out, "  vector and x87 state, by offset in the XSAVE area (SDM 1 13.4):\n");
	for (unsigned k = 0; k < ls->vector_size; k += 8)
		if (guest_load64(vt + k) != guest_load64(vi + k) && k != 512)
			fprintf(out, "* %-20u  %16llx  %16llx  %16llx\n", k, (ull)guest_load64(ls->vector + k),
				(ull)guest_load64(vt + k), (ull)guest_load64(vi + k));
	return true;
}

static void print_memory(FILE *out, const struct lockstep *ls)
{
	if (!ls->memory_differences)
		return;
	fprintf(out, "  memory, by guest physical address, 8 bytes each (%u differ):\n", ls->memory_differences);
	for (unsigned n = 0; n < ls->memory_differences && n < LOCKSTEP_DIFFERENCES; n++)
		fprintf(out, "* %-20llx  %16s  %16llx  %16llx\n", (ull)ls->memory_difference[n].gpa, "",
			(ull)ls->memory_difference[n].value[SIDE_TRANSLATE],
			(ull)ls->memory_difference[n].value[SIDE_INTERP]);
}

static void print_trace(FILE *out, const struct lockstep *ls)
{
	fprintf(out, "  the last blocks that interp ran, the latest last:\n");
	for (unsigned n = 0; n < LOCKSTEP_TRACE; n++) {
		unsigned k = (ls->trace.next + n) % LOCKSTEP_TRACE;

		if (ls->trace.block[k].rip)
			fprintf(out, "    %16llx  %llu instructions\n", (ull)ls->trace.block[k].rip,
				(ull)ls->trace.block[k].insns);
	}
}

void lockstep_report(struct x86_cpu *cpu, struct lockstep *ls, bool found)
{
	const struct lockstep_result *t = &ls->result[SIDE_TRANSLATE], *i = &ls->result[SIDE_INTERP];
	const char *first;
	FILE *out = stderr;

	x86_fpu_put(cpu);
	flockfile(out);
	fprintf(out,
		"lockstep: translate and interp differ after %llu instructions that were the same, in %s at %#llx\n",
		(ull)ls->compared + (found ? ls->replayed : 0), found ? "the block" : "blocks from the one",
		(ull)ls->start.rip);
	if (!found)
		fprintf(out, "  (not so when the same blocks were translated anew and run one by one)\n");
	if (ls->stale_flags)
		fprintf(out,
			"  translate began with rflags %llx: the block before took these for flags that nobody will "
			"read\n",
			(ull)(ls->start.rflags ^ ls->stale_flags));
	fprintf(out, "  translate completed %llu instructions and %s\n", (ull)t->insns, end_name(t->end));
	fprintf(out, "  interp    completed %llu instructions and %s\n", (ull)i->insns,
		t->end != END_STOP && i->end == END_STOP ? "could go on" : end_name(i->end));
	first = print_registers(out, ls);
	if (print_vector(out, ls) && !first)
		first = "vector state";
	print_memory(out, ls);
	print_guest_code(out, cpu, ls, ls->start.rip, i->insns + 1);
	if (found)
		print_translation(out, cpu, ls);
	print_trace(out, ls);
	funlockfile(out);
	snprintf(cpu->error_text, sizeof(cpu->error_text), "lockstep: translate and interp differ at RIP %#llx: %s",
		 (ull)ls->start.rip,
		 first                    ? first
		 : ls->memory_differences ? "memory"
					  : "where they stop");
}
