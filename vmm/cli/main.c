/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "machine/message.h"
#include "machine/nearest.h"

static const char help_text[] = "Usage: trapeze COMMAND [OPTION…]\n"
				"Runs unmodified operating systems, with or without VT-x/AMD-V.\n"
				"\n"
				"Commands:\n"
				"  run         boot a kernel in a virtual machine (trapeze run --help)\n"
				"  image       make, check and convert disk images (trapeze image --help)\n"
				"\n"
				"Options:\n"
				"  --help      this text\n"
				"  --version   the version\n";

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
	{ "run", cmd_run },
	{ "image", cmd_image },
};

/* Printed text that cannot be written (a full disk, a closed pipe) is a failure too. */
static int print(const char *text)
{
	if (fputs(text, stdout) < 0 || fflush(stdout) != 0) {
		msg_error("cannot write to standard output");
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static const char *const words[] = { "run", "image", "--help", "--version", NULL };
	const char *hint;

	if (argc < 2) {
		msg_error("no command given; see trapeze --help");
		return EXIT_FAILURE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return print(help_text);
	if (!strcmp(argv[1], "--version"))
		return print("trapeze " TRAPEZE_VERSION "\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);

	hint = nearest_name(argv[1], words);
	msg_error("unknown command \"%s\"%s%s%s; see trapeze --help", argv[1], hint ? "; did you mean \"" : "",
		  hint ? hint : "", hint ? "\"?" : "");
	return EXIT_FAILURE;
}
