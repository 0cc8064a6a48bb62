/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits for descriptors and calls back: where a device does its work, so that no vCPU waits for it.
 */
#ifndef VMM_DEVICE_IO_THREAD_H
#define VMM_DEVICE_IO_THREAD_H

#include <stdint.h>

struct io_thread;

/* A descriptor that is watched. Embedded by its owner, who sets `ready` and `ctx`. */
struct io_watch {
	int fd;
	/* Thread: the I/O thread. events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR. */
	void (*ready)(void *ctx, uint32_t events);
	void *ctx;
};

struct io_thread *io_thread_create(const char *name); /* at most 15 letters; NULL with errno */
/* Joins it: nothing is called afterwards. NULL is allowed. Thread: any but itself. */
void io_thread_destroy(struct io_thread *thread);

/* 0 or -errno. The watch stays the caller's and must live until io_thread_remove() or io_thread_destroy(). */
int io_thread_add(struct io_thread *thread, struct io_watch *watch, uint32_t events);
int io_thread_change(struct io_thread *thread, struct io_watch *watch, uint32_t events);
/* On the I/O thread itself, or on another before the I/O thread was started or after it ended: else it may be in it. */
void io_thread_remove(struct io_thread *thread, struct io_watch *watch);

#endif
