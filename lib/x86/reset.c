/* SPDX-License-Identifier: Apache-2.0 */
/* Power-up, INIT and start-up IPI (SDM 3A 9.1, table 9-1; 8.4.4). */
#include "x86/apic/irqchip.h"
#include "x86/control.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/msr.h"
#include "x86/segment.h"
#include "x86/tlb.h"

#define AR_DATA 0x93u /* present, writable, accessed */
#define AR_CODE 0x9bu
#define AR_LDT 0x82u
#define AR_TSS_BUSY 0x8bu
#define RESET_RIP UINT64_C(0xfff0)
#define RESET_CS_SEL 0xf000
#define RESET_CS_BASE UINT64_C(0xffff0000)

static struct x86_seg real_seg(uint16_t sel, uint64_t base, uint32_t ar)
{
	return (struct x86_seg){ .sel = sel, .ar = ar, .limit = 0xffff, .base = base };
}

/* EDX tells family, model and stepping (SDM 3A 9.1.2). */
static uint32_t signature(const struct x86_cpu *cpu)
{
	for (unsigned i = 0; i < cpu->cpuid.count; i++)
		if (cpu->cpuid.entry[i].leaf == 1)
			return cpu->cpuid.entry[i].eax;
	return 0x600;
}

static void reset_segments(struct x86_cpu *cpu)
{
	for (unsigned i = X86_ES; i <= X86_GS; i++)
		cpu->seg[i] = real_seg(0, 0, AR_DATA);
	cpu->seg[X86_CS] = real_seg(RESET_CS_SEL, RESET_CS_BASE, AR_CODE);
	cpu->seg[X86_LDTR] = real_seg(0, 0, AR_LDT);
	cpu->seg[X86_TR] = real_seg(0, 0, AR_TSS_BUSY);
	cpu->gdtr = (struct x86_dtable){ .base = 0, .limit = 0xffff };
	cpu->idtr = (struct x86_dtable){ .base = 0, .limit = 0xffff };
}

static void reset_events(struct x86_cpu *cpu)
{
	struct x86_events *ev = &cpu->ev;

	ev->exc_pending = ev->exc_has_error = ev->irq_injected = ev->irq_soft = false;
	ev->nmi_injected = ev->nmi_masked = ev->smi_pending = false;
	ev->shadow = 0;
	ev->db_pending = 0;
	atomic_store(&ev->nmi_pending, 0);
	cpu->io.pending_valid = false;
	cpu->io.logged = cpu->io.cursor = 0;
}

void x86_reset(struct x86_cpu *cpu, bool init)
{
	uint64_t kept_cache_bits = init ? cpu->cr0 & (X86_CR0_CD | X86_CR0_NW) : X86_CR0_CD | X86_CR0_NW;

	x86_fpu_put(cpu);
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0;
	cpu->gpr[X86_RDX] = signature(cpu);
	cpu->rip = RESET_RIP;
	cpu->rflags = X86_FIXED1;
	reset_segments(cpu);
	cpu->cr0 = X86_CR0_ET | kept_cache_bits;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->cr8 = 0;
	cpu->efer = 0;
	for (unsigned i = 0; i < 8; i++)
		cpu->dr[i] = 0;
	cpu->dr[6] = X86_DR6_FIXED1;
	cpu->dr[7] = X86_DR7_FIXED1;
	reset_events(cpu);
	if (!init) {
		/* INIT leaves these as they are. */
		cpu->xcr0 = 1;
		cpu->pkru = 0;
		x86_msr_reset(cpu);
		x86_fpu_reset(cpu);
	}
	x86_pv_reset(cpu, init);
	if (cpu->lapic)
		lapic_reset(cpu, init);
	if (cpu->tlb)
		x86_tlb_flush_all(cpu);
	x86_mode_update(cpu);
	x86_debug_changed(cpu);
	x86_cpu_attention(cpu, X86_ATT_IRQ);
}

void x86_sipi(struct x86_cpu *cpu, uint8_t vector)
{
	cpu->seg[X86_CS] = real_seg((uint16_t)(vector << 8), (uint64_t)vector << 12, AR_CODE);
	cpu->rip = 0;
	x86_mode_update(cpu);
}
