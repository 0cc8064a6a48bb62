/* SPDX-License-Identifier: Apache-2.0 */
/* MOV to and from control and debug registers, TLB and cache instructions, XCR0, PKRU, segment bases. */
#include "interp/system.h"
#include "x86/control.h"
#include "x86/fpu.h"
#include "x86/tlb.h"

/* MOV CRn, DRn always move 64 bits in 64-bit mode, 32 elsewhere (SDM 2B MOV-Control Registers). */
static unsigned control_width(const struct x86_cpu *cpu)
{
	return x86_long64(cpu) ? 8 : 4;
}

/* ---- MOV CRn, DRn; extra: the register's number, reg[0]: the general register ---- */

static void exec_mov_from_cr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t value;

	system_need_cpl0(cpu);
	switch (i->extra) {
	case 0: value = cpu->cr0; break;
	case 2: value = cpu->cr2; break;
	case 3: value = cpu->cr3; break;
	case 4: value = cpu->cr4; break;
	case 8: value = x86_read_cr8(cpu); break;
	default: x86_raise_ud(cpu);
	}
	interp_reg_write(cpu, i->reg[0], control_width(cpu), value);
	interp_next(cpu, i);
}

static void exec_mov_to_cr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t value;

	system_need_cpl0(cpu);
	value = interp_reg_read(cpu, i->reg[0], control_width(cpu));
	switch (i->extra) {
	case 0: x86_write_cr0(cpu, value); break;
	case 2: cpu->cr2 = value; break;
	case 3: x86_write_cr3(cpu, value); break;
	case 4: x86_write_cr4(cpu, value); break;
	case 8: x86_write_cr8(cpu, value); break;
	default: x86_raise_ud(cpu);
	}
	interp_next(cpu, i);
	system_end_block(cpu);
}

static void exec_mov_from_dr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	interp_reg_write(cpu, i->reg[0], control_width(cpu), x86_read_dr(cpu, i->extra));
	interp_next(cpu, i);
}

static void exec_mov_to_dr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	x86_write_dr(cpu, i->extra, interp_reg_read(cpu, i->reg[0], control_width(cpu)));
	interp_next(cpu, i);
	system_end_block(cpu);
}

bool system_bind_mov_control(struct interp_insn *i, const ZydisDecodedOperand *zo)
{
	bool to = ZydisRegisterGetClass(zo[0].reg.value) == ZYDIS_REGCLASS_CONTROL ||
		  ZydisRegisterGetClass(zo[0].reg.value) == ZYDIS_REGCLASS_DEBUG;
	ZydisRegister special = zo[to ? 0 : 1].reg.value, general = zo[to ? 1 : 0].reg.value;
	bool cr = ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_CONTROL;

	i->extra = (uint8_t)ZydisRegisterGetId(special);
	i->reg[0] = (uint8_t)ZydisRegisterGetId(general);
	if (to)
		return system_bind_last(i, cr ? exec_mov_to_cr : exec_mov_to_dr);
	return system_bind(i, cr ? exec_mov_from_cr : exec_mov_from_dr);
}

/* ---- CR0 by halves ---- */

static void exec_clts(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	cpu->cr0 &= ~X86_CR0_TS;
	interp_next(cpu, i);
}

static void exec_lmsw(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t value;

	system_need_cpl0(cpu);
	value = interp_operand_read(cpu, i, 0) & 0xf;
	/* PE can be set this way, not cleared (SDM 2A LMSW). */
	x86_write_cr0(cpu, (cpu->cr0 & ~UINT64_C(0xe)) | value);
	interp_next(cpu, i);
	system_end_block(cpu);
}

static void exec_smsw(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_check_umip(cpu);
	interp_operand_write(cpu, i, 0, cpu->cr0);
	interp_next(cpu, i);
}

/* ---- caches and TLB ---- */

/* Software memory is coherent: the check is all that is left. */
static void exec_cache_flush(struct x86_cpu *cpu, const struct interp_insn *i)
{
	system_need_cpl0(cpu);
	interp_next(cpu, i);
}

/* Segment base plus offset, without limit or type checks (SDM 2A INVLPG: like LEA). */
static void exec_invlpg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t linear = interp_ea(cpu, i);

	system_need_cpl0(cpu);
	if (!x86_long64(cpu))
		linear = (uint32_t)(linear + cpu->seg[i->seg].base);
	else if (i->seg >= X86_FS)
		linear += cpu->seg[i->seg].base;
	x86_invlpg(cpu, linear);
	interp_next(cpu, i);
	system_end_block(cpu);
}

static void exec_invpcid(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t desc[2], type;

	system_need_cpl0(cpu);
	type = interp_reg_read(cpu, i->reg[0], control_width(cpu));
	x86_read_bytes(cpu, interp_linear(cpu, i, 16, false), desc, 16, cpu->mmu_index);
	x86_invpcid(cpu, type, desc[0], desc[1]);
	interp_next(cpu, i);
	system_end_block(cpu);
}

/* ---- extended state, protection keys ---- */

static void need_osxsave(struct x86_cpu *cpu)
{
	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		x86_raise_ud(cpu);
}

/* XGETBV with ECX = 1: XCR0 & XINUSE (SDM 1 13.6); the saved area's XSTATE_BV is XINUSE. */
static uint64_t xcr0_in_use(struct x86_cpu *cpu)
{
	uint64_t in_use;

	x86_fpu_put(cpu);
	in_use = guest_load64(cpu->fpu.area + 512);
	if (cpu->pkru)
		in_use |= BIT64(9);
	return cpu->xcr0 & in_use;
}

static void exec_xgetbv(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t index = (uint32_t)cpu->gpr[X86_RCX];

	need_osxsave(cpu);
	if (index == 0)
		system_set_edx_eax(cpu, cpu->xcr0);
	else if (index == 1 && x86_has(cpu, X86_FEAT_XGETBV1))
		system_set_edx_eax(cpu, xcr0_in_use(cpu));
	else
		x86_raise_gp0(cpu);
	interp_next(cpu, i);
}

static void exec_xsetbv(struct x86_cpu *cpu, const struct interp_insn *i)
{
	need_osxsave(cpu);
	system_need_cpl0(cpu);
	x86_write_xcr(cpu, (uint32_t)cpu->gpr[X86_RCX], system_edx_eax(cpu));
	interp_next(cpu, i);
	system_end_block(cpu);
}

static void need_pke(struct x86_cpu *cpu)
{
	if (!(cpu->cr4 & X86_CR4_PKE))
		x86_raise_ud(cpu);
	if ((uint32_t)cpu->gpr[X86_RCX])
		x86_raise_gp0(cpu);
}

static void exec_rdpkru(struct x86_cpu *cpu, const struct interp_insn *i)
{
	need_pke(cpu);
	system_set_edx_eax(cpu, cpu->pkru);
	interp_next(cpu, i);
}

static void exec_wrpkru(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t value = (uint32_t)cpu->gpr[X86_RAX];

	need_pke(cpu);
	if ((uint32_t)cpu->gpr[X86_RDX])
		x86_raise_gp0(cpu);
	/* TLB entries were made under the old rights. */
	if (value != cpu->pkru)
		x86_tlb_flush_all(cpu);
	cpu->pkru = value;
	interp_next(cpu, i);
	system_end_block(cpu);
}

/* ---- FS and GS bases ---- */

static void exec_swapgs(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t base = cpu->seg[X86_GS].base;

	system_need_cpl0(cpu);
	cpu->seg[X86_GS].base = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
	interp_next(cpu, i);
}

static void exec_rd_base(struct x86_cpu *cpu, const struct interp_insn *i)
{
	if (!(cpu->cr4 & X86_CR4_FSGSBASE))
		x86_raise_ud(cpu);
	interp_operand_write(cpu, i, 0, cpu->seg[i->extra].base);
	interp_next(cpu, i);
}

static void exec_wr_base(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint64_t value;

	if (!(cpu->cr4 & X86_CR4_FSGSBASE))
		x86_raise_ud(cpu);
	value = interp_operand_read(cpu, i, 0);
	if (!x86_canonical_base(cpu, value))
		x86_raise_gp0(cpu);
	cpu->seg[i->extra].base = value;
	interp_next(cpu, i);
}

/* ---- bind ---- */

bool bind_clts(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_clts);
}

bool bind_lmsw(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_last(i, exec_lmsw);
}

bool bind_smsw(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_smsw);
}

bool bind_cache_flush(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind(i, exec_cache_flush);
}

bool bind_invlpg(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_last(i, exec_invlpg);
}

bool bind_invpcid(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	/* Not in virtual-8086 mode: #GP(0), which CPL 3 gives. */
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_INVPCID, exec_invpcid);
}

bool bind_xgetbv(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_XSAVE, exec_xgetbv);
}

bool bind_xsetbv(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_XSAVE, exec_xsetbv);
}

bool bind_rdpkru(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_PKU, exec_rdpkru);
}

bool bind_wrpkru(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->ends_block = true;
	return system_bind_feature(cpu, i, X86_FEAT_PKU, exec_wrpkru);
}

bool bind_swapgs(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	return system_bind_feature(cpu, i, X86_FEAT_LM, exec_swapgs);
}

bool bind_rd_base(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->extra = zi->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ? X86_FS : X86_GS;
	return system_bind_feature(cpu, i, X86_FEAT_FSGSBASE, exec_rd_base);
}

bool bind_wr_base(SYSTEM_BIND_ARGS)
{
	SYSTEM_UNUSED;
	i->extra = zi->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ? X86_FS : X86_GS;
	return system_bind_feature(cpu, i, X86_FEAT_FSGSBASE, exec_wr_base);
}
