/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT (ACPI 6.4 chapter 5). The RSDT and the 32-bit fields are for guests
 * of ACPI 1.0's time.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/models.h"
#include "machine/acpi_defs.h"
#include "machine/aml.h"
#include "machine/board_parts.h"
#include "machine/ports.h"

#define LAPIC_BASE 0xfee00000u
#define IOAPIC_BASE 0xfec00000u
#define XAPIC_IDS 255 /* 0xff is the broadcast */
#define DSDT_SIZE_MAX 0x4000
#define TABLES_MAX 8 /* that the RSDT lists */

struct builder {
	struct acpi_tables *out;
	bool overflow;
};

static uint8_t checksum(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (size--)
		sum += *p++;
	return (uint8_t)-sum;
}

/* Space for an object of the image, zeroed; NULL when it is full. */
static void *reserve(struct builder *b, size_t size, size_t align)
{
	size_t at = (b->out->size + align - 1) & ~(align - 1);

	if (size > ACPI_IMAGE_MAX || at > ACPI_IMAGE_MAX - size) {
		b->overflow = true;
		return NULL;
	}
	b->out->size = at + size;
	return b->out->image + at;
}

static uint32_t gpa_of(const struct builder *b, const void *object)
{
	return b->out->gpa + (uint32_t)((const uint8_t *)object - b->out->image);
}

static void *start_table(struct builder *b, size_t size, const char *signature, uint8_t revision)
{
	struct acpi_header *h = reserve(b, size, 16);

	if (!h)
		return NULL;
	memcpy(h->signature, signature, sizeof(h->signature));
	h->length = (uint32_t)size;
	h->revision = revision;
	memcpy(h->oem_id, ACPI_OEM_ID, sizeof(h->oem_id));
	memcpy(h->oem_table_id, ACPI_OEM_TABLE_ID, sizeof(h->oem_table_id));
	h->oem_revision = 1;
	memcpy(h->creator_id, ACPI_CREATOR_ID, sizeof(h->creator_id));
	h->creator_revision = 1;
	return h;
}

static void seal(struct acpi_header *h)
{
	h->checksum = 0;
	h->checksum = checksum(h, h->length);
}

/* ---- DSDT ---- */

/* ACPI 6.4, 7.4.2: values for PM1a_CNT.SLP_TYP and PM1b_CNT.SLP_TYP, two reserved ones. */
static void sleep_state(struct aml *aml, const char *name, unsigned slp_typ)
{
	aml_name(aml, name);
	aml_package(aml, 4);
	aml_integer(aml, slp_typ);
	aml_integer(aml, slp_typ);
	aml_integer(aml, 0);
	aml_integer(aml, 0);
	aml_end(aml);
}

static void dsdt_contents(struct aml *aml, const struct acpi_request *request)
{
	sleep_state(aml, "\\_S3", ACPI_SLP_TYP_S3);
	sleep_state(aml, "\\_S5", ACPI_SLP_TYP_S5);

	aml_scope(aml, "\\_SB");
	if (request->describe)
		request->describe(request->ctx, aml);
	aml_end(aml);
}

static struct acpi_header *build_dsdt(struct builder *b, const struct acpi_request *request)
{
	struct acpi_header *h;
	struct aml aml;
	uint8_t code[DSDT_SIZE_MAX];

	aml_init(&aml, code, sizeof(code));
	dsdt_contents(&aml, request);
	h = start_table(b, sizeof(*h) + aml.size, "DSDT", 2); /* 2: integers are 64 bits wide */
	if (!h || aml.overflow) {
		b->overflow = true;
		return NULL;
	}
	memcpy(h + 1, code, aml.size);
	seal(h);
	return h;
}

/* ---- FACS, FADT ---- */

static struct acpi_facs *build_facs(struct builder *b)
{
	struct acpi_facs *facs = reserve(b, sizeof(*facs), 64);

	if (!facs)
		return NULL;
	memcpy(facs->signature, "FACS", 4);
	facs->length = sizeof(*facs);
	facs->version = 2;
	return facs; /* no checksum: the guest writes to it */
}

static struct acpi_gas io_register(uint16_t port, uint8_t bytes, uint8_t access)
{
	return (struct acpi_gas){
		.space = ACPI_GAS_IO, .bit_width = (uint8_t)(bytes * 8), .access = access, .address = port
	};
}

static struct acpi_header *build_fadt(struct builder *b, const struct acpi_request *request, uint32_t facs,
				      uint32_t dsdt)
{
	struct acpi_fadt *f = start_table(b, sizeof(*f), "FACP", 6);

	if (!f)
		return NULL;
	f->firmware_ctrl = facs; /* X_FIRMWARE_CTRL stays 0: only one of them may be used */
	f->dsdt = dsdt;
	f->x_dsdt = dsdt;
	f->sci_int = GSI_SCI;
	f->pm1a_evt_blk = PORT_PM1_EVENT;
	f->pm1a_cnt_blk = PORT_PM1_CONTROL;
	f->pm_tmr_blk = PORT_PM_TIMER;
	f->pm1_evt_len = 4;
	f->pm1_cnt_len = 2;
	f->pm_tmr_len = 4;
	f->x_pm1a_evt_blk = io_register(PORT_PM1_EVENT, 4, ACPI_ACCESS_WORD);
	f->x_pm1a_cnt_blk = io_register(PORT_PM1_CONTROL, 2, ACPI_ACCESS_WORD);
	f->x_pm_tmr_blk = io_register(PORT_PM_TIMER, 4, ACPI_ACCESS_DWORD);
	f->p_lvl2_lat = ACPI_NO_C2;
	f->p_lvl3_lat = ACPI_NO_C3;
	f->century = CMOS_CENTURY;
	f->iapc_boot_arch = ACPI_BOOT_LEGACY_DEVICES | ACPI_BOOT_NO_VGA | (request->i8042 ? ACPI_BOOT_8042 : 0) |
			    (request->rtc ? 0 : ACPI_BOOT_NO_CMOS_RTC);
	/* A fixed power button, no sleep button; RTC_EN wakes from S3. */
	f->flags = ACPI_FADT_WBINVD | ACPI_FADT_PROC_C1 | ACPI_FADT_SLP_BUTTON | ACPI_FADT_TMR_VAL_EXT |
		   ACPI_FADT_RESET_REG_SUP;
	f->reset_reg = io_register(PORT_RESET, 1, ACPI_ACCESS_BYTE);
	f->reset_value = RESET_PORT_VALUE;
	memcpy(f->hypervisor_id, ACPI_HYPERVISOR_ID, sizeof(f->hypervisor_id));
	seal(&f->header);
	return &f->header;
}

/* ---- MADT ---- */

static void madt_cpu(struct builder *b, unsigned id)
{
	if (id < XAPIC_IDS) {
		struct madt_lapic *e = reserve(b, sizeof(*e), 1);

		if (e)
			*e = (struct madt_lapic){ .type = MADT_LAPIC,
						  .length = sizeof(*e),
						  .uid = (uint8_t)id,
						  .apic_id = (uint8_t)id,
						  .flags = MADT_ENABLED };
	} else {
		struct madt_x2apic *e = reserve(b, sizeof(*e), 1);

		if (e)
			*e = (struct madt_x2apic){ .type = MADT_X2APIC,
						   .length = sizeof(*e),
						   .apic_id = id,
						   .flags = MADT_ENABLED,
						   .uid = id };
	}
}

static void madt_override(struct builder *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	struct madt_override *e = reserve(b, sizeof(*e), 1);

	if (e)
		*e = (struct madt_override){
			.type = MADT_OVERRIDE, .length = sizeof(*e), .irq = irq, .gsi = gsi, .flags = flags
		};
}

/* NMI is on every LAPIC's LINT1. */
static void madt_nmi(struct builder *b, unsigned cpus)
{
	struct madt_lapic_nmi *e = reserve(b, sizeof(*e), 1);
	struct madt_x2apic_nmi *x;

	if (e)
		*e = (struct madt_lapic_nmi){ .type = MADT_LAPIC_NMI, .length = sizeof(*e), .uid = 0xff, .lint = 1 };
	if (cpus <= XAPIC_IDS)
		return;
	x = reserve(b, sizeof(*x), 1);
	if (x)
		*x = (struct madt_x2apic_nmi){
			.type = MADT_X2APIC_NMI, .length = sizeof(*x), .uid = UINT32_MAX, .lint = 1
		};
}

static struct acpi_header *build_madt(struct builder *b, unsigned cpus)
{
	struct acpi_madt *m = start_table(b, sizeof(*m), "APIC", 5);
	struct madt_ioapic *io;

	if (!m)
		return NULL;
	m->lapic_address = LAPIC_BASE;
	m->flags = MADT_PCAT_COMPAT; /* there are 8259s too */
	for (unsigned i = 0; i < cpus; i++)
		madt_cpu(b, i);
	io = reserve(b, sizeof(*io), 1);
	if (io)
		*io = (struct madt_ioapic){ .type = MADT_IOAPIC, .length = sizeof(*io), .address = IOAPIC_BASE };
	madt_override(b, 0, 2, MADT_CONFORMS);
	madt_override(b, GSI_SCI, GSI_SCI, MADT_ACTIVE_HIGH | MADT_LEVEL);
	madt_nmi(b, cpus);
	if (b->overflow)
		return NULL;
	m->header.length = (uint32_t)(b->out->image + b->out->size - (uint8_t *)m);
	seal(&m->header);
	return &m->header;
}

/* ---- MCFG ---- */

static struct acpi_header *build_mcfg(struct builder *b, uint64_t ecam)
{
	struct acpi_mcfg *m = start_table(b, sizeof(*m), "MCFG", 1);

	if (!m)
		return NULL;
	m->base = ecam;
	m->bus_end = 255;
	seal(&m->header);
	return &m->header;
}

/* ---- HPET ---- */

#define HPET_MINIMUM_TICK 10000 /* 100 µs: see vmm/device/hpet.c */

static struct acpi_header *build_hpet(struct builder *b, uint32_t base)
{
	struct acpi_hpet *h = start_table(b, sizeof(*h), "HPET", 1);

	if (!h)
		return NULL;
	h->block_id = HPET_ID;
	h->address = (struct acpi_gas){ .space = ACPI_GAS_MEMORY, .bit_width = 64, .address = base };
	h->minimum_tick = HPET_MINIMUM_TICK;
	seal(&h->header);
	return &h->header;
}

/* ---- RSDT, XSDT, RSDP ---- */

static uint32_t build_rsdt(struct builder *b, const uint32_t *tables, unsigned count)
{
	struct acpi_header *h = start_table(b, sizeof(*h) + count * sizeof(uint32_t), "RSDT", 1);

	if (!h)
		return 0;
	memcpy(h + 1, tables, count * sizeof(uint32_t));
	seal(h);
	return gpa_of(b, h);
}

static uint32_t build_xsdt(struct builder *b, const uint32_t *tables, unsigned count)
{
	struct acpi_header *h = start_table(b, sizeof(*h) + count * sizeof(uint64_t), "XSDT", 1);

	if (!h)
		return 0;
	for (unsigned i = 0; i < count; i++) {
		uint64_t gpa = tables[i];

		memcpy((uint8_t *)(h + 1) + i * sizeof(gpa), &gpa, sizeof(gpa));
	}
	seal(h);
	return gpa_of(b, h);
}

static void finish_rsdp(struct acpi_rsdp *r, uint32_t rsdt, uint32_t xsdt)
{
	memcpy(r->signature, "RSD PTR ", sizeof(r->signature));
	memcpy(r->oem_id, ACPI_OEM_ID, sizeof(r->oem_id));
	r->revision = 2;
	r->rsdt = rsdt;
	r->length = sizeof(*r);
	r->xsdt = xsdt;
	r->checksum = checksum(r, ACPI_RSDP_V1_SIZE);
	r->extended_checksum = checksum(r, sizeof(*r));
}

int acpi_build(struct acpi_tables *tables, const struct acpi_request *request)
{
	struct builder b = { .out = tables };
	struct acpi_rsdp *rsdp;
	struct acpi_facs *facs;
	struct acpi_header *dsdt, *table[TABLES_MAX] = { NULL };
	uint32_t list[TABLES_MAX], rsdt, xsdt;
	unsigned count = 0;

	tables->gpa = BIOS_START;
	tables->size = 0;
	tables->image = calloc(1, ACPI_IMAGE_MAX);
	if (!tables->image)
		return -ENOMEM;
	rsdp = reserve(&b, sizeof(*rsdp), 16);
	facs = build_facs(&b);
	tables->facs = facs ? gpa_of(&b, facs) : 0;
	dsdt = build_dsdt(&b, request);
	table[count++] = facs && dsdt ? build_fadt(&b, request, gpa_of(&b, facs), gpa_of(&b, dsdt)) : NULL;
	table[count++] = build_madt(&b, request->cpus);
	if (request->ecam)
		table[count++] = build_mcfg(&b, request->ecam);
	if (request->hpet)
		table[count++] = build_hpet(&b, request->hpet);
	if (!b.overflow) {
		for (unsigned i = 0; i < count; i++)
			list[i] = gpa_of(&b, table[i]);
		rsdt = build_rsdt(&b, list, count);
		xsdt = build_xsdt(&b, list, count);
		finish_rsdp(rsdp, rsdt, xsdt);
	}
	if (b.overflow) {
		acpi_free(tables);
		return -E2BIG;
	}
	return 0;
}

void acpi_free(struct acpi_tables *tables)
{
	free(tables->image);
	tables->image = NULL;
	tables->size = 0;
}
