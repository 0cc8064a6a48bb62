/* SPDX-License-Identifier: Apache-2.0 */
/*
 * irqfds (KVM API 4.75): what is written to an eventfd is an interrupt on a GSI. A thread a VM, started with the first
 * one, reads them. With a resamplefd the GSI stays up until the guest's EOI, which is told through that one.
 *
 * Lock order: irqfds.lock, then the chips'.
 */
#ifndef TZ_CORE_IRQFD_H
#define TZ_CORE_IRQFD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;

struct irqfd {
	struct irqfd *next;
	uint64_t number; /* never used again: what epoll tells may be late */
	unsigned gsi;
	int fd, resample_fd; /* copies; resample_fd -1: edge */
	int64_t eventfd_id;
};

struct vm_irqfds {
	pthread_mutex_t lock; /* the rest */
	struct irqfd *list;
	uint64_t next_number;
	pthread_t thread;
	bool running;
	int epoll_fd, stop_fd;
};

void irqfds_init(struct vm *vm);
void irqfds_fini(struct vm *vm); /* no callback of the chips afterwards */

/* resample_fd: -1 for none. -EBADF, -EINVAL (no eventfd), -EBUSY (has one already), -ENOMEM, -EMFILE. */
int irqfds_add(struct vm *vm, int fd, unsigned gsi, int resample_fd);
int irqfds_remove(struct vm *vm, int fd, unsigned gsi); /* afterwards it raises no more interrupts */

/* The chips': a GSI's interrupt is over. */
void irqfds_acked(struct vm *vm, unsigned gsi);

#endif
