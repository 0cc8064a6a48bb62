/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `tap`: a TAP interface of the host. The kernel does the offloads (IFF_VNET_HDR); a descriptor that somebody else
 * opened without them (fd=) gets them in software. One I/O thread a queue reads; sending writes at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "machine/message.h"
#include "net/backend.h"
#include "net/frame.h"

#define TAP_DEVICE "/dev/net/tun"
#define TAP_BATCH 64 /* frames read before the client is told that this is all for now */
#define TAP_IOV_MAX 64

struct tap_queue {
	struct net_tap *tap;
	unsigned n;
	int fd;
	bool attached; /* net_set_queues() */
	bool started;
	pthread_t thread;
	uint8_t *buffer;
	struct net_merge merge; /* without vnet_hdr only */
};

struct net_tap {
	struct net net;
	char name[IFNAMSIZ];
	bool vnet_hdr;
	_Atomic bool gone;
	struct tap_queue queue[NET_QUEUES_MAX];
};

static struct net_tap *to_tap(struct net *net)
{
	return container_of(net, struct net_tap, net);
}

/* ---- to the guest; thread: the queue's ---- */

/* Deliver, however long the client has no room. False: the end. */
static bool deliver_or_wait(struct tap_queue *q, const struct virtio_net_hdr *hdr, const uint8_t *data, size_t len)
{
	struct net *net = &q->tap->net;
	struct pollfd fd = { .fd = net->port[q->n].event_fd, .events = POLLIN };

	while (!net_deliver(net, q->n, hdr, data, len)) {
		net_deliver_done(net, q->n);
		if (poll(&fd, 1, -1) > 0)
			net_wake_clear(&net->port[q->n]);
		if (atomic_load(&net->stop))
			return false;
	}
	return true;
}

static void merge_emit(void *ctx, const struct virtio_net_hdr *hdr, const uint8_t *data, size_t len)
{
	deliver_or_wait(ctx, hdr, data, len);
}

static void tap_gone(struct net_tap *tap, int err)
{
	if (!atomic_exchange(&tap->gone, true))
		msg_error("--net tap: %s is gone: %s; the guest's cable is unplugged", tap->name, strerror(err));
	net_set_link(&tap->net, false);
}

/* What has come. False: no more of it ever. */
static bool read_batch(struct tap_queue *q)
{
	struct net_tap *tap = q->tap;
	struct virtio_net_hdr hdr = { 0 };
	size_t head = tap->vnet_hdr ? sizeof(hdr) : 0;
	bool any = false, open = true;

	for (unsigned i = 0; i < TAP_BATCH && open; i++) {
		ssize_t n = read(q->fd, q->buffer, head + NET_FRAME_MAX);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) { /* the interface was deleted */
			tap_gone(tap, n ? errno : ENODEV);
			open = false;
		} else if ((size_t)n <= head) {
			net_count_rx_drop(&tap->net);
		} else if (tap->vnet_hdr) {
			memcpy(&hdr, q->buffer, sizeof(hdr));
			open = any = deliver_or_wait(q, &hdr, q->buffer + head, (size_t)n - head);
		} else {
			net_merge_add(&q->merge, atomic_load(&tap->net.rx_offloads), q->buffer, (size_t)n);
			any = true;
		}
	}
	if (!tap->vnet_hdr)
		net_merge_flush(&q->merge);
	if (any)
		net_deliver_done(&tap->net, q->n);
	return open;
}

static void *tap_thread(void *arg)
{
	struct tap_queue *q = arg;
	struct net *net = &q->tap->net;
	struct pollfd fds[2] = { { .fd = net->port[q->n].event_fd, .events = POLLIN },
				 { .fd = q->fd, .events = POLLIN } };

	while (!atomic_load(&net->stop)) {
		if (poll(fds, 2, -1) < 0)
			continue; /* EINTR */
		if (fds[0].revents)
			net_wake_clear(&net->port[q->n]);
		if (fds[1].revents && !read_batch(q))
			fds[1].fd = -1;
	}
	return NULL;
}

/* ---- from the guest ---- */

static void tap_write(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	/* A full queue (EAGAIN), an interface that is down (EIO) or a header the kernel does not like loses the frame.
	 */
	if (writev(to_tap(net)->queue[queue].fd, iov, (int)count) < 0)
		net_count_tx_drop(net);
}

static void tap_send(struct net *net, unsigned queue, const struct virtio_net_hdr *hdr, const struct iovec *iov,
		     unsigned count)
{
	struct iovec all[TAP_IOV_MAX];
	struct virtio_net_hdr copy = *hdr;
	unsigned n = 1;

	all[0] = (struct iovec){ &copy, sizeof(copy) };
	for (unsigned i = 0; i < count; i++) {
		if (!iov[i].iov_len)
			continue;
		if (n == TAP_IOV_MAX) {
			net_count_tx_drop(net);
			return;
		}
		all[n++] = iov[i];
	}
	copy.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	tap_write(net, queue, all, n);
}

static void tap_send_frame(struct net *net, unsigned queue, struct net_frame *f)
{
	struct iovec iov = { f->data, f->len };

	tap_write(net, queue, &iov, 1);
	free(f);
}

static void tap_set_rx_offloads(struct net *net, unsigned offloads)
{
	struct net_tap *tap = to_tap(net);
	unsigned long flags = (offloads & NET_CSUM ? TUN_F_CSUM : 0) | (offloads & NET_TSO4 ? TUN_F_TSO4 : 0) |
			      (offloads & NET_TSO6 ? TUN_F_TSO6 : 0);

	if (offloads & NET_ECN && offloads & (NET_TSO4 | NET_TSO6))
		flags |= TUN_F_TSO_ECN;
	/* Of the interface as a whole, so one queue is enough. It fails only when the interface is gone, which that
	 * queue's thread finds out. */
	if (tap->vnet_hdr && ioctl(tap->queue[0].fd, TUNSETOFFLOAD, flags) < 0)
		atomic_store(&net->rx_offloads, 0);
}

static void tap_set_queues(struct net *net, unsigned queues)
{
	struct net_tap *tap = to_tap(net);

	for (unsigned i = 1; i < net->queues; i++) {
		bool attach = i < queues;
		struct ifreq ifr = { .ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

		if (attach != tap->queue[i].attached && ioctl(tap->queue[i].fd, TUNSETQUEUE, &ifr) == 0)
			tap->queue[i].attached = attach;
	}
}

/* ---- life ---- */

static void tap_close(struct net *net)
{
	struct net_tap *tap = to_tap(net);

	net_stop(net);
	for (unsigned i = 0; i < net->queues; i++) {
		struct tap_queue *q = &tap->queue[i];

		if (q->started)
			pthread_join(q->thread, NULL);
		if (q->fd >= 0)
			close(q->fd);
		free(q->buffer);
		net_merge_fini(&q->merge);
	}
	net_free(net);
}

static const struct net_ops tap_ops = {
	.send = tap_send,
	.set_rx_offloads = tap_set_rx_offloads,
	.set_queues = tap_set_queues,
	.close = tap_close,
};

static const struct net_ops tap_plain_ops = {
	.send_frame = tap_send_frame,
	.close = tap_close,
};

static int open_error(const char *name, int err)
{
	if (err == ENOENT || err == ENODEV || err == ENXIO)
		msg_error("--net tap: this host has no " TAP_DEVICE
			  ": load the kernel's module tun, or use --net user");
	else
		msg_error("--net tap: cannot open " TAP_DEVICE " for %s: %s%s", name, strerror(err),
			  err == EACCES || err == EPERM ? "; use --net user, which needs no rights" : "");
	return -err;
}

static int attach_error(const struct net_tap *tap, int err)
{
	const char *name = tap->name, *multi = tap->net.queues > 1 ? " multi_queue" : "";

	switch (err) {
	case EPERM:
		if (if_nametoindex(name))
			msg_error("--net tap: no permission to use %s: its owner must be this user (as root: ip tuntap "
				  "add dev %s mode tap user NAME%s)",
				  name, name, multi);
		else
			msg_error("--net tap: there is no interface %s, and making one needs root (as root: ip tuntap "
				  "add "
				  "dev %s mode tap user NAME%s)",
				  name, name, multi);
		break;
	case EBUSY: msg_error("--net tap: %s is in use by another program", name); break;
	case EINVAL:
		msg_error("--net tap: %s is no tap interface%s", name,
			  *multi ? " with several queues (ip tuntap add … multi_queue)"
				 : " with one queue (with multi_queue it needs queues=2 or more)");
		break;
	default: msg_error("--net tap: cannot attach to %s: %s", name, strerror(err));
	}
	return -err;
}

static int open_queue(struct net_tap *tap, struct tap_queue *q)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int header = sizeof(struct virtio_net_hdr);

	if (tap->net.queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	q->fd = open(TAP_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (q->fd < 0)
		return open_error(tap->name, errno);
	memcpy(ifr.ifr_name, tap->name, IFNAMSIZ);
	if (ioctl(q->fd, TUNSETIFF, &ifr) < 0)
		return attach_error(tap, errno);
	if (ioctl(q->fd, TUNSETVNETHDRSZ, &header) < 0)
		return attach_error(tap, errno);
	q->attached = true;
	return 0;
}

/*
 * The flags of the interface behind fd; 0: it is none. TUNGETIFF has one bit for two things: IFF_NO_PI, and that no
 * packet filter is attached. So a filter that lets everything pass is, for a moment, where there is none.
 */
static short tap_flags(int fd, struct ifreq *ifr)
{
	struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	struct sock_fprog filter = { .len = 1, .filter = &pass }, present = { 0 };
	bool attached;

	if (ioctl(fd, TUNGETIFF, ifr) < 0)
		return 0;
	attached = ioctl(fd, TUNGETFILTER, &present) == 0 && !present.len && ioctl(fd, TUNATTACHFILTER, &filter) == 0;
	if (attached && ioctl(fd, TUNGETIFF, ifr) < 0)
		ifr->ifr_flags = 0;
	if (attached)
		ioctl(fd, TUNDETACHFILTER, &filter);
	return ifr->ifr_flags;
}

/* A descriptor that this program was started with. */
static int take_fd(struct net_tap *tap, unsigned fd)
{
	struct ifreq ifr = { 0 };
	int header = sizeof(struct virtio_net_hdr), flags;

	tap->queue[0].fd = -1;
	if (!(tap_flags((int)fd, &ifr) & IFF_TAP)) {
		msg_error("--net tap: fd=%u is not the descriptor of a tap interface", fd);
		return -EINVAL;
	}
	if (!(ifr.ifr_flags & IFF_NO_PI)) {
		msg_error("--net tap: fd=%u (%.*s) was opened without IFF_NO_PI", fd, IFNAMSIZ, ifr.ifr_name);
		return -EINVAL;
	}
	tap->queue[0].fd = (int)fd;
	tap->queue[0].attached = true;
	tap->vnet_hdr = ifr.ifr_flags & IFF_VNET_HDR;
	memcpy(tap->name, ifr.ifr_name, IFNAMSIZ);
	flags = fcntl((int)fd, F_GETFL);
	if (flags < 0 || fcntl((int)fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0 ||
	    (tap->vnet_hdr && ioctl((int)fd, TUNSETVNETHDRSZ, &header) < 0)) {
		int err = errno;

		msg_error("--net tap: fd=%u: %s", fd, strerror(err));
		return -err;
	}
	return 0;
}

/* "PATH ifname", as other monitors call it, to give the interface an address or a bridge. */
static int run_script(const struct net_tap *tap, const char *path)
{
	extern char **environ;
	char *argv[] = { (char *)path, (char *)tap->name, NULL };
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	pid_t pid;
	int status = 0, err = posix_spawnattr_init(&attr);

	if (!err) { /* without the signals that this program blocks and ignores */
		sigemptyset(&none);
		sigemptyset(&pipe);
		sigaddset(&pipe, SIGPIPE);
		posix_spawnattr_setsigmask(&attr, &none);
		posix_spawnattr_setsigdefault(&attr, &pipe);
		posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
		err = posix_spawn(&pid, path, NULL, &attr, argv, environ);
		posix_spawnattr_destroy(&attr);
	}
	if (err) {
		msg_error("--net tap: cannot run script=%s: %s", path, strerror(err));
		return -err;
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) {
			err = errno;
			msg_error("--net tap: script=%s: %s", path, strerror(err));
			return -err;
		}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFSIGNALED(status))
		msg_error("--net tap: script=%s %s was ended by signal %d", path, tap->name, WTERMSIG(status));
	else
		msg_error("--net tap: script=%s %s failed with status %d", path, tap->name, WEXITSTATUS(status));
	return -EIO;
}

static unsigned interface_mtu(const char *name)
{
	struct ifreq ifr = { 0 };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned mtu = 0;

	strcpy(ifr.ifr_name, name);
	if (fd >= 0 && ioctl(fd, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu > 0 && ifr.ifr_mtu <= UINT16_MAX)
		mtu = (unsigned)ifr.ifr_mtu;
	if (fd >= 0)
		close(fd);
	return mtu;
}

static int start_queue(struct net_tap *tap, struct tap_queue *q)
{
	int err = 0;

	q->buffer = malloc(sizeof(struct virtio_net_hdr) + NET_FRAME_MAX);
	if (!q->buffer)
		err = -ENOMEM;
	q->merge.emit = merge_emit;
	q->merge.ctx = q;
	if (!err && !tap->vnet_hdr)
		err = net_merge_init(&q->merge);
	if (!err)
		err = net_thread_start(&q->thread, tap_thread, q);
	q->started = !err;
	if (err)
		msg_error("--net tap: cannot start: %s", strerror(-err));
	return err;
}

static int tap_start(struct net_tap *tap, const struct net_options *options, int fd)
{
	const char *script = net_options_get(options, "script");
	int err = net_init(&tap->net);

	if (err)
		msg_error("--net tap: %s", strerror(-err));
	tap->vnet_hdr = true;
	if (!err && fd >= 0)
		err = take_fd(tap, (unsigned)fd);
	for (unsigned i = 0; i < tap->net.queues && !err && fd < 0; i++)
		err = open_queue(tap, &tap->queue[i]);
	tap->net.ops = tap->vnet_hdr ? &tap_ops : &tap_plain_ops;
	if (!err && script && strcmp(script, "no") != 0)
		err = run_script(tap, script);
	tap->net.mtu = err ? 0 : interface_mtu(tap->name);
	for (unsigned i = 0; i < tap->net.queues && !err; i++)
		err = start_queue(tap, &tap->queue[i]);
	return err;
}

/* 0; or -EINVAL with a message. *fd -1: by name. */
static int parse_options(const struct net_options *options, char name[IFNAMSIZ], unsigned *queues, int *fd)
{
	static const char *const keys[] = { "ifname", "script", "queues", "fd", "mac", "packed", NULL };
	const char *ifname = net_options_get(options, "ifname");
	unsigned number;
	int err = net_options_check(options, keys, NULL);

	*fd = -1;
	if (!err)
		err = net_options_number(options, "queues", 1, 1, NET_QUEUES_MAX, queues);
	if (!err)
		err = net_options_number(options, "fd", 0, 0, INT32_MAX, &number);
	if (err)
		return err;
	if (net_options_get(options, "fd"))
		*fd = (int)number;
	if (!ifname == (*fd < 0)) {
		msg_error("--net tap: give ifname=NAME, or fd=N for a descriptor that is open");
		return -EINVAL;
	}
	if (ifname && (!*ifname || strlen(ifname) >= IFNAMSIZ || strpbrk(ifname, "/: %"))) {
		msg_error("--net tap: ifname=%s is not an interface's name (1 to %d characters)", ifname, IFNAMSIZ - 1);
		return -EINVAL;
	}
	if (*fd >= 0 && *queues > 1) {
		msg_error("--net tap: fd= is for one queue");
		return -EINVAL;
	}
	if (ifname)
		strcpy(name, ifname);
	return 0;
}

int net_tap_open(const struct net_options *options, struct net **net)
{
	char name[IFNAMSIZ] = "";
	unsigned queues;
	struct net_tap *tap;
	int fd, err = parse_options(options, name, &queues, &fd);

	if (err)
		return err;
	tap = calloc(1, sizeof(*tap));
	if (!tap) {
		msg_error("--net tap: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	memcpy(tap->name, name, sizeof(name));
	tap->net.kind = "tap";
	tap->net.queues = queues;
	tap->net.plain_max = NET_FRAME_MAX;
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		tap->queue[i].tap = tap;
		tap->queue[i].n = i;
		tap->queue[i].fd = -1;
	}
	err = tap_start(tap, options, fd);
	if (err) {
		tap_close(&tap->net);
		return err;
	}
	*net = &tap->net;
	return 0;
}
