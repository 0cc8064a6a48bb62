/* SPDX-License-Identifier: Apache-2.0 */
/* What core offers to the layers below: callbacks of the CPU model and of the interrupt chips. */
#include "core/vm.h"

/* ---- the CPU model's: the vCPU's own thread, inside its engine ---- */

static bool platform_mmio_read(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	struct irqchip *chip = vm_irqchip(vcpu_of(cpu)->vm);

	if (cpu->lapic && lapic_mmio_match(cpu, gpa))
		lapic_mmio_read(cpu, gpa.v & TZ_PAGE_MASK, data, len);
	else if (chip && irqchip_mmio_match(chip, gpa))
		irqchip_mmio_read(chip, gpa, data, len);
	else
		return false;
	return true;
}

static bool platform_mmio_write(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned len)
{
	struct irqchip *chip = vm_irqchip(vcpu_of(cpu)->vm);

	if (cpu->lapic && lapic_mmio_match(cpu, gpa))
		lapic_mmio_write(cpu, gpa.v & TZ_PAGE_MASK, data, len);
	else if (chip && irqchip_mmio_match(chip, gpa))
		irqchip_mmio_write(chip, gpa, data, len);
	else
		return ioeventfds_signal(&vcpu_of(cpu)->vm->ioeventfds, false, gpa.v, data, len);
	return true;
}

static bool platform_pio_read(struct x86_cpu *cpu, uint16_t port, void *data, unsigned len)
{
	struct irqchip *chip = vm_irqchip(vcpu_of(cpu)->vm);

	return chip && irqchip_pio_read(chip, port, data, len);
}

static bool platform_pio_write(struct x86_cpu *cpu, uint16_t port, const void *data, unsigned len)
{
	struct vm *vm = vcpu_of(cpu)->vm;
	struct irqchip *chip = vm_irqchip(vm);

	return (chip && irqchip_pio_write(chip, port, data, len)) ||
	       ioeventfds_signal(&vm->ioeventfds, true, port, data, len);
}

/* Without our chips the client's interrupt (KVM_INTERRUPT) is already in cpu->ev: nothing to ask for. */
static bool platform_irq_pending(struct x86_cpu *cpu)
{
	return cpu->lapic && lapic_irq_pending(cpu);
}

static int platform_irq_ack(struct x86_cpu *cpu)
{
	return cpu->lapic ? lapic_irq_ack(cpu) : -1;
}

static uint64_t platform_tsc_read(struct x86_cpu *cpu)
{
	return vcpu_tsc_now(vcpu_of(cpu));
}

/* The client's write (KVM_SET_MSRS). A guest's WRMSR moves IA32_TSC_ADJUST instead: the MSR table does that. */
static void platform_tsc_write(struct x86_cpu *cpu, uint64_t value)
{
	vcpu_tsc_restore(vcpu_of(cpu), value);
}

/* The client keeps the interrupt controller: a lower TPR may let an interrupt of its through. */
static void platform_cr8_changed(struct x86_cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (cpu->cr8 < vcpu->cr8_seen) {
		vcpu->tpr_lowered = true;
		x86_cpu_attention(cpu, X86_ATT_EXIT);
	}
	vcpu->cr8_seen = cpu->cr8;
}

/* The model knows all there are. */
static bool platform_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value, bool *fault)
{
	(void)cpu, (void)index, (void)value, (void)fault;
	return false;
}

static bool platform_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool *fault)
{
	(void)cpu, (void)index, (void)value, (void)fault;
	return false;
}

static void platform_exclusive_begin(struct x86_cpu *cpu)
{
	vcpu_exclusive_begin(vcpu_of(cpu));
}

static void platform_exclusive_end(struct x86_cpu *cpu)
{
	vcpu_exclusive_end(vcpu_of(cpu));
}

static void platform_spinning(struct x86_cpu *cpu)
{
	vcpu_spinning(vcpu_of(cpu));
}

const struct x86_platform_ops vcpu_platform_ops = {
	.mmio_read = platform_mmio_read,
	.mmio_write = platform_mmio_write,
	.pio_read = platform_pio_read,
	.pio_write = platform_pio_write,
	.irq_pending = platform_irq_pending,
	.irq_ack = platform_irq_ack,
	.tsc_read = platform_tsc_read,
	.tsc_write = platform_tsc_write,
	.tsc_changed = platform_tsc_changed,
	.pv_time = platform_pv_time,
	.pv_wall = platform_pv_wall,
	.pv_pair = platform_pv_pair,
	.cr8_changed = platform_cr8_changed,
	.msr_read = platform_msr_read,
	.msr_write = platform_msr_write,
	.exclusive_begin = platform_exclusive_begin,
	.exclusive_end = platform_exclusive_end,
	.spinning = platform_spinning,
};

/* ---- the chips': any thread, chip locks held ---- */

static void chip_kick(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx;
	vcpu_kick(vcpu_of(cpu), X86_ATT_IRQ);
}

static void chip_nmi(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx;
	vcpu_queue_nmi(vcpu_of(cpu));
}

/* There is no SMM (KVM_CAP_X86_SMM is not reported): SMIs go nowhere, as in a KVM built without it. */
static void chip_smi(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx, (void)cpu;
}

static void chip_init(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx;
	vcpu_queue_init(vcpu_of(cpu));
}

static void chip_sipi(void *ctx, struct x86_cpu *cpu, uint8_t vector)
{
	(void)ctx;
	vcpu_queue_sipi(vcpu_of(cpu), vector);
}

static uint64_t chip_now_ns(void *ctx)
{
	struct vm *vm = ctx;

	return vm_clock_ns(&vm->clock);
}

static uint64_t chip_tsc_now(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx;
	return vcpu_tsc_now(vcpu_of(cpu));
}

static uint64_t chip_tsc_hz(void *ctx, struct x86_cpu *cpu)
{
	(void)ctx;
	return atomic_load(&vcpu_of(cpu)->tsc.khz) * UINT64_C(1000);
}

static void chip_timer_arm(void *ctx, unsigned timer, uint64_t deadline_ns)
{
	struct vm *vm = ctx;
	uint64_t when = deadline_ns + vm->clock.base_ns;
	struct vcpu *vcpu;

	/* A deadline beyond the end of time never comes. */
	if (!timers_arm(&vm->timers, timer, deadline_ns && when >= deadline_ns ? when : UINT64_MAX))
		return;
	/* A vCPU in HLT has borrowed its LAPIC's timer, and sleeps until another time. */
	vcpu = atomic_load(&vm->vcpu[timer - IRQCHIP_TIMER_LAPIC(0)]);
	if (vcpu)
		vcpu_wake(vcpu);
}

static void chip_eoi(void *ctx, unsigned gsi)
{
	irqfds_acked(ctx, gsi);
}

const struct irqchip_ops vm_irqchip_ops = {
	.kick = chip_kick,
	.nmi = chip_nmi,
	.smi = chip_smi,
	.init = chip_init,
	.sipi = chip_sipi,
	.now_ns = chip_now_ns,
	.tsc_now = chip_tsc_now,
	.tsc_hz = chip_tsc_hz,
	.timer_arm = chip_timer_arm,
	.eoi = chip_eoi,
};
