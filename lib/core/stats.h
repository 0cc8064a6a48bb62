/* SPDX-License-Identifier: Apache-2.0 */
/* Names and units of the counters of base/stats.def. */
#ifndef TZ_CORE_STATS_H
#define TZ_CORE_STATS_H

#include "base/stats.h"

struct stat_info {
	const char *name;
	const char *unit;
};

extern const struct stat_info stat_info[STAT_COUNT];

#endif
