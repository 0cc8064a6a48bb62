/* SPDX-License-Identifier: Apache-2.0 */
#include "api/handle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	struct handle **slot; /* by descriptor */
	size_t size;
} table = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Called with the lock held. */
static int grow_table(size_t need)
{
	size_t size = table.size ? table.size : 64;
	struct handle **slot;

	while (size < need)
		size *= 2;
	slot = realloc(table.slot, size * sizeof(*slot));
	if (!slot)
		return -ENOMEM;
	memset(slot + table.size, 0, (size - table.size) * sizeof(*slot));
	table.slot = slot;
	table.size = size;
	return 0;
}

int handle_install(int fd, enum handle_kind kind, const struct tz_engine_ops *engine, struct vm *vm, struct vcpu *vcpu)
{
	struct handle *h = malloc(sizeof(*h)), *stale = NULL;
	int err = 0;

	if (!h)
		return -ENOMEM;
	*h = (struct handle){ .kind = kind, .engine = engine, .vm = vm, .vcpu = vcpu };
	atomic_init(&h->refs, 1);
	pthread_mutex_lock(&table.lock);
	if ((size_t)fd >= table.size)
		err = grow_table((size_t)fd + 1);
	if (!err) {
		stale = table.slot[fd];
		table.slot[fd] = h;
	}
	pthread_mutex_unlock(&table.lock);
	if (err)
		free(h);
	if (stale)
		handle_put(stale);
	return err;
}

struct handle *handle_get(int fd)
{
	struct handle *h = NULL;

	pthread_mutex_lock(&table.lock);
	if (fd >= 0 && (size_t)fd < table.size)
		h = table.slot[fd];
	if (h)
		atomic_fetch_add(&h->refs, 1);
	pthread_mutex_unlock(&table.lock);
	return h;
}

void handle_put(struct handle *h)
{
	if (atomic_fetch_sub(&h->refs, 1) != 1)
		return;
	if (h->vm)
		vm_put(h->vm);
	free(h);
}

int handle_close(int fd)
{
	struct handle *h = NULL;

	pthread_mutex_lock(&table.lock);
	if (fd >= 0 && (size_t)fd < table.size) {
		h = table.slot[fd];
		table.slot[fd] = NULL;
	}
	pthread_mutex_unlock(&table.lock);
	if (!h)
		return -EBADF;
	/* The number is free for others only now, when the table no longer has it. */
	close(fd);
	handle_put(h);
	return 0;
}

int handle_descriptor(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
