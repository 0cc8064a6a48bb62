/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables as a guest finds them in memory. With a directory as argument, writes them there for iasl -d. */
#include <stdlib.h>

#include "boardfix.h"
#include "machine/acpi.h"
#include "machine/acpi_defs.h"
#include "machine/ram.h"

struct fixture {
	struct recorder rec;
	struct guest_ram ram;
	struct board *board;
	const struct acpi_rsdp *rsdp;
	const struct acpi_fadt *fadt;
	const struct acpi_madt *madt;
	const struct acpi_mcfg *mcfg;
	const struct acpi_hpet *hpet;
	const struct acpi_header *dsdt;
};

static uint8_t sum(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint8_t s = 0;

	while (size--)
		s += *p++;
	return s;
}

/* A table as the guest sees it, checked for what they all have. */
static const void *table(const struct guest_ram *ram, uint64_t gpa, const char *signature)
{
	const struct acpi_header *h = ram_ptr(ram, gpa, sizeof(*h));

	assert_non_null(h);
	assert_in_range(gpa, 0xe0000, 0xfffff);
	assert_memory_equal(h->signature, signature, 4);
	assert_true(gpa + h->length <= 0x100000);
	assert_int_equal(sum(h, h->length), 0);
	return h;
}

static struct acpi_rsdp *scan(const struct guest_ram *ram)
{
	for (uint64_t gpa = 0xe0000; gpa < 0x100000; gpa += 16) {
		struct acpi_rsdp *r = ram_ptr(ram, gpa, sizeof(*r));

		if (!memcmp(r->signature, "RSD PTR ", 8) && sum(r, 20) == 0)
			return r;
	}
	return NULL;
}

static void create(struct fixture *f, unsigned cpus)
{
	struct board_config config = { .ram = &f->ram, .cpus = cpus, .control = fix_control(&f->rec) };
	const struct acpi_header *xsdt, *rsdt;
	uint64_t xsdt_entry[4];
	uint32_t rsdt_entry[4];

	memset(f, 0, sizeof(*f));
	assert_int_equal(ram_create(&f->ram, UINT64_C(16) << 20), 0);
	assert_int_equal(board_create(&config, &f->board), 0);
	board_reset(f->board);
	f->rsdp = scan(&f->ram);
	assert_ptr_equal(f->rsdp, ram_ptr(&f->ram, board_rsdp(f->board), 1));
	assert_int_equal(f->rsdp->revision, 2);
	assert_int_equal(sum(f->rsdp, f->rsdp->length), 0);
	rsdt = table(&f->ram, f->rsdp->rsdt, "RSDT");
	xsdt = table(&f->ram, f->rsdp->xsdt, "XSDT");
	assert_int_equal(xsdt->length, sizeof(*xsdt) + sizeof(xsdt_entry));
	assert_int_equal(rsdt->length, sizeof(*rsdt) + sizeof(rsdt_entry));
	memcpy(xsdt_entry, xsdt + 1, sizeof(xsdt_entry));
	memcpy(rsdt_entry, rsdt + 1, sizeof(rsdt_entry));
	assert_int_equal(xsdt_entry[0], rsdt_entry[0]);
	assert_int_equal(xsdt_entry[1], rsdt_entry[1]);
	assert_int_equal(xsdt_entry[2], rsdt_entry[2]);
	f->fadt = table(&f->ram, xsdt_entry[0], "FACP");
	f->madt = table(&f->ram, xsdt_entry[1], "APIC");
	f->mcfg = table(&f->ram, xsdt_entry[2], "MCFG");
	assert_int_equal(xsdt_entry[3], rsdt_entry[3]);
	f->hpet = table(&f->ram, xsdt_entry[3], "HPET");
	f->dsdt = table(&f->ram, f->fadt->x_dsdt, "DSDT");
}

static void destroy(struct fixture *f)
{
	board_destroy(f->board);
	ram_destroy(&f->ram);
}

static void test_fadt(void **state)
{
	struct fixture f;
	const struct acpi_facs *facs;

	(void)state;
	create(&f, 1);
	facs = ram_ptr(&f.ram, f.fadt->firmware_ctrl, sizeof(*facs));
	assert_int_equal(f.fadt->firmware_ctrl % 64, 0);
	assert_memory_equal(facs->signature, "FACS", 4);
	assert_int_equal(facs->length, 64);
	assert_int_equal(f.fadt->dsdt, f.fadt->x_dsdt);
	assert_int_equal(f.fadt->x_pm1a_evt_blk.address, f.fadt->pm1a_evt_blk);
	assert_int_equal(f.fadt->x_pm1a_evt_blk.bit_width, f.fadt->pm1_evt_len * 8);
	assert_int_equal(f.fadt->x_pm1a_cnt_blk.address, f.fadt->pm1a_cnt_blk);
	assert_int_equal(f.fadt->x_pm_tmr_blk.address, f.fadt->pm_tmr_blk);
	assert_int_equal(f.fadt->reset_reg.address, 0xcf9);
	assert_int_equal(f.fadt->sci_int, 9);
	destroy(&f);
}

/* The table says what the registers say. */
static void test_hpet(void **state)
{
	struct fixture f;
	uint32_t id = 0;

	(void)state;
	create(&f, 1);
	assert_int_equal(f.hpet->header.length, 56);
	assert_int_equal(f.hpet->address.space, ACPI_GAS_MEMORY);
	bus_read(board_bus(f.board), BUS_MMIO, f.hpet->address.address, &id, sizeof(id));
	assert_int_equal(f.hpet->block_id, id);
	destroy(&f);
}

static unsigned count_entries(const struct acpi_madt *madt, uint8_t type)
{
	const uint8_t *p = (const uint8_t *)(madt + 1), *end = (const uint8_t *)madt + madt->header.length;
	unsigned count = 0;

	while (p < end) {
		assert_true(p[1] >= 2 && p + p[1] <= end);
		count += p[0] == type;
		p += p[1];
	}
	assert_ptr_equal(p, end);
	return count;
}

static void test_madt(void **state)
{
	static const unsigned cpus[] = { 1, 2, 64, 255, 256 };
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
		create(&f, cpus[i]);
		assert_int_equal(count_entries(f.madt, MADT_LAPIC), cpus[i] < 255 ? cpus[i] : 255);
		assert_int_equal(count_entries(f.madt, MADT_X2APIC), cpus[i] > 255);
		assert_int_equal(count_entries(f.madt, MADT_IOAPIC), 1);
		assert_int_equal(count_entries(f.madt, MADT_OVERRIDE), 2);
		assert_int_equal(count_entries(f.madt, MADT_LAPIC_NMI), 1);
		destroy(&f);
	}
}

static void test_too_many_cpus(void **state)
{
	const struct acpi_request request = { .cpus = 100000 };
	struct acpi_tables tables;

	(void)state;
	assert_true(acpi_build(&tables, &request) < 0);
	assert_null(tables.image);
}

static void test_reset_repairs(void **state)
{
	struct fixture f;
	uint8_t junk[0x1000];

	(void)state;
	create(&f, 2);
	memset(junk, 0xcc, sizeof(junk));
	assert_true(ram_write(&f.ram, board_rsdp(f.board), junk, sizeof(junk)));
	assert_null(scan(&f.ram));
	board_reset(f.board);
	assert_ptr_equal(scan(&f.ram), f.rsdp);
	assert_int_equal(sum(f.dsdt, f.dsdt->length), 0);
	destroy(&f);
}

static void dump(const char *dir, const char *name, const void *data, size_t size)
{
	char path[512];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
	out = fopen(path, "wb");
	if (!out || fwrite(data, 1, size, out) != size || fclose(out)) {
		perror(path);
		exit(1);
	}
}

static int dump_all(const char *dir)
{
	struct fixture f;
	const struct acpi_header *xsdt, *rsdt;

	create(&f, 256);
	rsdt = table(&f.ram, f.rsdp->rsdt, "RSDT");
	xsdt = table(&f.ram, f.rsdp->xsdt, "XSDT");
	dump(dir, "rsdp", f.rsdp, f.rsdp->length);
	dump(dir, "rsdt", rsdt, rsdt->length);
	dump(dir, "xsdt", xsdt, xsdt->length);
	dump(dir, "facp", f.fadt, f.fadt->header.length);
	dump(dir, "facs", ram_ptr(&f.ram, f.fadt->firmware_ctrl, 64), 64);
	dump(dir, "apic", f.madt, f.madt->header.length);
	dump(dir, "hpet", f.hpet, f.hpet->header.length);
	dump(dir, "mcfg", f.mcfg, f.mcfg->header.length);
	dump(dir, "dsdt", f.dsdt, f.dsdt->length);
	destroy(&f);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),          cmocka_unit_test(test_hpet),          cmocka_unit_test(test_madt),
		cmocka_unit_test(test_too_many_cpus), cmocka_unit_test(test_reset_repairs),
	};

	if (argc > 1)
		return dump_all(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
