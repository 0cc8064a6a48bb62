/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device (virtio 1.2): the part that is the same for every model and every transport. A model embeds struct
 * virtio_device first; a transport (virtio_pci.c, virtio_mmio.c) drives it and owns it.
 *
 * Threads and locks, outermost first: the transport's device lock (register accesses of vCPUs), virtq->lock (a queue
 * and all of the model that serves it), config_lock, the transport's interrupt state. Queues are served by the device's
 * I/O threads: a model's kicked() is called there, under the queue's lock. Resetting takes each queue's lock in turn,
 * so nobody may hold one while waiting for the guest.
 */
#ifndef VMM_DEVICE_VIRTIO_VIRTIO_H
#define VMM_DEVICE_VIRTIO_VIRTIO_H

#include <stdatomic.h>

#include "device/device.h"
#include "device/io_thread.h"
#include "device/virtio/ring.h"

#define VIRTIO_QUEUES_MAX 64
#define VIRTIO_CONFIG_MAX 256
#define VIRTIO_THREADS_MAX 16
#define VIRTIO_NO_VECTOR 0xffff

struct virtio_device;

struct virtio_model {
	const char *name;    /* "virtio-rng": in messages */
	uint16_t id;         /* VIRTIO_ID_… */
	uint32_t class_code; /* as a PCI function */
	/* All optional but kicked and destroy. */
	/* The driver is ready (DRIVER_OK); features are settled. Thread: a vCPU's, device lock held. */
	void (*start)(struct virtio_device *v);
	/* Queue q is being taken away, its lock is held: let go of every buffer (virtq_drop), wait for what the host
	 * still does with guest memory. Thread: a vCPU's or main. */
	void (*queue_stop)(struct virtio_device *v, unsigned q);
	/* All queues are stopped: back to the state before start. Thread: as above, device lock held. */
	void (*stop)(struct virtio_device *v);
	/* There may be buffers in queue q. Thread: its I/O thread, queue lock held. */
	void (*kicked)(struct virtio_device *v, unsigned q);
	/* The driver wrote v->config. Thread: a vCPU's, device and config lock held. */
	void (*config_written)(struct virtio_device *v, unsigned offset, unsigned size);
	/* I/O threads have ended. Calls virtio_device_fini() and frees it. */
	void (*destroy)(struct virtio_device *v);
};

struct virtio_queue {
	struct virtq ring;
	struct virtio_device *v;
	unsigned index;
	struct io_watch kick; /* an eventfd: somebody kicked */
};

struct virtio_transport {
	void (*queue_interrupt)(void *ctx, unsigned q);
	void (*config_interrupt)(void *ctx);
	void *ctx;
};

struct virtio_device {
	const struct virtio_model *model;
	const struct guest_ram *ram;
	struct virtio_transport transport;
	uint64_t offered;        /* feature bits; constant once the machine runs */
	uint64_t accepted;       /* the driver's; settled at FEATURES_OK */
	_Atomic uint32_t status; /* VIRTIO_CONFIG_S_… */
	unsigned queue_count;
	struct virtio_queue *queue;
	unsigned config_size;
	pthread_mutex_t config_lock;
	uint8_t config[VIRTIO_CONFIG_MAX]; /* config_lock */
	uint8_t config_initial[VIRTIO_CONFIG_MAX];
	uint8_t config_writable[VIRTIO_CONFIG_MAX]; /* 0xff: the driver may write this byte */
	_Atomic uint32_t generation;
	_Atomic bool complained;
	struct io_thread *thread[VIRTIO_THREADS_MAX]; /* queue q is thread[q % thread_count]'s */
	unsigned thread_count;
};

/* What users may switch at any device; see virtio_options(). */
struct virtio_ring_options {
	bool packed, event_idx, indirect;
};

/*
 * `queues` queues of up to `size` entries each, served by `threads` I/O threads. model_features: the device type's own.
 * 0 or -errno. Threads start here, but find nothing to do before the driver is ready.
 */
int virtio_device_init(struct virtio_device *v, const struct virtio_model *model, const struct guest_ram *ram,
		       unsigned queues, uint16_t size, unsigned threads, uint64_t model_features);
void virtio_device_fini(struct virtio_device *v);
/* End the I/O threads; first thing at destruction. */
void virtio_device_stop_threads(struct virtio_device *v);
/* Before the machine runs. */
void virtio_set_ring_options(struct virtio_device *v, const struct virtio_ring_options *options);

static inline bool virtio_has(const struct virtio_device *v, unsigned feature)
{
	return v->accepted >> feature & 1;
}

/* DRIVER_OK, and not broken. Thread: any. */
bool virtio_running(const struct virtio_device *v);

/* ---- models ---- */
/* Pop until the queue is empty and call for each; kicks are off meanwhile. Then the interrupt, if one is due. */
void virtio_serve(struct virtio_device *v, unsigned q,
		  void (*serve)(struct virtio_device *v, unsigned q, struct virtq_chain *chain));
/* virtq_pop, where a broken queue breaks the device. Queue lock held, as for the next two. */
bool virtio_pop(struct virtio_device *v, unsigned q, struct virtq_chain **chain);
/* Interrupt the driver if what was pushed asks for it. */
void virtio_queue_flush(struct virtio_device *v, unsigned q);
/* The driver does what no driver may: DEVICE_NEEDS_RESET, one line on stderr. Thread: any. */
__attribute__((format(printf, 2, 3))) void virtio_break(struct virtio_device *v, const char *fmt, ...);
/* Make the I/O thread call kicked(). Thread: any. */
void virtio_kick(struct virtio_device *v, unsigned q);
/* Change configuration fields and tell the driver. Thread: any. */
void virtio_config_update(struct virtio_device *v, unsigned offset, const void *data, unsigned size);

/* ---- transports: the device's lock is held ---- */
void virtio_reset(struct virtio_device *v);
void virtio_set_status(struct virtio_device *v, uint8_t status);
uint32_t virtio_offered_word(const struct virtio_device *v, uint32_t select);
uint32_t virtio_accepted_word(const struct virtio_device *v, uint32_t select);
void virtio_accept_word(struct virtio_device *v, uint32_t select, uint32_t value);
/* NULL: there is no such queue. */
struct virtq *virtio_ring(struct virtio_device *v, unsigned q);
void virtio_queue_enable(struct virtio_device *v, unsigned q);
/* One queue only (2.6.1): disabled, everything forgotten. */
void virtio_queue_reset(struct virtio_device *v, unsigned q);
uint64_t virtio_config_read(struct virtio_device *v, unsigned offset, unsigned size);
void virtio_config_write(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size);

#endif
