/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs, time-stamp counter, CPUID, port I/O, random numbers. */
#include <sys/random.h>

#include "interp/system.h"
#include "x86/control.h"
#include "x86/fpu.h"
#include "x86/io.h"
#include "x86/segment.h"

/* ---- MSRs ---- */

static void exec_rdmsr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	system_set_edx_eax(cpu, x86_rdmsr(cpu, (uint32_t)cpu->gpr[X86_RCX]));
	interp_next(cpu, i);
}

static void exec_wrmsr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	x86_wrmsr(cpu, (uint32_t)cpu->gpr[X86_RCX], system_edx_eax(cpu));
	interp_next(cpu, i);
	system_end_block(cpu);
}

/* ---- counters ---- */

static uint64_t tsc(struct x86_cpu *cpu)
{
	if (cpu->cpl > 0 && (cpu->cr4 & X86_CR4_TSD))
		x86_raise_gp0(cpu);
	x86_fpu_put(cpu);
	return cpu->ops->tsc_read(cpu);
}

static void exec_rdtsc(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_set_edx_eax(cpu, tsc(cpu));
	interp_next(cpu, i);
}

static void exec_rdtscp(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_set_edx_eax(cpu, tsc(cpu));
	cpu->gpr[X86_RCX] = (uint32_t)cpu->msr.tsc_aux;
	interp_next(cpu, i);
}

/* No performance counter is offered: whatever ECX asks for does not exist (SDM 2B RDPMC). */
static void exec_rdpmc(struct x86_cpu *cpu, const struct interp_insn *i)
{
	(void)i;
	x86_raise_gp0(cpu);
}

static void exec_rdpid(struct x86_cpu *cpu, const struct interp_insn *i)
{
	interp_reg_write(cpu, i->reg[0], x86_long64(cpu) ? 8 : 4, cpu->msr.tsc_aux);
	interp_next(cpu, i);
}

static void exec_cpuid(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t a = (uint32_t)cpu->gpr[X86_RAX], c = (uint32_t)cpu->gpr[X86_RCX], b, d;

	/* The LAPIC is asked whether it is enabled. */
	x86_fpu_put(cpu);
	x86_cpuid_execute(cpu, &a, &b, &c, &d);
	cpu->gpr[X86_RAX] = a;
	cpu->gpr[X86_RBX] = b;
	cpu->gpr[X86_RCX] = c;
	cpu->gpr[X86_RDX] = d;
	interp_next(cpu, i);
}

/* ---- ports; opsize is the access's. extra: the port is in DX, else in imm ---- */

static uint16_t port_of(const struct x86_cpu *cpu, const struct interp_insn *i)
{
	return i->extra ? (uint16_t)cpu->gpr[X86_RDX] : (uint16_t)i->imm;
}

static void exec_in(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint16_t port = port_of(cpu, i);

	x86_check_io(cpu, port, i->opsize);
	interp_reg_write(cpu, X86_RAX, i->opsize, x86_pio_read(cpu, port, i->opsize));
	interp_next(cpu, i);
}

static void exec_out(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint16_t port = port_of(cpu, i);

	x86_check_io(cpu, port, i->opsize);
	x86_pio_write(cpu, port, interp_reg_read(cpu, X86_RAX, i->opsize), i->opsize);
	interp_next(cpu, i);
}

/* ---- RDRAND, RDSEED: the host kernel's generator ---- */

static void exec_random(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t value = 0;
	bool ok;

	x86_fpu_put(cpu);
	ok = getrandom(&value, i->opsize, 0) == i->opsize;
	interp_reg_write(cpu, i->reg[0], i->opsize, ok ? value : 0);
	cpu->rflags = (cpu->rflags & ~X86_ARITH_FLAGS) | (ok ? X86_CF : 0);
	interp_next(cpu, i);
}

/* ---- bind ---- */

static bool bind_port(struct interp_insn *i, const ZydisDecodedOperand *port, const ZydisDecodedOperand *data,
		      interp_exec_fn *fn)
{
	i->opsize = (uint8_t)(data->size / 8);
	i->extra = port->type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (!i->extra)
		i->imm = port->imm.value.u & 0xff;
	return system_bind(i, fn);
}

bool bind_in(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return bind_port(i, &zo[1], &zo[0], exec_in);
}

bool bind_out(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return bind_port(i, &zo[0], &zo[1], exec_out);
}

bool bind_rdmsr(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_MSR, exec_rdmsr);
}

bool bind_wrmsr(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_MSR, exec_wrmsr);
}

bool bind_rdtsc(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_TSC, exec_rdtsc);
}

bool bind_rdtscp(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_RDTSCP, exec_rdtscp);
}

bool bind_rdpmc(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_rdpmc);
}

bool bind_rdpid(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_RDPID, exec_rdpid);
}

bool bind_cpuid(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_cpuid);
}

bool bind_rdrand(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = (uint8_t)(zo[0].size / 8);
	return system_bind_feature(cpu, i, X86_FEAT_RDRAND, exec_random);
}

bool bind_rdseed(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->opsize = (uint8_t)(zo[0].size / 8);
	return system_bind_feature(cpu, i, X86_FEAT_RDSEED, exec_random);
}
