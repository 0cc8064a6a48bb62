/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames a network card lets through to its driver. */
#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/virtio/net_filter.h"

static const uint8_t own[6] = { 0x52, 0x54, 0, 1, 2, 3 }, other[6] = { 0x52, 0x54, 0, 1, 2, 4 };
static const uint8_t third[6] = { 0x52, 0x54, 0, 9, 9, 9 }, group[6] = { 0x33, 0x33, 0, 0, 0, 1 };
static const uint8_t group2[6] = { 0x01, 0, 0x5e, 0, 0, 1 }, everybody[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

static bool passes(struct net_filter *f, const uint8_t *to)
{
	uint8_t head[NET_FILTER_HEAD] = { 0 };

	memcpy(head, to, 6);
	head[12] = 8;
	return net_filter_passes(f, head, sizeof(head));
}

static bool tagged(struct net_filter *f, unsigned vlan)
{
	uint8_t head[NET_FILTER_HEAD] = { [12] = 0x81, [14] = (uint8_t)(0xe0 | vlan >> 8), [15] = (uint8_t)vlan };

	memcpy(head, own, 6);
	return net_filter_passes(f, head, sizeof(head));
}

static struct net_filter *create(void)
{
	struct net_filter *f = malloc(sizeof(*f));

	net_filter_init(f);
	net_filter_reset(f, own);
	return f;
}

static void destroy(struct net_filter *f)
{
	net_filter_fini(f);
	free(f);
}

/* Drivers that never ask for filters get everything. */
static void test_open_at_first(void **state)
{
	struct net_filter *f = create();

	(void)state;
	net_filter_start(f, true);
	assert_true(passes(f, own) && passes(f, other) && passes(f, group) && passes(f, everybody) && tagged(f, 7));
	destroy(f);
}

static void test_modes(void **state)
{
	struct net_filter *f = create();

	(void)state;
	assert_true(net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, false));
	assert_true(passes(f, own) && passes(f, everybody));
	assert_false(passes(f, other) || passes(f, group));
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_ALLMULTI, true);
	assert_true(passes(f, group) && !passes(f, other));
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_NOMULTI, true);
	assert_true(!passes(f, group) && passes(f, everybody));
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_ALLUNI, true);
	assert_true(passes(f, other));
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_NOUNI, true);
	assert_false(passes(f, own) || passes(f, other));
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_NOBCAST, true);
	assert_false(passes(f, everybody));
	assert_false(net_filter_set_mode(f, NET_FILTER_MODES, true));
	net_filter_set_mac(f, other);
	net_filter_reset(f, own);
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, false);
	assert_true(passes(f, own) && passes(f, everybody) && !passes(f, other) && !passes(f, group));
	net_filter_set_mac(f, other);
	assert_true(passes(f, other) && !passes(f, own));
	destroy(f);
}

static size_t put_table(uint8_t *at, const uint8_t *addresses, uint32_t count)
{
	memcpy(at, &count, 4);
	memcpy(at + 4, addresses, 6 * (size_t)count);
	return 4 + 6 * (size_t)count;
}

static void test_tables(void **state)
{
	static uint8_t data[2048], many[6 * 100];
	struct net_filter *f = create();
	size_t size;

	(void)state;
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, false);
	size = put_table(data, other, 1);
	size += put_table(data + size, group, 1);
	assert_true(net_filter_set_tables(f, data, size));
	assert_true(passes(f, own) && passes(f, other) && passes(f, group));
	assert_false(passes(f, third) || passes(f, group2));
	/* Cut short, or longer than they say: nothing changes. */
	for (size_t cut = 0; cut < size; cut++)
		assert_false(net_filter_set_tables(f, data, cut));
	assert_false(net_filter_set_tables(f, data, size + 1));
	memset(data + size, 0xff, 4);
	assert_false(net_filter_set_tables(f, data + size, 4));
	assert_true(passes(f, other) && !passes(f, third));
	/* More than it keeps: all of that kind, and only of that. */
	for (unsigned i = 0; i < 100; i++)
		many[6 * i + 5] = (uint8_t)i;
	size = put_table(data, many, 100);
	size += put_table(data + size, group2, 1);
	assert_true(net_filter_set_tables(f, data, size));
	assert_true(passes(f, third) && passes(f, group2) && !passes(f, group));
	size = put_table(data, many, NET_FILTER_ADDRESSES);
	size += put_table(data + size, group, 0);
	assert_true(net_filter_set_tables(f, data, size));
	assert_true(passes(f, many + 6 * (NET_FILTER_ADDRESSES - 1)) && !passes(f, third) && !passes(f, group2));
	destroy(f);
}

static void test_vlans(void **state)
{
	struct net_filter *f = create();

	(void)state;
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, false);
	net_filter_start(f, false);
	assert_true(tagged(f, 5)); /* not negotiated */
	net_filter_start(f, true);
	assert_true(passes(f, own));
	assert_false(tagged(f, 5) || tagged(f, 0) || tagged(f, 4095));
	assert_true(net_filter_set_vlan(f, 5, true) && net_filter_set_vlan(f, 4095, true));
	assert_true(tagged(f, 5) && tagged(f, 4095) && !tagged(f, 6));
	assert_true(net_filter_set_vlan(f, 5, false));
	assert_true(!tagged(f, 5) && tagged(f, 4095));
	assert_false(net_filter_set_vlan(f, 4096, true));
	net_filter_reset(f, own);
	net_filter_start(f, true);
	net_filter_set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, false);
	assert_false(tagged(f, 4095)); /* forgotten */
	destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_at_first),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_vlans),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
