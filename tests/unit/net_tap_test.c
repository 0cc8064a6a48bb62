/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `--net tap` against the kernel's own TCP, in a network namespace that only this program has. Where that, or
 * /dev/net/tun, is not allowed, the tests that need it are skipped and say so.
 */
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "nettcp.h"

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
static const uint8_t guest_ip[4] = { 192, 168, 99, 2 }, host_ip[4] = { 192, 168, 99, 1 };
#define HOST_ADDRESS 0xc0a86301u
#define TAP "tztest0"

static char why_not[128];

static void enter_namespace(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
		snprintf(why_not, sizeof(why_not), "no network namespace: %s", strerror(errno));
		return;
	}
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		snprintf(why_not, sizeof(why_not), "/dev/net/tun: %s", strerror(errno));
	else
		close(fd);
}

static void need_tap(void)
{
	if (*why_not) {
		print_message("skipped: %s\n", why_not);
		skip();
	}
}

static int request(unsigned long what, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result;

	strcpy(ifr->ifr_name, TAP);
	result = ioctl(fd, what, ifr);
	close(fd);
	return result;
}

/* The host's side: address and up. */
static void configure(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(HOST_ADDRESS) };
	struct sockaddr_in mask = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0xffffff00) };
	struct ifreq ifr = { 0 };

	memcpy(&ifr.ifr_addr, &address, sizeof(address));
	assert_int_equal(request(SIOCSIFADDR, &ifr), 0);
	memcpy(&ifr.ifr_netmask, &mask, sizeof(mask));
	assert_int_equal(request(SIOCSIFNETMASK, &ifr), 0);
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(request(SIOCSIFFLAGS, &ifr), 0);
}

struct tap_fix {
	struct net *net;
	struct card card;
	uint8_t host_mac[6];
};

static void setup(struct tap_fix *f, const char *text)
{
	need_tap();
	assert_int_equal(net_open(text, 0, &f->net), 0);
	configure();
	card_plug(&f->card, f->net, CARD_FRAMES);
	card_arp(&f->card, guest_mac, guest_ip, host_ip, f->host_mac);
}

static void teardown(struct tap_fix *f)
{
	card_unplug(&f->card);
	net_close(f->net);
}

/* A descriptor as another program would hand it over. */
static int open_tap(short flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	int fd;

	need_tap();
	fd = open("/dev/net/tun", O_RDWR);
	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, TAP);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	return fd;
}

static const char *fd_option(int fd)
{
	static char text[32];

	snprintf(text, sizeof(text), "tap,fd=%d", fd);
	return text;
}

static void setup_tcp(struct tcp_end *t, struct tap_fix *f, int *server)
{
	uint16_t port;

	*server = listener(HOST_ADDRESS, &port);
	tcp_setup(t, &f->card, guest_mac, f->host_mac, guest_ip, host_ip, 40000, port);
}

static void check_send(struct tap_fix *f)
{
	static struct tcp_end t;
	struct net_stats stats;
	int server;

	setup_tcp(&t, f, &server);
	check_long_segment(&t, server);
	net_get_stats(f->net, &stats);
	assert_int_equal(stats.tx_dropped, 0);
	close(server);
}

static void check_receive(struct tap_fix *f, unsigned offloads, unsigned buffers)
{
	static struct tcp_end t;
	int server;

	net_set_rx_offloads(f->net, offloads);
	setup_tcp(&t, f, &server);
	check_bulk(&t, server, buffers);
	assert_true(offloads & NET_TSO4 ? t.longest > 1514 : t.longest <= 1514);
	close(server);
}

static void test_send(void **state)
{
	struct tap_fix f;

	(void)state;
	setup(&f, "tap,ifname=" TAP);
	assert_string_equal(net_kind(f.net), "tap");
	assert_int_equal(net_mtu(f.net), 1500);
	check_send(&f);
	teardown(&f);
}

static void test_receive(void **state)
{
	struct tap_fix f;

	(void)state;
	setup(&f, "tap,ifname=" TAP);
	check_receive(&f, NET_OFFLOADS_ALL, 100);
	teardown(&f);
	setup(&f, "tap,ifname=" TAP);
	check_receive(&f, 0, 100);
	teardown(&f);
	setup(&f, "tap,ifname=" TAP);
	check_receive(&f, NET_OFFLOADS_ALL, 1);
	teardown(&f);
}

/* Without the kernel's offloads: segments are cut, checksums made and verified here. */
static void test_plain_descriptor(void **state)
{
	struct tap_fix f;

	(void)state;
	setup(&f, fd_option(open_tap(IFF_TAP | IFF_NO_PI)));
	check_send(&f);
	teardown(&f);
	setup(&f, fd_option(open_tap(IFF_TAP | IFF_NO_PI)));
	check_receive(&f, NET_OFFLOADS_ALL, 100);
	teardown(&f);
	setup(&f, fd_option(open_tap(IFF_TAP | IFF_NO_PI)));
	check_receive(&f, 0, 3);
	teardown(&f);
}

static void test_offload_descriptor(void **state)
{
	struct tap_fix f;

	(void)state;
	setup(&f, fd_option(open_tap(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)));
	check_send(&f);
	teardown(&f);
}

static void test_queues(void **state)
{
	struct tap_fix f;

	(void)state;
	setup(&f, "tap,queues=4,ifname=" TAP);
	assert_int_equal(net_queues(f.net), 4);
	net_set_queues(f.net, 4);
	check_send(&f);
	net_set_queues(f.net, 2);
	net_set_queues(f.net, 100);
	net_set_queues(f.net, 0);
	card_arp(&f.card, guest_mac, guest_ip, host_ip, f.host_mac);
	teardown(&f);
}

static void test_script(void **state)
{
	struct net *net;

	(void)state;
	need_tap();
	assert_int_equal(net_open("tap,script=/bin/true,ifname=" TAP, 0, &net), 0);
	net_close(net);
	open_fails("tap,script=/bin/false,ifname=" TAP, -EIO, "/bin/false", "status 1", NULL);
	open_fails("tap,script=/nonexistent,ifname=" TAP, -ENOENT, "/nonexistent", NULL);
}

/* The interface is deleted under the machine: one line, and the guest's cable is out. */
static void test_deleted(void **state)
{
	struct timespec deadline;
	struct tap_fix f;
	struct said said;
	char command[] = "ip link del " TAP;

	(void)state;
	setup(&f, "tap,ifname=" TAP);
	if (system("ip link show " TAP " >/dev/null 2>&1") != 0) {
		teardown(&f);
		print_message("skipped: no ip(8)\n");
		skip();
	}
	said_start(&said);
	assert_int_equal(system(command), 0);
	deadline = card_deadline();
	pthread_mutex_lock(&f.card.lock);
	while (!f.card.link_changes && pthread_cond_timedwait(&f.card.changed, &f.card.lock, &deadline) == 0)
		;
	pthread_mutex_unlock(&f.card.lock);
	assert_non_null(strstr(said_end(&said), TAP " is gone"));
	assert_int_equal(f.card.link_changes, 1);
	assert_false(net_link_up(f.net));
	card_send(&f.card, NULL, guest_mac, 0);
	net_set_rx_offloads(f.net, NET_OFFLOADS_ALL);
	teardown(&f);
}

static void test_hostile_send(void **state)
{
	static uint8_t frame[NET_FRAME_MAX + 1];
	struct tap_fix f;
	uint32_t random = 1;

	(void)state;
	setup(&f, "tap,ifname=" TAP);
	for (unsigned i = 0; i < 2000; i++) {
		struct virtio_net_hdr hdr;
		struct iovec iov[100];

		random = random * 1664525 + 1013904223;
		fill_bytes((uint8_t *)&hdr, sizeof(hdr), random);
		hdr.flags &= 1;
		hdr.gso_type = (uint8_t)(i % 5);
		hdr.csum_start %= 200;
		hdr.csum_offset %= 20;
		fill_bytes(frame, 200, random);
		memcpy(frame, f.host_mac, 6);
		put_be16(frame + 12, i & 1 ? 0x0800 : 0x86dd);
		card_send(&f.card, &hdr, frame, random >> 8 & (i & 2 ? 255 : 0x1ffff));
		for (unsigned j = 0; j < 100; j++)
			iov[j] = (struct iovec){ frame + j, j % 3 };
		net_send(f.net, 0, &hdr, iov, i % 100);
	}
	teardown(&f);
	setup(&f, "tap,ifname=" TAP); /* the host is well */
	teardown(&f);
}

static void test_bad_options(void **state)
{
	(void)state;
	open_fails("tap", -EINVAL, "ifname=", "fd=", NULL);
	open_fails("tap,ifname=a,fd=3", -EINVAL, "ifname=", NULL);
	open_fails("tap,ifname=0123456789abcdef", -EINVAL, "0123456789abcdef", NULL);
	open_fails("tap,ifname=", -EINVAL, "not an interface's name", NULL);
	open_fails("tap,ifname=a/b", -EINVAL, "a/b", NULL);
	open_fails("tap,ifname=a%d", -EINVAL, "a%d", NULL);
	open_fails("tap,ifname=a,queues=17", -EINVAL, "queues=17", "16", NULL);
	open_fails("tap,fd=0,queues=2", -EINVAL, "one queue", NULL);
	open_fails("tap,fd=999", -EINVAL, "fd=999", NULL);
	open_fails("tap,ifnam=x", -EINVAL, "ifnam", "\"ifname\"", NULL);
	if (!*why_not)
		open_fails("tap,ifname=lo", -EINVAL, "lo is no tap interface", NULL);
}

static void test_busy(void **state)
{
	int fd = open_tap(IFF_TAP | IFF_NO_PI);

	(void)state;
	open_fails("tap,ifname=" TAP, -EBUSY, TAP, "another program", NULL);
	close(fd);
	fd = open_tap(IFF_TAP);
	open_fails(fd_option(fd), -EINVAL, "IFF_NO_PI", NULL);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_send),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_plain_descriptor),
		cmocka_unit_test(test_offload_descriptor),
		cmocka_unit_test(test_queues),
		cmocka_unit_test(test_script),
		cmocka_unit_test(test_deleted),
		cmocka_unit_test(test_hostile_send),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_busy),
	};

	enter_namespace();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
