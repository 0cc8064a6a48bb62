/* SPDX-License-Identifier: Apache-2.0 */
/* Where virtio devices are plugged in. Both take the device over (destroyed with the transport), also on failure. */
#ifndef VMM_DEVICE_VIRTIO_TRANSPORT_H
#define VMM_DEVICE_VIRTIO_TRANSPORT_H

#include "device/pci/pci.h"
#include "device/virtio/virtio.h"

/* A PCI function (virtio 1.2, 4.1; not transitional) on the next free slot. NULL with errno. */
struct device *virtio_pci_create(struct pci_bus *bus, struct virtio_device *v);

/*
 * virtio over MMIO (4.2, version 2): region 0, VIRTIO_MMIO_SIZE bytes. notifier(ctx, offset, queue, fd, on): writes of
 * 32 bits with the value `queue` to that offset shall add one to the eventfd; false: cannot. NULL with errno.
 */
#define VIRTIO_MMIO_SIZE 0x1000
struct virtio_mmio_wiring {
	struct irq_line irq;
	bool (*notifier)(void *ctx, uint64_t offset, uint32_t queue, int fd, bool on); /* may be NULL */
	void *ctx;
};
struct device *virtio_mmio_create(const struct virtio_mmio_wiring *wiring, struct virtio_device *v);

#endif
