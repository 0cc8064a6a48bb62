/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels of either class, as far as a loader cares. Inside of vmm/boot. */
#ifndef VMM_BOOT_ELF_IMAGE_H
#define VMM_BOOT_ELF_IMAGE_H

#include "boot/loader.h"

struct elf_image {
	bool is64;
	uint64_t entry; /* as in the header: virtual */
	uint64_t ph_offset;
	unsigned ph_count, ph_size;
};

struct elf_segment {
	uint32_t type;
	uint64_t offset, file_size, vaddr, paddr, mem_size, align;
};

bool elf_match(const struct loader *ld);
int elf_parse(struct loader *ld, struct elf_image *elf); /* 0 or -EINVAL with a message */
/* Program header i of a parsed image; i < ph_count. */
void elf_segment_get(const struct loader *ld, const struct elf_image *elf, unsigned i, struct elf_segment *segment);
/* All PT_LOADs to their physical addresses; *end: behind the highest one. 0 or -EINVAL with a message. */
int elf_load(struct loader *ld, const struct elf_image *elf, uint64_t *end);
/* The entry point's physical address. */
uint64_t elf_entry_physical(const struct loader *ld, const struct elf_image *elf);
/* Value (4 or 8 bytes) of a note; false: there is none. */
bool elf_find_note(const struct loader *ld, const struct elf_image *elf, const char *name, uint32_t type,
		   uint64_t *value);

#endif
