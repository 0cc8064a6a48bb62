/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int vm_create(const struct tz_engine_ops *engine, struct vm **out)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int err;

	if (!vm)
		return -ENOMEM;
	err = mem_init(&vm->mem);
	if (err) {
		free(vm);
		return err;
	}
	vm->engine = engine;
	vm->tsc_khz = clock_host_khz();
	atomic_init(&vm->refs, 1);
	pthread_mutex_init(&vm->lock, NULL);
	vm_sync_init(vm);
	vm_clock_init(&vm->clock);
	pv_clock_init(&vm->pv_clock, vm->clock.base_ns);
	ioeventfds_init(&vm->ioeventfds);
	irqfds_init(vm);
	*out = vm;
	return 0;
}

/* No handle and no request is left, so no vCPU runs. */
static void vm_destroy(struct vm *vm)
{
	struct irqchip *chip = vm_irqchip(vm);

	irqfds_fini(vm);
	timers_stop(&vm->timers);
	for (unsigned i = 0; i < atomic_load(&vm->vcpu_limit); i++) {
		struct vcpu *vcpu = atomic_load(&vm->vcpu[i]);

		if (vcpu)
			vcpu_destroy(vcpu);
	}
	if (chip)
		irqchip_destroy(chip);
	timers_fini(&vm->timers);
	ioeventfds_fini(&vm->ioeventfds);
	mem_fini(&vm->mem);
	pv_clock_fini(&vm->pv_clock);
	vm_clock_fini(&vm->clock);
	vm_sync_fini(vm);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

void vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->refs, 1);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1)
		vm_destroy(vm);
}

struct irqchip *vm_irqchip(struct vm *vm)
{
	return atomic_load_explicit(&vm->irqchip, memory_order_acquire);
}

int vm_set_memory_slot(struct vm *vm, uint32_t id, uint32_t flags, gpa_t base, uint64_t size, uint8_t *hva)
{
	struct mem_map *old = NULL;
	int err;

	pthread_mutex_lock(&vm->mem.lock);
	err = mem_set_slot(&vm->mem, id, flags, base, size, hva, &old);
	if (!err && old) {
		vm_sync_vcpus(vm);
		mem_map_destroy(old);
	}
	pthread_mutex_unlock(&vm->mem.lock);
	return err;
}

static const struct mem_slot *find_slot(const struct mem_map *map, uint32_t id)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->slot[i].id == id)
			return &map->slot[i];
	return NULL;
}

int vm_get_dirty_log(struct vm *vm, uint32_t id, uint64_t *bitmap)
{
	const struct mem_slot *slot;
	int err = -ENOENT;

	pthread_mutex_lock(&vm->mem.lock);
	slot = find_slot(atomic_load(&vm->mem.map), id);
	if (slot && slot->dirty) {
		uint64_t words = (slot->size / TZ_PAGE_SIZE + 63) / 64;

		/* Writers set a page's bit each time they touch it, so a cleared one needs no TLB flush. */
		for (uint64_t i = 0; i < words; i++)
			bitmap[i] = atomic_load(&slot->dirty[i]) ? atomic_exchange(&slot->dirty[i], 0) : 0;
		err = 0;
	}
	pthread_mutex_unlock(&vm->mem.lock);
	return err;
}

static void timer_expired(void *ctx, unsigned timer)
{
	struct vm *vm = ctx;

	irqchip_timer_expired(vm_irqchip(vm), timer);
}

/* Called with vm->lock held. */
static int create_irqchip(struct vm *vm)
{
	struct irqchip *chip;
	int err;

	if (vm_irqchip(vm))
		return -EEXIST;
	if (vm->vcpu_count)
		return -EINVAL;
	err = timers_start(&vm->timers, IRQCHIP_TIMER_LAPIC(VM_MAX_VCPUS), timer_expired, vm);
	if (err)
		return err;
	chip = irqchip_create(&vm_irqchip_ops, vm);
	if (!chip) {
		timers_fini(&vm->timers);
		return -ENOMEM;
	}
	atomic_store_explicit(&vm->irqchip, chip, memory_order_release);
	return 0;
}

int vm_create_irqchip(struct vm *vm)
{
	int err;

	pthread_mutex_lock(&vm->lock);
	err = create_irqchip(vm);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_create_pit(struct vm *vm, bool speaker_port)
{
	struct irqchip *chip = vm_irqchip(vm);
	int err = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->pit)
		err = -EEXIST;
	else if (!chip)
		err = -ENOENT;
	if (!err) {
		irqchip_pit_enable(chip, speaker_port);
		vm->pit = true;
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_create_vcpu(struct vm *vm, unsigned id, struct vcpu **vcpu, int *fd)
{
	int err;

	if (id >= VM_MAX_VCPUS)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	err = atomic_load(&vm->vcpu[id]) ? -EEXIST : vcpu_create(vm, id, vcpu, fd);
	if (!err) {
		vm->vcpu_count++;
		atomic_store(&vm->vcpu[id], *vcpu);
		if (id >= atomic_load(&vm->vcpu_limit))
			atomic_store(&vm->vcpu_limit, id + 1);
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}
