/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics of the library. Off by default: a library is silent unless asked.
 * TRAPEZE_LOG=error|warn|info|debug in the environment sets the level; output
 * goes to stderr, one line a message. Never called on a guest's hot path.
 */
#ifndef TZ_BASE_LOG_H
#define TZ_BASE_LOG_H

#include <stdbool.h>

#include "base/compiler.h"

enum tz_log_level { TZ_LOG_ERROR = 1, TZ_LOG_WARN, TZ_LOG_INFO, TZ_LOG_DEBUG };

/* Thread: any. The caller must not hold live guest vector state (fpu_put first). */
void tz_log(enum tz_log_level level, const char *fmt, ...) tz_printf(2, 3);
bool tz_log_enabled(enum tz_log_level level);

#endif
