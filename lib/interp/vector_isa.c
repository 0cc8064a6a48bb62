/* SPDX-License-Identifier: Apache-2.0 */
/* Which CPUID features an instruction of the vector/x87 group needs, from guest and host. */
#include <cpuid.h>

#include "interp/vector.h"

#define VECTOR_ISA_NEEDS 3

/* Missing entries are not of this group; `absent` ones are, but nobody is offered them. */
struct isa_row {
	bool mine, absent;
	uint8_t count;
	uint16_t need[VECTOR_ISA_NEEDS];
};

#define ISA1(set, a) [ZYDIS_ISA_SET_##set] = { .mine = true, .count = 1, .need = { X86_FEAT_##a } }
#define ISA2(set, a, b) [ZYDIS_ISA_SET_##set] = { .mine = true, .count = 2, .need = { X86_FEAT_##a, X86_FEAT_##b } }
#define ISA3(set, a, b, c)                                                                                             \
	[ZYDIS_ISA_SET_##set] = { .mine = true, .count = 3, .need = { X86_FEAT_##a, X86_FEAT_##b, X86_FEAT_##c } }
#define ISA_ABSENT(set) [ZYDIS_ISA_SET_##set] = { .mine = true, .absent = true }
/* Vector lengths below 512 bits need AVX512VL as well (SDM 1 15.4). */
#define ISA_LENGTHS(set, a)                                                                                            \
	ISA3(set##_128, AVX512F, AVX512VL, a), ISA3(set##_256, AVX512F, AVX512VL, a), ISA2(set##_512, AVX512F, a)
#define ISA_ABSENT_LENGTHS(set) ISA_ABSENT(set##_128), ISA_ABSENT(set##_256), ISA_ABSENT(set##_512)

static const struct isa_row isa_rows[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	ISA1(X87, FPU),
	ISA1(PPRO, FPU), /* FCOMI and so on; only those of ISA extension X87 */
	ISA2(FCMOV, FPU, CMOV),
	ISA2(SSE3X87, FPU, SSE3),
	ISA1(PENTIUMMMX, MMX),
	ISA1(SSE, SSE),
	ISA1(SSEMXCSR, SSE),
	ISA1(SSE2, SSE2),
	ISA2(SSE2MMX, SSE2, MMX),
	ISA1(SSE3, SSE3),
	ISA1(SSSE3, SSSE3),
	ISA2(SSSE3MMX, SSSE3, MMX),
	ISA1(SSE4, SSE41),
	ISA1(SSE42, SSE42),
	ISA1(SSE4A, SSE4A),
	ISA1(AES, AES),
	ISA1(PCLMULQDQ, PCLMULQDQ),
	ISA1(SHA, SHA_NI),
	ISA1(GFNI, GFNI),
	ISA1(FXSAVE, FXSR),
	ISA1(FXSAVE64, FXSR),
	ISA1(XSAVE, XSAVE),
	ISA1(XSAVEC, XSAVEC),
	ISA1(XSAVEOPT, XSAVEOPT),
	ISA_ABSENT(XSAVES),
	ISA1(AVX, AVX),
	ISA2(AVX2, AVX, AVX2),
	ISA2(AVX2GATHER, AVX, AVX2),
	ISA2(AVXAES, AVX, AES),
	ISA2(AVX_GFNI, AVX, GFNI),
	ISA2(F16C, AVX, F16C),
	ISA2(FMA, AVX, FMA),
	ISA2(VAES, AVX, VAES),
	ISA2(VPCLMULQDQ, AVX, VPCLMULQDQ),
	ISA2(AVX512F_128, AVX512F, AVX512VL),
	ISA2(AVX512F_256, AVX512F, AVX512VL),
	ISA1(AVX512F_512, AVX512F),
	ISA1(AVX512F_128N, AVX512F),
	ISA1(AVX512F_SCALAR, AVX512F),
	ISA1(AVX512F_KOP, AVX512F),
	ISA_LENGTHS(AVX512BW, AVX512BW),
	ISA2(AVX512BW_128N, AVX512F, AVX512BW),
	ISA2(AVX512BW_KOP, AVX512F, AVX512BW),
	ISA_LENGTHS(AVX512DQ, AVX512DQ),
	ISA2(AVX512DQ_128N, AVX512F, AVX512DQ),
	ISA2(AVX512DQ_KOP, AVX512F, AVX512DQ),
	ISA2(AVX512DQ_SCALAR, AVX512F, AVX512DQ),
	ISA_LENGTHS(AVX512CD, AVX512CD),
	ISA_LENGTHS(AVX512_IFMA, AVX512IFMA),
	ISA_LENGTHS(AVX512_VBMI, AVX512VBMI),
	ISA_LENGTHS(AVX512_VBMI2, AVX512VBMI2),
	ISA_LENGTHS(AVX512_VNNI, AVX512VNNI),
	ISA_LENGTHS(AVX512_BITALG, AVX512BITALG),
	ISA_LENGTHS(AVX512_VPOPCNTDQ, AVX512VPOPCNTDQ),
	ISA_LENGTHS(AVX512_GFNI, GFNI),
	ISA_LENGTHS(AVX512_VAES, VAES),
	ISA_LENGTHS(AVX512_VPCLMULQDQ, VPCLMULQDQ),
	ISA_ABSENT(AMD3DNOW),
	ISA_ABSENT(FMA4),
	ISA_ABSENT(XOP),
	ISA_ABSENT(AVX_VNNI),
	ISA_ABSENT(AVX512PF_512),
	ISA_ABSENT(AVX512ER_512),
	ISA_ABSENT(AVX512ER_SCALAR),
	ISA_ABSENT(AVX512_4FMAPS_512),
	ISA_ABSENT(AVX512_4FMAPS_SCALAR),
	ISA_ABSENT(AVX512_4VNNIW_512),
	ISA_ABSENT_LENGTHS(AVX512_BF16),
	ISA_ABSENT_LENGTHS(AVX512_FP16),
	ISA_ABSENT(AVX512_FP16_128N),
	ISA_ABSENT(AVX512_FP16_SCALAR),
	ISA_ABSENT_LENGTHS(AVX512_VP2INTERSECT),
	ISA_ABSENT(KNCE),
	ISA_ABSENT(KNCV),
	ISA_ABSENT(KNCJKBR),
	ISA_ABSENT(KNCSTREAM),
	ISA_ABSENT(KNC_MISC),
	ISA_ABSENT(KNC_PF_HINT),
	ISA_ABSENT(AMX_BF16),
	ISA_ABSENT(AMX_INT8),
	ISA_ABSENT(AMX_TILE),
};

bool vector_is_x87(const ZydisDecodedInstruction *zi)
{
	return zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       (zi->opcode == 0x9b || (zi->opcode & 0xf8) == 0xd8);
}

/* General-register and hint instructions that came with SSE: the interpreter's integer groups have them. */
static bool isa_is_integer(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_XSETBV: return true;
	default: return false;
	}
}

static bool isa_need(const struct x86_cpu *cpu, const struct interp_vector *v, unsigned f)
{
	return x86_has(cpu, (enum x86_feature)f) && ((v->host_features[f / 32] >> (f % 32)) & 1);
}

enum vector_isa vector_isa_check(const struct x86_cpu *cpu, const struct interp_vector *v,
				 const ZydisDecodedInstruction *zi)
{
	const struct isa_row *row = &isa_rows[zi->meta.isa_set];

	if (!row->mine || isa_is_integer(zi->mnemonic))
		return VECTOR_ISA_FOREIGN;
	if (zi->meta.isa_set == ZYDIS_ISA_SET_PPRO && !vector_is_x87(zi))
		return VECTOR_ISA_FOREIGN;
	if (row->absent)
		return VECTOR_ISA_ABSENT;
	for (unsigned n = 0; n < row->count; n++)
		if (!isa_need(cpu, v, row->need[n]))
			return VECTOR_ISA_ABSENT;
	/* VPCLMULQDQ on XMM registers counts as AVX to the decoder. */
	if (zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && zi->meta.isa_set == ZYDIS_ISA_SET_AVX &&
	    !isa_need(cpu, v, X86_FEAT_PCLMULQDQ))
		return VECTOR_ISA_ABSENT;
	return VECTOR_ISA_PRESENT;
}

/* ---- the host's side ---- */

struct host_feature {
	uint32_t leaf, subleaf;
	uint8_t reg, bit, needs_host;
};

/* A client may announce (KVM_SET_CPUID2) what its host can not execute: that must be #UD, never SIGILL. */
void vector_host_features(uint32_t features[X86_FEATURE_WORDS])
{
	static const struct host_feature list[] = {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) { leaf, subleaf, X86_CPUID_##reg, bit, host },
#include "x86/features.def"
#undef FEATURE
	};
	uint64_t xcr0 = x86_fpu_supported_xcr0();
	uint32_t leaf = UINT32_MAX, subleaf = 0, r[4] = { 0 };

	tz_clear(features, X86_FEATURE_WORDS * sizeof(features[0]));
	for (unsigned f = 0; f < ARRAY_SIZE(list); f++) {
		const struct host_feature *h = &list[f];

		if (h->needs_host && (h->leaf != leaf || h->subleaf != subleaf)) {
			leaf = h->leaf;
			subleaf = h->subleaf;
			if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]))
				r[0] = r[1] = r[2] = r[3] = 0;
		}
		if (!h->needs_host || ((r[h->reg] >> h->bit) & 1))
			features[f / 32] |= BIT32(f % 32);
	}
	if ((xcr0 & 6) != 6)
		features[X86_FEAT_AVX / 32] &= ~BIT32(X86_FEAT_AVX % 32);
	if ((xcr0 & 0xe6) != 0xe6)
		features[X86_FEAT_AVX512F / 32] &= ~BIT32(X86_FEAT_AVX512F % 32);
}
