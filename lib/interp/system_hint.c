/* SPDX-License-Identifier: Apache-2.0 */
/* Hints, ordering, cache lines, and what is undefined. */
#include "interp/system.h"
#include "x86/access.h"

#define CACHE_LINE 64u

static void exec_nop(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_next(cpu, i);
}

/*
 * Guest accesses are host accesses, in order, under the host's memory model, which is the
 * guest's: only a store that a later load must not overtake needs a fence.
 */
static void exec_mfence(struct x86_cpu *cpu, const struct interp_insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	interp_next(cpu, i);
}

static void exec_serialize(struct x86_cpu *cpu, const struct interp_insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	interp_next(cpu, i);
	system_end_block(cpu);
}

/* CLFLUSH, CLFLUSHOPT, CLWB fault as a load of one byte does, and memory is coherent anyway. */
static void exec_clflush(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_probe_read(cpu, interp_linear(cpu, i, 1, false), 1, cpu->mmu_index);
	interp_next(cpu, i);
}

/* Zero the line that rAX points into (APM 3 CLZERO): DS or an override, the instruction's address size. */
static void exec_clzero(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t zero[CACHE_LINE / 8],
		offset = interp_reg_read(cpu, X86_RAX, i->addrsize) & ~(uint64_t)(CACHE_LINE - 1);

	tz_clear(zero, sizeof(zero));
	x86_write_bytes(cpu, x86_linear(cpu, i->seg, offset, CACHE_LINE, true), zero, CACHE_LINE, cpu->mmu_index);
	interp_next(cpu, i);
}

/* ---- bind ---- */

bool bind_nop(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_nop);
}

bool bind_fence(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	if (zi->mnemonic == ZYDIS_MNEMONIC_SFENCE)
		return system_bind_feature(cpu, i, X86_FEAT_SSE, exec_nop);
	return system_bind_feature(cpu, i, X86_FEAT_SSE2,
				   zi->mnemonic == ZYDIS_MNEMONIC_MFENCE ? exec_mfence : exec_nop);
}

bool bind_clflush(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_CLFLUSH, exec_clflush);
}

bool bind_clflushopt(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_CLFLUSHOPT, exec_clflush);
}

bool bind_clwb(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_CLWB, exec_clflush);
}

static uint8_t override_segment(const ZydisDecodedInstruction *zi)
{
	static const struct {
		ZydisInstructionAttributes attribute;
		uint8_t seg;
	} overrides[] = {
		{ ZYDIS_ATTRIB_HAS_SEGMENT_CS, X86_CS }, { ZYDIS_ATTRIB_HAS_SEGMENT_SS, X86_SS },
		{ ZYDIS_ATTRIB_HAS_SEGMENT_ES, X86_ES }, { ZYDIS_ATTRIB_HAS_SEGMENT_FS, X86_FS },
		{ ZYDIS_ATTRIB_HAS_SEGMENT_GS, X86_GS },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(overrides); n++)
		if (zi->attributes & overrides[n].attribute)
			return overrides[n].seg;
	return X86_DS;
}

bool bind_clzero(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->seg = override_segment(zi);
	i->addrsize = (uint8_t)(zi->address_width / 8);
	return system_bind_feature(cpu, i, X86_FEAT_CLZERO, exec_clzero);
}

bool bind_serialize(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_SERIALIZE, exec_serialize);
}

bool bind_undefined(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_last(i, interp_exec_ud);
}
