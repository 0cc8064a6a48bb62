/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images that are damaged or made to do harm: opened as what they say they are, read and written, checked. An
 * image is refused in one line or is a disk; what was written to it and acknowledged is read back.
 *
 * Input: the number of operations, the operations, the image's first bytes in units of 64 (zeros are left out: a byte
 * with the unit's number, then the unit).
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "block/tools.h"
#include "input.h"

#define IMAGE_MAX 0x4000u
#define UNIT 64u
#define TRANSFER_MAX 0x3000u

static int image_fd;
static char image_path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	image_fd = memfd_create("image", 0);
	CHECK(image_fd >= 0);
	snprintf(image_path, sizeof(image_path), "/proc/self/fd/%d", image_fd);
	return 0;
}

static size_t put_image(struct input *in)
{
	static uint8_t image[IMAGE_MAX];
	size_t end = 0;

	memset(image, 0, sizeof(image));
	while (input_left(in)) {
		size_t at = input_u8(in) * UNIT;

		input_bytes(in, image + at, UNIT);
		if (at + UNIT > end)
			end = at + UNIT;
	}
	CHECK(ftruncate(image_fd, 0) == 0);
	CHECK(pwrite(image_fd, image, end, 0) == (ssize_t)end);
	return end;
}

static void one_operation(struct block *disk, struct input *in)
{
	const struct block_info *info = block_info(disk);
	unsigned what = input_u8(in);
	uint64_t offset = what & 0x80 ? input_value(in) : input_number(in, 2) % (info->size + 1);
	size_t length = input_number(in, 2) % TRANSFER_MAX;
	uint8_t *data = malloc(length + 1), *back = malloc(length + 1);
	uint64_t extent = length;
	bool zero;

	memset(data, what, length + 1);
	switch (what & 7) {
	case 0:
	case 1: (void)block_read(disk, offset, data, length); break;
	case 2:
	case 3:
		if (block_write(disk, offset, data, length) == 0 && block_read(disk, offset, back, length) == 0)
			CHECK(!memcmp(data, back, length));
		break;
	case 4:
		if (block_write_zeroes(disk, offset, length, what & 8 ? BLOCK_REQ_UNMAP : 0) == 0 &&
		    block_read(disk, offset, back, length) == 0)
			CHECK(!length || (!back[0] && !memcmp(back, back + 1, length - 1)));
		break;
	case 5: (void)block_discard(disk, offset, length); break;
	case 6: (void)block_extent(disk, offset, &extent, &zero); break;
	default: (void)block_flush(disk); break;
	}
	free(data);
	free(back);
}

static void use_disk(enum block_format format, bool readonly, struct input *in)
{
	const struct block_options options = { .path = image_path,
					       .format = format,
					       .cache = BLOCK_CACHE_WRITEBACK,
					       .readonly = readonly,
					       .discard = true,
					       .no_uring = true };
	char error[512] = "";
	struct block *disk = NULL;

	if (block_open(&options, &disk, error, sizeof(error))) {
		CHECK(error[0] && !strchr(error, '\n'));
		return;
	}
	CHECK(block_info(disk)->size % 512 == 0);
	while (input_left(in))
		one_operation(disk, in);
	(void)block_close(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t script = size > 2 ? data[0] % 64 : 0;
	struct input in = { data + 2 + script, data + size }, operations = { data + 2, data + 2 + script };
	char text[1024] = "";
	const struct error_text error = { text, sizeof(text) };
	struct qcow2_check check = { 0 };
	struct image_facts facts;
	uint8_t how = size > 2 ? data[1] : 0;

	if (size < 2 + script)
		return -1;
	put_image(&in);
	(void)image_tool_info(image_path, BLOCK_FORMAT_AUTO, &facts, &error);
	use_disk(how & 1 ? BLOCK_FORMAT_AUTO : BLOCK_FORMAT_QCOW2, how & 2, &operations);
	(void)image_tool_check(image_path, BLOCK_FORMAT_QCOW2, (enum qcow2_repair)((how >> 2 & 3) % 3), &check, &error);
	return 0;
}
