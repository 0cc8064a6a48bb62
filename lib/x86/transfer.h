/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far control transfers (SDM 3A 5.8, 6.12, 7.3; SDM 2 for each instruction). Each does the
 * whole instruction: checks, stack, CS:RIP, mode; raises without a trace. `next_rip` is the
 * address after the instruction. opsize 2, 4, 8. Thread: the vCPU's own.
 */
#ifndef TZ_X86_TRANSFER_H
#define TZ_X86_TRANSFER_H

#include "x86/cpu.h"

void x86_far_jump(struct x86_cpu *cpu, uint16_t sel, uint64_t offset, unsigned opsize, uint64_t next_rip);
void x86_far_call(struct x86_cpu *cpu, uint16_t sel, uint64_t offset, unsigned opsize, uint64_t next_rip);
void x86_far_return(struct x86_cpu *cpu, unsigned opsize, uint16_t pop_bytes);
void x86_iret(struct x86_cpu *cpu, unsigned opsize, uint64_t next_rip);
void x86_syscall(struct x86_cpu *cpu, uint64_t next_rip);
void x86_sysret(struct x86_cpu *cpu, unsigned opsize);
void x86_sysenter(struct x86_cpu *cpu);
void x86_sysexit(struct x86_cpu *cpu, unsigned opsize);

/* CS and SS that SYSCALL loads in long mode, and SYSRET for 64-bit code. */
void x86_syscall_segments(const struct x86_cpu *cpu, struct x86_seg seg[2]);
void x86_sysret_segments(const struct x86_cpu *cpu, struct x86_seg seg[2]);
/* What SYSRET takes from R11: everything but RF and VM (SDM 2 SYSRET: R11 & 3C7FD7H). */
#define X86_SYSRET_FLAGS                                                                                               \
	(X86_ARITH_FLAGS | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_AC | X86_VIF | X86_VIP | X86_ID)

/* Task switch (SDM 3A 7.3), by JMP, CALL, IRET or a task gate. */
enum x86_task_switch { X86_TASK_JMP, X86_TASK_CALL, X86_TASK_IRET, X86_TASK_GATE };
void x86_task_switch(struct x86_cpu *cpu, uint16_t tss_sel, enum x86_task_switch why, uint64_t next_rip, bool has_error,
		     uint32_t error);

/* New stack pointer (and SS in legacy modes) for a switch to `cpl`, or IST n (1..7), from the TSS. */
struct x86_tss_stack {
	uint16_t ss;
	uint64_t sp;
};
struct x86_tss_stack x86_tss_stack_read(struct x86_cpu *cpu, unsigned cpl);
uint64_t x86_tss_ist_read(struct x86_cpu *cpu, unsigned ist);

#endif
