/* SPDX-License-Identifier: Apache-2.0 */
#include "block/error.h"

#include <stdarg.h>
#include <stdio.h>

int error_set(const struct error_text *error, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error->text, error->size, fmt, ap);
	va_end(ap);
	return -err;
}
