/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 on the disk: numbers are big-endian. References: sections of QEMU's docs/interop/qcow2. */
#ifndef VMM_BLOCK_QCOW2_FORMAT_H
#define VMM_BLOCK_QCOW2_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "block/file.h"

#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_HEADER_V2 72
#define QCOW2_HEADER_V3 104
#define QCOW2_L1_BYTES_MAX (UINT64_C(32) << 20)
#define QCOW2_REFTABLE_BYTES_MAX (UINT64_C(8) << 20)
#define QCOW2_SNAPSHOTS_MAX 65536
#define QCOW2_SNAPSHOT_TABLE_MAX (UINT64_C(64) << 20)
#define QCOW2_BACKING_NAME_MAX 1023

/* Header: byte offsets. */
#define QCOW2_AT_SIZE 24
#define QCOW2_AT_REFTABLE 48
#define QCOW2_AT_REFTABLE_CLUSTERS 56
#define QCOW2_AT_INCOMPATIBLE 72
#define QCOW2_AT_AUTOCLEAR 88

/* Incompatible features. */
#define QCOW2_DIRTY (UINT64_C(1) << 0)
#define QCOW2_CORRUPT (UINT64_C(1) << 1)
#define QCOW2_EXTERNAL_DATA (UINT64_C(1) << 2)
#define QCOW2_COMPRESSION_TYPE (UINT64_C(1) << 3)
#define QCOW2_EXTENDED_L2 (UINT64_C(1) << 4)
/* Compatible and auto-clear features. */
#define QCOW2_LAZY_REFCOUNTS (UINT64_C(1) << 0)
#define QCOW2_BITMAPS (UINT64_C(1) << 0)

/* Header extensions. */
#define QCOW2_EXT_END UINT32_C(0)
#define QCOW2_EXT_BACKING_FORMAT UINT32_C(0xe2792aca)
#define QCOW2_EXT_FEATURE_NAMES UINT32_C(0x6803f857)
#define QCOW2_EXT_BITMAPS UINT32_C(0x23852875)

enum qcow2_compression { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };

/* L1 and L2 entries ("Cluster mapping"). */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_COPIED (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_ZERO UINT64_C(1)
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe) /* of standard clusters; bit 0 too in version 2 */
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)

struct qcow2_header {
	uint32_t version, cluster_bits, l1_size, reftable_clusters, snapshots, refcount_order, length;
	uint64_t size, l1_offset, reftable_offset, snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	enum qcow2_compression compression;
	char backing[QCOW2_BACKING_NAME_MAX + 1]; /* "" none */
	char backing_format[64];                  /* "" not named */
	bool has_bitmaps;
	uint32_t bitmaps;
	uint64_t bitmap_dir_size, bitmap_dir_offset;
};

struct qcow2_snapshot {
	uint64_t l1_offset;
	uint32_t l1_size;
};

/* Where a compressed cluster's data lies (x = 62 - (cluster_bits - 8)). */
static inline void qcow2_compressed_place(uint32_t cluster_bits, uint64_t entry, uint64_t *offset, uint64_t *length)
{
	unsigned x = 62 - (cluster_bits - 8);
	uint64_t sectors = ((entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;

	*offset = entry & ((UINT64_C(1) << x) - 1);
	*length = sectors * 512 - (*offset & 511);
}

/* Reads and validates a header. 0 or -errno with the text set. Nothing is said about what it points to but bounds. */
int qcow2_header_read(struct image_file *file, struct qcow2_header *header, const struct error_text *error);
/* The snapshot table; *snapshots is allocated, *table_size its bytes on the disk. */
int qcow2_snapshots_read(struct image_file *file, const struct qcow2_header *header, struct qcow2_snapshot **snapshots,
			 uint64_t *table_size, const struct error_text *error);

#endif
