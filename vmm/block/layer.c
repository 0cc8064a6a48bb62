/* SPDX-License-Identifier: Apache-2.0 */
#include "block/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/internal.h"
#include "block/iov.h"
#include "block/qcow2.h"
#include "machine/message.h"

static const uint8_t qcow_magic[4] = { 'Q', 'F', 'I', 0xfb };

/* --- opening --- */

bool layer_looks_like_qcow2(struct image_file *file)
{
	uint8_t head[sizeof(qcow_magic)];

	return atomic_load(&file->end) >= sizeof(head) && file_read(file, 0, head, sizeof(head)) == 0 &&
	       !memcmp(head, qcow_magic, sizeof(head));
}

char *layer_beside(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	size_t dir = slash ? (size_t)(slash - image) + 1 : 0;
	char *path;

	if (name[0] == '/')
		dir = 0;
	path = malloc(dir + strlen(name) + 1);
	if (path) {
		memcpy(path, image, dir);
		strcpy(path + dir, name);
	}
	return path;
}

static int backing_format(const struct layer *layer, enum block_format *format, const struct error_text *error)
{
	const char *name = qcow2_header(layer->qcow2)->backing_format;

	if (!strcmp(name, "raw") || !strcmp(name, "file") || !strcmp(name, "host_device"))
		*format = BLOCK_FORMAT_RAW;
	else if (!strcmp(name, "qcow2"))
		*format = BLOCK_FORMAT_QCOW2;
	else if (!name[0])
		*format = BLOCK_FORMAT_AUTO;
	else
		return error_set(error, ENOTSUP,
				 "%s: its backing file has the format \"%.32s\", which is not supported",
				 layer->file.path, name);
	return 0;
}

static int check_loop(const struct layer *layer, const struct layer_above *above, const struct error_text *error)
{
	for (const struct layer_above *a = above; a; a = a->next)
		if (a->dev == layer->file.dev && a->ino == layer->file.ino)
			return error_set(error, ELOOP, "%s: the image is its own backing file", layer->file.path);
	if (above && above->depth >= LAYER_DEPTH_MAX)
		return error_set(error, ELOOP, "%s: more than %d backing files behind each other", layer->file.path,
				 LAYER_DEPTH_MAX);
	return 0;
}

/* Whoever gave us the image may not know what lies behind it. */
static void blame_backing(const struct layer *layer, const struct error_text *error)
{
	char *text = strdup(error->text);

	if (text)
		error_set(error, 0, "%s: its backing file: %s", layer->file.path, text);
	free(text);
}

static int open_backing(struct layer *layer, const struct layer_options *options, const struct error_text *error)
{
	const char *name = qcow2_header(layer->qcow2)->backing;
	struct layer_above here = { layer->file.dev, layer->file.ino, options->above ? options->above->depth + 1 : 1,
				    options->above };
	struct layer_options o = { .direct = options->direct, .lock = options->lock, .above = &here };
	size_t colon = strcspn(name, ":/");
	char *path;
	int err;

	if (!name[0] || options->no_backing)
		return 0;
	if (name[colon] == ':') /* "json:", "nbd:", "file:" …: an image must not make us open more than files */
		return error_set(error, ENOTSUP, "%s: its backing file \"%.64s\" is not a plain file name",
				 layer->file.path, name);
	err = backing_format(layer, &o.format, error);
	if (err)
		return err;
	path = layer_beside(layer->file.path, name);
	if (!path)
		return error_set(error, ENOMEM, "%s: %s", layer->file.path, strerror(ENOMEM));
	err = layer_open(&layer->backing, path, &o, error);
	if (err && !options->above)
		blame_backing(layer, error);
	/*
	 * The file may have been a guest's raw disk, and its header the guest's work: it must not lead on to other
	 * files of the host.
	 */
	if (!err && o.format == BLOCK_FORMAT_AUTO && layer->backing->backing)
		err = error_set(
			error, EPERM,
			"%s: it does not say that its backing file is qcow2, and that one has a backing file too; "
			"name the format (qemu-img rebase -u -F qcow2 -b …)",
			layer->file.path);
	free(path);
	return err;
}

int layer_open(struct layer **out, const char *path, const struct layer_options *options,
	       const struct error_text *error)
{
	struct layer *layer = calloc(1, sizeof(*layer));
	struct file_options o = { options->writable, options->direct, options->unsafe, options->lock };
	int err;

	*out = NULL;
	if (!layer)
		return error_set(error, ENOMEM, "%s: %s", path, strerror(ENOMEM));
	err = file_open(&layer->file, path, &o, error);
	if (err) {
		free(layer);
		return err;
	}
	err = check_loop(layer, options->above, error);
	if (!err) {
		layer->format = options->format;
		if (layer->format == BLOCK_FORMAT_AUTO) {
			layer->format = layer_looks_like_qcow2(&layer->file) ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
			layer->probed_raw = layer->format == BLOCK_FORMAT_RAW;
		}
		if (layer->format == BLOCK_FORMAT_QCOW2) {
			err = qcow2_open(layer, options, error);
		} else {
			layer->size = (atomic_load(&layer->file.end) + 511) & ~UINT64_C(511);
			layer->file.fixed_size = !layer->file.device;
		}
	}
	if (!err && layer->qcow2)
		err = open_backing(layer, options, error);
	if (err) {
		layer_close(layer);
		return err;
	}
	*out = layer;
	return 0;
}

int layer_close(struct layer *layer)
{
	int err = 0;

	if (layer->qcow2)
		err = qcow2_close(layer->qcow2);
	else if (layer->file.writable)
		err = file_sync(&layer->file);
	if (layer->backing)
		layer_close(layer->backing);
	file_close(&layer->file);
	free(layer);
	return err;
}

/* --- reading --- */

int layer_map(struct layer *layer, uint64_t offset, uint64_t length, bool may_block, struct extent *e)
{
	for (; layer; layer = layer->backing) {
		int err;

		/* A backing file may be shorter than the image before it. */
		if (offset >= layer->size)
			break;
		if (length > layer->size - offset)
			length = layer->size - offset;
		if (!layer->qcow2) {
			*e = (struct extent){ .kind = EXTENT_DATA,
					      .layer = layer,
					      .host = offset,
					      .length = length,
					      .in_place = layer->file.writable };
			return 0;
		}
		err = qcow2_map(layer->qcow2, offset, length, may_block, e);
		if (err || e->kind != EXTENT_UNALLOCATED)
			return err;
		length = e->length;
	}
	*e = (struct extent){ .kind = EXTENT_ZERO, .length = length };
	return 0;
}

static int read_extent(const struct extent *e, uint64_t offset, const struct iovec *iov, unsigned n, size_t skip)
{
	struct iovec *part;
	int err;

	switch (e->kind) {
	case EXTENT_COMPRESSED:
		return qcow2_read_compressed(e->layer->qcow2, e->entry,
					     offset &
						     ((UINT64_C(1) << qcow2_header(e->layer->qcow2)->cluster_bits) - 1),
					     iov, n, skip, e->length);
	case EXTENT_DATA:
		part = malloc(n * sizeof(*part));
		if (!part)
			return -ENOMEM;
		n = iov_slice(part, iov, n, skip, e->length);
		err = file_readv(&e->layer->file, e->host, part, n, e->length);
		free(part);
		return err;
	default: iov_zero(iov, n, skip, e->length); return 0;
	}
}

int layer_read(struct layer *layer, uint64_t offset, const struct iovec *iov, unsigned n, size_t skip, size_t length)
{
	size_t done = 0;

	while (done < length) {
		struct extent e;
		int err = layer_map(layer, offset + done, length - done, true, &e);

		if (!err)
			err = read_extent(&e, offset + done, iov, n, skip + done);
		if (err)
			return err;
		done += e.length;
	}
	return 0;
}

bool layer_is_zero(struct layer *layer, uint64_t offset, uint64_t length)
{
	while (length) {
		struct extent e;

		if (layer_map(layer, offset, length, true, &e) != 0 || e.kind != EXTENT_ZERO)
			return false;
		offset += e.length;
		length -= e.length;
	}
	return true;
}

/* --- the driver of file-backed disks --- */

#define FAST_EXTENTS_MAX 32

/* Who named no format for a raw image gets one that stays raw. */
static bool writes_probed_head(const struct layer *layer, const struct block_request *r)
{
	return layer->probed_raw && r->op == BLOCK_WRITE && r->offset < sizeof(qcow_magic);
}

static bool fast_transfer(struct block_queue *queue, struct block_request *r, const struct extent *e, size_t done,
			  bool durable)
{
	struct image_file *file;

	if (r->op == BLOCK_READ && e->kind == EXTENT_ZERO) {
		iov_zero(r->iov, r->iov_count, done, e->length);
		return true;
	}
	if (e->kind != EXTENT_DATA || (r->op == BLOCK_WRITE && !e->in_place))
		return false;
	file = &e->layer->file;
	/* Alignment of a part follows from that of the whole and of where it begins. */
	if (file->align > 1 && (!file_is_aligned(file, e->host | e->length | done, r->iov, r->iov_count) ||
				(r->op == BLOCK_READ && e->host + e->length > atomic_load(&file->end))))
		return false;
	return queue_transfer(queue, r, file, e->host, done, e->length, durable);
}

static bool layers_fast(struct block_queue *queue, struct block_request *r)
{
	struct block *disk = queue_disk(queue);
	struct layer *layer = disk->layer;
	bool durable = r->op == BLOCK_WRITE && (r->flags & BLOCK_REQ_FUA || disk->cache == BLOCK_CACHE_WRITETHROUGH);
	size_t done = 0;

	if (durable && (layer->qcow2 || disk->cache == BLOCK_CACHE_UNSAFE || atomic_load(&layer->file.sync_error)))
		return false; /* metadata may have to be written too */
	if (writes_probed_head(layer, r))
		return false;
	if (layer->qcow2 && layer->file.writable)
		r->epoch = qcow2_enter(layer->qcow2);
	r->pending = 1; /* our own: nothing ends before all is under way */
	for (unsigned i = 0; done < r->length; i++) {
		struct extent e;

		if (i == FAST_EXTENTS_MAX || layer_map(layer, r->offset + done, r->length - done, false, &e) != 0 ||
		    !fast_transfer(queue, r, &e, done, durable))
			break;
		done += e.length;
	}
	r->redo = done < r->length;
	if (--r->pending)
		return true;
	/* Not one transfer: all zeros, or nothing that can be done here. */
	if (layer->qcow2 && layer->file.writable)
		qcow2_leave(layer->qcow2, r->epoch);
	if (r->redo)
		return false;
	block_complete(r, 0);
	return true;
}

static void layers_fast_end(struct block *disk, struct block_request *r)
{
	if (disk->layer->qcow2 && disk->layer->file.writable)
		qcow2_leave(disk->layer->qcow2, r->epoch);
}

static void layers_start(struct block *disk, struct block_request *request)
{
	pool_push(disk->pool, request);
}

static int flush(struct block *disk)
{
	return disk->layer->qcow2 ? qcow2_sync(disk->layer->qcow2) : file_sync(&disk->layer->file);
}

/*
 * The guest can change its buffer at any time: what is looked at and what is written must be one copy. A write that
 * holds part of the header's first bytes is judged by that part.
 */
static int write_probed_head(struct layer *layer, struct block_request *r)
{
	size_t n = sizeof(qcow_magic) - (size_t)r->offset;
	uint8_t *copy = malloc(r->length);
	int err;

	if (!copy)
		return -ENOMEM;
	iov_gather(copy, r->iov, r->iov_count, 0, r->length);
	if (n > r->length)
		n = (size_t)r->length;
	if (!memcmp(copy, qcow_magic + r->offset, n)) {
		/* Once: a guest must not fill our log. */
		if (!atomic_exchange(&layer->file.complained, true))
			msg_error(
				"%s: the guest wants to write a qcow2 header to this raw disk; that is refused unless "
				"format=raw "
				"is given",
				layer->file.path);
		err = -EPERM;
	} else {
		err = file_write(&layer->file, r->offset, copy, r->length);
	}
	free(copy);
	return err;
}

static int carry_out_raw(struct block *disk, struct block_request *r)
{
	struct layer *layer = disk->layer;

	switch (r->op) {
	case BLOCK_READ: return layer_read(layer, r->offset, r->iov, r->iov_count, 0, r->length);
	case BLOCK_WRITE:
		if (writes_probed_head(layer, r))
			return write_probed_head(layer, r);
		return file_writev(&layer->file, r->offset, r->iov, r->iov_count, r->length, false);
	case BLOCK_WRITE_ZEROES:
		return file_zero(&layer->file, r->offset, r->length, r->flags & BLOCK_REQ_UNMAP && disk->discard);
	case BLOCK_DISCARD: file_discard(&layer->file, r->offset, r->length); return 0;
	case BLOCK_FLUSH: return 0;
	}
	return -EOPNOTSUPP;
}

static int carry_out_qcow2(struct block *disk, struct block_request *r)
{
	struct qcow2 *q = disk->layer->qcow2;
	uint8_t epoch;
	int err = -EOPNOTSUPP;

	if (r->op == BLOCK_FLUSH)
		return 0;
	epoch = qcow2_enter(q);
	switch (r->op) {
	case BLOCK_READ: err = layer_read(disk->layer, r->offset, r->iov, r->iov_count, 0, r->length); break;
	case BLOCK_WRITE: err = qcow2_write(q, r); break;
	case BLOCK_WRITE_ZEROES: err = qcow2_zero(q, r); break;
	case BLOCK_DISCARD: err = qcow2_discard(q, r); break;
	case BLOCK_FLUSH: break;
	}
	qcow2_leave(q, epoch);
	return err;
}

/* A request from start to end, on a worker's thread. */
static void layers_work(struct block *disk, struct block_request *r)
{
	bool modifies = r->op == BLOCK_WRITE || r->op == BLOCK_WRITE_ZEROES;
	int err;

	r->redo = false;
	err = disk->layer->qcow2 ? carry_out_qcow2(disk, r) : carry_out_raw(disk, r);
	if (err == QCOW2_PARKED)
		return; /* it is another's now, and may be under way already */
	if (!err && (r->op == BLOCK_FLUSH || (modifies && disk->cache != BLOCK_CACHE_UNSAFE &&
					      (r->flags & BLOCK_REQ_FUA || disk->cache == BLOCK_CACHE_WRITETHROUGH))))
		err = flush(disk);
	block_complete(r, err);
}

static void restart(void *ctx, struct block_request *request)
{
	pool_push(((struct block *)ctx)->pool, request);
}

static int layers_close(struct block *disk)
{
	int err;

	pool_destroy(disk->pool);
	err = layer_close(disk->layer);
	return err;
}

/* Holes of a raw file. */
static void raw_extent(struct layer *layer, uint64_t offset, uint64_t *length, bool *zero)
{
	off_t data = lseek(layer->file.fd, (off_t)offset, SEEK_DATA), end;

	if (data < 0 && errno == ENXIO) { /* a hole up to the end */
		*zero = !layer->file.device;
		return;
	}
	if (data < 0)
		return;
	if ((uint64_t)data > offset) {
		*zero = true;
		end = data;
	} else {
		end = lseek(layer->file.fd, (off_t)offset, SEEK_HOLE);
	}
	if (end > (off_t)offset && (uint64_t)end - offset < *length)
		*length = (uint64_t)end - offset;
}

static int layers_extent(struct block *disk, uint64_t offset, uint64_t *length, bool *zero)
{
	bool inside = disk->layer->qcow2 && disk->layer->file.writable;
	uint8_t epoch = inside ? qcow2_enter(disk->layer->qcow2) : 0;
	struct extent e;
	int err = layer_map(disk->layer, offset, *length, true, &e);

	*zero = false;
	if (!err) {
		*length = e.length;
		*zero = e.kind == EXTENT_ZERO;
		if (e.kind == EXTENT_DATA && !e.layer->qcow2)
			raw_extent(e.layer, e.host, length, zero);
	}
	if (inside)
		qcow2_leave(disk->layer->qcow2, epoch);
	return err;
}

static const struct block_driver layers_driver = {
	.close = layers_close,
	.fast = layers_fast,
	.start = layers_start,
	.fast_end = layers_fast_end,
	.extent = layers_extent,
};

int layers_open(struct block *disk, const struct block_options *options, const struct error_text *error)
{
	struct layer_options o = {
		.format = options->format,
		.writable = !options->readonly,
		.direct = options->cache == BLOCK_CACHE_NONE,
		.unsafe = options->cache == BLOCK_CACHE_UNSAFE,
		.lock = !options->no_lock,
		.discard = options->discard,
	};
	int err = layer_open(&disk->layer, options->path, &o, error);

	if (err)
		return err;
	disk->driver = &layers_driver;
	disk->pool = pool_create(layers_work, disk);
	if (!disk->pool) {
		layer_close(disk->layer);
		return error_set(error, EAGAIN, "%s: cannot create a thread: %s", options->path, strerror(EAGAIN));
	}
	disk->info.size = disk->layer->size;
	disk->info.block_size = disk->layer->file.align > 512 ? disk->layer->file.align : 512;
	disk->info.format = disk->layer->qcow2 ? "qcow2" : "raw";
	if (options->discard)
		disk->info.discard_align =
			disk->layer->qcow2 ? UINT32_C(1) << qcow2_header(disk->layer->qcow2)->cluster_bits : 4096;
	if (disk->layer->qcow2)
		qcow2_set_restart(disk->layer->qcow2, restart, disk);
	return 0;
}
