/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the board in the order they are created: where they are, which lines they have, what ACPI says of
 * them. The one place that knows.
 */
#include <errno.h>

#include "base/compiler.h"
#include "device/pflash.h"
#include "device/vga.h"
#include "machine/board_parts.h"
#include "machine/firmware.h"
#include "machine/firmware_vars.h"
#include "machine/ports.h"

static const char *const no_keys[] = { NULL };

/* ---- parts every board has ---- */

static int attach_serial(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_COM1, 8 } };

	(void)options;
	return board_attach(b, serial_create(b->timers, board_gsi(b, GSI_COM1), b->config.serial), where,
			    ARRAY_SIZE(where));
}

static void describe_serial(struct aml *aml)
{
	aml_device(aml, "COM1");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0501");
	aml_name(aml, "_UID");
	aml_integer(aml, 1);
	aml_crs(aml);
	aml_crs_io(aml, PORT_COM1, 8);
	aml_crs_irq(aml, GSI_COM1);
	aml_crs_end(aml);
	aml_end(aml);
}

/* Memory sizes where a PC's BIOS leaves them for its own use and for old loaders. */
static void cmos_init(uint8_t cmos[RTC_CMOS_SIZE], const struct board_config *c)
{
	uint64_t ext_kib = (c->ram->below_size - 0x100000) >> 10;
	uint64_t above_16m = c->ram->below_size > 0x1000000 ? (c->ram->below_size - 0x1000000) >> 16 : 0;
	uint64_t above_4g = c->ram->above_size >> 16;

	if (ext_kib > 0xffff)
		ext_kib = 0xffff;
	if (above_16m > 0xffff)
		above_16m = 0xffff;
	cmos[CMOS_SHUTDOWN] = 0;
	cmos[0x14] = 0x02; /* equipment: FPU */
	cmos[0x15] = (uint8_t)(LOW_RAM_END >> 10);
	cmos[0x16] = (uint8_t)(LOW_RAM_END >> 18);
	cmos[0x17] = cmos[0x30] = (uint8_t)ext_kib;
	cmos[0x18] = cmos[0x31] = (uint8_t)(ext_kib >> 8);
	cmos[0x34] = (uint8_t)above_16m;
	cmos[0x35] = (uint8_t)(above_16m >> 8);
	cmos[0x5b] = (uint8_t)above_4g;
	cmos[0x5c] = (uint8_t)(above_4g >> 8);
	cmos[0x5d] = (uint8_t)(above_4g >> 16);
	cmos[0x5f] = (uint8_t)(c->cpus - 1);
}

static int attach_rtc(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_RTC, 2 } };
	uint8_t cmos[RTC_CMOS_SIZE] = { 0 };

	(void)options;
	cmos_init(cmos, &b->config);
	return board_attach(b, rtc_create(b->timers, board_rtc_line(b), cmos), where, ARRAY_SIZE(where));
}

static void describe_rtc(struct aml *aml)
{
	aml_device(aml, "RTC");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0B00");
	aml_crs(aml);
	aml_crs_io(aml, PORT_RTC, 2);
	aml_crs_irq(aml, GSI_RTC);
	aml_crs_end(aml);
	aml_end(aml);
}

/* In the DSDT only with a keyboard, which a PNP0303 there is. The FADT says that the controller exists. */
static int attach_i8042(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_I8042_DATA, 1 },
					   { BUS_PIO, PORT_I8042_COMMAND, 1 },
					   { BUS_PIO, PORT_92, 1 } };

	(void)options;
	b->i8042 = i8042_create(board_gsi(b, GSI_KEYBOARD), b->config.control);
	if (b->i8042 && b->config.vga)
		i8042_plug_keyboard(b->i8042);
	return board_attach(b, b->i8042, where, ARRAY_SIZE(where));
}

void board_keyboard_describe(struct aml *aml)
{
	aml_device(aml, "KBD");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0303");
	aml_crs(aml);
	aml_crs_io(aml, PORT_I8042_DATA, 1);
	aml_crs_io(aml, PORT_I8042_COMMAND, 1);
	aml_crs_irq(aml, GSI_KEYBOARD);
	aml_crs_end(aml);
	aml_end(aml);
}

static int attach_vga(struct board *b, const struct options *options)
{
	const struct placement where[] = {
		[VGA_PORTS] = { BUS_PIO, VGA_PORT_BASE, VGA_PORT_COUNT },
		[VGA_WINDOW] = { BUS_MMIO, VGA_WINDOW_BASE, VGA_WINDOW_SIZE },
		[VGA_DISPI] = { BUS_PIO, VGA_DISPI_PORT, VGA_DISPI_PORT_COUNT },
	};
	int err;

	(void)options;
	if (!b->config.vga)
		return 0;
	b->vga = vga_create();
	err = board_attach(b, b->vga, where, ARRAY_SIZE(where));
	return err ? err : board_adopt(b, vga_pci_create(b->vga, b->pci));
}

static int attach_acpi_pm(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_PM1_EVENT, 4 },
					   { BUS_PIO, PORT_PM1_CONTROL, 2 },
					   { BUS_PIO, PORT_PM_TIMER, 4 } };

	(void)options;
	b->acpi_pm = acpi_pm_create(b->timers, board_gsi(b, GSI_SCI), b->config.control);
	return board_attach(b, b->acpi_pm, where, ARRAY_SIZE(where));
}

/* Ports of the machine itself, so that a guest does not give them to a device. */
static void describe_motherboard(struct aml *aml)
{
	aml_device(aml, "MBRD");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0C02");
	aml_crs(aml);
	aml_crs_io(aml, PORT_PM1_EVENT, 0x10);
	aml_crs_io(aml, PORT_92, 1);
	aml_crs_io(aml, PORT_RESET, 1);
	aml_crs_end(aml);
	aml_end(aml);
}

static int attach_reset_port(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_RESET, 1 } };

	(void)options;
	/* With PCI it is in the middle of the bridge's address register, which passes accesses on. */
	b->reset_port = reset_port_create(b->config.control);
	return board_attach(b, b->reset_port, where, b->config.kind == BOARD_PC ? 0 : ARRAY_SIZE(where));
}

static int attach_shutdown_port(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_SHUTDOWN, 1 } };

	(void)options;
	return board_attach(b, shutdown_port_create(b->config.control), where, ARRAY_SIZE(where));
}

static int attach_pvpanic(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_PVPANIC, 1 } };

	(void)options;
	return board_attach(b, pvpanic_create(b->config.control), where, ARRAY_SIZE(where));
}

#define STA_PRESENT_HIDDEN 0x0b /* present, enabled, working; not to be shown (ACPI 6.3.7) */

static void describe_pvpanic(struct aml *aml)
{
	aml_device(aml, "PEVT");
	aml_name(aml, "_HID");
	aml_string(aml, "QEMU0001");
	aml_name(aml, "_STA");
	aml_integer(aml, STA_PRESENT_HIDDEN);
	aml_crs(aml);
	aml_crs_io(aml, PORT_PVPANIC, 1);
	aml_crs_end(aml);
	aml_end(aml);
}

static int attach_fw_cfg(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, PORT_FW_CFG, 2 }, { BUS_PIO, PORT_FW_CFG_DMA, 8 } };
	int err;

	(void)options;
	b->fw_cfg = fw_cfg_create(b->config.ram);
	err = board_attach(b, b->fw_cfg, where, ARRAY_SIZE(where));
	return err ? err : fw_cfg_fill(b->fw_cfg, b);
}

static void describe_fw_cfg(struct aml *aml)
{
	aml_device(aml, "FWCF");
	aml_name(aml, "_HID");
	aml_string(aml, "QEMU0002");
	aml_name(aml, "_STA");
	aml_integer(aml, STA_PRESENT_HIDDEN);
	aml_crs(aml);
	aml_crs_io(aml, PORT_FW_CFG, PORT_FW_CFG_DMA + 8 - PORT_FW_CFG);
	aml_crs_end(aml);
	aml_end(aml);
}

/* What firmware keeps its variables in. */
static int attach_pflash(struct board *b, const struct options *options)
{
	const struct pflash_view view = { .show = b->config.accel.show_flash, .ctx = b->config.accel.ctx };
	const struct firmware *fw = b->config.firmware;
	const struct pflash_array *array;
	struct placement where = { .space = BUS_MMIO };

	(void)options;
	if (!fw || !fw->vars)
		return 0;
	array = firmware_vars_array(fw->vars);
	where.base = firmware_vars_gpa(fw);
	where.len = array->size;
	return board_attach(b, pflash_create(array, &view), &where, 1);
}

/* ---- parts that --device adds ---- */

static const char *const isa_debug_exit_keys[] = { "iobase", "iosize", NULL };

static int attach_isa_debug_exit(struct board *b, const struct options *options)
{
	struct placement where = { .space = BUS_PIO };
	int err = options_number(options, "iobase", 0x501, 0, 0xffff, &where.base);

	if (!err)
		err = options_number(options, "iosize", 2, 1, 0x10000, &where.len);
	if (err)
		return err;
	return board_attach(b, isa_debug_exit_create(b->config.control), &where, 1);
}

static int attach_pc_testdev(struct board *b, const struct options *options)
{
	const struct placement where[] = { { BUS_PIO, 0xe0, 4 },
					   { BUS_PIO, 0xe4, 4 },
					   { BUS_PIO, 0xe8, 4 },
					   { BUS_PIO, 0x2000, PC_TESTDEV_LINES },
					   { BUS_MMIO, 0xff000000, PC_TESTDEV_MMIO_SIZE } };

	(void)options;
	return board_attach(b, pc_testdev_create(b->config.gsi), where, ARRAY_SIZE(where));
}

const struct board_part board_parts[] = {
	{ "serial", ON_ALL, true, false, no_keys, attach_serial, describe_serial },
	{ "rtc", ON_ALL, true, false, no_keys, attach_rtc, describe_rtc },
	{ "hpet", ON_PC, true, true, no_keys, board_hpet_attach, board_hpet_describe },
	{ "i8042", ON_PC, true, false, no_keys, attach_i8042, NULL },
	{ "acpi-pm", ON_ALL, true, false, no_keys, attach_acpi_pm, describe_motherboard },
	{ "reset-port", ON_ALL, true, false, no_keys, attach_reset_port, NULL },
	{ "pci-host", ON_PC, true, false, no_keys, board_pci_attach, board_pci_describe },
	{ "ahci", ON_ALL, true, false, no_keys, board_ahci_attach, NULL },
	{ "vga", ON_PC, true, false, no_keys, attach_vga, NULL },
	{ "shutdown-port", ON_PC, true, false, no_keys, attach_shutdown_port, NULL },
	{ "pvpanic", ON_ALL, true, true, no_keys, attach_pvpanic, describe_pvpanic },
	{ "fw_cfg", ON_ALL, true, false, no_keys, attach_fw_cfg, describe_fw_cfg },
	{ "pflash", ON_PC, true, false, no_keys, attach_pflash, NULL },
	{ "isa-debug-exit", ON_ALL, false, true, isa_debug_exit_keys, attach_isa_debug_exit, NULL },
	{ "virtio-rng-pci", ON_PC, false, true, board_virtio_keys, board_virtio_attach, NULL },
	{ "virtio-rng-device", ON_MICROVM, false, true, board_virtio_keys, board_virtio_attach, NULL },
	{ "virtio-balloon-pci", ON_PC, false, true, board_balloon_keys, board_virtio_attach, NULL },
	{ "virtio-balloon-device", ON_MICROVM, false, true, board_balloon_keys, board_virtio_attach, NULL },
	{ "virtio-vsock-pci", ON_PC, false, true, board_vsock_keys, board_virtio_attach, NULL },
	{ "virtio-vsock-device", ON_MICROVM, false, true, board_vsock_keys, board_virtio_attach, NULL },
	{ "virtconsole", ON_ALL, false, true, board_no_keys, board_virtconsole_attach, NULL },
	{ "virtserialport", ON_ALL, false, true, board_port_keys, board_virtserialport_attach, NULL },
	{ "pc-testdev", ON_ALL, false, true, no_keys, attach_pc_testdev, NULL },
};
const unsigned board_part_count = ARRAY_SIZE(board_parts);

/* The same rows that `option` marks; board_create() checks names against board_parts, so this is for people only. */
const char *const *board_device_names(void)
{
	static const char *const names[] = { "hpet",
					     "isa-debug-exit",
					     "pc-testdev",
					     "pvpanic",
					     "virtconsole",
					     "virtio-balloon-device",
					     "virtio-balloon-pci",
					     "virtio-rng-device",
					     "virtio-rng-pci",
					     "virtio-vsock-device",
					     "virtio-vsock-pci",
					     "virtserialport",
					     NULL };

	return names;
}
