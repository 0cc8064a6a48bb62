/* SPDX-License-Identifier: Apache-2.0 */
/* The process that guest user code runs in: how it starts, parks and ends. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "translate/direct.h"
#include "x86/fpu.h"

/* ---- the stub: all that the twin executes besides translated code ---- */

/*
 * Copied into the region. Offset 0: the region's address; 8: a UD2 to park by; 16: the restorer; 32: the handler
 * (edi signal, rsi siginfo, rdx ucontext). Offsets into struct direct_report: parked 0, signal 4, context 8, error 16,
 * fault 24; into struct direct_orders: sequence 0, count 4, resume 8, fs_base 16, call 32.
 */
#define STUB_TRAP 8
#define STUB_RESTORER 16
#define STUB_HANDLER 32
_Static_assert(offsetof(struct direct_report, error) == 16 && offsetof(struct direct_report, fault) == 24 &&
		       offsetof(struct direct_orders, fs_base) == 16 && offsetof(struct direct_orders, call) == 32 &&
		       sizeof(struct direct_call) == 48,
	       "as the stub has them");

__asm__(".pushsection .rodata\n"
	"direct_stub:\n"
	"	.quad 0\n"
	"	ud2\n"
	"	.org direct_stub + 16\n"
	"	mov $15, %eax\n" /* rt_sigreturn */
	"	syscall\n"
	"	.org direct_stub + 32\n"
	"	mov direct_stub(%rip), %rbx\n"
	"	lea direct_orders_offset(%rip), %rbp\n"
	"	mov (%rbp), %rbp\n"
	"	add %rbx, %rbp\n"
	"	mov %edi, 4(%rbx)\n"
	"	mov %rdx, 8(%rbx)\n"
	"	movq $0, 16(%rbx)\n"
	"	mov %rsi, 24(%rbx)\n"
	"	mov (%rbp), %r12d\n"
	"1:	movl $1, (%rbx)\n"
	"	mov %rbx, %rdi\n"
	"	mov $1, %esi\n" /* FUTEX_WAKE */
	"	mov $1, %edx\n"
	"	mov $202, %eax\n" /* futex */
	"	syscall\n"
	"2:	cmp %r12d, (%rbp)\n"
	"	jne 3f\n"
	"	mov %rbp, %rdi\n"
	"	xor %esi, %esi\n" /* FUTEX_WAIT */
	"	mov %r12d, %edx\n"
	"	xor %r10d, %r10d\n"
	"	mov $202, %eax\n"
	"	syscall\n"
	"	jmp 2b\n"
	"3:	mov (%rbp), %r12d\n"
	"	mov 4(%rbp), %r13d\n"
	"	lea 32(%rbp), %r14\n"
	"4:	test %r13d, %r13d\n"
	"	jz 5f\n"
	"	mov (%r14), %rax\n"
	"	mov 8(%r14), %rdi\n"
	"	mov 16(%r14), %rsi\n"
	"	mov 24(%r14), %rdx\n"
	"	mov 32(%r14), %r10\n"
	"	mov 40(%r14), %r8\n"
	"	syscall\n"
	"	add $48, %r14\n"
	"	dec %r13d\n"
	"	test %rax, %rax\n"
	"	jns 4b\n"
	"	mov %rax, 16(%rbx)\n"
	"	jmp 1b\n"
	"5:	cmpl $0, 8(%rbp)\n"
	"	je 1b\n"
	"	mov 16(%rbp), %rax\n"
	"	wrfsbase %rax\n"
	"	ret\n" /* to the restorer */
	"direct_orders_offset:\n"
	"	.quad 0\n"
	"direct_stub_end:\n"
	".popsection\n");
extern const uint8_t direct_stub[], direct_orders_offset[], direct_stub_end[];

/* No libc: for the clone, which has nobody's locks and soon no libc. */
static long raw_syscall(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return r;
}

/* ---- in the clone ---- */

#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static long confine(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_futex),
		ALLOW(SYS_rt_sigreturn),
		ALLOW(SYS_mprotect),
		ALLOW(SYS_mremap),
		ALLOW(SYS_munmap),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };

	/* Nothing that it must not know is in its memory: no need to slow speculation down (seccomp(2)). */
	return raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, (long)&program, 0, 0);
}

static const uint8_t park_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE };

static bool take_signals(const struct direct_region *r)
{
	/* The kernel's struct sigaction. */
	struct {
		uint64_t handler, flags, restorer, mask;
	} action = { (uint64_t)(uintptr_t)(r->stub + STUB_HANDLER),
		     SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */,
		     (uint64_t)(uintptr_t)(r->stub + STUB_RESTORER), UINT64_MAX };
	struct {
		uint64_t sp;
		int flags;
		uint64_t size;
	} stack = { (uint64_t)(uintptr_t)r->signal_stack, 0, DIRECT_SIGNAL_STACK };
	uint64_t blocked = UINT64_MAX;

	for (unsigned n = 0; n < ARRAY_SIZE(park_signals); n++) {
		blocked &= ~BIT64(park_signals[n] - 1);
		if (raw_syscall(SYS_rt_sigaction, park_signals[n], (long)&action, 0, 8, 0))
			return false;
	}
	return !raw_syscall(SYS_sigaltstack, (long)&stack, 0, 0, 0, 0) &&
	       !raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)&blocked, 0, 8, 0);
}

static bool give_up_memory(struct translate_direct *d)
{
	struct direct_region *r = d->region;

	for (unsigned n = 0; n < d->ranges; n++) {
		const struct direct_range *g = &d->reserved[n];

		if (g->start == (uint64_t)(uintptr_t)r || g->start == (uint64_t)(uintptr_t)d->t->rx)
			continue;
		if (raw_syscall(SYS_mprotect, (long)g->start, (long)(g->end - g->start), PROT_NONE, 0, 0))
			return false;
	}
	return !raw_syscall(SYS_mprotect, (long)r->below, TZ_PAGE_SIZE, PROT_NONE, 0, 0) &&
	       !raw_syscall(SYS_mprotect, (long)r->above, TZ_PAGE_SIZE, PROT_NONE, 0, 0) &&
	       !raw_syscall(SYS_mprotect, (long)r->jump, (long)(r->stub - (uint8_t *)r->jump), PROT_READ, 0, 0) &&
	       !raw_syscall(SYS_mprotect, (long)r->stub, TZ_PAGE_SIZE, PROT_READ | PROT_EXEC, 0, 0);
}

/* glibc's restartable sequences: the kernel would look for them where nothing is any more. */
static void forget_rseq(void)
{
	if (__rseq_size)
		raw_syscall(SYS_rseq, (long)((uint8_t *)__builtin_thread_pointer() + __rseq_offset), 32,
			    RSEQ_FLAG_UNREGISTER, RSEQ_SIG, 0);
}

static tz_noreturn void become_twin(struct translate_direct *d)
{
	struct direct_region *r = d->region;
	uint64_t gs = (uint64_t)(uintptr_t)d->frame - offsetof(struct x86_tlb, engine);

	if (raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) ||
	    raw_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || !take_signals(r) || !give_up_memory(d))
		goto fail;
	if (raw_syscall(SYS_close_range, 0, UINT32_MAX, 0, 0, 0))
		for (long fd = 0; fd < 65536; fd++)
			raw_syscall(SYS_close, fd, 0, 0, 0, 0);
	forget_rseq();
	if (confine())
		goto fail;
	__asm__ volatile("wrgsbase %0\n\tmov %1, %%rsp\n\tjmp *%2"
			 :
			 : "r"(gs), "r"(r->stack + sizeof(r->stack) / 2), "r"(r->stub + STUB_TRAP)
			 : "memory");
fail:
	for (;;)
		raw_syscall(SYS_exit_group, 1, 0, 0, 0, 0);
}

/* ---- here ---- */

static bool region_create(struct translate_direct *d)
{
	struct direct_region *r;
	uint64_t offset = offsetof(struct direct_region, orders);

	if (d->region)
		return true;
	r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return false;
	d->region = r;
	d->frame = (struct translate_frame *)(void *)r->frame;
	for (unsigned n = 0; n < ARRAY_SIZE(r->jump); n++)
		r->jump[n].rip = translate_jump_none(n);
	tz_copy(r->stub, direct_stub, (size_t)(direct_stub_end - direct_stub));
	guest_store64(r->stub, (uint64_t)(uintptr_t)r);
	guest_store64(r->stub + (direct_orders_offset - direct_stub), offset);
	return true;
}

void direct_twin_end(struct translate_direct *d)
{
	if (!d->twin)
		return;
	raw_syscall(SYS_kill, d->twin, SIGKILL, 0, 0, 0);
	while (raw_syscall(SYS_wait4, d->twin, 0, __WALL, 0, 0) == -EINTR)
		;
	d->twin = 0;
}

static bool twin_is_gone(struct translate_direct *d)
{
	if (raw_syscall(SYS_wait4, d->twin, 0, WNOHANG | __WALL, 0, 0) != d->twin)
		return false;
	d->twin = 0;
	return true;
}

#define PATIENCE 30 /* seconds in which a running twin must come to a poll */

static bool wait_parked(struct translate_direct *d)
{
	_Atomic uint32_t *parked = &d->region->report.parked;
	struct timespec second = { .tv_sec = 1 };
	unsigned seconds = 0;

	while (!atomic_load_explicit(parked, memory_order_acquire)) {
		if (raw_syscall(SYS_futex, (long)parked, FUTEX_WAIT, 0, (long)&second, 0) != -ETIMEDOUT)
			continue;
		if (twin_is_gone(d))
			return false;
		/* The guest has overwritten what it parks or polls by. */
		if (atomic_load(&d->t->cpu->attention) && ++seconds > PATIENCE) {
			direct_twin_end(d);
			return false;
		}
	}
	return true;
}

bool direct_twin_go(struct translate_direct *d, bool run)
{
	struct direct_orders *o = &d->region->orders;

	o->resume = run;
	d->region->report.parked = 0;
	atomic_fetch_add(&o->sequence, 1);
	raw_syscall(SYS_futex, (long)&o->sequence, FUTEX_WAKE, 1, 0, 0);
	if (!wait_parked(d))
		return false;
	o->count = 0;
	return true;
}

bool direct_twin_start(struct translate_direct *d)
{
	long pid;

	if (!region_create(d))
		return false;
	direct_map_reserve(d);
	d->region->report.parked = 0;
	d->region->orders.count = 0;
	x86_fpu_put(d->t->cpu);
	/* No exit signal: it is nobody's child to wait for but ours (__WALL). */
	pid = raw_syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (!pid)
		become_twin(d);
	if (pid < 0)
		return false;
	d->twin = (pid_t)pid;
	if (!wait_parked(d))
		return false;
	/* All that is not reserved goes, the libraries first of all. */
	d->drop_all = true;
	direct_map_prepare(d);
	return direct_twin_go(d, false) && !d->region->report.error;
}

ucontext_t *direct_twin_context(struct translate_direct *d, uint32_t *vector_size)
{
	uint64_t at = d->region->report.context, lo = (uint64_t)(uintptr_t)d->region->signal_stack;
	ucontext_t *uc = (ucontext_t *)(uintptr_t)at;
	uint64_t fp;

	if (at < lo || at % 8 || at + sizeof(*uc) > lo + DIRECT_SIGNAL_STACK)
		return NULL;
	fp = (uint64_t)(uintptr_t)uc->uc_mcontext.fpregs;
	if (fp < lo || fp % 64 || fp + DIRECT_FRAME_MIN > lo + DIRECT_SIGNAL_STACK)
		return NULL;
	*vector_size = guest_load32((const uint8_t *)uc->uc_mcontext.fpregs + DIRECT_SW_SIZE);
	return *vector_size >= DIRECT_FRAME_MIN && fp + *vector_size <= lo + DIRECT_SIGNAL_STACK ? uc : NULL;
}
