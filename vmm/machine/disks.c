/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/disks.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "block/block.h"
#include "machine/message.h"
#include "machine/nearest.h"
#include "machine/options.h"

#define QUEUES_MAX 64

struct disk_options {
	struct block_options block;
	const char *serial;
	unsigned queues;
	bool ahci, packed;
};

/* --- values --- */

static int bad_value(const char *path, const char *key, const char *value, const char *expected)
{
	msg_error("--disk %s: %s=%s: expected %s", path, key, value, expected);
	return -EINVAL;
}

static int find_word(const char *const *words, const char *word)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], word))
			return i;
	return -1;
}

static int set_format(struct disk_options *o, const char *value)
{
	static const char *const words[] = { "auto", "raw", "qcow2", NULL };
	static const enum block_format formats[] = { BLOCK_FORMAT_AUTO, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 };
	int i = find_word(words, value);

	if (i < 0)
		return bad_value(o->block.path, "format", value, "auto, raw or qcow2");
	o->block.format = formats[i];
	return 0;
}

static int set_cache(struct disk_options *o, const char *value)
{
	static const char *const words[] = { "writeback", "none", "writethrough", "unsafe", NULL };
	static const enum block_cache caches[] = { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE, BLOCK_CACHE_WRITETHROUGH,
						   BLOCK_CACHE_UNSAFE };
	int i = find_word(words, value);

	if (i < 0)
		return bad_value(o->block.path, "cache", value, "writeback, none, writethrough or unsafe");
	o->block.cache = caches[i];
	return 0;
}

static int set_aio(struct disk_options *o, const char *value)
{
	static const char *const words[] = { "io_uring", "threads", NULL };
	int i = find_word(words, value);

	if (i < 0)
		return bad_value(o->block.path, "aio", value, "io_uring or threads");
	o->block.no_uring = i == 1;
	return 0;
}

static int set_switch(const struct disk_options *o, const char *key, const char *value, bool *to)
{
	static const char *const words[] = { "off", "on", NULL };
	int i = find_word(words, value);

	if (i < 0)
		return bad_value(o->block.path, key, value, "on or off");
	*to = i == 1;
	return 0;
}

static int set_readonly(struct disk_options *o, const char *value)
{
	return set_switch(o, "readonly", value, &o->block.readonly);
}

static int set_discard(struct disk_options *o, const char *value)
{
	return set_switch(o, "discard", value, &o->block.discard);
}

static int set_packed(struct disk_options *o, const char *value)
{
	return set_switch(o, "packed", value, &o->packed);
}

static int set_serial(struct disk_options *o, const char *value)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isgraph((unsigned char)value[i]))
			len = 0;
	if (!len || len > DISK_SERIAL_MAX)
		return bad_value(o->block.path, "serial", value, "1 to 20 printable characters");
	o->serial = value;
	return 0;
}

static int set_queues(struct disk_options *o, const char *value)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno || n < 1 || n > QUEUES_MAX)
		return bad_value(o->block.path, "queues", value, "a number from 1 to 64");
	o->queues = (unsigned)n;
	return 0;
}

static int find_on_error(const char *value)
{
	static const char *const words[] = { [BLOCK_ERROR_REPORT] = "report",
					     [BLOCK_ERROR_IGNORE] = "ignore",
					     [BLOCK_ERROR_STOP] = "stop",
					     [BLOCK_ERROR_ENOSPC] = "enospc",
					     NULL };

	return find_word(words, value);
}

static int set_werror(struct disk_options *o, const char *value)
{
	int i = find_on_error(value);

	if (i < 0)
		return bad_value(o->block.path, "werror", value, "enospc, stop, report or ignore");
	o->block.on_write_error = (enum block_on_error)i;
	return 0;
}

static int set_rerror(struct disk_options *o, const char *value)
{
	int i = find_on_error(value);

	if (i < 0 || i == BLOCK_ERROR_ENOSPC)
		return bad_value(o->block.path, "rerror", value, "report, stop or ignore");
	o->block.on_read_error = (enum block_on_error)i;
	return 0;
}

static int set_bus(struct disk_options *o, const char *value)
{
	static const char *const words[] = { "virtio", "ahci", NULL };
	int i = find_word(words, value);

	if (i < 0)
		return bad_value(o->block.path, "bus", value, "virtio or ahci");
	o->ahci = i == 1;
	return 0;
}

static const struct {
	const char *key;
	int (*set)(struct disk_options *o, const char *value);
} keys[] = {
	{ "format", set_format }, { "cache", set_cache },   { "readonly", set_readonly }, { "discard", set_discard },
	{ "serial", set_serial }, { "queues", set_queues }, { "aio", set_aio },           { "bus", set_bus },
	{ "werror", set_werror }, { "rerror", set_rerror }, { "packed", set_packed },
};

/* --- a text --- */

static int apply(struct disk_options *o, char *word, unsigned *seen)
{
	const char *names[ARRAY_SIZE(keys) + 1];
	char *equals = strchr(word, '=');
	const char *hint;

	if (!equals || equals == word) {
		msg_error("--disk %s: \"%s\" is not of the form key=value", o->block.path, word);
		return -EINVAL;
	}
	*equals = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].key, word) != 0)
			continue;
		if (*seen & BIT32(i)) {
			msg_error("--disk %s: option \"%s\" is given twice", o->block.path, word);
			return -EINVAL;
		}
		*seen |= BIT32(i);
		return keys[i].set(o, equals + 1);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		names[i] = keys[i].key;
	names[ARRAY_SIZE(keys)] = NULL;
	hint = nearest_name(word, names);
	msg_error("--disk %s: unknown option \"%s\"; did you mean \"%s\"?", o->block.path, word, hint);
	return -EINVAL;
}

static int parse(struct disk_options *o, char *text)
{
	char *rest = options_split_path(text), *word;
	unsigned seen = 0;
	int err = 0;

	*o = (struct disk_options){ .block = { .path = text, .discard = true, .on_write_error = BLOCK_ERROR_ENOSPC } };
	if (!*text) {
		msg_error("--disk: no path is given");
		return -EINVAL;
	}
	while (!err && (word = strsep(&rest, ",")))
		err = apply(o, word, &seen);
	return err;
}

static int open_one(struct disks *disks, const char *given)
{
	struct board_disk *disk = &disks->disk[disks->count];
	char *text = strdup(given), error[512];
	struct disk_options o;
	int err;

	if (!text) {
		msg_error("--disk %s: %s", given, strerror(ENOMEM));
		return -ENOMEM;
	}
	err = parse(&o, text);
	if (!err) {
		err = block_open(&o.block, &disk->block, error, sizeof(error));
		if (err)
			msg_error("--disk %s", error);
	}
	if (!err && !block_info(disk->block)->size) {
		msg_error("--disk %s: the disk has no whole sector", o.block.path);
		block_close(disk->block);
		err = -EINVAL;
	}
	if (!err) {
		disk->queues = o.queues;
		disk->ahci = o.ahci;
		disk->packed = o.packed;
		disk->serial = NULL;
		if (o.serial)
			disk->serial = strcpy(disks->serial[disks->count], o.serial);
		disks->count++;
	}
	free(text);
	return err;
}

int disks_open(struct disks *disks, const char *const *texts)
{
	int err = 0;

	disks->count = 0;
	for (; *texts && !err; texts++) {
		if (disks->count == MACHINE_DISKS_MAX) {
			msg_error("--disk %s: more than %d disks", *texts, MACHINE_DISKS_MAX);
			err = -EINVAL;
		} else {
			err = open_one(disks, *texts);
		}
	}
	if (err)
		disks_close(disks);
	return err;
}

void disks_watch(struct disks *disks, void (*changed)(void *ctx), void *ctx)
{
	for (unsigned i = 0; i < disks->count; i++)
		block_watch(disks->disk[i].block, changed, ctx);
}

bool disks_stalled(const struct disks *disks)
{
	for (unsigned i = 0; i < disks->count; i++)
		if (block_stalled(disks->disk[i].block))
			return true;
	return false;
}

void disks_retry(struct disks *disks)
{
	for (unsigned i = 0; i < disks->count; i++)
		if (block_stalled(disks->disk[i].block))
			block_retry(disks->disk[i].block);
}

int disks_close(struct disks *disks)
{
	int first = 0;

	while (disks->count) {
		int err = block_close(disks->disk[--disks->count].block);

		if (err)
			msg_error("disk %u: not all that the guest has written is on the disk: %s", disks->count,
				  strerror(-err));
		if (!first)
			first = err;
	}
	return first;
}
