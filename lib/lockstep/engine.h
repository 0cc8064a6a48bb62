/* SPDX-License-Identifier: Apache-2.0 */
/* The `lockstep` engine: see lockstep.h. */
#ifndef TZ_LOCKSTEP_ENGINE_H
#define TZ_LOCKSTEP_ENGINE_H

#include "core/engine.h"

extern const struct tz_engine_ops lockstep_engine;

#endif
