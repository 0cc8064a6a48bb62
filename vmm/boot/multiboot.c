/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 0.6.96 ("Multiboot 1"): ELF images of either class, and the a.out kludge. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/elf_image.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH 8192
#define LOADER_MAGIC 0x2badb002u

/* Header flags (3.1.2). Bits 15:0 are demands: 0 page-aligned modules, 1 memory information, 2 video mode. */
#define HEADER_DEMANDS 0xffffu
#define HEADER_DEMANDS_MET 0x0007u /* the video mode is a wish; we have no video */
#define HEADER_HAS_ADDRESSES 0x10000u

/* Information flags (3.3) */
#define INFO_MEMORY 0x001u
#define INFO_CMDLINE 0x004u
#define INFO_MODULES 0x008u
#define INFO_MMAP 0x040u
#define INFO_LOADER_NAME 0x200u

struct mb_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with HEADER_HAS_ADDRESSES */
};
#define HEADER_SIZE_PLAIN 12

struct mb_info {
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
	uint32_t vbe[4];
};

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct mb_mmap {
	uint32_t size; /* of the rest */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

/* Everything small in one piece, so that it takes one place in low memory. */
struct mb_block {
	struct mb_info info;
	struct mb_module module;
	struct mb_mmap mmap[E820_MAX];
	char loader_name[16];
};

static bool find_header(const struct loader *ld, size_t *offset, struct mb_header *header)
{
	for (*offset = 0; *offset < HEADER_SEARCH; *offset += 4) {
		if (!loader_in_image(ld, *offset, HEADER_SIZE_PLAIN))
			return false;
		memset(header, 0, sizeof(*header));
		memcpy(header, ld->req->kernel + *offset, HEADER_SIZE_PLAIN);
		if (header->magic == HEADER_MAGIC && header->magic + header->flags + header->checksum == 0)
			return true;
	}
	return false;
}

bool multiboot_match(const struct loader *ld)
{
	struct mb_header header;
	size_t offset;

	return find_header(ld, &offset, &header);
}

/* The image as its header describes it (3.1.3). */
static int load_by_addresses(struct loader *ld, size_t offset, const struct mb_header *h, uint64_t *entry,
			     uint64_t *end)
{
	uint64_t before = (uint64_t)h->header_addr - h->load_addr;
	uint64_t start, file_size, mem_size;
	uint8_t *p;

	if (h->load_addr > h->header_addr || before > offset)
		return loader_fail(ld, "damaged Multiboot header: load address %#x does not match", h->load_addr);
	start = offset - before;
	file_size = ld->req->kernel_size - start;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr)
			return loader_fail(ld, "damaged Multiboot header: ends before it starts");
		if (h->load_end_addr - h->load_addr > file_size)
			return loader_fail(ld, "truncated: the file ends before Multiboot's load_end_addr");
		file_size = h->load_end_addr - h->load_addr;
	}
	mem_size = file_size;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr || h->bss_end_addr - h->load_addr < file_size)
			return loader_fail(ld, "damaged Multiboot header: bss ends before the data");
		mem_size = h->bss_end_addr - h->load_addr;
	}
	p = loader_claim(ld, "the image", h->load_addr, mem_size);
	if (!p)
		return -EINVAL;
	memcpy(p, ld->req->kernel + start, file_size);
	memset(p + file_size, 0, mem_size - file_size);
	*entry = h->entry_addr;
	*end = h->load_addr + mem_size;
	return 0;
}

static int load_image(struct loader *ld, uint64_t *entry, uint64_t *end)
{
	struct mb_header header;
	struct elf_image elf;
	size_t offset;
	int err;

	if (!find_header(ld, &offset, &header))
		return loader_fail(ld, "no Multiboot header");
	if (header.flags & HEADER_DEMANDS & ~HEADER_DEMANDS_MET)
		return loader_fail(ld, "wants Multiboot features %#x, which are not known",
				   header.flags & HEADER_DEMANDS & ~HEADER_DEMANDS_MET);
	if (header.flags & HEADER_HAS_ADDRESSES) {
		if (!loader_in_image(ld, offset, sizeof(header)))
			return loader_fail(ld, "truncated: the file ends inside the Multiboot header");
		memcpy(&header, ld->req->kernel + offset, sizeof(header));
		return load_by_addresses(ld, offset, &header, entry, end);
	}
	if (!elf_match(ld))
		return loader_fail(ld, "a Multiboot image that is not ELF and has no load addresses");
	err = elf_parse(ld, &elf);
	if (!err)
		err = elf_load(ld, &elf, end);
	if (!err)
		*entry = elf_entry_physical(ld, &elf);
	return err;
}

/* "<image name> <--append>", as QEMU gives it. */
static uint64_t put_cmdline(struct loader *ld)
{
	const struct boot_request *req = ld->req;
	size_t size = strlen(req->kernel_name) + strlen(req->append) + 2;
	uint64_t gpa;

	if (size > LOADER_CMDLINE_MAX) {
		loader_fail(ld, "the command line is %zu bytes long; %u are possible", size - 1,
			    LOADER_CMDLINE_MAX - 1);
		return 0;
	}
	gpa = loader_alloc_low(ld, size);
	if (gpa)
		snprintf(ram_ptr(req->ram, gpa, size), size, "%s %s", req->kernel_name, req->append);
	return gpa;
}

static uint32_t fill_mmap(const struct boot_request *req, struct mb_mmap *mmap)
{
	for (unsigned i = 0; i < req->e820_count; i++)
		mmap[i] = (struct mb_mmap){ .size = sizeof(mmap[i]) - sizeof(mmap[i].size),
					    .base = req->e820[i].base,
					    .length = req->e820[i].size,
					    .type = req->e820[i].type };
	return req->e820_count * (uint32_t)sizeof(mmap[0]);
}

static int put_module_string(struct loader *ld, struct mb_module *module)
{
	const char *name = ld->req->initrd_name ? ld->req->initrd_name : "initrd";

	if (strlen(name) >= LOADER_CMDLINE_MAX)
		return loader_fail(ld, "the initrd's name is too long");
	module->string = (uint32_t)loader_put_low(ld, name, strlen(name) + 1);
	return module->string ? 0 : -EINVAL;
}

static int put_info(struct loader *ld, uint64_t initrd)
{
	const struct boot_request *req = ld->req;
	struct mb_block block = { .loader_name = "Trapeze" };
	struct mb_info *info = &block.info;
	uint32_t gpa = (uint32_t)loader_alloc_low(ld, sizeof(block));

	if (!gpa)
		return -EINVAL;
	info->flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME;
	info->mem_lower = (uint32_t)(req->e820_count ? req->e820[0].size >> 10 : 0);
	info->mem_upper = (uint32_t)((req->ram->below_size - LOADER_HIGH_START) >> 10);
	info->cmdline = (uint32_t)put_cmdline(ld);
	if (!info->cmdline)
		return -EINVAL;
	if (initrd) {
		info->mods_count = 1;
		info->mods_addr = gpa + (uint32_t)offsetof(struct mb_block, module);
		block.module.start = (uint32_t)initrd;
		block.module.end = (uint32_t)(initrd + req->initrd_size);
		if (put_module_string(ld, &block.module))
			return -EINVAL;
	}
	info->mmap_addr = gpa + (uint32_t)offsetof(struct mb_block, mmap);
	info->mmap_length = fill_mmap(req, block.mmap);
	info->boot_loader_name = gpa + (uint32_t)offsetof(struct mb_block, loader_name);
	ram_write(req->ram, gpa, &block, sizeof(block));
	ld->entry->rbx = gpa;
	return 0;
}

int multiboot_load(struct loader *ld)
{
	uint64_t entry = 0, end = 0, initrd;
	int err = load_image(ld, &entry, &end);

	if (err)
		return err;
	if (entry > UINT32_MAX || !loader_in_ram(ld, entry, 1))
		return loader_fail(ld, "the entry point %#llx does not lie in memory", (unsigned long long)entry);
	/* Modules follow the image, as other loaders have it: kernels take memory from the top. */
	if (end < LOADER_HIGH_START)
		end = LOADER_HIGH_START;
	err = loader_put_initrd(ld, end, UINT32_MAX, true, &initrd);
	if (!err)
		err = put_info(ld, initrd);
	ld->entry->rax = LOADER_MAGIC;
	if (!err)
		err = loader_enter_prot32(ld, (uint32_t)entry);
	return err;
}
