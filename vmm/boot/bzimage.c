/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux's boot protocol without its real-mode part (Documentation/arch/x86/boot.rst): kernels with a 64-bit entry point
 * are entered there ("64-bit Boot Protocol"), others as "32-bit Boot Protocol" says.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "boot/loader.h"

#define HEADER_OFFSET offsetof(struct boot_params, hdr)
#define HEADER_MAGIC "HdrS"
#define HEADER_MAGIC_OFFSET 0x202
#define HEADER_LENGTH_BYTE 0x201 /* the header ends that many bytes after the magic's start */
#define BOOT_FLAG 0xaa55
#define VERSION_NEEDED 0x202 /* before it, the command line had another place */
#define SECTOR 512
#define SETUP_SECTS_DEFAULT 4
#define LOADER_UNDEFINED 0xff
#define ENTRY64_OFFSET 0x200
#define SYSSIZE_UNIT 16
#define LOAD_LOWEST UINT64_C(0x100000)
#define LOAD_LIMIT UINT64_C(0x100000000) /* the entry must be identity-mapped */
#define VIDEO_MODE_NORMAL 0xffff

/* What holds for kernels older than the field that would say so. */
#define INITRD_MAX_DEFAULT 0x37ffffff
#define CMDLINE_SIZE_DEFAULT 255

struct bzimage {
	struct setup_header header;
	uint64_t setup_size; /* boot sector and setup code, bytes */
	uint64_t payload_size;
	uint64_t load;
	bool has64; /* a 64-bit entry point */
};

bool bzimage_match(const struct loader *ld)
{
	return loader_in_image(ld, HEADER_MAGIC_OFFSET, 4) &&
	       !memcmp(ld->req->kernel + HEADER_MAGIC_OFFSET, HEADER_MAGIC, 4);
}

/* Fields that the header's version does not have hold whatever the kernel's code put there. */
static void fill_defaults(struct setup_header *h)
{
	if (h->version < 0x203)
		h->initrd_addr_max = INITRD_MAX_DEFAULT;
	if (h->version < 0x205)
		h->relocatable_kernel = 0;
	if (h->version < 0x206)
		h->cmdline_size = CMDLINE_SIZE_DEFAULT;
	if (h->version < 0x20a) {
		h->pref_address = LOAD_LOWEST;
		h->init_size = 0;
	}
	if (h->version < 0x20c)
		h->xloadflags = 0;
}

static int read_header(struct loader *ld, struct bzimage *bz)
{
	const uint8_t *image = ld->req->kernel;
	size_t length = HEADER_MAGIC_OFFSET + image[HEADER_LENGTH_BYTE] - HEADER_OFFSET;
	struct setup_header *h = &bz->header;

	if (length > sizeof(*h))
		length = sizeof(*h);
	if (!loader_in_image(ld, HEADER_OFFSET, length))
		return loader_fail(ld, "truncated: the file ends inside the bzImage header");
	memcpy(h, image + HEADER_OFFSET, length);
	if (h->boot_flag != BOOT_FLAG)
		return loader_fail(ld, "damaged bzImage: no boot sector signature");
	if (h->version < VERSION_NEEDED)
		return loader_fail(ld, "boot protocol %u.%02u; 2.02 or later is needed", h->version >> 8,
				   h->version & 0xff);
	if (!(h->loadflags & LOADED_HIGH))
		return loader_fail(ld, "a zImage, loaded low; a bzImage is needed");
	fill_defaults(h);
	bz->has64 = h->xloadflags & XLF_KERNEL_64;
	return 0;
}

static int measure(struct loader *ld, struct bzimage *bz)
{
	const struct setup_header *h = &bz->header;
	unsigned sectors = h->setup_sects ? h->setup_sects : SETUP_SECTS_DEFAULT;
	uint64_t stated = (uint64_t)h->syssize * SYSSIZE_UNIT;

	bz->setup_size = (sectors + 1) * SECTOR;
	if (bz->setup_size >= ld->req->kernel_size)
		return loader_fail(ld, "truncated: the file ends inside the setup code");
	bz->payload_size = ld->req->kernel_size - bz->setup_size;
	/* The stated size is rounded up to whole units; a signature may follow it. */
	if (stated > bz->payload_size + SYSSIZE_UNIT - 1)
		return loader_fail(ld, "truncated: %llu KiB of %llu KiB",
				   (unsigned long long)ld->req->kernel_size >> 10,
				   (unsigned long long)(bz->setup_size + stated) >> 10);
	if (bz->has64 && bz->payload_size <= ENTRY64_OFFSET)
		return loader_fail(ld, "truncated: the file ends before the 64-bit entry point");
	return 0;
}

static bool fits(const struct loader *ld, uint64_t at, uint64_t size)
{
	return at >= LOAD_LOWEST && at < LOAD_LIMIT && loader_in_ram(ld, at, size);
}

/* Where the kernel prefers to be, or else the lowest place if it can be anywhere. */
static int place(struct loader *ld, struct bzimage *bz)
{
	const struct setup_header *h = &bz->header;
	uint64_t size = h->init_size > bz->payload_size ? h->init_size : bz->payload_size;
	uint64_t align = h->kernel_alignment;
	void *p;

	bz->load = h->pref_address;
	if (!fits(ld, bz->load, size) && h->relocatable_kernel && align && !(align & (align - 1)))
		bz->load = (LOAD_LOWEST + align - 1) & ~(align - 1);
	if (!fits(ld, bz->load, size))
		return loader_fail(ld, "needs %llu MiB of memory from %llu MiB on; the machine has %llu MiB",
				   (unsigned long long)(size + 0xfffff) >> 20, (unsigned long long)bz->load >> 20,
				   (unsigned long long)ld->req->ram->size >> 20);
	p = loader_claim(ld, "the kernel", bz->load, size);
	if (!p)
		return -EINVAL;
	memcpy(p, ld->req->kernel + bz->setup_size, bz->payload_size);
	return 0;
}

static int put_cmdline(struct loader *ld, const struct bzimage *bz, uint64_t *gpa)
{
	size_t length = strlen(ld->req->append);
	size_t max = bz->header.cmdline_size;

	if (max >= LOADER_CMDLINE_MAX)
		max = LOADER_CMDLINE_MAX - 1;
	if (length > max)
		return loader_fail(ld, "the command line is %zu bytes long; this kernel takes %zu", length, max);
	*gpa = loader_put_low(ld, ld->req->append, length + 1);
	return *gpa ? 0 : -EINVAL;
}

static void fill_e820(const struct boot_request *req, struct boot_params *params)
{
	for (unsigned i = 0; i < req->e820_count; i++)
		params->e820_table[i] = (struct boot_e820_entry){ .addr = req->e820[i].base,
								  .size = req->e820[i].size,
								  .type = req->e820[i].type };
	params->e820_entries = (uint8_t)req->e820_count;
}

/* The VGA as the setup code finds it in mode 3. */
static void fill_screen(struct boot_params *params)
{
	params->screen_info.orig_video_mode = 3;
	params->screen_info.orig_video_cols = 80;
	params->screen_info.orig_video_lines = 25;
	params->screen_info.orig_video_isVGA = VIDEO_TYPE_VGAC;
	params->screen_info.orig_video_points = 16;
}

static int put_zero_page(struct loader *ld, const struct bzimage *bz, uint64_t cmdline, uint64_t initrd)
{
	static const struct boot_params zero;
	uint64_t gpa = loader_alloc_low(ld, sizeof(zero));
	struct boot_params *params;

	if (!gpa)
		return -EINVAL;
	params = ram_ptr(ld->req->ram, gpa, sizeof(*params));
	params->hdr = bz->header;
	params->hdr.type_of_loader = LOADER_UNDEFINED;
	params->hdr.vid_mode = VIDEO_MODE_NORMAL;
	params->hdr.code32_start = (uint32_t)bz->load;
	params->hdr.cmd_line_ptr = (uint32_t)cmdline;
	params->hdr.ramdisk_image = (uint32_t)initrd;
	params->hdr.ramdisk_size = initrd ? (uint32_t)ld->req->initrd_size : 0;
	params->acpi_rsdp_addr = ld->req->rsdp;
	if (ld->req->vga)
		fill_screen(params);
	fill_e820(ld->req, params);
	ld->entry->rsi = gpa;
	return 0;
}

int bzimage_load(struct loader *ld)
{
	struct bzimage bz = { 0 };
	uint64_t cmdline = 0, initrd = 0;
	int err = read_header(ld, &bz);

	if (!err)
		err = measure(ld, &bz);
	if (!err)
		err = place(ld, &bz);
	if (!err)
		err = loader_put_initrd(ld, LOADER_HIGH_START, (uint64_t)bz.header.initrd_addr_max + 1, false, &initrd);
	if (!err)
		err = put_cmdline(ld, &bz, &cmdline);
	if (!err)
		err = put_zero_page(ld, &bz, cmdline, initrd);
	if (err)
		return err;
	/* %ebp, %edi and %ebx are 0 for the 32-bit entry, as all registers are that boot_entry does not name. */
	return bz.has64 ? loader_enter_long64(ld, bz.load + ENTRY64_OFFSET)
			: loader_enter_prot32(ld, (uint32_t)bz.load);
}
