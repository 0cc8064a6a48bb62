/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals of a thread in KVM_RUN. They are blocked while it runs guest code and looked at now and then; one that
 * the effective mask (the thread's own, or that of KVM_SET_SIGNAL_MASK) lets through ends KVM_RUN with EINTR. It is
 * never taken inside KVM_RUN: handlers run after the thread's own mask is back, as with the kernel's KVM.
 * Synchronous signals (SIGSEGV ...) stay as they are.
 */
#ifndef TZ_CORE_SIGNAL_H
#define TZ_CORE_SIGNAL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct vcpu_signals {
	bool has_mask;        /* KVM_SET_SIGNAL_MASK */
	uint64_t mask;        /* bit n-1: signal n is blocked */
	sigset_t saved;       /* the thread's own, during KVM_RUN */
	uint64_t deliverable; /* what ends KVM_RUN */
	int fd;               /* signalfd to sleep on, -1: not made yet */
	uint64_t fd_set;      /* what it listens to */
};

void signals_init(struct vcpu_signals *s);
void signals_fini(struct vcpu_signals *s);
void signals_set_mask(struct vcpu_signals *s, const uint64_t *mask); /* NULL: none */

/* Around KVM_RUN. */
void signals_block(struct vcpu_signals *s);
void signals_restore(struct vcpu_signals *s);

/* Does one wait that ends KVM_RUN? Ignored ones are dropped, as they would have been. */
bool signals_pending(struct vcpu_signals *s);

/*
 * Sleep until wake_fd is readable (drains it), a CLOCK_MONOTONIC time has come (about: the caller looks again), or such
 * a signal waits: true.
 */
bool signals_sleep(struct vcpu_signals *s, int wake_fd, uint64_t until_ns);

#endif
