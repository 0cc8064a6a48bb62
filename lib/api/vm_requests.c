/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of a VM handle. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "api/handle.h"

static int create_vcpu(const struct call *c)
{
	struct vcpu *vcpu;
	int fd, err;

	if (c->arg >= VM_MAX_VCPUS)
		return -EINVAL;
	err = vm_create_vcpu(c->vm, (unsigned)c->arg, &vcpu, &fd);
	if (err)
		return err;
	vm_get(c->vm);
	err = handle_install(fd, HANDLE_VCPU, NULL, c->vm, vcpu);
	if (err) {
		close(fd);
		vm_put(c->vm);
		return err;
	}
	return fd;
}

/* ---- memory ---- */

static int set_user_memory_region(const struct call *c)
{
	const struct kvm_userspace_memory_region *r = c->ptr;

	/* The upper half numbers address spaces; there is one. */
	if (r->slot >> 16 || (r->slot & 0xffff) >= MEM_SLOTS_MAX)
		return -EINVAL;
	if (r->userspace_addr & TZ_PAGE_MASK || r->userspace_addr + r->memory_size < r->userspace_addr)
		return -EINVAL;
	/* The upper half is the host kernel's: whatever is there, it is no memory of the client. */
	if ((r->userspace_addr + r->memory_size) >> 63)
		return -EINVAL;
	return vm_set_memory_slot(c->vm, r->slot, r->flags, GPA(r->guest_phys_addr), r->memory_size,
				  (uint8_t *)(uintptr_t)r->userspace_addr);
}

static int get_dirty_log(const struct call *c)
{
	const struct kvm_dirty_log *log = c->ptr;

	if (!log->dirty_bitmap)
		return -EFAULT;
	return vm_get_dirty_log(c->vm, log->slot, log->dirty_bitmap);
}

/* Three pages that Intel's real-mode emulation wants (KVM API 4.35); an engine in software needs none. */
static int set_tss_addr(const struct call *c)
{
	if (c->arg > UINT32_MAX - 3 * TZ_PAGE_SIZE + 1)
		return -EINVAL;
	pthread_mutex_lock(&c->vm->lock);
	c->vm->tss_addr = c->arg;
	pthread_mutex_unlock(&c->vm->lock);
	return 0;
}

static int set_identity_map_addr(const struct call *c)
{
	int err = 0;

	pthread_mutex_lock(&c->vm->lock);
	if (c->vm->vcpu_count)
		err = -EINVAL;
	else
		memcpy(&c->vm->identity_map_addr, c->ptr, sizeof(c->vm->identity_map_addr));
	pthread_mutex_unlock(&c->vm->lock);
	return err;
}

/* ---- interrupts ---- */

static int create_irqchip(const struct call *c)
{
	return vm_create_irqchip(c->vm);
}

static int create_pit2(const struct call *c)
{
	const struct kvm_pit_config *config = c->ptr;

	return vm_create_pit(c->vm, (config->flags & KVM_PIT_SPEAKER_DUMMY) != 0);
}

static int get_irqchip(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);
	struct kvm_irqchip *out = c->ptr;

	if (!chip)
		return -ENXIO;
	switch (out->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		irqchip_get_pic(chip, out->chip_id == KVM_IRQCHIP_PIC_SLAVE, &out->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC: irqchip_get_ioapic(chip, &out->chip.ioapic); return 0;
	default: return -EINVAL;
	}
}

static int set_irqchip(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);
	const struct kvm_irqchip *in = c->ptr;

	if (!chip)
		return -ENXIO;
	switch (in->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE: return irqchip_set_pic(chip, in->chip_id == KVM_IRQCHIP_PIC_SLAVE, &in->chip.pic);
	case KVM_IRQCHIP_IOAPIC: return irqchip_set_ioapic(chip, &in->chip.ioapic);
	default: return -EINVAL;
	}
}

static bool has_pit(struct vm *vm)
{
	bool pit;

	pthread_mutex_lock(&vm->lock);
	pit = vm->pit;
	pthread_mutex_unlock(&vm->lock);
	return pit;
}

static int get_pit2(const struct call *c)
{
	if (!has_pit(c->vm))
		return -ENXIO;
	irqchip_get_pit(vm_irqchip(c->vm), c->ptr);
	return 0;
}

static int set_pit2(const struct call *c)
{
	return has_pit(c->vm) ? irqchip_set_pit(vm_irqchip(c->vm), c->ptr) : -ENXIO;
}

/* False: it leads nowhere. */
static bool set_line(struct irqchip *chip, const struct kvm_irq_level *line)
{
	return irqchip_set_line(chip, line->irq, line->level != 0);
}

/* A GSI without a route is no error: the interrupt goes nowhere, which KVM_IRQ_LINE_STATUS tells. */
static int irq_line(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);

	if (!chip)
		return -ENXIO;
	set_line(chip, c->ptr);
	return 0;
}

/*
 * The same, and -1 for "no route" or 1 for "delivered" in place of the GSI. Coalesced interrupts (0) are not told
 * apart, so KVM_CAP_IRQ_INJECT_STATUS is not reported.
 */
static int irq_line_status(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);
	struct kvm_irq_level *line = c->ptr;

	if (!chip)
		return -ENXIO;
	line->status = set_line(chip, line) ? 1 : -1;
	return 0;
}

static int route_from_client(struct irqchip_route *out, const struct kvm_irq_routing_entry *in)
{
	*out = (struct irqchip_route){ .gsi = in->gsi };
	if (in->flags)
		return -EINVAL;
	if (in->type == KVM_IRQ_ROUTING_MSI) {
		out->kind = IRQCHIP_ROUTE_MSI;
		out->address = (uint64_t)in->u.msi.address_hi << 32 | in->u.msi.address_lo;
		out->data = in->u.msi.data;
		return 0;
	}
	if (in->type != KVM_IRQ_ROUTING_IRQCHIP)
		return -EINVAL;
	out->pin = in->u.irqchip.pin;
	switch (in->u.irqchip.irqchip) {
	case KVM_IRQCHIP_IOAPIC: out->kind = IRQCHIP_ROUTE_IOAPIC; return 0;
	case KVM_IRQCHIP_PIC_MASTER: break;
	case KVM_IRQCHIP_PIC_SLAVE: out->pin += 8; break;
	default: return -EINVAL;
	}
	out->kind = IRQCHIP_ROUTE_PIC;
	return in->u.irqchip.pin < 8 ? 0 : -EINVAL;
}

static int set_gsi_routing(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);
	const struct kvm_irq_routing *table = c->ptr;
	struct irqchip_route *route;
	uint32_t count = table->nr;
	int err = 0;

	if (!chip || count > IRQCHIP_GSI_MAX || table->flags)
		return -EINVAL;
	route = calloc(count ? count : 1, sizeof(*route));
	if (!route)
		return -ENOMEM;
	for (uint32_t i = 0; i < count && !err; i++)
		err = route_from_client(&route[i], &table->entries[i]);
	if (!err)
		err = irqchip_set_routing(chip, route, count);
	free(route);
	return err;
}

static int serve_irqfd(const struct call *c)
{
	const struct kvm_irqfd *in = c->ptr;

	if (in->flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (in->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return irqfds_remove(c->vm, (int)in->fd, in->gsi);
	if (!vm_irqchip(c->vm))
		return in->flags & KVM_IRQFD_FLAG_RESAMPLE ? -EINVAL : -EAGAIN;
	if (!(in->flags & KVM_IRQFD_FLAG_RESAMPLE))
		return irqfds_add(c->vm, (int)in->fd, in->gsi, -1);
	return (int)in->resamplefd < 0 ? -EBADF : irqfds_add(c->vm, (int)in->fd, in->gsi, (int)in->resamplefd);
}

static int serve_ioeventfd(const struct call *c)
{
	const struct kvm_ioeventfd *in = c->ptr;
	const struct ioeventfd row = {
		.pio = in->flags & KVM_IOEVENTFD_FLAG_PIO,
		.any_value = !(in->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
		.addr = in->addr,
		.len = in->len,
		.match = in->datamatch,
		.fd = in->fd,
	};
	const uint32_t known = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_DEASSIGN;

	if (in->flags & ~known || in->addr + in->len < in->addr)
		return -EINVAL;
	if (in->len > 8 || (in->len & (in->len - 1)) || (!in->len && !row.any_value))
		return -EINVAL;
	return in->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? ioeventfds_remove(&c->vm->ioeventfds, &row)
						       : ioeventfds_add(&c->vm->ioeventfds, &row);
}

static int signal_msi(const struct call *c)
{
	struct irqchip *chip = vm_irqchip(c->vm);
	const struct kvm_msi *msi = c->ptr;

	if (!chip || msi->flags)
		return -EINVAL;
	return irqchip_send_msi(chip, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data);
}

static int set_boot_cpu_id(const struct call *c)
{
	int err = 0;

	if (c->arg >= VM_MAX_VCPUS)
		return -EINVAL;
	pthread_mutex_lock(&c->vm->lock);
	if (c->vm->vcpu_count)
		err = -EBUSY;
	else
		c->vm->boot_id = (unsigned)c->arg;
	pthread_mutex_unlock(&c->vm->lock);
	return err;
}

/* ---- time ---- */

static uint64_t realtime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int get_clock(const struct call *c)
{
	struct kvm_clock_data *data = c->ptr;
	struct pv_line line = pv_clock_line(&c->vm->pv_clock);
	struct clock_sample now = clock_sample(CLOCK_REALTIME); /* all three at one moment */

	memset(data, 0, sizeof(*data));
	data->flags = KVM_CLOCK_REALTIME | (vm_tscs_equal(c->vm) ? KVM_CLOCK_TSC_STABLE : 0);
	data->realtime = now.ns;
	data->clock = pv_line_at(&line, now.cycles);
	if (clock_host_is_tsc()) {
		data->flags |= KVM_CLOCK_HOST_TSC;
		data->host_tsc = now.cycles;
	}
	return 0;
}

static int set_clock(const struct call *c)
{
	const struct kvm_clock_data *data = c->ptr;
	uint64_t clock = data->clock;

	if (data->flags & ~(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	if (data->flags & KVM_CLOCK_REALTIME) {
		uint64_t now = realtime_ns();

		/* Time that passed since the value was taken; a wall clock that went back adds none. */
		if (now > data->realtime)
			clock += now - data->realtime;
	}
	vm_pv_clock_set(c->vm, clock);
	return 0;
}

static int set_tsc_khz(const struct call *c)
{
	uint32_t khz = (uint32_t)c->arg;
	int err = 0;

	pthread_mutex_lock(&c->vm->lock);
	if (c->vm->vcpu_count || khz > INT32_MAX)
		err = -EINVAL;
	else
		c->vm->tsc_khz = khz ? khz : clock_host_khz();
	pthread_mutex_unlock(&c->vm->lock);
	return err;
}

static int get_tsc_khz(const struct call *c)
{
	int khz;

	pthread_mutex_lock(&c->vm->lock);
	khz = (int)c->vm->tsc_khz;
	pthread_mutex_unlock(&c->vm->lock);
	return khz;
}

static const struct request rows[] = {
	REQUEST(KVM_IRQ_LINE, ARG_PTR, irq_line),
	REQUEST(KVM_IRQ_LINE_STATUS, ARG_PTR, irq_line_status),
	REQUEST(KVM_SIGNAL_MSI, ARG_PTR, signal_msi),
	REQUEST(KVM_SET_GSI_ROUTING, ARG_PTR, set_gsi_routing),
	REQUEST(KVM_IRQFD, ARG_PTR, serve_irqfd),
	REQUEST(KVM_IOEVENTFD, ARG_PTR, serve_ioeventfd),
	REQUEST(KVM_CHECK_EXTENSION, ARG_VALUE, check_extension),
	REQUEST(KVM_ENABLE_CAP, ARG_PTR, enable_cap),
	REQUEST(KVM_CREATE_VCPU, ARG_VALUE, create_vcpu),
	REQUEST(KVM_SET_USER_MEMORY_REGION, ARG_PTR, set_user_memory_region),
	REQUEST(KVM_GET_DIRTY_LOG, ARG_PTR, get_dirty_log),
	REQUEST(KVM_SET_TSS_ADDR, ARG_VALUE, set_tss_addr),
	REQUEST(KVM_SET_IDENTITY_MAP_ADDR, ARG_PTR, set_identity_map_addr),
	REQUEST(KVM_CREATE_IRQCHIP, ARG_NONE, create_irqchip),
	REQUEST(KVM_CREATE_PIT2, ARG_PTR, create_pit2),
	REQUEST(KVM_GET_IRQCHIP, ARG_PTR, get_irqchip),
	REQUEST(KVM_SET_IRQCHIP, ARG_PTR, set_irqchip),
	REQUEST(KVM_GET_PIT2, ARG_PTR, get_pit2),
	REQUEST(KVM_SET_PIT2, ARG_PTR, set_pit2),
	REQUEST(KVM_SET_BOOT_CPU_ID, ARG_VALUE, set_boot_cpu_id),
	REQUEST(KVM_GET_CLOCK, ARG_PTR, get_clock),
	REQUEST(KVM_SET_CLOCK, ARG_PTR, set_clock),
	REQUEST(KVM_SET_TSC_KHZ, ARG_VALUE, set_tsc_khz),
	REQUEST(KVM_GET_TSC_KHZ, ARG_VALUE, get_tsc_khz),
};

const struct request_table vm_requests = { rows, ARRAY_SIZE(rows) };
