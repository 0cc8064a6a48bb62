/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ThreadSanitizer of gcc 12 does not know pthread_clockjoin_np(): it would call a joined thread leaked, and what it did
 * a race with what its joiner does. In a build with it this one is linked, made of a call that it knows.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

static int64_t nanoseconds(const struct timespec *t)
{
	return t->tv_sec * INT64_C(1000000000) + t->tv_nsec;
}

int pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock, const struct timespec *until)
{
	const struct timespec pause = { 0, 1000000 };
	struct timespec now;
	int err;

	while ((err = pthread_tryjoin_np(thread, result)) == EBUSY) {
		clock_gettime(clock, &now);
		if (nanoseconds(&now) >= nanoseconds(until))
			return ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return err;
}
