/* SPDX-License-Identifier: Apache-2.0 */
/* The image loaders: good images of each kind, and every way an image can be bad. */
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>

#include "boardfix.h"
#include "boot/boot.h"

#define MIB UINT64_C(0x100000)
#define IMAGE_MAX 0x10000
#define SETUP_SIZE (5 * 512)
#define PAYLOAD_SIZE 0x2000

struct fixture {
	struct guest_ram ram;
	struct boot_request req;
	struct boot_entry entry;
	uint8_t *image; /* IMAGE_MAX bytes */
	uint8_t *initrd;
	char error[256];
};

static void add_e820(struct boot_request *req, uint64_t base, uint64_t end, uint32_t type)
{
	req->e820[req->e820_count++] = (struct e820_entry){ base, end - base, type };
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(ram_create(&f->ram, 64 * MIB), 0);
	f->image = calloc(1, IMAGE_MAX);
	f->initrd = malloc(128 * MIB);
	memset(f->initrd, 0x77, 128 * MIB);
	f->req = (struct boot_request){
		.kernel_name = "test", .kernel = f->image, .append = "console=ttyS0", .ram = &f->ram, .rsdp = 0xf0000
	};
	add_e820(&f->req, 0, 0x9fc00, 1);
	add_e820(&f->req, 0x9fc00, 0xa0000, 2);
	add_e820(&f->req, 0xf0000, 0x100000, 2);
	add_e820(&f->req, 0x100000, 64 * MIB, 1);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ram_destroy(&f->ram);
	free(f->image);
	free(f->initrd);
	free(f);
	return 0;
}

/* The image is copied to the end of an allocation of its size, so that a sanitizer sees a read past it. */
static int load(struct fixture *f)
{
	uint8_t *exact = malloc(f->req.kernel_size ? f->req.kernel_size : 1);
	int err;

	memcpy(exact, f->image, f->req.kernel_size);
	f->req.kernel = exact;
	f->error[0] = '\0';
	err = boot_load(&f->req, &f->entry, f->error, sizeof(f->error));
	free(exact);
	if (err) {
		assert_true(f->error[0]);
		assert_null(strchr(f->error, '\n'));
	}
	return err;
}

static void expect_error(struct fixture *f, const char *part)
{
	assert_int_equal(load(f), -EINVAL);
	if (!strstr(f->error, part))
		fail_msg("\"%s\" does not say \"%s\"", f->error, part);
}

static void *guest(struct fixture *f, uint64_t gpa, uint64_t len)
{
	void *p = ram_ptr(&f->ram, gpa, len);

	assert_non_null(p);
	return p;
}

static void check_gdt(struct fixture *f, uint64_t code)
{
	const uint64_t *gdt = guest(f, f->entry.gdt, f->entry.gdt_limit + 1u);

	assert_int_equal(f->entry.cs, 0x10);
	assert_int_equal(f->entry.ds, 0x18);
	assert_int_equal(f->entry.gdt_limit, 31);
	assert_true(gdt[2] == code);
	assert_true(gdt[3] == UINT64_C(0x00cf93000000ffff));
}

/* ---- bzImage ---- */

static struct setup_header *make_bzimage(struct fixture *f)
{
	struct setup_header *h = (struct setup_header *)(f->image + 0x1f1);

	f->image[0x201] = 0x6a;
	h->setup_sects = 4;
	h->boot_flag = 0xaa55;
	memcpy(&h->header, "HdrS", 4);
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->syssize = PAYLOAD_SIZE / 16;
	h->initrd_addr_max = 0x7fffffff;
	h->kernel_alignment = 0x200000;
	h->relocatable_kernel = 1;
	h->cmdline_size = 2047;
	h->pref_address = 16 * MIB;
	h->init_size = 8 * MIB;
	memset(f->image + SETUP_SIZE, 0xab, PAYLOAD_SIZE);
	f->req.kernel_size = SETUP_SIZE + PAYLOAD_SIZE;
	return h;
}

static uint64_t walk(struct fixture *f, uint64_t va)
{
	uint64_t entry = f->entry.cr3 | 3;

	for (int shift = 39; shift >= 21; shift -= 9) {
		const uint64_t *table = guest(f, entry & ~UINT64_C(0xfff), 4096);

		entry = table[va >> shift & 511];
		assert_int_equal(entry & 3, 3);
	}
	assert_true(entry & 0x80);
	return (entry & ~UINT64_C(0x1fffff)) | (va & 0x1fffff);
}

static void test_bzimage(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *params;

	make_bzimage(f);
	f->req.initrd = f->initrd;
	f->req.initrd_size = 5 * MIB + 1;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.mode, BOOT_LONG64);
	assert_int_equal(f->entry.rip, 16 * MIB + 0x200);
	assert_memory_equal(guest(f, 16 * MIB, PAYLOAD_SIZE), f->image + SETUP_SIZE, PAYLOAD_SIZE);
	check_gdt(f, UINT64_C(0x00af9b000000ffff));
	assert_int_equal(walk(f, 0), 0);
	assert_int_equal(walk(f, 0xfee00123), 0xfee00123);
	assert_int_equal(walk(f, 0x7fffffff), 0x7fffffff);
	assert_int_equal(f->entry.rsp % 16, 0);

	params = guest(f, f->entry.rsi, sizeof(*params));
	assert_int_equal(params->hdr.type_of_loader, 0xff);
	assert_int_equal(params->hdr.version, 0x20f);
	assert_int_equal(params->acpi_rsdp_addr, 0xf0000);
	assert_int_equal(params->e820_entries, 4);
	assert_int_equal(params->e820_table[3].addr, MIB);
	assert_int_equal(params->hdr.ramdisk_size, 5 * MIB + 1);
	assert_int_equal(params->hdr.ramdisk_image % 4096, 0);
	assert_int_equal(params->hdr.ramdisk_image, 59 * MIB - 4096);
	assert_memory_equal(guest(f, params->hdr.ramdisk_image, 5 * MIB + 1), f->initrd, 5 * MIB + 1);
	assert_string_equal(guest(f, params->hdr.cmd_line_ptr, 100), "console=ttyS0");
	/* Linux's decompressor uses the top of conventional memory before it has its own tables */
	assert_true(f->entry.cr3 + 6 * 4096 <= 0x9d000);
}

static void test_bzimage_placement(void **state)
{
	struct fixture *f = *state;
	struct setup_header *h = make_bzimage(f);

	h->pref_address = 60 * MIB; /* does not fit: the lowest aligned place */
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.rip, 2 * MIB + 0x200);
	h->relocatable_kernel = 0;
	expect_error(f, "needs 8 MiB of memory from 60 MiB");
	h->pref_address = 0;
	expect_error(f, "needs");
	h->pref_address = UINT64_MAX - 4096;
	expect_error(f, "needs");
	h->pref_address = 16 * MIB;
	h->init_size = 0xffffffff;
	expect_error(f, "needs");
	h->init_size = 1; /* smaller than the payload: a lie */
	assert_int_equal(load(f), 0);
	h->kernel_alignment = 3;
	h->pref_address = 1;
	h->relocatable_kernel = 1;
	expect_error(f, "needs");
}

/* Without a 64-bit entry point: protected mode, %esi the only register that says something. */
static void test_bzimage_32bit(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *params;

	make_bzimage(f)->xloadflags = 0;
	f->req.initrd = f->initrd;
	f->req.initrd_size = MIB;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.mode, BOOT_PROT32);
	assert_int_equal(f->entry.rip, 16 * MIB);
	check_gdt(f, UINT64_C(0x00cf9b000000ffff));
	assert_true(!f->entry.rbx && !f->entry.rax && !f->entry.rsp && !f->entry.cr3);
	assert_memory_equal(guest(f, 16 * MIB, PAYLOAD_SIZE), f->image + SETUP_SIZE, PAYLOAD_SIZE);
	params = guest(f, f->entry.rsi, sizeof(*params));
	assert_int_equal(params->hdr.code32_start, 16 * MIB);
	assert_int_equal(params->hdr.ramdisk_size, MIB);
	assert_int_equal(params->e820_entries, 4);
	assert_string_equal(guest(f, params->hdr.cmd_line_ptr, 100), "console=ttyS0");
	/* A payload that ends before the 64-bit entry point would be. */
	make_bzimage(f)->xloadflags = 0;
	((struct setup_header *)(f->image + 0x1f1))->syssize = 0x100 / 16;
	f->req.kernel_size = SETUP_SIZE + 0x100;
	assert_int_equal(load(f), 0);
}

/* Fields that came with a later version of the protocol say nothing. */
static void test_bzimage_old(void **state)
{
	struct fixture *f = *state;
	struct setup_header *h = make_bzimage(f);
	const struct boot_params *params;
	char line[300];

	h->version = 0x20b; /* xloadflags are of 2.12 */
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.mode, BOOT_PROT32);
	assert_int_equal(f->entry.rip, 16 * MIB);
	h->version = 0x209; /* pref_address and init_size of 2.10 */
	h->init_size = 0xffffffff;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.rip, MIB);
	h->version = 0x205; /* cmdline_size of 2.06 */
	memset(line, 'x', sizeof(line));
	line[255] = '\0';
	f->req.append = line;
	assert_int_equal(load(f), 0);
	line[255] = 'x';
	line[256] = '\0';
	expect_error(f, "this kernel takes 255");
	line[255] = '\0';
	h->version = 0x202; /* initrd_addr_max of 2.03 */
	h->initrd_addr_max = 0;
	f->req.initrd = f->initrd;
	f->req.initrd_size = MIB;
	assert_int_equal(load(f), 0);
	params = guest(f, f->entry.rsi, sizeof(*params));
	assert_int_equal(params->hdr.ramdisk_image, 63 * MIB);
}

static void test_bzimage_bad(void **state)
{
	struct fixture *f = *state;

	make_bzimage(f)->version = 0x201;
	expect_error(f, "boot protocol 2.01");
	make_bzimage(f)->boot_flag = 0;
	expect_error(f, "boot sector");
	make_bzimage(f)->loadflags = 0;
	expect_error(f, "zImage");
	make_bzimage(f)->syssize = PAYLOAD_SIZE / 16 + 1;
	assert_int_equal(load(f), -EINVAL);
	make_bzimage(f)->syssize = 0xffffffff;
	expect_error(f, "truncated");
	make_bzimage(f)->setup_sects = 255;
	expect_error(f, "truncated");
	make_bzimage(f);
	f->req.kernel_size = 0x206;
	expect_error(f, "truncated");
	make_bzimage(f);
	f->req.kernel_size = SETUP_SIZE + 0x200;
	((struct setup_header *)(f->image + 0x1f1))->syssize = 0;
	expect_error(f, "truncated");
}

static void test_bzimage_cmdline(void **state)
{
	struct fixture *f = *state;
	char line[3000];

	make_bzimage(f)->cmdline_size = 255;
	memset(line, 'x', sizeof(line));
	line[255] = '\0';
	f->req.append = line;
	assert_int_equal(load(f), 0);
	line[255] = 'x';
	line[256] = '\0';
	expect_error(f, "command line is 256 bytes");
	make_bzimage(f);
	line[256] = 'x';
	line[2999] = '\0';
	expect_error(f, "command line");
}

static void test_initrd_too_large(void **state)
{
	struct fixture *f = *state;

	f->req.initrd = f->initrd;
	f->req.initrd_size = 128 * MIB;
	make_bzimage(f);
	expect_error(f, "initrd");
	f->req.initrd_size = 45 * MIB; /* there is as much, but not in one piece */
	expect_error(f, "initrd");
	f->req.initrd_size = 39 * MIB;
	assert_int_equal(load(f), 0);
	make_bzimage(f)->initrd_addr_max = 0x100fff;
	expect_error(f, "initrd");
}

/* ---- ELF ---- */

struct elf64 {
	Elf64_Ehdr eh;
	Elf64_Phdr load, note;
	struct {
		Elf64_Nhdr h;
		char name[4];
		uint32_t value, pad;
	} n;
	uint8_t code[0x100];
};

static struct elf64 *make_pvh(struct fixture *f)
{
	struct elf64 *e = (struct elf64 *)f->image;

	memset(f->image, 0, IMAGE_MAX);
	memcpy(e->eh.e_ident, ELFMAG, 4);
	e->eh.e_ident[EI_CLASS] = ELFCLASS64;
	e->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	e->eh.e_type = ET_EXEC;
	e->eh.e_machine = EM_X86_64;
	e->eh.e_phoff = offsetof(struct elf64, load);
	e->eh.e_phentsize = sizeof(Elf64_Phdr);
	e->eh.e_phnum = 2;
	e->load = (Elf64_Phdr){ .p_type = PT_LOAD,
				.p_offset = offsetof(struct elf64, code),
				.p_vaddr = UINT64_C(0xffffffff81000000),
				.p_paddr = 16 * MIB,
				.p_filesz = sizeof(e->code),
				.p_memsz = 0x2000 };
	e->note = (Elf64_Phdr){
		.p_type = PT_NOTE, .p_offset = offsetof(struct elf64, n), .p_filesz = sizeof(e->n), .p_align = 4
	};
	e->n.h = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 8, .n_type = 18 };
	memcpy(e->n.name, "Xen", 4);
	e->n.value = 16 * MIB + 0x40;
	memset(e->code, 0xf4, sizeof(e->code));
	f->req.kernel_size = sizeof(*e);
	return e;
}

static void test_pvh(void **state)
{
	struct fixture *f = *state;
	const uint32_t *info;
	const uint64_t *info64, *module;

	make_pvh(f);
	memset(guest(f, 16 * MIB, 0x2000), 0xee, 0x2000);
	f->req.initrd = f->initrd;
	f->req.initrd_size = MIB;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.mode, BOOT_PROT32);
	assert_int_equal(f->entry.rip, 16 * MIB + 0x40);
	check_gdt(f, UINT64_C(0x00cf9b000000ffff));
	assert_int_equal(((uint8_t *)guest(f, 16 * MIB, 1))[0], 0xf4);
	assert_int_equal(((uint8_t *)guest(f, 16 * MIB + 0x100, 1))[0], 0); /* bss */
	assert_int_equal(((uint8_t *)guest(f, 16 * MIB + 0x1fff, 1))[0], 0);
	info = guest(f, f->entry.rbx, 56);
	info64 = (const uint64_t *)(info + 4);
	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(info[1], 1);
	assert_int_equal(info[3], 1);
	module = guest(f, info64[0], 32);
	assert_int_equal(module[1], MIB);
	assert_memory_equal(guest(f, module[0], MIB), f->initrd, MIB);
	assert_string_equal(guest(f, info64[1], 100), "console=ttyS0");
	assert_int_equal(info64[2], 0xf0000);
	assert_int_equal(info[12], 4);
	assert_int_equal(((const uint64_t *)guest(f, info64[3], 24))[1], 0x9fc00);
}

static void test_elf_bad(void **state)
{
	struct fixture *f = *state;

	make_pvh(f)->eh.e_machine = EM_AARCH64;
	expect_error(f, "not for x86");
	make_pvh(f)->eh.e_type = ET_REL;
	expect_error(f, "not an executable");
	make_pvh(f)->eh.e_ident[EI_CLASS] = 9;
	expect_error(f, "class");
	make_pvh(f)->eh.e_phoff = UINT64_MAX - 10;
	expect_error(f, "program headers");
	make_pvh(f)->eh.e_phentsize = 8;
	expect_error(f, "program headers");
	make_pvh(f)->eh.e_phnum = 0;
	expect_error(f, "PVH note");
	make_pvh(f)->n.h.n_type = 17;
	expect_error(f, "PVH note");
	make_pvh(f)->n.h.n_namesz = 0xffffffff;
	expect_error(f, "PVH note");
	make_pvh(f)->n.h.n_descsz = 0xfffffff0;
	expect_error(f, "PVH note");
	make_pvh(f)->note.p_offset = UINT64_MAX;
	expect_error(f, "PVH note");
	make_pvh(f)->n.value = 0xf0000000;
	expect_error(f, "entry point");
	make_pvh(f)->load.p_offset = UINT64_MAX - 1;
	expect_error(f, "truncated");
	make_pvh(f)->load.p_filesz = 0x3000;
	expect_error(f, "larger in the file");
	make_pvh(f)->load.p_filesz = 0x1fff;
	expect_error(f, "truncated");
	make_pvh(f)->load.p_paddr = 64 * MIB - 0x1000;
	expect_error(f, "does not lie in the machine's memory");
	make_pvh(f)->load.p_paddr = UINT64_MAX - 0x100;
	expect_error(f, "does not lie in the machine's memory");
	make_pvh(f)->load.p_memsz = UINT64_MAX;
	expect_error(f, "does not lie in the machine's memory");
	make_pvh(f)->load.p_paddr = 0xf0000; /* the ACPI tables */
	expect_error(f, "does not lie in the machine's memory");
	make_pvh(f)->load.p_type = PT_NULL;
	expect_error(f, "anything to load");
	make_pvh(f)->note = ((struct elf64 *)f->image)->load;
	expect_error(f, "PVH note");
	/* takes all of low memory */
	make_pvh(f)->load.p_paddr = 0x1000;
	((struct elf64 *)f->image)->load.p_memsz = 0x9e000;
	((struct elf64 *)f->image)->n.value = 0x1000;
	expect_error(f, "boot structures");
}

static void test_truncations(void **state)
{
	struct fixture *f = *state;
	size_t size;

	make_pvh(f);
	for (size = f->req.kernel_size - 1; size > 0; size -= size > 512 ? 64 : 1) {
		f->req.kernel_size = size;
		assert_int_equal(load(f), -EINVAL);
	}
	memset(f->image, 0, IMAGE_MAX);
	make_bzimage(f);
	for (size = f->req.kernel_size - 16; size > 0; size -= size > 1024 ? 256 : 1) {
		f->req.kernel_size = size;
		assert_int_equal(load(f), -EINVAL);
	}
	f->req.kernel_size = 0;
	expect_error(f, "empty");
	f->req.kernel_size = 100;
	expect_error(f, "not a kernel");
	memset(f->image, 'x', IMAGE_MAX);
	f->req.kernel_size = IMAGE_MAX;
	expect_error(f, "not a kernel");
}

/* ---- Multiboot ---- */

struct elf32 {
	Elf32_Ehdr eh;
	Elf32_Phdr load;
	uint32_t header[8];
	uint8_t code[0x100];
};

static struct elf32 *make_multiboot(struct fixture *f, uint32_t flags)
{
	struct elf32 *e = (struct elf32 *)f->image;

	memset(f->image, 0, IMAGE_MAX);
	memcpy(e->eh.e_ident, ELFMAG, 4);
	e->eh.e_ident[EI_CLASS] = ELFCLASS32;
	e->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	e->eh.e_type = ET_EXEC;
	e->eh.e_machine = EM_386;
	e->eh.e_entry = 0x80400010; /* virtual */
	e->eh.e_phoff = offsetof(struct elf32, load);
	e->eh.e_phentsize = sizeof(Elf32_Phdr);
	e->eh.e_phnum = 1;
	e->load = (Elf32_Phdr){ .p_type = PT_LOAD,
				.p_offset = 0,
				.p_vaddr = 0x80400000,
				.p_paddr = 0x400000,
				.p_filesz = sizeof(*e),
				.p_memsz = 0x3000 };
	e->header[0] = 0x1badb002;
	e->header[1] = flags;
	e->header[2] = -(0x1badb002 + flags);
	f->req.kernel_size = sizeof(*e);
	return e;
}

static void test_multiboot(void **state)
{
	struct fixture *f = *state;
	const uint32_t *info, *module;
	const uint8_t *map;
	uint64_t base, total = 0;

	make_multiboot(f, 0);
	f->req.initrd = f->initrd;
	f->req.initrd_size = 4097;
	f->req.initrd_name = "env";
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.mode, BOOT_PROT32);
	assert_int_equal(f->entry.rip, 0x400010);
	assert_int_equal(f->entry.rax, 0x2badb002);
	info = guest(f, f->entry.rbx, 88);
	assert_int_equal(info[0] & 0x4d, 0x4d);
	assert_int_equal(info[1], 639);
	assert_int_equal(info[2], 63 * 1024);
	assert_string_equal(guest(f, info[4], 100), "test console=ttyS0");
	assert_int_equal(info[5], 1);
	module = guest(f, info[6], 16);
	assert_int_equal(module[0], 0x403000); /* behind the image */
	assert_int_equal(module[1] - module[0], 4097);
	assert_string_equal(guest(f, module[2], 10), "env");
	map = guest(f, info[12], info[11]);
	for (uint32_t at = 0; at < info[11];) {
		uint32_t size, type;
		uint64_t length;

		memcpy(&size, map + at, 4);
		memcpy(&base, map + at + 4, 8);
		memcpy(&length, map + at + 12, 8);
		memcpy(&type, map + at + 20, 4);
		assert_int_equal(size, 20);
		if (type == 1)
			total += length;
		at += size + 4;
	}
	assert_int_equal(total, 63 * MIB + 0x9fc00);
	f->req.append = "";
	assert_int_equal(load(f), 0);
	assert_string_equal(guest(f, info[4], 10), "test ");
}

/* An image at 0x8000, as kvm-unit-tests' realmode.flat: the information must not lie in it. */
static void test_multiboot_low(void **state)
{
	struct fixture *f = *state;
	struct elf32 *e = make_multiboot(f, 0);
	const uint32_t *info;

	e->load.p_vaddr = e->load.p_paddr = 0x8000;
	e->load.p_memsz = 0x80000;
	e->eh.e_entry = 0x8010;
	assert_int_equal(load(f), 0);
	assert_true(f->entry.rbx >= 0x88000);
	info = guest(f, f->entry.rbx, 88);
	assert_true(info[4] >= 0x88000 && info[12] >= 0x88000 && f->entry.gdt >= 0x88000);
}

static void test_multiboot_elf64(void **state)
{
	struct fixture *f = *state;
	struct elf64 *e = make_pvh(f);
	const uint32_t header[3] = { 0x1badb002, 0, -0x1badb002u };

	memcpy(e->code + 4, header, sizeof(header));
	e->eh.e_entry = e->load.p_vaddr + 0x20;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.rax, 0x2badb002);
	assert_int_equal(f->entry.rip, 16 * MIB + 0x20);
}

static void make_kludge(struct fixture *f, uint32_t load_end, uint32_t bss_end)
{
	uint32_t header[8] = { 0x1badb002, 0x10003,       -(0x1badb002u + 0x10003), 2 * MIB + 0x80, 2 * MIB, load_end,
			       bss_end,    2 * MIB + 0x10 };

	memset(f->image, 0x90, IMAGE_MAX);
	memcpy(f->image + 0x180, header, sizeof(header)); /* the load address is at 0x100 of the file */
	f->req.kernel_size = 0x1000;
}

static void test_multiboot_kludge(void **state)
{
	struct fixture *f = *state;

	make_kludge(f, 0, 0);
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.rip, 2 * MIB + 0x10);
	assert_memory_equal(guest(f, 2 * MIB, 0xf00), f->image + 0x100, 0xf00);
	memset(guest(f, 2 * MIB, 0x4000), 0xee, 0x4000);
	make_kludge(f, 2 * MIB + 0x200, 2 * MIB + 0x3000);
	assert_int_equal(load(f), 0);
	assert_int_equal(((uint8_t *)guest(f, 2 * MIB + 0x1ff, 1))[0], 0x90);
	assert_int_equal(((uint8_t *)guest(f, 2 * MIB + 0x200, 1))[0], 0);
	assert_int_equal(((uint8_t *)guest(f, 2 * MIB + 0x3000, 1))[0], 0xee);
}

static void test_multiboot_bad(void **state)
{
	struct fixture *f = *state;
	uint32_t *h = (uint32_t *)(f->image + 0x180);

	make_kludge(f, 2 * MIB + 0x2000, 0);
	expect_error(f, "truncated");
	make_kludge(f, 1 * MIB, 0);
	expect_error(f, "ends before it starts");
	make_kludge(f, 0, 2 * MIB + 4);
	expect_error(f, "bss");
	make_kludge(f, 0, 0xf0000000);
	expect_error(f, "does not lie");
	make_kludge(f, 0, 0);
	h[4] = 2 * MIB + 0x100; /* load_addr above header_addr */
	expect_error(f, "load address");
	make_kludge(f, 0, 0);
	h[3] = 2 * MIB + 0x1000; /* would start before the file */
	expect_error(f, "load address");
	make_kludge(f, 0, 0);
	h[7] = 0xfff00000;
	expect_error(f, "entry point");
	make_kludge(f, 0, 0);
	f->req.kernel_size = 0x190;
	expect_error(f, "truncated");
	make_multiboot(f, 8);
	expect_error(f, "features 0x8");
	make_multiboot(f, 0)->eh.e_ident[0] = 0;
	expect_error(f, "not ELF");
	make_multiboot(f, 0)->eh.e_entry = 0xf0000000;
	expect_error(f, "entry point");
	make_multiboot(f, 0);
	f->req.initrd = f->initrd;
	f->req.initrd_size = 64 * MIB;
	expect_error(f, "initrd");
}

/* Random damage: any answer but a crash (run under ASan too). */
static void test_mutations(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 42;

	for (unsigned i = 0; i < 3000; i++) {
		switch (i % 4) {
		case 0: make_pvh(f); break;
		case 1: make_multiboot(f, 0); break;
		case 2: make_kludge(f, 0, 0); break;
		default: memset(f->image, 0, IMAGE_MAX); make_bzimage(f);
		}
		for (unsigned n = 0; n < 4; n++) {
			seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
			f->image[(seed >> 33) % 0x280] = (uint8_t)(seed >> 25);
		}
		load(f);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bzimage),          TEST(test_bzimage_placement),
		TEST(test_bzimage_bad),      TEST(test_bzimage_32bit),
		TEST(test_bzimage_old),      TEST(test_bzimage_cmdline),
		TEST(test_initrd_too_large), TEST(test_pvh),
		TEST(test_elf_bad),          TEST(test_truncations),
		TEST(test_multiboot),        TEST(test_multiboot_low),
		TEST(test_multiboot_elf64),  TEST(test_multiboot_kludge),
		TEST(test_multiboot_bad),    TEST(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
