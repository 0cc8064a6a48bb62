/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "share/parts.h"

/* ---- nodes ---- */

struct node *share_node_get(struct node *n)
{
	n->refs++;
	return n;
}

void share_node_put(struct node *n)
{
	while (n && !--n->refs) {
		struct node *parent = n->parent;

		close(n->fd);
		n->share->held--;
		free(n);
		n = parent;
	}
}

/* A process's files in /proc are that process: its memory, its descriptors. */
static bool is_proc(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

static int find_below(struct share *s, struct node *dir, const char *name, struct node **node)
{
	struct stat st;
	struct node *n;
	int fd, err;

	if (s->held >= s->held_max)
		return -EMFILE;
	fd = openat(dir->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = fstat(fd, &st) < 0 ? -errno : 0;
	if (!err && st.st_dev != s->dev && is_proc(fd))
		err = -EACCES;
	n = err ? NULL : malloc(sizeof(*n));
	if (!n) {
		close(fd);
		return err ? err : -ENOMEM;
	}
	s->held++;
	*n = (struct node){
		.share = s, .refs = 1, .fd = fd, .type = st.st_mode & S_IFMT, .parent = share_node_get(dir)
	};
	*node = n;
	return 0;
}

int share_node_find(struct share *s, struct node *dir, const char *name, struct node **node)
{
	if (dir->type != S_IFDIR)
		return -ENOTDIR;
	if (!strcmp(name, "..")) {
		*node = share_node_get(dir->parent ? dir->parent : dir);
		return 0;
	}
	if (!strcmp(name, ".")) {
		*node = share_node_get(dir);
		return 0;
	}
	if (!*name || strchr(name, '/'))
		return -EINVAL;
	return find_below(s, dir, name, node);
}

struct node_name share_node_name(const struct node *n)
{
	struct node_name name;

	snprintf(name.text, sizeof(name.text), "%d", n->fd);
	return name;
}

int share_node_open(struct share *s, const struct node *n, int flags)
{
	struct node_name name = share_node_name(n);
	int fd;

	/* Devices, FIFOs and sockets are the client's own affair; the host's would be opened here. */
	if (n->type == S_IFLNK)
		return -ELOOP;
	if (n->type != S_IFREG && n->type != S_IFDIR)
		return -ENXIO;
	if (n->type == S_IFDIR)
		flags |= O_DIRECTORY;
	fd = openat(s->proc_fd, name.text, flags | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

int share_node_stat(const struct node *n, struct stat *st)
{
	return fstat(n->fd, st) < 0 ? -errno : 0;
}

/* Set-user-ID programs of a guest are none of the host's: somebody may run them there. */
mode_t share_permissions(mode_t type, mode_t mode)
{
	return mode & (type == S_IFDIR ? 03777 : 01777);
}

void share_adopt(struct share *s, const struct node *n, struct stat *st, mode_t mode, uint32_t uid, uint32_t gid)
{
	struct node_name name = share_node_name(n);

	/* Who may not give files away keeps them: as with QEMU's security_model=none. */
	if (s->privileged && (uid != st->st_uid || gid != st->st_gid))
		(void)!fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH);
	if (n->type != S_IFLNK && (st->st_mode & 07777) != share_permissions(n->type, mode))
		(void)!fchmodat(s->proc_fd, name.text, share_permissions(n->type, mode), 0);
	fstat(n->fd, st);
}

/* ---- fids ---- */

static struct fid **bucket(struct share *s, uint32_t id)
{
	return &s->fid[id % FID_BUCKETS];
}

struct fid *share_fid_find(struct share *s, uint32_t id)
{
	struct fid *f = *bucket(s, id);

	while (f && f->id != id)
		f = f->next;
	return f;
}

int share_fid_add(struct share *s, uint32_t id, struct node *node, uint32_t uid)
{
	struct fid *f = NULL;
	int err = 0;

	if (share_fid_find(s, id))
		err = -EINVAL; /* it is in use */
	else if (s->fids == SHARE_FIDS_MAX)
		err = -ENFILE;
	else if (!(f = malloc(sizeof(*f))))
		err = -ENOMEM;
	if (err) {
		share_node_put(node);
		return err;
	}
	*f = (struct fid){ .next = *bucket(s, id), .id = id, .node = node, .uid = uid, .open_fd = -1 };
	*bucket(s, id) = f;
	s->fids++;
	return 0;
}

void share_fid_remove(struct share *s, struct fid *f)
{
	struct fid **at = bucket(s, f->id);

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	s->fids--;
	if (f->open_fd >= 0) {
		close(f->open_fd);
		s->held--;
	}
	share_node_put(f->node);
	free(f);
}

int share_fid_open(struct share *s, struct fid *f, int fd)
{
	if (fd < 0)
		return fd;
	if (s->held >= s->held_max) {
		close(fd);
		return -EMFILE;
	}
	s->held++;
	f->open_fd = fd;
	return 0;
}

void share_fids_remove_all(struct share *s)
{
	for (unsigned i = 0; i < FID_BUCKETS; i++)
		while (s->fid[i])
			share_fid_remove(s, s->fid[i]);
}

/* ---- fields of requests ---- */

struct fid *share_get_fid(struct call *c)
{
	return share_fid_find(c->share, wire_get32(&c->in));
}

int share_get_directory(struct call *c, struct fid **fid)
{
	*fid = share_get_fid(c);
	if (!*fid)
		return -EBADF;
	return (*fid)->node->type == S_IFDIR ? 0 : -ENOTDIR;
}

int share_get_name(struct call *c, char name[NAME_MAX + 1])
{
	if (!wire_get_string(&c->in, name, NAME_MAX + 1))
		return c->in.bad ? -EPROTO : -ENAMETOOLONG;
	if (!*name || strchr(name, '/'))
		return -EINVAL;
	return !strcmp(name, ".") || !strcmp(name, "..") ? -EEXIST : 0;
}

#define QID_DIRECTORY 0x80
#define QID_LINK 0x02

void share_put_qid_raw(struct wire_out *out, mode_t type, uint32_t version, uint64_t path)
{
	wire_put8(out, type == S_IFDIR ? QID_DIRECTORY : type == S_IFLNK ? QID_LINK : 0);
	wire_put32(out, version);
	wire_put64(out, path);
}

/* Another file system below the folder has the same inode numbers: most likely not after this. */
static uint64_t file_number(const struct share *s, const struct stat *st)
{
	return st->st_dev == s->dev ? st->st_ino : st->st_ino ^ (st->st_dev * UINT64_C(0x9e3779b97f4a7c15));
}

void share_put_qid(struct call *c, const struct stat *st)
{
	uint32_t version = (uint32_t)st->st_mtim.tv_nsec ^ (uint32_t)st->st_mtim.tv_sec ^ (uint32_t)st->st_size << 8;

	share_put_qid_raw(&c->out, st->st_mode & S_IFMT, version, file_number(c->share, st));
}
