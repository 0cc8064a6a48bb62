/* SPDX-License-Identifier: Apache-2.0 */
/* Image loaders on damaged images: an error in one line or a start state inside guest memory, and no touch elsewhere.
 */
#include <asm/bootparam.h>
#include <elf.h>
#include <stdlib.h>

#include "boardfix.h"
#include "boot/boot.h"
#include "fuzz.h"

#define MIB UINT64_C(0x100000)
#define IMAGE_SIZE 0x4000u
#define RAM_SIZE (4 * MIB)
#define ROUNDS 2000

struct fixture {
	struct guest_ram ram;
	struct boot_request req;
	uint8_t image[IMAGE_SIZE];
	uint8_t initrd[0x3000];
};

static void make_bzimage(uint8_t *image)
{
	struct setup_header *h = (struct setup_header *)(image + 0x1f1);

	image[0x201] = 0x6a;
	h->setup_sects = 4;
	h->boot_flag = 0xaa55;
	memcpy(&h->header, "HdrS", 4);
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->syssize = 0x100;
	h->initrd_addr_max = 0x7fffffff;
	h->kernel_alignment = 0x1000;
	h->relocatable_kernel = 1;
	h->cmdline_size = 2047;
	h->pref_address = MIB;
	h->init_size = MIB;
}

static void make_elf64(uint8_t *image)
{
	Elf64_Ehdr eh = { .e_type = ET_EXEC,
			  .e_machine = EM_X86_64,
			  .e_entry = MIB,
			  .e_phoff = 0x40,
			  .e_phnum = 3,
			  .e_phentsize = sizeof(Elf64_Phdr) };
	Elf64_Phdr ph[3] = { { .p_type = PT_LOAD,
			       .p_offset = 0x1000,
			       .p_vaddr = MIB,
			       .p_paddr = MIB,
			       .p_filesz = 0x1000,
			       .p_memsz = 0x2000 },
			     { .p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 0x40, .p_align = 4 },
			     { .p_type = PT_LOAD,
			       .p_offset = 0x2000,
			       .p_vaddr = 2 * MIB,
			       .p_paddr = 2 * MIB,
			       .p_filesz = 0x10,
			       .p_memsz = 0x10 } };
	struct {
		Elf64_Nhdr head;
		char name[4];
		uint32_t entry;
	} note = { { 4, 4, 18 }, "Xen", MIB };

	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	eh.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + 0x40, ph, sizeof(ph));
	memcpy(image + 0x200, &note, sizeof(note));
}

static void make_elf32(uint8_t *image)
{
	Elf32_Ehdr eh = { .e_type = ET_EXEC,
			  .e_machine = EM_386,
			  .e_entry = MIB,
			  .e_phoff = 0x40,
			  .e_phnum = 1,
			  .e_phentsize = sizeof(Elf32_Phdr) };
	Elf32_Phdr ph = { .p_type = PT_LOAD,
			  .p_offset = 0x1000,
			  .p_vaddr = MIB,
			  .p_paddr = MIB,
			  .p_filesz = 0x1000,
			  .p_memsz = 0x2000 };
	const uint32_t header[3] = { 0x1badb002, 3, -(0x1badb002u + 3) };

	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS32;
	eh.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + 0x40, &ph, sizeof(ph));
	memcpy(image + 0x100, header, sizeof(header));
}

static void make_kludge(uint8_t *image)
{
	const uint32_t flags = 0x10003;
	const uint32_t header[8] = { 0x1badb002, flags,        -(0x1badb002u + flags), MIB + 0x10,
				     MIB,        MIB + 0x1000, MIB + 0x2000,           MIB + 0x40 };

	memcpy(image + 0x10, header, sizeof(header));
}

/* The damage goes to the first 1 KiB, where the headers are; the checksum of a Multiboot header is mended half the
 * time. */
static void damage(struct fuzz *z, uint8_t *image, size_t header)
{
	uint32_t flags, checksum;

	fuzz_mutate(z, image, 0x400);
	if (!header || fuzz_below(z, 2))
		return;
	fuzz_mutate(z, image + header, 32);
	memcpy(image + header, &(uint32_t){ 0x1badb002 }, 4);
	memcpy(&flags, image + header + 4, 4);
	checksum = -(0x1badb002u + flags);
	memcpy(image + header + 8, &checksum, 4);
}

static void load_one(struct fixture *f, size_t size)
{
	struct boot_entry entry;
	char error[256] = "";
	uint8_t *exact = malloc(size ? size : 1); /* a sanitizer sees a read past it */

	memcpy(exact, f->image, size);
	f->req.kernel = exact;
	f->req.kernel_size = size;
	if (boot_load(&f->req, &entry, error, sizeof(error))) {
		assert_true(error[0]);
		assert_null(strchr(error, '\n'));
	} else {
		assert_non_null(ram_ptr(&f->ram, entry.rip, 1));
		assert_non_null(ram_ptr(&f->ram, entry.gdt, entry.gdt_limit + 1u));
	}
	free(exact);
}

static void fuzz_format(void (*make)(uint8_t *image), size_t multiboot_header)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fuzz z = fuzz_start(multiboot_header + 1);

	assert_int_equal(ram_create(&f->ram, RAM_SIZE), 0);
	f->req = (struct boot_request){
		.kernel_name = "test", .append = "quiet", .ram = &f->ram, .rsdp = 0xf0000, .e820_count = 2
	};
	f->req.e820[0] = (struct e820_entry){ 0, 0x9fc00, 1 };
	f->req.e820[1] = (struct e820_entry){ MIB, RAM_SIZE - MIB, 1 };
	for (unsigned i = 0; i < fuzz_rounds(ROUNDS); i++) {
		memset(f->image, 0, sizeof(f->image));
		make(f->image);
		if (i)
			damage(&z, f->image, multiboot_header);
		f->req.initrd = i & 1 ? f->initrd : NULL;
		f->req.initrd_size = i & 1 ? sizeof(f->initrd) : 0;
		load_one(f, fuzz_below(&z, 4) ? IMAGE_SIZE : fuzz_below(&z, IMAGE_SIZE + 1));
	}
	ram_destroy(&f->ram);
	free(f);
}

static void test_bzimage(void **state)
{
	(void)state;
	fuzz_format(make_bzimage, 0);
}

static void test_pvh(void **state)
{
	(void)state;
	fuzz_format(make_elf64, 0);
}

static void test_multiboot_elf(void **state)
{
	(void)state;
	fuzz_format(make_elf32, 0x100);
}

static void test_multiboot_kludge(void **state)
{
	(void)state;
	fuzz_format(make_kludge, 0x10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bzimage),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_multiboot_elf),
		cmocka_unit_test(test_multiboot_kludge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
