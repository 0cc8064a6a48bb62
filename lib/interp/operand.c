/* SPDX-License-Identifier: Apache-2.0 */
/* Operands of any kind and size, chosen at run time: for rare instructions and other groups. */
#include "interp/operand.h"

#define P(n) ((((0x6996 >> (((n) ^ ((n) >> 4)) & 15)) & 1) ^ 1) << 2)
#define P4(n) P(n), P((n) + 1), P((n) + 2), P((n) + 3)
#define P16(n) P4(n), P4((n) + 4), P4((n) + 8), P4((n) + 12)
#define P64(n) P16(n), P16((n) + 16), P16((n) + 32), P16((n) + 48)
const uint8_t interp_parity[256] = { P64(0), P64(64), P64(128), P64(192) };

uint64_t interp_linear_slow(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool write)
{
	uint64_t a = x86_linear(cpu, i->seg, interp_ea(cpu, i), size, write);

	if (cpu->cpl == 3 && (cpu->rflags & X86_AC))
		x86_check_align(cpu, a, size);
	return a;
}

uint64_t interp_operand_read(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n)
{
	unsigned size = i->size[n];

	switch (i->kind[n]) {
	case INTERP_OP_REG: return interp_reg_read(cpu, i->reg[n], size);
	case INTERP_OP_REG_HIGH: return (uint8_t)(cpu->gpr[i->reg[n]] >> 8);
	case INTERP_OP_MEM: return x86_read(cpu, interp_linear(cpu, i, size, false), size, cpu->mmu_index);
	case INTERP_OP_IMM: return i->imm;
	case INTERP_OP_SEG: return cpu->seg[i->reg[n]].sel;
	default:
		x86_internal_error(cpu, "interp: read of operand %u of %s has no meaning", n,
				   ZydisMnemonicGetString(i->mnemonic));
	}
}

void interp_operand_write(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, uint64_t value)
{
	unsigned size = i->size[n];

	switch (i->kind[n]) {
	case INTERP_OP_REG: interp_reg_write(cpu, i->reg[n], size, value); break;
	case INTERP_OP_REG_HIGH: *interp_byte_reg(cpu, i, n) = (uint8_t)value; break;
	case INTERP_OP_MEM: x86_write(cpu, interp_linear(cpu, i, size, true), value, size, cpu->mmu_index); break;
	default:
		x86_internal_error(cpu, "interp: write of operand %u of %s has no meaning", n,
				   ZydisMnemonicGetString(i->mnemonic));
	}
}
