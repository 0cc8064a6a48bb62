/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The qcow2 format, versions 2 and 3, after its specification (QEMU, docs/interop/qcow2). Not supported, and refused
 * by name: encryption, external data files, extended L2 entries, unknown incompatible features.
 *
 * Order of writes. Metadata is changed in memory and written by qcow2_sync() in phases, each on the disk before the
 * next begins: (1) reference counts and L2 tables that nothing points to yet, with the data written so far;
 * (2) L2 tables and the L1 table that point to all that; (3) only then are clusters that lost their last reference
 * given free. A power loss therefore never leaves a reference to a cluster that is not counted or not written: at
 * worst clusters are counted that nothing refers to (leaks).
 */
#ifndef VMM_BLOCK_QCOW2_H
#define VMM_BLOCK_QCOW2_H

#include "block/layer.h"
#include "block/qcow2_format.h"

struct qcow2;

/* Fills layer->qcow2 and layer->size; a dirty image opened for writing is repaired first. */
int qcow2_open(struct layer *layer, const struct layer_options *options, const struct error_text *error);
int qcow2_close(struct qcow2 *q);
const struct qcow2_header *qcow2_header(const struct qcow2 *q);

/*
 * A cluster that was looked up may be given free by another thread; it is reused only after all who were in between
 * enter and leave have left. Neither blocks.
 */
uint8_t qcow2_enter(struct qcow2 *q);
void qcow2_leave(struct qcow2 *q, uint8_t epoch);
int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t length, bool may_block, struct extent *extent);
int qcow2_read_compressed(struct qcow2 *q, uint64_t entry, size_t offset, const struct iovec *iov, unsigned n,
			  size_t skip, size_t length);

/*
 * Write, zero or discard; progress is kept in the request. QCOW2_PARKED: another request changes the same clusters;
 * when it is through, restart() is called with the request. Between enter and leave. Threads: workers'.
 */
#define QCOW2_PARKED 1
int qcow2_write(struct qcow2 *q, struct block_request *request);
int qcow2_zero(struct qcow2 *q, struct block_request *request);
int qcow2_discard(struct qcow2 *q, struct block_request *request);
void qcow2_set_restart(struct qcow2 *q, void (*restart)(void *ctx, struct block_request *request), void *ctx);

/* Everything that ended before becomes durable. Not between enter and leave. */
int qcow2_sync(struct qcow2 *q);

#endif
