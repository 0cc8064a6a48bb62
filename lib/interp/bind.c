/* SPDX-License-Identifier: Apache-2.0 */
/* Which group executes a mnemonic: one table made from the groups' lists. The rest is the vector unit's. */
#include "interp/groups.h"
#include "interp/operand.h"

#define ROW(mnemonic, bind) [ZYDIS_MNEMONIC_##mnemonic] = bind,
static interp_bind_fn *const table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#include "interp/insns_integer.def"
#include "interp/insns_system.def"
};
#undef ROW

interp_bind_fn *interp_bind_find(ZydisMnemonic m)
{
	if ((unsigned)m <= ZYDIS_MNEMONIC_MAX_VALUE && table[m])
		return table[m];
	return interp_bind_vector;
}
