/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ticker.h"

#include <errno.h>
#include <pthread.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/thread.h"
#include "core/vcpu.h"

_Atomic bool ticker_asleep;

static struct {
	pthread_mutex_t config; /* held over attach and detach as a whole: start and end of the thread */
	pthread_mutex_t lock;   /* `first`, and who sets the alarm; taken inside `config` */
	pthread_t thread;
	struct vcpu *first;
	int fd;            /* timerfd, one shot; open while there is a vCPU */
	_Atomic bool stop; /* written before the last shot */
} ticker = {
	.config = PTHREAD_MUTEX_INITIALIZER,
	.lock = PTHREAD_MUTEX_INITIALIZER,
};

static void arm(long ns)
{
	const struct itimerspec spec = { .it_value.tv_nsec = ns };

	timerfd_settime(ticker.fd, 0, &spec, NULL);
}

/* A thread that waits for another one to execute guest code sees its signals by itself: seldom is enough. */
#define SELDOM 4

static bool runs(struct vcpu *v)
{
	return atomic_load(&v->where) == VCPU_IN_ENGINE;
}

/* Called with the lock held. */
static bool anybody_runs(void)
{
	for (struct vcpu *v = ticker.first; v; v = v->ticker_next)
		if (runs(v))
			return true;
	return false;
}

/* Nudge who runs; true if anybody does. */
static bool nudge_running(void)
{
	static unsigned turn;
	bool any = false;

	turn++;
	pthread_mutex_lock(&ticker.lock);
	for (struct vcpu *v = ticker.first; v; v = v->ticker_next)
		if (runs(v)) {
			if (!atomic_load(&v->cpu.interrupt) || turn % SELDOM == 0)
				x86_cpu_attention(&v->cpu, X86_ATT_EXIT);
			any = true;
		}
	pthread_mutex_unlock(&ticker.lock);
	return any;
}

static void *ticker_thread(void *arg)
{
	uint64_t shots;

	(void)arg;
	while (!atomic_load(&ticker.stop)) {
		if (read(ticker.fd, &shots, sizeof(shots)) < 0)
			continue; /* EINTR */
		/* Say so first, then look: who enters after the look sees the flag and arms the timer. */
		atomic_store(&ticker_asleep, true);
		if (nudge_running())
			ticker_poke();
	}
	return NULL;
}

/* Called with the lock held, which keeps the alarm in step with the flag. */
static void set_alarm(void)
{
	if (atomic_exchange(&ticker_asleep, false))
		arm(TICKER_PERIOD_NS);
}

void ticker_wake(void)
{
	pthread_mutex_lock(&ticker.lock);
	set_alarm();
	pthread_mutex_unlock(&ticker.lock);
}

void ticker_rest(void)
{
	if (atomic_load(&ticker_asleep))
		return;
	pthread_mutex_lock(&ticker.lock);
	if (!anybody_runs()) {
		/* As the thread does: who enters after the second look finds the flag, and waits for the lock. */
		atomic_store(&ticker_asleep, true);
		if (anybody_runs())
			set_alarm();
		else
			arm(0);
	}
	pthread_mutex_unlock(&ticker.lock);
}

static int start(void)
{
	int err;

	ticker.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (ticker.fd < 0)
		return -errno;
	atomic_store(&ticker.stop, false);
	atomic_store(&ticker_asleep, true);
	err = thread_create(&ticker.thread, "trapeze-ticker", ticker_thread, NULL);
	if (err)
		close(ticker.fd);
	return err;
}

int ticker_attach(struct vcpu *vcpu)
{
	int err = 0;

	pthread_mutex_lock(&ticker.config);
	if (!ticker.first)
		err = start();
	if (!err) {
		pthread_mutex_lock(&ticker.lock);
		vcpu->ticker_next = ticker.first;
		ticker.first = vcpu;
		pthread_mutex_unlock(&ticker.lock);
	}
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
	pthread_mutex_unlock(&ticker.lock);
	if (last) {
		/* No vCPU runs that could arm the timer again. */
		atomic_store(&ticker.stop, true);
		arm(1);
		pthread_join(ticker.thread, NULL);
		close(ticker.fd);
	}
	pthread_mutex_unlock(&ticker.config);
}
