/* SPDX-License-Identifier: Apache-2.0 */
/* The flash: its commands, what is stored when, when it is memory; the file behind it and its template. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boardfix.h"
#include "device/pflash.h"
#include "machine/firmware.h"
#include "machine/firmware_vars.h"

#define SIZE (3 * PFLASH_BLOCK)
#define READY 0x80u

struct fixture {
	struct device *dev;
	uint8_t data[SIZE], stored[SIZE];
	unsigned stores, syncs, shows;
	bool shown;
	int error; /* of the next stores */
};

static int store(void *ctx, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct fixture *f = ctx;

	assert_true(offset < SIZE && len <= SIZE - offset);
	/* The guest cannot see it yet. */
	assert_memory_equal(f->data + offset, f->stored + offset, len);
	if (f->error)
		return f->error;
	memcpy(f->stored + offset, data, len);
	f->stores++;
	return 0;
}

static void sync_store(void *ctx)
{
	struct fixture *f = ctx;

	f->syncs++;
}

static void show(void *ctx, bool data)
{
	struct fixture *f = ctx;

	assert_true(data != f->shown);
	f->shown = data;
	f->shows++;
}

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;
	const struct pflash_view view = { .show = show, .ctx = f };

	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < SIZE; i++)
		f->data[i] = f->stored[i] = (uint8_t)(i * 7 + (i >> 8));
	f->shown = true;
	f->dev = pflash_create(
		&(struct pflash_array){ .data = f->data, .size = SIZE, .store = store, .sync = sync_store, .ctx = f },
		&view);
	assert_non_null(f->dev);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->ops->destroy(f->dev);
	return 0;
}

static unsigned get(struct fixture *f, uint32_t offset)
{
	return (uint8_t)f->dev->ops->read(f->dev, 0, offset, 1);
}

static void put(struct fixture *f, uint32_t offset, unsigned value)
{
	f->dev->ops->write(f->dev, 0, offset, value, 1);
}

/* The array becomes memory again when it is read for long, and not before. */
static void read_until_shown(struct fixture *f)
{
	unsigned reads = 0;

	for (; !f->shown; reads++)
		assert_int_equal(get(f, reads % SIZE), f->data[reads % SIZE]);
	assert_in_range(reads, 64, 1024);
}

static void is_stored(const struct fixture *f)
{
	assert_memory_equal(f->data, f->stored, SIZE);
}

/* As OVMF does it: a ROM would give the old byte, RAM the command. */
static void test_detection(void **state)
{
	struct fixture *f = *state;
	unsigned was = get(f, 5);

	put(f, 5, 0x50);
	assert_int_equal(get(f, 5), was);
	assert_true(f->shown);
	put(f, 5, 0x70);
	assert_false(f->shown);
	assert_int_equal(get(f, 5), 0);
	put(f, 5, 0xff);
	assert_int_equal(get(f, 5), was);
	assert_false(f->shown);
	read_until_shown(f);
	assert_int_equal(f->stores + f->syncs, 0);
}

static void test_program(void **state)
{
	struct fixture *f = *state;

	f->data[9] = f->stored[9] = 0xf0;
	put(f, 9, 0x10);
	assert_false(f->shown);
	put(f, 9, 0x3c);
	assert_int_equal(get(f, 0), READY);
	assert_int_equal(f->data[9], 0x30); /* bits only go down */
	put(f, 10, 0x40);
	put(f, 10, 0);
	assert_int_equal(f->data[10], 0);
	is_stored(f);
	assert_int_equal(f->stores, 2);
	assert_int_equal(f->syncs, 0);
	put(f, 0, 0xff);
	assert_int_equal(f->syncs, 1);
	assert_int_equal(f->shows, 1);
	assert_int_equal(get(f, 9), 0x30);
	put(f, 0, 0x70);
	put(f, 0, 0xff);
	assert_int_equal(f->syncs, 1); /* nothing was written */
}

static void test_erase(void **state)
{
	struct fixture *f = *state;
	uint8_t before = f->data[PFLASH_BLOCK - 1], after = f->data[2 * PFLASH_BLOCK];

	put(f, PFLASH_BLOCK + 0x123, 0x20);
	put(f, PFLASH_BLOCK + 0x123, 0xd0);
	assert_int_equal(get(f, 0), READY);
	for (unsigned i = 0; i < PFLASH_BLOCK; i++)
		assert_int_equal(f->data[PFLASH_BLOCK + i], 0xff);
	assert_int_equal(f->data[PFLASH_BLOCK - 1], before);
	assert_int_equal(f->data[2 * PFLASH_BLOCK], after);
	is_stored(f);
	put(f, 0, 0x20); /* not confirmed */
	put(f, 0, 0x11);
	assert_int_equal(get(f, 0), READY | 0x30);
	assert_int_equal(f->stores, 1);
	put(f, 0, 0x50);
	put(f, 0, 0x70);
	assert_int_equal(get(f, 0), 0);
}

static void test_buffer(void **state)
{
	struct fixture *f = *state;

	memset(f->data, 0xff, SIZE);
	memset(f->stored, 0xff, SIZE);
	put(f, 0x100, 0xe8);
	assert_int_equal(get(f, 0x100), READY);
	put(f, 0x100, 2); /* three bytes */
	put(f, 0x100, 0x12);
	put(f, 0x102, 0x56);
	put(f, 0x101, 0x34);
	assert_int_equal(f->stores, 0);
	put(f, 0x100, 0xd0);
	assert_int_equal(get(f, 0), READY);
	assert_memory_equal(f->data + 0x100, "\x12\x34\x56\xff", 4);
	is_stored(f);
	put(f, 0, 0xe8); /* no confirmation */
	put(f, 0, 0);
	put(f, 0, 0);
	put(f, 0, 0xff);
	assert_int_equal(get(f, 0), READY | 0x30);
	put(f, 0, 0x50);
	put(f, 0, 0xe8); /* too many */
	put(f, 0, 32);
	assert_int_equal(get(f, 0), READY | 0x30);
	put(f, 0, 0x50);
	put(f, SIZE - 2, 0xe8); /* over the end, and before the start */
	put(f, SIZE - 2, 31);
	for (unsigned i = 0; i < 32; i++)
		put(f, i & 1 ? 0 : SIZE - 1, 0);
	put(f, SIZE - 2, 0xd0);
	assert_int_equal(get(f, 0), READY | 0x30);
	assert_int_equal(f->stores, 1);
	is_stored(f);
}

static void test_id_and_query(void **state)
{
	struct fixture *f = *state;

	put(f, 0, 0x90);
	assert_int_equal(get(f, 0), 0x89);
	assert_int_equal(get(f, 2), 0);
	put(f, 0, 0x98);
	assert_false(f->shown);
	assert_int_equal(get(f, 0x10), 'Q');
	assert_int_equal(get(f, 0x11), 'R');
	assert_int_equal(get(f, 0x12), 'Y');
	assert_int_equal(get(f, 0x13) | get(f, 0x14) << 8, 1);
	assert_int_equal(get(f, 0x27), 14); /* 12 KiB: the next power of two */
	assert_int_equal((get(f, 0x2d) | get(f, 0x2e) << 8) + 1, SIZE / PFLASH_BLOCK);
	assert_int_equal((get(f, 0x2f) | get(f, 0x30) << 8) * 256, PFLASH_BLOCK);
	assert_int_equal(get(f, get(f, 0x15)), 'P');
	assert_int_equal(get(f, SIZE - 1), 0);
	put(f, 0, 0xaa); /* unknown: as read array */
	read_until_shown(f);
}

/* What cannot be kept does not happen. */
static void test_store_fails(void **state)
{
	struct fixture *f = *state;

	f->error = -ENOSPC;
	put(f, 3, 0x10);
	put(f, 3, 0);
	assert_int_equal(get(f, 0), READY | 0x10);
	put(f, 3, 0x50);
	put(f, 3, 0x20);
	put(f, 3, 0xd0);
	assert_int_equal(get(f, 0), READY | 0x20);
	is_stored(f);
	assert_int_equal(f->stores, 0);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	put(f, 3, 0x10);
	f->dev->ops->reset(f->dev);
	assert_true(f->shown);
	put(f, 3, 0x70);
	assert_int_equal(get(f, 0), READY);
	assert_int_equal(f->stores, 0);
}

/* ---- the file ---- */

struct folder {
	char path[64], code[96], vars[96], template[96];
};

static void write_file(const char *path, int byte, size_t size)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	while (size--)
		fputc(byte, file);
	assert_int_equal(fclose(file), 0);
}

static int byte_at(const char *path, long offset)
{
	FILE *file = fopen(path, "r");
	int byte;

	assert_non_null(file);
	fseek(file, offset, SEEK_SET);
	byte = fgetc(file);
	fclose(file);
	return byte;
}

static int folder_setup(void **state)
{
	static struct folder folder;
	struct folder *d = &folder;

	strcpy(d->path, "/tmp/trapeze-pflash-XXXXXX");
	assert_non_null(mkdtemp(d->path));
	snprintf(d->code, sizeof(d->code), "%.63s/X_CODE_4M.fd", d->path);
	snprintf(d->template, sizeof(d->template), "%.63s/X_VARS_4M.fd", d->path);
	snprintf(d->vars, sizeof(d->vars), "%.63s/mine", d->path);
	write_file(d->code, 0x90, 5 * 4096);
	*state = d;
	return 0;
}

static int folder_teardown(void **state)
{
	struct folder *d = *state;

	unlink(d->code);
	unlink(d->template);
	unlink(d->vars);
	assert_int_equal(rmdir(d->path), 0); /* no temporary file is left */
	return 0;
}

static int open_vars(struct firmware *fw, const struct folder *d, const char *more)
{
	char text[400];

	snprintf(text, sizeof(text), "%s,vars=%s%s", d->code, d->vars, more);
	return firmware_open(fw, text, false);
}

static void test_file_from_template(void **state)
{
	struct folder *d = *state;
	const struct pflash_array *array;
	struct firmware fw, other;
	char more[128];

	assert_int_equal(open_vars(&fw, d, ""), -ENOENT); /* there is none, and nothing to make it from */
	write_file(d->template, 0xff, 2 * 4096);
	assert_int_equal(open_vars(&fw, d, ""), 0);
	assert_int_equal(firmware_vars_gpa(&fw), 0x100000000 - 7 * 4096);
	array = firmware_vars_array(fw.vars);
	assert_int_equal(array->size, 2 * 4096);
	assert_int_equal(array->data[100], 0xff);
	assert_int_equal(array->store(array->ctx, 100, (const uint8_t[]){ 0x42 }, 1), 0);
	assert_int_equal(byte_at(d->vars, 100), 0x42);       /* at once */
	assert_int_equal(open_vars(&other, d, ""), -EAGAIN); /* in use */
	firmware_close(&fw);
	assert_int_equal(open_vars(&fw, d, ""), 0);
	assert_int_equal(firmware_vars_array(fw.vars)->data[100], 0x42);
	firmware_close(&fw);
	assert_int_equal(byte_at(d->template, 100), 0xff);
	unlink(d->vars);
	snprintf(more, sizeof(more), ",template=%s", d->code);
	assert_int_equal(open_vars(&fw, d, more), 0);
	assert_int_equal(firmware_vars_array(fw.vars)->data[100], 0x90);
	firmware_close(&fw);
}

static void test_bad_files(void **state)
{
	struct folder *d = *state;
	struct firmware fw;
	char text[400];

	write_file(d->vars, 0, 4097);
	assert_int_equal(open_vars(&fw, d, ""), -EINVAL);
	write_file(d->vars, 0, 0);
	assert_int_equal(open_vars(&fw, d, ""), -EINVAL);
	write_file(d->vars, 0, 0);
	assert_int_equal(truncate(d->vars, (8 << 20) - 4 * 4096), 0); /* with the firmware more than 8 MiB */
	assert_int_equal(open_vars(&fw, d, ""), -EINVAL);
	write_file(d->vars, 0, 4096);
	assert_int_equal(open_vars(&fw, d, ",template=/nonexistent"), -ENOENT);
	write_file(d->template, 0, 8192); /* another size */
	assert_int_equal(open_vars(&fw, d, ""), -EINVAL);
	unlink(d->vars);
	assert_int_equal(mkdir(d->vars, 0700), 0);
	assert_int_equal(open_vars(&fw, d, ""), -EISDIR);
	assert_int_equal(rmdir(d->vars), 0);
	snprintf(text, sizeof(text), "%s,template=%s", d->code, d->template);
	assert_int_equal(firmware_open(&fw, text, false), -EINVAL);
	snprintf(text, sizeof(text), "%s,vars=/nonexistent/vars", d->code);
	assert_int_equal(firmware_open(&fw, text, false), -ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_detection),      TEST(test_program),     TEST(test_erase), TEST(test_buffer),
		TEST(test_id_and_query),   TEST(test_store_fails), TEST(test_reset), FILE_TEST(test_file_from_template),
		FILE_TEST(test_bad_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
