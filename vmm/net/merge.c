/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consecutive segments of a TCP connection become one long one, as a card with receive offload makes them. Only what
 * can be cut back into the same segments is merged: equal headers, equal sizes but for the last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/frame.h"
#include "net/wire.h"

int net_merge_init(struct net_merge *m)
{
	for (unsigned i = 0; i < NET_MERGE_FLOWS; i++) {
		m->flow[i].frame = malloc(NET_FRAME_MAX);
		m->flow[i].segments = 0;
		if (!m->flow[i].frame)
			return -ENOMEM;
	}
	m->next = 0;
	return 0;
}

void net_merge_fini(struct net_merge *m)
{
	for (unsigned i = 0; i < NET_MERGE_FLOWS; i++) {
		free(m->flow[i].frame);
		m->flow[i].frame = NULL;
	}
}

static void emit_alone(struct net_merge *m, unsigned offloads, const uint8_t *frame, size_t len)
{
	struct virtio_net_hdr hdr = { .flags = m->trusted && offloads & NET_CSUM ? VIRTIO_NET_HDR_F_DATA_VALID : 0 };

	m->emit(m->ctx, &hdr, frame, len);
}

static void flush_flow(struct net_merge *m, struct net_merge_flow *flow)
{
	const struct net_tcp *t = &flow->tcp;
	uint8_t *ip = flow->frame + t->ip;
	unsigned tcp_len = flow->len - t->tcp;
	struct virtio_net_hdr hdr = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = t->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = (uint16_t)t->payload,
		.gso_size = (uint16_t)flow->mss,
		.csum_start = (uint16_t)t->tcp,
		.csum_offset = TCP_CHECKSUM,
	};

	if (!flow->segments)
		return;
	if (flow->segments == 1) { /* its checksum was right, or it would not be here */
		hdr = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_DATA_VALID };
	} else {
		if (t->ipv6) {
			put_be16(ip + IPV6_LENGTH, (uint16_t)tcp_len);
		} else {
			put_be16(ip + IPV4_LENGTH, (uint16_t)(flow->len - t->ip));
			put_be16(ip + IPV4_CHECKSUM, 0);
			put_be16(ip + IPV4_CHECKSUM, net_sum_finish(net_sum(ip, t->tcp - t->ip, 0)));
		}
		put_be16(flow->frame + t->tcp + TCP_CHECKSUM,
			 (uint16_t)~net_sum_finish(net_tcp_pseudo_sum(flow->frame, t, tcp_len)));
	}
	flow->segments = 0;
	m->emit(m->ctx, &hdr, flow->frame, flow->len);
}

void net_merge_flush(struct net_merge *m)
{
	for (unsigned i = 0; i < NET_MERGE_FLOWS; i++)
		flush_flow(m, &m->flow[i]);
}

/* Same Ethernet header, addresses and ports? */
static bool same_connection(const struct net_merge_flow *flow, const uint8_t *frame, const struct net_tcp *t)
{
	const struct net_tcp *u = &flow->tcp;
	unsigned addresses = t->ipv6 ? IPV6_SOURCE : IPV4_SOURCE;

	return flow->segments && u->ipv6 == t->ipv6 && u->ip == t->ip && u->tcp == t->tcp &&
	       !memcmp(flow->frame, frame, t->ip) &&
	       !memcmp(flow->frame + t->ip + addresses, frame + t->ip + addresses, t->ipv6 ? 32 : 8) &&
	       !memcmp(flow->frame + t->tcp, frame + t->tcp, 4);
}

/* All of the headers that segments cut from one long one have in common. */
static bool same_headers(const struct net_merge_flow *flow, const uint8_t *frame, const struct net_tcp *t)
{
	const uint8_t *a = flow->frame, *b = frame;
	unsigned ip = t->ip, tcp = t->tcp;

	if (flow->tcp.payload != t->payload)
		return false;
	if (t->ipv6 ? memcmp(a + ip, b + ip, 4) || a[ip + IPV6_HOP_LIMIT] != b[ip + IPV6_HOP_LIMIT]
		    : a[ip + IPV4_TOS] != b[ip + IPV4_TOS] || a[ip + IPV4_TTL] != b[ip + IPV4_TTL] ||
			      memcmp(a + ip + IPV4_FRAGMENT, b + ip + IPV4_FRAGMENT, 2))
		return false;
	return !memcmp(a + tcp + TCP_ACK_NUMBER, b + tcp + TCP_ACK_NUMBER, 5) && /* and the data offset */
	       !memcmp(a + tcp + TCP_WINDOW, b + tcp + TCP_WINDOW, 2) &&
	       !memcmp(a + tcp + TCP_OPTIONS, b + tcp + TCP_OPTIONS, t->payload - tcp - TCP_OPTIONS);
}

/* Plain data, and known to be intact. */
static bool may_merge(const struct net_merge *m, const uint8_t *frame, const struct net_tcp *t)
{
	unsigned tcp_len = t->end - t->tcp;
	uint64_t sum;

	if (t->end == t->payload || (frame[t->tcp + TCP_FLAGS] & ~TCP_PSH) != TCP_ACK ||
	    (!t->ipv6 && t->tcp - t->ip != IPV4_HEADER))
		return false;
	if (m->trusted)
		return true;
	if (!t->ipv6 && net_sum_finish(net_sum(frame + t->ip, IPV4_HEADER, 0)) != 0)
		return false;
	sum = net_sum(frame + t->tcp, tcp_len, net_tcp_pseudo_sum(frame, t, tcp_len));
	return net_sum_finish(sum) == 0;
}

static bool append(struct net_merge_flow *flow, const uint8_t *frame, const struct net_tcp *t)
{
	unsigned size = t->end - t->payload;

	/* The long packet's length must fit in its IP header. */
	if (get_be32(frame + t->tcp + TCP_SEQUENCE) != flow->next_seq || size > flow->mss ||
	    flow->len + size - t->ip > UINT16_MAX || !same_headers(flow, frame, t))
		return false;
	memcpy(flow->frame + flow->len, frame + t->payload, size);
	flow->frame[t->tcp + TCP_FLAGS] |= frame[t->tcp + TCP_FLAGS] & TCP_PSH;
	flow->len += size;
	flow->next_seq += size;
	flow->segments++;
	return true;
}

static void start(struct net_merge *m, const uint8_t *frame, const struct net_tcp *t)
{
	struct net_merge_flow *flow = NULL;

	for (unsigned i = 0; i < NET_MERGE_FLOWS && !flow; i++)
		if (!m->flow[i].segments)
			flow = &m->flow[i];
	if (!flow) {
		flow = &m->flow[m->next];
		m->next = (m->next + 1) % NET_MERGE_FLOWS;
		flush_flow(m, flow);
	}
	memcpy(flow->frame, frame, t->end);
	flow->len = t->end;
	flow->mss = t->end - t->payload;
	flow->segments = 1;
	flow->tcp = *t;
	flow->next_seq = get_be32(frame + t->tcp + TCP_SEQUENCE) + flow->mss;
}

void net_merge_add(struct net_merge *m, unsigned offloads, const uint8_t *frame, size_t len)
{
	struct net_merge_flow *flow = NULL;
	struct net_tcp t;
	bool mergeable, more;

	if (!(offloads & NET_CSUM) || !net_tcp_parse(frame, len, &t)) {
		emit_alone(m, offloads, frame, len);
		return;
	}
	for (unsigned i = 0; i < NET_MERGE_FLOWS && !flow; i++)
		if (same_connection(&m->flow[i], frame, &t))
			flow = &m->flow[i];
	mergeable = offloads & (t.ipv6 ? NET_TSO6 : NET_TSO4) && may_merge(m, frame, &t);
	more = mergeable && !(frame[t.tcp + TCP_FLAGS] & TCP_PSH);
	if (flow && mergeable && append(flow, frame, &t)) {
		if (!more || t.end - t.payload < flow->mss)
			flush_flow(m, flow);
		return;
	}
	if (flow)
		flush_flow(m, flow);
	if (more)
		start(m, frame, &t);
	else
		emit_alone(m, offloads, frame, len);
}
