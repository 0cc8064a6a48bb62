/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine stands still while a disk cannot do what the guest wants of it (--disk …,werror=): vCPUs are parked, and
 * the guest's clocks stop with them. Once a second the disk is asked again. Thread: main.
 */
#ifndef VMM_MACHINE_PAUSE_H
#define VMM_MACHINE_PAUSE_H

#include "machine/board.h"
#include "machine/disks.h"
#include "machine/machine.h"
#include "machine/vcpu.h"

struct pause {
	/* What there is to stop. */
	struct vcpu_host *host;
	struct disks *disks;

	enum { PAUSE_NONE, PAUSE_STOPPING, PAUSE_STOPPED } state;
	uint64_t retry_at; /* CLOCK_MONOTONIC, ns */
	uint64_t tsc[MACHINE_CPUS_MAX];
	struct kvm_clock_data clock;
};

/* See whether the machine must stop or may go on. How long the main loop may sleep before the next call: ms, -1: as
 * long as it likes. */
int pause_update(struct pause *pause, struct board *board, struct vcpu *vcpu, unsigned vcpu_count);
/* What to tell a user who does not see messages; NULL: nothing. */
const char *pause_note(const struct pause *pause);
/* vCPUs are to end or have ended: let them out, clocks run. */
void pause_cancel(struct pause *pause, struct board *board);

#endif
