/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the PCI bus: what pci.c and msix.c share. _locked: fn->lock is held. */
#ifndef VMM_DEVICE_PCI_PCI_PARTS_H
#define VMM_DEVICE_PCI_PCI_PARTS_H

#include "device/pci/pci.h"

struct pci_bus {
	struct pci_wiring wiring;
	struct pci_function *function[PCI_FUNCTIONS]; /* by devfn */
	pthread_mutex_t lock;
};

void pci_update_intx_locked(struct pci_function *fn);

bool pci_msix_enabled_locked(const struct pci_function *fn);
void pci_msix_reset_locked(struct pci_function *fn);
/* Send what waits and is masked no more. */
void pci_msix_flush_locked(struct pci_function *fn);
uint64_t pci_msix_read(struct pci_function *fn, uint64_t offset, unsigned size);
void pci_msix_write(struct pci_function *fn, uint64_t offset, uint64_t value, unsigned size);

#endif
