/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the AHCI controller: ahci.c has its registers, ahci_port.c a port's commands, ahci_ata.c the disk. */
#ifndef VMM_DEVICE_AHCI_PARTS_H
#define VMM_DEVICE_AHCI_PARTS_H

#include "block/block.h"
#include "device/ahci.h"
#include "device/io_thread.h"
#include "device/pci/pci.h"
#include "machine/ram.h"

#define AHCI_SLOTS 32
#define ATA_SECTOR 512u

/* Interrupt status of a port (AHCI 3.3.5). */
#define PORT_IS_DHRS BIT32(0)
#define PORT_IS_PSS BIT32(1)
#define PORT_IS_PCS BIT32(6)
#define PORT_IS_HBFS BIT32(29)
#define PORT_IS_TFES BIT32(30)

/* ATA status and error */
#define ATA_BUSY 0x80
#define ATA_READY 0x50 /* and seek complete */
#define ATA_DRQ 0x08
#define ATA_ERR 0x01
#define ATA_ABORTED 0x04
#define ATA_UNCORRECTABLE 0x40
#define ATA_NOT_FOUND 0x10

#define ATA_SIGNATURE 0x00000101

/* FIS (Serial ATA 3.0, 10.3) */
#define FIS_SIZE 64
#define FIS_H2D 0x27
#define FIS_H2D_COMMAND 0x80 /* of its second byte; else device control */
#define FIS_SRST 0x04        /* of the control byte */

struct ahci;

/* A command as the device got it. */
struct ata_command {
	uint8_t command, features;
	uint64_t lba;
	uint32_t sectors; /* the count field, 0 being its largest value */
};

struct ahci_port {
	struct ahci *ahci;
	unsigned n;
	struct block *disk; /* NULL: nothing is plugged in */
	char serial[AHCI_SERIAL_MAX + 1];
	struct block_queue *queue;
	struct io_watch watch;
	bool write_cache;

	/* Registers. */
	uint32_t clb, clbu, fb, fbu, is, ie, cmd, tfd, sig, ssts, sctl, serr, ci;
	bool signature_due; /* the FIS with the signature waits for a place */
	bool in_reset;      /* software reset: SRST is set */
	bool halted;        /* by an error, until ST is cleared */

	/* The command under way; busy: it is at the back end. */
	bool busy;
	unsigned slot;
	struct ata_command command;
	struct block_request request;
	struct iovec *iov;
	unsigned iov_room;
};

/* The function's device lock guards all of it; the I/O thread takes it too. */
struct ahci {
	struct pci_function fn;
	const struct guest_ram *ram;
	struct io_thread *thread;
	uint32_t ghc, is;
	struct ahci_port port[AHCI_PORTS];
};

/* All with the lock held. */
void ahci_update_interrupt(struct ahci *ahci);
void ahci_port_interrupt(struct ahci_port *port, uint32_t status);
void ahci_port_reset(struct ahci_port *port); /* power-on, HBA reset */
void ahci_port_comreset(struct ahci_port *port);
void ahci_port_stop(struct ahci_port *port); /* ST was cleared: what is under way ends first */
void ahci_port_run(struct ahci_port *port);  /* next commands, if there are any */
void ahci_port_put_signature(struct ahci_port *port);

/* How a command goes on. */
enum ata_next {
	ATA_DONE,    /* no data */
	ATA_DATA,    /* 512 bytes for the guest are in data */
	ATA_REQUEST, /* port->request has op, flags, offset, length */
	ATA_ABORT,
	ATA_RANGE, /* beyond the disk's end */
};
enum ata_next ata_start(struct ahci_port *port, const uint8_t cfis[FIS_SIZE], uint8_t data[ATA_SECTOR]);
bool ata_is_pio(uint8_t command);

#endif
