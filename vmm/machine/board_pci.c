/* SPDX-License-Identifier: Apache-2.0 */
/* PCI on the board `pc`: how its bus is wired to the machine's, where it has room, what ACPI says of it. */
#include <errno.h>

#include "base/compiler.h"
#include "device/pci/host.h"
#include "machine/board_parts.h"
#include "machine/ports.h"

/* Between ECAM and the IOAPIC. */
#define WINDOW_START 0xc0000000u
#define WINDOW_END 0xfec00000u
/* Ports for BARs: above those of the board's own devices. */
#define IO_START 0xc000u
#define IO_END 0x10000u
#define PORT_PCI_ADDRESS 0xcf8
#define PORT_PCI_DATA 0xcfc

static int map_bar(void *ctx, bool io, uint64_t base, uint64_t len, struct device *dev, unsigned bar)
{
	struct board *b = ctx;

	return bus_map_quiet(b->bus, io ? BUS_PIO : BUS_MMIO, base, len, dev, bar);
}

static void unmap_bar(void *ctx, bool io, uint64_t base, struct device *dev, unsigned bar)
{
	struct board *b = ctx;

	bus_unmap(b->bus, io ? BUS_PIO : BUS_MMIO, base, dev, bar);
}

static void send_msi(void *ctx, uint64_t address, uint32_t data)
{
	struct board *b = ctx;

	if (b->config.accel.msi)
		b->config.accel.msi(b->config.accel.ctx, address, data);
}

static void drive_intx(void *ctx, unsigned slot, unsigned pin, bool level)
{
	struct board *b = ctx;

	pci_isa_bridge_intx(b->isa_bridge, slot, pin, level);
}

static bool set_notifier(void *ctx, bool io, uint64_t address, int fd, bool on)
{
	struct board *b = ctx;

	return b->config.accel.notifier && b->config.accel.notifier(b->config.accel.ctx, io, address, -1, fd, on);
}

/* The guest moves ECAM (PCIEXBAR). Over something else it is nowhere. */
static void move_ecam(void *ctx, uint64_t base, bool enabled)
{
	struct board *b = ctx;

	if (b->ecam_mapped)
		bus_unmap(b->bus, BUS_MMIO, b->ecam, b->pci_host, PCI_HOST_ECAM);
	b->ecam = base;
	b->ecam_mapped =
		enabled && bus_map_quiet(b->bus, BUS_MMIO, base, PCI_HOST_ECAM_SIZE, b->pci_host, PCI_HOST_ECAM) == 0;
}

int board_pci_attach(struct board *b, const struct options *options)
{
	const struct pci_wiring wiring = { .map = map_bar,
					   .unmap = unmap_bar,
					   .msi = send_msi,
					   .intx = drive_intx,
					   .notifier = set_notifier,
					   .ctx = b };
	const struct pci_ecam ecam = { .base = PCI_ECAM_BASE, .move = move_ecam, .ctx = b };
	const struct placement where[] = {
		[PCI_HOST_ADDRESS] = { BUS_PIO, PORT_PCI_ADDRESS, 4 }, [PCI_HOST_DATA] = { BUS_PIO, PORT_PCI_DATA, 4 }
	};
	int err;

	(void)options;
	b->pci = pci_bus_create(&wiring);
	if (!b->pci)
		return -errno;
	b->isa_bridge = pci_isa_bridge_create(b->pci, b->config.gsi);
	err = board_adopt(b, b->isa_bridge);
	if (err)
		return err;
	b->pci_host = pci_host_create(b->pci, &ecam, b->reset_port);
	return board_attach(b, b->pci_host, where, ARRAY_SIZE(where));
}

static uint8_t isa_irq(unsigned slot, unsigned pin)
{
	return PCI_PIRQ_ISA(pci_pirq(slot, pin));
}

void board_pci_firmware(struct board *b)
{
	const struct pci_windows windows = { WINDOW_START, WINDOW_END, IO_START, IO_END };

	/* As many functions as there are slots have room. */
	(void)pci_bus_assign(b->pci, &windows);
	pci_isa_bridge_route(b->pci);
	pci_bus_set_lines(b->pci, isa_irq);
}

/* ---- ACPI ---- */

/* Package { slot << 16 | 0xffff, pin, 0, interrupt } (ACPI 6.4, 6.2.13): no link device, the interrupt is fixed. */
static void routing_table(struct aml *aml, bool ioapic)
{
	aml_return(aml);
	aml_package(aml, 31 * 4);
	for (unsigned slot = 1; slot < 32; slot++)
		for (unsigned pin = 0; pin < 4; pin++) {
			unsigned pirq = pci_pirq(slot, pin);

			aml_package(aml, 4);
			aml_integer(aml, slot << 16 | 0xffff);
			aml_integer(aml, pin);
			aml_integer(aml, 0);
			aml_integer(aml, ioapic ? PCI_PIRQ_GSI + pirq : PCI_PIRQ_ISA(pirq));
			aml_end(aml);
		}
	aml_end(aml);
}

static void describe_windows(struct aml *aml)
{
	aml_crs(aml);
	aml_crs_window_bus(aml, 0, 255);
	aml_crs_io(aml, PORT_PCI_ADDRESS, 8);
	aml_crs_window_io(aml, 0, PORT_PCI_ADDRESS - 1);
	aml_crs_window_io(aml, PORT_PCI_DATA + 4, 0xffff);
	aml_crs_window_memory(aml, 0xa0000, 0xbffff);
	aml_crs_window_memory(aml, WINDOW_START, WINDOW_END - 1);
	aml_crs_end(aml);
}

void board_pci_describe(struct aml *aml)
{
	aml_name(aml, "\\PICF"); /* the guest uses the IOAPIC: set by \_PIC (5.8.1) */
	aml_integer(aml, 0);
	aml_method(aml, "\\_PIC", 1);
	aml_store_arg(aml, 0, "\\PICF");
	aml_end(aml);

	aml_device(aml, "PCI0");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0A08");
	aml_name(aml, "_CID");
	aml_eisa_id(aml, "PNP0A03");
	aml_name(aml, "_UID");
	aml_integer(aml, 0);
	describe_windows(aml);
	aml_method(aml, "_PRT", 0);
	aml_if_name(aml, "\\PICF");
	routing_table(aml, true);
	aml_end(aml);
	routing_table(aml, false);
	aml_end(aml);
	aml_end(aml);

	/* MCFG counts only when a motherboard device claims its space (PCI Firmware 3.2, 4.1.2). */
	aml_device(aml, "ECAM");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0C02");
	aml_name(aml, "_UID");
	aml_string(aml, "ECAM");
	aml_crs(aml);
	aml_crs_memory(aml, PCI_ECAM_BASE, (uint32_t)PCI_HOST_ECAM_SIZE);
	aml_crs_end(aml);
	aml_end(aml);
}
