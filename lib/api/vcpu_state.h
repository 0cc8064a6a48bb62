/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU's state in the layouts of <linux/kvm.h>. Thread: the vCPU's own, between vcpu_enter() and
 * vcpu_leave() (loading PDPTEs reads guest memory). Setters return 0 or -EINVAL and then change nothing.
 */
#ifndef TZ_API_VCPU_STATE_H
#define TZ_API_VCPU_STATE_H

#include "core/vcpu.h"

void state_get_regs(struct vcpu *vcpu, struct kvm_regs *out);
void state_set_regs(struct vcpu *vcpu, const struct kvm_regs *in);
void state_get_sregs(struct vcpu *vcpu, struct kvm_sregs *out);
int state_set_sregs(struct vcpu *vcpu, const struct kvm_sregs *in);
void state_get_sregs2(struct vcpu *vcpu, struct kvm_sregs2 *out);
int state_set_sregs2(struct vcpu *vcpu, const struct kvm_sregs2 *in);
void state_get_events(struct vcpu *vcpu, struct kvm_vcpu_events *out);
int state_set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *in);
void state_get_debugregs(struct vcpu *vcpu, struct kvm_debugregs *out);
int state_set_debugregs(struct vcpu *vcpu, const struct kvm_debugregs *in);
void state_get_fpu(struct vcpu *vcpu, struct kvm_fpu *out);
int state_set_fpu(struct vcpu *vcpu, const struct kvm_fpu *in);
void state_get_xcrs(struct vcpu *vcpu, struct kvm_xcrs *out);
int state_set_xcrs(struct vcpu *vcpu, const struct kvm_xcrs *in);

#endif
