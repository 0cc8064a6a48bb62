/* SPDX-License-Identifier: Apache-2.0 */
/* Far transfers, software interrupts, fast system calls, HLT: operands here, the work in x86/transfer.h and
 * x86/event.h. */
#include "interp/system.h"
#include "x86/event.h"
#include "x86/io.h"
#include "x86/pv/hypercall.h"
#include "x86/transfer.h"

static uint64_t next_rip(const struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t rip = cpu->rip + i->len;

	return cpu->code_size == 8 ? rip : cpu->code_size == 4 ? (uint32_t)rip : (uint16_t)rip;
}

struct far_pointer {
	uint16_t sel;
	uint64_t offset;
};

/* ptr16:16/32 in the instruction (imm2:imm), or m16:16/32/64. */
static struct far_pointer far_operand(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct far_pointer p = { .sel = (uint16_t)i->imm2, .offset = i->imm };
	uint64_t at;

	if (i->kind[0] != INTERP_OP_MEM)
		return p;
	at = system_far_pointer_linear(cpu, i);
	p.offset = x86_read(cpu, at, i->opsize, cpu->mmu_index);
	at += i->opsize;
	p.sel = x86_read16(cpu, x86_long64(cpu) ? at : (uint32_t)at);
	return p;
}

static void exec_far_jump(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct far_pointer p = far_operand(cpu, i);

	x86_far_jump(cpu, p.sel, p.offset, i->opsize, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_far_call(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct far_pointer p = far_operand(cpu, i);

	x86_far_call(cpu, p.sel, p.offset, i->opsize, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_far_return(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_far_return(cpu, i->opsize, (uint16_t)i->imm);
	system_end_block(cpu);
}

static void exec_iret(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_iret(cpu, i->opsize, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_int(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_interrupt(cpu, (uint8_t)i->imm, X86_INT_SOFT, false, 0, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_int3(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_interrupt(cpu, X86_BP, X86_INT_SOFT_TRAP, false, 0, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_into(struct x86_cpu *cpu, const struct interp_insn *i)
{
	if (!(cpu->rflags & X86_OF)) {
		interp_next(cpu, i);
		return;
	}
	x86_interrupt(cpu, X86_OVF, X86_INT_SOFT_TRAP, false, 0, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_int1(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_interrupt(cpu, X86_DB, X86_INT_ICEBP, false, 0, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_syscall(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_syscall(cpu, next_rip(cpu, i));
	system_end_block(cpu);
}

static void exec_sysret(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_sysret(cpu, i->opsize);
	system_end_block(cpu);
}

static void exec_sysenter(struct x86_cpu *cpu, const struct interp_insn *i)
{
	(void)i;
	x86_sysenter(cpu);
	system_end_block(cpu);
}

static void exec_sysexit(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_sysexit(cpu, i->opsize);
	system_end_block(cpu);
}

static void exec_hypercall(struct x86_cpu *cpu, const struct interp_insn *i)
{
	x86_hypercall(cpu);
	interp_next(cpu, i);
	system_end_block(cpu);
}

static void exec_hlt(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	interp_next(cpu, i);
	/* A trap that is due after this instruction ends the halt at once (SDM 2A HLT: a debug exception). */
	if ((cpu->rflags & X86_TF) || cpu->ev.db_pending) {
		system_end_block(cpu);
		return;
	}
	cpu->ev.shadow = 0;
	x86_io_finish(cpu);
	x86_exit_unwind(cpu, X86_EXIT_HLT);
}

/* ---- bind ---- */

bool interp_bind_far_transfer(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = (uint8_t)(zi->operand_width / 8);
	if (zi->mnemonic == ZYDIS_MNEMONIC_RET) {
		i->imm = zi->operand_count_visible ? zo[0].imm.value.u : 0;
		return system_bind_last(i, exec_far_return);
	}
	if (zo[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		i->imm = zo[0].ptr.offset;
		i->imm2 = zo[0].ptr.segment;
	} else if (zo[0].type != ZYDIS_OPERAND_TYPE_MEMORY) {
		return false;
	}
	i->opsize = system_far_pointer_size(cpu, i->opsize);
	return system_bind_last(i, zi->mnemonic == ZYDIS_MNEMONIC_CALL ? exec_far_call : exec_far_jump);
}

bool bind_int(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->imm = zo[0].imm.value.u & 0xff;
	return system_bind_last(i, exec_int);
}

bool bind_iret(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = zi->mnemonic == ZYDIS_MNEMONIC_IRETQ ? 8 : zi->mnemonic == ZYDIS_MNEMONIC_IRETD ? 4 : 2;
	return system_bind_last(i, exec_iret);
}

bool bind_sysret(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = zi->operand_width == 64 ? 8 : 4;
	return system_bind_last(i, exec_sysret);
}

bool bind_sysenter(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_SEP, exec_sysenter);
}

bool bind_sysexit(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = zi->operand_width == 64 ? 8 : 4;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_SEP, exec_sysexit);
}

#define BIND(name)                                                                                                     \
	bool bind_##name(SYSTEM_BIND_ARGS)                                                                             \
	{                                                                                                              \
		SYSTEM_UNUSED;                                                                                         \
		return system_bind_last(i, exec_##name);                                                               \
	}
BIND(int3)
BIND(into)
BIND(int1)
BIND(syscall)
BIND(hypercall)
BIND(hlt)
