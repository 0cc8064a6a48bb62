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

/*
 * Memory balloon. initial: how many bytes it asks the guest for from the start. deflate_on_oom: the guest may take them
 * back when it runs out of memory.
 */
struct virtio_device *virtio_balloon_create(const struct guest_ram *ram, uint64_t initial, bool deflate_on_oom);
void virtio_balloon_set(struct virtio_device *v, uint64_t bytes); /* how many it asks for; thread: any */
#define VIRTIO_BALLOON_NUMBERS 10
struct virtio_balloon_numbers {
	uint64_t value[VIRTIO_BALLOON_NUMBERS]; /* by VIRTIO_BALLOON_S_… */
	uint32_t known;                         /* bit n: value[n] was told */
	uint64_t released;                      /* bytes given back to the host so far */
	uint64_t held;                          /* bytes the guest has given up, as it says */
};
/* The last ones told; returns how often there were any. Ask the driver for new ones. Thread: any. */
unsigned virtio_balloon_numbers(struct virtio_device *v, struct virtio_balloon_numbers *numbers);
void virtio_balloon_ask(struct virtio_device *v);

/*
 * Console with one port a name. Port 0 is the guest's hvc0 if `console` is not NULL: machine/board.h's chardev, whose
 * receive side is set here. Others are byte streams behind Unix sockets (/dev/virtio-ports/NAME in the guest).
 */
struct chardev;
#define VIRTIO_PORTS_MAX 16
struct virtio_port_config {
	const char *name;
	const char *path; /* of the socket that is made, and removed at the end */
};
struct virtio_device *virtio_console_create(const struct guest_ram *ram, struct chardev *console,
					    const struct virtio_port_config *ports, unsigned count);

/* Sockets between guest and host: cid is the guest's (3 and up), path where programs of the host meet it (vsock.c). */
struct virtio_device *virtio_vsock_create(const struct guest_ram *ram, uint64_t cid, const char *path);

/* A shared folder, which outlives the device, by the name `tag` (at most 31 characters). */
struct share;
struct virtio_device *virtio_9p_create(const struct guest_ram *ram, struct share *share, const char *tag);

#endif
