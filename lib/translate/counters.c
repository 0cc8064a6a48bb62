/* SPDX-License-Identifier: Apache-2.0 */
/* Which instructions translated code leaves to interp, by mnemonic. */
#include <stdio.h>
#include <stdlib.h>

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
