/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction groups of the interpreter: what bind.c may choose from. A row of an
 * insns_*.def list, ROW(MNEMONIC, bind_function), declares its bind function here.
 */
#ifndef TZ_INTERP_GROUPS_H
#define TZ_INTERP_GROUPS_H

#include "interp/interp.h"

#define ROW(mnemonic, bind) interp_bind_fn bind;
#include "interp/insns_integer.def"
#include "interp/insns_system.def"
#undef ROW

/*
 * Mnemonics that integer and system forms share. The integer group's bind function hands over:
 * MOV with a control, debug or segment register operand; JMP, CALL, RET whose branch type is
 * FAR; PUSH, POP of a segment register.
 */
interp_bind_fn interp_bind_mov_system;
interp_bind_fn interp_bind_far_transfer;
interp_bind_fn interp_bind_push_pop_seg;

#endif
