/* SPDX-License-Identifier: Apache-2.0 */
/* What the image loaders share: placing things in guest RAM, messages, the start state. Inside of vmm/boot. */
#ifndef VMM_BOOT_LOADER_H
#define VMM_BOOT_LOADER_H

#include <stdbool.h>

#include "boot/boot.h"

#define LOADER_EXTENTS_MAX 64

/* Boot structures go below this. Linux's decompressor overwrites the top of conventional memory while it still
 * runs on the loader's page tables. */
#define LOADER_LOW_START 0x1000u
#define LOADER_LOW_END 0x90000u
#define LOADER_HIGH_START 0x100000u
#define LOADER_CMDLINE_MAX 0x8000u

struct extent {
	uint64_t start, end;
};

struct loader {
	const struct boot_request *req;
	struct boot_entry *entry;
	char *error;
	size_t error_size;
	struct extent used[LOADER_EXTENTS_MAX]; /* of guest memory */
	unsigned used_count;
};

/* Writes "kernel NAME: …" and returns -EINVAL. */
__attribute__((format(printf, 2, 3))) int loader_fail(struct loader *ld, const char *fmt, ...);

/* Does the image have [offset, offset + len)? */
bool loader_in_image(const struct loader *ld, uint64_t offset, uint64_t len);

/* Is [gpa, gpa + len) whole in RAM that is the guest's to use (E820)? */
bool loader_in_ram(const struct loader *ld, uint64_t gpa, uint64_t len);

/* Marks [gpa, gpa + len) used and gives its host pointer; NULL with a message: not RAM, overlaps, too many pieces. */
void *loader_claim(struct loader *ld, const char *what, uint64_t gpa, uint64_t len);

/*
 * Free space within [low, high): the highest or, with from_low, the lowest place. It is claimed and zeroed.
 * Returns the GPA, or 0 if there is none.
 */
uint64_t loader_alloc(struct loader *ld, uint64_t low, uint64_t high, uint64_t size, uint64_t align, bool from_low);
/* In low memory, page aligned; 0 with a message. */
uint64_t loader_alloc_low(struct loader *ld, uint64_t size);
/* The same with a copy of data in it. */
uint64_t loader_put_low(struct loader *ld, const void *data, uint64_t size);

/* The initrd within [low, high), page aligned. 0, or -EINVAL with a message; *gpa is 0 without an initrd. */
int loader_put_initrd(struct loader *ld, uint64_t low, uint64_t high, bool from_low, uint64_t *gpa);

/* Start states: GDT, and for long mode page tables and a stack. 0 or -EINVAL with a message. */
int loader_enter_prot32(struct loader *ld, uint32_t eip);
int loader_enter_long64(struct loader *ld, uint64_t rip);

/* The formats. match: the image claims to be of this kind, so load's message is the one to show. */
bool bzimage_match(const struct loader *ld);
int bzimage_load(struct loader *ld);
bool multiboot_match(const struct loader *ld);
int multiboot_load(struct loader *ld);
bool pvh_match(const struct loader *ld); /* any ELF file */
int pvh_load(struct loader *ld);

#endif
