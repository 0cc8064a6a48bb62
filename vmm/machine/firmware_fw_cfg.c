/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware asks fw_cfg for (QEMU's docs/specs/fw_cfg and SeaBIOS's docs/Runtime_config): the ACPI tables with a
 * script that says how to place them, the video BIOS, the menu, the console. The tables come as the board built them
 * for a fixed place; the script is made by following their pointers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/models.h"
#include "machine/acpi.h"
#include "machine/acpi_defs.h"
#include "machine/firmware.h"
#include "machine/ports.h"

#define FILE_RSDP "etc/acpi/rsdp"
#define FILE_TABLES "etc/acpi/tables"
#define FILE_SCRIPT "etc/table-loader"

#define NAME_SIZE 56
#define COMMANDS_MAX 128

enum { COMMAND_ALLOCATE = 1, COMMAND_POINTER = 2, COMMAND_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_LOW = 2 }; /* low: where the RSDP is looked for */

struct command {
	uint32_t command;
	union {
		struct {
			char file[NAME_SIZE];
			uint32_t align;
			uint8_t zone;
		} ACPI_PACKED allocate;
		struct {
			char in[NAME_SIZE], to[NAME_SIZE];
			uint32_t offset;
			uint8_t size;
		} ACPI_PACKED pointer;
		struct {
			char file[NAME_SIZE];
			uint32_t offset, start, length;
		} ACPI_PACKED checksum;
		uint8_t all[124];
	};
} ACPI_PACKED;

struct script {
	uint8_t rsdp[sizeof(struct acpi_rsdp)], *tables;
	uint32_t gpa, size; /* of the tables as they were built */
	struct command command[COMMANDS_MAX];
	unsigned count;
	bool malformed;
};

static struct command *next_command(struct script *s, uint32_t what)
{
	struct command *c = &s->command[s->count < COMMANDS_MAX - 1 ? s->count : COMMANDS_MAX - 1];

	if (s->count == COMMANDS_MAX)
		s->malformed = true;
	else
		s->count++;
	c->command = what;
	return c;
}

static void allocate(struct script *s, const char *file, uint32_t align, uint8_t zone)
{
	struct command *c = next_command(s, COMMAND_ALLOCATE);

	strcpy(c->allocate.file, file);
	c->allocate.align = align;
	c->allocate.zone = zone;
}

/*
 * The pointer of `size` bytes at `field` (offset `at` of the file) becomes an offset into the tables; the firmware will
 * add where they are. Returns the offset; 0: no pointer, or not into the tables.
 */
static uint32_t pointer(struct script *s, const char *file, uint8_t *field, uint32_t at, uint8_t size)
{
	struct command *c;
	uint64_t value = 0;

	memcpy(&value, field, size);
	if (!value)
		return 0;
	value -= s->gpa;
	if (!value || value > s->size - sizeof(struct acpi_header)) {
		s->malformed = true;
		return 0;
	}
	memcpy(field, &value, size);
	c = next_command(s, COMMAND_POINTER);
	strcpy(c->pointer.in, file);
	strcpy(c->pointer.to, FILE_TABLES);
	c->pointer.offset = at;
	c->pointer.size = size;
	return (uint32_t)value;
}

static void checksum(struct script *s, const char *file, uint8_t *field, uint32_t at, uint32_t start, uint32_t length)
{
	struct command *c = next_command(s, COMMAND_CHECKSUM);

	*field = 0;
	strcpy(c->checksum.file, file);
	c->checksum.offset = at;
	c->checksum.start = start;
	c->checksum.length = length;
}

/* The length of the table at offset `at`; 0: it does not lie in the tables. */
static uint32_t table_length(const struct script *s, uint32_t at)
{
	struct acpi_header h;

	memcpy(&h, s->tables + at, sizeof(h));
	return h.length >= sizeof(h) && h.length <= s->size - at ? h.length : 0;
}

static void table_checksum(struct script *s, uint32_t at, uint32_t length)
{
	uint32_t field = at + (uint32_t)offsetof(struct acpi_header, checksum);

	checksum(s, FILE_TABLES, s->tables + field, field, at, length);
}

static void fadt(struct script *s, uint32_t at)
{
	static const struct {
		uint16_t offset;
		uint8_t size;
	} fields[] = { { offsetof(struct acpi_fadt, firmware_ctrl), 4 },
		       { offsetof(struct acpi_fadt, dsdt), 4 },
		       { offsetof(struct acpi_fadt, x_firmware_ctrl), 8 },
		       { offsetof(struct acpi_fadt, x_dsdt), 8 } };

	if (table_length(s, at) < sizeof(struct acpi_fadt)) {
		s->malformed = true;
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		pointer(s, FILE_TABLES, s->tables + at + fields[i].offset, at + fields[i].offset, fields[i].size);
	table_checksum(s, at, table_length(s, at));
}

/* RSDT or XSDT at offset `at`. follow: and the tables that it names. */
static void root_table(struct script *s, uint32_t at, uint8_t entry_size, bool follow)
{
	uint32_t length = at ? table_length(s, at) : 0;

	if (!length) {
		s->malformed = true;
		return;
	}
	for (uint32_t i = sizeof(struct acpi_header); i + entry_size <= length; i += entry_size) {
		uint32_t table = pointer(s, FILE_TABLES, s->tables + at + i, at + i, entry_size);

		if (follow && table && !memcmp(s->tables + table, "FACP", 4))
			fadt(s, table);
	}
	table_checksum(s, at, length);
}

static void follow_rsdp(struct script *s)
{
	struct acpi_rsdp *r = (void *)s->rsdp;
	uint32_t rsdt, xsdt;

	allocate(s, FILE_RSDP, 16, ZONE_LOW);
	allocate(s, FILE_TABLES, 64, ZONE_HIGH); /* the FACS is aligned to 64 bytes */
	rsdt = pointer(s, FILE_RSDP, (uint8_t *)&r->rsdt, offsetof(struct acpi_rsdp, rsdt), 4);
	xsdt = pointer(s, FILE_RSDP, (uint8_t *)&r->xsdt, offsetof(struct acpi_rsdp, xsdt), 8);
	root_table(s, rsdt, 4, true);
	root_table(s, xsdt, 8, false);
	checksum(s, FILE_RSDP, &r->checksum, offsetof(struct acpi_rsdp, checksum), 0, ACPI_RSDP_V1_SIZE);
	checksum(s, FILE_RSDP, &r->extended_checksum, offsetof(struct acpi_rsdp, extended_checksum), 0, sizeof(*r));
}

static int add_tables(struct device *fw_cfg, const struct acpi_tables *tables)
{
	struct script *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		return -ENOMEM;
	s->gpa = tables->gpa;
	s->size = (uint32_t)tables->size;
	s->tables = malloc(tables->size);
	if (s->tables) {
		memcpy(s->rsdp, tables->image, sizeof(s->rsdp));
		memcpy(s->tables, tables->image, tables->size);
		memset(s->tables, 0, sizeof(s->rsdp)); /* a file of its own */
		follow_rsdp(s);
		err = s->malformed ? -EINVAL : fw_cfg_add_file(fw_cfg, FILE_RSDP, s->rsdp, sizeof(s->rsdp));
		if (!err)
			err = fw_cfg_add_file(fw_cfg, FILE_TABLES, s->tables, s->size);
		if (!err)
			err = fw_cfg_add_file(fw_cfg, FILE_SCRIPT, s->command,
					      s->count * (uint32_t)sizeof(s->command[0]));
		free(s->tables);
	}
	free(s);
	return err;
}

int firmware_fill_fw_cfg(const struct firmware *fw, struct device *fw_cfg, const struct acpi_tables *tables,
			 bool serial_console)
{
	const uint16_t com1 = PORT_COM1;
	const uint8_t menu = fw->menu;
	int err = add_tables(fw_cfg, tables);

	if (!err && fw->vgabios.data) /* by the PCI identity of the device it is for */
		err = fw_cfg_add_file(fw_cfg, "pci1234,1111.rom", fw->vgabios.data, (uint32_t)fw->vgabios.size);
	if (!err)
		err = fw_cfg_add_file(fw_cfg, "etc/show-boot-menu", &menu, sizeof(menu));
	if (!err && serial_console)
		err = fw_cfg_add_file(fw_cfg, "etc/sercon-port", &com1, sizeof(com1));
	return err;
}
