/* SPDX-License-Identifier: Apache-2.0 */
/* /tmp/perf-PID.map, from which perf(1) takes the names of code that no file has: a line "ADDRESS SIZE NAME" a block.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "translate/translate.h"
#include "x86/fpu.h"

static int map_fd = -1; /* the process's, for as long as it lives */

static void open_map(void)
{
	const char *wanted = getenv("TRAPEZE_PERF_MAP");
	char path[64];

	if (!wanted || !*wanted || !strcmp(wanted, "0"))
		return;
	snprintf(path, sizeof(path), "/tmp/perf-%ld.map", (long)getpid());
	/* Anybody may write to /tmp: never follow or fill what is there. */
	unlink(path);
	map_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (map_fd < 0)
		tz_log(TZ_LOG_ERROR, "TRAPEZE_PERF_MAP: cannot create %s: %s", path, strerror(errno));
}

bool translate_perf_map_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, open_map);
	return map_fd >= 0;
}

void translate_perf_map(struct translate *t, const void *code, uint64_t rip)
{
	unsigned long size = (unsigned long)(t->rx + t->used - (const uint8_t *)code);
	char line[80];
	int len;

	if (likely(map_fd < 0))
		return;
	x86_fpu_put(t->cpu); /* libc may use vector registers */
	len = snprintf(line, sizeof(line), "%lx %lx guest_%lx\n", (unsigned long)(uintptr_t)code, size,
		       (unsigned long)rip);
	/* On a full disk the map ends early. */
	if (write(map_fd, line, (size_t)len) != len)
		return;
}
