/* SPDX-License-Identifier: Apache-2.0 */
/* A network card for tests of vmm/net: keeps what it receives. And hand-made frames. */
#ifndef TESTS_UNIT_NETFIX_H
#define TESTS_UNIT_NETFIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "net/frame.h"
#include "net/net.h"
#include "net/wire.h"

#define CARD_FRAMES 256
#define CARD_PATIENCE_S 20

struct card_frame {
	struct virtio_net_hdr hdr;
	uint32_t len;
	uint8_t *data;
};

/* Buffers: a count that runs out, as a guest's do. */
struct card {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct net *net;
	struct card_frame frame[CARD_FRAMES];
	unsigned got, taken, buffers, refused, link_changes;
};

static inline bool card_receive(void *ctx, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
				unsigned count)
{
	struct card *c = ctx;
	struct card_frame *f;
	bool ok;

	(void)queue;
	assert_int_equal(count, 1);
	pthread_mutex_lock(&c->lock);
	ok = c->buffers > 0 && c->got < CARD_FRAMES;
	if (ok) {
		f = &c->frame[c->got++];
		f->hdr = *hdr;
		f->len = (uint32_t)iov->iov_len;
		f->data = malloc(f->len);
		memcpy(f->data, iov->iov_base, f->len);
		c->buffers--;
	} else {
		c->refused++;
	}
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	return ok;
}

static inline void card_link_changed(void *ctx, bool up)
{
	struct card *c = ctx;

	(void)up;
	pthread_mutex_lock(&c->lock);
	c->link_changes++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static const struct net_client card_client = { .receive = card_receive, .link_changed = card_link_changed };

static inline void card_plug(struct card *c, struct net *net, unsigned buffers)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	c->net = net;
	c->buffers = buffers;
	net_attach(net, &card_client, c);
}

static inline void card_unplug(struct card *c)
{
	net_detach(c->net);
	for (unsigned i = 0; i < c->got; i++)
		free(c->frame[i].data);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->changed);
}

static inline struct timespec card_deadline(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += CARD_PATIENCE_S;
	return t;
}

/* The next frame, or NULL when none comes for a long time. */
static inline const struct card_frame *card_next(struct card *c)
{
	struct timespec deadline = card_deadline();
	const struct card_frame *f = NULL;

	pthread_mutex_lock(&c->lock);
	while (c->taken == c->got && pthread_cond_timedwait(&c->changed, &c->lock, &deadline) == 0)
		;
	if (c->taken < c->got)
		f = &c->frame[c->taken++];
	pthread_mutex_unlock(&c->lock);
	return f;
}

static inline void card_give_buffers(struct card *c, unsigned n)
{
	pthread_mutex_lock(&c->lock);
	c->buffers += n;
	pthread_mutex_unlock(&c->lock);
	net_rx_ready(c->net, 0);
}

static inline void card_send(struct card *c, const struct virtio_net_hdr *hdr, const void *data, size_t len)
{
	static const struct virtio_net_hdr none;
	struct iovec iov = { (void *)data, len };

	net_send(c->net, 0, hdr ? hdr : &none, &iov, 1);
}

/* ---- standard error, for what net_open() says ---- */

struct said {
	int saved;
	FILE *file;
	char text[512];
};

static inline void said_start(struct said *s)
{
	fflush(stderr);
	s->file = tmpfile();
	assert_non_null(s->file);
	s->saved = dup(2);
	dup2(fileno(s->file), 2);
}

static inline const char *said_end(struct said *s)
{
	size_t n;

	fflush(stderr);
	dup2(s->saved, 2);
	close(s->saved);
	rewind(s->file);
	n = fread(s->text, 1, sizeof(s->text) - 1, s->file);
	s->text[n] = '\0';
	fclose(s->file);
	return s->text;
}

/* net_open() must fail with err and say one line that has all of the words (NULL-terminated). */
static inline void open_fails(const char *text, int err, ...)
{
	struct net *net = (void *)1;
	struct said said;
	const char *line, *word;
	va_list ap;
	int got;

	said_start(&said);
	got = net_open(text, 0, &net);
	line = said_end(&said);
	if (got != err)
		fail_msg("%s: %d instead of %d: %s", text, got, err, line);
	assert_null(net);
	if (strncmp(line, "trapeze: --net ", 15) != 0 || strchr(line, '\n') != line + strlen(line) - 1)
		fail_msg("%s: not one line: %s", text, line);
	va_start(ap, err);
	while ((word = va_arg(ap, const char *)))
		if (!strstr(line, word))
			fail_msg("%s: no \"%s\" in: %s", text, word, line);
	va_end(ap);
}

/* ---- frames ---- */

struct tcp_packet {
	uint8_t dst_mac[6], src_mac[6];
	bool ipv6;
	uint8_t src[16], dst[16]; /* the first 4 bytes for IPv4 */
	uint16_t src_port, dst_port, window, id;
	uint32_t seq, ack;
	uint8_t flags;
	const uint8_t *options;
	unsigned options_len;
	const uint8_t *payload;
	unsigned payload_len;
};

/* The reference the code under test is compared with: RFC 1071 as written, 16 bits at a time. */
static inline uint16_t slow_checksum(const uint8_t *data, size_t len, uint32_t start)
{
	uint32_t sum = start;

	for (size_t i = 0; i < len; i++) {
		sum += i & 1 ? data[i] : (uint32_t)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)~sum;
}

static inline uint32_t slow_pseudo(const struct tcp_packet *p, unsigned tcp_len)
{
	unsigned n = p->ipv6 ? 16 : 4;
	uint8_t head[36];

	memcpy(head, p->src, n);
	memcpy(head + n, p->dst, n);
	put_be16(head + 2 * n, 6); /* the protocol */
	put_be16(head + 2 * n + 2, (uint16_t)tcp_len);
	return (uint16_t)~slow_checksum(head, 2 * n + 4, 0);
}

/* Ethernet, IP and TCP around the payload, checksums right; or, for partial, as a guest leaves them to the card. */
static inline size_t build_tcp(uint8_t *frame, const struct tcp_packet *p, bool partial)
{
	unsigned header = TCP_HEADER + p->options_len, tcp_len = header + p->payload_len;
	unsigned ip_len = p->ipv6 ? IPV6_HEADER : IPV4_HEADER;
	uint8_t *ip = frame + 14, *tcp = ip + ip_len;

	memset(frame, 0, 14 + ip_len + header);
	memcpy(frame, p->dst_mac, 6);
	memcpy(frame + 6, p->src_mac, 6);
	put_be16(frame + 12, p->ipv6 ? 0x86dd : 0x0800);
	if (p->ipv6) {
		ip[0] = 0x60;
		put_be16(ip + IPV6_LENGTH, (uint16_t)tcp_len);
		ip[IPV6_NEXT_HEADER] = 6;
		ip[IPV6_HOP_LIMIT] = 64;
		memcpy(ip + IPV6_SOURCE, p->src, 16);
		memcpy(ip + IPV6_SOURCE + 16, p->dst, 16);
	} else {
		ip[0] = 0x45;
		put_be16(ip + IPV4_LENGTH, (uint16_t)(ip_len + tcp_len));
		put_be16(ip + IPV4_ID, p->id);
		put_be16(ip + IPV4_FRAGMENT, 0x4000);
		ip[IPV4_TTL] = 64;
		ip[IPV4_PROTOCOL] = 6;
		memcpy(ip + IPV4_SOURCE, p->src, 4);
		memcpy(ip + IPV4_SOURCE + 4, p->dst, 4);
		put_be16(ip + IPV4_CHECKSUM, slow_checksum(ip, ip_len, 0));
	}
	put_be16(tcp, p->src_port);
	put_be16(tcp + 2, p->dst_port);
	put_be32(tcp + TCP_SEQUENCE, p->seq);
	put_be32(tcp + TCP_ACK_NUMBER, p->ack);
	tcp[TCP_OFFSET] = (uint8_t)(header / 4 << 4);
	tcp[TCP_FLAGS] = p->flags;
	put_be16(tcp + TCP_WINDOW, p->window);
	if (p->options_len)
		memcpy(tcp + TCP_OPTIONS, p->options, p->options_len);
	if (p->payload_len)
		memcpy(tcp + header, p->payload, p->payload_len);
	put_be16(tcp + TCP_CHECKSUM,
		 partial ? (uint16_t)slow_pseudo(p, tcp_len) : slow_checksum(tcp, tcp_len, slow_pseudo(p, tcp_len)));
	return 14 + ip_len + tcp_len;
}

static inline void fill_bytes(uint8_t *data, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		data[i] = (uint8_t)(seed >> 24);
	}
}

#endif
