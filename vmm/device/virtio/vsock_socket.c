/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device/unix_socket.h"
#include "device/virtio/vsock_parts.h"
#include "machine/message.h"

#define FIRST_PORT (UINT32_C(1) << 30) /* of connections that programs of the host make */

static struct io_thread *thread_of(const struct vsock *s)
{
	return s->v.thread[0];
}

struct vsock_connection *vsock_find(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_connection *c = s->connections;

	while (c && (c->state == VSOCK_WAITS_FOR_LINE || c->guest_port != guest_port || c->host_port != host_port))
		c = c->next;
	return c;
}

void vsock_close(struct vsock *s, struct vsock_connection *c)
{
	struct vsock_connection **at = &s->connections;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	s->count--;
	if (s->v.thread_count)
		io_thread_remove(thread_of(s), &c->watch);
	close(c->fd);
	free(c);
}

void vsock_catch_up(struct vsock *s)
{
	unsigned epoch = atomic_load(&s->epoch);

	if (epoch == s->epoch_seen)
		return;
	s->epoch_seen = epoch;
	s->reset_count = 0;
	while (s->connections)
		vsock_close(s, s->connections);
}

void vsock_watch(struct vsock *s, struct vsock_connection *c)
{
	uint32_t events = 0;

	if (c->state == VSOCK_WAITS_FOR_LINE ||
	    (c->state == VSOCK_OPEN && !c->readable && !c->host_done && !c->guest_receives_no_more))
		events |= EPOLLIN;
	if (c->state == VSOCK_OPEN && c->queued)
		events |= EPOLLOUT;
	/* Level-triggered hang-ups must not come again and again while nothing is wanted. */
	events |= EPOLLET;
	if (events != c->events && io_thread_change(thread_of(s), &c->watch, events) == 0)
		c->events = events;
}

void vsock_shutdown_when_written(struct vsock_connection *c)
{
	if (c->queued || c->state != VSOCK_OPEN)
		return;
	if (c->guest_done && !c->write_shut) {
		c->write_shut = true;
		shutdown(c->fd, SHUT_WR);
	}
	/* Neither side has anything to say: the answer that ends it is a reset (5.10.6.6). */
	if (c->guest_done && (c->host_done || c->guest_receives_no_more)) {
		c->state = VSOCK_CLOSED;
		c->to_send = SEND_RESET;
	}
}

void vsock_write_queued(struct vsock *s, struct vsock_connection *c)
{
	(void)s;
	while (c->queued) {
		size_t n = VSOCK_BUFFER - c->first < c->queued ? VSOCK_BUFFER - c->first : c->queued;
		ssize_t done = send(c->fd, c->buffer + c->first, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno != EAGAIN) {
			c->state = VSOCK_CLOSED;
			c->to_send = SEND_RESET;
			return;
		}
		if (done < 0)
			break;
		c->first = (c->first + (uint32_t)done) % VSOCK_BUFFER;
		c->queued -= (uint32_t)done;
		c->forwarded += (uint32_t)done;
	}
	/* The guest may wait for credit. */
	if (c->forwarded - c->told >= VSOCK_BUFFER / 2)
		c->to_send |= SEND_CREDIT;
	vsock_shutdown_when_written(c);
}

/* "CONNECT n\n". False: something else, or the program is gone. */
static bool read_line(struct vsock_connection *c)
{
	char *end;
	unsigned long port;

	while (c->line_length < sizeof(c->line) - 1) {
		/* Byte by byte: what follows is the guest's. */
		ssize_t n = read(c->fd, c->line + c->line_length, 1);

		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		if (c->line[c->line_length++] != '\n')
			continue;
		c->line[c->line_length - 1] = '\0';
		if (strncmp(c->line, "CONNECT ", 8) || c->line[8] < '0' || c->line[8] > '9')
			return false;
		port = strtoul(c->line + 8, &end, 10);
		if (*end || port > UINT32_MAX)
			return false;
		c->guest_port = (uint32_t)port;
		c->state = VSOCK_REQUESTED;
		c->to_send = SEND_REQUEST;
		return true;
	}
	return false;
}

void vsock_accepted(struct vsock *s, struct vsock_connection *c)
{
	char line[VSOCK_LINE_MAX];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	(void)s;
	c->state = VSOCK_OPEN;
	c->readable = true;
	/* The first bytes of a new socket have room. */
	if (send(c->fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
		c->state = VSOCK_CLOSED;
		c->to_send = SEND_RESET;
	}
}

static void connection_ready(void *ctx, uint32_t events)
{
	struct vsock_connection *c = ctx;
	struct vsock *s = c->vsock;
	struct virtq *receive = &s->v.queue[0].ring;

	if (atomic_load(&s->epoch) != s->epoch_seen) {
		vsock_catch_up(s);
		return;
	}
	if (c->state == VSOCK_WAITS_FOR_LINE) {
		if (!read_line(c)) {
			vsock_close(s, c);
			return;
		}
	} else {
		if (events & EPOLLOUT)
			vsock_write_queued(s, c);
		c->readable |= events & (EPOLLIN | EPOLLHUP | EPOLLERR);
	}
	pthread_mutex_lock(&receive->lock);
	vsock_send_waiting(s);
	pthread_mutex_unlock(&receive->lock);
}

/* Takes fd over. NULL: no room. */
static struct vsock_connection *add(struct vsock *s, int fd, enum vsock_state state)
{
	struct vsock_connection *c = s->count < VSOCK_CONNECTIONS_MAX ? calloc(1, sizeof(*c)) : NULL;

	if (c) {
		c->vsock = s;
		c->fd = fd;
		c->state = state;
		c->events = EPOLLIN | EPOLLET;
		c->watch = (struct io_watch){ .fd = fd, .ready = connection_ready, .ctx = c };
	}
	if (!c || io_thread_add(thread_of(s), &c->watch, c->events)) {
		close(fd);
		free(c);
		return NULL;
	}
	c->next = s->connections;
	s->connections = c;
	s->count++;
	return c;
}

bool vsock_connect(struct vsock *s, const struct virtio_vsock_hdr *in)
{
	struct vsock_connection *c;
	char path[UNIX_SOCKET_PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s_%u", s->path, in->dst_port) >= (int)sizeof(path))
		return false;
	fd = unix_socket_connect(path);
	c = fd < 0 ? NULL : add(s, fd, VSOCK_OPEN);
	if (!c)
		return false;
	c->guest_port = in->src_port;
	c->host_port = in->dst_port;
	c->peer_buffer = in->buf_alloc;
	c->peer_forwarded = in->fwd_cnt;
	c->readable = true;
	c->to_send = SEND_RESPONSE;
	return true;
}

static void listener_ready(void *ctx, uint32_t events)
{
	struct vsock *s = ctx;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct vsock_connection *c;

	(void)events;
	vsock_catch_up(s);
	c = fd < 0 ? NULL : add(s, fd, VSOCK_WAITS_FOR_LINE);
	if (!c)
		return;
	do
		c->host_port = s->next_port++ | FIRST_PORT;
	while (vsock_find(s, c->guest_port, c->host_port));
}

int vsock_init_sockets(struct vsock *s, const char *path)
{
	char error[256];
	int err;

	s->listen_fd = unix_socket_listen(path, error, sizeof(error));
	if (s->listen_fd < 0) {
		msg_error("virtio-vsock: %s", error);
		return -EINVAL;
	}
	s->path = strdup(path);
	if (!s->path)
		return -ENOMEM;
	s->listen_watch = (struct io_watch){ .fd = s->listen_fd, .ready = listener_ready, .ctx = s };
	err = io_thread_add(thread_of(s), &s->listen_watch, EPOLLIN);
	return err;
}

void vsock_fini_sockets(struct vsock *s)
{
	while (s->connections)
		vsock_close(s, s->connections);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->path)
		unlink(s->path);
	free(s->path);
}
