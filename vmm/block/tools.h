/* SPDX-License-Identifier: Apache-2.0 */
/* What `trapeze image` does. All return 0 or -errno with one line in the text. Thread: any. */
#ifndef VMM_BLOCK_TOOLS_H
#define VMM_BLOCK_TOOLS_H

#include "block/block.h"
#include "block/error.h"
#include "block/qcow2_check.h"

#define IMAGE_CLUSTER_BITS 16 /* of new qcow2 images, unless said otherwise */

struct image_create {
	const char *path;
	enum block_format format; /* RAW or QCOW2 */
	uint64_t size;            /* bytes; 0: that of the backing file */
	unsigned cluster_bits;
	const char *backing; /* as it is to stand in the image; NULL: none */
	enum block_format backing_format;
	bool force; /* overwrite what is there */
};

int image_tool_create(const struct image_create *options, const struct error_text *error);

struct image_facts {
	const char *format;
	uint64_t size, file_size, disk_usage;
	bool is_qcow2;
	uint32_t version, cluster_size, snapshots, refcount_bits;
	bool dirty, corrupt, lazy_refcounts, zstd;
	char backing[1024], backing_format[64];
};

int image_tool_info(const char *path, enum block_format format, struct image_facts *facts,
		    const struct error_text *error);

int image_tool_check(const char *path, enum block_format format, enum qcow2_repair repair, struct qcow2_check *check,
		     const struct error_text *error);

struct image_convert {
	const char *source, *target; /* target: may be a URI, too, of a disk that is there */
	enum block_format from, to;
	unsigned cluster_bits;
	bool force;
};

int image_tool_convert(const struct image_convert *options, const struct error_text *error);

#endif
