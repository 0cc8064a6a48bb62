/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared folder in the hands of a hostile client: 9P messages, well made, damaged or nonsense, in buffers cut
 * anywhere. Whatever it asks for, it holds nothing but what is in the folder, and what is beside the folder stays as it
 * was.
 *
 * Input: a sequence of messages.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "input.h"
#include "share/parts.h"

#define SECRET "nobody's business"
#define FIDS 8
#define MESSAGE_MAX 2048u
#define SEGMENTS 4u

static char base[64], folder[80], outside[80];
static struct share *share;

/* ---- the folder, and what is beside it ---- */

static int make_accessible(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)where;
	if (type == FTW_D || type == FTW_DNR)
		chmod(path, 0700);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type;
	if (where->level)
		CHECK(remove(path) == 0);
	return 0;
}

static void empty(const char *path)
{
	nftw(path, make_accessible, 16, FTW_PHYS);
	nftw(path, remove_one, 16, FTW_PHYS | FTW_DEPTH);
}

static void put_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void fill_folder(void)
{
	chmod(folder, 0755);
	empty(folder);
	CHECK(chdir(folder) == 0);
	CHECK(mkdir("dir", 0755) == 0 && mkdir("dir/sub", 0755) == 0);
	put_file("file", "some text");
	put_file("dir/file", "more");
	CHECK(symlink("../outside", "up") == 0 && symlink("file", "link") == 0 && symlink("/", "root") == 0);
	CHECK(mkfifo("fifo", 0644) == 0);
}

static void check_outside(void)
{
	char text[sizeof(SECRET) + 8] = "", path[128];
	struct stat st;
	DIR *dir = opendir(outside);
	unsigned entries = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/secret", outside);
	f = fopen(path, "r");
	CHECK(f && fgets(text, sizeof(text), f) && !strcmp(text, SECRET) && fclose(f) == 0);
	CHECK(stat(path, &st) == 0 && st.st_nlink == 1 && (st.st_mode & 0777) == 0600);
	while (dir && readdir(dir))
		entries++;
	CHECK(entries == 3 && closedir(dir) == 0);
	CHECK(stat(outside, &st) == 0 && (st.st_mode & 0777) == 0711);
}

static void remove_all(void)
{
	empty(base);
	rmdir(base);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char error[256] = "", path[128];

	(void)argc, (void)argv;
	snprintf(base, sizeof(base), "%s/fuzz-share-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	CHECK(mkdtemp(base));
	atexit(remove_all);
	snprintf(folder, sizeof(folder), "%s/folder", base);
	snprintf(outside, sizeof(outside), "%s/outside", base);
	snprintf(path, sizeof(path), "%s/secret", outside);
	CHECK(mkdir(folder, 0755) == 0 && mkdir(outside, 0711) == 0);
	put_file(path, SECRET);
	CHECK(chmod(path, 0600) == 0);
	CHECK(share_open(folder, false, &share, error, sizeof(error)) == 0);
	return 0;
}

/* ---- messages ---- */

/* The fields: f a fid, b w d q numbers by their width, n a name, a the flags of an open, * the names of a walk, x data.
 */
static const struct {
	uint8_t type;
	const char *fields;
} messages[] = {
	{ P9_TVERSION, "dn" },         { P9_TATTACH, "ffnnd" },   { P9_TWALK, "ff*" },     { P9_TLOPEN, "fa" },
	{ P9_TLCREATE, "fnadd" },      { P9_TREAD, "fqd" },       { P9_TWRITE, "fqx" },    { P9_TREADDIR, "fqd" },
	{ P9_TREADLINK, "f" },         { P9_TSYMLINK, "fnnd" },   { P9_TMKNOD, "fndddd" }, { P9_TMKDIR, "fndd" },
	{ P9_TLINK, "ffn" },           { P9_TRENAMEAT, "fnfn" },  { P9_TUNLINKAT, "fnd" }, { P9_TGETATTR, "fq" },
	{ P9_TSETATTR, "fddddqqqqq" }, { P9_TSTATFS, "f" },       { P9_TCLUNK, "f" },      { P9_TFSYNC, "fd" },
	{ P9_TLOCK, "fbdqqdn" },       { P9_TGETLOCK, "fbqqdn" }, { P9_TREMOVE, "f" },     { P9_TFLUSH, "w" },
};

static void put_name(struct input *in, struct wire_out *out)
{
	static const char *const names[] = { "file", "dir",         "sub",    "link",       "up",      "root",
					     "fifo", "new",         "other",  "..",         ".",       "",
					     "a/b",  "/etc/passwd", "secret", "../outside", "9P2000.L" };
	uint8_t which = input_u8(in);
	char text[300];

	if (which < 0xf0) {
		wire_put_string(out, names[which % ARRAY_SIZE(names)]);
		return;
	}
	memset(text, 'x', sizeof(text));
	text[which == 0xf0 ? 255 : which == 0xf1 ? 256 : input_u8(in)] = '\0';
	wire_put_string(out, text);
}

static void put_flags(struct input *in, struct wire_out *out)
{
	uint8_t bits = input_u8(in);

	wire_put32(out, (bits & 3u) | (bits & 4 ? O_TRUNC : 0) | (bits & 8 ? O_APPEND : 0) | (bits & 16 ? O_EXCL : 0) |
				(bits & 32 ? O_CREAT : 0) | (bits & 64 ? O_DIRECTORY : 0) | (bits & 128 ? O_PATH : 0));
}

static void put_field(struct input *in, struct wire_out *out, char field)
{
	unsigned n;

	switch (field) {
	case 'f': wire_put32(out, input_u8(in) % FIDS); break;
	case 'b': wire_put8(out, input_u8(in)); break;
	case 'w': wire_put16(out, (uint16_t)input_value(in)); break;
	case 'd': wire_put32(out, (uint32_t)input_value(in)); break;
	case 'q': wire_put64(out, input_value(in) & (input_rarely(in, 8) ? UINT64_MAX : 0xffff)); break;
	case 'n': put_name(in, out); break;
	case 'a': put_flags(in, out); break;
	case '*':
		n = input_u8(in) % 4;
		wire_put16(out, (uint16_t)n);
		while (n--)
			put_name(in, out);
		break;
	case 'x':
		n = input_u8(in);
		wire_put32(out, input_rarely(in, 8) ? n + 1 : n);
		for (unsigned i = 0; i < n; i++)
			wire_put8(out, (uint8_t)i);
		break;
	}
}

static size_t make_message(struct input *in, uint8_t *message, uint8_t *type)
{
	struct wire_out out = { message, message + MESSAGE_MAX, false }, head = out;
	unsigned which = input_u8(in) % ARRAY_SIZE(messages);
	size_t size;

	*type = messages[which].type;
	wire_put32(&out, 0);
	wire_put8(&out, *type);
	wire_put16(&out, 0x1234);
	for (const char *field = messages[which].fields; *field; field++)
		put_field(in, &out, *field);
	size = (size_t)(out.p - message);
	wire_put32(&head, (uint32_t)size);
	if (input_rarely(in, 16)) {
		input_mutate(in, message, size);
		*type = message[4];
	}
	return size;
}

/* A buffer in pieces, each of exactly its size. */
static unsigned cut(struct input *in, struct iovec *iov, const uint8_t *from, size_t size)
{
	unsigned n = 0;

	while (size && n < SEGMENTS) {
		size_t part = n + 1 == SEGMENTS || !input_rarely(in, 4) ? size : 1 + input_u8(in) % size;

		iov[n] = (struct iovec){ malloc(part), part };
		if (from) {
			memcpy(iov[n].iov_base, from, part);
			from += part;
		}
		size -= part;
		n++;
	}
	return n;
}

static void drop(struct iovec *iov, unsigned n)
{
	while (n)
		free(iov[--n].iov_base);
}

/* ---- what must hold ---- */

static void check_path(int fd)
{
	char name[32], path[PATH_MAX];
	ssize_t n;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	n = readlink(name, path, sizeof(path) - 1);
	CHECK(n > 0);
	path[n] = '\0';
	CHECK(!strncmp(path, folder, strlen(folder)) && (!path[strlen(folder)] || path[strlen(folder)] == '/'));
}

static void check_held(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < FID_BUCKETS; i++)
		for (const struct fid *f = share->fid[i]; f; f = f->next) {
			struct stat st;

			count++;
			for (const struct node *n = f->node; n; n = n->parent)
				check_path(n->fd);
			if (f->open_fd < 0)
				continue;
			check_path(f->open_fd);
			CHECK(fstat(f->open_fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)));
			CHECK(st.st_size < 1 << 20 || ftruncate(f->open_fd, 0) == 0 || errno == EINVAL ||
			      errno == EBADF);
		}
	CHECK(count == share->fids);
}

static void check_reply(const struct iovec *iov, unsigned count, size_t n, size_t room, uint8_t type)
{
	uint8_t head[WIRE_HEADER];
	struct wire_in in = { head, head + sizeof(head), false };
	size_t got = 0;

	CHECK(n >= WIRE_HEADER && n <= room);
	for (unsigned i = 0; i < count && got < sizeof(head); i++)
		for (size_t k = 0; k < iov[i].iov_len && got < sizeof(head); k++)
			head[got++] = ((const uint8_t *)iov[i].iov_base)[k];
	CHECK(wire_get32(&in) == n);
	got = wire_get8(&in);
	CHECK(got == P9_RLERROR || got == (size_t)type + 1);
}

static void one_message(struct input *in)
{
	uint8_t message[MESSAGE_MAX], type;
	struct iovec request[SEGMENTS], reply[SEGMENTS];
	size_t size = make_message(in, message, &type), room = input_rarely(in, 4) ? input_u8(in) : 4096, n;
	unsigned requests = cut(in, request, message, input_rarely(in, 32) ? input_below(in, size) : size);
	unsigned replies = cut(in, reply, NULL, room);

	n = share_serve(share, request, requests, reply, replies);
	if (n)
		check_reply(reply, replies, n, room, type);
	drop(request, requests);
	drop(reply, replies);
	check_held();
}

/* Most clients begin like this. */
static void begin(void)
{
	uint8_t message[64], back[64];
	struct wire_out out = { message, message + sizeof(message), false };
	const struct iovec reply = { back, sizeof(back) };
	struct iovec request = { message, 0 };

	wire_put32(&out, 21);
	wire_put8(&out, P9_TVERSION);
	wire_put16(&out, 0xffff);
	wire_put32(&out, 8192);
	wire_put_string(&out, "9P2000.L");
	request.iov_len = 21;
	CHECK(share_serve(share, &request, 1, &reply, 1) == 21);
	out.p = message;
	wire_put32(&out, 23);
	wire_put8(&out, P9_TATTACH);
	wire_put16(&out, 1);
	wire_put32(&out, 0);
	wire_put32(&out, UINT32_MAX);
	wire_put_string(&out, "");
	wire_put_string(&out, "");
	wire_put32(&out, 0);
	request.iov_len = 23;
	CHECK(share_serve(share, &request, 1, &reply, 1) == 20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	fill_folder();
	if (!input_rarely(&in, 8))
		begin();
	while (input_left(&in))
		one_message(&in);
	share_reset(share);
	CHECK(!share->fids && !share->held && share->root->refs == 1);
	check_outside();
	return 0;
}
