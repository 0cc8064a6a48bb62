/* SPDX-License-Identifier: Apache-2.0 */
/* Hints, ordering, cache lines, and what is undefined. */
#include "interp/system.h"
#include "x86/access.h"
#include "x86/fpu.h"

#define CACHE_LINE 64u
#define PAUSES_PER_LOOK 16

static void exec_nop(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_next(cpu, i);
}

/* Not each one: to ask takes longer than a turn of the loop it stands in. */
static void exec_pause(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_next(cpu, i);
	if (unlikely(++cpu->pauses % PAUSES_PER_LOOK == 0) && cpu->ops->spinning) {
		x86_fpu_put(cpu);
		cpu->ops->spinning(cpu);
	}
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
	uint64_t base = x86_long64(cpu) && i->seg < X86_FS ? 0 : cpu->seg[i->seg].base;
	uint64_t a = interp_reg_read(cpu, X86_RAX, i->addrsize), zero[CACHE_LINE / 8];

	/* The linear address is aligned; the line must lie in the segment. */
	a = ((base + a) & ~(uint64_t)(CACHE_LINE - 1)) - base;
	tz_clear(zero, sizeof(zero));
	x86_write_bytes(cpu, x86_linear(cpu, i->seg, x86_long64(cpu) ? a : (uint32_t)a, CACHE_LINE, true), zero,
			CACHE_LINE, cpu->mmu_index);
	interp_next(cpu, i);
}

/* ---- bind ---- */

bool bind_nop(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	/* PREFETCH of a register: a NOP to Intel, undefined to AMD (APM 3 PREFETCHlevel, PREFETCHW). */
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F && zi->opcode == 0x0d && zi->raw.modrm.mod == 3 &&
	    x86_vendor_is_amd(cpu))
		return system_bind(i, interp_exec_ud);
	return system_bind(i, exec_nop);
}

bool bind_pause(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_pause);
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

/* By the prefixes themselves: the decoder knows no memory operand of CLZERO. In 64-bit mode only FS and GS count. */
static uint8_t override_segment(const struct x86_cpu *cpu, const ZydisDecodedInstruction *zi)
{
	uint8_t seg = X86_DS;

	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		switch (zi->raw.prefixes[n].value) {
		case 0x2e: seg = x86_long64(cpu) ? seg : X86_CS; break;
		case 0x36: seg = x86_long64(cpu) ? seg : X86_SS; break;
		case 0x3e: seg = x86_long64(cpu) ? seg : X86_DS; break;
		case 0x26: seg = x86_long64(cpu) ? seg : X86_ES; break;
		case 0x64: seg = X86_FS; break;
		case 0x65: seg = X86_GS; break;
		default: break;
		}
	return seg;
}

static bool has_repeat_prefix(const ZydisDecodedInstruction *zi)
{
	for (unsigned n = 0; n < zi->raw.prefix_count; n++)
		if (zi->raw.prefixes[n].value == 0xf2 || zi->raw.prefixes[n].value == 0xf3)
			return true;
	return false;
}

bool bind_clzero(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	if (has_repeat_prefix(zi)) /* other instructions' place */
		return system_bind(i, interp_exec_ud);
	i->seg = override_segment(cpu, zi);
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
