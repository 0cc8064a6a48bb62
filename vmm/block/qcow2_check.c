/* SPDX-License-Identifier: Apache-2.0 */
#include "block/qcow2_check.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_internal.h"

#define REPORTS_MAX 100

struct checker {
	struct image_file *file;
	const struct qcow2_header *h;
	struct qcow2_check *out;
	uint64_t cluster_size, clusters; /* of the file, a cut last one included */
	uint64_t file_end;               /* rounded up to a cluster */
	uint32_t *refs;                  /* references found, by cluster */
	uint32_t *says;                  /* the image's own count, by cluster */
	uint64_t *reftable;
	uint64_t reftable_entries;
	unsigned reports;
	bool fix_flags; /* set the "copied" flags by refs */
};

enum severity { HARMLESS, UNSAFE };

__attribute__((format(printf, 3, 4))) static void corruption(struct checker *c, enum severity severity, const char *fmt,
							     ...)
{
	char line[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->out->corruptions++;
	if (severity == UNSAFE)
		c->out->unsafe++;
	if (!c->out->first[0] || (severity == UNSAFE && c->out->unsafe == 1))
		strcpy(c->out->first, line);
	if (c->out->report && c->reports++ < REPORTS_MAX)
		c->out->report(c->out->ctx, line);
}

/* --- counting references --- */

/* True: it lies in the file. */
static bool count(struct checker *c, const char *what, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / c->cluster_size, last = (offset + length - 1) / c->cluster_size;

	if (!length)
		return true;
	if (offset + length < offset || last >= c->clusters) {
		corruption(c, UNSAFE, "the %s at %#" PRIx64 " is not in the file", what, offset);
		return false;
	}
	for (uint64_t i = first; i <= last; i++)
		if (c->refs[i] < UINT32_MAX)
			c->refs[i]++;
	return true;
}

static bool is_aligned(struct checker *c, const char *what, uint64_t offset)
{
	if (!(offset & (c->cluster_size - 1)))
		return true;
	corruption(c, UNSAFE, "the %s at %#" PRIx64 " does not begin at a cluster", what, offset);
	return false;
}

static int read_table(struct checker *c, uint64_t offset, uint64_t entries, uint64_t **table)
{
	int err;

	*table = malloc(entries * 8 + 1);
	if (!*table)
		return -ENOMEM;
	err = file_read(c->file, offset, *table, entries * 8);
	if (err) {
		free(*table);
		*table = NULL;
		return err;
	}
	for (uint64_t i = 0; i < entries; i++)
		(*table)[i] = be64toh((*table)[i]);
	return 0;
}

static void count_compressed(struct checker *c, uint64_t entry)
{
	uint64_t offset, length;

	qcow2_compressed_place(c->h->cluster_bits, entry, &offset, &length);
	if (entry & QCOW2_COPIED)
		corruption(c, UNSAFE, "the compressed cluster's entry %#" PRIx64 " has the copied flag", entry);
	/* The last sector need not be there in full. */
	if (offset < c->file_end && offset + length > c->file_end && offset + length - c->file_end < 512)
		length = c->file_end - offset;
	count(c, "compressed cluster", offset, length);
}

static void count_entry(struct checker *c, uint64_t entry, bool active)
{
	struct qcow2_check *out = c->out;

	if (entry & QCOW2_COMPRESSED) {
		if (active) {
			out->allocated++;
			out->compressed++;
		}
		count_compressed(c, entry);
		return;
	}
	if (entry & QCOW2_L2_RESERVED || (c->h->version < 3 && entry & QCOW2_ZERO)) {
		corruption(c, UNSAFE, "the L2 entry %#" PRIx64 " has reserved bits set", entry);
		return;
	}
	if (active && entry & QCOW2_ZERO)
		out->zero++;
	if (!(entry & QCOW2_OFFSET_MASK)) {
		if (entry & QCOW2_COPIED)
			corruption(c, UNSAFE, "the L2 entry %#" PRIx64 " has the copied flag and no cluster", entry);
		return;
	}
	if (active && !(entry & QCOW2_ZERO))
		out->allocated++;
	if (is_aligned(c, "data cluster", entry & QCOW2_OFFSET_MASK))
		count(c, "data cluster", entry & QCOW2_OFFSET_MASK, c->cluster_size);
}

static int count_l1(struct checker *c, const char *what, uint64_t offset, uint32_t entries, bool active)
{
	uint64_t *l1;
	int err;

	if (!entries || !is_aligned(c, what, offset) || !count(c, what, offset, entries * UINT64_C(8)))
		return 0;
	err = read_table(c, offset, entries, &l1);
	for (uint32_t i = 0; i < entries && !err; i++) {
		uint64_t table = l1[i] & QCOW2_OFFSET_MASK, *l2;

		if (l1[i] & QCOW2_L1_RESERVED) {
			corruption(c, UNSAFE, "the L1 entry %#" PRIx64 " has reserved bits set", l1[i]);
			continue;
		}
		if (!table || !is_aligned(c, "L2 table", table) || !count(c, "L2 table", table, c->cluster_size))
			continue;
		err = read_table(c, table, c->cluster_size / 8, &l2);
		for (uint64_t k = 0; k < c->cluster_size / 8 && !err; k++)
			count_entry(c, l2[k], active);
		free(l2);
	}
	free(l1);
	return err;
}

static int count_snapshots(struct checker *c)
{
	char text[160];
	struct error_text error = { text, sizeof(text) };
	struct qcow2_snapshot *list;
	uint64_t size;
	int err = qcow2_snapshots_read(c->file, c->h, &list, &size, &error);

	if (err == -ENOMEM || err == -EIO)
		return err;
	if (err) {
		corruption(c, UNSAFE, "%s", text);
		return 0;
	}
	count(c, "snapshot table", c->h->snapshots_offset, size);
	for (uint32_t i = 0; i < c->h->snapshots && !err; i++)
		err = count_l1(c, "snapshot's L1 table", list[i].l1_offset, list[i].l1_size, false);
	free(list);
	return err;
}

/* "Bitmap directory", "Bitmap table": only what is needed to know their clusters. */
static int count_bitmaps(struct checker *c)
{
	uint64_t at = 0, size = c->h->bitmap_dir_size;
	uint8_t *dir;
	int err;

	if (!c->h->has_bitmaps || !size || !count(c, "bitmap directory", c->h->bitmap_dir_offset, size))
		return 0;
	dir = malloc(size);
	err = dir ? file_read(c->file, c->h->bitmap_dir_offset, dir, size) : -ENOMEM;
	for (uint32_t i = 0; i < c->h->bitmaps && !err; i++) {
		uint64_t offset, *table;
		uint32_t entries, extra;
		uint16_t name;

		if (size - at < 24) {
			corruption(c, HARMLESS, "the bitmap directory is cut short");
			break;
		}
		memcpy(&offset, dir + at, 8);
		memcpy(&entries, dir + at + 8, 4);
		memcpy(&name, dir + at + 18, 2);
		memcpy(&extra, dir + at + 20, 4);
		offset = be64toh(offset);
		entries = be32toh(entries);
		if (!is_aligned(c, "bitmap table", offset) || !count(c, "bitmap table", offset, entries * UINT64_C(8)))
			break;
		err = read_table(c, offset, entries, &table);
		for (uint32_t k = 0; k < entries && !err; k++)
			if (table[k] & QCOW2_OFFSET_MASK &&
			    is_aligned(c, "bitmap cluster", table[k] & QCOW2_OFFSET_MASK))
				count(c, "bitmap cluster", table[k] & QCOW2_OFFSET_MASK, c->cluster_size);
		free(table);
		at += (UINT64_C(24) + be32toh(extra) + be16toh(name) + 7) & ~UINT64_C(7);
		if (at > size)
			at = size;
	}
	free(dir);
	return err;
}

static int count_refcounts(struct checker *c)
{
	uint64_t size = (uint64_t)c->h->reftable_clusters * c->cluster_size;
	int err;

	count(c, "refcount table", c->h->reftable_offset, size);
	c->reftable_entries = size / 8;
	err = read_table(c, c->h->reftable_offset, c->reftable_entries, &c->reftable);
	for (uint64_t i = 0; i < c->reftable_entries && !err; i++) {
		uint64_t offset = c->reftable[i];

		if (!offset)
			continue;
		/* One that cannot be used counts nothing. */
		if (!is_aligned(c, "refcount block", offset) || !count(c, "refcount block", offset, c->cluster_size))
			c->reftable[i] = 0;
	}
	return err;
}

static int count_all(struct checker *c)
{
	int err;

	count(c, "header", 0, c->cluster_size);
	err = count_refcounts(c);
	if (!err)
		err = count_l1(c, "L1 table", c->h->l1_offset, c->h->l1_size, true);
	if (!err)
		err = count_snapshots(c);
	if (!err)
		err = count_bitmaps(c);
	return err;
}

/* --- comparing with what the image says --- */

static void compare(struct checker *c, uint64_t cluster, uint64_t says)
{
	c->says[cluster] = says < UINT32_MAX ? (uint32_t)says : UINT32_MAX;
	if (says > c->refs[cluster])
		c->out->leaks++;
	else if (says < c->refs[cluster])
		corruption(c, UNSAFE, "the cluster at %#" PRIx64 " has refcount %" PRIu64 " and %u references",
			   cluster * c->cluster_size, says, c->refs[cluster]);
}

static int compare_refcounts(struct checker *c)
{
	unsigned order = c->h->refcount_order;
	uint64_t per_block = c->cluster_size * 8 >> order;
	uint8_t *block = malloc(c->cluster_size);
	int err = block ? 0 : -ENOMEM;

	for (uint64_t first = 0; first < c->clusters && !err; first += per_block) {
		uint64_t index = first / per_block;
		bool exists = index < c->reftable_entries && c->reftable[index];

		if (exists)
			err = file_read(c->file, c->reftable[index], block, c->cluster_size);
		for (uint64_t i = 0; i < per_block && first + i < c->clusters && !err; i++)
			compare(c, first + i, exists ? qcow2_refblock_get(block, order, i) : 0);
	}
	free(block);
	return err;
}

/*
 * Bit 63 of an active entry must be set if and only if the image counts one reference. With fix_flags: if and only if
 * there is one. True: the entry was changed.
 */
static bool check_flag(struct checker *c, const char *what, uint64_t *entry)
{
	uint64_t offset = *entry & QCOW2_OFFSET_MASK, cluster = offset / c->cluster_size;
	bool copied = *entry & QCOW2_COPIED;
	uint32_t counted;

	if (!offset || offset & (c->cluster_size - 1) || cluster >= c->clusters)
		return false;
	counted = c->fix_flags ? c->refs[cluster] : c->says[cluster];
	if (copied == (counted == 1))
		return false;
	if (c->fix_flags) {
		*entry ^= QCOW2_COPIED;
		return true;
	}
	/* Missing, it costs a copy; too many, and a write goes to what others see too. */
	corruption(c, copied ? UNSAFE : HARMLESS, "the %s at %#" PRIx64 " has refcount %u and the copied flag %s", what,
		   offset, counted, copied ? "set" : "clear");
	return false;
}

static int write_entries(struct checker *c, uint64_t offset, const uint64_t *table, uint64_t entries)
{
	uint64_t *disk = malloc(entries * 8);
	int err = disk ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < entries && !err; i++)
		disk[i] = htobe64(table[i]);
	if (!err)
		err = file_write(c->file, offset, disk, entries * 8);
	free(disk);
	return err;
}

static int check_l2_flags(struct checker *c, uint64_t offset)
{
	uint64_t entries = c->cluster_size / 8, *l2;
	bool changed = false;
	int err = read_table(c, offset, entries, &l2);

	for (uint64_t k = 0; k < entries && !err; k++)
		if (!(l2[k] & QCOW2_COMPRESSED) && !(l2[k] & QCOW2_L2_RESERVED))
			changed |= check_flag(c, "data cluster", &l2[k]);
	if (!err && changed)
		err = write_entries(c, offset, l2, entries);
	free(l2);
	return err;
}

static int check_flags(struct checker *c)
{
	uint64_t *l1;
	bool changed = false;
	int err = read_table(c, c->h->l1_offset, c->h->l1_size, &l1);

	for (uint32_t i = 0; i < c->h->l1_size && !err; i++) {
		uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;

		if (!offset || offset & (c->cluster_size - 1) || offset >= c->file_end || l1[i] & QCOW2_L1_RESERVED)
			continue;
		changed |= check_flag(c, "L2 table", &l1[i]);
		err = check_l2_flags(c, offset);
	}
	if (!err && changed)
		err = write_entries(c, c->h->l1_offset, l1, c->h->l1_size);
	free(l1);
	return err;
}

/* --- repair: the counts anew, behind the end of the file --- */

static void forget_old_counts(struct checker *c)
{
	for (uint64_t i = 0; i < c->h->reftable_clusters; i++)
		c->refs[c->h->reftable_offset / c->cluster_size + i]--;
	for (uint64_t i = 0; i < c->reftable_entries; i++)
		if (c->reftable[i])
			c->refs[c->reftable[i] / c->cluster_size]--;
}

static int write_counts(struct checker *c, uint64_t table, uint64_t blocks)
{
	unsigned order = c->h->refcount_order;
	uint64_t per_block = c->cluster_size * 8 >> order, total = c->clusters + table + blocks;
	uint64_t max = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
	uint64_t *entries = calloc(table, c->cluster_size);
	uint8_t *block = malloc(c->cluster_size);
	int err = entries && block ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < blocks && !err; b++) {
		uint64_t offset = (c->clusters + table + b) * c->cluster_size;

		memset(block, 0, c->cluster_size);
		for (uint64_t i = 0; i < per_block && b * per_block + i < total && !err; i++) {
			uint64_t cluster = b * per_block + i;
			uint64_t value = cluster < c->clusters ? c->refs[cluster] : 1;

			if (value > max)
				err = -ERANGE;
			else
				qcow2_refblock_set(block, order, i, value);
		}
		entries[b] = htobe64(offset);
		if (!err)
			err = file_write(c->file, offset, block, c->cluster_size);
	}
	if (!err)
		err = file_write(c->file, c->clusters * c->cluster_size, entries, table * c->cluster_size);
	free(entries);
	free(block);
	return err ? err : file_sync(c->file);
}

static int rebuild_counts(struct checker *c)
{
	uint64_t per_block = c->cluster_size * 8 >> c->h->refcount_order, per_table = c->cluster_size / 8;
	uint64_t table = 1, blocks = 1, old_blocks = 0, old_table = 0;
	uint8_t field[12];
	uint64_t offset;
	uint32_t clusters;
	int err;

	if (c->file->device)
		return -EOPNOTSUPP; /* nothing lies behind the end of a device */
	while (blocks != old_blocks || table != old_table) {
		old_blocks = blocks;
		old_table = table;
		blocks = (c->clusters + table + blocks + per_block - 1) / per_block;
		table = (blocks + per_table - 1) / per_table;
	}
	if (table * c->cluster_size > QCOW2_REFTABLE_BYTES_MAX)
		return -EFBIG;
	forget_old_counts(c);
	err = write_counts(c, table, blocks);
	if (err)
		return err;
	offset = htobe64(c->clusters * c->cluster_size);
	clusters = htobe32((uint32_t)table);
	memcpy(field, &offset, 8);
	memcpy(field + 8, &clusters, 4);
	err = qcow2_header_update(c->file, QCOW2_AT_REFTABLE, field, sizeof(field));
	return err ? err : file_sync(c->file);
}

/* With right counts and flags, nothing is left that the bits warn of. */
static int clear_marks(struct checker *c)
{
	uint64_t features = c->h->incompatible & ~(QCOW2_DIRTY | QCOW2_CORRUPT);
	int err;

	if (features == c->h->incompatible || c->h->version < 3)
		return 0;
	features = htobe64(features);
	err = qcow2_header_update(c->file, QCOW2_AT_INCOMPATIBLE, &features, sizeof(features));
	return err ? err : file_sync(c->file);
}

static int repair(struct checker *c)
{
	int err = rebuild_counts(c);

	c->fix_flags = true;
	if (!err)
		err = check_flags(c);
	return err ? err : file_sync(c->file);
}

/* --- a whole check --- */

static int run(struct image_file *file, const struct qcow2_header *h, struct qcow2_check *out, bool do_repair)
{
	struct checker c = { .file = file, .h = h, .out = out, .cluster_size = UINT64_C(1) << h->cluster_bits };
	int err;

	c.clusters = (atomic_load(&file->end) + c.cluster_size - 1) >> h->cluster_bits;
	c.file_end = c.clusters << h->cluster_bits;
	c.refs = calloc(c.clusters, sizeof(*c.refs));
	c.says = calloc(c.clusters, sizeof(*c.says));
	if (!c.refs || !c.says) {
		free(c.refs);
		free(c.says);
		return -ENOMEM;
	}
	out->corruptions = out->leaks = out->unsafe = 0;
	out->allocated = out->compressed = out->zero = 0;
	out->clusters = (h->size + c.cluster_size - 1) >> h->cluster_bits;
	out->first[0] = '\0';
	err = count_all(&c);
	if (!err && do_repair) {
		err = repair(&c);
	} else if (!err) {
		err = compare_refcounts(&c);
		if (!err)
			err = check_flags(&c);
	}
	free(c.reftable);
	free(c.refs);
	free(c.says);
	return err;
}

int qcow2_check(struct image_file *file, const struct qcow2_header *header, enum qcow2_repair how,
		struct qcow2_check *check)
{
	bool marked = header->incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT);
	char text[200];
	struct error_text error = { text, sizeof(text) };
	struct qcow2_header now = *header;
	uint64_t found;
	int err = run(file, header, check, false);

	found = check->corruptions + check->leaks;
	if (err || how == QCOW2_REPAIR_NOTHING || (!found && !marked) ||
	    (how == QCOW2_REPAIR_LEAKS && check->corruptions))
		return err;
	if (found) {
		struct qcow2_check silent = *check;

		silent.report = NULL;
		err = run(file, header, &silent, true);
		if (!err)
			err = qcow2_header_read(file, &now, &error);
		if (!err)
			err = run(file, &now, &silent, false);
		if (err)
			return err;
		silent.report = check->report;
		*check = silent;
		check->fixed = found - (check->corruptions + check->leaks);
	}
	if (!check->corruptions && how == QCOW2_REPAIR_ALL) {
		struct checker c = { .file = file, .h = &now };

		err = clear_marks(&c);
	}
	return err;
}
