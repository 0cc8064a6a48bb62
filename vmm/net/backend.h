/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of vmm/net: what a back end is, and what net.c does for all of them. */
#ifndef VMM_NET_BACKEND_H
#define VMM_NET_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/net.h"
#include "net/options.h"

/* A frame of our own: data follows. */
struct net_frame {
	struct net_frame *next;
	struct virtio_net_hdr hdr;
	uint32_t len;
	uint8_t data[];
};

struct net_ops {
	/*
	 * One of the two. send: frames with offloads, as the guest made them; header and total length are plausible.
	 * send_frame: complete frames without offloads, which the back end frees. Thread: net_send()'s.
	 */
	void (*send)(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
		     unsigned count);
	void (*send_frame)(struct net *net, unsigned queue, struct net_frame *frame);
	/* NULL: nothing to do. */
	void (*set_rx_offloads)(struct net *net, unsigned offloads);
	void (*set_queues)(struct net *net, unsigned queues);
	/* Ends the threads, frees what the back end has, then net itself by net_free(). */
	void (*close)(struct net *net);
};

/* A queue pair. */
struct net_port {
	pthread_mutex_t lock; /* held while the client is called, so that net_detach() can wait for the end of that */
	int event_fd;         /* wakes the I/O thread */
	_Atomic bool stalled; /* the client had no buffers */
};

/* Embedded first in each back end's struct. */
struct net {
	const struct net_ops *ops;
	const char *kind;
	uint8_t mac[6];
	bool packed;
	unsigned queues, mtu;
	unsigned plain_max;              /* send_frame: the longest frame that is no TCP segment */
	bool long_segments;              /* send_frame takes TCP segments of any length, so none are cut */
	const struct net_client *client; /* changed with all ports' locks held */
	void *ctx;
	_Atomic unsigned rx_offloads;
	_Atomic bool link_down, stop;
	_Atomic uint64_t tx_frames, tx_bytes, tx_dropped, rx_frames, rx_bytes, rx_dropped;
	struct net_port port[NET_QUEUES_MAX];
};

/* 0, or -errno. kind, queues, mtu and ops are the caller's to fill in before. */
int net_init(struct net *net);
/* Closes what net_init() opened, also after it failed; frees net. */
void net_free(struct net *net);

/* Starts fn(arg) with all signals blocked. 0 or -errno. */
int net_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg);
/* Sets net->stop and wakes all I/O threads. */
void net_stop(struct net *net);
void net_wake(struct net_port *port);
void net_wake_clear(struct net_port *port);

/* Thread of the three below: the queue's I/O thread. False: stalled, try again when woken. */
bool net_deliver(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const void *data, size_t len);
void net_deliver_done(struct net *net, unsigned queue);
void net_set_link(struct net *net, bool up);

static inline void net_count_tx_drop(struct net *net)
{
	atomic_fetch_add_explicit(&net->tx_dropped, 1, memory_order_relaxed);
}

static inline void net_count_rx_drop(struct net *net)
{
	atomic_fetch_add_explicit(&net->rx_dropped, 1, memory_order_relaxed);
}

/* The kinds. 0; or -errno with a message. */
int net_user_open(const struct net_options *options, struct net **net);
int net_tap_open(const struct net_options *options, struct net **net);

#endif
