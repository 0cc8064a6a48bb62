/* SPDX-License-Identifier: Apache-2.0 */
/* A stretch of guest code on either engine, and what of it has to happen only once. */
#include "base/stats.h"
#include "lockstep/lockstep.h"

/* ---- what is not run twice ---- */

/*
 * Time, chance, devices, and what is more than registers and memory: MSRs, TLBs, sleep. XSAVE and XGETBV tell which
 * components are in use, where the processor has a choice (SDM 1 13.6). Those that store RFLAGS would store the
 * undefined ones, too (SDM 1 appendix A), where interp does not do as this host does.
 */
static const uint16_t apart[] = {
	ZYDIS_MNEMONIC_RDTSC,      ZYDIS_MNEMONIC_RDTSCP,   ZYDIS_MNEMONIC_RDPMC,    ZYDIS_MNEMONIC_RDRAND,
	ZYDIS_MNEMONIC_RDSEED,     ZYDIS_MNEMONIC_IN,       ZYDIS_MNEMONIC_OUT,      ZYDIS_MNEMONIC_INSB,
	ZYDIS_MNEMONIC_INSW,       ZYDIS_MNEMONIC_INSD,     ZYDIS_MNEMONIC_OUTSB,    ZYDIS_MNEMONIC_OUTSW,
	ZYDIS_MNEMONIC_OUTSD,      ZYDIS_MNEMONIC_HLT,      ZYDIS_MNEMONIC_VMCALL,   ZYDIS_MNEMONIC_VMMCALL,
	ZYDIS_MNEMONIC_RDMSR,      ZYDIS_MNEMONIC_WRMSR,    ZYDIS_MNEMONIC_CLTS,     ZYDIS_MNEMONIC_LMSW,
	ZYDIS_MNEMONIC_INVLPG,     ZYDIS_MNEMONIC_INVPCID,  ZYDIS_MNEMONIC_INVD,     ZYDIS_MNEMONIC_WBINVD,
	ZYDIS_MNEMONIC_XSETBV,     ZYDIS_MNEMONIC_WRPKRU,   ZYDIS_MNEMONIC_XGETBV,   ZYDIS_MNEMONIC_XSAVE,
	ZYDIS_MNEMONIC_XSAVE64,    ZYDIS_MNEMONIC_XSAVEC,   ZYDIS_MNEMONIC_XSAVEC64, ZYDIS_MNEMONIC_XSAVEOPT,
	ZYDIS_MNEMONIC_XSAVEOPT64, ZYDIS_MNEMONIC_XSAVES,   ZYDIS_MNEMONIC_XSAVES64, ZYDIS_MNEMONIC_PUSHF,
	ZYDIS_MNEMONIC_PUSHFD,     ZYDIS_MNEMONIC_PUSHFQ,   ZYDIS_MNEMONIC_LAHF,     ZYDIS_MNEMONIC_SYSCALL,
	ZYDIS_MNEMONIC_SYSENTER,   ZYDIS_MNEMONIC_INT,      ZYDIS_MNEMONIC_INT3,     ZYDIS_MNEMONIC_INT1,
	ZYDIS_MNEMONIC_XRSTOR,     ZYDIS_MNEMONIC_XRSTOR64, ZYDIS_MNEMONIC_XRSTORS,  ZYDIS_MNEMONIC_XRSTORS64,
};

static bool is_apart[ZYDIS_MNEMONIC_MAX_VALUE + 1];

static void __attribute__((constructor)) fill_is_apart(void)
{
	for (unsigned n = 0; n < ARRAY_SIZE(apart); n++)
		is_apart[apart[n]] = true;
}

bool lockstep_is_apart(const struct interp_insn *i)
{
	if (is_apart[i->mnemonic])
		return true;
	/* To and from control and debug registers. */
	return i->mnemonic == ZYDIS_MNEMONIC_MOV && (i->kind[0] == INTERP_OP_OTHER || i->kind[1] == INTERP_OP_OTHER);
}

static bool is_rep(const struct interp_insn *i)
{
	if (!(i->flags & (INTERP_REP | INTERP_REPNE)))
		return false;
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
	case ZYDIS_MNEMONIC_LODSB:
	case ZYDIS_MNEMONIC_LODSW:
	case ZYDIS_MNEMONIC_LODSD:
	case ZYDIS_MNEMONIC_LODSQ:
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ:
	case ZYDIS_MNEMONIC_SCASB:
	case ZYDIS_MNEMONIC_SCASW:
	case ZYDIS_MNEMONIC_SCASD:
	case ZYDIS_MNEMONIC_SCASQ: return true;
	default: return false;
	}
}

/* ---- translate's side ---- */

bool lockstep_hold(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct lockstep *ls = lockstep_of(cpu);
	uint64_t count;

	if (ls->phase != PHASE_TRANSLATE)
		return false;
	if (lockstep_is_apart(i)) {
		ls->end = END_HOLD;
		return true;
	}
	if (!is_rep(i))
		return false;
	count = interp_reg_read(cpu, X86_RCX, i->addrsize);
	if (count > ls->rep_left) {
		ls->end = END_HOLD;
		return true;
	}
	ls->rep_left -= count;
	return false;
}

bool lockstep_stop(struct x86_cpu *cpu)
{
	struct lockstep *ls = lockstep_of(cpu);

	return ls->stop || ls->replay || cpu->stat[STAT_INSNS] - ls->insns_before >= LOCKSTEP_STRETCH;
}

void lockstep_run_translate(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct translate *t = ls->t;
	const void *code;

	ls->phase = PHASE_TRANSLATE;
	ls->end = END_STOP;
	ls->stop = false;
	ls->rep_left = LOCKSTEP_REP_MAX;
	ls->insns_before = cpu->stat[STAT_INSNS];
	ls->memory.active = true;
	cpu->ops = &ls->quiet;
	cpu->rflags ^= ls->stale_flags;
	/* Every jump that polls comes to lockstep_stop(). */
	atomic_store_explicit(&t->frame->poll, 1, memory_order_relaxed);
	t->by_interp = false;
	code = translate_next(cpu, t, NULL);
	if (code)
		t->enter(cpu, code);
	if (t->by_interp)
		ls->end = END_HOLD;
}

/* ---- interp's side ---- */

static void trace_enter(struct lockstep *ls, uint64_t rip)
{
	ls->trace.block[ls->trace.next].rip = rip;
	ls->trace.block[ls->trace.next].insns = 0;
	ls->trace.next = (ls->trace.next + 1) % LOCKSTEP_TRACE;
}

/* The block at RIP; its bytes as this side has them. */
static const struct interp_block *find_block(struct x86_cpu *cpu, struct lockstep *ls)
{
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, cpu->rip);
	const struct interp_block *b;

	if (e->tag_exec == (cpu->rip & ~TZ_PAGE_MASK))
		lockstep_fetch(cpu, e);
	b = interp_block_find(cpu, ls->interp);
	if (cpu->rip != ls->next_rip)
		trace_enter(ls, cpu->rip);
	ls->interp->abort_block = false;
	ls->interp->block_rip = cpu->rip;
	ls->interp->block = b;
	return b;
}

/* A whole one: other threads' requests stop REP between two iterations, but not here. */
static void run_insn(struct x86_cpu *cpu, struct lockstep *ls, const struct interp_insn *i)
{
	struct lockstep_insn *recent = &ls->recent[ls->insns_done % LOCKSTEP_RECENT];
	uint8_t shadow = cpu->ev.shadow;
	uint64_t rip = cpu->rip;

	/* All of `raw`, in two overlapping pieces. */
	guest_store64(recent->raw, guest_load64(i->raw));
	guest_store64(recent->raw + 7, guest_load64(i->raw + 7));
	recent->len = i->len;
	i->exec(cpu, i);
	while (cpu->rip == rip && is_rep(i))
		i->exec(cpu, i);
	/* As behind a single step: STI and MOV SS hold for one instruction (SDM 3A 6.8.3). */
	if (unlikely(cpu->ev.shadow & shadow)) {
		cpu->ev.shadow &= ~shadow;
		x86_cpu_attention(cpu, X86_ATT_IRQ | X86_ATT_NMI);
	}
	ls->insns_done++;
	ls->trace.block[(ls->trace.next + LOCKSTEP_TRACE - 1) % LOCKSTEP_TRACE].insns++;
	ls->next_rip = rip + i->len;
	ls->jumped = i->mnemonic == ZYDIS_MNEMONIC_JMP && i->kind[0] == INTERP_OP_IMM;
}

/* translate has stopped in the middle of a REP instruction. */
static void run_part(struct x86_cpu *cpu, struct lockstep *ls, uint64_t count)
{
	const struct interp_insn *i = find_block(cpu, ls)->insn;
	uint64_t mask = i->addrsize == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * i->addrsize)) - 1, rip = cpu->rip;

	if (!is_rep(i) || (cpu->gpr[X86_RCX] & mask) - (count & mask) > LOCKSTEP_REP_MAX)
		return;
	ls->interp->stepping = true;
	while ((cpu->gpr[X86_RCX] ^ count) & mask && cpu->rip == rip)
		i->exec(cpu, i);
	ls->interp->stepping = false;
}

void lockstep_run_interp(struct x86_cpu *cpu, struct lockstep *ls)
{
	const struct lockstep_result *first = &ls->result[SIDE_TRANSLATE];
	enum lockstep_end end = first->end;

	ls->phase = PHASE_INTERP;
	ls->end = END_STOP;
	ls->insns_done = 0;
	ls->jumped = false;
	while (ls->insns_done < first->insns) {
		const struct interp_block *b = find_block(cpu, ls);
		const struct interp_insn *i = b->insn, *last = i + b->count;

		do
			run_insn(cpu, ls, i++);
		while (i != last && !ls->interp->abort_block && ls->insns_done < first->insns);
	}
	if (cpu->rip == first->state.rip && cpu->gpr[X86_RCX] != first->state.gpr[X86_RCX])
		run_part(cpu, ls, first->state.gpr[X86_RCX]);
	/* Does what stopped translate stop interp? */
	if (end == END_EVENT || end == END_OUTSIDE || end == END_EXIT)
		run_insn(cpu, ls, find_block(cpu, ls)->insn);
}
