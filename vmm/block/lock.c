/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image locks by QEMU's convention, so that each honours the other's: byte 100 + n of the file is locked (shared, OFD)
 * by who uses permission n, byte 200 + n by who does not tolerate others that use it. One locks first and then looks
 * for conflicts, so of two that come at once at least one sees the other. The locks go with the descriptor, so two
 * disks of one process are told apart as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "block/file.h"
#include "machine/message.h"

#define LOCK_USED 100
#define LOCK_UNSHARED 200

enum permission { PERM_CONSISTENT_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, PERM_COUNT = 4 };

#define PERM(n) (1u << PERM_##n)

static int lock_byte(int fd, off_t byte)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Has anybody else a lock on it? 1, 0 or -errno. */
static int byte_is_locked(int fd, off_t byte)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	return lock.l_type != F_UNLCK;
}

static int take(int fd, unsigned used, unsigned unshared)
{
	int err = 0;

	for (unsigned n = 0; n < PERM_COUNT && !err; n++) {
		if (used & 1u << n)
			err = lock_byte(fd, LOCK_USED + n);
		if (!err && unshared & 1u << n)
			err = lock_byte(fd, LOCK_UNSHARED + n);
	}
	return err;
}

static int conflict(int fd, unsigned used, unsigned unshared)
{
	int busy = 0;

	for (unsigned n = 0; n < PERM_COUNT && !busy; n++) {
		if (used & 1u << n)
			busy = byte_is_locked(fd, LOCK_UNSHARED + n);
		if (!busy && unshared & 1u << n)
			busy = byte_is_locked(fd, LOCK_USED + n);
	}
	return busy;
}

int file_lock(struct image_file *file, const struct error_text *error)
{
	unsigned used = PERM(CONSISTENT_READ), unshared = PERM(WRITE) | PERM(RESIZE);
	int err;

	if (file->writable)
		used |= PERM(WRITE) | PERM(RESIZE);
	err = take(file->fd, used, unshared);
	if (!err)
		err = conflict(file->fd, used, unshared);
	if (err == 1 || err == -EAGAIN || err == -EACCES)
		return error_set(error, EAGAIN, "%s: the image is in use by another process%s", file->path,
				 file->writable ? "" : " that writes it");
	if (err == -EINVAL || err == -ENOLCK || err == -EOPNOTSUPP || err == -ENOSYS) {
		msg_error("%s: this file system has no locks; nothing keeps two machines from using the image",
			  file->path);
		return 0;
	}
	if (err)
		return error_set(error, -err, "%s: cannot lock the image: %s", file->path, strerror(-err));
	return 0;
}
