/* SPDX-License-Identifier: Apache-2.0 */
/* Requests about the tree: finding, listing, making and removing what is in directories. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "share/parts.h"

#define WALK_MAX 16u
#define ENTRIES_BYTES 16384u
#define ENTRY_HEAD (13u + 8u + 1u + 2u)

/* As many names as can be found one below the other; a new fid only if all could. */
int share_do_walk(struct call *c)
{
	struct share *s = c->share;
	struct fid *f = share_get_fid(c);
	uint32_t new_id = wire_get32(&c->in);
	uint16_t count = wire_get16(&c->in), found = 0;
	uint8_t *found_at = c->out.p;
	struct node *n;
	uint32_t uid;
	int err = 0;

	if (!f)
		return -EBADF;
	if (count > WALK_MAX || c->in.bad)
		return -EPROTO;
	if (f->open_fd >= 0 && new_id == f->id)
		return -EBUSY;
	wire_put16(&c->out, 0);
	n = share_node_get(f->node);
	uid = f->uid;
	for (; found < count; found++) {
		char name[NAME_MAX + 1];
		struct node *next;
		struct stat st;

		err = share_get_name(c, name);
		if (err && err != -EEXIST) /* "." and ".." */
			break;
		err = share_node_find(s, n, name, &next);
		if (err)
			break;
		share_node_put(n);
		n = next;
		err = share_node_stat(n, &st);
		if (err)
			break;
		share_put_qid(c, &st);
	}
	if (err) {
		share_node_put(n);
		if (!found)
			return err;
	} else {
		if (new_id == f->id)
			share_fid_remove(s, f);
		err = share_fid_add(s, new_id, n, uid);
		if (err)
			return err;
	}
	found = htole16(found);
	memcpy(found_at, &found, sizeof(found));
	return 0;
}

int share_do_clunk(struct call *c)
{
	struct fid *f = share_get_fid(c);

	if (!f)
		return -EBADF;
	share_fid_remove(c->share, f);
	return 0;
}

/* Clients that know Tunlinkat do without; the fid is gone nevertheless. */
int share_do_remove(struct call *c)
{
	int err = share_do_clunk(c);

	return err ? err : -EOPNOTSUPP;
}

/* ---- listing ---- */

static void put_entry(struct call *c, const struct fid *f, const struct dirent64 *e)
{
	static const mode_t types[] = { [DT_DIR] = S_IFDIR, [DT_LNK] = S_IFLNK };
	mode_t type = e->d_type < sizeof(types) / sizeof(types[0]) ? types[e->d_type] : 0;
	uint64_t number = e->d_ino;
	struct stat st;

	/* What is above the folder is nobody's concern. */
	if (f->node == c->share->root && !strcmp(e->d_name, "..") && share_node_stat(f->node, &st) == 0)
		number = st.st_ino;
	share_put_qid_raw(&c->out, type, 0, number);
	wire_put64(&c->out, (uint64_t)e->d_off);
	wire_put8(&c->out, e->d_type);
	wire_put_string(&c->out, e->d_name);
}

int share_do_readdir(struct call *c)
{
	struct fid *f = share_get_fid(c);
	uint64_t offset = wire_get64(&c->in);
	uint32_t count = wire_get32(&c->in), bytes;
	uint8_t *count_at = c->out.p, *start;
	char entries[ENTRIES_BYTES] __attribute__((aligned(8)));
	ssize_t n;

	if (!f || f->node->type != S_IFDIR || f->open_fd < 0)
		return -EBADF;
	if (c->in.bad)
		return -EPROTO;
	wire_put32(&c->out, 0);
	start = c->out.p;
	if (count < (size_t)(c->out.end - start))
		c->out.end = start + count;
	if (c->out.full || lseek(f->open_fd, (off_t)offset, SEEK_SET) < 0)
		return -EINVAL;
	n = getdents64(f->open_fd, entries, sizeof(entries));
	if (n < 0)
		return -errno;
	for (ssize_t at = 0; at < n;) {
		const struct dirent64 *e = (const struct dirent64 *)(entries + at);

		if ((size_t)(c->out.end - c->out.p) < ENTRY_HEAD + strlen(e->d_name))
			break;
		put_entry(c, f, e);
		at += e->d_reclen;
	}
	bytes = (uint32_t)(c->out.p - start);
	if (n && !bytes)
		return -EINVAL; /* no room for even one */
	bytes = htole32(bytes);
	memcpy(count_at, &bytes, sizeof(bytes));
	return 0;
}

int share_do_readlink(struct call *c)
{
	struct fid *f = share_get_fid(c);
	char target[PATH_MAX];
	ssize_t n;

	if (!f)
		return -EBADF;
	if (f->node->type != S_IFLNK)
		return -EINVAL;
	n = readlinkat(f->node->fd, "", target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	wire_put_string(&c->out, target);
	return 0;
}

/* ---- making ---- */

/* What has just been made: its qid into the reply. It may be gone again or be another's, which the client will see. */
static int made(struct call *c, const struct fid *dir, const char *name, mode_t type, mode_t mode, uint32_t gid)
{
	struct node *n;
	struct stat st;
	int err = share_node_find(c->share, dir->node, name, &n);

	if (err)
		return err;
	err = share_node_stat(n, &st);
	if (!err) {
		if (n->type == type)
			share_adopt(c->share, n, &st, mode, dir->uid, gid);
		share_put_qid(c, &st);
	}
	share_node_put(n);
	return err;
}

int share_do_symlink(struct call *c)
{
	char name[NAME_MAX + 1], target[PATH_MAX];
	struct fid *dir;
	bool fits;
	int err = share_get_directory(c, &dir);

	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err;
	fits = wire_get_string(&c->in, target, sizeof(target));
	uint32_t gid = wire_get32(&c->in);
	if (c->in.bad || !fits)
		return c->in.bad ? -EPROTO : -ENAMETOOLONG;
	if (symlinkat(target, dir->node->fd, name) < 0)
		return -errno;
	return made(c, dir, name, S_IFLNK, 0777, gid);
}

int share_do_mknod(struct call *c)
{
	char name[NAME_MAX + 1];
	struct fid *dir;
	int err = share_get_directory(c, &dir);

	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err;
	uint32_t mode = wire_get32(&c->in);
	wire_get32(&c->in); /* major and minor */
	wire_get32(&c->in);
	uint32_t gid = wire_get32(&c->in);
	if (c->in.bad)
		return -EPROTO;
	/* A device would be one of the host's. */
	if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
		return -EPERM;
	if (mknodat(dir->node->fd, name, (mode & S_IFMT) | share_permissions(mode & S_IFMT, mode), 0) < 0)
		return -errno;
	return made(c, dir, name, mode & S_IFMT, mode, gid);
}

int share_do_mkdir(struct call *c)
{
	char name[NAME_MAX + 1];
	struct fid *dir;
	int err = share_get_directory(c, &dir);

	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err;
	uint32_t mode = wire_get32(&c->in), gid = wire_get32(&c->in);
	if (c->in.bad)
		return -EPROTO;
	if (mkdirat(dir->node->fd, name, share_permissions(S_IFDIR, mode)) < 0)
		return -errno;
	return made(c, dir, name, S_IFDIR, mode, gid);
}

int share_do_link(struct call *c)
{
	char name[NAME_MAX + 1];
	struct fid *dir, *f = NULL;
	struct node_name from;
	int err = share_get_directory(c, &dir);

	if (!err && !(f = share_get_fid(c)))
		err = -EBADF;
	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err;
	/* By the descriptor's name, which stands for the file itself: AT_EMPTY_PATH is for the privileged. A symbolic
	 * link's leads to the link. */
	from = share_node_name(f->node);
	return linkat(c->share->proc_fd, from.text, dir->node->fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* ---- moving, removing ---- */

int share_do_renameat(struct call *c)
{
	char from[NAME_MAX + 1], to[NAME_MAX + 1];
	struct fid *from_dir, *to_dir;
	int err = share_get_directory(c, &from_dir);

	if (!err)
		err = share_get_name(c, from);
	if (!err)
		err = share_get_directory(c, &to_dir);
	if (!err)
		err = share_get_name(c, to);
	if (err)
		return err;
	return renameat(from_dir->node->fd, from, to_dir->node->fd, to) < 0 ? -errno : 0;
}

int share_do_unlinkat(struct call *c)
{
	char name[NAME_MAX + 1];
	struct fid *dir;
	int err = share_get_directory(c, &dir);

	if (!err)
		err = share_get_name(c, name);
	if (err)
		return err == -EEXIST ? -EINVAL : err; /* "." and ".." */
	uint32_t flags = wire_get32(&c->in);
	if (c->in.bad || (flags & ~(uint32_t)AT_REMOVEDIR))
		return -EINVAL;
	return unlinkat(dir->node->fd, name, (int)flags) < 0 ? -errno : 0;
}
