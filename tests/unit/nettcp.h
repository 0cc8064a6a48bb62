/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's end of TCP connections, made by hand: slow, exact, enough to talk to a real one. */
#ifndef TESTS_UNIT_NETTCP_H
#define TESTS_UNIT_NETTCP_H

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include "netfix.h"

/* The next frame to the guest with IPv4 and this protocol. */
static inline const struct card_frame *next_ip(struct card *c, uint8_t protocol)
{
	for (;;) {
		const struct card_frame *frame = card_next(c);

		if (!frame || (frame->len >= 34 && get_be16(frame->data + 12) == 0x0800 &&
			       frame->data[14 + IPV4_PROTOCOL] == protocol))
			return frame;
	}
}

/* Ask who has this address: ask_mac and ask_ip want to know; mac gets the answer. */
static inline void card_arp(struct card *c, const uint8_t ask_mac[6], const uint8_t ask_ip[4], const uint8_t ip[4],
			    uint8_t mac[6])
{
	uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct card_frame *reply;

	memcpy(arp + 6, ask_mac, 6);
	put_be16(arp + 12, 0x0806);
	memcpy(arp + 14, (const uint8_t[]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 8);
	memcpy(arp + 22, ask_mac, 6);
	memcpy(arp + 28, ask_ip, 4);
	memcpy(arp + 38, ip, 4);
	card_send(c, NULL, arp, sizeof(arp));
	do {
		reply = card_next(c);
		assert_non_null(reply);
	} while (get_be16(reply->data + 12) != 0x0806 || get_be16(reply->data + 20) != 2);
	assert_memory_equal(reply->data, ask_mac, 6);
	assert_memory_equal(reply->data + 28, ip, 4);
	memcpy(mac, reply->data + 22, 6);
}

/* A host's server at this address, 0 for the loopback; *port is what it got. */
static inline int listener(uint32_t address, uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(address ? address : INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* A guest's end of a connection. */
struct tcp_end {
	struct card *card;
	struct tcp_packet p; /* what the next packet to the network says */
	uint8_t data[300000];
	size_t received;
	unsigned longest; /* frame */
	bool fin;
};

static inline void tcp_send(struct tcp_end *t, uint8_t flags, const void *payload, unsigned len)
{
	uint8_t frame[2000];
	size_t n;

	t->p.flags = flags;
	t->p.payload = payload;
	t->p.payload_len = len;
	n = build_tcp(frame, &t->p, false);
	card_send(t->card, NULL, frame, n);
	t->p.seq += len + !!(flags & (TCP_FIN | 2));
}

/* src and dst: IPv4. */
static inline void tcp_setup(struct tcp_end *t, struct card *card, const uint8_t src_mac[6], const uint8_t dst_mac[6],
			     const uint8_t src[4], const uint8_t dst[4], uint16_t local, uint16_t remote)
{
	static const uint8_t mss[4] = { 2, 4, 1460 >> 8, 1460 & 255 };

	memset(t, 0, sizeof(*t));
	t->card = card;
	memcpy(t->p.dst_mac, dst_mac, 6);
	memcpy(t->p.src_mac, src_mac, 6);
	memcpy(t->p.src, src, 4);
	memcpy(t->p.dst, dst, 4);
	t->p.src_port = local;
	t->p.dst_port = remote;
	t->p.window = 65535;
	t->p.seq = 1000;
	t->p.options = mss;
	t->p.options_len = 4;
}

/* The next packet of the connection: checks it, keeps data, acknowledges. Its flags. */
static inline uint8_t tcp_receive(struct tcp_end *t)
{
	const struct card_frame *f;
	struct net_tcp at;
	uint8_t flags;
	unsigned size;

	do {
		f = next_ip(t->card, IPPROTO_TCP);
		assert_non_null(f);
		assert_true(net_tcp_parse(f->data, f->len, &at));
	} while (t->p.dst_port && get_be16(f->data + at.tcp) != t->p.dst_port);
	size = at.end - at.payload;
	flags = f->data[at.tcp + TCP_FLAGS];
	if (f->hdr.gso_type) { /* long: its sum is that of the pseudo-header alone */
		assert_int_equal(f->hdr.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
		assert_int_equal(f->hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		assert_int_equal(f->hdr.csum_start, at.tcp);
		assert_int_equal(f->hdr.csum_offset, TCP_CHECKSUM);
		assert_true(f->hdr.gso_size <= 1460 && size > f->hdr.gso_size);
	} else {
		assert_true(f->len <= 1514);
	}
	if (f->len > t->longest)
		t->longest = f->len;
	if (flags & 2) { /* SYN */
		t->p.dst_port = get_be16(f->data + at.tcp);
		t->p.src_port = get_be16(f->data + at.tcp + 2);
		t->p.ack = get_be32(f->data + at.tcp + TCP_SEQUENCE) + 1;
		return flags;
	}
	if (get_be32(f->data + at.tcp + TCP_SEQUENCE) != t->p.ack)
		return flags; /* sent again */
	assert_true(t->received + size <= sizeof(t->data));
	memcpy(t->data + t->received, f->data + at.payload, size);
	t->received += size;
	t->p.ack += size + (flags & TCP_FIN);
	t->fin |= flags & TCP_FIN;
	t->p.options_len = 0;
	if (size || flags & TCP_FIN)
		tcp_send(t, TCP_ACK, NULL, 0);
	return flags;
}

static inline void tcp_connect(struct tcp_end *t)
{
	tcp_send(t, 2, NULL, 0);
	assert_int_equal(tcp_receive(t), 2 | TCP_ACK);
	t->p.options_len = 0;
	tcp_send(t, TCP_ACK, NULL, 0);
}

static inline void read_all(int fd, uint8_t *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		assert_int_equal(poll(&p, 1, CARD_PATIENCE_S * 1000), 1);
		n = read(fd, data + done, len - done);
		assert_true(n > 0);
		done += (size_t)n;
	}
}

/* The guest connects and sends one segment of 30000 bytes, its checksum left to the card. */
static inline void check_long_segment(struct tcp_end *t, int server)
{
	static uint8_t frame[NET_FRAME_MAX], data[30000], got[30000];
	struct virtio_net_hdr hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				      .gso_size = 1460,
				      .hdr_len = 54,
				      .csum_start = 34,
				      .csum_offset = 16 };
	size_t n;
	int fd;

	tcp_connect(t);
	fd = accept(server, NULL, NULL);
	assert_true(fd >= 0);
	fill_bytes(data, sizeof(data), 3);
	t->p.flags = TCP_ACK | TCP_PSH;
	t->p.payload = data;
	t->p.payload_len = sizeof(data);
	n = build_tcp(frame, &t->p, true);
	card_send(t->card, &hdr, frame, n);
	read_all(fd, got, sizeof(got));
	assert_memory_equal(got, data, sizeof(data));
	close(fd);
}

/* Forget the frames that have been looked at, and give so many buffers. */
static inline void card_recycle(struct card *c, unsigned buffers)
{
	bool all_seen;

	pthread_mutex_lock(&c->lock);
	all_seen = c->taken == c->got;
	if (all_seen && c->got > CARD_FRAMES / 2) {
		while (c->got)
			free(c->frame[--c->got].data);
		c->taken = 0;
	}
	pthread_mutex_unlock(&c->lock);
	if (all_seen)
		card_give_buffers(c, buffers);
}

/* The guest connects; the host sends 200000 bytes; the guest gives so many buffers at a time. */
static inline void check_bulk(struct tcp_end *t, int server, unsigned buffers)
{
	static uint8_t data[200000];
	size_t sent = 0;
	int fd;

	fill_bytes(data, sizeof(data), 5);
	tcp_connect(t);
	fd = accept(server, NULL, NULL);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	pthread_mutex_lock(&t->card->lock);
	t->card->buffers = buffers;
	pthread_mutex_unlock(&t->card->lock);
	while (t->received < sizeof(data)) {
		ssize_t n = sent < sizeof(data) ? write(fd, data + sent, sizeof(data) - sent) : 0;

		if (n > 0)
			sent += (size_t)n;
		card_recycle(t->card, buffers);
		tcp_receive(t);
	}
	assert_memory_equal(t->data, data, sizeof(data));
	close(fd);
}

#endif
