/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network behind a guest's network card: `user` (libslirp), `tap`, `none`. The card (virtio-net) sees whole
 * Ethernet frames, each with a struct virtio_net_hdr (virtio 1.2, 5.1.6, without num_buffers): what a back end cannot
 * do of checksums and segmentation is done here in software, so that every card may offer every offload below.
 *
 * Life: net_open() when the program starts, net_attach() at each power-on of the machine, net_detach() at its end,
 * net_close() at the program's. Host ports and addresses so survive a guest's reset.
 *
 * Threads: a back end has I/O threads of its own, one a queue at most. They call struct net_client's functions, never
 * two at once for the same queue, and hold no lock meanwhile. net_send() and net_rx_ready() may be called by any
 * thread, net_send() by one at a time for each queue; both return soon: they never wait for the guest or the network.
 */
#ifndef VMM_NET_NET_H
#define VMM_NET_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define NET_QUEUES_MAX 16
#define NET_MTU 1500
#define NET_FRAME_MAX                                                                                                  \
	(65535 + 18) /* the longest frame, either way: an IP packet, its Ethernet header with a VLAN tag */

struct net;

/* Offloads, as bits; the names are virtio's feature bits less HOST_ and GUEST_. */
enum net_offload {
	NET_CSUM = 1 << 0, /* frames with NEEDS_CSUM or DATA_VALID */
	NET_TSO4 = 1 << 1, /* gso_type TCPV4, which needs NET_CSUM; likewise below */
	NET_TSO6 = 1 << 2,
	NET_ECN = 1 << 3, /* GSO_ECN with these */
	NET_OFFLOADS_ALL = 15,
};

/* The card's side. */
struct net_client {
	/*
	 * A frame for the guest in queue `queue` (of the host's choice: the card may steer it elsewhere); header and
	 * data are valid during the call. False: the card has no buffers now; the back end keeps the frame, stops this
	 * queue and tries again after net_rx_ready(). A card that drops the frame, whatever the reason, answers true.
	 * hdr->gso_type and flags stay within what net_set_rx_offloads() allowed. Thread: the queue's I/O thread.
	 */
	bool (*receive)(void *ctx, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
			unsigned count);
	/* Frames given since the last call of this are all there are for now: a good moment for one interrupt. May be
	 * NULL. Thread: the queue's I/O thread. */
	void (*receive_done)(void *ctx, unsigned queue);
	/* The link came or went (see net_link_up). May be NULL. Thread: an I/O thread. */
	void (*link_changed)(void *ctx, bool up);
};

/*
 * text: "KIND[,key=value…]" as --net takes it; index: this is the how manieth --net (from 0), for the default MAC
 * address 52:54:00:12:34:56 + index. 0; or -errno with one line on stderr that says what and why.
 * "none" gives 0 and *net = NULL: no card. Thread: main.
 */
int net_open(const char *text, unsigned index, struct net **net);
/* Detached before. NULL is allowed. Thread: main. */
void net_close(struct net *net);

/* Fixed from net_open() on. Thread: any. */
const char *net_kind(const struct net *net);   /* "user", "tap" */
const uint8_t *net_mac(const struct net *net); /* 6 bytes: the guest's card's address */
unsigned net_queues(const struct net *net);    /* queue pairs, 1..NET_QUEUES_MAX */
unsigned net_mtu(const struct net *net);       /* for VIRTIO_NET_F_MTU; 0: not known, do not offer it */
const char *const *net_kinds(void);            /* for --net help; NULL-terminated */
bool net_packed(const struct net *net);        /* offer packed rings */
bool net_link_up(const struct net *net);       /* now */

/* From here on, until net_detach(), the client is called. One client at a time. Thread: main. */
void net_attach(struct net *net, const struct net_client *client, void *ctx);
/* No call of the client is under way or comes when this returns; frames that it did not take are lost. The caller holds
 * no lock that the client's functions take. NULL is allowed. Thread: main. */
void net_detach(struct net *net);

/*
 * What the guest takes (enum net_offload); nothing after net_attach(). For feature negotiation, device reset and
 * VIRTIO_NET_CTRL_GUEST_OFFLOADS. A frame that is under way may still have the offloads of before: the client checks.
 * Thread: any, one at a time.
 */
void net_set_rx_offloads(struct net *net, unsigned offloads);
/* Queue pairs that the guest uses (VIRTIO_NET_CTRL_MQ), 1 after net_attach(): frames arrive in these only. Thread: as
 * above. */
void net_set_queues(struct net *net, unsigned queues);

/*
 * Send a frame: hdr as the guest gave it (NET_OFFLOADS_ALL may be in use whatever the back end is), iov the Ethernet
 * frame, which may be in guest memory that the guest changes meanwhile. A hostile or impossible header or length costs
 * the guest this frame and nothing else. Frames may be lost as on any network. Thread: see above.
 */
void net_send(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
	      unsigned count);
/* The guest has given receive buffers for this queue. Cheap when the queue is not stopped. Thread: any. */
void net_rx_ready(struct net *net, unsigned queue);

struct net_stats {
	uint64_t tx_frames, tx_bytes, tx_dropped; /* from the guest; dropped: malformed, or the back end was full */
	uint64_t rx_frames, rx_bytes, rx_dropped; /* to the guest; dropped: no client, or the queue was full */
};
/* Thread: any. */
void net_get_stats(const struct net *net, struct net_stats *stats);

#endif
