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

/* Called with the lock held. The kernel's timer is only ever moved earlier here; the thread moves it later. */
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

/* The number of one timer that is due, or -1 with *next the earliest deadline. Disarms what it returns. */
static int take_expired(struct vm_timers *t, unsigned from, uint64_t now, uint64_t *next)
{
	*next = UINT64_MAX;
	for (unsigned n = 0; n < t->limit; n++) {
		unsigned i = (from + n) % t->limit; /* round robin: a busy timer must not starve the rest */

		if (t->deadline[i] <= now) {
			t->deadline[i] = UINT64_MAX;
			return (int)i;
		}
		if (t->deadline[i] < *next)
			*next = t->deadline[i];
	}
	return -1;
}

static void *timer_thread(void *arg)
{
	struct vm_timers *t = arg;
	unsigned from = 0;
	uint64_t next, ticks;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		int due = take_expired(t, from, clock_monotonic_ns(), &next);

		if (due >= 0) {
			from = (unsigned)due + 1;
			pthread_mutex_unlock(&t->lock);
			t->expired(t->ctx, (unsigned)due);
		} else {
			program(t, next);
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
	t->deadline = malloc(count * sizeof(*t->deadline));
	if (!t->deadline)
		return -ENOMEM;
	memset(t->deadline, 0xff, count * sizeof(*t->deadline));
	t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (t->fd < 0) {
		err = -errno;
		free(t->deadline);
		t->deadline = NULL; /* nothing for timers_fini() */
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
	if (!t->deadline)
		return;
	timers_stop(t);
	close(t->fd);
	pthread_mutex_destroy(&t->lock);
	free(t->deadline);
	t->deadline = NULL;
}

void timers_arm(struct vm_timers *t, unsigned timer, uint64_t deadline_ns)
{
	if (timer >= t->count)
		return;
	pthread_mutex_lock(&t->lock);
	t->deadline[timer] = deadline_ns;
	if (timer >= t->limit)
		t->limit = timer + 1;
	if (deadline_ns < t->programmed && !t->stop)
		program(t, deadline_ns);
	pthread_mutex_unlock(&t->lock);
}
