/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the socket device: vsock.c speaks with the guest, vsock_socket.c with the host's programs. */
#ifndef VMM_DEVICE_VIRTIO_VSOCK_PARTS_H
#define VMM_DEVICE_VIRTIO_VSOCK_PARTS_H

#include <linux/virtio_vsock.h>

#include "device/virtio/models.h"

#define VSOCK_HOST_CID 2
#define VSOCK_BUFFER 65536u /* bytes from the guest that we hold for a connection: what it gets credit for */
#define VSOCK_CONNECTIONS_MAX 256
#define VSOCK_RESETS_MAX 64
#define VSOCK_LINE_MAX 32 /* "CONNECT 4294967295\n" */

/* What waits to be told to the guest. */
enum {
	SEND_REQUEST = 1,
	SEND_RESPONSE = 2,
	SEND_CREDIT = 4,
	SEND_SHUTDOWN = 8,
	SEND_RESET = 16,
};

enum vsock_state {
	VSOCK_WAITS_FOR_LINE, /* a program of the host has connected and not said where to */
	VSOCK_REQUESTED,      /* the guest has not answered */
	VSOCK_OPEN,
	VSOCK_CLOSED, /* once to_send is empty it goes */
};

struct vsock;
struct vsock_connection {
	struct vsock_connection *next;
	struct vsock *vsock;
	enum vsock_state state;
	uint32_t guest_port, host_port;
	int fd;
	struct io_watch watch;
	uint32_t events;
	unsigned to_send;
	bool readable;              /* as far as is known */
	bool host_done, guest_done; /* no more comes from there */
	bool guest_receives_no_more;
	bool write_shut; /* the program was told that the guest is done */
	/* Bytes, modulo 2^32 (5.10.6.3): ours to the guest, and the guest's to the program. */
	uint32_t sent, peer_forwarded, peer_buffer;
	uint32_t forwarded, told; /* told: what the guest knows of forwarded */
	uint32_t first, queued;   /* in buffer, a ring: the guest's, not yet taken by the program */
	char line[VSOCK_LINE_MAX];
	unsigned line_length;
	uint8_t buffer[VSOCK_BUFFER];
};

struct vsock {
	struct virtio_device v; /* first */
	uint64_t guest_cid;
	_Atomic unsigned epoch;     /* counts resets */
	struct virtq_chain *buffer; /* popped, not used yet; receive queue's lock */
	/* The rest is the I/O thread's. */
	unsigned epoch_seen;
	char *path;
	int listen_fd;
	struct io_watch listen_watch;
	struct vsock_connection *connections;
	unsigned count;
	uint32_t next_port;
	struct virtio_vsock_hdr reset[VSOCK_RESETS_MAX]; /* answers to packets of no connection */
	unsigned reset_count;
};

/* vsock.c; receive queue's lock held */
void vsock_send_waiting(struct vsock *s);

/* vsock_socket.c */
int vsock_init_sockets(struct vsock *s, const char *path); /* 0 or -errno with a message */
void vsock_fini_sockets(struct vsock *s);                  /* the I/O thread has ended */
void vsock_catch_up(struct vsock *s);                      /* forget connections of before a reset */
struct vsock_connection *vsock_find(struct vsock *s, uint32_t guest_port, uint32_t host_port);
/* The guest asks for a connection: to a socket of the host. False: refused. */
bool vsock_connect(struct vsock *s, const struct virtio_vsock_hdr *in);
void vsock_accepted(struct vsock *s, struct vsock_connection *c); /* the guest has answered ours */
void vsock_write_queued(struct vsock *s, struct vsock_connection *c);
void vsock_shutdown_when_written(struct vsock_connection *c);
void vsock_watch(struct vsock *s, struct vsock_connection *c); /* for what matters now */
void vsock_close(struct vsock *s, struct vsock_connection *c); /* and free */

#endif
