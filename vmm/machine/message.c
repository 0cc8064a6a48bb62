/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/message.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HELD_MAX 8192

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool holding;
static char held[HELD_MAX]; /* the last that fit are kept: they say how it ended */
static size_t held_size;

static void keep(const char *line)
{
	size_t size = strlen(line);

	while (held_size + size > sizeof(held)) {
		char *end = memchr(held, '\n', held_size);
		size_t first = end ? (size_t)(end + 1 - held) : held_size;

		memmove(held, held + first, held_size - first);
		held_size -= first;
	}
	memcpy(held + held_size, line, size);
	held_size += size;
}

void msg_hold(bool hold)
{
	pthread_mutex_lock(&lock);
	holding = hold;
	if (!hold)
		fwrite(held, 1, held_size, stderr);
	held_size = 0;
	pthread_mutex_unlock(&lock);
}

void msg_error(const char *fmt, ...)
{
	char text[1024], line[sizeof(text) + 16];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "trapeze: %s\n", text);
	pthread_mutex_lock(&lock);
	if (holding)
		keep(line);
	else
		fputs(line, stderr);
	pthread_mutex_unlock(&lock);
}
