/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MSRs of the model, one row each, sorted by index (SDM 4 chapter 2; AMD APM 2 appendix A).
 * An index that is not here goes to the layer above (paravirtual MSRs), and is #GP(0) if unknown there.
 */
#include "x86/apic/irqchip.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/segment.h"
#include "x86/tlb.h"
#include "x86/transfer_internal.h"

#define READ_ARGS struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index, uint64_t *value
#define WRITE_ARGS                                                                                                     \
	struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index, uint64_t value, enum x86_msr_by by
#define UNUSED_READ (void)cpu, (void)row, (void)index
#define UNUSED_WRITE (void)cpu, (void)row, (void)index, (void)value, (void)by

static uint64_t *field(struct x86_cpu *cpu, const struct x86_msr_row *row, uint32_t index)
{
	return (uint64_t *)((uint8_t *)cpu + row->offset) + (index - row->first);
}

/* ---- building blocks ---- */

static bool read_constant(READ_ARGS)
{
	UNUSED_READ;
	*value = row->writable;
	return true;
}

static bool read_refused(READ_ARGS)
{
	UNUSED_READ;
	(void)value;
	return false;
}

static bool write_ignored(WRITE_ARGS)
{
	UNUSED_WRITE;
	return true;
}

/* #GP(0); the API may write back what it has read. */
static bool write_refused(WRITE_ARGS)
{
	UNUSED_WRITE;
	return by == X86_MSR_HOST && value == row->writable;
}

static bool write_canonical(WRITE_ARGS)
{
	(void)by;
	if (!x86_canonical_base(cpu, value))
		return false;
	*field(cpu, row, index) = value;
	return true;
}

/* ---- time ---- */

static bool read_tsc(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->ops->tsc_read(cpu);
	return true;
}

/* ops->tsc_read() counts TSC_ADJUST in: a guest that writes the TSC moves TSC_ADJUST by as much (SDM 3B 17.17.3). */
static void tsc_moved(struct x86_cpu *cpu, uint64_t adjust)
{
	__atomic_store_n(&cpu->msr.tsc_adjust, adjust, __ATOMIC_RELAXED);
	if (cpu->lapic)
		lapic_tsc_changed(cpu);
	if (cpu->ops->tsc_changed)
		cpu->ops->tsc_changed(cpu);
}

static bool write_tsc(WRITE_ARGS)
{
	UNUSED_WRITE;
	if (by == X86_MSR_HOST)
		cpu->ops->tsc_write(cpu, value);
	else
		tsc_moved(cpu, cpu->msr.tsc_adjust + value - cpu->ops->tsc_read(cpu));
	return true;
}

static bool write_tsc_adjust(WRITE_ARGS)
{
	uint64_t now;

	UNUSED_WRITE;
	if (by == X86_MSR_GUEST) {
		tsc_moved(cpu, value);
		return true;
	}
	/* The client restores the register, not the time. */
	now = cpu->ops->tsc_read(cpu);
	__atomic_store_n(&cpu->msr.tsc_adjust, value, __ATOMIC_RELAXED);
	cpu->ops->tsc_write(cpu, now);
	return true;
}

/* ---- APIC base without an in-library LAPIC ---- */

static bool write_apic_base(WRITE_ARGS)
{
	const uint64_t reserved = UINT64_C(0x6ff); /* no x2APIC mode: nobody would answer its MSRs */

	(void)row, (void)index;
	if (by == X86_MSR_GUEST && (value & (reserved | ~(BIT64(52) - 1) | cpu->cpuid.rsvd_gpa_bits)))
		return false;
	cpu->msr.apic_base = value;
	return true;
}

/* ---- identification ---- */

static bool read_ucode_rev(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->msr.ucode_rev;
	if (!*value)
		*value = x86_vendor_is_amd(cpu) ? UINT64_C(0x01000065) : UINT64_C(1) << 32;
	return true;
}

/* The guest writes 0 before CPUID loads the revision (SDM 3A 9.11.7.1); there is nothing to load. */
static bool write_ucode_rev(WRITE_ARGS)
{
	(void)row, (void)index;
	if (by == X86_MSR_HOST)
		cpu->msr.ucode_rev = value;
	return true;
}

static bool read_arch_capabilities(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->msr.arch_capabilities;
	return true;
}

static bool write_arch_capabilities(WRITE_ARGS)
{
	(void)row, (void)index;
	if (by == X86_MSR_GUEST || (value & ~X86_ARCH_CAPABILITIES))
		return false;
	cpu->msr.arch_capabilities = value;
	return true;
}

/* Locked by "firmware" or by the guest itself, with nothing enabled: there is no VMX, SMX or SGX to allow. */
static bool read_feature_control(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->msr.feature_control;
	return !x86_vendor_is_amd(cpu);
}

static bool write_feature_control(WRITE_ARGS)
{
	(void)row, (void)index;
	if (value & ~UINT64_C(1))
		return false;
	if (by == X86_MSR_GUEST && (x86_vendor_is_amd(cpu) || (cpu->msr.feature_control & 1)))
		return false;
	cpu->msr.feature_control = value;
	return true;
}

/*
 * Bits 7, 11 and 12 are read-only, 34 exists where XD does (SDM 4 table 2-2); the reserved ones raise.
 * What the writable ones switch in CPUID, x86_cpuid_execute() does.
 */
static bool write_misc_enable(WRITE_ARGS)
{
	const uint64_t read_only = BIT64(7) | BIT64(11) | BIT64(12);
	uint64_t writable = BIT64(0) | BIT64(3) | BIT64(16) | BIT64(18) | X86_MISC_ENABLE_LIMIT_CPUID | BIT64(23);

	(void)row, (void)index;
	if (x86_has(cpu, X86_FEAT_NX))
		writable |= X86_MISC_ENABLE_XD_DISABLE;
	if (value & ~(writable | read_only))
		return false;
	if (by == X86_MSR_GUEST)
		value = (value & writable) | (cpu->msr.misc_enable & read_only);
	cpu->msr.misc_enable = value;
	return true;
}

/* ---- modes and entry points ---- */

static bool read_efer(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->efer;
	return true;
}

static bool write_efer(WRITE_ARGS)
{
	uint64_t changed;

	UNUSED_WRITE;
	if (value & ~(cpu->cpuid.efer_allowed | X86_EFER_LMA))
		return false;
	/* LMA is the processor's to set (SDM 4 table 2-2, IA32_EFER). */
	value = (value & ~X86_EFER_LMA) | (cpu->efer & X86_EFER_LMA);
	changed = value ^ cpu->efer;
	if ((changed & X86_EFER_LME) && x86_paging(cpu))
		return false;
	cpu->efer = value;
	if (changed & X86_EFER_NXE)
		x86_tlb_flush_all(cpu);
	return true;
}

static bool write_sysenter_address(WRITE_ARGS)
{
	unsigned unused = x86_has(cpu, X86_FEAT_LA57) ? 64 - 57 : 64 - 48;

	(void)by;
	if (!x86_canonical_base(cpu, value)) {
		/* AMD keeps what fits, Intel faults. */
		if (!x86_vendor_is_amd(cpu))
			return false;
		value = (uint64_t)((int64_t)(value << unused) >> unused);
	}
	*field(cpu, row, index) = value;
	return true;
}

static bool write_low_half(WRITE_ARGS)
{
	(void)by;
	*field(cpu, row, index) = (uint32_t)value;
	return true;
}

static bool read_segment_base(READ_ARGS)
{
	(void)row;
	*value = cpu->seg[index == MSR_FS_BASE ? X86_FS : X86_GS].base;
	return true;
}

static bool write_segment_base(WRITE_ARGS)
{
	(void)row, (void)by;
	if (!x86_canonical_base(cpu, value))
		return false;
	cpu->seg[index == MSR_FS_BASE ? X86_FS : X86_GS].base = value;
	return true;
}

/* Pages of the kernel may be global: the rights of all are in the TLB. */
static bool write_pkrs(WRITE_ARGS)
{
	(void)row, (void)index, (void)by;
	if (value >> 32)
		return false;
	if (value != cpu->msr.pkrs && (cpu->cr4 & X86_CR4_PKS))
		x86_tlb_flush_all(cpu);
	cpu->msr.pkrs = value;
	return true;
}

static bool tsc_aux_visible(const struct x86_cpu *cpu)
{
	return x86_has(cpu, X86_FEAT_RDTSCP) || x86_has(cpu, X86_FEAT_RDPID);
}

static bool read_tsc_aux(READ_ARGS)
{
	UNUSED_READ;
	*value = cpu->msr.tsc_aux;
	return tsc_aux_visible(cpu);
}

static bool write_tsc_aux(WRITE_ARGS)
{
	(void)row, (void)index;
	if (by == X86_MSR_GUEST && !tsc_aux_visible(cpu))
		return false;
	/* Bits 63:32 are reserved on Intel, ignored by AMD. */
	if (value >> 32 && !x86_vendor_is_amd(cpu))
		return false;
	cpu->msr.tsc_aux = (uint32_t)value;
	return true;
}

/* LBR and BTF may be asked for and stay off, as on a processor under KVM without LBR virtualization. */
static bool write_debugctl(WRITE_ARGS)
{
	UNUSED_WRITE;
	return !(value & ~UINT64_C(3));
}

/* ---- memory types: checked and kept; software memory has one type ---- */

static bool memory_type_valid(uint64_t type)
{
	return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool write_pat(WRITE_ARGS)
{
	(void)row, (void)index, (void)by;
	for (unsigned i = 0; i < 64; i += 8) {
		uint8_t type = (uint8_t)(value >> i);

		if (!memory_type_valid(type) && type != 7) /* UC-: the PAT has it, MTRRs do not */
			return false;
	}
	cpu->msr.pat = value;
	return true;
}

static bool write_mtrr_def_type(WRITE_ARGS)
{
	(void)row, (void)index, (void)by;
	if ((value & ~UINT64_C(0xcff)) || !memory_type_valid(value & 0xff))
		return false;
	cpu->msr.mtrr_def_type = value;
	return true;
}

/* PHYSBASE and PHYSMASK alternate (SDM 3A 11.11.2.3). */
static bool write_mtrr_phys(WRITE_ARGS)
{
	uint64_t reserved = (index & 1 ? 0x7ff : 0xf00) | ~UINT64_C(0) << cpu->cpuid.maxphyaddr;

	(void)by;
	if ((value & reserved) || (!(index & 1) && !memory_type_valid(value & 0xff)))
		return false;
	*field(cpu, row, index) = value;
	return true;
}

static bool write_mtrr_fixed(WRITE_ARGS)
{
	(void)by;
	for (unsigned i = 0; i < 64; i += 8)
		if (!memory_type_valid((uint8_t)(value >> i)))
			return false;
	*field(cpu, row, index) = value;
	return true;
}

/* ---- machine check: banks without events (SDM 3B 15.3) ---- */

#define MCG_CAP_BANKS UINT64_C(0xff)
#define MCG_CAP_CTL_P BIT64(8)
#define MCG_BANKS_DEFAULT 10
#define MCG_BANKS_MAX 32
#define HWCR_MC_STATUS_WR_EN BIT64(18)
#define HWCR_TSC_FREQ_SEL BIT64(24)

/* Read-only; the client chooses the number of banks. */
static bool write_mcg_cap(WRITE_ARGS)
{
	(void)row, (void)index;
	if (by == X86_MSR_GUEST || (value & MCG_CAP_BANKS) > MCG_BANKS_MAX ||
	    (value & ~(MCG_CAP_BANKS | MCG_CAP_CTL_P)))
		return false;
	cpu->msr.mcg_cap = value;
	return true;
}

static bool write_mcg_ctl(WRITE_ARGS)
{
	(void)row, (void)index;
	if (value != 0 && value != ~UINT64_C(0) && by == X86_MSR_GUEST)
		return false;
	cpu->msr.mcg_ctl = value;
	return true;
}

static bool read_mc_bank(READ_ARGS)
{
	*value = *field(cpu, row, index);
	return (index - row->first) / 4 < (cpu->msr.mcg_cap & MCG_CAP_BANKS);
}

static bool write_mc_bank(WRITE_ARGS)
{
	unsigned reg = (index - row->first) % 4;

	if ((index - row->first) / 4 >= (cpu->msr.mcg_cap & MCG_CAP_BANKS))
		return false;
	if (by == X86_MSR_GUEST) {
		/* CTL: all or nothing; AMD firmware leaves out bits 10 and 0 of bank 4, so take those too. */
		if (reg == 0 && value != 0 && (value | BIT64(10) | BIT64(0)) != ~UINT64_C(0))
			return false;
		if (reg == 1 && value != 0 && !(cpu->msr.hwcr & HWCR_MC_STATUS_WR_EN))
			return false;
	}
	*field(cpu, row, index) = value;
	return true;
}

/* HWCR: cache and IGNNE switches are accepted and mean nothing, TscFreqSel is always 1. */
static bool write_hwcr(WRITE_ARGS)
{
	(void)row, (void)index;
	value &= ~(BIT64(3) | BIT64(6) | BIT64(8));
	if (value & ~(HWCR_MC_STATUS_WR_EN | HWCR_TSC_FREQ_SEL))
		return false;
	cpu->msr.hwcr = value | (by == X86_MSR_GUEST ? cpu->msr.hwcr & HWCR_TSC_FREQ_SEL : 0);
	return true;
}

/* LFENCE is always serializing here (APM 2 3.2.3); software sets the bit without asking. */
static bool write_de_cfg(WRITE_ARGS)
{
	UNUSED_WRITE;
	return !(value & ~X86_DE_CFG_LFENCE_SERIALIZE);
}

/* ---- KVM's paravirtual ones ---- */

static bool read_pv(READ_ARGS)
{
	(void)row;
	return x86_pv_msr_read(cpu, index, value);
}

static bool write_pv(WRITE_ARGS)
{
	(void)row;
	return x86_pv_msr_write(cpu, index, value, by == X86_MSR_HOST);
}

/* ---- the table ---- */

#define AT(member) ((uint16_t)offsetof(struct x86_cpu, member))
_Static_assert(offsetof(struct x86_cpu, msr) + sizeof(struct x86_msrs) < 0x10000, "offsets of MSR fields are 16 bits");

#define ROW(a, b, id, feat, s, off, mask, rd, wr)                                                                      \
	{                                                                                                              \
		.first = (a), .last = (b), .name = (id), .feature = (feat), .save = (s), .offset = (off),              \
		.writable = (mask), .read = (rd), .write = (wr)                                                        \
	}
/* A field that takes the bits of `mask`; one with checks of its own; one with both functions. */
#define PLAIN(a, id, feat, member, mask) ROW(a, a, id, feat, true, AT(member), mask, NULL, NULL)
#define CHECKED(a, b, id, feat, member, wr) ROW(a, b, id, feat, true, AT(member), 0, NULL, wr)
#define CALLS(a, b, id, feat, s, rd, wr) ROW(a, b, id, feat, s, 0, 0, rd, wr)
/* A value that never changes; writes are ignored or refused. */
#define IGNORES(a, b, id, feat, v) ROW(a, b, id, feat, false, 0, v, read_constant, write_ignored)
#define FIXED(a, b, id, feat, v) ROW(a, b, id, feat, false, 0, v, read_constant, write_refused)
#define ANY X86_MSR_ALWAYS
#define ALL64 (~UINT64_C(0))

const struct x86_msr_row x86_msr_rows[] = {
	IGNORES(0x0, 0x1, "P5_MC_ADDR/TYPE", ANY, 0),
	CALLS(MSR_TSC, MSR_TSC, "TSC", ANY, true, read_tsc, write_tsc),
	CALLS(MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, "KVM_WALL_CLOCK/SYSTEM_TIME", ANY, true, read_pv, write_pv),
	FIXED(MSR_PLATFORM_ID, MSR_PLATFORM_ID, "PLATFORM_ID", ANY, 0),
	CHECKED(MSR_APIC_BASE, MSR_APIC_BASE, "APIC_BASE", ANY, msr.apic_base, write_apic_base),
	IGNORES(0x2a, 0x2a, "EBL_CR_POWERON", ANY, 0),
	FIXED(0x2c, 0x2c, "EBC_FREQUENCY_ID", ANY, UINT64_C(1) << 24),
	FIXED(0x34, 0x34, "SMI_COUNT", ANY, 0),
	CALLS(MSR_FEATURE_CONTROL, MSR_FEATURE_CONTROL, "FEATURE_CONTROL", ANY, false, read_feature_control,
	      write_feature_control),
	CHECKED(MSR_TSC_ADJUST, MSR_TSC_ADJUST, "TSC_ADJUST", X86_FEAT_TSC_ADJUST, msr.tsc_adjust, write_tsc_adjust),
	ROW(MSR_UCODE_WRITE, MSR_UCODE_WRITE, "BIOS_UPDT_TRIG", ANY, false, 0, 0, read_refused, write_ignored),
	CALLS(MSR_UCODE_REV, MSR_UCODE_REV, "BIOS_SIGN_ID", ANY, true, read_ucode_rev, write_ucode_rev),
	IGNORES(0xc1, 0xc2, "PERFCTR0-1", ANY, 0),
	FIXED(0xcd, 0xcd, "FSB_FREQ", ANY, 3),
	FIXED(0xce, 0xce, "PLATFORM_INFO", ANY, 0),
	/* Eight variable ranges, fixed ranges, write combining (SDM 3A 11.11.1). */
	FIXED(MSR_MTRRCAP, MSR_MTRRCAP, "MTRRCAP", X86_FEAT_MTRR, 0x508),
	CALLS(MSR_ARCH_CAPABILITIES, MSR_ARCH_CAPABILITIES, "ARCH_CAPABILITIES", X86_FEAT_ARCH_CAPABILITIES, true,
	      read_arch_capabilities, write_arch_capabilities),
	FIXED(0x11e, 0x11e, "BBL_CR_CTL3", ANY, 0xbe702111),
	IGNORES(0x140, 0x140, "MISC_FEATURES_ENABLES", ANY, 0),
	PLAIN(MSR_SYSENTER_CS, "SYSENTER_CS", ANY, msr.sysenter_cs, ALL64),
	CHECKED(MSR_SYSENTER_ESP, MSR_SYSENTER_ESP, "SYSENTER_ESP", ANY, msr.sysenter_esp, write_sysenter_address),
	CHECKED(MSR_SYSENTER_EIP, MSR_SYSENTER_EIP, "SYSENTER_EIP", ANY, msr.sysenter_eip, write_sysenter_address),
	ROW(MSR_MCG_CAP, MSR_MCG_CAP, "MCG_CAP", X86_FEAT_MCA, false, AT(msr.mcg_cap), 0, NULL, write_mcg_cap),
	PLAIN(MSR_MCG_STATUS, "MCG_STATUS", X86_FEAT_MCA, msr.mcg_status, 7),
	CHECKED(MSR_MCG_CTL, MSR_MCG_CTL, "MCG_CTL", X86_FEAT_MCA, msr.mcg_ctl, write_mcg_ctl),
	IGNORES(0x186, 0x187, "PERFEVTSEL0-1", ANY, 0),
	FIXED(0x198, 0x198, "PERF_STATUS", ANY, 1000 | UINT64_C(4) << 40),
	IGNORES(0x199, 0x199, "PERF_CTL", ANY, 0),
	CHECKED(MSR_MISC_ENABLE, MSR_MISC_ENABLE, "MISC_ENABLE", ANY, msr.misc_enable, write_misc_enable),
	ROW(MSR_DEBUGCTL, MSR_DEBUGCTL, "DEBUGCTL", ANY, false, 0, 0, read_constant, write_debugctl),
	FIXED(0x1db, 0x1de, "LASTBRANCH/LASTINT", ANY, 0),
	CHECKED(MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 15, "MTRR_PHYS", X86_FEAT_MTRR, msr.mtrr_phys,
		write_mtrr_phys),
	CHECKED(MSR_MTRR_FIX64K_00000, MSR_MTRR_FIX64K_00000, "MTRR_FIX64K", X86_FEAT_MTRR, msr.mtrr_fixed[0],
		write_mtrr_fixed),
	CHECKED(MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, "MTRR_FIX16K", X86_FEAT_MTRR, msr.mtrr_fixed[1],
		write_mtrr_fixed),
	CHECKED(MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7, "MTRR_FIX4K", X86_FEAT_MTRR, msr.mtrr_fixed[3],
		write_mtrr_fixed),
	CHECKED(MSR_PAT, MSR_PAT, "PAT", X86_FEAT_PAT, msr.pat, write_pat),
	CHECKED(MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, "MTRR_DEF_TYPE", X86_FEAT_MTRR, msr.mtrr_def_type,
		write_mtrr_def_type),
	ROW(MSR_MC0_CTL, MSR_MC0_CTL + 4 * MCG_BANKS_MAX - 1, "MC_BANKS", X86_FEAT_MCA, false, AT(msr.mc), 0,
	    read_mc_bank, write_mc_bank),
	/* RAPL units and counters, which Linux reads by model. */
	FIXED(0x606, 0x606, "RAPL_POWER_UNIT", ANY, 0),
	FIXED(0x611, 0x611, "PKG_ENERGY_STATUS", ANY, 0),
	FIXED(0x619, 0x619, "DRAM_ENERGY_STATUS", ANY, 0),
	FIXED(0x639, 0x639, "PP0_ENERGY_STATUS", ANY, 0),
	FIXED(0x641, 0x641, "PP1_ENERGY_STATUS", ANY, 0),
	CHECKED(MSR_PKRS, MSR_PKRS, "PKRS", X86_FEAT_PKS, msr.pkrs, write_pkrs),
	CALLS(MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW, "KVM_WALL_CLOCK/SYSTEM_TIME_NEW", ANY, true, read_pv,
	      write_pv),
	CALLS(MSR_KVM_STEAL_TIME, MSR_KVM_POLL_CONTROL, "KVM_STEAL_TIME/PV_EOI_EN/POLL_CONTROL", ANY, true, read_pv,
	      write_pv),
	CALLS(MSR_EFER, MSR_EFER, "EFER", ANY, true, read_efer, write_efer),
	PLAIN(MSR_STAR, "STAR", X86_FEAT_SYSCALL, msr.star, ALL64),
	CHECKED(MSR_LSTAR, MSR_LSTAR, "LSTAR", X86_FEAT_LM, msr.lstar, write_canonical),
	CHECKED(MSR_CSTAR, MSR_CSTAR, "CSTAR", X86_FEAT_LM, msr.cstar, write_canonical),
	CHECKED(MSR_SFMASK, MSR_SFMASK, "SFMASK", X86_FEAT_SYSCALL, msr.sfmask, write_low_half),
	CALLS(MSR_FS_BASE, MSR_GS_BASE, "FS_BASE/GS_BASE", X86_FEAT_LM, true, read_segment_base, write_segment_base),
	CHECKED(MSR_KERNEL_GS_BASE, MSR_KERNEL_GS_BASE, "KERNEL_GS_BASE", X86_FEAT_LM, msr.kernel_gs_base,
		write_canonical),
	CALLS(MSR_TSC_AUX, MSR_TSC_AUX, "TSC_AUX", ANY, true, read_tsc_aux, write_tsc_aux),
	/* K7 performance counters: there, and counting nothing. */
	IGNORES(0xc0010000, 0xc0010007, "PERF_CTL/PERF_CTR", ANY, 0),
	IGNORES(MSR_K8_SYSCFG, MSR_K8_SYSCFG, "SYSCFG", ANY, 0),
	ROW(MSR_K7_HWCR, MSR_K7_HWCR, "HWCR", ANY, true, AT(msr.hwcr), 0, NULL, write_hwcr),
	IGNORES(0xc001001f, 0xc001001f, "NB_CFG", ANY, 0),
	IGNORES(MSR_K8_INT_PENDING, MSR_K8_INT_PENDING, "INT_PENDING", ANY, 0),
	FIXED(0xc0010058, 0xc0010058, "MMIO_CONF_BASE", ANY, 0),
	FIXED(0xc0010112, 0xc0010113, "SMM_ADDR/MASK", ANY, 0),
	/* Erratum ids 0-3 are known, and none of them applies (APM 2 appendix: OS visible workaround). */
	FIXED(MSR_AMD_OSVW_ID_LENGTH, MSR_AMD_OSVW_ID_LENGTH, "OSVW_ID_LENGTH", X86_FEAT_OSVW, 4),
	FIXED(MSR_AMD_OSVW_STATUS, MSR_AMD_OSVW_STATUS, "OSVW_STATUS", X86_FEAT_OSVW, 0),
	IGNORES(0xc0011022, 0xc0011023, "DC_CFG/TW_CFG", ANY, 0),
	ROW(MSR_AMD_DE_CFG, MSR_AMD_DE_CFG, "DE_CFG", ANY, false, 0, X86_DE_CFG_LFENCE_SERIALIZE, read_constant,
	    write_de_cfg),
	IGNORES(0xc001102a, 0xc001102a, "BU_CFG2", ANY, 0),
	IGNORES(0xc001102c, 0xc001102c, "EX_CFG", ANY, 0),
};
const unsigned x86_msr_row_count = ARRAY_SIZE(x86_msr_rows);

void x86_msr_reset(struct x86_cpu *cpu)
{
	struct x86_msrs *m = &cpu->msr;
	uint64_t apic_base = m->apic_base, ucode_rev = m->ucode_rev;

	tz_clear(m, sizeof(*m));
	m->ucode_rev = ucode_rev;
	m->pat = UINT64_C(0x0007040600070406);
	m->apic_base = cpu->lapic ? apic_base : UINT64_C(0xfee00800) | (cpu->bsp ? BIT64(8) : 0);
	m->misc_enable = 0x1801; /* fast strings; no BTS, no PEBS */
	m->mcg_cap = MCG_BANKS_DEFAULT | MCG_CAP_CTL_P;
	m->mcg_ctl = ~UINT64_C(0);
	m->feature_control = 1;
	m->smbase = 0x30000;
	m->hwcr = HWCR_TSC_FREQ_SEL;
	m->arch_capabilities = X86_ARCH_CAPABILITIES;
}
