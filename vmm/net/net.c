/* SPDX-License-Identifier: Apache-2.0 */
/* What all back ends have in common: options, the client, threads, and offloads for those that have none. */
#include "net/net.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/message.h"
#include "machine/nearest.h"
#include "net/backend.h"
#include "net/frame.h"

static const struct net_kind {
	const char *name;
	int (*open)(const struct net_options *options, struct net **net); /* NULL: no card */
} kinds[] = {
	{ "user", net_user_open },
	{ "tap", net_tap_open },
	{ "none", NULL },
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

const char *const *net_kinds(void)
{
	static const char *names[KIND_COUNT + 1];

	for (size_t i = 0; i < KIND_COUNT; i++)
		names[i] = kinds[i].name;
	return names;
}

static int open_kind(const struct net_options *options, unsigned index, struct net **net)
{
	static const char *const no_keys[] = { "mac", NULL };
	const struct net_kind *kind = NULL;
	uint8_t mac[6];
	bool packed;
	int err;

	for (size_t i = 0; i < KIND_COUNT && !kind; i++)
		if (!strcmp(kinds[i].name, options->kind))
			kind = &kinds[i];
	if (!kind) {
		msg_error("--net %s: unknown kind of network; did you mean \"%s\"?", options->kind,
			  nearest_name(options->kind, net_kinds()));
		return -EINVAL;
	}
	err = net_options_mac(options, index, mac);
	if (!err)
		err = net_options_bool(options, "packed", false, &packed);
	if (err || !kind->open)
		return err ? err : net_options_check(options, no_keys, NULL);
	err = kind->open(options, net);
	if (err)
		return err;
	memcpy((*net)->mac, mac, sizeof(mac));
	(*net)->packed = packed;
	return 0;
}

int net_open(const char *text, unsigned index, struct net **net)
{
	struct net_options options;
	int err = net_options_parse(&options, text);

	*net = NULL;
	if (!err)
		err = open_kind(&options, index, net);
	net_options_free(&options);
	return err;
}

void net_close(struct net *net)
{
	if (net)
		net->ops->close(net);
}

const char *net_kind(const struct net *net)
{
	return net->kind;
}

bool net_packed(const struct net *net)
{
	return net->packed;
}

const uint8_t *net_mac(const struct net *net)
{
	return net->mac;
}

unsigned net_queues(const struct net *net)
{
	return net->queues;
}

unsigned net_mtu(const struct net *net)
{
	return net->mtu;
}

bool net_link_up(const struct net *net)
{
	return !atomic_load(&net->link_down);
}

/* ---- for the back ends ---- */

int net_init(struct net *net)
{
	int err = 0;

	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		pthread_mutex_init(&net->port[i].lock, NULL);
		net->port[i].event_fd = -1;
	}
	for (unsigned i = 0; i < net->queues && !err; i++) {
		net->port[i].event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (net->port[i].event_fd < 0)
			err = -errno;
	}
	return err;
}

void net_free(struct net *net)
{
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		pthread_mutex_destroy(&net->port[i].lock);
		if (net->port[i].event_fd >= 0)
			close(net->port[i].event_fd);
	}
	free(net);
}

int net_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

void net_wake(struct net_port *port)
{
	uint64_t one = 1;
	ssize_t n = write(port->event_fd, &one, sizeof(one));

	(void)n; /* a full counter wakes as well */
}

void net_wake_clear(struct net_port *port)
{
	uint64_t count;
	ssize_t n = read(port->event_fd, &count, sizeof(count));

	(void)n; /* nothing there: nothing to clear */
}

void net_stop(struct net *net)
{
	atomic_store(&net->stop, true);
	for (unsigned i = 0; i < net->queues; i++)
		net_wake(&net->port[i]);
}

bool net_deliver(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const void *data, size_t len)
{
	const struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct net_port *port = &net->port[queue];
	bool taken;

	pthread_mutex_lock(&port->lock);
	if (!net->client) {
		pthread_mutex_unlock(&port->lock);
		net_count_rx_drop(net);
		return true;
	}
	taken = net->client->receive(net->ctx, queue, hdr, &iov, 1);
	if (!taken) {
		/* Buffers that came before net_rx_ready() could see that they are waited for are found by asking again.
		 */
		atomic_store(&port->stalled, true);
		taken = net->client->receive(net->ctx, queue, hdr, &iov, 1);
		if (taken)
			atomic_store(&port->stalled, false);
	}
	pthread_mutex_unlock(&port->lock);
	if (taken) {
		atomic_fetch_add_explicit(&net->rx_frames, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&net->rx_bytes, len, memory_order_relaxed);
	}
	return taken;
}

void net_deliver_done(struct net *net, unsigned queue)
{
	struct net_port *port = &net->port[queue];

	pthread_mutex_lock(&port->lock);
	if (net->client && net->client->receive_done)
		net->client->receive_done(net->ctx, queue);
	pthread_mutex_unlock(&port->lock);
}

void net_set_link(struct net *net, bool up)
{
	if (atomic_exchange(&net->link_down, !up) == !up)
		return;
	pthread_mutex_lock(&net->port[0].lock);
	if (net->client && net->client->link_changed)
		net->client->link_changed(net->ctx, up);
	pthread_mutex_unlock(&net->port[0].lock);
}

/* ---- for the card ---- */

static void set_client(struct net *net, const struct net_client *client, void *ctx)
{
	for (unsigned i = 0; i < net->queues; i++)
		pthread_mutex_lock(&net->port[i].lock);
	net->client = client;
	net->ctx = ctx;
	for (unsigned i = net->queues; i-- > 0;)
		pthread_mutex_unlock(&net->port[i].lock);
	for (unsigned i = 0; i < net->queues; i++)
		net_rx_ready(net, i);
}

void net_attach(struct net *net, const struct net_client *client, void *ctx)
{
	net_set_rx_offloads(net, 0);
	net_set_queues(net, 1);
	set_client(net, client, ctx);
}

void net_detach(struct net *net)
{
	if (net)
		set_client(net, NULL, NULL);
}

void net_set_rx_offloads(struct net *net, unsigned offloads)
{
	offloads &= offloads & NET_CSUM ? NET_OFFLOADS_ALL : 0;
	atomic_store(&net->rx_offloads, offloads);
	if (net->ops->set_rx_offloads)
		net->ops->set_rx_offloads(net, offloads);
}

void net_set_queues(struct net *net, unsigned queues)
{
	if (queues > net->queues)
		queues = net->queues;
	if (net->ops->set_queues)
		net->ops->set_queues(net, queues ? queues : 1);
}

void net_rx_ready(struct net *net, unsigned queue)
{
	struct net_port *port = &net->port[queue];

	if (queue < net->queues && atomic_load(&port->stalled) && atomic_exchange(&port->stalled, false))
		net_wake(port);
}

/* The frame in memory of our own, so that it stays what was checked. NULL: no memory. */
static struct net_frame *copy_frame(const struct iovec *iov, unsigned count, size_t len)
{
	struct net_frame *f = net_frame_new(len);
	size_t done = 0;

	for (unsigned i = 0; f && i < count; done += iov[i++].iov_len)
		memcpy(f->data + done, iov[i].iov_base, iov[i].iov_len);
	return f;
}

/* A TCP packet that is as long as its header says can go as it is to a network without a limit on segments. */
static bool is_whole_packet(const uint8_t *frame, size_t len)
{
	struct net_tcp t;

	return net_tcp_parse(frame, len, &t) && t.end == len;
}

static void send_in_software(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
			     unsigned count, size_t len)
{
	bool gso = hdr->gso_type != VIRTIO_NET_HDR_GSO_NONE;
	struct net_frame *f, *segment = NULL;

	if (!gso && len > net->plain_max) {
		net_count_tx_drop(net);
		return;
	}
	f = copy_frame(iov, count, len);
	if (f && gso && !net->long_segments) {
		if (!net_segment(f->data, len, hdr, &segment))
			net_count_tx_drop(net);
		free(f);
	} else if (f && net_fill_checksum(f->data, len, hdr) && (!gso || is_whole_packet(f->data, len))) {
		segment = f;
	} else {
		net_count_tx_drop(net);
		free(f);
	}
	while (segment) {
		f = segment;
		segment = f->next;
		f->next = NULL;
		net->ops->send_frame(net, queue, f);
	}
}

void net_send(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
	      unsigned count)
{
	struct virtio_net_hdr copy = *hdr;
	size_t len = 0;

	for (unsigned i = 0; i < count && len <= NET_FRAME_MAX; i++) {
		if (iov[i].iov_len > NET_FRAME_MAX)
			len = NET_FRAME_MAX;
		len += iov[i].iov_len;
	}
	if (len < ETH_HLEN || len > NET_FRAME_MAX || queue >= net->queues || !net_hdr_valid(&copy, len)) {
		net_count_tx_drop(net);
		return;
	}
	atomic_fetch_add_explicit(&net->tx_frames, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&net->tx_bytes, len, memory_order_relaxed);
	if (net->ops->send)
		net->ops->send(net, queue, &copy, iov, count);
	else
		send_in_software(net, queue, &copy, iov, count, len);
}

void net_get_stats(const struct net *net, struct net_stats *stats)
{
	*stats = (struct net_stats){
		.tx_frames = atomic_load(&net->tx_frames),
		.tx_bytes = atomic_load(&net->tx_bytes),
		.tx_dropped = atomic_load(&net->tx_dropped),
		.rx_frames = atomic_load(&net->rx_frames),
		.rx_bytes = atomic_load(&net->rx_bytes),
		.rx_dropped = atomic_load(&net->rx_dropped),
	};
}
