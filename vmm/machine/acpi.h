/* SPDX-License-Identifier: Apache-2.0 */
/* The board's ACPI tables, built once as an image of their place in guest memory. */
#ifndef VMM_MACHINE_ACPI_H
#define VMM_MACHINE_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACPI_IMAGE_MAX 0x10000

struct acpi_tables {
	uint32_t gpa;   /* of the image; the RSDP comes first */
	uint32_t facs;  /* GPA */
	uint8_t *image; /* malloc'ed */
	size_t size;
};

struct aml;

/* What the tables say. */
struct acpi_request {
	unsigned cpus;
	uint64_t ecam;   /* PCI configuration space of buses 0..255, 0: none */
	bool i8042, rtc; /* there is one */
	uint32_t hpet;   /* its registers, 0: none */
	/* The board's devices, within the scope \_SB. */
	void (*describe)(void *ctx, struct aml *aml);
	void *ctx;
};

/* 0, -ENOMEM, -E2BIG: too many CPUs or devices for the space. */
int acpi_build(struct acpi_tables *tables, const struct acpi_request *request);
void acpi_free(struct acpi_tables *tables);

#endif
