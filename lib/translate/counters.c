/* SPDX-License-Identifier: Apache-2.0 */
/* Which instructions translated code leaves to interp, by mnemonic. */
#include <stdio.h>
#include <stdlib.h>

#include "base/stats.h"
#include "translate/translate.h"

#define MNEMONICS (ZYDIS_MNEMONIC_MAX_VALUE + 1)
#define NAME_SIZE 48

struct translate_counters {
	uint64_t runs[MNEMONICS];      /* written by the vCPU's thread, read by any */
	char *_Atomic name[MNEMONICS]; /* made when first asked for */
};

struct translate_counters *translate_counters_create(void)
{
	return calloc(1, sizeof(struct translate_counters));
}

void translate_counters_destroy(struct translate_counters *c)
{
	if (!c)
		return;
	for (unsigned m = 0; m < MNEMONICS; m++)
		free(c->name[m]);
	free(c);
}

void translate_count_fallback(struct translate *t, unsigned mnemonic)
{
	t->counters->runs[mnemonic]++;
}

void translate_count_frame(struct translate *t)
{
	struct translate_frame *f = t->frame;
	struct x86_cpu *cpu = t->cpu;

	STAT_ADD(cpu, INSNS, f->insns);
	f->insns = 0;
	if (!cpu->count_insns)
		return;
	STAT_ADD(cpu, TRANSLATE_CHAINS, f->blocks - f->jumps - t->entered);
	STAT_ADD(cpu, TRANSLATE_JUMP_HITS, f->jumps);
	STAT_ADD(cpu, TRANSLATE_TLB_HITS, f->checks - f->victims);
	STAT_ADD(cpu, TRANSLATE_VICTIM_HITS, f->victims);
	STAT_ADD(cpu, TRANSLATE_STACK_HITS, f->stack_checks);
	f->blocks = f->jumps = f->checks = f->victims = f->stack_checks = t->entered = 0;
}

/* It was called for, after all. */
static void uncount(struct x86_cpu *cpu, enum translate_action action)
{
	if (action == ACTION_FILL || action == ACTION_WINDOW)
		STAT_ADD(cpu, TRANSLATE_TLB_HITS, UINT64_MAX);
	if (action == ACTION_STACK)
		STAT_ADD(cpu, TRANSLATE_STACK_HITS, UINT64_MAX);
}

void translate_count_call(struct translate *t, enum translate_action action)
{
	t->cpu->stat[STAT_TRANSLATE_CALL_CROSS + action]++;
	if (t->cpu->count_insns)
		uncount(t->cpu, action);
}

/* NULL: no memory. */
static const char *name_of(struct translate_counters *c, unsigned m)
{
	const char *mnemonic = ZydisMnemonicGetString((ZydisMnemonic)m);
	char *name = c->name[m], *fresh;

	if (name)
		return name;
	fresh = malloc(NAME_SIZE);
	if (!fresh)
		return NULL;
	snprintf(fresh, NAME_SIZE, "interp fallback %s", mnemonic ? mnemonic : "?");
	if (atomic_compare_exchange_strong(&c->name[m], &name, fresh))
		return fresh;
	free(fresh);
	return name;
}

unsigned translate_counters_read(struct x86_cpu *cpu, struct engine_stat *rows, unsigned max)
{
	struct translate_counters *c = translate_of(cpu)->counters;
	unsigned count = 0;

	for (unsigned m = 0; m < MNEMONICS; m++) {
		uint64_t runs = __atomic_load_n(&c->runs[m], __ATOMIC_RELAXED);
		struct engine_stat row = { NULL, runs };
		unsigned n;

		if (!runs || (count == max && (!max || rows[max - 1].value >= runs)))
			continue;
		row.name = name_of(c, m);
		if (!row.name)
			continue;
		/* Kept in order; the last one gives way. */
		n = count < max ? count++ : max - 1;
		for (; n && rows[n - 1].value < runs; n--)
			rows[n] = rows[n - 1];
		rows[n] = row;
	}
	return count;
}
