/* SPDX-License-Identifier: Apache-2.0 */
/* trapeze run: options to a struct machine_config. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "machine/accel.h"
#include "machine/board.h"
#include "machine/cpu_model.h"
#include "machine/machine.h"
#include "machine/message.h"
#include "machine/nearest.h"
#include "net/net.h"

static const char help_text[] =
	"Usage: trapeze run --kernel FILE [OPTION…]\n"
	"       trapeze run --firmware FILE [OPTION…]\n"
	"Boots a kernel in a virtual machine; the guest's first serial port is the terminal.\n"
	"\n"
	"  --machine KIND    pc (default) or microvm: no PCI, virtio devices at fixed addresses\n"
	"  --kernel FILE     bzImage, ELF with a PVH note, or Multiboot 1 image\n"
	"  --initrd FILE     initial RAM disk (Multiboot: the first module)\n"
	"  --firmware FILE[,vars=FILE[,template=FILE]][,vgabios=FILE][,menu=on]\n"
	"                    start a BIOS or UEFI firmware instead, which boots from a disk; vars=:\n"
	"                    where UEFI variables are kept, made from the template if it is missing\n"
	"                    (default template: /usr/share/OVMF/OVMF_VARS_4M.fd with\n"
	"                    OVMF_CODE_4M.fd, and so on)\n"
	"  --append STRING   kernel command line\n"
	"  --memory SIZE     guest RAM, in MiB or with K, M, G, T behind (default 512M)\n"
	"  --cpus N          number of vCPUs (default 1)\n"
	"  --cpu MODEL[,+FEATURE|,-FEATURE|,NAME=VALUE…]\n"
	"                    CPU model by QEMU's names (default host; --cpu help lists them)\n"
	"  --accel NAME      auto, kvm or an engine of libtrapeze (default auto: kvm where\n"
	"                    VT-x or AMD-V backs it, else the best engine)\n"
	"  --lockstep        check translate against interp: both run the guest, a difference ends\n"
	"                    it with a report; one vCPU\n"
	"  --code-cache SIZE memory for translated guest code, each vCPU's (default 32M, at least\n"
	"                    1M); without effect but with --accel translate\n"
	"  --serial WHERE    stdio, file:PATH or none (default stdio)\n"
	"  --disk PATH[,KEY=VALUE…]\n"
	"                    a disk: raw or qcow2 image, block device or NBD URI; keys: format=raw|\n"
	"                    qcow2|auto, cache=writeback|none|writethrough|unsafe, readonly=on|off,\n"
	"                    discard=on|off, serial=TEXT, queues=N, aio=io_uring|threads,\n"
	"                    packed=on|off, bus=virtio|ahci, werror=enospc|stop|report|\n"
	"                    ignore, rerror=report|stop|ignore (stop: the machine waits until it\n"
	"                    succeeds; enospc, the default: where the host's disk is full); may be\n"
	"                    repeated (trapeze image --help makes images)\n"
	"  --share FOLDER[,tag=NAME][,readonly]\n"
	"                    a folder of this host that the guest can mount by its tag (default\n"
	"                    share): mount -t 9p -o trans=virtio share /mnt; may be repeated\n"
	"  --net user|tap|none[,KEY=VALUE…]\n"
	"                    a network card: user needs no rights (hostfwd=tcp:127.0.0.1:2222-:22\n"
	"                    leads a port of this host to the guest, restrict=on shuts the guest\n"
	"                    in); tap takes ifname=NAME; may be repeated\n"
	"  --display WHAT    none, or curses: the guest's VGA text and keyboard on the terminal\n"
	"                    (default none)\n"
	"  --device NAME[,KEY=VALUE…]\n"
	"                    add a device (--device help lists them); may be repeated\n"
	"  --no-reboot       a guest reset ends the program\n"
	"  --stats           print exits, instructions and engine time at the end\n"
	"  --help            this text\n"
	"\n"
	"Keys on a terminal: Ctrl-A x ends the machine, Ctrl-A h lists the keys.\n"
	"Exit status: 0 after power-off, reset with --no-reboot, or Ctrl-A x; (VALUE << 1) | 1\n"
	"after a write to isa-debug-exit; 128 + N after signal N; 1 on any error.\n";

static int bad(const char *option, const char *value, const char *why)
{
	msg_error("%s %s: %s", option, value, why);
	return -EINVAL;
}

/* "512M", "2G", "128" (MiB, as QEMU's -m takes it). */
static int parse_size(const char *text, uint64_t *size)
{
	static const char units[] = "KMGT";
	unsigned shift = 20;
	unsigned long long n;
	char *end;

	errno = 0;
	if (*text < '0' || *text > '9')
		return -EINVAL;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		const char *unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);

		if (!unit || (end[1] && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0))
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*size = (uint64_t)n << shift;
	return 0;
}

static uint64_t host_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int option_memory(struct machine_config *c, const char *value)
{
	int err = parse_size(value, &c->memory);

	if (err == -EINVAL)
		return bad("--memory", value, "not a size (examples: 512M, 2G)");
	if (err == -ERANGE || c->memory > host_memory()) {
		msg_error("--memory %s: more than this host's %llu MiB", value,
			  (unsigned long long)host_memory() >> 20);
		return -EINVAL;
	}
	c->memory &= ~UINT64_C(0xfff);
	if (c->memory < MACHINE_MEMORY_MIN)
		return bad("--memory", value, "too small, a PC has at least 1M");
	return 0;
}

static int option_cpus(struct machine_config *c, const char *value)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (*value < '0' || *value > '9' || *end)
		return bad("--cpus", value, "not a number");
	if (n < 1 || errno || n > MACHINE_CPUS_MAX) {
		msg_error("--cpus %s: must be 1 to %d", value, MACHINE_CPUS_MAX);
		return -EINVAL;
	}
	c->cpus = (unsigned)n;
	return 0;
}

static int option_code_cache(struct machine_config *c, const char *value)
{
	int err = parse_size(value, &c->code_cache);

	if (err == -EINVAL)
		return bad("--code-cache", value, "not a size (examples: 32M, 1M)");
	if (err || c->code_cache > MACHINE_CODE_CACHE_MAX)
		return bad("--code-cache", value, "too large, must be at most 1G");
	if (c->code_cache < MACHINE_CODE_CACHE_MIN)
		return bad("--code-cache", value, "too small, must be at least 1M");
	return 0;
}

static int option_serial(struct machine_config *c, const char *value)
{
	c->serial_given = true;
	if (!strcmp(value, "stdio")) {
		c->serial = SERIAL_STDIO;
	} else if (!strcmp(value, "none")) {
		c->serial = SERIAL_NONE;
	} else if (!strncmp(value, "file:", 5) && value[5]) {
		c->serial = SERIAL_FILE;
		c->serial_path = value + 5;
	} else {
		return bad("--serial", value, "expected stdio, file:PATH or none");
	}
	return 0;
}

static const char *const *display_names(void)
{
	static const char *const names[] = { [DISPLAY_NONE] = "none", [DISPLAY_CURSES] = "curses", NULL };

	return names;
}

static int option_display(struct machine_config *c, const char *value)
{
	for (unsigned i = 0; display_names()[i]; i++)
		if (!strcmp(value, display_names()[i])) {
			c->display = (enum display_kind)i;
			return 0;
		}
	return bad("--display", value, "expected none or curses");
}

static int option_firmware(struct machine_config *c, const char *value)
{
	c->firmware = value;
	return 0;
}

static int option_device(struct machine_config *c, const char *value)
{
	for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++)
		if (!c->devices[i]) {
			c->devices[i] = value;
			return 0;
		}
	return bad("--device", value, "too many devices");
}

static int option_disk(struct machine_config *c, const char *value)
{
	for (unsigned i = 0; i < MACHINE_DISK_TEXTS_MAX; i++)
		if (!c->disks[i]) {
			c->disks[i] = value;
			return 0;
		}
	return bad("--disk", value, "too many disks");
}

static int option_share(struct machine_config *c, const char *value)
{
	for (unsigned i = 0; i < MACHINE_SHARE_TEXTS_MAX; i++)
		if (!c->shares[i]) {
			c->shares[i] = value;
			return 0;
		}
	return bad("--share", value, "too many folders");
}

static int option_net(struct machine_config *c, const char *value)
{
	for (unsigned i = 0; i < MACHINE_NETS_MAX; i++)
		if (!c->nets[i]) {
			c->nets[i] = value;
			return 0;
		}
	return bad("--net", value, "too many networks");
}

static int option_machine(struct machine_config *c, const char *value)
{
	const char *const *names = board_kind_names();

	for (unsigned i = 0; names[i]; i++)
		if (!strcmp(names[i], value)) {
			c->board = (enum board_kind)i;
			return 0;
		}
	msg_error("--machine %s: unknown board; did you mean \"%s\"?", value, nearest_name(value, names));
	return -EINVAL;
}

static int option_kernel(struct machine_config *c, const char *value)
{
	c->kernel = value;
	return 0;
}

static int option_initrd(struct machine_config *c, const char *value)
{
	c->initrd = value;
	return 0;
}

static int option_append(struct machine_config *c, const char *value)
{
	c->append = value;
	return 0;
}

static int option_cpu(struct machine_config *c, const char *value)
{
	c->cpu_model = value;
	return 0;
}

static int option_accel(struct machine_config *c, const char *value)
{
	c->accel = value;
	return 0;
}

static int option_lockstep(struct machine_config *c, const char *value)
{
	(void)value;
	c->lockstep = true;
	return 0;
}

static int option_no_reboot(struct machine_config *c, const char *value)
{
	(void)value;
	c->no_reboot = true;
	return 0;
}

static int option_stats(struct machine_config *c, const char *value)
{
	(void)value;
	c->stats = true;
	return 0;
}

struct option_row {
	const char *name;
	bool takes_value;
	int (*apply)(struct machine_config *c, const char *value);
	const char *const *(*list)(void); /* what "OPTION help" prints */
};

static const struct option_row options[] = {
	{ "--machine", true, option_machine, board_kind_names },
	{ "--kernel", true, option_kernel, NULL },
	{ "--firmware", true, option_firmware, NULL },
	{ "--initrd", true, option_initrd, NULL },
	{ "--append", true, option_append, NULL },
	{ "--memory", true, option_memory, NULL },
	{ "--cpus", true, option_cpus, NULL },
	{ "--cpu", true, option_cpu, cpu_model_names },
	{ "--accel", true, option_accel, accel_names },
	{ "--lockstep", false, option_lockstep, NULL },
	{ "--code-cache", true, option_code_cache, NULL },
	{ "--serial", true, option_serial, NULL },
	{ "--disk", true, option_disk, NULL },
	{ "--share", true, option_share, NULL },
	{ "--net", true, option_net, net_kinds },
	{ "--display", true, option_display, display_names },
	{ "--device", true, option_device, board_device_names },
	{ "--no-reboot", false, option_no_reboot, NULL },
	{ "--stats", false, option_stats, NULL },
	{ "--help", false, NULL, NULL },
};
#define OPTION_COUNT (sizeof(options) / sizeof(options[0]))

static int unknown_option(const char *word)
{
	const char *names[OPTION_COUNT + 1], *hint;

	if (*word != '-') {
		msg_error("unexpected argument \"%s\"; see trapeze run --help", word);
		return -EINVAL;
	}
	for (size_t i = 0; i < OPTION_COUNT; i++)
		names[i] = options[i].name;
	names[OPTION_COUNT] = NULL;
	hint = nearest_name(word, names);
	msg_error("unknown option \"%s\"%s%s%s; see trapeze run --help", word, hint ? "; did you mean \"" : "",
		  hint ? hint : "", hint ? "\"?" : "");
	return -EINVAL;
}

/* The row of "--name" or "--name=value"; *value is set for the latter. */
static const struct option_row *find_option(const char *word, const char **value)
{
	size_t len = strcspn(word, "=");

	*value = word[len] ? word + len + 1 : NULL;
	for (size_t i = 0; i < OPTION_COUNT; i++)
		if (strlen(options[i].name) == len && !strncmp(options[i].name, word, len))
			return &options[i];
	return NULL;
}

/* 0 go on, 1 done (help was printed), -errno with a message. */
static int parse_options(struct machine_config *config, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *value;
		const struct option_row *row = find_option(argv[i], &value);
		int err;

		if (!row || (value && !row->takes_value))
			return unknown_option(argv[i]);
		if (!row->apply) {
			fputs(help_text, stdout);
			return 1;
		}
		if (row->takes_value && !value) {
			if (i + 1 == argc) {
				msg_error("%s: needs a value; see trapeze run --help", row->name);
				return -EINVAL;
			}
			value = argv[++i];
		}
		if (row->list && !strcmp(value, "help")) {
			for (const char *const *name = row->list(); *name; name++)
				puts(*name);
			return 1;
		}
		err = row->apply(config, value);
		if (err)
			return err;
	}
	return 0;
}

/* What options say together. 0, or -errno with a message. */
static int check_options(struct machine_config *c)
{
	if (!c->kernel && !c->firmware) {
		msg_error("run: no --kernel and no --firmware given; see trapeze run --help");
		return -EINVAL;
	}
	if (c->firmware && (c->kernel || c->initrd || *c->append)) {
		msg_error("--firmware boots from a disk: --kernel, --initrd and --append do not go with it");
		return -EINVAL;
	}
	if (c->lockstep && strcmp(c->accel, "auto") && strcmp(c->accel, "translate")) {
		msg_error("--lockstep checks translate against interp: --accel %s does not go with it", c->accel);
		return -EINVAL;
	}
	if (c->lockstep && c->cpus > 1) {
		msg_error("--lockstep runs one vCPU: --cpus %u does not go with it", c->cpus);
		return -EINVAL;
	}
	if (c->display == DISPLAY_CURSES && c->serial == SERIAL_STDIO) {
		if (c->serial_given) {
			msg_error("--display curses and --serial stdio both want the terminal");
			return -EINVAL;
		}
		c->serial = SERIAL_NONE;
	}
	return 0;
}

int cmd_run(int argc, char **argv)
{
	struct machine_config config = {
		.append = "",
		.memory = UINT64_C(512) << 20,
		.cpus = 1,
		.cpu_model = "host",
		.accel = "auto",
		.serial = SERIAL_STDIO,
	};
	int done = parse_options(&config, argc, argv);

	if (done > 0) {
		if (fflush(stdout) == 0)
			return EXIT_SUCCESS;
		msg_error("cannot write to standard output: %s", strerror(errno));
		return EXIT_FAILURE;
	}
	if (done < 0)
		return EXIT_FAILURE;
	if (check_options(&config) < 0)
		return EXIT_FAILURE;
	return machine_run(&config);
}
