/* SPDX-License-Identifier: Apache-2.0 */
/* `--net user` seen by a guest that makes its frames by hand: ARP, DHCP, ping, TCP both ways, long segments. */
#include "nettcp.h"

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
static const uint8_t guest_ip[4] = { 10, 0, 2, 15 }, gateway_ip[4] = { 10, 0, 2, 2 };

struct user_fix {
	struct net *net;
	struct card card;
	uint8_t gateway_mac[6];
};

static void expect_arp(struct user_fix *f, const uint8_t ip[4])
{
	card_arp(&f->card, guest_mac, guest_ip, ip, f->gateway_mac);
}

static void setup(struct user_fix *f, const char *text)
{
	assert_int_equal(net_open(text, 0, &f->net), 0);
	assert_non_null(f->net);
	card_plug(&f->card, f->net, CARD_FRAMES);
}

static void teardown(struct user_fix *f)
{
	card_unplug(&f->card);
	net_close(f->net);
}

static void build_ip(uint8_t *frame, const struct user_fix *f, uint8_t protocol, const uint8_t to[4], unsigned len)
{
	memcpy(frame, f->gateway_mac, 6);
	memcpy(frame + 6, guest_mac, 6);
	put_be16(frame + 12, 0x0800);
	memset(frame + 14, 0, 20);
	frame[14] = 0x45;
	put_be16(frame + 14 + IPV4_LENGTH, (uint16_t)(20 + len));
	frame[14 + IPV4_TTL] = 64;
	frame[14 + IPV4_PROTOCOL] = protocol;
	memcpy(frame + 14 + IPV4_SOURCE, guest_ip, 4);
	memcpy(frame + 14 + IPV4_SOURCE + 4, to, 4);
	put_be16(frame + 14 + IPV4_CHECKSUM, slow_checksum(frame + 14, 20, 0));
}

static void test_properties(void **state)
{
	struct user_fix f;

	(void)state;
	setup(&f, "user,mtu=9000");
	assert_string_equal(net_kind(f.net), "user");
	assert_memory_equal(net_mac(f.net), guest_mac, 6);
	assert_int_equal(net_queues(f.net), 1);
	assert_int_equal(net_mtu(f.net), 9000);
	assert_true(net_link_up(f.net));
	teardown(&f);
	assert_int_equal(net_open("user,mac=02:00:00:aB:Cd:ef", 3, &f.net), 0);
	assert_memory_equal(net_mac(f.net), ((const uint8_t[]){ 2, 0, 0, 0xab, 0xcd, 0xef }), 6);
	net_close(f.net);
	assert_int_equal(net_open("user", 0xaa, &f.net), 0);
	assert_memory_equal(net_mac(f.net), ((const uint8_t[]){ 0x52, 0x54, 0, 0x12, 0x35, 0 }), 6);
	net_close(f.net);
	assert_int_equal(net_open("none", 0, &f.net), 0);
	assert_null(f.net);
	net_close(f.net);
}

static void test_arp_and_ping(void **state)
{
	uint8_t frame[14 + 20 + 64];
	const struct card_frame *reply;
	struct user_fix f;

	(void)state;
	setup(&f, "user");
	expect_arp(&f, gateway_ip);
	build_ip(frame, &f, IPPROTO_ICMP, gateway_ip, 64);
	fill_bytes(frame + 34, 64, 7);
	memcpy(frame + 34, (const uint8_t[]){ 8, 0, 0, 0, 0x12, 0x34, 0, 1 }, 8);
	put_be16(frame + 36, slow_checksum(frame + 34, 64, 0));
	card_send(&f.card, NULL, frame, sizeof(frame));
	reply = next_ip(&f.card, IPPROTO_ICMP);
	assert_non_null(reply);
	assert_int_equal(reply->len, sizeof(frame));
	assert_int_equal(reply->data[34], 0); /* echo reply */
	assert_memory_equal(reply->data + 38, frame + 38, 60);
	assert_int_equal(slow_checksum(reply->data + 34, 64, 0), 0);
	teardown(&f);
}

/* RFC 2131: discover, offer; the offer names address, gateway and name server. */
static void check_dhcp(const char *options, const uint8_t address[4], const uint8_t router[4], const uint8_t dns[4])
{
	uint8_t frame[14 + 20 + 8 + 300] = { 0 };
	uint8_t *udp = frame + 34, *bootp = udp + 8;
	const struct card_frame *reply;
	const uint8_t *option, *end;
	bool has_router = false, has_dns = false, is_offer = false;
	struct user_fix f;

	setup(&f, options);
	memset(f.gateway_mac, 0xff, 6);
	build_ip(frame, &f, IPPROTO_UDP, (const uint8_t[]){ 255, 255, 255, 255 }, 308);
	put_be16(udp, 68);
	put_be16(udp + 2, 67);
	put_be16(udp + 4, 308);
	memcpy(bootp, (const uint8_t[]){ 1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe }, 8);
	memcpy(bootp + 28, guest_mac, 6);
	memcpy(bootp + 236, (const uint8_t[]){ 99, 130, 83, 99, 53, 1, 1, 255 }, 8);
	card_send(&f.card, NULL, frame, sizeof(frame));
	reply = next_ip(&f.card, IPPROTO_UDP);
	assert_non_null(reply);
	assert_int_equal(get_be16(reply->data + 36), 68);
	assert_int_equal(get_be32(reply->data + 42 + 4), 0xcafebabe);
	assert_memory_equal(reply->data + 42 + 16, address, 4);
	end = reply->data + reply->len;
	for (option = reply->data + 42 + 240; option + 6 <= end && *option != 255; option += 2 + option[1]) {
		is_offer |= option[0] == 53 && option[2] == 2;
		has_router |= option[0] == 3 && !memcmp(option + 2, router, 4);
		has_dns |= option[0] == 6 && !memcmp(option + 2, dns, 4);
	}
	assert_true(is_offer && has_router && has_dns);
	teardown(&f);
}

static void test_dhcp(void **state)
{
	(void)state;
	check_dhcp("user", guest_ip, gateway_ip, (const uint8_t[]){ 10, 0, 2, 3 });
	check_dhcp("user,net=192.168.64.0/26,dns=192.168.64.53,dhcpstart=192.168.64.40",
		   (const uint8_t[]){ 192, 168, 64, 40 }, (const uint8_t[]){ 192, 168, 64, 2 },
		   (const uint8_t[]){ 192, 168, 64, 53 });
}

/* ---- TCP ---- */

static void setup_tcp(struct tcp_end *t, struct user_fix *f, uint16_t local, uint16_t remote)
{
	tcp_setup(t, &f->card, guest_mac, f->gateway_mac, guest_ip, gateway_ip, local, remote);
}

/* A host's program connects to the forwarded port; the guest echoes. */
static void test_hostfwd(void **state)
{
	static struct tcp_end t;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char options[80], echo[16];
	struct user_fix f;
	uint16_t port;
	int fd, opened = -EADDRINUSE;

	(void)state;
	for (unsigned i = 0; i < 20 && opened == -EADDRINUSE; i++) {
		close(listener(0, &port)); /* free a moment ago */
		snprintf(options, sizeof(options), "user,hostfwd=tcp:127.0.0.1:%u-:22,hostfwd=udp::%u-:9", port, port);
		opened = net_open(options, 0, &f.net);
	}
	assert_int_equal(opened, 0);
	card_plug(&f.card, f.net, CARD_FRAMES);
	expect_arp(&f, gateway_ip);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setup_tcp(&t, &f, 0, 0);
	assert_int_equal(tcp_receive(&t), 2);
	assert_int_equal(t.p.src_port, 22);
	tcp_send(&t, 2 | TCP_ACK, NULL, 0);
	assert_int_equal(write(fd, "hello, guest", 12), 12);
	while (t.received < 12)
		tcp_receive(&t);
	assert_memory_equal(t.data, "hello, guest", 12);
	tcp_send(&t, TCP_ACK | TCP_PSH, t.data, 12);
	read_all(fd, (uint8_t *)echo, 12);
	assert_memory_equal(echo, "hello, guest", 12);
	shutdown(fd, SHUT_WR);
	while (!t.fin)
		tcp_receive(&t);
	close(fd);
	teardown(&f);
}

/* The guest sends one segment of 30000 bytes, its checksum left to the card. */
static void test_long_segment_to_host(void **state)
{
	static struct tcp_end t;
	struct net_stats stats;
	struct user_fix f;
	uint16_t port;
	int server = listener(0, &port);

	(void)state;
	setup(&f, "user");
	expect_arp(&f, gateway_ip);
	setup_tcp(&t, &f, 40000, port);
	check_long_segment(&t, server);
	net_get_stats(f.net, &stats);
	assert_int_equal(stats.tx_dropped, 0);
	close(server);
	teardown(&f);
}

/* The host sends; a guest that takes long segments gets some, one that does not gets none. */
static void receive_bulk(unsigned offloads, unsigned buffers)
{
	static struct tcp_end t;
	struct user_fix f;
	uint16_t port;
	int server = listener(0, &port);

	setup(&f, "user");
	net_set_rx_offloads(f.net, offloads);
	expect_arp(&f, gateway_ip);
	setup_tcp(&t, &f, 40000, port);
	check_bulk(&t, server, buffers);
	assert_true(offloads & NET_TSO4 ? t.longest > 1514 : t.longest <= 1514);
	close(server);
	teardown(&f);
}

static void test_receive_merged(void **state)
{
	(void)state;
	receive_bulk(NET_OFFLOADS_ALL, 100);
}

static void test_receive_plain(void **state)
{
	(void)state;
	receive_bulk(0, 100);
}

static void test_receive_few_buffers(void **state)
{
	(void)state;
	receive_bulk(NET_CSUM, 1);
}

/* Frames that wait for a guest's buffers come when it gives them, in order. */
static void test_waiting_frames(void **state)
{
	uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct card_frame *reply;
	struct user_fix f;

	(void)state;
	setup(&f, "user,ipv6=off");
	pthread_mutex_lock(&f.card.lock);
	f.card.buffers = 0;
	pthread_mutex_unlock(&f.card.lock);
	memcpy(arp + 6, guest_mac, 6);
	put_be16(arp + 12, 0x0806);
	memcpy(arp + 14, (const uint8_t[]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 8);
	memcpy(arp + 22, guest_mac, 6);
	memcpy(arp + 28, guest_ip, 4);
	for (uint8_t i = 2; i < 4; i++) {
		memcpy(arp + 38, (const uint8_t[]){ 10, 0, 2, i }, 4);
		card_send(&f.card, NULL, arp, sizeof(arp));
	}
	pthread_mutex_lock(&f.card.lock);
	while (!f.card.refused)
		pthread_cond_wait(&f.card.changed, &f.card.lock);
	assert_int_equal(f.card.got, 0);
	pthread_mutex_unlock(&f.card.lock);
	for (uint8_t i = 2; i < 4; i++) {
		card_give_buffers(&f.card, 1);
		reply = card_next(&f.card);
		assert_non_null(reply);
		assert_memory_equal(reply->data + 28, ((const uint8_t[]){ 10, 0, 2, i }), 4);
	}
	teardown(&f);
}

/* Another power-on: what waited for the card before is not the new card's. */
static void test_attach_again(void **state)
{
	struct user_fix f;

	(void)state;
	setup(&f, "user");
	expect_arp(&f, gateway_ip);
	card_unplug(&f.card);
	card_plug(&f.card, f.net, CARD_FRAMES);
	expect_arp(&f, gateway_ip);
	teardown(&f);
}

/* Headers and lengths that no driver makes cost the guest the frame. */
static void test_hostile_send(void **state)
{
	static uint8_t frame[70000];
	struct iovec iov[3] = { { frame, 10 }, { frame + 10, SIZE_MAX }, { frame, 100 } };
	struct virtio_net_hdr hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 60000, .csum_offset = 16 };
	static const struct virtio_net_hdr none;
	struct net_stats stats;
	struct user_fix f;

	(void)state;
	setup(&f, "user");
	card_send(&f.card, NULL, frame, 13);
	card_send(&f.card, NULL, frame, 0);
	card_send(&f.card, NULL, frame, NET_FRAME_MAX + 1);
	card_send(&f.card, NULL, frame, 1519); /* longer than the MTU */
	card_send(&f.card, &hdr, frame, 100);
	net_send(f.net, 0, &none, iov, 3);
	net_send(f.net, 1, &none, iov, 1); /* no such queue */
	net_send(f.net, 0, &none, iov, 0);
	hdr = (struct virtio_net_hdr){ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1460 };
	card_send(&f.card, &hdr, frame, 4000);
	net_get_stats(f.net, &stats);
	assert_int_equal(stats.tx_dropped, 9);
	expect_arp(&f, gateway_ip); /* still at work */
	teardown(&f);
}

static void test_random_send(void **state)
{
	static uint8_t frame[3000];
	struct user_fix f;
	uint32_t random = 99;

	(void)state;
	setup(&f, "user,restrict=on"); /* nothing may leave this test */
	expect_arp(&f, gateway_ip);
	for (unsigned i = 0; i < 3000; i++) {
		struct virtio_net_hdr hdr = { 0 };
		struct tcp_packet p = { .payload = frame, .payload_len = i % 1400, .flags = (uint8_t)i, .window = 100 };
		uint8_t sent[3000];
		size_t n;

		memcpy(p.dst_mac, f.gateway_mac, 6);
		memcpy(p.src_mac, guest_mac, 6);
		memcpy(p.src, guest_ip, 4);
		memcpy(p.dst, gateway_ip, 4);
		p.src_port = (uint16_t)(i % 5 + 1);
		p.dst_port = (uint16_t)(i % 3 + 1);
		n = build_tcp(sent, &p, false);
		for (unsigned j = 0; j < 3; j++) {
			random = random * 1664525 + 1013904223;
			sent[(random >> 8) % (j ? 80 : n)] = (uint8_t)random;
		}
		if (random >> 31)
			fill_bytes((uint8_t *)&hdr, sizeof(hdr), random);
		card_send(&f.card, &hdr, sent, n);
	}
	card_unplug(&f.card); /* its frames are of no interest */
	card_plug(&f.card, f.net, CARD_FRAMES);
	expect_arp(&f, gateway_ip);
	teardown(&f);
}

static void test_bad_options(void **state)
{
	char text[64];
	uint16_t port;
	int fd = listener(0, &port);

	(void)state;
	snprintf(text, sizeof(text), "user,hostfwd=tcp:127.0.0.1:%u-:22", port);
	open_fails(text, -EADDRINUSE, text + 5, "another program", NULL);
	close(fd);
	open_fails("usr", -EINVAL, "usr", "\"user\"", NULL);
	open_fails("", -EINVAL, "unknown kind", NULL);
	open_fails("none,ifname=x", -EINVAL, "ifname", "\"mac\"", NULL);
	open_fails("user,hostfwd", -EINVAL, "hostfwd", "key=value", NULL);
	open_fails("user,hostfw=x", -EINVAL, "hostfw", "\"hostfwd\"", NULL);
	open_fails("user,dns=10.0.2.4,dns=10.0.2.5", -EINVAL, "dns", "twice", NULL);
	open_fails("user,hostfwd=tcp:127.0.0.1:22", -EINVAL, "expected", NULL);
	open_fails("user,hostfwd=sctp::22-:22", -EINVAL, "expected", NULL);
	open_fails("user,hostfwd=tcp::0-:22", -EINVAL, "port", NULL);
	open_fails("user,hostfwd=tcp::65536-:22", -EINVAL, "port", NULL);
	open_fails("user,hostfwd=tcp:localhost:1022-:22", -EINVAL, "host's address", NULL);
	open_fails("user,hostfwd=tcp::1022-10.0.2:22", -EINVAL, "guest's address", NULL);
	open_fails("user,hostfwd=tcp:[::1]:1022-10.0.2.15:22", -EINVAL, "both", NULL);
	open_fails("user,ipv6=off,hostfwd=tcp:[::1]:1022-:22", -EINVAL, "no IPv6", NULL);
	open_fails("user,hostfwd=tcp:203.0.113.77:1022-:22", -EADDRNOTAVAIL, "no such address", NULL);
	open_fails("user,net=10.0.2.1/24", -EINVAL, "prefix", NULL);
	open_fails("user,net=10.0.2.0/30", -EINVAL, "/27", NULL);
	open_fails("user,net=10.0.2.0", -EINVAL, "10.0.2.0/24", NULL);
	open_fails("user,dns=10.0.3.3", -EINVAL, "guest's network", NULL);
	open_fails("user,dns=10.0.2.255", -EINVAL, "guest's network", NULL);
	open_fails("user,dns=10.0.2.2", -EINVAL, "three addresses", NULL);
	open_fails("user,restrict=perhaps", -EINVAL, "on or off", NULL);
	open_fails("user,mtu=100", -EINVAL, "mtu=100", "1280", NULL);
	open_fails("user,mtu=65522", -EINVAL, "65521", NULL);
	open_fails("user,mac=53:54:00:00:00:00", -EINVAL, "group", NULL);
	open_fails("user,mac=00:00:00:00:00:00", -EINVAL, "zero", NULL);
	open_fails("user,mac=52:54:00:00:00", -EINVAL, "form", NULL);
	open_fails("user,mac=52:54:00:00:00:0g", -EINVAL, "form", NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_properties),
		cmocka_unit_test(test_arp_and_ping),
		cmocka_unit_test(test_dhcp),
		cmocka_unit_test(test_hostfwd),
		cmocka_unit_test(test_long_segment_to_host),
		cmocka_unit_test(test_receive_merged),
		cmocka_unit_test(test_receive_plain),
		cmocka_unit_test(test_receive_few_buffers),
		cmocka_unit_test(test_waiting_frames),
		cmocka_unit_test(test_attach_again),
		cmocka_unit_test(test_hostile_send),
		cmocka_unit_test(test_random_send),
		cmocka_unit_test(test_bad_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
