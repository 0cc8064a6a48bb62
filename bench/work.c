/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bench/programs times, natively and in guests: `work NAME COUNT` does COUNT units and prints a checksum, which is
 * the same everywhere. Static, so that it runs in an initramfs.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ul << 20)

static uint64_t state = 88172645463325252u;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Sort, search, hash: branches, loads and stores within the caches. */
static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint64_t integer(unsigned long count)
{
	enum { N = 20000 };
	static uint32_t v[N];
	uint64_t sum = 0;

	while (count--) {
		for (unsigned k = 0; k < N; k++)
			v[k] = (uint32_t)next();
		qsort(v, N, sizeof(*v), compare);
		for (unsigned k = 0; k < N; k++) {
			uint32_t key = (uint32_t)next();

			sum = sum * 31 + (bsearch(&key, v, N, sizeof(*v), compare) != NULL) + v[k];
		}
	}
	return sum;
}

static uint64_t floating(unsigned long count)
{
	double x[3] = { 1, 2, 3 }, v[3] = { 0.1, 0.2, 0.3 };

	for (unsigned long n = 0; n < count * 1000000; n++) {
		double r = x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + 1, f = -1 / (r * r);

		for (unsigned k = 0; k < 3; k++) {
			v[k] += x[k] * f * 1e-3;
			x[k] += v[k] * 1e-3;
		}
	}
	return (uint64_t)((x[0] + x[1] + x[2]) * 1e6);
}

/* Matrices in vector registers, as wide as the baseline has them. */
static uint64_t vector(unsigned long count)
{
	enum { N = 256 };
	static float a[N][N], b[N][N], c[N][N];
	double sum = 0;

	for (unsigned i = 0; i < N; i++)
		for (unsigned k = 0; k < N; k++) {
			a[i][k] = (float)(next() % 16);
			b[i][k] = (float)(next() % 16);
		}
	while (count--)
		for (unsigned i = 0; i < N; i++)
			for (unsigned k = 0; k < N; k++)
				for (unsigned j = 0; j < N; j++)
					c[i][j] = c[i][j] * 0.5f + a[i][k] * b[k][j];
	for (unsigned i = 0; i < N; i++)
		sum += (double)c[i][i];
	return (uint64_t)sum;
}

/* From one random place of 32 MiB to the next. */
static uint64_t chase(unsigned long count)
{
	size_t n = 32 * MIB / sizeof(uint32_t);
	uint32_t *v = malloc(n * sizeof(*v)), at = 0;
	uint64_t sum = 0;

	if (!v)
		err(1, "chase");
	for (size_t k = 0; k < n; k++)
		v[k] = (uint32_t)k;
	for (size_t k = n - 1; k > 0; k--) { /* one cycle through all (Sattolo) */
		size_t o = next() % k;
		uint32_t t = v[k];

		v[k] = v[o];
		v[o] = t;
	}
	for (unsigned long k = 0; k < count * 1000000; k++)
		sum += at = v[at];
	free(v);
	return sum;
}

static uint64_t stream(unsigned long count)
{
	size_t n = 32 * MIB / sizeof(uint64_t);
	uint64_t *a = malloc(n * sizeof(*a)), *b = malloc(n * sizeof(*b)), sum = 0;

	if (!a || !b)
		err(1, "stream");
	for (size_t k = 0; k < n; k++)
		a[k] = k;
	while (count--) {
		for (size_t k = 0; k < n; k++)
			b[k] = a[k] * 3 + 1;
		memcpy(a, b, n * sizeof(*a));
	}
	for (size_t k = 0; k < n; k += 4096)
		sum += a[k];
	free(a);
	free(b);
	return sum;
}

static uint64_t system_call(unsigned long count)
{
	uint64_t sum = 0;

	for (unsigned long k = 0; k < count * 100000; k++)
		sum += syscall(SYS_getppid) > 0;
	return sum;
}

/* A byte to another process and back. */
static uint64_t pipes(unsigned long count)
{
	int to[2], from[2];
	uint64_t sum = 0;
	char byte = 1;

	if (pipe(to) || pipe(from))
		err(1, "pipe");
	if (!fork()) {
		close(to[1]);
		while (read(to[0], &byte, 1) == 1)
			if (write(from[1], &byte, 1) != 1)
				break;
		_exit(0);
	}
	for (unsigned long k = 0; k < count * 1000; k++)
		sum += write(to[1], &byte, 1) == 1 && read(from[0], &byte, 1) == 1;
	close(to[1]);
	wait(NULL);
	return sum;
}

static uint64_t forks(unsigned long count, char *self)
{
	uint64_t sum = 0;
	int status;

	for (unsigned long k = 0; k < count * 10; k++) {
		pid_t child = fork();

		if (!child) {
			if (self)
				execl(self, self, "nothing", "0", NULL);
			_exit(self != NULL);
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			err(1, "fork");
		sum += status == 0;
	}
	return sum;
}

/* Each page of 16 MiB for the first time. */
static uint64_t faults(unsigned long count)
{
	uint64_t sum = 0;

	while (count--) {
		uint8_t *p = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED || madvise(p, 16 * MIB, MADV_NOHUGEPAGE))
			err(1, "pgfault");
		for (size_t at = 0; at < 16 * MIB; at += 4096)
			sum += ++p[at];
		munmap(p, 16 * MIB);
	}
	return sum;
}

int main(int argc, char **argv)
{
	const char *what = argc == 3 ? argv[1] : "";
	unsigned long count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	uint64_t sum;

	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "int"))
		sum = integer(count);
	else if (!strcmp(what, "float"))
		sum = floating(count);
	else if (!strcmp(what, "simd"))
		sum = vector(count);
	else if (!strcmp(what, "chase"))
		sum = chase(count);
	else if (!strcmp(what, "stream"))
		sum = stream(count);
	else if (!strcmp(what, "syscall"))
		sum = system_call(count);
	else if (!strcmp(what, "pipe"))
		sum = pipes(count);
	else if (!strcmp(what, "fork"))
		sum = forks(count, NULL);
	else if (!strcmp(what, "forkexec"))
		sum = forks(count, argv[0]);
	else if (!strcmp(what, "pgfault"))
		sum = faults(count);
	else
		errx(2, "usage: work NAME COUNT");
	printf("%llu\n", (unsigned long long)sum);
	return 0;
}
