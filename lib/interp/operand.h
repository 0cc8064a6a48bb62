/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operand access for handlers that are specialised by size and kind: all inline, `size` a
 * compile-time constant. Handlers of rare instructions use interp_operand_read/write() instead.
 */
#ifndef TZ_INTERP_OPERAND_H
#define TZ_INTERP_OPERAND_H

#include "interp/flags.h"
#include "interp/interp.h"

/* A byte register, AH..BH included. */
interp_inline uint8_t *interp_byte_reg(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n)
{
	return (uint8_t *)&cpu->gpr[i->reg[n]] + (i->kind[n] == INTERP_OP_REG_HIGH);
}

interp_inline uint64_t interp_get_reg(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, unsigned size)
{
	return size == 1 ? *interp_byte_reg(cpu, i, n) : interp_reg_read(cpu, i->reg[n], size);
}

interp_inline void interp_set_reg(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, unsigned size,
				  uint64_t v)
{
	if (size == 1)
		*interp_byte_reg(cpu, i, n) = (uint8_t)v;
	else if (size == 2)
		*(uint16_t *)&cpu->gpr[i->reg[n]] = (uint16_t)v;
	else
		cpu->gpr[i->reg[n]] = size == 8 ? v : (uint32_t)v;
}

interp_inline uint64_t interp_load(struct x86_cpu *cpu, uint64_t linear, unsigned size)
{
	switch (size) {
	case 1: return x86_read8(cpu, linear);
	case 2: return x86_read16(cpu, linear);
	case 4: return x86_read32(cpu, linear);
	default: return x86_read64(cpu, linear);
	}
}

interp_inline void interp_store(struct x86_cpu *cpu, uint64_t linear, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: x86_write8(cpu, linear, (uint8_t)v); break;
	case 2: x86_write16(cpu, linear, (uint16_t)v); break;
	case 4: x86_write32(cpu, linear, (uint32_t)v); break;
	default: x86_write64(cpu, linear, v); break;
	}
}

interp_inline uint64_t interp_load_host(const void *p, unsigned size)
{
	return size == 1 ? guest_load8(p) : size == 2 ? guest_load16(p) : size == 4 ? guest_load32(p) : guest_load64(p);
}

interp_inline void interp_store_host(void *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: guest_store8(p, (uint8_t)v); break;
	case 2: guest_store16(p, (uint16_t)v); break;
	case 4: guest_store32(p, (uint32_t)v); break;
	default: guest_store64(p, v); break;
	}
}

interp_inline uint64_t interp_read_mem(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size)
{
	return interp_load(cpu, interp_linear(cpu, i, size, false), size);
}

interp_inline void interp_write_mem(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, uint64_t v)
{
	interp_store(cpu, interp_linear(cpu, i, size, true), size, v);
}

/*
 * An unlocked read-modify-write. A page that the TLB lets be written may be read as well;
 * everything else reads with W = 1 and writes through the slow path.
 */
struct interp_rmw {
	uint64_t linear;
	void *host; /* NULL: use the slow path */
};

interp_inline uint64_t interp_rmw_read(struct x86_cpu *cpu, uint64_t linear, unsigned size, struct interp_rmw *m)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, linear);

	m->linear = linear;
	m->host = NULL;
	if (likely(e->tag_write == (linear & ~TZ_PAGE_MASK) && (linear & TZ_PAGE_MASK) <= TZ_PAGE_SIZE - size)) {
		m->host = x86_tlb_host(e, linear);
		return interp_load_host(m->host, size);
	}
	return x86_read_for_write(cpu, linear, size, cpu->mmu_index);
}

interp_inline void interp_rmw_write(struct x86_cpu *cpu, const struct interp_rmw *m, unsigned size, uint64_t v)
{
	if (likely(m->host))
		interp_store_host(m->host, size, v);
	else
		x86_write(cpu, m->linear, v, size, cpu->mmu_index);
}

/* The second operand: a register or an immediate. Memory is another handler. */
interp_inline uint64_t interp_get_source(struct x86_cpu *cpu, const struct interp_insn *i, unsigned n, unsigned size)
{
	return i->kind[n] == INTERP_OP_IMM ? i->imm & interp_mask(size) : interp_get_reg(cpu, i, n, size);
}

/* Of handlers by log2(size): the exec that fits operand size `size`, NULL if there is none. */
static inline interp_exec_fn *interp_by_size(interp_exec_fn *const fn[4], unsigned size)
{
	return size == 1 ? fn[0] : size == 2 ? fn[1] : size == 4 ? fn[2] : size == 8 ? fn[3] : NULL;
}

static inline bool interp_choose(struct interp_insn *i, interp_exec_fn *fn)
{
	if (!fn)
		return false;
	i->exec = fn;
	return true;
}

static inline bool interp_is_reg(const struct interp_insn *i, unsigned n)
{
	return i->kind[n] == INTERP_OP_REG || i->kind[n] == INTERP_OP_REG_HIGH;
}

/* A handler from a template that takes the operand size and what else makes it special as constants. */
#define INTERP_HANDLER(name, template, ...)                                                                            \
	static void name(struct x86_cpu *cpu, const struct interp_insn *i)                                             \
	{                                                                                                              \
		template(cpu, i, ##__VA_ARGS__);                                                                       \
	}

/* One for each size, name_1 .. name_8, and the array of them. */
#define INTERP_SIZES(name, template, ...)                                                                              \
	INTERP_HANDLER(name##_1, template, 1, ##__VA_ARGS__)                                                           \
	INTERP_HANDLER(name##_2, template, 2, ##__VA_ARGS__)                                                           \
	INTERP_HANDLER(name##_4, template, 4, ##__VA_ARGS__)                                                           \
	INTERP_HANDLER(name##_8, template, 8, ##__VA_ARGS__)                                                           \
	static interp_exec_fn *const name[4] = { name##_1, name##_2, name##_4, name##_8 };

/* Without the byte form. */
#define INTERP_WIDE_SIZES(name, template, ...)                                                                         \
	INTERP_HANDLER(name##_2, template, 2, ##__VA_ARGS__)                                                           \
	INTERP_HANDLER(name##_4, template, 4, ##__VA_ARGS__)                                                           \
	INTERP_HANDLER(name##_8, template, 8, ##__VA_ARGS__)                                                           \
	static interp_exec_fn *const name[4] = { NULL, name##_2, name##_4, name##_8 };

/* Handlers of an unimplemented, undefined or over-long instruction. */
interp_exec_fn interp_exec_ud, interp_exec_gp, interp_exec_unimplemented;

#endif
