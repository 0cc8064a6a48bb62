/* SPDX-License-Identifier: Apache-2.0 */
#include "block/qcow2_create.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

#define REFCOUNT_ORDER 4

/* In clusters: header, refcount table, refcount blocks, L1 table, one after the other. */
struct layout {
	uint64_t cluster_size, table, blocks, l1, total;
	uint32_t l1_entries;
};

static int plan(const struct qcow2_create *o, struct layout *l)
{
	uint64_t covered, per_block, before = 0;

	l->cluster_size = UINT64_C(1) << o->cluster_bits;
	covered = l->cluster_size * (l->cluster_size / 8);
	per_block = l->cluster_size * 8 >> REFCOUNT_ORDER;
	if (o->size > INT64_MAX - covered || (o->size + covered - 1) / covered > QCOW2_L1_BYTES_MAX / 8)
		return -EFBIG;
	l->l1_entries = (uint32_t)((o->size + covered - 1) / covered);
	if (!l->l1_entries)
		l->l1_entries = 1;
	l->l1 = (l->l1_entries * UINT64_C(8) + l->cluster_size - 1) / l->cluster_size;
	l->blocks = l->table = 1;
	do {
		before = l->total;
		l->total = 1 + l->table + l->blocks + l->l1;
		l->blocks = (l->total + per_block - 1) / per_block;
		l->table = (l->blocks * 8 + l->cluster_size - 1) / l->cluster_size;
	} while (l->total != before);
	return 0;
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

static int fill_header(uint8_t *head, const struct qcow2_create *o, const struct layout *l)
{
	size_t at = 112, format = o->backing_format ? strlen(o->backing_format) : 0;

	put32(head, QCOW2_MAGIC);
	put32(head + 4, 3);
	put32(head + 20, o->cluster_bits);
	put64(head + QCOW2_AT_SIZE, o->size);
	put32(head + 36, l->l1_entries);
	put64(head + 40, (1 + l->table + l->blocks) * l->cluster_size);
	put64(head + QCOW2_AT_REFTABLE, l->cluster_size);
	put32(head + QCOW2_AT_REFTABLE_CLUSTERS, (uint32_t)l->table);
	put32(head + 96, REFCOUNT_ORDER);
	put32(head + 100, 112); /* up to the compression type and its padding */
	if (format) {
		put32(head + at, QCOW2_EXT_BACKING_FORMAT);
		put32(head + at + 4, (uint32_t)format);
		memcpy(head + at + 8, o->backing_format, format);
		at += 8 + ((format + 7) & ~(size_t)7);
	}
	at += 8; /* the end of the extensions: zeros */
	if (o->backing) {
		size_t len = strlen(o->backing);

		if (len > QCOW2_BACKING_NAME_MAX || at + len > l->cluster_size)
			return -ENAMETOOLONG;
		memcpy(head + at, o->backing, len);
		put64(head + 8, at);
		put32(head + 16, (uint32_t)len);
	}
	return 0;
}

static int write_counts(struct image_file *file, const struct layout *l)
{
	uint64_t per_block = l->cluster_size * 8 >> REFCOUNT_ORDER;
	uint64_t *table = calloc(l->table, l->cluster_size);
	uint8_t *block = malloc(l->cluster_size);
	int err = table && block ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < l->blocks && !err; b++) {
		uint64_t offset = (1 + l->table + b) * l->cluster_size;

		memset(block, 0, l->cluster_size);
		for (uint64_t i = 0; i < per_block && b * per_block + i < l->total; i++)
			qcow2_refblock_set(block, REFCOUNT_ORDER, i, 1);
		table[b] = htobe64(offset);
		err = file_write(file, offset, block, l->cluster_size);
	}
	if (!err)
		err = file_write(file, l->cluster_size, table, l->table * l->cluster_size);
	free(table);
	free(block);
	return err;
}

int qcow2_create(struct image_file *file, const struct qcow2_create *o, const struct error_text *error)
{
	struct layout l = { 0 };
	uint8_t *buffer;
	int err = plan(o, &l);

	if (err)
		return error_set(error, EFBIG, "%s: %llu bytes are too many for clusters of %llu bytes", file->path,
				 (unsigned long long)o->size, (unsigned long long)l.cluster_size);
	buffer = calloc(1, l.cluster_size);
	if (!buffer)
		return error_set(error, ENOMEM, "%s: %s", file->path, strerror(ENOMEM));
	/* The header last: a torn creation leaves no image. */
	err = write_counts(file, &l);
	for (uint64_t i = 0; i < l.l1 && !err; i++)
		err = file_write(file, (1 + l.table + l.blocks + i) * l.cluster_size, buffer, l.cluster_size);
	if (!err)
		err = file_sync(file);
	if (!err)
		err = fill_header(buffer, o, &l);
	if (err == -ENAMETOOLONG) {
		free(buffer);
		return error_set(error, ENAMETOOLONG, "%s: the backing file's name is too long", file->path);
	}
	if (!err)
		err = file_write(file, 0, buffer, l.cluster_size);
	if (!err)
		err = file_sync(file);
	free(buffer);
	if (err)
		return error_set(error, -err, "%s: %s", file->path, strerror(-err));
	return 0;
}
