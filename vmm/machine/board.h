/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The board: which devices a machine has, where, on which lines; ACPI tables and the memory map.
 * Knows no CPU beyond their number and no KVM.
 */
#ifndef VMM_MACHINE_BOARD_H
#define VMM_MACHINE_BOARD_H

#include "device/device.h"
#include "machine/bus.h"
#include "machine/ram.h"

struct net;
struct firmware;

/* pc: PCI and what a PC has besides. microvm: no PCI, virtio devices at fixed addresses. */
enum board_kind { BOARD_PC, BOARD_MICROVM };
const char *const *board_kind_names(void); /* by enum board_kind, NULL-terminated */

/* What the accelerator does for devices besides lines. Thread: any. */
struct board_accel {
	void (*msi)(void *ctx, uint64_t address, uint32_t data);
	/* Guest writes to this address, of any size or (match >= 0) of 32 bits with this value, add one to the eventfd
	 * and do nothing else, or no longer do so. False: it cannot. NULL: likewise. */
	bool (*notifier)(void *ctx, bool io, uint64_t address, int64_t match, int fd, bool on);
	/* Does the PIT drive IRQ 0? Not while the HPET does. NULL: there is no PIT. */
	void (*pit_irq)(void *ctx, bool on);
	/* Is the flash with UEFI variables memory to read (which it is at first), or do reads come out? NULL: they come
	 * out. */
	void (*show_flash)(void *ctx, bool on);
	void *ctx;
};

/* A disk (--disk); its back end outlives the board. */
struct block;
struct board_disk {
	struct block *block;
	const char *serial; /* NULL: none */
	unsigned queues;    /* 0: as many as fit */
	bool ahci;          /* else virtio */
	bool packed;        /* virtio: offer packed rings */
};

/* A shared folder (--share); it outlives the board, as its tag does. */
struct share;
struct board_share {
	struct share *share;
	const char *tag;
};

/* Where the board's GSIs lead: the accelerator's KVM_IRQ_LINE. Thread: any. */
struct board_config {
	enum board_kind kind;
	struct board_accel accel;
	const struct board_disk *disks;
	unsigned disk_count;
	const struct board_share *shares;
	unsigned share_count;
	struct guest_ram *ram;
	unsigned cpus;
	struct irq_line gsi; /* .n is ignored; set(ctx, gsi, level) */
	struct machine_control control;
	struct chardev *serial;  /* COM1's back end, NULL: none */
	struct net *const *nets; /* a network card each (net/net.h); they outlive the board */
	unsigned net_count;
	bool vga;                        /* and a keyboard */
	const struct firmware *firmware; /* started instead of a kernel, or NULL */
	const char *const *devices;      /* --device strings "name,key=value…", NULL-terminated */
};

struct board;
/* 0 or -errno with one line on stderr that says what and why (unknown device: the nearest valid name). */
int board_create(const struct board_config *config, struct board **board);
void board_destroy(struct board *board);
void board_reset(struct board *board); /* devices to power-on state, ACPI tables written to RAM again */
/* Only the devices: they let go of lines and notifiers, so that the VM behind them may be replaced. */
void board_reset_devices(struct board *board);
/* vCPUs do not run: the clocks that devices count by stop, or go on from where they were. Thread: main. */
void board_hold(struct board *board, bool on);
struct bus *board_bus(struct board *board);

/* E820 map (ACPI 6.4 15): for boot protocols. */
struct e820_entry {
	uint64_t base, size;
	uint32_t type; /* 1 RAM, 2 reserved, 3 ACPI reclaimable */
};
#define E820_MAX 16
unsigned board_e820(const struct board *board, struct e820_entry map[E820_MAX]);
uint64_t board_rsdp(const struct board *board); /* GPA of the RSDP, in 0xe0000..0xfffff */

/* The balloon, of which the guest's memory can be asked (device/virtio/models.h); NULL: none. */
struct virtio_device;
struct virtio_device *board_balloon(struct board *board);
bool board_has_pci(const struct board *board);

/* Where the display is connected. NULL without config.vga. */
struct device *board_vga(struct board *board);
struct device *board_keyboard(struct board *board);

/* The user presses the ACPI power button: the guest gets an SCI and may shut down. Thread: any. */
void board_power_button(struct board *board);

/*
 * ACPI S3. board_sleep(): vCPUs have stopped; from now on MACHINE_WAKE may be requested; CMOS tells firmware (0xfe in
 * the shutdown byte). Then board_reset_devices(), and board_wake() instead of board_reset(): RAM is the guest's.
 * Without firmware, its waking vector is the FACS's; 0: it gave none.
 */
void board_sleep(struct board *board);
void board_wake(struct board *board);
uint32_t board_waking_vector(const struct board *board);

/* The --device names, for --help and the nearest-name hint. NULL-terminated. */
const char *const *board_device_names(void);

#define CHARDEV_BUSY UINT32_MAX

/* A character back end: COM1 writes to it, the main loop feeds it input. */
struct chardev {
	void (*write)(struct chardev *c, const uint8_t *data, unsigned len); /* guest to host; thread: a vCPU's */
	/*
	 * Set by the device: how much input it takes now, and the input itself. CHARDEV_BUSY and false: a vCPU is in
	 * the device, perhaps for long because nobody takes its output; ask again soon. Neither waits. Thread: main.
	 */
	unsigned (*can_receive)(void *ctx);
	bool (*receive)(void *ctx, const uint8_t *data, unsigned len);
	/* Set by the front end, called by the device when room appeared; thread: a vCPU's, device locked: must not call
	 * back. */
	void (*room)(struct chardev *c);
	void *ctx;
};

#endif
