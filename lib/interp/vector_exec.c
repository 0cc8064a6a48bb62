/* SPDX-License-Identifier: Apache-2.0 */
/* Ordinary vector instructions: checks, memory operand, stub. */
#include "interp/vector.h"

/* #UD before #NM (SDM 3A table 2-2; SDM 2 2.4, 2.8). */
void vector_check_class(struct x86_cpu *cpu, enum vector_class class)
{
	uint64_t xcr0 = 6;

	switch (class) {
	case VECTOR_X87:
		if (unlikely(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)))
			x86_raise(cpu, X86_NM);
		return;
	case VECTOR_SSE:
		if (unlikely(!(cpu->cr4 & X86_CR4_OSFXSR)))
			x86_raise_ud(cpu);
		/* fall through */
	case VECTOR_MMX:
		if (unlikely(cpu->cr0 & X86_CR0_EM))
			x86_raise_ud(cpu);
		break;
	case VECTOR_EVEX:
		xcr0 = 0xe6;
		/* fall through */
	default:
		if (unlikely(!x86_protected(cpu) || !(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & xcr0) != xcr0))
			x86_raise_ud(cpu);
		break;
	}
	if (unlikely(cpu->cr0 & X86_CR0_TS))
		x86_raise(cpu, X86_NM);
}

/* FSW.ES: an unmasked x87 exception that a waiting instruction must report (SDM 1 8.6). */
void vector_check_pending(struct x86_cpu *cpu)
{
	uint16_t fsw;

	x86_fpu_load(cpu);
	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	vector_rest(cpu);
	/* With CR0.NE = 0 hardware asserts FERR#; there is no such pin here, so that is #MF as well. */
	if (unlikely(fsw & 0x80))
		x86_raise(cpu, X86_MF);
}

static inline const struct vector_info *vector_enter(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_info(i);

	vector_begin(cpu, i);
	vector_check_class(cpu, (enum vector_class)i->extra);
	if (info->flags & VECTOR_WAITS)
		vector_check_pending(cpu);
	return info;
}

static inline bool runs_unmasked(const struct x86_cpu *cpu, const struct vector_info *info)
{
	return unlikely(!vector_exceptions_masked(cpu)) && (info->flags & VECTOR_SIMD_FP);
}

static inline void vector_run(struct x86_cpu *cpu, const struct interp_insn *i, void *mem)
{
	if (runs_unmasked(cpu, vector_info(i)))
		vector_run_unmasked(cpu, i, mem);
	else
		vector_call(cpu, i, mem);
}

static inline void check_operand_align(struct x86_cpu *cpu, const struct vector_info *info, uint64_t a)
{
	if (likely(!(a & (info->align - 1u))))
		return;
	if ((info->flags & VECTOR_EXPLICIT_ALIGN) || !(vector_area_mxcsr(cpu) & VECTOR_MXCSR_MM))
		x86_raise_gp0(cpu);
}

/* #GP(0) for what must be aligned comes before #AC. */
static inline uint64_t operand_linear(struct x86_cpu *cpu, const struct interp_insn *i, const struct vector_info *info,
				      bool write)
{
	uint64_t a = x86_linear(cpu, i->seg, interp_ea(cpu, i), info->size, write);

	check_operand_align(cpu, info, a);
	vector_check_ac(cpu, a, info->size);
	return a;
}

void vector_exec_ud(struct x86_cpu *cpu, const struct interp_insn *i)
{
	(void)i;
	x86_raise_ud(cpu);
}

void vector_exec_reg(struct x86_cpu *cpu, const struct interp_insn *i)
{
	vector_enter(cpu, i);
	vector_run(cpu, i, NULL);
	vector_end(cpu, i);
}

void vector_exec_load(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_enter(cpu, i);
	uint64_t a = operand_linear(cpu, i, info, false);
	void *p;

	p = vector_read_ptr(cpu, a, info->size);
	if (unlikely(!p)) {
		p = vector_of(cpu)->bounce;
		x86_read_bytes(cpu, a, p, info->size, cpu->mmu_index);
	}
	vector_run(cpu, i, p);
	vector_end(cpu, i);
}

void vector_exec_store(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_enter(cpu, i);
	uint64_t a = operand_linear(cpu, i, info, true);
	void *p;

	p = runs_unmasked(cpu, info) ? NULL : vector_write_ptr(cpu, a, info->size);
	if (likely(p)) {
		vector_call(cpu, i, p);
	} else {
		p = vector_of(cpu)->bounce;
		x86_probe_write(cpu, a, info->size, cpu->mmu_index);
		vector_run(cpu, i, p);
		x86_write_bytes(cpu, a, p, info->size, cpu->mmu_index);
	}
	vector_end(cpu, i);
}

/* ---- masked memory operands: elements that are off are not accessed ---- */

static uint64_t sign_bits(const uint8_t *reg, unsigned elem, unsigned count)
{
	uint64_t bits = 0;

	for (unsigned n = 0; n < count; n++)
		bits |= (uint64_t)(reg[n * elem + elem - 1] >> 7) << n;
	return bits;
}

/* One bit for each element of the memory operand that is accessed. */
static uint64_t active_elements(struct x86_cpu *cpu, const struct vector_info *info)
{
	struct interp_vector *v = vector_of(cpu);
	unsigned in_memory = info->size / info->elem;
	uint64_t bits;

	x86_fpu_load(cpu);
	if (info->flags & VECTOR_MASK_VEC) {
		v->reg_store[info->mask](cpu, v->reg[0]);
		vector_rest(cpu);
		return sign_bits(v->reg[0], info->elem, info->count);
	}
	bits = v->k_read[info->mask]();
	vector_rest(cpu);
	if (info->count < 64)
		bits &= BIT64(info->count) - 1;
	if (info->flags & VECTOR_PACKED) {
		unsigned n = 0;

		for (; bits; bits &= bits - 1) /* libgcc's popcount is not ours to trust with live vector state */
			n++;
		return n < 64 ? BIT64(n) - 1 : UINT64_MAX;
	}
	/* A broadcast element is accessed if any of the elements it goes to is on. */
	for (unsigned n = in_memory; n < info->count; n *= 2)
		bits |= bits >> n;
	return in_memory < 64 ? bits & (BIT64(in_memory) - 1) : bits;
}

/* Of byte `at` of the operand. VMASKMOV is done an element at a time, and each one's offset wraps. */
static uint64_t masked_offset(struct x86_cpu *cpu, const struct interp_insn *i, unsigned at)
{
	return vector_info(i)->flags & VECTOR_MASK_VEC ? vector_offset(i, interp_ea(cpu, i), at)
						       : interp_ea(cpu, i) + at;
}

/*
 * Where the whole operand may be accessed directly, although only its active part was checked:
 * it lies in one page, and a page is there or not as a whole.
 */
static uint8_t *masked_pointer(struct x86_cpu *cpu, const struct interp_insn *i, uint64_t bits, bool write)
{
	const struct vector_info *info = vector_info(i);
	unsigned first = (unsigned)__builtin_ctzll(bits) * info->elem;
	unsigned end = (64 - (unsigned)__builtin_clzll(bits)) * info->elem;
	uint64_t start = masked_offset(cpu, i, first), a = x86_linear(cpu, i->seg, start, info->elem, write);
	uint8_t *p;

	check_operand_align(cpu, info, a - first);
	if (((a - first) & TZ_PAGE_MASK) + info->size > TZ_PAGE_SIZE || masked_offset(cpu, i, end) < start)
		return NULL; /* element by element: the first that faults counts */
	x86_linear(cpu, i->seg, start, end - first, write);
	p = write ? vector_write_ptr(cpu, a, end - first) : vector_read_ptr(cpu, a, end - first);
	return p ? p - first : NULL;
}

/* #AC by the element, if there is any; never for VMASKMOV (SDM 2C VMASKMOV). */
static void check_element_align(struct x86_cpu *cpu, const struct interp_insn *i, uint64_t bits)
{
	const struct vector_info *info = vector_info(i);

	if (vector_checks_align(cpu) && bits && info->align == 1 && !(info->flags & VECTOR_MASK_VEC))
		x86_check_align(cpu, x86_linear(cpu, i->seg, interp_ea(cpu, i), 1, false), info->elem);
}

static uint64_t element_linear(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, bool write)
{
	unsigned elem = vector_info(i)->elem;

	return x86_linear(cpu, i->seg, masked_offset(cpu, i, n * elem), elem, write);
}

void vector_exec_masked_load(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_enter(cpu, i);
	uint64_t bits = active_elements(cpu, info);
	uint8_t *bounce = vector_of(cpu)->bounce, *p = bounce;

	check_element_align(cpu, i, bits);
	if (bits)
		p = masked_pointer(cpu, i, bits, false);
	if (!p) {
		p = bounce;
		for (uint64_t left = bits; left; left &= left - 1) {
			unsigned n = (unsigned)__builtin_ctzll(left);

			x86_read_bytes(cpu, element_linear(cpu, i, n, false), bounce + n * info->elem, info->elem,
				       cpu->mmu_index);
		}
	}
	vector_run(cpu, i, p);
	vector_end(cpu, i);
}

void vector_exec_masked_store(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_enter(cpu, i);
	uint64_t bits = active_elements(cpu, info), left;
	uint8_t *bounce = vector_of(cpu)->bounce, *p = NULL;

	if (info->reg) /* VEXTRACTF32X4 and the like, type E6NF */
		x86_probe_write(cpu, vector_linear(cpu, i, interp_ea(cpu, i), info->size, true), info->size,
				cpu->mmu_index);
	check_element_align(cpu, i, bits);
	if (bits)
		p = masked_pointer(cpu, i, bits, true);
	if (p && !runs_unmasked(cpu, info)) {
		vector_call(cpu, i, p);
		vector_end(cpu, i);
		return;
	}
	for (left = bits; left; left &= left - 1)
		x86_probe_write(cpu, element_linear(cpu, i, (unsigned)__builtin_ctzll(left), true), info->elem,
				cpu->mmu_index);
	vector_run(cpu, i, bounce);
	for (left = bits; left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);

		x86_write_bytes(cpu, element_linear(cpu, i, n, true), bounce + n * info->elem, info->elem,
				cpu->mmu_index);
	}
	vector_end(cpu, i);
}

/* ---- VZEROALL, VZEROUPPER outside 64-bit mode ---- */

/* There they leave registers 8 to 31 alone (SDM 2C VZEROALL), unlike the host's in 64-bit mode. */
void vector_exec_zero_low(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t offset, size;

	vector_check_class(cpu, (enum vector_class)i->extra);
	x86_fpu_sync(cpu);
	if (i->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		tz_clear(cpu->fpu.area + 160, 8 * 16);
	if (x86_fpu_component(2, &offset, &size))
		tz_clear(cpu->fpu.area + offset, 8 * 16);
	if (x86_fpu_component(6, &offset, &size))
		tz_clear(cpu->fpu.area + offset, 8 * 32);
	x86_fpu_changed(cpu);
	vector_end(cpu, i);
}

/* ---- MXCSR ---- */

void vector_exec_ldmxcsr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t value;

	vector_check_class(cpu, (enum vector_class)i->extra);
	value = x86_read32(cpu, vector_linear(cpu, i, interp_ea(cpu, i), 4, false));
	if (value & ~x86_fpu_mxcsr_mask())
		x86_raise_gp0(cpu);
	x86_fpu_load(cpu);
	guest_store32(cpu->fpu.area + VECTOR_AREA_MXCSR, value);
	__asm__ volatile("ldmxcsr %0" : : "m"(value));
	vector_end(cpu, i);
}

void vector_exec_stmxcsr(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint32_t value = vector_area_mxcsr(cpu);
	uint64_t a;

	vector_check_class(cpu, (enum vector_class)i->extra);
	a = vector_linear(cpu, i, interp_ea(cpu, i), 4, true);
	if (cpu->fpu.live)
		__asm__ volatile("stmxcsr %0" : "=m"(value));
	x86_write32(cpu, a, value);
	vector_end(cpu, i);
}
