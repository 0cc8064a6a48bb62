/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums, segmentation and merging against frames built and summed the slow way; hostile frames. */
#include "netfix.h"

static uint8_t payload[65536];

static struct tcp_packet packet(bool ipv6, unsigned payload_len)
{
	struct tcp_packet p = {
		.dst_mac = { 0x52, 0x54, 0, 1, 2, 3 },
		.src_mac = { 0x52, 0x54, 0, 9, 9, 9 },
		.ipv6 = ipv6,
		.src = { 10, 0, 2, 15, 1, 2, 3 },
		.dst = { 192, 168, 7, 1, 9 },
		.src_port = 40000,
		.dst_port = 80,
		.window = 1000,
		.id = 0xfffe,
		.seq = 0xffffff00,
		.ack = 77,
		.flags = TCP_ACK,
		.payload = payload,
		.payload_len = payload_len,
	};
	return p;
}

static struct virtio_net_hdr gso_header(const struct tcp_packet *p, unsigned mss)
{
	return (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = p->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
		.gso_size = (uint16_t)mss,
		.csum_start = p->ipv6 ? 54 : 34,
		.csum_offset = 16,
	};
}

static void test_sums(void **state)
{
	uint8_t data[600];

	(void)state;
	fill_bytes(data, sizeof(data), 1);
	for (size_t at = 0; at < 4; at++)
		for (size_t len = 0; len < 580; len++)
			assert_int_equal(net_sum_finish(net_sum(data + at, len, 0x12345)),
					 slow_checksum(data + at, len, 0x2346));
	memset(data, 0xff, sizeof(data));
	assert_int_equal(net_sum_finish(net_sum(data, 512, 0)), 0);
	memset(data, 0, sizeof(data));
	assert_int_equal(net_sum_finish(net_sum(data, 512, 0)), 0xffff);
}

static void test_fill_checksum(void **state)
{
	uint8_t partial[2048], whole[2048];

	(void)state;
	for (int ipv6 = 0; ipv6 < 2; ipv6++)
		for (unsigned len = 0; len < 300; len += 7) {
			struct tcp_packet p = packet(ipv6, len);
			struct virtio_net_hdr hdr = gso_header(&p, 0);
			size_t n = build_tcp(whole, &p, false);

			hdr.gso_type = VIRTIO_NET_HDR_GSO_NONE;
			assert_int_equal(build_tcp(partial, &p, true), n);
			assert_true(net_fill_checksum(partial, n, &hdr));
			assert_memory_equal(partial, whole, n);
		}
}

/* A UDP checksum that comes out as 0 is sent as ffff: 0 means "none" (RFC 768). */
static void test_zero_checksum(void **state)
{
	uint8_t data[64] = { 0 };
	struct virtio_net_hdr hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6 };

	(void)state;
	data[34] = data[35] = 0xff;
	assert_true(net_fill_checksum(data, sizeof(data), &hdr));
	assert_int_equal(get_be16(data + 40), 0xffff);
}

static void check_segmentation(bool ipv6, unsigned len, unsigned mss, uint8_t flags)
{
	static uint8_t frame[NET_FRAME_MAX], expected[NET_FRAME_MAX];
	static const uint8_t timestamps[12] = { 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8 };
	struct tcp_packet p = packet(ipv6, len);
	struct virtio_net_hdr hdr;
	struct net_frame *segment;
	unsigned done = 0, index = 0;
	size_t n;

	p.flags = flags;
	p.options = timestamps;
	p.options_len = sizeof(timestamps);
	hdr = gso_header(&p, mss);
	n = build_tcp(frame, &p, true);
	assert_true(net_segment(frame, n, &hdr, &segment));
	do {
		struct net_frame *next = segment->next;
		struct tcp_packet part = p;

		part.seq += done;
		part.id = (uint16_t)(p.id + index);
		part.payload = payload + done;
		part.payload_len = len - done < mss ? len - done : mss;
		if (index)
			part.flags &= (uint8_t)~TCP_CWR;
		if (done + part.payload_len < len)
			part.flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		n = build_tcp(expected, &part, false);
		assert_int_equal(segment->len, n);
		assert_memory_equal(segment->data, expected, n);
		assert_int_equal(segment->hdr.flags, 0);
		assert_int_equal(segment->hdr.gso_type, 0);
		done += part.payload_len;
		index++;
		free(segment);
		segment = next;
	} while (segment);
	assert_int_equal(done, len);
	assert_int_equal(index, len ? (len + mss - 1) / mss : 1);
}

static void test_segmentation(void **state)
{
	(void)state;
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		check_segmentation(ipv6, 4344, 1448, TCP_ACK);
		check_segmentation(ipv6, 4345, 1448, TCP_ACK | TCP_PSH);
		check_segmentation(ipv6, 65000, 1448, TCP_ACK | TCP_PSH | TCP_FIN | TCP_CWR);
		check_segmentation(ipv6, 100, 1448, TCP_ACK | TCP_PSH);
		check_segmentation(ipv6, 50, 1, TCP_ACK | TCP_FIN);
		check_segmentation(ipv6, 0, 1448, TCP_ACK);
	}
}

static void expect_no_segments(const uint8_t *frame, size_t len, struct virtio_net_hdr hdr)
{
	struct net_frame *segment = (void *)1;

	assert_false(net_segment(frame, len, &hdr, &segment));
	assert_null(segment);
}

static void test_segmentation_refuses(void **state)
{
	struct tcp_packet p = packet(false, 4000);
	uint8_t frame[5000], other[5000];
	size_t n = build_tcp(frame, &p, true);
	struct virtio_net_hdr good = gso_header(&p, 1448), hdr;

	(void)state;
	hdr = good, hdr.gso_size = 0;
	expect_no_segments(frame, n, hdr);
	hdr = good, hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
	expect_no_segments(frame, n, hdr);
	hdr = good, hdr.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	expect_no_segments(frame, n, hdr);
	hdr = good, hdr.flags = 0;
	expect_no_segments(frame, n, hdr);
	hdr = good, hdr.csum_start = 38;
	expect_no_segments(frame, n, hdr);
	hdr = good, hdr.csum_start = 65000;
	expect_no_segments(frame, n, hdr);
	expect_no_segments(frame, n - 1, good); /* shorter than its IP header says */
	memcpy(other, frame, n);
	other[14] = 0x41; /* an IP header of 4 bytes */
	expect_no_segments(other, n, good);
	memcpy(other, frame, n);
	other[34 + TCP_OFFSET] = 0x40; /* a TCP header of 16 */
	expect_no_segments(other, n, good);
	memcpy(other, frame, n);
	other[14 + IPV4_FRAGMENT] = 0x20; /* a fragment */
	expect_no_segments(other, n, good);
}

/* ---- merging ---- */

struct merged {
	unsigned count;
	struct {
		struct virtio_net_hdr hdr;
		uint32_t len;
		uint8_t *data;
	} frame[64];
};

static void merged_emit(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *data, size_t len)
{
	struct merged *m = ctx;

	assert_true(m->count < 64);
	m->frame[m->count].hdr = *hdr;
	m->frame[m->count].len = (uint32_t)len;
	m->frame[m->count].data = malloc(len);
	memcpy(m->frame[m->count++].data, data, len);
}

static void merged_free(struct merged *m)
{
	while (m->count)
		free(m->frame[--m->count].data);
}

static void merge_start(struct net_merge *merge, struct merged *merged, bool trusted)
{
	memset(merge, 0, sizeof(*merge));
	memset(merged, 0, sizeof(*merged));
	merge->emit = merged_emit;
	merge->ctx = merged;
	merge->trusted = trusted;
	assert_int_equal(net_merge_init(merge), 0);
}

static void add(struct net_merge *merge, const struct tcp_packet *p, unsigned offloads)
{
	uint8_t frame[4000];
	size_t n = build_tcp(frame, p, false);

	net_merge_add(merge, offloads, frame, n);
}

/* What is cut and merged again is what it was, and the other way round. */
static void check_round_trip(bool ipv6, unsigned len, unsigned mss)
{
	static uint8_t frame[NET_FRAME_MAX];
	struct tcp_packet p = packet(ipv6, len);
	struct virtio_net_hdr hdr = gso_header(&p, mss);
	struct net_merge merge;
	struct merged merged;
	struct net_frame *segment, *next;
	size_t n;

	p.flags |= TCP_PSH;
	n = build_tcp(frame, &p, true);
	merge_start(&merge, &merged, false);
	assert_true(net_segment(frame, n, &hdr, &segment));
	for (; segment; segment = next) {
		next = segment->next;
		net_merge_add(&merge, NET_OFFLOADS_ALL, segment->data, segment->len);
		free(segment);
	}
	net_merge_flush(&merge);
	assert_int_equal(merged.count, 1);
	assert_int_equal(merged.frame[0].len, n);
	assert_memory_equal(merged.frame[0].data, frame, n);
	assert_int_equal(merged.frame[0].hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_int_equal(merged.frame[0].hdr.gso_type, hdr.gso_type);
	assert_int_equal(merged.frame[0].hdr.gso_size, mss);
	assert_int_equal(merged.frame[0].hdr.csum_start, hdr.csum_start);
	assert_int_equal(merged.frame[0].hdr.csum_offset, hdr.csum_offset);
	assert_int_equal(merged.frame[0].hdr.hdr_len, hdr.csum_start + 20);
	merged_free(&merged);
	net_merge_fini(&merge);
}

static void test_merge_round_trip(void **state)
{
	(void)state;
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		check_round_trip(ipv6, 2896, 1448);
		check_round_trip(ipv6, 2897, 1448);
		check_round_trip(ipv6, 64000, 1448);
		check_round_trip(ipv6, 65535 - (ipv6 ? 40 : 20) - 20, 1000);
	}
}

/* Two segments that differ in one thing stay two, in order. */
static void expect_apart(struct tcp_packet a, struct tcp_packet b, unsigned offloads, bool trusted)
{
	uint8_t expected[4000];
	struct net_merge merge;
	struct merged merged;

	merge_start(&merge, &merged, trusted);
	add(&merge, &a, offloads);
	add(&merge, &b, offloads);
	net_merge_flush(&merge);
	assert_int_equal(merged.count, 2);
	assert_int_equal(merged.frame[0].len, build_tcp(expected, &a, false));
	assert_memory_equal(merged.frame[0].data, expected, merged.frame[0].len);
	assert_int_equal(merged.frame[1].len, build_tcp(expected, &b, false));
	assert_memory_equal(merged.frame[1].data, expected, merged.frame[1].len);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(merged.frame[i].hdr.gso_type, 0);
		assert_int_equal(merged.frame[i].hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
	}
	merged_free(&merged);
	net_merge_fini(&merge);
}

static void test_merge_keeps_apart(void **state)
{
	static const uint8_t one[4] = { 1, 1, 1, 1 };
	struct tcp_packet a = packet(false, 1000), good = packet(false, 1000), b;

	(void)state;
	good.seq += 1000;
	expect_apart(a, good, 0, true);
	expect_apart(a, good, NET_CSUM, true);
	expect_apart(a, good, NET_CSUM | NET_TSO6, true);
	expect_apart(a, good, NET_TSO4, true);
	b = good, b.seq++;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.ack++;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.window++;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.payload_len = 1001;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.payload_len = 0;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.flags |= TCP_FIN;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.options = one, b.options_len = 4;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = good, b.src_mac[5]++;
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
	b = a, b.seq += 1000, a.flags |= TCP_PSH; /* pushed: not to be held */
	expect_apart(a, b, NET_OFFLOADS_ALL, true);
}

/* Other connections may lie between, and come out in any order; a connection's own frames may not. */
static void test_merge_connections(void **state)
{
	struct net_merge merge;
	struct merged merged;
	unsigned seen[12] = { 0 }, frames = 0;

	(void)state;
	merge_start(&merge, &merged, true);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < 12; i++) {
			struct tcp_packet p = packet(i & 1, 500);

			p.src_port = (uint16_t)(1000 + i);
			p.seq = round * 500;
			add(&merge, &p, NET_OFFLOADS_ALL);
		}
	net_merge_flush(&merge);
	for (unsigned i = 0; i < merged.count; i++) {
		struct net_tcp t;
		unsigned n;

		assert_true(net_tcp_parse(merged.frame[i].data, merged.frame[i].len, &t));
		n = get_be16(merged.frame[i].data + t.tcp) - 1000;
		assert_true(n < 12);
		assert_int_equal(get_be32(merged.frame[i].data + t.tcp + TCP_SEQUENCE), seen[n]);
		seen[n] += t.end - t.payload;
		frames++;
	}
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(seen[i], 1500);
	assert_true(frames <= 36);
	merged_free(&merged);
	net_merge_fini(&merge);
}

/* From the network, a wrong checksum must reach the guest as it came. */
static void test_merge_verifies(void **state)
{
	uint8_t frame[2000];
	struct tcp_packet p = packet(false, 1000);
	size_t n = build_tcp(frame, &p, false);
	struct net_merge merge;
	struct merged merged;

	(void)state;
	merge_start(&merge, &merged, false);
	frame[700] ^= 1;
	net_merge_add(&merge, NET_OFFLOADS_ALL, frame, n);
	assert_int_equal(merged.count, 1);
	assert_int_equal(merged.frame[0].hdr.flags, 0);
	assert_memory_equal(merged.frame[0].data, frame, n);
	frame[700] ^= 1;
	net_merge_add(&merge, NET_OFFLOADS_ALL, frame, n);
	net_merge_flush(&merge);
	assert_int_equal(merged.count, 2);
	assert_int_equal(merged.frame[1].hdr.flags, VIRTIO_NET_HDR_F_DATA_VALID);
	merged_free(&merged);
	net_merge_fini(&merge);
}

/* ---- anything at all ---- */

static void discard(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *data, size_t len)
{
	volatile uint8_t *sum = ctx;

	assert_true(len <= NET_FRAME_MAX && hdr->gso_type <= VIRTIO_NET_HDR_GSO_TCPV6);
	for (size_t i = 0; i < len; i++)
		*sum ^= data[i];
}

/* Real frames with bytes changed, in memory of exactly their size, so that a sanitizer sees each step beside it. */
static void test_hostile_frames(void **state)
{
	static uint8_t model[NET_FRAME_MAX];
	struct net_merge merge;
	uint32_t random = 12345;
	uint8_t sum = 0;

	(void)state;
	memset(&merge, 0, sizeof(merge));
	merge.emit = discard;
	merge.ctx = &sum;
	assert_int_equal(net_merge_init(&merge), 0);
	for (unsigned round = 0; round < 20000; round++) {
		struct tcp_packet p = packet(round & 1, round % 3 ? round % 1500 : round % 65000);
		struct virtio_net_hdr hdr = gso_header(&p, 1 + round % 1448);
		struct net_frame *segment;
		size_t n = build_tcp(model, &p, true);
		uint8_t *frame;

		random = random * 1664525 + 1013904223;
		if (random >> 31)
			n = random >> 8 & (round & 2 ? 127 : 2047) % (n + 1);
		frame = malloc(n ? n : 1);
		memcpy(frame, model, n);
		for (unsigned i = 0; n && i < 1 + (random >> 28 & 3); i++) {
			random = random * 1664525 + 1013904223;
			frame[(random >> 8) % (n < 80 ? n : 80)] = (uint8_t)(random >> 4);
		}
		if (random & 0x40)
			((uint8_t *)&hdr)[random >> 16 & 7] = (uint8_t)(random >> 24);
		if (net_segment(frame, n, &hdr, &segment))
			for (struct net_frame *next; segment; segment = next) {
				next = segment->next;
				assert_true(segment->len <= n);
				free(segment);
			}
		net_merge_add(&merge, NET_OFFLOADS_ALL, frame, n);
		net_fill_checksum(frame, n, &hdr);
		free(frame);
	}
	net_merge_flush(&merge);
	net_merge_fini(&merge);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sums),
		cmocka_unit_test(test_fill_checksum),
		cmocka_unit_test(test_zero_checksum),
		cmocka_unit_test(test_segmentation),
		cmocka_unit_test(test_segmentation_refuses),
		cmocka_unit_test(test_merge_round_trip),
		cmocka_unit_test(test_merge_keeps_apart),
		cmocka_unit_test(test_merge_connections),
		cmocka_unit_test(test_merge_verifies),
		cmocka_unit_test(test_hostile_frames),
	};

	fill_bytes(payload, sizeof(payload), 42);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
