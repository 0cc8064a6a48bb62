/* SPDX-License-Identifier: Apache-2.0 */
#include "share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "share/parts.h"

#define VERSION "9P2000.L"
#define WRITE_HEAD (WIRE_HEADER + 4 + 8 + 4)

/* ---- life ---- */

/* Every file that the guest holds is a descriptor or two. How many there may be: half of what the process may have. */
static unsigned raise_descriptor_limit(void)
{
	struct rlimit limit = { .rlim_cur = 1024 };

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		rlim_t before = limit.rlim_cur;

		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			limit.rlim_cur = before;
	}
	return limit.rlim_cur / 2 < 2 * SHARE_FIDS_MAX ? (unsigned)(limit.rlim_cur / 2) : 2 * SHARE_FIDS_MAX;
}

static int open_root(struct share *s, const char *path, char *error, size_t size)
{
	struct stat st;
	struct statfs fs;
	int err = 0;

	s->root->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->root->fd < 0 || fstat(s->root->fd, &st) < 0 || fstatfs(s->root->fd, &fs) < 0) {
		err = -errno;
		snprintf(error, size, "%s: %s", path, strerror(-err));
	} else if (fs.f_type == PROC_SUPER_MAGIC) {
		err = -EACCES;
		snprintf(error, size, "%s: /proc is not shared, it leads into this host's processes", path);
	} else if (faccessat(s->root->fd, ".", R_OK | X_OK, AT_EACCESS) < 0) {
		err = -errno;
		snprintf(error, size, "%s: cannot be read: %s", path, strerror(-err));
	}
	if (!err) {
		s->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (s->proc_fd < 0) {
			err = -errno;
			snprintf(error, size, "%s: needs /proc: %s", path, strerror(-err));
		}
	}
	if (!err)
		s->dev = st.st_dev;
	return err;
}

int share_open(const char *path, bool readonly, struct share **share, char *error, size_t size)
{
	struct share *s = calloc(1, sizeof(*s));
	struct node *root = calloc(1, sizeof(*root));
	int err;

	if (!s || !root) {
		free(s);
		free(root);
		snprintf(error, size, "%s: %s", path, strerror(ENOMEM));
		return -ENOMEM;
	}
	*root = (struct node){ .share = s, .refs = 1, .fd = -1, .type = S_IFDIR };
	s->root = root;
	s->proc_fd = -1;
	s->readonly = readonly;
	s->privileged = geteuid() == 0;
	s->msize = MSIZE_MAX;
	err = open_root(s, path, error, size);
	if (err) {
		share_close(s);
		return err;
	}
	s->held_max = raise_descriptor_limit();
	*share = s;
	return 0;
}

void share_reset(struct share *s)
{
	share_fids_remove_all(s);
	s->versioned = false;
	s->msize = MSIZE_MAX;
}

void share_close(struct share *s)
{
	if (!s)
		return;
	share_fids_remove_all(s);
	if (s->proc_fd >= 0)
		close(s->proc_fd);
	if (s->root->fd >= 0)
		close(s->root->fd);
	free(s->root);
	free(s);
}

/* ---- a session ---- */

static int do_version(struct call *c)
{
	struct share *s = c->share;
	uint32_t msize = wire_get32(&c->in);
	char version[32];
	bool known = wire_get_string(&c->in, version, sizeof(version)) && !strcmp(version, VERSION);

	if (c->in.bad || msize < MSIZE_MIN)
		return -EINVAL;
	share_reset(s); /* "all outstanding I/O is aborted, all fids are clunked" */
	s->msize = msize < MSIZE_MAX ? msize : MSIZE_MAX;
	s->versioned = known;
	wire_put32(&c->out, s->msize);
	wire_put_string(&c->out, known ? VERSION : "unknown");
	return 0;
}

int share_do_attach(struct call *c)
{
	struct share *s = c->share;
	uint32_t id = wire_get32(&c->in);
	char user[64], tree[PATH_MAX];
	uint32_t uid;
	struct stat st;
	int err;

	wire_get32(&c->in); /* the fid of an authentication, which is not asked for */
	wire_get_string(&c->in, user, sizeof(user));
	wire_get_string(&c->in, tree, sizeof(tree));
	uid = wire_get32(&c->in);
	if (c->in.bad)
		return -EPROTO;
	if (*tree && strcmp(tree, "/") != 0)
		return -ENOENT; /* one folder, one tree */
	err = share_node_stat(s->root, &st);
	if (!err)
		err = share_fid_add(s, id, share_node_get(s->root), uid);
	if (!err)
		share_put_qid(c, &st);
	return err;
}

/* Requests are served one after the other: what is to be flushed has been answered. */
static int do_flush(struct call *c)
{
	(void)c;
	return 0;
}

static const struct operation {
	uint8_t type;
	bool changes; /* something in the folder */
	int (*perform)(struct call *c);
} operations[] = {
	{ P9_TVERSION, false, do_version },
	{ P9_TATTACH, false, share_do_attach },
	{ P9_TFLUSH, false, do_flush },
	{ P9_TWALK, false, share_do_walk },
	{ P9_TCLUNK, false, share_do_clunk },
	{ P9_TREMOVE, false, share_do_remove },
	{ P9_TLOPEN, false, share_do_lopen },
	{ P9_TLCREATE, true, share_do_lcreate },
	{ P9_TREAD, false, share_do_read },
	{ P9_TWRITE, true, share_do_write },
	{ P9_TFSYNC, false, share_do_fsync },
	{ P9_TLOCK, false, share_do_lock },
	{ P9_TGETLOCK, false, share_do_getlock },
	{ P9_TREADDIR, false, share_do_readdir },
	{ P9_TREADLINK, false, share_do_readlink },
	{ P9_TSYMLINK, true, share_do_symlink },
	{ P9_TMKNOD, true, share_do_mknod },
	{ P9_TMKDIR, true, share_do_mkdir },
	{ P9_TLINK, true, share_do_link },
	{ P9_TRENAMEAT, true, share_do_renameat },
	{ P9_TUNLINKAT, true, share_do_unlinkat },
	{ P9_TGETATTR, false, share_do_getattr },
	{ P9_TSETATTR, true, share_do_setattr },
	{ P9_TSTATFS, false, share_do_statfs },
};

static int perform(struct call *c, uint8_t type)
{
	const struct share *s = c->share;

	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (operations[i].type != type)
			continue;
		if (type != P9_TVERSION && !s->versioned)
			return -EPROTO;
		if (operations[i].changes && s->readonly)
			return -EROFS;
		return operations[i].perform(c);
	}
	return -EOPNOTSUPP;
}

/* ---- messages ---- */

static size_t total(const struct iovec *iov, unsigned count)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

static size_t gather(const struct iovec *iov, unsigned count, uint8_t *to, size_t room)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < room; i++) {
		size_t n = iov[i].iov_len < room - done ? iov[i].iov_len : room - done;

		memcpy(to + done, iov[i].iov_base, n);
		done += n;
	}
	return done;
}

static void scatter(const struct iovec *iov, unsigned count, const uint8_t *from, size_t n)
{
	for (unsigned i = 0; i < count && n; i++) {
		size_t part = iov[i].iov_len < n ? iov[i].iov_len : n;

		memcpy(iov[i].iov_base, from, part);
		from += part;
		n -= part;
	}
}

/* The head of a reply in front of what is there already, and all of it to the client. */
static size_t finish(struct call *c, uint8_t type, uint16_t tag)
{
	size_t built = (size_t)(c->out.p - c->share->reply);
	struct wire_out head = { c->share->reply, c->share->reply + WIRE_HEADER, false };

	wire_put32(&head, (uint32_t)(built + c->direct));
	wire_put8(&head, type);
	wire_put16(&head, tag);
	scatter(c->to, c->to_count, c->share->reply, built);
	return built + c->direct;
}

static size_t fail(struct call *c, uint16_t tag, int err)
{
	c->out.p = c->share->reply + WIRE_HEADER;
	c->direct = 0;
	wire_put32(&c->out, (uint32_t)-err);
	return finish(c, P9_RLERROR, tag);
}

size_t share_serve(struct share *s, const struct iovec *request, unsigned request_count, const struct iovec *reply,
		   unsigned reply_count)
{
	size_t copied = gather(request, request_count, s->request, WRITE_HEAD);
	size_t room = total(reply, reply_count), sent = total(request, request_count);
	struct call c = { .share = s,
			  .in = { s->request, s->request + copied, false },
			  .from = request,
			  .from_count = request_count,
			  .to = reply,
			  .to_count = reply_count };
	uint32_t size = wire_get32(&c.in);
	uint8_t type = wire_get8(&c.in);
	uint16_t tag = wire_get16(&c.in);
	int err;

	if (c.in.bad || size < WIRE_HEADER || size > sent || room < WIRE_HEADER + 4)
		return 0;
	if (room > s->msize)
		room = s->msize;
	/* All but the data of a write is read once, and looked at here. */
	if (type != P9_TWRITE)
		copied = gather(request, request_count, s->request, sizeof(s->request));
	c.in.end = s->request + (size < copied ? size : copied);
	c.from_bytes = size;
	c.to_bytes = room;
	c.out = (struct wire_out){ s->reply + WIRE_HEADER, s->reply + room, false };
	if (size > copied && type != P9_TWRITE)
		return fail(&c, tag, -ENAMETOOLONG);
	err = perform(&c, type);
	if (!err && c.in.bad)
		err = -EPROTO;
	if (!err && c.out.full)
		err = -EMSGSIZE;
	return err ? fail(&c, tag, err) : finish(&c, (uint8_t)(type + 1), tag);
}
