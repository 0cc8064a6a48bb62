/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/terminal.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios terminal_saved;
static _Atomic bool terminal_is_raw;

void terminal_restore(void)
{
	if (atomic_exchange(&terminal_is_raw, false))
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal_saved);
}

/* A crash of the program itself: leave a usable terminal behind, then die of the signal as usual. */
static void fatal_signal(int signal)
{
	terminal_restore();
	raise(signal); /* SA_RESETHAND: the default action */
}

static void install_fatal_handlers(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };
	struct sigaction action = { .sa_handler = fatal_signal, .sa_flags = SA_RESETHAND | SA_NODEFER };

	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction old;

		/* A sanitizer's or debugger's handler knows better. */
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			sigaction(signals[i], &action, NULL);
	}
	atexit(terminal_restore);
}

static void terminal_enter_raw(void)
{
	struct termios raw = terminal_saved;

	raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	atomic_store(&terminal_is_raw, true);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

void terminal_raw(void)
{
	static bool installed;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal_saved) < 0)
		return;
	if (!installed)
		install_fatal_handlers();
	installed = true;
	terminal_enter_raw();
}

void terminal_suspend(void)
{
	bool was_raw = atomic_load(&terminal_is_raw);

	terminal_restore();
	raise(SIGSTOP);
	if (was_raw)
		terminal_enter_raw();
}
