/* SPDX-License-Identifier: Apache-2.0 */
/* Where an open or a tool leaves its one line about what went wrong. */
#ifndef VMM_BLOCK_ERROR_H
#define VMM_BLOCK_ERROR_H

#include <stddef.h>

struct error_text {
	char *text;
	size_t size;
};

/* Fills the text; returns -err. */
__attribute__((format(printf, 3, 4))) int error_set(const struct error_text *error, int err, const char *fmt, ...);

#endif
