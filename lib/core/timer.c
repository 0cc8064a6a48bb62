/* SPDX-License-Identifier: Apache-2.0 */
#include "core/timer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/thread.h"

#define NS_PER_SEC UINT64_C(1000000000)

/* Called with the lock held. */
static void program(struct vm_timers *t, uint64_t deadline)
{
	struct itimerspec spec = { 0 };

	t->programmed = deadline;
	if (deadline == UINT64_MAX)
		deadline = 0; /* disarms */
	else if (!deadline)
		deadline = 1;
	spec.it_value.tv_sec = (time_t)(deadline / NS_PER_SEC);
	spec.it_value.tv_nsec = (long)(deadline % NS_PER_SEC);
	timerfd_settime(t->fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* The earliest deadline of those that nobody else waits for. */
static uint64_t earliest(const struct vm_timers *t)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < t->limit; i++)
		if (!t->timer[i].lent && t->timer[i].deadline < next)
			next = t->timer[i].deadline;
	return next;
}

/* The number of one timer that is due, or -1. Disarms what it returns. */
static int take_expired(struct vm_timers *t, unsigned from, uint64_t now)
{
	for (unsigned n = 0; n < t->limit; n++) {
		unsigned i = (from + n) % t->limit; /* round robin: a busy timer must not starve the rest */

		if (!t->timer[i].lent && t->timer[i].deadline <= now) {
			t->timer[i].deadline = UINT64_MAX;
			return (int)i;
		}
	}
	return -1;
}

static void *timer_thread(void *arg)
{
	struct vm_timers *t = arg;
	unsigned from = 0;
	uint64_t ticks;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		int due = take_expired(t, from, clock_monotonic_ns());

		if (due >= 0) {
			from = (unsigned)due + 1;
			pthread_mutex_unlock(&t->lock);
			t->expired(t->ctx, (unsigned)due);
		} else {
			program(t, earliest(t));
			pthread_mutex_unlock(&t->lock);
			while (read(t->fd, &ticks, sizeof(ticks)) < 0 && errno == EINTR)
				;
		}
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int timers_start(struct vm_timers *t, unsigned count, timer_expired_fn *expired, void *ctx)
{
	int err;

	memset(t, 0, sizeof(*t));
	t->count = count;
	t->expired = expired;
	t->ctx = ctx;
	t->programmed = UINT64_MAX;
	t->timer = malloc(count * sizeof(*t->timer));
	if (!t->timer)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++)
		t->timer[i] = (struct vm_timer){ .deadline = UINT64_MAX };
	t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (t->fd < 0) {
		err = -errno;
		free(t->timer);
		t->timer = NULL; /* nothing for timers_fini() */
		return err;
	}
	pthread_mutex_init(&t->lock, NULL);
	err = thread_create(&t->thread, "trapeze-timer", timer_thread, t);
	t->running = !err;
	if (err)
		timers_fini(t);
	return err;
}

void timers_stop(struct vm_timers *t)
{
	if (!t->running)
		return;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	program(t, 0);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	t->running = false;
}

void timers_fini(struct vm_timers *t)
{
	if (!t->timer)
		return;
	timers_stop(t);
	close(t->fd);
	pthread_mutex_destroy(&t->lock);
	free(t->timer);
	t->timer = NULL;
}

bool timers_arm(struct vm_timers *t, unsigned timer, uint64_t deadline_ns)
{
	bool hurry;

	if (timer >= t->count)
		return false;
	pthread_mutex_lock(&t->lock);
	hurry = t->timer[timer].lent && deadline_ns < t->timer[timer].deadline;
	t->timer[timer].deadline = deadline_ns;
	if (timer >= t->limit)
		t->limit = timer + 1;
	if (!t->timer[timer].lent && deadline_ns < t->programmed && !t->stop)
		program(t, deadline_ns);
	pthread_mutex_unlock(&t->lock);
	return hurry;
}

void timers_lend(struct vm_timers *t, unsigned timer)
{
	uint64_t next;

	pthread_mutex_lock(&t->lock);
	t->timer[timer].lent = true;
	/* The thread is not to wake for this one, nor for what a timer was set to before. */
	next = earliest(t);
	if (next > t->programmed && !t->stop)
		program(t, next);
	pthread_mutex_unlock(&t->lock);
}

uint64_t timers_take(struct vm_timers *t, unsigned timer)
{
	uint64_t deadline;

	pthread_mutex_lock(&t->lock);
	deadline = t->timer[timer].deadline;
	if (deadline != UINT64_MAX && deadline <= clock_monotonic_ns()) {
		t->timer[timer].deadline = UINT64_MAX;
		deadline = 0;
	}
	pthread_mutex_unlock(&t->lock);
	return deadline;
}

void timers_return(struct vm_timers *t, unsigned timer)
{
	pthread_mutex_lock(&t->lock);
	t->timer[timer].lent = false;
	if (t->timer[timer].deadline < t->programmed && !t->stop)
		program(t, t->timer[timer].deadline);
	pthread_mutex_unlock(&t->lock);
}
