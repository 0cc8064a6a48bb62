/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accesses that leave the model: port I/O and MMIO.
 *
 * An instruction may make several, and each may need the client, that is a return
 * from run() in the middle of the instruction. The rule that a faulting instruction
 * leaves no trace makes this simple: the instruction is restarted. Accesses already
 * done are kept in cpu->io.log and replayed in order, so every one happens exactly
 * once. The log is dropped when the instruction completes (x86_io_finish) or RIP was
 * changed by the client.
 *
 * REP string instructions commit each iteration (registers and RIP stay on the
 * instruction), so their log is finished per iteration.
 *
 * Thread: the vCPU's own.
 */
#ifndef TZ_X86_IO_H
#define TZ_X86_IO_H

#include "x86/cpu.h"

/* len 1, 2, 4. May leave run() with X86_EXIT_PIO. Permission (IOPL, TSS bitmap) is the caller's: x86_check_io(). */
uint64_t x86_pio_read(struct x86_cpu *cpu, uint16_t port, unsigned len);
void x86_pio_write(struct x86_cpu *cpu, uint16_t port, uint64_t value, unsigned len);

/* len 1..8, inside one page. May leave run() with X86_EXIT_MMIO. */
uint64_t x86_mmio_read(struct x86_cpu *cpu, gpa_t gpa, unsigned len);
void x86_mmio_write(struct x86_cpu *cpu, gpa_t gpa, uint64_t value, unsigned len);

/* The engine: an instruction that made accesses is complete. Cheap when there were none. */
static inline void x86_io_finish(struct x86_cpu *cpu)
{
	cpu->io.logged = 0;
	cpu->io.cursor = 0;
}

/* The engine, before (re)starting an instruction: rewind the replay. */
static inline void x86_io_rewind(struct x86_cpu *cpu)
{
	cpu->io.cursor = 0;
}

/*
 * Core: the client did cpu->io.pending; `data` holds what a read returned (pending.len
 * bytes; ignored for writes). Moves it to the log. The next run() finishes the instruction.
 */
void x86_io_complete(struct x86_cpu *cpu, const void *data);

#endif
