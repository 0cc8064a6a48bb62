/* SPDX-License-Identifier: Apache-2.0 */
/* A console port behind a Unix socket: one client at a time. Everything here is the I/O thread's. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "device/unix_socket.h"
#include "device/virtio/console_parts.h"
#include "machine/message.h"

#define SEGMENTS_AT_ONCE 64

static struct io_thread *thread_of(const struct port *p)
{
	return p->console->v.thread[0];
}

static struct virtq *receive_ring(const struct port *p)
{
	return &p->console->v.queue[console_receive_queue(p)].ring;
}

static struct virtq *transmit_ring(const struct port *p)
{
	return &p->console->v.queue[console_transmit_queue(p)].ring;
}

static void watch(struct port *p, uint32_t events)
{
	if (p->fd < 0 || p->hung_up || events == p->events)
		return;
	p->events = events;
	io_thread_change(thread_of(p), &p->watch, events);
}

/* The control queue's lock is not held. */
static void disconnect(struct port *p)
{
	if (p->fd < 0)
		return;
	if (!p->hung_up)
		io_thread_remove(thread_of(p), &p->watch);
	close(p->fd);
	p->fd = -1;
	p->hung_up = false;
	atomic_store(&p->connected, false);
	console_tell(p->console, p->id, VIRTIO_CONSOLE_PORT_OPEN, 0);
	io_thread_change(thread_of(p), &p->listen_watch, EPOLLIN); /* the next one may come */
	virtio_kick(&p->console->v, console_transmit_queue(p));    /* what it has not taken is lost */
}

/* Host to guest, receive queue's lock held. False: the client is gone. */
static bool receive(struct port *p)
{
	struct console *c = p->console;
	struct virtq *ring = receive_ring(p);
	struct virtq_chain *buffer;
	bool alive = true, more = true;

	while (more && p->fd >= 0) {
		ssize_t n;

		buffer = ring->enabled && console_guest_listens(c, p) ? console_next_buffer(c, p) : NULL;
		if (!buffer) {
			watch(p, p->events & ~(uint32_t)EPOLLIN); /* the next kick goes on */
			break;
		}
		n = readv(p->fd, virtq_in(buffer),
			  buffer->in_count < SEGMENTS_AT_ONCE ? (int)buffer->in_count : SEGMENTS_AT_ONCE);
		if (n > 0) {
			virtq_push(ring, buffer, (uint32_t)n);
			p->buffer = NULL;
			continue;
		}
		more = n < 0 && errno == EINTR;
		alive = more || (n < 0 && errno == EAGAIN);
		if (alive)
			watch(p, p->events | EPOLLIN);
	}
	virtio_queue_flush(&c->v, console_receive_queue(p));
	return alive;
}

void port_socket_receive(struct port *p)
{
	if (!receive(p))
		disconnect(p);
}

/* Guest to host, transmit queue's lock held. False: the client is gone. */
static bool send_chain(struct port *p, struct virtq_chain *chain)
{
	while (p->fd >= 0 && p->sent < chain->out_bytes) {
		struct iovec iov[SEGMENTS_AT_ONCE];
		struct msghdr message = { .msg_iov = iov };
		ssize_t n;

		message.msg_iovlen = virtq_slice(iov, SEGMENTS_AT_ONCE, virtq_out(chain), chain->out_count, p->sent,
						 chain->out_bytes - p->sent, NULL);
		n = sendmsg(p->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			p->sent += (size_t)n;
		} else if (errno == EAGAIN) {
			watch(p, p->events | EPOLLOUT);
			return true;
		} else if (errno != EINTR) {
			p->sent = chain->out_bytes; /* it goes nowhere */
			return false;
		}
	}
	p->sent = chain->out_bytes; /* without a client, too */
	return true;
}

static bool transmit(struct port *p)
{
	struct console *c = p->console;
	struct virtq *ring = transmit_ring(p);
	unsigned q = console_transmit_queue(p);
	bool alive = true;

	while (alive && ring->enabled && virtio_running(&c->v)) {
		if (!p->sending) {
			if (!virtio_pop(&c->v, q, &p->sending) &&
			    (!virtq_kicks_on(ring) || !virtio_pop(&c->v, q, &p->sending)))
				break;
			p->sent = 0;
		}
		alive = send_chain(p, p->sending);
		if (p->sent < p->sending->out_bytes)
			break;
		virtq_push(ring, p->sending, 0);
		p->sending = NULL;
	}
	virtio_queue_flush(&c->v, q);
	return alive;
}

void port_socket_transmit(struct port *p)
{
	transmit(p); /* a dead client is noticed by the watch */
}

static void connection_ready(void *ctx, uint32_t events)
{
	struct port *p = ctx;
	bool alive = true;

	if (events & EPOLLOUT) {
		pthread_mutex_lock(&transmit_ring(p)->lock);
		watch(p, p->events & ~(uint32_t)EPOLLOUT);
		alive = transmit(p);
		pthread_mutex_unlock(&transmit_ring(p)->lock);
	}
	if (alive && events & EPOLLIN) {
		pthread_mutex_lock(&receive_ring(p)->lock);
		alive = receive(p);
		pthread_mutex_unlock(&receive_ring(p)->lock);
	}
	if (!alive) {
		disconnect(p);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		/* The guest has not read all yet: kicks go on with it. The event would come again and again. */
		io_thread_remove(thread_of(p), &p->watch);
		p->hung_up = true;
	}
}

static void listener_ready(void *ctx, uint32_t events)
{
	struct port *p = ctx;
	int fd = accept4(p->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	p->fd = fd;
	p->events = EPOLLIN;
	p->watch = (struct io_watch){ .fd = fd, .ready = connection_ready, .ctx = p };
	if (io_thread_add(thread_of(p), &p->watch, EPOLLIN)) {
		close(fd);
		p->fd = -1;
		return;
	}
	io_thread_change(thread_of(p), &p->listen_watch, 0);
	atomic_store(&p->connected, true);
	console_tell(p->console, p->id, VIRTIO_CONSOLE_PORT_OPEN, 1);
}

int port_socket_open(struct port *p, const char *path)
{
	char error[256];

	p->listen_fd = unix_socket_listen(path, error, sizeof(error));
	if (p->listen_fd < 0) {
		msg_error("virtserialport: %s", error);
		return -EINVAL;
	}
	p->path = strdup(path);
	if (!p->path)
		return -ENOMEM;
	p->listen_watch = (struct io_watch){ .fd = p->listen_fd, .ready = listener_ready, .ctx = p };
	return io_thread_add(thread_of(p), &p->listen_watch, EPOLLIN);
}

void port_socket_close(struct port *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->listen_fd >= 0)
		close(p->listen_fd);
	if (p->path)
		unlink(p->path);
	free(p->path);
}
