/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM_GET_SUPPORTED_CPUID: the host's identity, the features of features.def, caches of a plain
 * processor. Vector features only as far as the host has them and its OS saves their state.
 * What says where a vCPU sits in the machine (APIC id, topology) is the client's to fill in.
 */
#include <cpuid.h>

#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/xstate.h"

#define MAX_BASIC 0xdu
#define MAX_EXTENDED 0x80000021u
#define ECX1_OSXSAVE BIT32(27)
#define INTEL_EBX 0x756e6547u /* "Genu" */
#define AMD_EBX 0x68747541u   /* "Auth" */
#define HYGON_EBX 0x6f677948u /* "Hygo" */
/* Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX (APM 3 appendix E.4.1). */
#define EDX_AMD_ALIASES 0x0183f3ffu
#define CLFLUSH_LINE 64u

struct regs {
	uint32_t r[4];
};

struct table {
	struct x86_cpuid_entry *entry;
	unsigned count, max;
	struct regs basic, extended; /* host's leaves 0 and 0x80000000 */
	bool host_osxsave;
};

static struct regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct regs v;

	__cpuid_count(leaf, subleaf, v.r[0], v.r[1], v.r[2], v.r[3]);
	return v;
}

static bool host_has_leaf(const struct table *t, uint32_t leaf)
{
	return leaf <= (leaf & 0x80000000 ? t->extended.r[0] : t->basic.r[0]);
}

static bool is_amd(const struct table *t)
{
	return t->basic.r[1] == AMD_EBX || t->basic.r[1] == HYGON_EBX;
}

/* ---- features ---- */

/* The XSAVE components that a feature's registers need. */
static uint64_t state_needed(enum x86_feature f)
{
	switch (f) {
	case X86_FEAT_AVX:
	case X86_FEAT_FMA:
	case X86_FEAT_F16C:
	case X86_FEAT_AVX2:
	case X86_FEAT_VAES:
	case X86_FEAT_VPCLMULQDQ: return X86_XCR0_AVX;
	case X86_FEAT_AVX512F:
	case X86_FEAT_AVX512DQ:
	case X86_FEAT_AVX512IFMA:
	case X86_FEAT_AVX512CD:
	case X86_FEAT_AVX512BW:
	case X86_FEAT_AVX512VL:
	case X86_FEAT_AVX512VBMI:
	case X86_FEAT_AVX512VBMI2:
	case X86_FEAT_AVX512VNNI:
	case X86_FEAT_AVX512BITALG:
	case X86_FEAT_AVX512VPOPCNTDQ: return X86_XCR0_AVX | X86_XCR0_AVX512;
	default: return 0;
	}
}

/* XSAVE can be used by a process only if the host's OS switched it on. */
static bool needs_osxsave(enum x86_feature f)
{
	return f == X86_FEAT_XSAVE || f == X86_FEAT_XSAVEOPT || f == X86_FEAT_XSAVEC || f == X86_FEAT_XGETBV1;
}

struct feature_row {
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
	bool needs_host;
};

static const struct feature_row feature_rows[X86_FEAT_COUNT] = {
#define FEATURE(name, qemu, leaf, subleaf, reg, bit, host) { leaf, subleaf, X86_CPUID_##reg, bit, host },
#include "x86/features.def"
#undef FEATURE
};

/* `host`: the host's registers of the feature's leaf. */
static bool feature_offered(const struct table *t, enum x86_feature f, const struct regs *host)
{
	const struct feature_row *row = &feature_rows[f];
	uint64_t state = state_needed(f);

	if (!row->needs_host)
		return true;
	if (!(host->r[row->reg] >> row->bit & 1) || (x86_fpu_supported_xcr0() & state) != state)
		return false;
	return t->host_osxsave || !needs_osxsave(f);
}

/* All offered feature bits of one leaf. */
static struct regs leaf_features(const struct table *t, uint32_t leaf, uint32_t subleaf)
{
	struct regs v = { { 0 } }, host = { { 0 } };

	if (host_has_leaf(t, leaf))
		host = host_cpuid(leaf, subleaf);
	for (unsigned f = 0; f < X86_FEAT_COUNT; f++)
		if (feature_rows[f].leaf == leaf && feature_rows[f].subleaf == subleaf &&
		    feature_offered(t, (enum x86_feature)f, &host))
			v.r[feature_rows[f].reg] |= BIT32(feature_rows[f].bit);
	return v;
}

/* ---- leaves ---- */

static void add(struct table *t, uint32_t leaf, struct regs v)
{
	if (t->count < t->max)
		t->entry[t->count++] = (struct x86_cpuid_entry){
			.leaf = leaf, .eax = v.r[0], .ebx = v.r[1], .ecx = v.r[2], .edx = v.r[3]
		};
}

static void add_sub(struct table *t, uint32_t leaf, uint32_t subleaf, struct regs v)
{
	unsigned at = t->count;

	add(t, leaf, v);
	if (t->count > at) {
		t->entry[at].has_subleaf = true;
		t->entry[at].subleaf = subleaf;
	}
}

struct cache {
	uint8_t type; /* 1 data, 2 instruction, 3 unified */
	uint8_t level, ways;
	uint32_t kib;
};
static const struct cache caches[] = { { 1, 1, 8, 32 }, { 2, 1, 8, 32 }, { 3, 2, 8, 1024 }, { 3, 3, 16, 16384 } };

/* Leaf 4 (Intel) and 0x8000001d (AMD) have one layout; who shares a cache is topology. */
static void add_cache_leaves(struct table *t, uint32_t leaf)
{
	for (uint32_t n = 0; n < ARRAY_SIZE(caches); n++) {
		const struct cache *c = &caches[n];
		uint32_t sets = c->kib * 1024 / c->ways / CLFLUSH_LINE;

		add_sub(t, leaf, n,
			(struct regs){ { c->type | (uint32_t)c->level << 5 | BIT32(8) /* self initializing */,
					 (CLFLUSH_LINE - 1) | (uint32_t)(c->ways - 1) << 22, sets - 1, 0 } });
	}
	add_sub(t, leaf, ARRAY_SIZE(caches), (struct regs){ { 0 } });
}

static void add_xsave_leaves(struct table *t)
{
	uint64_t xcr0 = x86_fpu_supported_xcr0();
	struct regs v = leaf_features(t, 0xd, 1);
	uint32_t compacted = 576, offset, size;

	if (!t->host_osxsave)
		return;
	add_sub(t, 0xd, 0,
		(struct regs){ { (uint32_t)xcr0, x86_fpu_area_size(X86_XCR0_X87), x86_fpu_area_size(xcr0),
				 (uint32_t)(xcr0 >> 32) } });
	for (unsigned n = 2; n < 63; n++)
		if ((xcr0 & BIT64(n)) && x86_fpu_component(n, &offset, &size))
			compacted += size;
	v.r[X86_CPUID_EBX] = compacted;
	add_sub(t, 0xd, 1, v);
	for (unsigned n = 2; n < 63; n++)
		if ((xcr0 & BIT64(n)) && x86_fpu_component(n, &offset, &size))
			add_sub(t, 0xd, n, (struct regs){ { size, offset, 0, 0 } });
}

static void add_basic(struct table *t)
{
	struct regs v = t->basic;

	v.r[X86_CPUID_EAX] = MAX_BASIC;
	add(t, 0, v);
	v = leaf_features(t, 1, 0);
	v.r[X86_CPUID_EAX] = host_cpuid(1, 0).r[X86_CPUID_EAX];
	v.r[X86_CPUID_EBX] = (CLFLUSH_LINE / 8) << 8;
	add(t, 1, v);
	/* "See leaf 4" (descriptor 0xff); reserved on AMD. */
	if (t->basic.r[1] == INTEL_EBX)
		add(t, 2, (struct regs){ { 0x0000ff01, 0, 0, 0 } });
	add_cache_leaves(t, 4);
	add(t, 6, leaf_features(t, 6, 0));
	add_sub(t, 7, 0, leaf_features(t, 7, 0));
	add_sub(t, 0xb, 0, (struct regs){ { 0, 0, 0, 0 } });
	add_sub(t, 0xb, 1, (struct regs){ { 0, 0, 1, 0 } });
	add_xsave_leaves(t);
}

/* Caches in AMD's older leaves: size, associativity code (APM 3 table E-4), lines per tag, line size. */
static void add_amd_caches(struct table *t)
{
	uint32_t l1 = 32u << 24 | 8u << 16 | 1u << 8 | CLFLUSH_LINE;
	uint32_t l2 = 1024u << 16 | 6u << 12 | 1u << 8 | CLFLUSH_LINE;
	uint32_t l3 = (16384u / 512) << 18 | 8u << 12 | 1u << 8 | CLFLUSH_LINE;

	add(t, 0x80000005, (struct regs){ { 0, 0, l1, l1 } });
	add(t, 0x80000006, (struct regs){ { 0, 0, l2, is_amd(t) ? l3 : 0 } });
}

/* KVM's own leaves (cpuid.rst); the signature is the client's to change. */
static void add_paravirtual(struct table *t)
{
	add(t, 0x40000000, (struct regs){ { 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d } }); /* KVMKVMKVM */
	add(t, 0x40000001, leaf_features(t, 0x40000001, 0));
}

static void add_extended(struct table *t)
{
	struct regs v = { { MAX_EXTENDED, 0, 0, 0 } };
	uint32_t bits = 46;

	if (is_amd(t))
		for (unsigned i = 1; i < 4; i++)
			v.r[i] = t->basic.r[i];
	add(t, 0x80000000, v);
	v = leaf_features(t, 0x80000001, 0);
	if (is_amd(t)) {
		v.r[X86_CPUID_EAX] = host_cpuid(1, 0).r[X86_CPUID_EAX];
		v.r[X86_CPUID_EDX] |= leaf_features(t, 1, 0).r[X86_CPUID_EDX] & EDX_AMD_ALIASES;
	}
	add(t, 0x80000001, v);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++)
		add(t, leaf, host_has_leaf(t, leaf) ? host_cpuid(leaf, 0) : (struct regs){ { 0 } });
	add_amd_caches(t);
	add(t, 0x80000007, leaf_features(t, 0x80000007, 0));
	if (host_has_leaf(t, 0x80000008))
		bits = host_cpuid(0x80000008, 0).r[X86_CPUID_EAX] & 0xff;
	v = leaf_features(t, 0x80000008, 0);
	v.r[X86_CPUID_EAX] = bits | 57u << 8; /* linear: with CR4.LA57 */
	add(t, 0x80000008, v);
	add_cache_leaves(t, 0x8000001d);
	add(t, 0x8000001e, (struct regs){ { 0 } });
	add(t, 0x80000021, leaf_features(t, 0x80000021, 0));
}

unsigned x86_cpuid_supported(struct x86_cpuid_entry *entries, unsigned max)
{
	struct table t = { .entry = entries, .max = max };

	t.basic = host_cpuid(0, 0);
	t.extended = host_cpuid(0x80000000, 0);
	t.host_osxsave = host_cpuid(1, 0).r[X86_CPUID_ECX] & ECX1_OSXSAVE;
	add_basic(&t);
	add_paravirtual(&t);
	add_extended(&t);
	return t.count;
}
