/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM API: requests are rows of tables, one table a kind of handle, one small function a request.
 * To add one: write the function, add the row, and the capability in capability.c.
 */
#ifndef TZ_API_API_H
#define TZ_API_API_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/vm.h"

/* What a request gets. ptr is set for requests that take a pointer; it is the client's memory. */
struct call {
	const struct tz_engine_ops *engine; /* system handles */
	uint64_t code_cache_size;           /* system handles: tz_set_option() */
	bool count_insns;                   /* likewise */
	struct vm *vm;                      /* VM and vCPU handles */
	struct vcpu *vcpu;                  /* vCPU handles */
	unsigned long arg;
	void *ptr;
};

enum arg_kind {
	ARG_NONE,    /* must be 0: EINVAL */
	ARG_VALUE,   /* a number */
	ARG_PTR,     /* NULL: EFAULT */
	ARG_PTR_OPT, /* may be NULL */
};

/* Returns what ioctl(2) returns, or -errno. */
typedef int serve_fn(const struct call *c);

struct request {
	unsigned long number;
	const char *name;
	enum arg_kind arg;
	serve_fn *serve;
};
#define REQUEST(number, arg, serve)                                                                                    \
	{                                                                                                              \
		number, #number, arg, serve                                                                            \
	}

struct request_table {
	const struct request *row;
	size_t count;
};

extern const struct request_table system_requests, vm_requests, vcpu_requests;

/* KVM_GET/SET_MSRS take no more at once (the kernel's MAX_IO_MSRS). */
#define MSRS_PER_CALL 256

/* KVM_CHECK_EXTENSION: the same answer on every handle. */
int check_extension(const struct call *c);
int enable_cap(const struct call *c); /* KVM_ENABLE_CAP, on a VM or vCPU */

/* KVM_GET_SUPPORTED_CPUID and KVM_GET_CPUID2 share the layout of the answer. -E2BIG: the client's array is too short.
 */
struct x86_cpuid_entry;
int cpuid_to_client(struct kvm_cpuid2 *out, const struct x86_cpuid_entry *entry, unsigned count);

#endif
