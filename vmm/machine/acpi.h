/* SPDX-License-Identifier: Apache-2.0 */
/* The board's ACPI tables, built once as an image of their place in guest memory. */
#ifndef VMM_MACHINE_ACPI_H
#define VMM_MACHINE_ACPI_H

#include <stddef.h>
#include <stdint.h>

#define ACPI_IMAGE_MAX 0x10000

struct acpi_tables {
	uint32_t gpa;   /* of the image; the RSDP comes first */
	uint8_t *image; /* malloc'ed */
	size_t size;
};

/* 0, -ENOMEM, -E2BIG: too many CPUs for the space. */
int acpi_build(struct acpi_tables *tables, unsigned cpus);
void acpi_free(struct acpi_tables *tables);

#endif
