/* SPDX-License-Identifier: Apache-2.0 */
/* 9P transport: a shared folder (share/share.h) behind one queue. Device type 9; config: the tag's length and the tag.
 */
#include <errno.h>
#include <linux/virtio_9p.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/models.h"
#include "share/share.h"

#define QUEUE_SIZE 128 /* Linux's driver makes requests of as many segments, and asks for no more */

struct p9 {
	struct virtio_device v;
	struct share *share; /* the queue's lock */
};

static void serve(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	struct p9 *p = container_of(v, struct p9, v);
	size_t n = share_serve(p->share, virtq_out(c), c->out_count, virtq_in(c), c->in_count);

	if (!n)
		virtio_break(v, "queue %u: %llu bytes are no 9P request, or %llu no room for a reply", q,
			     (unsigned long long)c->out_bytes, (unsigned long long)c->in_bytes);
	virtq_push(&v->queue[q].ring, c, (uint32_t)n);
}

static void kicked(struct virtio_device *v, unsigned q)
{
	virtio_serve(v, q, serve);
}

/* The driver of before is gone, with all that it had open. */
static void stop(struct virtio_device *v)
{
	share_reset(container_of(v, struct p9, v)->share);
}

static void destroy(struct virtio_device *v)
{
	virtio_device_fini(v);
	free(container_of(v, struct p9, v));
}

static const struct virtio_model p9_model = {
	.name = "virtio-9p",
	.id = VIRTIO_ID_9P,
	.class_code = 0x018000, /* mass storage, other */
	.stop = stop,
	.kicked = kicked,
	.destroy = destroy,
};

struct virtio_device *virtio_9p_create(const struct guest_ram *ram, struct share *share, const char *tag)
{
	struct p9 *p = calloc(1, sizeof(*p));
	size_t len = strlen(tag);
	uint16_t tag_len = (uint16_t)len;
	int err = p ? virtio_device_init(&p->v, &p9_model, ram, 1, QUEUE_SIZE, 1, BIT64(VIRTIO_9P_MOUNT_TAG)) : -ENOMEM;

	if (err) {
		free(p);
		errno = -err;
		return NULL;
	}
	p->share = share;
	memcpy(p->v.config, &tag_len, sizeof(tag_len));
	memcpy(p->v.config + sizeof(tag_len), tag, len);
	p->v.config_size = (unsigned)(sizeof(tag_len) + len);
	return &p->v;
}
