/* SPDX-License-Identifier: Apache-2.0 */
/* Requests about open files, and about what files are like. */
#include <errno.h>
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/compiler.h"
#include "share/parts.h"

/* Flags are Linux's (9p.h: P9_DOTL_…), and these the server's concern; the rest is the client's. */
#define OPEN_FLAGS ((uint32_t)(O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC))
#define SEGMENTS_MAX 1024u

_Static_assert(O_CREAT == 0100 && O_EXCL == 0200 && O_TRUNC == 01000 && O_APPEND == 02000, "the protocol's numbers");

static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

/* Bytes of a read or write that fit into one message; 0: the client decides. */
static void put_opened(struct call *c, const struct stat *st)
{
	share_put_qid(c, st);
	wire_put32(&c->out, 0);
}

int share_do_lopen(struct call *c)
{
	struct fid *f = share_get_fid(c);
	uint32_t flags = wire_get32(&c->in);
	struct stat st;
	int err;

	if (!f || c->in.bad)
		return -EBADF;
	if (f->open_fd >= 0)
		return -EBUSY;
	if (c->share->readonly && writes(flags))
		return -EROFS;
	err = share_node_stat(f->node, &st);
	if (!err)
		err = share_fid_open(c->share, f, share_node_open(c->share, f->node, (int)(flags & OPEN_FLAGS)));
	if (!err)
		put_opened(c, &st);
	return err;
}

/* Made by us, or (exclusive: no) there already. 0 or -errno. */
static int create_file(struct share *s, struct fid *dir, const char *name, uint32_t flags, mode_t mode, bool *is_new,
		       struct node **node)
{
	int fd = openat(dir->node->fd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode);
	int err = fd < 0 ? -errno : 0;

	*is_new = !err;
	if (err && (err != -EEXIST || (flags & O_EXCL)))
		return err;
	err = share_node_find(s, dir->node, name, node);
	if (fd >= 0)
		close(fd);
	return err;
}

int share_do_lcreate(struct call *c)
{
	struct share *s = c->share;
	char name[NAME_MAX + 1];
	struct node *n;
	struct fid *f;
	struct stat st;
	bool is_new;
	int err = share_get_directory(c, &f);

	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err;
	uint32_t flags = wire_get32(&c->in), mode = wire_get32(&c->in), gid = wire_get32(&c->in);
	if (c->in.bad)
		return -EPROTO;
	if (f->open_fd >= 0)
		return -EBUSY;
	/* The owner may write what others may not: it is opened before its permissions are settled. */
	err = create_file(s, f, name, flags, 0600, &is_new, &n);
	if (err)
		return err;
	err = share_node_stat(n, &st);
	if (!err)
		err = share_fid_open(s, f, share_node_open(s, n, (int)(flags & OPEN_FLAGS)));
	if (err) {
		share_node_put(n);
		return err;
	}
	if (is_new)
		share_adopt(s, n, &st, mode, f->uid, gid);
	share_node_put(f->node);
	f->node = n;
	put_opened(c, &st);
	return 0;
}

/* ---- data ---- */

/* The part [offset, offset + n) of a vector. */
static unsigned slice(struct iovec *to, const struct iovec *from, unsigned count, size_t offset, size_t n)
{
	unsigned made = 0;

	for (unsigned i = 0; i < count && n && made < SEGMENTS_MAX; i++) {
		size_t len = from[i].iov_len;

		if (offset >= len) {
			offset -= len;
			continue;
		}
		len = len - offset < n ? len - offset : n;
		to[made++] = (struct iovec){ (uint8_t *)from[i].iov_base + offset, len };
		n -= len;
		offset = 0;
	}
	return made;
}

int share_do_read(struct call *c)
{
	struct fid *f = share_get_fid(c);
	uint64_t offset = wire_get64(&c->in);
	uint32_t count = wire_get32(&c->in);
	size_t head = WIRE_HEADER + 4, room = c->to_bytes - head;
	struct iovec iov[SEGMENTS_MAX];
	ssize_t n;

	if (!f || f->open_fd < 0 || c->in.bad)
		return -EBADF;
	n = preadv(f->open_fd, iov, (int)slice(iov, c->to, c->to_count, head, count < room ? count : room),
		   (off_t)offset);
	if (n < 0)
		return -errno;
	wire_put32(&c->out, (uint32_t)n);
	c->direct = (size_t)n;
	return 0;
}

int share_do_write(struct call *c)
{
	struct fid *f = share_get_fid(c);
	uint64_t offset = wire_get64(&c->in);
	uint32_t count = wire_get32(&c->in);
	size_t head = WIRE_HEADER + 4 + 8 + 4;
	struct iovec iov[SEGMENTS_MAX];
	ssize_t n;

	if (!f || f->open_fd < 0)
		return -EBADF;
	if (c->in.bad || count > c->from_bytes - head)
		return -EPROTO;
	n = pwritev(f->open_fd, iov, (int)slice(iov, c->from, c->from_count, head, count), (off_t)offset);
	if (n < 0)
		return -errno;
	wire_put32(&c->out, (uint32_t)n);
	return 0;
}

int share_do_fsync(struct call *c)
{
	struct fid *f = share_get_fid(c);
	uint32_t data_only = wire_get32(&c->in);

	if (!f || f->open_fd < 0)
		return -EBADF;
	return (data_only ? fdatasync(f->open_fd) : fsync(f->open_fd)) < 0 ? -errno : 0;
}

/* Locks hold among the guest's processes, whose kernel has settled it before it asks. */
int share_do_lock(struct call *c)
{
	const uint8_t success = 0;

	if (!share_get_fid(c))
		return -EBADF;
	wire_put8(&c->out, success);
	return 0;
}

int share_do_getlock(struct call *c)
{
	const uint8_t unlocked = 2; /* P9_LOCK_TYPE_UNLCK */
	char client[256];

	if (!share_get_fid(c))
		return -EBADF;
	wire_get8(&c->in);
	uint64_t start = wire_get64(&c->in), length = wire_get64(&c->in);
	uint32_t process = wire_get32(&c->in);
	if (!wire_get_string(&c->in, client, sizeof(client)))
		return -EINVAL;
	wire_put8(&c->out, unlocked);
	wire_put64(&c->out, start);
	wire_put64(&c->out, length);
	wire_put32(&c->out, process);
	wire_put_string(&c->out, client);
	return 0;
}

/* ---- attributes ---- */

#define GETATTR_BASIC UINT64_C(0x7ff) /* all that stat() tells */

static void put_time(struct call *c, const struct timespec *t)
{
	wire_put64(&c->out, (uint64_t)t->tv_sec);
	wire_put64(&c->out, (uint64_t)t->tv_nsec);
}

int share_do_getattr(struct call *c)
{
	const struct timespec none = { 0, 0 };
	struct fid *f = share_get_fid(c);
	struct stat st;
	int err;

	if (!f)
		return -EBADF;
	err = share_node_stat(f->node, &st);
	if (err)
		return err;
	wire_put64(&c->out, GETATTR_BASIC);
	share_put_qid(c, &st);
	wire_put32(&c->out, st.st_mode);
	wire_put32(&c->out, st.st_uid);
	wire_put32(&c->out, st.st_gid);
	wire_put64(&c->out, st.st_nlink);
	wire_put64(&c->out, st.st_rdev);
	wire_put64(&c->out, (uint64_t)st.st_size);
	wire_put64(&c->out, (uint64_t)st.st_blksize);
	wire_put64(&c->out, (uint64_t)st.st_blocks);
	put_time(c, &st.st_atim);
	put_time(c, &st.st_mtim);
	put_time(c, &st.st_ctim);
	put_time(c, &none); /* of birth */
	wire_put64(&c->out, 0);
	wire_put64(&c->out, 0);
	return 0;
}

enum {
	SET_MODE = 0x1,
	SET_UID = 0x2,
	SET_GID = 0x4,
	SET_SIZE = 0x8,
	SET_ATIME = 0x10,
	SET_MTIME = 0x20,
	SET_ATIME_TO = 0x80,
	SET_MTIME_TO = 0x100,
};

static struct timespec time_to_set(uint32_t valid, uint32_t set, uint32_t set_to, uint64_t sec, uint64_t nsec)
{
	if (!(valid & set))
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	if (!(valid & set_to))
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	/* UTIME_NOW and UTIME_OMIT are not the client's to say. */
	return (struct timespec){ (time_t)sec, nsec < 1000000000 ? (long)nsec : 0 };
}

static int set_size(struct share *s, const struct fid *f, uint64_t size)
{
	int fd, err;

	if (f->node->type != S_IFREG)
		return -EINVAL;
	/* Who has it open for writing may shorten it even if it could not be opened again. */
	if (f->open_fd >= 0 && ftruncate(f->open_fd, (off_t)size) == 0)
		return 0;
	fd = share_node_open(s, f->node, O_WRONLY);
	if (fd < 0)
		return fd;
	err = ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static int set_owner(const struct node *n, uint32_t uid, uint32_t gid)
{
	if (fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH) == 0)
		return 0;
	/* Files stay the user's who runs the machine, where only the privileged give files away. */
	return errno == EPERM || errno == EINVAL ? 0 : -errno;
}

int share_do_setattr(struct call *c)
{
	struct share *s = c->share;
	struct fid *f = share_get_fid(c);
	uint32_t valid = wire_get32(&c->in), mode = wire_get32(&c->in);
	uint32_t uid = wire_get32(&c->in), gid = wire_get32(&c->in);
	uint64_t size = wire_get64(&c->in);
	uint64_t t[4];
	struct node_name name;
	int err = 0;

	for (unsigned i = 0; i < 4; i++)
		t[i] = wire_get64(&c->in);
	if (!f || c->in.bad)
		return -EBADF;
	name = share_node_name(f->node);
	if (valid & SET_SIZE)
		err = set_size(s, f, size);
	if (!err && (valid & (SET_UID | SET_GID)))
		err = set_owner(f->node, valid & SET_UID ? uid : (uid_t)-1, valid & SET_GID ? gid : (gid_t)-1);
	if (!err && (valid & SET_MODE)) {
		if (f->node->type == S_IFLNK)
			err = -EOPNOTSUPP;
		else if (fchmodat(s->proc_fd, name.text, share_permissions(f->node->type, mode), 0) < 0)
			err = -errno;
	}
	if (!err && (valid & (SET_ATIME | SET_MTIME))) {
		const struct timespec times[2] = { time_to_set(valid, SET_ATIME, SET_ATIME_TO, t[0], t[1]),
						   time_to_set(valid, SET_MTIME, SET_MTIME_TO, t[2], t[3]) };

		if (utimensat(f->node->fd, "", times, AT_EMPTY_PATH) < 0)
			err = -errno;
	}
	return err;
}

#define V9FS_MAGIC 0x01021997u

int share_do_statfs(struct call *c)
{
	struct fid *f = share_get_fid(c);
	struct statfs fs;
	uint64_t id = 0;

	if (!f)
		return -EBADF;
	if (fstatfs(f->node->fd, &fs) < 0)
		return -errno;
	memcpy(&id, &fs.f_fsid, sizeof(fs.f_fsid) < sizeof(id) ? sizeof(fs.f_fsid) : sizeof(id));
	wire_put32(&c->out, V9FS_MAGIC);
	wire_put32(&c->out, (uint32_t)fs.f_bsize);
	wire_put64(&c->out, fs.f_blocks);
	wire_put64(&c->out, fs.f_bfree);
	wire_put64(&c->out, fs.f_bavail);
	wire_put64(&c->out, fs.f_files);
	wire_put64(&c->out, fs.f_ffree);
	wire_put64(&c->out, id);
	wire_put32(&c->out, (uint32_t)fs.f_namelen);
	return 0;
}
