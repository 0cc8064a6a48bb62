/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ticker.h"

#include <pthread.h>
#include <time.h>

#include "core/thread.h"
#include "core/vcpu.h"

_Atomic bool ticker_asleep;

static struct {
	pthread_mutex_t config; /* held over attach and detach as a whole: start and end of the thread */
	pthread_mutex_t lock;   /* the rest; taken inside `config` */
	pthread_cond_t cond;
	pthread_t thread;
	struct vcpu *first;
	bool stop;
} ticker = {
	.config = PTHREAD_MUTEX_INITIALIZER,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.cond = PTHREAD_COND_INITIALIZER,
};

/* Nudge who runs; true if anybody ran since the last look. Called with the lock held. */
static bool nudge_running(void)
{
	bool any = false;

	for (struct vcpu *v = ticker.first; v; v = v->ticker_next) {
		uint64_t epoch = atomic_load(&v->epoch);

		if (atomic_load(&v->where) == VCPU_IN_ENGINE) {
			x86_cpu_attention(&v->cpu, X86_ATT_EXIT);
			any = true;
		}
		any |= epoch != v->ticker_epoch;
		v->ticker_epoch = epoch;
	}
	return any;
}

static void sleep_period(void)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += TICKER_PERIOD_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_clockwait(&ticker.cond, &ticker.lock, CLOCK_MONOTONIC, &until);
}

static void *ticker_thread(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&ticker.lock);
	while (!ticker.stop) {
		sleep_period();
		if (nudge_running())
			continue;
		/* Say so first, then look again: who enters after the look sees the flag and wakes us. */
		atomic_store(&ticker_asleep, true);
		while (!ticker.stop && atomic_load(&ticker_asleep) && !nudge_running())
			pthread_cond_wait(&ticker.cond, &ticker.lock);
		atomic_store(&ticker_asleep, false);
	}
	pthread_mutex_unlock(&ticker.lock);
	return NULL;
}

void ticker_wake(void)
{
	pthread_mutex_lock(&ticker.lock);
	if (atomic_exchange(&ticker_asleep, false))
		pthread_cond_signal(&ticker.cond);
	pthread_mutex_unlock(&ticker.lock);
}

int ticker_attach(struct vcpu *vcpu)
{
	int err = 0;

	pthread_mutex_lock(&ticker.config);
	pthread_mutex_lock(&ticker.lock);
	if (!ticker.first) {
		ticker.stop = false;
		err = thread_create(&ticker.thread, "trapeze-ticker", ticker_thread, NULL);
	}
	if (!err) {
		vcpu->ticker_next = ticker.first;
		ticker.first = vcpu;
	}
	pthread_mutex_unlock(&ticker.lock);
	pthread_mutex_unlock(&ticker.config);
	return err;
}

void ticker_detach(struct vcpu *vcpu)
{
	bool last;

	pthread_mutex_lock(&ticker.config);
	pthread_mutex_lock(&ticker.lock);
	for (struct vcpu **p = &ticker.first; *p; p = &(*p)->ticker_next) {
		if (*p == vcpu) {
			*p = vcpu->ticker_next;
			break;
		}
	}
	last = !ticker.first;
	ticker.stop = last;
	if (last)
		pthread_cond_signal(&ticker.cond);
	pthread_mutex_unlock(&ticker.lock);
	if (last)
		pthread_join(ticker.thread, NULL);
	pthread_mutex_unlock(&ticker.config);
}
