/* SPDX-License-Identifier: Apache-2.0 */
/* The shared folders of a machine: --share texts to open folders. They stay open over resets of the machine. */
#ifndef VMM_MACHINE_SHARES_H
#define VMM_MACHINE_SHARES_H

#include "machine/board.h"

#define MACHINE_SHARES_MAX 8
#define SHARE_TAG_MAX 31 /* as QEMU and Linux have it */

struct shares {
	struct board_share share[MACHINE_SHARES_MAX];
	char tag[MACHINE_SHARES_MAX][SHARE_TAG_MAX + 1];
	unsigned count;
};

/* texts: "PATH[,tag=NAME][,readonly]", NULL-terminated. 0; or -errno with one line on stderr, and nothing is open.
 * Thread: main. */
int shares_open(struct shares *shares, const char *const *texts);
void shares_close(struct shares *shares);

#endif
