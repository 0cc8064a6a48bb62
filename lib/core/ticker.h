/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ticker: one thread a process that, while any vCPU is inside an engine, asks each such vCPU once a
 * millisecond to leave it for a moment (X86_ATT_EXIT). The vCPU thread then looks at what cannot reach it by a
 * kick: pending signals, and immediate_exit written by another thread. (Every four milliseconds where it waits while
 * another task executes guest code: a signal wakes it then.) Idle VMs cost nothing: it sleeps, and who enters
 * an engine then sets its alarm, which wakes no thread now. Who is the last to leave for long takes the alarm back.
 */
#ifndef TZ_CORE_TICKER_H
#define TZ_CORE_TICKER_H

#include <stdatomic.h>
#include <stdbool.h>

struct vcpu;

#define TICKER_PERIOD_NS 1000000

int ticker_attach(struct vcpu *vcpu);  /* 0 or -errno; starts the thread with the first vCPU */
void ticker_detach(struct vcpu *vcpu); /* ends it with the last */

extern _Atomic bool ticker_asleep;
void ticker_wake(void);

/* A vCPU goes to sleep for a while; it is outside its engine. Without a call the thread wakes once more for nothing. */
void ticker_rest(void);

/* A vCPU has entered an engine (its state is already visible). */
static inline void ticker_poke(void)
{
	if (__builtin_expect(atomic_load(&ticker_asleep), 0))
		ticker_wake();
}

#endif
