/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The timers of one VM: a few hundred numbered one-shot deadlines on CLOCK_MONOTONIC and one thread
 * that calls back when one has passed. What they mean is the irqchip's business.
 *
 * A thread that sleeps until one of them anyway (a vCPU in HLT) can borrow it: then no other thread has to wake in
 * order to wake that one.
 */
#ifndef TZ_CORE_TIMER_H
#define TZ_CORE_TIMER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef void timer_expired_fn(void *ctx, unsigned timer);

struct vm_timer {
	uint64_t deadline; /* ns, UINT64_MAX: not armed */
	bool lent;
};

struct vm_timers {
	pthread_mutex_t lock; /* innermost: held over no call out */
	timer_expired_fn *expired;
	void *ctx;
	pthread_t thread;
	bool running, stop;
	int fd;              /* timerfd */
	uint64_t programmed; /* what fd is set to, ns; UINT64_MAX: nothing */
	unsigned count;
	unsigned limit; /* 1 + highest timer ever armed */
	struct vm_timer *timer;
};

/* 0 or -errno. Starts the thread; `expired` is called on it without any lock held. */
int timers_start(struct vm_timers *timers, unsigned count, timer_expired_fn *expired, void *ctx);
/* Stop the thread; no callback runs afterwards. timers_arm() stays legal until timers_fini(). */
void timers_stop(struct vm_timers *timers);
void timers_fini(struct vm_timers *timers);

/*
 * (Re)arm to an absolute CLOCK_MONOTONIC time; UINT64_MAX disarms. Thread: any. A callback that was already on
 * its way when the timer was changed still comes: the owner must look at its own state. True: who borrowed it must be
 * woken, because it is due earlier now.
 */
bool timers_arm(struct vm_timers *timers, unsigned timer, uint64_t deadline_ns);

/*
 * From lend to return the thread leaves the timer alone; a callback that is on its way still comes. Meanwhile
 * timers_take() tells its deadline, UINT64_MAX when it is not armed. 0: it was due, is disarmed now, and what the
 * callback does is the caller's to do.
 */
void timers_lend(struct vm_timers *timers, unsigned timer);
uint64_t timers_take(struct vm_timers *timers, unsigned timer);
void timers_return(struct vm_timers *timers, unsigned timer);

#endif
