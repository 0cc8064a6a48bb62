/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raising exceptions (SDM 3A chapter 6). One call records vector, error code and
 * CR2 in cpu->ev and unwinds to the engine's run loop, which delivers through
 * x86_deliver_event() (x86/event.h). Nothing of the current instruction may have
 * been committed. RIP still points at the faulting instruction.
 *
 * Thread: the vCPU's own, inside run().
 */
#ifndef TZ_X86_EXCEPTION_H
#define TZ_X86_EXCEPTION_H

#include "x86/cpu.h"

tz_noreturn void x86_raise(struct x86_cpu *cpu, enum x86_vector vector);                       /* no error code */
tz_noreturn void x86_raise_error(struct x86_cpu *cpu, enum x86_vector vector, uint32_t error); /* with one */
tz_noreturn void x86_raise_page_fault(struct x86_cpu *cpu, gva_t addr, uint32_t error);

/* #GP(0), #UD and so on, the everyday ones. */
static inline tz_noreturn void x86_raise_gp0(struct x86_cpu *cpu)
{
	x86_raise_error(cpu, X86_GP, 0);
}

static inline tz_noreturn void x86_raise_ud(struct x86_cpu *cpu)
{
	x86_raise(cpu, X86_UD);
}

/* Leave run() with X86_EXIT_INTERNAL_ERROR and a text (printf-like) that names what and why. */
tz_noreturn void x86_internal_error(struct x86_cpu *cpu, const char *fmt, ...) tz_printf(2, 3);

#endif
