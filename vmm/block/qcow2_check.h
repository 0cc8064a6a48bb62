/* SPDX-License-Identifier: Apache-2.0 */
/* Is a qcow2 image consistent? Looks at the file alone, with code that shares nothing with what writes it. */
#ifndef VMM_BLOCK_QCOW2_CHECK_H
#define VMM_BLOCK_QCOW2_CHECK_H

#include "block/qcow2_format.h"

enum qcow2_repair { QCOW2_REPAIR_NOTHING, QCOW2_REPAIR_LEAKS, QCOW2_REPAIR_ALL };

struct qcow2_check {
	/* Set by the caller, or NULL: one line for each finding, up to a limit. */
	void (*report)(void *ctx, const char *line);
	void *ctx;

	/* What remains (after a repair: after it). */
	uint64_t corruptions, leaks;
	uint64_t unsafe; /* of the corruptions, those that make writing dangerous */
	uint64_t fixed;
	char first[200]; /* the first corruption, in words */
	/* Guest clusters of the active disk. */
	uint64_t allocated, compressed, zero, clusters;
};

/*
 * 0: the check is complete, *check tells how it went; -errno: it could not be done. With a repair the file must be
 * writable; the counts are made anew in free space and put in place by one write of the header, so a power loss leaves
 * the old ones or the new ones.
 */
int qcow2_check(struct image_file *file, const struct qcow2_header *header, enum qcow2_repair repair,
		struct qcow2_check *check);

#endif
