/* SPDX-License-Identifier: Apache-2.0 */
#include "device/pci/host.h"

#include <errno.h>
#include <stdlib.h>

#include "base/compiler.h"

#define ADDRESS_ENABLE BIT32(31)
#define RESET_PORT_OFFSET 1 /* of 0xcf9 */

/* Q35 */
#define PCIEXBAR 0x60
#define PCIEXBAR_ENABLE 1u
#define PCIEXBAR_LENGTH 6u /* 0: 256 MiB, the only one here */

struct host {
	struct device dev;
	struct pci_function fn;
	struct pci_bus *bus;
	struct pci_ecam ecam;
	struct device *reset_port;
	uint32_t address;
};

static uint64_t host_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct host *h = container_of(dev, struct host, dev);

	switch (region) {
	case PCI_HOST_ADDRESS:
		/* Only 32-bit accesses are for the register (PCI 3.0, 3.2.2.3.2). */
		if (size == 4)
			return h->address;
		if (offset != RESET_PORT_OFFSET || size != 1)
			return UINT64_MAX;
		return h->reset_port->ops->read(h->reset_port, 0, 0, 1);
	case PCI_HOST_DATA:
		if (!(h->address & ADDRESS_ENABLE) || (h->address & 0xff0000))
			return UINT64_MAX;
		return pci_config_read(h->bus, (uint8_t)(h->address >> 8), (h->address & 0xfc) + (unsigned)offset,
				       size);
	default:
		if (offset >> 20)
			return UINT64_MAX; /* there is bus 0 */
		return pci_config_read(h->bus, (uint8_t)(offset >> 12), offset & 0xfff, size);
	}
}

static void host_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct host *h = container_of(dev, struct host, dev);

	switch (region) {
	case PCI_HOST_ADDRESS:
		if (size == 4)
			h->address = (uint32_t)value & (ADDRESS_ENABLE | 0xfffffc);
		else if (offset == RESET_PORT_OFFSET && size == 1)
			h->reset_port->ops->write(h->reset_port, 0, 0, value, 1);
		break;
	case PCI_HOST_DATA:
		if ((h->address & ADDRESS_ENABLE) && !(h->address & 0xff0000))
			pci_config_write(h->bus, (uint8_t)(h->address >> 8), (h->address & 0xfc) + (unsigned)offset,
					 (uint32_t)value, size);
		break;
	default:
		if (!(offset >> 20))
			pci_config_write(h->bus, (uint8_t)(offset >> 12), offset & 0xfff, (uint32_t)value, size);
	}
}

static void host_reset(struct device *dev)
{
	struct host *h = container_of(dev, struct host, dev);

	h->address = 0;
	h->fn.dev.ops->reset(&h->fn.dev);
	h->ecam.move(h->ecam.ctx, h->ecam.base, true);
}

static void host_destroy(struct device *dev)
{
	struct host *h = container_of(dev, struct host, dev);

	pci_function_fini(&h->fn);
	device_fini(dev);
	free(h);
}

static const struct device_ops host_ops = {
	.name = "pci-host",
	.min_size = 1,
	.max_size = 4,
	.reset = host_reset,
	.read = host_read,
	.write = host_write,
	.destroy = host_destroy,
};

/* ---- function 0:0.0 ---- */

static void mch_written(struct pci_function *fn, unsigned offset, unsigned size)
{
	struct host *h = container_of(fn, struct host, fn);
	uint64_t value = pci_get32(fn->config + PCIEXBAR) | (uint64_t)pci_get32(fn->config + PCIEXBAR + 4) << 32;

	if (offset < PCIEXBAR + 8 && offset + size > PCIEXBAR)
		h->ecam.move(h->ecam.ctx, value & ~(PCI_HOST_ECAM_SIZE - 1),
			     (value & PCIEXBAR_ENABLE) && !(value & PCIEXBAR_LENGTH));
}

static void no_action(struct pci_function *fn)
{
	(void)fn; /* registers only, and the host device's to destroy */
}

static const struct pci_ops mch_ops = {
	.name = "pci-host-bridge",
	.reset = no_action,
	.destroy = no_action,
	.config_written = mch_written,
};

struct device *pci_host_create(struct pci_bus *bus, const struct pci_ecam *ecam, struct device *reset_port)
{
	static const struct pci_identity id = { 0x8086, 0x29c0, 0x1af4, 0x1100, 0x060000, 0 };
	struct host *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return NULL;
	err = pci_function_init(&h->fn, bus, 0, &mch_ops, &id);
	if (err) {
		free(h);
		errno = -err;
		return NULL;
	}
	pci_put32(h->fn.initial + PCIEXBAR, (uint32_t)ecam->base | PCIEXBAR_ENABLE);
	pci_put32(h->fn.initial + PCIEXBAR + 4, (uint32_t)(ecam->base >> 32));
	pci_put32(h->fn.writable + PCIEXBAR, (uint32_t) ~(PCI_HOST_ECAM_SIZE - 1) | PCIEXBAR_LENGTH | PCIEXBAR_ENABLE);
	pci_put32(h->fn.writable + PCIEXBAR + 4, 0xf); /* 36 address bits */
	device_init(&h->dev, &host_ops);
	h->bus = bus;
	h->ecam = *ecam;
	h->reset_port = reset_port;
	return &h->dev;
}

/* ---- function 0:1f.0 ---- */

/* ICH9, 13.1 */
#define PMBASE 0x40
#define ACPI_CNTL 0x44
#define PIRQA_ROUT 0x60
#define PIRQE_ROUT 0x68
#define ROUT_DISABLED 0x80
#define ROUT_WRITABLE 0x8f
#define RCBA 0xf0
#define ISA_IRQS 16

struct isa_bridge {
	struct pci_function fn;
	struct irq_line gsi;
	pthread_mutex_t line_lock;    /* innermost but for the accelerator */
	uint32_t asserted[PCI_PIRQS]; /* by slot; line_lock */
	uint8_t route[PCI_PIRQS];     /* line_lock */
	uint16_t isa;                 /* the ISA lines that are up because of PIRQs; line_lock */
};

unsigned pci_pirq(unsigned slot, unsigned pin)
{
	return ((slot + pin) & 3) + (slot < 25 ? 4 : 0);
}

static uint8_t *route_register(struct isa_bridge *b, unsigned pirq)
{
	return b->fn.config + (pirq < 4 ? PIRQA_ROUT + pirq : PIRQE_ROUT + pirq - 4);
}

static void drive(const struct isa_bridge *b, unsigned gsi, bool level)
{
	struct irq_line line = b->gsi;

	line.n = gsi;
	irq_line_set(&line, level);
}

/* A PIRQ is a pin of the IOAPIC, and with routing enabled an ISA interrupt as well, for guests without IOAPIC. */
static void update_isa_locked(struct isa_bridge *b)
{
	uint16_t up = 0, changed;

	for (unsigned i = 0; i < PCI_PIRQS; i++)
		if (b->asserted[i] && !(b->route[i] & ROUT_DISABLED))
			up |= (uint16_t)BIT32(b->route[i] & 0xf);
	changed = up ^ b->isa;
	b->isa = up;
	for (unsigned irq = 0; irq < ISA_IRQS; irq++)
		if (changed & BIT32(irq))
			drive(b, irq, up & BIT32(irq));
}

void pci_isa_bridge_intx(struct device *dev, unsigned slot, unsigned pin, bool level)
{
	struct isa_bridge *b = container_of(container_of(dev, struct pci_function, dev), struct isa_bridge, fn);
	unsigned pirq = pci_pirq(slot, pin);
	bool was, is;

	pthread_mutex_lock(&b->line_lock);
	was = b->asserted[pirq];
	b->asserted[pirq] = level ? b->asserted[pirq] | BIT32(slot) : b->asserted[pirq] & ~BIT32(slot);
	is = b->asserted[pirq];
	if (was != is) {
		drive(b, PCI_PIRQ_GSI + pirq, is);
		update_isa_locked(b);
	}
	pthread_mutex_unlock(&b->line_lock);
}

static void take_routes(struct isa_bridge *b)
{
	pthread_mutex_lock(&b->line_lock);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		b->route[i] = *route_register(b, i);
	update_isa_locked(b);
	pthread_mutex_unlock(&b->line_lock);
}

static void isa_written(struct pci_function *fn, unsigned offset, unsigned size)
{
	if (offset < PIRQE_ROUT + 4 && offset + size > PIRQA_ROUT)
		take_routes(container_of(fn, struct isa_bridge, fn));
}

static void isa_reset(struct pci_function *fn)
{
	struct isa_bridge *b = container_of(fn, struct isa_bridge, fn);

	pthread_mutex_lock(&b->line_lock);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		b->route[i] = ROUT_DISABLED;
	update_isa_locked(b);
	pthread_mutex_unlock(&b->line_lock);
}

static void isa_destroy(struct pci_function *fn)
{
	struct isa_bridge *b = container_of(fn, struct isa_bridge, fn);

	pci_function_fini(fn);
	pthread_mutex_destroy(&b->line_lock);
	free(b);
}

static const struct pci_ops isa_ops = {
	.name = "isa-bridge",
	.reset = isa_reset,
	.destroy = isa_destroy,
	.config_written = isa_written,
};

struct device *pci_isa_bridge_create(struct pci_bus *bus, struct irq_line gsi)
{
	static const struct pci_identity id = { 0x8086, 0x2918, 0x1af4, 0x1100, 0x060100, 2 };
	struct isa_bridge *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return NULL;
	err = pci_function_init(&b->fn, bus, 31, &isa_ops, &id);
	if (err) {
		free(b);
		errno = -err;
		return NULL;
	}
	b->gsi = gsi;
	pthread_mutex_init(&b->line_lock, NULL);
	/* The ports below are where the board has them; firmware writes here what it believes, and reads it back. */
	pci_put32(b->fn.initial + PMBASE, 1);
	pci_put32(b->fn.writable + PMBASE, 0xff80);
	b->fn.writable[ACPI_CNTL] = 0x87;
	pci_put32(b->fn.writable + RCBA, 0xffffc001);
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		unsigned at = i < 4 ? PIRQA_ROUT + i : PIRQE_ROUT + i - 4;

		b->fn.initial[at] = ROUT_DISABLED;
		b->fn.writable[at] = ROUT_WRITABLE;
	}
	return &b->fn.dev;
}

void pci_isa_bridge_route(struct pci_bus *bus)
{
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		pci_config_write(bus, PCI_DEVFN(31, 0), i < 4 ? PIRQA_ROUT + i : PIRQE_ROUT + i - 4, PCI_PIRQ_ISA(i),
				 1);
}
