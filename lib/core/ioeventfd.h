/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioeventfds (KVM API 4.59): a write of the guest to a port or MMIO address adds one to an eventfd and is done; the
 * client's thread that serves the device is not the vCPU's.
 */
#ifndef TZ_CORE_IOEVENTFD_H
#define TZ_CORE_IOEVENTFD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ioeventfd {
	bool pio;
	bool any_value; /* else the write must be of `match` */
	uint64_t addr;
	unsigned len; /* 0: any */
	uint64_t match;
	int fd; /* a copy of the client's: closing that one changes nothing */
	int64_t eventfd_id;
};

struct vm_ioeventfds {
	pthread_mutex_t lock;
	struct ioeventfd *row; /* lock; by addr */
	_Atomic unsigned count;
};

void ioeventfds_init(struct vm_ioeventfds *io);
void ioeventfds_fini(struct vm_ioeventfds *io);

/* `want` as KVM_IOEVENTFD gives it, want->fd the client's. -EBADF, -EINVAL no eventfd, -EEXIST, -ENOSPC, -ENOMEM. */
int ioeventfds_add(struct vm_ioeventfds *io, const struct ioeventfd *want);
int ioeventfds_remove(struct vm_ioeventfds *io, const struct ioeventfd *want); /* -ENOENT */

bool ioeventfds_signal_slow(struct vm_ioeventfds *io, bool pio, uint64_t addr, const void *data, unsigned len);

/* A guest's write: true if it was for an eventfd. Thread: a vCPU's. */
static inline bool ioeventfds_signal(struct vm_ioeventfds *io, bool pio, uint64_t addr, const void *data, unsigned len)
{
	return atomic_load_explicit(&io->count, memory_order_relaxed) &&
	       ioeventfds_signal_slow(io, pio, addr, data, len);
}

/* Duplicates a client's eventfd: the copy, -EBADF, -EINVAL (not an eventfd), -EMFILE. *id is the same for all copies.
 */
int eventfd_copy(int fd, int64_t *id);

#endif
