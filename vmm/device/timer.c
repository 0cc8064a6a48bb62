/* SPDX-License-Identifier: Apache-2.0 */
#include "device/timer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define STEPPED_START_NS NS_PER_SEC
#define STEPPED_START_WALL (UINT64_C(946684800) * NS_PER_SEC)

struct timer_service {
	pthread_mutex_t lock; /* the list, deadlines, stop */
	pthread_cond_t changed;
	struct device_timer *timers;
	pthread_t thread;
	bool stop;
	bool stepped;
	_Atomic uint64_t stepped_now;
	_Atomic uint64_t held_at; /* timer_now() since it has been held; 0: it runs */
	_Atomic uint64_t behind;  /* how much it has been held so far */
};

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t timer_now(const struct timer_service *service)
{
	uint64_t held_at = atomic_load(&service->held_at);

	if (service->stepped)
		return atomic_load(&service->stepped_now);
	return held_at ? held_at : clock_ns(CLOCK_MONOTONIC) - atomic_load(&service->behind);
}

/* vCPUs do not run: nobody but the service's thread looks at the clock meanwhile. */
void timer_service_hold(struct timer_service *service, bool on)
{
	uint64_t held_at = atomic_load(&service->held_at);

	if (service->stepped || on == !!held_at)
		return;
	pthread_mutex_lock(&service->lock);
	if (on) {
		atomic_store(&service->held_at, timer_now(service));
	} else {
		atomic_store(&service->behind, clock_ns(CLOCK_MONOTONIC) - held_at);
		atomic_store(&service->held_at, 0);
	}
	pthread_cond_signal(&service->changed);
	pthread_mutex_unlock(&service->lock);
}

uint64_t timer_wall(const struct timer_service *service)
{
	if (service->stepped)
		return STEPPED_START_WALL + atomic_load(&service->stepped_now) - STEPPED_START_NS;
	return clock_ns(CLOCK_REALTIME);
}

/* The armed timer with the earliest deadline, or NULL. Service locked. */
static struct device_timer *earliest(struct timer_service *service)
{
	struct device_timer *best = NULL;

	for (struct device_timer *t = service->timers; t; t = t->next)
		if (t->deadline && (!best || t->deadline < best->deadline))
			best = t;
	return best;
}

/* Service locked; drops the lock around the callback (lock order: device, then service). */
static void fire(struct timer_service *service, struct device_timer *timer)
{
	timer->deadline = 0;
	pthread_mutex_unlock(&service->lock);
	device_lock(timer->dev);
	timer->expired(timer->dev);
	device_unlock(timer->dev);
	pthread_mutex_lock(&service->lock);
}

static void *service_main(void *arg)
{
	struct timer_service *service = arg;

	pthread_mutex_lock(&service->lock);
	while (!service->stop) {
		struct device_timer *timer = earliest(service);

		if (!timer || atomic_load(&service->held_at)) {
			pthread_cond_wait(&service->changed, &service->lock);
		} else if (timer->deadline <= timer_now(service)) {
			fire(service, timer);
		} else {
			uint64_t at = timer->deadline + atomic_load(&service->behind);
			struct timespec ts = { .tv_sec = (time_t)(at / NS_PER_SEC),
					       .tv_nsec = (long)(at % NS_PER_SEC) };

			pthread_cond_timedwait(&service->changed, &service->lock, &ts);
		}
	}
	pthread_mutex_unlock(&service->lock);
	return NULL;
}

static struct timer_service *service_alloc(bool stepped)
{
	struct timer_service *service = calloc(1, sizeof(*service));
	pthread_condattr_t attr;

	if (!service)
		return NULL;
	service->stepped = stepped;
	atomic_init(&service->stepped_now, STEPPED_START_NS);
	pthread_mutex_init(&service->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&service->changed, &attr);
	pthread_condattr_destroy(&attr);
	return service;
}

static void service_free(struct timer_service *service)
{
	pthread_cond_destroy(&service->changed);
	pthread_mutex_destroy(&service->lock);
	free(service);
}

struct timer_service *timer_service_create(void)
{
	struct timer_service *service = service_alloc(false);
	sigset_t all, old;
	int err;

	if (!service)
		return NULL;
	/* The process's signals belong to its other threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&service->thread, NULL, service_main, service);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		service_free(service);
		errno = err;
		return NULL;
	}
	return service;
}

struct timer_service *timer_service_create_stepped(void)
{
	return service_alloc(true);
}

void timer_service_destroy(struct timer_service *service)
{
	if (!service)
		return;
	if (!service->stepped) {
		pthread_mutex_lock(&service->lock);
		service->stop = true;
		pthread_cond_signal(&service->changed);
		pthread_mutex_unlock(&service->lock);
		pthread_join(service->thread, NULL);
	}
	service_free(service);
}

void timer_service_step(struct timer_service *service, uint64_t ns)
{
	uint64_t end = timer_now(service) + ns;
	struct device_timer *timer;

	pthread_mutex_lock(&service->lock);
	while ((timer = earliest(service)) && timer->deadline <= end) {
		if (timer->deadline > timer_now(service))
			atomic_store(&service->stepped_now, timer->deadline);
		fire(service, timer);
	}
	atomic_store(&service->stepped_now, end);
	pthread_mutex_unlock(&service->lock);
}

void timer_init(struct device_timer *timer, struct timer_service *service, struct device *dev,
		void (*expired)(struct device *dev))
{
	timer->service = service;
	timer->dev = dev;
	timer->expired = expired;
	timer->deadline = 0;
	pthread_mutex_lock(&service->lock);
	timer->next = service->timers;
	service->timers = timer;
	pthread_mutex_unlock(&service->lock);
}

void timer_arm(struct device_timer *timer, uint64_t deadline)
{
	struct timer_service *service = timer->service;

	pthread_mutex_lock(&service->lock);
	if (timer->deadline != deadline) {
		timer->deadline = deadline ? deadline : 1;
		pthread_cond_signal(&service->changed);
	}
	pthread_mutex_unlock(&service->lock);
}

void timer_disarm(struct device_timer *timer)
{
	pthread_mutex_lock(&timer->service->lock);
	timer->deadline = 0; /* the thread may wake once for nothing */
	pthread_mutex_unlock(&timer->service->lock);
}
