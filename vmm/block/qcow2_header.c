/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_format.h"

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* A header extension of the given type within the head of the image; NULL: none. */
static const uint8_t *find_extension(const uint8_t *head, size_t head_size, uint32_t start, uint32_t type,
				     uint32_t *len)
{
	size_t at = start;

	while (at + 8 <= head_size) {
		uint32_t t = get32(head + at);

		*len = get32(head + at + 4);
		if (t == QCOW2_EXT_END || *len > head_size - at - 8)
			return NULL;
		if (t == type)
			return head + at + 8;
		at += 8 + ((*len + UINT32_C(7)) & ~UINT32_C(7));
	}
	return NULL;
}

/* The name the image itself gives an incompatible feature ("Feature name table"). */
static void feature_name(const uint8_t *head, size_t head_size, uint32_t start, unsigned bit, char name[47])
{
	uint32_t len;
	const uint8_t *table = find_extension(head, head_size, start, QCOW2_EXT_FEATURE_NAMES, &len);

	strcpy(name, "unknown");
	for (; table && len >= 48; table += 48, len -= 48) {
		if (table[0] != 0 || table[1] != bit)
			continue;
		memcpy(name, table + 2, 46);
		name[46] = '\0';
		for (char *p = name; *p; p++)
			if (*p < ' ' || *p > '~')
				*p = '?';
		return;
	}
}

static int check_features(const char *path, const struct qcow2_header *h, const uint8_t *head, size_t head_size,
			  const struct error_text *error)
{
	uint64_t unknown = h->incompatible & ~(QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION_TYPE);
	char name[47];

	if (unknown & QCOW2_EXTERNAL_DATA)
		return error_set(error, ENOTSUP, "%s: qcow2 with an external data file is not supported", path);
	if (unknown & QCOW2_EXTENDED_L2)
		return error_set(error, ENOTSUP, "%s: qcow2 with extended L2 entries (subclusters) is not supported",
				 path);
	if (unknown) {
		unsigned bit = (unsigned)__builtin_ctzll(unknown);

		feature_name(head, head_size, h->length, bit, name);
		return error_set(error, ENOTSUP, "%s: unsupported qcow2 feature: %s (incompatible feature bit %u)",
				 path, name, bit);
	}
	if (!!(h->incompatible & QCOW2_COMPRESSION_TYPE) != (h->compression != QCOW2_ZLIB) ||
	    h->compression > QCOW2_ZSTD)
		return error_set(error, EINVAL, "%s: unknown qcow2 compression type %u", path,
				 (unsigned)h->compression);
	return 0;
}

/* A table: begins at a cluster, lies within the file and is no longer than it may be. */
static int check_table(const struct image_file *file, const struct qcow2_header *h, const char *what, uint64_t offset,
		       uint64_t bytes, uint64_t limit, const struct error_text *error)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits;
	uint64_t end = (atomic_load(&file->end) + cluster - 1) & ~(cluster - 1);

	if (bytes > limit)
		return error_set(error, EFBIG, "%s: corrupt qcow2: the %s has %llu bytes, more than the limit",
				 file->path, what, (unsigned long long)bytes);
	if (offset & (cluster - 1))
		return error_set(error, EINVAL, "%s: corrupt qcow2: the %s does not begin at a cluster (%#llx)",
				 file->path, what, (unsigned long long)offset);
	if (bytes && (!offset || offset >= end || bytes > end - offset))
		return error_set(error, EINVAL, "%s: corrupt or truncated qcow2: the %s at %#llx is not in the file",
				 file->path, what, (unsigned long long)offset);
	return 0;
}

static int check_tables(const struct image_file *file, const struct qcow2_header *h, const struct error_text *error)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits, covered = cluster * (cluster / 8);
	int err;

	if (h->size > INT64_MAX - covered)
		return error_set(error, EFBIG, "%s: corrupt qcow2: a disk of %llu bytes", file->path,
				 (unsigned long long)h->size);
	if (h->l1_size < (h->size + covered - 1) / covered)
		return error_set(error, EINVAL, "%s: corrupt qcow2: the L1 table is too short for a disk of %llu bytes",
				 file->path, (unsigned long long)h->size);
	err = check_table(file, h, "L1 table", h->l1_offset, h->l1_size * UINT64_C(8), QCOW2_L1_BYTES_MAX, error);
	if (!err && !h->reftable_clusters)
		err = error_set(error, EINVAL, "%s: corrupt qcow2: there is no refcount table", file->path);
	if (!err)
		err = check_table(file, h, "refcount table", h->reftable_offset,
				  (uint64_t)h->reftable_clusters << h->cluster_bits, QCOW2_REFTABLE_BYTES_MAX, error);
	if (!err && h->snapshots > QCOW2_SNAPSHOTS_MAX)
		err = error_set(error, EFBIG, "%s: corrupt qcow2: %u snapshots", file->path, h->snapshots);
	if (!err && h->snapshots)
		err = check_table(file, h, "snapshot table", h->snapshots_offset, h->snapshots * UINT64_C(40),
				  QCOW2_SNAPSHOT_TABLE_MAX, error);
	if (!err && h->has_bitmaps)
		err = check_table(file, h, "bitmap directory", h->bitmap_dir_offset, h->bitmap_dir_size,
				  QCOW2_SNAPSHOT_TABLE_MAX, error);
	return err;
}

static int read_strings(const char *path, struct qcow2_header *h, const uint8_t *head, size_t head_size,
			const struct error_text *error)
{
	uint64_t backing = get64(head + 8);
	uint32_t backing_len = get32(head + 16), len;
	const uint8_t *ext = find_extension(head, head_size, h->length, QCOW2_EXT_BACKING_FORMAT, &len);

	if (ext) {
		if (len >= sizeof(h->backing_format) || memchr(ext, 0, len))
			return error_set(error, EINVAL, "%s: corrupt qcow2: the backing format's name", path);
		memcpy(h->backing_format, ext, len);
	}
	ext = find_extension(head, head_size, h->length, QCOW2_EXT_BITMAPS, &len);
	if (ext && len >= 24) {
		h->has_bitmaps = true;
		h->bitmaps = get32(ext);
		h->bitmap_dir_size = get64(ext + 8);
		h->bitmap_dir_offset = get64(ext + 16);
	}
	if (!backing)
		return 0;
	/* "the backing file name should be stored … between the end of the header extension area and the end of the
	 * first cluster" */
	if (!backing_len || backing_len > QCOW2_BACKING_NAME_MAX || backing >= head_size ||
	    backing_len > head_size - backing || backing < h->length || memchr(head + backing, 0, backing_len))
		return error_set(error, EINVAL, "%s: corrupt qcow2: the backing file's name", path);
	memcpy(h->backing, head + backing, backing_len);
	return 0;
}

static int parse_fields(const char *path, struct qcow2_header *h, const uint8_t *head, const struct error_text *error)
{
	uint32_t crypt = get32(head + 32);

	h->version = get32(head + 4);
	h->cluster_bits = get32(head + 20);
	h->size = get64(head + QCOW2_AT_SIZE);
	h->l1_size = get32(head + 36);
	h->l1_offset = get64(head + 40);
	h->reftable_offset = get64(head + QCOW2_AT_REFTABLE);
	h->reftable_clusters = get32(head + QCOW2_AT_REFTABLE_CLUSTERS);
	h->snapshots = get32(head + 60);
	h->snapshots_offset = get64(head + 64);
	h->refcount_order = 4;
	h->length = QCOW2_HEADER_V2;
	if (h->version == 1)
		return error_set(error, ENOTSUP,
				 "%s: qcow version 1 is not supported (qemu-img convert makes it qcow2)", path);
	if (h->version != 2 && h->version != 3)
		return error_set(error, ENOTSUP, "%s: unknown qcow2 version %u", path, h->version);
	if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return error_set(error, EINVAL, "%s: corrupt qcow2: clusters of 2^%u bytes (512 to 2M are supported)",
				 path, h->cluster_bits);
	if (crypt)
		return error_set(error, ENOTSUP, "%s: the image is encrypted (%s), which is not supported", path,
				 crypt == 1   ? "AES"
				 : crypt == 2 ? "LUKS"
					      : "unknown method");
	return 0;
}

static int parse_fields_v3(const char *path, struct qcow2_header *h, const uint8_t *head, size_t head_size,
			   const struct error_text *error)
{
	h->incompatible = get64(head + QCOW2_AT_INCOMPATIBLE);
	h->compatible = get64(head + 80);
	h->autoclear = get64(head + QCOW2_AT_AUTOCLEAR);
	h->refcount_order = get32(head + 96);
	h->length = get32(head + 100);
	if (h->length < QCOW2_HEADER_V3 || h->length % 8 || h->length > head_size)
		return error_set(error, EINVAL, "%s: corrupt qcow2: a header of %u bytes", path, h->length);
	if (h->refcount_order > 6)
		return error_set(error, EINVAL, "%s: corrupt qcow2: refcounts of 2^%u bits", path, h->refcount_order);
	if (h->length > 104)
		h->compression = head[104];
	return 0;
}

int qcow2_header_read(struct image_file *file, struct qcow2_header *h, const struct error_text *error)
{
	uint64_t end = atomic_load(&file->end);
	size_t size = (size_t)1 << QCOW2_CLUSTER_BITS_MAX;
	uint8_t *head;
	int err;

	memset(h, 0, sizeof(*h));
	if (end < QCOW2_HEADER_V2)
		return error_set(error, EINVAL, "%s: not a qcow2 image: the file is too short", file->path);
	head = calloc(1, size);
	if (!head)
		return error_set(error, ENOMEM, "%s: %s", file->path, strerror(ENOMEM));
	/* Not more than there is: the rest stays zero. */
	err = file_read(file, 0, head, end < 4096 ? (size_t)end : 4096);
	if (err)
		error_set(error, -err, "%s: %s", file->path, strerror(-err));
	else if (get32(head) != QCOW2_MAGIC)
		err = error_set(error, EINVAL, "%s: not a qcow2 image", file->path);
	if (!err)
		err = parse_fields(file->path, h, head, error);
	if (!err) {
		size = (size_t)1 << h->cluster_bits;
		err = file_read(file, 0, head, end < size ? (size_t)end : size);
		if (err)
			error_set(error, -err, "%s: %s", file->path, strerror(-err));
	}
	if (!err && h->version >= 3)
		err = parse_fields_v3(file->path, h, head, size, error);
	if (!err)
		err = check_features(file->path, h, head, size, error);
	if (!err)
		err = read_strings(file->path, h, head, size, error);
	if (!err)
		err = check_tables(file, h, error);
	free(head);
	return err;
}

int qcow2_snapshots_read(struct image_file *file, const struct qcow2_header *h, struct qcow2_snapshot **snapshots,
			 uint64_t *table_size, const struct error_text *error)
{
	uint64_t at = h->snapshots_offset, end = atomic_load(&file->end);
	struct qcow2_snapshot *list;
	uint8_t entry[40];
	int err = 0;

	*snapshots = NULL;
	*table_size = 0;
	if (!h->snapshots)
		return 0;
	list = calloc(h->snapshots, sizeof(*list));
	if (!list)
		return error_set(error, ENOMEM, "%s: %s", file->path, strerror(ENOMEM));
	for (uint32_t i = 0; i < h->snapshots && !err; i++) {
		uint64_t len;

		if (at > end || end - at < sizeof(entry) || at - h->snapshots_offset > QCOW2_SNAPSHOT_TABLE_MAX) {
			err = error_set(error, EINVAL, "%s: corrupt or truncated qcow2: the snapshot table",
					file->path);
			break;
		}
		err = file_read(file, at, entry, sizeof(entry));
		if (err) {
			error_set(error, -err, "%s: %s", file->path, strerror(-err));
			break;
		}
		list[i].l1_offset = get64(entry);
		list[i].l1_size = get32(entry + 8);
		len = sizeof(entry) + (uint64_t)get32(entry + 36) + get16(entry + 12) + get16(entry + 14);
		at += (len + 7) & ~UINT64_C(7);
		err = check_table(file, h, "L1 table of a snapshot", list[i].l1_offset, list[i].l1_size * UINT64_C(8),
				  QCOW2_L1_BYTES_MAX, error);
	}
	if (err) {
		free(list);
		return err;
	}
	*snapshots = list;
	*table_size = at - h->snapshots_offset;
	return 0;
}
