/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers of a file-backed disk: the image that is written, the backing file behind it, and so on. Only the top
 * layer is ever written.
 */
#ifndef VMM_BLOCK_LAYER_H
#define VMM_BLOCK_LAYER_H

#include "block/block.h"
#include "block/file.h"

#define LAYER_DEPTH_MAX 64

struct qcow2;

struct layer {
	enum block_format format; /* RAW or QCOW2 */
	struct image_file file;
	uint64_t size; /* of the disk it holds, a multiple of 512 */
	/* No format was named and no header found: no guest may write one now. */
	bool probed_raw;
	struct qcow2 *qcow2;
	struct layer *backing;
};

enum extent_kind {
	EXTENT_DATA,       /* lies in file at host */
	EXTENT_ZERO,       /* reads as zeros */
	EXTENT_COMPRESSED, /* of one compressed cluster: ask `layer` */
	EXTENT_UNALLOCATED /* within one layer: the backing file's, or zeros */
};

struct extent {
	enum extent_kind kind;
	struct layer *layer;
	uint64_t host;   /* DATA */
	uint64_t entry;  /* COMPRESSED: the L2 entry */
	uint64_t length; /* at most what was asked for */
	bool in_place;   /* DATA of the layer asked: may be overwritten where it is */
};

/* The files above one that is being opened: an image that is its own backing file is found out. */
struct layer_above {
	dev_t dev;
	ino_t ino;
	unsigned depth;
	const struct layer_above *next;
};

struct layer_options {
	enum block_format format;
	bool writable, direct, unsafe, lock;
	bool discard;    /* punch holes for freed clusters */
	bool no_backing; /* do not open what lies behind */
	const struct layer_above *above;
};

/* 0 or -errno with the text set. */
int layer_open(struct layer **layer, const char *path, const struct layer_options *options,
	       const struct error_text *error);
/* 0 or -errno: something could not be made durable. */
int layer_close(struct layer *layer);

/*
 * What the first bytes at offset are, in this layer or those behind. -EAGAIN: that cannot be told without reading
 * (only if !may_block); -errno. On a writable qcow2 layer the caller is between qcow2_enter() and qcow2_leave().
 */
int layer_map(struct layer *layer, uint64_t offset, uint64_t length, bool may_block, struct extent *extent);
/* Reads zeros past the layer's end. */
int layer_read(struct layer *layer, uint64_t offset, const struct iovec *iov, unsigned n, size_t skip, size_t length);
/* A name as it stands in an image is relative to the image's folder. Allocated; NULL: no memory. */
char *layer_beside(const char *image, const char *name);
bool layer_looks_like_qcow2(struct image_file *file);
/* Is all of it known to read as zeros, without reading data? */
bool layer_is_zero(struct layer *layer, uint64_t offset, uint64_t length);

#endif
