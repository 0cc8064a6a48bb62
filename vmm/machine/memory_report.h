/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest does with its memory, as the balloon's driver tells when it is asked: Ctrl-A m. Thread: main. */
#ifndef VMM_MACHINE_MEMORY_REPORT_H
#define VMM_MACHINE_MEMORY_REPORT_H

#include "machine/board.h"

struct memory_report {
	bool asked;
	unsigned told;  /* how often the driver had told them when it was asked */
	uint64_t until; /* CLOCK_MONOTONIC, ns */
};

void memory_report_ask(struct memory_report *report, struct board *board);
/* Prints it when the driver has answered, or does not. How long the main loop may sleep: ms, -1: as long as it likes.
 */
int memory_report_update(struct memory_report *report, struct board *board);

#endif
