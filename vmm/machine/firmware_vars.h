/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that UEFI firmware keeps its variables in (--firmware …,vars=FILE): the contents of its flash, written
 * through byte by byte, on the disk when the firmware has ended a sequence of writes. Locked as a disk image is.
 */
#ifndef VMM_MACHINE_FIRMWARE_VARS_H
#define VMM_MACHINE_FIRMWARE_VARS_H

#include <stdint.h>

struct firmware_vars;
struct pflash_array;

/*
 * Without a file it is made from the template, NULL: the one that lies beside the firmware under Debian's names. max:
 * bytes. 0, or -errno with a message.
 */
int firmware_vars_open(struct firmware_vars **vars, const char *path, const char *template, const char *firmware_path,
		       uint32_t max);
void firmware_vars_close(struct firmware_vars *vars); /* NULL: nothing */

/* For the device; without `show`. */
const struct pflash_array *firmware_vars_array(const struct firmware_vars *vars);

#endif
