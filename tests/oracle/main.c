/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hardware oracle's command line: cases from a seed, on each engine, by some processes at a time. Exit status 0 if
 * everything agrees and every mnemonic was exercised, 1 if not, 2 for errors, 77 if the host lacks what it needs.
 */
#include "compare.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "trapeze/trapeze.h"

#define ENGINES_MAX 4
#define JOBS_MAX 64
#define CRASHES_MAX 100

static struct options {
	uint64_t seed, cases, only;
	bool has_only, list, show;
	unsigned jobs, errors;
	const char *engine[ENGINES_MAX];
	unsigned engines;
	const char *program;
} opt = { .seed = 1, .cases = 30000, .jobs = 1, .errors = 10 };

/* What a worker hands back. */
struct tally {
	uint64_t next; /* case */
	bool crashed;
	uint64_t cases, sequences;
	uint64_t mismatches[ENGINES_MAX];
	tolerance_array tolerated;
	uint64_t per_form[][3];
};
static struct tally *tallies[JOBS_MAX];
static struct tally *own_tally; /* this worker's */
static struct test_case batch[SLOT_COUNT];
static volatile uint64_t batch_start; /* number of the first */

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("oracle: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	_exit(2);
}

void leave_out(const char *what)
{
	printf("oracle left out, missing %s\n", what);
	exit(77);
}

/* ---- running ---- */

static void tally_native(struct tally *t, const struct test_case *c)
{
	const struct state *r = native_result_of(c->slot);

	/* Its end: RIP has moved, whatever happened there. */
	bool done = r->vector == V_NONE || r->rip != c->in.rip;

	t->cases++;
	t->sequences += c->sequence;
	if (!c->sequence)
		t->per_form[c->insn[0].form][done ? 0 : r->vector == V_UD ? 2 : 1]++;
}

static unsigned total_mismatches(const struct tally *t)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < opt.engines; k++)
		sum += t->mismatches[k];
	return (unsigned)sum;
}

static void run_batch(struct tally *t, struct engine *const e[], uint64_t number, unsigned count)
{
	unsigned first = (unsigned)(number % SLOT_COUNT);

	batch_start = number;
	for (unsigned n = 0; n < count; n++) {
		generate_case(&batch[n], opt.seed, number + n);
		if (opt.show)
			report_case(&batch[n]);
		native_put(&batch[n]);
		for (unsigned k = 0; k < opt.engines; k++)
			engine_put(e[k], &batch[n]);
	}
	native_post(first, count);
	for (unsigned k = 0; k < opt.engines; k++)
		engine_run(e[k], first, count);
	native_wait();
	for (unsigned n = 0; n < count; n++) {
		tally_native(t, &batch[n]);
		for (unsigned k = 0; k < opt.engines; k++)
			if (!compare_case(&batch[n], e[k], opt.program, opt.seed, total_mismatches(t) < opt.errors))
				t->mismatches[k]++;
	}
}

/* A guest made the library crash: say with what, which is all that can be done. */
static void on_crash(int sig)
{
	unsigned slot = 0;
	const struct engine *e = engine_running(&slot);
	char text[200];
	int n;

	signal(sig, SIG_DFL);
	if (!e)
		return;
	n = snprintf(text, sizeof(text), "CRASH of %s, signal %d: %s --seed %lu --case %lu --engine %s\n",
		     engine_name(e), sig, opt.program, (unsigned long)opt.seed,
		     (unsigned long)(batch_start / SLOT_COUNT * SLOT_COUNT + slot), engine_name(e));
	if (write(STDOUT_FILENO, text, (size_t)n) < 0)
		_exit(3);
	own_tally->crashed = true;
	for (unsigned k = 0; k < opt.engines; k++)
		own_tally->mismatches[k] += !strcmp(opt.engine[k], engine_name(e));
}

static void catch_crashes(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };

	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++)
		signal(signals[n], on_crash);
}

static void worker(unsigned which)
{
	struct engine *e[ENGINES_MAX];
	struct tally *t = tallies[which];

	own_tally = t;
	tolerated = &t->tolerated;
	native_start();
	for (unsigned k = 0; k < opt.engines; k++)
		e[k] = engine_create(opt.engine[k]);
	catch_crashes();
	if (opt.has_only) {
		run_batch(t, e, opt.only, 1);
	} else {
		while (t->next < opt.cases) {
			uint64_t n = t->next;

			t->next += opt.jobs * (uint64_t)SLOT_COUNT;
			run_batch(t, e, n, opt.cases - n < SLOT_COUNT ? (unsigned)(opt.cases - n) : SLOT_COUNT);
		}
	}
	for (unsigned k = 0; k < opt.engines; k++)
		engine_destroy(e[k]);
	native_stop();
}

static struct tally *tally_create(void)
{
	struct tally *t = mmap(NULL, sizeof(*t) + forms.count * sizeof(t->per_form[0]), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (t == MAP_FAILED)
		die("no memory");
	return t;
}

static pid_t start_worker(unsigned which)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0) {
		worker(which);
		fflush(NULL);
		_exit(0);
	}
	return pid;
}

/* A worker that a guest crashed is started again behind the batch that did it. True: none ended otherwise. */
static bool wait_workers(pid_t pid[])
{
	unsigned left = opt.jobs, crashes = 0;
	bool good = true;

	while (left) {
		unsigned n = 0;
		int status;
		pid_t ended = waitpid(-1, &status, 0);

		while (n < opt.jobs && pid[n] != ended)
			n++;
		if (n == opt.jobs)
			continue;
		if (WIFSIGNALED(status) && tallies[n]->crashed && crashes++ < CRASHES_MAX) {
			tallies[n]->crashed = false;
			pid[n] = start_worker(n);
			continue;
		}
		if (status) {
			fprintf(stderr, "oracle: worker %u ended with status %#x\n", n, status);
			good = false;
		}
		left--;
	}
	return good;
}

static bool run_workers(void)
{
	pid_t pid[JOBS_MAX];

	for (unsigned n = 0; n < opt.jobs; n++) {
		tallies[n] = tally_create();
		tallies[n]->next = n * (uint64_t)SLOT_COUNT;
	}
	if (opt.has_only) {
		worker(0);
		return true;
	}
	for (unsigned n = 0; n < opt.jobs; n++)
		pid[n] = start_worker(n);
	return wait_workers(pid);
}

static void collect(struct tally *sum)
{
	for (unsigned n = 0; n < opt.jobs; n++) {
		const struct tally *t = tallies[n];

		sum->cases += t->cases;
		sum->sequences += t->sequences;
		for (unsigned k = 0; k < opt.engines; k++)
			sum->mismatches[k] += t->mismatches[k];
		for (unsigned k = 0; k < TOL_COUNT; k++)
			sum->tolerated[k] += t->tolerated[k];
		for (unsigned f = 0; f < forms.count; f++) {
			forms.form[f].completed += t->per_form[f][0];
			forms.form[f].faulted += t->per_form[f][1];
			forms.form[f].undefined += t->per_form[f][2];
		}
	}
}

/* ---- the command line ---- */

static uint64_t number(const char *text, const char *what)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-')
		die("%s needs a number, not \"%s\"", what, text);
	return v;
}

static void usage(FILE *to)
{
	fputs("Usage: oracle [--seed S] [--cases N | --case N] [--engine E]... [--jobs J] [--errors N] [--list] "
	      "[--show]\n"
	      "Compares instructions on this CPU with libtrapeze's engines.\n"
	      "  --seed S    cases are made from it (1); --cases N: how many (30000); --case N: only this one\n"
	      "  --engine E  interp or translate; both unless given\n"
	      "  --jobs J    processes\n"
	      "  --errors N  mismatches to print per process (10)\n"
	      "  --list      list what was not exercised, form by form; --show: print each case before it runs\n",
	      to);
}

static void add_engine(const char *name)
{
	const char *const *known = tz_engine_names();

	while (*known && strcmp(*known, name))
		known++;
	if (!*known)
		die("no engine \"%s\"", name);
	if (opt.engines == ENGINES_MAX)
		die("too many engines");
	opt.engine[opt.engines++] = *known;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", 1, NULL, 's' },   { "cases", 1, NULL, 'n' }, { "case", 1, NULL, 'c' },
		{ "engine", 1, NULL, 'e' }, { "jobs", 1, NULL, 'j' },  { "errors", 1, NULL, 'x' },
		{ "list", 0, NULL, 'l' },   { "show", 0, NULL, 'w' },  { "help", 0, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int o;

	opt.program = argv[0];
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 's': opt.seed = number(optarg, "--seed"); break;
		case 'n': opt.cases = number(optarg, "--cases"); break;
		case 'c':
			opt.only = number(optarg, "--case");
			opt.has_only = true;
			break;
		case 'e': add_engine(optarg); break;
		case 'j': opt.jobs = (unsigned)number(optarg, "--jobs"); break;
		case 'x': opt.errors = (unsigned)number(optarg, "--errors"); break;
		case 'l': opt.list = true; break;
		case 'w': opt.show = true; break;
		case 'h': usage(stdout); exit(0);
		default: usage(stderr); exit(2);
		}
	}
	if (optind < argc)
		die("\"%s\" is not an option", argv[optind]);
	if (opt.jobs < 1 || opt.jobs > JOBS_MAX)
		die("--jobs: 1 to %u", JOBS_MAX);
	if (opt.has_only)
		opt.jobs = 1;
	if (!opt.engines) {
		add_engine("interp");
		add_engine("translate");
	}
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct tally *sum;
	double start, took;
	bool good;

	parse(argc, argv);
	features_init();
	forms_init();
	generate_init(opt.seed);
	start = seconds();
	good = run_workers();
	took = seconds() - start;
	sum = tally_create();
	collect(sum);
	tolerated = &sum->tolerated;
	printf("%lu cases (%lu sequences) from seed %lu in %.1f s: %.0f a second on %u engine(s)\n",
	       (unsigned long)sum->cases, (unsigned long)sum->sequences, (unsigned long)opt.seed, took,
	       (double)sum->cases / took, opt.engines);
	compare_print_tolerances();
	for (unsigned k = 0; k < opt.engines; k++) {
		printf("%s: %lu mismatches\n", opt.engine[k], (unsigned long)sum->mismatches[k]);
		good &= !sum->mismatches[k];
	}
	if (!opt.has_only)
		good &= forms_coverage(opt.list, opt.cases);
	return good ? 0 : 1;
}
