/* SPDX-License-Identifier: Apache-2.0 */
/* A whole file in memory: kernels and initrds. */
#ifndef VMM_MACHINE_IMAGE_H
#define VMM_MACHINE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

struct image {
	const uint8_t *data; /* NULL: none */
	size_t size;
};

/* `what` ("kernel") is for the message. 0; or -errno with a message: missing, empty, not a regular file. */
int image_open(struct image *image, const char *what, const char *path);
void image_close(struct image *image);

#endif
