/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the monitor: one line each on stderr, "trapeze: …". The guest's console is stdout's.
 * Thread: any.
 */
#ifndef VMM_MACHINE_MESSAGE_H
#define VMM_MACHINE_MESSAGE_H

__attribute__((format(printf, 1, 2))) void msg_error(const char *fmt, ...);

#endif
