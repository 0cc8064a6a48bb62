/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums, segmentation and merging in software, for back ends that have no offloads. Frames come from a guest or
 * from the network: nothing in them is believed before it is checked. No state but struct net_merge; thread: any.
 */
#ifndef VMM_NET_FRAME_H
#define VMM_NET_FRAME_H

#include "net/backend.h"

/* One's complement sum (RFC 1071) over data, added to sum; in host order of big-endian words. Not folded. */
uint64_t net_sum(const void *data, size_t len, uint64_t sum);
/* The checksum field's value that goes with sum, in host order. */
uint16_t net_sum_finish(uint64_t sum);

/* Where things are in an Ethernet frame (one VLAN tag at most) that carries TCP over IPv4 or IPv6. */
struct net_tcp {
	bool ipv6;
	unsigned ip, tcp, payload; /* offsets into the frame */
	unsigned end;              /* of the IP packet; the rest is padding */
};
/* False: no TCP, a fragment, malformed, or headers this file does not look into (IPv6 routing and the like). */
bool net_tcp_parse(const uint8_t *frame, size_t len, struct net_tcp *tcp);
/* Sum over the pseudo-header for a TCP segment of tcp_len bytes. */
uint64_t net_tcp_pseudo_sum(const uint8_t *frame, const struct net_tcp *tcp, unsigned tcp_len);

/* Could this header go with a frame of len bytes (virtio 1.2, 5.1.6.2)? */
bool net_hdr_valid(const struct virtio_net_hdr *hdr, size_t len);

/* Do what NEEDS_CSUM asks. False: the frame cannot have that. */
bool net_fill_checksum(uint8_t *frame, size_t len, const struct virtio_net_hdr *hdr);
/*
 * Cut a frame with gso_type TCPV4 or TCPV6 into frames with gso_size bytes of payload at most, complete with
 * checksums. They are linked in order; *segments is to be freed one by one. False: nothing made, the frame is no such
 * segment, or no memory.
 */
bool net_segment(const uint8_t *frame, size_t len, const struct virtio_net_hdr *hdr, struct net_frame **segments);

struct net_frame *net_frame_new(size_t len); /* hdr zeroed; NULL: no memory */

/*
 * Merging of consecutive TCP segments into long ones with a virtio header, for a guest that takes them. Frames of a
 * connection stay in order.
 */
#define NET_MERGE_FLOWS 8
struct net_merge {
	/* A frame is ready; hdr->flags and gso_type are zero for one that was alone and is not known to be valid. */
	void (*emit)(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *frame, size_t len);
	void *ctx;
	bool trusted;  /* checksums of what comes are right: made by ourselves */
	unsigned next; /* flow to evict */
	struct net_merge_flow {
		uint8_t *frame;              /* NET_FRAME_MAX bytes */
		unsigned len, mss, segments; /* segments 0: free */
		uint32_t next_seq;
		struct net_tcp tcp;
	} flow[NET_MERGE_FLOWS];
};
int net_merge_init(struct net_merge *merge); /* 0, -ENOMEM; emit, ctx and trusted are the caller's to fill in */
void net_merge_fini(struct net_merge *merge);
/* offloads: what the guest takes now (enum net_offload). */
void net_merge_add(struct net_merge *merge, unsigned offloads, const uint8_t *frame, size_t len);
void net_merge_flush(struct net_merge *merge);

#endif
