/* SPDX-License-Identifier: Apache-2.0 */
/* The board's virtio devices: those of --device, --disk, --net and --share, and where they are plugged in. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci.h"
#include "device/virtio/models.h"
#include "device/virtio/transport.h"
#include "machine/board_parts.h"
#include "machine/message.h"
#include "net/net.h"

/* Boards without PCI: a page each below the IOAPIC, on the IOAPIC's pins that no ISA device has. */
#define MMIO_BASE UINT64_C(0xfeb00000)
#define MMIO_GSI 16
#define MMIO_GSIS 8

/* Queues of a disk where the user does not say: one a vCPU, up to this many. */
#define DISK_QUEUES 4

/* Slots share lines: a line is up while one of its slots holds it. */
static void drive_slot(void *ctx, unsigned slot, bool level)
{
	struct board *b = ctx;
	uint32_t sharing = 0, was;
	struct irq_line line = board_gsi(b, MMIO_GSI + slot % MMIO_GSIS);

	for (unsigned i = slot % MMIO_GSIS; i < VIRTIO_MMIO_SLOTS; i += MMIO_GSIS)
		sharing |= BIT32(i);
	pthread_mutex_lock(&b->virtio_lock);
	was = b->virtio_asserted & sharing;
	b->virtio_asserted = level ? b->virtio_asserted | BIT32(slot) : b->virtio_asserted & ~BIT32(slot);
	if (!was != !(b->virtio_asserted & sharing))
		irq_line_set(&line, level);
	pthread_mutex_unlock(&b->virtio_lock);
}

static bool slot_notifier(void *ctx, uint64_t offset, uint32_t queue, int fd, bool on)
{
	const struct virtio_slot *slot = ctx;
	const struct board_accel *accel = &slot->board->config.accel;

	return accel->notifier(accel->ctx, false, slot->base + offset, queue, fd, on);
}

static int plug_mmio(struct board *b, struct virtio_device *v)
{
	unsigned n = b->virtio_slots;
	struct virtio_slot *slot = &b->virtio_slot[n];
	const struct placement where = { BUS_MMIO, MMIO_BASE + n * VIRTIO_MMIO_SIZE, VIRTIO_MMIO_SIZE };
	const struct virtio_mmio_wiring wiring = { .irq = { .set = drive_slot, .ctx = b, .n = n },
						   .notifier = b->config.accel.notifier ? slot_notifier : NULL,
						   .ctx = slot };

	if (n == VIRTIO_MMIO_SLOTS) {
		msg_error("%s: a %s board has room for %d virtio devices", v->model->name,
			  board_kind_names()[b->config.kind], VIRTIO_MMIO_SLOTS);
		virtio_device_stop_threads(v);
		v->model->destroy(v);
		return -ENOSPC;
	}
	b->virtio_slots++;
	*slot = (struct virtio_slot){ .board = b, .base = where.base };
	return board_attach(b, virtio_mmio_create(&wiring, v), &where, 1);
}

/* v: NULL with errno, or taken over. */
static int plug(struct board *b, struct virtio_device *v)
{
	int err;

	if (!v)
		return -errno;
	if (!b->pci)
		return plug_mmio(b, v);
	err = board_adopt(b, virtio_pci_create(b->pci, v));
	if (err == -ENOSPC)
		msg_error("a %s board has room for %d PCI devices", board_kind_names()[b->config.kind], 30);
	return err;
}

/* ---- --device ---- */

#define RING_KEYS "packed", "event_idx", "indirect_desc"
const char *const board_virtio_keys[] = { RING_KEYS, NULL };
const char *const board_balloon_keys[] = { RING_KEYS, "inflate", "deflate-on-oom", NULL };
const char *const board_vsock_keys[] = { RING_KEYS, "guest-cid", "path", NULL };
const char *const board_port_keys[] = { "name", "path", NULL };
const char *const board_no_keys[] = { NULL };

static int ring_options(const struct options *options, struct virtio_ring_options *ring)
{
	int err = options_switch(options, "packed", false, &ring->packed);

	if (!err)
		err = options_switch(options, "event_idx", true, &ring->event_idx);
	if (!err)
		err = options_switch(options, "indirect_desc", true, &ring->indirect);
	return err;
}

static struct virtio_device *create_rng(struct board *b, const struct options *options)
{
	(void)options;
	return virtio_rng_create(b->config.ram);
}

static struct virtio_device *create_balloon(struct board *b, const struct options *options)
{
	uint64_t mib;
	bool deflate;

	if (options_number(options, "inflate", 0, 0, b->config.ram->size >> 20, &mib) ||
	    options_switch(options, "deflate-on-oom", true, &deflate)) {
		errno = EINVAL;
		return NULL;
	}
	return virtio_balloon_create(b->config.ram, mib << 20, deflate);
}

static struct virtio_device *create_vsock(struct board *b, const struct options *options)
{
	const char *path = options_text(options, "path");
	uint64_t cid;
	int err = options_number(options, "guest-cid", 3, 3, UINT32_MAX - 1, &cid);

	if (!err && !path) {
		msg_error("--device %s: needs path=SOCKET", options->name);
		err = -EINVAL;
	}
	if (err) {
		errno = -err;
		return NULL;
	}
	return virtio_vsock_create(b->config.ram, cid, path);
}

/* By the stem of the name: "virtio-rng-pci" on a board with PCI, "virtio-rng-device" on others. */
static const struct {
	const char *stem;
	/* NULL with errno; EINVAL: said on stderr. */
	struct virtio_device *(*create)(struct board *b, const struct options *options);
} kinds[] = {
	{ "virtio-rng-", create_rng },
	{ "virtio-balloon-", create_balloon },
	{ "virtio-vsock-", create_vsock },
};

int board_virtio_attach(struct board *b, const struct options *options)
{
	struct virtio_ring_options ring;
	struct virtio_device *v = NULL;
	int err = ring_options(options, &ring);

	if (err)
		return err;
	errno = EINVAL;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strncmp(options->name, kinds[i].stem, strlen(kinds[i].stem)))
			v = kinds[i].create(b, options);
	if (v)
		virtio_set_ring_options(v, &ring);
	err = plug(b, v);
	if (!err && v->model->id == VIRTIO_ID_BALLOON && !b->balloon)
		b->balloon = v;
	return err;
}

struct virtio_device *board_balloon(struct board *b)
{
	return b->balloon;
}

bool board_has_pci(const struct board *b)
{
	return b->pci != NULL;
}

/* ---- the console's ports ---- */

struct virtio_ports {
	bool console;
	unsigned count;
	struct virtio_port_config port[VIRTIO_PORTS_MAX];
	struct options text[VIRTIO_PORTS_MAX]; /* holds their strings */
};

static struct virtio_ports *ports_of(struct board *b)
{
	if (!b->virtio_ports)
		b->virtio_ports = calloc(1, sizeof(*b->virtio_ports));
	return b->virtio_ports;
}

int board_virtconsole_attach(struct board *b, const struct options *options)
{
	struct virtio_ports *ports = ports_of(b);

	if (!ports)
		return -ENOMEM;
	if (!b->config.serial || ports->console) {
		msg_error("--device %s: %s", options->name,
			  ports->console ? "there is one already"
					 : "needs a terminal, which --serial none gives to nobody");
		return -EINVAL;
	}
	ports->console = true;
	return 0;
}

int board_virtserialport_attach(struct board *b, const struct options *options)
{
	struct virtio_ports *ports = ports_of(b);
	struct virtio_port_config *port;
	struct options *text;

	if (!ports)
		return -ENOMEM;
	if (ports->count == VIRTIO_PORTS_MAX) {
		msg_error("--device %s: at most %d ports", options->name, VIRTIO_PORTS_MAX);
		return -EINVAL;
	}
	if (!options_text(options, "name") || !options_text(options, "path")) {
		msg_error("--device %s: needs name=NAME and path=SOCKET", options->name);
		return -EINVAL;
	}
	text = &ports->text[ports->count];
	port = &ports->port[ports->count++];
	options_copy(text, options);
	port->name = options_text(text, "name");
	port->path = options_text(text, "path");
	return 0;
}

static int attach_console(struct board *b)
{
	const struct virtio_ports *ports = b->virtio_ports;

	return plug(b, virtio_console_create(b->config.ram, ports->console ? b->config.serial : NULL, ports->port,
					     ports->count));
}

void board_virtio_fini(struct board *b)
{
	free(b->virtio_ports);
}

/* v: may be NULL. */
static struct virtio_device *packed_if(bool packed, struct virtio_device *v)
{
	const struct virtio_ring_options ring = { .packed = true, .event_idx = true, .indirect = true };

	if (v && packed)
		virtio_set_ring_options(v, &ring);
	return v;
}

static int attach_disk(struct board *b, const struct board_disk *disk)
{
	unsigned queues = disk->queues ? disk->queues : b->config.cpus < DISK_QUEUES ? b->config.cpus : DISK_QUEUES;

	return plug(b, packed_if(disk->packed, virtio_blk_create(b->config.ram, disk->block, disk->serial, queues)));
}

static int attach_net(struct board *b, struct net *net)
{
	struct virtio_device *v = packed_if(net_packed(net), virtio_net_create(b->config.ram, net));
	int err = plug(b, v);

	if (!err)
		virtio_net_attach(v);
	return err;
}

int board_virtio_attach_backends(struct board *b)
{
	int err = b->virtio_ports ? attach_console(b) : 0;

	for (unsigned i = 0; i < b->config.disk_count && !err; i++) {
		if (b->config.disks[i].ahci)
			continue;
		err = attach_disk(b, &b->config.disks[i]);
		if (!err)
			board_boot_disk(b, i);
		else if (err != -ENOSPC)
			msg_error("--disk: cannot make the device: %s", strerror(-err));
	}
	for (unsigned i = 0; i < b->config.net_count && !err; i++) {
		if (!b->config.nets[i])
			continue;
		err = attach_net(b, b->config.nets[i]);
		if (!err)
			board_boot_net(b, i);
		else if (err != -ENOSPC)
			msg_error("--net: cannot make the device: %s", strerror(-err));
	}
	for (unsigned i = 0; i < b->config.share_count && !err; i++) {
		err = plug(b, virtio_9p_create(b->config.ram, b->config.shares[i].share, b->config.shares[i].tag));
		if (err && err != -ENOSPC)
			msg_error("--share: cannot make the device: %s", strerror(-err));
	}
	return err;
}

/* ---- ACPI ---- */

void board_virtio_describe(const struct board *b, struct aml *aml)
{
	for (unsigned i = 0; i < b->virtio_slots; i++) {
		char name[8];

		snprintf(name, sizeof(name), "VR%02u", i % 100);
		aml_device(aml, name);
		aml_name(aml, "_HID");
		aml_string(aml, "LNRO0005");
		aml_name(aml, "_UID");
		aml_integer(aml, i);
		aml_name(aml, "_CCA"); /* its DMA is coherent */
		aml_integer(aml, 1);
		aml_crs(aml);
		aml_crs_memory(aml, (uint32_t)b->virtio_slot[i].base, VIRTIO_MMIO_SIZE);
		aml_crs_interrupt(aml, MMIO_GSI + i % MMIO_GSIS);
		aml_crs_end(aml);
		aml_end(aml);
	}
}
