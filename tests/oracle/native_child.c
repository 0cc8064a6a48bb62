/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that runs cases on this CPU. Everything below runs with FS and GS as the last case left them: no libc,
 * no thread-local storage, no sanitizer. System calls other than those it makes itself end the process.
 */
#include "native_child.h"

#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <ucontext.h>

struct state native_result;
uint64_t native_rax, native_host_sp;
uint32_t native_mask;
static uint32_t area_bytes;
static bool has_fsgsbase;

static long raw_syscall(long nr, long a, long b, long c)
{
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

/* ---- confinement ---- */

#define ALLOW_IF_FD(nr, fd)                                                                                            \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 4),                                                                 \
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),                            \
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, fd, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),           \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What sanitizers and others have mapped where a program's addresses of 32 bits and some more may go. */
#define LOW_END 0x400000000000

static void confine(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW_IF_FD(SYS_read, CHILD_CMD_FD),
		ALLOW_IF_FD(SYS_write, CHILD_REPLY_FD),
		ALLOW(SYS_arch_prctl), /* a host without FSGSBASE */
		ALLOW(SYS_exit_group),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };
	long from = EXIT_PAGE + 0x1000;

	raw_syscall(SYS_munmap, from, LOW_END - from, 0);
	if (raw_syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&program))
		raw_syscall(SYS_exit_group, 1, 0, 0);
}

/* ---- segments ---- */

static void set_bases(uint64_t fs, uint64_t gs)
{
	if (has_fsgsbase) {
		__asm__ volatile("wrfsbase %0\n\twrgsbase %1" : : "r"(fs), "r"(gs));
		return;
	}
	raw_syscall(SYS_arch_prctl, ARCH_SET_FS, (long)fs, 0);
	raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)gs, 0);
}

static void get_bases(struct state *s)
{
	if (has_fsgsbase) {
		__asm__ volatile("rdfsbase %0\n\trdgsbase %1" : "=r"(s->fs_base), "=r"(s->gs_base));
		return;
	}
	raw_syscall(SYS_arch_prctl, ARCH_GET_FS, (long)&s->fs_base, 0);
	raw_syscall(SYS_arch_prctl, ARCH_GET_GS, (long)&s->gs_base, 0);
}

static void get_data_selectors(uint16_t sel[6])
{
	__asm__ volatile("mov %%es, %0" : "=r"(sel[ES]));
	__asm__ volatile("mov %%ds, %0" : "=r"(sel[DS]));
	__asm__ volatile("mov %%fs, %0" : "=r"(sel[FS]));
	__asm__ volatile("mov %%gs, %0" : "=r"(sel[GS]));
}

/* Loads are slow, and most cases want what is there. */
static void set_data_selectors(const uint16_t want[6])
{
	uint16_t now[6];

	get_data_selectors(now);
	if (now[ES] != want[ES])
		__asm__ volatile("mov %0, %%es" : : "r"(want[ES]));
	if (now[DS] != want[DS])
		__asm__ volatile("mov %0, %%ds" : : "r"(want[DS]));
	if (now[FS] != want[FS])
		__asm__ volatile("mov %0, %%fs" : : "r"(want[FS]));
	if (now[GS] != want[GS])
		__asm__ volatile("mov %0, %%gs" : : "r"(want[GS]));
}

/* ---- faults ---- */

/* The kernel's frame has the state at the fault (uapi asm/sigcontext.h). */
void native_signal(int sig, void *info, void *context)
{
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	const ucontext_t *uc = context;
	const greg_t *g = uc->uc_mcontext.gregs;
	struct state *r = &native_result;

	(void)sig;
	(void)info;
	for (unsigned n = 0; n < 16; n++)
		r->gpr[n] = (uint64_t)g[order[n]];
	r->rip = (uint64_t)g[REG_RIP];
	r->rflags = (uint64_t)g[REG_EFL];
	r->vector = (uint64_t)g[REG_TRAPNO];
	r->error = (uint64_t)g[REG_ERR];
	r->cr2 = (uint64_t)g[REG_CR2];
	r->sel[CS] = (uint16_t)g[REG_CSGSFS];
	r->sel[SS] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
	tz_copy(r->area, uc->uc_mcontext.fpregs, area_bytes);
	native_leave();
}

static void run_case(const struct state *in, struct state *out)
{
	struct state *r = &native_result;

	tz_clear(r->area + 512, 64);
	set_data_selectors(in->sel);
	set_bases(in->fs_base, in->gs_base);
	if (!native_enter(in)) {
		r->gpr[RAX] = native_rax;
		r->rip = EXIT;
		r->vector = V_NONE;
		r->error = 0;
		r->cr2 = 0;
	}
	get_bases(r);
	get_data_selectors(r->sel);
	tz_copy(out, r, sizeof(*r));
}

void native_child_loop(struct native_shared *shared, uint32_t area_size, bool fsgsbase)
{
	struct batch b;

	area_bytes = area_size;
	has_fsgsbase = fsgsbase;
	confine();
	while (raw_syscall(SYS_read, CHILD_CMD_FD, (long)&b, sizeof(b)) == sizeof(b)) {
		for (uint32_t n = 0; n < b.count; n++) {
			shared->current = b.first + n;
			run_case(&shared->in[b.first + n], &shared->out[b.first + n]);
		}
		raw_syscall(SYS_write, CHILD_REPLY_FD, (long)&b, sizeof(b));
	}
	for (;;)
		raw_syscall(SYS_exit_group, 0, 0, 0);
}
