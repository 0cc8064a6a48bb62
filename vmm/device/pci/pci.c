/* SPDX-License-Identifier: Apache-2.0 */
/* The bus and its functions: configuration space, BARs, lines. MSI-X: msix.c. */
#include "device/pci/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci_parts.h"

#define HEADER_END 0x40

struct pci_bus *pci_bus_create(const struct pci_wiring *wiring)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	bus->wiring = *wiring;
	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void pci_bus_destroy(struct pci_bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

const struct pci_wiring *pci_bus_wiring(const struct pci_bus *bus)
{
	return &bus->wiring;
}

/* ---- as a device on the machine's buses ---- */

static uint64_t function_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct pci_function *fn = container_of(dev, struct pci_function, dev);

	if (fn->msix && region == fn->msix_bar)
		return pci_msix_read(fn, offset, size);
	return fn->ops->read(fn, region, offset, size);
}

static void function_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct pci_function *fn = container_of(dev, struct pci_function, dev);

	if (fn->msix && region == fn->msix_bar)
		pci_msix_write(fn, offset, value, size);
	else
		fn->ops->write(fn, region, offset, value, size);
}

static void function_destroy(struct device *dev)
{
	struct pci_function *fn = container_of(dev, struct pci_function, dev);

	fn->ops->destroy(fn);
}

/* ---- BARs ---- */

static bool bar_is_io(const struct pci_bar *bar)
{
	return bar->flags & PCI_BASE_ADDRESS_SPACE_IO;
}

static bool bar_is_64(const struct pci_bar *bar)
{
	return !bar_is_io(bar) && (bar->flags & PCI_BASE_ADDRESS_MEM_TYPE_64);
}

static uint8_t *bar_register(struct pci_function *fn, unsigned i)
{
	return fn->config + PCI_BASE_ADDRESS_0 + 4 * i;
}

/* Where the guest wants it: PCI_UNMAPPED while decoding is off, and at the addresses that sizing leaves there. */
static uint64_t bar_wanted(struct pci_function *fn, unsigned i)
{
	const struct pci_bar *bar = &fn->bar[i];
	uint16_t command = pci_get16(fn->config + PCI_COMMAND);
	uint64_t base = pci_get32(bar_register(fn, i)), limit = bar_is_io(bar) ? 0xffff : UINT32_MAX;

	if (!(command & (bar_is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return PCI_UNMAPPED;
	if (bar_is_64(bar)) {
		base |= (uint64_t)pci_get32(bar_register(fn, i + 1)) << 32;
		limit = UINT64_MAX;
	}
	base &= ~(bar->size - 1);
	if (!base || base >= limit - (bar->size - 1))
		return PCI_UNMAPPED;
	return base;
}

static void unmap_bar(struct pci_function *fn, unsigned i)
{
	const struct pci_wiring *w = &fn->bus->wiring;
	struct pci_bar *bar = &fn->bar[i];

	if (bar->at == PCI_UNMAPPED)
		return;
	if (fn->ops->moved)
		fn->ops->moved(fn, i, PCI_UNMAPPED);
	w->unmap(w->ctx, bar_is_io(bar), bar->at, &fn->dev, i);
	bar->at = PCI_UNMAPPED;
}

static void map_bar(struct pci_function *fn, unsigned i)
{
	const struct pci_wiring *w = &fn->bus->wiring;
	struct pci_bar *bar = &fn->bar[i];
	uint64_t want = bar_wanted(fn, i);

	if (want == PCI_UNMAPPED || want == bar->at)
		return;
	if (w->map(w->ctx, bar_is_io(bar), want, bar->size, &fn->dev, i) < 0)
		return; /* over something else: nobody answers there until that has gone */
	bar->at = want;
	if (fn->ops->moved)
		fn->ops->moved(fn, i, want);
}

/* A place that became free may be what another function waits for. */
static void update_bars(struct pci_function *changed)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (changed->bar[i].size && changed->bar[i].at != bar_wanted(changed, i))
			unmap_bar(changed, i);
	for (unsigned n = 0; n < PCI_FUNCTIONS; n++) {
		struct pci_function *fn = changed->bus->function[n];

		for (unsigned i = 0; fn && i < PCI_BARS; i++)
			if (fn->bar[i].size && fn->bar[i].at == PCI_UNMAPPED)
				map_bar(fn, i);
	}
}

void pci_add_bar(struct pci_function *fn, unsigned i, uint64_t size, uint8_t flags)
{
	uint64_t mask = ~(size - 1);

	fn->bar[i].size = size;
	fn->bar[i].flags = flags;
	pci_put32(fn->initial + PCI_BASE_ADDRESS_0 + 4 * i, flags);
	pci_put32(fn->writable + PCI_BASE_ADDRESS_0 + 4 * i, (uint32_t)mask);
	if (bar_is_64(&fn->bar[i]))
		pci_put32(fn->writable + PCI_BASE_ADDRESS_0 + 4 * i + 4, (uint32_t)(mask >> 32));
	pci_put16(fn->writable + PCI_COMMAND,
		  (uint16_t)(pci_get16(fn->writable + PCI_COMMAND) |
			     (flags & PCI_BASE_ADDRESS_SPACE_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)));
}

/* ---- lines ---- */

/* fn->lock held. */
void pci_update_intx_locked(struct pci_function *fn)
{
	const struct pci_wiring *w = &fn->bus->wiring;
	bool off = (pci_get16(fn->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) || pci_msix_enabled_locked(fn);
	bool level = fn->intx && !off;
	uint8_t pin = fn->config[PCI_INTERRUPT_PIN];

	fn->config[PCI_STATUS] =
		(uint8_t)((fn->config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) | (fn->intx ? PCI_STATUS_INTERRUPT : 0));
	if (!pin || level == fn->intx_driven)
		return;
	fn->intx_driven = level;
	w->intx(w->ctx, PCI_SLOT(fn->devfn), pin - 1u, level);
}

void pci_intx_set(struct pci_function *fn, bool level)
{
	pthread_mutex_lock(&fn->lock);
	fn->intx = level;
	pci_update_intx_locked(fn);
	pthread_mutex_unlock(&fn->lock);
}

void pci_add_intx(struct pci_function *fn)
{
	fn->initial[PCI_INTERRUPT_PIN] = 1;
	fn->writable[PCI_INTERRUPT_LINE] = 0xff;
	fn->writable[PCI_COMMAND + 1] |= PCI_COMMAND_INTX_DISABLE >> 8;
}

/* ---- functions ---- */

unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned size)
{
	unsigned at = fn->next_capability;
	uint8_t *link = fn->last_capability ? fn->initial + fn->last_capability + 1 : fn->initial + PCI_CAPABILITY_LIST;

	*link = (uint8_t)at;
	fn->initial[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	fn->initial[at] = id;
	fn->last_capability = (uint8_t)at;
	fn->next_capability = (uint8_t)((at + size + 3) & ~3u);
	return at;
}

static void function_reset(struct device *dev)
{
	struct pci_function *fn = container_of(dev, struct pci_function, dev);

	fn->ops->reset(fn);
	for (unsigned i = 0; i < PCI_BARS; i++)
		unmap_bar(fn, i);
	pthread_mutex_lock(&fn->lock);
	fn->intx = false;
	memcpy(fn->config, fn->initial, sizeof(fn->config));
	pci_msix_reset_locked(fn);
	pci_update_intx_locked(fn);
	pthread_mutex_unlock(&fn->lock);
}

static void set_identity(struct pci_function *fn, const struct pci_identity *id)
{
	uint8_t *c = fn->initial;

	pci_put16(c + PCI_VENDOR_ID, id->vendor);
	pci_put16(c + PCI_DEVICE_ID, id->device);
	pci_put32(c + PCI_CLASS_REVISION, id->class_code << 8 | id->revision);
	pci_put16(c + PCI_SUBSYSTEM_VENDOR_ID, id->subvendor);
	pci_put16(c + PCI_SUBSYSTEM_ID, id->subdevice);
	fn->writable[PCI_COMMAND] = PCI_COMMAND_MASTER;
	fn->writable[PCI_CACHE_LINE_SIZE] = 0xff;
}

static int find_slot(const struct pci_bus *bus, int slot)
{
	if (slot != PCI_SLOT_ANY)
		return bus->function[PCI_DEVFN(slot, 0)] ? -EEXIST : slot;
	for (slot = 1; slot < 31; slot++) /* 0 is the host bridge's, 31 the ISA bridge's */
		if (!bus->function[PCI_DEVFN(slot, 0)])
			return slot;
	return -ENOSPC;
}

int pci_function_init(struct pci_function *fn, struct pci_bus *bus, int slot, const struct pci_ops *ops,
		      const struct pci_identity *id)
{
	slot = find_slot(bus, slot);
	if (slot < 0)
		return slot;
	fn->device_ops = (struct device_ops){
		.name = ops->name,
		.min_size = 1,
		.max_size = 8,
		.reset = function_reset,
		.read = function_read,
		.write = function_write,
		.destroy = function_destroy,
	};
	device_init(&fn->dev, &fn->device_ops);
	pthread_mutex_init(&fn->lock, NULL);
	fn->ops = ops;
	fn->bus = bus;
	fn->devfn = PCI_DEVFN(slot, 0);
	fn->next_capability = HEADER_END;
	for (unsigned i = 0; i < PCI_BARS; i++)
		fn->bar[i].at = PCI_UNMAPPED;
	set_identity(fn, id);
	bus->function[fn->devfn] = fn;
	return 0;
}

void pci_function_fini(struct pci_function *fn)
{
	fn->bus->function[fn->devfn] = NULL;
	free(fn->msix);
	pthread_mutex_destroy(&fn->lock);
	device_fini(&fn->dev);
}

/* ---- configuration space ---- */

uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned offset, unsigned size)
{
	struct pci_function *fn = bus->function[devfn];
	uint32_t value = UINT32_MAX;

	/* Conventional functions have no extended space. */
	if (!fn || offset + size > PCI_CONFIG_SIZE)
		return value;
	device_lock(&fn->dev);
	if (fn->ops->config_read)
		fn->ops->config_read(fn, offset, size);
	pthread_mutex_lock(&fn->lock);
	memcpy(&value, fn->config + offset, size);
	pthread_mutex_unlock(&fn->lock);
	device_unlock(&fn->dev);
	return value;
}

static void write_bytes_locked(struct pci_function *fn, unsigned offset, uint32_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++, value >>= 8) {
		uint8_t *c = &fn->config[offset + i], w = fn->writable[offset + i];

		*c = (uint8_t)((*c & ~w) | (value & w));
		*c &= (uint8_t) ~(value & fn->write_1_clears[offset + i]);
	}
}

static bool touches(unsigned offset, unsigned size, unsigned from, unsigned end)
{
	return offset < end && offset + size > from;
}

void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned offset, uint32_t value, unsigned size)
{
	struct pci_function *fn = bus->function[devfn];

	if (!fn || offset + size > PCI_CONFIG_SIZE)
		return;
	device_lock(&fn->dev);
	pthread_mutex_lock(&fn->lock);
	write_bytes_locked(fn, offset, value, size);
	pci_update_intx_locked(fn);
	pci_msix_flush_locked(fn);
	pthread_mutex_unlock(&fn->lock);
	if (fn->ops->config_written)
		fn->ops->config_written(fn, offset, size);
	device_unlock(&fn->dev);
	if (touches(offset, size, PCI_COMMAND, PCI_COMMAND + 2) ||
	    touches(offset, size, PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_0 + 4 * PCI_BARS))
		update_bars(fn);
}

/* ---- what firmware does ---- */

static bool place(struct pci_function *fn, unsigned i, uint64_t *next, uint64_t end)
{
	struct pci_bar *bar = &fn->bar[i];
	uint64_t base = (*next + bar->size - 1) & ~(bar->size - 1);

	if (base > end || bar->size > end - base)
		return false;
	pci_config_write(fn->bus, fn->devfn, PCI_BASE_ADDRESS_0 + 4 * i, (uint32_t)base, 4);
	if (bar_is_64(bar))
		pci_config_write(fn->bus, fn->devfn, PCI_BASE_ADDRESS_0 + 4 * i + 4, (uint32_t)(base >> 32), 4);
	*next = base + bar->size;
	return true;
}

int pci_bus_assign(struct pci_bus *bus, const struct pci_windows *windows)
{
	uint64_t memory = windows->memory, io = windows->io;

	for (unsigned n = 0; n < PCI_FUNCTIONS; n++) {
		struct pci_function *fn = bus->function[n];
		unsigned command = 0;

		for (unsigned i = 0; fn && i < PCI_BARS; i++) {
			if (!fn->bar[i].size)
				continue;
			if (bar_is_io(&fn->bar[i]) ? !place(fn, i, &io, windows->io_end)
						   : !place(fn, i, &memory, windows->memory_end))
				return -ENOSPC;
			command |= bar_is_io(&fn->bar[i]) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
		}
		if (fn && command)
			pci_config_write(bus, fn->devfn, PCI_COMMAND, command, 2);
	}
	return 0;
}

void pci_bus_set_lines(struct pci_bus *bus, uint8_t (*line)(unsigned slot, unsigned pin))
{
	for (unsigned n = 0; n < PCI_FUNCTIONS; n++) {
		struct pci_function *fn = bus->function[n];

		if (fn && fn->initial[PCI_INTERRUPT_PIN])
			pci_config_write(bus, fn->devfn, PCI_INTERRUPT_LINE,
					 line(PCI_SLOT(n), fn->initial[PCI_INTERRUPT_PIN] - 1u), 1);
	}
}
