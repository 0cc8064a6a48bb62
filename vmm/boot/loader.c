/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/loader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PAGE_SIZE 0x1000u
#define E820_RAM 1

int loader_fail(struct loader *ld, const char *fmt, ...)
{
	char reason[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	snprintf(ld->error, ld->error_size, "kernel %.120s: %s", ld->req->kernel_name, reason);
	return -EINVAL;
}

bool loader_in_image(const struct loader *ld, uint64_t offset, uint64_t len)
{
	return offset <= ld->req->kernel_size && len <= ld->req->kernel_size - offset;
}

bool loader_in_ram(const struct loader *ld, uint64_t gpa, uint64_t len)
{
	const struct boot_request *req = ld->req;

	for (unsigned i = 0; i < req->e820_count; i++) {
		const struct e820_entry *e = &req->e820[i];

		if (e->type == E820_RAM && gpa >= e->base && gpa - e->base <= e->size &&
		    len <= e->size - (gpa - e->base))
			return ram_ptr(req->ram, gpa, len);
	}
	return false;
}

/* The used extent that [start, end) touches, or NULL. */
static const struct extent *find_overlap(const struct loader *ld, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < ld->used_count; i++)
		if (start < ld->used[i].end && ld->used[i].start < end)
			return &ld->used[i];
	return NULL;
}

void *loader_claim(struct loader *ld, const char *what, uint64_t gpa, uint64_t len)
{
	if (!loader_in_ram(ld, gpa, len)) {
		loader_fail(ld, "%s at %#llx (%llu KiB) does not lie in the machine's memory", what,
			    (unsigned long long)gpa, (unsigned long long)(len >> 10) + !!(len & 0x3ff));
		return NULL;
	}
	if (find_overlap(ld, gpa, gpa + len)) {
		loader_fail(ld, "%s at %#llx overlaps another one", what, (unsigned long long)gpa);
		return NULL;
	}
	if (ld->used_count == LOADER_EXTENTS_MAX) {
		loader_fail(ld, "too many segments");
		return NULL;
	}
	if (len)
		ld->used[ld->used_count++] = (struct extent){ gpa, gpa + len };
	return ram_ptr(ld->req->ram, gpa, len);
}

static uint64_t find_low(const struct loader *ld, uint64_t low, uint64_t high, uint64_t size, uint64_t align)
{
	uint64_t at = (low + align - 1) & ~(align - 1);
	const struct extent *in_way;

	while (at < high && size <= high - at) {
		in_way = find_overlap(ld, at, at + size);
		if (!in_way)
			return at;
		at = (in_way->end + align - 1) & ~(align - 1);
	}
	return 0;
}

static uint64_t find_high(const struct loader *ld, uint64_t low, uint64_t high, uint64_t size, uint64_t align)
{
	const struct extent *in_way;
	uint64_t at;

	while (high > low && size <= high - low) {
		at = (high - size) & ~(align - 1);
		if (at < low)
			break;
		in_way = find_overlap(ld, at, at + size);
		if (!in_way)
			return at;
		high = in_way->start;
	}
	return 0;
}

uint64_t loader_alloc(struct loader *ld, uint64_t low, uint64_t high, uint64_t size, uint64_t align, bool from_low)
{
	uint64_t at;

	if (ld->used_count == LOADER_EXTENTS_MAX)
		return 0;
	at = from_low ? find_low(ld, low, high, size, align) : find_high(ld, low, high, size, align);
	if (!at || !loader_in_ram(ld, at, size))
		return 0;
	ld->used[ld->used_count++] = (struct extent){ at, at + size };
	memset(ram_ptr(ld->req->ram, at, size), 0, size);
	return at;
}

uint64_t loader_alloc_low(struct loader *ld, uint64_t size)
{
	uint64_t at = loader_alloc(ld, LOADER_LOW_START, LOADER_LOW_END, size, PAGE_SIZE, false);

	if (!at)
		loader_fail(ld, "leaves no room for the boot structures in low memory");
	return at;
}

uint64_t loader_put_low(struct loader *ld, const void *data, uint64_t size)
{
	uint64_t at = loader_alloc_low(ld, size);

	if (at)
		ram_write(ld->req->ram, at, data, size);
	return at;
}

int loader_put_initrd(struct loader *ld, uint64_t low, uint64_t high, bool from_low, uint64_t *gpa)
{
	const struct boot_request *req = ld->req;

	*gpa = 0;
	if (!req->initrd || !req->initrd_size)
		return 0;
	if (high > req->ram->below_size)
		high = req->ram->below_size;
	*gpa = loader_alloc(ld, low, high, req->initrd_size, PAGE_SIZE, from_low);
	if (!*gpa) {
		snprintf(ld->error, ld->error_size,
			 "initrd: %llu KiB do not fit into the machine's memory (%llu MiB) beside the kernel",
			 (unsigned long long)(req->initrd_size + 1023) >> 10, (unsigned long long)req->ram->size >> 20);
		return -EINVAL;
	}
	ram_write(req->ram, *gpa, req->initrd, req->initrd_size);
	return 0;
}
