/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stats.h"

const struct stat_info stat_info[STAT_COUNT] = {
#define STAT(id, stat_name, stat_unit) [STAT_##id] = { .name = stat_name, .unit = stat_unit },
#include "base/stats.def"
#undef STAT
};
