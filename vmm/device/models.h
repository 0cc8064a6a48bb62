/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device models. Each create function gives a device in its power-on state, or NULL with errno. Regions
 * are numbered as listed; where they go and which lines they get is said in vmm/machine/device_list.c.
 */
#ifndef VMM_DEVICE_MODELS_H
#define VMM_DEVICE_MODELS_H

#include <stddef.h>

#include "device/device.h"
#include "device/timer.h"

struct chardev;
struct guest_ram;

/* 16550A UART. Region 0: 8 ports. backend may be NULL; its receive side is set here. */
struct device *serial_create(struct timer_service *timers, struct irq_line irq, struct chardev *backend);

/* MC146818 RTC with 128 bytes of CMOS. Region 0: index and data port. cmos: contents from 0x0e on count. */
#define RTC_CMOS_SIZE 128
struct device *rtc_create(struct timer_service *timers, struct irq_line irq, const uint8_t cmos[RTC_CMOS_SIZE]);

/*
 * HPET. Region 0: its 1 KiB of registers. gsi.set(ctx, n, level) drives GSI n: those of HPET_ROUTES, and 0 and 8 while
 * `legacy` is high, when the PIT and the RTC must leave them alone.
 */
#define HPET_SIZE 0x400
#define HPET_ROUTES UINT32_C(0x00f00000)
#define HPET_ID UINT32_C(0x8086a201) /* low half of the capabilities, for the ACPI table */
struct device *hpet_create(struct timer_service *timers, struct irq_line gsi, struct irq_line legacy);

/* 8042 keyboard controller, nothing plugged in at first. Region 0: data (0x60); 1: command/status (0x64); 2: port 0x92.
 */
struct device *i8042_create(struct irq_line irq1, struct machine_control control);
void i8042_plug_keyboard(struct device *dev); /* before the guest runs */
/* A key by its set 1 code, 0x100 more with the prefix e0. False: no room, ask again. Thread: any, device not locked. */
bool i8042_key(struct device *dev, uint16_t key, bool down);

/* ACPI fixed hardware. Region 0: PM1 event block (4 bytes); 1: PM1 control (2); 2: PM timer (4). */
#define ACPI_SLP_TYP_S3 1 /* what \_S3 says */
#define ACPI_SLP_TYP_S5 5 /* what \_S5 says */
struct device *acpi_pm_create(struct timer_service *timers, struct irq_line sci, struct machine_control control);
void acpi_pm_power_button(struct device *dev);
void acpi_pm_rtc_alarm(struct device *dev); /* the RTC's interrupt is raised */
/*
 * S3 (ACPI 6.4, 7.4.2.2). From sleep to wake an enabled event raises no SCI but asks once for MACHINE_WAKE, and a
 * reset leaves the events and their enables alone.
 */
void acpi_pm_sleep(struct device *dev);
void acpi_pm_wake(struct device *dev);

/* Reset control register. Region 0: port 0xcf9; bit 1 hard/soft, bit 2 resets. */
#define RESET_PORT_VALUE 6
struct device *reset_port_create(struct machine_control control);

/* Region 0: one port; the letters of "Shutdown" written one after the other power off. */
struct device *shutdown_port_create(struct machine_control control);

/* pvpanic. Region 0: one port. */
struct device *pvpanic_create(struct machine_control control);

/* Region 0: a write of v ends the program with (v << 1) | 1. */
struct device *isa_debug_exit_create(struct machine_control control);

/* Region 0: latch (4); 1: page flush (4); 2: latch byte by byte (4); 3: IRQ lines (24); 4: RAM as MMIO (64 KiB). */
#define PC_TESTDEV_LINES 24
#define PC_TESTDEV_MMIO_SIZE 0x10000
struct device *pc_testdev_create(struct irq_line gsi);

/* fw_cfg. Region 0: selector (offset 0, 16 bits) and data (offset 1); 1: DMA address (8 bytes, big endian). */
struct device *fw_cfg_create(const struct guest_ram *ram);
/* Before the guest runs: 0, -ENOMEM, -EEXIST; -EINVAL: name too long. */
int fw_cfg_add(struct device *dev, uint16_t key, const void *data, uint32_t size); /* data must outlive dev */
int fw_cfg_add_copy(struct device *dev, uint16_t key, const void *data, uint32_t size);
int fw_cfg_add_value(struct device *dev, uint16_t key, uint64_t value, unsigned size); /* little endian, size bytes */
int fw_cfg_add_file(struct device *dev, const char *name, const void *data, uint32_t size); /* copied */

#endif
