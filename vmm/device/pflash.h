/* SPDX-License-Identifier: Apache-2.0 */
/* NOR flash that firmware keeps its variables in. Region 0: all of it. */
#ifndef VMM_DEVICE_PFLASH_H
#define VMM_DEVICE_PFLASH_H

#include "device/device.h"

#define PFLASH_BLOCK 0x1000u /* what is erased at once */

/* The flash's contents and where they are kept. The callbacks: with the device locked, thread: mostly a vCPU's. */
struct pflash_array {
	uint8_t *data;
	uint32_t size; /* a multiple of PFLASH_BLOCK, not 0 */
	/* Before data[offset, len) changes to these bytes: 0, or -errno: it must not. */
	int (*store)(void *ctx, uint32_t offset, const uint8_t *data, uint32_t len);
	/* The guest has ended a sequence of such changes. */
	void (*sync)(void *ctx);
	void *ctx;
};

/*
 * Tells whether reads may be those of data (as at first), or are the device's to answer: while it has more to tell than
 * data, and for a few reads after that.
 */
struct pflash_view {
	void (*show)(void *ctx, bool data); /* NULL: all reads come to the device */
	void *ctx;
};

/* NULL with errno. */
struct device *pflash_create(const struct pflash_array *array, const struct pflash_view *view);

#endif
