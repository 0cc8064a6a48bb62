/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathers, scatters and byte-masked stores: many small accesses, each of which may fault, done in C.
 *
 * A gather or scatter that faults has done the elements before the faulting one, and their mask bits
 * say so (SDM 2, VPGATHERDD): progress is committed before each access that may raise. An element
 * read from a device is committed before the next, so it is read once (x86/io.h). Neither checks alignment.
 */
#include "interp/vector.h"
#include "x86/io.h"

struct gather {
	struct x86_cpu *cpu;
	const struct interp_insn *i;
	const struct vector_info *info;
	uint8_t *index, *data, *mask;
	uint64_t bits; /* elements to do; with an opmask, the bits above the last element too */
	bool progress; /* not committed yet */
};

static void gather_start(struct gather *g, struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct interp_vector *v = vector_of(cpu);
	const struct vector_info *info = vector_info(i);

	*g = (struct gather){ .cpu = cpu, .i = i, .info = info };
	g->index = v->reg[0];
	g->data = v->reg[1];
	g->mask = v->reg[2];
	vector_check_class(cpu, (enum vector_class)i->extra);
	x86_fpu_load(cpu);
	v->reg_store[info->index](cpu, g->index);
	v->reg_store[info->reg](cpu, g->data);
	if (!(info->flags & VECTOR_MASK_VEC)) {
		g->bits = v->k_read[info->mask]();
		vector_rest(cpu);
		return;
	}
	v->reg_store[info->mask](cpu, g->mask);
	vector_rest(cpu);
	for (unsigned n = 0; n < info->count; n++)
		if (g->mask[n * info->elem + info->elem - 1] & 0x80)
			g->bits |= BIT64(n);
}

static void gather_commit_mask(struct gather *g)
{
	struct interp_vector *v = vector_of(g->cpu);

	x86_fpu_load(g->cpu);
	if (g->info->flags & VECTOR_MASK_VEC)
		v->reg_load[g->info->mask](g->cpu, g->mask);
	else
		v->k_write[g->info->mask](g->bits);
	vector_rest(g->cpu);
	g->progress = false;
}

static void gather_clear_upper(struct gather *g)
{
	tz_clear(g->data + g->info->size, 64u - g->info->size);
}

/* Processors clear the destination above the vector length after a part of the elements, too, but not with VEX. */
static void gather_commit(struct gather *g)
{
	if (!(g->info->flags & VECTOR_MASK_VEC))
		gather_clear_upper(g);
	x86_fpu_load(g->cpu);
	vector_of(g->cpu)->reg_load[g->info->reg](g->cpu, g->data);
	gather_commit_mask(g);
}

static void gather_done(struct gather *g, unsigned n)
{
	g->bits &= ~BIT64(n);
	if (g->info->flags & VECTOR_MASK_VEC)
		tz_clear(g->mask + n * g->info->elem, g->info->elem);
	g->progress = true;
}

static uint64_t gather_offset(const struct gather *g, unsigned n)
{
	uint64_t index = g->info->flags & VECTOR_INDEX64 ? guest_load64(g->index + n * 8)
							 : (uint64_t)(int32_t)guest_load32(g->index + n * 4);

	return vector_offset(g->i, interp_ea(g->cpu, g->i), index << g->i->shift);
}

/* A direct pointer if that takes no more than a look at the TLB. */
static uint8_t *gather_fast(const struct gather *g, uint64_t offset, bool write)
{
	struct x86_cpu *cpu = g->cpu;
	const struct x86_tlb_entry *e;
	uint64_t a = offset + (g->i->seg >= X86_FS ? cpu->seg[g->i->seg].base : 0);

	if (!x86_long64(cpu))
		return NULL;
	e = x86_tlb_slot(cpu, cpu->mmu_index, a);
	if ((write ? e->tag_write : e->tag_read) != (a & ~TZ_PAGE_MASK) ||
	    (a & TZ_PAGE_MASK) + g->info->elem > TZ_PAGE_SIZE)
		return NULL;
	return x86_tlb_host(e, a);
}

static uint64_t element_get(const uint8_t *p, unsigned size)
{
	return size == 8 ? guest_load64(p) : guest_load32(p);
}

static void element_put(uint8_t *p, unsigned size, uint64_t v)
{
	if (size == 8)
		guest_store64(p, v);
	else
		guest_store32(p, (uint32_t)v);
}

/* An element that is off is done at once; a vector mask shows that too. */
static inline bool gather_active(struct gather *g, unsigned n)
{
	if ((g->bits >> n) & 1)
		return true;
	if (g->info->flags & VECTOR_MASK_VEC)
		gather_done(g, n);
	return false;
}

void vector_exec_gather(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct gather g;
	unsigned elem;

	gather_start(&g, cpu, i);
	elem = g.info->elem;
	for (unsigned n = 0; n < g.info->count; n++) {
		uint8_t *to = g.data + n * elem;
		uint64_t offset, value;
		const uint8_t *p;

		if (!gather_active(&g, n))
			continue;
		offset = gather_offset(&g, n);
		p = gather_fast(&g, offset, false);
		if (p) {
			element_put(to, elem, element_get(p, elem));
			gather_done(&g, n);
			continue;
		}
		if (g.progress)
			gather_commit(&g);
		value = x86_read(cpu, x86_linear(cpu, i->seg, offset, elem, false), elem, cpu->mmu_index);
		element_put(to, elem, value);
		gather_done(&g, n);
		gather_commit(&g);
		x86_io_finish(cpu);
	}
	gather_clear_upper(&g);
	tz_clear(g.mask, 64);
	g.bits = 0;
	gather_commit(&g);
	vector_end(cpu, i);
}

void vector_exec_scatter(struct x86_cpu *cpu, const struct interp_insn *i)
{
	struct gather g;
	unsigned elem;

	gather_start(&g, cpu, i);
	elem = g.info->elem;
	for (unsigned n = 0; n < g.info->count; n++) {
		uint64_t offset, value = element_get(g.data + n * elem, elem);
		uint8_t *p;

		if (!gather_active(&g, n))
			continue;
		offset = gather_offset(&g, n);
		p = gather_fast(&g, offset, true);
		if (p) {
			element_put(p, elem, value);
			gather_done(&g, n);
			continue;
		}
		if (g.progress)
			gather_commit_mask(&g);
		x86_write(cpu, x86_linear(cpu, i->seg, offset, elem, true), value, elem, cpu->mmu_index);
		gather_done(&g, n);
		gather_commit_mask(&g);
		x86_io_finish(cpu);
	}
	g.bits = 0;
	gather_commit_mask(&g);
	vector_end(cpu, i);
}

/* ---- MASKMOVDQU, MASKMOVQ: bytes of a register to DS:rDI ---- */

static void store_masked_bytes(struct x86_cpu *cpu, const struct interp_insn *i, const uint8_t *data,
			       const uint8_t *mask)
{
	uint64_t ea = interp_ea(cpu, i);
	unsigned size = vector_info(i)->size;

	if (vector_checks_align(cpu))
		x86_check_align(cpu, x86_linear(cpu, i->seg, ea, 1, true), 8);
	for (unsigned n = 0; n < size; n++)
		if (mask[n] & 0x80)
			x86_probe_write(cpu, x86_linear(cpu, i->seg, vector_offset(i, ea, n), 1, true), 1,
					cpu->mmu_index);
	for (unsigned n = 0; n < size; n++)
		if (mask[n] & 0x80)
			x86_write8(cpu, x86_linear(cpu, i->seg, vector_offset(i, ea, n), 1, true), data[n]);
}

void vector_exec_maskmov(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_info(i);
	struct interp_vector *v = vector_of(cpu);

	vector_check_class(cpu, (enum vector_class)i->extra);
	x86_fpu_load(cpu);
	v->reg_store[info->reg](cpu, v->reg[0]);
	v->reg_store[info->mask](cpu, v->reg[1]);
	vector_rest(cpu);
	store_masked_bytes(cpu, i, v->reg[0], v->reg[1]);
	vector_end(cpu, i);
}

/* MMn is physical register n, the area has the stack's order (SDM 1 9.2.2, 10.5.1.1). */
static void read_mmx(const struct x86_cpu *cpu, unsigned n, uint8_t *to)
{
	unsigned top = (guest_load16(cpu->fpu.area + 2) >> 11) & 7;

	guest_store64(to, guest_load64(cpu->fpu.area + 32 + ((n - top) & 7) * 16));
}

void vector_exec_maskmovq(struct x86_cpu *cpu, const struct interp_insn *i)
{
	const struct vector_info *info = vector_info(i);
	struct interp_vector *v = vector_of(cpu);

	vector_check_class(cpu, (enum vector_class)i->extra);
	vector_check_pending(cpu);
	x86_fpu_sync(cpu);
	read_mmx(cpu, info->reg, v->reg[0]);
	read_mmx(cpu, info->mask, v->reg[1]);
	store_masked_bytes(cpu, i, v->reg[0], v->reg[1]);
	/* Only now the transition to MMX state, which an MMX instruction makes of itself (SDM 1 9.5.1). */
	x86_fpu_load(cpu);
	v->mmx_store[info->reg](cpu, v->reg[0]);
	vector_end(cpu, i);
}
