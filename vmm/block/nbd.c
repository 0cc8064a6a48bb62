/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks served by somebody else through NBD (libnbd): one connection and one thread a disk; as many commands are under
 * way as the guest has requests.
 */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/internal.h"
#include "block/iov.h"
#include "machine/message.h"

/* Every server takes this much ("NBD block size constraints"). */
#define CHUNK_MAX (UINT64_C(32) << 20)
#define ZERO_CHUNK (UINT64_C(1) << 20)
#define RANGE_CHUNK (UINT64_C(1) << 30)

struct nbd_disk {
	struct block *disk;
	struct nbd_handle *handle;
	char *uri;
	bool can_flush, can_fua, can_trim, can_zero;
	uint64_t chunk;
	uint8_t *zeros; /* ZERO_CHUNK of them, where the server cannot write zeros */
	bool lost;      /* the connection; thread: our own */
	int event_fd;
	pthread_t thread;
	pthread_mutex_t lock; /* what follows */
	struct block_request *head, **tail;
	bool stop;
};

/* A request under way; our own thread's alone. */
struct nbd_io {
	struct nbd_disk *nbd;
	struct block_request *request;
	uint8_t *bounce; /* NULL: the guest's buffer is in one piece */
	unsigned pending;
	int result;
	bool flushing;
};

bool nbd_is_uri(const char *path)
{
	return !strncmp(path, "nbd://", 6) || !strncmp(path, "nbds://", 7) || !strncmp(path, "nbd+unix://", 11) ||
	       !strncmp(path, "nbds+unix://", 12);
}

/* --- commands --- */

static int io_ended(void *user, int *error);

static bool wants_fua(const struct nbd_disk *nbd, const struct block_request *r)
{
	if (nbd->disk->cache == BLOCK_CACHE_UNSAFE || (r->op != BLOCK_WRITE && r->op != BLOCK_WRITE_ZEROES))
		return false;
	return r->flags & BLOCK_REQ_FUA || nbd->disk->cache == BLOCK_CACHE_WRITETHROUGH;
}

/* One command of a request. */
static void issue(struct nbd_io *io, uint8_t *data, uint64_t offset, uint64_t length)
{
	struct nbd_disk *nbd = io->nbd;
	nbd_completion_callback done = { .callback = io_ended, .user_data = io };
	uint32_t flags = wants_fua(nbd, io->request) && nbd->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
	bool unmap = io->request->flags & BLOCK_REQ_UNMAP && nbd->disk->discard;
	int64_t cookie = -1;

	io->pending++;
	switch (io->request->op) {
	case BLOCK_READ: cookie = nbd_aio_pread(nbd->handle, data, length, offset, done, 0); break;
	case BLOCK_WRITE: cookie = nbd_aio_pwrite(nbd->handle, data, length, offset, done, flags); break;
	case BLOCK_DISCARD: cookie = nbd_aio_trim(nbd->handle, length, offset, done, 0); break;
	case BLOCK_WRITE_ZEROES:
		if (nbd->can_zero)
			cookie = nbd_aio_zero(nbd->handle, length, offset, done,
					      flags | (unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
		else
			cookie = nbd_aio_pwrite(nbd->handle, nbd->zeros, length, offset, done, flags);
		break;
	case BLOCK_FLUSH: cookie = nbd_aio_flush(nbd->handle, done, 0); break;
	}
	if (cookie < 0) {
		int err = nbd_get_errno();

		io->pending--;
		if (!io->result)
			io->result = err ? -err : -EIO;
	}
}

static void end_io(struct nbd_io *io)
{
	struct block_request *r = io->request;
	int result = io->result;

	if (!result && r->op == BLOCK_READ && io->bounce)
		iov_scatter(r->iov, r->iov_count, 0, io->bounce, r->length);
	/* The server's word about its own side; what the connection's end means is told once. */
	if (result == -ENOTCONN || result == -ESHUTDOWN || result == -EPIPE)
		result = -EIO;
	if (result == -EINVAL)
		result = -EIO;
	free(io->bounce);
	free(io);
	block_complete(r, result);
}

/* All commands of a request are back, or could not be sent. */
static void settle(struct nbd_io *io)
{
	struct nbd_disk *nbd = io->nbd;

	if (!io->result && !io->flushing && wants_fua(nbd, io->request) && !nbd->can_fua && nbd->can_flush) {
		nbd_completion_callback done = { .callback = io_ended, .user_data = io };

		io->flushing = true;
		io->pending++;
		if (nbd_aio_flush(nbd->handle, done, 0) >= 0)
			return;
		io->pending--;
		io->result = -EIO;
	}
	end_io(io);
}

static int io_ended(void *user, int *error)
{
	struct nbd_io *io = user;

	if (*error && !io->result)
		io->result = -*error;
	if (!--io->pending)
		settle(io);
	return 1; /* retire the command */
}

static void begin(struct nbd_disk *nbd, struct block_request *r)
{
	bool data = r->op == BLOCK_READ || r->op == BLOCK_WRITE;
	struct nbd_io *io = nbd->lost ? NULL : calloc(1, sizeof(*io));
	uint64_t chunk = nbd->chunk;
	uint8_t *buffer = NULL;

	if ((r->op == BLOCK_FLUSH && !nbd->can_flush) || (r->op == BLOCK_DISCARD && !nbd->can_trim)) {
		free(io);
		block_complete(r, 0);
		return;
	}
	if (!io) {
		block_complete(r, nbd->lost ? -EIO : -ENOMEM);
		return;
	}
	io->nbd = nbd;
	io->request = r;
	if (data && r->iov_count == 1) {
		buffer = r->iov[0].iov_base;
	} else if (data) {
		buffer = io->bounce = malloc(r->length);
		if (!buffer) {
			free(io);
			block_complete(r, -ENOMEM);
			return;
		}
		if (r->op == BLOCK_WRITE)
			iov_gather(buffer, r->iov, r->iov_count, 0, r->length);
	}
	if (r->op == BLOCK_DISCARD || (r->op == BLOCK_WRITE_ZEROES && nbd->can_zero))
		chunk = RANGE_CHUNK;
	else if (r->op == BLOCK_WRITE_ZEROES)
		chunk = ZERO_CHUNK;
	io->pending = 1; /* our own, until all is sent */
	if (r->op == BLOCK_FLUSH)
		issue(io, NULL, 0, 0);
	for (uint64_t done = 0; r->op != BLOCK_FLUSH && done < r->length && !io->result; done += chunk)
		issue(io, data ? buffer + done : NULL, r->offset + done,
		      r->length - done < chunk ? r->length - done : chunk);
	if (!--io->pending)
		settle(io);
}

/* --- the thread --- */

static void take_new(struct nbd_disk *nbd, bool *stop)
{
	struct block_request *list, *next;
	uint64_t count;

	pthread_mutex_lock(&nbd->lock);
	if (read(nbd->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		nbd->stop = true; /* cannot be */
	list = nbd->head;
	nbd->head = NULL;
	nbd->tail = &nbd->head;
	*stop = nbd->stop;
	pthread_mutex_unlock(&nbd->lock);
	for (; list; list = next) {
		next = list->next;
		begin(nbd, list);
	}
}

static void check_lost(struct nbd_disk *nbd)
{
	if (nbd->lost || !(nbd_aio_is_dead(nbd->handle) || nbd_aio_is_closed(nbd->handle)))
		return;
	nbd->lost = true;
	msg_error("%s: the connection to the server is lost; requests fail from now on", nbd->uri);
}

static void *nbd_main(void *arg)
{
	struct nbd_disk *nbd = arg;
	bool stop = false;

	while (!stop) {
		struct pollfd fds[2] = { { .fd = nbd->event_fd, .events = POLLIN }, { .fd = -1 } };
		unsigned direction = nbd->lost ? 0 : nbd_aio_get_direction(nbd->handle);

		if (!nbd->lost) {
			fds[1].fd = nbd_aio_get_fd(nbd->handle);
			if (direction & LIBNBD_AIO_DIRECTION_READ)
				fds[1].events |= POLLIN;
			if (direction & LIBNBD_AIO_DIRECTION_WRITE)
				fds[1].events |= POLLOUT;
		}
		if (poll(fds, 2, -1) < 0)
			continue;
		direction = nbd->lost ? 0 : nbd_aio_get_direction(nbd->handle);
		if (fds[1].revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
			nbd_aio_notify_read(nbd->handle);
		else if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
			nbd_aio_notify_write(nbd->handle);
		check_lost(nbd);
		take_new(nbd, &stop);
		check_lost(nbd);
	}
	return NULL;
}

static void wake(struct nbd_disk *nbd)
{
	uint64_t one = 1;
	ssize_t n = write(nbd->event_fd, &one, sizeof(one));

	(void)n; /* a full counter wakes as well */
}

/* --- the driver --- */

static void nbd_start(struct block *disk, struct block_request *request)
{
	struct nbd_disk *nbd = disk->nbd;

	pthread_mutex_lock(&nbd->lock);
	request->next = NULL;
	*nbd->tail = request;
	nbd->tail = &request->next;
	wake(nbd);
	pthread_mutex_unlock(&nbd->lock);
}

static void destroy(struct nbd_disk *nbd)
{
	if (nbd->handle)
		nbd_close(nbd->handle);
	if (nbd->event_fd >= 0)
		close(nbd->event_fd);
	pthread_mutex_destroy(&nbd->lock);
	free(nbd->zeros);
	free(nbd->uri);
	free(nbd);
}

static int nbd_disk_close(struct block *disk)
{
	struct nbd_disk *nbd = disk->nbd;
	int err = disk->info.readonly ? 0 : block_flush(disk);

	pthread_mutex_lock(&nbd->lock);
	nbd->stop = true;
	wake(nbd);
	pthread_mutex_unlock(&nbd->lock);
	pthread_join(nbd->thread, NULL);
	if (!nbd->lost)
		nbd_shutdown(nbd->handle, 0);
	destroy(nbd);
	return err;
}

static int nbd_extent(struct block *disk, uint64_t offset, uint64_t *length, bool *zero)
{
	(void)disk;
	(void)offset;
	(void)length;
	*zero = false;
	return 0;
}

static const struct block_driver nbd_driver = {
	.close = nbd_disk_close,
	.start = nbd_start,
	.extent = nbd_extent,
};

static int start_thread(struct nbd_disk *nbd)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&nbd->thread, NULL, nbd_main, nbd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

/* libnbd's text without its function's name. */
static const char *why(void)
{
	const char *text = nbd_get_error(), *colon = text ? strstr(text, ": ") : NULL;

	return colon ? colon + 2 : text ? text : "unknown error";
}

static int connect_server(struct nbd_disk *nbd, const struct block_options *options, const struct error_text *error)
{
	int err;

	nbd->handle = nbd_create();
	/* The URI is the user's own: it may name files with keys. */
	if (!nbd->handle || nbd_set_uri_allow_local_file(nbd->handle, true) < 0 ||
	    nbd_connect_uri(nbd->handle, options->path) < 0) {
		err = nbd_get_errno();
		return error_set(error, err ? err : EIO, "%s: %s", options->path, why());
	}
	if (!options->readonly && nbd_is_read_only(nbd->handle) != 0)
		return error_set(error, EROFS, "%s: the server's disk is read-only; add readonly=on", options->path);
	nbd->can_flush = nbd_can_flush(nbd->handle) > 0;
	nbd->can_fua = nbd_can_fua(nbd->handle) > 0;
	nbd->can_trim = nbd_can_trim(nbd->handle) > 0;
	nbd->can_zero = nbd_can_zero(nbd->handle) > 0;
	return 0;
}

static int learn_sizes(struct nbd_disk *nbd, struct block *disk, const struct error_text *error)
{
	int64_t size = nbd_get_size(nbd->handle);
	int64_t min = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MINIMUM);
	int64_t max = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return error_set(error, EIO, "%s: %s", nbd->uri, why());
	if (min > 4096)
		return error_set(error, ENOTSUP, "%s: the server wants blocks of %lld bytes", nbd->uri, (long long)min);
	nbd->chunk = max > 4096 && (uint64_t)max < CHUNK_MAX ? (uint64_t)max & ~UINT64_C(4095) : CHUNK_MAX;
	disk->info.size = (uint64_t)size & ~UINT64_C(511);
	disk->info.block_size = min > 512 ? (uint32_t)min : 512;
	disk->info.discard_align = disk->discard && nbd->can_trim ? 4096 : 0;
	disk->info.format = "nbd";
	return 0;
}

int nbd_open(struct block *disk, const struct block_options *options, const struct error_text *error)
{
	struct nbd_disk *nbd;
	int err;

	if (options->format == BLOCK_FORMAT_QCOW2)
		return error_set(error, ENOTSUP,
				 "%s: format=qcow2 through NBD is not supported; let the server open it",
				 options->path);
	nbd = calloc(1, sizeof(*nbd));
	if (!nbd)
		return error_set(error, ENOMEM, "%s: %s", options->path, strerror(ENOMEM));
	nbd->disk = disk;
	nbd->tail = &nbd->head;
	pthread_mutex_init(&nbd->lock, NULL);
	nbd->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	nbd->uri = strdup(options->path);
	nbd->zeros = calloc(1, ZERO_CHUNK);
	if (nbd->event_fd < 0 || !nbd->uri || !nbd->zeros)
		err = error_set(error, ENOMEM, "%s: %s", options->path, strerror(ENOMEM));
	else
		err = connect_server(nbd, options, error);
	if (!err)
		err = learn_sizes(nbd, disk, error);
	if (!err) {
		err = start_thread(nbd);
		if (err)
			error_set(error, -err, "%s: cannot create a thread: %s", options->path, strerror(-err));
	}
	if (err) {
		destroy(nbd);
		return err;
	}
	disk->nbd = nbd;
	disk->driver = &nbd_driver;
	return 0;
}
