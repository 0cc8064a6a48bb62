/* SPDX-License-Identifier: Apache-2.0 */
#include "device/virtio/net_filter.h"

#include <endian.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/compiler.h"

#define ADDRESS 6u
#define ETHERTYPE_AT 12u
#define TAG_AT 14u

void net_filter_init(struct net_filter *f)
{
	static const uint8_t none[ADDRESS];

	pthread_mutex_init(&f->lock, NULL);
	net_filter_reset(f, none);
}

void net_filter_fini(struct net_filter *f)
{
	pthread_mutex_destroy(&f->lock);
}

void net_filter_reset(struct net_filter *f, const uint8_t mac[6])
{
	pthread_mutex_lock(&f->lock);
	memset(f->mode, 0, sizeof(f->mode));
	f->mode[VIRTIO_NET_CTRL_RX_PROMISC] = true;
	memcpy(f->mac, mac, sizeof(f->mac));
	f->unicast.count = f->multicast.count = 0;
	f->by_vlan = false;
	pthread_mutex_unlock(&f->lock);
}

void net_filter_start(struct net_filter *f, bool by_vlan)
{
	pthread_mutex_lock(&f->lock);
	f->by_vlan = by_vlan;
	memset(f->vlan, 0, sizeof(f->vlan));
	pthread_mutex_unlock(&f->lock);
}

/* ---- commands ---- */

bool net_filter_set_mode(struct net_filter *f, unsigned mode, bool on)
{
	if (mode >= NET_FILTER_MODES)
		return false;
	pthread_mutex_lock(&f->lock);
	f->mode[mode] = on;
	pthread_mutex_unlock(&f->lock);
	return true;
}

void net_filter_set_mac(struct net_filter *f, const uint8_t mac[6])
{
	pthread_mutex_lock(&f->lock);
	memcpy(f->mac, mac, sizeof(f->mac));
	pthread_mutex_unlock(&f->lock);
}

/* Where the table ends, NULL: there is not all of it. */
static const uint8_t *read_table(struct net_filter_table *t, const uint8_t *p, const uint8_t *end)
{
	uint32_t count;

	if ((size_t)(end - p) < sizeof(count))
		return NULL;
	memcpy(&count, p, sizeof(count));
	count = le32toh(count);
	p += sizeof(count);
	if (count > (size_t)(end - p) / ADDRESS)
		return NULL;
	t->count = count;
	if (count <= NET_FILTER_ADDRESSES)
		memcpy(t->address, p, (size_t)count * ADDRESS);
	return p + (size_t)count * ADDRESS;
}

bool net_filter_set_tables(struct net_filter *f, const uint8_t *data, size_t size)
{
	struct net_filter_table unicast, multicast;
	const uint8_t *end = data + size, *p = read_table(&unicast, data, end);

	if (p)
		p = read_table(&multicast, p, end);
	if (p != end)
		return false;
	pthread_mutex_lock(&f->lock);
	f->unicast = unicast;
	f->multicast = multicast;
	pthread_mutex_unlock(&f->lock);
	return true;
}

bool net_filter_set_vlan(struct net_filter *f, unsigned vlan, bool on)
{
	if (vlan >= NET_FILTER_VLANS)
		return false;
	pthread_mutex_lock(&f->lock);
	if (on)
		f->vlan[vlan / 32] |= BIT32(vlan % 32);
	else
		f->vlan[vlan / 32] &= ~BIT32(vlan % 32);
	pthread_mutex_unlock(&f->lock);
	return true;
}

/* ---- frames ---- */

static bool has(const struct net_filter_table *t, const uint8_t *address)
{
	if (t->count > NET_FILTER_ADDRESSES)
		return true;
	for (uint32_t i = 0; i < t->count; i++)
		if (!memcmp(t->address[i], address, ADDRESS))
			return true;
	return false;
}

static bool vlan_passes(const struct net_filter *f, const uint8_t *head, size_t size)
{
	unsigned vlan;

	if (!f->by_vlan || size < NET_FILTER_HEAD || head[ETHERTYPE_AT] != 0x81 || head[ETHERTYPE_AT + 1])
		return true;
	vlan = (head[TAG_AT] & 0xfu) << 8 | head[TAG_AT + 1];
	return f->vlan[vlan / 32] & BIT32(vlan % 32);
}

static bool address_passes(const struct net_filter *f, const uint8_t *to)
{
	static const uint8_t broadcast[ADDRESS] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (!memcmp(to, broadcast, ADDRESS))
		return !f->mode[VIRTIO_NET_CTRL_RX_NOBCAST];
	if (to[0] & 1)
		return !f->mode[VIRTIO_NET_CTRL_RX_NOMULTI] &&
		       (f->mode[VIRTIO_NET_CTRL_RX_ALLMULTI] || has(&f->multicast, to));
	return !f->mode[VIRTIO_NET_CTRL_RX_NOUNI] &&
	       (f->mode[VIRTIO_NET_CTRL_RX_ALLUNI] || !memcmp(to, f->mac, ADDRESS) || has(&f->unicast, to));
}

bool net_filter_passes(struct net_filter *f, const uint8_t *head, size_t size)
{
	bool passes;

	if (size < ADDRESS)
		return true; /* no frame; not ours to judge */
	pthread_mutex_lock(&f->lock);
	passes = f->mode[VIRTIO_NET_CTRL_RX_PROMISC] || (vlan_passes(f, head, size) && address_passes(f, head));
	pthread_mutex_unlock(&f->lock);
	return passes;
}
