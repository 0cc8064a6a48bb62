/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image loaders: bzImage, ELF with a PVH note, Multiboot, and the initrd beside them. Whatever the bytes are, there is
 * an error in one line or a start state inside guest memory.
 *
 * Input: 8 bytes of circumstances (see read_setup()), then the image.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "input.h"

#define MIB UINT64_C(0x100000)
#define GUARD UINT64_C(0x10000000)
#define HEAD 8
#define MULTIBOOT_MAGIC 0x1badb002u

struct setup {
	uint64_t ram_size, initrd_size;
	bool mend_checksum;
	char append[40];
};

static void read_setup(struct input *in, struct setup *s)
{
	static const uint8_t sizes[] = { 1, 2, 4, 8 };
	uint8_t flags = input_u8(in);
	uint64_t initrd = input_number(in, 3);
	unsigned length = input_u8(in) % sizeof(s->append);

	memset(s, 0, sizeof(*s));
	s->ram_size = sizes[flags & 3] * MIB;
	s->mend_checksum = flags & 4;
	s->initrd_size = flags & 8 ? initrd % (3 * MIB) : 0;
	memset(s->append, input_u8(in) | 1, length);
	input_number(in, 2);
}

/* RAM between guards: a loader that misses it is seen. */
static uint8_t *ram_map(uint64_t size)
{
	uint8_t *p = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(mprotect(p + GUARD, size, PROT_READ | PROT_WRITE) == 0);
	return p + GUARD;
}

static void ram_unmap(uint8_t *base, uint64_t size)
{
	munmap(base - GUARD, size + 2 * GUARD);
}

/* A fuzzer does not guess checksums. */
static void mend_checksum(uint8_t *image, size_t size)
{
	for (size_t at = 0; at + 12 <= size && at < 8192; at += 4) {
		uint32_t word[3];

		memcpy(word, image + at, sizeof(word));
		if (word[0] == MULTIBOOT_MAGIC) {
			word[2] = -(word[0] + word[1]);
			memcpy(image + at, word, sizeof(word));
			return;
		}
	}
}

static void check_entry(const struct guest_ram *ram, const struct boot_entry *e)
{
	CHECK(ram_ptr(ram, e->rip, 1));
	CHECK(ram_ptr(ram, e->gdt, e->gdt_limit + 1u));
	CHECK(e->cs && e->cs + 7u <= e->gdt_limit && e->ds && e->ds + 7u <= e->gdt_limit);
	if (e->mode == BOOT_LONG64)
		CHECK(ram_ptr(ram, e->cr3 & ~UINT64_C(0xfff), 0x1000));
}

static void check_error(const char *error, size_t room)
{
	CHECK(error[0] && strlen(error) < room && !strchr(error, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct setup setup;
	struct guest_ram ram = { .fd = -1 };
	struct boot_entry entry = { 0 };
	char error[256] = "";
	struct boot_request req;
	uint8_t *image, *initrd;
	size_t length;

	if (size < HEAD)
		return -1;
	read_setup(&in, &setup);
	length = input_left(&in);
	image = malloc(length ? length : 1);
	input_bytes(&in, image, length);
	if (setup.mend_checksum)
		mend_checksum(image, length);
	initrd = setup.initrd_size ? calloc(1, setup.initrd_size) : NULL;
	ram.size = ram.below_size = setup.ram_size;
	ram.base = ram_map(setup.ram_size);
	req = (struct boot_request){ .kernel_name = "test",
				     .kernel = image,
				     .kernel_size = length,
				     .initrd = initrd,
				     .initrd_size = setup.initrd_size,
				     .append = setup.append,
				     .ram = &ram,
				     .e820 = { { 0, 0x9fc00, 1 }, { MIB, setup.ram_size - MIB, 1 } },
				     .e820_count = setup.ram_size > MIB ? 2 : 1,
				     .rsdp = 0xf0000 };
	if (boot_load(&req, &entry, error, sizeof(error)))
		check_error(error, sizeof(error));
	else
		check_entry(&ram, &entry);
	ram_unmap(ram.base, setup.ram_size);
	free(initrd);
	free(image);
	return 0;
}
