/* SPDX-License-Identifier: Apache-2.0 */
/* The two tasks that guest user code runs in, from this side: how they start, stop and end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "mem/memslot.h"
#include "translate/direct.h"
#include "x86/fpu.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1u
#endif

/* ---- the region ---- */

#define AREA_LO (UINT64_C(1) << 44)
#define AREA_HI (UINT64_C(5) << 44)
#define AREA_ALIGN (UINT64_C(1) << 30)

/* An address where programs seldom have anything, and none can know. */
static bool region_create(struct translate_direct *d)
{
	struct direct_region *r;
	uint64_t at;

	if (d->region)
		return true;
	if (direct_syscall(SYS_getrandom, (long)&at, sizeof(at), 0, 0, 0) != sizeof(at))
		return false;
	at = (AREA_LO + at % (AREA_HI - AREA_LO)) & ~(AREA_ALIGN - 1);
	r = (struct direct_region *)direct_syscall(SYS_mmap, (long)at, sizeof(*r), PROT_READ | PROT_WRITE,
						   MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
	if ((uint64_t)(uintptr_t)r != at)
		return false;
	d->region = r;
	direct_stub_install(d);
	return true;
}

/* Where guest RAM goes in the twin. */
static bool plan_aliases(struct translate_direct *d)
{
	const struct mem_map *map = atomic_load(&d->t->cpu->mem->map);
	uint64_t at = (uint64_t)(uintptr_t)d->region + AREA_ALIGN;

	d->aliases = 0;
	for (size_t n = 0; n < map->count; n++) {
		const struct mem_slot *slot = &map->slot[n];

		if (slot->flags & MEM_SLOT_READONLY)
			continue;
		if (d->aliases == DIRECT_SLOTS || slot->size > AREA_HI)
			return false;
		d->region->report.shared[d->aliases] = false;
		d->alias[d->aliases++] = (struct direct_alias){ (uint64_t)(uintptr_t)slot->hva, slot->size, at };
		at = (at + slot->size + 2 * DIRECT_LARGE_SIZE) & ~(DIRECT_LARGE_SIZE - 1);
	}
	d->end = at;
	return at < AREA_HI + AREA_HI / 2;
}

/* ---- start and end ---- */

static bool is_gone(pid_t pid)
{
	siginfo_t info;

	info.si_pid = 0;
	return direct_syscall(SYS_waitid, P_PID, pid, (long)&info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) ||
	       info.si_pid == pid;
}

static void end(pid_t *pid)
{
	if (!*pid)
		return;
	direct_syscall(SYS_kill, *pid, SIGKILL, 0, 0, 0);
	while (direct_syscall(SYS_wait4, *pid, 0, __WALL, 0, 0) == -EINTR)
		;
	*pid = 0;
}

static void close_file(int *fd)
{
	if (*fd >= 0)
		direct_syscall(SYS_close, *fd, 0, 0, 0, 0);
	*fd = -1;
}

static void end_runner(struct translate_direct *d)
{
	end(&d->runner);
	close_file(&d->pidfd);
	d->notice = 0;
}

void direct_twin_end(struct translate_direct *d)
{
	end_runner(d);
	end(&d->server);
	close_file(&d->listener);
	close_file(&d->pipe[0]);
	close_file(&d->pipe[1]);
}

static bool wait_ready(struct translate_direct *d)
{
	_Atomic uint32_t *ready = &d->region->report.ready;
	struct timespec tenth = { .tv_nsec = 100000000 };

	while (!atomic_load_explicit(ready, memory_order_acquire)) {
		direct_syscall(SYS_futex, (long)ready, FUTEX_WAIT, 0, (long)&tenth, 0);
		if (is_gone(d->server))
			break;
	}
	d->listener = d->region->report.listener;
	return atomic_load_explicit(ready, memory_order_acquire);
}

bool direct_twin_start(struct translate_direct *d)
{
	long pid;

	if (!region_create(d) || !plan_aliases(d) || direct_syscall(SYS_pipe2, (long)d->pipe, O_CLOEXEC, 0, 0, 0))
		return false;
	d->region->report.ready = 0;
	d->region->report.listener = -1;
	d->region->orders.count = 0;
	d->region->orders.sequence = 0;
	d->region->orders.pipe = d->pipe[0];
	x86_fpu_put(d->t->cpu);
	/* No exit signal: it is nobody's child to wait for but ours (__WALL). */
	pid = direct_syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0);
	if (!pid)
		direct_become_server(d);
	if (pid < 0)
		return false;
	d->server = (pid_t)pid;
	d->thread = __builtin_thread_pointer();
	if (!wait_ready(d))
		return false;
	for (unsigned n = 0; n < d->aliases; n++)
		if (!d->region->report.shared[n])
			d->alias[n].at = 0;
	d->region->orders.listener = d->listener;
	d->sync = !direct_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_SET_FLAGS,
				  SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 0, 0);
	d->cpu = -1;
	d->drop_all = true; /* the libraries first of all */
	return true;
}

/* ---- taking turns ---- */

/* Of a task: is SIGUSR1 blocked? (proc(5), "SigBlk") */
static bool blocks_attention(pid_t pid)
{
	static const char field[] = "\nSigBlk:\t";
	char path[32] = "/proc/", text[2048];
	long fd, size;
	uint64_t mask = 0;
	unsigned end = 6;

	for (uint32_t unit = 1000000000; unit; unit /= 10)
		if ((uint32_t)pid >= unit)
			path[end++] = (char)('0' + (uint32_t)pid / unit % 10);
	tz_copy(path + end, "/status", sizeof("/status"));
	fd = direct_syscall(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return false;
	size = direct_syscall(SYS_read, fd, (long)text, sizeof(text), 0, 0);
	direct_syscall(SYS_close, fd, 0, 0, 0, 0);
	for (long n = 0; n + (long)sizeof(field) + 16 <= size; n++) {
		unsigned same = 0;

		while (same < sizeof(field) - 1 && text[n + same] == field[same])
			same++;
		if (same < sizeof(field) - 1)
			continue;
		for (unsigned k = 0; k < 16; k++) {
			char c = text[n + same + k];

			mask = mask << 4 | (unsigned)(c > '9' ? c - 'a' + 10 : c - '0');
		}
		break;
	}
	return mask & BIT64(SIGUSR1 - 1);
}

/*
 * Asked again and again (core/ticker.c) and running all the while: a frame of its own making can have had the kernel
 * block the signal.
 */
#define UNHEARD_NS 10000000

uint64_t direct_twin_clock(long clock)
{
	struct timespec t = { 0 };

	direct_syscall(SYS_clock_gettime, clock, (long)&t, 0, 0, 0);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool is_deaf(struct translate_direct *d)
{
	uint64_t now = direct_twin_clock(DIRECT_RUNNER_CLOCK(d->runner)) + 1, first = 0;

	return !atomic_compare_exchange_strong(&d->asked, &first, now) && now > first && now - first >= UNHEARD_NS &&
	       blocks_attention(d->runner);
}

void direct_twin_interrupt(struct x86_cpu *cpu)
{
	struct translate_direct *d = translate_of(cpu)->direct;

	/*
	 * That it is gone nobody will say but the server, if it is asked. (Who comes here late, when the vCPU's thread
	 * is further already, asks in vain.)
	 */
	if (direct_syscall(SYS_pidfd_send_signal, d->pidfd, SIGUSR1, 0, 0, 0) || is_gone(d->runner))
		direct_syscall(SYS_write, d->pipe[1], (long)"\0", 1, 0, 0);
	else if (is_deaf(d))
		direct_syscall(SYS_pidfd_send_signal, d->pidfd, SIGKILL, 0, 0, 0);
}

#define BRIEF 3000000 /* TSC cycles between stops: frequent ones */

static void bind(const struct translate_direct *d, const uint64_t *cpus, size_t size)
{
	direct_syscall(SYS_sched_setaffinity, d->server, (long)size, (long)cpus, 0, 0);
	if (d->runner)
		direct_syscall(SYS_sched_setaffinity, d->runner, (long)size, (long)cpus, 0, 0);
}

/*
 * Of this thread, the server and the runner one runs at a time, and a wake-up of another CPU costs several times what a
 * switch does. So where stops are frequent both are bound to this thread's CPU, which the kernel may change: it lets
 * the one who is woken by a stop run where that was (d->sync), but knows nothing of the server. A runner that goes on
 * for long is free.
 */
static void stay_together(struct translate_direct *d)
{
	uint64_t set[16] = { 0 };
	unsigned cpu = 0;
	long size;

	if (d->sync && !d->brief) {
		if (d->cpu < 0)
			return;
		size = direct_syscall(SYS_sched_getaffinity, 0, sizeof(set), (long)set, 0, 0);
		if (size > 0)
			bind(d, set, (size_t)size);
		d->cpu = -1;
		return;
	}
	if (direct_syscall(SYS_getcpu, (long)&cpu, 0, 0, 0, 0) || cpu >= 64 * ARRAY_SIZE(set) || (int)cpu == d->cpu)
		return;
	d->cpu = (int)cpu;
	set[cpu / 64] = BIT64(cpu % 64);
	bind(d, set, sizeof(set));
}

static bool answer(struct translate_direct *d, uint64_t id)
{
	struct seccomp_notif_resp r = { .id = id };

	long err;

	do
		err = direct_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_SEND, (long)&r, 0, 0);
	while (err == -EINTR);
	return !err;
}

/* Until a task is held. */
static enum direct_result receive(struct translate_direct *d)
{
	struct seccomp_notif n;

	for (;;) {
		long err;

		tz_clear(&n, sizeof(n));
		err = direct_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_RECV, (long)&n, 0, 0);
		if (err == -EINTR && d->runner) {
			/* The vCPU's thread has a signal to look at. */
			x86_cpu_attention(d->t->cpu, X86_ATT_EXIT);
			continue;
		}
		/* ENOENT: who was held has ended before it could be looked at. */
		if (err &&
		    ((err != -ENOENT && err != -EINTR) || is_gone(d->server) || (d->runner && is_gone(d->runner))))
			return DIRECT_LOST;
		if (err)
			continue;
		if ((pid_t)n.pid == d->server) {
			answer(d, n.id);
			d->error = (int64_t)n.data.args[1];
			if (d->error)
				return DIRECT_REFUSED;
			if (d->runner && is_gone(d->runner))
				return DIRECT_LOST;
			continue;
		}
		if (d->runner && (pid_t)n.pid != d->runner)
			continue; /* one that was ended meanwhile */
		d->runner = (pid_t)n.pid;
		d->notice = n.id;
		for (unsigned k = 0; k < ARRAY_SIZE(d->where); k++)
			d->where[k] = n.data.args[k];
		return DIRECT_STOPPED;
	}
}

static bool call_server(struct translate_direct *d)
{
	long n;

	atomic_fetch_add(&d->region->orders.sequence, 1);
	do
		n = direct_syscall(SYS_write, d->pipe[1], (long)"\1", 1, 0, 0);
	while (n == -EINTR);
	return n == 1;
}

enum direct_result direct_twin_go(struct translate_direct *d)
{
	struct direct_orders *o = &d->region->orders;
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t notice = d->notice, now;
	enum direct_result r;
	bool gone, orders = o->count;

	stay_together(d);
	d->notice = 0;
	atomic_store(&d->asked, 0);
	cpu->interrupt = direct_twin_interrupt;
	/* Who asks for attention from now on finds that, who did before is seen here. */
	if (atomic_load(&cpu->attention))
		direct_twin_interrupt(cpu);
	now = d->released = __builtin_ia32_rdtsc();
	if (orders) {
		o->resume = 1;
		o->answer = (struct seccomp_notif_resp){ .id = notice };
		gone = !call_server(d);
	} else {
		gone = !answer(d, notice);
	}
	r = gone ? DIRECT_LOST : receive(d);
	cpu->interrupt = NULL;
	/* The guest may have written there: it is good for the account only. */
	if (orders && d->region->report.released - now < __builtin_ia32_rdtsc() - now)
		d->released = d->region->report.released;
	d->brief = __builtin_ia32_rdtsc() - d->released < BRIEF;
	o->count = o->resume = 0;
	if (r == DIRECT_REFUSED)
		d->notice = notice;
	return r;
}

bool direct_twin_renew(struct translate_direct *d)
{
	struct direct_orders *o = &d->region->orders;
	enum direct_result r = DIRECT_REFUSED;

	end_runner(d);
	o->resume = 0;
	/* Room for one more. */
	if (o->count == DIRECT_CALLS)
		d->drop_all = true;
	direct_map_prepare(d);
	if (direct_map_order(d, SYS_clone, CLONE_VM | CLONE_PARENT, 0, 0, 0, 0) && call_server(d))
		r = receive(d);
	o->count = 0;
	if (r != DIRECT_STOPPED)
		return false;
	d->pidfd = (int)direct_syscall(SYS_pidfd_open, d->runner, 0, 0, 0, 0);
	d->cpu = -1;
	return d->pidfd >= 0;
}
