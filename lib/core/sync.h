/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who runs, and how to stop them. A vCPU's `where` says if it is inside an engine; it is written by its own
 * thread alone. Others wait for it to change:
 *
 *  - vm_sync_vcpus(): until each vCPU has passed an instruction boundary outside its engine and will flush its TLB
 *    before it executes again. Afterwards nobody uses what was published before (memory maps).
 *  - exclusive sections: the owner runs alone; the others are outside their engines or wait for exclusivity
 *    themselves, which they ask for before they commit anything.
 *
 * Both sides of each hand-shake write their own word before they read the other's, sequentially consistent.
 */
#ifndef TZ_CORE_SYNC_H
#define TZ_CORE_SYNC_H

#include <pthread.h>
#include <stdatomic.h>

struct vm;
struct vcpu;

struct vm_sync {
	pthread_mutex_t lock;
	pthread_cond_t cond;            /* a vCPU's `where` changed while somebody waited, or exclusivity ended */
	_Atomic unsigned waiters;       /* threads that want to hear when a vCPU leaves its engine */
	struct vcpu *_Atomic exclusive; /* owner; written with the lock held */
};

void vm_sync_init(struct vm *vm);
void vm_sync_fini(struct vm *vm);

/* Around every use of an engine or of guest memory by a vCPU's requests. Not recursive. Thread: the vCPU's own. */
void vcpu_enter(struct vcpu *vcpu);
void vcpu_leave(struct vcpu *vcpu);

/* Thread: any that is not between vcpu_enter() and vcpu_leave(). */
void vm_sync_vcpus(struct vm *vm);

/* Thread: the vCPU's own, inside its engine, no lock held. */
void vcpu_exclusive_begin(struct vcpu *vcpu);
void vcpu_exclusive_end(struct vcpu *vcpu);

/* The guest waits in a loop: another vCPU that waits for this very processor gets it. Thread: as above. */
void vcpu_spinning(struct vcpu *vcpu);

#endif
