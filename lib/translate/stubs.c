/* SPDX-License-Identifier: Apache-2.0 */
/* The fixed code between C and translated code. */
#include "translate/emit.h"

/* Callee-saved by the psABI, in the order they are pushed. */
static const uint8_t saved[] = { 3, 5, 12, 13, 14, 15 };

static const uint8_t *here(const struct emit *e)
{
	return e->p + e->to_rx;
}

/* r11: the cpu. */
static void emit_regs(struct emit *e, unsigned op)
{
	for (unsigned g = 0; g < 16; g++)
		if (host_of(g) != HOST_NONE)
			emit_rm(e, true, op, host_of(g), HOST_T0, (int32_t)(offsetof(struct x86_cpu, gpr) + g * 8));
}

/* The others, by way of `t`. above: bytes on the stack that translated code does not have there. */
static void emit_spills(struct emit *e, bool save, unsigned t, int32_t above)
{
	for (unsigned n = 0; n < SPILLS; n++) {
		int32_t in_cpu = (int32_t)(offsetof(struct x86_cpu, gpr) + spilled[n] * 8);
		int32_t on_stack = spill_offset(spilled[n]) + above;

		emit_rm(e, true, 0x8b, t, save ? HOST_RSP : HOST_T0, save ? on_stack : in_cpu);
		emit_rm(e, true, 0x89, t, save ? HOST_T0 : HOST_RSP, save ? in_cpu : on_stack);
	}
}

/* The guest's state from struct x86_cpu and the frame; on to the address in r14. */
static void emit_resume(struct translate *t, struct emit *e)
{
	emit_flags_load_rax(e);
	emit_mov_imm64(e, HOST_T0, (uint64_t)(uintptr_t)t->cpu);
	emit_spills(e, false, HOST_RAX, 0);
	emit_regs(e, 0x8b);
	emit_gs(e, true, 0x8b, HOST_WINDOW, FRAME(window));
	emit_gs(e, true, 0x8b, HOST_T0, FRAME(scratch));
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xff, 0xe6 }, 3); /* jmp r14 */
}

static void emit_enter(struct translate *t, struct emit *e)
{
	t->enter = (void (*)(struct x86_cpu *, const void *))here(e);
	for (unsigned k = 0; k < ARRAY_SIZE(saved); k++) {
		emit_rex(e, false, 0, 0, saved[k]);
		emit8(e, 0x50 | (saved[k] & 7));
	}
	/* sub rsp: a multiple of 16 in translated code */
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xec, 8 + SPILLS * 8 }, 4);
	emit_mov_rr(e, HOST_T1, HOST_RSI);
	emit_resume(t, e);
}

/* Called: translate_detour(cpu, the return address) says where to go on. */
static void emit_detour(struct translate *t, struct emit *e)
{
	uint8_t *leave;

	t->stub_detour = here(e);
	emit_gs(e, true, 0x89, HOST_T0, FRAME(scratch));
	emit_mov_imm64(e, HOST_T0, (uint64_t)(uintptr_t)t->cpu);
	emit_spills(e, true, HOST_T1, 8);
	emit_regs(e, 0x89);
	emit_mov_rr(e, HOST_RDI, HOST_T0);
	emit8(e, 0x5e); /* pop rsi */
	emit_mov_imm64(e, HOST_RAX, (uint64_t)(uintptr_t)translate_detour);
	emit_bytes(e, (const uint8_t[]){ 0xff, 0xd0, 0x48, 0x85, 0xc0 }, 5); /* call rax; test rax, rax */
	leave = emit_jcc(e, CC_E);
	emit_mov_rr(e, HOST_T1, HOST_RAX);
	emit_resume(t, e);
	emit_bind(e, leave);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xc4, 8 + SPILLS * 8 }, 4); /* add rsp */
	for (unsigned k = ARRAY_SIZE(saved); k-- > 0;) {
		emit_rex(e, false, 0, 0, saved[k]);
		emit8(e, 0x58 | (saved[k] & 7));
	}
	emit8(e, 0xc3);
}

/* r14: the place in the jump cache. */
static void emit_lookup(const struct translate *t, struct emit *e, unsigned mmu, uint8_t *miss[2])
{
	uint32_t table = FRAME(jump) + mmu * (uint32_t)sizeof(((struct translate_frame *)0)->jump[0]);

	emit_rex(e, false, HOST_T1, 0, HOST_T0); /* imul r14d, r11d, imm32: as jump_hash() */
	emit8(e, 0x69);
	emit8(e, 0xc0 | (HOST_T1 & 7) << 3 | (HOST_T0 & 7));
	emit32(e, TRANSLATE_JUMP_FACTOR);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xc1, 0xee, 28 - TRANSLATE_JUMP_BITS }, 4); /* shr r14d */
	emit_alu_imm(e, false, ALU_AND, HOST_T1, ((1u << TRANSLATE_JUMP_BITS) - 1) << 4);
	emit_gs_t1(e, true, 0x3b, HOST_T0, table + (uint32_t)offsetof(struct translate_jump, rip));
	miss[0] = emit_jcc(e, CC_NE);
	emit_bytes(e, (const uint8_t[]){ 0x65, 0x83, 0x3c, 0x25 }, 4); /* cmp dword gs:[poll], 0 */
	emit32(e, FRAME(poll));
	emit8(e, 0);
	miss[1] = emit_jcc(e, CC_NE);
	emit_count(t, e, FRAME(jumps));
	emit_alu_imm(e, true, ALU_AND, HOST_T0, 0xfffff000u);
	emit_gs(e, true, 0x89, HOST_T0, FRAME(rip_page));
}

static uint32_t jump_code(unsigned mmu)
{
	return FRAME(jump) + mmu * (uint32_t)sizeof(((struct translate_frame *)0)->jump[0]) +
	       (uint32_t)offsetof(struct translate_jump, code);
}

void translate_emit_jump(const struct translate *t, struct emit *e, unsigned mmu, uint8_t *miss[2])
{
	emit_lookup(t, e, mmu, miss);
	emit_gs_t1(e, false, 0xff, 4, jump_code(mmu)); /* jmp gs:[] */
}

/* Called, with a linear address in r11: to the code there, or as stub_detour. Returns where it is. */
static const uint8_t *emit_jump(struct translate *t, struct emit *e, unsigned mmu)
{
	uint32_t table = FRAME(jump) + mmu * (uint32_t)sizeof(((struct translate_frame *)0)->jump[0]);
	uint32_t rip = table + (uint32_t)offsetof(struct translate_jump, rip);
	const uint8_t *start = here(e);
	uint8_t *miss[2], *other, *poll;

	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xc4, 8 }, 4); /* add rsp, 8: the flags are kept elsewhere */
	translate_emit_jump(t, e, mmu, miss);
	/* Not in the first place: r14 is that one's offset, then that of n ^ 1, n ^ 2, n ^ 3. */
	emit_bind(e, miss[0]);
	for (unsigned way = 1; way < TRANSLATE_JUMP_WAYS; way++) {
		emit_alu_imm(e, false, ALU_XOR, HOST_T1, (way ^ (way - 1)) * (uint32_t)sizeof(struct translate_jump));
		emit_gs_t1(e, true, 0x3b, HOST_T0, rip);
		other = emit_jcc(e, CC_NE);
		emit_bytes(e, (const uint8_t[]){ 0x65, 0x83, 0x3c, 0x25 }, 4);
		emit32(e, FRAME(poll));
		emit8(e, 0);
		poll = emit_jcc(e, CC_NE);
		emit_count(t, e, FRAME(jumps));
		emit_alu_imm(e, true, ALU_AND, HOST_T0, 0xfffff000u);
		emit_gs(e, true, 0x89, HOST_T0, FRAME(rip_page));
		emit_gs_t1(e, false, 0xff, 4, table + (uint32_t)offsetof(struct translate_jump, code));
		emit_bind(e, poll);
		emit_bind(e, other);
	}
	emit_bind(e, miss[1]);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x83, 0xec, 8 }, 4); /* the return address is still there */
	emit_branch(e, OP_JMP, t->stub_detour);
	return start;
}

/* rcx = the check whose record's offset follows the call, rax is lost; `pushed` bytes are above the return address. */
static void emit_record(const struct translate *t, struct emit *e, unsigned pushed)
{
	emit_rm(e, true, 0x8b, X86_RCX, HOST_RSP, (int32_t)pushed);
	emit_rm(e, false, 0x8b, X86_RCX, X86_RCX, 0);
	emit_mov_imm64(e, HOST_RAX, (uint64_t)(uintptr_t)t->arena);
	emit_rr(e, true, 0x01, HOST_RAX, X86_RCX);
}

/*
 * Called behind a check that failed, with r11 = linear address - tag and r14 = offset of the entry: if the victim there
 * is the page's, r11 = host address, and on behind the check. Else as stub_detour.
 */
static void emit_fill(struct translate *t, struct emit *e, unsigned mmu, bool write)
{
	uint32_t tag = write ? offsetof(struct x86_tlb_entry, tag_write) : offsetof(struct x86_tlb_entry, tag_read);
	uint32_t first = (uint32_t)(offsetof(struct x86_tlb, e) + mmu * sizeof(((struct x86_tlb *)0)->e[0]));
	uint32_t victim = FRAME(victim) + mmu * (uint32_t)sizeof(((struct translate_frame *)0)->victim[0]);
	uint8_t *miss;

	t->stub_fill[mmu][write] = here(e);
	emit_bytes(e, (const uint8_t[]){ 0x50, 0x51 }, 2); /* push rax; push rcx */
	emit_gs_t1(e, true, 0x03, HOST_T0, first + tag);
	emit_gs_t1(e, true, 0x2b, HOST_T0, victim + tag);
	emit_record(t, e, 16);
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0xb7, 0x41, offsetof(struct translate_check, span) },
		   4);                                                          /* movzx eax, span */
	emit_bytes(e, (const uint8_t[]){ 0xf7, 0xd8, 0x05, 0, 0x10, 0, 0 }, 7); /* neg eax; add eax, 4096 */
	emit_rr(e, true, 0x39, HOST_RAX, HOST_T0);                              /* cmp r11, rax */
	miss = emit_jcc(e, CC_A);
	emit_count(t, e, FRAME(victims));
	emit_gs_t1(e, true, 0x03, HOST_T0, victim + (uint32_t)offsetof(struct x86_tlb_entry, host));
	emit_bytes(e, (const uint8_t[]){ 0x8b, 0x49, offsetof(struct translate_check, hit) }, 3); /* mov ecx, hit */
	emit_mov_imm64(e, HOST_RAX, (uint64_t)(uintptr_t)t->rx);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x01, 0xc8 }, 3); /* add rax, rcx */
	emit_mov_rr(e, HOST_T1, HOST_RAX);
	emit_bytes(e, (const uint8_t[]){ 0x59, 0x58, 0x48, 0x83, 0xc4, 8 }, 6); /* pop rcx; pop rax; add rsp, 8 */
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xff, 0xe6 }, 3);                /* jmp r14 */
	emit_bind(e, miss);
	emit_bytes(e, (const uint8_t[]){ 0x59, 0x58 }, 2);
	emit_branch(e, OP_JMP, t->stub_detour);
}

/*
 * Called behind a check of the stack window that failed: if the page that RSP is in now is in the TLB the window moves
 * there, and the check is made again. Else as stub_detour. All registers but r14 stay.
 */
static void emit_stack(struct translate *t, struct emit *e, unsigned mmu)
{
	uint32_t first = (uint32_t)(offsetof(struct x86_tlb, e) + mmu * sizeof(((struct x86_tlb *)0)->e[0]));
	static const uint8_t pops[] = { 0x5a, 0x59, 0x58 }; /* rdx, rcx, rax */
	uint8_t *miss[4];

	t->stub_stack[mmu] = here(e);
	emit_bytes(e, (const uint8_t[]){ 0x50, 0x51, 0x52 }, 3); /* push rax, rcx, rdx */
	emit_record(t, e, 24);
	/* cmp byte [], imm: 32-bit code has more to look at. */
	emit_rm(e, false, 0x80, ALU_CMP, X86_RCX, offsetof(struct translate_check, wide));
	emit8(e, 0);
	miss[0] = emit_jcc(e, CC_E);
	emit_rm(e, false, 0x80, ALU_CMP, X86_RCX, offsetof(struct translate_check, record.align));
	emit8(e, 1);
	miss[1] = emit_jcc(e, CC_NE);
	emit_rm(e, true, 0x63, HOST_RDX, X86_RCX, offsetof(struct translate_check, record.disp)); /* movsxd */
	emit_rr(e, true, 0x01, HOST_SP, HOST_RDX);
	/* Its last byte is in the same page. */
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0xb7, 0x41, offsetof(struct translate_check, span) }, 4); /* movzx eax */
	emit_rr(e, false, 0x89, HOST_RDX, HOST_T1);
	emit_alu_imm(e, false, ALU_AND, HOST_T1, TZ_PAGE_MASK);
	emit_rr(e, false, 0x01, HOST_T1, HOST_RAX);
	emit_alu_imm(e, false, ALU_CMP, HOST_RAX, TZ_PAGE_SIZE);
	miss[2] = emit_jcc(e, CC_A);
	/* As emit_index() of window.c. */
	emit_rr(e, false, 0x89, HOST_RDX, HOST_T1);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xc1, 0xee, 7 }, 4); /* shr r14d, 7 */
	emit_alu_imm(e, false, ALU_AND, HOST_T1, (X86_TLB_SIZE - 1) << 5);
	emit_alu_imm(e, true, ALU_AND, HOST_RDX, ~(uint32_t)TZ_PAGE_MASK);
	emit_gs_t1(e, true, 0x3b, HOST_RDX, first + (uint32_t)offsetof(struct x86_tlb_entry, tag_write));
	miss[3] = emit_jcc(e, CC_NE);
	emit_gs(e, true, 0x89, HOST_RDX, FRAME(stack_page));
	emit_gs_t1(e, true, 0x8b, HOST_WINDOW, first + (uint32_t)offsetof(struct x86_tlb_entry, host));
	emit_rr(e, true, 0x29, HOST_RDX, HOST_WINDOW);
	emit_gs(e, true, 0x89, HOST_WINDOW, FRAME(window));
	emit_rm(e, false, 0x8b, X86_RCX, X86_RCX, offsetof(struct translate_check, retry));
	emit_mov_imm64(e, HOST_T1, (uint64_t)(uintptr_t)t->rx);
	emit_rr(e, true, 0x01, X86_RCX, HOST_T1);
	emit_bytes(e, pops, sizeof(pops));
	emit_lea(e, HOST_RSP, HOST_RSP, 8);
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xff, 0xe6 }, 3); /* jmp r14 */
	for (unsigned n = 0; n < ARRAY_SIZE(miss); n++)
		emit_bind(e, miss[n]);
	emit_bytes(e, pops, sizeof(pops));
	emit_branch(e, OP_JMP, t->stub_detour);
}

void translate_stubs_create(struct translate *t)
{
	struct emit e = { .p = t->rw + t->used, .to_rx = t->rx - t->rw };

	emit_enter(t, &e);
	emit_detour(t, &e);
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++)
		t->stub_jump[mmu] = emit_jump(t, &e, mmu);
	for (unsigned mmu = 0; mmu < X86_MMU_COUNT; mmu++) {
		emit_fill(t, &e, mmu, false);
		emit_fill(t, &e, mmu, true);
		emit_stack(t, &e, mmu);
	}
	t->used = (uint32_t)(e.p - t->rw + 63) & ~63u;
}
