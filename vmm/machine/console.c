/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "machine/message.h"

#define CTRL_A 0x01

static const char help_text[] = "\r\nCtrl-A h    this help\r\n"
				"Ctrl-A x    end the virtual machine\r\n"
				"Ctrl-A m    what the guest does with its memory (virtio-balloon)\r\n"
				"Ctrl-A Ctrl-A    send Ctrl-A to the guest\r\n";

/*
 * All of it, to a blocking descriptor. -errno when it cannot be written. *stopping: what would block is dropped. The
 * threads that write here are not all woken by signals: they wait in poll() for a while at most, and write little
 * pieces, for which there is room then.
 */
#define WRITE_CHUNK 256
#define WRITE_WAIT_MS 100
static int write_all(int fd, const uint8_t *data, size_t len, const _Atomic bool *stopping)
{
	while (len) {
		struct pollfd room = { .fd = fd, .events = POLLOUT };
		ssize_t n;

		if (poll(&room, 1, WRITE_WAIT_MS) == 0) {
			if (atomic_load(stopping))
				return 0;
			continue;
		}
		n = write(fd, data, len < WRITE_CHUNK ? len : WRITE_CHUNK);
		if (n < 0) {
			if (errno != EINTR && errno != EAGAIN)
				return -errno;
			if (atomic_load(stopping))
				return 0;
			if (errno == EAGAIN) /* somebody made our stdout non-blocking */
				usleep(1000);
			continue;
		}
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static void console_write(struct chardev *dev, const uint8_t *data, unsigned len)
{
	struct console *console = (struct console *)dev;
	int err;

	if (console->out_fd < 0 || atomic_load(&console->broken))
		return;
	err = write_all(console->out_fd, data, len, &console->stopping);
	if (err && !atomic_exchange(&console->broken, true) && console->failed(console->ctx))
		msg_error("cannot write the guest's console to %s: %s", console->out_name, strerror(-err));
}

static void console_room(struct chardev *dev)
{
	struct console *console = (struct console *)dev;

	console->wake(console->ctx);
}

int console_open(struct console *console, enum serial_kind kind, const char *path, void (*wake)(void *ctx),
		 bool (*failed)(void *ctx), void *ctx)
{
	memset(console, 0, sizeof(*console));
	console->dev.write = console_write;
	console->dev.room = console_room;
	console->wake = wake;
	console->failed = failed;
	console->ctx = ctx;
	console->in_fd = console->out_fd = -1;
	switch (kind) {
	case SERIAL_STDIO:
		console->in_fd = STDIN_FILENO;
		console->out_fd = STDOUT_FILENO;
		console->out_name = "standard output";
		console->in_is_terminal = isatty(STDIN_FILENO);
		break;
	case SERIAL_FILE:
		console->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		console->out_name = path;
		if (console->out_fd < 0) {
			int err = errno;

			msg_error("--serial file:%s: %s", path, strerror(err));
			return -err;
		}
		break;
	case SERIAL_NONE: break;
	}
	return 0;
}

void console_close(struct console *console)
{
	if (console->out_fd > STDERR_FILENO)
		close(console->out_fd);
	console->out_fd = console->in_fd = -1;
}

bool console_wants_input(const struct console *console)
{
	/* A terminal is always read, so that Ctrl-A x works when the guest takes no input; a pipe waits. */
	return console->in_fd >= 0 && (console->in_is_terminal || console->queued < CONSOLE_QUEUE);
}

static void queue_byte(struct console *console, uint8_t byte)
{
	if (console->queued < CONSOLE_QUEUE)
		console->queue[console->queued++] = byte;
}

/* One typed byte; what it asked for as the second half of a Ctrl-A key. */
static enum console_key take_byte(struct console *console, uint8_t byte)
{
	if (!console->escape) {
		if (byte == CTRL_A)
			console->escape = true;
		else
			queue_byte(console, byte);
		return CONSOLE_NONE;
	}
	console->escape = false;
	switch (byte) {
	case 'x':
	case 'X': return CONSOLE_QUIT;
	case 'm':
	case 'M': return CONSOLE_MEMORY;
	case 'h':
	case 'H':
	case '?':
		write_all(STDERR_FILENO, (const uint8_t *)help_text, sizeof(help_text) - 1, &console->stopping);
		return CONSOLE_NONE;
	case CTRL_A: queue_byte(console, CTRL_A); return CONSOLE_NONE;
	default: return CONSOLE_NONE;
	}
}

enum console_key console_read(struct console *console)
{
	enum console_key asked = CONSOLE_NONE;
	uint8_t buffer[256];
	size_t want = sizeof(buffer);
	ssize_t n;

	if (!console->in_is_terminal && want > CONSOLE_QUEUE - console->queued)
		want = CONSOLE_QUEUE - console->queued;
	n = read(console->in_fd, buffer, want);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return CONSOLE_NONE;
	if (n <= 0) { /* end of input, or a terminal that went away: the guest runs on without */
		console->in_fd = -1;
		return CONSOLE_NONE;
	}
	for (ssize_t i = 0; i < n; i++) {
		enum console_key key = take_byte(console, buffer[i]);

		if (key == CONSOLE_QUIT)
			return key;
		if (key != CONSOLE_NONE)
			asked = key;
	}
	console_push(console);
	return asked;
}

void console_push(struct console *console)
{
	console->busy = false;
	/* Until the device is full or the queue empty: it tells of room only when there was none. */
	while (console->queued && console->dev.can_receive) {
		unsigned take = console->dev.can_receive(console->dev.ctx);

		console->busy = take == CHARDEV_BUSY;
		if (take > console->queued)
			take = console->queued;
		if (!take || console->busy)
			return;
		console->busy = !console->dev.receive(console->dev.ctx, console->queue, take);
		if (console->busy)
			return;
		console->queued -= take;
		memmove(console->queue, console->queue + take, console->queued);
	}
}

void console_stop(struct console *console)
{
	atomic_store(&console->stopping, true);
}

void console_resume(struct console *console)
{
	atomic_store(&console->stopping, false);
}

void console_detach(struct console *console)
{
	console->busy = false;
	console->dev.can_receive = NULL;
	console->dev.receive = NULL;
	console->dev.ctx = NULL;
}
