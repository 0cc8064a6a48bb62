/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of I/O vectors: `skip` bytes in, `length` bytes long. The vector must reach that far. */
#ifndef VMM_BLOCK_IOV_H
#define VMM_BLOCK_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* dst has room for n entries; the number used is returned. */
unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned n, size_t skip, size_t length);
void iov_zero(const struct iovec *iov, unsigned n, size_t skip, size_t length);
void iov_gather(void *to, const struct iovec *iov, unsigned n, size_t skip, size_t length);
void iov_scatter(const struct iovec *iov, unsigned n, size_t skip, const void *from, size_t length);

#endif
