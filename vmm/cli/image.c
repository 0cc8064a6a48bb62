/* SPDX-License-Identifier: Apache-2.0 */
/* trapeze image: make, look at, check and convert disk images. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/tools.h"
#include "cli/cli.h"
#include "machine/message.h"
#include "machine/nearest.h"

static const char help_text[] =
	"Usage: trapeze image create [OPTION…] FILE SIZE\n"
	"       trapeze image create [OPTION…] --backing FILE --backing-format FORMAT FILE [SIZE]\n"
	"       trapeze image info [--format FORMAT] FILE\n"
	"       trapeze image check [--format FORMAT] [--repair leaks|all] FILE\n"
	"       trapeze image convert [OPTION…] SOURCE TARGET\n"
	"       trapeze image debian --output FILE [OPTION…]\n"
	"Makes, describes, checks and converts disk images. FORMAT is raw or qcow2; SIZE is in\n"
	"bytes, or with K, M, G, T behind.\n"
	"\n"
	"  --format FORMAT          of FILE (create: default qcow2; else: found out)\n"
	"  --from FORMAT            convert: of SOURCE (default: found out)\n"
	"  --to FORMAT              convert: of TARGET (default qcow2, of an NBD URI raw)\n"
	"  --backing FILE           create: what is not written yet is read from there; a relative\n"
	"                           name is relative to the new image's folder\n"
	"  --backing-format FORMAT  its format\n"
	"  --cluster-size SIZE      of new qcow2 images: 512 to 2M (default 64K)\n"
	"  --force                  overwrite FILE or TARGET\n"
	"  --repair leaks|all       check: free leaked clusters; or count all references anew\n"
	"  --help                   this text\n"
	"\n"
	"debian makes a disk with a Debian that boots; trapeze image debian --help has its options.\n"
	"Exit status of check: 0 clean, 2 corrupt, 3 only leaked clusters; 1 on any error.\n";

struct arguments {
	const char *format, *from, *to, *backing, *backing_format, *cluster_size, *repair;
	bool force;
	const char *positional[2];
	unsigned count;
};

/* --- values --- */

static int parse_format(const char *option, const char *text, enum block_format fallback, enum block_format *format)
{
	*format = fallback;
	if (!text)
		return 0;
	if (!strcmp(text, "raw")) {
		*format = BLOCK_FORMAT_RAW;
	} else if (!strcmp(text, "qcow2")) {
		*format = BLOCK_FORMAT_QCOW2;
	} else {
		msg_error("image: %s %s: expected raw or qcow2", option, text);
		return -EINVAL;
	}
	return 0;
}

static int parse_bytes(const char *what, const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	unsigned long long n;
	unsigned shift = 0;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9')
		end = NULL;
	if (end && *end) {
		const char *unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);

		shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
		if (!unit || (end[1] && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0))
			end = NULL;
	}
	if (!end) {
		msg_error("image: %s %s: not a size (examples: 512M, 20G)", what, text);
		return -EINVAL;
	}
	if (errno || n > (uint64_t)INT64_MAX >> shift) {
		msg_error("image: %s %s: too large", what, text);
		return -EINVAL;
	}
	*bytes = (uint64_t)n << shift;
	return 0;
}

static int parse_cluster_size(const char *text, unsigned *bits)
{
	uint64_t bytes;
	int err;

	*bits = IMAGE_CLUSTER_BITS;
	if (!text)
		return 0;
	err = parse_bytes("--cluster-size", text, &bytes);
	if (err)
		return err;
	if (bytes < 1u << QCOW2_CLUSTER_BITS_MIN || bytes > 1u << QCOW2_CLUSTER_BITS_MAX || bytes & (bytes - 1)) {
		msg_error("image: --cluster-size %s: must be a power of two from 512 to 2M", text);
		return -EINVAL;
	}
	*bits = (unsigned)__builtin_ctzll(bytes);
	return 0;
}

static int fail(const char *text)
{
	msg_error("image: %s", text);
	return EXIT_FAILURE;
}

/* --- the commands --- */

static int image_create(const struct arguments *a)
{
	struct image_create o = { .path = a->positional[0], .backing = a->backing, .force = a->force };
	char text[512];
	struct error_text error = { text, sizeof(text) };

	if (parse_format("--format", a->format, BLOCK_FORMAT_QCOW2, &o.format) < 0 ||
	    parse_format("--backing-format", a->backing_format, BLOCK_FORMAT_AUTO, &o.backing_format) < 0 ||
	    parse_cluster_size(a->cluster_size, &o.cluster_bits) < 0)
		return EXIT_FAILURE;
	if (o.format == BLOCK_FORMAT_RAW && (a->backing || a->cluster_size))
		return fail("a raw image has neither a backing file nor clusters");
	/* A guess could be a guest's work: layer.c. */
	if (!a->backing != !a->backing_format)
		return fail("--backing and --backing-format go together");
	if (a->count < 2 && !a->backing)
		return fail("create: no SIZE given; see trapeze image --help");
	if (a->count == 2) {
		if (parse_bytes("create: size", a->positional[1], &o.size) < 0)
			return EXIT_FAILURE;
		if (!o.size)
			return fail("create: a disk of 0 bytes");
	}
	return image_tool_create(&o, &error) < 0 ? fail(text) : EXIT_SUCCESS;
}

static void print_yes(const char *what, bool is)
{
	if (is)
		printf("%s: yes\n", what);
}

static int image_info(const struct arguments *a)
{
	char text[512];
	struct error_text error = { text, sizeof(text) };
	struct image_facts f;
	enum block_format format;

	if (parse_format("--format", a->format, BLOCK_FORMAT_AUTO, &format) < 0)
		return EXIT_FAILURE;
	if (image_tool_info(a->positional[0], format, &f, &error) < 0)
		return fail(text);
	printf("file: %s\nformat: %s\nsize: %" PRIu64 "\nfile size: %" PRIu64 "\ndisk usage: %" PRIu64 "\n",
	       a->positional[0], f.format, f.size, f.file_size, f.disk_usage);
	if (!f.is_qcow2)
		return EXIT_SUCCESS;
	printf("version: %u\ncluster size: %u\nrefcount bits: %u\ncompression: %s\n", f.version, f.cluster_size,
	       f.refcount_bits, f.zstd ? "zstd" : "zlib");
	if (f.backing[0])
		printf("backing file: %s\nbacking format: %s\n", f.backing,
		       f.backing_format[0] ? f.backing_format : "not named");
	if (f.snapshots)
		printf("snapshots: %u\n", f.snapshots);
	print_yes("lazy refcounts", f.lazy_refcounts);
	print_yes("dirty", f.dirty);
	print_yes("corrupt", f.corrupt);
	return EXIT_SUCCESS;
}

static void print_finding(void *ctx, const char *line)
{
	(void)ctx;
	printf("%s\n", line);
}

#define STATUS_CORRUPT 2
#define STATUS_LEAKS 3

static int image_check(const struct arguments *a)
{
	struct qcow2_check check = { .report = print_finding };
	enum qcow2_repair repair = QCOW2_REPAIR_NOTHING;
	char text[512];
	struct error_text error = { text, sizeof(text) };
	enum block_format format;

	if (parse_format("--format", a->format, BLOCK_FORMAT_AUTO, &format) < 0)
		return EXIT_FAILURE;
	if (a->repair && !strcmp(a->repair, "leaks"))
		repair = QCOW2_REPAIR_LEAKS;
	else if (a->repair && !strcmp(a->repair, "all"))
		repair = QCOW2_REPAIR_ALL;
	else if (a->repair)
		return fail("--repair: expected leaks or all");
	if (image_tool_check(a->positional[0], format, repair, &check, &error) < 0)
		return fail(text);
	if (check.fixed)
		printf("%" PRIu64 " errors and leaks repaired\n", check.fixed);
	printf("%" PRIu64 " errors, %" PRIu64 " leaked clusters; %" PRIu64 " of %" PRIu64
	       " clusters allocated, %" PRIu64 " of them compressed\n",
	       check.corruptions, check.leaks, check.allocated, check.clusters, check.compressed);
	return check.corruptions ? STATUS_CORRUPT : check.leaks ? STATUS_LEAKS : EXIT_SUCCESS;
}

static int image_convert(const struct arguments *a)
{
	struct image_convert o = { .source = a->positional[0], .target = a->positional[1], .force = a->force };
	bool uri = a->count == 2 && !strncmp(a->positional[1], "nbd", 3) && strstr(a->positional[1], "://");
	char text[512];
	struct error_text error = { text, sizeof(text) };

	if (a->count < 2)
		return fail("convert: SOURCE and TARGET are needed; see trapeze image --help");
	if (parse_format("--from", a->from, BLOCK_FORMAT_AUTO, &o.from) < 0 ||
	    parse_format("--to", a->to, uri ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2, &o.to) < 0 ||
	    parse_cluster_size(a->cluster_size, &o.cluster_bits) < 0)
		return EXIT_FAILURE;
	return image_tool_convert(&o, &error) < 0 ? fail(text) : EXIT_SUCCESS;
}

/* Each command with the options it takes. */
static const struct image_command {
	const char *name;
	int (*run)(const struct arguments *a);
	unsigned max_positional;
	const char *options[8];
} commands[] = {
	{ "create",
	  image_create,
	  2,
	  { "--format", "--backing", "--backing-format", "--cluster-size", "--force", NULL } },
	{ "info", image_info, 1, { "--format", NULL } },
	{ "check", image_check, 1, { "--format", "--repair", NULL } },
	{ "convert", image_convert, 2, { "--from", "--to", "--cluster-size", "--force", NULL } },
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

/* --- the command line --- */

static const char **value_of(struct arguments *a, const char *name)
{
	const struct {
		const char *name, **value;
	} values[] = {
		{ "--format", &a->format },
		{ "--from", &a->from },
		{ "--to", &a->to },
		{ "--backing", &a->backing },
		{ "--backing-format", &a->backing_format },
		{ "--cluster-size", &a->cluster_size },
		{ "--repair", &a->repair },
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		if (!strcmp(values[i].name, name))
			return values[i].value;
	return NULL;
}

static int unknown(const char *what, const char *word, const char *const *names)
{
	const char *hint = nearest_name(word, names);

	msg_error("image: unknown %s \"%s\"; did you mean \"%s\"? (trapeze image --help)", what, word, hint);
	return -EINVAL;
}

/* "--name", "--name value" or "--name=value". */
static int take_option(struct arguments *a, const struct image_command *command, int argc, char **argv, int *i)
{
	size_t len = strcspn(argv[*i], "=");
	char name[32] = "";
	const char **value;
	unsigned k = 0;

	if (len < sizeof(name))
		memcpy(name, argv[*i], len);
	while (command->options[k] && strcmp(command->options[k], name) != 0)
		k++;
	if (!command->options[k])
		return unknown("option", argv[*i], command->options);
	value = value_of(a, name);
	if (!value && argv[*i][len]) {
		msg_error("image: %s takes no value", name);
		return -EINVAL;
	}
	if (!value) {
		a->force = true;
		return 0;
	}
	if (argv[*i][len])
		*value = argv[*i] + len + 1;
	else if (*i + 1 < argc)
		*value = argv[++*i];
	if (!*value || !**value) {
		msg_error("image: %s: needs a value; see trapeze image --help", name);
		return -EINVAL;
	}
	return 0;
}

static int parse(struct arguments *a, const struct image_command *command, int argc, char **argv)
{
	bool options = true;

	for (int i = 2; i < argc; i++) {
		if (options && !strcmp(argv[i], "--")) {
			options = false;
		} else if (options && argv[i][0] == '-' && argv[i][1]) {
			int err = take_option(a, command, argc, argv, &i);

			if (err)
				return err;
		} else if (a->count == command->max_positional) {
			msg_error("image: %s: unexpected argument \"%s\"; see trapeze image --help", command->name,
				  argv[i]);
			return -EINVAL;
		} else {
			a->positional[a->count++] = argv[i];
		}
	}
	if (!a->count || !a->positional[0][0]) {
		msg_error("image: %s: no file given; see trapeze image --help", command->name);
		return -EINVAL;
	}
	return 0;
}

static int finish(int status)
{
	if (fflush(stdout) == 0)
		return status;
	msg_error("cannot write to standard output: %s", strerror(errno));
	return EXIT_FAILURE;
}

int cmd_image(int argc, char **argv)
{
	const char *names[COMMAND_COUNT + 2] = { NULL };
	struct arguments a = { 0 };

	if (argc > 1 && !strcmp(argv[1], "debian"))
		return image_debian(argc - 1, argv + 1);
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(help_text, stdout);
			return finish(EXIT_SUCCESS);
		}
	if (argc < 2) {
		msg_error("image: no command given; see trapeze image --help");
		return EXIT_FAILURE;
	}
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		if (!strcmp(commands[i].name, argv[1])) {
			if (parse(&a, &commands[i], argc, argv) < 0)
				return EXIT_FAILURE;
			return finish(commands[i].run(&a));
		}
		names[i] = commands[i].name;
	}
	names[COMMAND_COUNT] = "debian";
	unknown("command", argv[1], names);
	return EXIT_FAILURE;
}
