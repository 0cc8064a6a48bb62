/* SPDX-License-Identifier: Apache-2.0 */
#include "block/tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/internal.h"
#include "block/layer.h"
#include "block/qcow2.h"
#include "block/qcow2_create.h"

#define COPY_BYTES (UINT64_C(2) << 20)
#define ZERO_GRAIN 4096 /* data is looked at for zeros in pieces of this size */

static int system_error(const struct error_text *error, const char *path, int err)
{
	return error_set(error, -err, "%s: %s", path, strerror(-err));
}

/* --- a file for a new image --- */

/* *created: it was not there before. What was there is locked before it is emptied. */
static int open_new(struct image_file *file, const char *path, bool force, bool *created,
		    const struct error_text *error)
{
	struct file_options o = { .writable = true, .lock = true };
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), err;

	*created = fd >= 0;
	if (fd >= 0)
		close(fd);
	else if (errno != EEXIST)
		return system_error(error, path, -errno);
	else if (!force)
		return error_set(error, EEXIST, "%s: exists already; --force overwrites it", path);
	err = file_open(file, path, &o, error);
	if (!err && !file->device && ftruncate(file->fd, 0) < 0) {
		err = system_error(error, path, -errno);
		file_close(file);
	}
	if (!err && !file->device)
		atomic_store(&file->end, 0);
	if (err && *created)
		unlink(path);
	return err;
}

/* The size of what will lie behind a new image; it must be there and be what it is said to be. */
static int backing_size(const struct image_create *o, uint64_t *size, const struct error_text *error)
{
	struct layer_options options = { .format = o->backing_format };
	char *path = layer_beside(o->path, o->backing);
	struct layer *layer;
	int err;

	if (!path)
		return system_error(error, o->backing, -ENOMEM);
	err = layer_open(&layer, path, &options, error);
	if (!err) {
		*size = layer->size;
		layer_close(layer);
	}
	free(path);
	return err;
}

static int fill_new(struct image_file *file, const struct image_create *o, uint64_t size,
		    const struct error_text *error)
{
	struct qcow2_create q = { .size = size, .cluster_bits = o->cluster_bits, .backing = o->backing };

	if (o->format == BLOCK_FORMAT_QCOW2) {
		if (o->backing)
			q.backing_format = o->backing_format == BLOCK_FORMAT_RAW ? "raw" : "qcow2";
		return qcow2_create(file, &q, error);
	}
	if (file->device)
		return error_set(error, EINVAL, "%s: a block device is a raw disk already", file->path);
	if (ftruncate(file->fd, (off_t)size) < 0)
		return system_error(error, file->path, -errno);
	return 0;
}

int image_tool_create(const struct image_create *o, const struct error_text *error)
{
	struct image_file file;
	uint64_t size = o->size, behind = 0;
	bool created;
	int err = 0;

	if (o->backing) {
		err = backing_size(o, &behind, error);
		if (!err && !size)
			size = behind;
	}
	if (!err && (size > INT64_MAX - 511 || size & 511))
		err = error_set(error, EINVAL, "%s: %llu bytes are not a whole number of sectors", o->path,
				(unsigned long long)size);
	if (!err)
		err = open_new(&file, o->path, o->force, &created, error);
	if (err)
		return err;
	err = fill_new(&file, o, size, error);
	file_close(&file);
	if (err && created)
		unlink(o->path);
	return err;
}

/* --- what is it? --- */

int image_tool_info(const char *path, enum block_format format, struct image_facts *facts,
		    const struct error_text *error)
{
	struct layer_options options = { .format = format, .no_backing = true };
	struct layer *layer;
	struct stat st;
	int err = layer_open(&layer, path, &options, error);

	if (err)
		return err;
	memset(facts, 0, sizeof(*facts));
	facts->format = layer->qcow2 ? "qcow2" : "raw";
	facts->size = layer->size;
	facts->file_size = atomic_load(&layer->file.end);
	if (fstat(layer->file.fd, &st) == 0)
		facts->disk_usage = (uint64_t)st.st_blocks * 512;
	if (layer->qcow2) {
		const struct qcow2_header *h = qcow2_header(layer->qcow2);

		facts->is_qcow2 = true;
		facts->version = h->version;
		facts->cluster_size = UINT32_C(1) << h->cluster_bits;
		facts->snapshots = h->snapshots;
		facts->refcount_bits = 1u << h->refcount_order;
		facts->dirty = h->incompatible & QCOW2_DIRTY;
		facts->corrupt = h->incompatible & QCOW2_CORRUPT;
		facts->lazy_refcounts = h->compatible & QCOW2_LAZY_REFCOUNTS;
		facts->zstd = h->compression == QCOW2_ZSTD;
		strcpy(facts->backing, h->backing);
		strcpy(facts->backing_format, h->backing_format);
	}
	layer_close(layer);
	return 0;
}

/* --- is it consistent? --- */

int image_tool_check(const char *path, enum block_format format, enum qcow2_repair repair, struct qcow2_check *check,
		     const struct error_text *error)
{
	struct file_options o = { .writable = repair != QCOW2_REPAIR_NOTHING, .lock = true };
	struct qcow2_header header;
	struct image_file file;
	int err = file_open(&file, path, &o, error);

	if (err)
		return err;
	if (format == BLOCK_FORMAT_RAW || (format == BLOCK_FORMAT_AUTO && !layer_looks_like_qcow2(&file)))
		err = error_set(error, ENOTSUP, "%s: a raw image has nothing that can be checked", path);
	if (!err)
		err = qcow2_header_read(&file, &header, error);
	if (!err) {
		err = qcow2_check(&file, &header, repair, check);
		if (err)
			error_set(error, -err, "%s: cannot %s the image: %s", path,
				  repair == QCOW2_REPAIR_NOTHING ? "check" : "repair", strerror(-err));
	}
	if (!err && o.writable && file_sync(&file) < 0)
		err = error_set(error, EIO, "%s: cannot make the repair durable", path);
	file_close(&file);
	return err;
}

/* --- from one format to another --- */

struct copy {
	struct block *source, *target;
	uint8_t *buffer;
	bool blank; /* the target reads as zeros where nothing is written */
	const struct image_convert *options;
	const struct error_text *error;
};

static bool is_zero(const uint8_t *data, size_t length)
{
	return !data[0] && !memcmp(data, data + 1, length - 1);
}

static int write_piece(struct copy *c, uint64_t offset, size_t at, size_t length, bool zero)
{
	int err = 0;

	if (!zero)
		err = block_write(c->target, offset + at, c->buffer + at, length);
	else if (!c->blank)
		err = block_write_zeroes(c->target, offset + at, length, BLOCK_REQ_UNMAP);
	if (err)
		return error_set(c->error, -err, "%s: cannot write: %s", c->options->target, strerror(-err));
	return 0;
}

/* What is in the buffer, in runs of zeros and of data. */
static int write_buffer(struct copy *c, uint64_t offset, size_t length)
{
	size_t at = 0;

	while (at < length) {
		size_t grain = length - at < ZERO_GRAIN ? length - at : ZERO_GRAIN, run = grain;
		bool zero = is_zero(c->buffer + at, grain);
		int err;

		while (at + run < length) {
			grain = length - at - run < ZERO_GRAIN ? length - at - run : ZERO_GRAIN;
			if (is_zero(c->buffer + at + run, grain) != zero)
				break;
			run += grain;
		}
		err = write_piece(c, offset, at, run, zero);
		if (err)
			return err;
		at += run;
	}
	return 0;
}

static int copy_extent(struct copy *c, uint64_t offset, uint64_t length, bool zero)
{
	int err = 0;

	if (zero) {
		if (!c->blank)
			err = block_write_zeroes(c->target, offset, length, BLOCK_REQ_UNMAP);
		if (err)
			return error_set(c->error, -err, "%s: cannot write: %s", c->options->target, strerror(-err));
		return 0;
	}
	while (length && !err) {
		size_t len = length < COPY_BYTES ? (size_t)length : COPY_BYTES;

		err = block_read(c->source, offset, c->buffer, len);
		if (err)
			return error_set(c->error, -err, "%s: cannot read at %llu: %s", c->options->source,
					 (unsigned long long)offset, strerror(-err));
		err = write_buffer(c, offset, len);
		offset += len;
		length -= len;
	}
	return err;
}

static int copy_all(struct copy *c)
{
	uint64_t size = block_info(c->source)->size, offset = 0;
	int err = 0;

	while (offset < size && !err) {
		uint64_t length = size - offset;
		bool zero;

		err = block_extent(c->source, offset, &length, &zero);
		if (err)
			return error_set(c->error, -err, "%s: cannot read at %llu: %s", c->options->source,
					 (unsigned long long)offset, strerror(-err));
		err = copy_extent(c, offset, length, zero);
		offset += length;
	}
	return err;
}

/* Makes the target, unless it is there because it is a device or a server's. */
static int prepare_target(const struct image_convert *o, uint64_t size, bool *created, bool *blank,
			  const struct error_text *error)
{
	struct image_create create = {
		.path = o->target, .format = o->to, .size = size, .cluster_bits = o->cluster_bits, .force = o->force
	};
	struct stat st;
	int err;

	*created = *blank = false;
	if (nbd_is_uri(o->target))
		return 0;
	if (stat(o->target, &st) == 0) {
		if (S_ISBLK(st.st_mode) && o->to == BLOCK_FORMAT_RAW) {
			if (!o->force)
				return error_set(error, EEXIST, "%s: it is a device; --force overwrites it", o->target);
			return 0;
		}
	} else {
		*created = true;
	}
	err = image_tool_create(&create, error);
	*blank = true;
	return err;
}

static int open_disks(struct copy *c, bool *created)
{
	const struct image_convert *o = c->options;
	struct block_options source = { .path = o->source, .format = o->from, .readonly = true };
	struct block_options target = { .path = o->target, .format = o->to, .discard = true };
	int err = block_open(&source, &c->source, c->error->text, c->error->size);

	if (err)
		return err;
	err = prepare_target(o, block_info(c->source)->size, created, &c->blank, c->error);
	if (!err)
		err = block_open(&target, &c->target, c->error->text, c->error->size);
	if (!err && block_info(c->target)->size < block_info(c->source)->size)
		err = error_set(c->error, ENOSPC, "%s: smaller than the source (%llu of %llu bytes)", o->target,
				(unsigned long long)block_info(c->target)->size,
				(unsigned long long)block_info(c->source)->size);
	return err;
}

int image_tool_convert(const struct image_convert *o, const struct error_text *error)
{
	struct copy c = { .options = o, .error = error, .buffer = malloc(COPY_BYTES) };
	bool created = false;
	int err, close_err;

	if (!c.buffer)
		return system_error(error, o->source, -ENOMEM);
	err = open_disks(&c, &created);
	if (!err)
		err = copy_all(&c);
	if (!err) {
		err = block_flush(c.target);
		if (err)
			error_set(error, -err, "%s: cannot write: %s", o->target, strerror(-err));
	}
	if (c.target) {
		close_err = block_close(c.target);
		if (!err && close_err)
			err = error_set(error, -close_err, "%s: cannot write: %s", o->target, strerror(-close_err));
	}
	if (c.source)
		block_close(c.source);
	free(c.buffer);
	if (err && created)
		unlink(o->target);
	return err;
}
