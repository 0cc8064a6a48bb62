/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Software checksums, segmentation and merging on frames of a hostile guest or network. Frames lie in memory of their
 * exact size; what segmentation makes must fit what was asked for.
 *
 * Input: a virtio_net_hdr, a byte of choices, the frame.
 */
#include "input.h"
#include "net/frame.h"

static void take_merged(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *frame, size_t len)
{
	size_t *total = ctx;

	(void)*(const volatile uint8_t *)frame;
	(void)*((const volatile uint8_t *)frame + len - 1);
	CHECK(len && len <= NET_FRAME_MAX && net_hdr_valid(hdr, len));
	*total += len;
}

static void try_merge(const uint8_t *frame, size_t len, unsigned choice)
{
	size_t total = 0;
	struct net_merge merge = { .emit = take_merged, .ctx = &total, .trusted = choice & 1 };

	CHECK(net_merge_init(&merge) == 0);
	for (unsigned i = 0; i < 1 + (choice >> 1 & 3); i++)
		net_merge_add(&merge, choice & 8 ? NET_OFFLOADS_ALL : 0, frame, len);
	net_merge_flush(&merge);
	CHECK(total >= 1);
	net_merge_fini(&merge);
}

static void try_segment(const uint8_t *frame, size_t len, const struct virtio_net_hdr *hdr)
{
	struct net_frame *segments = NULL;

	if (!net_segment(frame, len, hdr, &segments))
		return;
	while (segments) {
		struct net_frame *next = segments->next;

		CHECK(segments->len <= len);
		CHECK(segments->data[segments->len - 1] == segments->data[segments->len - 1]);
		free(segments);
		segments = next;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct virtio_net_hdr hdr;
	struct net_tcp tcp;
	uint8_t *frame;
	unsigned choice;
	size_t len;

	if (size < sizeof(hdr) + 2)
		return -1;
	input_bytes(&in, &hdr, sizeof(hdr));
	choice = input_u8(&in);
	len = input_left(&in);
	frame = malloc(len);
	input_bytes(&in, frame, len);
	if (net_tcp_parse(frame, len, &tcp))
		CHECK(tcp.ip < tcp.tcp && tcp.tcp < tcp.payload && tcp.payload <= tcp.end && tcp.end <= len);
	if (net_hdr_valid(&hdr, len)) {
		try_segment(frame, len, &hdr);
		(void)net_fill_checksum(frame, len, &hdr);
	}
	if (len >= 14)
		try_merge(frame, len, choice);
	free(frame);
	return 0;
}
