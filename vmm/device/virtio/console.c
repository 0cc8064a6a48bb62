/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console device (virtio 1.2, 5.3) with several ports. Queues: port 0's receive and transmit, the control pair, then a
 * pair a port. Port 0 is the terminal; the others are sockets, served by port_socket.c on the I/O thread.
 */
#include "device/virtio/console_parts.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/compiler.h"
#include "device/virtio/models.h"
#include "machine/board.h"

#define QUEUE_SIZE 64
#define OUT_CHUNK 4096

enum { Q_RECEIVE0, Q_TRANSMIT0, Q_CONTROL_IN, Q_CONTROL_OUT, Q_PORTS };

static struct console *of(struct virtio_device *v)
{
	return container_of(v, struct console, v);
}

unsigned console_receive_queue(const struct port *p)
{
	return p->id ? Q_PORTS + 2 * (p->id - 1) : Q_RECEIVE0;
}

unsigned console_transmit_queue(const struct port *p)
{
	return console_receive_queue(p) + 1;
}

static struct port *port_of_queue(struct console *c, unsigned q)
{
	unsigned id = q < Q_PORTS ? 0 : (q - Q_PORTS) / 2 + 1;

	return id < c->port_count ? &c->port[id] : NULL;
}

/* ---- control messages (5.3.6.2) ---- */

/* Control queue's lock held: send what waits, as far as the driver has given buffers. */
static void flush_control(struct console *c)
{
	struct virtq *ring = &c->v.queue[Q_CONTROL_IN].ring;
	struct virtq_chain *chain;
	unsigned sent = 0;

	for (; sent < c->message_count; sent++) {
		const struct console_message *m = &c->message[sent];
		const struct virtio_console_control header = { .id = m->port, .event = m->event, .value = m->value };
		size_t n;

		if (!virtio_pop(&c->v, Q_CONTROL_IN, &chain) &&
		    (!virtq_kicks_on(ring) || !virtio_pop(&c->v, Q_CONTROL_IN, &chain)))
			break;
		n = virtq_write(chain, 0, &header, sizeof(header));
		if (m->event == VIRTIO_CONSOLE_PORT_NAME)
			n += virtq_write(chain, n, c->port[m->port].name, strlen(c->port[m->port].name));
		virtq_push(ring, chain, (uint32_t)n);
	}
	c->message_count -= sent;
	memmove(c->message, c->message + sent, c->message_count * sizeof(c->message[0]));
	virtio_queue_flush(&c->v, Q_CONTROL_IN);
}

void console_tell(struct console *c, unsigned port, uint16_t event, uint16_t value)
{
	struct virtq *ring = &c->v.queue[Q_CONTROL_IN].ring;

	pthread_mutex_lock(&ring->lock);
	/* A driver that takes none of them does not need more. */
	if (ring->enabled && virtio_running(&c->v) && virtio_has(&c->v, VIRTIO_CONSOLE_F_MULTIPORT) &&
	    c->message_count < CONSOLE_MESSAGES_MAX) {
		c->message[c->message_count++] = (struct console_message){ port, event, value };
		flush_control(c);
	}
	pthread_mutex_unlock(&ring->lock);
}

static void port_ready(struct console *c, struct port *p)
{
	if (!p->id)
		console_tell(c, p->id, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
	if (p->name)
		console_tell(c, p->id, VIRTIO_CONSOLE_PORT_NAME, 1);
	if (!p->id || atomic_load(&p->connected))
		console_tell(c, p->id, VIRTIO_CONSOLE_PORT_OPEN, 1);
}

static void take_control(struct console *c, const struct virtio_console_control *m)
{
	struct port *p = m->id < c->port_count ? &c->port[m->id] : NULL;

	switch (m->event) {
	case VIRTIO_CONSOLE_DEVICE_READY:
		for (unsigned i = 0; m->value == 1 && i < c->port_count; i++)
			if (c->port[i].used)
				console_tell(c, i, VIRTIO_CONSOLE_PORT_ADD, 1);
		break;
	case VIRTIO_CONSOLE_PORT_READY:
		if (p && p->used && m->value == 1)
			port_ready(c, p);
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		if (!p || !p->used)
			break;
		atomic_store(&p->guest_open, m->value == 1);
		virtio_kick(&c->v, console_receive_queue(p)); /* input may have waited for this */
		break;
	default: break;
	}
}

static void serve_control(struct virtio_device *v, unsigned q, struct virtq_chain *chain)
{
	struct virtio_console_control message;

	if (virtq_read(chain, 0, &message, sizeof(message)) == sizeof(message))
		take_control(of(v), &message);
	virtq_push(&v->queue[q].ring, chain, 0);
}

/* ---- the terminal ---- */

static void serve_terminal_output(struct virtio_device *v, unsigned q, struct virtq_chain *chain)
{
	struct chardev *terminal = of(v)->terminal;
	uint8_t data[OUT_CHUNK];
	size_t done = 0, n;

	while (terminal && (n = virtq_read(chain, done, data, sizeof(data))) > 0) {
		terminal->write(terminal, data, (unsigned)n);
		done += n;
	}
	virtq_push(&v->queue[q].ring, chain, 0);
}

/* Receive queue's lock held: a buffer to be filled, kept until it is. */
struct virtq_chain *console_next_buffer(struct console *c, struct port *p)
{
	unsigned q = console_receive_queue(p);

	if (!p->buffer && virtio_running(&c->v) && !virtio_pop(&c->v, q, &p->buffer) &&
	    virtq_kicks_on(&c->v.queue[q].ring))
		virtio_pop(&c->v, q, &p->buffer);
	return p->buffer;
}

/* Without control messages there is one port, always open. */
bool console_guest_listens(const struct console *c, const struct port *p)
{
	return !virtio_has(&c->v, VIRTIO_CONSOLE_F_MULTIPORT) || atomic_load(&p->guest_open);
}

static unsigned terminal_can_receive(void *ctx)
{
	struct console *c = ctx;
	struct virtq *ring = &c->v.queue[Q_RECEIVE0].ring;
	struct virtq_chain *buffer;
	unsigned room = 0;

	if (pthread_mutex_trylock(&ring->lock))
		return CHARDEV_BUSY;
	if (ring->enabled && console_guest_listens(c, &c->port[0])) {
		buffer = console_next_buffer(c, &c->port[0]);
		if (buffer)
			room = buffer->in_bytes < CHARDEV_BUSY ? (unsigned)buffer->in_bytes : CHARDEV_BUSY - 1;
	}
	pthread_mutex_unlock(&ring->lock);
	return room;
}

static bool terminal_receive(void *ctx, const uint8_t *data, unsigned len)
{
	struct console *c = ctx;
	struct port *p = &c->port[0];
	struct virtq *ring = &c->v.queue[Q_RECEIVE0].ring;

	if (pthread_mutex_trylock(&ring->lock))
		return false;
	/* A reset in between takes the input with it. */
	if (ring->enabled && p->buffer) {
		size_t n = virtq_write(p->buffer, 0, data, len);

		virtq_push(ring, p->buffer, (uint32_t)n);
		p->buffer = NULL;
		virtio_queue_flush(&c->v, Q_RECEIVE0);
	}
	pthread_mutex_unlock(&ring->lock);
	return true;
}

/* ---- life ---- */

static void kicked(struct virtio_device *v, unsigned q)
{
	struct console *c = of(v);
	struct port *p = port_of_queue(c, q);

	switch (q) {
	case Q_RECEIVE0:
		if (c->terminal && c->terminal->room)
			c->terminal->room(c->terminal);
		return;
	case Q_TRANSMIT0: virtio_serve(v, q, serve_terminal_output); return;
	case Q_CONTROL_IN: flush_control(c); return;
	case Q_CONTROL_OUT: virtio_serve(v, q, serve_control); return;
	}
	if (p && q == console_receive_queue(p))
		port_socket_receive(p);
	else if (p)
		port_socket_transmit(p);
}

static void queue_stop(struct virtio_device *v, unsigned q)
{
	struct console *c = of(v);
	struct port *p = port_of_queue(c, q);
	struct virtq_chain **held = NULL;

	if (q == Q_CONTROL_IN)
		c->message_count = 0;
	if (q == Q_CONTROL_IN || q == Q_CONTROL_OUT || !p)
		return;
	held = q == console_receive_queue(p) ? &p->buffer : &p->sending;
	if (*held)
		virtq_drop(&v->queue[q].ring, *held);
	*held = NULL;
}

static void stop(struct virtio_device *v)
{
	struct console *c = of(v);

	for (unsigned i = 0; i < c->port_count; i++)
		atomic_store(&c->port[i].guest_open, false);
}

static void destroy(struct virtio_device *v)
{
	struct console *c = of(v);

	if (c->terminal) {
		c->terminal->can_receive = NULL;
		c->terminal->receive = NULL;
	}
	for (unsigned i = 1; i < c->port_count; i++)
		port_socket_close(&c->port[i]);
	virtio_device_fini(v);
	free(c);
}

static const struct virtio_model console_model = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.class_code = 0x078000,
	.queue_stop = queue_stop,
	.stop = stop,
	.kicked = kicked,
	.destroy = destroy,
};

static int open_ports(struct console *c, const struct virtio_port_config *ports, unsigned count)
{
	int err = 0;

	c->port_count = 1;
	c->port[0] = (struct port){ .console = c, .used = c->terminal, .listen_fd = -1, .fd = -1 };
	for (unsigned i = 0; i < count && !err; i++) {
		struct port *p = &c->port[c->port_count++];

		*p = (struct port){
			.console = c, .id = i + 1, .used = true, .name = ports[i].name, .listen_fd = -1, .fd = -1
		};
		err = port_socket_open(p, ports[i].path);
	}
	return err;
}

struct virtio_device *virtio_console_create(const struct guest_ram *ram, struct chardev *terminal,
					    const struct virtio_port_config *ports, unsigned count)
{
	struct virtio_console_config config = { .max_nr_ports = count + 1 };
	struct console *c = calloc(1, sizeof(*c));
	int err = c ? virtio_device_init(&c->v, &console_model, ram, Q_PORTS + 2 * count, QUEUE_SIZE, 1,
					 BIT64(VIRTIO_CONSOLE_F_MULTIPORT))
		    : -ENOMEM;

	if (err) {
		free(c);
		errno = -err;
		return NULL;
	}
	memcpy(c->v.config, &config, sizeof(config));
	c->v.config_size = sizeof(config);
	c->terminal = terminal;
	err = open_ports(c, ports, count);
	if (err) {
		virtio_device_stop_threads(&c->v);
		c->terminal = NULL;
		destroy(&c->v);
		errno = -err;
		return NULL;
	}
	if (terminal) {
		terminal->can_receive = terminal_can_receive;
		terminal->receive = terminal_receive;
		terminal->ctx = c;
	}
	return &c->v;
}
