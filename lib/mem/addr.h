/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three address spaces as three C types, so that the compiler catches a
 * mix-up: GVA (guest linear address, after segmentation), GPA (guest physical
 * address) and HVA (a pointer in this process).
 */
#ifndef TZ_MEM_ADDR_H
#define TZ_MEM_ADDR_H

#include <stdint.h>

typedef struct gva {
	uint64_t v;
} gva_t;

typedef struct gpa {
	uint64_t v;
} gpa_t;

typedef struct hva {
	uint8_t *p;
} hva_t;

#define GVA(x) ((gva_t){ (x) })
#define GPA(x) ((gpa_t){ (x) })
#define HVA(x) ((hva_t){ (x) })

#define TZ_PAGE_SHIFT 12
#define TZ_PAGE_SIZE UINT64_C(4096)
#define TZ_PAGE_MASK (TZ_PAGE_SIZE - 1) /* the offset bits */

#endif
