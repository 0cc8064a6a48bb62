/* SPDX-License-Identifier: Apache-2.0 */
/* The one list of engines, best first. */
#include <string.h>

#include "core/engine.h"
#include "interp/engine.h"
#include "lockstep/engine.h"
#include "translate/engine.h"

const struct tz_engine_ops *const tz_engines[] = { &translate_engine, &interp_engine, NULL };

const struct tz_engine_ops *tz_engine_find(const char *name)
{
	if (!name || !strcmp(name, "auto"))
		return tz_engines[0];
	for (size_t i = 0; tz_engines[i]; i++)
		if (!strcmp(tz_engines[i]->name, name))
			return tz_engines[i];
	/* A check of the others, chosen by name alone. */
	return !strcmp(lockstep_engine.name, name) ? &lockstep_engine : NULL;
}
