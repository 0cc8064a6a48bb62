/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: accelerator, RAM, board, vCPUs and a boot image, put together and run to its end.
 */
#ifndef VMM_MACHINE_MACHINE_H
#define VMM_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/board.h"

#define MACHINE_CPUS_MAX 64
#define MACHINE_DEVICES_MAX 32
#define MACHINE_NETS_MAX 8
#define MACHINE_DISK_TEXTS_MAX 32
#define MACHINE_SHARE_TEXTS_MAX 8
#define MACHINE_CODE_CACHE_MIN (UINT64_C(1) << 20)
#define MACHINE_CODE_CACHE_MAX (UINT64_C(1) << 30)
#define MACHINE_MEMORY_MIN (UINT64_C(1) << 20)

enum serial_kind { SERIAL_STDIO, SERIAL_FILE, SERIAL_NONE };
enum display_kind { DISPLAY_NONE, DISPLAY_CURSES };

struct machine_config {
	enum board_kind board;
	const char *firmware; /* --firmware, or NULL: then there is a kernel */
	const char *kernel;   /* paths */
	const char *initrd;   /* or NULL */
	const char *append;
	uint64_t memory; /* bytes */
	unsigned cpus;
	const char *cpu_model;
	const char *accel;
	bool lockstep;       /* instead of it */
	uint64_t code_cache; /* bytes a vCPU; 0: the accelerator's default */
	enum serial_kind serial;
	const char *serial_path;
	bool serial_given; /* by the user */
	enum display_kind display;
	const char *devices[MACHINE_DEVICES_MAX + 1];    /* NULL-terminated */
	const char *disks[MACHINE_DISK_TEXTS_MAX + 1];   /* NULL-terminated: --disk */
	const char *nets[MACHINE_NETS_MAX + 1];          /* NULL-terminated: --net, a card each but for "none" */
	const char *shares[MACHINE_SHARE_TEXTS_MAX + 1]; /* NULL-terminated: --share */
	bool no_reboot;
	bool stats;
};

/*
 * Run until the guest powers off, exits through a device, fails, or the user ends it. Returns the
 * program's exit status; everything that went wrong has been said on stderr. Thread: main.
 */
int machine_run(const struct machine_config *config);

#endif
