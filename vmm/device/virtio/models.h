/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio device models, to be given to a transport. Each create function: NULL with errno. */
#ifndef VMM_DEVICE_VIRTIO_MODELS_H
#define VMM_DEVICE_VIRTIO_MODELS_H

#include "device/virtio/virtio.h"

/* Entropy from the host's getrandom(). */
struct virtio_device *virtio_rng_create(const struct guest_ram *ram);

/* A disk. It outlives the device. queues: at most VIRTIO_THREADS_MAX, each with an I/O thread. */
struct block;
struct virtio_device *virtio_blk_create(const struct guest_ram *ram, struct block *disk, const char *serial,
					unsigned queues);

/* A network card. Its network outlives it. Once it has its transport, virtio_net_attach() lets frames in. */
struct net;
struct virtio_device *virtio_net_create(const struct guest_ram *ram, struct net *net);
void virtio_net_attach(struct virtio_device *v);

#endif
