/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the board: what board.c, device_list.c, e820.c and the ACPI tables share. */
#ifndef VMM_MACHINE_BOARD_PARTS_H
#define VMM_MACHINE_BOARD_PARTS_H

#include "device/models.h"
#include "device/timer.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/board.h"
#include "machine/options.h"

struct board;
/* Where a virtio device of a board without PCI is. */
struct virtio_slot {
	struct board *board;
	uint64_t base;
};
#define VIRTIO_MMIO_SLOTS 32

/* What firmware can boot from. */
#define BOARD_BOOT_DISKS 32
#define BOARD_BOOT_NETS 8
#define BOARD_BOOT_PATH 56

struct board {
	struct board_config config;
	struct bus *bus;
	struct timer_service *timers;
	struct device *devices; /* in creation order */
	struct device *acpi_pm;
	struct device *fw_cfg;
	struct device *i8042, *vga; /* NULL: none */
	struct device *reset_port;
	struct pci_bus *pci; /* NULL: none */
	struct device *pci_host, *isa_bridge;
	uint64_t ecam; /* where it is mapped */
	bool ecam_mapped;
	struct virtio_ports *virtio_ports; /* what the console device gets, NULL: there is none */
	struct virtio_device *balloon;     /* the first one, NULL: there is none */
	struct virtio_slot virtio_slot[VIRTIO_MMIO_SLOTS];
	unsigned virtio_slots;
	pthread_mutex_t virtio_lock;
	uint32_t virtio_asserted;                          /* the slots whose interrupt is up; virtio_lock */
	char boot_disk[BOARD_BOOT_DISKS][BOARD_BOOT_PATH]; /* by number; "": none */
	char boot_net[BOARD_BOOT_NETS][BOARD_BOOT_PATH];
	bool has_hpet;
	pthread_mutex_t legacy_lock; /* these two */
	bool hpet_legacy, rtc_level;
	struct e820_entry e820[E820_MAX];
	unsigned e820_count;
	struct acpi_tables acpi;
};

/* Where region i of a device goes: row i. */
struct placement {
	enum bus_space space;
	uint64_t base, len;
};

/* Takes dev (NULL: -errno of its create function) over and maps it. 0, or -errno with a message. */
int board_attach(struct board *board, struct device *dev, const struct placement *where, unsigned regions);
struct irq_line board_gsi(const struct board *board, unsigned gsi);
/* Takes dev over as board_attach does, without a place of its own: a PCI function. */
int board_adopt(struct board *board, struct device *dev);

/* The boards that have a part, as bits. */
#define ON_PC (1u << BOARD_PC)
#define ON_MICROVM (1u << BOARD_MICROVM)
#define ON_ALL (ON_PC | ON_MICROVM)

/* PCI: board_pci.c. */
#define PCI_ECAM_BASE UINT64_C(0xb0000000)
int board_pci_attach(struct board *board, const struct options *options);
void board_pci_describe(struct aml *aml);
void board_pci_firmware(struct board *board); /* what firmware does: BARs, interrupt routing */

/* HPET: board_hpet.c. */
int board_hpet_attach(struct board *board, const struct options *options);
void board_hpet_describe(struct aml *aml);
struct irq_line board_rtc_line(struct board *board); /* IRQ 8, unless the HPET has it */

/* A kind of device this board can have. */
struct board_part {
	const char *name;
	unsigned boards;         /* ON_… */
	bool builtin;            /* these boards have one in any case */
	bool option;             /* --device takes it */
	const char *const *keys; /* of its options */
	/* 0; or -errno with a message. options may be without pairs. */
	int (*attach)(struct board *board, const struct options *options);
	void (*describe)(struct aml *aml); /* its device object under \_SB, or NULL */
};
extern const struct board_part board_parts[];
extern const unsigned board_part_count;

/* virtio devices, on PCI or at fixed addresses: board_virtio.c. */
extern const char *const board_virtio_keys[],
	*const board_balloon_keys[], *const board_vsock_keys[], *const board_port_keys[], *const board_no_keys[];
/* Ports of the one console device, which is made when all are known. */
int board_virtconsole_attach(struct board *board, const struct options *options);
int board_virtserialport_attach(struct board *board, const struct options *options);
int board_virtio_attach(struct board *board, const struct options *options);
int board_virtio_attach_backends(struct board *board); /* --disk, --net */
void board_virtio_fini(struct board *board);
void board_virtio_describe(const struct board *board, struct aml *aml);

/* What firmware boots from: board_boot.c. The device attached last is this disk or network card of the config. */
void board_boot_disk(struct board *board, unsigned disk);
void board_boot_ahci_disk(struct board *board, unsigned disk, unsigned port);
void board_boot_net(struct board *board, unsigned net);
int board_boot_fill(const struct board *board); /* into fw_cfg. 0, -ENOMEM */

/* Disks on AHCI: board_ahci.c. */
int board_ahci_attach(struct board *board, const struct options *options);

/* A keyboard is plugged in: its device object. */
void board_keyboard_describe(struct aml *aml);

unsigned e820_build(const struct board_config *config, struct e820_entry map[E820_MAX]);

/* What the board says through fw_cfg: fw_cfg_items.c. 0, -ENOMEM. */
int fw_cfg_fill(struct device *fw_cfg, const struct board *board);

#endif
