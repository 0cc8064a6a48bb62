/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two pages that are used in turn and share a place in the TLB would each cost a walk every time. Who loses the place
 * goes here, and a failed check looks here (stubs.c) before C is called. Any flush, and any withdrawal of write tags,
 * empties it.
 */
#include "translate/translate.h"

static void clear(struct translate *t, unsigned n)
{
	struct x86_tlb_entry *v = &t->frame->victim[0][0] + n;

	v->tag_read = v->tag_write = x86_tlb_withheld((uint64_t)n % X86_TLB_SIZE << TZ_PAGE_SHIFT);
}

void translate_victim_clear(struct translate *t)
{
	if (t->victim_count < TRANSLATE_VICTIMS)
		for (unsigned k = 0; k < t->victim_count; k++)
			clear(t, t->victim_used[k]);
	else
		for (unsigned n = 0; n < X86_MMU_COUNT * X86_TLB_SIZE; n++)
			clear(t, n);
	t->victim_count = 0;
}

void translate_victim_save(struct translate *t, unsigned mmu, uint64_t gva)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(t->cpu, mmu, gva);
	unsigned n = (unsigned)(e - &t->cpu->tlb->e[0][0]);
	struct x86_tlb_entry *v = &t->frame->victim[0][0] + n;

	if ((e->tag_read & X86_TLB_INVALID) && (e->tag_write & X86_TLB_INVALID))
		return;
	if (t->victim_count < TRANSLATE_VICTIMS)
		t->victim_used[t->victim_count++] = (uint16_t)n;
	v->tag_read = e->tag_read;
	v->tag_write = e->tag_write;
	v->host = e->host;
}
