/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/memory_report.h"

#include <linux/virtio_balloon.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/compiler.h"
#include "device/virtio/models.h"
#include "machine/message.h"

#define PATIENCE_NS UINT64_C(1000000000)
#define LOOK_AGAIN_MS 10

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void print(const struct virtio_balloon_numbers *n, bool fresh)
{
	static const struct {
		const char *name;
		unsigned tag, shift;
	} shown[] = {
		{ "MiB total", VIRTIO_BALLOON_S_MEMTOT, 20 },
		{ "MiB free", VIRTIO_BALLOON_S_MEMFREE, 20 },
		{ "MiB available", VIRTIO_BALLOON_S_AVAIL, 20 },
		{ "MiB of caches", VIRTIO_BALLOON_S_CACHES, 20 },
		{ "MiB swapped in", VIRTIO_BALLOON_S_SWAP_IN, 20 },
		{ "MiB swapped out", VIRTIO_BALLOON_S_SWAP_OUT, 20 },
		{ "major faults", VIRTIO_BALLOON_S_MAJFLT, 0 },
	};
	char text[512];
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(shown); i++)
		if (n->known & BIT32(shown[i].tag))
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%llu %s, ",
					       (unsigned long long)(n->value[shown[i].tag] >> shown[i].shift),
					       shown[i].name);
	text[at] = '\0';
	msg_error("guest memory%s: %s%llu MiB in the balloon, %llu MiB given back to the host so far",
		  fresh ? "" : " (the guest's driver does not answer)", text, (unsigned long long)n->held >> 20,
		  (unsigned long long)n->released >> 20);
}

void memory_report_ask(struct memory_report *report, struct board *board)
{
	struct virtio_balloon_numbers numbers;
	struct virtio_device *balloon = board_balloon(board);

	if (!balloon) {
		msg_error("guest memory: nobody tells; --device virtio-balloon-%s would",
			  board_has_pci(board) ? "pci" : "device");
		return;
	}
	report->asked = true;
	report->told = virtio_balloon_numbers(balloon, &numbers);
	report->until = now_ns() + PATIENCE_NS;
	virtio_balloon_ask(balloon);
}

int memory_report_update(struct memory_report *report, struct board *board)
{
	struct virtio_balloon_numbers numbers;
	bool fresh;

	if (!report->asked)
		return -1;
	fresh = virtio_balloon_numbers(board_balloon(board), &numbers) != report->told;
	if (!fresh && now_ns() < report->until)
		return LOOK_AGAIN_MS;
	report->asked = false;
	print(&numbers, fresh);
	return -1;
}
