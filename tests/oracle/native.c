/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native executor, the parent's side: a child that may read and write two pipes and nothing else, with the slots
 * mapped as the guests have them. A child that dies or hangs in a case loses that case and is replaced.
 */
#include "native_child.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BATCH_TIMEOUT_MS 20000
#define LOSSES_MAX 20

static struct {
	pid_t pid;
	int cmd, reply;
	struct native_shared *shared;
	struct slot_pages *pages; /* our view */
	uint8_t exit_page[4096];
	uint32_t area_size;
	struct batch posted;
	unsigned losses;
} native;

/* ---- the child's world ---- */

static void child_map_slots(void)
{
	static const int prot[SLOT_PAGES] = {
		PROT_READ | PROT_EXEC, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ,
		PROT_READ | PROT_WRITE
	};
	uint8_t *base = (uint8_t *)(uintptr_t)SLOT_BASE, *exit_page = (uint8_t *)(uintptr_t)EXIT_PAGE;
	size_t size = EXIT_PAGE + 0x1000 - SLOT_BASE;

	if (mmap(base, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0) !=
	    base)
		die("native: no room at %#x", SLOT_BASE);
	if (mprotect(exit_page, 4096, PROT_READ | PROT_WRITE))
		die("native: %s", strerror(errno));
	memcpy(exit_page, native.exit_page, 4096);
	if (mprotect(exit_page, 4096, PROT_READ | PROT_EXEC))
		die("native: no memory to execute: %s", strerror(errno));
	for (unsigned n = 0; n < SLOT_COUNT * SLOT_PAGES; n++) {
		void *at = base + n / SLOT_PAGES * SLOT_STRIDE + slot_page_offset(n % SLOT_PAGES);

		/* Of length 0: a second mapping of the same page (mremap(2)). Files may be on a noexec mount. */
		if (mremap((uint8_t *)native.pages + n * 4096, 0, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at ||
		    mprotect(at, 4096, prot[n % SLOT_PAGES]))
			die("native: no page at %p: %s", at, strerror(errno));
		/* Present, so that a write to a read-only page reports a protection violation, as in the guest. */
		*(volatile uint8_t *)at;
	}
	mlock(base, size); /* keeps it so; not being allowed to is no harm where there is memory */
}

static void child_signals(void)
{
	static const int signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP };
	size_t size = 1 << 16; /* the kernel's frame: 12 KiB with AMX */
	stack_t ss = { .ss_sp = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		       .ss_size = size };
	struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))(void *)native_on_signal;
	if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
		die("native: signal stack: %s", strerror(errno));
	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++)
		sigaction(signals[n], &sa, NULL);
}

/* Its last call does not return: AddressSanitizer would do something about that. */
__attribute__((no_sanitize_address)) static tz_noreturn void child_main(int cmd, int reply)
{
	struct rlimit none = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(cmd, 10) < 0 || dup2(reply, 11) < 0 || dup2(10, CHILD_CMD_FD) < 0 || dup2(11, CHILD_REPLY_FD) < 0)
		die("native: descriptors: %s", strerror(errno));
	child_map_slots();
	child_signals();
	syscall(SYS_close_range, CHILD_REPLY_FD + 1, ~0u, 0);
	setrlimit(RLIMIT_CORE, &none);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("native: no_new_privs: %s", strerror(errno));
	native_child_loop(native.shared, native.area_size, getauxval(AT_HWCAP2) & 2);
}

/* ---- the parent's side ---- */

static void spawn(void)
{
	int cmd[2], reply[2];

	if (pipe2(cmd, 0) || pipe2(reply, 0))
		die("native: pipe: %s", strerror(errno));
	fflush(NULL);
	native.pid = fork();
	if (native.pid < 0)
		die("native: fork: %s", strerror(errno));
	if (native.pid == 0)
		child_main(cmd[0], reply[1]);
	close(cmd[0]);
	close(reply[1]);
	native.cmd = cmd[1];
	native.reply = reply[0];
}

void native_stop(void)
{
	int status;

	kill(native.pid, SIGKILL);
	waitpid(native.pid, &status, 0);
	close(native.cmd);
	close(native.reply);
}

void native_start(void)
{
	size_t n = (size_t)(native_exit_code_end - native_exit_code);
	size_t pages = SLOT_COUNT * sizeof(struct slot_pages);
	uint64_t at;

	signal(SIGPIPE, SIG_IGN);
	native_mask = (uint32_t)features_xcr0();
	native.area_size = 576;
	for (unsigned k = 2; k < 8; k++) {
		uint32_t offset, size;

		if ((native_mask & BIT32(k)) && features_component(k, &offset, &size) &&
		    offset + size > native.area_size)
			native.area_size = offset + size;
	}
	if (native.area_size > sizeof(((struct state *)0)->area))
		die("native: XSAVE area of %u bytes", native.area_size);
	memset(native.exit_page, 0xcc, 4096);
	memcpy(native.exit_page, native_exit_code, n);
	at = (uint64_t)&native_rax;
	memcpy(native.exit_page + 2, &at, 8);
	at = (uint64_t)(uintptr_t)native_done;
	memcpy(native.exit_page + 12, &at, 8);
	native.pages = mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	native.shared = mmap(NULL, sizeof(*native.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (native.pages == MAP_FAILED || native.shared == MAP_FAILED)
		die("native: memory: %s", strerror(errno));
	spawn();
}

void native_put(const struct test_case *c)
{
	memcpy(&native.pages[c->slot], &c->pages, sizeof(c->pages));
	memcpy(&native.shared->in[c->slot], &c->in, sizeof(c->in));
	memset(&native.shared->out[c->slot], 0, sizeof(c->in));
}

void native_post(unsigned first, unsigned count)
{
	native.posted = (struct batch){ first, count };
	if (write(native.cmd, &native.posted, sizeof(native.posted)) != sizeof(native.posted) && errno != EPIPE)
		die("native: write: %s", strerror(errno));
}

/* The case the child was in is lost; a new child goes on behind it. */
static void replace_child(const char *why)
{
	unsigned lost = (unsigned)native.shared->current, end = native.posted.first + native.posted.count;
	native_stop();
	if (++native.losses > LOSSES_MAX)
		die("native: %u cases lost, the last one as %s", native.losses, why);
	if (lost < native.posted.first || lost >= end)
		lost = native.posted.first;
	fprintf(stderr, "native: slot %u lost: %s\n", lost, why);
	native.shared->out[lost].vector = V_LOST;
	spawn();
	if (lost + 1 < end)
		native_post(lost + 1, end - lost - 1);
	else
		native.posted.count = 0;
}

void native_wait(void)
{
	while (native.posted.count) {
		struct pollfd p = { .fd = native.reply, .events = POLLIN };
		struct batch done;
		int n = poll(&p, 1, BATCH_TIMEOUT_MS);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			replace_child("it does not end");
		else if (read(native.reply, &done, sizeof(done)) == sizeof(done))
			native.posted.count = 0;
		else
			replace_child("the child died");
	}
}

const struct state *native_result_of(unsigned slot)
{
	return &native.shared->out[slot];
}

const struct slot_pages *native_pages_of(unsigned slot)
{
	return &native.pages[slot];
}

const uint8_t *native_exit_page(size_t *size)
{
	*size = sizeof(native.exit_page);
	return native.exit_page;
}
