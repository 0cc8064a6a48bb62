/* SPDX-License-Identifier: Apache-2.0 */
/* struct kvm_fpu and XCR0. The XSAVE image itself is the model's (x86/fpu.h). */
#include <errno.h>
#include <string.h>

#include "api/vcpu_state.h"
#include "x86/control.h"
#include "x86/fpu.h"
#include "x86/xstate.h"

/* The legacy region of the XSAVE area, as FXSAVE64 writes it (SDM 1 table 10-2, 13.4.1), and XSTATE_BV (13.4.2). */
struct legacy_region {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	uint8_t unused[96];
	uint64_t xstate_bv;
};
#define XSTATE_X87 BIT64(0)
#define XSTATE_SSE BIT64(1)

/* A component that XSTATE_BV does not name is in its initial state, whatever the bytes say (SDM 1 13.6). */
static void apply_initial_state(struct legacy_region *l)
{
	if (!(l->xstate_bv & XSTATE_X87)) {
		memset(l, 0, offsetof(struct legacy_region, mxcsr));
		memset(l->st, 0, sizeof(l->st));
		l->fcw = 0x37f;
	}
	if (!(l->xstate_bv & XSTATE_SSE))
		memset(l->xmm, 0, sizeof(l->xmm));
}

void state_get_fpu(struct vcpu *vcpu, struct kvm_fpu *out)
{
	_Alignas(64) uint8_t image[X86_XSAVE_AREA];
	struct legacy_region l;

	x86_fpu_get_image(&vcpu->cpu, image);
	memcpy(&l, image, sizeof(l));
	apply_initial_state(&l);
	memset(out, 0, sizeof(*out));
	memcpy(out->fpr, l.st, sizeof(out->fpr));
	memcpy(out->xmm, l.xmm, sizeof(out->xmm));
	out->fcw = l.fcw;
	out->fsw = l.fsw;
	out->ftwx = l.ftw;
	out->last_opcode = l.fop;
	out->last_ip = l.fip;
	out->last_dp = l.fdp;
	out->mxcsr = l.mxcsr;
}

int state_set_fpu(struct vcpu *vcpu, const struct kvm_fpu *in)
{
	_Alignas(64) uint8_t image[X86_XSAVE_AREA];
	struct legacy_region l;

	x86_fpu_get_image(&vcpu->cpu, image);
	memcpy(&l, image, sizeof(l));
	memcpy(l.st, in->fpr, sizeof(l.st));
	memcpy(l.xmm, in->xmm, sizeof(l.xmm));
	l.fcw = in->fcw;
	l.fsw = in->fsw;
	l.ftw = in->ftwx;
	l.fop = in->last_opcode;
	l.fip = in->last_ip;
	l.fdp = in->last_dp;
	/* The kernel never took mxcsr from here, and clients leave it 0, which would unmask every exception. */
	l.xstate_bv |= XSTATE_X87 | XSTATE_SSE;
	memcpy(image, &l, sizeof(l));
	return x86_fpu_set_image(&vcpu->cpu, image);
}

void state_get_xcrs(struct vcpu *vcpu, struct kvm_xcrs *out)
{
	memset(out, 0, sizeof(*out));
	out->nr_xcrs = 1;
	out->xcrs[0].value = vcpu->cpu.xcr0;
}

int state_set_xcrs(struct vcpu *vcpu, const struct kvm_xcrs *in)
{
	if (in->flags || in->nr_xcrs > KVM_MAX_XCRS)
		return -EINVAL;
	for (unsigned i = 0; i < in->nr_xcrs; i++) {
		if (in->xcrs[i].xcr != 0)
			continue;
		if (!x86_xcr0_valid(&vcpu->cpu, in->xcrs[i].value))
			return -EINVAL;
		x86_fpu_put(&vcpu->cpu);
		vcpu->cpu.xcr0 = in->xcrs[i].value;
		return 0;
	}
	return 0;
}
