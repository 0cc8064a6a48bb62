/* SPDX-License-Identifier: Apache-2.0 */
/* Truncated, damaged and hostile qcow2 images: refused with a line that says what, or read without harm. */
#include "blockfix.h"

#include <endian.h>

#include "block/tools.h"

#define IMAGE "bad.qcow2"
#define DISK (UINT64_C(1) << 20)

static uint8_t *good; /* a small image with data, a snapshot and compressed clusters */
static size_t good_size;

static int make_good(void **state)
{
	if (folder_enter(state) != 0)
		return -1;
	if (access("/usr/bin/qemu-img", X_OK) != 0)
		return 0;
	if (sh("head -c 300k /dev/urandom >part; yes text | head -c 300k >>part; truncate -s 1M part; "
	       "qemu-img convert -c -O qcow2 -o cluster_size=4k part good.qcow2 && "
	       "qemu-img snapshot -c one good.qcow2 && "
	       "qemu-io -f qcow2 -c 'write -P 7 0 100k' -c 'write -z 700k 64k' good.qcow2 && "
	       "qemu-img check good.qcow2") != 0)
		return -1;
	good = read_file("good.qcow2", &good_size);
	return 0;
}

static int drop_good(void **state)
{
	free(good);
	return folder_leave(state);
}

static uint8_t *copy_of_good(void)
{
	uint8_t *copy = malloc(good_size);

	memcpy(copy, good, good_size);
	return copy;
}

static const struct block_options writable = { .path = IMAGE, .format = BLOCK_FORMAT_QCOW2, .no_uring = true };
static const struct block_options readonly = {
	.path = IMAGE, .format = BLOCK_FORMAT_QCOW2, .no_uring = true, .readonly = true
};

static void put(uint8_t *image, size_t at, uint64_t value, unsigned bytes)
{
	value = htobe64(value);
	memcpy(image + at, (uint8_t *)&value + 8 - bytes, bytes);
}

static uint64_t get64(const uint8_t *image, size_t at)
{
	uint64_t v;

	memcpy(&v, image + at, 8);
	return be64toh(v);
}

/* --- single fields --- */

static const struct field {
	size_t at;
	unsigned bytes;
	uint64_t value;
	const char *word;
} fields[] = {
	{ 0, 4, 0x12345678, "not a qcow2 image" },
	{ 4, 4, 1, "version 1" },
	{ 4, 4, 4, "version 4" },
	{ 8, 8, 1 << 30, "backing file's name" },
	{ 16, 4, 5000, NULL }, /* no backing file: undefined */
	{ 20, 4, 8, "clusters of 2^8" },
	{ 20, 4, 22, "clusters of 2^22" },
	{ 20, 4, 0xffffffff, "clusters" },
	{ 24, 8, UINT64_MAX, "disk of" },
	{ 24, 8, UINT64_C(1) << 40, "too short" },
	{ 32, 4, 1, "encrypted (AES)" },
	{ 32, 4, 2, "encrypted (LUKS)" },
	{ 36, 4, 0xffffffff, "L1 table" },
	{ 36, 4, 0, "too short" },
	{ 40, 8, 123, "L1 table" },
	{ 40, 8, UINT64_C(1) << 50, "L1 table" },
	{ 40, 8, UINT64_MAX & ~UINT64_C(0xfff), "L1 table" },
	{ 48, 8, 4097, "refcount table" },
	{ 48, 8, UINT64_C(1) << 40, "refcount table" },
	{ 48, 8, 0, "refcount table" },
	{ 56, 4, 0, "no refcount table" },
	{ 56, 4, 0x7fffffff, "refcount table" },
	{ 60, 4, 70000, "snapshots" },
	{ 60, 4, 60000, "snapshot table" },
	{ 64, 8, 4096 * 3 + 8, "snapshot table" },
	{ 72, 8, 4, "external data file" },
	{ 72, 8, 16, "extended L2" },
	{ 72, 8, UINT64_C(1) << 40, "feature bit 40" },
	{ 72, 8, 8, "compression type" },
	{ 96, 4, 7, "refcounts of 2^7" },
	{ 100, 4, 103, "header of 103" },
	{ 100, 4, 0xfffffff8, "header of" },
	{ 100, 4, 72, "header of 72" },
};

static void test_fields(void **state)
{
	(void)state;
	need_qemu_img();
	for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		uint8_t *image = copy_of_good();

		put(image, fields[i].at, fields[i].value, fields[i].bytes);
		write_file(IMAGE, image, good_size);
		if (fields[i].word) {
			disk_refused(&writable, fields[i].word);
			disk_refused(&readonly, fields[i].word);
		} else {
			block_close(disk_open(&writable));
		}
		free(image);
	}
}

/* A feature is told by the name that the image gives it. */
static void test_feature_name(void **state)
{
	uint8_t *image;

	(void)state;
	need_qemu_img();
	image = copy_of_good();
	put(image, 72, UINT64_C(1) << 33, 8);
	put(image, 112, 0x6803f857, 4);
	put(image, 116, 48, 4);
	memset(image + 120, 0, 64);
	image[121] = 33;
	strcpy((char *)image + 122, "time travel");
	write_file(IMAGE, image, good_size);
	disk_refused(&writable, "time travel");
	free(image);
}

/* --- metadata that points at metadata --- */

static void test_overlaps(void **state)
{
	uint64_t targets[3];
	uint8_t *image;
	uint64_t l1, l2;

	(void)state;
	need_qemu_img();
	l1 = get64(good, 40);
	l2 = get64(good, l1) & UINT64_C(0x00fffffffffffe00);
	targets[0] = 0; /* the header */
	targets[1] = l1;
	targets[2] = get64(good, 48); /* the refcount table */
	for (unsigned i = 0; i < 3; i++) {
		/* A data cluster in place: a guest could write it. */
		image = copy_of_good();
		put(image, l2, (i ? targets[i] : 4096 * 0) | UINT64_C(1) << 63, 8);
		write_file(IMAGE, image, good_size);
		disk_refused(&writable, "corrupt");
		/* An L2 table there. */
		put(image, l1, targets[i] | UINT64_C(1) << 63, 8);
		write_file(IMAGE, image, good_size);
		disk_refused(&writable, "corrupt");
		free(image);
	}
	/* A count too low, and one that leaks. */
	image = copy_of_good();
	put(image, get64(good, get64(good, 48)) + 2 * (l2 / 4096), 0, 2);
	write_file(IMAGE, image, good_size);
	disk_refused(&writable, "refcount 0 and 1 references");
	block_close(disk_open(&readonly));
	put(image, get64(good, get64(good, 48)) + 2 * (l2 / 4096), 7, 2);
	write_file(IMAGE, image, good_size);
	disk_refused(&writable, "copied flag");
	free(image);
}

static void test_marked_corrupt(void **state)
{
	uint8_t *image;

	(void)state;
	need_qemu_img();
	image = copy_of_good();
	put(image, 72, 2, 8);
	write_file(IMAGE, image, good_size);
	disk_refused(&writable, "marked corrupt");
	block_close(disk_open(&readonly));
	free(image);
}

/* Dirty: counts of lazy refcounts are not on the disk. They are made anew. */
static void test_dirty(void **state)
{
	uint8_t *image, *seen = malloc(DISK), *expected = malloc(DISK);
	uint64_t block;
	struct block *disk;

	(void)state;
	need_qemu_img();
	write_file(IMAGE, good, good_size);
	disk = disk_open(&readonly);
	assert_int_equal(block_read(disk, 0, expected, DISK), 0);
	block_close(disk);
	image = copy_of_good();
	put(image, 72, 1, 8);
	block = get64(good, get64(good, 48));
	memset(image + block + 20, 0, 400);
	write_file(IMAGE, image, good_size);
	block_close(disk_open(&readonly)); /* needs no counts */
	disk = disk_open(&writable);
	assert_int_equal(block_read(disk, 0, seen, DISK), 0);
	assert_memory_equal(seen, expected, DISK);
	assert_int_equal(block_write(disk, 512, seen, 65536), 0);
	assert_int_equal(block_close(disk), 0);
	assert_sh("qemu-img check -f qcow2 " IMAGE);
	assert_sh("qemu-img convert -l one -O raw " IMAGE " one.raw && cmp one.raw part");
	free(image);
	free(seen);
	free(expected);
}

/* --- anything --- */

static void use(struct block *disk, bool write)
{
	uint64_t size = block_info(disk)->size;
	uint8_t *data = malloc(65536);

	if (size > DISK * 4)
		size = DISK * 4;
	for (uint64_t at = 0; at + 65536 <= size; at += 65536) {
		block_read(disk, at, data, 65536);
		if (write && at % (3 * 65536) == 0)
			block_write(disk, at + 4096, data, 20000 / 512 * 512);
	}
	if (write) {
		block_write_zeroes(disk, 8192, 200000 / 512 * 512, BLOCK_REQ_UNMAP);
		block_flush(disk);
	}
	free(data);
}

static void open_and_use(const struct block_options *options)
{
	char error[512] = "";
	struct block *disk;

	if (block_open(options, &disk, error, sizeof(error)) != 0) {
		assert_null(strchr(error, '\n'));
		assert_non_null(strstr(error, IMAGE));
		return;
	}
	use(disk, !options->readonly);
	block_close(disk);
}

static void check_and_repair(enum qcow2_repair how)
{
	struct qcow2_check check = { 0 };
	char text[512];
	struct error_text error = { text, sizeof(text) };

	image_tool_check(IMAGE, BLOCK_FORMAT_QCOW2, how, &check, &error);
}

static void test_truncated(void **state)
{
	(void)state;
	need_qemu_img();
	for (size_t size = 0; size < good_size; size += size < 600 ? 37 : 4096 * 5 + 513) {
		write_file(IMAGE, good, size);
		disk_refused(&writable, "");
		open_and_use(&readonly);
		check_and_repair(QCOW2_REPAIR_NOTHING);
	}
}

/* Bits, bytes and words changed, mostly where metadata is. */
static void test_fuzz(void **state)
{
	struct fuzz f = fuzz_start(99);
	int saved, null = open("/dev/null", O_WRONLY);

	(void)state;
	need_qemu_img();
	/* Each corruption found while running is told on stderr. */
	saved = dup(STDERR_FILENO);
	dup2(null, STDERR_FILENO);
	for (unsigned i = 0; i < fuzz_rounds(400); i++) {
		uint8_t *image = copy_of_good();
		uint64_t places[] = { 0,
				      get64(good, 40),
				      get64(good, 48),
				      get64(good, get64(good, 48)),
				      get64(good, get64(good, 40)) & UINT64_C(0x00fffffffffffe00),
				      get64(good, 64),
				      fuzz_below(&f, good_size / 4096) * 4096 };

		for (uint64_t n = 1 + fuzz_below(&f, 3); n; n--) {
			uint64_t at = places[fuzz_below(&f, 7)];

			fuzz_mutate(&f, image + at, at ? (fuzz_below(&f, 2) ? 64 : 4096) : 160);
		}
		write_file(IMAGE, image, good_size);
		open_and_use(&readonly);
		open_and_use(&writable);
		write_file(IMAGE, image, good_size);
		check_and_repair(QCOW2_REPAIR_ALL);
		open_and_use(&writable);
		free(image);
	}
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
}

/* --- backing files --- */

static void test_backing(void **state)
{
	struct block_options options = { .path = "top.qcow2", .format = BLOCK_FORMAT_QCOW2 };
	uint8_t sector[SECTOR];
	struct block *disk;

	(void)state;
	need_qemu_img();
	assert_sh("mkdir -p sub && truncate -s 1M sub/base.raw && printf hello | dd of=sub/base.raw conv=notrunc");
	assert_sh("qemu-img create -f qcow2 -b base.raw -F raw sub/mid.qcow2 && "
		  "qemu-img create -f qcow2 -b sub/mid.qcow2 -F qcow2 top.qcow2");
	disk = disk_open(&options); /* names are relative to the folder of the image that holds them */
	assert_int_equal(block_read(disk, 0, sector, SECTOR), 0);
	assert_memory_equal(sector, "hello", 5);
	block_close(disk);
	/* Itself, behind itself. */
	assert_sh("qemu-img rebase -u -b ../top.qcow2 -F qcow2 sub/mid.qcow2");
	disk_refused(&options, "top.qcow2"); /* its writer's lock, or the loop */
	options.readonly = true;
	options.no_lock = true;
	disk_refused(&options, "its own backing file");
	assert_sh("qemu-img rebase -u -b missing.raw -F raw sub/mid.qcow2");
	disk_refused(&(struct block_options){ .path = "sub/mid.qcow2" }, "missing.raw");
	assert_sh("qemu-img rebase -u -b base.raw -F vmdk sub/mid.qcow2");
	disk_refused(&(struct block_options){ .path = "sub/mid.qcow2" }, "vmdk");
	assert_sh("qemu-img rebase -u -b nbd://localhost/x -F raw sub/mid.qcow2");
	disk_refused(&(struct block_options){ .path = "sub/mid.qcow2" }, "not a plain file name");
}

/* A raw backing file without a named format: what a guest once wrote to it must not open other files. */
static void test_backing_without_format(void **state)
{
	uint8_t *image;
	size_t size;

	(void)state;
	need_qemu_img();
	assert_sh("printf secret >secret; truncate -s 64k secret; "
		  "qemu-img create -f qcow2 -b secret -F raw evil.raw && "
		  "qemu-img create -f qcow2 -b evil.raw -F qcow2 naive.qcow2");
	image = read_file("naive.qcow2", &size);
	put(image, 112, 0x12345678, 4); /* was: the backing format's extension */
	assert_int_equal(get64(good, 8), 0);
	write_file("naive.qcow2", image, size);
	free(image);
	disk_refused(&(struct block_options){ .path = "naive.qcow2" }, "does not say that its backing file is qcow2");
}

static void test_deep_chain(void **state)
{
	(void)state;
	need_qemu_img();
	assert_sh("truncate -s 1M c0; for i in $(seq 1 66); do qemu-img create -q -u -f qcow2 -b c$((i - 1)) "
		  "-F $([ $i = 1 ] && echo raw || echo qcow2) c$i 1M || exit 1; done");
	block_close(disk_open(&(struct block_options){ .path = "c60" }));
	disk_refused(&(struct block_options){ .path = "c66" }, "backing files behind each other");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fields),
		cmocka_unit_test(test_feature_name),
		cmocka_unit_test(test_overlaps),
		cmocka_unit_test(test_marked_corrupt),
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_fuzz),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_backing_without_format),
		cmocka_unit_test(test_deep_chain),
	};

	return cmocka_run_group_tests(tests, make_good, drop_good);
}
