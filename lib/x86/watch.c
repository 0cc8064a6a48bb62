/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/watch.h"

/* R/W field of DR7 (SDM 3B 17.2.4): what breakpoint n waits for. Instruction breakpoints are not ours. */
static unsigned watch_kind(const struct x86_cpu *cpu, uint64_t dr7, unsigned n)
{
	if (!((dr7 >> (2 * n)) & 3))
		return 0;
	switch ((dr7 >> (16 + 4 * n)) & 3) {
	case 1: return X86_WATCH_WRITE;
	case 2: return cpu->cr4 & X86_CR4_DE ? X86_WATCH_IO : 0;
	case 3: return X86_WATCH_WRITE | X86_WATCH_READ;
	default: return 0;
	}
}

/* Does [addr, addr + len) touch breakpoint n? The low bits of its address, as many as LEN has, do not count. */
static bool watch_overlaps(const uint64_t *dr, unsigned n, uint64_t addr, uint64_t len)
{
	static const uint8_t sizes[] = { 1, 2, 8, 4 };
	uint64_t size = sizes[(dr[7] >> (18 + 4 * n)) & 3];
	uint64_t start = dr[n] & ~(size - 1);

	return start - addr < len || addr - start < size;
}

unsigned x86_watch_kinds(const struct x86_cpu *cpu, uint64_t addr, uint64_t len)
{
	const uint64_t *dr = x86_watch_regs(cpu);
	unsigned kinds = 0;

	for (unsigned n = 0; n < 4; n++)
		if (watch_overlaps(dr, n, addr, len))
			kinds |= watch_kind(cpu, dr[7], n);
	return kinds & (X86_WATCH_WRITE | X86_WATCH_READ);
}

void x86_watch_access(struct x86_cpu *cpu, uint64_t addr, uint64_t len, unsigned kind)
{
	const uint64_t *dr = x86_watch_regs(cpu);
	uint64_t hits = 0;

	for (unsigned n = 0; n < 4; n++)
		if ((watch_kind(cpu, dr[7], n) & kind) && watch_overlaps(dr, n, addr, len))
			hits |= BIT64(n);
	if (!hits)
		return;
	cpu->ev.db_pending |= hits;
	x86_cpu_attention(cpu, X86_ATT_TRAP);
}
