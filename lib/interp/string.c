/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS CMPS SCAS LODS STOS INS OUTS with their REP forms (SDM 1 7.3.9).
 *
 * Every iteration commits its own registers, so a REP instruction can stop between any two: for a
 * fault, for an access that the client must do, and for attention. It then leaves RIP on itself
 * and starts again where the registers say. Long runs of MOVS, and of STOS upwards, are done a page piece at a time.
 */
#include "base/stats.h"
#include "interp/integer.h"
#include "x86/io.h"

typedef void step_fn(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size);

/* Bytes that may be done by one host instruction between two looks at attention: one page piece. */
typedef uint64_t bulk_fn(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t count);

interp_inline uint64_t counter(const struct x86_cpu *cpu, const struct interp_insn *i)
{
	return interp_reg_read(cpu, X86_RCX, i->addrsize);
}

interp_inline uint64_t offset_of(const struct x86_cpu *cpu, const struct interp_insn *i, unsigned reg)
{
	return interp_reg_read(cpu, reg, i->addrsize);
}

/* rSI or rDI goes on by `n` elements in the direction of DF. */
interp_inline void advance(struct x86_cpu *cpu, const struct interp_insn *i, unsigned reg, unsigned size, uint64_t n)
{
	uint64_t delta = cpu->rflags & X86_DF ? 0 - n * size : n * size;

	interp_reg_write(cpu, reg, i->addrsize, cpu->gpr[reg] + delta);
}

interp_inline uint64_t element(struct x86_cpu *cpu, const struct interp_insn *i, unsigned seg, unsigned reg,
			       unsigned size, bool write)
{
	uint64_t linear = x86_linear(cpu, seg, offset_of(cpu, i, reg), size, write);

	if (unlikely(cpu->cpl == 3 && (cpu->rflags & X86_AC)))
		x86_check_align(cpu, linear, size);
	return linear;
}

interp_inline uint64_t load_source(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	return interp_load(cpu, element(cpu, i, i->seg, X86_RSI, size, false), size);
}

interp_inline void movs_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = load_source(cpu, i, size);

	interp_store(cpu, element(cpu, i, X86_ES, X86_RDI, size, true), size, v);
	advance(cpu, i, X86_RSI, size, 1);
	advance(cpu, i, X86_RDI, size, 1);
}

interp_inline void stos_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_store(cpu, element(cpu, i, X86_ES, X86_RDI, size, true), size, cpu->gpr[X86_RAX]);
	advance(cpu, i, X86_RDI, size, 1);
}

interp_inline void lods_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	interp_reg_write(cpu, X86_RAX, size, load_source(cpu, i, size));
	advance(cpu, i, X86_RSI, size, 1);
}

/* Which of two that fault is looked at first is not in the manuals. Zen 4 begins with [rDI], but for REPE CMPSB. */
interp_inline void cmps_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t b = interp_load(cpu, element(cpu, i, X86_ES, X86_RDI, size, false), size);
	uint64_t a = load_source(cpu, i, size);

	interp_alu(INTERP_CMP, size, a, b, &cpu->rflags);
	advance(cpu, i, X86_RSI, size, 1);
	advance(cpu, i, X86_RDI, size, 1);
}

interp_inline void scas_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t b = interp_load(cpu, element(cpu, i, X86_ES, X86_RDI, size, false), size);

	interp_alu(INTERP_CMP, size, cpu->gpr[X86_RAX], b, &cpu->rflags);
	advance(cpu, i, X86_RDI, size, 1);
}

/* The port is read only when the destination is known to be writable: a read may have side effects. */
interp_inline void ins_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint16_t port = (uint16_t)cpu->gpr[X86_RDX];
	uint64_t linear;

	x86_check_io(cpu, port, size);
	linear = element(cpu, i, X86_ES, X86_RDI, size, true);
	x86_probe_write(cpu, linear, size, cpu->mmu_index);
	interp_store(cpu, linear, size, x86_pio_read(cpu, port, size));
	advance(cpu, i, X86_RDI, size, 1);
}

interp_inline void outs_step(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint16_t port = (uint16_t)cpu->gpr[X86_RDX];

	x86_check_io(cpu, port, size);
	x86_pio_write(cpu, port, load_source(cpu, i, size), size);
	advance(cpu, i, X86_RSI, size, 1);
}

/* Downwards: what is below an element that has been checked is inside its segment, unless that is expand-down. */
static uint64_t run_length_down(const struct x86_cpu *cpu, const struct interp_insn *i, unsigned seg, uint64_t off,
				uint64_t a, unsigned size, uint64_t count)
{
	uint64_t at = a & TZ_PAGE_MASK, n = at / size + 1;

	if (at + size > TZ_PAGE_SIZE)
		return 0;
	if (n > count)
		n = count;
	if (likely(cpu->code_size == 8 && i->addrsize == 8))
		return n;
	if (cpu->code_size != 8 && (cpu->seg[seg].ar & (X86_AR_CODE | X86_AR_EXPAND_DOWN)) == X86_AR_EXPAND_DOWN)
		return 0;
	return off / size < n ? off / size + 1 : n;
}

/*
 * How many of `count` elements from linear address `a` (offset `off`) lie in its page and surely
 * inside the segment, whose first element has been checked already. 0: do them one by one.
 */
static uint64_t run_length(const struct x86_cpu *cpu, const struct interp_insn *i, unsigned seg, uint64_t off,
			   uint64_t a, unsigned size, uint64_t count)
{
	uint64_t n = (TZ_PAGE_SIZE - (a & TZ_PAGE_MASK)) / size, room;

	if (cpu->rflags & X86_DF)
		return run_length_down(cpu, i, seg, off, a, size, count);
	if (n > count)
		n = count;
	if (likely(cpu->code_size == 8 && i->addrsize == 8))
		return n;
	/* Neither the limit nor the address size may be crossed on the way. */
	room = interp_mask(i->addrsize);
	if (cpu->code_size != 8) {
		if ((cpu->seg[seg].ar & (X86_AR_CODE | X86_AR_EXPAND_DOWN)) == X86_AR_EXPAND_DOWN)
			return 0;
		if (room > cpu->seg[seg].limit)
			room = cpu->seg[seg].limit;
	}
	if (off > room || (room - off + 1) / size < n)
		n = off > room ? 0 : (room - off + 1) / size;
	return n;
}

/* The host's own instruction of the same element size: the same result for every overlap. */
interp_inline void host_movs(void *dst, const void *src, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 2: __asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 4: __asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	default: __asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	}
}

/* Likewise, from the last element on. DF is clear around every function (psABI 3.2.1). */
interp_inline void host_movs_down(void *dst, const void *src, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("std; rep movsb; cld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc"); break;
	case 2: __asm__ volatile("std; rep movsw; cld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc"); break;
	case 4: __asm__ volatile("std; rep movsl; cld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc"); break;
	default: __asm__ volatile("std; rep movsq; cld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc"); break;
	}
}

interp_inline void host_stos(void *dst, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	}
}

static uint64_t movs_bulk(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t count)
{
	uint64_t from = element(cpu, i, i->seg, X86_RSI, size, false), to, back;
	const uint8_t *src;
	uint8_t *dst;

	x86_probe_read(cpu, from, size, cpu->mmu_index); /* faults before what the destination may raise */
	to = element(cpu, i, X86_ES, X86_RDI, size, true);

	count = run_length(cpu, i, i->seg, offset_of(cpu, i, X86_RSI), from, size, count);
	count = run_length(cpu, i, X86_ES, offset_of(cpu, i, X86_RDI), to, size, count);
	if (!count)
		return 0;
	/* Downwards the run begins below the first element, which is the one that may fault. */
	back = cpu->rflags & X86_DF ? (count - 1) * size : 0;
	if (back)
		x86_probe_write(cpu, to, size, cpu->mmu_index);
	src = x86_host_read_ptr(cpu, from - back, (unsigned)(count * size), cpu->mmu_index);
	dst = src ? x86_host_write_ptr(cpu, to - back, (unsigned)(count * size), cpu->mmu_index) : NULL;
	if (!dst)
		return 0;
	if (cpu->rflags & X86_DF)
		host_movs_down(dst + back, src + back, count, size);
	else
		host_movs(dst, src, count, size);
	advance(cpu, i, X86_RSI, size, count);
	advance(cpu, i, X86_RDI, size, count);
	return count;
}

static uint64_t stos_bulk(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t count)
{
	uint64_t to = element(cpu, i, X86_ES, X86_RDI, size, true);
	void *dst;

	if (cpu->rflags & X86_DF)
		return 0; /* seldom, and short */
	count = run_length(cpu, i, X86_ES, offset_of(cpu, i, X86_RDI), to, size, count);
	if (!count)
		return 0;
	dst = x86_host_write_ptr(cpu, to, (unsigned)(count * size), cpu->mmu_index);
	if (!dst)
		return 0;
	host_stos(dst, cpu->gpr[X86_RAX], count, size);
	advance(cpu, i, X86_RDI, size, count);
	return count;
}

/* Stop between two iterations: RIP stays, the instruction counts once when it ends. */
static void suspend(struct x86_cpu *cpu)
{
	interp_of(cpu)->abort_block = true;
	cpu->stat[STAT_INSNS]--;
	/* An instruction breakpoint fires before the first iteration only (SDM 3B 17.3.1.1). */
	if (cpu->dr_exec)
		cpu->rflags |= X86_RF;
}

#define WHILE_EQUAL 1
#define WHILE_NOT_EQUAL 2

/* `until`: which value of ZF lets CMPS and SCAS go on. */
interp_inline void repeat(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, step_fn *step, bulk_fn *bulk,
			  unsigned until)
{
	const struct interp *in = interp_of(cpu);
	uint64_t count = counter(cpu, i), done;

	/* The right to use the port is asked also where there is nothing to do. */
	if (step == ins_step || step == outs_step)
		x86_check_io(cpu, (uint16_t)cpu->gpr[X86_RDX], size);
	while (count) {
		done = 0;
		if (bulk && count > 1 && likely(!in->stepping))
			done = bulk(cpu, i, size, count);
		if (!done) {
			step(cpu, i, size);
			done = 1;
		}
		count -= done;
		interp_reg_write(cpu, X86_RCX, i->addrsize, count);
		x86_io_finish(cpu);
		if (until == WHILE_EQUAL && !(cpu->rflags & X86_ZF))
			break;
		if (until == WHILE_NOT_EQUAL && (cpu->rflags & X86_ZF))
			break;
		if (count && unlikely(in->stepping || in->abort_block ||
				      atomic_load_explicit(&cpu->attention, memory_order_relaxed))) {
			suspend(cpu);
			return;
		}
	}
	interp_next(cpu, i);
}

interp_inline void once(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, step_fn *step)
{
	step(cpu, i, size);
	interp_next(cpu, i);
}

/* REP is F3; with an instruction that sets no ZF, F2 does the same (SDM 2B REP). */
#define STRING(name, bulk, equal, not_equal)                                                                           \
	INTERP_SIZES(name##_once, once, name##_step)                                                                   \
	INTERP_SIZES(name##_rep, repeat, name##_step, bulk, equal)                                                     \
	INTERP_SIZES(name##_repne, repeat, name##_step, bulk, not_equal)                                               \
	static bool name##_bind(struct interp_insn *i, unsigned size)                                                  \
	{                                                                                                              \
		interp_exec_fn *const *fn = i->flags & INTERP_REP     ? name##_rep                                     \
					    : i->flags & INTERP_REPNE ? name##_repne                                   \
								      : name##_once;                                   \
                                                                                                                       \
		return interp_choose(i, interp_by_size(fn, size));                                                     \
	}

STRING(movs, movs_bulk, 0, 0)
STRING(stos, stos_bulk, 0, 0)
STRING(lods, NULL, 0, 0)
STRING(cmps, NULL, WHILE_EQUAL, WHILE_NOT_EQUAL)
STRING(scas, NULL, WHILE_EQUAL, WHILE_NOT_EQUAL)
STRING(ins, NULL, 0, 0)
STRING(outs, NULL, 0, 0)

/* MOVSD and CMPSD are also the names of SSE2 instructions. */
#define BIND_STRING(name)                                                                                              \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		if (zi->meta.category != ZYDIS_CATEGORY_STRINGOP)                                                      \
			return interp_bind_vector(cpu, i, zi, zo);                                                     \
		return name##_bind(i, i->opsize);                                                                      \
	}

BIND_STRING(movs)
BIND_STRING(cmps)
BIND_STRING(scas)
BIND_STRING(lods)
BIND_STRING(stos)

/* Ports have no 64-bit form: REX.W means 32 bits. */
bool interp_bind_ins(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return ins_bind(i, i->opsize == 8 ? 4 : i->opsize);
}

bool interp_bind_outs(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return outs_bind(i, i->opsize == 8 ? 4 : i->opsize);
}
