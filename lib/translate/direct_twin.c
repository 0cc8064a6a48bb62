/* SPDX-License-Identifier: Apache-2.0 */
/* The two tasks that guest user code runs in: how they start, stop and end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "mem/memslot.h"
#include "translate/direct.h"
#include "x86/fpu.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2u /* Linux 5.9 */
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1u
#endif

/* ---- the stub: all that the twin executes besides the guest's code ---- */

/*
 * Copied into the region. At offset 0: where struct direct_report and struct direct_orders are. The call that is handed
 * to this process is getppid(2), which the stub needs for nothing else.
 */
#define STUB_CALL_NR SYS_getppid
_Static_assert(offsetof(struct direct_report, gs_base) == 8 && offsetof(struct direct_report, selector) == 16 &&
		       offsetof(struct direct_report, scratch) == 24 &&
		       offsetof(struct direct_report, released) == 32 && offsetof(struct direct_orders, resume) == 4 &&
		       offsetof(struct direct_orders, fs_base) == 8 && offsetof(struct direct_orders, gs_base) == 16 &&
		       offsetof(struct direct_orders, pipe) == 24 && offsetof(struct direct_orders, listener) == 28 &&
		       offsetof(struct direct_orders, answer) == 32 && offsetof(struct direct_orders, program) == 56 &&
		       offsetof(struct direct_orders, stack) == 72 && offsetof(struct direct_orders, sequence) == 96 &&
		       offsetof(struct direct_orders, flags) == 104 && offsetof(struct direct_orders, call) == 112 &&
		       sizeof(struct direct_call) == 48,
	       "as the stub has them");
_Static_assert(SYS_read == 0 && SYS_rt_sigreturn == 15 && SYS_ioctl == 16 && SYS_clone == 56 && SYS_getppid == 110 &&
		       SYS_sigaltstack == 131 && SYS_prctl == 157 && SYS_exit_group == 231 && SYS_seccomp == 317,
	       "likewise");

__asm__(".pushsection .rodata\n"
	"direct_stub:\n"
	"	.quad 0\n"
	"	.quad 0\n"
	/* A system call for C: nr, five arguments. */
	"direct_stub_call:\n"
	"	mov %rdi, %rax\n"
	"	mov %rsi, %rdi\n"
	"	mov %rdx, %rsi\n"
	"	mov %rcx, %rdx\n"
	"	mov %r8, %r10\n"
	"	mov %r9, %r8\n"
	"	syscall\n"
	"	ret\n"
	/* The server: for each 1 in the pipe the orders, if they are new, then the runner's release if that is wanted.
	 */
	"direct_stub_server:\n"
	"	mov direct_stub(%rip), %rbx\n"
	"	mov 8+direct_stub(%rip), %rbp\n"
	"	xor %r12d, %r12d\n"
	"1:	mov 24(%rbp), %edi\n"
	"	lea 24(%rbx), %rsi\n"
	"	mov $1, %edx\n"
	"	xor %eax, %eax\n" /* read */
	"	syscall\n"
	"	cmp $1, %rax\n"
	"	jne 9f\n"
	"	xor %esi, %esi\n"
	"	cmpb $1, 24(%rbx)\n" /* else somebody asks whether all is well */
	"	jne 7f\n"
	"	mov 96(%rbp), %rax\n"
	"	cmp %r12, %rax\n"
	"	je 7f\n"
	"	mov %rax, %r12\n"
	"	mov (%rbp), %r13d\n"
	"	mov 4(%rbp), %r15d\n" /* once a runner stops, both are the next turn's */
	"	lea 112(%rbp), %r14\n"
	"4:	test %r13d, %r13d\n"
	"	jz 5f\n"
	"	mov (%r14), %rax\n"
	"	mov 8(%r14), %rdi\n"
	"	mov 16(%r14), %rsi\n"
	"	mov 24(%r14), %rdx\n"
	"	mov 32(%r14), %r10\n"
	"	mov 40(%r14), %r8\n"
	"	syscall\n"
	"	cmpq $56, (%r14)\n" /* clone */
	"	jne 3f\n"
	"	test %rax, %rax\n"
	"	jz direct_stub_runner\n"
	"3:	add $48, %r14\n"
	"	dec %r13d\n"
	"	test %rax, %rax\n"
	"	jns 4b\n"
	"6:	mov %rax, %rsi\n"
	"7:	mov $-1, %rdi\n"
	"	mov $110, %eax\n"
	"	syscall\n"
	"	jmp 1b\n"
	"5:	test %r15d, %r15d\n"
	"	jz 1b\n"
	"	rdtsc\n"
	"	shl $32, %rdx\n"
	"	or %rdx, %rax\n"
	"	mov %rax, 32(%rbx)\n"
	"	mov 28(%rbp), %edi\n"
	"	mov $0xc0182101, %esi\n" /* SECCOMP_IOCTL_NOTIF_SEND */
	"	lea 32(%rbp), %rdx\n"
	"	mov $16, %eax\n" /* ioctl */
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jns 1b\n"
	"	jmp 6b\n"
	/* A runner: time that faults, system calls that do, a signal stack, its filter; then it stops for the first
	 * time.
	 */
	"direct_stub_runner:\n"
	"	mov $1, %edi\n" /* PR_SET_PDEATHSIG, SIGKILL */
	"	mov $9, %esi\n"
	"	mov $157, %eax\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jnz 9f\n"
	"	mov $26, %edi\n" /* PR_SET_TSC, PR_TSC_SIGSEGV */
	"	mov $2, %esi\n"
	"	mov $157, %eax\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jnz 9f\n"
	/*
	 * PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON: all system calls elsewhere become SIGSYS, those that no
	 * filter sees (uretprobe, uprobe) as well. Kernels before 5.11 have neither this nor them.
	 */
	"	mov $59, %edi\n"
	"	mov $1, %esi\n"
	"	lea direct_stub(%rip), %rdx\n"
	"	mov $4096, %r10d\n"
	"	xor %r8d, %r8d\n"
	"	mov $157, %eax\n"
	"	syscall\n"
	"	lea 72(%rbp), %rdi\n"
	"	xor %esi, %esi\n"
	"	mov $131, %eax\n" /* sigaltstack */
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jnz 9f\n"
	"	mov $1, %edi\n" /* SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW */
	"	mov $4, %esi\n"
	"	lea 56(%rbp), %rdx\n"
	"	mov $317, %eax\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jnz 9f\n"
	"	ud2\n"
	"9:	mov $1, %edi\n"
	"	mov $231, %eax\n" /* exit_group */
	"	syscall\n"
	"	ud2\n"
	/* Signals: edi, rsi siginfo_t *, rdx ucontext_t *. */
	"direct_stub_handler:\n"
	"	mov direct_stub(%rip), %rbx\n"
	"	mov 8+direct_stub(%rip), %rbp\n"
	"	rdfsbase %rax\n"
	"	mov %rax, (%rbx)\n"
	"	rdgsbase %rax\n"
	"	mov %rax, 8(%rbx)\n"
	"	mov %ds, 16(%rbx)\n"
	"	mov %es, 18(%rbx)\n"
	"	mov %fs, 20(%rbx)\n"
	"	mov %gs, 22(%rbx)\n"
	"	mov $110, %eax\n"
	"	syscall\n"
	"direct_stub_held:\n"
	"	mov 8(%rbp), %rax\n"
	"	wrfsbase %rax\n"
	"	mov 16(%rbp), %rax\n"
	"	wrgsbase %rax\n"
	"	add $8, %rsp\n"
	"	push 104(%rbp)\n"
	"	popf\n"
	"	mov $15, %eax\n" /* rt_sigreturn */
	"	syscall\n"
	"direct_stub_returned:\n"
	"	ud2\n"
	"direct_stub_end:\n"
	".popsection\n");
extern const uint8_t direct_stub[], direct_stub_call[], direct_stub_server[], direct_stub_handler[], direct_stub_held[],
	direct_stub_returned[], direct_stub_end[];
_Static_assert(SECCOMP_IOCTL_NOTIF_SEND == 0xc0182101, "in the stub");

static uint64_t in_stub(const struct direct_region *r, const uint8_t *what)
{
	return (uint64_t)(uintptr_t)(r->stub + (what - direct_stub));
}

/* No libc: the guest's vector state may be live here, and the clone has nobody's locks. */
static long raw_syscall(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

/* ---- filters ---- */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define DO(action) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_##action)
#define ALLOW(nr) UNLESS(nr, 1), DO(ALLOW)

/* Of the runner, besides the server's: of both verdicts the stricter one holds, and a trap is stricter than to be held.
 */
static void runner_filter(struct direct_region *r)
{
	uint64_t held = in_stub(r, direct_stub_held), returned = in_stub(r, direct_stub_returned);
	struct sock_filter code[] = {
		LOAD(arch),
		UNLESS(AUDIT_ARCH_X86_64, 11), /* to the trap */
		LOAD_HIGH(instruction_pointer),
		UNLESS((uint32_t)(held >> 32), 9),
		LOAD(instruction_pointer),
		UNLESS((uint32_t)held, 3),
		LOAD(nr),
		UNLESS(STUB_CALL_NR, 5),
		DO(ALLOW),
		UNLESS((uint32_t)returned, 3),
		LOAD(nr),
		ALLOW(SYS_rt_sigreturn),
		DO(TRAP),
	};

	_Static_assert(ARRAY_SIZE(code) <= ARRAY_SIZE(((struct direct_orders *)0)->filter), "room for it");
	tz_copy(r->orders.filter, code, sizeof(code));
	r->orders.program = (struct sock_fprog){ .len = ARRAY_SIZE(code), .filter = r->orders.filter };
}

/* ---- in the clone ---- */

/* Returns the file descriptor that says when a task of the twin is held, or < 0. */
static long server_filter(const struct direct_region *r)
{
	uint64_t stub = (uint64_t)(uintptr_t)r->stub;
	struct sock_filter code[] = {
		LOAD(arch),
		UNLESS(AUDIT_ARCH_X86_64, 7),
		LOAD_HIGH(instruction_pointer),
		UNLESS((uint32_t)(stub >> 32), 5),
		LOAD(instruction_pointer),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)stub, 0, 3),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)stub + TZ_PAGE_SIZE, 2, 0),
		LOAD(nr),
		BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
		DO(TRAP),
		UNLESS(STUB_CALL_NR, 1),
		DO(USER_NOTIF),
		ALLOW(SYS_read),
		ALLOW(SYS_ioctl),
		ALLOW(SYS_mprotect),
		ALLOW(SYS_mremap),
		ALLOW(SYS_munmap),
		ALLOW(SYS_clone),
		ALLOW(SYS_rt_sigreturn),
		ALLOW(SYS_futex),
		ALLOW(SYS_close_range),
		ALLOW(SYS_prctl),
		ALLOW(SYS_sigaltstack),
		ALLOW(SYS_seccomp),
		ALLOW(SYS_exit_group),
		DO(TRAP),
	};
	struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };

	/* Nothing that it must not know is in its memory: no need to slow speculation down (seccomp(2)). */
	return raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			   SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&program, 0, 0);
}

/* SIGSYS: a system call. SIGUSR1: somebody wants the vCPU's attention. */
static const uint8_t stop_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS, SIGUSR1 };

static bool take_signals(const struct direct_region *r)
{
	/* The kernel's struct sigaction. It wants a restorer, which is not used. */
	struct {
		uint64_t handler, flags, restorer, mask;
	} action = { in_stub(r, direct_stub_handler), SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */,
		     in_stub(r, direct_stub_returned), UINT64_MAX };
	uint64_t blocked = UINT64_MAX;

	for (unsigned n = 0; n < ARRAY_SIZE(stop_signals); n++) {
		blocked &= ~BIT64(stop_signals[n] - 1);
		if (raw_syscall(SYS_rt_sigaction, stop_signals[n], (long)&action, 0, 8, 0))
			return false;
	}
	return !raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&blocked, 0, 8, 0);
}

/* Guest RAM where no guest's program is, not accessible: what is mapped from there later is a second mapping of it. */
static bool arrange_memory(struct translate_direct *d)
{
	struct direct_region *r = d->region;

	for (unsigned n = 0; n < d->aliases; n++) {
		const struct direct_alias *a = &d->alias[n];

		/* Of length 0: a second mapping of the same memory, if it is shared memory (mremap(2)). */
		if (raw_syscall(SYS_mremap, (long)a->host, 0, (long)a->size, MREMAP_MAYMOVE | MREMAP_FIXED,
				(long)a->at) != (long)a->at)
			continue;
		if (raw_syscall(SYS_mprotect, (long)a->at, (long)a->size, PROT_NONE, 0, 0))
			return false;
		r->report.shared[n] = true;
	}
	return !raw_syscall(SYS_mprotect, (long)&r->orders, (long)(r->stub - (uint8_t *)&r->orders), PROT_READ, 0, 0) &&
	       !raw_syscall(SYS_mprotect, (long)r->stub, TZ_PAGE_SIZE, PROT_READ | PROT_EXEC, 0, 0);
}

/* glibc's restartable sequences: the kernel would look for them where nothing is any more. */
static void forget_rseq(void)
{
	if (__rseq_size)
		raw_syscall(SYS_rseq, (long)((uint8_t *)__builtin_thread_pointer() + __rseq_offset), 32,
			    RSEQ_FLAG_UNREGISTER, RSEQ_SIG, 0);
}

static tz_noreturn void become_server(struct translate_direct *d)
{
	struct direct_region *r = d->region;
	long (*call)(long nr, long a, long b, long c, long d, long e) =
		(long (*)(long, long, long, long, long, long))(uintptr_t)in_stub(r, direct_stub_call);
	long listener, lo, hi;

	if (raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) ||
	    raw_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    raw_syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) /* a guest does not belong into a core file */ ||
	    !take_signals(r) || !arrange_memory(d))
		goto fail;
	forget_rseq();
	listener = server_filter(r);
	if (listener < 0)
		goto fail;
	r->report.listener = (int32_t)listener;
	/* Until here all files were shared, so this process has the listener as well. */
	lo = listener < d->pipe[0] ? listener : d->pipe[0];
	hi = listener < d->pipe[0] ? d->pipe[0] : listener;
	if ((lo ? call(SYS_close_range, 0, lo - 1, CLOSE_RANGE_UNSHARE, 0, 0)
		: call(SYS_close_range, hi + 1, UINT32_MAX, CLOSE_RANGE_UNSHARE, 0, 0)) ||
	    (lo + 1 < hi && call(SYS_close_range, lo + 1, hi - 1, 0, 0, 0)) ||
	    call(SYS_close_range, hi + 1, UINT32_MAX, 0, 0, 0))
		goto fail;
	r->report.ready = 1;
	call(SYS_futex, (long)&r->report.ready, FUTEX_WAKE, 1, 0, 0);
	__asm__ volatile("jmp *%0" : : "r"(in_stub(r, direct_stub_server)) : "memory");
fail:
	for (;;)
		raw_syscall(SYS_exit_group, 1, 0, 0, 0, 0);
}

/* ---- here: the region ---- */

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
	if (raw_syscall(SYS_getrandom, (long)&at, sizeof(at), 0, 0, 0) != sizeof(at))
		return false;
	at = (AREA_LO + at % (AREA_HI - AREA_LO)) & ~(AREA_ALIGN - 1);
	r = (struct direct_region *)raw_syscall(SYS_mmap, (long)at, sizeof(*r), PROT_READ | PROT_WRITE,
						MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
	if ((uint64_t)(uintptr_t)r != at)
		return false;
	d->region = r;
	tz_copy(r->stub, direct_stub, (size_t)(direct_stub_end - direct_stub));
	guest_store64(r->stub, (uint64_t)(uintptr_t)&r->report);
	guest_store64(r->stub + 8, (uint64_t)(uintptr_t)&r->orders);
	runner_filter(r);
	r->orders.stack = (stack_t){ .ss_sp = r->signal_stack, .ss_size = DIRECT_SIGNAL_STACK };
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

/* ---- here: start and end ---- */

static bool is_gone(pid_t pid)
{
	siginfo_t info;

	info.si_pid = 0;
	return raw_syscall(SYS_waitid, P_PID, pid, (long)&info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) ||
	       info.si_pid == pid;
}

static void end(pid_t *pid)
{
	if (!*pid)
		return;
	raw_syscall(SYS_kill, *pid, SIGKILL, 0, 0, 0);
	while (raw_syscall(SYS_wait4, *pid, 0, __WALL, 0, 0) == -EINTR)
		;
	*pid = 0;
}

static void close_file(int *fd)
{
	if (*fd >= 0)
		raw_syscall(SYS_close, *fd, 0, 0, 0, 0);
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
		raw_syscall(SYS_futex, (long)ready, FUTEX_WAIT, 0, (long)&tenth, 0);
		if (is_gone(d->server))
			break;
	}
	d->listener = d->region->report.listener;
	return atomic_load_explicit(ready, memory_order_acquire);
}

bool direct_twin_start(struct translate_direct *d)
{
	long pid;

	if (!region_create(d) || !plan_aliases(d) || raw_syscall(SYS_pipe2, (long)d->pipe, O_CLOEXEC, 0, 0, 0))
		return false;
	d->region->report.ready = 0;
	d->region->report.listener = -1;
	d->region->orders.count = 0;
	d->region->orders.sequence = 0;
	d->region->orders.pipe = d->pipe[0];
	x86_fpu_put(d->t->cpu);
	/* No exit signal: it is nobody's child to wait for but ours (__WALL). */
	pid = raw_syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0);
	if (!pid)
		become_server(d);
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
	d->sync = !raw_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_SET_FLAGS,
			       SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 0, 0);
	d->cpu = -1;
	d->drop_all = true; /* the libraries first of all */
	return true;
}

/* ---- here: taking turns ---- */

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
	fd = raw_syscall(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return false;
	size = raw_syscall(SYS_read, fd, (long)text, sizeof(text), 0, 0);
	raw_syscall(SYS_close, fd, 0, 0, 0, 0);
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

	raw_syscall(SYS_clock_gettime, clock, (long)&t, 0, 0, 0);
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
	if (raw_syscall(SYS_pidfd_send_signal, d->pidfd, SIGUSR1, 0, 0, 0) || is_gone(d->runner))
		raw_syscall(SYS_write, d->pipe[1], (long)"\0", 1, 0, 0);
	else if (is_deaf(d))
		raw_syscall(SYS_pidfd_send_signal, d->pidfd, SIGKILL, 0, 0, 0);
}

#define BRIEF 3000000 /* TSC cycles between stops: frequent ones */

static void bind(const struct translate_direct *d, const uint64_t *cpus, size_t size)
{
	raw_syscall(SYS_sched_setaffinity, d->server, (long)size, (long)cpus, 0, 0);
	if (d->runner)
		raw_syscall(SYS_sched_setaffinity, d->runner, (long)size, (long)cpus, 0, 0);
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
		size = raw_syscall(SYS_sched_getaffinity, 0, sizeof(set), (long)set, 0, 0);
		if (size > 0)
			bind(d, set, (size_t)size);
		d->cpu = -1;
		return;
	}
	if (raw_syscall(SYS_getcpu, (long)&cpu, 0, 0, 0, 0) || cpu >= 64 * ARRAY_SIZE(set) || (int)cpu == d->cpu)
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
		err = raw_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_SEND, (long)&r, 0, 0);
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
		err = raw_syscall(SYS_ioctl, d->listener, (long)SECCOMP_IOCTL_NOTIF_RECV, (long)&n, 0, 0);
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
		n = raw_syscall(SYS_write, d->pipe[1], (long)"\1", 1, 0, 0);
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
	d->pidfd = (int)raw_syscall(SYS_pidfd_open, d->runner, 0, 0, 0, 0);
	d->cpu = -1;
	return d->pidfd >= 0;
}

/* ---- frames ---- */

#define FRAME_SW 464
#define FRAME_SW_SIZE (FRAME_SW + 16)

static bool on_signal_stack(const struct translate_direct *d, uint64_t at, uint64_t size, uint64_t align)
{
	uint64_t lo = (uint64_t)(uintptr_t)d->region->signal_stack;

	return at >= lo && !(at % align) && at <= lo + DIRECT_SIGNAL_STACK && size <= lo + DIRECT_SIGNAL_STACK - at;
}

ucontext_t *direct_twin_context(struct translate_direct *d, uint32_t *vector_size)
{
	ucontext_t *uc = (ucontext_t *)(uintptr_t)d->where[2];
	uint64_t fp;

	/* The kernel's is shorter than libc's: up to the signal mask. */
	if (!on_signal_stack(d, d->where[2], offsetof(ucontext_t, uc_sigmask) + 8, 8))
		return NULL;
	fp = (uint64_t)(uintptr_t)uc->uc_mcontext.fpregs;
	if (!on_signal_stack(d, fp, FRAME_SW_SIZE + 4, 64))
		return NULL;
	*vector_size = guest_load32((const uint8_t *)uc->uc_mcontext.fpregs + FRAME_SW_SIZE);
	return *vector_size >= d->vector_size && on_signal_stack(d, fp, *vector_size, 64) ? uc : NULL;
}

void direct_twin_tidy(struct translate_direct *d)
{
	uint8_t *lo = d->region->signal_stack, *hi = lo + DIRECT_SIGNAL_STACK, *start, *end;
	uint32_t vector_size;
	ucontext_t *uc = direct_twin_context(d, &vector_size);

	if (!uc)
		return;            /* it will be found damaged */
	start = (uint8_t *)uc - 8; /* the return address */
	end = (uint8_t *)uc->uc_mcontext.fpregs + vector_size;
	if (start > lo)
		tz_clear(lo, (size_t)(start - lo));
	tz_clear(end, (size_t)(hi - end));
	tz_clear(&d->region->report, TZ_PAGE_SIZE);
}

const siginfo_t *direct_twin_siginfo(const struct translate_direct *d)
{
	return on_signal_stack(d, d->where[1], sizeof(siginfo_t), 8) ? (const siginfo_t *)(uintptr_t)d->where[1] : NULL;
}
