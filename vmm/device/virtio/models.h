/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio device models, to be given to a transport. Each create function: NULL with errno. */
#ifndef VMM_DEVICE_VIRTIO_MODELS_H
#define VMM_DEVICE_VIRTIO_MODELS_H

#include "device/virtio/virtio.h"

/* Entropy from the host's getrandom(). */
struct virtio_device *virtio_rng_create(const struct guest_ram *ram);

#endif
