/* SPDX-License-Identifier: Apache-2.0 */
/* PVH direct boot (Xen: docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h, version 1). */
#include <errno.h>
#include <string.h>

#include "boot/elf_image.h"

#define NOTE_OWNER "Xen"
#define NOTE_PHYS32_ENTRY 18
#define START_MAGIC 0x336ec578
#define START_VERSION 1

struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t module_count;
	uint64_t modules;
	uint64_t cmdline;
	uint64_t rsdp;
	uint64_t memmap;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct start_module {
	uint64_t address, size, cmdline, reserved;
};

struct start_memmap {
	uint64_t address, size;
	uint32_t type, reserved; /* types are E820's */
};

bool pvh_match(const struct loader *ld)
{
	return elf_match(ld);
}

static uint64_t put_memmap(struct loader *ld)
{
	struct start_memmap map[E820_MAX] = { 0 };

	for (unsigned i = 0; i < ld->req->e820_count; i++)
		map[i] =
			(struct start_memmap){ ld->req->e820[i].base, ld->req->e820[i].size, ld->req->e820[i].type, 0 };
	return loader_put_low(ld, map, sizeof(map));
}

static int put_start_info(struct loader *ld, uint64_t initrd)
{
	struct start_module module = { .address = initrd, .size = ld->req->initrd_size };
	struct start_info info = {
		.magic = START_MAGIC,
		.version = START_VERSION,
		.rsdp = ld->req->rsdp,
		.memmap_entries = ld->req->e820_count,
	};
	size_t length = strlen(ld->req->append);

	if (length >= LOADER_CMDLINE_MAX)
		return loader_fail(ld, "the command line is %zu bytes long; %u are possible", length,
				   LOADER_CMDLINE_MAX - 1);
	info.cmdline = loader_put_low(ld, ld->req->append, length + 1);
	if (!info.cmdline)
		return -EINVAL;
	info.memmap = put_memmap(ld);
	if (!info.memmap)
		return -EINVAL;
	if (initrd) {
		info.module_count = 1;
		info.modules = loader_put_low(ld, &module, sizeof(module));
		if (!info.modules)
			return -EINVAL;
	}
	ld->entry->rbx = loader_put_low(ld, &info, sizeof(info));
	return ld->entry->rbx ? 0 : -EINVAL;
}

int pvh_load(struct loader *ld)
{
	struct elf_image elf;
	uint64_t entry, end, initrd;
	int err = elf_parse(ld, &elf);

	if (err)
		return err;
	if (!elf_find_note(ld, &elf, NOTE_OWNER, NOTE_PHYS32_ENTRY, &entry))
		return loader_fail(ld, "an ELF file with neither a PVH note nor a Multiboot header");
	err = elf_load(ld, &elf, &end);
	if (err)
		return err;
	if (entry > UINT32_MAX || !loader_in_ram(ld, entry, 1))
		return loader_fail(ld, "the PVH entry point %#llx does not lie in memory", (unsigned long long)entry);
	err = loader_put_initrd(ld, LOADER_HIGH_START, UINT32_MAX, false, &initrd);
	if (!err)
		err = put_start_info(ld, initrd);
	if (!err)
		err = loader_enter_prot32(ld, (uint32_t)entry);
	return err;
}
