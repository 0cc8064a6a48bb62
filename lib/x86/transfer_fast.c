/* SPDX-License-Identifier: Apache-2.0 */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT: flat segments from MSRs, no memory access (SDM 2; AMD APM 3). */
#include "x86/control.h"
#include "x86/event.h"
#include "x86/exception.h"
#include "x86/transfer_internal.h"

#define AR_CODE (X86_AR_G | X86_AR_P | X86_AR_S | X86_AR_CODE | X86_AR_READABLE | X86_AR_ACCESSED)
#define AR_DATA (X86_AR_G | X86_AR_DB | X86_AR_P | X86_AR_S | X86_AR_WRITABLE | X86_AR_ACCESSED)
#define AR_RING3 (3u << X86_AR_DPL_SHIFT)

/* CS, and SS from the descriptor behind it, of one privilege. */
static void flat_segments(uint16_t cs, uint16_t ss, unsigned cpl, bool code64, struct x86_seg seg[2])
{
	uint32_t dpl = cpl ? AR_RING3 : 0;

	seg[0] = x86_seg_flat((uint16_t)((cs & ~3) | cpl), AR_CODE | dpl | (code64 ? X86_AR_L : X86_AR_DB));
	seg[1] = x86_seg_flat((uint16_t)((ss & ~3) | cpl), AR_DATA | dpl);
}

static void commit_flat(struct x86_cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool code64, uint64_t rip)
{
	struct x86_seg seg[2];

	flat_segments(cs, ss, cpl, code64, seg);
	x86_commit_code(cpu, &seg[0], cpl, rip);
	cpu->seg[X86_SS] = seg[1];
}

static uint16_t syscall_cs(const struct x86_cpu *cpu)
{
	return (uint16_t)(cpu->msr.star >> 32) & ~3;
}

static uint16_t sysret_base(const struct x86_cpu *cpu)
{
	return (uint16_t)(cpu->msr.star >> 48) & ~3;
}

void x86_syscall_segments(const struct x86_cpu *cpu, struct x86_seg seg[2])
{
	flat_segments(syscall_cs(cpu), syscall_cs(cpu) + 8, 0, true, seg);
}

void x86_sysret_segments(const struct x86_cpu *cpu, struct x86_seg seg[2])
{
	flat_segments(sysret_base(cpu) + 16, sysret_base(cpu) + 8, 3, true, seg);
}

/* Flags after an entry; a cleared TF means no trap behind this instruction. */
static void commit_entry_flags(struct x86_cpu *cpu, uint64_t clear)
{
	cpu->rflags = (cpu->rflags & ~(clear | X86_RF | X86_VM)) | X86_FIXED1;
	cpu->ev.no_step = !(cpu->rflags & X86_TF);
	x86_mode_update(cpu);
}

void x86_syscall(struct x86_cpu *cpu, uint64_t next_rip)
{
	uint16_t cs = syscall_cs(cpu);

	if (!(cpu->efer & X86_EFER_SCE) || !x86_protected(cpu))
		x86_raise_ud(cpu);
	/* Outside 64-bit mode only AMD's CPUs have it. */
	if (!x86_long64(cpu) && !x86_vendor_is_amd(cpu))
		x86_raise_ud(cpu);
	if (cpu->long_mode) {
		uint64_t target = x86_long64(cpu) ? cpu->msr.lstar : cpu->msr.cstar;

		cpu->gpr[X86_RCX] = next_rip;
		cpu->gpr[X86_R11] = cpu->rflags & ~X86_RF;
		commit_flat(cpu, cs, cs + 8, 0, true, target);
		commit_entry_flags(cpu, cpu->msr.sfmask);
	} else {
		cpu->gpr[X86_RCX] = (uint32_t)next_rip;
		commit_flat(cpu, cs, cs + 8, 0, false, (uint32_t)cpu->msr.star);
		commit_entry_flags(cpu, X86_IF);
	}
}

void x86_sysret(struct x86_cpu *cpu, unsigned opsize)
{
	uint16_t base = sysret_base(cpu);
	bool to64 = opsize == 8;
	uint64_t rip = to64 ? cpu->gpr[X86_RCX] : (uint32_t)cpu->gpr[X86_RCX];
	bool canonical = x86_canonical(cpu, rip), amd = false;

	if (!(cpu->efer & X86_EFER_SCE) || !x86_protected(cpu))
		x86_raise_ud(cpu);
	if (!x86_long64(cpu) || !canonical)
		amd = x86_vendor_is_amd(cpu);
	if (!x86_long64(cpu) && !amd)
		x86_raise_ud(cpu);
	if (cpu->cpl != 0)
		x86_raise_gp0(cpu);
	/* Intel faults in the kernel; with AMD the first fetch in user mode does. */
	if (!canonical && !amd)
		x86_raise_gp0(cpu);
	commit_flat(cpu, to64 ? base + 16 : base, base + 8, 3, to64, rip);
	x86_mode_update(cpu);
	if (cpu->long_mode)
		x86_write_rflags(cpu, cpu->gpr[X86_R11] & ~X86_RF, X86_SYSRET_FLAGS | X86_RF);
	else
		x86_write_rflags(cpu, X86_IF, X86_IF);
	/* The TF it leaves decides, unlike with IRET and POPF: set, it traps before the first instruction at CPL 3. */
	cpu->ev.no_step = true;
	if (cpu->rflags & X86_TF)
		cpu->ev.db_pending |= X86_DR6_BS;
}

/* #UD where the vendor does not have SYSENTER and SYSEXIT: AMD in long mode (APM 3). */
static void check_sysenter(struct x86_cpu *cpu)
{
	if (cpu->long_mode && x86_vendor_is_amd(cpu))
		x86_raise_ud(cpu);
	if (cpu->real_mode || !(cpu->msr.sysenter_cs & 0xfffc))
		x86_raise_gp0(cpu);
}

void x86_sysenter(struct x86_cpu *cpu)
{
	uint16_t cs = (uint16_t)cpu->msr.sysenter_cs & ~3;
	bool code64 = cpu->long_mode;
	uint64_t rip, rsp;

	check_sysenter(cpu);
	rip = code64 ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
	rsp = code64 ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
	/* Out of virtual-8086 mode first: the RPL of CS is then this mode's. */
	cpu->rflags &= ~X86_VM;
	x86_mode_update(cpu);
	commit_flat(cpu, cs, cs + 8, 0, code64, rip);
	cpu->gpr[X86_RSP] = rsp;
	commit_entry_flags(cpu, X86_IF);
}

void x86_sysexit(struct x86_cpu *cpu, unsigned opsize)
{
	uint16_t base = (uint16_t)cpu->msr.sysenter_cs & ~3;
	bool to64 = opsize == 8;
	uint64_t rip, rsp;

	check_sysenter(cpu);
	if (cpu->cpl != 0)
		x86_raise_gp0(cpu);
	rip = to64 ? cpu->gpr[X86_RDX] : (uint32_t)cpu->gpr[X86_RDX];
	rsp = to64 ? cpu->gpr[X86_RCX] : (uint32_t)cpu->gpr[X86_RCX];
	if (to64 && (!x86_canonical(cpu, rip) || !x86_canonical(cpu, rsp)))
		x86_raise_gp0(cpu);
	commit_flat(cpu, base + (to64 ? 32 : 16), base + (to64 ? 40 : 24), 3, to64, rip);
	cpu->gpr[X86_RSP] = rsp;
	x86_mode_update(cpu);
}
