/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --cpu MODEL[,+feature|-feature|name=value…] to the CPUID table of each vCPU. `host` is this
 * processor as far as the accelerator offers it, `max` all that it offers; the named models are QEMU's
 * (cpu_models.def), cut down to what the accelerator offers; a feature asked for by name that it does not offer is
 * refused by name.
 */
#ifndef VMM_MACHINE_CPU_MODEL_H
#define VMM_MACHINE_CPU_MODEL_H

#include <linux/kvm.h>

#include "machine/accel.h"

#define CPU_MODEL_ENTRIES 160

struct cpu_model {
	bool phys_bits_given; /* phys-bits=: it is as the user wants it */
	unsigned count;
	struct kvm_cpuid_entry2 entry[CPU_MODEL_ENTRIES];
};

/* 0, or -EINVAL with a message on stderr that names the word at fault. */
int cpu_model_create(const struct accel *accel, const char *spec, struct cpu_model *model);

/*
 * The table for vCPU `id` of `cpus`: topology (one package, a core each) put in.
 * `table` must have room for CPU_MODEL_ENTRIES entries.
 */
void cpu_model_for_vcpu(const struct cpu_model *model, unsigned id, unsigned cpus, struct kvm_cpuid2 *table);

/* Does the model offer this feature (a name of cpu_features.def)? */
bool cpu_model_has(const struct cpu_model *model, const char *feature);

/* Width of a guest physical address in bits (CPUID 0x80000008; 36 where the model has no such leaf). */
unsigned cpu_model_phys_bits(const struct cpu_model *model);
/* At most so many, unless the user has said how many. */
void cpu_model_limit_phys_bits(struct cpu_model *model, unsigned bits);

/* Model names, NULL-terminated, for --cpu help. */
const char *const *cpu_model_names(void);

#endif
