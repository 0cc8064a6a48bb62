/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The user's terminal: raw mode for the guest's console, and its return to what it was, however
 * the program ends. Process-wide, as a terminal is.
 */
#ifndef VMM_MACHINE_TERMINAL_H
#define VMM_MACHINE_TERMINAL_H

/*
 * Put standard input into raw mode if it is a terminal; else nothing. Output processing stays on.
 * From then on the terminal is restored at exit() and on a fatal signal. Thread: main.
 */
void terminal_raw(void);
/* Back to the mode found. Async-signal-safe. */
void terminal_restore(void);
/* SIGTSTP: restore, stop, and be raw again when continued. Thread: main. */
void terminal_suspend(void);

#endif
