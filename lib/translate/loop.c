/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block that ends with a conditional jump to its own start: several rounds in a row, with one update of the
 * instruction counter for all, and a jump back that needs no link. (Who drops the block does so outside of translated
 * code, or makes translate_interp_op() leave it, and what other vCPUs write shows at the poll: nothing can be
 * running in a dropped block for longer than a round.)
 */
#include "translate/block.h"

#define LOOP_ROUNDS 4

static bool is_loop(const struct builder *b)
{
	const struct insn *last = &b->insn[b->count - 1];

	return last->kind == KIND_JCC && flow_target(last) == b->insn[0].offset;
}

/* Counted at the start, and not executed: sub qword gs:[insns], imm8 */
static void emit_uncount(struct emit *e, unsigned insns)
{
	emit_bytes(e, (const uint8_t[]){ 0x65, 0x48, 0x83, 0x2c, 0x25 }, 5);
	emit32(e, FRAME(insns));
	emit8(e, insns);
}

/* What is left early joins the way out of the last round. */
static void emit_early(struct builder *b, uint8_t *from[], unsigned rounds, const uint8_t *join)
{
	for (unsigned k = 0; k + 1 < rounds; k++) {
		emit_bind(&b->e, from[k]);
		emit_uncount(&b->e, (rounds - 1 - k) * b->count);
		emit_branch(&b->e, OP_JMP, join);
	}
}

bool loop_emit(struct builder *b)
{
	unsigned rounds = TRANSLATE_BLOCK_INSNS / b->count;
	uint8_t *start = b->e.p, *out[LOOP_ROUNDS], *poll[LOOP_ROUNDS], *join;
	struct insn *last = &b->insn[b->count - 1];
	struct emit *e = &b->e;

	if (!is_loop(b))
		return false;
	if (rounds > LOOP_ROUNDS)
		rounds = LOOP_ROUNDS;
	block_emit_count(b, rounds * b->count);
	for (unsigned k = 0; k < rounds; k++) {
		b->later = (rounds - 1 - k) * b->count;
		for (struct insn *i = b->insn; i < last; i++)
			insn_emit(b, i);
		insn_flags_keep(b, last->live_after);
		insn_flags_want(b, HOST_T0);
		out[k] = emit_jcc(e, last->ii->cond ^ 1);
		flow_emit_poll(b);
		b->flags_host = false;
		poll[k] = emit_jcc(e, k + 1 < rounds ? CC_NE : CC_E);
	}
	guest_store32(poll[rounds - 1], (uint32_t)(start - e->p));
	join = e->p;
	flow_emit_leave(b, 1, b->insn[0].offset);
	emit_early(b, poll, rounds, join + e->to_rx);
	emit_bind(e, out[rounds - 1]);
	join = e->p;
	flow_emit_fall(b, last);
	emit_early(b, out, rounds, join + e->to_rx);
	return true;
}
