/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handles: which file descriptors of this process are ours, and what they stand for. One table a process,
 * indexed by descriptor. A handle lives until it is closed and the last call on it has returned, so closing one
 * under a thread that is in KVM_RUN is safe.
 */
#ifndef TZ_API_HANDLE_H
#define TZ_API_HANDLE_H

#include <stdatomic.h>

#include "core/vm.h"

enum handle_kind { HANDLE_SYSTEM, HANDLE_VM, HANDLE_VCPU };

struct handle {
	enum handle_kind kind;
	_Atomic unsigned refs;
	const struct tz_engine_ops *engine; /* system */
	_Atomic uint64_t code_cache_size;   /* system: of VMs to come */
	_Atomic uint64_t count_insns;       /* likewise */
	struct vm *vm;                      /* VM, vCPU: holds a reference */
	struct vcpu *vcpu;                  /* lives as long as its VM */
};

/*
 * Make `fd` a handle of this kind (takes over one reference to vm). 0, -ENOMEM. Whatever the table
 * still had there was closed behind our back with close(2) and is dropped.
 */
int handle_install(int fd, enum handle_kind kind, const struct tz_engine_ops *engine, struct vm *vm, struct vcpu *vcpu);

struct handle *handle_get(int fd); /* NULL: not one of ours */
void handle_put(struct handle *h);

/* Take it out of the table and close the descriptor. -EBADF. */
int handle_close(int fd);

/* An anonymous descriptor to be a handle. -EMFILE ... */
int handle_descriptor(const char *name);

#endif
