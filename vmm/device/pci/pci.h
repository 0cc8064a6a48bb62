/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI (PCI Local Bus 3.0): one root bus of conventional functions, reached by its host bridge (host.h). A model embeds
 * struct pci_function first, says what it is, which BARs and capabilities it has, and gets accesses as (BAR, offset).
 *
 * Locks, outermost first: the host bridge's device lock (each configuration access, hence every change of a BAR), the
 * function's device lock (its regions and its configuration space), whatever the model has, fn->lock (interrupt state),
 * bus->lock (lines). Interrupts may be raised from any thread.
 */
#ifndef VMM_DEVICE_PCI_PCI_H
#define VMM_DEVICE_PCI_PCI_H

#include <linux/pci_regs.h>
#include <stddef.h>

#include "device/device.h"

#define PCI_CONFIG_SIZE 256
#define PCI_BARS 6
#define PCI_DEVFN(slot, function) ((uint8_t)((slot) << 3 | (function)))
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_FUNCTION(devfn) ((devfn)&7)
#define PCI_FUNCTIONS 256
#define PCI_UNMAPPED UINT64_MAX
#define PCI_MSIX_VECTORS_MAX 64 /* table and PBA in one page */
#define PCI_NO_VECTOR 0xffff

struct pci_function;

/* What the bus needs of the board. None may take a device's lock. */
struct pci_wiring {
	/* Put a BAR into an address space, take it out. -EEXIST: something is there. Thread: a vCPU's, or main. */
	int (*map)(void *ctx, bool io, uint64_t base, uint64_t len, struct device *dev, unsigned bar);
	void (*unmap)(void *ctx, bool io, uint64_t base, struct device *dev, unsigned bar);
	/* A message-signalled interrupt. Thread: any. */
	void (*msi)(void *ctx, uint64_t address, uint32_t data);
	/* INTA..INTD (0..3) of a slot. Thread: any. */
	void (*intx)(void *ctx, unsigned slot, unsigned pin, bool level);
	/*
	 * Writes of any size to this address shall add one to the eventfd (and make no access), or no longer do so.
	 * False: the accelerator cannot. NULL: likewise.
	 */
	bool (*notifier)(void *ctx, bool io, uint64_t address, int fd, bool on);
	void *ctx;
};

struct pci_bus;
struct pci_bus *pci_bus_create(const struct pci_wiring *wiring); /* NULL with errno */
void pci_bus_destroy(struct pci_bus *bus);                       /* not the functions */
const struct pci_wiring *pci_bus_wiring(const struct pci_bus *bus);

struct pci_ops {
	const char *name;
	uint64_t (*read)(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size);
	void (*write)(struct pci_function *fn, unsigned bar, uint64_t offset, uint64_t value, unsigned size);
	void (*reset)(struct pci_function *fn);
	void (*destroy)(struct pci_function *fn); /* calls pci_function_fini() and frees it */
	/* The rest may be NULL. A BAR is at `base` now, or PCI_UNMAPPED. */
	void (*moved)(struct pci_function *fn, unsigned bar, uint64_t base);
	/* Just before fn->config is read, and just after it was written. fn's device lock is held. */
	void (*config_read)(struct pci_function *fn, unsigned offset, unsigned size);
	void (*config_written)(struct pci_function *fn, unsigned offset, unsigned size);
};

struct pci_identity {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* 24 bits */
	uint8_t revision;
};

struct pci_bar {
	uint64_t size; /* 0: there is none */
	uint8_t flags; /* PCI_BASE_ADDRESS_SPACE_IO, _MEM_TYPE_64, _MEM_PREFETCH */
	uint64_t at;   /* where it is mapped, PCI_UNMAPPED */
};

struct pci_msix_entry {
	uint32_t word[4]; /* address, its upper half, data, vector control */
};

struct pci_function {
	struct device dev; /* first; dev.ops is fn->device_ops */
	struct device_ops device_ops;
	const struct pci_ops *ops;
	struct pci_bus *bus;
	uint8_t devfn;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that a write changes */
	uint8_t write_1_clears[PCI_CONFIG_SIZE];
	uint8_t initial[PCI_CONFIG_SIZE]; /* what a reset brings back */
	struct pci_bar bar[PCI_BARS];
	uint8_t next_capability, last_capability;

	pthread_mutex_t lock; /* the rest, and config's command, status and MSI-X control */
	bool intx;            /* the model asserts its line */
	bool intx_driven;     /* the line itself */
	unsigned msix_vectors;
	uint8_t msix_capability, msix_bar;
	struct pci_msix_entry *msix;
	uint64_t msix_pending;
};

/*
 * Into a slot (function 0), or PCI_SLOT_ANY. 0, -EEXIST, -ENOSPC. Afterwards BARs, capabilities and MSI-X may be
 * added until the first reset.
 */
#define PCI_SLOT_ANY (-1)
int pci_function_init(struct pci_function *fn, struct pci_bus *bus, int slot, const struct pci_ops *ops,
		      const struct pci_identity *id);
void pci_function_fini(struct pci_function *fn);

/* size: a power of two, at least 16 (256 at most for ports). */
void pci_add_bar(struct pci_function *fn, unsigned bar, uint64_t size, uint8_t flags);
/* The offset of a new capability of `size` bytes, its two-byte head filled in. */
unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned size);
/* The line INTA. */
void pci_add_intx(struct pci_function *fn);
/* MSI-X with its table and PBA in a BAR of its own (4 KiB), served here. 0, -ENOMEM. */
int pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors);

/* ---- thread: any ---- */
bool pci_msix_enabled(struct pci_function *fn);
void pci_msix_notify(struct pci_function *fn, unsigned vector);
void pci_intx_set(struct pci_function *fn, bool level);

/* ---- the host bridge's, or a test's: its device lock is held ---- */
uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned offset, unsigned size);
void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned offset, uint32_t value, unsigned size);
/* As firmware does: give every BAR a place in these windows and enable decoding. 0, -ENOSPC. vCPUs do not run. */
struct pci_windows {
	uint64_t memory, memory_end; /* [memory, memory_end) */
	uint32_t io, io_end;
};
int pci_bus_assign(struct pci_bus *bus, const struct pci_windows *windows);
/* For each slot and pin: the interrupt line register's contents, for guests that ask the firmware. */
void pci_bus_set_lines(struct pci_bus *bus, uint8_t (*line)(unsigned slot, unsigned pin));

static inline uint16_t pci_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t pci_get32(const uint8_t *p)
{
	return pci_get16(p) | (uint32_t)pci_get16(p + 2) << 16;
}

static inline void pci_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void pci_put32(uint8_t *p, uint32_t v)
{
	pci_put16(p, (uint16_t)v);
	pci_put16(p + 2, (uint16_t)(v >> 16));
}

#endif
