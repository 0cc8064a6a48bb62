/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk's requests to discard and to zero, a driver of one split ring before it (virtio 1.2, 5.2.6). */
#include "blockfix.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <time.h>

#include "device/virtio/models.h"
#include "device/virtio/virtio.h"

#define RAM_SIZE (UINT64_C(1) << 20)
#define DESC 0x1000
#define DRIVER 0x2000
#define DEVICE 0x3000
#define HEADER 0x4000
#define RANGES 0x5000
#define STATUS 0x6000
#define SECTORS (4u << 11) /* of the disk */
#define RANGES_MAX 32
#define UNMAP VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP

struct world {
	struct guest_ram ram;
	struct block *disk;
	struct virtio_device *v;
	uint16_t offered;
	_Atomic unsigned interrupts;
};

static void queue_interrupt(void *ctx, unsigned q)
{
	struct world *w = ctx;

	assert_int_equal(q, 0);
	w->interrupts++;
}

static void config_interrupt(void *ctx)
{
	(void)ctx;
	fail_msg("the device broke");
}

static void put16(struct world *w, uint64_t at, uint16_t value)
{
	assert_true(ram_write(&w->ram, at, &value, sizeof(value)));
}

static void describe(struct world *w, unsigned n, uint64_t addr, uint32_t len, uint16_t flags)
{
	assert_true(ram_write(&w->ram, DESC + 16 * n, &addr, 8));
	assert_true(ram_write(&w->ram, DESC + 16 * n + 8, &len, 4));
	put16(w, DESC + 16 * n + 12, flags);
	put16(w, DESC + 16 * n + 14, (uint16_t)(n + 1));
}

static void create(struct world *w)
{
	const struct block_options options = { .path = "disk.raw", .format = BLOCK_FORMAT_RAW, .discard = true };
	uint8_t *data = malloc(SECTORS * 512);
	struct virtq *ring;

	memset(w, 0, sizeof(*w));
	memset(data, 0xaa, SECTORS * 512);
	write_file("disk.raw", data, SECTORS * 512);
	free(data);
	assert_int_equal(ram_create(&w->ram, RAM_SIZE), 0);
	w->disk = disk_open(&options);
	w->v = virtio_blk_create(&w->ram, w->disk, NULL, 1);
	assert_non_null(w->v);
	w->v->transport = (struct virtio_transport){ queue_interrupt, config_interrupt, w };
	virtio_accept_word(w->v, 0, 1u << VIRTIO_BLK_F_DISCARD | 1u << VIRTIO_BLK_F_WRITE_ZEROES);
	virtio_accept_word(w->v, 1, 1);
	virtio_set_status(w->v, VIRTIO_CONFIG_S_FEATURES_OK);
	ring = virtio_ring(w->v, 0);
	ring->size = 8;
	ring->descriptors = DESC;
	ring->driver = DRIVER;
	ring->device = DEVICE;
	virtio_queue_enable(w->v, 0);
	virtio_set_status(w->v, VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void destroy(struct world *w)
{
	virtio_device_stop_threads(w->v);
	virtio_reset(w->v);
	w->v->model->destroy(w->v);
	assert_int_equal(block_close(w->disk), 0);
	ram_destroy(&w->ram);
}

/* The status of a request with this table of ranges. */
static uint8_t ask(struct world *w, uint32_t type, const void *table, size_t bytes)
{
	const struct virtio_blk_outhdr header = { .type = type };
	uint8_t status = 0xee;

	assert_true(ram_write(&w->ram, HEADER, &header, sizeof(header)));
	assert_true(ram_write(&w->ram, RANGES, table, bytes));
	assert_true(ram_write(&w->ram, STATUS, &status, 1));
	describe(w, 0, HEADER, sizeof(header), 1);
	describe(w, 1, RANGES, (uint32_t)bytes, 1);
	describe(w, 2, STATUS, 1, 2);
	put16(w, DRIVER + 4 + w->offered % 8 * 2, 0);
	put16(w, DRIVER + 2, ++w->offered);
	virtio_kick(w->v, 0);
	while (w->interrupts != w->offered)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	assert_true(ram_read(&w->ram, STATUS, &status, 1));
	return status;
}

/* How many sectors from `from` on begin with this byte. */
static unsigned run_of(const uint8_t *data, unsigned from, uint8_t byte)
{
	unsigned n = 0;

	while (from + n < SECTORS && data[(from + n) * 512] == byte)
		n++;
	return n;
}

static uint8_t *contents(void)
{
	size_t size;
	uint8_t *data = read_file("disk.raw", &size);

	assert_int_equal(size, SECTORS * 512);
	return data;
}

static void test_zero_many(void **state)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	struct world w;
	uint8_t *data;

	(void)state;
	create(&w);
	for (unsigned i = 0; i < RANGES_MAX; i++)
		range[i] = (struct virtio_blk_discard_write_zeroes){ .sector = 100 * i + 8, .num_sectors = i + 1 };
	range[3].flags = UNMAP;
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, sizeof(range)), VIRTIO_BLK_S_OK);
	data = contents();
	assert_int_equal(run_of(data, 0, 0xaa), 8);
	for (unsigned i = 0; i < RANGES_MAX; i++) {
		assert_int_equal(run_of(data, 100 * i + 8, 0), i + 1);
		assert_in_range(run_of(data, 101 * i + 9, 0xaa), 99 - i, SECTORS);
	}
	free(data);
	destroy(&w);
}

static void test_discard_many(void **state)
{
	const struct virtio_blk_discard_write_zeroes range[] = { { .sector = 0, .num_sectors = 2048 },
								 { .sector = 4096, .num_sectors = 2048 } };
	struct stat before, after;
	struct world w;
	uint8_t *data;

	(void)state;
	create(&w);
	assert_int_equal(stat("disk.raw", &before), 0);
	assert_int_equal(ask(&w, VIRTIO_BLK_T_DISCARD, range, sizeof(range)), VIRTIO_BLK_S_OK);
	assert_int_equal(stat("disk.raw", &after), 0);
	data = contents();
	assert_int_equal(run_of(data, 2048, 0xaa), 2048);
	assert_int_equal(run_of(data, 6144, 0xaa), 2048);
	/* File systems without holes keep their data. */
	if (after.st_blocks != before.st_blocks) {
		assert_int_equal(before.st_blocks - after.st_blocks, 4096);
		assert_int_equal(run_of(data, 0, 0), 2048);
		assert_int_equal(run_of(data, 4096, 0), 2048);
	}
	free(data);
	destroy(&w);
}

static void test_refused(void **state)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX + 1];
	struct world w;
	uint8_t *data;

	(void)state;
	create(&w);
	for (unsigned i = 0; i <= RANGES_MAX; i++)
		range[i] = (struct virtio_blk_discard_write_zeroes){ .sector = 8 * i, .num_sectors = 1 };
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, sizeof(range)), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ask(&w, VIRTIO_BLK_T_DISCARD, range, sizeof(range)), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, 17), VIRTIO_BLK_S_IOERR);
	range[2].flags = 2;
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, 3 * 16), VIRTIO_BLK_S_UNSUPP);
	range[2].flags = UNMAP;
	assert_int_equal(ask(&w, VIRTIO_BLK_T_DISCARD, range, 3 * 16), VIRTIO_BLK_S_UNSUPP);
	range[2].flags = 0;
	range[2].sector = SECTORS;
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, 3 * 16), VIRTIO_BLK_S_IOERR);
	range[2].sector = UINT64_MAX;
	range[2].num_sectors = 2;
	assert_int_equal(ask(&w, VIRTIO_BLK_T_DISCARD, range, 3 * 16), VIRTIO_BLK_S_IOERR);
	data = contents();
	assert_int_equal(run_of(data, 0, 0xaa), SECTORS);
	free(data);
	/* The device goes on. */
	assert_int_equal(ask(&w, VIRTIO_BLK_T_WRITE_ZEROES, range, 2 * 16), VIRTIO_BLK_S_OK);
	destroy(&w);
}

/* The ranges of a request under way when the driver resets the device end before the reset does. */
static void test_reset(void **state)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_WRITE_ZEROES };
	struct world w;

	(void)state;
	create(&w);
	for (unsigned i = 0; i < RANGES_MAX; i++)
		range[i] = (struct virtio_blk_discard_write_zeroes){ .sector = 8 * i, .num_sectors = 8 };
	assert_true(ram_write(&w.ram, HEADER, &header, sizeof(header)));
	assert_true(ram_write(&w.ram, RANGES, range, sizeof(range)));
	describe(&w, 0, HEADER, sizeof(header), 1);
	describe(&w, 1, RANGES, sizeof(range), 1);
	describe(&w, 2, STATUS, 1, 2);
	put16(&w, DRIVER + 2, 1);
	virtio_kick(w.v, 0);
	virtio_set_status(w.v, 0);
	destroy(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_many),
		cmocka_unit_test(test_discard_many),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_reset),
	};

	return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
