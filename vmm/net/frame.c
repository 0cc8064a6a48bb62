/* SPDX-License-Identifier: Apache-2.0 */
#include "net/frame.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "net/wire.h"

uint64_t net_sum(const void *data, size_t len, uint64_t sum)
{
	const uint8_t *p = data;
	uint64_t even = 0, odd = 0;

	/* Sums of little-endian 32-bit words; the sum's byte order does not matter (RFC 1071, 2B), so it is swapped
	 * once. */
	for (; len >= 16; p += 16, len -= 16) {
		uint32_t w[4];

		memcpy(w, p, 16);
		even += (uint64_t)w[0] + w[1];
		odd += (uint64_t)w[2] + w[3];
	}
	even += odd;
	for (; len >= 2; p += 2, len -= 2)
		even += (uint64_t)p[0] | (uint64_t)p[1] << 8;
	if (len)
		even += p[0];
	while (even >> 16)
		even = (even & 0xffff) + (even >> 16);
	return sum + __builtin_bswap16((uint16_t)even);
}

uint16_t net_sum_finish(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static bool parse_ipv4(const uint8_t *frame, size_t len, struct net_tcp *t)
{
	const uint8_t *ip = frame + t->ip;
	unsigned header, total;

	if (len - t->ip < IPV4_HEADER || ip[IPV4_VERSION_IHL] >> 4 != 4)
		return false;
	header = (ip[IPV4_VERSION_IHL] & 15) * 4;
	total = get_be16(ip + IPV4_LENGTH);
	if (header < IPV4_HEADER || total < header || total > len - t->ip || ip[IPV4_PROTOCOL] != IPPROTO_TCP ||
	    get_be16(ip + IPV4_FRAGMENT) & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		return false;
	t->tcp = t->ip + header;
	t->end = t->ip + total;
	return true;
}

/* Extension headers are left to those who must know them: TCP follows at once, or this is not for us. */
static bool parse_ipv6(const uint8_t *frame, size_t len, struct net_tcp *t)
{
	const uint8_t *ip = frame + t->ip;

	if (len - t->ip < IPV6_HEADER || ip[0] >> 4 != 6 || ip[IPV6_NEXT_HEADER] != IPPROTO_TCP ||
	    get_be16(ip + IPV6_LENGTH) > len - t->ip - IPV6_HEADER)
		return false;
	t->ipv6 = true;
	t->tcp = t->ip + IPV6_HEADER;
	t->end = t->tcp + get_be16(ip + IPV6_LENGTH);
	return true;
}

bool net_tcp_parse(const uint8_t *frame, size_t len, struct net_tcp *t)
{
	unsigned type, header;

	memset(t, 0, sizeof(*t));
	if (len < ETH_HLEN || len > NET_FRAME_MAX)
		return false;
	type = get_be16(frame + 12);
	t->ip = ETH_HLEN;
	if (type == ETH_P_8021Q) {
		if (len < ETH_HLEN + 4)
			return false;
		type = get_be16(frame + 16);
		t->ip += 4;
	}
	if (!(type == ETH_P_IP && parse_ipv4(frame, len, t)) && !(type == ETH_P_IPV6 && parse_ipv6(frame, len, t)))
		return false;
	if (t->end - t->tcp < TCP_HEADER)
		return false;
	header = (frame[t->tcp + TCP_OFFSET] >> 4) * 4u;
	if (header < TCP_HEADER || header > t->end - t->tcp)
		return false;
	t->payload = t->tcp + header;
	return true;
}

uint64_t net_tcp_pseudo_sum(const uint8_t *frame, const struct net_tcp *t, unsigned tcp_len)
{
	uint64_t sum = IPPROTO_TCP + (uint64_t)(tcp_len >> 16) + (tcp_len & 0xffff);

	return t->ipv6 ? net_sum(frame + t->ip + IPV6_SOURCE, 32, sum) : net_sum(frame + t->ip + IPV4_SOURCE, 8, sum);
}

bool net_hdr_valid(const struct virtio_net_hdr *hdr, size_t len)
{
	unsigned type = hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	if (hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && (size_t)hdr->csum_start + hdr->csum_offset + 2 > len)
		return false;
	if (hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	return (type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6) && hdr->gso_size &&
	       hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

bool net_fill_checksum(uint8_t *frame, size_t len, const struct virtio_net_hdr *hdr)
{
	uint16_t sum;

	if (!net_hdr_valid(hdr, len))
		return false;
	if (!(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	/* The field holds the pseudo-header's sum. */
	sum = net_sum_finish(net_sum(frame + hdr->csum_start, len - hdr->csum_start, 0));
	put_be16(frame + hdr->csum_start + hdr->csum_offset, sum ? sum : 0xffff); /* 0 would be "none" in UDP */
	return true;
}

struct net_frame *net_frame_new(size_t len)
{
	struct net_frame *f = malloc(sizeof(*f) + len);

	if (!f)
		return NULL;
	f->next = NULL;
	f->len = (uint32_t)len;
	memset(&f->hdr, 0, sizeof(f->hdr));
	return f;
}

/* The headers of the segment with `size` bytes of payload from `offset` on. */
static void segment_headers(uint8_t *data, const struct net_tcp *t, unsigned index, unsigned offset, unsigned size,
			    bool last)
{
	uint8_t *ip = data + t->ip, *tcp = data + t->tcp;
	unsigned tcp_len = t->payload - t->tcp + size;

	if (t->ipv6) {
		put_be16(ip + IPV6_LENGTH, (uint16_t)tcp_len);
	} else {
		put_be16(ip + IPV4_LENGTH, (uint16_t)(t->tcp - t->ip + tcp_len));
		put_be16(ip + IPV4_ID, (uint16_t)(get_be16(ip + IPV4_ID) + index));
		put_be16(ip + IPV4_CHECKSUM, 0);
		put_be16(ip + IPV4_CHECKSUM, net_sum_finish(net_sum(ip, t->tcp - t->ip, 0)));
	}
	put_be32(tcp + TCP_SEQUENCE, get_be32(tcp + TCP_SEQUENCE) + offset);
	/* CWR is told once, by the first; FIN and PSH belong to the last byte (RFC 3168 6.1.2; virtio 1.2, 5.1.6.2). */
	if (index)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
	if (!last)
		tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	put_be16(tcp + TCP_CHECKSUM, 0);
	put_be16(tcp + TCP_CHECKSUM, net_sum_finish(net_sum(tcp, tcp_len, net_tcp_pseudo_sum(data, t, tcp_len))));
}

static void free_list(struct net_frame *list)
{
	while (list) {
		struct net_frame *next = list->next;

		free(list);
		list = next;
	}
}

bool net_segment(const uint8_t *frame, size_t len, const struct virtio_net_hdr *hdr, struct net_frame **segments)
{
	unsigned type = hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN, index = 0;
	struct net_frame *list = NULL, **tail = &list;
	struct net_tcp t;

	*segments = NULL;
	if (!net_hdr_valid(hdr, len) || hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE || !net_tcp_parse(frame, len, &t) ||
	    t.ipv6 != (type == VIRTIO_NET_HDR_GSO_TCPV6) || hdr->csum_start != t.tcp ||
	    hdr->csum_offset != TCP_CHECKSUM || t.end != len)
		return false;
	for (unsigned offset = 0; offset < len - t.payload || !index; offset += hdr->gso_size, index++) {
		unsigned left = (unsigned)len - t.payload - offset;
		unsigned size = left < hdr->gso_size ? left : hdr->gso_size;
		struct net_frame *f = net_frame_new(t.payload + size);

		if (!f) {
			free_list(list);
			return false;
		}
		memcpy(f->data, frame, t.payload);
		memcpy(f->data + t.payload, frame + t.payload + offset, size);
		segment_headers(f->data, &t, index, offset, size, size == left);
		*tail = f;
		tail = &f->next;
	}
	*segments = list;
	return true;
}
