/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the `user` back end: its options. */
#ifndef VMM_NET_USER_H
#define VMM_NET_USER_H

#include <netinet/in.h>
#include <slirp/libslirp.h>

#include "net/options.h"

/* Addresses of the guest's network: those that QEMU's and VirtualBox's users know, unless net= says otherwise. */
struct user_config {
	SlirpConfig slirp;
	struct in6_addr guest6; /* what a forwarding to no IPv6 address means; slirp's DHCP is for IPv4 only */
};

/* A host port that leads to the guest. */
struct user_forward {
	bool udp;
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} host, guest;
};

/* 0; or -EINVAL with a message. The strings in config point into options. */
int user_config_parse(const struct net_options *options, struct user_config *config);
/* "[tcp|udp]:[host address]:port-[guest address]:port" */
int user_forward_parse(const char *text, const struct user_config *config, struct user_forward *forward);

#endif
