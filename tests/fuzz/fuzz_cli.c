/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of `trapeze run`: parsed, and what it names (CPU model, devices) made as the machine would, but for
 * running it. A refusal is one line on stderr and a failure status.
 *
 * Input: the arguments, each ended by a newline.
 */
#include <stdarg.h>
#include <unistd.h>

#include "cli/cli.h"
#include "input.h"
#include "machine/accel.h"
#include "machine/board.h"
#include "machine/cpu_model.h"
#include "machine/machine.h"

#define ARGS_MAX 40
#define RAM_SIZE (UINT64_C(2) << 20)

/* The linker puts these in the place of the real ones (--wrap). */
int __wrap_machine_run(const struct machine_config *config);
void __wrap_msg_error(const char *fmt, ...);

static struct accel accel;
static struct guest_ram ram;
static unsigned messages;
static bool ran;

/* The line itself is formatted, so that a bad argument of it is seen. */
void __wrap_msg_error(const char *fmt, ...)
{
	char line[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	CHECK(line[0]);
	messages++;
}

static void no_line(void *ctx, unsigned n, bool level)
{
	(void)ctx, (void)n, (void)level;
}

static void no_request(void *ctx, enum machine_request what, int status)
{
	(void)ctx, (void)what, (void)status;
}

static bool make_model(const struct machine_config *c)
{
	static struct cpu_model model;
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[CPU_MODEL_ENTRIES];
	} table;

	if (cpu_model_create(&accel, c->cpu_model, &model))
		return false;
	CHECK(model.count <= CPU_MODEL_ENTRIES);
	cpu_model_for_vcpu(&model, c->cpus - 1, c->cpus, &table.head);
	CHECK(table.head.nent <= CPU_MODEL_ENTRIES);
	return true;
}

static bool make_board(const struct machine_config *c)
{
	struct board_config config = { .ram = &ram,
				       .cpus = c->cpus,
				       .gsi = { .set = no_line },
				       .control = { .request = no_request },
				       .devices = c->devices };
	struct board *board;

	if (board_create(&config, &board))
		return false;
	board_reset(board);
	board_destroy(board);
	return true;
}

int __wrap_machine_run(const struct machine_config *c)
{
	ran = true;
	CHECK(c->kernel && c->append && c->cpu_model && c->accel);
	CHECK(c->cpus >= 1 && c->cpus <= MACHINE_CPUS_MAX);
	CHECK(c->memory >= MACHINE_MEMORY_MIN && !(c->memory & 0xfff));
	CHECK(!c->code_cache || (c->code_cache >= MACHINE_CODE_CACHE_MIN && c->code_cache <= MACHINE_CODE_CACHE_MAX));
	return make_model(c) && make_board(c) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	CHECK(accel_open("interp", &accel) == 0);
	CHECK(ram_create(&ram, RAM_SIZE) == 0);
	CHECK(freopen("/dev/null", "w", stdout)); /* --help, lists */
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[] = "run", *text = malloc(size + 1), *argv[ARGS_MAX + 2] = { name }, *rest = text, *word;
	int argc = 1, status;

	memcpy(text, data, size);
	text[size] = 0;
	while (argc <= ARGS_MAX && (word = strsep(&rest, "\n")) && rest)
		argv[argc++] = word;
	messages = 0;
	ran = false;
	status = cmd_run(argc, argv);
	CHECK(status == EXIT_SUCCESS || status == EXIT_FAILURE);
	CHECK(messages == (status == EXIT_FAILURE));
	CHECK(ran || messages <= 1);
	free(text);
	return 0;
}
