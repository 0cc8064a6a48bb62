/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `user`: a network made by libslirp out of this process's own sockets, so without any right. All of slirp runs on one
 * thread; frames from the guest come to it through a queue.
 *
 * slirp takes TCP segments of any length with right checksums, so long ones go to it uncut. What it sends is merged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "machine/message.h"
#include "net/backend.h"
#include "net/frame.h"
#include "net/user.h"

#define TX_QUEUE_BYTES (4u << 20)
#define RX_QUEUE_BYTES (4u << 20)  /* frames beyond are lost */
#define RX_QUEUE_ENOUGH (1u << 20) /* nothing more is taken from the host's sockets */

struct user_timer {
	struct user_timer *next;
	SlirpTimerCb expired;
	void *arg;
	int64_t deadline_ms; /* -1: not armed */
};

struct frame_queue {
	struct net_frame *first, **last;
	size_t bytes;
};

struct net_user {
	struct net net;
	Slirp *slirp;
	pthread_t thread;
	bool started;

	pthread_mutex_t tx_lock;
	struct frame_queue tx; /* tx_lock */

	/* The rest is the I/O thread's. */
	struct frame_queue rx;
	struct net_merge merge;
	struct user_timer *timers;
	struct pollfd *fds; /* [0] is the port's event */
	int fd_count, fd_room;
	bool delivered; /* since the client was last told that this is all */
};

/* ---- queues of frames ---- */

static void queue_init(struct frame_queue *q)
{
	q->first = NULL;
	q->last = &q->first;
	q->bytes = 0;
}

static void queue_put(struct frame_queue *q, struct net_frame *f)
{
	f->next = NULL;
	*q->last = f;
	q->last = &f->next;
	q->bytes += sizeof(*f) + f->len;
}

static struct net_frame *queue_take(struct frame_queue *q)
{
	struct net_frame *f = q->first;

	if (!f)
		return NULL;
	q->first = f->next;
	if (!q->first)
		q->last = &q->first;
	q->bytes -= sizeof(*f) + f->len;
	return f;
}

static void queue_free(struct frame_queue *q)
{
	struct net_frame *f;

	while ((f = queue_take(q)))
		free(f);
}

/* ---- from the guest ---- */

static void user_send_frame(struct net *net, unsigned queue, struct net_frame *f)
{
	struct net_user *u = container_of(net, struct net_user, net);
	bool wake, room;

	(void)queue;
	pthread_mutex_lock(&u->tx_lock);
	wake = !u->tx.first;
	room = u->tx.bytes + f->len <= TX_QUEUE_BYTES;
	if (room)
		queue_put(&u->tx, f);
	pthread_mutex_unlock(&u->tx_lock);
	if (!room) {
		net_count_tx_drop(net);
		free(f);
	} else if (wake) {
		net_wake(&net->port[0]);
	}
}

static void take_from_guest(struct net_user *u)
{
	struct frame_queue list;
	struct net_frame *f;

	queue_init(&list);
	pthread_mutex_lock(&u->tx_lock);
	while ((f = queue_take(&u->tx)))
		queue_put(&list, f);
	pthread_mutex_unlock(&u->tx_lock);
	while ((f = queue_take(&list))) {
		slirp_input(u->slirp, f->data, (int)f->len);
		free(f);
	}
}

/* ---- to the guest ---- */

/* The merger has a frame ready. */
static void rx_emit(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *data, size_t len)
{
	struct net_user *u = ctx;
	struct net_frame *f;

	if (!u->rx.first && net_deliver(&u->net, 0, hdr, data, len)) {
		u->delivered = true;
		return;
	}
	f = u->rx.bytes + len <= RX_QUEUE_BYTES ? net_frame_new(len) : NULL;
	if (!f) {
		net_count_rx_drop(&u->net);
		return;
	}
	f->hdr = *hdr;
	memcpy(f->data, data, len);
	queue_put(&u->rx, f);
}

static void rx_flush(struct net_user *u)
{
	net_merge_flush(&u->merge);
	while (u->rx.first && !atomic_load(&u->net.port[0].stalled) &&
	       net_deliver(&u->net, 0, &u->rx.first->hdr, u->rx.first->data, u->rx.first->len)) {
		free(queue_take(&u->rx));
		u->delivered = true;
	}
	if (u->delivered)
		net_deliver_done(&u->net, 0);
	u->delivered = false;
}

static ssize_t slirp_send(const void *data, size_t len, void *opaque)
{
	struct net_user *u = opaque;

	if (len <= NET_FRAME_MAX)
		net_merge_add(&u->merge, atomic_load(&u->net.rx_offloads), data, len);
	return (ssize_t)len;
}

/* ---- what slirp needs of its host ---- */

static int64_t clock_ns(void *opaque)
{
	struct timespec now;

	(void)opaque;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void guest_error(const char *text, void *opaque)
{
	(void)text; /* a guest must not be able to fill the user's terminal */
	net_count_tx_drop(&((struct net_user *)opaque)->net);
}

static void *timer_new(SlirpTimerCb expired, void *arg, void *opaque)
{
	struct net_user *u = opaque;
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t)
		abort(); /* slirp knows no failure here; it allocates with g_malloc, which ends the process as well */
	*t = (struct user_timer){ .next = u->timers, .expired = expired, .arg = arg, .deadline_ms = -1 };
	u->timers = t;
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct net_user *u = opaque;

	for (struct user_timer **p = &u->timers; *p; p = &(*p)->next)
		if (*p == timer) {
			*p = (*p)->next;
			free(timer);
			return;
		}
}

static void timer_mod(void *timer, int64_t deadline_ms, void *opaque)
{
	(void)opaque;
	((struct user_timer *)timer)->deadline_ms = deadline_ms;
}

static void fd_ignored(int fd, void *opaque)
{
	(void)fd, (void)opaque; /* all are told by slirp_pollfds_fill() */
}

static void notify(void *opaque)
{
	net_wake(&((struct net_user *)opaque)->net.port[0]);
}

static const SlirpCb callbacks = {
	.send_packet = slirp_send,
	.guest_error = guest_error,
	.clock_get_ns = clock_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = fd_ignored,
	.unregister_poll_fd = fd_ignored,
	.notify = notify,
};

/* ---- the thread ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct net_user *u = opaque;

	if (u->fd_count == u->fd_room) {
		struct pollfd *fds = realloc(u->fds, (size_t)u->fd_room * 2 * sizeof(*fds));

		if (!fds)
			return -1;
		u->fds = fds;
		u->fd_room *= 2;
	}
	u->fds[u->fd_count] = (struct pollfd){
		.fd = fd,
		.events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
				  (events & SLIRP_POLL_PRI ? POLLPRI : 0)),
	};
	return u->fd_count++;
}

static int get_revents(int index, void *opaque)
{
	struct net_user *u = opaque;
	short r;

	if (index < 0 || index >= u->fd_count)
		return 0;
	r = u->fds[index].revents;
	return (r & POLLIN ? SLIRP_POLL_IN : 0) | (r & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (r & POLLPRI ? SLIRP_POLL_PRI : 0) | (r & (POLLERR | POLLNVAL) ? SLIRP_POLL_ERR : 0) |
	       (r & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int64_t now_ms(void)
{
	return clock_ns(NULL) / 1000000;
}

static int poll_timeout(const struct net_user *u, uint32_t slirp_ms)
{
	int64_t wait = slirp_ms == UINT32_MAX ? -1 : (int64_t)slirp_ms;

	for (const struct user_timer *t = u->timers; t; t = t->next) {
		int64_t left = t->deadline_ms - now_ms();

		if (t->deadline_ms >= 0 && (wait < 0 || left < wait))
			wait = left < 0 ? 0 : left;
	}
	return (int)(wait > INT32_MAX ? INT32_MAX : wait);
}

static void run_timers(struct net_user *u)
{
	for (struct user_timer *t = u->timers, *next; t; t = next) {
		next = t->next;
		if (t->deadline_ms >= 0 && t->deadline_ms <= now_ms()) {
			t->deadline_ms = -1;
			t->expired(t->arg);
		}
	}
}

static void *user_thread(void *arg)
{
	struct net_user *u = arg;

	while (!atomic_load(&u->net.stop)) {
		bool full = u->rx.bytes > RX_QUEUE_ENOUGH;
		uint32_t timeout = UINT32_MAX;
		int n;

		u->fd_count = 1;
		u->fds[0] = (struct pollfd){ .fd = u->net.port[0].event_fd, .events = POLLIN };
		if (!full)
			slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
		n = poll(u->fds, (nfds_t)u->fd_count, poll_timeout(u, timeout));
		if (n < 0 && errno != EINTR) {
			msg_error("--net user: the network ended: poll: %s", strerror(errno));
			net_set_link(&u->net, false);
			break;
		}
		if (n > 0 && u->fds[0].revents)
			net_wake_clear(&u->net.port[0]);
		if (!full)
			slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
		take_from_guest(u);
		run_timers(u);
		rx_flush(u);
	}
	return NULL;
}

/* ---- life ---- */

static void user_close(struct net *net)
{
	struct net_user *u = container_of(net, struct net_user, net);

	if (u->started) {
		net_stop(net);
		pthread_join(u->thread, NULL);
	}
	if (u->slirp)
		slirp_cleanup(u->slirp);
	net_merge_fini(&u->merge);
	queue_free(&u->tx);
	queue_free(&u->rx);
	free(u->fds);
	pthread_mutex_destroy(&u->tx_lock);
	net_free(net);
}

static const struct net_ops user_ops = {
	.send_frame = user_send_frame,
	.close = user_close,
};

static const char *forward_hint(int err)
{
	switch (err) {
	case EADDRINUSE: return "; another program has this port";
	case EACCES: return "; ports below 1024 need root, take one above";
	case EADDRNOTAVAIL: return "; this host has no such address";
	default: return "";
	}
}

static int add_forward(struct net_user *u, const char *text, const struct user_config *config)
{
	struct user_forward f;
	int err = user_forward_parse(text, config, &f), flags = 0;
	bool v6;

	if (err)
		return err;
	v6 = f.host.any.sa_family == AF_INET6;
	if (f.udp)
		flags |= SLIRP_HOSTFWD_UDP;
	if (v6)
		flags |= SLIRP_HOSTFWD_V6ONLY;
	if (slirp_add_hostxfwd(u->slirp, &f.host.any, v6 ? sizeof(f.host.v6) : sizeof(f.host.v4), &f.guest.any,
			       v6 ? sizeof(f.guest.v6) : sizeof(f.guest.v4), flags) >= 0)
		return 0;
	err = errno;
	msg_error("--net user: hostfwd=%s: cannot listen there: %s%s", text, strerror(err), forward_hint(err));
	return -err;
}

static int user_start(struct net_user *u, const struct net_options *options, const struct user_config *config)
{
	int err = net_init(&u->net);

	u->fd_room = 16;
	u->fds = calloc((size_t)u->fd_room, sizeof(*u->fds));
	if (!err)
		err = net_merge_init(&u->merge);
	if (!err && !u->fds)
		err = -ENOMEM;
	if (!err) {
		u->slirp = slirp_new(&config->slirp, &callbacks, u);
		if (!u->slirp)
			err = -EINVAL;
	}
	if (err) {
		msg_error("--net user: cannot set up the network: %s", strerror(-err));
		return err;
	}
	for (unsigned i = 0; i < options->count && !err; i++)
		if (!strcmp(options->pair[i].key, "hostfwd"))
			err = add_forward(u, options->pair[i].value, config);
	if (err)
		return err;
	err = net_thread_start(&u->thread, user_thread, u);
	if (err)
		msg_error("--net user: cannot start a thread: %s", strerror(-err));
	u->started = !err;
	return err;
}

int net_user_open(const struct net_options *options, struct net **net)
{
	struct user_config config;
	struct net_user *u;
	int err = user_config_parse(options, &config);

	if (err)
		return err;
	u = calloc(1, sizeof(*u));
	if (!u) {
		msg_error("--net user: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	u->net.ops = &user_ops;
	u->net.kind = "user";
	u->net.queues = 1;
	u->net.mtu = (unsigned)config.slirp.if_mtu;
	u->net.plain_max = u->net.mtu + 18;
	u->net.long_segments = true;
	u->merge.emit = rx_emit;
	u->merge.ctx = u;
	u->merge.trusted = true;
	pthread_mutex_init(&u->tx_lock, NULL);
	queue_init(&u->tx);
	queue_init(&u->rx);
	err = user_start(u, options, &config);
	if (err) {
		user_close(&u->net);
		return err;
	}
	*net = &u->net;
	return 0;
}
