/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the server. */
#ifndef VMM_SHARE_PARTS_H
#define VMM_SHARE_PARTS_H

#include <sys/stat.h>
#include <sys/types.h>

#include "share/share.h"
#include "share/wire.h"

#define FID_BUCKETS 1024u
#define MSIZE_MAX (UINT32_C(512) << 10) /* a driver's request has at most 128 pages */
#define MSIZE_MIN 4096u
#define REQUEST_MAX 16384u /* of a request without the data of a write: two names, or a name and a link's target */

/*
 * A file, directory or link below the folder, held by a descriptor that allows nothing but naming it (O_PATH). Its
 * parent is the one it was found in: ".." leads there and never past the folder's root, wherever others move it.
 */
struct node {
	struct share *share;
	unsigned refs;
	int fd;
	mode_t type; /* S_IFREG … */
	struct node *parent;
};

struct fid {
	struct fid *next;
	uint32_t id;
	struct node *node;
	uint32_t uid; /* the client's user */
	int open_fd;  /* -1 */
};

struct share {
	struct node *root;
	int proc_fd; /* /proc/self/fd: where a descriptor has a name */
	bool readonly;
	bool privileged; /* files get the client's user and group */
	dev_t dev;       /* the root's */
	struct fid *fid[FID_BUCKETS];
	unsigned fids;
	unsigned held, held_max; /* descriptors of nodes and fids; the rest of the process needs some, too */
	uint32_t msize;
	bool versioned; /* Tversion has been agreed on */
	uint8_t request[REQUEST_MAX];
	uint8_t reply[MSIZE_MAX];
};

/* A request under way. */
struct call {
	struct share *share;
	struct wire_in in;
	struct wire_out out;
	const struct iovec *from; /* a write's data, from byte `from_offset` on */
	unsigned from_count;
	size_t from_offset, from_bytes;
	const struct iovec *to; /* a read's data, likewise */
	unsigned to_count;
	size_t to_bytes;
	size_t direct; /* bytes put there past `out` */
};

/* Each: 0 or -errno. */
int share_do_attach(struct call *c);
int share_do_walk(struct call *c);
int share_do_clunk(struct call *c);
int share_do_remove(struct call *c);
int share_do_lopen(struct call *c);
int share_do_lcreate(struct call *c);
int share_do_read(struct call *c);
int share_do_write(struct call *c);
int share_do_fsync(struct call *c);
int share_do_lock(struct call *c);
int share_do_getlock(struct call *c);
int share_do_readdir(struct call *c);
int share_do_readlink(struct call *c);
int share_do_symlink(struct call *c);
int share_do_mknod(struct call *c);
int share_do_mkdir(struct call *c);
int share_do_link(struct call *c);
int share_do_renameat(struct call *c);
int share_do_unlinkat(struct call *c);
int share_do_getattr(struct call *c);
int share_do_setattr(struct call *c);
int share_do_statfs(struct call *c);

/* ---- nodes and fids (node.c) ---- */
struct node *share_node_get(struct node *n);
void share_node_put(struct node *n);
/* What is called `name` in a directory. 0 or -errno. */
int share_node_find(struct share *s, struct node *dir, const char *name, struct node **node);
/* The fid gets an open descriptor: takes fd (or -errno, which it returns). */
int share_fid_open(struct share *s, struct fid *f, int fd);
/* Opens a regular file or directory, -errno for anything else. */
int share_node_open(struct share *s, const struct node *n, int flags);
int share_node_stat(const struct node *n, struct stat *st);
/* The name of its descriptor below proc_fd. */
struct node_name {
	char text[16];
};
struct node_name share_node_name(const struct node *n);

struct fid *share_fid_find(struct share *s, uint32_t id);
/* Takes the reference to the node. 0 or -errno, and then the reference is dropped. */
int share_fid_add(struct share *s, uint32_t id, struct node *node, uint32_t uid);
void share_fid_remove(struct share *s, struct fid *f);
void share_fids_remove_all(struct share *s);

/* The next field of the request: a fid, one of a directory, a name that may be given to something new. */
struct fid *share_get_fid(struct call *c);                   /* NULL: there is none */
int share_get_directory(struct call *c, struct fid **fid);   /* 0 or -errno */
int share_get_name(struct call *c, char name[NAME_MAX + 1]); /* 0 or -errno */
void share_put_qid(struct call *c, const struct stat *st);
void share_put_qid_raw(struct wire_out *out, mode_t type, uint32_t version, uint64_t path);
/* Something new: give it to the client's user, see that its permissions are what the client said. */
void share_adopt(struct share *s, const struct node *n, struct stat *st, mode_t mode, uint32_t uid, uint32_t gid);
mode_t share_permissions(mode_t type, mode_t mode);

#endif
