/* SPDX-License-Identifier: Apache-2.0 */
/* x87 instructions by the host's x87 unit. FWAIT and what would deliver #MF to the host is done in C. */
#include "interp/vector.h"

#define AREA_FOP 6
#define AREA_FIP 8
#define AREA_FDP 16

#define FSW_ES 0x80u
#define FPU_STORE_FAULTS 0x19u /* #I, #O, #U: unmasked, nothing is stored; #P stores first (SDM 1 8.5) */

static void check(struct x86_cpu *cpu, const struct interp_insn *i)
{
	vector_begin(cpu, i);
	vector_check_class(cpu, VECTOR_X87);
	if (vector_info(i)->flags & VECTOR_WAITS)
		vector_check_pending(cpu);
}

/*
 * FIP, FDP, FOP of the last non-control instruction (SDM 1 8.1.8), kept in the area, where saving the live
 * state leaves them alone. Real-mode formats have linear addresses. `info->reg` and `index` are FOP's bytes.
 */
static void record_pointers(struct x86_cpu *cpu, const struct interp_insn *i, bool memory, uint64_t ea)
{
	const struct vector_info *info = vector_info(i);
	bool linear = !x86_protected(cpu);

	if (info->flags & VECTOR_CONTROL)
		return;
	guest_store16(cpu->fpu.area + AREA_FOP, (uint16_t)(info->reg << 8 | info->index));
	guest_store64(cpu->fpu.area + AREA_FIP, cpu->rip + (linear ? cpu->seg[X86_CS].base : 0));
	if (memory)
		guest_store64(cpu->fpu.area + AREA_FDP, ea + (linear ? cpu->seg[i->seg].base : 0));
}

void vector_exec_x87(struct x86_cpu *cpu, const struct interp_insn *i)
{
	check(cpu, i);
	record_pointers(cpu, i, false, 0);
	vector_call(cpu, i, NULL);
	vector_end(cpu, i);
}

void vector_exec_x87_load(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = vector_info(i)->size;
	uint64_t ea = interp_ea(cpu, i), a;
	void *p;

	check(cpu, i);
	a = vector_linear(cpu, i, ea, size, false);
	p = vector_read_ptr(cpu, a, size);
	if (unlikely(!p)) {
		p = vector_of(cpu)->bounce;
		x86_read_bytes(cpu, a, p, size, cpu->mmu_index);
	}
	record_pointers(cpu, i, true, ea);
	vector_call(cpu, i, p);
	vector_end(cpu, i);
}

/* Did the store that just ran leave memory alone, because of an unmasked exception? */
static bool store_suppressed(const struct vector_info *info)
{
	uint16_t fsw, fcw;

	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	__asm__ volatile("fnstcw %0" : "=m"(fcw));
	return !(info->flags & VECTOR_CONTROL) && (fsw & FSW_ES) && (fsw & ~fcw & FPU_STORE_FAULTS);
}

/*
 * No direct pointer: the write may yet leave run() (MMIO), so it must come before the pop. Run the
 * instruction for its result, forget what it did to the registers, write, run it again.
 */
static void store_slowly(struct x86_cpu *cpu, const struct interp_insn *i, uint64_t a)
{
	const struct vector_info *info = vector_info(i);
	uint8_t *bounce = vector_of(cpu)->bounce;

	x86_probe_write(cpu, a, info->size, cpu->mmu_index);
	x86_fpu_load(cpu);
	x86_fpu_sync(cpu);
	vector_call_live(cpu, i, bounce);
	if (store_suppressed(info))
		return;
	x86_fpu_discard(cpu);
	x86_write_bytes(cpu, a, bounce, info->size, cpu->mmu_index);
	vector_call(cpu, i, bounce);
}

void vector_exec_x87_store(struct x86_cpu *cpu, const struct interp_insn *i)
{
	unsigned size = vector_info(i)->size;
	uint64_t ea = interp_ea(cpu, i), a;
	void *p;

	check(cpu, i);
	a = vector_linear(cpu, i, ea, size, true);
	p = vector_write_ptr(cpu, a, size);
	if (likely(p))
		vector_call(cpu, i, p);
	else
		store_slowly(cpu, i, a);
	record_pointers(cpu, i, true, ea);
	vector_end(cpu, i);
}

void vector_exec_fninit(struct x86_cpu *cpu, const struct interp_insn *i)
{
	vector_check_class(cpu, VECTOR_X87);
	x86_fpu_load(cpu);
	__asm__ volatile("fninit");
	guest_store16(cpu->fpu.area + AREA_FOP, 0);
	guest_store64(cpu->fpu.area + AREA_FIP, 0);
	guest_store64(cpu->fpu.area + AREA_FDP, 0);
	vector_end(cpu, i);
}

/* CR0.MP decides whether WAIT is an x87 instruction for CR0.TS (SDM 3A 2.5). */
void vector_exec_fwait(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const uint64_t both = X86_CR0_MP | X86_CR0_TS;

	if ((cpu->cr0 & both) == both)
		x86_raise(cpu, X86_NM);
	vector_check_pending(cpu);
	vector_end(cpu, i);
}

/* FENI, FDISI, FSETPM: did something on the 8087 and 80287, nothing since (SDM 3B 23.18.9). */
void vector_exec_x87_nop(struct x86_cpu *cpu, const struct interp_insn *i)
{
	vector_check_class(cpu, VECTOR_X87);
	vector_end(cpu, i);
}
