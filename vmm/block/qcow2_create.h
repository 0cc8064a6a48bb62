/* SPDX-License-Identifier: Apache-2.0 */
/* New qcow2 images, version 3. */
#ifndef VMM_BLOCK_QCOW2_CREATE_H
#define VMM_BLOCK_QCOW2_CREATE_H

#include "block/file.h"

struct qcow2_create {
	uint64_t size;
	unsigned cluster_bits;
	const char *backing, *backing_format; /* or NULL */
};

/* Into an empty file, locked by the caller. 0 or -errno with the text set. */
int qcow2_create(struct image_file *file, const struct qcow2_create *options, const struct error_text *error);

#endif
