/* SPDX-License-Identifier: Apache-2.0 */
/* String instructions that are not repeated. */
#include "translate/block.h"

/* op reg, m by the operand's size: the opcode of the byte form */
static void emit_sized(struct builder *b, const struct insn *i, unsigned op, unsigned reg, const struct host_mem *m)
{
	if (i->ii.opsize == 2)
		emit8(&b->e, 0x66);
	recode_emit_mem(&b->e, i->ii.opsize == 8, op | (i->ii.opsize > 1), reg, m);
}

static bool find(struct builder *b, struct insn *i, bool source, struct host_mem *m)
{
	struct access a;

	insn_string_access(i, source, &a);
	return window_access(b, i, &a, m);
}

/* DF: interp goes down. */
static void check_direction(struct builder *b, struct insn *i)
{
	struct cold *c = block_cold(b, block_record(b, i, ACTION_INTERP));

	insn_flags_keep(b, insn_live_before(i));
	emit_bytes(&b->e, (const uint8_t[]){ 0x65, 0x80, 0x3c, 0x25 }, 4); /* cmp byte gs:[down], 0 */
	emit32(&b->e, FRAME(down));
	emit8(&b->e, 0);
	block_cold_from(b, c, CC_NE);
	b->flags_host = false;
}

static void step(struct builder *b, const struct insn *i, unsigned reg)
{
	emit_rm(&b->e, b->wide, 0x8d, reg, reg, i->ii.opsize);
}

/*
 * Registers move when nothing can fault any more. What MOVS and CMPS read first waits in the frame while the second
 * address is looked up.
 */
void insn_emit_string(struct builder *b, struct insn *i)
{
	unsigned op = i->zi.opcode & 0xfe;
	bool source = op == 0xa4 || op == 0xa6 || op == 0xac, destination = op != 0xac;
	struct host_mem m;

	check_direction(b, i);
	if (source && !find(b, i, true, &m)) {
		b->bad = true;
		return;
	}
	if (source && destination) {
		emit_sized(b, i, 0x8a, HOST_T1, &m);
		emit_gs(&b->e, true, 0x89, HOST_T1, FRAME(value));
	}
	if (destination && !find(b, i, false, &m)) {
		b->bad = true;
		return;
	}
	if (source && destination)
		emit_gs(&b->e, true, 0x8b, HOST_T1, FRAME(value));
	switch (op) {
	case 0xa4: emit_sized(b, i, 0x88, HOST_T1, &m); break;  /* MOVS */
	case 0xa6: emit_sized(b, i, 0x3a, HOST_T1, &m); break;  /* CMPS */
	case 0xaa: emit_sized(b, i, 0x88, HOST_RAX, &m); break; /* STOS */
	case 0xac: emit_sized(b, i, 0x8a, HOST_RAX, &m); break; /* LODS */
	default: emit_sized(b, i, 0x3a, HOST_RAX, &m); break;   /* SCAS */
	}
	if (source)
		step(b, i, X86_RSI);
	if (destination)
		step(b, i, X86_RDI);
	insn_flags_after(b, i);
}
