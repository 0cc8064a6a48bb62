/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (ACPI 6.4, 4.8): PM1 event and control registers and the power management timer. There is no
 * SMI and no legacy mode: SCI_EN is always set. The SCI is a level.
 */
#include <stdlib.h>

#include "base/compiler.h"
#include "device/models.h"

enum { REGION_EVENT, REGION_CONTROL, REGION_TIMER };

/* PM1 status (4.8.3.1.1) and, at the same bits, enable (4.8.3.1.2) */
#define PM1_TMR 0x0001

#define PM1_GBL 0x0020
#define PM1_PWRBTN 0x0100
#define PM1_RTC 0x0400
#define PM1_WAK 0x8000 /* status only */

#define PM1_EN_BITS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC)

/* PM1 control (4.8.3.2.1) */
#define CNT_SCI_EN 0x0001
#define CNT_BM_RLD 0x0002
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_TYP 0x1c00
#define CNT_SLP_EN 0x2000
#define CNT_STORED (CNT_BM_RLD | CNT_SLP_TYP)

#define PM_TIMER_HZ 3579545u
#define TIMER_CARRY_BIT 31 /* TMR_VAL_EXT: a 32-bit timer */

struct acpi_pm {
	struct device dev;
	struct irq_line sci;
	struct machine_control control;
	struct device_timer timer;
	uint16_t status, enable, cnt;
	uint64_t carries; /* times the timer's top bit changed, up to which TMR_STS is known */
	bool sci_level;
	bool asleep, wake_asked;
};

static uint64_t pm_ticks(const struct acpi_pm *pm)
{
	return (uint64_t)((unsigned __int128)timer_now(pm->timer.service) * PM_TIMER_HZ / NS_PER_SEC);
}

/* TMR_STS is set whenever the top bit changes (4.8.2.1). */
static void sync_timer(struct acpi_pm *pm)
{
	uint64_t carries = pm_ticks(pm) >> TIMER_CARRY_BIT;

	if (carries != pm->carries)
		pm->status |= PM1_TMR;
	pm->carries = carries;
}

static void update_sci(struct acpi_pm *pm)
{
	bool level;

	sync_timer(pm);
	level = pm->status & pm->enable;
	if (pm->asleep) {
		if (level && !pm->wake_asked)
			pm->control.request(pm->control.ctx, MACHINE_WAKE, 0);
		pm->wake_asked |= level;
		level = false;
	}
	if (level != pm->sci_level) {
		pm->sci_level = level;
		irq_line_set(&pm->sci, level);
	}
	if ((pm->enable & PM1_TMR) && !(pm->status & PM1_TMR)) {
		unsigned __int128 ticks = (unsigned __int128)(pm->carries + 1) << TIMER_CARRY_BIT;

		timer_arm(&pm->timer, (uint64_t)(ticks * NS_PER_SEC / PM_TIMER_HZ) + 1);
	} else {
		timer_disarm(&pm->timer);
	}
}

static void timer_expired(struct device *dev)
{
	update_sci(container_of(dev, struct acpi_pm, dev));
}

static uint64_t acpi_pm_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
	uint32_t value;

	(void)size;
	update_sci(pm);
	switch (region) {
	case REGION_EVENT: value = pm->status | (uint32_t)pm->enable << 16; break;
	case REGION_CONTROL: value = pm->cnt | CNT_SCI_EN; break;
	default: value = (uint32_t)pm_ticks(pm); break;
	}
	return value >> (8 * offset); /* the bus takes the low `size` bytes */
}

static void write_control(struct acpi_pm *pm, uint32_t value, uint32_t mask)
{
	pm->cnt = (uint16_t)(((pm->cnt & ~mask) | (value & mask)) & CNT_STORED);
	if (!(value & mask & CNT_SLP_EN))
		return;
	switch ((pm->cnt & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT) {
	case ACPI_SLP_TYP_S3: pm->control.request(pm->control.ctx, MACHINE_SLEEP, 0); break;
	case ACPI_SLP_TYP_S5: pm->control.request(pm->control.ctx, MACHINE_POWEROFF, 0); break;
	}
}

static void acpi_pm_write(struct device *dev, unsigned region, uint64_t offset, uint64_t data, unsigned size)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
	uint32_t mask = (uint32_t)((BIT64(8 * size) - 1) << (8 * offset));
	uint32_t value = (uint32_t)(data << (8 * offset)) & mask;

	sync_timer(pm);
	switch (region) {
	case REGION_EVENT:
		pm->status &= (uint16_t)~value; /* write one to clear */
		pm->enable = (uint16_t)((((uint32_t)pm->enable << 16 & ~mask) | value) >> 16) & PM1_EN_BITS;
		break;
	case REGION_CONTROL: write_control(pm, value, mask); break;
	default: break; /* the timer is read-only */
	}
	update_sci(pm);
}

static void raise_event(struct device *dev, uint16_t event)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	device_lock(dev);
	pm->status |= event;
	update_sci(pm);
	device_unlock(dev);
}

void acpi_pm_power_button(struct device *dev)
{
	raise_event(dev, PM1_PWRBTN);
}

void acpi_pm_rtc_alarm(struct device *dev)
{
	raise_event(dev, PM1_RTC);
}

void acpi_pm_sleep(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	device_lock(dev);
	pm->asleep = true;
	pm->wake_asked = false;
	update_sci(pm);
	device_unlock(dev);
}

void acpi_pm_wake(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	device_lock(dev);
	pm->asleep = false;
	pm->status |= PM1_WAK;
	update_sci(pm);
	device_unlock(dev);
}

static void acpi_pm_reset(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	if (!pm->asleep)
		pm->status = pm->enable = 0;
	pm->cnt = 0;
	pm->carries = pm_ticks(pm) >> TIMER_CARRY_BIT;
	update_sci(pm);
}

static void acpi_pm_destroy(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	device_fini(dev);
	free(pm);
}

static const struct device_ops acpi_pm_ops = {
	.name = "acpi-pm",
	.min_size = 1,
	.max_size = 4,
	.reset = acpi_pm_reset,
	.read = acpi_pm_read,
	.write = acpi_pm_write,
	.destroy = acpi_pm_destroy,
};

struct device *acpi_pm_create(struct timer_service *timers, struct irq_line sci, struct machine_control control)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return NULL;
	device_init(&pm->dev, &acpi_pm_ops);
	pm->sci = sci;
	pm->control = control;
	timer_init(&pm->timer, timers, &pm->dev, timer_expired);
	acpi_pm_reset(&pm->dev);
	return &pm->dev;
}
