/* SPDX-License-Identifier: Apache-2.0 */
#include "core/irqfd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/ioeventfd.h"
#include "core/thread.h"
#include "core/vm.h"

#define STOP 0 /* numbers of irqfds start at 1 */
#define EVENTS_AT_ONCE 16

void irqfds_init(struct vm *vm)
{
	pthread_mutex_init(&vm->irqfds.lock, NULL);
	vm->irqfds.epoll_fd = vm->irqfds.stop_fd = -1;
}

/* Take what was written. The client may read it too, so it must not be waited for. */
static bool drain(int fd)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == ESPIPE))
		n = read(fd, &count, sizeof(count));
	return n == sizeof(count);
}

static void inject(struct vm *vm, const struct irqfd *irqfd)
{
	struct irqchip *chip = vm_irqchip(vm);

	if (irqfd->resample_fd >= 0) {
		irqchip_raise_resampled(chip, irqfd->gsi);
	} else {
		irqchip_set_line(chip, irqfd->gsi, true);
		irqchip_set_line(chip, irqfd->gsi, false);
	}
}

static void readable(struct vm *vm, uint64_t number)
{
	struct vm_irqfds *q = &vm->irqfds;

	pthread_mutex_lock(&q->lock);
	for (struct irqfd *i = q->list; i; i = i->next)
		if (i->number == number) {
			if (drain(i->fd))
				inject(vm, i);
			break;
		}
	pthread_mutex_unlock(&q->lock);
}

static void *irqfd_thread(void *arg)
{
	struct vm *vm = arg;
	struct epoll_event event[EVENTS_AT_ONCE];

	for (;;) {
		int n = epoll_wait(vm->irqfds.epoll_fd, event, EVENTS_AT_ONCE, -1);

		for (int i = 0; i < n; i++) {
			if (event[i].data.u64 == STOP)
				return NULL;
			readable(vm, event[i].data.u64);
		}
	}
}

static int watch(struct vm_irqfds *q, int fd, uint64_t number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = number };

	return epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void close_events(struct vm_irqfds *q)
{
	if (q->epoll_fd >= 0)
		close(q->epoll_fd);
	if (q->stop_fd >= 0)
		close(q->stop_fd);
	q->epoll_fd = q->stop_fd = -1;
}

static int start_locked(struct vm *vm)
{
	struct vm_irqfds *q = &vm->irqfds;
	int err = 0;

	if (q->running)
		return 0;
	q->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	q->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (q->epoll_fd < 0 || q->stop_fd < 0)
		err = -errno;
	if (!err)
		err = watch(q, q->stop_fd, STOP);
	if (!err)
		err = thread_create(&q->thread, "tz-irqfd", irqfd_thread, vm);
	if (err)
		close_events(q);
	q->running = !err;
	return err;
}

static void irqfd_destroy(struct irqfd *irqfd)
{
	if (irqfd->fd >= 0)
		close(irqfd->fd);
	if (irqfd->resample_fd >= 0)
		close(irqfd->resample_fd);
	free(irqfd);
}

void irqfds_fini(struct vm *vm)
{
	struct vm_irqfds *q = &vm->irqfds;
	const uint64_t one = 1;

	if (q->running) {
		while (write(q->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
		pthread_join(q->thread, NULL);
		close_events(q);
	}
	while (q->list) {
		struct irqfd *next = q->list->next;

		irqfd_destroy(q->list);
		q->list = next;
	}
	pthread_mutex_destroy(&q->lock);
}

static int add_locked(struct vm *vm, struct irqfd *irqfd)
{
	struct vm_irqfds *q = &vm->irqfds;
	int err;

	for (struct irqfd *i = q->list; i; i = i->next)
		if (i->eventfd_id == irqfd->eventfd_id)
			return -EBUSY;
	err = start_locked(vm);
	if (err)
		return err;
	irqfd->number = ++q->next_number;
	err = watch(q, irqfd->fd, irqfd->number);
	if (err)
		return err;
	irqfd->next = q->list;
	q->list = irqfd;
	return 0;
}

int irqfds_add(struct vm *vm, int fd, unsigned gsi, int resample_fd)
{
	struct irqfd *irqfd = calloc(1, sizeof(*irqfd));
	int64_t resample_id;
	int err = 0;

	if (!irqfd)
		return -ENOMEM;
	irqfd->gsi = gsi;
	irqfd->resample_fd = -1;
	irqfd->fd = eventfd_copy(fd, &irqfd->eventfd_id);
	if (irqfd->fd < 0)
		err = irqfd->fd;
	if (!err && resample_fd >= 0) {
		irqfd->resample_fd = eventfd_copy(resample_fd, &resample_id);
		if (irqfd->resample_fd < 0)
			err = irqfd->resample_fd;
	}
	if (!err) {
		pthread_mutex_lock(&vm->irqfds.lock);
		err = add_locked(vm, irqfd);
		pthread_mutex_unlock(&vm->irqfds.lock);
	}
	if (err)
		irqfd_destroy(irqfd);
	return err;
}

/* As in the kernel: taking away what is not there is no error, as long as fd is an eventfd. */
int irqfds_remove(struct vm *vm, int fd, unsigned gsi)
{
	struct vm_irqfds *q = &vm->irqfds;
	int64_t id;
	int copy = eventfd_copy(fd, &id);

	if (copy < 0)
		return copy;
	close(copy);
	pthread_mutex_lock(&q->lock);
	for (struct irqfd **at = &q->list; *at;) {
		struct irqfd *irqfd = *at;

		if (irqfd->eventfd_id != id || irqfd->gsi != gsi) {
			at = &irqfd->next;
			continue;
		}
		*at = irqfd->next;
		/* Copies of the descriptor live on: closing ours would not end the watch. */
		epoll_ctl(q->epoll_fd, EPOLL_CTL_DEL, irqfd->fd, NULL);
		irqfd_destroy(irqfd);
	}
	pthread_mutex_unlock(&q->lock);
	return 0;
}

void irqfds_acked(struct vm *vm, unsigned gsi)
{
	struct vm_irqfds *q = &vm->irqfds;
	const uint64_t one = 1;

	pthread_mutex_lock(&q->lock);
	for (struct irqfd *i = q->list; i; i = i->next)
		if (i->gsi == gsi && i->resample_fd >= 0) {
			ssize_t n = write(i->resample_fd, &one, sizeof(one));

			(void)n; /* at its maximum it is readable as well */
		}
	pthread_mutex_unlock(&q->lock);
}
