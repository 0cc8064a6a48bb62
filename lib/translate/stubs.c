/* SPDX-License-Identifier: Apache-2.0 */
/* The fixed code between C and translated code, and what translated code calls. */
#include "base/stats.h"
#include "interp/vector.h"
#include "translate/emit.h"

/* Callee-saved by the psABI, in the order they are pushed. */
static const uint8_t saved[] = { 3, 5, 12, 13, 14, 15 };

static void emit_regs(struct emit *e, bool store)
{
	for (unsigned g = 0; g < 16; g++) {
		if (host_of(g) == HOST_NONE)
			continue;
		if (store)
			emit_gpr_store(e, host_of(g), g);
		else
			emit_gpr_load(e, host_of(g), g);
	}
}

/* add rsp, n + 8; pop the saved registers; ret */
static void emit_return(struct emit *e, unsigned n)
{
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xc4, (uint8_t)(n + 8) }, 4);
	for (unsigned k = ARRAY_SIZE(saved); k-- > 0;) {
		emit_rex(e, false, 0, 0, saved[k]);
		emit8(e, 0x58 | (saved[k] & 7));
	}
	emit8(e, 0xc3);
}

static const uint8_t *here(const struct emit *e)
{
	return e->p + e->to_rx;
}

static void emit_enter(struct translate *t, struct emit *e)
{
	t->enter = (struct translate_exit * (*)(struct x86_cpu *, const void *)) here(e);
	for (unsigned k = 0; k < ARRAY_SIZE(saved); k++) {
		emit_rex(e, false, 0, 0, saved[k]);
		emit8(e, 0x50 | (saved[k] & 7));
	}
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xec, 8 }, 4); /* rsp is a multiple of 16 in translated code */
	emit_mov_rr(e, HOST_CPU, HOST_RDI);
	emit_mov_rr(e, HOST_T0, HOST_RSI);
	emit_regs(e, false);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xff, 0xe3 }, 3); /* jmp r11 */
}

/* call fn(cpu, r11, r14d) from a stub that was called itself; the result is in al. */
static void emit_call_c(struct emit *e, const void *fn)
{
	emit_regs(e, true);
	emit_mov_rr(e, HOST_RDI, HOST_CPU);
	emit_mov_rr(e, HOST_RSI, HOST_T0);
	emit_rr(e, false, 0x89, HOST_T1, HOST_RDX);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xec, 8 }, 4);
	emit_mov_imm64(e, HOST_RAX, (uint64_t)(uintptr_t)fn);
	emit_bytes(e, (const uint8_t[]){ 0xff, 0xd0, 0x48, 0x83, 0xc4, 8, 0x84, 0xc0 }, 8); /* ...; test al, al */
}

static void emit_interp_stub(struct translate *t, struct emit *e, const void *fn, const uint8_t **stub)
{
	uint8_t *leave;

	(void)t;
	*stub = here(e);
	emit_call_c(e, fn);
	leave = emit_jcc(e, CC_NE);
	emit_regs(e, false);
	emit8(e, 0xc3);
	emit_bind(e, leave);
	emit_bytes(e, (const uint8_t[]){ 0x31, 0xc0 }, 2);
	emit_return(e, 8);
}

void translate_flags_split(struct translate *t)
{
	t->frame->flags = (uint16_t)translate_lahf(t->cpu->rflags);
}

void translate_flags_merge(struct translate *t)
{
	struct x86_cpu *cpu = t->cpu;
	uint64_t f = t->frame->flags;

	cpu->rflags = (cpu->rflags & ~X86_ARITH_FLAGS) | ((f >> 8) & 0xd5) | (f & 1) << 11;
}

/* The state is as before instruction `i`; where: its offset in the page, and how many of the block are left. */
bool translate_interp_op(struct x86_cpu *cpu, const struct interp_insn *i, uint32_t where)
{
	struct translate *t = translate_of(cpu);
	uint64_t mode = translate_mode(cpu);
	uint64_t next;

	cpu->rip = t->frame->rip_page + (where & 0xffff);
	t->op_rip = cpu->rip;
	next = cpu->rip + i->len;
	t->left = where >> 16;
	translate_flags_merge(t);
	STAT_INC(cpu, TRANSLATE_INTERP);
	i->exec(cpu, i);
	translate_flags_split(t);
	if (likely(!i->ends_block && cpu->rip == next && !t->interp.abort_block && !cpu->io.logged &&
		   translate_mode(cpu) == mode)) {
		t->left = 0;
		return false;
	}
	t->left--;
	return true;
}

static bool vector_ready(struct x86_cpu *cpu, const void *unused, uint32_t class)
{
	(void)unused, (void)class;
	x86_fpu_load(cpu);
	return false;
}

void translate_stubs_create(struct translate *t)
{
	struct emit e = { .p = t->rw + t->used, .to_rx = t->rx - t->rw };

	emit_enter(t, &e);
	t->stub_indirect = here(&e);
	emit_rm(&e, true, 0x89, HOST_T0, HOST_CPU, offsetof(struct x86_cpu, rip));
	emit_bytes(&e, (const uint8_t[]){ 0x45, 0x31, 0xdb }, 3); /* xor r11d, r11d */
	t->stub_exit = here(&e);
	emit_regs(&e, true);
	emit_mov_rr(&e, HOST_RAX, HOST_T0);
	emit_return(&e, 0);
	emit_interp_stub(t, &e, (const void *)translate_interp_op, &t->stub_interp);
	emit_interp_stub(t, &e, (const void *)vector_ready, &t->stub_vector);
	t->used = (uint32_t)(e.p - t->rw + 63) & ~63u;
}
