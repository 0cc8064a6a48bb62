/* SPDX-License-Identifier: Apache-2.0 */
/* Registers, segments, pending events, debug registers. Vector state: vcpu_state_fpu.c. */
#include "api/vcpu_state.h"

#include <errno.h>
#include <string.h>

#include "x86/control.h"

/* ---- KVM_GET/SET_REGS ---- */

void state_get_regs(struct vcpu *vcpu, struct kvm_regs *out)
{
	const struct x86_cpu *cpu = &vcpu->cpu;

	*out = (struct kvm_regs){
		.rax = cpu->gpr[X86_RAX],
		.rbx = cpu->gpr[X86_RBX],
		.rcx = cpu->gpr[X86_RCX],
		.rdx = cpu->gpr[X86_RDX],
		.rsi = cpu->gpr[X86_RSI],
		.rdi = cpu->gpr[X86_RDI],
		.rsp = cpu->gpr[X86_RSP],
		.rbp = cpu->gpr[X86_RBP],
		.r8 = cpu->gpr[X86_R8],
		.r9 = cpu->gpr[X86_R9],
		.r10 = cpu->gpr[X86_R10],
		.r11 = cpu->gpr[X86_R11],
		.r12 = cpu->gpr[X86_R12],
		.r13 = cpu->gpr[X86_R13],
		.r14 = cpu->gpr[X86_R14],
		.r15 = cpu->gpr[X86_R15],
		.rip = cpu->rip,
		.rflags = cpu->rflags,
	};
}

void state_set_regs(struct vcpu *vcpu, const struct kvm_regs *in)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	const uint64_t gpr[16] = {
		[X86_RAX] = in->rax, [X86_RBX] = in->rbx, [X86_RCX] = in->rcx, [X86_RDX] = in->rdx,
		[X86_RSI] = in->rsi, [X86_RDI] = in->rdi, [X86_RSP] = in->rsp, [X86_RBP] = in->rbp,
		[X86_R8] = in->r8,   [X86_R9] = in->r9,   [X86_R10] = in->r10, [X86_R11] = in->r11,
		[X86_R12] = in->r12, [X86_R13] = in->r13, [X86_R14] = in->r14, [X86_R15] = in->r15,
	};

	memcpy(cpu->gpr, gpr, sizeof(gpr));
	cpu->rip = in->rip;
	cpu->rflags = in->rflags | X86_FIXED1;
	/* An exception that was not delivered yet belongs to the old registers. */
	cpu->ev.exc_pending = false;
	vcpu_registers_changed(vcpu);
}

/* ---- KVM_GET/SET_SREGS ---- */

static void segment_to_client(const struct x86_seg *s, struct kvm_segment *out)
{
	*out = (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->ar & X86_AR_TYPE,
		.s = (s->ar & X86_AR_S) != 0,
		.dpl = X86_AR_DPL(s->ar),
		.present = (s->ar & X86_AR_P) != 0,
		.avl = (s->ar & X86_AR_AVL) != 0,
		.l = (s->ar & X86_AR_L) != 0,
		.db = (s->ar & X86_AR_DB) != 0,
		.g = (s->ar & X86_AR_G) != 0,
		.unusable = (s->ar & X86_AR_UNUSABLE) != 0,
	};
}

static struct x86_seg segment_from_client(const struct kvm_segment *in)
{
	uint32_t ar = (in->type & X86_AR_TYPE) | (uint32_t)(in->dpl & 3) << X86_AR_DPL_SHIFT;

	ar |= (in->s ? X86_AR_S : 0) | (in->present ? X86_AR_P : 0) | (in->avl ? X86_AR_AVL : 0);
	ar |= (in->l ? X86_AR_L : 0) | (in->db ? X86_AR_DB : 0) | (in->g ? X86_AR_G : 0);
	/* Clients of old leave `unusable` alone and clear `present`; the kernel takes both. */
	if (in->unusable || !in->present)
		ar |= X86_AR_UNUSABLE;
	return (struct x86_seg){ .sel = in->selector, .ar = ar, .limit = in->limit, .base = in->base };
}

/* The two layouts share their first part, up to apic_base. */
#define SREGS_COMMON_TO_CLIENT(s, out)                                                                                 \
	do {                                                                                                           \
		segment_to_client(&(s)->seg[X86_CS], &(out)->cs);                                                      \
		segment_to_client(&(s)->seg[X86_DS], &(out)->ds);                                                      \
		segment_to_client(&(s)->seg[X86_ES], &(out)->es);                                                      \
		segment_to_client(&(s)->seg[X86_FS], &(out)->fs);                                                      \
		segment_to_client(&(s)->seg[X86_GS], &(out)->gs);                                                      \
		segment_to_client(&(s)->seg[X86_SS], &(out)->ss);                                                      \
		segment_to_client(&(s)->seg[X86_TR], &(out)->tr);                                                      \
		segment_to_client(&(s)->seg[X86_LDTR], &(out)->ldt);                                                   \
		(out)->gdt = (struct kvm_dtable){ .base = (s)->gdtr.base, .limit = (s)->gdtr.limit };                  \
		(out)->idt = (struct kvm_dtable){ .base = (s)->idtr.base, .limit = (s)->idtr.limit };                  \
		(out)->cr0 = (s)->cr0;                                                                                 \
		(out)->cr2 = (s)->cr2;                                                                                 \
		(out)->cr3 = (s)->cr3;                                                                                 \
		(out)->cr4 = (s)->cr4;                                                                                 \
		(out)->cr8 = (s)->cr8;                                                                                 \
		(out)->efer = (s)->efer;                                                                               \
		(out)->apic_base = (s)->apic_base;                                                                     \
	} while (0)

#define SREGS_COMMON_FROM_CLIENT(in)                                                                                   \
	{                                                                                                              \
		.seg = { [X86_CS] = segment_from_client(&(in)->cs), [X86_DS] = segment_from_client(&(in)->ds),         \
			 [X86_ES] = segment_from_client(&(in)->es), [X86_FS] = segment_from_client(&(in)->fs),         \
			 [X86_GS] = segment_from_client(&(in)->gs), [X86_SS] = segment_from_client(&(in)->ss),         \
			 [X86_TR] = segment_from_client(&(in)->tr), [X86_LDTR] = segment_from_client(&(in)->ldt) },    \
		.gdtr = { .base = (in)->gdt.base, .limit = (in)->gdt.limit },                                          \
		.idtr = { .base = (in)->idt.base, .limit = (in)->idt.limit }, .cr0 = (in)->cr0, .cr2 = (in)->cr2,      \
		.cr3 = (in)->cr3, .cr4 = (in)->cr4, .cr8 = (in)->cr8, .efer = (in)->efer,                              \
		.apic_base = (in)->apic_base,                                                                          \
	}

/*
 * What follows new segments and control registers. A boot processor put at the reset vector runs again,
 * whatever it waited for: clients of before KVM_SET_MP_STATE reset a machine so.
 */
static void sregs_changed(struct vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	const struct x86_seg *cs = &cpu->seg[X86_CS];

	vcpu_registers_changed(vcpu);
	atomic_store(&vcpu->invalidate, true);
	if (cpu->bsp && cpu->rip == 0xfff0 && cs->sel == 0xf000 && cs->base == 0xffff0000 && !(cpu->cr0 & X86_CR0_PE))
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
}

void state_get_sregs(struct vcpu *vcpu, struct kvm_sregs *out)
{
	const struct x86_events *ev = &vcpu->cpu.ev;
	struct x86_sregs s;

	x86_get_sregs(&vcpu->cpu, &s);
	memset(out, 0, sizeof(*out));
	SREGS_COMMON_TO_CLIENT(&s, out);
	if (ev->irq_injected && !ev->irq_soft)
		out->interrupt_bitmap[ev->irq_vector / 64] |= BIT64(ev->irq_vector % 64);
}

static int first_interrupt(const struct kvm_sregs *in)
{
	for (unsigned i = 0; i < ARRAY_SIZE(in->interrupt_bitmap); i++)
		if (in->interrupt_bitmap[i])
			return (int)(i * 64) + __builtin_ctzll(in->interrupt_bitmap[i]);
	return -1;
}

int state_set_sregs(struct vcpu *vcpu, const struct kvm_sregs *in)
{
	const struct x86_sregs s = SREGS_COMMON_FROM_CLIENT(in);
	struct x86_events *ev = &vcpu->cpu.ev;
	int vector = first_interrupt(in);
	int err = x86_set_sregs(&vcpu->cpu, &s);

	if (err)
		return err;
	if (vector >= 0) {
		ev->irq_injected = true;
		ev->irq_soft = false;
		ev->irq_vector = (uint8_t)vector;
	}
	sregs_changed(vcpu);
	return 0;
}

static bool uses_pdptes(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LMA);
}

void state_get_sregs2(struct vcpu *vcpu, struct kvm_sregs2 *out)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct x86_sregs s;

	x86_get_sregs(cpu, &s);
	memset(out, 0, sizeof(*out));
	SREGS_COMMON_TO_CLIENT(&s, out);
	if (uses_pdptes(cpu->cr0, cpu->cr4, cpu->efer)) {
		memcpy(out->pdptrs, cpu->pdpte, sizeof(out->pdptrs));
		out->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
}

int state_set_sregs2(struct vcpu *vcpu, const struct kvm_sregs2 *in)
{
	const struct x86_sregs s = SREGS_COMMON_FROM_CLIENT(in);
	int err;

	if (in->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (in->flags && !uses_pdptes(in->cr0, in->cr4, in->efer))
		return -EINVAL;
	err = x86_set_sregs(&vcpu->cpu, &s);
	if (err)
		return err;
	if (in->flags)
		memcpy(vcpu->cpu.pdpte, in->pdptrs, sizeof(in->pdptrs));
	sregs_changed(vcpu);
	return 0;
}

/* ---- KVM_GET/SET_VCPU_EVENTS ---- */

static uint8_t shadow_to_client(uint8_t shadow)
{
	return (shadow & X86_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
	       (shadow & X86_SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
}

static uint8_t shadow_from_client(uint8_t shadow)
{
	return (shadow & KVM_X86_SHADOW_INT_STI ? X86_SHADOW_STI : 0) |
	       (shadow & KVM_X86_SHADOW_INT_MOV_SS ? X86_SHADOW_MOV_SS : 0);
}

void state_get_events(struct vcpu *vcpu, struct kvm_vcpu_events *out)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	const struct x86_events *ev = &cpu->ev;

	/* The layout has no place for the address of a pending page fault: CR2 carries it, as in the kernel. */
	if (ev->exc_pending && ev->exc_vector == X86_PF_EXC)
		cpu->cr2 = ev->exc_cr2;
	memset(out, 0, sizeof(*out));
	/* Without KVM_CAP_EXCEPTION_PAYLOAD one that is pending counts as injected. */
	out->exception.injected = ev->exc_pending;
	out->exception.nr = ev->exc_vector;
	out->exception.has_error_code = ev->exc_has_error;
	out->exception.error_code = ev->exc_error;
	out->interrupt.injected = ev->irq_injected && !ev->irq_soft;
	out->interrupt.nr = ev->irq_vector;
	out->interrupt.soft = ev->irq_soft;
	out->interrupt.shadow = shadow_to_client(ev->shadow);
	out->nmi.injected = ev->nmi_injected;
	out->nmi.pending = atomic_load(&ev->nmi_pending);
	out->nmi.masked = ev->nmi_masked;
	/* The SMM part is valid too: never in it. */
	out->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
}

static int check_events(const struct kvm_vcpu_events *in)
{
	uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;

	if (in->flags & ~known)
		return -EINVAL;
	if (in->exception.injected && (in->exception.nr > 31 || in->exception.nr == X86_NMI))
		return -EINVAL;
	/* There is no SMM to be in. */
	if ((in->flags & KVM_VCPUEVENT_VALID_SMM) && (in->smi.smm || in->smi.pending))
		return -EINVAL;
	return 0;
}

int state_set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *in)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct x86_events *ev = &cpu->ev;
	int err = check_events(in);

	if (err)
		return err;
	ev->exc_pending = in->exception.injected != 0;
	ev->exc_vector = in->exception.nr;
	ev->exc_has_error = in->exception.has_error_code != 0;
	ev->exc_error = in->exception.error_code;
	ev->exc_cr2 = cpu->cr2;
	ev->irq_injected = in->interrupt.injected != 0;
	ev->irq_vector = in->interrupt.nr;
	ev->irq_soft = in->interrupt.soft != 0;
	if (in->flags & KVM_VCPUEVENT_VALID_SHADOW)
		ev->shadow = shadow_from_client(in->interrupt.shadow);
	ev->nmi_injected = in->nmi.injected != 0;
	if (in->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		atomic_store(&ev->nmi_pending, in->nmi.pending > 2 ? 2 : in->nmi.pending);
	ev->nmi_masked = in->nmi.masked != 0;
	if (in->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		atomic_store(&vcpu->sipi_vector, (uint8_t)in->sipi_vector);
	vcpu_registers_changed(vcpu);
	return 0;
}

/* ---- KVM_GET/SET_DEBUGREGS ---- */

void state_get_debugregs(struct vcpu *vcpu, struct kvm_debugregs *out)
{
	const struct x86_cpu *cpu = &vcpu->cpu;

	memset(out, 0, sizeof(*out));
	memcpy(out->db, cpu->dr, sizeof(out->db));
	out->dr6 = cpu->dr[6];
	out->dr7 = cpu->dr[7];
}

int state_set_debugregs(struct vcpu *vcpu, const struct kvm_debugregs *in)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (in->flags || in->dr6 >> 32 || in->dr7 >> 32)
		return -EINVAL;
	memcpy(cpu->dr, in->db, sizeof(in->db));
	cpu->dr[6] = in->dr6 | X86_DR6_FIXED1;
	cpu->dr[7] = in->dr7 | X86_DR7_FIXED1;
	x86_debug_changed(cpu);
	return 0;
}
