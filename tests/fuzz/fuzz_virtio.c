/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio devices in the hands of a hostile driver: registers of the MMIO transport, rings that are well made, damaged
 * or nonsense, buffers anywhere, frames from the network in between, resets at any time.
 *
 * Input: a sequence of operations. Each device has its rings where ring_at() says.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "block/block.h"
#include "input.h"
#include "machine/board.h"
#include "machine/bus.h"
#include "net/backend.h"
#include "share/share.h"

#define RAM_SIZE (UINT64_C(2) << 20)
#define DISK_SIZE 0x10000
#define FIRST_SLOT UINT64_C(0xfeb00000)
#define SLOT_SIZE 0x1000u
#define SLOTS 6
#define SHARE_SLOT 5
#define QUEUES 4u
#define QUEUE_SIZE 8u
#define RINGS 0x100000u
#define BUFFERS 0x140000u

struct world {
	struct input in;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
	unsigned slot;
	uint16_t avail[SLOTS][QUEUES];
};

static struct block *disk;
static struct net *net;
static struct share *share;

/* ---- back ends ---- */

static void take_frame(struct net *n, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
		       unsigned count)
{
	(void)n, (void)hdr;
	CHECK(queue < NET_QUEUES_MAX);
	for (unsigned i = 0; i < count; i++)
		for (size_t k = 0; k < iov[i].iov_len; k += 64)
			(void)*((const volatile uint8_t *)iov[i].iov_base + k);
}

static void close_net(struct net *n)
{
	(void)n;
}

static const struct net_ops net_ops = { .send = take_frame, .close = close_net };

static void create_backends(void)
{
	struct block_options options = { .format = BLOCK_FORMAT_RAW, .cache = BLOCK_CACHE_UNSAFE, .no_uring = true };
	char path[64], error[256] = "";
	int fd = memfd_create("disk", 0);

	CHECK(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	options.path = path;
	if (block_open(&options, &disk, error, sizeof(error)))
		fprintf(stderr, "%s\n", error);
	CHECK(disk);
	net = calloc(1, sizeof(*net));
	net->ops = &net_ops;
	net->kind = "test";
	net->queues = 1;
	net->mtu = NET_MTU;
	CHECK(net_init(net) == 0);
	CHECK(share_open("/usr/share", true, &share, error, sizeof(error)) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	create_backends();
	return 0;
}

/* ---- the machine ---- */

static void take_line(void *ctx, unsigned n, bool level)
{
	(void)ctx, (void)n, (void)level;
}

static void take_request(void *ctx, enum machine_request what, int status)
{
	(void)ctx, (void)what, (void)status;
}

static void create_machine(struct world *w)
{
	static const char *const devices[] = { "virtio-rng-device", "virtio-rng-device,packed=on",
					       "virtio-rng-device,event_idx=off,indirect_desc=off", NULL };
	const struct board_disk disks[] = { { .block = disk, .serial = "serial", .queues = 2 } };
	struct net *const nets[] = { net };
	const struct board_share shares[] = { { share, "tag" } };
	const struct board_config config = {
		.kind = BOARD_MICROVM,
		.ram = &w->ram,
		.cpus = 2,
		.gsi = { .set = take_line },
		.control = { .request = take_request },
		.devices = devices,
		.disks = disks,
		.disk_count = 1,
		.nets = nets,
		.net_count = 1,
		.shares = shares,
		.share_count = 1,
	};

	CHECK(ram_create(&w->ram, RAM_SIZE) == 0);
	CHECK(board_create(&config, &w->board) == 0);
	w->bus = board_bus(w->board);
	board_reset(w->board);
}

/* ---- the driver ---- */

static uint64_t slot_address(const struct world *w, unsigned offset)
{
	return FIRST_SLOT + w->slot * SLOT_SIZE + offset;
}

static void put(struct world *w, unsigned offset, uint32_t value)
{
	bus_write(w->bus, BUS_MMIO, slot_address(w, offset), &value, 4);
}

static uint32_t get(struct world *w, unsigned offset)
{
	uint32_t value = 0;

	bus_read(w->bus, BUS_MMIO, slot_address(w, offset), &value, 4);
	return value;
}

static uint64_t ring_at(const struct world *w, unsigned q)
{
	return RINGS + (w->slot * QUEUES + q) * 0x1000;
}

static uint8_t *memory(const struct world *w, uint64_t gpa)
{
	uint8_t *p = ram_ptr(&w->ram, gpa, 0x100);

	CHECK(p);
	return p;
}

/* As a driver starts a device (virtio 1.2, 3.1.1); features and queues as the input will have them. */
static void start_driver(struct world *w)
{
	uint32_t mask = (uint32_t)input_value(&w->in);

	memset(w->avail[w->slot], 0, sizeof(w->avail[0]));
	put(w, VIRTIO_MMIO_STATUS, 0);
	put(w, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	for (unsigned word = 0; word < 2; word++) {
		put(w, VIRTIO_MMIO_DEVICE_FEATURES_SEL, word);
		put(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
		put(w, VIRTIO_MMIO_DRIVER_FEATURES, get(w, VIRTIO_MMIO_DEVICE_FEATURES) & (word ? ~0u : ~mask));
	}
	put(w, VIRTIO_MMIO_STATUS, 0xb);
	for (unsigned q = 0; q < QUEUES; q++) {
		memset(memory(w, ring_at(w, q)), 0, 0x100);
		memset(memory(w, ring_at(w, q) + 0x200), 0, 0x100);
		memset(memory(w, ring_at(w, q) + 0x400), 0, 0x100);
		put(w, VIRTIO_MMIO_QUEUE_SEL, q);
		put(w, VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE);
		put(w, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)ring_at(w, q));
		put(w, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)ring_at(w, q) + 0x200);
		put(w, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)ring_at(w, q) + 0x400);
		put(w, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	put(w, VIRTIO_MMIO_STATUS, 0xf);
}

/* 9P (share/wire.h; its messages are fuzz_share.c's concern): a length that fits a buffer, a type, a tag. */
static void put_9p_request(struct world *w, uint64_t gpa)
{
	uint8_t head[24] = { 16, 0, 0, 0, 100 + input_u8(&w->in) % 22 };

	if (input_rarely(&w->in, 4))
		input_mutate(&w->in, head, sizeof(head));
	memcpy(memory(w, gpa), head, sizeof(head));
}

/* What a request begins with: of a disk, of a network card, of its control queue. */
static void put_request(struct world *w, uint64_t gpa)
{
	struct virtio_blk_outhdr head = { .type = input_u8(&w->in) % 16, .sector = input_u8(&w->in) };

	if (input_rarely(&w->in, 4))
		input_mutate(&w->in, &head, sizeof(head));
	memcpy(memory(w, gpa), &head, sizeof(head));
}

static struct vring_desc some_descriptor(struct world *w, unsigned n)
{
	uint8_t odd = input_u8(&w->in);
	struct vring_desc d = { .addr = BUFFERS + n * 0x800,
				.len = odd & 1   ? 16
				       : odd & 2 ? 512
						 : 1 + odd,
				.flags = odd & 4 ? VRING_DESC_F_WRITE : 0 };

	if (odd >= 0xf0)
		input_mutate(&w->in, &d, sizeof(d));
	return d;
}

/* One to four descriptors in a chain, in a split ring. */
static void offer_split(struct world *w, unsigned q)
{
	struct vring_desc *table = (void *)memory(w, ring_at(w, q));
	struct vring_avail *avail = (void *)memory(w, ring_at(w, q) + 0x200);
	unsigned count = 1 + input_u8(&w->in) % 4, first = input_u8(&w->in) % QUEUE_SIZE;

	for (unsigned i = 0; i < count; i++) {
		struct vring_desc d = some_descriptor(w, i);

		d.next = (uint16_t)((first + i + 1) % QUEUE_SIZE);
		if (i + 1 < count)
			d.flags |= VRING_DESC_F_NEXT;
		table[(first + i) % QUEUE_SIZE] = d;
	}
	avail->ring[w->avail[w->slot][q] % QUEUE_SIZE] = (uint16_t)first;
	__atomic_store_n(&avail->idx, ++w->avail[w->slot][q], __ATOMIC_RELEASE);
}

/* The same in a packed ring (virtio 1.2, 2.8). */
static void offer_packed(struct world *w, unsigned q)
{
	struct vring_packed_desc *ring = (void *)memory(w, ring_at(w, q));
	unsigned count = 1 + input_u8(&w->in) % 4;

	for (unsigned i = 0; i < count; i++) {
		struct vring_desc d = some_descriptor(w, i);
		uint16_t at = w->avail[w->slot][q]++;
		bool wrap = !(at / QUEUE_SIZE & 1);

		d.flags &= (uint16_t) ~(1u << VRING_PACKED_DESC_F_AVAIL | 1u << VRING_PACKED_DESC_F_USED);
		d.flags |= (uint16_t)(1u << (wrap ? VRING_PACKED_DESC_F_AVAIL : VRING_PACKED_DESC_F_USED));
		ring[at % QUEUE_SIZE] =
			(struct vring_packed_desc){ d.addr, d.len, (uint16_t)i,
						    i + 1 < count ? d.flags | VRING_DESC_F_NEXT : d.flags };
	}
}

/* The I/O thread gets a moment for what was offered; what it does not do by then it does later. */
static void kick(struct world *w, unsigned q)
{
	const struct timespec moment = { 0, 20000 };

	put(w, VIRTIO_MMIO_QUEUE_NOTIFY, q);
	for (unsigned i = 0; i < 10 && !get(w, VIRTIO_MMIO_INTERRUPT_STATUS); i++)
		nanosleep(&moment, NULL);
	put(w, VIRTIO_MMIO_INTERRUPT_ACK, 3);
}

static void receive_frame(struct world *w)
{
	struct virtio_net_hdr hdr = { 0 };
	uint8_t data[256];
	struct iovec iov = { .iov_base = data, .iov_len = 14 + input_u8(&w->in) % (sizeof(data) - 14) };

	input_bytes(&w->in, data, 20);
	memset(data + 20, 0, sizeof(data) - 20);
	pthread_mutex_lock(&net->port[0].lock);
	if (net->client) {
		net->client->receive(net->ctx, 0, &hdr, &iov, 1);
		if (net->client->receive_done)
			net->client->receive_done(net->ctx, 0);
	}
	pthread_mutex_unlock(&net->port[0].lock);
}

static void one_operation(struct world *w)
{
	unsigned what = input_u8(&w->in), q = what >> 4 & (QUEUES - 1);

	switch (what & 15) {
	case 0: w->slot = (what >> 4) % SLOTS; return;
	case 1: start_driver(w); return;
	case 2: put(w, input_u8(&w->in) & ~3u, (uint32_t)input_value(&w->in)); return;
	case 3: get(w, (unsigned)input_below(&w->in, 0x200) & ~3u); return;
	case 4: input_mutate(&w->in, memory(w, ring_at(w, q)), 0x100); return;
	case 5: input_mutate(&w->in, memory(w, ring_at(w, q) + 0x200), 0x20); return;
	case 6:
		if (w->slot == SHARE_SLOT)
			put_9p_request(w, BUFFERS + (what >> 4) * 0x800);
		else
			put_request(w, BUFFERS + (what >> 4) * 0x800);
		return;
	case 7: input_mutate(&w->in, memory(w, BUFFERS + (what >> 4) * 0x800), 0x100); return;
	case 8: receive_frame(w); return;
	case 9: board_reset(w->board); return;
	case 10: kick(w, q); return;
	case 11:
		offer_packed(w, q);
		kick(w, q);
		return;
	default: offer_split(w, q); kick(w, q);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w = { .in = { data, data + size } };

	create_machine(&w);
	CHECK(get(&w, VIRTIO_MMIO_MAGIC_VALUE) == 0x74726976);
	while (input_left(&w.in))
		one_operation(&w);
	board_destroy(w.board);
	ram_destroy(&w.ram);
	return 0;
}
