/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the console device: what console.c and port_socket.c share. */
#ifndef VMM_DEVICE_VIRTIO_CONSOLE_PARTS_H
#define VMM_DEVICE_VIRTIO_CONSOLE_PARTS_H

#include "device/virtio/models.h"

#define CONSOLE_MESSAGES_MAX 64

struct console;

struct port {
	struct console *console;
	unsigned id;
	bool used;
	const char *name;
	_Atomic bool guest_open;     /* a program in the guest has it open */
	_Atomic bool connected;      /* so has one on the host */
	struct virtq_chain *buffer;  /* popped to be filled; receive queue's lock */
	struct virtq_chain *sending; /* partly sent; transmit queue's lock */
	size_t sent;
	/* Sockets; the I/O thread's. */
	char *path;
	int listen_fd, fd; /* fd -1: nobody is connected */
	uint32_t events;   /* what fd is watched for */
	bool hung_up;      /* the client is gone, what it wrote is not read yet; fd is not watched */
	struct io_watch listen_watch, watch;
};

struct console_message {
	unsigned port;
	uint16_t event, value;
};

struct console {
	struct virtio_device v; /* first */
	struct chardev *terminal;
	struct port port[VIRTIO_PORTS_MAX + 1];
	unsigned port_count;
	/* Control messages that wait for buffers; control queue's lock. */
	struct console_message message[CONSOLE_MESSAGES_MAX];
	unsigned message_count;
};

unsigned console_receive_queue(const struct port *p);
unsigned console_transmit_queue(const struct port *p);
/* Tell the driver. Thread: any; the control queue's lock is not held. */
void console_tell(struct console *c, unsigned port, uint16_t event, uint16_t value);
struct virtq_chain *console_next_buffer(struct console *c, struct port *p);
bool console_guest_listens(const struct console *c, const struct port *p);

/* 0 or -errno with a message. */
int port_socket_open(struct port *p, const char *path);
void port_socket_close(struct port *p); /* the I/O thread has ended */
/* The queue was kicked. Thread: the I/O thread, the queue's lock held. */
void port_socket_receive(struct port *p);
void port_socket_transmit(struct port *p);

#endif
