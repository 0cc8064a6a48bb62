/* SPDX-License-Identifier: Apache-2.0 */
#include "core/sync.h"

#include <sched.h>

#include "core/ticker.h"
#include "core/vm.h"

void vm_sync_init(struct vm *vm)
{
	pthread_mutex_init(&vm->sync.lock, NULL);
	pthread_cond_init(&vm->sync.cond, NULL);
}

void vm_sync_fini(struct vm *vm)
{
	pthread_cond_destroy(&vm->sync.cond);
	pthread_mutex_destroy(&vm->sync.lock);
}

static tz_cold void wait_for_exclusive_end(struct vcpu *vcpu)
{
	struct vm_sync *sync = &vcpu->vm->sync;

	pthread_mutex_lock(&sync->lock);
	atomic_store(&vcpu->where, VCPU_OUTSIDE);
	pthread_cond_broadcast(&sync->cond);
	while (atomic_load(&sync->exclusive))
		pthread_cond_wait(&sync->cond, &sync->lock);
	pthread_mutex_unlock(&sync->lock);
}

void vcpu_enter(struct vcpu *vcpu)
{
	for (;;) {
		/* Only this thread writes epoch. */
		atomic_store_explicit(&vcpu->epoch, vcpu->epoch + 1, memory_order_relaxed);
		atomic_store(&vcpu->where, VCPU_IN_ENGINE);
		if (likely(!atomic_load(&vcpu->vm->sync.exclusive)))
			break;
		wait_for_exclusive_end(vcpu);
	}
	atomic_store_explicit(&vcpu->host_cpu, sched_getcpu(), memory_order_relaxed);
	ticker_poke();
}

void vcpu_leave(struct vcpu *vcpu)
{
	struct vm_sync *sync = &vcpu->vm->sync;

	/* An exclusive section that was left by an unwinding ends here. */
	if (unlikely(atomic_load_explicit(&sync->exclusive, memory_order_relaxed) == vcpu))
		vcpu_exclusive_end(vcpu);
	atomic_store(&vcpu->where, VCPU_OUTSIDE);
	if (unlikely(atomic_load(&sync->waiters))) {
		pthread_mutex_lock(&sync->lock);
		pthread_cond_broadcast(&sync->cond);
		pthread_mutex_unlock(&sync->lock);
	}
}

static unsigned vcpu_limit(const struct vm *vm)
{
	return atomic_load(&vm->vcpu_limit);
}

void vm_sync_vcpus(struct vm *vm)
{
	struct vm_sync *sync = &vm->sync;

	pthread_mutex_lock(&sync->lock);
	atomic_fetch_add(&sync->waiters, 1);
	for (unsigned i = 0; i < vcpu_limit(vm); i++) {
		struct vcpu *v = atomic_load(&vm->vcpu[i]);
		uint64_t epoch;

		if (!v)
			continue;
		atomic_store(&v->invalidate, true);
		x86_cpu_attention(&v->cpu, X86_ATT_TLB_FLUSH);
		epoch = atomic_load(&v->epoch);
		while (atomic_load(&v->where) != VCPU_OUTSIDE && atomic_load(&v->epoch) == epoch) {
			/* Only now: it clears the bit outside, so one set earlier could be lost. */
			x86_cpu_attention(&v->cpu, X86_ATT_EXIT);
			pthread_cond_wait(&sync->cond, &sync->lock);
		}
	}
	atomic_fetch_sub(&sync->waiters, 1);
	pthread_mutex_unlock(&sync->lock);
}

static bool others_stopped(struct vcpu *self)
{
	bool stopped = true;

	for (unsigned i = 0; i < vcpu_limit(self->vm); i++) {
		struct vcpu *v = atomic_load(&self->vm->vcpu[i]);

		if (v && v != self && atomic_load(&v->where) == VCPU_IN_ENGINE) {
			x86_cpu_attention(&v->cpu, X86_ATT_EXIT);
			stopped = false;
		}
	}
	return stopped;
}

void vcpu_exclusive_begin(struct vcpu *vcpu)
{
	struct vm_sync *sync = &vcpu->vm->sync;

	pthread_mutex_lock(&sync->lock);
	/* While it waits it counts as stopped: two that want exclusivity must not wait for each other. */
	atomic_store(&vcpu->where, VCPU_WAITING);
	pthread_cond_broadcast(&sync->cond);
	while (atomic_load(&sync->exclusive))
		pthread_cond_wait(&sync->cond, &sync->lock);
	atomic_store(&sync->exclusive, vcpu);
	atomic_fetch_add(&sync->waiters, 1);
	while (!others_stopped(vcpu))
		pthread_cond_wait(&sync->cond, &sync->lock);
	atomic_fetch_sub(&sync->waiters, 1);
	atomic_store(&vcpu->where, VCPU_IN_ENGINE);
	pthread_mutex_unlock(&sync->lock);
}

void vcpu_exclusive_end(struct vcpu *vcpu)
{
	struct vm_sync *sync = &vcpu->vm->sync;

	pthread_mutex_lock(&sync->lock);
	if (atomic_load(&sync->exclusive) == vcpu) {
		atomic_store(&sync->exclusive, NULL);
		pthread_cond_broadcast(&sync->cond);
	}
	pthread_mutex_unlock(&sync->lock);
}

/*
 * What hardware does by pause-loop exiting (SDM 3C 25.1.3): without it a vCPU may wait for the end of its time slice
 * for a word that another one would write, were it not queued behind the first. That one is inside its engine and was
 * last seen on this processor, where it cannot be running. To give way to anybody else would only make the wait longer.
 */
void vcpu_spinning(struct vcpu *self)
{
	int cpu = sched_getcpu();

	atomic_store_explicit(&self->host_cpu, cpu, memory_order_relaxed);
	for (unsigned i = 0; i < vcpu_limit(self->vm); i++) {
		struct vcpu *v = atomic_load(&self->vm->vcpu[i]);

		if (v && v != self && atomic_load_explicit(&v->where, memory_order_relaxed) == VCPU_IN_ENGINE &&
		    atomic_load_explicit(&v->host_cpu, memory_order_relaxed) == cpu) {
			STAT_INC(&self->cpu, YIELDS);
			sched_yield();
			return;
		}
	}
}
