/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/pause.h"

#include <time.h>

#include "machine/message.h"

#define RETRY_NS UINT64_C(1000000000)
#define KICK_AGAIN_MS 10
#define MSR_TSC 0x10

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- the guest's clocks: TSC, kvmclock, what the board's devices count by; vCPUs are parked ---- */

static void move_tsc(struct pause *p, const struct vcpu *vcpu, unsigned long request)
{
	const struct accel *accel = p->host->accel;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry = { .index = MSR_TSC, .data = p->tsc[vcpu->id] } };

	if (accel->ioctl(vcpu->fd, request, (uintptr_t)&msrs) == 1)
		p->tsc[vcpu->id] = msrs.entry.data;
}

static void stop_clocks(struct pause *p, struct board *board, struct vcpu *vcpu, unsigned count)
{
	board_hold(board, true);
	p->clock.flags = 0;
	p->host->accel->ioctl(p->host->vm_fd, KVM_GET_CLOCK, (uintptr_t)&p->clock);
	for (unsigned i = 0; i < count; i++)
		move_tsc(p, &vcpu[i], KVM_GET_MSRS);
}

/* To where they were. What an accelerator cannot set back has jumped, as if the host had slept. */
static void start_clocks(struct pause *p, struct board *board, struct vcpu *vcpu, unsigned count)
{
	const struct accel *accel = p->host->accel;

	for (unsigned i = 0; i < count; i++)
		move_tsc(p, &vcpu[i], KVM_SET_MSRS);
	p->clock.flags = 0; /* no correction for what passed since */
	accel->ioctl(p->host->vm_fd, KVM_SET_CLOCK, (uintptr_t)&p->clock);
	for (unsigned i = 0; i < count; i++)
		accel->ioctl(vcpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
	board_hold(board, false);
}

/* ---- */

static void begin(struct pause *p)
{
	p->state = PAUSE_STOPPING;
	p->retry_at = now_ns() + RETRY_NS;
	vmm_vcpus_hold(p->host, true);
}

static void go_on(struct pause *p, struct board *board, struct vcpu *vcpu, unsigned count)
{
	if (p->state == PAUSE_STOPPED)
		start_clocks(p, board, vcpu, count);
	p->state = PAUSE_NONE;
	vmm_vcpus_hold(p->host, false);
	msg_error("the machine goes on");
}

int pause_update(struct pause *p, struct board *board, struct vcpu *vcpu, unsigned count)
{
	bool stalled = disks_stalled(p->disks);
	uint64_t now;

	if (!stalled) {
		if (p->state != PAUSE_NONE)
			go_on(p, board, vcpu, count);
		return -1;
	}
	if (p->state == PAUSE_NONE)
		begin(p);
	if (p->state == PAUSE_STOPPING && vmm_vcpus_parked(vcpu, count)) {
		stop_clocks(p, board, vcpu, count);
		p->state = PAUSE_STOPPED;
	}
	now = now_ns();
	if (now >= p->retry_at) {
		disks_retry(p->disks);
		p->retry_at = now + RETRY_NS;
	}
	return p->state == PAUSE_STOPPING ? KICK_AGAIN_MS : (int)((p->retry_at - now) / 1000000) + 1;
}

const char *pause_note(const struct pause *p)
{
	return p->state == PAUSE_NONE ? NULL
				      : "the machine stands still until a disk of this host has room or works again; "
					"Ctrl-A x ends it";
}

void pause_cancel(struct pause *p, struct board *board)
{
	p->state = PAUSE_NONE;
	board_hold(board, false);
	vmm_vcpus_hold(p->host, false);
}
