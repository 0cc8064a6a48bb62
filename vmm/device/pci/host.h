/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chipset's two functions, as on Intel's Q35 so that firmware finds its way: the host bridge (82G33 data sheet,
 * function 0:0.0) and the ISA bridge (ICH9, 0:1f.0), which routes the PCI lines.
 */
#ifndef VMM_DEVICE_PCI_HOST_H
#define VMM_DEVICE_PCI_HOST_H

#include "device/pci/pci.h"

/* Regions of the host bridge on the machine's buses. */
enum {
	PCI_HOST_ADDRESS, /* ports 0xcf8..0xcfb */
	PCI_HOST_DATA,    /* ports 0xcfc..0xcff */
	PCI_HOST_ECAM,    /* 1 MiB a bus */
};
#define PCI_HOST_ECAM_SIZE (UINT64_C(256) << 20)

/* The PCIEXBAR register says where ECAM is. */
struct pci_ecam {
	uint64_t base; /* at reset, enabled */
	/* It is at base from now on, or nowhere. Thread: a vCPU's, or main; the bridge's device lock may be held. */
	void (*move)(void *ctx, uint64_t base, bool enabled);
	void *ctx;
};

/*
 * Configuration mechanisms, and the bridge's own function on `bus`, which it owns. reset_port answers byte accesses to
 * port 0xcf9 between them. NULL with errno.
 */
struct device *pci_host_create(struct pci_bus *bus, const struct pci_ecam *ecam, struct device *reset_port);

#define PCI_PIRQS 8
#define PCI_PIRQ_GSI 16
/* The function 0:1f.0; gsi drives the board's lines. NULL with errno. */
struct device *pci_isa_bridge_create(struct pci_bus *bus, struct irq_line gsi);
/* INTA..INTD of a slot: for struct pci_wiring. Thread: any. */
void pci_isa_bridge_intx(struct device *bridge, unsigned slot, unsigned pin, bool level);
/* Which PIRQ (0..7) that is. */
unsigned pci_pirq(unsigned slot, unsigned pin);
/* What firmware leaves: the PIRQs on these ISA interrupts in turn. */
#define PCI_PIRQ_ISA(pirq) ((pirq)&2 ? 11u : 10u)
void pci_isa_bridge_route(struct pci_bus *bus);

#endif
