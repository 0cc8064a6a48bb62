/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/elf_image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

bool elf_match(const struct loader *ld)
{
	return loader_in_image(ld, 0, SELFMAG) && !memcmp(ld->req->kernel, ELFMAG, SELFMAG);
}

static int check_kind(struct loader *ld, const uint8_t *ident, unsigned machine, unsigned type)
{
	if (ident[EI_DATA] != ELFDATA2LSB || (machine != EM_386 && machine != EM_X86_64))
		return loader_fail(ld, "an ELF file, but not for x86");
	if (type != ET_EXEC && type != ET_DYN)
		return loader_fail(ld, "an ELF file, but not an executable");
	return 0;
}

static int parse64(struct loader *ld, struct elf_image *elf)
{
	Elf64_Ehdr h;

	if (!loader_in_image(ld, 0, sizeof(h)))
		return loader_fail(ld, "truncated: the file ends inside the ELF header");
	memcpy(&h, ld->req->kernel, sizeof(h));
	*elf = (struct elf_image){ true, h.e_entry, h.e_phoff, h.e_phnum, h.e_phentsize };
	if (h.e_phnum && h.e_phentsize < sizeof(Elf64_Phdr))
		return loader_fail(ld, "damaged ELF file: program headers too small");
	return check_kind(ld, h.e_ident, h.e_machine, h.e_type);
}

static int parse32(struct loader *ld, struct elf_image *elf)
{
	Elf32_Ehdr h;

	if (!loader_in_image(ld, 0, sizeof(h)))
		return loader_fail(ld, "truncated: the file ends inside the ELF header");
	memcpy(&h, ld->req->kernel, sizeof(h));
	*elf = (struct elf_image){ false, h.e_entry, h.e_phoff, h.e_phnum, h.e_phentsize };
	if (h.e_phnum && h.e_phentsize < sizeof(Elf32_Phdr))
		return loader_fail(ld, "damaged ELF file: program headers too small");
	return check_kind(ld, h.e_ident, h.e_machine, h.e_type);
}

int elf_parse(struct loader *ld, struct elf_image *elf)
{
	int err;

	if (!loader_in_image(ld, 0, EI_NIDENT))
		return loader_fail(ld, "truncated: the file ends inside the ELF header");
	switch (ld->req->kernel[EI_CLASS]) {
	case ELFCLASS32: err = parse32(ld, elf); break;
	case ELFCLASS64: err = parse64(ld, elf); break;
	default: return loader_fail(ld, "damaged ELF file: unknown class");
	}
	if (!err && !loader_in_image(ld, elf->ph_offset, (uint64_t)elf->ph_count * elf->ph_size))
		err = loader_fail(ld, "truncated: the file ends before the ELF program headers");
	return err;
}

void elf_segment_get(const struct loader *ld, const struct elf_image *elf, unsigned i, struct elf_segment *segment)
{
	const uint8_t *at = ld->req->kernel + elf->ph_offset + (uint64_t)i * elf->ph_size;

	if (elf->is64) {
		Elf64_Phdr p;

		memcpy(&p, at, sizeof(p));
		*segment = (struct elf_segment){ p.p_type,  p.p_offset, p.p_filesz, p.p_vaddr,
						 p.p_paddr, p.p_memsz,  p.p_align };
	} else {
		Elf32_Phdr p;

		memcpy(&p, at, sizeof(p));
		*segment = (struct elf_segment){ p.p_type,  p.p_offset, p.p_filesz, p.p_vaddr,
						 p.p_paddr, p.p_memsz,  p.p_align };
	}
}

static int load_segment(struct loader *ld, const struct elf_segment *s)
{
	uint8_t *p;

	if (s->file_size > s->mem_size)
		return loader_fail(ld, "damaged ELF file: a segment is larger in the file than in memory");
	if (!loader_in_image(ld, s->offset, s->file_size))
		return loader_fail(ld, "truncated: the file ends inside the segment for %#llx",
				   (unsigned long long)s->paddr);
	p = loader_claim(ld, "a segment", s->paddr, s->mem_size);
	if (!p)
		return -EINVAL;
	memcpy(p, ld->req->kernel + s->offset, s->file_size);
	memset(p + s->file_size, 0, s->mem_size - s->file_size);
	return 0;
}

int elf_load(struct loader *ld, const struct elf_image *elf, uint64_t *end)
{
	struct elf_segment s;
	int err = 0;

	*end = 0;
	for (unsigned i = 0; i < elf->ph_count && !err; i++) {
		elf_segment_get(ld, elf, i, &s);
		if (s.type != PT_LOAD || !s.mem_size)
			continue;
		err = load_segment(ld, &s);
		if (!err && s.paddr + s.mem_size > *end)
			*end = s.paddr + s.mem_size;
	}
	if (!err && !*end)
		err = loader_fail(ld, "an ELF file without anything to load");
	return err;
}

uint64_t elf_entry_physical(const struct loader *ld, const struct elf_image *elf)
{
	struct elf_segment s;

	for (unsigned i = 0; i < elf->ph_count; i++) {
		elf_segment_get(ld, elf, i, &s);
		if (s.type == PT_LOAD && elf->entry >= s.vaddr && elf->entry - s.vaddr < s.mem_size)
			return elf->entry - s.vaddr + s.paddr;
	}
	return elf->entry;
}

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) & ~(align - 1);
}

/* One PT_NOTE segment: entries of header, name and descriptor, each padded (gABI, "Note Section"). */
static bool find_in_segment(const struct loader *ld, const struct elf_segment *s, const char *name, uint32_t type,
			    uint64_t *value)
{
	const uint8_t *base = ld->req->kernel + s->offset;
	uint64_t pad = s->align == 8 ? 8 : 4, at = 0;

	while (s->file_size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n; /* the same in both classes */
		uint64_t name_at, desc_at;

		memcpy(&n, base + at, sizeof(n));
		name_at = at + sizeof(n);
		desc_at = align_up(name_at + n.n_namesz, pad);
		if (desc_at > s->file_size || n.n_descsz > s->file_size - desc_at)
			return false;
		if (n.n_type == type && n.n_namesz == strlen(name) + 1 && !memcmp(base + name_at, name, n.n_namesz) &&
		    (n.n_descsz == 4 || n.n_descsz == 8)) {
			*value = 0;
			memcpy(value, base + desc_at, n.n_descsz);
			return true;
		}
		at = align_up(desc_at + n.n_descsz, pad);
		if (at > s->file_size)
			return false;
	}
	return false;
}

bool elf_find_note(const struct loader *ld, const struct elf_image *elf, const char *name, uint32_t type,
		   uint64_t *value)
{
	struct elf_segment s;

	for (unsigned i = 0; i < elf->ph_count; i++) {
		elf_segment_get(ld, elf, i, &s);
		if (s.type == PT_NOTE && loader_in_image(ld, s.offset, s.file_size) &&
		    find_in_segment(ld, &s, name, type, value))
			return true;
	}
	return false;
}
