/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that a kernel runs on each way in and out. What is seldom (another privilege level, an
 * interrupt that waits, a TSC that is not the host's) is interp's.
 */
#include "translate/block.h"
#include "x86/transfer.h"

#define CPU(field) ((int32_t)offsetof(struct x86_cpu, field))
#define CPU_SEG(n, field) (CPU(seg) + (int32_t)((n) * sizeof(struct x86_seg) + offsetof(struct x86_seg, field)))

static void emit_cpu(struct builder *b, unsigned reg)
{
	emit_mov_imm64(&b->e, reg, (uint64_t)(uintptr_t)b->t->cpu);
}

/* cmp byte [base + disp], 0 */
static void emit_is_zero(struct emit *e, unsigned base, int32_t disp)
{
	emit_rm(e, false, 0x80, ALU_CMP, base, disp);
	emit8(e, 0);
}

/* The 0x81 group on 32 bits at [base + disp]: `op` is ModRM.reg */
static void emit_alu_mem(struct emit *e, unsigned op, unsigned base, int32_t disp, uint32_t imm)
{
	emit_rm(e, false, 0x81, op, base, disp);
	emit32(e, imm);
}

/* r14: the cpu. Leave unless 32 bits at [r14 + disp] have all these bits, or none. */
static void emit_check_bits(struct builder *b, struct cold *c, int32_t disp, uint32_t bits, bool set)
{
	emit_rm(&b->e, false, 0xf7, 0, HOST_T1, disp); /* test [], imm32 */
	emit32(&b->e, bits);
	block_cold_from(b, c, set ? CC_E : CC_NE);
}

/* The host's flags are about to be lost. */
static void lose_flags(struct builder *b, const struct insn *i)
{
	insn_flags_keep(b, insn_live_before(i));
	b->flags_host = false;
}

/* r14: the cpu; the rest is for CPL 0, which may do as it likes (RFLAGS.IOPL, VME and PVI are for the others). */
static struct cold *emit_privileged(struct builder *b, const struct insn *i)
{
	struct cold *c = block_cold(b, block_record(b, i, ACTION_INTERP));

	lose_flags(b, i);
	emit_cpu(b, HOST_T1);
	emit_is_zero(&b->e, HOST_T1, CPU(cpl));
	block_cold_from(b, c, CC_NE);
	return c;
}

static void emit_cli(struct builder *b, const struct insn *i)
{
	emit_privileged(b, i);
	emit_alu_mem(&b->e, ALU_AND, HOST_T1, CPU(rflags), ~(uint32_t)X86_IF);
}

static void emit_swapgs(struct builder *b, const struct insn *i)
{
	struct emit *e = &b->e;

	emit_privileged(b, i);
	window_scratch(b); /* it may be relative to GS, too */
	emit_rm(e, true, 0x8b, HOST_T0, HOST_T1, CPU(msr.kernel_gs_base));
	emit_gs(e, true, 0x89, HOST_T0, FRAME(gs_base));
	emit_rm(e, false, 0xff, 6, HOST_T1, CPU_SEG(X86_GS, base)); /* push */
	emit_rm(e, true, 0x89, HOST_T0, HOST_T1, CPU_SEG(X86_GS, base));
	emit_rm(e, false, 0x8f, 0, HOST_T1, CPU(msr.kernel_gs_base)); /* pop */
}

/* SDM 2B RDTSC, RDTSCP: the host's counter, scaled and moved; see struct x86_host_tsc. */
static void emit_rdtsc(struct builder *b, const struct insn *i)
{
	const struct x86_host_tsc *tsc = b->t->cpu->host_tsc;
	struct emit *e = &b->e;
	struct cold *c;

	if (!tsc) {
		b->bad = true;
		return;
	}
	c = block_cold(b, block_record(b, i, ACTION_INTERP));
	lose_flags(b, i);
	window_scratch(b);
	emit_cpu(b, HOST_T1);
	emit_check_bits(b, c, CPU(cr4), X86_CR4_TSD, false);
	emit_mov_imm64(e, HOST_T0, (uint64_t)(uintptr_t)tsc);
	if (i->ii.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		emit_bytes(e, (const uint8_t[]){ 0x0f, 0xae, 0xe8 }, 3); /* lfence: what comes before is done */
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0x31 }, 2);               /* rdtsc */
	emit_bytes(e, (const uint8_t[]){ 0x48, 0xc1, 0xe2, 32 }, 4);     /* shl rdx, 32 */
	emit_rr(e, true, 0x09, HOST_RDX, HOST_RAX);                      /* or rax, rdx */
	emit_rm(e, true, 0xf7, 4, HOST_T0, offsetof(struct x86_host_tsc, ratio));         /* mul */
	emit_bytes(e, (const uint8_t[]){ 0x48, 0x0f, 0xac, 0xd0, X86_HOST_TSC_BITS }, 5); /* shrd rax, rdx, */
	emit_rm(e, true, 0x03, HOST_RAX, HOST_T0, offsetof(struct x86_host_tsc, offset));
	emit_rm(e, true, 0x03, HOST_RAX, HOST_T1, CPU(msr.tsc_adjust));
	emit_mov_rr(e, HOST_RDX, HOST_RAX);
	emit_bytes(e, (const uint8_t[]){ 0x48, 0xc1, 0xea, 32 }, 4); /* shr rdx, 32 */
	emit_rr(e, false, 0x89, HOST_RAX, HOST_RAX);
	if (i->ii.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		emit_rm(e, false, 0x8b, X86_RCX, HOST_T1, CPU(msr.tsc_aux));
}

/* The context of a kernel's accesses, and of the processor's own to its tables (SDM 3A 4.6.1). */
static unsigned kernel_mmu(const struct builder *b)
{
	return b->t->cpu->cr4 & X86_CR4_SMAP ? X86_MMU_KERNEL_SMAP : X86_MMU_KERNEL;
}

/*
 * SDM 2B VERR/VERW, for a selector of the GDT with RPL 0 at CPL 0, which is below or equal to any DPL; what kernels do
 * for the sake of microcode, on each way out. Of ordinary data that can be written; else by interp, as what faults.
 */
static void emit_verw(struct builder *b, struct insn *i)
{
	struct emit *e = &b->e;
	struct host_mem m;
	struct cold *c, *more;

	if (b->mmu == X86_MMU_USER || b->mmu != kernel_mmu(b) || !i->mem.size || !window_access(b, i, &i->mem, &m)) {
		b->bad = true;
		return;
	}
	emit8(e, 0x66); /* mov r11w, m */
	recode_emit_mem(e, false, 0x8b, HOST_T0, &m);
	c = emit_privileged(b, i);
	more = block_cold(b, c->record);
	emit_check_bits(b, more, CPU(cr4), X86_CR4_SMAP, b->mmu == X86_MMU_KERNEL_SMAP);
	window_scratch(b);
	emit_bytes(e, (const uint8_t[]){ 0x45, 0x0f, 0xb7, 0xdb }, 4); /* movzx r11d, r11w */
	emit_bytes(e, (const uint8_t[]){ 0x41, 0xf6, 0xc3, 7 }, 4);    /* test r11b, 7: RPL, TI */
	block_cold_from(b, c, CC_NE);
	emit_bytes(e, (const uint8_t[]){ 0x45, 0x85, 0xdb }, 3); /* test r11d, r11d */
	block_cold_from(b, c, CC_E);
	emit_lea(e, HOST_T0, HOST_T0, 7);
	emit_bytes(e, (const uint8_t[]){ 0x66, 0x45, 0x3b, 0x9e }, 4); /* cmp r11w, [r14 + disp32] */
	emit32(e, (uint32_t)CPU(gdtr.limit));
	block_cold_from(b, c, CC_A);
	emit_rm(e, true, 0x03, HOST_T0, HOST_T1, CPU(gdtr.base));
	emit_lea(e, HOST_T0, HOST_T0, -7);
	window_lookup(b, more, 8, false);
	emit_rm(e, true, 0x8b, HOST_T1, HOST_T0, 0);
	emit_bytes(e, (const uint8_t[]){ 0x49, 0xc1, 0xee, 40 }, 4); /* shr r14, 40 */
	emit_bytes(e, (const uint8_t[]){ 0x41, 0x83, 0xe6, X86_AR_S | X86_AR_CODE | X86_AR_WRITABLE },
		   4);                                                                       /* and r14d */
	emit_bytes(e, (const uint8_t[]){ 0x41, 0x83, 0xfe, X86_AR_S | X86_AR_WRITABLE }, 4); /* cmp r14d */
	block_cold_from(b, more, CC_NE);
	emit_bytes(e, (const uint8_t[]){ 0x65, 0x80, 0x0c, 0x25 }, 4); /* or byte gs:[flags + 1], ZF */
	emit32(e, FRAME(flags) + 1);
	emit8(e, X86_ZF);
	b->flags_frame = true;
}

void insn_emit_system(struct builder *b, struct insn *i)
{
	switch (i->ii.mnemonic) {
	case ZYDIS_MNEMONIC_VERW: emit_verw(b, i); break;
	case ZYDIS_MNEMONIC_CLI: emit_cli(b, i); break;
	case ZYDIS_MNEMONIC_SWAPGS: emit_swapgs(b, i); break;
	default: emit_rdtsc(b, i); break;
	}
}

uint8_t *insn_emit_sti(struct builder *b)
{
	struct emit *e = &b->e;
	uint8_t *wait, *user, *done;

	emit_cpu(b, HOST_T1);
	emit_is_zero(e, HOST_T1, CPU(irq_quiet));
	wait = emit_jcc(e, CC_E);
	emit_is_zero(e, HOST_T1, CPU(cpl));
	user = emit_jcc(e, CC_NE);
	emit_alu_mem(e, ALU_OR, HOST_T1, CPU(rflags), X86_IF);
	emit8(e, OP_JMP);
	done = e->p;
	emit32(e, 0);
	emit_bind(e, wait);
	emit_bind(e, user);
	return done;
}

/* ---- RFLAGS ---- */

/* to = RFLAGS, less RF and VM. The flags are in the frame; the host's are lost. */
static void emit_rflags(struct builder *b, unsigned to, unsigned scratch)
{
	struct emit *e = &b->e;

	emit8(e, 0x65); /* movzx, word gs:[flags] */
	emit_rex(e, true, scratch, 0, 0);
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0xb7, 4 | (scratch & 7) << 3, 0x25 }, 4);
	emit32(e, FRAME(flags));
	emit_mov_rr(e, to, scratch);
	emit_shift(e, SHR, to, 8);
	emit_alu_imm(e, false, ALU_AND, to, X86_ARITH_FLAGS & 0xff);
	emit_shift(e, SHL, scratch, 11);
	emit_alu_imm(e, false, ALU_AND, scratch, X86_OF);
	emit_rr(e, true, 0x09, scratch, to);
	emit_cpu(b, scratch);
	emit_rm(e, true, 0x8b, scratch, scratch, CPU(rflags));
	emit_alu_imm(e, true, ALU_AND, scratch, ~(uint32_t)(X86_ARITH_FLAGS | X86_RF | X86_VM));
	emit_rr(e, true, 0x09, scratch, to);
}

/* RFLAGS = from; r14: the cpu. Loses all three. */
static void emit_rflags_set(struct builder *b, unsigned from, unsigned scratch)
{
	struct emit *e = &b->e;

	emit_rm(e, true, 0x89, from, HOST_T1, CPU(rflags));
	emit_mov_rr(e, scratch, from);
	emit_shift(e, SHR, scratch, 11);
	emit_alu_imm(e, false, ALU_AND, scratch, 1);
	emit_alu_imm(e, false, ALU_AND, from, X86_ARITH_FLAGS & 0xff);
	emit_shift(e, SHL, from, 8);
	emit_rr(e, false, 0x09, from, scratch);
	emit8(e, 0x66);
	emit_gs(e, false, 0x89, scratch, FRAME(flags));
	emit_rm(e, false, 0xf7, 0, HOST_T1, CPU(rflags)); /* test [], imm32 */
	emit32(e, X86_DF);
	emit_bytes(e, (const uint8_t[]){ 0x65, 0x0f, 0x95, 0x04, 0x25 }, 5); /* setne byte gs:[] */
	emit32(e, FRAME(down));
}

void insn_emit_pushf(struct builder *b, struct insn *i)
{
	struct emit *e = &b->e;
	struct host_mem m;

	insn_flags_keep(b, UINT32_MAX);
	window_access(b, i, &i->mem, &m); /* r11 may have the address */
	b->flags_host = false;
	emit8(e, 0x50); /* push rax */
	emit_rflags(b, HOST_T1, HOST_RAX);
	emit8(e, 0x58); /* pop rax */
	recode_emit_mem(e, b->wide, 0x89, HOST_T1, &m);
	insn_move_stack(b, HOST_SP, -(int32_t)b->width);
}

/* ---- between contexts of the TLB: SYSCALL, SYSRET, CLAC, STAC ---- */

#define STRUCT_T(field) ((int32_t)offsetof(struct translate, field))

/* Is code there known under the same mode? r11 is lost. */
static void emit_context_check(struct builder *b, struct cold *c, unsigned to)
{
	uint32_t mode = (b->mode & ~(TRANSLATE_MODE_MMU | TRANSLATE_MODE_PLAIN)) | to;

	emit_mov_imm64(&b->e, HOST_T0, (uint64_t)(uintptr_t)b->t);
	emit_rm(&b->e, true, 0x81, ALU_CMP, HOST_T0, STRUCT_T(mode) + 8 * (int32_t)to);
	emit32(&b->e, mode);
	block_cold_from(b, c, CC_NE);
	/* Direct execution is to hear when user code is left and entered. */
	emit_is_zero(&b->e, HOST_T0, STRUCT_T(visits));
	block_cold_from(b, c, CC_NE);
}

/* As x86_mmu_index_update() and translate_window_switch() do it. r14: the cpu; r11 is lost. */
static void emit_context_switch(struct builder *b, unsigned to)
{
	uint32_t from = FRAME(kept) + b->mmu * (uint32_t)sizeof(struct translate_window);
	uint32_t kept = FRAME(kept) + to * (uint32_t)sizeof(struct translate_window);
	const uint32_t window = offsetof(struct translate_window, window);
	struct emit *e = &b->e;

	emit_rm(e, false, 0xc6, 0, HOST_T1, CPU(mmu_index));
	emit8(e, to);
	emit_gs(e, true, 0x8b, HOST_T0, FRAME(stack_page));
	emit_gs(e, true, 0x89, HOST_T0, from);
	emit_gs(e, true, 0x89, HOST_WINDOW, from + window);
	emit_gs(e, true, 0x8b, HOST_T0, kept);
	emit_gs(e, true, 0x89, HOST_T0, FRAME(stack_page));
	emit_gs(e, true, 0x8b, HOST_WINDOW, kept + window);
	emit_gs(e, true, 0x89, HOST_WINDOW, FRAME(window));
	emit_gs(e, false, 0xc7, 0, FRAME(window_mmu));
	emit32(e, to);
}

/* To the linear address in r11. */
static void emit_context_jump(struct builder *b, const struct insn *i, unsigned to)
{
	struct cold *c;

	b->since++;
	block_emit_count(b);
	c = block_cold(b, block_record(b, i, ACTION_JUMP));
	c->mmu = (uint8_t)to;
	translate_emit_jump(b->t, &b->e, to, c->from);
	c->count = 2;
}

/* A flat segment, as x86_syscall() and x86_sysret() load them. r14: the cpu; r11 is lost. */
static void emit_flat(struct builder *b, unsigned seg, uint16_t sel, uint32_t ar)
{
	struct emit *e = &b->e;

	_Static_assert(offsetof(struct x86_seg, sel) == 0 && offsetof(struct x86_seg, ar) == 4, "one store");
	emit_mov_imm64(e, HOST_T0, sel | (uint64_t)ar << 32);
	emit_rm(e, true, 0x89, HOST_T0, HOST_T1, CPU_SEG(seg, sel));
	emit_rm(e, false, 0xc7, 0, HOST_T1, CPU_SEG(seg, limit));
	emit32(e, UINT32_MAX);
	emit_rm(e, true, 0xc7, 0, HOST_T1, CPU_SEG(seg, base));
	emit32(e, 0);
}

/* Is IA32_STAR still what was when this was translated? r14: the cpu; r11 is lost. */
static void emit_star_check(struct builder *b, struct cold *c)
{
	emit_mov_imm64(&b->e, HOST_T0, b->t->cpu->msr.star);
	emit_rm(&b->e, true, 0x3b, HOST_T0, HOST_T1, CPU(msr.star));
	block_cold_from(b, c, CC_NE);
	emit_check_bits(b, c, CPU(efer), X86_EFER_SCE, true);
}

/* From 64-bit code at CPL 3. RCX is free from where nothing can be wrong any more. */
bool flow_emit_syscall(struct builder *b, struct insn *i)
{
	const struct x86_cpu *cpu = b->t->cpu;
	unsigned to = kernel_mmu(b);
	struct x86_seg seg[2];
	struct emit *e = &b->e;
	struct cold *c, *more;

	if (b->mmu != X86_MMU_USER || !b->wide)
		return false;
	x86_syscall_segments(cpu, seg);
	c = block_cold(b, block_record(b, i, ACTION_INTERP));
	more = block_cold(b, c->record);
	emit_cpu(b, HOST_T1);
	emit_star_check(b, c);
	emit_check_bits(b, c, CPU(cr4), X86_CR4_SMAP, to == X86_MMU_KERNEL_SMAP);
	emit_check_bits(b, c, CPU(rflags), X86_AC, false);
	emit_context_check(b, more, to);

	emit_rflags(b, HOST_T0, X86_RCX);
	emit_gpr_store(e, HOST_T0, X86_R11);
	emit_rm(e, true, 0x8b, X86_RCX, HOST_T1, CPU(msr.sfmask));
	emit_bytes(e, (const uint8_t[]){ 0x48, 0xf7, 0xd1 }, 3); /* not rcx */
	emit_rr(e, true, 0x21, X86_RCX, HOST_T0);
	emit_bytes(e, (const uint8_t[]){ 0x49, 0x83, 0xcb, X86_FIXED1 }, 4); /* or r11, */
	emit_rflags_set(b, HOST_T0, X86_RCX);
	emit_flat(b, X86_CS, seg[0].sel, seg[0].ar);
	emit_flat(b, X86_SS, seg[1].sel, seg[1].ar);
	emit_rm(e, false, 0xc6, 0, HOST_T1, CPU(cpl));
	emit8(e, 0);
	emit_context_switch(b, to);
	emit_gs(e, true, 0x8b, X86_RCX, FRAME(rip_page));
	emit_lea(e, X86_RCX, X86_RCX, i->offset + i->ii.len);
	emit_rm(e, true, 0x8b, HOST_T0, HOST_T1, CPU(msr.lstar));
	emit_context_jump(b, i, to);
	return true;
}

/* Direct execution need not be asked before frame.user_rest. r11, r14 are lost. */
static void emit_rest_check(struct builder *b, struct cold *c)
{
	struct emit *e = &b->e;

	emit_mov_rr(e, HOST_T1, HOST_RAX);
	emit_mov_rr(e, HOST_T0, HOST_RDX);
	emit_bytes(e, (const uint8_t[]){ 0x0f, 0x31 }, 2); /* rdtsc */
	emit_shift(e, SHL, HOST_RDX, 32);
	emit_rr(e, true, 0x09, HOST_RDX, HOST_RAX);
	emit_gs(e, true, 0x3b, HOST_RAX, FRAME(user_rest));
	emit_mov_rr(e, HOST_RAX, HOST_T1);
	emit_mov_rr(e, HOST_RDX, HOST_T0);
	block_cold_from(b, c, CC_AE);
}

/* To 64-bit code at CPL 3. */
bool flow_emit_sysret(struct builder *b, struct insn *i)
{
	const struct x86_cpu *cpu = b->t->cpu;
	struct x86_seg seg[2];
	struct emit *e = &b->e;
	struct cold *c, *more, *last;

	if (b->mmu == X86_MMU_USER || !b->wide || i->ii.opsize != 8)
		return false;
	x86_sysret_segments(cpu, seg);
	c = block_cold(b, block_record(b, i, ACTION_INTERP));
	more = block_cold(b, c->record);
	last = block_cold(b, c->record);
	if (b->t->direct)
		emit_rest_check(b, c);
	emit_cpu(b, HOST_T1);
	emit_star_check(b, c);
	emit_is_zero(e, HOST_T1, CPU(cpl));
	block_cold_from(b, c, CC_NE);
	/* An interrupt may wait for IF. */
	emit_is_zero(e, HOST_T1, CPU(irq_quiet));
	block_cold_from(b, more, CC_E);
	emit_context_check(b, more, X86_MMU_USER);
	emit_mov_rr(e, HOST_T0, X86_RCX);
	emit_shift(e, SHR, HOST_T0, 47);
	block_cold_from(b, more, CC_NE);
	emit_gpr_load(e, HOST_T0, X86_R11);
	emit_rex(e, false, 0, 0, HOST_T0); /* test r11d, imm32 */
	emit8(e, 0xf7);
	emit8(e, 0xc0 | (HOST_T0 & 7));
	emit32(e, X86_TF | X86_AC);
	block_cold_from(b, last, CC_NE);

	emit_alu_imm(e, false, ALU_AND, HOST_T0, (uint32_t)X86_SYSRET_FLAGS);
	emit_bytes(e, (const uint8_t[]){ 0x49, 0x83, 0xcb, X86_FIXED1 }, 4); /* or r11, */
	emit8(e, 0x50);                                                      /* push rax */
	emit_rflags_set(b, HOST_T0, HOST_RAX);
	emit8(e, 0x58); /* pop rax */
	emit_flat(b, X86_CS, seg[0].sel, seg[0].ar);
	emit_flat(b, X86_SS, seg[1].sel, seg[1].ar);
	emit_rm(e, false, 0xc6, 0, HOST_T1, CPU(cpl));
	emit8(e, 3);
	emit_context_switch(b, X86_MMU_USER);
	emit_mov_rr(e, HOST_T0, X86_RCX);
	emit_context_jump(b, i, X86_MMU_USER);
	return true;
}

/* SMAP in force or not, at CPL 0. */
bool flow_emit_ac(struct builder *b, struct insn *i)
{
	bool set = i->ii.mnemonic == ZYDIS_MNEMONIC_STAC;
	unsigned to = set ? X86_MMU_KERNEL : kernel_mmu(b);
	struct emit *e = &b->e;
	struct cold *c, *more;

	if (b->mmu == X86_MMU_USER || !b->wide || kernel_mmu(b) == X86_MMU_KERNEL || to == b->mmu)
		return false;
	c = block_cold(b, block_record(b, i, ACTION_INTERP));
	more = block_cold(b, c->record);
	emit_cpu(b, HOST_T1);
	emit_is_zero(e, HOST_T1, CPU(cpl));
	block_cold_from(b, c, CC_NE);
	emit_check_bits(b, c, CPU(cr4), X86_CR4_SMAP, true);
	emit_context_check(b, more, to);
	if (set)
		emit_alu_mem(e, ALU_OR, HOST_T1, CPU(rflags), X86_AC);
	else
		emit_alu_mem(e, ALU_AND, HOST_T1, CPU(rflags), ~(uint32_t)X86_AC);
	emit_context_switch(b, to);
	emit_gs(e, true, 0x8b, HOST_T0, FRAME(rip_page));
	emit_lea(e, HOST_T0, HOST_T0, i->offset + i->ii.len);
	emit_context_jump(b, i, to);
	return true;
}
