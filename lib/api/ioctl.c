/* SPDX-License-Identifier: Apache-2.0 */
/* The public entry points: find the handle, find the row, serve. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/handle.h"
#include "core/stats.h"
#include "trapeze/trapeze.h"

static const struct request_table *const tables[] = {
	[HANDLE_SYSTEM] = &system_requests,
	[HANDLE_VM] = &vm_requests,
	[HANDLE_VCPU] = &vcpu_requests,
};

static int fail(int err)
{
	errno = -err;
	return -1;
}

static const struct request *find_request(enum handle_kind kind, uint32_t number)
{
	const struct request_table *t = tables[kind];

	for (size_t i = 0; i < t->count; i++)
		if (t->row[i].number == number)
			return &t->row[i];
	return NULL;
}

static int check_arg(const struct request *r, unsigned long arg)
{
	if (r->arg == ARG_NONE && arg)
		return -EINVAL;
	if (r->arg == ARG_PTR && !arg)
		return -EFAULT;
	return 0;
}

/*
 * A vCPU serves one request at a time. All but KVM_RUN, which does so itself, run between enter and leave,
 * so that they may look at guest memory.
 */
static int serve_vcpu(const struct request *r, const struct call *c)
{
	int result;

	pthread_mutex_lock(&c->vcpu->lock);
	if (r->number != KVM_RUN)
		vcpu_enter(c->vcpu);
	result = r->serve(c);
	if (r->number != KVM_RUN)
		vcpu_leave(c->vcpu);
	pthread_mutex_unlock(&c->vcpu->lock);
	return result;
}

static int serve(struct handle *h, uint32_t number, unsigned long arg)
{
	const struct request *r = find_request(h->kind, number);
	struct call c = { .engine = h->engine,
			  .code_cache_size = h->code_cache_size,
			  .count_insns = h->count_insns,
			  .vm = h->vm,
			  .vcpu = h->vcpu,
			  .arg = arg };
	int err;

	if (!r)
		return -ENOTTY;
	err = check_arg(r, arg);
	if (err)
		return err;
	if (r->arg == ARG_PTR || r->arg == ARG_PTR_OPT)
		c.ptr = (void *)arg;
	return h->kind == HANDLE_VCPU ? serve_vcpu(r, &c) : r->serve(&c);
}

TZ_PUBLIC int tz_ioctl(int fd, unsigned long request, ...)
{
	struct handle *h = handle_get(fd);
	unsigned long arg;
	va_list ap;
	int result;

	if (!h)
		return fail(-EBADF);
	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	/* Callers that keep requests in an int sign-extend them; the kernel looks at 32 bits too. */
	result = serve(h, (uint32_t)request, arg);
	handle_put(h);
	return result < 0 ? fail(result) : result;
}

TZ_PUBLIC int tz_open(const char *engine)
{
	const struct tz_engine_ops *ops = tz_engine_find(engine);
	int fd, err;

	if (!ops)
		return fail(-ENOENT);
	fd = handle_descriptor("trapeze-system");
	if (fd < 0)
		return fail(fd);
	err = handle_install(fd, HANDLE_SYSTEM, ops, NULL, NULL);
	if (err) {
		close(fd);
		return fail(err);
	}
	return fd;
}

struct option_row {
	const char *name;
	uint64_t min, max;
	size_t offset; /* in struct handle */
};

static const struct option_row options[] = {
	{ "code_cache_size", ENGINE_CODE_CACHE_MIN, ENGINE_CODE_CACHE_MAX, offsetof(struct handle, code_cache_size) },
	{ "count_instructions", 0, 1, offsetof(struct handle, count_insns) },
};

static int set_option(struct handle *h, const char *name, uint64_t value)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option_row *o = &options[i];

		if (strcmp(name, o->name) != 0)
			continue;
		if (value < o->min || value > o->max)
			return -EINVAL;
		atomic_store((_Atomic uint64_t *)((char *)h + o->offset), value);
		return 0;
	}
	return -EINVAL;
}

TZ_PUBLIC int tz_set_option(int system_fd, const char *name, uint64_t value)
{
	struct handle *h = handle_get(system_fd);
	int err = -EBADF;

	if (h && h->kind == HANDLE_SYSTEM)
		err = name ? set_option(h, name, value) : -EINVAL;
	if (h)
		handle_put(h);
	return err ? fail(err) : 0;
}

TZ_PUBLIC int tz_close(int fd)
{
	int err = handle_close(fd);

	return err ? fail(err) : 0;
}

TZ_PUBLIC bool tz_owns(int fd)
{
	struct handle *h = handle_get(fd);

	if (h)
		handle_put(h);
	return h != NULL;
}

static struct handle *get_vcpu_handle(int fd)
{
	struct handle *h = handle_get(fd);

	if (h && h->kind != HANDLE_VCPU) {
		handle_put(h);
		h = NULL;
	}
	if (!h)
		errno = EBADF;
	return h;
}

TZ_PUBLIC int tz_vcpu_stats(int vcpu_fd, struct tz_stat *stats, size_t n)
{
	struct handle *h = get_vcpu_handle(vcpu_fd);
	struct engine_stat rows[ENGINE_STATS_MAX];
	size_t count = 0;

	if (!h)
		return -1;
	for (size_t i = 0; i < n && i < STAT_COUNT; i++)
		stats[i] = (struct tz_stat){ .name = stat_info[i].name,
					     .unit = stat_info[i].unit,
					     .value = __atomic_load_n(&h->vcpu->stat[i], __ATOMIC_RELAXED) };
	if (h->vm->engine->stats)
		count = h->vm->engine->stats(&h->vcpu->cpu, rows, ENGINE_STATS_MAX);
	for (size_t i = 0; i < count && STAT_COUNT + i < n; i++)
		stats[STAT_COUNT + i] =
			(struct tz_stat){ .name = rows[i].name, .unit = "count", .value = rows[i].value };
	handle_put(h);
	return (int)(STAT_COUNT + count);
}

TZ_PUBLIC const char *tz_vcpu_error(int vcpu_fd)
{
	struct handle *h = get_vcpu_handle(vcpu_fd);
	const char *text = "";

	if (!h)
		return text;
	if (h->vcpu->in_error)
		text = h->vcpu->error;
	handle_put(h);
	return text;
}

TZ_PUBLIC const char *tz_version(void)
{
	return TRAPEZE_VERSION;
}

static const char *engine_names[8]; /* NULL-terminated: one more than there will be engines */

static void fill_engine_names(void)
{
	for (size_t i = 0; tz_engines[i] && i + 1 < ARRAY_SIZE(engine_names); i++)
		engine_names[i] = tz_engines[i]->name;
}

TZ_PUBLIC const char *const *tz_engine_names(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fill_engine_names);
	return engine_names;
}
