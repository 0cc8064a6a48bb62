/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy device (virtio 1.2, 5.4): fills what it is given. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/compiler.h"
#include "device/virtio/models.h"

#define QUEUE_SIZE 64
#define BYTES_MAX 65536u /* of one buffer: it says how many it got */

struct rng {
	struct virtio_device v;
};

/* getrandom() may be interrupted or give less than asked for beyond 256 bytes. */
static size_t fill(void *data, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = getrandom((uint8_t *)data + done, n - done, 0);

		if (got > 0)
			done += (size_t)got;
		else if (errno != EINTR)
			break;
	}
	return done;
}

static void serve(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	const struct iovec *iov = virtq_in(c);
	uint32_t written = 0;

	for (unsigned i = 0; i < c->in_count && written < BYTES_MAX; i++) {
		size_t want = iov[i].iov_len < BYTES_MAX - written ? iov[i].iov_len : BYTES_MAX - written;
		size_t got = fill(iov[i].iov_base, want);

		written += (uint32_t)got;
		if (got < want)
			break;
	}
	virtq_push(&v->queue[q].ring, c, written);
}

static void kicked(struct virtio_device *v, unsigned q)
{
	virtio_serve(v, q, serve);
}

static void destroy(struct virtio_device *v)
{
	virtio_device_fini(v);
	free(container_of(v, struct rng, v));
}

static const struct virtio_model rng_model = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.class_code = 0x00ff00,
	.kicked = kicked,
	.destroy = destroy,
};

struct virtio_device *virtio_rng_create(const struct guest_ram *ram)
{
	struct rng *r = calloc(1, sizeof(*r));
	int err = r ? virtio_device_init(&r->v, &rng_model, ram, 1, QUEUE_SIZE, 1, 0) : -ENOMEM;

	if (err) {
		free(r);
		errno = -err;
		return NULL;
	}
	return &r->v;
}
