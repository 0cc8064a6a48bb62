/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes ACPI Machine Language (ACPI 6.4 chapter 20) into a buffer that does not grow: what does not fit sets
 * `overflow`. Names are given as in ASL: "COM1", "\\_SB"; shorter ones are padded.
 */
#ifndef VMM_MACHINE_AML_H
#define VMM_MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_NESTING_MAX 8

struct aml {
	uint8_t *data;
	size_t size, capacity;
	size_t open[AML_NESTING_MAX]; /* where the lengths of the enclosing packages are */
	unsigned depth;
	bool overflow;
};

void aml_init(struct aml *aml, void *buffer, size_t capacity);

void aml_scope(struct aml *aml, const char *name);
void aml_device(struct aml *aml, const char *name);
void aml_name(struct aml *aml, const char *name); /* its object follows */
void aml_package(struct aml *aml, uint8_t elements);
void aml_method(struct aml *aml, const char *name, unsigned args);
void aml_if_name(struct aml *aml, const char *name); /* If (name) */
void aml_return(struct aml *aml);                    /* its object follows */
void aml_store_arg(struct aml *aml, unsigned arg, const char *name);
void aml_end(struct aml *aml); /* of scope, device, package, method, if */

void aml_integer(struct aml *aml, uint32_t value);
void aml_string(struct aml *aml, const char *text);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0501" */

/* Name(_CRS, ResourceTemplate() { … }) */
void aml_crs(struct aml *aml);
void aml_crs_io(struct aml *aml, uint16_t base, uint8_t len);
void aml_crs_irq(struct aml *aml, unsigned irq);       /* edge, active high, exclusive: as on ISA */
void aml_crs_interrupt(struct aml *aml, uint32_t gsi); /* level, active high, shared */
void aml_crs_memory(struct aml *aml, uint32_t base, uint32_t size);
/* What a bridge passes on: [base, end]. */
void aml_crs_window_bus(struct aml *aml, uint16_t base, uint16_t end);
void aml_crs_window_io(struct aml *aml, uint16_t base, uint16_t end);
void aml_crs_window_memory(struct aml *aml, uint32_t base, uint32_t end);
void aml_crs_end(struct aml *aml);

#endif
