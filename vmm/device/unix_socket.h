/* SPDX-License-Identifier: Apache-2.0 */
/* Unix stream sockets of devices: non-blocking, closed on exec. */
#ifndef VMM_DEVICE_UNIX_SOCKET_H
#define VMM_DEVICE_UNIX_SOCKET_H

#include <stddef.h>

#define UNIX_SOCKET_PATH_MAX 108 /* with the final 0 */

/*
 * A socket that listens at path; what a program that is no more left there is removed. Or -1 with one line in error
 * that names the path.
 */
int unix_socket_listen(const char *path, char *error, size_t error_size);
int unix_socket_connect(const char *path); /* -1 with errno */

#endif
