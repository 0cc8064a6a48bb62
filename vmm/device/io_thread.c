/* SPDX-License-Identifier: Apache-2.0 */
#include "device/io_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 16

struct io_thread {
	pthread_t thread;
	int epoll_fd, stop_fd;
	struct epoll_event event[EVENTS_AT_ONCE]; /* what is being called back */
	int pending, current;
};

static void *io_thread_main(void *arg)
{
	struct io_thread *t = arg;

	for (;;) {
		t->pending = epoll_wait(t->epoll_fd, t->event, EVENTS_AT_ONCE, -1);
		for (t->current = 0; t->current < t->pending; t->current++) {
			struct epoll_event *event = &t->event[t->current];
			struct io_watch *watch = event->data.ptr;

			if (watch)
				watch->ready(watch->ctx, event->events);
			else if (event->events)
				return NULL; /* stop_fd */
		}
	}
}

static int start(struct io_thread *t, const char *name)
{
	struct epoll_event stop = { .events = EPOLLIN };
	sigset_t all, saved;
	int err;

	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (t->epoll_fd < 0 || t->stop_fd < 0 || epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->stop_fd, &stop) < 0)
		return -errno;
	/* Signals are the main thread's. */
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	err = pthread_create(&t->thread, NULL, io_thread_main, t);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (!err)
		pthread_setname_np(t->thread, name);
	return -err;
}

static void close_all(struct io_thread *t)
{
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	if (t->stop_fd >= 0)
		close(t->stop_fd);
	free(t);
}

struct io_thread *io_thread_create(const char *name)
{
	struct io_thread *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return NULL;
	t->epoll_fd = t->stop_fd = -1;
	err = start(t, name);
	if (err) {
		close_all(t);
		errno = -err;
		return NULL;
	}
	return t;
}

void io_thread_destroy(struct io_thread *t)
{
	const uint64_t one = 1;

	if (!t)
		return;
	while (write(t->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(t->thread, NULL);
	close_all(t);
}

static int control(struct io_thread *t, int op, struct io_watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	return epoll_ctl(t->epoll_fd, op, watch->fd, &event) < 0 ? -errno : 0;
}

int io_thread_add(struct io_thread *t, struct io_watch *watch, uint32_t events)
{
	return control(t, EPOLL_CTL_ADD, watch, events);
}

int io_thread_change(struct io_thread *t, struct io_watch *watch, uint32_t events)
{
	return control(t, EPOLL_CTL_MOD, watch, events);
}

void io_thread_remove(struct io_thread *t, struct io_watch *watch)
{
	control(t, EPOLL_CTL_DEL, watch, 0);
	/* It may be among those that are still to be called. */
	for (int i = t->current + 1; i < t->pending; i++)
		if (t->event[i].data.ptr == watch)
			t->event[i] = (struct epoll_event){ 0 };
}
