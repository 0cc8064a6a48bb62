/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ioeventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IOEVENTFDS_MAX 1000 /* as the kernel's buses (NR_IOBUS_DEVS) */

/* The kernel names eventfds in fdinfo; 0 where it is too old to number them: then the descriptor's number must do. */
static int identify(int fd, int64_t *id)
{
	char path[64], line[128];
	bool is_eventfd = false;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	if (!info)
		return fcntl(fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
	*id = -(int64_t)fd - 1;
	while (fgets(line, sizeof(line), info)) {
		is_eventfd |= !strncmp(line, "eventfd-count:", 14);
		if (!strncmp(line, "eventfd-id:", 11))
			*id = strtoll(line + 11, NULL, 10);
	}
	fclose(info);
	return is_eventfd ? 0 : -EINVAL;
}

int eventfd_copy(int fd, int64_t *id)
{
	int err = identify(fd, id), copy;

	if (err)
		return err;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return copy < 0 ? -errno : copy;
}

void ioeventfds_init(struct vm_ioeventfds *io)
{
	pthread_mutex_init(&io->lock, NULL);
	io->row = NULL;
	atomic_init(&io->count, 0);
}

void ioeventfds_fini(struct vm_ioeventfds *io)
{
	for (unsigned i = 0; i < io->count; i++)
		close(io->row[i].fd);
	free(io->row);
	pthread_mutex_destroy(&io->lock);
}

/* Index of the first row at addr or above. */
static unsigned lower_bound(const struct vm_ioeventfds *io, uint64_t addr)
{
	unsigned low = 0, high = io->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (io->row[mid].addr < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool collide(const struct ioeventfd *a, const struct ioeventfd *b)
{
	if (a->pio != b->pio || a->addr != b->addr)
		return false;
	if (!a->len || !b->len)
		return true;
	return a->len == b->len && (a->any_value || b->any_value || a->match == b->match);
}

static int add_locked(struct vm_ioeventfds *io, const struct ioeventfd *row)
{
	unsigned at = lower_bound(io, row->addr), count = io->count;
	struct ioeventfd *grown;

	for (unsigned i = at; i < count && io->row[i].addr == row->addr; i++)
		if (collide(&io->row[i], row))
			return -EEXIST;
	if (count == IOEVENTFDS_MAX)
		return -ENOSPC;
	grown = realloc(io->row, (count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	io->row = grown;
	memmove(&grown[at + 1], &grown[at], (count - at) * sizeof(*grown));
	grown[at] = *row;
	atomic_store(&io->count, count + 1);
	return 0;
}

int ioeventfds_add(struct vm_ioeventfds *io, const struct ioeventfd *want)
{
	struct ioeventfd row = *want;
	int err;

	row.fd = eventfd_copy(want->fd, &row.eventfd_id);
	if (row.fd < 0)
		return row.fd;
	pthread_mutex_lock(&io->lock);
	err = add_locked(io, &row);
	pthread_mutex_unlock(&io->lock);
	if (err)
		close(row.fd);
	return err;
}

int ioeventfds_remove(struct vm_ioeventfds *io, const struct ioeventfd *want)
{
	int64_t id;
	int err = identify(want->fd, &id);

	if (err)
		return err;
	err = -ENOENT;
	pthread_mutex_lock(&io->lock);
	for (unsigned i = lower_bound(io, want->addr); i < io->count && io->row[i].addr == want->addr; i++) {
		struct ioeventfd *row = &io->row[i];

		if (row->pio != want->pio || row->len != want->len || row->any_value != want->any_value ||
		    (!row->any_value && row->match != want->match) || row->eventfd_id != id)
			continue;
		close(row->fd);
		memmove(row, row + 1, (io->count - i - 1) * sizeof(*row));
		atomic_store(&io->count, io->count - 1);
		err = 0;
		break;
	}
	pthread_mutex_unlock(&io->lock);
	return err;
}

static bool matches(const struct ioeventfd *row, bool pio, const void *data, unsigned len)
{
	uint64_t value = 0;

	if (row->pio != pio || (row->len && row->len != len))
		return false;
	if (!row->len || row->any_value)
		return true;
	memcpy(&value, data, len);
	return value == row->match;
}

bool ioeventfds_signal_slow(struct vm_ioeventfds *io, bool pio, uint64_t addr, const void *data, unsigned len)
{
	const uint64_t one = 1;
	bool hit = false;

	pthread_mutex_lock(&io->lock);
	for (unsigned i = lower_bound(io, addr); i < io->count && io->row[i].addr == addr && !hit; i++) {
		hit = matches(&io->row[i], pio, data, len);
		if (hit && write(io->row[i].fd, &one, sizeof(one)) < 0)
			hit = errno == EAGAIN; /* at its maximum: whoever reads it is told already */
	}
	pthread_mutex_unlock(&io->lock);
	return hit;
}
