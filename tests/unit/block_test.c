/* SPDX-License-Identifier: Apache-2.0 */
/* Disks as a device sees them: raw images, caches, errors, locks, NBD. */
#include "blockfix.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>

#define MIB (UINT64_C(1) << 20)

static const struct mix everything = { .reads = 5, .writes = 8, .zeroes = 2, .discards = 2, .flushes = 1 };

/* --- raw, with each cache and both ways to do I/O --- */

static void exercise_raw(enum block_cache cache, bool no_uring, uint64_t file_size, uint64_t seed)
{
	struct block_options options = {
		.path = "disk.raw", .format = BLOCK_FORMAT_RAW, .cache = cache, .no_uring = no_uring, .discard = true
	};
	struct fuzz f = fuzz_start(seed);
	struct block *disk;
	struct model m;
	uint8_t *data;
	size_t size;

	unlink("disk.raw");
	assert_sh("truncate -s %llu disk.raw", (unsigned long long)file_size);
	disk = disk_open(&options);
	assert_int_equal(block_info(disk)->size, (file_size + 511) / 512 * 512);
	assert_int_equal(block_info(disk)->write_cache, cache != BLOCK_CACHE_WRITETHROUGH);
	model_init(&m, block_info(disk)->size);
	exercise(disk, &m, &f, &everything, 500);
	model_compare_disk(&m, disk);
	assert_int_equal(block_close(disk), 0);
	data = read_file("disk.raw", &size);
	assert_in_range(size, file_size, m.size);
	model_compare(&m, 0, data, size & ~(size_t)511);
	free(data);
	model_free(&m);
}

static void test_raw(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		exercise_raw(BLOCK_CACHE_WRITEBACK, i, 5 * MIB, i);
		exercise_raw(BLOCK_CACHE_WRITETHROUGH, i, 3 * MIB, 10 + i);
		exercise_raw(BLOCK_CACHE_UNSAFE, i, 3 * MIB + 1, 20 + i);
		exercise_raw(BLOCK_CACHE_WRITEBACK, i, 3 * MIB + 700, 30 + i);
	}
}

/* A folder whose file system has O_DIRECT; the tests' own may be memory. */
static bool direct_folder(char path[64])
{
	int fd;

	strcpy(path, "/var/tmp/trapeze-direct-XXXXXX");
	fd = mkostemp(path, O_DIRECT);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static void test_direct(void **state)
{
	static const uint64_t sizes[] = { 4 * MIB, 3 * MIB + 512, 3 * MIB + 100 };
	struct fuzz f = fuzz_start(7);
	char path[64];

	(void)state;
	if (!direct_folder(path)) {
		print_message("no O_DIRECT in /var/tmp\n");
		skip();
	}
	for (unsigned i = 0; i < 6; i++) {
		struct block_options options = { .path = path,
						 .format = BLOCK_FORMAT_RAW,
						 .cache = BLOCK_CACHE_NONE,
						 .discard = true,
						 .no_uring = i & 1 };
		uint64_t size = sizes[i / 2];
		struct block *disk;
		struct model m;
		struct stat st;

		assert_int_equal(truncate(path, 0), 0);
		assert_int_equal(truncate(path, (off_t)size), 0);
		disk = disk_open(&options);
		model_init(&m, block_info(disk)->size);
		exercise(disk, &m, &f, &everything, 250);
		model_compare_disk(&m, disk);
		assert_int_equal(block_close(disk), 0);
		/* Whole blocks were written, but the file is no longer than the disk. */
		assert_int_equal(stat(path, &st), 0);
		assert_true((uint64_t)st.st_size <= m.size);
		model_free(&m);
	}
	unlink(path);
}

static void test_direct_qcow2(void **state)
{
	struct block_options options = { .format = BLOCK_FORMAT_QCOW2, .cache = BLOCK_CACHE_NONE, .discard = true };
	static const char *const clusters[] = { "512", "4k", "64k" };
	struct fuzz f = fuzz_start(8);
	char path[64];

	(void)state;
	need_qemu_img();
	if (!direct_folder(path)) {
		print_message("no O_DIRECT in /var/tmp\n");
		skip();
	}
	options.path = path;
	for (unsigned i = 0; i < 3; i++) {
		struct block *disk;
		struct model m;

		assert_sh("qemu-img create -f qcow2 -o cluster_size=%s %s 4M", clusters[i], path);
		model_init(&m, 4 * MIB);
		disk = disk_open(&options);
		exercise(disk, &m, &f, &everything, 150);
		model_compare_disk(&m, disk);
		assert_int_equal(block_close(disk), 0);
		assert_sh("qemu-img check -f qcow2 %s", path);
		disk = disk_open(&options);
		model_compare_disk(&m, disk);
		block_close(disk);
		model_free(&m);
	}
	unlink(path);
}

/* --- requests that cannot be --- */

static int last_result;
static unsigned done_count;

static void note_result(struct block_request *request, int result)
{
	(void)request;
	last_result = result;
	done_count++;
}

static int ask(struct block *disk, enum block_op op, uint64_t offset, uint64_t length, size_t vector)
{
	struct block_queue *queue = block_queue_create(disk);
	uint8_t *data = calloc(1, vector + 1);
	struct iovec iov = { data, vector };
	struct block_request r = {
		.op = op, .offset = offset, .length = length, .iov = &iov, .iov_count = 1, .done = note_result
	};

	done_count = 0;
	block_submit(queue, &r);
	assert_int_equal(done_count, 0); /* never from within */
	block_queue_kick(queue);
	block_queue_drain(queue);
	assert_int_equal(done_count, 1);
	block_queue_destroy(queue);
	free(data);
	return last_result;
}

static void test_bounds(void **state)
{
	struct block_options options = { .path = "disk.raw", .format = BLOCK_FORMAT_RAW };
	struct block *disk;

	(void)state;
	assert_sh("rm -f disk.raw; truncate -s 1M disk.raw");
	disk = disk_open(&options);
	assert_int_equal(ask(disk, BLOCK_READ, MIB - 512, 512, 512), 0);
	assert_int_equal(ask(disk, BLOCK_READ, MIB - 512, 1024, 1024), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_WRITE, MIB, 512, 512), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_WRITE, UINT64_MAX - 511, 512, 512), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_WRITE_ZEROES, 512, UINT64_MAX, 0), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_DISCARD, 0, MIB + 512, 0), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_WRITE, 0, 1024, 512), -EINVAL); /* a vector too short */
	assert_int_equal(ask(disk, BLOCK_READ, 0, 0, 0), 0);
	block_close(disk);
	options.readonly = true;
	disk = disk_open(&options);
	assert_int_equal(ask(disk, BLOCK_WRITE, 0, 512, 512), -EROFS);
	assert_int_equal(ask(disk, BLOCK_WRITE_ZEROES, 0, 512, 0), -EROFS);
	assert_int_equal(ask(disk, BLOCK_DISCARD, 0, 512, 0), -EROFS);
	assert_int_equal(ask(disk, BLOCK_FLUSH, 0, 0, 0), 0);
	assert_int_equal(ask(disk, BLOCK_READ, 0, 512, 512), 0);
	block_close(disk);
}

static void test_bad_paths(void **state)
{
	(void)state;
	disk_refused(&(struct block_options){ .path = "missing" }, "No such file");
	disk_refused(&(struct block_options){ .path = "/" }, "directory");
	disk_refused(&(struct block_options){ .path = "/", .readonly = true }, "directory");
	disk_refused(&(struct block_options){ .path = "/dev/null" }, "neither a regular file nor a block device");
	assert_sh("mkfifo fifo");
	disk_refused(&(struct block_options){ .path = "fifo" }, "neither");
	assert_sh("printf 'no image at all' >text");
	disk_refused(&(struct block_options){ .path = "text", .format = BLOCK_FORMAT_QCOW2 }, "not a qcow2 image");
}

/* --- a guest's header is data --- */

static void test_probed_raw_stays_raw(void **state)
{
	static const uint8_t header[SECTOR] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
	struct block_options options = { .path = "disk.raw", .format = BLOCK_FORMAT_AUTO };
	uint8_t sector[4 * SECTOR] = "MBR";
	struct block *disk;

	(void)state;
	assert_sh("rm -f disk.raw; truncate -s 1M disk.raw");
	for (unsigned i = 0; i < 2; i++) {
		options.no_uring = i;
		disk = disk_open(&options);
		assert_string_equal(block_info(disk)->format, "raw");
		assert_int_equal(block_write(disk, 0, header, SECTOR), -EPERM);
		assert_int_equal(block_write(disk, 2, header + 2, 100), -EPERM);
		assert_int_equal(block_write(disk, 0, sector, sizeof(sector)), 0);
		assert_int_equal(block_write(disk, SECTOR, header, SECTOR), 0); /* elsewhere it is nothing special */
		block_close(disk);
	}
	disk = disk_open(&options);
	assert_string_equal(block_info(disk)->format, "raw");
	assert_int_equal(block_read(disk, 0, sector, SECTOR), 0);
	assert_string_equal((char *)sector, "MBR");
	block_close(disk);
	/* Who says raw may write anything, and gets raw for ever. */
	options.format = BLOCK_FORMAT_RAW;
	for (unsigned i = 0; i < 2; i++) {
		disk = disk_open(&options);
		assert_string_equal(block_info(disk)->format, "raw");
		assert_int_equal(block_write(disk, 0, header, SECTOR), 0);
		block_close(disk);
	}
}

/* --- the host's disk is full, or goes away --- */

static void test_full(void **state)
{
	struct rlimit old, limit;
	struct block_options options = { .path = "disk.qcow2", .format = BLOCK_FORMAT_QCOW2, .discard = true };
	struct fuzz f = fuzz_start(11);

	(void)state;
	need_qemu_img();
	for (unsigned i = 0; i < 4; i++) {
		unsigned full = 0;
		struct mix mix = { .reads = 2, .writes = 8, .zeroes = 1, .flushes = 1, .allowed_error = &full };
		struct block *disk;
		struct model m;

		options.no_uring = i & 1;
		options.format = i < 2 ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
		if (i < 2)
			assert_sh("rm -f disk.qcow2; qemu-img create -f qcow2 -o cluster_size=4k disk.qcow2 8M");
		else
			assert_sh("rm -f disk.qcow2; truncate -s 8M disk.qcow2");
		disk = disk_open(&options);
		model_init(&m, 8 * MIB);
		assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
		limit = old;
		limit.rlim_cur = 2 * MIB;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
		exercise(disk, &m, &f, &mix, 400);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
		assert_true(full > 0);
		/* There is room again: everything works, and what was written is there. */
		assert_int_equal(block_flush(disk), 0);
		mix.allowed_error = NULL;
		exercise(disk, &m, &f, &mix, 200);
		model_compare_disk(&m, disk);
		assert_int_equal(block_close(disk), 0);
		if (i < 2)
			assert_sh("qemu-img check -f qcow2 disk.qcow2");
		model_free(&m);
	}
}

static void note_stall(void *ctx)
{
	++*(_Atomic unsigned *)ctx;
}

struct waiting {
	struct block_request r;
	struct iovec iov;
	int result; /* 1: not yet */
};

static void waiting_done(struct block_request *request, int result)
{
	((struct waiting *)request->ctx)->result = result;
}

static void poll_until(struct block_queue *queue, const _Atomic unsigned *stalls, unsigned n, const struct waiting *w)
{
	while (*stalls < n || (w && w->result > 0)) {
		struct pollfd fd = { .fd = block_queue_fd(queue), .events = POLLIN };

		assert_int_equal(poll(&fd, 1, 20000), 1);
		block_queue_poll(queue);
	}
	assert_int_equal(*stalls, n);
}

static void set_limit(rlim_t size)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = size;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* What a disk that is full does with a write: by what its options say, with io_uring and without, raw and qcow2. */
static void test_full_by_option(void **state)
{
	static uint8_t data[65536];
	const struct iovec iov = { data, sizeof(data) };

	(void)state;
	need_qemu_img();
	memset(data, 0x5a, sizeof(data));
	for (unsigned i = 0; i < 16; i++) {
		enum block_on_error what = (enum block_on_error)(i & 3);
		struct block_options options = { .path = "disk", .on_write_error = what, .no_uring = i & 4 };
		struct waiting w[3];
		_Atomic unsigned stalls = 0;
		struct block_queue *queue;
		struct block *disk;
		uint8_t seen[512];

		options.format = i & 8 ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
		assert_sh("rm -f disk; qemu-img create -f %s disk 8M", i & 8 ? "qcow2" : "raw");
		disk = disk_open(&options);
		block_watch(disk, note_stall, &stalls);
		queue = block_queue_create(disk);
		set_limit(MIB / 2);
		for (unsigned k = 0; k < 3; k++) {
			w[k] = (struct waiting){ .result = 1 };
			w[k].r = (struct block_request){ .op = BLOCK_WRITE,
							 .offset = (4 + k) * MIB,
							 .length = sizeof(data),
							 .iov = &iov,
							 .iov_count = 1,
							 .done = waiting_done,
							 .ctx = &w[k] };
			if (i & 8) /* the first one fills what is left in a file without holes */
				set_limit(0);
			block_submit(queue, &w[k].r);
		}
		block_queue_kick(queue);
		if (what == BLOCK_ERROR_REPORT || what == BLOCK_ERROR_IGNORE) {
			block_queue_drain(queue);
			for (unsigned k = 0; k < 3; k++)
				assert_int_equal(w[k].result, what == BLOCK_ERROR_REPORT ? -ENOSPC : 0);
			assert_int_equal(stalls, 0);
		} else {
			poll_until(queue, &stalls, 1, NULL);
			while (block_stalled(disk) < 3)
				block_queue_poll(queue);
			block_retry(disk); /* in vain */
			block_queue_poll(queue);
			for (unsigned k = 0; k < 3; k++)
				assert_int_equal(w[k].result, 1);
			set_limit(RLIM_INFINITY);
			while (block_stalled(disk)) {
				block_retry(disk);
				block_queue_poll(queue);
			}
			for (unsigned k = 0; k < 3; k++)
				assert_int_equal(w[k].result, 0);
			assert_int_equal(stalls, 2);
			assert_int_equal(block_read(disk, 6 * MIB, seen, sizeof(seen)), 0);
			assert_memory_equal(seen, data, sizeof(seen));
			/* The device goes while one is kept: it ends with the error. */
			set_limit(i & 8 ? 0 : MIB / 2);
			w[0].result = 1;
			w[0].r.offset = 7 * MIB;
			block_submit(queue, &w[0].r);
			block_queue_kick(queue);
			poll_until(queue, &stalls, 3, NULL);
			block_queue_drain(queue);
			assert_int_equal(w[0].result, -ENOSPC);
			assert_int_equal(stalls, 4);
			assert_int_equal(block_stalled(disk), 0);
		}
		set_limit(RLIM_INFINITY);
		block_queue_destroy(queue);
		assert_int_equal(block_close(disk), 0);
	}
}

/* What no room can mend is reported, and so is every error where nobody lets the machine stand still. */
static void test_final_errors(void **state)
{
	struct block_options options = { .path = "disk",
					 .format = BLOCK_FORMAT_RAW,
					 .on_read_error = BLOCK_ERROR_STOP,
					 .on_write_error = BLOCK_ERROR_STOP };
	_Atomic unsigned stalls = 0;
	struct block *disk;

	(void)state;
	assert_sh("rm -f disk; truncate -s 1M disk");
	disk = disk_open(&options);
	set_limit(MIB / 2);
	assert_int_equal(ask(disk, BLOCK_WRITE, MIB - 512, 512, 512), -ENOSPC);
	block_watch(disk, note_stall, &stalls);
	assert_int_equal(ask(disk, BLOCK_WRITE, MIB, 512, 512), -EINVAL);
	assert_int_equal(ask(disk, BLOCK_READ, 0, 512, 1024), -EINVAL);
	assert_int_equal(stalls, 0);
	set_limit(RLIM_INFINITY);
	assert_int_equal(block_close(disk), 0);
}

static void test_shrunk(void **state)
{
	struct block_options options = { .path = "disk.raw", .format = BLOCK_FORMAT_RAW };
	uint8_t data[4096];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct block *disk;

		assert_sh("rm -f disk.raw; truncate -s 1M disk.raw");
		options.no_uring = i;
		disk = disk_open(&options);
		assert_int_equal(truncate("disk.raw", 100 * 1024), 0);
		assert_int_equal(ask(disk, BLOCK_READ, 0, 4096, 4096), 0);
		assert_int_equal(ask(disk, BLOCK_READ, 512 * 1024, 4096, 4096), -EIO);
		assert_int_equal(block_read(disk, 98 * 1024, data, sizeof(data)), -EIO); /* half of it is there */
		block_close(disk);
	}
}

/* --- locks --- */

static void test_locks(void **state)
{
	struct block_options rw = { .path = "disk.raw", .format = BLOCK_FORMAT_RAW };
	struct block_options ro = { .path = "disk.raw", .format = BLOCK_FORMAT_RAW, .readonly = true };
	struct block *one, *two;

	(void)state;
	assert_sh("rm -f disk.raw; truncate -s 1M disk.raw");
	one = disk_open(&rw);
	disk_refused(&rw, "in use");
	disk_refused(&ro, "in use by another process that writes it");
	block_close(one);
	one = disk_open(&ro);
	two = disk_open(&ro); /* any number of readers */
	disk_refused(&rw, "in use");
	block_close(one);
	block_close(two);
	block_close(disk_open(&rw));
}

/* qemu-nbd with these arguments on nbd.sock; it serves when it has written its pid. */
static pid_t start_server(const char *const *more, const char *image)
{
	const char *argv[16] = { "qemu-nbd", "-t", "-k", NULL, "--pid-file", NULL };
	char socket[128], pid_file[128];
	unsigned n = 6;
	pid_t pid;

	snprintf(socket, sizeof(socket), "%s/nbd.sock", folder);
	snprintf(pid_file, sizeof(pid_file), "%s/nbd.pid", folder);
	argv[3] = socket;
	argv[5] = pid_file;
	while (*more)
		argv[n++] = *more++;
	argv[n++] = image;
	argv[n] = NULL;
	unlink(socket);
	unlink(pid_file);
	assert_int_equal(posix_spawnp(&pid, argv[0], NULL, NULL, (char **)(uintptr_t)argv, environ), 0);
	for (unsigned i = 0; i < 600 && access(pid_file, F_OK) != 0; i++)
		usleep(50000);
	assert_int_equal(access(pid_file, F_OK), 0);
	return pid;
}

static void stop_server(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_locks_with_qemu(void **state)
{
	static const char *const arguments[] = { "-f", "qcow2", NULL };
	struct block_options rw = { .path = "disk.qcow2" };
	struct block *disk;
	pid_t server;

	(void)state;
	need_qemu_img();
	assert_sh("rm -f disk.qcow2; qemu-img create -f qcow2 disk.qcow2 1M");
	disk = disk_open(&rw);
	assert_int_not_equal(sh("qemu-img info disk.qcow2"), 0);
	assert_int_equal(sh("qemu-img info disk.qcow2 2>&1 | grep lock"), 0);
	assert_int_not_equal(sh("qemu-io -f qcow2 -c 'write 0 512' disk.qcow2"), 0);
	block_close(disk);
	assert_sh("qemu-img info disk.qcow2");
	server = start_server(arguments, "disk.qcow2");
	disk_refused(&rw, "in use");
	rw.readonly = true;
	disk_refused(&rw, "in use");
	rw.readonly = false;
	stop_server(server);
	block_close(disk_open(&rw));
}

/* --- NBD --- */

static void test_nbd(void **state)
{
	static const char *const writable[] = { "-f", "raw", "--discard=unmap", NULL };
	static const char *const readable[] = { "-f", "raw", "-r", NULL };
	char uri[160];
	pid_t server;
	struct block_options options = { .path = uri, .discard = true };
	struct fuzz f = fuzz_start(12);
	struct block *disk;
	struct model m;

	(void)state;
	need_qemu_img();
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s/nbd.sock", folder);
	unlink("nbd.sock");
	disk_refused(&options, "No such file");
	assert_sh("rm -f disk.raw; truncate -s 4M disk.raw");
	server = start_server(writable, "disk.raw");
	disk = disk_open(&options);
	assert_int_equal(block_info(disk)->size, 4 * MIB);
	assert_string_equal(block_info(disk)->format, "nbd");
	model_init(&m, 4 * MIB);
	exercise(disk, &m, &f, &everything, 400);
	model_compare_disk(&m, disk);
	assert_int_equal(block_close(disk), 0);
	stop_server(server);
	disk = disk_open(&(struct block_options){ .path = "disk.raw", .format = BLOCK_FORMAT_RAW });
	model_compare_disk(&m, disk);
	block_close(disk);
	model_free(&m);
	server = start_server(readable, "disk.raw");
	disk_refused(&options, "read-only");
	options.readonly = true;
	disk = disk_open(&options);
	assert_int_equal(ask(disk, BLOCK_READ, 0, 4096, 4096), 0);
	/* The server dies: requests fail, nothing hangs. */
	stop_server(server);
	assert_int_equal(ask(disk, BLOCK_READ, 0, 4096, 4096), -EIO);
	assert_int_equal(ask(disk, BLOCK_READ, 4096, 4096, 4096), -EIO);
	block_close(disk);
}

/* --- several queues of one disk, each its own thread's --- */

struct lane {
	struct block *disk;
	pthread_t thread;
	unsigned number;
	bool good;
};

static void lane_done(struct block_request *request, int result)
{
	*(int *)request->ctx = result;
}

static int lane_ask(struct block_queue *queue, enum block_op op, uint64_t offset, uint8_t *data)
{
	int result = 1;
	struct iovec iov = { data, SECTOR };
	struct block_request r = { .op = op,
				   .offset = offset,
				   .length = SECTOR,
				   .iov = &iov,
				   .iov_count = 1,
				   .done = lane_done,
				   .ctx = &result };

	block_submit(queue, &r);
	block_queue_kick(queue);
	block_queue_drain(queue);
	return result;
}

/* Every fourth sector: all lanes are at every cluster. */
static void *run_lane(void *arg)
{
	struct lane *lane = arg;
	struct block_queue *queue = block_queue_create(lane->disk);
	uint8_t data[SECTOR], seen[SECTOR];

	lane->good = queue != NULL;
	for (uint64_t i = 0; lane->good && i < 400; i++) {
		uint64_t offset = (4 * (i * 7 % 400) + lane->number) * SECTOR;

		memset(data, (int)(lane->number * 50 + i), SECTOR);
		lane->good = !lane_ask(queue, BLOCK_WRITE, offset, data) &&
			     !lane_ask(queue, BLOCK_READ, offset, seen) && !memcmp(data, seen, SECTOR) &&
			     (i % 50 || !lane_ask(queue, BLOCK_FLUSH, 0, NULL));
	}
	block_queue_destroy(queue);
	return NULL;
}

static void test_queues(void **state)
{
	struct block_options options = { .path = "disk.qcow2", .format = BLOCK_FORMAT_QCOW2 };
	struct lane lanes[4];

	(void)state;
	need_qemu_img();
	assert_sh("rm -f disk.qcow2; qemu-img create -f qcow2 -o cluster_size=4k disk.qcow2 1M");
	for (unsigned i = 0; i < 2; i++) {
		struct block *disk;

		options.no_uring = i;
		disk = disk_open(&options);
		for (unsigned k = 0; k < 4; k++) {
			lanes[k] = (struct lane){ .disk = disk, .number = k };
			assert_int_equal(pthread_create(&lanes[k].thread, NULL, run_lane, &lanes[k]), 0);
		}
		for (unsigned k = 0; k < 4; k++) {
			pthread_join(lanes[k].thread, NULL);
			assert_true(lanes[k].good);
		}
		assert_int_equal(block_close(disk), 0);
		assert_sh("qemu-img check disk.qcow2");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw),
		cmocka_unit_test(test_direct),
		cmocka_unit_test(test_direct_qcow2),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_bad_paths),
		cmocka_unit_test(test_probed_raw_stays_raw),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_locks_with_qemu),
		cmocka_unit_test(test_nbd),
		cmocka_unit_test(test_queues),
		cmocka_unit_test(test_full_by_option),
		cmocka_unit_test(test_final_errors),
	};

	return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
