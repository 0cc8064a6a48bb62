/* SPDX-License-Identifier: Apache-2.0 */
/* The controller: its registers (AHCI 3), its interrupt, its thread. */
#include "device/ahci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/compiler.h"
#include "device/ahci_parts.h"

#define ABAR 5
#define ABAR_SIZE 0x1000
#define PORT_BASE 0x100
#define PORT_SIZE 0x80

enum { HBA_CAP = 0x00, HBA_GHC = 0x04, HBA_IS = 0x08, HBA_PI = 0x0c, HBA_VS = 0x10 };
/* 64-bit addresses, AHCI only, command list override, 32 slots; generation 3. */
#define CAP_VALUE (BIT32(31) | BIT32(24) | BIT32(18) | 3u << 20 | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define VERSION 0x00010301
#define GHC_AE BIT32(31)
#define GHC_IE BIT32(1)
#define GHC_RESET BIT32(0)

enum {
	PORT_CLB = 0x00,
	PORT_CLBU = 0x04,
	PORT_FB = 0x08,
	PORT_FBU = 0x0c,
	PORT_IS = 0x10,
	PORT_IE = 0x14,
	PORT_CMD = 0x18,
	PORT_TFD = 0x20,
	PORT_SIG = 0x24,
	PORT_SSTS = 0x28,
	PORT_SCTL = 0x2c,
	PORT_SERR = 0x30,
	PORT_CI = 0x38,
};
#define PORT_IE_BITS 0xfdc000ffu
#define CMD_ST BIT32(0)
#define CMD_CLO BIT32(3)
#define CMD_FRE BIT32(4)
#define CMD_FR BIT32(14)
#define CMD_CR BIT32(15)
#define CMD_WRITABLE (CMD_ST | CMD_FRE)
#define SCTL_DET 0xf
#define SCTL_DET_RESET 1
#define SCTL_DET_OFF 4

static struct ahci *ahci_of(struct pci_function *fn)
{
	return container_of(fn, struct ahci, fn);
}

void ahci_update_interrupt(struct ahci *a)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (a->port[i].is & a->port[i].ie)
			a->is |= BIT32(i);
	pci_intx_set(&a->fn, a->ghc & GHC_IE && a->is);
}

/* ---- ports ---- */

static uint32_t port_read(const struct ahci_port *p, unsigned offset)
{
	switch (offset) {
	case PORT_CLB: return p->clb;
	case PORT_CLBU: return p->clbu;
	case PORT_FB: return p->fb;
	case PORT_FBU: return p->fbu;
	case PORT_IS: return p->is;
	case PORT_IE: return p->ie;
	case PORT_CMD: return p->cmd | (p->cmd & CMD_ST ? CMD_CR : 0) | (p->cmd & CMD_FRE ? CMD_FR : 0);
	case PORT_TFD: return p->tfd;
	case PORT_SIG: return p->sig;
	case PORT_SSTS: return p->ssts;
	case PORT_SCTL: return p->sctl;
	case PORT_SERR: return p->serr;
	case PORT_CI: return p->ci;
	default: return 0;
	}
}

static void write_cmd(struct ahci_port *p, uint32_t value)
{
	bool stops = p->cmd & CMD_ST && !(value & CMD_ST);

	if (stops)
		ahci_port_stop(p);
	if (value & CMD_CLO)
		p->tfd &= ~(uint32_t)(ATA_BUSY | ATA_DRQ);
	p->cmd = (p->cmd & ~CMD_WRITABLE) | (value & CMD_WRITABLE);
	ahci_port_put_signature(p);
	ahci_port_run(p);
}

/* COMRESET while DET is 1; when it goes back to 0 the device is found again (10.4.2). */
static void write_sctl(struct ahci_port *p, uint32_t value)
{
	uint32_t was = p->sctl & SCTL_DET, is = value & SCTL_DET;

	p->sctl = value & 0xfff;
	if (is == SCTL_DET_RESET || is == SCTL_DET_OFF) {
		if (p->busy)
			block_queue_drain(p->queue);
		p->ssts = is == SCTL_DET_OFF ? 4 : 0;
		p->tfd = 0x7f;
	} else if (was == SCTL_DET_RESET || was == SCTL_DET_OFF) {
		p->ssts = 0;
		ahci_port_comreset(p);
	}
}

static void port_write(struct ahci_port *p, unsigned offset, uint32_t value)
{
	switch (offset) {
	case PORT_CLB: p->clb = value & ~UINT32_C(0x3ff); break;
	case PORT_CLBU: p->clbu = value; break;
	case PORT_FB: p->fb = value & ~UINT32_C(0xff); break;
	case PORT_FBU: p->fbu = value; break;
	case PORT_IS: p->is &= ~value; break;
	case PORT_IE:
		p->ie = value & PORT_IE_BITS;
		ahci_update_interrupt(p->ahci);
		break;
	case PORT_CMD: write_cmd(p, value); break;
	case PORT_SCTL: write_sctl(p, value); break;
	case PORT_SERR: p->serr &= ~value; break;
	case PORT_CI:
		if (p->cmd & CMD_ST)
			p->ci |= value;
		ahci_port_run(p);
		break;
	default: break;
	}
}

/* ---- the HBA ---- */

static void hba_reset(struct ahci *a)
{
	a->ghc = GHC_AE;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_reset(&a->port[i]);
	a->is = 0;
	ahci_update_interrupt(a);
}

static uint32_t hba_read(const struct ahci *a, unsigned offset)
{
	switch (offset) {
	case HBA_CAP: return CAP_VALUE;
	case HBA_GHC: return a->ghc;
	case HBA_IS: return a->is;
	case HBA_PI: return BIT32(AHCI_PORTS) - 1;
	case HBA_VS: return VERSION;
	default: return 0;
	}
}

static void hba_write(struct ahci *a, unsigned offset, uint32_t value)
{
	switch (offset) {
	case HBA_GHC:
		if (value & GHC_RESET) {
			hba_reset(a);
			break;
		}
		a->ghc = GHC_AE | (value & GHC_IE);
		ahci_update_interrupt(a);
		break;
	case HBA_IS:
		a->is &= ~value;
		ahci_update_interrupt(a);
		break;
	default: break;
	}
}

/* Registers are 32 bits wide; narrower reads are served, narrower writes are not made (3: "shall be accessed as
 * DWORD"). */
static uint64_t ahci_read(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size)
{
	struct ahci *a = ahci_of(fn);
	uint64_t value = 0;
	unsigned n = ((unsigned)offset - PORT_BASE) / PORT_SIZE, shift = (offset & 3) * 8;

	(void)bar;
	for (unsigned done = 0; done < size; done += 4) {
		unsigned at = ((unsigned)offset & ~3u) + done;
		uint32_t word = 0;

		if (at < PORT_BASE)
			word = hba_read(a, at);
		else if (n < AHCI_PORTS)
			word = port_read(&a->port[n], (at - PORT_BASE) % PORT_SIZE);
		value |= (uint64_t)word << (8 * done);
	}
	return value >> shift;
}

static void ahci_write(struct pci_function *fn, unsigned bar, uint64_t offset, uint64_t value, unsigned size)
{
	struct ahci *a = ahci_of(fn);

	(void)bar;
	if (offset & 3 || size < 4)
		return;
	for (unsigned done = 0; done < size; done += 4, value >>= 32) {
		unsigned at = (unsigned)offset + done, n = (at - PORT_BASE) / PORT_SIZE;

		if (at < PORT_BASE)
			hba_write(a, at, (uint32_t)value);
		else if (n < AHCI_PORTS)
			port_write(&a->port[n], (at - PORT_BASE) % PORT_SIZE, (uint32_t)value);
	}
}

/* ---- life ---- */

/* Thread: the I/O thread. */
static void queue_ready(void *ctx, uint32_t events)
{
	struct ahci_port *p = ctx;

	(void)events;
	device_lock(&p->ahci->fn.dev);
	block_queue_poll(p->queue);
	ahci_port_run(p);
	device_unlock(&p->ahci->fn.dev);
}

static void ahci_reset(struct pci_function *fn)
{
	hba_reset(ahci_of(fn));
}

static void ahci_destroy(struct pci_function *fn)
{
	struct ahci *a = ahci_of(fn);

	io_thread_destroy(a->thread);
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		block_queue_destroy(a->port[i].queue);
		free(a->port[i].iov);
	}
	pci_function_fini(fn);
	free(a);
}

static const struct pci_ops ahci_ops = {
	.name = "ahci",
	.read = ahci_read,
	.write = ahci_write,
	.reset = ahci_reset,
	.destroy = ahci_destroy,
};

static int plug_disk(struct ahci *a, struct ahci_port *p, const struct ahci_disk *disk)
{
	p->disk = disk->block;
	snprintf(p->serial, sizeof(p->serial), "%s", disk->serial ? disk->serial : "");
	if (!disk->serial)
		snprintf(p->serial, sizeof(p->serial), "TZ%08u", p->n + 1);
	p->queue = block_queue_create(p->disk);
	if (!p->queue)
		return -errno;
	p->watch = (struct io_watch){ .fd = block_queue_fd(p->queue), .ready = queue_ready, .ctx = p };
	return io_thread_add(a->thread, &p->watch, EPOLLIN);
}

struct device *ahci_create(struct pci_bus *bus, const struct guest_ram *ram, const struct ahci_disk *disks,
			   unsigned count)
{
	static const struct pci_identity id = { 0x8086, 0x2922, 0x1af4, 0x1100, 0x010601, 2 };
	struct ahci *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return NULL;
	err = pci_function_init(&a->fn, bus, PCI_SLOT_ANY, &ahci_ops, &id);
	if (err) {
		free(a);
		errno = -err;
		return NULL;
	}
	a->ram = ram;
	pci_add_bar(&a->fn, ABAR, ABAR_SIZE, 0);
	pci_add_intx(&a->fn);
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		a->port[i].ahci = a;
		a->port[i].n = i;
	}
	a->thread = io_thread_create("ahci");
	err = a->thread ? 0 : -errno;
	for (unsigned i = 0; i < count && !err; i++)
		err = plug_disk(a, &a->port[i], &disks[i]);
	if (!err)
		return &a->fn.dev;
	ahci_destroy(&a->fn);
	errno = -err;
	return NULL;
}
