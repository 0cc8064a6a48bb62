/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/ticker.h"
#include "core/vm.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/io.h"
#include "x86/segment.h"
#include "x86/tlb.h"

static int map_run_area(struct vcpu *vcpu, int *fd)
{
	void *run;
	int err;

	*fd = memfd_create("trapeze-vcpu", MFD_CLOEXEC);
	if (*fd < 0)
		return -errno;
	run = MAP_FAILED;
	if (!ftruncate(*fd, VCPU_RUN_SIZE))
		run = mmap(NULL, VCPU_RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (run == MAP_FAILED) {
		err = -errno;
		close(*fd);
		*fd = -1;
		return err;
	}
	vcpu->run = run;
	return 0;
}

/*
 * Until the client says otherwise (KVM_SET_CPUID2) the guest has all that is supported: small clients that never
 * set CPUID find a processor that can do long mode and SSE, as they do on hardware.
 */
static void set_default_cpuid(struct x86_cpu *cpu)
{
	cpu->cpuid.count = x86_cpuid_supported(cpu->cpuid.entry, X86_CPUID_MAX);
	if (cpu->cpuid.count > X86_CPUID_MAX)
		cpu->cpuid.count = X86_CPUID_MAX;
	x86_cpuid_changed(cpu);
}

/* What vcpu_destroy() can undo must be in place step by step. */
static int create_parts(struct vcpu *vcpu, int *fd)
{
	struct vm *vm = vcpu->vm;
	struct x86_cpu *cpu = &vcpu->cpu;
	struct irqchip *chip = vm_irqchip(vm);
	int err;

	vcpu->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vcpu->wake_fd < 0)
		return -errno;
	err = map_run_area(vcpu, fd);
	if (!err)
		err = x86_tlb_create(cpu);
	if (!err && chip)
		err = lapic_create(chip, cpu);
	if (err)
		return err;
	set_default_cpuid(cpu);
	x86_reset(cpu, false);
	err = vm->engine->vcpu_create(cpu);
	if (err)
		return err;
	vcpu->engine_ready = true;
	return ticker_attach(vcpu);
}

static void destroy_parts(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (vcpu->engine_ready)
		vcpu->vm->engine->vcpu_destroy(cpu);
	if (cpu->lapic)
		lapic_destroy(cpu);
	if (cpu->tlb)
		x86_tlb_destroy(cpu);
	if (vcpu->run)
		munmap(vcpu->run, VCPU_RUN_SIZE);
	if (vcpu->wake_fd >= 0)
		close(vcpu->wake_fd);
	signals_fini(&vcpu->signals);
	vcpu_pv_fini(&vcpu->pv);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

int vcpu_create(struct vm *vm, unsigned id, struct vcpu **out, int *fd)
{
	size_t size = (sizeof(struct vcpu) + 63) & ~(size_t)63;
	struct vcpu *vcpu = aligned_alloc(64, size);
	int err;

	*fd = -1;
	if (!vcpu)
		return -ENOMEM;
	memset(vcpu, 0, size);
	pthread_mutex_init(&vcpu->lock, NULL);
	signals_init(&vcpu->signals);
	vcpu_pv_init(&vcpu->pv);
	vcpu->vm = vm;
	vcpu->wake_fd = -1;
	vcpu->cpu.id = id;
	vcpu->cpu.bsp = id == vm->boot_id;
	vcpu->cpu.mem = &vm->mem;
	vcpu->cpu.ops = &vcpu_platform_ops;
	vcpu->cpu.owner = vcpu;
	vcpu->cpu.code_cache_size = vm->code_cache_size;
	vcpu->cpu.count_insns = vm->count_insns;
	vcpu->cpu.stat = vcpu->stat;
	vcpu_tsc_init(&vcpu->tsc, &vm->clock, vm->tsc_khz);
	vcpu->cpu.host_tsc = clock_host_is_tsc() ? &vcpu->tsc.host : NULL;
	/* Without a LAPIC of ours start-up of further vCPUs is the client's business. */
	vcpu->mp_state = vcpu->cpu.bsp || !vm_irqchip(vm) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	err = create_parts(vcpu, fd);
	if (err) {
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		destroy_parts(vcpu);
		return err;
	}
	vcpu->run->apic_base = vcpu->cpu.msr.apic_base;
	*out = vcpu;
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	ticker_detach(vcpu);
	destroy_parts(vcpu);
}

void vcpu_wake(struct vcpu *vcpu)
{
	static const uint64_t one = 1;

	/* The write only fails when the counter is full, and then the sleeper is awake anyway. */
	if (atomic_load(&vcpu->blocked) && write(vcpu->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void vcpu_kick(struct vcpu *vcpu, uint32_t attention)
{
	x86_cpu_attention(&vcpu->cpu, attention);
	vcpu_wake(vcpu);
}

void vcpu_queue_nmi(struct vcpu *vcpu)
{
	uint8_t n = atomic_load(&vcpu->cpu.ev.nmi_pending);

	/* Two at most: one is latched while another is in service (SDM 3A 6.7.1). */
	while (n < 2 && !atomic_compare_exchange_weak(&vcpu->cpu.ev.nmi_pending, &n, (uint8_t)(n + 1)))
		;
	vcpu_kick(vcpu, X86_ATT_NMI);
}

void vcpu_queue_init(struct vcpu *vcpu)
{
	atomic_store(&vcpu->requests, VCPU_REQ_INIT); /* and forget a SIPI from before */
	vcpu_kick(vcpu, X86_ATT_EXIT);
}

void vcpu_queue_sipi(struct vcpu *vcpu, uint8_t vector)
{
	atomic_store(&vcpu->sipi_vector, vector);
	atomic_fetch_or(&vcpu->requests, VCPU_REQ_SIPI);
	vcpu_kick(vcpu, X86_ATT_EXIT);
}

void vcpu_accept_events(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	uint32_t requests;

	if (!atomic_load_explicit(&vcpu->requests, memory_order_relaxed))
		return;
	requests = atomic_exchange(&vcpu->requests, 0);
	if (requests & VCPU_REQ_INIT) {
		x86_reset(cpu, true);
		vcpu_registers_changed(vcpu);
		vcpu->mp_state = cpu->bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
	}
	/* A SIPI means nothing to a processor that does not wait for one (SDM 3A 8.4.1). */
	if ((requests & VCPU_REQ_SIPI) && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		x86_sipi(cpu, atomic_load(&vcpu->sipi_vector));
		vcpu_registers_changed(vcpu);
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
	}
}

void vcpu_registers_changed(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (cpu->io.rip != cpu->rip) {
		x86_io_finish(cpu);
		cpu->io.pending_valid = false;
	}
	x86_mode_update(cpu);
	/* IF, TF or the pending events may have changed: have them looked at before the next instruction. */
	x86_cpu_attention(cpu, X86_ATT_IRQ | X86_ATT_NMI | X86_ATT_TRAP);
}

static uint64_t tsc_adjust(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->cpu.msr.tsc_adjust, __ATOMIC_RELAXED);
}

uint64_t vcpu_tsc_at_cycles(const struct vcpu *vcpu, uint64_t host_cycles)
{
	return vcpu_tsc_at(&vcpu->tsc, host_cycles) + tsc_adjust(vcpu);
}

uint64_t vcpu_tsc_offset(const struct vcpu *vcpu)
{
	return atomic_load(&vcpu->tsc.host.offset) + tsc_adjust(vcpu);
}

uint64_t vcpu_tsc_now(struct vcpu *vcpu)
{
	return vcpu_tsc_at_cycles(vcpu, clock_host_cycles());
}

static void tsc_changed(struct vcpu *vcpu)
{
	if (vcpu->cpu.lapic)
		lapic_tsc_changed(&vcpu->cpu);
	vcpu_pv_tsc_changed(vcpu);
}

void vcpu_tsc_restore(struct vcpu *vcpu, uint64_t value)
{
	vcpu_tsc_write(&vcpu->tsc, &vcpu->vm->clock, value - vcpu->cpu.msr.tsc_adjust);
	tsc_changed(vcpu);
}

void vcpu_tsc_adjust_restore(struct vcpu *vcpu, uint64_t value)
{
	uint64_t moved = value - vcpu->cpu.msr.tsc_adjust;

	__atomic_store_n(&vcpu->cpu.msr.tsc_adjust, value, __ATOMIC_RELAXED);
	atomic_fetch_sub(&vcpu->tsc.host.offset, moved);
}

void vcpu_tsc_khz_set(struct vcpu *vcpu, uint32_t khz)
{
	vcpu_tsc_set_khz(&vcpu->tsc, khz);
	tsc_changed(vcpu);
}
