/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 and power loss. All that is written to an image is recorded. Then the power fails after every single write:
 * what was synced is on the disk, of the rest anything: all, nothing, some writes, some sectors of them. Each time the
 * image must be consistent (clusters may be leaked), hold what the guest has flushed, and no sector anybody else's
 * data.
 */
#include "blockfix.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "block/qcow2_check.h"

#define DISK_SIZE (UINT64_C(3) << 20)
#define SECTORS (DISK_SIZE / SECTOR)

/* --- the record --- */

struct record {
	enum { RECORD_WRITE, RECORD_ZERO, RECORD_SYNC } kind;
	uint64_t offset, length;
	uint8_t *data;
	size_t covers; /* SYNC: records before this one were complete when it began */
};

static struct record *records;
static size_t record_count, record_room;
static ino_t recorded_ino;
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_recorded(int fd)
{
	struct stat st;

	return recorded_ino && fstat(fd, &st) == 0 && st.st_ino == recorded_ino;
}

static void append(struct record r)
{
	pthread_mutex_lock(&record_lock);
	if (record_count == record_room) {
		record_room = record_room ? 2 * record_room : 1024;
		records = realloc(records, record_room * sizeof(*records));
		if (!records)
			abort();
	}
	records[record_count++] = r;
	pthread_mutex_unlock(&record_lock);
}

static size_t count_now(void)
{
	size_t n;

	pthread_mutex_lock(&record_lock);
	n = record_count;
	pthread_mutex_unlock(&record_lock);
	return n;
}

/* These take libc's place in this program: vmm/block/file.c calls them. */
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	ssize_t done = syscall(SYS_pwritev, fd, iov, n, offset, 0);

	if (done > 0 && is_recorded(fd)) {
		struct record r = { RECORD_WRITE, (uint64_t)offset, (uint64_t)done, malloc((size_t)done), 0 };

		/* What is in the file, not in the buffer: it is the same, as nobody changes it meanwhile. */
		if (!r.data || syscall(SYS_pread64, fd, r.data, done, offset) != done)
			abort();
		append(r);
	}
	return done;
}

int fdatasync(int fd)
{
	struct record r = { .kind = RECORD_SYNC, .covers = count_now() };

	if (is_recorded(fd))
		append(r);
	return 0;
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	int status = (int)syscall(SYS_fallocate, fd, mode, offset, length);

	if (!status && is_recorded(fd))
		append((struct record){ RECORD_ZERO, (uint64_t)offset, (uint64_t)length, NULL, 0 });
	return status;
}

/* --- what the guest does --- */

/* A sector says whose it is: number and version, then a pattern of both. */
static void fill_sector(uint8_t *data, uint64_t sector, uint32_t version)
{
	struct fuzz f = { sector << 32 | version };

	memcpy(data, &sector, 8);
	memcpy(data + 8, &version, 4);
	for (unsigned i = 16; i < SECTOR; i += 8) {
		uint64_t v = fuzz_next(&f);

		memcpy(data + i, &v, 8);
	}
}

/* Its version; 0 for zeros; -1: not this sector's data. */
static int64_t sector_version(const uint8_t *data, uint64_t sector)
{
	static const uint8_t zeros[SECTOR];
	uint8_t expected[SECTOR] = { 0 };
	uint32_t version;

	if (!memcmp(data, zeros, SECTOR))
		return 0;
	memcpy(&version, data + 8, 4);
	fill_sector(expected, sector, version);
	memset(expected + 12, 0, 4);
	return memcmp(data, expected, SECTOR) ? -1 : (int64_t)version;
}

/* What a flush promised: the versions of all sectors, and from when on. */
struct promise {
	size_t records;
	uint32_t *version; /* UINT32_MAX: discarded, any */
	bool *touched;     /* changed since the flush before */
};

static struct promise promises[256];
static size_t promise_count;

static void guest_done(struct block_request *request, int result)
{
	assert_int_equal(result, 0);
	free(request->ctx);
}

/* Requests at once, on different sectors; then all are waited for. */
static void guest_burst(struct block_queue *queue, struct fuzz *f, uint32_t *now, bool *any, bool *touched,
			uint32_t version)
{
	struct block_request requests[6];
	struct iovec iov[6];
	uint64_t lane = SECTORS / 6;

	for (unsigned i = 0; i < 6; i++) {
		uint64_t max = fuzz_below(f, 8) ? 24 : 300, count = 1 + fuzz_below(f, max < lane ? max : lane);
		/* Lanes meet in clusters. */
		uint64_t first = i * lane + (fuzz_below(f, 3) ? fuzz_below(f, lane - count + 1) : lane - count);
		unsigned what = (unsigned)fuzz_below(f, 10);
		struct block_request *r = &requests[i];

		memset(r, 0, sizeof(*r));
		r->offset = first * SECTOR;
		r->length = count * SECTOR;
		r->done = guest_done;
		r->op = what < 7 ? BLOCK_WRITE : what < 9 ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
		r->flags = r->op == BLOCK_WRITE_ZEROES && what == 8 ? BLOCK_REQ_UNMAP : 0;
		for (uint64_t s = first; s < first + count; s++) {
			now[s] = r->op == BLOCK_WRITE ? version : 0;
			any[s] = r->op == BLOCK_DISCARD;
			touched[s] = true;
		}
		if (r->op == BLOCK_WRITE) {
			uint8_t *data = calloc(1, r->length);

			r->ctx = data;
			iov[i] = (struct iovec){ data, r->length };
			r->iov = &iov[i];
			r->iov_count = 1;
			for (uint64_t s = 0; s < count; s++)
				fill_sector(data + s * SECTOR, first + s, version);
		}
		block_submit(queue, r);
	}
	block_queue_kick(queue);
	block_queue_drain(queue);
}

static void promise(const uint32_t *now, const bool *any, bool *touched)
{
	struct promise *p = &promises[promise_count++];

	assert_true(promise_count < 256);
	p->records = count_now();
	p->version = malloc(SECTORS * sizeof(*p->version));
	for (uint64_t s = 0; s < SECTORS; s++)
		p->version[s] = any[s] ? UINT32_MAX : now[s];
	p->touched = malloc(SECTORS);
	memcpy(p->touched, touched, SECTORS);
	memset(touched, 0, SECTORS);
}

static void guest_life(const char *path, uint64_t seed, bool full, unsigned bursts)
{
	struct block_options options = {
		.path = path, .format = BLOCK_FORMAT_QCOW2, .discard = true, .no_uring = true
	};
	struct fuzz f = fuzz_start(seed);
	uint32_t *now = calloc(SECTORS, sizeof(*now));
	bool *any = calloc(SECTORS, sizeof(*any)), *touched = calloc(SECTORS, sizeof(*touched));
	struct block *disk = disk_open(&options);
	struct block_queue *queue = block_queue_create(disk);

	for (uint64_t s = 0; s < SECTORS; s++)
		now[s] = full ? 1 : 0;
	promise(now, any, touched);
	for (unsigned b = 0; b < bursts; b++) {
		guest_burst(queue, &f, now, any, touched, b + 2);
		if (fuzz_below(&f, 3))
			continue;
		assert_int_equal(block_flush(disk), 0);
		promise(now, any, touched);
	}
	block_queue_destroy(queue);
	assert_int_equal(block_close(disk), 0);
	promise(now, any, touched);
	free(now);
	free(any);
	free(touched);
}

/* --- the power fails --- */

struct medium {
	uint8_t *data;
	size_t size, room;
};

static void medium_apply(struct medium *m, const struct record *r, uint64_t skip, uint64_t length)
{
	uint64_t at = r->offset + skip;

	if (r->kind == RECORD_ZERO) {
		if (at < m->size)
			memset(m->data + at, 0, at + length < m->size ? length : m->size - at);
		return;
	}
	assert_true(at + length <= m->room);
	memcpy(m->data + at, r->data + skip, length);
	if (at + length > m->size)
		m->size = at + length;
}

/* A write of which each sector may be there or not. */
static void medium_tear(struct medium *m, const struct record *r, struct fuzz *f)
{
	for (uint64_t at = 0; at < r->length;) {
		uint64_t len = SECTOR - (r->offset + at) % SECTOR;

		if (len > r->length - at)
			len = r->length - at;
		if (fuzz_below(f, 2))
			medium_apply(m, r, at, len);
		at += len;
	}
}

/* How what was not synced fared. */
enum fate { FATE_ALL, FATE_NOTHING, FATE_LAST, FATE_SOME, FATE_TORN, FATE_COUNT };

static void medium_after(struct medium *m, const struct medium *durable, size_t from, size_t to, enum fate fate,
			 struct fuzz *f)
{
	memcpy(m->data, durable->data, durable->size);
	memset(m->data + durable->size, 0, m->room - durable->size);
	m->size = durable->size;
	for (size_t i = from; i < to; i++) {
		const struct record *r = &records[i];

		if (r->kind == RECORD_SYNC || fate == FATE_NOTHING || (fate == FATE_SOME && fuzz_below(f, 2)) ||
		    (fate == FATE_LAST && i + 1 < to))
			continue;
		if (fate == FATE_TORN)
			medium_tear(m, r, f);
		else
			medium_apply(m, r, 0, r->length);
	}
}

static void put_in_file(const struct medium *m, int fd)
{
	assert_int_equal(ftruncate(fd, (off_t)m->size), 0);
	assert_int_equal(syscall(SYS_pwrite64, fd, m->data, m->size, 0), m->size);
}

static void report(void *ctx, const char *line)
{
	(void)ctx;
	print_error("%s\n", line);
}

static void must_be_consistent(const char *path)
{
	struct file_options o = { .writable = false };
	char text[256] = "";
	struct error_text error = { text, sizeof(text) };
	struct qcow2_check check = { .report = report };
	struct qcow2_header header;
	struct image_file file;

	assert_int_equal(file_open(&file, path, &o, &error), 0);
	if (qcow2_header_read(&file, &header, &error) != 0)
		fail_msg("%s", text);
	assert_int_equal(header.incompatible, 0);
	assert_int_equal(qcow2_check(&file, &header, QCOW2_REPAIR_NOTHING, &check), 0);
	assert_int_equal(check.corruptions, 0);
	file_close(&file);
}

static void must_hold(const char *path, size_t when, uint32_t newest)
{
	struct block_options options = {
		.path = path, .format = BLOCK_FORMAT_QCOW2, .readonly = true, .no_uring = true
	};
	struct block *disk = disk_open(&options);
	uint8_t *data = malloc(DISK_SIZE);
	size_t last = 0;

	while (last + 1 < promise_count && promises[last + 1].records <= when)
		last++;
	assert_int_equal(block_read(disk, 0, data, DISK_SIZE), 0);
	for (uint64_t s = 0; s < SECTORS; s++) {
		int64_t version = sector_version(data + s * SECTOR, s);
		uint32_t promised = promises[last].version[s];
		/* Not changed between this flush and the next. */
		bool quiet = last + 1 == promise_count || !promises[last + 1].touched[s];

		if (version < 0 || version > newest || (quiet && promised != UINT32_MAX && version != promised))
			fail_msg("after %zu of %zu records sector %llu has version %lld, promised was %u", when,
				 record_count, (unsigned long long)s, (long long)version, promised);
	}
	free(data);
	assert_int_equal(block_close(disk), 0);
}

/* The next power-on: the image is used as before, and clean in the end. */
static void must_go_on(const char *path, uint64_t seed)
{
	static const struct mix mix = { .reads = 2, .writes = 6, .zeroes = 2, .discards = 0, .flushes = 1 };
	struct block_options options = {
		.path = path, .format = BLOCK_FORMAT_QCOW2, .discard = true, .no_uring = true
	};
	struct fuzz f = fuzz_start(seed);
	struct block *disk = disk_open(&options);
	struct model m;

	model_init(&m, DISK_SIZE);
	assert_int_equal(block_read(disk, 0, m.data, DISK_SIZE), 0);
	exercise(disk, &m, &f, &mix, 60);
	model_compare_disk(&m, disk);
	assert_int_equal(block_close(disk), 0);
	must_be_consistent(path);
	model_free(&m);
}

static void qemu_must_agree(const char *path)
{
	/* 3: only leaks */
	int status = sh("qemu-img check -f qcow2 %s", path);

	if (status != 0 && status != 3)
		print_log();
	assert_true(status == 0 || status == 3);
}

static void power_fails_everywhere(const char *initial, uint32_t newest, uint64_t seed)
{
	size_t size, durable_to = 0, room = 0;
	uint8_t *start = read_file(initial, &size);
	struct fuzz f = fuzz_start(seed);
	struct medium durable, now;
	int fd = memfd_create("medium", 0);
	char path[64];

	assert_true(fd >= 0);
	/* Not /proc/self: an image must not be relative to what changes. */
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
	for (size_t i = 0; i < record_count; i++)
		if (records[i].kind == RECORD_WRITE && records[i].offset + records[i].length > room)
			room = records[i].offset + records[i].length;
	room = room > size ? room : size;
	durable = (struct medium){ calloc(1, room), size, room };
	now = (struct medium){ calloc(1, room), 0, room };
	memcpy(durable.data, start, size);
	free(start);
	for (size_t t = 0; t <= record_count; t++) {
		for (enum fate fate = 0; fate < FATE_COUNT; fate++) {
			medium_after(&now, &durable, durable_to, t, fate, &f);
			put_in_file(&now, fd);
			must_be_consistent(path);
			if ((t + fate) % 3 == 0)
				must_hold(path, t, newest);
		}
		if (t % 211 == 1)
			qemu_must_agree(path);
		if (t % 97 == 5)
			must_go_on(path, t);
		if (t < record_count && records[t].kind == RECORD_SYNC)
			for (; durable_to < records[t].covers; durable_to++)
				if (records[durable_to].kind != RECORD_SYNC)
					medium_apply(&durable, &records[durable_to], 0, records[durable_to].length);
	}
	free(durable.data);
	free(now.data);
	close(fd);
}

static void forget(void)
{
	for (size_t i = 0; i < record_count; i++)
		free(records[i].data);
	for (size_t i = 0; i < promise_count; i++) {
		free(promises[i].version);
		free(promises[i].touched);
	}
	record_count = promise_count = 0;
	recorded_ino = 0;
}

static bool grown; /* the header was written: the refcount table has moved */

/* prepare: a command that makes disk.qcow2. full: it holds what base.raw does, version 1 of every sector. */
static void run(const char *prepare, bool full, uint64_t seed, unsigned bursts)
{
	struct stat st;

	need_qemu_img();
	forget(); /* what a failed test left */
	if (full) {
		uint8_t *data = calloc(1, DISK_SIZE);

		for (uint64_t s = 0; s < SECTORS; s++)
			fill_sector(data + s * SECTOR, s, 1);
		write_file("base.raw", data, DISK_SIZE);
		free(data);
	}
	assert_sh("rm -f disk.qcow2; { %s; } && cp disk.qcow2 initial.qcow2", prepare);
	assert_int_equal(stat("disk.qcow2", &st), 0);
	recorded_ino = st.st_ino;
	bursts = fuzz_rounds(bursts);
	bursts = bursts < 250 ? bursts : 250;
	guest_life("disk.qcow2", seed, full, bursts);
	recorded_ino = 0;
	assert_true(record_count > 50);
	for (size_t i = 0; i < record_count; i++)
		grown |= records[i].kind == RECORD_WRITE && records[i].offset == 0;
	power_fails_everywhere("initial.qcow2", bursts + 2, seed);
	forget();
}

static void test_plain(void **state)
{
	(void)state;
	run("qemu-img create -q -f qcow2 disk.qcow2 3M", false, 1, 40);
}

static void test_small_clusters(void **state)
{
	(void)state;
	run("qemu-img create -q -f qcow2 -o cluster_size=4k disk.qcow2 3M", false, 2, 25);
}

/* The refcount table grows: it counts 2 MiB at first, less than the snapshot and what is written after it. */
static void test_tiny_clusters(void **state)
{
	(void)state;
	grown = false;
	run("qemu-img convert -O qcow2 -o cluster_size=512,refcount_bits=64 base.raw disk.qcow2 && "
	    "qemu-img snapshot -c one disk.qcow2",
	    true, 3, 20);
	assert_true(grown);
}

static void test_version_2(void **state)
{
	(void)state;
	run("qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=8k disk.qcow2 3M", false, 4, 25);
}

static void test_backed(void **state)
{
	char command[256];

	(void)state;
	/* The crashed copy lies elsewhere: an absolute path. */
	snprintf(command, sizeof(command),
		 "qemu-img create -q -f qcow2 -b %s/base.raw -F raw -o cluster_size=16k disk.qcow2 3M", folder);
	run(command, true, 5, 25);
}

/* Tables and clusters are a snapshot's too, which must not notice anything. */
static void test_snapshot(void **state)
{
	(void)state;
	run("qemu-img convert -O qcow2 -o cluster_size=4k base.raw disk.qcow2 && qemu-img snapshot -c one disk.qcow2",
	    true, 6, 16);
	assert_sh("qemu-img convert -l one -O raw disk.qcow2 snapshot.raw && cmp snapshot.raw base.raw");
}

/* Clusters share sectors and clusters of the file. */
static void test_compressed(void **state)
{
	(void)state;
	run("qemu-img convert -c -O qcow2 -o cluster_size=8k base.raw disk.qcow2", true, 7, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),         cmocka_unit_test(test_small_clusters),
		cmocka_unit_test(test_tiny_clusters), cmocka_unit_test(test_version_2),
		cmocka_unit_test(test_backed),        cmocka_unit_test(test_snapshot),
		cmocka_unit_test(test_compressed),
	};

	return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
