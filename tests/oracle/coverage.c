/* SPDX-License-Identifier: Apache-2.0 */
/* What was exercised of what our CPUID reports, and why the rest was not. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct per_mnemonic {
	unsigned forms, run;
	uint64_t completed, faulted, undefined;
	enum standing standing;
	const char *why;
	bool privileged;
};

static bool raises_only(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_UD0 || m == ZYDIS_MNEMONIC_UD1 || m == ZYDIS_MNEMONIC_UD2 ||
	       m == ZYDIS_MNEMONIC_CLAC || m == ZYDIS_MNEMONIC_STAC;
}

/* At CPL 3 these raise whatever their operands are (SDM 3A 5.9; IOPL 0; CLAC, STAC: SDM 2A). */
static bool privileged(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_OUTSD:
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_XSETBV:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1: return true; /* under KVM: its own address, see tolerances.def */
	default: return false;
	}
}

static struct per_mnemonic *by_mnemonic(void)
{
	struct per_mnemonic *table = calloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof(*table));

	if (!table)
		die("no memory");
	for (unsigned n = 0; n < forms.count; n++) {
		const struct form *f = &forms.form[n];
		struct per_mnemonic *m = &table[f->mnemonic];

		if (!m->forms++ || f->standing < m->standing) {
			m->standing = f->standing;
			m->why = f->why;
		}
		m->run += f->standing == STANDING_RUN;
		m->completed += f->completed;
		m->faulted += f->faulted;
		m->undefined += f->undefined;
	}
	return table;
}

static bool was_exercised(ZydisMnemonic m, const struct per_mnemonic *p)
{
	if (raises_only(m))
		return p->undefined != 0;
	if (privileged(m))
		return p->faulted != 0;
	return p->completed != 0;
}

static void print_standing(const struct per_mnemonic *table, enum standing which, const char *title)
{
	unsigned count = 0;

	for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++)
		if (table[n].forms && table[n].standing == which)
			count++;
	if (!count)
		return;
	printf("%s: %u mnemonics\n", title, count);
	for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++)
		if (table[n].forms && table[n].standing == which)
			printf("  %s: %s\n", ZydisMnemonicGetString((ZydisMnemonic)n), table[n].why);
}

static void list_forms(void)
{
	for (unsigned n = 0; n < forms.count; n++) {
		const struct form *f = &forms.form[n];

		if (f->standing != STANDING_RUN || f->completed || privileged(f->mnemonic) || raises_only(f->mnemonic))
			continue;
		printf("  never to its end: %s map %u opcode %02x%s%s%s, %lu faults, %lu #UD\n",
		       ZydisMnemonicGetString(f->mnemonic), f->map, f->opcode,
		       f->encoding == ENC_EVEX  ? " EVEX"
		       : f->encoding == ENC_VEX ? " VEX"
						: "",
		       f->memory ? " memory" : "", f->mode32 ? " 32-bit" : "", (unsigned long)f->faulted,
		       (unsigned long)f->undefined);
	}
}

bool forms_coverage(bool list, uint64_t cases)
{
	struct per_mnemonic *table = by_mnemonic();
	unsigned mnemonics = 0, exercised = 0, ran = 0, done = 0, reported = 0;

	for (unsigned n = 0; n < forms.count; n++) {
		const struct form *f = &forms.form[n];

		if (f->standing == STANDING_NO_GUEST)
			continue;
		reported++;
		ran += f->completed || f->faulted || f->undefined;
		done += f->completed || privileged(f->mnemonic) || raises_only(f->mnemonic);
	}
	for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++) {
		if (!table[n].run)
			continue;
		mnemonics++;
		if (was_exercised((ZydisMnemonic)n, &table[n]))
			exercised++;
		else
			printf("not exercised: %s (%lu faults, %lu #UD)\n", ZydisMnemonicGetString((ZydisMnemonic)n),
			       (unsigned long)table[n].faulted, (unsigned long)table[n].undefined);
	}
	printf("coverage: %u of %u mnemonics exercised; forms: %u reported by our CPUID, %u run here, %u of them "
	       "tried, %u "
	       "to their end or their only exception\n",
	       exercised, mnemonics, reported, forms.run_count, ran, done);
	print_standing(table, STANDING_NO_HOST, "skipped, this host lacks");
	print_standing(table, STANDING_EXCLUDED, "not compared with hardware");
	if (list)
		list_forms();
	free(table);
	/* A short run does not get around. */
	return exercised == mnemonics || cases < (uint64_t)forms.run_count * 3;
}
