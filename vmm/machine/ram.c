/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int ram_create(struct guest_ram *ram, uint64_t size)
{
	int err;

	memset(ram, 0, sizeof(*ram));
	ram->fd = -1;
	if (size < RAM_SIZE_MIN || size % (uint64_t)sysconf(_SC_PAGESIZE))
		return -EINVAL;
	if (size > RAM_SIZE_MAX)
		return -E2BIG;
	ram->fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (ram->fd < 0)
		return -errno;
	if (ftruncate(ram->fd, (off_t)size))
		goto fail;
	/* Pages are the host's to give when the guest touches them. */
	ram->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd, 0);
	if (ram->base == MAP_FAILED)
		goto fail;
	madvise(ram->base, size, MADV_DONTDUMP); /* a guest does not belong into a core file */
	ram->size = size;
	ram->below_size = size < RAM_HOLE_START ? size : RAM_HOLE_START;
	ram->above_size = size - ram->below_size;
	return 0;
fail:
	err = -errno;
	close(ram->fd);
	memset(ram, 0, sizeof(*ram));
	ram->fd = -1;
	return err;
}

void ram_destroy(struct guest_ram *ram)
{
	if (ram->base)
		munmap(ram->base, ram->size);
	if (ram->fd >= 0)
		close(ram->fd);
	memset(ram, 0, sizeof(*ram));
	ram->fd = -1;
}

void *ram_ptr(const struct guest_ram *ram, uint64_t gpa, uint64_t len)
{
	if (gpa <= ram->below_size && len <= ram->below_size - gpa)
		return ram->base + gpa;
	if (gpa < RAM_ABOVE_4G)
		return NULL;
	gpa -= RAM_ABOVE_4G;
	if (gpa <= ram->above_size && len <= ram->above_size - gpa)
		return ram->base + ram->below_size + gpa;
	return NULL;
}

bool ram_write(const struct guest_ram *ram, uint64_t gpa, const void *data, uint64_t len)
{
	void *p = ram_ptr(ram, gpa, len);

	if (p && len)
		memcpy(p, data, len);
	return p;
}

bool ram_read(const struct guest_ram *ram, uint64_t gpa, void *data, uint64_t len)
{
	const void *p = ram_ptr(ram, gpa, len);

	if (p && len)
		memcpy(data, p, len);
	return p;
}
