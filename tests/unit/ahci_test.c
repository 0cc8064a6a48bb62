/* SPDX-License-Identifier: Apache-2.0 */
/* The AHCI controller as a driver sees it: command lists in guest memory, FISes, errors, resets, hostile tables. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "block/block.h"
#include "boardfix.h"
#include "device/ahci.h"
#include "device/pci/host.h"

#define RAM_SIZE (UINT64_C(4) << 20)
#define DISK_SECTORS 2048u
#define LIST 0x100000u  /* command list */
#define FIS 0x101000u   /* received FISes */
#define TABLE 0x102000u /* of slot n: 0x1000 each */
#define DATA 0x200000u
#define PATIENCE_S 20

enum { CAP = 0x00, GHC = 0x04, IS = 0x08, PI = 0x0c, VS = 0x10, PORT0 = 0x100, PORT1 = 0x180 };
enum { CLB = 0x00, FB = 0x08, PIS = 0x10, PIE = 0x14, CMD = 0x18, TFD = 0x20, SIG = 0x24, SSTS = 0x28, SCTL = 0x2c };
enum { SERR = 0x30, CI = 0x38 };

struct fixture {
	struct guest_ram ram;
	struct bus *bus;
	struct pci_bus *pci;
	struct device *dev;
	struct block *disk;
	char path[64];
	uint64_t abar;
	bool line;
	unsigned rises;
	_Atomic unsigned stalls; /* how often the disk stood still, or no longer did */
};

static int map(void *ctx, bool io, uint64_t base, uint64_t len, struct device *dev, unsigned bar)
{
	return bus_map_quiet(((struct fixture *)ctx)->bus, io ? BUS_PIO : BUS_MMIO, base, len, dev, bar);
}

static void unmap(void *ctx, bool io, uint64_t base, struct device *dev, unsigned bar)
{
	bus_unmap(((struct fixture *)ctx)->bus, io ? BUS_PIO : BUS_MMIO, base, dev, bar);
}

static void intx(void *ctx, unsigned slot, unsigned pin, bool level)
{
	struct fixture *f = ctx;

	(void)slot, (void)pin;
	f->rises += level && !f->line;
	f->line = level;
}

static uint32_t get(struct fixture *f, unsigned reg)
{
	uint32_t value = 0;

	bus_read(f->bus, BUS_MMIO, f->abar + reg, &value, 4);
	return value;
}

static void put(struct fixture *f, unsigned reg, uint32_t value)
{
	bus_write(f->bus, BUS_MMIO, f->abar + reg, &value, 4);
}

static void start_port(struct fixture *f)
{
	put(f, GHC, 0x80000002);
	put(f, PORT0 + CLB, LIST);
	put(f, PORT0 + FB, FIS);
	put(f, PORT0 + SERR, UINT32_MAX);
	put(f, PORT0 + PIS, UINT32_MAX);
	put(f, IS, UINT32_MAX);
	put(f, PORT0 + PIE, UINT32_MAX);
	put(f, PORT0 + CMD, 0x10);
	put(f, PORT0 + CMD, 0x11);
}

static void note_stall(void *ctx)
{
	((struct fixture *)ctx)->stalls++;
}

static int setup(void **state)
{
	static struct fixture fixture;
	struct fixture *f = &fixture;
	const struct pci_windows windows = { 0xc0000000, 0xfec00000, 0xc000, 0x10000 };
	const struct pci_wiring wiring = { .map = map, .unmap = unmap, .intx = intx, .ctx = f };
	struct block_options options = { .path = f->path,
					 .format = BLOCK_FORMAT_RAW,
					 .on_write_error = BLOCK_ERROR_ENOSPC };
	struct ahci_disk disk = { .serial = "SERIAL-1" };
	uint8_t sector[512];
	char error[256];
	int fd;

	memset(f, 0, sizeof(*f));
	strcpy(f->path, "/tmp/trapeze-ahci-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < DISK_SECTORS; i++) {
		memset(sector, (int)(i * 7 + 1), sizeof(sector));
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	}
	close(fd);
	assert_int_equal(block_open(&options, &f->disk, error, sizeof(error)), 0);
	block_watch(f->disk, note_stall, f);
	assert_int_equal(ram_create(&f->ram, RAM_SIZE), 0);
	f->bus = bus_create();
	f->pci = pci_bus_create(&wiring);
	disk.block = f->disk;
	f->dev = ahci_create(f->pci, &f->ram, &disk, 1);
	assert_non_null(f->dev);
	device_lock(f->dev);
	f->dev->ops->reset(f->dev);
	device_unlock(f->dev);
	assert_int_equal(pci_bus_assign(f->pci, &windows), 0);
	f->abar = pci_config_read(f->pci, 8, 0x24, 4) & ~UINT32_C(0xf);
	start_port(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->ops->destroy(f->dev);
	pci_bus_destroy(f->pci);
	bus_destroy(f->bus);
	assert_int_equal(block_close(f->disk), 0);
	ram_destroy(&f->ram);
	unlink(f->path);
	return 0;
}

/* ---- a driver ---- */

static void put_prd(struct fixture *f, unsigned slot, unsigned n, uint64_t gpa, uint32_t size)
{
	const uint32_t prd[4] = { (uint32_t)gpa, (uint32_t)(gpa >> 32), 0, size - 1 };

	assert_true(ram_write(&f->ram, TABLE + slot * 0x1000 + 0x80 + n * 16, prd, sizeof(prd)));
}

/* A command in a slot, with 48-bit address and count. */
static void prepare(struct fixture *f, unsigned slot, uint8_t command, uint64_t lba, unsigned count, unsigned prds)
{
	const uint32_t header[8] = { 5 | prds << 16, 0xdeadbeef, TABLE + slot * 0x1000, 0 };
	uint8_t cfis[64] = { 0x27, 0x80, command };

	for (unsigned i = 0; i < 3; i++) {
		cfis[4 + i] = (uint8_t)(lba >> (8 * i));
		cfis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
	}
	cfis[7] = 0x40;
	cfis[12] = (uint8_t)count;
	cfis[13] = (uint8_t)(count >> 8);
	assert_true(ram_write(&f->ram, LIST + slot * 32, header, sizeof(header)));
	assert_true(ram_write(&f->ram, TABLE + slot * 0x1000, cfis, sizeof(cfis)));
}

/* Until none of these slots is under way, or an error stops the port. Its interrupt status. */
static uint32_t wait_for(struct fixture *f, uint32_t slots)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (get(f, PORT0 + CI) & slots && !(get(f, PORT0 + PIS) & 0x60000000)) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		assert_true(now.tv_sec - start.tv_sec < PATIENCE_S);
		usleep(100);
	}
	return get(f, PORT0 + PIS);
}

static uint32_t issue(struct fixture *f, unsigned slot)
{
	put(f, PORT0 + PIS, UINT32_MAX);
	put(f, PORT0 + CI, 1u << slot);
	return wait_for(f, 1u << slot);
}

static uint32_t transferred(struct fixture *f, unsigned slot)
{
	uint32_t bytes;

	assert_true(ram_read(&f->ram, LIST + slot * 32 + 4, &bytes, 4));
	return bytes;
}

static uint8_t *memory(struct fixture *f, uint64_t gpa)
{
	return ram_ptr(&f->ram, gpa, 1);
}

static void restart(struct fixture *f)
{
	put(f, PORT0 + CMD, 0x10);
	assert_int_equal(get(f, PORT0 + CMD) & 0x8000, 0);
	assert_int_equal(get(f, PORT0 + CI), 0);
	put(f, PORT0 + PIS, UINT32_MAX);
	put(f, PORT0 + CMD, 0x11);
}

/* ---- tests ---- */

static void test_registers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pci_config_read(f->pci, 8, 8, 4) >> 8, 0x010601);
	assert_int_equal(get(f, CAP) & 0x1f, AHCI_PORTS - 1);
	assert_int_equal(get(f, CAP) >> 8 & 0x1f, 31);
	assert_int_equal(get(f, PI), (1u << AHCI_PORTS) - 1);
	assert_int_equal(get(f, VS), 0x00010301);
	assert_int_equal(get(f, GHC), 0x80000002);
	assert_int_equal(get(f, PORT0 + SSTS), 0x133);
	assert_int_equal(get(f, PORT0 + SIG), 0x101);
	assert_int_equal(get(f, PORT0 + CMD) & 0xc011, 0xc011);
	assert_int_equal(get(f, PORT1 + SSTS), 0); /* nothing there */
	assert_int_equal(get(f, PORT1 + TFD), 0x7f);
	put(f, PORT1 + CMD, 0x11);
	put(f, PORT1 + CI, 1);
	put(f, PORT0 + CLB, 0x123456);
	assert_int_equal(get(f, PORT0 + CLB), 0x123400);
	/* the signature was put into memory */
	assert_int_equal(memory(f, FIS + 0x40)[0], 0x34);
	assert_int_equal(memory(f, FIS + 0x40)[12], 1);
}

static void test_identify(void **state)
{
	struct fixture *f = *state;
	uint8_t *id = memory(f, DATA), sum = 0;

	put_prd(f, 0, 0, DATA, 512);
	prepare(f, 0, 0xec, 0, 0, 1);
	assert_int_equal(issue(f, 0), 2); /* PIO setup */
	assert_int_equal(memory(f, FIS + 0x20)[0], 0x5f);
	assert_int_equal(memory(f, FIS + 0x20)[15], 0x50);
	assert_int_equal(transferred(f, 0), 512);
	assert_int_equal(id[200] | id[201] << 8, DISK_SECTORS);
	assert_memory_equal(id + 20, "ESIRLA1-", 8); /* bytes swapped */
	for (unsigned i = 0; i < 512; i++)
		sum += id[i];
	assert_int_equal(sum, 0);
	assert_true(f->line);
	put(f, PORT0 + PIS, UINT32_MAX);
	assert_true(f->line);
	put(f, IS, 1);
	assert_false(f->line);
}

static void test_read_and_write(void **state)
{
	struct fixture *f = *state;
	uint8_t sector[512];

	/* 5 sectors into three pieces, one of them odd in size */
	put_prd(f, 3, 0, DATA, 700);
	put_prd(f, 3, 1, DATA + 0x10000, 1000);
	put_prd(f, 3, 2, DATA + 0x20000, 4096);
	prepare(f, 3, 0x25, 10, 5, 3);
	assert_int_equal(issue(f, 3), 1);
	assert_int_equal(transferred(f, 3), 5 * 512);
	assert_int_equal(get(f, PORT0 + TFD), 0x50);
	for (unsigned i = 0; i < 5 * 512; i++) {
		uint64_t at = i < 700 ? DATA + i : i < 1700 ? DATA + 0x10000 + i - 700 : DATA + 0x20000 + i - 1700;

		assert_int_equal(*memory(f, at), (uint8_t)((10 + i / 512) * 7 + 1));
	}
	assert_int_equal(*memory(f, DATA + 0x20000 + 860), 0); /* not beyond */
	memset(memory(f, DATA), 0xa5, 1024);
	put_prd(f, 4, 0, DATA, 1024);
	prepare(f, 4, 0x35, DISK_SECTORS - 2, 2, 1);
	assert_int_equal(issue(f, 4), 1);
	prepare(f, 5, 0xea, 0, 0, 0);
	assert_int_equal(issue(f, 5), 1);
	assert_int_equal(block_read(f->disk, (DISK_SECTORS - 1) * 512, sector, 512), 0);
	assert_int_equal(sector[0] & sector[511], 0xa5);
}

/* All slots at once: each is done, none twice. */
static void test_many(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 32; i++) {
		put_prd(f, i, 0, DATA + i * 4096, 4096);
		prepare(f, i, 0x25, i * 8, 8, 1);
	}
	put(f, PORT0 + CI, UINT32_MAX);
	assert_int_equal(wait_for(f, UINT32_MAX), 1);
	for (unsigned i = 0; i < 32; i++) {
		assert_int_equal(transferred(f, i), 4096);
		assert_int_equal(*memory(f, DATA + i * 4096 + 512 * 7), (uint8_t)((i * 8 + 7) * 7 + 1));
	}
}

static void test_errors(void **state)
{
	struct fixture *f = *state;

	put_prd(f, 0, 0, DATA, 512 * 3);
	prepare(f, 0, 0x25, DISK_SECTORS - 2, 3, 1); /* over the end */
	assert_int_equal(issue(f, 0) & 0x40000000, 0x40000000);
	assert_int_equal(get(f, PORT0 + TFD), 0x1051);
	assert_int_equal(get(f, PORT0 + CI), 1);
	restart(f);
	prepare(f, 0, 0xde, 0, 0, 0); /* no such command */
	assert_int_equal(issue(f, 0) & 0x40000000, 0x40000000);
	assert_int_equal(get(f, PORT0 + TFD), 0x0451);
	restart(f);
	prepare(f, 0, 0x25, UINT64_C(0xffffffffffff), 1, 1);
	assert_int_equal(issue(f, 0) & 0x40000000, 0x40000000);
	restart(f);
	/* Tables: too short, not in RAM; a list that is not in RAM */
	prepare(f, 0, 0x25, 0, 4, 1);
	assert_int_equal(issue(f, 0) & 0x20000000, 0x20000000);
	restart(f);
	put_prd(f, 0, 0, RAM_SIZE - 256, 512 * 4);
	prepare(f, 0, 0x25, 0, 4, 1);
	assert_int_equal(issue(f, 0) & 0x20000000, 0x20000000);
	restart(f);
	put_prd(f, 0, 0, UINT64_MAX - 100, 512 * 4);
	assert_int_equal(issue(f, 0) & 0x20000000, 0x20000000);
	put(f, PORT0 + CMD, 0x10);
	put(f, PORT0 + CLB, 0xfffffc00);
	put(f, PORT0 + CLB + 4, UINT32_MAX);
	put(f, PORT0 + FB, 0xffffff00);
	put(f, PORT0 + FB + 4, UINT32_MAX);
	put(f, PORT0 + CMD, 0x11);
	assert_int_equal(issue(f, 31) & 0x20000000, 0x20000000);
	put(f, GHC, 0x80000001);
	put(f, PORT0 + CLB + 4, 0);
	put(f, PORT0 + FB + 4, 0);
	start_port(f);
	put_prd(f, 0, 0, DATA, 512);
	prepare(f, 0, 0x25, 1, 1, 1);
	assert_int_equal(issue(f, 0), 1);
}

static void test_resets(void **state)
{
	struct fixture *f = *state;
	uint8_t cfis[64] = { 0x27, 0 };

	/* COMRESET */
	memset(memory(f, FIS), 0, 256);
	put(f, PORT0 + CMD, 0x10);
	put(f, PORT0 + SCTL, 0x301);
	assert_int_equal(get(f, PORT0 + SSTS), 0);
	put(f, PORT0 + SCTL, 0x300);
	assert_int_equal(get(f, PORT0 + SSTS), 0x133);
	assert_int_equal(get(f, PORT0 + SERR) & 0x04000000, 0x04000000);
	assert_int_equal(memory(f, FIS + 0x40)[0], 0x34);
	/* Software reset */
	restart(f);
	memset(memory(f, FIS), 0, 256);
	prepare(f, 0, 0, 0, 0, 0);
	cfis[15] = 4;
	ram_write(&f->ram, TABLE, cfis, sizeof(cfis));
	issue(f, 0);
	assert_int_equal(get(f, PORT0 + TFD) & 0x80, 0x80);
	cfis[15] = 0;
	ram_write(&f->ram, TABLE, cfis, sizeof(cfis));
	issue(f, 0);
	assert_int_equal(get(f, PORT0 + TFD) & 0x80, 0);
	assert_int_equal(memory(f, FIS + 0x40)[0], 0x34);
	assert_int_equal(get(f, PORT0 + CI), 0);
	/* Of the HBA, with commands under way */
	for (unsigned i = 0; i < 32; i++) {
		put_prd(f, i, 0, DATA + i * 4096, 4096);
		prepare(f, i, 0x25, i * 8, 8, 1);
	}
	put(f, PORT0 + CI, UINT32_MAX);
	put(f, GHC, 0x80000001);
	assert_int_equal(get(f, GHC), 0x80000000);
	assert_int_equal(get(f, PORT0 + CI), 0);
	assert_int_equal(get(f, PORT0 + PIS), 0);
	assert_false(f->line);
	start_port(f);
	assert_int_equal(issue(f, 0), 1);
}

/* Any command, any register: the controller lives on, and nothing but the disk's data area is touched. */
static void limit_files(rlim_t size)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = size;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void wait_for_stalls(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; f->stalls < n; i++) {
		assert_true(i < PATIENCE_S * 10000);
		usleep(100);
	}
	assert_int_equal(f->stalls, n);
}

/* The host's disk is full: the command stays under way until there is room, or the driver gives it up. */
static void test_full_host_disk(void **state)
{
	struct fixture *f = *state;
	uint8_t sector[512];

	limit_files(64 << 10);
	memset(memory(f, DATA), 0xa5, 512);
	put_prd(f, 2, 0, DATA, 512);
	prepare(f, 2, 0x35, 1000, 1, 1);
	put(f, PORT0 + PIS, UINT32_MAX);
	put(f, PORT0 + CI, 1u << 2);
	wait_for_stalls(f, 1);
	block_retry(f->disk); /* still full; now or later */
	assert_int_equal(block_stalled(f->disk), 1);
	assert_int_equal(get(f, PORT0 + CI), 1u << 2);
	assert_int_equal(get(f, PORT0 + PIS), 0);
	limit_files(RLIM_INFINITY);
	block_retry(f->disk);
	assert_int_equal(wait_for(f, 1u << 2), 1);
	wait_for_stalls(f, 2);
	assert_int_equal(block_stalled(f->disk), 0);
	assert_int_equal(get(f, PORT0 + TFD), 0x50);
	assert_int_equal(block_read(f->disk, 1000 * 512, sector, 512), 0);
	assert_int_equal(sector[511], 0xa5);
	/* A driver that stops the port meanwhile. */
	limit_files(64 << 10);
	put(f, PORT0 + CI, 1u << 2);
	wait_for_stalls(f, 3);
	restart(f);
	limit_files(RLIM_INFINITY);
	wait_for_stalls(f, 4);
	put_prd(f, 0, 0, DATA, 512);
	prepare(f, 0, 0x25, 1000, 1, 1);
	assert_int_equal(issue(f, 0), 1);
}

static void test_random(void **state)
{
	struct fixture *f = *state;
	uint32_t random = 5;

	for (unsigned i = 0; i < 3000; i++) {
		uint32_t words[64];

		for (unsigned j = 0; j < 64; j++)
			words[j] = random = random * 1664525 + 1013904223;
		words[0] = (words[0] & 0x1ff0000) | 5; /* some regions */
		words[2] = TABLE + (words[2] & 0x3ff80);
		words[3] = words[3] >> 31 ? 0 : words[3];
		ram_write(&f->ram, LIST + (i % 32) * 32, words, 16);
		words[16] = 0x8027 | (words[16] & 0xff7f0000);
		ram_write(&f->ram, TABLE + (words[2] & 0x3ff80), words + 16, 192);
		put(f, PORT0 + CI, 1u << (i % 32));
		if (words[5] >> 28 == 0)
			put(f, (words[6] >> 8) % 0x300 & ~3u, words[7]);
		if (i % 16 == 0)
			restart(f);
	}
	put(f, GHC, 0x80000001);
	put(f, PORT0 + CLB + 4, 0);
	put(f, PORT0 + FB + 4, 0);
	put(f, PORT0 + SCTL, 0);
	start_port(f);
	put_prd(f, 0, 0, DATA, 512);
	prepare(f, 0, 0xec, 0, 0, 1);
	assert_int_equal(issue(f, 0), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers), TEST(test_identify), TEST(test_read_and_write), TEST(test_many),
		TEST(test_errors),    TEST(test_resets),   TEST(test_random),         TEST(test_full_host_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
