/* SPDX-License-Identifier: Apache-2.0 */
/* The binary translator as core sees it. */
#ifndef TZ_TRANSLATE_ENGINE_H
#define TZ_TRANSLATE_ENGINE_H

#include "core/engine.h"

extern const struct tz_engine_ops translate_engine;

#endif
