/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/message.h"
#include "net/net.h"
#include "net/user.h"

#define MTU_MIN 576 /* what every IPv4 host takes (RFC 791, 3.1) */
#define MTU_MIN_IPV6 1280
#define MTU_MAX 65521 /* slirp's limit */

/* Host parts of the addresses in the guest's network. */
#define PART_GATEWAY 2
#define PART_DNS 3
#define PART_GUEST 15

static int bad_value(const char *key, const char *value, const char *why)
{
	msg_error("--net user: %s=%s: %s", key, value, why);
	return -EINVAL;
}

/* "10.0.2.0/24" */
static int parse_network(const char *text, struct in_addr *network, struct in_addr *mask)
{
	char address[INET_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : 0;
	unsigned long bits;
	uint32_t host_mask;
	char *end;

	if (!slash || len >= sizeof(address) || !isdigit((unsigned char)slash[1]))
		return bad_value("net", text, "expected a network as in 10.0.2.0/24");
	memcpy(address, text, len);
	address[len] = '\0';
	bits = strtoul(slash + 1, &end, 10);
	if (inet_pton(AF_INET, address, network) != 1 || *end || bits < 8 || bits > 27)
		return bad_value("net", text, "expected a network as in 10.0.2.0/24, from /8 to /27");
	host_mask = UINT32_MAX >> bits;
	if (ntohl(network->s_addr) & host_mask)
		return bad_value("net", text, "bits behind the network's prefix are set");
	mask->s_addr = htonl(~host_mask);
	return 0;
}

/* An address in the guest's network, or the given host part of it. */
static int parse_inside(const struct net_options *options, const SlirpConfig *c, const char *key, uint32_t part,
			struct in_addr *address)
{
	const char *text = net_options_get(options, key);
	uint32_t network = ntohl(c->vnetwork.s_addr), mask = ntohl(c->vnetmask.s_addr), value;

	address->s_addr = htonl(network | part);
	if (!text)
		return 0;
	if (inet_pton(AF_INET, text, address) != 1)
		return bad_value(key, text, "not an IPv4 address");
	value = ntohl(address->s_addr);
	if ((value & mask) != network || value == network || value == (network | ~mask))
		return bad_value(key, text, "not the address of a host in the guest's network");
	return 0;
}

static int check_distinct(const SlirpConfig *c)
{
	if (c->vhost.s_addr == c->vnameserver.s_addr || c->vhost.s_addr == c->vdhcp_start.s_addr ||
	    c->vnameserver.s_addr == c->vdhcp_start.s_addr) {
		msg_error("--net user: host, dns and dhcpstart must be three addresses");
		return -EINVAL;
	}
	return 0;
}

static int parse_mtu(const struct net_options *options, SlirpConfig *c)
{
	unsigned mtu;
	int err = net_options_number(options, "mtu", NET_MTU, c->in6_enabled ? MTU_MIN_IPV6 : MTU_MIN, MTU_MAX, &mtu);

	c->if_mtu = c->if_mru = mtu;
	return err;
}

int user_config_parse(const struct net_options *options, struct user_config *config)
{
	static const char *const keys[] = { "hostfwd",  "net",  "host", "dns", "dhcpstart", "restrict",
					    "hostname", "ipv6", "mtu",  "mac", "packed",    NULL };
	SlirpConfig *c = &config->slirp;
	bool restricted;
	int err = net_options_check(options, keys, "hostfwd");
	const char *net = net_options_get(options, "net");

	memset(config, 0, sizeof(*config));
	c->version = 4;
	c->in_enabled = true;
	c->vhostname = net_options_get(options, "hostname");
	if (!err)
		err = parse_network(net ? net : "10.0.2.0/24", &c->vnetwork, &c->vnetmask);
	if (!err)
		err = parse_inside(options, c, "host", PART_GATEWAY, &c->vhost);
	if (!err)
		err = parse_inside(options, c, "dns", PART_DNS, &c->vnameserver);
	if (!err)
		err = parse_inside(options, c, "dhcpstart", PART_GUEST, &c->vdhcp_start);
	if (!err)
		err = check_distinct(c);
	if (!err)
		err = net_options_bool(options, "restrict", false, &restricted);
	if (!err)
		err = net_options_bool(options, "ipv6", true, &c->in6_enabled);
	if (!err)
		err = parse_mtu(options, c);
	if (err)
		return err;
	c->restricted = restricted;
	inet_pton(AF_INET6, "fec0::", &c->vprefix_addr6);
	c->vprefix_len = 64;
	inet_pton(AF_INET6, "fec0::2", &c->vhost6);
	inet_pton(AF_INET6, "fec0::3", &c->vnameserver6);
	inet_pton(AF_INET6, "fec0::15", &config->guest6);
	return 0;
}

static bool parse_port(const char *text, in_port_t *port)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)*text) || *end || n < 1 || n > 65535)
		return false;
	*port = htons((uint16_t)n);
	return true;
}

/* "address:port", "[address]:port" or ":port", cut up in place; address NULL: none given. */
static bool split_endpoint(char *text, const char **address, bool *ipv6, const char **port)
{
	char *colon;

	*ipv6 = *text == '[';
	if (*ipv6) {
		char *bracket = strchr(++text, ']');

		if (!bracket || bracket[1] != ':')
			return false;
		*bracket = '\0';
		colon = bracket + 1;
	} else {
		colon = strchr(text, ':');
		if (!colon)
			return false;
	}
	*colon = '\0';
	*address = *text ? text : NULL;
	*port = colon + 1;
	return true;
}

/* NULL, or what is wrong. */
static const char *parse_endpoints(char *host, char *guest, const struct user_config *config, struct user_forward *f)
{
	const char *host_address, *host_port, *guest_address, *guest_port;
	bool host6, guest6;

	if (!split_endpoint(host, &host_address, &host6, &host_port) ||
	    !split_endpoint(guest, &guest_address, &guest6, &guest_port))
		return "expected tcp:HOSTADDRESS:PORT-GUESTADDRESS:PORT, where udp is possible, and addresses may be "
		       "left out";
	/* No guest address: the same family as the host's. */
	guest6 = guest_address ? guest6 : host6;
	if (guest6 != host6)
		return "both addresses must be IPv4, or both IPv6";
	if (host6) {
		f->host.v6.sin6_family = f->guest.v6.sin6_family = AF_INET6;
		f->host.v6.sin6_addr = in6addr_loopback;
		f->guest.v6.sin6_addr = config->guest6;
	} else {
		f->host.v4.sin_family = f->guest.v4.sin_family = AF_INET;
		f->host.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		f->guest.v4.sin_addr = config->slirp.vdhcp_start;
	}
	if (host_address && inet_pton(f->host.any.sa_family, host_address,
				      host6 ? (void *)&f->host.v6.sin6_addr : (void *)&f->host.v4.sin_addr) != 1)
		return "the host's address is not a numeric one";
	if (guest_address && inet_pton(f->host.any.sa_family, guest_address,
				       host6 ? (void *)&f->guest.v6.sin6_addr : (void *)&f->guest.v4.sin_addr) != 1)
		return "the guest's address is not a numeric one";
	if (!parse_port(host_port, host6 ? &f->host.v6.sin6_port : &f->host.v4.sin_port) ||
	    !parse_port(guest_port, host6 ? &f->guest.v6.sin6_port : &f->guest.v4.sin_port))
		return "a port is a number from 1 to 65535";
	return NULL;
}

int user_forward_parse(const char *text, const struct user_config *config, struct user_forward *forward)
{
	char copy[160], *host = copy, *guest;
	const char *why = "expected tcp:HOSTADDRESS:PORT-GUESTADDRESS:PORT, or udp:…";

	memset(forward, 0, sizeof(*forward));
	if (strlen(text) >= sizeof(copy))
		return bad_value("hostfwd", text, "too long");
	strcpy(copy, text);
	guest = strchr(copy, '-');
	if (!guest)
		return bad_value("hostfwd", text, why);
	*guest++ = '\0';
	if (!strncmp(copy, "tcp:", 4)) {
		host += 4;
	} else if (!strncmp(copy, "udp:", 4)) {
		host += 4;
		forward->udp = true;
	} else if (*copy == ':') {
		host += 1;
	} else {
		return bad_value("hostfwd", text, why);
	}
	why = parse_endpoints(host, guest, config, forward);
	if (!why && forward->host.any.sa_family == AF_INET6 && !config->slirp.in6_enabled)
		why = "the guest's network has no IPv6 (ipv6=off)";
	return why ? bad_value("hostfwd", text, why) : 0;
}
