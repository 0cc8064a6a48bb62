/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data and I/O breakpoints (SDM 3B 17.2.4, 17.2.5), seen from the accesses: which pages need the slow
 * path, and noting a hit. The #DB itself is raised after the instruction: x86/event.h.
 * Call only while cpu->dr_watch. Thread: the vCPU's own.
 */
#ifndef TZ_X86_WATCH_H
#define TZ_X86_WATCH_H

#include "x86/cpu.h"

#define X86_WATCH_WRITE 1u
#define X86_WATCH_READ 2u
#define X86_WATCH_IO 4u

/* The debug registers in force: the client's (KVM_SET_GUEST_DEBUG) when it enabled a breakpoint, else the guest's. */
static inline const uint64_t *x86_watch_regs(const struct x86_cpu *cpu)
{
	return cpu->guest_debug_dr[7] & 0xff ? cpu->guest_debug_dr : cpu->dr;
}

/* The kinds of data access (X86_WATCH_WRITE, _READ) that some breakpoint in [addr, addr + len) waits for. */
unsigned x86_watch_kinds(const struct x86_cpu *cpu, uint64_t addr, uint64_t len);

/*
 * An access of `kind` (one of X86_WATCH_*; addr is a port for _IO) is done: if it hits, record the B bits
 * in ev.db_pending and ask for attention.
 */
void x86_watch_access(struct x86_cpu *cpu, uint64_t addr, uint64_t len, unsigned kind);

#endif
