/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of the library's own: they take no signal of the client's process. */
#ifndef TZ_CORE_THREAD_H
#define TZ_CORE_THREAD_H

#include <pthread.h>

/* 0 or -errno. name: at most 15 characters, shown by ps and debuggers. */
int thread_create(pthread_t *thread, const char *name, void *(*entry)(void *), void *arg);

#endif
