/* SPDX-License-Identifier: Apache-2.0 */
#include "core/thread.h"

#include <signal.h>

int thread_create(pthread_t *thread, const char *name, void *(*entry)(void *), void *arg)
{
	sigset_t all, saved;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved); /* inherited by the new thread */
	err = pthread_create(thread, NULL, entry, arg);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (!err)
		pthread_setname_np(*thread, name);
	return -err;
}
