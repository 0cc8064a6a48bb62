/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions run here: what our CPUID reports (asked through the public API), what this host has, and the
 * table of those that cannot be compared with hardware, each with its reason.
 */
#include "oracle.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "trapeze/trapeze.h"

enum feature {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) F_##name,
#include "x86/features.def"
#undef FEATURE
	F_COUNT,
	F_NEVER /* of no feature in features.def */
};
enum { EAX, EBX, ECX, EDX };

static const struct {
	const char *name;
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
} feature_rows[F_COUNT] = {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) { qemu, leaf, subleaf, reg, bit },
#include "x86/features.def"
#undef FEATURE
};

static bool reported[F_COUNT], on_host[F_COUNT];
static bool host_amd;
static uint64_t xcr0;
/* CPUID traps where the host is virtual: asked once. */
static struct {
	uint32_t offset, size;
} component[8];

/* ---- decoder's instruction sets ---- */

struct set_row {
	bool known;
	uint8_t count;
	uint16_t need[3];
};
#define BASE(set) [ZYDIS_ISA_SET_##set] = { .known = true }
#define ONE(set, a) [ZYDIS_ISA_SET_##set] = { true, 1, { F_##a } }
#define TWO(set, a, b) [ZYDIS_ISA_SET_##set] = { true, 2, { F_##a, F_##b } }
#define THREE(set, a, b, c) [ZYDIS_ISA_SET_##set] = { true, 3, { F_##a, F_##b, F_##c } }
/* Lengths below 512 bits need AVX512VL as well (SDM 1 15.4). */
#define LENGTHS(set, a)                                                                                                \
	THREE(set##_128, AVX512F, AVX512VL, a), THREE(set##_256, AVX512F, AVX512VL, a), TWO(set##_512, AVX512F, a)

/* Sets that are missing here belong to features that features.def does not have. */
static const struct set_row set_rows[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	BASE(I86),
	BASE(I186),
	BASE(I286PROTECTED),
	BASE(I286REAL),
	BASE(I386),
	BASE(I486),
	BASE(I486REAL),
	BASE(PENTIUMREAL),
	BASE(PPRO),
	BASE(FAT_NOP),
	BASE(PAUSE),
	BASE(PREFETCH_NOP),
	ONE(LONGMODE, LM),
	ONE(X87, FPU),
	TWO(FCMOV, FPU, CMOV),
	TWO(SSE3X87, FPU, SSE3),
	ONE(CMOV, CMOV),
	ONE(CLFSH, CLFLUSH),
	ONE(CLFLUSHOPT, CLFLUSHOPT),
	ONE(CLWB, CLWB),
	ONE(CLZERO, CLZERO),
	ONE(CMPXCHG16B, CX16),
	ONE(ADOX_ADCX, ADX),
	ONE(BMI1, BMI1),
	ONE(BMI2, BMI2),
	ONE(LZCNT, ABM),
	ONE(POPCNT, POPCNT),
	ONE(MOVBE, MOVBE),
	ONE(LAHF, LAHF_LM),
	ONE(RDRAND, RDRAND),
	ONE(RDSEED, RDSEED),
	ONE(RDPID, RDPID),
	ONE(RDTSCP, RDTSCP),
	ONE(RDWRFSGS, FSGSBASE),
	ONE(INVPCID, INVPCID),
	ONE(PKU, PKU),
	ONE(SERIALIZE, SERIALIZE),
	ONE(SMAP, SMAP),
	ONE(AMD, SYSCALL),
	BASE(RDPMC),
	ONE(PENTIUMMMX, MMX),
	ONE(SSE, SSE),
	ONE(SSEMXCSR, SSE),
	ONE(SSE_PREFETCH, SSE),
	ONE(SSE2, SSE2),
	TWO(SSE2MMX, SSE2, MMX),
	ONE(SSE3, SSE3),
	ONE(SSSE3, SSSE3),
	TWO(SSSE3MMX, SSSE3, MMX),
	ONE(SSE4, SSE41),
	ONE(SSE42, SSE42),
	ONE(SSE4A, SSE4A),
	ONE(AES, AES),
	ONE(PCLMULQDQ, PCLMULQDQ),
	ONE(SHA, SHA_NI),
	ONE(GFNI, GFNI),
	ONE(FXSAVE, FXSR),
	ONE(FXSAVE64, FXSR),
	ONE(XSAVE, XSAVE),
	ONE(XSAVEC, XSAVEC),
	ONE(XSAVEOPT, XSAVEOPT),
	ONE(AVX, AVX),
	ONE(AVX2, AVX2),
	ONE(AVX2GATHER, AVX2),
	TWO(AVXAES, AVX, AES),
	TWO(AVX_GFNI, AVX, GFNI),
	TWO(F16C, AVX, F16C),
	TWO(FMA, AVX, FMA),
	TWO(VAES, AVX, VAES),
	TWO(VPCLMULQDQ, AVX, VPCLMULQDQ),
	TWO(AVX512F_128, AVX512F, AVX512VL),
	TWO(AVX512F_256, AVX512F, AVX512VL),
	ONE(AVX512F_512, AVX512F),
	ONE(AVX512F_128N, AVX512F),
	ONE(AVX512F_SCALAR, AVX512F),
	ONE(AVX512F_KOP, AVX512F),
	LENGTHS(AVX512BW, AVX512BW),
	TWO(AVX512BW_128N, AVX512F, AVX512BW),
	TWO(AVX512BW_KOP, AVX512F, AVX512BW),
	LENGTHS(AVX512DQ, AVX512DQ),
	TWO(AVX512DQ_128N, AVX512F, AVX512DQ),
	TWO(AVX512DQ_KOP, AVX512F, AVX512DQ),
	TWO(AVX512DQ_SCALAR, AVX512F, AVX512DQ),
	LENGTHS(AVX512CD, AVX512CD),
	LENGTHS(AVX512_IFMA, AVX512IFMA),
	LENGTHS(AVX512_VBMI, AVX512VBMI),
	LENGTHS(AVX512_VBMI2, AVX512VBMI2),
	LENGTHS(AVX512_VNNI, AVX512VNNI),
	LENGTHS(AVX512_BITALG, AVX512BITALG),
	LENGTHS(AVX512_VPOPCNTDQ, AVX512VPOPCNTDQ),
	LENGTHS(AVX512_GFNI, GFNI),
	LENGTHS(AVX512_VAES, VAES),
	LENGTHS(AVX512_VPCLMULQDQ, VPCLMULQDQ),
};

/* The set is shared with instructions of features that are not offered. */
static unsigned need_by_mnemonic(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_PREFETCHWT1:
	case ZYDIS_MNEMONIC_SKINIT:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_RSM: return F_NEVER;
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW: return F_PREFETCHW;
	case ZYDIS_MNEMONIC_CMPXCHG8B: return F_CX8;
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_XSETBV: return F_XSAVE;
	case ZYDIS_MNEMONIC_CRC32: return F_SSE42;
	case ZYDIS_MNEMONIC_RDTSC: return F_TSC;
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_WRMSR: return F_MSR;
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT: return F_SEP;
	default: return F_COUNT;
	}
}

/* ---- what cannot be compared ---- */

static const struct exclusion {
	ZydisMnemonic mnemonic;
	const char *why;
} exclusions[] = {
	{ ZYDIS_MNEMONIC_SYSCALL, "enters the host's kernel" },
	{ ZYDIS_MNEMONIC_SYSENTER, "enters the host's kernel" },
	{ ZYDIS_MNEMONIC_SGDT, "UMIP: the host's kernel decides what a program sees" },
	{ ZYDIS_MNEMONIC_SIDT, "UMIP: the host's kernel decides what a program sees" },
	{ ZYDIS_MNEMONIC_SLDT, "UMIP: the host's kernel decides what a program sees" },
	{ ZYDIS_MNEMONIC_SMSW, "UMIP: the host's kernel decides what a program sees" },
	{ ZYDIS_MNEMONIC_STR, "UMIP: the host's kernel decides what a program sees" },
	{ ZYDIS_MNEMONIC_RDPMC, "CR4.PCE is the host's kernel's" },
	{ ZYDIS_MNEMONIC_RDPKRU, "CR4.PKE and PKRU are the host's kernel's" },
	{ ZYDIS_MNEMONIC_WRPKRU, "CR4.PKE and PKRU are the host's kernel's" },
	{ ZYDIS_MNEMONIC_VMCALL, "calls the hypervisor that the host runs on" },
	{ ZYDIS_MNEMONIC_VMMCALL, "calls the hypervisor that the host runs on" },
};

static const char *excluded(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	(void)zo;
	for (unsigned n = 0; n < ARRAY_SIZE(exclusions); n++)
		if (exclusions[n].mnemonic == zi->mnemonic)
			return exclusions[n].why;
	return NULL;
}

/* ---- standing ---- */

static enum standing need(unsigned f, const char **why)
{
	if (f == F_NEVER) {
		*why = "of no feature we offer";
		return STANDING_NO_GUEST;
	}
	*why = feature_rows[f].name;
	return !reported[f] ? STANDING_NO_GUEST : !on_host[f] ? STANDING_NO_HOST : STANDING_RUN;
}

enum standing features_standing(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const char **why)
{
	const struct set_row *row = &set_rows[zi->meta.isa_set];
	enum standing s = STANDING_RUN, t;
	unsigned extra = need_by_mnemonic(zi->mnemonic);

	*why = ZydisISASetGetString(zi->meta.isa_set);
	if (!row->known)
		return STANDING_NO_GUEST;
	for (unsigned n = 0; n < row->count && s != STANDING_NO_GUEST; n++) {
		t = need(row->need[n], why);
		s = t > s || t == STANDING_NO_GUEST ? t : s;
	}
	if (extra != F_COUNT && s == STANDING_RUN)
		s = need(extra, why);
	if (s == STANDING_RUN && zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ)
		s = need(F_PCLMULQDQ, why);
	if (s == STANDING_RUN && excluded(zi, zo)) {
		*why = excluded(zi, zo);
		return STANDING_EXCLUDED;
	}
	return s;
}

/* ---- asking ---- */

static void ask_library(struct kvm_cpuid2 *c)
{
	int sys = tz_open(NULL);

	c->nent = 256;
	if (sys < 0 || tz_ioctl(sys, KVM_GET_SUPPORTED_CPUID, c))
		die("KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	tz_close(sys);
}

static uint32_t entry_register(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
	return reg == EAX ? e->eax : reg == EBX ? e->ebx : reg == ECX ? e->ecx : e->edx;
}

static void host_features(void)
{
	uint32_t r[4], max;

	__cpuid(0, r[0], r[1], r[2], r[3]);
	host_amd = r[1] == signature_AMD_ebx || r[1] == 0x6f677948; /* Hygon */
	for (unsigned f = 0; f < F_COUNT; f++) {
		__cpuid(feature_rows[f].leaf & 0x80000000, max, r[1], r[2], r[3]);
		if (feature_rows[f].leaf > max)
			continue;
		__cpuid_count(feature_rows[f].leaf, feature_rows[f].subleaf, r[0], r[1], r[2], r[3]);
		on_host[f] = r[feature_rows[f].reg] >> feature_rows[f].bit & 1;
	}
	/* The host's OS has its say (SDM 1 13.3, 14.3, 15.2; CR4.FSGSBASE shows as AT_HWCAP2). */
	__cpuid(1, r[0], r[1], r[2], r[3]);
	if (r[2] & bit_OSXSAVE) {
		uint32_t lo, hi;

		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		xcr0 = lo & 0xe7;
	} else {
		leave_out("XSAVE: this host's OS does not enable it");
	}
	if ((xcr0 & 0xe6) != 0xe6)
		xcr0 &= 7;
	if ((xcr0 & 6) != 6)
		on_host[F_AVX] = on_host[F_AVX2] = false;
	if (!(xcr0 & 0xe0))
		on_host[F_AVX512F] = false;
}

void features_init(void)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	if (!c)
		die("no memory");
	ask_library(c);
	for (unsigned f = 0; f < F_COUNT; f++)
		for (unsigned n = 0; n < c->nent; n++) {
			const struct kvm_cpuid_entry2 *e = &c->entries[n];

			if (e->function == feature_rows[f].leaf && e->index == feature_rows[f].subleaf)
				reported[f] = entry_register(e, feature_rows[f].reg) >> feature_rows[f].bit & 1;
		}
	free(c);
	host_features();
	for (unsigned n = 2; n < ARRAY_SIZE(component); n++) {
		uint32_t ecx, edx;

		if (xcr0 & BIT64(n))
			__cpuid_count(0xd, n, component[n].size, component[n].offset, ecx, edx);
	}
}

bool features_host_is_amd(void)
{
	return host_amd;
}

bool features_host_has_la57(void)
{
	return on_host[F_LA57];
}

uint64_t features_xcr0(void)
{
	return xcr0;
}

bool features_component(unsigned n, uint32_t *offset, uint32_t *size)
{
	if (n < 2 || n >= ARRAY_SIZE(component) || !component[n].size)
		return false;
	*offset = component[n].offset;
	*size = component[n].size;
	return true;
}
