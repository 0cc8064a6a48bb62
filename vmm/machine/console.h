/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end of COM1: standard input and output with the Ctrl-A keys, or a file.
 */
#ifndef VMM_MACHINE_CONSOLE_H
#define VMM_MACHINE_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>

#include "machine/board.h"
#include "machine/machine.h"

#define CONSOLE_QUEUE 4096

struct console {
	struct chardev dev; /* first: the device sees this */
	int in_fd;          /* -1: no input */
	int out_fd;         /* -1: output vanishes */
	const char *out_name;
	bool escape; /* Ctrl-A was typed */
	bool in_is_terminal;
	uint8_t queue[CONSOLE_QUEUE]; /* typed, not yet taken by the guest */
	unsigned queued;
	void (*wake)(void *ctx);   /* room appeared: make the main loop call console_push */
	bool (*failed)(void *ctx); /* output cannot be written; true: nothing else ended the machine before, say so */
	void *ctx;
	bool busy; /* the device could not be asked: call console_push again soon */
	_Atomic bool broken;
	_Atomic bool stopping;
};

/* What the user asked for with Ctrl-A. */
enum console_key { CONSOLE_NONE, CONSOLE_QUIT, CONSOLE_MEMORY };

/* 0, or -errno with a message. wake/failed may be called from any thread. Thread: main, as all below. */
int console_open(struct console *console, enum serial_kind kind, const char *path, void (*wake)(void *ctx),
		 bool (*failed)(void *ctx), void *ctx);
void console_close(struct console *console);

/* Does the console want its input polled? */
bool console_wants_input(const struct console *console);
/* in_fd is readable: take it. */
enum console_key console_read(struct console *console);
/* Hand queued input to the device as far as it takes it. */
void console_push(struct console *console);
/*
 * The machine ends: from now on output that nobody takes is dropped, so that a vCPU thread comes out of the console
 * when a signal interrupts it. Until console_resume().
 */
void console_stop(struct console *console);
void console_resume(struct console *console);
/* The machine's device goes: forget it. */
void console_detach(struct console *console);

#endif
