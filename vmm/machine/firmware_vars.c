/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/firmware_vars.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file.h"
#include "device/pflash.h"
#include "machine/image.h"
#include "machine/message.h"

struct firmware_vars {
	struct image_file file;
	struct pflash_array array;
	bool complained;
};

/* ---- the template ---- */

/* Debian's names: OVMF_VARS_4M.fd beside OVMF_CODE_4M.fd. NULL: the firmware's has no such name, or no memory. */
static char *template_beside(const char *firmware_path)
{
	const char *slash = strrchr(firmware_path, '/');
	const char *code = strstr(slash ? slash : firmware_path, "CODE");
	char *path;

	if (!code || asprintf(&path, "%.*sVARS%s", (int)(code - firmware_path), firmware_path, code + 4) < 0)
		return NULL;
	return path;
}

/* A file of this name with these contents in whole, or none. One that another process makes meanwhile is kept. */
static int write_copy(const char *path, const struct image *contents)
{
	char *temporary;
	int fd, err = 0;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return -ENOMEM;
	fd = mkstemp(temporary);
	if (fd < 0) {
		err = -errno;
		free(temporary);
		return err;
	}
	for (size_t done = 0; done < contents->size && !err;) {
		ssize_t n = write(fd, contents->data + done, contents->size - done);

		if (n > 0)
			done += (size_t)n;
		else if (n == 0 || errno != EINTR)
			err = n ? -errno : -EIO;
	}
	if (!err && fsync(fd) < 0)
		err = -errno;
	close(fd);
	/* Where there are no links: the later of two wins. */
	if (!err && link(temporary, path) < 0 && errno != EEXIST && rename(temporary, path) < 0)
		err = -errno;
	unlink(temporary);
	free(temporary);
	return err;
}

static int create_from(const char *path, const char *template)
{
	struct image contents;
	int err = image_open(&contents, "UEFI variables' template", template);

	if (err)
		return err;
	err = write_copy(path, &contents);
	if (err)
		msg_error("--firmware: vars=%s: cannot create it: %s", path, strerror(-err));
	image_close(&contents);
	return err;
}

/* See that there is a file, and that it is of the template's size, if there is a template. */
static int prepare(const char *path, const char *template, bool template_given)
{
	bool there = access(path, F_OK) == 0;
	struct stat file, model;

	if (!there && !template) {
		msg_error("--firmware: vars=%s: %s, and no template to make it from (template=FILE)", path,
			  strerror(errno));
		return -ENOENT;
	}
	if (!there)
		return create_from(path, template);
	if (access(path, R_OK | W_OK) < 0) {
		int err = errno;

		msg_error("--firmware: vars=%s: the firmware must be able to write it: %s", path, strerror(err));
		return -err;
	}
	if (!template)
		return 0;
	if (stat(template, &model) < 0) {
		int err = errno;

		if (!template_given)
			return 0;
		msg_error("--firmware: template=%s: %s", template, strerror(err));
		return -err;
	}
	if (stat(path, &file) == 0 && S_ISREG(file.st_mode) && file.st_size != model.st_size) {
		msg_error("--firmware: vars=%s: %lld bytes, but %s has %lld: not this firmware's variables", path,
			  (long long)file.st_size, template, (long long)model.st_size);
		return -EINVAL;
	}
	return 0;
}

/* ---- what the flash does with it ---- */

static int store(void *ctx, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct firmware_vars *vars = ctx;
	int err = file_write(&vars->file, offset, data, len);

	if (err && !vars->complained)
		msg_error("%s: cannot write UEFI variables: %s", vars->file.path, strerror(-err));
	vars->complained |= err != 0;
	return err;
}

static void sync_file(void *ctx)
{
	struct firmware_vars *vars = ctx;

	file_sync(&vars->file); /* which tells of an error */
}

/* ---- open and close ---- */

static int read_contents(struct firmware_vars *vars, uint32_t max)
{
	uint64_t size = atomic_load(&vars->file.end);
	uint8_t *data;
	int err;

	if (!size || size % PFLASH_BLOCK || size > max) {
		msg_error("--firmware: vars=%s: %llu bytes; the variables' flash is a multiple of 4 KiB, and with the "
			  "firmware 8 MiB at most",
			  vars->file.path, (unsigned long long)size);
		return -EINVAL;
	}
	data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED) {
		msg_error("--firmware: vars=%s: %s", vars->file.path, strerror(ENOMEM));
		return -ENOMEM;
	}
	vars->array.data = data;
	vars->array.size = (uint32_t)size;
	err = file_read(&vars->file, 0, data, size);
	if (err)
		msg_error("--firmware: vars=%s: %s", vars->file.path, strerror(-err));
	return err;
}

static int open_file(struct firmware_vars *vars, const char *path)
{
	const struct file_options options = { .writable = true, .lock = true };
	char text[256] = "";
	const struct error_text error = { text, sizeof(text) };
	int err = file_open(&vars->file, path, &options, &error);

	if (!err && vars->file.device) {
		error_set(&error, EINVAL, "%s: not a regular file", path);
		file_close(&vars->file);
		err = -EINVAL;
	}
	if (err)
		msg_error("--firmware: vars=%s", text);
	return err;
}

int firmware_vars_open(struct firmware_vars **out, const char *path, const char *template, const char *firmware_path,
		       uint32_t max)
{
	char *beside = template ? NULL : template_beside(firmware_path);
	struct firmware_vars *vars = calloc(1, sizeof(*vars));
	const char *from = template;
	int err = vars ? 0 : -ENOMEM;

	if (beside && access(beside, R_OK) == 0)
		from = beside;
	if (!err)
		err = prepare(path, from, template != NULL);
	free(beside);
	if (!err)
		err = open_file(vars, path);
	if (err) {
		free(vars);
		return err;
	}
	err = read_contents(vars, max);
	if (err) {
		firmware_vars_close(vars);
		return err;
	}
	vars->array.store = store;
	vars->array.sync = sync_file;
	vars->array.ctx = vars;
	*out = vars;
	return 0;
}

void firmware_vars_close(struct firmware_vars *vars)
{
	if (!vars)
		return;
	if (vars->array.data)
		munmap(vars->array.data, vars->array.size);
	file_close(&vars->file);
	free(vars);
}

const struct pflash_array *firmware_vars_array(const struct firmware_vars *vars)
{
	return &vars->array;
}
