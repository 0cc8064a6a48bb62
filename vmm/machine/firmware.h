/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firmware that the machine starts with instead of a kernel (--firmware): its image ends at 4 GiB, and its last
 * 128 KiB are below 1 MiB as well. The flash with UEFI variables ends where the image begins.
 */
#ifndef VMM_MACHINE_FIRMWARE_H
#define VMM_MACHINE_FIRMWARE_H

#include "machine/image.h"
#include "machine/ram.h"

#define FIRMWARE_ALIGN 0x1000u
#define FIRMWARE_SIZE_MAX (8u << 20) /* the IOAPIC and the HPET are below */

struct firmware_vars;

struct firmware {
	uint8_t *rom; /* page aligned; NULL: none */
	uint32_t size;
	struct image vgabios;       /* data NULL: none */
	bool menu;                  /* let the user choose the boot device */
	struct firmware_vars *vars; /* NULL: none are kept */
};

/*
 * text: "PATH[,vgabios=PATH][,menu=on|off][,vars=PATH[,template=PATH]]". with_vga: the machine has a VGA, which a BIOS
 * needs a video BIOS for; without a path it is looked for beside the firmware. 0; or -errno with a message.
 */
int firmware_open(struct firmware *firmware, const char *text, bool with_vga);
void firmware_close(struct firmware *firmware);

uint64_t firmware_gpa(const struct firmware *firmware);      /* of the ROM */
uint64_t firmware_vars_gpa(const struct firmware *firmware); /* of their flash; vars is not NULL */
/* What the chipset lets be seen below 1 MiB, as shadow RAM. */
void firmware_shadow(const struct firmware *firmware, const struct guest_ram *ram);

struct device;
struct acpi_tables;
/* What firmware asks fw_cfg for; serial_console: there is no screen. 0, -ENOMEM, -EINVAL: malformed tables. */
int firmware_fill_fw_cfg(const struct firmware *firmware, struct device *fw_cfg, const struct acpi_tables *tables,
			 bool serial_console);

#endif
