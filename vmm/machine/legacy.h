/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a PC's firmware leaves behind and a directly booted image may count on: an interrupt vector table of
 * harmless handlers, the 8259 pair at its real-mode vectors with the timer unmasked, the 8254 ticking at 18.2 Hz.
 */
#ifndef VMM_MACHINE_LEGACY_H
#define VMM_MACHINE_LEGACY_H

#include "machine/accel.h"
#include "machine/ram.h"

/* Before the image is loaded (which may overwrite the table). ram NULL: no table, memory is left alone. 0, or -errno
 * with a message. Thread: main. */
int legacy_setup(const struct accel *accel, int vm_fd, const struct guest_ram *ram);

#endif
