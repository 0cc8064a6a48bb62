/* SPDX-License-Identifier: Apache-2.0 */
/* Raising and unwinding: see exception.h. The landing is the setjmp() of the engine's run() or of event.c. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "x86/exception.h"
#include "x86/fpu.h"

static tz_noreturn void unwind(struct x86_cpu *cpu, enum x86_unwind how)
{
	assert(cpu->unwind_valid);
	longjmp(cpu->unwind, how);
}

static tz_noreturn void raise_event(struct x86_cpu *cpu, uint8_t vector, bool has_error, uint32_t error, uint64_t cr2)
{
	struct x86_events *ev = &cpu->ev;

	ev->exc_pending = true;
	ev->exc_vector = vector;
	/* Real mode pushes no error codes (SDM 3B 20.1.4). */
	ev->exc_has_error = has_error && !cpu->real_mode;
	ev->exc_error = ev->exc_has_error ? error : 0;
	ev->exc_cr2 = cr2;
	/* An instruction that faults reports no breakpoint of data it touched before (SDM 3B 17.2.4). */
	if (vector != X86_DB)
		ev->db_pending = 0;
	unwind(cpu, X86_UNWIND_EVENT);
}

void x86_raise(struct x86_cpu *cpu, enum x86_vector vector)
{
	raise_event(cpu, vector, false, 0, 0);
}

void x86_raise_error(struct x86_cpu *cpu, enum x86_vector vector, uint32_t error)
{
	raise_event(cpu, vector, true, error, 0);
}

void x86_raise_page_fault(struct x86_cpu *cpu, gva_t addr, uint32_t error)
{
	raise_event(cpu, X86_PF_EXC, true, error, addr.v);
}

void x86_exit_unwind(struct x86_cpu *cpu, enum x86_exit reason)
{
	cpu->exit_reason = reason;
	unwind(cpu, X86_UNWIND_EXIT);
}

void x86_internal_error(struct x86_cpu *cpu, const char *fmt, ...)
{
	va_list ap;

	x86_fpu_put(cpu);
	va_start(ap, fmt);
	vsnprintf(cpu->error_text, sizeof(cpu->error_text), fmt, ap);
	va_end(ap);
	x86_exit_unwind(cpu, X86_EXIT_INTERNAL_ERROR);
}
