/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of disks share: a folder of their own, qemu-img, a disk with a model of its contents. */
#ifndef TESTS_UNIT_BLOCKFIX_H
#define TESTS_UNIT_BLOCKFIX_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"
#include "seeded.h"

/* --- a folder; tests run in it --- */

static char folder[64];

static inline int folder_enter(void **state)
{
	(void)state;
	/* Memory where there is some: syncs cost nothing there. */
	strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/trapeze-block-XXXXXX" : "/tmp/trapeze-block-XXXXXX");
	return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static inline int folder_leave(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

/* The exit status of a shell command; its output goes to the file log. */
__attribute__((format(printf, 1, 2))) static inline int sh(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	int status, n;

	n = snprintf(command, sizeof(command), "exec >log 2>&1; ");
	va_start(ap, fmt);
	vsnprintf(command + n, sizeof(command) - (size_t)n, fmt, ap);
	va_end(ap);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void print_log(void)
{
	char line[512];
	FILE *f = fopen("log", "r");

	while (f && fgets(line, sizeof(line), f))
		print_error("%s", line);
	if (f)
		fclose(f);
}

#define assert_sh(...)                                                                                                 \
	do {                                                                                                           \
		int sh_status = sh(__VA_ARGS__);                                                                       \
		if (sh_status) {                                                                                       \
			print_error("%s: status %d\n", #__VA_ARGS__, sh_status);                                       \
			print_log();                                                                                   \
		}                                                                                                      \
		assert_int_equal(sh_status, 0);                                                                        \
	} while (0)

static inline void need_qemu_img(void)
{
	if (access("/usr/bin/qemu-img", X_OK) != 0) {
		print_message("qemu-img is not installed\n");
		skip();
	}
}

static inline void write_file(const char *name, const void *data, size_t size)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static inline void *read_file(const char *name, size_t *size)
{
	struct stat st;
	int fd = open(name, O_RDONLY);
	uint8_t *data;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	data = malloc((size_t)st.st_size + 1);
	*size = (size_t)st.st_size;
	assert_int_equal(pread(fd, data, *size, 0), *size);
	close(fd);
	return data;
}

/* --- disks --- */

static inline struct block *disk_open(const struct block_options *options)
{
	char error[512] = "";
	struct block *disk;
	int err = block_open(options, &disk, error, sizeof(error));

	if (err)
		print_error("%s\n", error);
	assert_int_equal(err, 0);
	return disk;
}

/* Must be refused, with a line that names the file and says the word. */
static inline void disk_refused(const struct block_options *options, const char *word)
{
	char error[512] = "";
	struct block *disk = NULL;
	int err = block_open(options, &disk, error, sizeof(error));

	if (!err)
		block_close(disk);
	assert_true(err < 0);
	if (!strstr(error, word) || !strstr(error, options->path) || strchr(error, '\n'))
		print_error("\"%s\" lacks \"%s\"\n", error, word);
	assert_non_null(strstr(error, options->path));
	assert_non_null(strstr(error, word));
	assert_null(strchr(error, '\n'));
}

/* --- a model: what each sector must hold --- */

#define SECTOR 512

struct model {
	uint64_t size;
	uint8_t *data;
	bool *unknown; /* by sector: discarded, or a failed write */
};

static inline void model_init(struct model *m, uint64_t size)
{
	m->size = size;
	m->data = calloc(1, size);
	m->unknown = calloc(size / SECTOR, 1);
	assert_true(m->data && m->unknown);
}

static inline void model_free(struct model *m)
{
	free(m->data);
	free(m->unknown);
}

static inline void model_compare(const struct model *m, uint64_t offset, const uint8_t *seen, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += SECTOR)
		if (!m->unknown[(offset + at) / SECTOR] && memcmp(m->data + offset + at, seen + at, SECTOR) != 0) {
			print_error("sector %llu differs\n", (unsigned long long)(offset + at) / SECTOR);
			assert_memory_equal(m->data + offset + at, seen + at, SECTOR);
		}
}

static inline void model_compare_disk(const struct model *m, struct block *disk)
{
	uint8_t *seen = malloc(m->size);

	assert_non_null(seen);
	assert_int_equal(block_read(disk, 0, seen, m->size), 0);
	model_compare(m, 0, seen, m->size);
	free(seen);
}

/* Random requests, several at once, never two on the same sectors, often on the same clusters. */

#define AT_ONCE 16
#define REQUEST_MAX (192u << 10)

struct slot {
	struct block_request request;
	struct iovec iov[5];
	uint8_t *buffer;
	bool busy;
	unsigned *ended;
};

static inline void slot_done(struct block_request *request, int result)
{
	struct slot *slot = request->ctx;

	slot->busy = false;
	slot->request.result = result;
	++*slot->ended;
}

static inline bool slot_overlaps(const struct slot *slots, uint64_t offset, uint64_t length)
{
	for (unsigned i = 0; i < AT_ONCE; i++) {
		const struct block_request *r = &slots[i].request;

		if (slots[i].busy && r->op != BLOCK_FLUSH && r->offset < offset + length &&
		    offset < r->offset + r->length)
			return true;
	}
	return false;
}

/* The vector in up to five uneven parts; sectors may be split. */
static inline void slot_vector(struct slot *slot, struct fuzz *f, uint64_t length)
{
	uint64_t at = 0;
	unsigned n = 0;

	while (at < length) {
		uint64_t part = n == 4 ? length - at : 1 + fuzz_below(f, length - at);

		if (n < 4 && fuzz_below(f, 2))
			part = part < SECTOR ? (length - at) : part & ~(uint64_t)(SECTOR - 1);
		slot->iov[n].iov_base = slot->buffer + at;
		slot->iov[n].iov_len = part;
		at += part;
		n++;
	}
	slot->request.iov = slot->iov;
	slot->request.iov_count = n;
}

struct mix {
	unsigned reads, writes, zeroes, discards, flushes; /* shares */
	unsigned *allowed_error;                           /* counts -ENOSPC results; NULL: none is allowed */
};

static inline void slot_choose(struct slot *slot, struct fuzz *f, const struct mix *mix, const struct slot *slots,
			       uint64_t size)
{
	uint64_t pick = fuzz_below(f, mix->reads + mix->writes + mix->zeroes + mix->discards + mix->flushes);
	struct block_request *r = &slot->request;
	uint64_t max = fuzz_below(f, 4) ? 16u << 10 : REQUEST_MAX, offset, length;

	memset(r, 0, sizeof(*r));
	do {
		length = (1 + fuzz_below(f, max / SECTOR)) * SECTOR;
		offset = fuzz_below(f, size / SECTOR) * SECTOR;
		/* Crowded: what is done to one cluster at once is what may go wrong. */
		if (fuzz_below(f, 2))
			offset = fuzz_below(f, size / SECTOR / 8 + 1) * SECTOR;
		if (length > size - offset)
			length = size - offset;
	} while (!length || slot_overlaps(slots, offset, length));
	r->offset = offset;
	r->length = length;
	r->done = slot_done;
	r->ctx = slot;
	if (pick < mix->reads) {
		r->op = BLOCK_READ;
		slot_vector(slot, f, length);
	} else if (pick < mix->reads + mix->writes) {
		r->op = BLOCK_WRITE;
		r->flags = fuzz_below(f, 16) ? 0 : BLOCK_REQ_FUA;
		slot_vector(slot, f, length);
		fuzz_bytes(f, slot->buffer, length < 64 ? length : 64);
		for (uint64_t at = 0; at < length; at++)
			slot->buffer[at] = (uint8_t)(slot->buffer[at % 64] + at / SECTOR);
	} else if (pick < mix->reads + mix->writes + mix->zeroes) {
		r->op = BLOCK_WRITE_ZEROES;
		r->flags = fuzz_below(f, 2) ? BLOCK_REQ_UNMAP : 0;
	} else if (pick < mix->reads + mix->writes + mix->zeroes + mix->discards) {
		r->op = BLOCK_DISCARD;
	} else {
		r->op = BLOCK_FLUSH;
	}
}

/* A request has ended: what does the model say? */
static inline void slot_settle(struct slot *slot, struct model *m, const struct mix *mix)
{
	struct block_request *r = &slot->request;
	bool failed = r->result != 0;

	if (failed) {
		assert_true(mix->allowed_error && r->result == -ENOSPC);
		++*mix->allowed_error;
	}
	if (r->op == BLOCK_FLUSH)
		return;
	if (r->op == BLOCK_READ) {
		assert_int_equal(r->result, 0);
		model_compare(m, r->offset, slot->buffer, r->length);
		return;
	}
	memset(m->unknown + r->offset / SECTOR, failed || r->op == BLOCK_DISCARD, r->length / SECTOR);
	if (r->op == BLOCK_WRITE)
		memcpy(m->data + r->offset, slot->buffer, r->length);
	else
		memset(m->data + r->offset, 0, r->length);
}

static inline void exercise(struct block *disk, struct model *m, struct fuzz *f, const struct mix *mix, unsigned count)
{
	struct block_queue *queue = block_queue_create(disk);
	struct slot slots[AT_ONCE] = { 0 };
	bool settled[AT_ONCE];
	unsigned begun = 0, ended = 0;

	assert_non_null(queue);
	for (unsigned i = 0; i < AT_ONCE; i++) {
		slots[i].buffer = malloc(REQUEST_MAX);
		slots[i].ended = &ended;
		settled[i] = true;
	}
	while (ended < count) {
		for (unsigned i = 0; i < AT_ONCE && begun < count; i++) {
			if (slots[i].busy)
				continue;
			slot_choose(&slots[i], f, mix, slots, m->size);
			slots[i].busy = true;
			settled[i] = false;
			block_submit(queue, &slots[i].request);
			begun++;
		}
		block_queue_kick(queue);
		if (!block_queue_poll(queue)) {
			struct pollfd fd = { .fd = block_queue_fd(queue), .events = POLLIN };

			/* Half a minute: a request that never ends must fail the test, not hang it. */
			assert_int_equal(poll(&fd, 1, 30000), 1);
		}
		for (unsigned i = 0; i < AT_ONCE; i++)
			if (!slots[i].busy && !settled[i]) {
				slot_settle(&slots[i], m, mix);
				settled[i] = true;
			}
	}
	assert_int_equal(block_queue_in_flight(queue), 0);
	block_queue_destroy(queue);
	for (unsigned i = 0; i < AT_ONCE; i++)
		free(slots[i].buffer);
}

#endif
