/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: one memfd, mapped shared, laid out below and above the 32-bit hole
 * (GPA 0..min(size, 2 GiB) and from 4 GiB on).
 */
#ifndef VMM_MACHINE_RAM_H
#define VMM_MACHINE_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RAM_HOLE_START UINT64_C(0x80000000) /* 2 GiB: RAM below ends here at the latest; PCI has the rest */
#define RAM_ABOVE_4G UINT64_C(0x100000000)

struct guest_ram {
	int fd;
	uint8_t *base;       /* of the whole mapping */
	uint64_t size;       /* bytes, page aligned */
	uint64_t below_size; /* bytes at GPA 0 */
	uint64_t above_size; /* bytes at RAM_ABOVE_4G */
};

#define RAM_SIZE_MIN (UINT64_C(1) << 20)                         /* the ACPI tables are below 1 MiB */
#define RAM_SIZE_MAX ((UINT64_C(1) << 40) - (UINT64_C(1) << 30)) /* ends below 2^40, what common CPU models address */

/* 0; -EINVAL: size not page aligned or below RAM_SIZE_MIN; -E2BIG: above RAM_SIZE_MAX; else what the host said. */
int ram_create(struct guest_ram *ram, uint64_t size);
void ram_destroy(struct guest_ram *ram);

/* Host pointer for [gpa, gpa+len) if it lies whole in one RAM range, else NULL. */
void *ram_ptr(const struct guest_ram *ram, uint64_t gpa, uint64_t len);
bool ram_write(const struct guest_ram *ram, uint64_t gpa, const void *data, uint64_t len);
bool ram_read(const struct guest_ram *ram, uint64_t gpa, void *data, uint64_t len);

#endif
