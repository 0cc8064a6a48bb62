/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port: its command list, one command after the other (AHCI 5.3, 5.5). What is in guest memory is read once and
 * checked as read: the guest may change it meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/ahci_parts.h"

#define CMD_ST BIT32(0)
#define CMD_FRE BIT32(4)
#define CMD_CCS_SHIFT 8
#define CMD_CCS_MASK (UINT32_C(31) << CMD_CCS_SHIFT)

#define SSTS_ONLINE 0x133 /* device there, generation 3, active */
#define SERR_EXCHANGED BIT32(26)
#define TFD_NOTHING 0x7f

/* Received FISes (4.2.1). */
#define RX_PIO_SETUP 0x20
#define RX_D2H 0x40
#define FIS_D2H 0x34
#define FIS_PIO_SETUP 0x5f
#define FIS_INTERRUPT 0x40
#define FIS_TO_HOST 0x20 /* direction, of a PIO setup */

/* Command list and table (4.2.2, 4.2.3). */
#define HEADER_SIZE 32
#define HEADER_CLEAR_BUSY BIT32(10)
#define TABLE_PRDT 0x80
#define PRD_SIZE 16
#define PRD_BYTES 0x3fffff /* less one */

static uint64_t address(uint32_t low, uint32_t high)
{
	return low | (uint64_t)high << 32;
}

static bool ram_get(const struct ahci_port *port, uint64_t gpa, void *data, uint64_t size)
{
	return ram_read(port->ahci->ram, gpa, data, size);
}

void ahci_port_interrupt(struct ahci_port *port, uint32_t status)
{
	port->is |= status;
	ahci_update_interrupt(port->ahci);
}

/* ---- FISes to the host ---- */

static void put_fis(struct ahci_port *port, unsigned where, const uint8_t *fis, unsigned size)
{
	if (port->cmd & CMD_FRE) /* to memory that is not there: lost */
		ram_write(port->ahci->ram, address(port->fb, port->fbu) + where, fis, size);
}

static void fill_registers(const struct ata_command *c, uint8_t *fis)
{
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(c->lba >> (8 * i));
		fis[8 + i] = (uint8_t)(c->lba >> (24 + 8 * i));
	}
	fis[7] = 0x40;
	fis[12] = (uint8_t)c->sectors;
	fis[13] = (uint8_t)(c->sectors >> 8);
}

static void put_d2h(struct ahci_port *port, uint8_t status, uint8_t error)
{
	uint8_t fis[20] = { FIS_D2H, FIS_INTERRUPT, status, error };

	fill_registers(&port->command, fis);
	put_fis(port, RX_D2H, fis, sizeof(fis));
}

static void put_pio_setup(struct ahci_port *port, uint32_t bytes)
{
	uint8_t fis[20] = { FIS_PIO_SETUP, FIS_INTERRUPT | FIS_TO_HOST, ATA_READY | ATA_DRQ };

	fill_registers(&port->command, fis);
	fis[15] = ATA_READY; /* the status at the end */
	fis[16] = (uint8_t)bytes;
	fis[17] = (uint8_t)(bytes >> 8);
	put_fis(port, RX_PIO_SETUP, fis, sizeof(fis));
}

/* What a device says after a reset; kept until there is a place for it. */
void ahci_port_put_signature(struct ahci_port *port)
{
	static const uint8_t fis[20] = { [0] = FIS_D2H, [2] = ATA_READY, [3] = 1, [4] = 1, [12] = 1 };

	if (!port->signature_due || !(port->cmd & CMD_FRE))
		return;
	port->signature_due = false;
	put_fis(port, RX_D2H, fis, sizeof(fis));
}

static void device_reset(struct ahci_port *port)
{
	port->write_cache = block_info(port->disk)->write_cache;
	port->tfd = ATA_READY | 1u << 8;
	port->sig = ATA_SIGNATURE;
	port->signature_due = true;
	ahci_port_put_signature(port);
}

void ahci_port_comreset(struct ahci_port *port)
{
	port->in_reset = false;
	if (!port->disk)
		return;
	port->ssts = SSTS_ONLINE;
	port->serr |= SERR_EXCHANGED;
	device_reset(port);
	ahci_port_interrupt(port, PORT_IS_PCS);
}

void ahci_port_reset(struct ahci_port *port)
{
	if (port->queue)
		block_queue_drain(port->queue);
	port->clb = port->clbu = port->fb = port->fbu = port->is = port->ie = 0;
	port->ci = port->sctl = port->serr = 0;
	port->cmd = 0x6; /* spun up, powered */
	port->halted = port->in_reset = port->signature_due = false;
	port->ssts = 0;
	port->tfd = TFD_NOTHING;
	port->sig = UINT32_MAX;
	if (port->disk)
		ahci_port_comreset(port);
	port->is = 0;
}

void ahci_port_stop(struct ahci_port *port)
{
	if (port->busy)
		block_queue_drain(port->queue);
	port->ci = 0;
	port->halted = false;
	port->cmd &= ~CMD_CCS_MASK;
}

/* ---- ends of commands ---- */

static void finish(struct ahci_port *port, uint32_t bytes)
{
	uint64_t count = address(port->clb, port->clbu) + port->slot * HEADER_SIZE + 4; /* PRDBC */
	bool pio = ata_is_pio(port->command.command);

	ram_write(port->ahci->ram, count, &bytes, sizeof(bytes));
	port->tfd = ATA_READY;
	port->ci &= ~BIT32(port->slot);
	if (pio)
		put_pio_setup(port, bytes);
	else
		put_d2h(port, ATA_READY, 0);
	ahci_port_interrupt(port, pio ? PORT_IS_PSS : PORT_IS_DHRS);
}

/* The port stands still until the driver restarts it (6.2.2). */
static void fail(struct ahci_port *port, uint8_t error)
{
	port->tfd = (uint32_t)(ATA_READY | ATA_ERR) | (uint32_t)error << 8;
	port->halted = true;
	put_d2h(port, ATA_READY | ATA_ERR, error);
	ahci_port_interrupt(port, PORT_IS_TFES | PORT_IS_DHRS);
}

static void fail_bus(struct ahci_port *port)
{
	port->halted = true;
	ahci_port_interrupt(port, PORT_IS_HBFS);
}

/* Thread: the I/O thread, or who drains; the lock is held. */
static void request_done(struct block_request *request, int result)
{
	struct ahci_port *port = request->ctx;

	port->busy = false;
	if (!result)
		finish(port, (uint32_t)request->length);
	else if (request->op == BLOCK_READ)
		fail(port, ATA_UNCORRECTABLE);
	else
		fail(port, ATA_ABORTED);
}

/* ---- starting them ---- */

struct header {
	uint32_t flags, transferred;
	uint64_t table;
};

static bool get_header(const struct ahci_port *port, struct header *h)
{
	uint32_t word[4];

	if (!ram_get(port, address(port->clb, port->clbu) + port->slot * HEADER_SIZE, word, sizeof(word)))
		return false;
	h->flags = word[0];
	h->table = address(word[2] & ~UINT32_C(0x7f), word[3]);
	return true;
}

static bool add_piece(struct ahci_port *port, unsigned n, void *base, uint64_t size)
{
	if (n == port->iov_room) {
		unsigned room = n ? 2 * n : 32;
		struct iovec *iov = realloc(port->iov, room * sizeof(*iov));

		if (!iov)
			return false;
		port->iov = iov;
		port->iov_room = room;
	}
	port->iov[n] = (struct iovec){ base, size };
	return true;
}

/* The first `length` bytes of what the table's regions describe, as a vector; its count, or 0: not all in RAM. */
static unsigned get_pieces(struct ahci_port *port, const struct header *h, uint64_t length)
{
	unsigned entries = h->flags >> 16, n = 0;

	for (unsigned i = 0; i < entries && length; i++) {
		uint32_t prd[4];
		uint64_t size;
		void *base;

		if (!ram_get(port, h->table + TABLE_PRDT + (uint64_t)i * PRD_SIZE, prd, sizeof(prd)))
			return 0;
		size = (prd[3] & PRD_BYTES) + 1;
		if (size > length)
			size = length;
		base = ram_ptr(port->ahci->ram, address(prd[0] & ~UINT32_C(1), prd[1]), size);
		if (!base || !add_piece(port, n, base, size))
			return 0;
		n++;
		length -= size;
	}
	return length ? 0 : n;
}

static void start_request(struct ahci_port *port, const struct header *h)
{
	struct block_request *r = &port->request;

	if (r->length) {
		r->iov_count = get_pieces(port, h, r->length);
		r->iov = port->iov;
		if (!r->iov_count) {
			fail_bus(port);
			return;
		}
	}
	r->done = request_done;
	r->ctx = port;
	port->busy = true;
	port->tfd = ATA_BUSY;
	block_submit(port->queue, r);
	block_queue_kick(port->queue);
}

static void give_data(struct ahci_port *port, const struct header *h, const uint8_t *data)
{
	unsigned n = get_pieces(port, h, ATA_SECTOR);

	if (!n) {
		fail_bus(port);
		return;
	}
	for (unsigned i = 0; i < n; data += port->iov[i++].iov_len)
		memcpy(port->iov[i].iov_base, data, port->iov[i].iov_len);
	finish(port, ATA_SECTOR);
}

/* Device control: a software reset is SRST set, then cleared (Serial ATA 3.0, 11.4). */
static void device_control(struct ahci_port *port, const struct header *h, uint8_t control)
{
	port->ci &= ~BIT32(port->slot);
	if (control & FIS_SRST) {
		port->in_reset = true;
		port->tfd = h->flags & HEADER_CLEAR_BUSY ? ATA_READY : ATA_BUSY;
	} else if (port->in_reset) {
		port->in_reset = false;
		device_reset(port);
	}
}

static void start_command(struct ahci_port *port)
{
	uint8_t cfis[FIS_SIZE], data[ATA_SECTOR];
	struct header h;

	if (!get_header(port, &h) || !ram_get(port, h.table, cfis, sizeof(cfis)) || cfis[0] != FIS_H2D) {
		fail_bus(port);
		return;
	}
	if (!(cfis[1] & FIS_H2D_COMMAND)) {
		device_control(port, &h, cfis[15]);
		return;
	}
	switch (ata_start(port, cfis, data)) {
	case ATA_DONE: finish(port, 0); break;
	case ATA_DATA: give_data(port, &h, data); break;
	case ATA_REQUEST: start_request(port, &h); break;
	case ATA_ABORT: fail(port, ATA_ABORTED); break;
	case ATA_RANGE: fail(port, ATA_NOT_FOUND); break;
	}
}

void ahci_port_run(struct ahci_port *port)
{
	if (!port->disk)
		return;
	while (port->cmd & CMD_ST && port->ci && !port->busy && !port->halted) {
		/* In the order of slots, from the one after the last (5.3.2.3). */
		for (unsigned i = 1; i <= AHCI_SLOTS; i++) {
			unsigned slot = (port->slot + i) % AHCI_SLOTS;

			if (port->ci & BIT32(slot)) {
				port->slot = slot;
				break;
			}
		}
		port->cmd = (port->cmd & ~CMD_CCS_MASK) | port->slot << CMD_CCS_SHIFT;
		start_command(port);
	}
}
