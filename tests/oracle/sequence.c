/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sequences: straight-line code, forward branches and one short loop, with pointers kept in registers, so that engines
 * that look across instructions are checked there. Flags that the manual leaves undefined are followed through the
 * sequence; what would read one becomes a NOP.
 */
#include "generate.h"

#include <string.h>

struct item {
	uint8_t bytes[16];
	uint8_t len;
	uint8_t kind;
	uint8_t target; /* item that a branch goes to */
	uint32_t form;
	uint64_t reads, writes, undefined; /* flags; writes: for sure */
	uint64_t unknown;                  /* on entry */
};
enum { ITEM_INSN, ITEM_FORWARD, ITEM_BACK };

#define ITEMS_MAX (CASE_INSNS - 1)

/* ---- items ---- */

/* May the instruction write these? The registers that others' addresses hang on mostly stay. */
static bool writes_reserved(struct gen *g, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	bool spare = one_in(g, 16);

	for (unsigned n = 0; n < zi->operand_count; n++) {
		unsigned r;

		if (zo[n].type != ZYDIS_OPERAND_TYPE_REGISTER || !(zo[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		r = gpr_number(zo[n].reg.value);
		if (r == SEQ_COUNTER || (r == RSP && n < zi->operand_count_visible))
			return true;
		if (r < 16 && ((SEQ_POINTERS | SEQ_INDICES) >> r & 1) && !spare &&
		    zi->meta.category != ZYDIS_CATEGORY_STRINGOP)
			return true;
	}
	return false;
}

static void flags_of(struct item *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;

	i->undefined = undefined_flags(zi, zo, NULL);
	i->reads = f ? f->tested & ARITH_FLAGS : 0;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_LAHF: i->reads = ARITH_FLAGS; break;
	default: break;
	}
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL:
		i->writes = f ? (f->modified | f->set_0 | f->set_1) & ARITH_FLAGS & ~i->undefined : 0;
		break;
	default: i->writes = 0; break;
	}
}

static void put_instruction(struct gen *g, struct item *i)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;

	for (;;) {
		bool integer = forms.integer_count && one_in(g, 2);
		uint32_t form = integer ? forms.integer[below(g, forms.integer_count)]
					: forms.sequence[below(g, forms.sequence_count)];

		memset(i, 0, sizeof(*i));
		i->form = form;
		i->len = (uint8_t)make_sequence_instruction(g, &forms.form[form], i->bytes, &zi, zo);
		if (!i->len || writes_reserved(g, &zi, zo))
			continue;
		if ((zi.mnemonic == ZYDIS_MNEMONIC_DIV || zi.mnemonic == ZYDIS_MNEMONIC_IDIV) && !one_in(g, 8))
			continue;
		flags_of(i, &zi, zo);
		return;
	}
}

/* What reads each condition (SDM 1 appendix B). */
static uint64_t condition_reads(unsigned cc)
{
	static const uint16_t reads[8] = { FLAG_OF, FLAG_CF, FLAG_ZF,           FLAG_CF | FLAG_ZF,
					   FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF, FLAG_ZF | FLAG_SF | FLAG_OF };

	return reads[cc >> 1];
}

static void put_forward(struct gen *g, struct item *i, unsigned target)
{
	unsigned cc = below(g, 16);

	*i = (struct item){ .kind = ITEM_FORWARD, .target = (uint8_t)target, .form = UINT32_MAX, .len = 2 };
	i->bytes[0] = (uint8_t)(0x70 | cc);
	i->reads = condition_reads(cc);
	if (one_in(g, 8)) {
		i->bytes[0] = 0xeb;
		i->reads = 0;
	}
}

/* DEC of the counter, then JNZ. */
static void put_back(struct item *i, unsigned target)
{
	i[0] = (struct item){ .bytes = { 0x49, 0xff, 0xcc }, .len = 3, .form = UINT32_MAX };
	i[0].writes = ARITH_FLAGS & ~FLAG_CF;
	i[1] = (struct item){ .bytes = { 0x0f, 0x85 }, .kind = ITEM_BACK, .target = (uint8_t)target, .len = 6 };
	i[1].form = UINT32_MAX;
	i[1].reads = FLAG_ZF;
}

/* ---- undefined flags ---- */

static void make_nop(struct item *i)
{
	uint8_t len = i->len;

	memset(i->bytes, 0x66, sizeof(i->bytes));
	i->bytes[len - 1] = 0x90;
	i->kind = ITEM_INSN;
	i->form = UINT32_MAX;
	i->reads = i->writes = i->undefined = 0;
}

/* Forward over all paths until nothing changes. True: an instruction reads what is undefined (it is a NOP now). */
static bool follow_flags(struct item *item, unsigned count)
{
	bool changed = true, replaced = false;

	for (unsigned n = 0; n <= count; n++)
		item[n].unknown = 0;
	while (changed) {
		changed = false;
		for (unsigned n = 0; n < count; n++) {
			uint64_t out = (item[n].unknown & ~item[n].writes) | item[n].undefined;
			unsigned to = item[n].kind == ITEM_INSN ? n + 1 : item[n].target;

			if ((item[n + 1].unknown | out) != item[n + 1].unknown ||
			    (item[to].unknown | out) != item[to].unknown) {
				item[n + 1].unknown |= out;
				item[to].unknown |= out;
				changed = true;
			}
		}
	}
	for (unsigned n = 0; n < count; n++)
		if (item[n].reads & item[n].unknown) {
			make_nop(&item[n]);
			replaced = true;
		}
	return replaced;
}

/* ---- the case ---- */

static void lay_items(struct test_case *c, struct item *item, unsigned count)
{
	unsigned at[ITEMS_MAX + 2], total = 0;

	for (unsigned n = 0; n < count; n++) {
		at[n] = total;
		total += item[n].len;
	}
	at[count] = total;
	for (unsigned n = 0; n < count; n++) {
		int32_t rel = (int32_t)at[item[n].target] - (int32_t)(at[n] + item[n].len);

		if (item[n].kind == ITEM_FORWARD)
			item[n].bytes[1] = (uint8_t)rel;
		else if (item[n].kind == ITEM_BACK)
			memcpy(item[n].bytes + 2, &rel, 4);
		memcpy(c->code + at[n], item[n].bytes, item[n].len);
		c->insn[n] = (struct insn){
			.at = (uint16_t)at[n], .len = item[n].len, .form = item[n].form, .unknown = item[n].unknown
		};
	}
	c->insns = count;
	c->len = (uint16_t)total;
	c->unknown = item[count].unknown;
}

static void seed_registers(struct gen *g)
{
	struct test_case *c = g->c;
	uint64_t data = slot_address(c->slot) + SLOT_DATA;

	for (unsigned r = 0; r < 16; r++)
		if (SEQ_POINTERS >> r & 1)
			c->in.gpr[r] = data + 64 * (8 + below(g, 100)) + (one_in(g, 4) ? below(g, 64) : 0);
	if (one_in(g, 4))
		c->in.gpr[RSI] = data + SLOT_DATA_SIZE - below(g, 256);
	if (one_in(g, 4))
		c->in.gpr[RBX] = data + 4096 - below(g, 256);
	if (one_in(g, 8))
		c->in.gpr[R13] = slot_address(c->slot) + SLOT_RO + 0x100;
	c->in.gpr[R14] = one_in(g, 4) ? below(g, 64) : below(g, 4) * 16;
	c->in.gpr[R15] = one_in(g, 4) ? (uint64_t) - (int64_t)below(g, 16) : below(g, 4) * 16;
	c->in.gpr[SEQ_COUNTER] = 1 + below(g, 9);
	if (!one_in(g, 4))
		c->in.gpr[RCX] = below(g, 64);
	c->in.rflags &= ~(one_in(g, 8) ? 0 : FLAG_TF | FLAG_AC);
}

void make_sequence(struct gen *g)
{
	struct item item[ITEMS_MAX + 1];
	unsigned want = 4 + below(g, 17), count = 0, head = 0, back = ITEMS_MAX;

	seed_registers(g);
	if (one_in(g, 3)) {
		head = below(g, want / 2);
		back = head + 2 + below(g, want - head);
	}
	while (count < want && count + 3 < ITEMS_MAX) {
		if (count >= back) {
			put_back(&item[count], head);
			count += 2;
			back = ITEMS_MAX;
			continue;
		}
		put_instruction(g, &item[count++]);
	}
	item[count] = (struct item){ 0 };
	/* Some become branches over the next few, though never between the loop's DEC and JNZ. */
	for (unsigned n = 0; n + 2 < count; n++) {
		unsigned to = n + 2 + below(g, 3);

		if (!one_in(g, 10) || item[n].form == UINT32_MAX || to > count)
			continue;
		if (to < count && item[to].kind == ITEM_BACK)
			continue;
		put_forward(g, &item[n], to);
	}
	while (follow_flags(item, count))
		;
	lay_items(g->c, item, count);
}
