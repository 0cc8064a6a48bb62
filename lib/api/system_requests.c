/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of the system handle: what open("/dev/kvm") gives. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/handle.h"
#include "x86/control.h"
#include "x86/cpuid.h"

static int get_api_version(const struct call *c)
{
	(void)c;
	return KVM_API_VERSION;
}

static int create_vm(const struct call *c)
{
	struct vm *vm;
	int fd, err;

	if (c->arg) /* the one machine type of x86 without protected VMs */
		return -EINVAL;
	fd = handle_descriptor("trapeze-vm");
	if (fd < 0)
		return fd;
	err = vm_create(c->engine, &vm);
	if (err) {
		close(fd);
		return err;
	}
	vm->code_cache_size = c->code_cache_size;
	vm->count_insns = c->count_insns;
	err = handle_install(fd, HANDLE_VM, NULL, vm, NULL);
	if (err) {
		close(fd);
		vm_put(vm);
		return err;
	}
	return fd;
}

static int get_vcpu_mmap_size(const struct call *c)
{
	(void)c;
	return VCPU_RUN_SIZE;
}

int cpuid_to_client(struct kvm_cpuid2 *out, const struct x86_cpuid_entry *entry, unsigned count)
{
	if (out->nent < count)
		return -E2BIG;
	out->nent = count;
	for (unsigned i = 0; i < count; i++) {
		const struct x86_cpuid_entry *e = &entry[i];

		out->entries[i] = (struct kvm_cpuid_entry2){
			.function = e->leaf,
			.index = e->subleaf,
			.flags = e->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = e->eax,
			.ebx = e->ebx,
			.ecx = e->ecx,
			.edx = e->edx,
		};
	}
	return 0;
}

static int get_supported_cpuid(const struct call *c)
{
	struct x86_cpuid_entry entry[X86_CPUID_MAX];
	unsigned count = x86_cpuid_supported(entry, X86_CPUID_MAX);

	return cpuid_to_client(c->ptr, entry, count);
}

/* Everything supported is as good as native: nothing is "only emulated". */
static int get_emulated_cpuid(const struct call *c)
{
	return cpuid_to_client(c->ptr, NULL, 0);
}

static int list_to_client(struct kvm_msr_list *list, const uint32_t *index, unsigned count)
{
	unsigned room = list->nmsrs;

	list->nmsrs = count;
	if (room < count)
		return -E2BIG;
	memcpy(list->indices, index, count * sizeof(*index));
	return 0;
}

#define MSR_LIST_MAX 1024

static int get_msr_index_list(const struct call *c)
{
	uint32_t index[MSR_LIST_MAX];
	unsigned count = x86_msr_list(index, MSR_LIST_MAX);

	return list_to_client(c->ptr, index, count < MSR_LIST_MAX ? count : MSR_LIST_MAX);
}

static int get_msr_feature_index_list(const struct call *c)
{
	uint32_t index[MSR_LIST_MAX];
	unsigned count = x86_msr_feature_list(index, MSR_LIST_MAX);

	return list_to_client(c->ptr, index, count < MSR_LIST_MAX ? count : MSR_LIST_MAX);
}

/* Returns how many of the client's it could read, up to the first it could not. */
static int get_feature_msrs(const struct call *c)
{
	struct kvm_msrs *msrs = c->ptr;
	unsigned n;

	if (msrs->nmsrs > MSRS_PER_CALL)
		return -E2BIG;
	for (n = 0; n < msrs->nmsrs; n++) {
		uint64_t value;

		if (!x86_msr_feature(msrs->entries[n].index, &value))
			break;
		msrs->entries[n].data = value;
	}
	return (int)n;
}

static const struct request rows[] = {
	REQUEST(KVM_GET_API_VERSION, ARG_NONE, get_api_version),
	REQUEST(KVM_CREATE_VM, ARG_VALUE, create_vm),
	REQUEST(KVM_CHECK_EXTENSION, ARG_VALUE, check_extension),
	REQUEST(KVM_GET_VCPU_MMAP_SIZE, ARG_NONE, get_vcpu_mmap_size),
	REQUEST(KVM_GET_SUPPORTED_CPUID, ARG_PTR, get_supported_cpuid),
	REQUEST(KVM_GET_EMULATED_CPUID, ARG_PTR, get_emulated_cpuid),
	REQUEST(KVM_GET_MSR_INDEX_LIST, ARG_PTR, get_msr_index_list),
	REQUEST(KVM_GET_MSR_FEATURE_INDEX_LIST, ARG_PTR, get_msr_feature_index_list),
	REQUEST(KVM_GET_MSRS, ARG_PTR, get_feature_msrs),
};

const struct request_table system_requests = { rows, ARRAY_SIZE(rows) };
