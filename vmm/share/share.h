/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host, shared with a guest: a server of 9P2000.L (the protocol's description is Linux's
 * Documentation/filesystems/9p.rst and the diod project's protocol.md; numbers from include/net/9p/9p.h).
 *
 * Whoever sends the requests reaches nothing outside the folder: names are single components, taken one after the other
 * and never followed as symbolic links, which are the client's to follow; only regular files and directories are ever
 * opened; and a /proc below the folder is not entered.
 *
 * Threads: the caller serialises.
 */
#ifndef VMM_SHARE_SHARE_H
#define VMM_SHARE_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define SHARE_FIDS_MAX 65536u

struct share;

/* 0, or -errno and one line in `error`. */
int share_open(const char *path, bool readonly, struct share **share, char *error, size_t size);
void share_close(struct share *share);
/* As after share_open(): everything that the client has open is closed. */
void share_reset(struct share *share);

/*
 * One request of the client's, which may change while it is read, to one reply. Returns the reply's length; 0: what
 * came is no message, or there is no room for a reply.
 */
size_t share_serve(struct share *share, const struct iovec *request, unsigned request_count, const struct iovec *reply,
		   unsigned reply_count);

#endif
