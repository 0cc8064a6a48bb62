/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Socket device (virtio 1.2, 5.10), streams only, between the guest and Unix sockets of the host. With path=P:
 *  - the guest connects to the host's (CID 2) port n: to the Unix socket P_n;
 *  - a program of the host connects to P and writes "CONNECT n\n": to the guest's port n; it gets "OK m\n" first.
 *
 * Threads: connections belong to the I/O thread alone. A reset, on a vCPU's thread, only counts up `epoch`: the I/O
 * thread drops the connections of before when it next does anything. Lock order: the transmit queue's, the receive
 * queue's.
 */
#include "device/virtio/vsock_parts.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/compiler.h"

#define QUEUE_SIZE 128

enum { Q_RECEIVE, Q_TRANSMIT, Q_EVENT, QUEUES };

/* ---- packets to the guest; receive queue's lock held ---- */

static struct virtio_vsock_hdr packet(struct vsock *s, const struct vsock_connection *c, uint16_t op)
{
	return (struct virtio_vsock_hdr){ .src_cid = VSOCK_HOST_CID,
					  .dst_cid = s->guest_cid,
					  .src_port = c->host_port,
					  .dst_port = c->guest_port,
					  .type = VIRTIO_VSOCK_TYPE_STREAM,
					  .op = op,
					  .buf_alloc = VSOCK_BUFFER,
					  .fwd_cnt = c->forwarded };
}

/* A buffer of the driver's with room for a header at least, NULL: there is none now. */
static struct virtq_chain *take_buffer(struct vsock *s)
{
	struct virtq *ring = &s->v.queue[Q_RECEIVE].ring;

	while (!s->buffer && ring->enabled && virtio_running(&s->v)) {
		if (!virtio_pop(&s->v, Q_RECEIVE, &s->buffer) &&
		    (!virtq_kicks_on(ring) || !virtio_pop(&s->v, Q_RECEIVE, &s->buffer)))
			break;
		if (s->buffer->in_bytes >= sizeof(struct virtio_vsock_hdr))
			break;
		virtio_break(&s->v, "queue %u: a buffer of %llu bytes holds no packet", Q_RECEIVE,
			     (unsigned long long)s->buffer->in_bytes);
		virtq_push(ring, s->buffer, 0);
		s->buffer = NULL;
	}
	return s->buffer;
}

static void give_buffer(struct vsock *s, struct virtio_vsock_hdr *header, uint32_t payload)
{
	struct virtq *ring = &s->v.queue[Q_RECEIVE].ring;

	header->len = payload;
	virtq_write(s->buffer, 0, header, sizeof(*header));
	virtq_push(ring, s->buffer, (uint32_t)sizeof(*header) + payload);
	s->buffer = NULL;
}

static const struct {
	unsigned bit;
	uint16_t op;
} control_ops[] = { { SEND_REQUEST, VIRTIO_VSOCK_OP_REQUEST },
		    { SEND_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE },
		    { SEND_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE },
		    { SEND_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN },
		    { SEND_RESET, VIRTIO_VSOCK_OP_RST } };

/* False: no buffer is left. */
static bool send_control(struct vsock *s, struct vsock_connection *c)
{
	for (unsigned i = 0; i < ARRAY_SIZE(control_ops); i++) {
		struct virtio_vsock_hdr header;

		if (!(c->to_send & control_ops[i].bit))
			continue;
		if (!take_buffer(s))
			return false;
		header = packet(s, c, control_ops[i].op);
		if (control_ops[i].bit == SEND_SHUTDOWN)
			header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
		give_buffer(s, &header, 0);
		c->to_send &= ~control_ops[i].bit;
		c->told = c->forwarded;
	}
	return true;
}

/* How many bytes the guest has room for (5.10.6.3). */
static uint32_t credit(const struct vsock_connection *c)
{
	uint32_t under_way = c->sent - c->peer_forwarded;

	return c->peer_buffer > under_way ? c->peer_buffer - under_way : 0;
}

/* One packet of what the host's program wrote. False: no buffer is left. */
static bool send_data(struct vsock *s, struct vsock_connection *c)
{
	struct virtio_vsock_hdr header = packet(s, c, VIRTIO_VSOCK_OP_RW);
	struct iovec iov[8];
	unsigned count;
	ssize_t n;

	if (!take_buffer(s))
		return false;
	count = virtq_slice(iov, ARRAY_SIZE(iov), virtq_in(s->buffer), s->buffer->in_count, sizeof(header), credit(c),
			    NULL);
	n = count ? readv(c->fd, iov, (int)count) : -1;
	if (!count || (n < 0 && (errno == EAGAIN || errno == EINTR))) {
		c->readable = false;
	} else if (n > 0) {
		c->sent += (uint32_t)n;
		c->told = c->forwarded;
		give_buffer(s, &header, (uint32_t)n);
	} else {
		c->readable = false;
		c->host_done = true;
		c->to_send |= n < 0 ? SEND_RESET : SEND_SHUTDOWN;
	}
	return true;
}

static bool may_read(const struct vsock_connection *c)
{
	return c->state == VSOCK_OPEN && c->readable && !c->host_done && !c->guest_receives_no_more && credit(c);
}

void vsock_send_waiting(struct vsock *s)
{
	bool more = true;

	for (unsigned i = 0; i < VSOCK_RESETS_MAX && s->reset_count && take_buffer(s); i++)
		give_buffer(s, &s->reset[--s->reset_count], 0);
	/* In turn, a packet each, until nobody has anything or the driver no buffer. */
	while (more) {
		more = false;
		for (struct vsock_connection *c = s->connections; c; c = c->next) {
			if (c->to_send && !send_control(s, c))
				goto out;
			if (may_read(c)) {
				if (!send_data(s, c))
					goto out;
				more = true;
			}
		}
	}
out:
	virtio_queue_flush(&s->v, Q_RECEIVE);
	for (struct vsock_connection *c = s->connections, *next; c; c = next) {
		next = c->next;
		vsock_watch(s, c);
		/* Its last word has been said. */
		if (c->state == VSOCK_CLOSED && !c->to_send)
			vsock_close(s, c);
	}
}

/* ---- packets from the guest; transmit queue's lock held ---- */

static void reset_unknown(struct vsock *s, const struct virtio_vsock_hdr *in)
{
	if (in->op == VIRTIO_VSOCK_OP_RST || s->reset_count == VSOCK_RESETS_MAX)
		return;
	s->reset[s->reset_count++] = (struct virtio_vsock_hdr){ .src_cid = in->dst_cid,
								.dst_cid = s->guest_cid,
								.src_port = in->dst_port,
								.dst_port = in->src_port,
								.type = in->type,
								.op = VIRTIO_VSOCK_OP_RST };
}

static void finish(struct vsock_connection *c, unsigned last_word)
{
	c->state = VSOCK_CLOSED;
	c->to_send = last_word;
}

static void take_data(struct vsock *s, struct vsock_connection *c, const struct virtq_chain *chain, uint32_t len)
{
	size_t at = sizeof(struct virtio_vsock_hdr), end = at + len;

	/* More than it was given credit for: not a driver to talk to. */
	if (len > chain->out_bytes - at || len > VSOCK_BUFFER - c->queued) {
		finish(c, SEND_RESET);
		return;
	}
	while (at < end) {
		size_t room = VSOCK_BUFFER - (c->first + c->queued) % VSOCK_BUFFER;
		size_t n = end - at < room ? end - at : room;

		virtq_read(chain, at, c->buffer + (c->first + c->queued) % VSOCK_BUFFER, n);
		c->queued += (uint32_t)n;
		at += n;
	}
	vsock_write_queued(s, c);
}

static void take_shutdown(struct vsock_connection *c, uint32_t flags)
{
	if (flags & VIRTIO_VSOCK_SHUTDOWN_RCV)
		c->guest_receives_no_more = true;
	if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND)
		c->guest_done = true;
	vsock_shutdown_when_written(c);
}

static void take_packet(struct vsock *s, struct vsock_connection *c, const struct virtio_vsock_hdr *in,
			const struct virtq_chain *chain)
{
	c->peer_buffer = in->buf_alloc;
	c->peer_forwarded = in->fwd_cnt;
	switch (in->op) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		if (c->state == VSOCK_REQUESTED)
			vsock_accepted(s, c);
		else
			finish(c, SEND_RESET);
		break;
	case VIRTIO_VSOCK_OP_RST: finish(c, 0); break;
	case VIRTIO_VSOCK_OP_SHUTDOWN: take_shutdown(c, in->flags); break;
	case VIRTIO_VSOCK_OP_RW:
		if (c->state == VSOCK_OPEN)
			take_data(s, c, chain, in->len);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE: break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST: c->to_send |= SEND_CREDIT; break;
	default: finish(c, SEND_RESET); break;
	}
}

static void serve_packet(struct virtio_device *v, unsigned q, struct virtq_chain *chain)
{
	struct vsock *s = container_of(v, struct vsock, v);
	struct virtio_vsock_hdr in;
	struct vsock_connection *c;

	if (virtq_read(chain, 0, &in, sizeof(in)) != sizeof(in)) {
		virtio_break(v, "queue %u: a packet without header", q);
	} else if (in.src_cid == s->guest_cid && in.dst_cid == VSOCK_HOST_CID && in.type == VIRTIO_VSOCK_TYPE_STREAM) {
		c = vsock_find(s, in.src_port, in.dst_port);
		if (c && in.op != VIRTIO_VSOCK_OP_REQUEST)
			take_packet(s, c, &in, chain);
		else if (c || in.op != VIRTIO_VSOCK_OP_REQUEST || !vsock_connect(s, &in))
			reset_unknown(s, &in);
	} else {
		reset_unknown(s, &in);
	}
	virtq_push(&v->queue[q].ring, chain, 0);
}

static void kicked(struct virtio_device *v, unsigned q)
{
	struct vsock *s = container_of(v, struct vsock, v);
	struct virtq *receive = &v->queue[Q_RECEIVE].ring;

	vsock_catch_up(s);
	if (q == Q_RECEIVE) {
		vsock_send_waiting(s);
	} else if (q == Q_TRANSMIT) {
		virtio_serve(v, q, serve_packet);
		pthread_mutex_lock(&receive->lock);
		vsock_send_waiting(s);
		pthread_mutex_unlock(&receive->lock);
	}
}

/* ---- life ---- */

static void queue_stop(struct virtio_device *v, unsigned q)
{
	struct vsock *s = container_of(v, struct vsock, v);

	if (q != Q_RECEIVE || !s->buffer)
		return;
	virtq_drop(&v->queue[q].ring, s->buffer);
	s->buffer = NULL;
}

static void stop(struct virtio_device *v)
{
	atomic_fetch_add(&container_of(v, struct vsock, v)->epoch, 1);
}

static void destroy(struct virtio_device *v)
{
	struct vsock *s = container_of(v, struct vsock, v);

	vsock_fini_sockets(s);
	virtio_device_fini(v);
	free(s);
}

static const struct virtio_model vsock_model = {
	.name = "virtio-vsock",
	.id = VIRTIO_ID_VSOCK,
	.class_code = 0x078000,
	.queue_stop = queue_stop,
	.stop = stop,
	.kicked = kicked,
	.destroy = destroy,
};

struct virtio_device *virtio_vsock_create(const struct guest_ram *ram, uint64_t cid, const char *path)
{
	struct vsock *s = calloc(1, sizeof(*s));
	int err = s ? virtio_device_init(&s->v, &vsock_model, ram, QUEUES, QUEUE_SIZE, 1, 0) : -ENOMEM;

	if (err) {
		free(s);
		errno = -err;
		return NULL;
	}
	s->guest_cid = cid;
	memcpy(s->v.config, &cid, sizeof(cid));
	s->v.config_size = sizeof(cid);
	err = vsock_init_sockets(s, path);
	if (err) {
		virtio_device_stop_threads(&s->v);
		destroy(&s->v);
		errno = -err;
		return NULL;
	}
	return &s->v;
}
