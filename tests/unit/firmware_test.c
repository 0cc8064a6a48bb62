/* SPDX-License-Identifier: Apache-2.0 */
/* What firmware finds: its image, fw_cfg's files, ACPI tables placed by following the script. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block.h"
#include "boardfix.h"
#include "machine/acpi_defs.h"
#include "machine/firmware.h"

#define SELECTOR 0x510
#define DATA 0x511
#define RAM_SIZE (UINT64_C(64) << 20)
#define ROM_SIZE 0x40000u

struct fixture {
	struct recorder rec;
	struct guest_ram ram;
	struct board *board;
	struct bus *bus;
	struct firmware firmware;
	char path[64], vgabios[64];
};

static void write_file(char *path, const uint8_t *data, size_t size)
{
	int fd;

	strcpy(path, "/tmp/trapeze-firmware-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	close(fd);
}

static int setup(void **state)
{
	static struct fixture fixture;
	static uint8_t rom[ROM_SIZE], vga[1024] = { 0x55, 0xaa, 2 };
	struct fixture *f = &fixture;
	char text[240];

	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < ROM_SIZE; i++)
		rom[i] = (uint8_t)(i >> 8 ^ i);
	write_file(f->path, rom, sizeof(rom));
	write_file(f->vgabios, vga, sizeof(vga));
	snprintf(text, sizeof(text), "%s,vgabios=%s,menu=on", f->path, f->vgabios);
	assert_int_equal(firmware_open(&f->firmware, text, true), 0);
	assert_int_equal(ram_create(&f->ram, RAM_SIZE), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->board)
		board_destroy(f->board);
	ram_destroy(&f->ram);
	firmware_close(&f->firmware);
	unlink(f->path);
	unlink(f->vgabios);
	return 0;
}

static void make_board(struct fixture *f, bool vga)
{
	struct board_config config = {
		.ram = &f->ram,
		.cpus = 3,
		.gsi = fix_line(&f->rec, 0),
		.control = fix_control(&f->rec),
		.vga = vga,
		.firmware = &f->firmware,
	};

	config.gsi.set = NULL;
	assert_int_equal(board_create(&config, &f->board), 0);
	f->bus = board_bus(f->board);
	board_reset(f->board);
}

static void fw_read(struct fixture *f, unsigned key, void *data, uint32_t size)
{
	fix_out(f->bus, SELECTOR, key, 2);
	for (uint32_t i = 0; i < size; i++)
		((uint8_t *)data)[i] = (uint8_t)fix_in(f->bus, DATA, 1);
}

/* A file's contents, malloc'ed; NULL: there is none. */
static void *file(struct fixture *f, const char *name, uint32_t *size)
{
	uint32_t count;
	struct {
		uint32_t size;
		uint16_t key, reserved;
		char name[56];
	} entry[32];
	void *data;

	fw_read(f, 0x19, &count, 4);
	count = be32toh(count);
	assert_true(count <= 32);
	fix_out(f->bus, SELECTOR, 0x19, 2);
	fix_in(f->bus, DATA, 1), fix_in(f->bus, DATA, 1), fix_in(f->bus, DATA, 1), fix_in(f->bus, DATA, 1);
	for (uint32_t i = 0; i < count * sizeof(entry[0]); i++)
		((uint8_t *)entry)[i] = (uint8_t)fix_in(f->bus, DATA, 1);
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(entry[i].name, name)) {
			*size = be32toh(entry[i].size);
			data = malloc(*size);
			fw_read(f, be16toh(entry[i].key), data, *size);
			return data;
		}
	return NULL;
}

static void test_image(void **state)
{
	struct fixture *f = *state;
	uint8_t low[0x20000];

	assert_int_equal(firmware_gpa(&f->firmware), 0xfffc0000);
	firmware_shadow(&f->firmware, &f->ram);
	assert_true(ram_read(&f->ram, 0xe0000, low, sizeof(low)));
	assert_memory_equal(low, f->firmware.rom + 0x20000, sizeof(low));
	assert_true(f->firmware.menu);
}

static void test_files(void **state)
{
	struct fixture *f = *state;
	uint32_t size;
	uint8_t *data;

	make_board(f, true);
	data = file(f, "pci1234,1111.rom", &size);
	assert_non_null(data);
	assert_int_equal(size, 1024);
	assert_int_equal(data[0] | data[1] << 8, 0xaa55);
	free(data);
	data = file(f, "etc/show-boot-menu", &size);
	assert_true(data && size == 1 && *data == 1);
	free(data);
	assert_null(file(f, "etc/sercon-port", &size));
	board_destroy(f->board);
	make_board(f, false);
	data = file(f, "etc/sercon-port", &size);
	assert_true(data && size == 2 && data[0] == 0xf8 && data[1] == 0x03);
	free(data);
}

/* Disks in the order they were given, whatever they are plugged into. */
static void test_boot_order(void **state)
{
	static const char expected[] = "/pci@i0cf8/pci8086,2922@1/drive@0/disk@0\n"
				       "/pci@i0cf8/scsi@2/disk@0,0\n"
				       "/pci@i0cf8/pci8086,2922@1/drive@1/disk@0";
	struct fixture *f = *state;
	const struct block_options options = {
		.path = f->path, .format = BLOCK_FORMAT_RAW, .readonly = true, .no_uring = true
	};
	struct board_disk disks[3] = { { .ahci = true }, { .ahci = false }, { .ahci = true } };
	struct board_config config = { .ram = &f->ram,
				       .cpus = 1,
				       .control = fix_control(&f->rec),
				       .disks = disks,
				       .disk_count = ARRAY_SIZE(disks),
				       .firmware = &f->firmware };
	char error[256];
	uint32_t size;
	void *text;

	make_board(f, false);
	assert_null(file(f, "bootorder", &size)); /* nothing to boot from */
	board_destroy(f->board);
	for (unsigned i = 0; i < ARRAY_SIZE(disks); i++)
		assert_int_equal(block_open(&options, &disks[i].block, error, sizeof(error)), 0);
	assert_int_equal(board_create(&config, &f->board), 0);
	f->bus = board_bus(f->board);
	board_reset(f->board);
	text = file(f, "bootorder", &size);
	assert_non_null(text);
	assert_int_equal(size, sizeof(expected));
	assert_memory_equal(text, expected, size);
	free(text);
	board_destroy(f->board);
	f->board = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(disks); i++)
		block_close(disks[i].block);
}

/* ---- the table script, carried out as firmware does ---- */

struct command {
	uint32_t what;
	uint8_t arg[124];
};

struct place {
	char name[56];
	uint8_t *data;
	uint32_t size, gpa;
};

static struct place *place_of(struct place places[2], const uint8_t *name)
{
	for (unsigned i = 0; i < 2; i++)
		if (places[i].data && !strcmp(places[i].name, (const char *)name))
			return &places[i];
	fail_msg("no file %s", name);
	return NULL;
}

static uint32_t word(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static void run_command(struct fixture *f, const struct command *c, struct place places[2], unsigned *count)
{
	struct place *in, *to;
	uint64_t value = 0;
	uint8_t sum = 0;

	switch (c->what) {
	case 1:
		assert_true(*count < 2);
		in = &places[*count];
		strcpy(in->name, (const char *)c->arg);
		in->data = file(f, in->name, &in->size);
		assert_non_null(in->data);
		in->gpa = *count ? 0x3ff0000 : 0xf5a30;
		assert_int_equal(in->gpa % word(c->arg + 56), 0);
		assert_int_equal(c->arg[60], *count ? 1 : 2);
		(*count)++;
		break;
	case 2:
		in = place_of(places, c->arg);
		to = place_of(places, c->arg + 56);
		assert_true(word(c->arg + 112) + c->arg[116] <= in->size);
		memcpy(&value, in->data + word(c->arg + 112), c->arg[116]);
		assert_true(value < to->size);
		value += to->gpa;
		memcpy(in->data + word(c->arg + 112), &value, c->arg[116]);
		break;
	case 3:
		in = place_of(places, c->arg);
		assert_true(word(c->arg + 60) + word(c->arg + 64) <= in->size);
		for (uint32_t i = 0; i < word(c->arg + 64); i++)
			sum += in->data[word(c->arg + 60) + i];
		in->data[word(c->arg + 56)] = (uint8_t)(in->data[word(c->arg + 56)] - sum);
		break;
	default: fail_msg("command %u", c->what);
	}
}

static void check_sum(const uint8_t *data, uint32_t size)
{
	uint8_t sum = 0;

	for (uint32_t i = 0; i < size; i++)
		sum += data[i];
	assert_int_equal(sum, 0);
}

/* The table at this address of the placed tables. */
static const uint8_t *table(const struct place *tables, uint64_t gpa, const char *signature)
{
	const uint8_t *t = tables->data + (gpa - tables->gpa);

	assert_true(gpa >= tables->gpa && gpa - tables->gpa + 36 <= tables->size);
	assert_true(word(t + 4) <= tables->size - (gpa - tables->gpa));
	if (signature)
		assert_memory_equal(t, signature, 4);
	if (memcmp(t, "FACS", 4))
		check_sum(t, word(t + 4));
	return t;
}

static void test_tables(void **state)
{
	struct fixture *f = *state;
	struct place places[2] = { 0 };
	struct acpi_rsdp rsdp;
	struct acpi_fadt fadt;
	struct command *script;
	const uint8_t *xsdt, *rsdt, *t;
	unsigned count = 0, fadts = 0;
	uint32_t size;

	make_board(f, true);
	script = file(f, "etc/table-loader", &size);
	assert_non_null(script);
	assert_int_equal(size % 128, 0);
	for (uint32_t i = 0; i < size / 128; i++)
		run_command(f, &script[i], places, &count);
	free(script);
	assert_int_equal(count, 2);
	memcpy(&rsdp, places[0].data, sizeof(rsdp));
	check_sum(places[0].data, 20);
	check_sum(places[0].data, 36);
	xsdt = table(&places[1], rsdp.xsdt, "XSDT");
	rsdt = table(&places[1], rsdp.rsdt, "RSDT");
	assert_int_equal((word(xsdt + 4) - 36) / 8, (word(rsdt + 4) - 36) / 4);
	for (uint32_t i = 0; i < (word(xsdt + 4) - 36) / 8; i++) {
		assert_int_equal(word(xsdt + 36 + 8 * i), word(rsdt + 36 + 4 * i));
		t = table(&places[1], word(xsdt + 36 + 8 * i), NULL);
		if (memcmp(t, "FACP", 4))
			continue;
		fadts++;
		memcpy(&fadt, t, sizeof(fadt));
		table(&places[1], fadt.dsdt, "DSDT");
		table(&places[1], fadt.firmware_ctrl, "FACS");
		assert_int_equal(fadt.firmware_ctrl % 64, 0);
		assert_true(!fadt.x_dsdt || fadt.x_dsdt == fadt.dsdt);
	}
	assert_int_equal(fadts, 1);
	free(places[0].data);
	free(places[1].data);
}

/* Firmware finds the machine as it comes from the reset line: no BAR has a place, no table lies in memory. */
static void test_untouched(void **state)
{
	struct fixture *f = *state;
	uint8_t low[16];

	make_board(f, true);
	fix_out(f->bus, 0xcf8, 0x80000810, 4); /* 0:1.0, BAR 0: the VGA */
	assert_int_equal(fix_in(f->bus, 0xcfc, 4) & ~UINT64_C(0xf), 0);
	assert_true(ram_read(&f->ram, 0xf0000, low, sizeof(low)));
	assert_true(!memcmp(low, (const uint8_t[16]){ 0 }, 16));
}

static void test_bad(void **state)
{
	struct fixture *f = *state;
	struct firmware fw;
	char path[64], text[240];
	uint8_t small[100] = { 0 };

	assert_int_equal(firmware_open(&fw, "/nonexistent/bios", false), -ENOENT);
	assert_int_equal(firmware_open(&fw, "/dev/null", false), -EINVAL);
	write_file(path, small, sizeof(small));
	assert_int_equal(firmware_open(&fw, path, false), -EINVAL);
	snprintf(text, sizeof(text), "%s,vgabios=%s", f->path, path);
	assert_int_equal(firmware_open(&fw, text, true), -EINVAL);
	snprintf(text, sizeof(text), "%s,menu=perhaps", f->path);
	assert_int_equal(firmware_open(&fw, text, true), -EINVAL);
	snprintf(text, sizeof(text), "%s,menu", f->path);
	assert_int_equal(firmware_open(&fw, text, true), -EINVAL);
	snprintf(text, sizeof(text), "%s,vgabio=x", f->path);
	assert_int_equal(firmware_open(&fw, text, true), -EINVAL);
	unlink(path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_image),  TEST(test_files),     TEST(test_boot_order),
		TEST(test_tables), TEST(test_untouched), TEST(test_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
