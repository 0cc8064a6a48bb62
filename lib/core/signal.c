/* SPDX-License-Identifier: Apache-2.0 */
#include "core/signal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "core/clock.h"

#define NS_PER_SEC UINT64_C(1000000000)
#define SLICE_NS UINT64_C(10000000) /* between looks at signals where no descriptor tells of them */

#define SIG_BIT(n) (UINT64_C(1) << ((n)-1))
/* Raised by what the thread itself does: blocking them would kill the process. */
#define SYNCHRONOUS (SIG_BIT(SIGSEGV) | SIG_BIT(SIGBUS) | SIG_BIT(SIGFPE) | SIG_BIT(SIGILL) | SIG_BIT(SIGTRAP))

/* The kernel's signal set is 64 bits; glibc's starts with it. */
static uint64_t set_to_mask(const sigset_t *set)
{
	uint64_t mask;

	memcpy(&mask, set, sizeof(mask));
	return mask;
}

static void mask_to_set(uint64_t mask, sigset_t *set)
{
	sigemptyset(set);
	memcpy(set, &mask, sizeof(mask));
}

void signals_init(struct vcpu_signals *s)
{
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

void signals_fini(struct vcpu_signals *s)
{
	if (s->fd >= 0)
		close(s->fd);
}

void signals_set_mask(struct vcpu_signals *s, const uint64_t *mask)
{
	s->has_mask = mask != NULL;
	s->mask = mask ? *mask : 0;
}

void signals_block(struct vcpu_signals *s)
{
	sigset_t all;

	sigfillset(&all);
	mask_to_set(set_to_mask(&all) & ~SYNCHRONOUS, &all);
	pthread_sigmask(SIG_BLOCK, &all, &s->saved);
	s->deliverable = ~(s->has_mask ? s->mask : set_to_mask(&s->saved)) & ~SYNCHRONOUS;
}

void signals_restore(struct vcpu_signals *s)
{
	pthread_sigmask(SIG_SETMASK, &s->saved, NULL);
}

static bool is_ignored(int sig)
{
	struct sigaction sa;

	if (sigaction(sig, NULL, &sa))
		return false;
	if (sa.sa_handler == SIG_DFL)
		return sig == SIGCHLD || sig == SIGURG || sig == SIGWINCH || sig == SIGCONT;
	return sa.sa_handler == SIG_IGN;
}

/* A signal is only queued, though ignored, because we block it: drop it. */
static void drop(int sig)
{
	static const struct timespec now;
	sigset_t set;

	mask_to_set(SIG_BIT(sig), &set);
	while (sigtimedwait(&set, NULL, &now) < 0 && errno == EINTR)
		;
}

bool signals_pending(struct vcpu_signals *s)
{
	sigset_t set;
	uint64_t pending;

	sigpending(&set);
	pending = set_to_mask(&set) & s->deliverable;
	for (; pending; pending &= pending - 1) {
		int sig = __builtin_ctzll(pending) + 1;

		if (!is_ignored(sig))
			return true;
		drop(sig);
	}
	return false;
}

/* -1: no descriptor to be had; then sleep in slices. */
static int signal_descriptor(struct vcpu_signals *s)
{
	sigset_t set;

	if (s->fd >= 0 && s->fd_set == s->deliverable)
		return s->fd;
	mask_to_set(s->deliverable, &set);
	s->fd = signalfd(s->fd, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	s->fd_set = s->deliverable;
	return s->fd;
}

bool signals_sleep(struct vcpu_signals *s, int wake_fd, uint64_t until_ns)
{
	struct pollfd fds[2] = { { .fd = wake_fd, .events = POLLIN }, { .events = POLLIN } };
	struct timespec timeout;
	uint64_t count, now, wait;
	int cancel;

	fds[1].fd = signal_descriptor(s);
	wait = fds[1].fd < 0 ? SLICE_NS : UINT64_MAX;
	if (until_ns != UINT64_MAX) {
		now = clock_monotonic_ns();
		if (until_ns <= now)
			wait = 0;
		else if (until_ns - now < wait)
			wait = until_ns - now;
	}
	timeout.tv_sec = (time_t)(wait / NS_PER_SEC);
	timeout.tv_nsec = (long)(wait % NS_PER_SEC);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* ioctl(2) is no cancellation point either */
	ppoll(fds, ARRAY_SIZE(fds), wait == UINT64_MAX ? NULL : &timeout, NULL);
	if ((fds[0].revents & POLLIN) && read(wake_fd, &count, sizeof(count)) < 0)
		count = 0;
	pthread_setcancelstate(cancel, NULL);
	return fds[1].revents || fds[1].fd < 0 ? signals_pending(s) : false;
}
