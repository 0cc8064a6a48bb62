/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the system group. */
#ifndef TZ_INTERP_SYSTEM_H
#define TZ_INTERP_SYSTEM_H

#include "interp/groups.h"
#include "interp/interp.h"
#include "interp/operand.h"
#include "x86/cpuid.h"
#include "x86/transfer_internal.h"

/* The following predecoded instructions may be wrong, or attention must be polled. */
static inline void system_end_block(struct x86_cpu *cpu)
{
	interp_of(cpu)->abort_block = true;
}

static inline void system_need_cpl0(struct x86_cpu *cpu)
{
	if (unlikely(cpu->cpl != 0))
		x86_raise_gp0(cpu);
}

/* LLDT, LAR, ARPL and so on know no segment descriptors in real and virtual-8086 mode: #UD. */
static inline void system_need_protected(struct x86_cpu *cpu)
{
	if (unlikely(!x86_protected(cpu)))
		x86_raise_ud(cpu);
}

/* SGDT, SIDT, SLDT, SMSW, STR tell a user program nothing under UMIP (SDM 3A 2.5, CR4.UMIP). */
static inline void system_check_umip(struct x86_cpu *cpu)
{
	if (unlikely(cpu->cpl > 0 && (cpu->cr4 & X86_CR4_UMIP)))
		x86_raise_gp0(cpu);
}

static inline uint64_t system_edx_eax(const struct x86_cpu *cpu)
{
	return cpu->gpr[X86_RDX] << 32 | (uint32_t)cpu->gpr[X86_RAX];
}

static inline void system_set_edx_eax(struct x86_cpu *cpu, uint64_t value)
{
	cpu->gpr[X86_RAX] = (uint32_t)value;
	cpu->gpr[X86_RDX] = value >> 32;
}

/* Bind `fn`; it may transfer control or change how what follows is read, so nothing follows in its block. */
static inline bool system_bind_last(struct interp_insn *i, interp_exec_fn *fn)
{
	i->exec = fn;
	i->ends_block = true;
	return true;
}

static inline bool system_bind(struct interp_insn *i, interp_exec_fn *fn)
{
	i->exec = fn;
	return true;
}

/* As above, #UD if the guest's CPUID does not announce the feature. */
static inline bool system_bind_feature(const struct x86_cpu *cpu, struct interp_insn *i, enum x86_feature f,
				       interp_exec_fn *fn)
{
	i->exec = x86_has(cpu, f) ? fn : interp_exec_ud;
	return true;
}

/* Far pointers in memory have no 64-bit offset on AMD: REX.W is ignored (APM 3 JMP (Far), LSS). */
static inline uint8_t system_far_pointer_size(const struct x86_cpu *cpu, unsigned opsize)
{
	return (uint8_t)(opsize == 8 && x86_vendor_is_amd(cpu) ? 4 : opsize);
}

/* A far pointer in memory, whose alignment is the offset's (SDM 3A table 6-7). */
static inline uint64_t system_far_pointer_linear(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t a = x86_linear(cpu, i->seg, interp_ea(cpu, i), i->opsize + 2u, false);

	if (unlikely(cpu->cpl == 3 && (cpu->rflags & X86_AC)))
		x86_check_align(cpu, a, i->opsize);
	return a;
}

/* MOV CRn, DRn: system_control.c, for interp_bind_mov_system(). */
bool system_bind_mov_control(struct interp_insn *i, const ZydisDecodedOperand *zo);

#define SYSTEM_BIND_ARGS                                                                                               \
	struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo
#define SYSTEM_UNUSED (void)cpu, (void)i, (void)zi, (void)zo

#endif
