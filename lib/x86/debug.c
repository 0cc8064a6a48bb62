/* SPDX-License-Identifier: Apache-2.0 */
/* Debug registers (SDM 3B 17.2). Matching data and I/O breakpoints is watch.c's, raising #DB event.c's. */
#include "x86/control.h"
#include "x86/exception.h"
#include "x86/tlb.h"
#include "x86/watch.h"

#define DR7_ENABLES UINT64_C(0xff)
#define DR7_WRITABLE UINT64_C(0xffff23ff) /* without RTM (bit 11) */
#define DR6_WRITABLE UINT64_C(0xe00f)     /* B0-B3, BD, BS, BT */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE (SDM 3B 17.2.2); GD traps every access (17.2.4). */
static unsigned dr_check(struct x86_cpu *cpu, unsigned n)
{
	if (n == 4 || n == 5) {
		if (cpu->cr4 & X86_CR4_DE)
			x86_raise_ud(cpu);
		n += 2;
	}
	if (cpu->dr[7] & X86_DR7_GD) {
		cpu->ev.db_pending |= X86_DR6_BD;
		x86_raise(cpu, X86_DB);
	}
	return n & 7;
}

uint64_t x86_read_dr(struct x86_cpu *cpu, unsigned n)
{
	return cpu->dr[dr_check(cpu, n)];
}

void x86_write_dr(struct x86_cpu *cpu, unsigned n, uint64_t value)
{
	n = dr_check(cpu, n);
	if (n >= 6 && value >> 32)
		x86_raise_gp0(cpu);
	if (n == 6)
		value = (value & DR6_WRITABLE) | X86_DR6_FIXED1;
	else if (n == 7)
		value = (value & DR7_WRITABLE) | X86_DR7_FIXED1;
	cpu->dr[n] = value;
	if (n != 6)
		x86_debug_changed(cpu);
}

void x86_debug_changed(struct x86_cpu *cpu)
{
	uint64_t dr7 = x86_watch_regs(cpu)[7];
	bool watch = false, exec = false;

	for (unsigned n = 0; n < 4 && (dr7 & DR7_ENABLES); n++) {
		if (!((dr7 >> (2 * n)) & 3))
			continue;
		if ((dr7 >> (16 + 4 * n)) & 3)
			watch = true;
		else
			exec = true;
	}
	cpu->dr_exec = exec;
	/* Which pages go through the slow path is decided when the TLB is filled. */
	if ((watch || cpu->dr_watch) && cpu->tlb)
		x86_tlb_flush_all(cpu);
	cpu->dr_watch = watch;
	if (exec || watch)
		x86_cpu_attention(cpu, X86_ATT_TRAP);
}
