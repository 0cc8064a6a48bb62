/* SPDX-License-Identifier: Apache-2.0 */
/* What translated code calls C for, and the way to the next block. */
#include "base/stats.h"
#include "interp/cache.h"
#include "translate/translate.h"
#include "x86/event.h"
#include "x86/fpu.h"
#include "x86/paging.h"

/* ---- the frame: what of struct x86_cpu translated code has elsewhere ---- */

void translate_frame_leave(struct translate *t)
{
	struct x86_cpu *cpu = t->cpu;
	uint64_t f = t->frame->flags;

	cpu->rflags = (cpu->rflags & ~X86_ARITH_FLAGS) | ((f >> 8) & 0xd5) | (f & 1) << 11;
	translate_count_frame(t);
}

/* What was taken from the TLB is good while this stays the same. */
static uint64_t tlb_generation(const struct x86_cpu *cpu)
{
	return (uint64_t)cpu->tlb->flushes << 32 | cpu->tlb->withholds;
}

/* For a window on it in 32-bit code: no operand near RSP, which lies in it, is on the other side of 0 or 4 GiB. */
static bool is_stack_page32(uint64_t page)
{
	return page >= TZ_PAGE_SIZE && page < (UINT64_C(1) << 32) - 2 * TZ_PAGE_SIZE;
}

static void no_window(const struct translate *t, struct translate_window *w)
{
	w->page = t->no_stack;
	w->window = (uint64_t)(uintptr_t)t->frame->nowhere - t->no_stack;
}

static void window_use(struct translate *t, const struct translate_window *w)
{
	t->frame->stack_page = w->page;
	t->frame->window = w->window;
}

void translate_windows_forget(struct translate *t)
{
	for (unsigned n = 0; n < X86_MMU_COUNT; n++)
		no_window(t, &t->frame->kept[n]);
	window_use(t, &t->frame->kept[0]);
}

/* Each context has its stack: as emit_context_switch() does it. */
static void window_switch(struct translate *t, unsigned mmu)
{
	struct translate_frame *frame = t->frame;

	frame->kept[frame->window_mmu] = (struct translate_window){ frame->stack_page, frame->window };
	window_use(t, &frame->kept[mmu]);
	frame->window_mmu = mmu;
}

/* What only 32-bit code looks at, or looks at otherwise. */
static void frame_enter32(struct translate *t)
{
	const struct x86_cpu *cpu = t->cpu;
	struct translate_frame *frame = t->frame;
	struct translate_window none;

	frame->fs_beyond = translate_unlimited(&cpu->seg[X86_FS]) ? 0 : TRANSLATE_NO_PAGE;
	frame->gs_beyond = translate_unlimited(&cpu->seg[X86_GS]) ? 0 : TRANSLATE_NO_PAGE;
	if (unlikely(!is_stack_page32(frame->stack_page))) {
		no_window(t, &none);
		window_use(t, &none);
	}
}

static void frame_enter(struct translate *t)
{
	struct x86_cpu *cpu = t->cpu;
	struct translate_frame *frame = t->frame;

	frame->fs_base = cpu->seg[X86_FS].base;
	frame->gs_base = cpu->seg[X86_GS].base;
	frame->flags = (uint16_t)translate_lahf(cpu->rflags);
	frame->vector = cpu->fpu.live;
	frame->down = (cpu->rflags & X86_DF) != 0;
	if (unlikely(t->tlb_generation != tlb_generation(cpu))) {
		t->tlb_generation = tlb_generation(cpu);
		translate_victim_clear(t);
		translate_windows_forget(t);
	}
	if (unlikely(frame->window_mmu != cpu->mmu_index))
		window_switch(t, cpu->mmu_index);
	if (unlikely(cpu->code_size != 8))
		frame_enter32(t);
}

/* ---- the next block ---- */

/* Has something made code stale that the jump caches lead to? */
static void refresh(struct translate *t, uint64_t mode)
{
	uint64_t *known = &t->mode[mode & TRANSLATE_MODE_MMU];

	translate_mail_read(t);
	if (unlikely(*known != mode)) {
		translate_jump_clear_context(t, (unsigned)mode & TRANSLATE_MODE_MMU);
		*known = mode;
	}
}

/* Have the bytes of its blocks been compared since the client or a mapping could have changed them? */
static void check_page(struct translate *t, const struct x86_tlb_entry *e)
{
	struct translate_page *p = translate_page_find(t, x86_tlb_info(t->cpu, e)->gpa);

	if (p && (p->epoch != t->epoch || p->flushes != t->cpu->tlb->flushes))
		translate_page_check(t, p, (const uint8_t *)e->host);
}

/* Translated code for CS:RIP, or NULL: no memory slot, or across a page end. */
static struct translate_block *block_at_rip(struct x86_cpu *cpu, struct translate *t, uint64_t mode)
{
	uint64_t rip = cpu->rip, page = rip & ~TZ_PAGE_MASK, key;
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, rip);
	struct x86_tlb_info *info = x86_tlb_info(cpu, e);
	struct translate_block *b;
	uint8_t byte;
	gpa_t gpa;

	x86_check_rip(cpu, rip);
	if (unlikely(t->guard && e->tag_exec == page))
		t->guard->fetch(cpu, e);
	if (unlikely(e->tag_exec != page)) {
		if (e->tag_read != page)
			translate_victim_save(t, cpu->mmu_index, rip);
		x86_fetch(cpu, rip, &byte, 1, &gpa);
		if (e->tag_exec != page)
			return NULL;
	}
	if (unlikely(!(info->flags & X86_TLB_CODE))) {
		check_page(t, e);
		info->flags |= X86_TLB_CODE;
	}
	key = info->gpa | (rip & TZ_PAGE_MASK) | mode << TRANSLATE_MODE_SHIFT;
	b = translate_find(t, key);
	if (unlikely(b && b->page->epoch != t->epoch)) {
		check_page(t, e);
		b = translate_find(t, key);
	}
	if (unlikely(!b)) {
		b = translate_block_make(t, key, (const uint8_t *)e->host);
		if (b) {
			translate_perf_map(t, b->code, rip);
			translate_trace(t, b, rip);
		}
	}
	return b;
}

/* 32-bit code that goes on behind 4 GiB at 0 is led there by C: jumps that are linked and do not poll go forward. */
static bool wraps(const struct translate *t, const struct translate_block *from, const struct translate_exit *x)
{
	return from->key >> TRANSLATE_MODE_SHIFT & TRANSLATE_MODE_32 &&
	       (t->frame->rip_page + (uint64_t)(int64_t)x->record.disp) >> 32;
}

/* The exit has led to `b`. In the same mode, but for windows. */
static void link(struct translate *t, struct translate_exit *x, struct translate_block *b)
{
	const struct translate_block *from = translate_at(t, x->record.block);
	uint64_t plain = (uint64_t)TRANSLATE_MODE_PLAIN << TRANSLATE_MODE_SHIFT;
	uint64_t differ = (from->key ^ b->key) & ~plain;

	if (x->record.action == ACTION_FAR) {
		if (!(differ >> TRANSLATE_MODE_SHIFT) && !wraps(t, from, x))
			translate_link_far(t, (struct translate_far *)x, b, t->frame->rip_page);
	} else if (!(differ >> TZ_PAGE_SHIFT)) {
		translate_link(t, x, b);
	}
}

const void *translate_next(struct x86_cpu *cpu, struct translate *t, struct translate_exit *x)
{
	uint64_t mode = translate_mode(cpu), wipes = t->wipes;
	unsigned mmu = (unsigned)mode & TRANSLATE_MODE_MMU;
	struct translate_block *b;
	const void *code = NULL;

	STAT_INC(cpu, TRANSLATE_DISPATCHES);
	refresh(t, mode);
	t->interp.abort_block = false;
	if (unlikely(t->plain)) {
		t->plain = false;
		mode |= TRANSLATE_MODE_PLAIN;
	} else if (!x) {
		code = translate_jump_find(t, mmu, cpu->rip);
	}
	if (!code) {
		STAT_INC(cpu, TRANSLATE_JUMP_MISSES);
		b = block_at_rip(cpu, t, mode);
		t->by_interp = !b;
		if (!b)
			return NULL;
		if (x && t->wipes == wipes)
			link(t, x, b);
		code = b->code;
		if (!(mode & TRANSLATE_MODE_PLAIN))
			translate_jump_insert(t, mmu, cpu->rip, code,
					      x86_tlb_info(cpu, x86_tlb_slot(cpu, mmu, cpu->rip)));
	}
	t->entered++;
	t->frame->rip_page = cpu->rip & ~TZ_PAGE_MASK;
	frame_enter(t);
	return code;
}

/* Is there nothing that keeps translated code from going on? */
static const void *go_on(struct x86_cpu *cpu, struct translate *t, struct translate_exit *x)
{
	t->plain &= !cpu->io.logged;
	if (unlikely(cpu->io.logged || atomic_load_explicit(&cpu->attention, memory_order_relaxed) ||
		     !translate_translatable(cpu) || x86_needs_stepping(cpu)))
		return NULL;
	/* The end of a visit: the poll word is the loop's to set right. */
	if (unlikely(t->visits) && !translate_direct_visit(t))
		return NULL;
	if (cpu->cpl == 3 && cpu->code_size == 8 && translate_direct_eager(t))
		return NULL;
	/* The plain rest of a block belongs to it. */
	if (unlikely(t->guard) && !t->plain && t->guard->stop(cpu))
		return NULL;
	return translate_next(cpu, t, x);
}

/* ---- instructions by interp ---- */

static const struct interp_insn *record_insn(struct translate *t, const struct translate_record *r)
{
	struct translate_decoded *d =
		&t->decoded[(uint32_t)((uintptr_t)r >> 4) * UINT32_C(0x9e3779b1) >> (32 - TRANSLATE_INSN_BITS)];
	const struct translate_block *b = translate_at(t, r->block);
	const struct translate_range *range = &b->range[0];
	unsigned at = r->offset - range->offset;

	if (unlikely(d->record != r)) {
		d->record = NULL;
		/* It could be decoded before, so it is whole. */
		interp_decode(t->cpu,
			      b->key >> TRANSLATE_MODE_SHIFT & TRANSLATE_MODE_32 ? INTERP_MODE_32 : INTERP_MODE_64,
			      range->source + at, (unsigned)range->len + b->cross - at, &d->insn);
		d->record = r;
	}
	return &d->insn;
}

/* Nothing may come between STI and this instruction, should it not get done here. */
static void protect(struct x86_cpu *cpu, const struct translate_record *r)
{
	if (unlikely(r->flags & TRANSLATE_RECORD_PROTECTED))
		cpu->ev.shadow = X86_SHADOW_STI;
}

/* The state is as before the instruction. */
static const void *interp_op(struct x86_cpu *cpu, struct translate *t, const struct translate_record *r)
{
	const struct interp_insn *i = record_insn(t, r);
	uint64_t mode = translate_mode(cpu), next = cpu->rip + i->len;
	uint32_t flushes = cpu->tlb->flushes;

	cpu->gpr[X86_RSP] += (uint64_t)(int64_t)r->adjust;
	if (unlikely(t->guard) && t->guard->hold(cpu, i)) {
		t->frame->insns += (uint64_t)(int64_t)r->since;
		return NULL;
	}
	STAT_INC(cpu, TRANSLATE_INTERP);
	translate_count_fallback(t, i->mnemonic);
	if (cpu->count_insns) {
		t->frame->insns += (uint64_t)(int64_t)r->since;
		t->op_rip = cpu->rip;
		t->op_runs = true;
	}
	protect(cpu, r);
	i->exec(cpu, i);
	if (r->flags & TRANSLATE_RECORD_PROTECTED)
		cpu->ev.shadow = 0;
	if (r->flags & TRANSLATE_RECORD_SHADOW) {
		cpu->ev.shadow = 0;
		t->interp.abort_block = false; /* behind the next one */
	}
	if (cpu->count_insns) {
		t->frame->insns++;
		t->op_runs = false;
	}
	if (likely(r->resume && cpu->rip == next && !t->interp.abort_block && !cpu->io.logged &&
		   translate_mode(cpu) == mode && cpu->tlb->flushes == flushes &&
		   (cpu->code_size == 8 || translate_flat32(cpu)))) {
		if (r->flags & TRANSLATE_RECORD_VECTOR)
			x86_fpu_load(cpu);
		/* The rest of the block counts from its own start. */
		if (cpu->count_insns)
			t->frame->insns -= (uint64_t)(int64_t)r->since + 1;
		frame_enter(t);
		return t->rx + r->resume;
	}
	return go_on(cpu, t, NULL);
}

/* ---- TLB misses ---- */

/*
 * What the check computes. 32-bit code takes a stack pointer as it is, upper half and all, and only where a window may
 * be; others wrap around.
 */
static bool check_address32(const struct x86_cpu *cpu, const struct translate_check *k, uint64_t *a)
{
	if (k->record.action == ACTION_STACK)
		return is_stack_page32(*a & ~TZ_PAGE_MASK);
	*a = (uint32_t)*a;
	if (k->seg < X86_FS)
		return true;
	if (*a + k->span - 1 > UINT32_MAX || !translate_unlimited(&cpu->seg[k->seg]))
		return false;
	*a = (uint32_t)(*a + cpu->seg[k->seg].base);
	return true;
}

/* False: out of reach. */
static bool check_address(const struct x86_cpu *cpu, const struct translate *t, const struct translate_check *k,
			  uint64_t *address)
{
	uint64_t a = (uint64_t)(int64_t)k->record.disp;

	if (k->base == INTERP_RIP_REG)
		a += t->frame->rip_page;
	else if (k->base < 16)
		a += cpu->gpr[k->base];
	if (k->index < 16)
		a += cpu->gpr[k->index] << k->shift;
	*address = a;
	if (cpu->code_size != 8)
		return check_address32(cpu, k, address);
	if (!k->wide)
		a = (uint32_t)a;
	*address = k->seg >= X86_FS ? a + cpu->seg[k->seg].base : a;
	return true;
}

/* Make the check pass. */
static bool fill(struct x86_cpu *cpu, struct translate *t, const struct translate_check *k)
{
	const struct x86_tlb_entry *e;
	unsigned flags = k->record.flags;
	const uint64_t *tag;
	uint64_t a, page;

	if (!check_address(cpu, t, k, &a))
		return false;
	page = a & ~TZ_PAGE_MASK;
	e = x86_tlb_slot(cpu, cpu->mmu_index, a);
	tag = flags & TRANSLATE_RECORD_WINDOW_W ? &e->tag_write : &e->tag_read;
	if ((a & TZ_PAGE_MASK) + k->span > TZ_PAGE_SIZE || a & (k->record.align - 1u))
		return false;
	if (*tag != page && (flags & TRANSLATE_RECORD_NO_FILL ||
			     !x86_tlb_fill(cpu, a, flags & TRANSLATE_RECORD_WRITE ? X86_ACCESS_WRITE : X86_ACCESS_READ,
					   cpu->mmu_index) ||
			     *tag != page))
		return false;
	if (k->record.action == ACTION_STACK) {
		t->frame->stack_page = page;
		t->frame->window = e->host - page;
	}
	return true;
}

/* An instruction across a page end. */
static const void *cross(struct x86_cpu *cpu, struct translate *t)
{
	const struct interp_insn *i;

	i = interp_block_find(cpu, &t->interp)->insn;
	if (unlikely(t->guard) && t->guard->hold(cpu, i))
		return NULL;
	STAT_INC(cpu, TRANSLATE_INTERP);
	i->exec(cpu, i);
	STAT_INC(cpu, INSNS);
	return go_on(cpu, t, NULL);
}

const void *translate_detour(struct x86_cpu *cpu, const uint8_t *site)
{
	struct translate *t = translate_of(cpu);
	const struct translate_record *r = (const struct translate_record *)(t->arena + guest_load32(site));
	uint64_t page = t->frame->rip_page;
	const struct translate_check *k;

	if (r->action != ACTION_VECTOR)
		translate_frame_leave(t);
	translate_count_call(t, r->action);
	switch (r->action) {
	case ACTION_VECTOR:
		x86_fpu_load(cpu);
		t->frame->vector = cpu->fpu.live;
		return t->rx + r->resume;
	case ACTION_EXIT:
	case ACTION_FAR:
		cpu->rip = page + (uint64_t)(int64_t)r->disp;
		if (unlikely(cpu->code_size != 8))
			cpu->rip = (uint32_t)cpu->rip;
		break;
	case ACTION_JUMP: cpu->rip = t->frame->scratch; break;
	default: cpu->rip = page + r->offset; break;
	}
	switch (r->action) {
	case ACTION_EXIT:
		t->plain = (r->flags & TRANSLATE_RECORD_PLAIN) != 0;
		if (t->plain)
			protect(cpu, r);
		if (!t->plain || (!cpu->count_insns && !(r->flags & TRANSLATE_RECORD_PROTECTED)))
			return go_on(cpu, t, (struct translate_exit *)r);
		if (cpu->count_insns)
			t->frame->insns += (uint64_t)(int64_t)r->since; /* a link would not count them */
		return go_on(cpu, t, NULL);
	case ACTION_FAR: return go_on(cpu, t, (struct translate_exit *)r);
	case ACTION_JUMP: return go_on(cpu, t, NULL);
	case ACTION_INTERP: return interp_op(cpu, t, r);
	case ACTION_CROSS: return cross(cpu, t);
	default: break;
	}
	k = (const struct translate_check *)r;
	if (fill(cpu, t, k)) {
		if (r->flags & TRANSLATE_RECORD_VECTOR)
			x86_fpu_load(cpu);
		t->frame->vector = cpu->fpu.live;
		return t->rx + k->retry;
	}
	if (r->action == ACTION_FILL)
		return interp_op(cpu, t, r);
	t->plain = true;
	protect(cpu, r);
	if (cpu->count_insns)
		t->frame->insns += (uint64_t)(int64_t)r->since;
	return go_on(cpu, t, NULL);
}
