/* SPDX-License-Identifier: Apache-2.0 */
/* The interpreter as core sees it. */
#ifndef TZ_INTERP_ENGINE_H
#define TZ_INTERP_ENGINE_H

#include "core/engine.h"

extern const struct tz_engine_ops interp_engine;

#endif
