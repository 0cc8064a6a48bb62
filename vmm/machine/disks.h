/* SPDX-License-Identifier: Apache-2.0 */
/* The disks of a machine: --disk texts to open back ends. They stay open over resets of the machine. */
#ifndef VMM_MACHINE_DISKS_H
#define VMM_MACHINE_DISKS_H

#include "machine/board.h"

#define MACHINE_DISKS_MAX 16
#define DISK_SERIAL_MAX 20 /* virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES */

struct disks {
	struct board_disk disk[MACHINE_DISKS_MAX];
	char serial[MACHINE_DISKS_MAX][DISK_SERIAL_MAX + 1];
	unsigned count;
};

/* texts: "PATH[,key=value…]", NULL-terminated. 0; or -errno with one line on stderr, and nothing is open. Thread: main.
 */
int disks_open(struct disks *disks, const char *const *texts);
/*
 * A disk that cannot do what the guest wants of it now, and whose options say so, keeps the request: the machine is to
 * stand still while disks_stalled(), and disks_retry() once in a while. changed: it may be otherwise now; thread: any.
 */
void disks_watch(struct disks *disks, void (*changed)(void *ctx), void *ctx);
bool disks_stalled(const struct disks *disks);
void disks_retry(struct disks *disks);
/* What the guest has written is made durable. 0; or -errno with a line for each disk where that failed. */
int disks_close(struct disks *disks);

#endif
