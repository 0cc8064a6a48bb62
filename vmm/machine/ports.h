/* SPDX-License-Identifier: Apache-2.0 */
/* Where the board's fixed parts are: ports and GSIs. Seen by device_list.c and the ACPI tables only. */
#ifndef VMM_MACHINE_PORTS_H
#define VMM_MACHINE_PORTS_H

#define PORT_I8042_DATA 0x60
#define PORT_I8042_COMMAND 0x64
#define PORT_RTC 0x70
#define PORT_92 0x92
#define PORT_COM1 0x3f8
#define PORT_PVPANIC 0x505
#define PORT_FW_CFG 0x510
#define PORT_FW_CFG_DMA 0x514
#define PORT_PM1_EVENT 0x600
#define PORT_PM1_CONTROL 0x604
#define PORT_PM_TIMER 0x608
#define PORT_RESET 0xcf9
#define PORT_SHUTDOWN 0x8900

#define HPET_BASE 0xfed00000u

#define GSI_KEYBOARD 1
#define GSI_COM1 4
#define GSI_RTC 8
#define GSI_SCI 9

#define CMOS_SHUTDOWN 0x0f
#define CMOS_CENTURY 0x32

/* Conventional memory, in the BIOS's terms. */
#define EBDA_START 0x9fc00u
#define LOW_RAM_END 0xa0000u
#define BIOS_START 0xf0000u
#define BIOS_END 0x100000u

#endif
