/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the monitor: one line each on stderr, "trapeze: …". The guest's console is stdout's.
 * Thread: any.
 */
#ifndef VMM_MACHINE_MESSAGE_H
#define VMM_MACHINE_MESSAGE_H

#include <stdbool.h>

__attribute__((format(printf, 1, 2))) void msg_error(const char *fmt, ...);
/* While something else has the terminal, messages are kept, and written when it has gone. */
void msg_hold(bool hold);

#endif
