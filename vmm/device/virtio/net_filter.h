/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames the driver of a network card wants (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.4): modes, tables of addresses,
 * VLANs. The commands come on the control queue, frames on other threads: each function takes the lock.
 */
#ifndef VMM_DEVICE_VIRTIO_NET_FILTER_H
#define VMM_DEVICE_VIRTIO_NET_FILTER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_FILTER_ADDRESSES 64 /* more, and the table lets all of its kind pass */
#define NET_FILTER_VLANS 4096
#define NET_FILTER_MODES 6       /* VIRTIO_NET_CTRL_RX_… */
#define NET_FILTER_HEAD (14 + 4) /* bytes of a frame that decide: Ethernet header, VLAN tag */

/* A table: count > NET_FILTER_ADDRESSES: it overflowed. */
struct net_filter_table {
	uint32_t count;
	uint8_t address[NET_FILTER_ADDRESSES][6];
};

struct net_filter {
	pthread_mutex_t lock; /* innermost */
	bool mode[NET_FILTER_MODES];
	uint8_t mac[6];
	struct net_filter_table unicast, multicast;
	bool by_vlan;
	uint32_t vlan[NET_FILTER_VLANS / 32];
};

void net_filter_init(struct net_filter *f);
void net_filter_fini(struct net_filter *f);
/* As after a reset: everything passes until the driver says otherwise. */
void net_filter_reset(struct net_filter *f, const uint8_t mac[6]);
/* The driver is ready. by_vlan: it has taken VIRTIO_NET_F_CTRL_VLAN; then no tagged frame passes until it asks for it.
 */
void net_filter_start(struct net_filter *f, bool by_vlan);

/* The driver's commands; false: there is no such one. */
bool net_filter_set_mode(struct net_filter *f, unsigned mode, bool on);
void net_filter_set_mac(struct net_filter *f, const uint8_t mac[6]);
/* data: two tables, each a 32-bit count and that many addresses, and nothing else. */
bool net_filter_set_tables(struct net_filter *f, const uint8_t *data, size_t size);
bool net_filter_set_vlan(struct net_filter *f, unsigned vlan, bool on);

/* head: the frame's first bytes, NET_FILTER_HEAD of them if it has so many. */
bool net_filter_passes(struct net_filter *f, const uint8_t *head, size_t size);

#endif
