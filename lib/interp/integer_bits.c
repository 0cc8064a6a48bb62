/* SPDX-License-Identifier: Apache-2.0 */
/* BT family, bit scans and counts, CRC32, ADCX, ADOX. */
#include "interp/integer.h"

uint64_t interp_bit_linear(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool write, unsigned *bit)
{
	struct interp_insn at;
	int64_t index;

	if (i->kind[1] == INTERP_OP_IMM) {
		*bit = (unsigned)i->imm & (size * 8 - 1);
		return interp_linear(cpu, i, size, write);
	}
	/* The offset is added before the address is truncated to the address size. */
	index = (int64_t)interp_sext(cpu->gpr[i->reg[1]], size);
	*bit = (unsigned)index & (size * 8 - 1);
	at.disp = i->disp + (index >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * (int64_t)size;
	at.base = i->base;
	at.index = i->index;
	at.shift = i->shift;
	at.seg = i->seg;
	at.addrsize = i->addrsize;
	at.len = i->len;
	at.flat = i->flat;
	return interp_linear(cpu, &at, size, write);
}

interp_inline uint64_t bit_modify(enum interp_locked op, uint64_t a, uint64_t bit)
{
	return op == INTERP_LOCKED_BTS ? a | bit : op == INTERP_LOCKED_BTR ? a & ~bit : a ^ bit;
}

interp_inline void set_cf(struct x86_cpu *cpu, bool cf)
{
	cpu->rflags = (cpu->rflags & ~X86_CF) | (cf ? X86_CF : 0);
}

interp_inline void bt_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t n = interp_get_source(cpu, i, 1, size) & (size * 8 - 1);

	set_cf(cpu, interp_get_reg(cpu, i, 0, size) >> n & 1);
	interp_next(cpu, i);
}

interp_inline void bt_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	unsigned bit;
	uint64_t linear = interp_bit_linear(cpu, i, size, false, &bit);

	set_cf(cpu, interp_load(cpu, linear, size) >> bit & 1);
	interp_next(cpu, i);
}

interp_inline void btx_r(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_locked op)
{
	uint64_t bit = UINT64_C(1) << (interp_get_source(cpu, i, 1, size) & (size * 8 - 1));
	uint64_t a = interp_get_reg(cpu, i, 0, size);

	interp_set_reg(cpu, i, 0, size, bit_modify(op, a, bit));
	set_cf(cpu, a & bit);
	interp_next(cpu, i);
}

interp_inline void btx_m(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, enum interp_locked op)
{
	unsigned n;
	struct interp_rmw m;
	uint64_t linear = interp_bit_linear(cpu, i, size, true, &n), bit = UINT64_C(1) << n;
	uint64_t a = interp_rmw_read(cpu, linear, size, &m);

	interp_rmw_write(cpu, &m, size, bit_modify(op, a, bit));
	set_cf(cpu, a & bit);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(bt_r_fn, bt_r)
INTERP_WIDE_SIZES(bt_m_fn, bt_m)

bool interp_bind_bt(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		    const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? bt_m_fn : bt_r_fn, i->opsize));
}

#define BTX(name, op)                                                                                                  \
	INTERP_WIDE_SIZES(name##_r, btx_r, op)                                                                         \
	INTERP_WIDE_SIZES(name##_m, btx_m, op)                                                                         \
	bool interp_bind_##name(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,         \
				const ZydisDecodedOperand *zo)                                                         \
	{                                                                                                              \
		(void)cpu, (void)zi, (void)zo;                                                                         \
		if (i->flags & INTERP_LOCK)                                                                            \
			return interp_bind_locked(i, op);                                                              \
		return interp_choose(i, interp_by_size(i->kind[0] == INTERP_OP_MEM ? name##_m : name##_r, i->opsize)); \
	}

BTX(bts, INTERP_LOCKED_BTS)
BTX(btr, INTERP_LOCKED_BTR)
BTX(btc, INTERP_LOCKED_BTC)

/* reg, r/m */
interp_inline uint64_t source(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	return i->kind[1] == INTERP_OP_MEM ? interp_read_mem(cpu, i, size) : interp_get_reg(cpu, i, 1, size);
}

/* A zero source leaves the destination as it is (AMD APM 3; Intel processors do the same). Other flags: unchanged. */
interp_inline void bit_scan(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool forward)
{
	uint64_t v = source(cpu, i, size);

	cpu->rflags = (cpu->rflags & ~X86_ZF) | (v ? 0 : X86_ZF);
	if (v)
		interp_set_reg(cpu, i, 0, size, (uint64_t)(forward ? __builtin_ctzll(v) : 63 - __builtin_clzll(v)));
	interp_next(cpu, i);
}

/* CF: the source is zero. ZF: the count is. */
interp_inline void bit_count(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, bool trailing)
{
	uint64_t v = source(cpu, i, size), n = size * 8;

	if (v)
		n = (uint64_t)(trailing ? __builtin_ctzll(v) : __builtin_clzll(v) - (64 - (int)size * 8));
	cpu->rflags = (cpu->rflags & ~(X86_CF | X86_ZF)) | (v ? 0 : X86_CF) | (n ? 0 : X86_ZF);
	interp_set_reg(cpu, i, 0, size, n);
	interp_next(cpu, i);
}

/* In C: the compiler's helper is outside what is known to spare the vector registers. */
interp_inline uint64_t count_ones(uint64_t v)
{
	v -= v >> 1 & UINT64_C(0x5555555555555555);
	v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
	v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	return v * UINT64_C(0x0101010101010101) >> 56;
}

interp_inline void popcnt(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, size);

	cpu->rflags = interp_set_arith(cpu->rflags, v ? 0 : X86_ZF);
	interp_set_reg(cpu, i, 0, size, count_ones(v));
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(bsf_fn, bit_scan, true)
INTERP_WIDE_SIZES(bsr_fn, bit_scan, false)
INTERP_WIDE_SIZES(tzcnt_fn, bit_count, true)
INTERP_WIDE_SIZES(lzcnt_fn, bit_count, false)
INTERP_WIDE_SIZES(popcnt_fn, popcnt)

bool interp_bind_bsf(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(bsf_fn, i->opsize));
}

bool interp_bind_bsr(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(bsr_fn, i->opsize));
}

/* The decoder gives these two only where the guest's CPUID has them, else BSF and BSR (decode.c). */
bool interp_bind_tzcnt(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(tzcnt_fn, i->opsize));
}

bool interp_bind_lzcnt(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)cpu, (void)zi, (void)zo;
	return interp_choose(i, interp_by_size(lzcnt_fn, i->opsize));
}

bool interp_bind_popcnt(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_POPCNT, interp_by_size(popcnt_fn, i->opsize));
}

/* CRC-32C, bit-reflected polynomial 11EDC6F41h (SDM 2A CRC32). */
interp_inline void crc32(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	uint64_t v = source(cpu, i, size);
	uint32_t crc = (uint32_t)cpu->gpr[i->reg[0]];

	for (unsigned n = 0; n < size; n++, v >>= 8) {
		crc ^= (uint8_t)v;
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (UINT32_C(0x82f63b78) & (0 - (crc & 1)));
	}
	cpu->gpr[i->reg[0]] = crc;
	interp_next(cpu, i);
}

INTERP_SIZES(crc32_fn, crc32)

bool interp_bind_crc32(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_SSE42, interp_by_size(crc32_fn, i->size[1]));
}

/* Addition with its own carry flag, CF or OF; no other flag changes. */
interp_inline void add_carry(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, unsigned flag)
{
	uint64_t b = source(cpu, i, size), a = interp_get_reg(cpu, i, 0, size);
	uint64_t f = cpu->rflags >> flag & X86_CF;
	uint64_t r = interp_alu(INTERP_ADC, size, a, b, &f);

	cpu->rflags = (cpu->rflags & ~BIT64(flag)) | (f & X86_CF) << flag;
	interp_set_reg(cpu, i, 0, size, r);
	interp_next(cpu, i);
}

INTERP_WIDE_SIZES(adcx_fn, add_carry, 0)
INTERP_WIDE_SIZES(adox_fn, add_carry, 11)

bool interp_bind_adcx(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_ADX, interp_by_size(adcx_fn, i->size[0]));
}

bool interp_bind_adox(struct x86_cpu *cpu, struct interp_insn *i, const ZydisDecodedInstruction *zi,
		      const ZydisDecodedOperand *zo)
{
	(void)zi, (void)zo;
	return interp_need(cpu, i, X86_FEAT_ADX, interp_by_size(adox_fn, i->size[0]));
}
