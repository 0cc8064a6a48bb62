/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2: compressed clusters. The last few are kept: a guest reads a cluster in many small pieces. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "block/iov.h"
#include "block/qcow2_internal.h"

#define KEPT 8
/* The specification: raw deflate, a window of 4 KiB. A longer one reads those too. */
#define WINDOW_BITS (-15)

struct inflated {
	struct {
		uint64_t entry; /* 0: none */
		uint8_t *data;
	} slot[KEPT];
	unsigned next;
};

static int inflate_zlib(uint8_t *out, size_t out_size, uint8_t *in, size_t in_size)
{
	z_stream stream = { .next_in = in, .avail_in = (uInt)in_size, .next_out = out, .avail_out = (uInt)out_size };
	int status;

	if (inflateInit2(&stream, WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	status = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	/* A full cluster came out; whether the stream goes on does not matter. */
	return (status == Z_STREAM_END || status == Z_BUF_ERROR) && !stream.avail_out ? 0 : -EIO;
}

/* Streaming: what follows the frame in the last sector is not part of it. */
static int inflate_zstd(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size)
{
	ZSTD_inBuffer from = { in, in_size, 0 };
	ZSTD_outBuffer to = { out, out_size, 0 };
	ZSTD_DCtx *context = ZSTD_createDCtx();
	size_t left = 1;

	if (!context)
		return -ENOMEM;
	while (to.pos < to.size && left) {
		size_t in_before = from.pos, out_before = to.pos;

		left = ZSTD_decompressStream(context, &to, &from);
		if (ZSTD_isError(left) || (from.pos == in_before && to.pos == out_before))
			break;
	}
	ZSTD_freeDCtx(context);
	return to.pos == to.size ? 0 : -EIO;
}

static int read_cluster(struct qcow2 *q, uint64_t entry, uint8_t *out)
{
	uint64_t offset, length, end = atomic_load(&q->file->end);
	uint8_t *in;
	int err;

	qcow2_compressed_place(q->cluster_bits, entry, &offset, &length);
	if (offset >= end || length > 2 * q->cluster_size)
		return -EIO;
	if (length > end - offset)
		length = end - offset;
	in = malloc(length);
	if (!in)
		return -ENOMEM;
	err = file_read(q->file, offset, in, length);
	if (!err)
		err = q->h.compression == QCOW2_ZSTD ? inflate_zstd(out, q->cluster_size, in, length)
						     : inflate_zlib(out, q->cluster_size, in, length);
	free(in);
	return err;
}

/* Under inflate_lock. */
static uint8_t *find(struct qcow2 *q, uint64_t entry)
{
	for (unsigned i = 0; q->inflated && i < KEPT; i++)
		if (q->inflated->slot[i].entry == entry)
			return q->inflated->slot[i].data;
	return NULL;
}

/* Takes data over. Under inflate_lock. */
static void keep(struct qcow2 *q, uint64_t entry, uint8_t *data)
{
	struct inflated *f = q->inflated;

	if (!f)
		f = q->inflated = calloc(1, sizeof(*f));
	if (!f || find(q, entry)) {
		free(data);
		return;
	}
	free(f->slot[f->next].data);
	f->slot[f->next].entry = entry;
	f->slot[f->next].data = data;
	f->next = (f->next + 1) % KEPT;
}

/*
 * Compressed clusters are never written while an image is open for writing, so an entry means the same data as long as
 * the image is open.
 */
int qcow2_read_compressed(struct qcow2 *q, uint64_t entry, size_t offset, const struct iovec *iov, unsigned n,
			  size_t skip, size_t length)
{
	uint8_t *data;
	int err;

	pthread_mutex_lock(&q->inflate_lock);
	data = find(q, entry);
	if (data)
		iov_scatter(iov, n, skip, data + offset, length);
	pthread_mutex_unlock(&q->inflate_lock);
	if (data)
		return 0;
	data = malloc(q->cluster_size);
	if (!data)
		return -ENOMEM;
	err = read_cluster(q, entry, data);
	if (err) {
		free(data);
		return err;
	}
	iov_scatter(iov, n, skip, data + offset, length);
	pthread_mutex_lock(&q->inflate_lock);
	keep(q, entry, data);
	pthread_mutex_unlock(&q->inflate_lock);
	return 0;
}

void qcow2_inflate_close(struct qcow2 *q)
{
	for (unsigned i = 0; q->inflated && i < KEPT; i++)
		free(q->inflated->slot[i].data);
	free(q->inflated);
}
