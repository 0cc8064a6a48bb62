/* SPDX-License-Identifier: Apache-2.0 */
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/iov.h"
#include "machine/message.h"

#define DIRECT_ALIGN_MAX 4096
#define BOUNCE_MAX (1u << 20)
#define IOV_BATCH 64

/* --- open and close --- */

/* A file size limit is an error to report, not a reason to die. */
static void ignore_size_limit_signal(void)
{
	struct sigaction old;

	if (sigaction(SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGXFSZ, SIG_IGN);
}

/* What O_DIRECT wants: 512 where the file system takes that, else a page. */
static uint32_t direct_align(const struct image_file *file)
{
	void *page;
	int logical = 0;
	uint32_t align = DIRECT_ALIGN_MAX;

	if (file->device && ioctl(file->fd, BLKSSZGET, &logical) == 0 && logical >= 512 &&
	    logical <= DIRECT_ALIGN_MAX && (logical & (logical - 1)) == 0)
		return (uint32_t)logical;
	if (posix_memalign(&page, DIRECT_ALIGN_MAX, DIRECT_ALIGN_MAX) != 0)
		return align;
	if (file->end >= 1024 && pread(file->fd, (char *)page + 512, 512, 512) == 512)
		align = 512;
	free(page);
	return align;
}

static int find_size(struct image_file *file, const struct stat *st, const struct error_text *error)
{
	uint64_t size = (uint64_t)st->st_size;

	file->dev = st->st_dev;
	file->ino = st->st_ino;
	if (S_ISBLK(st->st_mode)) {
		file->device = true;
		if (ioctl(file->fd, BLKGETSIZE64, &size) < 0)
			return error_set(error, errno, "%s: cannot tell the device's size: %s", file->path,
					 strerror(errno));
	} else if (S_ISDIR(st->st_mode)) {
		return error_set(error, EISDIR, "%s: it is a directory", file->path);
	} else if (!S_ISREG(st->st_mode)) {
		return error_set(error, EINVAL, "%s: neither a regular file nor a block device", file->path);
	}
	atomic_store(&file->end, size);
	return 0;
}

static int open_fd(struct image_file *file, const struct file_options *options, const struct error_text *error)
{
	/* O_NONBLOCK: a FIFO must give a message, not hang. */
	int flags = (options->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;

	file->fd = open(file->path, flags | (options->direct ? O_DIRECT : 0));
	if (file->fd >= 0)
		return 0;
	if (errno == EISDIR)
		return error_set(error, EISDIR, "%s: it is a directory", file->path);
	if (errno == EINVAL && options->direct)
		return error_set(error, EINVAL, "%s: cache=none: this file system has no direct I/O", file->path);
	if ((errno == EACCES || errno == EROFS || errno == EPERM) && options->writable)
		return error_set(error, errno, "%s: cannot be written: %s (readonly=on opens it for reading)",
				 file->path, strerror(errno));
	return error_set(error, errno, "%s: %s", file->path, strerror(errno));
}

int file_open(struct image_file *file, const char *path, const struct file_options *options,
	      const struct error_text *error)
{
	struct stat st;
	int err;

	memset(file, 0, sizeof(*file));
	file->fd = -1;
	file->align = 1;
	file->writable = options->writable;
	file->unsafe = options->unsafe;
	pthread_mutex_init(&file->rmw, NULL);
	file->path = strdup(path);
	if (!file->path) {
		file_close(file);
		return error_set(error, ENOMEM, "%s: %s", path, strerror(ENOMEM));
	}
	if (options->writable)
		ignore_size_limit_signal();
	err = open_fd(file, options, error);
	if (!err && fstat(file->fd, &st) < 0)
		err = error_set(error, errno, "%s: %s", path, strerror(errno));
	if (!err)
		err = find_size(file, &st, error);
	if (!err && options->lock)
		err = file_lock(file, error);
	if (!err && options->direct) {
		file->direct = true;
		file->align = direct_align(file);
	}
	if (err)
		file_close(file);
	return err;
}

void file_close(struct image_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
	free(file->path);
	file->path = NULL;
	pthread_mutex_destroy(&file->rmw);
}

/* --- transfers --- */

bool file_is_aligned(const struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n)
{
	uint64_t all = offset;

	if (file->align == 1)
		return true;
	for (unsigned i = 0; i < n; i++)
		all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return (all & (file->align - 1)) == 0;
}

void file_note_end(struct image_file *file, uint64_t end)
{
	uint64_t old = atomic_load_explicit(&file->end, memory_order_relaxed);

	while (old < end && !atomic_compare_exchange_weak(&file->end, &old, end))
		;
}

int file_write_error(int err)
{
	/* Room that an administrator can make. */
	return err == EDQUOT || err == EFBIG ? -ENOSPC : -err;
}

static int shrank(struct image_file *file)
{
	if (!atomic_exchange(&file->complained, true))
		msg_error("%s: the image has become shorter; what is gone cannot be read", file->path);
	return -EIO;
}

/* One system call's worth of a vector, from `done` bytes on. */
static unsigned batch(struct iovec *part, const struct iovec *iov, unsigned n, size_t done, size_t length, size_t *len)
{
	unsigned first = 0, count;

	while (first < n && done >= iov[first].iov_len)
		done -= iov[first++].iov_len;
	count = n - first < IOV_BATCH ? n - first : IOV_BATCH;
	*len = 0;
	count = iov_slice(part, iov + first, count, done, length);
	for (unsigned i = 0; i < count; i++)
		*len += part[i].iov_len;
	return count;
}

static int read_plain(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length)
{
	struct iovec part[IOV_BATCH];
	size_t done = 0;

	while (done < length) {
		size_t len;
		unsigned count = batch(part, iov, n, done, length - done, &len);
		ssize_t got = preadv(file->fd, part, (int)count, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0) {
			if (offset + done < atomic_load(&file->end))
				return shrank(file);
			iov_zero(iov, n, done, length - done);
			return 0;
		}
		done += (size_t)got;
	}
	return 0;
}

static int write_plain(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length)
{
	struct iovec part[IOV_BATCH];
	size_t done = 0;

	while (done < length) {
		size_t len;
		unsigned count = batch(part, iov, n, done, length - done, &len);
		ssize_t put = pwritev(file->fd, part, (int)count, (off_t)(offset + done));

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return file_write_error(errno);
		if (put == 0)
			return -EIO;
		done += (size_t)put;
	}
	file_note_end(file, offset + length);
	return 0;
}

/* --- unaligned transfers on O_DIRECT files --- */

static uint64_t round_down(const struct image_file *file, uint64_t x)
{
	return x & ~(uint64_t)(file->align - 1);
}

static uint64_t round_up(const struct image_file *file, uint64_t x)
{
	return round_down(file, x + file->align - 1);
}

static void *bounce_get(const struct image_file *file, size_t size)
{
	void *bounce;

	(void)file;
	return posix_memalign(&bounce, DIRECT_ALIGN_MAX, size) == 0 ? bounce : NULL;
}

/* An aligned read whose end may lie past the file's: a direct read there is short. */
static int read_aligned(struct image_file *file, uint64_t offset, uint8_t *data, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got = pread(file->fd, data + done, length - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		done += (size_t)got;
		if (got == 0 || done % file->align)
			break;
	}
	if (offset + done < atomic_load(&file->end) && done < length)
		return shrank(file);
	memset(data + done, 0, length - done);
	return 0;
}

static int read_bounced(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length)
{
	uint8_t *bounce = bounce_get(file, BOUNCE_MAX);
	size_t done = 0;
	int err = bounce ? 0 : -ENOMEM;

	while (!err && done < length) {
		uint64_t start = round_down(file, offset + done);
		size_t skip = (size_t)(offset + done - start), len = length - done;

		if (len > BOUNCE_MAX - skip)
			len = BOUNCE_MAX - skip;
		err = read_aligned(file, start, bounce, (size_t)round_up(file, skip + len));
		if (!err)
			iov_scatter(iov, n, done, bounce + skip, len);
		done += len;
	}
	free(bounce);
	return err;
}

/* A piece that does not begin or end at a block: what lies around it in its blocks is kept. */
static int modify(struct image_file *file, uint64_t start, uint8_t *bounce, size_t skip, const struct iovec *iov,
		  unsigned n, size_t done, size_t len)
{
	size_t size = (size_t)round_up(file, skip + len);
	uint64_t end = atomic_load(&file->end), wanted = start + skip + len;
	struct iovec all = { .iov_base = bounce, .iov_len = size };
	int err = 0;

	if (skip)
		err = read_aligned(file, start, bounce, file->align);
	if (!err && (skip + len) % file->align && (!skip || size > file->align))
		err = read_aligned(file, start + size - file->align, bounce + size - file->align, file->align);
	if (err)
		return err;
	iov_gather(bounce + skip, iov, n, done, len);
	err = write_plain(file, start, &all, 1, size);
	/* The last block of a file of odd size was written whole. */
	if (wanted < end)
		wanted = end;
	if (!err && file->fixed_size && start + size > wanted && ftruncate(file->fd, (off_t)wanted) == 0)
		atomic_store(&file->end, wanted);
	return err;
}

static int write_bounced(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length)
{
	uint8_t *bounce = bounce_get(file, BOUNCE_MAX);
	size_t done = 0;
	int err = bounce ? 0 : -ENOMEM;

	pthread_mutex_lock(&file->rmw);
	while (!err && done < length) {
		uint64_t start = round_down(file, offset + done);
		size_t skip = (size_t)(offset + done - start), len = length - done;

		if (len > BOUNCE_MAX - skip)
			len = BOUNCE_MAX - skip;
		err = modify(file, start, bounce, skip, iov, n, done, len);
		done += len;
	}
	pthread_mutex_unlock(&file->rmw);
	free(bounce);
	return err;
}

int file_readv(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length)
{
	/* Near the end of the file a direct transfer stops in the middle of a block. */
	if (file->direct && (!file_is_aligned(file, offset, iov, n) || offset + length > atomic_load(&file->end)))
		return read_bounced(file, offset, iov, n, length);
	return read_plain(file, offset, iov, n, length);
}

int file_read(struct image_file *file, uint64_t offset, void *data, size_t length)
{
	struct iovec iov = { .iov_base = data, .iov_len = length };

	return file_readv(file, offset, &iov, 1, length);
}

int file_writev(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length,
		bool durable)
{
	int err;

	if (file_is_aligned(file, offset, iov, n))
		err = write_plain(file, offset, iov, n, length);
	else
		err = write_bounced(file, offset, iov, n, length);
	if (!err && durable)
		err = file_sync(file);
	return err;
}

int file_write(struct image_file *file, uint64_t offset, const void *data, size_t length)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = length };

	return file_writev(file, offset, &iov, 1, length, false);
}

int file_sync(struct image_file *file)
{
	int err = atomic_load(&file->sync_error);

	if (err || file->unsafe)
		return err;
	while (fdatasync(file->fd) < 0) {
		if (errno == EINTR)
			continue;
		/* The kernel forgets what it could not write: a later sync would succeed and mean nothing. */
		msg_error("%s: cannot make writes durable: %s; no flush succeeds from now on", file->path,
			  strerror(errno));
		atomic_store(&file->sync_error, -EIO);
		return -EIO;
	}
	return 0;
}

/* --- zeros --- */

static int write_zero_bytes(struct image_file *file, uint64_t offset, uint64_t length)
{
	size_t size = length < BOUNCE_MAX ? (size_t)length : BOUNCE_MAX;
	uint8_t *zeros = bounce_get(file, size < DIRECT_ALIGN_MAX ? DIRECT_ALIGN_MAX : size);
	int err = zeros ? 0 : -ENOMEM;

	if (zeros)
		memset(zeros, 0, size);
	while (!err && length) {
		size_t len = length < size ? (size_t)length : size;

		err = file_write(file, offset, zeros, len);
		offset += len;
		length -= len;
	}
	free(zeros);
	return err;
}

static int allocate(struct image_file *file, int mode, uint64_t offset, uint64_t length)
{
	while (fallocate(file->fd, mode, (off_t)offset, (off_t)length) < 0)
		if (errno != EINTR)
			return errno == ENOSPC || errno == EIO ? -errno : -EOPNOTSUPP;
	return 0;
}

int file_zero(struct image_file *file, uint64_t offset, uint64_t length, bool unmap)
{
	uint64_t end = atomic_load(&file->end);
	int err = -EOPNOTSUPP;

	if (!file->device && offset + length > end) {
		/* Past the end nothing is stored, and zeros are read; nothing need be there but in the file's size. */
		if (offset >= end)
			return 0;
		length = end - offset;
	}
	if (unmap)
		err = allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (err == -EOPNOTSUPP)
		err = allocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (err == -EOPNOTSUPP)
		err = write_zero_bytes(file, offset, length);
	return err;
}

void file_discard(struct image_file *file, uint64_t offset, uint64_t length)
{
	allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}
