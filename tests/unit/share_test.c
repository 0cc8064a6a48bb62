/* SPDX-License-Identifier: Apache-2.0 */
/* The 9P server: sessions, files and directories, what it refuses, and that nothing outside its folder is reached. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "share/parts.h"

#define ROOT 0u
#define NOBODY UINT32_MAX

struct client {
	struct share *share;
	char base[64], folder[80];
	uint8_t request[8192], reply[8192];
	struct wire_out out; /* the request that is being written */
	struct wire_in in;   /* the last reply, past its head */
};

static void begin(struct client *c, uint8_t type)
{
	c->out = (struct wire_out){ c->request, c->request + sizeof(c->request), false };
	wire_put32(&c->out, 0);
	wire_put8(&c->out, type);
	wire_put16(&c->out, 7);
}

/* 0, or what Rlerror says, negative. */
static int send_request(struct client *c)
{
	size_t size = (size_t)(c->out.p - c->request), n;
	const struct iovec to = { c->reply, sizeof(c->reply) };
	/* In two pieces, and the second begins inside of a number. */
	const struct iovec from[2] = { { c->request, 9 }, { c->request + 9, size - 9 } };
	uint32_t le = htole32((uint32_t)size);

	memcpy(c->request, &le, sizeof(le));
	n = share_serve(c->share, from, 2, &to, 1);
	assert_true(n >= WIRE_HEADER);
	c->in = (struct wire_in){ c->reply, c->reply + n, false };
	assert_int_equal(wire_get32(&c->in), n);
	uint8_t type = wire_get8(&c->in);
	assert_int_equal(wire_get16(&c->in), 7);
	if (type == P9_RLERROR)
		return -(int)wire_get32(&c->in);
	assert_int_equal(type, c->request[4] + 1);
	return 0;
}

static int version(struct client *c, const char *what)
{
	begin(c, P9_TVERSION);
	wire_put32(&c->out, sizeof(c->reply));
	wire_put_string(&c->out, what);
	return send_request(c);
}

static int attach(struct client *c, uint32_t fid)
{
	begin(c, P9_TATTACH);
	wire_put32(&c->out, fid);
	wire_put32(&c->out, UINT32_MAX);
	wire_put_string(&c->out, "root");
	wire_put_string(&c->out, "");
	wire_put32(&c->out, NOBODY);
	return send_request(c);
}

/* path: names with slashes between them; "": none. */
static int walk(struct client *c, uint32_t from, uint32_t to, const char *path)
{
	char copy[256], *rest = copy, *name;
	uint16_t count = *path ? 1 : 0;
	int err;

	for (const char *p = path; *p; p++)
		count = (uint16_t)(count + (*p == '/'));
	snprintf(copy, sizeof(copy), "%s", path);
	begin(c, P9_TWALK);
	wire_put32(&c->out, from);
	wire_put32(&c->out, to);
	wire_put16(&c->out, count);
	while (*path && (name = strsep(&rest, "/")))
		wire_put_string(&c->out, name);
	err = send_request(c);
	if (!err && wire_get16(&c->in) != count)
		return -ENOENT; /* part of it */
	return err;
}

static int clunk(struct client *c, uint32_t fid)
{
	begin(c, P9_TCLUNK);
	wire_put32(&c->out, fid);
	return send_request(c);
}

static int lopen(struct client *c, uint32_t fid, uint32_t flags)
{
	begin(c, P9_TLOPEN);
	wire_put32(&c->out, fid);
	wire_put32(&c->out, flags);
	return send_request(c);
}

static int lcreate(struct client *c, uint32_t fid, const char *name, uint32_t flags, uint32_t mode)
{
	begin(c, P9_TLCREATE);
	wire_put32(&c->out, fid);
	wire_put_string(&c->out, name);
	wire_put32(&c->out, flags);
	wire_put32(&c->out, mode);
	wire_put32(&c->out, NOBODY);
	return send_request(c);
}

static int write_at(struct client *c, uint32_t fid, uint64_t offset, const char *text)
{
	begin(c, P9_TWRITE);
	wire_put32(&c->out, fid);
	wire_put64(&c->out, offset);
	wire_put32(&c->out, (uint32_t)strlen(text));
	wire_put(&c->out, text, strlen(text));
	return send_request(c);
}

static int read_at(struct client *c, uint32_t fid, uint64_t offset, uint32_t count)
{
	begin(c, P9_TREAD);
	wire_put32(&c->out, fid);
	wire_put64(&c->out, offset);
	wire_put32(&c->out, count);
	return send_request(c);
}

/* A request of a directory and a name and what comes behind it, as numbers. */
static int at(struct client *c, uint8_t type, uint32_t dir, const char *name, unsigned numbers, const uint32_t *n)
{
	begin(c, type);
	wire_put32(&c->out, dir);
	wire_put_string(&c->out, name);
	for (unsigned i = 0; i < numbers; i++)
		wire_put32(&c->out, n[i]);
	return send_request(c);
}

static void put_file(const char *folder, const char *name, const char *text)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void assert_file(const char *folder, const char *name, const char *text, mode_t mode)
{
	char path[160], got[256] = "";
	struct stat st;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "r");
	assert_non_null(f);
	got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(got, text);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static struct client *create(bool readonly)
{
	struct client *c = calloc(1, sizeof(*c));
	char error[256], path[160];

	strcpy(c->base, "/tmp/share-test-XXXXXX");
	assert_non_null(mkdtemp(c->base));
	snprintf(c->folder, sizeof(c->folder), "%s/folder", c->base);
	assert_int_equal(mkdir(c->folder, 0755), 0);
	put_file(c->base, "secret", "not yours");
	put_file(c->folder, "file", "hello");
	snprintf(path, sizeof(path), "%s/dir", c->folder);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/up", c->folder);
	assert_int_equal(symlink("..", path), 0);
	snprintf(path, sizeof(path), "%s/fifo", c->folder);
	assert_int_equal(mkfifo(path, 0644), 0);
	assert_int_equal(share_open(c->folder, readonly, &c->share, error, sizeof(error)), 0);
	assert_int_equal(version(c, "9P2000.L"), 0);
	assert_int_equal(attach(c, ROOT), 0);
	return c;
}

static void destroy(struct client *c)
{
	char command[128];

	share_reset(c->share);
	assert_int_equal(c->share->root->refs, 1); /* nothing is held any more */
	share_close(c->share);
	snprintf(command, sizeof(command), "rm -rf %s", c->base);
	assert_int_equal(system(command), 0);
	free(c);
}

/* ---- */

static void test_session(void **state)
{
	struct client *c = create(false);

	(void)state;
	assert_int_equal(attach(c, ROOT), -EINVAL); /* in use */
	assert_int_equal(walk(c, 5, 6, ""), -EBADF);
	assert_int_equal(walk(c, ROOT, 1, "dir"), 0);
	assert_int_equal(clunk(c, 1), 0);
	assert_int_equal(clunk(c, 1), -EBADF);
	/* A new session forgets the old one's fids; a protocol that is not spoken begins none. */
	assert_int_equal(version(c, "9P2000.u"), 0);
	assert_int_equal(wire_get32(&c->in), sizeof(c->reply));
	assert_int_equal(wire_get16(&c->in), 7); /* "unknown" */
	assert_int_equal(walk(c, ROOT, 1, ""), -EPROTO);
	assert_int_equal(version(c, "9P2000.L"), 0);
	assert_int_equal(walk(c, ROOT, 1, ""), -EBADF);
	begin(c, 30); /* Txattrwalk */
	wire_put32(&c->out, ROOT);
	assert_int_equal(send_request(c), -EOPNOTSUPP);
	destroy(c);
}

static void test_files(void **state)
{
	struct client *c = create(false);
	mode_t old = umask(077); /* the guest has its own */

	(void)state;
	assert_int_equal(walk(c, ROOT, 1, "dir"), 0);
	assert_int_equal(lcreate(c, 1, "new", O_RDWR | O_CREAT, 06644), 0);
	assert_int_equal(write_at(c, 1, 0, "written by the guest"), 0);
	assert_int_equal(wire_get32(&c->in), 20);
	assert_int_equal(write_at(c, 1, 8, "BY"), 0);
	assert_int_equal(read_at(c, 1, 8, 100), 0);
	assert_int_equal(wire_get32(&c->in), 12);
	assert_memory_equal(c->in.p, "BY the guest", 12);
	assert_int_equal(lopen(c, 1, O_RDONLY), -EBUSY);
	assert_file(c->folder, "dir/new", "written BY the guest", 0644); /* not set-user-ID */
	umask(old);
	/* There already: opened, unless it must be new. */
	assert_int_equal(walk(c, ROOT, 2, ""), 0);
	assert_int_equal(lcreate(c, 2, "file", O_RDWR | O_CREAT | O_EXCL, 0644), -EEXIST);
	assert_int_equal(lcreate(c, 2, "file", O_WRONLY | O_CREAT | O_TRUNC, 0600), 0);
	assert_file(c->folder, "file", "", 0644);
	/* A file that may be read by nobody can be made and written. */
	assert_int_equal(walk(c, ROOT, 3, ""), 0);
	assert_int_equal(lcreate(c, 3, "closed", O_RDWR | O_CREAT, 0), 0);
	assert_int_equal(write_at(c, 3, 0, "x"), 0);
	/* More data than the message has. */
	begin(c, P9_TWRITE);
	wire_put32(&c->out, 3);
	wire_put64(&c->out, 0);
	wire_put32(&c->out, 100);
	assert_int_equal(send_request(c), -EPROTO);
	destroy(c);
}

static void test_tree(void **state)
{
	struct client *c = create(false);
	char path[160];
	struct stat st;

	(void)state;
	assert_int_equal(at(c, P9_TMKDIR, ROOT, "made", 2, (const uint32_t[]){ 0777, NOBODY }), 0);
	assert_int_equal(walk(c, ROOT, 1, "made"), 0);
	assert_int_equal(at(c, P9_TMKNOD, 1, "pipe", 4, (const uint32_t[]){ S_IFIFO | 0600, 0, 0, NOBODY }), 0);
	assert_int_equal(at(c, P9_TMKNOD, 1, "dev", 4, (const uint32_t[]){ S_IFCHR | 0600, 1, 3, NOBODY }), -EPERM);
	begin(c, P9_TSYMLINK);
	wire_put32(&c->out, 1);
	wire_put_string(&c->out, "link");
	wire_put_string(&c->out, "/anywhere/at all");
	wire_put32(&c->out, NOBODY);
	assert_int_equal(send_request(c), 0);
	assert_int_equal(walk(c, 1, 2, "link"), 0);
	begin(c, P9_TREADLINK);
	wire_put32(&c->out, 2);
	assert_int_equal(send_request(c), 0);
	assert_int_equal(wire_get16(&c->in), 16);
	assert_memory_equal(c->in.p, "/anywhere/at all", 16);
	/* A link to the link itself. */
	begin(c, P9_TLINK);
	wire_put32(&c->out, ROOT);
	wire_put32(&c->out, 2);
	wire_put_string(&c->out, "link2");
	assert_int_equal(send_request(c), 0);
	snprintf(path, sizeof(path), "%s/link2", c->folder);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	/* A directory that is moved takes the fids below it along. */
	begin(c, P9_TRENAMEAT);
	wire_put32(&c->out, ROOT);
	wire_put_string(&c->out, "made");
	wire_put32(&c->out, ROOT);
	wire_put_string(&c->out, "moved");
	assert_int_equal(send_request(c), 0);
	assert_int_equal(walk(c, 1, 3, "pipe"), 0);
	assert_int_equal(at(c, P9_TUNLINKAT, ROOT, "moved", 1, (const uint32_t[]){ 0 }), -EISDIR);
	assert_int_equal(at(c, P9_TUNLINKAT, ROOT, "moved", 1, (const uint32_t[]){ AT_REMOVEDIR }), -ENOTEMPTY);
	assert_int_equal(at(c, P9_TUNLINKAT, 1, "pipe", 1, (const uint32_t[]){ 0 }), 0);
	assert_int_equal(at(c, P9_TUNLINKAT, 1, "link", 1, (const uint32_t[]){ 0 }), 0);
	assert_int_equal(at(c, P9_TUNLINKAT, ROOT, "moved", 1, (const uint32_t[]){ AT_REMOVEDIR }), 0);
	destroy(c);
}

/* Entries of a directory in replies of `count` bytes; how many. */
static unsigned list(struct client *c, uint32_t fid, uint32_t count, const char *look_for, bool *found)
{
	uint64_t offset = 0;
	unsigned entries = 0;

	for (;;) {
		begin(c, P9_TREADDIR);
		wire_put32(&c->out, fid);
		wire_put64(&c->out, offset);
		wire_put32(&c->out, count);
		assert_int_equal(send_request(c), 0);
		if (!wire_get32(&c->in))
			return entries;
		while (c->in.p < c->in.end) {
			char name[NAME_MAX + 1];
			uint8_t qid[13];

			wire_get(&c->in, qid, sizeof(qid));
			offset = wire_get64(&c->in);
			wire_get8(&c->in);
			assert_true(wire_get_string(&c->in, name, sizeof(name)));
			*found |= !strcmp(name, look_for);
			entries++;
		}
	}
}

static void test_listing(void **state)
{
	struct client *c = create(false);
	bool found = false;

	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		char name[32];

		snprintf(name, sizeof(name), "dir/entry-number-%u", i);
		put_file(c->folder, name, "");
	}
	assert_int_equal(walk(c, ROOT, 1, "dir"), 0);
	begin(c, P9_TREADDIR); /* not open */
	wire_put32(&c->out, 1);
	wire_put64(&c->out, 0);
	wire_put32(&c->out, 4096);
	assert_int_equal(send_request(c), -EBADF);
	assert_int_equal(lopen(c, 1, O_RDONLY), 0);
	assert_int_equal(list(c, 1, 8000, "entry-number-499", &found), 502);
	assert_true(found);
	assert_int_equal(list(c, 1, 100, "..", &found), 502);
	destroy(c);
}

static int setattr(struct client *c, uint32_t fid, uint32_t valid, uint32_t mode, uint64_t size, uint64_t mtime)
{
	begin(c, P9_TSETATTR);
	wire_put32(&c->out, fid);
	wire_put32(&c->out, valid);
	wire_put32(&c->out, mode);
	wire_put32(&c->out, 1234);
	wire_put32(&c->out, 1234);
	wire_put64(&c->out, size);
	for (unsigned i = 0; i < 4; i++)
		wire_put64(&c->out, i == 2 ? mtime : 5);
	return send_request(c);
}

static void test_attributes(void **state)
{
	struct client *c = create(false);
	char path[160];
	struct stat st;

	(void)state;
	assert_int_equal(walk(c, ROOT, 1, "file"), 0);
	assert_int_equal(setattr(c, 1, 0x1 | 0x8 | 0x20 | 0x100, 04711, 3, 1000000), 0);
	snprintf(path, sizeof(path), "%s/file", c->folder);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mtim.tv_sec, 1000000);
	assert_file(c->folder, "file", "hel", 0711);
	/* Who may give it away does; who may not keeps it. */
	assert_int_equal(setattr(c, 1, 0x2 | 0x4, 0, 0, 0), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, geteuid() == 0 ? 1234 : geteuid());
	begin(c, P9_TGETATTR);
	wire_put32(&c->out, 1);
	wire_put64(&c->out, UINT64_MAX);
	assert_int_equal(send_request(c), 0);
	assert_int_equal(wire_get64(&c->in), 0x7ff);
	c->in.p += 13;
	assert_int_equal(wire_get32(&c->in), S_IFREG | 0711);
	begin(c, P9_TSTATFS);
	wire_put32(&c->out, 1);
	assert_int_equal(send_request(c), 0);
	/* A link's permissions are nobody's. */
	assert_int_equal(walk(c, ROOT, 2, "up"), 0);
	assert_int_equal(setattr(c, 2, 0x1, 0777, 0, 0), -EOPNOTSUPP);
	assert_int_equal(setattr(c, 2, 0x8, 0, 0, 0), -EINVAL);
	destroy(c);
}

static void test_nothing_outside(void **state)
{
	static const char *const names[] = { "../secret", "/etc/passwd", "dir/file", "" };
	struct client *c = create(false);
	char from[160], to[160];
	struct stat st, base;

	(void)state;
	/* ".." at the root is the root; a link is the client's to follow. */
	assert_int_equal(walk(c, ROOT, 1, "../../.."), 0);
	assert_int_equal(fstat(share_fid_find(c->share, 1)->node->fd, &st), 0);
	assert_int_equal(stat(c->folder, &base), 0);
	assert_int_equal(st.st_ino, base.st_ino);
	assert_int_equal(walk(c, ROOT, 2, "up/secret"), -ENOENT);
	assert_int_equal(walk(c, ROOT, 2, "up"), 0);
	assert_int_equal(lopen(c, 2, O_RDONLY), -ELOOP);
	assert_int_equal(walk(c, 2, 3, "secret"), -ENOTDIR);
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const uint32_t n[] = { 0, 0, 0, 0 };

		begin(c, P9_TWALK);
		wire_put32(&c->out, ROOT);
		wire_put32(&c->out, 9);
		wire_put16(&c->out, 1);
		wire_put_string(&c->out, names[i]);
		assert_int_equal(send_request(c), -EINVAL);
		assert_int_equal(at(c, P9_TMKDIR, ROOT, names[i], 2, n), -EINVAL);
		assert_int_equal(at(c, P9_TUNLINKAT, ROOT, names[i], 1, n), -EINVAL);
		assert_int_equal(at(c, P9_TLCREATE, 1, names[i], 3, n), -EINVAL);
	}
	assert_int_equal(at(c, P9_TLCREATE, 1, "up", 3, (const uint32_t[]){ O_CREAT | O_RDWR, 0644, 0 }), -ELOOP);
	/* A FIFO or a device of the host's would be opened here, perhaps for ever. */
	assert_int_equal(walk(c, ROOT, 4, "fifo"), 0);
	assert_int_equal(lopen(c, 4, O_RDONLY), -ENXIO);
	assert_int_equal(at(c, P9_TLCREATE, 1, "fifo", 3, (const uint32_t[]){ O_CREAT | O_WRONLY, 0644, 0 }), -ENXIO);
	/* The host moves a directory out from under the client: ".." is still where it came from. */
	assert_int_equal(walk(c, ROOT, 5, "dir"), 0);
	snprintf(from, sizeof(from), "%s/dir", c->folder);
	snprintf(to, sizeof(to), "%s/dir", c->base);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(walk(c, 5, 6, "../file"), 0);
	assert_int_equal(walk(c, 5, 7, "../secret"), -ENOENT);
	destroy(c);
}

static void test_readonly(void **state)
{
	struct client *c = create(true);

	(void)state;
	assert_int_equal(walk(c, ROOT, 1, "file"), 0);
	assert_int_equal(lopen(c, 1, O_RDWR), -EROFS);
	assert_int_equal(lopen(c, 1, O_RDONLY | O_TRUNC), -EROFS);
	assert_int_equal(setattr(c, 1, 0x8, 0, 0, 0), -EROFS);
	assert_int_equal(lcreate(c, ROOT, "new", O_RDONLY | O_CREAT, 0644), -EROFS);
	assert_int_equal(at(c, P9_TUNLINKAT, ROOT, "file", 1, (const uint32_t[]){ 0 }), -EROFS);
	assert_int_equal(at(c, P9_TMKDIR, ROOT, "new", 2, (const uint32_t[]){ 0, 0 }), -EROFS);
	assert_int_equal(lopen(c, 1, O_RDONLY), 0);
	assert_int_equal(write_at(c, 1, 0, "x"), -EROFS);
	assert_int_equal(read_at(c, 1, 0, 100), 0);
	assert_int_equal(wire_get32(&c->in), 5);
	assert_file(c->folder, "file", "hello", 0644);
	destroy(c);
}

/* What is no message gets no answer; one that is too long gets one. */
static void test_bad_messages(void **state)
{
	struct client *c = create(false);
	uint8_t message[MSIZE_MIN * 8] = { sizeof(message) & 0xff, sizeof(message) >> 8, 0, 0, P9_TWALK };
	const struct iovec all = { message, sizeof(message) }, part = { message, sizeof(message) - 1 };
	const struct iovec small = { message, 6 }, reply = { c->reply, sizeof(c->reply) }, tiny = { c->reply, 10 };

	(void)state;
	assert_int_equal(share_serve(c->share, &part, 1, &reply, 1), 0);
	assert_int_equal(share_serve(c->share, &small, 1, &reply, 1), 0);
	assert_int_equal(share_serve(c->share, &all, 1, &tiny, 1), 0);
	assert_int_equal(share_serve(c->share, NULL, 0, &reply, 1), 0);
	assert_int_equal(share_serve(c->share, &all, 1, &reply, 1), WIRE_HEADER + 4);
	assert_int_equal(c->reply[4], P9_RLERROR);
	begin(c, P9_TWALK); /* says more names than it has */
	wire_put32(&c->out, ROOT);
	wire_put32(&c->out, 1);
	wire_put16(&c->out, 3);
	assert_int_equal(send_request(c), -EPROTO);
	destroy(c);
}

static void test_bad_folders(void **state)
{
	static const char *const paths[] = { "/nonexistent", "/etc/passwd", "/proc", "/proc/self" };
	struct share *share;

	(void)state;
	for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		char error[256] = "";

		assert_true(share_open(paths[i], false, &share, error, sizeof(error)) < 0);
		assert_non_null(strstr(error, paths[i]));
	}
}

/* A client that holds all it can leaves the rest of the process its descriptors. */
static void test_descriptors_run_out(void **state)
{
	struct rlimit old, few;
	struct client *c;
	uint32_t fid = 1;
	int fd, err = 0;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = (struct rlimit){ 200, 200 };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	c = create(false);
	while (!err && fid < 1000) {
		err = walk(c, ROOT, fid, "file");
		if (!err)
			err = lopen(c, fid++, O_RDONLY);
	}
	assert_int_equal(err, -EMFILE);
	assert_in_range(fid, 40, 60);
	fd = open("/dev/null", O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(clunk(c, 1), 0);
	assert_int_equal(walk(c, ROOT, 1, "file"), 0);
	share_reset(c->share);
	assert_int_equal(c->share->held, 0);
	destroy(c);
	setrlimit(RLIMIT_NOFILE, &old); /* as far as the user may */
}

/* Sharing the whole of the host leaves out its processes, this one among them. */
static void test_proc_is_not_entered(void **state)
{
	struct client *c = calloc(1, sizeof(*c));
	char error[256];

	(void)state;
	assert_int_equal(share_open("/", true, &c->share, error, sizeof(error)), 0);
	assert_int_equal(version(c, "9P2000.L"), 0);
	assert_int_equal(attach(c, ROOT), 0);
	assert_int_equal(walk(c, ROOT, 1, "etc/passwd"), 0);
	assert_int_equal(walk(c, ROOT, 2, "proc"), -EACCES);
	share_close(c->share);
	free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_session),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_listing),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_nothing_outside),
		cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_bad_folders),
		cmocka_unit_test(test_proc_is_not_entered),
		cmocka_unit_test(test_descriptors_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
