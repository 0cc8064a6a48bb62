/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VGA as a PCI function: BAR 0 is its memory, linear; BAR 2 has the VGA's ports 3c0..3df at 0x400 and the dispi
 * registers at 0x500, one a word.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci.h"
#include "device/vga_parts.h"

enum { BAR_MEMORY = 0, BAR_REGISTERS = 2 };

#define REGISTERS_SIZE 0x1000
#define REGISTERS_PORTS 0x400
#define REGISTERS_PORTS_END 0x420
#define REGISTERS_DISPI 0x500
#define REGISTERS_DISPI_END (REGISTERS_DISPI + 2 * DISPI_COUNT)

struct vga_pci {
	struct pci_function fn;
	struct vga *vga;
};

static struct vga *vga_of(struct pci_function *fn)
{
	return container_of(fn, struct vga_pci, fn)->vga;
}

static uint64_t register_read(struct vga *v, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	if (offset >= REGISTERS_DISPI && offset < REGISTERS_DISPI_END)
		return vga_dispi_read(v, (unsigned)(offset - REGISTERS_DISPI) / 2);
	if (offset < REGISTERS_PORTS || offset + size > REGISTERS_PORTS_END)
		return UINT64_MAX;
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)vga_port_read(v, (unsigned)(offset - REGISTERS_PORTS) + 0x3c0 + i) << (8 * i);
	return value;
}

static void register_write(struct vga *v, uint64_t offset, uint64_t value, unsigned size)
{
	if (offset >= REGISTERS_DISPI && offset < REGISTERS_DISPI_END)
		vga_dispi_write(v, (unsigned)(offset - REGISTERS_DISPI) / 2, (uint16_t)value);
	else if (offset >= REGISTERS_PORTS && offset + size <= REGISTERS_PORTS_END)
		for (unsigned i = 0; i < size; i++, value >>= 8)
			vga_port_write(v, (unsigned)(offset - REGISTERS_PORTS) + 0x3c0 + i, (uint8_t)value);
}

static uint64_t vga_pci_read(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size)
{
	struct vga *v = vga_of(fn);
	uint64_t value = 0;

	device_lock(&v->dev);
	if (bar == BAR_REGISTERS)
		value = register_read(v, offset, size);
	else
		memcpy(&value, v->memory + offset, size);
	device_unlock(&v->dev);
	return value;
}

static void vga_pci_write(struct pci_function *fn, unsigned bar, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *v = vga_of(fn);

	device_lock(&v->dev);
	if (bar == BAR_REGISTERS)
		register_write(v, offset, value, size);
	else
		memcpy(v->memory + offset, &value, size);
	device_unlock(&v->dev);
}

static void vga_pci_reset(struct pci_function *fn)
{
	(void)fn; /* the VGA has a reset of its own */
}

static void vga_pci_destroy(struct pci_function *fn)
{
	pci_function_fini(fn);
	free(container_of(fn, struct vga_pci, fn));
}

static const struct pci_ops vga_pci_ops = {
	.name = "vga-pci",
	.read = vga_pci_read,
	.write = vga_pci_write,
	.reset = vga_pci_reset,
	.destroy = vga_pci_destroy,
};

struct device *vga_pci_create(struct device *vga, struct pci_bus *bus)
{
	static const struct pci_identity id = { 0x1234, 0x1111, 0x1af4, 0x1100, 0x030000, 2 };
	struct vga_pci *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return NULL;
	err = pci_function_init(&p->fn, bus, PCI_SLOT_ANY, &vga_pci_ops, &id);
	if (err) {
		free(p);
		errno = -err;
		return NULL;
	}
	p->vga = container_of(vga, struct vga, dev);
	pci_add_bar(&p->fn, BAR_MEMORY, VGA_MEMORY, PCI_BASE_ADDRESS_MEM_PREFETCH);
	pci_add_bar(&p->fn, BAR_REGISTERS, REGISTERS_SIZE, 0);
	/* VGA decodes the legacy ports and window whatever these bits say; drivers and firmware set them. */
	p->fn.writable[PCI_COMMAND] |= PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
	return &p->fn.dev;
}
