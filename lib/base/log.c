/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int log_level_from_env(void)
{
	static const char *const names[] = { "none", "error", "warn", "info", "debug" };
	const char *s = getenv("TRAPEZE_LOG");

	for (size_t i = 0; s && i < ARRAY_SIZE(names); i++)
		if (!strcmp(s, names[i]))
			return (int)i;
	return 0;
}

bool tz_log_enabled(enum tz_log_level level)
{
	static _Atomic int cached = -1;
	int now = atomic_load_explicit(&cached, memory_order_relaxed);

	if (now < 0) {
		now = log_level_from_env();
		atomic_store_explicit(&cached, now, memory_order_relaxed);
	}
	return (int)level <= now;
}

void tz_log(enum tz_log_level level, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!tz_log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "libtrapeze: %s\n", line);
}
