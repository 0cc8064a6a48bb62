/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network device (virtio 1.2, 5.1): queue 2n receives, 2n + 1 sends, the last one is the control queue. What the host's
 * network lacks of offloads is done by net/net.h, so all are offered. Frames come on the back end's threads, which take
 * the receive queue's lock; frames go out on the device's I/O threads.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/models.h"
#include "device/virtio/net_filter.h"
#include "net/net.h"

#define QUEUE_SIZE 256
#define HEADER_SIZE sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define MERGE_MAX 128    /* buffers of one frame */
#define TABLES_MAX 32768 /* bytes of the address tables that a driver may set */

struct net_pair {
	/* Receive buffers that were popped and not filled yet; under the receive queue's lock. */
	struct virtq_chain *taken[MERGE_MAX];
	unsigned taken_count;
	uint64_t taken_bytes;
	struct iovec out[VIRTQ_SEGMENTS_MAX]; /* under the send queue's lock */
};

struct netdev {
	struct virtio_device v;
	struct net *net;
	unsigned pairs;
	struct net_pair *pair;
	struct net_filter filter;
	bool attached;
};

static struct netdev *of(struct virtio_device *v)
{
	return container_of(v, struct netdev, v);
}

/* ---- guest to host ---- */

static void serve_send(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	struct netdev *n = of(v);
	struct net_pair *p = &n->pair[q / 2];
	struct virtio_net_hdr header;
	unsigned count;

	if (c->out_bytes > HEADER_SIZE && c->out_bytes <= HEADER_SIZE + NET_FRAME_MAX) {
		virtq_read(c, 0, &header, sizeof(header));
		count = virtq_slice(p->out, VIRTQ_SEGMENTS_MAX, virtq_out(c), c->out_count, HEADER_SIZE,
				    c->out_bytes - HEADER_SIZE, NULL);
		net_send(n->net, q / 2, &header, p->out, count);
	}
	virtq_push(&v->queue[q].ring, c, 0);
}

/* ---- host to guest; thread: the back end's ---- */

/* Receive queue's lock held. False: the driver has not given enough. */
static bool take_buffers(struct netdev *n, unsigned q, uint64_t need)
{
	struct net_pair *p = &n->pair[q / 2];
	struct virtq *ring = &n->v.queue[q].ring;
	bool merge = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF);
	struct virtq_chain *c;

	virtq_kicks_off(ring);
	for (;;) {
		while (p->taken_bytes < need && p->taken_count < (merge ? MERGE_MAX : 1) && virtio_pop(&n->v, q, &c)) {
			p->taken[p->taken_count++] = c;
			p->taken_bytes += c->in_bytes;
		}
		if (p->taken_bytes >= need || p->taken_count == (merge ? MERGE_MAX : 1))
			return true;
		if (!virtio_running(&n->v) || !virtq_kicks_on(ring))
			return false;
	}
}

/* Where the next byte of a frame goes. */
struct cursor {
	struct net_pair *pair;
	unsigned buffer;
	size_t offset;
	uint32_t written[MERGE_MAX];
};

static void put_bytes(struct cursor *at, const uint8_t *data, size_t n)
{
	while (n) {
		struct virtq_chain *c = at->pair->taken[at->buffer];
		size_t done = virtq_write(c, at->offset, data, n);

		at->offset += done;
		at->written[at->buffer] += (uint32_t)done;
		data += done;
		n -= done;
		if (n) {
			at->buffer++;
			at->offset = 0;
		}
	}
}

static void fill_frame(struct netdev *n, unsigned q, const struct virtio_net_hdr *hdr, const struct iovec *iov,
		       unsigned count, uint64_t bytes)
{
	struct net_pair *p = &n->pair[q / 2];
	struct virtio_net_hdr_mrg_rxbuf header = { .hdr = *hdr };
	struct cursor at = { .pair = p };
	uint64_t room = 0;
	unsigned used = 0;

	while (room < bytes)
		room += p->taken[used++]->in_bytes;
	header.num_buffers = (uint16_t)used;
	put_bytes(&at, (const uint8_t *)&header, sizeof(header));
	for (unsigned i = 0; i < count; i++)
		put_bytes(&at, iov[i].iov_base, iov[i].iov_len);
	virtq_push_many(&n->v.queue[q].ring, p->taken, at.written, used);
	p->taken_count -= used;
	p->taken_bytes -= room;
	memmove(p->taken, p->taken + used, p->taken_count * sizeof(p->taken[0]));
}

static bool wanted(struct netdev *n, const struct iovec *iov, unsigned count)
{
	uint8_t head[NET_FILTER_HEAD] = { 0 };
	size_t have = 0;

	for (unsigned i = 0; i < count && have < sizeof(head); i++) {
		size_t part = iov[i].iov_len < sizeof(head) - have ? iov[i].iov_len : sizeof(head) - have;

		memcpy(head + have, iov[i].iov_base, part);
		have += part;
	}
	return net_filter_passes(&n->filter, head, have);
}

static bool receive(void *ctx, unsigned pair, const struct virtio_net_hdr *hdr, const struct iovec *iov, unsigned count)
{
	struct netdev *n = ctx;
	unsigned q = 2 * pair;
	struct virtq *ring = &n->v.queue[q].ring;
	uint64_t bytes = HEADER_SIZE;
	bool taken = true;

	if (!wanted(n, iov, count))
		return true;
	for (unsigned i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	pthread_mutex_lock(&ring->lock);
	if (ring->enabled && virtio_running(&n->v)) {
		taken = take_buffers(n, q, bytes);
		/* A frame that is too long for what the driver gives is lost. */
		if (taken && n->pair[pair].taken_bytes >= bytes)
			fill_frame(n, q, hdr, iov, count, bytes);
		if (!taken && !virtio_running(&n->v))
			taken = true; /* it broke: nobody will ask for more */
	}
	pthread_mutex_unlock(&ring->lock);
	return taken;
}

static void receive_done(void *ctx, unsigned pair)
{
	struct netdev *n = ctx;
	struct virtq *ring = &n->v.queue[2 * pair].ring;

	pthread_mutex_lock(&ring->lock);
	if (ring->enabled)
		virtio_queue_flush(&n->v, 2 * pair);
	pthread_mutex_unlock(&ring->lock);
}

static void link_changed(void *ctx, bool up)
{
	struct netdev *n = ctx;
	uint16_t status = up ? VIRTIO_NET_S_LINK_UP : 0;

	virtio_config_update(&n->v, offsetof(struct virtio_net_config, status), &status, sizeof(status));
}

static const struct net_client client = {
	.receive = receive,
	.receive_done = receive_done,
	.link_changed = link_changed,
};

/* ---- control queue (5.1.6.5) ---- */

static unsigned offloads_of(uint64_t features)
{
	unsigned o = 0;

	if (features & BIT64(VIRTIO_NET_F_GUEST_CSUM))
		o |= NET_CSUM;
	if (features & BIT64(VIRTIO_NET_F_GUEST_TSO4))
		o |= NET_TSO4;
	if (features & BIT64(VIRTIO_NET_F_GUEST_TSO6))
		o |= NET_TSO6;
	if (features & BIT64(VIRTIO_NET_F_GUEST_ECN))
		o |= NET_ECN;
	return o & NET_CSUM ? o : 0;
}

static bool set_offloads(struct netdev *n, const struct virtq_chain *c)
{
	const uint64_t known = BIT64(VIRTIO_NET_F_GUEST_CSUM) | BIT64(VIRTIO_NET_F_GUEST_TSO4) |
			       BIT64(VIRTIO_NET_F_GUEST_TSO6) | BIT64(VIRTIO_NET_F_GUEST_ECN);
	uint64_t wanted;

	if (!virtio_has(&n->v, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
	    virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), &wanted, sizeof(wanted)) != sizeof(wanted) ||
	    wanted & ~(known & n->v.accepted))
		return false;
	net_set_rx_offloads(n->net, offloads_of(wanted));
	return true;
}

static bool set_pairs(struct netdev *n, const struct virtq_chain *c)
{
	uint16_t pairs;

	if (!virtio_has(&n->v, VIRTIO_NET_F_MQ) ||
	    virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), &pairs, sizeof(pairs)) != sizeof(pairs) || !pairs ||
	    pairs > n->pairs)
		return false;
	net_set_queues(n->net, pairs);
	return true;
}

static bool set_mode(struct netdev *n, const struct virtq_chain *c, uint8_t cmd)
{
	unsigned feature = cmd <= VIRTIO_NET_CTRL_RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA;
	uint8_t on;

	return virtio_has(&n->v, feature) && c->out_bytes == sizeof(struct virtio_net_ctrl_hdr) + sizeof(on) &&
	       virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), &on, sizeof(on)) == sizeof(on) &&
	       net_filter_set_mode(&n->filter, cmd, on);
}

static bool set_mac(struct netdev *n, const struct virtq_chain *c)
{
	uint8_t mac[6];

	if (!virtio_has(&n->v, VIRTIO_NET_F_CTRL_MAC_ADDR) ||
	    virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), mac, sizeof(mac)) != sizeof(mac))
		return false;
	pthread_mutex_lock(&n->v.config_lock);
	memcpy(n->v.config + offsetof(struct virtio_net_config, mac), mac, sizeof(mac));
	pthread_mutex_unlock(&n->v.config_lock);
	net_filter_set_mac(&n->filter, mac);
	return true;
}

static bool set_tables(struct netdev *n, const struct virtq_chain *c)
{
	uint8_t data[TABLES_MAX];
	size_t size = virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), data, sizeof(data));

	return virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX) && c->out_bytes == sizeof(struct virtio_net_ctrl_hdr) + size &&
	       net_filter_set_tables(&n->filter, data, size);
}

static bool set_vlan(struct netdev *n, const struct virtq_chain *c, uint8_t cmd)
{
	uint16_t vlan;

	return virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN) && cmd <= VIRTIO_NET_CTRL_VLAN_DEL &&
	       virtq_read(c, sizeof(struct virtio_net_ctrl_hdr), &vlan, sizeof(vlan)) == sizeof(vlan) &&
	       net_filter_set_vlan(&n->filter, vlan, cmd == VIRTIO_NET_CTRL_VLAN_ADD);
}

static bool control(struct netdev *n, const struct virtq_chain *c)
{
	struct virtio_net_ctrl_hdr header;

	if (virtq_read(c, 0, &header, sizeof(header)) != sizeof(header))
		return false;
	switch (header.class) {
	case VIRTIO_NET_CTRL_RX: return set_mode(n, c, header.cmd);
	case VIRTIO_NET_CTRL_MAC:
		if (header.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
			return set_tables(n, c);
		return header.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET && set_mac(n, c);
	case VIRTIO_NET_CTRL_VLAN: return set_vlan(n, c, header.cmd);
	case VIRTIO_NET_CTRL_MQ: return header.cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET && set_pairs(n, c);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return header.cmd == VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET && set_offloads(n, c);
	default: return false;
	}
}

static void serve_control(struct virtio_device *v, unsigned q, struct virtq_chain *c)
{
	uint8_t ack = VIRTIO_NET_ERR;

	if (!c->in_bytes) {
		virtio_break(v, "queue %u: a command without room for its answer", q);
		virtq_push(&v->queue[q].ring, c, 0);
		return;
	}
	if (control(of(v), c))
		ack = VIRTIO_NET_OK;
	virtq_write(c, c->in_bytes - 1, &ack, 1);
	virtq_push(&v->queue[q].ring, c, (uint32_t)c->in_bytes);
}

static void kicked(struct virtio_device *v, unsigned q)
{
	struct netdev *n = of(v);

	if (q == 2 * n->pairs)
		virtio_serve(v, q, serve_control);
	else if (q & 1)
		virtio_serve(v, q, serve_send);
	else
		net_rx_ready(n->net, q / 2);
}

/* ---- life ---- */

static void start(struct virtio_device *v)
{
	net_set_rx_offloads(of(v)->net, offloads_of(v->accepted));
	net_filter_start(&of(v)->filter, virtio_has(v, VIRTIO_NET_F_CTRL_VLAN));
}

static void queue_stop(struct virtio_device *v, unsigned q)
{
	struct netdev *n = of(v);
	struct net_pair *p = &n->pair[q / 2];

	if (q & 1 || q == 2 * n->pairs)
		return;
	while (p->taken_count)
		virtq_drop(&v->queue[q].ring, p->taken[--p->taken_count]);
	p->taken_bytes = 0;
}

static void stop(struct virtio_device *v)
{
	struct netdev *n = of(v);

	if (!n->attached)
		return;
	net_set_rx_offloads(n->net, 0);
	net_set_queues(n->net, 1);
	pthread_mutex_lock(&v->config_lock);
	memcpy(v->config + offsetof(struct virtio_net_config, mac), net_mac(n->net), 6);
	pthread_mutex_unlock(&v->config_lock);
	net_filter_reset(&n->filter, net_mac(n->net));
	/* The back end may hold a frame back for buffers that will not come. */
	for (unsigned i = 0; i < n->pairs; i++)
		net_rx_ready(n->net, i);
}

static void destroy(struct virtio_device *v)
{
	struct netdev *n = of(v);

	if (n->attached)
		net_detach(n->net);
	virtio_device_fini(v);
	net_filter_fini(&n->filter);
	free(n->pair);
	free(n);
}

static const struct virtio_model net_model = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.class_code = 0x020000,
	.start = start,
	.queue_stop = queue_stop,
	.stop = stop,
	.kicked = kicked,
	.destroy = destroy,
};

static uint64_t features(const struct net *net)
{
	uint64_t f = BIT64(VIRTIO_NET_F_CSUM) | BIT64(VIRTIO_NET_F_GUEST_CSUM) |
		     BIT64(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT64(VIRTIO_NET_F_MAC) |
		     BIT64(VIRTIO_NET_F_GUEST_TSO4) | BIT64(VIRTIO_NET_F_GUEST_TSO6) | BIT64(VIRTIO_NET_F_GUEST_ECN) |
		     BIT64(VIRTIO_NET_F_HOST_TSO4) | BIT64(VIRTIO_NET_F_HOST_TSO6) | BIT64(VIRTIO_NET_F_HOST_ECN) |
		     BIT64(VIRTIO_NET_F_MRG_RXBUF) | BIT64(VIRTIO_NET_F_STATUS) | BIT64(VIRTIO_NET_F_CTRL_VQ) |
		     BIT64(VIRTIO_NET_F_CTRL_RX) | BIT64(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT64(VIRTIO_NET_F_CTRL_VLAN) |
		     BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);

	if (net_queues(net) > 1)
		f |= BIT64(VIRTIO_NET_F_MQ);
	if (net_mtu(net))
		f |= BIT64(VIRTIO_NET_F_MTU);
	return f;
}

static void fill_config(struct netdev *n)
{
	struct virtio_net_config config = {
		.status = net_link_up(n->net) ? VIRTIO_NET_S_LINK_UP : 0,
		.max_virtqueue_pairs = (uint16_t)n->pairs,
		.mtu = (uint16_t)net_mtu(n->net),
	};

	memcpy(config.mac, net_mac(n->net), sizeof(config.mac));
	memcpy(n->v.config, &config, sizeof(config));
	n->v.config_size = offsetof(struct virtio_net_config, mtu) + sizeof(config.mtu);
}

struct virtio_device *virtio_net_create(const struct guest_ram *ram, struct net *net)
{
	unsigned pairs = net_queues(net);
	struct netdev *n = calloc(1, sizeof(*n));
	int err = -ENOMEM;

	if (n)
		n->pair = calloc(pairs, sizeof(*n->pair));
	if (n && n->pair)
		err = virtio_device_init(&n->v, &net_model, ram, 2 * pairs + 1, QUEUE_SIZE, pairs, features(net));
	if (err) {
		if (n)
			free(n->pair);
		free(n);
		errno = -err;
		return NULL;
	}
	n->net = net;
	n->pairs = pairs;
	net_filter_init(&n->filter);
	net_filter_reset(&n->filter, net_mac(net));
	fill_config(n);
	return &n->v;
}

void virtio_net_attach(struct virtio_device *v)
{
	struct netdev *n = of(v);

	net_attach(n->net, &client, n);
	n->attached = true;
}
