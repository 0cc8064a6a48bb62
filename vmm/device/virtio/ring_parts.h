/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the rings: what ring.c, split.c and packed.c share. */
#ifndef VMM_DEVICE_VIRTIO_RING_PARTS_H
#define VMM_DEVICE_VIRTIO_RING_PARTS_H

#include "device/virtio/ring.h"

/* Both layouts (2.7.5, 2.8.5) have the flags of a descriptor at these bits. */
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define DESC_SIZE 16u

/* A descriptor's address, length and flags. */
struct segment {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
};

__attribute__((format(printf, 2, 3))) int virtq_break(struct virtq *vq, const char *fmt, ...); /* -EINVAL */
struct virtq_chain *virtq_new_chain(struct virtq *vq);                                         /* NULL: no memory */
void virtq_free_chain(struct virtq *vq, struct virtq_chain *chain);
/* 0, -EINVAL, -ENOMEM. */
int virtq_add_segment(struct virtq *vq, struct virtq_chain *chain, const struct segment *s);
/* The table of an indirect descriptor: NULL if it is refused. *entries of DESC_SIZE bytes. */
const uint8_t *virtq_indirect_table(struct virtq *vq, const struct segment *s, unsigned *entries);

/* 2.6.7.1: has the index gone past `event` on its way from old to new? */
static inline bool virtq_passed(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

struct virtq_layout {
	/* Bytes of the three areas and their alignment. */
	void (*areas)(const struct virtq *vq, uint64_t bytes[3], unsigned align[3]);
	bool (*empty)(struct virtq *vq);
	int (*pop)(struct virtq *vq, struct virtq_chain *chain); /* as virtq_pop */
	void (*push)(struct virtq *vq, struct virtq_chain *const *chain, const uint32_t *written, unsigned count);
	bool (*interrupt_due)(struct virtq *vq, uint16_t pushed);
	void (*kicks)(struct virtq *vq, bool on);
};
extern const struct virtq_layout virtq_split, virtq_packed;

#endif
