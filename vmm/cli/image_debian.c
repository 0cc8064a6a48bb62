/* SPDX-License-Identifier: Apache-2.0 */
/* trapeze image debian: a disk with a Debian on it. Debian's own tools make it, called by a script. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "machine/message.h"

/* Where the script is, seen from the folder of the program: installed, and in the source tree (build/, build/asan/). */
static const char *const places[] = { "../share/trapeze", "../scripts", "../../scripts" };

int image_debian(int argc, char **argv)
{
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	(void)argc; /* argv ends in NULL */
	self[len > 0 ? len : 0] = '\0';
	slash = strrchr(self, '/');
	if (!slash || setenv("TRAPEZE", self, 1) < 0) {
		msg_error("image debian: cannot tell where this program is: %s", strerror(errno));
		return EXIT_FAILURE;
	}
	*slash = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s/make-debian-image", self, places[i]);
		execv(path, argv);
		if (errno != ENOENT) {
			msg_error("image debian: %s: %s", path, strerror(errno));
			return EXIT_FAILURE;
		}
	}
	msg_error("image debian: there is no make-debian-image in %s/%s; is trapeze installed in whole?", self,
		  places[0]);
	return EXIT_FAILURE;
}
