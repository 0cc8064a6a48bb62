/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/message.h"

#include <stdarg.h>
#include <stdio.h>

void msg_error(const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "trapeze: %s\n", line);
}
