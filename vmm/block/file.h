/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One file or block device of an image: opened, locked, read and written in whole pieces. Synchronous; thread: any,
 * calls may run in parallel. Callers of O_DIRECT files need not align anything: what is unaligned is bounced.
 */
#ifndef VMM_BLOCK_FILE_H
#define VMM_BLOCK_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "block/error.h"

struct image_file {
	int fd;
	char *path;
	bool writable, direct, device;
	bool fixed_size;      /* never grows beyond its end, rounded up to a sector: a raw disk */
	bool unsafe;          /* syncs do nothing */
	uint32_t align;       /* of offsets, lengths and memory: 1 unless direct */
	_Atomic uint64_t end; /* as far as is known; a read that ends before it means that the file shrank */
	dev_t dev;
	ino_t ino;
	pthread_mutex_t rmw;     /* read-modify-write of blocks smaller than align */
	_Atomic int sync_error;  /* a sync failed: what it should have written may be lost, no later one can mend it */
	_Atomic bool complained; /* about that, or about having shrunk */
};

struct file_options {
	bool writable, direct, unsafe, lock;
};

/* 0 or -errno with the text set. Regular files and block devices only. */
int file_open(struct image_file *file, const char *path, const struct file_options *options,
	      const struct error_text *error);
void file_close(struct image_file *file);

/* All of it, or -errno. Past the file's end zeros are read; -EIO where the file once was longer. */
int file_readv(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length);
int file_read(struct image_file *file, uint64_t offset, void *data, size_t length);
/* durable: on the disk when it returns. -ENOSPC also for quotas and file size limits. */
int file_writev(struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n, size_t length,
		bool durable);
int file_write(struct image_file *file, uint64_t offset, const void *data, size_t length);
int file_sync(struct image_file *file);
/* The range reads as zeros; with unmap its space is freed where that is possible. */
int file_zero(struct image_file *file, uint64_t offset, uint64_t length, bool unmap);
/* Frees the space if possible; contents are undefined afterwards. Never fails. */
void file_discard(struct image_file *file, uint64_t offset, uint64_t length);

/* Does this transfer need no bouncing? */
bool file_is_aligned(const struct image_file *file, uint64_t offset, const struct iovec *iov, unsigned n);
/* Somebody else (io_uring) wrote up to here. */
void file_note_end(struct image_file *file, uint64_t end);
/* The machine's word for an errno of a write. */
int file_write_error(int err);

/* Lock against other users, QEMU's included; lock.c. -EAGAIN with the text set: somebody has it. */
int file_lock(struct image_file *file, const struct error_text *error);

#endif
