/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/firmware.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/pflash.h"
#include "machine/firmware_vars.h"
#include "machine/message.h"
#include "machine/nearest.h"

#define FOUR_GIB UINT64_C(0x100000000)
#define SHADOW_END 0x100000u
#define SHADOW_SIZE 0x20000u
#define VGABIOS_NAME "vgabios-stdvga.bin"
#define ROM_SIGNATURE 0xaa55 /* of an option ROM */

static const char *const option_names[] = { "vgabios", "menu", "vars", "template", NULL };

struct request {
	char *path;                            /* holds all strings */
	const char *vgabios, *vars, *template; /* NULL: not given */
};

static int parse_option(struct firmware *fw, struct request *r, char *word)
{
	char *value = strchr(word, '=');

	if (!value) {
		msg_error("--firmware: \"%s\" is not of the form key=value", word);
		return -EINVAL;
	}
	*value++ = '\0';
	if (!strcmp(word, "vgabios")) {
		r->vgabios = value;
		return 0;
	}
	if (!strcmp(word, "vars")) {
		r->vars = value;
		return 0;
	}
	if (!strcmp(word, "template")) {
		r->template = value;
		return 0;
	}
	if (strcmp(word, "menu") != 0) {
		msg_error("--firmware: unknown option \"%s\"; did you mean \"%s\"?", word,
			  nearest_name(word, option_names));
		return -EINVAL;
	}
	fw->menu = !strcmp(value, "on");
	if (fw->menu || !strcmp(value, "off"))
		return 0;
	msg_error("--firmware: menu=%s: expected on or off", value);
	return -EINVAL;
}

static int parse(struct firmware *fw, struct request *r, const char *text)
{
	char *rest, *word;
	int err = 0;

	memset(r, 0, sizeof(*r));
	r->path = rest = strdup(text);
	if (!rest)
		return -ENOMEM;
	strsep(&rest, ",");
	while (!err && (word = strsep(&rest, ",")))
		err = parse_option(fw, r, word);
	if (!err && r->template && !r->vars) {
		msg_error("--firmware: template=%s: needs vars=FILE, the file to make from it", r->template);
		err = -EINVAL;
	}
	return err;
}

static int open_rom(struct firmware *fw, const char *path)
{
	struct image image;
	int err = image_open(&image, "firmware", path);

	if (err)
		return err;
	if (image.size % FIRMWARE_ALIGN || image.size > FIRMWARE_SIZE_MAX) {
		msg_error("firmware %s: %zu bytes; a firmware image is a multiple of 4 KiB, and 8 MiB at most", path,
			  image.size);
		err = -EINVAL;
	} else {
		fw->rom = mmap(NULL, image.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (fw->rom == MAP_FAILED) {
			fw->rom = NULL;
			err = -ENOMEM;
			msg_error("firmware %s: %s", path, strerror(ENOMEM));
		} else {
			fw->size = (uint32_t)image.size;
			memcpy(fw->rom, image.data, image.size);
		}
	}
	image_close(&image);
	return err;
}

static int open_vgabios(struct firmware *fw, const char *path)
{
	int err = image_open(&fw->vgabios, "video BIOS", path);

	if (err)
		return err;
	if (fw->vgabios.size >= 512 && fw->vgabios.size <= SHADOW_SIZE &&
	    (fw->vgabios.data[0] | fw->vgabios.data[1] << 8) == ROM_SIGNATURE)
		return 0;
	msg_error("video BIOS %s: not an option ROM", path);
	return -EINVAL;
}

/* Beside the firmware, as Debian's seabios has it. None: firmware with a driver of its own (UEFI) needs none. */
static int find_vgabios(struct firmware *fw, const char *firmware_path)
{
	const char *slash = strrchr(firmware_path, '/');
	int length = slash ? (int)(slash + 1 - firmware_path) : 0;
	char *path;
	int err = 0;

	if (asprintf(&path, "%.*s" VGABIOS_NAME, length, firmware_path) < 0)
		return -ENOMEM;
	if (access(path, R_OK) == 0)
		err = open_vgabios(fw, path);
	free(path);
	return err;
}

int firmware_open(struct firmware *fw, const char *text, bool with_vga)
{
	struct request r;
	int err;

	memset(fw, 0, sizeof(*fw));
	err = parse(fw, &r, text);
	if (!err)
		err = open_rom(fw, r.path);
	if (!err && r.vgabios)
		err = open_vgabios(fw, r.vgabios);
	else if (!err && with_vga)
		err = find_vgabios(fw, r.path);
	if (!err && r.vars)
		err = firmware_vars_open(&fw->vars, r.vars, r.template, r.path, FIRMWARE_SIZE_MAX - fw->size);
	free(r.path);
	if (err)
		firmware_close(fw);
	return err;
}

void firmware_close(struct firmware *fw)
{
	if (fw->rom)
		munmap(fw->rom, fw->size);
	fw->rom = NULL;
	image_close(&fw->vgabios);
	firmware_vars_close(fw->vars);
	fw->vars = NULL;
}

uint64_t firmware_gpa(const struct firmware *fw)
{
	return FOUR_GIB - fw->size;
}

uint64_t firmware_vars_gpa(const struct firmware *fw)
{
	return firmware_gpa(fw) - firmware_vars_array(fw->vars)->size;
}

void firmware_shadow(const struct firmware *fw, const struct guest_ram *ram)
{
	uint32_t size = fw->size < SHADOW_SIZE ? fw->size : SHADOW_SIZE;

	ram_write(ram, SHADOW_END - size, fw->rom + fw->size - size, size);
}
