/* SPDX-License-Identifier: Apache-2.0 */
/* Borders between the files of the integer group. */
#ifndef TZ_INTERP_INTEGER_H
#define TZ_INTERP_INTEGER_H

#include "interp/operand.h"
#include "x86/cpuid.h"

#define ROW(mnemonic, bind) interp_bind_fn bind;
#include "interp/insns_integer.def"
#undef ROW

/* What a LOCKed instruction does to its memory operand (integer_locked.c). */
enum interp_locked {
	/* the first eight are enum interp_alu */
	INTERP_LOCKED_INC = 8,
	INTERP_LOCKED_DEC,
	INTERP_LOCKED_NEG,
	INTERP_LOCKED_NOT,
	INTERP_LOCKED_XADD,
	INTERP_LOCKED_CMPXCHG,
	INTERP_LOCKED_XCHG,
	INTERP_LOCKED_BTS,
	INTERP_LOCKED_BTR,
	INTERP_LOCKED_BTC,
};

/* Bind the locked form: operand `mem` is the memory one, `other` the register or immediate. */
bool interp_bind_locked(struct interp_insn *i, enum interp_locked what);

/*
 * Memory operand of BT*: a register bit offset is signed and reaches beyond the operand
 * (SDM 2A table 3-2, "Bit(BitBase, BitOffset)"). Gives the linear address, and the bit in *bit.
 */
uint64_t interp_bit_linear(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool write, unsigned *bit);

/* A group of instructions that the guest's CPUID does not announce is #UD. */
static inline bool interp_need(const struct x86_cpu *cpu, struct interp_insn *i, enum x86_feature f, interp_exec_fn *fn)
{
	i->exec = x86_has(cpu, f) ? fn : interp_exec_ud;
	return i->exec != NULL;
}

#endif
