/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector registers over all that may come between two instructions of a process: `vectors PROCESSES ROUNDS` runs as
 * many side by side, each with page faults, system calls, waits and children, and prints what was lost, then `lost=N`.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 64
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqu 32*" #n "(%[want]), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", 32*" #n "(%[got])\n"
/* No compiler's code with vector registers in between. */
#define AROUND(code, ...) __asm__ volatile(EACH(LOAD) code "\n" EACH(STORE) __VA_ARGS__)
#define IMAGES [want] "r"(want), [got] "r"(got)

static uint64_t want[64], got[64];
static unsigned seed;

static unsigned rnd(void)
{
	seed = seed * 1103515245 + 12345;
	return seed >> 8;
}

static int check(const char *what, long round)
{
	for (volatile unsigned n = 0; n < 64; n++)
		if (got[n] != want[n]) {
			printf("%s, round %ld: quarter %u of ymm%u is %lx, not %lx\n", what, round, n % 4, n / 4,
			       (unsigned long)got[n], (unsigned long)want[n]);
			return 1;
		}
	return 0;
}

static void call(long nr)
{
	AROUND("syscall", : "+a"(nr) : IMAGES : "rcx", "r11", "memory");
}

static int with_child(long round)
{
	long nr = SYS_fork;
	int status = 1;

	AROUND("syscall", : "+a"(nr) : IMAGES : "rcx", "r11", "memory");
	if (!nr)
		_exit(check("fork, child", round));
	if (nr > 0)
		waitpid((pid_t)nr, &status, 0);
	return status;
}

static int work(unsigned id, long rounds)
{
	char *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long loops;

	seed = id * 77777;
	for (long n = 0; n < rounds; n++) {
		unsigned kind = rnd() % 8;

		for (volatile unsigned k = 0; k < 64; k++)
			want[k] = (uint64_t)rnd() << 32 | rnd() | 1;
		if (n % PAGES == 0)
			madvise(area, PAGES * 4096, MADV_DONTNEED);
		switch (kind) {
		case 0: call(SYS_getppid); break;
		case 1: call(SYS_sched_yield); break;
		case 2:
			loops = rnd() % 20000;
			AROUND("1: dec %[loops]; jns 1b", : [loops] "+r"(loops) : IMAGES : "memory");
			break;
		case 3:
			if (with_child(n))
				return 1;
			break;
		default:
			AROUND("movb $1, (%[page])", : : [page] "r"(area + n % PAGES * 4096), IMAGES : "memory");
			break;
		}
		if (check((const char *[]){ "call", "yield", "loop", "fork", "page" }[kind < 4 ? kind : 4], n))
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned processes = argc > 2 ? (unsigned)atoi(argv[1]) : 1, lost = 0;
	long rounds = argc > 2 ? atol(argv[2]) : 1;
	int status;

	if (!__builtin_cpu_supports("avx")) {
		printf("lost=none, no AVX\n");
		return 0;
	}
	for (unsigned n = 0; n < processes; n++)
		if (!fork()) {
			status = work(n + 1, rounds);
			fflush(stdout);
			_exit(status);
		}
	for (unsigned n = 0; n < processes; n++) {
		wait(&status);
		lost += status != 0;
	}
	printf("lost=%u\n", lost);
	return 0;
}
