/* SPDX-License-Identifier: Apache-2.0 */
/* MSI-X (PCI 3.0, 6.8.2): a page with the table in its first half and the pending bits in its second. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/pci/pci_parts.h"

#define PAGE 0x1000u
#define PBA_OFFSET 0x800u
#define ENTRY_SIZE 16u

enum { ADDRESS_LOW, ADDRESS_HIGH, DATA, CONTROL };

static uint16_t control(const struct pci_function *fn)
{
	return pci_get16(fn->config + fn->msix_capability + PCI_MSIX_FLAGS);
}

bool pci_msix_enabled_locked(const struct pci_function *fn)
{
	return fn->msix && (control(fn) & PCI_MSIX_FLAGS_ENABLE);
}

bool pci_msix_enabled(struct pci_function *fn)
{
	bool enabled;

	pthread_mutex_lock(&fn->lock);
	enabled = pci_msix_enabled_locked(fn);
	pthread_mutex_unlock(&fn->lock);
	return enabled;
}

void pci_msix_reset_locked(struct pci_function *fn)
{
	fn->msix_pending = 0;
	if (!fn->msix)
		return;
	memset(fn->msix, 0, fn->msix_vectors * sizeof(fn->msix[0]));
	for (unsigned i = 0; i < fn->msix_vectors; i++)
		fn->msix[i].word[CONTROL] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

/* A message is a memory write of the function: without bus mastering it cannot make one. */
static bool may_send(const struct pci_function *fn, unsigned vector)
{
	return !(control(fn) & PCI_MSIX_FLAGS_MASKALL) &&
	       !(fn->msix[vector].word[CONTROL] & PCI_MSIX_ENTRY_CTRL_MASKBIT) &&
	       (fn->config[PCI_COMMAND] & PCI_COMMAND_MASTER);
}

static void send(struct pci_function *fn, unsigned vector)
{
	const struct pci_wiring *w = &fn->bus->wiring;
	const struct pci_msix_entry *e = &fn->msix[vector];

	w->msi(w->ctx, (uint64_t)e->word[ADDRESS_HIGH] << 32 | (e->word[ADDRESS_LOW] & ~3u), e->word[DATA]);
}

void pci_msix_flush_locked(struct pci_function *fn)
{
	if (!fn->msix_pending || !pci_msix_enabled_locked(fn))
		return;
	for (unsigned i = 0; i < fn->msix_vectors; i++)
		if ((fn->msix_pending & BIT64(i)) && may_send(fn, i)) {
			fn->msix_pending &= ~BIT64(i);
			send(fn, i);
		}
}

void pci_msix_notify(struct pci_function *fn, unsigned vector)
{
	pthread_mutex_lock(&fn->lock);
	if (pci_msix_enabled_locked(fn) && vector < fn->msix_vectors) {
		if (may_send(fn, vector))
			send(fn, vector);
		else
			fn->msix_pending |= BIT64(vector);
	}
	pthread_mutex_unlock(&fn->lock);
}

int pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors)
{
	unsigned at;

	fn->msix = calloc(vectors, sizeof(fn->msix[0]));
	if (!fn->msix)
		return -ENOMEM;
	fn->msix_vectors = vectors;
	fn->msix_bar = (uint8_t)bar;
	pci_add_bar(fn, bar, PAGE, 0);
	at = pci_add_capability(fn, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	fn->msix_capability = (uint8_t)at;
	pci_put16(fn->initial + at + PCI_MSIX_FLAGS, (uint16_t)(vectors - 1));
	pci_put16(fn->writable + at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_put32(fn->initial + at + PCI_MSIX_TABLE, bar);
	pci_put32(fn->initial + at + PCI_MSIX_PBA, PBA_OFFSET | bar);
	return 0;
}

/* Aligned words of 4 and 8 bytes are what software may use (6.8.2); others read as zeros and do nothing. */
static bool legal(uint64_t offset, unsigned size)
{
	return (size == 4 || size == 8) && offset % size == 0;
}

static uint32_t read_word(const struct pci_function *fn, uint64_t offset)
{
	if (offset / ENTRY_SIZE < fn->msix_vectors)
		return fn->msix[offset / ENTRY_SIZE].word[offset % ENTRY_SIZE / 4];
	if (offset == PBA_OFFSET || offset == PBA_OFFSET + 4)
		return (uint32_t)(fn->msix_pending >> (offset - PBA_OFFSET) * 8);
	return 0;
}

uint64_t pci_msix_read(struct pci_function *fn, uint64_t offset, unsigned size)
{
	uint64_t value;

	if (!legal(offset, size))
		return 0;
	pthread_mutex_lock(&fn->lock);
	value = read_word(fn, offset);
	if (size == 8)
		value |= (uint64_t)read_word(fn, offset + 4) << 32;
	pthread_mutex_unlock(&fn->lock);
	return value;
}

static void write_word(struct pci_function *fn, uint64_t offset, uint32_t value)
{
	unsigned word = offset % ENTRY_SIZE / 4;

	if (offset / ENTRY_SIZE >= fn->msix_vectors)
		return; /* the pending bits are read-only */
	if (word == CONTROL)
		value &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	fn->msix[offset / ENTRY_SIZE].word[word] = value;
}

void pci_msix_write(struct pci_function *fn, uint64_t offset, uint64_t value, unsigned size)
{
	if (!legal(offset, size))
		return;
	pthread_mutex_lock(&fn->lock);
	write_word(fn, offset, (uint32_t)value);
	if (size == 8)
		write_word(fn, offset + 4, (uint32_t)(value >> 32));
	pci_msix_flush_locked(fn);
	pthread_mutex_unlock(&fn->lock);
}
