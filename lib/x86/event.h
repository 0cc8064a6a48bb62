/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: the one place that decides what a vCPU takes next, in priority order
 * (SDM 3A 6.9): re-injected event, #DB trap of the last instruction, SMI, NMI,
 * external interrupt; with the STI / MOV SS shadow, NMI blocking and IF applied.
 * Engines ask; they do not repeat it. Thread: the vCPU's own.
 */
#ifndef TZ_X86_EVENT_H
#define TZ_X86_EVENT_H

#include "x86/cpu.h"

/*
 * Called by an engine at an instruction boundary when cpu->attention != 0, when
 * entering run(), after X86_UNWIND_EVENT, and after instructions that opened a
 * window (STI, POPF, IRET, MOV SS: they set X86_ATT_IRQ or X86_ATT_TRAP).
 *
 * Clears the bits it serves. Delivers at most one event through the IDT or IVT,
 * which may itself fault and then becomes #DF or shutdown. Returns X86_EXIT_NONE:
 * go on at cpu->rip; anything else: return that from run().
 * May not be called while cpu->io.logged != 0 (the instruction is half done).
 */
enum x86_exit x86_poll(struct x86_cpu *cpu);

/*
 * Deliver the event recorded in cpu->ev (exc_pending, or irq_injected / nmi_injected)
 * now. Handles contributory faults to #DF and triple fault. X86_EXIT_NONE,
 * X86_EXIT_SHUTDOWN, X86_EXIT_DEBUG, X86_EXIT_ATTENTION (kicked; the event stays pending) or
 * X86_EXIT_INTERNAL_ERROR; X86_EXIT_PIO/MMIO never. Sets RF in the pushed image as SDM 3B 17.3.1.1 says.
 */
enum x86_exit x86_deliver_event(struct x86_cpu *cpu);

/*
 * Interrupt or exception delivery proper: push the frame, load CS:RIP from the gate.
 * For INT n, INT3, INTO, INT1 and for x86_deliver_event(). May raise.
 */
enum x86_int_kind {
	X86_INT_HARDWARE,
	X86_INT_EXCEPTION,
	X86_INT_SOFT /* INT n */,
	X86_INT_SOFT_TRAP /* INT3, INTO */,
	X86_INT_ICEBP
};
void x86_interrupt(struct x86_cpu *cpu, uint8_t vector, enum x86_int_kind kind, bool has_error, uint32_t error,
		   uint64_t return_rip);

/*
 * Call before running each instruction that follows one with a shadow, and each while
 * RFLAGS.TF, a shadow, dr_exec or ev.db_pending is active: engines keep such
 * instructions out of their fast loop. "begin" may raise an instruction-breakpoint #DB;
 * "end" ages the shadow and raises the TF / data-breakpoint trap (SDM 3B 17.3).
 */
bool x86_needs_stepping(const struct x86_cpu *cpu);
void x86_step_begin(struct x86_cpu *cpu);
void x86_step_end(struct x86_cpu *cpu, uint64_t rflags_before, uint8_t shadow_before);

/* Would an external interrupt be accepted right now (IF, shadow)? For ready_for_interrupt_injection. */
bool x86_interrupt_window_open(const struct x86_cpu *cpu);

/* True if HLT must end: NMI, deliverable interrupt, SMI. Thread: the vCPU's own. */
bool x86_has_wake_event(struct x86_cpu *cpu);

#endif
