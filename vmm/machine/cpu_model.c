/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/cpu_model.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/message.h"
#include "machine/nearest.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

enum reg { EAX, EBX, ECX, EDX };

struct feature {
	const char *name;
	uint32_t leaf, subleaf;
	enum reg reg;
	unsigned bit;
};

static const struct feature features[] = {
#define FEATURE(name, leaf, subleaf, reg, bit) { name, leaf, subleaf, reg, bit },
#define ALIAS(name, target)
#include "machine/cpu_features.def"
#undef FEATURE
#undef ALIAS
};

struct alias {
	const char *name, *target;
};

static const struct alias feature_aliases[] = {
#define FEATURE(name, leaf, subleaf, reg, bit)
#define ALIAS(name, target) { name, target },
#include "machine/cpu_features.def"
#undef FEATURE
#undef ALIAS
};

struct model {
	const char *name, *vendor;
	unsigned family, model, stepping;
	const char *brand, *features; /* names, a blank behind each */
};

static const struct model models[] = {
#define MODEL(name, vendor, family, model, stepping, brand, features)                                                  \
	{ name, vendor, family, model, stepping, brand, features },
#define ALIAS(name, target)
#include "machine/cpu_models.def"
#undef MODEL
#undef ALIAS
};

static const struct alias model_aliases[] = {
#define MODEL(name, vendor, family, model, stepping, brand, features)
#define ALIAS(name, target) { name, target },
#include "machine/cpu_models.def"
#undef MODEL
#undef ALIAS
};

static const char *model_names[ARRAY_LEN(models) + ARRAY_LEN(model_aliases) + 3];

const char *const *cpu_model_names(void)
{
	size_t n = 0;

	model_names[n++] = "host";
	model_names[n++] = "max";
	for (size_t i = 0; i < ARRAY_LEN(model_aliases); i++)
		model_names[n++] = model_aliases[i].name;
	for (size_t i = 0; i < ARRAY_LEN(models); i++)
		model_names[n++] = models[i].name;
	return model_names;
}

/* QEMU takes '-', '_' and '.' in feature names for one another (sse4.1, sse4-1, sse4_1). */
static bool same_name(const char *a, const char *b)
{
	for (; *a && *b; a++, b++) {
		char x = *a == '_' || *a == '.' ? '-' : *a;
		char y = *b == '_' || *b == '.' ? '-' : *b;

		if (x != y)
			return false;
	}
	return *a == *b;
}

static const struct feature *find_feature(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(feature_aliases); i++)
		if (same_name(name, feature_aliases[i].name))
			name = feature_aliases[i].target;
	for (size_t i = 0; i < ARRAY_LEN(features); i++)
		if (same_name(name, features[i].name))
			return &features[i];
	return NULL;
}

static struct kvm_cpuid_entry2 *find_entry(const struct kvm_cpuid_entry2 *entry, unsigned count, uint32_t leaf,
					   uint32_t subleaf)
{
	for (unsigned i = 0; i < count; i++)
		if (entry[i].function == leaf &&
		    (!(entry[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry[i].index == subleaf))
			return (struct kvm_cpuid_entry2 *)&entry[i];
	return NULL;
}

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	return reg == EAX ? &e->eax : reg == EBX ? &e->ebx : reg == ECX ? &e->ecx : &e->edx;
}

static bool table_has(const struct cpu_model *m, const struct feature *f)
{
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, f->leaf, f->subleaf);

	return e && (*entry_reg(e, f->reg) >> f->bit & 1);
}

static void table_set(struct cpu_model *m, const struct feature *f, bool on)
{
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, f->leaf, f->subleaf);

	if (!e)
		return;
	if (on)
		*entry_reg(e, f->reg) |= UINT32_C(1) << f->bit;
	else
		*entry_reg(e, f->reg) &= ~(UINT32_C(1) << f->bit);
}

bool cpu_model_has(const struct cpu_model *model, const char *name)
{
	const struct feature *f = find_feature(name);

	return f && table_has(model, f);
}

unsigned cpu_model_phys_bits(const struct cpu_model *model)
{
	const struct kvm_cpuid_entry2 *e = find_entry(model->entry, model->count, 0x80000008, 0);

	return e && (e->eax & 0xff) ? e->eax & 0xff : 36;
}

void cpu_model_limit_phys_bits(struct cpu_model *model, unsigned bits)
{
	struct kvm_cpuid_entry2 *e = find_entry(model->entry, model->count, 0x80000008, 0);

	if (e && !model->phys_bits_given && (e->eax & 0xff) > bits)
		e->eax = (e->eax & ~0xffu) | bits;
}

static bool model_lists(const struct model *m, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = m->features; (p = strstr(p, name)); p += len)
		if ((p == m->features || p[-1] == ' ') && p[len] == ' ')
			return true;
	return false;
}

static void set_vendor(struct cpu_model *m, const char *vendor)
{
	static const uint32_t leaves[] = { 0, 0x80000000 };

	for (size_t i = 0; i < ARRAY_LEN(leaves); i++) {
		struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, leaves[i], 0);

		if (e) {
			memcpy(&e->ebx, vendor, 4);
			memcpy(&e->edx, vendor + 4, 4);
			memcpy(&e->ecx, vendor + 8, 4);
		}
	}
}

/* Leaf 1 EAX (SDM 2A CPUID, figure 3-6). */
static uint32_t signature(unsigned family, unsigned model, unsigned stepping)
{
	uint32_t base = family > 15 ? 15 : family, extended = family > 15 ? family - 15 : 0;

	return extended << 20 | (model >> 4 & 15) << 16 | base << 8 | (model & 15) << 4 | (stepping & 15);
}

static void set_signature(struct cpu_model *m, uint32_t eax)
{
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, 1, 0);

	if (e)
		e->eax = eax;
	e = find_entry(m->entry, m->count, 0x80000001, 0);
	if (e && e->eax)
		e->eax = eax;
}

static void set_brand(struct cpu_model *m, const char *brand)
{
	char text[48] = { 0 };

	strncpy(text, brand, sizeof(text) - 1);
	for (unsigned i = 0; i < 3; i++) {
		struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, 0x80000002 + i, 0);

		if (e) {
			memcpy(&e->eax, text + 16 * i, 4);
			memcpy(&e->ebx, text + 16 * i + 4, 4);
			memcpy(&e->ecx, text + 16 * i + 8, 4);
			memcpy(&e->edx, text + 16 * i + 12, 4);
		}
	}
}

static void apply_named(struct cpu_model *m, const struct model *named)
{
	set_vendor(m, named->vendor);
	set_signature(m, signature(named->family, named->model, named->stepping));
	set_brand(m, named->brand);
	for (size_t i = 0; i < ARRAY_LEN(features); i++)
		if (features[i].leaf != 0x40000001 && !model_lists(named, features[i].name))
			table_set(m, &features[i], false);
}

static void unknown(const char *what, const char *word, const char *const *names)
{
	const char *hint = nearest_name(word, names);

	msg_error("--cpu: unknown %s \"%s\"%s%s%s", what, word, hint ? "; did you mean \"" : "", hint ? hint : "",
		  hint ? "\"?" : "");
}

/* QEMU's properties for what no software accelerator has and no CPUID table alone can give: Hyper-V's interface, VT-x.
 */
static bool is_foreign(const char *name)
{
	static const char *const prefixes[] = { "hv-", "hv_", "vmx-", "vmx_" };

	for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
		if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
			return true;
	return false;
}

static int refuse_feature(const struct accel *accel, const char *name)
{
	msg_error("--cpu: the accelerator %s does not offer the feature \"%s\"", accel->name, name);
	return -EINVAL;
}

static int apply_feature(struct cpu_model *m, const struct cpu_model *offered, const struct accel *accel,
			 const char *name, bool on)
{
	const struct feature *f = find_feature(name);

	if (!f && is_foreign(name))
		return on ? refuse_feature(accel, name) : 0;
	if (!f) {
		const char *names[ARRAY_LEN(features) + 1];

		for (size_t i = 0; i < ARRAY_LEN(features); i++)
			names[i] = features[i].name;
		names[ARRAY_LEN(features)] = NULL;
		unknown("feature", name, names);
		return -EINVAL;
	}
	if (on && !table_has(offered, f))
		return refuse_feature(accel, f->name);
	/* "kvmclock" is two bits, as in QEMU. */
	for (size_t i = 0; i < ARRAY_LEN(features); i++)
		if (!strcmp(features[i].name, f->name) && (!on || table_has(offered, &features[i])))
			table_set(m, &features[i], on);
	return 0;
}

static int parse_number(const char *key, const char *value, unsigned long max, unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(value, &end, 0);
	if (!*value || *end || errno || *out > max) {
		msg_error("--cpu: %s=%s: not a number from 0 to %lu", key, value, max);
		return -EINVAL;
	}
	return 0;
}

static int set_phys_bits(struct cpu_model *m, const char *value)
{
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, 0x80000008, 0);
	unsigned long bits;
	int err = parse_number("phys-bits", value, 52, &bits);

	if (err)
		return err;
	if (bits < 32) {
		msg_error("--cpu: phys-bits=%lu: must be 32 to 52", bits);
		return -EINVAL;
	}
	if (e)
		e->eax = (e->eax & ~0xffu) | (uint32_t)bits;
	m->phys_bits_given = true;
	return 0;
}

/* family=, model=, stepping= change one field of the signature. */
static int set_signature_field(struct cpu_model *m, const char *key, const char *value)
{
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, 1, 0);
	uint32_t eax = e ? e->eax : 0;
	unsigned long family = (eax >> 8 & 15) + ((eax >> 8 & 15) == 15 ? eax >> 20 & 0xff : 0);
	unsigned long model = (eax >> 4 & 15) | (eax >> 12 & 0xf0), stepping = eax & 15;
	int err;

	if (!strcmp(key, "family"))
		err = parse_number(key, value, 270, &family);
	else if (!strcmp(key, "model"))
		err = parse_number(key, value, 255, &model);
	else
		err = parse_number(key, value, 15, &stepping);
	if (!err)
		set_signature(m, signature((unsigned)family, (unsigned)model, (unsigned)stepping));
	return err;
}

static bool is_switch(const char *value, bool *on)
{
	if (!strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true"))
		*on = true;
	else if (!strcmp(value, "off") || !strcmp(value, "no") || !strcmp(value, "false"))
		*on = false;
	else
		return false;
	return true;
}

/* name=value: a property of QEMU's CPUs, or a feature with on/off. */
static int apply_property(struct cpu_model *m, const struct cpu_model *offered, const struct accel *accel,
			  const char *key, const char *value)
{
	bool on;

	if (!strcmp(key, "vendor")) {
		if (strlen(value) != 12) {
			msg_error("--cpu: vendor=%s: must have 12 characters", value);
			return -EINVAL;
		}
		set_vendor(m, value);
		return 0;
	}
	if (!strcmp(key, "model-id")) {
		set_brand(m, value);
		return 0;
	}
	if (!strcmp(key, "phys-bits"))
		return set_phys_bits(m, value);
	if (!strcmp(key, "family") || !strcmp(key, "model") || !strcmp(key, "stepping"))
		return set_signature_field(m, key, value);
	if (!is_switch(value, &on)) {
		if (is_foreign(key)) /* hv-spinlocks=N and the like */
			return refuse_feature(accel, key);
		msg_error("--cpu: %s=%s: expected on or off", key, value);
		return -EINVAL;
	}
	/* Physical address bits are the host's unless phys-bits says otherwise; `enforce` is always in force. */
	if (same_name(key, "host-phys-bits") || same_name(key, "enforce") || same_name(key, "check") ||
	    same_name(key, "migratable"))
		return 0;
	return apply_feature(m, offered, accel, key, on);
}

static int apply_word(struct cpu_model *m, const struct cpu_model *offered, const struct accel *accel, char *word)
{
	char *equals = strchr(word, '=');

	if (equals) {
		*equals = 0;
		return apply_property(m, offered, accel, word, equals + 1);
	}
	if (*word == '+' || *word == '-')
		return apply_feature(m, offered, accel, word + 1, *word == '+');
	return apply_property(m, offered, accel, word, "on");
}

/* XCR0 components follow from the features that are left (SDM 1 13.3, 13.5). */
static void trim_xstate(struct cpu_model *m)
{
	uint64_t allowed = 3;
	struct kvm_cpuid_entry2 *e = find_entry(m->entry, m->count, 0xd, 0);
	unsigned kept = 0;

	if (cpu_model_has(m, "avx"))
		allowed |= 4;
	if (cpu_model_has(m, "avx") && cpu_model_has(m, "avx512f"))
		allowed |= 0xe0;
	if (cpu_model_has(m, "pku"))
		allowed |= 0x200;
	if (!cpu_model_has(m, "xsave"))
		allowed = 0;
	if (e) {
		e->eax &= (uint32_t)allowed;
		e->edx &= (uint32_t)(allowed >> 32);
	}
	for (unsigned i = 0; i < m->count; i++) {
		uint32_t sub = m->entry[i].index;

		if (m->entry[i].function == 0xd && sub >= 2 && sub < 63 && !(allowed >> sub & 1))
			continue;
		m->entry[kept++] = m->entry[i];
	}
	m->count = kept;
}

static int read_offered(const struct accel *accel, struct cpu_model *model)
{
	struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + sizeof(model->entry));
	int err = 0;

	if (!table)
		return -ENOMEM;
	table->nent = CPU_MODEL_ENTRIES;
	if (accel->ioctl(accel->system_fd, KVM_GET_SUPPORTED_CPUID, (uintptr_t)table) < 0) {
		err = -errno;
		msg_error("the accelerator %s does not tell its CPUID: %s", accel->name, strerror(errno));
	} else {
		model->count = table->nent;
		memcpy(model->entry, table->entries, table->nent * sizeof(table->entries[0]));
	}
	free(table);
	return err;
}

/* What the client, not the accelerator, decides: a local APIC is there, and a hypervisor is. */
static void offer_client_features(const struct accel *accel, struct cpu_model *m)
{
	static const char signature_text[] = "KVMKVMKVM\0\0\0";
	struct kvm_cpuid_entry2 *e;

	table_set(m, find_feature("apic"), true);
	table_set(m, find_feature("hypervisor"), true);
	table_set(m, find_feature("x2apic"), true);
	if (accel_capability(accel, KVM_CAP_TSC_DEADLINE_TIMER))
		table_set(m, find_feature("tsc-deadline"), true);
	if (find_entry(m->entry, m->count, 0x40000000, 0) || m->count + 2 > CPU_MODEL_ENTRIES)
		return;
	e = &m->entry[m->count];
	memset(e, 0, 2 * sizeof(*e));
	e[0].function = 0x40000000;
	e[0].eax = 0x40000001;
	memcpy(&e[0].ebx, signature_text, 4);
	memcpy(&e[0].ecx, signature_text + 4, 4);
	memcpy(&e[0].edx, signature_text + 8, 4);
	e[1].function = 0x40000001; /* no paravirtual feature */
	m->count += 2;
}

/* What a platform, not a core, brings along: offered in `host` whether this host has it or not. */
static bool is_platform_feature(const struct feature *f)
{
	static const char *const names[] = { "hypervisor", "apic", "x2apic", "tsc-deadline",
					     "tsc-adjust", "arat", "invtsc" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(f->name, names[i]))
			return true;
	return f->leaf == 0x40000001;
}

static bool host_has(const struct feature *f)
{
	unsigned regs[4] = { 0 };

	return __get_cpuid_count(f->leaf, f->subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]) &&
	       (regs[f->reg] >> f->bit & 1);
}

/* `host` is this processor: what software can offer beyond it (5-level paging, say) is for `max`. */
static void apply_host(struct cpu_model *m)
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++)
		if (!is_platform_feature(&features[i]) && !host_has(&features[i]))
			table_set(m, &features[i], false);
}

static int choose_model(struct cpu_model *m, const struct accel *accel, const char *name)
{
	/*
	 * Only by name, as in QEMU: a guest that is told that its TSC is invariant takes that for its clock instead of
	 * kvmclock, which follows the host's.
	 */
	table_set(m, find_feature("invtsc"), false);
	if (!strcmp(name, "max"))
		return 0;
	if (!strcmp(name, "host")) {
		if (accel->software)
			apply_host(m);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(model_aliases); i++)
		if (!strcmp(name, model_aliases[i].name))
			name = model_aliases[i].target;
	for (size_t i = 0; i < ARRAY_LEN(models); i++)
		if (!strcmp(name, models[i].name)) {
			apply_named(m, &models[i]);
			return 0;
		}
	unknown("model", name, cpu_model_names());
	return -EINVAL;
}

int cpu_model_create(const struct accel *accel, const char *spec, struct cpu_model *model)
{
	struct cpu_model offered = { 0 };
	char *copy, *word, *rest;
	int err = read_offered(accel, &offered);

	if (err)
		return err;
	copy = strdup(spec);
	if (!copy)
		return -ENOMEM;
	offer_client_features(accel, &offered);
	*model = offered;

	rest = copy;
	word = strsep(&rest, ",");
	err = choose_model(model, accel, word);
	while (!err && (word = strsep(&rest, ",")))
		err = apply_word(model, &offered, accel, word);
	free(copy);
	if (!err)
		trim_xstate(model);
	return err;
}

/* Bits needed to number n things. */
static uint32_t id_bits(unsigned n)
{
	uint32_t bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Leaf 0xb (and 0x1f, where there is one): one thread a core, all cores in one package. */
static void add_extended_topology(struct kvm_cpuid2 *table, uint32_t leaf, unsigned id, unsigned cpus)
{
	for (uint32_t level = 0; level < 3 && table->nent < CPU_MODEL_ENTRIES; level++) {
		struct kvm_cpuid_entry2 *e = &table->entries[table->nent++];

		memset(e, 0, sizeof(*e));
		e->function = leaf;
		e->index = level;
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->eax = level == 1 ? id_bits(cpus) : 0;
		e->ebx = level == 0 ? 1 : level == 1 ? cpus : 0;
		e->ecx = level | (level == 0 ? 0x100 : level == 1 ? 0x200 : 0);
		e->edx = id;
	}
}

void cpu_model_for_vcpu(const struct cpu_model *model, unsigned id, unsigned cpus, struct kvm_cpuid2 *table)
{
	table->nent = 0;
	table->padding = 0;
	for (unsigned i = 0; i < model->count && table->nent < CPU_MODEL_ENTRIES; i++) {
		struct kvm_cpuid_entry2 *e = &table->entries[table->nent];

		*e = model->entry[i];
		if (e->function == 0xb || e->function == 0x1f) {
			if (e->index == 0)
				add_extended_topology(table, e->function, id, cpus);
			continue;
		}
		table->nent++;
		switch (e->function) {
		case 0x1:
			e->ebx = (e->ebx & 0xff00) | id << 24 | (cpus > 1 ? cpus << 16 : 0);
			if (cpus > 1)
				e->edx |= UINT32_C(1) << 28;
			else
				e->edx &= ~(UINT32_C(1) << 28);
			break;
		case 0x4: /* cores per package; sharing of each cache: its own core */
			if (e->eax & 31)
				e->eax = (e->eax & 0x3fff) | ((1u << id_bits(cpus)) - 1) << 26;
			break;
		case 0x80000008: e->ecx = cpus > 1 ? id_bits(cpus) << 12 | (cpus - 1) : 0; break;
		case 0x8000001e:
			e->eax = id;
			e->ebx = id;
			e->ecx = 0;
			break;
		default: break;
		}
	}
}
