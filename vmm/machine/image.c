/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/message.h"

/*
 * Read, not mapped: a file that another process truncates meanwhile must give a message, and a
 * mapping would give SIGBUS.
 */
static int image_read(struct image *image, int fd, size_t size)
{
	uint8_t *data = malloc(size);
	size_t done = 0;

	if (!data)
		return -ENOMEM;
	while (done < size) {
		ssize_t n = read(fd, data + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int err = errno;

			free(data);
			return -err;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	image->data = data;
	image->size = done;
	return 0;
}

int image_open(struct image *image, const char *what, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int err = 0;

	image->data = NULL;
	image->size = 0;
	if (fd < 0 || fstat(fd, &st) < 0) {
		err = errno;
		msg_error("%s %s: %s", what, path, strerror(err));
	} else if (!S_ISREG(st.st_mode)) {
		err = EINVAL;
		msg_error("%s %s: not a regular file", what, path);
	} else if (st.st_size == 0) {
		err = EINVAL;
		msg_error("%s %s: the file is empty", what, path);
	} else {
		err = -image_read(image, fd, (size_t)st.st_size);
		if (err)
			msg_error("%s %s: %s", what, path, strerror(err));
	}
	if (fd >= 0)
		close(fd);
	return -err;
}

void image_close(struct image *image)
{
	free((void *)image->data);
	image->data = NULL;
}
