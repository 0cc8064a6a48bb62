/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 against a model of the disk's contents, and against qemu-img. */
#include "blockfix.h"

#define MIB (UINT64_C(1) << 20)

static const struct mix everything = { .reads = 5, .writes = 8, .zeroes = 2, .discards = 2, .flushes = 1 };

struct variant {
	const char *create; /* qemu-img create … */
	enum block_cache cache;
	bool no_uring, backed;
};

static void run_variant(const struct variant *v, uint64_t seed)
{
	struct block_options options = { .path = "disk.qcow2",
					 .format = BLOCK_FORMAT_QCOW2,
					 .cache = v->cache,
					 .discard = true,
					 .no_uring = v->no_uring };
	struct fuzz f = fuzz_start(seed);
	uint64_t size = 12 * MIB + 7 * SECTOR;
	struct model m;
	struct block *disk;

	model_init(&m, size);
	if (v->backed) { /* shorter than the disk */
		fuzz_bytes(&f, m.data, 9 * MIB + 3 * SECTOR);
		write_file("base.raw", m.data, 9 * MIB + 3 * SECTOR);
	}
	assert_sh("rm -f disk.qcow2 && qemu-img create -f qcow2 %s disk.qcow2 %llu", v->create,
		  (unsigned long long)size);
	for (unsigned round = 0; round < 3; round++) {
		disk = disk_open(&options);
		assert_int_equal(block_info(disk)->size, size);
		assert_string_equal(block_info(disk)->format, "qcow2");
		exercise(disk, &m, &f, &everything, fuzz_rounds(400));
		model_compare_disk(&m, disk);
		assert_int_equal(block_close(disk), 0);
		assert_sh("qemu-img check -f qcow2 disk.qcow2");
	}
	/* What QEMU reads is what the model says. */
	assert_sh("qemu-img convert -f qcow2 -O raw disk.qcow2 out.raw");
	options = (struct block_options){ .path = "out.raw", .format = BLOCK_FORMAT_RAW, .readonly = true };
	disk = disk_open(&options);
	model_compare_disk(&m, disk);
	block_close(disk);
	model_free(&m);
}

static void test_variants(void **state)
{
	static const struct variant variants[] = {
		{ "", BLOCK_CACHE_WRITEBACK, false, false },
		{ "", BLOCK_CACHE_WRITEBACK, true, false },
		{ "", BLOCK_CACHE_WRITETHROUGH, false, false },
		{ "", BLOCK_CACHE_UNSAFE, false, false },
		{ "-o compat=0.10", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o cluster_size=512", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o cluster_size=4k,refcount_bits=1", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o cluster_size=2M", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o refcount_bits=64,cluster_size=1k", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o lazy_refcounts=on", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-o preallocation=metadata", BLOCK_CACHE_WRITEBACK, false, false },
		{ "-b base.raw -F raw", BLOCK_CACHE_WRITEBACK, false, true },
		{ "-b base.raw -F raw -o compat=0.10", BLOCK_CACHE_WRITEBACK, false, true },
		{ "-b base.raw -F raw -o cluster_size=4k", BLOCK_CACHE_WRITEBACK, true, true },
	};

	(void)state;
	need_qemu_img();
	for (unsigned i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		print_message("# variant %u: %s\n", i, variants[i].create);
		run_variant(&variants[i], i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_variants),
	};

	return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
