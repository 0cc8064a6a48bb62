/* SPDX-License-Identifier: Apache-2.0 */
/* What native.c (the parent's side) and native_child.c (the confined process) share. */
#ifndef ORACLE_NATIVE_CHILD_H
#define ORACLE_NATIVE_CHILD_H

#include "oracle.h"

#define CHILD_CMD_FD 3
#define CHILD_REPLY_FD 4

/* Mapped by both. */
struct native_shared {
	volatile uint64_t current; /* the slot being run */
	_Alignas(64) struct state in[SLOT_COUNT], out[SLOT_COUNT];
};

struct batch {
	uint32_t first, count;
};

/* native_stub.S and its data */
extern struct state native_result;
extern uint64_t native_rax, native_host_sp;
extern uint32_t native_mask;
extern const uint8_t native_exit_code[], native_exit_code_end[];
int native_enter(const struct state *in);
tz_noreturn void native_leave(void);
void native_done(void);
void native_on_signal(int sig, void *info, void *context);
void native_signal(int sig, void *info, void *context);

/* In the child: never returns, calls nothing of libc. */
tz_noreturn void native_child_loop(struct native_shared *shared, uint32_t area_size, bool fsgsbase);

#endif
