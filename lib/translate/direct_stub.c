/* SPDX-License-Identifier: Apache-2.0 */
/* The two tasks that guest user code runs in, from their side: the stub, their filters, the way there. */
#include <linux/audit.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include "translate/direct.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2u /* Linux 5.9 */
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

long direct_syscall(long nr, long a, long b, long c, long d, long e)
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

void direct_stub_install(struct translate_direct *d)
{
	struct direct_region *r = d->region;

	tz_copy(r->stub, direct_stub, (size_t)(direct_stub_end - direct_stub));
	guest_store64(r->stub, (uint64_t)(uintptr_t)&r->report);
	guest_store64(r->stub + 8, (uint64_t)(uintptr_t)&r->orders);
	runner_filter(r);
	r->orders.stack = (stack_t){ .ss_sp = r->signal_stack, .ss_size = DIRECT_SIGNAL_STACK };
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
	return direct_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
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
		if (direct_syscall(SYS_rt_sigaction, stop_signals[n], (long)&action, 0, 8, 0))
			return false;
	}
	return !direct_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&blocked, 0, 8, 0);
}

/* Guest RAM where no guest's program is, not accessible: what is mapped from there later is a second mapping of it. */
static bool arrange_memory(struct translate_direct *d)
{
	struct direct_region *r = d->region;

	for (unsigned n = 0; n < d->aliases; n++) {
		const struct direct_alias *a = &d->alias[n];

		/* Of length 0: a second mapping of the same memory, if it is shared memory (mremap(2)). */
		if (direct_syscall(SYS_mremap, (long)a->host, 0, (long)a->size, MREMAP_MAYMOVE | MREMAP_FIXED,
				   (long)a->at) != (long)a->at)
			continue;
		if (direct_syscall(SYS_mprotect, (long)a->at, (long)a->size, PROT_NONE, 0, 0))
			return false;
		r->report.shared[n] = true;
	}
	return !direct_syscall(SYS_mprotect, (long)&r->orders, (long)(r->stub - (uint8_t *)&r->orders), PROT_READ, 0,
			       0) &&
	       !direct_syscall(SYS_mprotect, (long)r->stub, TZ_PAGE_SIZE, PROT_READ | PROT_EXEC, 0, 0);
}

/* glibc's restartable sequences: the kernel would look for them where nothing is any more. */
static void forget_rseq(void)
{
	if (__rseq_size)
		direct_syscall(SYS_rseq, (long)((uint8_t *)__builtin_thread_pointer() + __rseq_offset), 32,
			       RSEQ_FLAG_UNREGISTER, RSEQ_SIG, 0);
}

tz_noreturn void direct_become_server(struct translate_direct *d)
{
	struct direct_region *r = d->region;
	long (*call)(long nr, long a, long b, long c, long d, long e) =
		(long (*)(long, long, long, long, long, long))(uintptr_t)in_stub(r, direct_stub_call);
	long listener, lo, hi;

	if (direct_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) ||
	    direct_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    direct_syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) /* a guest does not belong into a core file */ ||
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
		direct_syscall(SYS_exit_group, 1, 0, 0, 0, 0);
}
