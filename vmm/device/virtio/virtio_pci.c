/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over PCI (virtio 1.2, 4.1): one memory BAR with all structures, MSI-X in another. */
#include <errno.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/virtio/transport.h"

#define BAR_REGISTERS 0
#define BAR_MSIX 1
#define BAR_SIZE 0x4000u
#define SECTION 0x1000u
enum { AT_COMMON = 0x0000, AT_ISR = 0x1000, AT_CONFIG = 0x2000, AT_NOTIFY = 0x3000 };
#define NOTIFY_MULTIPLIER 4u

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040 /* plus the device type (4.1.2) */
#define SUBSYSTEM 0x1100
#define ISR_QUEUE 1u
#define ISR_CONFIG 2u

/* Fields of the common structure that the kernel's header of Debian 12 does not have. */
#define COMMON_QUEUE_NOTIFY_DATA 56
#define COMMON_QUEUE_RESET 58
#define COMMON_SIZE 60

struct virtio_pci {
	struct pci_function fn; /* first */
	struct virtio_device *v;
	uint32_t offered_select, accepted_select;
	uint16_t queue_select;
	_Atomic uint16_t config_vector;
	_Atomic uint16_t vector[VIRTIO_QUEUES_MAX];
	uint64_t notifiers_at; /* address of queue 0's, PCI_UNMAPPED: kicks come as writes */
	uint8_t cfg_access;    /* offset of the access capability */
	pthread_mutex_t isr_lock;
	uint8_t isr;
};

/* ---- interrupts; thread: any ---- */

static void raise_interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&p->fn)) {
		pci_msix_notify(&p->fn, vector);
		return;
	}
	pthread_mutex_lock(&p->isr_lock);
	p->isr |= isr;
	pci_intx_set(&p->fn, true);
	pthread_mutex_unlock(&p->isr_lock);
}

static void queue_interrupt(void *ctx, unsigned q)
{
	struct virtio_pci *p = ctx;

	raise_interrupt(p, atomic_load(&p->vector[q]), ISR_QUEUE);
}

static void config_interrupt(void *ctx)
{
	struct virtio_pci *p = ctx;

	raise_interrupt(p, atomic_load(&p->config_vector), ISR_CONFIG);
}

static uint8_t take_isr(struct virtio_pci *p)
{
	uint8_t isr;

	pthread_mutex_lock(&p->isr_lock);
	isr = p->isr;
	p->isr = 0;
	pci_intx_set(&p->fn, false);
	pthread_mutex_unlock(&p->isr_lock);
	return isr;
}

/* ---- the common structure (4.1.4.3) ---- */

static uint64_t read_queue_field(struct virtio_pci *p, const struct virtq *ring, uint64_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE: return ring->size;
	case VIRTIO_PCI_COMMON_Q_MSIX: return atomic_load(&p->vector[p->queue_select]);
	case VIRTIO_PCI_COMMON_Q_ENABLE: return ring->enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF: return p->queue_select;
	case VIRTIO_PCI_COMMON_Q_DESCLO: return (uint32_t)ring->descriptors;
	case VIRTIO_PCI_COMMON_Q_DESCHI: return ring->descriptors >> 32;
	case VIRTIO_PCI_COMMON_Q_AVAILLO: return (uint32_t)ring->driver;
	case VIRTIO_PCI_COMMON_Q_AVAILHI: return ring->driver >> 32;
	case VIRTIO_PCI_COMMON_Q_USEDLO: return (uint32_t)ring->device;
	case VIRTIO_PCI_COMMON_Q_USEDHI: return ring->device >> 32;
	case COMMON_QUEUE_NOTIFY_DATA: return p->queue_select;
	default: return 0; /* a reset is done when its write is */
	}
}

static uint64_t read_common(struct virtio_pci *p, uint64_t offset)
{
	const struct virtio_device *v = p->v;
	const struct virtq *ring = virtio_ring(p->v, p->queue_select);

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT: return p->offered_select;
	case VIRTIO_PCI_COMMON_DF: return virtio_offered_word(v, p->offered_select);
	case VIRTIO_PCI_COMMON_GFSELECT: return p->accepted_select;
	case VIRTIO_PCI_COMMON_GF: return virtio_accepted_word(v, p->accepted_select);
	case VIRTIO_PCI_COMMON_MSIX: return atomic_load(&p->config_vector);
	case VIRTIO_PCI_COMMON_NUMQ: return v->queue_count;
	case VIRTIO_PCI_COMMON_STATUS: return atomic_load(&v->status);
	case VIRTIO_PCI_COMMON_CFGGENERATION: return (uint8_t)atomic_load(&v->generation);
	case VIRTIO_PCI_COMMON_Q_SELECT: return p->queue_select;
	default: return ring ? read_queue_field(p, ring, offset) : 0;
	}
}

static uint16_t legal_vector(const struct virtio_pci *p, uint64_t value)
{
	return value < p->fn.msix_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static uint64_t with_low(uint64_t old, uint64_t value)
{
	return (old & ~(uint64_t)UINT32_MAX) | (uint32_t)value;
}

static uint64_t with_high(uint64_t old, uint64_t value)
{
	return (uint32_t)old | value << 32;
}

static void write_queue_field(struct virtio_pci *p, struct virtq *ring, uint64_t offset, uint64_t value)
{
	unsigned q = p->queue_select;

	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_MSIX: atomic_store(&p->vector[q], legal_vector(p, value)); return;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (value == 1)
			virtio_queue_enable(p->v, q);
		return;
	case COMMON_QUEUE_RESET:
		if (value == 1)
			virtio_queue_reset(p->v, q);
		return;
	}
	if (ring->enabled)
		return; /* settings of a live queue stay (4.1.4.3.2) */
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE: ring->size = (uint16_t)value; break;
	case VIRTIO_PCI_COMMON_Q_DESCLO: ring->descriptors = with_low(ring->descriptors, value); break;
	case VIRTIO_PCI_COMMON_Q_DESCHI: ring->descriptors = with_high(ring->descriptors, value); break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO: ring->driver = with_low(ring->driver, value); break;
	case VIRTIO_PCI_COMMON_Q_AVAILHI: ring->driver = with_high(ring->driver, value); break;
	case VIRTIO_PCI_COMMON_Q_USEDLO: ring->device = with_low(ring->device, value); break;
	case VIRTIO_PCI_COMMON_Q_USEDHI: ring->device = with_high(ring->device, value); break;
	}
}

static void write_status(struct virtio_pci *p, uint8_t status)
{
	virtio_set_status(p->v, status);
	if (status)
		return;
	take_isr(p);
	atomic_store(&p->config_vector, VIRTIO_NO_VECTOR);
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		atomic_store(&p->vector[q], VIRTIO_NO_VECTOR);
}

static void write_common(struct virtio_pci *p, uint64_t offset, uint64_t value)
{
	struct virtq *ring = virtio_ring(p->v, p->queue_select);

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT: p->offered_select = (uint32_t)value; break;
	case VIRTIO_PCI_COMMON_GFSELECT: p->accepted_select = (uint32_t)value; break;
	case VIRTIO_PCI_COMMON_GF: virtio_accept_word(p->v, p->accepted_select, (uint32_t)value); break;
	case VIRTIO_PCI_COMMON_MSIX: atomic_store(&p->config_vector, legal_vector(p, value)); break;
	case VIRTIO_PCI_COMMON_STATUS: write_status(p, (uint8_t)value); break;
	case VIRTIO_PCI_COMMON_Q_SELECT: p->queue_select = (uint16_t)value; break;
	default:
		if (ring)
			write_queue_field(p, ring, offset, value);
	}
}

/* ---- the BAR ---- */

static uint64_t registers_read(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);

	if (bar != BAR_REGISTERS)
		return UINT64_MAX;
	switch (offset & ~(uint64_t)(SECTION - 1)) {
	case AT_COMMON:
		if (size == 8) /* no driver may, but it has an obvious meaning */
			return (uint32_t)read_common(p, offset) | read_common(p, offset + 4) << 32;
		return read_common(p, offset);
	case AT_ISR: return offset == AT_ISR ? take_isr(p) : 0;
	case AT_CONFIG: return virtio_config_read(p->v, (unsigned)(offset - AT_CONFIG), size);
	default: return 0;
	}
}

static void registers_write(struct pci_function *fn, unsigned bar, uint64_t offset, uint64_t value, unsigned size)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);

	if (bar != BAR_REGISTERS)
		return;
	switch (offset & ~(uint64_t)(SECTION - 1)) {
	case AT_COMMON:
		write_common(p, offset, size == 8 ? (uint32_t)value : value);
		if (size == 8)
			write_common(p, offset + 4, value >> 32);
		break;
	case AT_CONFIG: virtio_config_write(p->v, (unsigned)(offset - AT_CONFIG), value, size); break;
	case AT_NOTIFY: virtio_kick(p->v, (unsigned)(offset - AT_NOTIFY) / NOTIFY_MULTIPLIER); break;
	default: break;
	}
}

/* Kicks past the vCPU's exit, where the accelerator can: all queues or, if one fails, none. */
static void set_notifiers(struct virtio_pci *p, uint64_t at, unsigned count, bool on)
{
	const struct pci_wiring *w = pci_bus_wiring(p->fn.bus);

	for (unsigned q = 0; q < count; q++) {
		if (w->notifier(w->ctx, false, at + q * NOTIFY_MULTIPLIER, p->v->queue[q].kick.fd, on) || !on)
			continue;
		set_notifiers(p, at, q, false);
		return;
	}
	p->notifiers_at = on ? at : PCI_UNMAPPED;
}

static void registers_moved(struct pci_function *fn, unsigned bar, uint64_t base)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);

	if (bar != BAR_REGISTERS || !pci_bus_wiring(fn->bus)->notifier)
		return;
	if (p->notifiers_at != PCI_UNMAPPED)
		set_notifiers(p, p->notifiers_at, p->v->queue_count, false);
	if (base != PCI_UNMAPPED)
		set_notifiers(p, base + AT_NOTIFY, p->v->queue_count, true);
}

/* ---- access through configuration space (4.1.4.9), for firmware without room for BARs ---- */

static bool access_window(const struct virtio_pci *p, unsigned offset, unsigned size, uint32_t *at, uint32_t *len)
{
	const uint8_t *cap = p->fn.config + p->cfg_access;
	unsigned data = p->cfg_access + sizeof(struct virtio_pci_cap);

	if (offset >= data + 4 || offset + size <= data)
		return false;
	*at = pci_get32(cap + offsetof(struct virtio_pci_cap, offset));
	*len = pci_get32(cap + offsetof(struct virtio_pci_cap, length));
	return cap[offsetof(struct virtio_pci_cap, bar)] == BAR_REGISTERS && (*len == 1 || *len == 2 || *len == 4) &&
	       *at % *len == 0 && *at < BAR_SIZE;
}

static void config_read(struct pci_function *fn, unsigned offset, unsigned size)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);
	uint32_t at, len, value;

	if (!access_window(p, offset, size, &at, &len))
		return;
	value = (uint32_t)registers_read(fn, BAR_REGISTERS, at, len);
	pthread_mutex_lock(&fn->lock);
	memcpy(fn->config + p->cfg_access + sizeof(struct virtio_pci_cap), &value, len);
	pthread_mutex_unlock(&fn->lock);
}

static void config_written(struct pci_function *fn, unsigned offset, unsigned size)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);
	uint32_t at, len, value = 0;

	if (!access_window(p, offset, size, &at, &len))
		return;
	memcpy(&value, fn->config + p->cfg_access + sizeof(struct virtio_pci_cap), len);
	registers_write(fn, BAR_REGISTERS, at, value, len);
}

/* ---- life ---- */

static void transport_reset(struct pci_function *fn)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);

	write_status(p, 0);
	p->offered_select = p->accepted_select = 0;
	p->queue_select = 0;
}

static void transport_destroy(struct pci_function *fn)
{
	struct virtio_pci *p = container_of(fn, struct virtio_pci, fn);

	virtio_device_stop_threads(p->v);
	virtio_reset(p->v);
	p->v->model->destroy(p->v);
	pci_function_fini(fn);
	pthread_mutex_destroy(&p->isr_lock);
	free(p);
}

static unsigned add_structure(struct virtio_pci *p, uint8_t type, uint32_t offset, uint32_t length, unsigned size)
{
	unsigned at = pci_add_capability(&p->fn, PCI_CAP_ID_VNDR, size);
	uint8_t *cap = p->fn.initial + at;

	cap[offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)size;
	cap[offsetof(struct virtio_pci_cap, cfg_type)] = type;
	cap[offsetof(struct virtio_pci_cap, bar)] = BAR_REGISTERS;
	pci_put32(cap + offsetof(struct virtio_pci_cap, offset), offset);
	pci_put32(cap + offsetof(struct virtio_pci_cap, length), length);
	return at;
}

static void add_structures(struct virtio_pci *p)
{
	const unsigned cap = sizeof(struct virtio_pci_cap);
	unsigned at;

	add_structure(p, VIRTIO_PCI_CAP_COMMON_CFG, AT_COMMON, COMMON_SIZE, cap);
	add_structure(p, VIRTIO_PCI_CAP_ISR_CFG, AT_ISR, 1, cap);
	if (p->v->config_size)
		add_structure(p, VIRTIO_PCI_CAP_DEVICE_CFG, AT_CONFIG, p->v->config_size, cap);
	at = add_structure(p, VIRTIO_PCI_CAP_NOTIFY_CFG, AT_NOTIFY, p->v->queue_count * NOTIFY_MULTIPLIER,
			   sizeof(struct virtio_pci_notify_cap));
	pci_put32(p->fn.initial + at + cap, NOTIFY_MULTIPLIER);
	at = add_structure(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, cap + 4);
	p->cfg_access = (uint8_t)at;
	p->fn.writable[at + offsetof(struct virtio_pci_cap, bar)] = 0xff;
	pci_put32(p->fn.writable + at + offsetof(struct virtio_pci_cap, offset), UINT32_MAX);
	pci_put32(p->fn.writable + at + offsetof(struct virtio_pci_cap, length), UINT32_MAX);
	pci_put32(p->fn.writable + at + cap, UINT32_MAX);
}

static const struct pci_ops transport_ops = {
	.name = "virtio-pci",
	.read = registers_read,
	.write = registers_write,
	.reset = transport_reset,
	.destroy = transport_destroy,
	.moved = registers_moved,
	.config_read = config_read,
	.config_written = config_written,
};

struct device *virtio_pci_create(struct pci_bus *bus, struct virtio_device *v)
{
	const struct pci_identity id = {
		VENDOR, (uint16_t)(DEVICE_BASE + v->model->id), VENDOR, SUBSYSTEM, v->model->class_code, 1
	};
	unsigned vectors = v->queue_count + 1;
	struct virtio_pci *p = calloc(1, sizeof(*p));
	int err = p ? pci_function_init(&p->fn, bus, PCI_SLOT_ANY, &transport_ops, &id) : -ENOMEM;

	if (err) {
		virtio_device_stop_threads(v);
		v->model->destroy(v);
		free(p);
		errno = -err;
		return NULL;
	}
	p->v = v;
	p->notifiers_at = PCI_UNMAPPED;
	pthread_mutex_init(&p->isr_lock, NULL);
	v->transport = (struct virtio_transport){ .queue_interrupt = queue_interrupt,
						  .config_interrupt = config_interrupt,
						  .ctx = p };
	pci_add_bar(&p->fn, BAR_REGISTERS, BAR_SIZE, 0);
	pci_add_intx(&p->fn);
	err = pci_add_msix(&p->fn, BAR_MSIX, vectors < PCI_MSIX_VECTORS_MAX ? vectors : PCI_MSIX_VECTORS_MAX);
	add_structures(p);
	if (err) {
		transport_destroy(&p->fn);
		errno = -err;
		return NULL;
	}
	return &p->fn.dev;
}
