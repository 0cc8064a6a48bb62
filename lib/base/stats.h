/* SPDX-License-Identifier: Apache-2.0 */
/* Counters: see stats.def. Written by the vCPU thread, read by anyone (a torn 64-bit read cannot happen on x86-64). */
#ifndef TZ_BASE_STATS_H
#define TZ_BASE_STATS_H

enum stat_id {
#define STAT(id, name, unit) STAT_##id,
#include "base/stats.def"
#undef STAT
	STAT_COUNT
};

#define STAT_INC(cpu, id) ((cpu)->stat[STAT_##id]++)
#define STAT_ADD(cpu, id, n) ((cpu)->stat[STAT_##id] += (n))

#endif
